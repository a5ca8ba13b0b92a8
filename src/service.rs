//! The running service: subscribe, bound, authorise, reply, drain.
//!
//! Everything between a message and its reply is [`crate::authorizer`], which is pure; what is
//! here is the connections to the broker and the bounds on work in progress. Each connection has a
//! thread of its own, which does everything for the requests that come on it.

mod connection;
mod fence;
mod link;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use async_nats::Message;
use bytes::Bytes;
use tokio::sync::{oneshot, watch};

#[cfg(all(unix, feature = "sandbox"))]
pub(crate) use self::connection::reconnect_delay;
use self::link::{End, Link};
use crate::authorizer::{Authorizer, Moment};
use crate::config::{Limits, Nats};
use crate::policy::store::Store;
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

/// Whether the service can do its work, for `/readyz`.
pub struct Health {
    /// How many connections there should be; 0 before they are made.
    wanted: AtomicUsize,
    connected: AtomicUsize,
    subscribed: AtomicUsize,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
}

impl Health {
    /// Not connected yet.
    #[must_use]
    pub fn new(store: Arc<Store>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            wanted: AtomicUsize::new(0),
            connected: AtomicUsize::new(0),
            subscribed: AtomicUsize::new(0),
            store,
            metrics,
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
        let ready = subscribed && self.connected.load(Ordering::Relaxed) > 0;
        let snapshot = self.store.current();
        let policy = match self.metrics.refused_since() {
            None => "the newest".to_owned(),
            Some(since) => format!("changes refused for {} s, see the log", (now - since).max(0)),
        };
        let report = format!(
            "nats-server: {connected}\nsubscribed: {}\npolicy: revision {}, {policy}\n",
            if subscribed { "yes" } else { "no" },
            snapshot.policy.revision(),
        );
        (ready, report)
    }
}

/// What a running service needs.
pub struct Service {
    /// Decides and signs.
    pub authorizer: Authorizer,
    /// The policy in force.
    pub store: Arc<Store>,
    /// Counts.
    pub metrics: Arc<Metrics>,
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
        nats: Nats,
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
        let (nats, (stop, stopped)) = (Arc::new(nats), watch::channel(false));
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

    /// One request, from its message to its answer. `None` when none is owed.
    fn answer(&self, request: &Message, taken: Instant) -> Option<(Bytes, String)> {
        if taken.elapsed() > self.limits.patience {
            // The server gave up on it; an answer would only take time from the next.
            self.metrics.dropped(Dropped::TooLate, 1);
            return None;
        }
        let xkey = request
            .headers
            .as_ref()
            .and_then(|h| h.get(SERVER_XKEY))
            .map(async_nats::HeaderValue::as_str);
        let snapshot = self.store.current();
        let moment = Moment::now();
        match self.authorizer.authorise(&request.payload, xkey, &snapshot.policy, &moment) {
            Ok(mut authorisation) => {
                let bytes = authorisation.answer.as_mut().ok().map(std::mem::take);
                let took = taken.elapsed();
                self.metrics.decided(&authorisation, took);
                telemetry::log_decision(&authorisation, &moment.id, took);
                Some((bytes?.into(), moment.id))
            }
            Err(rejection) => {
                self.metrics.rejected(&rejection);
                telemetry::log_rejection(&rejection);
                None
            }
        }
    }
}
