//! The account's streams and consumers: asked for, created and updated through JetStream's API (ADR-1).

use std::time::Duration;

use async_nats::{Client, Request, RequestErrorKind};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::{Action, BucketPlan, Consumer, Consumers, Kind, Stream, consumer};
use solewriter_core::policy::model::Policy;

/// How long JetStream may take for one answer. Creating a stream with replicas takes seconds.
const PATIENCE: Duration = Duration::from_secs(15);

/// How soon it is asked again.
const AGAIN: Duration = Duration::from_millis(250);

/// JetStream's number for "not enabled for account".
const NOT_ENABLED: u64 = 10_039;

/// JetStream's number for "consumer name already in use".
const NAME_IN_USE: u64 = 10_013;

/// The most streams that are looked at.
const MOST_STREAMS: usize = 100_000;

/// The most consumers of a stream that are looked at.
const MOST_CONSUMERS: usize = 100_000;

/// Why streams cannot be seen or changed.
#[derive(Debug, thiserror::Error)]
pub enum StreamsError {
    /// JetStream is not enabled in the account, or not at all.
    #[error(
        "the account of this user has no JetStream: is it the admin of the account of the \
         buckets, and does that account have `jetstream: enabled`?"
    )]
    NoJetStream,
    /// No answer in time.
    #[error(
        "JetStream did not answer {subject} within {} s: may this user ask it? It must be the \
         admin of the account",
        PATIENCE.as_secs()
    )]
    Silent {
        /// What was asked.
        subject: String,
    },
    /// JetStream says no.
    #[error("JetStream refuses {subject}: {description} (code {code})")]
    Refused {
        /// What was asked.
        subject: String,
        /// Why not, in the server's words.
        description: String,
        /// Its number for that (`err_code`).
        code: u64,
    },
    /// The answer is none.
    #[error("JetStream's answer to {subject} cannot be read: {error}")]
    Malformed {
        /// What was asked.
        subject: String,
        /// What is wrong with the answer.
        error: serde_json::Error,
    },
    /// The request could not be sent.
    #[error("{subject}: {error}")]
    Request {
        /// What was asked.
        subject: String,
        /// Why not.
        error: String,
    },
    /// An update of where a push consumer delivers, while somebody listens there.
    #[error(
        "somebody listens to it, and nats-server changes where a push consumer delivers only while \
         nobody does: stop its clients, apply again, and start them"
    )]
    Heard,
    /// Too much to look at.
    #[error("the account has more than {MOST_STREAMS} streams")]
    TooMany,
    /// Too much to look at.
    #[error("the stream {0} has more than {MOST_CONSUMERS} consumers")]
    TooManyConsumers(String),
    /// Some servers of the cluster did not answer, so that not every consumer is known.
    #[error("JetStream could not tell of these consumers of the stream {0} now: {1}")]
    MissingConsumers(String, String),
    /// Some servers of the cluster did not answer, so that not every stream is known.
    #[error("JetStream could not describe these streams now: {0}")]
    Missing(String),
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
struct Page {
    total: usize,
    /// `null` when there is none.
    streams: Option<Vec<Stream>>,
    missing: Option<Vec<String>>,
}

async fn ask(client: &Client, subject: &str, body: &Value) -> Result<Vec<u8>, StreamsError> {
    let subject = || subject.to_owned();
    let request = Request::new().payload(body.to_string().into()).timeout(Some(PATIENCE));
    client.send_request(subject(), request).await.map(|answer| answer.payload.into()).map_err(
        |error| match error.kind() {
            RequestErrorKind::NoResponders => StreamsError::NoJetStream,
            RequestErrorKind::TimedOut => StreamsError::Silent { subject: subject() },
            _ => StreamsError::Request { subject: subject(), error: error.to_string() },
        },
    )
}

/// Asks, and reads the answer, whose error is ours.
async fn request<T: for<'de> Deserialize<'de>>(
    client: &Client,
    subject: &str,
    body: &Value,
) -> Result<T, StreamsError> {
    let answer = ask(client, subject, body).await?;
    let malformed = |error| StreamsError::Malformed { subject: subject.to_owned(), error };
    let value: Value = serde_json::from_slice(&answer).map_err(malformed)?;
    if let Some(error) = value.get("error") {
        let failure = Failure::deserialize(error).map_err(malformed)?;
        if failure.err_code == NOT_ENABLED {
            return Err(StreamsError::NoJetStream);
        }
        return Err(StreamsError::Refused {
            subject: subject.to_owned(),
            description: failure.description,
            code: failure.err_code,
        });
    }
    T::deserialize(value).map_err(malformed)
}

/// Every stream of the account that the client is in.
///
/// # Errors
/// [`StreamsError`]: a list that is not whole is none.
pub async fn all(client: &Client) -> Result<Vec<Stream>, StreamsError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match all_now(client).await {
            // One that moves, or elects its leader, is not described for a moment.
            Err(StreamsError::Missing(_)) if Instant::now() < until => sleep(AGAIN).await,
            outcome => return outcome,
        }
    }
}

async fn all_now(client: &Client) -> Result<Vec<Stream>, StreamsError> {
    let mut streams: Vec<Stream> = Vec::new();
    loop {
        let page: Page =
            request(client, "$JS.API.STREAM.LIST", &json!({"offset": streams.len()})).await?;
        if let Some(missing) = page.missing.filter(|missing| !missing.is_empty()) {
            return Err(StreamsError::Missing(missing.join(", ")));
        }
        let more = page.streams.unwrap_or_default();
        let ended = more.is_empty();
        streams.extend(more);
        if ended || streams.len() >= page.total {
            return Ok(streams);
        }
        if streams.len() > MOST_STREAMS {
            return Err(StreamsError::TooMany);
        }
    }
}

#[derive(Deserialize)]
struct ConsumerPage {
    total: usize,
    /// `null` when there is none.
    consumers: Option<Vec<Consumer>>,
    missing: Option<Vec<String>>,
}

/// The consumers of every declared stream that is there.
///
/// # Errors
/// [`StreamsError`]: a list that is not whole is none.
pub async fn consumers(
    client: &Client,
    policy: &Policy,
    streams: &[Stream],
) -> Result<Vec<Consumers>, StreamsError> {
    let mut all = Vec::new();
    for stream in streams.iter().map(Stream::name).filter(|name| policy.stream(name).is_some()) {
        let consumers = consumers_of(client, stream).await?;
        all.push(Consumers { stream: stream.to_owned(), consumers });
    }
    Ok(all)
}

async fn consumers_of(client: &Client, stream: &str) -> Result<Vec<Consumer>, StreamsError> {
    let subject = format!("$JS.API.CONSUMER.LIST.{stream}");
    let mut consumers: Vec<Consumer> = Vec::new();
    loop {
        let page: ConsumerPage =
            request(client, &subject, &json!({"offset": consumers.len()})).await?;
        if let Some(missing) = page.missing.filter(|missing| !missing.is_empty()) {
            return Err(StreamsError::MissingConsumers(stream.to_owned(), missing.join(", ")));
        }
        let more = page.consumers.unwrap_or_default();
        let ended = more.is_empty();
        consumers.extend(more);
        if ended || consumers.len() >= page.total {
            return Ok(consumers);
        }
        if consumers.len() > MOST_CONSUMERS {
            return Err(StreamsError::TooManyConsumers(stream.to_owned()));
        }
    }
}

/// Something declared that was created or updated, or could not be.
#[derive(Debug)]
pub struct Done {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub bucket: String,
    /// Its stream.
    pub stream: String,
    /// What was to be done.
    pub action: Action,
    /// What came of it.
    pub outcome: Result<(), StreamsError>,
}

/// Does what a plan says, one after the other, each in the account of `client`; one that fails does
/// not keep the others from it.
///
/// Whoever calls this has asked whether data may be lost.
pub async fn apply<'a>(
    client: &Client,
    plans: impl IntoIterator<Item = &'a BucketPlan>,
) -> Vec<Done> {
    let mut all = Vec::new();
    for bucket in plans.into_iter().filter(|bucket| bucket.has_work()) {
        let is_new = bucket.action == Action::Create;
        let (subject, body) = match bucket.kind {
            // "create" is refused where somebody else was quicker.
            Kind::Consumer => (
                format!("$JS.API.CONSUMER.CREATE.{}.{}", bucket.stream, bucket.bucket),
                json!({
                    "stream_name": bucket.stream,
                    "config": consumer::with_secret(&bucket.config),
                    "action": if is_new { "create" } else { "update" },
                }),
            ),
            Kind::Bucket | Kind::Stream | Kind::Store => (
                format!(
                    "$JS.API.STREAM.{}.{}",
                    if is_new { "CREATE" } else { "UPDATE" },
                    bucket.stream
                ),
                Value::Object(bucket.config.clone()),
            ),
        };
        let outcome = request::<Map<String, Value>>(client, &subject, &body).await;
        let outcome = match outcome {
            Err(StreamsError::Refused { code: NAME_IN_USE, .. })
                if !is_new && consumer::moves(&bucket.changes) =>
            {
                Err(StreamsError::Heard)
            }
            other => other.map(|_| ()),
        };
        all.push(Done {
            kind: bucket.kind,
            bucket: bucket.bucket.clone(),
            stream: bucket.stream.clone(),
            action: bucket.action,
            outcome,
        });
    }
    all
}
