//! Settings: one TOML file, each setting overridable by environment and flag, parsed into final
//! types once.
//!
//! An override is read by the same code as the file: it becomes a small TOML text of its own,
//! named after its flag, so that it is checked and reported alike.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use zeroize::Zeroizing;

use crate::keys::{Curve, Role, Seed, Signer, User};
use crate::permissions::Defaults;
use crate::source::{Collector, Problem, Problems, SourceFile, Span, Spanned, toml};
use crate::telemetry::LogFormat;

/// The largest settings or seed file read, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// What a setting holds, so that an override can be written as TOML.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Path,
    List,
    Number,
    Flag,
}

/// One setting: where it stands in the file, and its help.
struct Setting {
    table: &'static str,
    key: &'static str,
    kind: Kind,
    help: &'static str,
}

const fn setting(
    table: &'static str,
    key: &'static str,
    kind: Kind,
    help: &'static str,
) -> Setting {
    Setting { table, key, kind, help }
}

/// Every setting, in the order of the file. `docs/settings.md` is checked against it.
const SETTINGS: [Setting; 25] = [
    setting("nats", "servers", Kind::List, "nats-server addresses, separated by commas"),
    setting("nats", "nkey_seed", Kind::Path, "file with the callout user's seed"),
    setting("nats", "credentials", Kind::Path, "credentials (.creds) file, instead of nkey_seed"),
    setting("nats", "queue_group", Kind::Text, "queue group that instances share [solewriter]"),
    setting("nats", "name", Kind::Text, "name of the connection [solewriter]"),
    setting("nats.tls", "required", Kind::Flag, "refuse a connection without TLS [false]"),
    setting("nats.tls", "first", Kind::Flag, "TLS handshake before the server's INFO [false]"),
    setting("nats.tls", "ca", Kind::Path, "PEM file with the certificate authorities to trust"),
    setting("nats.tls", "cert", Kind::Path, "PEM file with the client certificate"),
    setting("nats.tls", "key", Kind::Path, "PEM file with the client certificate's key"),
    setting("issuer", "seed", Kind::Path, "file with the issuer account's seed"),
    setting("xkey", "seed", Kind::Path, "file with the curve seed that opens sealed requests"),
    setting("system", "nkey_seed", Kind::Path, "file with the system account user's seed"),
    setting("policy", "directory", Kind::Path, "directory of policy files"),
    setting("policy", "poll", Kind::Text, "how often to look for changes no event told of [10s]"),
    setting("grants", "account", Kind::Text, "account that services are placed in [APP]"),
    setting("grants", "lifetime", Kind::Text, "how long permissions last [1h]"),
    setting("grants", "jitter_percent", Kind::Number, "at most this much off a lifetime [10]"),
    setting("limits", "pending", Kind::Number, "requests waiting at most; more are dropped [4096]"),
    setting("limits", "patience", Kind::Text, "drop a request that waited longer [2s]"),
    setting("limits", "clock_leeway", Kind::Text, "how far servers' clocks may be behind [2s]"),
    setting("limits", "drain", Kind::Text, "time to finish what was taken on at stop [10s]"),
    setting(
        "http",
        "listen",
        Kind::Text,
        "address for health and metrics, or off [127.0.0.1:9980]",
    ),
    setting("log", "format", Kind::Text, "auto, text or json [auto]"),
    setting("log", "filter", Kind::Text, "level or tracing directives [info,async_nats=warn]"),
];

/// What is logged unless told otherwise: async-nats repeats at INFO what is logged here anyway.
const DEFAULT_FILTER: &str = "info,async_nats=warn";

/// Environment variables that hold a seed itself, for platforms that hand secrets over so.
const NATS_SEED_VALUE: &str = "SOLEWRITER_NATS_NKEY_SEED_VALUE";
const ISSUER_SEED_VALUE: &str = "SOLEWRITER_ISSUER_SEED_VALUE";
const XKEY_SEED_VALUE: &str = "SOLEWRITER_XKEY_SEED_VALUE";
const SYSTEM_SEED_VALUE: &str = "SOLEWRITER_SYSTEM_NKEY_SEED_VALUE";

impl Setting {
    /// `nats-tls-ca`.
    fn flag(&self) -> String {
        format!("{}-{}", self.table, self.key).replace(['.', '_'], "-")
    }

    /// `SOLEWRITER_NATS_TLS_CA`.
    fn variable(&self) -> String {
        format!("solewriter_{}_{}", self.table, self.key).replace('.', "_").to_uppercase()
    }

    /// The override as a TOML text.
    fn document(&self, value: &str) -> SourceFile {
        let quote = |text: &str| ::toml::Value::String(text.trim().to_owned()).to_string();
        let toml = match self.kind {
            Kind::Text | Kind::Path => quote(value),
            Kind::List => {
                let items: Vec<String> = value.split(',').map(quote).collect();
                format!("[{}]", items.join(", "))
            }
            Kind::Number | Kind::Flag => value.trim().replace(['\n', '\r'], " "),
        };
        let name = format!("--{} or {}", self.flag(), self.variable());
        SourceFile::new(name, format!("[{}]\n{} = {toml}\n", self.table, self.key))
    }
}

/// Values given by flag or environment.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    documents: Vec<SourceFile>,
}

impl clap::FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut documents = Vec::new();
        for setting in &SETTINGS {
            if let Some(value) = matches.get_one::<String>(&setting.flag()) {
                documents.push(setting.document(value));
            }
        }
        Ok(Self { documents })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Overrides {
    fn augment_args(command: Command) -> Command {
        SETTINGS.iter().fold(command.next_help_heading("Settings (over the file's)"), |c, s| {
            c.arg(
                Arg::new(s.flag())
                    .long(s.flag())
                    .env(OsString::from(s.variable()))
                    .help(s.help)
                    .value_name(match s.kind {
                        Kind::Text => "TEXT",
                        Kind::Path => "FILE",
                        Kind::List => "LIST",
                        Kind::Number => "NUMBER",
                        Kind::Flag => "true|false",
                    })
                    .action(ArgAction::Set)
                    .hide_env_values(true)
                    .hide_short_help(true),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Settings as read, from one text; `None` where it says nothing.
#[derive(Default)]
struct Raw {
    servers: Option<Vec<Spanned<String>>>,
    nats_seed: Option<Spanned<PathBuf>>,
    credentials: Option<Spanned<PathBuf>>,
    queue_group: Option<Spanned<String>>,
    name: Option<Spanned<String>>,
    tls_required: Option<Spanned<bool>>,
    tls_first: Option<Spanned<bool>>,
    tls_ca: Option<Spanned<PathBuf>>,
    tls_cert: Option<Spanned<PathBuf>>,
    tls_key: Option<Spanned<PathBuf>>,
    issuer_seed: Option<Spanned<PathBuf>>,
    xkey_seed: Option<Spanned<PathBuf>>,
    system_seed: Option<Spanned<PathBuf>>,
    policy: Option<Spanned<PathBuf>>,
    poll: Option<Spanned<Duration>>,
    account: Option<Spanned<String>>,
    lifetime: Option<Spanned<Duration>>,
    jitter: Option<Spanned<i64>>,
    pending: Option<Spanned<i64>>,
    patience: Option<Spanned<Duration>>,
    clock_leeway: Option<Spanned<Duration>>,
    drain: Option<Spanned<Duration>>,
    listen: Option<Spanned<String>>,
    log_format: Option<Spanned<String>>,
    log_filter: Option<Spanned<String>>,
    /// Required settings that stand there, even if what they say is no good.
    present: Vec<&'static str>,
}

/// A path, relative to `base`.
fn path(table: &mut toml::Table<'_>, key: &'static str, base: &Path) -> Option<Spanned<PathBuf>> {
    let text = table.string(key)?;
    if Seed::<User>::looks_like(&text.value) {
        // Without the place: showing the line would print the seed.
        let (line, _) = text.span.line_column();
        table.problems().push(
            Problem::error(
                "seed-in-settings",
                format!("{}:{line}: `{key}` is a seed itself", text.span.file().name()),
            )
            .help(
                "write it to a file that only you can read, and give that file's path here; \
                 replace the key if these settings were shared",
            ),
        );
        return None;
    }
    if text.value.is_empty() {
        let problem = Problem::error("empty-path", format!("`{key}` is empty"));
        table.problems().push(problem.at(&text.span, "expected a path"));
        return None;
    }
    Some(text.map(|t| base.join(t)))
}

impl Raw {
    fn read(file: &SourceFile, base: &Path, problems: &Collector) -> Self {
        let mut raw = Self::default();
        let Some(mut root) = toml::read(file, problems) else { return raw };
        if let Some(mut nats) = root.table("nats") {
            raw.notes(&nats, &["servers", "nkey_seed", "credentials"]);
            raw.servers = nats.strings("servers");
            raw.nats_seed = path(&mut nats, "nkey_seed", base);
            raw.credentials = path(&mut nats, "credentials", base);
            raw.queue_group = nats.string("queue_group");
            raw.name = nats.string("name");
            if let Some(mut tls) = nats.table("tls") {
                raw.tls_required = tls.boolean("required");
                raw.tls_first = tls.boolean("first");
                raw.tls_ca = path(&mut tls, "ca", base);
                raw.tls_cert = path(&mut tls, "cert", base);
                raw.tls_key = path(&mut tls, "key", base);
                tls.finish();
            }
            nats.finish();
        }
        if let Some(mut issuer) = root.table("issuer") {
            raw.notes(&issuer, &["seed"]);
            raw.issuer_seed = path(&mut issuer, "seed", base);
            issuer.finish();
        }
        if let Some(mut xkey) = root.table("xkey") {
            raw.xkey_seed = path(&mut xkey, "seed", base);
            xkey.finish();
        }
        if let Some(mut system) = root.table("system") {
            raw.system_seed = path(&mut system, "nkey_seed", base);
            system.finish();
        }
        if let Some(mut policy) = root.table("policy") {
            raw.notes(&policy, &["directory"]);
            raw.policy = path(&mut policy, "directory", base);
            raw.poll = policy.duration("poll");
            policy.finish();
        }
        if let Some(mut grants) = root.table("grants") {
            raw.account = grants.string("account");
            raw.lifetime = grants.duration("lifetime");
            raw.jitter = grants.integer("jitter_percent", 0..=50);
            grants.finish();
        }
        if let Some(mut limits) = root.table("limits") {
            raw.pending = limits.integer("pending", 1..=1_000_000);
            raw.patience = limits.duration("patience");
            raw.clock_leeway = limits.duration("clock_leeway");
            raw.drain = limits.duration("drain");
            limits.finish();
        }
        if let Some(mut http) = root.table("http") {
            raw.listen = http.string("listen");
            http.finish();
        }
        if let Some(mut log) = root.table("log") {
            raw.log_format = log.string("format");
            raw.log_filter = log.string("filter");
            log.finish();
        }
        root.finish();
        raw
    }

    fn notes(&mut self, table: &toml::Table<'_>, keys: &[&'static str]) {
        self.present.extend(keys.iter().filter(|key| table.has(key)));
    }

    /// These, and `under` where these say nothing.
    fn over(self, mut under: Self) -> Self {
        under.present.extend(self.present);
        macro_rules! over {
            ($($field:ident)*) => {
                Self { $($field: self.$field.or(under.$field),)* present: under.present }
            };
        }
        over!(servers nats_seed credentials queue_group name tls_required tls_first tls_ca tls_cert
            tls_key issuer_seed xkey_seed system_seed policy poll account lifetime jitter pending
            patience clock_leeway drain listen log_format log_filter)
    }
}

/// How to reach nats-server, and as whom.
#[derive(Debug)]
pub struct Nats {
    /// Addresses, at least one.
    pub servers: Vec<async_nats::ServerAddr>,
    /// Who we are.
    pub login: Login,
    /// The queue group that instances share.
    pub queue_group: String,
    /// The connection's name.
    pub name: String,
    /// TLS.
    pub tls: Tls,
}

/// What solewriter itself connects with.
#[derive(Debug)]
pub enum Login {
    /// The callout user's NKEY.
    Nkey(Seed<User>),
    /// A credentials file's text.
    Credentials(Secret),
}

/// A secret text.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The text, for the NATS client.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// TLS towards nats-server.
#[derive(Debug, Default)]
pub struct Tls {
    /// Refuse a connection without it.
    pub required: bool,
    /// Handshake before the server's INFO.
    pub first: bool,
    /// Certificate authorities to trust, besides the system's.
    pub ca: Option<PathBuf>,
    /// Client certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Every setting as `(table, key, flag, environment variable, help)`, in the order of the file.
pub fn documented() -> impl Iterator<Item = [String; 5]> {
    SETTINGS
        .iter()
        .map(|s| [s.table.to_owned(), s.key.to_owned(), s.flag(), s.variable(), s.help.to_owned()])
}

/// What bounds the work.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests waiting at most.
    pub pending: usize,
    /// How long a request may wait.
    pub patience: Duration,
    /// How far servers' clocks may be behind, in seconds.
    pub clock_leeway: i64,
    /// How long stopping may take.
    pub drain: Duration,
}

/// Everything that `serve` needs, checked.
#[derive(Debug)]
pub struct Settings {
    /// The broker.
    pub nats: Nats,
    /// Signs every answer.
    pub issuer: Signer<crate::keys::Account>,
    /// Opens sealed requests.
    pub xkey: Option<Seed<Curve>>,
    /// A system account user, for what reaches live connections.
    pub system: Option<Seed<User>>,
    /// The policy's folder.
    pub policy: PathBuf,
    /// How often the folder is read even if no event told of a change.
    pub poll: Duration,
    /// What services get that say nothing themselves.
    pub defaults: Defaults,
    /// From 0 to 1: at most this part of a lifetime is taken off at random.
    pub jitter: f64,
    /// Bounds.
    pub limits: Limits,
    /// Where health and metrics listen, if anywhere.
    pub listen: Option<SocketAddr>,
}

/// How to log: known before everything else is checked, so that problems can be logged.
#[derive(Clone, Debug)]
pub struct Logging {
    /// How lines look.
    pub format: LogFormat,
    /// `tracing` directives.
    pub filter: String,
}

/// Reads the settings file with what overrides it, and the secrets that they name.
///
/// # Errors
/// Every problem found, not the first.
pub fn load(path: &Path, overrides: &Overrides) -> Result<(Settings, Logging), Problems> {
    let problems = Collector::new();
    let base = path.parent().unwrap_or(Path::new("."));
    let from_file = match read_text(path) {
        Ok(text) => {
            let file = SourceFile::new(path.display().to_string(), text.as_str());
            Raw::read(&file, base, &problems)
        }
        Err(error) => {
            problems.push(
                Problem::error(
                    "no-settings",
                    format!("{} cannot be read: {error}", path.display()),
                )
                .help("name the settings file with --config; `solewriter init DIR` writes one"),
            );
            return Err(problems.finish());
        }
    };
    // Paths given by flag or environment are relative to where the command runs.
    let raw = overrides.documents.iter().fold(from_file, |under, document| {
        Raw::read(document, Path::new(""), &problems).over(under)
    });
    let resolved = resolve(raw, path, &problems);
    match resolved {
        Some(settings) if !problems.has_errors() => Ok(settings),
        _ => Err(problems.finish()),
    }
}

fn resolve(raw: Raw, path: &Path, problems: &Collector) -> Option<(Settings, Logging)> {
    let present = raw.present;
    let missing = |table: &str, key: &str, example: &str| {
        if present.contains(&key) {
            return;
        }
        problems.push(
            Problem::error("missing-setting", format!("`{key}` in [{table}] is not set"))
                .help(format!("in {}: [{table}] {key} = {example}", path.display())),
        );
    };
    // Everything is looked at before the first `?`, so that all problems are reported.
    let servers = servers(raw.servers.as_deref(), problems);
    if raw.servers.is_none() {
        missing("nats", "servers", "[\"nats://127.0.0.1:4222\"]");
    }
    let login = login(raw.nats_seed.as_ref(), raw.credentials.as_ref(), problems);
    let given = |variable| std::env::var_os(variable).is_some();
    if login.is_none() && !present.contains(&"credentials") && !given(NATS_SEED_VALUE) {
        missing("nats", "nkey_seed", "\"keys/callout.nk\"");
    }
    let issuer = seed(raw.issuer_seed.as_ref(), ISSUER_SEED_VALUE, problems);
    if issuer.is_none() && !given(ISSUER_SEED_VALUE) {
        missing("issuer", "seed", "\"keys/issuer.nk\"");
    }
    let issuer = issuer.and_then(|seed| Signer::new(&seed).ok());
    let xkey = seed(raw.xkey_seed.as_ref(), XKEY_SEED_VALUE, problems);
    let system = seed(raw.system_seed.as_ref(), SYSTEM_SEED_VALUE, problems);
    if raw.policy.is_none() {
        missing("policy", "directory", "\"policy\"");
    }
    let identity = match (raw.tls_cert, raw.tls_key) {
        (Some(cert), Some(key)) => Some((cert.value, key.value)),
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => {
            problems.push(
                Problem::error("half-a-certificate", "`cert` and `key` in [nats.tls] go together")
                    .at(&one.span, "the other one is missing"),
            );
            None
        }
    };
    let token = |setting: Option<Spanned<String>>, default: &str| match setting {
        None => Some(default.to_owned()),
        Some(text) => {
            let good = !text.value.is_empty()
                && text.value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            if !good {
                problems.push(
                    Problem::error("bad-name", format!("{:?} is not a name", text.value))
                        .at(&text.span, "use letters, digits, `-`, `_` and `.`"),
                );
            }
            good.then_some(text.value)
        }
    };
    let queue_group = token(raw.queue_group, "solewriter");
    let name = token(raw.name, "solewriter");
    let account = token(raw.account, "APP");
    let lifetime = bounded(raw.lifetime, 3600, 10..=30 * 86_400, problems);
    let poll = bounded(raw.poll, 10, 1..=86_400, problems);
    let patience = bounded(raw.patience, 2, 0..=60, problems);
    let clock_leeway = bounded(raw.clock_leeway, 2, 0..=300, problems);
    let drain = bounded(raw.drain, 10, 0..=600, problems);
    let listen = listen(raw.listen.as_ref(), problems);
    let format = log_format(raw.log_format.as_ref(), problems);
    let filter = raw.log_filter.map_or_else(|| DEFAULT_FILTER.to_owned(), |f| f.value);
    let jitter = raw.jitter.map_or(10, |j| j.value);
    let pending = raw.pending.map_or(4096, |p| p.value);

    let settings = Settings {
        nats: Nats {
            servers: servers?,
            login: login?,
            queue_group: queue_group?,
            name: name?,
            tls: Tls {
                required: raw.tls_required.is_some_and(|r| r.value),
                first: raw.tls_first.is_some_and(|f| f.value),
                ca: raw.tls_ca.map(|ca| ca.value),
                identity,
            },
        },
        issuer: issuer?,
        xkey,
        system,
        policy: raw.policy?.value,
        poll: poll?,
        defaults: Defaults { account: Arc::from(account?), lifetime: lifetime? },
        jitter: f64::from(u8::try_from(jitter).unwrap_or(0)) / 100.0,
        limits: Limits {
            pending: usize::try_from(pending).unwrap_or(1),
            patience: patience?,
            clock_leeway: i64::try_from(clock_leeway?.as_secs()).unwrap_or(0),
            drain: drain?,
        },
        listen: listen?,
    };
    Some((settings, Logging { format: format?, filter }))
}

fn servers(
    given: Option<&[Spanned<String>]>,
    problems: &Collector,
) -> Option<Vec<async_nats::ServerAddr>> {
    let given = given?;
    let mut parsed = Vec::with_capacity(given.len());
    for server in given {
        match server.value.parse::<async_nats::ServerAddr>() {
            Ok(address) if address.has_user_pass() => problems.push(
                // The place is shown without its text, which holds a password.
                Problem::error(
                    "password-in-address",
                    format!("{}: an address holds a password", server.span.file().name()),
                )
                .help("solewriter connects with nkey_seed or credentials; remove `user:password@`"),
            ),
            Ok(address) => parsed.push(address),
            Err(error) => problems.push(
                Problem::error("bad-address", format!("{:?} is not an address", server.value))
                    .at(&server.span, error.to_string())
                    .help("write it as nats://HOST:PORT or tls://HOST:PORT"),
            ),
        }
    }
    if given.is_empty() {
        problems.push(Problem::error("no-servers", "`servers` in [nats] is empty"));
    }
    (!parsed.is_empty()).then_some(parsed)
}

fn login(
    seed_file: Option<&Spanned<PathBuf>>,
    credentials: Option<&Spanned<PathBuf>>,
    problems: &Collector,
) -> Option<Login> {
    match (seed_file, credentials) {
        (Some(seed), Some(credentials)) => {
            problems.push(
                Problem::error("two-logins", "`nkey_seed` and `credentials` exclude each other")
                    .at(&credentials.span, "remove one")
                    .also(&seed.span, "the other one"),
            );
            None
        }
        (None, Some(file)) => {
            let text = secret_file(file, problems)?;
            Some(Login::Credentials(Secret(text)))
        }
        (seed_file, None) => seed(seed_file, NATS_SEED_VALUE, problems).map(Login::Nkey),
    }
}

/// A seed from the environment or, failing that, from its file.
fn seed<K: Role>(
    file: Option<&Spanned<PathBuf>>,
    variable: &'static str,
    problems: &Collector,
) -> Option<Seed<K>> {
    let (text, source, span): (Zeroizing<String>, String, Option<&Span>) =
        if let Ok(value) = std::env::var(variable) {
            (Zeroizing::new(value), format!("the environment variable {variable}"), None)
        } else {
            let file = file?;
            (secret_file(file, problems)?, file.value.display().to_string(), Some(&file.span))
        };
    match Seed::parse(&text) {
        Ok(seed) => Some(seed),
        Err(error) => {
            let mut problem =
                Problem::error("bad-seed", format!("{source} does not hold the seed: {error}"));
            if let Some(span) = span {
                problem = problem
                    .at(span, format!("expected a file with a seed of this kind: {}", K::NAME));
            }
            problems.push(problem);
            None
        }
    }
}

/// Reads a file that only its owner (and, as Kubernetes mounts secrets, its group) can read.
fn secret_file(file: &Spanned<PathBuf>, problems: &Collector) -> Option<Zeroizing<String>> {
    let path = &file.value;
    match readable_by_others(path) {
        Ok(None) => {}
        Ok(Some(mode)) => {
            problems.push(
                Problem::error(
                    "secret-readable",
                    format!("{} is open to others (mode {mode:04o})", path.display()),
                )
                .at(&file.span, "a secret that others can read is none")
                .help(format!("chmod 600 {}", path.display())),
            );
            return None;
        }
        Err(error) => {
            problems.push(unreadable(file, &error));
            return None;
        }
    }
    match read_text(path) {
        Ok(text) => Some(text),
        Err(error) => {
            problems.push(unreadable(file, &error));
            None
        }
    }
}

fn unreadable(file: &Spanned<PathBuf>, error: &std::io::Error) -> Problem {
    Problem::error("unreadable", format!("{} cannot be read: {error}", file.value.display()))
        .at(&file.span, "")
}

/// The mode, when others may read or anyone but the owner may write.
#[cfg(unix)]
fn readable_by_others(path: &Path) -> std::io::Result<Option<u32>> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path)?.permissions().mode() & 0o7777;
    Ok((mode & 0o027 != 0).then_some(mode))
}

#[cfg(not(unix))]
fn readable_by_others(path: &Path) -> std::io::Result<Option<u32>> {
    std::fs::metadata(path).map(|_| None)
}

fn read_text(path: &Path) -> std::io::Result<Zeroizing<String>> {
    use std::io::Read;
    let mut text = Zeroizing::new(String::new());
    let mut limited = std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1);
    limited.read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|len| len > MAX_FILE_BYTES) {
        let error = format!("it is larger than {MAX_FILE_BYTES} bytes");
        return Err(std::io::Error::other(error));
    }
    Ok(text)
}

fn bounded(
    given: Option<Spanned<Duration>>,
    default: u64,
    seconds: std::ops::RangeInclusive<u64>,
    problems: &Collector,
) -> Option<Duration> {
    let Some(given) = given else { return Some(Duration::from_secs(default)) };
    let (least, most) =
        (Duration::from_secs(*seconds.start()), Duration::from_secs(*seconds.end()));
    if given.value < least || given.value > most {
        let range = format!("must be {}s to {}s", seconds.start(), seconds.end());
        problems
            .push(Problem::error("out-of-range", "duration out of range").at(&given.span, range));
        return None;
    }
    Some(given.value)
}

#[allow(clippy::option_option)]
fn listen(given: Option<&Spanned<String>>, problems: &Collector) -> Option<Option<SocketAddr>> {
    let Some(given) = given else { return Some(Some(SocketAddr::from(([127, 0, 0, 1], 9980)))) };
    if given.value == "off" {
        return Some(None);
    }
    if let Ok(address) = given.value.parse() {
        Some(Some(address))
    } else {
        problems.push(
            Problem::error("bad-address", format!("{:?} is not an address", given.value))
                .at(&given.span, "expected IP:PORT, or \"off\""),
        );
        None
    }
}

fn log_format(given: Option<&Spanned<String>>, problems: &Collector) -> Option<LogFormat> {
    match given.map(|f| f.value.as_str()) {
        None | Some("auto") => Some(LogFormat::Auto),
        Some("text") => Some(LogFormat::Text),
        Some("json") => Some(LogFormat::Json),
        Some(_) => {
            if let Some(given) = given {
                problems.push(
                    Problem::error("bad-value", format!("{:?} is no log format", given.value))
                        .at(&given.span, "expected \"auto\", \"text\" or \"json\""),
                );
            }
            None
        }
    }
}
