//! Whether an author may change what a push changes.
//!
//! Two policies are compared in what they mean, and each difference needs a part of the author's that
//! it lies in: the file that it stands in, the service that it is about, and what the service gets by
//! it. Values are compared whole but for where they stand, so that what nobody thought of here is a
//! difference, too. Files that say something for all (`[defaults]`, `[naming]`) are for authors of all.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use crate::authors::{Author, Authors, Keys, Name, Part};
use crate::diagnostics::{Collector, Problem, Problems, SourceFile};
use crate::policy::document;
use crate::policy::model::{
    Access, Bucket, Consumed, Excluded, Location, Policy, Rule, STORE_PREFIX, Service, Store,
    Stream,
};
use solewriter_types::keyspace::{BucketName, Keyspace};
use solewriter_types::subject::Pattern;

/// A policy, and the files that it was made from.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'p> {
    /// The files.
    pub files: &'p [SourceFile],
    /// What they come to.
    pub policy: &'p Policy,
}

/// One difference.
#[derive(Clone, Debug)]
pub struct Change {
    /// What has to be in the author's part.
    pub needs: Needs,
    /// Where it stands, in the new policy or else in the old one.
    pub at: Option<Location>,
}

/// What has to be in an author's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Everything: there is nothing to compare with.
    All,
    /// A file with something for all services, by its name.
    ForAll(String),
    /// The file of that name.
    File(String),
    /// The service of that name.
    Service(String),
    /// The service of that name; or else each of these, which it gets or loses because what they name
    /// changes.
    Entries(String, Vec<Access>, Vec<Pattern>),
    /// What a service gets, by name.
    Gets(String, Access),
    /// The account that a service is placed in.
    Account(String, String),
    /// All of a bucket.
    Bucket(BucketName),
    /// A bucket from which another one is copied.
    Copied(BucketName, BucketName),
    /// An object store.
    Store(BucketName),
    /// A stream with its consumers.
    Stream(String),
    /// What a stream keeps.
    Keeps(String, Pattern),
}

impl fmt::Display for Needs {
    /// A sentence about the change. It holds what people wrote: clean it before it is printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("the whole policy is new"),
            Self::ForAll(file) => {
                write!(f, "{file} changes, and has `[defaults]` or `[naming]`, which count for all")
            }
            Self::File(file) => write!(f, "the file {file} changes"),
            Self::Service(name) | Self::Entries(name, ..) => write!(f, "service `{name}` changes"),
            Self::Gets(name, access) => write!(f, "`{name}` {access} now"),
            Self::Account(name, account) => write!(f, "`{name}` is placed in account {account}"),
            Self::Bucket(name) => write!(f, "bucket `{name}` changes"),
            Self::Copied(name, from) => write!(f, "bucket `{name}` is a copy of `{from}` now"),
            Self::Store(name) => write!(f, "`{STORE_PREFIX}{name}` changes"),
            Self::Stream(name) => write!(f, "stream `{name}` changes"),
            Self::Keeps(name, subjects) => write!(f, "stream `{name}` keeps `{subjects}` now"),
        }
    }
}

impl Needs {
    /// What has to be in the same part.
    fn belongs_to(&self) -> Option<Self> {
        match self {
            Self::Gets(name, _) | Self::Account(name, _) => Some(Self::Service(name.clone())),
            Self::Copied(name, _) => Some(Self::Bucket(name.clone())),
            Self::Keeps(name, _) => Some(Self::Stream(name.clone())),
            _ => None,
        }
    }
}

impl Part {
    /// Whether a change lies in it.
    #[must_use]
    pub fn covers(&self, needs: &Needs) -> bool {
        match needs {
            Needs::All | Needs::ForAll(_) => false,
            Needs::File(file) => self.files.iter().any(|own| {
                if own.ends_with('/') { file.starts_with(own.as_str()) } else { own == file }
            }),
            Needs::Service(name) => means(&self.services, name),
            Needs::Entries(name, entries, excluded) => {
                means(&self.services, name)
                    || (entries.iter().all(|entry| self.has(entry))
                        && excluded.iter().all(|subjects| self.has_subjects(subjects)))
            }
            Needs::Gets(_, access) => self.has(access) || self.uses(access),
            Needs::Account(_, account) => means(&self.accounts, account),
            Needs::Bucket(bucket) => self.buckets.iter().any(|own| own.hold_all_of(bucket)),
            Needs::Copied(_, from) => {
                self.uses.reads.iter().chain(&self.buckets).any(|own| own.hold_all_of(from))
            }
            Needs::Store(store) => means(&self.stores, store.as_str()),
            Needs::Stream(stream) => means(&self.streams, stream),
            Needs::Keeps(_, subjects) => within(&self.subjects, subjects),
        }
    }

    /// Whether what an entry names is the author's own.
    fn has(&self, access: &Access) -> bool {
        match access {
            Access::Owns(keyspace) | Access::Reads(keyspace) | Access::Writes(keyspace) => {
                hold(&self.buckets, keyspace)
            }
            Access::OwnsStore(store) | Access::ReadsStore(store) | Access::WritesStore(store) => {
                means(&self.stores, store.as_str())
            }
            Access::Publishes(subjects)
            | Access::Subscribes(subjects)
            | Access::Answers(subjects)
            | Access::Calls(subjects) => within(&self.subjects, subjects),
            Access::Consumes(Consumed { name, .. }) => means(&self.streams, name.stream().as_str()),
            Access::Replays(replayed) => means(&self.streams, replayed.stream().as_str()),
            Access::FoundAs(name) | Access::Discovers(name) => means(&self.found_as, name.as_str()),
            Access::DiscoversAll | Access::Audits(_) => false,
        }
    }

    /// Whether it is others', and may be used.
    fn uses(&self, access: &Access) -> bool {
        let uses = &self.uses;
        match access {
            Access::Reads(keyspace) => hold(&uses.reads, keyspace),
            Access::ReadsStore(store) => means(&uses.reads_stores, store.as_str()),
            Access::Subscribes(subjects) => within(&uses.subscribes, subjects),
            Access::Calls(subjects) => within(&uses.calls, subjects),
            Access::Consumes(Consumed { name, .. }) => uses.consumes.iter().any(|(stream, own)| {
                name.stream().as_str() == stream && own.means(name.consumer().as_str())
            }),
            Access::Replays(replayed) => means(&uses.replays, replayed.stream().as_str()),
            Access::Discovers(name) => means(&uses.discovers, name.as_str()),
            _ => false,
        }
    }

    /// Whether subjects that a service is denied are of what is the author's own.
    fn has_subjects(&self, subjects: &Pattern) -> bool {
        let bucket = subjects.as_str().strip_prefix("$KV.").and_then(|rest| rest.split('.').next());
        match bucket.map(BucketName::parse) {
            Some(Ok(bucket)) => self.buckets.iter().any(|own| own.hold_all_of(&bucket)),
            Some(Err(_)) => false,
            None => within(&self.subjects, subjects),
        }
    }
}

fn means(names: &[Name], name: &str) -> bool {
    names.iter().any(|own| own.means(name))
}

fn hold(keys: &[Keys], keyspace: &Keyspace) -> bool {
    keys.iter().any(|own| own.hold(keyspace))
}

fn within(patterns: &[Pattern], subjects: &Pattern) -> bool {
    patterns.iter().any(|own| subjects.is_subset_of(own))
}

/// Judges whether an author may make `new` of `old`; `None` where nothing is known to have counted
/// before.
///
/// # Errors
/// Everything that lies outside of the author's part, with who may change it.
pub fn judge(
    old: Option<Whole<'_>>,
    new: Whole<'_>,
    author: &Author,
    authors: &Authors,
) -> Result<(), Problems> {
    let Some(part) = &author.part else { return Ok(()) };
    let problems = Collector::new();
    for change in changes(old, new) {
        if !part.covers(&change.needs) {
            problems.push(outside(&change, author, authors, (old, new)));
        }
    }
    if problems.has_errors() { Err(problems.finish()) } else { Ok(()) }
}

fn outside(
    Change { needs, at }: &Change,
    author: &Author,
    authors: &Authors,
    (old, new): (Option<Whole<'_>>, Whole<'_>),
) -> Problem {
    // Who may change that alone: where it stands, and what it belongs to.
    let all = [
        Some(needs.clone()),
        needs.belongs_to(),
        at.as_ref().map(|at| Needs::File(at.file.to_string())),
    ];
    let covers = |part: &Part| all.iter().flatten().all(|needs| part.covers(needs));
    let may = |other: &&Author| other.part.as_ref().is_none_or(covers);
    let who: Vec<_> = authors.list.iter().filter(may).map(|a| format!("`{}`", a.name)).collect();
    let message =
        format!("{needs}, which lies outside of the part of the author `{}`", author.name);
    let problem = Problem::error("outside-part", message)
        .help(format!("this may be changed by {}", who.join(", ")));
    let files = [Some(new), old].into_iter().flatten().map(|whole| whole.files);
    let place = at.as_ref().and_then(|at| files.into_iter().find_map(|files| at.found_in(files)));
    match place {
        Some((file, offset)) => problem.at(&file.span(offset..offset), ""),
        None => problem,
    }
}

/// Everything that differs, and has to be in somebody's part.
#[must_use]
pub fn changes(old: Option<Whole<'_>>, new: Whole<'_>) -> Vec<Change> {
    let Some(old) = old else { return vec![Change { needs: Needs::All, at: None }] };
    let mut all = Vec::new();
    for (name, (old, new)) in pairs(old.files, new.files, |file: &SourceFile| &**file.name()) {
        file(name, old, new, &mut all);
    }
    let (old, new) = (old.policy, new.policy);
    for (old, new) in new.compared(old) {
        let Some(name) = new.or(old).map(|service| &service.name) else { continue };
        service(name, old, new, &mut all);
    }
    for (name, (old, new)) in pairs(old.buckets(), new.buckets(), |one: &Bucket| &one.name) {
        bucket(name, old, new, &mut all);
    }
    for (name, (old, new)) in pairs(old.stores(), new.stores(), |one: &Store| &one.name) {
        let same = old
            .zip(new)
            .is_some_and(|(old, new)| Store { at: new.at.clone(), ..old.clone() } == *new);
        if !same {
            push(&mut all, Needs::Store(name.clone()), new.or(old).map(|one| &one.at));
        }
    }
    for (name, (old, new)) in pairs(old.streams(), new.streams(), |one: &Stream| one.name.as_str())
    {
        stream(name, old, new, &mut all);
    }
    all
}

type Pair<T> = (Option<T>, Option<T>);

/// What has the same name on both sides.
fn pairs<'p, N: Ord + ?Sized, T>(
    old: &'p [T],
    new: &'p [T],
    name: impl Fn(&'p T) -> &'p N,
) -> BTreeMap<&'p N, Pair<&'p T>> {
    let mut all: BTreeMap<&N, Pair<&T>> = BTreeMap::new();
    for one in old {
        all.entry(name(one)).or_default().0 = Some(one);
    }
    for one in new {
        all.entry(name(one)).or_default().1 = Some(one);
    }
    all
}

fn push(all: &mut Vec<Change>, needs: Needs, at: Option<&Location>) {
    all.push(Change { needs, at: at.cloned() });
}

fn file(name: &str, old: Option<&SourceFile>, new: Option<&SourceFile>, all: &mut Vec<Change>) {
    if old.map(SourceFile::text) == new.map(SourceFile::text) {
        return;
    }
    let for_all = old.into_iter().chain(new).any(says_for_all);
    let needs = if for_all { Needs::ForAll } else { Needs::File };
    let at = new.map(|file| Location::from(&file.span(0..0)));
    push(all, needs(name.to_owned()), at.as_ref());
}

/// Whether a file has a table that counts for the whole policy.
fn says_for_all(file: &SourceFile) -> bool {
    let problems = Collector::new();
    let document = document::read(file, &problems);
    // What cannot be read is nobody's.
    problems.has_errors() || !document.naming.is_empty() || !document.defaults.is_empty()
}

/// An entry without where it stands.
type Entry<'s> = (&'s Access, Option<i64>, bool);

fn entry(rule: &Rule) -> Entry<'_> {
    (&rule.access, rule.until(), rule.observed())
}

fn rules(service: Option<&Service>) -> impl Iterator<Item = &Rule> {
    service.into_iter().flat_map(|service| &service.rules)
}

fn service(name: &str, old: Option<&Service>, new: Option<&Service>, all: &mut Vec<Change>) {
    let at = new.or(old).map(|service| &service.at);
    let alone = |service: &Service, at: &Location| Service {
        rules: Vec::new(),
        excluded: Excluded::default(),
        at: at.clone(),
        ..service.clone()
    };
    let same = old.zip(new).is_some_and(|(old, new)| alone(old, &new.at) == alone(new, &new.at));
    if !same {
        push(all, Needs::Service(name.to_owned()), at);
    }
    let [before, after] =
        [old, new].map(|service| rules(service).map(entry).collect::<HashSet<Entry<'_>>>());
    // In the order of the text, so that everybody says the same.
    let gone = rules(old).filter(|rule| !after.contains(&entry(rule)));
    let come = rules(new).filter(|rule| !before.contains(&entry(rule)));
    let come: Vec<&Rule> = come.collect();
    let differing: Vec<Access> =
        gone.chain(come.iter().copied()).map(|rule| rule.access.clone()).collect();
    let excluded = excluded(old, new);
    if same && !(differing.is_empty() && excluded.is_empty()) {
        push(all, Needs::Entries(name.to_owned(), differing, excluded), at);
    }
    let Some(new) = new else { return };
    for rule in come {
        push(all, Needs::Gets(name.to_owned(), rule.access.clone()), Some(&rule.at));
    }
    let account = old.and_then(|old| old.account.as_ref());
    if let Some(placed) = new.account.as_ref().filter(|placed| account != Some(*placed)) {
        push(all, Needs::Account(name.to_owned(), placed.to_string()), Some(&new.at));
    }
}

/// What is taken out on one side only.
fn excluded(old: Option<&Service>, new: Option<&Service>) -> Vec<Pattern> {
    let list = |service: Option<&Service>, publish: bool| -> Vec<Pattern> {
        let excluded = service.map(|service| &service.excluded);
        let list = |one: &Excluded| if publish { &one.publish } else { &one.subscribe }.clone();
        excluded.map(list).unwrap_or_default()
    };
    let mut all = Vec::new();
    for publish in [true, false] {
        let (old, new) = (list(old, publish), list(new, publish));
        all.extend(old.iter().filter(|one| !new.contains(one)).cloned());
        all.extend(new.iter().filter(|one| !old.contains(one)).cloned());
    }
    all
}

fn bucket(name: &BucketName, old: Option<&Bucket>, new: Option<&Bucket>, all: &mut Vec<Change>) {
    let same =
        old.zip(new).is_some_and(|(old, new)| Bucket { at: new.at.clone(), ..old.clone() } == *new);
    if same {
        return;
    }
    let at = new.or(old).map(|bucket| &bucket.at);
    push(all, Needs::Bucket(name.clone()), at);
    let from = |bucket: Option<&Bucket>| bucket.and_then(|bucket| bucket.copy_of.clone());
    if let Some(copied) = from(new).filter(|copied| from(old).as_ref() != Some(copied)) {
        push(all, Needs::Copied(name.clone(), copied), at);
    }
}

fn stream(name: &str, old: Option<&Stream>, new: Option<&Stream>, all: &mut Vec<Change>) {
    let alone = |stream: &Stream| {
        let nowhere = Location { file: "".into(), line: 0, column: 0 };
        let mut alone = Stream { at: nowhere.clone(), ..stream.clone() };
        for consumer in &mut alone.consumers {
            consumer.at = nowhere.clone();
        }
        alone
    };
    if old.map(alone) == new.map(alone) {
        return;
    }
    let at = new.or(old).map(|stream| &stream.at);
    push(all, Needs::Stream(name.to_owned()), at);
    let Some(new) = new else { return };
    let kept = |subjects: &&Pattern| old.is_some_and(|old| old.subjects.contains(subjects));
    for subjects in new.subjects.iter().filter(|subjects| !kept(subjects)) {
        push(all, Needs::Keeps(name.to_owned(), subjects.clone()), at);
    }
}

#[cfg(test)]
mod tests;
