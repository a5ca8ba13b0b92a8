//! What `serve` records of its own life.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::Span;

use crate::audit::{CAPACITY, Recorder, Sink, Target};
use crate::config::Audit;
use crate::nats::Nats;
use crate::nats::connect;
use crate::telemetry::Metrics;
use solewriter_core::keys::{AccountKey, Curve, CurveSecret, Seed};
use solewriter_types::audit_event::{Event, PRODUCER, Source, Started, Stopped, words};

/// How long the last events may take to get into the stream when the service stops. What does not
/// stays in the spool, so nobody has to wait for a stream that is away.
pub const LAST_EVENTS: Duration = Duration::from_secs(1);

/// Records, and knows when it began.
pub struct Recording {
    /// Records.
    pub recorder: Recorder,
    began: Instant,
}

impl Recording {
    /// Starts the sink too, if there is an audit stream. Lines of the log are in `span`.
    ///
    /// # Errors
    /// A message, when the spool cannot be used.
    pub fn start(
        audit: Option<Audit>,
        nats: &Arc<Nats>,
        metrics: Arc<Metrics>,
        span: &Span,
    ) -> Result<(Self, Option<Sink>), String> {
        let source = Source::new(PRODUCER, Timestamp::now(), rand::random());
        let (recorder, sink) = match audit {
            None => (Recorder::to_the_log(source, metrics).within(span.clone()), None),
            Some(Audit { stream, spool }) => {
                let (recorder, intake) = Recorder::with_queue(source, metrics, CAPACITY);
                let recorder = recorder.within(span.clone());
                let login = Arc::clone(nats);
                let target = Target {
                    servers: nats.servers.clone(),
                    options: Box::new(move || {
                        connect::options(&login.login, &login.tls, &login.name)
                            .map_err(|error| error.to_string())
                    }),
                    name: format!("{}-audit", nats.name),
                    inbox: connect::INBOX.to_owned(),
                    stream,
                };
                (recorder, Some(Sink::start(intake, target, spool)?))
            }
        };
        Ok((Self { recorder, began: Instant::now() }, sink))
    }

    /// The service begins.
    ///
    /// # Errors
    /// A message, when the curve seed is none.
    pub fn started(&self, issuer: &AccountKey, xkey: Option<&Seed<Curve>>) -> Result<(), String> {
        let xkey = xkey.map(|seed| CurveSecret::new(seed).map(|s| s.public().to_string()));
        self.recorder.record(Event::Started(Started {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            issuer: Some(issuer.to_string()),
            xkey: xkey.transpose().map_err(|error| error.to_string())?,
        }));
        Ok(())
    }

    /// The service ends. Its last events get the time to arrive.
    pub async fn stopped(&self, sink: Option<Sink>, outcome: Result<(), &str>) {
        self.recorder.record(Event::Stopped(Stopped {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            reason: if outcome.is_ok() { "asked" } else { "failed" }.to_owned(),
            detail: outcome.err().map(words),
            ran_seconds: self.began.elapsed().as_secs(),
        }));
        if let Some(sink) = sink {
            match sink.finish(LAST_EVENTS).await {
                Some(0) => {}
                Some(left) => tracing::warn!(
                    event = "audit_left_for_later",
                    left,
                    "these events are in the spool, and will be sent at the next start",
                ),
                None => tracing::error!(
                    event = "audit_not_finished",
                    "the spool's disk does not answer: it is unknown how many of the last events \
                     are on it; the next start will say",
                ),
            }
        }
    }
}
