//! Break glass: documents with which a person whom the settings name gives a keyspace to another
//! service for a short time, and ends that early.
//!
//! A document is a NATS JWT that the person's user key signed. Holding an [`Emergency`] is proof that
//! its signature, its signer, its fleet and its length were checked: [`Rules::read`] makes it, and
//! nothing else does. Whether it counts at a time is [`Emergency::stands`]; what it does to a policy,
//! [`crate::policy::validate::validate_with`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::callout::jwt::{JwtError, Unverified};
use crate::keys::{Signer, User, UserKey};
pub use crate::signed::MAX_DOCUMENT;
use crate::signed::{self, Broken, Claims, MAX_NAME};
use solewriter_types::clean;
use solewriter_types::keyspace::Keyspace;

/// The longest reason, in characters.
pub const MAX_REASON: usize = 500;
/// The longest that a grant may last, whatever the settings say.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How many seconds a document's beginning may be ahead of the clock here: clocks differ.
pub const AHEAD: i64 = 120;

const GRANT: &str = "solewriter-emergency-grant";
const END: &str = "solewriter-emergency-end";
/// What a document says of its form.
const VERSION: u32 = 1;

/// Who may sign, for which fleet, and for how long: what the settings say.
/// By default nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The keys of the people who may.
    pub keys: Vec<UserKey>,
    /// What this fleet is called: a document for another one counts for nothing here.
    pub fleet: String,
    /// The longest that a grant may last.
    pub longest: Duration,
}

/// Why a document grants nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is none.
    #[error("it is no document of an emergency: {0}")]
    Form(&'static str),
    /// It has no signature of who it says that signed it.
    #[error("its signature does not hold")]
    Signature,
    /// The settings do not name the key that signed it.
    #[error("{0} signed it, who is not in [emergency] keys")]
    Key(UserKey),
    /// It is for others.
    #[error("it is for the fleet {0:?}, and this is {1:?}")]
    Fleet(String, String),
    /// It lasts too long.
    #[error("it lasts for {0} s, and [emergency] longest is {1} s")]
    TooLong(i64, u64),
    /// It begins in the future.
    #[error("it begins in {0} s: the clocks of who signed it and of this machine differ")]
    Future(i64),
}

impl From<Broken> for Refused {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Form(why) => Self::Form(why),
            Broken::Signature => Self::Signature,
        }
    }
}

impl Refused {
    /// A short, stable name for logs and audit events.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Form(_) => "form",
            Self::Signature => "signature",
            Self::Key(_) => "key",
            Self::Fleet(..) => "fleet",
            Self::TooLong(..) => "too_long",
            Self::Future(_) => "future",
        }
    }
}

/// What a document says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(rename = "type")]
    kind: String,
    version: u32,
    /// Of a grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    /// Of a grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keyspace: Option<String>,
    /// Of an end: the id of the grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends: Option<String>,
    reason: String,
}

/// A grant whose signature holds, by somebody who may, for this fleet, and not too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emergency {
    id: String,
    by: UserKey,
    service: String,
    keyspace: Keyspace,
    from: i64,
    until: i64,
    reason: String,
    token: String,
}

/// The early end of a grant, as proved as that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The id of the grant that it ends.
    pub ends: String,
    /// Who signed it.
    pub by: UserKey,
    /// Why.
    pub reason: String,
}

/// A document that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// It grants.
    Grant(Emergency),
    /// It ends a grant early.
    End(End),
}

/// Whether a grant counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not yet.
    Waits,
    /// Now.
    On,
    /// No more.
    Over,
}

impl Rules {
    /// Checks a document. `now` is in seconds since the Unix epoch.
    ///
    /// # Errors
    /// Why it grants nothing.
    pub fn read(&self, document: &str, now: i64) -> Result<Document, Refused> {
        let (by, claims) = signed::open(document)?;
        let Claims { jti, iss: _, aud, iat, exp, nats } = claims;
        if !self.keys.contains(&by) {
            return Err(Refused::Key(by));
        }
        if aud != self.fleet {
            return Err(Refused::Fleet(clean::line(&aud).into_owned(), self.fleet.clone()));
        }
        let Body { kind, version, service, keyspace, ends, reason } = nats;
        if version != VERSION {
            return Err(Refused::Form("another version of solewriter made it"));
        }
        if !is_id(&jti) || reason.chars().count() > MAX_REASON {
            return Err(Refused::Form("a text in it is too long"));
        }
        if iat.saturating_sub(now) > AHEAD {
            return Err(Refused::Future(iat.saturating_sub(now)));
        }
        match (kind.as_str(), service, keyspace, ends) {
            (END, None, None, Some(ends)) if is_id(&ends) => {
                Ok(Document::End(End { ends, by, reason }))
            }
            (GRANT, Some(service), Some(keyspace), None) => {
                let lasts = exp.saturating_sub(iat);
                let longest = self.longest.min(LONGEST).as_secs();
                if u64::try_from(lasts).is_ok_and(|lasts| lasts > longest) {
                    return Err(Refused::TooLong(lasts, longest));
                }
                if lasts <= 0 || service.len() > MAX_NAME {
                    return Err(Refused::Form("it ends before it begins, or names no service"));
                }
                let keyspace = Keyspace::parse(&keyspace)
                    .map_err(|_| Refused::Form("its keyspace is none"))?;
                let token = document.trim().to_owned();
                let (id, from, until) = (jti, iat, exp);
                let grant = Emergency { id, by, service, keyspace, from, until, reason, token };
                Ok(Document::Grant(grant))
            }
            _ => Err(Refused::Form("it neither grants nor ends anything")),
        }
    }
}

/// What the person who signs wants.
#[derive(Clone, Debug)]
pub struct Wish<'w> {
    /// The id of the document, made of random bytes.
    pub id: &'w str,
    /// The fleet.
    pub fleet: &'w str,
    /// When it is signed, in seconds since the Unix epoch.
    pub now: i64,
    /// Why.
    pub reason: &'w str,
}

impl Wish<'_> {
    /// Signs a grant that lasts so long.
    ///
    /// # Errors
    /// [`JwtError`] when it cannot be written.
    pub fn grant(
        &self,
        service: &str,
        keyspace: &Keyspace,
        lasts: Duration,
        signer: &Signer<User>,
    ) -> Result<String, JwtError> {
        let until = self.now.saturating_add(i64::try_from(lasts.as_secs()).unwrap_or(i64::MAX));
        let (service, keyspace) = (Some(service.to_owned()), Some(keyspace.to_string()));
        self.sign(until, (GRANT, service, keyspace, None), signer)
    }

    /// Signs the early end of a grant. It counts for as long as any grant lasts.
    ///
    /// # Errors
    /// [`JwtError`] when it cannot be written.
    pub fn end(&self, grant: &str, signer: &Signer<User>) -> Result<String, JwtError> {
        let until = self.now.saturating_add(i64::try_from(LONGEST.as_secs()).unwrap_or(i64::MAX));
        self.sign(until, (END, None, None, Some(grant.to_owned())), signer)
    }

    fn sign(
        &self,
        exp: i64,
        about: (&str, Option<String>, Option<String>, Option<String>),
        signer: &Signer<User>,
    ) -> Result<String, JwtError> {
        let (kind, service, keyspace, ends) = about;
        let reason = self.reason.to_owned();
        let nats =
            Body { kind: kind.to_owned(), version: VERSION, service, keyspace, ends, reason };
        signed::sign((self.id, self.fleet), (self.now, exp), nats, signer)
    }
}

impl Emergency {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Who signed it.
    #[must_use]
    pub fn by(&self) -> &UserKey {
        &self.by
    }

    /// Who is to write.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// What.
    #[must_use]
    pub fn keyspace(&self) -> &Keyspace {
        &self.keyspace
    }

    /// When it begins, in seconds since the Unix epoch.
    #[must_use]
    pub fn from(&self) -> i64 {
        self.from
    }

    /// When it ends.
    #[must_use]
    pub fn until(&self) -> i64 {
        self.until
    }

    /// Why, in the words of who signed it.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The document itself.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Whether it counts at that time, in seconds since the Unix epoch.
    #[must_use]
    pub fn stands(&self, now: i64) -> Standing {
        if now >= self.until {
            Standing::Over
        } else if now < self.from {
            Standing::Waits
        } else {
            Standing::On
        }
    }
}

/// Whether a document says itself that it has ended by that time, whoever wrote it.
#[must_use]
pub fn claims_to_be_over(document: &str, now: i64) -> bool {
    let token = document.trim();
    let read =
        || -> Result<Claims<Body>, JwtError> { Unverified::split(token.as_bytes())?.claims() };
    token.len() <= MAX_DOCUMENT && read().is_ok_and(|claims| claims.exp <= now)
}

/// An id from random bytes.
#[must_use]
pub fn id(random: [u8; 10]) -> String {
    data_encoding::BASE32_NOPAD.encode(&random).to_lowercase()
}

/// Whether that may be an id: it is a part of file names, and of what is printed.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b))
}

#[cfg(test)]
mod tests;
