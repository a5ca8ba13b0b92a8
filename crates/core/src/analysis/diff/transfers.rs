//! What one service had for itself, and another has now.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{Right, ServiceChange};
use crate::policy::model::{
    Access, ConsumerName, FoundName, Policy, Rule, STORE_PREFIX, StreamName,
};
use solewriter_types::audit_event::About;
use solewriter_types::keyspace::{BucketName, Keyspace};
use solewriter_types::subject::Pattern;
use solewriter_types::subject::tree::{NO_BOUND, PatternTree};

/// What changed hands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moved {
    /// Keys, which their owner alone writes.
    Keyspace(Keyspace),
    /// An object store, which its owner alone writes.
    Store(BucketName),
    /// A durable consumer, which one service uses.
    Consumer(ConsumerName),
    /// Subjects of a stream, which one service publishes.
    Subjects(StreamName, Pattern),
    /// A name under which one service is found.
    Name(FoundName),
}

impl fmt::Display for Moved {
    /// As a person would name it. Only keyspaces and stores are told by their names alone, as
    /// `owns` has them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keyspace(keyspace) => write!(f, "{keyspace}"),
            Self::Store(store) => write!(f, "{STORE_PREFIX}{store}"),
            Self::Consumer(consumer) => write!(f, "consumer {consumer}"),
            Self::Subjects(stream, subjects) => write!(f, "{subjects} of stream {stream}"),
            Self::Name(name) => write!(f, "name {name}"),
        }
    }
}

impl Moved {
    /// The same in the fields of events and of JSON; with the subjects, of a stream.
    #[must_use]
    pub fn about(&self) -> (About, Option<String>) {
        let mut about = About::default();
        let mut subject = None;
        match self {
            Self::Keyspace(keyspace) => about.keyspace = Some(keyspace.to_string()),
            Self::Store(store) => about.store = Some(store.to_string()),
            Self::Consumer(name) => {
                about.stream = Some(name.stream().to_string());
                about.consumer = Some(name.consumer().to_string());
            }
            Self::Subjects(stream, subjects) => {
                about.stream = Some(stream.to_string());
                subject = Some(subjects.to_string());
            }
            Self::Name(name) => about.found_as = Some(name.to_string()),
        }
        (about, subject)
    }
}

/// Something that one service had for itself and another has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// What changed hands.
    pub moved: Moved,
    /// Who had it.
    pub from: Arc<str>,
    /// By which rule of the old policy.
    pub from_rule: Rule,
    /// Who has it.
    pub to: Arc<str>,
    /// By which rule of the new policy.
    pub to_rule: Rule,
}

/// A right that a service lost or gained.
#[derive(Clone, Copy)]
struct Held<'a> {
    service: &'a Arc<str>,
    rule: &'a Rule,
}

/// Everything that one service had for itself and lost, and another gained.
///
/// What several services could have before had no owner, so nothing of it is transferred.
pub(super) fn between(old: &Policy, new: &Policy, services: &[ServiceChange]) -> Vec<Transfer> {
    let all = |rights: fn(&ServiceChange) -> &[Right]| -> Vec<Held<'_>> {
        let of = |change| rights(change).iter().map(move |right| (change, right));
        let held = services.iter().flat_map(of);
        held.map(|(change, Right { rule, .. })| Held { service: &change.service, rule }).collect()
    };
    let (lost, gained) = (all(|change| &change.loses), all(|change| &change.gains));
    let mut transfers = keyspaces(&lost, &gained);
    transfers.extend(named(old, &lost, &gained));
    transfers.extend(subjects(old, new, &lost, &gained));
    transfers.sort_by(|a, b| (&a.moved, &a.from, &a.to).cmp(&(&b.moved, &b.from, &b.to)));
    // Owning is writing and reading, and two rules may come to the same.
    transfers.dedup_by(|a, b| (&a.moved, &a.from, &a.to) == (&b.moved, &b.from, &b.to));
    transfers
}

fn transfer(from: Held<'_>, to: Held<'_>, moved: Moved) -> Option<Transfer> {
    (from.service != to.service).then(|| Transfer {
        moved,
        from: Arc::clone(from.service),
        from_rule: from.rule.clone(),
        to: Arc::clone(to.service),
        to_rule: to.rule.clone(),
    })
}

/// Keys that one service may write no more and another may write now.
///
/// All of what a lost and a gained keyspace share changes hands, even when both services keep a
/// part: what the old owner kept is not the new one's, and what the new owner had was not the old
/// one's, because a key has one writer in either policy.
fn keyspaces(lost: &[Held<'_>], gained: &[Held<'_>]) -> Vec<Transfer> {
    fn owned<'a>(held: &[Held<'a>]) -> Vec<(Held<'a>, &'a Keyspace, String)> {
        let keyspace = |held: &Held<'a>| match &held.rule.access {
            Access::Owns(keyspace) => Some((*held, keyspace, keyspace.subjects())),
            _ => None,
        };
        held.iter().filter_map(keyspace).collect()
    }
    let (lost, gained) = (owned(lost), owned(gained));
    let texts = |list: &[(Held<'_>, &Keyspace, String)]| -> Vec<String> {
        list.iter().map(|(.., subjects)| subjects.clone()).collect()
    };
    let pairs = meeting(&texts(&lost), &texts(&gained)).into_iter();
    let transfer = |(l, g): (usize, usize)| {
        let ((from, had, _), (to, has, _)) = (lost.get(l)?, gained.get(g)?);
        transfer(*from, *to, Moved::Keyspace(shared(had, has)?))
    };
    pairs.filter_map(transfer).collect()
}

/// What is had as a whole and by its name: stores, consumers, and names to be found by.
fn named(old: &Policy, lost: &[Held<'_>], gained: &[Held<'_>]) -> Vec<Transfer> {
    let moved = |access: &Access| match access {
        Access::OwnsStore(store) => Some(Moved::Store(store.clone())),
        Access::Consumes(consumed) => Some(Moved::Consumer(consumed.name.clone())),
        Access::FoundAs(name) => Some(Moved::Name(name.clone())),
        _ => None,
    };
    let alone = |moved: &Moved| match moved {
        Moved::Consumer(name) => old.consumer(name).is_some_and(|c| c.shared.is_none()),
        _ => true,
    };
    let mut now: BTreeMap<Moved, Vec<Held<'_>>> = BTreeMap::new();
    for held in gained {
        if let Some(moved) = moved(&held.rule.access) {
            now.entry(moved).or_default().push(*held);
        }
    }
    let mut transfers = Vec::new();
    for from in lost {
        let Some(moved) = moved(&from.rule.access).filter(|moved| alone(moved)) else { continue };
        let to = now.get(&moved).into_iter().flatten();
        transfers.extend(to.filter_map(|to| transfer(*from, *to, moved.clone())));
    }
    transfers
}

/// Subjects that one service alone published into a stream, and another publishes into one now.
fn subjects(old: &Policy, new: &Policy, lost: &[Held<'_>], gained: &[Held<'_>]) -> Vec<Transfer> {
    type Kept<'a> = (Held<'a>, &'a StreamName, Pattern);
    fn kept<'a>(policy: &'a Policy, held: &[Held<'a>], alone: bool) -> Vec<Kept<'a>> {
        let mut all = Vec::new();
        for held in held {
            let (Access::Publishes(sent) | Access::Calls(sent)) = &held.rule.access else {
                continue;
            };
            let streams = policy.keeping(sent).filter(|s| !alone || s.many_writers.is_none());
            for stream in streams {
                let parts = stream.subjects.iter().filter_map(|kept| kept.intersection(sent));
                all.extend(parts.map(|part| (*held, &stream.name, part)));
            }
        }
        all
    }
    let (lost, gained) = (kept(old, lost, true), kept(new, gained, false));
    let texts = |list: &[Kept<'_>]| -> Vec<String> {
        list.iter().map(|(.., subjects)| subjects.to_string()).collect()
    };
    let pairs = meeting(&texts(&lost), &texts(&gained)).into_iter();
    let transfer = |(l, g): (usize, usize)| {
        let ((from, _, had), (to, stream, has)) = (lost.get(l)?, gained.get(g)?);
        let moved = Moved::Subjects((*stream).clone(), had.intersection(has)?);
        transfer(*from, *to, moved)
    };
    pairs.filter_map(transfer).collect()
}

/// Which subjects of the first list have something in common with which of the second: their
/// indices.
fn meeting(first: &[String], second: &[String]) -> Vec<(usize, usize)> {
    // A tree pairs no two of the very same text: each is there once, with all its indices.
    let mut entries: Vec<(&str, Vec<usize>)> = Vec::new();
    let mut ends = Vec::new();
    for list in [first, second] {
        let mut by_text: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, text) in list.iter().enumerate() {
            by_text.entry(text).or_default().push(index);
        }
        entries.extend(by_text);
        ends.push(entries.len());
    }
    let middle = ends.first().copied().unwrap_or_default();
    let mut tree = PatternTree::new();
    for (entry, (text, _)) in entries.iter().enumerate() {
        tree.insert_text(text, entry, usize::from(entry >= middle));
    }
    let pairs = tree.conflicts(usize::MAX, &mut { NO_BOUND }).unwrap_or_default();
    let indices = |entry: usize| entries.get(entry).map_or(&[][..], |(_, list)| list);
    let each = |(a, b): (usize, usize)| {
        let firsts = indices(a.min(b)).iter();
        firsts.flat_map(move |f| indices(a.max(b)).iter().map(move |s| (*f, *s)))
    };
    pairs.into_iter().flat_map(each).collect()
}

/// The keys that two keyspaces share. Token by token, the narrower of the two: what two patterns
/// share is always one pattern.
fn shared(a: &Keyspace, b: &Keyspace) -> Option<Keyspace> {
    a.shared_key(b)?;
    let (Some(left), Some(right)) = (a.part(), b.part()) else {
        return Some(if a.part().is_some() { a.clone() } else { b.clone() });
    };
    let mut left = left.as_str().split('.').peekable();
    let mut right = right.as_str().split('.').peekable();
    let mut tokens: Vec<&str> = Vec::new();
    loop {
        match (left.peek().copied(), right.peek().copied()) {
            (Some(">"), Some(_)) => {
                tokens.extend(right);
                break;
            }
            (Some(_), Some(">")) => {
                tokens.extend(left);
                break;
            }
            (Some("*"), Some(token)) | (Some(token), _) => tokens.push(token),
            (None, _) => break,
        }
        left.next();
        right.next();
    }
    Keyspace::parse(&format!("{}/{}", a.bucket(), tokens.join("."))).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::analysis::diff::diff;
    use crate::diagnostics::SourceFile;
    use crate::grant::{AuditStreams, Defaults};
    use crate::policy::validate::validate;

    /// A policy with what each of two services publishes, if it holds.
    fn policy(writers: &str, a: &[String], b: &[String]) -> Option<Policy> {
        let text = format!(
            "[stream.E]\nsubjects = ['e.>']\nduplicate_window = '100ms'\n{writers}\
             [service.a]\npublishes = {a:?}\n[service.b]\npublishes = {b:?}\n"
        );
        validate(&[SourceFile::new("p.toml", text)]).ok().map(|valid| valid.policy)
    }

    proptest! {
        /// A subject of a stream is transferred when its one writer is another.
        #[test]
        fn a_subject_is_transferred_when_its_writer_changes(
            [a, b, c, d] in prop::array::uniform4(
                prop::collection::vec("e\\.([xy]|\\*)(\\.([xy]|\\*)){0,1}(\\.>)?", 0..3)
            ),
        ) {
            let (Some(old), Some(new)) = (policy("", &a, &b), policy("", &c, &d)) else {
                return Ok(());
            };
            let defaults = Defaults {
                account: "APP".into(),
                lifetime: std::time::Duration::ZERO,
                audit: AuditStreams::default(),
            };
            let found = diff(&old, &new, &defaults).unwrap();
            let within = |subjects: &[String], text: &str| {
                subjects.iter().any(|one| Pattern::parse(one).unwrap().matches_wire(text))
            };
            let tokens = ["x", "y", "z"];
            let two = tokens.iter().flat_map(|s| tokens.iter().map(move |t| format!("e.{s}.{t}")));
            let two: Vec<String> = two.collect();
            let three = two.iter().flat_map(|s| tokens.iter().map(move |t| format!("{s}.{t}")));
            for text in tokens.iter().map(|s| format!("e.{s}")).chain(two.iter().cloned()).chain(three) {
                for (from, to, moved) in [
                    ("a", "b", within(&a, &text) && within(&d, &text)),
                    ("b", "a", within(&b, &text) && within(&c, &text)),
                ] {
                    let said = found.transfers.iter().any(|one| {
                        let Moved::Subjects(_, subjects) = &one.moved else { return false };
                        (&*one.from, &*one.to) == (from, to) && subjects.matches_wire(&text)
                    });
                    prop_assert_eq!(said, moved, "{} from {} to {}", text, from, to);
                }
            }
        }
    }

    #[test]
    fn what_several_could_publish_is_not_transferred() {
        let many = "writers = 'many'\nreason = 'x'\n";
        let sent = ["e.x".to_owned()];
        let defaults = Defaults {
            account: "APP".into(),
            lifetime: std::time::Duration::ZERO,
            audit: AuditStreams::default(),
        };
        for (before, after, moved) in [("", "", 1), ("", many, 1), (many, "", 0), (many, many, 0)] {
            let old = policy(before, &sent, &[]).unwrap();
            let new = policy(after, &[], &sent).unwrap();
            let found = diff(&old, &new, &defaults).unwrap().transfers;
            assert_eq!(found.len(), moved, "{before:?} {after:?}");
        }
    }

    #[test]
    fn what_two_keyspaces_share() {
        for (a, b, both) in [
            ("a", "a", Some("a")),
            ("a", "b", None),
            ("a", "a/x.>", Some("a/x.>")),
            ("a/x.>", "a/*.y", Some("a/x.y")),
            ("a/*.*.z", "a/x.>", Some("a/x.*.z")),
            ("a/*.y.>", "a/x.>", Some("a/x.y.>")),
            ("a/x.y", "a/x.z", None),
        ] {
            let parse = |text: &str| Keyspace::parse(text).unwrap();
            let found = shared(&parse(a), &parse(b)).map(|k| k.to_string());
            assert_eq!(found.as_deref(), both, "{a} and {b}");
            let found = shared(&parse(b), &parse(a)).map(|k| k.to_string());
            assert_eq!(found.as_deref(), both, "{b} and {a}");
        }
    }
}
