//! How long a large policy takes to validate: `cargo bench --bench policy`.
//!
//! 10,000 services, 20,000 buckets and 100,000 keyspaces in 100 files. A run that takes more than
//! ten times what was promised (a second on one core) fails, so that a pairwise comparison cannot
//! come in unnoticed.

// What a benchmark is for is to print.
#![allow(clippy::print_stdout)]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use solewriter::keys::{Seed, Signer, User};
use solewriter::policy::validate::validate;
use solewriter::source::SourceFile;

const FILES: usize = 100;
const SERVICES: usize = 10_000;
const RUNS: usize = 5;
const LIMIT: Duration = Duration::from_secs(10);

/// Per service: two buckets (one of them with owners of parts), six keyspaces that it owns, four
/// that it reads, and a few plain subjects.
fn service(text: &mut String, i: usize) {
    let key = Signer::new(&Seed::<User>::generate()).map(|signer| signer.public().to_string());
    let key = key.unwrap_or_default();
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
    let per_file = SERVICES / FILES;
    let files: Vec<SourceFile> = (0..FILES)
        .map(|file| {
            let mut text = String::new();
            (file * per_file..(file + 1) * per_file).for_each(|i| service(&mut text, i));
            SourceFile::new(format!("{file:03}.toml"), text)
        })
        .collect();
    let bytes: usize = files.iter().map(|file| file.text().len()).sum();
    println!("{SERVICES} services in {FILES} files, {} KiB", bytes / 1024);
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        let validated = validate(&files);
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
