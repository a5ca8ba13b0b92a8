//! The policy as it is written: tables and texts with their places, nothing judged yet but types
//! and key names.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::diagnostics::toml::{self, Table, Value};
use crate::diagnostics::{Collector, Problem, SourceFile, Span, Spanned};
use crate::policy::model::Feature;

/// What one file says, or several together.
#[derive(Debug, Default)]
pub struct Document {
    /// `[naming]`; at most one is right.
    pub naming: Vec<NamingEntry>,
    /// `[defaults]`; at most one is right.
    pub defaults: Vec<Spanned<SettingEntries>>,
    /// `[bucket.NAME]`.
    pub buckets: Vec<BucketEntry>,
    /// `[stream.NAME]`.
    pub streams: Vec<StreamEntry>,
    /// `[store.NAME]`.
    pub stores: Vec<StoreEntry>,
    /// `[role.NAME]`.
    pub roles: Vec<RoleEntry>,
    /// `[service.NAME]`, by files: of a large policy, one list of all would be copied as it grows.
    pub services: Vec<Vec<ServiceEntry>>,
}

/// `[naming]`. An absent list says nothing; an empty one allows nothing.
#[derive(Debug)]
pub struct NamingEntry {
    /// The table.
    pub span: Span,
    /// `buckets`.
    pub buckets: Option<Vec<Spanned<String>>>,
    /// `events`.
    pub events: Option<Vec<Spanned<String>>>,
    /// `requests`.
    pub requests: Option<Vec<Spanned<String>>>,
    /// `streams`.
    pub streams: Option<Vec<Spanned<String>>>,
    /// `consumers`.
    pub consumers: Option<Vec<Spanned<String>>>,
    /// `stores`.
    pub stores: Option<Vec<Spanned<String>>>,
    /// `found`.
    pub found: Option<Vec<Spanned<String>>>,
    /// `[[naming.except]]`.
    pub except: Vec<ExceptEntry>,
}

/// `[[naming.except]]`.
#[derive(Debug)]
pub struct ExceptEntry {
    /// `service`.
    pub service: Spanned<String>,
    /// `entries`.
    pub entries: Vec<Spanned<String>>,
    /// `reason`.
    pub reason: Spanned<String>,
}

/// `[bucket.NAME]`.
#[derive(Debug)]
pub struct BucketEntry {
    /// NAME.
    pub name: Spanned<String>,
    /// `description`.
    pub description: Option<Spanned<String>>,
    /// `history`.
    pub history: Option<Spanned<i64>>,
    /// `ttl`.
    pub ttl: Option<Spanned<Duration>>,
    /// `key_ttl`.
    pub key_ttl: Option<Spanned<bool>>,
    /// `limit_markers`.
    pub limit_markers: Option<Spanned<Duration>>,
    /// `max_value_size`, in bytes.
    pub max_value_size: Option<Spanned<u64>>,
    /// `max_bytes`.
    pub max_bytes: Option<Spanned<u64>>,
    /// `replicas`.
    pub replicas: Option<Spanned<i64>>,
    /// `storage`.
    pub storage: Option<Spanned<String>>,
    /// `compression`.
    pub compression: Option<Spanned<bool>>,
    /// `discard`.
    pub discard: Option<Spanned<String>>,
    /// `direct`.
    pub direct: Option<Spanned<bool>>,
    /// `rollup`.
    pub rollup: Option<Spanned<bool>>,
    /// `duplicate_window`.
    pub duplicate_window: Option<Spanned<Duration>>,
    /// `part_owners`.
    pub part_owners: Option<Spanned<bool>>,
    /// `copy_of`.
    pub copy_of: Option<Spanned<String>>,
    /// `domain`.
    pub domain: Option<Spanned<String>>,
}

/// `[stream.NAME]`.
#[derive(Debug)]
pub struct StreamEntry {
    /// NAME.
    pub name: Spanned<String>,
    /// `domain`.
    pub domain: Option<Spanned<String>>,
    /// `description`.
    pub description: Option<Spanned<String>>,
    /// `subjects`.
    pub subjects: Vec<Spanned<String>>,
    /// `retention`.
    pub retention: Option<Spanned<String>>,
    /// `max_age`.
    pub max_age: Option<Spanned<Duration>>,
    /// `max_bytes`.
    pub max_bytes: Option<Spanned<u64>>,
    /// `max_messages`.
    pub max_messages: Option<Spanned<i64>>,
    /// `max_per_subject`.
    pub max_per_subject: Option<Spanned<i64>>,
    /// `max_message_size`, in bytes.
    pub max_message_size: Option<Spanned<u64>>,
    /// `discard`.
    pub discard: Option<Spanned<String>>,
    /// `duplicate_window`.
    pub duplicate_window: Option<Spanned<Duration>>,
    /// `storage`.
    pub storage: Option<Spanned<String>>,
    /// `compression`.
    pub compression: Option<Spanned<bool>>,
    /// `replicas`.
    pub replicas: Option<Spanned<i64>>,
    /// `direct`.
    pub direct: Option<Spanned<bool>>,
    /// `writers`.
    pub writers: Option<Spanned<String>>,
    /// `reason`, for `writers = "many"`.
    pub reason: Option<Spanned<String>>,
    /// `message_ttl` to `fast_batches`, by their words.
    pub features: Vec<(Feature, Spanned<bool>)>,
    /// `[stream.NAME.consumer.CONSUMER]`.
    pub consumers: Vec<ConsumerEntry>,
}

/// `[stream.NAME.consumer.CONSUMER]`.
#[derive(Debug)]
pub struct ConsumerEntry {
    /// CONSUMER.
    pub name: Spanned<String>,
    /// `description`.
    pub description: Option<Spanned<String>>,
    /// `filter`.
    pub filter: Option<Spanned<Vec<Spanned<String>>>>,
    /// `ack`.
    pub ack: Option<Spanned<String>>,
    /// `ack_wait`.
    pub ack_wait: Option<Spanned<Duration>>,
    /// `max_deliver`.
    pub max_deliver: Option<Spanned<i64>>,
    /// `backoff`.
    pub backoff: Option<Spanned<Vec<Spanned<String>>>>,
    /// `max_ack_pending`.
    pub max_ack_pending: Option<Spanned<i64>>,
    /// `deliver`.
    pub deliver: Option<Spanned<String>>,
    /// `replay`.
    pub replay: Option<Spanned<String>>,
    /// `inactive`.
    pub inactive: Option<Spanned<Duration>>,
    /// `shared`.
    pub shared: Option<Spanned<String>>,
    /// `made_by`.
    pub made_by: Option<Spanned<String>>,
    /// `start_sequence`.
    pub start_sequence: Option<Spanned<i64>>,
    /// `start_time`, in seconds since the Unix epoch.
    pub start_time: Option<Spanned<i64>>,
    /// `push`.
    pub push: Option<Spanned<bool>>,
    /// `group`.
    pub group: Option<Spanned<String>>,
    /// `heartbeat`.
    pub heartbeat: Option<Spanned<Duration>>,
    /// `flow_control`.
    pub flow_control: Option<Spanned<bool>>,
    /// `priority`.
    pub priority: Option<Spanned<String>>,
    /// `priority_group`.
    pub priority_group: Option<Spanned<String>>,
    /// `priority_timeout`.
    pub priority_timeout: Option<Spanned<Duration>>,
}

/// `[store.NAME]`.
#[derive(Debug)]
pub struct StoreEntry {
    /// NAME.
    pub name: Spanned<String>,
    /// `domain`.
    pub domain: Option<Spanned<String>>,
    /// `description`.
    pub description: Option<Spanned<String>>,
    /// `ttl`.
    pub ttl: Option<Spanned<Duration>>,
    /// `max_bytes`.
    pub max_bytes: Option<Spanned<u64>>,
    /// `replicas`.
    pub replicas: Option<Spanned<i64>>,
    /// `storage`.
    pub storage: Option<Spanned<String>>,
    /// `compression`.
    pub compression: Option<Spanned<bool>>,
}

/// `[role.NAME]`.
#[derive(Debug)]
pub struct RoleEntry {
    /// NAME.
    pub name: Spanned<String>,
    /// Where `owns` and `found_as` stand, which do not belong in a role.
    pub alone: Vec<(&'static str, Span)>,
    /// `reads` to `audits`; `owns` and `found_as` are always empty.
    pub grants: GrantEntries,
}

/// `[service.NAME]`.
#[derive(Debug)]
pub struct ServiceEntry {
    /// NAME.
    pub name: Spanned<String>,
    /// `description`.
    pub description: Option<Spanned<String>>,
    /// `nkeys`.
    pub keys: Vec<KeyEntry>,
    /// `roles`.
    pub roles: Vec<Spanned<String>>,
    /// `owns` to `audits`.
    pub grants: GrantEntries,
    /// `account`, `lifetime`, `sources`, `connections`.
    pub settings: SettingEntries,
    /// `disabled`.
    pub disabled: Option<Spanned<String>>,
    /// `enforce`.
    pub enforce: Option<Spanned<String>>,
    /// `[service.NAME.before]`.
    pub before: Option<Box<BeforeEntry>>,
}

/// `[service.NAME.before]`: permissions as nats-server has them.
#[derive(Debug)]
pub struct BeforeEntry {
    /// The table.
    pub span: Span,
    /// `publish`.
    pub publish: Vec<Spanned<String>>,
    /// `deny_publish`.
    pub deny_publish: Vec<Spanned<String>>,
    /// `subscribe`.
    pub subscribe: Vec<Spanned<String>>,
    /// `deny_subscribe`.
    pub deny_subscribe: Vec<Spanned<String>>,
    /// `allow_responses`.
    pub allow_responses: Option<Spanned<bool>>,
}

/// An element of `nkeys`.
#[derive(Debug)]
pub struct KeyEntry {
    /// The public key.
    pub key: Spanned<String>,
    /// `not_before`, in seconds since the Unix epoch.
    pub not_before: Option<Spanned<i64>>,
    /// `not_after`, in seconds since the Unix epoch.
    pub not_after: Option<Spanned<i64>>,
}

/// An element of a list that grants something: a string, or a table with `entry` and `until`.
#[derive(Clone, Debug)]
pub struct GrantEntry {
    /// What is granted.
    pub text: Spanned<String>,
    /// `until`, in seconds since the Unix epoch. Few entries have one, and a policy has a million.
    pub until: Option<Box<Spanned<i64>>>,
}

/// The lists that grant something.
#[derive(Clone, Debug, Default)]
pub struct GrantEntries {
    /// `owns`.
    pub owns: Vec<GrantEntry>,
    /// `reads`.
    pub reads: Vec<GrantEntry>,
    /// `publishes`.
    pub publishes: Vec<GrantEntry>,
    /// `subscribes`.
    pub subscribes: Vec<GrantEntry>,
    /// `answers`.
    pub answers: Vec<GrantEntry>,
    /// `calls`.
    pub calls: Vec<GrantEntry>,
    /// `consumes`.
    pub consumes: Vec<GrantEntry>,
    /// `found_as`.
    pub found_as: Vec<GrantEntry>,
    /// `discovers`.
    pub discovers: Vec<GrantEntry>,
    /// `replays`.
    pub replays: Vec<GrantEntry>,
    /// `audits`.
    pub audits: Vec<GrantEntry>,
}

/// What may be set for one service, and in `[defaults]` for all.
#[derive(Debug, Default)]
pub struct SettingEntries {
    /// `account`.
    pub account: Option<Spanned<String>>,
    /// `lifetime`.
    pub lifetime: Option<Spanned<Duration>>,
    /// `sources`.
    pub sources: Option<Spanned<Vec<Spanned<String>>>>,
    /// `connections`.
    pub connections: Option<Spanned<Vec<Spanned<String>>>>,
}

impl SettingEntries {
    /// What is said here and not there: what a service gets from `[defaults]`.
    #[must_use]
    pub fn left_to(&self, service: &Self) -> Vec<&'static str> {
        let said = [
            ("account", self.account.is_some(), service.account.is_some()),
            ("lifetime", self.lifetime.is_some(), service.lifetime.is_some()),
            ("sources", self.sources.is_some(), service.sources.is_some()),
            ("connections", self.connections.is_some(), service.connections.is_some()),
        ];
        said.into_iter().filter(|(_, here, there)| *here && !there).map(|said| said.0).collect()
    }
}

/// Reads one file. Problems of syntax, types and unknown keys go to `problems`; what could be
/// read is returned all the same, so that its values are checked too.
#[must_use]
pub fn read(file: &SourceFile, problems: &Collector) -> Document {
    let Some(mut root) = toml::read(file, problems) else { return Document::default() };
    let document = Document {
        naming: root.table("naming").map(naming).into_iter().collect(),
        defaults: root.table("defaults").map(defaults).into_iter().collect(),
        buckets: root.tables("bucket").into_iter().map(|(name, t)| bucket(name, t)).collect(),
        streams: root.tables("stream").into_iter().map(|(name, t)| stream(name, t)).collect(),
        stores: root.tables("store").into_iter().map(|(name, t)| store(name, t)).collect(),
        roles: root.tables("role").into_iter().map(|(name, t)| role(name, t)).collect(),
        services: vec![root.tables("service").into_iter().map(|(n, t)| service(n, t)).collect()],
    };
    root.finish();
    document
}

impl Document {
    /// Takes what another document says in addition.
    pub fn merge(&mut self, other: Self) {
        let Self { naming, defaults, buckets, streams, stores, roles, services } = other;
        self.naming.extend(naming);
        self.defaults.extend(defaults);
        self.buckets.extend(buckets);
        self.streams.extend(streams);
        self.stores.extend(stores);
        self.roles.extend(roles);
        self.services.extend(services);
    }

    /// The names of the files with tables that reach services of any file.
    pub fn general(&self) -> BTreeSet<Arc<str>> {
        let naming = self.naming.iter().map(|table| &table.span);
        let defaults = self.defaults.iter().map(|table| &table.span);
        let roles = self.roles.iter().map(|role| &role.name.span);
        naming.chain(defaults).chain(roles).map(|span| Arc::clone(span.file().name())).collect()
    }
}

fn naming(mut table: Table<'_>) -> NamingEntry {
    let span = table.span().clone();
    let entry = NamingEntry {
        span,
        buckets: table.strings("buckets"),
        events: table.strings("events"),
        requests: table.strings("requests"),
        streams: table.strings("streams"),
        consumers: table.strings("consumers"),
        stores: table.strings("stores"),
        found: table.strings("found"),
        except: table.table_array("except").into_iter().filter_map(except).collect(),
    };
    table.finish();
    entry
}

fn except(mut table: Table<'_>) -> Option<ExceptEntry> {
    table.require("service", "\"NAME\"");
    table.require("entries", "[\"...\"]");
    table.require("reason", "\"why\"");
    let service = table.string("service");
    let entries = table.strings("entries");
    let reason = table.string("reason");
    table.finish();
    Some(ExceptEntry { service: service?, entries: entries?, reason: reason? })
}

fn defaults(mut table: Table<'_>) -> Spanned<SettingEntries> {
    let span = table.span().clone();
    let settings = settings(&mut table);
    table.finish();
    Spanned::new(settings, span)
}

fn bucket(name: Spanned<String>, mut table: Table<'_>) -> BucketEntry {
    let entry = BucketEntry {
        name,
        description: table.string("description"),
        history: table.integer("history", 1..=64),
        ttl: table.duration("ttl"),
        key_ttl: table.boolean("key_ttl"),
        limit_markers: table.duration("limit_markers"),
        max_value_size: table.size("max_value_size"),
        max_bytes: table.size("max_bytes"),
        replicas: table.integer("replicas", 1..=5),
        storage: table.string("storage"),
        compression: table.boolean("compression"),
        discard: table.string("discard"),
        direct: table.boolean("direct"),
        rollup: table.boolean("rollup"),
        duplicate_window: table.duration("duplicate_window"),
        part_owners: table.boolean("part_owners"),
        copy_of: table.string("copy_of"),
        domain: table.string("domain"),
    };
    table.finish();
    entry
}

fn stream(name: Spanned<String>, mut table: Table<'_>) -> StreamEntry {
    let entry = StreamEntry {
        name,
        description: table.string("description"),
        subjects: table.strings("subjects").unwrap_or_default(),
        retention: table.string("retention"),
        max_age: table.duration("max_age"),
        max_bytes: table.size("max_bytes"),
        max_messages: table.integer("max_messages", 1..=i64::MAX),
        max_per_subject: table.integer("max_per_subject", 1..=i64::MAX),
        max_message_size: table.size("max_message_size"),
        discard: table.string("discard"),
        duplicate_window: table.duration("duplicate_window"),
        storage: table.string("storage"),
        compression: table.boolean("compression"),
        replicas: table.integer("replicas", 1..=5),
        direct: table.boolean("direct"),
        writers: table.string("writers"),
        reason: table.string("reason"),
        domain: table.string("domain"),
        features: Feature::ALL
            .into_iter()
            .filter_map(|feature| Some((feature, table.boolean(feature.as_str())?)))
            .collect(),
        consumers: table.tables("consumer").into_iter().map(|(n, t)| consumer(n, t)).collect(),
    };
    table.finish();
    entry
}

fn consumer(name: Spanned<String>, mut table: Table<'_>) -> ConsumerEntry {
    let entry = ConsumerEntry {
        name,
        description: table.string("description"),
        filter: table.spanned_strings("filter"),
        ack: table.string("ack"),
        ack_wait: table.duration("ack_wait"),
        max_deliver: table.integer("max_deliver", 1..=i64::from(i32::MAX)),
        backoff: table.spanned_strings("backoff"),
        max_ack_pending: table.integer("max_ack_pending", 1..=i64::from(i32::MAX)),
        deliver: table.string("deliver"),
        replay: table.string("replay"),
        inactive: table.duration("inactive"),
        shared: table.string("shared"),
        made_by: table.string("made_by"),
        start_sequence: table.integer("start_sequence", 1..=i64::MAX),
        start_time: time(&mut table, "start_time"),
        push: table.boolean("push"),
        group: table.string("group"),
        heartbeat: table.duration("heartbeat"),
        flow_control: table.boolean("flow_control"),
        priority: table.string("priority"),
        priority_group: table.string("priority_group"),
        priority_timeout: table.duration("priority_timeout"),
    };
    table.finish();
    entry
}

fn store(name: Spanned<String>, mut table: Table<'_>) -> StoreEntry {
    let entry = StoreEntry {
        name,
        description: table.string("description"),
        ttl: table.duration("ttl"),
        max_bytes: table.size("max_bytes"),
        replicas: table.integer("replicas", 1..=5),
        storage: table.string("storage"),
        compression: table.boolean("compression"),
        domain: table.string("domain"),
    };
    table.finish();
    entry
}

fn role(name: Spanned<String>, mut table: Table<'_>) -> RoleEntry {
    // For people who read the file; nothing uses it.
    let _description = table.string("description");
    let alone = ["owns", "found_as"]
        .into_iter()
        .filter_map(|key| Some((key, table.spanned_strings(key)?.span)))
        .collect();
    let grants = grants(&mut table);
    table.finish();
    RoleEntry { name, alone, grants }
}

fn service(name: Spanned<String>, mut table: Table<'_>) -> ServiceEntry {
    let description = table.string("description");
    let keys = keys(&mut table);
    let roles = table.strings("roles").unwrap_or_default();
    let grants = GrantEntries {
        owns: entries(&mut table, "owns"),
        found_as: entries(&mut table, "found_as"),
        ..grants(&mut table)
    };
    let settings = settings(&mut table);
    let disabled = table.string("disabled");
    let enforce = table.string("enforce");
    let before = table.table("before").map(before).map(Box::new);
    table.finish();
    ServiceEntry { name, description, keys, roles, grants, settings, disabled, enforce, before }
}

fn before(mut table: Table<'_>) -> BeforeEntry {
    let entry = BeforeEntry {
        span: table.span().clone(),
        publish: table.strings("publish").unwrap_or_default(),
        deny_publish: table.strings("deny_publish").unwrap_or_default(),
        subscribe: table.strings("subscribe").unwrap_or_default(),
        deny_subscribe: table.strings("deny_subscribe").unwrap_or_default(),
        allow_responses: table.boolean("allow_responses"),
    };
    table.finish();
    entry
}

/// All but `owns` and `found_as`.
fn grants(table: &mut Table<'_>) -> GrantEntries {
    GrantEntries {
        owns: Vec::new(),
        found_as: Vec::new(),
        reads: entries(table, "reads"),
        publishes: entries(table, "publishes"),
        subscribes: entries(table, "subscribes"),
        answers: entries(table, "answers"),
        calls: entries(table, "calls"),
        consumes: entries(table, "consumes"),
        discovers: entries(table, "discovers"),
        replays: entries(table, "replays"),
        audits: entries(table, "audits"),
    }
}

const ENTRIES: &str = "an array of strings (or of tables with `entry` and `until`)";

fn entries(table: &mut Table<'_>, key: &'static str) -> Vec<GrantEntry> {
    let problems = table.problems();
    let values = table.values(key, ENTRIES).unwrap_or_default();
    values.into_iter().filter_map(|value| entry(key, value, problems)).collect()
}

fn entry(key: &str, value: Value<'_>, problems: &Collector) -> Option<GrantEntry> {
    let (found, span) = match value {
        Value::String(text) => return Some(GrantEntry { text, until: None }),
        Value::Table(mut table) => {
            table.require("entry", "\"...\"");
            table.require("until", "\"2027-01-31T00:00:00Z\"");
            let text = table.string("entry");
            let until = time(&mut table, "until");
            table.finish();
            // Without its end it would grant for ever what was meant for a while.
            return Some(GrantEntry { text: text?, until: Some(Box::new(until?)) });
        }
        Value::Datetime(other) => ("a datetime", other.span),
        Value::Other(found, span) => (found, span),
    };
    problems.push(
        Problem::error("wrong-type", format!("`{key}` must be {ENTRIES}"))
            .at(&span, format!("found {found}")),
    );
    None
}

fn settings(table: &mut Table<'_>) -> SettingEntries {
    SettingEntries {
        account: table.string("account"),
        lifetime: table.duration("lifetime"),
        sources: table.spanned_strings("sources"),
        connections: table.spanned_strings("connections"),
    }
}

const KEYS: &str = "an array of public NKEYs (strings, or tables with `key`)";

fn keys(table: &mut Table<'_>) -> Vec<KeyEntry> {
    let problems = table.problems();
    let Some(values) = table.values("nkeys", KEYS) else { return Vec::new() };
    values.into_iter().filter_map(|value| key(value, problems)).collect()
}

fn key(value: Value<'_>, problems: &Collector) -> Option<KeyEntry> {
    match value {
        Value::String(key) => Some(KeyEntry { key, not_before: None, not_after: None }),
        Value::Table(mut table) => {
            table.require("key", "\"U...\"");
            let key = table.string("key");
            let not_before = time(&mut table, "not_before");
            let not_after = time(&mut table, "not_after");
            table.finish();
            Some(KeyEntry { key: key?, not_before, not_after })
        }
        Value::Datetime(other) => wrong_key("a datetime", &other.span, problems),
        Value::Other(found, span) => wrong_key(found, &span, problems),
    }
}

fn wrong_key(found: &str, span: &Span, problems: &Collector) -> Option<KeyEntry> {
    problems.push(
        Problem::error("wrong-type", format!("`nkeys` must be {KEYS}"))
            .at(span, format!("found {found}")),
    );
    None
}

/// A TOML datetime with an offset, or the same as a string.
fn time(table: &mut Table<'_>, key: &'static str) -> Option<Spanned<i64>> {
    let problems = table.problems();
    let (text, span) = match table.value(key)? {
        Value::String(text) => (text.value, text.span),
        Value::Datetime(datetime) => (datetime.value.to_string(), datetime.span),
        Value::Table(table) => (String::new(), table.span().clone()),
        Value::Other(_, span) => (String::new(), span),
    };
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        Some(Spanned::new(time.as_second(), span))
    } else {
        problems.push(
            Problem::error("bad-time", format!("`{key}` is not a point in time"))
                .at(&span, "")
                .help("write date, time and offset from UTC, such as 2027-01-31T00:00:00Z"),
        );
        None
    }
}
