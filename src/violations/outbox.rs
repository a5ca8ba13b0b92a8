//! Events on their way to the audit stream: published in order, again and again until the stream
//! acknowledged them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::state::Outgoing;

/// How many events may wait for their acknowledgement. Then reading the log pauses: it is the
/// queue that has room.
pub const CAPACITY: usize = 4096;
/// How many are published before their acknowledgements are waited for.
const IN_FLIGHT: usize = 512;
/// The longest pause after a failure.
const PAUSE_AT_MOST: Duration = Duration::from_secs(5);

/// What waits. Shared between the follower, which fills it, and [`Outbox::deliver`].
#[derive(Default)]
pub struct Outbox {
    waiting: Mutex<VecDeque<Arc<Outgoing>>>,
    changed: Notify,
    emptied: Notify,
}

impl Outbox {
    /// Puts events in.
    pub fn put(&self, events: impl IntoIterator<Item = Arc<Outgoing>>) {
        self.lock().extend(events);
        self.changed.notify_one();
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What waits, for saving.
    #[must_use]
    pub fn saved(&self) -> Vec<Outgoing> {
        self.lock().iter().map(|event| Outgoing::clone(event)).collect()
    }

    /// Waits until some more have been acknowledged.
    pub async fn delivered(&self) {
        self.emptied.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Outgoing>>> {
        // Nothing that a panic could leave half done is behind the lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn first(&self, count: usize) -> Vec<Arc<Outgoing>> {
        self.lock().iter().take(count).cloned().collect()
    }

    /// Publishes what waits, for ever. A failure is logged once, and tried again.
    ///
    /// At first, and after a failure, one event at a time: when the stream appears in the middle
    /// of a batch, the first ones of it would come last.
    pub async fn deliver(&self, stream: &jetstream::Context, subject: &str) {
        let mut failing = false;
        let mut most = 1;
        let mut pause = Duration::from_millis(100);
        loop {
            let batch = self.first(most);
            if batch.is_empty() {
                self.changed.notified().await;
                continue;
            }
            match publish(stream, subject, &batch).await {
                Ok(()) => {
                    self.lock().drain(..batch.len());
                    self.emptied.notify_one();
                    if failing {
                        tracing::info!(event = "audit_back", waiting = self.len());
                    }
                    (failing, pause, most) = (false, Duration::from_millis(100), IN_FLIGHT);
                }
                Err(error) => {
                    if !failing {
                        tracing::error!(
                            event = "audit_unavailable", %error, subject, waiting = self.len(),
                            "the audit stream takes no events; trying again until it does",
                        );
                    }
                    (failing, most) = (true, 1);
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_AT_MOST);
                }
            }
        }
    }
}

/// Publishes a batch. All of it is acknowledged, or some of it will be published again: the
/// stream drops what has a message id that it knows.
async fn publish(
    stream: &jetstream::Context,
    subject: &str,
    batch: &[Arc<Outgoing>],
) -> Result<(), jetstream::context::PublishError> {
    let mut acknowledgements = Vec::with_capacity(batch.len());
    for event in batch {
        let message = PublishMessage::build()
            .message_id(event.id.as_str())
            .payload(event.body.clone().into());
        acknowledgements.push(stream.send_publish(subject.to_owned(), message).await?);
    }
    let all = join_all(acknowledgements.into_iter().map(IntoFuture::into_future)).await;
    all.into_iter().try_for_each(|one| one.map(drop))
}
