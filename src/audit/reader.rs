//! The audit stream, read: events one after another, without acknowledgements.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::ServerAddr;
use async_nats::datetime::parse_rfc3339;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::{self, stream::Stream};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use serde_json::Value;

use crate::config::Tls;
use crate::keys::{Seed, User};
use crate::permissions::inbox_prefix;

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who reads, and where.
pub struct Reader {
    /// nats-server addresses.
    pub servers: Vec<ServerAddr>,
    /// The seed of a service that `audits` the stream, or the admin's.
    pub seed: Seed<User>,
    /// The service's name, for its inbox.
    pub service: String,
    /// PEM file with the certificate authorities to trust.
    pub ca: Option<PathBuf>,
    /// The stream.
    pub stream: String,
}

/// Why nothing can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nobody there, or nobody who lets us in.
    #[error("cannot connect to nats-server: {0}")]
    Connect(String),
    /// No such stream, or not for us.
    #[error(
        "the stream {0} does not answer: is it created, and does the policy say `audits = \
         [\"{0}\"]` for this key (or is it the admin's)? {1}"
    )]
    Stream(String, String),
    /// It stopped in between.
    #[error("reading broke off: {0}")]
    Broken(String),
}

/// What to do after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Give the next one.
    GoOn,
    /// No more.
    Stop,
}

impl Reader {
    async fn open(&self) -> Result<Stream, ReadError> {
        let options = async_nats::ConnectOptions::with_nkey(self.seed.expose().to_owned());
        let tls = Tls { ca: self.ca.clone(), ..Tls::default() };
        let client = tls
            .apply(options)
            .name("solewriter-audit-reader")
            .custom_inbox_prefix(inbox_prefix(&self.service))
            .connect(&self.servers)
            .await
            .map_err(|error| ReadError::Connect(error.to_string()))?;
        let mut context = jetstream::new(client);
        context.set_timeout(PATIENCE);
        let stream = context.get_stream(&self.stream).await;
        stream.map_err(|error| ReadError::Stream(self.stream.clone(), error.to_string()))
    }

    /// Gives every message since a time, or all, to `each`, oldest first; then the ones to come, if
    /// `follow` says so: the subject, which says who published it, and the event. What is no JSON
    /// is given as `null`. Whether the event is that producer's is for [`super::origin`] to say.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(
        &self,
        since: Option<Timestamp>,
        follow: bool,
        mut each: impl FnMut(&str, &Value) -> Then,
    ) -> Result<(), ReadError> {
        let stream = self.open().await?;
        let broken = |error: &dyn std::fmt::Display| ReadError::Broken(error.to_string());
        let start_time = since.and_then(|at| parse_rfc3339(&at.to_string()).ok());
        let deliver_policy = start_time
            .map_or(DeliverPolicy::All, |start_time| DeliverPolicy::ByStartTime { start_time });
        let config = pull::OrderedConfig { deliver_policy, ..pull::OrderedConfig::default() };
        let consumer = stream.create_consumer(config).await.map_err(|error| broken(&error))?;
        let mut left = consumer.cached_info().num_pending;
        let mut messages = consumer.messages().await.map_err(|error| broken(&error))?;
        while follow || left > 0 {
            let Some(message) = messages.next().await else { break };
            let message = message.map_err(|error| broken(&error))?;
            left = message.info().map_err(|error| broken(&error))?.pending;
            let event = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
            if each(&message.subject, &event) == Then::Stop {
                break;
            }
        }
        Ok(())
    }
}
