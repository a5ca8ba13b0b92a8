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

    /// How many keys are kept.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.kept.run_pending_tasks();
        self.kept.entry_count()
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
/// one of eight texts. `docs/signatures.md` has the whole argument and its tests.
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

    /// k of RFC 8032: the hash of R, A and the message, as a scalar.
    fn challenge(r: &[u8; 32], key: &[u8; 32], message: &[u8]) -> Scalar {
        let text = [&r[..], key, message].concat();
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, &text);
        Scalar::from_bytes_mod_order_wide(hash.as_ref().try_into().unwrap())
    }

    fn joined(r: &[u8; 32], s: &[u8; 32]) -> [u8; 64] {
        [&r[..], s].concat().try_into().unwrap()
    }

    /// `s` with so many times the order of the base point on top: the same scalar, written longer.
    fn and_orders(s: &Scalar, times: u8) -> [u8; 32] {
        let mut bytes = *s.as_bytes();
        for _ in 0..times {
            // The order is one more than the largest scalar.
            let mut carry = 1_u16;
            for (byte, more) in bytes.iter_mut().zip((-Scalar::ONE).as_bytes()) {
                carry += u16::from(*byte) + u16::from(*more);
                *byte = carry.to_le_bytes()[0];
                carry >>= 8;
            }
            assert_eq!(carry, 0, "it fits");
        }
        bytes
    }

    /// A key and a signature of which everything is known: `A = aB + T`, `R = rB + T'`,
    /// `s = r + ka`. So `sB = R + kA` holds but for what is left of the torsion, `T' + kT`.
    #[derive(Clone, Copy)]
    struct Made {
        a: u64,
        of_key: EdwardsPoint,
        r: u64,
        of_r: EdwardsPoint,
        /// In place of their one encoding of RFC 8032.
        key_text: Option<[u8; 32]>,
        r_text: Option<[u8; 32]>,
        /// Whether k is the hash of the texts as they are sent, or of those of RFC 8032.
        hashed_as_sent: bool,
        /// How many orders are added to s.
        orders: u8,
    }

    impl Made {
        fn new(a: u64, of_key: EdwardsPoint, r: u64, of_r: EdwardsPoint) -> Self {
            let (key_text, r_text) = (None, None);
            Self { a, of_key, r, of_r, key_text, r_text, hashed_as_sent: true, orders: 0 }
        }

        /// Key and signature of a message, and whether the torsion comes to nothing.
        fn of(&self, message: &[u8]) -> ([u8; 32], [u8; 64], bool) {
            let (a, r) = (Scalar::from(self.a), Scalar::from(self.r));
            let own_key = (ED25519_BASEPOINT_POINT * a + self.of_key).compress().to_bytes();
            let own_r = (ED25519_BASEPOINT_POINT * r + self.of_r).compress().to_bytes();
            let (key, r_text) = (self.key_text.unwrap_or(own_key), self.r_text.unwrap_or(own_r));
            let sent = challenge(&r_text, &key, message);
            let k = if self.hashed_as_sent { sent } else { challenge(&own_r, &own_key, message) };
            let nothing = |k: Scalar| self.of_r + self.of_key * k == EdwardsPoint::identity();
            // Who hashes what was sent must not find it right by chance.
            let holds = nothing(k) && (self.hashed_as_sent || !nothing(sent));
            (key, joined(&r_text, &and_orders(&(r + k * a), self.orders)), holds)
        }

        /// Key, message and signature where the torsion comes to nothing, or where it does not.
        fn where_it(&self, holds: bool) -> ([u8; 32], [u8; 4], [u8; 64]) {
            let messages = (0..10_000_u32).map(u32::to_le_bytes);
            let mut tried = messages.map(|message| (message, self.of(&message)));
            let (message, (key, signature, _)) = tried.find(|(_, of)| of.2 == holds).unwrap();
            (key, message, signature)
        }
    }

    /// What the library says, laxly and strictly; we say what it says strictly.
    fn judged(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> (bool, bool) {
        use ed25519_dalek::Verifier as _;
        let decoded = ed25519_dalek::VerifyingKey::from_bytes(key).unwrap();
        let theirs = ed25519_dalek::Signature::from_bytes(signature);
        let strict = decoded.verify_strict(message, &theirs).is_ok();
        assert_eq!(strictly(&decoded, message, signature).is_ok(), strict);
        let public = UserKey::from_bytes(*key);
        assert_eq!(public.verify(message, signature).is_ok(), strict);
        let verifier = Verifier::new(1);
        for _ in 0..2 {
            assert_eq!(verifier.verify(&public, message, signature).is_ok(), strict);
        }
        (decoded.verify(message, &theirs).is_ok(), strict)
    }

    /// Encodings of the points of small order that RFC 8032 does not have: y is not below p, or x is
    /// zero and has a sign.
    fn other_texts_of_small_order() -> Vec<[u8; 32]> {
        let mut p = [0xff; 32];
        (p[0], p[31]) = (0xed, 0x7f);
        let add = |more: u8, sign: u8| {
            let mut text = p;
            text[0] += more;
            text[31] |= sign;
            text
        };
        let (mut one, mut minus_one) = ([0; 32], add(0, 0x80));
        (one[0], one[31], minus_one[0]) = (1, 0x80, 0xec);
        vec![add(0, 0), add(0, 0x80), add(1, 0), add(1, 0x80), one, minus_one]
    }

    /// The twelve cases of "Taming the many `EdDSAs`" (Chalkias, Garillot, Nikolaenko, 2020), made
    /// here.
    #[test]
    fn the_twelve_cases_that_libraries_differ_in() {
        let (none, eighth, fourth) = (EdwardsPoint::identity(), EIGHT_TORSION[1], EIGHT_TORSION[2]);
        let mut of_p = [0xff; 32];
        (of_p[0], of_p[31]) = (0xed, 0x7f | (fourth.compress().as_bytes()[31] & 0x80));
        let mut of_p_and_one = of_p;
        (of_p_and_one[0], of_p_and_one[31]) = (0xee, 0x7f);
        let mixed = Made::new(7, eighth, 5, eighth);
        let plain = Made::new(7, none, 5, none);
        let odd_r = Made { r_text: Some(of_p_and_one), ..Made::new(7, eighth, 0, none) };
        let odd_key = Made { key_text: Some(of_p), ..Made::new(0, fourth, 5, fourth) };
        let canonically = |made: Made| Made { hashed_as_sent: false, ..made };
        for (number, (made, holds), (lax, strict)) in [
            // A and R of small order; A alone; R alone; none, and mixed ones.
            (0, (Made::new(0, eighth, 0, eighth), true), (true, false)),
            (1, (Made::new(0, eighth, 5, eighth), true), (true, false)),
            (2, (Made::new(7, eighth, 0, eighth), true), (true, false)),
            (3, (mixed, true), (true, true)),
            // What holds only times eight.
            (4, (mixed, false), (false, false)),
            (5, (Made::new(7, eighth, 5, none), false), (false, false)),
            // s is not below the order of the base point, or far above it.
            (6, (Made { orders: 1, ..plain }, true), (false, false)),
            (7, (Made { orders: 14, ..plain }, true), (false, false)),
            // R is of small order in another encoding.
            (8, (canonically(odd_r), true), (false, false)),
            (9, (odd_r, true), (false, false)),
            // So is A.
            (10, (canonically(odd_key), true), (false, false)),
            (11, (odd_key, true), (true, false)),
        ] {
            let (key, message, signature) = made.where_it(holds);
            assert_eq!(judged(&key, &message, &signature), (lax, strict), "case {number}");
        }
    }

    #[test]
    fn no_other_text_of_small_order_is_accepted() {
        let other = other_texts_of_small_order();
        assert_eq!(other.iter().collect::<HashSet<_>>().len(), 6);
        for text in other {
            assert!(!SMALL_ORDER.contains(&text));
            let decoded = ed25519_dalek::VerifyingKey::from_bytes(&text).unwrap();
            assert!(decoded.is_weak(), "as a key it is refused, whatever its text");
            let point = curve25519_dalek::edwards::CompressedEdwardsY(text).decompress().unwrap();
            assert_ne!(point.compress().to_bytes(), text);
            // As R, where everything but the text is right.
            let made = Made { r_text: Some(text), ..Made::new(7, EIGHT_TORSION[1], 0, point) };
            let (key, message, signature) = made.where_it(true);
            assert_eq!(judged(&key, &message, &signature), (false, false));
        }
    }

    /// A key and a signature of the message whose R is of small order, for one message in eight:
    /// of the key `A = aB + shift`, `s = ka` gives `R = sB - kA = -k shift`, on which k depends.
    fn of_small_order(shift: &EdwardsPoint, message: &[u8]) -> Option<([u8; 32], [u8; 64])> {
        let a = Scalar::from(7_u64);
        let key = (ED25519_BASEPOINT_POINT * a + shift).compress().to_bytes();
        EIGHT_TORSION.iter().find_map(|r| {
            let r = r.compress().to_bytes();
            let k = challenge(&r, &key, message);
            let signature = joined(&r, (k * a).as_bytes());
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
        /// Of keys and signatures with torsion of any kind, with any bit of either turned.
        #[test]
        fn torsion_makes_no_difference(
            message: Vec<u8>,
            of in (0_u64..20, 0_usize..8, 0_u64..20, 0_usize..8),
            orders in 0_u8..3,
            turned in 0_usize..2_000,
        ) {
            let (a, of_key, r, of_r) = of;
            let made =
                Made { orders, ..Made::new(a, EIGHT_TORSION[of_key], r, EIGHT_TORSION[of_r]) };
            let (mut key, mut signature, holds) = made.of(&message);
            let mut bytes = signature.iter_mut().chain(&mut key);
            if let Some(byte) = bytes.nth(turned / 8) {
                *byte ^= 1 << (turned % 8);
            }
            if ed25519_dalek::VerifyingKey::from_bytes(&key).is_err() {
                proptest::prop_assert!(UserKey::from_bytes(key).verify(&message, &signature).is_err());
                return Ok(());
            }
            let (lax, strict) = judged(&key, &message, &signature);
            if turned >= 8 * 96 {
                proptest::prop_assert_eq!(lax, holds && orders == 0);
                proptest::prop_assert_eq!(strict, lax && a > 0 && r > 0);
            }
        }

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
