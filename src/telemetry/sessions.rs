//! Metrics of open connections.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::sweeps::Sweeps;

/// How an open connection stands to the policy in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// It has what it should have.
    Current,
    /// It would only gain something, and is left.
    Gained,
    /// It was let in by an instance that is ahead.
    Newer,
    /// It must be closed.
    Stale,
    /// Its permissions are about to end, so it is closed.
    Expiring,
}

impl SessionState {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::Current, Self::Gained, Self::Newer, Self::Stale, Self::Expiring];

    fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Gained => "gained",
            Self::Newer => "newer",
            Self::Stale => "stale",
            Self::Expiring => "expiring",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClosedLabels {
    outcome: &'static str,
    reason: &'static str,
}

/// The bounds of the times for which nobody could write something, in seconds.
const VACANT: [f64; 9] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 3600.0];

/// What Prometheus reads about open connections.
pub struct SessionMetrics {
    seen: Family<StateLabel, Gauge>,
    closed: Family<ClosedLabels, Counter>,
    sweeps: Sweeps,
    sweeper: Gauge,
    instances: Gauge,
    failing: Gauge,
    reach: Gauge,
    transit: Gauge,
    handovers: Counter,
    vacant: Histogram,
}

impl Default for SessionMetrics {
    fn default() -> Self {
        Self {
            seen: Family::default(),
            closed: Family::default(),
            sweeps: Sweeps::up_to(600.0),
            sweeper: Gauge::default(),
            instances: Gauge::default(),
            failing: Gauge::default(),
            reach: Gauge::default(),
            transit: Gauge::default(),
            handovers: Counter::default(),
            vacant: Histogram::new(VACANT),
        }
    }
}

impl SessionMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        for state in SessionState::ALL {
            drop(self.seen.get_or_create(&StateLabel { state: state.as_str() }));
        }
        registry.register(
            "sessions",
            "Open connections at the last sweep of this instance, by how they compare with the \
             policy",
            self.seen.clone(),
        );
        registry.register(
            "sessions_closed",
            "Open connections that this instance closed, and why",
            self.closed.clone(),
        );
        self.sweeps.register(
            registry,
            ["session_sweeps", "Sweeps of all open connections: complete, incomplete"],
            ["session_sweep", "How long a sweep took, including closing"],
        );
        registry.register(
            "session_sweeper",
            "1 while this instance is the one that sweeps",
            self.sweeper.clone(),
        );
        registry.register(
            "instances",
            "Running instances that this one knows, including itself",
            self.instances.clone(),
        );
        registry.register(
            "session_servers_failing",
            "Servers that did not list their connections at the last sweep of this instance, or \
             not as a server does",
            self.failing.clone(),
        );
        registry.register_with_unit(
            "session_reach",
            "Without a system user, after how long a change reaches every open connection: the \
             longest lifetime of permissions. 0 with one",
            Unit::Seconds,
            self.reach.clone(),
        );
        registry.register(
            "handover_transit",
            "What nobody may write for now because another service may still have it, as this \
             instance sees it while it sweeps",
            self.transit.clone(),
        );
        registry.register(
            "handovers",
            "What moved from one service to another, and was settled by this instance",
            self.handovers.clone(),
        );
        registry.register_with_unit(
            "handover_vacant",
            "For how long nobody could write what moved, at most",
            Unit::Seconds,
            self.vacant.clone(),
        );
    }

    /// Why connections will be closed: each is at zero from the start, so that the first time is a
    /// rise.
    pub fn causes(&self, codes: impl IntoIterator<Item = &'static str>) {
        for reason in codes {
            for outcome in ["closed", "gone", "failed"] {
                drop(self.closed.get_or_create(&ClosedLabels { outcome, reason }));
            }
        }
    }

    /// So much is in transit.
    pub fn in_transit(&self, count: usize) {
        self.transit.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Something moved, and nobody could write it for so long.
    pub fn handed_over(&self, vacant: Duration) {
        self.handovers.inc();
        self.vacant.observe(vacant.as_secs_f64());
    }

    /// How many connections stood so at the last sweep.
    pub fn seen(&self, state: SessionState, count: i64) {
        self.seen.get_or_create(&StateLabel { state: state.as_str() }).set(count);
    }

    /// Counts a connection that was to be closed: `closed`, `gone` or `failed`, and why.
    pub fn closed(&self, outcome: &'static str, reason: &'static str) {
        self.closed.get_or_create(&ClosedLabels { outcome, reason }).inc();
    }

    /// Counts a sweep.
    pub fn swept(&self, complete: bool, took: Duration) {
        self.sweeps.swept(complete, took);
    }

    /// Whether this instance is the one that sweeps.
    pub fn sweeper(&self, sweeper: bool) {
        self.sweeper.set(i64::from(sweeper));
    }

    /// Whether this instance is the one that sweeps, as last told.
    #[must_use]
    pub fn is_sweeper(&self) -> bool {
        self.sweeper.get() == 1
    }

    /// How many servers did not tell everything.
    pub fn failing(&self, servers: usize) {
        self.failing.set(i64::try_from(servers).unwrap_or(i64::MAX));
    }

    /// How many instances live.
    pub fn instances(&self, living: usize) {
        self.instances.set(i64::try_from(living).unwrap_or(i64::MAX));
    }

    /// In one line, for people.
    #[must_use]
    pub fn report(&self) -> String {
        match (self.reach.get(), self.sweeper.get()) {
            (0, 1) => "closed by this instance when a change takes something".to_owned(),
            (0, _) => "looked after by another instance, or not yet".to_owned(),
            (reach, _) => format!("not reached by a change; permissions last up to {reach} s"),
        }
    }

    /// The longest lifetime of permissions, when nobody closes connections; else zero.
    pub fn reach(&self, lifetime: Duration) {
        self.reach.set(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX));
    }
}
