//! Runs the folders of `tests/fixtures`: a policy in, whole messages out. `README.md` there says
//! how to add one; no Rust is needed for it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use solewriter::policy_source::directory::Directory;
use solewriter_core::diagnostics::render::Style;
use solewriter_core::diagnostics::{Problems, SourceFile};
use solewriter_core::policy::model::{Bucket, Policy, Service, Store, Stream};
use solewriter_core::policy::validate::{DEFAULTS_FILE, Validated, validate};
use solewriter_types::subject::Pattern;

/// Set to anything, writes what is found instead of comparing.
const UPDATE: &str = "UPDATE_FIXTURES";

#[test]
fn every_fixture_is_as_expected() {
    let mut failures = String::new();
    for case in super::cases("tests/fixtures") {
        run(&case, &mut failures);
    }
    super::all_as_expected(UPDATE, &failures);
}

fn run(case: &Path, failures: &mut String) {
    let found = Directory::new(case.join("policy")).read().and_then(|files| validate(&files));
    // Where the repository lies is nobody's business.
    let place = format!("{}/", case.display());
    let text = problems(&found).replace(&place, "");
    compare(&case.join("problems.txt"), Some(text), true, failures);
    let json = serde_json::to_string_pretty(list(&found)).unwrap().replace(&place, "") + "\n";
    compare(&case.join("problems.json"), Some(json), false, failures);
    let policy = found.as_ref().ok().map(|validated| describe(&validated.policy));
    compare(&case.join("policy.txt"), policy, false, failures);
}

/// Compares a file with what it should hold. A file that is not `required` is only looked at when
/// it is there.
fn compare(expected: &Path, found: Option<String>, required: bool, failures: &mut String) {
    if !required && !expected.exists() {
        return;
    }
    let found = found.unwrap_or_else(|| "there is no policy: it has errors\n".to_owned());
    super::golden(UPDATE, expected, &found, failures);
}

fn list(found: &Result<Validated, Problems>) -> &Problems {
    match found {
        Ok(validated) => &validated.warnings,
        Err(problems) => problems,
    }
}

fn problems(found: &Result<Validated, Problems>) -> String {
    let problems = list(found);
    format!("{}{}\n", problems.render(Style::Plain), problems.summary())
}

/// What the policy comes to, one service after another.
fn describe(policy: &Policy) -> String {
    let buckets: String = policy.buckets().iter().map(describe_bucket).collect();
    let streams: String = policy.streams().iter().map(describe_stream).collect();
    let stores: String = policy.stores().iter().map(describe_store).collect();
    let services: String =
        policy.services().iter().map(|service| describe_service(service)).collect();
    buckets + &streams + &stores + &services
}

fn describe_stream(stream: &Stream) -> String {
    let subjects: Vec<&str> = stream.subjects.iter().map(Pattern::as_str).collect();
    let mut text = format!(
        "stream {}: {}, {}, age {:?}, duplicates {:?}, {} x{}, discard {}",
        stream.name,
        subjects.join(" "),
        stream.retention.as_str(),
        stream.max_age,
        stream.duplicate_window,
        stream.storage.as_str(),
        stream.replicas,
        stream.discard.as_str()
    );
    for (name, most) in [
        ("bytes", stream.max_bytes),
        ("messages", stream.max_messages),
        ("of a subject", stream.max_per_subject),
        ("of a message", stream.max_message_size),
    ] {
        if let Some(most) = most {
            let _ = write!(text, ", {name} {most}");
        }
    }
    for (name, set) in [("compression", stream.compression), ("direct", stream.direct)] {
        if set {
            let _ = write!(text, ", {name}");
        }
    }
    for feature in &stream.features {
        let (major, minor) = feature.since();
        let _ = write!(text, ", {} ({major}.{minor})", feature.as_str());
    }
    if let Some(reason) = &stream.many_writers {
        let _ = write!(text, ", many writers: {reason}");
    }
    text.push('\n');
    for consumer in &stream.consumers {
        assert_eq!(stream.consumer(consumer.name.as_str()), Some(consumer));
        let filter: Vec<&str> = consumer.filter.iter().map(Pattern::as_str).collect();
        let _ = writeln!(
            text,
            "  consumer {}: [{}], ack {} within {:?} {:?}, deliveries {:?}, pending {:?}, {} {}, \
             inactive {:?}, shared {:?}",
            consumer.name,
            filter.join(" "),
            consumer.ack.as_str(),
            consumer.ack_wait,
            consumer.backoff,
            consumer.max_deliver,
            consumer.max_ack_pending,
            consumer.deliver.as_str(),
            consumer.replay.as_str(),
            consumer.inactive,
            consumer.shared,
        );
        let start = (consumer.start_sequence, consumer.start_time);
        if start != (None, None) {
            let _ = writeln!(text, "    from {start:?}");
        }
        if let Some(push) = &consumer.push {
            let _ = writeln!(text, "    {push:?}");
        }
        if let Some(priority) = &consumer.priority {
            let _ = writeln!(text, "    {priority:?}");
        }
    }
    text
}

fn describe_store(store: &Store) -> String {
    format!(
        "store {}: ttl {:?}, all {:?}, {} x{}, compression {}\n",
        store.name,
        store.ttl,
        store.max_bytes,
        store.storage.as_str(),
        store.replicas,
        store.compression
    )
}

fn describe_bucket(bucket: &Bucket) -> String {
    let mut text = format!("bucket {}: history {}", bucket.name, bucket.history);
    for (name, time) in [
        ("ttl", bucket.ttl),
        ("markers", bucket.limit_markers),
        ("duplicates", Some(bucket.duplicate_window)),
    ] {
        if let Some(time) = time {
            let _ = write!(text, ", {name} {time:?}");
        }
    }
    for (name, size) in [("value", bucket.max_value_size), ("all", bucket.max_bytes)] {
        if let Some(size) = size {
            let _ = write!(text, ", {name} {size} B");
        }
    }
    let (storage, discard) = (bucket.storage.as_str(), bucket.discard.as_str());
    let _ = write!(text, ", {storage} x{}, discard {discard}", bucket.replicas);
    for (name, set) in [
        ("compression", bucket.compression),
        ("direct", bucket.direct),
        ("key ttl", bucket.key_ttl),
        ("rollup", bucket.rollup),
        ("part owners", bucket.part_owners),
    ] {
        if set {
            let _ = write!(text, ", {name}");
        }
    }
    text + "\n"
}

fn describe_service(service: &Service) -> String {
    let mut text = format!("{}\n", service.name);
    for key in &service.keys {
        let _ = write!(text, "  key {}", key.key);
        for (name, time) in [("from", key.not_before), ("until", key.not_after)] {
            if let Some(time) = time {
                let _ = write!(text, " {name} {}", jiff::Timestamp::from_second(time).unwrap());
            }
        }
        text.push('\n');
    }
    for rule in &service.rules {
        let role = rule.role().map(|role| format!(", role {role}")).unwrap_or_default();
        let _ = writeln!(text, "  {} ({}{role})", rule.access, rule.at);
    }
    if let Some(account) = &service.account {
        let _ = writeln!(text, "  account {account}");
    }
    if let Some(lifetime) = service.lifetime {
        let _ = writeln!(text, "  lifetime {lifetime:?}");
    }
    for network in &service.sources {
        let _ = writeln!(text, "  from {network}");
    }
    for kind in &service.connections {
        let _ = writeln!(text, "  over {kind}");
    }
    if let Some(reason) = &service.disabled {
        let _ = writeln!(text, "  disabled: {reason}");
    }
    text
}

/// Every TOML block of the page, each as a file of one policy.
#[test]
fn the_examples_of_the_documentation_hold_together() {
    let page = include_str!("../../docs/policy.md");
    let files: Vec<SourceFile> = page
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .enumerate()
        .map(|(i, text)| {
            // The table for everybody has a file of its own.
            let is_defaults = text.starts_with("[defaults]");
            let name =
                if is_defaults { DEFAULTS_FILE.to_owned() } else { format!("example {}", i + 1) };
            SourceFile::new(name, text)
        })
        .collect();
    assert!(files.len() > 4);
    if let Err(problems) = validate(&files) {
        panic!("{problems}");
    }
}

/// A code that is not in the documentation cannot be looked up.
#[test]
fn every_code_that_a_fixture_shows_is_documented() {
    let page = include_str!("../../docs/policy.md");
    let root = super::repository().join("tests/fixtures");
    for case in fs::read_dir(root).unwrap() {
        let text = fs::read_to_string(case.unwrap().path().join("problems.txt"));
        for line in text.unwrap_or_default().lines() {
            let Some((severity, rest)) = line.split_once('[') else { continue };
            if let ("error" | "warning" | "note", Some((code, _))) =
                (severity, rest.split_once(']'))
            {
                assert!(page.contains(&format!("`{code}`")), "{code} is not in docs/policy.md");
            }
        }
    }
}
