//! What services have and use, as nodes: buckets, object stores, streams with their consumers, and
//! names under which services are found.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::links::Links;
use super::{
    About, BucketNode, ConsumerNode, Entry, FoundNode, Kind, ServiceNode, StreamNode, anchor,
};
use crate::diagnostics::Severity;
use crate::policy::model::{Access, Location, Rule, STORE_PREFIX, Service};
use crate::policy::validate::Sketch;
use solewriter_types::subject::Pattern;

/// Who has it and who uses it, in one list of buckets or stores.
type Keepers<'s> = BTreeMap<Cow<'s, str>, BucketNode<'s>>;

/// Every bucket that is declared, owned or read.
pub fn buckets<'s>(
    sketch: &'s Sketch,
    services: &[&'s Service],
    about: &About<'s>,
) -> Vec<BucketNode<'s>> {
    let mut buckets = Keepers::new();
    for bucket in &sketch.declared.buckets {
        let name = Cow::Borrowed(bucket.name.as_str());
        declare(&mut buckets, name, bucket.description.as_deref(), &bucket.at, about);
    }
    let keyspace = |access: &'s Access| match access {
        Access::Owns(keyspace) => Some((Cow::Borrowed(keyspace.bucket().as_str()), true)),
        Access::Reads(keyspace) => Some((Cow::Borrowed(keyspace.bucket().as_str()), false)),
        _ => None,
    };
    used(buckets, services, about, keyspace)
}

/// Every object store that is declared, owned or read, by the name that policies write.
pub fn stores<'s>(
    sketch: &'s Sketch,
    services: &[&'s Service],
    about: &About<'s>,
) -> Vec<BucketNode<'s>> {
    let mut stores = Keepers::new();
    for store in &sketch.declared.stores {
        let name = Cow::Owned(format!("{STORE_PREFIX}{}", store.name));
        declare(&mut stores, name, store.description.as_deref(), &store.at, about);
    }
    let store = |access: &'s Access| match access {
        Access::OwnsStore(store) => Some((Cow::Owned(format!("{STORE_PREFIX}{store}")), true)),
        Access::ReadsStore(store) => Some((Cow::Owned(format!("{STORE_PREFIX}{store}")), false)),
        _ => None,
    };
    used(stores, services, about, store)
}

fn declare<'s>(
    keepers: &mut Keepers<'s>,
    name: Cow<'s, str>,
    description: Option<&'s str>,
    at: &'s Location,
    about: &About<'s>,
) {
    let problems = about.inside(at);
    let node = BucketNode {
        description,
        at: Some(at.to_string()),
        problems,
        ..BucketNode::blank(name.clone())
    };
    keepers.insert(name, node);
}

/// The same with who owns and who reads each. `keeper` gives its name, and whether it is owned.
fn used<'s>(
    mut keepers: Keepers<'s>,
    services: &[&'s Service],
    about: &About<'s>,
    keeper: impl Fn(&'s Access) -> Option<(Cow<'s, str>, bool)>,
) -> Vec<BucketNode<'s>> {
    for (service, rule) in rules(services) {
        let Some((name, owns)) = keeper(&rule.access) else { continue };
        let node = keepers.entry(name.clone()).or_insert_with(|| BucketNode::blank(name));
        let list = if owns { &mut node.owners } else { &mut node.readers };
        if owns {
            node.problems.extend(about.double(rule));
        }
        add(list, &service.name);
    }
    for node in keepers.values_mut() {
        let BucketNode { owners, readers, .. } = node;
        readers.retain(|reader| owners.binary_search(reader).is_err());
        node.severity = about.settle(&mut node.problems);
    }
    keepers.into_values().collect()
}

/// Every stream that is declared or used, with its consumers; and `written`, what links entries
/// with the declared streams that they write into.
pub fn streams<'s>(
    sketch: &'s Sketch,
    services: &[&'s Service],
    written: &Links,
    about: &About<'s>,
) -> Vec<StreamNode<'s>> {
    let mut streams: BTreeMap<&str, StreamNode<'_>> = BTreeMap::new();
    let mut consumers: BTreeMap<(&str, &str), ConsumerNode<'_>> = BTreeMap::new();
    for stream in &sketch.declared.streams {
        let name = stream.name.as_str();
        let node = StreamNode {
            description: stream.description.as_deref(),
            at: Some(stream.at.to_string()),
            problems: about.inside(&stream.at),
            ..StreamNode::blank(name)
        };
        streams.insert(name, node);
        for consumer in &stream.consumers {
            let node = ConsumerNode {
                description: consumer.description.as_deref(),
                at: Some(consumer.at.to_string()),
                filter: consumer.filter.iter().map(Pattern::as_str).collect(),
                problems: about.inside(&consumer.at),
                ..ConsumerNode::blank(format!("{name}/{}", consumer.name))
            };
            consumers.insert((name, consumer.name.as_str()), node);
        }
    }
    // In the order of services.
    for link in &written.list {
        let Some(stream) = sketch.declared.streams.get(link.to) else { continue };
        let Some(service) = services.get(link.from) else { continue };
        let Some(rule) = service.rules.get(link.from_entry) else { continue };
        let Some(node) = streams.get_mut(stream.name.as_str()) else { continue };
        node.problems.extend(about.double(rule));
        add(&mut node.writers, &service.name);
    }
    for (service, rule) in rules(services) {
        match &rule.access {
            Access::Replays(replayed) => {
                let name = replayed.stream().as_str();
                let node = streams.entry(name).or_insert_with(|| StreamNode::blank(name));
                add(&mut node.replayers, &service.name);
            }
            Access::Consumes(consumed) => {
                let key = (consumed.name.stream().as_str(), consumed.name.consumer().as_str());
                let blank = || ConsumerNode::blank(consumed.name.to_string());
                let node = consumers.entry(key).or_insert_with(blank);
                node.problems.extend(about.double(rule));
                add(&mut node.users, &service.name);
            }
            _ => {}
        }
    }
    for ((stream, _), mut consumer) in consumers {
        let node = streams.entry(stream).or_insert_with(|| StreamNode::blank(stream));
        consumer.severity = about.settle(&mut consumer.problems);
        node.problems.extend(&consumer.problems);
        node.consumers.push(consumer);
    }
    for node in streams.values_mut() {
        node.severity = about.settle(&mut node.problems);
    }
    streams.into_values().collect()
}

/// Every name that a service is found by or looked for.
pub fn found<'s>(
    services: &[&'s Service],
    nodes: &[ServiceNode<'s>],
    links: &Links,
    about: &About<'s>,
) -> Vec<FoundNode<'s>> {
    let mut found: BTreeMap<&str, FoundNode<'_>> = BTreeMap::new();
    for (service, rule) in rules(services) {
        let (Access::FoundAs(name) | Access::Discovers(name)) = &rule.access else { continue };
        let name = name.as_str();
        let node = found.entry(name).or_insert_with(|| FoundNode::blank(name));
        if matches!(rule.access, Access::FoundAs(_)) {
            node.problems.extend(about.double(rule));
            add(&mut node.services, &service.name);
        } else {
            add(&mut node.finders, &service.name);
        }
    }
    // Who finds all names finds these, too.
    for link in links.list.iter().filter(|link| link.kind == Kind::Names) {
        let named = nodes.get(link.from).and_then(|s| s.entries.get(link.from_entry));
        let Some(node) = named.and_then(|e: &Entry<'_>| found.get_mut(e.found?)) else { continue };
        node.finders.extend(nodes.get(link.to).map(|finder| finder.name));
    }
    for node in found.values_mut() {
        node.finders.sort_unstable();
        node.finders.dedup();
        node.severity = about.settle(&mut node.problems);
    }
    found.into_values().collect()
}

fn rules<'s>(services: &[&'s Service]) -> impl Iterator<Item = (&'s Service, &'s Rule)> {
    services.iter().flat_map(|service| service.rules.iter().map(|rule| (*service, rule)))
}

/// Services come one after another, so only the last can be the same.
fn add<'s>(list: &mut Vec<&'s str>, name: &'s str) {
    if list.last() != Some(&name) {
        list.push(name);
    }
}

impl<'s> BucketNode<'s> {
    fn blank(name: Cow<'s, str>) -> Self {
        Self {
            name,
            description: None,
            at: None,
            owners: Vec::new(),
            readers: Vec::new(),
            problems: Vec::new(),
            severity: None,
        }
    }
}

impl<'s> StreamNode<'s> {
    fn blank(name: &'s str) -> Self {
        Self {
            name,
            description: None,
            at: None,
            writers: Vec::new(),
            replayers: Vec::new(),
            consumers: Vec::new(),
            problems: Vec::new(),
            severity: None,
        }
    }
}

impl ConsumerNode<'_> {
    fn blank(name: String) -> Self {
        Self {
            name,
            description: None,
            at: None,
            filter: Vec::new(),
            users: Vec::new(),
            problems: Vec::new(),
            severity: None,
        }
    }
}

impl<'s> FoundNode<'s> {
    fn blank(name: &'s str) -> Self {
        Self {
            name,
            services: Vec::new(),
            finders: Vec::new(),
            problems: Vec::new(),
            severity: None,
        }
    }
}

impl<'s> About<'s> {
    /// What was found about the table that stands there.
    fn inside(&self, at: &'s Location) -> Vec<usize> {
        self.inside.get(&anchor(at)).cloned().unwrap_or_default()
    }

    /// Puts problems in order, each once, and gives the worst.
    fn settle(&self, problems: &mut Vec<usize>) -> Option<Severity> {
        problems.sort_unstable();
        problems.dedup();
        self.worst(problems)
    }
}
