//! After a "no": what stands in the way, what comes nearest, and what would have to be written.

use std::sync::Arc;

use super::{Question, Reach};
use crate::grant::{Side, inbox_prefix, never_granted};
use crate::policy::model::{Access, Location, Policy, Rule, Service};
use solewriter_types::keyspace::Keyspace;
use solewriter_types::subject::Pattern;

/// What remains where another service owns the keyspace.
pub const TRANSFER: &str = "to allow it, the ownership has to be transferred";

/// What to say beside a "no".
#[derive(Clone, Debug, Default)]
pub struct Advice {
    /// The service that owns the keyspace or a part of it, with the rule.
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
    match &rule.role {
        Some(role) => format!("{} ({}, role {role})", rule.access, rule.at),
        None => format!("{} ({})", rule.access, rule.at),
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
            sentences.push(format!("{owner} {}: a key has one writer", said(rule)));
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
            None if owner.is_some() => {
                sentences.push(TRANSFER.to_owned());
            }
            None => {}
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
        Question::Publish(pattern) => match keyspace_of(pattern) {
            Some(keyspace) => write(policy, service, &keyspace),
            None => plain(service, pattern, Side::Publish),
        },
        Question::Subscribe(pattern) => plain(service, pattern, Side::Subscribe),
    }
}

fn entry(service: &Service, key: &'static str, value: String) -> Entry {
    Entry { service: Arc::clone(&service.name), at: service.at.clone(), key, value }
}

fn write(policy: &Policy, service: &Service, keyspace: &Keyspace) -> Advice {
    let nearest = nearest_keyspace(service, keyspace);
    let owner = policy
        .owners(keyspace)
        .find(|(other, _)| other.name != service.name)
        .map(|(other, rule)| (Arc::clone(&other.name), rule.clone()));
    if owner.is_some() {
        return Advice { owner, nearest, ..Advice::default() };
    }
    let parts = policy.bucket(keyspace.bucket()).is_some_and(|bucket| bucket.part_owners);
    let value = if parts { keyspace.to_string() } else { keyspace.bucket().to_string() };
    Advice { nearest, add: Some(entry(service, "owns", value)), ..Advice::default() }
}

fn plain(service: &Service, pattern: &Pattern, side: Side) -> Advice {
    let nearest = nearest_subject(service, pattern, side);
    let inbox = format!("{}.>", inbox_prefix(&service.name));
    let never = if pattern.starts_with_wildcard() {
        Some("a wildcard as first token covers `$KV`, `$JS`, `$SYS` and every inbox".to_owned())
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

/// The keyspace that a subject stands for.
fn keyspace_of(pattern: &Pattern) -> Option<Keyspace> {
    let (bucket, keys) = pattern.as_str().strip_prefix("$KV.")?.split_once('.')?;
    Keyspace::parse(&format!("{bucket}/{keys}")).ok()
}

/// A rule about the same bucket: rather one that shares a key with what is asked.
fn nearest_keyspace(service: &Service, wanted: &Keyspace) -> Option<Rule> {
    let score = |rule: &Rule| match &rule.access {
        Access::Owns(k) | Access::Reads(k) if k.bucket() == wanted.bucket() => {
            Some(1 + usize::from(k.shared_key(wanted).is_some()))
        }
        _ => None,
    };
    best(service, score)
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
