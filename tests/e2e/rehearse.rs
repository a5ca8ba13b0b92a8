//! `solewriter rehearse` on the trace of a real server that knows nothing of solewriter: one account,
//! users with passwords and NKEYs, clients in three languages.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use async_nats::jetstream::{self, consumer::PullConsumer, kv};
use async_nats::{Client, ConnectOptions};
use futures_util::StreamExt;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use solewriter_core::keys::{Seed, User};
use solewriter_sandbox::Server;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::clients::Library;
use super::deployment::{DEADLINE, Ran, Service, binary, http_get, with_room};

const POLICY: &str = r#"
[bucket.orders]
[bucket.python]
[bucket.javascript]
[stream.EVENTS]
subjects = ["events.>"]
[stream.EVENTS.consumer.ship]
filter = ["events.>"]
[service.orders]
owns = ["orders"]
publishes = ["events.orders.>"]
calls = ["quotes.*"]
[service.shipping]
reads = ["orders"]
consumes = ["EVENTS/ship"]
[service.quotes]
answers = ["quotes.>"]
[service.python]
nkeys = ["PYTHON"]
owns = ["python"]
[service.javascript]
nkeys = ["JAVASCRIPT"]
owns = ["javascript"]
"#;

/// What every payload here begins with: no output may have it.
const PAYLOAD: &str = "very-private";

/// A server in one account, its trace, and a policy for it.
struct Today {
    server: Server,
    dir: TempDir,
    services: Vec<Service>,
    /// How much of the log is of its operator.
    mark: usize,
}

impl Today {
    async fn start(version: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let services: Vec<Service> = ["python", "javascript"]
            .map(|name| {
                let seed = Seed::<User>::generate();
                let seed_file = dir.path().join(format!("{name}.nk"));
                std::fs::write(&seed_file, seed.expose()).unwrap();
                let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
                std::fs::set_permissions(&seed_file, private).unwrap();
                Service { name: name.to_owned(), seed, seed_file }
            })
            .into();
        let passwords = ["admin", "orders", "shipping", "quotes", "old"]
            .map(|name| format!("{{user: {name}, password: {name}-password}}"));
        let keys = services.iter().map(|service| format!("{{nkey: {}}}", service.key()));
        let users: Vec<String> = passwords.into_iter().chain(keys).collect();
        let config = format!(
            "listen: \"127.0.0.1:-1\"\nhttp: \"127.0.0.1:-1\"\ntrace: true\nmax_traced_msg_len: 1\n\
             jetstream {{\n  store_dir: jetstream\n}}\n\
             accounts {{ OLD {{ jetstream: enabled, users: [{}] }} }}\n",
            users.join(", ")
        );
        let path = dir.path().join("nats-server.conf");
        std::fs::write(&path, with_room(&config)).unwrap();
        let home = dir.path().join("server");
        let server = Server::start(&binary(version).await, &path, &home).await.unwrap();
        let mut today = Self { server, dir, services, mark: 0 };
        today.prepare().await;
        today.mark = today.server.log().len();
        today
    }

    async fn connect(&self, user: &str, inbox: Option<&str>) -> Client {
        let mut options =
            ConnectOptions::with_user_and_password(user.to_owned(), format!("{user}-password"))
                .name(format!("{user}-1"));
        if let Some(inbox) = inbox {
            options = options.custom_inbox_prefix(inbox);
        }
        options.connect(self.server.client_url()).await.unwrap()
    }

    /// A client as it has to be under the policy.
    async fn client(&self, user: &str) -> Client {
        self.connect(user, Some(&format!("_INBOX.{user}"))).await
    }

    /// What an operator makes, before anybody connects.
    async fn prepare(&self) {
        let client = self.connect("admin", None).await;
        let context = jetstream::new(client.clone());
        for bucket in ["orders", "python", "javascript"] {
            let config = kv::Config { bucket: bucket.to_owned(), ..kv::Config::default() };
            context.create_key_value(config).await.unwrap();
        }
        let stream = jetstream::stream::Config {
            name: "EVENTS".to_owned(),
            subjects: vec!["events.>".to_owned()],
            ..Default::default()
        };
        let stream = context.create_stream(stream).await.unwrap();
        let consumer = jetstream::consumer::pull::Config {
            durable_name: Some("ship".to_owned()),
            ..Default::default()
        };
        stream.create_consumer(consumer).await.unwrap();
        client.flush().await.unwrap();
    }

    /// Everything that its services do.
    async fn work(&self) {
        let quotes = self.client("quotes").await;
        let mut requests = quotes.queue_subscribe("quotes.>", "quoting".to_owned()).await.unwrap();
        quotes.flush().await.unwrap();
        let answering = quotes.clone();
        let answers = tokio::spawn(async move {
            let request = requests.next().await.unwrap();
            let answer = format!("{PAYLOAD}-42").into();
            answering.publish(request.reply.unwrap(), answer).await.unwrap();
            answering.flush().await.unwrap();
        });

        let orders = self.client("orders").await;
        let context = jetstream::new(orders.clone());
        let bucket = context.get_key_value("orders").await.unwrap();
        bucket.put("k1", format!("{PAYLOAD}-1").into()).await.unwrap();
        bucket.put("line.k2", format!("{PAYLOAD}-2").into()).await.unwrap();
        let sent = context.publish("events.orders.new", PAYLOAD.into()).await.unwrap();
        sent.await.unwrap();
        orders.request("quotes.eur", PAYLOAD.into()).await.unwrap();
        answers.await.unwrap();

        let shipping = self.client("shipping").await;
        let context = jetstream::new(shipping.clone());
        let bucket = context.get_key_value("orders").await.unwrap();
        assert!(bucket.get("k1").await.unwrap().is_some());
        let mut watch = bucket.watch_with_history("line.>").await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap().key, "line.k2");
        drop(watch);
        let consumer: PullConsumer =
            context.get_consumer_from_stream("ship", "EVENTS").await.unwrap();
        let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
        messages.next().await.unwrap().unwrap().double_ack().await.unwrap();
        for client in [quotes, orders, shipping] {
            client.flush().await.unwrap();
        }

        for (library, service) in [Library::NatsPy, Library::NatsJs].into_iter().zip(&self.services)
        {
            let bucket = &service.name;
            let operations = [
                json!({"op": "open", "bucket": bucket}),
                json!({"op": "put", "bucket": bucket, "key": "k1", "value": PAYLOAD}),
                json!({"op": "get", "bucket": bucket, "key": "k1"}),
                json!({"op": "watch", "bucket": bucket, "keys": ">", "expect": 1}),
            ];
            let done = library.run_at(self.server.client_url(), service, &operations).await;
            assert!(done.iter().all(|line| line["ok"] == true), "{done:?}");
        }
    }

    /// The log since the operator was done, as a file.
    fn trace(&self) -> PathBuf {
        let path = self.dir.path().join("trace.log");
        std::fs::write(&path, self.server.log().get(self.mark..).unwrap()).unwrap();
        path
    }

    /// A folder with the policy, without that part of it.
    fn policy(&self, without: &str) -> PathBuf {
        let mut text = POLICY.to_owned();
        for service in &self.services {
            text = text.replace(&service.name.to_uppercase(), &service.key());
        }
        assert!(text.contains(without), "{without}");
        let folder = tempfile::tempdir_in(self.dir.path()).unwrap().keep();
        std::fs::write(folder.join("policy.toml"), text.replacen(without, "", 1)).unwrap();
        folder
    }
}

fn command(policy: &Path, trace: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_solewriter"));
    command.arg("rehearse").arg(policy).arg("--trace").arg(trace).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn rehearse(policy: &Path, trace: &Path, more: &[&str]) -> Ran {
    ended(command(policy, trace, more).spawn().unwrap()).await
}

async fn ended(child: Child) -> Ran {
    let output = timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let ran = Ran {
        code: output.status.code().unwrap(),
        out: text(output.stdout),
        err: text(output.stderr),
    };
    assert!(!ran.out.contains(PAYLOAD) && !ran.err.contains(PAYLOAD), "{ran:?}");
    ran
}

/// Findings as JSON.
fn findings(ran: &Ran) -> Vec<Value> {
    ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

on_every_server!(a_policy_that_fits_is_silent_and_each_missing_rule_is_named);
/// The policy that fits would have refused nothing; without one of its rules, that rule is what is
/// named, and nothing else.
async fn a_policy_that_fits_is_silent_and_each_missing_rule_is_named(version: &'static str) {
    let today = Today::start(version).await;
    Box::pin(today.work()).await;
    let trace = today.trace();
    let ran = rehearse(&today.policy(""), &trace, &[]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with("nothing would have been refused; "), "{ran:?}");
    assert!(ran.out.contains(", 0 not understood; 5 clients, 0 without a CONNECT"), "{ran:?}");
    for (service, without, key, value) in [
        ("orders", "owns = [\"orders\"]\n", "owns", "orders"),
        ("orders", "publishes = [\"events.orders.>\"]\n", "publishes", "events.orders.new"),
        ("orders", "calls = [\"quotes.*\"]\n", "calls", "quotes.eur"),
        ("shipping", "reads = [\"orders\"]\n", "reads", "orders"),
        ("shipping", "consumes = [\"EVENTS/ship\"]\n", "consumes", "EVENTS/ship"),
        ("quotes", "answers = [\"quotes.>\"]\n", "answers", "quotes.>"),
        ("python", "owns = [\"python\"]\n", "owns", "python"),
        ("javascript", "owns = [\"javascript\"]\n", "owns", "javascript"),
    ] {
        let ran = rehearse(&today.policy(without), &trace, &["--json"]).await;
        assert_eq!(ran.code, 1, "{without}: {ran:?}");
        let found = findings(&ran);
        let [finding] = found.as_slice() else { panic!("{without}: {found:#?}") };
        assert_eq!(finding["service"], service, "{finding}");
        assert_eq!(finding["rule"], json!({"key": key, "value": value}), "{finding}");
        assert!(finding["count"].as_u64().unwrap() > 0, "{finding}");
        assert!(finding["first"].as_str() <= finding["last"].as_str(), "{finding}");
        let text = rehearse(&today.policy(without), &trace, &[]).await;
        let entry = format!("needs [service.{service}] {key} = [\"{value}\"]");
        assert!(text.out.contains(&entry), "{text:?}");
    }
}

on_the_newest_server!(a_client_that_is_no_service_is_told_or_mapped, some_room);
/// A user whose name is no service's, and who uses the default inbox.
async fn a_client_that_is_no_service_is_told_or_mapped(version: &'static str) {
    let today = Today::start(version).await;
    let old = today.connect("old", None).await;
    let bucket = jetstream::new(old.clone()).get_key_value("orders").await.unwrap();
    assert!(bucket.get("k1").await.unwrap().is_none());
    old.flush().await.unwrap();
    let (policy, trace) = (today.policy(""), today.trace());
    let ran = rehearse(&policy, &trace, &[]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.starts_with("no service\n"), "{ran:?}");
    assert!(ran.out.contains("old: publish $JS.API."), "{ran:?}");

    let map = today.dir.path().join("map.toml");
    let with_map = ["--json", "--map", map.to_str().unwrap()];
    std::fs::write(&map, "[[client]]\nname = \"old-*\"\nservice = \"shipping\"\n").unwrap();
    let ran = rehearse(&policy, &trace, &with_map).await;
    let found = findings(&ran);
    let [finding] = found.as_slice() else { panic!("{ran:?}") };
    assert_eq!((&finding["service"], &finding["what"]), (&json!("shipping"), &json!("inbox")));
    assert!(finding["advice"][0].as_str().unwrap().contains("`_INBOX.shipping`"), "{finding}");

    std::fs::write(&map, "[[client]]\nname = \"old-*\"\nservice = \"shiping\"\n").unwrap();
    let ran = rehearse(&policy, &trace, &with_map).await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("map.toml:3:11") && ran.err.contains("`shipping`"), "{ran:?}");
    let ran = rehearse(&policy, Path::new("/nowhere/trace.log"), &[]).await;
    assert_eq!(ran.code, 2, "{ran:?}");
    let ran = rehearse(Path::new("/nowhere"), &trace, &[]).await;
    assert_eq!(ran.code, 2, "{ran:?}");
}

on_the_newest_server!(a_trace_is_followed, some_room);
/// What is refused is told when it happens, once, and there is a summary at the end.
async fn a_trace_is_followed(version: &'static str) {
    let today = Today::start(version).await;
    let log = today.server.log_path().to_owned();
    let policy = today.policy("");
    let mut child = command(&policy, &log, &["--follow"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut until = async |wanted: &str| {
        let found = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains(wanted) {
                    return line;
                }
            }
            panic!("it ended without {wanted}");
        };
        timeout(DEADLINE, found).await.unwrap()
    };
    let quotes = today.client("quotes").await;
    for _ in 0..3 {
        quotes.publish("prices.eur", PAYLOAD.into()).await.unwrap();
    }
    quotes.flush().await.unwrap();
    let line = until("prices.eur").await;
    assert!(line.contains("quotes: publish prices.eur"), "{line}");
    assert!(line.contains("needs [service.quotes] publishes = [\"prices.eur\"]"), "{line}");
    quotes.publish("prices.usd", PAYLOAD.into()).await.unwrap();
    quotes.flush().await.unwrap();
    // The second is the next that is told: the first one's repeats are not.
    let line = until("prices.").await;
    assert!(line.contains("prices.usd"), "{line}");
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let summary = until("would have been refused").await;
    assert!(summary.contains(" lines read"), "{summary}");
    assert_eq!(timeout(DEADLINE, child.wait()).await.unwrap().unwrap().code(), Some(1));
}

/// What the server tells of its streams, as `curl` would have it.
async fn jsz(server: &Server) -> String {
    let address = server.ports().monitoring[0].strip_prefix("http://").unwrap();
    // The older version, in which an answer is one piece.
    http_get(address, "/jsz?accounts=true&streams=true&consumers=true&config=true", "1.0").await.1
}

async fn run(arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_solewriter"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    ended(command.kill_on_drop(true).spawn().unwrap()).await
}

on_every_server!(what_is_learnt_lets_the_same_clients_work_and_is_no_wider);
/// From a trace, and from what the server tells of its streams, comes a policy under which the same
/// clients would be refused nothing, and which gives none of them more than one written by hand.
async fn what_is_learnt_lets_the_same_clients_work_and_is_no_wider(version: &'static str) {
    let today = Today::start(version).await;
    Box::pin(today.work()).await;
    let (trace, by_hand) = (today.trace(), today.policy(""));
    let path = |name: &str| today.dir.path().join(name).display().to_string();
    let (asked, draft, map) = (path("jsz.json"), path("draft"), path("map.toml"));
    std::fs::write(&asked, jsz(&today.server).await).unwrap();
    // The two that log in with an NKEY have no name of their own.
    let named = today.services.iter().map(|service| {
        format!("[[client]]\nnkey = {:?}\nservice = {:?}\n", service.key(), service.name)
    });
    std::fs::write(&map, named.collect::<String>()).unwrap();
    let (trace, config) = (trace.display().to_string(), path("nats-server.conf"));
    let learn = ["learn", "--trace", &trace, "--jsz", &asked, "--map", &map, "--out", &draft];
    let ran = run(&learn).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("wrote 2 files"), "{ran:?}");
    let ran = run(&["check", &draft]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = run(&["rehearse", &draft, "--trace", &trace]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let by_hand = by_hand.display().to_string();
    let ran = run(&["diff", &by_hand, &draft, "--format", "json"]).await;
    let said: Value = serde_json::from_str(&ran.out).unwrap();
    for service in said["services"].as_array().unwrap() {
        assert_eq!(service["gains"], json!([]), "{service:#}");
    }
    // A second time, nothing is written over.
    let again = run(&learn).await;
    assert_eq!(again.code, 1, "{again:?}");
    assert!(
        again.err.contains("services.toml is there already")
            || again.err.contains("buckets.toml is there already"),
        "{again:?}"
    );
    let with_config = [&learn[..], &["--replace", "--server-config", &config, "--json"]].concat();
    let ran = run(&with_config).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(!ran.out.contains("-password") && !ran.err.contains("-password"), "{ran:?}");
    let said: Value = serde_json::from_str(&ran.out).unwrap();
    let codes = said["configuration"].as_array().unwrap().iter().map(|found| &found["code"]);
    assert!(codes.clone().any(|code| code == "no-permissions"), "{said:#}");
    assert_eq!(said["learned"]["questions"], json!([]), "{said:#}");
}
