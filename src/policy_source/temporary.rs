//! What counts for a while only: entries of a policy that end (`until`), and emergency grants.
//!
//! Which of it counts follows from the files, the documents and the time alone, so that all instances
//! come to the same policy. Pure: time is an argument, and what there is to tell comes back as events.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use jiff::Timestamp;

use crate::policy_source::origin::Origin;
use solewriter_core::diagnostics::{Problems, Severity, SourceFile};
use solewriter_core::emergency::{self, AHEAD, Document, Emergency, End, Refused, Rules, Standing};
use solewriter_core::grant::AuditStreams;
use solewriter_core::policy::model::Policy;
use solewriter_core::policy::validate::validate_with;
use solewriter_types::audit_event::{
    EmergencyBegan, EmergencyEnded, EmergencyIgnored, Event, words,
};

/// The most documents that are looked at, the newest.
pub const MAX_DOCUMENTS: usize = 64;
/// The most grants that count at a time. Each of them is a validation.
pub const MAX_ON: usize = 8;
/// For how many seconds a document is kept that is over: connections may still be open.
const KEPT_FOR: i64 = 48 * 3600;

/// A clock that never goes back: what has ended does not begin again because somebody set the clock.
/// It is ahead of a clock that was set back until the process ends, so it errs towards an early end.
#[derive(Debug, Default)]
struct Clock(Option<(Instant, i64)>);

impl Clock {
    /// The time in seconds since the Unix epoch: by the clock of the day, and at least so much later
    /// than before as the clock says that nobody sets.
    fn now(&mut self, wall: i64, now: Instant) -> i64 {
        let (since, then) = *self.0.get_or_insert((now, wall));
        let passed = now.saturating_duration_since(since).as_secs();
        let at_least = then.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX));
        if wall > at_least {
            self.0 = Some((now, wall));
        }
        wall.max(at_least)
    }
}

/// What a policy is made of before anything that counts for a while.
struct Base {
    /// Its files, where the settings name somebody who may sign a document.
    files: Vec<SourceFile>,
    policy: Policy,
    origin: Option<Origin>,
}

/// Why a grant counts no more.
enum Over {
    Time,
    Early(End),
    Policy(String),
}

/// What is to be in force now.
pub struct Selection {
    /// The policy.
    pub policy: Policy,
    /// Where its files came from.
    pub origin: Option<Origin>,
    /// What may have been in force before, here or elsewhere, without having been seen here.
    pub before: Vec<Policy>,
    /// What there is to tell.
    pub events: Vec<Event>,
}

/// What counts for a while, and what is known of it.
#[derive(Default)]
pub struct Temporary {
    rules: Rules,
    audit: AuditStreams,
    clock: Clock,
    base: Option<Base>,
    /// As the source has them, the newest last.
    documents: Vec<String>,
    /// Those that were looked at before.
    seen: HashSet<String>,
    /// What was told of that counts for nothing.
    told: HashSet<String>,
    /// What counts now, by id.
    on: BTreeMap<String, Emergency>,
    /// When something begins or ends next.
    due: Option<i64>,
    began: bool,
}

impl Temporary {
    /// Nothing yet. `audit` names the audit streams that a policy may grant.
    #[must_use]
    pub fn new(rules: Rules, audit: AuditStreams) -> Self {
        Self { rules, audit, ..Self::default() }
    }

    /// The time, by a clock that never goes back.
    pub fn now(&mut self, wall: Timestamp) -> i64 {
        self.clock.now(wall.as_second(), Instant::now())
    }

    /// Whether something begins or ends now.
    pub fn is_due(&mut self, wall: Timestamp) -> bool {
        let now = self.now(wall);
        self.due.is_some_and(|due| due <= now)
    }

    /// The source has another policy, which holds.
    pub fn rebase(&mut self, files: &[SourceFile], policy: Policy, origin: Option<Origin>) {
        let files = if self.rules.keys.is_empty() { Vec::new() } else { files.to_vec() };
        self.base = Some(Base { files, policy, origin });
    }

    /// The source has these documents. Gives whether they are others than before.
    pub fn take(&mut self, mut documents: Vec<String>, wall: Timestamp) -> bool {
        let old = self.now(wall).saturating_sub(KEPT_FOR);
        documents.retain(|document| !emergency::claims_to_be_over(document, old));
        documents.drain(..documents.len().saturating_sub(MAX_DOCUMENTS));
        std::mem::replace(&mut self.documents, documents) != self.documents
    }

    /// The files of the policy and where they came from, where they are needed again.
    #[must_use]
    pub fn kept_files(&self) -> Option<(Vec<SourceFile>, Option<Origin>)> {
        let base = self.base.as_ref().filter(|base| !base.files.is_empty())?;
        Some((base.files.clone(), base.origin.clone()))
    }

    /// The documents, for the next start.
    #[must_use]
    pub fn documents(&self) -> &[String] {
        &self.documents
    }

    /// How many grants count now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.on.len()
    }

    /// What else may have been in force when these were the files: each grant on top of them that
    /// counted within `reach` seconds. One may fit an older policy alone.
    pub fn with_each(&mut self, files: &[SourceFile], wall: Timestamp, reach: i64) -> Vec<Policy> {
        let now = self.now(wall);
        let (grants, ..) = read(&self.rules, &self.documents, now);
        let lately = grants.iter().filter(|grant| grant.until() > now.saturating_sub(reach));
        let with = |grant: &Emergency| validate_with(files, &self.audit, &[grant]).ok();
        lately.filter_map(with).map(|validated| validated.policy).collect()
    }

    /// Finds what counts now; `None` while there is no policy. `reach` is for how many seconds
    /// connections may be open that an earlier policy let in.
    pub fn select(&mut self, wall: Timestamp, reach: i64) -> Option<Selection> {
        let now = self.now(wall);
        let base = self.base.as_ref()?;
        let (grants, ends, refused) = read(&self.rules, &self.documents, now);
        let mut events = Vec::new();
        let mut due = base.policy.ends_next(now);
        let mut next = |at: i64| due = Some(due.map_or(at, |due: i64| due.min(at)));
        let mut told = HashSet::new();
        for (document, why) in &refused {
            if let Refused::Future(ahead) = why {
                next(now.saturating_add(ahead.saturating_sub(AHEAD).max(1)));
            }
            // One that is over would grant nothing either.
            if !emergency::claims_to_be_over(document, now) {
                let key = format!("{} {document}", why.code());
                if !self.told.contains(&key) {
                    events.push(refusal(why.code(), &why.to_string()));
                }
                told.insert(key);
            }
        }
        let with = |on: &[&Emergency]| validate_with(&base.files, &self.audit, on);
        let (mut on, mut over): (Vec<&Emergency>, BTreeMap<&str, Over>) = Default::default();
        let mut policy = None;
        for grant in &grants {
            let end = ends.iter().find(|end| end.ends == grant.id());
            match (end, grant.stands(now)) {
                (Some(end), _) => drop(over.insert(grant.id(), Over::Early(end.clone()))),
                (None, Standing::Over) => drop(over.insert(grant.id(), Over::Time)),
                (None, Standing::Waits) => next(grant.from()),
                (None, Standing::On) => {
                    next(grant.until());
                    let mut all = on.clone();
                    all.push(grant);
                    let said = |problems: Problems| {
                        let first = problems.iter().find(|p| p.severity == Severity::Error);
                        first.map(|p| p.message.clone()).unwrap_or_default()
                    };
                    let judged = if on.len() < MAX_ON {
                        with(&all).map(|validated| validated.policy).map_err(said)
                    } else {
                        Err(format!("{MAX_ON} emergency grants count already"))
                    };
                    match judged {
                        Ok(judged) => (on, policy) = (all, Some(judged)),
                        Err(why) => drop(over.insert(grant.id(), Over::Policy(why))),
                    }
                }
            }
        }
        let policy = policy.as_ref().unwrap_or(&base.policy).at(now);
        let unseen = |grant: &&Emergency| !self.seen.contains(grant.token());
        let mut before = Vec::new();
        if !self.began {
            // This start may have come between two changes of others.
            before.extend([base.policy.at(now.saturating_sub(reach)), base.policy.at(now)]);
        }
        for grant in grants.iter().filter(unseen) {
            let id = grant.id();
            if !on.iter().any(|one| one.id() == id) && grant.until() > now.saturating_sub(reach) {
                before.extend(with(&[grant]).ok().map(|validated| validated.policy.at(now)));
            }
            if self.began && matches!(over.get(id), Some(Over::Time)) {
                let why = format!("the grant {id} is over: it ended {} s ago", now - grant.until());
                events.push(refusal("over", &why));
            }
        }
        before.retain(|one| one.revision() != policy.revision());
        for (id, grant) in &self.on {
            if !on.iter().any(|one| one.id() == id) {
                events.push(ended(grant, over.get(id.as_str()), policy.revision().whole()));
            }
        }
        for grant in on.iter().filter(|grant| !self.on.contains_key(grant.id())) {
            let owner = base.policy.owners(grant.keyspace()).next().map(|(owner, _)| &*owner.name);
            events.push(began(grant, owner, policy.revision().whole()));
        }
        for (id, why) in &over {
            let Over::Policy(why) = why else { continue };
            let key = format!("policy {id} {why}");
            if !self.told.contains(&key) && !self.on.contains_key(*id) {
                events.push(refusal("policy", &format!("the grant {id} does not fit: {why}")));
            }
            told.insert(key);
        }
        let origin = base.origin.clone();
        self.on = on.into_iter().map(|grant| (grant.id().to_owned(), grant.clone())).collect();
        self.seen = self.documents.iter().map(|document| document.trim().to_owned()).collect();
        (self.told, self.due, self.began) = (told, due, true);
        Some(Selection { policy, origin, before, events })
    }
}

/// The policy that instances have at that time by these files, which come to `policy`, by documents
/// and rules.
#[must_use]
pub fn on_top(
    policy: Policy,
    files: &[SourceFile],
    documents: Vec<String>,
    rules: &Rules,
    audit: &AuditStreams,
    wall: Timestamp,
) -> Policy {
    let mut temporary = Temporary::new(rules.clone(), audit.clone());
    temporary.take(documents, wall);
    temporary.rebase(files, policy.clone(), None);
    temporary.select(wall, 0).map_or(policy, |selection| selection.policy)
}

type Read<'d> = (Vec<Emergency>, Vec<End>, Vec<(&'d str, Refused)>);

/// Documents by what they are: grants in the order in which they were signed, each once.
fn read<'d>(rules: &Rules, documents: &'d [String], now: i64) -> Read<'d> {
    let (mut grants, mut ends, mut refused) = (BTreeMap::new(), Vec::new(), Vec::new());
    for document in documents {
        match rules.read(document, now) {
            Ok(Document::Grant(grant)) => {
                grants.entry((grant.from(), grant.id().to_owned())).or_insert(grant);
            }
            Ok(Document::End(end)) => ends.push(end),
            Err(why) => refused.push((document.as_str(), why)),
        }
    }
    (grants.into_values().collect(), ends, refused)
}

fn began(grant: &Emergency, owner: Option<&str>, revision: &str) -> Event {
    Event::EmergencyBegan(EmergencyBegan {
        id: grant.id().to_owned(),
        service: grant.service().to_owned(),
        keyspace: grant.keyspace().to_string(),
        owner: owner.map(ToOwned::to_owned),
        by: grant.by().to_string(),
        reason: words(grant.reason()),
        until: Timestamp::from_second(grant.until()).unwrap_or_default(),
        revision: revision.to_owned(),
    })
}

fn ended(grant: &Emergency, over: Option<&Over>, revision: &str) -> Event {
    let (cause, detail) = match over {
        Some(Over::Time) => ("time", None),
        Some(Over::Early(end)) => ("early", Some(format!("{} ended it: {}", end.by, end.reason))),
        Some(Over::Policy(why)) => ("policy", Some(format!("it does not fit the policy: {why}"))),
        None => ("gone", Some("its document is gone".to_owned())),
    };
    Event::EmergencyEnded(EmergencyEnded {
        id: grant.id().to_owned(),
        service: grant.service().to_owned(),
        keyspace: grant.keyspace().to_string(),
        by: grant.by().to_string(),
        cause: cause.to_owned(),
        detail: detail.as_deref().map(words),
        reason: words(grant.reason()),
        until: Timestamp::from_second(grant.until()).unwrap_or_default(),
        revision: revision.to_owned(),
    })
}

fn refusal(cause: &str, detail: &str) -> Event {
    Event::EmergencyIgnored(EmergencyIgnored { cause: cause.to_owned(), detail: words(detail) })
}

#[cfg(test)]
mod tests;
