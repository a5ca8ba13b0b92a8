//! What one deed shows of its service.

use std::collections::BTreeSet;
use std::fmt;

use solewriter_types::clean;
use solewriter_types::keyspace::BucketName;
use solewriter_types::kv_operation::{self, API, Operation, Target, Usage, is_inbox};

use super::names::is_made_up;
use crate::adoption::deed::Act;

/// One kind of thing that a service was seen to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fact {
    /// Writes keys of a bucket.
    Writes(BucketName),
    /// Removes the delete markers of a bucket.
    Purges(BucketName),
    /// Reads or watches keys of a bucket.
    Reads(BucketName),
    /// Opens a bucket.
    Opens(BucketName),
    /// Puts or deletes objects of a store.
    WritesStore(BucketName),
    /// Reads a store.
    ReadsStore(BucketName),
    /// Publishes, and waits for no answer.
    Publishes,
    /// Publishes with a reply subject: a request, or a message for a stream.
    Requests,
    /// Subscribes.
    Subscribes,
    /// Answered requests that it received.
    Answers,
    /// Asks a consumer that is there for messages.
    Pulls(String, String),
    /// Uses a consumer that is there in another way: looks at it, or is sent its messages.
    Consumes(String, String),
    /// Acknowledges messages of a consumer.
    Acks(String, String),
    /// Makes a consumer that stays, with these filters.
    Makes(String, String),
    /// Reads a stream with consumers of its own, or by single messages.
    Replays(String),
    /// Makes consumers without a name in the subject of the request.
    Unnamed(String),
    /// Looks at a stream.
    OpensStream(String),
    /// Is found by a name.
    Found(String),
    /// Hears what all services are asked.
    FoundByAll,
    /// Finds services of a name.
    Finds(String),
    /// Finds services of all names.
    FindsAll,
    /// Creates, changes, deletes or lists streams and consumers: the request, and what it is about.
    Manages(String, String),
    /// Acknowledges messages of a bucket or an object store.
    AcksKept(String),
    /// Uses JetStream's API of another domain or account.
    Elsewhere,
    /// Publishes to subjects of the server's own.
    PublishesSystem,
    /// Subscribes to subjects of the server's own, such as keys.
    SubscribesSystem,
    /// Subscribes to the inboxes of others.
    HearsInboxes,
    /// Publishes into inboxes that no request was seen to name.
    IntoInboxes,
    /// Names reply subjects that are no inboxes.
    OddReplies,
    /// More than is kept of one service.
    More,
}

impl fmt::Display for Fact {
    /// For people, after "it": `writes bucket orders`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |text: &str| clean::line(text).into_owned();
        match self {
            Self::Writes(bucket) => write!(f, "writes bucket {bucket}"),
            Self::Purges(bucket) => write!(f, "removes delete markers of bucket {bucket}"),
            Self::Reads(bucket) => write!(f, "reads bucket {bucket}"),
            Self::Opens(bucket) => write!(f, "opens bucket {bucket}"),
            Self::WritesStore(store) => write!(f, "writes object store {store}"),
            Self::ReadsStore(store) => write!(f, "reads object store {store}"),
            Self::Publishes => f.write_str("publishes"),
            Self::Requests => f.write_str("requests"),
            Self::Subscribes => f.write_str("subscribes"),
            Self::Answers => f.write_str("answers"),
            Self::Pulls(stream, name) => {
                write!(f, "asks consumer {} for messages", line(&both(stream, name)))
            }
            Self::Consumes(stream, name) => {
                write!(f, "uses consumer {}", line(&both(stream, name)))
            }
            Self::Acks(stream, name) => {
                write!(f, "acknowledges messages of consumer {}", line(&both(stream, name)))
            }
            Self::Makes(stream, name) => write!(f, "makes consumer {}", line(&both(stream, name))),
            Self::Replays(stream) => write!(f, "replays stream {}", line(stream)),
            Self::Unnamed(stream) => {
                write!(f, "makes consumers without a name in stream {}", line(stream))
            }
            Self::OpensStream(stream) => write!(f, "looks at stream {}", line(stream)),
            Self::Found(name) => write!(f, "is found as {}", line(name)),
            Self::FoundByAll => f.write_str("hears what all services are asked"),
            Self::Finds(name) => write!(f, "finds services called {}", line(name)),
            Self::FindsAll => f.write_str("finds all services"),
            Self::Manages(request, on) if on.is_empty() => write!(f, "asks {}", line(request)),
            Self::Manages(request, on) => write!(f, "asks {} of {}", line(request), line(on)),
            Self::AcksKept(of) => write!(f, "acknowledges messages of {of}"),
            Self::Elsewhere => f.write_str("uses JetStream of another domain or account"),
            Self::PublishesSystem => f.write_str("publishes to the server's own subjects"),
            Self::SubscribesSystem => f.write_str("subscribes to the server's own subjects"),
            Self::HearsInboxes => f.write_str("subscribes to inboxes of others"),
            Self::IntoInboxes => f.write_str("publishes into inboxes without a request"),
            Self::OddReplies => f.write_str("wants answers on subjects that are no inboxes"),
            Self::More => f.write_str("does more than is kept here"),
        }
    }
}

fn both(stream: &str, consumer: &str) -> String {
    format!("{stream}/{consumer}")
}

impl Fact {
    /// Whether its subjects are keys, without the bucket.
    pub(super) fn is_of_keys(&self) -> bool {
        matches!(self, Self::Writes(_) | Self::Reads(_))
    }

    /// The stream that it is about, if it is no bucket and no object store.
    #[must_use]
    pub fn stream(&self) -> Option<&str> {
        match self {
            Self::Pulls(stream, _)
            | Self::Consumes(stream, _)
            | Self::Acks(stream, _)
            | Self::Makes(stream, _)
            | Self::Replays(stream)
            | Self::Unnamed(stream)
            | Self::OpensStream(stream) => Some(stream),
            _ => None,
        }
    }

    /// The stream and the consumer that it is about.
    #[must_use]
    pub fn consumer(&self) -> Option<(&str, &str)> {
        match self {
            Self::Pulls(stream, name)
            | Self::Consumes(stream, name)
            | Self::Acks(stream, name)
            | Self::Makes(stream, name) => Some((stream, name)),
            _ => None,
        }
    }
}

/// The durable consumers that there are, by stream and name, where that is known.
pub type Durables = Option<BTreeSet<(String, String)>>;

/// A fact, and the subject, key or filter of it.
pub type Shown<'a> = (Fact, Option<&'a str>);

/// Everything.
const ALL: Option<&str> = Some(">");

/// Whether a subject is in an inbox, or is a pattern of inboxes.
#[must_use]
pub fn is_of_inboxes(subject: &str) -> bool {
    subject.starts_with("_INBOX.") || subject.starts_with("_R_.")
}

/// What a deed shows. Nothing for what a client is given, and for its own inbox; answers are found
/// out by [`super::Evidence`].
#[must_use]
pub fn facts<'a>(act: Act<'a>, durables: &Durables) -> Vec<Shown<'a>> {
    let made_up = |stream: &str, name: &str| match durables {
        Some(known) => !known.contains(&(stream.to_owned(), name.to_owned())),
        None => is_made_up(name),
    };
    match act {
        Act::Receive { .. } => Vec::new(),
        Act::Subscribe { subject, .. } => subscribed(subject).into_iter().collect(),
        Act::Publish { subject, reply } => {
            let mut all = published(subject, reply.is_some(), made_up);
            all.extend(reply.filter(|r| !is_of_inboxes(r)).map(|r| (Fact::OddReplies, Some(r))));
            all
        }
    }
}

fn subscribed(subject: &str) -> Option<Shown<'_>> {
    let usage = Usage::of(kv_operation::Act::Subscribe, subject);
    match usage.target {
        Some(Target::Stream { stream, consumer: Some(consumer), .. }) => {
            return Some((Fact::Consumes(stream, consumer), None));
        }
        Some(Target::Found(name)) if !matches!(&*name, "*" | ">") => {
            return Some((Fact::Found(name), Some(subject)));
        }
        _ => {}
    }
    if is_of_inboxes(subject) {
        let wild = matches!(subject.split('.').nth(1), Some("*" | ">"));
        return wild.then_some((Fact::HearsInboxes, Some(subject)));
    }
    Some(if subject.starts_with("$SRV") {
        (Fact::FoundByAll, Some(subject))
    } else if subject.starts_with(['$', '_']) {
        (Fact::SubscribesSystem, Some(subject))
    } else {
        (Fact::Subscribes, Some(subject))
    })
}

/// The part of a request's subject that says what is asked: the words of JetStream's API.
fn request(subject: &str) -> String {
    const WORDS: [&str; 21] = [
        "STREAM", "CONSUMER", "DURABLE", "CREATE", "UPDATE", "DELETE", "INFO", "LIST", "NAMES",
        "PURGE", "MSG", "SNAPSHOT", "RESTORE", "LEADER", "STEPDOWN", "PEER", "REMOVE", "PAUSE",
        "UNPIN", "RESET", "ACCOUNT",
    ];
    let rest = subject.strip_prefix(API).unwrap_or(subject);
    let words: Vec<&str> = rest.split('.').take_while(|token| WORDS.contains(token)).collect();
    if words.is_empty() { "something unknown".to_owned() } else { words.join(".") }
}

fn published(subject: &str, asks: bool, made_up: impl Fn(&str, &str) -> bool) -> Vec<Shown<'_>> {
    let Usage { operation, target } = Usage::of(kv_operation::Act::Publish, subject);
    let tail = |count: usize| {
        let mut rest = subject;
        for _ in 0..count {
            rest = rest.split_once('.').map_or("", |(_, rest)| rest);
        }
        (!rest.is_empty()).then_some(rest)
    };
    let one = |fact| vec![(fact, None)];
    let manages = || {
        let on = target.as_ref().map(ToString::to_string).unwrap_or_default();
        one(Fact::Manages(request(subject), on))
    };
    match (operation, target.clone()) {
        (Operation::Write, Some(Target::Keys { bucket, keys })) => {
            // `$KV.<bucket>.<key>`
            vec![(Fact::Writes(bucket), if keys.is_some() { tail(2) } else { ALL })]
        }
        (Operation::Write | Operation::Purge, Some(Target::Store(s))) => one(Fact::WritesStore(s)),
        (Operation::Purge, Some(Target::Keys { bucket, .. })) => one(Fact::Purges(bucket)),
        (Operation::Open, Some(Target::Keys { bucket, .. })) => one(Fact::Opens(bucket)),
        (Operation::Get | Operation::Watch, Some(Target::Keys { bucket, keys })) => {
            let keys = match subject.find(".$KV.") {
                Some(at) if keys.is_some() => {
                    subject.get(at + 1..).and_then(|s| s.splitn(3, '.').nth(2))
                }
                _ if is_about_a_watch(subject) => None,
                _ => ALL,
            };
            vec![(Fact::Reads(bucket), keys)]
        }
        (Operation::Get | Operation::Watch | Operation::Open, Some(Target::Store(store))) => {
            one(Fact::ReadsStore(store))
        }
        (Operation::Open, Some(Target::Stream { stream, .. })) => one(Fact::OpensStream(stream)),
        (
            Operation::Consume | Operation::Ack,
            Some(Target::Stream { stream, consumer: Some(name), .. }),
        ) => one(if made_up(&stream, &name) {
            Fact::Replays(stream)
        } else if operation == Operation::Ack {
            Fact::Acks(stream, name)
        } else if subject.starts_with("$JS.API.CONSUMER.MSG.NEXT.") {
            Fact::Pulls(stream, name)
        } else {
            Fact::Consumes(stream, name)
        }),
        (Operation::Ack, Some(of @ (Target::Keys { .. } | Target::Store(_)))) => {
            one(Fact::AcksKept(of.to_string()))
        }
        (Operation::Replay, Some(Target::Stream { stream, consumer, subject: kept })) => {
            replayed(subject, stream, consumer, kept.is_some(), &made_up, tail)
        }
        (Operation::Find, Some(Target::Found(name))) if name != "*" => one(Fact::Finds(name)),
        (Operation::Find, _) => one(Fact::FindsAll),
        (Operation::Administer, Some(Target::Stream { stream, consumer: Some(name), .. })) => {
            if subject.starts_with("$JS.API.CONSUMER.DELETE.") && made_up(&stream, &name) {
                return one(Fact::Replays(stream));
            }
            if subject.starts_with("$JS.API.CONSUMER.DURABLE.CREATE.") {
                return vec![(Fact::Makes(stream, name), ALL)];
            }
            manages()
        }
        (Operation::Publish, None) if is_inbox(subject) => one(Fact::IntoInboxes),
        (Operation::Publish, None) if subject.starts_with(['$', '_']) => {
            vec![(Fact::PublishesSystem, Some(subject))]
        }
        (Operation::Publish, None) => {
            vec![(if asks { Fact::Requests } else { Fact::Publishes }, Some(subject))]
        }
        _ if subject.starts_with(API) => manages(),
        _ if subject.starts_with("$JS.") => one(Fact::Elsewhere),
        _ => vec![(Fact::PublishesSystem, Some(subject))],
    }
}

/// Whether a request is about a watch that is there, and says nothing of keys.
fn is_about_a_watch(subject: &str) -> bool {
    ["$JS.API.CONSUMER.INFO.", "$JS.API.CONSUMER.DELETE.", "$JS.FC."]
        .iter()
        .any(|prefix| subject.starts_with(prefix))
}

/// Of a request that reads a stream other than by a consumer that is there.
fn replayed<'a>(
    subject: &'a str,
    stream: String,
    consumer: Option<String>,
    filters: bool,
    made_up: impl Fn(&str, &str) -> bool,
    tail: impl Fn(usize) -> Option<&'a str>,
) -> Vec<Shown<'a>> {
    let own = consumer.as_ref().is_none_or(|name| made_up(&stream, name));
    if subject.starts_with("$JS.FC.") {
        return match consumer {
            Some(name) if !own => vec![(Fact::Consumes(stream, name), None)],
            _ => vec![(Fact::Replays(stream), None)],
        };
    }
    match consumer {
        // `$JS.API.CONSUMER.CREATE.<stream>.<consumer>.<filter>`
        Some(name) => {
            let filter = if filters { tail(6) } else { ALL };
            vec![(if own { Fact::Replays(stream) } else { Fact::Makes(stream, name) }, filter)]
        }
        None if subject.starts_with("$JS.API.CONSUMER.CREATE.") => {
            vec![(Fact::Unnamed(stream.clone()), None), (Fact::Replays(stream), ALL)]
        }
        // `$JS.API.DIRECT.GET.<stream>.<subject>`
        None => vec![(Fact::Replays(stream), if filters { tail(5) } else { ALL })],
    }
}
