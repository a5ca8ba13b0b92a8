//! Who can write which bucket.

use std::collections::BTreeMap;

use solewriter_types::keyspace::BucketName;
use solewriter_types::subject::Pattern;

use super::doors::users;
use super::ways::{self, pattern};
use super::{Finding, Kind, Known, Seen, Whom, whom};
use crate::adoption::server_config::accounts::Rule;
use crate::adoption::server_config::permissions::Allowed;

pub(super) fn of(seen: &Seen<'_>) -> Vec<Finding> {
    let buckets = named(seen);
    let jetstream = seen.config.has_jetstream(seen.account);
    let imports = seen.account.imports.iter().any(|import| import.local().starts_with("$KV."));
    if !jetstream && !imports && buckets.is_empty() {
        return Vec::new();
    }
    let mut findings: Vec<Finding> = any_bucket(seen).into_iter().collect();
    if jetstream || !buckets.is_empty() {
        findings.extend(any_stream(seen));
        findings.extend(reply_subject(seen));
    }
    for (bucket, place) in buckets {
        findings.extend(writers(seen, &bucket, &place));
    }
    findings
}

/// The buckets that some permission of the account names, with the first place.
fn named(seen: &Seen<'_>) -> BTreeMap<BucketName, Rule> {
    let mut buckets = BTreeMap::new();
    for known in &seen.users {
        let Some(permissions) = &known.user.permissions else { continue };
        let sides = [&permissions.publish, &permissions.subscribe];
        for rules in sides.into_iter().flatten() {
            for rule in rules.allow.iter().flatten().chain(&rules.deny) {
                if let Some(bucket) = bucket(rule.subject.as_str()) {
                    buckets.entry(bucket).or_insert_with(|| rule.clone());
                }
            }
        }
    }
    buckets
}

/// The bucket that a subject is about: `$KV.b.…`, or JetStream's API for the stream `KV_b`.
fn bucket(subject: &str) -> Option<BucketName> {
    let name = match subject.strip_prefix("$KV.") {
        Some(rest) => rest.split('.').next()?,
        None if subject.starts_with("$JS.") => {
            subject.split('.').find_map(|token| token.strip_prefix("KV_"))?
        }
        None => return None,
    };
    BucketName::parse(name).ok()
}

/// The users for whom some permission is found.
fn find<'s>(seen: &'s Seen<'_>, by: impl Fn(&'s Known<'_>) -> Option<&'s Allowed>) -> Vec<Whom> {
    let one = |known: &'s Known<'_>| {
        by(known).map(|allowed| whom(known.user, &allowed.span, ways::says(allowed)))
    };
    seen.users.iter().filter_map(one).collect()
}

/// Who may publish to a bucket of any name.
fn any_bucket(seen: &Seen<'_>) -> Option<Finding> {
    let all = pattern("$KV.*.>")?;
    let whom = find(seen, |known| known.rights.publishes(&all).find(|a| covers_names(a, &all)));
    let message =
        format!("{} may write any KV bucket of {} by publishing", users(whom.len()), seen.name());
    let help = "name the buckets: `$KV.<bucket>.>`";
    seen.about(Kind::AnyBucket, whom, message, help)
}

/// Whether a permission is not for one bucket.
fn covers_names(allowed: &Allowed, all: &Pattern) -> bool {
    let part = allowed.reaches(all);
    part.is_some_and(|part| {
        part.as_str().split('.').nth(1).is_none_or(|name| matches!(name, "*" | ">"))
    })
}

/// Who may change, empty or delete buckets of any name.
fn any_stream(seen: &Seen<'_>) -> Option<Finding> {
    let requests = ways::changes("*");
    let every = |allowed: &&Allowed, request: &Pattern| {
        allowed.reaches(request).is_some_and(|part| part.as_str().ends_with('*'))
    };
    let whom = find(seen, |known| {
        requests.iter().find_map(|request| {
            known.rights.publishes(request).find(|allowed| every(allowed, request))
        })
    });
    let message = format!(
        "{} may change, empty or delete any bucket and stream of {} through `$JS.API`",
        users(whom.len()),
        seen.name()
    );
    let help = "allow the requests that a service needs, each with the name of its stream";
    seen.about(Kind::AnyStream, whom, message, help)
}

/// Who may have JetStream write into any bucket: it answers to the subject that a request names,
/// and a key of a bucket is a subject.
fn reply_subject(seen: &Seen<'_>) -> Option<Finding> {
    let whom = find(seen, |known| ways::by_reply(&known.rights, &[]));
    let message = format!(
        "{} may have JetStream write into any KV bucket of {}, by naming `$KV.<bucket>.<key>` as \
         the reply subject of a request that is allowed",
        users(whom.len()),
        seen.name()
    );
    let help = "nats-server checks no reply subject; only an account of its own for JetStream, \
                with imports, closes this";
    seen.about(Kind::ReplySubject, whom, message, help)
}

/// Who may write one bucket by publishing to its keys.
fn writers(seen: &Seen<'_>, bucket: &BucketName, place: &Rule) -> Option<Finding> {
    let keys = pattern(&format!("$KV.{bucket}.>"))?;
    let stream = format!("KV_{bucket}");
    let changes = ways::changes(&stream);
    let writers = find(seen, |known| known.rights.publishes(&keys).next());
    let name = seen.name();
    // Who may change any stream is told elsewhere.
    let named = |request: &Pattern, known: &Known<'_>| {
        known.rights.publishes(request).any(|allowed| allowed.subject.as_str().contains(&stream))
    };
    let changers: Vec<&str> = seen
        .users
        .iter()
        .filter(|known| changes.iter().any(|request| named(request, known)))
        .map(|known| known.user.label())
        .collect();
    let mut names: Vec<&str> = writers.iter().map(|whom| whom.user.as_str()).collect();
    let also = changers.iter().filter(|name| !names.contains(name)).count();
    names.truncate(5);
    let (kind, mut message, help) = match writers.len() {
        0 => (
            Kind::NoWriter,
            format!("nobody may write the bucket {bucket} of {name} by publishing"),
            "it may be written from another account, or by nobody any more",
        ),
        1 => (
            Kind::OneWriter,
            format!(
                "one user may write the bucket {bucket} of {name} by publishing: {}",
                names.join(", ")
            ),
            "it can be its owner",
        ),
        count => (
            Kind::SharedBucket,
            format!("{count} users may write the bucket {bucket} of {name} by publishing"),
            "decide which one owns it, or which keys each owns; a trace of the server tells who \
             writes what today",
        ),
    };
    if also > 0 {
        message += &format!("; {} more may change or empty its stream", users(also));
    }
    let span = writers.first().map_or(&place.span, |whom| &whom.span).clone();
    let account = Some(name.to_owned());
    Some(Finding {
        kind,
        account,
        bucket: Some(bucket.clone()),
        message,
        span,
        whom: writers,
        help,
    })
}
