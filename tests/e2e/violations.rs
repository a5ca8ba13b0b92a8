//! `solewriter violations` beside a real server.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use async_nats::jetstream::message::StreamMessage;
use jiff::Timestamp;
use rustix::process::Signal;
use serde_json::{Value, json};
use solewriter_types::audit_event::DEFAULT_SERVICES_STREAM;
use solewriter_types::server_log::line::{Line, parse};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use super::clients::Library;
use super::deployment::{Deployment, Instance, Prepared, eventually};
use super::raw::Raw;

/// The audit streams, as their admin makes them.
pub async fn create_stream(deployment: &Deployment) {
    deployment.create_audit_streams().await;
}

/// Every message of services.
pub async fn messages(deployment: &Deployment) -> Vec<StreamMessage> {
    let stream = deployment.audit_admin().await.get_stream(DEFAULT_SERVICES_STREAM).await.unwrap();
    let state = stream.get_info().await.unwrap().state;
    let mut found = Vec::new();
    for sequence in state.first_sequence.max(1)..=state.last_sequence {
        found.push(stream.get_raw_message(sequence).await.unwrap());
    }
    found
}

/// What a producer told the audit stream, oldest first.
pub async fn told(deployment: &Deployment, producer: &str) -> Vec<Value> {
    let subject = format!("audit.services.{producer}");
    let of_producer = |m: &StreamMessage| *m.subject == *subject;
    let messages = messages(deployment).await.into_iter().filter(of_producer);
    messages.map(|m| serde_json::from_slice(&m.payload).unwrap()).collect()
}

/// Starts a follower of the server's log.
fn follow(deployment: &Deployment, name: &str, arguments: &[&str]) -> Instance {
    let log = deployment.server.log_path().display().to_string();
    let state = deployment.dir.path().join("violations.json");
    follow_with(deployment, name, &log, &state, arguments)
}

/// Starts a follower of another log, `-` for standard input, with a state of its own.
fn follow_log(deployment: &Deployment, name: &str, followed: &str, more: &[&str]) -> Instance {
    let state = deployment.dir.path().join(format!("{name}.json"));
    follow_with(deployment, name, followed, &state, more)
}

fn follow_with(
    deployment: &Deployment,
    name: &str,
    followed: &str,
    state: &std::path::Path,
    arguments: &[&str],
) -> Instance {
    let log = deployment.dir.path().join(format!("{name}.log"));
    let append = std::fs::File::options().create(true).append(true).open(&log).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .args(["violations", "--nats-servers", deployment.url(), "--log-format", "json"])
        .args(["--log", followed])
        .arg("--state")
        .arg(state)
        .arg("--policy")
        .arg(deployment.files.policy())
        .arg("--nkey-seed")
        .arg(deployment.service("violations").seed_file)
        .args(arguments)
        .stdin(if followed == "-" { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::null())
        .stderr(append)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    Instance { child, log }
}

/// Watches for how long the machine lets nobody go on.
pub struct Stalls {
    stop: tokio::sync::oneshot::Sender<()>,
    longest: std::thread::JoinHandle<f64>,
}

impl Stalls {
    pub fn watch() -> Self {
        const STEP: Duration = Duration::from_millis(10);
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        // A thread of its own, as the follower is one: a runtime that is busy is not the machine.
        let longest = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while stopped.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
                let began = Instant::now();
                std::thread::sleep(STEP);
                longest = longest.max(began.elapsed().saturating_sub(STEP));
            }
            longest.as_secs_f64()
        });
        Self { stop, longest }
    }

    /// The longest time, in seconds.
    pub async fn end(self) -> f64 {
        let _ = self.stop.send(());
        let longest = self.longest;
        tokio::task::spawn_blocking(move || longest.join().unwrap()).await.unwrap()
    }
}

const POLICY: &str = r#"
[service.owner-rust]
nkeys = ["{owner-rust}"]
owns = ["rust"]
[service.owner-python]
nkeys = ["{owner-python}"]
owns = ["python"]
[service.owner-javascript]
nkeys = ["{owner-javascript}"]
owns = ["javascript"]
[service.reader]
nkeys = ["{reader}"]
reads = ["rust", "python", "javascript"]
[service.intruder]
nkeys = ["{intruder}"]
reads = ["rust/open.>", "python/open.>", "javascript/open.>"]
[service.violations]
nkeys = ["{violations}"]
publishes = ["audit.events.violations.>"]
"#;

on_every_server!(each_violation_is_told_once_with_the_true_owner);
/// An owner, a reader and an intruder in each language: whatever the intruder is refused is one
/// line and one event, soon, with the true owner.
#[allow(clippy::too_many_lines, clippy::cast_possible_truncation, clippy::cast_precision_loss)]
async fn each_violation_is_told_once_with_the_true_owner(version: &'static str) {
    let mut deployment = Deployment::start(version, POLICY).await;
    create_stream(&deployment).await;
    let buckets = Library::ALL.map(Library::word);
    deployment.create_buckets(&buckets).await;
    let mut follower = follow(&deployment, "follower", &[]);
    follower.says("connected").await;

    let stalls = Stalls::watch();
    let intruder = deployment.service("intruder");
    let mut expected = BTreeMap::new();
    for library in Library::ALL {
        let b = library.word();
        let on = |op: &str, more: Value| {
            let mut operation = json!({"op": op, "bucket": b});
            operation.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            operation
        };
        let owner = deployment.service(&format!("owner-{b}"));
        let put = on("put", json!({"key": "k1", "value": "1"}));
        let get = on("get", json!({"key": "k1"}));
        let watch = on("watch", json!({"keys": "k1", "expect": 1}));
        let all = [on("open", json!({})), put, get.clone(), watch.clone()];
        for (who, operations) in [
            (&owner, &all[..]),
            (&deployment.service("reader"), &[on("open", json!({})), get, watch][..]),
        ] {
            for line in library.run(&deployment, who, operations).await {
                assert_eq!(line["ok"], true, "{line}");
            }
        }
        let subject = |kind: &str| format!("{kind}.{b}.x");
        let mut tries = all.to_vec();
        tries.push(json!({"op": "subscribe", "subject": subject("events")}));
        let request =
            json!({"op": "request", "subject": subject("svc"), "value": "", "timeout": 1});
        tries.push(request);
        let lines = library.run(&deployment, &intruder, &tries).await;
        assert_eq!(lines[0]["ok"], true, "{lines:?}");
        for line in &lines[1..] {
            assert_eq!(line["error"], "permissions", "{library:?}: {line}");
        }
        let owner = format!("owner-{b}");
        let key = format!("{b}/k1");
        // Two of the libraries ask for a consumer without naming keys.
        let watched = if library == Library::NatsJs { key.clone() } else { b.to_owned() };
        for (operation, on, owner, rule) in [
            // It has an owner: no entry of the intruder's would do.
            ("write", key.clone(), Some(&owner), String::new()),
            ("get", key.clone(), Some(&owner), format!("reads = [\"{key}\"]")),
            ("watch", watched.clone(), Some(&owner), format!("reads = [\"{watched}\"]")),
            ("subscribe", subject("events"), None, format!("subscribes = [\"events.{b}.x\"]")),
            ("publish", subject("svc"), None, format!("publishes = [\"svc.{b}.x\"]")),
        ] {
            let rule = if rule.is_empty() { rule } else { format!("[service.intruder] {rule}") };
            expected.insert((operation.to_owned(), on), (owner.cloned(), rule));
        }
    }

    let events = eventually("all violations in the stream", async || {
        let events = told(&deployment, "violations").await;
        (events.len() >= expected.len()).then_some(events)
    })
    .await;
    follower.signal(Signal::TERM);
    assert!(follower.child.wait().await.unwrap().success());

    let mut found = BTreeMap::new();
    for event in &events {
        let data = &event["data"];
        assert_eq!((&event["type"], &data["count"]), (&json!("solewriter.violation"), &json!(1)));
        assert_eq!(data["service"], "intruder", "{event}");
        assert_eq!(data["nkey"], json!(intruder.key()));
        assert_eq!(data["server"], "test");
        assert!(data["cid"].as_u64().is_some() && data["host"].is_string(), "{event}");
        assert!(data["subject"].is_string() && data["revision"].is_string(), "{event}");
        let text = |field: &str| data[field].as_str().map(ToOwned::to_owned);
        let on = text("keyspace").or_else(|| text("subject")).unwrap();
        let about = (text("owner"), text("missing_rule").unwrap_or_default());
        let twice = found.insert((text("operation").unwrap(), on), about);
        assert!(twice.is_none(), "told twice: {event}");
    }
    assert_eq!(found, expected);

    // The log has the same, by the same ids; and what repeats (a library that tries again) is
    // counted, so that nothing the server logged is missing.
    let lines: Vec<Value> =
        follower.lines().into_iter().filter(|line| line["event"] == "violation").collect();
    assert!(lines.iter().all(|line| line["level"] == "ERROR"), "{lines:?}");
    let firsts: Vec<&Value> = lines.iter().filter(|line| line["repeats"].is_null()).collect();
    let ids = |lines: &[&Value], field: &str| -> BTreeSet<String> {
        lines.iter().map(|line| line[field].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&firsts, "audit"), ids(&events.iter().collect::<Vec<_>>(), "id"));
    let counted: u64 = lines.iter().map(|line| line["count"].as_u64().unwrap()).sum();
    assert_eq!(counted, deployment.violations().len() as u64);

    // Each within a second, at both places. What the machine kept everyone from doing meanwhile is
    // not the follower's: that much later it may be.
    let stall = stalls.end().await;
    let first = |data: &Value| -> Timestamp { data["first"].as_str().unwrap().parse().unwrap() };
    let messages = messages(&deployment).await;
    let stored = messages
        .iter()
        .filter(|message| &*message.subject == "audit.services.violations")
        .map(|message| {
            let event: Value = serde_json::from_slice(&message.payload).unwrap();
            let stored = i128::from(message.time.unix_timestamp_nanos() as i64);
            (stored - first(&event["data"]).as_nanosecond()) as f64 / 1e9
        });
    let logged = firsts.iter().map(|line| {
        let written: Timestamp = line["timestamp"].as_str().unwrap().parse().unwrap();
        (written.as_nanosecond() - first(line).as_nanosecond()) as f64 / 1e9
    });
    for (place, mut delays) in
        [("the stream", stored.collect::<Vec<f64>>()), ("the ERROR line", logged.collect())]
    {
        delays.sort_by(f64::total_cmp);
        let (middle, last) = (delays[delays.len() / 2], delays[delays.len() - 1]);
        println!(
            "from the server's log line to {place}: {} times, half within {middle:.3} s, all within \
             {last:.3} s (the machine stood still for up to {stall:.3} s)",
            delays.len()
        );
        assert_eq!(delays.len(), expected.len(), "{place}");
        assert!(last < 1.0 + stall, "{place}: {delays:.3?}, stall {stall:.3}");
    }
    deployment.instances.clear();
}

const KEPT: &str = r#"
[stream.EVENTS]
subjects = ["events.>"]
[stream.EVENTS.consumer.shipping]
filter = ["events.orders.>"]
[store.invoices]
[service.orders]
nkeys = ["{orders}"]
publishes = ["events.orders.>"]
[service.shipping]
nkeys = ["{shipping}"]
consumes = ["EVENTS/shipping"]
[service.billing]
nkeys = ["{billing}"]
owns = ["store:invoices"]
[service.intruder]
nkeys = ["{intruder}"]
reads = ["store:invoices"]
[service.violations]
nkeys = ["{violations}"]
publishes = ["audit.events.violations.>"]
"#;

on_every_server!(what_is_refused_of_streams_and_stores_is_told_with_who_has_it);
/// A refused acknowledgement is as plain in the log and in the audit stream as a refused put.
async fn what_is_refused_of_streams_and_stores_is_told_with_who_has_it(version: &'static str) {
    let deployment = Deployment::start(version, KEPT).await;
    create_stream(&deployment).await;
    let mut follower = follow(&deployment, "follower", &[]);
    follower.says("connected").await;
    let mut raw = Raw::login(&deployment, &deployment.service("intruder")).await;
    let taken = "EVENTS/shipping";
    let tries = [
        ("$JS.ACK.EVENTS.shipping.1.7.7.1795919999000000000.0", "ack", taken, "shipping"),
        ("$JS.ACK._.ACtJ5Xr0.EVENTS.shipping.1.7.7.1795919999000.0", "ack", taken, "shipping"),
        ("$JS.API.CONSUMER.MSG.NEXT.EVENTS.shipping", "consume", taken, "shipping"),
        ("$JS.API.CONSUMER.DELETE.EVENTS.shipping", "administer", taken, "shipping"),
        ("$JS.API.STREAM.MSG.GET.EVENTS", "replay", "EVENTS", "orders"),
        ("events.orders.new", "publish", "EVENTS", "orders"),
        ("$O.invoices.C.abc", "write", "store:invoices", "billing"),
        ("$JS.API.STREAM.PURGE.OBJ_invoices", "purge", "store:invoices", "billing"),
    ];
    for (subject, ..) in tries {
        let said = raw.publish(subject, b"").await;
        assert_eq!(said, Err(format!("Permissions Violation for Publish to \"{subject}\"")));
    }
    let events = eventually("all violations in the stream", async || {
        let events = told(&deployment, "violations").await;
        (events.len() >= tries.len()).then_some(events)
    })
    .await;
    follower.signal(Signal::TERM);
    assert!(follower.child.wait().await.unwrap().success());
    let brief = |data: &Value| {
        let text = |field: &str| data[field].as_str().unwrap_or_default().to_owned();
        let about = match (text("stream"), text("consumer"), text("store")) {
            (stream, consumer, _) if !consumer.is_empty() => format!("{stream}/{consumer}"),
            (stream, _, _) if !stream.is_empty() => stream,
            (_, _, store) => format!("store:{store}"),
        };
        [text("subject"), text("operation"), about, text("owner")]
    };
    let expected: BTreeSet<[String; 4]> =
        tries.iter().map(|(s, o, a, w)| [*s, *o, *a, *w].map(ToOwned::to_owned)).collect();
    let lines = follower.lines();
    let lines = lines.iter().filter(|line| line["event"] == "violation");
    let streamed: BTreeSet<_> = events.iter().map(|event| brief(&event["data"])).collect();
    let logged: BTreeSet<_> = lines.map(brief).collect();
    assert_eq!(streamed, expected);
    assert_eq!(logged, expected);
    let detail = |subject: &str| {
        let found = events.iter().find(|event| event["data"]["subject"] == subject).unwrap();
        found["data"]["detail"].as_str().unwrap_or_default().to_owned()
    };
    let why = detail(tries[0].0);
    assert!(why.starts_with("shipping consumes EVENTS/shipping ("), "{why}");
    let why = detail("events.orders.new");
    assert!(why.starts_with("orders publishes events.orders.> ("), "{why}");
}

on_every_server!(a_follower_that_is_killed_loses_nothing_and_tells_nothing_twice);
/// Killed again and again, while the server's log is renamed again and again.
async fn a_follower_that_is_killed_loses_nothing_and_tells_nothing_twice(version: &'static str) {
    let prepared = Prepared::new();
    let log = prepared.files.dir.join("nats.log");
    let prepared = prepared.with_server(
        "listen: $CLIENT_LISTEN",
        &format!(
            "listen: $CLIENT_LISTEN\nlog_file: {:?}\nlogfile_size_limit: 30000",
            log.to_str().unwrap()
        ),
    );
    let deployment = prepared.start(version, POLICY).await;
    create_stream(&deployment).await;
    let mut raw = Raw::login(&deployment, &deployment.service("intruder")).await;
    for round in 0..6 {
        let mut follower = follow(&deployment, "follower", &["--window", "1s"]);
        let before = told(&deployment, "violations").await.len();
        for i in 0..150 {
            let puts =
                format!("PUB $KV.orders.k{round}.{i} 1\r\nx\r\nPUB $KV.orders.same 1\r\nx\r\n");
            raw.send(puts.as_bytes()).await;
            // At the very first one too: a follower that knows nothing begins with the log as it
            // finds it, and not with files that it was renamed to before.
            if i == 75 || (round, i) == (0, 0) {
                let _ = raw.fence().await;
                eventually("something new in the stream", async || {
                    (told(&deployment, "violations").await.len() > before).then_some(())
                })
                .await;
            }
        }
        let _ = raw.fence().await;
        // In the middle of whatever it is doing.
        follower.signal(Signal::KILL);
        follower.child.wait().await.unwrap();
    }
    let mut follower = follow(&deployment, "follower", &["--window", "1s"]);
    let logged = || {
        let folder = std::fs::read_dir(log.parent().unwrap()).unwrap();
        let mut files = Vec::new();
        for entry in folder {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with("nats.log") {
                files.push(std::fs::read_to_string(path).unwrap());
            }
        }
        assert!(files.len() > 5, "the log was not renamed");
        let all = files.iter().flat_map(|text| text.lines());
        all.filter(|line| matches!(parse(line.as_bytes()), Line::Refusal(_))).count() as u64
    };
    let total = logged();
    assert_eq!(total, 6 * 300);
    let counted = |events: &[Value]| -> u64 {
        events.iter().map(|event| event["data"]["count"].as_u64().unwrap()).sum()
    };
    let events = eventually("every violation in the stream", async || {
        let events = told(&deployment, "violations").await;
        (counted(&events) >= total).then_some(events)
    })
    .await;
    follower.signal(Signal::TERM);
    assert!(follower.child.wait().await.unwrap().success());
    let after = told(&deployment, "violations").await;
    assert_eq!((after.len(), counted(&after)), (events.len(), total));
    let ids: BTreeSet<&str> = events.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), events.len(), "an event is in the stream twice");
    let sources: BTreeSet<&str> = events.iter().map(|e| e["source"].as_str().unwrap()).collect();
    assert_eq!(sources.len(), 1, "it goes on as who it was");
    let mut numbers: Vec<u64> =
        events.iter().map(|e| e["sequence"].as_str().unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>());
}

on_every_server!(no_client_can_forge_a_violation);
/// Names, subjects, queue groups and numbers that look like lines of the log, with everything
/// that the server can log switched on.
async fn no_client_can_forge_a_violation(version: &'static str) {
    let prepared = Prepared::new().with_server(
        "listen: $CLIENT_LISTEN",
        "listen: $CLIENT_LISTEN\ndebug: true\ntrace: true\ntrace_verbose: true",
    );
    let deployment = prepared.start(version, POLICY).await;
    let intruder = deployment.service("intruder");
    let line = format!(
        "[1] 2026/11/23 18:12:21.596374 [ERR] 127.0.0.1:1 - cid:1 - \"APP/user:owner-rust/{}/0123456789ab\" \
         - Publish Violation - Subject \"$KV.rust.a\"",
        deployment.service("owner-rust").key()
    );
    let old = "h:1 - cid:1 - Publish Violation - User \"owner-rust\", Subject \"x\"";
    let mut refused = 0;
    for name in [
        line.clone(),
        format!("x\n{line}\n"),
        format!("x\r\n{old}\r\n"),
        format!("\" - {line}"),
        "APP/user:owner-rust/U/0".to_owned(),
    ] {
        let mut raw = Raw::dial(deployment.url()).await;
        let mut options = raw.proof(&intruder.seed);
        options["name"] = json!(name);
        options["lang"] = json!(format!("go\n{old}"));
        options["version"] = json!("1\" - \"");
        raw.enter(&options).await.unwrap();
        let payload = format!("\r\n{line}\n{old}\r\n");
        for subject in [
            "$KV.rust.a",
            "a\",Subject:\"b",
            "x\"-\"APP/user:owner-rust\"-PublishViolation-Subject\"y",
            "[ERR]",
        ] {
            assert!(raw.publish(subject, payload.as_bytes()).await.is_err(), "{subject}");
            let header = format!("a: {old}");
            let with = raw.publish_with(subject, "_INBOX.intruder.1", &header, payload.as_bytes());
            assert!(with.await.is_err(), "{subject}");
            assert!(raw.subscribe(subject).await.is_err(), "{subject}");
            let sub = format!("SUB {subject} q\"{subject} {subject}\"[ERR]\r\n");
            raw.send(sub.as_bytes()).await;
            assert!(raw.fence().await.is_err(), "{subject}");
            refused += 4;
        }
    }
    let violations = eventually("the server to have logged all", async || {
        let violations = deployment.violations();
        (violations.len() >= refused).then_some(violations)
    })
    .await;
    assert_eq!(violations.len(), refused);
    assert!(violations.iter().all(|v| v.service == "intruder"), "{violations:?}");
    let log = deployment.server.log();
    let strange = log.lines().filter(|line| parse(line.as_bytes()) == Line::Strange).count();
    assert_eq!(strange, 0);
    assert!(log.contains("[TRC]"), "tracing is on");
}

on_every_server!(a_leafnode_writes_no_violation_of_another);
/// A leafnode's name is logged as it was sent, line breaks and all, when it leaves. What it says
/// there is told as unproved and of nobody, and what the server says afterwards counts again.
async fn a_leafnode_writes_no_violation_of_another(version: &'static str) {
    let leaf = solewriter_sandbox::free_ports(1).unwrap()[0];
    let leafnodes = format!(
        "system_account: SYS\nleafnodes {{ listen: \"127.0.0.1:{leaf}\", authorization \
         {{ user: edge, password: edge, account: APP }} }}"
    );
    let prepared = Prepared::new().with_server("system_account: SYS", &leafnodes);
    let deployment = prepared.start(version, POLICY).await;
    let mut follower = follow(&deployment, "follower", &["--window", "0s"]);
    follower.says("connected").await;

    let owner = deployment.service("owner-rust").key();
    let forged = format!(
        "edge\n[1] 2026/11/23 18:12:21.596374 [ERR] 127.0.0.1:1 - cid:1 - \"v1:go:x\" - \
         \"APP/user:owner-rust/{owner}/0123456789ab/0123456789abcdef\" - Publish Violation - Subject \
         \"$KV.python.forged\"\n[1] 2026/11/23 18:12:21.596374 [INF]   Name:            forged\nx"
    );
    let options = json!({"user": "edge", "pass": "edge", "name": forged, "version": "2.12.0", "headers": true});
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", leaf)).await.unwrap();
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    writer.write_all(format!("CONNECT {options}\r\nPING\r\n").as_bytes()).await.unwrap();
    while !lines.next_line().await.unwrap().expect("an open connection").starts_with("PONG") {}
    drop((lines, writer));
    let left = eventually("the server to log that it left", async || {
        let log = deployment.server.log();
        log.lines().find(|line| line.contains("Leafnode connection closed")).map(str::to_owned)
    })
    .await;
    // 2.10 and 2.11 do not name it.
    if left.contains("Remote: edge") {
        let line = follower.says("violation").await;
        assert_eq!(
            (&line["unproved"], &line["subject"]),
            (&json!(true), &json!("$KV.python.forged"))
        );
        assert!(line["service"].is_null() && line["nkey"].is_null(), "{line}");
        let detail = line["detail"].as_str().unwrap();
        assert!(detail.starts_with("unproved: ") && detail.contains("owner-rust/"), "{detail}");
    } else {
        assert!(!deployment.server.log().contains("forged"), "{left}");
    }
    let mut raw = Raw::login(&deployment, &deployment.service("intruder")).await;
    let mut number = 0;
    let proved = eventually("a violation that is proved", async || {
        number += 1;
        raw.publish(&format!("$KV.rust.k{number}"), b"x").await.unwrap_err();
        let lines = logged(&follower.log);
        lines.into_iter().find(|line| line["service"] == "intruder")
    })
    .await;
    assert!(proved["unproved"].is_null(), "{proved}");
    assert_ne!(proved["server"], "forged", "{proved}");
    for line in logged(&follower.log) {
        assert_ne!(line["service"], "owner-rust", "{line}");
    }
}

/// The violations in the log of a follower.
fn logged(log: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["event"] == "violation").collect()
}

on_every_server!(a_follower_without_a_right_to_tell_does_not_go_round_in_circles);
/// What forbids the follower its own subject is in the log that it follows.
async fn a_follower_without_a_right_to_tell_does_not_go_round_in_circles(version: &'static str) {
    let policy = POLICY.replace("publishes = [\"audit.events.violations.>\"]", "calls = [\"x\"]");
    let mut deployment = Deployment::start(version, &policy).await;
    create_stream(&deployment).await;
    let mut follower = follow(&deployment, "follower", &["--window", "0s"]);
    follower.says("connected").await;
    let mut raw = Raw::login(&deployment, &deployment.service("intruder")).await;
    raw.publish("$KV.rust.k1", b"x").await.unwrap_err();
    let first = follower.says_where("violation", |line| line["service"] == "intruder").await;
    assert_eq!(first["keyspace"], "rust/k1");
    // It tries again, and each try is a violation of its own, which it logs and does not publish.
    let own = |line: &Value| line["event"] == "violation" && line["service"] == "violations";
    eventually("its own violations in its log", async || {
        (follower.lines().iter().filter(|line| own(line)).count() >= 2).then_some(())
    })
    .await;
    let state = || -> Value {
        let text = std::fs::read(deployment.dir.path().join("violations.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    follower.signal(Signal::TERM);
    assert!(follower.child.wait().await.unwrap().success());
    let waiting = state()["outbox"].as_array().unwrap().len();
    assert_eq!(waiting, 1, "the one event waits for the right to be told");

    // With the right, it is told, by the next start.
    deployment.write_policy(POLICY);
    deployment.instances[0].says("policy_changed").await;
    let _again = follow(&deployment, "again", &["--window", "0s"]);
    let events = eventually("the event", async || {
        let events = told(&deployment, "violations").await;
        (!events.is_empty()).then_some(events)
    })
    .await;
    assert_eq!(events[0]["id"], first["audit"]);
}

/// One server's log at 10,000 violations a second, for half a minute: the real binary, with its
/// state, its events and its log. `kinds` is after how many lines they repeat.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
#[allow(clippy::too_many_lines)]
async fn ten_thousand_a_second(version: &'static str, kinds: usize) {
    const RATE: usize = 10_000;
    const LENGTH: Duration = Duration::from_secs(25);
    let deployment = Deployment::start(version, POLICY).await;
    create_stream(&deployment).await;
    let key = deployment.service("intruder").key();
    let log = deployment.dir.path().join("nats-busy.log");
    let file = std::fs::File::create(&log).unwrap();
    let path = log.to_str().unwrap();
    let mut follower =
        follow_log(&deployment, "busy", path, &["--server-name", "busy", "--log-times", "utc"]);
    follower.says("connected").await;
    let pid = follower.child.id().unwrap();

    let writing = tokio::task::spawn_blocking(move || {
        let mut file = std::io::BufWriter::with_capacity(1 << 20, file);
        let (began, mut written) = (Instant::now(), 0);
        while began.elapsed() < LENGTH {
            let due = (began.elapsed().as_secs_f64() * RATE as f64) as usize;
            while written < due {
                let kind = written % kinds;
                let now = format!("{:.6}", Timestamp::now()).replace('-', "/").replace('T', " ");
                let now = now.trim_end_matches('Z');
                writeln!(
                    file,
                    "[1] {now} [ERR] 127.0.0.1:51792 - cid:{} - \"v2:rust:x\" - \
                     \"APP/user:intruder/{key}/0123456789ab\" - Publish Violation - Subject \
                     \"$KV.rust.k{kind}\"",
                    kind % 1000
                )
                .unwrap();
                written += 1;
            }
            file.flush().unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        written
    });
    let memory = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().to_owned();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
    };
    let mut sizes = Vec::new();
    while !writing.is_finished() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        sizes.push(memory());
    }
    let written = writing.await.unwrap();
    let ended = Instant::now();
    // Either it keeps up, and then nearly everything is read by now, or it says how far behind it is.
    let position = || -> u64 {
        let state = std::fs::read(deployment.dir.path().join("busy.json")).unwrap();
        let state: Value = serde_json::from_slice(&state).unwrap();
        state["position"]["offset"].as_u64().unwrap()
    };
    let length = std::fs::metadata(&log).unwrap().len();
    let left = length - position();
    let behind: Vec<Value> =
        follower.lines().into_iter().filter(|line| line["event"] == "behind").collect();
    let read = (1.0 - left as f64 / length as f64) * written as f64;
    // Where each line is a violation of its own, the rest may take minutes.
    let patience = Instant::now() + Duration::from_secs(240);
    while position() < length && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let late = ended.elapsed();
    sizes.push(memory());
    follower.signal(Signal::TERM);
    follower.child.wait().await.unwrap();
    let stopped = follower.lines().into_iter().find(|l| l["event"] == "stopped").unwrap();
    println!(
        "{kinds} kinds: {written} lines in {LENGTH:?}, {read:.0} read by then ({:.0} a second), the \
         rest {late:.1?} later; {} times behind, the last {:?}; memory {sizes:?} MiB; {stopped}",
        read / LENGTH.as_secs_f64(),
        behind.len(),
        behind.last(),
    );
    let keeps_up = left < length / 10;
    assert!(keeps_up || !behind.is_empty(), "{left} of {length} bytes unread, and nothing is said");
    assert!(behind.iter().all(|line| line["bytes"].as_u64().is_some()), "{behind:?}");
    let early = sizes[sizes.len() / 3];
    let most = sizes.iter().max().unwrap();
    assert!(*most <= early + 64, "memory grows: {sizes:?} MiB");
    let is_read = position() == length;
    assert!(is_read || stopped["waiting"].as_u64() > Some(0), "it stopped reading: {stopped}");
    assert!(!is_read || stopped["violations"] == written, "{stopped}");
}

#[ignore = "takes a minute, and the machine for itself"]
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_repeated_violations_a_second() {
    let version = "2.15.1";
    ten_thousand_a_second(version, 1000).await;
}

#[ignore = "takes minutes, and the machine for itself"]
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_different_violations_a_second() {
    let version = "2.15.1";
    ten_thousand_a_second(version, usize::MAX).await;
}

on_every_server!(standard_input_is_resumed_too);
/// Standard input has no positions: what is piped in again is known again, and not told twice.
async fn standard_input_is_resumed_too(version: &'static str) {
    let deployment = Deployment::start(version, POLICY).await;
    create_stream(&deployment).await;
    let mut raw = Raw::login(&deployment, &deployment.service("intruder")).await;
    let mut refused = async |numbers: std::ops::Range<u32>| {
        for number in numbers {
            raw.publish(&format!("$KV.rust.k{number}"), b"x").await.unwrap_err();
        }
    };
    let pipe = async |arguments: &[&str]| {
        let mut follower = follow_log(&deployment, "piped", "-", arguments);
        let mut input = follower.child.stdin.take().unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut input, deployment.server.log().as_bytes())
            .await
            .unwrap();
        drop(input);
        assert!(follower.child.wait().await.unwrap().success());
    };
    refused(0..20).await;
    eventually("the server's log", async || (deployment.violations().len() >= 20).then_some(()))
        .await;
    pipe(&[]).await;
    assert_eq!(told(&deployment, "violations").await.len(), 20);
    // Everything again, and some more: as `journalctl --lines` gives it after a restart.
    refused(20..30).await;
    eventually("the server's log", async || (deployment.violations().len() >= 30).then_some(()))
        .await;
    pipe(&[]).await;
    let events = told(&deployment, "violations").await;
    let keys: BTreeSet<&str> =
        events.iter().map(|e| e["data"]["keyspace"].as_str().unwrap()).collect();
    assert_eq!((events.len(), keys.len()), (30, 30), "{keys:?}");
    let sources: BTreeSet<&str> = events.iter().map(|e| e["source"].as_str().unwrap()).collect();
    assert_eq!(sources.len(), 1, "it goes on as who it was");
}
