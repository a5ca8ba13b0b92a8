//! Which revision of the policy bucket a policy is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which revision of a bucket a policy is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its number in the bucket.
    pub number: u64,
    /// The bucket's own identity: a bucket that was made anew has another.
    pub lineage: String,
    /// Identifies the push.
    pub push: String,
    /// Who pushed it, as they called themselves.
    pub author: String,
    /// What they said about it.
    pub message: String,
    /// When, in seconds since the Unix epoch, by their clock.
    pub pushed_at: i64,
    /// Whether a handover is not to wait for servers that do not answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
    /// Who signed it, where the settings name authors: it was judged, and counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<SignedBy>,
}

/// The signature of a revision that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedBy {
    /// The author, as the table of authors has it.
    pub author: String,
    /// The author's public key.
    pub key: String,
    /// When, in seconds since the Unix epoch, by the author's clock.
    pub at: i64,
    /// The whole digest that was signed.
    pub policy: String,
}

impl Origin {
    /// The bucket's identity, and the number in it.
    #[must_use]
    pub fn of_bucket(&self) -> (&str, u64) {
        (&self.lineage, self.number)
    }
}

impl fmt::Display for Origin {
    /// `revision 7 (lea: takes orders)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "revision {} ({}: {})", self.number, self.author, self.message)
    }
}
