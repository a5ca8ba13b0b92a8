//! JSON Schemas (draft 2020-12) of policy and settings files, for editors: completion, hover
//! texts and a first check. What a file means is decided by its reader alone; a test holds the
//! two together, so that no key is in one and not in the other.
//!
//! No schema refers to another or to a part of itself: editors then show every text.

use serde_json::{Map, Value, json};

use crate::config::{DefaultValue, Kind, SETTINGS, Setting, TABLES};
use solewriter_core::policy::model::{
    Ack, Deliver, Discard, Feature, MadeBy, PriorityPolicy, Replay, Retention, Storage,
};
use solewriter_types::connection_type::ConnectionType;

/// A name of a service or role.
const NAME: &str = "^[A-Za-z0-9_-]{1,64}$";
const BUCKET: &str = "^[A-Za-z0-9_-]{1,200}$";
const NKEY: &str = "^U[A-Z2-7]{55}$";

/// The schema of a policy file, as text.
#[must_use]
pub fn policy() -> String {
    let tables = [
        (
            "service",
            named(
                NAME,
                "Services. `[service.NAME]`: who it is and everything it may do; what is not \
                 granted is denied. NAME is part of its inbox, `_INBOX.NAME.>`.",
                &service(),
            ),
        ),
        (
            "role",
            named(
                NAME,
                "Roles. `[role.NAME]`: what several services are granted. A role owns nothing, \
                 because a key has one writer.",
                &role(),
            ),
        ),
        (
            "bucket",
            named(
                BUCKET,
                "Buckets. `[bucket.NAME]`: a bucket that exists, and what its stream must be \
                 like. One that is owned or read must be declared; an empty table takes the \
                 defaults.",
                &bucket(),
            ),
        ),
        (
            "stream",
            named(
                NAME,
                "Streams. `[stream.NAME]`: a stream that exists, what it keeps and what it must be \
                 like. No two streams share a subject, and each subject has one writer.",
                &stream(),
            ),
        ),
        (
            "store",
            named(
                BUCKET,
                "Object stores. `[store.NAME]`: an object store that exists, and what its stream \
                 must be like.",
                &store(),
            ),
        ),
        (
            "defaults",
            table("What services get that do not say otherwise. A policy has one.", settings_of()),
        ),
        ("naming", naming()),
    ];
    let title = "solewriter policy";
    let about = "One file of a policy; all files of a directory are read as one whole.";
    document(title, about, tables.map(|(key, schema)| (key.to_owned(), schema)))
}

/// The schema of a settings file, as text.
#[must_use]
pub fn settings() -> String {
    let mut tables: Vec<(&str, Map<String, Value>)> = Vec::new();
    for setting in SETTINGS {
        let at = tables.iter().position(|(name, _)| *name == setting.table).unwrap_or_else(|| {
            tables.push((setting.table, Map::new()));
            tables.len() - 1
        });
        if let Some((_, properties)) = tables.get_mut(at) {
            properties.insert(setting.key.to_owned(), schema_of(setting));
        }
    }
    let mut root: Map<String, Value> = Map::new();
    for (path, properties) in tables {
        let about = TABLES.iter().find(|(name, _)| *name == path).map_or("", |(_, about)| about);
        let schema = table(about, properties);
        match path.split_once('.') {
            None => drop(root.insert(path.to_owned(), schema)),
            Some((outer, inner)) => {
                // A table stands before its sub-tables in the list of settings.
                if let Some(outer) = root.get_mut(outer).and_then(|o| o.get_mut("properties")) {
                    outer.as_object_mut().map(|o| o.insert(inner.to_owned(), schema));
                }
            }
        }
    }
    let about = "Settings of `solewriter serve`. Relative paths are relative to the file's folder.";
    document("solewriter settings", about, root)
}

fn schema_of(setting: &Setting) -> Value {
    let help = setting.help;
    let mut schema = match setting.kind {
        Kind::Text | Kind::Path | Kind::Seed | Kind::Duration => text(help),
        Kind::List | Kind::Paths | Kind::Seeds => list(help, &json!({ "type": "string" })),
        Kind::Number(least, most) => {
            described(json!({ "type": "integer", "minimum": least, "maximum": most }), help)
        }
        Kind::Flag => described(json!({ "type": "boolean" }), help),
        Kind::Size => size(&format!("{help}.")),
    };
    if let DefaultValue::Value(default) = setting.default {
        let value = match setting.kind {
            Kind::Number(..) | Kind::Flag => serde_json::from_str(default).unwrap_or(Value::Null),
            _ => json!(default),
        };
        set(&mut schema, "default", value);
    }
    schema
}

fn service() -> Map<String, Value> {
    let mut keys = object([
        ("description", text("What it is, for people.")),
        ("nkeys", nkeys()),
        (
            "roles",
            list("Roles whose grants it gets, too.", &described(json!({ "type": "string" }), "")),
        ),
        (
            "owns",
            granted(
                "Keyspaces that it alone writes, and reads: `orders` is a whole bucket, \
                 `orders/line.>` a part of it. No two services own one key.",
                &keyspace(false),
            ),
        ),
        (
            "found_as",
            granted(
                "Names under which the services framework finds it. No two services share one.",
                &json!({ "type": "string", "pattern": NAME }),
            ),
        ),
        (
            "disabled",
            text("Why no key of it is accepted for now. It keeps what it owns. At least a word."),
        ),
        (
            "enforce",
            word(
                "`observe`: it may also do what it could `before`, but for what others own. \
                 Absent, or `rules`: what its rules say, and no more.",
                &["rules", "observe"],
            ),
        ),
        ("before", before()),
    ]);
    keys.extend(grants());
    keys.extend(settings_of());
    keys
}

/// `[service.NAME.before]`.
fn before() -> Value {
    let subjects = |about: &str| list(about, &json!({ "type": "string" }));
    table(
        "What it could do before, as permissions of nats-server; for `enforce = \"observe\"`.",
        object([
            ("publish", subjects("What it could publish to: `>` for everything.")),
            ("deny_publish", subjects("What of that it could not publish to.")),
            ("subscribe", subjects("What it could subscribe to: `>` for everything.")),
            ("deny_subscribe", subjects("What of that it could not subscribe to.")),
            ("allow_responses", flag("Whether it could answer every request.", false)),
        ]),
    )
}

fn role() -> Map<String, Value> {
    let mut keys = object([("description", text("What it is, for people."))]);
    keys.extend(grants());
    keys
}

/// All but `owns` and `found_as`.
fn grants() -> Map<String, Value> {
    let subjects = |about: &str| granted(about, &json!({ "type": "string", "pattern": SUBJECT }));
    object([
        (
            "reads",
            granted(
                "Keyspaces that it reads: `orders` is a whole bucket, `orders/line.>` a part of \
                 it, `*` every declared bucket, one by one.",
                &keyspace(true),
            ),
        ),
        ("publishes", subjects("Subjects that it may publish to.")),
        (
            "subscribes",
            subjects("Subjects that it may subscribe to. The last token cannot be `*`."),
        ),
        (
            "answers",
            subjects(
                "Subjects on which it serves requests. The last token cannot be `*`. Better no \
                 service that owns a keyspace: a caller chooses where the answer goes.",
            ),
        ),
        ("calls", subjects("Subjects that it may send requests to.")),
        (
            "consumes",
            granted(
                "Durable consumers that it takes messages from, with their streams: \
                 `EVENTS/shipping`.",
                &json!({ "type": "string", "pattern": "^[A-Za-z0-9_{}-]{1,73}/[A-Za-z0-9_{}-]{1,73}$" }),
            ),
        ),
        (
            "discovers",
            granted(
                "Services that it may find, by the names of their `found_as`; `*` for all of them.",
                &json!({ "type": "string", "pattern": r"^[A-Za-z0-9_{}-]{1,73}$|^\*$" }),
            ),
        ),
        (
            "replays",
            granted(
                "Streams that it reads with ordered and ephemeral consumers of its own: `EVENTS`, or \
                 a part of one, `EVENTS/events.orders.>`. The last token cannot be `*`.",
                &json!({ "type": "string", "pattern": "^[A-Za-z0-9_{}-]{1,73}(/[^ ]{1,255})?$" }),
            ),
        ),
        (
            "audits",
            granted(
                "Audit streams that it reads, by name (`[audit] stream` of the settings).",
                &json!({ "type": "string", "pattern": "^[A-Za-z0-9_{}-]{1,73}$" }),
            ),
        ),
    ])
}

/// A list of entries that grant something: each alone, or in a table with its end.
fn granted(about: &str, entry: &Value) -> Value {
    let mut ending = table(
        "An entry that ends.",
        object([("entry", entry.clone()), ("until", time("It grants nothing from this time on"))]),
    );
    set(&mut ending, "required", json!(["entry", "until"]));
    list(about, &json!({ "anyOf": [entry, ending] }))
}

/// Tokens without whitespace, the first neither a wildcard nor the server's own.
const SUBJECT: &str = r"^[^\s$_*>.][^\s.]*(\.[^\s.]+)*$|^\{service\}";

fn keyspace(everything: bool) -> Value {
    // In a role, `{service}` stands for a name.
    let name = r"^[A-Za-z0-9_{}-]+(/\S+)?$|^store:[A-Za-z0-9_{}-]+$";
    let pattern = if everything { format!(r"{name}|^\*$") } else { name.to_owned() };
    json!({ "type": "string", "pattern": pattern })
}

fn time(about: &str) -> Value {
    let about = format!("{about}, such as 2027-01-31T00:00:00Z: with an offset from UTC.");
    described(json!({ "type": "string" }), &about)
}

fn nkeys() -> Value {
    let key = || described(json!({ "type": "string", "pattern": NKEY }), "A public user NKEY.");
    let mut windowed = table(
        "A key with the time in which it counts.",
        object([
            ("key", key()),
            ("not_before", time("Refused before this time")),
            ("not_after", time("Refused from this time on")),
        ]),
    );
    set(&mut windowed, "required", json!(["key"]));
    list(
        "Public user NKEYs that it connects with; several while rotating. A key belongs to one \
         service. `nk -gen user` makes a seed, which stays with the service.",
        &json!({ "anyOf": [key(), windowed] }),
    )
}

/// What a service and `[defaults]` may set.
fn settings_of() -> Map<String, Value> {
    let types = ConnectionType::OFFERED.map(ConnectionType::as_str);
    object([
        ("account", text("The account that connections are placed in.")),
        ("lifetime", duration("How long a connection's permissions last: 1 second to 366 days.")),
        (
            "sources",
            nonempty(list(
                "Networks that it may connect from, such as `10.1.0.0/16`. Absent: anywhere.",
                &json!({ "type": "string" }),
            )),
        ),
        (
            "connections",
            nonempty(list(
                "How it may connect; STANDARD is TCP. Absent: STANDARD.",
                &json!({ "enum": types }),
            )),
        ),
    ])
}

fn flag(about: &str, default: bool) -> Value {
    json!({ "type": "boolean", "default": default, "description": about })
}

fn count(about: &str) -> Value {
    json!({ "type": "integer", "minimum": 1, "description": about })
}

/// One of these words; the first is the default.
fn word(about: &str, words: &[&str]) -> Value {
    json!({ "enum": words, "default": words.first(), "description": about })
}

fn replicas() -> Value {
    json!({
        "type": "integer",
        "minimum": 1,
        "maximum": 5,
        "default": 1,
        "description": "On how many servers it is kept.",
    })
}

fn storage() -> Value {
    word("Where it is kept.", &[Storage::File.as_str(), Storage::Memory.as_str()])
}

fn stream() -> Map<String, Value> {
    let subject = json!({ "type": "string", "pattern": SUBJECT });
    let mut keys = object([
        ("description", text("What is in it, for people.")),
        ("subjects", list("What it keeps, such as `events.>`.", &subject)),
        ("domain", domain()),
        (
            "retention",
            word(
                "How long it keeps a message: up to its limits, until every consumer that wants it \
                 has acknowledged it, or until one consumer has.",
                &[Retention::Limits, Retention::Interest, Retention::WorkQueue]
                    .map(Retention::as_str),
            ),
        ),
        ("max_age", duration("How long a message is kept. Absent: any time.")),
        ("max_bytes", size("The largest size of the stream. Absent: no cap.")),
        ("max_messages", count("How many messages it keeps. Absent: no cap.")),
        ("max_per_subject", count("How many messages of one subject it keeps. Absent: no cap.")),
        ("max_message_size", size("The largest message. Absent: the server's limit.")),
        (
            "discard",
            word(
                "What a full stream does: drop the oldest message, or refuse a new one.",
                &[Discard::Old, Discard::New].map(Discard::as_str),
            ),
        ),
        (
            "duplicate_window",
            duration("For how long a message id is remembered. With several writers: 100ms."),
        ),
        ("storage", storage()),
        ("compression", flag("Whether it is compressed on disk.", false)),
        ("replicas", replicas()),
        ("direct", flag("Direct gets: any server that has the stream answers.", true)),
        (
            "writers",
            word("Whether several services may write one subject of it.", &["one", "many"]),
        ),
        ("reason", text("Why there are many writers; it shows in every report.")),
        (
            "consumer",
            named(NAME, "Durable consumers. `[stream.NAME.consumer.CONSUMER]`.", &consumer()),
        ),
    ]);
    for feature in Feature::ALL {
        let (major, minor) = feature.since();
        let about = match feature {
            Feature::MessageTtl => "Whether a message may say how long it is kept.",
            Feature::Counters => "Whether its messages count.",
            Feature::Schedules => {
                "Whether a message may say when another one is stored. One writing service alone."
            }
            Feature::Atomic => {
                "Whether several messages may be stored all together or not at all. One writing \
                 service alone."
            }
            Feature::FastBatches => {
                "Whether many messages may be stored with few acknowledgements. One writing service \
                 alone."
            }
        };
        let about = format!("{about} From nats-server {major}.{minor} on.");
        keys.insert(feature.as_str().to_owned(), flag(&about, false));
    }
    keys
}

fn consumer() -> Map<String, Value> {
    let subject = json!({ "type": "string", "pattern": SUBJECT });
    object([
        ("description", text("What it is for, for people.")),
        ("filter", nonempty(list("What it delivers of its stream. Absent: all of it.", &subject))),
        (
            "ack",
            word(
                "Which messages it wants acknowledged. A work queue needs `explicit`.",
                &[Ack::Explicit, Ack::All, Ack::None].map(Ack::as_str),
            ),
        ),
        ("ack_wait", duration("After what time a message is delivered again. Absent: 30 seconds.")),
        ("max_deliver", count("How often a message is delivered. Absent: any number of times.")),
        (
            "backoff",
            list(
                "The times between deliveries, in place of `ack_wait`.",
                &duration("A time between two deliveries."),
            ),
        ),
        (
            "max_ack_pending",
            count("How many messages may wait for acknowledgements. Absent: the server's limit."),
        ),
        (
            "deliver",
            word(
                "Where it begins in the stream. A work queue needs `all`; `last_per_subject` needs \
                 a `filter`.",
                &Deliver::ALL.map(Deliver::as_str),
            ),
        ),
        (
            "replay",
            word(
                "How fast it delivers: at once, or as the messages once came.",
                &[Replay::Instant, Replay::Original].map(Replay::as_str),
            ),
        ),
        ("inactive", duration("After what time without use the server deletes it. Absent: never.")),
        ("shared", text("Why several services use it. Absent: one service does.")),
        (
            "made_by",
            word(
                "Who makes it: `state apply`, or the client of the one service that uses it, with \
                 the `filter` that is written here, if any.",
                &[MadeBy::Apply, MadeBy::Service].map(MadeBy::as_str),
            ),
        ),
        ("start_sequence", count("With `deliver = \"by_start_sequence\"`: the message's number.")),
        ("start_time", time("With `deliver = \"by_start_time\"`: the time of its first message")),
        (
            "push",
            flag("Whether it sends its messages to who listens, instead of being asked.", false),
        ),
        ("group", text("Of a push consumer: the queue group that shares its messages.")),
        (
            "heartbeat",
            duration("Of a push consumer: how often it says that it is there. Absent: never."),
        ),
        (
            "flow_control",
            flag("Of a push consumer: whether it waits for who is slow. Needs `heartbeat`.", false),
        ),
        (
            "priority",
            word(
                "Which client gets messages when several ask: from nats-server 2.11 on, \
                 `prioritized` from 2.12 on.",
                &PriorityPolicy::ALL.map(PriorityPolicy::as_str),
            ),
        ),
        ("priority_group", text("With `priority`: the group that clients name when they ask.")),
        (
            "priority_timeout",
            duration("After what time of silence a pinned client is gone. Absent: the server's."),
        ),
    ])
}

fn store() -> Map<String, Value> {
    object([
        ("description", text("What is in it, for people.")),
        ("domain", domain()),
        ("ttl", duration("How long an object is kept. Absent: for ever.")),
        ("max_bytes", size("The largest size of the store. Absent: no cap.")),
        ("replicas", replicas()),
        ("storage", storage()),
        ("compression", flag("Whether it is compressed on disk.", false)),
    ])
}

fn domain() -> Value {
    described(
        json!({ "type": "string", "pattern": "^[A-Za-z0-9_-]{1,32}$" }),
        "The JetStream domain that has it. Absent: each one that the policy is used in.",
    )
}

fn bucket() -> Map<String, Value> {
    object([
        ("description", text("What is in it, for people.")),
        (
            "copy_of",
            described(
                json!({ "type": "string", "pattern": BUCKET }),
                "The bucket that this one follows. It then has no owner, and has what is kept, and \
                 for how long, from there.",
            ),
        ),
        ("domain", domain()),
        (
            "history",
            json!({
                "type": "integer",
                "minimum": 1,
                "maximum": 64,
                "default": 1,
                "description": "How many values are kept for each key.",
            }),
        ),
        ("ttl", duration("How long a value is kept. Absent: for ever.")),
        (
            "key_ttl",
            flag(
                "Whether a put may say how long its value is kept. From nats-server 2.11 on; no \
                 update switches it off again.",
                false,
            ),
        ),
        (
            "limit_markers",
            duration(
                "How long a delete marker stays where a key ran out, for those who watch. Needs \
                 `key_ttl = true`. With a longer history, no TTL of a put is shorter. Absent: no \
                 marker.",
            ),
        ),
        ("max_value_size", size("The largest value. Absent: the server's limit.")),
        ("max_bytes", size("The largest size of the bucket. Absent: no cap.")),
        ("replicas", replicas()),
        ("storage", storage()),
        ("compression", flag("Whether it is compressed on disk.", false)),
        (
            "discard",
            json!({
                "enum": [Discard::New.as_str(), Discard::Old.as_str()],
                "default": Discard::New.as_str(),
                "description": "What a full bucket does: refuse a new value, or drop the oldest \
                                of any key.",
            }),
        ),
        (
            "direct",
            flag(
                "Direct gets, with the key in the subject. Owners and readers of a part need it.",
                true,
            ),
        ),
        (
            "rollup",
            flag(
                "Whether a put may erase older values, as KV purge does. Owners of parts must do \
                 without.",
                true,
            ),
        ),
        (
            "duplicate_window",
            duration("For how long a message id is remembered. With owners of parts: 100ms."),
        ),
        (
            "part_owners",
            flag(
                "Whether services may own parts of it. Needs `rollup = false` and \
                 `duplicate_window = \"100ms\"`.",
                false,
            ),
        ),
    ])
}

fn naming() -> Value {
    let templates = |about: &str| list(about, &json!({ "type": "string" }));
    let mut except = table(
        "A name outside the convention, and why.",
        object([
            ("service", text("The service.")),
            ("entries", list("Entries as they stand in its table.", &json!({ "type": "string" }))),
            ("reason", text("Why; it shows in every report.")),
        ]),
    );
    set(&mut except, "required", json!(["service", "entries", "reason"]));
    table(
        "The naming convention: templates with `{service}` and `{name}`. A service with a \
         name outside it is an error. A policy has one.",
        object([
            ("buckets", templates("For what services own: `{service}`, `{service}-{name}`.")),
            ("events", templates("For what services publish: `events.{service}.>`.")),
            ("requests", templates("For what services answer: `svc.{service}.{name}`.")),
            ("streams", templates("For the streams that services write into: `EVENTS`.")),
            ("consumers", templates("For what services consume: `{service}`.")),
            ("stores", templates("For the object stores that services own: `{service}`.")),
            ("found", templates("For what services are found as: `{service}-api`.")),
            ("except", list("Exceptions: `[[naming.except]]`.", &except)),
        ]),
    )
}

fn text(about: &str) -> Value {
    json!({ "type": "string", "description": about })
}

fn duration(about: &str) -> Value {
    json!({
        "type": "string",
        // What exactly, the reader says.
        "pattern": "[0-9]",
        "description": format!("{about} A number and a unit, such as \"90s\", \"1h30m\", \"30d\"."),
    })
}

fn size(about: &str) -> Value {
    json!({
        "anyOf": [
            { "type": "integer", "minimum": 1 },
            { "type": "string", "pattern": r"^\s*[0-9]+\s*(B|KiB|MiB|GiB|TiB)\s*$" },
        ],
        "description": format!("{about} Bytes, or a string such as \"64KiB\"."),
    })
}

fn list(about: &str, items: &Value) -> Value {
    json!({ "type": "array", "description": about, "items": items })
}

fn nonempty(mut list: Value) -> Value {
    set(&mut list, "minItems", json!(1));
    list
}

fn described(mut schema: Value, about: &str) -> Value {
    if !about.is_empty() {
        set(&mut schema, "description", json!(about));
    }
    schema
}

fn table(about: &str, keys: Map<String, Value>) -> Value {
    json!({
        "type": "object",
        "description": about,
        "properties": Value::Object(keys),
        "additionalProperties": false,
    })
}

/// Tables by name, each with these keys.
fn named(name: &str, about: &str, keys: &Map<String, Value>) -> Value {
    json!({
        "type": "object",
        "description": about,
        "propertyNames": { "pattern": name },
        "additionalProperties": table(about, keys.clone()),
    })
}

fn set(schema: &mut Value, key: &str, value: Value) {
    if let Some(object) = schema.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

fn object<const N: usize>(keys: [(&str, Value); N]) -> Map<String, Value> {
    keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn document(title: &str, about: &str, keys: impl IntoIterator<Item = (String, Value)>) -> String {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "description": about,
        "type": "object",
        "properties": keys.into_iter().collect::<Map<_, _>>(),
        "additionalProperties": false,
    });
    format!("{schema:#}\n")
}
