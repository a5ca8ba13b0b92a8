//! The load tool's modes, tiny: that they work and that what they count is there. What they find is
//! for `solewriter-lab report`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// A tiny run on a busy machine still has to start servers and services.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(240);
/// So many at once: they wait for most of their time, and no figure of theirs is held against one.
static ROOM: Semaphore = Semaphore::const_new(2);

const TINY: [&str; 6] = ["--rounds", "1", "--duration", "400ms", "--warm-up", "100ms"];

async fn load(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_solewriter-lab"));
    let command = command.args(arguments).kill_on_drop(true);
    let output = timeout(DEADLINE, command.output()).await.expect("it takes too long").unwrap();
    assert!(
        output.status.success(),
        "load {arguments:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

async fn found(arguments: &[&str]) -> Value {
    let output =
        load(&[arguments, &["--services", "20", "--format", "json"], &TINY].concat()).await;
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Closed and open loop, sealed and plain, granted and refused: every answer is looked at by the
/// tool, which fails on a wrong one.
#[tokio::test(flavor = "multi_thread")]
async fn load_direct_measures_a_real_service() {
    let _room = ROOM.acquire().await.unwrap();
    for arguments in [
        &["direct", "--concurrency", "4"][..],
        &["direct", "--plain", "--rate", "50"],
        &["direct", "--requests", "unknown-key", "--concurrency", "2"],
        &["direct", "--requests", "bad-signature", "--instances", "2"],
    ] {
        let found = found(arguments).await;
        let round = &found["rounds"][0];
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{found}"));
        assert!(number(&round["answered"]) >= 1.0 && number(&found["crypto_us"]) > 0.0, "{found}");
        assert!(number(&round["latency"]["p50_ms"]) > 0.0, "{found}");
        if cfg!(target_os = "linux") {
            assert!(number(&round["service_rss"]) > 1e6, "{found}");
            // The accounts count in steps of some milliseconds.
            assert!(number(&round["service_cpu_us"]) >= 0.0, "{found}");
        }
    }
    // Forged ones are counted as sent and get no answer.
    let forged = found(&["direct", "--requests", "forged", "--rate", "50"]).await;
    let round = &forged["rounds"][0];
    assert!(round["sent"].as_u64().unwrap() > 0 && round["answered"] == 0, "{forged}");
}

async fn load_connect_compares_on_a_real_server(version: &'static str) {
    let found = found(&["connect", "--nats-server", version, "--concurrency", "4"]).await;
    let rounds = found.as_array().unwrap();
    let who: Vec<&str> = rounds.iter().map(|round| round["against"].as_str().unwrap()).collect();
    assert_eq!(who, ["solewriter", "ceiling", "static-users"]);
    for round in rounds {
        let run = &round["connections"];
        assert!(run["connected"].as_u64().unwrap() > 0 && run["failed"] == 0, "{round}");
    }
}

async fn load_connect_keeps_a_rate_and_survives_a_storm(version: &'static str) {
    let server = ["connect", "--nats-server", version, "--against", "solewriter"];
    let rate = found(&[&server[..], &["--rate", "20"]].concat()).await;
    assert!(rate[0]["connections"]["connected"].as_u64().unwrap() > 0, "{rate}");
    for more in [&[][..], &["--reload"]] {
        let storm = found(&[&server[..], &["--storm", "30"], more].concat()).await;
        let storm = &storm[0]["storm"];
        assert_eq!(
            (&storm["clients"], &storm["latency"]["count"]),
            (&30.into(), &30.into()),
            "{storm}"
        );
    }
}

/// Both write their page from what they found, and a report that was done is not done again.
async fn load_report_and_soak_write_the_page(version: &'static str) {
    let dir = tempfile::tempdir().unwrap();
    let docs = dir.path().to_str().unwrap();
    let report = ["report", "--quick", "--nats-server", version, "--docs", docs];
    let output = load(&report).await;
    let judged = String::from_utf8(output.stdout).unwrap();
    assert!(judged.contains("met ") && !judged.contains("NaN"), "{judged}");
    // A rate of its own: what was found to be half of the capacity may be all of it a moment later.
    let soak = ["soak", "--duration", "4s", "--services", "20", "--calibrate", "500ms"];
    let soak = [&soak[..], &["--rate", "20", "--nats-server", version, "--docs", docs]].concat();
    let soak = load(&soak).await;
    let judged = String::from_utf8(soak.stdout).unwrap();
    assert!(judged.contains("no failed authorisation: 0.00 failed"), "{judged}");
    let streams = ["streams", "--rounds", "1", "--messages", "200"];
    let streams = load(&[&streams[..], &["--nats-server", version, "--docs", docs]].concat()).await;
    let rounds: serde_json::Value = serde_json::from_slice(&streams.stdout).unwrap();
    for (round, place) in ["import", "state"].into_iter().enumerate() {
        assert_eq!(rounds[round]["place"], place);
        for figure in ["publish_one", "publish_many", "consume_one", "consume_many"] {
            assert!(rounds[round][figure].as_f64().unwrap() > 0.0, "{rounds}");
        }
    }
    let listing = ["listing", "--connections", "300", "--rounds", "1"];
    let listing = load(&[&listing[..], &["--nats-server", version, "--docs", docs]].concat()).await;
    let rounds: serde_json::Value = serde_json::from_slice(&listing.stdout).unwrap();
    for way in ["small", "serve"] {
        assert!(rounds[0][way]["connections"].as_u64().unwrap() >= 300, "{rounds}");
    }
    let served =
        ["served", "--rounds", "1", "--turn", "100ms", "--subjects", "20", "--format", "json"];
    let served = load(&[&served[..], &["--nats-server", version, "--docs", docs]].concat()).await;
    let servers: serde_json::Value = serde_json::from_slice(&served.stdout).unwrap();
    assert_eq!(servers[0]["nats_server"], version);
    for part in ["grants", "covers", "forms"] {
        assert!(servers[0][part][0]["subjects"].as_u64().unwrap() >= 20, "{servers}");
    }
    assert_eq!(servers[0]["covers"][0]["sent"], 2, "one that covers all others, and the inbox");
    let sizing = std::fs::read_to_string(dir.path().join("sizing.md")).unwrap();
    assert!(sizing.contains("\n## What gives out first\n"), "{sizing}");
    let page = std::fs::read_to_string(dir.path().join("performance.md")).unwrap();
    for part in [
        "## The goals",
        "## Straight to the service",
        "## Small and large",
        "## Streams, through the import",
        "## A look at open connections",
        "## What a connection costs nats-server",
        "## The soak",
    ] {
        assert!(page.contains(part), "{page}");
    }
    for link in page.split("](").skip(1) {
        let file = dir.path().join(link.split(')').next().unwrap());
        let svg = std::fs::read_to_string(&file).unwrap();
        assert!(svg.starts_with("<svg ") && svg.contains("<polyline"), "{}", file.display());
    }
    let again = load(&report).await;
    assert!(!String::from_utf8_lossy(&again.stderr).contains("part "), "it measured again");
}

/// What a look asks of the servers, at two sizes: a page of a list has so many connections that their
/// number hardly matters.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_asks_for_few_pages_however_many_are_open() {
    let _room = ROOM.acquire().await.unwrap();
    let at = async |connections: &str| {
        let dir = tempfile::tempdir().unwrap();
        let sweeps = ["sweeps", "--connections", connections, "--changes", "1", "--looks", "1"];
        let more = ["--docs", dir.path().to_str().unwrap(), "--every", "8s"];
        let output = load(&[&sweeps[..], &more].concat()).await;
        assert!(dir.path().join("performance/sweeps.json").exists());
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let (few, many) = tokio::join!(at("1200"), at("12000"));
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{few} {many}"));
    for found in [&few, &many] {
        let steady = &found["steady"];
        // A small page of each of three servers, and a large one. On a busy machine there may be one more
        // of the looks that follow a start.
        let pages = steady["pages"].as_u64().unwrap();
        assert!(pages == 6 || pages == 12, "{found}");
        let each = number(&steady["sent"]) / number(&found["connections"]);
        assert!(each * 3.0 < number(&steady["bytes"]) / number(&found["connections"]), "{found}");
        assert!(each < 250.0, "{found}");
    }
}

/// Whoever interrupts a long run has nothing to clear away.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_leaves_nothing() {
    let _room = ROOM.acquire().await.unwrap();
    let tmp = tempfile::tempdir().unwrap();
    let mut soak = Command::new(env!("CARGO_BIN_EXE_solewriter-lab"))
        .args(["soak", "--duration", "10m", "--services", "20", "--calibrate", "10s"])
        .env("TMPDIR", tmp.path())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(soak.stderr.take().unwrap()).lines();
    let ready = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("looking for the capacity") {
                return;
            }
        }
        panic!("it ended by itself");
    };
    timeout(DEADLINE, ready).await.unwrap();
    assert!(std::fs::read_dir(tmp.path()).unwrap().count() > 0);
    let pid = Pid::from_raw(soak.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let status = timeout(DEADLINE, soak.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(130));
    let left: Vec<_> = std::fs::read_dir(tmp.path()).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    if cfg!(target_os = "linux") {
        let name = tmp.path().to_str().unwrap().to_owned();
        let gone = async {
            loop {
                let processes = std::fs::read_dir("/proc").unwrap().flatten();
                let mut commands =
                    processes.filter_map(|p| std::fs::read(p.path().join("cmdline")).ok());
                if commands.all(|c| !String::from_utf8_lossy(&c).contains(&name)) {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        timeout(DEADLINE, gone).await.expect("something that it started goes on");
    }
}

/// Runs each with the oldest and the newest server.
macro_rules! on_first_and_last {
    ($($test:ident)*) => {
        mod v2_10_25 { $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                let _room = super::ROOM.acquire().await.unwrap();
                super::$test("2.10.25").await;
            })* }
        mod v2_15_1 { $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                let _room = super::ROOM.acquire().await.unwrap();
                super::$test("2.15.1").await;
            })* }
    };
}

on_first_and_last! {
    load_connect_compares_on_a_real_server
    load_connect_keeps_a_rate_and_survives_a_storm
    load_report_and_soak_write_the_page
}
