//! The policy as everything else sees it: immutable, validated, with one revision.

use std::cmp::Ordering;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{BitOr, Bound};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use ipnet::IpNet;

use crate::diagnostics::{SourceFile, Span};
use crate::emergency::Emergency;
use crate::keys::UserKey;
use solewriter_types::connection_type::ConnectionType;
use solewriter_types::keyspace::{BucketName, Keyspace};
use solewriter_types::kv_operation::STORE_STREAM;
use solewriter_types::subject::Pattern;

/// How many hexadecimal digits of a revision people are shown.
const SHOWN: usize = 12;

/// A revision's text, as people are shown it. Two policies that share so much are made in half a
/// minute, so nothing decides by it.
#[must_use]
pub fn short(revision: &str) -> &str {
    revision.get(..SHOWN).unwrap_or(revision)
}

/// Names one content of the policy documents: a SHA-256 over them. It is in every log line, audit
/// event and user JWT that the policy decided.
///
/// [`Revision::whole`] is what decides, and what machines are given; its `Display` is for eyes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Revision(Arc<str>);

impl Revision {
    /// The revision of a digest.
    #[must_use]
    pub fn of_digest(digest: &[u8]) -> Self {
        Self(data_encoding::HEXLOWER.encode(digest).into())
    }

    /// Names these texts, in this order.
    #[must_use]
    pub(super) fn of(texts: &[impl AsRef<str>]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for text in texts.iter().map(AsRef::as_ref) {
            // Lengths, so that no two lists give the same bytes.
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        }
        Self::of_digest(context.finish().as_ref())
    }

    /// The whole of it, in hexadecimal.
    #[must_use]
    pub fn whole(&self) -> &str {
        &self.0
    }

    /// Whether that is what was written of it beside its documents: a check that they are whole.
    /// Older versions wrote what people are
    /// shown.
    #[must_use]
    pub fn is_written(&self, text: &str) -> bool {
        text == self.whole() || text == short(self.whole())
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(short(&self.0))
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where in the policy documents something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file, as it was named when read (relative to the policy directory).
    pub file: Arc<str>,
    /// The line, counted from 1.
    pub line: u32,
    /// The column in characters, counted from 1.
    pub column: u32,
}

impl From<&Span> for Location {
    fn from(span: &Span) -> Self {
        let (line, column) = span.line_column();
        Self { file: Arc::clone(span.file().name()), line, column }
    }
}

impl Location {
    /// The file among these, and how many bytes stand in it before the place.
    #[must_use]
    pub fn found_in<'f>(&self, files: &'f [SourceFile]) -> Option<(&'f SourceFile, usize)> {
        let file = files.iter().find(|file| *file.name() == self.file)?;
        let before = usize::try_from(self.line).ok()?.checked_sub(1)?;
        let mut lines = file.text().split_inclusive('\n');
        let start: usize = lines.by_ref().take(before).map(str::len).sum();
        let column = usize::try_from(self.column).ok()?.checked_sub(1)?;
        let (within, _) = lines.next()?.char_indices().nth(column)?;
        Some((file, start.checked_add(within)?))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

pub use solewriter_types::kv_operation::STORE_PREFIX;

/// What one entry of a service's table grants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Alone writes the keyspace, and reads it.
    Owns(Keyspace),
    /// Reads the keyspace.
    Reads(Keyspace),
    /// Writes what nobody owns of the keyspace, as before (`enforce = "observe"`).
    Writes(Keyspace),
    /// Alone writes the object store, and reads it.
    OwnsStore(BucketName),
    /// Writes the object store that nobody owns, as before (`enforce = "observe"`).
    WritesStore(BucketName),
    /// Reads the object store.
    ReadsStore(BucketName),
    /// Publishes plain subjects.
    Publishes(Pattern),
    /// Subscribes to plain subjects.
    Subscribes(Pattern),
    /// Serves requests on these subjects.
    Answers(Pattern),
    /// May send requests to these subjects.
    Calls(Pattern),
    /// Takes messages from this durable consumer, and acknowledges them.
    Consumes(Consumed),
    /// Alone is found under this name by the services framework.
    FoundAs(FoundName),
    /// Finds services of this name.
    Discovers(FoundName),
    /// Finds services of all names.
    DiscoversAll,
    /// Reads a stream, or some subjects of it, with consumers that it makes itself.
    Replays(Replayed),
    /// Reads this audit stream.
    Audits(StreamName),
}

/// The most characters of a stream's or consumer's name.
pub const LONGEST_NAME: usize = 64;

/// The name of a stream that is no bucket, nor anything else that JetStream keeps for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName(Arc<str>);

impl StreamName {
    /// Checks a name: 1 to 64 letters, digits, `_` and `-`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if text.is_empty() || text.len() > LONGEST_NAME || !text.chars().all(allowed) {
            return Err("a stream's name is 1 to 64 letters, digits, `_` and `-`");
        }
        if ["KV_", STORE_STREAM, "MQTT_", "$"].iter().any(|prefix| text.starts_with(prefix)) {
            return Err("it is the name of a bucket's stream, or of the server's own");
        }
        Ok(Self(text.into()))
    }

    /// The name, if nothing else in a subject of acknowledgements can be taken for it.
    ///
    /// # Errors
    /// What it can be taken for.
    pub fn acknowledged(self) -> Result<Self, &'static str> {
        if self.0.bytes().all(|b| b.is_ascii_digit()) {
            // `$JS.ACK.*.*.5.1.>` would be acknowledgements of every other stream, too.
            return Err("a number can be taken for the position of a message of another stream");
        }
        if &*self.0 == "_" {
            return Err("it can be taken for a JetStream domain");
        }
        Ok(self)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a JetStream domain: one token of a subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Arc<str>);

impl Domain {
    /// The most characters.
    const LONGEST: usize = 32;
    /// What `$JS.<name>.` means already, in nats-server or in the configuration that `init` writes.
    const TAKEN: [&str; 9] =
        ["API", "ACK", "FC", "EVENT", "SNAPSHOT", "_", "AUDIT", "POLICY", "STATE"];

    /// Checks a name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if text.is_empty() || text.len() > Self::LONGEST || !text.chars().all(allowed) {
            return Err("a domain's name is 1 to 32 letters, digits, `_` and `-`");
        }
        if Self::TAKEN.contains(&text) {
            return Err("`$JS.` with this name means something else already");
        }
        Ok(Self(text.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the one of that name.
    #[must_use]
    pub fn is(&self, name: Option<&str>) -> bool {
        name == Some(self.as_str())
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A durable consumer and its stream, as policy files write it: `EVENTS/shipping`. Behind a pointer,
/// because every rule has the size of the largest [`Access`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConsumerName(Arc<(StreamName, StreamName)>);

impl ConsumerName {
    /// Reads `STREAM/CONSUMER`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (stream, consumer) =
            text.split_once('/').ok_or("there is no slash between stream and consumer")?;
        Self::of(StreamName::parse(stream)?, StreamName::parse(consumer)?)
    }

    /// The consumer of that stream.
    ///
    /// # Errors
    /// One of the names can be taken for something else: see [`StreamName::acknowledged`].
    pub fn of(stream: StreamName, consumer: StreamName) -> Result<Self, &'static str> {
        Ok(Self(Arc::new((stream.acknowledged()?, consumer.acknowledged()?))))
    }

    /// The stream.
    #[must_use]
    pub fn stream(&self) -> &StreamName {
        &self.0.0
    }

    /// The consumer.
    #[must_use]
    pub fn consumer(&self) -> &StreamName {
        &self.0.1
    }
}

impl fmt::Display for ConsumerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stream(), self.consumer())
    }
}

/// A name under which a service is found by the services framework of the client libraries.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FoundName(Arc<str>);

impl FoundName {
    /// Checks a name. Its characters are what all libraries take.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if text.is_empty() || text.len() > 64 || !text.chars().all(allowed) {
            return Err("a name is 1 to 64 letters, digits, `_` and `-`");
        }
        Ok(Self(text.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same for all names that a person may take for this one.
    #[must_use]
    pub fn looks(&self) -> String {
        let look = |c: char| match c.to_ascii_lowercase() {
            '_' => '-',
            '0' => 'o',
            '1' | 'i' => 'l',
            other => other,
        };
        self.0.chars().map(look).collect()
    }
}

impl fmt::Display for FoundName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a service uses a declared consumer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// It asks for messages of a consumer that `state apply` makes.
    Pulls,
    /// The same, and its client makes the consumer, with this filter; `None` for all of the stream.
    Makes(Option<Pattern>),
    /// It listens to what a consumer sends that `state apply` makes.
    Listens,
}

/// A declared consumer that a service uses, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Consumed {
    /// Its name, with its stream.
    pub name: ConsumerName,
    /// How it is used.
    pub way: Way,
}

impl fmt::Display for Consumed {
    /// Different ways have different texts: by these, rules are compared.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.way {
            Way::Pulls => write!(f, "{}", self.name),
            Way::Listens => write!(f, "{}, which sends its messages", self.name),
            Way::Makes(None) => write!(f, "{}, which it makes", self.name),
            Way::Makes(Some(filter)) => write!(f, "{}, which it makes of {filter}", self.name),
        }
    }
}

/// What a service replays: a stream, or the subjects of it that match a filter.
///
/// Who may make consumers under any name may change those that are there. So this knows the names
/// that its service is denied: see [`crate::grant`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replayed(Arc<ReplayedParts>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct ReplayedParts {
    stream: StreamName,
    filter: Option<Pattern>,
    durables: Arc<[StreamName]>,
}

impl Replayed {
    /// Reads `STREAM`, or `STREAM/SUBJECTS`. `durables` gives the names of all consumers that the
    /// policy declares for a stream.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(
        text: &str,
        durables: impl FnOnce(&StreamName) -> Arc<[StreamName]>,
    ) -> Result<Self, String> {
        let (stream, filter) = match text.split_once('/') {
            Some((stream, filter)) => (stream, Some(filter)),
            None => (text, None),
        };
        let stream = StreamName::parse(stream)?.acknowledged()?;
        let filter = match filter.map(Pattern::parse).transpose() {
            Ok(filter) => filter,
            Err(error) => return Err(format!("what follows the slash is not a subject: {error}")),
        };
        if filter.as_ref().is_some_and(Pattern::ends_in_star) {
            let star = "it ends in `*`, and nats-server lets a client write `>` in its place; \
                        end it in `>`, or name the subjects";
            return Err(star.to_owned());
        }
        if filter.as_ref().is_some_and(Pattern::starts_with_wildcard) {
            return Err("its subjects begin with a wildcard".to_owned());
        }
        let durables = durables(&stream);
        Ok(Self(Arc::new(ReplayedParts { stream, filter, durables })))
    }

    /// The stream.
    #[must_use]
    pub fn stream(&self) -> &StreamName {
        &self.0.stream
    }

    /// The subjects that it is bounded to; `None` for every subject of the stream.
    #[must_use]
    pub fn filter(&self) -> Option<&Pattern> {
        self.0.filter.as_ref()
    }

    /// The stream's declared consumers.
    #[must_use]
    pub fn durables(&self) -> &[StreamName] {
        &self.0.durables
    }
}

impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.filter() {
            Some(filter) => write!(f, "{}/{filter}", self.stream()),
            None => write!(f, "{}", self.stream()),
        }
    }
}

impl Access {
    /// The key in the service's table: `owns`, `reads`, and so on.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Owns(_) | Self::OwnsStore(_) => "owns",
            Self::Writes(_) | Self::WritesStore(_) => "writes",
            Self::Reads(_) | Self::ReadsStore(_) => "reads",
            Self::Publishes(_) => "publishes",
            Self::Subscribes(_) => "subscribes",
            Self::Answers(_) => "answers",
            Self::Calls(_) => "calls",
            Self::Consumes(_) => "consumes",
            Self::FoundAs(_) => "found_as",
            Self::Discovers(_) | Self::DiscoversAll => "discovers",
            Self::Replays(_) => "replays",
            Self::Audits(_) => "audits",
        }
    }
}

impl Access {
    /// The subjects that it lets a service publish into JetStream, or may.
    #[must_use]
    pub fn written(&self) -> Option<Pattern> {
        match self {
            Self::Owns(keyspace) | Self::Writes(keyspace) => {
                Pattern::parse(&keyspace.subjects()).ok()
            }
            Self::OwnsStore(store) | Self::WritesStore(store) => {
                Pattern::parse(&format!("$O.{store}.>")).ok()
            }
            Self::Publishes(subjects) | Self::Calls(subjects) => Some(subjects.clone()),
            _ => None,
        }
    }
}

/// The subjects that a service alone may write, by its rules and the declared streams.
#[must_use]
pub fn exclusive<'s>(
    service: &Service,
    streams: &(impl Iterator<Item = &'s Stream> + Clone),
) -> Vec<Pattern> {
    one_writers(service.rules.iter().filter(|rule| !rule.observed()), streams)
}

/// The same, and what it may write, as before, as long as no other service has it for itself.
#[must_use]
pub fn exclusive_or_observed<'s>(
    service: &Service,
    streams: &(impl Iterator<Item = &'s Stream> + Clone),
) -> Vec<Pattern> {
    one_writers(service.rules.iter(), streams)
}

/// What rules write that may have one writer alone.
fn one_writers<'r, 's>(
    rules: impl Iterator<Item = &'r Rule>,
    streams: &(impl Iterator<Item = &'s Stream> + Clone),
) -> Vec<Pattern> {
    let mut all = Vec::new();
    for rule in rules {
        match &rule.access {
            Access::Publishes(sent) | Access::Calls(sent) => {
                let streams = streams.clone().filter(|s| s.many_writers.is_none());
                let kept = streams.flat_map(|stream| &stream.subjects);
                all.extend(kept.filter_map(|kept| kept.intersection(sent)));
            }
            other => all.extend(other.written()),
        }
    }
    all
}

impl fmt::Display for Access {
    /// As a person would say it: `owns orders`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owns(keyspace) | Self::Writes(keyspace) | Self::Reads(keyspace) => {
                write!(f, "{} {keyspace}", self.verb())
            }
            Self::OwnsStore(store) | Self::WritesStore(store) | Self::ReadsStore(store) => {
                write!(f, "{} {STORE_PREFIX}{store}", self.verb())
            }
            Self::Publishes(pattern)
            | Self::Subscribes(pattern)
            | Self::Answers(pattern)
            | Self::Calls(pattern) => write!(f, "{} {pattern}", self.verb()),
            Self::Consumes(consumed) => write!(f, "{} {consumed}", self.verb()),
            Self::FoundAs(name) => write!(f, "is found as {name}"),
            Self::Discovers(name) => write!(f, "{} {name}", self.verb()),
            Self::DiscoversAll => write!(f, "{} *", self.verb()),
            Self::Replays(replayed) => write!(f, "{} {replayed}", self.verb()),
            Self::Audits(stream) => write!(f, "{} {stream}", self.verb()),
        }
    }
}

/// One entry of a service's table, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it grants.
    pub access: Access,
    /// Where it stands.
    pub at: Location,
    /// Behind a pointer, because few rules have any: a large policy has a million rules.
    terms: Option<Box<Terms>>,
}

/// What is to be said of few rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// See [`Rule::role`].
    pub role: Option<Arc<str>>,
    /// See [`Rule::until`].
    pub until: Option<i64>,
    /// See [`Rule::observed`].
    pub observed: bool,
    /// See [`Rule::domain`].
    pub domain: Option<Domain>,
}

impl Rule {
    /// Grants that, as written there.
    #[must_use]
    pub fn new(access: Access, at: Location) -> Self {
        Self { access, at, terms: None }
    }

    /// The same on these terms.
    #[must_use]
    pub fn on(self, terms: Terms) -> Self {
        let terms = (terms != Terms::default()).then(|| Box::new(terms));
        Self { terms, ..self }
    }

    /// The role whose table it stands in; `None` for the service's own table.
    #[must_use]
    pub fn role(&self) -> Option<&Arc<str>> {
        self.terms.as_ref()?.role.as_ref()
    }

    /// From when on it grants nothing any more, in seconds since the Unix epoch.
    #[must_use]
    pub fn until(&self) -> Option<i64> {
        self.terms.as_ref()?.until
    }

    /// Whether it is only what the service could do before: see [`Service::observed`].
    #[must_use]
    pub fn observed(&self) -> bool {
        self.terms.as_ref().is_some_and(|terms| terms.observed)
    }

    /// The JetStream domain of what it reads, if its declaration names one.
    #[must_use]
    pub fn domain(&self) -> Option<&Domain> {
        self.terms.as_ref()?.domain.as_ref()
    }

    /// Whether it grants something at that time.
    #[must_use]
    pub fn counts(&self, now: i64) -> bool {
        self.until().is_none_or(|until| now < until)
    }
}

/// One of a service's keys, with the time in which it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceKey {
    /// The public NKEY.
    pub key: UserKey,
    /// Refused before this time, in seconds since the Unix epoch.
    pub not_before: Option<i64>,
    /// Refused from this time on, in seconds since the Unix epoch.
    pub not_after: Option<i64>,
}

impl ServiceKey {
    /// Whether it is let in at that time, in seconds since the Unix epoch.
    #[must_use]
    pub fn counts_at(&self, now: i64) -> bool {
        self.not_before.is_none_or(|from| now >= from)
            && self.not_after.is_none_or(|until| now < until)
    }
}

/// One service: who it is and everything it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name: one subject token, so that it can be part of its inbox.
    pub name: Arc<str>,
    /// What it is, for people.
    pub description: Option<String>,
    /// The keys that it connects with.
    pub keys: Vec<ServiceKey>,
    /// What it may do, in the order written.
    pub rules: Vec<Rule>,
    /// The account its connections are placed in; `None` for the setting's.
    pub account: Option<Arc<str>>,
    /// How long a connection's permissions last; `None` for the setting's.
    pub lifetime: Option<Duration>,
    /// The networks it may connect from; empty for any.
    pub sources: Vec<IpNet>,
    /// How it may connect; never empty.
    pub connections: Vec<ConnectionType>,
    /// Why no key of it is accepted, when it is disabled.
    pub disabled: Option<String>,
    /// What it may not publish yet although its rules say so, because another service may still be
    /// doing so: see [`crate::handover`].
    pub held: Vec<Pattern>,
    /// Whether it may still do what it could before, but for what others own
    /// (`enforce = "observe"`).
    pub observed: bool,
    /// What it may not do although a rule of what it could do before reaches it.
    pub excluded: Excluded,
    /// Where its table stands.
    pub at: Location,
}

/// Subjects that are taken out of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Excluded {
    /// What may not be published.
    pub publish: Vec<Pattern>,
    /// What may not be received.
    pub subscribe: Vec<Pattern>,
}

impl Excluded {
    /// Whether nothing is taken out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.publish.is_empty() && self.subscribe.is_empty()
    }
}

impl Service {
    /// The service with the rules of its own table and its roles alone, whether it is observed
    /// or not: what it would get without `enforce = "observe"`.
    #[must_use]
    pub fn enforced(&self) -> Self {
        let rules = self.rules.iter().filter(|rule| !rule.observed()).cloned().collect();
        Self { rules, excluded: Excluded::default(), ..self.clone() }
    }

    /// Whether it consumes that consumer of a stream.
    #[must_use]
    pub fn consumes(&self, stream: &str, consumer: &str) -> bool {
        self.rules.iter().any(|rule| match &rule.access {
            Access::Consumes(Consumed { name, .. }) => {
                name.stream().as_str() == stream && name.consumer().as_str() == consumer
            }
            _ => false,
        })
    }
}

/// Where a bucket is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// On disk.
    File,
    /// In memory, gone with the servers that hold it.
    Memory,
}

impl Storage {
    /// The name that policy files and JetStream use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Memory => "memory",
        }
    }
}

/// What a full bucket does with a new value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// Refuses it.
    New,
    /// Takes it and drops the oldest one, of whichever key.
    Old,
}

impl Discard {
    /// The name that policy files and JetStream use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Old => "old",
        }
    }
}

/// A declared bucket: what its stream `KV_<name>` must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: BucketName,
    /// What is in it, for people.
    pub description: Option<String>,
    /// How many values are kept for each key (`max_msgs_per_subject`).
    pub history: u8,
    /// How long a value is kept (`max_age`); `None` for ever.
    pub ttl: Option<Duration>,
    /// Whether a put may say how long its value is kept (`allow_msg_ttl`).
    pub key_ttl: bool,
    /// How long the server leaves a delete marker where a key ran out
    /// (`subject_delete_marker_ttl`); `None` for no marker.
    pub limit_markers: Option<Duration>,
    /// The largest value in bytes (`max_msg_size`); `None` for the server's limit.
    pub max_value_size: Option<u64>,
    /// The largest size of the bucket in bytes (`max_bytes`); `None` for no cap.
    pub max_bytes: Option<u64>,
    /// On how many servers it is kept (`num_replicas`).
    pub replicas: u8,
    /// Where it is kept.
    pub storage: Storage,
    /// Whether it is compressed on disk (`compression: s2`).
    pub compression: bool,
    /// What happens when `max_bytes` is reached.
    pub discard: Discard,
    /// Whether values can be read by key in the subject (`allow_direct`).
    pub direct: bool,
    /// Whether a put may erase older values (`allow_rollup_hdrs`), as a purge does.
    pub rollup: bool,
    /// For how long a message id is remembered (`duplicate_window`).
    pub duplicate_window: Duration,
    /// Whether services may own parts of it.
    pub part_owners: bool,
    /// The bucket that it follows, and then it has no writer of its own.
    pub copy_of: Option<BucketName>,
    /// The JetStream domain that it is in; `None` for each that the policy is used in.
    pub domain: Option<Domain>,
    /// The domain that a copy has its values from, where that is another one.
    pub copied_from: Option<Domain>,
    /// Where its table stands.
    pub at: Location,
}

/// How long a stream keeps a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Until a limit is reached.
    Limits,
    /// Until every consumer that wants it has acknowledged it.
    Interest,
    /// Until one consumer has acknowledged it.
    WorkQueue,
}

impl Retention {
    /// The name that policy files and JetStream use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Limits => "limits",
            Self::Interest => "interest",
            Self::WorkQueue => "workqueue",
        }
    }
}

/// What a stream has only when it says so, because older servers do not know it or because it
/// gives its writer more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// A message may say how long it is kept (`allow_msg_ttl`).
    MessageTtl,
    /// Messages count (`allow_msg_counter`).
    Counters,
    /// A message may say when another one is stored (`allow_msg_schedules`).
    Schedules,
    /// Several messages are stored all together or not at all (`allow_atomic`).
    Atomic,
    /// Many messages are stored with few acknowledgements (`allow_batched`).
    FastBatches,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::MessageTtl, Self::Counters, Self::Schedules, Self::Atomic, Self::FastBatches];

    /// The key in the stream's table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MessageTtl => "message_ttl",
            Self::Counters => "counters",
            Self::Schedules => "schedules",
            Self::Atomic => "atomic",
            Self::FastBatches => "fast_batches",
        }
    }

    /// The field of the stream's configuration.
    #[must_use]
    pub fn config(self) -> &'static str {
        match self {
            Self::MessageTtl => "allow_msg_ttl",
            Self::Counters => "allow_msg_counter",
            Self::Schedules => "allow_msg_schedules",
            Self::Atomic => "allow_atomic",
            Self::FastBatches => "allow_batched",
        }
    }

    /// The first nats-server that has it: major and minor version.
    #[must_use]
    pub fn since(self) -> (u64, u64) {
        match self {
            Self::MessageTtl => (2, 11),
            Self::Counters | Self::Schedules | Self::Atomic => (2, 12),
            Self::FastBatches => (2, 14),
        }
    }

    /// What one writer can do with it to the other writers of the stream, if anything.
    #[must_use]
    pub fn harm(self) -> Option<&'static str> {
        match self {
            Self::MessageTtl | Self::Counters => None,
            Self::Schedules => {
                Some("one writer can store, copy and erase messages of every subject of the stream")
            }
            Self::Atomic | Self::FastBatches => {
                Some("one writer can add to, commit and block the batches of the others")
            }
        }
    }
}

/// A declared stream, and what it must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Its name.
    pub name: StreamName,
    /// What is in it, for people.
    pub description: Option<String>,
    /// What it keeps. No two streams share a subject.
    pub subjects: Vec<Pattern>,
    /// How long it keeps a message.
    pub retention: Retention,
    /// The age up to which a message is kept (`max_age`); `None` for any.
    pub max_age: Option<Duration>,
    /// The largest size of the stream in bytes (`max_bytes`); `None` for no cap.
    pub max_bytes: Option<u64>,
    /// How many messages it keeps (`max_msgs`); `None` for no cap.
    pub max_messages: Option<u64>,
    /// How many messages of one subject it keeps (`max_msgs_per_subject`); `None` for no cap.
    pub max_per_subject: Option<u64>,
    /// The largest message in bytes (`max_msg_size`); `None` for the server's limit.
    pub max_message_size: Option<u64>,
    /// What happens when it is full.
    pub discard: Discard,
    /// For how long a message id is remembered (`duplicate_window`).
    pub duplicate_window: Duration,
    /// Where it is kept.
    pub storage: Storage,
    /// Whether it is compressed on disk (`compression: s2`).
    pub compression: bool,
    /// On how many servers it is kept (`num_replicas`).
    pub replicas: u8,
    /// Whether messages can be read by subject (`allow_direct`).
    pub direct: bool,
    /// Why several services may write one subject (`writers = "many"`); `None` for one writer.
    pub many_writers: Option<String>,
    /// The JetStream domain that it is in; `None` for each that the policy is used in.
    pub domain: Option<Domain>,
    /// What it has only because it says so.
    pub features: Vec<Feature>,
    /// Its durable consumers, sorted by name.
    pub consumers: Vec<Consumer>,
    /// Where its table stands.
    pub at: Location,
}

impl Stream {
    /// Whether it has that feature.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    /// The declared consumer of that name.
    #[must_use]
    pub fn consumer(&self, name: &str) -> Option<&Consumer> {
        let at = self.consumers.binary_search_by(|c| c.name.as_str().cmp(name)).ok()?;
        self.consumers.get(at)
    }
}

/// Which messages a consumer wants acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Each of them.
    Explicit,
    /// An acknowledgement counts for all messages before it, too.
    All,
    /// None.
    None,
}

impl Ack {
    /// The name that policy files and JetStream use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Explicit => "explicit",
            Self::All => "all",
            Self::None => "none",
        }
    }
}

/// Where in its stream a new consumer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deliver {
    /// At the first message.
    All,
    /// At the last message.
    Last,
    /// At the next message that comes.
    New,
    /// With the last message of each subject.
    LastPerSubject,
    /// At a message's number.
    ByStartSequence,
    /// At the first message from a time on.
    ByStartTime,
}

impl Deliver {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::All,
        Self::Last,
        Self::New,
        Self::LastPerSubject,
        Self::ByStartSequence,
        Self::ByStartTime,
    ];

    /// The name that policy files and JetStream use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Last => "last",
            Self::New => "new",
            Self::LastPerSubject => "last_per_subject",
            Self::ByStartSequence => "by_start_sequence",
            Self::ByStartTime => "by_start_time",
        }
    }
}

/// How fast a consumer delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// As fast as it can.
    Instant,
    /// As fast as the messages once came.
    Original,
}

impl Replay {
    /// The name that policy files and JetStream use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Instant => "instant",
            Self::Original => "original",
        }
    }
}

/// Who makes a declared consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MadeBy {
    /// `solewriter state apply`.
    Apply,
    /// The client of the one service that uses it.
    Service,
}

impl MadeBy {
    /// The name that policy files use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::Service => "service",
        }
    }
}

/// Which of the clients of a pull consumer gets messages, when several ask (ADR-42).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriorityPolicy {
    /// One that says how many messages have to wait first.
    Overflow,
    /// One alone, until it is gone.
    PinnedClient,
    /// Those with the lowest number that they give themselves.
    Prioritized,
}

impl PriorityPolicy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Overflow, Self::PinnedClient, Self::Prioritized];

    /// The name that policy files and JetStream use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::PinnedClient => "pinned_client",
            Self::Prioritized => "prioritized",
        }
    }

    /// The first nats-server that has it: major and minor version.
    #[must_use]
    pub fn since(self) -> (u64, u64) {
        match self {
            Self::Overflow | Self::PinnedClient => (2, 11),
            Self::Prioritized => (2, 12),
        }
    }
}

/// The priority group of a pull consumer. JetStream takes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Priority {
    /// Who gets messages.
    pub policy: PriorityPolicy,
    /// The name of the group, which every client gives when it asks.
    pub group: String,
    /// After what time of silence a pinned client is gone (`priority_timeout`); `None` for the
    /// server's.
    pub timeout: Option<Duration>,
}

/// How a push consumer sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// The queue group that shares the messages (`deliver_group`); `None` for each to all who listen.
    pub group: Option<String>,
    /// How often it says that it is there when it sends nothing (`idle_heartbeat`).
    pub heartbeat: Option<Duration>,
    /// Whether it waits for who is slow (`flow_control`).
    pub flow_control: bool,
}

/// A declared durable consumer of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Its name.
    pub name: StreamName,
    /// What it is for, for people.
    pub description: Option<String>,
    /// What it delivers of its stream; empty for all of it.
    pub filter: Vec<Pattern>,
    /// Which messages it wants acknowledged.
    pub ack: Ack,
    /// After what time without an acknowledgement a message is delivered again.
    pub ack_wait: Duration,
    /// How often a message is delivered; `None` for any number of times.
    pub max_deliver: Option<u32>,
    /// The times between deliveries, which `ack_wait` gives when it is empty.
    pub backoff: Vec<Duration>,
    /// How many messages may wait for acknowledgements; `None` for the server's limit.
    pub max_ack_pending: Option<u32>,
    /// Where it begins.
    pub deliver: Deliver,
    /// The number, for [`Deliver::ByStartSequence`].
    pub start_sequence: Option<u64>,
    /// The time in seconds since the Unix epoch, for [`Deliver::ByStartTime`].
    pub start_time: Option<i64>,
    /// How fast it delivers.
    pub replay: Replay,
    /// After what time without use the server deletes it (`inactive_threshold`); `None` for never.
    pub inactive: Option<Duration>,
    /// Why several services may use it; `None` for one service.
    pub shared: Option<String>,
    /// Who makes it.
    pub made_by: MadeBy,
    /// How it sends its messages; `None` when clients ask for them.
    pub push: Option<Push>,
    /// Its priority group, if it has one.
    pub priority: Option<Priority>,
    /// Where its table stands.
    pub at: Location,
}

impl Consumer {
    /// How a service uses it.
    #[must_use]
    pub fn way(&self) -> Way {
        match self.made_by {
            MadeBy::Apply if self.push.is_some() => Way::Listens,
            MadeBy::Apply => Way::Pulls,
            MadeBy::Service => Way::Makes(self.filter.first().cloned()),
        }
    }
}

/// A declared object store: what its stream `OBJ_<name>` must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Its name.
    pub name: BucketName,
    /// What is in it, for people.
    pub description: Option<String>,
    /// How long an object is kept (`max_age`); `None` for ever.
    pub ttl: Option<Duration>,
    /// The largest size of the store in bytes (`max_bytes`); `None` for no cap.
    pub max_bytes: Option<u64>,
    /// On how many servers it is kept (`num_replicas`).
    pub replicas: u8,
    /// Where it is kept.
    pub storage: Storage,
    /// Whether it is compressed on disk (`compression: s2`).
    pub compression: bool,
    /// The JetStream domain that it is in; `None` for each that the policy is used in.
    pub domain: Option<Domain>,
    /// Where its table stands.
    pub at: Location,
}

/// What JetStream keeps for the services, as the policy declares it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// Buckets.
    pub buckets: Vec<Bucket>,
    /// Streams, with their consumers.
    pub streams: Vec<Stream>,
    /// Object stores.
    pub stores: Vec<Store>,
}

impl Declared {
    /// The same by name, as it is kept.
    fn sorted(mut self) -> Self {
        self.buckets.sort_by(|a, b| a.name.cmp(&b.name));
        self.streams.sort_by(|a, b| a.name.cmp(&b.name));
        self.stores.sort_by(|a, b| a.name.cmp(&b.name));
        self.buckets.shrink_to_fit();
        self.streams.shrink_to_fit();
        self.stores.shrink_to_fit();
        self
    }
}

/// A validated policy. Made only by [`super::validate`], so holding one is proof of it. A clone
/// shares what is in it.
#[derive(Clone, Debug)]
pub struct Policy {
    contents: Arc<Contents>,
    /// The services that get less for now than their rules say, as they are for now.
    held: HashMap<Arc<str>, Service>,
    /// Who is no service of it, and is let in for now.
    guest: Option<Arc<Service>>,
}

#[derive(Debug)]
struct Contents {
    /// Names the documents.
    documents: Revision,
    /// Names the policy: the documents, and what else it is made from.
    revision: Revision,
    /// The emergency grants that it is made from.
    emergencies: Arc<[Emergency]>,
    services: Vec<Arc<Service>>,
    /// Of each service, in the same order.
    briefs: Arc<[Brief]>,
    declared: Arc<Declared>,
    by_key: Arc<ByKey>,
    /// Each rule that owns keys, by bucket, and for one bucket in the order of services and rules.
    owners: Arc<[Place]>,
    /// How many rules end at a time, in seconds since the Unix epoch.
    ends: BTreeMap<i64, usize>,
}

/// What is looked at first of all services: it lies side by side, and they do not.
#[derive(Clone, Copy, Debug)]
struct Brief {
    /// The kinds of its rules: see [`kind`].
    kinds: u16,
    /// A hash of the name of its file.
    file: u16,
}

impl Brief {
    fn of(service: &Service) -> Self {
        let kinds = service.rules.iter().map(|rule| {
            let role = if rule.role().is_some() { kind::OF_A_ROLE } else { 0 };
            role | kind::of(&rule.access)
        });
        Self { kinds: kinds.fold(0, BitOr::bitor), file: short_hash(&service.at.file) }
    }
}

fn short_hash(text: &str) -> u16 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let [first, second, ..] = hasher.finish().to_le_bytes();
    u16::from_le_bytes([first, second])
}

/// The kinds of rules, a bit for each.
pub(super) mod kind {
    use super::Access;

    pub const OWNS: u16 = 1;
    pub const READS: u16 = 1 << 1;
    pub const WRITES: u16 = 1 << 2;
    pub const OWNS_STORE: u16 = 1 << 3;
    pub const WRITES_STORE: u16 = 1 << 4;
    pub const READS_STORE: u16 = 1 << 5;
    pub const PUBLISHES: u16 = 1 << 6;
    pub const SUBSCRIBES: u16 = 1 << 7;
    pub const ANSWERS: u16 = 1 << 8;
    pub const CALLS: u16 = 1 << 9;
    pub const CONSUMES: u16 = 1 << 10;
    pub const FOUND_AS: u16 = 1 << 11;
    pub const DISCOVERS: u16 = 1 << 12;
    pub const REPLAYS: u16 = 1 << 13;
    pub const AUDITS: u16 = 1 << 14;
    /// Of any kind, from a role.
    pub const OF_A_ROLE: u16 = 1 << 15;

    pub fn of(access: &Access) -> u16 {
        match access {
            Access::Owns(_) => OWNS,
            Access::Reads(_) => READS,
            Access::Writes(_) => WRITES,
            Access::OwnsStore(_) => OWNS_STORE,
            Access::WritesStore(_) => WRITES_STORE,
            Access::ReadsStore(_) => READS_STORE,
            Access::Publishes(_) => PUBLISHES,
            Access::Subscribes(_) => SUBSCRIBES,
            Access::Answers(_) => ANSWERS,
            Access::Calls(_) => CALLS,
            Access::Consumes(_) => CONSUMES,
            Access::FoundAs(_) => FOUND_AS,
            Access::Discovers(_) | Access::DiscoversAll => DISCOVERS,
            Access::Replays(_) => REPLAYS,
            Access::Audits(_) => AUDITS,
        }
    }
}

/// A service's number, and the number of a key or a rule of it.
type Place = (u32, u32);

/// Numbers as they are kept: validation allows far fewer than there are.
fn place(service: usize, part: usize) -> Option<Place> {
    Some((u32::try_from(service).ok()?, u32::try_from(part).ok()?))
}

/// The entry of a list with such a number.
fn at<T>(list: &[T], number: u32) -> Option<&T> {
    list.get(usize::try_from(number).ok()?)
}

/// The places of a service's rules that own keys.
fn owning(number: usize, service: &Service) -> impl Iterator<Item = Place> {
    let rules = service.rules.iter().enumerate();
    let owning = rules.filter(|(_, rule)| matches!(rule.access, Access::Owns(_)));
    owning.filter_map(move |(rule, _)| place(number, rule))
}

/// The same, with what they own.
fn owned_by(number: usize, service: &Service) -> impl Iterator<Item = (Place, Option<&Access>)> {
    owning(number, service).map(|(s, r)| ((s, r), at(&service.rules, r).map(|rule| &rule.access)))
}

/// The places of rules that own keys, as [`Contents::owners`] has them.
fn by_bucket(services: &[Arc<Service>], places: Vec<Place>) -> Arc<[Place]> {
    let bucket = |place: Place| owned(services, place).map(|(.., owned)| owned.bucket());
    let mut places: Vec<_> = places.into_iter().map(|place| (bucket(place), place)).collect();
    places.sort();
    places.into_iter().map(|(_, place)| place).collect()
}

/// The bytes of each key, with its service's number and its own.
type ByKey = HashMap<[u8; 32], Place>;

fn by_key(services: &[Arc<Service>]) -> ByKey {
    let keys = services.iter().map(|service| service.keys.len()).sum();
    let mut by_key = ByKey::with_capacity(keys);
    for (s, service) in services.iter().enumerate() {
        for (k, key) in service.keys.iter().enumerate() {
            by_key.extend(place(s, k).map(|place| (*key.key.as_bytes(), place)));
        }
    }
    by_key
}

/// Counts the rules of a service that end, or no longer counts them.
fn count_ends(ends: &mut BTreeMap<i64, usize>, service: &Service, by: isize) {
    for until in service.rules.iter().filter_map(Rule::until) {
        let count = ends.entry(until).or_default();
        *count = count.saturating_add_signed(by);
        if *count == 0 {
            ends.remove(&until);
        }
    }
}

/// The service and the rule, and the keyspace that it owns.
fn owned(services: &[Arc<Service>], (s, r): Place) -> Option<(&Service, &Rule, &Keyspace)> {
    let service: &Service = at(services, s)?;
    let rule = at(&service.rules, r)?;
    let Access::Owns(keyspace) = &rule.access else { return None };
    Some((service, rule, keyspace))
}

impl Policy {
    /// Assembles a policy that validation accepted. Everything is sorted by name.
    pub(super) fn new(revision: Revision, services: Vec<Arc<Service>>, declared: Declared) -> Self {
        let declared = Arc::new(declared.sorted());
        Self::of((revision.clone(), revision, Arc::from([])), services, declared)
    }

    fn of(
        names: (Revision, Revision, Arc<[Emergency]>),
        mut services: Vec<Arc<Service>>,
        declared: Arc<Declared>,
    ) -> Self {
        services.sort_by(|a, b| a.name.cmp(&b.name));
        services.shrink_to_fit();
        let owners = services.iter().enumerate().flat_map(|(s, service)| owning(s, service));
        let owners = by_bucket(&services, owners.collect());
        let by_key = Arc::new(by_key(&services));
        let mut ends = BTreeMap::new();
        for service in &services {
            count_ends(&mut ends, service, 1);
        }
        let (documents, revision, emergencies) = names;
        let briefs = services.iter().map(|service| Brief::of(service)).collect();
        let contents = Contents {
            documents,
            revision,
            emergencies,
            services,
            briefs,
            declared,
            by_key,
            owners,
            ends,
        };
        Self { contents: Arc::new(contents), held: HashMap::new(), guest: None }
    }

    /// Another policy by its documents: of these services, sorted by name, and with this declared in
    /// place of what is.
    #[must_use]
    pub(super) fn changed(
        &self,
        revision: Revision,
        services: Vec<Arc<Service>>,
        declared: Option<Declared>,
    ) -> Self {
        let had = &self.contents;
        let declared =
            declared.map_or_else(|| Arc::clone(&had.declared), |one| Arc::new(one.sorted()));
        // The new number of each service that is the same; and whether all numbers are as before.
        let mut kept: Vec<Option<u32>> = vec![None; had.services.len()];
        let mut in_place = services.len() == had.services.len();
        let (mut owners, mut ends) = (Vec::new(), had.ends.clone());
        let mut briefs = Vec::with_capacity(services.len());
        let mut old = had.services.iter().zip(kept.iter_mut().zip(&*had.briefs)).peekable();
        for (s, service) in services.iter().enumerate() {
            // Before any name is read, which is far away in memory.
            let mut same = old.next_if(|(old, _)| Arc::ptr_eq(old, service));
            if same.is_none() {
                while let Some((gone, _)) = old.next_if(|(old, _)| old.name < service.name) {
                    count_ends(&mut ends, gone, -1);
                }
                same = old.next_if(|(old, _)| Arc::ptr_eq(old, service));
            }
            if let Some((_, (kept, brief))) = same {
                *kept = u32::try_from(s).ok();
                briefs.push(*brief);
                continue;
            }
            briefs.push(Brief::of(service));
            in_place &= had.services.get(s).is_some_and(|before| {
                before.name == service.name
                    && before.keys.iter().map(|k| &k.key).eq(service.keys.iter().map(|k| &k.key))
                    && owned_by(s, before).eq(owned_by(s, service))
            });
            owners.extend(owning(s, service));
            count_ends(&mut ends, service, 1);
        }
        old.for_each(|(gone, _)| count_ends(&mut ends, gone, -1));
        let (by_key, owners) = if in_place {
            (Arc::clone(&had.by_key), Arc::clone(&had.owners))
        } else {
            // In the order of before, so that few have to be sorted.
            let before = had.owners.iter();
            let before = before.filter_map(|(s, r)| Some((*at(&kept, *s)?.as_ref()?, *r)));
            let owners = by_bucket(&services, before.chain(owners).collect());
            (Arc::new(by_key(&services)), owners)
        };
        let contents = Contents {
            documents: revision.clone(),
            revision,
            emergencies: Arc::from([]),
            services,
            briefs: briefs.into(),
            declared,
            by_key,
            owners,
            ends,
        };
        Self { contents: Arc::new(contents), held: HashMap::new(), guest: None }
    }

    /// The same policy, which shares with an earlier one whatever is the same in both: then both take
    /// hardly more memory than one, and what compares them passes over what they share.
    #[must_use]
    pub fn sharing(self, earlier: &Self) -> Self {
        let (had, has) = (&earlier.contents, &self.contents);
        if Arc::ptr_eq(had, has) {
            return self;
        }
        let declared = shared(&had.declared, &has.declared);
        let by_key = shared(&had.by_key, &has.by_key);
        let owners = shared(&had.owners, &has.owners);
        let twice = |(before, after)| before == after;
        if !earlier.pairs(&self).any(twice)
            && Arc::ptr_eq(&declared, &has.declared)
            && Arc::ptr_eq(&by_key, &has.by_key)
            && Arc::ptr_eq(&owners, &has.owners)
        {
            return self;
        }
        let mut old = had.services.iter().peekable();
        let services = has.services.iter().map(|service| {
            if old.next_if(|old| Arc::ptr_eq(old, service)).is_some() {
                return Arc::clone(service);
            }
            while old.next_if(|old| old.name < service.name).is_some() {}
            let same = old.next_if(|old| Arc::ptr_eq(old, service) || old == &service);
            Arc::clone(same.unwrap_or(service))
        });
        let contents = Contents {
            documents: has.documents.clone(),
            revision: has.revision.clone(),
            emergencies: Arc::clone(&has.emergencies),
            services: services.collect(),
            briefs: Arc::clone(&has.briefs),
            declared,
            by_key,
            owners,
            ends: has.ends.clone(),
        };
        Self { contents: Arc::new(contents), ..self }
    }

    /// The services of an earlier policy, and of this one, that may differ: by name, in the order of
    /// names, without those that both share.
    pub fn compared<'p>(
        &'p self,
        earlier: &'p Self,
    ) -> impl Iterator<Item = (Option<&'p Service>, Option<&'p Service>)> {
        self.pairs(earlier).map(|(before, after)| (before.map(|b| &**b), after.map(|a| &**a)))
    }

    /// See [`Policy::compared`].
    fn pairs<'p>(
        &'p self,
        earlier: &'p Self,
    ) -> impl Iterator<Item = (Option<&'p Arc<Service>>, Option<&'p Arc<Service>>)> {
        let mut old = earlier.services().iter().peekable();
        let mut new = self.services().iter().peekable();
        std::iter::from_fn(move || {
            // Before any name is read, which is far away in memory.
            while let (Some(before), Some(after)) = (old.peek(), new.peek())
                && Arc::ptr_eq(before, after)
            {
                old.next();
                new.next();
            }
            let order = match (old.peek(), new.peek()) {
                (Some(before), Some(after)) => before.name.cmp(&after.name),
                (Some(_), None) => Ordering::Less,
                (None, _) => Ordering::Greater,
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            (before.is_some() || after.is_some()).then_some((before, after))
        })
    }

    /// The same policy, of which these services do not get these subjects yet, and with a guest.
    #[must_use]
    pub fn holding(&self, held: HashMap<Arc<str>, Vec<Pattern>>, guest: Option<Service>) -> Self {
        let services = held.into_iter().filter_map(|(name, held)| {
            let service = Service { held, ..self.declared_service(&name)?.clone() };
            Some((name, service))
        });
        Self {
            held: services.collect(),
            guest: guest.map(Arc::new),
            contents: Arc::clone(&self.contents),
        }
    }

    /// The same policy, of which each service gets what its rules say, whether it is observed or not.
    #[must_use]
    pub fn enforced(&self) -> Self {
        if !self.services().iter().any(|service| service.observed) {
            return self.clone();
        }
        let enforced = |service: &Arc<Service>| {
            if service.observed { Arc::new(service.enforced()) } else { Arc::clone(service) }
        };
        let services = self.services().iter().map(enforced).collect();
        let names = self.names(self.revision().clone());
        Self::of(names, services, Arc::clone(&self.contents.declared))
    }

    /// The same policy, which is made of its documents and these.
    #[must_use]
    pub(super) fn with(&self, emergencies: &[&Emergency]) -> Self {
        let mut said = vec![self.revision().whole()];
        said.extend(emergencies.iter().map(|emergency| emergency.token()));
        let made_of = emergencies.iter().map(|emergency| (*emergency).clone()).collect();
        let names = (self.documents().clone(), Revision::of(&said), made_of);
        Self::of(names, self.services().to_vec(), Arc::clone(&self.contents.declared))
    }

    /// What it is made of, under that name.
    fn names(&self, revision: Revision) -> (Revision, Revision, Arc<[Emergency]>) {
        (self.documents().clone(), revision, Arc::clone(&self.contents.emergencies))
    }

    /// The policy at a time, in seconds since the Unix epoch: without what has ended by then
    /// ([`Rule::until`]). It has another revision when something has. Taking entries away makes no
    /// second writer, so it holds as the whole does.
    #[must_use]
    pub fn at(&self, now: i64) -> Self {
        let ended: Vec<i64> = self.contents.ends.range(..=now).map(|(until, _)| *until).collect();
        if ended.is_empty() {
            return self.clone();
        }
        let at = |service: &Arc<Service>| {
            if service.rules.iter().all(|rule| rule.counts(now)) {
                return Arc::clone(service);
            }
            let rules = service.rules.iter().filter(|rule| rule.counts(now)).cloned().collect();
            Arc::new(Service { rules, ..Service::clone(service) })
        };
        let services = self.services().iter().map(at).collect();
        let mut said = vec![self.revision().whole().to_owned()];
        said.extend(ended.iter().map(ToString::to_string));
        let names = self.names(Revision::of(&said));
        Self::of(names, services, Arc::clone(&self.contents.declared))
    }

    /// When the first entry ends after that time, in seconds since the Unix epoch.
    #[must_use]
    pub fn ends_next(&self, now: i64) -> Option<i64> {
        let after = (Bound::Excluded(now), Bound::Unbounded);
        self.contents.ends.range(after).next().map(|(until, _)| *until)
    }

    fn declared_service(&self, name: &str) -> Option<&Service> {
        let services = self.services();
        let at = services.binary_search_by(|s| (*s.name).cmp(name)).ok()?;
        services.get(at).map(|service| &**service)
    }

    /// The service as it is for now.
    fn for_now<'s>(&'s self, service: &'s Service) -> &'s Service {
        if self.held.is_empty() {
            return service;
        }
        self.held.get(&service.name).unwrap_or(service)
    }

    /// Which policy this is: one content of the documents, and what else it is made from: what has
    /// ended ([`Self::at`]), and emergency grants.
    #[must_use]
    pub fn revision(&self) -> &Revision {
        &self.contents.revision
    }

    /// Which content of the documents this is: the same as [`Self::revision`] as long as the policy
    /// is made from them alone.
    #[must_use]
    pub fn documents(&self) -> &Revision {
        &self.contents.documents
    }

    /// The emergency grants that it is made from.
    #[must_use]
    pub fn emergencies(&self) -> &[Emergency] {
        &self.contents.emergencies
    }

    /// Every service, sorted by name, with all that its rules say.
    #[must_use]
    pub fn services(&self) -> &[Arc<Service>] {
        &self.contents.services
    }

    /// The services that have a rule of one of these kinds: see [`kind`].
    pub(super) fn of_kinds(&self, kinds: u16) -> impl Iterator<Item = &Service> {
        let all = self.services().iter().zip(&*self.contents.briefs);
        all.filter(move |(_, brief)| brief.kinds & kinds != 0).map(|(service, _)| &**service)
    }

    /// The services that stand in these files, each with its place among all.
    pub(super) fn of_files(
        &self,
        names: &HashSet<Arc<str>>,
    ) -> impl Iterator<Item = (usize, &Arc<Service>)> {
        let hashes: Vec<u16> = names.iter().map(|name| short_hash(name)).collect();
        let all = self.services().iter().zip(&*self.contents.briefs).enumerate();
        let likely = all.filter(move |(_, (_, brief))| hashes.contains(&brief.file));
        likely
            .map(|(at, (service, _))| (at, service))
            .filter(|(_, service)| names.contains(&service.at.file))
    }

    /// The service of that name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.declared_service(name).map(|service| self.for_now(service))
    }

    /// Everything that is declared, sorted by name.
    #[must_use]
    pub(super) fn declared(&self) -> &Declared {
        &self.contents.declared
    }

    /// Every declared bucket, sorted by name.
    #[must_use]
    pub fn buckets(&self) -> &[Bucket] {
        &self.contents.declared.buckets
    }

    /// The declared bucket of that name.
    #[must_use]
    pub fn bucket(&self, name: &BucketName) -> Option<&Bucket> {
        let buckets = self.buckets();
        let at = buckets.binary_search_by(|b| b.name.cmp(name)).ok()?;
        buckets.get(at)
    }

    /// Every declared stream, sorted by name.
    #[must_use]
    pub fn streams(&self) -> &[Stream] {
        &self.contents.declared.streams
    }

    /// The declared stream of that name.
    #[must_use]
    pub fn stream(&self, name: &str) -> Option<&Stream> {
        let streams = self.streams();
        let at = streams.binary_search_by(|s| s.name.as_str().cmp(name)).ok()?;
        streams.get(at)
    }

    /// The services that replay a stream or a part of it, in the order of names.
    pub fn replayers<'s>(&'s self, stream: &'s str) -> impl Iterator<Item = &'s Service> {
        self.services().iter().map(|service| &**service).filter(move |service| {
            service.rules.iter().any(|rule| match &rule.access {
                Access::Replays(replayed) => replayed.stream().as_str() == stream,
                _ => false,
            })
        })
    }

    /// The names of the services that consume a consumer of a stream, in order, with commas.
    #[must_use]
    pub fn users(&self, stream: &str, consumer: &str) -> String {
        let users = self.services().iter().filter(|service| service.consumes(stream, consumer));
        users.map(|service| &*service.name).collect::<Vec<_>>().join(", ")
    }

    /// Every declared object store, sorted by name.
    #[must_use]
    pub fn stores(&self) -> &[Store] {
        &self.contents.declared.stores
    }

    /// The declared object store of that name.
    #[must_use]
    pub fn store(&self, name: &BucketName) -> Option<&Store> {
        let stores = self.stores();
        let at = stores.binary_search_by(|s| s.name.cmp(name)).ok()?;
        stores.get(at)
    }

    /// The declared consumer of that name.
    #[must_use]
    pub fn consumer(&self, name: &ConsumerName) -> Option<&Consumer> {
        self.stream(name.stream().as_str())?.consumer(name.consumer().as_str())
    }

    /// The declared streams that keep some of these subjects.
    pub fn keeping(&self, subjects: &Pattern) -> impl Iterator<Item = &Stream> {
        let keeps = |stream: &&Stream| stream.subjects.iter().any(|kept| kept.overlaps(subjects));
        self.streams().iter().filter(keeps)
    }

    /// Each service and rule whose access is a wanted one, in the order of names.
    pub fn rules(
        &self,
        wanted: impl Fn(&Access) -> bool,
    ) -> impl Iterator<Item = (&Service, &Rule)> {
        let rules =
            self.services().iter().flat_map(|s| s.rules.iter().map(move |rule| (&**s, rule)));
        rules.filter(move |(_, rule)| wanted(&rule.access))
    }

    /// The service that a key belongs to, and the key's own entry.
    #[must_use]
    pub fn holder(&self, key: &UserKey) -> Option<(&Service, &ServiceKey)> {
        let Some((s, k)) = self.contents.by_key.get(key.as_bytes()).copied() else {
            let guest = self.guest.as_deref()?;
            return Some((guest, guest.keys.iter().find(|own| own.key == *key)?));
        };
        let service = self.for_now(at(self.services(), s)?);
        Some((service, at(&service.keys, k)?))
    }

    /// Who owns something of a keyspace: each service and rule, in the order of names.
    pub fn owners(&self, keyspace: &Keyspace) -> impl Iterator<Item = (&Service, &Rule)> {
        let (owners, services) = (&self.contents.owners, self.services());
        let bucket = |place: &Place| owned(services, *place).map(|(.., owned)| owned.bucket());
        let wanted = Some(keyspace.bucket());
        let first = owners.partition_point(|place| bucket(place) < wanted);
        let of_bucket = owners.iter().skip(first).map_while(move |place| {
            owned(services, *place).filter(|(.., owned)| owned.bucket() == keyspace.bucket())
        });
        of_bucket.filter_map(move |(service, rule, owned)| {
            owned.shared_key(keyspace).map(|_| (service, rule))
        })
    }
}

/// The first, if both are the same.
fn shared<T: PartialEq + ?Sized>(had: &Arc<T>, has: &Arc<T>) -> Arc<T> {
    Arc::clone(if Arc::ptr_eq(had, has) || had == has { had } else { has })
}
