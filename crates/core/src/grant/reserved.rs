//! Subjects that no service is granted, and those of the audit's that only one may publish.

use std::sync::LazyLock;

use super::streams::{AUDIT_SUBJECTS, SERVICES_SUBJECTS};
use crate::policy::model::{ConsumerName, FoundName, StreamName};
use solewriter_types::audit_event::{PRODUCER, SUBJECT_ROOT};
use solewriter_types::kv_operation::SERVICE_QUESTIONS;
use solewriter_types::subject::Pattern;

/// Which side of a connection a subject is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// What the client publishes to.
    Publish,
    /// What the client subscribes to.
    Subscribe,
}

impl Side {
    /// `publish` or `subscribe`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
        }
    }
}

/// Acknowledgements. The only ones that are granted are those of one literal consumer, or of all
/// consumers, of one literal stream: see [`acknowledged`].
pub(super) const ACKS: &str = "$JS.ACK.>";

/// Questions to services that can be found. The only ones that are granted are those of
/// [`is_discovery`].
pub(super) const DISCOVERY: &str = "$SRV.>";

/// What no service may publish to, whatever the policy says: requests whose body chooses the
/// subjects, whole-account administration, and replies that the server itself makes.
pub(super) const NEVER_PUBLISH: [&str; 29] = [
    "$SYS.>",
    "$NRG.>",
    "$MQTT.>",
    DISCOVERY,
    "$JS.API.INFO",
    "$JS.API.ACCOUNT.>",
    "$JS.API.SERVER.>",
    "$JS.API.META.>",
    "$JS.API.STREAM.CREATE.>",
    "$JS.API.STREAM.UPDATE.>",
    "$JS.API.STREAM.DELETE.>",
    "$JS.API.STREAM.RESTORE.>",
    "$JS.API.STREAM.SNAPSHOT.>",
    "$JS.API.STREAM.MSG.DELETE.>",
    "$JS.API.STREAM.LEADER.>",
    "$JS.API.STREAM.PEER.>",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.TEMPLATE.>",
    "$JS.API.CONSUMER.LIST.>",
    "$JS.API.CONSUMER.NAMES.>",
    "$JS.API.CONSUMER.DURABLE.>",
    "$JS.API.CONSUMER.PAUSE.>",
    "$JS.API.CONSUMER.RESET.>",
    "$JS.API.CONSUMER.LEADER.>",
    "$JS.API.CONSUMER.UNPIN.>",
    ACKS,
    "_R_.>",
    "_GR_.>",
];

/// What no service may subscribe to. A literal core subscription on `$KV.…` would also let push
/// consumers deliver into keyspaces.
pub(super) const NEVER_SUBSCRIBE: [&str; 8] =
    ["$KV.>", "$JS.>", "$SYS.>", "$NRG.>", "$MQTT.>", "_R_.>", "_GR_.>", DISCOVERY];

/// Each with its twin in another account or domain: an import, like a domain, gives
/// `$JS.API.…` the name `$JS.<token>.API.…`.
fn parsed(list: &'static [&'static str]) -> Vec<(&'static str, Pattern)> {
    let pattern = |text: &'static str, form: &str| Some((text, Pattern::parse(form).ok()?));
    let twin = |text: &'static str| {
        let rest = text.strip_prefix("$JS.").filter(|_| text != "$JS.>")?;
        pattern(text, &format!("$JS.*.{rest}"))
    };
    list.iter().flat_map(|text| [pattern(text, text), twin(text)]).flatten().collect()
}

static NEVER_PUBLISH_PATTERNS: LazyLock<Vec<(&'static str, Pattern)>> =
    LazyLock::new(|| parsed(&NEVER_PUBLISH));
static NEVER_SUBSCRIBE_PATTERNS: LazyLock<Vec<(&'static str, Pattern)>> =
    LazyLock::new(|| parsed(&NEVER_SUBSCRIBE));

/// The never-granted subject that `pattern` reaches, if any.
#[must_use]
pub fn never_granted(side: Side, pattern: &Pattern) -> Option<&'static str> {
    let forbidden = match side {
        Side::Publish => &*NEVER_PUBLISH_PATTERNS,
        Side::Subscribe => &*NEVER_SUBSCRIBE_PATTERNS,
    };
    let acks = side == Side::Publish && acknowledged(pattern).is_some();
    // Flow control and acknowledgements, with wildcards behind: no JetStream's API begins so
    // (`is_api`).
    let answers = acks || pattern.as_str().starts_with("$JS.FC.");
    let discovery = is_discovery(side, pattern);
    forbidden
        .iter()
        .filter(|(text, never)| !answers || never.as_str() == *text)
        .filter(|(text, _)| !acks || *text != ACKS)
        .filter(|(text, _)| !discovery || *text != DISCOVERY)
        .find(|(_, never)| never.overlaps(pattern))
        .map(|(text, _)| *text)
}

/// What a subject acknowledges, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// Messages of this consumer.
    Consumer(ConsumerName),
    /// Messages of every consumer of this stream.
    Stream(StreamName),
}

/// What a subject acknowledges, if it is one of the forms of [`kv_operation::consuming`] or of
/// [`kv_operation::replaying`], with literal names that nothing else can be taken for.
#[must_use]
pub fn acknowledged(pattern: &Pattern) -> Option<Acknowledged> {
    // Asked of every subject of every grant, and few begin so.
    if !pattern.as_str().starts_with("$JS.ACK.") {
        return None;
    }
    let tokens: Vec<&str> = pattern.as_str().splitn(10, '.').collect();
    let name = |text: &str| StreamName::parse(text).ok()?.acknowledged().ok();
    match tokens.as_slice() {
        ["$JS", "ACK", stream, "*", "*", "*", "*", "*", "*"]
        | ["$JS", "ACK", "*", "*", stream, "*", ">"] => Some(Acknowledged::Stream(name(stream)?)),
        ["$JS", "ACK", stream, consumer, ">"] | ["$JS", "ACK", "*", "*", stream, consumer, ">"] => {
            let consumer = ConsumerName::of(name(stream)?, name(consumer)?).ok()?;
            Some(Acknowledged::Consumer(consumer))
        }
        _ => None,
    }
}

/// Whether a subject has one of the forms that finding services takes: one question, to everybody,
/// to one name, or to one name and an id. Only who asks may leave the name open: who answers
/// would hear what others are asked.
#[must_use]
pub fn is_discovery(side: Side, pattern: &Pattern) -> bool {
    if !pattern.as_str().starts_with("$SRV.") {
        return false;
    }
    let tokens: Vec<&str> = pattern.as_str().splitn(5, '.').collect();
    let ["$SRV", question, rest @ ..] = tokens.as_slice() else { return false };
    let named =
        |name: &str| FoundName::parse(name).is_ok() || (side == Side::Publish && name == "*");
    SERVICE_QUESTIONS.iter().any(|(known, _)| known == question)
        && match rest {
            [] => true,
            [name] | [name, "*"] => named(name),
            _ => false,
        }
}

static AUDIT_PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
    [AUDIT_SUBJECTS, SERVICES_SUBJECTS].iter().filter_map(|s| Pattern::parse(s).ok()).collect()
});

/// Whether a subject is, or may stand for, one that an audit stream takes.
#[must_use]
pub fn reaches_audit(pattern: &Pattern) -> bool {
    AUDIT_PATTERNS.iter().any(|audit| audit.overlaps(pattern))
}

/// Whether a subject is one that the service publishes its own audit events to. A service that
/// has solewriter's own name has none: its events would be taken for decisions.
#[must_use]
pub fn is_own_audit_subject(pattern: &Pattern, service: &str) -> bool {
    if service == PRODUCER {
        return false;
    }
    let own = format!("{SUBJECT_ROOT}.{service}");
    [own.clone(), format!("{own}.>")]
        .iter()
        .any(|own| Pattern::parse(own).is_ok_and(|own| pattern.is_subset_of(&own)))
}
