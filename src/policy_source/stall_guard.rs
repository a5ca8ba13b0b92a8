//! A process that was stopped decides nothing by what it knew before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

use solewriter_core::handover::transit::has_lease;

/// How often [`StallGuard::watch`] shows that the process runs.
const TICK: Duration = Duration::from_millis(100);

/// A process that did not run for longer than this may have slept through a change.
pub const STALL: Duration = Duration::from_secs(1);

/// Keeps a process that was stopped (SIGSTOP, a frozen container, a starved machine) from deciding
/// by what it knew before: it looks at the policy's source first.
///
/// A request pays one clock and three atomic reads. A change that comes while the process runs is
/// no business of this: the source's loop puts it in force as soon as it is told.
#[derive(Debug)]
pub struct StallGuard {
    /// Times are milliseconds since then, on a clock that goes on while the process is stopped.
    began: Instant,
    /// When the process last showed that it runs.
    tick: AtomicU64,
    /// A look that began earlier says nothing any more.
    needed: AtomicU64,
    /// When the newest look that came to an end began; 0 before the first.
    looked: AtomicU64,
    /// When the newest look began that the source answered; 0 before the first.
    heard: AtomicU64,
    concluded: Notify,
    wanted: Notify,
}

/// A look at the source that has begun.
#[derive(Clone, Copy, Debug)]
pub struct Look(u64);

impl Default for StallGuard {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            tick: AtomicU64::new(1),
            needed: AtomicU64::new(1),
            looked: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            concluded: Notify::new(),
            wanted: Notify::new(),
        }
    }
}

impl StallGuard {
    /// Never 0.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Notices whether the process did not run until `now`.
    fn notice(&self, now: u64) {
        let slept = now.saturating_sub(self.tick.load(Ordering::Acquire));
        if Duration::from_millis(slept) > STALL {
            self.needed.fetch_max(now, Ordering::AcqRel);
            self.wanted.notify_one();
        }
    }

    /// Shows that the process runs, for ever.
    pub async fn watch(&self) {
        loop {
            let now = self.now();
            // Before the tick, which hides the gap from requests.
            self.notice(now);
            self.tick.fetch_max(now, Ordering::AcqRel);
            tokio::time::sleep(TICK).await;
        }
    }

    /// A look begins. What it finds may be as old as this moment.
    #[must_use]
    pub fn look(&self) -> Look {
        Look(self.now())
    }

    /// A look came to an end, and what it found is in force; one that could not reach the source
    /// ends too.
    pub fn conclude(&self, look: Look) {
        self.looked.fetch_max(look.0, Ordering::AcqRel);
        self.concluded.notify_waiters();
    }

    /// The source answered that look.
    pub fn heard(&self, look: Look) {
        self.heard.fetch_max(look.0, Ordering::AcqRel);
    }

    /// Whether the source answered a look that began within that time.
    #[must_use]
    pub fn has_lease(&self, lease: Duration) -> bool {
        let heard = Some(self.heard.load(Ordering::Acquire)).filter(|at| *at > 0);
        has_lease(heard, u64::try_from(lease.as_millis()).unwrap_or(u64::MAX), self.now())
    }

    /// Asks for a look at once, and does not wait for it.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Asks for a look, and waits until one has ended that began after this; at most so long.
    /// Gives whether it did.
    pub async fn look_now(&self, at_most: Duration) -> bool {
        let from = self.now();
        self.want();
        let ended = async {
            loop {
                // Registered before looking, so that no end of a look falls between.
                let concluded = self.concluded.notified();
                tokio::pin!(concluded);
                concluded.as_mut().enable();
                if self.looked.load(Ordering::Acquire) >= from {
                    return;
                }
                concluded.await;
            }
        };
        timeout(at_most, ended).await.is_ok()
    }

    /// Resolves when a look is wanted at once.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Whether the policy in force may decide: a look that began after the process last slept has
    /// ended.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.notice(self.now());
        self.looked.load(Ordering::Acquire) >= self.needed.load(Ordering::Acquire)
    }

    /// Waits, at most so long, until [`StallGuard::holds`]. Gives whether it does.
    pub async fn wait(&self, at_most: Duration) -> bool {
        if self.holds() {
            return true;
        }
        let held = async {
            loop {
                // Registered before looking, so that no end of a look falls between.
                let concluded = self.concluded.notified();
                tokio::pin!(concluded);
                concluded.as_mut().enable();
                if self.holds() {
                    return;
                }
                concluded.await;
            }
        };
        timeout(at_most, held).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn nothing_is_decided_before_the_first_look_ended() {
        let guard = StallGuard::default();
        assert!(!guard.wait(Duration::from_millis(10)).await);
        let look = guard.look();
        assert!(!guard.holds());
        guard.conclude(look);
        assert!(guard.wait(Duration::ZERO).await);
    }

    #[tokio::test]
    async fn after_a_stop_only_a_look_begun_afterwards_counts() {
        let guard = StallGuard::default();
        guard.conclude(guard.look());
        assert!(guard.holds());
        let before = guard.look();
        // What a stopped process sees: the clock is far ahead of its last sign of life.
        guard.tick.store(1, Ordering::Release);
        std::thread::sleep(STALL + Duration::from_millis(50));
        assert!(!guard.holds());
        // The process runs again; that alone does not hide what happened.
        guard.tick.store(guard.now(), Ordering::Release);
        assert!(!guard.holds());
        timeout(Duration::from_secs(5), guard.wanted()).await.unwrap();
        guard.conclude(before);
        assert!(!guard.holds(), "it began before the stop");
        guard.conclude(guard.look());
        assert!(guard.holds());
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_the_end_of_a_look() {
        let guard = Arc::new(StallGuard::default());
        let waiting = tokio::spawn({
            let guard = guard.clone();
            async move { guard.wait(Duration::from_secs(20)).await }
        });
        tokio::task::yield_now().await;
        guard.conclude(guard.look());
        assert!(timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap());
    }
}
