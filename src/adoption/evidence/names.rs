//! What services are called, and which tokens are made up by machines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use solewriter_core::keys::UserKey;

use crate::adoption::mapping::is_service;
use solewriter_core::policy::model::LONGEST_NAME as LONGEST;

/// How much of an NKEY is in the name of a service.
const KEY_CHARS: usize = 8;

/// The most names that are given.
const MOST: usize = 10_000;

/// The text as near as a service's name can come to it.
#[must_use]
pub fn near(text: &str) -> String {
    if UserKey::parse(text).is_ok() {
        return format!("nkey-{}", text.chars().take(KEY_CHARS).collect::<String>());
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let name: String =
        text.chars().map(|c| if allowed(c) { c } else { '-' }).take(LONGEST).collect();
    if is_service(&name) { name } else { format!("service-{name}").chars().take(LONGEST).collect() }
}

/// The names of services, each for one user.
#[derive(Debug, Default)]
pub struct Names {
    of: BTreeMap<Arc<str>, Arc<str>>,
    taken: BTreeSet<Arc<str>>,
}

impl Names {
    /// The service of a user, always the same; `None` when there are too many.
    pub fn of(&mut self, user: &str) -> Option<Arc<str>> {
        if let Some(name) = self.of.get(user) {
            return Some(Arc::clone(name));
        }
        if self.of.len() >= MOST {
            return None;
        }
        let first = near(user);
        let others = (2..=MOST + 1).map(|n| {
            let end = format!("-{n}");
            first.chars().take(LONGEST - end.len()).collect::<String>() + &end
        });
        let mut all = std::iter::once(first.clone()).chain(others);
        let name: Arc<str> = all.find(|name| !self.taken.contains(&**name))?.into();
        self.taken.insert(Arc::clone(&name));
        self.of.insert(user.into(), Arc::clone(&name));
        Some(name)
    }
}

/// Whether a token looks like the number of a thing, and not like a word: a number, a UUID,
/// hexadecimal digits, a ULID, a NUID.
#[must_use]
pub fn is_id(token: &str) -> bool {
    let digits = token.bytes().filter(u8::is_ascii_digit).count();
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    if token.is_empty() || digits == 0 {
        return false;
    }
    if digits == token.len() {
        return true;
    }
    let parts: Vec<usize> = token.split('-').map(str::len).collect();
    let uuid = parts == [8, 4, 4, 4, 12] && token.split('-').all(hex);
    let ulid =
        token.len() == 26 && token.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
    uuid || (token.len() >= 8 && hex(token)) || ulid || is_nuid(token)
}

/// 22 letters and digits, as NATS' client libraries make up.
fn is_nuid(token: &str) -> bool {
    token.len() == 22
        && token.bytes().all(|b| b.is_ascii_alphanumeric())
        && token.bytes().any(|b| b.is_ascii_digit())
}

/// Whether a consumer's name is made up by a client library or by the server: an id, eight letters
/// and digits, or a part of it is.
#[must_use]
pub fn is_made_up(name: &str) -> bool {
    let hash = |part: &str| {
        let has = |wanted: fn(&u8) -> bool| part.bytes().any(|b| wanted(&b));
        part.len() == 8
            && part.bytes().all(|b| b.is_ascii_alphanumeric())
            && has(u8::is_ascii_digit)
            && has(u8::is_ascii_uppercase)
            && has(u8::is_ascii_lowercase)
    };
    let long = |part: &str| part.len() >= 8 && is_id(part);
    long(name) || name.split(['_', '-']).any(|part| hash(part) || is_nuid(part) || long(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_and_differ() {
        let mut names = Names::default();
        for user in ["orders", "a.b", "a b", "a-b", "", "solewriter", &"x".repeat(90), "ö"] {
            let name = names.of(user).unwrap();
            assert!(is_service(&name), "{user}: {name}");
            assert_eq!(names.of(user), Some(name));
        }
        let all: BTreeSet<_> = names.of.values().collect();
        assert_eq!(all.len(), 8);
    }

    #[test]
    fn ids_are_told_from_words() {
        for id in ["7", "4711", "0b9c6f3e-5b0e-4b6e-8d0e-1f2a3b4c5d6e", "deadbeef01"] {
            assert!(is_id(id), "{id}");
        }
        for id in ["01ARZ3NDEKTSV4RRFFQ69G5FAV", "2Jq0sZ6PzZQY1kKcV3mWxA"] {
            assert!(is_id(id), "{id}");
        }
        for word in ["", "created", "v2", "eur", "decade", "line-1"] {
            assert!(!is_id(word), "{word}");
        }
        for name in ["aB3dE9kP", "oc_2Jq0sZ6PzZQY1kKcV3mWxA_1", "2Jq0sZ6PzZQY1kKcV3mWxA"] {
            assert!(is_made_up(name), "{name}");
        }
        for name in ["shipping", "worker-1", "workers", "Shipping2"] {
            assert!(!is_made_up(name), "{name}");
        }
    }
}
