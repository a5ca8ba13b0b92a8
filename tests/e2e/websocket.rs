//! A page in a real browser is a service: by WebSocket, with nats.js and a seed.

use std::process::Stdio;
use std::time::Instant;

use serde_json::{Value, json};
use solewriter_sandbox::free_ports;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::attacks::prove::{prove, text};
use super::clients;
use super::deployment::{DEADLINE, Deployment, Prepared};
use super::map_page::browser;
use super::raw::Raw;

/// What a page may do, and what only a backend may.
const POLICY: &str = r#"
[bucket.mine]

[bucket.theirs]

[stream.orders]
subjects = ["orders.>"]

[stream.orders.consumer.worker]

[service.page]
nkeys = ["{page}"]
connections = ["WEBSOCKET"]
owns = ["mine"]
publishes = ["orders.new"]
consumes = ["orders/worker"]

[service.backend]
nkeys = ["{backend}"]
owns = ["theirs"]
"#;

/// Pages, each at a port that is its origin.
struct Pages {
    _child: Child,
    actions: ChildStdin,
    outcomes: Lines<BufReader<ChildStdout>>,
}

impl Pages {
    async fn open(ports: &[u16]) -> Self {
        let program = browser().unwrap_or_else(|| {
            println!("there is no Chromium here (apt-get install chromium): in Node.js instead");
            "node".into()
        });
        let folder = tokio::task::spawn_blocking(clients::browser_client).await.unwrap();
        let mut child = Command::new("node")
            .arg("drive.mjs")
            .arg(program)
            .args(ports.iter().map(u16::to_string))
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let actions = child.stdin.take().unwrap();
        let outcomes = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { _child: child, actions, outcomes }
    }

    /// Has a page do something. Gives what came of it.
    async fn perform(&mut self, page: u16, action: Value) -> Result<Value, String> {
        let mut action = action;
        action["page"] = json!(page);
        self.actions.write_all(format!("{action}\n").as_bytes()).await.unwrap();
        // Starting a browser beside compilers takes a while.
        let line = timeout(4 * DEADLINE, self.outcomes.next_line()).await.unwrap().unwrap();
        let outcome: Value = serde_json::from_str(&line.expect("an outcome")).unwrap();
        match outcome["error"].as_str() {
            None => Ok(outcome["result"].clone()),
            Some(error) => Err(error.to_owned()),
        }
    }
}

/// What a page connects with.
fn login(deployment: &Deployment, service: &str) -> Value {
    let seed = deployment.service(service).seed;
    let url = &deployment.server.ports().websocket[0];
    json!({"do": "connect", "url": url, "seed": seed.expose(), "inbox": format!("_INBOX.{service}")})
}

on_every_server!(a_page_in_a_browser_is_a_service);
async fn a_page_in_a_browser_is_a_service(version: &'static str) {
    let ports = free_ports(2).unwrap();
    let (page, other) = (ports[0], ports[1]);
    let listener = format!(
        "websocket {{ listen: \"127.0.0.1:-1\", no_tls: true, \
         allowed_origins: [\"http://127.0.0.1:{page}\"] }}\nsystem_account: SYS"
    );
    let mut deployment = Prepared::new()
        .without_buckets()
        .with_server("system_account: SYS", &listener)
        .start(version, POLICY)
        .await;
    deployment.apply(&[]).await;
    let mut pages = Pages::open(&ports).await;

    // Another origin: the server says no, and nobody is asked.
    let refused = pages.perform(other, login(&deployment, "page")).await.unwrap_err();
    println!("{version}: another origin: {refused}");
    let log = deployment.server.log();
    assert!(log.contains("origin"), "{log}");
    assert_eq!(deployment.instances[0].decisions().len(), 0);

    // A seed that was stolen from who may come by TCP alone.
    pages.perform(page, login(&deployment, "backend")).await.unwrap_err();
    let stolen = |line: &Value| line["reason"] == "connection" && line["service"] == "backend";
    let line = deployment.instances[0].says_where("authorisation", stolen).await;
    assert_eq!(line["connection"], "WEBSOCKET", "{line}");

    // And the other way round.
    Raw::try_login(deployment.url(), &deployment.service("page").seed).await.map(drop).unwrap_err();
    // Under its grant.
    pages.perform(page, login(&deployment, "page")).await.unwrap();
    let put = |bucket: &str, value: &str| json!({"do": "put", "bucket": bucket, "key": "k", "value": value});
    pages.perform(page, put("mine", "1")).await.unwrap();
    let got =
        pages.perform(page, json!({"do": "get", "bucket": "mine", "key": "k"})).await.unwrap();
    assert_eq!(got, "1");
    let watch = json!({"do": "watch", "bucket": "mine", "expect": 1});
    assert_eq!(pages.perform(page, watch).await.unwrap(), json!(["k=1"]));
    pages
        .perform(page, json!({"do": "publish", "subject": "orders.new", "value": "1"}))
        .await
        .unwrap();
    let consume = json!({"do": "consume", "stream": "orders", "consumer": "worker"});
    assert_eq!(pages.perform(page, consume).await.unwrap(), "1");
    // What another owns.
    let theirs = pages.perform(page, put("theirs", "x")).await.unwrap_err();
    println!("{version}: another's bucket: {theirs}");
    assert_eq!(deployment.content("theirs").await, []);
    let violations = deployment.violations();
    assert!(violations.iter().any(|v| v.service == "page" && v.act.contains("$KV.theirs.k")));

    // The right is taken away.
    let began = Instant::now();
    deployment.write_policy(&POLICY.replace("owns = [\"mine\"]\n", ""));
    pages.perform(page, json!({"do": "closed"})).await.unwrap();
    println!("{version}: closed after {:?}", began.elapsed());
    // And nobody gets round it by trying what others may not.
    let proved = prove(&deployment, &["--yes"]).await;
    assert!(proved.status.success() && text(&proved.stdout).contains("PROVEN"), "{proved:?}");
}
