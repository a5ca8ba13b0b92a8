//! One request, from its message to its answer, by a policy that is known to be in force.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_nats::Message;
use bytes::Bytes;

use super::health::Health;
use crate::audit::{Recorder, decision_event};
use crate::fleet::heartbeat::Fleet;
use crate::policy_source::snapshot_store::{Snapshot, Store};
use crate::policy_source::status::SourceStatus;
use crate::telemetry::{Dropped, Metrics};
use crate::traces::{Trace, Tracer};
use solewriter_core::callout::authorizer::{
    Authorisation, Authorised, Authorizer, Moment, Proved, Watch,
};
use solewriter_core::callout::decide::{CacheSizes, Denial, Denied};
use solewriter_core::callout::issue::IssueError;
use solewriter_core::callout::jwt::JwtError;
use solewriter_core::callout::request::Rejection;
use solewriter_core::policy::model::{Policy, Revision};
use solewriter_types::audit_event::Event;

/// The header with the server's curve key.
const SERVER_XKEY: &str = "Nats-Server-Xkey";

/// How long to wait for a look at the policy's source before asking again whether to go on.
const LOOK_FOR_POLICY: Duration = Duration::from_secs(1);

/// How often the end of the work in progress is looked for while stopping.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What bounds the work.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests waiting at most.
    pub pending: usize,
    /// How long a request may wait.
    pub patience: Duration,
    /// How far servers' clocks may be behind, in seconds.
    pub clock_leeway: i64,
    /// How long stopping may take.
    pub drain: Duration,
    /// Authorisations of one key in a minute at most.
    pub per_key: Option<u32>,
    /// Requests from one address in a minute at most.
    pub per_host: Option<u32>,
}

/// What a running service needs.
pub struct Service {
    /// Decides and signs.
    pub authorizer: Authorizer,
    /// The policy in force.
    pub store: Arc<Store>,
    /// What is known of where it came from.
    pub source_status: Arc<SourceStatus>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Records what is decided.
    pub recorder: Recorder,
    /// Traces some requests, if the settings say so.
    pub tracer: Option<Arc<Tracer>>,
    /// Tells whether it works.
    pub health: Arc<Health>,
    /// Bounds the work.
    pub limits: Limits,
    /// The other instances, which have to hear of this one before it answers; not set where nothing is
    /// handed over.
    pub fleet: OnceLock<Arc<Fleet>>,
    /// Which instance this is: the connections on which it answers have it in their names.
    pub instance: Arc<str>,
}

/// What is sent.
pub(super) struct Reply {
    pub bytes: Bytes,
    /// The number of the decision.
    pub decision: String,
    /// Not before this time; `None` for now.
    pub from: Option<Instant>,
    /// What is noted of it, if it is traced.
    pub trace: Option<Box<Trace>>,
}

/// What becomes of a request.
pub(super) enum Answer {
    /// This is the answer; `None` when none is owed.
    Made(Option<Reply>),
    /// Another thread makes it.
    Large(Box<Proved>, Option<Box<Trace>>),
}

impl Service {
    /// How much is kept in memory to be found again.
    #[must_use]
    pub fn cache_sizes(&self) -> CacheSizes {
        let past_policies = u64::try_from(self.store.past().len()).unwrap_or(u64::MAX);
        CacheSizes { past_policies, ..self.authorizer.cache_sizes() }
    }

    /// Waits for a policy that is as new as its source says, or for the source to be out of reach
    /// with a kept one in force. Gives its revision.
    pub(super) async fn policy(&self) -> Revision {
        loop {
            if self.source_status.stall_guard.wait(LOOK_FOR_POLICY).await
                && let Some(snapshot) = self.store.current()
            {
                return snapshot.policy.revision().clone();
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// One request, from its message to its answer. The server takes at most `room` bytes.
    pub(super) async fn answer(&self, request: &Message, taken: Instant, room: usize) -> Answer {
        let mut left = None;
        let mut trace = self.tracer.as_ref().and_then(|tracer| tracer.begin(taken));
        let answer = self.decided(taken, &mut trace, |policy, moment, trace| {
            let authorised = match trace {
                None => self.authorise(request, policy, moment, room, &mut ()),
                Some(trace) => self.authorise(request, policy, moment, room, &mut **trace),
            };
            match authorised {
                Ok(Authorised::Done(authorisation)) => Some(Ok(authorisation)),
                Ok(Authorised::Large(proved)) => {
                    left = Some(proved);
                    None
                }
                Err(rejection) => Some(Err(rejection)),
            }
        });
        let answer = answer.await;
        match left {
            None => Answer::Made(answer),
            Some(proved) => Answer::Large(proved, trace),
        }
    }

    /// The answer to a request that was left because it is large.
    pub(super) async fn answer_large(
        &self,
        proved: &Proved,
        taken: Instant,
        room: usize,
        mut trace: Option<Box<Trace>>,
    ) -> Option<Reply> {
        let make = &self.authorizer;
        let authorise = |policy: &Policy, moment: &Moment, trace: &mut Option<Box<Trace>>| {
            let authorised = match trace {
                None => make.authorise_proved(proved, policy, moment, room, &mut ()),
                Some(trace) => make.authorise_proved(proved, policy, moment, room, &mut **trace),
            };
            Some(Ok(Box::new(authorised)))
        };
        self.decided(taken, &mut trace, authorise).await
    }

    /// Decides by a policy that is known to be in force, within the time that the server waits.
    /// `None` when no answer is owed, or `decide` leaves it.
    async fn decided(
        &self,
        taken: Instant,
        trace: &mut Option<Box<Trace>>,
        mut decide: impl FnMut(
            &Policy,
            &Moment,
            &mut Option<Box<Trace>>,
        ) -> Option<Result<Box<Authorisation>, Rejection>>,
    ) -> Option<Reply> {
        let freshness = &self.source_status.stall_guard;
        loop {
            let left = self.limits.patience.checked_sub(taken.elapsed());
            // What was known before this process last slept decides nothing.
            let fresh = match left {
                Some(left) => freshness.wait(left).await,
                None => false,
            };
            let Some(snapshot) = self.store.current().filter(|_| fresh) else {
                // The server gave up on it; an answer would only take time from the next.
                self.metrics.dropped(Dropped::TooLate, 1);
                if let Some(trace) = trace.take() {
                    trace.unanswered("dropped", Dropped::TooLate.as_str());
                }
                return None;
            };
            let moment = Moment::now();
            let policy = snapshot.for_now(self.source_status.has_lease());
            if let Some(trace) = trace {
                trace.waited();
            }
            let authorised = decide(&policy, &moment, trace)?;
            // It may have slept right here.
            if freshness.holds() {
                return self.tell(authorised, moment, taken, &snapshot, trace.take());
            }
        }
    }

    fn authorise(
        &self,
        request: &Message,
        policy: &Policy,
        moment: &Moment,
        room: usize,
        watch: &mut impl Watch,
    ) -> Result<Authorised, Rejection> {
        let headers = request.headers.as_ref();
        let xkey = headers.and_then(|h| h.get(SERVER_XKEY)).map(async_nats::HeaderValue::as_str);
        let payload = &request.payload;
        match self.source_status.too_old(moment.now) {
            None => {
                let authorizer = &self.authorizer;
                authorizer.authorise_unless_large(payload, xkey, policy, moment, room, watch)
            }
            Some(age) => {
                let reason = Denial::PolicyTooOld(age);
                let refused = self.authorizer.refuse(payload, xkey, policy, moment, &reason, watch);
                refused.map(|authorisation| Authorised::Done(Box::new(authorisation)))
            }
        }
    }

    /// What is recorded of an authorisation. Of a key that no service has, also whose it was: the
    /// answer is made by then, so the client learns nothing of that.
    fn event(
        &self,
        authorisation: &Authorisation,
        id: &str,
        took: Duration,
        trace: Option<&mut Trace>,
    ) -> Event {
        let mut event = decision_event::decided(authorisation, id, took);
        if let (Event::Authorisation(event), Some(trace)) = (&mut event, trace) {
            trace.decided(event);
            event.traceparent = Some(trace.parent());
        }
        if let (Event::Authorisation(event), Err(denied)) = (&mut event, &authorisation.decision)
            && let Denied { reason: Denial::UnknownKey, key: Some(key), .. } = denied
            && let Some(holder) = self.store.former_holder(key)
        {
            event.detail = Some(format!("{}; it was a {holder}", denied.reason));
            event.former_service = Some(holder.service.to_string());
            event.former_revision = Some(holder.revision.whole().to_owned());
        }
        event
    }

    fn tell(
        &self,
        authorised: Result<Box<Authorisation>, Rejection>,
        Moment { id, now, .. }: Moment,
        taken: Instant,
        snapshot: &Snapshot,
        mut trace: Option<Box<Trace>>,
    ) -> Option<Reply> {
        match authorised {
            Ok(mut authorisation) => {
                if let Err(IssueError::Jwt(JwtError::Unsigned(error))) = &authorisation.answer {
                    self.metrics.unsigned(*error);
                }
                let bytes = authorisation.answer.as_mut().ok().map(std::mem::take);
                let took = taken.elapsed();
                let outcome = authorisation.decision.as_ref().map(drop);
                let granted = authorisation.decision.as_ref().ok();
                let from = granted.and_then(|g| snapshot.losses.lets_in_from(g.grant().service()));
                let traced = trace.as_ref().map(|trace| trace.id());
                self.metrics.decided(outcome.map_err(|denied| denied.reason.code()), took, traced);
                let server = authorisation.request.server();
                self.metrics.asked_by(server);
                self.health.askers().asked(&server.name, None, now);
                let event = self.event(&authorisation, &id, took, trace.as_deref_mut());
                self.recorder.record(event);
                let Some(bytes) = bytes else {
                    if let Some(trace) = trace {
                        trace.unanswered("failed", "internal");
                    }
                    return None;
                };
                Some(Reply { bytes: bytes.into(), decision: id, from, trace })
            }
            Err(rejection) => {
                self.metrics.rejected(&rejection);
                if let Rejection::OtherIssuer(other) = &rejection {
                    self.health.askers().asked(&other.server, Some(other), now);
                }
                self.recorder.record(decision_event::rejected(&rejection));
                if let Some(trace) = trace {
                    trace.unanswered("rejected", rejection.code());
                }
                None
            }
        }
    }
}
