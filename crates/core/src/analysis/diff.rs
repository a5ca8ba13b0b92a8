//! Two policies to what each identity gains and loses, in keyspaces and verbs.
//!
//! A right is gained when its subjects are not all in the service's old grant, and lost when they
//! are not all in the new one. So a rule that is written differently and comes to the same is no
//! change, and whatever is not reported as gained was there before.
//!
//! - `transfers` finds what one service had for itself and another has now;
//! - `settings` compares how a service connects, and what it is denied;
//! - `declared` compares the declarations of streams, consumers and object stores.

mod declared;
mod settings;
mod transfers;

use std::borrow::Borrow;
use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

pub use self::declared::{DeclaredChange, DeclaredSetting};
pub use self::transfers::{Moved, Transfer};
use crate::analysis::query::{Held, Reach, Verb, alone};
use crate::grant::{Defaults, Grant, GrantError, Side};
use crate::policy::model::{Access, Policy, Rule, STORE_PREFIX, Service};
use solewriter_types::subject::Pattern;

/// One thing that a service may do, and the rule that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// What.
    pub verb: Verb,
    /// With what: a keyspace or subject as text.
    pub target: String,
    /// The rule, in the old policy for what is lost, in the new one for what is gained.
    pub rule: Rule,
    /// Whether some of it is on the other side too: it grew or shrank.
    pub in_part: bool,
}

impl Right {
    /// What was gained, or lost, with how much of it was there before or stays.
    #[must_use]
    pub fn said(&self, gained: bool) -> String {
        let Self { verb, target, in_part, .. } = self;
        let part = match (in_part, gained) {
            (false, _) => "",
            (true, true) => ", of which it had a part",
            (true, false) => ", of which it keeps a part",
        };
        format!("{} {target}{part}", verb.as_str())
    }
}

/// Which way a change goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The identity can do more.
    Gain,
    /// The identity can do less.
    Loss,
    /// It can do something else, such as live in another account.
    Both,
}

impl Effect {
    /// Whether something is gained.
    #[must_use]
    pub fn gains(self) -> bool {
        self != Self::Loss
    }

    /// Whether something is lost.
    #[must_use]
    pub fn loses(self) -> bool {
        self != Self::Gain
    }

    /// The effect as text, and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gain => "gain",
            Self::Loss => "loss",
            Self::Both => "both",
        }
    }
}

/// A change of how a service connects: its keys, account, lifetime, networks, and so on; or of what
/// it is denied beside what its rules grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingChange {
    /// `key`, `account`, `lifetime`, `sources`, `connections`, `disabled`, `denied` or
    /// `until`.
    pub setting: &'static str,
    /// Before; `None` when there was nothing.
    pub old: Option<String>,
    /// After; `None` when there is nothing.
    pub new: Option<String>,
    /// Which way it goes.
    pub effect: Effect,
    /// What else there is to say.
    pub note: Option<String>,
}

impl fmt::Display for SettingChange {
    /// `lifetime 1h -> 30m`. It holds what people wrote: clean it before it is printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, old, new, note, .. } = self;
        match (old, new) {
            (Some(old), Some(new)) => write!(f, "{setting} {old} -> {new}")?,
            (None, Some(new)) if *setting == "disabled" => write!(f, "disabled: {new}")?,
            (Some(old), None) if *setting == "disabled" => {
                write!(f, "enabled; it was disabled: {old}")?;
            }
            (Some(old), None) if *setting == "denied" => write!(f, "no longer denied: {old}")?,
            (Some(one), None) | (None, Some(one)) => write!(f, "{setting} {one}")?,
            (None, None) => f.write_str(setting)?,
        }
        note.as_ref().map_or(Ok(()), |note| write!(f, "; {note}"))
    }
}

/// What became of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is new.
    Added,
    /// It is no more.
    Removed,
    /// It is there before and after.
    Changed,
}

impl Fate {
    /// The fate as text, and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

/// Everything that changes for one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceChange {
    /// The service.
    pub service: Arc<str>,
    /// What became of it.
    pub fate: Fate,
    /// What it may do now.
    pub gains: Vec<Right>,
    /// What it may do no more.
    pub loses: Vec<Right>,
    /// How it connects.
    pub settings: Vec<SettingChange>,
}

impl ServiceChange {
    /// Whether it gains something.
    #[must_use]
    pub fn gains(&self) -> bool {
        !self.gains.is_empty() || self.settings.iter().any(|change| change.effect.gains())
    }

    /// Whether it loses something.
    #[must_use]
    pub fn loses(&self) -> bool {
        !self.loses.is_empty() || self.settings.iter().any(|change| change.effect.loses())
    }

    /// Everything that it gains, how it connects first, as text that is not cleaned.
    pub fn all_gains(&self) -> impl Iterator<Item = String> {
        let settings = self.settings.iter().filter(|change| change.effect.gains());
        let rights = self.gains.iter().map(|right| right.said(true));
        settings.map(ToString::to_string).chain(rights)
    }

    /// Everything that it loses, how it connects first, as text that is not cleaned.
    pub fn all_losses(&self) -> impl Iterator<Item = String> {
        let settings = self.settings.iter().filter(|change| change.effect.loses());
        let rights = self.loses.iter().map(|right| right.said(false));
        settings.map(ToString::to_string).chain(rights)
    }
}

/// Everything that differs between two policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Changes of owner: keyspaces, stores, consumers, subjects of streams and names, in this order.
    pub transfers: Vec<Transfer>,
    /// Changes of declared streams, consumers and object stores, in this order.
    pub declared: Vec<DeclaredChange>,
    /// Services with changes, in the order of names.
    pub services: Vec<ServiceChange>,
}

impl Diff {
    /// Whether nothing differs for any identity, and no declaration does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.declared.is_empty()
    }
}

/// Compares two policies.
///
/// # Errors
/// [`GrantError`] with the service whose grant could not be made.
pub fn diff(
    old: &Policy,
    new: &Policy,
    defaults: &Defaults,
) -> Result<Diff, (Arc<str>, GrantError)> {
    let mut services = Vec::new();
    for (before, after) in new.compared(old) {
        let Some(name) = before.or(after).map(|service| &service.name) else { continue };
        let grant = |service: Option<&Service>| {
            service
                .map(|service| Grant::of(service, defaults))
                .transpose()
                .map_err(|error| (Arc::clone(name), error))
        };
        let sides = settings::Sides { old, new, before, after, defaults };
        let change = ServiceChange {
            service: Arc::clone(name),
            fate: match (before, after) {
                (None, _) => Fate::Added,
                (_, None) => Fate::Removed,
                _ => Fate::Changed,
            },
            gains: beyond(after, before, || grant(before))?,
            loses: beyond(before, after, || grant(after))?,
            settings: settings::changes(&sides),
        };
        // A service that comes or goes is a change even when it may do nothing.
        if change.fate != Fate::Changed || change.gains() || change.loses() {
            services.push(change);
        }
    }
    let transfers = transfers::between(old, new, &services);
    Ok(Diff { transfers, declared: declared::changes(old, new), services })
}

/// What one version of a service could do and `granted`, the grant of another, does not hold.
#[must_use]
pub fn lost(before: &Service, after: &Service, granted: &Grant) -> Vec<Right> {
    let granted = || Ok::<_, Infallible>(Some(granted));
    beyond(Some(before), Some(after), granted).unwrap_or_else(|never| match never {})
}

/// The rights of one version of a service that the other version's grant does not hold. The grant
/// is only asked for where a rule differs: of 10,000 services, a change leaves most as they were.
fn beyond<G: Borrow<Grant>, E>(
    one: Option<&Service>,
    other: Option<&Service>,
    granted: impl FnOnce() -> Result<Option<G>, E>,
) -> Result<Vec<Right>, E> {
    let Some(one) = one else { return Ok(Vec::new()) };
    let same: HashSet<String> = other
        .map(|other| other.rules.iter().map(|rule| rule.access.to_string()).collect())
        .unwrap_or_default();
    let differs = |rule: &&Rule| !same.contains(&rule.access.to_string());
    if !one.rules.iter().any(|rule| differs(&rule)) {
        return Ok(Vec::new());
    }
    let granted = granted()?;
    let granted = granted.as_ref().map(|grant| (grant.borrow(), Held::of(grant.borrow())));
    let mut rights: Vec<Right> = Vec::new();
    for rule in one.rules.iter().filter(differs) {
        for (verb, target, access) in parts(&rule.access) {
            let reach = granted
                .as_ref()
                .map_or(Reach::None, |(grant, has)| held(grant, has, verb, &access));
            if reach != Reach::All {
                let in_part = reach == Reach::Part;
                rights.push(Right { verb, target, rule: rule.clone(), in_part });
            }
        }
    }
    rights.sort_by(|a, b| (a.verb, &a.target).cmp(&(b.verb, &b.target)));
    // Two rules that come to the same right are one.
    rights.dedup_by(|a, b| a.verb == b.verb && a.target == b.target);
    Ok(rights)
}

/// A rule taken apart into rights. Owning is writing and reading.
fn parts(access: &Access) -> Vec<(Verb, String, Access)> {
    let verb = match access {
        Access::Owns(keyspace) => {
            let text = keyspace.to_string();
            return vec![
                (Verb::Write, text.clone(), access.clone()),
                (Verb::Read, text, Access::Reads(keyspace.clone())),
            ];
        }
        Access::Writes(keyspace) => {
            return vec![(Verb::Write, keyspace.to_string(), access.clone())];
        }
        Access::WritesStore(store) => {
            return vec![(Verb::Write, format!("{STORE_PREFIX}{store}"), access.clone())];
        }
        Access::Reads(keyspace) => {
            return vec![(Verb::Read, keyspace.to_string(), access.clone())];
        }
        Access::OwnsStore(store) => {
            let text = format!("{STORE_PREFIX}{store}");
            return vec![
                (Verb::Write, text.clone(), access.clone()),
                (Verb::Read, text, Access::ReadsStore(store.clone())),
            ];
        }
        Access::ReadsStore(store) => {
            return vec![(Verb::Read, format!("{STORE_PREFIX}{store}"), access.clone())];
        }
        Access::Publishes(_) => Verb::Publish,
        Access::Subscribes(_) => Verb::Subscribe,
        Access::Answers(_) => Verb::Answer,
        Access::Calls(_) => Verb::Call,
        Access::Consumes(consumed) => {
            return vec![(Verb::Consume, consumed.to_string(), access.clone())];
        }
        Access::FoundAs(name) => {
            return vec![(Verb::Found, name.to_string(), access.clone())];
        }
        Access::Discovers(name) => {
            return vec![(Verb::Find, name.to_string(), access.clone())];
        }
        Access::DiscoversAll => return vec![(Verb::Find, "*".to_owned(), access.clone())],
        Access::Replays(replayed) => {
            return vec![(Verb::Replay, replayed.to_string(), access.clone())];
        }
        Access::Audits(stream) => {
            return vec![(Verb::Audit, stream.to_string(), access.clone())];
        }
    };
    let (Access::Publishes(pattern)
    | Access::Subscribes(pattern)
    | Access::Answers(pattern)
    | Access::Calls(pattern)) = access
    else {
        return Vec::new();
    };
    vec![(verb, pattern.to_string(), access.clone())]
}

/// How much of a right a grant holds: all of it when all that the right would come to is there.
fn held(grant: &Grant, has: &Held<'_>, verb: Verb, access: &Access) -> Reach {
    let Ok(needed) = alone(grant.service(), access.clone(), grant.audit()) else {
        return Reach::None;
    };
    let sides = [Side::Publish, Side::Subscribe];
    // What is denied beside a replay is others', and no part of it.
    let reach = |side, subject: &Pattern| match access {
        Access::Replays(_) => has.allowed(side, subject),
        _ => has.covered(side, subject),
    };
    let all = sides
        .into_iter()
        .all(|side| needed.permissions(side).iter().all(|p| reach(side, &p.subject) == Reach::All));
    if all {
        return Reach::All;
    }
    // Replies and the requests that name only a bucket say nothing about this right.
    let telling = match access {
        Access::Owns(keyspace) | Access::Writes(keyspace) => keyspace.subjects(),
        Access::Reads(keyspace) => {
            format!("$JS.API.DIRECT.GET.{}.{}", keyspace.stream(), keyspace.subjects())
        }
        Access::Publishes(p) | Access::Calls(p) | Access::Subscribes(p) | Access::Answers(p) => {
            p.to_string()
        }
        Access::OwnsStore(store) | Access::WritesStore(store) => format!("$O.{store}.M.*"),
        Access::ReadsStore(store) => format!("$JS.API.DIRECT.GET.OBJ_{store}.$O.{store}.M.*"),
        Access::Consumes(consumed) => {
            let (stream, consumer) = (consumed.name.stream(), consumed.name.consumer());
            format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}")
        }
        Access::FoundAs(name) | Access::Discovers(name) => format!("$SRV.PING.{name}"),
        Access::DiscoversAll => "$SRV.PING.*".to_owned(),
        Access::Replays(replayed) => {
            let filter = replayed.filter().map_or(">", Pattern::as_str);
            format!("$JS.API.CONSUMER.CREATE.{}.*.{filter}", replayed.stream())
        }
        Access::Audits(stream) => format!("{}.CONSUMER.CREATE.{stream}", grant.audit().api()),
    };
    let side = match verb {
        Verb::Subscribe | Verb::Answer | Verb::Found => Side::Subscribe,
        Verb::Write
        | Verb::Read
        | Verb::Publish
        | Verb::Call
        | Verb::Consume
        | Verb::Find
        | Verb::Replay
        | Verb::Ack
        | Verb::Audit => Side::Publish,
    };
    match Pattern::parse(&telling) {
        Ok(subject) if reach(side, &subject) != Reach::None => Reach::Part,
        _ => Reach::None,
    }
}
