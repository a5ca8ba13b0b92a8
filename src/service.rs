//! The running service: subscribe, bound, authorise, reply, drain.
//!
//! Everything between a message and its reply is [`crate::authorizer`], which is pure; what is
//! here is the connection to the broker and the bounds on work in progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions, Event, Message, ServerError, Subscriber};
use futures_util::StreamExt;
use tokio::sync::Semaphore;

use crate::authorizer::{Authorizer, Moment};
use crate::config::{Limits, Login, Nats};
use crate::policy::store::Store;
use crate::telemetry::{self, Dropped, Metrics};

/// Where nats-server asks.
pub const CALLOUT_SUBJECT: &str = "$SYS.REQ.USER.AUTH";
/// The header with the server's curve key.
const SERVER_XKEY: &str = "Nats-Server-Xkey";
/// The longest pause between two attempts to connect.
const RETRY_AT_MOST: Duration = Duration::from_secs(2);

/// Why the service stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A setting that only shows to be wrong when it is used.
    #[error("the connection to nats-server cannot be set up: {0}")]
    Setup(String),
    /// The client library gave the connection up, which it should never do.
    #[error("the connection to nats-server was closed for good")]
    Closed,
    /// The subscription could not be made.
    #[error("cannot subscribe to {CALLOUT_SUBJECT}: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
}

/// Whether the service can do its work, for `/readyz`.
pub struct Health {
    connected: AtomicBool,
    subscribed: AtomicBool,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
}

impl Health {
    /// Not connected yet.
    #[must_use]
    pub fn new(store: Arc<Store>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            connected: AtomicBool::new(false),
            subscribed: AtomicBool::new(false),
            store,
            metrics,
        })
    }

    fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
        self.metrics.connected(connected);
    }

    /// Whether requests are answered, and a report for people: one line an item.
    #[must_use]
    pub fn report(&self, now: i64) -> (bool, String) {
        let connected = self.connected.load(Ordering::Relaxed);
        let subscribed = self.subscribed.load(Ordering::Relaxed);
        let snapshot = self.store.current();
        let policy = match self.metrics.refused_since() {
            None => "the newest".to_owned(),
            Some(since) => format!("changes refused for {} s, see the log", (now - since).max(0)),
        };
        let report = format!(
            "nats-server: {}\nsubscribed: {}\npolicy: revision {}, {policy}\n",
            if connected { "connected" } else { "not connected" },
            if subscribed { "yes" } else { "no" },
            snapshot.policy.revision(),
        );
        (connected && subscribed, report)
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

impl Service {
    /// Connects (as often as it takes), answers requests until `shutdown` resolves, then
    /// finishes what it took on.
    ///
    /// # Errors
    /// [`ServiceError`] when it cannot begin.
    pub async fn run(
        self: Arc<Self>,
        nats: &Nats,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServiceError> {
        tokio::pin!(shutdown);
        let client = tokio::select! {
            connected = connect(nats, &self.health) => connected?,
            () = &mut shutdown => return Ok(()),
        };
        let queue = nats.queue_group.clone();
        let mut requests = client.queue_subscribe(CALLOUT_SUBJECT, queue).await?;
        // The server has the subscription once it answers this.
        let flushed = tokio::time::timeout(self.limits.patience.max(RETRY_AT_MOST), client.flush());
        if !matches!(flushed.await, Ok(Ok(()))) {
            tracing::warn!(
                event = "slow_start",
                "nats-server did not confirm the subscription yet"
            );
        }
        self.health.subscribed.store(true, Ordering::Relaxed);
        tracing::info!(
            event = "ready", subject = CALLOUT_SUBJECT, queue_group = nats.queue_group,
            server = client.server_info().server_name, version = client.server_info().version,
            issuer = %self.authorizer.issuer().account(),
            xkey = self.authorizer.issuer().sealer().map(|s| s.public().to_string()),
            revision = %self.store.current().policy.revision(),
            "answering authorization requests",
        );
        let slots = Arc::new(Semaphore::new(self.limits.pending));
        let outcome = loop {
            tokio::select! {
                request = requests.next() => match request {
                    Some(request) => self.take(&client, &slots, request),
                    None => break Err(ServiceError::Closed),
                },
                () = &mut shutdown => break Ok(()),
            }
        };
        self.health.subscribed.store(false, Ordering::Relaxed);
        self.drain(&client, &slots, requests).await;
        outcome
    }

    /// Takes a request on, if there is room, without waiting.
    fn take(self: &Arc<Self>, client: &Client, slots: &Arc<Semaphore>, request: Message) {
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            return self.metrics.dropped(Dropped::Overloaded, 1);
        };
        let (service, client, taken) = (self.clone(), client.clone(), Instant::now());
        self.metrics.taken();
        tokio::spawn(async move {
            service.answer(&client, &request, taken).await;
            service.metrics.done();
            drop(slot);
        });
    }

    async fn answer(&self, client: &Client, request: &Message, taken: Instant) {
        if taken.elapsed() > self.limits.patience {
            // The server gave up on it; an answer would only take time from the next.
            return self.metrics.dropped(Dropped::TooLate, 1);
        }
        let Some(reply) = request.reply.clone() else {
            return self.metrics.dropped(Dropped::NoReply, 1);
        };
        let xkey = request
            .headers
            .as_ref()
            .and_then(|h| h.get(SERVER_XKEY))
            .map(async_nats::HeaderValue::as_str);
        let snapshot = self.store.current();
        let moment = Moment::now();
        let payload = &request.payload;
        match self.authorizer.authorise(payload, xkey, &snapshot.policy, &moment) {
            Ok(mut authorisation) => {
                if let Ok(bytes) = &mut authorisation.answer
                    && let Err(error) = client.publish(reply, std::mem::take(bytes).into()).await
                {
                    tracing::error!(event = "reply_failed", decision = moment.id, %error);
                }
                let took = taken.elapsed();
                self.metrics.decided(&authorisation, took);
                telemetry::log_decision(&authorisation, &moment.id, took);
            }
            Err(rejection) => {
                self.metrics.rejected(&rejection);
                telemetry::log_rejection(&rejection);
            }
        }
    }

    /// No new requests, then every one that was taken on, then their replies on the wire, and
    /// only then the connection: in any other order async-nats loses replies.
    async fn drain(
        self: &Arc<Self>,
        client: &Client,
        slots: &Arc<Semaphore>,
        mut rest: Subscriber,
    ) {
        let pending = self.limits.pending - slots.available_permits().min(self.limits.pending);
        tracing::info!(event = "draining", pending, "stopping; finishing what was taken on");
        let all = async {
            if rest.drain().await.is_ok() {
                while let Some(request) = rest.next().await {
                    self.take(client, slots, request);
                }
            }
            let every = u32::try_from(self.limits.pending).unwrap_or(u32::MAX);
            let _ = slots.acquire_many(every).await;
            client.flush().await.is_ok() && client.drain().await.is_ok()
        };
        match tokio::time::timeout(self.limits.drain, all).await {
            Ok(true) => tracing::info!(event = "stopped", "every request taken on was answered"),
            Ok(false) => {
                tracing::warn!(event = "stopped", "the connection was gone before the end");
            }
            Err(_) => tracing::error!(
                event = "stopped",
                unanswered = self.limits.pending - slots.available_permits(),
                "stopped before everything was answered: the drain limit passed",
            ),
        }
    }
}

/// Connects, trying until it works: a broker that is not up yet, or restarts, is no reason to
/// give up. What is wrong is logged each time.
async fn connect(nats: &Nats, health: &Arc<Health>) -> Result<Client, ServiceError> {
    let mut pause = Duration::from_millis(100);
    loop {
        match options(nats, health)?.connect(&nats.servers).await {
            Ok(client) => return Ok(client),
            Err(error) => tracing::error!(
                event = "connect_failed", servers = ?nats.servers.iter().map(|s| {
                    format!("{}:{}", s.host(), s.port())
                }).collect::<Vec<_>>(),
                error = %error, retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                "cannot connect to nats-server: is it running, and is this service's key in \
                 auth_callout.auth_users?",
            ),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_AT_MOST);
    }
}

fn options(nats: &Nats, health: &Arc<Health>) -> Result<ConnectOptions, ServiceError> {
    let mut options = match &nats.login {
        Login::Nkey(seed) => ConnectOptions::with_nkey(seed.expose().to_owned()),
        Login::Credentials(text) => ConnectOptions::with_credentials(text.expose())
            .map_err(|error| ServiceError::Setup(format!("credentials: {error}")))?,
    };
    if let Some(ca) = &nats.tls.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some((cert, key)) = &nats.tls.identity {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    if nats.tls.first {
        options = options.tls_first();
    }
    let health = health.clone();
    Ok(options
        .name(&nats.name)
        .require_tls(nats.tls.required)
        .reconnect_delay_callback(|attempts| {
            let doublings = u32::try_from(attempts.min(10)).unwrap_or(10);
            (Duration::from_millis(10) * 2u32.saturating_pow(doublings)).min(RETRY_AT_MOST)
        })
        .event_callback(move |event| {
            let health = health.clone();
            async move { observe(&health, &event) }
        }))
}

fn observe(health: &Health, event: &Event) {
    match event {
        Event::Connected => {
            health.set_connected(true);
            tracing::info!(event = "connected", "connected to nats-server");
        }
        Event::Disconnected => {
            health.set_connected(false);
            tracing::warn!(event = "disconnected", "connection to nats-server lost; reconnecting");
        }
        Event::SlowConsumer(_) => {
            health.metrics.dropped(Dropped::SlowConsumer, 1);
            tracing::error!(event = "slow_consumer", "a request was dropped: too many are waiting");
        }
        Event::ServerError(ServerError::Other(text)) if text.contains("Permissions Violation") => {
            tracing::error!(
                event = "not_permitted", error = %text,
                "nats-server refuses this service a subject it needs: check the callout user's \
                 permissions",
            );
        }
        Event::ServerError(error) => tracing::error!(event = "server_error", error = %error),
        Event::ClientError(error) => tracing::warn!(event = "client_error", error = %error),
        Event::LameDuckMode | Event::Draining | Event::Closed => {
            tracing::info!(event = "connection", state = %event);
        }
    }
}
