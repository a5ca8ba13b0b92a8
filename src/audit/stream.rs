//! The settings of the audit streams, in one place.
//!
//! There are two, because what a producer may publish it may publish without end: solewriter's own
//! events are in one that no service reaches, and services' in another, in which each can push out
//! its own alone.

use std::time::Duration;

use async_nats::jetstream::stream::{
    Config, DiscardPolicy, RetentionPolicy, StorageType, SubjectTransform,
};

use solewriter_types::audit_event::{
    DEFAULT_SERVICES_STREAM, DEFAULT_STREAM, PRODUCER, SERVICES_ROOT, SUBJECT_ROOT,
};

/// For how long a stream remembers message ids. The sink asks the stream before it sends
/// anything again that is older than half of it; longer costs memory in nats-server, for each
/// event in it.
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// How long events are kept: a year and a month, for those who look back once a year.
pub const MAX_AGE: Duration = Duration::from_secs(396 * 86_400);
/// What the stream of solewriter's events may take, in bytes, about 1.3 million of them. Then the
/// oldest ones go: new ones are never refused. nats-server reserves it, so it has to fit on a small
/// disk too.
pub const MAX_BYTES: i64 = 1024 * 1024 * 1024;
/// The largest event, in bytes; the largest that is made is a tenth of it.
pub const MAX_EVENT_BYTES: i32 = 256 * 1024;
/// How many events of each service are kept. Then its own oldest ones go.
pub const MAX_OF_SERVICE: i64 = 10_000;
/// The largest event of a service, headers included: a subject of 4 KB, escaped, and the rest.
pub const MAX_SERVICE_EVENT_BYTES: i32 = 16 * 1024;

/// The subjects that the stream of solewriter's own events takes.
#[must_use]
pub fn subjects() -> String {
    format!("{SUBJECT_ROOT}.{PRODUCER}.*")
}

/// The subjects that the stream of services' events takes.
#[must_use]
pub fn services_subjects() -> String {
    format!("{SERVICES_ROOT}.*.*")
}

/// Under which subject each of them is kept: one for each service, for which the stream has a
/// limit.
#[must_use]
pub fn kept_services_subject() -> String {
    format!("{SERVICES_ROOT}.{{{{wildcard(1)}}}}")
}

/// The configurations as JSON, for `nats stream add --config`: that of solewriter's own events, and
/// that of services'.
#[must_use]
pub fn documents() -> [String; 2] {
    let configs = [config(DEFAULT_STREAM, 1), services(DEFAULT_SERVICES_STREAM, 1)];
    // Texts and numbers always have a JSON form.
    configs.map(|config| serde_json::to_string_pretty(&config).unwrap_or_default() + "\n")
}

/// What both have: nobody can remove or replace an event through the API, short of deleting the
/// stream.
fn common(name: &str, replicas: usize) -> Config {
    Config {
        name: name.to_owned(),
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: replicas,
        discard: DiscardPolicy::Old,
        max_age: MAX_AGE,
        duplicate_window: DUPLICATE_WINDOW,
        deny_delete: true,
        deny_purge: true,
        allow_rollup: false,
        // The sink asks for the last event of a run, and readers for events by number.
        allow_direct: true,
        ..Config::default()
    }
}

/// The stream of solewriter's own events.
#[must_use]
pub fn config(name: &str, replicas: usize) -> Config {
    Config {
        description: Some("What solewriter decided, and what it saw".to_owned()),
        subjects: vec![subjects()],
        max_bytes: MAX_BYTES,
        max_message_size: MAX_EVENT_BYTES,
        ..common(name, replicas)
    }
}

/// The stream of services' events. It has no limit of its own: that would let one service push out
/// or keep out the events of all others. Its size is bounded by what each may have.
#[must_use]
pub fn services(name: &str, replicas: usize) -> Config {
    Config {
        description: Some("What services report, each within a limit of its own".to_owned()),
        subjects: vec![services_subjects()],
        subject_transform: Some(SubjectTransform {
            source: services_subjects(),
            destination: kept_services_subject(),
        }),
        max_messages_per_subject: MAX_OF_SERVICE,
        max_message_size: MAX_SERVICE_EVENT_BYTES,
        ..common(name, replicas)
    }
}
