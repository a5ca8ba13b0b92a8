//! The audit stream: everything that decides is an event, in the log and in JetStream.
//!
//! A decision calls [`Recorder::record`], which numbers the event, logs it and puts it into a
//! bounded queue, and never waits. What is recorded is
//! in [`solewriter_types::audit_event`].

pub mod decision_event;
pub mod origin;
mod queue;
pub mod reader;
#[cfg(feature = "audit-schema")]
pub mod schema;
mod sender;
mod sequence_file;
pub mod sink;
pub mod spool;
pub mod stats;
pub mod stream;

use std::sync::Arc;

use jiff::Timestamp;
use tracing::Span;

use self::queue::Queue;
pub use self::queue::{CAPACITY, Intake};
pub use self::sender::Target;
pub use self::sink::{Sink, Spool};
use crate::telemetry::{self, Metrics};
use solewriter_types::audit_event::{Event, Source};

/// Records events. Cheap to clone; every clone numbers from the same count.
#[derive(Clone)]
pub struct Recorder {
    source: Arc<Source>,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    /// What its lines of the log are in: the tenant's, or none.
    span: Span,
}

impl Recorder {
    /// Records to the log alone.
    #[must_use]
    pub fn to_the_log(source: Source, metrics: Arc<Metrics>) -> Self {
        Self { source: Arc::new(source), queue: Queue::new(0), metrics, span: Span::none() }
    }

    /// Records to the log and to a queue for so many events, which somebody has to empty.
    #[must_use]
    pub fn with_queue(source: Source, metrics: Arc<Metrics>, capacity: usize) -> (Self, Intake) {
        let (source, queue) = (Arc::new(source), Queue::new(capacity));
        let recorder = Self { source, queue, metrics, span: Span::none() };
        let intake = Intake::new(recorder.clone());
        (recorder, intake)
    }

    /// The same, with lines of the log in that span.
    #[must_use]
    pub fn within(self, span: Span) -> Self {
        Self { span, ..self }
    }

    /// Who records.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Records one event that happens now. This never waits and never fails: an event that does
    /// not fit into the queue is counted as lost, and that count becomes an event.
    pub fn record(&self, event: Event) {
        self.metrics.audit_recorded();
        // Locked for a push. The order of numbers is the order in the queue.
        let record = self.queue.push(event, Timestamp::now());
        self.span.in_scope(|| telemetry::log_event(&self.source, &record));
    }
}
