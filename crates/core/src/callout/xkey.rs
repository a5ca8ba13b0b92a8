//! Sealed payloads: `xkv1`, a 24-byte nonce, then a `NaCl` box (X25519, XSalsa20-Poly1305).
//!
//! Deriving the shared key costs ten times what sealing does, so it is kept per server. A key
//! is kept only once a payload opened with it: whoever sends garbage cannot push servers out.

use std::sync::Arc;

use crypto_box::SalsaBox;
use crypto_box::aead::AeadInPlace;

use crate::keys::{CurveKey, CurveSecret};

/// Starts every sealed payload.
const VERSION: &[u8] = b"xkv1";
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// Servers whose shared key is kept. A cluster has far fewer.
const KEPT_SERVERS: u64 = 1024;

/// A payload did not open: not sealed, cut, changed, or sealed to or by another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the payload cannot be opened with the configured xkey")]
pub struct OpenError;

/// Opens what servers seal, and seals answers to them.
pub struct Sealer {
    secret: CurveSecret,
    shared: moka::sync::Cache<CurveKey, Arc<SalsaBox>>,
}

impl Sealer {
    /// A sealer with our own curve key.
    #[must_use]
    pub fn new(secret: CurveSecret) -> Self {
        Self { secret, shared: moka::sync::Cache::new(KEPT_SERVERS) }
    }

    /// The public key that servers seal to (`auth_callout.xkey`).
    #[must_use]
    pub fn public(&self) -> &CurveKey {
        self.secret.public()
    }

    /// How many servers' keys are kept ready.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.shared.run_pending_tasks();
        self.shared.entry_count()
    }

    /// Opens a payload that `sender` sealed to us.
    ///
    /// # Errors
    /// [`OpenError`], whatever the reason.
    pub fn open(&self, sealed: &[u8], sender: &CurveKey) -> Result<Vec<u8>, OpenError> {
        let body = sealed.strip_prefix(VERSION).ok_or(OpenError)?;
        let (nonce, body) = body.split_at_checked(NONCE_BYTES).ok_or(OpenError)?;
        let known = self.shared.get(sender);
        let shared = known.clone().unwrap_or_else(|| Arc::new(self.secret.shared_with(sender)));
        let mut plain = body.to_vec();
        shared.decrypt_in_place(nonce.into(), b"", &mut plain).map_err(|_| OpenError)?;
        if known.is_none() {
            self.shared.insert(*sender, shared);
        }
        Ok(plain)
    }

    /// Seals a payload to `recipient`. `nonce` must be fresh randomness for each call.
    ///
    /// # Errors
    /// [`OpenError`] only if the cipher refuses, which it does for no length in use here.
    pub fn seal(
        &self,
        plain: &[u8],
        recipient: &CurveKey,
        nonce: &[u8; NONCE_BYTES],
    ) -> Result<Vec<u8>, OpenError> {
        let shared = self
            .shared
            .get(recipient)
            .unwrap_or_else(|| Arc::new(self.secret.shared_with(recipient)));
        let mut body = Vec::with_capacity(plain.len() + TAG_BYTES);
        body.extend_from_slice(plain);
        shared.encrypt_in_place(nonce.into(), b"", &mut body).map_err(|_| OpenError)?;
        let mut sealed = Vec::with_capacity(VERSION.len() + NONCE_BYTES + body.len());
        sealed.extend_from_slice(VERSION);
        sealed.extend_from_slice(nonce);
        sealed.extend_from_slice(&body);
        Ok(sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Seed;
    use proptest::prelude::*;

    fn sealer() -> (Sealer, nkeys::XKey) {
        let seed = Seed::generate();
        let theirs = nkeys::XKey::from_seed(seed.expose()).unwrap();
        (Sealer::new(CurveSecret::new(&seed).unwrap()), theirs)
    }

    #[test]
    fn interoperates_with_nkeys() {
        let (ours, _) = sealer();
        let our_public = nkeys::XKey::from_public_key(ours.public().as_str()).unwrap();
        let server = nkeys::XKey::new();
        let server_public = CurveKey::parse(&server.public_key()).unwrap();
        // Twice: first deriving the shared key, then with the one kept.
        for nonce in [[1; 24], [2; 24]] {
            let sealed = server.seal(b"a request", &our_public).unwrap();
            assert_eq!(ours.open(&sealed, &server_public).unwrap(), b"a request");
            let answer = ours.seal(b"an answer", &server_public, &nonce).unwrap();
            assert_eq!(server.open(&answer, &our_public).unwrap(), b"an answer");
        }
    }

    #[test]
    fn another_key_or_a_changed_byte_does_not_open() {
        let (ours, _) = sealer();
        let (other, _) = sealer();
        let our_public = nkeys::XKey::from_public_key(ours.public().as_str()).unwrap();
        let server = nkeys::XKey::new();
        let server_public = CurveKey::parse(&server.public_key()).unwrap();
        let sealed = server.seal(b"a request", &our_public).unwrap();
        assert_eq!(other.open(&sealed, &server_public), Err(OpenError));
        assert_eq!(ours.open(&sealed, other.public()), Err(OpenError));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(ours.open(&changed, &server_public), Err(OpenError), "at {at}");
            assert_eq!(ours.open(&sealed[..at], &server_public), Err(OpenError), "cut at {at}");
        }
        assert_eq!(ours.shared.entry_count(), 0, "nothing that failed is kept");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let (ours, _) = sealer();
            let _ = ours.open(&[VERSION, &bytes].concat(), ours.public());
        }
    }
}
