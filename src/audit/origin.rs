//! Whether an event comes from whom it names. A message's subject is what nats-server permitted;
//! its body is what anyone who may publish at all wrote. So the subject decides whose it is, and a
//! body that says otherwise is foreign: nothing in it counts.
//!
//! The two streams have no subject in common: what is on `audit.services.<service>` is from the one
//! that services reach, and never solewriter's own. Its subject names no run (so that each service
//! has one limit): the run is the body's word, and each service's runs are its own.

use serde_json::Value;

use solewriter_types::audit_event::{DATASCHEMA, PRODUCER, SERVICES_ROOT, SUBJECT_ROOT};

/// The largest number of an event: twelve digits, as `sequence` has.
pub const MAX_NUMBER: u64 = 999_999_999_999;
/// The longest name of a run that a body may claim, in bytes.
const MAX_RUN: usize = 64;
/// What others than solewriter itself tell: the guard of a service, and the follower of a log.
const SHARED: [&str; 3] = ["solewriter.violation", "solewriter.trouble", "solewriter.lost"];
/// What every type begins with.
const TYPES: &str = "solewriter.";
/// The service as which the follower of a server's log publishes, unless it is told another.
pub const FOLLOWER: &str = "violations";

/// Who published, by the subject, and the number that the event has in its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// [`PRODUCER`], or a service.
    pub producer: &'a str,
    /// One run of it.
    pub instance: &'a str,
    /// From 1.
    pub number: u64,
}

/// Why nothing in a message counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Foreign {
    /// Neither on `audit.events.<producer>.<run>` nor on `audit.services.<service>`.
    #[error("its subject does not name a producer and a run")]
    Subject,
    /// No JSON, or not what an event has.
    #[error("it is not an event")]
    NoEvent,
    /// A newer version wrote it, and its fields may mean something else.
    #[error(
        "it has a form that this version does not read: use the version that wrote it, or a newer one"
    )]
    Form,
    /// The body names another producer or run.
    #[error("its source is not its producer")]
    Source,
    /// Of a type that only solewriter's own instances make, or that nobody does.
    #[error("its producer may not publish events of that type")]
    Type,
    /// It speaks for another service than its producer.
    #[error("it is about another service")]
    Service,
}

/// The producer that a subject names, and the run if it names one. Without one, it is in the stream
/// of services' events.
#[must_use]
pub fn of_subject(subject: &str) -> Option<(&str, Option<&str>)> {
    let is_one = |token: &str| !token.is_empty() && !token.contains('.');
    let below = |root: &str| subject.strip_prefix(root)?.strip_prefix('.');
    if let Some(service) = below(SERVICES_ROOT) {
        return (is_one(service) && service != PRODUCER).then_some((service, None));
    }
    let (producer, instance) = below(SUBJECT_ROOT)?.split_once('.')?;
    (is_one(producer) && is_one(instance)).then_some((producer, Some(instance)))
}

/// The run in a source, `/<producer>/<run>`.
fn run<'e>(source: &'e str, producer: &str) -> Option<&'e str> {
    let run = source.strip_prefix('/')?.strip_prefix(producer)?.strip_prefix('/')?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    ((1..=MAX_RUN).contains(&run.len()) && run.chars().all(allowed)).then_some(run)
}

/// Whose event it is. `followers` are the services that may tell what others did, as a server
/// logged it.
///
/// # Errors
/// [`Foreign`], when the body claims what the subject does not bear out.
pub fn judge<'a>(
    subject: &'a str,
    event: &'a Value,
    followers: &[impl AsRef<str>],
) -> Result<Place<'a>, Foreign> {
    let (producer, instance) = of_subject(subject).ok_or(Foreign::Subject)?;
    let text = |name: &str| event.get(name).and_then(Value::as_str).ok_or(Foreign::NoEvent);
    if event.get("dataschema").is_some_and(|form| form.as_str() != Some(DATASCHEMA)) {
        return Err(Foreign::Form);
    }
    let instance = match instance {
        Some(instance) => instance,
        None => run(text("source")?, producer).ok_or(Foreign::Source)?,
    };
    let kind = text("type")?;
    let number = text("sequence")?.parse::<u64>().map_err(|_| Foreign::NoEvent)?;
    if !(1..=MAX_NUMBER).contains(&number) || !kind.starts_with(TYPES) {
        return Err(Foreign::NoEvent);
    }
    if text("source")? != format!("/{producer}/{instance}")
        || text("id")? != format!("{instance}-{number}")
    {
        return Err(Foreign::Source);
    }
    let place = Place { producer, instance, number };
    if producer == PRODUCER {
        return Ok(place);
    }
    if !SHARED.contains(&kind) {
        return Err(Foreign::Type);
    }
    let data = |name: &str| event.get("data").and_then(|data| data.get(name)?.as_str());
    let follows = followers.iter().any(|follower| follower.as_ref() == producer);
    let is_logged = data("seen_by").is_some_and(|seen_by| seen_by != "client");
    let speaks_for_itself = data("service").is_none_or(|service| service == producer);
    let may_speak = if is_logged { follows } else { speaks_for_itself };
    if may_speak { Ok(place) } else { Err(Foreign::Service) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[allow(clippy::needless_pass_by_value)]
    fn event(source: &str, kind: &str, data: Value) -> Value {
        let instance = source.rsplit('/').next().unwrap();
        json!({"specversion": "1.0", "id": format!("{instance}-7"), "source": source,
            "type": format!("solewriter.{kind}"), "sequence": "000000000007", "data": data})
    }

    fn judged(subject: &str, event: &Value) -> Result<u64, Foreign> {
        judge(subject, event, &[FOLLOWER]).map(|place| place.number)
    }

    #[test]
    fn a_body_that_claims_what_its_subject_does_not_bear_out_is_foreign() {
        use Foreign::{Form, NoEvent, Service, Source, Subject, Type};
        let formed = |form: Value| {
            let mut event = event("/evil/r1", "trouble", json!({"reason": "x"}));
            event["dataschema"] = form;
            event
        };
        let own = |kind: &str, data: Value| event("/evil/r1", kind, data);
        let seen = |by: &str, service: &str| json!({"seen_by": by, "service": service});
        let evil = "audit.events.evil.r1";
        let kept = "audit.services.evil";
        for (subject, event, expected) in [
            (evil, own("violation", seen("client", "evil")), Ok(7)),
            (evil, own("trouble", json!({"reason": "x"})), Ok(7)),
            (evil, own("lost", json!({"instance": "r1"})), Ok(7)),
            (evil, event("/solewriter/r1", "started", json!({})), Err(Source)),
            (evil, event("/evil/r2", "trouble", json!({})), Err(Source)),
            (evil, own("authorisation.granted", json!({"service": "evil"})), Err(Type)),
            (evil, own("policy.accepted", json!({})), Err(Type)),
            (evil, own("stopped", json!({})), Err(Type)),
            (evil, own("violation", seen("client", "orders")), Err(Service)),
            (evil, own("violation", seen("server_log", "orders")), Err(Service)),
            (evil, own("violation", seen("server_log", "evil")), Err(Service)),
            (evil, own("trouble", json!({"service": "orders"})), Err(Service)),
            (evil, formed(json!(DATASCHEMA)), Ok(7)),
            (evil, formed(json!("urn:solewriter:audit-event:2")), Err(Form)),
            (evil, formed(json!(1)), Err(Form)),
            (evil, json!({}), Err(NoEvent)),
            (evil, Value::Null, Err(NoEvent)),
            ("audit.events.evil.r1.r2", own("trouble", json!({})), Err(Subject)),
            ("audit.events.evil", own("trouble", json!({})), Err(Subject)),
            ("audit.events.evil.", own("trouble", json!({})), Err(Subject)),
            ("other.evil.r1", own("trouble", json!({})), Err(Subject)),
            (kept, own("violation", seen("client", "evil")), Ok(7)),
            (kept, own("trouble", json!({"reason": "x"})), Ok(7)),
            (kept, event("/evil/r2", "trouble", json!({})), Ok(7)),
            (kept, event("/solewriter/r1", "started", json!({})), Err(Source)),
            (kept, event("/evilx/r1", "trouble", json!({})), Err(Source)),
            (kept, event("/evil/", "trouble", json!({})), Err(Source)),
            (kept, event("/evil/a.b", "trouble", json!({})), Err(Source)),
            (kept, event("/evil/a\u{202e}", "trouble", json!({})), Err(Source)),
            (kept, own("authorisation.granted", json!({"service": "evil"})), Err(Type)),
            (kept, own("violation", seen("server_log", "orders")), Err(Service)),
            ("audit.services.evil.>", own("trouble", json!({})), Err(Subject)),
            ("audit.services.evil.r1", own("trouble", json!({})), Err(Subject)),
            ("audit.services.", own("trouble", json!({})), Err(Subject)),
            ("audit.services", own("trouble", json!({})), Err(Subject)),
            // Whoever let a service be called that.
            (
                "audit.services.solewriter",
                event("/solewriter/r1", "authorisation.granted", json!({"service": "orders"})),
                Err(Subject),
            ),
            (
                "audit.services.violations",
                event("/violations/r1", "violation", seen("server_log", "orders")),
                Ok(7),
            ),
            (
                "audit.events.solewriter.r1",
                event("/solewriter/r1", "authorisation.granted", json!({"service": "orders"})),
                Ok(7),
            ),
            (
                "audit.events.violations.r1",
                event("/violations/r1", "violation", seen("server_log", "orders")),
                Ok(7),
            ),
            (
                "audit.events.violations.r1",
                event("/violations/r1", "authorisation.denied", seen("server_log", "orders")),
                Err(Type),
            ),
        ] {
            assert_eq!(judged(subject, &event), expected, "{subject} {event}");
        }
    }

    #[test]
    fn a_number_that_is_none_is_no_event() {
        for number in ["", "x", "0", "-1", "1000000000000", "18446744073709551615"] {
            let mut event = event("/evil/r1", "trouble", json!({}));
            event["sequence"] = number.into();
            event["id"] = format!("r1-{number}").into();
            assert_eq!(judged("audit.events.evil.r1", &event), Err(Foreign::NoEvent), "{number}");
        }
    }
}
