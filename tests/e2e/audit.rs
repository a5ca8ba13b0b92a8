//! The audit stream: everything that decides is in it once, whatever happens in between.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{pull, push};
use async_nats::jetstream::message::StreamMessage;
use futures_util::StreamExt;
use rustix::process::Signal;
use serde_json::{Value, json};
use solewriter::audit::stats::Stats;
use solewriter::audit::stream;
use solewriter_guard::{self, Options};
use solewriter_types::audit_event::{DEFAULT_API, DEFAULT_SERVICES_STREAM, DEFAULT_STREAM};
use solewriter_types::audit_event::{Event, PRODUCER, Record, Source, Trouble};
use tokio::process::Command;

use super::clients::Library;
use super::deployment::{DEADLINE, Deployment, Prepared, Service, edit, eventually};
use super::operations;
use super::raw::Raw;

const POLICY: &str = r#"
[service.known]
nkeys = ["{known}"]
publishes = ["audit.events.known.>"]

[service.auditor]
nkeys = ["{auditor}"]
audits = ["AUDIT_EVENTS", "AUDIT_SERVICES"]

[service.violations]
nkeys = ["{violations}"]
publishes = ["audit.events.violations.>"]
"#;

async fn deployment(version: &'static str) -> Deployment {
    let mut deployment = Prepared::new().start_broker(version, POLICY).await;
    create_stream(&deployment).await;
    deployment.add_instance(&[]).await;
    deployment
}

async fn create_stream(deployment: &Deployment) {
    deployment.create_audit_streams().await;
}

on_every_server!(a_stream_that_is_not_made_yet_is_no_error);
/// At a first start the instance runs before `buckets apply` does; later, it is an error.
async fn a_stream_that_is_not_made_yet_is_no_error(version: &'static str) {
    let mut deployment = Prepared::new().start_broker(version, POLICY).await;
    deployment.add_instance(&[]).await;
    let waiting = deployment.instances[0].says("audit_waiting").await;
    assert_eq!(waiting["level"], "WARN", "{waiting}");
    assert!(waiting["error"].as_str().unwrap().contains("solewriter buckets apply"), "{waiting}");
    create_stream(&deployment).await;
    deployment.instances[0].says("audit_flowing").await;
    listen(&deployment, "elsewhere").await;
    Raw::login(&deployment, &deployment.service("known")).await;
    deployment.instances[0].says_where("audit_waiting", |line| line["level"] == "ERROR").await;
}

/// The stream takes nothing, or takes audit events again. Nothing in it is lost meanwhile.
async fn listen(deployment: &Deployment, subjects: &str) {
    let mut config = stream::config(DEFAULT_STREAM, 1);
    config.subjects = vec![subjects.to_owned()];
    deployment.audit_admin().await.update_stream(&config).await.unwrap();
}

async fn messages(deployment: &Deployment) -> Vec<StreamMessage> {
    messages_of(deployment, DEFAULT_STREAM).await
}

async fn messages_of(deployment: &Deployment, name: &str) -> Vec<StreamMessage> {
    let stream = deployment.audit_admin().await.get_stream(name).await.unwrap();
    let state = stream.get_info().await.unwrap().state;
    let mut found = Vec::new();
    for sequence in state.first_sequence.max(1)..=state.last_sequence {
        match stream.get_raw_message(sequence).await {
            Ok(message) => found.push(message),
            // Pushed out by its producer.
            Err(error) => assert_eq!(error.to_string(), "no message found"),
        }
    }
    found
}

async fn events(deployment: &Deployment) -> Vec<Value> {
    let parsed = |m: &StreamMessage| serde_json::from_slice(&m.payload).unwrap();
    messages(deployment).await.iter().map(parsed).collect()
}

async fn count(deployment: &Deployment) -> u64 {
    let mut stream = deployment.audit_admin().await.get_stream(DEFAULT_STREAM).await.unwrap();
    stream.info().await.unwrap().state.messages
}

fn id(event: &Value) -> String {
    event["id"].as_str().unwrap().to_owned()
}

/// The events that an instance logged, by id.
fn logged(deployment: &Deployment, instance: usize) -> BTreeMap<String, Value> {
    let lines = deployment.instances[instance].lines().into_iter();
    lines.filter_map(|line| Some((line["audit"].as_str()?.to_owned(), line))).collect()
}

/// Waits until the stream has every event of the log, and gives the stream's. Each is there once,
/// and in the order of its run.
async fn settled(deployment: &Deployment) -> Vec<Value> {
    let all = |d: &Deployment| -> BTreeSet<String> {
        (0..d.instances.len()).flat_map(|i| logged(d, i).into_keys()).collect()
    };
    eventually("every logged event in the stream", async || {
        let wanted = all(deployment).len() as u64;
        (count(deployment).await >= wanted).then_some(())
    })
    .await;
    let events = events(deployment).await;
    let ids: BTreeSet<String> = events.iter().map(id).collect();
    assert_eq!(ids.len(), events.len(), "an event is there twice");
    // The log is written a moment after the event was queued.
    eventually("every event of the stream in the log", async || {
        ids.is_subset(&all(deployment)).then_some(())
    })
    .await;
    assert_eq!(ids, all(deployment), "the stream and the log have the same events");
    in_order(&events);
    events
}

fn in_order(events: &[Value]) {
    let mut last: BTreeMap<&str, &str> = BTreeMap::new();
    for event in events {
        let (source, number) = (event["source"].as_str().unwrap(), &event["sequence"]);
        let before = last.insert(source, number.as_str().unwrap()).unwrap_or_default();
        assert!(before < number.as_str().unwrap(), "{source}: {before} before {number}");
    }
}

fn of_type<'e>(events: &'e [Value], kind: &str) -> Vec<&'e Value> {
    let kind = format!("solewriter.{kind}");
    events.iter().filter(|event| event["type"] == kind.as_str()).collect()
}

/// What `audit stats` counts, of events that are on the subjects of those whom they name.
fn stats(events: &[Value]) -> Stats {
    let subject = |event: &Value| {
        format!("audit.events{}", event["source"].as_str().unwrap().replace('/', "."))
    };
    let subjects: Vec<String> = events.iter().map(subject).collect();
    Stats::of(subjects.iter().map(String::as_str).zip(events))
}

/// Connects and goes away so many times.
async fn log_in(deployment: &Deployment, service: &Service, times: usize) {
    for _ in 0..times {
        Raw::try_login(deployment.url(), &service.seed).await.unwrap();
    }
}

on_every_server!(each_decision_is_one_event_at_both_places);
/// Each decision and each change is one event, in the log and in the stream, at once.
async fn each_decision_is_one_event_at_both_places(version: &'static str) {
    let mut deployment = deployment(version).await;
    let (known, stranger) = (deployment.service("known"), deployment.service("stranger"));
    log_in(&deployment, &known, 1).await;
    assert!(Raw::try_login(deployment.url(), &stranger.seed).await.is_err());
    deployment.write_policy(&POLICY.replace("publishes = [\"audit.events.known.>\"]", ""));
    deployment.instances[0].says("policy_changed").await;
    deployment.write_policy("[service.known]\nowns = [\"nowhere\"]\n");
    deployment.instances[0].says("policy_refused").await;
    let events = settled(&deployment).await;
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "solewriter.started",
            "solewriter.policy.accepted",
            "solewriter.authorisation.granted",
            "solewriter.authorisation.denied",
            "solewriter.policy.accepted",
            "solewriter.policy.refused",
        ]
    );
    let log = logged(&deployment, 0);
    for event in &events[2..4] {
        let line = &log[&id(event)];
        for (field, value) in event["data"].as_object().unwrap() {
            if field != "expires" {
                assert_eq!(&line[field], value, "{field}\n{line}\n{event}");
            }
        }
    }
    let data = |at: usize| &events[at]["data"];
    assert_eq!(data(2)["service"], "known");
    assert_eq!(data(2)["nkey"], known.key().as_str());
    assert_eq!(data(2)["grant"].as_str().unwrap().len(), 64);
    assert_eq!(data(3)["reason"], "unknown_key");
    assert_eq!(data(3)["nkey"], stranger.key().as_str());
    assert_eq!(data(4)["before"], data(2)["revision"]);
    assert_eq!(data(4)["changes"]["changed"], json!({"count": 1, "names": ["known"]}));
    assert_eq!(data(5)["revision"], data(4)["revision"]);
    assert_eq!(data(5)["faults"][0]["code"], "undeclared-bucket");
    // Stored within a second, by the server's clock, which is this machine's.
    let valid = jsonschema::draft202012::new(&schema()).unwrap();
    for message in messages(&deployment).await {
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        let recorded: jiff::Timestamp = event["time"].as_str().unwrap().parse().unwrap();
        let stored = i64::try_from(message.time.unix_timestamp_nanos() / 1_000_000).unwrap();
        assert!(stored - recorded.as_millisecond() < 1000, "{event}");
        let objections: Vec<String> = valid.iter_errors(&event).map(|e| e.to_string()).collect();
        assert!(objections.is_empty(), "{objections:?}\n{event:#}");
    }
    // The end is told too, and nothing is left on disk.
    deployment.instances[0].signal(Signal::TERM);
    deployment.instances[0].child.wait().await.unwrap();
    let events = settled(&deployment).await;
    assert_eq!(events.last().unwrap()["type"], "solewriter.stopped");
    let spool = deployment.files.dir.join("audit-spool");
    assert_eq!(std::fs::read_dir(spool).unwrap().count(), 0);
}

fn schema() -> Value {
    serde_json::from_str(&solewriter::audit::schema::document()).unwrap()
}

/// The stream is away for a while; connections are authorised all the same, and every event
/// arrives once, in order.
async fn an_outage_of(length: Duration, version: &'static str) {
    let mut deployment = deployment(version).await;
    let known = deployment.service("known");
    log_in(&deployment, &known, 20).await;
    listen(&deployment, "away.>").await;
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut logins = 0u32;
    while began.elapsed() < length {
        let login = Instant::now();
        log_in(&deployment, &known, 1).await;
        slowest = slowest.max(login.elapsed());
        logins += 1;
    }
    eventually("every login among the events that wait", async || {
        let pending = deployment.instances[0].metric("solewriter_audit_pending").await;
        (pending >= f64::from(logins)).then_some(())
    })
    .await;
    // Older servers do not say that nobody took a message, so that takes the time of a timeout.
    eventually("the outage in the metrics", async || {
        (deployment.instances[0].metric("solewriter_audit_connected").await == 0.0).then_some(())
    })
    .await;
    assert!(slowest < Duration::from_secs(2), "an authorisation took {slowest:?}");
    listen(&deployment, &stream::subjects()).await;
    let events = settled(&deployment).await;
    let granted = of_type(&events, "authorisation.granted").len();
    assert_eq!(granted, 20 + usize::try_from(logins).unwrap());
    assert_eq!(
        deployment.instances[0].metric("solewriter_audit_lost_total{reason=\"spool_full\"}").await,
        0.0
    );
    eventually("nothing pending", async || {
        (deployment.instances[0].metric("solewriter_audit_pending").await == 0.0).then_some(())
    })
    .await;
}

on_every_server!(while_the_stream_is_away_events_wait_and_arrive_once);
async fn while_the_stream_is_away_events_wait_and_arrive_once(version: &'static str) {
    an_outage_of(Duration::from_secs(4), version).await;
}

/// Two of three servers are killed for a minute, and JetStream with them, while clients log in
/// through the third: every event is there once, in order, and none is lost.
#[ignore = "takes minutes"]
#[tokio::test(flavor = "multi_thread")]
async fn a_minute_with_one_server_of_three_loses_nothing() {
    let version = "2.15.1";
    const OUTAGE: Duration = Duration::from_secs(60);
    let mut deployment = Prepared::new().start_cluster(version, POLICY).await;
    create_stream(&deployment).await;
    deployment.add_instance(&[]).await;
    let known = deployment.service("known");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (url, seed) = (deployment.url().to_owned(), known.seed.expose().to_owned());
        let stop = stop.clone();
        clients.spawn(async move {
            let seed = solewriter_core::keys::Seed::parse(&seed).unwrap();
            let (mut logins, mut failed) = (0_u64, 0_u64);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                match tokio::time::timeout(DEADLINE, Raw::try_login(&url, &seed)).await {
                    Ok(Ok(_)) => logins += 1,
                    _ => failed += 1,
                }
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
            (logins, failed)
        });
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    for peer in &mut deployment.peers {
        peer.kill().await.unwrap();
    }
    let away = Instant::now();
    eventually("the outage in the metrics", async || {
        (deployment.instances[0].metric("solewriter_audit_connected").await == 0.0).then_some(())
    })
    .await;
    tokio::time::sleep(OUTAGE.saturating_sub(away.elapsed())).await;
    let waited = deployment.instances[0].metric("solewriter_audit_pending").await;
    for peer in &mut deployment.peers {
        peer.restart().await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (mut logins, mut failed) = (0, 0);
    while let Some(client) = clients.join_next().await {
        let (entered, refused) = client.unwrap();
        (logins, failed) = (logins + entered, failed + refused);
    }
    let recovering = Instant::now();
    let patience = Duration::from_secs(120);
    while deployment.instances[0].metric("solewriter_audit_pending").await > 0.0 {
        assert!(recovering.elapsed() < patience, "events wait for ever");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!(
        "{logins} logins ({failed} failed); {waited} events waited after {OUTAGE:?}, and were sent \
         {:.1?} after the end",
        recovering.elapsed()
    );
    let events = settled(&deployment).await;
    let granted = of_type(&events, "authorisation.granted").len() as u64;
    assert!(granted >= logins, "{granted} of {logins}");
    assert!(waited > 100.0, "{waited} events are no load");
    assert_eq!(of_type(&events, "lost").len(), 0);
    let stats = stats(&events);
    assert_eq!((stats.missing(), stats.foreign), (0, 0), "{stats:?}");
    for reason in solewriter::telemetry::LOSSES {
        let lost = format!("solewriter_audit_lost_total{{reason=\"{reason}\"}}");
        assert_eq!(deployment.instances[0].metric(&lost).await, 0.0, "{reason}");
    }
}

#[ignore = "takes a minute"]
#[tokio::test(flavor = "multi_thread")]
async fn a_minute_without_the_stream_loses_nothing() {
    let version = "2.15.1";
    an_outage_of(Duration::from_secs(60), version).await;
}

on_every_server!(a_killed_server_loses_no_event);
/// The server, JetStream and all, is killed under load and comes back.
async fn a_killed_server_loses_no_event(version: &'static str) {
    let mut deployment = deployment(version).await;
    let known = deployment.service("known");
    for round in 1..=2 {
        let (url, seed) = (deployment.url().to_owned(), known.seed.expose().to_owned());
        let load = tokio::spawn(async move {
            let seed = solewriter_core::keys::Seed::parse(&seed).unwrap();
            let mut logins = 0;
            while tokio::time::timeout(Duration::from_secs(1), Raw::try_login(&url, &seed))
                .await
                .is_ok_and(|login| login.is_ok())
            {
                logins += 1;
            }
            logins
        });
        tokio::time::sleep(Duration::from_millis(700)).await;
        deployment.server.kill().await.unwrap();
        // Dialling a dead server is a panic of the test's client.
        let _ = load.await;
        // What happens meanwhile is recorded too.
        deployment.write_policy(&format!("{POLICY}# {round}\n"));
        deployment.instances[0].says_times("policy_changed", round).await;
        deployment.server.restart().await.unwrap();
        eventually("a client to be let in again", async || {
            Raw::try_login(deployment.url(), &known.seed).await.ok()
        })
        .await;
    }
    let events = settled(&deployment).await;
    assert_eq!(of_type(&events, "policy.accepted").len(), 3);
    assert_eq!(of_type(&events, "lost").len(), 0);
}

on_every_server!(what_a_killed_instance_left_is_sent_by_the_next);
/// The service is killed while the stream is away: what it recorded is sent by the next one.
async fn what_a_killed_instance_left_is_sent_by_the_next(version: &'static str) {
    let mut deployment = deployment(version).await;
    let known = deployment.service("known");
    log_in(&deployment, &known, 30).await;
    listen(&deployment, "away.>").await;
    log_in(&deployment, &known, 300).await;
    deployment.instances[0].child.kill().await.unwrap();
    deployment.add_instance(&[]).await;
    log_in(&deployment, &known, 10).await;
    listen(&deployment, &stream::subjects()).await;
    accounted_for(&deployment).await;
}

on_every_server!(an_instance_killed_under_load_accounts_for_every_event);
/// Killed under load with everything in flight: each event is there once, or told as lost.
async fn an_instance_killed_under_load_accounts_for_every_event(version: &'static str) {
    let mut deployment = deployment(version).await;
    let known = deployment.service("known");
    for round in 0..3 {
        let load = deployment.url().to_owned();
        let seed = known.seed.expose().to_owned();
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (url, seed) = (load.clone(), seed.clone());
            clients.spawn(async move {
                let seed = solewriter_core::keys::Seed::parse(&seed).unwrap();
                while Raw::try_login(&url, &seed).await.is_ok() {}
            });
        }
        let wanted = 200 * (round + 1);
        eventually("some load", async || (count(&deployment).await >= wanted as u64).then_some(()))
            .await;
        deployment.instances[round].child.kill().await.unwrap();
        clients.abort_all();
        deployment.add_instance(&[]).await;
    }
    log_in(&deployment, &known, 1).await;
    accounted_for(&deployment).await;
}

/// Every event of every log is in the stream once, or one of those that an event tells as lost,
/// and no more are told.
async fn accounted_for(deployment: &Deployment) {
    let last = deployment.instances.len() - 1;
    let wanted: Vec<String> = logged(deployment, last).into_keys().collect();
    let events = eventually("the last instance's events", async || {
        let events = events(deployment).await;
        let ids: BTreeSet<String> = events.iter().map(id).collect();
        wanted.iter().all(|id| ids.contains(id)).then_some(events)
    })
    .await;
    in_order(&events);
    let there: BTreeSet<String> = events.iter().map(id).collect();
    assert_eq!(there.len(), events.len(), "an event is there twice");
    let mut lost = BTreeSet::new();
    for event in of_type(&events, "lost") {
        let data = &event["data"];
        assert_eq!(data["reason"], "killed");
        let (first, last) = (data["first"].as_u64().unwrap(), data["last"].as_u64().unwrap());
        assert_eq!(data["count"], last - first + 1);
        let instance = data["instance"].as_str().unwrap();
        lost.extend((first..=last).map(|number| format!("{instance}-{number}")));
    }
    let stats = stats(&events);
    assert_eq!(stats.missing(), lost.len() as u64, "{stats:?}");
    assert!(lost.is_disjoint(&there), "told as lost, and there");
    for instance in 0..deployment.instances.len() {
        for id in logged(deployment, instance).into_keys() {
            assert!(there.contains(&id) || lost.contains(&id), "{id} is nowhere");
        }
    }
}

on_every_server!(old_events_are_not_sent_twice_after_the_duplicate_window);
/// What may have been sent long ago is sent again only when the stream does not have it.
async fn old_events_are_not_sent_twice_after_the_duplicate_window(version: &'static str) {
    let mut deployment = Prepared::new().start_broker(version, POLICY).await;
    let mut config = stream::config(DEFAULT_STREAM, 1);
    // As if the window had long passed.
    config.duplicate_window = Duration::from_millis(100);
    deployment.audit_admin().await.create_stream(config).await.unwrap();
    let time = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1);
    let source = Source::new(PRODUCER, time, 1);
    let line = |sequence| {
        let (reason, detail) = ("test".to_owned(), "an old event".to_owned());
        let event = Event::Trouble(Trouble { reason, detail, service: None });
        Record { sequence, time, event }.line(&source)
    };
    let run = deployment.files.dir.join("audit-spool").join(&source.instance);
    std::fs::create_dir_all(&run).unwrap();
    let text: String = (1..=50).map(|number| line(number) + "\n").collect();
    std::fs::write(run.join("00000000000000000001.jsonl"), text).unwrap();
    std::fs::write(run.join("lock"), "").unwrap();
    // The stream has thirty, and the note that says so says ten.
    std::fs::write(run.join("acked"), "10\n").unwrap();
    for number in 1..=30 {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", source.id(number));
        let context = deployment.audit_admin().await;
        let sent = context.publish_with_headers(source.subject(), headers, line(number).into());
        sent.await.unwrap().await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    deployment.add_instance(&[]).await;
    let old = format!("{}-", source.instance);
    let events = eventually("the old events", async || {
        let events = events(&deployment).await;
        events.iter().any(|e| id(e) == format!("{old}50")).then_some(events)
    })
    .await;
    let numbers: Vec<String> = events.iter().map(id).filter(|id| id.starts_with(&old)).collect();
    assert_eq!(numbers, (1..=50).map(|number| source.id(number)).collect::<Vec<String>>());
    // Nobody knows what a run that was killed before a restart of the machine had in memory.
    deployment.instances[0].says("audit_end_unknown").await;
    eventually("the old spool to be removed", async || (!run.exists()).then_some(())).await;
}

on_every_server!(what_a_killed_instance_had_in_memory_is_told);
/// The count of what a run recorded outlives its kill; what is not on disk is told as lost.
async fn what_a_killed_instance_had_in_memory_is_told(version: &'static str) {
    let mut deployment = Prepared::new().start_broker(version, POLICY).await;
    create_stream(&deployment).await;
    let source = Source::new(PRODUCER, jiff::Timestamp::now(), std::process::id());
    let line = |sequence| {
        let (reason, detail) = ("test".to_owned(), "written in time".to_owned());
        let event = Event::Trouble(Trouble { reason, detail, service: None });
        Record { sequence, time: jiff::Timestamp::now(), event }.line(&source)
    };
    let run = deployment.files.dir.join("audit-spool").join(&source.instance);
    std::fs::create_dir_all(&run).unwrap();
    // Fifty events were recorded, forty-seven were written, and half of another.
    let text: String = (1..=47).map(|number| line(number) + "\n").collect();
    std::fs::write(run.join("00000000000000000001.jsonl"), text + &line(48)[..100]).unwrap();
    std::fs::write(run.join("lock"), "").unwrap();
    let tally = Path::new("/dev/shm").join(format!("solewriter-audit-{}", source.instance));
    std::fs::write(&tally, 50u64.to_le_bytes()).unwrap();
    deployment.add_instance(&[]).await;
    let told = deployment.instances[0].says("audit_lost").await;
    let data = (&told["reason"], &told["count"], &told["first"], &told["last"]);
    assert_eq!(data, (&json!("killed"), &json!(3), &json!(48), &json!(50)));
    assert!(!tally.exists(), "told once");
    accounted_for(&deployment).await;
    let killed = "solewriter_audit_lost_total{reason=\"killed\"}";
    assert_eq!(deployment.instances[0].metric(killed).await, 3.0);
}

/// A counter's value.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(value: f64) -> u64 {
    value as u64
}

on_every_server!(past_the_spools_limit_the_loss_is_counted_and_told);
/// What does not fit into the spool is counted, and told when there is room again.
async fn past_the_spools_limit_the_loss_is_counted_and_told(version: &'static str) {
    let mut deployment = Prepared::new().start_broker(version, POLICY).await;
    deployment.add_instance(&["--audit-spool-limit", "1MiB"]).await;
    let known = deployment.service("known");
    let lost = "solewriter_audit_lost_total{reason=\"spool_full\"}";
    while deployment.instances[0].metric(lost).await < 20.0 {
        log_in(&deployment, &known, 100).await;
    }
    let counted = whole(deployment.instances[0].metric(lost).await);
    create_stream(&deployment).await;
    deployment.instances[0].says("audit_lost").await;
    log_in(&deployment, &known, 5).await;
    eventually("all but the lost events", async || {
        let wanted = logged(&deployment, 0).len() as u64 - counted;
        (count(&deployment).await >= wanted).then_some(())
    })
    .await;
    let events = events(&deployment).await;
    in_order(&events);
    let told: u64 =
        of_type(&events, "lost").iter().map(|e| e["data"]["count"].as_u64().unwrap()).sum();
    assert_eq!(told, counted);
    assert_eq!(stats(&events).missing(), told);
    let there: BTreeSet<String> = events.iter().map(id).collect();
    let missing = logged(&deployment, 0).into_keys().filter(|id| !there.contains(id)).count();
    assert_eq!(missing as u64, counted, "the log has them all");
}

on_every_server!(who_may_publish_and_read_is_what_the_policy_says);
/// A service publishes as itself alone, and only an auditor reads.
async fn who_may_publish_and_read_is_what_the_policy_says(version: &'static str) {
    let deployment = deployment(version).await;
    let known = deployment.service("known");
    let mut client = Raw::login(&deployment, &known).await;
    for (subject, allowed) in [
        ("audit.events.known.run1", true),
        ("audit.events.known", false),
        ("audit.events.solewriter.run1", false),
        ("audit.events.violations.run1", false),
        ("audit.events", false),
        ("audit.services.known.run1", false),
        ("audit.services.violations.run1", false),
        ("$JS.API.CONSUMER.CREATE.AUDIT_EVENTS", false),
        ("$JS.AUDIT.API.CONSUMER.CREATE.AUDIT_EVENTS", false),
        ("$JS.AUDIT.API.DIRECT.GET.AUDIT_EVENTS.audit.events.solewriter.run1", false),
        ("$JS.AUDIT.API.STREAM.INFO.AUDIT_SERVICES", false),
    ] {
        assert_eq!(client.publish(subject, b"{}").await.is_ok(), allowed, "{subject}");
    }
    for subject in ["audit.events.>", "audit.events.known.*", "audit.>"] {
        assert!(client.subscribe(subject).await.is_err(), "{subject}");
    }
    eventually("the service's event in the stream", async || {
        let all = messages_of(&deployment, DEFAULT_SERVICES_STREAM).await;
        all.iter().any(|m| &*m.subject == "audit.services.known").then_some(())
    })
    .await;
    let auditor = deployment.service("auditor");
    let mut client = Raw::login(&deployment, &auditor).await;
    for subject in [
        "audit.events.auditor.x",
        "$JS.AUDIT.API.STREAM.PURGE.AUDIT_EVENTS",
        "$JS.AUDIT.API.STREAM.DELETE.AUDIT_SERVICES",
        "$JS.AUDIT.API.STREAM.UPDATE.AUDIT_SERVICES",
        "$JS.AUDIT.API.STREAM.MSG.DELETE.AUDIT_EVENTS",
        "$JS.AUDIT.API.CONSUMER.LIST.AUDIT_EVENTS",
        "$JS.API.STREAM.INFO.AUDIT_EVENTS",
        "$JS.API.STREAM.INFO.KV_x",
    ] {
        assert!(client.publish(subject, b"{}").await.is_err(), "{subject}");
    }
    client.publish("$JS.AUDIT.API.STREAM.INFO.AUDIT_EVENTS", b"").await.unwrap();
}

on_every_server!(one_service_wipes_its_own_events_alone);
/// What a service publishes pushes out its own events alone, suppresses nobody's, and reaches
/// solewriter's stream in no way.
async fn one_service_wipes_its_own_events_alone(version: &'static str) {
    let deployment = deployment(version).await;
    let (known, violations) = (deployment.service("known"), deployment.service("violations"));
    log_in(&deployment, &known, 3).await;
    let before: BTreeSet<String> = settled(&deployment).await.iter().map(id).collect();
    let admin = deployment.audit_admin().await;
    // As the code has it, but for its size.
    let mut config = stream::services(DEFAULT_SERVICES_STREAM, 1);
    config.max_messages_per_subject = 100;
    admin.update_stream(&config).await.unwrap();
    tell(&deployment, &violations, "the first").await;
    flood(&deployment, &known).await;
    let mut kept: BTreeMap<String, u64> = BTreeMap::new();
    for message in messages_of(&deployment, DEFAULT_SERVICES_STREAM).await {
        *kept.entry(message.subject.to_string()).or_default() += 1;
        assert!(message.payload.len() <= 16 * 1024);
    }
    for own in ["audit.services.known", "audit.services.known.*", "audit.services.known.>"] {
        let count = kept.remove(own).unwrap_or_default();
        assert!((1..=100).contains(&count), "{own}: {count}");
    }
    // The other service's event is there, and nothing under any other subject.
    assert_eq!(kept, BTreeMap::from([("audit.services.violations".to_owned(), 1)]));
    let there: BTreeSet<String> = settled(&deployment).await.iter().map(id).collect();
    assert!(there.is_superset(&before), "{before:?} {there:?}");

    // The same flood where the limit is everybody's.
    (config.subject_transform, config.max_messages_per_subject) = (None, -1);
    config.max_messages = 300;
    admin.update_stream(&config).await.unwrap();
    tell(&deployment, &violations, "the second").await;
    flood(&deployment, &known).await;
    let left = messages_of(&deployment, DEFAULT_SERVICES_STREAM).await;
    assert!(left.iter().all(|message| message.subject.starts_with("audit.services.known.")));
}

/// Publishes an event as a service, which its stream takes.
async fn tell(deployment: &Deployment, service: &Service, body: &'static str) {
    let (client, _) = operations::connect(deployment.url(), service).await.unwrap();
    let subject = format!("audit.events.{}.r1", service.name);
    let context = async_nats::jetstream::new(client);
    let sent = context.publish(subject, body.into()).await.unwrap();
    assert_eq!(sent.await.unwrap().stream, DEFAULT_SERVICES_STREAM);
}

/// Publishes 4,200 large messages, and what else could remove or suppress others.
async fn flood(deployment: &Deployment, service: &Service) {
    let (flooder, _) = operations::connect(deployment.url(), service).await.unwrap();
    let subject = |run: &str| format!("audit.events.{}.{run}", service.name);
    let large = bytes::Bytes::from(vec![b'x'; 15 * 1024]);
    for number in 0..4_200 {
        // One run, many runs, and what a server takes for wildcards elsewhere.
        let run = match number % 4 {
            0 => "run".to_owned(),
            1 => format!("run{number}"),
            2 => "*".to_owned(),
            _ => ">".to_owned(),
        };
        flooder.publish(subject(&run), large.clone()).await.unwrap();
    }
    for (name, value) in [("Nats-Rollup", "all"), ("Nats-Rollup", "sub"), ("Nats-TTL", "1s")] {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(name, value);
        let body = bytes::Bytes::from_static(b"{}");
        flooder.publish_with_headers(subject("run"), headers, body).await.unwrap();
    }
    // Too large a one is not taken at all.
    flooder.publish(subject("run"), vec![b'x'; 17 * 1024].into()).await.unwrap();
    flooder.publish(subject("run"), "the last".into()).await.unwrap();
    flooder.flush().await.unwrap();
    let mut stream =
        deployment.audit_admin().await.get_stream(DEFAULT_SERVICES_STREAM).await.unwrap();
    let mut end = async || {
        let last = stream.info().await.ok()?.state.last_sequence;
        let last = stream.get_raw_message(last).await.ok()?;
        (*last.payload == *b"the last").then_some(())
    };
    let deadline = Instant::now() + DEADLINE;
    while end().await.is_none() {
        assert!(Instant::now() < deadline, "the flood does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

on_every_server!(message_ids_of_services_are_not_the_events_ids);
/// A service that knows another's run cannot have its events dropped: what the stream knows a
/// message again by is nobody's business before it is used.
async fn message_ids_of_services_are_not_the_events_ids(version: &'static str) {
    let deployment = deployment(version).await;
    let known = deployment.service("known");
    let options = Options::new("known", known.seed.expose().to_owned());
    let guarded = solewriter_guard::connect(deployment.url(), options).await.unwrap();
    let mut news = guarded.violations();
    for subject in ["not.mine", "not.mine.either"] {
        guarded.client().publish(subject, "x".into()).await.unwrap();
        tokio::time::timeout(DEADLINE, news.recv()).await.unwrap().unwrap();
    }
    guarded.close().await;
    let messages = messages_of(&deployment, DEFAULT_SERVICES_STREAM).await;
    assert_eq!(messages.len(), 2);
    let mut ids = BTreeSet::new();
    for message in &messages {
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        let message_id = message.headers.get("Nats-Msg-Id").unwrap().to_string();
        let run = event["source"].as_str().unwrap().rsplit('/').next().unwrap();
        assert!(message_id.len() == 32 && !message_id.contains(run), "{message_id} {event}");
        ids.insert(message_id);
    }
    assert_eq!(ids.len(), 2);
}

on_every_server!(an_id_that_somebody_used_first_is_told_as_a_loss);
/// Message ids belong to the whole stream: who may publish to solewriter's own, which no service
/// may, and uses the id of an event to come, suppresses it; and that is told.
async fn an_id_that_somebody_used_first_is_told_as_a_loss(version: &'static str) {
    let mut deployment = deployment(version).await;
    let known = deployment.service("known");
    let events = settled(&deployment).await;
    let last = events.last().unwrap();
    let run = last["source"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let number: u64 = last["sequence"].as_str().unwrap().parse().unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", format!("{run}-{}", number + 2));
    let admin = deployment.audit_admin().await;
    let sent = admin.publish_with_headers("audit.events.solewriter.x", headers, "{}".into()).await;
    sent.unwrap().await.unwrap();
    log_in(&deployment, &known, 3).await;
    let told = deployment.instances[0].says("audit_id_taken").await;
    let lost = deployment.instances[0].says("audit_lost").await;
    let data = (&lost["reason"], &lost["count"], &lost["first"], &lost["last"]);
    assert_eq!(data, (&json!("id_taken"), &json!(1), &json!(number + 2), &json!(number + 2)));
    let wanted = lost["audit"].as_str().unwrap().to_owned();
    let events = eventually("the loss in the stream", async || {
        let all = messages(&deployment).await;
        let parsed = |m: &StreamMessage| serde_json::from_slice::<Value>(&m.payload).unwrap();
        let events: Vec<Value> = all.iter().map(parsed).filter(|e| e["id"].is_string()).collect();
        events.iter().any(|event| id(event) == wanted).then_some(events)
    })
    .await;
    in_order(&events);
    let stats = stats(&events);
    let run = &stats.runs[&format!("solewriter/{run}")];
    assert_eq!((run.missing, run.told), (1, 1), "{stats:?}\n{told}");
    let metric = "solewriter_audit_lost_total{reason=\"id_taken\"}";
    assert_eq!(deployment.instances[0].metric(metric).await, 1.0);
}

on_every_server!(an_auditor_reads_with_each_library);
/// The client libraries read the stream with an ordered consumer, without one violation.
async fn an_auditor_reads_with_each_library(version: &'static str) {
    let deployment = deployment(version).await;
    log_in(&deployment, &deployment.service("known"), 300).await;
    let wanted = settled(&deployment).await.len();
    let auditor = deployment.service("auditor");
    let (client, mut violations) = operations::connect(deployment.url(), &auditor).await.unwrap();
    let context = async_nats::jetstream::with_prefix(client, DEFAULT_API);
    let stream = context.get_stream(DEFAULT_STREAM).await.unwrap();
    let config = push::OrderedConfig {
        deliver_subject: "_INBOX.auditor.push".to_owned(),
        ..push::OrderedConfig::default()
    };
    let pushed = stream.create_consumer(config).await.unwrap().messages().await.unwrap();
    let config = pull::OrderedConfig {
        filter_subject: "audit.events.solewriter.*".to_owned(),
        ..pull::OrderedConfig::default()
    };
    let pulled = stream.create_consumer(config).await.unwrap().messages().await.unwrap();
    let pushed = pushed.map(|message| message.map_err(|error| error.to_string())).boxed();
    let pulled = pulled.map(|message| message.map_err(|error| error.to_string())).boxed();
    for list in [pushed, pulled] {
        let read = tokio::time::timeout(DEADLINE, list.take(wanted).collect::<Vec<_>>()).await;
        assert!(read.unwrap().iter().all(Result::is_ok));
    }
    assert!(violations.try_recv().is_err());
    let script = [json!({"op": "ordered", "stream": DEFAULT_STREAM, "api": DEFAULT_API,
        "expect": wanted})];
    for library in [Library::NatsPy, Library::NatsJs] {
        let lines = library.run(&deployment, &auditor, &script).await;
        assert_eq!(lines[0]["ok"], true, "{library:?} {lines:?}");
        assert_eq!(lines[0]["result"], wanted, "{library:?}");
    }
    assert!(deployment.violations().is_empty(), "{:?}", deployment.violations());
}

/// `solewriter audit` with the auditor's seed.
async fn audit(deployment: &Deployment, arguments: &[&str]) -> (Option<i32>, String) {
    let seed = deployment.service("auditor").seed_file;
    let output = Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .arg("audit")
        .args(arguments)
        .args(["--nats-servers", deployment.url(), "--nkey-seed"])
        .arg(seed)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), text + &String::from_utf8(output.stderr).unwrap())
}

on_every_server!(people_read_the_stream);
async fn people_read_the_stream(version: &'static str) {
    let deployment = deployment(version).await;
    let (known, stranger) = (deployment.service("known"), deployment.service("stranger"));
    log_in(&deployment, &known, 2).await;
    assert!(Raw::try_login(deployment.url(), &stranger.seed).await.is_err());
    settled(&deployment).await;
    let tail = ["tail", "--no-follow", "--service", "known", "--since", "1h"];
    let (code, text) = audit(&deployment, &tail).await;
    assert_eq!((code, text.lines().count()), (Some(0), 2), "{text}");
    assert!(
        text.lines().all(|line| line.contains("Z  granted    known             let in from ")),
        "{text}"
    );
    let (_, text) = audit(&deployment, &["tail", "--no-follow", "--service", "knwn"]).await;
    assert_eq!(text, "no event so far is about a service `knwn`; did you mean `known`?\n");
    let (_, text) =
        audit(&deployment, &["tail", "--no-follow", "--outcome", "denied", "--json"]).await;
    let event: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(event["data"]["nkey"], stranger.key().as_str());
    let (code, text) = audit(&deployment, &["stats"]).await;
    assert_eq!(code, Some(0), "{text}");
    for part in ["  unknown_key", "known                    granted 2", "Missing: 0"] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    // A service writes what it likes into what it may publish.
    let honest = events(&deployment).await.remove(0);
    let mut forged = honest.clone();
    let run = honest["source"].as_str().unwrap().rsplit('/').next().unwrap();
    forged["sequence"] = "000000009999".into();
    forged["id"] = format!("{run}-9999").into();
    forged["type"] = "solewriter.policy.accepted".into();
    let mut client = Raw::login(&deployment, &known).await;
    let subject = format!("audit.events.known.{run}");
    client.publish(&subject, forged.to_string().as_bytes()).await.unwrap();
    let kept = "audit.services.known";
    eventually("the forged event", async || {
        let all = messages_of(&deployment, DEFAULT_SERVICES_STREAM).await;
        all.iter().any(|m| &*m.subject == kept).then_some(())
    })
    .await;
    let (code, text) = audit(&deployment, &["stats"]).await;
    assert_eq!(code, Some(0), "{text}");
    for part in ["1 message foreign", "       1  known", "Missing: 0"] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    let (_, text) = audit(&deployment, &["tail", "--no-follow", "--since", "1h"]).await;
    let line = format!("FOREIGN  on {kept}: its source is not its producer");
    assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
    for filter in [&["--outcome", "accepted"][..], &["--json"]] {
        let (_, text) = audit(&deployment, &[&["tail", "--no-follow"], filter].concat()).await;
        assert!(!text.contains("-9999") && text.contains("1 message foreign"), "{text}");
    }
    let (code, text) = audit(&deployment, &["stats", "--stream", "OTHER"]).await;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("audits = [\"OTHER\"]"), "{text}");
}

/// The events of a kind among lines of `audit tail --json`.
fn lines_of(text: &str, kind: &str) -> usize {
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let events: Vec<Value> = events.collect();
    of_type(&events, kind).len()
}

on_every_server!(people_read_it_by_the_settings);
/// `audit -c`: servers, streams and the admin's seed are those of the settings; a change that two
/// instances tell of is one line; and who had a removed key is in what is told of it.
async fn people_read_it_by_the_settings(version: &'static str) {
    let mut deployment = deployment(version).await;
    deployment.add_instance(&[]).await;
    let known = deployment.service("known");
    log_in(&deployment, &known, 1).await;
    let text = POLICY.replace("service.known", "service.other").replace("{known}", "{other}");
    deployment.write_policy(&text.replace("events.known.>", "events.other.>"));
    for instance in &mut deployment.instances {
        instance.says("policy_changed").await;
    }
    assert!(Raw::try_login(deployment.url(), &known.seed).await.is_err());
    settled(&deployment).await;
    let settings = deployment.files.settings();
    edit(&settings, "nats://127.0.0.1:-1", deployment.url());
    // Without any address but the settings'.
    let run = async |folder: &Path, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_solewriter"));
        let output = command.arg("audit").args(arguments).current_dir(folder).output().await;
        let output = output.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text, String::from_utf8(output.stderr).unwrap())
    };
    let (elsewhere, folder) = (deployment.dir.path(), deployment.files.dir.as_path());
    let config = settings.to_str().unwrap();
    let tail = ["tail", "--no-follow", "--since", "1h"];
    for (from, named) in [(elsewhere, &["-c", config][..]), (folder, &[])] {
        let (code, out, err) = run(from, &[&tail[..], named].concat()).await;
        assert_eq!(code, Some(0), "{err}");
        let changes = out.lines().filter(|line| line.contains("  accepted  "));
        let changes: Vec<&str> = changes.filter(|line| line.contains(" instead of ")).collect();
        assert_eq!(changes.len(), 1, "{out}");
        assert!(err.contains("1 message of other instances"), "{err}");
        // Both starts are there: they are no change.
        assert_eq!(out.matches("  accepted  ").count(), 3, "{out}");
        let (code, out, err) = run(from, &[&["stats"], named].concat()).await;
        assert!(code == Some(0) && out.contains("Missing: 0"), "{out}{err}");
    }
    // Each telling is in the JSON.
    let (_, out, err) = run(folder, &[&tail[..], &["--json"]].concat()).await;
    assert_eq!((lines_of(&out, "policy.accepted"), err.as_str()), (4, ""), "{out}");
    // As a service that reads the streams: the settings say where they are.
    let auditor = deployment.service("auditor").seed_file.display().to_string();
    let (code, out, err) = run(folder, &["stats", "--nkey-seed", &auditor]).await;
    assert!(code == Some(0) && out.contains("  unknown_key"), "{out}{err}");

    // Whose key it was.
    let wanted = [&tail[..], &["--json", "--service", "known", "--outcome", "denied"]].concat();
    let (_, out, _) = run(folder, &wanted).await;
    let event: Value = serde_json::from_str(&out).unwrap();
    let data = &event["data"];
    assert_eq!((&data["reason"], &data["service"]), (&json!("unknown_key"), &Value::Null));
    assert_eq!((&data["former_service"], &data["nkey"]), (&json!("known"), &json!(known.key())));
    let had = deployment.instances[0].says("policy_loaded").await["revision"].clone();
    assert_eq!(data["former_revision"], had);
    let valid = jsonschema::draft202012::new(&schema()).unwrap();
    assert!(valid.is_valid(&event), "{event:#}");

    // Whoever has no admin's seed is told what to do.
    edit(&settings, "[audit_admin]\nnkey_seed = \"keys/audit-admin.nk\"\n", "");
    let (code, out, err) = run(folder, &tail).await;
    assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
    for part in ["[audit_admin] nkey_seed = ", "or give --nkey-seed"] {
        assert!(err.contains(part), "no {part:?} in {err}");
    }
    // Settings that are named have to be there.
    let (code, _, err) = run(folder, &["stats", "-c", "other.toml"]).await;
    assert!(code == Some(2) && err.contains("other.toml cannot be read"), "{err}");
    // Without any, as ever.
    let (code, _, err) = run(elsewhere, &["stats"]).await;
    assert!(code == Some(2) && err.contains("keys/auditor.nk cannot be read"), "{err}");
}

on_every_server!(it_is_read_up_to_a_time);
/// `--until`: what came later is not shown, and the end comes by itself.
async fn it_is_read_up_to_a_time(version: &'static str) {
    let deployment = deployment(version).await;
    let known = deployment.service("known");
    log_in(&deployment, &known, 3).await;
    settled(&deployment).await;
    let at = jiff::Timestamp::now().to_string();
    log_in(&deployment, &known, 5).await;
    settled(&deployment).await;
    let granted = async |arguments: &[&str]| {
        let began = Instant::now();
        let tail = ["audit", "tail", "--json", "--outcome", "granted", "--since", "1h"];
        let ran = deployment.tool(&[&tail[..], arguments].concat()).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
        (lines_of(&ran.out, "authorisation.granted"), began.elapsed())
    };
    // A time that has passed needs no --no-follow.
    assert_eq!(granted(&["--until", &at]).await.0, 3);
    assert_eq!(granted(&["--until", &at, "--no-follow"]).await.0, 3);
    assert_eq!(granted(&["--no-follow"]).await.0, 8);
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
    let (found, took) = granted(&["--until", &end.to_string()]).await;
    assert_eq!(found, 8);
    assert!(took < DEADLINE && jiff::Timestamp::now() >= end, "{took:?}");
    let ran = deployment.tool(&["audit", "stats", "--until", &at, "--format", "json"]).await;
    let types = &ran.json()["types"];
    assert_eq!((ran.code, &types["solewriter.authorisation.granted"]), (0, &json!(3)), "{ran:?}");
    let ran = deployment.tool(&["audit", "tail", "--since", "1h", "--until", "2h"]).await;
    assert!(ran.code == 2 && ran.err.contains("is before --since"), "{ran:?}");
}

on_every_server!(a_policy_that_keeps_it_from_starting_is_an_event);
/// A service that cannot start because of its policy says so in the stream.
async fn a_policy_that_keeps_it_from_starting_is_an_event(version: &'static str) {
    let mut deployment = Prepared::new().start_broker(version, POLICY).await;
    create_stream(&deployment).await;
    edit(&deployment.files.policy().join("test.toml"), "audits", "audit");
    deployment.launch_instance(&[]);
    let status = deployment.instances[0].child.wait().await.unwrap();
    assert_eq!(status.code(), Some(1));
    let events = events(&deployment).await;
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["solewriter.started", "solewriter.policy.refused", "solewriter.stopped"]);
    assert!(events[1]["data"]["problems"].as_str().unwrap().contains("did you mean `audits`?"));
}
