//! After a "no": what stands in the way, what comes nearest, and what would have to be written.

use std::sync::Arc;

use super::{Question, Reach, owners};
use crate::diagnostics::toml::show_time;
use crate::grant::{Side, inbox_prefix, never_granted};
use crate::policy::model::{
    Access, ConsumerName, FoundName, Location, Policy, Replayed, Retention, Rule, STORE_PREFIX,
    Service,
};
use solewriter_types::keyspace::{BucketName, Keyspace};
use solewriter_types::kv_operation::{self, Act, Operation, Target, Usage};
use solewriter_types::subject::Pattern;

/// What to say beside a "no".
#[derive(Clone, Debug, Default)]
pub struct Advice {
    /// The service that owns the keyspace, store or subject or a part of it, or uses the consumer;
    /// with the rule.
    pub owner: Option<(Arc<str>, Rule)>,
    /// The rule of the service itself that comes nearest.
    pub nearest: Option<Rule>,
    /// Why no rule could grant it.
    pub never: Option<String>,
    /// What would have to be written.
    pub add: Option<Entry>,
}

/// An entry that would grant what was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The service whose table it belongs in.
    pub service: Arc<str>,
    /// Where that table stands.
    pub at: Location,
    /// The list: `owns`, `reads` and so on.
    pub key: &'static str,
    /// The element.
    pub value: String,
}

/// A rule for people: `owns orders (services.toml:14:9)`.
#[must_use]
pub fn said(rule: &Rule) -> String {
    let until =
        rule.until().map(|until| format!(" until {}", show_time(until))).unwrap_or_default();
    let granted = format!("{}{until}", rule.access);
    match rule.role() {
        None if rule.observed() => format!("{granted} ({}, as before: observed)", rule.at),
        Some(role) => format!("{granted} ({}, role {role})", rule.at),
        None => format!("{granted} ({})", rule.at),
    }
}

/// Why what a rule grants to one service is granted to no other.
#[must_use]
pub fn claim(access: &Access) -> &'static str {
    match access {
        Access::OwnsStore(_) => "an object store has one writer",
        Access::Publishes(_) | Access::Calls(_) => "a subject of a stream has one writer",
        Access::Consumes(_) => "each message goes to one of those who take it",
        Access::FoundAs(_) => "a name has one service",
        _ => "a key has one writer",
    }
}

/// What would have to be done where another service has it for itself.
#[must_use]
pub fn remedy(access: &Access) -> &'static str {
    match access {
        Access::Publishes(_) | Access::Calls(_) => {
            "to allow it, take the subject from the other service, or declare the stream with \
             `writers = \"many\"` and a `reason`"
        }
        Access::Consumes(_) => {
            "to allow it, declare a consumer for this service, or write `shared = \"why\"` in the \
             consumer's table"
        }
        Access::FoundAs(_) => "to allow it, take the name from the other service",
        _ => "to allow it, the ownership has to be transferred",
    }
}

impl std::fmt::Display for Entry {
    /// As it would be written: `[service.billing] reads = ["orders"]`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { service, at: _, key, value } = self;
        write!(f, "[service.{service}] {key} = [{value:?}]")
    }
}

impl Advice {
    /// The advice in words, one sentence each. `reach` is how much is granted already.
    #[must_use]
    pub fn sentences(&self, reach: Reach) -> Vec<String> {
        let Self { owner, nearest, never, add } = self;
        let mut sentences = Vec::new();
        if let Some((owner, rule)) = owner {
            sentences.push(format!("{owner} {}: {}", said(rule), claim(&rule.access)));
        }
        // What a part rests on was said already.
        if let Some(rule) = nearest.as_ref().filter(|_| reach == Reach::None) {
            sentences.push(format!("nearest rule: {}", said(rule)));
        }
        if let Some(never) = never {
            sentences.push(format!("no rule can grant it: {never}"));
        }
        match add {
            Some(Entry { service, at, key, value }) => sentences.push(format!(
                "to allow it, put {value:?} into `{key}` of [service.{service}] ({at})"
            )),
            None => {
                sentences.extend(owner.as_ref().map(|(_, rule)| remedy(&rule.access).to_owned()));
            }
        }
        sentences
    }
}

/// What would have to be different for `service` to get all of what it asks.
#[must_use]
pub fn advise(policy: &Policy, service: &Service, question: &Question) -> Advice {
    match question {
        Question::Write(keyspace) => write(policy, service, keyspace),
        Question::Read(keyspace) => Advice {
            nearest: nearest_keyspace(service, keyspace),
            add: Some(entry(service, "reads", keyspace.to_string())),
            ..Advice::default()
        },
        Question::Publish(pattern) => {
            let usage = Usage::of(Act::Publish, pattern.as_str());
            match Question::meant(&usage) {
                Some(meant) => advise(policy, service, &meant),
                None => match replayed_by(policy, pattern, &usage) {
                    Some(replayed) => replay(policy, service, &replayed),
                    None => publish(policy, service, pattern, &usage),
                },
            }
        }
        Question::Subscribe(pattern) => {
            let usage = Usage::of(Act::Subscribe, pattern.as_str());
            match Question::meant(&usage) {
                Some(meant) => advise(policy, service, &meant),
                None => plain(service, pattern, Side::Subscribe, None),
            }
        }
        Question::Find(name) => find(policy, service, name.as_ref(), question),
        Question::Found(name) => {
            let owner = other_owner(policy, service, question);
            let add = owner.is_none().then(|| entry(service, "found_as", name.to_string()));
            Advice { owner, add, ..Advice::default() }
        }
        Question::WriteStore(store) => {
            let owner = other_owner(policy, service, question);
            let named = format!("{STORE_PREFIX}{store}");
            let add = owner.is_none().then(|| entry(service, "owns", named));
            Advice { owner, nearest: nearest_store(service, store), never: None, add }
        }
        Question::ReadStore(store) => Advice {
            nearest: nearest_store(service, store),
            add: Some(entry(service, "reads", format!("{STORE_PREFIX}{store}"))),
            ..Advice::default()
        },
        Question::Consume(name) | Question::Ack(name) => consume(policy, service, name, question),
        Question::Replay(replayed) => replay(policy, service, replayed),
    }
}

/// The first of the other services that have it for themselves.
fn other_owner(
    policy: &Policy,
    service: &Service,
    question: &Question,
) -> Option<(Arc<str>, Rule)> {
    let owners = owners(policy, question).into_iter();
    let mut others = owners.filter(|(other, _)| other.name != service.name);
    others.next().map(|(other, rule)| (Arc::clone(&other.name), rule.clone()))
}

fn consume(policy: &Policy, service: &Service, name: &ConsumerName, question: &Question) -> Advice {
    let nearest = best(service, |rule| match &rule.access {
        Access::Consumes(other) => (other.name.stream() == name.stream()).then_some(1),
        _ => None,
    });
    let Some(consumer) = policy.consumer(name) else {
        let never = Some(format!("the policy declares no consumer `{name}`"));
        return Advice { nearest, never, ..Advice::default() };
    };
    let owner = other_owner(policy, service, question).filter(|_| consumer.shared.is_none());
    let add = owner.is_none().then(|| entry(service, "consumes", name.to_string()));
    Advice { owner, nearest, never: None, add }
}

fn replay(policy: &Policy, service: &Service, replayed: &Replayed) -> Advice {
    let nearest = best(service, |rule| match &rule.access {
        Access::Replays(other) => (other.stream() == replayed.stream()).then_some(2),
        Access::Consumes(other) => (other.name.stream() == replayed.stream()).then_some(1),
        _ => None,
    });
    let stream = policy.stream(replayed.stream().as_str());
    if stream.is_some_and(|stream| stream.retention == Retention::WorkQueue) {
        let never = Some(format!("`{}` is a work queue: use a consumer", replayed.stream()));
        return Advice { nearest, never, ..Advice::default() };
    }
    Advice {
        nearest,
        add: Some(entry(service, "replays", replayed.to_string())),
        ..Advice::default()
    }
}

/// The least of a stream that would have to be replayed for a service to be granted this request.
/// `None` when it is none about a replay, or when no such rule grants it.
fn replayed_by(policy: &Policy, pattern: &Pattern, usage: &Usage) -> Option<Replayed> {
    let Target::Stream { stream, subject, .. } = usage.target.as_ref()? else { return None };
    let named = Question::consumer_of(usage.target.as_ref()?);
    let declared = named.is_some_and(|name| policy.consumer(&name).is_some());
    let stream = policy.stream(stream)?;
    if usage.operation != Operation::Replay || declared {
        return None;
    }
    let filter = subject.as_deref();
    let bare = stream.consumers.is_empty();
    let granted = kv_operation::replaying(stream.name.as_str(), filter, bare);
    let is_granted = granted.iter().any(|(_, granted)| {
        Pattern::parse(granted).is_ok_and(|granted| pattern.is_subset_of(&granted))
    });
    let filter = filter.map(|filter| format!("/{filter}")).unwrap_or_default();
    let named = format!("{}{filter}", stream.name);
    is_granted.then(|| Replayed::parse(&named, |_| Arc::from([])).ok())?
}

fn find(
    policy: &Policy,
    service: &Service,
    name: Option<&FoundName>,
    question: &Question,
) -> Advice {
    let nearest = best(service, |rule| match &rule.access {
        Access::Discovers(_) | Access::DiscoversAll => Some(1),
        _ => None,
    });
    match name {
        Some(name) if owners(policy, question).is_empty() => {
            let never = Some(format!("no service is found as `{name}`"));
            Advice { nearest, never, ..Advice::default() }
        }
        name => {
            let asked = name.map_or_else(|| "*".to_owned(), ToString::to_string);
            Advice { nearest, add: Some(entry(service, "discovers", asked)), ..Advice::default() }
        }
    }
}

/// A subject that is published and stands for nothing but itself.
fn publish(policy: &Policy, service: &Service, pattern: &Pattern, usage: &Usage) -> Advice {
    let advice = plain(service, pattern, Side::Publish, reserved(policy, pattern, usage));
    let question = Question::Publish(pattern.clone());
    let alone = policy.keeping(pattern).any(|stream| stream.many_writers.is_none());
    let owner = other_owner(policy, service, &question).filter(|_| alone);
    match owner {
        Some(owner) if advice.never.is_none() => Advice { owner: Some(owner), add: None, ..advice },
        _ => advice,
    }
}

/// Why no rule can grant a request about a stream or its consumers.
fn reserved(policy: &Policy, pattern: &Pattern, usage: &Usage) -> Option<String> {
    if kv_operation::READING_STORES.contains(&pattern.as_str()) {
        return Some(
            "it tells of the whole account, and comes only with an object store: name the stream \
             (nats.py, nats.go), or leave out the check of the API (nats.js)"
                .to_owned(),
        );
    }
    let Target::Stream { stream, consumer, .. } = usage.target.as_ref()? else { return None };
    let declared = Question::consumer_of(usage.target.as_ref()?)
        .filter(|name| policy.consumer(name).is_some());
    match (usage.operation, declared) {
        (Operation::Administer | Operation::Replay, Some(name)) => Some(format!(
            "`{name}` is declared: `solewriter state apply` alone makes, changes and deletes it"
        )),
        (Operation::Ack, _) => Some(
            "only messages of a declared consumer are acknowledged, and `consumes` names it"
                .to_owned(),
        ),
        (Operation::Purge, _) => Some("only the admin of the streams purges one".to_owned()),
        (Operation::Administer, None) if consumer.is_some() => {
            Some("only the admin of the streams makes, changes and deletes consumers".to_owned())
        }
        (Operation::Open, _) => Some(
            "it comes only with `consumes` of a declared consumer, or with `replays` of a part of \
             the stream"
                .to_owned(),
        ),
        (Operation::Replay, _) if policy.stream(stream).is_none() => {
            Some(format!("the policy declares no stream `{stream}`"))
        }
        (Operation::Replay, _) => Some(
            "`replays` grants consumers with a name and one filter, because the stream has \
             declared consumers: give this one both"
                .to_owned(),
        ),
        _ => None,
    }
}

fn entry(service: &Service, key: &'static str, value: String) -> Entry {
    Entry { service: Arc::clone(&service.name), at: service.at.clone(), key, value }
}

fn write(policy: &Policy, service: &Service, keyspace: &Keyspace) -> Advice {
    let nearest = nearest_keyspace(service, keyspace);
    let owner = other_owner(policy, service, &Question::Write(keyspace.clone()));
    if owner.is_some() {
        return Advice { owner, nearest, ..Advice::default() };
    }
    let parts = policy.bucket(keyspace.bucket()).is_some_and(|bucket| bucket.part_owners);
    let value = if parts { keyspace.to_string() } else { keyspace.bucket().to_string() };
    Advice { nearest, add: Some(entry(service, "owns", value)), ..Advice::default() }
}

fn plain(service: &Service, pattern: &Pattern, side: Side, reserved: Option<String>) -> Advice {
    let nearest = nearest_subject(service, pattern, side);
    let inbox = format!("{}.>", inbox_prefix(&service.name));
    let never = if pattern.starts_with_wildcard() {
        Some("a wildcard as first token covers `$KV`, `$JS`, `$SYS` and every inbox".to_owned())
    } else if reserved.is_some() {
        reserved
    } else if let Some(forbidden) = never_granted(side, pattern) {
        Some(format!("`{forbidden}` is never granted to any service"))
    } else if pattern.first_token() == "_INBOX" {
        Some(match side {
            Side::Publish => "inboxes come with `answers`, all of them".to_owned(),
            Side::Subscribe => {
                let comes = format!("`{inbox}` comes with `reads`, `owns` and `calls`");
                let prefix = inbox_prefix(&service.name);
                let own =
                    pattern.as_str().strip_prefix(&*prefix).is_some_and(|r| r.starts_with('.'));
                if own {
                    format!("inboxes are private: {comes}")
                } else {
                    // What a client that was not told does first of all.
                    format!(
                        "inboxes are private: set the inbox prefix of this client to `{prefix}`; {comes}"
                    )
                }
            }
        })
    } else if pattern.as_str().starts_with(['$', '_']) {
        Some("what begins with `$` or `_` follows from `owns`, `reads` and the rest".to_owned())
    } else {
        None
    };
    let add = never.is_none().then(|| match side {
        Side::Publish => entry(service, "publishes", pattern.to_string()),
        Side::Subscribe => entry(service, "subscribes", pattern.to_string()),
    });
    Advice { owner: None, nearest, never, add }
}

/// A rule about the same bucket: rather one that shares a key with what is asked.
fn nearest_keyspace(service: &Service, wanted: &Keyspace) -> Option<Rule> {
    let score = |rule: &Rule| match &rule.access {
        Access::Owns(k) | Access::Writes(k) | Access::Reads(k) if k.bucket() == wanted.bucket() => {
            Some(1 + usize::from(k.shared_key(wanted).is_some()))
        }
        _ => None,
    };
    best(service, score)
}

/// A rule about that store.
fn nearest_store(service: &Service, wanted: &BucketName) -> Option<Rule> {
    best(service, |rule| match &rule.access {
        Access::OwnsStore(store) | Access::WritesStore(store) | Access::ReadsStore(store) => {
            (store == wanted).then_some(1)
        }
        _ => None,
    })
}

/// The rule of that side with the most first tokens in common.
fn nearest_subject(service: &Service, wanted: &Pattern, side: Side) -> Option<Rule> {
    let score = |rule: &Rule| {
        let ((Access::Publishes(pattern) | Access::Calls(pattern), Side::Publish)
        | (Access::Subscribes(pattern) | Access::Answers(pattern), Side::Subscribe)) =
            (&rule.access, side)
        else {
            return None;
        };
        let pairs = pattern.as_str().split('.').zip(wanted.as_str().split('.'));
        let common = pairs.take_while(|(a, b)| a == b).count();
        (common > 0).then_some(common)
    };
    best(service, score)
}

/// The first of the rules with the highest score.
fn best(service: &Service, score: impl Fn(&Rule) -> Option<usize>) -> Option<Rule> {
    let scored = service.rules.iter().rev().filter_map(|rule| Some((score(rule)?, rule)));
    scored.max_by_key(|(score, _)| *score).map(|(_, rule)| rule.clone())
}
