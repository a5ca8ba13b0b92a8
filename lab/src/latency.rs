//! Latencies, collected without losing the slow ones.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The longest that is told apart.
const LONGEST: Duration = Duration::from_secs(60);
/// A histogram with three significant digits, from a microsecond to a minute.
#[derive(Clone, Debug)]
pub struct Latencies(
    /// There is one: its bounds are constants that the library takes.
    Option<Histogram<u64>>,
);

/// Quantiles, in milliseconds.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Summary {
    /// How many were measured.
    pub count: u64,
    /// The arithmetic mean.
    pub mean_ms: f64,
    /// Half were faster.
    pub p50_ms: f64,
    /// Nine of ten were faster.
    pub p90_ms: f64,
    /// 99 of 100 were faster.
    pub p99_ms: f64,
    /// 999 of 1000 were faster.
    pub p999_ms: f64,
    /// The slowest.
    pub max_ms: f64,
    /// For a plot: quantile (0 to 1) and milliseconds.
    pub curve: Vec<(f64, f64)>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        let longest = u64::try_from(LONGEST.as_micros()).unwrap_or(u64::MAX);
        Self(Histogram::new_with_bounds(1, longest, 3).ok())
    }

    /// One more. Longer ones than a minute count as a minute.
    pub fn record(&mut self, latency: Duration) {
        if let Some(histogram) = &mut self.0 {
            let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            histogram.saturating_record(micros.max(1));
        }
    }

    /// Everything that another one holds.
    pub fn add(&mut self, other: &Self) {
        if let (Some(mine), Some(other)) = (&mut self.0, &other.0) {
            // It fails for other bounds only, and they are the same.
            let _ = mine.add(other);
        }
    }

    /// Quantiles.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let Some(histogram) = &self.0 else { return Summary::default() };
        let at = |quantile: f64| milliseconds(histogram.value_at_quantile(quantile));
        let steps = (0..100).map(|step| f64::from(step) / 100.0);
        let tail = [0.99, 0.995, 0.999, 0.9995, 0.9999, 1.0];
        Summary {
            count: histogram.len(),
            mean_ms: histogram.mean() / 1000.0,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: milliseconds(histogram.max()),
            curve: steps.chain(tail).map(|q| (q, at(q))).collect(),
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slow_ones_are_seen() {
        let mut latencies = Latencies::new();
        (1..=1000).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        let mut more = Latencies::new();
        more.record(Duration::from_secs(100));
        latencies.add(&more);
        let summary = latencies.summary();
        assert_eq!(summary.count, 1001);
        let near = |found: f64, expected: f64| (found / expected - 1.0).abs() < 0.01;
        assert!(near(summary.p50_ms, 501.0) && near(summary.p99_ms, 991.0), "{summary:?}");
        assert!(near(summary.max_ms, 60_000.0), "{summary:?}");
    }
}
