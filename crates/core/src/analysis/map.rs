//! The ownership map: who owns what, who reads it, who publishes, subscribes, calls and answers,
//! which streams keep it, and what is wrong with it, from what a policy says. For looking at;
//! nothing is decided by it.
//!
//! - [`Map::draw`] makes the map of a [`Sketch`], so also of a policy that does not hold;
//! - `links` finds who is on the other side of each entry;
//! - `nodes` finds who has and uses each bucket, object store, stream, consumer and found name;
//! - `picture` makes nodes and lines of it, which `text` writes as Mermaid and DOT;
//! - `page` writes it as one HTML page. The JSON form is the map itself.
//!
//! Everything from the policy is text that somebody else wrote, and is escaped where it is
//! written.

mod graph;
mod links;
mod nodes;
mod page;
mod text;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::diagnostics::{Label, Problem, Problems, Severity};
use crate::policy::model::{Access, Location, Rule, STORE_PREFIX, Service};
use crate::policy::validate::Sketch;
use solewriter_types::keyspace::Keyspace;

/// The most links that a map has; [`Map::links_left_out`] says whether there were more.
pub const MAX_LINKS: usize = 200_000;

/// The whole map. Serialised, it is the output of `solewriter map --format json`; `format` counts
/// up when a field changes its meaning or goes.
#[derive(Debug, Serialize)]
pub struct Map<'s> {
    /// The version of this form.
    pub format: u32,
    /// Names the content of the policy.
    pub revision: &'s str,
    /// Whether the policy holds.
    pub valid: bool,
    /// Sorted by name.
    pub services: Vec<ServiceNode<'s>>,
    /// Every bucket that is declared, owned or read, sorted by name.
    pub buckets: Vec<BucketNode<'s>>,
    /// Every object store that is declared, owned or read, sorted by name: `store:invoices`.
    pub stores: Vec<BucketNode<'s>>,
    /// Every stream that is declared or used, sorted by name.
    pub streams: Vec<StreamNode<'s>>,
    /// Every name that a service is found by or looked for, sorted.
    pub found: Vec<FoundNode<'s>>,
    /// Who is connected with whom.
    pub links: Vec<Link>,
    /// Whether there were more than [`MAX_LINKS`] links.
    pub links_left_out: bool,
    /// Everything found; services, entries and the other nodes refer to it by index in its list.
    pub problems: &'s Problems,
}

/// A service.
#[derive(Debug, Serialize)]
pub struct ServiceNode<'s> {
    /// Its name.
    pub name: &'s str,
    /// What it is, for people.
    pub description: Option<&'s str>,
    /// The account it is placed in, when the policy says so.
    pub account: Option<&'s str>,
    /// Why it is disabled, when it is.
    pub disabled: Option<&'s str>,
    /// Whether it may still do what it could before: that is not in `entries`. Only there if so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub observed: bool,
    /// How many keys it has.
    pub keys: usize,
    /// What it may do.
    pub entries: Vec<Entry<'s>>,
    /// Where its table stands, as `file:line:column`.
    pub at: String,
    /// What was found about it, its entries included: indices of problems.
    pub problems: Vec<usize>,
    /// The worst of these.
    pub severity: Option<Severity>,
}

/// One thing that a service may do.
#[derive(Debug, Serialize)]
pub struct Entry<'s> {
    /// The key in the service's table: `owns`, `reads`, and so on.
    pub verb: &'static str,
    /// The keyspace, store, subject, consumer, stream or name.
    pub name: String,
    /// The bucket, for a keyspace.
    pub bucket: Option<&'s str>,
    /// The object store, for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// The streams that keep what it sends, or the one that it reads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<&'s str>,
    /// The consumer that it uses: `STREAM/CONSUMER`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// The name that it is found by or looks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<&'s str>,
    /// The role that it comes from; null for the service's own table.
    pub role: Option<&'s str>,
    /// Where it stands.
    pub at: String,
    /// What was found about it: indices of problems.
    pub problems: Vec<usize>,
    /// The worst of these.
    pub severity: Option<Severity>,
}

/// A bucket, or an object store.
#[derive(Debug, Serialize)]
pub struct BucketNode<'s> {
    /// Its name.
    pub name: Cow<'s, str>,
    /// What is in it, for people.
    pub description: Option<&'s str>,
    /// Where it is declared; null when it is not.
    pub at: Option<String>,
    /// The services that own it or parts of it.
    pub owners: Vec<&'s str>,
    /// The services that read it or parts of it, without its owners' own reading.
    pub readers: Vec<&'s str>,
    /// What was found about it: indices of problems.
    pub problems: Vec<usize>,
    /// The worst of these.
    pub severity: Option<Severity>,
}

/// A stream.
#[derive(Debug, Serialize)]
pub struct StreamNode<'s> {
    /// Its name.
    pub name: &'s str,
    /// What is in it, for people.
    pub description: Option<&'s str>,
    /// Where it is declared; null when it is not.
    pub at: Option<String>,
    /// The services that may publish a subject of it.
    pub writers: Vec<&'s str>,
    /// The services that replay it or a part of it.
    pub replayers: Vec<&'s str>,
    /// Its declared consumers, and any other that a service names; sorted by name.
    pub consumers: Vec<ConsumerNode<'s>>,
    /// What was found about it, its consumers included: indices of problems.
    pub problems: Vec<usize>,
    /// The worst of these.
    pub severity: Option<Severity>,
}

/// A durable consumer of a stream.
#[derive(Debug, Serialize)]
pub struct ConsumerNode<'s> {
    /// `STREAM/CONSUMER`.
    pub name: String,
    /// What it is for, for people.
    pub description: Option<&'s str>,
    /// Where it is declared; null when it is not.
    pub at: Option<String>,
    /// What it delivers of its stream; empty for all of it.
    pub filter: Vec<&'s str>,
    /// The services that consume from it.
    pub users: Vec<&'s str>,
    /// What was found about it: indices of problems.
    pub problems: Vec<usize>,
    /// The worst of these.
    pub severity: Option<Severity>,
}

/// A name under which a service is found by the services framework.
#[derive(Debug, Serialize)]
pub struct FoundNode<'s> {
    /// The name.
    pub name: &'s str,
    /// The services that are found by it.
    pub services: Vec<&'s str>,
    /// The services that discover it, or all names.
    pub finders: Vec<&'s str>,
    /// What was found about it: indices of problems.
    pub problems: Vec<usize>,
    /// The worst of these.
    pub severity: Option<Severity>,
}

/// What flows from one service to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Values: from the owner of a keyspace or an object store to who reads it.
    Values,
    /// Messages: from who publishes to who subscribes.
    Messages,
    /// Requests: from who calls to who answers.
    Requests,
    /// Names: from who is found to who discovers it.
    Names,
}

/// Something that flows from one service to another, or to the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Link {
    /// What flows.
    pub kind: Kind,
    /// The index of the service it comes from.
    pub from: usize,
    /// The index of the entry that lets it go.
    pub from_entry: usize,
    /// The index of the service it goes to.
    pub to: usize,
    /// The index of the entry that lets it come.
    pub to_entry: usize,
}

impl<'s> Map<'s> {
    /// Draws the map of what was read of a policy.
    #[must_use]
    pub fn draw(sketch: &'s Sketch) -> Self {
        let mut ordered: Vec<&Service> = sketch.services.iter().collect();
        ordered.sort_by(|a, b| a.name.cmp(&b.name));
        let about = About::new(sketch);
        let written = links::written(&ordered, &sketch.declared.streams, MAX_LINKS);
        let services = services(sketch, &ordered, &written, &about);
        let links = links::find(&ordered, MAX_LINKS);
        Self {
            format: 1,
            revision: sketch.revision.whole(),
            valid: !sketch.problems.has_errors(),
            buckets: nodes::buckets(sketch, &ordered, &about),
            stores: nodes::stores(sketch, &ordered, &about),
            streams: nodes::streams(sketch, &ordered, &written, &about),
            found: nodes::found(&ordered, &services, &links, &about),
            services,
            links_left_out: links.more || written.more,
            links: links.list,
            problems: &sketch.problems,
        }
    }

    /// The names of all services, buckets and other nodes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let services = self.services.iter().map(|service| service.name);
        let buckets = self.buckets.iter().chain(&self.stores).map(|bucket| &*bucket.name);
        let consumers = self.streams.iter().flat_map(|s| s.consumers.iter().map(|c| &*c.name));
        let streams = self.streams.iter().map(|stream| stream.name);
        let found = self.found.iter().map(|found| found.name);
        services.chain(buckets).chain(streams).chain(consumers).chain(found)
    }

    /// The Mermaid text of it; with `focus`, only of what the node of that name has to do with.
    #[must_use]
    pub fn to_mermaid(&self, focus: Option<&str>) -> String {
        text::mermaid(&graph::Picture::of(self, focus))
    }

    /// The DOT text of it; with `focus`, only of what the node of that name has to do with.
    #[must_use]
    pub fn to_dot(&self, focus: Option<&str>) -> String {
        text::dot(&graph::Picture::of(self, focus))
    }

    /// The HTML page of it.
    ///
    /// # Errors
    /// When it cannot be written as JSON, which does not happen.
    pub fn to_html(&self) -> serde_json::Result<String> {
        page::html(self)
    }

    /// The entry at one end of a link.
    fn entry(&self, service: usize, entry: usize) -> Option<&Entry<'s>> {
        self.services.get(service)?.entries.get(entry)
    }
}

/// All services, with the streams that their entries write into.
fn services<'s>(
    sketch: &'s Sketch,
    ordered: &[&'s Service],
    written: &links::Links,
    about: &About<'s>,
) -> Vec<ServiceNode<'s>> {
    let mut services: Vec<_> = ordered.iter().map(|service| about.service(service)).collect();
    for link in &written.list {
        let service = services.get_mut(link.from);
        let entry = service.and_then(|service| service.entries.get_mut(link.from_entry));
        let (Some(entry), Some(stream)) = (entry, sketch.declared.streams.get(link.to)) else {
            continue;
        };
        let name = stream.name.as_str();
        // Links of an entry are in the order of streams.
        if entry.streams.last() != Some(&name) {
            entry.streams.push(name);
        }
    }
    services
}

fn keyspace(rule: &Rule) -> Option<&Keyspace> {
    match &rule.access {
        Access::Owns(keyspace) | Access::Writes(keyspace) | Access::Reads(keyspace) => {
            Some(keyspace)
        }
        _ => None,
    }
}

/// A place in a file, as a key.
type Anchor<'s> = (&'s str, u32, u32);

fn anchor(at: &Location) -> Anchor<'_> {
    (&at.file, at.line, at.column)
}

/// Which problems are about which place.
struct About<'s> {
    problems: Vec<&'s Problem>,
    /// By the very place of an entry.
    at: HashMap<Anchor<'s>, Vec<usize>>,
    /// By the table of a service, or of what is declared.
    inside: HashMap<Anchor<'s>, Vec<usize>>,
}

impl<'s> About<'s> {
    fn new(sketch: &'s Sketch) -> Self {
        let services = sketch.services.iter().map(|service| &service.at);
        let declared = &sketch.declared;
        let buckets = declared.buckets.iter().map(|bucket| &bucket.at);
        let streams = declared.streams.iter().map(|stream| &stream.at);
        let consumers = declared.streams.iter().flat_map(|s| s.consumers.iter().map(|c| &c.at));
        let stores = declared.stores.iter().map(|store| &store.at);
        let mut tables: BTreeMap<&str, Vec<Anchor<'_>>> = BTreeMap::new();
        for at in services.chain(buckets).chain(streams).chain(consumers).chain(stores) {
            tables.entry(&at.file).or_default().push(anchor(at));
        }
        for list in tables.values_mut() {
            list.sort_unstable();
        }
        let mut about = Self {
            problems: sketch.problems.iter().collect(),
            at: HashMap::new(),
            inside: HashMap::new(),
        };
        for (index, problem) in sketch.problems.iter().enumerate() {
            for label in problem.primary.iter().chain(&problem.related) {
                let (line, column) = label.span.line_column();
                let file: &str = label.span.file().name();
                push(&mut about.at, (file, line, column), index);
                if let Some(table) = tables.get(file).and_then(|list| enclosing(list, label)) {
                    push(&mut about.inside, table, index);
                }
            }
        }
        about
    }

    fn service(&self, service: &'s Service) -> ServiceNode<'s> {
        let entries: Vec<Entry<'_>> = service.rules.iter().map(|rule| self.entry(rule)).collect();
        let mut problems = self.inside.get(&anchor(&service.at)).cloned().unwrap_or_default();
        problems.extend(entries.iter().flat_map(|entry| entry.problems.iter().copied()));
        problems.sort_unstable();
        problems.dedup();
        ServiceNode {
            name: &service.name,
            description: service.description.as_deref(),
            account: service.account.as_deref(),
            disabled: service.disabled.as_deref(),
            observed: service.observed,
            keys: service.keys.len(),
            entries,
            at: service.at.to_string(),
            severity: self.worst(&problems),
            problems,
        }
    }

    fn entry(&self, rule: &'s Rule) -> Entry<'s> {
        let name = match &rule.access {
            Access::Owns(keyspace) | Access::Writes(keyspace) | Access::Reads(keyspace) => {
                keyspace.to_string()
            }
            Access::Publishes(pattern)
            | Access::Subscribes(pattern)
            | Access::Answers(pattern)
            | Access::Calls(pattern) => pattern.to_string(),
            Access::OwnsStore(store) | Access::WritesStore(store) | Access::ReadsStore(store) => {
                format!("{STORE_PREFIX}{store}")
            }
            Access::Consumes(consumed) => consumed.to_string(),
            Access::FoundAs(name) | Access::Discovers(name) => name.to_string(),
            Access::DiscoversAll => "*".to_owned(),
            Access::Replays(replayed) => replayed.to_string(),
            Access::Audits(stream) => stream.to_string(),
        };
        let problems = self.at.get(&anchor(&rule.at)).cloned().unwrap_or_default();
        let is_store = matches!(
            rule.access,
            Access::OwnsStore(_) | Access::WritesStore(_) | Access::ReadsStore(_)
        );
        Entry {
            verb: rule.access.verb(),
            bucket: keyspace(rule).map(|keyspace| keyspace.bucket().as_str()),
            store: is_store.then(|| name.clone()),
            streams: match &rule.access {
                Access::Consumes(consumed) => vec![consumed.name.stream().as_str()],
                Access::Replays(replayed) => vec![replayed.stream().as_str()],
                _ => Vec::new(),
            },
            consumer: match &rule.access {
                Access::Consumes(consumed) => Some(consumed.name.to_string()),
                _ => None,
            },
            found: match &rule.access {
                Access::FoundAs(name) | Access::Discovers(name) => Some(name.as_str()),
                _ => None,
            },
            name,
            role: rule.role().map(|role| &**role),
            at: rule.at.to_string(),
            severity: self.worst(&problems),
            problems,
        }
    }

    /// The problems of an entry that say that what it has is another's, too: they are also those of
    /// what the two would share.
    fn double(&self, rule: &Rule) -> Vec<usize> {
        const DOUBLE: [&str; 5] =
            ["two-owners", "two-writers", "two-consumers", "two-found", "names-alike"];
        let at = self.at.get(&anchor(&rule.at)).into_iter().flatten().copied();
        let double =
            |index: &usize| self.problems.get(*index).is_some_and(|p| DOUBLE.contains(&p.code));
        at.filter(double).collect()
    }

    fn worst(&self, problems: &[usize]) -> Option<Severity> {
        problems.iter().filter_map(|index| self.problems.get(*index)).map(|p| p.severity).min()
    }
}

fn push<'s>(map: &mut HashMap<Anchor<'s>, Vec<usize>>, key: Anchor<'s>, index: usize) {
    let list = map.entry(key).or_default();
    if list.last() != Some(&index) {
        list.push(index);
    }
}

/// The table that a place is in: the last one that begins before it, if no other table (a role's,
/// say, or one that could not be read) begins in between.
fn enclosing<'s>(tables: &[Anchor<'s>], label: &Label) -> Option<Anchor<'s>> {
    let (line, column) = label.span.line_column();
    let before = tables.partition_point(|(_, l, c)| (*l, *c) <= (line, column));
    let table = tables.get(before.checked_sub(1)?)?;
    let text = label.span.file().text();
    let lines = text.lines().take(line as usize).skip(table.1 as usize);
    let other = lines.map(str::trim_start).any(|line| line.starts_with('['));
    (!other).then_some(*table)
}

#[cfg(test)]
mod tests;
