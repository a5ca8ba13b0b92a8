//! The running service: subscribe, bound, authorise, reply, drain.
//!
//! Everything between a message and its reply is [`crate::authorizer`], which is pure; what is
//! here is the connections to the broker and the bounds on work in progress. Each connection has a
//! thread of its own, which does everything for the requests that come on it; but what is large is
//! made and signed by one thread beside them (`large`).

mod connection;
mod fence;
mod large;
mod link;

pub use self::connection::{connect_beside, connect_for_consumers};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{Client, Message, Subject};
use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

#[cfg(all(unix, feature = "sandbox"))]
pub(crate) use self::connection::reconnect_delay;
use self::large::{Job, Queue};
use self::link::{End, Link};
use crate::audit::Recorder;
use crate::audit::event::{self, Event, RequestRejected};
use crate::authorizer::{Authorisation, Authorised, Authorizer, Moment, Proved};
use crate::config::{Limits, Nats};
use crate::decide::{Denial, Denied};
use crate::defects;
use crate::policy::model::{Policy, Revision};
use crate::policy::standing::Standing;
use crate::policy::store::Store;
use crate::protocol::request::{OtherIssuer, Rejection, Server};
use crate::telemetry::{self, Dropped, Metrics};

/// Where nats-server asks.
pub const CALLOUT_SUBJECT: &str = "$SYS.REQ.USER.AUTH";
/// The header with the server's curve key.
const SERVER_XKEY: &str = "Nats-Server-Xkey";
/// Why the service stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A setting that only shows to be wrong when it is used.
    #[error("the connection to nats-server cannot be set up: {0}")]
    Setup(String),
    /// The client library gave the connection up, which it should never do.
    #[error("the connection to nats-server was closed for good")]
    Closed,
    /// The thread for the connection could not be had.
    #[error("no thread for the connection to nats-server: {0}")]
    Thread(#[from] std::io::Error),
    /// The subscription could not be made.
    #[error("cannot subscribe to {CALLOUT_SUBJECT}: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
}

/// How long to wait for a look at the policy's source before asking again whether to go on.
const LOOK_FOR_POLICY: Duration = Duration::from_secs(1);

/// How often the end of the work in progress is looked for while stopping.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Whether the service can do its work, for `/readyz`.
pub struct Health {
    /// How many connections there should be; 0 before they are made.
    wanted: AtomicUsize,
    connected: AtomicUsize,
    subscribed: AtomicUsize,
    store: Arc<Store>,
    standing: Arc<Standing>,
    metrics: Arc<Metrics>,
    recorder: Recorder,
    /// Servers whose version was looked at.
    servers: defects::Seen,
    /// Whose answers servers take.
    askers: Mutex<Askers>,
}

/// The servers that asked, by name (a server that is started anew has another key), each with when
/// it asked last, and with what it said when it takes the answers of another issuer.
#[derive(Debug, Default)]
struct Askers(BTreeMap<String, (i64, Option<OtherIssuer>)>);

impl Askers {
    /// More servers than this are not told apart.
    const AT_MOST: usize = 1000;
    /// Whoever has not asked for so many seconds is forgotten: it may be gone.
    const REMEMBERED: i64 = 600;

    /// A server asked.
    fn asked(&mut self, server: &str, other: Option<&OtherIssuer>, now: i64) {
        if let Some(known) = self.0.get_mut(server) {
            *known = (now, other.cloned());
            return;
        }
        if self.0.len() >= Self::AT_MOST {
            self.forget(now);
        }
        if self.0.len() < Self::AT_MOST {
            self.0.insert(server.to_owned(), (now, other.cloned()));
        }
    }

    fn forget(&mut self, now: i64) {
        self.0.retain(|_, (at, _)| now.saturating_sub(*at) < Self::REMEMBERED);
    }

    /// What to say about the issuer, and whether anybody may get in by our answers.
    fn report(&mut self, now: i64) -> (bool, String) {
        self.forget(now);
        let mut others = self.0.values().filter_map(|(_, other)| other.as_ref());
        let Some(first) = others.next() else {
            return (true, "every server that asked takes our answers".to_owned());
        };
        let count = 1 + others.count();
        let said = event::words(&first.to_string());
        let report =
            format!("{count} of {} servers let nobody in by our answers: {said}", self.0.len());
        (count < self.0.len(), report)
    }
}

impl Health {
    /// Not connected yet.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        standing: Arc<Standing>,
        metrics: Arc<Metrics>,
        recorder: Recorder,
    ) -> Arc<Self> {
        Arc::new(Self {
            wanted: AtomicUsize::new(0),
            connected: AtomicUsize::new(0),
            subscribed: AtomicUsize::new(0),
            store,
            standing,
            metrics,
            recorder,
            servers: defects::Seen::default(),
            askers: Mutex::default(),
        })
    }

    /// One connection more or less.
    fn connection(&self, made: bool) {
        self.metrics.connection(made);
        let count = |n: usize| Some(if made { n + 1 } else { n.saturating_sub(1) });
        let _ = self.connected.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
    }

    /// Whether requests are answered, and a report for people: one line an item.
    #[must_use]
    pub fn report(&self, now: i64) -> (bool, String) {
        let wanted = self.wanted.load(Ordering::Relaxed);
        let connected = match self.connected.load(Ordering::Relaxed) {
            0 => "not connected".to_owned(),
            all if all >= wanted => "connected".to_owned(),
            some => format!("connected, {some} of {wanted} connections"),
        };
        // With one connection left, the instance answers; but it begins with all.
        let subscribed = wanted > 0 && self.subscribed.load(Ordering::Relaxed) >= wanted;
        let standing = &self.standing;
        let too_old = standing.too_old(now);
        let ago = |at: i64| now.saturating_sub(at).max(0);
        let news = match (too_old, standing.refused()) {
            (Some(_), _) => "too old to decide by".to_owned(),
            (None, Some(r)) => format!("changes refused for {} s, see the log", ago(r.since)),
            (None, None) => "the newest".to_owned(),
        };
        let policy = match self.store.current() {
            None => {
                format!("policy: none yet{}", standing.refused().map_or("", |_| ", see the log"))
            }
            Some(snapshot) => {
                let revision = snapshot.policy.revision();
                let number = snapshot.origin().map(|o| format!(" (number {})", o.number));
                format!(
                    "policy: revision {revision}{}, {news}\nin force: for {} s",
                    number.unwrap_or_default(),
                    ago(snapshot.loaded_at.as_second()),
                )
            }
        };
        let (taken, issuer) = self.askers().report(now);
        let report = format!(
            "nats-server: {connected}\nsubscribed: {}\nissuer: {issuer}\n{policy}\nsource: {}\nopen connections: {}\n",
            if subscribed { "yes" } else { "no" },
            standing.describe(now),
            self.metrics.sessions().report(),
        );
        let connected = self.connected.load(Ordering::Relaxed) > 0;
        (subscribed && connected && too_old.is_none() && taken, report)
    }

    fn askers(&self) -> MutexGuard<'_, Askers> {
        self.askers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A server asked that takes our answers.
    fn asked(&self, server: &Server, now: i64) {
        if self.servers.first(server.key.as_str()) {
            telemetry::log_defects(server);
            self.metrics.see_cluster(&server.cluster);
        }
        self.askers().asked(&server.name, None, now);
    }
}

/// What a running service needs.
pub struct Service {
    /// Decides and signs.
    pub authorizer: Authorizer,
    /// The policy in force.
    pub store: Arc<Store>,
    /// What is known of where it came from.
    pub standing: Arc<Standing>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Records what is decided.
    pub recorder: Recorder,
    /// Tells whether it works.
    pub health: Arc<Health>,
    /// Bounds the work.
    pub limits: Limits,
}

/// What the connections of one service share.
struct Shared {
    service: Arc<Service>,
    connections: usize,
    /// Connections that have subscribed.
    opened: AtomicUsize,
    /// Requests taken on and not answered yet, on all connections.
    pending: AtomicUsize,
    /// Those whose answers are large.
    large: Queue<Job>,
}

impl Shared {
    /// One request less.
    fn done(&self) {
        self.service.metrics.done();
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }

    async fn send(&self, client: &Client, to: Subject, bytes: Bytes, decision: &str) {
        // While the connection is away, answers wait in it, and then there is no more room. The
        // server does not wait for them longer than for us.
        let patience = self.service.limits.patience.max(LOOK_AGAIN);
        match timeout(patience, client.publish(to, bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(event = "reply_failed", decision, %error),
            Err(_) => tracing::error!(event = "reply_failed", decision, error = "not connected"),
        }
    }
}

/// What becomes of a request.
enum Answer {
    /// This is the answer; `None` when none is owed.
    Made(Option<(Bytes, String)>),
    /// Another thread makes it.
    Large(Box<Proved>),
}

impl Service {
    /// Connects (as often as it takes), answers requests until `shutdown` resolves, then
    /// finishes what it took on. Requests are worked on by threads of their own, one for each
    /// connection.
    ///
    /// # Errors
    /// [`ServiceError`] when it cannot begin.
    pub async fn run(
        self: Arc<Self>,
        nats: Arc<Nats>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServiceError> {
        let connections = nats.connections.max(1);
        self.health.wanted.store(connections, Ordering::Relaxed);
        let shared = Arc::new(Shared {
            service: self,
            connections,
            opened: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            large: Queue::default(),
        });
        let (finished, finish) = oneshot::channel();
        let (worker, worker_nats) = (shared.clone(), nats.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("large".to_owned()).spawn(move || {
            runtime.block_on(large::work(&worker, &worker_nats));
            let _ = finished.send(());
        })?;
        let (stop, stopped) = watch::channel(false);
        let mut reports = Vec::with_capacity(connections);
        for number in 1..=connections {
            let (report, reported) = oneshot::channel();
            let (shared, nats, stopped) = (shared.clone(), nats.clone(), stopped.clone());
            std::thread::Builder::new().name(format!("nats-{number}")).spawn(move || {
                let _ = report.send(Link::live(&shared, &nats, stopped));
            })?;
            reports.push(reported);
        }
        let stop = Arc::new(stop);
        let told = Arc::new(OnceLock::new());
        let stopping = tokio::spawn({
            let (stop, shared, told) = (stop.clone(), shared.clone(), told.clone());
            async move {
                shutdown.await;
                let _ = told.set(Instant::now());
                let pending = shared.pending.load(Ordering::Relaxed);
                tracing::info!(
                    event = "draining",
                    pending,
                    "stopping; finishing what was taken on"
                );
                let _ = stop.send(true);
            }
        });
        let (mut outcome, mut ends) = (Ok(()), Vec::new());
        for reported in reports {
            match reported.await.unwrap_or(Err(ServiceError::Closed)) {
                Ok(end) => ends.extend(end),
                Err(error) => {
                    // An instance that lost one of its connections for good is no whole one.
                    let _ = stop.send(true);
                    outcome = outcome.and(Err(error));
                }
            }
        }
        stopping.abort();
        shared.large.close();
        let since: Option<&Instant> = told.get();
        let passed = since.map_or(Duration::ZERO, Instant::elapsed);
        let left = shared.service.limits.drain.saturating_sub(passed);
        if timeout(left, finish).await.is_err() && shared.pending.load(Ordering::Relaxed) > 0 {
            ends.push(End::Late);
        }
        End::log(&ends, shared.pending.load(Ordering::Relaxed));
        outcome
    }

    /// Waits for a policy that is as new as its source says, or for the source to be out of reach
    /// with a kept one in force. Gives its revision.
    async fn policy(&self) -> Revision {
        loop {
            if self.standing.freshness.wait(LOOK_FOR_POLICY).await
                && let Some(snapshot) = self.store.current()
            {
                return snapshot.policy.revision().clone();
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// One request, from its message to its answer. The server takes at most `room` bytes.
    async fn answer(&self, request: &Message, taken: Instant, room: usize) -> Answer {
        let mut left = None;
        let answer = self.decided(taken, |policy, moment| {
            match self.authorise(request, policy, moment, room) {
                Ok(Authorised::Done(authorisation)) => Some(Ok(authorisation)),
                Ok(Authorised::Large(proved)) => {
                    left = Some(proved);
                    None
                }
                Err(rejection) => Some(Err(rejection)),
            }
        });
        let answer = answer.await;
        left.map_or(Answer::Made(answer), Answer::Large)
    }

    /// The answer to a request that was left because it is large.
    async fn answer_large(
        &self,
        proved: &Proved,
        taken: Instant,
        room: usize,
    ) -> Option<(Bytes, String)> {
        let authorise = |policy: &Policy, moment: &Moment| {
            Some(Ok(Box::new(self.authorizer.authorise_proved(proved, policy, moment, room))))
        };
        self.decided(taken, authorise).await
    }

    /// Decides by a policy that is known to be in force, within the time that the server waits.
    /// `None` when no answer is owed, or `decide` leaves it.
    async fn decided(
        &self,
        taken: Instant,
        mut decide: impl FnMut(&Policy, &Moment) -> Option<Result<Box<Authorisation>, Rejection>>,
    ) -> Option<(Bytes, String)> {
        let freshness = &self.standing.freshness;
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
                return None;
            };
            let moment = Moment::now();
            let authorised = decide(&snapshot.policy, &moment)?;
            // It may have slept right here.
            if freshness.holds() {
                return self.tell(authorised, moment, taken);
            }
        }
    }

    fn authorise(
        &self,
        request: &Message,
        policy: &Policy,
        moment: &Moment,
        room: usize,
    ) -> Result<Authorised, Rejection> {
        let headers = request.headers.as_ref();
        let xkey = headers.and_then(|h| h.get(SERVER_XKEY)).map(async_nats::HeaderValue::as_str);
        let payload = &request.payload;
        match self.standing.too_old(moment.now) {
            None => self.authorizer.authorise_unless_large(payload, xkey, policy, moment, room),
            Some(age) => {
                let reason = Denial::PolicyTooOld(age);
                let refused = self.authorizer.refuse(payload, xkey, policy, moment, &reason);
                refused.map(|authorisation| Authorised::Done(Box::new(authorisation)))
            }
        }
    }

    /// What is recorded of an authorisation. Of a key that no service has, also whose it was: the
    /// answer is made by then, so the client learns nothing of that.
    fn event(&self, authorisation: &Authorisation, id: &str, took: Duration) -> Event {
        let mut event = authorisation.event(id, took);
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
    ) -> Option<(Bytes, String)> {
        match authorised {
            Ok(mut authorisation) => {
                let bytes = authorisation.answer.as_mut().ok().map(std::mem::take);
                let took = taken.elapsed();
                let outcome = authorisation.decision.as_ref().map(drop);
                self.metrics.decided(outcome.map_err(|denied| denied.reason.code()), took);
                self.health.asked(authorisation.request.server(), now);
                self.recorder.record(self.event(&authorisation, &id, took));
                Some((bytes?.into(), id))
            }
            Err(rejection) => {
                self.metrics.rejected(&rejection);
                if let Rejection::OtherIssuer(other) = &rejection {
                    self.health.askers().asked(&other.server, Some(other), now);
                }
                self.recorder.record(Event::RequestRejected(RequestRejected {
                    reason: rejection.code().to_owned(),
                    detail: event::words(&rejection.to_string()),
                }));
                None
            }
        }
    }
}
