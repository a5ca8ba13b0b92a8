//! Keyspaces: a KV bucket or part of one, and the subjects they stand for.
//!
//! The mapping is the NATS KV specification's (ADR-8 of nats-architecture-and-design): bucket `b`
//! is the stream `KV_b` over the subjects `$KV.b.>`, and key `k` is the subject `$KV.b.k`.

use std::fmt;

use crate::subject::{Pattern, Subject, SubjectError};

/// The longest bucket name accepted, in characters. The stream is named `KV_<bucket>`, and
/// nats-server refuses stream names of more than 255 characters.
pub const MAX_BUCKET_CHARS: usize = 200;

/// A KV bucket's name: letters, digits, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketName(Box<str>);

/// Why a text is no keyspace. The message says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyspaceError {
    /// No bucket name.
    #[error("the bucket name is empty")]
    NoBucket,
    /// A character that nats-server does not take in a bucket name.
    #[error("a bucket name may hold letters, digits, `_` and `-`, and {0:?} is none of these")]
    BucketCharacter(char),
    /// Longer than [`MAX_BUCKET_CHARS`].
    #[error("the bucket name has {0} characters; at most {MAX_BUCKET_CHARS} are allowed")]
    BucketTooLong(usize),
    /// A wildcard in the bucket.
    #[error("a keyspace names one bucket; write one entry for each bucket")]
    BucketWildcard,
    /// The part after `/` is no subject pattern.
    #[error("the part after `/` is not a key or key pattern: {0}")]
    Part(SubjectError),
    /// A character that KV clients do not take in a key.
    #[error("a key may hold letters, digits and any of `-/_=.`, and {0:?} is none of these")]
    KeyCharacter(char),
    /// A `*` beside other characters in one token: literal to NATS, and never what was meant.
    #[error("`*` and `>` stand for whole tokens; {0:?} mixes one with other characters")]
    MixedToken(String),
    /// The last token is `*`.
    #[error(
        "a keyspace cannot end in `*`: nats-server lets a client send `>` in its place, which \
         reaches the keys below; write `>` for all of them, or name the keys"
    )]
    EndsInStar,
}

impl BucketName {
    /// Parses a bucket name.
    ///
    /// # Errors
    /// [`KeyspaceError`] when KV clients or nats-server would refuse it.
    pub fn parse(text: &str) -> Result<Self, KeyspaceError> {
        if text.is_empty() {
            return Err(KeyspaceError::NoBucket);
        }
        match text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))) {
            Some('*' | '>') => return Err(KeyspaceError::BucketWildcard),
            Some(bad) => return Err(KeyspaceError::BucketCharacter(bad)),
            None => {}
        }
        if text.len() > MAX_BUCKET_CHARS {
            return Err(KeyspaceError::BucketTooLong(text.len()));
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A bucket, or the part of it that a key pattern selects.
///
/// Written `orders` for the whole bucket, `fulfilment/line.>` for a part, `rates/eur` for one
/// key. The part never ends in `*` (see [`KeyspaceError::EndsInStar`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Keyspace {
    bucket: BucketName,
    part: Option<Pattern>,
}

impl Keyspace {
    /// Parses `BUCKET` or `BUCKET/KEY-PATTERN`. `BUCKET/>` is the whole bucket.
    ///
    /// # Errors
    /// [`KeyspaceError`] when bucket or keys are not what KV clients take.
    pub fn parse(text: &str) -> Result<Self, KeyspaceError> {
        let Some((bucket, part)) = text.split_once('/') else {
            return Ok(Self { bucket: BucketName::parse(text)?, part: None });
        };
        let bucket = BucketName::parse(bucket)?;
        if part == ">" {
            return Ok(Self { bucket, part: None });
        }
        let pattern = Pattern::parse(part).map_err(KeyspaceError::Part)?;
        for token in part.split('.').filter(|t| *t != "*" && *t != ">") {
            if token.contains(['*', '>']) {
                return Err(KeyspaceError::MixedToken(token.to_owned()));
            }
            let bad = |c: &char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '/' | '_' | '='));
            if let Some(bad) = token.chars().find(bad) {
                return Err(KeyspaceError::KeyCharacter(bad));
            }
        }
        if pattern.ends_in_star() {
            return Err(KeyspaceError::EndsInStar);
        }
        Ok(Self { bucket, part: Some(pattern) })
    }

    /// All of a bucket.
    #[must_use]
    pub fn whole(bucket: BucketName) -> Self {
        Self { bucket, part: None }
    }

    /// The bucket.
    #[must_use]
    pub fn bucket(&self) -> &BucketName {
        &self.bucket
    }

    /// The key pattern, or `None` for the whole bucket.
    #[must_use]
    pub fn part(&self) -> Option<&Pattern> {
        self.part.as_ref()
    }

    /// The same keys of another bucket.
    #[must_use]
    pub fn in_bucket(&self, bucket: BucketName) -> Self {
        Self { bucket, part: self.part.clone() }
    }

    /// The stream that holds the bucket.
    #[must_use]
    pub fn stream(&self) -> String {
        format!("KV_{}", self.bucket)
    }

    /// The subjects of the keyspace as text: `$KV.<bucket>.<keys>`.
    #[must_use]
    pub fn subjects(&self) -> String {
        match &self.part {
            None => format!("$KV.{}.>", self.bucket),
            Some(part) => format!("$KV.{}.{part}", self.bucket),
        }
    }

    /// Whether every key of this keyspace is in `other`.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.bucket == other.bucket
            && match (&self.part, &other.part) {
                (_, None) => true,
                (None, Some(_)) => false,
                (Some(mine), Some(theirs)) => mine.is_subset_of(theirs),
            }
    }

    /// A key that is in both keyspaces, as `bucket/key`, or `None` when they are apart.
    #[must_use]
    pub fn shared_key(&self, other: &Self) -> Option<String> {
        if self.bucket != other.bucket {
            return None;
        }
        let key = match (&self.part, &other.part) {
            (None, None) => "x".to_owned(),
            (Some(part), None) | (None, Some(part)) => part.overlap(part)?.to_string(),
            (Some(mine), Some(theirs)) => mine.overlap(theirs)?.to_string(),
        };
        Some(format!("{}/{key}", self.bucket))
    }

    /// Whether `subject` (`$KV.<bucket>.<key>`) is a key of this keyspace.
    #[must_use]
    pub fn holds(&self, subject: &Subject) -> bool {
        let Some(rest) = subject.as_str().strip_prefix("$KV.") else { return false };
        let Some((bucket, key)) = rest.split_once('.') else { return false };
        bucket == self.bucket.as_str()
            && self.part.as_ref().is_none_or(|part| part.matches_wire(key))
    }
}

impl fmt::Display for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            None => write!(f, "{}", self.bucket),
            Some(part) => write!(f, "{}/{part}", self.bucket),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyspace(text: &str) -> Keyspace {
        Keyspace::parse(text).unwrap()
    }

    #[test]
    fn names_become_subjects() {
        assert_eq!(keyspace("orders").subjects(), "$KV.orders.>");
        assert_eq!(keyspace("orders").stream(), "KV_orders");
        assert_eq!(keyspace("orders/>"), keyspace("orders"));
        assert_eq!(keyspace("fulfilment/line.>").subjects(), "$KV.fulfilment.line.>");
        assert_eq!(keyspace("rates/eur").subjects(), "$KV.rates.eur");
        assert_eq!(keyspace("rates/a/b=c").subjects(), "$KV.rates.a/b=c");
        assert_eq!(keyspace("rates/*.eur").to_string(), "rates/*.eur");
    }

    #[test]
    fn refuses_what_kv_clients_would_not_take() {
        use KeyspaceError::*;
        for (text, error) in [
            ("", NoBucket),
            ("/a", NoBucket),
            ("a b", BucketCharacter(' ')),
            ("a.b", BucketCharacter('.')),
            ("*", BucketWildcard),
            ("or>", BucketWildcard),
            ("a/", Part(SubjectError::Empty)),
            ("a/b..c", Part(SubjectError::EmptyToken(2))),
            ("a/>.b", Part(SubjectError::RestNotLast)),
            ("a/b c", Part(SubjectError::BadCharacter(' '))),
            ("a/b$", KeyCharacter('$')),
            ("a/b*", MixedToken("b*".to_owned())),
            ("a/line.*", EndsInStar),
            ("a/*", EndsInStar),
        ] {
            assert_eq!(Keyspace::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn shares_a_key_or_not() {
        let shared = |a: &str, b: &str| keyspace(a).shared_key(&keyspace(b));
        assert_eq!(shared("a", "b"), None);
        assert_eq!(shared("a", "a").as_deref(), Some("a/x"));
        assert_eq!(shared("a", "a/line.>").as_deref(), Some("a/line.x"));
        assert_eq!(shared("a/line.>", "a/*.eur").as_deref(), Some("a/line.eur"));
        assert_eq!(shared("a/line.>", "a/order.>"), None);
        assert!(keyspace("a/line.>").is_within(&keyspace("a")));
        assert!(!keyspace("a").is_within(&keyspace("a/line.>")));
    }

    #[test]
    fn holds_its_keys_only() {
        let subject = |text: &str| Subject::parse(text).unwrap();
        assert!(keyspace("a/line.>").holds(&subject("$KV.a.line.1")));
        assert!(!keyspace("a/line.>").holds(&subject("$KV.a.line")));
        assert!(!keyspace("a").holds(&subject("$KV.ab.line")));
        assert!(!keyspace("a").holds(&subject("$JS.a.line")));
    }
}
