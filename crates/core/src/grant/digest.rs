//! What a grant is known by, and what it was made from.

use std::fmt;
use std::hash::{Hash as _, Hasher};
use std::sync::Arc;

use aws_lc_rs::digest;
use nats_jwt::NatsPermissionsMap;

use crate::policy::model::Service;

/// Names what a connection gets, its account and its permissions: a SHA-256 in hexadecimal. It
/// stays the same from one policy revision to the next when the grant does.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Digest(Arc<str>);

impl Digest {
    pub(super) fn of(account: &str, permissions: &NatsPermissionsMap) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        // Lengths, so that no two grants give the same bytes.
        let mut add = |text: &str| {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        };
        add(account);
        for side in [&permissions.publish, &permissions.subscribe] {
            for list in [&side.allow, &side.deny] {
                add(&list.len().to_string());
                for subject in list {
                    add(subject);
                }
            }
        }
        Self(data_encoding::HEXLOWER.encode(context.finish().as_ref()).into())
    }

    /// The digest as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All that a grant is made from, besides the settings: a SHA-256. Services with one basis get one
/// grant, in whichever revision and wherever they stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantInputs([u8; 32]);

impl GrantInputs {
    /// Of a service: everything that [`super::Grant::of`] reads of it and that is in
    /// [`super::CompiledGrant`].
    #[must_use]
    pub fn of(service: &Service) -> Self {
        let Service { name, rules, account, lifetime, held, excluded, .. } = service;
        let mut all = Sha256(digest::Context::new(&digest::SHA256));
        (name, account, lifetime, rules.len()).hash(&mut all);
        for rule in rules {
            rule.access.hash(&mut all);
        }
        // No bytes for what is almost always empty: its length follows the rules.
        if !held.is_empty() {
            held.hash(&mut all);
        }
        if !excluded.is_empty() {
            (held.is_empty(), excluded).hash(&mut all);
        }
        let mut basis = [0; 32];
        basis.iter_mut().zip(all.0.finish().as_ref()).for_each(|(to, from)| *to = *from);
        Self(basis)
    }
}

/// What derived `Hash` says of values, which is different for different ones.
struct Sha256(digest::Context);

impl Hasher for Sha256 {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Not what is wanted of it.
    fn finish(&self) -> u64 {
        0
    }
}
