//! The right to write moves from one service to another, under writers that write all the time as
//! fast as they can: the bucket's stream, which keeps everything, is the judge.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::{self, Stream};
use futures_util::StreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use serde_json::{Value, json};
use solewriter::policy_source::bucket::Bucket;
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::keys::{Seed, User};
use solewriter_sandbox::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::bucket;
use super::deployment::{DEADLINE, Deployment, Prepared, Ran, edit, eventually, eventually_within};
use super::raw::{Message, Raw};

/// A policy in which that service owns the bucket `k`.
pub fn owned_by(owner: &str) -> String {
    let table = |name: &str| {
        let owns = if name == owner { "owns = [\"k\"]\n" } else { "reads = [\"k\"]\n" };
        format!("[service.{name}]\nnkeys = [\"{{{name}}}\"]\n{owns}")
    };
    format!("[bucket.k]\n{}{}{}", table("a"), table("b"), table("c"))
}

/// A service that writes `k` all the time: it sends without waiting for anything, and connects again
/// as soon as it was closed.
pub struct Writer {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Writer {
    /// Writes through each of these servers in turn.
    pub fn start(name: &'static str, urls: Vec<String>, seed: &Seed<User>) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let seed = Seed::parse(seed.expose()).unwrap();
        let (told, count) = (stop.clone(), sent.clone());
        let task = tokio::spawn(async move {
            for url in urls.iter().cycle() {
                if told.load(Ordering::Relaxed) {
                    return;
                }
                write_for_ever(name, url, &seed, &told, &count).await;
                // Who is refused does not try a thousand times a second.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Self { stop, sent, task }
    }

    /// How many writes it has sent, whatever became of them.
    pub async fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.sent.load(Ordering::Relaxed)
    }
}

/// Writes of one go.
const AT_ONCE: u64 = 20;

async fn write_for_ever(
    name: &str,
    url: &str,
    seed: &Seed<User>,
    stop: &AtomicBool,
    sent: &AtomicU64,
) {
    let address = url.strip_prefix("nats://").unwrap();
    let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(address)).await
    else {
        return;
    };
    let (mut read, mut write) = stream.into_split();
    let mut buffer = vec![0; 64 * 1024];
    let Ok(length) = read.read(&mut buffer).await else { return };
    let info = String::from_utf8_lossy(&buffer[..length]).into_owned();
    let Some(nonce) = info.split("\"nonce\":\"").nth(1).and_then(|rest| rest.split('"').next())
    else {
        return;
    };
    let pair = nkeys::KeyPair::from_seed(seed.expose()).unwrap();
    let signature = pair.sign(nonce.as_bytes()).unwrap();
    let connect = serde_json::json!({"nkey": pair.public_key(), "lang": "raw", "version": "1",
        "sig": data_encoding::BASE64URL_NOPAD.encode(&signature), "verbose": false,
        "pedantic": false, "protocol": 1, "headers": true});
    if write.write_all(format!("CONNECT {connect}\r\nPING\r\n").as_bytes()).await.is_err() {
        return;
    }
    // Until it is in, or out.
    loop {
        match tokio::time::timeout(DEADLINE, read.read(&mut buffer)).await {
            Ok(Ok(length)) if length > 0 => {
                if String::from_utf8_lossy(&buffer[..length]).contains("PONG") {
                    break;
                }
            }
            _ => return,
        }
    }
    let mut ended = std::pin::pin!(async {
        while read.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
    });
    while !stop.load(Ordering::Relaxed) {
        let mut text = String::new();
        for _ in 0..AT_ONCE {
            let number = sent.fetch_add(1, Ordering::Relaxed);
            let payload = format!("{name} {number}");
            text += &format!("PUB $KV.k.x {}\r\n{payload}\r\n", payload.len());
        }
        let sending = async {
            let sent = write.write_all(text.as_bytes()).await;
            // So that three servers and two writers fit on two processors.
            tokio::time::sleep(Duration::from_millis(2)).await;
            sent
        };
        tokio::select! {
            sent = sending => if sent.is_err() { return },
            () = &mut ended => return,
        }
    }
}

/// The bucket, whose stream keeps every write.
pub async fn make_bucket(deployment: &Deployment, replicas: usize) -> Stream {
    let config = stream::Config {
        name: "KV_k".to_owned(),
        subjects: vec!["$KV.k.>".to_owned()],
        num_replicas: replicas,
        allow_rollup: false,
        deny_delete: true,
        allow_direct: true,
        max_bytes: 512 * 1024 * 1024,
        discard: stream::DiscardPolicy::New,
        duplicate_window: Duration::from_millis(100),
        storage: stream::StorageType::File,
        ..Default::default()
    };
    let admin = deployment.admin().await;
    eventually("the bucket", async || admin.create_stream(config.clone()).await.ok()).await
}

/// Who wrote what was stored, in order; and how many writes that were.
pub async fn judged(deployment: &Deployment) -> (Vec<Turn>, u64) {
    let admin = deployment.admin().await;
    let stream = admin.get_stream("KV_k").await.unwrap();
    let last = stream.cached_info().state.last_sequence;
    let config = async_nats::jetstream::consumer::pull::OrderedConfig::default();
    let consumer = stream.create_consumer(config).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let mut turns: Vec<Turn> = Vec::new();
    for _ in 0..last {
        let message = tokio::time::timeout(DEADLINE, messages.next()).await.unwrap();
        let message = message.unwrap().unwrap();
        let at = message.info().unwrap().published.unix_timestamp_nanos();
        let writer = String::from_utf8_lossy(&message.payload);
        let writer = writer.split(' ').next().unwrap().to_owned();
        match turns.last_mut() {
            Some(turn) if turn.writer == writer => {
                let pause = between(turn.last, at);
                turn.pauses.extend(Some(pause).filter(|pause| *pause > LONG));
                turn.count += 1;
                turn.last = at;
            }
            _ => turns.push(Turn { writer, count: 1, first: at, last: at, pauses: Vec::new() }),
        }
    }
    (turns, last)
}

/// Who wrote last.
async fn last_writer(stream: &Stream) -> Option<String> {
    let message = stream.direct_get_last_for_subject("$KV.k.x").await.ok()?;
    Some(String::from_utf8_lossy(&message.payload).split(' ').next()?.to_owned())
}

/// Waits until that service wrote last. Gives how long that took.
pub async fn writes(stream: &Stream, service: &str) -> Duration {
    let began = Instant::now();
    // For how long nobody may have written is asserted elsewhere.
    eventually_within(2 * VACANT_BUSY, &format!("writes of {service}"), async || {
        (last_writer(stream).await.as_deref() == Some(service)).then_some(())
    })
    .await;
    began.elapsed()
}

on_every_server!(a_keyspace_moves_and_never_has_two_writers, more_room);
/// One server, one instance, a directory.
async fn a_keyspace_moves_and_never_has_two_writers(version: &'static str) {
    let deployment = Prepared::new().start(version, &owned_by("a")).await;
    let stream = make_bucket(&deployment, 1).await;
    let writer = |name| Writer::start(name, deployment.urls(), &deployment.service(name).seed);
    let writers = [writer("a"), writer("b"), writer("c")];
    writes(&stream, "a").await;
    let moves = ["b", "c", "a", "b", "a"];
    for owner in moves {
        deployment.write_policy(&owned_by(owner));
        let took = writes(&stream, owner).await;
        println!("{version}: to {owner} in {took:?}");
    }
    for writer in writers {
        writer.finish().await;
    }
    let (turns, _) = judged(&deployment).await;
    let owners: Vec<&str> = turns.iter().map(|turn| turn.writer.as_str()).collect();
    assert_eq!(owners, ["a", "b", "c", "a", "b", "a"], "{turns:?}");
}

/// Whether a service may write `k`, by a connection that it makes now.
pub async fn may_write(deployment: &Deployment, service: &str) -> bool {
    let mut raw = login(deployment, service).await;
    raw.publish("$KV.k.y", b"now").await.is_ok()
}

/// The same of reading.
async fn may_read(deployment: &Deployment, service: &str) -> bool {
    let mut raw = login(deployment, service).await;
    raw.publish("$JS.API.STREAM.INFO.KV_k", b"").await.is_ok()
}

/// Lets a service in, however often that takes.
async fn login(deployment: &Deployment, service: &str) -> Raw {
    let service = deployment.service(service);
    let tried = async || Raw::try_login(deployment.url(), &service.seed).await.ok();
    eventually(&format!("{} to be let in", service.name), tried).await
}

/// A deployment of one server and two instances that follow the bucket, with `k` moved from `a` to
/// `b`, and one instance stopped: for as long as a lease, it may give `k` to `a`.
async fn held(version: &'static str, lease: &str) -> Deployment {
    let settings = format!("[policy]\nlease = \"{lease}\"\n");
    let prepared = bucket::prepared().with_settings("[policy]\n", &settings);
    // A login that is given to the stopped instance is tried again.
    let prepared = prepared.with_server("timeout: 10\n", "timeout: 1\n");
    let mut deployment = prepared.start_broker(version, &owned_by("a")).await;
    let (code, said) = bucket::push(&deployment, &owned_by("a"), &[]).await;
    assert_eq!(code, 0, "{said}");
    deployment.add_instance(&[]).await;
    deployment.add_instance(&[]).await;
    make_bucket(&deployment, 1).await;
    // The two have heard of each other, and nothing is in transit.
    eventually("an owner", async || may_write(&deployment, "a").await.then_some(())).await;
    deployment.instances[1].pause();
    let (code, said) = bucket::push(&deployment, &owned_by("b"), &["--wait", "0s"]).await;
    assert_eq!(code, 0, "{said}");
    bucket::serves(&mut deployment.instances[0], 2).await;
    deployment
}

/// What `policy status` says.
async fn status(deployment: &Deployment) -> String {
    let (_, said) = bucket::policy(deployment, &["status"]).await;
    said
}

/// What `explain` says of a service, of what is served.
async fn explain(deployment: &Deployment, service: &str) -> Ran {
    let settings = deployment.files.dir.join("here.toml");
    let text = std::fs::read_to_string(deployment.files.settings()).unwrap();
    let servers = text.lines().find(|line| line.starts_with("servers = ")).unwrap();
    let here = text.replace(servers, &format!("servers = {:?}", deployment.urls()));
    std::fs::write(&settings, here).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_solewriter"));
    command.args(["explain", service, "--config"]).arg(settings).kill_on_drop(true);
    let output = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    Ran { code, out: text(output.stdout), err: text(output.stderr) }
}

pub async fn status_says(deployment: &Deployment, part: &str) {
    let began = Instant::now();
    loop {
        let said = status(deployment).await;
        if said.contains(part) {
            return;
        }
        assert!(began.elapsed() < DEADLINE, "status says {said:?}, not {part:?}");
    }
}

on_the_newest_server!(what_is_in_transit_is_told_and_outlives_its_instance, some_room);
async fn what_is_in_transit_is_told_and_outlives_its_instance(version: &'static str) {
    let mut deployment = held(version, "20s").await;
    status_says(&deployment, "`k` is between `a` and `b` for ").await;
    for (service, told) in [("a", true), ("b", true), ("c", false)] {
        let explained = explain(&deployment, service).await;
        assert_eq!(explained.code, 0, "{explained:?}");
        assert_eq!(explained.err.contains("`k` is between `a` and `b`"), told, "{explained:?}");
    }
    let pushed = bucket::push(&deployment, &owned_by("b"), &["--wait", "1s"]).await;
    assert!(pushed.1.contains("nothing to push"), "{pushed:?}");
    // Neither may write, and who is to write may read.
    assert!(!may_write(&deployment, "a").await && !may_write(&deployment, "b").await);
    assert!(may_read(&deployment, "b").await);
    let transit = deployment.instances[0].metric("solewriter_handover_transit").await;
    assert_eq!(transit, 1.0);
    // Another one begins anew, and knows as much.
    deployment.instances[0].child.kill().await.unwrap();
    deployment.add_instance(&[]).await;
    assert!(!may_write(&deployment, "b").await);
    status_says(&deployment, "`k` is between `a` and `b` for ").await;
    assert!(!may_write(&deployment, "b").await);
    // The one that was stopped comes back, and has it.
    deployment.instances[1].signal(Signal::CONT);
    eventually("the new owner", async || may_write(&deployment, "b").await.then_some(())).await;
    assert!(!may_write(&deployment, "a").await);
    status_says(&deployment, "number").await;
    assert!(!status(&deployment).await.contains("between"));
}

on_the_newest_server!(a_second_move_and_one_that_is_taken_back, some_room);
async fn a_second_move_and_one_that_is_taken_back(version: &'static str) {
    let mut deployment = held(version, "20s").await;
    // The old owner's open connections were closed; nobody writes.
    assert!(!may_write(&deployment, "a").await);
    let (code, said) = bucket::push(&deployment, &owned_by("c"), &["--wait", "0s"]).await;
    assert_eq!(code, 0, "{said}");
    bucket::serves(&mut deployment.instances[0], 3).await;
    status_says(&deployment, "`k` is between `a` and `c`").await;
    status_says(&deployment, "`k` is between `b` and `c`").await;
    assert!(!may_write(&deployment, "b").await && !may_write(&deployment, "c").await);
    let (code, said) =
        bucket::policy(&deployment, &["rollback", "1", "--yes", "--wait", "0s"]).await;
    assert_eq!(code, 0, "{said}");
    bucket::serves(&mut deployment.instances[0], 4).await;
    deployment.instances[1].signal(Signal::CONT);
    eventually("the old owner", async || may_write(&deployment, "a").await.then_some(())).await;
    assert!(!may_write(&deployment, "b").await && !may_write(&deployment, "c").await);
}

on_the_newest_server!(who_wrote_all_the_while_writes_on_when_a_move_is_taken_back, some_room);
/// A push that is rolled back at once: open connections of the old owner that were not closed yet
/// are left, and new ones have to wait for nobody long.
async fn who_wrote_all_the_while_writes_on_when_a_move_is_taken_back(version: &'static str) {
    let prepared = bucket::prepared().with_settings("[policy]\n", "[policy]\nlease = \"2s\"\n");
    let mut deployment = prepared.start_broker(version, &owned_by("a")).await;
    let (code, said) = bucket::push(&deployment, &owned_by("a"), &[]).await;
    assert_eq!(code, 0, "{said}");
    deployment.add_instance(&[]).await;
    make_bucket(&deployment, 1).await;
    eventually("an owner", async || may_write(&deployment, "a").await.then_some(())).await;
    let (code, said) = bucket::push(&deployment, &owned_by("b"), &["--wait", "0s"]).await;
    assert_eq!(code, 0, "{said}");
    let (code, said) = bucket::policy(&deployment, &["rollback", "1", "--yes"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(may_write(&deployment, "a").await);
    assert!(!may_write(&deployment, "b").await);
}

on_the_newest_server!(a_server_that_is_gone_for_good_is_named_and_forced, more_room);
async fn a_server_that_is_gone_for_good_is_named_and_forced(version: &'static str) {
    let mut deployment = bucket::prepared().start_cluster(version, &owned_by("a")).await;
    let (code, said) = bucket::push(&deployment, &owned_by("a"), &[]).await;
    assert_eq!(code, 0, "{said}");
    let urls = deployment.urls()[..2].join(",");
    deployment.add_instance(&["--nats-servers", &urls]).await;
    make_bucket(&deployment, 3).await;
    eventually("an owner", async || may_write(&deployment, "a").await.then_some(())).await;
    // It has been seen.
    eventually("a sweep", async || {
        let swept = deployment.instances[0].metric("solewriter_session_sweeper").await;
        (swept > 0.5).then_some(())
    })
    .await;
    deployment.peers[1].kill().await.unwrap();
    // JetStream may have to elect its leaders first.
    let text = owned_by("b");
    eventually("the push", async || {
        (bucket::push(&deployment, &text, &["--wait", "0s"]).await.0 == 0).then_some(())
    })
    .await;
    bucket::serves(&mut deployment.instances[0], 2).await;
    status_says(&deployment, "1 server does not answer: node-3").await;
    assert!(!may_write(&deployment, "b").await);
    let (code, said) =
        bucket::push(&deployment, &text, &["--force-handover", "--wait", "120s"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("`k` moved from `a` to `b`; nobody could write it for "), "{said}");
    assert!(said.contains("warning: what moves is not held back for servers"), "{said}");
    assert!(may_write(&deployment, "b").await);
    let line = deployment.instances[0].says("handed_over").await;
    assert_eq!((&line["level"], &line["forced"]), (&"WARN".into(), &true.into()), "{line}");
}

on_the_newest_server!(forged_words_do_not_shorten_a_handover, some_room);
/// Who has the callout's seed says, as every instance, that all is settled, and sends again what was
/// said before. None of it hands over what another instance may still give to its old owner.
async fn forged_words_do_not_shorten_a_handover(version: &'static str) {
    let deployment = held(version, "20s").await;
    let mut forger = Raw::try_login(deployment.url(), &deployment.seed("callout")).await.unwrap();
    forger.subscribe("solewriter.instance.*").await.unwrap();
    let began = Instant::now();
    let mut forged = 0;
    while forged < 2 {
        let Message { subject, payload, headers, .. } = forger.message().await;
        let mut said: Value = serde_json::from_slice(&payload).unwrap();
        if said["beat"] == FORGED || said["number"] != 2 {
            continue;
        }
        let headers = headers.trim_start_matches("NATS/1.0").trim().to_owned();
        assert!(headers.contains("Solewriter-Signature"), "{headers}");
        said["settled"] = json!(true);
        said["beat"] = json!(FORGED);
        for instance in [said["instance"].clone(), json!("aaaaaaaaaaaaaaaa")] {
            said["instance"] = instance;
            let forged = said.to_string();
            forger.publish_with(&subject, "", &headers, forged.as_bytes()).await.unwrap();
            forger.publish_with(&subject, "", &headers, &payload).await.unwrap();
        }
        forged += 1;
        assert!(!may_write(&deployment, "b").await, "{:?}", began.elapsed());
    }
    // Within the lease: after that it would be no proof.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    // And it comes to its end.
    deployment.instances[1].signal(Signal::CONT);
    eventually("the new owner", async || may_write(&deployment, "b").await.then_some(())).await;
}

/// The number of a beat that nobody sends.
const FORGED: u64 = 1 << 40;

on_the_newest_server!(a_restart_in_the_middle_forgets_nothing, some_room);
/// One instance, a directory, and the file that it keeps.
async fn a_restart_in_the_middle_forgets_nothing(version: &'static str) {
    let mut deployment = Prepared::new().start(version, &owned_by("a")).await;
    make_bucket(&deployment, 1).await;
    eventually("an owner", async || may_write(&deployment, "a").await.then_some(())).await;
    let mut open = Raw::login(&deployment, &deployment.service("a")).await;
    // Nobody can be asked, so nothing can be settled: the server does not let the system user in.
    let config = deployment.files.server_config();
    edit(&config, "$AUDIT_ADMIN_KEY, $SYSTEM_KEY ]", "$AUDIT_ADMIN_KEY ]");
    deployment.server.restart().await.unwrap();
    drop(open);
    eventually("the server", async || {
        Raw::try_login(deployment.url(), &deployment.service("a").seed).await.ok()
    })
    .await;
    open = Raw::login(&deployment, &deployment.service("a")).await;
    open.publish("$KV.k.y", b"before").await.unwrap();
    deployment.write_policy(&owned_by("b"));
    deployment.instances[0].says("policy_changed").await;
    assert!(!may_write(&deployment, "b").await);
    let kept = deployment.dir.path().join("policy-0.kept");
    deployment.instances[0].child.kill().await.unwrap();
    let path = kept.display().to_string();
    deployment.add_instance(&["--policy-keep", &path]).await;
    assert!(!may_write(&deployment, "b").await, "{path}");
    // Now it can.
    edit(&config, "$AUDIT_ADMIN_KEY ]", "$AUDIT_ADMIN_KEY, $SYSTEM_KEY ]");
    deployment.server.restart().await.unwrap();
    eventually("the new owner", async || {
        let raw = Raw::try_login(deployment.url(), &deployment.service("b").seed).await;
        raw.ok()?.publish("$KV.k.y", b"now").await.ok()
    })
    .await;
}

/// Something that goes wrong while a keyspace moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Nothing does.
    None,
    /// An instance is killed (SIGKILL), and another one is started a second later.
    InstanceKilled,
    /// An instance is stopped (SIGSTOP) for as long as two leases.
    InstanceStopped,
    /// The server that leads the bucket's stream is killed, and started again a second later.
    LeaderKilled,
    /// What goes between two servers is held back for three seconds.
    Cut,
    /// The server that leads the policy's bucket is stopped for two seconds.
    SourceStopped,
}

const FAULTS: [Fault; 6] = [
    Fault::None,
    Fault::InstanceKilled,
    Fault::InstanceStopped,
    Fault::LeaderKilled,
    Fault::Cut,
    Fault::SourceStopped,
];

/// The lease of the instances in these tests.
const LEASE: Duration = Duration::from_secs(3);
/// For how long nobody may be able to write, after a fault, on a machine that does nothing else: a
/// stream whose leader was killed elects another one for some seconds.
const VACANT: Duration = Duration::from_secs(15);
/// The same on one that is busy with other tests and compilers.
const VACANT_BUSY: Duration = Duration::from_secs(60);

/// Connections beside those that write, in the long run: 200 with them.
const IDLE: usize = 196;

/// Three servers, three instances, and two services that write all the time.
struct Run {
    deployment: Deployment,
    switches: Vec<watch::Sender<bool>>,
    /// The instances that run.
    running: Vec<usize>,
    random: StdRng,
}

impl Run {
    async fn start(version: &'static str, seed: u64) -> Self {
        let prepared = bucket::prepared()
            .with_settings("[policy]\n", &format!("[policy]\nlease = \"{}s\"\n", LEASE.as_secs()));
        let first = owned_by("a");
        let (mut deployment, switches) =
            prepared.start_cluster_with_switches(version, &first).await;
        let (code, said) = bucket::push(&deployment, &first, &[]).await;
        assert_eq!(code, 0, "{said}");
        let mut running = Vec::new();
        for node in deployment.urls() {
            // Each is at home at another server.
            let urls = deployment.urls();
            let at = urls.iter().position(|url| *url == node).unwrap();
            let mut urls = urls;
            urls.rotate_left(at);
            let index = deployment.launch_instance(&["--nats-servers", &urls.join(",")]);
            deployment.instances[index].says("ready").await;
            running.push(index);
        }
        Self { deployment, switches, running, random: StdRng::seed_from_u64(seed) }
    }

    /// Which server leads a stream.
    async fn leader(&self, stream: &str) -> usize {
        let names: Vec<String> =
            (1..=self.switches.len()).map(|number| format!("node-{number}")).collect();
        eventually_within(VACANT_BUSY, &format!("a leader of {stream}"), async || {
            let admin = self.deployment.admin_of(stream).await?;
            let info = tokio::time::timeout(Duration::from_secs(2), admin.get_stream(stream));
            let leader = info.await.ok()?.ok()?.cached_info().cluster.clone()?.leader?;
            names.iter().position(|name| *name == leader)
        })
        .await
    }

    fn node(&mut self, number: usize) -> &mut Server {
        match number {
            0 => &mut self.deployment.server,
            more => &mut self.deployment.peers[more - 1],
        }
    }

    /// Lets it go wrong for its time, and mends it. `pushed` is told in the middle.
    async fn suffer(&mut self, fault: Fault, begun: oneshot::Sender<()>) {
        let wait = |millis| tokio::time::sleep(Duration::from_millis(millis));
        match fault {
            Fault::None => begun.send(()).unwrap(),
            Fault::InstanceKilled => {
                let at = self.random.random_range(0..self.running.len());
                let index = self.running.remove(at);
                let early = self.random.random_bool(0.5);
                if early {
                    self.deployment.instances[index].child.kill().await.unwrap();
                    begun.send(()).unwrap();
                } else {
                    begun.send(()).unwrap();
                    wait(self.random.random_range(0..200)).await;
                    self.deployment.instances[index].child.kill().await.unwrap();
                }
                wait(1_000).await;
                let new = self.deployment.launch_instance(&[]);
                self.deployment.instances[new].says("ready").await;
                self.running.push(new);
            }
            Fault::InstanceStopped => {
                let at = self.random.random_range(0..self.running.len());
                let index = self.running[at];
                self.deployment.instances[index].pause();
                begun.send(()).unwrap();
                tokio::time::sleep(2 * LEASE).await;
                self.deployment.instances[index].signal(Signal::CONT);
            }
            Fault::LeaderKilled => {
                let leader = self.leader("KV_k").await;
                let early = self.random.random_bool(0.5);
                if early {
                    self.node(leader).kill().await.unwrap();
                    begun.send(()).unwrap();
                } else {
                    begun.send(()).unwrap();
                    wait(self.random.random_range(0..200)).await;
                    self.node(leader).kill().await.unwrap();
                }
                wait(1_000).await;
                self.node(leader).restart().await.unwrap();
            }
            Fault::Cut => {
                let pair = self.random.random_range(0..self.switches.len());
                self.switches[pair].send(true).unwrap();
                wait(self.random.random_range(0..100)).await;
                begun.send(()).unwrap();
                wait(3_000).await;
                self.switches[pair].send(false).unwrap();
            }
            Fault::SourceStopped => {
                let leader = self.leader("KV_solewriter_policy").await;
                begun.send(()).unwrap();
                wait(self.random.random_range(0..50)).await;
                self.node(leader).pause().unwrap();
                wait(2_000).await;
                self.node(leader).resume().unwrap();
            }
        }
    }
}

/// Moves the keyspace to and fro, each time with one of these faults, and gives what came of it: the
/// times for which nobody wrote, by fault.
async fn moves(
    version: &'static str,
    faults: &[Fault],
    (seed, idle): (u64, usize),
) -> Vec<(Fault, Duration)> {
    println!("{version}: seed {seed}");
    let mut run = Run::start(version, seed).await;
    let stream = make_bucket(&run.deployment, 3).await;
    let urls = run.deployment.urls();
    let writer = |name, from: usize| {
        let mut urls = urls.clone();
        urls.rotate_left(from);
        Writer::start(name, urls, &run.deployment.service(name).seed)
    };
    let writers = [writer("a", 0), writer("a", 1), writer("b", 1), writer("b", 2)];
    writes(&stream, "a").await;
    let mut others = Vec::new();
    for number in 0..idle {
        let seed = &run.deployment.service("c").seed;
        others.push(Raw::try_login(&urls[number % urls.len()], seed).await.unwrap());
    }
    let (mut owners, mut files) = (vec!["a"], Vec::new());
    for fault in faults {
        let owner = if *owners.last().unwrap() == "a" { "b" } else { "a" };
        let text = run.deployment.policy_text(&owned_by(owner));
        files.clear();
        files.push(SourceFile::new("test.toml", text));
        let to = bucket::bucket(&run.deployment).await;
        let (begun, begins) = oneshot::channel();
        let began = Instant::now();
        let pushing = async {
            begins.await.unwrap();
            push_patiently(&to, &files).await;
            let pushed = began.elapsed();
            writes(&stream, owner).await;
            println!("{version}: {fault:?}: to {owner}: pushed {pushed:?}, {:?}", began.elapsed());
        };
        let suffering = run.suffer(*fault, begun);
        tokio::join!(pushing, suffering);
        owners.push(owner);
    }
    let mut sent = 0;
    for writer in writers {
        sent += writer.finish().await;
    }
    let (turns, stored) = judged(&run.deployment).await;
    println!("{version}: {sent} writes sent, {stored} stored, {} moves", faults.len());
    let found: Vec<&str> = turns.iter().map(|turn| turn.writer.as_str()).collect();
    assert_eq!(found, owners, "{turns:?}");
    let gaps = turns.windows(2).map(|pair| between(pair[0].last, pair[1].first));
    faults.iter().copied().zip(gaps).collect()
}

/// Pushes, as often as it takes.
async fn push_patiently(to: &Bucket, files: &[SourceFile]) {
    let began = Instant::now();
    loop {
        let tried = async {
            let head = to.head().await.map_err(|error| error.to_string())?;
            let pushed = to.push(head.as_ref(), files, bucket::words("move"), rand::random()).await;
            pushed.map(drop).map_err(|error| error.to_string())
        };
        match tokio::time::timeout(DEADLINE, tried).await {
            Ok(Ok(())) => return,
            other => assert!(began.elapsed() < 2 * DEADLINE, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Writes of one service that were stored in a row.
#[derive(Debug)]
pub struct Turn {
    pub writer: String,
    count: usize,
    /// When the first and the last of them were stored, in nanoseconds.
    first: i128,
    last: i128,
    /// For how long none was stored, where that was [`LONG`].
    pauses: Vec<Duration>,
}

/// A pause that is no matter of a busy machine.
const LONG: Duration = Duration::from_secs(1);

fn between(from: i128, to: i128) -> Duration {
    Duration::from_nanos(u64::try_from(to - from).unwrap_or(0))
}

/// What a killed leader costs by itself, for comparison: nothing moves.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes, on a machine that does nothing else"]
async fn a_killed_leader_and_no_handover() {
    let mut run = Run::start("2.15.1", 1).await;
    let stream = make_bucket(&run.deployment, 3).await;
    let (urls, service) = (run.deployment.urls(), run.deployment.service("a"));
    let writers = [0, 1].map(|from| {
        let mut urls = urls.clone();
        urls.rotate_left(from);
        Writer::start("a", urls, &service.seed)
    });
    for _ in 0..12 {
        writes(&stream, "a").await;
        let (begun, _begins) = oneshot::channel();
        run.suffer(Fault::LeaderKilled, begun).await;
        let stored = async || {
            let admin = run.deployment.admin().await;
            Some(admin.get_stream("KV_k").await.ok()?.cached_info().state.last_sequence)
        };
        let since = eventually("the stream", stored).await;
        let more = async || (stored().await? > since + 100).then_some(());
        eventually("writes behind the new leader", more).await;
    }
    for writer in writers {
        writer.finish().await;
    }
    let (turns, _) = judged(&run.deployment).await;
    let mut pauses: Vec<Duration> = turns.into_iter().flat_map(|turn| turn.pauses).collect();
    pauses.sort();
    println!("nobody wrote for {pauses:?}");
}

on_every_server!(no_fault_makes_two_writers, more_room);
async fn no_fault_makes_two_writers(version: &'static str) {
    let times = moves(version, &FAULTS, (20_261_129, 0)).await;
    println!("{version}: {times:?}");
    for (fault, vacant) in times {
        assert!(vacant < VACANT_BUSY, "{fault:?}: {vacant:?}");
    }
}

/// The long run, whose figures `docs/handover.md` has: `HANDOVERS=100 HANDOVER_SEED=1 HANDOVER_FAULTS=None cargo test
/// --release --test e2e a_hundred_handovers -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a quarter of an hour, on a machine that does nothing else"]
async fn a_hundred_handovers() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (count, seed) = (number("HANDOVERS", 100), number("HANDOVER_SEED", 1));
    // Some of them by name, or all.
    let wanted = std::env::var("HANDOVER_FAULTS").unwrap_or_default();
    let named = |fault: &&Fault| wanted.is_empty() || wanted.contains(&format!("{fault:?}"));
    let some: Vec<Fault> = FAULTS.iter().filter(named).copied().collect();
    let mut random = StdRng::seed_from_u64(seed);
    let pick = |_| some[random.random_range(0..some.len())];
    let faults: Vec<Fault> = (0..count).map(pick).collect();
    let times = moves("2.15.1", &faults, (seed, IDLE)).await;
    for fault in FAULTS {
        let mut times: Vec<Duration> =
            times.iter().filter(|(of, _)| *of == fault).map(|(_, time)| *time).collect();
        times.sort();
        let Some(last) = times.len().checked_sub(1) else { continue };
        let part = |percent: usize| times[last * percent / 100];
        println!(
            "{fault:?}: {} moves, nobody wrote for {:?} (p50), {:?} (p99), {:?} (most)",
            times.len(),
            part(50),
            part(99),
            times[last]
        );
        assert!(times[last] < VACANT, "{fault:?}: {times:?}");
    }
}
