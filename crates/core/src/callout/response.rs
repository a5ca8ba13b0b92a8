//! From an answer to the bytes that go back to the server.

use serde_json::value::RawValue;

use super::claims;
use super::jwt::{self, JwtError};
use crate::callout::xkey::Sealer;
use crate::keys::{AccountKey, AccountSigner, CurveKey, ServerKey, UserKey};

/// What claims have besides the permissions or the inner token, in bytes: keys, names, times.
const REST: usize = 768;

/// What differs from one response to the next, apart from the answer.
pub struct Envelope<'a> {
    /// The issuer account, or in operator mode a key of the account that asks.
    pub issuer: &'a AccountSigner,
    /// In operator mode, the account that asks.
    pub issuer_account: Option<&'a AccountKey>,
    /// The server that asked.
    pub server: &'a ServerKey,
    /// The connection's key.
    pub user_nkey: &'a UserKey,
    /// Identifies this answer; random.
    pub id: &'a str,
    /// Seconds since the Unix epoch.
    pub now: i64,
}

/// What a user JWT says.
pub struct UserToken<'a> {
    /// The name that the server shows for the connection.
    pub name: &'a str,
    /// The account that the connection is placed in: its name, or what signs for it.
    pub account: Target<'a>,
    /// When the server closes the connection, in seconds since the Unix epoch.
    pub expires: i64,
    /// Permissions and limits, as JSON.
    pub claims: &'a RawValue,
}

/// Where a connection is placed.
pub enum Target<'a> {
    /// The account of that name, by the issuer's word.
    Named(&'a str),
    /// The account that this is a key of, in operator mode.
    SignedBy(&'a AccountSigner),
}

impl Envelope<'_> {
    /// A signed response that lets the connection in.
    ///
    /// # Errors
    /// [`JwtError`] when the claims cannot be written as JSON, or are not signed.
    pub fn grant(&self, user: &UserToken<'_>) -> Result<String, JwtError> {
        let (signer, audience) = match user.account {
            Target::Named(account) => (self.issuer, Some(account)),
            Target::SignedBy(signer) => (signer, None),
        };
        let token = jwt::sign(
            &claims::User {
                jti: self.id,
                iat: self.now,
                iss: signer.public().as_str(),
                name: user.name,
                sub: self.user_nkey.as_str(),
                aud: audience,
                exp: user.expires,
                nats: user.claims,
            },
            user.claims.get().len() + REST,
            signer,
        )?;
        self.respond(Some(&token), None)
    }

    /// A signed response that refuses the connection. `error` shows in the server's log only.
    ///
    /// # Errors
    /// [`JwtError`] when the claims cannot be written as JSON, or are not signed.
    pub fn refuse(&self, error: &str) -> Result<String, JwtError> {
        self.respond(None, Some(error))
    }

    fn respond(&self, jwt: Option<&str>, error: Option<&str>) -> Result<String, JwtError> {
        jwt::sign(
            &claims::Response {
                jti: self.id,
                iat: self.now,
                iss: self.issuer.public().as_str(),
                sub: self.user_nkey.as_str(),
                aud: self.server.as_str(),
                nats: claims::ResponseBody {
                    jwt,
                    error,
                    issuer_account: self.issuer_account.map(AccountKey::as_str),
                    kind: claims::RESPONSE_TYPE,
                    version: claims::VERSION,
                },
            },
            jwt.or(error).map_or(0, str::len) + REST,
            self.issuer,
        )
    }
}

/// Seals a response when its request was sealed.
///
/// # Errors
/// `None` when the request was sealed and no sealer is at hand, or the cipher refused: then
/// nothing may be sent, least of all in the clear.
#[must_use]
pub fn seal(
    response: String,
    recipient: Option<&CurveKey>,
    sealer: Option<&Sealer>,
    nonce: &[u8; 24],
) -> Option<Vec<u8>> {
    match (recipient, sealer) {
        (None, _) => Some(response.into_bytes()),
        (Some(recipient), Some(sealer)) => sealer.seal(response.as_bytes(), recipient, nonce).ok(),
        (Some(_), None) => None,
    }
}
