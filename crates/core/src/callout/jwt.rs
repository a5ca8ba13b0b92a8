//! NATS JWTs: three base64url parts, the third an Ed25519 signature over the first two.
//!
//! `nats-jwt` neither decodes nor verifies, so both are here, and strict: one algorithm, no
//! padding, nothing after the third part.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::keys::{BadSignature, PublicKey, Role, SignError, Signs, Verifier};

/// `{"typ":"JWT","alg":"ed25519-nkey"}` in base64url.
pub(super) const HEADER: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ";
const ALGORITHM: &str = "ed25519-nkey";

/// Why bytes are no NATS JWT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Not three parts separated by dots.
    #[error("not three parts separated by dots")]
    Parts,
    /// A part is not base64url without padding.
    #[error("a part is not base64url without padding")]
    Base64,
    /// The header is not the one NATS uses.
    #[error("the header is not that of an ed25519-nkey JWT")]
    Header,
    /// The signature has another length than 64 bytes.
    #[error("the signature is not 64 bytes long")]
    SignatureLength,
    /// The claims do not fit the type asked for.
    #[error("the claims do not have the expected form")]
    Claims,
    /// There is no signature.
    #[error(transparent)]
    Unsigned(#[from] SignError),
}

/// A token that was split and decoded; its signature is not verified yet.
pub struct Unverified<'a> {
    signed: &'a [u8],
    claims: String,
    signature: [u8; 64],
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    typ: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    alg: std::borrow::Cow<'a, str>,
}

impl<'a> Unverified<'a> {
    /// Splits and decodes a token. The work is linear in its length.
    ///
    /// # Errors
    /// [`JwtError`], which never holds any of the token.
    pub fn split(token: &'a [u8]) -> Result<Self, JwtError> {
        let mut parts = token.split(|b| *b == b'.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JwtError::Parts);
        };
        if header != HEADER.as_bytes() {
            let header = BASE64URL_NOPAD.decode(header).map_err(|_| JwtError::Base64)?;
            let header: Header<'_> =
                serde_json::from_slice(&header).map_err(|_| JwtError::Header)?;
            if !header.typ.eq_ignore_ascii_case("JWT") || header.alg != ALGORITHM {
                return Err(JwtError::Header);
            }
        }
        let signed = token.get(..parts_len(token, signature)).ok_or(JwtError::Parts)?;
        let claims = BASE64URL_NOPAD.decode(claims).map_err(|_| JwtError::Base64)?;
        // Also in fields that nobody looks at: JSON is UTF-8 (RFC 8259), and what one reader takes
        // and another refuses is how two come to see different claims.
        let claims = String::from_utf8(claims).map_err(|_| JwtError::Claims)?;
        let signature = BASE64URL_NOPAD
            .decode(signature)
            .map_err(|_| JwtError::Base64)?
            .try_into()
            .map_err(|_| JwtError::SignatureLength)?;
        Ok(Self { signed, claims, signature })
    }

    /// The claims. What they say is not proved before [`Self::verify`].
    ///
    /// # Errors
    /// [`JwtError::Claims`] when they do not fit `T`.
    pub fn claims<T: for<'de> Deserialize<'de>>(&self) -> Result<T, JwtError> {
        serde_json::from_str(&self.claims).map_err(|_| JwtError::Claims)
    }

    /// Verifies that `key` signed this token, with a verifier that knows it already, maybe.
    ///
    /// # Errors
    /// [`BadSignature`] when it did not.
    pub fn verify_with<K: Role>(
        &self,
        verifier: &Verifier<K>,
        key: &PublicKey<K>,
    ) -> Result<(), BadSignature> {
        verifier.verify(key, self.signed, &self.signature)
    }

    /// Verifies that `key` signed this token.
    ///
    /// # Errors
    /// [`BadSignature`] when it did not.
    pub fn verify<K: Role>(&self, key: &PublicKey<K>) -> Result<(), BadSignature> {
        key.verify(self.signed, &self.signature)
    }
}

/// The length of everything before the last dot.
fn parts_len(token: &[u8], signature: &[u8]) -> usize {
    token.len().saturating_sub(signature.len() + 1)
}

/// Serialises and signs claims. `bytes` is about how long their JSON is: memory that grows is
/// copied.
///
/// # Errors
/// [`JwtError::Claims`] when they cannot be written as JSON, [`JwtError::Unsigned`] when who holds the
/// key does not sign them.
pub fn sign<K>(
    claims: &impl Serialize,
    bytes: usize,
    signer: &impl Signs<K>,
) -> Result<String, JwtError> {
    let mut json = Vec::with_capacity(bytes);
    serde_json::to_writer(&mut json, claims).map_err(|_| JwtError::Claims)?;
    let mut token = String::with_capacity(HEADER.len() + json.len() * 4 / 3 + 96);
    token.push_str(HEADER);
    token.push('.');
    BASE64URL_NOPAD.encode_append(&json, &mut token);
    let signature = signer.signature(token.as_bytes())?;
    token.push('.');
    BASE64URL_NOPAD.encode_append(&signature, &mut token);
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Account, Seed, Signer};
    use proptest::prelude::*;

    #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    struct Claims {
        text: String,
    }

    fn token() -> (String, Signer<Account>) {
        let signer = Signer::new(&Seed::generate()).unwrap();
        (sign(&Claims { text: "hello".to_owned() }, 64, &signer).unwrap(), signer)
    }

    #[test]
    fn what_is_signed_verifies() {
        let (token, signer) = token();
        let split = Unverified::split(token.as_bytes()).unwrap();
        split.verify(signer.public()).unwrap();
        assert_eq!(split.claims::<Claims>().unwrap().text, "hello");
        let other = Signer::<Account>::new(&Seed::generate()).unwrap();
        assert_eq!(split.verify(other.public()), Err(BadSignature));
    }

    #[test]
    fn one_changed_character_is_refused() {
        let (token, signer) = token();
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let accepted =
                Unverified::split(&bytes).is_ok_and(|t| t.verify(signer.public()).is_ok());
            assert!(!accepted, "changed at {at}");
        }
    }

    #[test]
    fn other_headers_are_refused() {
        let (token, _) = token();
        let rest = token.split_once('.').unwrap().1;
        for (header, expected) in [
            (r#"{"typ":"JWT","alg":"none"}"#, Err(JwtError::Header)),
            (r#"{"typ":"JWT","alg":"ed25519"}"#, Err(JwtError::Header)),
            (r#"{"typ":"JWT","alg":"HS256"}"#, Err(JwtError::Header)),
            (r#"{"alg":"ed25519-nkey"}"#, Err(JwtError::Header)),
            (r#"{"alg":"ed25519-nkey","typ":"jwt"}"#, Ok(())),
        ] {
            let changed = format!("{}.{rest}", BASE64URL_NOPAD.encode(header.as_bytes()));
            assert_eq!(Unverified::split(changed.as_bytes()).map(|_| ()), expected, "{header}");
        }
    }

    #[test]
    fn parts_and_padding_are_strict() {
        let (token, _) = token();
        let cut = token.rsplit_once('.').unwrap().0;
        for (bytes, error) in [
            (String::new(), JwtError::Parts),
            (cut.to_owned(), JwtError::Parts),
            (format!("{token}."), JwtError::Parts),
            (format!("{token}="), JwtError::Base64),
            (format!("{token}AAAA"), JwtError::SignatureLength),
        ] {
            assert_eq!(Unverified::split(bytes.as_bytes()).err(), Some(error), "{bytes}");
        }
    }

    #[test]
    fn claims_that_are_not_utf_8_are_refused_wherever_it_is() {
        let claims = BASE64URL_NOPAD.encode(b"{\"text\":\"a\",\"ignored\":\"\xff\"}");
        let signature = BASE64URL_NOPAD.encode(&[0; 64]);
        let token = format!("{HEADER}.{claims}.{signature}");
        assert_eq!(Unverified::split(token.as_bytes()).err(), Some(JwtError::Claims));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Unverified::split(&bytes);
        }
    }
}
