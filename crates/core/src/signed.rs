//! What people sign with user keys of their own: NATS JWTs for one fleet. What they say is for those
//! who define them ([`crate::emergency`], [`crate::authors`]).

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::callout::jwt::{self, JwtError, Unverified};
use crate::diagnostics::{Collector, Problem, Spanned};
use crate::keys::{Signer, User, UserKey};

/// The largest document, in bytes.
pub const MAX_DOCUMENT: usize = 8 * 1024;
/// The longest name of a service or a fleet, in bytes.
pub(crate) const MAX_NAME: usize = 64;

/// A document, with what it says in particular.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Claims<B> {
    pub jti: String,
    pub iss: String,
    pub aud: String,
    pub iat: i64,
    pub exp: i64,
    pub nats: B,
}

/// Why something is no signed document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It is none.
    #[error("{0}")]
    Form(&'static str),
    /// It has no signature of who it says that signed it.
    #[error("its signature does not hold")]
    Signature,
}

/// What a document says, and who signed it. Nothing that it says counts before it is known who said
/// it.
pub(crate) fn open<B: DeserializeOwned>(document: &str) -> Result<(UserKey, Claims<B>), Broken> {
    let token = document.trim();
    if token.len() > MAX_DOCUMENT {
        return Err(Broken::Form("it is too long"));
    }
    let unreadable = |_: JwtError| Broken::Form("it cannot be read");
    let unverified = Unverified::split(token.as_bytes()).map_err(unreadable)?;
    let claims: Claims<B> = unverified.claims().map_err(unreadable)?;
    let by = UserKey::parse(&claims.iss).map_err(|_| Broken::Form("no user key signed it"))?;
    unverified.verify(&by).map_err(|_| Broken::Signature)?;
    Ok((by, claims))
}

/// Signs a document: its id, for which fleet, and from when until when.
pub(crate) fn sign<B: Serialize>(
    (id, fleet): (&str, &str),
    (iat, exp): (i64, i64),
    says: B,
    signer: &Signer<User>,
) -> Result<String, JwtError> {
    let (jti, iss, aud) = (id.to_owned(), signer.public().to_string(), fleet.to_owned());
    jwt::sign(&Claims { jti, iss, aud, iat, exp, nats: says }, 512, signer)
}

/// Whether that may be the name of a fleet.
#[must_use]
pub fn is_fleet(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(allowed)
}

/// Checks what somebody wrote as the name of a fleet.
pub fn check_fleet(fleet: Option<&Spanned<String>>, problems: &Collector) {
    let Some(fleet) = fleet.filter(|fleet| !is_fleet(&fleet.value)) else { return };
    problems.push(
        Problem::error("bad-fleet", "`fleet` cannot be the name of a fleet")
            .at(&fleet.span, "")
            .help("write 1 to 64 letters, digits, `.`, `_` and `-`"),
    );
}

/// The keys of people who may sign, as somebody wrote them. What is none is reported and left out.
pub fn keys<'k>(
    entries: impl IntoIterator<Item = &'k Spanned<String>>,
    problems: &Collector,
) -> Vec<UserKey> {
    let key = |entry: &Spanned<String>| {
        let key = UserKey::parse(&entry.value);
        if let Err(error) = &key {
            // The text is not repeated: it may be a seed.
            problems.push(
                Problem::error("bad-nkey", format!("not a public user NKEY: {error}"))
                    .at(&entry.span, "")
                    .help("`solewriter key public FILE` prints the public key of a seed"),
            );
        }
        key.ok()
    };
    entries.into_iter().filter_map(key).collect()
}
