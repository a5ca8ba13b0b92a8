//! A declared consumer: what it must be like, and what it costs to make it so.

use serde_json::{Map, Value, json};

use super::compare::{Absent, Change, Class, Fields, Setting, is_lowered, setting};
use super::declared::{nanoseconds, object};
use super::stream::keeps_all;
use super::{BucketPlan, Consumer, Kind};
use solewriter_core::diagnostics::toml::show_time;
use solewriter_core::policy::model::{Consumer as Declared, PriorityPolicy, Retention, Stream};
use solewriter_types::kv_operation;
use solewriter_types::subject::Pattern;

/// Every field that a declaration decides, in the order of the documentation. JetStream has one
/// field for one filter and another for several; here, both are the second.
const SETTINGS: [Setting; 21] = [
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
    setting("opt_start_seq", Some("start_sequence"), Absent::Zero, None),
    setting("opt_start_time", Some("start_time"), Absent::Empty, None),
    setting(DELIVER_SUBJECT, Some("push"), Absent::Empty, None),
    setting("deliver_group", Some("group"), Absent::Empty, None),
    setting("idle_heartbeat", Some("heartbeat"), Absent::Zero, None),
    setting("flow_control", Some("flow_control"), Absent::False, None),
    setting("priority_policy", Some("priority"), Absent::None, None),
    setting("priority_groups", Some("priority_group"), Absent::Nothing, None),
    setting("priority_timeout", Some("priority_timeout"), Absent::Zero, None),
    setting("headers_only", None, Absent::False, Some("messages come without their content")),
    setting("durable_name", None, Absent::Empty, Some("it goes when its client goes")),
];

/// What must be off, why, and whether an update turns it off.
const OFF: [(&str, &str, Class); 2] = [
    ("rate_limit_bps", "it sends messages later than it could", Class::Recreate),
    ("mem_storage", "its position is lost when the server restarts", Class::Recreate),
];

/// What a declaration has no word for, and harms nobody.
const LEFT: [&str; 11] = [
    "name",
    "metadata",
    "num_replicas",
    "max_waiting",
    "max_batch",
    "max_bytes",
    "max_expires",
    "sample_freq",
    "pause_until",
    "direct",
    "filter_subject",
];

const DELIVER_SUBJECT: &str = "deliver_subject";

/// Who used a push consumer when its deliver subject was made up.
const METADATA: &str = "metadata";
const USERS: &str = "solewriter.users";

/// The length of what is made up at the end of a deliver subject, in hexadecimal digits.
const SECRET_DIGITS: usize = 32;

const FIELDS: Fields<'_> = Fields { settings: &SETTINGS, off: &OFF, left: &LEFT };

/// The configuration that is sent to create the consumer, with the filter as several, and with what
/// is made up left open.
fn config(stream: &Stream, consumer: &Declared) -> Map<String, Value> {
    let filter: Vec<&str> = consumer.filter.iter().map(Pattern::as_str).collect();
    let backoff: Vec<i64> = consumer.backoff.iter().copied().map(nanoseconds).collect();
    // nats-server waits as the list begins, whatever is asked.
    let (push, priority) = (consumer.push.as_ref(), consumer.priority.as_ref());
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
        "opt_start_seq": consumer.start_sequence.unwrap_or_default(),
        "opt_start_time": consumer.start_time.map(show_time).unwrap_or_default(),
        DELIVER_SUBJECT: consumer.push.as_ref().map(|_| delivers(stream, consumer)).unwrap_or_default(),
        "deliver_group": push.and_then(|push| push.group.clone()).unwrap_or_default(),
        "idle_heartbeat": push.and_then(|push| push.heartbeat).map_or(0, nanoseconds),
        "flow_control": push.is_some_and(|push| push.flow_control),
        "priority_policy": priority.map_or("none", |priority| priority.policy.as_str()),
        "priority_groups": priority.map(|priority| &*priority.group).into_iter().collect::<Vec<_>>(),
    }));
    if let Some(timeout) = priority.and_then(|priority| priority.timeout) {
        config.insert("priority_timeout".to_owned(), nanoseconds(timeout).into());
    }
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

fn delivers(stream: &Stream, consumer: &Declared) -> String {
    kv_operation::pushed_to(stream.name.as_str(), consumer.name.as_str())
}

/// The deliver subject with `*` for what was made up, if that is as it should be: long enough, and
/// made up for those who use the consumer now. Who used it before knows it, and could send there.
fn without_secret(found: &mut Map<String, Value>, delivers: &str, users: &str) {
    let made_for = found.get(METADATA).and_then(|metadata| metadata.get(USERS)?.as_str());
    let subject = found.get(DELIVER_SUBJECT).and_then(Value::as_str);
    let beginning = delivers.trim_end_matches('*');
    let secret = subject.and_then(|subject| subject.strip_prefix(beginning));
    let is_secret = |text: &str| {
        text.len() == SECRET_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let Some(secret) = secret else { return };
    let shown = match made_for {
        Some(made_for) if made_for == users && is_secret(secret) => delivers.to_owned(),
        // No report shows what is secret.
        made_for => format!("{beginning}(made for {})", made_for.unwrap_or("nobody")),
    };
    found.insert(DELIVER_SUBJECT.to_owned(), shown.into());
}

/// Whether where a consumer delivers is among the changes.
pub(super) fn moves(changes: &[Change]) -> bool {
    changes.iter().any(|change| change.field == DELIVER_SUBJECT)
}

/// The configuration with a deliver subject that nobody guesses, where it has none yet.
///
/// Who may answer requests may publish to every inbox that it knows, and an answer of JetStream goes
/// wherever who asks wants it.
pub(super) fn with_secret(config: &Map<String, Value>) -> Map<String, Value> {
    let mut config = config.clone();
    if let Some(Value::String(subject)) = config.get_mut(DELIVER_SUBJECT)
        && let Some(beginning) = subject.strip_suffix('*')
    {
        let secret = data_encoding::HEXLOWER.encode(&rand::random::<[u8; SECRET_DIGITS / 2]>());
        *subject = format!("{beginning}{secret}");
    }
    config
}

/// What is sent: a single filter in the field that clients' tools show, and no time that is none.
fn sent(mut config: Map<String, Value>) -> Map<String, Value> {
    if config.get("opt_start_time").is_some_and(|time| time == "") {
        config.remove("opt_start_time");
    }
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

/// What has to be done about the consumer, which these services use.
pub(super) fn plan(
    stream: &Stream,
    consumer: &Declared,
    users: &str,
    found: Option<&Consumer>,
) -> BucketPlan {
    let wanted = config(stream, consumer);
    let (changes, mut config, action) = match found {
        None => FIELDS.create(wanted),
        Some(found) => {
            let mut now = with_filters(&found.config);
            if consumer.push.is_some() {
                without_secret(&mut now, &delivers(stream, consumer), users);
            }
            FIELDS.change(&wanted, &now, |field, now, declared| {
                cost(stream, field, now, declared, found)
            })
        }
    };
    if consumer.push.is_some() {
        if moves(&changes)
            && let Value::Object(metadata) = config.entry(METADATA).or_insert(json!({}))
        {
            metadata.insert(USERS.to_owned(), users.into());
        } else if let Some(subject) = found.and_then(|found| found.config.get(DELIVER_SUBJECT)) {
            config.insert(DELIVER_SUBJECT.to_owned(), subject.clone());
        }
    }
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

/// The priority policy that the plan wants to have, where there is another or none.
pub(super) fn priority(plan: &BucketPlan) -> Option<PriorityPolicy> {
    let change = plan.changes.iter().find(|change| change.field == "priority_policy")?;
    PriorityPolicy::ALL.into_iter().find(|policy| change.declared == policy.as_str())
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
        "ack_policy" | "deliver_policy" | "replay_policy" | "durable_name" | "opt_start_seq"
        | "opt_start_time" | "idle_heartbeat" | "flow_control" => (Class::Recreate, None),
        DELIVER_SUBJECT if declared == "" => {
            (Class::Recreate, Some("it sends its messages instead of being asked for them"))
        }
        DELIVER_SUBJECT if now == "" => {
            (Class::Recreate, Some("it is asked for its messages instead of sending them"))
        }
        DELIVER_SUBJECT => {
            (Class::Safe, Some("others may know where it delivers, and could send there"))
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
