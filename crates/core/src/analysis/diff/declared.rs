//! Changes of declared streams, consumers and object stores.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::Fate;
use crate::diagnostics::toml::{show_duration, show_size, show_time};
use crate::policy::model::{Consumer, Feature, Policy, STORE_PREFIX, Store, Stream};
use solewriter_types::subject::Pattern;

/// A setting of a declaration that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredSetting {
    /// The key in its table.
    pub setting: &'static str,
    /// Before; `None` when it was not set.
    pub old: Option<String>,
    /// After; `None` when it is not set.
    pub new: Option<String>,
}

/// A declaration that is new, gone or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredChange {
    /// `stream`, `consumer` or `store`.
    pub kind: &'static str,
    /// Its name: `EVENTS`, `EVENTS/shipping`, `invoices`.
    pub name: String,
    /// What became of it.
    pub fate: Fate,
    /// Its settings that changed; empty when it is new or gone.
    pub settings: Vec<DeclaredSetting>,
}

impl fmt::Display for DeclaredChange {
    /// In one line: `stream EVENTS: retention limits -> interest; max_age unset -> 30d`. It holds
    /// what people wrote: clean it before it is printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, fate, settings } = self;
        match *kind {
            "store" => write!(f, "{STORE_PREFIX}{name}")?,
            _ => write!(f, "{kind} {name}")?,
        }
        match fate {
            Fate::Added => return f.write_str(" is new"),
            Fate::Removed => return f.write_str(" is removed"),
            Fate::Changed => {}
        }
        let mut before = ": ";
        for DeclaredSetting { setting, old, new } in settings {
            let text = |value: &Option<String>| value.as_deref().unwrap_or("unset").to_owned();
            write!(f, "{before}{setting} {} -> {}", text(old), text(new))?;
            before = "; ";
        }
        Ok(())
    }
}

/// The settings of one declaration. Descriptions are for people, and not among them.
type Settings = Vec<(&'static str, Option<String>)>;

/// What differs in the declarations of two policies.
pub(super) fn changes(old: &Policy, new: &Policy) -> Vec<DeclaredChange> {
    let (old, new) = (declared(old), declared(new));
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let change = |key: &&(Kind, String)| {
        let (fate, settings) = match (old.get(*key), new.get(*key)) {
            (Some(old), Some(new)) => (Fate::Changed, differing(old, new)),
            (None, _) => (Fate::Added, Vec::new()),
            (_, None) => (Fate::Removed, Vec::new()),
        };
        let (kind, name) = *key;
        let differs = fate != Fate::Changed || !settings.is_empty();
        let kind = kind.as_str();
        differs.then(|| DeclaredChange { kind, name: name.clone(), fate, settings })
    };
    names.iter().filter_map(change).collect()
}

/// What is declared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Stream,
    Consumer,
    Store,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Consumer => "consumer",
            Self::Store => "store",
        }
    }
}

fn declared(policy: &Policy) -> BTreeMap<(Kind, String), Settings> {
    let mut all = BTreeMap::new();
    for stream in policy.streams() {
        all.insert((Kind::Stream, stream.name.to_string()), of_stream(stream));
        for one in &stream.consumers {
            let name = format!("{}/{}", stream.name, one.name);
            all.insert((Kind::Consumer, name), of_consumer(one));
        }
    }
    for store in policy.stores() {
        all.insert((Kind::Store, store.name.to_string()), of_store(store));
    }
    all
}

/// Both lists have the same settings in the same order.
fn differing(old: &Settings, new: &Settings) -> Vec<DeclaredSetting> {
    let pairs = old.iter().zip(new).filter(|(old, new)| old != new);
    pairs
        .map(|((setting, old), (_, new))| DeclaredSetting {
            setting,
            old: old.clone(),
            new: new.clone(),
        })
        .collect()
}

fn of_stream(stream: &Stream) -> Settings {
    let Stream {
        name: _,
        description: _,
        subjects,
        retention,
        max_age,
        max_bytes,
        max_messages,
        max_per_subject,
        max_message_size,
        discard,
        duplicate_window,
        storage,
        compression,
        replicas,
        direct,
        many_writers,
        domain,
        features: _,
        consumers: _,
        at: _,
    } = stream;
    let mut settings = vec![
        ("subjects", patterns(subjects)),
        ("retention", set(Some(retention.as_str()))),
        ("max_age", max_age.map(show_duration)),
        ("max_bytes", max_bytes.map(show_size)),
        ("max_messages", set(*max_messages)),
        ("max_per_subject", set(*max_per_subject)),
        ("max_message_size", max_message_size.map(show_size)),
        ("discard", set(Some(discard.as_str()))),
        ("duplicate_window", Some(show_duration(*duplicate_window))),
        ("storage", set(Some(storage.as_str()))),
        ("compression", set(Some(*compression))),
        ("replicas", set(Some(*replicas))),
        ("direct", set(Some(*direct))),
        ("writers", set(Some(if many_writers.is_some() { "many" } else { "one" }))),
        ("reason", many_writers.clone()),
        ("domain", domain.as_ref().map(ToString::to_string)),
    ];
    let features = Feature::ALL.map(|one| (one.as_str(), set(Some(stream.has(one)))));
    settings.extend(features);
    settings
}

fn of_consumer(consumer: &Consumer) -> Settings {
    let Consumer {
        name: _,
        description: _,
        filter,
        ack,
        ack_wait,
        max_deliver,
        backoff,
        max_ack_pending,
        deliver,
        replay,
        inactive,
        shared,
        made_by,
        start_sequence,
        start_time,
        push,
        priority,
        at: _,
    } = consumer;
    let (push, priority) = (push.as_ref(), priority.as_ref());
    let times: Vec<String> = backoff.iter().copied().map(show_duration).collect();
    vec![
        ("filter", patterns(filter)),
        ("ack", set(Some(ack.as_str()))),
        ("ack_wait", Some(show_duration(*ack_wait))),
        ("max_deliver", set(*max_deliver)),
        ("backoff", list(&times)),
        ("max_ack_pending", set(*max_ack_pending)),
        ("deliver", set(Some(deliver.as_str()))),
        ("replay", set(Some(replay.as_str()))),
        ("inactive", inactive.map(show_duration)),
        ("shared", shared.clone()),
        ("made_by", set(Some(made_by.as_str()))),
        ("start_sequence", set(*start_sequence)),
        ("start_time", start_time.map(show_time)),
        ("push", set(Some(push.is_some()))),
        ("group", push.and_then(|push| push.group.clone())),
        ("heartbeat", push.and_then(|push| push.heartbeat).map(show_duration)),
        ("flow_control", set(Some(push.is_some_and(|push| push.flow_control)))),
        ("priority", set(priority.map(|priority| priority.policy.as_str()))),
        ("priority_group", priority.map(|priority| priority.group.clone())),
        ("priority_timeout", priority.and_then(|p| p.timeout).map(show_duration)),
    ]
}

fn of_store(store: &Store) -> Settings {
    let Store {
        name: _,
        description: _,
        ttl,
        max_bytes,
        replicas,
        storage,
        compression,
        domain,
        at: _,
    } = store;
    vec![
        ("ttl", ttl.map(show_duration)),
        ("max_bytes", max_bytes.map(show_size)),
        ("replicas", set(Some(*replicas))),
        ("storage", set(Some(storage.as_str()))),
        ("compression", set(Some(*compression))),
        ("domain", domain.as_ref().map(ToString::to_string)),
    ]
}

fn set(value: Option<impl ToString>) -> Option<String> {
    value.map(|value| value.to_string())
}

fn patterns(patterns: &[Pattern]) -> Option<String> {
    list(&patterns.iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn list(texts: &[String]) -> Option<String> {
    (!texts.is_empty()).then(|| texts.join(", "))
}
