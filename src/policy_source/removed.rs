//! Keys that a change of the policy removed: whose each was, and until when.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use solewriter_core::keys::UserKey;
use solewriter_core::policy::model::{Policy, Revision};

/// More keys than this are not remembered; the one removed first is forgotten first.
const AT_MOST: usize = 10_000;

/// Who had a key that no service has any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerHolder {
    /// The service.
    pub service: Arc<str>,
    /// The last revision in which the service had it.
    pub revision: Revision,
    /// The number of that revision, if it came from a bucket.
    pub number: Option<u64>,
}

impl fmt::Display for FormerHolder {
    /// ``key of `orders` until revision 7 (0123456789ab)``.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, revision, number } = self;
        match number {
            Some(number) => write!(f, "key of `{service}` until revision {number} ({revision})"),
            None => write!(f, "key of `{service}` until revision {revision}"),
        }
    }
}

/// Removed keys, each with who had it last.
#[derive(Debug, Default)]
pub struct RemovedKeys {
    holders: HashMap<UserKey, FormerHolder>,
    /// Every key in `holders`, the one removed first at the front.
    order: VecDeque<UserKey>,
}

impl RemovedKeys {
    /// Another policy replaces one. Takes the time of one look at each key of services that changed.
    pub fn replaced(&mut self, before: &Policy, number: Option<u64>, after: &Policy) {
        // A key that is back is no removed one.
        self.order.retain(|key| after.holder(key).is_none());
        self.holders.retain(|key, _| after.holder(key).is_none());
        let revision = before.revision();
        // Who is as before has its keys.
        for service in after.compared(before).filter_map(|(service, _)| service) {
            for key in service.keys.iter().map(|entry| entry.key) {
                if after.holder(&key).is_some() {
                    continue;
                }
                let service = Arc::clone(&service.name);
                let holder = FormerHolder { service, revision: revision.clone(), number };
                self.holders.insert(key, holder);
                self.order.push_back(key);
            }
        }
        while self.order.len() > AT_MOST
            && let Some(key) = self.order.pop_front()
        {
            self.holders.remove(&key);
        }
    }

    /// Who had that key last.
    #[must_use]
    pub fn holder(&self, key: &UserKey) -> Option<&FormerHolder> {
        self.holders.get(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use solewriter_core::diagnostics::SourceFile;
    use solewriter_core::keys::{Seed, Signer, User};
    use solewriter_core::policy::validate::validate;

    fn key() -> UserKey {
        *Signer::new(&Seed::<User>::generate()).unwrap().public()
    }

    /// A policy of services with these keys.
    fn policy(services: &[(&str, &[UserKey])]) -> Policy {
        let table = |(name, keys): &(&str, &[UserKey])| {
            let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
            format!("[service.{name}]\nnkeys = {keys:?}\n")
        };
        let text: String = services.iter().map(table).collect();
        validate(&[SourceFile::new("p.toml", text)]).unwrap().policy
    }

    #[test]
    fn a_removed_key_has_a_former_holder_until_it_is_back() {
        let [kept, rotated, gone] = [key(), key(), key()];
        let first = policy(&[("orders", &[kept, rotated]), ("billing", &[gone])]);
        let second = policy(&[("orders", &[kept])]);
        let third = policy(&[("orders", &[kept]), ("quotes", &[rotated])]);
        let mut removed = RemovedKeys::default();
        removed.replaced(&first, Some(7), &second);
        assert_eq!(removed.holder(&kept), None);
        for (key, service) in [(rotated, "orders"), (gone, "billing")] {
            let said = removed.holder(&key).unwrap().to_string();
            assert_eq!(said, format!("key of `{service}` until revision 7 ({})", first.revision()));
        }
        removed.replaced(&second, Some(8), &third);
        assert_eq!(removed.holder(&rotated), None, "quotes has it now");
        assert_eq!(removed.holder(&gone).unwrap().number, Some(7));
        // The last holder is named.
        removed.replaced(&third, None, &second);
        let said = removed.holder(&rotated).unwrap().to_string();
        assert_eq!(said, format!("key of `quotes` until revision {}", third.revision()));
        assert_eq!((removed.holders.len(), removed.order.len()), (2, 2));
    }

    #[test]
    fn no_more_keys_are_remembered_than_there_is_room_for() {
        let other = policy(&[("billing", &[key()])]);
        let mut removed = RemovedKeys::default();
        let keys: Vec<UserKey> = (0..AT_MOST + 500).map(|_| key()).collect();
        for some in keys.chunks(1_500) {
            removed.replaced(&policy(&[("orders", some)]), None, &other);
            assert_eq!(removed.holders.len(), removed.order.len());
        }
        assert_eq!(removed.holders.len(), AT_MOST);
        let known = keys.iter().map(|key| removed.holder(key).is_some());
        assert_eq!(known.collect::<Vec<_>>(), [vec![false; 500], vec![true; AT_MOST]].concat());
    }
}
