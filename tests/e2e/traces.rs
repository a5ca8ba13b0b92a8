//! OpenTelemetry traces: what a receiver is sent, and that nobody waits for one. The receiver reads
//! the messages by OpenTelemetry's own code (`tests/otlp`).

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};
use solewriter_sandbox::free_ports;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::clients::python_with;
use super::deployment::{DEADLINE, Deployment, Prepared, eventually};
use super::packaging::Prometheus;
use super::raw::Raw;
use super::tls::write_certificates;

const POLICY: &str = "[service.orders]\nnkeys = [\"{orders}\"]\nowns = [\"orders\"]\n";
/// Nobody but the receiver may see it.
const TOKEN: &str = "a-token-that-nobody-prints";

/// A receiver of traces.
struct Receiver {
    _process: Child,
    said: Lines<BufReader<ChildStdout>>,
    port: u64,
}

impl Receiver {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With a certificate and its key, it speaks TLS.
    async fn start_with(certificate: &[&Path]) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/otlp");
        let (program, python) =
            tokio::task::spawn_blocking(move || (folder.join("receiver.py"), python_with(&folder)))
                .await
                .unwrap();
        let mut process = Command::new(python)
            .arg(program)
            .args(certificate)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut receiver = Self { _process: process, said, port: 0 };
        receiver.port = receiver.hears().await["port"].as_u64().unwrap();
        receiver
    }

    /// The next request.
    async fn hears(&mut self) -> Value {
        let line = timeout(DEADLINE, self.said.next_line()).await.expect("nothing is sent");
        serde_json::from_str(&line.unwrap().expect("it goes on")).unwrap()
    }

    fn endpoint(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// All spans of the trace, once its root is there.
    async fn trace(&mut self, id: &str) -> Vec<Value> {
        loop {
            let request = self.hears().await;
            let mut spans = request["spans"].as_array().unwrap().clone();
            spans.retain(|span| span["trace"] == id);
            if !spans.is_empty() {
                return spans;
            }
        }
    }
}

/// Settings that trace everything to that endpoint.
fn traced(endpoint: &str) -> Prepared {
    let prepared = Prepared::new();
    let headers = prepared.files.dir.join("traces.headers");
    std::fs::write(&headers, format!("# For the receiver.\nAuthorization: Bearer {TOKEN}\n"))
        .unwrap();
    std::fs::set_permissions(&headers, PermissionsExt::from_mode(0o600)).unwrap();
    let table = format!(
        "[traces]\nendpoint = \"{endpoint}\"\none_in = 1\nheaders = \"traces.headers\"\n\n[audit]\n"
    );
    prepared.with_settings("[audit]\n", &table)
}

/// The trace and the root that a log line names.
fn parent(line: &Value) -> (String, String) {
    let parent = line["traceparent"].as_str().unwrap_or_else(|| panic!("no trace: {line}"));
    let parts: Vec<&str> = parent.split('-').collect();
    let [version, trace, root, flags] = parts[..] else { panic!("{parent}") };
    assert_eq!((version, trace.len(), root.len(), flags), ("00", 32, 16, "01"), "{parent}");
    (trace.to_owned(), root.to_owned())
}

on_the_newest_server!(a_decision_is_a_trace, some_room);
/// One span for the request and one in it for each stage, which follow each other; the audit event
/// and the metric name the same trace; and nothing secret is in any of them.
async fn a_decision_is_a_trace(version: &'static str) {
    let mut receiver = Receiver::start().await;
    let prepared = traced(&receiver.endpoint("/v1/traces"));
    let mut deployment = prepared.start_broker(version, POLICY).await;
    deployment.create_audit_streams().await;
    deployment.add_instance(&[]).await;
    Raw::login(&deployment, &deployment.service("orders")).await;
    let granted = |line: &Value| line["service"] == "orders";
    let line = deployment.instances[0].says_where("authorisation", granted).await;
    let (trace, root) = parent(&line);

    let spans = receiver.trace(&trace).await;
    let named: BTreeMap<&str, &Value> =
        spans.iter().map(|span| (span["name"].as_str().unwrap(), span)).collect();
    let of_root = named["authorise"];
    assert_eq!(of_root["id"], root.as_str());
    assert_eq!((&of_root["parent"], &of_root["kind"]), (&json!(""), &json!("SPAN_KIND_CONSUMER")));
    assert_eq!(of_root["status"], "STATUS_CODE_UNSET");
    let attributes = &of_root["attributes"];
    for (key, of_log) in [
        ("solewriter.outcome", "outcome"),
        ("solewriter.reason", "reason"),
        ("solewriter.service", "service"),
        ("solewriter.decision", "decision"),
        ("solewriter.policy.revision", "revision"),
        ("solewriter.grant", "grant"),
        ("client.address", "host"),
        ("nats.account", "account"),
        ("nats.server.id", "server_id"),
        ("nats.server.name", "server"),
        ("nats.connection.id", "cid"),
    ] {
        assert!(!line[of_log].is_null(), "{of_log}: {line}");
        assert_eq!(attributes[key], line[of_log], "{key}");
    }
    assert_eq!(attributes["messaging.system"], "nats");
    assert_eq!(attributes["messaging.destination.name"], "$SYS.REQ.USER.AUTH");
    assert_eq!(attributes["messaging.consumer.group.name"], "solewriter");
    let instance = deployment.instances[0].says("instance").await;
    assert_eq!(of_root["resource"]["service.name"], "solewriter");
    assert_eq!(of_root["resource"]["service.instance.id"], instance["id"]);
    assert_eq!(of_root["resource"]["service.version"], env!("CARGO_PKG_VERSION"));

    // The stages are in the root, and fill it from its beginning on.
    let mut at = of_root["from"].as_u64().unwrap();
    for name in ["wait", "open", "limit", "prove", "decide", "issue", "reply"] {
        let stage = named[name];
        assert_eq!((&stage["parent"], stage["from"].as_u64()), (&json!(root), Some(at)), "{name}");
        assert_eq!(stage["kind"], "SPAN_KIND_INTERNAL");
        at = stage["to"].as_u64().unwrap();
        assert!(at >= stage["from"].as_u64().unwrap(), "{stage}");
    }
    assert_eq!(named.len(), 8, "{spans:#?}");
    let end = of_root["to"].as_u64().unwrap();
    assert!(at <= end, "{spans:#?}");
    let took = (end - of_root["from"].as_u64().unwrap()) / 1000;
    assert!(took >= line["took_us"].as_u64().unwrap(), "{took}: {line}");

    // The audit event has it where CloudEvents' extension says.
    let audit = line["audit"].as_str().unwrap();
    let event = eventually("the event in the stream", async || {
        let told = deployment.tool(&["audit", "tail", "--no-follow", "--json"]).await;
        let mut events = told.out.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        events.find(|event| event["id"] == audit)
    })
    .await;
    assert_eq!(event["traceparent"], line["traceparent"], "{event}");
    assert!(event["data"]["traceparent"].is_null(), "{event}");

    // A refusal is a trace too; a stranger's words are cut.
    let stranger = deployment.service("nobody");
    let options = async_nats::ConnectOptions::with_nkey(stranger.seed.expose().to_owned());
    options.name("x".repeat(2000)).connect(deployment.url()).await.unwrap_err();
    let denied = |line: &Value| line["reason"] == "unknown_key";
    let line = deployment.instances[0].says_where("authorisation", denied).await;
    let spans = receiver.trace(&parent(&line).0).await;
    let of_root = spans.iter().find(|span| span["name"] == "authorise").unwrap();
    assert_eq!(of_root["attributes"]["solewriter.outcome"], "denied");
    assert_eq!(of_root["attributes"]["error.type"], "unknown_key");
    assert!(of_root["attributes"]["solewriter.service"].is_null(), "{of_root}");
    assert!(serde_json::to_string(&spans).unwrap().len() < 8000, "{spans:#?}");

    // The receiver alone learned the token.
    let orders = deployment.service("orders");
    Raw::login(&deployment, &orders).await;
    let last = receiver.hears().await;
    assert_eq!(last["headers"]["authorization"], format!("Bearer {TOKEN}"), "{last}");
    assert_eq!(last["headers"]["content-type"], "application/x-protobuf", "{last}");
    let log = super::deployment::read(&deployment.instances[0].log);
    let (_, metrics) = deployment.instances[0].get("/metrics").await;
    for secret in [TOKEN, orders.seed.expose(), stranger.seed.expose()] {
        assert!(!log.contains(secret) && !metrics.contains(secret));
        assert!(!last["spans"].to_string().contains(secret));
    }
    let sent = eventually("the spans are counted", async || {
        let sent = deployment.instances[0].metric("solewriter_spans_sent_total").await;
        (sent >= 20.0).then_some(sent)
    });
    sent.await;
    exemplars(&mut deployment).await;

    // What was traced before the end is sent at the end.
    Raw::login(&deployment, &orders).await;
    let lines = deployment.instances[0].says_times("authorisation", 4).await;
    deployment.instances[0].signal(Signal::TERM);
    let traces: Vec<String> = lines.iter().map(|line| parent(line).0).collect();
    receiver.trace(traces.last().unwrap()).await;
    let ended = timeout(DEADLINE, deployment.instances[0].child.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}");
}

/// A real Prometheus takes the exemplars: traces that were logged.
async fn exemplars(deployment: &mut Deployment) {
    let address = deployment.instances[0].says("http").await["address"].clone();
    let Some(prometheus) = Prometheus::start(deployment.dir.path(), &address, &[]) else {
        return;
    };
    let path = "/api/v1/query_exemplars?query=solewriter_decision_seconds_bucket\
                &start=0&end=99999999999";
    let found = eventually("Prometheus has exemplars", async || {
        let found = prometheus.ask(path).await?;
        let series = found.as_array()?.clone();
        let exemplars = series.iter().flat_map(|one| one["exemplars"].as_array().unwrap().clone());
        let ids: Vec<Value> = exemplars.map(|one| one["labels"]["trace_id"].clone()).collect();
        (!ids.is_empty()).then_some(ids)
    })
    .await;
    let decisions = deployment.instances[0].decisions();
    let traced: Vec<String> = decisions.iter().map(|line| parent(line).0).collect();
    assert!(found.iter().all(|id| traced.iter().any(|trace| id == trace)), "{found:?} {traced:?}");
}

on_the_newest_server!(a_receiver_costs_nobody_a_login, some_room);
/// One that refuses, one that says nothing, one that is busy, and one that is not there: logins go on,
/// spans are counted, and the end does not wait for it.
async fn a_receiver_costs_nobody_a_login(version: &'static str) {
    let mut receiver = Receiver::start().await;
    let prepared = traced(&receiver.endpoint("/v1/traces"));
    let mut deployment = prepared.start_broker(version, POLICY).await;
    let nowhere = format!("http://127.0.0.1:{}/v1/traces", free_ports(1).unwrap()[0]);
    let orders = deployment.service("orders");
    for (endpoint, told, dropped) in [
        (receiver.endpoint("/refuses"), Some("400"), Some("refused")),
        (receiver.endpoint("/partly"), Some("two too many"), Some("refused")),
        (receiver.endpoint("/busy"), Some("503"), None),
        (receiver.endpoint("/silent"), None, None),
        (nowhere.clone(), Some("refused"), None),
    ] {
        deployment.instances.clear();
        deployment.add_instance(&["--traces-endpoint", &endpoint]).await;
        for _ in 0..5 {
            Raw::login(&deployment, &orders).await;
        }
        if endpoint != nowhere {
            receiver.hears().await;
        }
        let instance = &mut deployment.instances[0];
        if let Some(told) = told {
            let line = instance.says("traces_not_sent").await;
            assert!(line["error"].as_str().unwrap().contains(told), "{line}");
        }
        if let Some(reason) = dropped {
            let metric = format!("solewriter_spans_dropped_total{{reason=\"{reason}\"}}");
            eventually(&metric, async || (instance.metric(&metric).await > 0.0).then_some(()))
                .await;
        }
        Raw::login(&deployment, &orders).await;
        let instance = &mut deployment.instances[0];
        instance.signal(Signal::TERM);
        let ended = timeout(DEADLINE, instance.child.wait()).await.unwrap().unwrap();
        assert!(ended.success(), "{ended}");
        let lines = instance.lines();
        let told = lines.iter().filter(|line| line["event"] == "traces_not_sent").count();
        assert!(told <= 1, "once: {lines:#?}");
    }
}

on_the_newest_server!(a_receiver_is_reached_over_tls, some_room);
/// With the authority that `ca` names, and not without.
async fn a_receiver_is_reached_over_tls(version: &'static str) {
    let folder = tempfile::tempdir().unwrap();
    write_certificates(folder.path());
    let file = |name: &str| folder.path().join(name);
    let mut receiver = Receiver::start_with(&[&file("server.pem"), &file("server.key")]).await;
    let endpoint = format!("https://127.0.0.1:{}/v1/traces", receiver.port);
    let mut deployment = traced(&endpoint).start_broker(version, POLICY).await;
    let orders = deployment.service("orders");
    deployment.add_instance(&[]).await;
    Raw::login(&deployment, &orders).await;
    let line = deployment.instances[0].says("traces_not_sent").await;
    assert!(line["error"].as_str().unwrap().contains("UnknownIssuer"), "{line}");
    deployment.instances.clear();
    deployment.add_instance(&["--traces-ca", file("ca.pem").to_str().unwrap()]).await;
    Raw::login(&deployment, &orders).await;
    let heard = receiver.hears().await;
    assert_eq!(heard["headers"]["authorization"], format!("Bearer {TOKEN}"), "{heard}");
}
