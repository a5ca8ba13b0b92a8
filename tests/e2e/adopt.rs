//! `solewriter adopt`: real servers take every stage of every configuration; and one company goes
//! all the way, with its old clients at work.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::{self, kv};
use async_nats::{Client, ConnectOptions};
use futures_util::StreamExt as _;
use solewriter_core::keys::{Seed, Signer, User};
use solewriter_sandbox::Server;
use tempfile::TempDir;

use super::deployment::{DEADLINE, binary, eventually};
use super::server_config::{checked, copy, write_certificates};

/// What it printed, and its exit code.
pub fn adopt(folder: &Path, out: &Path, more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_solewriter"));
    command.args(["adopt", "nats-server.conf", "--out"]).arg(out).args(more);
    command.current_dir(folder).env("SERVER_NAME_OF_TEST", "templates-1").stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(!said.contains("fake"), "{said}");
    (output.status.code(), said)
}

/// A user of the account that moves, by configuration.
const MOVED: [(&str, Option<&str>); 10] = [
    ("certificates", Some("CN=cards,OU=services")),
    ("factory", Some("UACTGECKG2KNYJGFG2UCV4HVOMHGPVHBRNXJYOR2D22CMJJZOSXCBX3H")),
    ("fleet", Some("d002")),
    ("leaf", Some("screens")),
    ("open", None),
    ("public", Some("board")),
    ("small", Some("cron")),
    ("teams", Some("till")),
    ("templates", Some("wallboard")),
    ("workers", Some("mail")),
];

on_every_server!(the_server_takes_every_stage);
async fn the_server_takes_every_stage(version: &'static str) {
    let server = binary(version).await;
    let cases = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/adopt/configurations");
    assert_eq!(std::fs::read_dir(&cases).unwrap().count(), MOVED.len());
    let folder = tempfile::tempdir().unwrap();
    for (name, moved) in MOVED {
        let copied = folder.path().join(name);
        copy(&cases.join(name), &copied);
        write_certificates(&copied);
        let before = std::fs::read(copied.join("nats-server.conf")).unwrap();
        let out = folder.path().join(format!("{name}-plan"));
        let account: &[&str] = if name == "teams" { &["--account", "SALES"] } else { &[] };
        let (code, said) = adopt(&copied, &out, &[&["--shared", "events.>"], account].concat());
        assert_eq!(code, Some(0), "{name}: {said}");
        let mut stages = vec!["1-beside", "3-last"];
        let (code, said) = match moved {
            Some(user) => {
                stages.push("2-moved-1");
                adopt(&copied, &out, &["--moved", &format!("a={user}")])
            }
            // Nobody logs in, so there is no user to take away.
            None => (Some(0), String::new()),
        };
        assert_eq!(code, Some(0), "{name}: {said}");
        for stage in stages {
            write_certificates(&out.join(stage));
            let (good, said) = checked(&server, &out.join(stage));
            assert!(good, "{version} {name} {stage}: {said}");
        }
        assert_eq!(std::fs::read(copied.join("nats-server.conf")).unwrap(), before);
        let (code, said) = adopt(&copied, &out, account);
        assert_eq!(code, Some(1), "a plan is not overwritten: {said}");
    }
}

const OLD: &str = r#"# A company with three services.
listen: "127.0.0.1:-1"
jetstream { store_dir: "data" }
authorization {
  users: [
    { user: orders, password: fake-orders }
    { user: billing, password: fake-billing }
    { user: cron, password: fake-cron }
  ]
}
"#;

const POLICY: &str = r#"
[bucket.orders]

[stream.EVENTS]
subjects = ["events.>"]

[service.orders]
nkeys = ["{key}"]
owns = ["orders"]
publishes = ["events.orders.>"]
subscribes = ["news.>"]
answers = ["ask.orders"]
calls = ["ask.billing"]
"#;

/// A company's server, its folder and the plan for it.
pub struct Company {
    pub folder: TempDir,
    pub server: Server,
}

impl Company {
    /// A server with that configuration, of which a copy is in `old`.
    pub async fn start(version: &'static str, config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        std::fs::create_dir(&run).unwrap();
        let file = run.join("nats-server.conf");
        std::fs::write(&file, config).unwrap();
        copy(&run, &folder.path().join("old"));
        let server = Server::start(&binary(version).await, &file, &run).await.unwrap();
        Self { folder, server }
    }

    pub fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub fn plan(&self) -> PathBuf {
        self.folder.path().join("plan")
    }

    pub async fn connect(&self, user: &str) -> Client {
        let options = ConnectOptions::with_user_and_password(user.into(), format!("fake-{user}"));
        let options = options.request_timeout(Some(Duration::from_secs(2)));
        options.connect(self.server.client_url()).await.unwrap()
    }

    /// Whether somebody is let in.
    pub async fn lets_in(&self, options: ConnectOptions) -> bool {
        options.connect(self.server.client_url()).await.is_ok()
    }

    pub async fn lets_in_password(&self, user: &str, password: &str) -> bool {
        let options = ConnectOptions::with_user_and_password(user.into(), password.into());
        self.lets_in(options).await
    }

    /// The files of a stage take the place of the old ones.
    pub fn put(&self, stage: &Path) {
        for name in ["nats-server.conf", "solewriter.conf"] {
            let _ = std::fs::remove_file(self.run().join(name));
            if let Ok(text) = std::fs::read(stage.join(name)) {
                std::fs::write(self.run().join(name), text).unwrap();
            }
        }
    }

    pub async fn serve(&self) -> tokio::process::Child {
        serve(&self.plan(), self.server.client_url(), &self.folder.path().join("serve.log")).await
    }

    /// A restart with other files, and the state under another name if it has one.
    pub async fn restart(&mut self, stage: &Path, rename: Option<(&str, &str)>) {
        self.server.stop().await.unwrap();
        self.put(stage);
        if let Some((from, to)) = rename {
            let state = self.run().join("data/jetstream");
            std::fs::rename(state.join(from), state.join(to)).unwrap();
        }
        self.server.restart().await.unwrap();
    }
}

/// Tries until there is an answer.
async fn until<F: Future<Output = Option<()>>>(what: &str, mut attempt: impl FnMut() -> F) {
    let began = tokio::time::Instant::now();
    while attempt().await.is_none() {
        assert!(began.elapsed() < DEADLINE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn put(context: &jetstream::Context, number: u64) -> Option<()> {
    let bucket = context.get_key_value("orders").await.ok()?;
    bucket.put("n", number.to_string().into()).await.ok()?;
    let got = bucket.get("n").await.ok()??;
    assert_eq!(got, number.to_string().as_bytes());
    Some(())
}

/// An event is the same when it is sent again.
async fn publish(context: &jetstream::Context, number: u64) -> Option<()> {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", number.to_string());
    let payload = number.to_string().into();
    context.publish_with_headers("events.traffic", headers, payload).await.ok()?.await.ok()?;
    Some(())
}

async fn ask(caller: &Client) -> Option<()> {
    caller.request("ask.old", "".into()).await.ok().map(|_| ())
}

/// An old client at work: each step is tried again until it has an answer.
struct Traffic {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Traffic {
    fn start(client: Client, caller: Client) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&done));
        let task = tokio::spawn(async move {
            let mut context = jetstream::new(client);
            context.set_timeout(Duration::from_secs(2));
            while !stopped.load(Ordering::Relaxed) {
                let number = counted.load(Ordering::Relaxed) + 1;
                until("a put and a get", || put(&context, number)).await;
                until("an acknowledged event", || publish(&context, number)).await;
                until("an answer", || ask(&caller)).await;
                counted.store(number, Ordering::Relaxed);
            }
        });
        Self { stop, done, task }
    }

    /// Waits until so many more rounds were made.
    async fn goes_on(&self, rounds: u64) {
        let wanted = self.done.load(Ordering::Relaxed) + rounds;
        eventually("old clients at work", async || {
            (self.done.load(Ordering::Relaxed) >= wanted || self.task.is_finished()).then_some(())
        })
        .await;
        assert!(!self.task.is_finished(), "an old client failed");
    }

    async fn ends(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.done.load(Ordering::Relaxed)
    }
}

/// Answers every request.
pub async fn answer(client: &Client, subject: &'static str) {
    let mut requests = client.subscribe(subject).await.unwrap();
    client.flush().await.unwrap();
    let client = client.clone();
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            if let Some(reply) = request.reply {
                let _ = client.publish(reply, subject.into()).await;
            }
        }
    });
}

/// Counts the messages of a subject.
async fn count(client: &Client, subject: &str) -> Arc<AtomicU64> {
    let mut messages = client.subscribe(subject.to_owned()).await.unwrap();
    client.flush().await.unwrap();
    let counter = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&counter);
    tokio::spawn(async move {
        while messages.next().await.is_some() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    counter
}

async fn keys_of(client: &Client) -> (u64, u64) {
    let context = jetstream::new(client.clone());
    let events = context.get_stream("EVENTS").await.unwrap().get_info().await.unwrap();
    let bucket = context.get_key_value("orders").await.unwrap();
    let values = bucket.status().await.unwrap().values();
    (events.state.messages, values)
}

/// `solewriter serve` on the plan, when it answers: who asks before that waits for the server's
/// timeout.
pub async fn serve(plan: &Path, url: &str, file: &Path) -> tokio::process::Child {
    let log = std::fs::File::create(file).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_solewriter"));
    command.args(["serve", "--config"]).arg(plan.join("solewriter.toml"));
    command.args(["--nats-servers", url, "--http-listen", "off", "--log-format", "json"]);
    command.args(["--sessions-every", "2s"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
    let child = command.spawn().unwrap();
    eventually("solewriter serve", async || {
        std::fs::read_to_string(file).unwrap().contains("\"event\":\"ready\"").then_some(())
    })
    .await;
    child
}

/// A bucket with twenty keys, and a stream.
pub async fn fill(client: &Client) {
    let context = jetstream::new(client.clone());
    let config = kv::Config { bucket: "orders".into(), ..kv::Config::default() };
    let bucket = context.create_key_value(config).await.unwrap();
    let stream = jetstream::stream::Config {
        name: "EVENTS".into(),
        subjects: vec!["events.>".into()],
        ..jetstream::stream::Config::default()
    };
    context.create_stream(stream).await.unwrap();
    for number in 0..20 {
        bucket.put(format!("k{number}"), "old".into()).await.unwrap();
    }
}

on_every_server!(a_company_goes_all_the_way);
async fn a_company_goes_all_the_way(version: &'static str) {
    let mut company = Company::start(version, OLD).await;
    let old = company.folder.path().join("old");

    // What the company has: data, and clients at work.
    let (orders, billing) = (company.connect("orders").await, company.connect("billing").await);
    let cron = company.connect("cron").await;
    fill(&orders).await;
    answer(&billing, "ask.old").await;
    answer(&billing, "ask.billing").await;
    let traffic = Traffic::start(orders.clone(), cron.clone());
    traffic.goes_on(5).await;

    // The plan, and its first stage.
    let seed = Seed::<User>::generate();
    let policy = company.folder.path().join("policy");
    std::fs::create_dir(&policy).unwrap();
    let key = Signer::new(&seed).unwrap().public().to_string();
    std::fs::write(policy.join("p.toml"), POLICY.replace("{key}", &key)).unwrap();
    let (code, said) = adopt(&old, &company.plan(), &["--policy", policy.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    company.restart(&company.plan().join("1-beside"), Some(("$G", "STATE"))).await;
    let mut serving = company.serve().await;
    traffic.goes_on(5).await;

    // One service moves; its old user is still there.
    let nkey = || {
        let options = ConnectOptions::with_nkey(seed.expose().to_owned());
        options.custom_inbox_prefix("_INBOX.orders").request_timeout(Some(Duration::from_secs(2)))
    };
    let url = company.server.client_url().to_owned();
    let moved = eventually("the moved service", async || nkey().connect(&url).await.ok()).await;
    answer(&moved, "ask.orders").await;
    let (news_new, news_old) = (count(&moved, "news.>").await, count(&billing, "news.>").await);
    let events_old = count(&billing, "events.orders.>").await;
    traffic.goes_on(5).await;
    let done = traffic.ends().await;
    let (events, values) = keys_of(&cron).await;
    assert_eq!((events, values), (done, 21), "{version}: nothing is lost and nothing twice");

    // Both sides have the same: each message once.
    let context = jetstream::new(moved.clone());
    for number in 0..50u64 {
        billing.publish("news.a", number.to_string().into()).await.unwrap();
        let sent = context.publish("events.orders.a", number.to_string().into()).await.unwrap();
        sent.await.unwrap();
    }
    for (what, counter) in
        [("news there", &news_new), ("news here", &news_old), ("events", &events_old)]
    {
        eventually(what, async || (counter.load(Ordering::Relaxed) >= 50).then_some(())).await;
    }
    let answered = cron.request("ask.orders", "".into()).await.unwrap();
    assert_eq!(answered.payload, "ask.orders", "an old caller and a service that moved");
    let answered = moved.request("ask.billing", "".into()).await.unwrap();
    assert_eq!(answered.payload, "ask.billing", "the other way");
    let counted = [&news_new, &news_old, &events_old].map(|c| c.load(Ordering::Relaxed));
    assert_eq!(counted, [50; 3], "{version}: each once");
    assert_eq!(keys_of(&cron).await.0, done + 50, "{version}: stored once");
    let there = context.get_key_value("orders").await.unwrap();
    there.put("moved", "new".into()).await.unwrap();
    let here = jetstream::new(billing.clone()).get_key_value("orders").await.unwrap();
    assert_eq!(here.get("moved").await.unwrap().unwrap(), "new");
    here.put("k0", "still".into()).await.unwrap();
    assert_eq!(there.get("k0").await.unwrap().unwrap(), "still");

    // Its old user goes, by a reload.
    let (code, said) = adopt(&old, &company.plan(), &["--moved", "orders"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("a reload"), "{said}");
    company.put(&company.plan().join("2-moved-1"));
    company.server.reload().unwrap();
    company.server.wait_for_log("Reloaded server configuration", DEADLINE).await.unwrap();
    assert!(!company.lets_in_password("orders", "fake-orders").await, "{version}");
    assert!(company.lets_in_password("billing", "fake-billing").await, "{version}");
    eventually("the moved service after a reload", async || {
        there.put("again", "new".into()).await.ok()
    })
    .await;

    // All the way back.
    serving.kill().await.unwrap();
    company.restart(&old, Some(("STATE", "$G"))).await;
    let back = company.connect("orders").await;
    assert_eq!(keys_of(&back).await, (done + 50, 23), "{version}");
    assert!(!company.lets_in(nkey()).await, "{version}: nobody to ask");

    // And to the end: nobody is left.
    company.restart(&company.plan().join("3-last"), Some(("$G", "STATE"))).await;
    let _serving = company.serve().await;
    let last = eventually("the service at the end", async || nkey().connect(&url).await.ok()).await;
    let bucket = jetstream::new(last).get_key_value("orders").await.unwrap();
    assert_eq!(bucket.get("moved").await.unwrap().unwrap(), "new");
    for (user, password) in
        [("orders", "fake-orders"), ("billing", "fake-billing"), ("stranger", "fake")]
    {
        assert!(!company.lets_in_password(user, password).await, "{version}: {user}");
    }
    assert!(!company.lets_in(ConnectOptions::new()).await, "{version}: without a login");
}
