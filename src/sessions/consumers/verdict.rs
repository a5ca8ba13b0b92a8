//! What should become of a consumer. Pure: what the server lists of it, and the policy in force.
//!
//! A push consumer belongs to the service whose inbox it delivers to, because nobody else hears
//! it; who made it is not known and does not matter. It is covered when that service may read
//! everything that it delivers. A pull consumer has no owner: it gives only to who may ask it,
//! which no grant permits on a bucket or an object store, on an audit stream those that audit it,
//! and on another stream those that replay it or use that consumer. Its name and its metadata are
//! its client's choice, so nothing is concluded from them; except from the name of a declared
//! consumer, which no service can give to another one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Settings, Strangers};
use solewriter_core::policy::model::{Access, Policy, Service, StreamName};
use solewriter_types::audit_event::PRODUCER;
use solewriter_types::keyspace::BucketName;
use solewriter_types::kv_operation::{STORE_STREAM, inbox_owner, is_inbox};
use solewriter_types::subject::Pattern;

/// How long a consumer that reaches no service is left: long enough to list a bucket's keys.
pub const FRESH_FOR: i64 = 60;
/// How many of these one stream may have.
pub const STRANGERS_AT_MOST: usize = 32;
/// The most bytes of what the server lists of one consumer; those that clients make have less than
/// 2,000. A page of larger ones could be more than a connection takes, and hide what is in it.
pub const MAX_BYTES: usize = 32 * 1024;

/// A consumer as the server lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consumer {
    /// Its name, which its client chose.
    pub name: String,
    /// When it was made, in seconds since the Unix epoch; `None` when the server says nothing
    /// that is a time.
    pub created: Option<i64>,
    /// Where it delivers to; `None` for a pull consumer.
    pub deliver: Option<String>,
    /// The subjects that it is bounded to; empty for everything.
    pub filters: Vec<String>,
    /// Whether somebody listens where it delivers to.
    pub bound: bool,
    /// Whether it stays when its client goes.
    pub durable: bool,
    /// How many bytes the server's description of it has.
    pub bytes: usize,
}

/// What kind of stream it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A KV bucket's.
    Bucket,
    /// An object store's.
    Store,
    /// An audit stream.
    Audit,
    /// Another stream, declared or not.
    Stream,
}

impl Place {
    /// Of a stream that is no audit stream, by its name; `None` for the server's own.
    #[must_use]
    pub fn of(stream: &str) -> Option<Self> {
        if stream.starts_with("KV_") {
            Some(Self::Bucket)
        } else if stream.starts_with(STORE_STREAM) {
            Some(Self::Store)
        } else {
            StreamName::parse(stream).ok().map(|_| Self::Stream)
        }
    }
}

/// Whose a consumer is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The service that hears what it delivers.
    Service(Arc<str>),
    /// No service: it delivers to solewriter's own users, or is pulled from, or nobody hears it.
    Nobody,
}

/// Why a consumer is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// It delivers to subjects of the server's own, such as a bucket's.
    System,
    /// What it delivers is not its service's to read.
    Lost,
    /// Its service is disabled.
    Disabled,
    /// Its service has no key that counts now.
    NoKey,
    /// It reaches no service, and is not new.
    Stranger,
    /// Its service, or all that reach no service together, have more than they may.
    TooMany,
    /// Its description is larger than any that a client makes.
    Oversized,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::System,
        Self::Lost,
        Self::Disabled,
        Self::NoKey,
        Self::Stranger,
        Self::TooMany,
        Self::Oversized,
    ];

    /// A short, stable name for metrics and logs.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::System => "system_subject",
            Self::Lost => "lost",
            Self::Disabled => "disabled",
            Self::NoKey => "no_key",
            Self::Stranger => "stranger",
            Self::TooMany => "too_many",
            Self::Oversized => "oversized",
        }
    }

    /// Whether it may deliver what somebody may not have. The rest only costs.
    #[must_use]
    pub fn is_urgent(self) -> bool {
        matches!(self, Self::System | Self::Lost | Self::Disabled | Self::NoKey | Self::Oversized)
    }

    /// Why, for people.
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            Self::System => "it delivers to a subject of the server",
            Self::Lost => "the service may not read what it delivers",
            Self::Disabled => "the service is disabled",
            Self::NoKey => "no key of the service is valid now",
            Self::Stranger => "it reaches no service",
            Self::TooMany => "there are more than [sessions] consumers_per_service allows",
            Self::Oversized => "its description is larger than any client's",
        }
    }
}

/// What should become of a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may stay, and counts as this owner's.
    Keep(Owner),
    /// It must go.
    Delete(Owner, Cause),
}

/// Judges the consumers of one stream by one policy.
pub struct Judge<'a> {
    policy: &'a Policy,
    stream: &'a str,
    place: Place,
    settings: Settings,
    /// Seconds since the Unix epoch.
    now: i64,
    rights: HashMap<Arc<str>, Rights>,
}

/// What a service may read of a stream.
enum Rights {
    None(Cause),
    Parts(Vec<Pattern>),
    All,
}

impl<'a> Judge<'a> {
    /// For that stream, at `now` in seconds since the Unix epoch.
    #[must_use]
    pub fn new(
        policy: &'a Policy,
        (place, stream): (Place, &'a str),
        settings: Settings,
        now: i64,
    ) -> Self {
        Self { policy, stream, place, settings, now, rights: HashMap::new() }
    }

    /// What should become of a consumer, whatever others there are.
    pub fn judge(&mut self, consumer: &Consumer) -> Verdict {
        let owner = consumer.deliver.as_deref().and_then(|deliver| self.owner(deliver));
        let service = owner.map_or(Owner::Nobody, |service| Owner::Service(service.name.clone()));
        if consumer.bytes > MAX_BYTES {
            return Verdict::Delete(service, Cause::Oversized);
        }
        if self.place == Place::Stream && self.is_left(owner, &consumer.name) {
            return Verdict::Keep(Owner::Nobody);
        }
        if let Some(found) = owner {
            return match self.uncovered(found, &consumer.filters) {
                None => Verdict::Keep(service),
                Some(cause) => Verdict::Delete(service, cause),
            };
        }
        match consumer.deliver.as_deref() {
            // Nothing hears it in the services' account. In a supercluster, though, interest in
            // the whole of a bucket counts as interest in a key, and it would write there.
            Some(deliver) if deliver.starts_with('$') => {
                Verdict::Delete(Owner::Nobody, Cause::System)
            }
            // The inbox of the operator's own tools.
            Some(deliver) if inbox_owner(deliver) == Some(PRODUCER) => Verdict::Keep(Owner::Nobody),
            // Who audits the stream may pull, and so may its own account's users.
            None if self.place == Place::Audit => Verdict::Keep(Owner::Nobody),
            // What works in the account itself has streams and consumers of its own there.
            _ if self.place == Place::Stream => Verdict::Keep(Owner::Nobody),
            _ if self.settings.strangers == Strangers::Leave || self.is_fresh(consumer) => {
                Verdict::Keep(Owner::Nobody)
            }
            _ => Verdict::Delete(Owner::Nobody, Cause::Stranger),
        }
    }

    /// Whether a consumer of a plain stream is left, whatever it delivers: a declared one that
    /// reaches nobody else than who uses it; and all of a stream that is not declared, where
    /// strangers are left.
    fn is_left(&self, owner: Option<&Service>, consumer: &str) -> bool {
        let Some(stream) = self.policy.stream(self.stream) else {
            return owner.is_some() && self.settings.strangers == Strangers::Leave;
        };
        let uses = |service: &Service| service.consumes(self.stream, consumer);
        stream.consumer(consumer).is_some() && owner.is_some_and(uses)
    }

    /// The service that hears what is delivered there.
    fn owner(&self, deliver: &str) -> Option<&'a Service> {
        if !is_inbox(deliver) {
            return None;
        }
        self.policy.service(inbox_owner(deliver)?)
    }

    /// Made a moment ago, as far as the server's word goes; what lies in the future is not.
    fn is_fresh(&self, consumer: &Consumer) -> bool {
        let age = consumer.created.and_then(|created| self.now.checked_sub(created));
        // A server's clock may be ahead a little.
        age.is_some_and(|age| (-FRESH_FOR..FRESH_FOR).contains(&age))
    }

    /// Why a service may not have a consumer with these filters, if it may not.
    fn uncovered(&mut self, service: &Service, filters: &[String]) -> Option<Cause> {
        let (place, stream, now) = (self.place, self.stream, self.now);
        let rights = self
            .rights
            .entry(service.name.clone())
            .or_insert_with(|| Rights::of(service, (place, stream), now));
        match rights {
            Rights::None(cause) => Some(*cause),
            Rights::All => None,
            Rights::Parts(parts) => {
                let within = |filter: &String| {
                    Pattern::parse(filter)
                        .is_ok_and(|filter| parts.iter().any(|part| filter.is_subset_of(part)))
                };
                let covered = !filters.is_empty() && filters.iter().all(within);
                (!covered).then_some(Cause::Lost)
            }
        }
    }

    /// Which of those that are kept are too many: indexes into `kept`. What nobody listens to goes
    /// first, and what delivers where another one does; then the newest. So nobody can use up what
    /// a service may have by making consumers that deliver to its inbox.
    #[must_use]
    pub fn surplus(&self, kept: &[(Owner, Consumer)]) -> Vec<usize> {
        let mut owners: HashMap<&Owner, Vec<usize>> = HashMap::new();
        for (index, (owner, _)) in kept.iter().enumerate() {
            owners.entry(owner).or_default().push(index);
        }
        let mut surplus = Vec::new();
        for (owner, mut indexes) in owners {
            let most = match owner {
                Owner::Service(_) => self.settings.per_service,
                Owner::Nobody
                    if self.settings.strangers == Strangers::Leave
                        || self.place == Place::Stream =>
                {
                    continue;
                }
                Owner::Nobody => STRANGERS_AT_MOST.min(self.settings.per_service),
            };
            if indexes.len() <= most {
                continue;
            }
            let consumer = |index: usize| kept.get(index).map(|(_, consumer)| consumer);
            // The oldest first, and what has no time last.
            indexes.sort_by_key(|&index| {
                consumer(index).map(|c| (c.created.unwrap_or(i64::MAX), c.name.as_str()))
            });
            let mut heard = HashSet::new();
            let (mut ordered, idle): (Vec<usize>, Vec<usize>) =
                indexes.into_iter().partition(|&index| {
                    consumer(index).is_some_and(|c| match &c.deliver {
                        Some(to) => c.bound && heard.insert(to.as_str()),
                        None => true,
                    })
                });
            ordered.extend(idle);
            surplus.extend(ordered.into_iter().skip(most));
        }
        surplus.sort_unstable();
        surplus
    }
}

impl Rights {
    fn of(service: &Service, (place, stream): (Place, &str), now: i64) -> Self {
        if service.disabled.is_some() {
            return Self::None(Cause::Disabled);
        }
        if !service.keys.iter().any(|key| key.counts_at(now)) {
            return Self::None(Cause::NoKey);
        }
        let bucket = stream.strip_prefix("KV_").and_then(|name| BucketName::parse(name).ok());
        let mut parts = Vec::new();
        for rule in &service.rules {
            match (place, &rule.access) {
                (Place::Bucket, Access::Owns(keyspace) | Access::Reads(keyspace))
                    if Some(keyspace.bucket()) == bucket.as_ref() =>
                {
                    if keyspace.part().is_none() {
                        return Self::All;
                    }
                    parts.extend(Pattern::parse(&keyspace.subjects()));
                }
                (Place::Store, Access::OwnsStore(name) | Access::ReadsStore(name))
                    if stream.strip_prefix(STORE_STREAM) == Some(name.as_str()) =>
                {
                    return Self::All;
                }
                (Place::Audit, Access::Audits(name)) if name.as_str() == stream => {
                    return Self::All;
                }
                (Place::Stream, Access::Replays(replayed))
                    if replayed.stream().as_str() == stream =>
                {
                    match replayed.filter() {
                        None => return Self::All,
                        Some(filter) => parts.push(filter.clone()),
                    }
                }
                _ => {}
            }
        }
        if parts.is_empty() { Self::None(Cause::Lost) } else { Self::Parts(parts) }
    }
}

#[cfg(test)]
mod tests;
