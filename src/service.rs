//! The running service: subscribe, bound, authorise, reply, drain.
//!
//! Everything between a message and its reply is [`crate::authorizer`], which is pure; what is
//! here is the connection to the broker and the bounds on work in progress. One thread has the
//! connection: it hands requests to the workers of the caller's runtime and sends what they reply.

mod connection;
mod fence;

pub use self::connection::connect_beside;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, Message, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use self::fence::Fence;

use crate::audit::Recorder;
use crate::audit::event::{self, Event, RequestRejected, Trouble};
use crate::authorizer::{Authorisation, Authorizer, Moment};
use crate::broker::INBOX;
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
/// How long the connection rests after it took its leave from the queue group, so that whatever
/// the server sent before it knew has arrived: so many times what a round trip took just before,
/// within these bounds. The upper one is well below the time that servers wait for an answer.
const REST_ROUND_TRIPS: u32 = 20;
const REST_AT_LEAST: Duration = Duration::from_millis(250);
const REST_AT_MOST: Duration = Duration::from_secs(1);

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
    connected: AtomicBool,
    subscribed: AtomicBool,
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
            connected: AtomicBool::new(false),
            subscribed: AtomicBool::new(false),
            store,
            standing,
            metrics,
            recorder,
            servers: defects::Seen::default(),
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
                let number = standing.origin().map(|o| format!(" (number {})", o.number));
                format!(
                    "policy: revision {revision}{}, {news}\nin force: for {} s",
                    number.unwrap_or_default(),
                    ago(snapshot.loaded_at.as_second()),
                )
            }
        };
        let report = format!(
            "nats-server: {}\nsubscribed: {}\n{policy}\nsource: {}\nopen connections: {}\n",
            if connected { "connected" } else { "not connected" },
            if subscribed { "yes" } else { "no" },
            standing.describe(now),
            self.metrics.sessions().report(),
        );
        (connected && subscribed && too_old.is_none(), report)
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

/// An answer on its way from a worker to the connection. It keeps its request's place until it
/// is sent.
struct Reply {
    to: Subject,
    bytes: Bytes,
    decision: String,
    _slot: OwnedSemaphorePermit,
}

impl Service {
    /// Connects (as often as it takes), answers requests until `shutdown` resolves, then
    /// finishes what it took on. Requests are worked on by the runtime that this is called from.
    ///
    /// # Errors
    /// [`ServiceError`] when it cannot begin.
    pub async fn run(
        self: Arc<Self>,
        nats: Arc<Nats>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServiceError> {
        let workers = Handle::current();
        let (report, reported) = oneshot::channel();
        std::thread::Builder::new().name("nats".to_owned()).spawn(move || {
            let _ = report.send(self.own_connection(&nats, workers, Box::pin(shutdown)));
        })?;
        reported.await.unwrap_or(Err(ServiceError::Closed))
    }

    /// The life of the thread that has the connection.
    fn own_connection(
        self: Arc<Self>,
        nats: &Nats,
        workers: Handle,
        mut shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
    ) -> Result<(), ServiceError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let Some(mut link) = runtime.block_on(Link::open(self, nats, workers, &mut shutdown))?
        else {
            return Ok(());
        };
        let outcome = runtime.block_on(link.serve(&mut shutdown));
        let rest = runtime.block_on(link.leave());
        // async-nats forgets a subscription at the first thing that happens after it told the
        // server, and drops what is still on its way (seen with 0.51: one request in 500). So
        // nothing happens here until all of it has arrived: this thread alone drives the
        // connection, and it sleeps.
        std::thread::sleep(rest);
        // The runtime looks what has arrived before anything else is done: a connection that is
        // woken by a reply to be sent would believe that there is nothing to read, and end the
        // subscription unread.
        runtime.block_on(tokio::task::yield_now());
        runtime.block_on(link.finish());
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

/// The connection at work. Everything that is sent is sent from here.
struct Link {
    service: Arc<Service>,
    workers: Handle,
    client: Client,
    requests: Subscriber,
    fence: Fence,
    slots: Arc<Semaphore>,
    reply: mpsc::UnboundedSender<Reply>,
    /// Bounded by the slots: each reply holds one.
    replies: mpsc::UnboundedReceiver<Reply>,
}

impl Link {
    /// Connects and subscribes; `None` when it is told to stop before that worked.
    async fn open(
        service: Arc<Service>,
        nats: &Nats,
        workers: Handle,
        shutdown: &mut (impl Future<Output = ()> + Unpin),
    ) -> Result<Option<Self>, ServiceError> {
        let client = tokio::select! {
            connected = connection::connect(nats, &service.health) => connected?,
            () = &mut *shutdown => return Ok(None),
        };
        // Before there is a policy nothing can be decided, and an instance in the queue group
        // would take requests from those that can.
        let revision = tokio::select! {
            revision = service.policy() => revision,
            () = shutdown => return Ok(None),
        };
        let requests = client.queue_subscribe(CALLOUT_SUBJECT, nats.queue_group.clone()).await?;
        // Nobody is told before the server sends us requests: what stops an older instance as
        // soon as this one is ready must not leave a gap.
        let mut fence = Fence::new(&client).await?;
        let confirmed = fence.pass().await;
        if !confirmed {
            service.recorder.record(Event::Trouble(Trouble {
                reason: "unconfirmed".to_owned(),
                detail: format!(
                    "nats-server did not send a message back, so this instance does not call \
                     itself ready: is [nats] nkey_seed the callout user's, and may that user \
                     publish and subscribe to {INBOX}.>, as in deploy/nats-server.conf?",
                ),
                service: None,
            }));
        }
        service.health.subscribed.store(confirmed, Ordering::Relaxed);
        let issuer = service.authorizer.issuer();
        tracing::info!(
            event = "ready", subject = CALLOUT_SUBJECT, queue_group = nats.queue_group,
            server = client.server_info().server_name, version = client.server_info().version,
            issuer = %issuer.account(), xkey = issuer.sealer().map(|s| s.public().to_string()),
            %revision,
            "answering authorization requests",
        );
        let slots = Arc::new(Semaphore::new(service.limits.pending));
        let (reply, replies) = mpsc::unbounded_channel();
        Ok(Some(Self { service, workers, client, requests, fence, slots, reply, replies }))
    }

    /// Takes requests on and sends replies until it is told to stop.
    async fn serve(
        &mut self,
        shutdown: &mut (impl Future<Output = ()> + Unpin),
    ) -> Result<(), ServiceError> {
        loop {
            tokio::select! {
                request = self.requests.next() => match request {
                    Some(request) => self.take(request),
                    None => return Err(ServiceError::Closed),
                },
                Some(reply) = self.replies.recv() => self.send(reply).await,
                () = &mut *shutdown => return Ok(()),
            }
        }
    }

    /// Takes a request on, if there is room, without waiting.
    fn take(&self, request: Message) {
        let (service, metrics) = (self.service.clone(), &self.service.metrics);
        let Some(to) = request.reply.clone() else {
            return metrics.dropped(Dropped::NoReply, 1);
        };
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            return metrics.dropped(Dropped::Overloaded, 1);
        };
        metrics.taken();
        let (reply, taken) = (self.reply.clone(), Instant::now());
        self.workers.spawn(async move {
            if let Some((bytes, decision)) = service.answer(&request, taken).await {
                // Fails only when this thread is gone, and the process with it.
                let _ = reply.send(Reply { to, bytes, decision, _slot: slot });
            } else {
                drop(slot);
            }
            service.metrics.done();
        });
    }

    async fn send(&self, reply: Reply) {
        if let Err(error) = self.client.publish(reply.to, reply.bytes).await {
            tracing::error!(event = "reply_failed", decision = reply.decision, %error);
        }
    }

    fn connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    fn pending(&self) -> usize {
        self.service.limits.pending.saturating_sub(self.slots.available_permits())
    }

    /// Leaves the queue group. When this returns, the server has been told, and nothing else was
    /// done on the connection since. Gives how long it should stay so.
    async fn leave(&mut self) -> Duration {
        self.service.health.subscribed.store(false, Ordering::Relaxed);
        tracing::info!(
            event = "draining",
            pending = self.pending(),
            "stopping; finishing what was taken on"
        );
        if !self.connected() {
            return Duration::ZERO;
        }
        let began = Instant::now();
        self.fence.pass().await;
        let rest = began.elapsed().saturating_mul(REST_ROUND_TRIPS);
        // Both are handed over before the connection gets to run, so it does them in one go.
        if self.requests.drain().await.is_ok() {
            let _ = timeout(REST_AT_LEAST, self.client.flush()).await;
        }
        rest.clamp(REST_AT_LEAST, REST_AT_MOST)
    }

    /// Answers everything that was taken on or arrived meanwhile, puts it on the wire, and only
    /// then closes the connection.
    async fn finish(&mut self) {
        match timeout(self.service.limits.drain, self.answer_the_rest()).await {
            Ok(true) => tracing::info!(event = "stopped", "every request taken on was answered"),
            Ok(false) => {
                tracing::warn!(event = "stopped", "nats-server did not confirm the last answers");
            }
            Err(_) => tracing::error!(
                event = "stopped",
                unanswered = self.pending(),
                "stopped before everything was answered: the drain limit passed",
            ),
        }
    }

    async fn answer_the_rest(&mut self) -> bool {
        // Without a connection nothing more comes, and nothing can be answered.
        let mut more = self.connected();
        while more || self.pending() > 0 {
            tokio::select! {
                request = self.requests.next(), if more => match request {
                    Some(request) => self.take(request),
                    None => more = false,
                },
                Some(reply) = self.replies.recv() => self.send(reply).await,
                // A request that is owed no answer gives its place back without a word: look.
                () = tokio::time::sleep(LOOK_AGAIN) => more &= self.connected(),
            }
        }
        // Closing a connection with something unread on it discards what the server has not
        // read either, so it has to have read our replies.
        self.connected() && self.fence.pass().await && self.client.drain().await.is_ok()
    }
}
