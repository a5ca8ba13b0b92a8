//! A service's rules, compiled to a grant: subjects, and the claims of the user JWT.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use nats_jwt::{NatsClaims, NatsPermissions, NatsPermissionsMap};
use serde_json::value::RawValue;

use super::digest::Digest;
use super::reserved::{
    ACKS, Acknowledged, DISCOVERY, Side, acknowledged, is_discovery, is_own_audit_subject,
    never_granted, reaches_audit,
};
use super::streams::{AUDIT_SUBJECTS, AuditStreams};
use crate::callout::claims::VERSION;
use crate::keys::AccountKey;
use crate::policy::model::{Access, Consumed, Replayed, Rule, Service, StreamName, Way};
use solewriter_types::keyspace::{BucketName, Keyspace};
use solewriter_types::kv_operation::{self, Needed, inbox_prefix};
use solewriter_types::subject::tree::PatternTree;
use solewriter_types::subject::{Pattern, StarError, SubjectError, deny_below_stars};

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
    #[error("`{0}` is not an audit stream; `audits` may name only the streams in the settings")]
    NoAuditStream(StreamName),
    /// Two subscriptions that validation should have refused together.
    #[error("two subscriptions of `{0}` conflict: one ends in `*`")]
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
    #[error("it has more than {MAX_SUBJECTS} subjects, the limit for one service")]
    Subjects,
    /// More than [`MAX_SUBJECT_BYTES`].
    #[error(
        "its {subjects} subjects take {bytes} bytes; at most {MAX_SUBJECT_BYTES} fit into an \
         answer of 1 \
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

impl Grant {
    /// Turns a service's rules into permissions.
    ///
    /// # Errors
    /// [`GrantError`] when a subject came out that may never be granted: nothing is granted then.
    pub fn of(service: &Service, defaults: &Defaults) -> Result<Self, GrantError> {
        let audit = &defaults.audit;
        let mut builder = Builder {
            service,
            audit,
            publish: Vec::new(),
            subscribe: Vec::new(),
            denied: BTreeSet::new(),
            own: own_consumers(service),
        };
        for (index, rule) in service.rules.iter().enumerate() {
            builder.rule(index, rule)?;
        }
        let Builder { publish, subscribe, denied, .. } = builder;
        let subscribed: Vec<&Pattern> = subscribe.iter().map(|p| &p.subject).collect();
        let mut steps = MAX_STEPS;
        let deny = deny_below_stars(&subscribed, &mut steps).map_err(|error| match error {
            StarError::Conflict { .. } => GrantError::StarConflict(service.name.clone()),
            StarError::TooEntangled => GrantError::TooEntangled(service.name.clone()),
        })?;
        let account = service.account.clone().unwrap_or_else(|| defaults.account.clone());
        let permissions = NatsPermissionsMap {
            publish: permissions(&publish, denied.into_iter().collect(), &mut steps),
            subscribe: permissions(
                &subscribe,
                deny.iter().chain(&service.excluded.subscribe).map(ToString::to_string).collect(),
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
            version: i64::from(VERSION),
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
    pub fn written(&self) -> Result<CompiledGrant, GrantError> {
        let claims = serde_json::value::to_raw_value(&self.claims);
        Ok(CompiledGrant {
            service: self.service.clone(),
            account: self.account.clone(),
            lifetime: self.lifetime,
            digest: self.digest.clone(),
            claims: claims.map_err(|_| GrantError::Unwritable(self.service.clone()))?,
        })
    }
}

/// The field that is empty without an operator.
const NO_ISSUER: &str = "\"issuer_account\":\"\"";

/// A grant as it is kept for signing: its claims are JSON already, and where each subject came
/// from is forgotten.
#[derive(Debug)]
pub struct CompiledGrant {
    service: Arc<str>,
    account: Arc<str>,
    lifetime: Duration,
    digest: Digest,
    claims: Box<RawValue>,
}

impl CompiledGrant {
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

    /// The same with the account whose key signs, as operator mode wants it.
    #[must_use]
    pub fn claims_of(&self, account: &AccountKey) -> Option<Box<RawValue>> {
        // In the text of a subject a quote is escaped, so this is the field itself.
        let (before, after) = self.claims.get().split_once(NO_ISSUER)?;
        let field = NO_ISSUER.strip_suffix('"')?;
        RawValue::from_string([before, field, account.as_str(), "\"", after].concat()).ok()
    }
}

/// The allow list without what another entry covers, and the deny list. Where nothing is
/// allowed, everything is denied: two empty lists would mean that everything is allowed.
///
/// An entry is left in when finding out would take more than `steps`: it changes nothing.
pub(super) fn permissions(
    list: &[Permission],
    mut deny: Vec<String>,
    steps: &mut usize,
) -> NatsPermissions {
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
    /// What it may not publish to, although a permission reaches it.
    denied: BTreeSet<String>,
    /// The consumers that it uses, and how.
    own: HashMap<(&'a str, &'a str), &'a Way>,
}

fn own_consumers(service: &Service) -> HashMap<(&str, &str), &Way> {
    let own = service.rules.iter().filter_map(|rule| match &rule.access {
        Access::Consumes(Consumed { name, way }) => {
            Some(((name.stream().as_str(), name.consumer().as_str()), way))
        }
        _ => None,
    });
    own.collect()
}

impl Builder<'_> {
    fn rule(&mut self, index: usize, rule: &Rule) -> Result<(), GrantError> {
        match &rule.access {
            Access::Owns(keyspace) => {
                self.write(index, kv_operation::writing(keyspace))?;
                self.read(index, keyspace)
            }
            Access::Writes(keyspace) => self.write(index, kv_operation::writing(keyspace)),
            Access::Reads(keyspace) => self.read(index, keyspace),
            Access::OwnsStore(store) => {
                self.write(index, kv_operation::writing_store(store.as_str()).into())?;
                self.read_store(index, store)
            }
            Access::WritesStore(store) => {
                self.write(index, kv_operation::writing_store(store.as_str()).into())
            }
            Access::ReadsStore(store) => self.read_store(index, store),
            Access::Publishes(pattern) => {
                self.publish(index, "publish", pattern.as_str())?;
                self.replies(index, "acknowledgements of a stream")
            }
            Access::Subscribes(pattern) => self.subscribe(index, "subscribe", pattern.as_str()),
            Access::Answers(pattern) => {
                self.subscribe(index, "take requests", pattern.as_str())?;
                self.reply(index)
            }
            Access::Calls(pattern) => {
                self.publish(index, "send requests", pattern.as_str())?;
                self.replies(index, "replies")
            }
            Access::Consumes(consumed) => self.consume(index, consumed),
            Access::FoundAs(name) => {
                for (purpose, subject) in kv_operation::found(name.as_str()) {
                    self.subscribe(index, purpose, &subject)?;
                }
                self.reply(index)
            }
            Access::Discovers(name) => self.discover(index, Some(name.as_str())),
            Access::DiscoversAll => self.discover(index, None),
            Access::Replays(replayed) => self.replay(index, replayed),
            Access::Audits(stream) => self.audit(index, stream),
        }
    }

    /// What an owner alone does. Where some of its subjects are held, so is the request that removes
    /// messages of all.
    fn write(&mut self, index: usize, needed: Vec<Needed>) -> Result<(), GrantError> {
        let held = || self.service.held.iter().chain(&self.service.excluded.publish);
        let some_held = held().next().is_some()
            && needed.iter().any(|(_, subject)| {
                Pattern::parse(subject).is_ok_and(|s| held().any(|held| held.overlaps(&s)))
            });
        let of_all = |subject: &str| subject.starts_with(kv_operation::API);
        let granted = needed.into_iter().filter(|(_, subject)| !(some_held && of_all(subject)));
        self.publish_all(index, granted)
    }

    /// Never `resp`: it overrides every deny, so that a requester could choose any subject for the
    /// reply. Inboxes are the only place where replies belong.
    fn reply(&mut self, index: usize) -> Result<(), GrantError> {
        self.publish(index, "reply to requests", "_INBOX.>")
    }

    fn discover(&mut self, index: usize, name: Option<&str>) -> Result<(), GrantError> {
        self.publish_all(index, kv_operation::discovering(name))?;
        self.replies(index, "replies of services")
    }

    /// Of a consumer that exists, or that the service's client makes: nothing that makes or changes
    /// another one.
    fn consume(&mut self, index: usize, consumed: &Consumed) -> Result<(), GrantError> {
        let (stream, name) = (consumed.name.stream().as_str(), consumed.name.consumer().as_str());
        if consumed.way == Way::Listens {
            self.reach(index, kv_operation::taking(stream, name).into())?;
            self.subscribe(index, "take messages", &kv_operation::pushed_to(stream, name))?;
        } else {
            self.reach(index, kv_operation::consuming(stream, name).into())?;
        }
        if let Way::Makes(filter) = &consumed.way {
            let filter = filter.as_ref().map(Pattern::as_str);
            self.reach(index, kv_operation::making(stream, name, filter))?;
        }
        self.replies(index, "replies and messages")
    }

    /// With consumers that the service makes, and without those that the policy declares: under a
    /// name that is there, creating a consumer changes it, whatever its filter is. From another
    /// domain only where there are none: on the way across a leafnode no name can be left out.
    fn replay(&mut self, index: usize, replayed: &Replayed) -> Result<(), GrantError> {
        let (stream, durables) = (replayed.stream(), replayed.durables());
        let filter = replayed.filter().map(Pattern::as_str);
        let needed = kv_operation::replaying(stream.as_str(), filter, durables.is_empty());
        if durables.is_empty() {
            self.reach(index, needed)?;
        } else {
            self.publish_all(index, needed)?;
        }
        for durable in durables {
            let (stream, durable) = (stream.as_str(), durable.as_str());
            let reach = match self.own.get(&(stream, durable)) {
                None => kv_operation::Reach::Anothers,
                Some(Way::Pulls | Way::Listens) => kv_operation::Reach::Used,
                Some(Way::Makes(_)) => kv_operation::Reach::Made,
            };
            self.denied.extend(kv_operation::reaching(stream, durable, reach));
            self.room()?;
        }
        self.replies(index, "replies and messages")
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
        for subject in kv_operation::flow_control(stream.as_str()) {
            self.publish(index, "flow control of a consumer", &subject)?;
        }
        self.replies(index, "replies and events")
    }

    fn read(&mut self, index: usize, keyspace: &Keyspace) -> Result<(), GrantError> {
        self.reach(index, kv_operation::reading(keyspace))?;
        self.replies(index, "replies, values and watched changes")
    }

    /// What reads, also from another JetStream domain, if what is read is in one. Nobody writes from
    /// there: what is on its way across a leafnode, a handover could not wait for.
    fn reach(&mut self, index: usize, needed: Vec<Needed>) -> Result<(), GrantError> {
        let domain = self.service.rules.get(index).and_then(Rule::domain);
        let far: Vec<Needed> = domain.map_or_else(Vec::new, |domain| {
            needed.iter().filter_map(|n| kv_operation::in_domain(domain.as_str(), n)).collect()
        });
        self.publish_all(index, needed.into_iter().chain(far))
    }

    fn read_store(&mut self, index: usize, store: &BucketName) -> Result<(), GrantError> {
        self.reach(index, kv_operation::reading_store(store.as_str()))?;
        self.replies(index, "replies and objects")
    }

    fn publish_all(
        &mut self,
        index: usize,
        needed: impl IntoIterator<Item = Needed>,
    ) -> Result<(), GrantError> {
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
        let service = self.service;
        let held = || service.held.iter().chain(&service.excluded.publish);
        if held().any(|held| permission.subject.is_subset_of(held)) {
            return Ok(());
        }
        let held = held().filter(|held| held.overlaps(&permission.subject));
        self.denied.extend(held.map(ToString::to_string));
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
        let denied = self.denied.len() + self.service.excluded.subscribe.len();
        let sizes = [self.publish.len(), self.subscribe.len(), denied];
        if sizes.into_iter().any(|size| size > MAX_SUBJECTS) {
            return Err(TooLarge::Subjects.into());
        }
        Ok(())
    }

    /// Two questions about the whole account, by their literal subjects, for users of object
    /// stores alone.
    fn is_of_store(&self, rule: usize, subject: &str) -> bool {
        let rule = self.service.rules.get(rule).map(|rule| &rule.access);
        matches!(rule, Some(Access::OwnsStore(_) | Access::ReadsStore(_)))
            && kv_operation::READING_STORES.contains(&subject)
    }

    /// Whether the rule is what grants that question to services.
    fn discovers(&self, side: Side, rule: usize, subject: &str) -> bool {
        let rule = self.service.rules.get(rule).map(|rule| &rule.access);
        let needed = match (side, rule) {
            (Side::Subscribe, Some(Access::FoundAs(name))) => kv_operation::found(name.as_str()),
            (Side::Publish, Some(Access::Discovers(name))) => {
                kv_operation::discovering(Some(name.as_str()))
            }
            (Side::Publish, Some(Access::DiscoversAll)) => kv_operation::discovering(None),
            _ => return false,
        };
        needed.iter().any(|(_, needed)| needed == subject)
    }

    /// What the one consumer delivers to that the rule says the service listens to.
    fn listens(&self, rule: usize, subject: &str) -> bool {
        match self.service.rules.get(rule).map(|rule| &rule.access) {
            Some(Access::Consumes(Consumed { name, way: Way::Listens })) => {
                let (stream, consumer) = (name.stream().as_str(), name.consumer().as_str());
                subject == kv_operation::pushed_to(stream, consumer)
            }
            _ => false,
        }
    }

    /// The creation of the one consumer that the rule says the service makes, by the API of old
    /// libraries, where the body may choose the filter.
    fn is_of_own_consumer(&self, rule: usize, subject: &str) -> bool {
        match self.service.rules.get(rule).map(|rule| &rule.access) {
            Some(Access::Consumes(Consumed { name, way: Way::Makes(None) })) => {
                let (stream, consumer) = (name.stream().as_str(), name.consumer().as_str());
                kv_operation::durable_create(stream, consumer) == subject
            }
            _ => false,
        }
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
            && !self.listens(rule, subject)
        {
            Some("_INBOX.>")
        } else {
            let own =
                || side == Side::Publish && is_own_audit_subject(&pattern, &self.service.name);
            let audit = || (reaches_audit(&pattern) && !own()).then_some(AUDIT_SUBJECTS);
            let acks = || {
                let acknowledged = acknowledged(&pattern)?;
                let rule = self.service.rules.get(rule).map(|rule| &rule.access);
                let said = match (rule, acknowledged) {
                    (Some(Access::Consumes(own)), Acknowledged::Consumer(acks)) => own.name == acks,
                    (Some(Access::Replays(replayed)), Acknowledged::Stream(acks)) => {
                        *replayed.stream() == acks
                    }
                    _ => false,
                };
                (!said).then_some(ACKS)
            };
            let own = || self.is_of_store(rule, subject) || self.is_of_own_consumer(rule, subject);
            let never = never_granted(side, &pattern).filter(|_| !own());
            let discovery = || {
                let other = is_discovery(side, &pattern) && !self.discovers(side, rule, subject);
                other.then_some(DISCOVERY)
            };
            never.or_else(audit).or_else(acks).or_else(discovery)
        };
        match forbidden {
            Some(forbidden) => {
                Err(GrantError::Never { subject: subject.to_owned(), forbidden, rule: said() })
            }
            None => Ok(Permission { subject: pattern, purpose, rule }),
        }
    }
}
