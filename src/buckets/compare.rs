//! A stream against its declaration: each difference, and what it takes to mend it.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Action, Stream};
use solewriter_core::diagnostics::toml::show_duration;
use solewriter_core::policy::model::Bucket;

/// What it takes to make a setting as declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// It can be changed, and nothing is lost.
    Safe,
    /// It can be changed, and then data is gone.
    LosesData,
    /// No update changes it: the bucket has to be made anew.
    Recreate,
    /// This program does not know the setting, and leaves it as it is.
    Unknown,
}

impl Class {
    /// Whether `apply` cannot mend it.
    #[must_use]
    pub fn is_beyond_update(self) -> bool {
        matches!(self, Self::Recreate | Self::Unknown)
    }
}

/// A setting that is not as declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The field of the stream's configuration.
    pub field: String,
    /// The key in the policy's `[bucket.NAME]`, where there is one.
    pub word: Option<&'static str>,
    /// What it is; nothing for a new bucket.
    pub now: Option<Value>,
    /// What it should be.
    pub declared: Value,
    /// What it takes.
    pub class: Class,
    /// Why it matters, or what is lost.
    pub why: Option<String>,
}

/// What is known about a field that the declaration decides.
pub(super) struct Setting {
    field: &'static str,
    word: Option<&'static str>,
    /// What the server means when it leaves the field out.
    absent: Absent,
    why: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// No limit: left out, zero or -1.
    Unlimited,
    /// Zero.
    Zero,
    False,
    /// The empty text.
    Empty,
    /// The empty list.
    Nothing,
    /// `none`, the server's word.
    None,
}

pub(super) const fn setting(
    field: &'static str,
    word: Option<&'static str>,
    absent: Absent,
    why: Option<&'static str>,
) -> Setting {
    Setting { field, word, absent, why }
}

/// Every field that a declaration decides, in the order of the documentation.
const SETTINGS: [Setting; 19] = [
    setting(
        "subjects",
        None,
        Absent::Nothing,
        Some("subjects other than the bucket's own are not its keys"),
    ),
    setting(
        "sources",
        Some("copy_of"),
        Absent::Nothing,
        Some("another stream's messages become values, whoever wrote them"),
    ),
    setting("description", Some("description"), Absent::Empty, None),
    setting("max_msgs_per_subject", Some("history"), Absent::Unlimited, None),
    setting("max_age", Some("ttl"), Absent::Zero, None),
    setting("allow_msg_ttl", Some("key_ttl"), Absent::False, None),
    setting("subject_delete_marker_ttl", Some("limit_markers"), Absent::Zero, None),
    setting("max_msg_size", Some("max_value_size"), Absent::Unlimited, None),
    setting("max_bytes", Some("max_bytes"), Absent::Unlimited, None),
    setting(
        "max_msgs",
        None,
        Absent::Unlimited,
        Some("one owner can use up a limit on the number of values"),
    ),
    setting("num_replicas", Some("replicas"), Absent::Zero, None),
    setting("storage", Some("storage"), Absent::Empty, None),
    setting("compression", Some("compression"), Absent::None, None),
    setting("discard", Some("discard"), Absent::Empty, None),
    setting("retention", None, Absent::Empty, Some("values are removed once they are read")),
    setting("allow_direct", Some("direct"), Absent::False, None),
    setting("allow_rollup_hdrs", Some("rollup"), Absent::False, None),
    setting("duplicate_window", Some("duplicate_window"), Absent::Zero, None),
    setting(
        "deny_delete",
        None,
        Absent::False,
        Some("a value can be erased by its sequence number"),
    ),
];

/// What must be off, why, and whether an update turns it off.
const OFF: [(&str, &str, Class); 12] = [
    ("republish", "every value is published a second time, to whoever listens there", Class::Safe),
    ("mirror", "it is a copy of another stream, and has no writer of its own", Class::Recreate),
    ("subject_transform", "a put to one key is stored under another", Class::Safe),
    ("allow_msg_schedules", "a put can make the server write to other keys later", Class::Recreate),
    ("allow_msg_counter", "values are counters, which puts add to", Class::Recreate),
    ("allow_atomic", "puts in batches were not tested with shared buckets", Class::Safe),
    ("allow_batched", "puts in batches were not tested with shared buckets", Class::Safe),
    ("no_ack", "a put is not confirmed", Class::Safe),
    ("discard_new_per_subject", "a key with a full history takes no more values", Class::Safe),
    ("sealed", "it takes no more values", Class::Recreate),
    ("mirror_direct", "values are read from a mirror, which may be behind", Class::Safe),
    ("persist_mode", "a put is confirmed before it is kept", Class::Recreate),
];

/// What no declaration of something with a stream of its own has a word for, and harms nobody.
pub(super) const LEFT: [&str; 9] = [
    "name",
    "metadata",
    "placement",
    "consumer_limits",
    "first_seq",
    "max_consumers",
    "template_owner",
    "deny_purge",
    "pedantic",
];

/// What is known about the fields of a bucket's stream.
pub(super) const BUCKET: Fields<'_> = Fields { settings: &SETTINGS, off: &OFF, left: &LEFT };

/// For another new stream: everything that its configuration says.
pub fn given(config: &Map<String, Value>) -> Vec<Change> {
    let said = config.iter().filter(|(field, value)| *field != "name" && is_on(value));
    said.map(|(field, value)| Change {
        field: field.clone(),
        word: None,
        now: None,
        declared: value.clone(),
        class: Class::Safe,
        why: None,
    })
    .collect()
}

/// How a field of an audit stream is held against what it should be.
#[derive(Clone, Copy)]
enum Rule {
    /// As it should be, and nothing else.
    Exact,
    /// So much, or more.
    AtLeast,
    /// A limit where there should be one, of whatever size; and none where there should be none.
    Limit,
    /// The operator's, where there should be one; and none where there should be none.
    NoneIfNone,
}

const FORGOTTEN: &str = "events can be removed";
const REACHED: &str = "what others publish or store would become events";
const CROWDED: &str = "events of one service push out, or keep out, those of others";
const OTHERWISE: &str = "it does not take events as solewriter and services publish them";

/// The fields of an audit stream that matter, and why.
const AUDIT: [(&str, Rule, Class, &str); 24] = [
    ("subjects", Rule::Exact, Class::Safe, OTHERWISE),
    ("subject_transform", Rule::Exact, Class::Safe, CROWDED),
    ("max_msgs_per_subject", Rule::Limit, Class::Safe, CROWDED),
    ("max_msgs", Rule::Exact, Class::Safe, CROWDED),
    ("max_bytes", Rule::NoneIfNone, Class::Safe, CROWDED),
    ("max_msg_size", Rule::Limit, Class::Safe, "one service can fill the disk"),
    ("discard", Rule::Exact, Class::Safe, "when it is full, it takes no more events"),
    ("discard_new_per_subject", Rule::Exact, Class::Safe, OTHERWISE),
    ("retention", Rule::Exact, Class::Recreate, FORGOTTEN),
    ("deny_delete", Rule::Exact, Class::Safe, FORGOTTEN),
    ("deny_purge", Rule::Exact, Class::Safe, FORGOTTEN),
    ("allow_rollup_hdrs", Rule::Exact, Class::Safe, FORGOTTEN),
    ("allow_msg_ttl", Rule::Exact, Class::Recreate, FORGOTTEN),
    (
        "duplicate_window",
        Rule::AtLeast,
        Class::Safe,
        "an event that is sent again may be stored twice",
    ),
    ("allow_direct", Rule::Exact, Class::Safe, "the sink cannot ask which events are there"),
    ("no_ack", Rule::Exact, Class::Safe, "nobody knows which events are there"),
    ("sealed", Rule::Exact, Class::Recreate, "it takes no more events"),
    ("persist_mode", Rule::Exact, Class::Recreate, "an event is confirmed before it is kept"),
    ("mirror", Rule::Exact, Class::Recreate, REACHED),
    ("sources", Rule::Exact, Class::Safe, REACHED),
    ("republish", Rule::Exact, Class::Safe, "whoever listens there gets every event"),
    ("allow_msg_schedules", Rule::Exact, Class::Recreate, REACHED),
    ("allow_msg_counter", Rule::Exact, Class::Recreate, OTHERWISE),
    ("mirror_direct", Rule::Exact, Class::Safe, "events are read from a copy"),
];

/// Each difference between an audit stream and what it must be.
pub fn audit(wanted: &Map<String, Value>, stream: &Stream) -> Vec<Change> {
    let differs = |(field, rule, class, why): &(&str, Rule, Class, &str)| {
        let now = stream.config.get(*field).filter(|value| is_on(value));
        let declared = wanted.get(*field).filter(|value| is_on(value));
        let number = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or_default();
        let is_as_wanted = match rule {
            Rule::Exact => now == declared,
            Rule::AtLeast => number(now) >= number(declared),
            Rule::Limit => now.is_some() == declared.is_some(),
            Rule::NoneIfNone => declared.is_some() || now.is_none(),
        };
        if is_as_wanted {
            return None;
        }
        // Events beyond a new limit go at once.
        let drops = *field == "max_msgs_per_subject"
            && declared.is_some()
            && stream.state.messages > number(declared);
        let now = now.cloned().or_else(|| stream.config.get(*field).cloned());
        let absent = match now.as_ref() {
            Some(Value::Bool(_)) => json!(false),
            Some(Value::Number(_)) => json!(-1),
            _ => Value::Null,
        };
        Some(Change {
            field: (*field).to_owned(),
            word: None,
            now: Some(now.unwrap_or_default()),
            declared: declared.cloned().unwrap_or(absent),
            class: if drops { Class::LosesData } else { *class },
            why: Some((*why).to_owned()),
        })
    };
    AUDIT.iter().filter_map(differs).collect()
}

/// What it takes to change a field of a bucket, and why it matters.
pub(super) fn of_bucket(
    bucket: &Bucket,
    field: &str,
    now: &Value,
    declared: &Value,
    stream: &Stream,
) -> (Class, Option<&'static str>) {
    let (class, loss) = cost(bucket, field, now, declared, stream);
    (class, loss.or(harm(bucket, field)))
}

/// What differs, what is sent, and what to do.
pub(super) type Outcome = (Vec<Change>, Map<String, Value>, Action);

/// What is known about the fields of one kind of thing.
pub(super) struct Fields<'a> {
    /// Those that the declaration decides.
    pub settings: &'a [Setting],
    /// Those that must be off, why, and whether an update turns them off.
    pub off: &'a [(&'static str, &'static str, Class)],
    /// Those that are left as they are.
    pub left: &'a [&'static str],
}

impl Fields<'_> {
    /// What is shown and sent to create something, and what that is.
    pub(super) fn create(&self, wanted: Map<String, Value>) -> Outcome {
        (self.said(&wanted), wanted, Action::Create)
    }

    /// What differs, what is sent to mend it, and what that is. `judge` is that of
    /// [`Self::differences`].
    pub(super) fn change(
        &self,
        wanted: &Map<String, Value>,
        found: &Map<String, Value>,
        judge: impl Fn(&str, &Value, &Value) -> (Class, Option<&'static str>),
    ) -> Outcome {
        let changes = self.differences(wanted, found, judge);
        let (config, action) = (updated(found, &changes), Action::of(&changes));
        (changes, config, action)
    }

    /// Each difference between what there is and what is wanted. `judge` is told the field, what it
    /// is and what it should be, and says what it takes to change it, and why it matters.
    fn differences(
        &self,
        wanted: &Map<String, Value>,
        found: &Map<String, Value>,
        judge: impl Fn(&str, &Value, &Value) -> (Class, Option<&'static str>),
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for setting in self.settings {
            let Some(declared) = wanted.get(setting.field) else { continue };
            let now = normal(setting, found.get(setting.field));
            if now == normal(setting, Some(declared)) {
                continue;
            }
            let (class, why) = judge(setting.field, &now, declared);
            changes.push(Change {
                field: setting.field.to_owned(),
                word: setting.word,
                now: Some(now),
                declared: declared.clone(),
                class,
                why: why.or(setting.why).map(ToOwned::to_owned),
            });
        }
        for (field, why, class) in self.off {
            if let Some(now) = found.get(*field).filter(|value| is_on(value)) {
                changes.push(Change {
                    field: (*field).to_owned(),
                    word: None,
                    now: Some(now.clone()),
                    declared: if now.is_boolean() { json!(false) } else { Value::Null },
                    class: *class,
                    why: Some((*why).to_owned()),
                });
            }
        }
        for (field, now) in found {
            let known = self.settings.iter().any(|setting| setting.field == field)
                || self.off.iter().any(|(off, ..)| off == field)
                || self.left.contains(&field.as_str());
            if !known && is_on(now) {
                changes.push(Change {
                    field: field.clone(),
                    word: None,
                    now: Some(now.clone()),
                    declared: Value::Null,
                    class: Class::Unknown,
                    why: Some("this version of solewriter does not know what it does".to_owned()),
                });
            }
        }
        changes
    }

    /// For something new: everything that its declaration says.
    fn said(&self, wanted: &Map<String, Value>) -> Vec<Change> {
        let said = self.settings.iter().filter(|setting| setting.word.is_some());
        said.filter_map(|setting| {
            let declared = wanted.get(setting.field)?.clone();
            let says = normal(setting, Some(&declared)) != normal(setting, None);
            says.then(|| Change {
                field: setting.field.to_owned(),
                word: setting.word,
                now: None,
                declared,
                class: Class::Safe,
                why: None,
            })
        })
        .collect()
    }
}

/// Whether a limit becomes smaller, where that number and below mean none.
pub(super) fn is_lowered(now: &Value, declared: &Value, unlimited: i64) -> bool {
    let number = |value: &Value| value.as_i64().unwrap_or(unlimited);
    let (now, declared) = (number(now), number(declared));
    declared > unlimited && (now <= unlimited || declared < now)
}

/// The configuration with what an update can change: everything else is sent back as the
/// server gave it.
pub fn updated(found: &Map<String, Value>, changes: &[Change]) -> Map<String, Value> {
    let mut config = found.clone();
    for change in changes.iter().filter(|change| !change.class.is_beyond_update()) {
        if change.declared.is_null() {
            config.remove(&change.field);
        } else {
            config.insert(change.field.clone(), change.declared.clone());
        }
    }
    config
}

/// The value with what stands for an absent one made alike.
fn normal(setting: &Setting, value: Option<&Value>) -> Value {
    let absent = match setting.absent {
        Absent::Unlimited => json!(-1),
        Absent::Zero => json!(0),
        Absent::False => json!(false),
        Absent::Empty => json!(""),
        Absent::Nothing => json!([]),
        Absent::None => json!("none"),
    };
    match value {
        None | Some(Value::Null) => absent,
        Some(value)
            if setting.absent == Absent::Unlimited && value.as_i64().is_some_and(|n| n <= 0) =>
        {
            absent
        }
        Some(value) => value.clone(),
    }
}

/// Whether an optional setting says anything.
fn is_on(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_i64().is_none_or(|n| n > 0),
        Value::String(text) => !matches!(text.as_str(), "" | "none" | "default"),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// What it takes to change a declared field, and what is lost by it.
fn cost(
    bucket: &Bucket,
    field: &str,
    now: &Value,
    declared: &Value,
    stream: &Stream,
) -> (Class, Option<&'static str>) {
    const SAFE: (Class, Option<&str>) = (Class::Safe, None);
    let loses = |what| (Class::LosesData, Some(what));
    let lowered = |unlimited| is_lowered(now, declared, unlimited);
    let empty = stream.state.messages == 0;
    match field {
        "storage" | "retention" => (Class::Recreate, None),
        "sources" if bucket.copy_of.is_some() && !empty => {
            (Class::Recreate, Some("what is in it now is not from the bucket that it follows"))
        }
        "allow_msg_ttl" if !bucket.key_ttl => (
            Class::Recreate,
            Some("nats-server never switches it off again; or declare `key_ttl = true`"),
        ),
        "num_replicas" if lowered(0) => loses("a copy of every value is deleted"),
        _ if empty => SAFE,
        // With one value for each key there is no older one to lose.
        "max_msgs_per_subject"
            if lowered(-1) && stream.state.messages > stream.state.num_subjects =>
        {
            loses("of each key, older values than that are deleted")
        }
        "max_age" if lowered(0) => loses("values older than that are deleted"),
        "max_bytes"
            if lowered(-1) && declared.as_u64().is_some_and(|cap| cap < stream.state.bytes) =>
        {
            loses("it is larger than that now: values are deleted, or new ones refused")
        }
        "discard" if declared == "old" && bucket.max_bytes.is_some() => {
            loses("once it is full, each put deletes the oldest value of some key")
        }
        _ => SAFE,
    }
}

/// What goes wrong in this bucket while the field is not as declared.
fn harm(bucket: &Bucket, field: &str) -> Option<&'static str> {
    match field {
        "allow_rollup_hdrs" if !bucket.rollup => Some("one put can erase every key of the bucket"),
        "duplicate_window" if bucket.part_owners => {
            Some("one owner can have another's write dropped as a duplicate")
        }
        "discard" if bucket.part_owners => {
            Some("when it is full, one owner's writes delete the values of the others")
        }
        "allow_direct" if bucket.direct => Some("readers of a part cannot get"),
        _ => None,
    }
}

/// A field's value for people: durations with their unit.
pub fn shown(field: &str, value: &Value) -> String {
    match (field, value) {
        (
            "max_age"
            | "duplicate_window"
            | "subject_delete_marker_ttl"
            | "ack_wait"
            | "idle_heartbeat"
            | "priority_timeout"
            | "inactive_threshold",
            Value::Number(number),
        ) => match number.as_u64() {
            Some(0) | None => "none".to_owned(),
            Some(nanoseconds) => show_duration(Duration::from_nanos(nanoseconds)),
        },
        (_, Value::Number(number)) if number.as_i64() == Some(-1) => "no limit".to_owned(),
        (_, Value::Null) => "none".to_owned(),
        (_, Value::Array(list)) if list.is_empty() => "none".to_owned(),
        ("sources", Value::Array(list)) => {
            let names = list.iter().filter_map(|source| source.get("name")?.as_str());
            names.collect::<Vec<_>>().join(", ")
        }
        (_, Value::Array(list)) if !list.is_empty() && list.iter().all(Value::is_string) => {
            let texts: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
            texts.join(", ")
        }
        ("backoff", Value::Array(list)) => {
            let times = list.iter().filter_map(Value::as_u64).map(Duration::from_nanos);
            times.map(show_duration).collect::<Vec<_>>().join(", ")
        }
        (_, Value::String(text)) if !text.is_empty() && !text.contains(char::is_control) => {
            text.clone()
        }
        (_, value) => value.to_string(),
    }
}
