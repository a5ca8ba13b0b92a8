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
    values(services, limit, &mut links);
    stores(services, limit, &mut links);
    names(services, limit, &mut links);
    let (mut publishes, mut subscribes) = (Subjects::default(), Subjects::default());
    let (mut calls, mut answers) = (Subjects::default(), Subjects::default());
    for (s, service) in services.iter().enumerate() {
        for (e, rule) in service.rules.iter().enumerate() {
            let (subjects, pattern) = match &rule.access {
                Access::Publishes(pattern) => (&mut publishes, pattern),
                Access::Subscribes(pattern) => (&mut subscribes, pattern),
                Access::Calls(pattern) => (&mut calls, pattern),
                Access::Answers(pattern) => (&mut answers, pattern),
                Access::Owns(_)
                | Access::Reads(_)
                | Access::OwnsStore(_)
                | Access::ReadsStore(_)
                | Access::Consumes(_)
                | Access::FoundAs(_)
                | Access::Discovers(_)
                | Access::DiscoversAll
                | Access::Replays(_)
                | Access::Audits(_) => {
                    continue;
                }
            };
            subjects.entry(pattern.as_str()).or_insert((pattern, Vec::new())).1.push((s, e));
        }
    }
    subjects(Kind::Messages, &publishes, &subscribes, limit, &mut links);
    subjects(Kind::Requests, &calls, &answers, limit, &mut links);
    links.list.sort_unstable();
    links
}

fn values(services: &[&Service], limit: usize, links: &mut Links) {
    let mut readers: HashMap<&str, Vec<End>> = HashMap::new();
    for (s, service) in services.iter().enumerate() {
        for (e, rule) in service.rules.iter().enumerate() {
            if let Access::Reads(keyspace) = &rule.access {
                readers.entry(keyspace.bucket().as_str()).or_default().push((s, e));
            }
        }
    }
    for (from, service) in services.iter().enumerate() {
        for (from_entry, rule) in service.rules.iter().enumerate() {
            let Access::Owns(owned) = &rule.access else { continue };
            for (to, to_entry) in readers.get(owned.bucket().as_str()).into_iter().flatten() {
                let other = services.get(*to).and_then(|s| s.rules.get(*to_entry));
                let Some(Access::Reads(read)) = other.map(|rule| &rule.access) else { continue };
                // An owner reads what it owns without saying so.
                if from == *to || owned.shared_key(read).is_none() {
                    continue;
                }
                let (to, to_entry) = (*to, *to_entry);
                links.push(Link { kind: Kind::Values, from, from_entry, to, to_entry }, limit);
            }
        }
    }
}

/// The links from each owner of something to who reads it, which both name by a text. Nobody reads
/// from itself.
fn by_name(
    kind: Kind,
    services: &[&Service],
    has: impl Fn(&Access) -> Option<&str>,
    takes: impl Fn(&Access) -> Option<&str>,
    limit: usize,
    links: &mut Links,
) {
    let mut takers: HashMap<&str, Vec<End>> = HashMap::new();
    for (s, e, access) in entries(services) {
        if let Some(name) = takes(access) {
            takers.entry(name).or_default().push((s, e));
        }
    }
    for (from, from_entry, access) in entries(services) {
        let Some(name) = has(access) else { continue };
        let of_all = takers.get(ALL).into_iter().flatten();
        for (to, to_entry) in takers.get(name).into_iter().flatten().chain(of_all) {
            let (to, to_entry) = (*to, *to_entry);
            if from != to && !links.push(Link { kind, from, from_entry, to, to_entry }, limit) {
                return;
            }
        }
    }
}

/// What stands for every name; none is called so.
const ALL: &str = "*";

fn entries<'a>(services: &'a [&Service]) -> impl Iterator<Item = (usize, usize, &'a Access)> {
    services.iter().enumerate().flat_map(|(s, service)| {
        service.rules.iter().enumerate().map(move |(e, rule)| (s, e, &rule.access))
    })
}

fn stores(services: &[&Service], limit: usize, links: &mut Links) {
    fn owned(access: &Access) -> Option<&str> {
        match access {
            Access::OwnsStore(store) => Some(store.as_str()),
            _ => None,
        }
    }
    fn read(access: &Access) -> Option<&str> {
        match access {
            Access::ReadsStore(store) => Some(store.as_str()),
            _ => None,
        }
    }
    by_name(Kind::Values, services, owned, read, limit, links);
}

fn names(services: &[&Service], limit: usize, links: &mut Links) {
    fn found(access: &Access) -> Option<&str> {
        match access {
            Access::FoundAs(name) => Some(name.as_str()),
            _ => None,
        }
    }
    fn discovered(access: &Access) -> Option<&str> {
        match access {
            Access::Discovers(name) => Some(name.as_str()),
            Access::DiscoversAll => Some(ALL),
            _ => None,
        }
    }
    by_name(Kind::Names, services, found, discovered, limit, links);
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
