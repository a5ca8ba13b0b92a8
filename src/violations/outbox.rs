//! Events on their way to the audit stream: published in order, again and again until the stream
//! acknowledged them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::state::Outgoing;
use solewriter_guard::publish::{Pace, Publisher};

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

    fn first(&self, count: usize) -> Vec<(String, Bytes)> {
        let message = |event: &Arc<Outgoing>| (event.id.clone(), event.body.clone().into());
        self.lock().iter().take(count).map(message).collect()
    }

    /// Publishes what waits, for ever. A failure is logged once, and tried again.
    pub async fn deliver(&self, publisher: &Publisher) {
        let mut failing = false;
        let mut pace = Pace::new(IN_FLIGHT, PAUSE_AT_MOST);
        loop {
            let batch = self.first(pace.most());
            if batch.is_empty() {
                self.changed.notified().await;
                continue;
            }
            let mut acknowledged = Vec::new();
            let outcome = publisher.publish(batch, &mut acknowledged).await;
            self.lock().drain(..acknowledged.len());
            self.emptied.notify_one();
            match outcome {
                Ok(()) => {
                    if failing {
                        tracing::info!(event = "audit_back", waiting = self.len());
                    }
                    failing = false;
                    pace.took();
                }
                Err(error) => {
                    if !failing {
                        tracing::error!(
                            event = "audit_unavailable",
                            %error,
                            subject = publisher.subject(),
                            waiting = self.len(),
                            "the audit stream takes no events; trying again until it does",
                        );
                    }
                    failing = true;
                    sleep(pace.failed()).await;
                }
            }
        }
    }
}
