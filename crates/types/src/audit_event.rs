//! What is recorded: a closed set of events, and each as a CloudEvents 1.0 JSON object.
//!
//! Source: the CloudEvents specification 1.0, its JSON event format, and its documented
//! extension `sequence`. This file depends on nothing but serde and jiff, so that a program that
//! only makes events (the guard inside a client) can have it. Nothing here decides or does I/O;
//! time and numbers are arguments.
//!
//! No event has a place for a secret or a payload. What others say of themselves comes in
//! through [`words`], escaped and cut.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clean::is_unclean;
use crate::kv_operation::Target;

pub use crate::kv_operation::Operation;

/// Everything below it is an audit subject; the last tokens name the producer and its run.
pub const SUBJECT_ROOT: &str = "audit.events";
/// What the subjects of services' events begin with in their stream: the service follows, and
/// nothing else.
pub const SERVICES_ROOT: &str = "audit.services";
/// The name of the stream of solewriter's own events, unless a setting gives another.
pub const DEFAULT_STREAM: &str = "AUDIT_EVENTS";
/// The name of the stream of services' events, unless a setting gives another.
pub const DEFAULT_SERVICES_STREAM: &str = "AUDIT_SERVICES";
/// What requests to their account's JetStream begin with where services are, unless a setting says
/// otherwise.
pub const DEFAULT_API: &str = "$JS.AUDIT.API";

/// The id of a message in the stream that services share, by which the stream knows it again.
/// Nobody can know it before the stream has it: who publishes another's message id first has the
/// stream drop the other's message.
#[must_use]
pub fn message_id() -> String {
    // The standard library seeds its maps with what nobody knows.
    let secret = std::hash::RandomState::new();
    let half = |n: u8| std::hash::BuildHasher::hash_one(&secret, n);
    format!("{:016x}{:016x}", half(0), half(1))
}
/// The form of the events, as their `dataschema`. Another number is another form, which a version
/// that does not know it does not read. Fields may be added without one.
pub const DATASCHEMA: &str = "urn:solewriter:audit-event:1";
/// The producer name of solewriter's own instances.
pub const PRODUCER: &str = "solewriter";
/// The longest text that comes from outside, in characters.
pub const MAX_WORDS: usize = 256;
/// The most names that one list in an event holds; the rest is counted.
pub const MAX_NAMES: usize = 20;

/// Text from outside, escaped and cut, so that it can be printed and stays small.
#[must_use]
pub fn words(text: &str) -> String {
    cut(text, MAX_WORDS)
}

/// Text from outside, escaped and cut to so many characters.
#[must_use]
pub fn cut(text: &str, most: usize) -> String {
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == most {
            out.push('…');
            break;
        }
        // Who prints it escapes quotes and backslashes; what breaks or turns a line is no more.
        if is_unclean(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A list of names that cannot grow without bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct Names {
    /// How many there are.
    pub count: u64,
    /// The first 20 of them ([`MAX_NAMES`]).
    pub names: Vec<String>,
}

impl Names {
    /// Takes all, keeps the first.
    pub fn of<T: AsRef<str>>(all: impl IntoIterator<Item = T>) -> Self {
        let mut list = Self::default();
        for name in all {
            list.count += 1;
            if list.names.len() < MAX_NAMES {
                list.names.push(words(name.as_ref()));
            }
        }
        list
    }
}

/// How it came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The connection was let in.
    Granted,
    /// It was not.
    Denied,
}

impl Outcome {
    /// As in the event.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Denied => "denied",
        }
    }
}

/// A connection was decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct Authorisation {
    /// `granted` or `denied`.
    #[cfg_attr(feature = "audit-schema", schemars(with = "String"))]
    pub outcome: Outcome,
    /// `granted`, or why not: the reasons are in `operations.md`.
    pub reason: String,
    /// The denial in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The service, once its key was proved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The public key that was proved or, in a denial, claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nkey: Option<String>,
    /// The service that had the key before it was removed from the policy, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub former_service: Option<String>,
    /// The last policy revision in which that service had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub former_revision: Option<String>,
    /// The client's address, as the server sees it.
    pub host: String,
    /// `STANDARD`, `WEBSOCKET`, `MQTT`, `LEAFNODE`, or `unknown` for anything else.
    pub connection: String,
    /// The client's name for itself, escaped and cut.
    pub client: String,
    /// The client's library in its own words, escaped and cut.
    pub library: String,
    /// The name of the server that asked.
    pub server: String,
    /// The public key of the server that asked.
    pub server_id: String,
    /// The number of the connection on that server.
    pub cid: u64,
    /// The account that the connection was placed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The policy revision that decided.
    pub revision: String,
    /// The digest of the grant: equal where account and permissions are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// When the permissions end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "audit-schema", schemars(with = "String", extend("format" = "date-time")))]
    pub expires: Option<Timestamp>,
    /// Identifies the decision; also the `jti` of the user JWT.
    pub decision: String,
    /// From taking up the request to its answer, in microseconds.
    pub took_us: u64,
    /// Why no answer could be made; the client was refused then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unanswered: Option<String>,
    /// The trace that shows this decision, as W3C's Trace Context has it: an attribute of the event
    /// and not of its data, as the extension of `CloudEvents` for distributed tracing says.
    #[serde(skip)]
    pub traceparent: Option<String>,
}

/// A request on `$SYS.REQ.USER.AUTH` that no server provably sent; it got no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct RequestRejected {
    /// The code: see `operations.md`.
    pub reason: String,
    /// In words.
    pub detail: String,
}

/// Where a policy came from, and who put it there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct Origin {
    /// `directory` or `bucket`.
    #[cfg_attr(feature = "audit-schema", schemars(extend("enum" = ["directory", "bucket"])))]
    pub from: String,
    /// The directory, or the bucket.
    pub place: String,
    /// Who pushed it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The public key that signed it, where the settings name authors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
    /// What they said about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Its number in the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
}

/// Something that changed hands: a keyspace, a store, a consumer, a subject of a stream, or a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct Transfer {
    /// What it is. A stream is there with its consumer, or with `subject`.
    #[serde(flatten)]
    pub about: About,
    /// The subjects of the stream that another service publishes now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Who had it.
    pub from: String,
    /// Who has it now.
    pub to: String,
}

/// What a policy changed for services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct Changes {
    /// Services that are new.
    pub added: Names,
    /// Services that are no more.
    pub removed: Names,
    /// Services that may do something else, or connect in another way.
    pub changed: Names,
    /// How many keyspaces, stores, consumers, subjects of streams and names changed hands.
    pub transferred: u64,
    /// The first 20 of those ([`MAX_NAMES`]).
    pub transfers: Vec<Transfer>,
    /// How much was gained, over all services: rights, keys, and ways to connect.
    pub gained: u64,
    /// The first 20 of those ([`MAX_NAMES`]): the service, a colon, and what it gained.
    #[serde(default)]
    pub gains: Vec<String>,
    /// How much was lost, over all services: rights, keys, and ways to connect.
    pub lost: u64,
    /// The first 20 of those ([`MAX_NAMES`]): the service, a colon, and what it lost.
    #[serde(default)]
    pub losses: Vec<String>,
}

/// A policy came into force: at start, or a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct PolicyAccepted {
    /// The revision in force now.
    pub revision: String,
    /// The revision before; absent at start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Where the policy came from, and who put it there.
    pub origin: Origin,
    /// How many services it has.
    pub services: u64,
    /// How many buckets it has.
    pub buckets: u64,
    /// How many warnings and notes there were.
    pub warnings: u64,
    /// What it changed for services; absent at start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
}

/// One thing that is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct Fault {
    /// The problem's code.
    pub code: String,
    /// In words.
    pub message: String,
    /// File, line and column.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// A policy was refused as a whole; the one before stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct PolicyRefused {
    /// The revision that stays in force; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Where the policy came from, and who put it there.
    pub origin: Origin,
    /// How many errors there are.
    pub errors: u64,
    /// The first 20 errors, each with code, message and place.
    pub faults: Vec<Fault>,
    /// All problems as a text for people, cut when it is long.
    pub problems: String,
}

/// A live connection was closed, or should have been: because of a change, or because its
/// permissions were about to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct SessionClosed {
    /// `closed`, `gone` (it ended by itself first) or `failed`.
    pub outcome: String,
    /// Why it must end.
    pub reason: String,
    /// More about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The service.
    pub service: String,
    /// Its key.
    pub nkey: String,
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The server's name.
    pub server: String,
    /// The server's public key.
    pub server_id: String,
    /// The number of the connection on that server.
    pub cid: u64,
    /// The account that it was in.
    pub account: String,
    /// The policy revision that demands it.
    pub revision: String,
    /// The revision that the connection was let in by.
    pub had_revision: String,
    /// The digest of the grant that the service has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// The digest of the grant that the connection had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub had_grant: Option<String>,
}

impl SessionClosed {
    /// The reason of a connection whose permissions were about to end: nothing went wrong.
    pub const EXPIRING: &str = "expiring";
}

/// The right to write something moved from one service to another, and nobody can write it by an
/// older policy any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct HandedOver {
    /// What moved: a keyspace, an object store, or subjects.
    pub what: String,
    /// Who wrote it; absent when that was not known after a start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Who writes it now.
    pub to: String,
    /// For how many milliseconds nobody could write it, at most: since the last connection of who
    /// wrote it was found, or since the policy came into force.
    pub vacant_ms: u64,
    /// Whether it did not wait for servers that do not answer (`--force-handover`).
    pub forced: bool,
    /// The policy revision.
    pub revision: String,
    /// Its number in the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
}

/// An emergency grant began: a service writes what another one owns, or nobody, for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct EmergencyBegan {
    /// Its id.
    pub id: String,
    /// Who is to write.
    pub service: String,
    /// What.
    pub keyspace: String,
    /// Who owns it by the policy, and may not write it now; absent when nobody does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The public key of who signed it.
    pub by: String,
    /// Why, in their words, escaped and cut.
    pub reason: String,
    /// When it ends by itself.
    #[cfg_attr(feature = "audit-schema", schemars(with = "String", extend("format" = "date-time")))]
    pub until: Timestamp,
    /// The policy revision in force now.
    pub revision: String,
}

/// An emergency grant ended: the policy alone says again who writes what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct EmergencyEnded {
    /// Its id.
    pub id: String,
    /// Who wrote.
    pub service: String,
    /// What.
    pub keyspace: String,
    /// The public key of who signed it.
    pub by: String,
    /// `time`, `early` (somebody ended it), `policy` (it does not fit the policy any more) or `gone`
    /// (its document is not there any more).
    pub cause: String,
    /// More about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Why it was granted, in the words of who signed it, escaped and cut.
    pub reason: String,
    /// When it was to end.
    #[cfg_attr(feature = "audit-schema", schemars(with = "String", extend("format" = "date-time")))]
    pub until: Timestamp,
    /// The policy revision in force now.
    pub revision: String,
}

/// Somebody put a document of an emergency in place that grants nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct EmergencyIgnored {
    /// `form`, `signature`, `key`, `fleet`, `too_long`, `future`, `over` or `policy`.
    pub cause: String,
    /// In words.
    pub detail: String,
}

/// What a subject is about, when it is no plain one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct About {
    /// The keyspace that the subject is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyspace: Option<String>,
    /// The stream that the subject is about, or that keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The consumer of that stream that the subject names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// The object store that the subject is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// The name by which services were looked for, or by which the client wanted to be found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found_as: Option<String>,
}

impl About {
    /// Of what a client was about.
    #[must_use]
    pub fn of(target: Option<&Target>) -> Self {
        let mut about = Self::default();
        match target {
            Some(keys @ Target::Keys { .. }) => about.keyspace = Some(words(&keys.to_string())),
            Some(Target::Store(store)) => about.store = Some(words(store.as_str())),
            Some(Target::Stream { stream, consumer, .. }) => {
                about.stream = Some(words(stream));
                about.consumer = consumer.as_deref().map(words);
            }
            Some(Target::Found(name)) => about.found_as = Some(words(name)),
            None => {}
        }
        about
    }
}

/// A client used, or tried to use, a subject outside its grant. Repeated ones are one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct Violation {
    /// `server_log`, or `client` when a guard inside the client saw it.
    pub seen_by: String,
    /// True when the line of the log may be a client's own words; then no service is named.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unproved: bool,
    /// The service that tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nkey: Option<String>,
    /// Its account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The policy revision that its connection was let in by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The client's address, as the server logs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The server's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The number of the connection on its server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cid: Option<u64>,
    /// What the client says of itself, as the server logs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// `write`, `purge`, `get`, `watch`, `open`, `consume`, `ack`, `replay`, `find`, `administer`,
    /// `publish`, `subscribe` or `reply`.
    #[cfg_attr(feature = "audit-schema", schemars(with = "String"))]
    pub operation: Operation,
    /// The subject.
    pub subject: String,
    /// The queue group, of a subscription in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// What the subject is about.
    #[serde(flatten)]
    pub about: About,
    /// Who owns that keyspace or store, uses that consumer, may publish that subject of the stream,
    /// or is found by that name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The entry that would permit it, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_rule: Option<String>,
    /// What else there is to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// For repeats, the id of the event that told the first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeats: Option<String>,
    /// How often it was tried.
    pub count: u64,
    /// The first time.
    #[cfg_attr(feature = "audit-schema", schemars(with = "String", extend("format" = "date-time")))]
    pub first: Timestamp,
    /// The last time.
    #[cfg_attr(feature = "audit-schema", schemars(with = "String", extend("format" = "date-time")))]
    pub last: Timestamp,
}

/// A producer began its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct Started {
    /// Its version.
    pub version: String,
    /// The public key of the issuer that it signs with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The public curve key, when requests are sealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xkey: Option<String>,
}

/// A producer ended, and had the time to say so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct Stopped {
    /// Its version.
    pub version: String,
    /// `asked`, or `failed`.
    pub reason: String,
    /// What failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How long it ran.
    pub ran_seconds: u64,
}

/// Something about keys or settings needs a person: a key that ends soon, a permission that the
/// callout user lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct Trouble {
    /// A short, stable name; the log's `event`.
    pub reason: String,
    /// In words, with what to do.
    pub detail: String,
    /// The service that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// Events will never be in the stream. The log has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "audit-schema", derive(schemars::JsonSchema))]
pub struct Lost {
    /// `queue_full`, `spool_full`, `killed`, `damaged`, `id_taken` or `strangers`; from a guard,
    /// `unpublished`.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// The run that they belong to.
    pub instance: String,
    /// The number of the first.
    pub first: u64,
    /// The number of the last.
    pub last: u64,
}

/// One thing that happened. Its JSON is the CloudEvents `data`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Event {
    /// A connection was decided.
    Authorisation(Box<Authorisation>),
    /// A request came from no server.
    RequestRejected(RequestRejected),
    /// A policy came into force.
    PolicyAccepted(Box<PolicyAccepted>),
    /// A policy was refused.
    PolicyRefused(Box<PolicyRefused>),
    /// A live connection was closed: because of a change, or before its permissions ended.
    SessionClosed(Box<SessionClosed>),
    /// The right to write something moved.
    HandedOver(HandedOver),
    /// An emergency grant began.
    EmergencyBegan(EmergencyBegan),
    /// An emergency grant ended.
    EmergencyEnded(EmergencyEnded),
    /// A document of an emergency grants nothing.
    EmergencyIgnored(EmergencyIgnored),
    /// A client went beyond its grant.
    Violation(Box<Violation>),
    /// A producer began.
    Started(Started),
    /// A producer ended.
    Stopped(Stopped),
    /// Keys or settings need a person.
    Trouble(Trouble),
    /// Events were lost.
    Lost(Lost),
}

impl Event {
    /// The CloudEvents `type`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Authorisation(event) => match event.outcome {
                Outcome::Granted => "solewriter.authorisation.granted",
                Outcome::Denied => "solewriter.authorisation.denied",
            },
            Self::RequestRejected(_) => "solewriter.request.rejected",
            Self::PolicyAccepted(_) => "solewriter.policy.accepted",
            Self::PolicyRefused(_) => "solewriter.policy.refused",
            Self::SessionClosed(_) => "solewriter.session.closed",
            Self::HandedOver(_) => "solewriter.handed_over",
            Self::EmergencyBegan(_) => "solewriter.emergency.began",
            Self::EmergencyEnded(_) => "solewriter.emergency.ended",
            Self::EmergencyIgnored(_) => "solewriter.emergency.ignored",
            Self::Violation(_) => "solewriter.violation",
            Self::Started(_) => "solewriter.started",
            Self::Stopped(_) => "solewriter.stopped",
            Self::Trouble(_) => "solewriter.trouble",
            Self::Lost(_) => "solewriter.lost",
        }
    }

    /// The trace that shows it, the CloudEvents `traceparent`, if there is one.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        match self {
            Self::Authorisation(event) => event.traceparent.as_deref(),
            _ => None,
        }
    }

    /// What it is about, the CloudEvents `subject`: a service or key, a policy revision, a run.
    #[must_use]
    pub fn about(&self) -> Option<&str> {
        match self {
            Self::Authorisation(event) => event.service.as_deref().or(event.nkey.as_deref()),
            Self::PolicyAccepted(event) => Some(&event.revision),
            Self::PolicyRefused(event) => event.revision.as_deref(),
            Self::SessionClosed(event) => Some(&event.service),
            Self::HandedOver(event) => Some(&event.to),
            Self::EmergencyBegan(event) => Some(&event.service),
            Self::EmergencyEnded(event) => Some(&event.service),
            Self::Violation(event) => event.service.as_deref(),
            Self::Trouble(event) => event.service.as_deref(),
            Self::Lost(event) => Some(&event.instance),
            Self::EmergencyIgnored(_)
            | Self::RequestRejected(_)
            | Self::Started(_)
            | Self::Stopped(_) => None,
        }
    }
}

/// Who records: a producer, and one run of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// [`PRODUCER`], or the name of a service.
    pub producer: String,
    /// Names one run of it, from start to end: lower-case letters and digits. Later runs sort
    /// after earlier ones.
    pub instance: String,
}

impl Source {
    /// A new run. `random` should differ from that of any other run of the same millisecond.
    #[must_use]
    pub fn new(producer: &str, now: Timestamp, random: u32) -> Self {
        let millisecond = u64::try_from(now.as_millisecond()).unwrap_or(0);
        Self { producer: producer.to_owned(), instance: format!("{millisecond:011x}{random:08x}") }
    }

    /// The CloudEvents `source`.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("/{}/{}", self.producer, self.instance)
    }

    /// Where this run publishes.
    #[must_use]
    pub fn subject(&self) -> String {
        format!("{SUBJECT_ROOT}.{}.{}", self.producer, self.instance)
    }

    /// The id of an event of this run; also its message id (`Nats-Msg-Id`).
    #[must_use]
    pub fn id(&self, sequence: u64) -> String {
        format!("{}-{sequence}", self.instance)
    }
}

/// An event with its place in a run. Sequence numbers count from 1 without a gap, so that what is
/// missing can be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The place.
    pub sequence: u64,
    /// When.
    pub time: Timestamp,
    /// What.
    pub event: Event,
}

impl Record {
    /// The event as CloudEvents 1.0 has it, in the JSON format: one line, without its end.
    #[must_use]
    pub fn line(&self, source: &Source) -> String {
        let event = CloudEvent {
            specversion: "1.0",
            id: source.id(self.sequence),
            source: source.uri(),
            kind: self.event.kind(),
            subject: self.event.about(),
            time: format!("{:.6}", self.time),
            sequence: format!("{:012}", self.sequence),
            datacontenttype: "application/json",
            dataschema: DATASCHEMA,
            traceparent: self.event.traceparent(),
            data: &self.event,
        };
        // Structs of texts, numbers and lists always have a JSON form.
        serde_json::to_string(&event).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    source: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    time: String,
    /// Integers of CloudEvents attributes have 32 bits; as text, in an order that sorts.
    sequence: String,
    datacontenttype: &'static str,
    dataschema: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    data: &'a Event,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_has_every_attribute_of_cloud_events() {
        let source = Source::new(PRODUCER, Timestamp::UNIX_EPOCH, 7);
        assert_eq!(source.subject(), "audit.events.solewriter.0000000000000000007");
        let event = Event::RequestRejected(RequestRejected {
            reason: "signature".to_owned(),
            detail: "the server's signature does not verify".to_owned(),
        });
        let record = Record { sequence: 12, time: Timestamp::UNIX_EPOCH, event };
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&record.line(&source)).unwrap(),
            json!({
                "specversion": "1.0",
                "id": "0000000000000000007-12",
                "source": "/solewriter/0000000000000000007",
                "type": "solewriter.request.rejected",
                "time": "1970-01-01T00:00:00.000000Z",
                "sequence": "000000000012",
                "datacontenttype": "application/json",
                "dataschema": "urn:solewriter:audit-event:1",
                "data": {
                    "reason": "signature",
                    "detail": "the server's signature does not verify",
                },
            })
        );
    }

    #[test]
    fn later_runs_sort_after_earlier_ones() {
        let run = |millisecond: i64, random| {
            let now = Timestamp::from_millisecond(millisecond).unwrap();
            Source::new(PRODUCER, now, random).instance
        };
        assert!(run(1_764_000_000_000, u32::MAX) < run(1_764_000_000_001, 0));
        assert_eq!(run(1_764_000_000_000, 0).len(), run(0, u32::MAX).len());
    }

    #[test]
    fn what_comes_from_outside_is_cut_and_cannot_break_a_line() {
        assert_eq!(words("a\nb\u{1b}[31m\"é\""), "a\\nb\\u{1b}[31m\"é\"");
        assert_eq!(words(&"x".repeat(1000)).chars().count(), MAX_WORDS + 1);
        let names = Names::of((0..50).map(|i| i.to_string()));
        assert_eq!((names.count, names.names.len()), (50, MAX_NAMES));
    }
}
