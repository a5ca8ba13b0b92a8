//! Declared buckets, and whether what services do with them is safe.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::draft::Draft;
use super::names::defined_twice;
use super::settings::{choice, domain, shown};
use super::times::{LEAST_WINDOW, check_least, window};
use crate::diagnostics::toml::nearest;
use crate::diagnostics::{Collector, Problem, Span, Spanned};
use crate::grant::AuditStreams;
use crate::policy::document::BucketEntry;
use crate::policy::model::{Access, Bucket, Discard, Location, Storage};
use solewriter_types::keyspace::BucketName;

/// The least that nats-server takes as `subject_delete_marker_ttl`.
const LEAST_MARKER: Duration = Duration::from_secs(1);

/// The largest `max_msg_size` that a stream's configuration can say.
const LARGEST_VALUE: u64 = i32::MAX as u64;

/// The declared buckets, and where each name stands.
#[derive(Default)]
pub struct Buckets {
    pub list: Vec<Bucket>,
    pub names: HashMap<BucketName, (usize, Span)>,
}

impl Buckets {
    fn get(&self, name: &BucketName) -> Option<(&Bucket, &Span)> {
        let (at, span) = self.names.get(name)?;
        Some((self.list.get(*at)?, span))
    }
}

/// A declaration by itself.
pub struct Declaration {
    bucket: Bucket,
    /// Where its name stands.
    name: Spanned<String>,
    copy_of: Option<Spanned<String>>,
}

/// Judges declarations, each by itself.
pub fn each(
    entries: Vec<BucketEntry>,
    audit: &AuditStreams,
    problems: &Collector,
) -> Vec<Declaration> {
    let declaration = |entry: BucketEntry| {
        let name = match BucketName::parse(&entry.name.value) {
            Ok(name) => name,
            Err(error) => {
                let text = shown(&entry.name.value);
                problems.push(
                    Problem::error("bad-name", format!("`{text}` cannot name a bucket: {error}"))
                        .at(&entry.name.span, "")
                        .help("a declaration is about a whole bucket: `[bucket.NAME]`"),
                );
                return None;
            }
        };
        let domain = domain(entry.domain.as_ref(), audit, problems);
        let bucket = Bucket { domain, ..bucket(name, &entry, problems) };
        if entry.copy_of.is_some() {
            check_settings_of_copy(&entry, problems);
        }
        Some(Declaration { bucket, name: entry.name, copy_of: entry.copy_of })
    };
    entries.into_iter().filter_map(declaration).collect()
}

/// Judges all declarations together.
pub fn check(declarations: Vec<Vec<Declaration>>, problems: &Collector) -> Buckets {
    let all = declarations.iter().map(Vec::len).sum();
    let mut buckets = Buckets { list: Vec::with_capacity(all), names: HashMap::with_capacity(all) };
    let mut copies = Vec::new();
    for Declaration { bucket, name, copy_of } in declarations.into_iter().flatten() {
        let at = buckets.list.len();
        match buckets.names.entry(bucket.name.clone()) {
            Entry::Occupied(first) => {
                problems.push(defined_twice("bucket", &name, &first.get().1));
                continue;
            }
            Entry::Vacant(free) => drop(free.insert((at, name.span))),
        }
        copies.extend(copy_of.map(|of| (at, of)));
        buckets.list.push(bucket);
    }
    let originals = if copies.is_empty() { Vec::new() } else { buckets.list.clone() };
    for (at, of) in copies {
        if let Some(copy) = buckets.list.get_mut(at) {
            follow(copy, &of, &originals, problems);
        }
    }
    buckets
}

/// A copy has the settings of its original, apart from how it is kept.
fn check_settings_of_copy(entry: &BucketEntry, problems: &Collector) {
    let said = [
        ("history", entry.history.as_ref().map(|v| &v.span)),
        ("ttl", entry.ttl.as_ref().map(|v| &v.span)),
        ("key_ttl", entry.key_ttl.as_ref().map(|v| &v.span)),
        ("limit_markers", entry.limit_markers.as_ref().map(|v| &v.span)),
        ("max_value_size", entry.max_value_size.as_ref().map(|v| &v.span)),
        ("max_bytes", entry.max_bytes.as_ref().map(|v| &v.span)),
        ("discard", entry.discard.as_ref().map(|v| &v.span)),
        ("rollup", entry.rollup.as_ref().map(|v| &v.span)),
        ("duplicate_window", entry.duplicate_window.as_ref().map(|v| &v.span)),
        ("part_owners", entry.part_owners.as_ref().map(|v| &v.span)),
    ];
    for (key, span) in said.into_iter().filter_map(|(key, span)| Some((key, span?))) {
        problems.push(
            Problem::error("not-for-copies", format!("a copy cannot have `{key}`"))
                .at(span, "a copy keeps what its original keeps, for as long")
                .help("remove it: what a copy may set is `description`, `replicas`, `storage`, `compression` and `direct`"),
        );
    }
}

/// Gives a copy what it has of its original.
///
/// Rollup is on: without it, nats-server 2.10 and 2.11 stop copying at the first purge. A copy has
/// no cap and takes the shortest time for message ids, so that it misses nothing.
fn follow(copy: &mut Bucket, of: &Spanned<String>, buckets: &[Bucket], problems: &Collector) {
    let known = || buckets.iter().filter(|b| b.copy_of.is_none()).map(|b| b.name.as_str());
    let Some(original) = buckets.iter().find(|bucket| bucket.name.as_str() == of.value) else {
        let help = match nearest(&of.value, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "declare it: a copy follows a bucket of this policy".to_owned(),
        };
        let message = format!("bucket `{}` is not declared", shown(&of.value));
        problems.push(Problem::error("undeclared-bucket", message).at(&of.span, "").help(help));
        return;
    };
    if original.copy_of.is_some() {
        problems.push(
            Problem::error("copy-of-a-copy", format!("`{}` is a copy itself", original.name))
                .at(&of.span, "")
                .help("name the bucket that it follows"),
        );
        return;
    }
    if copy.domain.is_some() != original.domain.is_some() {
        let (with, without) =
            if copy.domain.is_some() { (&*copy, original) } else { (original, &*copy) };
        problems.push(
            Problem::error(
                "copy-domain",
                format!("`{}` has a domain, and `{}` has none", with.name, without.name),
            )
            .at(&of.span, "a copy has its values from one place")
            .help(format!("add `domain` to `[bucket.{}]`, or leave it out of both", without.name)),
        );
    }
    copy.copied_from = original.domain.clone().filter(|from| copy.domain.as_ref() != Some(from));
    copy.history = original.history;
    copy.ttl = original.ttl;
    copy.key_ttl = original.key_ttl;
    copy.duplicate_window = LEAST_WINDOW;
}

fn bucket(name: BucketName, entry: &BucketEntry, problems: &Collector) -> Bucket {
    for (key, time) in [("ttl", &entry.ttl), ("duplicate_window", &entry.duplicate_window)] {
        check_least(key, time.as_ref(), LEAST_WINDOW, "100ms", problems);
    }
    if let Some(size) = entry.max_value_size.as_ref().filter(|s| s.value > LARGEST_VALUE) {
        problems.push(
            Problem::error("out-of-range", "`max_value_size` is out of range")
                .at(&size.span, "must be less than 2GiB"),
        );
    }
    let storage = choice(
        "storage",
        entry.storage.as_ref(),
        [Storage::File, Storage::Memory],
        Storage::as_str,
        problems,
    )
    .unwrap_or(Storage::File);
    let discard = choice(
        "discard",
        entry.discard.as_ref(),
        [Discard::New, Discard::Old],
        Discard::as_str,
        problems,
    )
    .unwrap_or(Discard::New);
    let small =
        |n: &Option<Spanned<i64>>| n.as_ref().map_or(1, |n| u8::try_from(n.value).unwrap_or(1));
    let flag = |f: &Option<Spanned<bool>>, default| f.as_ref().map_or(default, |f| f.value);
    let bucket = Bucket {
        name,
        history: small(&entry.history),
        ttl: entry.ttl.as_ref().map(|ttl| ttl.value),
        key_ttl: flag(&entry.key_ttl, false),
        limit_markers: entry.limit_markers.as_ref().map(|time| time.value),
        max_value_size: entry.max_value_size.as_ref().map(|size| size.value),
        max_bytes: entry.max_bytes.as_ref().map(|size| size.value),
        replicas: small(&entry.replicas),
        storage,
        compression: flag(&entry.compression, false),
        discard,
        direct: flag(&entry.direct, true),
        rollup: flag(&entry.rollup, true),
        duplicate_window: window(
            entry.ttl.as_ref(),
            entry.duplicate_window.as_ref(),
            "values are kept",
            problems,
        ),
        part_owners: flag(&entry.part_owners, false),
        copy_of: entry.copy_of.as_ref().and_then(|of| BucketName::parse(&of.value).ok()),
        domain: None,
        copied_from: None,
        description: entry.description.as_ref().map(|text| text.value.clone()),
        at: Location::from(&entry.name.span),
    };
    check_markers(&bucket, entry, problems);
    if bucket.part_owners {
        check_hardened(&bucket, entry, problems);
    }
    bucket
}

/// nats-server switches `allow_msg_ttl` and `allow_rollup_hdrs` on by itself where a stream has
/// markers (seen on 2.11.11, 2.12.8 and 2.15.1).
fn check_markers(bucket: &Bucket, entry: &BucketEntry, problems: &Collector) {
    let Some(markers) = &entry.limit_markers else { return };
    if markers.value < LEAST_MARKER {
        problems.push(
            Problem::error("out-of-range", "`limit_markers` is out of range")
                .at(&markers.span, "nats-server takes 1s or more"),
        );
    }
    if !bucket.key_ttl {
        let off = entry.key_ttl.as_ref().map_or(&entry.name.span, |flag| &flag.span);
        problems.push(
            Problem::error("markers-without-ttl", "`limit_markers` needs `key_ttl = true`")
                .at(&markers.span, "")
                .also(off, "keys have no TTL here")
                .help("add `key_ttl = true`, or leave `limit_markers` out"),
        );
    }
    if let Some(off) = entry.rollup.as_ref().filter(|rollup| !rollup.value) {
        problems.push(
            Problem::error("markers-with-rollup-off", "`limit_markers` needs rollup")
                .at(&markers.span, "nats-server switches rollup on for it, and it stays on")
                .also(&off.span, "it is switched off here")
                .help("leave `limit_markers` out, or `rollup = false`"),
        );
    }
}

/// Each of these settings keeps one owner of a part from harming the others.
fn check_hardened(bucket: &Bucket, entry: &BucketEntry, problems: &Collector) {
    let refuse = |span: Option<&Span>, harm: &str, help: &str| {
        problems.push(
            Problem::error(
                "unsafe-shared-bucket",
                format!("bucket `{}` is not safe for owners of parts", bucket.name),
            )
            .at(span.unwrap_or(&entry.name.span), harm)
            .help(help),
        );
    };
    if bucket.rollup {
        refuse(
            entry.rollup.as_ref().map(|r| &r.span),
            "with rollup, one put erases the keys of every owner",
            "add `rollup = false` (then KV purge is refused; put, get and delete work)",
        );
    }
    if bucket.limit_markers.is_some() {
        refuse(
            entry.limit_markers.as_ref().map(|markers| &markers.span),
            "nats-server switches rollup on for it: one put erases the keys of every owner",
            "leave `limit_markers` out",
        );
    }
    if bucket.duplicate_window > LEAST_WINDOW {
        refuse(
            entry.duplicate_window.as_ref().map(|w| &w.span),
            "within this time, one owner can have another's write dropped as a duplicate (default 2m)",
            "add `duplicate_window = \"100ms\"`, the least that nats-server takes",
        );
    }
    if bucket.discard == Discard::Old && bucket.max_bytes.is_some() {
        refuse(
            entry.discard.as_ref().map(|d| &d.span),
            "when it is full, one owner's writes drop the values of the others",
            "write `discard = \"new\"`, or leave `max_bytes` out",
        );
    } else if let Some(cap) = &entry.max_bytes {
        problems.push(
            Problem::warning(
                "shared-cap",
                format!("one owner of a part can fill bucket `{}`", bucket.name),
            )
            .at(&cap.span, "when it is full, nobody's writes are stored")
            .help("leave `max_bytes` out, or give each owner a bucket"),
        );
    }
}

/// Reports every bucket that is owned or read and not declared, once, where it is named first.
pub fn check_declared(buckets: &Buckets, drafts: &[Draft], problems: &Collector) {
    let mut missing: BTreeMap<&BucketName, (&Span, usize)> = BTreeMap::new();
    for draft in drafts {
        for (rule, place) in draft.rules() {
            if let Access::Owns(keyspace) | Access::Reads(keyspace) = &rule.access
                && !buckets.names.contains_key(keyspace.bucket())
            {
                missing.entry(keyspace.bucket()).or_insert((&place.span, 0)).1 += 1;
            }
        }
    }
    for (name, (span, times)) in missing {
        let more = match times {
            1 => String::new(),
            2 => "and in 1 more place".to_owned(),
            n => format!("and in {} more places", n - 1),
        };
        if problems.is_full() {
            return;
        }
        let known = buckets.list.iter().map(|bucket| bucket.name.as_str());
        let near = nearest(name.as_str(), known);
        let help = match near {
            Some(near) => format!("did you mean `{near}`? Otherwise declare it: `[bucket.{name}]`"),
            None => format!("declare it: `[bucket.{name}]`"),
        };
        problems.push(
            Problem::error("undeclared-bucket", format!("bucket `{name}` is not declared"))
                .at(span, more)
                .help(help),
        );
    }
}

/// Holds the services' keyspaces against the declarations.
pub fn check_use(buckets: &Buckets, drafts: &[Draft], problems: &Collector) {
    for draft in drafts {
        for (rule, place) in draft.rules() {
            let (keyspace, owns) = match &rule.access {
                Access::Owns(keyspace) => (keyspace, true),
                Access::Reads(keyspace) => (keyspace, false),
                _ => continue,
            };
            let Some((bucket, declared)) = buckets.get(keyspace.bucket()) else { continue };
            if let Some(original) = bucket.copy_of.as_ref().filter(|_| owns) {
                problems.push(
                    Problem::error(
                        "copy-owned",
                        format!("`{}` may not own bucket `{}`", draft.service.name, bucket.name),
                    )
                    .at(&place.span, "a copy has no writer")
                    .also(declared, format!("it follows `{original}`"))
                    .help(format!("own `{original}`, and read the copy (`reads`)")),
                );
                continue;
            }
            if keyspace.part().is_none() {
                continue;
            }
            if owns && !bucket.part_owners {
                problems.push(
                    Problem::error(
                        "part-owner",
                        format!("`{}` may not own a part of bucket `{}`", draft.service.name, bucket.name),
                    )
                    .at(&place.span, "")
                    .also(declared, "declared without `part_owners = true`")
                    .help("own the whole bucket, or allow owners of parts where the bucket is declared"),
                );
            }
            if !bucket.direct {
                problems.push(
                    Problem::error(
                        "part-without-direct",
                        format!(
                            "`{}` cannot be limited to a part of bucket `{}`",
                            draft.service.name, bucket.name
                        ),
                    )
                    .at(&place.span, "")
                    .also(declared, "declared with `direct = false`")
                    .help(
                        "remove `direct = false`: without direct gets, the key to read is not in the \
                         subject, and the server cannot check it",
                    ),
                );
            }
        }
    }
}
