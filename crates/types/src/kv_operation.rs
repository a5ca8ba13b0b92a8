//! KV operations and the subjects that they use, in both directions: what an operation needs
//! ([`reading`], [`writing`]), and what a client was about that used a subject ([`Usage::of`]).
//!
//! Source: nats-server's JetStream API and KV (ADR-8 of nats-architecture-and-design), and what
//! async-nats, nats.go, nats.js and nats.py were seen to send (`docs/clients.md`). Both directions
//! read one table, so they cannot come apart.

mod usage;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::keyspace::Keyspace;

pub use usage::{Act, STORE_PREFIX, Target, Usage};

/// What a client does with a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Puts, creates, updates, deletes or purges a key: one publish, told apart by its headers. Or
    /// puts, deletes or links an object.
    Write,
    /// Removes the delete markers of a bucket, chunks of an object, messages of a stream.
    Purge,
    /// Reads values.
    Get,
    /// Watches keys, or lists them, or reads their history: a consumer.
    Watch,
    /// Opens a bucket, an object store or a stream.
    Open,
    /// Takes messages from a consumer of a stream, or looks at it.
    Consume,
    /// Acknowledges a message: ack, nak, in progress or term.
    Ack,
    /// Reads a stream other than through a consumer that is there already.
    Replay,
    /// Looks for services.
    Find,
    /// Anything else of the JetStream API: creates, changes, deletes or lists streams and consumers.
    Administer,
    /// Publishes a plain subject; a request is a publish too.
    Publish,
    /// Subscribes.
    Subscribe,
    /// Names a reply subject that no client may name.
    Reply,
}

impl Operation {
    /// The operation in one word, as logs and events have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Purge => "purge",
            Self::Get => "get",
            Self::Watch => "watch",
            Self::Open => "open",
            Self::Consume => "consume",
            Self::Ack => "ack",
            Self::Replay => "replay",
            Self::Find => "find",
            Self::Administer => "administer",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Reply => "reply",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What follows the operation in an API subject.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `KV_b`
    Stream,
    /// `KV_b.<consumer>`
    Consumer,
    /// `KV_b.$KV.b.<keys>`
    Keys,
    /// `KV_b.<consumer>.$KV.b.<keys>`
    ConsumerKeys,
}

/// One subject of the JetStream API that KV clients use.
struct Api {
    name: &'static str,
    form: Form,
    operation: Operation,
    purpose: &'static str,
    /// Only with a right to the whole bucket: the body chooses keys, where no permission sees it.
    whole: bool,
}

const fn api(
    name: &'static str,
    form: Form,
    operation: Operation,
    purpose: &'static str,
    whole: bool,
) -> Api {
    Api { name, form, operation, purpose, whole }
}

const READING: [Api; 9] = [
    api("STREAM.INFO", Form::Stream, Operation::Open, "open the bucket", false),
    api("DIRECT.GET", Form::Keys, Operation::Get, "get", false),
    api("DIRECT.GET", Form::Stream, Operation::Get, "get a revision", true),
    api("STREAM.MSG.GET", Form::Stream, Operation::Get, "get without direct get", true),
    api("CONSUMER.CREATE", Form::Stream, Operation::Watch, "watch, keys, history", true),
    api("CONSUMER.CREATE", Form::Consumer, Operation::Watch, "watch several keys", true),
    api("CONSUMER.CREATE", Form::ConsumerKeys, Operation::Watch, "watch, keys, history", false),
    api("CONSUMER.INFO", Form::Consumer, Operation::Watch, "check a watch", false),
    // nats.go waits for the answer when a watch stops, async-nats when it reconnects.
    api("CONSUMER.DELETE", Form::Consumer, Operation::Watch, "end a watch", false),
];

const WRITING: [Api; 1] =
    [api("STREAM.PURGE", Form::Stream, Operation::Purge, "remove delete markers", true)];

/// How requests to JetStream's API begin.
pub const API: &str = "$JS.API.";
const FLOW: &str = "$JS.FC.";
const KV: &str = "$KV.";
const STREAM: &str = "KV_";

/// How the name of an object store's stream begins.
pub const STORE_STREAM: &str = "OBJ_";

/// The stream of an object store.
#[must_use]
pub fn store_stream(store: &str) -> String {
    format!("{STORE_STREAM}{store}")
}

/// A subject to publish to, and what it is for.
pub type Needed = (&'static str, String);

fn requests<'a>(table: &'a [Api], keyspace: &'a Keyspace) -> impl Iterator<Item = Needed> + 'a {
    let whole = keyspace.part().is_none();
    table.iter().filter(move |api| whole || !api.whole).map(|api| {
        let (stream, keys) = (keyspace.stream(), keyspace.subjects());
        let rest = match api.form {
            Form::Stream => stream,
            Form::Consumer => format!("{stream}.*"),
            Form::Keys => format!("{stream}.{keys}"),
            Form::ConsumerKeys => format!("{stream}.*.{keys}"),
        };
        (api.purpose, format!("{API}{}.{rest}", api.name))
    })
}

/// What a client publishes to when it reads a keyspace.
#[must_use]
pub fn reading(keyspace: &Keyspace) -> Vec<Needed> {
    let flow = flow_control(&keyspace.stream()).map(|subject| ("flow control of a watch", subject));
    requests(&READING, keyspace).chain(flow).collect()
}

/// The same request, to the API of a JetStream domain; `None` for what is no request, and for what
/// nobody asks of another domain: about the whole account, and in the way of old libraries.
///
/// What follows a request is named as ever: inboxes, flow control and acknowledgements.
#[must_use]
pub fn in_domain(domain: &str, (purpose, subject): &Needed) -> Option<Needed> {
    let rest = subject.strip_prefix(API)?;
    if READING_STORES.contains(&subject.as_str()) || rest.starts_with(DURABLE_CREATE) {
        return None;
    }
    Some((*purpose, format!("{}.{rest}", domain_api(domain))))
}

/// What the API of a JetStream domain begins with, as clients and streams are told.
#[must_use]
pub fn domain_api(domain: &str) -> String {
    format!("$JS.{domain}.API")
}

/// What a server asks of another domain for a copy of that bucket, and how it answers.
#[must_use]
pub fn copying(bucket: &Keyspace) -> (String, Vec<String>) {
    let stream = bucket.stream();
    let answers = flow_control(&stream).iter().filter_map(|subject| exactly(subject)).collect();
    (format!("{API}CONSUMER.CREATE.{stream}.>"), answers)
}

/// Flow control or acknowledgements, in the exact length of the older form: one account gives it to
/// another, and `$JS.FC.a.>` would meet the newer form of every stream, which nats-server takes for
/// a cycle of imports. `None` for what is neither.
#[must_use]
pub fn exactly(subject: &str) -> Option<String> {
    let tokens: Vec<&str> = subject.split('.').collect();
    match tokens.as_slice() {
        ["$JS", "FC", stream, ">"] => Some(format!("{FLOW}{stream}.*.*")),
        ["$JS", "ACK", stream, consumer, ">"] => {
            Some(format!("$JS.ACK.{stream}.{consumer}.*.*.*.*.*"))
        }
        ["$JS", "FC" | "ACK", ..] => Some(subject.to_owned()),
        _ => None,
    }
}

/// Where a copy of a bucket in another domain has its messages delivered to, without the last
/// token, which servers make up. No service is granted anything there.
#[must_use]
pub fn copied_to(bucket: &str) -> String {
    format!("_COPY.{bucket}")
}

/// Where a client answers the flow control of a stream's consumers, in both forms.
///
/// The older is `$JS.FC.<stream>.<consumer>.<token>`. The one of `js_ack_fc_v2` (a feature flag
/// from nats-server 2.14 on, announced as the default of 2.16) has the JetStream domain, or `_`,
/// and a hash of the account's name before the stream. No subject of the older form is one of the
/// newer form's pattern: it has five tokens, and that pattern takes six or more. And of the newer
/// form the stream is always the fifth token, so neither reaches another stream's consumers.
#[must_use]
pub fn flow_control(stream: &str) -> [String; 2] {
    [format!("{FLOW}{stream}.>"), format!("{FLOW}*.*.{stream}.>")]
}

/// What a client publishes to when it reads an object store.
///
/// nats.py and nats.go find the stream by `STREAM.NAMES`, and nats.js asks for the account's usage
/// first. Both tell more than the store: the names of all streams, and how much there is.
#[must_use]
pub fn reading_store(store: &str) -> Vec<Needed> {
    let stream = store_stream(store);
    let api = [
        ("open the store", format!("STREAM.INFO.{stream}")),
        ("get an object's metadata", format!("STREAM.MSG.GET.{stream}")),
        ("get an object's metadata", format!("DIRECT.GET.{stream}")),
        ("get an object's metadata", format!("DIRECT.GET.{stream}.$O.{store}.M.*")),
        ("get, list, watch", format!("CONSUMER.CREATE.{stream}")),
        ("get, list, watch", format!("CONSUMER.CREATE.{stream}.*.$O.{store}.>")),
        ("check a watch", format!("CONSUMER.INFO.{stream}.*")),
        ("end a get or a watch", format!("CONSUMER.DELETE.{stream}.*")),
    ];
    let [info, names] = READING_STORES.map(ToOwned::to_owned);
    api.into_iter()
        .map(|(purpose, subject)| (purpose, format!("{API}{subject}")))
        .chain(flow_control(&stream).map(|subject| ("flow control of a get", subject)))
        .chain([("open the store (nats.js)", info), ("find the stream (nats.py, nats.go)", names)])
        .collect()
}

/// What libraries ask of the whole account before they use an object store.
pub const READING_STORES: [&str; 2] = ["$JS.API.INFO", "$JS.API.STREAM.NAMES"];

/// What a client publishes to when it writes an object store.
#[must_use]
pub fn writing_store(store: &str) -> [Needed; 3] {
    [
        ("put an object's content", format!("$O.{store}.C.*")),
        ("put, delete, link, rename", format!("$O.{store}.M.*")),
        ("remove an object's content", format!("{API}STREAM.PURGE.{}", store_stream(store))),
    ]
}

/// What a client publishes to when it takes messages from a durable pull consumer that exists.
///
/// Acknowledgements have two forms, as flow control has. The older one is
/// `$JS.ACK.<stream>.<consumer>.<deliveries>.<position>.…`; the newer one has the JetStream domain,
/// or `_`, and a hash of the account's name before the stream. The fifth and sixth token of the
/// older form are numbers, so no name may be a number.
#[must_use]
pub fn consuming(stream: &str, consumer: &str) -> [Needed; 4] {
    let [info, old, new] = told_of(stream, consumer);
    let next = format!("{API}CONSUMER.MSG.NEXT.{stream}.{consumer}");
    [info, ("ask for the next messages", next), old, new]
}

/// What a client publishes to when a durable push consumer that exists sends it messages.
#[must_use]
pub fn taking(stream: &str, consumer: &str) -> [Needed; 5] {
    const FLOW_CONTROL: &str = "flow control of the consumer";
    let [info, old, new] = told_of(stream, consumer);
    let flow = |form: &str| (FLOW_CONTROL, format!("{FLOW}{form}{stream}.{consumer}.*"));
    [info, old, new, flow(""), flow("*.*.")]
}

/// What every user of a durable consumer publishes to.
fn told_of(stream: &str, consumer: &str) -> [Needed; 3] {
    [
        ("check the consumer", format!("{API}CONSUMER.INFO.{stream}.{consumer}")),
        ("acknowledge", format!("$JS.ACK.{stream}.{consumer}.>")),
        ("acknowledge", format!("$JS.ACK.*.*.{stream}.{consumer}.>")),
    ]
}

/// Where a declared push consumer delivers. `*` stands for what `state apply` makes up.
///
/// It is among the inboxes, because these alone pass from the streams' account to the services'. It
/// is in no service's inbox: a service's name has no `$`. So the right to hear it comes and goes
/// with `consumes`, and a consumer that moves to another service stays as it is.
#[must_use]
pub fn pushed_to(stream: &str, consumer: &str) -> String {
    format!("{PUSHED}{stream}.{consumer}.*")
}

const PUSHED: &str = "_INBOX.$push.";

/// What services of the services framework are asked, and for what. `SCHEMA` is a
/// question of older versions of nats.go.
pub const SERVICE_QUESTIONS: [(&str, &str); 4] = [
    ("PING", "be found"),
    ("INFO", "say what it offers"),
    ("STATS", "say how it is used"),
    ("SCHEMA", "be found (old nats.go)"),
];

/// What a client subscribes to when it is found under that name: the questions to everybody, to the
/// name, and to the name and one id.
#[must_use]
pub fn found(name: &str) -> Vec<Needed> {
    let forms = [String::new(), format!(".{name}"), format!(".{name}.*")];
    let all = SERVICE_QUESTIONS.iter().flat_map(|(question, purpose)| {
        forms.iter().map(move |form| (*purpose, format!("$SRV.{question}{form}")))
    });
    all.collect()
}

/// What a client publishes to when it looks for services of that name; `None` for those of all
/// names.
#[must_use]
pub fn discovering(name: Option<&str>) -> Vec<Needed> {
    let forms = match name {
        Some(name) => vec![format!(".{name}"), format!(".{name}.*")],
        None => vec![String::new(), ".*".to_owned(), ".*.*".to_owned()],
    };
    let all = SERVICE_QUESTIONS.iter().flat_map(|(question, _)| {
        forms.iter().map(move |form| ("find services", format!("$SRV.{question}{form}")))
    });
    all.collect()
}

/// What a client publishes to when it replays a stream, or the subjects of it that match a filter:
/// with ordered and ephemeral consumers, which it makes, and by getting single messages.
///
/// Without a filter, the body may choose subjects. `bare` adds the creation of consumers without a
/// name: the body may then name any consumer, too, so there must be none but those of replays.
///
/// Its names leave every other consumer of the stream in reach: see [`reaching`]. The older form
/// of acknowledgements and of flow control is given in its exact length. With `>`, it would stand
/// for the newer form of every stream, in a JetStream domain of this stream's name.
#[must_use]
pub fn replaying(stream: &str, filter: Option<&str>, bare: bool) -> Vec<Needed> {
    const GET: &str = "get a message";
    let api = |purpose, subject: String| (purpose, format!("{API}{subject}"));
    let [make, next, last] = replaying_with(stream, "*", filter);
    let mut needed = vec![
        api("open the stream", format!("STREAM.INFO.{stream}")),
        make,
        api("check a consumer", format!("CONSUMER.INFO.{stream}.*")),
        next,
        api("end a consumer", format!("CONSUMER.DELETE.{stream}.*")),
        last,
    ];
    if filter.is_none() {
        needed.extend([
            api(MAKE_ONE, format!("CONSUMER.CREATE.{stream}.*")),
            api(GET, format!("DIRECT.GET.{stream}")),
            api(GET, format!("STREAM.MSG.GET.{stream}")),
        ]);
    }
    if filter.is_none() && bare {
        needed.push(api(MAKE_ONE, format!("CONSUMER.CREATE.{stream}")));
    }
    needed.extend([
        ("acknowledge", format!("$JS.ACK.{stream}.*.*.*.*.*.*")),
        ("acknowledge", format!("$JS.ACK.*.*.{stream}.*.>")),
        ("flow control of a consumer", format!("{FLOW}{stream}.*.*")),
        ("flow control of a consumer", format!("{FLOW}*.*.{stream}.>")),
    ]);
    needed
}

const MAKE_ONE: &str = "make a consumer";

/// What reads messages of that: a consumer of this name, which it makes, and a get.
#[must_use]
pub fn replaying_with(stream: &str, consumer: &str, filter: Option<&str>) -> [Needed; 3] {
    let within = filter.unwrap_or(">");
    [
        (MAKE_ONE, format!("{API}CONSUMER.CREATE.{stream}.{consumer}.{within}")),
        ("ask for the next messages", format!("{API}CONSUMER.MSG.NEXT.{stream}.{consumer}")),
        ("get a subject's last message", format!("{API}DIRECT.GET.{stream}.{within}")),
    ]
}

/// What else it publishes to when it makes the consumer, with that filter or for all of the stream.
/// Without a filter, the body may choose one. Old libraries have a request of their own for that.
#[must_use]
pub fn making(stream: &str, consumer: &str, filter: Option<&str>) -> Vec<Needed> {
    const MAKE: &str = "make the consumer";
    let create = format!("{API}CONSUMER.CREATE.{stream}.{consumer}");
    match filter {
        Some(filter) => vec![(MAKE, format!("{create}.{filter}"))],
        None => vec![(MAKE, create), (MAKE, durable_create(stream, consumer))],
    }
}

/// How old libraries make a durable consumer.
#[must_use]
pub fn durable_create(stream: &str, consumer: &str) -> String {
    format!("{API}{DURABLE_CREATE}{stream}.{consumer}")
}

const DURABLE_CREATE: &str = "CONSUMER.DURABLE.CREATE.";

/// Whose a consumer is, for a service that replays its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Another service's, or nobody's.
    Anothers,
    /// Its own, made by `state apply`.
    Used,
    /// Its own, and it makes it.
    Made,
}

/// All by which one consumer is reached: what who replays its stream is denied. Of a consumer that
/// the service itself uses, only what makes, changes or deletes it.
///
/// A name in the subject of a request is the name of the consumer: nats-server refuses another one
/// in the body (error 10017).
#[must_use]
pub fn reaching(stream: &str, consumer: &str, whose: Reach) -> Vec<String> {
    let create = format!("{API}CONSUMER.CREATE.{stream}.{consumer}");
    let delete = format!("{API}CONSUMER.DELETE.{stream}.{consumer}");
    match whose {
        Reach::Made => return vec![delete],
        Reach::Used => return vec![format!("{create}.>"), create, delete],
        Reach::Anothers => {}
    }
    vec![
        // Create, information, delete, and what newer servers have beside them.
        format!("{API}CONSUMER.*.{stream}.{consumer}"),
        format!("{create}.>"),
        format!("{API}CONSUMER.MSG.NEXT.{stream}.{consumer}"),
        format!("$JS.ACK.{stream}.{consumer}.>"),
        format!("$JS.ACK.*.*.{stream}.{consumer}.>"),
        format!("{FLOW}{stream}.{consumer}.>"),
        format!("{FLOW}*.*.{stream}.{consumer}.>"),
    ]
}

/// What a client publishes to when it writes a keyspace.
#[must_use]
pub fn writing(keyspace: &Keyspace) -> Vec<Needed> {
    let put = ("put, create, update, delete, purge", keyspace.subjects());
    [put].into_iter().chain(requests(&WRITING, keyspace)).collect()
}

/// The prefix of a service's private inbox, for its client to set.
#[must_use]
pub fn inbox_prefix(service: &str) -> String {
    format!("_INBOX.{service}")
}

/// Whose inbox a subject is in: the second token, which is a service's name where there is a
/// service of that name. `None` for what no service's inbox holds.
#[must_use]
pub fn inbox_owner(subject: &str) -> Option<&str> {
    let (service, rest) = subject.strip_prefix("_INBOX.")?.split_once('.')?;
    (!service.is_empty() && !rest.is_empty()).then_some(service)
}

/// Whether a subject is in an inbox: the only place where an answer belongs.
///
/// Whoever asks chooses the reply subject, and the answer is published with the right of who
/// answers: an owner that answers on `$KV.orders.1` writes its own keyspace for a stranger.
#[must_use]
pub fn is_inbox(subject: &str) -> bool {
    let wild = |token: &str| token.is_empty() || token == "*" || token == ">";
    subject.strip_prefix("_INBOX.").is_some_and(|rest| !rest.split('.').any(wild))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_goes_to_an_inbox_or_nowhere() {
        assert!(is_inbox("_INBOX.billing.abc"));
        assert!(is_inbox("_INBOX.abc"));
        for other in [
            "",
            "_INBOX",
            "_INBOX.",
            "_INBOX.a.",
            "_INBOX.a..b",
            "_INBOX.>",
            "_INBOX.a.*",
            "_INBOXES.a",
            "$KV.orders.1",
            "$JS.API.STREAM.PURGE.KV_orders",
            "a._INBOX.b",
        ] {
            assert!(!is_inbox(other), "{other}");
        }
    }
}
