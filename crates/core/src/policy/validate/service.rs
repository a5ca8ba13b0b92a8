//! One service after another, and what no two may share.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::draft::Draft;
use super::names::{check_name, defined_twice};
use super::role::{self, Roles};
use super::settings::{self, Domains, Durables, Scope, Settings, shown};
use super::threads::Threads;
use crate::diagnostics::toml::{nearest, show_time};
use crate::diagnostics::{Collector, Problem, Span};
use crate::grant::AuditStreams;
use crate::keys::UserKey;
use crate::policy::document::{BeforeEntry, KeyEntry, ServiceEntry};
use crate::policy::model::{Bucket, Excluded, Location, Service, ServiceKey};
use solewriter_types::connection_type::ConnectionType;

/// What `enforce` may say.
const ENFORCED: &str = "rules";
const OBSERVED: &str = "observe";

/// What a service is judged in.
pub struct Context<'c> {
    pub defaults: Settings,
    pub buckets: &'c [Bucket],
    pub domains: &'c Domains,
    pub durables: &'c Durables,
    pub roles: &'c Roles,
    pub audit: &'c AuditStreams,
    /// How many rules may still be made.
    pub left: &'c AtomicUsize,
    /// Whether all files could be read, so that what is missing is really missing.
    pub complete: bool,
}

/// Judges every service. A service with problems is given back as far as it could be read.
pub fn check(
    mut entries: Vec<Vec<ServiceEntry>>,
    context: &Context<'_>,
    threads: Threads,
    problems: &Collector,
) -> Vec<Draft> {
    check_names(&mut entries, problems);
    let mut drafts = Vec::with_capacity(entries.iter().map(Vec::len).sum());
    let read = threads.each_judged(threads.owned_parts(entries), problems, |entries, problems| {
        let read = entries.into_iter().map(|entry| service(entry, context, problems));
        read.collect::<Vec<Read>>()
    });
    let mut holders = Holders::with_capacity(drafts.capacity());
    for Read { mut draft, name, keys } in read.into_iter().flatten() {
        check_holders(&mut draft.service, keys, &mut holders, problems);
        check_gap(&draft.service, &name, problems);
        drafts.push(draft);
    }
    drafts
}

/// Judges names, and leaves out what has the name of another.
fn check_names(entries: &mut [Vec<ServiceEntry>], problems: &Collector) {
    let all = entries.iter().map(Vec::len).sum();
    let mut names: HashMap<&str, &Span> = HashMap::with_capacity(all);
    let mut first = Vec::with_capacity(all);
    for ServiceEntry { name, .. } in entries.iter().flatten() {
        check_name("service", name, problems);
        let other = names.get(name.value.as_str());
        first.push(other.is_none());
        match other {
            Some(other) => problems.push(defined_twice("service", name, other)),
            None => drop(names.insert(&name.value, &name.span)),
        }
    }
    let mut first = first.into_iter();
    for entries in entries {
        entries.retain(|_| first.next() == Some(true));
    }
}

/// A service as far as it could be read by itself.
struct Read {
    draft: Draft,
    /// Where its name stands.
    name: Span,
    /// Where each of its keys does.
    keys: Vec<Span>,
}

fn service(mut entry: ServiceEntry, context: &Context<'_>, problems: &Collector) -> Read {
    let name: Arc<str> = entry.name.value.as_str().into();
    let before = observed(&mut entry, problems);
    if entry.keys.is_empty() {
        problems.push(
            Problem::warning("no-keys", format!("service `{name}` has no usable key"))
                .at(&entry.name.span, "nobody can connect as it")
                .help("add `nkeys = [\"U...\"]`"),
        );
    }
    let keys = entry.keys.into_iter().filter_map(|key| check_key(key, problems));
    let (mut keys, key_places): (Vec<ServiceKey>, Vec<Span>) = keys.unzip();
    keys.shrink_to_fit();
    let Context { buckets, domains, durables, audit, left, .. } = *context;
    let scope =
        Scope { service: &name, role: None, buckets, domains, durables, audit, left, problems };
    let (mut rules, mut places) = settings::rules(&entry.grants, &scope);
    let (more_rules, more_places) =
        role::apply(&entry.roles, context.roles, context.complete, &scope);
    rules.extend(more_rules);
    places.extend(more_places);
    // They are kept for as long as the policy is.
    rules.shrink_to_fit();
    let Settings { account, lifetime, sources, connections } =
        settings::settings(entry.settings, problems).or(&context.defaults);
    if let Some(reason) = entry.disabled.as_ref().filter(|r| r.value.trim().is_empty()) {
        problems.push(
            Problem::error("no-reason", "`disabled` needs a reason")
                .at(&reason.span, "")
                .help("give the reason; leave `disabled` out to enable the service"),
        );
    }
    let service = Service {
        name,
        description: entry.description.map(|text| text.value),
        keys,
        rules,
        account,
        lifetime,
        sources: sources.unwrap_or_default(),
        connections: connections.unwrap_or_else(|| vec![ConnectionType::Standard]),
        disabled: entry.disabled.map(|reason| reason.value),
        held: Vec::new(),
        observed: before.is_some(),
        excluded: Excluded::default(),
        at: Location::from(&entry.name.span),
    };
    Read { draft: Draft { service, places, before }, name: entry.name.span, keys: key_places }
}

/// Whether a service is observed, and with what it could do before.
fn observed(entry: &mut ServiceEntry, problems: &Collector) -> Option<Box<BeforeEntry>> {
    let name = &entry.name.value;
    let observed = match &entry.enforce {
        None => false,
        Some(said) if said.value == ENFORCED => false,
        Some(said) if said.value == OBSERVED => true,
        Some(said) => {
            let help = match nearest(&said.value, [ENFORCED, OBSERVED]) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!(
                    "write {OBSERVED:?} for what it could do before, and leave it out for what its \
                     rules say"
                ),
            };
            let message = format!("`{}` says nothing about enforcing", shown(&said.value));
            problems.push(Problem::error("bad-enforce", message).at(&said.span, "").help(help));
            false
        }
    };
    let before = entry.before.take();
    let span = entry.enforce.as_ref().map_or(&entry.name.span, |said| &said.span);
    match before {
        Some(before) if observed => Some(before),
        None if observed => {
            problems.push(
                Problem::error("no-before", format!("nothing says what `{name}` could do before"))
                    .at(span, "it is to be observed here")
                    .help(format!(
                        "add a table `[service.{name}.before]` with `publish` and `subscribe`, as \
                         nats-server's permissions have them: [\">\"] for everything"
                    )),
            );
            None
        }
        Some(before) => {
            problems.push(
                Problem::note("before-unused", format!("what `{name}` could do before counts for nothing"))
                    .at(&before.span, "its rules alone are granted")
                    .help("remove the table, or write `enforce = \"observe\"` to have the service do as before"),
            );
            None
        }
        None => None,
    }
}

/// Warns when a rotation leaves a time in which no key is valid.
fn check_gap(service: &Service, name: &Span, problems: &Collector) {
    let mut windows: Vec<(i64, i64)> = service
        .keys
        .iter()
        .map(|key| (key.not_before.unwrap_or(i64::MIN), key.not_after.unwrap_or(i64::MAX)))
        .collect();
    windows.sort_unstable();
    let Some((_, mut covered)) = windows.first().copied() else { return };
    for (from, until) in windows {
        if from > covered {
            problems.push(
                Problem::warning(
                    "key-gap",
                    format!(
                        "no key of `{}` is valid from {} until {}",
                        service.name,
                        show_time(covered),
                        show_time(from)
                    ),
                )
                .at(name, "it cannot connect in between")
                .help("let the windows of the old and the new key overlap"),
            );
        }
        covered = covered.max(until);
    }
}

/// A key by itself, with its place.
fn check_key(entry: KeyEntry, problems: &Collector) -> Option<(ServiceKey, Span)> {
    let KeyEntry { key: written, not_before, not_after } = entry;
    let key = match UserKey::parse(&written.value) {
        Ok(key) => key,
        Err(error) => {
            problems.push(
                // The text is not repeated: it may be a seed.
                Problem::error("bad-nkey", format!("not a public user NKEY: {error}"))
                    .at(&written.span, "")
                    .help("a public user NKEY begins with 'U' and has 56 characters"),
            );
            return None;
        }
    };
    if let (Some(from), Some(until)) = (&not_before, &not_after)
        && from.value >= until.value
    {
        problems.push(
            Problem::error("empty-window", "the key is never valid")
                .at(&until.span, "not after this")
                .also(&from.span, "and not before this")
                .help("`not_before` must be earlier than `not_after`"),
        );
    }
    let not_before = not_before.map(|time| time.value);
    let not_after = not_after.map(|time| time.value);
    Some((ServiceKey { key, not_before, not_after }, written.span))
}

/// Who has which key, by its bytes, and where.
type Holders = HashMap<[u8; 32], (Arc<str>, Span)>;

/// Leaves out keys that were there before, in this service or another one.
fn check_holders(
    service: &mut Service,
    places: Vec<Span>,
    holders: &mut Holders,
    problems: &Collector,
) {
    let name = &service.name;
    let mut places = places.into_iter();
    service.keys.retain(|ServiceKey { key, .. }| {
        let Some(span) = places.next() else { return false };
        let (holder, first) = match holders.entry(*key.as_bytes()) {
            Entry::Occupied(first) => first.into_mut(),
            Entry::Vacant(free) => {
                free.insert((Arc::clone(name), span));
                return true;
            }
        };
        let problem = if holder == name {
            Problem::error("duplicate-nkey", format!("service `{name}` lists an NKEY twice"))
                .help("remove one of the two")
        } else {
            let message = format!("services `{holder}` and `{name}` share an NKEY");
            Problem::error("shared-nkey", message)
                .help("give each service its own key: whoever holds this one would be both")
        };
        problems.push(problem.at(&span, "again here").also(first, "first here"));
        false
    });
}
