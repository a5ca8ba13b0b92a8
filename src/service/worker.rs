//! One connection at work. Its thread takes requests on, answers them in the order in which they
//! came, and sends the answers: nothing is handed to another thread, which would cost more than it
//! gives. What comes on several connections is worked on at once.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, Message, Subject, Subscriber};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio::time::timeout;

use super::answer::{Answer, Reply, Service};
use super::connection::{CALLOUT_SUBJECT, ServiceError, connect, room};
use super::queue::Job;
use super::shared::{Shared, defect};
use super::tenants::LOOK_AGAIN;
use crate::nats::Nats;
use crate::nats::connect::INBOX;
use crate::nats::round_trip::RoundTrip;
use crate::telemetry::Dropped;
use crate::traces::Trace;
use solewriter_core::callout::authorizer::Proved;
use solewriter_types::audit_event::{Event, Trouble};

/// How long the connection rests after it took its leave from the queue group, so that whatever
/// the server sent before it knew has arrived: so many times what a round trip took just before,
/// within these bounds. The upper one is well below the time that servers wait for an answer.
const REST_ROUND_TRIPS: u32 = 20;
const REST_AT_LEAST: Duration = Duration::from_millis(250);
const REST_AT_MOST: Duration = Duration::from_secs(1);
/// How long requests are worked on before the answers are written, all at once, and what arrived
/// is read.
const STRETCH: Duration = Duration::from_millis(1);

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// The server has read every answer.
    Answered,
    /// It did not show that it has.
    Unconfirmed,
    /// The drain limit passed before everything was answered.
    Late,
}

impl End {
    /// Says how it ended, of the connections that ever stood.
    pub(super) fn log(ends: &[Self], unanswered: usize) {
        match ends.iter().max() {
            None => {}
            Some(Self::Answered) => {
                tracing::info!(event = "stopped", "every request that was taken has an answer");
            }
            Some(Self::Unconfirmed) => {
                tracing::warn!(event = "stopped", "nats-server did not confirm the last answers");
            }
            Some(Self::Late) => tracing::error!(
                event = "stopped",
                unanswered,
                "stopped before every request had an answer: [limits] drain is over",
            ),
        }
    }
}

/// A request that was taken on, and when.
struct Waiting {
    request: Message,
    reply: Subject,
    taken: Instant,
}

/// An answer that is not sent yet.
struct Held {
    to: Subject,
    from: Instant,
    reply: Reply,
}

/// The connection.
pub(super) struct Worker {
    shared: Arc<Shared>,
    client: Client,
    requests: Subscriber,
    fence: RoundTrip,
    stop: watch::Receiver<bool>,
    waiting: VecDeque<Waiting>,
    /// The next to be sent first: all of one policy have the same time.
    held: VecDeque<Held>,
}

impl Worker {
    /// The life of the connection, on the thread that calls. `None` when it was told to stop
    /// before there was one.
    pub(super) fn live(
        shared: &Arc<Shared>,
        nats: &Nats,
        stop: watch::Receiver<bool>,
    ) -> Result<Option<End>, ServiceError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let Some(mut link) = runtime.block_on(Self::open(shared.clone(), nats, stop))? else {
            return Ok(None);
        };
        let outcome = runtime.block_on(link.serve());
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
        let end = runtime.block_on(link.finish());
        outcome.map(|()| Some(end))
    }

    /// Connects and subscribes; `None` when it is told to stop before that worked.
    async fn open(
        shared: Arc<Shared>,
        nats: &Nats,
        mut stop: watch::Receiver<bool>,
    ) -> Result<Option<Self>, ServiceError> {
        let service = &shared.service;
        let client = tokio::select! {
            connected = connect(nats, &service.instance, &service.health) => connected?,
            _ = stop.wait_for(|stop| *stop) => return Ok(None),
        };
        // Before there is a policy nothing can be decided, and an instance in the queue group
        // would take requests from those that can.
        tokio::select! {
            () = service.tenants.ready() => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(None),
        }
        let requests = client.queue_subscribe(CALLOUT_SUBJECT, nats.queue_group.clone()).await?;
        // Nobody is told before the server sends us requests: what stops an older instance as
        // soon as this one is ready must not leave a gap.
        let mut fence = RoundTrip::new(&client).await?;
        if fence.pass().await {
            service.health.subscribed.fetch_add(1, Ordering::Relaxed);
        } else {
            service.recorder.record(Event::Trouble(Trouble {
                reason: "unconfirmed".to_owned(),
                detail: format!(
                    "nats-server did not send a test message back, so this instance is not \
                     ready: does [nats] nkey_seed belong to the callout user, and may that user \
                     publish and subscribe to {INBOX}.>, as in deploy/nats-server.conf?",
                ),
                service: None,
            }));
        }
        // The last of the connections speaks for all.
        if shared.opened.fetch_add(1, Ordering::Relaxed) + 1 == shared.connections {
            announce(service, nats, &client, shared.connections);
        }
        let (waiting, held) = (VecDeque::new(), VecDeque::new());
        Ok(Some(Self { shared, client, requests, fence, stop, waiting, held }))
    }

    /// Takes requests on and answers them until it is told to stop.
    async fn serve(&mut self) -> Result<(), ServiceError> {
        loop {
            if !self.take_arrived() {
                return Err(ServiceError::Closed);
            }
            if *self.stop.borrow() {
                return Ok(());
            }
            self.send_held().await;
            if self.waiting.is_empty() {
                let held = self.held.front().map(|held| held.from);
                let request = tokio::select! {
                    request = self.requests.next() => request,
                    _ = self.stop.wait_for(|stop| *stop) => return Ok(()),
                    () = until(held) => continue,
                };
                self.take(request.ok_or(ServiceError::Closed)?);
            } else {
                self.answer_for_a_while().await;
            }
        }
    }

    /// Leaves a request to the thread for what is large, if there is room.
    fn leave_large(
        &self,
        proved: Box<Proved>,
        reply: Subject,
        taken: Instant,
        trace: Option<Box<Trace>>,
    ) {
        let service = Arc::clone(proved.service());
        if !self.shared.large.push(&service, Job { proved, reply, trace, taken }) {
            self.shared.service.metrics.dropped(Dropped::Overloaded, 1);
            self.shared.done();
        }
    }

    /// Sends the answers whose time has come.
    async fn send_held(&mut self) {
        let now = Instant::now();
        while self.held.front().is_some_and(|held| held.from <= now)
            && let Some(Held { to, reply, .. }) = self.held.pop_front()
        {
            self.shared.send(&self.client, to, reply).await;
            self.shared.done();
        }
    }

    /// Takes on everything that has arrived, without waiting; false when nothing will any more.
    fn take_arrived(&mut self) -> bool {
        while let Some(request) = self.requests.next().now_or_never() {
            match request {
                Some(request) => self.take(request),
                None => return false,
            }
        }
        true
    }

    /// Takes a request on, if there is room.
    fn take(&mut self, request: Message) {
        let (service, pending) = (&self.shared.service, &self.shared.pending);
        let Some(reply) = request.reply.clone() else {
            return service.metrics.dropped(Dropped::NoReply, 1);
        };
        if pending.fetch_add(1, Ordering::Relaxed) >= service.limits.pending {
            pending.fetch_sub(1, Ordering::Relaxed);
            return service.metrics.dropped(Dropped::Overloaded, 1);
        }
        service.metrics.taken();
        self.waiting.push_back(Waiting { request, reply, taken: Instant::now() });
    }

    /// Answers what has waited longest, and then lets the connection write and read.
    async fn answer_for_a_while(&mut self) {
        let began = Instant::now();
        let room = room(&self.client);
        while let Some(Waiting { request, reply: to, taken }) = self.waiting.pop_front() {
            let service = self.shared.service.clone();
            // A defect that shows in one request must not end the others.
            let answer = AssertUnwindSafe(service.answer(&request, taken, room));
            match answer.catch_unwind().await {
                Ok(Answer::Made(Some(reply @ Reply { from: Some(from), .. }))) => {
                    self.held.push_back(Held { to, from, reply });
                }
                Ok(Answer::Made(answer)) => {
                    if let Some(answer) = answer {
                        self.shared.send(&self.client, to, answer).await;
                    }
                    self.shared.done();
                }
                Ok(Answer::Large(proved, trace)) => self.leave_large(proved, to, taken, trace),
                Err(_) => {
                    defect();
                    self.shared.done();
                }
            }
            if began.elapsed() >= STRETCH {
                break;
            }
        }
        tokio::task::yield_now().await;
    }

    fn connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Leaves the queue group. When this returns, the server has been told, and nothing else was
    /// done on the connection since. Gives how long it should stay so.
    async fn leave(&mut self) -> Duration {
        self.shared.service.health.subscribed.store(0, Ordering::Relaxed);
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
    async fn finish(&mut self) -> End {
        match timeout(self.shared.service.limits.drain, self.answer_the_rest()).await {
            Ok(true) => End::Answered,
            Ok(false) => End::Unconfirmed,
            Err(_) => End::Late,
        }
    }

    async fn answer_the_rest(&mut self) -> bool {
        // Without a connection nothing more comes, and nothing can be answered.
        let mut more = self.connected();
        loop {
            more = more && self.take_arrived();
            self.send_held().await;
            if !self.waiting.is_empty() {
                self.answer_for_a_while().await;
            } else if more {
                tokio::select! {
                    request = self.requests.next() => match request {
                        Some(request) => self.take(request),
                        None => more = false,
                    },
                    () = tokio::time::sleep(LOOK_AGAIN) => more &= self.connected(),
                }
            } else if let Some(held) = self.held.front() {
                until(Some(held.from)).await;
            } else {
                break;
            }
        }
        // Closing a connection with something unread on it discards what the server has not
        // read either, so it has to have read our replies.
        self.connected() && self.fence.pass().await && self.client.drain().await.is_ok()
    }
}

/// At that time; never, without one.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Says that requests are answered.
fn announce(service: &Service, nats: &Nats, client: &Client, connections: usize) {
    let only = service.tenants.only().and_then(|only| only.store.current());
    let revision = only.as_ref().map(|snapshot| snapshot.policy.revision().whole());
    let issuer = service.authorizer.issuer();
    tracing::info!(
        event = "ready", subject = CALLOUT_SUBJECT, queue_group = nats.queue_group, connections,
        server = client.server_info().server_name, version = client.server_info().version,
        issuer = %issuer.account(), xkey = issuer.sealer().map(|s| s.public().to_string()),
        revision,
        "answering authorization requests",
    );
}
