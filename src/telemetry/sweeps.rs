//! Metrics of sweeps: how many there were, and how long they took.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SweepLabel {
    outcome: &'static str,
}

/// Sweeps of one kind.
pub(super) struct Sweeps {
    counts: Family<SweepLabel, Counter>,
    seconds: Histogram,
}

impl Sweeps {
    /// None yet. The longest that are told apart take so long, in seconds.
    pub fn up_to(longest: f64) -> Self {
        let buckets = [0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 600.0];
        let buckets = buckets.into_iter().take_while(|seconds| *seconds <= longest);
        Self { counts: Family::default(), seconds: Histogram::new(buckets) }
    }

    /// Registers both: the name and meaning of the count, and of the time.
    pub fn register(&self, registry: &mut Registry, counts: [&str; 2], seconds: [&str; 2]) {
        for outcome in ["complete", "incomplete"] {
            drop(self.counts.get_or_create(&SweepLabel { outcome }));
        }
        let ([name, about], counts) = (counts, self.counts.clone());
        registry.register(name, about, counts);
        let ([name, about], seconds) = (seconds, self.seconds.clone());
        registry.register_with_unit(name, about, Unit::Seconds, seconds);
    }

    /// Counts one.
    pub fn swept(&self, complete: bool, took: Duration) {
        let outcome = if complete { "complete" } else { "incomplete" };
        self.counts.get_or_create(&SweepLabel { outcome }).inc();
        self.seconds.observe(took.as_secs_f64());
    }
}
