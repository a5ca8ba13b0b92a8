//! What nats-server does when the right to write goes from one service to another: the last
//! publishes of a connection that is kicked, and what orders them before the first of the next
//! writer. Users are static here, with the permissions that a test is about; figures are printed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use solewriter::nats::raw_client::{RawLogin, TlsServer, Wire};
use solewriter_core::keys::Seed;
use solewriter_sandbox::{Server, free_ports};

use super::deployment::{DEADLINE, NODES, binary, eventually, held_route};
use super::stream_facts::{Home, Testbed, User, code, login, put};

/// How long nothing may come.
const QUIET: Duration = Duration::from_millis(400);
/// How long a server has for what it had read of a connection that is closed.
const SETTLE: Duration = Duration::from_millis(100);
/// Where the old writer is: on the only server, on the stream's leader's, or on another one.
const PLACES: [&str; 3] = ["alone", "together", "apart"];
/// JetStream refuses a put with either of these, always: no stream has that name, or is so long.
const NO_STREAM: &str = "Nats-Expected-Stream: -";
const NO_SEQUENCE: &str = "Nats-Expected-Last-Sequence: 18446744073709551615";
const BOTH: &str = "Nats-Expected-Stream: -\r\nNats-Expected-Last-Sequence: 18446744073709551615";

/// Who had the keyspace, who will have it, and who sends barriers.
fn users() -> Vec<User> {
    let all = ["$KV.x.>", "plain.>", "events.>", "$O.store.>"];
    vec![User::new("a", &["$KV.x.a.>"]), User::new("b", &all), User::new("barrier", &all)]
}

/// Makes a bucket as `nats kv add` does, on all nodes.
async fn bucket(testbed: &mut Testbed) {
    let settings = json!({"max_msgs_per_subject": 1, "discard": "new", "allow_direct": true,
        "allow_rollup_hdrs": true, "deny_delete": true});
    testbed.stream("KV_x", "$KV.x.>", settings).await;
}

async fn last_seq(testbed: &mut Testbed, stream: &str) -> u64 {
    let info = testbed.api(&format!("STREAM.INFO.{stream}"), Value::Null).await;
    info["state"]["last_seq"].as_u64().unwrap()
}

async fn barriers_are_refused_by(testbed: &mut Testbed) -> Vec<String> {
    bucket(testbed).await;
    testbed.stream("EVENTS", "events.>", json!({})).await;
    testbed.stream("OBJ_store", "$O.store.>", json!({"allow_rollup_hdrs": true})).await;
    let server = testbed.peers.last().unwrap_or(&testbed.server);
    let mut barrier = login(server, "barrier").await;
    let mut codes = Vec::new();
    for (stream, subject) in
        [("KV_x", "$KV.x.a.k"), ("EVENTS", "events.a"), ("OBJ_store", "$O.store.M.x")]
    {
        for filled in [false, true] {
            if filled {
                testbed.store(subject, "x").await;
            }
            let before = last_seq(testbed, stream).await;
            for headers in [NO_STREAM, NO_SEQUENCE, BOTH] {
                let said = put(&mut barrier, subject, headers, "").await.unwrap();
                codes.push(code(&said));
                assert_eq!(said["seq"], 0, "{said}");
            }
            assert_eq!(last_seq(testbed, stream).await, before, "{subject}");
        }
        // What is refused leaves no gap.
        testbed.store(subject, "x").await;
        assert_eq!(last_seq(testbed, stream).await, 2, "{subject}");
    }
    codes
}

on_every_server!(a_barrier_is_refused_and_stores_nothing);
/// The name of the stream is looked at first. For a subject without messages and for one with some,
/// in a bucket, a plain stream and an object store, through the import.
async fn a_barrier_is_refused_and_stores_nothing(version: &'static str) {
    let mut alone = Testbed::start(version, Home::App, &users()).await;
    let expected = ["10060", "10071", "10060"].repeat(6);
    assert_eq!(barriers_are_refused_by(&mut alone).await, expected);
    let mut cluster = Testbed::start_cluster(version, Home::App, &users()).await;
    assert_eq!(barriers_are_refused_by(&mut cluster).await, expected);
}

/// A client that publishes as fast as the socket takes it, and waits for nothing.
struct Flood {
    cid: u64,
    thread: JoinHandle<u64>,
}

impl Flood {
    /// With a pause after each so many bytes, or without one.
    fn start(server: &Server, pause: Option<Duration>) -> Self {
        let address = server.client_url().split_once("://").unwrap().1;
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let info: Value = serde_json::from_str(line.strip_prefix("INFO ").unwrap()).unwrap();
        let options = json!({"user": "a", "pass": "a", "verbose": false, "pedantic": false,
            "lang": "raw", "version": "1", "protocol": 1, "headers": true});
        stream.write_all(format!("CONNECT {options}\r\nPING\r\n").as_bytes()).unwrap();
        while line.trim_end() != "PONG" {
            line.clear();
            assert_ne!(reader.read_line(&mut line).unwrap(), 0, "closed");
        }
        let put = "PUB $KV.x.a.k 8\r\n12345678\r\n";
        let many = put.repeat(if pause.is_some() { 10 } else { 1000 });
        let thread = std::thread::spawn(move || {
            let mut sent = 0;
            while stream.write_all(many.as_bytes()).is_ok() {
                sent += many.len() / put.len();
                if let Some(pause) = pause {
                    std::thread::sleep(pause);
                }
            }
            sent as u64
        });
        Self { cid: info["client_id"].as_u64().unwrap(), thread }
    }
}

fn nanos() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos().try_into().unwrap()
}

/// RFC 3339 as nats-server writes it, in UTC, as nanoseconds since midnight.
fn nanos_of_day(time: &str) -> i128 {
    let (_, clock) = time.trim_end_matches('Z').split_once('T').unwrap();
    let (whole, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let seconds = whole.split(':').fold(0, |sum, part| sum * 60 + part.parse::<i128>().unwrap());
    let fraction: i128 = format!("{fraction:0<9}").parse().unwrap();
    seconds * 1_000_000_000 + fraction
}

const DAY: i128 = 24 * 3600 * 1_000_000_000;

/// Has a connection closed; the server's answer is there when this is over.
async fn kick(system: &mut Wire, server: &str, cid: u64) {
    let subject = format!("$SYS.REQ.SERVER.{server}.KICK");
    let body = json!({"cid": cid}).to_string();
    let said = system.request(&subject, "", body.as_bytes()).await.unwrap().json();
    assert!(said.get("error").is_none(), "{said}");
}

/// How a handover is done.
#[derive(Clone, Copy, Debug)]
struct Course {
    settle: Duration,
    /// The headers of each barrier, one after the other.
    barriers: &'static [&'static str],
    /// Whether the stream's leader is changed beside the kick.
    stepdown: bool,
    pause: Option<Duration>,
    /// How long the old writer floods, at least.
    flood: Duration,
}

const PLAIN: Course = Course {
    settle: Duration::ZERO,
    barriers: &[],
    stepdown: false,
    pause: None,
    flood: Duration::from_millis(40),
};

/// What was seen of one.
#[derive(Debug, Default)]
struct Seen {
    /// From the kick's answer to the last message of the old writer: by the time that the stream's
    /// leader gave it.
    stamped: f64,
    /// The same: when the stream was seen to have it.
    shown: f64,
    /// How many it stored after the kick's answer was there.
    after: u64,
    /// How many came after the first of the new writer.
    late: u64,
    /// From the first barrier to the last refusal.
    barrier: f64,
    /// Barriers that had no refusal for an answer.
    retries: Vec<String>,
    sent: u64,
    stored: u64,
}

/// Everybody's connections to one testbed.
struct Bed {
    testbed: Testbed,
    system: Wire,
    old: usize,
    leader: usize,
}

fn node(testbed: &Testbed, number: usize) -> &Server {
    if number == 0 { &testbed.server } else { &testbed.peers[number - 1] }
}

/// Which node leads the stream; 0 for one that is alone.
async fn leader(testbed: &mut Testbed) -> usize {
    if testbed.peers.is_empty() {
        return 0;
    }
    for _ in 0..600 {
        let info = testbed.api("STREAM.INFO.KV_x", Value::Null).await;
        if let Some(name) = info["cluster"]["leader"].as_str()
            && let Some(number) = name.strip_prefix("node-")
        {
            return number.parse::<usize>().unwrap() - 1;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no leader");
}

impl Bed {
    /// With the old writer on the leader's server, or on another.
    async fn new(mut testbed: Testbed, apart: bool) -> Self {
        bucket(&mut testbed).await;
        let leader = leader(&mut testbed).await;
        let nodes = testbed.peers.len() + 1;
        let old = if apart { (leader + 1) % nodes } else { leader };
        let third = if nodes == 1 { 0 } else { (leader + 2) % nodes };
        let system = login(node(&testbed, third), "system").await;
        Self { testbed, system, old, leader }
    }

    async fn run(&mut self, course: Course) -> Seen {
        let mut seen = Seen::default();
        let first = last_seq(&mut self.testbed, "KV_x").await;
        let server = node(&self.testbed, self.old);
        let mut barrier = login(server, "barrier").await;
        let id = barrier.info()["server_id"].as_str().unwrap().to_owned();
        let mut new = login(node(&self.testbed, self.leader), "b").await;
        // A first put, so that the server knows each of them and its inbox.
        for wire in [&mut barrier, &mut new] {
            let said = put(wire, "$KV.x.b.k", NO_STREAM, "").await.unwrap();
            assert_eq!(code(&said), "10060", "{said}");
        }
        let mut admin = login(server, "admin").await;
        // Nobody waits for its answer: the leader changes while all else goes on.
        let mut stepdown = async || {
            let subject = "$JS.API.STREAM.LEADER.STEPDOWN.KV_x";
            admin.publish(subject, "_INBOX.admin.unheard", "", b"").await.unwrap().unwrap();
        };
        let before = course.stepdown && rand::random();
        let flood = Flood::start(server, course.pause);
        let jitter = rand::random::<u64>() % 40;
        tokio::time::sleep(course.flood + Duration::from_millis(jitter)).await;
        if before {
            stepdown().await;
            tokio::time::sleep(Duration::from_millis(rand::random::<u64>() % 40)).await;
        }
        kick(&mut self.system, &id, flood.cid).await;
        let (kicked, wall) = (Instant::now(), nanos());
        if course.stepdown && !before {
            tokio::time::sleep(Duration::from_millis(rand::random::<u64>() % 20)).await;
            stepdown().await;
        }
        if course.barriers.is_empty() {
            seen.after = last_seq(&mut self.testbed, "KV_x").await;
        }
        let mut first_of_new = 0;
        if !course.settle.is_zero() {
            tokio::time::sleep(course.settle).await;
        }
        if !course.barriers.is_empty() {
            let began = Instant::now();
            for headers in course.barriers {
                loop {
                    let asked = put(&mut barrier, "$KV.x.a.barrier", headers, "");
                    // While a stream has no leader, a put is lost without a word.
                    let patience = if course.stepdown { 200 } else { 3000 };
                    match tokio::time::timeout(Duration::from_millis(patience), asked).await {
                        Ok(Ok(said)) if ["10060", "10071"].contains(&code(&said).as_str()) => break,
                        Ok(other) => seen.retries.push(format!("{other:?}")),
                        Err(_) => seen.retries.push("timeout".to_owned()),
                    }
                    assert!(began.elapsed() < DEADLINE, "{:?}", seen.retries);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            seen.barrier = began.elapsed().as_secs_f64() * 1e3;
            first_of_new = loop {
                let asked = put(&mut new, "$KV.x.b.k", "", "first");
                match tokio::time::timeout(Duration::from_secs(3), asked).await {
                    Ok(Ok(said)) if said["seq"].is_u64() => break said["seq"].as_u64().unwrap(),
                    other => seen.retries.push(format!("first: {other:?}")),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
        }
        let (mut last, mut changed) = (0, Instant::now());
        while changed.elapsed() < Duration::from_millis(400) {
            let now = last_seq(&mut self.testbed, "KV_x").await;
            if now != last {
                (last, changed) = (now, Instant::now());
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        seen.shown = changed.duration_since(kicked).as_secs_f64() * 1e3;
        let question = json!({"last_by_subj": "$KV.x.a.k"});
        let of_old = self.testbed.api("STREAM.MSG.GET.KV_x", question).await;
        let of_old = &of_old["message"];
        let stamp = nanos_of_day(of_old["time"].as_str().unwrap());
        let micros = i32::try_from((stamp - wall % DAY) / 1000).unwrap();
        seen.stamped = f64::from(micros) / 1e3;
        let of_old = of_old["seq"].as_u64().unwrap();
        let now = leader(&mut self.testbed).await;
        if now != self.leader && !course.stepdown || last < first || last < of_old.max(first_of_new)
        {
            println!(
                "  leader {} -> {now}, old writer on {}; first {first}, first of new \
                 {first_of_new}, last of old {of_old}, end {last}",
                self.leader, self.old
            );
        }
        if course.barriers.is_empty() {
            seen.after = last.saturating_sub(seen.after);
        } else if of_old > first_of_new {
            seen.late = of_old - first_of_new;
        }
        seen.sent = flood.thread.join().unwrap();
        seen.stored = last.saturating_sub(first);
        self.leader = now;
        seen
    }

    async fn runs(&mut self, what: &str, course: Course, count: usize) -> Vec<Seen> {
        let mut all = Vec::new();
        while all.len() < count {
            all.push(self.run(course).await);
        }
        let of = |figure: fn(&Seen) -> f64| spread(all.iter().map(figure));
        let late: Vec<u64> = all.iter().map(|s| s.late).filter(|l| *l > 0).collect();
        let retries: Vec<&String> = all.iter().flat_map(|s| &s.retries).collect();
        println!(
            "{what}, {count} times, least, median and most: last stored by the leader's clock {} \
             ms, seen {} ms after the kick's answer; the barrier took {} ms, with {} retries {:?}; \
             late in {} {late:?}",
            of(|s| s.stamped),
            of(|s| s.shown),
            of(|s| s.barrier),
            retries.len(),
            retries.first(),
            late.len(),
        );
        all
    }
}

/// The median and the extremes.
fn spread(figures: impl Iterator<Item = f64>) -> String {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let at = |n: usize| figures.get(n).copied().unwrap_or(f64::NAN);
    format!("[{:.1} {:.1} {:.1}]", at(0), at(figures.len() / 2), at(figures.len() - 1))
}

async fn bed(version: &'static str, place: &str) -> Bed {
    let testbed = if place == "alone" {
        Testbed::start(version, Home::App, &users()).await
    } else {
        Testbed::start_cluster(version, Home::App, &users()).await
    };
    Bed::new(testbed, place == "apart").await
}

/// How often a handover is tried: as often as a test says, or as `HANDOVERS` does, to measure.
fn times(usual: usize) -> usize {
    std::env::var("HANDOVERS").map_or(usual, |times| times.parse().unwrap())
}

mod the_tail_of_a_kicked_writer {
    on_server!(the_tail_of_a_kicked_writer, more_room, v2_10_25, "2.10.25");
    on_server!(the_tail_of_a_kicked_writer, more_room, v2_15_1, "2.15.1");
}
/// The answer to a kick does not say that all is stored which the server has read: that goes on for
/// some milliseconds, and in a cluster for as long as the stream's leader is behind.
async fn the_tail_of_a_kicked_writer(version: &'static str) {
    let mut after = 0;
    for place in PLACES {
        let mut bed = bed(version, place).await;
        let all = bed.runs(&format!("tail, {version}, {place}"), PLAIN, times(3)).await;
        after += all.iter().map(|seen| seen.after).sum::<u64>();
    }
    assert_ne!(after, 0, "stored after the answer to a kick");
}

mod a_barrier_orders_the_old_writer_before_the_new {
    on_server!(a_barrier_orders_the_old_writer_before_the_new, more_room, v2_10_25, "2.10.25");
    on_server!(a_barrier_orders_the_old_writer_before_the_new, more_room, v2_15_1, "2.15.1");
}
/// It does when the server has had the time to deal with what it had read when it closed the
/// connection. The barrier then waits for all that is on its way, which may take longer.
async fn a_barrier_orders_the_old_writer_before_the_new(version: &'static str) {
    let settled = Course { settle: SETTLE, barriers: &[BOTH], ..PLAIN };
    let long = Course { flood: Duration::from_millis(1500), ..settled };
    for place in PLACES {
        let mut bed = bed(version, place).await;
        if place == "alone" {
            let course = Course { barriers: &[BOTH], ..PLAIN };
            let all = bed.runs(&format!("at once, {version}, {place}"), course, times(8)).await;
            assert!(all.iter().any(|seen| seen.late > 0), "without time to settle");
        }
        for (what, course, count) in [("settled", settled, 3), ("long flood", long, 1)] {
            let what = format!("{what}, {version}, {place}");
            let all = bed.runs(&what, course, times(count)).await;
            assert!(all.iter().all(|seen| seen.late == 0), "{what}: {all:?}");
        }
    }
}

mod a_barrier_holds_through_a_change_of_leader {
    on_server!(a_barrier_holds_through_a_change_of_leader, more_room, v2_10_25, "2.10.25");
    on_server!(a_barrier_holds_through_a_change_of_leader, more_room, v2_15_1, "2.15.1");
}
/// What the old writer's server sent to the leader that was is stored before, or never.
async fn a_barrier_holds_through_a_change_of_leader(version: &'static str) {
    for place in ["together", "apart"] {
        let mut bed = bed(version, place).await;
        let course = Course { settle: SETTLE, barriers: &[BOTH], stepdown: true, ..PLAIN };
        let what = format!("change of leader, {version}, {place}");
        let all = bed.runs(&what, course, times(3)).await;
        assert!(all.iter().all(|seen| seen.late == 0), "{what}: {all:?}");
    }
}

/// A server that asks a callout which never answers, and the callout's user.
async fn unanswered(version: &'static str) -> (Server, Wire, Wire, String, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (callout, issuer) = (nkeys::KeyPair::new_user(), nkeys::KeyPair::new_account());
    let config = json!({
        "listen": "127.0.0.1:-1", "server_name": "test", "system_account": "SYS",
        "accounts": {
            "AUTH": {"users": [{"nkey": callout.public_key()}]},
            "APP": {},
            "SYS": {"users": [{"user": "system", "password": "system"}]},
        },
        "authorization": {"timeout": 60, "auth_callout": {"issuer": issuer.public_key(),
            "account": "AUTH", "auth_users": [callout.public_key(), "system"]}},
    });
    let file = dir.path().join("nats-server.conf");
    std::fs::write(&file, config.to_string()).unwrap();
    let binary = binary(version).await;
    let server = Server::start(&binary, &file, &dir.path().join("run")).await.unwrap();
    let address = TlsServer::plain(server.client_url().parse().unwrap());
    let mut responder = Wire::dial(&address).await.unwrap();
    let seed = Arc::new(Seed::parse(&callout.seed().unwrap()).unwrap());
    let mut options = responder.offer(&RawLogin::Nkey(seed)).unwrap();
    options["name"] = json!("instance-1");
    responder.enter(&options).await.unwrap();
    responder.subscribe("$SYS.REQ.USER.AUTH", "").await.unwrap().unwrap();
    let system = login(&server, "system").await;
    (server, system, responder, callout.public_key(), dir)
}

/// What a server says of its connections.
async fn connz(system: &mut Wire, id: &str, question: Value) -> Value {
    let subject = format!("$SYS.REQ.SERVER.{id}.CONNZ");
    let said = system.request(&subject, "", question.to_string().as_bytes()).await.unwrap();
    said.json()["data"].clone()
}

mod a_connection_without_an_answer_is_listed {
    on_server!(a_connection_without_an_answer_is_listed, some_room, v2_10_25, "2.10.25");
    on_server!(
        a_connection_without_an_answer_is_listed,
        some_room,
        v2_12_8,
        "2.12.8",
        "between the oldest and the newest"
    );
    on_server!(a_connection_without_an_answer_is_listed, some_room, v2_15_1, "2.15.1");
}
/// Without an account, under the name that it claims: nobody has checked it yet.
async fn a_connection_without_an_answer_is_listed(version: &'static str) {
    let (server, mut system, mut responder, key, _dir) = unanswered(version).await;
    let address = TlsServer::plain(server.client_url().parse().unwrap());
    let mut mute = Wire::dial(&address).await.unwrap();
    let mut waiting = Wire::dial(&address).await.unwrap();
    let service = nkeys::KeyPair::new_user();
    let seed = Arc::new(Seed::parse(&service.seed().unwrap()).unwrap());
    let mut options = waiting.offer(&RawLogin::Nkey(seed)).unwrap();
    let usual = json!({"name": "waiting-1", "lang": "raw", "version": "1", "verbose": false,
        "pedantic": false, "protocol": 1});
    options.as_object_mut().unwrap().extend(usual.as_object().unwrap().clone());
    waiting.send(format!("CONNECT {options}\r\nPING\r\n").as_bytes()).await;
    assert!(responder.next(DEADLINE).await.is_some(), "the request");
    let id = mute.info()["server_id"].as_str().unwrap().to_owned();
    let cid = |wire: &Wire| wire.info()["client_id"].as_u64().unwrap();
    let cids = |said: &Value| -> Vec<u64> {
        let connections = said["connections"].as_array().unwrap();
        connections.iter().map(|c| c["cid"].as_u64().unwrap()).collect()
    };
    let all = [cid(&responder), cid(&system), cid(&mute), cid(&waiting)];
    for question in [json!({"auth": true}), json!({"auth": true, "sort": "cid"})] {
        let said = connz(&mut system, &id, question).await;
        assert_eq!(cids(&said), all);
        assert_eq!(said["connections"][0]["account"], "AUTH");
    }
    // By its number: who is asked about, and who has not even said CONNECT.
    let said = connz(&mut system, &id, json!({"auth": true, "cid": cid(&waiting)})).await;
    let found = &said["connections"][0];
    assert_eq!(cids(&said), [cid(&waiting)]);
    assert!(found.get("account").is_none(), "{found}");
    assert_eq!(found["authorized_user"], service.public_key());
    for (field, value) in [("name", "waiting-1"), ("lang", "raw"), ("version", "1")] {
        assert_eq!(found[field], value, "{found}");
    }
    assert!(found["start"].is_string(), "{found}");
    let said = connz(&mut system, &id, json!({"auth": true, "cid": cid(&mute)})).await;
    let found = &said["connections"][0];
    assert_eq!(cids(&said), [cid(&mute)]);
    for field in ["account", "authorized_user", "name", "lang", "version"] {
        assert!(found.get(field).is_none(), "{found}");
    }
    assert!(found["start"].is_string(), "{found}");
    // A page of them counts those, too.
    let page = json!({"auth": true, "sort": "cid", "offset": 2, "limit": 2});
    let said = connz(&mut system, &id, page).await;
    assert_eq!((cids(&said).as_slice(), &said["total"]), (&all[2..], &json!(4)));
    // They are in the account of those that have none.
    let said = connz(&mut system, &id, json!({"auth": true, "acc": "$G"})).await;
    assert_eq!(cids(&said), all[2..]);
    // The callout's own, by its user.
    let said = connz(&mut system, &id, json!({"auth": true, "user": key})).await;
    assert_eq!(cids(&said), all[..1]);
    assert_eq!(said["connections"][0]["name"], "instance-1");
    // Both can be kicked.
    for wire in [&mut waiting, &mut mute] {
        kick(&mut system, &id, cid(wire)).await;
        wire.closed(DEADLINE).await.unwrap();
    }
    let said = connz(&mut system, &id, json!({"auth": true})).await;
    assert_eq!(cids(&said), all[..2]);
}

/// All answers to the ping of servers that come in time.
async fn ping(system: &mut Wire, within: Duration, count: usize) -> Vec<Value> {
    let inbox = format!("_INBOX.system.{:016x}", rand::random::<u64>());
    let _ = system.subscribe(&inbox, "").await.unwrap();
    let sid = system.last_sid();
    system.publish("$SYS.REQ.SERVER.PING", &inbox, "", b"").await.unwrap().unwrap();
    let until = tokio::time::Instant::now() + within;
    let mut all: Vec<Value> = Vec::new();
    while all.len() < count
        && let left = until.saturating_duration_since(tokio::time::Instant::now())
        && !left.is_zero()
        && let Some(message) = system.next(left).await
    {
        if message.subject == inbox {
            all.push(message.json());
        }
    }
    system.send(format!("UNSUB {sid}\r\n").as_bytes()).await;
    all.sort_by_key(|a| a["server"]["name"].as_str().unwrap_or_default().to_owned());
    all
}

/// How many routes a server has to each other one.
fn routes(answer: &Value) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for route in answer["statsz"]["routes"].as_array().into_iter().flatten() {
        *counts.entry(route["name"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    counts
}

/// What the leader of the meta group says of the others: whether they are up to date, and whether
/// it says that they are gone. Nothing when nobody who answers leads.
fn replicas(answers: &[Value]) -> BTreeMap<String, (bool, bool)> {
    let metas = answers.iter().map(|a| &a["statsz"]["jetstream"]["meta"]);
    let told = metas.flat_map(|m| m["replicas"].as_array().into_iter().flatten());
    told.map(|r| {
        let states = (r["current"] == true, r["offline"] == true);
        (r["name"].as_str().unwrap().to_owned(), states)
    })
    .collect()
}

mod servers_say_who_is_there {
    on_server!(servers_say_who_is_there, some_room, v2_10_25, "2.10.25");
    on_server!(servers_say_who_is_there, some_room, v2_15_1, "2.15.1");
}
/// In the answers to a ping, routes end when a server does. All else takes seconds, or minutes; and
/// of a server that stands still nothing is said for as long.
async fn servers_say_who_is_there(version: &'static str) {
    let mut testbed = Testbed::start_cluster(version, Home::App, &users()).await;
    let mut system = login(&testbed.server, "system").await;
    let answers = ping(&mut system, DEADLINE, NODES).await;
    assert_eq!(answers.len(), NODES);
    for answer in &answers {
        // Three of a pool, and one of the system account's own.
        let routes = routes(answer);
        assert_eq!(routes.values().collect::<Vec<_>>(), [&4, &4], "{answer}");
        assert!(!routes.contains_key(answer["server"]["name"].as_str().unwrap()), "{answer}");
        assert_eq!(answer["statsz"]["active_servers"], 3, "{answer}");
        let meta = &answer["statsz"]["jetstream"]["meta"];
        assert_eq!(meta["cluster_size"], 3, "{answer}");
        let leads = meta["leader"] == answer["server"]["name"];
        assert_eq!(meta["replicas"].as_array().map_or(0, Vec::len), if leads { 2 } else { 0 });
    }
    // One that does not lead.
    let leader = &answers[0]["statsz"]["jetstream"]["meta"]["leader"];
    let (number, name) = if leader == "node-3" { (0, "node-2") } else { (1, "node-3") };
    let began = Instant::now();
    testbed.peers[number].pause().unwrap();
    while began.elapsed() < Duration::from_secs(5) {
        let answers = ping(&mut system, Duration::from_millis(300), 2).await;
        for answer in &answers {
            assert_eq!(routes(answer)[name], 4, "{answer}");
            assert_eq!(answer["statsz"]["active_servers"], 3, "{answer}");
        }
        if let Some(said) = replicas(&answers).get(name) {
            assert_eq!(*said, (true, false), "after {:?}", began.elapsed());
        }
    }
    let stopped = eventually("it falls behind", async || {
        let answers = ping(&mut system, Duration::from_millis(300), 2).await;
        (replicas(&answers).get(name) == Some(&(false, false))).then(|| began.elapsed())
    })
    .await;
    testbed.peers[number].resume().unwrap();
    eventually("all three", async || {
        (ping(&mut system, Duration::from_secs(1), NODES).await.len() == NODES).then_some(())
    })
    .await;
    let began = Instant::now();
    testbed.peers[number].kill().await.unwrap();
    let killed = eventually("no routes to it", async || {
        let answers = ping(&mut system, Duration::from_millis(300), 2).await;
        let gone = answers.iter().all(|a| !routes(a).contains_key(name));
        (answers.len() == 2 && gone).then(|| began.elapsed())
    })
    .await;
    println!(
        "{version}: not current {stopped:?} after SIGSTOP; no routes {killed:?} after SIGKILL"
    );
    while began.elapsed() < Duration::from_secs(5) {
        for answer in ping(&mut system, Duration::from_millis(300), 2).await {
            assert_eq!(answer["statsz"]["active_servers"], 3, "{answer}");
        }
    }
}

mod a_route_that_is_held_back_keeps_its_order {
    on_server!(a_route_that_is_held_back_keeps_its_order, more_room, v2_10_25, "2.10.25");
    on_server!(a_route_that_is_held_back_keeps_its_order, more_room, v2_15_1, "2.15.1");
}
/// A route is held back for two seconds, and the old writer is kicked meanwhile: what its server
/// had sent by then is stored when the route is free. A barrier takes the same way, and comes after.
async fn a_route_that_is_held_back_keeps_its_order(version: &'static str) {
    // Of three, a pair is told by who is not in it.
    let pair = |one: usize, other: usize| 3 - one - other;
    // One switch for each pair of nodes. As for other clusters, a first one may never elect.
    let mut tries = 0;
    let (testbed, switches) = loop {
        let switches: Vec<_> = (0..NODES).map(|_| tokio::sync::watch::channel(false)).collect();
        let ports = free_ports(NODES).unwrap();
        let settings: Vec<Value> = (0..NODES)
            .map(|own| {
                let routes: Vec<String> = (0..NODES)
                    .filter(|other| *other != own)
                    .map(|other| {
                        let held = switches[pair(own, other)].1.clone();
                        format!("nats://127.0.0.1:{}", held_route(ports[other], held))
                    })
                    .collect();
                // Servers tell each other their addresses; nobody gets anywhere with this one.
                json!({"server_name": format!("node-{}", own + 1), "cluster": {"name": "test",
                    "listen": format!("127.0.0.1:{}", ports[own]), "routes": routes,
                    "advertise": "127.0.0.1:1"}})
            })
            .collect();
        let mut testbed = Testbed::start_nodes(version, Home::App, &users(), &settings).await;
        if testbed.elects().await {
            break (testbed, switches);
        }
        tries += 1;
        assert!(tries < 3, "no cluster has elected");
    };
    let mut bed = Bed::new(testbed, true).await;
    // Fast, and as fast as the socket takes it.
    for pause in [Some(Duration::from_millis(1)), None] {
        bed.held_back(pause, &switches[pair(bed.old, bed.leader)].0).await;
        if leader(&mut bed.testbed).await != bed.leader {
            println!("the leader has changed");
            return;
        }
    }
}

impl Bed {
    async fn held_back(
        &mut self,
        pause: Option<Duration>,
        hold: &tokio::sync::watch::Sender<bool>,
    ) {
        let server = node(&self.testbed, self.old);
        let mut barrier = login(server, "barrier").await;
        let id = barrier.info()["server_id"].as_str().unwrap().to_owned();
        let mut new = login(node(&self.testbed, self.leader), "b").await;
        // The bed's admin is perhaps on the server that is cut off.
        let mut watcher = login(node(&self.testbed, self.leader), "admin").await;
        let mut last_seq = async || {
            let info = watcher.api("STREAM.INFO.KV_x", &Value::Null).await.unwrap();
            info["state"]["last_seq"].as_u64().unwrap()
        };
        let flood = Flood::start(server, pause);
        tokio::time::sleep(Duration::from_millis(100)).await;
        hold.send(true).unwrap();
        let held = Instant::now();
        tokio::time::sleep(Duration::from_millis(300)).await;
        kick(&mut self.system, &id, flood.cid).await;
        // Without a barrier, the new writer comes before what is held back.
        let early = put(&mut new, "$KV.x.b.k", "", "early").await.unwrap();
        let early = early["seq"].as_u64().unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let asked = tokio::spawn(async move {
            let said = put(&mut barrier, "$KV.x.a.barrier", BOTH, "").await.unwrap();
            (code(&said), Instant::now())
        });
        tokio::time::sleep(Duration::from_secs(2).saturating_sub(held.elapsed())).await;
        assert!(!asked.is_finished(), "the barrier waits");
        let before = last_seq().await;
        assert_eq!(before, early, "nothing comes through");
        hold.send(false).unwrap();
        let released = Instant::now();
        let (said, answered) = asked.await.unwrap();
        assert_eq!(said, "10060");
        let first = put(&mut new, "$KV.x.b.k", "", "first").await.unwrap()["seq"].as_u64().unwrap();
        println!(
            "pause {pause:?}: {} messages of the old writer were stored after the kick; the \
             barrier's answer came {:?} after the route was free",
            first - early - 1,
            answered.duration_since(released),
        );
        assert!(first > early + 1, "what was held back is stored");
        tokio::time::sleep(QUIET).await;
        assert_eq!(last_seq().await, first, "the old writer came after the new one");
        flood.thread.join().unwrap();
    }
}
