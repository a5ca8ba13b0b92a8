//! Documents of emergencies in the policy's bucket: `emergency.<N>`, each written once. What they
//! grant is for their signatures to say, so nothing here judges them.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::write::{PAUSE, PushError};
use super::{Bucket, ReadError};
use crate::policy_source::temporary::MAX_DOCUMENTS;
use solewriter_core::emergency::MAX_DOCUMENT;

/// How long it is tried to add one.
const ADD_WITHIN: Duration = Duration::from_secs(10);

/// Which documents were read.
#[derive(Default)]
pub struct Documents {
    /// The newest, with its number: another one tells that there is something new.
    head: Option<(u64, String)>,
}

impl Bucket {
    /// The documents of the bucket, the newest last and the newest [`MAX_DOCUMENTS`] at most; `None`
    /// when they are those that are known.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn emergencies(
        &self,
        documents: &mut Documents,
    ) -> Result<Option<Vec<String>>, ReadError> {
        let head = self.newest_emergency().await?;
        if documents.head == head {
            return Ok(None);
        }
        let mut texts = Vec::new();
        if let Some((number, text)) = &head {
            texts.push(text.clone());
            for number in (1..*number).rev().take(MAX_DOCUMENTS.saturating_sub(1)) {
                let found = self.last(&self.subject(&format!("emergency.{number}"))).await?;
                texts.extend(found.map(|(_, payload)| text_of(&payload)));
            }
        }
        texts.reverse();
        documents.head = head;
        Ok(Some(texts))
    }

    /// All of them, the newest last.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn all_emergencies(&self) -> Result<Vec<String>, ReadError> {
        Ok(self.emergencies(&mut Documents::default()).await?.unwrap_or_default())
    }

    async fn newest_emergency(&self) -> Result<Option<(u64, String)>, ReadError> {
        let found = self.last(&self.subject("emergency.*")).await?;
        let prefix = self.subject("emergency.");
        Ok(found.and_then(|(subject, payload)| {
            let number = subject.strip_prefix(&prefix)?.parse().ok()?;
            Some((number, text_of(&payload)))
        }))
    }

    /// Adds a document, after all that are there.
    ///
    /// # Errors
    /// [`PushError`].
    pub async fn add_emergency(&self, document: &str) -> Result<(), PushError> {
        let deadline = Instant::now() + ADD_WITHIN;
        let payload = Bytes::copy_from_slice(document.as_bytes());
        let failed = |error: &dyn std::fmt::Display| PushError::Failed(error.to_string());
        let newest = self.newest_emergency().await.map_err(|error| failed(&error))?;
        let mut number = newest.map_or(1, |(number, _)| number.saturating_add(1));
        loop {
            let subject = self.subject(&format!("emergency.{number}"));
            let Err(why) = self.write(&subject, payload.clone()).await else { return Ok(()) };
            // Somebody else was first, or the answer was lost.
            match self.last(&subject).await {
                Ok(Some((_, stored))) if stored == payload => return Ok(()),
                Ok(Some(_)) => number = number.saturating_add(1),
                Ok(None) | Err(_) if Instant::now() < deadline => sleep(PAUSE).await,
                Ok(None) | Err(_) => return Err(failed(&why)),
            }
            if Instant::now() >= deadline {
                return Err(failed(&why));
            }
        }
    }
}

/// As much of it as a document may have, and a little more: what is longer is none.
fn text_of(payload: &[u8]) -> String {
    let most = payload.len().min(MAX_DOCUMENT + 1);
    String::from_utf8_lossy(payload.get(..most).unwrap_or_default()).into_owned()
}
