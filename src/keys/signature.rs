//! Ed25519 signatures: made, and verified strictly.

use std::fmt;
use std::marker::PhantomData;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

use super::nkey::{KeyError, PublicKey, Role, Seed};

impl<K: Role> PublicKey<K> {
    /// Verifies an Ed25519 signature strictly: no small-order key, no malleable signature
    /// (RFC 8032 with the checks of ed25519-dalek's `verify_strict`).
    ///
    /// # Errors
    /// [`BadSignature`] when the signature is not this key's over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
        strictly(&self.decode()?, message, signature)
    }

    fn decode(&self) -> Result<ed25519_dalek::VerifyingKey, BadSignature> {
        ed25519_dalek::VerifyingKey::from_bytes(self.as_bytes()).map_err(|_| BadSignature)
    }
}

/// Verifies signatures of keys that come again and again. Decoding a key is a tenth of what a
/// verification costs, so decoded ones are kept: not before a signature of theirs verified, so that
/// whoever sends garbage cannot push others out.
pub struct Verifier<K: Role> {
    kept: moka::sync::Cache<[u8; 32], ed25519_dalek::VerifyingKey>,
    role: PhantomData<fn(K)>,
}

impl<K: Role> Verifier<K> {
    /// Keeps so many keys at most.
    #[must_use]
    pub fn new(most: u64) -> Self {
        Self { kept: moka::sync::Cache::new(most), role: PhantomData }
    }

    /// As [`PublicKey::verify`], for `key`. Keeps nothing.
    ///
    /// # Errors
    /// [`BadSignature`] when the signature is not that key's over `message`.
    pub fn check(
        &self,
        key: &PublicKey<K>,
        message: &[u8],
        signature: &[u8; 64],
    ) -> Result<(), BadSignature> {
        let decoded = self.kept.get(key.as_bytes()).map_or_else(|| key.decode(), Ok)?;
        strictly(&decoded, message, signature)
    }

    /// Keeps a key that is worth it: one of which [`Verifier::check`] said yes.
    pub fn keep(&self, key: &PublicKey<K>) {
        if !self.kept.contains_key(key.as_bytes())
            && let Ok(decoded) = key.decode()
        {
            self.kept.insert(*key.as_bytes(), decoded);
        }
    }

    /// Checks, and keeps the key if that went well.
    ///
    /// # Errors
    /// As [`Verifier::check`].
    pub fn verify(
        &self,
        key: &PublicKey<K>,
        message: &[u8],
        signature: &[u8; 64],
    ) -> Result<(), BadSignature> {
        self.check(key, message, signature)?;
        self.keep(key);
        Ok(())
    }
}

/// The only place that verifies a signature.
///
/// It says what `verify_strict` says, for a sixth less: that decodes R, which takes a square root,
/// only to see whether its order is small. `verify` accepts nothing but the encoding of the point
/// that it computes itself, and that has one encoding: so R is of small order exactly when it is
/// one of eight texts.
fn strictly(
    key: &ed25519_dalek::VerifyingKey,
    message: &[u8],
    signature: &[u8; 64],
) -> Result<(), BadSignature> {
    use ed25519_dalek::Verifier as _;
    let signature = ed25519_dalek::Signature::from_bytes(signature);
    if key.is_weak() || SMALL_ORDER.contains(signature.r_bytes()) {
        return Err(BadSignature);
    }
    key.verify(message, &signature).map_err(|_| BadSignature)
}

/// The eight points of edwards25519 whose order divides its cofactor, encoded (RFC 8032 §5.1.2):
/// those of order one, two, four (both) and eight (all four).
const SMALL_ORDER: [[u8; 32]; 8] = [
    [
        0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00,
    ],
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0x7f,
    ],
    [
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00,
    ],
    [
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x80,
    ],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x85,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0xfa,
    ],
];

/// A signature did not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct BadSignature;

/// Signs with the key of a seed.
pub struct Signer<K> {
    pair: Ed25519KeyPair,
    public: PublicKey<K>,
}

impl<K: Role> Signer<K> {
    /// Expands a seed into a key pair, once.
    ///
    /// # Errors
    /// [`KeyError`] when the seed is not of this role.
    pub fn new(seed: &Seed<K>) -> Result<Self, KeyError> {
        let raw = seed.raw()?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&*raw).map_err(|_| KeyError::Checksum)?;
        let bytes: [u8; 32] =
            pair.public_key().as_ref().try_into().map_err(|_| KeyError::Checksum)?;
        Ok(Self { pair, public: PublicKey::from_bytes(bytes) })
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> &PublicKey<K> {
        &self.public
    }

    /// An Ed25519 signature (RFC 8032), 64 bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.pair.sign(message);
        let mut bytes = [0; 64];
        // aws-lc-rs documents 64 bytes; were it ever another length, an all-zero signature
        // verifies under no key.
        if signature.as_ref().len() == bytes.len() {
            bytes.copy_from_slice(signature.as_ref());
        }
        bytes
    }
}

impl<K: Role> fmt::Debug for Signer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.public)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
    use curve25519_dalek::traits::Identity as _;
    use curve25519_dalek::{EdwardsPoint, Scalar};

    use super::*;
    use crate::keys::{Server, UserKey};

    #[test]
    fn a_verifier_judges_as_the_key_does_first_and_again() {
        let (signer, other) = (Signer::new(&Seed::generate()).unwrap(), Seed::generate());
        let verifier = Verifier::<Server>::new(10);
        let forged = Signer::<Server>::new(&other).unwrap().sign(b"message");
        for _ in 0..2 {
            assert_eq!(verifier.verify(signer.public(), b"message", &forged), Err(BadSignature));
        }
        verifier.kept.run_pending_tasks();
        assert_eq!(verifier.kept.entry_count(), 0, "nothing that failed is kept");
        let signature = signer.sign(b"message");
        for _ in 0..2 {
            verifier.verify(signer.public(), b"message", &signature).unwrap();
            assert_eq!(verifier.verify(signer.public(), b"message", &forged), Err(BadSignature));
            assert_eq!(verifier.verify(signer.public(), b"massage", &signature), Err(BadSignature));
        }
    }

    #[test]
    fn a_small_order_key_verifies_nothing() {
        use ed25519_dalek::Verifier as _;
        // The neutral element as key: R = sB verifies any message unless strict.
        let bytes = EdwardsPoint::identity().compress().to_bytes();
        let lax = ed25519_dalek::VerifyingKey::from_bytes(&bytes).unwrap();
        let key = UserKey::from_bytes(bytes);
        for s in [Scalar::ZERO, Scalar::ONE] {
            let mut forged = [0; 64];
            let (of_r, of_s) = forged.split_at_mut(32);
            of_r.copy_from_slice((ED25519_BASEPOINT_POINT * s).compress().as_bytes());
            of_s.copy_from_slice(s.as_bytes());
            lax.verify(b"anything", &ed25519_dalek::Signature::from_bytes(&forged)).unwrap();

            assert_eq!(key.verify(b"anything", &forged), Err(BadSignature));
            let kept = Verifier::new(10).verify(&key, b"anything", &forged);
            assert_eq!(kept, Err(BadSignature));
        }
        assert!(UserKey::parse(key.as_str()).is_ok(), "only the signature check stands in its way");
    }

    /// A key and a signature of the message whose R is of small order, for one message in eight:
    /// of the key `A = aB + shift`, `s = ka` gives `R = sB - kA = -k shift`, on which k depends.
    fn of_small_order(shift: &EdwardsPoint, message: &[u8]) -> Option<([u8; 32], [u8; 64])> {
        let a = Scalar::from(7_u64);
        let key = (ED25519_BASEPOINT_POINT * a + shift).compress().to_bytes();
        EIGHT_TORSION.iter().find_map(|r| {
            let r = r.compress().to_bytes();
            let hash = aws_lc_rs::digest::digest(
                &aws_lc_rs::digest::SHA512,
                &[&r[..], &key, message].concat(),
            );
            let k = Scalar::from_bytes_mod_order_wide(hash.as_ref().try_into().unwrap());
            let mut signature = [0; 64];
            let (of_r, of_s) = signature.split_at_mut(32);
            of_r.copy_from_slice(&r);
            of_s.copy_from_slice((k * a).as_bytes());
            let computed =
                ED25519_BASEPOINT_POINT * (k * a) - (ED25519_BASEPOINT_POINT * a + shift) * k;
            (computed.compress().to_bytes() == r).then_some((key, signature))
        })
    }

    #[test]
    fn an_r_of_small_order_is_refused_as_verify_strict_does() {
        use ed25519_dalek::Verifier as _;
        let listed: HashSet<_> = SMALL_ORDER.into_iter().collect();
        assert_eq!(listed, EIGHT_TORSION.iter().map(|p| p.compress().to_bytes()).collect());
        let mut seen = HashSet::new();
        for number in 0..1_000_u32 {
            let shift = &EIGHT_TORSION[number as usize % 8];
            let message = number.to_le_bytes();
            let Some((key, signature)) = of_small_order(shift, &message) else { continue };
            let decoded = ed25519_dalek::VerifyingKey::from_bytes(&key).unwrap();
            let theirs = ed25519_dalek::Signature::from_bytes(&signature);
            assert!(!decoded.is_weak());
            decoded.verify(&message, &theirs).unwrap();
            decoded.verify_strict(&message, &theirs).unwrap_err();
            assert_eq!(strictly(&decoded, &message, &signature), Err(BadSignature));
            seen.insert(*theirs.r_bytes());
        }
        assert_eq!(seen, listed, "each of them was tried");
    }

    proptest::proptest! {
        /// Of signatures with any bit turned, and of any bytes.
        #[test]
        fn strictly_says_what_verify_strict_says(
            message: Vec<u8>,
            seed: [u8; 32],
            turned in 0_usize..800,
            garbage: [u8; 64],
        ) {
            let signing = ed25519_dalek::SigningKey::from_bytes(&seed);
            let mut signature = ed25519_dalek::Signer::sign(&signing, &message).to_bytes();
            if let Some(byte) = signature.get_mut(turned / 8) {
                *byte ^= 1 << (turned % 8);
            }
            let key = signing.verifying_key();
            for signature in [signature, garbage] {
                let theirs = key.verify_strict(
                    &message,
                    &ed25519_dalek::Signature::from_bytes(&signature),
                );
                proptest::prop_assert_eq!(
                    strictly(&key, &message, &signature).is_ok(),
                    theirs.is_ok()
                );
            }
        }
    }
}
