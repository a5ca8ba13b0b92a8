//! Who may change which part of a policy, and what they sign when they push one.
//!
//! [`document`] reads the table of authors. An author signs a [`Push`]: which revision of which bucket
//! it is, its whole digest, and the revision that it follows. Holding a [`Signed`] is proof that an
//! author of the table signed it for this fleet. Whether the author may change what it changes is for
//! [`crate::analysis::authorship`] to say.

pub mod document;

use serde::{Deserialize, Serialize};

use crate::callout::jwt::JwtError;
use crate::keys::{Signer, User, UserKey};
use crate::signed::{self, Broken, Claims};
use solewriter_types::clean;
use solewriter_types::keyspace::{BucketName, Keyspace};
use solewriter_types::subject::Pattern;

const KIND: &str = "solewriter-push";
/// What a signature says of its form.
const VERSION: u32 = 1;

/// The table of authors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authors {
    /// What this fleet is called: a push that was signed for another one counts for nothing here.
    pub fleet: String,
    /// In the order of their names.
    pub list: Vec<Author>,
}

/// Somebody who may change a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// The name in the table.
    pub name: String,
    /// The keys that sign for this author.
    pub keys: Vec<UserKey>,
    /// What the author may change; `None` for everything.
    pub part: Option<Part>,
}

/// The part of a policy that an author may change. What is not in it is another's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Files, and folders (`team-a/`).
    pub files: Vec<String>,
    /// Services.
    pub services: Vec<Name>,
    /// Buckets and parts of buckets.
    pub buckets: Vec<Keys>,
    /// Object stores.
    pub stores: Vec<Name>,
    /// Streams with their consumers.
    pub streams: Vec<Name>,
    /// Subjects.
    pub subjects: Vec<Pattern>,
    /// Names under which services are found.
    pub found_as: Vec<Name>,
    /// Accounts in which services may be placed, beside the default one.
    pub accounts: Vec<Name>,
    /// What else services of the author may use, without changing who has it.
    pub uses: Uses,
}

/// What is others', and may be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Buckets and parts of buckets.
    pub reads: Vec<Keys>,
    /// Object stores.
    pub reads_stores: Vec<Name>,
    /// Subjects.
    pub subscribes: Vec<Pattern>,
    /// Subjects of requests.
    pub calls: Vec<Pattern>,
    /// Consumers: a stream, and names of its consumers.
    pub consumes: Vec<(String, Name)>,
    /// Streams.
    pub replays: Vec<Name>,
    /// Names of services.
    pub discovers: Vec<Name>,
}

/// A name, or the beginning of names (`a-*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// This one.
    Is(String),
    /// All that begin so.
    Begins(String),
}

impl Name {
    /// Whether it means that name.
    #[must_use]
    pub fn means(&self, name: &str) -> bool {
        match self {
            Self::Is(own) => own == name,
            Self::Begins(beginning) => name.starts_with(beginning.as_str()),
        }
    }
}

/// Keys of buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Of one bucket, or of a part of it.
    Of(Keyspace),
    /// Of all buckets whose names begin so.
    Begins(String),
}

impl Keys {
    /// Whether it has all keys of a keyspace.
    #[must_use]
    pub fn hold(&self, keyspace: &Keyspace) -> bool {
        match self {
            Self::Of(own) => keyspace.is_within(own),
            Self::Begins(beginning) => keyspace.bucket().as_str().starts_with(beginning.as_str()),
        }
    }

    /// Whether it has all of a bucket.
    #[must_use]
    pub fn hold_all_of(&self, bucket: &BucketName) -> bool {
        self.hold(&Keyspace::whole(bucket.clone()))
    }
}

/// What an author signs. All of it is held against what the bucket has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its form.
    pub version: u32,
    /// The bucket.
    pub bucket: String,
    /// The bucket's own identity.
    pub lineage: String,
    /// The number of the revision.
    pub number: u64,
    /// Identifies the push.
    pub push: String,
    /// The whole digest of the documents, and of their names.
    pub policy: String,
    /// Who pushes, as the table calls them.
    pub author: String,
    /// The SHA-256 of what they said about it.
    pub message: String,
    /// The number whose documents these are, when it is a rollback.
    pub rollback_of: Option<u64>,
    /// Whether a handover is not to wait for servers that do not answer.
    pub forced: bool,
    /// The revision that it was judged against: the newest that counted. None before the first.
    pub follows: Option<Follows>,
}

/// The revision that a push follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Follows {
    /// Its number.
    pub number: u64,
    /// Identifies its push.
    pub push: String,
    /// The whole digest of its documents.
    pub policy: String,
}

impl Push {
    /// A push of that bucket, and nothing else said of it.
    #[must_use]
    pub fn of(bucket: &BucketName) -> Self {
        Self {
            kind: KIND.to_owned(),
            version: VERSION,
            bucket: bucket.to_string(),
            lineage: String::new(),
            number: 0,
            push: String::new(),
            policy: String::new(),
            author: String::new(),
            message: String::new(),
            rollback_of: None,
            forced: false,
            follows: None,
        }
    }

    /// Signs it for a fleet, at that time in seconds since the Unix epoch. It counts for ever, as a
    /// revision does.
    ///
    /// # Errors
    /// [`JwtError`] when it cannot be written.
    pub fn sign(self, fleet: &str, now: i64, signer: &Signer<User>) -> Result<String, JwtError> {
        let id = self.push.clone();
        signed::sign((&id, fleet), (now, 0), self, signer)
    }
}

/// A push that an author of the table signed for this fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<'a> {
    /// Whose key it was.
    pub author: &'a Author,
    /// The key.
    pub key: UserKey,
    /// When it was signed, by the author's clock, in seconds since the Unix epoch.
    pub at: i64,
    /// What was signed.
    pub push: Push,
}

/// Why a signature makes no revision count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsigned {
    /// There is none.
    #[error("nobody signed it")]
    Missing,
    /// It is none.
    #[error("its signature is none: {0}")]
    Form(&'static str),
    /// It does not hold.
    #[error("its signature does not hold")]
    Signature,
    /// No author has that key.
    #[error("{0} signed it, which is no author's key")]
    Key(UserKey),
    /// It is for others.
    #[error("it was signed for the fleet {0:?}, and this is {1:?}")]
    Fleet(String, String),
    /// Something else was signed.
    #[error("its signature is of another push: {0}")]
    Other(&'static str),
}

impl From<Broken> for Unsigned {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Form(why) => Self::Form(why),
            Broken::Signature => Self::Signature,
        }
    }
}

impl Authors {
    /// The author of that key.
    #[must_use]
    pub fn of_key(&self, key: &UserKey) -> Option<&Author> {
        self.list.iter().find(|author| author.keys.contains(key))
    }

    /// The author of that name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Author> {
        self.list.iter().find(|author| author.name == name)
    }

    /// Who signed a push that is to say the same as `expected` but for what it follows.
    ///
    /// # Errors
    /// Why it counts for nothing.
    pub fn read(&self, document: Option<&str>, expected: &Push) -> Result<Signed<'_>, Unsigned> {
        let (key, claims) = signed::open(document.ok_or(Unsigned::Missing)?)?;
        let Claims { jti: _, iss: _, aud, iat, exp: _, nats } = claims;
        let push: Push = nats;
        if push.kind != KIND || push.version != VERSION {
            return Err(Unsigned::Form("another version of solewriter made it"));
        }
        if aud != self.fleet {
            return Err(Unsigned::Fleet(clean::line(&aud).into_owned(), self.fleet.clone()));
        }
        let differs = [
            (push.bucket != expected.bucket, "of another bucket"),
            (push.lineage != expected.lineage, "of a bucket that is no more"),
            (push.number != expected.number, "of another number"),
            (push.policy != expected.policy, "of other documents"),
        ];
        if let Some((_, what)) = differs.into_iter().find(|(differs, _)| *differs) {
            return Err(Unsigned::Other(what));
        }
        let same = Push { follows: push.follows.clone(), ..expected.clone() };
        if push != same {
            return Err(Unsigned::Other("its author, message or options were changed"));
        }
        // Last: what is known to be no push at all says nothing about keys.
        let author = self.of_key(&key).ok_or(Unsigned::Key(key))?;
        if author.name != push.author {
            return Err(Unsigned::Other("its author, message or options were changed"));
        }
        Ok(Signed { author, key, at: iat, push })
    }
}

#[cfg(test)]
mod tests;
