//! Connections that are open while the policy changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::{ConnectOptions, Event};
use serde_json::{Value, json};

use super::clients::Library;
use super::deployment::{Deployment, Prepared, Service, eventually};
use super::raw::Raw;

/// A client of a service, of a library that comes back by itself.
pub struct Client {
    /// It lives as long as this does.
    _client: async_nats::Client,
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
        Self { _client: client, lost, connected }
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
/// Each that lost something is closed, for its own reason; nobody else notices anything.
async fn who_loses_something_is_closed_and_nobody_else(version: &'static str) {
    let mut deployment = Deployment::start(version, BEFORE).await;
    let holders = [
        ("loser", Some("lost")),
        ("gainer", None),
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
    let lines = deployment.instances[0].says_times("session_closed", 14).await;
    assert_eq!(lines.len(), 14);
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
    assert_eq!(detail("moved"), "the key is heir's now");
    let instance = &mut deployment.instances[0];
    let metric = "solewriter_sessions_closed_total{outcome=\"closed\",reason=\"lost\"}";
    assert_eq!(instance.metric(metric).await, 4.0);
    assert_eq!(instance.metric("solewriter_session_sweeper").await, 1.0);
    eventually("the last look at all", async || {
        let seen = instance.metric("solewriter_sessions{state=\"stale\"}").await;
        let current = instance.metric("solewriter_sessions{state=\"current\"}").await;
        let gained = instance.metric("solewriter_sessions{state=\"gained\"}").await;
        ((seen, current, gained) == (0.0, 6.0, 2.0)).then_some(())
    })
    .await;
    assert_eq!(closed(&deployment).len(), 14, "nobody was closed twice");
}

on_every_server!(who_gains_is_closed_only_when_the_settings_say_so);
/// What was given comes with the next connection, or at once where the settings say so.
async fn who_gains_is_closed_only_when_the_settings_say_so(version: &'static str) {
    let mut deployment = Prepared::new().start_broker(version, BEFORE).await;
    deployment.add_instance(&["--sessions-gained", "close"]).await;
    let mut gainer = Raw::login(&deployment, &deployment.service("gainer")).await;
    let mut same = Raw::login(&deployment, &deployment.service("same")).await;
    deployment.write_policy(AFTER);
    let line = deployment.instances[0].says("session_closed").await;
    assert_eq!(line["reason"], "gained", "{line}");
    assert_eq!(line["service"], "gainer", "{line}");
    gainer.closed().await;
    assert_eq!(same.fence().await, Ok(()));
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
    let leaf = solewriter::sandbox::free_ports(1).unwrap()[0];
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
    let _edge = solewriter::sandbox::Server::start(&binary, &config, &home).await.unwrap();
    let by_leafnode = |line: &Value| line["connection"] == "LEAFNODE";
    let line = deployment.instances[0].says_where("authorisation", by_leafnode).await;
    if !solewriter::defects::holds_leafnodes(version) {
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
    let stranger = solewriter::keys::Seed::<solewriter::keys::User>::generate();
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
