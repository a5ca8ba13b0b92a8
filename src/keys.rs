//! Typed NKEYs: public keys, signing, strict verification.
//!
//! The encoding (base32, prefix, checksum) is the `nkeys` crate's. Signing and verifying are not:
//! that crate verifies non-strictly (a small-order key verifies a forged signature on any
//! message) and never wipes a seed. Verification here is `ed25519-dalek`'s, as strict as its
//! `verify_strict`; signing is `aws-lc-rs`, together the fastest pair measured.
//!
//! Nothing secret is in any `Debug`, `Display` or error of this module.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use zeroize::Zeroizing;

/// The length of an encoded public key, in ASCII characters.
pub const PUBLIC_KEY_CHARS: usize = 56;

/// What a key is for; the first letter of its encoding says so.
pub trait Role: 'static {
    /// The first letter of the public key.
    const LETTER: char;
    /// In words, for messages.
    const NAME: &'static str;
    /// The prefix byte of the encoding.
    const PREFIX: u8;
}

macro_rules! roles {
    ($($(#[$doc:meta])* $role:ident $letter:literal $name:literal $prefix:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $role {}
        impl Role for $role {
            const LETTER: char = $letter;
            const NAME: &'static str = $name;
            const PREFIX: u8 = $prefix;
        }
    )*};
}

roles! {
    /// A nats-server: signs authorization requests.
    Server 'N' "server" 13 << 3;
    /// An account: signs user JWTs and authorization responses.
    Account 'A' "account" 0;
    /// A user: what a service connects with.
    User 'U' "user" 20 << 3;
    /// A curve key (xkey): seals requests and responses.
    Curve 'X' "curve (xkey)" 23 << 3;
}

/// A nats-server's public key.
pub type ServerKey = PublicKey<Server>;
/// An account's public key.
pub type AccountKey = PublicKey<Account>;
/// A user's public key: an identity.
pub type UserKey = PublicKey<User>;
/// A public curve key.
pub type CurveKey = PublicKey<Curve>;

/// Why a text is not the key it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 56 (public) or 58 (seed) characters.
    #[error("it has {found} characters; {what} has {expected}")]
    Length {
        /// Characters found.
        found: usize,
        /// Characters wanted.
        expected: usize,
        /// What was expected, in words.
        what: &'static str,
    },
    /// Not base32, or the two checksum bytes do not fit: most often a slip in copying.
    #[error("its checksum does not match; it was cut or changed when it was copied")]
    Checksum,
    /// Another kind of key.
    #[error(
        "it is a key of another kind (it begins with {found:?}); {article} {expected} key begins with {letter:?}"
    )]
    WrongKind {
        /// The first character found.
        found: char,
        /// "a" or "an".
        article: &'static str,
        /// The kind wanted.
        expected: &'static str,
        /// The first letter wanted.
        letter: &'static str,
    },
    /// A seed in a text that has more than it.
    #[error("it has {0}; the seed stands alone, on one line")]
    NotAlone(&'static str),
    /// A private key where a public one belongs.
    #[error(
        "it is a seed, which is secret; put the public key here, and replace that key if this file was shared"
    )]
    SeedForPublic,
    /// A public key where a seed belongs.
    #[error("it is a public key; the seed is needed here (it begins with 'S')")]
    PublicForSeed,
}

impl KeyError {
    fn wrong_kind<K: Role>(text: &str, secret: bool) -> Self {
        let letter = match (K::LETTER, secret) {
            ('N', false) => "N",
            ('A', false) => "A",
            ('U', false) => "U",
            ('X', false) => "X",
            ('A', true) => "SA",
            ('U', true) => "SU",
            ('X', true) => "SX",
            _ => "SN",
        };
        Self::WrongKind {
            // Of a seed, the kind is in the second character, and neither is secret.
            found: text.chars().nth(usize::from(secret)).unwrap_or('?'),
            article: if K::LETTER == 'A' { "an" } else { "a" },
            expected: K::NAME,
            letter,
        }
    }
}

/// A public key of one role: 32 bytes and their encoding, checked once.
pub struct PublicKey<K> {
    text: [u8; PUBLIC_KEY_CHARS],
    bytes: [u8; 32],
    role: PhantomData<K>,
}

impl<K: Role> PublicKey<K> {
    /// Parses an encoded public key.
    ///
    /// # Errors
    /// [`KeyError`] when it is cut, changed, a seed, or a key of another role.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.len() == SEED_CHARS && text.starts_with('S') {
            return Err(KeyError::SeedForPublic);
        }
        let encoded: [u8; PUBLIC_KEY_CHARS] =
            text.as_bytes().try_into().map_err(|_| KeyError::Length {
                found: text.chars().count(),
                expected: PUBLIC_KEY_CHARS,
                what: "a public NKEY",
            })?;
        let (prefix, bytes) = nkeys::from_public_key(text).map_err(|_| KeyError::Checksum)?;
        if prefix != K::PREFIX {
            return Err(KeyError::wrong_kind::<K>(text, false));
        }
        Ok(Self { text: encoded, bytes, role: PhantomData })
    }

    fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut raw = [0; 35];
        let (payload, checksum) = raw.split_at_mut(33);
        if let Some((prefix, key)) = payload.split_first_mut() {
            *prefix = K::PREFIX;
            key.copy_from_slice(&bytes);
        }
        checksum.copy_from_slice(&crc16(payload).to_le_bytes());
        let mut text = [0; PUBLIC_KEY_CHARS];
        data_encoding::BASE32_NOPAD.encode_mut(&raw, &mut text);
        Self { text, bytes, role: PhantomData }
    }

    /// The encoded key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Base32 is ASCII.
        std::str::from_utf8(&self.text).unwrap_or_default()
    }

    /// The raw 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Verifies an Ed25519 signature strictly: no small-order key, no malleable signature
    /// (RFC 8032 with the checks of ed25519-dalek's `verify_strict`).
    ///
    /// # Errors
    /// [`BadSignature`] when the signature is not this key's over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
        strictly(&self.decode()?, message, signature)
    }

    fn decode(&self) -> Result<ed25519_dalek::VerifyingKey, BadSignature> {
        ed25519_dalek::VerifyingKey::from_bytes(&self.bytes).map_err(|_| BadSignature)
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
        let decoded = self.kept.get(&key.bytes).map_or_else(|| key.decode(), Ok)?;
        strictly(&decoded, message, signature)
    }

    /// Keeps a key that is worth it: one of which [`Verifier::check`] said yes.
    pub fn keep(&self, key: &PublicKey<K>) {
        if !self.kept.contains_key(&key.bytes)
            && let Ok(decoded) = key.decode()
        {
            self.kept.insert(key.bytes, decoded);
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

impl<K> Clone for PublicKey<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for PublicKey<K> {}
impl<K> PartialEq for PublicKey<K> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}
impl<K> Eq for PublicKey<K> {}
impl<K> Hash for PublicKey<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}
impl<K> PartialOrd for PublicKey<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for PublicKey<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}
impl<K: Role> fmt::Display for PublicKey<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl<K: Role> fmt::Debug for PublicKey<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

const SEED_CHARS: usize = 58;

/// A seed of one role: secret, wiped when dropped, never printed.
pub struct Seed<K> {
    text: Zeroizing<String>,
    role: PhantomData<K>,
}

impl<K: Role> Seed<K> {
    /// Parses an encoded seed. Whitespace around it is ignored.
    ///
    /// # Errors
    /// [`KeyError`], which never holds the text.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        for (what, found) in [
            (
                "a byte order mark (U+FEFF) before it, which an editor put there",
                text.starts_with('\u{feff}'),
            ),
            ("lines around it, as a .creds file has (-----BEGIN …)", text.contains("-----BEGIN")),
            ("several lines or words", text.contains(char::is_whitespace)),
        ] {
            if found {
                return Err(KeyError::NotAlone(what));
            }
        }
        if text.len() == PUBLIC_KEY_CHARS && nkeys::from_public_key(text).is_ok() {
            return Err(KeyError::PublicForSeed);
        }
        let seed = Self { text: Zeroizing::new(text.to_owned()), role: PhantomData };
        seed.raw()?;
        Ok(seed)
    }

    /// Makes a new seed from the operating system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        let secret = Zeroizing::new(rand::random::<[u8; 32]>());
        let mut raw = Zeroizing::new([0; 36]);
        let (payload, checksum) = raw.split_at_mut(34);
        let (prefix, key) = payload.split_at_mut(2);
        prefix.copy_from_slice(&[(18 << 3) | (K::PREFIX >> 5), (K::PREFIX & 31) << 3]);
        key.copy_from_slice(&*secret);
        checksum.copy_from_slice(&crc16(payload).to_le_bytes());
        let text = Zeroizing::new(data_encoding::BASE32_NOPAD.encode(&*raw));
        Self { text, role: PhantomData }
    }

    /// Whether a text is in the form of a seed, of any role, so that it must not be printed.
    #[must_use]
    pub fn looks_like(text: &str) -> bool {
        let text = text.trim();
        text.len() == SEED_CHARS
            && text.starts_with('S')
            && text.bytes().all(|b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b))
    }

    fn raw(&self) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        if self.text.len() != SEED_CHARS {
            return Err(KeyError::Length {
                found: self.text.chars().count(),
                expected: SEED_CHARS,
                what: "an NKEY seed",
            });
        }
        let (prefix, bytes) = nkeys::decode_seed(&self.text).map_err(|_| KeyError::Checksum)?;
        let bytes = Zeroizing::new(bytes);
        if prefix != K::PREFIX {
            return Err(KeyError::wrong_kind::<K>(&self.text, true));
        }
        Ok(bytes)
    }

    /// The encoded seed, for the one place that has to hand it on (a file that is created for
    /// it, or the NATS client that signs nonces with it).
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl<K> fmt::Debug for Seed<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(secret)")
    }
}

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

/// The secret half of a curve key.
pub struct CurveSecret {
    secret: crypto_box::SecretKey,
    public: CurveKey,
}

impl CurveSecret {
    /// Derives the curve key of a seed.
    ///
    /// # Errors
    /// [`KeyError`] when the seed is not a curve seed.
    pub fn new(seed: &Seed<Curve>) -> Result<Self, KeyError> {
        let secret = crypto_box::SecretKey::from_bytes(*seed.raw()?);
        let public = PublicKey::from_bytes(*secret.public_key().as_bytes());
        Ok(Self { secret, public })
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> &CurveKey {
        &self.public
    }

    /// The box shared with `peer`: derived by X25519, then used for both directions.
    #[must_use]
    pub fn shared_with(&self, peer: &CurveKey) -> crypto_box::SalsaBox {
        crypto_box::SalsaBox::new(&crypto_box::PublicKey::from(*peer.as_bytes()), &self.secret)
    }
}

impl fmt::Debug for CurveSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CurveSecret({})", self.public)
    }
}

/// CRC-16/XMODEM, which nkeys puts after the key (`nkeys` does not export its own, nor a way to
/// encode a public key without a key pair of its own).
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0u16, |mut crc, byte| {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
        crc
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
    use curve25519_dalek::traits::Identity as _;
    use curve25519_dalek::{EdwardsPoint, Scalar};

    use super::*;

    #[test]
    fn encoding_agrees_with_the_nkeys_crate() {
        for _ in 0..20 {
            let seed = Seed::<Account>::generate();
            let theirs = nkeys::KeyPair::from_seed(seed.expose()).unwrap();
            let signer = Signer::new(&seed).unwrap();
            assert_eq!(signer.public().as_str(), theirs.public_key());
            let signature = signer.sign(b"message");
            theirs.verify(b"message", &signature).unwrap();
            signer.public().verify(b"message", &signature).unwrap();
            assert_eq!(signer.public().verify(b"massage", &signature), Err(BadSignature));

            let seed = Seed::<Curve>::generate();
            let theirs = nkeys::XKey::from_seed(seed.expose()).unwrap();
            let secret = CurveSecret::new(&seed).unwrap();
            assert_eq!(secret.public().as_str(), theirs.public_key());
        }
    }

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

    #[test]
    fn says_what_is_wrong_with_a_key() {
        let user = Signer::new(&Seed::<User>::generate()).unwrap();
        let text = user.public().as_str().to_owned();
        assert!(UserKey::parse(&text).is_ok());
        assert_eq!(
            AccountKey::parse(&text).unwrap_err().to_string(),
            "it is a key of another kind (it begins with 'U'); an account key begins with \"A\""
        );
        let last = if text.ends_with('A') { "B" } else { "A" };
        let slip = format!("{}{last}", &text[..55]);
        assert_eq!(UserKey::parse(&slip).unwrap_err(), KeyError::Checksum);
        assert!(matches!(UserKey::parse(&text[..55]), Err(KeyError::Length { found: 55, .. })));
        assert!(matches!(UserKey::parse("ü"), Err(KeyError::Length { found: 1, .. })));
        assert_eq!(UserKey::parse(&"é".repeat(28)).unwrap_err(), KeyError::Checksum);
        let seed = Seed::<User>::generate();
        assert_eq!(UserKey::parse(seed.expose()).unwrap_err(), KeyError::SeedForPublic);
        assert_eq!(Seed::<User>::parse(&text).unwrap_err(), KeyError::PublicForSeed);
        assert_eq!(
            Seed::<Account>::parse(seed.expose()).unwrap_err().to_string(),
            "it is a key of another kind (it begins with 'U'); an account key begins with \"SA\""
        );
    }

    /// Files that people take for seed files, and why they are none.
    #[test]
    fn a_seed_stands_alone() {
        let seed = Seed::<User>::generate();
        let text = seed.expose();
        let creds = format!(
            "-----BEGIN NATS USER JWT-----\neyJ0\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{text}\n------END USER NKEY SEED------\n"
        );
        for (given, said) in [
            (format!("\u{feff}{text}\n"), "it has a byte order mark (U+FEFF) before it"),
            (creds, "it has lines around it, as a .creds file has"),
            (format!("{text}\n{}\n", Signer::new(&seed).unwrap().public()), "it has several lines"),
        ] {
            let error = Seed::<User>::parse(&given).unwrap_err().to_string();
            assert!(error.starts_with(said), "{error}");
            assert!(error.ends_with("; the seed stands alone, on one line"), "{error}");
            assert!(!error.contains(&text[..20]), "{error}");
        }
        assert!(Seed::<User>::parse(&format!(" {text}\r\n")).is_ok());
    }

    #[test]
    fn no_secret_in_debug_or_errors() {
        let seed = Seed::<Account>::generate();
        let signer = Signer::new(&seed).unwrap();
        let curve = CurveSecret::new(&Seed::generate()).unwrap();
        let printed = format!("{seed:?} {signer:?} {curve:?}");
        assert!(!printed.contains(seed.expose()));
        let damaged = format!("{}A", &seed.expose()[..57]);
        if let Err(error) = Seed::<Account>::parse(&damaged) {
            assert!(!format!("{error} {error:?}").contains(&seed.expose()[..20]));
        }
    }
}
