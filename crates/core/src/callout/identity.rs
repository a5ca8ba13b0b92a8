//! Who is connecting, proved.
//!
//! nats-server does not check the client's NKEY for a callout: it hands over the claimed key, the
//! nonce and the signature. Whoever skips this check lets everyone be anyone.

use std::fmt;
use std::sync::Arc;

use data_encoding::{BASE64, BASE64URL_NOPAD};

use crate::callout::request::VerifiedRequest;
use crate::keys::{KeyError, User, UserKey, Verifier};
use solewriter_types::connection_type::ConnectionType;

/// A request whose client holds the private key of `key`. Made only by [`prove`].
#[derive(Clone)]
pub struct Identity {
    request: Arc<VerifiedRequest>,
    key: UserKey,
}

impl Identity {
    /// The proved public key.
    #[must_use]
    pub fn key(&self) -> &UserKey {
        &self.key
    }

    /// The request that proves it.
    #[must_use]
    pub fn request(&self) -> &Arc<VerifiedRequest> {
        &self.request
    }
}

impl fmt::Debug for Identity {
    /// The key alone: a request has what its client offered as proof.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Why a client did not prove who it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproved {
    /// Nothing was offered.
    #[error("the client offered no credential; it has to connect with its NKEY seed")]
    NoCredential,
    /// Something else than an NKEY, or something beside it.
    #[error("the client offered {0}; it has to connect with its NKEY seed and nothing else")]
    OtherCredential(&'static str),
    /// It came by MQTT, which has no nonce and no signature.
    #[error(
        "it came by MQTT, which gives a device nothing to sign, so none can be a service: connect \
         it by NATS or WebSocket with its NKEY seed, or make it a user of nats-server's own \
         configuration, in an account apart from the services'"
    )]
    Mqtt,
    /// The claimed key is no user key.
    #[error("the client's nkey is not a user key: {0}")]
    BadKey(KeyError),
    /// A key and no signature.
    #[error("the client sent its public key {0} without a signature")]
    NoSignature(UserKey),
    /// The server asked for no signature.
    #[error(
        "the server sent no nonce, so {0} could not prove itself; nats-server sends one only \
         when its configuration has an nkey user (the callout's own user is enough)"
    )]
    NoNonce(UserKey),
    /// The signature is neither base64 form, or not 64 bytes.
    #[error("the signature of {0} is not 64 bytes in base64")]
    SignatureForm(UserKey),
    /// The signature is not that key's over that nonce.
    #[error(
        "the signature of {0} over the nonce does not verify; the client does not have that seed"
    )]
    BadSignature(UserKey),
}

impl Unproved {
    /// The key that was claimed, where it was one.
    #[must_use]
    pub fn claimed(&self) -> Option<&UserKey> {
        match self {
            Self::NoCredential | Self::OtherCredential(_) | Self::Mqtt | Self::BadKey(_) => None,
            Self::NoSignature(key)
            | Self::NoNonce(key)
            | Self::SignatureForm(key)
            | Self::BadSignature(key) => Some(key),
        }
    }
}

/// Proves that the client holds the key it claims: a strict verification of its signature over
/// the server's nonce. `clients` may have keys decoded already.
///
/// # Errors
/// [`Unproved`] with the reason, for operators only.
pub fn prove(
    request: &Arc<VerifiedRequest>,
    clients: &Verifier<User>,
) -> Result<Identity, Unproved> {
    // Whatever it offers: a password, and in operator mode a JWT, which everybody may have.
    if request.client().connection == Some(ConnectionType::Mqtt) {
        return Err(Unproved::Mqtt);
    }
    let offered = &request.credentials;
    if let Some(what) = offered.other {
        return Err(Unproved::OtherCredential(what));
    }
    // nats-server drops a client's JWT before it asks, and leaves the signature that came with it.
    if offered.nkey.is_empty() && !offered.signature.is_empty() {
        return Err(Unproved::OtherCredential("a signature without a key, as with a .creds file"));
    }
    if offered.nkey.is_empty() {
        return Err(Unproved::NoCredential);
    }
    let key = UserKey::parse(&offered.nkey).map_err(Unproved::BadKey)?;
    if offered.signature.is_empty() {
        return Err(Unproved::NoSignature(key));
    }
    if offered.nonce.is_empty() {
        return Err(Unproved::NoNonce(key));
    }
    let signature = decode(&offered.signature).ok_or(Unproved::SignatureForm(key))?;
    let nonce = offered.nonce.as_bytes();
    clients.check(&key, nonce, &signature).map_err(|_| Unproved::BadSignature(key))?;
    Ok(Identity { request: request.clone(), key })
}

/// Most clients send base64url without padding; nats.py sends standard base64 with padding.
fn decode(signature: &str) -> Option<[u8; 64]> {
    let bytes = signature.as_bytes();
    let decoded = BASE64URL_NOPAD.decode(bytes).or_else(|_| BASE64.decode(bytes)).ok()?;
    decoded.try_into().ok()
}
