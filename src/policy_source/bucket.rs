//! The policy in a NATS KV bucket: a log of revisions, and the documents that they are made of.
//!
//! Every key is written once, and the server sees to it (one message a subject, discard new):
//!
//! - `doc.<SHA-256>`: a piece of a document, named by its content;
//! - `revision.<N>`: one push. It names all documents of the whole policy by their hashes, who
//!   pushed it, when and why.
//!
//! A push writes the pieces first and `revision.<N+1>` last, on condition that there is none. That
//! one write is the push: before it nobody sees anything of it, after it everybody finds all of
//! it, and of two people only one can make it. Nothing is ever changed or removed, so the log is
//! whole and a reader cannot find half of anything.
//!
//! - `emergency.<N>`: a document that a person signed ([`emergencies`]).
//!
//! [`entry`] is what is written; [`read`] gives the newest; [`mod@write`] pushes; [`chain`] finds the
//! revision that counts where authors sign.

pub mod chain;
pub mod emergencies;
pub mod entry;
pub mod read;
pub mod write;

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, LastRawMessageErrorKind, StorageType, Stream,
};
use async_nats::jetstream::{Context, ErrorCode};
use aws_lc_rs::digest;
use bytes::Bytes;

use self::entry::{Document, Entry, EntryError};
use solewriter_core::diagnostics::SourceFile;
use solewriter_types::keyspace::BucketName;

/// How long one question to JetStream may take.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How many pieces are asked for or written at a time.
const AT_A_TIME: usize = 16;

/// What JetStream's API of the policy's account is called in those that import it.
const IMPORTED_API: &str = "$JS.POLICY.API";

/// The policy's bucket.
#[derive(Clone)]
pub struct Bucket {
    context: Context,
    client: Client,
    name: BucketName,
}

/// What keeps a bucket from being read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There is none of that name.
    #[error("there is no such bucket")]
    Missing,
    /// It has no such key.
    #[error("it has no {0}")]
    NoKey(String),
    /// Nothing in it counts: see [`chain`].
    #[error("no revision counts: no author signed one")]
    NoneCounts,
    /// It does not answer.
    #[error("JetStream does not answer: {0}")]
    Unreachable(String),
    /// What it holds is not what was pushed.
    #[error(transparent)]
    Bad(#[from] EntryError),
}

/// The files among the documents of a revision.
fn files_of(documents: &[(Document, SourceFile)]) -> Vec<SourceFile> {
    documents.iter().map(|(_, file)| file.clone()).collect()
}

impl Bucket {
    /// Names a bucket, in the account from which that of the connection imports it; nothing is
    /// asked yet.
    #[must_use]
    pub fn new(client: Client, name: BucketName) -> Self {
        let context = ContextBuilder::new().timeout(ANSWER_WITHIN).api_prefix(IMPORTED_API);
        Self { context: context.build(client.clone()), client, name }
    }

    /// Names a bucket in the connection's own account, where it was before it had one.
    #[must_use]
    pub fn in_own_account(client: Client, name: BucketName) -> Self {
        let context = ContextBuilder::new().timeout(ANSWER_WITHIN).build(client.clone());
        Self { context, client, name }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &BucketName {
        &self.name
    }

    /// The connection.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn stream(&self) -> String {
        format!("KV_{}", self.name)
    }

    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.name)
    }

    /// Where each push is heard of as it happens, perhaps a moment before it is stored, and also
    /// when it is refused.
    #[must_use]
    pub fn news(&self) -> String {
        self.subject("revision.*")
    }

    /// The newest revision; `None` when nothing was pushed yet. Asks the stream's leader, who has
    /// what was confirmed to whoever pushed it.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn head(&self) -> Result<Option<Entry>, ReadError> {
        match self.last(&self.subject("revision.*")).await? {
            Some((subject, payload)) => {
                let prefix = self.subject("revision.");
                let key = subject.strip_prefix(&prefix).unwrap_or_default();
                Ok(Some(Entry::read(key, &payload)?))
            }
            None => Ok(None),
        }
    }

    /// The revision of that number; `None` when there is none.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn revision(&self, number: u64) -> Result<Option<Entry>, ReadError> {
        let key = number.to_string();
        let found = self.last(&self.subject(&format!("revision.{key}"))).await?;
        Ok(found.map(|(_, payload)| Entry::read(&key, &payload)).transpose()?)
    }

    /// When a revision was stored, in seconds since the Unix epoch by the server's clock; `None` when
    /// there is none of that number.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn stored(&self, number: u64) -> Result<Option<i64>, ReadError> {
        let stream = self.handle().await?;
        let subject = self.subject(&format!("revision.{number}"));
        match stream.raw_message_builder().last_by_subject(subject.as_str()).send().await {
            Ok(message) => Ok(Some(message.time.unix_timestamp())),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(self.diagnose(&error).await),
        }
    }

    /// The stream, without asking for it.
    async fn handle(&self) -> Result<Stream<()>, ReadError> {
        let stream = self.context.get_stream_no_info(self.stream()).await;
        stream.map_err(|error| ReadError::Unreachable(error.to_string()))
    }

    /// The last message of a subject, from the stream's leader.
    async fn last(&self, subject: &str) -> Result<Option<(String, Bytes)>, ReadError> {
        let stream = self.handle().await?;
        match stream.raw_message_builder().last_by_subject(subject).send().await {
            Ok(message) => Ok(Some((message.subject.to_string(), message.payload))),
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(None),
                LastRawMessageErrorKind::JetStream(e)
                    if e.error_code() == ErrorCode::NO_MESSAGE_FOUND =>
                {
                    Ok(None)
                }
                LastRawMessageErrorKind::JetStream(e)
                    if e.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    Err(ReadError::Missing)
                }
                _ => Err(self.diagnose(&error).await),
            },
        }
    }

    /// Whether it is the bucket that is missing, or JetStream that does not answer: in a cluster,
    /// nobody answers a read from a stream that does not exist.
    async fn diagnose(&self, error: &(dyn std::fmt::Display + Send + Sync)) -> ReadError {
        use async_nats::jetstream::context::GetStreamErrorKind;
        match self.context.get_stream(self.stream()).await {
            Err(info) => match info.kind() {
                GetStreamErrorKind::JetStream(e)
                    if e.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    ReadError::Missing
                }
                _ => ReadError::Unreachable(error.to_string()),
            },
            Ok(_) => ReadError::Unreachable(error.to_string()),
        }
    }

    /// What the stream must be like: nothing in it is ever replaced or removed.
    fn config(&self, replicas: usize) -> Config {
        Config {
            name: self.stream(),
            description: Some("solewriter: the policy, and every revision of it".to_owned()),
            subjects: vec![self.subject(">")],
            storage: StorageType::File,
            num_replicas: replicas,
            // One message a subject, and a second one is refused: each key is written once.
            max_messages_per_subject: 1,
            discard: DiscardPolicy::New,
            discard_new_per_subject: true,
            deny_delete: true,
            deny_purge: true,
            allow_rollup: false,
            allow_direct: true,
            duplicate_window: Duration::from_millis(100),
            ..Config::default()
        }
    }

    /// What about the bucket, as it is, would let somebody change or lose what was pushed.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn weaknesses(&self) -> Result<Vec<&'static str>, ReadError> {
        let info = match self.context.get_stream(self.stream()).await {
            Ok(stream) => stream.cached_info().config.clone(),
            Err(error) => return Err(self.diagnose(&error).await),
        };
        let each = [
            (info.max_messages_per_subject == 1, "it keeps more than one message for a key"),
            (info.discard_new_per_subject, "a key can be overwritten (discard_new_per_subject)"),
            (info.deny_delete, "messages can be deleted (deny_delete)"),
            (info.deny_purge, "it can be purged (deny_purge)"),
            (!info.allow_rollup, "a message may erase others (allow_rollup_hdrs)"),
            (info.max_age.is_zero(), "messages expire (max_age)"),
            (info.storage == StorageType::File, "it is kept in memory"),
        ];
        Ok(each.into_iter().filter(|(fine, _)| !fine).map(|(_, what)| what).collect())
    }
}

/// The hash by which a piece is named.
fn hash(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref())
}
