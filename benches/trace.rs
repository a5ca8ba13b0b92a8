//! How fast nats-server's trace is read: `cargo bench --bench trace`. One thread; a trace of two
//! servers, one older than 2.12, with 500 connections that put and get keys, publish, ask and
//! answer. It is read alone, then held against a policy of 500 services. What only counts the line
//! breaks of the same bytes, in the same run, is the measure for both.
//!
//! Less than 200 MB/s read, or memory that grows with the length of the trace, is a failure.

// What a benchmark is for is to print.
#![allow(clippy::print_stdout, clippy::cast_precision_loss)]

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use solewriter::adoption::deed::Deed;
use solewriter::adoption::draft::existing::Existing;
use solewriter::adoption::evidence::generalise::Level;
use solewriter::adoption::learn::Learner;
use solewriter::adoption::mapping::Mapping;
use solewriter::adoption::rehearsal::{Grants, Rehearsal};
use solewriter::adoption::trace::{Counts, Trace};
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::grant::{AuditStreams, Defaults};
use solewriter_core::policy::model::Policy;
use solewriter_core::policy::validate::validate;
use solewriter_types::server_log::lines::Lines;

const CONNECTIONS: usize = 500;
/// How much is generated, and how often that is read.
const BYTES: usize = 64 * 1024 * 1024;
const TIMES: usize = 16;
const LEAST: f64 = 200.0;
/// How much more memory reading all of it may take than reading it once, in MiB.
const GROWTH: u64 = 32;
/// What is read at a time.
const PIECE: usize = 256 * 1024;

fn trace() -> String {
    let mut text = String::with_capacity(BYTES + 4096);
    let mut number = 0;
    while text.len() < BYTES {
        let connection = number % CONNECTIONS;
        let newer = connection.is_multiple_of(2);
        let mut line = |said: &str| {
            let micros = number % 1_000_000;
            let port = 40_000 + connection;
            let process = if newer { 1 } else { 2 };
            let _ = write!(
                text,
                "[{process}] 2026/11/29 14:03:34.{micros:06} [TRC] 127.0.0.1:{port} - cid:{connection} - "
            );
            if newer && !said.contains("CONNECT") {
                let _ = write!(
                    text,
                    "\"v2.16.0:python3:s{connection}\" - \"OLD/user:s{connection}\" - "
                );
            }
            let _ = writeln!(text, "{said}");
        };
        if number < CONNECTIONS {
            line(&format!(
                "<<- [CONNECT {{\"echo\": true, \"headers\": true, \"lang\": \"python3\", \"name\": \
                 \"s{connection}\", \"no_responders\": true, \"pass\": \"[REDACTED]\", \"protocol\": 1, \
                 \"user\": \"s{connection}\", \"version\": \"2.16.0\"}}]"
            ));
            line(&format!("<<- [SUB _INBOX.s{connection}.*  1]"));
        }
        let inbox = format!("_INBOX.s{connection}.ljdfAlyw1wnV4M3OiFYj{number:08x}");
        match number % 4 {
            0 => {
                line(&format!("<<- [PUB $KV.b{connection}.k{} {inbox} 12]", number % 5000));
                line("<<- MSG_PAYLOAD: [\"P...\"]");
            }
            1 => {
                line(&format!(
                    "<<- [PUB $JS.API.DIRECT.GET.KV_b{connection}.$KV.b{connection}.k{} {inbox} 0]",
                    number % 5000
                ));
            }
            2 => {
                line(&format!("<<- [HPUB events.s{connection}.new {inbox} 39 47]"));
                line("<<- MSG_PAYLOAD: [\"N...\"]");
            }
            _ => line(&format!("<<- [PUB {inbox}  11]")),
        }
        line(&format!("->> [MSG {inbox} 1 30]"));
        line("->> MSG_PAYLOAD: [\"{...\"]");
        number += 1;
    }
    text
}

fn policy() -> Option<Policy> {
    let mut text = String::new();
    for i in 0..CONNECTIONS {
        let _ = write!(
            text,
            "[bucket.b{i}]\n[service.s{i}]\nowns = [\"b{i}\"]\npublishes = [\"events.s{i}.>\"]\n\
             answers = [\"quotes.s{i}\"]\n"
        );
    }
    Some(validate(&[SourceFile::new("p.toml", text)]).ok()?.policy)
}

/// Resident now, in MiB, as the kernel has it.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Reads the trace so many times, and gives how long it took.
fn read(text: &str, times: usize, mut deed: impl FnMut(Deed<'_>)) -> (Counts, Duration) {
    let mut trace = Trace::new();
    let source = trace.source();
    let mut lines = Lines::default();
    let began = Instant::now();
    for _ in 0..times {
        for piece in text.as_bytes().chunks(PIECE) {
            lines.feed(piece, |line| trace.line(source, line, &mut deed));
        }
    }
    (trace.counts(), began.elapsed())
}

fn main() -> ExitCode {
    let text = trace();
    let began = Instant::now();
    let breaks: usize =
        (0..TIMES).map(|_| memchr::memchr_iter(b'\n', text.as_bytes()).count()).sum();
    let least = began.elapsed();
    let all = (text.len() * TIMES) as f64 / 1e6;
    let show = |what: &str, took: Duration| {
        let seconds = took.as_secs_f64();
        println!(
            "{what}: {:.0} MB/s, {:.0} lines/s, {:.1} times as long as the line breaks; {} MiB resident",
            all / seconds,
            breaks as f64 / seconds,
            seconds / least.as_secs_f64(),
            memory()
        );
    };
    println!("{all:.0} MB, {breaks} lines, {} bytes each", text.len() * TIMES / breaks.max(1));
    show("line breaks counted", least);
    let (_, _) = read(&text, 1, |_| ());
    let before = memory();
    let (counts, took) = read(&text, TIMES, |_| ());
    show("read", took);
    println!("{} things that {} clients did", counts.deeds, counts.connections);
    let whole = counts.lines == breaks as u64 && counts.strange == 0;
    let Some(policy) = policy() else {
        println!("the policy does not hold");
        return ExitCode::FAILURE;
    };
    let defaults = Defaults {
        account: "APP".into(),
        lifetime: Duration::from_secs(3600),
        audit: AuditStreams::default(),
    };
    let Ok(grants) = Grants::of(&policy, &defaults) else {
        println!("a service gets nothing");
        return ExitCode::FAILURE;
    };
    let mut rehearsal = Rehearsal::new(&policy, &grants, Mapping::default());
    let (_, rehearsed) = read(&text, TIMES, |deed| {
        rehearsal.take(&deed);
    });
    show("read, and held against a policy", rehearsed);
    println!("{} would be refused", rehearsal.refused());
    let mut learner = Learner::new(Mapping::default(), Existing::default(), Level::Careful);
    let (_, learned) = read(&text, TIMES, |deed| learner.take(&deed));
    show("read, and learned from", learned);
    let (files, _) = learner.finish();
    println!("{} bytes of a draft", files.iter().map(|(_, text)| text.len()).sum::<usize>());
    let grew = memory().saturating_sub(before);
    let rate = all / took.as_secs_f64();
    let learning = all / learned.as_secs_f64();
    if !whole || rate.min(learning) < LEAST || grew > GROWTH || rehearsal.refused() > 0 {
        println!("less than {LEAST} MB/s, memory that grew by {grew} MiB, or not what was meant");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
