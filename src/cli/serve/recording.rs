//! What `serve` records besides decisions: its own life, and its policy's.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::audit::event::{Event, Origin, PRODUCER, Source, Started, Stopped, words};
use crate::audit::{CAPACITY, Recorder, Sink, Target, policy};
use crate::broker;
use crate::config::{Audit, Nats};
use crate::issue::Issuer;
use crate::permissions::Defaults;
use crate::policy::model::{Policy, Revision};
use crate::policy::store::Loaded;
use crate::source::Problems;
use crate::telemetry::Metrics;

/// How long the last events may take to get into the stream when the service stops. What does not
/// stays in the spool, so nobody has to wait for a stream that is away.
pub const LAST_EVENTS: Duration = Duration::from_secs(1);

/// Records, and knows what to say of a policy.
pub struct Recording {
    /// Records.
    pub recorder: Recorder,
    origin: Origin,
    defaults: Defaults,
    began: Instant,
}

impl Recording {
    /// Starts the sink too, if there is an audit stream.
    ///
    /// # Errors
    /// A message, when the spool cannot be used.
    pub fn start(
        audit: Option<Audit>,
        nats: &Arc<Nats>,
        metrics: &Arc<Metrics>,
        directory: &Path,
        defaults: Defaults,
    ) -> Result<(Self, Option<Sink>), String> {
        let source = Source::new(PRODUCER, Timestamp::now(), rand::random());
        let (recorder, sink) = match audit {
            None => (Recorder::to_the_log(source, Arc::clone(metrics)), None),
            Some(Audit { stream, spool }) => {
                let (recorder, intake) =
                    Recorder::with_queue(source, Arc::clone(metrics), CAPACITY);
                let login = Arc::clone(nats);
                let target = Target {
                    servers: nats.servers.clone(),
                    options: Box::new(move || {
                        broker::options(&login.login, &login.tls, &login.name)
                            .map_err(|error| error.to_string())
                    }),
                    name: format!("{}-audit", nats.name),
                    inbox: broker::INBOX.to_owned(),
                    stream,
                };
                (recorder, Some(Sink::start(intake, target, spool)?))
            }
        };
        let place = directory.display().to_string();
        let origin = Origin { from: "directory".to_owned(), place, ..Origin::default() };
        Ok((Self { recorder, origin, defaults, began: Instant::now() }, sink))
    }

    /// The service begins with this policy.
    pub fn started(&self, issuer: &Issuer, current: &Policy, warnings: &Problems) {
        self.recorder.record(Event::Started(Started {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            issuer: Some(issuer.account().to_string()),
            xkey: issuer.sealer().map(|sealer| sealer.public().to_string()),
            revision: Some(current.revision().to_string()),
        }));
        self.accepted(None, current, warnings);
    }

    /// A policy was read and holds. Only a change is an event.
    pub fn loaded(&self, loaded: &Loaded) {
        if loaded.is_change() {
            self.accepted(Some(&loaded.before.policy), &loaded.after.policy, &loaded.warnings);
        } else {
            tracing::info!(
                event = "policy_unchanged",
                revision = %loaded.after.policy.revision(),
                before = %loaded.before.policy.revision(),
                services = loaded.after.policy.services().len(),
                "policy read",
            );
        }
    }

    fn accepted(&self, before: Option<&Policy>, after: &Policy, warnings: &Problems) {
        let origin = self.origin.clone();
        self.recorder.record(policy::accepted(before, after, warnings, origin, &self.defaults));
        for trouble in policy::troubles(after, Timestamp::now()) {
            self.recorder.record(trouble);
        }
    }

    /// A policy was refused; `in_force` stays, if there is one.
    pub fn refused(&self, in_force: Option<&Revision>, problems: &Problems) {
        self.recorder.record(policy::refused(in_force, problems, self.origin.clone()));
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
            let left = sink.finish(LAST_EVENTS).await;
            if left > 0 {
                tracing::warn!(
                    event = "audit_left_for_later",
                    left,
                    "these events are in the spool, and sent at the next start",
                );
            }
        }
    }
}
