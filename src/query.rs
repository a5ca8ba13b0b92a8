//! Questions about a policy: who may do what, and by which rule.
//!
//! Every answer is read off a [`Grant`], the very thing that `serve` signs: nothing here decides
//! anything of its own. [`may`] is the whole of it; [`advice`] says what would have to be
//! different after a "no".

pub mod advice;

use std::fmt;
use std::sync::Arc;

use nats_jwt::{NatsClaims, NatsPermissions};

use crate::keys::UserKey;
use crate::keyspace::Keyspace;
use crate::permissions::{AuditStreams, Defaults, Grant, GrantError, Permission, Side};
use crate::policy::model::{Access, ConnectionType, Location, Policy, Rule, Service, ServiceKey};
use crate::source::Problem;
use crate::source::toml::nearest;
use crate::subject::Pattern;

/// What one may ask to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Verb {
    /// Put, delete or purge keys of a keyspace.
    Write,
    /// Get and watch keys of a keyspace.
    Read,
    /// Publish to a subject.
    Publish,
    /// Subscribe to a subject.
    Subscribe,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Write, Self::Read, Self::Publish, Self::Subscribe];

    /// The verb as written in commands, assertions and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
        }
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
}

impl Question {
    /// Reads a question.
    ///
    /// # Errors
    /// A problem without a place, when `target` is no keyspace or no subject.
    pub fn parse(verb: Verb, target: &str) -> Result<Self, Problem> {
        let keyspace = || {
            Keyspace::parse(target).map_err(|error| {
                let message = format!("`{target}` is not a keyspace: {error}");
                Problem::error("bad-keyspace", message).help(
                    "write BUCKET for a whole bucket, or BUCKET/KEYS for part of one, such as \
                     orders/line.>",
                )
            })
        };
        let subject = || {
            Pattern::parse(target).map_err(|error| {
                let message = format!("`{target}` is not a subject: {error}");
                Problem::error("bad-subject", message)
                    .help("a subject is tokens with dots between them, such as events.orders.new")
            })
        };
        Ok(match verb {
            Verb::Write => Self::Write(keyspace()?),
            Verb::Read => Self::Read(keyspace()?),
            Verb::Publish => Self::Publish(subject()?),
            Verb::Subscribe => Self::Subscribe(subject()?),
        })
    }

    /// What is asked to be done.
    #[must_use]
    pub fn verb(&self) -> Verb {
        match self {
            Self::Write(_) => Verb::Write,
            Self::Read(_) => Verb::Read,
            Self::Publish(_) => Verb::Publish,
            Self::Subscribe(_) => Verb::Subscribe,
        }
    }

    /// With what: the keyspace or subject as text.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            Self::Write(keyspace) | Self::Read(keyspace) => keyspace.to_string(),
            Self::Publish(pattern) | Self::Subscribe(pattern) => pattern.to_string(),
        }
    }

    /// Whether the policy knows the bucket that is asked about: a question about a misspelled one
    /// would be answered "no", and be believed.
    ///
    /// # Errors
    /// A problem without a place.
    pub fn check_bucket(&self, policy: &Policy) -> Result<(), Problem> {
        let (Self::Write(keyspace) | Self::Read(keyspace)) = self else { return Ok(()) };
        let name = keyspace.bucket();
        if policy.bucket(name).is_some() {
            return Ok(());
        }
        let known = policy.buckets().iter().map(|bucket| bucket.name.as_str());
        let help = match nearest(name.as_str(), known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("declare it with `[bucket.{name}]`, or ask about a declared one"),
        };
        Err(Problem::error("unknown-bucket", format!("the policy declares no bucket `{name}`"))
            .help(help))
    }
}

impl fmt::Display for Question {
    /// As a person would say it: `write orders`, `publish to events.new`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = match self {
            Self::Write(_) | Self::Read(_) => "",
            Self::Publish(_) | Self::Subscribe(_) => " to",
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
        Question::Read(keyspace) => read(grant, keyspace),
    }
}

fn nothing() -> Answer {
    Answer { reach: Reach::None, accepted: false, grounds: Vec::new() }
}

fn publish(grant: &Grant, pattern: &Pattern) -> Answer {
    let (signed, _) = signed(grant);
    let accepted = takes(signed, pattern.as_str());
    let reach = undenied(signed, pattern, covered(grant, Side::Publish, pattern));
    // What is asked is all of the subjects, not the text with its wildcards.
    Answer { reach, accepted, grounds: grounds(grant, Side::Publish, [pattern], reach) }
}

fn subscribe(grant: &Grant, pattern: &Pattern) -> Answer {
    let (_, signed) = signed(grant);
    let accepted = takes(signed, pattern.as_str());
    let mut reach = undenied(signed, pattern, covered(grant, Side::Subscribe, pattern));
    if !accepted {
        // The server refuses a subscription as a whole; part of it may be had by another one.
        reach = reach.min(Reach::Part);
    }
    Answer { reach, accepted, grounds: grounds(grant, Side::Subscribe, [pattern], reach) }
}

/// Reading takes many subjects. All of them must be there for a yes, and what tells part from
/// nothing is those that name keys.
fn read(grant: &Grant, keyspace: &Keyspace) -> Answer {
    let Ok(needed) = alone(grant.service(), Access::Reads(keyspace.clone()), grant.audit()) else {
        return nothing();
    };
    let sides = [Side::Publish, Side::Subscribe];
    let has = |side, wanted: &Permission| covered(grant, side, &wanted.subject) == Reach::All;
    let all = sides.iter().all(|side| needed.permissions(*side).iter().all(|p| has(*side, p)));
    let keys: Vec<&Pattern> = needed
        .permissions(Side::Publish)
        .iter()
        .map(|p| &p.subject)
        .filter(|subject| subject.as_str().contains(".$KV."))
        .collect();
    let some = keys.iter().any(|wanted| covered(grant, Side::Publish, wanted) != Reach::None);
    let reach = match (all, some) {
        (true, _) => Reach::All,
        (false, true) => Reach::Part,
        (false, false) => Reach::None,
    };
    let grounds = grounds(grant, Side::Publish, keys, reach);
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
        rules: vec![Rule { access, at: at.clone(), role: None }],
        account: None,
        lifetime: None,
        sources: Vec::new(),
        connections: vec![ConnectionType::Standard],
        disabled: None,
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

/// What is left of `reach` after the deny list.
fn undenied(list: &NatsPermissions, wanted: &Pattern, reach: Reach) -> Reach {
    let denied = list.deny.iter().filter_map(|entry| Pattern::parse(entry).ok());
    denied.fold(reach, |reach, deny| {
        if wanted.is_subset_of(&deny) {
            Reach::None
        } else if deny.overlaps(wanted) {
            reach.min(Reach::Part)
        } else {
            reach
        }
    })
}

/// How much of `wanted` the permissions of one side hold together.
#[must_use]
pub fn covered(grant: &Grant, side: Side, wanted: &Pattern) -> Reach {
    let near: Vec<&Pattern> = grant
        .permissions(side)
        .iter()
        .map(|permission| &permission.subject)
        .filter(|subject| subject.overlaps(wanted))
        .collect();
    if near.is_empty() {
        Reach::None
    } else if near.iter().any(|subject| wanted.is_subset_of(subject)) || union_holds(&near, wanted)
    {
        Reach::All
    } else {
        Reach::Part
    }
}

/// Whether several patterns together hold every subject of `wanted`.
///
/// A token that stands in none of them is matched by their wildcards only, so a subject made of
/// such tokens stands for all others of its length; and no length beyond the longest pattern's
/// tells anything new.
fn union_holds(patterns: &[&Pattern], wanted: &Pattern) -> bool {
    // No subject can hold this character, and so no pattern.
    const STRANGE: &str = "\u{1}";
    let count = |pattern: &Pattern| pattern.as_str().split('.').count();
    let longest = patterns.iter().map(|pattern| count(pattern)).max().unwrap_or_default();
    // A `>` is only ever the last token.
    let rest = wanted.as_str().split('.').any(|token| token == ">");
    let mut subject: Vec<&str> = wanted
        .as_str()
        .split('.')
        .filter(|token| *token != ">")
        .map(|token| if token == "*" { STRANGE } else { token })
        .collect();
    let holds = |subject: &[&str]| {
        let text = subject.join(".");
        patterns.iter().any(|pattern| pattern.matches_wire(&text))
    };
    if !rest {
        return holds(&subject);
    }
    loop {
        subject.push(STRANGE);
        if !holds(&subject) {
            return false;
        }
        if subject.len() > longest {
            return true;
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
/// services are among them: what is theirs stays theirs.
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
        let grant = Grant::of(service, defaults).map_err(|e| (Arc::clone(&service.name), e))?;
        let answer = may(&grant, question);
        if answer.reach != Reach::None {
            capable.push(Capable { service, answer, grant });
        }
    }
    Ok(capable)
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
