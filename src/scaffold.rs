//! What `solewriter init` writes: keys, configurations and a sample policy for a working deployment.
//! `demo` and the load tool run on the same.

mod operator;
mod tenants;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::audit::stream;
pub use crate::operator::picture::SERVER_CONFIG;
use crate::passes;
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::keys::{Account, Curve, CurveSecret, Role, Seed, Signer, User};
use solewriter_core::policy::validate::validate;

/// solewriter's settings, as they are written.
pub const SETTINGS: &str = include_str!("../deploy/solewriter.toml");
const POLICY: &str = include_str!("../policy/services.toml");
const POLICY_TESTS: &str = include_str!("../policy/services.test.toml");
/// The services of the sample policy, each with the sample key that `init` replaces.
const SAMPLE_SERVICES: [&str; 8] =
    ["orders", "billing", "quotes", "warehouse", "printing", "archive", "violations", "auditor"];

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Files that are there already.
    #[error("nothing was written, because these files exist: {}", .0.join(", "))]
    Exists(Vec<String>),
    /// A value that a configuration file cannot hold.
    #[error("{0:?} cannot be used: {1}")]
    Value(String, &'static str),
    /// The file system said no.
    #[error("{0} cannot be written: {1}")]
    Io(PathBuf, std::io::Error),
    /// The accounts could not be read.
    #[error("the accounts cannot be written as JWTs: {0}")]
    Accounts(String),
    /// A JWT could not be written.
    #[error("a JWT could not be written: {0}")]
    Jwt(#[from] solewriter_core::callout::jwt::JwtError),
    /// A new key could not be used.
    #[error("a key could not be made: {0}")]
    Key(#[from] solewriter_core::keys::KeyError),
}

/// Where everything is, once written.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// The folder, as an absolute path.
    pub dir: PathBuf,
}

impl Deployment {
    /// nats-server's configuration.
    #[must_use]
    pub fn server_config(&self) -> PathBuf {
        self.dir.join("nats-server.conf")
    }

    /// solewriter's settings.
    #[must_use]
    pub fn settings(&self) -> PathBuf {
        self.dir.join("solewriter.toml")
    }

    /// The settings of a tenant.
    #[must_use]
    pub fn settings_of(&self, tenant: &str) -> PathBuf {
        self.dir.join("tenants").join(format!("{tenant}.toml"))
    }

    /// The policy's folder; where there are tenants, with a folder for each.
    #[must_use]
    pub fn policy(&self) -> PathBuf {
        self.dir.join("policy")
    }

    /// The seed file of that name: `admin`, or a service of the sample policy; of a tenant, with its
    /// name before it, as `shop-admin`.
    #[must_use]
    pub fn seed_file(&self, name: &str) -> PathBuf {
        self.dir.join("keys").join(format!("{name}.nk"))
    }
}

/// A file to write.
pub struct Output {
    path: PathBuf,
    text: zeroize::Zeroizing<String>,
    secret: bool,
}

impl Output {
    /// A file that everybody may read, or, if it is secret, its owner alone.
    #[must_use]
    pub fn new(path: PathBuf, text: impl Into<String>, secret: bool) -> Self {
        Self { path, text: text.into().into(), secret }
    }

    /// Where it goes.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Writes files into a folder, all of them or none.
///
/// # Errors
/// [`InitError`]; then nothing of it is left behind.
pub fn write_all(dir: &Path, outputs: &[Output]) -> Result<(), InitError> {
    let existing: Vec<String> = outputs
        .iter()
        .filter(|o| o.path.symlink_metadata().is_ok())
        .map(|o| o.path.display().to_string())
        .collect();
    if !existing.is_empty() {
        return Err(InitError::Exists(existing));
    }
    // Before the keys' folder, which only its owner may enter.
    std::fs::create_dir_all(dir).map_err(|e| InitError::Io(dir.to_owned(), e))?;
    let mut written = Vec::new();
    for output in outputs {
        if let Err(error) = write_new(output) {
            for path in &written {
                // What was made a moment ago is removed; what cannot be is named by the error.
                let _ = std::fs::remove_file(path);
            }
            return Err(InitError::Io(output.path.clone(), error));
        }
        written.push(output.path.clone());
    }
    Ok(())
}

/// What to write, and where.
#[derive(Clone, Debug)]
pub struct Scaffold {
    /// Folder to write to; made if it is not there.
    pub dir: PathBuf,
    /// Where nats-server will listen.
    pub nats_listen: String,
    /// Where solewriter's health and metrics will listen.
    pub http_listen: SocketAddr,
    /// The name of the server.
    pub server_name: String,
    /// Whether accounts are JWTs that an operator signs.
    pub operator: bool,
    /// The tenants; none for one policy.
    pub tenants: Vec<String>,
}

/// What is made for one policy.
struct Made {
    /// Its text, with keys of its own.
    policy: String,
    /// nats-server's configuration, with the lines of its streams.
    server: String,
}

impl Scaffold {
    /// For one policy, with accounts in the server's configuration, on loopback, at ports that the system
    /// picks.
    #[must_use]
    pub fn on_any_port(dir: PathBuf, server_name: &str) -> Self {
        Self {
            dir,
            nats_listen: "127.0.0.1:-1".to_owned(),
            http_listen: ([127, 0, 0, 1], 0).into(),
            server_name: server_name.to_owned(),
            operator: false,
            tenants: Vec::new(),
        }
    }

    /// Writes the deployment.
    ///
    /// # Errors
    /// [`InitError`]; then nothing of it is left behind.
    pub fn write(&self) -> Result<Deployment, InitError> {
        for value in [&self.nats_listen, &self.server_name] {
            let plain = |c: char| c.is_ascii_alphanumeric() || ".:-_[]".contains(c);
            if value.is_empty() || !value.chars().all(plain) {
                return Err(InitError::Value(value.clone(), "use letters, digits, `.`, `-`, `_`"));
            }
        }
        if !is_address(&self.nats_listen) {
            let help = "--nats-listen takes HOST:PORT, such as 127.0.0.1:4222 (port -1: any)";
            return Err(InitError::Value(self.nats_listen.clone(), help));
        }
        if self.nats_listen == self.http_listen.to_string() {
            let help = "--nats-listen and --http-listen must differ";
            return Err(InitError::Value(self.nats_listen.clone(), help));
        }
        let dir = std::path::absolute(&self.dir).map_err(|e| InitError::Io(self.dir.clone(), e))?;
        if dir.to_str().is_none_or(|d| d.contains(['"', '\\', '\n', '\r'])) {
            let shown = dir.display().to_string();
            return Err(InitError::Value(shown, "a configuration file cannot hold this path"));
        }
        let outputs = self.outputs(&dir)?;
        write_all(&dir, &outputs)?;
        Ok(Deployment { dir })
    }

    fn outputs(&self, dir: &Path) -> Result<Vec<Output>, InitError> {
        let mut outputs = Vec::new();
        let issuer = Seed::<Account>::generate();
        let issuer_signer = Signer::new(&issuer)?;
        let issuer_key = issuer_signer.public();
        outputs.push(seed_output(dir, "issuer.nk", &issuer));
        let xkey = Seed::<Curve>::generate();
        let xkey_public = CurveSecret::new(&xkey)?.public().to_string();
        outputs.push(seed_output(dir, "callout.xk", &xkey));
        let mut users = Vec::new();
        let mut user = |name: &str| -> Result<String, InitError> {
            let seed = Seed::<User>::generate();
            let key = Signer::new(&seed)?.public().to_string();
            users.push((name.to_owned(), seed));
            Ok(key)
        };
        let tenants = tenants::Tenant::all(&self.tenants)?;
        let mut values = format!(
            "# What differs from one deployment to the next. Public keys only; nothing here is \
             secret.\n\nNODE_NAME: \"{}\"\nCLIENT_LISTEN: \"{}\"\nJETSTREAM_DIR: \"{}\"\n\n\
             ISSUER_KEY: {issuer_key}\nCALLOUT_KEY: {}\nSYSTEM_KEY: {}\nCALLOUT_XKEY: {xkey_public}\n",
            self.server_name,
            self.nats_listen,
            dir.join("jetstream").display(),
            user("callout")?,
            user("system")?,
        );
        let (mut alone, mut shared) = (None, Vec::new());
        let each =
            if tenants.is_empty() { vec![None] } else { tenants.into_iter().map(Some).collect() };
        for tenant in each {
            let owned = |name: &str| match &tenant {
                None => name.to_owned(),
                Some(tenant) => format!("{}-{name}", tenant.name()),
            };
            // Without tenants, the callout's user does what a tenant's would.
            let own = tenants::USERS.iter().filter(|user| tenant.is_some() || user.0 != "callout");
            for (name, value) in own {
                let value = tenant.as_ref().map_or_else(|| (*value).to_owned(), |t| t.value(value));
                values += &format!("{value}: {}\n", user(&owned(name))?);
            }
            let Made { mut policy, server } = made_for(|service| user(&owned(service)))?;
            let mut folder = dir.join("policy");
            if let Some(tenant) = &tenant {
                // It is one folder further down.
                policy = policy.replace("../schema/", "../../schema/");
                folder = folder.join(tenant.name());
            }
            outputs.extend([
                Output::new(folder.join("services.toml"), policy, false),
                Output::new(folder.join("services.test.toml"), POLICY_TESTS, false),
            ]);
            match tenant {
                None => alone = Some(server),
                Some(tenant) => shared.push((tenant, server)),
            }
        }
        let (server, settings, placed) = if let Some(server) = alone {
            let placed = vec![("APP".to_owned(), "app.nk".to_owned())];
            (server, SETTINGS.replace("../schema/", "schema/"), placed)
        } else {
            let placed = shared.iter().map(|(t, _)| (t.account("APP"), t.seed("app")));
            let settings = tenants::settings(&shared).replace("../../schema/", "schema/");
            (tenants::server_config(&shared), settings, placed.collect())
        };
        let settings = settings
            .replace("127.0.0.1:4222", &self.nats_listen)
            .replace("127.0.0.1:9980", &self.http_listen.to_string());
        let given = operator::Given {
            server: &server,
            values: &values,
            settings: &settings,
            issuer: &issuer_signer,
            xkey: &xkey_public,
            users: &users,
            placed: &placed,
        };
        outputs.extend(self.configured(&given, dir)?);
        for (tenant, _) in &shared {
            let settings = tenant.settings();
            let settings = if self.operator { given.with_credentials(&settings) } else { settings };
            let path = dir.join(format!("tenants/{}.toml", tenant.name()));
            outputs.push(Output::new(path, settings, false));
        }
        outputs.extend(beside(dir));
        Ok(outputs)
    }

    /// The server's configuration, the settings, and the secrets of everybody in them.
    fn configured(
        &self,
        given: &operator::Given<'_>,
        dir: &Path,
    ) -> Result<Vec<Output>, InitError> {
        if self.operator {
            return given.outputs(dir, jiff::Timestamp::now().as_second());
        }
        let operator::Given { server, values, settings, users, .. } = given;
        let seeds = users.iter();
        let seeds = seeds.map(|(name, seed)| seed_output(dir, &format!("{name}.nk"), seed));
        let files = [
            ("deployment.conf", values),
            ("nats-server.conf", server),
            ("solewriter.toml", settings),
        ];
        let files = files.map(|(path, text)| Output::new(dir.join(path), *text, false));
        Ok(seeds.chain(files).collect())
    }
}

/// The sample policy with new keys, each made by `user`, and nats-server's configuration for it.
fn made_for(mut user: impl FnMut(&str) -> Result<String, InitError>) -> Result<Made, InitError> {
    let mut policy = POLICY.to_owned();
    for service in SAMPLE_SERVICES {
        if let Some(sample) = sample_key(POLICY, service) {
            policy = policy.replace(sample, &user(service)?);
        }
    }
    let kept = validate(&[SourceFile::new("services.toml", policy.clone())]).ok();
    let server = passes::in_config(SERVER_CONFIG, kept.as_ref().map(|kept| &kept.policy));
    Ok(Made { policy, server })
}

/// What stands beside the policy and the settings.
fn beside(dir: &Path) -> impl Iterator<Item = Output> {
    let [events, services] = stream::documents();
    [
        (".gitignore", "/keys/\n/jetstream/\n/audit-spool*/\n/*.kept*\n".to_owned()),
        ("audit-stream.json", events),
        ("audit-services-stream.json", services),
        ("schema/policy.schema.json", crate::schema::policy()),
        ("schema/settings.schema.json", crate::schema::settings()),
    ]
    .map(|(path, text)| Output::new(dir.join(path), text, false))
    .into_iter()
}

/// Whether nats-server takes it as `listen`.
fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<i32>().is_ok_and(|p| p == -1 || (1..=65_535).contains(&p))
    })
}

/// The key that stands in the sample policy for a service.
fn sample_key<'a>(policy: &'a str, service: &str) -> Option<&'a str> {
    let table = policy.split_once(&format!("[service.{service}]"))?.1;
    table.split_once("nkeys = [\"")?.1.split_once('"').map(|(key, _)| key)
}

/// A seed in the `keys` of a folder.
pub fn seed_output<K: Role>(dir: &Path, name: &str, seed: &Seed<K>) -> Output {
    let text = zeroize::Zeroizing::new(format!("{}\n", seed.expose()));
    Output { path: dir.join("keys").join(name), text, secret: true }
}

/// Creates a secret file, which must not exist.
///
/// # Errors
/// What the file system says.
pub fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let text = zeroize::Zeroizing::new(text.to_owned());
    write_new(&Output { path: path.to_owned(), text, secret: true })
}

/// Creates a file that is no secret, which must not exist.
///
/// # Errors
/// What the file system says.
pub fn write_plain(path: &Path, text: &str) -> std::io::Result<()> {
    let text = zeroize::Zeroizing::new(text.to_owned());
    write_new(&Output { path: path.to_owned(), text, secret: false })
}

/// Creates a file that must not exist, readable by its owner only when it is secret.
fn write_new(output: &Output) -> std::io::Result<()> {
    if let Some(parent) = output.path.parent() {
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        if output.secret {
            use std::os::unix::fs::DirBuilderExt;
            builder.mode(0o700);
        }
        builder.recursive(true).create(parent)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if output.secret {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options.open(&output.path)?;
    file.write_all(output.text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaffold(dir: &Path) -> Scaffold {
        Scaffold::on_any_port(dir.to_owned(), "n1")
    }

    #[test]
    fn writes_once_and_never_over_anything() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("new");
        let deployment = scaffold(&target).write().unwrap();
        let policy = std::fs::read_to_string(deployment.policy().join("services.toml")).unwrap();
        for service in SAMPLE_SERVICES {
            let sample = sample_key(POLICY, service).unwrap();
            assert!(!policy.contains(sample), "{service} still has the sample key");
        }
        assert_eq!(policy.matches("[service.").count(), SAMPLE_SERVICES.len());
        let server = std::fs::read_to_string(deployment.server_config()).unwrap();
        for subject in ["events.>", "jobs.>"] {
            let line = format!("{{ service: {{ account: STATE, subject: \"{subject}\" }} }}\n");
            assert!(server.contains(&line), "{server}");
        }
        let before = std::fs::read_to_string(deployment.seed_file("issuer")).unwrap();
        let error = scaffold(&target).write().unwrap_err().to_string();
        for (file, schema) in [("policy/services.toml", "policy"), ("solewriter.toml", "settings")]
        {
            // Where an editor looks for it, from the file.
            let file = deployment.dir.join(file);
            let text = std::fs::read_to_string(&file).unwrap();
            let named = text.lines().next().unwrap().strip_prefix("#:schema ").unwrap();
            assert!(file.with_file_name(named).is_file(), "{schema}: {named}");
        }
        assert!(error.contains("issuer.nk") && error.contains("solewriter.toml"), "{error}");
        assert_eq!(std::fs::read_to_string(deployment.seed_file("issuer")).unwrap(), before);
    }

    #[test]
    fn one_file_in_the_way_leaves_nothing_written() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("solewriter.toml"), "mine").unwrap();
        assert!(
            matches!(scaffold(dir.path()).write(), Err(InitError::Exists(files)) if files.len() == 1)
        );
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(std::fs::read_to_string(dir.path().join("solewriter.toml")).unwrap(), "mine");
    }

    #[cfg(unix)]
    #[test]
    fn seeds_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let deployment = scaffold(dir.path()).write().unwrap();
        let mut seen = 0;
        for entry in std::fs::read_dir(deployment.dir.join("keys")).unwrap() {
            let path = entry.unwrap().path();
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", path.display());
            seen += 1;
        }
        assert_eq!(seen, 7 + SAMPLE_SERVICES.len());
    }

    #[test]
    fn refuses_what_would_break_a_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let bad = Scaffold { server_name: "a\" b".to_owned(), ..scaffold(dir.path()) };
        assert!(matches!(bad.write(), Err(InitError::Value(..))));
        for address in ["garbage", "14322", ":4222", "127.0.0.1:99999", "nats://x", "127.0.0.1:0"] {
            let bad = Scaffold { nats_listen: address.to_owned(), ..scaffold(dir.path()) };
            assert!(matches!(bad.write(), Err(InitError::Value(..))), "{address}");
        }
    }
}
