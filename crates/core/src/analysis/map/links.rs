//! Who is on the other side of an entry: a keyspace's or store's readers, a subject's subscribers, a
//! request's answerers, who discovers a name; and the streams that keep a subject.

use std::collections::{BTreeMap, HashMap};

use super::{Kind, Link};
use crate::policy::model::{Access, Service, Stream};
use solewriter_types::subject::Pattern;
use solewriter_types::subject::tree::PatternTree;

/// The longest search for pairs of subjects.
const MAX_STEPS: usize = 5_000_000;

/// What was found.
pub struct Links {
    pub list: Vec<Link>,
    /// Whether there are more.
    pub more: bool,
}

/// One end: the indices of a service and of its entry.
type End = (usize, usize);

/// Finds links, at most `limit`, in a stable order.
pub fn find(services: &[&Service], limit: usize) -> Links {
    let mut links = Links { list: Vec::new(), more: false };
    things(services, limit, &mut links);
    let (mut publishes, mut subscribes) = (Subjects::default(), Subjects::default());
    let (mut calls, mut answers) = (Subjects::default(), Subjects::default());
    for (s, e, access) in entries(services) {
        let (subjects, pattern) = match access {
            Access::Publishes(pattern) => (&mut publishes, pattern),
            Access::Subscribes(pattern) => (&mut subscribes, pattern),
            Access::Calls(pattern) => (&mut calls, pattern),
            Access::Answers(pattern) => (&mut answers, pattern),
            Access::Owns(_)
            | Access::Writes(_)
            | Access::WritesStore(_)
            | Access::Reads(_)
            | Access::OwnsStore(_)
            | Access::ReadsStore(_)
            | Access::Consumes(_)
            | Access::FoundAs(_)
            | Access::Discovers(_)
            | Access::DiscoversAll
            | Access::Replays(_)
            | Access::Audits(_) => continue,
        };
        subjects.entry(pattern.as_str()).or_insert((pattern, Vec::new())).1.push((s, e));
    }
    subjects(Kind::Messages, &publishes, &subscribes, limit, &mut links);
    subjects(Kind::Requests, &calls, &answers, limit, &mut links);
    links.list.sort_unstable();
    links
}

/// What one service has and others take.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Thing<'a> {
    Bucket(&'a str),
    Store(&'a str),
    Name(&'a str),
    AnyName,
}

fn had(access: &Access) -> Option<Thing<'_>> {
    match access {
        Access::Owns(keyspace) => Some(Thing::Bucket(keyspace.bucket().as_str())),
        Access::OwnsStore(store) => Some(Thing::Store(store.as_str())),
        Access::FoundAs(name) => Some(Thing::Name(name.as_str())),
        _ => None,
    }
}

fn taken(access: &Access) -> Option<Thing<'_>> {
    match access {
        Access::Reads(keyspace) => Some(Thing::Bucket(keyspace.bucket().as_str())),
        Access::ReadsStore(store) => Some(Thing::Store(store.as_str())),
        Access::Discovers(name) => Some(Thing::Name(name.as_str())),
        Access::DiscoversAll => Some(Thing::AnyName),
        _ => None,
    }
}

/// Whether something of what one has is what the other takes, when both are about one thing.
fn meet(had: &Access, taken: &Access) -> bool {
    match (had, taken) {
        (Access::Owns(owned), Access::Reads(read)) => owned.shared_key(read).is_some(),
        _ => true,
    }
}

fn things(services: &[&Service], limit: usize, links: &mut Links) {
    let mut takers: HashMap<Thing<'_>, Vec<(usize, usize, &Access)>> = HashMap::new();
    for (s, e, access) in entries(services) {
        if let Some(thing) = taken(access) {
            takers.entry(thing).or_default().push((s, e, access));
        }
    }
    for (from, from_entry, access) in entries(services) {
        let Some(thing) = had(access) else { continue };
        let kind = if matches!(thing, Thing::Name(_)) { Kind::Names } else { Kind::Values };
        let of_all = takers.get(&Thing::AnyName).filter(|_| kind == Kind::Names);
        let of_it = takers.get(&thing).into_iter().chain(of_all).flatten();
        for (to, to_entry, other) in of_it.copied() {
            // A service takes what it has without saying so.
            let wanted = from != to && meet(access, other);
            if wanted && !links.push(Link { kind, from, from_entry, to, to_entry }, limit) {
                return;
            }
        }
    }
}

fn entries<'a>(services: &'a [&Service]) -> impl Iterator<Item = (usize, usize, &'a Access)> {
    services.iter().enumerate().flat_map(|(s, service)| {
        service.rules.iter().enumerate().map(move |(e, rule)| (s, e, &rule.access))
    })
}

/// Which entries write into which streams: `to` of each link is the index of a stream, and
/// `to_entry` that of a subject of it.
pub fn written(services: &[&Service], streams: &[Stream], limit: usize) -> Links {
    let mut links = Links { list: Vec::new(), more: false };
    let (mut sent, mut kept) = (Subjects::default(), Subjects::default());
    for (s, e, access) in entries(services) {
        if let Access::Publishes(pattern) | Access::Calls(pattern) = access {
            sent.entry(pattern.as_str()).or_insert((pattern, Vec::new())).1.push((s, e));
        }
    }
    for (s, stream) in streams.iter().enumerate() {
        for (e, pattern) in stream.subjects.iter().enumerate() {
            kept.entry(pattern.as_str()).or_insert((pattern, Vec::new())).1.push((s, e));
        }
    }
    subjects(Kind::Messages, &sent, &kept, limit, &mut links);
    links.list.sort_unstable();
    links
}

/// Each pattern once, with who has it.
type Subjects<'p> = BTreeMap<&'p str, (&'p Pattern, Vec<End>)>;

fn subjects(
    kind: Kind,
    senders: &Subjects<'_>,
    takers: &Subjects<'_>,
    limit: usize,
    links: &mut Links,
) {
    // Patterns of the senders are entries 0, 1, ...; those of the takers come after them.
    let mut tree = PatternTree::new();
    for (index, (pattern, _)) in senders.values().enumerate() {
        tree.insert(pattern, index, 0);
    }
    for (index, (pattern, _)) in takers.values().enumerate() {
        tree.insert(pattern, senders.len() + index, 1);
    }
    let Ok(pairs) = tree.conflicts(limit, &mut { MAX_STEPS }) else {
        links.more = true;
        return;
    };
    links.more |= pairs.len() >= limit;
    let lists: Vec<&Vec<End>> =
        senders.values().chain(takers.values()).map(|(_, ends)| ends).collect();
    for (a, b) in pairs {
        let (sender, taker) = (a.min(b), a.max(b));
        let (Some(senders), Some(takers)) = (lists.get(sender), lists.get(taker)) else { continue };
        for (from, from_entry) in *senders {
            for (to, to_entry) in *takers {
                let (from, from_entry, to, to_entry) = (*from, *from_entry, *to, *to_entry);
                if !links.push(Link { kind, from, from_entry, to, to_entry }, limit) {
                    return;
                }
            }
        }
    }
}

impl Links {
    /// Whether there was room.
    fn push(&mut self, link: Link, limit: usize) -> bool {
        let room = self.list.len() < limit;
        if room {
            self.list.push(link);
        } else {
            self.more = true;
        }
        room
    }
}
