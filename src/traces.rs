//! OpenTelemetry traces of authorisations: one span for the request, and in it one for each stage.
//!
//! They are off unless the settings name a receiver. Then one request of so many is traced: the
//! thread that answers notes when each stage ends, and leaves the notes in a bounded queue. A thread
//! of its own sends them, by OTLP over HTTP ([`exporter`]). Whatever the receiver does costs spans
//! at most, which are counted, and no answer.

pub mod exporter;
mod otlp;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::http::{HeaderMap, Uri};
use tokio::sync::mpsc;

pub use self::exporter::Exporter;
use crate::telemetry::{Metrics, SpanLoss};
use solewriter_core::callout::authorizer::{Stage, Watch};
use solewriter_types::audit_event::{Authorisation, Outcome};

/// Traces that wait to be sent, at most.
const QUEUE: usize = 1024;
/// Stages of one trace at most: a request that is begun again has some twice.
const STAGES_AT_MOST: usize = 32;

/// Where traces go, and how many.
pub struct Settings {
    /// The receiver: `http` or `https`, with its path.
    pub endpoint: Uri,
    /// One request of so many is traced.
    pub one_in: u32,
    /// What is sent with each request to the receiver; may hold secrets.
    pub headers: HeaderMap,
    /// Certificate authorities to trust, besides the system's.
    pub ca: Option<PathBuf>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, one_in, headers: _, ca } = self;
        f.debug_struct("Settings")
            .field("endpoint", endpoint)
            .field("one_in", one_in)
            .field("ca", ca)
            .finish_non_exhaustive()
    }
}

/// What an attribute of a span is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// Picks the requests that are traced.
pub struct Tracer {
    one_in: u32,
    outbox: mpsc::Sender<Data>,
    metrics: Arc<Metrics>,
    /// What every trace says, of the connection and who answers on it.
    subject: &'static str,
    queue_group: String,
}

/// What is noted of one request.
struct Data {
    trace: [u8; 16],
    root: [u8; 8],
    taken: Instant,
    /// Each with its end; it began when the one before ended.
    stages: Vec<(&'static str, Instant)>,
    about: Vec<(&'static str, Value)>,
    failed: Option<String>,
    ended: Instant,
    /// The clock on the wall at the end.
    at: SystemTime,
}

/// A request that is traced.
pub struct Trace {
    data: Data,
    tracer: Arc<Tracer>,
}

impl Tracer {
    /// Begins a trace of a request that was taken then, if it is its turn.
    pub fn begin(self: &Arc<Self>, taken: Instant) -> Option<Box<Trace>> {
        if self.one_in > 1 && rand::random_range(0..self.one_in) != 0 {
            return None;
        }
        let now = Instant::now();
        let data = Data {
            trace: rand::random(),
            root: rand::random(),
            taken,
            stages: Vec::with_capacity(Stage::ALL.len() + 2),
            about: Vec::new(),
            failed: None,
            ended: now,
            at: SystemTime::UNIX_EPOCH,
        };
        Some(Box::new(Trace { data, tracer: Arc::clone(self) }))
    }
}

impl Watch for Trace {
    fn ended(&mut self, stage: Stage) {
        self.note(stage.as_str());
    }
}

impl Trace {
    /// What W3C's Trace Context calls `traceparent`: the trace, and its root as the parent of
    /// whatever follows from it.
    #[must_use]
    pub fn parent(&self) -> String {
        let [trace, root] = [&self.data.trace[..], &self.data.root[..]].map(hex);
        format!("00-{trace}-{root}-01")
    }

    /// The trace in hex.
    #[must_use]
    pub fn id(&self) -> String {
        hex(&self.data.trace)
    }

    /// It waited until now.
    pub fn waited(&mut self) {
        self.note("wait");
    }

    fn note(&mut self, stage: &'static str) {
        if self.data.stages.len() < STAGES_AT_MOST {
            self.data.stages.push((stage, Instant::now()));
        }
    }

    /// What was decided, in the words of the audit event: what clients say of themselves is escaped
    /// and cut there.
    pub fn decided(&mut self, event: &Authorisation) {
        let about = &mut self.data.about;
        about.extend([
            ("solewriter.outcome", event.outcome.as_str().into()),
            ("solewriter.reason", event.reason.as_str().into()),
            ("solewriter.decision", event.decision.as_str().into()),
            ("solewriter.policy.revision", event.revision.as_str().into()),
            ("client.address", event.host.as_str().into()),
            ("nats.connection.type", event.connection.as_str().into()),
            ("nats.connection.id", event.cid.into()),
            ("nats.server.name", event.server.as_str().into()),
            ("nats.server.id", event.server_id.as_str().into()),
        ]);
        let known = [
            ("solewriter.service", &event.service),
            ("nats.account", &event.account),
            ("solewriter.grant", &event.grant),
        ];
        about
            .extend(known.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?.into()))));
        if event.outcome == Outcome::Denied {
            about.push(("error.type", event.reason.as_str().into()));
        }
        self.data.failed.clone_from(&event.unanswered);
    }

    /// There is no answer, for that reason.
    pub fn unanswered(mut self, outcome: &'static str, reason: &'static str) {
        self.data.about.extend([
            ("solewriter.outcome", outcome.into()),
            ("solewriter.reason", reason.into()),
            ("error.type", reason.into()),
        ]);
        self.data.failed = Some(reason.to_owned());
        self.end();
    }

    /// The answer was handed over, or could not be.
    pub fn replied(mut self, sent: bool, bytes: usize) {
        self.note("reply");
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.data.about.push(("solewriter.answer.size", bytes.into()));
        if !sent {
            self.data.failed = Some("the answer could not be sent".to_owned());
        }
        self.end();
    }

    /// Leaves it to be sent, if there is room.
    fn end(self) {
        let Self { mut data, tracer } = self;
        let group = tracer.queue_group.as_str();
        data.about.extend([
            ("messaging.system", "nats".into()),
            ("messaging.operation.type", "process".into()),
            ("messaging.operation.name", "authorise".into()),
            ("messaging.destination.name", tracer.subject.into()),
            ("messaging.consumer.group.name", group.into()),
        ]);
        (data.ended, data.at) = (Instant::now(), SystemTime::now());
        let spans = data.spans();
        if tracer.outbox.try_send(data).is_err() {
            tracer.metrics.spans_dropped(SpanLoss::QueueFull, spans);
        }
    }
}

impl Data {
    /// How many spans it becomes.
    fn spans(&self) -> u64 {
        u64::try_from(self.stages.len()).unwrap_or(0) + 1
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(one_in: u32) -> (Arc<Tracer>, mpsc::Receiver<Data>, Arc<Metrics>) {
        let (outbox, inbox) = mpsc::channel(QUEUE);
        let metrics = Metrics::new();
        let queue_group = "group".to_owned();
        let tracer =
            Tracer { one_in, outbox, metrics: metrics.clone(), subject: "subject", queue_group };
        (Arc::new(tracer), inbox, metrics)
    }

    /// Nobody takes anything: what is more than fits is dropped, counted, and holds nobody up.
    #[test]
    fn a_full_queue_costs_spans_and_no_time() {
        let (tracer, inbox, metrics) = tracer(1);
        let began = Instant::now();
        for _ in 0..QUEUE + 10 {
            let mut trace = tracer.begin(began).unwrap();
            trace.waited();
            // What is begun again and again stays small.
            (0..100).for_each(|_| trace.ended(Stage::Open));
            trace.replied(true, 5);
        }
        assert!(began.elapsed() < std::time::Duration::from_secs(5));
        assert_eq!(inbox.len(), QUEUE);
        let lost = 10 * (STAGES_AT_MOST + 1);
        let line = format!("solewriter_spans_dropped_total{{reason=\"queue_full\"}} {lost}\n");
        assert!(metrics.encode().contains(&line), "{line}");
    }

    #[test]
    fn one_of_so_many_is_traced() {
        let (tracer, ..) = tracer(10);
        let traced = (0..10_000).filter(|_| tracer.begin(Instant::now()).is_some()).count();
        assert!((700..1300).contains(&traced), "{traced}");
    }

    /// Each is another, and in the form that others read.
    #[test]
    fn a_parent_is_as_the_w3c_has_it() {
        let (tracer, ..) = tracer(1);
        let [one, other] = [(); 2].map(|()| tracer.begin(Instant::now()).unwrap());
        let parent = one.parent();
        assert_eq!(parent.len(), 55);
        assert!(parent.starts_with(&format!("00-{}-", one.id())) && parent.ends_with("-01"));
        let is_hex = |c: char| c == '-' || c.is_ascii_digit() || ('a'..='f').contains(&c);
        assert!(parent.chars().all(is_hex), "{parent}");
        assert_ne!(one.id(), other.id());
    }
}
