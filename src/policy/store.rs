//! The policy in force: readers take a snapshot, one writer replaces it.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;

use super::model::Policy;
use super::validate::{self, Validated};
use crate::source::{Problems, SourceFile};

/// One policy, and since when it has been in force.
#[derive(Debug)]
pub struct Snapshot {
    /// The policy.
    pub policy: Policy,
    /// When it was loaded.
    pub loaded_at: Timestamp,
}

/// Holds the snapshot in force; none until the first policy was accepted.
///
/// A reader takes [`Store::current`] once for one decision, and so never sees half of a change.
#[derive(Debug, Default)]
pub struct Store {
    current: ArcSwapOption<Snapshot>,
    /// Held while a policy is loaded, so that of two loads the one begun later wins.
    writer: Mutex<()>,
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

    /// Validates a whole policy aside, then puts it in force.
    ///
    /// # Errors
    /// All problems, when the policy does not hold; the one in force stays.
    pub fn load(&self, files: &[SourceFile], now: Timestamp) -> Result<Loaded, Problems> {
        // Nothing that a panic could leave half done is behind the lock.
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Validated { policy, warnings } = validate::validate(files)?;
        let before = self.current();
        if let Some(same) = before.as_ref().filter(|b| b.policy.revision() == policy.revision()) {
            return Ok(Loaded { after: Arc::clone(same), before, warnings });
        }
        let after = Arc::new(Snapshot { policy, loaded_at: now });
        // Readers that hold `before` finish with it: it is complete, and theirs.
        self.current.store(Some(Arc::clone(&after)));
        Ok(Loaded { before, after, warnings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(text: &str) -> Vec<SourceFile> {
        vec![SourceFile::new("p.toml", text)]
    }

    const ORDERS: &str = "[bucket.orders]\n[service.orders]\nowns = [\"orders\"]\n";

    fn store() -> Store {
        let store = Store::new();
        assert!(store.current().is_none());
        let loaded = store.load(&files(ORDERS), Timestamp::UNIX_EPOCH).unwrap();
        assert!(loaded.is_change() && loaded.before.is_none());
        store
    }

    #[test]
    fn a_reader_keeps_the_snapshot_that_it_took() {
        let store = store();
        let taken = store.current().unwrap();
        let later = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(9);
        let loaded = store.load(&files("[service.billing]\n"), later).unwrap();
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
        let problems = store.load(&files("[service.orders]\nowns = [\"*\"]\n"), Timestamp::MAX);
        assert!(problems.unwrap_err().has_errors());
        assert!(Arc::ptr_eq(&store.current().unwrap(), &before));
    }

    #[test]
    fn the_same_files_are_no_change() {
        let store = store();
        assert!(!store.load(&files(ORDERS), Timestamp::MAX).unwrap().is_change());
        assert_eq!(store.current().unwrap().loaded_at, Timestamp::UNIX_EPOCH);
    }
}
