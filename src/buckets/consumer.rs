//! A declared consumer: what it must be like, and what it costs to make it so.

use serde_json::{Map, Value, json};

use super::compare::{Absent, Class, Fields, Setting, is_lowered, setting};
use super::declared::{nanoseconds, object};
use super::stream::keeps_all;
use super::{BucketPlan, Consumer, Kind};
use solewriter_core::policy::model::{Consumer as Declared, Retention, Stream};
use solewriter_types::subject::Pattern;

/// Every field that a declaration decides, in the order of the documentation. JetStream has one
/// field for one filter and another for several; here, both are the second.
const SETTINGS: [Setting; 12] = [
    setting("description", Some("description"), Absent::Empty, None),
    setting("filter_subjects", Some("filter"), Absent::Nothing, None),
    setting("ack_policy", Some("ack"), Absent::Empty, None),
    setting("ack_wait", Some("ack_wait"), Absent::Zero, None),
    setting("max_deliver", Some("max_deliver"), Absent::Unlimited, None),
    setting("backoff", Some("backoff"), Absent::Nothing, None),
    setting("max_ack_pending", Some("max_ack_pending"), Absent::Unlimited, None),
    setting("deliver_policy", Some("deliver"), Absent::Empty, None),
    setting("replay_policy", Some("replay"), Absent::Empty, None),
    setting("inactive_threshold", Some("inactive"), Absent::Zero, None),
    setting("headers_only", None, Absent::False, Some("messages come without their content")),
    setting("durable_name", None, Absent::Empty, Some("it goes when its client goes")),
];

/// What must be off, why, and whether an update turns it off.
const OFF: [(&str, &str, Class); 6] = [
    ("deliver_subject", "it pushes messages instead of being asked for them", Class::Recreate),
    ("deliver_group", "it pushes messages instead of being asked for them", Class::Recreate),
    ("flow_control", "it pushes messages instead of being asked for them", Class::Recreate),
    ("idle_heartbeat", "it pushes messages instead of being asked for them", Class::Recreate),
    ("rate_limit_bps", "it pushes messages instead of being asked for them", Class::Recreate),
    ("mem_storage", "its position is lost when the server restarts", Class::Recreate),
];

/// What a declaration has no word for, and harms nobody.
const LEFT: [&str; 16] = [
    "name",
    "metadata",
    "num_replicas",
    "max_waiting",
    "max_batch",
    "max_bytes",
    "max_expires",
    "sample_freq",
    "pause_until",
    "priority_groups",
    "priority_policy",
    "priority_timeout",
    "opt_start_seq",
    "opt_start_time",
    "direct",
    "filter_subject",
];

const FIELDS: Fields<'_> = Fields { settings: &SETTINGS, off: &OFF, left: &LEFT };

/// The configuration that is sent to create the consumer, with the filter as several.
fn config(consumer: &Declared) -> Map<String, Value> {
    let filter: Vec<&str> = consumer.filter.iter().map(Pattern::as_str).collect();
    let backoff: Vec<i64> = consumer.backoff.iter().copied().map(nanoseconds).collect();
    // nats-server waits as the list begins, whatever is asked.
    let ack_wait = consumer.backoff.first().copied().unwrap_or(consumer.ack_wait);
    let mut config = object(json!({
        "name": consumer.name.as_str(),
        "durable_name": consumer.name.as_str(),
        "description": consumer.description.clone().unwrap_or_default(),
        "filter_subjects": filter,
        "ack_policy": consumer.ack.as_str(),
        "ack_wait": nanoseconds(ack_wait),
        "max_deliver": consumer.max_deliver.map_or(-1, i64::from),
        "backoff": backoff,
        "deliver_policy": consumer.deliver.as_str(),
        "replay_policy": consumer.replay.as_str(),
        "inactive_threshold": consumer.inactive.map_or(0, nanoseconds),
        "headers_only": false,
    }));
    // Without a number, it is the server's.
    if let Some(most) = consumer.max_ack_pending {
        config.insert("max_ack_pending".to_owned(), most.into());
    }
    config
}

/// The configuration with its filter, one or several, as several.
fn with_filters(found: &Map<String, Value>) -> Map<String, Value> {
    let mut config = found.clone();
    let one = config.remove("filter_subject");
    if let Some(Value::String(one)) = one
        && !one.is_empty()
    {
        config.insert("filter_subjects".to_owned(), json!([one]));
    }
    config
}

/// What is sent: a single filter in the field that clients' tools show.
fn sent(mut config: Map<String, Value>) -> Map<String, Value> {
    if let Some(Value::Array(list)) = config.get("filter_subjects") {
        if let [one] = list.as_slice() {
            let one = one.clone();
            config.remove("filter_subjects");
            config.insert("filter_subject".to_owned(), one);
        } else if list.is_empty() {
            config.remove("filter_subjects");
        }
    }
    config
}

/// What has to be done about the consumer.
pub(super) fn plan(stream: &Stream, consumer: &Declared, found: Option<&Consumer>) -> BucketPlan {
    let wanted = config(consumer);
    let (changes, config, action) = match found {
        None => FIELDS.create(wanted),
        Some(found) => {
            FIELDS.change(&wanted, &with_filters(&found.config), |field, now, declared| {
                cost(stream, field, now, declared, found)
            })
        }
    };
    BucketPlan {
        kind: Kind::Consumer,
        bucket: consumer.name.to_string(),
        stream: stream.name.to_string(),
        declared_at: consumer.at.to_string(),
        action,
        changes,
        config: sent(config),
    }
}

/// Whether a filter leaves out what it let through. An empty one lets everything through.
fn is_narrowed(now: &Value, declared: &Value) -> bool {
    let is_empty = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
    !is_empty(declared) && (is_empty(now) || !keeps_all(now, declared))
}

/// What it takes to change a declared field, and what is lost by it.
fn cost(
    stream: &Stream,
    field: &str,
    now: &Value,
    declared: &Value,
    found: &Consumer,
) -> (Class, Option<&'static str>) {
    let loses = |what| (Class::LosesData, Some(what));
    match field {
        "ack_policy" | "deliver_policy" | "replay_policy" | "durable_name" => {
            (Class::Recreate, None)
        }
        "filter_subjects" if is_narrowed(now, declared) => match stream.retention {
            Retention::Limits => (Class::Safe, Some("it skips what it does not wait for then")),
            Retention::Interest => loses("messages that no consumer waits for are deleted"),
            Retention::WorkQueue => loses("messages that no consumer waits for are never taken"),
        },
        "max_deliver" if found.num_ack_pending > 0 && is_lowered(now, declared, -1) => {
            loses("messages that were delivered so often are not delivered again")
        }
        "inactive_threshold" if is_lowered(now, declared, 0) => {
            loses("unused for that long, it is deleted, with its position")
        }
        _ => (Class::Safe, None),
    }
}
