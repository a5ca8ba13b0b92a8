//! What solewriter itself connects with.

use zeroize::Zeroizing;

use solewriter_core::keys::{Seed, User};

/// What solewriter itself connects with.
#[derive(Debug)]
pub enum Login {
    /// The callout user's NKEY.
    Nkey(Seed<User>),
    /// A credentials file's text.
    Credentials(Secret),
}

/// A secret text.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Keeps a text secret.
    #[must_use]
    pub fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// The text, for the NATS client.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}
