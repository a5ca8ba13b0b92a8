//! Audit events, their schema and their page: each kind once with every field, as the code makes
//! it. `UPDATE_SCHEMA=1` and `UPDATE_DOCS=1` write the schema and the page.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::repository;
use jiff::Timestamp;
use serde_json::Value;
use solewriter::audit::schema::{self, Kind, kinds};
use solewriter_types::audit_event::{
    About, Authorisation, Changes, EmergencyBegan, EmergencyEnded, EmergencyIgnored, Event, Fault,
    HandedOver, Lost, Names, Operation, Origin, Outcome, PolicyAccepted, PolicyRefused, Record,
    RequestRejected, SessionClosed, Source, Started, Stopped, Transfer, Trouble, Violation,
};

const EMERGENCY_UNTIL: &str = "2026-11-23T18:27:25Z";
const NKEY: &str = "UCRAFZAHGBQKZ5WVGGAZTW3N7PIO7NNEZC77U2TFP7DSBDSFHKEUCIHK";
const SERVER: &str = "NB3JFQ5NGVALXAB4AIFTV3TGZWEIOERSGTVAY3TRIPAK3VZ76QY632XP";

fn time() -> Timestamp {
    "2026-11-23T18:12:25.452348Z".parse().unwrap()
}

fn text(text: &str) -> String {
    text.to_owned()
}

#[allow(clippy::unnecessary_wraps)]
fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn authorisation(outcome: Outcome) -> Event {
    let granted = outcome == Outcome::Granted;
    Event::Authorisation(Box::new(Authorisation {
        outcome,
        reason: text(if granted { "granted" } else { "unknown_key" }),
        detail: (!granted).then(|| {
            text(
                "no service in the policy has this key; it was a key of `orders` until revision 41 \
                 (0b7a44c19d03)",
            )
        }),
        service: granted.then(|| text("orders")),
        nkey: some(NKEY),
        former_service: (!granted).then(|| text("orders")),
        former_revision: (!granted).then(|| text("0b7a44c19d03")),
        host: text(if granted { "10.1.4.9" } else { "192.0.2.7" }),
        connection: text("STANDARD"),
        client: text("orders-7f9c"),
        library: text("rust 0.51.0"),
        server: text("nats-1"),
        server_id: text(SERVER),
        cid: 18,
        account: granted.then(|| text("APP")),
        revision: text("5d0c0a7e1f22"),
        grant: granted.then(|| text("9b1f03c2d4e5a687")),
        expires: granted.then(|| "2026-11-23T19:09:41Z".parse().unwrap()),
        decision: text("JBSWY3DPEBLW64TMMQQQJBSW"),
        took_us: 214,
        unanswered: None,
        traceparent: granted
            .then(|| text("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")),
    }))
}

fn origin() -> Origin {
    Origin {
        from: text("bucket"),
        place: text("policy"),
        author: some("ada@example.com"),
        signed_by: some("UCRAFZAHGBQKZ5WVGGAZTW3N7PIO7NNEZC77U2TFP7DSBDSFHKEUCIHK"),
        message: some("billing reads rates"),
        number: Some(41),
    }
}

/// One of each, in the order of [`kinds`].
#[allow(clippy::too_many_lines)]
fn samples() -> Vec<Event> {
    let list = |name: &str| Names::of([name]);
    let transfer = Transfer {
        about: About { keyspace: some("rates"), ..About::default() },
        subject: None,
        from: text("billing"),
        to: text("pricing"),
    };
    let fault = Fault {
        code: text("unknown-key"),
        message: text("unknown key `ows` in `[service.orders]`"),
        at: some("services.toml:16:1"),
    };
    let revision = || some("5d0c0a7e1f22");
    vec![
        authorisation(Outcome::Granted),
        authorisation(Outcome::Denied),
        Event::RequestRejected(RequestRejected {
            reason: text("signature"),
            detail: text("the server's signature does not verify"),
        }),
        Event::PolicyAccepted(Box::new(PolicyAccepted {
            revision: text("5d0c0a7e1f22"),
            before: some("0b7a44c19d03"),
            origin: origin(),
            services: 12,
            buckets: 9,
            warnings: 1,
            changes: Some(Changes {
                added: list("pricing"),
                removed: Names::default(),
                changed: list("billing"),
                transferred: 1,
                transfers: vec![transfer],
                gained: 2,
                gains: vec![text("pricing: write rates"), text("pricing: read rates")],
                lost: 1,
                losses: vec![text("billing: write rates")],
            }),
        })),
        Event::PolicyRefused(Box::new(PolicyRefused {
            revision: revision(),
            origin: origin(),
            errors: 1,
            faults: vec![fault],
            problems: text("error[unknown-key]: unknown key `ows` in `[service.orders]`\n"),
        })),
        Event::SessionClosed(Box::new(SessionClosed {
            outcome: text("closed"),
            reason: text("grant_changed"),
            detail: some("it may write `rates` no more"),
            service: text("billing"),
            nkey: text(NKEY),
            host: some("10.1.4.9"),
            server: text("nats-1"),
            server_id: text(SERVER),
            cid: 18,
            account: text("APP"),
            revision: text("5d0c0a7e1f22"),
            had_revision: text("0b7a44c19d03"),
            grant: some("9b1f03c2d4e5a687"),
            had_grant: some("07c5e2a9b8d1f643"),
        })),
        Event::HandedOver(HandedOver {
            what: text("rates"),
            from: some("billing"),
            to: text("quotes"),
            vacant_ms: 133,
            forced: false,
            revision: text("5d0c0a7e1f22"),
            number: Some(7),
        }),
        Event::Violation(Box::new(violation(
            Operation::Write,
            "$KV.orders.1001",
            About { keyspace: some("orders/1001"), ..About::default() },
            "orders owns orders (orders.toml:3:9): a key has one writer; to allow it, the ownership \
             has to be transferred",
        ))),
        Event::EmergencyBegan(EmergencyBegan {
            id: text("aeaqcaibaeaqcaib"),
            service: text("billing"),
            keyspace: text("orders"),
            owner: some("orders"),
            by: text(NKEY),
            reason: text("orders cannot start, INC-1234"),
            until: EMERGENCY_UNTIL.parse().unwrap(),
            revision: text("5d0c0a7e1f22"),
        }),
        Event::EmergencyEnded(EmergencyEnded {
            id: text("aeaqcaibaeaqcaib"),
            service: text("billing"),
            keyspace: text("orders"),
            by: text(NKEY),
            cause: text("early"),
            detail: some("orders is back"),
            reason: text("orders cannot start, INC-1234"),
            until: EMERGENCY_UNTIL.parse().unwrap(),
            revision: text("0b7a44c19d03"),
        }),
        Event::EmergencyIgnored(EmergencyIgnored {
            cause: text("signature"),
            detail: text("its signature does not hold"),
        }),
        Event::Started(Started {
            version: text("0.1.0"),
            issuer: some("AB3JFQ5NGVALXAB4AIFTV3TGZWEIOERSGTVAY3TRIPAK3VZ76QY632XP"),
            xkey: some("XB3JFQ5NGVALXAB4AIFTV3TGZWEIOERSGTVAY3TRIPAK3VZ76QY632XP"),
        }),
        Event::Stopped(Stopped {
            version: text("0.1.0"),
            reason: text("asked"),
            detail: None,
            ran_seconds: 86_400,
        }),
        Event::Trouble(Trouble {
            reason: text("key_ends_soon"),
            detail: text(
                "the last key of `orders` will end at 2026-11-27T00:00:00Z: add a new one to its \
                 `nkeys`",
            ),
            service: some("orders"),
        }),
        Event::Lost(Lost {
            reason: text("spool_full"),
            count: 120,
            instance: text("019aa1d0c5c1b2c3d4e"),
            first: 90_001,
            last: 90_120,
        }),
        Event::Violation(Box::new(violation(
            Operation::Ack,
            "$JS.ACK.EVENTS.shipping.1.7.7.1795919999000000000.0",
            About { stream: some("EVENTS"), consumer: some("shipping"), ..About::default() },
            "orders consumes EVENTS/shipping (orders.toml:4:13): each message goes to one of those \
             who take it",
        ))),
        Event::Violation(Box::new(violation(
            Operation::Write,
            "$O.invoices.M.YQ==",
            About { store: some("invoices"), ..About::default() },
            "orders owns store:invoices (orders.toml:3:9): an object store has one writer; to allow \
             it, the ownership has to be transferred",
        ))),
        Event::Violation(Box::new(violation(
            Operation::Find,
            "$SRV.INFO.orders-api",
            About { found_as: some("orders-api"), ..About::default() },
            "policy 0b7a44c19d03 grants it; the connection is still on 5d0c0a7e1f22",
        ))),
    ]
}

/// A violation of the same client.
fn violation(operation: Operation, subject: &str, about: About, detail: &str) -> Violation {
    Violation {
        unproved: false,
        seen_by: text("server_log"),
        service: some("billing"),
        nkey: some(NKEY),
        account: some("APP"),
        revision: some("5d0c0a7e1f22"),
        host: some("10.1.4.9:51792"),
        server: some("nats-1"),
        cid: Some(18),
        client: some("v2.16.0:python3"),
        operation,
        subject: text(subject),
        queue: None,
        about,
        owner: some("orders"),
        missing_rule: None,
        detail: some(detail),
        repeats: some("019aa1d0c5c1b2c3d4e-41"),
        count: 3,
        first: time(),
        last: time(),
    }
}

/// What older versions wrote has no word for streams and stores, and can be read.
#[test]
fn an_event_of_an_older_version_can_be_read() {
    let event = cloud_events().into_iter().find(|e| e["type"] == "solewriter.violation").unwrap();
    let read: Violation = serde_json::from_value(event["data"].clone()).unwrap();
    assert_eq!(read.operation, Operation::Write);
    assert_eq!(read.about, About { keyspace: some("orders/1001"), ..About::default() });
}

fn cloud_events() -> Vec<Value> {
    let record = |(number, event)| {
        // Each from who makes it.
        let producer =
            if matches!(event, Event::Violation(_)) { "violations" } else { "solewriter" };
        let source = Source { producer: text(producer), instance: text("019aa1d0c5c1b2c3d4e") };
        let line = Record { sequence: 41 + number, time: time(), event }.line(&source);
        serde_json::from_str(&line).unwrap()
    };
    (0u64..).zip(samples()).map(record).collect()
}

#[test]
fn the_schema_takes_every_event_and_no_other() {
    let schema: Value = serde_json::from_str(&schema::document()).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    let valid = jsonschema::draft202012::new(&schema).unwrap();
    for event in cloud_events() {
        let objections: Vec<String> = valid.iter_errors(&event).map(|e| e.to_string()).collect();
        assert!(objections.is_empty(), "{objections:?}\n{event:#}");
        // What the table does not name is refused, and so is one that lacks what must be there.
        let mut more = event.clone();
        more["data"]["seed"] = "no".into();
        assert!(!valid.is_valid(&more), "{more}");
        let kinds = kinds();
        let kind = kinds.iter().find(|k| k.types.contains(&event["type"].as_str().unwrap()));
        for (name, ..) in fields(kind.unwrap()).iter().filter(|(_, always, _)| *always) {
            let mut less = event.clone();
            less["data"].as_object_mut().unwrap().remove(name).unwrap();
            assert!(!valid.is_valid(&less), "without {name}");
        }
        // What is absent is left out: a null is refused, and so is what is of another form.
        for name in event["data"].as_object().unwrap().keys() {
            for wrong in [Value::Null, Value::Array(vec![0.5.into()])] {
                let mut other = event.clone();
                other["data"][name] = wrong;
                assert!(!valid.is_valid(&other), "{name}: {other}");
            }
        }
        for (attribute, wrong) in [
            ("specversion", "0.3"),
            ("id", "5"),
            ("source", "solewriter"),
            ("type", "solewriter.other"),
            ("sequence", "12"),
        ] {
            let mut other = event.clone();
            other[attribute] = wrong.into();
            assert!(!valid.is_valid(&other), "{attribute} {wrong}");
        }
    }
}

/// The fields of an event's data: name, whether it is always there, and its schema. Those that are
/// come first, as the type has them; the others by their names.
fn fields(kind: &Kind) -> Vec<(String, bool, Value)> {
    let properties = kind.data["properties"].as_object().unwrap();
    let required = kind.data["required"].as_array().unwrap();
    let always: Vec<&str> = required.iter().map(|name| name.as_str().unwrap()).collect();
    let maybe = properties.keys().map(String::as_str).filter(|name| !always.contains(name));
    let all = always.iter().map(|name| (*name, true)).chain(maybe.map(|name| (name, false)));
    all.map(|(name, always)| (name.to_owned(), always, properties[name].clone())).collect()
}

#[test]
fn every_field_of_the_schema_is_one_that_the_code_makes() {
    for kind in &kinds() {
        let fields = fields(kind);
        let table: BTreeSet<&str> = fields.iter().map(|(name, ..)| name.as_str()).collect();
        let events = cloud_events();
        let made: BTreeSet<&str> = events
            .iter()
            .filter(|event| kind.types.contains(&event["type"].as_str().unwrap()))
            .flat_map(|event| event["data"].as_object().unwrap().keys().map(String::as_str))
            .collect();
        // These are absent where others are there.
        let absent = ["unanswered", "unproved", "queue", "missing_rule", "detail"];
        let left: Vec<_> =
            table.symmetric_difference(&made).filter(|name| !absent.contains(name)).collect();
        assert!(left.is_empty(), "{:?}: {left:?}", kind.types);
    }
}

#[test]
fn the_committed_schema_is_true() {
    let path = repository().join("schema/audit-event.schema.json");
    let text = schema::document();
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let copy = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        copy == text,
        "run UPDATE_SCHEMA=1 cargo test --test offline audit, and look at the diff"
    );
}

fn about(schema: &Value) -> &str {
    schema["description"].as_str().unwrap()
}

/// The part of the page that is made from the schema and the samples.
fn reference() -> String {
    let mut out = String::new();
    let events = cloud_events();
    for kind in &kinds() {
        let types: Vec<String> = kind.types.iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(out, "### {}\n\n{}", types.join(", "), about(&kind.data));
        if !kind.subject.is_empty() {
            let _ = writeln!(out, "Its `subject` is {}.", kind.subject);
        }
        let _ = writeln!(out, "\n| field | form | meaning |\n| --- | --- | --- |");
        for (name, always, schema) in fields(kind) {
            let form = match (schema["type"].as_str(), schema["format"].as_str()) {
                (Some("string"), Some("date-time")) => "time",
                (Some("string"), None) => "text",
                (Some("integer"), None) => "number",
                (Some("object"), None) => "object",
                (Some("array"), None) => "list",
                (Some("boolean"), None) => "true or false",
                other => panic!("{name} has a form of its own: {other:?}"),
            };
            let form = if always { form.to_owned() } else { format!("{form}, if any") };
            let _ = writeln!(out, "| `{name}` | {form} | {} |", about(&schema));
        }
        let sample = events.iter().find(|event| event["type"] == kind.types[0]).unwrap();
        let _ = writeln!(out, "\n```json\n{sample:#}\n```\n");
    }
    out
}

#[test]
fn the_page_has_every_event_with_every_field() {
    const FROM: &str = "<!-- from here on made by tests/offline/audit.rs -->\n\n";
    let path = repository().join("docs/audit.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (written, found) = page.split_once(FROM).expect("the mark");
    let wanted = format!("{}\n", reference().trim_end());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{written}{FROM}{wanted}")).unwrap();
    } else {
        assert!(
            found == wanted,
            "run UPDATE_DOCS=1 cargo test --test offline audit, and look at the diff"
        );
    }
}
