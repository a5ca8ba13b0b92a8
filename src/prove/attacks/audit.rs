//! The audit stream: what is recorded cannot be forged, erased or read by who only has ordinary
//! grants.

use serde_json::{Value, json};

use super::super::{Attack, Control, Effect, Ending, Family, Step, Who, ask, send};
use super::{ACCOUNT, NEVER, NOT_GRANTED};

/// An event as the victim's; the victim's stream takes it here, as an audit stream would.
const EVENT: &str = "audit.events.{them}.forged";

/// Something that writes an event as the victim's.
fn forged(id: &'static str, title: &'static str, step: Step) -> Attack {
    Attack::new(id, title, Who::Neighbour, Effect::Changed)
        .step(step)
        .bucket(json!({"subjects": ["$KV.{victim}.>", EVENT]}))
}

/// The same by a request that ordinary grants allow, with the event as its reply subject.
fn reply(id: &'static str, title: &'static str, step: Step) -> Attack {
    forged(id, title, step.reply(EVENT))
        .closed(Ending::NoEffect, ACCOUNT)
        .control(Control::OneAccount)
        .rehearsed()
}

/// A request about an audit stream, which works once it is granted.
fn request(id: &'static str, title: &'static str, subject: &'static str, body: &Value) -> Attack {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let stream = json!({"name": "AUDIT_{them}", "subjects": ["audit.events.{them}.kept"],
        "storage": "memory", "num_replicas": 1, "retention": "limits", "discard": "old"});
    let create = "STREAM.CREATE.AUDIT_{them}".to_owned();
    Attack::new(id, title, Who::Neighbour, Effect::Answered)
        .step(Step::AdminAsks(create, stream.to_string()))
        .step(ask(subject).body(&body))
        .closed(Ending::Refused, NOT_GRANTED)
        .once_granted(&[subject])
}

pub(super) fn family() -> Family {
    let consumer = json!({"stream_name": "AUDIT_{them}", "config": {"ack_policy": "none",
        "inactive_threshold": 60_000_000_000_u64}});
    Family {
        title: "The audit stream",
        about: "The attacker has no `audits`, and may not publish events as the victim. A stream \
                that takes the victim's events is in the account of the buckets.",
        attacks: vec![
            forged("audit-event", "An event as the victim's", ask(EVENT).body("x"))
                .closed(Ending::Refused, "a service publishes events as itself alone")
                .control(Control::OneAccountGranted(vec![EVENT.to_owned()], Vec::new())),
            reply(
                "reply-audit-put",
                "A put to its own bucket: the acknowledgement would be recorded",
                send("$KV.{mine}.a").body("x"),
            ),
            reply(
                "reply-audit-direct-get",
                "A direct get: an event of the attacker's choice would be recorded",
                send("$JS.API.DIRECT.GET.KV_{mine}.$KV.{mine}.payload"),
            ),
            reply(
                "reply-audit-stream-info",
                "Opening its own bucket: the answer would be recorded",
                send("$JS.API.STREAM.INFO.KV_{mine}"),
            ),
            request(
                "audit-delete",
                "The stream, deleted",
                "$JS.API.STREAM.DELETE.AUDIT_{them}",
                &Value::Null,
            )
            .closed(Ending::Refused, NEVER),
            request(
                "audit-purge",
                "The stream, purged",
                "$JS.API.STREAM.PURGE.AUDIT_{them}",
                &Value::Null,
            ),
            request(
                "audit-consumer",
                "A consumer, to read it",
                "$JS.API.CONSUMER.CREATE.AUDIT_{them}",
                &consumer,
            ),
        ],
    }
}
