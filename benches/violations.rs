//! How many violations a second the follower of nats-server's log takes: `cargo bench --bench
//! violations`. One thread; 10,000 services in the policy; what it would log and publish is made
//! and thrown away. Lines are read and understood alone, then followed whole: once with a thousand
//! violations repeated again and again, and once with each unlike any other, which is the worst.
//!
//! Fewer than 10,000 repeated ones a second, or memory that grows with the number of lines, is a
//! failure. Where each is unlike any other, the follower may get behind, and then says so.

// What a benchmark is for is to print.
#![allow(clippy::print_stdout, clippy::cast_precision_loss)]

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use solewriter::policy_source::snapshot_store::Store;
use solewriter::violations::explain::Explainer;
use solewriter::violations::follow::{Follower, Input, Options};
use solewriter::violations::state::State;
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::grant::Defaults;
use solewriter_core::policy::validate::validate;
use solewriter_types::server_log::line::{Line, parse};
use solewriter_types::server_log::lines::Lines;
use tokio::sync::{mpsc, watch};

const SERVICES: usize = 10_000;
const LINES: usize = 100_000;
const LEAST: f64 = 10_000.0;
/// How much more memory twice the lines may take, in MiB.
const GROWTH: u64 = 32;

fn policy() -> String {
    let mut text = String::new();
    for i in 0..SERVICES {
        let _ = write!(
            text,
            "[bucket.b{i}]\n[service.s{i}]\nowns = [\"b{i}\"]\nreads = [\"b{}\"]\n",
            (i + 1) % SERVICES
        );
    }
    text
}

/// A line of a service that puts what another owns; `kinds` different ones.
fn line(number: usize, kinds: usize) -> String {
    let kind = number % kinds;
    let (service, victim) = (kind % SERVICES, (kind * 7 + 3) % SERVICES);
    format!(
        "[1] 2026/11/23 18:12:25.452348 [ERR] 127.0.0.1:51792 - cid:{service} - \"v2:rust:x\" - \
         \"APP/user:s{service}/UCRAFZAHGBQKZ5WVGGAZTW3N7PIO7NNEZC77U2TFP7DSBDSFHKEUCIHK/0123456789ab\" \
         - Publish Violation - Subject \"$KV.b{victim}.k{kind}\"\n"
    )
}

/// Resident now, in MiB, as the kernel has it.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn follow(store: &Arc<Store>, kinds: usize) -> Option<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let (send, pieces) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut piece = String::new();
        for number in 0..LINES {
            piece.push_str(&line(number, kinds));
            if piece.len() > 60_000 || number + 1 == LINES {
                let _ = send.blocking_send(std::mem::take(&mut piece).into_bytes());
            }
        }
    });
    let options = Options {
        window: SignedDuration::from_secs(60),
        zone: TimeZone::UTC,
        server: Some("nats-1".to_owned()),
        service: "violations".to_owned(),
        publishes: false,
    };
    let lifetime = Duration::from_secs(3600);
    let explainer = Explainer::new(Defaults {
        account: "APP".into(),
        lifetime,
        audit: solewriter_core::grant::AuditStreams::default(),
    });
    let input = Input::Stream(pieces, Lines::default());
    let state = State { instance: "bench".to_owned(), ..State::default() };
    let follower = Follower::new(options, input, explainer, Some(store.clone()), state, None);
    let (_stop, stopped) = watch::channel(false);
    let began = Instant::now();
    let tally = runtime.block_on(follower.run(stopped)).ok()?;
    let rate = LINES as f64 / began.elapsed().as_secs_f64();
    (tally.violations == LINES as u64).then_some(rate)
}

fn main() -> ExitCode {
    let store = Arc::new(Store::new());
    let Ok(validated) = validate(&[SourceFile::new("p.toml", policy())]) else {
        println!("the policy does not hold");
        return ExitCode::FAILURE;
    };
    store.replace(validated, None, Timestamp::UNIX_EPOCH);
    let lines: Vec<String> = (0..10_000).map(|number| line(number, LINES)).collect();
    let began = Instant::now();
    let seen = (0..LINES)
        .filter(|n| {
            let line = lines.get(n % 10_000).map_or("", |line| line.trim_end());
            matches!(parse(line.as_bytes()), Line::Refusal(_))
        })
        .count();
    println!(
        "read and understood: {:.0} lines/s ({seen} of {LINES} are violations)",
        LINES as f64 / began.elapsed().as_secs_f64()
    );
    let mut least = f64::MAX;
    let mut sizes = Vec::new();
    for (what, kinds) in [
        ("a thousand violations, repeated", 1000),
        ("each unlike any other", LINES),
        ("each unlike any other, again", LINES),
    ] {
        let Some(rate) = follow(&store, kinds) else {
            println!("{what}: not every line was seen");
            return ExitCode::FAILURE;
        };
        sizes.push(memory());
        println!("{what}: {rate:.0} lines/s, {} MiB resident", memory());
        if kinds < LINES {
            least = rate;
        }
    }
    let grew =
        sizes.last().copied().unwrap_or(0).saturating_sub(sizes.get(1).copied().unwrap_or(0));
    if least < LEAST || grew > GROWTH {
        println!("fewer than {LEAST} lines/s, or memory that grows ({sizes:?} MiB)");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
