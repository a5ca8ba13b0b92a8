//! The connection that events are published on: a thread of its own, one connection at a time.
//!
//! It is not the connection that answers requests: that one must not wait behind a batch of
//! events, and rests when it leaves. A connection that is lost is given up with everything that
//! was still to be written on it, so that nothing is published later than its sender knows; the
//! next question makes a new one. async-nats would reconnect and write what it had buffered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::publish::PublishAck;
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::spool::Line;
use solewriter_guard::publish::{PATIENCE, Publisher};

/// A lost connection is not made again by the client library: not within its life.
const NEVER: Duration = Duration::from_secs(1_000_000);

/// Where events go.
pub struct Target {
    /// nats-server addresses.
    pub servers: Vec<ServerAddr>,
    /// Who connects: everything but name, inbox and events.
    pub options: Box<dyn Fn() -> Result<ConnectOptions, String> + Send>,
    /// The connection's name.
    pub name: String,
    /// The prefix of inboxes that it may subscribe to.
    pub inbox: String,
    /// The stream that must take the events.
    pub stream: String,
}

/// Why something did not get through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SendError {
    #[error("no connection to nats-server: {0}")]
    Connect(String),
    #[error(
        "no stream takes {0}: `solewriter buckets apply` creates it; if it is there, is it imported \
         (see docs/audit.md)?"
    )]
    NoStream(String),
    #[error("the stream did not acknowledge an event: {0}")]
    Refused(String),
    #[error("the stream {0} took the event, but it should be {1}")]
    OtherStream(String, String),
    #[error(
        "no answer within {} s: does JetStream run, and is the stream made (`solewriter buckets \
         apply`)?",
        PATIENCE.as_secs()
    )]
    Timeout,
    #[error("the connection was lost")]
    Lost,
}

impl SendError {
    fn of(error: &PublishError, subject: &str) -> Self {
        match error.kind() {
            PublishErrorKind::StreamNotFound => Self::NoStream(subject.to_owned()),
            PublishErrorKind::TimedOut => Self::Timeout,
            _ => Self::Refused(error.to_string()),
        }
    }
}

pub(super) enum Question {
    /// The message id of the last message on a subject; `None` when there is none.
    Last { subject: String, answer: oneshot::Sender<Result<Option<String>, SendError>> },
    /// Publishes lines with their message ids, and waits until each is acknowledged.
    Publish {
        subject: String,
        instance: String,
        lines: Vec<Line>,
        /// Events up to this number may be in the stream already.
        unsure: u64,
        answer: oneshot::Sender<Published>,
    },
}

/// What became of lines.
pub(super) struct Published {
    /// How many were acknowledged, from the first on.
    pub done: usize,
    /// The numbers of those among them that the stream did not take, although they were never
    /// sent before: somebody else used their message ids.
    pub taken: Vec<u64>,
    /// What kept the next one from being acknowledged.
    pub outcome: Result<(), SendError>,
}

impl Published {
    pub fn none(error: SendError) -> Self {
        Self { done: 0, taken: Vec::new(), outcome: Err(error) }
    }

    /// What the acknowledgements of these events come to, up to the first of another stream.
    fn of(
        target: &Target,
        sequences: &[u64],
        acknowledged: Vec<PublishAck>,
        unsure: u64,
        outcome: Result<(), SendError>,
    ) -> Self {
        let mut published = Self { done: 0, taken: Vec::new(), outcome };
        for (sequence, taken) in sequences.iter().zip(acknowledged) {
            if taken.stream != target.stream {
                let error = SendError::OtherStream(taken.stream, target.stream.clone());
                published.outcome = Err(error);
                break;
            }
            if taken.duplicate && *sequence > unsure {
                published.taken.push(*sequence);
            }
            published.done += 1;
        }
        published
    }
}

/// Starts the thread. It ends when nobody can ask any more.
pub(super) fn start(target: Target) -> std::io::Result<mpsc::Sender<Question>> {
    let (ask, mut questions) = mpsc::channel::<Question>(1);
    std::thread::Builder::new().name("audit-send".to_owned()).spawn(move || {
        let mut waiting = None;
        loop {
            // Dropped with everything that runs on it, so that nothing is sent behind our back.
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build()
            else {
                return;
            };
            let Some(question) = waiting.take().or_else(|| questions.blocking_recv()) else {
                return;
            };
            waiting = runtime.block_on(one_connection(&target, question, &mut questions));
            runtime.shutdown_background();
        }
    })?;
    Ok(ask)
}

/// Connects, and answers questions until the connection is lost or a question fails.
async fn one_connection(
    target: &Target,
    first: Question,
    questions: &mut mpsc::Receiver<Question>,
) -> Option<Question> {
    let lost = Arc::new(Notify::new());
    let client = match connect(target, &lost).await {
        Ok(client) => client,
        Err(error) => {
            first.refuse(&error);
            return None;
        }
    };
    let mut question = first;
    loop {
        if !question.ask(target, &client, &lost).await {
            return None;
        }
        tokio::select! {
            next = questions.recv() => question = next?,
            () = lost.notified() => return None,
        }
    }
}

async fn connect(target: &Target, lost: &Arc<Notify>) -> Result<Client, SendError> {
    let options = (target.options)().map_err(SendError::Connect)?;
    let established = Arc::new(AtomicBool::new(false));
    let (once, lost) = (Arc::clone(&established), Arc::clone(lost));
    let connecting =
        options
            .name(&target.name)
            .custom_inbox_prefix(&target.inbox)
            .reconnect_delay_callback(move |_| {
                if once.load(Ordering::Relaxed) { NEVER } else { Duration::ZERO }
            })
            .event_callback(move |event| {
                let lost = Arc::clone(&lost);
                async move {
                    match event {
                        Event::Disconnected | Event::Closed => lost.notify_one(),
                        Event::ServerError(error) => tracing::error!(
                            event = "audit_not_permitted", %error,
                            "nats-server refused something on the connection to the audit stream",
                        ),
                        _ => {}
                    }
                }
            })
            .connect(&target.servers);
    let client = timeout(PATIENCE, connecting).await.map_err(|_| SendError::Timeout)?;
    let client = client.map_err(|error| SendError::Connect(error.to_string()))?;
    established.store(true, Ordering::Relaxed);
    Ok(client)
}

impl Question {
    fn refuse(self, error: &SendError) {
        match self {
            Self::Last { answer, .. } => drop(answer.send(Err(error.clone()))),
            Self::Publish { answer, .. } => drop(answer.send(Published::none(error.clone()))),
        }
    }

    /// Whether the connection is still good for another question.
    async fn ask(self, target: &Target, client: &Client, lost: &Notify) -> bool {
        match self {
            Self::Last { subject, answer } => {
                let found = tokio::select! {
                    found = last(client, &target.stream, &subject) => found,
                    () = lost.notified() => Err(SendError::Lost),
                };
                let good = found.is_ok();
                let _ = answer.send(found);
                good
            }
            Self::Publish { subject, instance, lines, unsure, answer } => {
                let sequences: Vec<u64> = lines.iter().map(|line| line.sequence).collect();
                let id = |sequence: u64| format!("{instance}-{sequence}");
                let batch = lines.into_iter().map(|line| (id(line.sequence), line.bytes.into()));
                let publisher = Publisher::new(client.clone(), &subject);
                let mut taken = Vec::with_capacity(sequences.len());
                let outcome = tokio::select! {
                    outcome = publisher.publish(batch, &mut taken) => {
                        outcome.map_err(|error| SendError::of(&error, &subject))
                    }
                    () = lost.notified() => Err(SendError::Lost),
                };
                let published = Published::of(target, &sequences, taken, unsure, outcome);
                let good = published.outcome.is_ok();
                let _ = answer.send(published);
                good
            }
        }
    }
}

/// Direct get by subject, which names the subject where a permission can see it.
async fn last(client: &Client, stream: &str, subject: &str) -> Result<Option<String>, SendError> {
    let request = client.request(format!("$JS.API.DIRECT.GET.{stream}.{subject}"), "".into());
    let answer = timeout(PATIENCE, request).await.map_err(|_| SendError::Timeout)?;
    let answer = answer.map_err(|_| SendError::NoStream(subject.to_owned()))?;
    if answer.status == Some(async_nats::StatusCode::NOT_FOUND) {
        return Ok(None);
    }
    let id = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Msg-Id"));
    let missing = || SendError::Refused(format!("status {:?}", answer.status));
    id.map(|id| Some(id.as_str().to_owned())).ok_or_else(missing)
}
