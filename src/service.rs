//! The running service: subscribe, bound, authorise, reply, drain.
//!
//! Everything between a message and its reply is [`crate::authorizer`], which is pure; what is
//! here is the connections to the broker and the bounds on work in progress. Each connection has a
//! thread of its own, which does everything for the requests that come on it.

mod connection;
mod fence;
mod link;

pub use self::connection::connect_beside;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_nats::Message;
use bytes::Bytes;
use tokio::sync::{oneshot, watch};

#[cfg(all(unix, feature = "sandbox"))]
pub(crate) use self::connection::reconnect_delay;
use self::link::{End, Link};
use crate::audit::Recorder;
use crate::audit::event::{self, Event, RequestRejected};
use crate::authorizer::{Authorisation, Authorizer, Moment};
use crate::config::{Limits, Nats};
use crate::decide::Denial;
use crate::defects;
use crate::policy::model::{Policy, Revision};
use crate::policy::standing::Standing;
use crate::policy::store::Store;
use crate::protocol::request::Rejection;
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
        let report = format!(
            "nats-server: {connected}\nsubscribed: {}\n{policy}\nsource: {}\nopen connections: {}\n",
            if subscribed { "yes" } else { "no" },
            standing.describe(now),
            self.metrics.sessions().report(),
        );
        (subscribed && self.connected.load(Ordering::Relaxed) > 0 && too_old.is_none(), report)
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
        });
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
        let stopping = tokio::spawn({
            let (stop, shared) = (stop.clone(), shared.clone());
            async move {
                shutdown.await;
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

    /// One request, from its message to its answer. `None` when none is owed.
    async fn answer(&self, request: &Message, taken: Instant) -> Option<(Bytes, String)> {
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
            let authorised = self.authorise(request, &snapshot.policy, &moment);
            // It may have slept right here.
            if freshness.holds() {
                return self.tell(authorised, moment.id, taken);
            }
        }
    }

    fn authorise(
        &self,
        request: &Message,
        policy: &Policy,
        moment: &Moment,
    ) -> Result<Authorisation, Rejection> {
        let headers = request.headers.as_ref();
        let xkey = headers.and_then(|h| h.get(SERVER_XKEY)).map(async_nats::HeaderValue::as_str);
        match self.standing.too_old(moment.now) {
            None => self.authorizer.authorise(&request.payload, xkey, policy, moment),
            Some(age) => {
                let reason = Denial::PolicyTooOld(age);
                self.authorizer.refuse(&request.payload, xkey, policy, moment, &reason)
            }
        }
    }

    fn tell(
        &self,
        authorised: Result<Authorisation, Rejection>,
        id: String,
        taken: Instant,
    ) -> Option<(Bytes, String)> {
        match authorised {
            Ok(mut authorisation) => {
                let bytes = authorisation.answer.as_mut().ok().map(std::mem::take);
                let took = taken.elapsed();
                let outcome = authorisation.decision.as_ref().map(drop);
                self.metrics.decided(outcome.map_err(|denied| denied.reason.code()), took);
                let server = authorisation.request.server();
                if self.health.servers.first(server.key.as_str()) {
                    telemetry::log_defects(server);
                    self.metrics.see_cluster(&server.cluster);
                }
                self.recorder.record(authorisation.event(&id, took));
                Some((bytes?.into(), id))
            }
            Err(rejection) => {
                self.metrics.rejected(&rejection);
                self.recorder.record(Event::RequestRejected(RequestRejected {
                    reason: rejection.code().to_owned(),
                    detail: event::words(&rejection.to_string()),
                }));
                None
            }
        }
    }
}
