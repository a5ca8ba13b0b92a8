//! What each service was seen to do, in memory that does not grow with how much it does.
//!
//! - [`fact`] says what a deed shows;
//! - [`tokens`] keeps subjects, [`generalise`] makes patterns of them;
//! - [`tally`] counts, [`names`] gives services their names; `repeats` has what was not looked at yet.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use solewriter_core::keys::UserKey;
use solewriter_types::kv_operation::{self, Target, Usage, is_inbox};
use solewriter_types::subject::MAX_SUBJECT_BYTES;

use self::fact::{Durables, Fact, facts, is_of_inboxes};
use self::names::Names;
use self::repeats::{Met, Repeats, Way, Worth, worth};
use self::tally::{Few, Mark, Tally};
use self::tokens::Tokens;
use super::deed::{Act, Client, Deed};
use super::mapping::Mapping;

pub mod fact;
pub mod generalise;
pub mod names;
mod repeats;
pub mod tally;
pub mod tokens;

/// What clients are called of which nobody knows what service they are. No service can have it.
pub const UNKNOWN: &str = "(unknown)";

/// The most places in all trees of subjects together.
pub const MAX_NODES: usize = 400_000;

/// The most facts of all services together.
const MAX_FACTS: usize = 40_000;

/// The most services.
const MAX_SERVICES: usize = 4_000;

/// The most users, and the most streams.
const MAX_USERS: usize = 20_000;

/// The most requests whose answers are waited for.
const MAX_ASKED: usize = 8_192;

/// The longest name that is kept of a user or a queue group.
const MAX_NAME_BYTES: usize = 256;

/// What was seen of one fact.
#[derive(Clone, Debug)]
pub struct Record {
    /// How often, when, by whom.
    pub tally: Tally,
    /// Subjects, keys or filters, where there are any.
    pub subjects: Tokens,
}

/// What is known of one service.
#[derive(Clone, Debug, Default)]
pub struct Work {
    /// What it was seen to do.
    pub facts: BTreeMap<Fact, Record>,
    /// Its users.
    pub users: Few,
    /// Its public NKEYs.
    pub nkeys: Few,
    /// The names of its connections.
    pub names: Few,
    /// Its addresses.
    pub addresses: Few,
    /// Its user, where that cannot name a service.
    pub renamed: Option<Arc<str>>,
    /// Its use of inboxes that are not below `_INBOX.<service>`.
    pub inbox: Tally,
}

/// Requests that were delivered, by where their answers go.
#[derive(Debug, Default)]
struct Asked {
    order: VecDeque<u64>,
    subjects: HashMap<u64, Box<str>>,
}

impl Asked {
    fn insert(&mut self, key: u64, subject: &str) {
        if self.subjects.insert(key, subject.into()).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > MAX_ASKED
            && let Some(oldest) = self.order.pop_front()
        {
            self.subjects.remove(&oldest);
        }
    }
}

/// What was seen.
#[derive(Debug)]
pub struct Evidence {
    mapping: Mapping,
    durables: Durables,
    names: Names,
    users: BTreeSet<Arc<str>>,
    services: BTreeMap<Arc<str>, Work>,
    streams: BTreeMap<Arc<str>, Tokens>,
    asked: Asked,
    repeats: Repeats,
    facts: usize,
    nodes: usize,
    /// No more subjects are kept.
    full: bool,
}

impl Evidence {
    /// Nothing seen yet. `durables` are the durable consumers that there are, where that is known:
    /// otherwise their names tell.
    #[must_use]
    pub fn new(mapping: Mapping, durables: Durables) -> Self {
        Self {
            mapping,
            durables,
            names: Names::default(),
            users: BTreeSet::new(),
            services: BTreeMap::new(),
            streams: BTreeMap::new(),
            asked: Asked::default(),
            repeats: Repeats::default(),
            facts: 0,
            nodes: 0,
            full: false,
        }
    }

    /// What each service was seen to do, and under [`UNKNOWN`] what nobody known did; as of the last
    /// [`Evidence::settle`].
    #[must_use]
    pub fn services(&self) -> &BTreeMap<Arc<str>, Work> {
        &self.services
    }

    /// The streams that were seen, and the subjects that each was seen to keep.
    #[must_use]
    pub fn streams(&self) -> &BTreeMap<Arc<str>, Tokens> {
        &self.streams
    }

    /// How many places all trees of subjects have together.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// Whether durable consumers are known, and not told by their names.
    #[must_use]
    pub fn durables(&self) -> &Durables {
        &self.durables
    }

    /// Takes one deed. What may come again is only counted until [`Evidence::settle`].
    pub fn take(&mut self, deed: &Deed<'_>) {
        let number = self.repeats.known(deed.by).unwrap_or_else(|| self.meet(deed.by));
        let Some(Met { service, user, .. }) = self.repeats.of(number) else { return };
        match worth(deed.act, service) {
            Worth::Nothing => {}
            Worth::Again(way, subject) => {
                self.repeats.again(number, way, subject, deed.at);
                if self.repeats.is_full() {
                    self.settle();
                }
            }
            Worth::Once => {
                let (service, user) = (Arc::clone(service), Arc::clone(user));
                let queue = match deed.act {
                    Act::Subscribe { queue: Some(queue), .. } => Some(self.name(queue)),
                    _ => None,
                };
                let mark = Mark::once(deed.at, &user, queue.as_ref());
                if !self.asks_or_answers(deed, &service, mark) {
                    self.shows(&service, deed.act, mark);
                }
            }
        }
    }

    /// Takes a client that is connected now, with its subscriptions, each with its queue group. Gives
    /// the service.
    pub fn open<'s>(
        &mut self,
        client: &Client,
        subscriptions: impl IntoIterator<Item = (&'s str, Option<&'s str>)>,
    ) -> Option<Arc<str>> {
        let number = self.repeats.known(client).unwrap_or_else(|| self.meet(client));
        let Met { service, user, .. } = self.repeats.of(number)?;
        let (service, user) = (Arc::clone(service), Arc::clone(user));
        for (subject, queue) in subscriptions {
            let group = queue.map(|queue| self.name(queue));
            let (user, group) = (&user, group.as_ref());
            let mark = Mark { count: 1, now: 1, first: None, last: None, user, queue: group };
            self.shows(&service, Act::Subscribe { subject, queue }, mark);
        }
        Some(service)
    }

    /// A client's number, from now on.
    fn meet(&mut self, client: &Client) -> usize {
        if self.repeats.is_full() {
            self.settle();
        }
        let service = self.service(client);
        let user = self.name(&client.to_string());
        self.repeats.meet(client, service, user)
    }

    /// Looks at all that was only counted.
    pub fn settle(&mut self) {
        for (Met { service, user, .. }, way, subject, times) in self.repeats.take() {
            let own = format!("_INBOX.{service}.");
            let subject = &*subject;
            let act = match way {
                Way::Publish => Act::Publish { subject, reply: None },
                Way::Ask => Act::Publish { subject, reply: Some(&own) },
                Way::AskElsewhere => Act::Publish { subject, reply: Some("_INBOX..") },
                Way::Subscribe => Act::Subscribe { subject, queue: None },
            };
            let (count, first, last) = (times.count, times.first, times.last);
            self.shows(
                &service,
                act,
                Mark { count, now: 0, first, last, user: &user, queue: None },
            );
        }
    }

    /// Whether a deed is one of a request and its answer, which belong together.
    fn asks_or_answers(&mut self, deed: &Deed<'_>, service: &Arc<str>, mark: Mark<'_>) -> bool {
        match deed.act {
            Act::Receive { subject, reply } => {
                if let Some(reply) = reply {
                    self.received(deed.by, subject, reply, mark);
                }
                true
            }
            Act::Publish { subject, .. } if is_inbox(subject) => {
                let asked = self.asked.subjects.get(&key_of(deed.by, subject)).cloned();
                if let Some(asked) = &asked {
                    self.note_inbox(service, deed.act, mark);
                    self.record(service, Fact::Answers, Some(asked), mark);
                }
                asked.is_some()
            }
            _ => false,
        }
    }

    /// Records what a deed shows by itself.
    fn shows(&mut self, service: &Arc<str>, act: Act<'_>, mark: Mark<'_>) {
        self.note_inbox(service, act, mark);
        for (fact, subject) in facts(act, &self.durables) {
            if let (Some(stream), Some(kept)) = (fact.stream(), subject.filter(|s| *s != ">")) {
                self.keeps(stream, kept, mark);
            } else if let Some(stream) = fact.stream() {
                self.stream(stream);
            }
            self.record(service, fact, subject, mark);
        }
    }

    /// The service of a client.
    fn service(&mut self, client: &Client) -> Arc<str> {
        let identity = client.user.as_deref().or(client.nkey.as_deref());
        let mapped = self.mapping.service(client);
        let is_mapped = mapped.is_some();
        let name = mapped.or_else(|| self.names.of(identity.filter(|id| !id.is_empty())?));
        let mut name = name.unwrap_or_else(|| UNKNOWN.into());
        if !self.services.contains_key(&name) && self.services.len() >= MAX_SERVICES {
            name = UNKNOWN.into();
        }
        let texts = [&client.user, &client.nkey, &client.name, &Some(client.address.clone())]
            .map(|text| text.as_deref().map(|text| self.name(text)));
        let work = self.services.entry(Arc::clone(&name)).or_default();
        let [user, nkey, called, address] = texts;
        let nkey = nkey.or_else(|| user.clone()).filter(|key| UserKey::parse(key).is_ok());
        for (few, text) in [
            (&mut work.users, &user),
            (&mut work.nkeys, &nkey),
            (&mut work.names, &called),
            (&mut work.addresses, &address),
        ] {
            if let Some(text) = text {
                few.add(text);
            }
        }
        if let Some(identity) = identity.filter(|id| !is_mapped && **id != *name)
            && &*name != UNKNOWN
            && work.renamed.is_none()
        {
            work.renamed = Some(identity.into());
        }
        name
    }

    /// A name, kept once.
    fn name(&mut self, text: &str) -> Arc<str> {
        let text = match text.char_indices().nth(MAX_NAME_BYTES / 4) {
            Some((end, _)) => text.get(..end).unwrap_or_default(),
            None => text,
        };
        if let Some(name) = self.users.get(text) {
            return Arc::clone(name);
        }
        if self.users.len() >= MAX_USERS {
            return "somebody".into();
        }
        let name: Arc<str> = text.into();
        self.users.insert(Arc::clone(&name));
        name
    }

    /// Inboxes of a service's own have to be below its name once it is let in by a policy.
    fn note_inbox(&mut self, service: &Arc<str>, act: Act<'_>, mark: Mark<'_>) {
        let inbox = match act {
            Act::Subscribe { subject, .. } => Some(subject),
            Act::Publish { reply, .. } => reply,
            Act::Receive { .. } => None,
        };
        let Some(inbox) = inbox.filter(|inbox| is_of_inboxes(inbox)) else { return };
        if inbox.split('.').nth(1) != Some(service)
            && let Some(work) = self.services.get_mut(service)
        {
            work.inbox.add(mark);
        }
    }

    /// What a client was given tells of streams, and of requests that wait for an answer.
    fn received(&mut self, by: &Client, subject: &str, reply: &str, mark: Mark<'_>) {
        if is_inbox(reply) && reply.len() <= MAX_SUBJECT_BYTES && subject.len() <= MAX_SUBJECT_BYTES
        {
            self.asked.insert(key_of(by, reply), subject);
        } else if reply.starts_with("$JS.ACK.")
            && !subject.starts_with(['$', '_'])
            && let Usage { target: Some(Target::Stream { stream, .. }), .. } =
                Usage::of(kv_operation::Act::Publish, reply)
        {
            self.keeps(&stream, subject, mark);
        }
    }

    fn stream(&mut self, stream: &str) -> Option<&mut Tokens> {
        if !self.streams.contains_key(stream) {
            if self.streams.len() >= MAX_USERS || stream.len() > MAX_NAME_BYTES {
                return None;
            }
            self.streams.insert(stream.into(), Tokens::of_subjects());
        }
        self.streams.get_mut(stream)
    }

    /// A stream keeps this subject.
    fn keeps(&mut self, stream: &str, subject: &str, mark: Mark<'_>) {
        if self.full {
            return;
        }
        let Some(kept) = self.stream(stream) else { return };
        let before = kept.nodes();
        kept.insert(subject, mark);
        let after = kept.nodes();
        self.grown(before, after);
    }

    fn record(&mut self, service: &Arc<str>, fact: Fact, subject: Option<&str>, mark: Mark<'_>) {
        let Some(work) = self.services.get_mut(service) else { return };
        let is_new = !work.facts.contains_key(&fact);
        let full = (is_new && self.facts >= MAX_FACTS) || (self.full && subject.is_some());
        let fact = if full { Fact::More } else { fact };
        let is_new = !work.facts.contains_key(&fact);
        let tree = if fact.is_of_keys() { Tokens::of_keys } else { Tokens::of_subjects };
        let record = work
            .facts
            .entry(fact)
            .or_insert_with(|| Record { tally: Tally::default(), subjects: tree() });
        record.tally.add(mark);
        let before = if is_new { 0 } else { record.subjects.nodes() };
        if let Some(subject) = subject.filter(|_| !full) {
            record.subjects.insert(subject, mark);
        }
        let after = record.subjects.nodes();
        self.facts += usize::from(is_new);
        self.grown(before, after);
    }

    /// Keeps all trees small together.
    fn grown(&mut self, before: usize, after: usize) {
        self.nodes = (self.nodes + after).saturating_sub(before);
        if self.nodes <= MAX_NODES {
            return;
        }
        let records = self.services.values_mut().flat_map(|work| work.facts.values_mut());
        let mut trees: Vec<&mut Tokens> =
            records.map(|record| &mut record.subjects).chain(self.streams.values_mut()).collect();
        let share = MAX_NODES / (2 * trees.len()).max(1);
        for tree in &mut trees {
            tree.shrink(share);
        }
        self.nodes = trees.iter().map(|tree| tree.nodes()).sum();
        self.full = self.nodes > MAX_NODES;
    }
}

fn key_of(client: &Client, reply: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (client.connection, &client.address, reply).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
