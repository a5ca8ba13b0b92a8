//! What is known of the source of the policy in force: when it last answered, and whether this
//! process may have slept through a change.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::timeout;

/// How often [`StallGuard::watch`] shows that the process runs.
const TICK: Duration = Duration::from_millis(100);

/// A process that did not run for longer than this may have slept through a change.
const STALL: Duration = Duration::from_secs(1);

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

/// Which revision of a bucket a policy is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its number in the bucket.
    pub number: u64,
    /// The bucket's own identity: a bucket that was made anew has another.
    pub lineage: String,
    /// Identifies the push.
    pub push: String,
    /// Who pushed it, as they called themselves.
    pub author: String,
    /// What they said about it.
    pub message: String,
    /// When, in seconds since the Unix epoch, by their clock.
    pub pushed_at: i64,
}

/// What the source said when it was last asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// It was not asked yet.
    Unasked,
    /// It answered.
    Answered,
    /// There is no such bucket.
    Missing,
    /// Nothing was pushed to the bucket yet.
    Empty,
    /// It could not be asked or read, and why.
    Unreachable(String),
}

impl SourceState {
    /// A short, stable name for logs and JSON.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unasked => "unasked",
            Self::Answered => "answered",
            Self::Missing => "missing",
            Self::Empty => "empty",
            Self::Unreachable(_) => "unreachable",
        }
    }
}

/// A change that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Since when changes have been refused, in seconds since the Unix epoch.
    pub since: i64,
    /// Its number, if it came from a bucket.
    pub number: Option<u64>,
    /// How many errors it has.
    pub errors: usize,
    /// The first of them, in one line.
    pub first: String,
}

/// The policy's source as far as it is known here.
#[derive(Debug)]
pub struct SourceStatus {
    /// Whether this process may have slept through a change.
    pub freshness: StallGuard,
    /// The source, for people: `the directory policy`.
    source: String,
    keep_at_most: i64,
    confirmed: AtomicI64,
    state: ArcSwap<SourceState>,
    refused: ArcSwapOption<Refused>,
}

impl SourceStatus {
    /// Of that source. A policy whose source has not answered for longer than `keep_at_most`
    /// decides nothing.
    #[must_use]
    pub fn new(source: String, keep_at_most: Duration) -> Self {
        Self {
            freshness: StallGuard::default(),
            source,
            keep_at_most: i64::try_from(keep_at_most.as_secs()).unwrap_or(i64::MAX),
            confirmed: AtomicI64::new(i64::MIN),
            state: ArcSwap::from_pointee(SourceState::Unasked),
            refused: ArcSwapOption::empty(),
        }
    }

    /// The source, for people.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The source answered at that Unix time: what is in force is what it has, or its change was
    /// judged and refused.
    pub fn confirm(&self, now: i64) {
        self.confirmed.store(now, Ordering::Release);
    }

    /// When the source last answered (Unix time), if ever.
    #[must_use]
    pub fn confirmed(&self) -> Option<i64> {
        Some(self.confirmed.load(Ordering::Acquire)).filter(|at| *at != i64::MIN)
    }

    /// For how many seconds the source has not answered, when that is too long to decide by the
    /// policy in force. Also when the clock was set back to before the last answer by as much:
    /// then nobody knows how old it is.
    #[must_use]
    pub fn too_old(&self, now: i64) -> Option<i64> {
        let age = now.saturating_sub(self.confirmed()?);
        (age.saturating_abs() > self.keep_at_most).then_some(age)
    }

    /// What the source said when it was last asked.
    #[must_use]
    pub fn state(&self) -> Arc<SourceState> {
        self.state.load_full()
    }

    /// Notes what the source said. Gives whether it said something else before.
    pub fn note(&self, state: SourceState) -> bool {
        let state = Arc::new(state);
        *self.state.swap(Arc::clone(&state)) != *state
    }

    /// The change that was refused, while it is.
    #[must_use]
    pub fn refused(&self) -> Option<Arc<Refused>> {
        self.refused.load_full()
    }

    /// Notes a refused change, or that there is none any more.
    pub fn refuse(&self, refused: Option<Refused>) {
        self.refused.store(refused.map(Arc::new));
    }

    /// One line about the source, for whoever asks whether the service is ready.
    #[must_use]
    pub fn describe(&self, now: i64) -> String {
        let source = &self.source;
        let ago = |at: i64| format!("{} s ago", now.saturating_sub(at).max(0));
        let last = self.confirmed().map_or_else(|| "never".to_owned(), ago);
        match &*self.state() {
            SourceState::Unasked => format!("{source}: not asked yet"),
            SourceState::Answered => format!("{source}: answered {last}"),
            SourceState::Missing if self.confirmed().is_none() => {
                format!("waiting for {source}: it does not exist yet")
            }
            SourceState::Missing => format!("{source} is gone; it last answered {last}"),
            SourceState::Empty => format!("waiting for {source}: nothing was pushed to it yet"),
            SourceState::Unreachable(why) => {
                format!("{source} cannot be read: {why}; it last answered {last}")
            }
        }
    }
}

impl fmt::Display for Origin {
    /// `revision 7 (lea: takes orders)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "revision {} ({}: {})", self.number, self.author, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_too_old_when_its_source_was_silent_for_too_long() {
        let standing = SourceStatus::new("the bucket x".to_owned(), Duration::from_secs(60));
        assert_eq!(standing.too_old(1000), None, "nothing in force yet");
        standing.confirm(1000);
        assert_eq!(standing.too_old(1060), None);
        assert_eq!(standing.too_old(1061), Some(61));
        assert_eq!(standing.too_old(900), Some(-100), "a clock that was set back proves nothing");
        standing.confirm(1061);
        assert_eq!(standing.too_old(1061), None);
    }

    #[tokio::test]
    async fn nothing_is_decided_before_the_first_look_ended() {
        let freshness = StallGuard::default();
        assert!(!freshness.wait(Duration::from_millis(10)).await);
        let look = freshness.look();
        assert!(!freshness.holds());
        freshness.conclude(look);
        assert!(freshness.wait(Duration::ZERO).await);
    }

    #[tokio::test]
    async fn after_a_stop_only_a_look_begun_afterwards_counts() {
        let freshness = StallGuard::default();
        freshness.conclude(freshness.look());
        assert!(freshness.holds());
        let before = freshness.look();
        // What a stopped process sees: the clock is far ahead of its last sign of life.
        freshness.tick.store(1, Ordering::Release);
        std::thread::sleep(STALL + Duration::from_millis(50));
        assert!(!freshness.holds());
        // The process runs again; that alone does not hide what happened.
        freshness.tick.store(freshness.now(), Ordering::Release);
        assert!(!freshness.holds());
        timeout(Duration::from_secs(5), freshness.wanted()).await.unwrap();
        freshness.conclude(before);
        assert!(!freshness.holds(), "it began before the stop");
        freshness.conclude(freshness.look());
        assert!(freshness.holds());
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_the_end_of_a_look() {
        let freshness = Arc::new(StallGuard::default());
        let waiting = tokio::spawn({
            let freshness = freshness.clone();
            async move { freshness.wait(Duration::from_secs(20)).await }
        });
        tokio::task::yield_now().await;
        freshness.conclude(freshness.look());
        assert!(timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap());
    }
}
