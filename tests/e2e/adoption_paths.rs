//! Companies go the whole way, with their services at work: every stage of `solewriter adopt` and
//! the way back from each, services in three languages that move one at a time, and `prove` in the
//! end. What is sent is numbered, so that what is lost or comes twice is counted.

mod companies;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{self, consumer::pull, kv, stream};
use serde_json::{Value, json};
use solewriter_core::keys::{Seed, Signer, User};
use solewriter_sandbox::{Server, free_ports};
use tempfile::TempDir;
use tokio::time::Instant;

use super::adopt::{adopt, serve};
use super::deployment::{DEADLINE, binary, edit};
use super::server_config::{Authority, copy};
use companies::{Company, Login, Service};
use traffic::{Deed, Log, Worker, connect, options, word};

/// So many deeds of each task settle what a stage changed; then so many more are counted.
const SETTLED: usize = 3;
const COUNTED: usize = 8;

/// A company on its way.
struct Journey<'c> {
    company: &'c Company,
    folder: TempDir,
    server: Server,
    leaf: Option<Server>,
    serving: Option<tokio::process::Child>,
    authority: Option<Authority>,
    log: Arc<Log>,
    workers: BTreeMap<&'c str, Worker>,
    /// Which services log in with their NKEY.
    moved: BTreeSet<&'c str>,
    /// Between two changes: what was told then.
    calm: Vec<Range<usize>>,
}

/// The tasks of a service, in the account that it is in.
fn tasks(service: &Service, moved: bool) -> Vec<Value> {
    let text = service.moved_tasks.filter(|_| moved).unwrap_or(service.tasks);
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{}: {error}: {text}", service.name))
}

/// Whose numbers a task tells: its own, or those of other tasks that it hears.
fn told(task: &Value) -> Vec<String> {
    match task["of"].as_array() {
        Some(of) => of.iter().map(|of| of.as_str().unwrap().to_owned()).collect(),
        None => vec![word(task, "id").to_owned()],
    }
}

impl<'c> Journey<'c> {
    /// The company as it is before.
    async fn begin(company: &'c Company, version: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (old, run) = (folder.path().join("old"), folder.path().join("run"));
        let cases = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/adopt/configurations");
        copy(&cases.join(company.folder), &old);
        for name in ["report.txt", "adopt.diff"] {
            std::fs::remove_file(old.join(name)).unwrap();
        }
        let port = free_ports(1).unwrap()[0];
        for (file, from, to) in company.edits {
            edit(&old.join(file), from, &to.replace("{leaf}", &port.to_string()));
        }
        keys_of_services(company, &old, folder.path());
        let authority = company.certificates.then(|| Authority::new(&old));
        copy(&old, &run);
        let server = binary(version).await;
        has_state(company, &server, &run).await;
        let mut of_leaf = None;
        if company.leaf {
            of_leaf = Some(leaf(&server, port, &folder.path().join("leaf")).await);
        }
        let server = Server::start(&server, &run.join("nats-server.conf"), &run).await.unwrap();
        let mut this = Self {
            company,
            folder,
            server,
            leaf: of_leaf,
            serving: None,
            authority,
            log: Arc::default(),
            workers: BTreeMap::new(),
            moved: BTreeSet::new(),
            calm: Vec::new(),
        };
        for service in this.services() {
            this.start(service).await;
        }
        this
    }

    /// Those that move, and those that do not.
    fn services(&self) -> impl Iterator<Item = &'c Service> + use<'c> {
        self.company.services.iter().chain(self.company.others)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn plan(&self) -> PathBuf {
        self.path("plan")
    }

    /// Certificates to log in with, where the server wants them.
    fn tls(&self, service: &Service) -> Option<Value> {
        let authority = self.authority.as_ref()?;
        let run = self.path("run");
        let Login::Certificate(names) = service.login else { panic!("no certificate") };
        let (cert, key) = authority.client(&run, service.name, names);
        Some(json!({"ca": run.join("ca.pem"), "cert": cert, "key": key}))
    }

    fn job(&self, service: &Service) -> Value {
        let moved = self.moved.contains(service.name);
        let mut job = json!({"server": self.server.client_url(), "name": service.name});
        let seed = seed_file(self.folder.path(), service.name);
        match service.login {
            _ if moved => {
                job["seed_file"] = json!(seed);
                job["inbox"] = json!(format!("_INBOX.{}", service.name));
            }
            Login::Password(user, password) => {
                (job["user"], job["password"]) = (json!(user), json!(password));
            }
            Login::Key(_) => job["seed_file"] = json!(seed),
            Login::OldKey(_) => {
                job["seed_file"] = json!(seed_file(self.folder.path(), &before(service)));
            }
            Login::AtLeaf => job["server"] = json!(self.leaf.as_ref().unwrap().client_url()),
            Login::Nobody | Login::Guest(_) | Login::Certificate(_) => {}
        }
        if let (false, Some(inbox)) = (moved, service.inbox) {
            job["inbox"] = json!(inbox);
        }
        if let (false, Some(domain)) = (moved, self.company.domain) {
            job["domain"] = json!(domain);
        }
        if let Some(tls) = self.tls(service) {
            job["tls"] = tls;
        }
        let mut tasks = tasks(service, moved);
        for task in &mut tasks {
            task["from"] = json!(self.sent(word(task, "id")));
        }
        job["tasks"] = json!(tasks);
        job
    }

    /// The last number of a task.
    fn sent(&self, id: &str) -> u64 {
        let deeds = self.log.deeds.lock().unwrap();
        deeds.iter().filter(|d| d.task == id && d.of == id).map(|d| d.n).max().unwrap_or_default()
    }

    async fn start(&mut self, service: &'c Service) {
        let worker = Worker::start(service.language, self.job(service), &self.log).await;
        self.workers.insert(service.name, worker);
    }

    async fn stop(&mut self, name: &str) {
        self.workers.remove(name).unwrap().stop().await;
    }

    /// A service logs in with its NKEY, or as before.
    async fn moves(&mut self, service: &'c Service, there: bool) {
        self.stop(service.name).await;
        if there {
            self.moved.insert(service.name);
        } else {
            self.moved.remove(service.name);
        }
        self.start(service).await;
    }

    /// What each task that runs tells.
    fn expected(&self) -> Vec<(Value, String)> {
        let running = self.services().filter(|s| self.workers.contains_key(s.name));
        let tasks = running.flat_map(|s| tasks(s, self.moved.contains(s.name)));
        tasks.flat_map(|t| told(&t).into_iter().map(move |of| (t.clone(), of))).collect()
    }

    /// Waits until each task did so much more.
    async fn work(&self, rounds: usize, stage: &str) {
        let (began, mark) = (Instant::now(), self.log.len());
        let expected = self.expected();
        loop {
            let failures = self.log.failures.lock().unwrap().clone();
            assert!(failures.is_empty(), "{stage}: {failures:?}\n{}", self.last_words());
            let left: Vec<String> = {
                let deeds = self.log.deeds.lock().unwrap();
                let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
                for deed in &deeds[mark..] {
                    *counts.entry((&deed.task, &deed.of)).or_default() += 1;
                }
                let done = |(task, of): &&(Value, String)| {
                    counts.get(&(word(task, "id"), of.as_str())).is_some_and(|n| *n >= rounds)
                };
                let left = expected.iter().filter(|pair| !done(pair));
                left.map(|(task, of)| format!("{} of {of}", word(task, "id"))).collect()
            };
            if left.is_empty() {
                return;
            }
            let words = || self.last_words();
            assert!(
                began.elapsed() < DEADLINE,
                "{stage}: waited in vain for {left:?}\n{}",
                words()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the server and solewriter said last.
    fn last_words(&self) -> String {
        let serving = std::fs::read_to_string(self.path("serve.log")).unwrap_or_default();
        format!("{}\n{}", tail(&self.server.log()), tail(&serving))
    }

    /// Everything that worked works; and while nothing changes, nothing is lost and nothing comes
    /// twice.
    async fn all_is_well(&mut self, stage: &str) {
        self.work(SETTLED, stage).await;
        let from = self.log.len();
        self.work(COUNTED, stage).await;
        let range = from..self.log.len();
        let deeds = self.log.deeds.lock().unwrap();
        let again = sent_again(&deeds);
        for (task, of) in self.expected() {
            let id = word(&task, "id");
            let told = deeds[range.clone()].iter().filter(|d| d.task == id && d.of == of);
            let numbers: Vec<u64> = told.map(|deed| deed.n).collect();
            let fits = |a: u64, b: u64| match word(&task, "kind") {
                // Only the last value of a key is kept.
                "watch" => b > a,
                // What is not acknowledged in time is given to somebody again.
                "fetch" => true,
                _ => b == a + 1 || (a..=b).any(|n| again.contains(&(of.as_str(), n))),
            };
            let bad = numbers.windows(2).find(|pair| !fits(pair[0], pair[1]));
            assert_eq!(bad, None, "{stage}: {id} told of {of}: {numbers:?}");
        }
        drop(deeds);
        self.calm.push(range);
    }

    /// The files of a stage take the place of those that are there.
    fn put(&self, files: &str) {
        let (from, run) = (self.path(files), self.path("run"));
        let _ = std::fs::remove_file(run.join("solewriter.conf"));
        copy(&from, &run);
    }

    /// Brings a stage in with a restart. `mv` is what the README says for the time in which the
    /// server is stopped.
    async fn restart(&mut self, files: &str, mv: Option<usize>) {
        self.server.stop().await.unwrap();
        self.put(files);
        let readme = std::fs::read_to_string(self.plan().join("README.md")).unwrap();
        let commands: Vec<&str> =
            readme.split('`').filter(|words| words.starts_with("mv '")).collect();
        assert_eq!(commands.len(), if self.company.account == "$G" { 2 } else { 0 }, "{readme}");
        if let Some(command) = mv.and_then(|at| commands.get(at)) {
            let status = Command::new("sh")
                .args(["-c", command])
                .current_dir(self.path("run"))
                .status()
                .unwrap();
            assert!(status.success(), "{command}");
        }
        self.server.restart().await.unwrap_or_else(|error| panic!("{files}: {error}"));
    }

    /// Brings a stage in as its README says.
    async fn bring_in(&mut self, files: &str, readme: &str) {
        let text = std::fs::read_to_string(self.path(readme).join("README.md")).unwrap();
        if text.contains("**Brought in by** a restart") {
            self.restart(files, None).await;
            return;
        }
        assert!(text.contains("**Brought in by** a reload"), "{text}");
        self.put(files);
        let mark = self.server.log_mark();
        self.server.reload().unwrap();
        let reloaded = |line: &str| line.contains("eload") && line.contains("configuration");
        let line = self.server.wait_for_log_where(mark, reloaded, DEADLINE).await.unwrap();
        assert!(line.contains("Reloaded server configuration"), "{}", tail(&self.server.log()));
    }

    /// The way back from a stage, as its README says.
    async fn bring_back(&mut self, files: &str, stage: &str) {
        let has_guests = |folder: &str| {
            let text = std::fs::read_to_string(self.path(folder).join("nats-server.conf")).unwrap();
            text.contains("no_auth_user")
        };
        if has_guests(files) && !has_guests(stage) {
            let text = std::fs::read_to_string(self.path(stage).join("README.md")).unwrap();
            assert!(text.contains("If these have `no_auth_user`,\n  with a restart"), "{text}");
            self.restart(files, None).await;
        } else {
            self.bring_in(files, stage).await;
        }
    }

    async fn serve(&mut self) {
        let log = self.path("serve.log");
        self.serving = Some(serve(&self.plan(), self.server.client_url(), &log).await);
    }

    /// What a tool says of the plan.
    async fn tool(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_solewriter"));
        command.args(arguments).arg("--config").arg(self.plan().join("solewriter.toml"));
        command.env("SOLEWRITER_NATS_SERVERS", self.server.client_url());
        let output = command.kill_on_drop(true).output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    }

    async fn tool_is_content(&self, arguments: &[&str]) -> String {
        let (code, said) = self.tool(arguments).await;
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        said
    }

    /// The plan, from the files as they are today and a policy.
    fn adopt(&self) {
        let policy = self.path("policy");
        std::fs::create_dir(&policy).unwrap();
        let mut text = self.company.policy.to_owned();
        for service in self.company.services {
            let key = public_key(self.folder.path(), service.name);
            let placeholder = format!("{{{}}}", service.name);
            assert!(text.contains(&placeholder), "{placeholder}");
            text = text.replace(&placeholder, &key);
        }
        std::fs::write(policy.join("services.toml"), text).unwrap();
        let arguments = [&["--policy", policy.to_str().unwrap()], self.company.adopt].concat();
        let (code, said) = adopt(&self.path("old"), &self.plan(), &arguments);
        assert_eq!(code, Some(0), "{said}");
        if self.authority.is_some() {
            self.certificate_of_solewriter();
        }
    }

    /// The user of a service, as `--moved` names it.
    fn moved_argument(&self, services: &[Service]) -> String {
        let each = services.iter().map(|service| match service.login {
            Login::Password(user, _) if user != service.name => format!("{}={user}", service.name),
            Login::Certificate(user) | Login::Guest(user) => format!("{}={user}", service.name),
            Login::OldKey(_) => {
                let user = public_key(self.folder.path(), &before(service));
                format!("{}={user}", service.name)
            }
            _ => service.name.to_owned(),
        });
        each.collect::<Vec<_>>().join(",")
    }

    /// What the plan leaves to the company, where the server wants a certificate of every client.
    fn certificate_of_solewriter(&self) {
        let (run, plan) = (self.path("run"), self.plan());
        let authority = self.authority.as_ref().unwrap();
        let (cert, key) = authority.client(&run, "solewriter", "CN=solewriter,OU=operations");
        std::fs::rename(cert, plan.join("solewriter.pem")).unwrap();
        std::fs::rename(key, plan.join("solewriter-key.pem")).unwrap();
        let settings = plan.join("solewriter.toml");
        let text = std::fs::read_to_string(&settings).unwrap();
        let table = text.split_once("[nats.tls]").unwrap().1;
        assert!(table.contains("required = true"), "{text}");
        for line in ["# cert = \"solewriter.pem\"", "# key = \"solewriter-key.pem\""] {
            assert!(table.contains(line), "{text}");
            edit(&settings, line, line.trim_start_matches("# "));
        }
    }

    /// The admin of the buckets, when nobody is left in the old account.
    fn admin(&self) -> Value {
        let seed = self.plan().join("keys/admin.nk");
        let mut job =
            json!({"server": self.server.client_url(), "name": "admin", "seed_file": seed});
        if self.authority.is_some() {
            let plan = self.plan();
            let file = |name: &str| json!(plan.join(name));
            let (cert, key) = (file("solewriter.pem"), file("solewriter-key.pem"));
            job["tls"] = json!({"ca": self.path("run/ca.pem"), "cert": cert, "key": key});
        }
        job
    }

    /// Everybody ends; who takes from consumers does so when nothing is left, and who answers when
    /// nobody asks.
    async fn end(&mut self) {
        let does = |service: &&Service, kind: &str| service.tasks.contains(&format!("\"{kind}\""));
        let (last, first): (Vec<_>, Vec<_>) =
            self.services().partition(|service| does(service, "fetch") || does(service, "answer"));
        let (answering, last): (Vec<_>, Vec<_>) =
            last.into_iter().partition(|service| does(service, "answer"));
        for service in &first {
            self.stop(service.name).await;
        }
        let wanted: BTreeMap<String, u64> = (self.expected().into_iter())
            .filter(|(task, _)| task["kind"] == "fetch")
            .map(|(_, of)| (of.clone(), self.sent(&of)))
            .collect();
        let began = Instant::now();
        for (of, wanted) in wanted {
            loop {
                let taken: BTreeSet<u64> = {
                    let deeds = self.log.deeds.lock().unwrap();
                    deeds.iter().filter(|d| d.of == of && d.task != of).map(|d| d.n).collect()
                };
                if (1..=wanted).all(|n| taken.contains(&n)) {
                    break;
                }
                assert!(began.elapsed() < DEADLINE, "{of}: {wanted} sent, {} taken", taken.len());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        for service in last.iter().chain(&answering) {
            self.stop(service.name).await;
        }
    }

    /// What was done, over the whole way: nothing twice that was sent once, each message stored
    /// once, and the last value of each key in its bucket.
    async fn counted(&self) {
        let deeds = self.log.deeds.lock().unwrap().clone();
        let again = sent_again(&deeds);
        let all: Vec<Value> =
            (self.services()).flat_map(|s| [tasks(s, false), tasks(s, true)].concat()).collect();
        let kind = |id: &str| {
            let task = all.iter().find(|task| word(task, "id") == id).unwrap();
            word(task, "kind").to_owned()
        };
        let mut seen = BTreeSet::new();
        for deed in deeds.iter().filter(|deed| deed.task != deed.of && !deed.again) {
            // A watcher that begins is told of the last value.
            let may = kind(&deed.task) == "watch" || again.contains(&(deed.of.as_str(), deed.n));
            let first = seen.insert((&deed.task, &deed.of, deed.n));
            assert!(first || may, "twice: {deed:?}");
        }
        let context = jetstream::new(connect(&self.admin()).await);
        let (mut stored, mut values) = (BTreeMap::<&str, u64>::new(), BTreeMap::new());
        let mut ids = BTreeSet::new();
        for task in all.iter().filter(|task| ids.insert(word(task, "id"))) {
            let (id, sent) = (word(task, "id"), self.sent(word(task, "id")));
            match word(task, "kind") {
                "publish" => *stored.entry(word(task, "stream")).or_default() += sent,
                "put" => drop(values.insert(id, (word(task, "bucket"), word(task, "key")))),
                "put_raw" => {
                    let key = word(task, "subject").strip_prefix("$KV.").unwrap();
                    values.insert(id, key.split_once('.').unwrap());
                }
                _ => {}
            }
        }
        for (name, sent) in stored {
            let info = context.get_stream(name).await.unwrap().get_info().await.unwrap();
            // Streams of several writers forget ids at once: what was sent twice may be there twice.
            let short = info.config.duplicate_window < Duration::from_secs(1);
            let more = if short { 3 * again.len() as u64 } else { 0 };
            let last = info.state.last_sequence;
            assert!((sent..=sent + more).contains(&last), "{name}: {sent} sent, {last} stored");
        }
        let mut puts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (id, (name, key)) in values {
            let bucket = context.get_key_value(name).await.unwrap();
            let value = bucket.get(key).await.unwrap().unwrap();
            assert_eq!(value, format!("{id} {}", self.sent(id)).as_bytes(), "{name}/{key}");
            let (sent, more) = puts.entry(name).or_default();
            *sent += self.sent(id);
            *more += again.iter().filter(|(of, _)| *of == id).count() as u64;
        }
        for (name, (sent, more)) in puts {
            let bucket = context.get_key_value(name).await.unwrap();
            let last = bucket.stream.get_info().await.unwrap().state.last_sequence;
            // A put has no id: what was tried again may have been stored each time.
            assert!(last == sent || more > 0 && last > sent, "{name}: {sent}, {more}, {last}");
        }
        println!(
            "{}: {} deeds, {} sent again, {} of them counted while nothing changed",
            self.company.folder,
            deeds.len(),
            again.len(),
            self.calm.iter().map(Range::len).sum::<usize>(),
        );
    }
}

/// The numbers that were sent more than once.
fn sent_again(deeds: &[Deed]) -> BTreeSet<(&str, u64)> {
    let own = deeds.iter().filter(|deed| deed.task == deed.of && deed.again);
    own.map(|deed| (deed.of.as_str(), deed.n)).collect()
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

fn seed_file(folder: &Path, name: &str) -> PathBuf {
    folder.join("keys").join(format!("{name}.nk"))
}

fn public_key(folder: &Path, name: &str) -> String {
    let text = std::fs::read_to_string(seed_file(folder, name)).unwrap();
    Signer::new(&Seed::<User>::parse(&text).unwrap()).unwrap().public().to_string()
}

/// Each service has a key of its own. Where its user is one already, nobody knows the seed of the
/// one in the file, and ours takes its place.
fn keys_of_services(company: &Company, old: &Path, folder: &Path) {
    std::fs::create_dir(folder.join("keys")).unwrap();
    for service in company.services.iter().chain(company.others) {
        new_key(folder, service.name);
        let (key, name) = match service.login {
            Login::Key(key) => (key, service.name.to_owned()),
            Login::OldKey(key) => {
                new_key(folder, &before(service));
                (key, before(service))
            }
            _ => continue,
        };
        edit(&old.join("users.conf"), key, &public_key(folder, &name));
    }
}

/// The name of the key that a service has before it moves.
fn before(service: &Service) -> String {
    format!("{}-before", service.name)
}

fn new_key(folder: &Path, name: &str) {
    let seed = Seed::<User>::generate();
    let mut options = std::fs::OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(seed_file(folder, name)).unwrap();
    std::io::Write::write_all(&mut file, seed.expose().as_bytes()).unwrap();
}

/// A server that is a leaf, and logs in as the file lets it.
async fn leaf(server: &Path, port: u16, folder: &Path) -> Server {
    std::fs::create_dir(folder).unwrap();
    let file = folder.join("nats-server.conf");
    let text = format!(
        "listen: \"127.0.0.1:-1\"\nleafnodes {{ reconnect: \"100ms\", remotes: [ {{ url: \
         \"nats-leaf://north:fake-north@127.0.0.1:{port}\" }} ] }}\n"
    );
    std::fs::write(&file, text).unwrap();
    Server::start(server, &file, folder).await.unwrap()
}

/// Buckets, streams and consumers as the company made them once, when its users had more rights:
/// by a server with the same account and folder, and a user who may do all.
async fn has_state(company: &Company, server: &Path, run: &Path) {
    let file = run.join("setup.conf");
    let account = match company.account {
        "$G" => "authorization { users: [{user: setup, password: setup}] }".to_owned(),
        name => format!(
            "accounts {{ {name} {{ jetstream: enabled, users: [{{user: setup, password: setup}}] }} }}"
        ),
    };
    let text = format!(
        "listen: \"127.0.0.1:-1\"\njetstream {{ store_dir: \"{}\" }}\n{account}\n",
        company.store
    );
    std::fs::write(&file, text).unwrap();
    let mut server = Server::start(server, &file, run).await.unwrap();
    let job = json!({"server": server.client_url(), "name": "setup", "user": "setup", "password": "setup"});
    let context = jetstream::new(connect(&job).await);
    for bucket in company.buckets {
        let config = kv::Config { bucket: (*bucket).to_owned(), ..kv::Config::default() };
        context.create_key_value(config).await.unwrap();
    }
    for (name, subjects, retention) in company.streams {
        let config = stream::Config {
            name: (*name).to_owned(),
            subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
            retention: *retention,
            ..stream::Config::default()
        };
        context.create_stream(config).await.unwrap();
    }
    for (stream, durable, filter) in company.consumers {
        let config = pull::Config {
            durable_name: Some((*durable).to_owned()),
            filter_subject: (*filter).to_owned(),
            ack_wait: Duration::from_secs(5),
            ..pull::Config::default()
        };
        context.create_consumer_on_stream(config, *stream).await.unwrap();
    }
    server.stop().await.unwrap();
    std::fs::remove_file(file).unwrap();
}

/// The whole way of one company.
async fn goes_the_whole_way(company: &Company, version: &'static str) {
    let mut journey = Journey::begin(company, version).await;
    journey.all_is_well("before").await;
    journey.adopt();

    // Beside everybody, back, and beside again.
    journey.restart("plan/1-beside", Some(0)).await;
    journey.serve().await;
    journey.all_is_well("beside").await;
    journey.serving.take().unwrap().kill().await.unwrap();
    journey.restart("old", Some(1)).await;
    journey.all_is_well("back to the beginning").await;
    journey.restart("plan/1-beside", Some(0)).await;
    journey.serve().await;
    journey.tool_is_content(&["state", "apply", "--yes"]).await;
    journey.all_is_well("beside again").await;

    // One service after the other: it moves, its user goes; the way back from there, and again.
    let mut before = "plan/1-beside".to_owned();
    for (at, service) in company.services.iter().enumerate() {
        let name = format!("2-moved-{}", at + 1);
        let stage = format!("plan/{name}");
        let moved = journey.moved_argument(&company.services[..=at]);
        let has_user = !matches!(service.login, Login::Nobody);
        if has_user {
            let (code, said) = adopt(&journey.path("old"), &journey.plan(), &["--moved", &moved]);
            assert_eq!(code, Some(0), "{said}");
        }
        if matches!(service.login, Login::Key(_)) {
            // It keeps its NKEY: the server asks about it from this stage on.
            journey.stop(service.name).await;
            journey.bring_in(&stage, &stage).await;
            journey.moved.insert(service.name);
            journey.start(service).await;
        } else {
            journey.moves(service, true).await;
            journey.all_is_well(&format!("{} has moved", service.name)).await;
            if has_user {
                journey.bring_in(&stage, &stage).await;
            }
        }
        journey.all_is_well(&name).await;
        if has_user {
            journey.stop(service.name).await;
            journey.bring_back(&before, &stage).await;
            journey.moved.remove(service.name);
            journey.start(service).await;
            journey.all_is_well(&format!("back from {name}")).await;
            journey.stop(service.name).await;
            journey.bring_in(&stage, &stage).await;
            journey.moved.insert(service.name);
            journey.start(service).await;
            before = stage;
        } else {
            journey.moves(service, false).await;
            journey.all_is_well(&format!("{} went back", service.name)).await;
            journey.moves(service, true).await;
        }
    }
    journey.all_is_well("all have moved").await;

    // Nobody is left; back, and again.
    journey.restart("plan/3-last", None).await;
    journey.all_is_well("last").await;
    journey.restart(&before, None).await;
    journey.all_is_well("back from the last").await;
    journey.restart("plan/3-last", None).await;
    journey.all_is_well("last again").await;
    journey.end().await;
    journey.counted().await;
    nobody_is_left(&mut journey).await;
    let config = journey.path("plan/3-last/nats-server.conf");
    let config = config.to_str().unwrap();
    let (code, said) = journey.tool(&["doctor", "--server-config", config]).await;
    let of_adoption = |line: &str| line.contains(" movers ") || line.contains(" one-writer ");
    let problems = said.lines().map(str::trim_start).filter(|line| {
        line.starts_with("PROBLEM") || line.starts_with("warning") && of_adoption(line)
    });
    // Old servers have holes that are known.
    let known = |line: &&str| {
        version != "2.15.1" && line.contains("advisories")
            || company.elsewhere.iter().any(|known| line.contains(known))
    };
    let (known, others): (Vec<&str>, Vec<&str>) = problems.partition(known);
    assert!(others.is_empty(), "{said}");
    assert!(known.len() >= company.elsewhere.len(), "{said}");
    let problem = known.iter().any(|line| line.starts_with("PROBLEM"));
    assert_eq!(code, Some(i32::from(problem)), "{said}");
    let nobody = said.contains("is left in") && said.contains("every keyspace has one writer");
    assert_eq!(nobody, !company.stays, "{said}");
    let verdict = journey.tool_is_content(&["prove", "--yes"]).await;
    assert!(verdict.contains("PROVEN: no attack succeeded"), "{verdict}");
}

/// No login of before lets anybody in.
async fn nobody_is_left(journey: &mut Journey<'_>) {
    journey.moved.clear();
    for service in journey.company.services {
        if !matches!(service.login, Login::Key(_)) {
            let entered = options(&journey.job(service)).connect(journey.server.client_url()).await;
            assert!(entered.is_err(), "{}", service.name);
        }
    }
}

on_every_server!(a_small_company);
async fn a_small_company(version: &'static str) {
    goes_the_whole_way(&companies::SMALL, version).await;
}

/// The others, each on the newest server.
macro_rules! company {
    ($name:ident, $company:ident) => {
        on_the_newest_server!($name, some_room);
        async fn $name(version: &'static str) {
            goes_the_whole_way(&companies::$company, version).await;
        }
    };
}

company!(certificates_that_say_who_one_is, CERTIFICATES);
company!(a_factory_with_keys, FACTORY);
company!(a_fleet_of_two_hundred, FLEET);
company!(a_domain_with_a_leaf, LEAF);
company!(nobody_logs_in, OPEN);
company!(a_public_server, PUBLIC);
company!(a_team_of_several, TEAMS);
company!(permissions_by_template, TEMPLATES);
company!(workers_with_their_consumers, WORKERS);
