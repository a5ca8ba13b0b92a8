//! The policy in force: readers take a snapshot, one writer replaces it.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use tokio::sync::watch;

use super::losses::Losses;
use super::removed::{FormerHolder, RemovedKeys};
use crate::policy_source::origin::Origin;
use solewriter_core::diagnostics::Problems;
use solewriter_core::handover::claims::{Claims, InTransit, settler};
use solewriter_core::keys::UserKey;
use solewriter_core::policy::model::{Policy, exclusive_or_observed};
use solewriter_core::policy::validate::Validated;

/// One policy, and since when it has been in force.
#[derive(Debug)]
pub struct Snapshot {
    /// The policy.
    pub policy: Policy,
    /// When it was loaded.
    pub loaded_at: Timestamp,
    /// The same on the clock that nobody sets.
    pub since: Instant,
    /// What services may no longer read of streams that they could by the policy before.
    pub losses: Losses,
    /// What is not settled of earlier policies.
    unsettled: ArcSwapOption<Unsettled>,
    /// What was not, before it was settled: connections may still have what that gave.
    was_unsettled: ArcSwapOption<Unsettled>,
    /// The policy for an instance that has not heard from its source within the lease.
    without_lease: OnceLock<Policy>,
    /// Which revision of a bucket it is. In here, so that nobody sees the one without the other;
    /// replaced when the bucket has the same policy under another number.
    origin: ArcSwapOption<Origin>,
}

/// What somebody may still write by an earlier policy.
#[derive(Debug)]
pub struct Unsettled {
    /// Who may.
    pub claims: Claims,
    /// What of it the policy in force gives to somebody else, who has to wait for it.
    pub in_transit: Vec<InTransit>,
    /// The policy as it counts until that is settled.
    pub policy: Policy,
    /// Since when.
    pub since: Instant,
}

impl Unsettled {
    /// `settler` is the key of who settles it.
    fn new(claims: Claims, policy: &Policy, settler_key: Option<UserKey>) -> Self {
        let in_transit = claims.in_transit(policy);
        let subjects = in_transit.iter().map(|one| one.subjects.clone()).chain(claims.kept());
        let settler = settler_key.map(|key| settler(key, subjects));
        let policy = Claims::held(policy, &in_transit, settler);
        Self { claims, in_transit, policy, since: Instant::now() }
    }
}

/// The policy to decide by: what is in force, but for what nobody is given yet.
pub enum ForNow {
    /// All of it.
    Whole(Arc<Snapshot>),
    /// Without what is in transit.
    Unsettled(Arc<Unsettled>),
    /// Without anything that one service alone writes.
    WithoutLease(Arc<Snapshot>),
}

impl Deref for ForNow {
    type Target = Policy;

    fn deref(&self) -> &Policy {
        match self {
            Self::Whole(snapshot) => &snapshot.policy,
            Self::Unsettled(unsettled) => &unsettled.policy,
            Self::WithoutLease(snapshot) => snapshot.without_lease(),
        }
    }
}

impl Snapshot {
    /// What is not settled of earlier policies; `None` when nothing is left.
    #[must_use]
    pub fn unsettled(&self) -> Option<Arc<Unsettled>> {
        self.unsettled.load_full()
    }

    /// The policy to decide by now. `lease`: whether its source was heard of late.
    #[must_use]
    pub fn for_now(self: &Arc<Self>, lease: bool) -> ForNow {
        if !lease {
            return ForNow::WithoutLease(Arc::clone(self));
        }
        match self.unsettled() {
            Some(unsettled) => ForNow::Unsettled(unsettled),
            None => ForNow::Whole(Arc::clone(self)),
        }
    }

    /// Every form of the policy that connections may have been let in by.
    pub fn forms(&self) -> impl Iterator<Item = Policy> {
        let stages = [self.unsettled.load_full(), self.was_unsettled.load_full()];
        let stages = stages.into_iter().flatten().map(|unsettled| unsettled.policy.clone());
        std::iter::once(self.policy.clone()).chain(stages).chain(self.without_lease.get().cloned())
    }

    /// The policy without anything that one service alone writes: made when it is first needed.
    pub fn without_lease(&self) -> &Policy {
        self.without_lease.get_or_init(|| {
            let services = self.policy.services().iter();
            let own = services.map(|s| {
                let own = exclusive_or_observed(s, &self.policy.streams().iter());
                (Arc::clone(&s.name), own)
            });
            self.policy.holding(own.filter(|(_, own)| !own.is_empty()).collect(), None)
        })
    }

    /// Which revision of a bucket it is, if it came from one.
    #[must_use]
    pub fn origin(&self) -> Option<Arc<Origin>> {
        self.origin.load_full()
    }
}

/// How many policies that were in force before are kept, at most, and of how many services
/// together: what open connections were given is looked up in them.
const PAST: usize = 8;
const PAST_SERVICES: usize = 40_000;

/// Holds the snapshot in force; none until the first policy was accepted.
///
/// A reader takes [`Store::current`] once for one decision, and so never sees half of a change.
#[derive(Debug, Default)]
pub struct Store {
    current: ArcSwapOption<Snapshot>,
    /// Held while one policy takes the place of another.
    writer: Mutex<()>,
    /// Those that were in force before, the newest first.
    past: Mutex<VecDeque<Arc<Snapshot>>>,
    /// Keys that they had and the one in force does not.
    removed: Mutex<RemovedKeys>,
    /// Whether what moves is in transit first; with the key of who settles that.
    settler: Option<UserKey>,
    changes: watch::Sender<()>,
}

/// What a load did.
#[derive(Debug)]
pub struct Loaded {
    /// The snapshot in force before; `None` when this is the first.
    pub before: Option<Arc<Snapshot>>,
    /// The snapshot in force now; the same one when the files say what was in force already.
    pub after: Arc<Snapshot>,
    /// Warnings and notes.
    pub warnings: Problems,
}

impl Loaded {
    /// Whether another revision is in force now.
    #[must_use]
    pub fn is_change(&self) -> bool {
        !self.before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &self.after))
    }
}

impl Store {
    /// Without a policy yet: there is nothing to decide by.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, and what moves from one service to another is in transit until [`Store::settle`] is
    /// called. `settler` is the key of who settles it.
    #[must_use]
    pub fn with_handovers(settler: UserKey) -> Self {
        Self { settler: Some(settler), ..Self::default() }
    }

    /// Whether what moves is in transit first.
    #[must_use]
    pub fn hands_over(&self) -> bool {
        self.settler.is_some()
    }

    /// The key of who settles it.
    #[must_use]
    pub fn settler(&self) -> Option<&UserKey> {
        self.settler.as_ref()
    }

    /// Nothing is left of what earlier policies gave: the policy of that revision, and of that number
    /// in its bucket, counts whole. Gives what was in transit, if it was in force and not settled.
    pub fn settle(&self, revision: &str, origin: Option<(&str, u64)>) -> Option<Arc<Unsettled>> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current().filter(|s| s.policy.revision().whole() == revision)?;
        let of_bucket = current.origin();
        let same = of_bucket.as_deref().map(Origin::of_bucket) == origin;
        let settled = same.then(|| current.unsettled.swap(None)).flatten()?;
        current.was_unsettled.store(Some(Arc::clone(&settled)));
        self.changes.send_replace(());
        Some(settled)
    }

    /// The snapshot in force; `None` before the first policy was accepted.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Snapshot>> {
        self.current.load_full()
    }

    /// Which revision of a bucket is in force, if it came from one.
    #[must_use]
    pub fn origin(&self) -> Option<Arc<Origin>> {
        self.current()?.origin()
    }

    /// A recent snapshot of that revision, the one in force included.
    #[must_use]
    pub fn recent(&self, revision: &str) -> Option<Arc<Snapshot>> {
        let is_it = |snapshot: &Arc<Snapshot>| snapshot.policy.revision().whole() == revision;
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        self.current().filter(is_it).or_else(|| past.iter().find(|s| is_it(s)).cloned())
    }

    /// The policies that were in force before and are remembered, the newest first.
    #[must_use]
    pub fn past(&self) -> Vec<Arc<Snapshot>> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Their revisions.
    #[must_use]
    pub fn past_revisions(&self) -> Vec<String> {
        self.past().iter().map(|snapshot| snapshot.policy.revision().whole().to_owned()).collect()
    }

    /// Remembers a policy that was in force, to find the grant that a connection was let in with.
    /// The caller bounds how many.
    pub fn recall(&self, policy: Policy) {
        let snapshot = Snapshot {
            policy,
            loaded_at: Timestamp::UNIX_EPOCH,
            since: Instant::now(),
            losses: Losses::default(),
            unsettled: ArcSwapOption::empty(),
            was_unsettled: ArcSwapOption::empty(),
            without_lease: OnceLock::new(),
            origin: ArcSwapOption::empty(),
        };
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        past.push_back(Arc::new(snapshot));
    }

    /// Who had a key that the policy in force does not have, if one before it did.
    #[must_use]
    pub fn former_holder(&self, key: &UserKey) -> Option<FormerHolder> {
        let removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        removed.holder(key).cloned()
    }

    /// Tells of each policy that comes into force.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn remember(&self, before: &Arc<Snapshot>) {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        past.retain(|snapshot| snapshot.policy.revision() != before.policy.revision());
        past.push_front(Arc::clone(before));
        let mut services = 0;
        let kept = past.iter().take(PAST).take_while(|snapshot| {
            services += snapshot.policy.services().len();
            services <= PAST_SERVICES
        });
        // The last one always: it is what most connections were let in by.
        let kept = kept.count().max(1);
        past.truncate(kept);
    }

    /// The same policy, which shares with the one in force what is the same in both.
    #[must_use]
    pub fn sharing(&self, policy: Policy) -> Policy {
        match self.current() {
            Some(current) => policy.sharing(&current.policy),
            None => policy,
        }
    }

    /// Puts a policy in force that holds, with where it came from. The one in force stays when it
    /// is the same.
    pub fn replace(&self, validated: Validated, origin: Option<Origin>, now: Timestamp) -> Loaded {
        self.replace_after(validated, origin, &Past::default(), now)
    }

    /// The same, of which something is known of the policies between that and the one in force.
    pub fn replace_after(
        &self,
        validated: Validated,
        origin: Option<Origin>,
        past: &Past,
        now: Timestamp,
    ) -> Loaded {
        let Validated { policy, warnings } = validated;
        let policy = self.sharing(policy);
        // Nothing that a panic could leave half done is behind the lock.
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let origin = origin.map(Arc::new);
        let before = self.current();
        if let Some(same) = before.as_ref().filter(|b| b.policy.revision() == policy.revision()) {
            same.origin.store(origin);
            // What was said of that policy under another number says nothing of what came between.
            if let Some(claims) = self.claims(before.as_ref(), past, &policy) {
                let unsettled = Unsettled::new(claims, &same.policy, self.settler);
                same.unsettled.store(Some(Arc::new(unsettled)));
            }
            return Loaded { after: Arc::clone(same), before, warnings };
        }
        let losses = before.as_ref().map(|before| before.losses.next(&before.policy, &policy));
        let claims = self.claims(before.as_ref(), past, &policy);
        let unsettled = claims.map(|c| Arc::new(Unsettled::new(c, &policy, self.settler)));
        let after = Arc::new(Snapshot {
            unsettled: ArcSwapOption::new(unsettled),
            was_unsettled: ArcSwapOption::empty(),
            without_lease: OnceLock::new(),
            policy,
            loaded_at: now,
            since: Instant::now(),
            losses: losses.unwrap_or_default(),
            origin: ArcSwapOption::new(origin),
        });
        // Before the swap: who sees the new policy finds the old one.
        if let Some(before) = &before {
            self.remember(before);
            let number = before.origin().map(|origin| origin.number);
            let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
            removed.replaced(&before.policy, number, &after.policy);
        }
        // Readers that hold `before` finish with it: it is complete, and theirs.
        self.current.store(Some(Arc::clone(&after)));
        self.changes.send_replace(());
        Loaded { before, after, warnings }
    }

    /// What may still be written by policies before `next`, if anything.
    fn claims(&self, before: Option<&Arc<Snapshot>>, past: &Past, next: &Policy) -> Option<Claims> {
        self.settler?;
        let mut claims = match before {
            Some(before) => before.unsettled().map(|u| u.claims.clone()).unwrap_or_default(),
            None => past.claims.clone(),
        };
        if past.unknown {
            claims = Claims::unknown();
        }
        let mut last = before.map(|before| &before.policy);
        for policy in past.policies.iter().chain([next]) {
            claims = last.map_or_else(|| claims.clone(), |last| claims.next(last, policy));
            last = Some(policy);
        }
        Some(claims).filter(|claims| !claims.is_empty())
    }
}

/// What is known of policies that were in force before one, and not here.
#[derive(Debug, Default)]
pub struct Past {
    /// What was not settled, when nothing is in force yet.
    pub claims: Claims,
    /// Policies after the one in force here, the oldest first.
    pub policies: Vec<Policy>,
    /// Whether there were others of which nothing is known.
    pub unknown: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use solewriter_core::diagnostics::SourceFile;
    use solewriter_core::policy::validate::validate;

    fn files(text: &str) -> Vec<SourceFile> {
        vec![SourceFile::new("p.toml", text)]
    }

    const ORDERS: &str = "[bucket.orders]\n[service.orders]\nowns = [\"orders\"]\n";

    fn load(store: &Store, files: &[SourceFile], now: Timestamp) -> Result<Loaded, Problems> {
        validate(files).map(|validated| store.replace(validated, None, now))
    }

    fn store() -> Store {
        let store = Store::new();
        assert!(store.current().is_none());
        let loaded = load(&store, &files(ORDERS), Timestamp::UNIX_EPOCH).unwrap();
        assert!(loaded.is_change() && loaded.before.is_none());
        store
    }

    #[test]
    fn a_reader_keeps_the_snapshot_that_it_took() {
        let store = store();
        let taken = store.current().unwrap();
        let later = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(9);
        let loaded = load(&store, &files("[service.billing]\n"), later).unwrap();
        assert!(loaded.is_change());
        assert!(taken.policy.service("orders").is_some());
        let current = store.current().unwrap();
        assert!(current.policy.service("orders").is_none());
        assert_eq!(current.loaded_at, later);
        assert!(Arc::ptr_eq(&loaded.before.unwrap(), &taken));
    }

    #[test]
    fn a_policy_that_does_not_hold_changes_nothing() {
        let store = store();
        let before = store.current().unwrap();
        let problems = load(&store, &files("[service.orders]\nowns = [\"*\"]\n"), Timestamp::MAX);
        assert!(problems.unwrap_err().has_errors());
        assert!(Arc::ptr_eq(&store.current().unwrap(), &before));
    }

    #[test]
    fn recent_policies_are_found_and_old_ones_let_go() {
        let store = store();
        let first = store.current().unwrap().policy.revision().clone();
        assert!(store.recent(first.whole()).is_some());
        let revisions: Vec<_> = (0..=PAST)
            .map(|n| {
                assert!(store.recent(first.whole()).is_some(), "{n}");
                let text = format!("[service.s{n}]\n");
                let loaded = load(&store, &files(&text), Timestamp::UNIX_EPOCH).unwrap();
                loaded.after.policy.revision().clone()
            })
            .collect();
        assert!(store.recent(first.whole()).is_none());
        for revision in &revisions {
            let found = store.recent(revision.whole()).unwrap();
            assert_eq!(found.policy.revision(), revision);
        }
        // Back and forth between two, the same policies are not kept twice.
        for n in [0, 1, 0, 1, 0, 1] {
            let text = format!("[service.s{n}]\n");
            load(&store, &files(&text), Timestamp::UNIX_EPOCH).unwrap();
        }
        assert!(store.recent(revisions[PAST - 1].whole()).is_some());
    }

    #[test]
    fn a_change_is_told() {
        let store = store();
        let mut changes = store.changes();
        assert!(!changes.has_changed().unwrap());
        load(&store, &files(ORDERS), Timestamp::MAX).unwrap();
        assert!(!changes.has_changed().unwrap(), "the same files are no change");
        load(&store, &files("[service.billing]\n"), Timestamp::MAX).unwrap();
        assert!(changes.has_changed().unwrap());
        changes.borrow_and_update();
    }

    /// A new policy is announced together with its number, even if only the number is new.
    #[test]
    fn a_policy_comes_with_its_number() {
        let store = Store::new();
        let from = |number| {
            let words = || "w".to_owned();
            let (lineage, push, author, message) = (words(), words(), words(), words());
            Some(Origin {
                number,
                lineage,
                push,
                author,
                message,
                pushed_at: 0,
                forced: false,
                signed: None,
            })
        };
        let load = |text, number| {
            let validated = validate(&files(text)).unwrap();
            store.replace(validated, from(number), Timestamp::UNIX_EPOCH).after
        };
        let first = load(ORDERS, 1);
        let second = load("[service.billing]\n", 2);
        assert_eq!(first.origin().unwrap().number, 1);
        assert_eq!(second.origin().unwrap().number, 2);
        let changes = store.changes();
        let again = load("[service.billing]\n", 3);
        assert!(Arc::ptr_eq(&second, &again) && !changes.has_changed().unwrap());
        assert_eq!(store.origin().unwrap().number, 3);
    }

    #[test]
    fn who_had_a_removed_key_is_known() {
        const KEY: &str = "UCRAFZAHGBQKZ5WVGGAZTW3N7PIO7NNEZC77U2TFP7DSBDSFHKEUCIHK";
        let store = store();
        let key = UserKey::parse(KEY).unwrap();
        let then = |text: &str| load(&store, &files(text), Timestamp::UNIX_EPOCH).unwrap().after;
        assert_eq!(store.former_holder(&key), None);
        let had = then(&format!("[service.billing]\nnkeys = [\"{KEY}\"]\n"));
        assert_eq!(store.former_holder(&key), None);
        then(ORDERS);
        then("[service.orders]\n");
        let holder = store.former_holder(&key).unwrap();
        assert_eq!((&*holder.service, &holder.revision), ("billing", had.policy.revision()));
    }

    #[test]
    fn the_same_files_are_no_change() {
        let store = store();
        assert!(!load(&store, &files(ORDERS), Timestamp::MAX).unwrap().is_change());
        assert_eq!(store.current().unwrap().loaded_at, Timestamp::UNIX_EPOCH);
    }
}
