//! Curve keys (xkeys), with which requests and responses are sealed.

use std::fmt;

use super::nkey::{Curve, CurveKey, KeyError, PublicKey, Seed};

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
