//! Whether the streams that services replay are declared, and what is replayed of them is safe.

use std::collections::HashSet;
use std::sync::Arc;

use super::draft::Draft;
use super::settings::shown;
use super::stream::{self, Declaration};
use crate::diagnostics::{Collector, Problem, Span};
use crate::grant::AuditStreams;
use crate::policy::model::{Access, Replayed, Retention};
use solewriter_types::subject::Pattern;

/// How many of a stream's subjects a message shows.
const SHOWN_SUBJECTS: usize = 5;

/// Each replay with its place, once for a role, and not for each service that has it.
fn replays(drafts: &[Draft]) -> impl Iterator<Item = (&Replayed, &Span)> {
    let mut said: HashSet<(Arc<str>, usize, String)> = HashSet::new();
    let all = drafts.iter().flat_map(|draft| {
        draft.rules().filter_map(|(rule, place)| match &rule.access {
            Access::Replays(replayed) => Some((replayed, &place.span)),
            _ => None,
        })
    });
    all.filter(move |(replayed, span)| {
        let file = Arc::clone(span.file().name());
        // In a role, `{service}` may stand for several.
        said.insert((file, span.range().start, replayed.to_string()))
    })
}

/// Holds what is replayed against the stream's subjects and its retention.
pub fn check_use(streams: &[Declaration], drafts: &[Draft], problems: &Collector) {
    let mut retained_said = HashSet::new();
    for (replayed, span) in replays(drafts) {
        // What is not declared is a problem of its own.
        let Some(declared) = stream::find(streams, replayed.stream()) else { continue };
        if let Some(problem) = retained(declared, replayed)
            && retained_said.insert((span.file().name(), span.range().start))
        {
            problems
                .push(problem.at(span, "").also(declared.place(), "the stream is declared here"));
        }
        if let Some(filter) = replayed.filter()
            && let Some(problem) = outside(declared, filter)
        {
            problems.push(problem.at(span, kept(declared)));
        }
    }
}

/// What a replay would do to the messages of its stream.
fn retained(declared: &Declaration, replayed: &Replayed) -> Option<Problem> {
    let name = &declared.stream.name;
    match declared.stream.retention {
        Retention::Limits => None,
        Retention::Interest => Some(
            Problem::warning(
                "replayed-interest",
                format!("`replays {replayed}` can keep every message of stream `{name}`"),
            )
            .help(
                "a stream with `retention = \"interest\"` keeps a message until each consumer has \
                 acknowledged it, and ordered consumers never do: use `retention = \"limits\"`, \
                 or declare a consumer",
            ),
        ),
        Retention::WorkQueue => Some(
            Problem::error("replayed-work", format!("work queue `{name}` cannot be replayed"))
                .help(
                    "a message that one consumer takes from a work queue is gone for all others: \
                     declare a consumer, and use it with `consumes`",
                ),
        ),
    }
}

fn outside(declared: &Declaration, filter: &Pattern) -> Option<Problem> {
    let (stream, subjects) = (&declared.stream.name, &declared.stream.subjects);
    // A filter cannot end in `*`, where a subject can. What `>` adds there the stream does not keep.
    let open = |pattern: &Pattern| match pattern.as_str().strip_suffix(".*") {
        Some(above) => Pattern::parse(&format!("{above}.>")).unwrap_or_else(|_| pattern.clone()),
        None => pattern.clone(),
    };
    if subjects.iter().any(|subject| filter.is_subset_of(&open(subject))) {
        return None;
    }
    let shared = subjects.iter().find_map(|subject| subject.intersection(filter));
    let shared = shared.as_ref().map(open);
    let text = shown(filter.as_str());
    Some(match shared {
        Some(shared) => Problem::error(
            "filter-outside",
            format!("`{text}` is not within one subject of stream `{stream}`"),
        )
        .help(format!("write what the stream keeps of it, such as \"{stream}/{shared}\"")),
        None => {
            Problem::error("filter-outside", format!("stream `{stream}` keeps nothing of `{text}`"))
                .help(format!("write subjects of the stream, or \"{stream}\" for all of them"))
        }
    })
}

fn kept(declared: &Declaration) -> String {
    let subjects = declared.stream.subjects.iter().take(SHOWN_SUBJECTS);
    let subjects: Vec<String> = subjects.map(|subject| format!("`{subject}`")).collect();
    format!("stream `{}` keeps {}", declared.stream.name, subjects.join(", "))
}

/// Finds streams that are replayed and not declared.
pub fn check_declared(
    streams: &[Declaration],
    drafts: &[Draft],
    audit: &AuditStreams,
    problems: &Collector,
) {
    for (replayed, span) in replays(drafts) {
        let name = replayed.stream();
        if stream::find(streams, name).is_some() {
            continue;
        }
        let help = if audit.subjects_of(name.as_str()).is_some() {
            format!("it is an audit stream: write `audits = [\"{name}\"]`")
        } else {
            let rest = replayed.filter().map(|filter| format!("/{filter}")).unwrap_or_default();
            let near = stream::near(streams, name, &rest);
            near.unwrap_or_else(|| format!("declare it: [stream.{name}]"))
        };
        problems.push(stream::undeclared(name, help).at(span, ""));
    }
}
