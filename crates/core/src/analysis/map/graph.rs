//! The map as nodes and lines, for the text forms.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{Kind, Map};
use crate::diagnostics::Severity;

/// More names than this on one line of the picture are counted instead.
const MOST_NAMES: usize = 3;

/// What a node stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    Service,
    Bucket,
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

impl<'m> Draft<'m> {
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
    /// All of a map, or what the service or bucket of a name has to do with.
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
        let mut buckets = HashMap::new();
        for bucket in &map.buckets {
            buckets.insert(bucket.name, draft.nodes.len());
            draft.nodes.push(Node {
                shape: Shape::Bucket,
                name: bucket.name.to_owned(),
                disabled: false,
                severity: bucket.severity,
            });
        }
        keyspaces(map, &buckets, &mut draft);
        links(map, &mut draft);
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

    /// Only the nodes of that name, what they are connected with, and the lines at them. A
    /// service's buckets count as the service, so that their readers are there too.
    fn around(mut self, name: &str) -> Self {
        let mut middle: HashSet<usize> = HashSet::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if node.name == name && node.shape != Shape::Subject {
                middle.insert(index);
            }
        }
        let owned: Vec<usize> = self
            .lines
            .iter()
            .filter(|line| line.verb == Verb::Owns && middle.contains(&line.from))
            .map(|line| line.to)
            .collect();
        middle.extend(owned);
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

fn keyspaces<'m>(map: &'m Map<'_>, buckets: &HashMap<&str, usize>, draft: &mut Draft<'m>) {
    for (index, service) in map.services.iter().enumerate() {
        for entry in &service.entries {
            let Some(bucket) = entry.bucket.and_then(|name| buckets.get(name)) else { continue };
            let part = entry.name.split_once('/').map_or("", |(_, part)| part);
            let ends = match entry.verb {
                "owns" => (index, *bucket, Verb::Owns),
                _ => (*bucket, index, Verb::Reads),
            };
            draft.line(ends, part, entry.severity);
        }
    }
}

fn links<'m>(map: &'m Map<'_>, draft: &mut Draft<'m>) {
    let mut answered: HashSet<(usize, usize)> = HashSet::new();
    for link in &map.links {
        let verb = match link.kind {
            // Drawn through the bucket.
            Kind::Values => continue,
            Kind::Messages => Verb::Messages,
            Kind::Requests => Verb::Requests,
        };
        let from = map.entry(link.from, link.from_entry);
        let to = map.entry(link.to, link.to_entry);
        let (Some(from), Some(to)) = (from, to) else { continue };
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
            if answered.contains(&(index, e)) {
                continue;
            }
            let subject = *subjects.entry((verb, &entry.name)).or_insert(draft.nodes.len());
            if subject == draft.nodes.len() {
                draft.nodes.push(Node {
                    shape: Shape::Subject,
                    name: entry.name.clone(),
                    disabled: false,
                    severity: entry.severity,
                });
            }
            let ends = if sends { (index, subject, verb) } else { (subject, index, verb) };
            draft.line(ends, "", entry.severity);
        }
    }
}
