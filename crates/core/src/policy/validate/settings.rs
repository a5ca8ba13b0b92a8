//! Texts to values: what can be judged by looking at one entry.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ipnet::IpNet;

use crate::diagnostics::toml::nearest;
use crate::diagnostics::{Collector, Problem, Span, Spanned};
use crate::grant::{self, AuditStreams};
use crate::policy::document::{GrantEntries, GrantEntry, SettingEntries};
use crate::policy::model::{
    Access, Bucket, Consumed, ConsumerName, Domain, FoundName, Location, Replayed, Rule,
    STORE_PREFIX, StreamName, Terms, Way,
};
use solewriter_types::audit_event::{PRODUCER, SUBJECT_ROOT};
use solewriter_types::connection_type::ConnectionType;
use solewriter_types::keyspace::{BucketName, Keyspace, KeyspaceError};
use solewriter_types::kv_operation::domain_api;
use solewriter_types::subject::{Pattern, SubjectError};

/// The most rules that a policy may come to, with roles and `reads = ["*"]` written out.
pub const MAX_RULES: usize = 1_000_000;

/// The shortest and the longest lifetime of a connection's permissions.
const LIFETIME: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 3600);

/// The longest account name, in bytes: an account key has 56, a name seldom more.
const MAX_ACCOUNT_BYTES: usize = 255;

/// The values of [`SettingEntries`].
#[derive(Clone, Default)]
pub struct Settings {
    pub account: Option<Arc<str>>,
    pub lifetime: Option<Duration>,
    pub sources: Option<Vec<IpNet>>,
    pub connections: Option<Vec<ConnectionType>>,
}

impl Settings {
    /// What is set here, and for the rest what is set there.
    pub fn or(self, defaults: &Self) -> Self {
        Self {
            account: self.account.or_else(|| defaults.account.clone()),
            lifetime: self.lifetime.or(defaults.lifetime),
            sources: self.sources.or_else(|| defaults.sources.clone()),
            connections: self.connections.or_else(|| defaults.connections.clone()),
        }
    }
}

pub fn settings(entries: SettingEntries, problems: &Collector) -> Settings {
    Settings {
        account: entries.account.and_then(|name| account(&name, problems)),
        lifetime: entries.lifetime.and_then(|length| lifetime(&length, problems)),
        sources: entries.sources.map(|list| sources(&list, problems)),
        connections: entries.connections.map(|list| connections(&list, problems)),
    }
}

fn account(name: &Spanned<String>, problems: &Collector) -> Option<Arc<str>> {
    let text = name.value.as_str();
    let reason = if text.is_empty() {
        "it is empty"
    } else if text.len() > MAX_ACCOUNT_BYTES {
        "it is too long"
    } else if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        "it has whitespace or a control character"
    } else if text == "$SYS" {
        "no service may live in the system account"
    } else {
        return Some(text.into());
    };
    problems.push(
        Problem::error("bad-account", format!("`{}` cannot be an account: {reason}", shown(text)))
            .at(&name.span, "")
            .help("name an account of the server's configuration, or leave `account` out"),
    );
    None
}

fn lifetime(length: &Spanned<Duration>, problems: &Collector) -> Option<Duration> {
    if LIFETIME.contains(&length.value) {
        return Some(length.value);
    }
    problems.push(
        Problem::error("out-of-range", "`lifetime` is out of range")
            .at(&length.span, "must be 1 second to 366 days"),
    );
    None
}

fn sources(list: &Spanned<Vec<Spanned<String>>>, problems: &Collector) -> Vec<IpNet> {
    if list.value.is_empty() {
        problems.push(
            Problem::error("no-sources", "`sources` is empty")
                .at(&list.span, "no address is in an empty list")
                .help("leave `sources` out to allow any, or write `disabled = \"why\"`"),
        );
    }
    list.value.iter().filter_map(|entry| network(entry, problems)).collect()
}

fn network(entry: &Spanned<String>, problems: &Collector) -> Option<IpNet> {
    let text = entry.value.as_str();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.into());
    }
    let problem = Problem::error("bad-network", format!("`{}` is not a network", shown(text)));
    let problem = match text.parse::<IpNet>() {
        Ok(network) if network == network.trunc() => return Some(network),
        Ok(network) => problem.at(&entry.span, "has bits beyond the prefix").help(format!(
            "write the network, {}, or the one address, {}",
            network.trunc(),
            network.addr()
        )),
        Err(_) => problem
            .at(&entry.span, "")
            .help("write an address or a network with its prefix, such as 10.1.0.0/16 or fd00::/8"),
    };
    problems.push(problem);
    None
}

fn connections(list: &Spanned<Vec<Spanned<String>>>, problems: &Collector) -> Vec<ConnectionType> {
    if list.value.is_empty() {
        problems.push(
            Problem::error("no-connections", "`connections` is empty")
                .at(&list.span, "no connection is in an empty list")
                .help("leave `connections` out for STANDARD, or write `disabled = \"why\"`"),
        );
    }
    list.value.iter().filter_map(|entry| connection(entry, problems)).collect()
}

fn connection(entry: &Spanned<String>, problems: &Collector) -> Option<ConnectionType> {
    let found = ConnectionType::OFFERED.into_iter().find(|kind| kind.as_str() == entry.value);
    if entry.value == ConnectionType::Mqtt.as_str() {
        problems.push(
            Problem::error("no-mqtt", "no service can connect by MQTT")
                .at(&entry.span, "MQTT gives a client nothing to sign with its key")
                .help(
                    "remove it; MQTT devices need users of nats-server's own configuration, in an \
                     account apart from the services'",
                ),
        );
    } else if found.is_none() {
        let names = ConnectionType::OFFERED.map(ConnectionType::as_str);
        let help = match nearest(&entry.value, names) {
            Some(name) => format!("did you mean {name:?}?"),
            None => format!("the connection types are {}", names.join(", ")),
        };
        problems.push(
            Problem::error(
                "bad-connection-type",
                format!("`{}` is not a connection type", shown(&entry.value)),
            )
            .at(&entry.span, "")
            .help(help),
        );
    }
    found
}

/// The declared consumers of one stream.
pub struct OfStream {
    /// Their names.
    pub names: Arc<[StreamName]>,
    /// How a service uses each.
    pub ways: HashMap<StreamName, Way>,
}

/// The declared consumers of each declared stream.
pub type Durables = HashMap<StreamName, OfStream>;

/// The JetStream domains of what names one in its declaration.
#[derive(Default)]
pub struct Domains {
    pub buckets: HashMap<BucketName, Domain>,
    pub stores: HashMap<BucketName, Domain>,
    pub streams: HashMap<StreamName, Domain>,
}

/// The domain that a declaration names.
pub fn domain(
    said: Option<&Spanned<String>>,
    audit: &AuditStreams,
    problems: &Collector,
) -> Option<Domain> {
    let said = said?;
    let taken = |domain: &Domain| domain_api(domain.as_str()) == audit.api();
    let error = match Domain::parse(&said.value) {
        Ok(domain) if taken(&domain) => "services reach the audit streams by this name",
        Ok(domain) => return Some(domain),
        Err(error) => error,
    };
    let message = format!("`{}` cannot name a JetStream domain: {error}", shown(&said.value));
    problems.push(
        Problem::error("bad-domain", message).at(&said.span, "").help(
            "write the `domain` of `jetstream` in the configuration of the server that has it",
        ),
    );
    None
}

/// Whose table is read into rules, and with what around it.
pub struct Scope<'c> {
    /// The service that gets the rules.
    pub service: &'c str,
    /// The role whose table it is, if it is not the service's own.
    pub role: Option<&'c Arc<str>>,
    /// The declared buckets, for `reads = ["*"]`.
    pub buckets: &'c [Bucket],
    /// What is in a domain.
    pub domains: &'c Domains,
    /// The declared consumers, which `consumes` uses and `replays` leaves alone.
    pub durables: &'c Durables,
    /// The streams that `audits` may name.
    pub audit: &'c AuditStreams,
    /// How many rules may still be made in the whole policy.
    pub left: &'c AtomicUsize,
    pub problems: &'c Collector,
}

impl Scope<'_> {
    /// The JetStream domain of what is read, if its declaration names one.
    fn domain(&self, access: &Access) -> Option<Domain> {
        let Domains { buckets, stores, streams } = self.domains;
        let found = match access {
            Access::Owns(keyspace) | Access::Reads(keyspace) => buckets.get(keyspace.bucket()),
            Access::OwnsStore(store) | Access::ReadsStore(store) => stores.get(store),
            Access::Consumes(consumed) => streams.get(consumed.name.stream()),
            Access::Replays(replayed) => streams.get(replayed.stream()),
            _ => None,
        };
        found.cloned()
    }
}

/// Where a rule stands, for problems about it.
#[derive(Clone)]
pub struct Place {
    pub span: Span,
    /// Whether it is one of many that `reads = ["*"]` stands for.
    pub everything: bool,
}

/// Whether one more rule may be made.
pub fn one_more(left: &AtomicUsize) -> bool {
    let less = |left: usize| left.checked_sub(1);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
}

/// The rules of a table, each with its place. Entries with problems are left out.
pub fn rules(entries: &GrantEntries, scope: &Scope<'_>) -> (Vec<Rule>, Vec<Place>) {
    let mut rules = Vec::new();
    let mut places = Vec::new();
    let mut add = |access: Access, GrantEntry { text, until }: &GrantEntry, everything: bool| {
        let span = &text.span;
        // Counted, because roles and `*` make much of little text.
        if !one_more(scope.left) {
            return;
        }
        let terms = Terms {
            role: scope.role.cloned(),
            until: until.as_ref().map(|until| until.value),
            observed: false,
            domain: scope.domain(&access),
        };
        rules.push(Rule::new(access, Location::from(span)).on(terms));
        places.push(Place { span: span.clone(), everything });
    };
    for granted in &entries.owns {
        let entry = &granted.text;
        if let Some(name) = text(entry, scope).strip_prefix(STORE_PREFIX) {
            if let Some(store) = store(name, entry, scope) {
                add(Access::OwnsStore(store), granted, false);
            }
        } else if let Some(keyspace) = keyspace(entry, scope) {
            add(Access::Owns(keyspace), granted, false);
        }
    }
    for granted in &entries.reads {
        let entry = &granted.text;
        if entry.value == "*" {
            for bucket in scope.buckets {
                let keyspace = Keyspace::whole(bucket.name.clone());
                add(Access::Reads(keyspace), granted, true);
            }
        } else if let Some(name) = text(entry, scope).strip_prefix(STORE_PREFIX) {
            if let Some(store) = store(name, entry, scope) {
                add(Access::ReadsStore(store), granted, false);
            }
        } else if let Some(keyspace) = keyspace(entry, scope) {
            add(Access::Reads(keyspace), granted, false);
        }
    }
    for (key, list, access) in [
        ("publishes", &entries.publishes, Access::Publishes as fn(Pattern) -> Access),
        ("subscribes", &entries.subscribes, Access::Subscribes),
        ("answers", &entries.answers, Access::Answers),
        ("calls", &entries.calls, Access::Calls),
    ] {
        for granted in list {
            let entry = &granted.text;
            if let Some(pattern) = plain_subject(key, entry, scope) {
                add(access(pattern), granted, false);
            }
        }
    }
    for granted in &entries.consumes {
        let entry = &granted.text;
        if let Some(consumed) = consumed(entry, scope) {
            add(Access::Consumes(consumed), granted, false);
        }
    }
    for granted in &entries.found_as {
        let entry = &granted.text;
        if let Some(name) = found_name(&entry.value, entry, "\"quotes-api\"", scope) {
            add(Access::FoundAs(name), granted, false);
        }
    }
    for granted in &entries.discovers {
        let entry = &granted.text;
        let name = text(entry, scope);
        if name == "*" {
            add(Access::DiscoversAll, granted, false);
        } else if let Some(name) = found_name(&name, entry, "\"quotes-api\", or \"*\"", scope) {
            add(Access::Discovers(name), granted, false);
        }
    }
    for granted in &entries.replays {
        let entry = &granted.text;
        if let Some(replayed) = replayed(entry, scope) {
            add(Access::Replays(replayed), granted, false);
        }
    }
    for granted in &entries.audits {
        let entry = &granted.text;
        match StreamName::parse(&text(entry, scope)) {
            Ok(stream) if scope.audit.subjects_of(stream.as_str()).is_none() => {
                scope.problems.push(not_an_audit_stream(&stream, entry, scope));
            }
            Ok(stream) => add(Access::Audits(stream), granted, false),
            Err(error) => scope.problems.push(
                Problem::error(
                    "bad-stream",
                    format!("`{}` cannot be an audit stream: {error}", shown(&entry.value)),
                )
                .at(&entry.span, "")
                .help(format!("write {}", audit_streams(scope.audit))),
            ),
        }
    }
    (rules, places)
}

/// A consumer, and how a service uses it.
fn consumed(entry: &Spanned<String>, scope: &Scope<'_>) -> Option<Consumed> {
    let text = text(entry, scope);
    match ConsumerName::parse(&text) {
        Ok(name) => {
            let declared = scope.durables.get(name.stream());
            let way = declared.and_then(|declared| declared.ways.get(name.consumer()));
            let way = way.cloned().unwrap_or(Way::Pulls);
            Some(Consumed { name, way })
        }
        Err(error) => {
            scope.problems.push(
                Problem::error(
                    "bad-consumer",
                    format!("`{}` cannot be a consumer: {error}", shown(&text)),
                )
                .at(&entry.span, "")
                .help("write stream and consumer: \"EVENTS/shipping\""),
            );
            None
        }
    }
}

/// What is replayed, with the consumers that are left alone.
fn replayed(entry: &Spanned<String>, scope: &Scope<'_>) -> Option<Replayed> {
    let text = text(entry, scope);
    let durables = |stream: &StreamName| {
        let declared = scope.durables.get(stream);
        declared.map(|declared| Arc::clone(&declared.names)).unwrap_or_default()
    };
    match Replayed::parse(&text, durables) {
        Ok(replayed) => Some(replayed),
        Err(error) => {
            scope.problems.push(
                Problem::error(
                    "bad-replay",
                    format!("`{}` cannot be replayed: {error}", shown(&text)),
                )
                .at(&entry.span, "")
                .help(
                    "write \"EVENTS\" for a whole stream, or \"EVENTS/SUBJECTS\" for a part of it, such \
                     as \"EVENTS/events.orders.>\"",
                ),
            );
            None
        }
    }
}

fn audit_streams(audit: &AuditStreams) -> String {
    format!(
        "{:?} for what solewriter decided, {:?} for what services report",
        audit.events(),
        audit.services()
    )
}

fn not_an_audit_stream(stream: &StreamName, entry: &Spanned<String>, scope: &Scope<'_>) -> Problem {
    Problem::error("no-audit-stream", format!("`audits` may not hold `{stream}`"))
        .at(&entry.span, "this is no audit stream: reading it is not what `audits` grants")
        .help(format!(
            "write {}; if the audit streams have other names, the settings say so: [audit] stream \
             and services",
            audit_streams(scope.audit)
        ))
}

/// An entry's text; in a role, `{service}` stands for the service that has it.
fn text<'e>(entry: &'e Spanned<String>, scope: &Scope<'_>) -> Cow<'e, str> {
    if scope.role.is_some() && entry.value.contains("{service}") {
        Cow::Owned(entry.value.replace("{service}", scope.service))
    } else {
        Cow::Borrowed(&entry.value)
    }
}

fn store(name: &str, entry: &Spanned<String>, scope: &Scope<'_>) -> Option<BucketName> {
    if let Ok(store) = BucketName::parse(name) {
        return Some(store);
    }
    scope.problems.push(
        Problem::error("bad-store", format!("`{}` cannot name an object store", shown(name)))
            .at(&entry.span, "")
            .help("write `store:` and a name of letters, digits, `_` and `-`: \"store:invoices\""),
    );
    None
}

fn found_name(
    name: &str,
    entry: &Spanned<String>,
    example: &str,
    scope: &Scope<'_>,
) -> Option<FoundName> {
    match FoundName::parse(name) {
        Ok(name) => Some(name),
        Err(error) => {
            let message = format!("no service can be found as `{}`: {error}", shown(name));
            scope.problems.push(
                Problem::error("bad-found-name", message)
                    .at(&entry.span, "")
                    .help(format!("write the name that its client gives: {example}")),
            );
            None
        }
    }
}

fn keyspace(entry: &Spanned<String>, scope: &Scope<'_>) -> Option<Keyspace> {
    let text = text(entry, scope);
    let error = match Keyspace::parse(&text) {
        Ok(keyspace) => return Some(keyspace),
        Err(error) => error,
    };
    let help = match &error {
        KeyspaceError::BucketCharacter('$') if text.starts_with("$KV.") => {
            let mut parts = text.splitn(3, '.').skip(1);
            let bucket = parts.next().unwrap_or_default();
            match parts.next() {
                None | Some(">") => format!("write the bucket's name: \"{bucket}\""),
                Some(keys) => format!("write bucket and keys: \"{bucket}/{keys}\""),
            }
        }
        KeyspaceError::BucketCharacter('.') => {
            let (bucket, keys) = text.split_once('.').unwrap_or_default();
            format!("a slash is between bucket and keys: \"{bucket}/{keys}\"")
        }
        KeyspaceError::BucketCharacter('{') => BRACES.to_owned(),
        _ => "write \"BUCKET\" for a whole bucket, or \"BUCKET/KEYS\" for part of one, such as \
              \"orders/line.>\""
            .to_owned(),
    };
    scope.problems.push(
        Problem::error("bad-keyspace", format!("`{}` is not a keyspace: {error}", shown(&text)))
            .at(&entry.span, "")
            .help(help),
    );
    None
}

/// What to say where a placeholder does not work.
const BRACES: &str = "`{service}` stands for the service's name in roles and in `[naming]` only";

fn is_subject_and_queue(text: &str) -> bool {
    text.split_once(' ').is_some_and(|(subject, queue)| {
        Pattern::parse(subject).is_ok() && Pattern::parse(queue).is_ok()
    })
}

fn plain_subject(key: &str, entry: &Spanned<String>, scope: &Scope<'_>) -> Option<Pattern> {
    let problems = scope.problems;
    let written = text(entry, scope);
    let text = shown(&written);
    let pattern = match Pattern::parse(&written) {
        Ok(pattern) => pattern,
        Err(error) => {
            let help = match error {
                // As nats-server's own permissions name one: `SUBJECT QUEUE`.
                SubjectError::BadCharacter(' ')
                    if matches!(key, "subscribes" | "answers")
                        && is_subject_and_queue(&written) =>
                {
                    "there are no permissions for queue groups: leave the second word out; what a \
                     service may subscribe to, it may in any queue group"
                }
                SubjectError::BadCharacter(_) => "remove it",
                SubjectError::TooLong(_) => "shorten it, or use a wildcard",
                _ => "a subject is tokens with dots between them, such as \"events.orders.>\"",
            };
            problems.push(
                Problem::error("bad-subject", format!("`{text}` is not a subject: {error}"))
                    .at(&entry.span, "")
                    .help(help),
            );
            return None;
        }
    };
    let first = pattern.first_token();
    let reach = if pattern.starts_with_wildcard() {
        "a wildcard as first token covers `$KV`, `$JS`, `$SYS` and every inbox"
    } else if first == "$KV" {
        "keyspaces are granted by `owns` and `reads` only"
    } else if first.starts_with('$') {
        "subjects that begin with `$` belong to the server"
    } else if first.starts_with('_') {
        "subjects that begin with `_` are inboxes and the server's own replies"
    } else {
        if !own_audit_subject(key, &pattern, scope.service) {
            problems.push(others_audit_subject(key, &pattern, entry, scope));
            return None;
        }
        warn_of_odd_tokens(&pattern, entry, problems);
        return Some(pattern);
    };
    let help = if pattern.starts_with_wildcard() {
        "name the first token; write one entry for each"
    } else if first == "$KV" {
        "move it to `owns` or `reads`, as \"BUCKET\" or \"BUCKET/KEYS\""
    } else if matches!(first, "$JS" | "$O") {
        "remove it: what keyspaces need is granted by itself, and there are no permissions for \
         streams, consumers and object stores of a service's own"
    } else {
        "remove it: what keyspaces, requests and replies need is granted by itself"
    };
    problems.push(
        Problem::error("system-subject", format!("`{key}` may not hold `{text}`"))
            .at(&entry.span, reach)
            .help(help),
    );
    None
}

/// Whether a subject leaves the audit stream alone, or publishes as this service to it.
fn own_audit_subject(key: &str, pattern: &Pattern, service: &str) -> bool {
    !grant::reaches_audit(pattern)
        || (key == "publishes" && grant::is_own_audit_subject(pattern, service))
}

fn others_audit_subject(
    key: &str,
    pattern: &Pattern,
    entry: &Spanned<String>,
    scope: &Scope<'_>,
) -> Problem {
    let text = shown(pattern.as_str());
    let own = scope.role.map_or(scope.service, |_| "{service}");
    let (label, help) = if key == "publishes" && own == PRODUCER {
        (
            "these events would be taken for solewriter's own",
            "give the service another name than solewriter's".to_owned(),
        )
    } else if key == "publishes" {
        (
            "events of others would be in its reach",
            format!("an event says who it is from: write \"{SUBJECT_ROOT}.{own}.>\""),
        )
    } else {
        (
            "this belongs to the audit stream",
            format!("write `audits` for a service that reads them: {}", audit_streams(scope.audit)),
        )
    };
    Problem::error("audit-subject", format!("`{key}` may not hold `{text}`"))
        .at(&entry.span, label)
        .help(help)
}

/// Warns of what is an ordinary character to NATS, and hardly meant as one.
fn warn_of_odd_tokens(pattern: &Pattern, entry: &Spanned<String>, problems: &Collector) {
    let odd = |token: &&str| *token != "*" && *token != ">" && token.contains(['*', '>', '{', '}']);
    let Some(token) = pattern.as_str().split('.').find(odd) else { return };
    let help = if token.contains(['{', '}']) {
        BRACES
    } else {
        "`*` and `>` stand for whole tokens; a part of a token cannot be left open"
    };
    problems.push(
        Problem::warning(
            "literal-wildcard",
            format!("`{}` matches only itself, character by character", shown(token)),
        )
        .at(&entry.span, "likely matches nothing")
        .help(help),
    );
}

/// One of several words; `None` when nothing is written, or another word.
pub fn choice<T: Copy, const N: usize>(
    key: &str,
    written: Option<&Spanned<String>>,
    values: [T; N],
    name: impl Fn(T) -> &'static str,
    problems: &Collector,
) -> Option<T> {
    let written = written?;
    if let Some(value) = values.into_iter().find(|value| name(*value) == written.value) {
        return Some(value);
    }
    let names = values.map(|value| format!("{:?}", name(value))).join(" or ");
    problems.push(
        Problem::error("bad-value", format!("`{key}` cannot be `{}`", shown(&written.value)))
            .at(&written.span, format!("must be {names}")),
    );
    None
}

/// A text for a message: cut when it is long.
pub fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
