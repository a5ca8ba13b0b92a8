//! Who owns and reads which bucket and which object store.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::case::{Case, Deeds, names, services};
use super::existing::Config;
use super::page::{Item, Table};
use crate::adoption::evidence::fact::Fact;
use crate::adoption::evidence::generalise::Level;
use solewriter_types::keyspace::{BucketName, Keyspace, KeyspaceError};
use solewriter_types::kv_operation::{STORE_PREFIX, STORE_STREAM, store_stream};

/// From how many parts on a reader gets the whole bucket.
const MOST_PARTS: usize = 16;

/// The keys of a pattern. None may end in `*`, so `>` stands there.
fn keyspace(bucket: &BucketName, pattern: &str) -> Result<Keyspace, KeyspaceError> {
    let open = match pattern.strip_suffix('*') {
        Some(above) if above.is_empty() || above.ends_with('.') => format!("{above}>"),
        _ => pattern.to_owned(),
    };
    Keyspace::parse(&format!("{bucket}/{open}"))
}

/// Declares all buckets and stores, and gives them to those who use them.
pub fn decide(case: &mut Case<'_>) {
    let mut buckets = BTreeSet::new();
    let mut stores = BTreeSet::new();
    for deeds in case.deeds(|_| true) {
        match deeds.fact {
            Fact::Writes(b) | Fact::Purges(b) | Fact::Reads(b) | Fact::Opens(b) => {
                buckets.insert(b.clone());
            }
            Fact::WritesStore(store) | Fact::ReadsStore(store) => {
                stores.insert(store.clone());
            }
            _ => {}
        }
    }
    for stream in case.existing.streams.iter().flatten() {
        let named = |prefix| BucketName::parse(stream.name().strip_prefix(prefix)?).ok();
        buckets.extend(named("KV_"));
        stores.extend(named(STORE_STREAM));
    }
    for name in &buckets {
        bucket(case, name);
    }
    for name in &stores {
        store(case, name);
    }
}

/// A table for what is kept in a stream, with the settings that it has.
fn table(case: &Case<'_>, header: String, stream: &str, store: bool) -> Table {
    let mut table = Table { header, ..Table::default() };
    match case.existing.stream(stream) {
        Some(found) => {
            let config = Config(&found.config);
            let settings = if store { config.store() } else { config.bucket() };
            table.items.extend(settings.into_iter().map(|(k, v)| Item::setting(k, v, "")));
        }
        None if case.existing.streams.is_some() => {
            table.notes.push(format!("It was used, and there is no stream {stream} now."));
        }
        None => {}
    }
    table
}

fn bucket(case: &mut Case<'_>, name: &BucketName) {
    let writing = case.deeds(
        |fact| matches!(fact, Fact::Writes(bucket) | Fact::Purges(bucket) if bucket == name),
    );
    let writing: Vec<&Deeds<'_>> = writing.iter().collect();
    let mut declared = table(case, format!("bucket.{name}"), &format!("KV_{name}"), false);
    let owner = sole(&writing).map(Arc::clone);
    if let Some(owner) = &owner {
        let mut facts: Vec<Fact> = writing.iter().map(|deeds| deeds.fact.clone()).collect();
        facts.extend([Fact::Reads(name.clone()), Fact::Opens(name.clone())]);
        let note = noted("writes", &writing);
        case.grant(owner, Item::element("owns", name.as_str(), note, facts));
    } else if !writing.is_empty() {
        let number = several_writers(case, name, &writing);
        declared.notes.push(format!("Several services write it: see QUESTION {number}."));
    } else {
        declared.notes.push("Nobody was seen to write it.".to_owned());
    }
    let direct = case
        .existing
        .stream(&format!("KV_{name}"))
        .is_none_or(|found| found.config.get("allow_direct") == Some(&true.into()));
    case.tables.push(declared);
    let reading = case
        .deeds(|fact| matches!(fact, Fact::Reads(bucket) | Fact::Opens(bucket) if bucket == name));
    let mut done: BTreeSet<Arc<str>> = owner.into_iter().collect();
    for deeds in &reading {
        if !done.insert(Arc::clone(deeds.service)) {
            continue;
        }
        let own: Vec<&Deeds<'_>> = reading.iter().filter(|d| d.service == deeds.service).collect();
        reader(case, name, &own, direct);
    }
}

/// The one known service of them.
fn sole<'d>(deeds: &[&Deeds<'d>]) -> Option<&'d Arc<str>> {
    let first = deeds.first()?;
    (first.is_known() && services(deeds) == 1).then_some(first.service)
}

fn noted(what: &str, deeds: &[&Deeds<'_>]) -> String {
    let mut tally = crate::adoption::evidence::tally::Tally::default();
    for deeds in deeds {
        tally.merge(&deeds.record.tally);
    }
    format!("{what} {tally}")
}

fn reader(case: &mut Case<'_>, name: &BucketName, deeds: &[&Deeds<'_>], direct: bool) {
    let Some(service) = deeds.first().map(|deeds| Arc::clone(deeds.service)) else { return };
    let facts: Vec<Fact> = deeds.iter().map(|deeds| deeds.fact.clone()).collect();
    let reads = deeds.iter().find(|deeds| matches!(deeds.fact, Fact::Reads(_)));
    let patterns = reads.map(|deeds| case.patterns(deeds)).unwrap_or_default();
    let whole = |case: &mut Case<'_>, note: String| {
        case.grant(&service, Item::element("reads", name.as_str(), note, facts.clone()));
    };
    let note = noted(if reads.is_some() { "reads" } else { "only opens" }, deeds);
    if patterns.is_empty() || patterns.iter().any(|seen| seen.pattern == ">") {
        return whole(case, note);
    }
    if !direct {
        let why = "a part of it cannot be read alone, because it has no direct gets";
        return whole(case, format!("{note}; {why}"));
    }
    let parts: Vec<_> = patterns.iter().map(|s| (keyspace(name, &s.pattern), &s.tally)).collect();
    let of_all = |(part, _): &(Result<Keyspace, _>, _)| {
        part.as_ref().is_ok_and(|part: &Keyspace| part.part().is_none())
    };
    if parts.len() > MOST_PARTS || parts.iter().any(of_all) {
        return whole(case, note);
    }
    for (part, tally) in parts {
        match part {
            Ok(part) => {
                let note = format!("reads {tally}");
                let facts = facts.clone();
                case.grant(&service, Item::element("reads", &part.to_string(), note, facts));
            }
            Err(error) => {
                if let Some(reads) = reads {
                    case.refuse(reads, format!("no policy can name a key of it: {error}"));
                }
            }
        }
    }
}

/// Two writers of one bucket: neither owns it, until a person says who does.
fn several_writers(case: &mut Case<'_>, name: &BucketName, writing: &[&Deeds<'_>]) -> usize {
    let who = names(writing);
    let message = format!("bucket {name} is written by {who}");
    case.conflict("bucket-writers", message, writing);
    let mut known: Vec<&Arc<str>> =
        writing.iter().filter(|deeds| deeds.is_known()).map(|deeds| deeds.service).collect();
    known.sort_unstable();
    known.dedup();
    let mut choices: Vec<String> = known
        .iter()
        .map(|service| format!("in [service.{service}]: owns = [\"{name}\"]"))
        .collect();
    if let Some(parts) = apart(case.level, name, writing) {
        let each = parts.iter().map(|(service, parts)| {
            format!("in [service.{service}]: owns = [\"{}\"]", parts.join("\", \""))
        });
        choices.push(format!(
            "each its part: {}; in [bucket.{name}]: part_owners = true, rollup = false, \
             duplicate_window = \"100ms\"",
            each.collect::<Vec<_>>().join("; ")
        ));
    }
    choices.push("who does not own it asks the owner, or gets a bucket of its own".to_owned());
    case.ask(format!("who owns bucket {name}? It is written by {who}"), writing, choices)
}

/// The parts of a bucket that services write, if no key is in two of them.
fn apart(
    level: Level,
    name: &BucketName,
    writing: &[&Deeds<'_>],
) -> Option<Vec<(Arc<str>, Vec<String>)>> {
    if writing.iter().any(|deeds| !deeds.is_known() || matches!(deeds.fact, Fact::Purges(_))) {
        return None;
    }
    let at = |level: Level| {
        let of = |deeds: &&Deeds<'_>| {
            let patterns = deeds.record.subjects.patterns(level);
            let parts = patterns.iter().map(|seen| keyspace(name, &seen.pattern).ok());
            let parts: Option<Vec<Keyspace>> = parts.collect();
            Some((Arc::clone(deeds.service), parts?))
        };
        let all: Vec<(Arc<str>, Vec<Keyspace>)> = writing.iter().map(of).collect::<Option<_>>()?;
        let meets = |one: &[Keyspace], two: &[Keyspace]| {
            one.iter().any(|a| two.iter().any(|b| a.shared_key(b).is_some()))
        };
        let whole = |parts: &[Keyspace]| parts.iter().any(|part| part.part().is_none());
        let clear = all.iter().enumerate().all(|(i, (_, one))| {
            !whole(one)
                && one.len() <= MOST_PARTS
                && all.iter().skip(i + 1).all(|(_, two)| !meets(one, two))
        });
        clear.then_some(all)
    };
    let all = at(Level::Wide).or_else(|| at(level))?;
    let text = |parts: Vec<Keyspace>| parts.iter().map(ToString::to_string).collect();
    Some(all.into_iter().map(|(service, parts)| (service, text(parts))).collect())
}

fn store(case: &mut Case<'_>, name: &BucketName) {
    let writing = case.deeds(|fact| matches!(fact, Fact::WritesStore(store) if store == name));
    let writing: Vec<&Deeds<'_>> = writing.iter().collect();
    let entry = format!("{STORE_PREFIX}{name}");
    let mut declared = table(case, format!("store.{name}"), &store_stream(name.as_str()), true);
    let owner = sole(&writing).map(Arc::clone);
    if let Some(owner) = &owner {
        let facts = vec![Fact::WritesStore(name.clone()), Fact::ReadsStore(name.clone())];
        case.grant(owner, Item::element("owns", &entry, noted("writes", &writing), facts));
    } else if !writing.is_empty() {
        let who = names(&writing);
        case.conflict(
            "store-writers",
            format!("object store {name} is written by {who}"),
            &writing,
        );
        let known = writing.iter().filter(|deeds| deeds.is_known());
        let mut choices: Vec<String> =
            known.map(|d| format!("in [service.{}]: owns = [\"{entry}\"]", d.service)).collect();
        choices.push("who does not own it asks the owner, or gets a store of its own".to_owned());
        let question = format!("who owns object store {name}? It is written by {who}");
        let number = case.ask(question, &writing, choices);
        declared.notes.push(format!("Several services write it: see QUESTION {number}."));
    } else {
        declared.notes.push("Nobody was seen to write it.".to_owned());
    }
    case.tables.push(declared);
    let reading = case.deeds(|fact| matches!(fact, Fact::ReadsStore(store) if store == name));
    for deeds in reading.iter().filter(|deeds| Some(deeds.service) != owner.as_ref()) {
        let note = format!("reads {}", deeds.record.tally);
        case.grant(deeds.service, Item::element("reads", &entry, note, vec![deeds.fact.clone()]));
    }
}
