//! Reading the policy's bucket: the newest revision, whole or not at all.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};

use super::chain::{Judge, Verdict};
use super::emergencies::Documents;
use super::entry::{Blob, Document, Entry, EntryError};
use super::{AT_A_TIME, Bucket, ReadError, files_of, hash};
use crate::policy_source::origin::Origin;
use solewriter_core::diagnostics::{Problem, Problems, SourceFile};
use solewriter_core::policy::validate;

/// How often the leader is asked for a piece that another server does not have yet.
const ATTEMPTS: u32 = 3;

impl Bucket {
    /// Every document of a revision. Those in `known` are not fetched again. All of them are
    /// verified by their hashes, and the whole by the revision that the push said it is.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn documents(
        &self,
        entry: &Entry,
        known: &HashMap<Document, SourceFile>,
    ) -> Result<Vec<(Document, SourceFile)>, ReadError> {
        let documents = self.list(entry).await?;
        let fetches: Vec<_> = documents
            .into_iter()
            .map(|document| self.document(entry.number, document, known).boxed())
            .collect();
        let documents: Vec<_> = stream::iter(fetches).buffered(AT_A_TIME).try_collect().await?;
        let files = files_of(&documents);
        let found = validate::revision(&files);
        if !found.is_written(&entry.policy) {
            let (said, found) = (entry.policy.clone(), found.whole().to_owned());
            return Err(EntryError::Other(entry.number, said, found).into());
        }
        Ok(documents)
    }

    /// The files of a revision.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn files(&self, entry: &Entry) -> Result<Vec<SourceFile>, ReadError> {
        let documents = self.documents(entry, &HashMap::new()).await?;
        Ok(documents.into_iter().map(|(_, file)| file).collect())
    }

    async fn document(
        &self,
        number: u64,
        document: Document,
        known: &HashMap<Document, SourceFile>,
    ) -> Result<(Document, SourceFile), ReadError> {
        if let Some(file) = known.get(&document) {
            return Ok((document, file.clone()));
        }
        let bytes = self.blob(&document.text).await?;
        let text = String::from_utf8(bytes)
            .map_err(|_| EntryError::Bounds(number, format!("{} is not UTF-8", document.name)))?;
        let file = SourceFile::new(document.name.as_str(), text);
        Ok((document, file))
    }

    /// What a revision is made of.
    pub(super) async fn list(&self, entry: &Entry) -> Result<Vec<Document>, ReadError> {
        let list = self.blob(&entry.list).await?;
        Ok(entry.documents(&list)?)
    }

    async fn blob(&self, blob: &Blob) -> Result<Vec<u8>, ReadError> {
        let mut bytes = Vec::new();
        let fetches: Vec<_> = blob.pieces.iter().map(|name| self.piece(name).boxed()).collect();
        let mut pieces = stream::iter(fetches).buffered(AT_A_TIME);
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece?);
            if bytes.len() as u64 > blob.size {
                break;
            }
        }
        if bytes.len() as u64 != blob.size {
            let first = blob.pieces.first().cloned().unwrap_or_default();
            return Err(EntryError::Damaged(first).into());
        }
        Ok(bytes)
    }

    /// One piece, from any server that has it; from the leader, who has all that was confirmed,
    /// when that one does not.
    async fn piece(&self, name: &str) -> Result<Bytes, ReadError> {
        let subject = self.subject(&format!("doc.{name}"));
        let stream = self.handle().await?;
        let near = stream.direct_get_builder().last_by_subject(&*subject).send().await;
        if let Some(message) = near.ok().filter(|message| hash(&message.payload) == name) {
            return Ok(message.payload);
        }
        let bytes = self.piece_of_leader(name, &subject).await?;
        if hash(&bytes) != name {
            return Err(EntryError::Damaged(name.to_owned()).into());
        }
        Ok(bytes)
    }

    async fn piece_of_leader(&self, name: &str, subject: &str) -> Result<Bytes, ReadError> {
        let mut outcome = Err(ReadError::NoKey(format!("doc.{name}")));
        for _ in 0..ATTEMPTS {
            outcome = match self.last(subject).await {
                Ok(Some((_, payload))) => return Ok(payload),
                Ok(None) => return Err(ReadError::NoKey(format!("doc.{name}"))),
                Err(ReadError::Missing) => return Err(ReadError::Missing),
                Err(error) => Err(error),
            };
        }
        outcome
    }
}

/// What a look at the bucket found.
pub enum Seen {
    /// The newest is the one that was found before.
    Same,
    /// There is another one.
    Other(Box<Change>),
    /// Nothing was pushed yet.
    Empty,
    /// The bucket went back to an older number, which it never does by itself: that is not taken.
    Behind {
        /// What it has.
        number: u64,
    },
}

/// A revision that was not seen before.
pub struct Change {
    /// Which one; `None` when it cannot even be read.
    pub origin: Option<Origin>,
    /// Its files, or why they are no policy.
    pub files: Result<Vec<SourceFile>, Problems>,
    /// Whether the bucket is another one than before.
    pub replaced: bool,
}

/// Follows the newest revision, and keeps its documents so that the next needs what changed only.
pub struct Reader {
    bucket: Bucket,
    known: HashMap<Document, SourceFile>,
    /// What was found last, whether it held or not.
    seen: Option<Origin>,
    /// The entry that cannot be read, so that it is told of once.
    unreadable: Option<EntryError>,
    emergencies: Documents,
    /// Where the settings name authors.
    judge: Option<Arc<Judge>>,
    /// The revision that counts, where they do.
    counts: Option<Origin>,
    /// The one that was in force at the beginning, signed or not: the bucket may not go back.
    floor: Option<Origin>,
    /// What there is to say of a newer one that does not.
    refused: Option<Box<Change>>,
}

impl Reader {
    /// Begins after `seen`: a revision that is in force already.
    #[must_use]
    pub fn new(bucket: Bucket, seen: Option<Origin>) -> Self {
        Self {
            bucket,
            known: HashMap::new(),
            seen,
            unreadable: None,
            emergencies: Documents::default(),
            judge: None,
            counts: None,
            floor: None,
            refused: None,
        }
    }

    /// The same where only what authors signed counts.
    #[must_use]
    pub fn judging(self, judge: Option<Arc<Judge>>) -> Self {
        let Some(judge) = judge else { return self };
        let counts = self.seen.clone().filter(|seen| seen.signed.is_some());
        // What is in force is judged again: the settings may have another table than before.
        let floor = self.seen.clone();
        let mut reader = Self { judge: Some(judge), counts, floor, ..self };
        reader.forget();
        reader
    }

    /// The bucket.
    #[must_use]
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// The documents of emergencies; `None` when they are the same as before.
    ///
    /// # Errors
    /// When the bucket cannot be read now.
    pub async fn emergencies(&mut self) -> Result<Option<Vec<String>>, ReadError> {
        self.bucket.emergencies(&mut self.emergencies).await
    }

    /// Forgets the documents of emergencies, so that they are found again.
    pub fn forget_emergencies(&mut self) {
        self.emergencies = Documents::default();
    }

    /// Forgets that the newest revision was seen, so that it is found again.
    pub fn forget(&mut self) {
        self.unreadable = None;
        self.refused = None;
        if let Some(seen) = &mut self.seen {
            // The number stays: the bucket may not go back.
            seen.push.clear();
        }
    }

    /// Looks once.
    ///
    /// # Errors
    /// When the bucket cannot be read now. What it holds that is no policy is a [`Change`].
    pub async fn look(&mut self) -> Result<Seen, ReadError> {
        if let Some(refused) = self.refused.take() {
            return Ok(Seen::Other(refused));
        }
        let head = match self.bucket.head().await {
            Ok(None) => return Ok(Seen::Empty),
            Ok(Some(head)) => head,
            Err(ReadError::Bad(error)) => return Ok(self.bad(None, false, error)),
            Err(error) => return Err(error),
        };
        let origin = head.origin();
        let replaced = self.seen.as_ref().is_some_and(|seen| seen.lineage != origin.lineage);
        if let Some(seen) = &self.seen
            && !replaced
        {
            if seen.number == origin.number && seen.push == origin.push {
                return Ok(Seen::Same);
            }
            if seen.number > origin.number {
                return Ok(Seen::Behind { number: origin.number });
            }
        }
        if let Some(judge) = self.judge.clone() {
            return self.look_judging(&judge, head).await;
        }
        let documents = match self.bucket.documents(&head, &self.known).await {
            Ok(documents) => documents,
            Err(ReadError::Bad(error)) => {
                self.seen = Some(origin.clone());
                return Ok(self.bad(Some(origin), replaced, error));
            }
            Err(error) => return Err(error),
        };
        let files = files_of(&documents);
        self.known = documents.into_iter().collect();
        self.seen = Some(origin.clone());
        self.unreadable = None;
        Ok(Seen::Other(Box::new(Change { origin: Some(origin), files: Ok(files), replaced })))
    }

    /// Finds what counts. One that counts is given first, and what there is to say of a newer one at
    /// the next look.
    async fn look_judging(&mut self, judge: &Arc<Judge>, head: Entry) -> Result<Seen, ReadError> {
        let base = self.counts.as_ref();
        let found = self.bucket.newest_that_counts(judge, &head, base, &self.known).await;
        let verdict = match found {
            Ok(verdict) => verdict,
            // The first one is gone, or can no more be read: nothing says what the others are.
            Err(error @ (ReadError::NoKey(_) | ReadError::Bad(_))) => {
                let message = format!("the policy bucket's history is damaged: {error}");
                let help = "restore it, or delete the bucket and push again";
                let problem = Problem::error("policy-bucket", message).help(help);
                Verdict { counts: None, refused: Some(problem.into()) }
            }
            Err(error) => return Err(error),
        };
        let seen = head.origin();
        self.unreadable = None;
        let refused = verdict.refused.map(|problems| {
            Box::new(Change { origin: Some(seen.clone()), files: Err(problems), replaced: false })
        });
        self.seen = Some(seen);
        let Some(counted) = verdict.counts else {
            return Ok(refused.map_or(Seen::Same, Seen::Other));
        };
        let origin = counted.origin();
        let back = |floor: &Origin| floor.lineage == origin.lineage && floor.number > origin.number;
        if self.counts.as_ref().or(self.floor.as_ref()).is_some_and(back) {
            return Ok(refused.map_or(Seen::Behind { number: origin.number }, Seen::Other));
        }
        let before = self.counts.replace(origin.clone());
        let replaced = before.as_ref().is_some_and(|before| before.lineage != origin.lineage);
        if before.as_ref() == Some(&origin) && refused.is_some() {
            return Ok(refused.map_or(Seen::Same, Seen::Other));
        }
        let files = files_of(&counted.documents);
        self.known = counted.documents.into_iter().collect();
        self.refused = refused;
        Ok(Seen::Other(Box::new(Change { origin: Some(origin), files: Ok(files), replaced })))
    }

    /// The files of an older revision; `None` when there is none, or nobody can read it: then it was
    /// never in force.
    ///
    /// # Errors
    /// When the bucket cannot be read now.
    pub async fn older(&mut self, number: u64) -> Result<Option<Vec<SourceFile>>, ReadError> {
        let read = match self.bucket.revision(number).await {
            Ok(Some(entry)) => self.bucket.documents(&entry, &self.known).await,
            Ok(None) => return Ok(None),
            Err(error) => Err(error),
        };
        match read {
            Ok(documents) => Ok(Some(documents.into_iter().map(|(_, file)| file).collect())),
            Err(ReadError::Bad(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn bad(&mut self, origin: Option<Origin>, replaced: bool, error: EntryError) -> Seen {
        if self.unreadable.as_ref() == Some(&error) {
            return Seen::Same;
        }
        let problem = Problem::error("policy-bucket", error.to_string())
            .help("push again with a version that every instance can read");
        self.unreadable = Some(error);
        Seen::Other(Box::new(Change { origin, files: Err(problem.into()), replaced }))
    }
}
