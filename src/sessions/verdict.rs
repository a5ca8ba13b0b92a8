//! What should become of one open connection. Pure: its name and circumstances, the policy in
//! force, those before it, and what the other instances serve; no server.
//!
//! It compares states, not changes: whatever made a connection differ from the policy in force (a
//! change that was missed, another instance that lags, a restart) is found in the same way.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::expiry;
use crate::policy_source::snapshot_store::{Snapshot, Store};
use crate::sessions::listing::Session;
use solewriter_core::analysis::diff::{self, Right};
use solewriter_core::analysis::query::Verb;
use solewriter_core::analysis::query::{Held, Reach, signed};
use solewriter_core::callout::asked;
use solewriter_core::callout::decide::{Circumstances, Decider, Denial, Entitlement};
use solewriter_core::callout::issue::ConnectionName;
use solewriter_core::grant::{CompiledGrant, Defaults, Grant, Side};
use solewriter_core::policy::model::{Policy, Service};
use solewriter_types::audit_event::SessionClosed;
use solewriter_types::subject::tree::PatternTree;

/// How many lost rights are named, and how many characters they may have together.
const NAMED: usize = 8;
const NAMED_CHARACTERS: usize = 400;

/// What to do with a connection whose service only gained something, and nothing to write or to
/// answer: nobody else can do that in its place, so for that it is closed always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Gained {
    /// It gets it when it connects the next time.
    #[default]
    Leave,
    /// Close it, so that it connects anew and has it.
    Close,
}

/// What the other living instances serve, as far as a verdict depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// Revisions that another instance took up after this one took up its own.
    pub newer: Vec<String>,
    /// Whether some instance makes other grants of the same policy: another version of
    /// solewriter, or other settings.
    pub unlike: bool,
}

/// What should become of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has what it should have.
    Current,
    /// It was let in by an instance that is ahead of this one.
    Newer,
    /// It would only gain something, this, and the settings say to leave it.
    Gained(String),
    /// It has something that it should not have.
    Close(Closing),
}

/// Why a connection is closed. The order is that of urgency.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// It would not be let in any more; the denial's code.
    Denied(&'static str),
    /// It was let in twice, and keeps subscriptions from before.
    AskedAgain,
    /// Its key is another service's now.
    OtherService,
    /// Its service lost something that it still has.
    Lost,
    /// It was let in by a grant that is not known any more and differs from today's.
    NotKnown,
    /// It would gain something to write or to answer: until it does, nobody can.
    GainedDuty,
    /// Its permissions end in so many seconds.
    Expiring(i64),
    /// It would gain something else, and the settings say to close it.
    Gained,
}

impl Cause {
    /// Every name that [`Cause::code`] gives, but those of denials.
    pub const CODES: [&'static str; 6] =
        ["asked_again", "other_service", "lost", "not_known", "gained", SessionClosed::EXPIRING];

    /// A short, stable name for metrics, logs and audit events.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Denied(code) => code,
            Self::AskedAgain => "asked_again",
            Self::OtherService => "other_service",
            Self::Lost => "lost",
            Self::NotKnown => "not_known",
            Self::GainedDuty | Self::Gained => "gained",
            Self::Expiring(_) => SessionClosed::EXPIRING,
        }
    }

    /// Whether the connection has something that it should not have. Those that have not wait
    /// until all of these are closed: who gives something away must not meet who takes it over.
    #[must_use]
    pub fn takes(&self) -> bool {
        !matches!(self, Self::GainedDuty | Self::Expiring(_) | Self::Gained)
    }
}

/// That a connection is to be closed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// Why.
    pub cause: Cause,
    /// More about it, such as what was lost; for people.
    pub detail: String,
    /// The digest of the grant that it would get now, if any.
    pub grant: Option<String>,
}

/// Judges open connections by one policy.
pub struct Judge<'a> {
    /// Decides as it does for new connections.
    pub decider: &'a Decider,
    /// The policy in force.
    pub policy: &'a Policy,
    /// The same without what nobody is given yet.
    pub for_now: &'a Policy,
    /// Has the policies before it.
    pub store: &'a Store,
    /// What the other instances serve.
    pub others: &'a Others,
    /// What to do about gains.
    pub gained: Gained,
    /// What was found so far, by this policy.
    pub changes: &'a Changes,
}

/// What a change of grants came to: the same for every connection that a service was given by one
/// revision. Comparing two large grants takes a while, and a service may have many connections.
#[derive(Debug, Default)]
pub struct Changes(Mutex<HashMap<Change, Verdict>>);

/// Service, revision and digest, as the connection's name has them.
type Change = (String, String, Option<String>);

impl Changes {
    fn find(&self, change: &Change) -> Option<Verdict> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(change).cloned()
    }

    fn keep(&self, change: Change, verdict: Verdict) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(change, verdict);
    }
}

fn close(cause: Cause, detail: String, grant: Option<&CompiledGrant>) -> Verdict {
    let grant = grant.map(|grant| grant.digest().to_string());
    Verdict::Close(Closing { cause, detail, grant })
}

impl Judge<'_> {
    /// What should become of an open connection, at `now` in seconds since the Unix epoch.
    #[must_use]
    pub fn judge_session(&self, session: &Session, now: i64) -> Verdict {
        let Session { server, name, connection, .. } = session;
        let verdict = self.judge(name, &session.circumstances(now));
        if matches!(verdict, Verdict::Close(_)) {
            return verdict;
        }
        // Whatever it has now, it may have heard more before.
        let place = (server.id.as_str(), connection.cid);
        let again = asked::is_open(&server.version)
            .then(|| self.decider.asked().twice(place, connection.made(), name.asked))
            .flatten();
        let (cause, detail) = if let Some(why) = again {
            (Cause::AskedAgain, format!("it sent CONNECT again: {why}"))
        } else if let Some(left) = self.ends(session, now) {
            (Cause::Expiring(left), format!("its permissions end in {} s", left.max(0)))
        } else {
            return verdict;
        };
        Verdict::Close(Closing { cause, detail, grant: name.digest.clone() })
    }

    /// How many seconds it has left, when it is to be closed for that.
    fn ends(&self, session: &Session, now: i64) -> Option<i64> {
        let left = expiry::ends(session, now)?;
        // When the key ends with it, a new connection would not last longer.
        let until = self.for_now.holder(&session.name.key).and_then(|(_, key)| key.not_after);
        (until > session.name.expires || until.is_none()).then_some(left)
    }

    /// What should become of the connection of that name.
    #[must_use]
    pub fn judge(&self, name: &ConnectionName, circumstances: &Circumstances<'_>) -> Verdict {
        if self.others.newer.contains(&name.revision) {
            return Verdict::Newer;
        }
        let entitlement = match self.decider.entitlement(self.for_now, &name.key, circumstances) {
            Ok(entitled) => entitled,
            Err((denial, _)) => {
                let detail = match &denial {
                    // The words of the policy's author may be long.
                    Denial::Disabled(why) => shortened(std::slice::from_ref(why)),
                    other => other.to_string(),
                };
                return close(Cause::Denied(denial.code()), detail, None);
            }
        };
        let Entitlement { service, grant, .. } = entitlement;
        if *service.name != *name.service {
            let detail = format!("the key now belongs to {}", service.name);
            return close(Cause::OtherService, detail, Some(&grant));
        }
        if name.digest.as_deref() == Some(grant.digest().as_str()) {
            return Verdict::Current;
        }
        let change = (name.service.clone(), name.revision.clone(), name.digest.clone());
        if let Some(found) = self.changes.find(&change) {
            return found;
        }
        let verdict = self.compare(name, service, &grant);
        self.changes.keep(change, verdict.clone());
        verdict
    }

    /// What becomes of a connection whose grant is not today's.
    fn compare(&self, name: &ConnectionName, service: &Service, grant: &CompiledGrant) -> Verdict {
        let Some((had_service, had)) = self.had(name) else {
            // Two versions, or two settings, at work side by side: each would close what the other
            // lets in, for as long as both run. An older version says less in its names.
            let revision = self.policy.revision();
            let same = match name.asked {
                Some(_) => name.revision == revision.whole(),
                None => revision.is_written(&name.revision),
            };
            if same && self.others.unlike {
                return Verdict::Newer;
            }
            let detail = "what it was granted is no longer known".to_owned();
            return close(Cause::NotKnown, detail, Some(grant));
        };
        // Who has had it all the while keeps what new connections are not given yet.
        let whole = self.policy.service(&service.name).unwrap_or(service);
        // What has been signed before is whole.
        let has = Grant::of(whole, self.decider.defaults()).ok();
        let same = |grant: &Grant| grant.digest() == had.digest();
        if had.digest() == grant.digest() || has.as_ref().is_some_and(same) {
            return Verdict::Current;
        }
        let lost = match &has {
            Some(has) => lost(&had, has),
            None => vec!["everything".to_owned()],
        };
        if !lost.is_empty() {
            let words = has.map(|has| in_words(&had_service, whole, &has)).unwrap_or_default();
            let detail = shortened(if words.is_empty() { &lost } else { &words });
            return close(Cause::Lost, detail, Some(grant));
        }
        let gained = gained((service, &had_service), &had, self.decider.defaults());
        let words: Vec<String> = gained.iter().map(right_in_words).collect();
        let words = shortened(&words);
        match self.gained {
            // Only what it was denied beside what it has.
            _ if gained.is_empty() => Verdict::Current,
            _ if gained.iter().any(is_duty) => close(Cause::GainedDuty, words, Some(grant)),
            Gained::Leave => Verdict::Gained(words),
            Gained::Close => close(Cause::Gained, words, Some(grant)),
        }
    }

    /// The grant that the connection was given, when a policy is known that gives it: its own, or
    /// after a restart another one before this. The digest stands for every subject.
    fn had(&self, name: &ConnectionName) -> Option<(Service, Grant)> {
        let given_by = |policy: &Policy| {
            let service = policy.service(&name.service)?;
            let grant = Grant::of(service, self.decider.defaults()).ok()?;
            let same = name.digest.as_deref().is_none_or(|had| had == grant.digest().as_str());
            same.then(|| (service.clone(), grant))
        };
        let given = |then: &Snapshot| then.forms().find_map(|policy| given_by(&policy));
        match self.store.recent(&name.revision) {
            Some(then) => given(&then),
            None if name.digest.is_none() => None,
            None => self.store.past().iter().find_map(|then| given(then)),
        }
    }
}

/// The longest search for what a new deny takes: far below a second.
const MAX_STEPS: usize = 2_000_000;

/// Everything that one grant permits and the other does not. Never too little: what cannot be
/// shown to be held counts as lost.
fn lost(had: &Grant, has: &Grant) -> Vec<String> {
    let mut lost = Vec::new();
    if had.account() != has.account() {
        lost.push(format!("its place in the account {}", had.account()));
    }
    let held = Held::of(has);
    for (side, verb) in [(Side::Publish, "publish"), (Side::Subscribe, "subscribe")] {
        for permission in had.permissions(side) {
            if held.allowed(side, &permission.subject) != Reach::All {
                lost.push(format!("{verb} {}", permission.subject));
            }
        }
    }
    // A deny takes from what is allowed. There is one below each subscription that ends in `*`,
    // and there are some for each consumer of a stream that is replayed.
    let ((publish_before, subscribe_before), (publish, subscribe)) = (signed(had), signed(has));
    let mut steps = MAX_STEPS;
    for (side, verb, denied_before, denied) in [
        (Side::Publish, "publish", publish_before, publish),
        (Side::Subscribe, "subscribe", subscribe_before, subscribe),
    ] {
        // Most grants deny nothing, and have many permissions.
        if denied.deny.is_empty() {
            continue;
        }
        let mut before = PatternTree::new();
        for (entry, text) in denied_before.deny.iter().enumerate() {
            before.insert_text(text, entry, 0);
        }
        let mut allowed = PatternTree::new();
        for (entry, permission) in had.permissions(side).iter().enumerate() {
            allowed.insert(&permission.subject, entry, 0);
        }
        for text in &denied.deny {
            let was_denied =
                before.cover(text, None, &mut steps).is_ok_and(|cover| cover.is_some());
            if !was_denied && allowed.overlaps(text, &mut steps) != Ok(false) {
                lost.push(format!("{verb} {text}"));
            }
        }
    }
    lost.dedup();
    lost
}

/// The rights that a service is given now and a grant does not have.
fn gained(
    (service, had_service): (&Service, &Service),
    had: &Grant,
    defaults: &Defaults,
) -> Vec<Right> {
    if service.held.is_empty() && had_service.held.is_empty() {
        return diff::lost(service, had_service, had);
    }
    // The same rules come to another grant while something is held back.
    let nothing = Service { rules: Vec::new(), ..had_service.clone() };
    let mut gained = diff::lost(service, &nothing, had);
    if !service.held.is_empty()
        && let Ok(for_now) = Grant::of(service, defaults)
    {
        let later = diff::lost(service, &nothing, &for_now);
        let same =
            |one: &Right, other: &Right| (one.verb, &one.target) == (other.verb, &other.target);
        gained.retain(|right| !later.iter().any(|later| same(later, right)));
    }
    gained
}

/// What was lost, in the words of the policy.
fn in_words(before: &Service, after: &Service, granted: &Grant) -> Vec<String> {
    let rights = diff::lost(before, after, granted);
    rights.iter().map(right_in_words).collect()
}

fn right_in_words(right: &Right) -> String {
    format!("{} {}", right.verb.as_str(), right.target)
}

/// Whether others depend on its being used: who wrote or answered before may do so no more.
fn is_duty(right: &Right) -> bool {
    matches!(right.verb, Verb::Write | Verb::Answer | Verb::Found)
}

/// A few of them, and how many more there are.
fn shortened(list: &[String]) -> String {
    let mut text = list.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if let Some((cut, _)) = text.char_indices().nth(NAMED_CHARACTERS) {
        text.truncate(cut);
        text.push('…');
    }
    if list.len() > NAMED {
        text.push_str(&format!(" and {} more", list.len() - NAMED));
    }
    text
}

#[cfg(test)]
mod tests;
