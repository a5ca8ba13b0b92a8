//! A whole deployment for one test: `solewriter init`, a nats-server, `solewriter serve`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, kv, stream};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::{Value, json};
use solewriter::audit::stream as audit;
use solewriter::nats::raw_client::RawLogin;
use solewriter::nats::{Login, Secret};
use solewriter::passes;
use solewriter::scaffold::{self, Scaffold};
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::keys::{Seed, Signer, User};
use solewriter_core::policy::validate::validate;
use solewriter_sandbox::{Server, fetch, free_ports};
use solewriter_types::audit_event::{DEFAULT_SERVICES_STREAM, DEFAULT_STREAM};
use solewriter_types::kv_operation::Act;
use solewriter_types::server_log::line::{Line, Refusal, parse};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::operator;

/// How long anything may take before a test says that it failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// How many servers a cluster has.
pub const NODES: usize = 3;

/// The buckets that tests use. A policy of a test says only who does what with them.
const BUCKETS: &str = r#"
[bucket.customers]
[bucket.its-own]
[bucket.javascript]
[bucket.many]
[bucket.more]
[bucket.orders]
[bucket.plain]
direct = false
[bucket.python]
[bucket.rates]
[bucket.rust]
[bucket.x]

[bucket.fulfilment]
part_owners = true
rollup = false
duplicate_window = "100ms"
"#;

/// What a command came to.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// What it printed as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Waits until `found` gives something.
///
/// # Panics
/// When it does not within [`DEADLINE`].
pub async fn eventually<T>(what: &str, found: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(DEADLINE, what, found).await
}

/// The same with another deadline.
///
/// # Panics
/// When it does not within that.
pub async fn eventually_within<T>(
    deadline: Duration,
    what: &str,
    mut found: impl AsyncFnMut() -> Option<T>,
) -> T {
    let began = tokio::time::Instant::now();
    loop {
        if let Some(value) = found().await {
            return value;
        }
        assert!(began.elapsed() < deadline, "waited {deadline:?} in vain for {what}");
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

/// The files of a deployment, before anything runs on them.
pub struct Prepared {
    pub files: scaffold::Deployment,
    pub dir: TempDir,
}

pub struct Deployment {
    /// The server, or the first node of a cluster.
    pub server: Server,
    /// The other nodes of a cluster.
    pub peers: Vec<Server>,
    pub files: scaffold::Deployment,
    pub instances: Vec<Instance>,
    pub dir: TempDir,
}

/// One running `solewriter serve`.
pub struct Instance {
    pub child: Child,
    pub log: PathBuf,
}

/// Something that the server refused a client, as its log tells it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The service, from the name that its permissions gave the connection.
    pub service: String,
    /// `publish` or `subscribe`, and the subject.
    pub act: String,
}

impl Violation {
    fn of(line: &str) -> Option<Self> {
        let Line::Refusal(refusal) = parse(line.as_bytes()) else { return None };
        let Refusal { user, act, subject, .. } = *refusal;
        let user = user.unwrap_or_default();
        let service = user.split('/').next().unwrap_or_default().to_owned();
        let act = if act == Act::Subscribe { "subscribe" } else { "publish" };
        Some(Self { service, act: format!("{act} {subject}") })
    }
}

/// Writes a node's configuration: what `init` wrote, under its own name, and more. Gives it, and
/// the node's folder.
fn node(files: &scaffold::Deployment, dir: &Path, number: usize, more: &str) -> (PathBuf, PathBuf) {
    let home = dir.join(format!("node-{number}"));
    std::fs::create_dir(&home).unwrap();
    let values = read(&files.dir.join("deployment.conf"));
    let values: Vec<String> = values
        .lines()
        .map(|line| match line.split_once(':') {
            Some(("NODE_NAME", _)) => format!("NODE_NAME: node-{number}"),
            Some(("JETSTREAM_DIR", _)) => {
                format!("JETSTREAM_DIR: \"{}\"", home.join("jetstream").display())
            }
            _ => line.to_owned(),
        })
        .collect();
    std::fs::write(home.join("deployment.conf"), values.join("\n")).unwrap();
    let config = home.join("nats-server.conf");
    std::fs::write(&config, format!("{}\n{more}\n", read(&files.server_config()))).unwrap();
    (config, home)
}

/// A proxy in front of a route's listener that can hold back what goes through it.
pub fn held_route(to: u16, held: watch::Receiver<bool>) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let (near_reads, near_writes) = near.into_split();
            let (far_reads, far_writes) = far.into_split();
            tokio::spawn(carry(near_reads, far_writes, held.clone()));
            tokio::spawn(carry(far_reads, near_writes, held.clone()));
        }
    });
    port
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut held: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        if held.wait_for(|held| !*held).await.is_err() {
            return;
        }
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

/// A server's configuration that says how much JetStream may keep. Otherwise that is three quarters
/// of what is free on the disk, and a machine that is building has less than an audit stream wants.
pub fn with_room(config: &str) -> String {
    config.replace("jetstream {\n", "jetstream {\n  max_file_store: 64GB\n")
}

/// Asks a server in that version of HTTP, and no more after that. Gives the status and the body.
pub async fn http_get(address: &str, path: &str, version: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET {path} HTTP/{version}\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// Gets a nats-server of exactly that version.
pub async fn binary(version: &'static str) -> PathBuf {
    tokio::task::spawn_blocking(move || fetch::exact(version)).await.unwrap().unwrap()
}

/// Replaces a part of a file, which must be there.
pub fn edit(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{} has no {from:?}:\n{text}", file.display());
    std::fs::write(file, text.replace(from, to)).unwrap();
}

/// The policy with the keys of the services that it names in braces.
pub fn policy_text(files: &scaffold::Deployment, policy: &str) -> String {
    let mut text = policy.to_owned();
    while let Some((_, rest)) = text.split_once("\"{") {
        let name = rest.split_once("}\"").unwrap().0.to_owned();
        let key = service(files, &name).key();
        text = text.replace(&format!("\"{{{name}}}\""), &format!("\"{key}\""));
    }
    text
}

fn service(files: &scaffold::Deployment, name: &str) -> Service {
    let seed_file = files.seed_file(&format!("test-{name}"));
    if !seed_file.exists() {
        std::fs::write(&seed_file, Seed::<User>::generate().expose()).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&seed_file, mode).unwrap();
    }
    let seed = Seed::parse(&std::fs::read_to_string(&seed_file).unwrap()).unwrap();
    Service { name: name.to_owned(), seed, seed_file }
}

/// The server's configuration gets the lines that the policy's streams need, as `init` writes them.
fn write_passes(files: &scaffold::Deployment, policy: &str) {
    if operator::is_here(files) {
        return operator::write_passes(files, policy);
    }
    let text = policy_text(files, policy);
    let buckets = files.policy().join("buckets.toml");
    let buckets = if buckets.exists() { read(&buckets) } else { String::new() };
    let buckets = SourceFile::new("buckets.toml", buckets);
    // What is no policy has no streams.
    let Ok(valid) = validate(&[buckets, SourceFile::new("test.toml", text)]) else { return };
    if passes::declared(&valid.policy).is_empty() {
        return;
    }
    let config = files.server_config();
    let with_lines = passes::in_config(&read(&config), Some(&valid.policy));
    std::fs::write(config, with_lines).unwrap();
}

impl Prepared {
    /// What `solewriter init` writes, for ports that the system picks, and without a policy.
    pub fn new() -> Self {
        let (files, dir) = Self::init(|scaffold| scaffold);
        std::fs::rename(files.policy().join("services.toml"), dir.path().join("sample.toml"))
            .unwrap();
        std::fs::write(files.policy().join("buckets.toml"), BUCKETS).unwrap();
        // Without the streams of the sample policy.
        std::fs::write(files.server_config(), with_room(scaffold::SERVER_CONFIG)).unwrap();
        Self { files, dir }
    }

    /// What `solewriter init` writes, for ports that the system picks.
    fn init(with: impl FnOnce(Scaffold) -> Scaffold) -> (scaffold::Deployment, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let scaffold = Scaffold::on_any_port(dir.path().join("deployment"), "test");
        (with(scaffold).write().unwrap(), dir)
    }

    /// What `solewriter init --tenant` writes for these tenants, each with the sample policy.
    pub fn tenants(names: &[&str]) -> Self {
        let tenants = names.iter().map(|name| (*name).to_owned()).collect();
        let (files, dir) = Self::init(|scaffold| Scaffold { tenants, ..scaffold });
        let config = files.server_config();
        std::fs::write(&config, with_room(&read(&config))).unwrap();
        Self { files, dir }
    }

    /// The same in operator mode, for a server of that version.
    pub fn operator_tenants(names: &[&str], version: &str) -> Self {
        let tenants = names.iter().map(|name| (*name).to_owned()).collect();
        let init = |scaffold| Scaffold { tenants, operator: true, ..scaffold };
        Self::for_operator(Self::init(init), version)
    }

    /// Starts nats-server alone, on the files as they are.
    pub async fn start_server(self, version: &'static str) -> Deployment {
        let Self { files, dir } = self;
        let binary = binary(version).await;
        let server = Server::start(&binary, &files.server_config(), dir.path()).await.unwrap();
        Deployment { server, peers: Vec::new(), files, instances: Vec::new(), dir }
    }

    /// What `solewriter init --operator` writes, with the sample policy, for a server of that version.
    pub fn operator(version: &str) -> Self {
        let init = |scaffold| Scaffold { operator: true, ..scaffold };
        Self::for_operator(Self::init(init), version)
    }

    fn for_operator((files, dir): (scaffold::Deployment, TempDir), version: &str) -> Self {
        let config = files.server_config();
        std::fs::write(&config, with_room(&read(&config))).unwrap();
        if version == "2.10.25" {
            // As the comment there says.
            let accounts = files.dir.join("accounts.conf");
            let lines = read(&accounts);
            let lines = lines.lines().filter(|line| !line.starts_with("default_sentinel"));
            std::fs::write(accounts, lines.collect::<Vec<_>>().join("\n")).unwrap();
        }
        Self { files, dir }
    }

    /// What `solewriter init --operator` writes, without the sample policy.
    pub fn operator_without_policy(version: &str) -> Self {
        let prepared = Self::operator(version);
        for file in ["services.toml", "services.test.toml"] {
            std::fs::remove_file(prepared.files.policy().join(file)).unwrap();
        }
        std::fs::write(prepared.files.policy().join("buckets.toml"), BUCKETS).unwrap();
        prepared
    }

    /// Starts nats-server and one instance on the files as they are.
    pub async fn start_as_is(self, version: &'static str) -> Deployment {
        let mut deployment = self.start_server(version).await;
        deployment.add_instance(&[]).await;
        deployment
    }

    /// Changes the server's configuration.
    #[must_use]
    pub fn with_server(self, from: &str, to: &str) -> Self {
        edit(&self.files.server_config(), from, to);
        self
    }

    /// Changes a value in `deployment.conf`, which the server's configuration includes.
    #[must_use]
    pub fn with_value(self, name: &str, value: &str) -> Self {
        let file = self.files.dir.join("deployment.conf");
        let text = std::fs::read_to_string(&file).unwrap();
        let before = text.lines().find(|l| l.starts_with(&format!("{name}:"))).unwrap();
        edit(&file, before, &format!("{name}: {value}"));
        self
    }

    /// Removes a value from `deployment.conf`: the server takes none that nothing uses.
    #[must_use]
    pub fn without_value(self, name: &str) -> Self {
        let file = self.files.dir.join("deployment.conf");
        let text = std::fs::read_to_string(&file).unwrap();
        let line = text.lines().find(|l| l.starts_with(&format!("{name}:"))).unwrap();
        edit(&file, line, "");
        self
    }

    /// Changes solewriter's settings.
    #[must_use]
    pub fn with_settings(self, from: &str, to: &str) -> Self {
        edit(&self.files.settings(), from, to);
        self
    }

    /// Without the buckets that most tests share: what the policy declares is all there is.
    pub fn without_buckets(self) -> Self {
        std::fs::remove_file(self.files.policy().join("buckets.toml")).unwrap();
        self
    }

    /// Starts nats-server, and writes the policy.
    pub async fn start_broker(self, version: &'static str, policy: &str) -> Deployment {
        let binary = binary(version).await;
        let Self { files, dir } = self;
        write_passes(&files, policy);
        let server = Server::start(&binary, &files.server_config(), dir.path()).await.unwrap();
        let deployment =
            Deployment { server, peers: Vec::new(), files, instances: Vec::new(), dir };
        deployment.write_policy(policy);
        deployment
    }

    /// Starts a cluster of three nats-servers, and writes the policy. Buckets have three replicas.
    pub async fn start_cluster(self, version: &'static str, policy: &str) -> Deployment {
        self.start_mixed_cluster([version; NODES], policy).await
    }

    /// The same with nodes of different versions.
    pub async fn start_mixed_cluster(
        self,
        versions: [&'static str; NODES],
        policy: &str,
    ) -> Deployment {
        let ports = free_ports(NODES).unwrap();
        let routes: Vec<String> = ports.iter().map(|p| format!("nats://127.0.0.1:{p}")).collect();
        let clusters = ports.iter().map(|port| {
            format!("cluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: {routes:?} }}")
        });
        self.start_nodes(versions, clusters.collect(), policy).await
    }

    /// The same, and what goes between two of the servers can be held back: gives a switch for each
    /// pair, which the one that is not in it names.
    pub async fn start_cluster_with_switches(
        self,
        version: &'static str,
        policy: &str,
    ) -> (Deployment, Vec<watch::Sender<bool>>) {
        let ports = free_ports(NODES).unwrap();
        let switches: Vec<_> = (0..NODES).map(|_| watch::channel(false)).collect();
        let clusters = (0..NODES).map(|own| {
            let others = (0..NODES).filter(|other| *other != own);
            let routes = others.map(|other| {
                let held = switches[3 - own - other].1.clone();
                format!("nats://127.0.0.1:{}", held_route(ports[other], held))
            });
            let (port, routes) = (ports[own], routes.collect::<Vec<_>>());
            // Servers tell each other their addresses; nobody gets anywhere with this one.
            format!(
                "cluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: {routes:?}, \
                 advertise: \"127.0.0.1:1\" }}"
            )
        });
        let clusters = clusters.collect();
        let deployment = self.start_nodes([version; NODES], clusters, policy).await;
        (deployment, switches.into_iter().map(|(switch, _)| switch).collect())
    }

    async fn start_nodes(
        self,
        versions: [&'static str; NODES],
        clusters: Vec<String>,
        policy: &str,
    ) -> Deployment {
        let binaries = futures_util::future::join_all(versions.map(binary)).await;
        let Self { files, dir } = self;
        write_passes(&files, policy);
        let mut nodes = Vec::new();
        for (number, cluster) in (1..).zip(&clusters) {
            nodes.push(node(&files, dir.path(), number, cluster));
        }
        // Together: JetStream of a node is not ready before it has heard of the others.
        let started = nodes
            .iter()
            .zip(&binaries)
            .map(|((config, home), binary)| Server::start(binary, config, home));
        let mut started = futures_util::future::try_join_all(started).await.unwrap();
        let server = started.remove(0);
        let mut deployment =
            Deployment { server, peers: started, files, instances: Vec::new(), dir };
        deployment.write_policy(policy);
        deployment.settles(NODES).await;
        deployment
    }

    /// Clusters of one server each, joined by gateways: one for each name. What goes through the
    /// gateways of one can be held back, if it is not the first.
    pub async fn start_supercluster<const CLUSTERS: usize>(
        self,
        version: &'static str,
        names: [&str; CLUSTERS],
        held: [watch::Receiver<bool>; CLUSTERS],
        policy: &str,
    ) -> Deployment {
        let binary = binary(version).await;
        let Self { files, dir } = self;
        write_passes(&files, policy);
        let all = free_ports(2 * CLUSTERS).unwrap();
        let gateway = |index: usize| all[2 * index + 1];
        let mut nodes = Vec::new();
        for (index, cluster) in names.into_iter().enumerate() {
            // What one dials and what it is dialled by goes through the same hands.
            let others = names.iter().enumerate().map(|(other, name)| {
                let port = held_route(gateway(other), held[index.max(other)].clone());
                format!("{{ name: {name}, url: \"nats://127.0.0.1:{port}\" }}\n")
            });
            // JetStream of a cluster wants routes; one to itself will do.
            let more = format!(
                "cluster {{ name: {cluster}, listen: \"127.0.0.1:{0}\", \
                 routes: [\"nats://127.0.0.1:{0}\"] }}\n\
                 gateway {{ name: {cluster}, listen: \"127.0.0.1:{1}\", \
                 advertise: \"127.0.0.1:1\", gateways: [\n{2}] }}",
                all[2 * index],
                gateway(index),
                others.collect::<String>(),
            );
            nodes.push(node(&files, dir.path(), index + 1, &more));
        }
        let started = nodes.iter().map(|(config, home)| Server::start(&binary, config, home));
        let mut started = futures_util::future::try_join_all(started).await.unwrap();
        let server = started.remove(0);
        let mut deployment =
            Deployment { server, peers: started, files, instances: Vec::new(), dir };
        deployment.write_policy(policy);
        deployment.settles(1).await;
        deployment
    }

    /// Starts nats-server and one instance.
    pub async fn start(self, version: &'static str, policy: &str) -> Deployment {
        let mut deployment = self.start_broker(version, policy).await;
        deployment.add_instance(&[]).await;
        deployment
    }
}

impl Deployment {
    /// Starts nats-server and one instance with the sample policy, as `solewriter init` leaves it.
    pub async fn sample(version: &'static str) -> Self {
        let prepared = Prepared::new().without_buckets();
        let sample = std::fs::read_to_string(prepared.dir.path().join("sample.toml")).unwrap();
        prepared.start(version, &sample).await
    }

    /// Starts nats-server and one instance. `policy` is the policy's text; a `{name}` in it
    /// stands for the public key of a service, which is made for it.
    pub async fn start(version: &'static str, policy: &str) -> Self {
        Prepared::new().start(version, policy).await
    }

    /// Writes the policy. For each `{name}` the key of that service is put in its place.
    pub fn write_policy(&self, policy: &str) {
        // Written aside and renamed, as an editor does.
        let aside = self.files.dir.join("policy.new");
        std::fs::write(&aside, self.policy_text(policy)).unwrap();
        std::fs::rename(&aside, self.files.policy().join("test.toml")).unwrap();
    }

    /// The policy's text with keys for names.
    pub fn policy_text(&self, policy: &str) -> String {
        policy_text(&self.files, policy)
    }

    /// A service's identity; made on first use.
    pub fn service(&self, name: &str) -> Service {
        service(&self.files, name)
    }

    /// The server's address.
    pub fn url(&self) -> &str {
        self.server.client_url()
    }

    /// Every node.
    pub fn nodes(&self) -> impl Iterator<Item = &Server> {
        std::iter::once(&self.server).chain(&self.peers)
    }

    /// The address of every node.
    pub fn urls(&self) -> Vec<String> {
        self.nodes().map(|node| node.client_url().to_owned()).collect()
    }

    /// Starts one more instance and waits until it answers. Gives its index.
    pub async fn add_instance(&mut self, arguments: &[&str]) -> usize {
        let index = self.launch_instance(arguments);
        self.instances[index].says("ready").await;
        index
    }

    /// Starts one more instance, without waiting for anything. Gives its index.
    pub fn launch_instance(&mut self, arguments: &[&str]) -> usize {
        self.launch(Command::new(env!("CARGO_BIN_EXE_solewriter")), arguments)
    }

    /// Starts one more instance with more in its environment. Gives its index.
    pub fn launch_instance_with(&mut self, environment: &[(&str, &OsStr)]) -> usize {
        let mut command = Command::new(env!("CARGO_BIN_EXE_solewriter"));
        command.envs(environment.iter().copied());
        self.launch(command, &[])
    }

    /// Starts one more instance that has only so many file descriptors. Gives its index.
    pub async fn add_instance_within(&mut self, descriptors: u32) -> usize {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"")]);
        shell.arg(env!("CARGO_BIN_EXE_solewriter"));
        let index = self.launch(shell, &[]);
        self.instances[index].says("ready").await;
        index
    }

    /// Starts one more instance, of that program. Gives its index.
    pub fn launch_program(&mut self, program: &Path, arguments: &[&str]) -> usize {
        self.launch(Command::new(program), arguments)
    }

    fn launch(&mut self, mut command: Command, arguments: &[&str]) -> usize {
        let log = self.dir.path().join(format!("solewriter-{}.log", self.instances.len()));
        // The file is one instance's alone.
        let kept = self.dir.path().join(format!("policy-{}.kept", self.instances.len()));
        let tenants = self.files.dir.join("tenants").exists();
        let keep = (!tenants && !arguments.contains(&"--policy-keep"))
            .then(|| ["--policy-keep".to_owned(), kept.display().to_string()]);
        let servers = (!arguments.contains(&"--nats-servers"))
            .then(|| ["--nats-servers".to_owned(), self.urls().join(",")]);
        let child = command
            .arg("serve")
            .arg("--config")
            .arg(self.files.settings())
            .args(["--log-format", "json"])
            .args(servers.iter().flatten())
            .args(arguments)
            .args(keep.iter().flatten())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.instances.push(Instance { child, log });
        self.instances.len() - 1
    }

    /// Runs a command of ours that looks at the deployment. `arguments` come before the settings.
    pub async fn tool(&self, arguments: &[&str]) -> Ran {
        self.tool_at(&self.urls(), arguments).await
    }

    /// Makes the streams, consumers, stores and buckets as the policy declares them.
    pub async fn apply(&self, more: &[&str]) {
        let ran = self.tool(&[&["state", "apply", "--yes"], more].concat()).await;
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    /// Runs it with these addresses.
    pub async fn tool_at(&self, servers: &[String], arguments: &[&str]) -> Ran {
        self.tool_of(Path::new(env!("CARGO_BIN_EXE_solewriter")), servers, arguments).await
    }

    /// Runs a command of that program.
    pub async fn tool_of(&self, program: &Path, servers: &[String], arguments: &[&str]) -> Ran {
        self.tool_with(program, &self.files.settings(), servers, arguments).await
    }

    /// Runs a command of ours that looks at what a tenant has.
    pub async fn tool_of_tenant(&self, tenant: &str, arguments: &[&str]) -> Ran {
        let program = Path::new(env!("CARGO_BIN_EXE_solewriter"));
        let settings = self.files.settings_of(tenant);
        self.tool_with(program, &settings, &self.urls(), arguments).await
    }

    async fn tool_with(
        &self,
        program: &Path,
        settings: &Path,
        servers: &[String],
        arguments: &[&str],
    ) -> Ran {
        let mut command = Command::new(program);
        command.args(arguments).arg("--config").arg(settings);
        command.args(["--nats-servers", &servers.join(",")]);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(6 * DEADLINE, command.output()).await.unwrap().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran {
            code: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// The seed of a user that `solewriter init` made: `admin`, `callout` or `system`.
    pub fn seed(&self, name: &str) -> Seed<User> {
        Seed::parse(&std::fs::read_to_string(self.files.seed_file(name)).unwrap()).unwrap()
    }

    /// How a user that `solewriter init` made logs in.
    pub fn login(&self, name: &str) -> async_nats::ConnectOptions {
        let credentials = self.files.seed_file(name).with_extension("creds");
        if credentials.exists() {
            return async_nats::ConnectOptions::with_credentials(&read(&credentials)).unwrap();
        }
        async_nats::ConnectOptions::with_nkey(self.seed(name).expose().to_owned())
    }

    /// How a user that `solewriter init` made logs in on the wire.
    pub fn wire_login(&self, name: &str) -> RawLogin {
        let credentials = self.files.seed_file(name).with_extension("creds");
        if credentials.exists() {
            return RawLogin::of(&Login::Credentials(Secret::new(read(&credentials).into())));
        }
        RawLogin::Nkey(self.seed(name).into())
    }

    /// How a service of the test's policy does. Before 2.11 that takes a JWT in operator mode.
    pub fn service_login(&self, service: &Service) -> RawLogin {
        let seed = Seed::parse(service.seed.expose()).unwrap().into();
        match operator::way_in(&self.files, service) {
            Some(jwt) => RawLogin::Jwt(jwt.into(), seed),
            None => RawLogin::Nkey(seed),
        }
    }

    /// How servers name an account: in operator mode, by its key.
    pub fn account(&self, name: &str) -> String {
        if operator::is_here(&self.files) {
            return operator::key_of(&self.files, name).to_string();
        }
        name.to_owned()
    }

    /// The admin's JetStream context, in the account STATE.
    pub async fn admin(&self) -> jetstream::Context {
        let options = self.login("admin");
        jetstream::new(options.connect(self.url()).await.unwrap())
    }

    /// Who may look at a stream: the admin, or for the policy's bucket who pushes.
    pub async fn admin_of(&self, stream: &str) -> Option<jetstream::Context> {
        let policy = stream == "KV_solewriter_policy";
        let seed = self.seed(if policy { "publisher" } else { "admin" });
        let options = async_nats::ConnectOptions::with_nkey(seed.expose().to_owned());
        let options = options.custom_inbox_prefix("_INBOX.solewriter");
        let connected = options.connect(self.urls());
        let client = tokio::time::timeout(Duration::from_secs(2), connected).await.ok()?.ok()?;
        let context = jetstream::context::ContextBuilder::new().timeout(Duration::from_secs(2));
        let api = if policy { "$JS.POLICY.API" } else { "$JS.API" };
        Some(context.api_prefix(api).build(client))
    }

    /// The JetStream context of the audit streams' admin, in the account AUDIT.
    pub async fn audit_admin(&self) -> jetstream::Context {
        let options = self.login("audit-admin");
        jetstream::new(options.connect(self.url()).await.unwrap())
    }

    /// The audit streams, as `buckets apply` makes them.
    pub async fn create_audit_streams(&self) {
        let replicas = self.nodes().count();
        let admin = self.audit_admin().await;
        for config in [
            audit::config(DEFAULT_STREAM, replicas),
            audit::services(DEFAULT_SERVICES_STREAM, replicas),
        ] {
            admin.create_stream(config).await.unwrap();
        }
    }

    /// Creates buckets as an administrator should: with direct get.
    pub async fn create_buckets(&self, buckets: &[&str]) {
        for bucket in buckets {
            self.create_bucket(bucket, true).await;
        }
    }

    /// Creates a bucket, with direct get or without.
    pub async fn create_bucket(&self, bucket: &str, direct: bool) {
        let config = stream::Config {
            name: format!("KV_{bucket}"),
            subjects: vec![format!("$KV.{bucket}.>")],
            max_messages_per_subject: 10,
            storage: stream::StorageType::Memory,
            discard: stream::DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: direct,
            num_replicas: if self.peers.is_empty() { 1 } else { NODES },
            ..Default::default()
        };
        self.admin().await.create_stream(config).await.unwrap();
    }

    /// A bucket, as the admin sees it.
    pub async fn bucket(&self, bucket: &str) -> kv::Store {
        self.admin().await.get_key_value(bucket).await.unwrap()
    }

    /// Waits until JetStream makes streams with so many replicas.
    async fn settles(&mut self, replicas: usize) {
        let (mut admin, mut tried, mut last) = (self.admin().await, Vec::new(), None);
        // Beside a compiler, electing its leaders has taken longer than anything else does.
        let deadline = Instant::now() + 4 * DEADLINE;
        let mut again = Instant::now() + DEADLINE;
        loop {
            assert!(Instant::now() < deadline, "JetStream is not on all nodes: {last:?}");
            // 2.10.25, started on a busy machine, may leave a node out of JetStream for ever ("no
            // suitable peers for placement"). Started once more, it finds all.
            if Instant::now() > again {
                let nodes = std::iter::once(&mut self.server).chain(&mut self.peers);
                futures_util::future::try_join_all(nodes.map(Server::restart)).await.unwrap();
                admin = self.admin().await;
                again = Instant::now() + DEADLINE;
            }
            // Each time another: on 2.10.25, one whose creation timed out may never get a leader.
            let name = format!("probe-{}", tried.len());
            let config = stream::Config {
                name: name.clone(),
                subjects: vec![name.clone()],
                num_replicas: replicas,
                storage: stream::StorageType::Memory,
                ..Default::default()
            };
            tried.push(name);
            match admin.create_stream(config).await {
                Ok(_) => break,
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for name in &tried {
            let _ = admin.delete_stream(name).await;
        }
    }

    /// Everything that a bucket holds, history and all: subject, headers and value of each
    /// message, by revision.
    pub async fn content(&self, bucket: &str) -> Vec<(u64, String, String, String)> {
        let stream = self.admin().await.get_stream(format!("KV_{bucket}")).await.unwrap();
        let state = stream.get_info().await.unwrap().state;
        let mut content = Vec::new();
        for revision in state.first_sequence..=state.last_sequence {
            if let Ok(m) = stream.get_raw_message(revision).await {
                let value = String::from_utf8_lossy(&m.payload).into_owned();
                let headers = format!("{:?}", m.headers);
                content.push((m.sequence, m.subject.to_string(), headers, value));
            }
        }
        content
    }

    /// What the server refused, as its log has it.
    pub fn violations(&self) -> Vec<Violation> {
        let logs: Vec<String> = self.nodes().map(Server::log).collect();
        logs.iter().flat_map(|log| log.lines()).filter_map(Violation::of).collect()
    }

    /// Asks the server, as the system user. `subject` is what follows `$SYS.REQ.`.
    pub async fn ask_system(&self, subject: &str, question: &Value) -> Value {
        let client = self.client("system", self.url()).await;
        let subject = format!("$SYS.REQ.{subject}");
        let answer = client.request(subject, question.to_string().into()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }

    /// The connections of an account, as the system user sees them.
    pub async fn connections(&self, account: &str) -> Vec<Value> {
        self.connections_of(&self.server, account).await
    }

    /// A client of a user that `solewriter init` made, with the inbox that it may have.
    pub async fn client(&self, name: &str, url: &str) -> async_nats::Client {
        let options = self.login(name).custom_inbox_prefix("_INBOX.solewriter");
        options.connect(url).await.unwrap()
    }

    /// The connections of an account on one node, as the system user sees them.
    pub async fn connections_of(&self, node: &Server, account: &str) -> Vec<Value> {
        let account = self.account(account);
        let question = json!({"auth": true, "acc": account, "limit": 4096});
        let client = self.client("system", node.client_url()).await;
        let id = client.server_info().server_id;
        let subject = format!("$SYS.REQ.SERVER.{id}.CONNZ");
        let answer = client.request(subject, question.to_string().into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        answer["data"]["connections"].as_array().cloned().unwrap_or_default()
    }

    /// Closes every connection of a service, as an administrator would. Gives how many.
    pub async fn kick(&self, service: &str) -> usize {
        let server = self.ask_system("SERVER.PING", &json!({})).await;
        let server = server["server"]["id"].as_str().unwrap();
        let mut kicked = 0;
        for connection in self.connections("APP").await {
            let user = connection["authorized_user"].as_str().unwrap_or_default();
            if user.starts_with(&format!("{service}/")) {
                let question = json!({"cid": connection["cid"]});
                let answer = self.ask_system(&format!("SERVER.{server}.KICK"), &question).await;
                assert!(answer.get("error").is_none(), "{answer}");
                kicked += 1;
            }
        }
        kicked
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

    /// Every decision that it logged.
    pub fn decisions(&self) -> Vec<Value> {
        self.lines().into_iter().filter(|l| l["event"] == "authorisation").collect()
    }

    /// Waits until it logged so many lines of that event, and gives them.
    pub async fn says_times(&self, event: &str, times: usize) -> Vec<Value> {
        eventually(&format!("{times} times {event} in {}", self.log.display()), async || {
            let lines = self.lines().into_iter();
            let lines: Vec<Value> = lines.filter(|l| l["event"] == event).collect();
            (lines.len() >= times).then_some(lines)
        })
        .await
    }

    /// Asks its HTTP listener. Gives the status and the body.
    pub async fn get(&mut self, path: &str) -> (u16, String) {
        let address = self.says("http").await["address"].as_str().unwrap().to_owned();
        http_get(&address, path, "1.1").await
    }

    /// The value of a metric, given with its labels; 0 while there is none.
    pub async fn metric(&mut self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").await;
        let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |v| v.parse().unwrap())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Stops it, and waits until every thread of it stands still: on a busy machine the signal
    /// takes effect a while after it was sent.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let what = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(self.pid()), what).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap()
    }
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
