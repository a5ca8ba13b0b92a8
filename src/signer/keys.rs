//! The keys that a signer signs with.

use std::collections::BTreeMap;

use super::token::Token;
use solewriter_core::keys::{AccountKey, AccountSigner, KeyHolder, SignError};

/// Seeds in memory, keys that an adapter has, and keys in a token.
#[derive(Default)]
pub struct Keys {
    signers: BTreeMap<String, AccountSigner>,
    token: Option<Token>,
}

impl Keys {
    /// Adds a seed, or a key that an adapter has.
    ///
    /// # Errors
    /// When it is here already.
    pub fn add(&mut self, signer: impl Into<AccountSigner>) -> Result<(), String> {
        let signer = signer.into();
        let key = signer.public().to_string();
        match self.signers.insert(key, signer) {
            None => Ok(()),
            Some(twice) => Err(format!("the key {} is given twice", twice.public())),
        }
    }

    /// Adds the keys of a token.
    ///
    /// # Errors
    /// When one of them is here already.
    pub fn add_token(&mut self, token: Token) -> Result<(), String> {
        if let Some(twice) = token.keys().find(|key| self.signers.contains_key(key.as_str())) {
            return Err(format!("the key {twice} is given twice: in the token, and besides"));
        }
        self.token = Some(token);
        Ok(())
    }

    /// The public keys.
    #[must_use]
    pub fn public(&self) -> Vec<AccountKey> {
        let signers = self.signers.values().map(|signer| *signer.public());
        signers.chain(self.token.iter().flat_map(Token::keys).copied()).collect()
    }
}

impl KeyHolder for Keys {
    fn sign(&self, key: &AccountKey, text: &[u8]) -> Result<[u8; 64], SignError> {
        match (self.signers.get(key.as_str()), &self.token) {
            (Some(signer), _) => signer.sign(text),
            (None, Some(token)) => token.sign(key, text),
            (None, None) => Err(SignError::Refused),
        }
    }
}
