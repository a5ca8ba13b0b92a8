//! Changes of the policy under load: none is mixed, none costs anybody anything.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use solewriter::policy_source::directory::Directory;
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::grant::{Defaults, Grant};
use solewriter_core::policy::validate::validate;
use tokio::task::JoinHandle;

use super::bucket::{ONE, TWO, bucket, prepared, push, push_unasked, serves};
use super::deployment::{Deployment, Prepared, eventually};
use super::raw::Raw;

/// How often the policy is swapped.
const SWAPS: u64 = 100;

/// Connections, one after the other, until told to stop. Gives how many came in.
struct Stream {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<usize>>,
}

impl Stream {
    /// Begins, with that many at a time.
    fn of(deployment: &Deployment, service: &str, at_a_time: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..at_a_time)
            .map(|_| {
                let (stop, url) = (stop.clone(), deployment.url().to_owned());
                let seed = deployment.service(service).seed;
                tokio::spawn(async move {
                    let mut entered = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let client = Raw::try_login(&url, &seed).await;
                        assert_eq!(client.map(drop), Ok(()), "after {entered} connections");
                        entered += 1;
                    }
                    entered
                })
            })
            .collect();
        Self { stop, clients }
    }

    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let mut entered = 0;
        for client in self.clients {
            entered += client.await.unwrap();
        }
        entered
    }
}

/// The revision of a directory, and the digest of what it grants a service.
fn revision_and_grant(dir: &std::path::Path, service: &str) -> (String, String) {
    let files = Directory::new(dir).read().unwrap();
    let policy = validate(&files).unwrap().policy;
    let defaults = Defaults {
        account: "APP".into(),
        lifetime: Duration::from_secs(3600),
        audit: solewriter_core::grant::AuditStreams::default(),
    };
    let grant = Grant::of(policy.service(service).unwrap(), &defaults).unwrap();
    (policy.revision().whole().to_owned(), grant.digest().to_string())
}

on_every_server!(a_hundred_swaps_of_a_directory_mix_nothing, much_room);
/// The directory is a link that is replaced a hundred times. It has many files, all of one version
/// or all of the other, and reading them takes longer than a swap.
async fn a_hundred_swaps_of_a_directory_mix_nothing(version: &'static str) {
    let mut deployment = Prepared::new().start_broker(version, ONE).await;
    let orders = deployment.service("orders").key();
    let policy = deployment.files.policy();
    let base = policy.parent().unwrap().to_owned();
    let buckets = std::fs::read_to_string(policy.join("buckets.toml")).unwrap();
    let versions: Vec<PathBuf> = (0..2)
        .map(|number| {
            let dir = base.join(format!("version-{number}"));
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("buckets.toml"), &buckets).unwrap();
            let text = format!(
                "[service.orders]\nnkeys = [\"{orders}\"]\nowns = [\"orders\"]\n\
                 publishes = [\"events.version{number}\"]\n"
            );
            std::fs::write(dir.join("orders.toml"), text).unwrap();
            for file in 0..200 {
                let text = format!("[service.s{file}]\npublishes = [\"version{number}.{file}\"]\n");
                std::fs::write(dir.join(format!("{file}.toml")), text).unwrap();
            }
            dir
        })
        .collect();
    let known: BTreeSet<(String, String)> =
        versions.iter().map(|dir| revision_and_grant(dir, "orders")).collect();
    let revisions: BTreeSet<&String> = known.iter().map(|(revision, _)| revision).collect();
    let grants: BTreeSet<&String> = known.iter().map(|(_, grant)| grant).collect();
    assert_eq!((revisions.len(), grants.len()), (2, 2));
    std::fs::remove_dir_all(&policy).unwrap();
    let point = |number: usize| {
        let aside = base.join("aside");
        symlink(&versions[number], &aside).unwrap();
        std::fs::rename(&aside, &policy).unwrap();
    };
    point(0);
    deployment.add_instance(&["--policy-poll", "1s"]).await;

    let stream = Stream::of(&deployment, "orders", 2);
    let changes =
        |lines: Vec<Value>| lines.iter().filter(|line| line["event"] == "policy_changed").count();
    let mut swap = 0;
    // On a busy machine few of them have time to settle: as many more as it takes.
    while swap < SWAPS || (changes(deployment.instances[0].lines()) < 5 && swap < 10 * SWAPS) {
        swap += 1;
        point(usize::try_from(swap % 2).unwrap());
        // Without and with time to settle, in turn.
        let pause = if swap % 10 < 5 { 3 } else { 300 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    point(1);
    let (last, _) = revision_and_grant(&versions[1], "orders");
    eventually("the last version in force", async || {
        let (_, report) = deployment.instances[0].get("/readyz").await;
        report.contains(&format!("revision {}, the newest", &last[..12])).then_some(())
    })
    .await;
    let entered = stream.end().await;
    assert!(entered > 50, "only {entered} connections");
    let instance = &deployment.instances[0];
    let lines = instance.lines();
    // Each connection has the whole of one version: its revision, and the grant of that one.
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let decided: BTreeSet<(String, String)> = lines
        .iter()
        .filter(|line| line["event"] == "authorisation")
        .map(|line| (text(&line["revision"]), text(&line["grant"])))
        .collect();
    assert_eq!(decided, known);
    let changes = lines.iter().filter(|line| line["event"] == "policy_changed");
    assert!(changes.clone().count() >= 5, "the swaps were seen");
    assert!(changes.clone().all(|line| revisions.contains(&text(&line["revision"]))));
    assert!(lines.iter().all(|line| line["outcome"] != "denied"), "nobody was refused");
}

/// How long the decisions of some log lines took, in microseconds, shortest first.
fn took(lines: &[Value]) -> Vec<u64> {
    let mut took: Vec<u64> = lines.iter().map(|line| line["took_us"].as_u64().unwrap()).collect();
    took.sort_unstable();
    took
}

fn part(sorted: &[u64], percent: usize) -> u64 {
    sorted[(sorted.len() - 1) * percent / 100]
}

on_every_server!(a_hundred_swaps_cost_no_authorisation, much_room);
/// A stream of connections, first without a change and then with a hundred.
async fn a_hundred_swaps_cost_no_authorisation(version: &'static str) {
    let mut deployment = prepared().start_broker(version, ONE).await;
    let (code, said) = push(&deployment, ONE, &[]).await;
    assert_eq!(code, 0, "{said}");
    deployment.add_instance(&[]).await;
    let bucket = bucket(&deployment).await;
    let policies: Vec<Vec<SourceFile>> = [TWO, ONE]
        .iter()
        .map(|text| {
            deployment.write_policy(text);
            Directory::new(deployment.files.policy()).read().unwrap()
        })
        .collect();

    let stream = Stream::of(&deployment, "orders", 2);
    let calm = deployment.instances[0].says_times("authorisation", 500).await;
    for swap in 0..SWAPS {
        let files = &policies[usize::try_from(swap % 2).unwrap()];
        let entry = push_unasked(&bucket, files).await.unwrap();
        assert_eq!(entry.number, swap + 2);
        serves(&mut deployment.instances[0], entry.number).await;
    }
    // Also after the last one.
    let all = deployment.instances[0].decisions().len();
    deployment.instances[0].says_times("authorisation", all + 20).await;
    let entered = stream.end().await;

    let lines = deployment.instances[0].says_times("authorisation", entered).await;
    assert!(lines.iter().all(|line| line["outcome"] == "granted"), "somebody was refused");
    let changes = deployment.instances[0].says_times("policy_changed", 100).await;
    assert_eq!(changes.len(), 100, "each revision was in force");
    for dropped in ["overloaded", "too_late", "slow_consumer"] {
        let name = format!("solewriter_dropped_requests_total{{reason=\"{dropped}\"}}");
        assert_eq!(deployment.instances[0].metric(&name).await, 0.0, "{dropped}");
    }
    let (calm, swapping) = (took(&calm), took(&lines[calm.len()..]));
    #[allow(clippy::cast_precision_loss)]
    let ratio = |percent| part(&swapping, percent) as f64 / part(&calm, percent).max(1) as f64;
    println!(
        "decisions: {} calm, {} while the policy was swapped {SWAPS} times; \
         median {} against {} µs (ratio {:.2}), 99% within {} against {} µs (ratio {:.2})",
        calm.len(),
        swapping.len(),
        part(&calm, 50),
        part(&swapping, 50),
        ratio(50),
        part(&calm, 99),
        part(&swapping, 99),
        ratio(99),
    );
    // Nobody waits for a swap: that would be milliseconds, not a part of one.
    assert!(ratio(50) < 5.0, "decisions take {:.1} times as long while policies change", ratio(50));
    // The slowest percent waits for a processor where there are few; not for a lock.
    assert!(ratio(99) < 20.0, "the slowest of them take {:.1} times as long", ratio(99));
}
