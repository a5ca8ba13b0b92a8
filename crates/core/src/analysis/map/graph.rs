//! The map as nodes and lines, for the text forms.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{Kind, Map};
use crate::diagnostics::Severity;

/// More names than this on one line of the picture are counted instead.
const MOST_NAMES: usize = 3;

/// What a node stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shape {
    Service,
    Bucket,
    Store,
    Stream,
    Consumer,
    /// A name under which a service is found.
    Found,
    /// A subject with nobody on the other side.
    Subject,
}

#[derive(Debug)]
pub struct Node {
    pub shape: Shape,
    pub name: String,
    pub disabled: bool,
    pub severity: Option<Severity>,
}

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    Owns,
    Reads,
    Messages,
    Requests,
    /// A service is found by a name.
    FoundAs,
    Replays,
}

#[derive(Debug)]
pub struct Line {
    pub from: usize,
    pub to: usize,
    pub verb: Verb,
    /// Names to write on it; empty for a whole bucket.
    pub label: String,
    pub severity: Option<Severity>,
}

/// Nodes and lines; lines name nodes by index.
#[derive(Debug, Default)]
pub struct Picture {
    pub nodes: Vec<Node>,
    pub lines: Vec<Line>,
}

type Ends = (usize, usize, Verb);

#[derive(Default)]
struct Draft<'m> {
    nodes: Vec<Node>,
    lines: BTreeMap<Ends, (BTreeSet<&'m str>, Option<Severity>)>,
}

/// Where the nodes are that are no services.
type Places<'m> = HashMap<(Shape, &'m str), usize>;

impl<'m> Draft<'m> {
    /// Adds a node that nobody can disable, and gives its index.
    fn node(&mut self, shape: Shape, name: &str, severity: Option<Severity>) -> usize {
        self.nodes.push(Node { shape, name: name.to_owned(), disabled: false, severity });
        self.nodes.len() - 1
    }

    fn line(&mut self, ends: Ends, name: &'m str, severity: Option<Severity>) {
        let (names, worst) = self.lines.entry(ends).or_default();
        if !name.is_empty() {
            names.insert(name);
        }
        *worst = worse(*worst, severity);
    }
}

fn worse(a: Option<Severity>, b: Option<Severity>) -> Option<Severity> {
    a.into_iter().chain(b).min()
}

impl Picture {
    /// All of a map, or what the node of a name has to do with.
    pub fn of(map: &Map<'_>, focus: Option<&str>) -> Self {
        let mut draft = Draft::default();
        for service in &map.services {
            draft.nodes.push(Node {
                shape: Shape::Service,
                name: service.name.to_owned(),
                disabled: service.disabled.is_some(),
                severity: service.severity,
            });
        }
        let mut places = Places::default();
        for bucket in &map.buckets {
            let at = draft.node(Shape::Bucket, &bucket.name, bucket.severity);
            places.insert((Shape::Bucket, &bucket.name), at);
        }
        for store in &map.stores {
            let at = draft.node(Shape::Store, &store.name, store.severity);
            places.insert((Shape::Store, &store.name), at);
        }
        for stream in &map.streams {
            let at = draft.node(Shape::Stream, stream.name, stream.severity);
            places.insert((Shape::Stream, stream.name), at);
            for consumer in &stream.consumers {
                let place = draft.node(Shape::Consumer, &consumer.name, consumer.severity);
                places.insert((Shape::Consumer, &consumer.name), place);
                let ends = (at, place, Verb::Reads);
                draft.line(ends, "", consumer.severity);
                for filter in &consumer.filter {
                    draft.line(ends, filter, consumer.severity);
                }
            }
        }
        for found in &map.found {
            let at = draft.node(Shape::Found, found.name, found.severity);
            places.insert((Shape::Found, found.name), at);
        }
        entries(map, &places, &mut draft);
        links(map, &places, &mut draft);
        let lines = draft
            .lines
            .into_iter()
            .map(|((from, to, verb), (names, severity))| {
                let label = label(&names);
                Line { from, to, verb, label, severity }
            })
            .collect();
        let picture = Self { nodes: draft.nodes, lines };
        match focus {
            None => picture,
            Some(name) => picture.around(name),
        }
    }

    /// Only the nodes of that name, what they are connected with, and the lines at them. What a
    /// service owns or writes, its consumers and the name that it is found by count as the service,
    /// so that who is on the other side is there too; and consumers count as their stream.
    fn around(mut self, name: &str) -> Self {
        let mut middle: HashSet<usize> = HashSet::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if node.name == name && node.shape != Shape::Subject {
                middle.insert(index);
            }
        }
        let shape = |index: usize| self.nodes.get(index).map(|node| node.shape);
        let has = |line: &&Line| {
            matches!(line.verb, Verb::Owns | Verb::FoundAs) || shape(line.to) == Some(Shape::Stream)
        };
        let of_service: Vec<usize> = self
            .lines
            .iter()
            .filter_map(|line| match line {
                line if middle.contains(&line.from) && has(&line) => Some(line.to),
                line if middle.contains(&line.to) && shape(line.from) == Some(Shape::Consumer) => {
                    Some(line.from)
                }
                _ => None,
            })
            .collect();
        middle.extend(of_service);
        let of_stream =
            |line: &&Line| shape(line.to) == Some(Shape::Consumer) && middle.contains(&line.from);
        let of_stream: Vec<usize> =
            self.lines.iter().filter(of_stream).map(|line| line.to).collect();
        middle.extend(of_stream);
        self.lines.retain(|line| middle.contains(&line.from) || middle.contains(&line.to));
        let ends = self.lines.iter().flat_map(|line| [line.from, line.to]);
        let kept: BTreeSet<usize> = ends.chain(middle).collect();
        let places: HashMap<usize, usize> =
            kept.iter().enumerate().map(|(new, old)| (*old, new)).collect();
        let mut index = 0;
        self.nodes.retain(|_| {
            index += 1;
            kept.contains(&(index - 1))
        });
        for line in &mut self.lines {
            line.from = places.get(&line.from).copied().unwrap_or_default();
            line.to = places.get(&line.to).copied().unwrap_or_default();
        }
        self
    }
}

fn label(names: &BTreeSet<&str>) -> String {
    let shown: Vec<&str> = names.iter().take(MOST_NAMES).copied().collect();
    let more = names.len().saturating_sub(MOST_NAMES);
    let shown = shown.join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// The lines between services and what they have and use.
fn entries<'m>(map: &'m Map<'_>, places: &Places<'_>, draft: &mut Draft<'m>) {
    for (index, service) in map.services.iter().enumerate() {
        for entry in &service.entries {
            let place = |shape, name| places.get(&(shape, name)).copied();
            // What follows the bucket's or stream's name.
            let part = entry.name.split_once('/').map_or("", |(_, part)| part);
            let bucket = entry.bucket.and_then(|name| place(Shape::Bucket, name));
            let store = entry.store.as_deref().and_then(|name| place(Shape::Store, name));
            if let Some(keeper) = bucket.or(store) {
                let ends = match entry.verb {
                    "owns" => (index, keeper, Verb::Owns),
                    _ => (keeper, index, Verb::Reads),
                };
                draft.line(ends, part, entry.severity);
            }
            if let Some(consumer) = &entry.consumer {
                if let Some(place) = place(Shape::Consumer, consumer) {
                    draft.line((place, index, Verb::Reads), "", entry.severity);
                }
                continue;
            }
            for stream in entry.streams.iter().filter_map(|name| place(Shape::Stream, name)) {
                match entry.verb {
                    "replays" => draft.line((stream, index, Verb::Replays), part, entry.severity),
                    _ => draft.line((index, stream, Verb::Messages), &entry.name, entry.severity),
                }
            }
            if let Some(name) = entry.found.and_then(|name| place(Shape::Found, name)) {
                let ends = match entry.verb {
                    "found_as" => (index, name, Verb::FoundAs),
                    _ => (name, index, Verb::Reads),
                };
                draft.line(ends, "", entry.severity);
            }
        }
    }
}

fn links<'m>(map: &'m Map<'_>, places: &Places<'_>, draft: &mut Draft<'m>) {
    let mut answered: HashSet<(usize, usize)> = HashSet::new();
    for link in &map.links {
        let from = map.entry(link.from, link.from_entry);
        let to = map.entry(link.to, link.to_entry);
        let (Some(from), Some(to)) = (from, to) else { continue };
        let verb = match link.kind {
            // Drawn through the bucket or the store.
            Kind::Values => continue,
            Kind::Names => {
                // Also for who discovers all names.
                let name = from.found.and_then(|name| places.get(&(Shape::Found, name)));
                if let Some(name) = name {
                    draft.line((*name, link.to, Verb::Reads), "", to.severity);
                }
                continue;
            }
            Kind::Messages => Verb::Messages,
            Kind::Requests => Verb::Requests,
        };
        answered.insert((link.from, link.from_entry));
        answered.insert((link.to, link.to_entry));
        // The narrower of the two: the longer one, as a rule.
        let name = if from.name.len() >= to.name.len() { &from.name } else { &to.name };
        draft.line((link.from, link.to, verb), name, worse(from.severity, to.severity));
    }
    let mut subjects: HashMap<(Verb, &str), usize> = HashMap::new();
    for (index, service) in map.services.iter().enumerate() {
        for (e, entry) in service.entries.iter().enumerate() {
            let (verb, sends) = match entry.verb {
                "publishes" => (Verb::Messages, true),
                "subscribes" => (Verb::Messages, false),
                "calls" => (Verb::Requests, true),
                "answers" => (Verb::Requests, false),
                _ => continue,
            };
            // Where nobody else takes it, a stream may.
            if answered.contains(&(index, e)) || !entry.streams.is_empty() {
                continue;
            }
            let subject = *subjects
                .entry((verb, &entry.name))
                .or_insert_with(|| draft.node(Shape::Subject, &entry.name, entry.severity));
            let ends = if sends { (index, subject, verb) } else { (subject, index, verb) };
            draft.line(ends, "", entry.severity);
        }
    }
}
