//! KV operations and the subjects that they use, in both directions: what an operation needs
//! ([`reading`], [`writing`]), and what a client was about that used a subject ([`Usage::of`]).
//!
//! Source: nats-server's JetStream API and KV (ADR-8 of nats-architecture-and-design), and what
//! async-nats, nats.go, nats.js and nats.py were seen to send (`docs/clients.md`). Both directions
//! read one table, so they cannot come apart.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::keyspace::{BucketName, Keyspace};

/// What a client does with a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Puts, creates, updates, deletes or purges a key: one publish, told apart by its headers.
    Write,
    /// Removes the delete markers of a bucket.
    Purge,
    /// Reads values.
    Get,
    /// Watches keys, or lists them, or reads their history: a consumer.
    Watch,
    /// Opens a bucket.
    Open,
    /// Anything else of the JetStream API: creates, changes, deletes or lists streams.
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

const API: &str = "$JS.API.";
const FLOW: &str = "$JS.FC.";
const KV: &str = "$KV.";
const STREAM: &str = "KV_";

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
    let stream = format!("OBJ_{store}");
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
        ("remove an object's content", format!("{API}STREAM.PURGE.OBJ_{store}")),
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
    [
        ("check the consumer", format!("{API}CONSUMER.INFO.{stream}.{consumer}")),
        ("ask for the next messages", format!("{API}CONSUMER.MSG.NEXT.{stream}.{consumer}")),
        ("acknowledge", format!("$JS.ACK.{stream}.{consumer}.>")),
        ("acknowledge", format!("$JS.ACK.*.*.{stream}.{consumer}.>")),
    ]
}

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

/// What nats-server refused: how the client used the subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// Published to it.
    Publish,
    /// Subscribed to it.
    Subscribe,
    /// Named it as the reply subject of a publish.
    Reply,
}

/// The keys of a bucket that a subject is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The bucket.
    pub bucket: BucketName,
    /// The key or key pattern as the client wrote it; `None` for the whole bucket. A client's own
    /// words: not checked to be a key.
    pub keys: Option<String>,
}

impl fmt::Display for Target {
    /// As a keyspace is written: `orders/k1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.keys {
            Some(keys) => write!(f, "{}/{keys}", self.bucket),
            None => write!(f, "{}", self.bucket),
        }
    }
}

impl Target {
    fn new(bucket: &str, keys: Option<&str>) -> Option<Self> {
        let keys = keys.filter(|keys| *keys != ">").map(ToOwned::to_owned);
        Some(Self { bucket: BucketName::parse(bucket).ok()?, keys })
    }

    /// Of `KV_<bucket>`.
    fn stream(stream: &str) -> Option<Self> {
        Self::new(stream.strip_prefix(STREAM)?, None)
    }

    /// Of `$KV.<bucket>.<keys>`.
    fn subject(subject: &str) -> Option<Self> {
        let (bucket, keys) = subject.strip_prefix(KV)?.split_once('.')?;
        Self::new(bucket, Some(keys))
    }

    /// The target as a keyspace. What is no key is taken for the whole bucket: the owner of a
    /// bucket is right to be told of everything in it.
    #[must_use]
    pub fn keyspace(&self) -> Keyspace {
        Keyspace::parse(&self.to_string()).unwrap_or_else(|_| Keyspace::whole(self.bucket.clone()))
    }
}

/// What follows `$JS.<token>.API.`, the API in another account or domain: its buckets are not ours.
fn elsewhere(subject: &str) -> Option<&str> {
    subject.strip_prefix("$JS.")?.split_once('.')?.1.strip_prefix("API.")
}

/// What a client was about, from the subject that it used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The operation.
    pub operation: Operation,
    /// What it is about; `None` for plain subjects.
    pub target: Option<Target>,
}

impl Usage {
    /// Reads it off a subject, which may be anything that a client sent.
    #[must_use]
    pub fn of(act: Act, subject: &str) -> Self {
        let plain = |operation, target| Self { operation, target };
        match act {
            Act::Reply => plain(Operation::Reply, Target::subject(subject)),
            Act::Subscribe => plain(Operation::Subscribe, Target::subject(subject)),
            Act::Publish => {
                if let Some(target) = Target::subject(subject) {
                    plain(Operation::Write, Some(target))
                } else if let Some(rest) = subject.strip_prefix(API) {
                    Self::request(rest)
                } else if let Some(rest) = elsewhere(subject) {
                    Self { target: None, ..Self::request(rest) }
                } else if let Some(rest) = subject.strip_prefix(FLOW) {
                    plain(Operation::Watch, Self::flow(rest))
                } else {
                    plain(Operation::Publish, None)
                }
            }
        }
    }

    /// Of a subject of flow control, from behind `$JS.FC.`: see [`flow_control`].
    fn flow(rest: &str) -> Option<Target> {
        let tokens: Vec<&str> = rest.splitn(6, '.').collect();
        match tokens.as_slice() {
            [_, _, stream, _, _] | [stream, ..] => Target::stream(stream),
            [] => None,
        }
    }

    /// Of a subject of the JetStream API, from behind `$JS.API.`.
    fn request(rest: &str) -> Self {
        let known = READING.iter().chain(&WRITING).filter_map(|api| {
            let (stream, tail) = after(rest, api.name)?;
            // An exact form first: it says which keys.
            Some((keys(api.form, stream, tail), api, stream))
        });
        match known.max_by_key(|(keys, ..)| keys.is_some()) {
            Some((keys, api, stream)) => {
                let target = keys.unwrap_or_else(|| Target::stream(stream));
                Self { operation: api.operation, target }
            }
            None => Self {
                operation: Operation::Administer,
                target: rest.split('.').find_map(Target::stream),
            },
        }
    }
}

/// The stream's token and what follows it, when `rest` is a request of that name.
fn after<'a>(rest: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let rest = rest.strip_prefix(name)?.strip_prefix('.')?;
    Some(rest.split_once('.').unwrap_or((rest, "")))
}

/// What a request of that form is about; the outer `None` says that it has another form.
#[allow(clippy::option_option)]
fn keys(form: Form, stream: &str, tail: &str) -> Option<Option<Target>> {
    match form {
        Form::Stream => tail.is_empty().then(|| Target::stream(stream)),
        Form::Consumer => (!tail.is_empty() && !tail.contains('.')).then(|| Target::stream(stream)),
        Form::Keys => tail.starts_with(KV).then(|| Target::subject(tail)),
        Form::ConsumerKeys => {
            let (_, keys) = tail.split_once('.')?;
            keys.starts_with(KV).then(|| Target::subject(keys))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(act: Act, subject: &str) -> String {
        let Usage { operation, target } = Usage::of(act, subject);
        target.map_or_else(|| operation.to_string(), |target| format!("{operation} {target}"))
    }

    #[test]
    fn each_subject_tells_what_it_is_for() {
        for (subject, expected) in [
            ("$KV.orders.k1", "write orders/k1"),
            ("$KV.orders.a.b", "write orders/a.b"),
            ("$KV.orders.>", "write orders"),
            ("$KV.orders", "publish"),
            ("$KV.or ders.a", "publish"),
            ("$JS.API.STREAM.INFO.KV_orders", "open orders"),
            ("$JS.API.DIRECT.GET.KV_orders.$KV.orders.k1", "get orders/k1"),
            ("$JS.API.DIRECT.GET.KV_orders", "get orders"),
            ("$JS.API.STREAM.MSG.GET.KV_orders", "get orders"),
            ("$JS.API.CONSUMER.CREATE.KV_orders", "watch orders"),
            ("$JS.API.CONSUMER.CREATE.KV_orders.abc", "watch orders"),
            ("$JS.API.CONSUMER.CREATE.KV_orders.abc.$KV.orders.line.>", "watch orders/line.>"),
            ("$JS.API.CONSUMER.CREATE.KV_orders.abc.else.where", "watch orders"),
            ("$JS.API.CONSUMER.INFO.KV_orders.abc", "watch orders"),
            ("$JS.API.CONSUMER.DELETE.KV_orders.abc", "watch orders"),
            ("$JS.FC.KV_orders.abc.1", "watch orders"),
            ("$JS.FC._.ACtJ5Xr0.KV_orders.abc.1", "watch orders"),
            ("$JS.FC.hub.ACtJ5Xr0.KV_orders.abc.1", "watch orders"),
            ("$JS.FC.KV_a.b.KV_orders.abc.1", "watch orders"),
            ("$JS.FC.KV_orders.b.c.d", "watch orders"),
            ("$JS.FC._.a.KV_orders.b.c.d", "watch"),
            ("$JS.FC._", "watch"),
            ("$JS.API.STREAM.PURGE.KV_orders", "purge orders"),
            ("$JS.API.STREAM.DELETE.KV_orders", "administer orders"),
            ("$JS.API.CONSUMER.DURABLE.CREATE.KV_orders.x", "administer orders"),
            ("$JS.API.STREAM.CREATE.EVENTS", "administer"),
            ("$JS.API.STREAM.INFO.EVENTS", "open"),
            ("$JS.AUDIT.API.STREAM.INFO.AUDIT_EVENTS", "open"),
            ("$JS.AUDIT.API.CONSUMER.CREATE.AUDIT_EVENTS", "watch"),
            ("$JS.AUDIT.API.STREAM.DELETE.KV_orders", "administer"),
            ("$JS.API.INFO", "administer"),
            ("events.orders.new", "publish"),
            ("", "publish"),
        ] {
            assert_eq!(usage(Act::Publish, subject), expected, "{subject}");
        }
        assert_eq!(usage(Act::Subscribe, "$KV.orders.>"), "subscribe orders");
        assert_eq!(usage(Act::Subscribe, "_INBOX.billing.>"), "subscribe");
        assert_eq!(usage(Act::Reply, "$JS.ACK.x"), "reply");
    }

    /// Each subject that a keyspace needs is understood as an operation on that keyspace.
    #[test]
    fn what_reading_and_writing_need_is_understood() {
        for text in ["orders", "orders/line.>", "orders/*.eur", "orders/k1"] {
            let keyspace = Keyspace::parse(text).unwrap();
            for (purpose, pattern) in reading(&keyspace).into_iter().chain(writing(&keyspace)) {
                let subject = pattern.replace('*', "x").replace(".>", ".a.b");
                let Usage { operation, target } = Usage::of(Act::Publish, &subject);
                let is_write = matches!(operation, Operation::Write | Operation::Purge);
                let wrote = writing(&keyspace).contains(&(purpose, pattern.clone()));
                assert_eq!(is_write, wrote, "{pattern}: {operation}");
                assert_ne!(operation, Operation::Administer, "{pattern}");
                assert_ne!(operation, Operation::Publish, "{pattern}");
                let target = target.unwrap();
                assert_eq!(&target.bucket, keyspace.bucket(), "{pattern}");
                if pattern.contains("$KV.") {
                    assert!(target.keyspace().is_within(&keyspace), "{pattern}: {target}");
                }
            }
        }
    }

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

    proptest::proptest! {
        #[test]
        fn no_subject_is_too_strange(subject in "\\PC{0,60}", tail in "[a-zKV_$.*>]{0,40}") {
            for act in [Act::Publish, Act::Subscribe, Act::Reply] {
                let _ = Usage::of(act, &subject);
                if let Some(target) = Usage::of(act, &format!("$JS.API.{tail}")).target {
                    let _ = target.keyspace();
                }
            }
        }
    }
}
