//! The name of a connection: the only thing that nats-server keeps of an answer.
//!
//! It stands in the server's log, in CONNZ (`authorized_user`) and in its events, in place of the
//! key. So it has to lead back to everything that the connection was let in by.

use std::fmt;

use crate::decide::Granted;
use crate::keys::UserKey;

/// The longest name that is looked at, in bytes; a service's own name is the longest part.
const MAX_BYTES: usize = 1024;

/// `<service>/<nkey>/<policy revision>/<grant digest>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionName {
    /// The service.
    pub service: String,
    /// Its key.
    pub key: UserKey,
    /// The policy revision that decided.
    pub revision: String,
    /// The digest of the grant ([`crate::permissions::Digest`]); `None` in the names that
    /// solewriter 0.1 gave.
    pub digest: Option<String>,
}

impl ConnectionName {
    /// The name that a grant gives.
    #[must_use]
    pub fn of(granted: &Granted) -> Self {
        Self {
            service: granted.grant.service().to_string(),
            key: granted.key,
            revision: granted.revision.to_string(),
            digest: Some(granted.grant.digest().to_string()),
        }
    }

    /// Reads a name; `None` when it is none that solewriter gives.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let mut parts = text.split('/');
        let (service, key, revision) = (parts.next()?, parts.next()?, parts.next()?);
        let digest = parts.next();
        if parts.next().is_some() || !is_service(service) || !is_hex(revision, 12) {
            return None;
        }
        if digest.is_some_and(|digest| !is_hex(digest, 16)) {
            return None;
        }
        Some(Self {
            service: service.to_owned(),
            key: UserKey::parse(key).ok()?,
            revision: revision.to_owned(),
            digest: digest.map(ToOwned::to_owned),
        })
    }
}

fn is_service(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl fmt::Display for ConnectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, key, revision, digest } = self;
        write!(f, "{service}/{key}/{revision}")?;
        digest.iter().try_for_each(|digest| write!(f, "/{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Seed, Signer, User};

    #[test]
    fn a_name_reads_back_as_it_was_written() {
        let key = *Signer::new(&Seed::<User>::generate()).unwrap().public();
        for digest in [Some("0123456789abcdef".to_owned()), None] {
            let name = ConnectionName {
                service: "orders".to_owned(),
                key,
                revision: "0123456789ab".to_owned(),
                digest,
            };
            assert_eq!(ConnectionName::parse(&name.to_string()), Some(name));
        }
    }

    #[test]
    fn what_is_not_ours_is_no_name() {
        let key = Signer::new(&Seed::<User>::generate()).unwrap().public().to_string();
        let (revision, digest) = ("0123456789ab", "0123456789abcdef");
        for other in [
            String::new(),
            "admin".to_owned(),
            key.clone(),
            format!("/{key}/{revision}/{digest}"),
            format!("nkey:a/{key}/{revision}/{digest}"),
            format!("a b/{key}/{revision}/{digest}"),
            format!("a/{key}/{revision}/{digest}/more"),
            format!("a/{key}/{revision}/{}", &digest[1..]),
            format!("a/{key}/0123456789AB/{digest}"),
            format!("a/{}/{revision}/{digest}", &key[1..]),
            format!("{}/{key}/{revision}/{digest}", "x".repeat(MAX_BYTES)),
        ] {
            assert_eq!(ConnectionName::parse(&other), None, "{other}");
        }
    }
}
