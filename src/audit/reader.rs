//! The audit streams, read: events one after another, without acknowledgements; those of several
//! streams as if they were one, in the order in which the streams took them.

use std::time::Duration;

use async_nats::ServerAddr;
use async_nats::datetime::parse_rfc3339;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::{self, Message, stream::Stream};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::timeout;

use crate::nats::{Login, Tls, connect};
use solewriter_core::grant::inbox_prefix;

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long somebody waits who gave no end: a hundred years.
const FOR_EVER: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Who reads, and where.
pub struct Reader {
    /// nats-server addresses.
    pub servers: Vec<ServerAddr>,
    /// The login of a service that `audits` the streams, or of their admin.
    pub login: Login,
    /// The service's name, for its inbox.
    pub service: String,
    /// TLS.
    pub tls: Tls,
    /// The streams.
    pub streams: Vec<String>,
    /// What requests to their JetStream begin with: for their admin, `$JS.API`.
    pub api: String,
}

/// Why nothing can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nobody there, or nobody who lets us in.
    #[error("cannot connect to nats-server: {0}")]
    Connect(String),
    /// No such stream, or not for us.
    #[error(
        "the stream {0} does not answer: was it created (`solewriter buckets apply`)? If you \
         read as a service, does the policy have `audits = [\"{0}\"]` for it? {1}"
    )]
    Stream(String, String),
    /// It stopped in between.
    #[error("reading ended early: {0}")]
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

/// One of the streams, with the message that is read and not given yet.
struct Source {
    messages: pull::Ordered,
    /// How many it has behind the one that was read last.
    left: u64,
    next: Option<Message>,
}

impl Source {
    async fn open(stream: &Stream, since: Option<Timestamp>) -> Result<Self, ReadError> {
        let start_time = since.and_then(|at| parse_rfc3339(&at.to_string()).ok());
        let deliver_policy = start_time
            .map_or(DeliverPolicy::All, |start_time| DeliverPolicy::ByStartTime { start_time });
        let config = pull::OrderedConfig { deliver_policy, ..pull::OrderedConfig::default() };
        let consumer = stream.create_consumer(config).await.map_err(|error| broken(&error))?;
        let left = consumer.cached_info().num_pending;
        let messages = consumer.messages().await.map_err(|error| broken(&error))?;
        Ok(Self { messages, left, next: None })
    }

    /// Waits for the next message. Can be given up without loss.
    async fn fetch(&mut self) -> Result<(), ReadError> {
        let ended = || ReadError::Broken("the stream ended".to_owned());
        let message = self.messages.next().await.ok_or_else(ended)?;
        let message = message.map_err(|error| broken(&error))?;
        self.left = message.info().map_err(|error| broken(&error))?.pending;
        self.next = Some(message);
        Ok(())
    }

    /// When the stream took the message that is next.
    fn time(&self) -> Option<i128> {
        let info = self.next.as_ref()?.info().ok()?;
        Some(info.published.unix_timestamp_nanos())
    }
}

fn broken(error: &dyn std::fmt::Display) -> ReadError {
    ReadError::Broken(error.to_string())
}

impl Reader {
    async fn open(&self, since: Option<Timestamp>) -> Result<Vec<Source>, ReadError> {
        let options = connect::options(&self.login, &self.tls, "solewriter-audit-reader");
        let client = options
            .map_err(|error| ReadError::Connect(error.to_string()))?
            .custom_inbox_prefix(inbox_prefix(&self.service))
            .connect(&self.servers)
            .await
            .map_err(|error| ReadError::Connect(error.to_string()))?;
        let mut context = jetstream::with_prefix(client, &self.api);
        context.set_timeout(PATIENCE);
        let mut sources = Vec::new();
        for name in &self.streams {
            let stream = context.get_stream(name).await;
            let stream =
                stream.map_err(|error| ReadError::Stream(name.clone(), error.to_string()))?;
            sources.push(Source::open(&stream, since).await?);
        }
        Ok(sources)
    }

    /// Gives every message since a time, or all, to `each`, oldest first; then the ones to come, if
    /// `follow` says so; of all these, those that the stream took until a time, if one is given: the
    /// subject, which says who published it, and the event. What is no JSON
    /// is given as `null`. Whether the event is that producer's is for [`super::origin`] to say.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(
        &self,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        follow: bool,
        each: impl FnMut(&str, &Value) -> Then,
    ) -> Result<(), ReadError> {
        self.read_and_tell((since, until), follow, each, || ()).await
    }

    /// The same. Calls `caught_up` once, when everything that the streams had was given.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_and_tell(
        &self,
        (since, until): (Option<Timestamp>, Option<Timestamp>),
        follow: bool,
        mut each: impl FnMut(&str, &Value) -> Then,
        caught_up: impl FnOnce(),
    ) -> Result<(), ReadError> {
        let mut caught_up = Some(caught_up);
        let mut sources = self.open(since).await?;
        let end = until.map(Timestamp::as_nanosecond);
        loop {
            // What they have already is put in order; what comes then comes as it comes.
            for source in sources.iter_mut().filter(|s| s.next.is_none() && s.left > 0) {
                source.fetch().await?;
            }
            if sources.iter().all(|source| source.next.is_none()) {
                caught_up.take().into_iter().for_each(|tell| tell());
                if !follow {
                    return Ok(());
                }
                let coming = sources.iter_mut().map(|source| Box::pin(source.fetch()));
                let coming = futures_util::future::select_all(coming);
                let left = until.map_or(FOR_EVER, |until| {
                    Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default()
                });
                match timeout(left, coming).await {
                    Ok((fetched, ..)) => fetched?,
                    Err(_) => return Ok(()),
                }
            }
            let first = sources.iter_mut().filter(|s| s.next.is_some()).min_by_key(|s| s.time());
            if let (Some(end), Some(time)) = (end, first.as_ref().and_then(|s| s.time()))
                && time > end
            {
                caught_up.take().into_iter().for_each(|tell| tell());
                return Ok(());
            }
            let Some(message) = first.and_then(|source| source.next.take()) else { continue };
            let event = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
            if each(&message.subject, &event) == Then::Stop {
                return Ok(());
            }
        }
    }
}
