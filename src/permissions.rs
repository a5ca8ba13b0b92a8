//! What a service may do, as subjects. How KV operations become subjects is [`crate::operation`].
//!
//! Nothing here is a convenience: each subject is needed by an operation that a rule promises, and
//! names that operation and that rule.

use std::fmt;
use std::hash::{Hash as _, Hasher};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::digest;
use nats_jwt::{NatsClaims, NatsPermissions, NatsPermissionsMap};
use serde_json::value::RawValue;

use crate::audit::event::{
    DEFAULT_API, DEFAULT_SERVICES_STREAM, DEFAULT_STREAM, PRODUCER, SUBJECT_ROOT,
};
use crate::keyspace::Keyspace;
pub use crate::operation::inbox_prefix;
use crate::operation::{self, Needed};
use crate::policy::model::{Access, Rule, Service, StreamName};
use crate::subject::tree::PatternTree;
use crate::subject::{Pattern, StarError, SubjectError, deny_below_stars};

/// The most subjects that one service may be granted, before those that others cover are left out.
/// Every connection of it carries them all; so many take nats-server some 50 ms of each login.
pub const MAX_SUBJECTS: usize = 20_000;

/// What the user JWT may hold of subjects, in bytes: its answer, which has it twice in base64, is
/// then within nats-server's default `max_payload` of 1 MiB.
pub const MAX_SUBJECT_BYTES: usize = 580_000;

/// From how many subjects on a login is slow enough to be told of.
pub const MANY_SUBJECTS: usize = 5_000;

/// The longest search of one grant for subjects that others cover and for what is below stars.
const MAX_STEPS: usize = 2_000_000;

/// One subject that a service may use, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// The subject.
    pub subject: Pattern,
    /// What it is for: `put`, `watch`, `replies`.
    pub purpose: &'static str,
    /// The rule that put it there: an index into [`Grant::rules`].
    pub rule: usize,
}

/// Which side of a connection a subject is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What the client publishes to.
    Publish,
    /// What the client subscribes to.
    Subscribe,
}

/// Everything that one service gets from one policy revision.
#[derive(Debug)]
pub struct Grant {
    service: Arc<str>,
    account: Arc<str>,
    lifetime: Duration,
    rules: Vec<Rule>,
    publish: Vec<Permission>,
    subscribe: Vec<Permission>,
    audit: AuditStreams,
    claims: NatsClaims,
    digest: Digest,
}

/// Names what a connection gets, its account and its permissions: a SHA-256 in hexadecimal. It
/// stays the same from one policy revision to the next when the grant does.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Digest(Arc<str>);

impl Digest {
    fn of(account: &str, permissions: &NatsPermissionsMap) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        // Lengths, so that no two grants give the same bytes.
        let mut add = |text: &str| {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        };
        add(account);
        for side in [&permissions.publish, &permissions.subscribe] {
            for list in [&side.allow, &side.deny] {
                add(&list.len().to_string());
                for subject in list {
                    add(subject);
                }
            }
        }
        Self(data_encoding::HEXLOWER.encode(context.finish().as_ref()).into())
    }

    /// The digest as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All that a grant is made from, besides the settings: a SHA-256. Services with one basis get one
/// grant, in whichever revision and wherever they stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Basis([u8; 32]);

impl Basis {
    /// Of a service: everything that [`Grant::of`] reads of it and that is in [`Written`].
    #[must_use]
    pub fn of(service: &Service) -> Self {
        let Service { name, rules, account, lifetime, .. } = service;
        let mut all = Sha256(digest::Context::new(&digest::SHA256));
        (name, account, lifetime, rules.len()).hash(&mut all);
        for rule in rules {
            rule.access.hash(&mut all);
        }
        let mut basis = [0; 32];
        basis.iter_mut().zip(all.0.finish().as_ref()).for_each(|(to, from)| *to = *from);
        Self(basis)
    }
}

/// What derived `Hash` says of values, which is different for different ones.
struct Sha256(digest::Context);

impl Hasher for Sha256 {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Not what is wanted of it.
    fn finish(&self) -> u64 {
        0
    }
}

/// What the settings say for services that say nothing themselves.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// The account that connections are placed in.
    pub account: Arc<str>,
    /// How long permissions last.
    pub lifetime: Duration,
    /// The streams that `audits` may name, and the way to them.
    pub audit: AuditStreams,
}

/// The audit streams, as services see them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditStreams {
    events: Arc<str>,
    services: Arc<str>,
    api: Arc<str>,
}

impl Default for AuditStreams {
    fn default() -> Self {
        Self {
            events: DEFAULT_STREAM.into(),
            services: DEFAULT_SERVICES_STREAM.into(),
            api: DEFAULT_API.into(),
        }
    }
}

impl AuditStreams {
    /// Checks what a setting gives; the default stands for each that none does.
    ///
    /// # Errors
    /// What is wrong: the streams have one name, or what the API begins with is neither `$JS.API`
    /// nor `$JS.<TOKEN>.API`.
    pub fn new(
        events: Option<&StreamName>,
        services: Option<&StreamName>,
        api: Option<&str>,
    ) -> Result<Self, &'static str> {
        let default = Self::default();
        let name = |given: Option<&StreamName>, default: Arc<str>| {
            given.map_or(default, |name| name.as_str().into())
        };
        let (events, services) = (name(events, default.events), name(services, default.services));
        if events == services {
            return Err("services' events go into a stream of their own");
        }
        let api = match api {
            None => default.api,
            Some(api) if is_api(api) => api.into(),
            Some(_) => return Err("expected \"$JS.<ACCOUNT>.API\", or \"$JS.API\""),
        };
        Ok(Self { events, services, api })
    }

    /// The stream of what solewriter decided.
    #[must_use]
    pub fn events(&self) -> &str {
        &self.events
    }

    /// The stream of what services report.
    #[must_use]
    pub fn services(&self) -> &str {
        &self.services
    }

    /// What requests to the JetStream that has them begin with, in services' accounts.
    #[must_use]
    pub fn api(&self) -> &str {
        &self.api
    }

    /// Whether they are in the account of the buckets, as deployments of older versions have them.
    #[must_use]
    pub fn are_beside_buckets(&self) -> bool {
        &*self.api == "$JS.API"
    }

    /// The subjects in one of the two; `None` for any other stream.
    #[must_use]
    pub fn subjects_of(&self, stream: &str) -> Option<&'static str> {
        if stream == &*self.events {
            Some(AUDIT_SUBJECTS)
        } else if stream == &*self.services {
            Some(SERVICES_SUBJECTS)
        } else {
            None
        }
    }
}

/// Whether this is what JetStream's API begins with, here or through an import with a name of its
/// own.
fn is_api(text: &str) -> bool {
    let is_name = |token: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        (1..=64).contains(&token.len())
            && token.chars().all(allowed)
            && !["API", "ACK", "FC"].contains(&token)
    };
    text == "$JS.API"
        || text.strip_prefix("$JS.").and_then(|rest| rest.strip_suffix(".API")).is_some_and(is_name)
}

/// A subject that must never be granted came out. This is a defect in solewriter or in its
/// validation; the service is denied rather than granted it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// The subject reaches what no service may have.
    #[error("`{subject}` ({rule}) reaches `{forbidden}`, which is never granted")]
    Never {
        /// What came out.
        subject: String,
        /// What it reaches.
        forbidden: &'static str,
        /// The rule that it came from.
        rule: String,
    },
    /// It is no audit stream: validation should have refused it.
    #[error("`{0}` is no audit stream: `audits` may name those of the settings alone")]
    NoAuditStream(StreamName),
    /// Two subscriptions that validation should have refused together.
    #[error("two subscriptions of `{0}` cannot stand together: one ends in `*`")]
    StarConflict(Arc<str>),
    /// More than one connection can be given.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// Many subscriptions with `*` in many places.
    #[error("the subscriptions of `{0}` take too long to compare; use fewer that end in `*`")]
    TooEntangled(Arc<str>),
    /// The claims have no JSON form.
    #[error("the grant of `{0}` cannot be written as JSON")]
    Unwritable(Arc<str>),
    /// The subject is none.
    #[error("`{subject}` ({rule}) is not a subject: {error}")]
    Subject {
        /// What came out.
        subject: String,
        /// What is wrong with it.
        error: SubjectError,
        /// The rule that it came from.
        rule: String,
    },
}

/// A grant that no connection is given, because of its size alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// More than [`MAX_SUBJECTS`].
    #[error("it comes to more than {MAX_SUBJECTS} subjects, the most that one service may have")]
    Subjects,
    /// More than [`MAX_SUBJECT_BYTES`].
    #[error(
        "its {subjects} subjects take {bytes} bytes; {MAX_SUBJECT_BYTES} fit into an answer of 1 \
         MiB, nats-server's default `max_payload`"
    )]
    Bytes {
        /// How many subjects.
        subjects: usize,
        /// What they take in the user JWT.
        bytes: usize,
    },
    /// The answer is more than the server takes.
    #[error(
        "the answer has {bytes} bytes, and the server takes {max_payload} (`max_payload` in its \
         configuration)"
    )]
    Answer {
        /// What the signed answer takes.
        bytes: usize,
        /// What the server takes.
        max_payload: usize,
    },
}

/// What no service may publish to, whatever the policy says: requests whose body chooses the
/// subjects, whole-account administration, and replies that the server itself makes.
const NEVER_PUBLISH: [&str; 29] = [
    "$SYS.>",
    "$NRG.>",
    "$MQTT.>",
    "$SRV.>",
    "$JS.API.INFO",
    "$JS.API.ACCOUNT.>",
    "$JS.API.SERVER.>",
    "$JS.API.META.>",
    "$JS.API.STREAM.CREATE.>",
    "$JS.API.STREAM.UPDATE.>",
    "$JS.API.STREAM.DELETE.>",
    "$JS.API.STREAM.RESTORE.>",
    "$JS.API.STREAM.SNAPSHOT.>",
    "$JS.API.STREAM.MSG.DELETE.>",
    "$JS.API.STREAM.LEADER.>",
    "$JS.API.STREAM.PEER.>",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.TEMPLATE.>",
    "$JS.API.CONSUMER.LIST.>",
    "$JS.API.CONSUMER.NAMES.>",
    "$JS.API.CONSUMER.DURABLE.>",
    "$JS.API.CONSUMER.PAUSE.>",
    "$JS.API.CONSUMER.RESET.>",
    "$JS.API.CONSUMER.LEADER.>",
    "$JS.API.CONSUMER.UNPIN.>",
    "$JS.ACK.>",
    "_R_.>",
    "_GR_.>",
];

/// What no service may subscribe to. A literal core subscription on `$KV.…` would also let push
/// consumers deliver into keyspaces.
const NEVER_SUBSCRIBE: [&str; 8] =
    ["$KV.>", "$JS.>", "$SYS.>", "$NRG.>", "$MQTT.>", "_R_.>", "_GR_.>", "$SRV.>"];

/// Each with its twin in another account or domain: an import, like a domain, gives
/// `$JS.API.…` the name `$JS.<token>.API.…`.
fn parsed(list: &'static [&'static str]) -> Vec<(&'static str, Pattern)> {
    let pattern = |text: &'static str, form: &str| Some((text, Pattern::parse(form).ok()?));
    let twin = |text: &'static str| {
        let rest = text.strip_prefix("$JS.").filter(|_| text != "$JS.>")?;
        pattern(text, &format!("$JS.*.{rest}"))
    };
    list.iter().flat_map(|text| [pattern(text, text), twin(text)]).flatten().collect()
}

static NEVER_PUBLISH_PATTERNS: LazyLock<Vec<(&'static str, Pattern)>> =
    LazyLock::new(|| parsed(&NEVER_PUBLISH));
static NEVER_SUBSCRIBE_PATTERNS: LazyLock<Vec<(&'static str, Pattern)>> =
    LazyLock::new(|| parsed(&NEVER_SUBSCRIBE));

/// The never-granted subject that `pattern` reaches, if any.
#[must_use]
pub fn never_granted(side: Side, pattern: &Pattern) -> Option<&'static str> {
    let forbidden = match side {
        Side::Publish => &*NEVER_PUBLISH_PATTERNS,
        Side::Subscribe => &*NEVER_SUBSCRIBE_PATTERNS,
    };
    // Flow control, with wildcards behind it: no JetStream's API begins so (`is_api`).
    let flow = pattern.as_str().starts_with("$JS.FC.");
    forbidden
        .iter()
        .filter(|(text, never)| !flow || never.as_str() == *text)
        .find(|(_, never)| never.overlaps(pattern))
        .map(|(text, _)| *text)
}

/// Where audit events are published.
const AUDIT_SUBJECTS: &str = "audit.events.>";
/// Where those of services arrive.
const SERVICES_SUBJECTS: &str = "audit.services.>";

static AUDIT_PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
    [AUDIT_SUBJECTS, SERVICES_SUBJECTS].iter().filter_map(|s| Pattern::parse(s).ok()).collect()
});

/// Whether a subject is, or may stand for, one that an audit stream takes.
#[must_use]
pub fn reaches_audit(pattern: &Pattern) -> bool {
    AUDIT_PATTERNS.iter().any(|audit| audit.overlaps(pattern))
}

/// Whether a subject is one that the service publishes its own audit events to. A service that
/// has solewriter's own name has none: its events would be taken for decisions.
#[must_use]
pub fn is_own_audit_subject(pattern: &Pattern, service: &str) -> bool {
    if service == PRODUCER {
        return false;
    }
    let own = format!("{SUBJECT_ROOT}.{service}");
    [own.clone(), format!("{own}.>")]
        .iter()
        .any(|own| Pattern::parse(own).is_ok_and(|own| pattern.is_subset_of(&own)))
}

impl Grant {
    /// Turns a service's rules into permissions.
    ///
    /// # Errors
    /// [`GrantError`] when a subject came out that may never be granted: nothing is granted then.
    pub fn of(service: &Service, defaults: &Defaults) -> Result<Self, GrantError> {
        let audit = &defaults.audit;
        let mut builder = Builder { service, audit, publish: Vec::new(), subscribe: Vec::new() };
        for (index, rule) in service.rules.iter().enumerate() {
            builder.rule(index, rule)?;
        }
        let Builder { publish, subscribe, .. } = builder;
        let subscribed: Vec<&Pattern> = subscribe.iter().map(|p| &p.subject).collect();
        let mut steps = MAX_STEPS;
        let deny = deny_below_stars(&subscribed, &mut steps).map_err(|error| match error {
            StarError::Conflict { .. } => GrantError::StarConflict(service.name.clone()),
            StarError::TooEntangled => GrantError::TooEntangled(service.name.clone()),
        })?;
        let account = service.account.clone().unwrap_or_else(|| defaults.account.clone());
        let permissions = NatsPermissionsMap {
            publish: permissions(&publish, Vec::new(), &mut steps),
            subscribe: permissions(
                &subscribe,
                deny.iter().map(ToString::to_string).collect(),
                &mut steps,
            ),
        };
        check_size(&permissions)?;
        let digest = Digest::of(&account, &permissions);
        let claims = NatsClaims::User {
            permissions,
            // Empty is what the server takes for absent; it must be so without an operator.
            issuer_account: String::new(),
            subs: -1,
            data: -1,
            payload: -1,
            bearer_token: false,
            version: i64::from(crate::protocol::claims::VERSION),
        };
        Ok(Self {
            service: service.name.clone(),
            account,
            lifetime: service.lifetime.unwrap_or(defaults.lifetime),
            rules: service.rules.clone(),
            publish,
            subscribe,
            audit: defaults.audit.clone(),
            claims,
            digest,
        })
    }

    /// The audit streams that it was made for.
    #[must_use]
    pub fn audit(&self) -> &AuditStreams {
        &self.audit
    }

    /// Names account and permissions: two grants with one digest permit the same.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The service's name.
    #[must_use]
    pub fn service(&self) -> &Arc<str> {
        &self.service
    }

    /// The account that its connections are placed in.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }

    /// How long its permissions last.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// The rules that permissions refer to.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Every permission of one side, one for each rule that asks for it.
    #[must_use]
    pub fn permissions(&self, side: Side) -> &[Permission] {
        match side {
            Side::Publish => &self.publish,
            Side::Subscribe => &self.subscribe,
        }
    }

    /// How many subjects a connection carries for it.
    #[must_use]
    pub fn subjects(&self) -> usize {
        match &self.claims {
            NatsClaims::User { permissions: NatsPermissionsMap { publish, subscribe }, .. } => {
                [publish, subscribe].iter().map(|side| side.allow.len() + side.deny.len()).sum()
            }
            NatsClaims::Account { .. } => 0,
        }
    }

    /// The claims that go into the user JWT.
    #[must_use]
    pub fn claims(&self) -> &NatsClaims {
        &self.claims
    }

    /// What of it is needed to sign, again and again.
    ///
    /// # Errors
    /// [`GrantError::Unwritable`], which no grant is.
    pub fn written(&self) -> Result<Written, GrantError> {
        let claims = serde_json::value::to_raw_value(&self.claims);
        Ok(Written {
            service: self.service.clone(),
            account: self.account.clone(),
            lifetime: self.lifetime,
            digest: self.digest.clone(),
            claims: claims.map_err(|_| GrantError::Unwritable(self.service.clone()))?,
        })
    }
}

/// A grant as it is kept for signing: its claims are JSON already, and where each subject came
/// from is forgotten.
#[derive(Debug)]
pub struct Written {
    service: Arc<str>,
    account: Arc<str>,
    lifetime: Duration,
    digest: Digest,
    claims: Box<RawValue>,
}

impl Written {
    /// The service's name.
    #[must_use]
    pub fn service(&self) -> &Arc<str> {
        &self.service
    }

    /// The account that its connections are placed in.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }

    /// How long its permissions last.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Names account and permissions: two grants with one digest permit the same.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The `nats` object of the user JWT, as JSON.
    #[must_use]
    pub fn claims(&self) -> &RawValue {
        &self.claims
    }
}

/// The allow list without what another entry covers, and the deny list. Where nothing is
/// allowed, everything is denied: two empty lists would mean that everything is allowed.
///
/// An entry is left in when finding out would take more than `steps`: it changes nothing.
fn permissions(list: &[Permission], mut deny: Vec<String>, steps: &mut usize) -> NatsPermissions {
    let mut subjects: Vec<&Pattern> = list.iter().map(|p| &p.subject).collect();
    subjects.sort_unstable();
    subjects.dedup();
    // Only a wildcard covers anything but itself.
    let mut wide = PatternTree::new();
    for (entry, pattern) in subjects.iter().enumerate().filter(|(_, p)| !p.is_literal()) {
        wide.insert(pattern, entry, 0);
    }
    let covered = |(entry, pattern): (usize, &Pattern), steps: &mut usize| {
        wide.cover(pattern.as_str(), Some(entry), steps).is_ok_and(|cover| cover.is_some())
    };
    let allow: Vec<String> = subjects
        .iter()
        .enumerate()
        .filter(|(entry, pattern)| !covered((*entry, pattern), steps))
        .map(|(_, pattern)| pattern.to_string())
        .collect();
    if allow.is_empty() {
        deny = vec![">".to_owned()];
    }
    NatsPermissions { allow, deny }
}

/// Holds what is signed against what an answer has room for.
fn check_size(permissions: &NatsPermissionsMap) -> Result<(), TooLarge> {
    let sides = [&permissions.publish, &permissions.subscribe];
    let all = || sides.iter().flat_map(|side| side.allow.iter().chain(&side.deny));
    // Quotes and a comma; what JSON escapes takes one more byte.
    let written = |subject: &String| {
        subject.len() + 3 + subject.bytes().filter(|b| matches!(b, b'"' | b'\\')).count()
    };
    let bytes = all().map(written).sum();
    if bytes > MAX_SUBJECT_BYTES {
        return Err(TooLarge::Bytes { subjects: all().count(), bytes });
    }
    Ok(())
}

struct Builder<'a> {
    service: &'a Service,
    audit: &'a AuditStreams,
    publish: Vec<Permission>,
    subscribe: Vec<Permission>,
}

impl Builder<'_> {
    fn rule(&mut self, index: usize, rule: &Rule) -> Result<(), GrantError> {
        match &rule.access {
            Access::Owns(keyspace) => {
                self.publish_all(index, operation::writing(keyspace))?;
                self.read(index, keyspace)
            }
            Access::Reads(keyspace) => self.read(index, keyspace),
            Access::Publishes(pattern) => {
                self.publish(index, "publish", pattern.as_str())?;
                self.replies(index, "acknowledgements of a stream")
            }
            Access::Subscribes(pattern) => self.subscribe(index, "subscribe", pattern.as_str()),
            Access::Answers(pattern) => {
                self.subscribe(index, "take requests", pattern.as_str())?;
                // Never `resp`: it overrides every deny, so that a requester could choose any
                // subject for the reply. Inboxes are the only place where replies belong.
                self.publish(index, "reply to requests", "_INBOX.>")
            }
            Access::Calls(pattern) => {
                self.publish(index, "send requests", pattern.as_str())?;
                self.replies(index, "replies")
            }
            Access::Audits(stream) => self.audit(index, stream),
        }
    }

    /// What an ordered consumer takes, without acknowledgements, and reading by number.
    fn audit(&mut self, index: usize, stream: &StreamName) -> Result<(), GrantError> {
        let all = self.audit.subjects_of(stream.as_str());
        let all = all.ok_or_else(|| GrantError::NoAuditStream(stream.clone()))?;
        let api = self.audit.api();
        for (purpose, subject) in [
            ("open the audit stream", format!("STREAM.INFO.{stream}")),
            ("get an event", format!("DIRECT.GET.{stream}")),
            ("get the last event of a subject", format!("DIRECT.GET.{stream}.{all}")),
            ("get an event without direct get", format!("STREAM.MSG.GET.{stream}")),
            ("read events", format!("CONSUMER.CREATE.{stream}")),
            ("read events", format!("CONSUMER.CREATE.{stream}.*")),
            ("read events of some subjects", format!("CONSUMER.CREATE.{stream}.*.{all}")),
            ("check a consumer", format!("CONSUMER.INFO.{stream}.*")),
            ("end a consumer", format!("CONSUMER.DELETE.{stream}.*")),
            ("ask for the next events", format!("CONSUMER.MSG.NEXT.{stream}.*")),
        ] {
            self.publish(index, purpose, &format!("{api}.{subject}"))?;
        }
        for subject in operation::flow_control(stream.as_str()) {
            self.publish(index, "flow control of a consumer", &subject)?;
        }
        self.replies(index, "replies and events")
    }

    fn read(&mut self, index: usize, keyspace: &Keyspace) -> Result<(), GrantError> {
        self.publish_all(index, operation::reading(keyspace))?;
        self.replies(index, "replies, values and watched changes")
    }

    fn publish_all(&mut self, index: usize, needed: Vec<Needed>) -> Result<(), GrantError> {
        needed.into_iter().try_for_each(|(purpose, subject)| self.publish(index, purpose, &subject))
    }

    fn replies(&mut self, index: usize, purpose: &'static str) -> Result<(), GrantError> {
        self.subscribe(index, purpose, &format!("{}.>", inbox_prefix(&self.service.name)))
    }

    fn publish(
        &mut self,
        rule: usize,
        purpose: &'static str,
        subject: &str,
    ) -> Result<(), GrantError> {
        let permission = self.checked(Side::Publish, rule, purpose, subject)?;
        self.publish.push(permission);
        self.room()
    }

    fn subscribe(
        &mut self,
        rule: usize,
        purpose: &'static str,
        subject: &str,
    ) -> Result<(), GrantError> {
        let permission = self.checked(Side::Subscribe, rule, purpose, subject)?;
        self.subscribe.push(permission);
        self.room()
    }

    /// Before the rest is made: nobody gets part of a grant.
    fn room(&self) -> Result<(), GrantError> {
        if self.publish.len().max(self.subscribe.len()) > MAX_SUBJECTS {
            return Err(TooLarge::Subjects.into());
        }
        Ok(())
    }

    /// The last gate: whatever validation let through, nothing on the never-grant list, no
    /// leading wildcard and no other service's inbox leaves this module.
    fn checked(
        &self,
        side: Side,
        rule: usize,
        purpose: &'static str,
        subject: &str,
    ) -> Result<Permission, GrantError> {
        let said =
            || self.service.rules.get(rule).map(|r| r.access.to_string()).unwrap_or_default();
        let pattern = Pattern::parse(subject).map_err(|error| GrantError::Subject {
            subject: subject.to_owned(),
            error,
            rule: said(),
        })?;
        let own_inbox = inbox_prefix(&self.service.name);
        let forbidden = if pattern.starts_with_wildcard() {
            Some("everything")
        } else if side == Side::Subscribe
            && pattern.first_token() == "_INBOX"
            && subject.strip_prefix(&own_inbox).is_none_or(|rest| !rest.starts_with('.'))
        {
            Some("_INBOX.>")
        } else {
            let own =
                || side == Side::Publish && is_own_audit_subject(&pattern, &self.service.name);
            let audit = || (reaches_audit(&pattern) && !own()).then_some(AUDIT_SUBJECTS);
            never_granted(side, &pattern).or_else(audit)
        };
        match forbidden {
            Some(forbidden) => {
                Err(GrantError::Never { subject: subject.to_owned(), forbidden, rule: said() })
            }
            None => Ok(Permission { subject: pattern, purpose, rule }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::validate::validate;
    use crate::source::SourceFile;

    fn streams(api: &str) -> Result<AuditStreams, &'static str> {
        AuditStreams::new(None, None, Some(api))
    }

    #[test]
    fn audits_reaches_no_other_api_than_the_one_that_is_set() {
        for api in ["$JS.API", "$JS.AUDIT.API", "$JS.audit-2_x.API"] {
            assert_eq!(streams(api).unwrap().api(), api);
        }
        for api in [
            "",
            "$JS",
            "$JS.",
            "$JS..API",
            "$JS.*.API",
            "$JS.>.API",
            "$JS.>",
            "$JS.API.API",
            "$JS.ACK.API",
            "$JS.FC.API",
            "$JS.A.B.API",
            "$JS.A.API.",
            "$JS.A.api",
            "$KV.A.API",
            "$JS.A B.API",
            "JS.A.API",
            "$JS.API.STREAM.DELETE.API",
        ] {
            assert!(streams(api).is_err(), "{api:?}");
        }
        let name = |text: &str| StreamName::parse(text).unwrap();
        assert!(AuditStreams::new(Some(&name("X")), Some(&name("X")), None).is_err());
        let own = AuditStreams::new(Some(&name("X")), Some(&name("Y")), None).unwrap();
        assert_eq!(own.subjects_of("X"), Some("audit.events.>"));
        assert_eq!(own.subjects_of("Y"), Some("audit.services.>"));
        assert_eq!(own.subjects_of("AUDIT_EVENTS"), None);
    }

    #[test]
    fn what_is_no_audit_stream_is_not_granted_either() {
        let text = "[service.a]\naudits = [\"AUDIT_EVENTS\"]\n";
        let mut service = validate(&[SourceFile::new("p.toml", text)])
            .unwrap()
            .policy
            .service("a")
            .unwrap()
            .clone();
        let defaults = Defaults {
            account: "APP".into(),
            lifetime: Duration::from_secs(60),
            audit: AuditStreams::default(),
        };
        Grant::of(&service, &defaults).unwrap();
        service.rules[0].access = Access::Audits(StreamName::parse("EVENTS").unwrap());
        let refused = Grant::of(&service, &defaults);
        assert!(matches!(refused, Err(GrantError::NoAuditStream(_))), "{refused:?}");
    }

    #[test]
    fn an_api_under_another_name_is_the_same_api() {
        for never in NEVER_PUBLISH.iter().filter(|never| never.starts_with("$JS.")) {
            for prefix in ["$JS.AUDIT.", "$JS.STATE.", "$JS.hub.", "$JS.*."] {
                let twin = never.replacen("$JS.", prefix, 1);
                let found = never_granted(Side::Publish, &Pattern::parse(&twin).unwrap());
                assert!(found.is_some(), "{twin}");
            }
        }
        for allowed in [
            "$JS.AUDIT.API.STREAM.INFO.AUDIT_EVENTS",
            "$JS.AUDIT.API.CONSUMER.CREATE.AUDIT_EVENTS",
            "$JS.AUDIT.API.DIRECT.GET.AUDIT_EVENTS.audit.events.>",
            "$JS.FC.AUDIT_EVENTS.>",
        ] {
            let found = never_granted(Side::Publish, &Pattern::parse(allowed).unwrap());
            assert_eq!(found, None, "{allowed}");
        }
    }

    #[test]
    fn a_service_publishes_its_own_audit_events_unless_it_has_solewriters_name() {
        for (subject, service, own) in [
            ("audit.events.orders.>", "orders", true),
            ("audit.events.orders.run1", "orders", true),
            ("audit.events.orders.>", "billing", false),
            ("audit.events.>", "orders", false),
            ("audit.events.solewriter.>", "solewriter", false),
            ("audit.services.orders.>", "orders", false),
        ] {
            let pattern = Pattern::parse(subject).unwrap();
            assert_eq!(is_own_audit_subject(&pattern, service), own, "{subject} {service}");
        }
    }

    fn permission(text: &str) -> Permission {
        Permission { subject: Pattern::parse(text).unwrap(), purpose: "", rule: 0 }
    }

    /// Subjects of a service that reads that many buckets, and more that cover some of them.
    fn long(buckets: usize) -> Vec<Permission> {
        let keyspace = |n| Keyspace::parse(&format!("bucket{n}")).unwrap();
        let mut list: Vec<Permission> = (0..buckets)
            .flat_map(|n| operation::reading(&keyspace(n)))
            .map(|(_, subject)| permission(&subject))
            .collect();
        list.push(permission("$JS.FC.>"));
        list
    }

    #[test]
    fn the_steps_of_a_long_list_grow_as_its_length() {
        let steps = |buckets| {
            let list = long(buckets);
            let mut left = usize::MAX;
            let made = permissions(&list, Vec::new(), &mut left);
            assert_eq!(made.allow.len(), list.len() - 2 * buckets, "flow control is one entry");
            usize::MAX - left
        };
        let (few, many) = (steps(100), steps(1_000));
        assert!(many <= 11 * few, "{few} steps for 100 buckets, {many} for 1,000");
    }

    #[test]
    fn what_takes_too_long_to_compare_is_left_as_it_is() {
        let list = long(10);
        let made = permissions(&list, Vec::new(), &mut 0);
        assert_eq!(made.allow.len(), list.len(), "each of them, once");
        // And a crowd of wildcards in many places is bounded.
        let list: Vec<Permission> = (0..1 << 13)
            .map(|i: u32| {
                let tokens: String =
                    (0..13).map(|bit| if i >> bit & 1 == 0 { "a." } else { "*." }).collect();
                permission(&format!("s.{tokens}x"))
            })
            .collect();
        let mut steps = 100_000;
        assert!(permissions(&list, Vec::new(), &mut steps).allow.len() > 1);
        assert_eq!(steps, 0);
    }

    proptest::proptest! {
        #[test]
        fn what_others_cover_is_left_out(
            list in proptest::collection::vec("(a|b|\\*)(\\.(a|b|\\*)){0,3}(\\.>)?|>", 0..12)
        ) {
            let list: Vec<Permission> = list.iter().map(|text| permission(text)).collect();
            let mut all: Vec<&Pattern> = list.iter().map(|p| &p.subject).collect();
            all.sort();
            all.dedup();
            let covered = |s: &&Pattern| all.iter().any(|o| o != s && s.is_subset_of(o));
            let expected: Vec<String> =
                all.iter().filter(|s| !covered(s)).map(ToString::to_string).collect();
            let mut steps = usize::MAX;
            proptest::prop_assert_eq!(permissions(&list, Vec::new(), &mut steps).allow, expected);
        }
    }

    #[test]
    fn what_has_no_room_in_an_answer_is_refused_with_its_size() {
        let grant = |count: usize, length: usize| {
            let subject = |n| format!("{n:0length$}");
            let list: Vec<String> = (0..count).map(subject).collect();
            let text = format!("[service.a]\npublishes = {list:?}\n");
            let policy = validate(&[SourceFile::new("p.toml", text)]).unwrap().policy;
            let defaults = Defaults {
                account: "APP".into(),
                lifetime: Duration::from_secs(60),
                audit: crate::permissions::AuditStreams::default(),
            };
            Grant::of(policy.service("a").unwrap(), &defaults)
        };
        let subjects = grant(MAX_SUBJECTS, 6).unwrap().subjects();
        assert_eq!(subjects, MAX_SUBJECTS + 1, "and the inbox");
        let too_many = grant(MAX_SUBJECTS + 1, 6).unwrap_err();
        assert_eq!(too_many, GrantError::TooLarge(TooLarge::Subjects));
        // Each takes 100 bytes, with two quotes and a comma; the inbox takes the rest.
        let fits = MAX_SUBJECT_BYTES / 103 - 1;
        grant(fits, 100).unwrap();
        match grant(fits + 2, 100) {
            Err(GrantError::TooLarge(TooLarge::Bytes { subjects, bytes })) => {
                assert_eq!(subjects, fits + 3);
                assert!(bytes > MAX_SUBJECT_BYTES, "{bytes}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_last_gate_stops_what_validation_let_through() {
        let text = "[service.a]\npublishes = [\"events.x\"]\n";
        let policy = validate(&[SourceFile::new("p.toml", text)]).unwrap().policy;
        let defaults = Defaults {
            account: "APP".into(),
            lifetime: Duration::from_secs(60),
            audit: crate::permissions::AuditStreams::default(),
        };
        let service = policy.service("a").unwrap();
        Grant::of(service, &defaults).unwrap();
        let publish = Access::Publishes as fn(Pattern) -> Access;
        let subscribe = Access::Subscribes as fn(Pattern) -> Access;
        // Written out, and not taken from the lists: what is missing there is missed here.
        let published = [
            "$SYS.REQ.USER.AUTH",
            "$SYS.REQ.SERVER.PING.CONNZ",
            "$NRG.V.x",
            "$MQTT.msgs.x",
            "$SRV.PING",
            "$JS.API.INFO",
            "$JS.API.ACCOUNT.PURGE.APP",
            "$JS.API.SERVER.REMOVE",
            "$JS.API.META.LEADER.STEPDOWN",
            "$JS.API.STREAM.CREATE.KV_b",
            "$JS.API.STREAM.UPDATE.KV_b",
            "$JS.API.STREAM.DELETE.KV_b",
            "$JS.API.STREAM.RESTORE.KV_b",
            "$JS.API.STREAM.SNAPSHOT.KV_b",
            "$JS.API.STREAM.MSG.DELETE.KV_b",
            "$JS.API.STREAM.LEADER.STEPDOWN.KV_b",
            "$JS.API.STREAM.PEER.REMOVE.KV_b",
            "$JS.API.STREAM.LIST",
            "$JS.API.STREAM.NAMES",
            "$JS.API.STREAM.TEMPLATE.CREATE.t",
            "$JS.API.CONSUMER.LIST.KV_b",
            "$JS.API.CONSUMER.NAMES.KV_b",
            "$JS.API.CONSUMER.DURABLE.CREATE.KV_b.c",
            "$JS.API.CONSUMER.PAUSE.KV_b.c",
            "$JS.API.CONSUMER.LEADER.STEPDOWN.KV_b.c",
            "$JS.API.CONSUMER.RESET.KV_b.c",
            "$JS.API.CONSUMER.UNPIN.KV_b.c",
            "$JS.ACK.KV_b.c.1.1.1.1.0",
            "_R_.x",
            "_GR_.x.y",
            "$JS.API.>",
            "$JS.>",
            "$SYS.>",
            ">",
            "*.API.>",
            "$JS.*.API.>",
            "$JS.AUDIT.API.STREAM.CREATE.AUDIT_EVENTS",
            "$JS.AUDIT.API.STREAM.DELETE.>",
            "audit.services.b.x",
        ];
        let subscribed = [
            "$KV.b.k",
            "$KV.>",
            "$JS.API.STREAM.INFO.KV_b",
            "$JS.>",
            "$SYS.REQ.USER.AUTH",
            "$SYS.>",
            "$NRG.V.x",
            "$MQTT.sub.x",
            "_R_.x",
            "_GR_.x.y",
            "$SRV.PING",
            "_INBOX.>",
            "_INBOX.b.>",
            ">",
        ];
        // An entry that nothing above reaches could go without a test that fails.
        for (side, literal, list) in [
            (Side::Publish, published.as_slice(), NEVER_PUBLISH.as_slice()),
            (Side::Subscribe, subscribed.as_slice(), NEVER_SUBSCRIBE.as_slice()),
        ] {
            let reached: Vec<&str> = literal
                .iter()
                .filter_map(|subject| never_granted(side, &Pattern::parse(subject).unwrap()))
                .collect();
            for never in list {
                assert!(reached.contains(never), "{never}: {side:?}");
            }
        }
        let cases = published.map(|subject| (publish, subject)).into_iter();
        for (access, never) in cases.chain(subscribed.map(|subject| (subscribe, subject))) {
            let mut hostile = service.clone();
            hostile.rules[0].access = access(Pattern::parse(never).unwrap());
            let refused = Grant::of(&hostile, &defaults);
            assert!(matches!(refused, Err(GrantError::Never { .. })), "{never}: {refused:?}");
        }
    }
}
