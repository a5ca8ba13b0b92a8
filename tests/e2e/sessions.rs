//! Connections that are open while the policy changes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::{ConnectOptions, Event};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::bucket;
use super::clients::{Library, idle};
use super::deployment::{DEADLINE, Deployment, Prepared, Service, eventually, eventually_within};
use super::raw::Raw;

/// A client of a service, of a library that comes back by itself.
pub struct Client {
    /// It lives as long as this does.
    pub client: async_nats::Client,
    pub lost: Arc<AtomicUsize>,
    pub connected: Arc<AtomicBool>,
}

impl Client {
    pub async fn connect(url: &str, service: &Service) -> Self {
        let lost = Arc::new(AtomicUsize::new(0));
        let connected = Arc::new(AtomicBool::new(true));
        let told = (lost.clone(), connected.clone());
        let client = ConnectOptions::with_nkey(service.seed.expose().to_owned())
            .name(&service.name)
            .custom_inbox_prefix(format!("_INBOX.{}", service.name))
            .event_callback(move |event| {
                let (lost, connected) = told.clone();
                async move {
                    match event {
                        Event::Disconnected => {
                            connected.store(false, Ordering::SeqCst);
                            lost.fetch_add(1, Ordering::SeqCst);
                        }
                        Event::Connected => connected.store(true, Ordering::SeqCst),
                        _ => {}
                    }
                }
            })
            .connect(url)
            .await
            .unwrap();
        Self { client, lost, connected }
    }

    /// How often it lost its connection.
    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::SeqCst)
    }

    /// Whether it lost its connection so often, and is back.
    pub fn is_back(&self, times: usize) -> bool {
        self.lost() >= times && self.connected.load(Ordering::SeqCst)
    }
}

/// The lines about closed connections, of all instances.
pub fn closed(deployment: &Deployment) -> Vec<Value> {
    let lines = deployment.instances.iter().flat_map(super::deployment::Instance::lines);
    lines.filter(|line| line["event"] == "session_closed").collect()
}

const BEFORE: &str = r#"
[service.loser]
nkeys = ["{loser}"]
owns = ["orders", "more"]

[service.gainer]
nkeys = ["{gainer}"]
owns = ["rates"]

[service.same]
nkeys = ["{same}"]
publishes = ["events.same"]

[service.rewritten]
nkeys = ["{rewritten}"]
publishes = ["events.a", "events.b"]

[service.off]
nkeys = ["{off}"]
publishes = ["events.off"]

[service.rotated]
nkeys = ["{rotated}", "{rotated-old}"]
publishes = ["events.rotated"]

[service.gone]
nkeys = ["{gone}"]
publishes = ["events.gone"]

[service.moved]
nkeys = ["{moved}"]
publishes = ["events.moved"]

[service.elsewhere]
nkeys = ["{elsewhere}"]
publishes = ["events.elsewhere"]

[service.star]
nkeys = ["{star}"]
subscribes = ["news.>"]
"#;

/// The same, with something taken from some, given to some, and written otherwise for some.
const AFTER: &str = r#"
# The order of rules is no right.
[service.rewritten]
nkeys = ["{rewritten}"]
publishes = ["events.b", "events.a"]

[service.loser]
nkeys = ["{loser}"]
owns = ["orders"]
publishes = ["events.loser"]

[service.gainer]
nkeys = ["{gainer}"]
owns = ["rates", "more"]

[service.same]
nkeys = ["{same}"]
publishes = ["events.same"]

[service.off]
nkeys = ["{off}"]
disabled = "sold to nobody"
publishes = ["events.off"]

[service.rotated]
nkeys = ["{rotated}"]
publishes = ["events.rotated"]

[service.heir]
nkeys = ["{moved}"]
publishes = ["events.moved"]

[service.elsewhere]
nkeys = ["{elsewhere}"]
sources = ["10.0.0.0/8"]
publishes = ["events.elsewhere"]

[service.star]
nkeys = ["{star}"]
subscribes = ["news.*"]
"#;

on_every_server!(who_loses_something_is_closed_and_nobody_else);
/// Each that lost something is closed, for its own reason, and then who owns it now; nobody else
/// notices anything.
async fn who_loses_something_is_closed_and_nobody_else(version: &'static str) {
    let mut deployment = Deployment::start(version, BEFORE).await;
    let holders = [
        ("loser", Some("lost")),
        ("gainer", Some("gained")),
        ("same", None),
        ("rewritten", None),
        ("off", Some("disabled")),
        ("rotated", None),
        ("rotated-old", Some("unknown_key")),
        ("gone", Some("unknown_key")),
        ("moved", Some("other_service")),
        ("elsewhere", Some("source")),
        ("star", Some("lost")),
    ];
    let mut open = Vec::new();
    for (holder, reason) in holders {
        for _ in 0..2 {
            let service = deployment.service(holder);
            open.push((service.key(), reason, Raw::login(&deployment, &service).await));
        }
    }
    deployment.write_policy(AFTER);
    let changed = deployment.instances[0].says("policy_changed").await;
    let lines = deployment.instances[0].says_times("session_closed", 16).await;
    assert_eq!(lines.len(), 16);
    for (key, reason, raw) in &mut open {
        let mine: Vec<&Value> = lines.iter().filter(|line| line["nkey"] == *key).collect();
        let Some(reason) = reason else {
            assert_eq!(mine, Vec::<&Value>::new());
            assert_eq!(raw.fence().await, Ok(()));
            continue;
        };
        raw.closed().await;
        assert_eq!(mine.len(), 2, "{mine:?}");
        for line in mine {
            assert_eq!(line["reason"], *reason, "{line}");
            assert_eq!(line["outcome"], "closed", "{line}");
            assert_eq!(line["host"], "127.0.0.1", "{line}");
            assert_eq!(line["revision"], changed["revision"], "{line}");
            assert_eq!(line["had_revision"], changed["before"], "{line}");
        }
    }
    let detail = |service: &str| {
        let line = lines.iter().find(|line| line["service"] == service).unwrap();
        line["detail"].as_str().unwrap().to_owned()
    };
    assert_eq!(detail("loser"), "write more, read more");
    assert_eq!(detail("star"), "subscribe news.>");
    assert_eq!(detail("off"), "sold to nobody");
    assert_eq!(detail("moved"), "the key now belongs to heir");
    // Who owns it now is closed after who owned it before, and whatever else had to go.
    assert_eq!(detail("gainer"), "write more, read more");
    assert!(lines[14..].iter().all(|line| line["reason"] == "gained"), "{lines:#?}");
    let instance = &mut deployment.instances[0];
    let metric = "solewriter_sessions_closed_total{outcome=\"closed\",reason=\"lost\"}";
    assert_eq!(instance.metric(metric).await, 4.0);
    assert_eq!(instance.metric("solewriter_session_sweeper").await, 1.0);
    eventually("the last look at all", async || {
        let seen = instance.metric("solewriter_sessions{state=\"stale\"}").await;
        let current = instance.metric("solewriter_sessions{state=\"current\"}").await;
        let gained = instance.metric("solewriter_sessions{state=\"gained\"}").await;
        ((seen, current, gained) == (0.0, 6.0, 0.0)).then_some(())
    })
    .await;
    assert_eq!(closed(&deployment).len(), 16, "nobody was closed twice");
}

on_every_server!(who_gains_is_closed_only_when_the_settings_say_so);
/// What was given comes with the next connection, or at once where the settings say so.
async fn who_gains_is_closed_only_when_the_settings_say_so(version: &'static str) {
    let mut deployment = Prepared::new().start_broker(version, BEFORE).await;
    deployment.add_instance(&["--sessions-gained", "close"]).await;
    let mut gainer = Raw::login(&deployment, &deployment.service("gainer")).await;
    let mut same = Raw::login(&deployment, &deployment.service("same")).await;
    let more = "owns = [\"rates\"]\nreads = [\"orders\"]";
    deployment.write_policy(&BEFORE.replace("owns = [\"rates\"]", more));
    let line = deployment.instances[0].says("session_closed").await;
    assert_eq!(line["reason"], "gained", "{line}");
    assert_eq!(line["service"], "gainer", "{line}");
    assert_eq!(line["detail"], "read orders", "{line}");
    gainer.closed().await;
    assert_eq!(same.fence().await, Ok(()));
}

const STOCK: &str = r#"
[service.stock]
nkeys = ["{stock}"]
owns = ["orders"]

[service.shipping]
nkeys = ["{shipping}"]
reads = ["orders"]

[service.report]
nkeys = ["{report}"]
reads = ["rates"]
"#;

/// The bucket goes from one to the other, and a third may read it.
fn shipped() -> String {
    STOCK
        .replace("reads = [\"orders\"]", "owns = [\"orders\"]")
        .replacen("owns = [\"orders\"]", "publishes = [\"stock.news\"]", 1)
        .replace("reads = [\"rates\"]", "reads = [\"rates\", \"orders\"]")
}

on_every_server!(a_transfer_reaches_its_new_owner_and_who_waits_is_named);
/// A bucket that changes hands is its new owner's within moments; who waits for something is named,
/// by `policy push`, `sessions` and `doctor`.
async fn a_transfer_reaches_its_new_owner_and_who_waits_is_named(version: &'static str) {
    let mut deployment = bucket::prepared().start_broker(version, STOCK).await;
    deployment.create_buckets(&["orders", "rates"]).await;
    let (code, said) = bucket::push(&deployment, STOCK, &[]).await;
    assert_eq!(code, 0, "{said}");
    deployment.add_instance(&[]).await;
    let url = deployment.url().to_owned();
    let [stock, shipping, report] =
        ["stock", "shipping", "report"].map(|name| deployment.service(name));
    let old = Client::connect(&url, &stock).await;
    let new = Client::connect(&url, &shipping).await;
    let reader = Client::connect(&url, &report).await;
    deployment.instances[0].says("sweeper").await;

    let (code, said) = bucket::push(&deployment, &shipped(), &[]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("1 instance serves it\n"), "{said}");
    let waits = "2 of 3 open connections have it\n\
                 1 connection of report will gain read orders after reconnecting, within 1h\n";
    assert!(said.contains(waits), "{said}");
    assert!(said.contains("connect again by themselves; that was not waited for\n"), "{said}");
    // That it was waited for means that nobody has to wait now but for its client.
    let write = async |client: &Client| {
        let jetstream = async_nats::jetstream::new(client.client.clone());
        jetstream.publish("$KV.orders.1", "x".into()).await.unwrap().await
    };
    eventually("the new owner to be back", async || new.is_back(1).then_some(())).await;
    write(&new).await.unwrap();
    eventually("the old owner to be back", async || old.is_back(1).then_some(())).await;
    assert!(write(&old).await.is_err());
    assert_eq!(reader.lost(), 0, "who may wait is not disturbed");
    let lines = deployment.instances[0].says_times("session_closed", 2).await;
    let closed = |n: usize| (&lines[n]["service"], &lines[n]["reason"], &lines[n]["detail"]);
    assert_eq!(closed(0), (&json!("stock"), &json!("lost"), &json!("write orders, read orders")));
    assert_eq!(closed(1), (&json!("shipping"), &json!("gained"), &json!("write orders")));

    // What it was let in by is found in the bucket.
    let listed = deployment.tool(&["sessions", "--stale", "--format", "json"]).await;
    assert_eq!((listed.code, listed.err.as_str()), (0, ""), "{listed:?}");
    let rows = listed.json()["sessions"].as_array().unwrap().clone();
    assert_eq!(rows.len(), 1, "{rows:?}");
    let row = (&rows[0]["service"], &rows[0]["current"], &rows[0]["reason"]);
    assert_eq!(row, (&json!("report"), &json!("gains"), &json!("read orders")));
    eventually("doctor to name it", async || {
        let doctor = deployment.tool(&["doctor"]).await;
        let named = "1 of report will gain read orders only after reconnecting, within 1h";
        doctor.out.contains(named).then_some(())
    })
    .await;
    // With its next connection it has it.
    assert_eq!(deployment.kick("report").await, 1);
    eventually("nobody to wait", async || {
        let listed = deployment.tool(&["sessions", "--stale", "--format", "json"]).await;
        (listed.json()["sessions"] == json!([])).then_some(())
    })
    .await;
}

on_every_server!(a_push_names_who_is_not_reached);
/// A push that has not reached everybody in time says whom.
async fn a_push_names_who_is_not_reached(version: &'static str) {
    let mut deployment = bucket::prepared().start_broker(version, STOCK).await;
    let (code, said) = bucket::push(&deployment, STOCK, &[]).await;
    assert_eq!(code, 0, "{said}");
    deployment.add_instance(&["--sessions-close-per-second", "1"]).await;
    let (stock, shipping) = (deployment.service("stock"), deployment.service("shipping"));
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::connect(deployment.url(), &stock).await);
    }
    clients.push(Client::connect(deployment.url(), &shipping).await);
    deployment.instances[0].says("sweeper").await;
    let (code, said) = bucket::push(&deployment, &shipped(), &["--wait", "4s"]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(" of stock: still have write orders, read orders\n"), "{said}");
    assert!(said.contains("1 connection of shipping: wait for write orders\n"), "{said}");
    assert!(said.contains("`solewriter sessions --stale`"), "{said}");
    assert_eq!(clients[20].lost(), 0, "not while the old owner may still write");
    eventually_within(2 * DEADLINE, "the new owner to be reached", async || {
        (clients[20].lost() > 0).then_some(())
    })
    .await;
    assert!(clients[..20].iter().all(|client| client.lost() > 0), "the old owner is still there");
}

on_every_server!(who_waits_is_named_where_the_policy_is_a_directory);
/// In a directory nobody but the instance remembers what was in force before.
async fn who_waits_is_named_where_the_policy_is_a_directory(version: &'static str) {
    let mut deployment = Deployment::start(version, STOCK).await;
    let reader = Client::connect(deployment.url(), &deployment.service("report")).await;
    deployment.instances[0].says("sweeper").await;
    deployment.write_policy(&shipped());
    let row = eventually("it to wait", async || {
        let listed = deployment.tool(&["sessions", "--stale", "--format", "json"]).await;
        listed.json()["sessions"].get(0).filter(|row| row["current"] == "gains").cloned()
    })
    .await;
    assert_eq!((&row["service"], &row["reason"]), (&json!("report"), &json!("read orders")));
    let doctor = deployment.tool(&["doctor"]).await;
    let named = "1 of report will gain read orders only after reconnecting, within 1h";
    assert!(doctor.out.contains(named), "{doctor:?}");
    assert_eq!(reader.lost(), 0);
}

/// How long permissions last where they end within a test.
const SHORT: Duration = Duration::from_secs(20);
/// What nats-server says when they do.
const EXPIRED: &str = "authentication expired";

/// What happened to an idle client's connection, and when, in seconds.
type Happened = (String, f64, String);

/// An idle service of some library.
struct Idle {
    library: Library,
    happened: Box<dyn Fn() -> Vec<Happened>>,
    /// It lives as long as this does.
    _alive: Box<dyn std::any::Any>,
}

impl Idle {
    async fn start(library: Library, deployment: &Deployment, service: &Service) -> Self {
        let subject = format!("svc.{}", library.word());
        if library == Library::AsyncNats {
            return Self::of_async_nats(deployment, service, subject).await;
        }
        let mut command = idle(library, deployment, service, &subject);
        let log = deployment.dir.path().join(format!("idle-{}.log", service.name));
        command.stdin(std::process::Stdio::piped()).stdout(std::fs::File::create(&log).unwrap());
        let mut command = tokio::process::Command::from(command);
        let child = command.kill_on_drop(true).spawn().unwrap();
        let happened = move || {
            let text = std::fs::read_to_string(&log).unwrap();
            let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let word = |line: &Value, part: &str| line[part].as_str().unwrap_or("").to_owned();
            lines
                .map(|l| (word(&l, "event"), l["at"].as_f64().unwrap(), word(&l, "detail")))
                .collect()
        };
        Self { library, happened: Box::new(happened), _alive: Box::new(child) }
    }

    async fn of_async_nats(deployment: &Deployment, service: &Service, subject: String) -> Self {
        let began = Instant::now();
        let seen: Arc<Mutex<Vec<Happened>>> = Arc::default();
        let told = seen.clone();
        let client = ConnectOptions::with_nkey(service.seed.expose().to_owned())
            .custom_inbox_prefix(format!("_INBOX.{}", service.name))
            .event_callback(move |event| {
                let told = told.clone();
                async move {
                    let (word, detail) = match &event {
                        // The first one is no reconnection.
                        Event::Connected if told.lock().unwrap().is_empty() => return,
                        Event::Connected => ("reconnected", String::new()),
                        Event::Disconnected => ("disconnected", String::new()),
                        Event::Closed => ("closed", String::new()),
                        other => ("error", other.to_string()),
                    };
                    let at = began.elapsed().as_secs_f64();
                    told.lock().unwrap().push((word.to_owned(), at, detail));
                }
            })
            .connect(deployment.url())
            .await
            .unwrap();
        let mut requests = client.subscribe(subject).await.unwrap();
        client.flush().await.unwrap();
        seen.lock().unwrap().push(("connected".to_owned(), 0.0, String::new()));
        let answering = client.clone();
        let task = tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                if let Some(reply) = request.reply {
                    let _ = answering.publish(reply, "here".into()).await;
                }
            }
        });
        let happened = move || seen.lock().unwrap().clone();
        Self {
            library: Library::AsyncNats,
            happened: Box::new(happened),
            _alive: Box::new((client, task)),
        }
    }

    fn times(&self, word: &str) -> usize {
        (self.happened)().iter().filter(|(event, ..)| event == word).count()
    }

    /// How long it was without a connection, each time.
    fn gaps(&self) -> Vec<f64> {
        let happened = (self.happened)();
        let mut gaps = Vec::new();
        let mut since = None;
        for (event, at, _) in &happened {
            match event.as_str() {
                "disconnected" => since = since.or(Some(*at)),
                "reconnected" => gaps.extend(since.take().map(|since| at - since)),
                _ => {}
            }
        }
        gaps
    }
}

on_every_server!(no_idle_client_meets_the_end_of_its_permissions);
/// An idle client of each library lives longer than its permissions, several times over, and never
/// meets their end: nats.py would not come back from that.
#[allow(clippy::print_stdout)]
async fn no_idle_client_meets_the_end_of_its_permissions(version: &'static str) {
    const POLICY: &str = r#"
        [service.rust]
        nkeys = ["{rust}"]
        answers = ["svc.rust"]

        [service.python]
        nkeys = ["{python}"]
        answers = ["svc.python"]

        [service.javascript]
        nkeys = ["{javascript}"]
        answers = ["svc.javascript"]

        [service.caller]
        nkeys = ["{caller}"]
        calls = ["svc.*"]
    "#;
    let mut deployment = Prepared::new().start_broker(version, POLICY).await;
    let lifetime = format!("{}s", SHORT.as_secs());
    for _ in 0..2 {
        deployment.add_instance(&["--grants-lifetime", &lifetime]).await;
    }
    let mut idle = Vec::new();
    for library in Library::ALL {
        let service = deployment.service(library.word());
        idle.push(Idle::start(library, &deployment, &service).await);
    }
    for client in &idle {
        eventually("a connected client", async || (client.times("connected") > 0).then_some(()))
            .await;
    }
    let began = Instant::now();
    // Whoever sweeps may die at any time.
    eventually_within(4 * SHORT, "each to come back", async || {
        idle.iter().all(|client| client.times("reconnected") > 0).then_some(())
    })
    .await;
    deployment.instances[0].child.kill().await.unwrap();
    let told = format!("{EXPIRED} or a client that is gone");
    eventually_within(8 * SHORT, "two lifetimes", async || {
        for client in &idle {
            let happened = (client.happened)();
            let bad = |(event, _, detail): &Happened| {
                event == "closed" || detail.to_lowercase().contains(EXPIRED)
            };
            assert!(!happened.iter().any(bad), "{told}: {:?} {happened:?}", client.library);
        }
        let often = idle.iter().all(|client| client.times("reconnected") >= 3);
        (often && began.elapsed() > 2 * SHORT).then_some(())
    })
    .await;
    let caller = deployment.service("caller");
    for client in &idle {
        let word = client.library.word();
        let subject = format!("svc.{word}");
        let calling = ConnectOptions::with_nkey(caller.seed.expose().to_owned())
            .custom_inbox_prefix("_INBOX.caller")
            .connect(deployment.url())
            .await
            .unwrap();
        eventually(&format!("{word} to answer"), async || {
            let answer = calling.request(subject.clone(), "?".into()).await.ok()?;
            (&*answer.payload == b"here").then_some(())
        })
        .await;
    }
    let ended = closed(&deployment);
    assert!(ended.iter().all(|line| line["reason"] == "expiring"), "{ended:#?}");
    assert!(ended.iter().all(|line| line["outcome"] != "failed"), "{ended:#?}");
    let question = json!({"state": 1, "acc": "APP", "auth": true, "limit": 1024});
    let server = deployment.ask_system("SERVER.PING", &json!({})).await;
    let id = server["server"]["id"].as_str().unwrap();
    let gone = deployment.ask_system(&format!("SERVER.{id}.CONNZ"), &question).await;
    let gone = gone["data"]["connections"].as_array().unwrap();
    assert!(gone.len() >= 9, "{gone:#?}");
    let reason = |c: &Value| c["reason"].as_str().unwrap_or("").to_lowercase();
    assert!(gone.iter().all(|c| !reason(c).contains("expired")), "{gone:#?}");
    for client in &idle {
        let gaps = client.gaps();
        println!("{version} {:?}: without a connection for {gaps:.3?} s", client.library);
    }
}

on_every_server!(who_loses_the_system_account_says_when_it_is_back);
/// However short the time without a connection was: whoever reads the log wants to know that it is
/// over.
async fn who_loses_the_system_account_says_when_it_is_back(version: &'static str) {
    let mut deployment = Deployment::start(version, BEFORE).await;
    deployment.instances[0].says("system_connected").await;
    // Closed by the server, it is back within milliseconds.
    let answer = deployment.ask_system("SERVER.PING", &json!({})).await;
    let server = answer["server"]["id"].as_str().unwrap();
    let connections = deployment.connections("MONITOR").await;
    let ours = connections.iter().find(|c| c["name"].as_str().unwrap_or("").contains("solewriter"));
    let question = json!({"cid": ours.unwrap()["cid"]});
    deployment.ask_system(&format!("SERVER.{server}.KICK"), &question).await;
    deployment.instances[0].says("system_disconnected").await;
    let lines = deployment.instances[0].says_times("system_connected", 2).await;
    assert_eq!(lines.len(), 2, "{lines:?}");
}

on_every_server!(a_leafnode_is_closed_too);
/// The name is all that a server keeps of an answer, for leafnodes too.
async fn a_leafnode_is_closed_too(version: &'static str) {
    let leaf = solewriter_sandbox::free_ports(1).unwrap()[0];
    let listen = format!("leafnodes {{ listen: \"127.0.0.1:{leaf}\" }}\nsystem_account: SYS");
    let policy = |more: &str| {
        format!(
            "[service.edge]\nnkeys = [\"{{edge}}\"]\nconnections = [\"LEAFNODE\"]\n\
             publishes = [\"events.edge\"{more}]\n"
        )
    };
    let prepared = Prepared::new().with_server("system_account: SYS", &listen);
    let mut deployment = prepared.start(version, &policy(", \"events.more\"")).await;
    let home = deployment.dir.path().join("leaf");
    std::fs::create_dir(&home).unwrap();
    let config = home.join("leaf.conf");
    let seed = deployment.service("edge").seed;
    let remote = format!(
        "listen: \"127.0.0.1:-1\"\nleafnodes {{ reconnect: 1, remotes: [ {{ url: \
         \"nats-leaf://127.0.0.1:{leaf}\", nkey: \"{}\" }} ] }}\n",
        seed.expose()
    );
    std::fs::write(&config, remote).unwrap();
    let binary = super::deployment::binary(version).await;
    let _edge = solewriter_sandbox::Server::start(&binary, &config, &home).await.unwrap();
    let by_leafnode = |line: &Value| line["connection"] == "LEAFNODE";
    let line = deployment.instances[0].says_where("authorisation", by_leafnode).await;
    if !solewriter_types::advisories::holds_leafnodes(version) {
        assert_eq!(
            (&line["outcome"], &line["reason"]),
            (&json!("denied"), &json!("leafnode")),
            "{line}"
        );
        assert_eq!(line["service"], "edge", "{line}");
        return;
    }
    assert_eq!(line["outcome"], "granted", "{line}");
    deployment.write_policy(&policy(""));
    let line = deployment.instances[0].says("session_closed").await;
    assert_eq!(line["service"], "edge", "{line}");
    assert_eq!(line["reason"], "lost", "{line}");
    // It comes back by itself.
    let lines = deployment.instances[0].says_times("authorisation", 2).await;
    assert_eq!(lines[1]["outcome"], "granted", "{}", lines[1]);
    assert_eq!(lines[1]["revision"], line["revision"]);
}

on_every_server!(each_library_comes_back_by_itself);
/// A client that is closed comes back without anybody's help, whatever its library.
async fn each_library_comes_back_by_itself(version: &'static str) {
    const WITH: &str = r#"
        [service.loser]
        nkeys = ["{loser}"]
        publishes = ["events.kept", "events.lost"]
        calls = ["svc.nothing"]

        [service.caller]
        nkeys = ["{caller}"]
        answers = ["svc.nothing"]
    "#;
    for library in Library::ALL {
        let mut deployment = Deployment::start(version, WITH).await;
        let loser = deployment.service("loser");
        let go = "_INBOX.loser.go";
        let script = [
            json!({"op": "publish", "subject": "events.lost", "value": "1"}),
            json!({"op": "subscribe", "subject": go}),
            json!({"op": "receive", "subject": go, "timeout": 60}),
            json!({"op": "publish", "subject": "events.kept", "value": "1"}),
            json!({"op": "publish", "subject": "events.lost", "value": "1"}),
        ];
        let ran = library.run(&deployment, &loser, &script);
        let meanwhile = async {
            let log = deployment.instances[0].log.clone();
            let instance = super::deployment::Instance {
                log,
                child: tokio::process::Command::new("true").spawn().unwrap(),
            };
            instance.says_times("authorisation", 1).await;
            eventually("the subscription", async || {
                let connections = deployment.connections("APP").await;
                (connections.first()?["subscriptions"].as_u64()? > 0).then_some(())
            })
            .await;
            deployment.write_policy(&WITH.replace(", \"events.lost\"", ""));
            instance.says_times("session_closed", 1).await;
            instance.says_times("authorisation", 2).await;
            let mut caller = Raw::login(&deployment, &deployment.service("caller")).await;
            // Until it has subscribed again, nobody hears it.
            for _ in 0..100 {
                caller.publish(go, b"go").await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let lines = tokio::select! {
            lines = ran => lines,
            () = async { meanwhile.await; std::future::pending().await } => unreachable!(),
        };
        let outcome: Vec<&Value> = lines.iter().map(|line| &line["ok"]).collect();
        assert_eq!(outcome, [true, true, true, true, false], "{library:?}: {lines:#?}");
        assert_eq!(lines[4]["error"], "permissions", "{library:?}: {lines:#?}");
        deployment.instances.clear();
    }
}

on_every_server!(without_a_system_user_the_delay_is_told);
/// Without a system user the lifetime bounds the delay, and everybody is told so.
async fn without_a_system_user_the_delay_is_told(version: &'static str) {
    let system = "[system]\nnkey_seed = \"keys/system.nk\"\n";
    let prepared = Prepared::new().with_settings(system, "");
    let mut deployment = prepared.start_broker(version, BEFORE).await;
    deployment.add_instance(&["--grants-lifetime", "12s"]).await;
    let instance = &mut deployment.instances[0];
    let line = instance.says("no_system_user").await;
    assert_eq!(line["level"], "WARN", "{line}");
    assert_eq!(line["seconds"], 12, "{line}");
    assert!(line["message"].as_str().unwrap().contains("[system] nkey_seed"), "{line}");
    let (status, report) = instance.get("/readyz").await;
    assert_eq!(status, 200);
    let told = "open connections: not reached by a change; permissions last up to 12 s\n";
    assert!(report.contains(told), "{report}");
    assert_eq!(instance.metric("solewriter_session_reach_seconds").await, 12.0);

    let mut loser = Raw::login(&deployment, &deployment.service("loser")).await;
    let mut open = Raw::login(&deployment, &deployment.service("loser")).await;
    deployment.write_policy(AFTER);
    deployment.instances[0].says("policy_changed").await;
    assert_eq!(open.publish("$KV.more.a", b"1").await, Ok(()), "as it is told");
    assert!(loser.closed().await.contains("Authentication Expired"));
    assert_eq!(closed(&deployment), Vec::<Value>::new());
}

on_every_server!(a_system_user_that_is_not_let_in_is_told);
/// The system account's user has the wrong key: everything else works, and the log says so.
async fn a_system_user_that_is_not_let_in_is_told(version: &'static str) {
    let prepared = Prepared::new();
    let stranger = solewriter_core::keys::Seed::<solewriter_core::keys::User>::generate();
    let system = prepared.files.seed_file("system");
    let right = std::fs::read_to_string(&system).unwrap();
    std::fs::write(&system, stranger.expose()).unwrap();
    let mut deployment = prepared.start(version, BEFORE).await;
    std::fs::write(&system, right).unwrap();
    // The server refuses it, or lets async-nats believe that it does not.
    let line = eventually("it to be told", async || {
        let told = |line: &Value| {
            line["event"] == "system_unusable"
                || line["event"] == "connect_failed" && line["connection"] == "solewriter-system"
        };
        deployment.instances[0].lines().into_iter().find(told)
    })
    .await;
    assert_eq!(line["level"], "ERROR", "{line}");
    Raw::login(&deployment, &deployment.service("loser")).await;
    assert_eq!(deployment.instances[0].metric("solewriter_session_sweeper").await, 0.0);
}

/// Runs `solewriter sessions` with these arguments. Gives code, stdout and stderr.
async fn sessions(deployment: &Deployment, arguments: &[&str]) -> (i32, String, String) {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .arg("sessions")
        .args(arguments)
        .arg("--config")
        .arg(deployment.files.settings())
        .args(["--nats-servers", deployment.url()])
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// What it lists, without any complaint.
async fn listed(deployment: &Deployment, seed: &[&str], more: &[&str]) -> String {
    let (code, out, said) = sessions(deployment, &[seed, more].concat()).await;
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    out
}

on_every_server!(sessions_lists_and_closes_connections);
/// Who is connected, by which policy; and closing a service's connections by hand.
async fn sessions_lists_and_closes_connections(version: &'static str) {
    let system = "[system]\nnkey_seed = \"keys/system.nk\"\n";
    let prepared = Prepared::new().with_settings(system, "");
    let system_seed = prepared.files.seed_file("system");
    let mut deployment = prepared.start_broker(version, BEFORE).await;
    // Nobody closes anything by itself here.
    deployment.add_instance(&[]).await;
    let (code, _, said) = sessions(&deployment, &[]).await;
    assert_eq!(code, 2);
    assert!(said.contains("`nkey_seed` in [system] is not set"), "{said}");
    let seed = ["--system-nkey-seed", system_seed.to_str().unwrap()];
    let (code, out, said) = sessions(&deployment, &seed).await;
    assert_eq!((code, out.lines().last()), (0, Some("0 connections")), "{said}");

    let (loser, same) = (deployment.service("loser"), deployment.service("same"));
    let mut losers = [Raw::login(&deployment, &loser).await, Raw::login(&deployment, &loser).await];
    let mut other = Raw::login(&deployment, &same).await;
    let parse = |out: &str| serde_json::from_str::<Value>(out).unwrap();
    let all = parse(&listed(&deployment, &seed, &["--format", "json"]).await);
    let revision = deployment.instances[0].lines();
    let revision = revision.iter().find(|l| l["event"] == "ready").unwrap()["revision"].clone();
    assert_eq!(all["revisions"], json!([revision]));
    assert_eq!(all["complete"], true);
    assert_eq!(all["sessions"].as_array().unwrap().len(), 3, "{all}");
    let first = &all["sessions"][0];
    for (field, value) in [
        ("service", json!("loser")),
        ("nkey", json!(loser.key())),
        ("revision", revision),
        ("current", json!("current")),
        ("account", json!("APP")),
        ("connection", json!("STANDARD")),
        ("host", json!("127.0.0.1")),
        ("server", json!("test")),
        ("library", json!("raw 1")),
    ] {
        assert_eq!(first[field], value, "{field} of {first}");
    }
    assert!(
        parse(&listed(&deployment, &seed, &["--stale", "--format", "json"]).await)["sessions"]
            == json!([])
    );
    let one = listed(&deployment, &seed, &["--service", "same"]).await;
    assert!(one.starts_with("SERVICE  NKEY") && one.ends_with("\n1 connection\n"), "{one}");
    let (_, _, nobody) = sessions(&deployment, &[&seed[..], &["--service", "smae"]].concat()).await;
    let said = "no connection of smae: there is no service of that name; did you mean `same`?\n";
    assert!(nobody.contains(said), "{nobody}");

    deployment.write_policy(AFTER);
    deployment.instances[0].says("policy_changed").await;
    let stale = parse(&listed(&deployment, &seed, &["--stale", "--format", "json"]).await);
    let rows = stale["sessions"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{stale}");
    assert!(rows.iter().all(|row| row["service"] == "loser" && row["current"] == "unknown"));

    // Nobody is there to be asked.
    let close = ["close", "loser", seed[0], seed[1]];
    let (code, out, said) = sessions(&deployment, &close).await;
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(said.contains("--yes"), "{said}");
    assert_eq!(losers[0].fence().await, Ok(()));
    let close = ["close", "loser", "--yes", seed[0], seed[1]];
    let (code, out, said) = sessions(&deployment, &close).await;
    assert_eq!((code, said.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("closed 2 connections; 0 had ended before"), "{out}");
    for raw in &mut losers {
        raw.closed().await;
    }
    assert_eq!(other.fence().await, Ok(()));
    let key = same.key();
    let (code, _, _) = sessions(&deployment, &["close", &key, "--yes", seed[0], seed[1]]).await;
    assert_eq!(code, 0);
    other.closed().await;
    let (code, _, said) = sessions(&deployment, &["close", &key, "--yes", seed[0], seed[1]]).await;
    assert_eq!(code, 1);
    assert!(said.contains("no connection of"), "{said}");
}

on_every_server!(who_closes_without_having_seen_everything_is_told);
/// A server that does not tell of its connections may have some that should have been closed.
async fn who_closes_without_having_seen_everything_is_told(version: &'static str) {
    let mut deployment = Prepared::new().start_cluster(version, BEFORE).await;
    deployment.add_instance(&[]).await;
    let mut loser = Raw::login(&deployment, &deployment.service("loser")).await;
    deployment.peers[1].pause().unwrap();
    let first = [deployment.url().to_owned()];
    let ran = deployment.tool_at(&first, &["sessions", "close", "loser", "--yes"]).await;
    deployment.peers[1].resume().unwrap();
    assert!(ran.code == 1 && ran.out.starts_with("closed 1 connection;"), "{ran:?}");
    assert!(ran.err.contains("there may be more"), "{ran:?}");
    loser.closed().await;
}
