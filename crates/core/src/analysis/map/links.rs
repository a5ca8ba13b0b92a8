//! Who is on the other side of an entry: a keyspace's readers, a subject's subscribers, a
//! request's answerers.

use std::collections::{BTreeMap, HashMap};

use super::{Kind, Link};
use crate::policy::model::{Access, Service};
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
