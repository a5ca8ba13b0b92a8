//! Judges open connections as the instance does that sweeps, for tools: they remember no policy of
//! before, and find it in the policy's bucket, which has every revision.

use std::collections::{HashMap, HashSet};

use super::Settings;
use super::verdict::{Cause, Changes, Closing, Gained, Judge, Others, Verdict};
use crate::policy_source::bucket::{Bucket, ReadError};
use crate::policy_source::snapshot_store::Store;
use crate::sessions::listing::Session;
use solewriter_core::callout::decide::Decider;
use solewriter_core::policy::model::Policy;
use solewriter_core::policy::validate::validate_for;

/// The most revisions that are looked through to find some, and the most that are read.
const MAX_SEEN: usize = 1000;
const MAX_READ: usize = 32;

/// A policy, and those before it that were looked up.
pub struct Onlooker {
    policy: Policy,
    decider: Decider,
    gained: Gained,
    past: Store,
    /// The revisions that were looked for, found or not.
    sought: HashSet<String>,
    changes: Changes,
}

impl Onlooker {
    /// Holds connections against `policy`, as an instance does that has these settings and makes
    /// grants by `decider`.
    #[must_use]
    pub fn new(policy: Policy, decider: Decider, settings: &Settings) -> Self {
        let (gained, past) = (settings.gained, Store::new());
        Self { policy, decider, gained, past, sought: HashSet::new(), changes: Changes::default() }
    }

    /// The policy that connections are held against.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What should become of an open connection, at `now` in seconds since the Unix epoch.
    #[must_use]
    pub fn judge(&self, session: &Session, now: i64) -> Verdict {
        let judge = Judge {
            decider: &self.decider,
            policy: &self.policy,
            for_now: &self.policy,
            store: &self.past,
            others: &Others::default(),
            gained: self.gained,
            changes: &self.changes,
        };
        judge.judge_session(session, now)
    }

    /// Looks up what connections were let in by of which nothing else is known, each revision once.
    ///
    /// # Errors
    /// When the bucket cannot be read. A revision that is not there, or that this version does not
    /// take for a policy, is no error: what it gave stays unknown.
    pub async fn recall(
        &mut self,
        bucket: &Bucket,
        sessions: &[Session],
        now: i64,
    ) -> Result<(), ReadError> {
        let unknown = |session: &&Session| {
            let verdict = self.judge(session, now);
            matches!(verdict, Verdict::Close(Closing { cause: Cause::NotKnown, .. }))
        };
        let unknown = sessions.iter().filter(unknown).map(|session| session.name.revision.as_str());
        let mut wanted: HashSet<&str> =
            unknown.filter(|revision| !self.sought.contains(*revision)).take(MAX_READ).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        self.sought.extend(wanted.iter().map(|revision| (*revision).to_owned()));
        let (mut next, mut seen, mut known) = (bucket.head().await?, 0, HashMap::new());
        while let Some(entry) = next
            && !wanted.is_empty()
            && seen < MAX_SEEN
        {
            seen += 1;
            if wanted.remove(entry.policy.as_str()) {
                let documents = bucket.documents(&entry, &known).await?;
                let files: Vec<_> = documents.iter().map(|(_, file)| file.clone()).collect();
                // One that does not hold for this version tells nothing.
                let audit = &self.decider.defaults().audit;
                if let Ok(validated) = validate_for(&files, audit) {
                    self.past.recall(validated.policy);
                }
                known = documents.into_iter().collect();
            }
            next = match entry.number.checked_sub(1).filter(|number| *number > 0) {
                Some(before) => bucket.revision(before).await?,
                None => None,
            };
        }
        self.changes = Changes::default();
        Ok(())
    }
}
