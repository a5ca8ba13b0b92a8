//! What the policy declares against what there is: buckets, streams, consumers and object stores.
//! What has to be done, and what that costs.
//!
//! A [`Plan`] is made from the policy and from the account's streams as JetStream tells them;
//! nothing here asks or changes anything. [`streams`] does both. Streams are compared and updated
//! as the JSON that the server gives: a field that this program has never heard of is seen, and
//! none is lost on an update.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::audit;
use solewriter_core::grant::AuditStreams;
use solewriter_core::policy::model::{Bucket, Domain, Feature, MadeBy, Policy};
use solewriter_types::advisories::{Release, release, version};
use solewriter_types::keyspace::{BucketName, Keyspace};
use solewriter_types::kv_operation::{STORE_STREAM, store_stream};
use solewriter_types::subject::Pattern;

mod compare;
mod consumer;
mod declared;
mod store;
mod stream;
pub mod streams;
mod text;

pub use self::compare::{Change, Class};

/// From which nats-server on a put may say how long its value is kept.
const TTL_SINCE: Release = (2, 11, 0);

/// A stream as JetStream's API gives it: `config` and `state` of ADR-1 and of `STREAM.LIST`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct Stream {
    /// Its configuration, every field of it.
    pub config: Map<String, Value>,
    /// What is in it.
    #[serde(default)]
    pub state: State,
    /// Where it is. One server by itself says nothing.
    #[serde(default)]
    pub cluster: Option<Cluster>,
}

/// The cluster that has a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct Cluster {
    /// Its name.
    #[serde(default)]
    pub name: String,
}

/// How much a stream holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct State {
    /// Values, old ones included.
    #[serde(default)]
    pub messages: u64,
    /// Their size in bytes.
    #[serde(default)]
    pub bytes: u64,
    /// Keys.
    #[serde(default)]
    pub num_subjects: u64,
}

impl Stream {
    /// The stream's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.config.get("name").and_then(Value::as_str).unwrap_or_default()
    }

    /// The subjects that it takes.
    pub fn subjects(&self) -> impl Iterator<Item = &str> {
        self.config
            .get("subjects")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
    }
}

/// The consumers of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consumers {
    /// The stream.
    pub stream: String,
    /// Those that it has.
    pub consumers: Vec<Consumer>,
}

/// A consumer as JetStream's API gives it, in `CONSUMER.LIST`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct Consumer {
    /// Its name.
    pub name: String,
    /// Its configuration, every field of it.
    pub config: Map<String, Value>,
    /// How many messages were delivered and are not acknowledged yet.
    #[serde(default)]
    pub num_ack_pending: u64,
}

impl Consumer {
    /// Whether it stays when its client goes.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.config.get("durable_name").and_then(Value::as_str).is_some_and(|n| !n.is_empty())
    }
}

/// What a declaration is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A bucket, `[bucket.NAME]`.
    Bucket,
    /// A stream, `[stream.NAME]`, or one for audit events.
    Stream,
    /// An object store, `[store.NAME]`.
    Store,
    /// A consumer, `[stream.NAME.consumer.NAME]`.
    Consumer,
}

impl Kind {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bucket => "bucket",
            Self::Stream => "stream",
            Self::Store => "store",
            Self::Consumer => "consumer",
        }
    }
}

/// What has to be done about one declared bucket, stream, object store or consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BucketPlan {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub bucket: String,
    /// The stream that holds it.
    pub stream: String,
    /// Where it is declared.
    pub declared_at: String,
    /// What to do.
    pub action: Action,
    /// What differs; for a new bucket, everything that is declared.
    pub changes: Vec<Change>,
    /// What is sent to create or update it.
    #[serde(skip)]
    pub config: Map<String, Value>,
}

/// What to do about a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is as declared.
    Keep,
    /// It is not there.
    Create,
    /// It can be made as declared, in place.
    Update,
    /// Some of it cannot be changed in place.
    Recreate,
}

impl Action {
    /// What these differences of something that is there ask for.
    fn of(changes: &[Change]) -> Self {
        if changes.is_empty() {
            Self::Keep
        } else if changes.iter().any(|change| change.class.is_beyond_update()) {
            Self::Recreate
        } else {
            Self::Update
        }
    }
}

/// A stream that no declaration names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Other {
    /// The stream.
    pub stream: String,
    /// The bucket that it is, if it is one.
    pub bucket: Option<String>,
    /// The object store that it is, if it is one.
    pub store: Option<String>,
    /// How it endangers the rule, if it does.
    pub danger: Option<String>,
}

/// What has to be done for the buckets to be as declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The policy that declares them.
    pub revision: String,
    /// Each declared bucket, sorted by name.
    pub buckets: Vec<BucketPlan>,
    /// Each declared stream, sorted by name.
    pub declared_streams: Vec<BucketPlan>,
    /// Each declared object store, sorted by name.
    pub stores: Vec<BucketPlan>,
    /// Each declared consumer, sorted by stream and name.
    pub consumers: Vec<BucketPlan>,
    /// The streams of audit events.
    pub streams: Vec<BucketPlan>,
    /// Streams that are not declared, buckets and object stores among them.
    pub others: Vec<Other>,
    /// Declared consumers that their services make, sorted by stream and name.
    pub left_to_services: Vec<Left>,
    /// Durable consumers of declared streams that are not declared.
    pub other_consumers: Vec<OtherConsumer>,
    /// What is declared in another JetStream domain: buckets, streams, object stores, each sorted by
    /// name.
    pub elsewhere: Vec<Elsewhere>,
}

/// Something declared that is in another JetStream domain than the one that was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Elsewhere {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub bucket: String,
    /// Its domain.
    pub domain: String,
}

impl Elsewhere {
    /// Its name and its domain; of what is no bucket, what it is.
    #[must_use]
    pub fn title(&self) -> String {
        let Self { kind, bucket, domain } = self;
        match kind {
            Kind::Bucket => format!("{bucket} ({domain})"),
            _ => format!("{} {bucket} ({domain})", kind.as_str()),
        }
    }
}

/// A declared consumer that the client of its service makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Its stream.
    pub stream: String,
    /// The consumer.
    pub consumer: String,
    /// Whether it is there.
    pub there: bool,
}

/// A durable consumer of a declared stream that no declaration names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OtherConsumer {
    /// Its stream.
    pub stream: String,
    /// The consumer.
    pub consumer: String,
    /// The services that can change, use and delete it, because they replay the stream.
    pub replayers: Vec<String>,
}

/// A declared setting that the server does not know: most drop it, and say nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooNew<'a> {
    /// What has it.
    pub plan: &'a BucketPlan,
    /// The key in the policy.
    pub word: &'static str,
    /// The first nats-server that knows it: major and minor version.
    pub since: (u64, u64),
}

/// Which of those streams are not in that cluster, a line each.
#[must_use]
pub fn elsewhere(streams: &[Stream], cluster: &str) -> Vec<String> {
    let place = |stream: &Stream| match &stream.cluster {
        Some(place) if place.name == cluster => None,
        Some(place) => Some(format!("{} is in cluster {}", stream.name(), place.name)),
        None => Some(format!("{} is in no cluster", stream.name())),
    };
    streams.iter().filter_map(place).collect()
}

impl Plan {
    /// The same, with every stream in that cluster, where one is named.
    #[must_use]
    pub fn placed_in(mut self, cluster: Option<&str>) -> Self {
        if let Some(cluster) = cluster {
            let buckets = self.buckets.iter_mut().chain(&mut self.declared_streams);
            for plan in buckets.chain(&mut self.stores).chain(&mut self.streams) {
                plan.place_in(cluster);
            }
        }
        self
    }

    /// Holds the account's streams against the policy's declarations.
    #[must_use]
    pub fn of(policy: &Policy, streams: &[Stream]) -> Self {
        let found = |name: &str| streams.iter().find(|stream| stream.name() == name);
        let buckets = policy
            .buckets()
            .iter()
            .map(|bucket| BucketPlan::of(bucket, found(&stream_name(&bucket.name))))
            .collect();
        let declared_streams = policy
            .streams()
            .iter()
            .map(|declared| stream::plan(declared, found(declared.name.as_str())))
            .collect();
        let stores = policy
            .stores()
            .iter()
            .map(|declared| store::plan(declared, found(&store_stream(declared.name.as_str()))))
            .collect();
        let undeclared = |stream: &&Stream| {
            let name = stream.name();
            policy.stream(name).is_none()
                && !policy.buckets().iter().any(|bucket| stream_name(&bucket.name) == name)
                && !policy.stores().iter().any(|s| store_stream(s.name.as_str()) == name)
        };
        let objects =
            policy.stores().iter().filter_map(|s| Pattern::parse(&format!("$O.{}.>", s.name)).ok());
        let kept: Vec<Pattern> = policy
            .streams()
            .iter()
            .flat_map(|declared| declared.subjects.iter().cloned())
            .chain(objects)
            .collect();
        let mut others: Vec<Other> =
            streams.iter().filter(undeclared).map(|stream| Other::of(stream, &kept)).collect();
        others.sort_by(|a, b| a.stream.cmp(&b.stream));
        Self {
            revision: policy.revision().whole().to_owned(),
            buckets,
            declared_streams,
            stores,
            consumers: Vec::new(),
            streams: Vec::new(),
            others,
            left_to_services: Vec::new(),
            other_consumers: Vec::new(),
            elsewhere: Vec::new(),
        }
    }

    /// The same where JetStream is in that domain, or in none: what is in other domains is left out.
    /// What is here all the same has another content under its name.
    #[must_use]
    pub fn in_domain(mut self, policy: &Policy, domain: Option<&str>) -> Self {
        let other = |said: &Option<Domain>| said.clone().filter(|said| !said.is(domain));
        let buckets = policy.buckets().iter();
        let buckets = buckets.filter_map(|b| Some((b.name.to_string(), other(&b.domain)?)));
        let streams = policy.streams().iter();
        let streams = streams.filter_map(|s| Some((s.name.to_string(), other(&s.domain)?)));
        let stores = policy.stores().iter();
        let stores = stores.filter_map(|s| Some((s.name.to_string(), other(&s.domain)?)));
        let streams: BTreeMap<String, Domain> = streams.collect();
        let is_here = |stream: &str| !streams.contains_key(stream);
        self.consumers.retain(|plan| is_here(&plan.stream));
        self.left_to_services.retain(|left| is_here(&left.stream));
        self.other_consumers.retain(|other| is_here(&other.stream));
        for (plans, others) in [
            (&mut self.buckets, &buckets.collect()),
            (&mut self.declared_streams, &streams),
            (&mut self.stores, &stores.collect()),
        ] {
            for plan in std::mem::take(plans) {
                let Some(other) = others.get(&plan.bucket) else {
                    plans.push(plan);
                    continue;
                };
                if plan.action != Action::Create {
                    let danger = format!(
                        "it is declared in JetStream domain {other}; here it has another content \
                         under the same name"
                    );
                    self.others.push(Other {
                        stream: plan.stream,
                        bucket: None,
                        store: None,
                        danger: Some(danger),
                    });
                }
                let (kind, bucket, domain) = (plan.kind, plan.bucket, other.to_string());
                self.elsewhere.push(Elsewhere { kind, bucket, domain });
            }
        }
        self.others.sort_by(|a, b| a.stream.cmp(&b.stream));
        self
    }

    /// The same with the consumers of declared streams. A stream that is not listed has none.
    #[must_use]
    pub fn and_consumers(mut self, policy: &Policy, listed: &[Consumers]) -> Self {
        for declared in policy.streams() {
            let name = declared.name.as_str();
            let found: &[Consumer] =
                listed.iter().find(|l| l.stream == name).map_or(&[], |l| &l.consumers);
            for wanted in &declared.consumers {
                let there = found.iter().find(|c| c.name == wanted.name.as_str());
                match wanted.made_by {
                    MadeBy::Apply => {
                        let users = policy.users(name, wanted.name.as_str());
                        self.consumers.push(consumer::plan(declared, wanted, &users, there));
                    }
                    MadeBy::Service => self.left_to_services.push(Left {
                        stream: name.to_owned(),
                        consumer: wanted.name.to_string(),
                        there: there.is_some(),
                    }),
                }
            }
            let mut others: Vec<&str> = found
                .iter()
                .filter(|c| c.is_durable() && declared.consumer(&c.name).is_none())
                .map(|c| c.name.as_str())
                .collect();
            others.sort_unstable();
            self.other_consumers.extend(others.into_iter().map(|consumer| OtherConsumer {
                stream: name.to_owned(),
                consumer: consumer.to_owned(),
                replayers: policy.replayers(name).map(|s| s.name.to_string()).collect(),
            }));
        }
        self
    }

    /// What is declared of streams that the server does not know yet.
    #[must_use]
    pub fn too_new(&self, server: &str) -> Vec<TooNew<'_>> {
        let has = version(server).map(|version| release(&version));
        let is_known = |(major, minor)| has.is_some_and(|has| has >= (major, minor, 0));
        let of = |plan| {
            Feature::ALL
                .into_iter()
                .filter(move |feature| stream::wants(plan, *feature))
                .map(move |feature| TooNew { plan, word: feature.as_str(), since: feature.since() })
        };
        let streams = self.declared_streams.iter().flat_map(of);
        let consumers = self.consumers.iter().filter_map(|plan| {
            let policy = consumer::priority(plan)?;
            Some(TooNew { plan, word: "priority", since: policy.since() })
        });
        streams.chain(consumers).filter(|found| !is_known(found.since)).collect()
    }

    /// The same with the audit streams, of which their account has these.
    #[must_use]
    pub fn and_audit(mut self, wanted: [Map<String, Value>; 2], streams: &[Stream]) -> Self {
        self.streams.extend(wanted.map(|wanted| BucketPlan::of_audit(wanted, streams)));
        self
    }

    /// The declared buckets whose keys have TTLs, where the server is too old for that: it takes
    /// the setting and the TTLs, keeps nothing of either, and every value stays for ever.
    #[must_use]
    pub fn without_ttl(&self, server: &str) -> Vec<&BucketPlan> {
        if version(server).is_some_and(|version| release(&version) >= TTL_SINCE) {
            return Vec::new();
        }
        let wants = |bucket: &&BucketPlan| {
            bucket.changes.iter().any(|c| c.field == "allow_msg_ttl" && c.declared == true)
        };
        self.buckets.iter().filter(wants).collect()
    }

    /// Everything that the policy declares, a stream before its consumers.
    pub fn declared(&self) -> impl Iterator<Item = &BucketPlan> {
        [&self.buckets, &self.declared_streams, &self.stores, &self.consumers].into_iter().flatten()
    }

    /// Everything that is planned: what the policy declares, then the audit streams.
    pub fn all(&self) -> impl Iterator<Item = &BucketPlan> {
        self.declared().chain(&self.streams)
    }

    /// Whether there is nothing to do: every bucket is as declared, and nothing endangers them.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.all().all(|bucket| bucket.action == Action::Keep)
            && self.others.iter().all(|other| other.danger.is_none())
    }

    /// Every change that loses data.
    pub fn losses(&self) -> impl Iterator<Item = (&BucketPlan, &Change)> {
        self.all().flat_map(|bucket| {
            bucket.changes.iter().filter(|c| c.class == Class::LosesData).map(move |c| (bucket, c))
        })
    }

    /// Whether `apply` can do anything about it.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.all().any(BucketPlan::has_work)
    }
}

impl BucketPlan {
    /// Has the stream placed in that cluster; what else says where it is stays.
    pub(crate) fn place_in(&mut self, cluster: &str) {
        let placement = self.config.get("placement").and_then(Value::as_object);
        let now = placement.and_then(|placement| placement.get("cluster"));
        if now.and_then(Value::as_str) == Some(cluster) {
            return;
        }
        let is_new = self.action == Action::Create;
        self.changes.push(Change {
            field: "placement.cluster".to_owned(),
            word: None,
            now: (!is_new).then(|| now.cloned().unwrap_or_default()),
            declared: cluster.into(),
            class: Class::Safe,
            why: (!is_new).then(|| "it moves, if it is in another cluster".to_owned()),
        });
        let mut placement = placement.cloned().unwrap_or_default();
        placement.insert("cluster".to_owned(), cluster.into());
        self.config.insert("placement".to_owned(), placement.into());
        if self.action == Action::Keep {
            self.action = Action::Update;
        }
    }

    /// What it is called: a consumer with its stream.
    #[must_use]
    pub fn title(&self) -> String {
        title(self.kind, &self.stream, &self.bucket)
    }

    fn of(bucket: &Bucket, stream: Option<&Stream>) -> Self {
        let wanted = declared::config(bucket);
        let (changes, config, action) = match stream {
            None => compare::BUCKET.create(wanted),
            Some(stream) => {
                compare::BUCKET.change(&wanted, &stream.config, |field, now, declared| {
                    compare::of_bucket(bucket, field, now, declared, stream)
                })
            }
        };
        Self {
            kind: Kind::Bucket,
            bucket: bucket.name.to_string(),
            stream: stream_name(&bucket.name),
            declared_at: bucket.at.to_string(),
            action,
            changes,
            config,
        }
    }

    /// An audit stream. Age, size and replicas are the operator's.
    #[must_use]
    pub fn of_audit(wanted: Map<String, Value>, streams: &[Stream]) -> Self {
        let wanted = Stream { config: wanted, ..Stream::default() };
        let name = wanted.name().to_owned();
        let (changes, config, action) = match streams.iter().find(|s| s.name() == name) {
            None => (compare::given(&wanted.config), wanted.config, Action::Create),
            Some(stream) => {
                let changes = compare::audit(&wanted.config, stream);
                let (config, action) =
                    (compare::updated(&stream.config, &changes), Action::of(&changes));
                (changes, config, action)
            }
        };
        let declared_at = "settings".to_owned();
        Self {
            kind: Kind::Stream,
            bucket: name.clone(),
            stream: name,
            declared_at,
            action,
            changes,
            config,
        }
    }

    /// Whether `apply` creates or updates it. Of one that has to be recreated, what can be changed
    /// in place is.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.action == Action::Create || self.changes.iter().any(|c| !c.class.is_beyond_update())
    }
}

/// The streams that take audit events, solewriter's and services': kept as safely as the best kept
/// bucket.
#[must_use]
pub fn audit_streams(names: &AuditStreams, policy: &Policy) -> [Map<String, Value>; 2] {
    let replicas = policy.buckets().iter().map(|bucket| bucket.replicas).max().unwrap_or(1).into();
    let configs = [
        audit::stream::config(names.events(), replicas),
        audit::stream::services(names.services(), replicas),
    ];
    configs.map(|config| declared::object(serde_json::to_value(config).unwrap_or_default()))
}

/// What something declared is called: a consumer with its stream.
#[must_use]
pub fn title(kind: Kind, stream: &str, name: &str) -> String {
    match kind {
        Kind::Consumer => format!("{stream}/{name}"),
        Kind::Bucket | Kind::Stream | Kind::Store => name.to_owned(),
    }
}

/// The stream of a bucket.
fn stream_name(bucket: &BucketName) -> String {
    Keyspace::whole(bucket.clone()).stream()
}

/// What a stream beside the buckets must not take up or write to: keys, JetStream's own subjects
/// and the answers to clients.
const OURS: [(&str, &str); 3] = [
    ("$KV.>", "keys of buckets"),
    ("$JS.>", "requests to JetStream"),
    ("_INBOX.>", "answers to clients"),
];

impl Other {
    /// A stream beside what is declared, which keeps these subjects.
    fn of(stream: &Stream, kept: &[Pattern]) -> Self {
        let name = stream.name();
        let bucket = name.strip_prefix("KV_").map(ToOwned::to_owned);
        let store = name.strip_prefix(STORE_STREAM).map(ToOwned::to_owned);
        let own = bucket.as_ref().map(|bucket| format!("$KV.{bucket}.>"));
        let mut dangers = Vec::new();
        for subject in stream.subjects().filter(|s| own.as_deref() != Some(*s)) {
            if let Some(what) = touches(subject, &[]) {
                dangers.push(format!("it captures `{subject}`, which are {what}"));
            }
        }
        let republished = stream.config.get("republish").and_then(|r| r.get("dest"));
        if let Some(destination) = republished.and_then(Value::as_str)
            && let Some(what) = touches(destination, kept)
        {
            dangers.push(format!(
                "it republishes to `{destination}`, which are {what}, with the rights of the server"
            ));
        }
        let danger = (!dangers.is_empty()).then(|| dangers.join("; "));
        Self { stream: name.to_owned(), bucket, store, danger }
    }
}

/// Which of [`OURS`] a subject meets, or that it meets those that something declared keeps.
fn touches(subject: &str, kept: &[Pattern]) -> Option<&'static str> {
    // A destination may hold `{{wildcard(1)}}`, which stands for one token.
    let tokens: Vec<&str> =
        subject.split('.').map(|t| if t.contains("{{") { "*" } else { t }).collect();
    let pattern = Pattern::parse(&tokens.join(".")).ok()?;
    let ours = OURS.iter().find_map(|(ours, what)| {
        let ours = Pattern::parse(ours).ok()?;
        pattern.overlaps(&ours).then_some(*what)
    });
    let is_kept = || kept.iter().any(|kept| pattern.overlaps(kept));
    ours.or_else(|| is_kept().then_some("subjects of a declared stream or object store"))
}

#[cfg(test)]
mod tests;
