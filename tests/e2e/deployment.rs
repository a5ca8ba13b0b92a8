//! A whole deployment for one test: `solewriter init`, a nats-server, `solewriter serve`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_nats::jetstream::{self, kv};
use serde_json::Value;
use solewriter::cli::init::{self, Init};
use solewriter::keys::{Seed, Signer, User};
use solewriter::sandbox::{Server, fetch};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// How long anything may take before a test says that it failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `found` gives something.
///
/// # Panics
/// When it does not within [`DEADLINE`].
pub async fn eventually<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let began = tokio::time::Instant::now();
    loop {
        if let Some(value) = found().await {
            return value;
        }
        assert!(began.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A service of the test's policy, with its seed.
pub struct Service {
    pub name: String,
    pub seed: Seed<User>,
    pub seed_file: PathBuf,
}

impl Service {
    pub fn key(&self) -> String {
        Signer::new(&self.seed).unwrap().public().to_string()
    }
}

pub struct Deployment {
    pub server: Server,
    pub files: init::Deployment,
    pub instances: Vec<Instance>,
    pub dir: TempDir,
}

/// One running `solewriter serve`.
pub struct Instance {
    pub child: Child,
    pub log: PathBuf,
}

/// Gets a nats-server of exactly that version.
pub async fn binary(version: &'static str) -> PathBuf {
    tokio::task::spawn_blocking(move || fetch::exact(version)).await.unwrap().unwrap()
}

impl Deployment {
    /// Starts nats-server and one instance. `policy` is the policy's text; a `{name}` in it
    /// stands for the public key of a service, which is made for it.
    pub async fn start(version: &'static str, policy: &str) -> Self {
        let mut deployment = Self::broker_only(version, policy).await;
        deployment.add_instance(&[]).await;
        deployment
    }

    /// The same without a running solewriter.
    pub async fn broker_only(version: &'static str, policy: &str) -> Self {
        let binary = binary(version).await;
        let dir = tempfile::tempdir().unwrap();
        let files = Init {
            dir: dir.path().join("deployment"),
            nats_listen: "127.0.0.1:-1".to_owned(),
            http_listen: ([127, 0, 0, 1], 0).into(),
            server_name: "test".to_owned(),
        }
        .write()
        .unwrap();
        std::fs::remove_file(files.policy().join("services.toml")).unwrap();
        let server = Server::start(&binary, &files.server_config(), dir.path()).await.unwrap();
        let deployment = Self { server, files, instances: Vec::new(), dir };
        deployment.write_policy(policy);
        deployment
    }

    /// Writes the policy. For each `{name}` the key of that service is put in its place.
    pub fn write_policy(&self, policy: &str) {
        let mut text = policy.to_owned();
        while let Some((_, rest)) = text.split_once("\"{") {
            let name = rest.split_once("}\"").unwrap().0.to_owned();
            let key = self.service(&name).key();
            text = text.replace(&format!("\"{{{name}}}\""), &format!("\"{key}\""));
        }
        // Written aside and renamed, as an editor does.
        let aside = self.files.dir.join("policy.new");
        std::fs::write(&aside, text).unwrap();
        std::fs::rename(&aside, self.files.policy().join("test.toml")).unwrap();
    }

    /// A service's identity; made on first use.
    pub fn service(&self, name: &str) -> Service {
        let seed_file = self.files.seed_file(&format!("test-{name}"));
        if !seed_file.exists() {
            std::fs::write(&seed_file, Seed::<User>::generate().expose()).unwrap();
        }
        let seed = Seed::parse(&std::fs::read_to_string(&seed_file).unwrap()).unwrap();
        Service { name: name.to_owned(), seed, seed_file }
    }

    /// The server's address.
    pub fn url(&self) -> &str {
        self.server.client_url()
    }

    /// Starts one more instance and waits until it answers. Gives its index.
    pub async fn add_instance(&mut self, arguments: &[&str]) -> usize {
        let log = self.dir.path().join(format!("solewriter-{}.log", self.instances.len()));
        let child = Command::new(env!("CARGO_BIN_EXE_solewriter"))
            .arg("serve")
            .arg("--config")
            .arg(self.files.settings())
            .args(["--nats-servers", self.url(), "--log-format", "json"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.instances.push(Instance { child, log });
        let index = self.instances.len() - 1;
        self.instances[index].says("ready").await;
        index
    }

    /// The admin's JetStream context, in the account STATE.
    pub async fn admin(&self) -> jetstream::Context {
        let seed = std::fs::read_to_string(self.files.seed_file("admin")).unwrap();
        let options = async_nats::ConnectOptions::with_nkey(seed.trim().to_owned());
        jetstream::new(options.connect(self.url()).await.unwrap())
    }

    /// Creates buckets as an administrator should: with direct get.
    pub async fn create_buckets(&self, buckets: &[&str]) {
        let admin = self.admin().await;
        for bucket in buckets {
            let config = kv::Config {
                bucket: (*bucket).to_owned(),
                history: 10,
                storage: jetstream::stream::StorageType::Memory,
                ..Default::default()
            };
            admin.create_key_value(config).await.unwrap();
        }
    }

    /// What the server logged as violations since `mark`.
    pub fn violations(&self) -> Vec<String> {
        self.server.log().lines().filter(|l| l.contains("Violation")).map(str::to_owned).collect()
    }
}

impl Instance {
    /// Every line of its log, as JSON.
    pub fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for a log line of that event.
    pub async fn says(&mut self, event: &str) -> Value {
        self.says_where(event, |_| true).await
    }

    /// Waits for a log line of that event that fits.
    pub async fn says_where(&mut self, event: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let log = self.log.clone();
        eventually(&format!("{event} in {}", log.display()), async || {
            let line = self.lines().into_iter().find(|l| l["event"] == event && fits(l));
            if line.is_none()
                && let Ok(Some(status)) = self.child.try_wait()
            {
                panic!("solewriter ended ({status}):\n{}", read(&log));
            }
            line
        })
        .await
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(self.child.id().unwrap().try_into().unwrap());
        rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::TERM).unwrap();
    }
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
