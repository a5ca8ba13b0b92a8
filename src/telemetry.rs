//! Logs and metrics: every field and metric name, in this one file.
//!
//! Logs go to stderr, one line a decision. What a client says of itself is escaped, because a
//! text that reaches a log may hold line breaks and terminal codes. Metrics are in the
//! OpenMetrics text format.

mod caches;
mod consumers;
mod events;
mod exposition;
mod log_writer;
mod servers;
mod sessions;
mod sweeps;

use std::io::IsTerminal;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tracing_subscriber::EnvFilter;

use self::caches::CacheMetrics;
pub use self::consumers::ConsumerMetrics;
pub use self::events::{brief, log_event};
use self::events::{log_defects, log_gateways};
pub use self::exposition::Exposition;
use self::servers::{Clusters, Seen};
pub use self::sessions::{SessionMetrics, SessionState};
use solewriter_core::callout::decide::{CacheSizes, Denial};
use solewriter_core::callout::request::{AskingServer, Rejection};
use solewriter_core::keys::SignError;
use solewriter_core::policy::model::Policy;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Keeps the log's last lines from being lost at the end of the process: drop it last.
#[must_use]
pub struct Logging(log_writer::Lines);

impl Drop for Logging {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// Starts logging to stderr. `filter` is a `tracing` directive list such as `info` or
/// `solewriter=debug,async_nats=warn`.
///
/// # Errors
/// A message when the filter is not understood.
pub fn start_logging(format: LogFormat, filter: &str) -> Result<Logging, String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let lines = log_writer::Lines::to(std::io::stderr()).map_err(|error| error.to_string())?;
    let writer = log_writer::Cleaned::new(lines.clone(), json);
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || writer.clone());
    // A second call (two commands in one test process) changes nothing.
    let _ = if json {
        builder.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
    };
    Ok(Logging(lines))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// Why a request from the broker was not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// More requests waiting than the settings allow.
    Overloaded,
    /// It waited longer than the server does.
    TooLate,
    /// It has no reply subject.
    NoReply,
    /// The client library had to drop it.
    SlowConsumer,
}

impl Dropped {
    const ALL: [Self; 4] = [Self::Overloaded, Self::TooLate, Self::NoReply, Self::SlowConsumer];

    /// As in the metric.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::TooLate => "too_late",
            Self::NoReply => "no_reply_subject",
            Self::SlowConsumer => "slow_consumer",
        }
    }
}

/// The trace that shows what was measured.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TraceLabel {
    trace_id: String,
}

/// Why spans of traces get lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanLoss {
    /// More than are sent meanwhile.
    QueueFull,
    /// The receiver does not answer, or says that it cannot take them now.
    Unreachable,
    /// The receiver does not take them.
    Refused,
}

impl SpanLoss {
    const ALL: [Self; 3] = [Self::QueueFull, Self::Unreachable, Self::Refused];

    fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
        }
    }
}

/// Why events get lost: too many at once for the disk, too many kept for the stream, an instance
/// that was killed, a spool that was damaged, and ids that somebody else used.
pub const LOSSES: [&str; 6] =
    ["queue_full", "spool_full", "killed", "damaged", "id_taken", "strangers"];

/// What may become of a policy that was read.
const LOADS: [&str; 2] = ["accepted", "refused"];

/// How the answering goes, for who has to see that it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Whether there is a connection to nats-server.
    pub connected: bool,
    /// Requests that are taken and not finished.
    pub pending: i64,
    /// Requests that were finished since the start, by an answer or without one.
    pub finished: u64,
}

/// Of what metrics are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// Of the process and of its one policy.
    Whole,
    /// Of a process that serves several tenants.
    Process,
    /// Of one tenant, which is their label.
    Tenant(&'a str),
}

/// What Prometheus reads.
pub struct Metrics {
    registry: Registry,
    decisions: Family<DecisionLabels, Counter>,
    rejected: Family<ReasonLabel, Counter>,
    dropped: Family<ReasonLabel, Counter>,
    unsigned: Family<ReasonLabel, Counter>,
    decision_seconds: HistogramWithExemplars<TraceLabel>,
    pending: Gauge,
    finished: AtomicU64,
    connected: Gauge,
    clusters: Gauge,
    /// 1 where the settings name the cluster that has all streams.
    state_cluster: Gauge,
    /// The servers that asked, and the clusters that they are in.
    seen_servers: Seen,
    seen_clusters: Clusters,
    policy_loads: Family<OutcomeLabel, Counter>,
    policy_services: Gauge,
    policy_loaded: Gauge<f64, AtomicU64>,
    policy_refused_since: Gauge<i64, AtomicI64>,
    policy_number: Gauge,
    policy_source: Gauge,
    emergency_grants: Gauge,
    policy_confirmed: Gauge<i64, AtomicI64>,
    audit_recorded: Counter,
    audit_published: Counter,
    audit_lost: Family<ReasonLabel, Counter>,
    audit_pending: Gauge,
    audit_spool_bytes: Gauge,
    audit_connected: Gauge,
    spans_sent: Counter,
    spans_dropped: Family<ReasonLabel, Counter>,
    sessions: SessionMetrics,
    consumers: ConsumerMetrics,
    caches: CacheMetrics,
    /// Measures the caches when somebody reads the metrics.
    cache_sizes: OnceLock<Box<dyn Fn() -> CacheSizes + Send + Sync>>,
}

impl Metrics {
    /// All metrics, at zero.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Self::of(Scope::Whole)
    }

    /// Those of that scope, at zero. The others are counted and not told.
    #[must_use]
    pub fn of(scope: Scope<'_>) -> Arc<Self> {
        let mut registry = match scope {
            Scope::Whole | Scope::Process => Registry::with_prefix("solewriter"),
            Scope::Tenant(name) => {
                let label = ("tenant".into(), name.to_owned().into());
                Registry::with_prefix_and_labels("solewriter", [label].into_iter())
            }
        };
        let buckets = [
            50e-6, 100e-6, 200e-6, 400e-6, 800e-6, 1.6e-3, 3.2e-3, 6.4e-3, 12.8e-3, 51.2e-3, 0.2,
            1.0,
        ];
        let metrics = Self {
            decisions: Family::default(),
            rejected: Family::default(),
            dropped: Family::default(),
            unsigned: Family::default(),
            decision_seconds: HistogramWithExemplars::new(buckets.into_iter()),
            pending: Gauge::default(),
            finished: AtomicU64::new(0),
            connected: Gauge::default(),
            clusters: Gauge::default(),
            state_cluster: Gauge::default(),
            seen_servers: Seen::default(),
            seen_clusters: Clusters::default(),
            policy_loads: Family::default(),
            policy_services: Gauge::default(),
            policy_loaded: Gauge::default(),
            policy_refused_since: Gauge::default(),
            policy_number: Gauge::default(),
            policy_source: Gauge::default(),
            emergency_grants: Gauge::default(),
            policy_confirmed: Gauge::default(),
            audit_recorded: Counter::default(),
            audit_published: Counter::default(),
            audit_lost: Family::default(),
            audit_pending: Gauge::default(),
            audit_spool_bytes: Gauge::default(),
            audit_connected: Gauge::default(),
            spans_sent: Counter::default(),
            spans_dropped: Family::default(),
            sessions: SessionMetrics::default(),
            consumers: ConsumerMetrics::default(),
            caches: CacheMetrics::default(),
            cache_sizes: OnceLock::new(),
            registry: Registry::default(),
        };
        registry.register(
            "authorisations",
            "Connections decided, by outcome and reason",
            metrics.decisions.clone(),
        );
        registry.register_with_unit(
            "decision",
            "From taking up a request to handing over its reply",
            Unit::Seconds,
            metrics.decision_seconds.clone(),
        );
        metrics.start_at_zero();
        if !matches!(scope, Scope::Tenant(_)) {
            metrics.register_process(&mut registry);
            metrics.register_traces(&mut registry);
            metrics.caches.register(&mut registry);
        }
        metrics.register_audit(&mut registry);
        if scope != Scope::Process {
            metrics.register_policy(&mut registry);
            metrics.sessions.register(&mut registry);
            metrics.consumers.register(&mut registry);
        }
        Arc::new(Self { registry, ..metrics })
    }

    fn register_process(&self, registry: &mut Registry) {
        registry.register(
            "build",
            "The running version",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "rejected_requests",
            "Requests without proof that a server sent them; they got no reply",
            self.rejected.clone(),
        );
        registry.register(
            "dropped_requests",
            "Requests that were not looked at",
            self.dropped.clone(),
        );
        registry.register(
            "pending_requests",
            "Requests taken from the broker and not yet answered",
            self.pending.clone(),
        );
        registry.register(
            "nats_connected",
            "Open connections to nats-server",
            self.connected.clone(),
        );
        self.register_losses(registry);
    }

    /// Everything that is counted is at zero from the start, so that the first time is a rise.
    fn start_at_zero(&self) {
        let granted = DecisionLabels { outcome: "granted", reason: "granted" };
        drop(self.decisions.get_or_create(&granted));
        for reason in Denial::CODES {
            drop(self.decisions.get_or_create(&DecisionLabels { outcome: "denied", reason }));
        }
        for reason in Rejection::CODES {
            drop(self.rejected.get_or_create(&ReasonLabel { reason }));
        }
        // A connection is closed for these when a change would refuse it.
        self.sessions.causes(Denial::CODES);
        for reason in Dropped::ALL.map(Dropped::as_str) {
            drop(self.dropped.get_or_create(&ReasonLabel { reason }));
        }
        for reason in SignError::CODES {
            drop(self.unsigned.get_or_create(&ReasonLabel { reason }));
        }
        for outcome in LOADS {
            drop(self.policy_loads.get_or_create(&OutcomeLabel { outcome }));
        }
        for reason in SpanLoss::ALL.map(SpanLoss::as_str) {
            drop(self.spans_dropped.get_or_create(&ReasonLabel { reason }));
        }
        for reason in LOSSES {
            drop(self.audit_lost.get_or_create(&ReasonLabel { reason }));
        }
    }

    fn register_losses(&self, registry: &mut Registry) {
        registry.register(
            "unsigned_answers",
            "Answers that were not sent because nobody signed them, by reason",
            self.unsigned.clone(),
        );
        registry.register(
            "lost_log_lines",
            "Log lines lost because nobody read them fast enough",
            log_writer::LOST.clone(),
        );
    }

    fn register_policy(&self, registry: &mut Registry) {
        registry.register(
            "policy_loads",
            "Policies read, by outcome (accepted, refused)",
            self.policy_loads.clone(),
        );
        registry.register(
            "policy_services",
            "Services in the policy in force",
            self.policy_services.clone(),
        );
        registry.register_with_unit(
            "policy_loaded_timestamp",
            "When the policy in force was loaded (Unix time)",
            Unit::Seconds,
            self.policy_loaded.clone(),
        );
        registry.register(
            "clusters",
            "Clusters whose servers were seen; more than one are joined by gateways",
            self.clusters.clone(),
        );
        registry.register(
            "state_cluster_named",
            "1 where [state] cluster names the cluster that has all streams",
            self.state_cluster.clone(),
        );
        registry.register_with_unit(
            "policy_refused_since_timestamp",
            "Since when changes have been refused (Unix time); 0 while the newest is in force",
            Unit::Seconds,
            self.policy_refused_since.clone(),
        );
        registry.register(
            "policy_number",
            "Number of the policy in force in its bucket; 0 when it is not from one",
            self.policy_number.clone(),
        );
        registry.register(
            "policy_source_up",
            "1 while the policy's source answers",
            self.policy_source.clone(),
        );
        registry.register(
            "emergency_grants",
            "Emergency grants that count now: each gives a keyspace to another service for a while",
            self.emergency_grants.clone(),
        );
        registry.register_with_unit(
            "policy_confirmed_timestamp",
            "When the policy's source last answered (Unix time)",
            Unit::Seconds,
            self.policy_confirmed.clone(),
        );
    }

    fn register_audit(&self, registry: &mut Registry) {
        registry.register(
            "audit_events",
            "Events recorded, for the log and the audit stream",
            self.audit_recorded.clone(),
        );
        registry.register(
            "audit_published",
            "Events that the audit stream acknowledged",
            self.audit_published.clone(),
        );
        registry.register(
            "audit_lost",
            "Events that will never be in the audit stream, by reason",
            self.audit_lost.clone(),
        );
        registry.register(
            "audit_pending",
            "Events on disk that the audit stream has not acknowledged yet",
            self.audit_pending.clone(),
        );
        registry.register_with_unit(
            "audit_spool",
            "Size of the events on disk",
            Unit::Bytes,
            self.audit_spool_bytes.clone(),
        );
        registry.register(
            "audit_connected",
            "1 while events are sent to the audit stream; 0 while they are kept, or without one",
            self.audit_connected.clone(),
        );
    }

    fn register_traces(&self, registry: &mut Registry) {
        registry.register(
            "spans_sent",
            "Spans of traces that their receiver took",
            self.spans_sent.clone(),
        );
        registry.register(
            "spans_dropped",
            "Spans of traces that their receiver will never have, by reason",
            self.spans_dropped.clone(),
        );
    }

    /// Counts spans that the receiver took.
    pub fn spans_sent(&self, count: u64) {
        self.spans_sent.inc_by(count);
    }

    /// Counts spans that it will never have.
    pub fn spans_dropped(&self, reason: SpanLoss, count: u64) {
        self.spans_dropped.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc_by(count);
    }

    /// Those of open connections.
    #[must_use]
    pub fn sessions(&self) -> &SessionMetrics {
        &self.sessions
    }

    /// Those of consumers.
    #[must_use]
    pub fn consumers(&self) -> &ConsumerMetrics {
        &self.consumers
    }

    /// Counts an event.
    pub fn audit_recorded(&self) {
        self.audit_recorded.inc();
    }

    /// Counts events that the audit stream has.
    pub fn audit_published(&self, count: u64) {
        self.audit_published.inc_by(count);
    }

    /// Counts events that it will never have. `reason` is one of [`LOSSES`].
    pub fn audit_lost(&self, reason: &'static str, count: u64) {
        self.audit_lost.get_or_create(&ReasonLabel { reason }).inc_by(count);
    }

    /// How many events wait on disk, and what they take in bytes.
    pub fn audit_pending(&self, count: u64, bytes: u64) {
        self.audit_pending.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.audit_spool_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Whether events get through.
    pub fn audit_connected(&self, connected: bool) {
        self.audit_connected.set(i64::from(connected));
    }

    /// Counts one decision, by the code of a denial, and the time it took, with the trace that shows
    /// it if there is one.
    pub fn decided(
        &self,
        decision: Result<(), &'static str>,
        took: Duration,
        trace: Option<String>,
    ) {
        debug_assert!(decision.err().is_none_or(|reason| Denial::CODES.contains(&reason)));
        let labels = match decision {
            Ok(()) => DecisionLabels { outcome: "granted", reason: "granted" },
            Err(reason) => DecisionLabels { outcome: "denied", reason },
        };
        self.decisions.get_or_create(&labels).inc();
        let at = trace.is_some().then(std::time::SystemTime::now);
        let trace = trace.map(|trace_id| TraceLabel { trace_id });
        self.decision_seconds.observe(took.as_secs_f64(), trace, at);
    }

    /// Counts a request that got no reply.
    pub fn rejected(&self, rejection: &Rejection) {
        debug_assert!(Rejection::CODES.contains(&rejection.code()));
        self.rejected.get_or_create(&ReasonLabel { reason: rejection.code() }).inc();
    }

    /// An answer was not signed.
    pub fn unsigned(&self, error: SignError) {
        self.unsigned.get_or_create(&ReasonLabel { reason: error.code() }).inc();
    }

    /// Counts requests that were not looked at.
    pub fn dropped(&self, why: Dropped, count: u64) {
        self.dropped.get_or_create(&ReasonLabel { reason: why.as_str() }).inc_by(count);
    }

    /// One more request is waiting or being decided.
    pub fn taken(&self) {
        self.pending.inc();
    }

    /// One request less.
    pub fn done(&self) {
        self.pending.dec();
        self.finished.fetch_add(1, Ordering::Relaxed);
    }

    /// How the answering goes.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress {
            connected: self.connected.get() > 0,
            pending: self.pending.get(),
            finished: self.finished.load(Ordering::Relaxed),
        }
    }

    /// How many policies were read, accepted or refused.
    #[must_use]
    pub fn policies_read(&self) -> u64 {
        let read = |outcome| self.policy_loads.get_or_create(&OutcomeLabel { outcome }).get();
        LOADS.map(read).iter().sum()
    }

    /// A server asked. The first time, what is known against its version is logged.
    pub fn asked_by(&self, server: &AskingServer) {
        if self.seen_servers.first(server.key.as_str()) {
            log_defects(server);
            self.see_cluster(&server.cluster);
        }
    }

    /// The settings name the cluster that has all streams, so that others may be joined to it.
    pub fn state_is_in_a_cluster(&self) {
        self.state_cluster.set(1);
    }

    /// A server of that cluster was seen; its name may be empty. Logs it when there are several, and
    /// the settings do not say which of them has the streams.
    pub fn see_cluster(&self, cluster: &str) {
        let Some(all) = self.seen_clusters.see(cluster) else { return };
        self.clusters.set(i64::try_from(all.len()).unwrap_or(i64::MAX));
        if all.len() > 1 && self.state_cluster.get() == 0 {
            log_gateways(&all.join(", "));
        }
    }

    /// One connection to nats-server more or less.
    pub fn connection(&self, made: bool) {
        if made {
            self.connected.inc();
        } else {
            self.connected.dec();
        }
    }

    /// A policy came into force, at a Unix time in seconds, with its number if it has one.
    #[allow(clippy::cast_precision_loss)]
    pub fn policy_accepted(&self, policy: &Policy, now: i64, number: Option<u64>) {
        self.policy_number.set(number.map_or(0, |n| i64::try_from(n).unwrap_or(i64::MAX)));
        self.policy_loads.get_or_create(&OutcomeLabel { outcome: "accepted" }).inc();
        self.policy_services.set(i64::try_from(policy.services().len()).unwrap_or(i64::MAX));
        self.policy_loaded.set(now as f64);
        self.policy_refused_since.set(0);
    }

    /// A change was refused, at a Unix time in seconds; the policy before stays.
    pub fn policy_refused(&self, now: i64) {
        self.policy_loads.get_or_create(&OutcomeLabel { outcome: "refused" }).inc();
        if self.policy_refused_since.get() == 0 {
            self.policy_refused_since.set(now);
        }
    }

    /// So many emergency grants count now.
    pub fn emergencies(&self, count: usize) {
        self.emergency_grants.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Whether the policy's source answered when it was last asked.
    pub fn policy_source(&self, answers: bool) {
        self.policy_source.set(i64::from(answers));
    }

    /// When the policy's source last answered (Unix time).
    pub fn policy_confirmed(&self, at: i64) {
        self.policy_confirmed.set(at);
    }

    /// Takes what measures the caches, once.
    pub fn measure_caches(&self, sizes: impl Fn() -> CacheSizes + Send + Sync + 'static) {
        let _ = self.cache_sizes.set(Box::new(sizes));
    }

    /// The text in the older format of Prometheus, for who does not read OpenMetrics.
    #[must_use]
    pub fn encode_plain(&self) -> String {
        exposition::plain(&self.encode())
    }

    /// The OpenMetrics text.
    #[must_use]
    pub fn encode(&self) -> String {
        if let Some(sizes) = self.cache_sizes.get() {
            self.caches.set(sizes());
        }
        let mut out = String::new();
        // Writing to a String fails only if a metric's own encoder does.
        if text::encode(&mut out, &self.registry).is_err() {
            out.clear();
        }
        out
    }
}
