//! Instances and servers that come and go.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use super::clients::Library;
use super::deployment::{DEADLINE, Deployment, Instance, Prepared, eventually};
use super::operations;
use super::raw::Raw;
use solewriter::fleet::instance_of;

const POLICY: &str = r#"
[service.known]
nkeys = ["{known}"]
calls = ["svc.x"]
"#;

/// Lets so many clients connect, some at a time; gives what became of each.
fn crowd(deployment: &Deployment, size: usize) -> JoinHandle<Vec<Result<(), String>>> {
    const AT_A_TIME: usize = 16;
    let service = Arc::new(deployment.service("known"));
    let url: Arc<str> = deployment.url().into();
    tokio::spawn(async move {
        let slots = Arc::new(Semaphore::new(AT_A_TIME));
        let mut clients = JoinSet::new();
        for _ in 0..size {
            let slot = slots.clone().acquire_owned().await.unwrap();
            let (service, url) = (service.clone(), url.clone());
            clients.spawn(async move {
                let entered = Raw::try_login(&url, &service.seed).await.map(drop);
                drop(slot);
                entered
            });
        }
        clients.join_all().await
    })
}

fn everybody_is_in(entered: &[Result<(), String>], size: usize) {
    let refused: Vec<_> = entered.iter().filter_map(|e| e.as_ref().err()).collect();
    assert!(refused.is_empty(), "{} of {size} were refused: {refused:?}", refused.len());
    assert_eq!(entered.len(), size);
}

fn granted(instance: &Instance) -> usize {
    let decisions = instance.decisions();
    assert!(decisions.iter().all(|d| d["outcome"] == "granted"), "{decisions:?}");
    decisions.len()
}

/// On how many connections an instance takes requests.
fn default_connections() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8)
}

/// Waits until so many solewriters are connected, as the server sees it.
async fn connected_instances(deployment: &Deployment, count: usize) {
    eventually(&format!("{count} connected instances"), async || {
        // Each has others, on which no request comes.
        let connections = deployment.connections("AUTH").await;
        let answering = connections.iter().filter(|c| {
            let name = c["name"].as_str().unwrap_or_default();
            matches!(instance_of(name), Some(Some(_)))
        });
        let answering = answering.count();
        (answering == count * default_connections()).then_some(())
    })
    .await;
}

on_every_server!(two_instances_share_the_load);
async fn two_instances_share_the_load(version: &'static str) {
    const SIZE: usize = 200;
    let mut deployment = Deployment::start(version, POLICY).await;
    deployment.add_instance(&[]).await;
    everybody_is_in(&crowd(&deployment, SIZE).await.unwrap(), SIZE);
    let all = eventually("every decision in the logs", async || {
        let shares = deployment.instances.iter().map(granted).collect::<Vec<_>>();
        (shares.iter().sum::<usize>() >= SIZE).then_some(shares)
    })
    .await;
    assert_eq!(all.iter().sum::<usize>(), SIZE, "each request is answered once: {all:?}");
    // The server picks by chance; a fifth is far beyond what chance does to 200.
    assert!(all.iter().all(|share| *share > SIZE / 5), "{all:?}");
}

on_every_server!(after_a_crash_the_other_instance_goes_on);
async fn after_a_crash_the_other_instance_goes_on(version: &'static str) {
    const SIZE: usize = 200;
    let mut deployment = Deployment::start(version, POLICY).await;
    deployment.add_instance(&[]).await;
    let load = crowd(&deployment, SIZE);
    deployment.instances[0].says_times("authorisation", 20).await;
    deployment.instances[0].child.kill().await.unwrap();
    connected_instances(&deployment, 1).await;
    // From now on nobody is lost. Of those who were under way, some may have been.
    let began = Instant::now();
    everybody_is_in(&crowd(&deployment, 50).await.unwrap(), 50);
    assert!(began.elapsed() < Duration::from_secs(5), "they waited: {:?}", began.elapsed());
    let entered = load.await.unwrap();
    let lost = entered.iter().filter(|e| e.is_err()).count();
    assert_eq!(entered.len(), SIZE);
    assert!(lost <= 16, "{lost} were lost, more than were under way at once");
}

on_every_server!(an_instance_that_is_stopped_answers_what_it_took_on);
async fn an_instance_that_is_stopped_answers_what_it_took_on(version: &'static str) {
    // Enough to outlast the stop, which takes two seconds with the last audit events.
    const SIZE: usize = 4000;
    let mut deployment = Deployment::start(version, POLICY).await;
    deployment.add_instance(&[]).await;
    let load = crowd(&deployment, SIZE);
    deployment.instances[0].says_times("authorisation", 20).await;
    let stopping = &mut deployment.instances[0];
    stopping.signal(Signal::TERM);
    let began = Instant::now();
    let status = tokio::time::timeout(DEADLINE, stopping.child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    let stopped = stopping.said_once("stopped");
    assert_eq!(stopped["level"], "INFO", "{stopped}");
    assert_eq!(stopped["message"], "every request that was taken has an answer", "{stopped}");
    assert!(!load.is_finished(), "it stopped after the load, not in the middle");
    everybody_is_in(&load.await.unwrap(), SIZE);
    let answered = eventually("every decision in the logs", async || {
        let answered: usize = deployment.instances.iter().map(granted).sum();
        (answered >= SIZE).then_some(answered)
    })
    .await;
    assert_eq!(answered, SIZE, "each request is answered once");
}

on_every_server!(a_rolling_restart_loses_nobody);
/// One after the other, as a rolling update does it.
async fn a_rolling_restart_loses_nobody(version: &'static str) {
    const SIZE: usize = 500;
    let mut deployment = Deployment::start(version, POLICY).await;
    deployment.add_instance(&[]).await;
    let load = crowd(&deployment, SIZE);
    for old in 0..2 {
        deployment.add_instance(&[]).await;
        let old = &mut deployment.instances[old];
        old.signal(Signal::TERM);
        let status = tokio::time::timeout(DEADLINE, old.child.wait()).await.unwrap().unwrap();
        assert!(status.success(), "{status}");
    }
    everybody_is_in(&load.await.unwrap(), SIZE);
}

on_every_server!(a_slow_authorisation_is_survived);
/// nats-server pings a client that it has not let in after 2 s; each library must live through that.
async fn a_slow_authorisation_is_survived(version: &'static str) {
    let policy = "[service.known]\nnkeys = [\"{known}\"]\nowns = [\"orders\"]\n";
    let deployment = Deployment::start(version, policy).await;
    deployment.create_buckets(&["orders"]).await;
    let service = deployment.service("known");
    let script = [
        json!({"op": "open", "bucket": "orders"}),
        json!({"op": "put", "bucket": "orders", "key": "a", "value": "1"}),
    ];
    let works = |library: Library, outcome: &[Value]| {
        assert!(outcome.iter().all(|line| line["ok"] == true), "{library:?}: {outcome:?}");
        assert_eq!(outcome.len(), script.len(), "{library:?}: {outcome:?}");
    };
    // Whatever has to be installed is, before anything is timed.
    for library in Library::ALL {
        works(library, &library.run(&deployment, &service, &script).await);
    }
    for library in Library::ALL {
        deployment.instances[0].pause();
        let stopped = Instant::now();
        let run = library.run(&deployment, &service, &script);
        let wake = async {
            // Longer than the server waits before it pings, shorter than before it gives up.
            tokio::time::sleep_until((stopped + Duration::from_secs(4)).into()).await;
            deployment.instances[0].signal(Signal::CONT);
        };
        let (outcome, ()) = tokio::join!(run, wake);
        works(library, &outcome);
    }
}

on_every_server!(a_restart_of_the_server_is_survived);
async fn a_restart_of_the_server_is_survived(version: &'static str) {
    let mut deployment = Deployment::start(version, POLICY).await;
    let known = deployment.service("known");
    let (client, _violations) = operations::connect(deployment.url(), &known).await.unwrap();
    assert_eq!(deployment.instances[0].get("/readyz").await.0, 200);
    deployment.server.restart().await.unwrap();
    deployment.instances[0].says_times("connected", 2).await;
    deployment.instances[0].says("disconnected").await;
    eventually("a client to be let in again", async || {
        Raw::try_login(deployment.url(), &known.seed).await.ok()
    })
    .await;
    // The client that was there before is back too.
    client.flush().await.unwrap();
    assert_eq!(deployment.instances[0].get("/readyz").await.0, 200);
}

on_every_server!(it_waits_for_a_server_that_is_not_there_yet);
async fn it_waits_for_a_server_that_is_not_there_yet(version: &'static str) {
    let mut deployment = Prepared::new().start_broker(version, POLICY).await;
    deployment.server.stop().await.unwrap();
    deployment.launch_instance(&[]);
    let instance = &mut deployment.instances[0];
    let failed = instance.says("connect_failed").await;
    assert_eq!(failed["level"], "ERROR", "{failed}");
    assert!(failed["servers"].to_string().contains("127.0.0.1"), "{failed}");
    let (status, report) = instance.get("/readyz").await;
    assert_eq!((status, report.lines().next()), (503, Some("nats-server: not connected")));
    assert_eq!(instance.get("/livez").await, (200, "alive\n".to_owned()));
    deployment.server.restart().await.unwrap();
    deployment.instances[0].says("ready").await;
    Raw::login(&deployment, &deployment.service("known")).await;
}

on_every_server!(it_can_be_stopped_while_it_waits_for_a_server);
async fn it_can_be_stopped_while_it_waits_for_a_server(version: &'static str) {
    let mut deployment = Prepared::new().start_broker(version, POLICY).await;
    deployment.server.stop().await.unwrap();
    deployment.launch_instance(&[]);
    let instance = &mut deployment.instances[0];
    instance.says("connect_failed").await;
    instance.signal(Signal::TERM);
    let status = tokio::time::timeout(DEADLINE, instance.child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}

on_every_server!(it_stops_at_once_when_the_server_is_gone);
/// Without a server nothing can be answered, so there is nothing to wait for.
async fn it_stops_at_once_when_the_server_is_gone(version: &'static str) {
    let mut deployment = Deployment::start(version, POLICY).await;
    deployment.server.kill().await.unwrap();
    let instance = &mut deployment.instances[0];
    instance.says("disconnected").await;
    let began = Instant::now();
    instance.signal(Signal::TERM);
    let status = tokio::time::timeout(DEADLINE, instance.child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
}

on_every_server!(with_another_users_seed_it_is_not_ready);
/// With another user's seed no request ever comes; it says so and does not call itself ready.
async fn with_another_users_seed_it_is_not_ready(version: &'static str) {
    let mut deployment = Deployment::start(version, POLICY).await;
    let other = deployment.service("known").seed_file;
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o600)).unwrap();
    let other = other.display().to_string();
    let index = deployment.launch_instance(&["--nats-nkey-seed", &other]);
    let instance = &mut deployment.instances[index];
    instance.says("unconfirmed").await;
    let (code, report) = instance.get("/readyz").await;
    assert_eq!(code, 503, "{report}");
}

on_every_server!(health_and_metrics_tell_how_it_is);
async fn health_and_metrics_tell_how_it_is(version: &'static str) {
    let mut deployment = Deployment::start(version, POLICY).await;
    let known = deployment.service("known");
    let unknown = deployment.service("unknown");
    Raw::login(&deployment, &known).await;
    Raw::login(&deployment, &known).await;
    assert!(Raw::try_login(deployment.url(), &unknown.seed).await.is_err());
    let instance = &mut deployment.instances[0];
    let revision = instance.says("ready").await["revision"].as_str().unwrap()[..12].to_owned();
    instance.says_times("authorisation", 3).await;
    instance.says("sweeper").await;
    let report = format!(
        "nats-server: connected\nsubscribed: yes\nissuer: every server that asked accepts our \
         answers\npolicy: revision {revision}, the newest\nin force: for "
    );
    let (status, said) = instance.get("/readyz").await;
    assert!(status == 200 && said.starts_with(&report), "{said}");
    assert!(said.contains("\nsource: the directory ") && said.contains(": answered "), "{said}");
    assert_eq!(instance.get("/livez").await, (200, "alive\n".to_owned()));
    assert_eq!(instance.get("/nothing").await.0, 404);
    let connections = f64::from(u32::try_from(default_connections()).unwrap());
    for (metric, value) in [
        ("authorisations_total{outcome=\"granted\",reason=\"granted\"}", 2.0),
        ("authorisations_total{outcome=\"denied\",reason=\"unknown_key\"}", 1.0),
        ("decision_seconds_count", 3.0),
        ("pending_requests", 0.0),
        ("nats_connected", connections),
        ("policy_services", 1.0),
        ("policy_loads_total{outcome=\"accepted\"}", 1.0),
        ("policy_refused_since_timestamp_seconds", 0.0),
        ("cache_entries{cache=\"past_policies\"}", 0.0),
        ("cache_entries{cache=\"limited_keys\"}", 0.0),
    ] {
        let metric = format!("solewriter_{metric}");
        assert_eq!(instance.metric(&metric).await, value, "{metric}");
    }
    // One client was let in, twice, by one server.
    let twice = if solewriter_core::callout::asked::is_open(version) { 2.0 } else { 0.0 };
    for (cache, entries) in
        [("grants", 1.0), ("client_keys", 1.0), ("server_keys", 1.0), ("asked_connections", twice)]
    {
        let metric = format!("solewriter_cache_entries{{cache=\"{cache}\"}}");
        assert_eq!(instance.metric(&metric).await, entries, "{metric}");
    }
    assert!(instance.metric("solewriter_grant_cache_bytes").await > 0.0);
    let (_, metrics) = instance.get("/metrics").await;
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");

    deployment.server.stop().await.unwrap();
    let instance = &mut deployment.instances[0];
    instance.says("disconnected").await;
    let (status, report) = instance.get("/readyz").await;
    assert_eq!((status, report.lines().next()), (503, Some("nats-server: not connected")));
    assert_eq!(instance.metric("solewriter_nats_connected").await, 0.0);
    assert_eq!(instance.get("/livez").await.0, 200);
}

on_every_server!(no_seed_reaches_a_log);
/// Whoever reads the log or asks for metrics learns no secret.
async fn no_seed_reaches_a_log(version: &'static str) {
    let mut deployment = Prepared::new().start_broker(version, POLICY).await;
    deployment.add_instance(&["--log-filter", "trace"]).await;
    let known = deployment.service("known");
    Raw::login(&deployment, &known).await;
    let mut raw = Raw::dial(deployment.url()).await;
    let secrets = json!({"user": "hunter", "pass": "hunter2-password", "auth_token": "hunter3"});
    assert!(raw.enter(&secrets).await.is_err());
    let instance = &mut deployment.instances[0];
    instance.says_times("authorisation", 2).await;
    instance.signal(Signal::TERM);
    instance.child.wait().await.unwrap();
    let log = super::deployment::read(&instance.log);
    let mut secrets: Vec<String> = vec!["hunter2-password".into(), "hunter3".into()];
    for entry in std::fs::read_dir(deployment.files.dir.join("keys")).unwrap() {
        let seed = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        secrets.push(seed.trim().to_owned());
    }
    assert!(secrets.len() >= 8, "{}", secrets.len());
    for secret in secrets {
        assert!(
            !log.contains(&secret[2..]),
            "a secret that begins with {} is logged",
            &secret[..2]
        );
    }
}

impl Instance {
    /// The only line of that event; for one that ended, so that its log is whole.
    fn said_once(&self, event: &str) -> Value {
        let lines: Vec<Value> = self.lines().into_iter().filter(|l| l["event"] == event).collect();
        assert_eq!(lines.len(), 1, "{event}: {lines:?}");
        lines[0].clone()
    }
}
