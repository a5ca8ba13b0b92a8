//! Events and counts as text.

use std::fmt::Write as _;

use serde_json::Value;

use crate::audit::origin::Foreign;
use crate::audit::stats::Stats;
use crate::cli::common::count;
use solewriter_types::audit_event::{PRODUCER, cut};

/// The longest line, in characters.
const LONGEST: usize = 1000;

/// One event as one line: when, what, from whom if not from solewriter itself, and what it says.
pub fn line(producer: &str, event: &Value) -> String {
    let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or("-");
    let kind = text("type").trim_start_matches("solewriter.");
    let mut line = format!("{}  {kind:<22}", text("time"));
    if producer != PRODUCER {
        let _ = write!(line, " from={producer}");
    }
    if let Some(data) = event.get("data").and_then(Value::as_object) {
        for (name, value) in data {
            // The first word says it already; text for people, line by line, has its own command.
            if matches!(name.as_str(), "outcome" | "problems") {
                continue;
            }
            let _ = match value {
                Value::String(text) if plain(text) => write!(line, " {name}={text}"),
                Value::Object(_) | Value::Array(_) => {
                    let inner = leaves(value);
                    write!(line, " {name}=[{inner}]")
                }
                other => write!(line, " {name}={other}"),
            };
        }
    }
    // Whoever may publish to the stream chose these words.
    cut(&line, LONGEST) + "\n"
}

/// A message whose body cannot be trusted: only what the server permitted is shown.
pub fn foreign(subject: &str, why: Foreign) -> String {
    cut(&format!("FOREIGN  on {subject}: {why}"), LONGEST) + "\n"
}

fn plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && c != '"')
}

/// What a list or an object holds, without its punctuation.
fn leaves(value: &Value) -> String {
    match value {
        Value::Array(list) => list.iter().map(leaves).collect::<Vec<_>>().join(" "),
        Value::Object(object) => {
            let part = |(name, value): (&String, &Value)| match value {
                Value::Object(_) | Value::Array(_) => format!("{name}=[{}]", leaves(value)),
                other => format!("{name}={}", leaves(other)),
            };
            object.iter().map(part).collect::<Vec<_>>().join(" ")
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Counts for people.
pub fn stats(stats: &Stats) -> String {
    let mut out = count_line(stats);
    let shown = |name: &str| cut(name, 64);
    for (title, list) in [("Events by type", &stats.types), ("Denials by reason", &stats.denials)] {
        if !list.is_empty() {
            let _ = writeln!(out, "\n{title}:");
        }
        for (name, number) in list {
            let _ = writeln!(out, "  {number:>8}  {}", shown(name));
        }
    }
    if !stats.foreign_by.is_empty() {
        let _ = writeln!(out, "\nForeign messages, by publisher:");
    }
    for (name, number) in &stats.foreign_by {
        let _ = writeln!(out, "  {number:>8}  {}", shown(name));
    }
    if !stats.services.is_empty() {
        let _ = writeln!(out, "\nBy service:");
    }
    for (name, kinds) in &stats.services {
        let kinds: Vec<String> =
            kinds.iter().map(|(kind, number)| format!("{} {number}", shown(kind))).collect();
        let _ = writeln!(out, "  {:<24} {}", shown(name), kinds.join(", "));
    }
    let _ = writeln!(out, "\nRuns:");
    for (name, run) in &stats.runs {
        let _ = write!(
            out,
            "  {}: {}, numbers {} to {}, missing {}",
            shown(name),
            count(usize::try_from(run.events).unwrap_or(usize::MAX), "event", "events"),
            run.first,
            run.last,
            run.missing,
        );
        if run.told > 0 {
            let _ = write!(out, " ({} told of)", run.told);
        }
        if run.duplicates > 0 {
            let _ = write!(out, ", {} twice", run.duplicates);
        }
        let _ = writeln!(out);
    }
    let _ = writeln!(out, "\nMissing: {}", stats.missing());
    out
}

fn count_line(stats: &Stats) -> String {
    let between = match (&stats.first, &stats.last) {
        (Some(first), Some(last)) => format!(" from {} to {}", cut(first, 40), cut(last, 40)),
        _ => String::new(),
    };
    let foreign = if stats.foreign > 0 {
        let messages =
            count(usize::try_from(stats.foreign).unwrap_or(usize::MAX), "message", "messages");
        format!("; {messages} foreign")
    } else {
        String::new()
    };
    format!("{} events{between}{foreign}\n", stats.events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use solewriter_types::clean::{HOSTILE, dirt};

    #[test]
    fn an_event_is_one_line_whatever_it_says() {
        let event = serde_json::json!({"time": HOSTILE, "type": HOSTILE, "data": {
            HOSTILE: HOSTILE, "list": [HOSTILE], "object": {HOSTILE: HOSTILE}}});
        for text in [line("orders", &event), foreign(HOSTILE, Foreign::Subject)] {
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert!(dirt(&text).is_empty(), "{text:?}");
        }
    }
}
