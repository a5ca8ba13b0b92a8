//! A declared stream: what it must be like, and what it costs to make it so.

use serde_json::{Map, Value, json};

use super::compare::{Absent, Class, Fields, LEFT, Setting, is_lowered, setting};
use super::declared::{limit, nanoseconds, object};
use super::{BucketPlan, Kind, Stream};
use solewriter_core::policy::model::{Feature, Stream as Declared};
use solewriter_types::subject::Pattern;

/// Every field that a declaration decides, in the order of the documentation.
const SETTINGS: [Setting; 22] = [
    setting("subjects", Some("subjects"), Absent::Nothing, None),
    setting("description", Some("description"), Absent::Empty, None),
    setting("retention", Some("retention"), Absent::Empty, None),
    setting("max_age", Some("max_age"), Absent::Zero, None),
    setting("max_bytes", Some("max_bytes"), Absent::Unlimited, None),
    setting("max_msgs", Some("max_messages"), Absent::Unlimited, None),
    setting("max_msgs_per_subject", Some("max_per_subject"), Absent::Unlimited, None),
    setting("max_msg_size", Some("max_message_size"), Absent::Unlimited, None),
    setting("discard", Some("discard"), Absent::Empty, None),
    setting("duplicate_window", Some("duplicate_window"), Absent::Zero, None),
    setting("storage", Some("storage"), Absent::Empty, None),
    setting("compression", Some("compression"), Absent::None, None),
    setting("num_replicas", Some("replicas"), Absent::Zero, None),
    setting("allow_direct", Some("direct"), Absent::False, None),
    setting("allow_msg_ttl", Some("message_ttl"), Absent::False, None),
    setting("allow_msg_counter", Some("counters"), Absent::False, None),
    setting("allow_msg_schedules", Some("schedules"), Absent::False, None),
    setting("allow_atomic", Some("atomic"), Absent::False, None),
    setting("allow_batched", Some("fast_batches"), Absent::False, None),
    setting(
        "allow_rollup_hdrs",
        None,
        Absent::False,
        Some("one message can erase all others of the stream"),
    ),
    setting(
        "deny_delete",
        None,
        Absent::False,
        Some("a message can be erased by its sequence number"),
    ),
    setting(
        "subject_delete_marker_ttl",
        None,
        Absent::Zero,
        Some("the server writes messages of its own"),
    ),
];

/// What must be off, why, and whether an update turns it off.
const OFF: [(&str, &str, Class); 9] = [
    (
        "republish",
        "every message is published a second time, to whoever listens there",
        Class::Safe,
    ),
    ("sources", "another stream's messages become messages of this one", Class::Safe),
    ("mirror", "it is a copy of another stream, and has no writer of its own", Class::Recreate),
    ("subject_transform", "a message to one subject is stored under another", Class::Safe),
    ("no_ack", "a message is not confirmed", Class::Safe),
    ("discard_new_per_subject", "a subject that is full takes no more messages", Class::Safe),
    ("sealed", "it takes no more messages", Class::Recreate),
    ("mirror_direct", "messages are read from a mirror, which may be behind", Class::Safe),
    ("persist_mode", "a message is confirmed before it is kept", Class::Recreate),
];

const FIELDS: Fields<'_> = Fields { settings: &SETTINGS, off: &OFF, left: &LEFT };

/// The configuration that is sent to create the stream.
fn config(stream: &Declared) -> Map<String, Value> {
    let subjects: Vec<&str> = stream.subjects.iter().map(Pattern::as_str).collect();
    let mut config = object(json!({
        "name": stream.name.as_str(),
        "description": stream.description.clone().unwrap_or_default(),
        "subjects": subjects,
        "retention": stream.retention.as_str(),
        "storage": stream.storage.as_str(),
        "num_replicas": stream.replicas,
        "max_age": stream.max_age.map_or(0, nanoseconds),
        "max_bytes": limit(stream.max_bytes),
        "max_msgs": limit(stream.max_messages),
        "max_msgs_per_subject": limit(stream.max_per_subject),
        "max_msg_size": limit(stream.max_message_size),
        "max_consumers": -1,
        "discard": stream.discard.as_str(),
        "duplicate_window": nanoseconds(stream.duplicate_window),
        "compression": if stream.compression { "s2" } else { "none" },
        "allow_direct": stream.direct,
        // nats-server switches it on for schedules, whatever is asked.
        "allow_rollup_hdrs": stream.has(Feature::Schedules),
        "deny_delete": true,
        "subject_delete_marker_ttl": 0,
    }));
    for feature in Feature::ALL {
        config.insert(feature.config().to_owned(), stream.has(feature).into());
    }
    config
}

/// The same without the features that are off: 2.12 refuses a field that it does not know.
fn known_to_all(mut config: Map<String, Value>) -> Map<String, Value> {
    config.retain(|field, value| {
        *value != false || !Feature::ALL.iter().any(|feature| feature.config() == field)
    });
    config
}

/// What has to be done about the stream.
pub(super) fn plan(declared: &Declared, found: Option<&Stream>) -> BucketPlan {
    let wanted = config(declared);
    let (changes, config, action) = match found {
        None => FIELDS.create(known_to_all(wanted)),
        Some(found) => FIELDS.change(&wanted, &found.config, |field, now, declared| {
            cost(field, now, declared, &wanted, found)
        }),
    };
    BucketPlan {
        kind: Kind::Stream,
        bucket: declared.name.to_string(),
        stream: declared.name.to_string(),
        declared_at: declared.at.to_string(),
        action,
        changes,
        config,
    }
}

/// Whether the plan switches that feature on.
pub(super) fn wants(plan: &BucketPlan, feature: Feature) -> bool {
    plan.changes.iter().any(|c| c.field == feature.config() && c.declared == true)
}

/// Whether every subject of the first list is one of the second, too.
pub(super) fn keeps_all(now: &Value, declared: &Value) -> bool {
    let patterns = |value: &Value| -> Vec<Pattern> {
        let texts = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        texts.filter_map(|text| Pattern::parse(text).ok()).collect()
    };
    let (now, then) = (patterns(now), patterns(declared));
    now.iter().all(|now| then.iter().any(|then| now.is_subset_of(then)))
}

/// What it takes to change a declared field, and what is lost by it.
fn cost(
    field: &str,
    now: &Value,
    declared: &Value,
    wanted: &Map<String, Value>,
    found: &Stream,
) -> (Class, Option<&'static str>) {
    const SAFE: (Class, Option<&str>) = (Class::Safe, None);
    let loses = |what| (Class::LosesData, Some(what));
    let lowered = |unlimited| is_lowered(now, declared, unlimited);
    let state = found.state;
    let is_capped =
        ["max_bytes", "max_msgs"].iter().any(|cap| wanted.get(*cap).is_some_and(|n| *n != -1));
    // One subject can hold all messages but one of each other subject.
    let most_of_a_subject = (state.messages + 1).saturating_sub(state.num_subjects.max(1));
    match field {
        "storage" | "allow_msg_counter" => (Class::Recreate, None),
        "retention" if *now == "workqueue" || *declared == "workqueue" => {
            (Class::Recreate, Some("nats-server changes no stream to or from a work queue"))
        }
        "allow_msg_ttl" | "allow_msg_schedules" if *declared == false => {
            (Class::Recreate, Some("nats-server never switches it off again"))
        }
        "subjects" if !keeps_all(now, declared) => {
            loses("what is published to the subjects taken away is no longer kept")
        }
        "num_replicas" if lowered(0) => loses("a copy of every message is deleted"),
        _ if state.messages == 0 => SAFE,
        "retention" if *declared == "interest" => {
            loses("messages that no consumer waits for are deleted")
        }
        "max_age" if lowered(0) => loses("messages older than that are deleted"),
        "max_bytes" if lowered(-1) && declared.as_u64().is_some_and(|cap| cap < state.bytes) => {
            loses("it holds more than that: messages are deleted, or no new one is taken")
        }
        "max_msgs" if lowered(-1) && declared.as_u64().is_some_and(|cap| cap < state.messages) => {
            loses("it holds more than that: messages are deleted, or no new one is taken")
        }
        "max_msgs_per_subject"
            if lowered(-1) && declared.as_u64().is_some_and(|cap| cap < most_of_a_subject) =>
        {
            loses("of each subject, older messages than that are deleted")
        }
        "discard" if *declared == "old" && is_capped => {
            loses("once it is full, each message deletes the oldest one")
        }
        _ => SAFE,
    }
}
