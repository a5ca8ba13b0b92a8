//! A declared object store: its stream is as client libraries make it, and as safe as a bucket's.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::compare::{Absent, Class, Fields, LEFT, Setting, is_lowered, setting};
use super::declared::{limit, nanoseconds, object};
use super::{BucketPlan, Kind, Stream};
use solewriter_core::policy::model::Store;
use solewriter_types::kv_operation::store_stream;

/// What nats-server takes as `duplicate_window` when there is none and messages are kept as long.
const USUAL_WINDOW: Duration = Duration::from_secs(120);

/// Every field that a declaration decides, in the order of the documentation.
const SETTINGS: [Setting; 16] = [
    setting(
        "subjects",
        None,
        Absent::Nothing,
        Some("other subjects than the store's own are no objects of it"),
    ),
    setting("description", Some("description"), Absent::Empty, None),
    setting("max_age", Some("ttl"), Absent::Zero, None),
    setting("max_bytes", Some("max_bytes"), Absent::Unlimited, None),
    setting("num_replicas", Some("replicas"), Absent::Zero, None),
    setting("storage", Some("storage"), Absent::Empty, None),
    setting("compression", Some("compression"), Absent::None, None),
    setting("max_msgs", None, Absent::Unlimited, Some("pieces of objects are deleted")),
    setting("max_msgs_per_subject", None, Absent::Unlimited, Some("pieces of objects are deleted")),
    setting("max_msg_size", None, Absent::Unlimited, Some("larger pieces are not taken")),
    setting("discard", None, Absent::Empty, Some("when it is full, pieces of objects are deleted")),
    setting("retention", None, Absent::Empty, Some("objects go once they were read")),
    setting("allow_direct", None, Absent::False, Some("readers cannot get")),
    setting("allow_rollup_hdrs", None, Absent::False, Some("owners cannot replace an object")),
    setting("duplicate_window", None, Absent::Zero, None),
    setting(
        "deny_delete",
        None,
        Absent::False,
        Some("a piece of an object can be erased by its sequence number"),
    ),
];

/// What must be off, why, and whether an update turns it off.
const OFF: [(&str, &str, Class); 15] = [
    ("republish", "every object is published a second time, to whoever listens there", Class::Safe),
    ("sources", "another stream's messages become objects, whoever wrote them", Class::Safe),
    ("mirror", "it is a copy of another stream, and has no writer of its own", Class::Recreate),
    ("subject_transform", "a put of one object is stored under another", Class::Safe),
    ("allow_msg_ttl", "pieces of an object can go before the rest", Class::Recreate),
    ("subject_delete_marker_ttl", "the server writes messages of its own", Class::Safe),
    ("allow_msg_schedules", "a put can make the server write to other objects", Class::Recreate),
    ("allow_msg_counter", "messages are counters, and no objects", Class::Recreate),
    ("allow_atomic", "no client library puts objects in batches", Class::Safe),
    ("allow_batched", "no client library puts objects in batches", Class::Safe),
    ("no_ack", "a put is not confirmed", Class::Safe),
    ("discard_new_per_subject", "an object's pieces are kept out", Class::Safe),
    ("sealed", "it takes no more objects", Class::Recreate),
    ("mirror_direct", "objects are read from a mirror, which may be behind", Class::Safe),
    ("persist_mode", "a put is confirmed before it is kept", Class::Recreate),
];

const FIELDS: Fields<'_> = Fields { settings: &SETTINGS, off: &OFF, left: &LEFT };

/// The configuration that is sent to create the store (ADR-20).
fn config(store: &Store) -> Map<String, Value> {
    let name = &store.name;
    let window = store.ttl.map_or(USUAL_WINDOW, |ttl| ttl.min(USUAL_WINDOW));
    object(json!({
        "name": store_stream(name.as_str()),
        "description": store.description.clone().unwrap_or_default(),
        "subjects": [format!("$O.{name}.C.>"), format!("$O.{name}.M.>")],
        "retention": "limits",
        "storage": store.storage.as_str(),
        "num_replicas": store.replicas,
        "max_age": store.ttl.map_or(0, nanoseconds),
        "max_bytes": limit(store.max_bytes),
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "compression": if store.compression { "s2" } else { "none" },
        "discard": "new",
        "duplicate_window": nanoseconds(window),
        "allow_direct": true,
        "allow_rollup_hdrs": true,
        "deny_delete": true,
    }))
}

/// What has to be done about the store.
pub(super) fn plan(store: &Store, found: Option<&Stream>) -> BucketPlan {
    let wanted = config(store);
    let (changes, config, action) = match found {
        None => FIELDS.create(wanted),
        Some(found) => FIELDS.change(&wanted, &found.config, |field, now, declared| {
            cost(field, now, declared, found)
        }),
    };
    BucketPlan {
        kind: Kind::Store,
        bucket: store.name.to_string(),
        stream: store_stream(store.name.as_str()),
        declared_at: store.at.to_string(),
        action,
        changes,
        config,
    }
}

/// What it takes to change a declared field, and what is lost by it.
fn cost(
    field: &str,
    now: &Value,
    declared: &Value,
    found: &Stream,
) -> (Class, Option<&'static str>) {
    let loses = |what| (Class::LosesData, Some(what));
    let holds_more = |held: u64| declared.as_u64().is_some_and(|cap| cap < held);
    match field {
        "storage" | "retention" => (Class::Recreate, None),
        "num_replicas" if is_lowered(now, declared, 0) => {
            loses("a copy of every object is deleted")
        }
        "max_age" if found.state.messages > 0 && is_lowered(now, declared, 0) => {
            loses("objects older than that are deleted")
        }
        "max_bytes" if is_lowered(now, declared, -1) && holds_more(found.state.bytes) => {
            loses("it holds more than that: no new object is taken")
        }
        _ => (Class::Safe, None),
    }
}
