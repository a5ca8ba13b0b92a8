//! What a large policy costs: `cargo bench --bench policy`.
//!
//! 10,000 services, 20,000 buckets and 100,000 keyspaces in 100 files: how long it takes to
//! validate; how long from a changed file to the first answer to a server's signed request by the
//! new revision, in the code that `serve` runs; and how much memory a process has before, with one policy, and at most while
//! policies are swapped. A validation of more than ten times what was promised (a second on one
//! core) fails, so that a pairwise comparison cannot come in unnoticed; and so does memory that
//! grows from swap to swap.

// What a benchmark is for is to print.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use solewriter::audit::Recorder;
use solewriter::policy_source::directory::Directory;
use solewriter::policy_source::follower::Follower;
use solewriter::policy_source::snapshot_store::{Snapshot, Store};
use solewriter::policy_source::status::SourceStatus;
use solewriter::policy_source::watcher::{Timing, Watcher};
use solewriter::telemetry::Metrics;
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::grant::Defaults;
use solewriter_core::keys::{Seed, Signer, User};
use solewriter_core::policy::validate::validate;
use solewriter_types::audit_event::{PRODUCER, Source};

#[path = "../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

use support::Bench;

const FILES: usize = 100;
const SERVICES: usize = 10_000;
const RUNS: usize = 5;
const LIMIT: Duration = Duration::from_secs(10);
/// How often the directory is changed.
const CHANGES: usize = 12;

/// Per service: two buckets (one of them with owners of parts), six keyspaces that it owns, four
/// that it reads, and a few plain subjects.
fn service(text: &mut String, i: usize, client: &str) {
    let key = match i {
        0 => client.to_owned(),
        _ => Signer::new(&Seed::<User>::generate()).unwrap().public().to_string(),
    };
    let other = (i * 7919 + 1) % SERVICES;
    let _ = write!(
        text,
        "\
[bucket.b{i}]
history = 5

[bucket.shared{i}]
part_owners = true
rollup = false
duplicate_window = \"100ms\"

[service.s{i}]
nkeys = [\"{key}\"]
owns = [
    \"b{i}\", \"shared{i}/a.>\", \"shared{i}/*.x.>\", \"shared{i}/c.1\", \"shared{i}/c.2\",
    \"shared{other}/d.{i}.>\",
]
reads = [\"b{other}\", \"shared{other}/a.>\", \"shared{other}/e.>\", \"shared{other}/c.1\"]
publishes = [\"events.s{i}.>\"]
subscribes = [\"events.s{other}.>\", \"events.*.closed\"]
answers = [\"svc.s{i}.>\"]
calls = [\"svc.s{other}.get\"]

"
    );
}

fn main() {
    let before = memory();
    let bench = Bench::plain();
    let files = files(&bench.client.public_key());
    validation(&files);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(change(&files, &bench, before)),
        Err(error) => {
            println!("{error}");
            std::process::exit(1);
        }
    }
}

/// `client` is the key of the first service.
fn files(client: &str) -> Vec<SourceFile> {
    let per_file = SERVICES / FILES;
    (0..FILES)
        .map(|file| {
            let mut text = String::new();
            (file * per_file..(file + 1) * per_file).for_each(|i| service(&mut text, i, client));
            SourceFile::new(format!("{file:03}.toml"), text)
        })
        .collect()
}

fn validation(files: &[SourceFile]) {
    let bytes: usize = files.iter().map(|file| file.text().len()).sum();
    println!("{SERVICES} services in {FILES} files, {} KiB", bytes / 1024);
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        let validated = validate(files);
        let took = start.elapsed();
        best = best.min(took);
        match validated {
            Ok(valid) => {
                let rules: usize = valid.policy.services().iter().map(|s| s.rules.len()).sum();
                let (buckets, summary) = (valid.policy.buckets().len(), valid.warnings.summary());
                println!("{took:?}: {buckets} buckets, {rules} rules, {summary}");
            }
            Err(problems) => {
                let first = problems.iter().next().map(ToString::to_string).unwrap_or_default();
                println!("{took:?}: {}\n{first}", problems.summary());
                std::process::exit(1);
            }
        }
    }
    println!("best of {RUNS}: {best:?}");
    if best > LIMIT {
        println!("slower than {LIMIT:?}");
        std::process::exit(1);
    }
}

/// What the kernel says of this process, in KiB: resident now, and the most that ever was.
fn memory() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    };
    (of("VmRSS").unwrap_or(0), of("VmHWM").unwrap_or(0))
}

fn write(dir: &Path, files: &[SourceFile]) -> std::io::Result<()> {
    files.iter().try_for_each(|file| std::fs::write(dir.join(&**file.name()), file.text()))
}

/// What follows the policy, with nothing in force yet.
fn follower() -> Follower {
    let metrics = Metrics::new();
    let defaults = Defaults {
        account: "APP".into(),
        lifetime: Duration::from_secs(3600),
        audit: solewriter_core::grant::AuditStreams::default(),
    };
    Follower {
        temporary: Arc::default(),
        store: Arc::new(Store::new()),
        source_status: Arc::new(SourceStatus::new(
            "the benchmark".to_owned(),
            Duration::from_secs(3600),
        )),
        recorder: Recorder::to_the_log(
            Source::new(PRODUCER, jiff::Timestamp::UNIX_EPOCH, 0),
            metrics.clone(),
        ),
        defaults,
        metrics,
        keeper: None,
        validator: Arc::default(),
        judge: None,
        quota: solewriter::policy_source::tenancy::Quota::default(),
        neighbourhood: Arc::default(),
        warned: Arc::default(),
    }
}

/// From a changed file to the first answer by the new revision, many times over.
async fn change(files: &[SourceFile], bench: &Bench, before: (u64, u64)) {
    let dir = std::env::temp_dir().join(format!("solewriter-bench-{}", std::process::id()));
    if let Err(error) = std::fs::create_dir(&dir).and_then(|()| write(&dir, files)) {
        println!("{}: {error}", dir.display());
        std::process::exit(1);
    }
    let directory = Directory::new(&dir);
    let settle = Timing::default().settle;
    let watcher = Watcher::start(directory.clone(), Timing::default());
    let follower = follower();
    let began = follower.begin(directory.read());
    let store = follower.store.clone();
    let hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup());
    let (Ok(()), Ok(hangup)) = (began, hangup) else { std::process::exit(1) };
    let one = memory();
    let following =
        tokio::spawn(solewriter::policy_source::follower::directory(follower, watcher, hangup));

    // What a server asks when the first service connects; verified, decided and answered.
    let request = bench.signed(&bench.claims());
    let mut took = Vec::new();
    let mut grown = Vec::new();
    for change in 0..CHANGES {
        let Some(was) = store.current() else { std::process::exit(1) };
        let file = dir.join("000.toml");
        let old = files.first().map(SourceFile::text).unwrap_or_default();
        let new = old.replace("events.s0.>", &format!("events.s0.{change}"));
        let start = Instant::now();
        // Aside and renamed, as an editor does.
        let aside = dir.join("new");
        let written = std::fs::write(&aside, new);
        if written.and_then(|()| std::fs::rename(&aside, &file)).is_err() {
            std::process::exit(1);
        }
        loop {
            let snapshot = store.current();
            let is_new = |now: &Arc<Snapshot>| now.policy.revision() != was.policy.revision();
            if let Some(now) = snapshot.filter(is_new) {
                let authorised = bench.authorizer.authorise(
                    &request,
                    None,
                    (&bench.decider, &now.policy),
                    &Bench::moment(),
                );
                let authorised = authorised.unwrap();
                assert_eq!(authorised.decision.unwrap().revision(), now.policy.revision());
                assert!(!authorised.answer.unwrap().is_empty());
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        took.push(start.elapsed());
        drop(was);
        grown.push(memory().0);
    }
    following.abort();
    let _ = std::fs::remove_dir_all(&dir);
    took.sort_unstable();
    if let [best, .., worst] = took.as_slice()
        && let Some(median) = took.get(took.len() / 2)
    {
        println!(
            "from a changed file to the first signed answer by it, of {CHANGES}: best {best:.0?}, \
             median {median:.0?}, worst {worst:.0?}, of which {settle:?} is waiting for the files \
             to settle"
        );
    }
    let mib = |kib: u64| kib / 1024;
    let (now, most) = memory();
    println!(
        "memory: {} MiB with nothing, {} MiB with one policy and its texts, {} MiB after \
         {CHANGES} swaps, {} MiB at most",
        mib(before.0),
        mib(one.0),
        mib(now),
        mib(most),
    );
    // The first few fill what the allocator keeps.
    let (early, late) = (grown.get(CHANGES / 2).copied(), grown.last().copied());
    if let (Some(early), Some(late)) = (early, late)
        && late > early + early / 4
    {
        println!("memory grows from swap to swap: {grown:?} KiB");
        std::process::exit(1);
    }
}
