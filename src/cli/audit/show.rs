//! Events and counts as text.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::Value;

use super::sentence;
use crate::audit::origin::Foreign;
use crate::audit::stats::Stats;
use crate::cli::common::count;
use solewriter_types::audit_event::{PRODUCER, cut};

/// The longest line, in characters.
const LONGEST: usize = 1000;

/// One event as one line: when, what, which service, and what there is to say, in columns. From
/// whom, if not from solewriter itself.
pub fn line(producer: &str, event: &Value) -> String {
    let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or("-");
    let time = text("time").parse().map(|at: Timestamp| format!("{at:.0}"));
    let time = time.unwrap_or_else(|_| cut(text("time"), 20));
    // The words that `--outcome` takes.
    let outcome = text("type").rsplit('.').next().unwrap_or_default();
    let data = event.get("data").unwrap_or(&Value::Null);
    let service = data.get("service").and_then(Value::as_str).unwrap_or("-");
    let said = sentence::of(outcome, data).unwrap_or_else(|| leaves(data));
    let mut line = format!("{time}  {outcome:<9}  {service:<16}  {said}");
    if producer != PRODUCER {
        let _ = write!(line, "; told by {producer}");
    }
    // Whoever may publish to the stream chose these words.
    cut(&line, LONGEST) + "\n"
}

/// A message whose body cannot be trusted: only what the server permitted is shown.
pub fn foreign(subject: &str, why: Foreign) -> String {
    cut(&format!("FOREIGN  on {subject}: {why}"), LONGEST) + "\n"
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
    use serde_json::json;

    use super::*;
    use solewriter_types::clean::{HOSTILE, dirt};

    #[test]
    fn each_kind_is_a_sentence() {
        let said = |kind: &str, data: Value| {
            let time = "2026-11-28T23:25:28.068767Z";
            line(
                PRODUCER,
                &json!({"time": time, "type": format!("solewriter.{kind}"), "data": data}),
            )
        };
        let connection = |more: Value| {
            let mut data = json!({"host": "10.1.4.9", "server": "nats-1", "cid": 17});
            data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            data
        };
        let changes = json!({
            "added": {"count": 0, "names": []}, "removed": {"count": 1, "names": ["billing"]},
            "changed": {"count": 22, "names": ["a", "b"]}, "gained": 0, "gains": [],
            "lost": 1, "losses": ["billing: key UABC"]});
        for (kind, data, expected) in [
            (
                "authorisation.granted",
                connection(json!({"service": "orders", "expires": "2026-11-29T00:25:28Z"})),
                "granted    orders            let in from 10.1.4.9 on nats-1, cid 17 until \
                 2026-11-29T00:25:28Z",
            ),
            (
                "authorisation.denied",
                connection(
                    json!({"reason": "unknown_key", "detail": "nobody has it", "nkey": "UABC"}),
                ),
                "denied     -                 refused from 10.1.4.9 on nats-1, cid 17: unknown_key: \
                 nobody has it; key UABC",
            ),
            (
                "policy.accepted",
                json!({"revision": "0123456789abcdef", "before": "fedcba9876543210",
                    "origin": {"author": "max", "message": "rates", "number": 7}, "changes": changes}),
                "accepted   -                 policy 0123456789ab in force instead of fedcba987654, \
                 number 7, pushed by max: rates; removed: billing; changed: a, b and 20 more; lost: \
                 billing: key UABC",
            ),
            (
                "policy.refused",
                json!({"errors": 2, "faults": [{"message": "unknown key", "at": "p.toml:3:1"}]}),
                "refused    -                 policy refused, and none is in force: 2 errors, first \
                 at p.toml:3:1: unknown key",
            ),
            (
                "session.closed",
                connection(json!({"service": "billing", "outcome": "failed", "reason": "lost",
                    "detail": "write rates"})),
                "closed     billing           connection 17 on nats-1 could NOT be closed: lost: \
                 write rates",
            ),
            (
                "violation",
                json!({"service": "billing", "operation": "write", "subject": "$KV.orders.a",
                    "count": 12, "owner": "orders", "seen_by": "server_log"}),
                "violation  billing           tried to write $KV.orders.a, 12 times; owner orders",
            ),
            (
                "lost",
                json!({"reason": "queue_full", "count": 3, "instance": "r1", "first": 4, "last": 6}),
                "lost       -                 3 events of r1, numbers 4 to 6: queue_full",
            ),
            // Of a later version.
            ("thing.happened", json!({"a": 1}), "happened   -                 a=1"),
        ] {
            assert_eq!(said(kind, data), format!("2026-11-28T23:25:28Z  {expected}\n"));
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_it_says() {
        let event = serde_json::json!({"time": HOSTILE, "type": HOSTILE, "data": {
            HOSTILE: HOSTILE, "list": [HOSTILE], "object": {HOSTILE: HOSTILE}}});
        let kinds = ["granted", "denied", "rejected", "accepted", "refused", "closed", "violation"];
        let kinds = kinds.into_iter().chain(["started", "stopped", "trouble", "lost"]);
        for kind in kinds {
            let names = ["host", "server", "cid", "reason", "detail", "nkey", "revision", "before"];
            let names = names.into_iter().chain(["subject", "operation", "owner", "outcome"]);
            let data: serde_json::Map<String, Value> =
                names.map(|name| (name.to_owned(), HOSTILE.into())).collect();
            let text = line(HOSTILE, &json!({"time": HOSTILE, "type": kind, "data": data}));
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert!(dirt(&text).is_empty(), "{text:?}");
        }
        for text in [line("orders", &event), foreign(HOSTILE, Foreign::Subject)] {
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert!(dirt(&text).is_empty(), "{text:?}");
        }
    }
}
