//! The policy as everything else sees it: immutable, validated, with one revision.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::diagnostics::Span;
use crate::keys::UserKey;
use solewriter_types::connection_type::ConnectionType;
use solewriter_types::keyspace::{BucketName, Keyspace};
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

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// What one entry of a service's table grants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Alone writes the keyspace, and reads it.
    Owns(Keyspace),
    /// Reads the keyspace.
    Reads(Keyspace),
    /// Publishes plain subjects.
    Publishes(Pattern),
    /// Subscribes to plain subjects.
    Subscribes(Pattern),
    /// Serves requests on these subjects.
    Answers(Pattern),
    /// May send requests to these subjects.
    Calls(Pattern),
    /// Reads this audit stream.
    Audits(StreamName),
}

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
        if text.is_empty() || text.len() > 64 || !text.chars().all(allowed) {
            return Err("a stream's name is 1 to 64 letters, digits, `_` and `-`");
        }
        if ["KV_", "OBJ_", "MQTT_", "$"].iter().any(|prefix| text.starts_with(prefix)) {
            return Err("it is the name of a bucket's stream, or of the server's own");
        }
        Ok(Self(text.into()))
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

impl Access {
    /// The key in the service's table: `owns`, `reads`, and so on.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Owns(_) => "owns",
            Self::Reads(_) => "reads",
            Self::Publishes(_) => "publishes",
            Self::Subscribes(_) => "subscribes",
            Self::Answers(_) => "answers",
            Self::Calls(_) => "calls",
            Self::Audits(_) => "audits",
        }
    }
}

impl fmt::Display for Access {
    /// As a person would say it: `owns orders`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owns(keyspace) | Self::Reads(keyspace) => {
                write!(f, "{} {keyspace}", self.verb())
            }
            Self::Publishes(pattern)
            | Self::Subscribes(pattern)
            | Self::Answers(pattern)
            | Self::Calls(pattern) => write!(f, "{} {pattern}", self.verb()),
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
    /// The role whose table it stands in; `None` for the service's own table.
    pub role: Option<Arc<str>>,
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
    /// Where its table stands.
    pub at: Location,
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
    /// Where its table stands.
    pub at: Location,
}

/// A validated policy. Made only by [`super::validate`], so holding one is proof of it.
#[derive(Debug)]
pub struct Policy {
    revision: Revision,
    services: Vec<Service>,
    buckets: Vec<Bucket>,
    by_key: HashMap<UserKey, (usize, usize)>,
    /// For each bucket, the services and rules that own of it.
    owners: HashMap<BucketName, Vec<(usize, usize)>>,
}

impl Policy {
    /// Assembles a policy that validation accepted. Services and buckets are sorted by name.
    pub(super) fn new(
        revision: Revision,
        mut services: Vec<Service>,
        mut buckets: Vec<Bucket>,
    ) -> Self {
        buckets.sort_by(|a, b| a.name.cmp(&b.name));
        services.sort_by(|a, b| a.name.cmp(&b.name));
        let mut by_key = HashMap::new();
        for (s, service) in services.iter().enumerate() {
            for (k, key) in service.keys.iter().enumerate() {
                by_key.insert(key.key, (s, k));
            }
        }
        let mut owners: HashMap<BucketName, Vec<(usize, usize)>> = HashMap::new();
        for (s, service) in services.iter().enumerate() {
            for (r, rule) in service.rules.iter().enumerate() {
                if let Access::Owns(keyspace) = &rule.access {
                    owners.entry(keyspace.bucket().clone()).or_default().push((s, r));
                }
            }
        }
        Self { revision, services, buckets, by_key, owners }
    }

    /// Which content of the documents this is.
    #[must_use]
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// Every service, sorted by name.
    #[must_use]
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// The service of that name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Service> {
        let at = self.services.binary_search_by(|s| (*s.name).cmp(name)).ok()?;
        self.services.get(at)
    }

    /// Every declared bucket, sorted by name.
    #[must_use]
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// The declared bucket of that name.
    #[must_use]
    pub fn bucket(&self, name: &BucketName) -> Option<&Bucket> {
        let at = self.buckets.binary_search_by(|b| b.name.cmp(name)).ok()?;
        self.buckets.get(at)
    }

    /// The service that a key belongs to, and the key's own entry.
    #[must_use]
    pub fn holder(&self, key: &UserKey) -> Option<(&Service, &ServiceKey)> {
        let (s, k) = *self.by_key.get(key)?;
        let service = self.services.get(s)?;
        Some((service, service.keys.get(k)?))
    }

    /// Who owns something of a keyspace: each service and rule, in the order of names.
    pub fn owners(&self, keyspace: &Keyspace) -> impl Iterator<Item = (&Service, &Rule)> {
        let of_bucket = self.owners.get(keyspace.bucket()).map_or(&[][..], Vec::as_slice);
        of_bucket.iter().filter_map(move |(s, r)| {
            let service = self.services.get(*s)?;
            let rule = service.rules.get(*r)?;
            let Access::Owns(owned) = &rule.access else { return None };
            owned.shared_key(keyspace).map(|_| (service, rule))
        })
    }
}
