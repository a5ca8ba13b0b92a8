//! The name of a connection: the only thing that nats-server keeps of an answer.
//!
//! It stands in the server's log, in CONNZ (`authorized_user`) and in its events, in place of the
//! key. So it has to lead back to everything that the connection was let in by.

use std::fmt::{self, Write as _};

use crate::callout::decide::Granted;
use crate::keys::{PUBLIC_KEY_CHARS, UserKey};

/// The longest name that is looked at, in bytes; a service's own name is the longest part.
const MAX_BYTES: usize = 1024;
/// The digits of a SHA-256 in hexadecimal. So many and no fewer decide: people search a server's
/// log for the first of them, which they are shown.
const WHOLE: usize = 64;
/// The digits of a time in seconds, at most.
const TIME: usize = 12;
/// What a name has besides the service, in bytes.
const REST: usize = PUBLIC_KEY_CHARS + 2 * WHOLE + 2 * TIME + 5;
/// The last time of so many digits.
const MAX_TIME: i64 = 999_999_999_999;

/// `<service>/<nkey>/<policy revision>/<grant digest>/<when the server asked>/<when it ends>`.
///
/// Older versions gave names without the end; and older ones yet without the time, with the first
/// 12 digits of the revision and the first 16 of the digest, or none of it. Those last are read,
/// and never taken for what is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionName {
    /// The service.
    pub service: String,
    /// Its key.
    pub key: UserKey,
    /// The policy revision that decided.
    pub revision: String,
    /// The digest of the grant ([`crate::grant::Digest`]).
    pub digest: Option<String>,
    /// When the server asked for it, on the server's own clock, in seconds since the Unix epoch;
    /// `None` in a name that an older version gave.
    pub asked: Option<i64>,
    /// When the permissions end, in seconds since the Unix epoch; `None` in a name that an older
    /// version gave.
    pub expires: Option<i64>,
}

impl ConnectionName {
    /// The name that a grant gives.
    #[must_use]
    pub fn of(granted: &Granted) -> Self {
        let (identity, grant) = (granted.identity(), granted.grant());
        Self {
            service: grant.service().to_string(),
            key: *identity.key(),
            revision: granted.revision().whole().to_owned(),
            digest: Some(grant.digest().to_string()),
            asked: Some(identity.request().asked().max(0)),
            expires: Some(granted.expires().clamp(0, MAX_TIME)),
        }
    }

    /// The name as the server is told it. Memory that grows is copied, and each answer has one: so
    /// there is room for all of it from the beginning.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(self.service.len() + REST);
        // Writing to a `String` does not fail.
        let _ = write!(text, "{self}");
        text
    }

    /// Reads a name; `None` when it is none that solewriter gives.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let mut parts = text.split('/');
        let (service, key, revision) = (parts.next()?, parts.next()?, parts.next()?);
        let (digest, asked, expires) = (parts.next(), parts.next(), parts.next());
        if parts.next().is_some() || !is_service(service) {
            return None;
        }
        let (asked, expires) = match (digest, asked) {
            (Some(digest), Some(asked)) if is_hex(revision, WHOLE) && is_hex(digest, WHOLE) => {
                let expires = expires.map(|expires| seconds(expires).ok_or(())).transpose().ok()?;
                (Some(seconds(asked)?), expires)
            }
            (digest, None) if is_hex(revision, 12) && digest.is_none_or(|d| is_hex(d, 16)) => {
                (None, None)
            }
            _ => return None,
        };
        Some(Self {
            service: service.to_owned(),
            key: UserKey::parse(key).ok()?,
            revision: revision.to_owned(),
            digest: digest.map(ToOwned::to_owned),
            asked,
            expires,
        })
    }
}

fn is_service(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn seconds(text: &str) -> Option<i64> {
    let digits = !text.is_empty() && text.len() <= TIME && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for ConnectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, key, revision, digest, asked, expires } = self;
        for part in [service, "/", key.as_str(), "/", revision] {
            f.write_str(part)?;
        }
        if let Some(digest) = digest {
            f.write_str("/")?;
            f.write_str(digest)?;
        }
        for time in asked.iter().chain(expires) {
            f.write_str("/")?;
            time.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Seed, Signer, User};

    fn key() -> UserKey {
        *Signer::new(&Seed::<User>::generate()).unwrap().public()
    }

    #[test]
    fn a_name_reads_back_as_it_was_written() {
        let name = |revision: &str, digest: Option<&str>, asked, expires| ConnectionName {
            service: "orders".to_owned(),
            key: key(),
            revision: revision.to_owned(),
            digest: digest.map(ToOwned::to_owned),
            asked,
            expires,
        };
        let (whole, short) = ("0123456789abcdef".repeat(4), "0123456789ab");
        for name in [
            name(&whole, Some(&whole), Some(1_795_000_000), Some(1_795_003_600)),
            name(&whole, Some(&whole), Some(0), Some(MAX_TIME)),
            name(&whole, Some(&whole), Some(1_795_000_000), None),
            name(short, Some("0123456789abcdef"), None, None),
            name(short, None, None, None),
        ] {
            assert_eq!(ConnectionName::parse(&name.to_string()), Some(name));
        }
    }

    #[test]
    fn what_is_not_ours_is_no_name() {
        let key = key().to_string();
        let whole = "0123456789abcdef".repeat(4);
        let (short, digest) = ("0123456789ab", "0123456789abcdef");
        for other in [
            String::new(),
            "admin".to_owned(),
            key.clone(),
            format!("/{key}/{whole}/{whole}/1"),
            format!("a/{key}/{whole}/{whole}/1/more"),
            format!("a/{key}/{whole}/{whole}/1/"),
            format!("a/{key}/{whole}/{whole}/1/2/3"),
            format!("a/{key}/{whole}/{whole}/1/9999999999999"),
            format!("a/{key}/{short}/{digest}/1/2"),
            format!("a/{key}/{whole}/{whole}/"),
            format!("a/{key}/{whole}/{whole}/-1"),
            format!("a/{key}/{whole}/{whole}/+1"),
            format!("a/{key}/{whole}/{whole}/9999999999999"),
            // Neither what this version gives nor what an older one gave.
            format!("a/{key}/{whole}/{whole}"),
            format!("a/{key}/{whole}"),
            format!("a/{key}/{short}/{digest}/1"),
            format!("a/{key}/{whole}/{digest}/1"),
            format!("a/{key}/{short}/{whole}/1"),
            format!("a/{key}/{short}/{}", &digest[1..]),
            format!("nkey:a/{key}/{whole}/{whole}/1"),
            format!("a b/{key}/{whole}/{whole}/1"),
            format!("a/{key}/0123456789AB/{digest}"),
            format!("a/{}/{short}/{digest}", &key[1..]),
            format!("{}/{key}/{whole}/{whole}/1", "x".repeat(MAX_BYTES)),
        ] {
            assert_eq!(ConnectionName::parse(&other), None, "{other}");
        }
    }
}
