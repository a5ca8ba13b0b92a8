//! What each client library sends for streams, object stores and the services framework, and that
//! it gets along with permissions as narrow as they can be. `docs/streams.md` shows what was seen;
//! `UPDATE_DOCS=1` writes it there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, pull, push};
use async_nats::jetstream::{self, AckKind, object_store};
use async_nats::service::ServiceExt as _;
use async_nats::{Client, ConnectOptions};
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::clients::{node_modules, python};
use super::stream_facts::{Home, ORDERS, Testbed, User};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const SIZE: usize = 300_000;
/// How names of consumers begin that are the test's; all others are the library's.
const NAMES: [&str; 5] = ["shipping", "workers", "pushed", "own", "named"];
/// Where the inbox is that the declared push consumer delivers to.
const PUSHED: &str = "_INBOX.push.delivered";

#[derive(Clone, Copy)]
pub struct Library {
    /// As in the page.
    word: &'static str,
    pub steps: &'static [&'static str],
    /// What needs more than anybody is granted.
    pub refused: &'static [&'static str],
}

pub const RUST: Library = Library {
    word: "async-nats",
    steps: &[
        "publish",
        "fetch",
        "consume",
        "work",
        "own_durable",
        "ordered",
        "ordered_push",
        "ordered_unnamed",
        "ephemeral",
        "push",
        "direct_get",
        "store_put",
        "store_get",
        "store_list",
        "store_watch",
        "store_link",
        "store_delete",
        "store_seal",
        "found",
    ],
    refused: &["ordered_unnamed", "store_seal"],
};

pub const PYTHON: Library = Library {
    word: "nats.py",
    steps: &[
        "publish",
        "fetch",
        "subscribed",
        "found_by_subject",
        "work",
        "own_durable",
        "ordered",
        "ordered_unnamed",
        "ephemeral",
        "push",
        "direct_get",
        "store_put",
        "store_get",
        "store_list",
        "store_watch",
        "store_delete",
        "store_seal",
        "found",
    ],
    refused: &["ordered_unnamed", "store_seal"],
};

pub const JAVASCRIPT: Library = Library {
    word: "nats.js",
    steps: &[
        "publish",
        "fetch",
        "consume",
        "manager",
        "work",
        "own_durable",
        "ordered",
        "ordered_push",
        "ordered_by_list",
        "ephemeral",
        "ephemeral_unnamed",
        "push",
        "direct_get",
        "store_put",
        "store_get",
        "store_list",
        "store_watch",
        "store_link",
        "store_delete",
        "store_seal",
        "found",
        "finds",
    ],
    refused: &["ordered_by_list", "ephemeral_unnamed", "store_seal"],
};

pub const GO: Library = Library {
    word: "nats.go",
    steps: &[
        "publish",
        "publish_async",
        "fetch",
        "subscribed",
        "found_by_subject",
        "work",
        "own_durable",
        "ordered_unnamed",
        "ephemeral_unnamed",
        "push",
        "direct_get",
        "store_put",
        "store_get",
        "store_list",
        "store_watch",
        "store_link",
        "store_delete",
        "store_seal",
        "found",
    ],
    refused: &["publish_async", "ordered_unnamed", "ephemeral_unnamed", "store_put", "store_seal"],
};

/// What a step is called in the page.
fn title(step: &str) -> &'static str {
    match step {
        "publish" => "publish, with acknowledgement",
        "publish_async" => "`PublishAsync`",
        "fetch" => {
            "fetch from a declared consumer; ack, ack that is confirmed, nak, in progress, term"
        }
        "consume" => "consume it continuously",
        "subscribed" => "`pull_subscribe` with the stream's name, of a consumer that is there",
        "found_by_subject" => "the same without the stream's name",
        "manager" => "`jetstreamManager` as it comes",
        "work" => "take jobs of a work queue, as two workers",
        "own_durable" => "make a durable consumer of its own, and use it",
        "ordered" => "an ordered consumer with a name and one filter",
        "ordered_push" => "the same as a push consumer",
        "ordered_unnamed" => "an ordered consumer without a name",
        "ordered_by_list" => "an ordered consumer with a list of filters, even of one",
        "ephemeral" => "an ephemeral consumer with a name and one filter",
        "ephemeral_unnamed" => "an ephemeral consumer without a name",
        "push" => "a declared push consumer",
        "direct_get" => "a direct get of a subject's last message",
        "store_put" => "put an object, and put it again",
        "store_get" => "get an object",
        "store_list" => "list the objects",
        "store_watch" => "watch the store",
        "store_link" => "link to an object",
        "store_delete" => "delete an object",
        "store_seal" => "seal the store",
        "found" => "be found: add a service with an endpoint, and ask it",
        "finds" => "find a service by its name",
        other => panic!("{other} has no title"),
    }
}

/// The least that a step needs.
fn user(step: &str) -> User {
    const SHIPPING: [&str; 4] = [
        "$JS.API.CONSUMER.INFO.EVENTS.shipping",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.shipping",
        "$JS.ACK.EVENTS.shipping.>",
        "$JS.ACK.*.*.EVENTS.shipping.>",
    ];
    const OWN: [&str; 5] = [
        "$JS.API.CONSUMER.INFO.EVENTS.own",
        "$JS.API.CONSUMER.CREATE.EVENTS.own.events.orders.>",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.own",
        "$JS.ACK.EVENTS.own.>",
        "$JS.ACK.*.*.EVENTS.own.>",
    ];
    const REPLAYS: [&str; 9] = [
        "$JS.API.STREAM.INFO.EVENTS",
        "$JS.API.CONSUMER.CREATE.EVENTS.*.events.orders.>",
        "$JS.API.CONSUMER.INFO.EVENTS.*",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.*",
        "$JS.API.CONSUMER.DELETE.EVENTS.*",
        "$JS.ACK.EVENTS.*.>",
        "$JS.ACK.*.*.EVENTS.*.>",
        "$JS.FC.EVENTS.>",
        "$JS.FC.*.*.EVENTS.>",
    ];
    const READS: [&str; 10] = [
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.INFO.OBJ_invoices",
        "$JS.API.STREAM.MSG.GET.OBJ_invoices",
        "$JS.API.DIRECT.GET.OBJ_invoices.$O.invoices.M.*",
        "$JS.API.CONSUMER.CREATE.OBJ_invoices",
        "$JS.API.CONSUMER.CREATE.OBJ_invoices.*.$O.invoices.>",
        "$JS.API.CONSUMER.DELETE.OBJ_invoices.*",
        "$JS.FC.OBJ_invoices.>",
        "$JS.FC.*.*.OBJ_invoices.>",
    ];
    const OWNS: [&str; 3] =
        ["$O.invoices.C.*", "$O.invoices.M.*", "$JS.API.STREAM.PURGE.OBJ_invoices"];
    let services = |name: &'static str| {
        ["PING", "INFO", "STATS", "SCHEMA"].into_iter().flat_map(move |verb| {
            ["", ".NAME", ".NAME.*"]
                .map(|rest| format!("$SRV.{verb}{}", rest.replace("NAME", name)))
        })
    };
    match step {
        "publish" | "publish_async" => User::new(step, &[ORDERS]),
        "fetch" | "consume" | "subscribed" => User::new(step, &SHIPPING),
        "manager" => User::new(step, &[&SHIPPING[..], &["$JS.API.INFO"]].concat()),
        "found_by_subject" => User::new(step, &[&SHIPPING[..], &["$JS.API.STREAM.NAMES"]].concat()),
        "work" => {
            let subjects = SHIPPING.map(|s| s.replace("EVENTS.shipping", "JOBS.workers"));
            User::new(step, &subjects.each_ref().map(String::as_str))
        }
        "own_durable" => User::new(step, &OWN),
        "push" => {
            let subjects = ["$JS.API.CONSUMER.INFO.EVENTS.pushed", "$JS.ACK.EVENTS.pushed.>"];
            User::new(step, &subjects)
        }
        "direct_get" => User::new(step, &["$JS.API.DIRECT.GET.EVENTS.events.orders.>"]),
        "store_get" | "store_list" | "store_watch" => User::new(step, &READS),
        _ if step.starts_with("store_") => User::new(step, &[&READS[..], &OWNS].concat()),
        "found" => User::new(step, &["quotes.get", "_INBOX.>"])
            .hears(services("quotes-api"))
            .hears(["quotes.get".to_owned()]),
        "finds" => {
            let subjects: Vec<String> = services("quotes-api").collect();
            let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
            User::new(step, &subjects)
        }
        _ => User::new(step, &REPLAYS).denied(&[
            "$JS.API.CONSUMER.*.EVENTS.shipping",
            "$JS.API.CONSUMER.CREATE.EVENTS.shipping.>",
            "$JS.API.CONSUMER.*.*.EVENTS.shipping",
            "$JS.ACK.EVENTS.shipping.>",
            "$JS.ACK.*.*.EVENTS.shipping.>",
        ]),
    }
}

/// A server that logs what it is sent, with a stream, consumers and an object in a store.
async fn testbed(version: &'static str, library: Library) -> Testbed {
    let users: Vec<User> = library.steps.iter().map(|step| user(step)).collect();
    let trace = json!({"trace": true, "max_traced_msg_len": 1});
    let mut testbed = Testbed::start_with(version, Home::App, &users, trace).await;
    testbed.stream("EVENTS", "events.>", json!({"allow_direct": true})).await;
    for _ in 0..500 {
        testbed.store("events.orders.1", "x").await;
    }
    testbed.durable("EVENTS", "shipping", json!({"filter_subject": ORDERS})).await;
    let pushed = json!({"filter_subject": ORDERS, "deliver_subject": PUSHED});
    testbed.durable("EVENTS", "pushed", pushed).await;
    testbed.stream("JOBS", "jobs.>", json!({"retention": "workqueue"})).await;
    testbed.durable("JOBS", "workers", json!({})).await;
    for job in ["1", "2"] {
        testbed.store("jobs.print", job).await;
    }
    let client = connect(testbed.server.client_url(), "admin").await.unwrap();
    let config = object_store::Config {
        bucket: "invoices".to_owned(),
        storage: jetstream::stream::StorageType::Memory,
        ..Default::default()
    };
    let store = jetstream::new(client).create_object_store(config).await.unwrap();
    store.put("a", &mut vec![7; SIZE].as_slice()).await.unwrap();
    testbed
}

async fn connect(url: &str, user: &str) -> Result<Client, async_nats::ConnectError> {
    ConnectOptions::with_user_and_password(user.to_owned(), user.to_owned())
        .custom_inbox_prefix(format!("_INBOX.{user}"))
        .connect(url)
        .await
}

/// One step with async-nats.
#[allow(clippy::too_many_lines)] // It is a table of steps.
pub async fn rust(step: &str, client: Client) -> Result<(), Failure> {
    let mut context = jetstream::new(client.clone());
    context.set_timeout(Duration::from_secs(3));
    let js = &context;
    let filter = ORDERS.to_owned();
    let consumer = async |name: &str| -> Result<consumer::PullConsumer, Failure> {
        Ok(js.get_consumer_from_stream(name, "EVENTS").await?)
    };
    let store = async || js.get_object_store("invoices").await;
    match step {
        "publish" => drop(js.publish("events.orders.1", "x".into()).await?.await?),
        "fetch" => {
            let mut messages =
                consumer("shipping").await?.fetch().max_messages(4).messages().await?;
            let mut next = async || messages.next().await.ok_or("no message")?;
            next().await?.ack().await?;
            next().await?.double_ack().await?;
            next().await?.ack_with(AckKind::Nak(None)).await?;
            let last = next().await?;
            last.ack_with(AckKind::Progress).await?;
            last.ack_with(AckKind::Term).await?;
        }
        "consume" => {
            let messages = consumer("shipping").await?;
            let mut messages = messages.stream().max_messages_per_batch(10).messages().await?;
            for _ in 0..30 {
                messages.next().await.ok_or("no message")??.ack().await?;
            }
        }
        "work" => {
            let mut jobs = BTreeSet::new();
            for _worker in 0..2 {
                let workers: consumer::PullConsumer =
                    js.get_consumer_from_stream("workers", "JOBS").await?;
                let mut messages = workers.fetch().max_messages(1).messages().await?;
                let job = messages.next().await.ok_or("no message")??;
                job.double_ack().await?;
                jobs.insert(job.payload.clone());
            }
            if jobs.len() != 2 {
                return Err("one job came twice".into());
            }
        }
        "own_durable" | "ephemeral" => {
            let durable = (step == "own_durable").then(|| "own".to_owned());
            let config = pull::Config {
                name: durable.clone().or(Some("named-ephemeral".to_owned())),
                durable_name: durable,
                filter_subject: filter,
                ack_policy: AckPolicy::Explicit,
                ..Default::default()
            };
            let made: consumer::PullConsumer =
                js.create_consumer_on_stream(config, "EVENTS").await?;
            let mut messages = made.fetch().max_messages(1).messages().await?;
            messages.next().await.ok_or("no message")??.ack().await?;
        }
        "ordered" | "ordered_unnamed" => {
            let name = (step == "ordered").then(|| "named-pull".to_owned());
            let config = pull::OrderedConfig { name, filter_subject: filter, ..Default::default() };
            let made = js.create_consumer_on_stream(config, "EVENTS").await?;
            let mut messages = made.messages().await?;
            for _ in 0..3 {
                messages.next().await.ok_or("no message")??;
            }
        }
        "ordered_push" => {
            let config = push::OrderedConfig {
                name: Some("named-push".to_owned()),
                deliver_subject: client.new_inbox(),
                filter_subject: filter,
                ..Default::default()
            };
            let made = js.create_consumer_on_stream(config, "EVENTS").await?;
            let mut messages = made.messages().await?;
            for _ in 0..3 {
                messages.next().await.ok_or("no message")??;
            }
        }
        "push" => {
            let pushed: consumer::PushConsumer =
                js.get_consumer_from_stream("pushed", "EVENTS").await?;
            let mut messages = pushed.messages().await?;
            messages.next().await.ok_or("no message")??.ack().await?;
        }
        "direct_get" => {
            let stream = js.get_stream_no_info("EVENTS").await?;
            stream.direct_get_last_for_subject("events.orders.1").await?;
        }
        "store_put" => {
            let store = store().await?;
            for _ in 0..2 {
                store.put("a", &mut vec![7; SIZE].as_slice()).await?;
            }
        }
        "store_get" => {
            let store = store().await?;
            let mut bytes = Vec::new();
            store.get("a").await?.read_to_end(&mut bytes).await?;
            if bytes.len() != SIZE {
                return Err("too short".into());
            }
        }
        "store_list" => {
            let objects: Vec<_> = store().await?.list().await?.try_collect().await?;
            objects.first().ok_or("no object")?;
        }
        "store_watch" => {
            let store = store().await?;
            store.watch_with_history().await?.next().await.ok_or("no object")??;
        }
        "store_link" => {
            let store = store().await?;
            store.add_link("link", &store.info("a").await?).await?;
        }
        "store_delete" => store().await?.delete("a").await?,
        "store_seal" => store().await?.seal().await?,
        "found" => {
            let service = client.service_builder().start("quotes-api", "1.0.0").await?;
            let mut requests = service.endpoint("quotes.get").await?;
            client.flush().await?;
            let asked = tokio::spawn({
                let client = client.clone();
                async move { client.request("quotes.get", "x".into()).await }
            });
            requests.next().await.ok_or("no request")?.respond(Ok("y".into())).await?;
            asked.await??;
        }
        other => panic!("{other} is no step"),
    }
    Ok(())
}

/// Runs every step; gives what went wrong in each.
async fn run(library: Library, url: &str) -> Option<BTreeMap<String, Option<String>>> {
    let mut failures = BTreeMap::new();
    if library.word == RUST.word {
        for step in library.steps {
            let client = connect(url, step).await.unwrap();
            let running = Box::pin(rust(step, client.clone()));
            let outcome = tokio::time::timeout(Duration::from_secs(20), running);
            let outcome = outcome.await.unwrap_or_else(|_| Err("no end".into()));
            failures.insert((*step).to_owned(), outcome.err().map(|e| e.to_string()));
            client.flush().await.unwrap();
        }
        return Some(failures);
    }
    let failed = program(library, &["--server", url]).await?;
    failures.extend(failed);
    Some(failures)
}

/// Runs the library's program; gives what went wrong in each step. Nothing where it cannot be had.
pub async fn program(
    library: Library,
    arguments: &[&str],
) -> Option<BTreeMap<String, Option<String>>> {
    let mut failures = BTreeMap::new();
    let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
    let output = tokio::task::spawn_blocking(move || {
        let mut command = match library.word {
            "nats.py" => {
                let (folder, python) = python();
                let mut command = Command::new(python);
                command.arg(folder.join("streams.py"));
                command
            }
            "nats.js" => {
                let mut command = Command::new("node");
                let folder = node_modules(&clients("js-streams"), &["streams.mjs"]);
                command.arg(folder.join("streams.mjs"));
                command
            }
            _ => Command::new(go()?),
        };
        Some(command.args(&arguments).output().unwrap())
    });
    let output = output.await.unwrap()?;
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let said: Value = serde_json::from_str(line).unwrap();
        let step = said["step"].as_str().unwrap().to_owned();
        failures.insert(step, said["error"].as_str().map(ToOwned::to_owned));
    }
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    Some(failures)
}

fn clients(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(language)
}

/// The program in Go, built once; nothing where it cannot be built.
fn go() -> Option<PathBuf> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(build_go).clone()
}

/// Built with Debian's compiler and its package of nats.go; nothing where they are not installed.
fn build_go() -> Option<PathBuf> {
    const SOURCES: &str = "/usr/share/gocode/src/github.com/nats-io/nats.go";
    if !Path::new(SOURCES).is_dir() || Command::new("go").arg("version").output().is_err() {
        println!(
            "skipped: no Go; `apt-get install golang-go golang-github-nats-io-go-nats-dev` brings it"
        );
        return None;
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = target.join(format!("streams-go-{}", std::process::id()));
    let output = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(clients("go").join("streams.go"))
        .envs([("GO111MODULE", "off"), ("GOPATH", "/usr/share/gocode")])
        .env("GOCACHE", target.join("go-cache"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(program)
}

/// What each user sent, as the page shows it, and who was refused something.
fn sent(log: &str, library: Library) -> (BTreeMap<String, Vec<String>>, BTreeSet<String>) {
    let mut users: BTreeMap<String, String> = BTreeMap::new();
    let mut sent: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut refused = BTreeSet::new();
    for line in log.lines() {
        if line.contains("Publish Violation") || line.contains("Subscription Violation") {
            let by = |step: &str| {
                line.contains(&format!("User \"{step}\""))
                    || line.contains(&format!("user:{step}\""))
            };
            let step = library.steps.iter().find(|step| by(step));
            refused.insert(step.unwrap_or_else(|| panic!("by whom? {line}")).to_string());
            continue;
        }
        let Some((before, command)) = line.split_once("<<- [") else { continue };
        let Some(client) = before.split("cid:").nth(1) else { continue };
        let client = client.split(' ').next().unwrap().to_owned();
        let command = command.trim_end_matches(']');
        if let Some(options) = command.strip_prefix("CONNECT ") {
            // It is no JSON any more where the password is left out.
            let user = options.split("\"user\":").nth(1).and_then(|rest| rest.split('"').nth(1));
            users.insert(client, user.unwrap().to_owned());
            continue;
        }
        let words: Vec<&str> = command.split_whitespace().collect();
        let (Some(step), [verb, subject, rest @ ..]) = (users.get(&client), &words[..]) else {
            continue;
        };
        if !library.steps.contains(&step.as_str()) || subject.starts_with("_INBOX.") {
            continue;
        }
        let subject = shown(subject);
        let shown = match *verb {
            "PUB" | "HPUB" => format!("`{subject}`"),
            "SUB" if rest.len() == 2 => format!("SUB `{subject}` in the queue group `{}`", rest[0]),
            "SUB" => format!("SUB `{subject}`"),
            _ => continue,
        };
        let seen = sent.entry(step.clone()).or_default();
        if !seen.contains(&shown) {
            seen.push(shown);
        }
    }
    (sent, refused)
}

/// A subject without what is different every time.
fn shown(subject: &str) -> String {
    let mut tokens: Vec<String> = subject.split('.').map(ToOwned::to_owned).collect();
    let name = match (tokens[0].as_str(), tokens.get(3).map(String::as_str)) {
        ("$JS", Some("MSG")) if tokens[2] == "CONSUMER" => Some(6),
        ("$JS", _) if tokens.get(2).is_some_and(|t| t == "CONSUMER") => Some(5),
        ("$JS", _) if tokens[1] == "ACK" => {
            tokens.truncate(4);
            tokens.push("…".to_owned());
            Some(3)
        }
        ("$SRV", Some(_)) => Some(3),
        _ => None,
    };
    if let Some(token) = name.and_then(|at| tokens.get_mut(at)) {
        let given = NAMES.into_iter().find(|name| token.starts_with(name));
        given.unwrap_or("…").clone_into(token);
    }
    let chunk = tokens.iter().position(|t| t == "$O").map(|at| at + 3);
    if let Some(at) = chunk.filter(|at| tokens[at - 1] == "C" && at < &tokens.len()) {
        "…".clone_into(&mut tokens[at]);
    }
    tokens.join(".")
}

fn table(library: Library, sent: &BTreeMap<String, Vec<String>>) -> String {
    let mut table = "| what a service does | what the library sends |\n| --- | --- |\n".to_owned();
    for step in library.steps {
        let seen = sent.get(*step).unwrap_or_else(|| panic!("{step} sent nothing"));
        let refused = if library.refused.contains(step) { "**refused**: " } else { "" };
        table += &format!("| {refused}{} | {} |\n", title(step), seen.join("<br>"));
    }
    table
}

/// The part of the page that shows this library is `table`, or becomes it.
fn compare(library: Library, table: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/streams.md");
    let page = std::fs::read_to_string(path).unwrap();
    let mark = format!("<!-- {}: written by tests/e2e/stream_clients.rs -->\n", library.word);
    let (before, rest) = page.split_once(&mark).expect("a place for the table");
    let (was, after) = rest.split_once("<!-- end -->").expect("an end of the table");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{mark}\n{table}\n<!-- end -->{after}")).unwrap();
        return;
    }
    assert!(
        was.trim() == table.trim(),
        "docs/streams.md says something else than what was seen; run with UPDATE_DOCS=1 and look \
         at the diff:\n{table}"
    );
}

async fn gets_along(version: &'static str, library: Library) {
    let testbed = testbed(version, library).await;
    let Some(failures) = run(library, testbed.server.client_url()).await else { return };
    let steps: BTreeSet<&str> = library.steps.iter().copied().collect();
    assert_eq!(failures.keys().map(String::as_str).collect::<BTreeSet<_>>(), steps);
    let (sent, refused) = sent(&testbed.server.log(), library);
    let expected: BTreeSet<&str> = library.refused.iter().copied().collect();
    let refused: BTreeSet<&str> = refused.iter().map(String::as_str).collect();
    assert_eq!(refused, expected, "who met a violation; {failures:#?}");
    let failed = failures.iter().filter(|(_, error)| error.is_some());
    let failed: BTreeSet<&str> = failed.map(|(step, _)| step.as_str()).collect();
    assert_eq!(failed, expected, "what failed; {failures:#?}");
    compare(library, &table(library, &sent));
}

on_every_server!(async_nats_gets_along_with_narrow_permissions);
async fn async_nats_gets_along_with_narrow_permissions(version: &'static str) {
    gets_along(version, RUST).await;
}

on_every_server!(nats_py_gets_along_with_narrow_permissions);
async fn nats_py_gets_along_with_narrow_permissions(version: &'static str) {
    gets_along(version, PYTHON).await;
}

on_every_server!(nats_js_gets_along_with_narrow_permissions);
async fn nats_js_gets_along_with_narrow_permissions(version: &'static str) {
    gets_along(version, JAVASCRIPT).await;
}

on_every_server!(nats_go_gets_along_with_narrow_permissions);
async fn nats_go_gets_along_with_narrow_permissions(version: &'static str) {
    gets_along(version, GO).await;
}
