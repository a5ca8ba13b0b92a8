//! Consumers that were made under a grant end with it; and nobody takes all of them.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::jetstream::kv;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use solewriter_sandbox::Server;
use tokio::process::{Child, Command};

use super::clients;
use super::deployment::{DEADLINE, Deployment, Prepared, Service, eventually, eventually_within};
use super::raw::Raw;

/// Everybody reads the bucket that one service owns.
const BEFORE: &str = r#"

[service.owner]
nkeys = ["{owner}"]
owns = ["orders", "rates"]

[service.keeps]
nkeys = ["{keeps}"]
reads = ["orders"]

[service.python]
nkeys = ["{python}"]
reads = ["orders", "rates"]

[service.loses]
nkeys = ["{loses}"]
reads = ["orders", "rates"]

[service.narrowed]
nkeys = ["{narrowed}"]
reads = ["orders"]

[service.handed-on]
nkeys = ["{handed-on}"]
reads = ["orders"]

[service.keyless]
nkeys = ["{keyless}"]
reads = ["orders"]

[service.off]
nkeys = ["{off}"]
reads = ["orders"]

[service.gone]
nkeys = ["{gone}"]
reads = ["orders"]
"#;

/// Each of them but one has lost it, each in another way.
const AFTER: &str = r#"
[service.owner]
nkeys = ["{owner}"]
owns = ["orders", "rates"]

[service.keeps]
nkeys = ["{keeps}"]
reads = ["orders"]

[service.python]
nkeys = ["{python}"]
reads = ["rates"]

[service.loses]
nkeys = ["{loses}"]
reads = ["rates"]

[service.narrowed]
nkeys = ["{narrowed}"]
reads = ["orders/eu.>"]

[service.handed-on]
nkeys = ["{another}"]
reads = ["rates"]

[service.keyless]
reads = ["orders"]

[service.off]
nkeys = ["{off}"]
disabled = "taken out of service"
reads = ["orders"]
"#;

/// Who has lost it, and why their consumers are deleted.
const LOSERS: [(&str, &str); 6] = [
    ("loses", "lost"),
    ("narrowed", "lost"),
    ("handed-on", "lost"),
    ("keyless", "no_key"),
    ("off", "disabled"),
    // Nobody can hear it any more, so it may have a minute.
    ("gone", "stranger"),
];

/// A watch of nats.py, as any service has it.
struct Watch {
    child: Child,
    log: PathBuf,
}

impl Watch {
    async fn start(deployment: &Deployment, service: &Service, bucket: &str) -> Self {
        let (folder, python) = tokio::task::spawn_blocking(clients::python).await.unwrap();
        let log = deployment.dir.path().join(format!("watch-{}.log", service.name));
        let child = Command::new(python)
            .arg(folder.join("watch.py"))
            .args(["--server", deployment.url(), "--inbox", &format!("_INBOX.{}", service.name)])
            .arg("--seed-file")
            .arg(&service.seed_file)
            .arg(bucket)
            .stdin(Stdio::piped())
            .stdout(std::fs::File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let watch = Self { child, log };
        watch.says("watching").await;
        watch
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn said(&self, line: &str) -> bool {
        self.lines().iter().any(|said| said == line)
    }

    async fn says(&self, line: &str) {
        let what = format!("{line:?} in {}", self.log.display());
        eventually(&what, async || self.said(line).then_some(())).await;
    }

    async fn end(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().await.unwrap();
    }
}

/// A user of the deployment who may do everything in an account.
async fn admin_of(deployment: &Deployment, user: &str) -> Client {
    let options = async_nats::ConnectOptions::with_nkey(deployment.seed(user).expose().to_owned());
    options.connect(deployment.url()).await.unwrap()
}

async fn ask(client: &Client, subject: String, question: &Value) -> Value {
    let answer = client.request(subject, question.to_string().into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

/// The names of a stream's consumers, however many.
async fn names(client: &Client, stream: &str) -> Vec<String> {
    let mut names = Vec::new();
    loop {
        let question = json!({"offset": names.len()});
        let answer = ask(client, format!("$JS.API.CONSUMER.NAMES.{stream}"), &question).await;
        let page = answer["consumers"].as_array().cloned().unwrap_or_default();
        if page.is_empty() {
            return names;
        }
        names.extend(page.iter().map(|name| name.as_str().unwrap().to_owned()));
    }
}

/// Waits until a stream has so many consumers.
async fn has(client: &Client, stream: &str, count: usize) {
    eventually(&format!("{count} consumers on {stream}"), async || {
        (names(client, stream).await.len() >= count).then_some(())
    })
    .await;
}

/// A durable push consumer as a service makes it, on the whole bucket. What the server says of it
/// comes to an inbox that this does not wait for.
async fn make_durable(raw: &mut Raw, service: &str, stream: &str, name: &str) {
    let config = json!({"durable_name": name, "deliver_subject": format!("_INBOX.{service}.{name}"),
        "ack_policy": "none", "deliver_policy": "new"});
    let body = json!({"stream_name": stream, "config": config}).to_string();
    let subject = format!("$JS.API.CONSUMER.CREATE.{stream}.{name}");
    raw.publish_with(&subject, &format!("_INBOX.{service}.made"), "", body.as_bytes())
        .await
        .unwrap();
}

/// Writes until told to stop, and gives how often.
struct Writer {
    stop: tokio::sync::oneshot::Sender<()>,
    task: tokio::task::JoinHandle<u64>,
}

impl Writer {
    fn start(bucket: kv::Store) -> Self {
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let mut count = 0;
            while stopped.try_recv().is_err() {
                bucket.put("ticks", count.to_string().into()).await.unwrap();
                count += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            count
        });
        Self { stop, task }
    }

    async fn stop(self) -> u64 {
        self.stop.send(()).unwrap();
        self.task.await.unwrap()
    }
}

on_every_server!(what_was_watched_ends_with_the_right_to_it);
async fn what_was_watched_ends_with_the_right_to_it(version: &'static str) {
    let mut deployment = Prepared::new()
        .with_settings("[http]", "[sessions]\nevery = \"2s\"\n[http]")
        .start(version, BEFORE)
        .await;
    deployment.create_buckets(&["orders", "rates"]).await;
    let admin = admin_of(&deployment, "admin").await;
    let bucket = deployment.bucket("orders").await;
    let kept = Watch::start(&deployment, &deployment.service("keeps"), "orders").await;
    let lost = Watch::start(&deployment, &deployment.service("python"), "orders").await;
    let watches = names(&admin, "KV_orders").await;
    assert_eq!(watches.len(), 2);
    let mut raws = Vec::new();
    for (name, _) in LOSERS {
        let mut raw = Raw::login(&deployment, &deployment.service(name)).await;
        // To the letter: for a consumer's deliveries into another account, the server counts no
        // wildcard as interest.
        raw.subscribe(&format!("_INBOX.{name}.{name}")).await.unwrap();
        make_durable(&mut raw, name, "KV_orders", name).await;
        raws.push(raw);
    }
    has(&admin, "KV_orders", 2 + LOSERS.len()).await;
    bucket.put("before", "1".into()).await.unwrap();
    for watch in [&kept, &lost] {
        watch.says("value before 1").await;
    }
    // The control: each of them hears what is written, and a round of the sweeper that finds them
    // all in order leaves them.
    for raw in &mut raws {
        while raw.message().await.payload != b"1" {}
    }
    let swept = deployment.instances[0]
        .metric("solewriter_consumer_sweeps_total{outcome=\"complete\"}")
        .await;
    eventually("another sweep", async || {
        let metric = "solewriter_consumer_sweeps_total{outcome=\"complete\"}";
        (deployment.instances[0].metric(metric).await > swept).then_some(())
    })
    .await;
    assert_eq!(names(&admin, "KV_orders").await.len(), 2 + LOSERS.len());

    let writer = Writer::start(bucket.clone());
    deployment.write_policy(AFTER);
    let changed = Instant::now();
    let deleted = deployment.instances[0].says_where("consumer_deleted", |_| true).await;
    let first = changed.elapsed();
    assert_eq!(deleted["outcome"], "deleted", "{deleted}");
    eventually("only the consumers that are covered to be left", async || {
        let left = names(&admin, "KV_orders").await;
        // `gone` may have a minute: nobody hears it.
        let left: Vec<_> = left.into_iter().filter(|name| name != "gone").collect();
        (left.len() == 1 && watches.contains(&left[0])).then_some(())
    })
    .await;
    let all = changed.elapsed();
    lost.says("reconnected").await;
    let written = writer.stop().await;
    let heard = lost.lines().iter().filter(|line| line.starts_with("value ticks")).count();
    println!(
        "{version}: first deleted {first:.0?} after the policy was written, the last {all:.0?}; \
         of {written} values written every 20 ms from then on, the former reader had {heard}"
    );
    // Whoever may come back does, and listens where it did.
    for name in ["loses", "narrowed"] {
        let mut raw = Raw::login(&deployment, &deployment.service(name)).await;
        raw.subscribe(&format!("_INBOX.{name}.{name}")).await.unwrap();
        raws.push(raw);
    }
    bucket.put("after", "2".into()).await.unwrap();
    kept.says("value after 2").await;
    for raw in raws.iter_mut().skip(LOSERS.len()) {
        // The server has delivered everything that it had for this connection.
        raw.fence().await.unwrap();
        assert!(raw.delivered.is_empty(), "{:?}", raw.delivered);
    }
    assert!(!lost.said("value after 2"), "{:#?}", lost.lines());
    let lines = deployment.instances[0].lines();
    let reason = |name: &str| {
        let about = |l: &&Value| l["event"] == "consumer_deleted" && l["consumer"] == name;
        lines.iter().find(about).map(|line| line["cause"].clone())
    };
    for (name, cause) in LOSERS.into_iter().filter(|(name, _)| *name != "gone") {
        assert_eq!(reason(name), Some(json!(cause)), "{name}");
    }
    assert!(
        deployment.instances[0].metric("solewriter_consumers_deleted_total{cause=\"lost\"}").await
            >= 4.0
    );
    kept.end().await;
    lost.end().await;
}

on_every_server!(consumers_that_outlived_every_instance_are_found);
async fn consumers_that_outlived_every_instance_are_found(version: &'static str) {
    let mut deployment = Deployment::start(version, BEFORE).await;
    deployment.create_buckets(&["orders", "rates"]).await;
    let admin = admin_of(&deployment, "admin").await;
    let mut raw = Raw::login(&deployment, &deployment.service("loses")).await;
    make_durable(&mut raw, "loses", "KV_orders", "left").await;
    has(&admin, "KV_orders", 1).await;
    // An audit stream's, of a service that audits nothing.
    let auditor = admin_of(&deployment, "audit-admin").await;
    let stream = json!({"name": "AUDIT_EVENTS", "subjects": ["audit.events.>"]});
    ask(&auditor, "$JS.API.STREAM.CREATE.AUDIT_EVENTS".to_owned(), &stream).await;
    let config = json!({"durable_name": "heard", "deliver_subject": "_INBOX.loses.events",
        "ack_policy": "none"});
    let body = json!({"stream_name": "AUDIT_EVENTS", "config": config});
    ask(&auditor, "$JS.API.CONSUMER.CREATE.AUDIT_EVENTS.heard".to_owned(), &body).await;
    assert_eq!(names(&auditor, "AUDIT_EVENTS").await, ["heard"]);
    let mut instance = deployment.instances.remove(0);
    instance.child.kill().await.unwrap();
    drop(raw);
    deployment.write_policy(AFTER);
    deployment.add_instance(&[]).await;
    eventually("what nobody remembers to be deleted", async || {
        let left = [names(&admin, "KV_orders").await, names(&auditor, "AUDIT_EVENTS").await];
        left.iter().all(Vec::is_empty).then_some(())
    })
    .await;
}

const ATTACKED: &str = r#"
[service.owner]
nkeys = ["{owner}"]
owns = ["orders"]

[service.attacker]
nkeys = ["{attacker}"]
reads = ["orders/eu.>"]
"#;

on_every_server!(nobody_takes_all_consumers_of_a_bucket);
async fn nobody_takes_all_consumers_of_a_bucket(version: &'static str) {
    let mut deployment = Prepared::new()
        .with_settings("[http]", "[sessions]\nevery = \"1h\"\nconsumers_per_service = 20\n[http]")
        .start(version, ATTACKED)
        .await;
    deployment.create_buckets(&["orders"]).await;
    let admin = admin_of(&deployment, "admin").await;
    // The watch that the owner has.
    let owner = deployment.service("owner");
    let watch = Watch::start(&deployment, &owner, "orders").await;
    let watching = names(&admin, "KV_orders").await;
    // The look that comes with the start finds none of what follows.
    eventually("the first sweep", async || {
        let metric = "solewriter_consumer_sweeps_total{outcome=\"complete\"}";
        (deployment.instances[0].metric(metric).await > 0.0).then_some(())
    })
    .await;
    // In its own name, in the owner's, in nobody's, and to be pulled from.
    let mut raw = Raw::login(&deployment, &deployment.service("attacker")).await;
    let mut lines = String::new();
    for n in 0..1000 {
        let name = format!("c{n}");
        let deliver = match n % 4 {
            0 => json!(format!("_INBOX.attacker.{n}")),
            1 => json!(format!("_INBOX.owner.{n}")),
            2 => json!(format!("_INBOX.solewriter.{n}")),
            _ => Value::Null,
        };
        let config = json!({"durable_name": name, "deliver_subject": deliver,
            "ack_policy": "none", "filter_subject": "$KV.orders.eu.>"});
        let body = json!({"stream_name": "KV_orders", "config": config}).to_string();
        lines += &format!(
            "PUB $JS.API.CONSUMER.CREATE.KV_orders.{name}.$KV.orders.eu.> {}\r\n{body}\r\n",
            body.len()
        );
    }
    raw.send(lines.as_bytes()).await;
    raw.fence().await.unwrap();
    // On a busy machine the sweeper may find them before all are there.
    let told = || {
        let lines = deployment.instances[0].lines();
        lines.iter().any(|line| line["event"] == "consumers_over_limit")
    };
    eventually_within(4 * DEADLINE, "1000 consumers", async || {
        (names(&admin, "KV_orders").await.len() >= 1000 || told()).then_some(())
    })
    .await;
    let made = names(&admin, "KV_orders").await.len();
    if version == "2.15.1" {
        // The owner's watch may be made anew meanwhile, and leave its place to one of these.
        let body = json!({"stream_name": "KV_orders", "config":
            {"deliver_subject": "_INBOX.owner.more", "ack_policy": "none"}});
        eventually("the server's limit", async || {
            let subject = "$JS.API.CONSUMER.CREATE.KV_orders".to_owned();
            let answer = ask(&admin, subject, &body).await;
            (answer["error"]["err_code"] == 10026 || told()).then_some(())
        })
        .await;
    }
    // The attacker has left; a change that concerns nobody has the sweeper look.
    drop(raw);
    deployment.write_policy(&format!("{ATTACKED}\n# looked at\n"));
    let began = Instant::now();
    eventually("few to be left", async || {
        (names(&admin, "KV_orders").await.len() <= 3 * 20).then_some(())
    })
    .await;
    let left = names(&admin, "KV_orders").await;
    println!("{version}: {made} consumers were {} after {:.1?}", left.len(), began.elapsed());
    assert!(left.contains(&watching[0]), "the owner's own watch was deleted");
    let alert = deployment.instances[0]
        .says_where("consumers_over_limit", |line| line["service"] == "attacker");
    assert_eq!(alert.await["limit"], 20);
    // The owner watches, and hears through the new watch and the old one.
    let again = Watch::start(&deployment, &owner, "orders").await;
    deployment.bucket("orders").await.put("k", "1".into()).await.unwrap();
    for watch in [&watch, &again] {
        watch.says("value k 1").await;
    }
    again.end().await;
    watch.end().await;
}

on_every_server!(descriptions_out_of_proportion_hide_nothing);
/// What does not fit in an answer cannot be hidden behind: the end of the list is read, and what is
/// out of proportion goes.
async fn descriptions_out_of_proportion_hide_nothing(version: &'static str) {
    let mut deployment = Deployment::start(version, BEFORE).await;
    deployment.create_buckets(&["orders", "rates"]).await;
    let admin = admin_of(&deployment, "admin").await;
    let mut raw = Raw::login(&deployment, &deployment.service("loses")).await;
    make_durable(&mut raw, "loses", "KV_orders", "hidden").await;
    for n in 0..40 {
        let config = json!({"durable_name": format!("fat{n}"), "ack_policy": "none",
            "deliver_subject": format!("_INBOX.keeps.{n}"), "metadata": {"x": "y".repeat(100_000)}});
        let body = json!({"stream_name": "KV_orders", "config": config});
        let answer = ask(&admin, format!("$JS.API.CONSUMER.CREATE.KV_orders.fat{n}"), &body).await;
        assert!(answer.get("error").is_none(), "{answer}");
    }
    deployment.write_policy(AFTER);
    deployment.instances[0]
        .says_where("consumer_deleted", |line| line["cause"] == "oversized")
        .await;
    eventually("all of them to be gone", async || {
        names(&admin, "KV_orders").await.is_empty().then_some(())
    })
    .await;
}

on_every_server!(a_deployment_without_the_imports_is_told_so);
async fn a_deployment_without_the_imports_is_told_so(version: &'static str) {
    let prepared = Prepared::new();
    let config = prepared.files.server_config();
    let text = std::fs::read_to_string(&config).unwrap();
    let (before, rest) = text
        .split_once("      {\n        service: { account: STATE, subject: \"$JS.API.STREAM.NAMES\"")
        .unwrap();
    let (_, after) = rest.split_once("    ]\n  }\n").unwrap();
    std::fs::write(&config, format!("{before}    ]\n  }}\n{after}")).unwrap();
    let mut deployment = prepared.start(version, BEFORE).await;
    let line = deployment.instances[0].says("consumers_unseen").await;
    assert!(line["message"].as_str().unwrap().contains("$JS.STATE.API"), "{line}");
    assert_eq!(deployment.instances[0].metric("solewriter_consumers_reachable").await, 0.0);
    assert_eq!(deployment.instances[0].get("/readyz").await.0, 200);
    let doctor = deployment.tool(&["doctor", "--format", "json"]).await.json();
    let findings = doctor["findings"].as_array().unwrap();
    let finding = findings.iter().find(|f| f["check"] == "consumers").unwrap();
    assert_eq!(finding["outcome"], "problem", "{finding}");
    let listed = deployment.tool(&["sessions", "consumers"]).await;
    assert_eq!(listed.code, 2, "{listed:?}");
}

on_every_server!(doctor_and_sessions_show_what_no_grant_covers);
async fn doctor_and_sessions_show_what_no_grant_covers(version: &'static str) {
    let mut deployment = Deployment::start(version, BEFORE).await;
    deployment.create_buckets(&["orders", "rates"]).await;
    let admin = admin_of(&deployment, "admin").await;
    for name in ["loses", "keeps"] {
        let mut raw = Raw::login(&deployment, &deployment.service(name)).await;
        make_durable(&mut raw, name, "KV_orders", &format!("of-{name}")).await;
    }
    has(&admin, "KV_orders", 2).await;
    let listed = deployment.tool(&["sessions", "consumers"]).await;
    assert_eq!(listed.code, 0, "{listed:?}");
    // Nobody sweeps.
    let mut instance = deployment.instances.remove(0);
    instance.child.kill().await.unwrap();
    deployment.write_policy(AFTER);
    let listed = deployment.tool(&["sessions", "consumers", "--format", "json"]).await;
    assert_eq!(listed.code, 1, "{listed:?}");
    let listed = listed.json();
    assert_eq!(listed["covered"], 1, "{listed}");
    let consumers = listed["consumers"].as_array().unwrap();
    assert_eq!(consumers.len(), 1, "{listed}");
    assert_eq!(consumers[0]["consumer"], "of-loses");
    assert_eq!(consumers[0]["service"], "loses");
    assert_eq!(consumers[0]["cause"], "lost");
    let text = deployment.tool(&["sessions", "consumers"]).await.out;
    assert!(text.starts_with("lost  KV_orders  of-loses  of loses  to _INBOX.loses."), "{text}");
    let doctor = deployment.tool(&["doctor", "--format", "json"]).await.json();
    let findings = doctor["findings"].as_array().unwrap();
    let finding = findings.iter().find(|f| f["check"] == "consumers").unwrap();
    assert_eq!(finding["outcome"], "problem", "{finding}");
    assert!(finding["found"].as_str().unwrap().contains("of-loses, of loses"), "{finding}");
}

on_every_server!(a_page_that_never_arrives_hides_nothing);
/// A page that is more than the server lets wait for a connection never arrives. The end of the list
/// does, and what is out of proportion there goes first.
async fn a_page_that_never_arrives_hides_nothing(version: &'static str) {
    let deployment = Prepared::new()
        .with_server("\nsystem_account: SYS", "\nmax_pending: 4MB\nsystem_account: SYS")
        .start(version, BEFORE)
        .await;
    deployment.create_buckets(&["orders", "rates"]).await;
    let admin = admin_of(&deployment, "admin").await;
    let mut raw = Raw::login(&deployment, &deployment.service("loses")).await;
    make_durable(&mut raw, "loses", "KV_orders", "hidden").await;
    has(&admin, "KV_orders", 1).await;
    for n in 0..120 {
        let name = format!("fat{n}");
        let config = json!({"durable_name": name, "ack_policy": "none",
            "deliver_subject": format!("_INBOX.keeps.{n}"), "metadata": {"x": "y".repeat(120_000)}});
        let body = json!({"stream_name": "KV_orders", "config": config});
        let create = format!("$JS.API.CONSUMER.CREATE.KV_orders.{name}");
        let answer = ask(&admin, create, &body).await;
        assert!(answer.get("error").is_none(), "{answer}");
    }
    // The control: nobody gets it.
    let page = admin.request("$JS.API.CONSUMER.LIST.KV_orders", "".into());
    let page = tokio::time::timeout(Duration::from_secs(2), page).await;
    assert!(!matches!(page, Ok(Ok(_))), "a page of 14 MB arrived");
    deployment.write_policy(AFTER);
    let admin = admin_of(&deployment, "admin").await;
    eventually("all of them to be gone", async || {
        let names = ask(&admin, "$JS.API.CONSUMER.NAMES.KV_orders".to_owned(), &json!({})).await;
        names["consumers"].as_array()?.is_empty().then_some(())
    })
    .await;
}

on_every_server!(a_cluster_is_swept_through_all_of_its_servers, more_room);
/// Three servers, three replicas: the list is put together from what each has.
async fn a_cluster_is_swept_through_all_of_its_servers(version: &'static str) {
    let mut deployment = Prepared::new().start_cluster(version, BEFORE).await;
    deployment.add_instance(&[]).await;
    deployment.create_buckets(&["orders", "rates"]).await;
    let admin = admin_of(&deployment, "admin").await;
    let kept = Watch::start(&deployment, &deployment.service("keeps"), "orders").await;
    for url in deployment.urls() {
        for name in ["loses", "narrowed"] {
            let mut raw = Raw::try_login(&url, &deployment.service(name).seed).await.unwrap();
            let consumer = format!("{name}-{}", url.rsplit_once(':').unwrap().1);
            make_durable(&mut raw, name, "KV_orders", &consumer).await;
        }
    }
    has(&admin, "KV_orders", 7).await;
    deployment.write_policy(AFTER);
    let began = Instant::now();
    eventually("only the watch to be left", async || {
        (names(&admin, "KV_orders").await.len() == 1).then_some(())
    })
    .await;
    println!("{version}: a cluster was swept after {:.0?}", began.elapsed());
    deployment.bucket("orders").await.put("after", "2".into()).await.unwrap();
    kept.says("value after 2").await;
    kept.end().await;
}

on_every_server!(without_a_system_user_consumers_end_all_the_same);
/// Then nobody is elected, and each instance sweeps consumers by itself.
async fn without_a_system_user_consumers_end_all_the_same(version: &'static str) {
    let deployment = Prepared::new()
        .with_settings("[system]\nnkey_seed = \"keys/system.nk\"\n", "")
        .start(version, BEFORE)
        .await;
    deployment.create_buckets(&["orders", "rates"]).await;
    let admin = admin_of(&deployment, "admin").await;
    let mut raw = Raw::login(&deployment, &deployment.service("loses")).await;
    make_durable(&mut raw, "loses", "KV_orders", "left").await;
    has(&admin, "KV_orders", 1).await;
    deployment.write_policy(AFTER);
    eventually("it to be deleted", async || {
        names(&admin, "KV_orders").await.is_empty().then_some(())
    })
    .await;
}

/// Accounts as the deployment has them, with users whom no callout decides about: what is looked at
/// is the server alone.
const AUDITED: &str = r#"
listen: "127.0.0.1:-1"
jetstream { store_dir: "{dir}" }
accounts {
  AUDIT {
    jetstream: enabled
    users: [ { user: admin, password: admin } ]
    exports: [ { service: "$JS.API.>", response: stream }, { stream: "_INBOX.>" } ]
  }
  APP {
    users: [ { user: auditor, password: auditor } ]
    imports: [
      { service: { account: AUDIT, subject: "$JS.API.>" }, to: "$JS.AUDIT.API.>" }
      { stream: { account: AUDIT, subject: "_INBOX.>" } }
    ]
  }
}
"#;

on_every_server!(a_pull_under_way_ends_with_its_connection);
/// A pull that may wait for an hour ends when its connection does, although the same inbox is
/// listened to again: so a pull consumer delivers to nobody who may not pull any more.
async fn a_pull_under_way_ends_with_its_connection(version: &'static str) {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("nats-server.conf");
    let text = AUDITED.replace("{dir}", &dir.path().join("jetstream").display().to_string());
    std::fs::write(&config, text).unwrap();
    let binary = super::deployment::binary(version).await;
    let server = Server::start(&binary, &config, dir.path()).await.unwrap();
    let connect = async |user: &str| {
        let options =
            async_nats::ConnectOptions::with_user_and_password(user.to_owned(), user.to_owned());
        options.connect(server.client_url()).await.unwrap()
    };
    let admin = connect("admin").await;
    let stream = json!({"name": "EVENTS", "subjects": ["events.>"]});
    let made = ask(&admin, "$JS.API.STREAM.CREATE.EVENTS".to_owned(), &stream).await;
    assert!(made.get("error").is_none(), "{made}");
    let body = json!({"stream_name": "EVENTS",
        "config": {"durable_name": "pull", "ack_policy": "none"}});
    ask(&admin, "$JS.API.CONSUMER.CREATE.EVENTS.pull".to_owned(), &body).await;
    let hour = json!({"batch": 1000, "expires": 3_600_000_000_000_u64}).to_string();
    let next = "$JS.AUDIT.API.CONSUMER.MSG.NEXT.EVENTS.pull";

    let auditor = connect("auditor").await;
    let mut heard = auditor.subscribe("_INBOX.auditor.>").await.unwrap();
    auditor.publish_with_reply(next, "_INBOX.auditor.old", hour.into()).await.unwrap();
    auditor.flush().await.unwrap();
    // The control: it is under way.
    ask(&admin, "events.one".to_owned(), &json!(1)).await;
    let one = tokio::time::timeout(DEADLINE, heard.next()).await.unwrap().unwrap();
    assert_eq!(one.subject.as_str(), "events.one");
    auditor.drain().await.unwrap();
    drop((auditor, heard));

    let auditor = connect("auditor").await;
    let mut heard = auditor.subscribe("_INBOX.auditor.>").await.unwrap();
    auditor.flush().await.unwrap();
    ask(&admin, "events.two".to_owned(), &json!(2)).await;
    // Whatever the old pull had in store for this inbox comes before the answer to this.
    let _ = auditor.request("$JS.AUDIT.API.STREAM.INFO.EVENTS", "".into()).await.unwrap();
    let quiet = tokio::time::timeout(Duration::from_millis(300), heard.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

on_every_server!(a_watch_whose_consumer_was_deleted_comes_back);
/// What one deletion too many costs: the library notices, and makes another consumer.
async fn a_watch_whose_consumer_was_deleted_comes_back(version: &'static str) {
    let deployment = Deployment::start(version, BEFORE).await;
    deployment.create_buckets(&["orders", "rates"]).await;
    let admin = admin_of(&deployment, "admin").await;
    let keeps = deployment.service("keeps");
    let client = async_nats::ConnectOptions::with_nkey(keeps.seed.expose().to_owned())
        .custom_inbox_prefix("_INBOX.keeps")
        .connect(deployment.url())
        .await
        .unwrap();
    let store = async_nats::jetstream::new(client).get_key_value("orders").await.unwrap();
    let mut watch = store.watch_all().await.unwrap();
    let before = names(&admin, "KV_orders").await;
    assert_eq!(before.len(), 1);
    let delete = format!("$JS.API.CONSUMER.DELETE.KV_orders.{}", before[0]);
    let deleted = admin.request(delete, "".into()).await.unwrap().payload;
    let deleted: Value = serde_json::from_slice(&deleted).unwrap();
    assert_eq!(deleted["success"], true, "{deleted}");
    let began = Instant::now();
    deployment.bucket("orders").await.put("k", "1".into()).await.unwrap();
    let mut errors = 0;
    let entry = loop {
        match tokio::time::timeout(DEADLINE, watch.next()).await.unwrap().unwrap() {
            Ok(entry) => break entry,
            Err(error) => {
                // The first is told; a watch that is asked again goes on.
                assert!(error.to_string().contains("consumer"), "{error}");
                errors += 1;
                assert!(errors < 10, "{error}");
            }
        }
    };
    assert_eq!(entry.value, "1");
    println!("{version}: a watch of async-nats was back after {:.1?}", began.elapsed());
}
