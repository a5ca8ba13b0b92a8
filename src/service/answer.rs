//! One request, from its message to its answer, by a policy that is known to be in force.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Message;
use bytes::Bytes;

use super::health::Health;
use super::tenants::{Found, Tenant, Tenants};
use crate::audit::{Recorder, decision_event};
use crate::telemetry::{Dropped, Metrics};
use crate::traces::{Trace, Tracer};
use solewriter_core::callout::authorizer::{
    Authorisation, Authorised, Authorizer, Moment, Proved, Watch,
};
use solewriter_core::callout::decide::{CacheSizes, Denial, Denied};
use solewriter_core::callout::issue::IssueError;
use solewriter_core::callout::jwt::JwtError;
use solewriter_core::callout::request::Rejection;
use solewriter_core::keys::UserKey;
use solewriter_types::audit_event::Event;

/// The header with the server's curve key.
const SERVER_XKEY: &str = "Nats-Server-Xkey";

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
    /// Proves and signs.
    pub authorizer: Authorizer,
    /// The policies in force, and what decides by them.
    pub tenants: Arc<Tenants>,
    /// Counts what is of no tenant.
    pub metrics: Arc<Metrics>,
    /// Records it.
    pub recorder: Recorder,
    /// Traces some requests, if the settings say so.
    pub tracer: Option<Arc<Tracer>>,
    /// Tells whether it works.
    pub health: Arc<Health>,
    /// Bounds the work.
    pub limits: Limits,
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
        let tenants = self.tenants.iter().map(Tenant::cache_sizes);
        tenants.fold(self.authorizer.cache_sizes(), CacheSizes::and)
    }

    /// One request, from its message to its answer. The server takes at most `room` bytes.
    pub(super) async fn answer(&self, request: &Message, taken: Instant, room: usize) -> Answer {
        let mut left = None;
        let mut trace = self.tracer.as_ref().and_then(|tracer| tracer.begin(taken));
        let answer = self.decided(taken, &mut trace, |found, moment, trace| {
            let authorised = match trace {
                None => self.authorise(request, found, moment, room, &mut ()),
                Some(trace) => self.authorise(request, found, moment, room, &mut **trace),
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
        let authorise = |found: &mut Found<'_>, moment: &Moment, trace: &mut Option<Box<Trace>>| {
            let find = |key: &UserKey| found.of(key);
            let authorised = match trace {
                None => make.authorise_proved(proved, find, moment, room, &mut ()),
                Some(trace) => make.authorise_proved(proved, find, moment, room, &mut **trace),
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
            &mut Found<'_>,
            &Moment,
            &mut Option<Box<Trace>>,
        ) -> Option<Result<Box<Authorisation>, Rejection>>,
    ) -> Option<Reply> {
        let mut needs = self.tenants.before_all();
        loop {
            let left = self.limits.patience.checked_sub(taken.elapsed());
            // What was known before this process last slept decides nothing.
            let fresh = match left {
                Some(left) => self.tenants.fresh(needs, left).await,
                None => false,
            };
            if !fresh {
                // The server gave up on it; an answer would only take time from the next.
                self.metrics.dropped(Dropped::TooLate, 1);
                if let Some(trace) = trace.take() {
                    trace.unanswered("dropped", Dropped::TooLate.as_str());
                }
                return None;
            }
            let moment = Moment::now();
            let mut found = self.tenants.find(moment.now);
            if let Some(trace) = trace {
                trace.waited();
            }
            let authorised = decide(&mut found, &moment, trace)?;
            // It may have slept right here.
            match found.holds() {
                Ok(()) => return self.tell(authorised, moment, taken, &found, trace.take()),
                Err(needed) => needs = needed,
            }
        }
    }

    fn authorise(
        &self,
        request: &Message,
        found: &mut Found<'_>,
        moment: &Moment,
        room: usize,
        watch: &mut impl Watch,
    ) -> Result<Authorised, Rejection> {
        let headers = request.headers.as_ref();
        let xkey = headers.and_then(|h| h.get(SERVER_XKEY)).map(async_nats::HeaderValue::as_str);
        let find = |key: &UserKey| found.of(key);
        self.authorizer.authorise_unless_large(&request.payload, xkey, find, moment, room, watch)
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
            && let Some(holder) = self.tenants.former_holder(key)
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
        found: &Found<'_>,
        mut trace: Option<Box<Trace>>,
    ) -> Option<Reply> {
        let by = found.by();
        // What no policy decided is nobody's, unless there are no tenants.
        let tenant = by.map(|(tenant, _)| tenant).or(self.tenants.only());
        let metrics = tenant.map_or(&self.metrics, |tenant| &tenant.metrics);
        let recorder = tenant.map_or(&self.recorder, |tenant| &tenant.recorder);
        match authorised {
            Ok(mut authorisation) => {
                if let (Err(denied), Some(only)) =
                    (&mut authorisation.decision, self.tenants.only())
                {
                    let revision = || Some(only.store.current()?.policy.revision().clone());
                    denied.revision = denied.revision.take().or_else(revision);
                }
                if let Err(IssueError::Jwt(JwtError::Unsigned(error))) = &authorisation.answer {
                    self.metrics.unsigned(*error);
                }
                let bytes = authorisation.answer.as_mut().ok().map(std::mem::take);
                let took = taken.elapsed();
                let outcome = authorisation.decision.as_ref().map(drop);
                let granted = authorisation.decision.as_ref().ok();
                let from = granted
                    .zip(by)
                    .and_then(|(g, (_, by))| by.losses.lets_in_from(g.grant().service()));
                let traced = trace.as_ref().map(|trace| trace.id());
                metrics.decided(outcome.map_err(|denied| denied.reason.code()), took, traced);
                let server = authorisation.request.server();
                self.metrics.asked_by(server);
                self.health.askers().asked(&server.name, None, now);
                let event = self.event(&authorisation, &id, took, trace.as_deref_mut());
                recorder.record(event);
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
