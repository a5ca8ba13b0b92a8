//! Each kind of event in words, for a person who reads many of them.

use std::fmt::Write as _;

use serde_json::Value;

use solewriter_core::policy::model::short;

/// The data of an event. What is not there is left out of the sentence.
struct Data<'v>(&'v Value);

impl<'v> Data<'v> {
    fn of(&self, name: &str) -> Data<'v> {
        Data(self.0.get(name).unwrap_or(&Value::Null))
    }

    /// A text or a number; `None` for everything else.
    fn get(&self, name: &str) -> Option<String> {
        match self.0.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_else(|| "-".to_owned())
    }

    fn number(&self, name: &str) -> u64 {
        self.0.get(name).and_then(Value::as_u64).unwrap_or(0)
    }

    /// A list of texts.
    fn list(&self, name: &str) -> Vec<&'v str> {
        let list = self.0.get(name).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// `before`, the text and nothing else, where there is one.
    fn behind(&self, before: &str, name: &str) -> String {
        self.get(name).map(|text| format!("{before}{text}")).unwrap_or_default()
    }

    fn revision(&self, name: &str) -> String {
        short(&self.text(name)).to_owned()
    }
}

/// What an event says, by the last word of its type. `None` for a kind that is not known here.
pub fn of(outcome: &str, data: &Value) -> Option<String> {
    let data = Data(data);
    let connection = || {
        let (host, server, cid) = (data.text("host"), data.text("server"), data.text("cid"));
        format!("from {host} on {server}, cid {cid}")
    };
    let why = || data.text("reason") + &data.behind(": ", "detail");
    Some(match outcome {
        "granted" => format!("let in {}{}", connection(), data.behind(" until ", "expires")),
        "denied" => {
            // Of a service that is known, the key is one that the policy has.
            let key = match data.get("service") {
                Some(_) => String::new(),
                None => data.behind("; key ", "nkey"),
            };
            let unanswered = data.behind("; no answer could be made: ", "unanswered");
            format!("refused {}: {}{key}{unanswered}", connection(), why())
        }
        "rejected" => format!("a request on the callout's subject was ignored: {}", why()),
        "accepted" => accepted(&data),
        "refused" => refused(&data),
        "closed" => {
            let (cid, server) = (data.text("cid"), data.text("server"));
            let end = match data.text("outcome").as_str() {
                "closed" => "closed".to_owned(),
                "gone" => "had ended before it was closed".to_owned(),
                "failed" => "could NOT be closed".to_owned(),
                other => other.to_owned(),
            };
            format!("connection {cid} on {server} {end}: {}", why())
        }
        "handed_over" => {
            let (what, to) = (data.text("what"), data.text("to"));
            let from = data.behind(" from ", "from");
            let forced = data.0.get("forced") == Some(&Value::Bool(true));
            let how = if forced { ", without waiting for servers that do not answer" } else { "" };
            let vacant = data.number("vacant_ms");
            format!(
                "{what} moved{from} to {to}{how}; nobody could write it for {vacant} ms at most"
            )
        }
        "began" => {
            let (what, service) = (data.text("keyspace"), data.text("service"));
            let owner = data.behind(" instead of ", "owner");
            let (until, by) = (data.text("until"), data.text("by"));
            format!("EMERGENCY: {service} writes {what}{owner} until {until}; {by}: {}", why())
        }
        "ended" => {
            let (what, service) = (data.text("keyspace"), data.text("service"));
            let detail = data.behind(": ", "detail");
            let cause = data.text("cause");
            format!("the emergency is over ({cause}{detail}): {service} wrote {what}")
        }
        "ignored" => {
            let (cause, detail) = (data.text("cause"), data.text("detail"));
            format!("a document of an emergency grants nothing ({cause}): {detail}")
        }
        "violation" => violation(&data),
        "started" => format!("version {}", data.text("version")),
        "stopped" => format!("{}, after {} s", why(), data.text("ran_seconds")),
        "trouble" => why(),
        "lost" => {
            let (count, instance) = (data.text("count"), data.text("instance"));
            let (first, last) = (data.text("first"), data.text("last"));
            format!("{count} events of {instance}, numbers {first} to {last}: {}", why())
        }
        _ => return None,
    })
}

fn accepted(data: &Data<'_>) -> String {
    let mut text = format!("policy {} in force", data.revision("revision"));
    if data.get("before").is_some() {
        let _ = write!(text, " instead of {}", data.revision("before"));
    }
    let origin = data.of("origin");
    text += &origin.behind(", number ", "number");
    text += &origin.behind(", pushed by ", "author");
    text += &origin.behind(": ", "message");
    let changes = data.of("changes");
    for (word, name) in [("new", "added"), ("removed", "removed"), ("changed", "changed")] {
        let names = changes.of(name);
        some_of(&mut text, word, &names.list("names"), names.number("count"));
    }
    some_of(&mut text, "lost", &changes.list("losses"), changes.number("lost"));
    some_of(&mut text, "gained", &changes.list("gains"), changes.number("gained"));
    text
}

/// A list that may hold only the first of all.
fn some_of(text: &mut String, word: &str, names: &[&str], count: u64) {
    if count > 0 {
        let _ = write!(text, "; {word}: {}", names.join(", "));
    }
    let more = count.saturating_sub(names.len() as u64);
    if more > 0 {
        let _ = write!(text, " and {more} more");
    }
}

fn refused(data: &Data<'_>) -> String {
    let mut text = match data.get("revision") {
        Some(_) => format!("policy refused, {} stays in force", data.revision("revision")),
        None => "policy refused, and none is in force".to_owned(),
    };
    let errors = data.number("errors");
    let _ = write!(text, ": {errors} {}", if errors == 1 { "error" } else { "errors" });
    let faults = data.0.get("faults").and_then(Value::as_array);
    if let Some(first) = faults.and_then(|faults| faults.first()) {
        let first = Data(first);
        let _ = write!(text, ", first{}: {}", first.behind(" at ", "at"), first.text("message"));
    }
    text
}

fn violation(data: &Data<'_>) -> String {
    let mut text = format!("tried to {} {}", data.text("operation"), data.text("subject"));
    if data.number("count") > 1 {
        let _ = write!(text, ", {} times", data.number("count"));
    }
    text += &data.behind("; owner ", "owner");
    text += &data.behind("; missing: ", "missing_rule");
    text += &data.behind("; from ", "host");
    text += &data.behind("; ", "detail");
    if data.get("seen_by").as_deref() == Some("client") {
        text += "; seen by the client";
    }
    if data.0.get("unproved") == Some(&Value::Bool(true)) {
        text += "; unproved: these may be a client's own words";
    }
    text
}
