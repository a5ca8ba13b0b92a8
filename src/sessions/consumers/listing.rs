//! What JetStream lists of consumers, and how it deletes one: through the imports of the callout's
//! account (`deploy/nats-server.conf`), or as an admin in the account itself.
//!
//! Nothing that the server says is believed: not how many there are, not how long a page is. Pages,
//! bytes and time are bounded. An offset below zero is never asked for: nats-server 2.10.25 dies
//! of it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::{Client, RequestErrorKind};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::verdict::{Consumer, Place};

/// How long the server may take to answer: in a cluster, it waits 4 s for those that have the
/// consumers.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);
/// How many consumers a full page has, and how many names of streams.
const PAGE: usize = 256;
const NAMES: usize = 1024;
/// How many pages of each are read, at most.
const MAX_PAGES: usize = 64;
const MAX_NAME_PAGES: usize = 32;
/// How many bytes are read of one stream's consumers.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Beyond the end of any list: its answer is empty, and says how many there are.
const BEYOND: usize = 1 << 40;
/// How many of the last consumers are asked for when a page does not come: it may be larger than
/// the server lets wait for a connection, which it closes then.
const TAILS: [usize; 4] = [1, 8, 32, 128];
/// How long that may take.
const TAIL_WITHIN: Duration = Duration::from_secs(8);
/// How often to see whether the connection was lost on which an answer is awaited.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why JetStream did not help.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nobody listens there: the import is missing, or JetStream is away.
    #[error("{0}: nobody answers")]
    Nobody(String),
    /// No answer in time: the user may not ask, or the server is busy.
    #[error("{0}: no answer within {seconds} s", seconds = ANSWER_WITHIN.as_secs())]
    Silent(String),
    /// The connection was lost meanwhile: the answer may have been too large for it, or that of
    /// another question.
    #[error("{0}: the connection was lost before the answer came")]
    Lost(String),
    /// No connection.
    #[error("{subject}: {error}")]
    Request {
        /// What was asked.
        subject: String,
        /// What came of it.
        error: String,
    },
    /// An answer that is not understood.
    #[error("{subject}: the answer cannot be parsed: {error}")]
    Answer {
        /// What was asked.
        subject: String,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// The server says no.
    #[error("{subject}: {description}")]
    Refused {
        /// What was asked.
        subject: String,
        /// The server's number for it.
        code: u64,
        /// Why not.
        description: String,
    },
    /// A name that no subject can hold.
    #[error("a consumer's name that cannot be part of a subject")]
    Name,
}

impl ApiError {
    /// Whether it looks as if the user were not allowed to ask, or the imports were missing.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Nobody(_) | Self::Silent(_))
    }

    fn is(&self, expected: ErrorCode) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == expected.0)
    }
}

/// What became of a consumer that was to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// The server deleted it.
    Deleted,
    /// It was gone already.
    Gone,
}

/// How much of a list was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// All of it.
    All,
    /// Not all: there is too much, or the server did not tell it.
    Part,
    /// There is no such stream.
    NoStream,
}

/// The JetStream API of one account.
#[derive(Clone, Debug)]
pub struct Jetstream {
    client: Client,
    prefix: &'static str,
}

#[derive(Deserialize)]
struct Answer<T> {
    error: Option<Refusal>,
    #[serde(flatten)]
    data: T,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
struct Names {
    #[serde(default)]
    streams: Option<Vec<String>>,
}

/// Read as it is, without the detour that a flattened field would take.
#[derive(Deserialize)]
struct Page<'a> {
    error: Option<Refusal>,
    #[serde(default)]
    total: u64,
    #[serde(default, borrow)]
    consumers: Option<Vec<&'a RawValue>>,
    /// Those that a cluster could not tell of.
    #[serde(default)]
    missing: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Info {
    name: String,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    config: Config,
    #[serde(default)]
    push_bound: bool,
}

#[derive(Default, Deserialize)]
struct Config {
    #[serde(default)]
    durable_name: Option<String>,
    #[serde(default)]
    deliver_subject: Option<String>,
    #[serde(default)]
    filter_subject: Option<String>,
    #[serde(default)]
    filter_subjects: Option<Vec<String>>,
}

impl Consumer {
    /// Reads what the server lists; `None` when it is not understood.
    fn read(raw: &RawValue) -> Option<Self> {
        let Info { name, created, config, push_bound } = serde_json::from_str(raw.get()).ok()?;
        let filters = config.filter_subject.into_iter();
        let filters = filters.chain(config.filter_subjects.into_iter().flatten());
        let created = created.and_then(|text| text.parse::<Timestamp>().ok());
        Some(Self {
            name,
            created: created.map(Timestamp::as_second),
            deliver: config.deliver_subject.filter(|deliver| !deliver.is_empty()),
            filters: filters.filter(|filter| !filter.is_empty()).collect(),
            bound: push_bound,
            durable: config.durable_name.is_some_and(|name| !name.is_empty()),
            bytes: raw.get().len(),
        })
    }
}

/// What came of asking for a page.
struct Read {
    consumers: usize,
    bytes: usize,
    total: usize,
    whole: bool,
}

impl Jetstream {
    /// Of the state account, for the callout's user.
    #[must_use]
    pub fn state(client: Client) -> Self {
        Self { client, prefix: "$JS.STATE.API" }
    }

    /// Of the audit account, for the callout's user.
    #[must_use]
    pub fn audit(client: Client) -> Self {
        Self { client, prefix: "$JS.AUDIT.API" }
    }

    /// Of the account that the client is in.
    #[must_use]
    pub fn own(client: Client) -> Self {
        Self { client, prefix: "$JS.API" }
    }

    /// The streams whose consumers services may have made, and whether that is all of them.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn streams(&self) -> Result<(Vec<String>, bool), ApiError> {
        let mut found = Vec::new();
        let mut offset = 0;
        for _ in 0..MAX_NAME_PAGES {
            let subject = format!("{}.STREAM.NAMES", self.prefix);
            let Names { streams } = self.ask(subject, &json!({"offset": offset})).await?;
            let names = streams.unwrap_or_default();
            let count = names.len();
            let ours = |name: &String| Place::of(name).is_some() && fits(name);
            found.extend(names.into_iter().filter(ours));
            if count < NAMES {
                found.sort_unstable();
                found.dedup();
                return Ok((found, true));
            }
            offset += count;
        }
        Ok((found, false))
    }

    /// Gives the consumers of a stream to `each`, until `deadline`. Some may be given twice, and
    /// one may be missed while others end.
    ///
    /// # Errors
    /// [`ApiError`] when nothing was told at all.
    pub async fn consumers(
        &self,
        stream: &str,
        deadline: Instant,
        mut each: impl FnMut(Consumer),
    ) -> Result<Listed, ApiError> {
        let (mut offset, mut bytes, mut whole, mut lost) = (0, 0, true, false);
        for _ in 0..MAX_PAGES {
            let read = match self.page(stream, offset, deadline, &mut each).await {
                Ok(read) => read,
                // Whose answer it was, the second time tells.
                Err(ApiError::Lost(_)) if !lost => {
                    lost = true;
                    continue;
                }
                Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => return Ok(Listed::NoStream),
                Err(error @ (ApiError::Refused { .. } | ApiError::Nobody(_))) => return Err(error),
                Err(error) => return self.tail(stream, each).await.map_err(|_| error),
            };
            whole &= read.whole;
            offset += read.consumers;
            bytes += read.bytes;
            if read.consumers < PAGE {
                return Ok(if whole { Listed::All } else { Listed::Part });
            }
            if bytes > MAX_BYTES {
                break;
            }
        }
        Ok(Listed::Part)
    }

    /// As much as can be had from the end of a list of which a page does not come. What is too
    /// large there is deleted for it, and so more is told the next time.
    async fn tail(&self, stream: &str, mut each: impl FnMut(Consumer)) -> Result<Listed, ApiError> {
        let deadline = Instant::now() + TAIL_WITHIN;
        let total = self.page(stream, BEYOND, deadline, &mut each).await?.total;
        let mut told = false;
        for last in TAILS {
            let offset = total.saturating_sub(last);
            match self.page(stream, offset, deadline, &mut each).await {
                Ok(_) => told = true,
                Err(_) if told => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Listed::Part)
    }

    async fn page(
        &self,
        stream: &str,
        offset: usize,
        deadline: Instant,
        each: &mut impl FnMut(Consumer),
    ) -> Result<Read, ApiError> {
        let subject = format!("{}.CONSUMER.LIST.{stream}", self.prefix);
        let question = json!({"offset": offset});
        let request = self.request(&subject, &question);
        let Ok(answer) = timeout_at(deadline, request).await else {
            return Err(ApiError::Silent(subject));
        };
        let payload = answer?;
        let wrong = |error| ApiError::Answer { subject: subject.clone(), error };
        let page: Page<'_> = serde_json::from_slice(&payload).map_err(wrong)?;
        if let Some(Refusal { err_code: code, description }) = page.error {
            return Err(ApiError::Refused { subject, code, description });
        }
        let consumers = page.consumers.unwrap_or_default();
        // One that is not understood can be nothing of a client that means well.
        let understood = consumers.iter().filter_map(|raw| Consumer::read(raw));
        let mut count = 0;
        understood.for_each(|consumer| {
            count += 1;
            each(consumer);
        });
        Ok(Read {
            consumers: consumers.len(),
            bytes: payload.len(),
            total: usize::try_from(page.total).unwrap_or(usize::MAX).min(BEYOND),
            whole: count == consumers.len() && page.missing.unwrap_or_default().is_empty(),
        })
    }

    /// Deletes a consumer.
    ///
    /// # Errors
    /// [`ApiError`] when it is not known to be gone.
    pub async fn delete(&self, stream: &str, consumer: &str) -> Result<Deleted, ApiError> {
        if !fits(consumer) {
            return Err(ApiError::Name);
        }
        let subject = format!("{}.CONSUMER.DELETE.{stream}.{consumer}", self.prefix);
        match self.ask::<serde_json::Value>(subject, &serde_json::Value::Null).await {
            Ok(_) => Ok(Deleted::Deleted),
            Err(error)
                if error.is(ErrorCode::CONSUMER_NOT_FOUND)
                    || error.is(ErrorCode::STREAM_NOT_FOUND) =>
            {
                Ok(Deleted::Gone)
            }
            Err(error) => Err(error),
        }
    }

    /// Has another server lead a consumer. A server without a cluster has none.
    ///
    /// # Errors
    /// [`ApiError`] when it is not known to be done.
    pub async fn step_down(&self, stream: &str, consumer: &str) -> Result<(), ApiError> {
        if !fits(consumer) {
            return Err(ApiError::Name);
        }
        let subject = format!("{}.CONSUMER.LEADER.STEPDOWN.{stream}.{consumer}", self.prefix);
        match self.ask::<serde_json::Value>(subject, &serde_json::Value::Null).await {
            Ok(_) => Ok(()),
            Err(error)
                if error.is(ErrorCode::CLUSTER_REQUIRED)
                    || error.is(ErrorCode::CONSUMER_NOT_FOUND)
                    || error.is(ErrorCode::STREAM_NOT_FOUND) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        subject: String,
        question: &serde_json::Value,
    ) -> Result<T, ApiError> {
        let payload = self.request(&subject, question).await?;
        match serde_json::from_slice::<Answer<T>>(&payload) {
            Ok(Answer { error: Some(Refusal { err_code: code, description }), .. }) => {
                Err(ApiError::Refused { subject, code, description })
            }
            Ok(Answer { data, .. }) => Ok(data),
            Err(error) => Err(ApiError::Answer { subject, error }),
        }
    }

    async fn request(
        &self,
        subject: &str,
        question: &serde_json::Value,
    ) -> Result<bytes::Bytes, ApiError> {
        let payload = if question.is_null() { String::new() } else { question.to_string() };
        let request = self.client.request(subject.to_owned(), payload.into());
        let connects = || self.client.statistics().connects.load(Ordering::Relaxed);
        let before = connects();
        let lost = async {
            while connects() == before {
                sleep(LOOK_AGAIN).await;
            }
        };
        let answer = tokio::select! {
            biased;
            answer = timeout(ANSWER_WITHIN, request) => answer,
            () = lost => return Err(ApiError::Lost(subject.to_owned())),
        };
        match answer {
            Ok(Ok(answer)) => Ok(answer.payload),
            Ok(Err(error)) => Err(match error.kind() {
                RequestErrorKind::NoResponders => ApiError::Nobody(subject.to_owned()),
                RequestErrorKind::TimedOut => ApiError::Silent(subject.to_owned()),
                _ => ApiError::Request { subject: subject.to_owned(), error: error.to_string() },
            }),
            Err(_) => Err(ApiError::Silent(subject.to_owned())),
        }
    }
}

/// Whether a name can be one token of a subject.
fn fits(name: &str) -> bool {
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>');
    !name.is_empty() && name.len() <= 255 && !name.contains(bad)
}
