//! Whether the consumers that services use are declared, and each is used by one service.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::draft::Draft;
use super::settings::{Place, shown};
use super::stream::{self, Declaration};
use crate::diagnostics::toml::nearest;
use crate::diagnostics::{Collector, Problem};
use crate::policy::model::{Access, Consumer, ConsumerName};

/// Each use of a consumer: the service, and the place of its rule.
fn uses(drafts: &[Draft]) -> impl Iterator<Item = (&Draft, &ConsumerName, &Place)> {
    drafts.iter().flat_map(|draft| {
        draft.rules().filter_map(move |(rule, place)| match &rule.access {
            Access::Consumes(consumed) => Some((draft, &consumed.name, place)),
            _ => None,
        })
    })
}

fn declared<'s>(streams: &'s [Declaration], name: &ConsumerName) -> Option<&'s Consumer> {
    stream::find(streams, name.stream())?.stream.consumer(name.consumer().as_str())
}

/// A message of a consumer goes to one of those who ask. What one service takes, another lacks.
pub fn check_use(streams: &[Declaration], drafts: &[Draft], problems: &Collector) {
    let mut first: BTreeMap<&ConsumerName, (&Draft, &Place)> = BTreeMap::new();
    let mut said: HashSet<(&ConsumerName, &str)> = HashSet::new();
    for (draft, name, place) in uses(drafts) {
        let (by, at) = *first.entry(name).or_insert((draft, place));
        // What is not declared is a problem of its own.
        let alone = declared(streams, name).is_some_and(|consumer| consumer.shared.is_none());
        let other = by.service.name != draft.service.name;
        if !alone || !other || !said.insert((name, &draft.service.name)) {
            continue;
        }
        let (one, two) = (&by.service.name, &draft.service.name);
        problems.push(
            Problem::error(
                "two-consumers",
                format!("`{one}` and `{two}` would both consume `{name}`"),
            )
            .at(&place.span, format!("`{two}` consumes it here"))
            .also(&at.span, format!("`{one}` consumes it here"))
            .help(
                "each message goes to one of the two: declare a consumer for each service, or \
                     write `shared = \"why\"` in the consumer's table",
            ),
        );
    }
}

/// Finds consumers that are used and not declared, and those that are declared and not used.
pub fn check_declared(streams: &[Declaration], drafts: &[Draft], problems: &Collector) {
    let mut used: HashSet<&ConsumerName> = HashSet::new();
    let mut said: HashSet<(Arc<str>, usize, &ConsumerName)> = HashSet::new();
    for (_, name, place) in uses(drafts) {
        used.insert(name);
        // Once for a role, not for each service that has it.
        let span = &place.span;
        let key = (Arc::clone(span.file().name()), span.range().start, name);
        if declared(streams, name).is_none() && said.insert(key) {
            problems.push(unknown(streams, name).at(span, ""));
        }
    }
    for stream in streams {
        for (consumer, span) in stream.consumers() {
            let name = ConsumerName::of(stream.stream.name.clone(), consumer.name.clone());
            if let Ok(name) = name.as_ref()
                && !used.contains(name)
            {
                problems.push(
                    Problem::note("unused-consumer", format!("nobody consumes `{name}`"))
                        .at(span, "no service has it in `consumes`"),
                );
            }
        }
    }
}

fn unknown(streams: &[Declaration], name: &ConsumerName) -> Problem {
    let (wanted, consumer) = (name.stream().as_str(), name.consumer().as_str());
    let Some(stream) = stream::find(streams, name.stream()) else {
        let near = stream::near(streams, name.stream(), &format!("/{consumer}"));
        let help = near.unwrap_or_else(|| {
            format!("declare it: [stream.{wanted}] and [stream.{wanted}.consumer.{consumer}]")
        });
        return stream::undeclared(name.stream(), help);
    };
    let help = match nearest(consumer, stream.stream.consumers.iter().map(|c| c.name.as_str())) {
        Some(near) => format!("did you mean `{wanted}/{near}`?"),
        None => format!("declare it: [stream.{wanted}.consumer.{consumer}]"),
    };
    let message = format!("stream `{wanted}` has no consumer `{}`", shown(consumer));
    Problem::error("undeclared-consumer", message).help(help)
}
