//! What a tenant's policy must leave to the others: their keys, and what is beyond its quota.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::snapshot_store::Store;
use solewriter_core::diagnostics::{Collector, Problem, Problems, SourceFile};
use solewriter_core::keys::UserKey;
use solewriter_core::policy::model::Policy;

/// What a policy may declare at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Services.
    pub services: Option<usize>,
    /// Buckets.
    pub buckets: Option<usize>,
    /// Streams.
    pub streams: Option<usize>,
    /// Object stores.
    pub stores: Option<usize>,
}

impl Quota {
    /// Everything of a policy that is more than it may declare.
    ///
    /// # Errors
    /// A problem for each kind.
    pub fn check(&self, policy: &Policy) -> Result<(), Problems> {
        let problems = Collector::new();
        for (what, key, most, has) in [
            ("services", "services", self.services, policy.services().len()),
            ("buckets", "buckets", self.buckets, policy.buckets().len()),
            ("streams", "streams", self.streams, policy.streams().len()),
            ("object stores", "stores", self.stores, policy.stores().len()),
        ] {
            if let Some(most) = most.filter(|most| has > *most) {
                problems.push(
                    Problem::error(
                        "over-quota",
                        format!("the policy has {has} {what}, and the tenant may have {most}"),
                    )
                    .help(format!("remove some, or have [tenant] {key} raised in its settings")),
                );
            }
        }
        if problems.has_errors() { Err(problems.finish()) } else { Ok(()) }
    }
}

/// The policies of all tenants of one instance, as far as one has to make room for the other.
#[derive(Debug, Default)]
pub struct Neighbourhood {
    stores: Mutex<Vec<Arc<Store>>>,
    /// Whether requests are answered. Before that, nobody came first.
    began: AtomicBool,
    /// Held while one policy takes the place of another.
    swap: Mutex<()>,
}

impl Neighbourhood {
    /// Another one lives here.
    pub fn join(&self, store: Arc<Store>) {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner).push(store);
    }

    /// From now on, who has a key has it for itself.
    pub fn begin(&self) {
        self.began.store(true, Ordering::Release);
    }

    /// Whether a policy may come into force in that store: it takes no key that another tenant has.
    /// What both have had since before this instance began counts for neither, and stays so. The answer
    /// holds as long as what it gives.
    ///
    /// # Errors
    /// A problem for each key that belongs to another.
    pub fn admit(
        &self,
        own: &Arc<Store>,
        policy: &Policy,
        files: &[SourceFile],
    ) -> Result<MutexGuard<'_, ()>, Problems> {
        let swap = self.swap.lock().unwrap_or_else(PoisonError::into_inner);
        let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let others: Vec<_> = stores.iter().filter(|store| !Arc::ptr_eq(store, own)).collect();
        if others.is_empty() {
            return Ok(swap);
        }
        let before = own.current();
        let first = before.is_some() || self.began.load(Ordering::Acquire);
        let in_force: Vec<_> =
            others.iter().filter(|_| first).filter_map(|store| store.current()).collect();
        let had = |key: &UserKey| {
            before.as_ref().is_some_and(|before| before.policy.holder(key).is_some())
        };
        let theirs = |key: &UserKey| {
            // Who settles another's handovers is in no policy, and still theirs.
            others.iter().any(|other| other.settler() == Some(key))
                || !had(key) && in_force.iter().any(|other| other.policy.holder(key).is_some())
        };
        let problems = Collector::new();
        for service in policy.services() {
            for key in &service.keys {
                if theirs(&key.key) {
                    let (name, key) = (&service.name, key.key.as_str());
                    let message = format!("the key of [service.{name}] belongs to another tenant");
                    let problem = Problem::error("key-of-another-tenant", message)
                        .help("each service has a key of its own; `solewriter key new` makes one");
                    let at = files.iter().find_map(|file| {
                        let at = file.text().find(key)?;
                        Some(file.span(at..at + key.len()))
                    });
                    problems.push(match at {
                        Some(at) => problem.at(&at, "this one"),
                        None => problem,
                    });
                }
            }
        }
        if problems.has_errors() { Err(problems.finish()) } else { Ok(swap) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use solewriter_core::keys::{Seed, Signer, User};
    use solewriter_core::policy::validate::{Validated, validate};

    fn key() -> UserKey {
        *Signer::new(&Seed::<User>::generate()).unwrap().public()
    }

    fn policy(keys: &[&UserKey]) -> (Validated, Vec<SourceFile>) {
        let service = |(at, key): (usize, &&UserKey)| {
            format!("[service.s{at}]\nnkeys = [\"{key}\"]\nowns = [\"b{at}\"]\n[bucket.b{at}]\n")
        };
        let text: String = keys.iter().enumerate().map(service).collect();
        let files = vec![SourceFile::new("p.toml", text)];
        (validate(&files).unwrap(), files)
    }

    struct Street {
        all: Neighbourhood,
        stores: [Arc<Store>; 2],
    }

    impl Street {
        fn new(settlers: [UserKey; 2]) -> Self {
            let all = Neighbourhood::default();
            let stores = settlers.map(|settler| Arc::new(Store::with_handovers(settler)));
            for store in &stores {
                all.join(store.clone());
            }
            Self { all, stores }
        }

        /// Puts it in force, if it may be.
        fn put(&self, at: usize, keys: &[&UserKey]) -> Result<(), String> {
            let (validated, files) = policy(keys);
            let admitted = self.all.admit(&self.stores[at], &validated.policy, &files);
            let _admitted = admitted.map_err(|problems| problems.summary())?;
            self.stores[at].replace(validated, None, Timestamp::UNIX_EPOCH);
            Ok(())
        }
    }

    #[test]
    fn a_key_stays_with_who_had_it_first() {
        let (one, other, third) = (key(), key(), key());
        let street = Street::new([key(), key()]);
        street.put(0, &[&one]).unwrap();
        street.all.begin();
        assert!(street.put(1, &[&other, &one]).is_err(), "the first policy of a tenant, too");
        street.put(1, &[&other]).unwrap();
        assert!(street.put(0, &[&one, &other]).is_err());
        street.put(0, &[&one, &third]).unwrap();
        // What one gives up, the other may have.
        street.put(0, &[&third]).unwrap();
        street.put(1, &[&other, &one]).unwrap();
        assert!(street.put(0, &[&third, &one]).is_err());
    }

    #[test]
    fn before_anybody_is_answered_nobody_came_first() {
        let (one, other, third) = (key(), key(), key());
        let street = Street::new([key(), key()]);
        street.put(0, &[&one]).unwrap();
        street.put(1, &[&one]).unwrap();
        street.all.begin();
        // It counts for neither, and a change of something else is none of its business.
        street.put(0, &[&one, &other]).unwrap();
        street.put(1, &[&third]).unwrap();
        assert!(street.put(1, &[&third, &one]).is_err());
    }

    #[test]
    fn who_settles_handovers_is_nobodys_service() {
        let settlers = [key(), key()];
        let street = Street::new(settlers);
        assert!(street.put(0, &[&settlers[1]]).is_err());
    }

    #[test]
    fn a_quota_is_the_most_and_not_one_more() {
        let (validated, _) = policy(&[&key(), &key()]);
        let check = |quota: Quota| quota.check(&validated.policy);
        assert!(check(Quota::default()).is_ok());
        assert!(check(Quota { services: Some(2), buckets: Some(2), ..Quota::default() }).is_ok());
        let problems =
            check(Quota { services: Some(1), buckets: Some(0), ..Quota::default() }).unwrap_err();
        assert_eq!(problems.iter().count(), 2, "{}", problems.summary());
    }
}
