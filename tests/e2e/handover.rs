//! The right to write moves from one service to another, under writers that write all the time as
//! fast as they can: the bucket's stream, which keeps everything, is the judge.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::{self, Stream};
use solewriter_core::keys::{Seed, User};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::bucket;
use super::deployment::{DEADLINE, Deployment, Prepared, eventually};

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

/// Who wrote what was stored, in order: each service with how many of its writes came in a row.
pub async fn turns(deployment: &Deployment) -> Vec<(String, usize)> {
    use futures_util::StreamExt;
    let admin = deployment.admin().await;
    let stream = admin.get_stream("KV_k").await.unwrap();
    let last = stream.cached_info().state.last_sequence;
    let config = async_nats::jetstream::consumer::pull::OrderedConfig::default();
    let consumer = stream.create_consumer(config).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let mut turns: Vec<(String, usize)> = Vec::new();
    for _ in 0..last {
        let message = tokio::time::timeout(DEADLINE, messages.next()).await.unwrap();
        let message = message.unwrap().unwrap();
        let writer = String::from_utf8_lossy(&message.payload);
        let writer = writer.split(' ').next().unwrap().to_owned();
        match turns.last_mut() {
            Some((last, count)) if *last == writer => *count += 1,
            _ => turns.push((writer, 1)),
        }
    }
    turns
}

/// Who wrote last.
async fn last_writer(stream: &Stream) -> Option<String> {
    let message = stream.direct_get_last_for_subject("$KV.k.x").await.ok()?;
    Some(String::from_utf8_lossy(&message.payload).split(' ').next()?.to_owned())
}

/// Waits until that service wrote last. Gives how long that took.
pub async fn writes(stream: &Stream, service: &str) -> Duration {
    let began = Instant::now();
    eventually(&format!("writes of {service}"), async || {
        (last_writer(stream).await.as_deref() == Some(service)).then_some(())
    })
    .await;
    began.elapsed()
}

on_every_server!(a_keyspace_moves_and_never_has_two_writers, much_room);
/// One server, one instance, a directory.
async fn a_keyspace_moves_and_never_has_two_writers(version: &'static str) {
    let mut deployment = Prepared::new().start(version, &owned_by("a")).await;
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
    let settled = deployment.instances[0].says_times("handed_over", moves.len()).await;
    println!("{settled:?}");
    for writer in writers {
        writer.finish().await;
    }
    let turns = turns(&deployment).await;
    println!("{turns:?}");
    let owners: Vec<&str> = turns.iter().map(|(owner, _)| owner.as_str()).collect();
    assert_eq!(owners, ["a", "b", "c", "a", "b", "a"]);
}

on_every_server!(no_fault_makes_two_writers, much_room);
/// Three servers, three instances, a bucket with the policy; and what is left of them after some
/// moves.
async fn no_fault_makes_two_writers(version: &'static str) {
    let prepared = bucket::prepared().with_settings("[policy]\n", "[policy]\nlease = \"3s\"\n");
    let mut deployment = prepared.start_cluster(version, &owned_by("a")).await;
    let (code, said) = bucket::push(&deployment, &owned_by("a"), &[]).await;
    assert_eq!(code, 0, "{said}");
    for _ in 0..3 {
        deployment.add_instance(&[]).await;
    }
    let stream = make_bucket(&deployment, 3).await;
    let urls = deployment.urls();
    let writer = |name, from: usize| {
        let mut urls = urls.clone();
        urls.rotate_left(from);
        Writer::start(name, urls, &deployment.service(name).seed)
    };
    let writers = [writer("a", 0), writer("a", 1), writer("b", 1), writer("b", 2)];
    writes(&stream, "a").await;
    let moves = ["b", "a", "b", "a", "b"];
    for owner in moves {
        let began = Instant::now();
        let (code, said) = bucket::push(&deployment, &owned_by(owner), &["--wait", "60s"]).await;
        assert_eq!(code, 0, "{said}");
        println!("{version}: pushed in {:?}", began.elapsed());
        let took = writes(&stream, owner).await;
        println!("{version}: to {owner} in {took:?}");
    }
    for writer in writers {
        writer.finish().await;
    }
    let turns = turns(&deployment).await;
    println!("{turns:?}");
    for instance in &deployment.instances {
        for line in instance.lines() {
            if line["event"] == "handed_over" {
                println!("{} {}", line["vacant_ms"], line["to"]);
            }
        }
    }
    let owners: Vec<&str> = turns.iter().map(|(owner, _)| owner.as_str()).collect();
    assert_eq!(owners, ["a", "b", "a", "b", "a", "b"]);
}
