//! What a client was about that used a subject.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{API, Api, FLOW, Form, KV, Operation, PUSHED, READING, STORE_STREAM, STREAM, WRITING};
use crate::keyspace::{BucketName, Keyspace};

const ACK: &str = "$JS.ACK.";
const OBJECTS: &str = "$O.";
const DISCOVERY: &str = "$SRV";

/// What stands before an object store's name in a policy's `owns` and `reads`.
pub const STORE_PREFIX: &str = "store:";

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

/// What a subject is about. Names of keys, streams and consumers are a client's own words: not
/// checked to be any.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Keys of a bucket.
    Keys {
        /// The bucket.
        bucket: BucketName,
        /// The key or key pattern as the client wrote it; `None` for the whole bucket.
        keys: Option<String>,
    },
    /// An object store.
    Store(BucketName),
    /// A stream that is neither.
    Stream {
        /// The stream.
        stream: String,
        /// The consumer of it, where the subject names one.
        consumer: Option<String>,
        /// The subject of it, where the subject names one.
        subject: Option<String>,
    },
    /// A service by the name that others find it by.
    Found(String),
}

impl fmt::Display for Target {
    /// As a policy writes it: `orders/k1`, `store:invoices`, `EVENTS/shipping`,
    /// `EVENTS/events.orders.>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys { bucket, keys: Some(keys) } => write!(f, "{bucket}/{keys}"),
            Self::Keys { bucket, keys: None } => write!(f, "{bucket}"),
            Self::Store(store) => write!(f, "{STORE_PREFIX}{store}"),
            Self::Stream { stream, consumer: Some(part), .. }
            | Self::Stream { stream, consumer: None, subject: Some(part) } => {
                write!(f, "{stream}/{part}")
            }
            Self::Stream { stream, .. } => f.write_str(stream),
            Self::Found(name) => f.write_str(name),
        }
    }
}

impl Target {
    /// Keys of a bucket; all of them without a key pattern.
    #[must_use]
    pub fn keys(bucket: BucketName, keys: Option<&str>) -> Self {
        Self::Keys { bucket, keys: keys.filter(|keys| *keys != ">").map(ToOwned::to_owned) }
    }

    /// The keys as a keyspace. What is no key is taken for the whole bucket: the owner of a bucket
    /// is right to be told of everything in it.
    #[must_use]
    pub fn keyspace(&self) -> Option<Keyspace> {
        let Self::Keys { bucket, .. } = self else { return None };
        let whole = |_| Keyspace::whole(bucket.clone());
        Some(Keyspace::parse(&self.to_string()).unwrap_or_else(whole))
    }

    /// Of a bucket's keys, by their names.
    fn named(bucket: &str, keys: Option<&str>) -> Option<Self> {
        Some(Self::keys(BucketName::parse(bucket).ok()?, keys))
    }

    fn store(name: &str) -> Option<Self> {
        BucketName::parse(name).ok().map(Self::Store)
    }

    /// Of a stream, whatever it holds.
    fn stream(name: &str, consumer: Option<&str>, subject: Option<&str>) -> Option<Self> {
        if let Some(bucket) = name.strip_prefix(STREAM) {
            return Self::named(bucket, None);
        }
        if let Some(store) = name.strip_prefix(STORE_STREAM) {
            return Self::store(store);
        }
        let owned = |text: Option<&str>| text.filter(|t| !t.is_empty()).map(ToOwned::to_owned);
        (!name.is_empty()).then(|| Self::Stream {
            stream: name.to_owned(),
            consumer: owned(consumer),
            subject: owned(subject),
        })
    }

    /// Of `$KV.<bucket>.<keys>`.
    fn of_keys(subject: &str) -> Option<Self> {
        let (bucket, keys) = subject.strip_prefix(KV)?.split_once('.')?;
        Self::named(bucket, Some(keys))
    }

    /// Of `$O.<store>.…`.
    fn of_objects(subject: &str) -> Option<Self> {
        Self::store(subject.strip_prefix(OBJECTS)?.split_once('.')?.0)
    }

    /// Of an acknowledgement, in either form: see [`super::consuming`]. The older has nine tokens,
    /// and the newer eleven or twelve.
    fn of_ack(subject: &str) -> Option<Self> {
        let tokens: Vec<&str> = subject.strip_prefix(ACK)?.split('.').collect();
        let is_pattern = matches!(tokens.as_slice(), ["*", "*", ..]);
        match tokens.as_slice() {
            [_, _, stream, consumer, rest @ ..] if rest.len() >= 5 || is_pattern => {
                Self::stream(stream, Some(consumer), None)
            }
            [stream, consumer, ..] => Self::stream(stream, Some(consumer), None),
            _ => None,
        }
    }

    /// Of `$SRV.<verb>.<name>` and `$SRV.<verb>.<name>.<id>`.
    fn of_discovery(subject: &str) -> Option<Self> {
        let name = discovery(subject)?.split('.').nth(1)?;
        (!name.is_empty()).then(|| Self::Found(name.to_owned()))
    }

    /// Of what a declared push consumer delivers to: see [`super::pushed_to`].
    fn of_push(subject: &str) -> Option<Self> {
        let mut tokens = subject.strip_prefix(PUSHED)?.split('.');
        Self::stream(tokens.next()?, tokens.next(), None)
    }

    /// Of flow control: see [`super::flow_control`].
    fn of_flow(subject: &str) -> Option<Self> {
        let tokens: Vec<&str> = subject.strip_prefix(FLOW)?.splitn(6, '.').collect();
        match tokens.as_slice() {
            [_, _, stream, consumer, _] | [stream, consumer, _] => {
                Self::stream(stream, Some(consumer), None)
            }
            [stream, ..] if stream.starts_with(STREAM) => Self::stream(stream, None, None),
            _ => None,
        }
    }
}

/// What follows `$SRV`, or nothing.
fn discovery(subject: &str) -> Option<&str> {
    let rest = subject.strip_prefix(DISCOVERY)?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix('.') }
}

/// What follows `$JS.<token>.API.`, the API in another account or domain: what it keeps is not ours.
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
        let kept = Target::of_keys(subject).or_else(|| Target::of_objects(subject));
        match act {
            Act::Reply => plain(Operation::Reply, kept.or_else(|| Target::of_ack(subject))),
            Act::Subscribe => {
                let kept = kept.or_else(|| Target::of_discovery(subject));
                plain(Operation::Subscribe, kept.or_else(|| Target::of_push(subject)))
            }
            Act::Publish => {
                if kept.is_some() {
                    plain(Operation::Write, kept)
                } else if let Some(rest) = subject.strip_prefix(API) {
                    Self::request(rest)
                } else if let Some(rest) = elsewhere(subject) {
                    Self { target: None, ..Self::request(rest) }
                } else if subject.starts_with(FLOW) {
                    let target = Target::of_flow(subject);
                    let replays = matches!(target, Some(Target::Stream { .. }));
                    plain(if replays { Operation::Replay } else { Operation::Watch }, target)
                } else if subject.starts_with(ACK) {
                    plain(Operation::Ack, Target::of_ack(subject))
                } else if discovery(subject).is_some() {
                    plain(Operation::Find, Target::of_discovery(subject))
                } else {
                    plain(Operation::Publish, None)
                }
            }
        }
    }

    /// Of a subject of the JetStream API, from behind `$JS.API.`.
    fn request(rest: &str) -> Self {
        let is_plain = |name: &str| !name.starts_with(STREAM) && !name.starts_with(STORE_STREAM);
        let known = STREAMS.iter().find_map(|(name, operation)| {
            let (stream, tail) = after(rest, name)?;
            is_plain(stream).then_some((*name, *operation, stream, tail))
        });
        let Some((name, operation, stream, tail)) = known else { return Self::of_bucket(rest) };
        let (consumer, subject) = if name.starts_with("CONSUMER.") {
            tail.split_once('.').map_or((tail, ""), |found| found)
        } else {
            ("", tail)
        };
        Self { operation, target: Target::stream(stream, Some(consumer), Some(subject)) }
    }

    /// Of a request about a bucket or an object store, which is a bucket of objects; or about
    /// nothing that is known.
    fn of_bucket(rest: &str) -> Self {
        let known = READING.iter().chain(&WRITING).filter_map(|api| {
            let (stream, tail) = after(rest, api.name)?;
            // An exact form first: it says which keys.
            Some((keys(api.form, stream, tail), api, stream))
        });
        match known.max_by_key(|(keys, ..)| keys.is_some()) {
            Some((keys, Api { operation, .. }, stream)) => {
                let target = keys.unwrap_or_else(|| Target::stream(stream, None, None));
                Self { operation: *operation, target }
            }
            None => Self { operation: Operation::Administer, target: anywhere(rest) },
        }
    }
}

/// What each request about a stream does, when the stream is no bucket and no object store.
const STREAMS: [(&str, Operation); 23] = [
    ("STREAM.INFO", Operation::Open),
    ("STREAM.MSG.GET", Operation::Replay),
    ("DIRECT.GET", Operation::Replay),
    ("STREAM.PURGE", Operation::Purge),
    ("CONSUMER.CREATE", Operation::Replay),
    ("CONSUMER.INFO", Operation::Consume),
    ("CONSUMER.MSG.NEXT", Operation::Consume),
    ("CONSUMER.DELETE", Operation::Administer),
    ("CONSUMER.DURABLE.CREATE", Operation::Administer),
    ("CONSUMER.PAUSE", Operation::Administer),
    ("CONSUMER.RESET", Operation::Administer),
    ("CONSUMER.UNPIN", Operation::Administer),
    ("CONSUMER.LEADER.STEPDOWN", Operation::Administer),
    ("CONSUMER.LIST", Operation::Administer),
    ("CONSUMER.NAMES", Operation::Administer),
    ("STREAM.CREATE", Operation::Administer),
    ("STREAM.UPDATE", Operation::Administer),
    ("STREAM.DELETE", Operation::Administer),
    ("STREAM.MSG.DELETE", Operation::Administer),
    ("STREAM.SNAPSHOT", Operation::Administer),
    ("STREAM.RESTORE", Operation::Administer),
    ("STREAM.LEADER.STEPDOWN", Operation::Administer),
    ("STREAM.PEER.REMOVE", Operation::Administer),
];

/// The stream's token and what follows it, when `rest` is a request of that name.
fn after<'a>(rest: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let rest = rest.strip_prefix(name)?.strip_prefix('.')?;
    Some(rest.split_once('.').unwrap_or((rest, "")))
}

/// The first bucket or object store that is named.
fn anywhere(rest: &str) -> Option<Target> {
    let kept = |token: &&str| token.starts_with(STREAM) || token.starts_with(STORE_STREAM);
    rest.split('.').filter(kept).find_map(|token| Target::stream(token, None, None))
}

/// What a request of that form is about; the outer `None` says that it has another form.
#[allow(clippy::option_option)]
fn keys(form: Form, stream: &str, tail: &str) -> Option<Option<Target>> {
    let whole = || Target::stream(stream, None, None);
    match form {
        Form::Stream => tail.is_empty().then(whole),
        Form::Consumer => (!tail.is_empty() && !tail.contains('.')).then(whole),
        Form::Keys => tail.starts_with(KV).then(|| Target::of_keys(tail)),
        Form::ConsumerKeys => {
            let (_, keys) = tail.split_once('.')?;
            keys.starts_with(KV).then(|| Target::of_keys(keys))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv_operation::{
        READING_STORES, consuming, reading, reading_store, writing, writing_store,
    };

    fn usage(act: Act, subject: &str) -> String {
        let Usage { operation, target } = Usage::of(act, subject);
        target.map_or_else(|| operation.to_string(), |target| format!("{operation} {target}"))
    }

    #[test]
    fn what_a_push_consumer_delivers_to_tells_the_consumer() {
        for sent in ["_INBOX.$push.EVENTS.alerts.0123", "_INBOX.$push.EVENTS.alerts.*"] {
            assert_eq!(usage(Act::Subscribe, sent), "subscribe EVENTS/alerts");
            assert_eq!(usage(Act::Publish, sent), "publish");
        }
        assert_eq!(usage(Act::Subscribe, "_INBOX.$push."), "subscribe");
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
            ("$JS.AUDIT.API.STREAM.INFO.AUDIT_EVENTS", "open"),
            ("$JS.AUDIT.API.CONSUMER.CREATE.AUDIT_EVENTS", "replay"),
            ("$JS.AUDIT.API.STREAM.DELETE.KV_orders", "administer"),
            ("$JS.API.INFO", "administer"),
            ("$JS.ACK.EVENTS.shipping.1.7.7.1795919999000000000.0", "ack EVENTS/shipping"),
            ("$JS.ACK._.ACtJ5Xr0.EVENTS.shipping.1.7.7.1795919999.0", "ack EVENTS/shipping"),
            ("$JS.ACK.hub.ACtJ5Xr0.EVENTS.shipping.1.7.7.1795919999.0.x", "ack EVENTS/shipping"),
            ("$JS.ACK.EVENTS.shipping.>", "ack EVENTS/shipping"),
            ("$JS.ACK.*.*.EVENTS.shipping.>", "ack EVENTS/shipping"),
            ("$JS.ACK.EVENTS.shipping", "ack EVENTS/shipping"),
            ("$JS.ACK.KV_orders.x.1.7.7.1795919999.0", "ack orders"),
            ("$JS.ACK.OBJ_invoices.x.1.7.7.1795919999.0", "ack store:invoices"),
            ("$JS.ACK.x", "ack"),
            ("$JS.ACK..", "ack"),
            ("$JS.API.CONSUMER.MSG.NEXT.EVENTS.shipping", "consume EVENTS/shipping"),
            ("$JS.API.CONSUMER.INFO.EVENTS.shipping", "consume EVENTS/shipping"),
            ("$JS.API.CONSUMER.DELETE.EVENTS.shipping", "administer EVENTS/shipping"),
            ("$JS.API.CONSUMER.PAUSE.EVENTS.shipping", "administer EVENTS/shipping"),
            ("$JS.API.CONSUMER.UNPIN.EVENTS.shipping", "administer EVENTS/shipping"),
            ("$JS.API.CONSUMER.RESET.EVENTS.shipping", "administer EVENTS/shipping"),
            ("$JS.API.CONSUMER.LEADER.STEPDOWN.EVENTS.shipping", "administer EVENTS/shipping"),
            ("$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.shipping", "administer EVENTS/shipping"),
            ("$JS.API.CONSUMER.CREATE.EVENTS", "replay EVENTS"),
            ("$JS.API.CONSUMER.CREATE.EVENTS.x", "replay EVENTS/x"),
            ("$JS.API.CONSUMER.CREATE.EVENTS.x.events.orders.>", "replay EVENTS/x"),
            ("$JS.API.CONSUMER.CREATE.EVENTS.KV_orders.>", "replay EVENTS/KV_orders"),
            ("$JS.API.CONSUMER.NAMES.EVENTS", "administer EVENTS"),
            ("$JS.API.STREAM.CREATE.EVENTS", "administer EVENTS"),
            ("$JS.API.STREAM.INFO.EVENTS", "open EVENTS"),
            ("$JS.API.STREAM.MSG.GET.EVENTS", "replay EVENTS"),
            ("$JS.API.STREAM.MSG.DELETE.EVENTS", "administer EVENTS"),
            ("$JS.API.DIRECT.GET.EVENTS", "replay EVENTS"),
            ("$JS.API.DIRECT.GET.EVENTS.events.orders.new", "replay EVENTS/events.orders.new"),
            ("$JS.API.STREAM.PURGE.EVENTS", "purge EVENTS"),
            ("$JS.API.STREAM.LEADER.STEPDOWN.EVENTS", "administer EVENTS"),
            ("$JS.API.STREAM.NAMES", "administer"),
            ("$JS.API.STREAM.NOVELTY.EVENTS", "administer"),
            ("$JS.API.STREAM.INFO.", "open"),
            ("$JS.API.STREAM.INFO", "administer"),
            ("$JS.FC.EVENTS.abc.1", "replay EVENTS/abc"),
            ("$JS.FC._.ACtJ5Xr0.EVENTS.abc.1", "replay EVENTS/abc"),
            ("$O.invoices.C.abc", "write store:invoices"),
            ("$O.invoices.M.YQ==", "write store:invoices"),
            ("$O.invoices", "publish"),
            ("$O.in voices.C.a", "publish"),
            ("$JS.API.STREAM.INFO.OBJ_invoices", "open store:invoices"),
            ("$JS.API.STREAM.PURGE.OBJ_invoices", "purge store:invoices"),
            ("$JS.API.STREAM.MSG.GET.OBJ_invoices", "get store:invoices"),
            ("$JS.API.DIRECT.GET.OBJ_invoices.$O.invoices.M.YQ==", "get store:invoices"),
            ("$JS.API.CONSUMER.CREATE.OBJ_invoices", "watch store:invoices"),
            ("$JS.API.CONSUMER.CREATE.OBJ_invoices.x.$O.invoices.M.>", "watch store:invoices"),
            ("$JS.API.CONSUMER.DELETE.OBJ_invoices.x", "watch store:invoices"),
            ("$JS.API.STREAM.UPDATE.OBJ_invoices", "administer store:invoices"),
            ("$SRV", "find"),
            ("$SRV.PING", "find"),
            ("$SRV.INFO.quotes-api", "find quotes-api"),
            ("$SRV.STATS.quotes-api.Xy1", "find quotes-api"),
            ("$SRVS.INFO.x", "publish"),
            ("events.orders.new", "publish"),
            ("", "publish"),
        ] {
            assert_eq!(usage(Act::Publish, subject), expected, "{subject}");
        }
        assert_eq!(usage(Act::Subscribe, "$KV.orders.>"), "subscribe orders");
        assert_eq!(usage(Act::Subscribe, "_INBOX.billing.>"), "subscribe");
        assert_eq!(usage(Act::Subscribe, "$O.invoices.>"), "subscribe store:invoices");
        assert_eq!(usage(Act::Subscribe, "$SRV.INFO.quotes-api"), "subscribe quotes-api");
        assert_eq!(usage(Act::Reply, "$JS.ACK.x"), "reply");
        assert_eq!(usage(Act::Reply, "$JS.ACK.EVENTS.shipping.1.7.7.1.0"), "reply EVENTS/shipping");
        assert_eq!(usage(Act::Reply, "$KV.orders.1"), "reply orders/1");
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
                let target = target.unwrap().keyspace().unwrap();
                assert_eq!(target.bucket(), keyspace.bucket(), "{pattern}");
                if pattern.contains("$KV.") {
                    assert!(target.is_within(&keyspace), "{pattern}: {target}");
                }
            }
        }
    }

    /// So is each that a store and a consumer need.
    #[test]
    fn what_stores_and_consumers_need_is_understood() {
        let of = |pattern: &str| {
            let tail = if pattern.starts_with(ACK) { ".1.2.3.4.5" } else { ".a.b" };
            let subject = pattern.replace('*', "x").replace(".>", tail);
            Usage::of(Act::Publish, &subject)
        };
        let store = Some(Target::Store(BucketName::parse("invoices").unwrap()));
        for (purpose, pattern) in reading_store("invoices") {
            let Usage { operation, target } = of(&pattern);
            if READING_STORES.contains(&&*pattern) {
                assert_eq!((operation, target), (Operation::Administer, None), "{pattern}");
                continue;
            }
            let reads = [Operation::Open, Operation::Get, Operation::Watch].contains(&operation);
            assert!(reads, "{pattern} ({purpose}): {operation}");
            assert_eq!(target, store, "{pattern}");
        }
        for (purpose, pattern) in writing_store("invoices") {
            let Usage { operation, target } = of(&pattern);
            let writes = [Operation::Write, Operation::Purge].contains(&operation);
            assert!(writes, "{pattern} ({purpose}): {operation}");
            assert_eq!(target, store, "{pattern}");
        }
        for (purpose, pattern) in consuming("EVENTS", "shipping") {
            let Usage { operation, target } = of(&pattern);
            let expected =
                if purpose == "acknowledge" { Operation::Ack } else { Operation::Consume };
            assert_eq!(operation, expected, "{pattern}");
            assert_eq!(target.unwrap().to_string(), "EVENTS/shipping", "{pattern}");
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
