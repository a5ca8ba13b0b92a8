//! A key of an account, wherever it is held: as a seed in this process, or by somebody who signs with
//! it and does not give it away.

use std::fmt;
use std::sync::Arc;

use super::nkey::{Account, AccountKey, PublicKey, Role};
use super::signature::{Signer, Verifier};

/// Holds keys of accounts, and signs with them.
pub trait KeyHolder: Send + Sync {
    /// An Ed25519 signature over that text.
    ///
    /// # Errors
    /// [`SignError`]: then there is none.
    fn sign(&self, key: &AccountKey, text: &[u8]) -> Result<[u8; 64], SignError>;
}

/// Why there is no signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// Nobody answers where the key is held, or not in time.
    #[error("the signer does not answer")]
    Unreachable,
    /// The holder does not sign this text.
    #[error("the signer refused to sign; its log says why")]
    Refused,
    /// The holder was asked more often than it allows.
    #[error("the signer was asked more often than it allows")]
    Busy,
    /// What came back is not this key's signature over this text.
    #[error("the signer's answer is not a signature of the key")]
    Wrong,
}

impl SignError {
    /// Each, as a word for a metric.
    pub const CODES: [&'static str; 4] = ["unreachable", "refused", "busy", "wrong"];

    /// This one's word.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::Wrong => "wrong",
        }
    }
}

/// What signs with one key.
pub trait Signs<K> {
    /// The public key.
    fn key(&self) -> &PublicKey<K>;

    /// A signature over that text.
    ///
    /// # Errors
    /// [`SignError`], where the key is not in this process.
    fn signature(&self, text: &[u8]) -> Result<[u8; 64], SignError>;
}

impl<K: Role> Signs<K> for Signer<K> {
    fn key(&self) -> &PublicKey<K> {
        self.public()
    }

    fn signature(&self, text: &[u8]) -> Result<[u8; 64], SignError> {
        Ok(self.sign(text))
    }
}

/// What signs for an account.
pub struct AccountSigner(Held);

enum Held {
    Here(Signer<Account>),
    Elsewhere { key: AccountKey, verifier: Verifier<Account>, holder: Arc<dyn KeyHolder> },
}

impl AccountSigner {
    /// A key that somebody else holds. What it signs is verified before it is used.
    #[must_use]
    pub fn elsewhere(key: AccountKey, holder: Arc<dyn KeyHolder>) -> Self {
        let verifier = Verifier::new(1);
        verifier.keep(&key);
        Self(Held::Elsewhere { key, verifier, holder })
    }

    /// Whether somebody else holds the key.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        matches!(self.0, Held::Elsewhere { .. })
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> &AccountKey {
        match &self.0 {
            Held::Here(signer) => signer.public(),
            Held::Elsewhere { key, .. } => key,
        }
    }

    /// A signature over that text.
    ///
    /// # Errors
    /// [`SignError`], where somebody else holds the key.
    pub fn sign(&self, text: &[u8]) -> Result<[u8; 64], SignError> {
        match &self.0 {
            Held::Here(signer) => Ok(signer.sign(text)),
            Held::Elsewhere { key, verifier, holder } => {
                let signature = holder.sign(key, text)?;
                // Who holds the key may be somebody else by now, or broken.
                verifier.verify(key, text, &signature).map_err(|_| SignError::Wrong)?;
                Ok(signature)
            }
        }
    }
}

impl From<Signer<Account>> for AccountSigner {
    fn from(signer: Signer<Account>) -> Self {
        Self(Held::Here(signer))
    }
}

impl Signs<Account> for AccountSigner {
    fn key(&self) -> &AccountKey {
        self.public()
    }

    fn signature(&self, text: &[u8]) -> Result<[u8; 64], SignError> {
        self.sign(text)
    }
}

impl fmt::Debug for AccountSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountSigner({})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Seed;

    struct Says(Result<[u8; 64], SignError>);
    impl KeyHolder for Says {
        fn sign(&self, _: &AccountKey, _: &[u8]) -> Result<[u8; 64], SignError> {
            self.0
        }
    }

    #[test]
    fn what_a_holder_signed_is_verified() {
        let signer = || Signer::<Account>::new(&Seed::generate()).unwrap();
        let (own, other) = (signer(), signer());
        let ask =
            |said| AccountSigner::elsewhere(*own.public(), Arc::new(Says(said))).sign(b"text");
        assert_eq!(ask(Ok(own.sign(b"text"))), Ok(own.sign(b"text")));
        for (said, why) in [
            (Ok(other.sign(b"text")), "another key's"),
            (Ok(own.sign(b"another text")), "over another text"),
            (Ok([0; 64]), "nothing"),
        ] {
            assert_eq!(ask(said), Err(SignError::Wrong), "{why}");
        }
        assert_eq!(ask(Err(SignError::Busy)), Err(SignError::Busy));
        // The point that verifies everything, with a verifier that is not strict.
        let mut small = [0; 64];
        small[0] = 1;
        assert_eq!(ask(Ok(small)), Err(SignError::Wrong));
    }
}
