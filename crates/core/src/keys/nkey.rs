//! NKEYs as texts: public keys and seeds of one role each.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

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
    /// An operator: signs account JWTs.
    Operator 'O' "operator" 14 << 3;
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
    #[error("it has {0}; write only the seed, on one line")]
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
            ('O', false) => "O",
            ('A', true) => "SA",
            ('U', true) => "SU",
            ('X', true) => "SX",
            ('O', true) => "SO",
            _ => "SN",
        };
        Self::WrongKind {
            // Of a seed, the kind is in the second character, and neither is secret.
            found: text.chars().nth(usize::from(secret)).unwrap_or('?'),
            article: if matches!(K::LETTER, 'A' | 'O') { "an" } else { "a" },
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

    /// The key of these 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
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
}

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
        Self::of_secret(&Zeroizing::new(rand::random()))
    }

    /// The seed of these bytes, which nobody can guess.
    pub(crate) fn of_secret(secret: &Zeroizing<[u8; 32]>) -> Self {
        let mut raw = Zeroizing::new([0; 36]);
        let (payload, checksum) = raw.split_at_mut(34);
        let (prefix, key) = payload.split_at_mut(2);
        prefix.copy_from_slice(&[(18 << 3) | (K::PREFIX >> 5), (K::PREFIX & 31) << 3]);
        key.copy_from_slice(&**secret);
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

    pub(super) fn raw(&self) -> Result<Zeroizing<[u8; 32]>, KeyError> {
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
    use super::*;
    use crate::keys::Signer;

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
            assert!(error.ends_with("; write only the seed, on one line"), "{error}");
            assert!(!error.contains(&text[..20]), "{error}");
        }
        assert!(Seed::<User>::parse(&format!(" {text}\r\n")).is_ok());
    }
}
