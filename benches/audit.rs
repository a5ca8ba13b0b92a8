//! What the audit stream costs an authorisation, in one run, in turn without and with it:
//!
//! - decisions, 1,000 a second, in this process: from a request's bytes to the answer's, recorded;
//! - logins of real clients through a real nats-server and the real service, 1,000 a second, and
//!   a quarter of that.
//!
//! Each is measured from when it was due, so that one that is late makes those after it late too.
//! Where the machine does not do so many, that is said: the times are those of a queue that grows.
//!
//! `cargo bench --bench audit`. Read the ratios; the figures are this machine's.

// What a benchmark is for is to print.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use serde_json::{Value, json};
use solewriter::audit::decision_event;
use solewriter::audit::stream;
use solewriter::audit::{CAPACITY, Recorder, Sink, Spool, Target};
use solewriter::scaffold::{Deployment, Scaffold};
use solewriter::telemetry::Metrics;
use solewriter_core::callout::authorizer::Moment;
use solewriter_core::keys::{Seed, Signer, User};
use solewriter_sandbox::{Server, fetch};
use solewriter_types::audit_event::DEFAULT_STREAM;
use solewriter_types::audit_event::{PRODUCER, Source};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

#[path = "../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

const RATE: u32 = 1000;
/// Of one turn; the first is not counted.
const SECONDS: u32 = 4;
const TURNS: usize = 4;
/// Logins at a time, at most: a login that finds no place waits, and that counts.
const AT_A_TIME: usize = 256;
const VERSION: &str = "2.15.1";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}

/// A deployment with a server and the audit stream.
struct Stage {
    files: Deployment,
    server: Server,
    admin: jetstream::Context,
    dir: TempDir,
}

async fn stage() -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let files = Scaffold::on_any_port(dir.path().join("deployment"), "bench");
    let files = files.write().unwrap();
    let binary = tokio::task::spawn_blocking(|| fetch::exact(VERSION)).await.unwrap().unwrap();
    let server = Server::start(&binary, &files.server_config(), dir.path()).await.unwrap();
    let seed = std::fs::read_to_string(files.seed_file("audit-admin")).unwrap();
    let admin = async_nats::ConnectOptions::with_nkey(seed.trim().to_owned());
    let admin = jetstream::new(admin.connect(server.client_url()).await.unwrap());
    admin.create_stream(stream::config(DEFAULT_STREAM, 1)).await.unwrap();
    Stage { files, server, admin, dir }
}

async fn run() {
    let stage = stage().await;
    println!("audit stream off and on, nats-server {VERSION}\n");
    decisions(&stage).await;
    for rate in [RATE / 4, RATE] {
        real_logins(&stage, rate).await;
    }
    let mut stream = stage.admin.get_stream(DEFAULT_STREAM).await.unwrap();
    println!("\nevents in the stream: {}", stream.info().await.unwrap().state.messages);
}

/// Decisions in this process, at a steady rate. The sink sends what is recorded meanwhile.
async fn decisions(stage: &Stage) {
    let bench = Arc::new(support::Bench::plain());
    let policy = Arc::new(bench.policy("[service.asks]\nnkeys = [\"CLIENT\"]\n"));
    let token = Arc::new(bench.signed(&bench.claims()));
    let metrics = Metrics::new();
    let source = |random| Source::new(PRODUCER, jiff::Timestamp::now(), random);
    let off = Recorder::to_the_log(source(1), metrics.clone());
    let (on, intake) = Recorder::with_queue(source(2), metrics, CAPACITY);
    let seed = std::fs::read_to_string(stage.files.seed_file("callout")).unwrap();
    let target = Target {
        servers: vec![stage.server.client_url().parse().unwrap()],
        options: Box::new(move || {
            Ok(async_nats::ConnectOptions::with_nkey(seed.trim().to_owned()))
        }),
        name: "bench".to_owned(),
        inbox: "_INBOX.solewriter".to_owned(),
        stream: DEFAULT_STREAM.to_owned(),
    };
    let spool = Spool { dir: stage.dir.path().join("spool"), limit: 256 * 1024 * 1024 };
    let sink = Sink::start(intake, target, spool).unwrap();
    let mut times: [Vec<Duration>; 2] = [Vec::new(), Vec::new()];
    for turn in 0..=TURNS {
        // Whoever comes first has no advantage from it.
        for which in if turn % 2 == 0 { [0, 1] } else { [1, 0] } {
            let recorder = if which == 0 { off.clone() } else { on.clone() };
            let (bench, policy, token) = (bench.clone(), policy.clone(), token.clone());
            let found = tokio::task::spawn_blocking(move || {
                let began = Instant::now();
                let mut found = Vec::new();
                for number in 0..RATE * SECONDS {
                    let due = Duration::from_secs(1) * number / RATE;
                    std::thread::sleep(due.saturating_sub(began.elapsed()));
                    let start = began + due;
                    let moment = Moment::now();
                    let moment = Moment { now: support::Bench::moment().now, ..moment };
                    let done = bench
                        .authorizer
                        .authorise(&token, None, (&bench.decider, &policy), &moment)
                        .unwrap();
                    assert!(done.decision.is_ok());
                    recorder.record(decision_event::decided(&done, &moment.id, start.elapsed()));
                    found.push(start.elapsed());
                }
                found
            });
            let found = found.await.unwrap();
            if turn > 0 {
                times[which].extend(found);
            }
        }
    }
    report(&format!("decisions, {RATE} a second"), times);
    let left = sink.finish(Duration::from_secs(30)).await;
    assert_eq!(left, Some(0), "events were left");
}

async fn real_logins(stage: &Stage, rate: u32) {
    let url = stage.server.client_url().to_owned();
    // Without the table, events go to the log alone.
    let on = stage.files.settings();
    let off = stage.files.dir.join("off.toml");
    let text = std::fs::read_to_string(&on).unwrap();
    std::fs::write(&off, text.split("[audit]").next().unwrap()).unwrap();
    let seed = std::fs::read_to_string(stage.files.seed_file("orders")).unwrap();
    let signer = Arc::new(Signer::new(&Seed::<User>::parse(&seed).unwrap()).unwrap());
    let mut times: [Vec<Duration>; 2] = [Vec::new(), Vec::new()];
    let mut rates = [Vec::new(), Vec::new()];
    for turn in 0..=TURNS {
        for which in if turn % 2 == 0 { [0, 1] } else { [1, 0] } {
            let settings = if which == 0 { &off } else { &on };
            let mut service = start(&stage.files, settings, &url, stage.dir.path()).await;
            let (found, done) = logins(&url, &signer, rate).await;
            if turn > 0 {
                times[which].extend(found);
                rates[which].push(done as u32);
            }
            service.start_kill().unwrap();
            service.wait().await.unwrap();
        }
    }
    report(&format!("logins, {rate} a second, from when each was due"), times);
    println!("  logins a second, turn by turn: without {:?}, with {:?}", rates[0], rates[1]);
    if rates.iter().flatten().any(|done| *done < rate / 100 * 95) {
        println!("  this machine does not do {rate} a second: these are times of a growing queue");
    }
}

fn report(what: &str, [mut without, mut with]: [Vec<Duration>; 2]) {
    println!("{what}:");
    for (name, at) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
        let (off, on) = (percentile(&mut without, at), percentile(&mut with, at));
        let ratio = on.as_secs_f64() / off.as_secs_f64();
        println!("  {name}  without {off:>10.1?}  with {on:>10.1?}  ratio {ratio:.2}");
    }
}

fn percentile(times: &mut [Duration], at: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * at) as usize]
}

async fn start(files: &Deployment, settings: &Path, url: &str, dir: &Path) -> Child {
    let log = dir.join("solewriter.log");
    let child = Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .args(["serve", "--nats-servers", url, "--log-format", "json", "--config"])
        .arg(settings)
        .current_dir(&files.dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let began = Instant::now();
    while !std::fs::read_to_string(&log).unwrap().contains("\"ready\"") {
        assert!(began.elapsed() < Duration::from_secs(30), "it is not ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    child
}

/// Logs in at the rate, as long as no more than [`AT_A_TIME`] are on their way. Gives how long each
/// took from when it was due, and how many a second were done.
async fn logins(url: &str, signer: &Arc<Signer<User>>, rate: u32) -> (Vec<Duration>, f64) {
    let address = url.rsplit('/').next().unwrap().to_owned();
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    let mut running = JoinSet::new();
    let began = Instant::now();
    for number in 0..rate * SECONDS {
        let due = began + Duration::from_secs(1) * number / rate;
        tokio::time::sleep_until(due.into()).await;
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let (address, signer) = (address.clone(), Arc::clone(signer));
        running.spawn(async move {
            login(&address, &signer).await;
            drop(place);
            due.elapsed()
        });
    }
    let all = running.join_all().await;
    let rate = all.len() as f64 / began.elapsed().as_secs_f64();
    (all, rate)
}

async fn login(address: &str, signer: &Signer<User>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    let info = lines.next_line().await.unwrap().unwrap();
    let info: Value = serde_json::from_str(info.strip_prefix("INFO ").unwrap()).unwrap();
    let signature = signer.sign(info["nonce"].as_str().unwrap().as_bytes());
    let signature = data_encoding::BASE64URL_NOPAD.encode(&signature);
    let connect = json!({
        "nkey": signer.public().as_str(), "sig": signature, "verbose": false, "pedantic": false,
        "lang": "bench", "version": "1", "protocol": 1,
    });
    write.write_all(format!("CONNECT {connect}\r\nPING\r\n").as_bytes()).await.unwrap();
    loop {
        let line = lines.next_line().await.unwrap().unwrap();
        if line.starts_with("PONG") {
            return;
        }
        assert!(!line.starts_with("-ERR"), "{line}");
    }
}
