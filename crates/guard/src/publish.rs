//! How events are published to the audit stream, by any producer: in order, each with a message id,
//! and each waited for until the stream has acknowledged it.
//!
//! After a failure, publish again what was not acknowledged, under the same ids: the stream drops
//! what has an id that it knows.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{ContextBuilder, PublishError};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::{Client, Subject};
use bytes::Bytes;

/// How long the stream may take to acknowledge an event.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Publishes on one subject.
pub struct Publisher {
    stream: Context,
    subject: Subject,
}

impl Publisher {
    /// Publishes through that client.
    #[must_use]
    pub fn new(client: Client, subject: &str) -> Self {
        let stream = ContextBuilder::new().timeout(PATIENCE).build(client);
        Self { stream, subject: subject.into() }
    }

    /// Where it publishes.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Sends a batch of message ids and bodies, and waits for the acknowledgements in its order. They
    /// are in `acknowledged` even when this fails or is given up: as many events as that got through.
    ///
    /// # Errors
    /// What kept the next event from being acknowledged.
    pub async fn publish(
        &self,
        batch: impl IntoIterator<Item = (String, Bytes)>,
        acknowledged: &mut Vec<PublishAck>,
    ) -> Result<(), PublishError> {
        let mut sent = Vec::new();
        for (id, body) in batch {
            let message = PublishMessage::build().message_id(id).payload(body);
            sent.push(self.stream.send_publish(self.subject.clone(), message).await?);
        }
        for acknowledgement in sent {
            acknowledged.push(acknowledgement.await?);
        }
        Ok(())
    }
}

/// How many events may be on their way, and how long to pause after a failure.
///
/// At first, and after a failure, one event at a time: of a batch that begins to get through in its
/// middle, the first ones would come last.
#[derive(Debug)]
pub struct Pace {
    many: usize,
    longest: Duration,
    is_careful: bool,
    pause: Duration,
}

impl Pace {
    /// The first pause.
    const PAUSE: Duration = Duration::from_millis(100);

    /// At most so many events at once, and no longer a pause than that.
    #[must_use]
    pub fn new(many: usize, longest: Duration) -> Self {
        Self { many, longest, is_careful: true, pause: Self::PAUSE }
    }

    /// How many events the next batch may have.
    #[must_use]
    pub fn most(&self) -> usize {
        if self.is_careful { 1 } else { self.many }
    }

    /// The stream answered.
    pub fn answered(&mut self) {
        self.pause = Self::PAUSE;
    }

    /// The stream took a whole batch.
    pub fn took(&mut self) {
        self.answered();
        self.is_careful = false;
    }

    /// Something failed: how long to wait before the next attempt.
    #[must_use]
    pub fn failed(&mut self) -> Duration {
        self.is_careful = true;
        let pause = self.pause;
        self.pause = (pause * 2).min(self.longest);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_makes_careful_and_patient() {
        let mut pace = Pace::new(256, Duration::from_millis(300));
        assert_eq!(pace.most(), 1);
        pace.took();
        assert_eq!(pace.most(), 256);
        let pauses = [pace.failed(), pace.failed(), pace.failed(), pace.failed()];
        assert_eq!(pauses.map(|pause| pause.as_millis()), [100, 200, 300, 300]);
        assert_eq!(pace.most(), 1);
        // An answer to a question is no event that got through.
        pace.answered();
        assert_eq!((pace.most(), pace.failed().as_millis()), (1, 100));
        pace.took();
        assert_eq!((pace.most(), pace.failed().as_millis()), (256, 100));
    }
}
