//! Which revision of a bucket counts where the settings name authors.
//!
//! A revision counts if an author signed it, it follows the newest one that counted before it, and all
//! that it changes lies in the author's part. One by an author of everything counts by its signature
//! alone. So from there on, or from the one in force, whether a revision counts follows from the
//! bucket and the table of authors, for every instance in the same way.

use std::collections::HashMap;
use std::sync::Arc;

use super::entry::{Document, Entry};
use super::{Bucket, ReadError, files_of};
use crate::policy_source::origin::{Origin, SignedBy};
use solewriter_core::analysis::authorship::{self, Whole};
use solewriter_core::authors::{Author, Authors, Follows, Signed, Unsigned};
use solewriter_core::diagnostics::{Problem, Problems, SourceFile};
use solewriter_core::policy::model::Policy;
use solewriter_core::policy::validate::{Validator, revision};
use solewriter_types::clean;

/// The most revisions that are looked at for one to begin with.
pub const MAX_CHAIN: usize = 1000;

/// What pushes are judged by.
#[derive(Debug)]
pub struct Judge {
    /// The table of authors.
    pub authors: Authors,
    /// What judges documents.
    pub validator: Arc<Validator>,
}

/// A revision that counts.
#[derive(Clone)]
pub struct Counted {
    /// The push.
    pub entry: Entry,
    /// Its documents.
    pub documents: Vec<(Document, SourceFile)>,
    /// What they come to.
    pub policy: Policy,
    /// Who signed it.
    pub by: SignedBy,
}

/// What was found out about a bucket.
pub struct Verdict {
    /// The newest revision that counts, if any does.
    pub counts: Option<Counted>,
    /// Why the newest revision is not that one.
    pub refused: Option<Problems>,
}

/// Why one revision does not count.
struct Refused {
    problems: Problems,
    /// Whether it counts nowhere, whatever the settings and the version of others are.
    certain: bool,
}

impl Refused {
    fn because(number: u64, why: &str, certain: bool) -> Self {
        let message = format!("revision {number} does not count: {why}");
        let problem = Problem::error("not-an-authors", message).help(
            "an author has to push again, with --key; `solewriter policy log` shows who signed what",
        );
        Self { problems: problem.into(), certain }
    }

    fn unsigned(number: u64, why: &Unsigned) -> Self {
        // The table of others may have the key.
        Self::because(number, &why.to_string(), !matches!(why, Unsigned::Key(_)))
    }
}

impl Judge {
    /// Who signed a revision of a bucket.
    ///
    /// # Errors
    /// Why its signature counts for nothing.
    pub fn signed(&self, bucket: &Bucket, entry: &Entry) -> Result<Signed<'_>, Unsigned> {
        let expected = entry.to_sign(bucket.name());
        let signed = self.authors.read(entry.signature.as_deref(), &expected)?;
        if signed.at != entry.time {
            return Err(Unsigned::Other("its time was changed"));
        }
        Ok(signed)
    }

    /// Whether an author may make that of what counted before.
    ///
    /// # Errors
    /// Everything that lies outside of the author's part.
    pub fn may(
        &self,
        before: Option<&Counted>,
        new: Whole<'_>,
        author: &Author,
    ) -> Result<(), Problems> {
        let files = before.map(|before| files_of(&before.documents));
        let old = before.zip(files.as_deref());
        let old = old.map(|(before, files)| Whole { files, policy: &before.policy });
        authorship::judge(old, new, author, &self.authors)
    }

    /// Judges what a signed revision makes of the one that counted before.
    fn judge(
        &self,
        before: Option<&Counted>,
        entry: &Entry,
        documents: Vec<(Document, SourceFile)>,
        signed: &Signed<'_>,
    ) -> Result<Counted, Refused> {
        let number = entry.number;
        let files = files_of(&documents);
        // The list may say less of its digest than was signed.
        if revision(&files).whole() != signed.push.policy {
            return Err(Refused::because(
                number,
                "its documents are others than were signed",
                true,
            ));
        }
        let validated = self
            .validator
            .validate(&files)
            .map_err(|problems| Refused { problems, certain: false })?;
        let policy = validated.policy;
        if signed.author.part.is_some() {
            let follows = before.map(|before| before.entry.to_follow());
            if follows != signed.push.follows {
                let why = match (&signed.push.follows, &follows) {
                    (Some(said), Some(counts)) => {
                        format!("it follows revision {}, and {} counts", said.number, counts.number)
                    }
                    _ => "nothing counts here that it could follow".to_owned(),
                };
                return Err(Refused::because(number, &why, false));
            }
            let whole = Whole { files: &files, policy: &policy };
            self.may(before, whole, signed.author)
                .map_err(|problems| Refused { problems, certain: true })?;
        }
        let by = SignedBy {
            author: signed.author.name.clone(),
            key: signed.key.to_string(),
            at: signed.at,
            policy: signed.push.policy.clone(),
        };
        Ok(Counted { entry: entry.clone(), documents, policy, by })
    }
}

/// A revision. Of what does not count no more is kept than why: there may be many.
type Found = Result<Entry, Refused>;

impl Bucket {
    /// Finds the newest revision that counts. `head` is the newest; `base`, one that is known to
    /// count: the one in force.
    ///
    /// # Errors
    /// When the bucket cannot be read now.
    pub async fn newest_that_counts(
        &self,
        judge: &Arc<Judge>,
        head: &Entry,
        base: Option<&Origin>,
        known: &HashMap<Document, SourceFile>,
    ) -> Result<Verdict, ReadError> {
        let lineage = self.lineage(head).await?;
        let in_force = base.filter(|base| base.lineage == lineage);
        let by = in_force.and_then(|base| base.signed.clone());
        let mut found: Vec<Found> = Vec::new();
        let mut next: Result<Entry, Refused> = Ok(head.clone());
        let mut number = head.number;
        let mut current: Option<Counted> = None;
        loop {
            if let Ok(entry) = &next {
                let same = |base: &Origin| base.number == number && base.push == entry.push;
                let is_base = in_force.is_some_and(same);
                if let (true, Some(by)) = (is_base, &by) {
                    current = self.base(judge, entry, by, known).await?;
                    if current.is_some() {
                        break;
                    }
                }
            }
            let looked = next.and_then(|entry| self.looked_at(judge, entry, &lineage));
            let ends = looked.as_ref().is_ok_and(|(_, of_all)| *of_all);
            found.push(looked.map(|(entry, _)| entry));
            if ends || number <= 1 || found.len() >= MAX_CHAIN {
                break;
            }
            number -= 1;
            next = match self.revision(number).await {
                Ok(Some(entry)) => Ok(entry),
                Ok(None) => Err(Refused::because(number, "it is gone", false)),
                Err(ReadError::Bad(error)) => {
                    Err(Refused::because(number, &clean::line(&error.to_string()), false))
                }
                Err(error) => return Err(error),
            };
        }
        let begins_with = current.as_ref().map(|counted| counted.entry.number);
        let mut last: Option<Problems> = None;
        let mut certain = true;
        for entry in found.into_iter().rev() {
            let step = match entry {
                Ok(entry) => self.step(judge, current.clone(), entry, base, known).await?,
                Err(refused) => Err(refused),
            };
            match step {
                Ok(counted) => (current, last, certain) = (Some(counted), None, true),
                Err(refused) => {
                    certain &= refused.certain;
                    last = Some(refused.problems);
                }
            }
        }
        // Who has nothing in force does not begin with less than what others may have.
        if !certain && begins_with.is_none() {
            current = None;
        }
        Ok(Verdict { counts: current, refused: last })
    }

    /// The newest revision, or where authors sign the newest that counts; `None` when nothing was
    /// pushed yet.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn that_counts(
        &self,
        judge: Option<&Arc<Judge>>,
    ) -> Result<Option<Entry>, ReadError> {
        let head = self.head().await?;
        let (Some(head), Some(judge)) = (&head, judge) else { return Ok(head) };
        let verdict = self.newest_that_counts(judge, head, None, &HashMap::new()).await?;
        verdict.counts.map(|counts| Some(counts.entry)).ok_or(ReadError::NoneCounts)
    }

    /// A revision that an author signed for this bucket, and whether it was an author of everything.
    fn looked_at(
        &self,
        judge: &Judge,
        entry: Entry,
        lineage: &str,
    ) -> Result<(Entry, bool), Refused> {
        let number = entry.number;
        if entry.lineage != lineage {
            return Err(Refused::because(number, "it was pushed to another bucket", true));
        }
        match judge.signed(self, &entry).map(|signed| signed.author.part.is_none()) {
            Ok(of_all) => Ok((entry, of_all)),
            Err(why) => Err(Refused::unsigned(number, &why)),
        }
    }

    /// One revision that an author signed, held against the one that counted before.
    async fn step(
        &self,
        judge: &Arc<Judge>,
        before: Option<Counted>,
        entry: Entry,
        base: Option<&Origin>,
        known: &HashMap<Document, SourceFile>,
    ) -> Result<Result<Counted, Refused>, ReadError> {
        let number = entry.number;
        // A bucket that takes the place of another one begins with what is newer.
        let replaced = base.filter(|base| base.lineage != entry.lineage);
        let newest = replaced.and_then(|base| base.signed.as_ref()).map(|signed| signed.at);
        if newest.is_some_and(|newest| entry.time <= newest) {
            let why = "it was signed before the one in force, which was in another bucket";
            return Ok(Err(Refused::because(number, why, true)));
        }
        let documents = match self.documents(&entry, known).await {
            Ok(documents) => documents,
            Err(ReadError::Bad(error)) => {
                return Ok(Err(Refused::because(number, &clean::line(&error.to_string()), false)));
            }
            Err(error) => return Err(error),
        };
        // A large policy takes a while.
        let judge = Arc::clone(judge);
        let bucket = self.clone();
        let judged = tokio::task::spawn_blocking(move || match judge.signed(&bucket, &entry) {
            Ok(signed) => judge.judge(before.as_ref(), &entry, documents, &signed),
            Err(why) => Err(Refused::unsigned(number, &why)),
        });
        judged.await.map_err(|error| ReadError::Unreachable(error.to_string()))
    }

    /// The revision in force, as it is in the bucket; `None` if that is another one.
    async fn base(
        &self,
        judge: &Judge,
        entry: &Entry,
        by: &SignedBy,
        known: &HashMap<Document, SourceFile>,
    ) -> Result<Option<Counted>, ReadError> {
        let documents = match self.documents(entry, known).await {
            Ok(documents) => documents,
            Err(ReadError::Bad(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let files = files_of(&documents);
        if revision(&files).whole() != by.policy {
            return Ok(None);
        }
        let Ok(validated) = judge.validator.validate(&files) else { return Ok(None) };
        let (entry, policy) = (entry.clone(), validated.policy);
        Ok(Some(Counted { entry, documents, policy, by: by.clone() }))
    }

    /// The bucket's own identity: what its first push says.
    async fn lineage(&self, head: &Entry) -> Result<String, ReadError> {
        if head.number == 1 {
            return Ok(head.lineage.clone());
        }
        match self.revision(1).await? {
            Some(first) => Ok(first.lineage),
            None => Err(ReadError::NoKey("revision.1".to_owned())),
        }
    }
}

impl Counted {
    /// Where it came from, and who signed it.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin { signed: Some(self.by.clone()), ..self.entry.origin() }
    }

    /// What the next push says that it follows.
    #[must_use]
    pub fn to_follow(&self) -> Follows {
        self.entry.to_follow()
    }
}
