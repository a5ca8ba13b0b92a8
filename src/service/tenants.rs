//! Whose policy decides about a key. Without tenants there is one policy, and it is asked about every
//! key; with tenants, the one that has the key.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::join_all;

use crate::audit::Recorder;
use crate::fleet::heartbeat::Fleet;
use crate::policy_source::removed::FormerHolder;
use crate::policy_source::snapshot_store::{ForNow, Snapshot, Store};
use crate::policy_source::status::{SourceState, SourceStatus};
use crate::policy_source::tenancy::Neighbourhood;
use crate::telemetry::Metrics;
use solewriter_core::callout::decide::{CacheSizes, Decider, Denial, Denied};
use solewriter_core::keys::UserKey;

/// How long to wait for a look at the policy's source before asking again whether to go on.
const LOOK_FOR_POLICY: Duration = Duration::from_secs(1);

/// How often something is looked at that nothing tells of: a policy at the start, and the end of the work
/// in progress while stopping.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How long the other tenants wait at the start for one whose source does not answer.
const OTHERS_WAIT: Duration = Duration::from_secs(10);

/// A policy, and what decides by it.
pub struct Tenant {
    /// What the settings call it; `None` where there are no tenants.
    pub name: Option<Arc<str>>,
    /// Decides.
    pub decider: Arc<Decider>,
    /// The policy in force.
    pub store: Arc<Store>,
    /// What is known of where it came from.
    pub source_status: Arc<SourceStatus>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Records what is decided.
    pub recorder: Recorder,
    /// The other instances, which have to hear of this one before it answers; not set where nothing is
    /// handed over.
    pub fleet: OnceLock<Arc<Fleet>>,
}

impl Tenant {
    /// Its name, for people.
    #[must_use]
    pub fn shown(&self) -> &str {
        self.name.as_deref().unwrap_or("solewriter")
    }

    /// How much is kept in memory to be found again.
    #[must_use]
    pub fn cache_sizes(&self) -> CacheSizes {
        let past_policies = u64::try_from(self.store.past().len()).unwrap_or(u64::MAX);
        CacheSizes { past_policies, ..self.decider.cache_sizes() }
    }

    /// Whether it can be decided for: there is a policy, and the others know that this instance is
    /// there.
    fn is_ready(&self) -> bool {
        self.store.current().is_some() && self.fleet.get().is_none_or(|fleet| fleet.has_spoken())
    }

    /// Waits until it can be.
    async fn ready(&self) {
        loop {
            if self.source_status.stall_guard.wait(LOOK_FOR_POLICY).await
                && self.store.current().is_some()
            {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        // Who settles a handover has to know of everybody who may grant.
        if let Some(fleet) = self.fleet.get() {
            fleet.spoken().await;
        }
    }

    /// Waits until its source was asked and has no policy for now, or does not answer for long.
    async fn fails(&self) {
        let asked = async {
            while *self.source_status.state() == SourceState::Unasked
                && self.source_status.refused().is_none()
            {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            if self.store.current().is_some() {
                std::future::pending::<()>().await;
            }
        };
        let _ = tokio::time::timeout(OTHERS_WAIT, asked).await;
    }
}

/// Every policy that this instance decides by.
pub struct Tenants {
    all: Vec<Tenant>,
    neighbourhood: Arc<Neighbourhood>,
}

/// Which policies have to be known to be in force, before something is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// None.
    Nothing,
    /// That of one tenant.
    One(usize),
    /// Each: a key that none has may be new in one of them.
    Every,
}

/// What a decision was made by.
pub(super) struct Found<'a> {
    tenants: &'a Tenants,
    now: i64,
    by: Option<(usize, Arc<Snapshot>)>,
    /// Which policies have to be in force for it, and whether they were just before.
    needs: Needs,
    fresh: bool,
}

impl Tenants {
    /// All of these; one at least, and each with a name, if there are several.
    #[must_use]
    pub fn new(all: Vec<Tenant>, neighbourhood: Arc<Neighbourhood>) -> Self {
        Self { all, neighbourhood }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Tenant> {
        self.all.iter()
    }

    /// The only one, where there are no tenants.
    pub(super) fn only(&self) -> Option<&Tenant> {
        match self.all.as_slice() {
            [tenant] if tenant.name.is_none() => Some(tenant),
            _ => None,
        }
    }

    /// Waits until requests can be answered. A tenant that has no policy keeps nobody else waiting:
    /// its source was asked, and one of the others is ready.
    pub(super) async fn ready(&self) {
        if let Some(only) = self.only() {
            return only.ready().await;
        }
        let known = join_all(self.iter().map(|tenant| async {
            tokio::select! {
                () = tenant.ready() => {}
                () = tenant.fails() => {}
            }
        }));
        known.await;
        while !self.iter().any(Tenant::is_ready) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.neighbourhood.begin();
    }

    /// What has to be in force before anything is decided.
    pub(super) fn before_all(&self) -> Needs {
        if self.only().is_some() { Needs::One(0) } else { Needs::Nothing }
    }

    /// Waits until these policies are known to be in force; at most so long. Gives whether they are.
    pub(super) async fn fresh(&self, needs: Needs, at_most: Duration) -> bool {
        if self.hold(needs) {
            return true;
        }
        let fresh = async |tenant: &Tenant| tenant.source_status.stall_guard.wait(at_most).await;
        join_all(self.needed(needs).map(fresh)).await.into_iter().all(|fresh| fresh)
    }

    fn hold(&self, needs: Needs) -> bool {
        self.needed(needs).all(|tenant| tenant.source_status.stall_guard.holds())
    }

    fn needed(&self, needs: Needs) -> impl Iterator<Item = &Tenant> {
        let is_needed = move |(index, tenant): &(usize, &Tenant)| match needs {
            Needs::Nothing => false,
            Needs::One(one) => one == *index,
            Needs::Every => tenant.store.current().is_some(),
        };
        self.iter().enumerate().filter(is_needed).map(|(_, tenant)| tenant)
    }

    /// Who had a key that no policy in force has, if one before it did.
    pub(super) fn former_holder(&self, key: &UserKey) -> Option<FormerHolder> {
        self.iter().find_map(|tenant| tenant.store.former_holder(key))
    }

    /// Nothing is found yet.
    pub(super) fn find(&self, now: i64) -> Found<'_> {
        Found { tenants: self, now, by: None, needs: Needs::Nothing, fresh: true }
    }
}

impl<'a> Found<'a> {
    /// By which policy a key is judged, and what decides.
    pub(super) fn of(&mut self, key: &UserKey) -> Result<(&'a Decider, ForNow), Denied> {
        let tenants = self.tenants;
        let denied = |reason| Denied { reason, key: Some(*key), service: None, revision: None };
        let mut found: Option<(usize, &Tenant, bool, Arc<Snapshot>, ForNow)> = None;
        let mut all_fresh = true;
        self.needs = Needs::Every;
        for (index, tenant) in tenants.all.iter().enumerate() {
            // Before its policy is taken.
            let fresh = tenant.source_status.stall_guard.holds();
            let Some(snapshot) = tenant.store.current() else { continue };
            all_fresh &= fresh;
            self.fresh = all_fresh;
            let policy = snapshot.for_now(tenant.source_status.has_lease());
            if tenant.name.is_some() && policy.holder(key).is_none() {
                continue;
            }
            if let Some((_, other, ..)) = &found {
                let names = format!("{}, {}", other.shown(), tenant.shown());
                return Err(denied(Denial::ClaimedTwice(names)));
            }
            found = Some((index, tenant, fresh, snapshot, policy));
        }
        let Some((index, tenant, fresh, snapshot, policy)) = found else {
            let missing: Vec<&str> =
                tenants.iter().filter(|t| !t.is_ready()).map(Tenant::shown).collect();
            return Err(denied(match missing.as_slice() {
                [] => Denial::UnknownKey,
                missing => Denial::NotReady(missing.join(", ")),
            }));
        };
        (self.needs, self.fresh) = (Needs::One(index), fresh);
        self.by = Some((index, snapshot));
        let refusal = if tenant.name.is_some() && !tenant.is_ready() {
            Some(Denial::NotReady(tenant.shown().to_owned()))
        } else {
            tenant.source_status.too_old(self.now).map(Denial::PolicyTooOld)
        };
        if let Some(reason) = refusal {
            return Err(Denied {
                service: policy.holder(key).map(|(service, _)| service.name.clone()),
                revision: Some(policy.revision().clone()),
                ..denied(reason)
            });
        }
        Ok((&tenant.decider, policy))
    }

    /// Whether what it was decided by is known to be in force still; if not, what has to be.
    pub(super) fn holds(&self) -> Result<(), Needs> {
        if self.fresh && self.tenants.hold(self.needs) { Ok(()) } else { Err(self.needs) }
    }

    /// Whose policy decided, and which it was; `None` where none did.
    pub(super) fn by(&self) -> Option<(&'a Tenant, &Arc<Snapshot>)> {
        let (index, snapshot) = self.by.as_ref()?;
        Some((self.tenants.all.get(*index)?, snapshot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use solewriter_core::diagnostics::SourceFile;
    use solewriter_core::grant::{AuditStreams, Defaults};
    use solewriter_core::keys::{Seed, Signer, User};
    use solewriter_core::policy::validate::validate;
    use solewriter_types::audit_event::{PRODUCER, Source};

    fn key() -> UserKey {
        *Signer::new(&Seed::<User>::generate()).unwrap().public()
    }

    /// A tenant whose policy has these keys; without a policy, if there are none.
    fn tenant(name: Option<&str>, keys: &[UserKey]) -> Tenant {
        let (store, metrics) = (Arc::new(Store::new()), Metrics::new());
        if !keys.is_empty() {
            let keys: Vec<String> = keys.iter().map(|key| format!("\"{key}\"")).collect();
            let text = format!("[service.a]\nnkeys = [{}]\n", keys.join(", "));
            let validated = validate(&[SourceFile::new("p.toml", text)]).unwrap();
            store.replace(validated, None, jiff::Timestamp::UNIX_EPOCH);
        }
        let defaults = Defaults {
            account: "APP".into(),
            lifetime: Duration::from_secs(3600),
            audit: AuditStreams::default(),
        };
        let source = Source::new(PRODUCER, jiff::Timestamp::UNIX_EPOCH, 0);
        Tenant {
            name: name.map(Arc::from),
            decider: Arc::new(Decider::new(defaults, Vec::new(), 0.0)),
            store,
            source_status: Arc::new(SourceStatus::new(
                "a test".to_owned(),
                Duration::from_secs(3600),
            )),
            recorder: Recorder::to_the_log(source, metrics.clone()),
            metrics,
            fleet: OnceLock::new(),
        }
    }

    fn all(tenants: Vec<Tenant>) -> Tenants {
        Tenants::new(tenants, Arc::default())
    }

    /// Who decides about a key: a name, or the reason why nobody does; and what has to be in force.
    fn asked(tenants: &Tenants, key: &UserKey) -> (String, Needs) {
        let mut found = tenants.find(1);
        let denied = found.of(key).err().map(|denied| denied.reason.code().to_owned());
        let by = found.by().map(|(tenant, _)| tenant.shown().to_owned());
        (denied.or(by).unwrap(), found.needs)
    }

    #[test]
    fn the_tenant_that_has_the_key_decides_and_of_two_neither() {
        let [one, other, both, stranger] = [key(), key(), key(), key()];
        let tenants =
            all(vec![tenant(Some("shop"), &[one, both]), tenant(Some("bank"), &[other, both])]);
        assert_eq!(asked(&tenants, &one), ("shop".to_owned(), Needs::One(0)));
        assert_eq!(asked(&tenants, &other), ("bank".to_owned(), Needs::One(1)));
        assert_eq!(asked(&tenants, &both), ("claimed_twice".to_owned(), Needs::Every));
        assert_eq!(asked(&tenants, &stranger), ("unknown_key".to_owned(), Needs::Every));
        // It may be a key of who has no policy yet.
        let tenants = all(vec![tenant(Some("shop"), &[one]), tenant(Some("bank"), &[])]);
        assert_eq!(asked(&tenants, &one).0, "shop");
        assert_eq!(asked(&tenants, &other), ("not_ready".to_owned(), Needs::Every));
        // Without tenants, the one policy is asked about everybody.
        let only = all(vec![tenant(None, &[one])]);
        assert_eq!(asked(&only, &stranger), ("solewriter".to_owned(), Needs::One(0)));
    }

    #[test]
    fn what_was_found_counts_only_while_its_own_policy_is_known_to_be_in_force() {
        let (one, other) = (key(), key());
        let tenants = all(vec![tenant(Some("shop"), &[one]), tenant(Some("bank"), &[other])]);
        let holds = |key: &UserKey| {
            let mut found = tenants.find(1);
            let _ = found.of(key);
            found.holds()
        };
        assert_eq!(holds(&one), Err(Needs::One(0)));
        let guard = |at: usize| &tenants.all[at].source_status.stall_guard;
        guard(0).conclude(guard(0).look());
        assert_eq!(holds(&one), Ok(()), "the other tenant's source is no matter of it");
        assert_eq!(holds(&other), Err(Needs::One(1)));
        assert_eq!(holds(&key()), Err(Needs::Every), "it may be new in one that was not looked at");
        guard(1).conclude(guard(1).look());
        assert_eq!(holds(&key()), Ok(()));
        // A look that ends after the policy was taken does not make that policy new.
        let late = all(vec![tenant(Some("shop"), &[one])]);
        let mut found = late.find(1);
        let _ = found.of(&one);
        let guard = &late.all[0].source_status.stall_guard;
        guard.conclude(guard.look());
        assert_eq!(found.holds(), Err(Needs::One(0)));
    }
}
