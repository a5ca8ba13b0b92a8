//! The guard inside a service, against a real server.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use solewriter_guard::{self, Error, Guarded, Options, RespondError};
use solewriter_types::kv_operation::{Act, Operation};
use tokio::time::timeout;

use super::deployment::{DEADLINE, Deployment, eventually, read};
use super::raw::Raw;
use super::violations::{create_stream, told};

const POLICY: &str = r#"
[service.owner]
nkeys = ["{owner}"]
owns = ["rust"]
answers = ["svc.owner.>"]
publishes = ["audit.events.owner.>"]
[service.intruder]
nkeys = ["{intruder}"]
reads = ["rust/open.>"]
calls = ["svc.owner.>"]
publishes = ["audit.events.intruder.>"]
[service.silenced]
nkeys = ["{silenced}"]
calls = ["svc.owner.>"]
"#;

async fn connect(deployment: &Deployment, name: &str) -> Guarded {
    let service = deployment.service(name);
    let options = Options::new(name, service.seed.expose()).window(Duration::from_secs(600));
    solewriter_guard::connect(deployment.url(), options).await.unwrap()
}

fn denied<T: std::fmt::Debug, E: std::fmt::Debug>(
    outcome: Result<T, Error<E>>,
) -> (String, Operation) {
    match outcome {
        Err(Error::Denied(denied)) => {
            assert!(denied.to_string().starts_with(&format!("permission denied on {}", denied.on)));
            (denied.on, denied.operation)
        }
        other => panic!("{other:?}"),
    }
}

/// Operation, keyspace or subject, and count of each violation.
fn brief(events: &[Value]) -> Vec<(String, String, u64)> {
    let violations = events.iter().filter(|event| event["type"] == "solewriter.violation");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    violations
        .map(|event| {
            let data = &event["data"];
            let on = if data["keyspace"].is_null() { "subject" } else { "keyspace" };
            (text(&data["operation"]), text(&data[on]), data["count"].as_u64().unwrap())
        })
        .collect()
}

on_every_server!(a_refusal_is_said_at_once_and_told_once);
async fn a_refusal_is_said_at_once_and_told_once(version: &'static str) {
    let deployment = Deployment::start(version, POLICY).await;
    create_stream(&deployment).await;
    deployment.create_buckets(&["rust"]).await;
    let owner = connect(&deployment, "owner").await;
    let own = owner.kv("rust").await.unwrap();
    own.put("k1", "1".into()).await.unwrap();
    own.put("open.x", "2".into()).await.unwrap();

    let intruder = connect(&deployment, "intruder").await;
    let began = Instant::now();
    assert_eq!(
        denied(intruder.kv("orders").await.map(|_| ())),
        ("orders".to_owned(), Operation::Open)
    );
    let rust = intruder.kv("rust").await.unwrap();
    assert_eq!(rust.get("open.x").await.unwrap().unwrap(), "2");
    let on = |on: &str, operation| (on.to_owned(), operation);
    assert_eq!(denied(rust.put("k1", "x".into()).await), on("rust/k1", Operation::Write));
    assert_eq!(denied(rust.delete("k2").await), on("rust/k2", Operation::Write));
    assert_eq!(denied(rust.get("k1").await), on("rust/k1", Operation::Get));
    assert_eq!(
        denied(Box::pin(rust.watch("k1")).await.map(|_| ())),
        on("rust/k1", Operation::Watch)
    );
    let request = intruder.request("svc.other", "x".into()).await;
    assert_eq!(denied(request), on("svc.other", Operation::Publish));
    // Nothing of it waited for a timeout, which is seconds for each.
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());

    let mut news = intruder.violations();
    let _subscription =
        intruder.client().queue_subscribe("events.x", "q".to_owned()).await.unwrap();
    let refused = timeout(DEADLINE, news.recv()).await.unwrap().unwrap();
    assert_eq!((refused.act, refused.subject.as_str()), (Act::Subscribe, "events.x"));
    assert_eq!(refused.queue.as_deref(), Some("q"));
    // Again, and again.
    denied(rust.put("k1", "x".into()).await);
    denied(rust.put("k1", "x".into()).await);
    for _ in 0..2 {
        timeout(DEADLINE, news.recv()).await.unwrap().unwrap();
    }
    intruder.close().await;
    let server_log = deployment.violations();

    let events = told(&deployment, "intruder").await;
    let mut found = brief(&events);
    // The first is told by itself, and how many the others are, the server's log says below.
    let repeats = found.split_off(7);
    assert!(!repeats.is_empty(), "{found:?}");
    for (operation, on, _) in &repeats {
        assert_eq!((operation.as_str(), on.as_str()), ("write", "rust/k1"));
    }
    let expected = [
        ("open", "orders"),
        ("write", "rust/k1"),
        ("write", "rust/k2"),
        ("get", "rust/k1"),
        ("watch", "rust"),
        ("publish", "svc.other"),
        ("subscribe", "events.x"),
    ];
    let expected: Vec<_> =
        expected.map(|(operation, on)| (operation.to_owned(), on.to_owned(), 1)).into();
    assert_eq!(found, expected);
    let total: u64 = brief(&events).iter().map(|(_, _, count)| count).sum();
    assert_eq!(total, server_log.len() as u64, "{server_log:?}");
    for event in &events {
        let data = &event["data"];
        assert_eq!((&data["service"], &data["seen_by"]), (&"intruder".into(), &"client".into()));
        assert_eq!(data["nkey"], deployment.service("intruder").key());
        assert_eq!(data["server"], "test");
        assert!(data["cid"].as_u64().unwrap() > 0);
    }
    assert_eq!(intruder.dropped(), (0, 0));

    // The confused deputy: an owner that answers, and a question that wants the answer in the
    // owner's own bucket.
    let mut questions = owner.client().subscribe("svc.owner.x").await.unwrap();
    owner.client().flush().await.unwrap();
    let mut raw = Raw::login(&deployment, &deployment.service("intruder")).await;
    let before = deployment.content("rust").await.len();
    let asked = async {
        raw.publish_with("svc.owner.x", "$KV.rust.k1", "", b"x").await.unwrap();
        futures_util::StreamExt::next(&mut questions).await.unwrap()
    };
    let question = timeout(DEADLINE, asked).await.unwrap();
    match owner.respond(&question, "mine".into()).await {
        Err(RespondError::NotAnInbox(reply)) => assert_eq!(reply, "$KV.rust.k1"),
        other => panic!("{other:?}"),
    }
    owner.close().await;
    assert_eq!(deployment.content("rust").await.len(), before);
    let events = told(&deployment, "owner").await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["type"], "solewriter.trouble");
    assert_eq!(events[0]["data"]["reason"], "reply_not_inbox");
}

on_every_server!(a_guard_without_a_right_to_tell_does_not_go_round_in_circles);
async fn a_guard_without_a_right_to_tell_does_not_go_round_in_circles(version: &'static str) {
    let deployment = Deployment::start(version, POLICY).await;
    create_stream(&deployment).await;
    let silenced = connect(&deployment, "silenced").await;
    for subject in ["a", "b", "c", "d"] {
        let outcome = silenced.request(subject, "x".into()).await;
        assert_eq!(denied(outcome).0, subject);
    }
    eventually("the guard to give up telling", async || (silenced.dropped().1 >= 4).then_some(()))
        .await;
    silenced.close().await;
    let (own, others): (Vec<_>, Vec<_>) = deployment
        .violations()
        .into_iter()
        .partition(|violation| violation.act.starts_with("publish audit.events."));
    assert_eq!(others.len(), 4);
    // One try for each event that was on its way before the first refusal came back.
    assert!((1..=4).contains(&own.len()), "{own:?}");
    assert_eq!(silenced.dropped().0, 0);
}

on_every_server!(the_example_service_is_guarded);
/// The example in `examples/`, as its own process.
async fn the_example_service_is_guarded(version: &'static str) {
    let mut deployment = Deployment::sample(version).await;
    create_stream(&deployment).await;
    deployment.create_buckets(&["orders", "invoices"]).await;
    let (url, seed) = (deployment.url().to_owned(), deployment.files.seed_file("orders"));
    let (out, err) = (deployment.dir.path().join("out"), deployment.dir.path().join("err"));
    let (stdout, stderr) = (out.clone(), err.clone());
    let mut child = tokio::task::spawn_blocking(move || {
        Command::new(example())
            .env("NATS_URL", url)
            .env("SEED_FILE", seed)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(stdout).unwrap())
            .stderr(std::fs::File::create(stderr).unwrap())
            .spawn()
            .unwrap()
    })
    .await
    .unwrap();
    let events = eventually("the example's violations in the stream", async || {
        let events = told(&deployment, "orders").await;
        assert_eq!(child.try_wait().unwrap(), None, "it ended: {}{}", read(&out), read(&err));
        (events.len() >= 2 && read(&out).contains("ready")).then_some(events)
    })
    .await;
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert!(status.success(), "{}", read(&err));
    let said = "orders/1001 is at revision 1\npermission denied on invoices (open, subject \
                \"$JS.API.STREAM.INFO.KV_invoices\")\nready\n";
    assert_eq!(read(&out), said);
    let expected = [("open", "invoices"), ("subscribe", "svc.orders.>")];
    let expected: Vec<_> =
        expected.map(|(operation, on)| (operation.to_owned(), on.to_owned(), 1)).into();
    assert_eq!(brief(&events), expected);
    let lines: Vec<Value> =
        read(&err).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let lines: Vec<&Value> = lines.iter().filter(|line| line["event"] == "violation").collect();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line["level"] == "ERROR"), "{lines:?}");
    deployment.instances.clear();
}

/// Builds the example; nothing is done when it is built already.
fn example() -> std::path::PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--example", "guarded_service"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_solewriter")).parent().unwrap();
    folder.join("examples").join("guarded_service")
}
