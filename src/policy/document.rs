//! The policy as it is written: tables and texts with their places, nothing judged yet but types
//! and key names.

use std::time::Duration;

use crate::source::toml::{self, Table, Value};
use crate::source::{Collector, Problem, SourceFile, Span, Spanned};

/// What one file says.
#[derive(Debug, Default)]
pub struct Document {
    /// `[service.NAME]`.
    pub services: Vec<ServiceEntry>,
}

/// `[service.NAME]`.
#[derive(Debug)]
pub struct ServiceEntry {
    /// NAME.
    pub name: Spanned<String>,
    /// `description`.
    pub description: Option<Spanned<String>>,
    /// `nkeys`.
    pub keys: Vec<KeyEntry>,
    /// `owns` to `calls`.
    pub grants: GrantEntries,
    /// `account`, `lifetime`, `sources`, `connections`.
    pub settings: SettingEntries,
    /// `disabled`.
    pub disabled: Option<Spanned<String>>,
}

/// An element of `nkeys`.
#[derive(Debug)]
pub struct KeyEntry {
    /// The public key.
    pub key: Spanned<String>,
    /// `not_before`, in seconds since the Unix epoch.
    pub not_before: Option<Spanned<i64>>,
    /// `not_after`, in seconds since the Unix epoch.
    pub not_after: Option<Spanned<i64>>,
}

/// The lists that grant something.
#[derive(Debug, Default)]
pub struct GrantEntries {
    /// `owns`.
    pub owns: Vec<Spanned<String>>,
    /// `reads`.
    pub reads: Vec<Spanned<String>>,
    /// `publishes`.
    pub publishes: Vec<Spanned<String>>,
    /// `subscribes`.
    pub subscribes: Vec<Spanned<String>>,
    /// `answers`.
    pub answers: Vec<Spanned<String>>,
    /// `calls`.
    pub calls: Vec<Spanned<String>>,
}

/// What may be set for one service.
#[derive(Debug, Default)]
pub struct SettingEntries {
    /// `account`.
    pub account: Option<Spanned<String>>,
    /// `lifetime`.
    pub lifetime: Option<Spanned<Duration>>,
    /// `sources`.
    pub sources: Option<Spanned<Vec<Spanned<String>>>>,
    /// `connections`.
    pub connections: Option<Spanned<Vec<Spanned<String>>>>,
}

/// Reads one file. Problems of syntax, types and unknown keys go to `problems`; what could be
/// read is returned all the same, so that its values are checked too.
#[must_use]
pub fn read(file: &SourceFile, problems: &Collector) -> Document {
    let Some(mut root) = toml::read(file, problems) else { return Document::default() };
    let services = root.tables("service").into_iter().map(|(name, t)| service(name, t)).collect();
    root.finish();
    Document { services }
}

fn service(name: Spanned<String>, mut table: Table<'_>) -> ServiceEntry {
    let description = table.string("description");
    let keys = keys(&mut table);
    let grants = grants(&mut table);
    let settings = settings(&mut table);
    let disabled = table.string("disabled");
    table.finish();
    ServiceEntry { name, description, keys, grants, settings, disabled }
}

fn grants(table: &mut Table<'_>) -> GrantEntries {
    GrantEntries {
        owns: table.strings("owns").unwrap_or_default(),
        reads: table.strings("reads").unwrap_or_default(),
        publishes: table.strings("publishes").unwrap_or_default(),
        subscribes: table.strings("subscribes").unwrap_or_default(),
        answers: table.strings("answers").unwrap_or_default(),
        calls: table.strings("calls").unwrap_or_default(),
    }
}

fn settings(table: &mut Table<'_>) -> SettingEntries {
    SettingEntries {
        account: table.string("account"),
        lifetime: table.duration("lifetime"),
        sources: table.spanned_strings("sources"),
        connections: table.spanned_strings("connections"),
    }
}

const KEYS: &str = "an array of public NKEYs (strings, or tables with `key`)";

fn keys(table: &mut Table<'_>) -> Vec<KeyEntry> {
    let problems = table.problems();
    let Some(values) = table.values("nkeys", KEYS) else { return Vec::new() };
    values.into_iter().filter_map(|value| key(value, problems)).collect()
}

fn key(value: Value<'_>, problems: &Collector) -> Option<KeyEntry> {
    match value {
        Value::String(key) => Some(KeyEntry { key, not_before: None, not_after: None }),
        Value::Table(mut table) => {
            table.require("key", "\"U...\"");
            let key = table.string("key");
            let not_before = time(&mut table, "not_before");
            let not_after = time(&mut table, "not_after");
            table.finish();
            Some(KeyEntry { key: key?, not_before, not_after })
        }
        Value::Datetime(other) => wrong_key("a datetime", &other.span, problems),
        Value::Other(found, span) => wrong_key(found, &span, problems),
    }
}

fn wrong_key(found: &str, span: &Span, problems: &Collector) -> Option<KeyEntry> {
    problems.push(
        Problem::error("wrong-type", format!("`nkeys` must be {KEYS}"))
            .at(span, format!("found {found}")),
    );
    None
}

/// A TOML datetime with an offset, or the same as a string.
fn time(table: &mut Table<'_>, key: &'static str) -> Option<Spanned<i64>> {
    let problems = table.problems();
    let (text, span) = match table.value(key)? {
        Value::String(text) => (text.value, text.span),
        Value::Datetime(datetime) => (datetime.value.to_string(), datetime.span),
        Value::Table(table) => (String::new(), table.span().clone()),
        Value::Other(_, span) => (String::new(), span),
    };
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        Some(Spanned::new(time.as_second(), span))
    } else {
        problems.push(
            Problem::error("bad-time", format!("`{key}` is not a point in time"))
                .at(&span, "")
                .help("write date, time and offset from UTC, such as 2027-01-31T00:00:00Z"),
        );
        None
    }
}
