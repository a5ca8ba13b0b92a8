//! What the audit stream costs an authorisation: real clients log in, 1,000 a second, through a
//! real nats-server and the real service, in turn without and with the audit stream, in one run:
//! `cargo bench --bench audit`. Read the ratios; the figures are this machine's.

// What a benchmark is for is to print.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use solewriter::audit::stream::{self, DEFAULT_NAME};
use solewriter::cli::init::{Deployment, Init};
use solewriter::keys::{Seed, Signer, User};
use solewriter::sandbox::{Server, fetch};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

const RATE: u32 = 1000;
/// Of one turn; the first second is not counted.
const SECONDS: u32 = 4;
const TURNS: usize = 4;
const VERSION: &str = "2.15.1";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let dir = tempfile::tempdir().unwrap();
    let files = Init {
        dir: dir.path().join("deployment"),
        nats_listen: "127.0.0.1:-1".to_owned(),
        http_listen: ([127, 0, 0, 1], 0).into(),
        server_name: "bench".to_owned(),
    };
    let files = files.write().unwrap();
    let binary = tokio::task::spawn_blocking(|| fetch::exact(VERSION)).await.unwrap().unwrap();
    let server = Server::start(&binary, &files.server_config(), dir.path()).await.unwrap();
    let url = server.client_url().to_owned();
    let seed = std::fs::read_to_string(files.seed_file("admin")).unwrap();
    let admin = async_nats::ConnectOptions::with_nkey(seed.trim().to_owned());
    let admin = async_nats::jetstream::new(admin.connect(&url).await.unwrap());
    admin.create_stream(stream::config(DEFAULT_NAME, 1)).await.unwrap();
    // Without the table, events go to the log alone.
    let on = files.settings();
    let off = files.dir.join("off.toml");
    let text = std::fs::read_to_string(&on).unwrap();
    std::fs::write(&off, text.split("[audit]").next().unwrap()).unwrap();
    let seed = std::fs::read_to_string(files.seed_file("orders")).unwrap();
    let signer = Arc::new(Signer::new(&Seed::<User>::parse(&seed).unwrap()).unwrap());

    let mut times: [Vec<Duration>; 2] = [Vec::new(), Vec::new()];
    for turn in 0..TURNS {
        // Whoever comes first has no advantage from it.
        let order = if turn % 2 == 0 { [0, 1] } else { [1, 0] };
        for which in order {
            let settings = if which == 0 { &off } else { &on };
            let mut service = start(&files, settings, &url, dir.path()).await;
            let (mut found, rate) = logins(&url, &signer).await;
            println!(
                "turn {turn}, {}: {} logins, {rate:.0}/s, median {:?}",
                ["without", "with   "][which],
                found.len(),
                percentile(&mut found, 0.5)
            );
            times[which].extend(found);
            service.start_kill().unwrap();
            service.wait().await.unwrap();
        }
    }
    let [mut without, mut with] = times;
    println!("\nlogins through nats-server {VERSION} at {RATE} a second, audit stream off and on");
    for (name, at) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
        let (off, on) = (percentile(&mut without, at), percentile(&mut with, at));
        let ratio = on.as_secs_f64() / off.as_secs_f64();
        println!("{name}  without {off:?}  with {on:?}  ratio {ratio:.2}");
    }
    let mut stream = admin.get_stream(DEFAULT_NAME).await.unwrap();
    println!("events in the stream: {}", stream.info().await.unwrap().state.messages);
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

/// Begins a login every thousandth of a second, whether those before are done or not. Gives how
/// long each took from when it should have begun, and how many a second were done.
async fn logins(url: &str, signer: &Arc<Signer<User>>) -> (Vec<Duration>, f64) {
    let address = url.rsplit('/').next().unwrap().to_owned();
    let mut running = JoinSet::new();
    let began = Instant::now();
    for number in 0..RATE * SECONDS {
        let due = began + Duration::from_secs(1) * number / RATE;
        tokio::time::sleep_until(due.into()).await;
        let (address, signer) = (address.clone(), Arc::clone(signer));
        running.spawn(async move {
            login(&address, &signer).await;
            (number, due.elapsed())
        });
    }
    let all = running.join_all().await;
    let rate = all.len() as f64 / began.elapsed().as_secs_f64();
    let counted = all.into_iter().filter(|(number, _)| *number >= RATE);
    (counted.map(|(_, time)| time).collect(), rate)
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
