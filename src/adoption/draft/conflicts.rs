//! What clients do today that a company may not know of.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::case::{Case, Deeds, names, services};
use crate::adoption::evidence::fact::Fact;
use crate::adoption::evidence::generalise::Level;
use crate::adoption::evidence::{UNKNOWN, Work};

/// Notes who manages JetStream, who hears what is not theirs, and who is not known.
pub fn decide(case: &mut Case<'_>) {
    let manages = |fact: &Fact| matches!(fact, Fact::Manages(_, on) if !on.is_empty());
    let managing = case.deeds(|fact| manages(fact) || *fact == Fact::Elsewhere);
    note(case, "management", "creates, changes or lists streams and consumers", &managing);
    let hears = |wanted: fn(&str) -> bool| {
        move |deeds: &Deeds<'_>| {
            let seen = deeds.record.subjects.patterns(Level::None);
            seen.iter().any(|seen| wanted(&seen.pattern))
        }
    };
    let all = hears(|subject| subject.starts_with(['>', '*']));
    let mut subscribed = case.deeds(|fact| *fact == Fact::Subscribes);
    subscribed.retain(all);
    note(case, "hears-everything", "subscribes to everything", &subscribed);
    let keys = hears(|subject| subject.starts_with("$KV.") || subject.starts_with("$O."));
    let mut system = case.deeds(|fact| *fact == Fact::SubscribesSystem);
    system.retain(keys);
    note(case, "hears-keys", "subscribes to keys or objects without JetStream", &system);
    let inboxes = case.deeds(|fact| *fact == Fact::HearsInboxes);
    note(case, "hears-inboxes", "hears the answers to all others", &inboxes);
    let odd = case.deeds(|fact| *fact == Fact::OddReplies);
    note(case, "odd-replies", "wants answers on subjects that are no inboxes", &odd);
    let unknown = case.deeds(|_| true);
    let unknown: Vec<Deeds<'_>> = unknown.into_iter().filter(|deeds| !deeds.is_known()).collect();
    if let Some(work) = case.evidence.services().get(UNKNOWN) {
        let message = format!("clients that nobody knows are there: {}", who(work));
        let about: Vec<&Deeds<'_>> = unknown.iter().collect();
        case.conflict("unknown-clients", message, &about);
    }
    let mut holders: BTreeMap<Arc<str>, Vec<Arc<str>>> = BTreeMap::new();
    for (name, work) in case.evidence.services() {
        for key in work.nkeys.names() {
            holders.entry(Arc::clone(key)).or_default().push(Arc::clone(name));
        }
    }
    for (key, holders) in holders.into_iter().filter(|(_, holders)| holders.len() > 1) {
        let message = format!("{} log in with one NKEY, {key}", holders.join(", "));
        case.conflict("shared-nkey", message, &[]);
    }
}

fn who(work: &Work) -> String {
    let names =
        if work.names.is_empty() { "without names".to_owned() } else { work.names.to_string() };
    format!("{names}, from {}", work.addresses)
}

fn note(case: &mut Case<'_>, kind: &'static str, what: &str, deeds: &[Deeds<'_>]) {
    let about: Vec<&Deeds<'_>> = deeds.iter().collect();
    if about.is_empty() {
        return;
    }
    let many = if services(&about) == 1 { "" } else { " (each of them)" };
    case.conflict(kind, format!("{}{many} {what}", names(&about)), &about);
}
