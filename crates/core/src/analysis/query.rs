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
use crate::policy::model::{Access, Location, Policy, Rule, Service, ServiceKey};
use solewriter_types::connection_type::ConnectionType;
use solewriter_types::keyspace::Keyspace;
use solewriter_types::subject::Pattern;
use solewriter_types::subject::tree::{NO_BOUND, PatternTree};

/// What one may do with a keyspace or a subject. The last four are words of a policy: a question
/// asks for what they come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Put, delete or purge keys of a keyspace.
    Write,
    /// Get and watch keys of a keyspace.
    Read,
    /// Publish to a subject.
    Publish,
    /// Subscribe to a subject.
    Subscribe,
    /// Serve requests.
    Answer,
    /// Send requests.
    Call,
    /// Take messages from a durable consumer.
    Consume,
    /// Be found under a name by the services framework.
    Found,
    /// Find services of a name.
    Find,
    /// Read an audit stream.
    Audit,
}

impl Verb {
    /// Those that one may ask for.
    pub const ASKED: [Self; 4] = [Self::Write, Self::Read, Self::Publish, Self::Subscribe];

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
            Self::Found => "found",
            Self::Find => "find",
            Self::Audit => "audit",
        }
    }

    /// What one does by it.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Write => "Put, delete or purge keys of a keyspace",
            Self::Read => "Get and watch keys of a keyspace",
            Self::Publish => "Publish to a subject",
            Self::Subscribe => "Subscribe to a subject",
            Self::Answer => "Serve requests",
            Self::Call => "Send requests",
            Self::Consume => "Take messages from a durable consumer",
            Self::Found => "Be found under a name",
            Self::Find => "Find services of a name",
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
}

impl Question {
    /// Reads a question.
    ///
    /// # Errors
    /// A problem without a place, when `target` is no keyspace or no subject, and for audit streams,
    /// which nobody may ask for by name.
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
            Verb::Publish | Verb::Call => Self::Publish(subject()?),
            Verb::Subscribe | Verb::Answer => Self::Subscribe(subject()?),
            Verb::Consume => {
                let subject = target.replacen('/', ".", 1);
                let message = format!("`consume {target}` is not a question");
                return Err(Problem::error("bad-question", message).help(format!(
                    "ask for what it comes to: publish '$JS.API.CONSUMER.MSG.NEXT.{subject}'"
                )));
            }
            Verb::Found | Verb::Find => {
                let message = format!("`{} {target}` is not a question", verb.as_str());
                let side = if verb == Verb::Find { "publish" } else { "subscribe" };
                return Err(Problem::error("bad-question", message)
                    .help(format!("ask for what it comes to: {side} '$SRV.INFO.{target}'")));
            }
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
}

impl<'g> Held<'g> {
    /// What that grant holds.
    #[must_use]
    pub fn of(grant: &'g Grant) -> Self {
        let side = |side| HeldSide::of(grant.permissions(side).iter().map(|p| &p.subject));
        Self { publish: side(Side::Publish), subscribe: side(Side::Subscribe) }
    }

    /// How much of `wanted` the permissions of one side hold together.
    #[must_use]
    pub fn covered(&self, side: Side, wanted: &Pattern) -> Reach {
        match side {
            Side::Publish => self.publish.reach(wanted),
            Side::Subscribe => self.subscribe.reach(wanted),
        }
    }
}

/// How much of `wanted` the permissions of one side hold together, for one question: looking at
/// each once takes less than sorting them.
fn covered(grant: &Grant, side: Side, wanted: &Pattern) -> Reach {
    let subjects = grant.permissions(side).iter().map(|permission| &permission.subject);
    HeldSide::of(subjects.filter(|subject| subject.overlaps(wanted))).reach(wanted)
}

impl<'g> HeldSide<'g> {
    fn of(subjects: impl Iterator<Item = &'g Pattern>) -> Self {
        let mut held = Self { tree: PatternTree::new(), longest: 0 };
        for (entry, subject) in subjects.enumerate() {
            held.tree.insert(subject, entry, 0);
            held.longest = held.longest.max(subject.as_str().split('.').count());
        }
        held
    }

    fn reach(&self, wanted: &Pattern) -> Reach {
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
