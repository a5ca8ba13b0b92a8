//! Pushing to the policy's bucket: the pieces, then the one write that is the push.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::time::{Instant, sleep};

use super::entry::{self, Blob, Entry, MAX_PIECE, Words};
use super::{AT_A_TIME, Bucket, ReadError};
use crate::policy_source::directory::MAX_FILES;
use solewriter_core::authors::{Follows, Push};
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::keys::{Signer, User};
use solewriter_core::policy::validate;

/// How long a push goes on through lost answers and elections.
const PUSH_WITHIN: Duration = Duration::from_secs(30);

/// The pause between two attempts.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// On how many servers the bucket is kept, where there are as many.
const REPLICAS: usize = 3;

/// Why nothing was pushed, or nobody knows.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PushError {
    /// Somebody else was first.
    #[error(
        "somebody else has pushed revision {} ({}: {:?}) meanwhile; look at it, then push again",
        .0.number, .0.author, .0.message
    )]
    Raced(Box<Entry>),
    /// The files are none that a bucket can hold.
    #[error("{0}")]
    Unpushable(String),
    /// The bucket could not be made.
    #[error("the bucket cannot be created: {0}")]
    Create(String),
    /// Nothing was pushed.
    #[error("nothing was pushed: {0}")]
    Failed(String),
    /// The write that decides was sent, and nobody knows whether it was stored.
    #[error(
        "it is unknown whether revision {0} was pushed: {1}; `solewriter policy log` shows it as \
         soon as JetStream answers"
    )]
    Unknown(u64, String),
}

/// How a push is signed.
pub struct Signing<'s> {
    /// The author's key.
    pub signer: &'s Signer<User>,
    /// What this fleet is called.
    pub fleet: &'s str,
    /// The newest revision that counts.
    pub follows: Option<Follows>,
}

impl Bucket {
    /// Makes the bucket. Without `replicas`, it is kept on three servers of a cluster, and on one
    /// where there is one. Gives on how many.
    ///
    /// # Errors
    /// [`PushError::Create`].
    pub async fn create(&self, replicas: Option<usize>) -> Result<usize, PushError> {
        let wanted = replicas.unwrap_or(REPLICAS);
        let deadline = Instant::now() + PUSH_WITHIN;
        loop {
            let Err(error) = self.context.create_stream(self.config(wanted)).await else {
                return Ok(wanted);
            };
            match error.kind() {
                CreateStreamErrorKind::JetStream(e)
                    if e.error_code() == ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED
                        && replicas.is_none() =>
                {
                    let single = self.context.create_stream(self.config(1)).await;
                    return single.map(|_| 1).map_err(|e| PushError::Create(e.to_string()));
                }
                // Made by somebody else in this very moment, with another number of replicas.
                CreateStreamErrorKind::JetStream(e)
                    if e.error_code() == ErrorCode::STREAM_NAME_EXIST =>
                {
                    return Ok(wanted);
                }
                CreateStreamErrorKind::JetStream(_) => {
                    return Err(PushError::Create(format!(
                        "{error}; the bucket needs {wanted} servers, unless --replicas says \
                         otherwise"
                    )));
                }
                _ if Instant::now() < deadline => sleep(PAUSE).await,
                _ => return Err(PushError::Create(error.to_string())),
            }
        }
    }

    /// Pushes a whole policy as the revision after `head`. It must have been validated. `random`
    /// tells this push from any other.
    ///
    /// # Errors
    /// [`PushError`].
    pub async fn push(
        &self,
        head: Option<&Entry>,
        files: &[SourceFile],
        words: Words,
        random: [u8; 16],
    ) -> Result<Entry, PushError> {
        self.push_signed(head, files, (words, random), None).await
    }

    /// The same, signed.
    ///
    /// # Errors
    /// [`PushError`].
    pub async fn push_signed(
        &self,
        head: Option<&Entry>,
        files: &[SourceFile],
        (words, random): (Words, [u8; 16]),
        signing: Option<Signing<'_>>,
    ) -> Result<Entry, PushError> {
        if let Some(name) = entry::unpushable(files) {
            return Err(PushError::Unpushable(format!(
                "{name:?} cannot be the name of a bucket: rename it"
            )));
        }
        if files.len() > MAX_FILES {
            return Err(PushError::Unpushable(format!("more than {MAX_FILES} files")));
        }
        let at_most = MAX_PIECE.min(self.client.max_payload() / 2);
        let (list, mut pieces) = entry::list(files, at_most);
        let (blob, of_list) = Blob::cut(&list, at_most);
        pieces.extend(of_list);
        let deadline = Instant::now() + PUSH_WITHIN;
        self.write_pieces(head, pieces, deadline).await?;

        let policy = validate::revision(files);
        let bytes = files.iter().map(|file| file.text().len() as u64).sum();
        let size = (files.len(), bytes);
        let mut entry = Entry::new(head, random, policy.whole(), blob, size, words);
        if let Some(Signing { signer, fleet, follows }) = signing {
            let push = Push { follows, ..entry.to_sign(&self.name) };
            let signature = push.sign(fleet, entry.time, signer);
            let signature = signature.map_err(|error| PushError::Failed(error.to_string()))?;
            entry.signature = Some(signature);
        }
        self.decide(entry, Instant::now() + PUSH_WITHIN).await
    }

    /// Writes each piece once; what is there already is there.
    async fn write_pieces(
        &self,
        head: Option<&Entry>,
        pieces: Vec<(String, &[u8])>,
        deadline: Instant,
    ) -> Result<(), PushError> {
        let there = self.pieces_of(head).await;
        let missing: HashMap<String, &[u8]> =
            pieces.into_iter().filter(|(name, _)| !there.contains(name)).collect();
        let writes: Vec<_> = missing
            .into_iter()
            .map(|(name, piece)| {
                self.write_piece(name, Bytes::copy_from_slice(piece), deadline).boxed()
            })
            .collect();
        stream::iter(writes).buffer_unordered(AT_A_TIME).try_collect().await
    }

    async fn write_piece(
        &self,
        name: String,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<(), PushError> {
        let subject = self.subject(&format!("doc.{name}"));
        loop {
            let Err(why) = self.write(&subject, payload.clone()).await else { return Ok(()) };
            // Refused because it is there, or the answer was lost: then it is there.
            match self.last(&subject).await {
                Ok(Some((_, stored))) if stored == payload => return Ok(()),
                Ok(Some(_)) => {
                    return Err(PushError::Failed(format!("doc.{name} holds something else")));
                }
                Ok(None) | Err(_) if Instant::now() < deadline => sleep(PAUSE).await,
                Ok(None) | Err(_) => return Err(PushError::Failed(why)),
            }
        }
    }

    /// The pieces that the newest revision has, so that they need not be written again. Not
    /// knowing them costs time only.
    async fn pieces_of(&self, head: Option<&Entry>) -> HashSet<String> {
        let Some(head) = head else { return HashSet::new() };
        let Ok(documents) = self.list(head).await else { return HashSet::new() };
        documents.into_iter().flat_map(|document| document.text.pieces).collect()
    }

    /// The one write that is the push. An answer that was lost, with the server that led or
    /// otherwise, is no answer: whose revision it is decides what was stored.
    async fn decide(&self, entry: Entry, deadline: Instant) -> Result<Entry, PushError> {
        let number = entry.number;
        let subject = self.subject(&format!("revision.{number}"));
        let payload = Bytes::from(entry.to_bytes());
        loop {
            let Err(why) = self.write(&subject, payload.clone()).await else { return Ok(entry) };
            match self.revision(number).await {
                Ok(Some(stored)) if stored.push == entry.push => return Ok(entry),
                Ok(Some(theirs)) => return Err(PushError::Raced(Box::new(theirs))),
                Err(ReadError::Bad(error)) => return Err(PushError::Failed(error.to_string())),
                Err(ReadError::Missing) => {
                    return Err(PushError::Failed("the bucket is gone".to_owned()));
                }
                Ok(None) | Err(_) if Instant::now() < deadline => sleep(PAUSE).await,
                Ok(None) | Err(_) => return Err(PushError::Unknown(number, why)),
            }
        }
    }

    /// Writes a key that must not be there yet. The error says that it is not known to be stored.
    pub(super) async fn write(&self, subject: &str, payload: Bytes) -> Result<(), String> {
        let message = PublishMessage::build().payload(payload).expected_last_subject_sequence(0);
        let sent = self.context.send_publish(subject.to_owned(), message).await;
        match sent {
            Ok(ack) => ack.await.map(drop).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}
