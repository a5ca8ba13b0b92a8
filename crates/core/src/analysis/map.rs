//! The ownership map: who owns what, who reads it, who publishes, subscribes, calls and answers,
//! and what is wrong with it, from what a policy says. For looking at; nothing is decided by it.
//!
//! - [`Map::draw`] makes the map of a [`Sketch`], so also of a policy that does not hold;
//! - `links` finds who is on the other side of each entry;
//! - `picture` makes nodes and lines of it, which `text` writes as Mermaid and DOT;
//! - `page` writes it as one HTML page. The JSON form is the map itself.
//!
//! Everything from the policy is text that somebody else wrote, and is escaped where it is
//! written.

mod graph;
mod links;
mod page;
mod text;

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
    /// Who is connected with whom.
    pub links: Vec<Link>,
    /// Whether there were more than [`MAX_LINKS`] links.
    pub links_left_out: bool,
    /// Everything found; services, buckets and entries refer to it by index in its list.
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
    /// `owns`, `reads`, `publishes`, `subscribes`, `answers` or `calls`.
    pub verb: &'static str,
    /// The keyspace or subject.
    pub name: String,
    /// The bucket, for a keyspace.
    pub bucket: Option<&'s str>,
    /// The role that it comes from; null for the service's own table.
    pub role: Option<&'s str>,
    /// Where it stands.
    pub at: String,
    /// What was found about it: indices of problems.
    pub problems: Vec<usize>,
    /// The worst of these.
    pub severity: Option<Severity>,
}

/// A bucket.
#[derive(Debug, Serialize)]
pub struct BucketNode<'s> {
    /// Its name.
    pub name: &'s str,
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

/// What flows from one service to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Values: from the owner of a keyspace to who reads it.
    Values,
    /// Messages: from who publishes to who subscribes.
    Messages,
    /// Requests: from who calls to who answers.
    Requests,
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
        let services: Vec<_> = ordered.iter().map(|service| about.service(service)).collect();
        let buckets = buckets(sketch, &ordered, &about);
        let links = links::find(&ordered, MAX_LINKS);
        Self {
            format: 1,
            revision: sketch.revision.whole(),
            valid: !sketch.problems.has_errors(),
            services,
            buckets,
            links_left_out: links.more,
            links: links.list,
            problems: &sketch.problems,
        }
    }

    /// The names of all services and buckets.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let services = self.services.iter().map(|service| service.name);
        services.chain(self.buckets.iter().map(|bucket| bucket.name))
    }

    /// The Mermaid text of it; with `focus`, only of what the service or bucket of that name has
    /// to do with.
    #[must_use]
    pub fn to_mermaid(&self, focus: Option<&str>) -> String {
        text::mermaid(&graph::Picture::of(self, focus))
    }

    /// The DOT text of it; with `focus`, only of what the service or bucket of that name has to do
    /// with.
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

fn buckets<'s>(
    sketch: &'s Sketch,
    services: &[&'s Service],
    about: &About<'s>,
) -> Vec<BucketNode<'s>> {
    let mut buckets: BTreeMap<&str, BucketNode<'_>> = BTreeMap::new();
    let blank = |name| BucketNode {
        name,
        description: None,
        at: None,
        owners: Vec::new(),
        readers: Vec::new(),
        problems: Vec::new(),
        severity: None,
    };
    for bucket in &sketch.declared.buckets {
        let name = bucket.name.as_str();
        let problems = about.inside.get(&anchor(&bucket.at)).cloned().unwrap_or_default();
        let node = BucketNode {
            description: bucket.description.as_deref(),
            at: Some(bucket.at.to_string()),
            problems,
            ..blank(name)
        };
        buckets.insert(name, node);
    }
    for service in services {
        for rule in &service.rules {
            let Some(keyspace) = keyspace(rule) else { continue };
            let name = keyspace.bucket().as_str();
            let node = buckets.entry(name).or_insert_with(|| blank(name));
            let owns = matches!(rule.access, Access::Owns(_));
            let list = if owns { &mut node.owners } else { &mut node.readers };
            if owns {
                node.problems.extend(about.double(rule));
            }
            // Services come one after another, so only the last can be the same.
            if list.last() != Some(&&*service.name) {
                list.push(&service.name);
            }
        }
    }
    for node in buckets.values_mut() {
        let BucketNode { owners, readers, .. } = node;
        readers.retain(|reader| owners.binary_search(reader).is_err());
        node.problems.sort_unstable();
        node.problems.dedup();
        node.severity = about.worst(&node.problems);
    }
    buckets.into_values().collect()
}

fn keyspace(rule: &Rule) -> Option<&Keyspace> {
    match &rule.access {
        Access::Owns(keyspace) | Access::Reads(keyspace) => Some(keyspace),
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
    /// By the table of a service or a bucket.
    inside: HashMap<Anchor<'s>, Vec<usize>>,
}

impl<'s> About<'s> {
    fn new(sketch: &'s Sketch) -> Self {
        let services = sketch.services.iter().map(|service| &service.at);
        let buckets = sketch.declared.buckets.iter().map(|bucket| &bucket.at);
        let mut tables: BTreeMap<&str, Vec<Anchor<'_>>> = BTreeMap::new();
        for at in services.chain(buckets) {
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
            keys: service.keys.len(),
            entries,
            at: service.at.to_string(),
            severity: self.worst(&problems),
            problems,
        }
    }

    fn entry(&self, rule: &'s Rule) -> Entry<'s> {
        let name = match &rule.access {
            Access::Owns(keyspace) | Access::Reads(keyspace) => keyspace.to_string(),
            Access::Publishes(pattern)
            | Access::Subscribes(pattern)
            | Access::Answers(pattern)
            | Access::Calls(pattern) => pattern.to_string(),
            Access::OwnsStore(store) | Access::ReadsStore(store) => {
                format!("{STORE_PREFIX}{store}")
            }
            Access::Consumes(consumed) => consumed.to_string(),
            Access::FoundAs(name) | Access::Discovers(name) => name.to_string(),
            Access::DiscoversAll => "*".to_owned(),
            Access::Replays(replayed) => replayed.to_string(),
            Access::Audits(stream) => stream.to_string(),
        };
        let problems = self.at.get(&anchor(&rule.at)).cloned().unwrap_or_default();
        Entry {
            verb: rule.access.verb(),
            name,
            bucket: keyspace(rule).map(|keyspace| keyspace.bucket().as_str()),
            role: rule.role.as_deref(),
            at: rule.at.to_string(),
            severity: self.worst(&problems),
            problems,
        }
    }

    /// The problems of an entry that say that its keys have two owners: they are the bucket's too.
    fn double(&self, rule: &Rule) -> Vec<usize> {
        let at = self.at.get(&anchor(&rule.at)).into_iter().flatten().copied();
        let double =
            |index: &usize| self.problems.get(*index).map(|p| p.code) == Some("two-owners");
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
