//! Knowing that the server has dealt with everything sent so far.
//!
//! async-nats's `flush` ends when the bytes are written to the socket. A message to ourselves
//! comes back only after the server has read everything before it.

use std::time::Duration;

use async_nats::{Client, Subscriber};
use futures_util::StreamExt;
use tokio::time::timeout;

use crate::nats::connect::INBOX;

/// How long a message to ourselves may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// An inbox of this instance's own.
pub(crate) struct RoundTrip {
    client: Client,
    subject: String,
    inbox: Subscriber,
}

impl RoundTrip {
    pub(crate) async fn new(client: &Client) -> Result<Self, async_nats::SubscribeError> {
        let token = data_encoding::HEXLOWER.encode(&rand::random::<[u8; 16]>());
        let subject = format!("{INBOX}.{token}");
        let inbox = client.subscribe(subject.clone()).await?;
        Ok(Self { client: client.clone(), subject, inbox })
    }

    /// Waits until the server has dealt with everything sent before; false when it did not show
    /// that it has, in time.
    pub(crate) async fn pass(&mut self) -> bool {
        let token = rand::random::<[u8; 16]>().to_vec();
        let round = async {
            self.client.publish(self.subject.clone(), token.clone().into()).await.ok()?;
            loop {
                if self.inbox.next().await?.payload == token {
                    return Some(());
                }
            }
        };
        matches!(timeout(PATIENCE, round).await, Ok(Some(())))
    }
}
