//! Which files have to be looked at with those that changed, so that what is judged of these comes out
//! as if all files were there.
//!
//! - What the changed files refer to comes with them: declarations, and somebody who offers what is
//!   read, received and asked for.
//! - What differs in them comes with everybody to whom it may matter: who owns of the same bucket,
//!   writes into the same stream, reads what has another owner now, and so on.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::Sketch;
use crate::policy::model::{
    Access, Bucket, Consumer, ConsumerName, FoundName, Location, Policy, Service, Store, Stream,
    kind,
};
use solewriter_types::keyspace::{BucketName, Keyspace};
use solewriter_types::subject::Pattern;

/// The longest search, in pairs of subjects: a fraction of a second.
const MAX_STEPS: usize = 2_000_000;

/// Names of files.
pub type Names = HashSet<Arc<str>>;

/// What has a name, and a place in the policy's files.
pub trait Placed: PartialEq + Clone {
    fn name(&self) -> &str;
    fn at(&self) -> &Location;
}

macro_rules! placed {
    ($($kind:ty: $name:ident),*) => {
        $(impl Placed for $kind {
            fn name(&self) -> &str {
                self.name.$name()
            }
            fn at(&self) -> &Location {
                &self.at
            }
        })*
    };
}
placed!(Service: as_ref, Bucket: as_str, Stream: as_str, Store: as_str);

/// Those that stand in these files.
pub fn mine<'l, T: Placed>(list: &'l [T], names: &Names) -> impl Iterator<Item = &'l T> {
    list.iter().filter(|one| names.contains(&one.at().file))
}

/// The same, by name.
pub fn sorted<'l, T: Placed>(list: &'l [T], names: &Names) -> Vec<&'l T> {
    let mut list: Vec<&T> = mine(list, names).collect();
    list.sort_by(|a, b| a.name().cmp(b.name()));
    list
}

/// Those that stand in others.
pub fn others<'l, T: Placed>(list: &'l [T], names: &Names) -> impl Iterator<Item = &'l T> {
    list.iter().filter(|one| !names.contains(&one.at().file))
}

/// The names of these files, or `None` when so much differs that the whole has to be judged. `was` and
/// `is` are the changed files as they were and as they are; `policy` is the whole as it was.
pub fn files(
    names: &Names,
    was: &Sketch,
    is: &Sketch,
    policy: &Policy,
) -> Option<BTreeSet<Arc<str>>> {
    if altered_streams(names, was, is) {
        return None;
    }
    let mut search = Search {
        names,
        policy,
        wanted: Wanted::default(),
        left: MAX_STEPS,
        found: BTreeSet::new(),
        buckets: HashSet::new(),
    };
    for sketch in [was, is] {
        search.refer(sketch);
    }
    search.alter(was, is);
    search.among_all()?;
    Some(search.found)
}

/// Whether a stream in the changed files is another one now. All streams are held against each other.
fn altered_streams(names: &Names, was: &Sketch, is: &Sketch) -> bool {
    let streams = |sketch: &Sketch| -> Vec<Stream> {
        let streams = sorted(&sketch.declared.streams, names).into_iter();
        let mut streams: Vec<Stream> = streams.cloned().collect();
        for stream in &mut streams {
            stream.at = nowhere();
            for consumer in &mut stream.consumers {
                consumer.at = nowhere();
            }
        }
        streams
    };
    streams(was) != streams(is)
}

fn nowhere() -> Location {
    Location { file: "".into(), line: 0, column: 0 }
}

/// Subjects by their first two tokens. None of a policy begins with a wildcard.
#[derive(Default)]
struct Subjects<'p>(HashMap<&'p str, Group<'p>>);

#[derive(Default)]
struct Group<'p> {
    /// By the second token.
    literal: HashMap<&'p str, Vec<&'p Pattern>>,
    /// Those without one, or with a wildcard there.
    open: Vec<&'p Pattern>,
}

fn second(pattern: &Pattern) -> Option<&str> {
    pattern.as_str().split('.').nth(1).filter(|token| !matches!(*token, "*" | ">"))
}

impl<'p> Subjects<'p> {
    fn insert(&mut self, pattern: &'p Pattern) {
        let group = self.0.entry(pattern.first_token()).or_default();
        match second(pattern) {
            Some(token) => group.literal.entry(token).or_default().push(pattern),
            None => group.open.push(pattern),
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes out those that overlap with one, and gives whether there was any. `None` when the search
    /// takes too long.
    fn take(&mut self, pattern: &Pattern, left: &mut usize) -> Option<bool> {
        if self.is_empty() {
            return Some(false);
        }
        let Some(group) = self.0.get_mut(pattern.first_token()) else { return Some(false) };
        let mut lists = vec![&mut group.open];
        match second(pattern) {
            Some(token) => lists.extend(group.literal.get_mut(token)),
            None => lists.extend(group.literal.values_mut()),
        }
        let mut any = false;
        for list in lists {
            *left = left.checked_sub(list.len())?;
            let had = list.len();
            list.retain(|one| !one.overlaps(pattern));
            any |= list.len() < had;
        }
        Some(any)
    }

    /// Whether any overlaps with one.
    fn overlap(&self, pattern: &Pattern, left: &mut usize) -> Option<bool> {
        if self.is_empty() {
            return Some(false);
        }
        let Some(group) = self.0.get(pattern.first_token()) else { return Some(false) };
        let mut lists = vec![&group.open];
        match second(pattern) {
            Some(token) => lists.extend(group.literal.get(token)),
            None => lists.extend(group.literal.values()),
        }
        for list in lists {
            *left = left.checked_sub(list.len())?;
            if list.iter().any(|one| one.overlaps(pattern)) {
                return Some(true);
            }
        }
        Some(false)
    }
}

/// What is looked for among the services of all files.
#[derive(Default)]
struct Wanted<'p> {
    /// Everybody who reads of these buckets.
    readers: HashSet<&'p BucketName>,
    /// Everybody who owns these stores.
    store_owners: HashSet<&'p BucketName>,
    /// Everybody who reads these stores.
    store_readers: HashSet<&'p BucketName>,
    /// Everybody who writes these subjects.
    writers: Subjects<'p>,
    /// Everybody who subscribes to these.
    subscribers: Subjects<'p>,
    /// Everybody who calls these.
    callers: Subjects<'p>,
    /// Everybody who consumes these.
    consumers: HashSet<&'p ConsumerName>,
    /// Everybody who is found under names that look like these.
    looks: HashSet<String>,
    /// Everybody who looks for these names.
    finders: HashSet<&'p FoundName>,
    /// Everybody who is found as these.
    found: HashSet<&'p FoundName>,
    /// Somebody who publishes to each of these.
    published: Subjects<'p>,
    /// Somebody who answers each of these.
    answered: Subjects<'p>,
    /// Somebody who writes each of these subjects of streams.
    written: Subjects<'p>,
    /// Another one who does.
    written_too: Subjects<'p>,
    /// Somebody who consumes each of these.
    consumed: HashSet<ConsumerName>,
    /// Somebody with each of these roles.
    roles: HashSet<&'p str>,
}

impl Wanted<'_> {
    /// The kinds of rules that what is looked for can have.
    fn kinds(&self) -> u16 {
        let Self {
            readers,
            store_owners,
            store_readers,
            writers,
            subscribers,
            callers,
            consumers,
            looks,
            finders,
            found,
            published,
            answered,
            written,
            written_too,
            consumed,
            roles,
        } = self;
        let sent = kind::PUBLISHES | kind::CALLS;
        let none = [
            (readers.is_empty(), kind::READS),
            (store_owners.is_empty(), kind::OWNS_STORE),
            (store_readers.is_empty(), kind::READS_STORE),
            (writers.is_empty() && written.is_empty() && written_too.is_empty(), sent),
            (published.is_empty(), kind::PUBLISHES),
            (subscribers.is_empty(), kind::SUBSCRIBES),
            (answered.is_empty(), kind::ANSWERS),
            (callers.is_empty(), kind::CALLS),
            (consumers.is_empty() && consumed.is_empty(), kind::CONSUMES),
            (looks.is_empty() && found.is_empty(), kind::FOUND_AS),
            (finders.is_empty(), kind::DISCOVERS),
            (roles.is_empty(), kind::OF_A_ROLE),
        ];
        none.iter().filter(|(none, _)| !none).fold(0, |all, (_, kinds)| all | kinds)
    }
}

struct Search<'p> {
    names: &'p Names,
    policy: &'p Policy,
    wanted: Wanted<'p>,
    left: usize,
    found: BTreeSet<Arc<str>>,
    /// Buckets that were looked for: most stand in both forms of the changed files, and their owners there
    /// too.
    buckets: HashSet<&'p BucketName>,
}

impl<'p> Search<'p> {
    fn join(&mut self, at: &Location) {
        if !self.names.contains(&at.file) {
            self.found.insert(Arc::clone(&at.file));
        }
    }

    /// Looks for what changed files refer to.
    fn refer(&mut self, sketch: &'p Sketch) {
        for bucket in mine(&sketch.declared.buckets, self.names) {
            self.bucket(&bucket.name);
            if let Some(original) = &bucket.copy_of {
                self.bucket(original);
            }
        }
        for store in mine(&sketch.declared.stores, self.names) {
            self.store(&store.name);
        }
        for stream in mine(&sketch.declared.streams, self.names) {
            for subject in &stream.subjects {
                self.wanted.written.insert(subject);
                self.wanted.written_too.insert(subject);
            }
            let name = |consumer: &Consumer| {
                ConsumerName::of(stream.name.clone(), consumer.name.clone()).ok()
            };
            self.wanted.consumed.extend(stream.consumers.iter().filter_map(name));
        }
        for service in mine(&sketch.services, self.names) {
            // Two services of one name, and two with one key.
            if let Some(other) = self.policy.service(&service.name) {
                self.join(&other.at);
            }
            for key in &service.keys {
                if let Some((other, _)) = self.policy.holder(&key.key) {
                    self.join(&other.at);
                }
            }
            for rule in &service.rules {
                self.wanted.roles.extend(rule.role().map(|role| &**role));
                self.refer_by(&rule.access);
            }
        }
    }

    fn refer_by(&mut self, access: &'p Access) {
        match access {
            Access::Owns(keyspace) | Access::Writes(keyspace) => self.bucket(keyspace.bucket()),
            Access::Reads(keyspace) => {
                self.bucket(keyspace.bucket());
                self.owner(keyspace);
            }
            Access::OwnsStore(store) | Access::ReadsStore(store) | Access::WritesStore(store) => {
                self.store(store);
            }
            Access::Publishes(subjects) | Access::Answers(subjects) => self.streams(subjects),
            Access::Subscribes(subjects) => self.wanted.published.insert(subjects),
            Access::Calls(subjects) => {
                self.streams(subjects);
                self.wanted.answered.insert(subjects);
            }
            Access::Consumes(consumed) => self.stream(consumed.name.stream().as_str()),
            Access::Replays(replayed) => self.stream(replayed.stream().as_str()),
            Access::Discovers(name) => {
                self.wanted.found.insert(name);
            }
            Access::FoundAs(_) | Access::DiscoversAll | Access::Audits(_) => {}
        }
    }

    /// A bucket's declaration, and somebody who owns of it; of a copy, of its original.
    fn bucket(&mut self, name: &'p BucketName) {
        if !self.buckets.insert(name) {
            return;
        }
        self.owner(&Keyspace::whole(name.clone()));
        let Some(bucket) = self.policy.bucket(name) else { return };
        self.join(&bucket.at);
        if let Some(original) = &bucket.copy_of {
            self.owner(&Keyspace::whole(original.clone()));
        }
    }

    /// Somebody who owns of a keyspace.
    fn owner(&mut self, keyspace: &Keyspace) {
        let names = self.names;
        let mut owners = self.policy.owners(keyspace).map(|(service, _)| &service.at);
        if let Some(at) = owners.find(|at| !names.contains(&at.file)) {
            self.found.insert(Arc::clone(&at.file));
        }
    }

    fn store(&mut self, name: &'p BucketName) {
        if let Some(store) = self.policy.store(name) {
            self.join(&store.at);
        }
        self.wanted.store_owners.insert(name);
    }

    fn stream(&mut self, name: &str) {
        if let Some(stream) = self.policy.stream(name) {
            self.join(&stream.at);
        }
    }

    /// The streams that may keep some of these subjects.
    fn streams(&mut self, subjects: &Pattern) {
        let first = subjects.first_token();
        for stream in self.policy.streams() {
            if stream.subjects.iter().any(|kept| kept.first_token() == first) {
                self.join(&stream.at);
            }
        }
    }

    /// Looks for everybody to whom a difference in the changed files matters.
    fn alter(&mut self, was: &'p Sketch, is: &'p Sketch) {
        let buckets = |sketch: &'p Sketch| -> HashMap<&BucketName, Bucket> {
            let mine = mine(&sketch.declared.buckets, self.names);
            mine.map(|bucket| (&bucket.name, Bucket { at: nowhere(), ..bucket.clone() })).collect()
        };
        let stores = |sketch: &'p Sketch| -> HashMap<&BucketName, Store> {
            let mine = mine(&sketch.declared.stores, self.names);
            mine.map(|store| (&store.name, Store { at: nowhere(), ..store.clone() })).collect()
        };
        let (buckets, stores) = ((buckets(was), buckets(is)), (stores(was), stores(is)));
        for name in differing(&buckets.0, &buckets.1) {
            self.altered_bucket(name);
        }
        for name in differing(&stores.0, &stores.1) {
            self.wanted.store_readers.insert(name);
        }
        let accesses = |sketch: &'p Sketch| -> HashMap<&str, HashSet<&Access>> {
            let of = |service: &'p Service| service.rules.iter().map(|rule| &rule.access).collect();
            let mine = mine(&sketch.services, self.names);
            mine.map(|service| (&*service.name, of(service))).collect()
        };
        let (was, is) = (accesses(was), accesses(is));
        let none = HashSet::new();
        for name in differing(&was, &is) {
            let (was, is) = (was.get(name).unwrap_or(&none), is.get(name).unwrap_or(&none));
            for access in was.symmetric_difference(is) {
                self.altered(access);
            }
        }
    }

    /// A bucket is declared otherwise, or somebody else owns of it.
    fn altered_bucket(&mut self, name: &'p BucketName) {
        let policy = self.policy;
        for (owner, _) in policy.owners(&Keyspace::whole(name.clone())) {
            self.join(&owner.at);
        }
        self.wanted.readers.insert(name);
        for copy in policy.buckets().iter().filter(|bucket| bucket.copy_of.as_ref() == Some(name)) {
            self.join(&copy.at);
            self.wanted.readers.insert(&copy.name);
        }
    }

    /// Somebody writes other subjects of streams.
    fn altered_writer(&mut self, subjects: &Pattern) {
        let kept = self.policy.streams().iter().flat_map(|stream| &stream.subjects);
        for kept in kept.filter(|kept| kept.overlaps(subjects)) {
            self.wanted.writers.insert(kept);
        }
    }

    fn altered(&mut self, access: &'p Access) {
        match access {
            Access::Owns(keyspace) => self.altered_bucket(keyspace.bucket()),
            Access::OwnsStore(store) => {
                self.wanted.store_readers.insert(store);
            }
            Access::Publishes(subjects) => {
                self.altered_writer(subjects);
                self.wanted.subscribers.insert(subjects);
            }
            Access::Calls(subjects) => self.altered_writer(subjects),
            Access::Answers(subjects) => self.wanted.callers.insert(subjects),
            Access::Consumes(consumed) => {
                self.wanted.consumers.insert(&consumed.name);
            }
            Access::FoundAs(name) => {
                self.wanted.looks.insert(name.looks());
                self.wanted.finders.insert(name);
            }
            // Nobody else is judged by these; the last two are of observed services, of whom there are none.
            Access::Reads(_)
            | Access::ReadsStore(_)
            | Access::Subscribes(_)
            | Access::Discovers(_)
            | Access::DiscoversAll
            | Access::Replays(_)
            | Access::Audits(_)
            | Access::Writes(_)
            | Access::WritesStore(_) => {}
        }
    }

    /// Looks through the services of all other files.
    fn among_all(&mut self) -> Option<()> {
        for service in self.policy.of_kinds(self.wanted.kinds()) {
            if self.names.contains(&service.at.file) {
                continue;
            }
            let (mut wanted, mut writes) = (false, false);
            for rule in &service.rules {
                wanted |= self.wants(&rule.access)? | self.witnesses(&rule.access, &mut writes)?;
                wanted |= rule.role().is_some_and(|role| self.wanted.roles.remove(&**role));
            }
            if wanted {
                self.join(&service.at);
            }
        }
        Some(())
    }

    /// Whether this shows what is to be shown once: that somebody uses what changed files declare.
    /// `writes` is whether the same service was taken already for who writes.
    fn witnesses(&mut self, access: &Access, writes: &mut bool) -> Option<bool> {
        let Self { wanted, left, .. } = self;
        Some(match access {
            Access::Publishes(subjects) | Access::Calls(subjects) => {
                let first = wanted.written.take(subjects, left)?;
                *writes |= first;
                first || (!*writes && wanted.written_too.take(subjects, left)?)
            }
            Access::Consumes(consumed) => wanted.consumed.remove(&consumed.name),
            _ => false,
        })
    }

    /// Whether somebody who does this is looked for. `None` when the search takes too long.
    fn wants(&mut self, access: &Access) -> Option<bool> {
        let Self { wanted, left, .. } = self;
        Some(match access {
            Access::Reads(keyspace) => wanted.readers.contains(keyspace.bucket()),
            Access::OwnsStore(store) => wanted.store_owners.contains(store),
            Access::ReadsStore(store) => wanted.store_readers.contains(store),
            Access::Publishes(subjects) => {
                wanted.published.take(subjects, left)? | wanted.writers.overlap(subjects, left)?
            }
            Access::Subscribes(subjects) => wanted.subscribers.overlap(subjects, left)?,
            Access::Answers(subjects) => wanted.answered.take(subjects, left)?,
            Access::Calls(subjects) => {
                wanted.callers.overlap(subjects, left)? | wanted.writers.overlap(subjects, left)?
            }
            Access::Consumes(consumed) => wanted.consumers.contains(&consumed.name),
            Access::FoundAs(name) => {
                wanted.found.contains(name)
                    || (!wanted.looks.is_empty() && wanted.looks.contains(&name.looks()))
            }
            Access::Discovers(name) => wanted.finders.contains(name),
            Access::Owns(_)
            | Access::Writes(_)
            | Access::WritesStore(_)
            | Access::DiscoversAll
            | Access::Replays(_)
            | Access::Audits(_) => false,
        })
    }
}

/// The names of what is not the same in both.
fn differing<'m, N: std::hash::Hash + Eq + Copy + 'm, T: PartialEq>(
    was: &'m HashMap<N, T>,
    is: &'m HashMap<N, T>,
) -> impl Iterator<Item = N> + use<'m, N, T> {
    let names: HashSet<N> = was.keys().chain(is.keys()).copied().collect();
    names.into_iter().filter(|name| was.get(name) != is.get(name))
}
