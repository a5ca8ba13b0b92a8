//! What the audit stream is like: the one place that says so.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};

use super::event::SUBJECT_ROOT;

/// The stream's name, unless a setting gives another.
pub const DEFAULT_NAME: &str = "AUDIT_EVENTS";
/// For how long the stream remembers message ids. The sink asks the stream before it sends
/// anything again that is older than half of it; longer costs memory in nats-server, for each
/// event in it.
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// How long events are kept: a year and a month, for those who look back once a year.
pub const MAX_AGE: Duration = Duration::from_secs(396 * 86_400);
/// What the stream may take, in bytes, about 1.3 million events. Then the oldest ones go: new ones
/// are never refused. nats-server reserves it, so it has to fit on a small disk too.
pub const MAX_BYTES: i64 = 1024 * 1024 * 1024;
/// The largest event, in bytes; the largest that is made is a tenth of it.
pub const MAX_EVENT_BYTES: i32 = 256 * 1024;

/// The subjects that the stream takes.
#[must_use]
pub fn subjects() -> String {
    format!("{SUBJECT_ROOT}.>")
}

/// The configuration as JSON, for `nats stream add --config`.
#[must_use]
pub fn document() -> String {
    // Texts and numbers always have a JSON form.
    let text = serde_json::to_string_pretty(&config(DEFAULT_NAME, 1)).unwrap_or_default();
    text + "\n"
}

/// The stream's configuration. Nobody can remove or replace an event in it through the API, short
/// of deleting the stream.
#[must_use]
pub fn config(name: &str, replicas: usize) -> Config {
    Config {
        name: name.to_owned(),
        description: Some("What solewriter decided, and what it saw".to_owned()),
        subjects: vec![subjects()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: replicas,
        discard: DiscardPolicy::Old,
        max_age: MAX_AGE,
        max_bytes: MAX_BYTES,
        max_message_size: MAX_EVENT_BYTES,
        duplicate_window: DUPLICATE_WINDOW,
        deny_delete: true,
        deny_purge: true,
        allow_rollup: false,
        // The sink asks for the last event of a run, and readers for events by number.
        allow_direct: true,
        ..Config::default()
    }
}
