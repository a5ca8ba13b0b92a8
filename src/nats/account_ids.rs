//! How servers name accounts: as we do, or in operator mode by their public keys.

use std::collections::HashMap;
use std::sync::Arc;

use solewriter_core::keys::AccountKey;

/// The public keys of accounts by name; empty without an operator.
#[derive(Clone, Debug, Default)]
pub struct AccountIds(Arc<HashMap<Arc<str>, AccountKey>>);

impl AccountIds {
    /// These.
    #[must_use]
    pub fn new(ids: impl IntoIterator<Item = (Arc<str>, AccountKey)>) -> Self {
        Self(Arc::new(ids.into_iter().collect()))
    }

    /// What a server calls that account.
    #[must_use]
    pub fn of<'a>(&'a self, name: &'a str) -> &'a str {
        self.0.get(name).map_or(name, AccountKey::as_str)
    }

    /// What we call the account that a server calls so.
    #[must_use]
    pub fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.0.iter().find(|(_, key)| key.as_str() == id).map_or(id, |(name, _)| name)
    }
}
