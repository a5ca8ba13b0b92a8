//! Questions about a policy: who may do what, and by which rule.
//!
//! Every answer is read off a [`Grant`], the very thing that `serve` signs: nothing here decides
//! anything of its own. [`may`] is the whole of it; [`advice`] says what would have to be
//! different after a "no".

pub mod advice;
pub mod mapped;

use std::fmt;
use std::sync::Arc;

use nats_jwt::{NatsClaims, NatsPermissions};

use crate::diagnostics::Problem;
use crate::diagnostics::toml::nearest;
use crate::grant::{AuditStreams, Defaults, Grant, GrantError, Permission, Side};
use crate::keys::UserKey;
use crate::policy::model::{
    Access, Consumed, ConsumerName, Excluded, FoundName, LONGEST_NAME, Location, Policy, Replayed,
    Rule, STORE_PREFIX, Service, ServiceKey, Stream, StreamName, Way,
};
use solewriter_types::connection_type::ConnectionType;
use solewriter_types::keyspace::{BucketName, Keyspace};
use solewriter_types::kv_operation::{self, Needed, Operation, Target, Usage};
use solewriter_types::subject::Pattern;
use solewriter_types::subject::tree::{NO_BOUND, PatternTree};

/// What one may do with a keyspace, a store, a consumer or a subject. The last six are words of a
/// policy: a question asks for what they come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Put, delete or purge keys of a keyspace, or objects of a store.
    Write,
    /// Get and watch keys of a keyspace, or objects of a store.
    Read,
    /// Publish to a subject.
    Publish,
    /// Subscribe to a subject.
    Subscribe,
    /// Take messages from a durable consumer, and acknowledge them.
    Consume,
    /// Acknowledge messages of a durable consumer.
    Ack,
    /// Read a stream with consumers of one's own.
    Replay,
    /// Find services of a name.
    Find,
    /// Serve requests.
    Answer,
    /// Send requests.
    Call,
    /// Be found under a name by the services framework.
    Found,
    /// Read an audit stream.
    Audit,
}

impl Verb {
    /// Those that one may ask for.
    pub const ASKED: [Self; 8] = [
        Self::Write,
        Self::Read,
        Self::Publish,
        Self::Subscribe,
        Self::Consume,
        Self::Ack,
        Self::Replay,
        Self::Find,
    ];

    /// The verb as written in commands, assertions and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Answer => "answer",
            Self::Call => "call",
            Self::Consume => "consume",
            Self::Ack => "ack",
            Self::Found => "found",
            Self::Find => "find",
            Self::Replay => "replay",
            Self::Audit => "audit",
        }
    }

    /// What one does by it.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Write => "Put, delete or purge keys of a keyspace, or objects of a store",
            Self::Read => "Get and watch keys of a keyspace, or objects of a store",
            Self::Publish => "Publish to a subject",
            Self::Subscribe => "Subscribe to a subject",
            Self::Answer => "Serve requests",
            Self::Call => "Send requests",
            Self::Consume => "Take messages from a durable consumer, and acknowledge them",
            Self::Ack => "Acknowledge messages of a durable consumer",
            Self::Found => "Be found under a name",
            Self::Find => "Find services of a name",
            Self::Replay => "Read a stream with consumers of one's own",
            Self::Audit => "Read an audit stream",
        }
    }

    /// The verb of that name, among those that one may ask for.
    #[must_use]
    pub fn asked(name: &str) -> Option<Self> {
        Self::ASKED.into_iter().find(|verb| verb.as_str() == name)
    }
}

/// Something that a service may or may not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Put, delete or purge every key of this.
    Write(Keyspace),
    /// Get and watch every key of this.
    Read(Keyspace),
    /// Publish to every subject of this.
    Publish(Pattern),
    /// Subscribe with this, and receive all that it stands for.
    Subscribe(Pattern),
    /// Put, link and delete every object of this store.
    WriteStore(BucketName),
    /// Get, list and watch every object of this store.
    ReadStore(BucketName),
    /// Take messages from this consumer, and acknowledge them.
    Consume(ConsumerName),
    /// Acknowledge messages of this consumer.
    Ack(ConsumerName),
    /// Read this of a stream, with consumers of one's own and by direct gets.
    Replay(Replayed),
    /// Find services of this name; of all names without one.
    Find(Option<FoundName>),
    /// Be found under this name.
    Found(FoundName),
}

impl Question {
    /// Reads a question.
    ///
    /// # Errors
    /// A problem without a place, when `target` is not what the verb takes, and for audit streams,
    /// which nobody may ask for by name.
    pub fn parse(verb: Verb, target: &str) -> Result<Self, Problem> {
        let store = target.strip_prefix(STORE_PREFIX).map(|name| {
            BucketName::parse(name).map_err(|error| {
                let message = format!("`{target}` is not an object store: {error}");
                Problem::error("bad-store", message)
                    .help(format!("write {STORE_PREFIX}NAME, such as {STORE_PREFIX}invoices"))
            })
        });
        let keyspace = || {
            Keyspace::parse(target).map_err(|error| {
                let message = format!("`{target}` is not a keyspace: {error}");
                Problem::error("bad-keyspace", message).help(
                    "write BUCKET for a whole bucket, or BUCKET/KEYS for part of one, such as \
                     orders/line.>; and store:NAME for an object store",
                )
            })
        };
        let consumer = || {
            ConsumerName::parse(target).map_err(|error| {
                let message = format!("`{target}` is not a consumer: {error}");
                Problem::error("bad-consumer", message)
                    .help("write STREAM/CONSUMER, such as EVENTS/shipping")
            })
        };
        let replayed = || {
            Replayed::parse(target, |_| Arc::from([])).map_err(|error| {
                let message = format!("`{target}` cannot be replayed: {error}");
                Problem::error("bad-replay", message)
                    .help("write STREAM, or STREAM/SUBJECTS, such as EVENTS/events.orders.>")
            })
        };
        let subject = || {
            Pattern::parse(target).map_err(|error| {
                let message = format!("`{target}` is not a subject: {error}");
                Problem::error("bad-subject", message)
                    .help("a subject is tokens with dots between them, such as events.orders.new")
            })
        };
        let found = || {
            FoundName::parse(target).map_err(|error| {
                let message = format!("`{target}` is not a name to find services by: {error}");
                Problem::error("bad-name", message)
                    .help("write the name that a service has in `found_as`, or * for all names")
            })
        };
        Ok(match verb {
            Verb::Write => match store {
                Some(store) => Self::WriteStore(store?),
                None => Self::Write(keyspace()?),
            },
            Verb::Read => match store {
                Some(store) => Self::ReadStore(store?),
                None => Self::Read(keyspace()?),
            },
            Verb::Publish | Verb::Call => Self::Publish(subject()?),
            Verb::Subscribe | Verb::Answer => Self::Subscribe(subject()?),
            Verb::Consume => Self::Consume(consumer()?),
            Verb::Ack => Self::Ack(consumer()?),
            Verb::Find => match target {
                "*" => Self::Find(None),
                _ => Self::Find(Some(found()?)),
            },
            Verb::Found => Self::Found(found()?),
            Verb::Replay => Self::Replay(replayed()?),
            Verb::Audit => {
                let message = format!("`audit {target}` is not a question");
                return Err(Problem::error("bad-question", message)
                    .help("`solewriter explain SERVICE` shows which audit streams it reads"));
            }
        })
    }

    /// What is asked to be done.
    #[must_use]
    pub fn verb(&self) -> Verb {
        match self {
            Self::Write(_) | Self::WriteStore(_) => Verb::Write,
            Self::Read(_) | Self::ReadStore(_) => Verb::Read,
            Self::Publish(_) => Verb::Publish,
            Self::Subscribe(_) => Verb::Subscribe,
            Self::Consume(_) => Verb::Consume,
            Self::Ack(_) => Verb::Ack,
            Self::Replay(_) => Verb::Replay,
            Self::Find(_) => Verb::Find,
            Self::Found(_) => Verb::Found,
        }
    }

    /// With what: the keyspace, store, consumer or subject as text.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            Self::Write(keyspace) | Self::Read(keyspace) => keyspace.to_string(),
            Self::Publish(pattern) | Self::Subscribe(pattern) => pattern.to_string(),
            Self::WriteStore(store) | Self::ReadStore(store) => format!("{STORE_PREFIX}{store}"),
            Self::Consume(consumer) | Self::Ack(consumer) => consumer.to_string(),
            Self::Replay(replayed) => replayed.to_string(),
            Self::Find(Some(name)) | Self::Found(name) => name.to_string(),
            Self::Find(None) => "*".to_owned(),
        }
    }

    /// What somebody asks for who uses a subject with that meaning. `None` where only the subject
    /// itself says it.
    #[must_use]
    pub fn meant(usage: &Usage) -> Option<Self> {
        use Operation::{Ack, Consume, Find, Get, Open, Purge, Subscribe, Watch, Write};
        if (usage.operation, &usage.target) == (Find, &None) {
            return Some(Self::Find(None));
        }
        match (usage.operation, usage.target.as_ref()?) {
            // Only who owns a bucket as a whole may remove its markers.
            (Write | Purge, target @ Target::Keys { .. }) => target.keyspace().map(Self::Write),
            (Get | Watch | Open, target @ Target::Keys { .. }) => target.keyspace().map(Self::Read),
            (Write | Purge, Target::Store(store)) => Some(Self::WriteStore(store.clone())),
            (Get | Watch | Open, Target::Store(store)) => Some(Self::ReadStore(store.clone())),
            (Consume, target) => Self::consumer_of(target).map(Self::Consume),
            (Ack, target) => Self::consumer_of(target).map(Self::Ack),
            (Find, Target::Found(name)) if name == "*" => Some(Self::Find(None)),
            (Find, Target::Found(name)) => {
                FoundName::parse(name).ok().map(|name| Self::Find(Some(name)))
            }
            // What a declared push consumer delivers to.
            (Subscribe, target @ Target::Stream { .. }) => {
                Self::consumer_of(target).map(Self::Consume)
            }
            (Subscribe, Target::Found(name)) => FoundName::parse(name).ok().map(Self::Found),
            _ => None,
        }
    }

    /// The consumer of a target, when it names one that a policy could declare.
    #[must_use]
    pub fn consumer_of(target: &Target) -> Option<ConsumerName> {
        let Target::Stream { stream, consumer: Some(consumer), .. } = target else { return None };
        ConsumerName::of(StreamName::parse(stream).ok()?, StreamName::parse(consumer).ok()?).ok()
    }

    /// The declared streams that keep what is published, and whether that is all of it.
    #[must_use]
    pub fn kept<'p>(&self, policy: &'p Policy) -> Vec<(&'p Stream, bool)> {
        let Self::Publish(pattern) = self else { return Vec::new() };
        let all = |stream: &Stream| stream.subjects.iter().any(|kept| pattern.is_subset_of(kept));
        policy.keeping(pattern).map(|stream| (stream, all(stream))).collect()
    }

    /// The same for people: `stream EVENTS keeps it`.
    #[must_use]
    pub fn kept_in_words(&self, policy: &Policy) -> Vec<String> {
        let said = |(stream, all): &(&Stream, bool)| {
            let what = if *all { "it" } else { "a part of it" };
            let many = stream.many_writers.as_ref();
            let why = many.map(|_| ", and takes it from several services").unwrap_or_default();
            format!("stream {} keeps {what}{why}", stream.name)
        };
        self.kept(policy).iter().map(said).collect()
    }

    /// Whether the policy declares what is asked about: a question about a misspelled name would be
    /// answered "no", and be believed.
    ///
    /// # Errors
    /// A problem without a place.
    pub fn check_names(&self, policy: &Policy) -> Result<(), Problem> {
        match self {
            Self::Write(keyspace) | Self::Read(keyspace) => {
                let name = keyspace.bucket();
                if policy.bucket(name).is_some() {
                    return Ok(());
                }
                let known = policy.buckets().iter().map(|bucket| bucket.name.as_str());
                let near = match nearest(name.as_str(), known) {
                    None if policy.store(name).is_some() => Some(format!("{STORE_PREFIX}{name}")),
                    near => near.map(ToOwned::to_owned),
                };
                let said = format!("bucket `{name}`");
                Err(undeclared("unknown-bucket", &said, &format!("bucket.{name}"), near))
            }
            Self::WriteStore(name) | Self::ReadStore(name) => {
                if policy.store(name).is_some() {
                    return Ok(());
                }
                let known = policy.stores().iter().map(|store| store.name.as_str());
                let near = match nearest(name.as_str(), known) {
                    None if policy.bucket(name).is_some() => Some(name.to_string()),
                    near => near.map(|near| format!("{STORE_PREFIX}{near}")),
                };
                let said = format!("object store `{name}`");
                Err(undeclared("unknown-store", &said, &format!("store.{name}"), near))
            }
            Self::Consume(name) | Self::Ack(name) => {
                let (wanted, consumer) = (name.stream(), name.consumer().as_str());
                let stream = declared_stream(policy, wanted, &format!("/{consumer}"))?;
                if stream.consumer(consumer).is_some() {
                    return Ok(());
                }
                let known = stream.consumers.iter().map(|consumer| consumer.name.as_str());
                let near = nearest(consumer, known).map(|near| format!("{wanted}/{near}"));
                let said = format!("consumer `{name}`");
                let table = format!("stream.{wanted}.consumer.{consumer}");
                Err(undeclared("unknown-consumer", &said, &table, near))
            }
            Self::Replay(replayed) => {
                let rest = replayed.filter().map(|filter| format!("/{filter}")).unwrap_or_default();
                declared_stream(policy, replayed.stream(), &rest).map(|_| ())
            }
            Self::Find(Some(name)) => {
                let named = policy.rules(|access| matches!(access, Access::FoundAs(_)));
                let known: Vec<String> = named
                    .filter_map(|(_, rule)| match &rule.access {
                        Access::FoundAs(name) => Some(name.to_string()),
                        _ => None,
                    })
                    .collect();
                if known.iter().any(|known| known == name.as_str()) {
                    return Ok(());
                }
                let near = nearest(name.as_str(), known.iter().map(String::as_str));
                let help = match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("write `found_as = [\"{name}\"]` in the service that has it"),
                };
                let message = format!("no service is found as `{name}`");
                Err(Problem::error("unknown-name", message).help(help))
            }
            Self::Publish(_) | Self::Subscribe(_) | Self::Find(None) | Self::Found(_) => Ok(()),
        }
    }
}

fn undeclared(code: &'static str, said: &str, table: &str, near: Option<String>) -> Problem {
    let help = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("declare it with `[{table}]`, or ask about a declared one"),
    };
    Problem::error(code, format!("the policy declares no {said}")).help(help)
}

/// The declared stream of that name. `rest` follows it in what is asked about.
fn declared_stream<'p>(
    policy: &'p Policy,
    name: &StreamName,
    rest: &str,
) -> Result<&'p Stream, Problem> {
    policy.stream(name.as_str()).ok_or_else(|| {
        let known = policy.streams().iter().map(|stream| stream.name.as_str());
        let near = nearest(name.as_str(), known).map(|near| format!("{near}{rest}"));
        let said = format!("stream `{name}`");
        undeclared("unknown-stream", &said, &format!("stream.{name}"), near)
    })
}

impl fmt::Display for Question {
    /// As a person would say it: `write orders`, `publish to events.new`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = match self {
            Self::Publish(_) | Self::Subscribe(_) => " to",
            _ => "",
        };
        write!(f, "{}{to} {}", self.verb().as_str(), self.target())
    }
}

/// How much of what is asked about is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// Nothing of it.
    None,
    /// Some of it: there are keys or subjects in it that are granted, and others that are not.
    Part,
    /// All of it.
    All,
}

/// One permission that an answer rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ground {
    /// The side of the connection.
    pub side: Side,
    /// The permission, with its rule.
    pub permission: Permission,
}

/// The answer to a question about one grant.
#[derive(Clone, Debug)]
pub struct Answer {
    /// How much is granted.
    pub reach: Reach,
    /// Whether nats-server takes the subject as it stands, wildcards and all. For a keyspace,
    /// whether all of it is granted. It differs from `reach` in one case: a subscription with
    /// `>` in place of a permission's last `*` is taken, and only part of it is delivered.
    pub accepted: bool,
    /// The permissions that it rests on; empty for "no".
    pub grounds: Vec<Ground>,
}

impl Answer {
    /// Whether all of what was asked is granted.
    #[must_use]
    pub fn is_yes(&self) -> bool {
        self.reach == Reach::All
    }

    /// The rules that it rests on, each once: indices into [`Grant::rules`].
    #[must_use]
    pub fn rules(&self) -> Vec<usize> {
        let mut rules: Vec<usize> = self.grounds.iter().map(|g| g.permission.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }
}

/// Whether a grant allows something, how far, and by which of its permissions.
#[must_use]
pub fn may(grant: &Grant, question: &Question) -> Answer {
    // By everything that such a rule grants.
    let by_rule = |access, telling| {
        let needed = alone(grant.service(), access, grant.audit());
        let needed = needed.as_ref().map_or(Vec::new(), |needed| {
            let of = |side| needed.permissions(side).iter().map(move |p| (side, p.subject.clone()));
            [Side::Publish, Side::Subscribe].into_iter().flat_map(of).collect()
        });
        all_of(grant, needed, Side::Publish, telling)
    };
    let by_subjects = |side, needed: &[Needed], telling| {
        let parsed = |(_, subject): &Needed| Some((side, Pattern::parse(subject).ok()?));
        all_of(grant, needed.iter().filter_map(parsed).collect(), side, telling)
    };
    match question {
        Question::Publish(pattern) => publish(grant, pattern),
        Question::Subscribe(pattern) => subscribe(grant, pattern),
        Question::Write(keyspace) => match Pattern::parse(&keyspace.subjects()) {
            Ok(subjects) => {
                let answer = publish(grant, &subjects);
                Answer { accepted: answer.is_yes(), ..answer }
            }
            Err(_) => nothing(),
        },
        Question::Read(keyspace) => by_rule(Access::Reads(keyspace.clone()), ".$KV."),
        Question::WriteStore(store) => {
            by_subjects(Side::Publish, &kv_operation::writing_store(store.as_str()), "$O.")
        }
        Question::ReadStore(store) => by_rule(Access::ReadsStore(store.clone()), ".$O."),
        Question::Consume(consumer) => {
            let own = grant.rules().iter().find_map(|rule| match &rule.access {
                Access::Consumes(own) if own.name == *consumer => Some(&own.way),
                _ => None,
            });
            let (way, telling) = match own {
                Some(Way::Listens) => (Way::Listens, ".CONSUMER.INFO."),
                // Whoever makes it, what it comes to begins with this.
                _ => (Way::Pulls, ".MSG.NEXT."),
            };
            by_rule(Access::Consumes(Consumed { name: consumer.clone(), way }), telling)
        }
        // As patterns, each form holds subjects that are the other form of another consumer's.
        Question::Ack(consumer) => {
            let (stream, consumer) = (consumer.stream(), consumer.consumer());
            let sent = ["", "_._."].map(|domain| {
                ("acknowledge", format!("$JS.ACK.{domain}{stream}.{consumer}.1.1.1.1.1"))
            });
            by_subjects(Side::Publish, &sent, "$JS.ACK.")
        }
        Question::Replay(replayed) => {
            by_subjects(Side::Publish, &replaying(replayed), ".CONSUMER.CREATE.")
        }
        Question::Find(name) => {
            let name = name.as_ref().map(FoundName::as_str);
            by_subjects(Side::Publish, &kv_operation::discovering(name), "$SRV.")
        }
        Question::Found(name) => {
            by_subjects(Side::Subscribe, &kv_operation::found(name.as_str()), "$SRV.")
        }
    }
}

/// What a client sends that replays this with a consumer of its own. No policy declares one of so
/// long a name.
fn replaying(replayed: &Replayed) -> [Needed; 3] {
    let filter = replayed.filter().map(Pattern::as_str);
    let own = "x".repeat(LONGEST_NAME + 1);
    kv_operation::replaying_with(replayed.stream().as_str(), &own, filter)
}

fn nothing() -> Answer {
    Answer { reach: Reach::None, accepted: false, grounds: Vec::new() }
}

fn publish(grant: &Grant, pattern: &Pattern) -> Answer {
    let accepted = takes(signed(grant).0, pattern.as_str());
    let reach = covered(grant, Side::Publish, pattern);
    // What is asked is all of the subjects, not the text with its wildcards.
    Answer { reach, accepted, grounds: grounds(grant, Side::Publish, [pattern], reach) }
}

fn subscribe(grant: &Grant, pattern: &Pattern) -> Answer {
    let accepted = takes(signed(grant).1, pattern.as_str());
    let mut reach = covered(grant, Side::Subscribe, pattern);
    if !accepted {
        // The server refuses a subscription as a whole; part of it may be had by another one.
        reach = reach.min(Reach::Part);
    }
    Answer { reach, accepted, grounds: grounds(grant, Side::Subscribe, [pattern], reach) }
}

/// What takes many subjects: all of them must be there for a yes, and what tells part from nothing
/// is those of one side that hold `telling`.
fn all_of(grant: &Grant, needed: Vec<(Side, Pattern)>, side: Side, telling: &str) -> Answer {
    if needed.is_empty() {
        return nothing();
    }
    let reach = |side, wanted: &Pattern| covered(grant, side, wanted);
    let all = needed.iter().all(|(side, wanted)| reach(*side, wanted) == Reach::All);
    let of_side = needed.into_iter().filter(|(needed, _)| *needed == side);
    let told: Vec<Pattern> =
        of_side.map(|(_, p)| p).filter(|p| p.as_str().contains(telling)).collect();
    let some = told.iter().any(|wanted| reach(side, wanted) != Reach::None);
    let reach = match (all, some) {
        (true, _) => Reach::All,
        (false, true) => Reach::Part,
        (false, false) => Reach::None,
    };
    let grounds = grounds(grant, side, &told, reach);
    Answer { reach, accepted: all, grounds }
}

/// What one rule would come to for a service that had no other.
///
/// # Errors
/// [`GrantError`] when it may never be granted.
pub fn alone(
    service: &Arc<str>,
    access: Access,
    audit: &AuditStreams,
) -> Result<Grant, GrantError> {
    let at = Location { file: Arc::from(""), line: 0, column: 0 };
    let service = Service {
        name: Arc::clone(service),
        description: None,
        keys: Vec::new(),
        rules: vec![Rule::new(access, at.clone())],
        account: None,
        lifetime: None,
        sources: Vec::new(),
        connections: vec![ConnectionType::Standard],
        disabled: None,
        held: Vec::new(),
        observed: false,
        excluded: Excluded::default(),
        at,
    };
    let defaults = Defaults {
        account: Arc::from(""),
        lifetime: std::time::Duration::ZERO,
        audit: audit.clone(),
    };
    Grant::of(&service, &defaults)
}

/// The lists that are signed: publish and subscribe.
#[must_use]
pub fn signed(grant: &Grant) -> (&NatsPermissions, &NatsPermissions) {
    static EMPTY: NatsPermissions = NatsPermissions { allow: Vec::new(), deny: Vec::new() };
    match grant.claims() {
        NatsClaims::User { permissions, .. } => (&permissions.publish, &permissions.subscribe),
        // An account's claims are no user's.
        NatsClaims::Account { .. } => (&EMPTY, &EMPTY),
    }
}

/// Whether nats-server lets a client use `text`: it is compared as it stands, `*` and `>`
/// included, with the allow list and then with the deny list.
fn takes(list: &NatsPermissions, text: &str) -> bool {
    let any = |entries: &[String]| {
        entries.iter().filter_map(|e| Pattern::parse(e).ok()).any(|e| e.matches_wire(text))
    };
    any(&list.allow) && !any(&list.deny)
}

/// What a grant holds, for many questions about it.
pub struct Held<'g> {
    publish: HeldSide<'g>,
    subscribe: HeldSide<'g>,
}

/// The permissions of one side.
struct HeldSide<'g> {
    tree: PatternTree<'g>,
    /// The most tokens that one of them has.
    longest: usize,
    denied: PatternTree<'g>,
}

impl<'g> Held<'g> {
    /// What that grant holds.
    #[must_use]
    pub fn of(grant: &'g Grant) -> Self {
        let side = |side| {
            HeldSide::of(grant.permissions(side).iter().map(|p| &p.subject), denied(grant, side))
        };
        Self { publish: side(Side::Publish), subscribe: side(Side::Subscribe) }
    }

    /// How much of `wanted` one side holds: what its permissions hold together, and none of what
    /// it denies.
    #[must_use]
    pub fn covered(&self, side: Side, wanted: &Pattern) -> Reach {
        self.side(side).reach(wanted)
    }

    /// How much of `wanted` the permissions of one side hold together, whatever it denies.
    #[must_use]
    pub fn allowed(&self, side: Side, wanted: &Pattern) -> Reach {
        self.side(side).allowed(wanted)
    }

    fn side(&self, side: Side) -> &HeldSide<'g> {
        match side {
            Side::Publish => &self.publish,
            Side::Subscribe => &self.subscribe,
        }
    }
}

/// What a grant denies on one side.
fn denied(grant: &Grant, side: Side) -> &[String] {
    let (publish, subscribe) = signed(grant);
    match side {
        Side::Publish => &publish.deny,
        Side::Subscribe => &subscribe.deny,
    }
}

/// How much of `wanted` one side holds, for one question: looking at each permission once takes
/// less than sorting them.
fn covered(grant: &Grant, side: Side, wanted: &Pattern) -> Reach {
    let subjects = grant.permissions(side).iter().map(|permission| &permission.subject);
    let near = subjects.filter(|subject| subject.overlaps(wanted));
    HeldSide::of(near, denied(grant, side)).reach(wanted)
}

impl<'g> HeldSide<'g> {
    fn of(subjects: impl Iterator<Item = &'g Pattern>, deny: &'g [String]) -> Self {
        let mut held = Self { tree: PatternTree::new(), longest: 0, denied: PatternTree::new() };
        for (entry, subject) in subjects.enumerate() {
            held.tree.insert(subject, entry, 0);
            held.longest = held.longest.max(subject.as_str().split('.').count());
        }
        for (entry, denied) in deny.iter().enumerate() {
            held.denied.insert_text(denied, entry, 0);
        }
        held
    }

    fn reach(&self, wanted: &Pattern) -> Reach {
        let allowed = self.allowed(wanted);
        let text = wanted.as_str();
        if allowed == Reach::None || self.denied.overlaps(text, &mut { NO_BOUND }) == Ok(false) {
            allowed
        } else if self.denied.cover(text, None, &mut { NO_BOUND }) == Ok(None) {
            Reach::Part
        } else {
            Reach::None
        }
    }

    fn allowed(&self, wanted: &Pattern) -> Reach {
        if self.holds(wanted.as_str()) || self.hold_together(wanted) {
            Reach::All
        } else if self.tree.overlaps(wanted.as_str(), &mut { NO_BOUND }) == Ok(false) {
            Reach::None
        } else {
            Reach::Part
        }
    }

    /// Whether one pattern holds every subject of that one.
    fn holds(&self, wanted: &str) -> bool {
        self.tree.cover(wanted, None, &mut { NO_BOUND }).is_ok_and(|cover| cover.is_some())
    }

    /// Whether the patterns together hold every subject of `wanted`.
    ///
    /// A token that stands in none of them is matched by their wildcards only, so a subject made
    /// of such tokens stands for all others of its length; and no length beyond the longest
    /// pattern's tells anything new.
    fn hold_together(&self, wanted: &Pattern) -> bool {
        // No subject can hold this character, and so no pattern.
        const STRANGE: &str = "\u{1}";
        // A `>` is only ever the last token.
        let rest = wanted.as_str().split('.').any(|token| token == ">");
        let mut subject: Vec<&str> = wanted
            .as_str()
            .split('.')
            .filter(|token| *token != ">")
            .map(|token| if token == "*" { STRANGE } else { token })
            .collect();
        if !rest {
            return self.holds(&subject.join("."));
        }
        loop {
            subject.push(STRANGE);
            if !self.holds(&subject.join(".")) {
                return false;
            }
            if subject.len() > self.longest {
                return true;
            }
        }
    }
}

/// The permissions that hold something of what is wanted; only those that hold all of it, when
/// there are any.
fn grounds<'w>(
    grant: &Grant,
    side: Side,
    wanted: impl IntoIterator<Item = &'w Pattern>,
    reach: Reach,
) -> Vec<Ground> {
    if reach == Reach::None {
        return Vec::new();
    }
    let mut found: Vec<(bool, usize, &Permission)> = Vec::new();
    for wanted in wanted {
        let near = grant.permissions(side).iter().enumerate();
        for (index, permission) in near.filter(|(_, p)| p.subject.overlaps(wanted)) {
            found.push((wanted.is_subset_of(&permission.subject), index, permission));
        }
    }
    let whole = reach == Reach::All && found.iter().any(|(all, ..)| *all);
    found.retain(|(all, ..)| *all || !whole);
    found.sort_by_key(|(_, index, _)| *index);
    found.dedup_by_key(|(_, index, _)| *index);
    found
        .into_iter()
        .map(|(_, _, permission)| Ground { side, permission: permission.clone() })
        .collect()
}

/// Who has for itself what a question is about: who writes those keys, those objects and those
/// subjects of a stream, and who uses that consumer.
#[must_use]
pub fn owners<'p>(policy: &'p Policy, question: &Question) -> Vec<(&'p Service, &'p Rule)> {
    match question {
        Question::Write(keyspace) | Question::Read(keyspace) => policy.owners(keyspace).collect(),
        Question::WriteStore(store) | Question::ReadStore(store) => {
            policy.rules(|a| matches!(a, Access::OwnsStore(owned) if owned == store)).collect()
        }
        Question::Consume(name) | Question::Ack(name) => {
            policy.rules(|a| matches!(a, Access::Consumes(used) if used.name == *name)).collect()
        }
        Question::Publish(pattern) => {
            let subjects = policy.keeping(pattern).flat_map(|stream| &stream.subjects);
            let subjects: Vec<Pattern> =
                subjects.filter_map(|kept| pattern.intersection(kept)).collect();
            writers(policy, &subjects)
        }
        Question::Find(Some(name)) | Question::Found(name) => {
            policy.rules(|a| matches!(a, Access::FoundAs(found) if found == name)).collect()
        }
        Question::Subscribe(_) | Question::Replay(_) | Question::Find(None) => Vec::new(),
    }
}

/// Who may publish something of these subjects.
fn writers<'p>(policy: &'p Policy, subjects: &[Pattern]) -> Vec<(&'p Service, &'p Rule)> {
    if subjects.is_empty() {
        return Vec::new();
    }
    let writes = |access: &Access| match access {
        Access::Publishes(p) | Access::Calls(p) => subjects.iter().any(|s| s.overlaps(p)),
        _ => false,
    };
    policy.rules(writes).collect()
}

/// One service that may do what was asked, at least in part.
#[derive(Debug)]
pub struct Capable<'p> {
    /// The service.
    pub service: &'p Service,
    /// How far, and by which permissions.
    pub answer: Answer,
    /// What it gets.
    pub grant: Grant,
}

/// Every service whose grant allows something, at least in part, in the order of names. Disabled
/// services are among them: what is theirs stays theirs. One whose grant is too large has nothing.
///
/// # Errors
/// [`GrantError`] with the service whose grant could not be made.
pub fn who_can<'p>(
    policy: &'p Policy,
    defaults: &Defaults,
    question: &Question,
) -> Result<Vec<Capable<'p>>, (Arc<str>, GrantError)> {
    let mut capable = Vec::new();
    for service in policy.services() {
        let grant = match Grant::of(service, defaults) {
            Ok(grant) => grant,
            // Nobody is let in as it, and the others can be told of.
            Err(GrantError::TooLarge(_)) => continue,
            Err(error) => return Err((Arc::clone(&service.name), error)),
        };
        let answer = may(&grant, question);
        if answer.reach != Reach::None {
            capable.push(Capable { service, answer, grant });
        }
    }
    Ok(capable)
}

/// The same question about each copy of the bucket that one asks to read: who reads a key there
/// reads what is in the original.
#[must_use]
pub fn of_copies<'p>(policy: &'p Policy, question: &Question) -> Vec<(&'p BucketName, Question)> {
    let Question::Read(keyspace) = question else { return Vec::new() };
    let copies = policy.buckets().iter().filter(|b| b.copy_of.as_ref() == Some(keyspace.bucket()));
    copies.map(|copy| (&copy.name, Question::Read(keyspace.in_bucket(copy.name.clone())))).collect()
}

/// The service of that name or public NKEY, with the key's own entry in the second case.
///
/// # Errors
/// A problem without a place.
pub fn identity<'p>(
    policy: &'p Policy,
    text: &str,
) -> Result<(&'p Service, Option<&'p ServiceKey>), Problem> {
    if let Some(service) = policy.service(text) {
        return Ok((service, None));
    }
    if let Ok(key) = UserKey::parse(text) {
        return match policy.holder(&key) {
            Some((service, entry)) => Ok((service, Some(entry))),
            None => Err(Problem::error("unknown-nkey", format!("no service has the NKEY {text}"))
                .help("every connection with it is refused")),
        };
    }
    let known = policy.services().iter().map(|service| &*service.name);
    let problem = Problem::error("unknown-service", format!("there is no service `{text}`"));
    Err(match nearest(text, known) {
        Some(near) => problem.help(format!("did you mean `{near}`?")),
        None => problem.help("give the NAME of a `[service.NAME]` table, or a public user NKEY"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::diagnostics::SourceFile;
    use crate::policy::validate::validate;

    /// Every subject of at most four tokens over an alphabet with a token that no pattern names.
    fn every() -> Vec<String> {
        let mut all: Vec<String> = ["e", "f"].map(str::to_owned).to_vec();
        let mut last = all.clone();
        for _ in 0..3 {
            let longer = |s: &String| ["a", "b", "z"].map(|token| format!("{s}.{token}"));
            last = last.iter().flat_map(longer).collect();
            all.extend(last.clone());
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// How much a grant holds is what looking at each subject says.
        #[test]
        fn what_is_held_is_what_each_subject_says(
            granted in prop::collection::vec("[ef](\\.([ab]|\\*)){0,2}(\\.>)?", 1..6),
            asked in "[ef](\\.([ab]|\\*)){0,2}(\\.>)?",
        ) {
            let text = format!("[service.s]\npublishes = {granted:?}\n");
            let policy = validate(&[SourceFile::new("p.toml", text)]).unwrap().policy;
            let defaults = Defaults {
                account: "APP".into(),
                lifetime: std::time::Duration::ZERO,
                audit: crate::grant::AuditStreams::default(),
            };
            let grant = Grant::of(policy.service("s").unwrap(), &defaults).unwrap();
            let parsed = |text: &String| Pattern::parse(text).unwrap();
            let (asked, granted) = (parsed(&asked), granted.iter().map(parsed).collect::<Vec<_>>());
            let subjects = every();
            let subjects: Vec<&String> = subjects.iter().filter(|s| asked.matches_wire(s)).collect();
            let held = subjects.iter().filter(|s| granted.iter().any(|g| g.matches_wire(s))).count();
            let expected = match held {
                0 => Reach::None,
                all if all == subjects.len() => Reach::All,
                _ => Reach::Part,
            };
            prop_assert_eq!(Held::of(&grant).covered(Side::Publish, &asked), expected);
            prop_assert_eq!(covered(&grant, Side::Publish, &asked), expected);
        }
    }
}
