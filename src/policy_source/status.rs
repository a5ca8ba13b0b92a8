//! What is known of the source of the policy in force: when it last answered, and what it said.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::policy_source::stall_guard::StallGuard;

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
    pub stall_guard: StallGuard,
    /// The source, for people: `the directory policy`.
    source: String,
    keep_at_most: i64,
    /// Within which the source has to answer, for anybody to be given something to write.
    lease: Option<Duration>,
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
            stall_guard: StallGuard::default(),
            source,
            keep_at_most: i64::try_from(keep_at_most.as_secs()).unwrap_or(i64::MAX),
            lease: None,
            confirmed: AtomicI64::new(i64::MIN),
            state: ArcSwap::from_pointee(SourceState::Unasked),
            refused: ArcSwapOption::empty(),
        }
    }

    /// The same, and nobody is given anything to write once the source has not answered for that
    /// long; `None` for a source that is always at hand.
    #[must_use]
    pub fn with_lease(self, lease: Option<Duration>) -> Self {
        Self { lease, ..self }
    }

    /// The lease, if there is one.
    #[must_use]
    pub fn lease(&self) -> Option<Duration> {
        self.lease
    }

    /// Whether somebody may be given something to write.
    #[must_use]
    pub fn has_lease(&self) -> bool {
        self.lease.is_none_or(|lease| self.stall_guard.has_lease(lease))
    }

    /// The source, for people.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The source answered at that Unix time: its policy is in force, or was refused.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_too_old_when_its_source_was_silent_for_too_long() {
        let source_status = SourceStatus::new("the bucket x".to_owned(), Duration::from_secs(60));
        assert_eq!(source_status.too_old(1000), None, "nothing in force yet");
        source_status.confirm(1000);
        assert_eq!(source_status.too_old(1060), None);
        assert_eq!(source_status.too_old(1061), Some(61));
        assert_eq!(
            source_status.too_old(900),
            Some(-100),
            "a clock that was set back proves nothing"
        );
        source_status.confirm(1061);
        assert_eq!(source_status.too_old(1061), None);
    }
}
