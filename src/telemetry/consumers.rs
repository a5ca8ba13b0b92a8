//! Metrics of consumers.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::sweeps::Sweeps;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OwnerLabel {
    owner: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

/// What Prometheus reads about consumers.
pub struct ConsumerMetrics {
    seen: Family<OwnerLabel, Gauge>,
    over_limit: Gauge,
    deleted: Family<CauseLabel, Counter>,
    sweeps: Sweeps,
    reachable: Gauge,
}

impl Default for ConsumerMetrics {
    fn default() -> Self {
        Self {
            seen: Family::default(),
            over_limit: Gauge::default(),
            deleted: Family::default(),
            sweeps: Sweeps::up_to(60.0),
            reachable: Gauge::default(),
        }
    }
}

impl ConsumerMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        for owner in ["service", "nobody"] {
            drop(self.seen.get_or_create(&OwnerLabel { owner }));
        }
        registry.register(
            "consumers",
            "Consumers of buckets, object stores and audit streams that may stay, at the last sweep of this \
             instance: of a service, or of nobody",
            self.seen.clone(),
        );
        registry.register(
            "consumers_over_limit",
            "Consumers above what one service may have on one stream, at the last sweep",
            self.over_limit.clone(),
        );
        registry.register(
            "consumers_deleted",
            "Consumers that this instance deleted, because no grant covers them or they are too \
             many",
            self.deleted.clone(),
        );
        self.sweeps.register(
            registry,
            ["consumer_sweeps", "Sweeps of all consumers: complete, incomplete"],
            ["consumer_sweep", "How long a sweep of consumers took, including deletions"],
        );
        self.reachable.set(1);
        registry.register(
            "consumers_reachable",
            "0 while this instance should list consumers and cannot",
            self.reachable.clone(),
        );
    }

    /// Why consumers will be deleted: each is at zero from the start, so that the first deletion is
    /// a rise.
    pub fn causes(&self, codes: impl IntoIterator<Item = &'static str>) {
        for cause in codes {
            drop(self.deleted.get_or_create(&CauseLabel { cause }));
        }
    }

    /// What may stay: of services, and of nobody; and how many were too many.
    pub fn seen(&self, services: usize, nobodys: usize, over_limit: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (owner, count) in [("service", services), ("nobody", nobodys)] {
            self.seen.get_or_create(&OwnerLabel { owner }).set(number(count));
        }
        self.over_limit.set(number(over_limit));
    }

    /// Counts deleted consumers.
    pub fn deleted(&self, cause: &'static str, count: u64) {
        self.deleted.get_or_create(&CauseLabel { cause }).inc_by(count);
    }

    /// Counts a sweep.
    pub fn swept(&self, complete: bool, took: Duration) {
        self.sweeps.swept(complete, took);
    }

    /// Whether consumers can be listed.
    pub fn reachable(&self, reachable: bool) {
        self.reachable.set(i64::from(reachable));
    }
}
