//! What solewriter itself connects with.

use zeroize::Zeroizing;

use solewriter_core::keys::{Seed, Signer, User, UserKey};

/// What solewriter itself connects with.
#[derive(Debug)]
pub enum Login {
    /// The callout user's NKEY.
    Nkey(Seed<User>),
    /// A credentials file's text.
    Credentials(Secret),
}

impl Login {
    /// The JWT of credentials, if that is what it is.
    #[must_use]
    pub fn jwt(&self) -> Option<&str> {
        match self {
            Self::Nkey(_) => None,
            Self::Credentials(text) => text.line(|line| line.starts_with("eyJ")),
        }
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> Option<Seed<User>> {
        match self {
            Self::Nkey(seed) => Seed::parse(seed.expose()).ok(),
            Self::Credentials(text) => Seed::parse(text.line(Seed::<User>::looks_like)?).ok(),
        }
    }

    /// The user's public key; `None` for what are no credentials.
    #[must_use]
    pub fn key(&self) -> Option<UserKey> {
        if matches!(self, Self::Credentials(_)) {
            self.jwt()?;
        }
        Some(*Signer::new(&self.seed()?).ok()?.public())
    }
}

/// A secret text.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Keeps a text secret.
    #[must_use]
    pub fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    fn line(&self, is: impl Fn(&str) -> bool) -> Option<&str> {
        self.0.lines().map(str::trim).find(|line| is(line))
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
