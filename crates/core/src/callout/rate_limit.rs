//! How often one source may ask: so many times in a minute, in bounded memory.
//!
//! Off unless the settings say otherwise, because after a restart of a cluster every client asks at
//! once, and for a good reason. `docs/operations.md` has what a limit can break.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::keys::UserKey;

/// Sources that are remembered. When more ask, some are forgotten, and may ask anew.
const REMEMBERED: u64 = 100_000;
/// Who did not ask for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(120);
const MINUTE: i64 = 60;

/// A limit for each source of one kind.
pub struct Limit<K> {
    most: u32,
    /// The minute in the upper half, and how often the source asked in it in the lower one.
    seen: moka::sync::Cache<K, Arc<AtomicU64>>,
}

impl<K: Hash + Eq + Send + Sync + 'static> Limit<K> {
    /// At most `most` in a minute.
    #[must_use]
    pub fn new(most: u32) -> Self {
        let seen =
            moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_idle(FORGOTTEN).build();
        Self { most, seen }
    }

    /// How many sources are remembered.
    #[must_use]
    pub fn remembered(&self) -> u64 {
        self.seen.run_pending_tasks();
        self.seen.entry_count()
    }

    /// Counts one request of a source at a time, in seconds since the Unix epoch; false when it is
    /// one too many for that minute.
    #[must_use]
    pub fn admits(&self, source: K, now: i64) -> bool {
        // The lower half of the minute's number is enough to tell it from its neighbours.
        let minute = u64::from(u32::try_from(now.div_euclid(MINUTE) & 0xFFFF_FFFF).unwrap_or(0));
        let seen = self.seen.get_with(source, || Arc::new(AtomicU64::new(minute << 32)));
        let count = |state: u64| {
            let asked = if state >> 32 == minute { state & 0xFFFF_FFFF } else { 0 };
            // What is refused is not counted: the limit holds, and the count cannot run over.
            (asked < u64::from(self.most)).then_some(minute << 32 | (asked + 1))
        };
        seen.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).is_ok()
    }
}

/// What the settings allow of one address, and of one proved key.
#[derive(Default)]
pub struct RateLimits {
    per_key: Option<Limit<UserKey>>,
    per_host: Option<Limit<IpAddr>>,
}

impl RateLimits {
    /// So many in a minute; `None` is no limit.
    #[must_use]
    pub fn new(per_key: Option<u32>, per_host: Option<u32>) -> Self {
        Self { per_key: per_key.map(Limit::new), per_host: per_host.map(Limit::new) }
    }

    /// How many proved keys and how many addresses are remembered.
    #[must_use]
    pub fn remembered(&self) -> (u64, u64) {
        let keys = self.per_key.as_ref().map_or(0, Limit::remembered);
        (keys, self.per_host.as_ref().map_or(0, Limit::remembered))
    }

    /// Counts a request from an address, which is the server's word. This comes before the proof,
    /// which is what a flood would cost.
    #[must_use]
    pub fn admits_host(&self, address: Option<IpAddr>, now: i64) -> bool {
        // What is no address counts as one that nobody has: else it would pass by the limit.
        let address = address.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        self.per_host.as_ref().is_none_or(|limit| limit.admits(address, now))
    }

    /// Counts a request of a key. Only proved ones count: nobody can use up another's.
    #[must_use]
    pub fn admits_key(&self, key: UserKey, now: i64) -> bool {
        self.per_key.as_ref().is_none_or(|limit| limit.admits(key, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_its_own_minutes() {
        let limit = Limit::new(2);
        let asks = |source, now| limit.admits(source, now);
        assert_eq!([asks("a", 0), asks("a", 1), asks("a", 59)], [true, true, false]);
        assert_eq!([asks("b", 59), asks("a", 60), asks("a", 60)], [true, true, true]);
        assert!(!asks("a", 119) && asks("a", 180));
    }

    #[test]
    fn many_asking_at_once_are_counted_right() {
        let limit = Limit::new(1000);
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).filter(|_| limit.admits(7, 30)).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 1000);
    }

    #[test]
    fn no_number_of_sources_fills_the_memory() {
        let limit = Limit::new(1);
        for source in 0..3 * REMEMBERED {
            assert!(limit.admits(source, 0));
        }
        let remembered = limit.remembered();
        assert!(remembered > 0 && remembered <= REMEMBERED, "{remembered}");
    }
}
