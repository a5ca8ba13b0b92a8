//! The JSON Schema (draft 2020-12) of audit events, made from one table of their fields, which the
//! documentation shows too.

use serde_json::{Map, Value, json};

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A text.
    Text,
    /// A whole number.
    Number,
    /// Yes or no.
    Flag,
    /// A point in time, RFC 3339.
    Time,
    /// Where a policy came from.
    Origin,
    /// What a policy changed.
    Changes,
    /// What is wrong with a policy.
    Faults,
}

/// One field of an event's `data`.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name, in the event and in the log.
    pub name: &'static str,
    /// What it holds.
    pub form: Form,
    /// Whether it is always there.
    pub always: bool,
    /// What it means.
    pub about: &'static str,
}

const fn always(name: &'static str, form: Form, about: &'static str) -> Field {
    Field { name, form, always: true, about }
}

const fn maybe(name: &'static str, form: Form, about: &'static str) -> Field {
    Field { name, form, always: false, about }
}

/// One kind of event.
pub struct Kind {
    /// The CloudEvents types that have these fields.
    pub types: &'static [&'static str],
    /// When it is recorded.
    pub about: &'static str,
    /// The CloudEvents `subject`.
    pub subject: &'static str,
    /// The fields of `data`.
    pub fields: &'static [Field],
}

use Form::{Changes, Faults, Flag, Number, Origin, Text, Time};

const AUTHORISATION: [Field; 21] = [
    always("outcome", Text, "`granted` or `denied`"),
    always("reason", Text, "`granted`, or why not: the reasons are in `operations.md`"),
    maybe("detail", Text, "the denial in words"),
    maybe("service", Text, "the service, once its key was proved"),
    maybe("nkey", Text, "the public key that was proved or, in a denial, claimed"),
    maybe(
        "former_service",
        Text,
        "of an `unknown_key`, the service that had the key before it was removed from the policy, \
         where that is known",
    ),
    maybe("former_revision", Text, "the last policy revision in which that service had it"),
    always("host", Text, "the client's address, as the server sees it"),
    always(
        "connection",
        Text,
        "`STANDARD`, `WEBSOCKET`, `MQTT`, `LEAFNODE`, or `unknown` for anything else",
    ),
    always("client", Text, "the client's name for itself, escaped and cut"),
    always("library", Text, "the client's library in its own words, escaped and cut"),
    always("server", Text, "the name of the server that asked"),
    always("server_id", Text, "the public key of the server that asked"),
    always("cid", Number, "the number of the connection on that server"),
    maybe("account", Text, "the account that the connection was placed in"),
    always("revision", Text, "the policy revision that decided"),
    maybe("grant", Text, "the digest of the grant: equal where account and permissions are"),
    maybe("expires", Time, "when the permissions end"),
    always("decision", Text, "identifies the decision; also the `jti` of the user JWT"),
    always("took_us", Number, "from taking up the request to its answer, in microseconds"),
    maybe("unanswered", Text, "why no answer could be made; the client was refused then"),
];

const REJECTED: [Field; 2] =
    [always("reason", Text, "the code: see `operations.md`"), always("detail", Text, "in words")];

const ACCEPTED: [Field; 7] = [
    always("revision", Text, "the revision in force now"),
    maybe("before", Text, "the revision before; absent at start"),
    always("origin", Origin, "where the policy came from, and who put it there"),
    always("services", Number, "how many services it has"),
    always("buckets", Number, "how many buckets it has"),
    always("warnings", Number, "how many warnings and notes there were"),
    maybe("changes", Changes, "what it changed for services; absent at start"),
];

const REFUSED: [Field; 5] = [
    maybe("revision", Text, "the revision that stays in force; absent when there is none"),
    always("origin", Origin, "where the policy came from, and who put it there"),
    always("errors", Number, "how many errors there are"),
    always("faults", Faults, "the first 20 errors, each with code, message and place"),
    always("problems", Text, "all problems as a text for people, cut when it is long"),
];

const CLOSED: [Field; 14] = [
    always("outcome", Text, "`closed`, `gone` (it ended by itself first) or `failed`"),
    always("reason", Text, "why it must end"),
    maybe("detail", Text, "more about it"),
    always("service", Text, "the service"),
    always("nkey", Text, "its key"),
    maybe("host", Text, "the client's address"),
    always("server", Text, "the server's name"),
    always("server_id", Text, "the server's public key"),
    always("cid", Number, "the number of the connection on that server"),
    always("account", Text, "the account that it was in"),
    always("revision", Text, "the policy revision that demands it"),
    always("had_revision", Text, "the revision that the connection was let in by"),
    maybe("grant", Text, "the digest of the grant that the service has now"),
    maybe("had_grant", Text, "the digest of the grant that the connection had"),
];

const VIOLATION: [Field; 21] = [
    always("seen_by", Text, "`server_log`, or `client` when a guard inside the client saw it"),
    maybe(
        "unproved",
        Flag,
        "true when the line of the log may be a client's own words; then no service is named",
    ),
    maybe("service", Text, "the service that tried"),
    maybe("nkey", Text, "its key"),
    maybe("account", Text, "its account"),
    maybe("revision", Text, "the policy revision that its connection was let in by"),
    maybe("host", Text, "the client's address, as the server logs it"),
    maybe("server", Text, "the server's name"),
    maybe("cid", Number, "the number of the connection on its server"),
    maybe("client", Text, "what the client says of itself, as the server logs it"),
    always(
        "operation",
        Text,
        "`write`, `purge`, `get`, `watch`, `open`, `administer`, `publish`, `subscribe` or `reply`",
    ),
    always("subject", Text, "the subject"),
    maybe("queue", Text, "the queue group, of a subscription in one"),
    maybe("keyspace", Text, "the keyspace that the subject is in"),
    maybe("owner", Text, "who owns that keyspace"),
    maybe("missing_rule", Text, "the entry that would permit it, when there is one"),
    maybe("detail", Text, "what else there is to know"),
    maybe("repeats", Text, "for repeats, the id of the event that told the first of them"),
    always("count", Number, "how often it was tried"),
    always("first", Time, "the first time"),
    always("last", Time, "the last time"),
];

const STARTED: [Field; 3] = [
    always("version", Text, "its version"),
    maybe("issuer", Text, "the public key of the issuer that it signs with"),
    maybe("xkey", Text, "the public curve key, when requests are sealed"),
];

const STOPPED: [Field; 4] = [
    always("version", Text, "its version"),
    always("reason", Text, "`asked`, or `failed`"),
    maybe("detail", Text, "what failed"),
    always("ran_seconds", Number, "how long it ran"),
];

const TROUBLE: [Field; 3] = [
    always("reason", Text, "a short, stable name; the log's `event`"),
    always("detail", Text, "in words, with what to do"),
    maybe("service", Text, "the service that it is about"),
];

const LOST: [Field; 5] = [
    always(
        "reason",
        Text,
        "`queue_full`, `spool_full`, `killed`, `damaged`, `id_taken` or `strangers`; from a guard, `unpublished`",
    ),
    always("count", Number, "how many"),
    always("instance", Text, "the run that they belong to"),
    always("first", Number, "the number of the first"),
    always("last", Number, "the number of the last"),
];

/// Every kind of event.
pub const KINDS: [Kind; 10] = [
    Kind {
        types: &["solewriter.authorisation.granted", "solewriter.authorisation.denied"],
        about: "A connection was decided.",
        subject: "the service, or else the key",
        fields: &AUTHORISATION,
    },
    Kind {
        types: &["solewriter.request.rejected"],
        about: "A request on `$SYS.REQ.USER.AUTH` that no server provably sent; it got no answer.",
        subject: "",
        fields: &REJECTED,
    },
    Kind {
        types: &["solewriter.policy.accepted"],
        about: "A policy came into force: at start, or a change.",
        subject: "the revision",
        fields: &ACCEPTED,
    },
    Kind {
        types: &["solewriter.policy.refused"],
        about: "A policy was refused as a whole; the one before stays.",
        subject: "the revision that stays",
        fields: &REFUSED,
    },
    Kind {
        types: &["solewriter.session.closed"],
        about: "A live connection was closed because of a change, or should have been.",
        subject: "the service",
        fields: &CLOSED,
    },
    Kind {
        types: &["solewriter.violation"],
        about: "A client used, or tried to use, a subject outside its grant. Repeated ones are one \
                event.",
        subject: "the service",
        fields: &VIOLATION,
    },
    Kind {
        types: &["solewriter.started"],
        about: "A producer began its work.",
        subject: "",
        fields: &STARTED,
    },
    Kind {
        types: &["solewriter.stopped"],
        about: "A producer ended, and had the time to say so.",
        subject: "",
        fields: &STOPPED,
    },
    Kind {
        types: &["solewriter.trouble"],
        about: "Something about keys or settings needs a person: a key that ends soon, a \
                permission that the callout user lacks.",
        subject: "the service, if any",
        fields: &TROUBLE,
    },
    Kind {
        types: &["solewriter.lost"],
        about: "Events will never be in the stream. The log has them.",
        subject: "the run",
        fields: &LOST,
    },
];

fn described(mut schema: Value, about: &str) -> Value {
    if let Some(object) = schema.as_object_mut() {
        object.insert("description".to_owned(), json!(about));
    }
    schema
}

fn object(fields: impl IntoIterator<Item = (&'static str, Value, bool)>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, schema, always) in fields {
        properties.insert(name.to_owned(), schema);
        if always {
            required.push(name);
        }
    }
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn form(form: Form) -> Value {
    let text = || json!({ "type": "string" });
    let number = || json!({ "type": "integer", "minimum": 0 });
    let list = |items: Value| json!({ "type": "array", "items": items });
    let names = || object([("count", number(), true), ("names", list(text()), true)]);
    match form {
        Text => text(),
        Number => number(),
        Flag => json!({"type": "boolean"}),
        Time => json!({ "type": "string", "format": "date-time" }),
        Origin => object([
            ("from", json!({ "enum": ["directory", "bucket"] }), true),
            ("place", text(), true),
            ("author", text(), false),
            ("message", text(), false),
            ("number", number(), false),
        ]),
        Changes => object([
            ("added", names(), true),
            ("removed", names(), true),
            ("changed", names(), true),
            ("transferred", number(), true),
            (
                "transfers",
                list(object([
                    ("keyspace", text(), true),
                    ("from", text(), true),
                    ("to", text(), true),
                ])),
                true,
            ),
            ("gained", number(), true),
            ("lost", number(), true),
        ]),
        Faults => {
            list(object([("code", text(), true), ("message", text(), true), ("at", text(), false)]))
        }
    }
}

/// The schema, as text.
#[must_use]
pub fn document() -> String {
    let data = |kind: &Kind| {
        let fields = kind.fields.iter();
        object(
            fields
                .map(|field| (field.name, described(form(field.form), field.about), field.always)),
        )
    };
    let branch = |kind: &Kind| {
        json!({
            "description": kind.about,
            "properties": { "type": { "enum": kind.types }, "data": data(kind) },
        })
    };
    let pattern = |pattern: &str, about: &str| json!({ "type": "string", "pattern": pattern, "description": about });
    let mut schema = object([
        ("specversion", json!({ "const": "1.0" }), true),
        (
            "id",
            pattern("^[0-9a-f]{19}-[0-9]+$", "The run and the number; also the message id."),
            true,
        ),
        ("source", pattern("^/[A-Za-z0-9_-]+/[0-9a-f]{19}$", "The producer and its run."), true),
        ("type", json!({ "type": "string", "description": "What happened." }), true),
        ("subject", json!({ "type": "string", "description": "What it is about." }), false),
        ("time", json!({ "type": "string", "format": "date-time", "description": "When." }), true),
        (
            "sequence",
            pattern("^[0-9]{12,}$", "The number in its run, from 1, without a gap."),
            true,
        ),
        ("datacontenttype", json!({ "const": "application/json" }), true),
        ("data", json!({ "type": "object" }), true),
    ]);
    if let Some(root) = schema.as_object_mut() {
        root.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        root.insert("title".to_owned(), json!("solewriter audit event"));
        root.insert(
            "description".to_owned(),
            json!("A CloudEvents 1.0 event, in the JSON format."),
        );
        root.insert("oneOf".to_owned(), KINDS.iter().map(branch).collect());
    }
    format!("{schema:#}\n")
}
