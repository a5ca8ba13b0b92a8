//! Logs and metrics: every field and metric name, in this one file.
//!
//! Logs go to stderr, one line a decision. What a client says of itself is escaped, because a
//! text that reaches a log may hold line breaks and terminal codes. Metrics are in the
//! OpenMetrics text format.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tracing_subscriber::EnvFilter;

use crate::authorizer::Authorisation;
use crate::defects;
use crate::policy::model::Policy;
use crate::protocol::request::{Rejection, Server};

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

/// Starts logging to stderr. `filter` is a `tracing` directive list such as `info` or
/// `solewriter=debug,async_nats=warn`.
///
/// # Errors
/// A message when the filter is not understood.
pub fn start_logging(format: LogFormat, filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call (two commands in one test process) changes nothing.
    let _ = if json {
        builder.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
    };
    Ok(())
}

/// The longest piece of a client's own words in a log line, in characters.
const CLIENT_WORDS: usize = 64;

/// Escaped and cut, so that it can be printed.
fn printable(text: &str) -> String {
    text.chars().take(CLIENT_WORDS).flat_map(char::escape_debug).collect()
}

/// Logs one decision. Grants at INFO, denials at WARN.
pub fn log_decision(authorisation: &Authorisation, id: &str, took: Duration) {
    let Authorisation { request, decision, answer } = authorisation;
    let (server, client) = (request.server(), request.client());
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let host = printable(&client.host);
    let name = printable(&client.name);
    let library = printable(&client.library);
    let connection = client.connection.map_or("unknown", |c| c.as_str());
    let server_name = printable(&server.name);
    if let Err(error) = answer {
        tracing::error!(
            event = "answer_failed", decision = id, server = server_name,
            server_id = %server.key, cid = client.id, error = %error,
        );
    }
    match decision {
        Ok(granted) => tracing::info!(
            event = "authorisation", outcome = "granted", reason = "granted",
            service = %granted.grant.service(), nkey = %granted.key, host, connection,
            client = name, library, server = server_name, server_id = %server.key,
            cid = client.id, account = granted.grant.account(), revision = %granted.revision,
            expires = granted.expires, decision = id, took_us,
        ),
        Err(denied) => tracing::warn!(
            event = "authorisation", outcome = "denied", reason = denied.reason.code(),
            service = denied.service.as_deref().unwrap_or("-"),
            nkey = denied.key.as_ref().map_or("-", |k| k.as_str()), host, connection,
            client = name, library, server = server_name, server_id = %server.key,
            cid = client.id, revision = %denied.revision, decision = id, took_us,
            detail = %denied.reason,
        ),
    }
}

/// Logs what a server's version is known to let through.
pub fn log_defects(server: &Server) {
    for defect in defects::of(&server.version) {
        tracing::error!(
            event = "server_defect", server = printable(&server.name), server_id = %server.key,
            version = printable(&server.version), defect = defect.name, detail = defect.reason,
            "{}", defect.mitigation,
        );
    }
}

/// Logs a request that got no reply.
pub fn log_rejection(rejection: &Rejection) {
    tracing::warn!(
        event = "request_rejected", reason = rejection.code(), detail = %rejection,
        "a request on $SYS.REQ.USER.AUTH was ignored",
    );
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
    fn as_str(self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::TooLate => "too_late",
            Self::NoReply => "no_reply_subject",
            Self::SlowConsumer => "slow_consumer",
        }
    }
}

/// What Prometheus reads.
pub struct Metrics {
    registry: Registry,
    decisions: Family<DecisionLabels, Counter>,
    rejected: Family<ReasonLabel, Counter>,
    dropped: Family<ReasonLabel, Counter>,
    decision_seconds: Histogram,
    pending: Gauge,
    connected: Gauge,
    policy_loads: Family<OutcomeLabel, Counter>,
    policy_services: Gauge,
    policy_loaded: Gauge<f64, AtomicU64>,
    policy_refused_since: Gauge<i64, AtomicI64>,
}

impl Metrics {
    /// All metrics, at zero.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("solewriter");
        let buckets = [
            50e-6, 100e-6, 200e-6, 400e-6, 800e-6, 1.6e-3, 3.2e-3, 6.4e-3, 12.8e-3, 51.2e-3, 0.2,
            1.0,
        ];
        let metrics = Self {
            decisions: Family::default(),
            rejected: Family::default(),
            dropped: Family::default(),
            decision_seconds: Histogram::new(buckets),
            pending: Gauge::default(),
            connected: Gauge::default(),
            policy_loads: Family::default(),
            policy_services: Gauge::default(),
            policy_loaded: Gauge::default(),
            policy_refused_since: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register(
            "build",
            "The running version",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "authorisations",
            "Connections decided, by outcome and reason",
            metrics.decisions.clone(),
        );
        registry.register(
            "rejected_requests",
            "Requests that did not prove to come from a server, and got no reply",
            metrics.rejected.clone(),
        );
        registry.register(
            "dropped_requests",
            "Requests that were not looked at",
            metrics.dropped.clone(),
        );
        registry.register_with_unit(
            "decision",
            "From taking up a request to handing over its reply",
            Unit::Seconds,
            metrics.decision_seconds.clone(),
        );
        registry.register(
            "pending_requests",
            "Requests taken from the broker and not yet answered",
            metrics.pending.clone(),
        );
        registry.register(
            "nats_connected",
            "1 while the connection to nats-server stands",
            metrics.connected.clone(),
        );
        registry.register(
            "policy_loads",
            "Policies read, by outcome (accepted, refused)",
            metrics.policy_loads.clone(),
        );
        registry.register(
            "policy_services",
            "Services in the policy in force",
            metrics.policy_services.clone(),
        );
        registry.register_with_unit(
            "policy_loaded_timestamp",
            "When the policy in force was loaded (Unix time)",
            Unit::Seconds,
            metrics.policy_loaded.clone(),
        );
        registry.register_with_unit(
            "policy_refused_since_timestamp",
            "Since when changes have been refused (Unix time); 0 while the newest is in force",
            Unit::Seconds,
            metrics.policy_refused_since.clone(),
        );
        Arc::new(Self { registry, ..metrics })
    }

    /// Counts one decision and the time it took.
    pub fn decided(&self, authorisation: &Authorisation, took: Duration) {
        let labels = match &authorisation.decision {
            Ok(_) => DecisionLabels { outcome: "granted", reason: "granted" },
            Err(denied) => DecisionLabels { outcome: "denied", reason: denied.reason.code() },
        };
        self.decisions.get_or_create(&labels).inc();
        self.decision_seconds.observe(took.as_secs_f64());
    }

    /// Counts a request that got no reply.
    pub fn rejected(&self, rejection: &Rejection) {
        self.rejected.get_or_create(&ReasonLabel { reason: rejection.code() }).inc();
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
    }

    /// Whether the connection to nats-server stands.
    pub fn connected(&self, connected: bool) {
        self.connected.set(i64::from(connected));
    }

    /// A policy came into force, at a Unix time in seconds.
    #[allow(clippy::cast_precision_loss)]
    pub fn policy_accepted(&self, policy: &Policy, now: i64) {
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

    /// Since when policy changes have been refused (Unix time), if they are.
    #[must_use]
    pub fn refused_since(&self) -> Option<i64> {
        Some(self.policy_refused_since.get()).filter(|since| *since != 0)
    }

    /// The OpenMetrics text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::new();
        // Writing to a String fails only if a metric's own encoder does.
        if text::encode(&mut out, &self.registry).is_err() {
            out.clear();
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_words_cannot_break_a_log_line() {
        assert_eq!(printable("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(printable(&"x".repeat(1000)).len(), CLIENT_WORDS);
    }
}
