//! The policy in force: readers take a snapshot, one writer replaces it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use tokio::sync::watch;

use super::removed::{FormerHolder, RemovedKeys};
use crate::policy_source::origin::Origin;
use solewriter_core::diagnostics::Problems;
use solewriter_core::keys::UserKey;
use solewriter_core::policy::model::{Access, Policy};
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
    /// The services that may no longer use a consumer, or read a part of a stream, that they could by
    /// the policy before.
    losers: HashMap<Arc<str>, Mutex<Loser>>,
    /// Which revision of a bucket it is. In here, so that nobody sees the one without the other;
    /// replaced when the bucket has the same policy under another number.
    origin: ArcSwapOption<Origin>,
}

impl Snapshot {
    /// Which revision of a bucket it is, if it came from one.
    #[must_use]
    pub fn origin(&self) -> Option<Arc<Origin>> {
        self.origin.load_full()
    }

    /// The services that could read a stream by this policy, and not by the next one; and those whose
    /// losses are not settled yet.
    fn losers_until(&self, next: &Policy) -> HashMap<Arc<str>, Mutex<Loser>> {
        let now = Instant::now();
        let locked =
            |loser: &Mutex<Loser>| loser.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let before = self.losers.iter().map(|(name, loser)| (Arc::clone(name), locked(loser)));
        let mut all: HashMap<Arc<str>, Loser> =
            before.filter(|(_, loser)| loser.closed || loser.from > now).collect();
        for (name, loss) in losses(&self.policy, next) {
            let loser = all.entry(name).or_insert_with(|| Loser::new(now));
            loser.from = now + HOLD_BACK;
            loser.lost.push(loss);
        }
        all.into_iter().map(|(name, loser)| (name, Mutex::new(loser))).collect()
    }

    /// A connection of that service is about to be closed: if it lost a consumer, the service is not
    /// let in for a moment from now on.
    pub fn hold_back(&self, service: &str) {
        if let Some(loser) = self.losers.get(service) {
            let mut loser = loser.lock().unwrap_or_else(PoisonError::into_inner);
            loser.from = Instant::now() + HOLD_BACK;
            loser.closed = true;
        }
    }

    /// What services have lost of whom connections were closed since this was last asked.
    #[must_use]
    pub fn take_losses(&self) -> Vec<Loss> {
        let mut all = Vec::new();
        for loser in self.losers.values() {
            let mut loser = loser.lock().unwrap_or_else(PoisonError::into_inner);
            if std::mem::take(&mut loser.closed) {
                all.extend(loser.lost.iter().cloned());
            }
        }
        all
    }

    /// What was taken could not be settled.
    pub fn take_again(&self) {
        for loser in self.losers.values() {
            loser.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        }
    }

    /// From when on a service is let in; `None` when it is now.
    ///
    /// A pull that is under way belongs to the consumer. On one server, JetStream drops it when it
    /// finds that nobody listens to its inbox. It looks when consumers are listed, which the sweep does
    /// once it has closed the service's connections. So nobody of it may be in at that moment.
    #[must_use]
    pub fn lets_in_from(&self, service: &str) -> Option<Instant> {
        let loser = self.losers.get(service)?.lock().unwrap_or_else(PoisonError::into_inner);
        (loser.from > Instant::now()).then_some(loser.from)
    }
}

/// For how long a service is not let in that has lost the use of a consumer. Clients wait two
/// seconds at least to be let in.
const HOLD_BACK: Duration = Duration::from_secs(1);

/// What a service may no longer read by a new policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The stream.
    pub stream: String,
    /// The declared consumer; `None` for those that the service made to replay the stream.
    pub consumer: Option<String>,
}

/// A service that has lost something.
#[derive(Clone, Debug)]
struct Loser {
    /// It is let in from then on.
    from: Instant,
    lost: Vec<Loss>,
    /// Whether connections of it were closed, and nothing was done about its pulls since.
    closed: bool,
}

impl Loser {
    fn new(from: Instant) -> Self {
        Self { from, lost: Vec::new(), closed: false }
    }
}

/// What services could read of a stream by the one policy, and not by the other.
fn losses(before: &Policy, after: &Policy) -> Vec<(Arc<str>, Loss)> {
    let same = |had: &Access, has: &Access| match (had, has) {
        (Access::Consumes(had), Access::Consumes(has)) => had.name == has.name,
        (Access::Replays(had), Access::Replays(has)) => {
            had.stream() == has.stream() && had.filter() == has.filter()
        }
        (Access::Audits(had), Access::Audits(has)) => had == has,
        _ => false,
    };
    let loss = |access: &Access| {
        let (stream, consumer) = match access {
            Access::Consumes(had) => (had.name.stream(), Some(had.name.consumer().to_string())),
            Access::Replays(had) => (had.stream(), None),
            Access::Audits(stream) => (stream, None),
            _ => return None,
        };
        Some(Loss { stream: stream.to_string(), consumer })
    };
    let lost = before.rules(|access| loss(access).is_some()).filter(|(service, rule)| {
        let now = after.service(&service.name).map_or(&[][..], |service| &service.rules);
        !now.iter().any(|has| same(&rule.access, &has.access))
    });
    lost.filter_map(|(service, rule)| Some((Arc::clone(&service.name), loss(&rule.access)?)))
        .collect()
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
            losers: HashMap::new(),
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

    /// Puts a policy in force that holds, with where it came from. The one in force stays when it
    /// is the same.
    pub fn replace(&self, validated: Validated, origin: Option<Origin>, now: Timestamp) -> Loaded {
        let Validated { policy, warnings } = validated;
        // Nothing that a panic could leave half done is behind the lock.
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let origin = origin.map(Arc::new);
        let before = self.current();
        if let Some(same) = before.as_ref().filter(|b| b.policy.revision() == policy.revision()) {
            same.origin.store(origin);
            return Loaded { after: Arc::clone(same), before, warnings };
        }
        let losers = before.as_ref().map(|before| before.losers_until(&policy)).unwrap_or_default();
        let after = Arc::new(Snapshot {
            policy,
            loaded_at: now,
            since: Instant::now(),
            losers,
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
    fn who_loses_a_consumer_is_held_back_for_a_moment() {
        let store = Store::new();
        let policy = |consumes: &str, replays: &str, more: &str| {
            let text = format!(
                "[stream.S]\nsubjects = [\"s.>\"]\n[stream.S.consumer.a]\n\
                 [stream.S.consumer.b]\n[stream.T]\nsubjects = [\"t.>\"]\n{more}\
                 [service.one]\nconsumes = [{consumes}]\n\
                 [service.two]\nreplays = [{replays}]\n"
            );
            load(&store, &files(&text), Timestamp::UNIX_EPOCH).unwrap();
            let current = store.current().unwrap();
            ["one", "two", "three"].map(|service| current.lets_in_from(service).is_some())
        };
        let all = "\"S/a\", \"S/b\"";
        assert_eq!(policy(all, "\"S\", \"T/t.x\"", ""), [false; 3], "the first");
        // Another consumer is one more that replays leave alone, and no loss.
        let more = "[stream.T.consumer.c]\n";
        assert_eq!(policy(all, "\"S\", \"T/t.x\"", more), [false; 3]);
        assert_eq!(policy("\"S/b\"", "\"S\", \"T/t.x\"", more), [true, false, false]);
        // Who is held back is so by the next policy, too.
        assert_eq!(policy("\"S/b\"", "\"S\", \"T/t.y\"", more), [true, true, false]);
        let current = store.current().unwrap();
        let from = current.lets_in_from("one").unwrap();
        assert!(from <= Instant::now() + HOLD_BACK, "{from:?}");
        // Longer, when a connection is closed; and nobody else.
        current.hold_back("one");
        current.hold_back("three");
        assert!(current.lets_in_from("one").unwrap() > from);
        assert_eq!(current.lets_in_from("three"), None);
        // What it lost is told once for each time, and of nobody else.
        let loss = |stream: &str, consumer: Option<&str>| Loss {
            stream: stream.to_owned(),
            consumer: consumer.map(ToOwned::to_owned),
        };
        assert_eq!(current.take_losses(), [loss("S", Some("a"))]);
        assert_eq!(current.take_losses(), []);
        current.hold_back("two");
        assert_eq!(current.take_losses(), [loss("T", None)]);
        current.hold_back("one");
        // Nor is it forgotten with the next policy.
        policy("\"S/b\"", "\"S\"", more);
        let next = store.current().unwrap();
        assert_eq!(next.take_losses(), [loss("S", Some("a"))]);
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
            Some(Origin { number, lineage, push, author, message, pushed_at: 0 })
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
