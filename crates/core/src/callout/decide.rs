//! The one decision: identity, policy and time in; grant or denial out. Pure and synchronous;
//! `serve` and the tests call the same function.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use moka::policy::EvictionPolicy;

use crate::callout::asked::Asked;
use crate::callout::identity::{Identity, Unproved};
use crate::grant::{CompiledGrant, Defaults, Grant, GrantError, GrantInputs};
use crate::keys::UserKey;
use crate::policy::model::{
    Access, Consumed, Policy, Revision, Rule, Service, ServiceKey, StreamName, Way,
};
use solewriter_types::advisories::holds_leafnodes;
use solewriter_types::audit_event::words;
use solewriter_types::connection_type::ConnectionType;
use solewriter_types::subject::Pattern;

/// Grants that are kept, at most, in bytes. One of 20 subjects has some 1.5 KB, so that those of
/// 100,000 services fit; one that does not is made again, which takes microseconds.
const KEPT_BYTES: u64 = 256 * 1024 * 1024;
/// What a kept grant takes besides its claims.
const BESIDES: usize = 320;

/// What is large: to make such a grant, and to sign it each time, takes milliseconds, which is no
/// time for a thread that answers everybody. In bytes of claims, and of rules where there are no
/// claims yet: a rule comes to twelve subjects at most.
const LARGE_CLAIMS: usize = 64 * 1024;
const LARGE_RULES: usize = 100;
const SUBJECTS_OF_RULE: usize = 12;

/// The connection may have this. Made only by [`Decider`], of an [`Identity`].
#[derive(Debug)]
pub struct Granted {
    identity: Identity,
    grant: Arc<CompiledGrant>,
    revision: Revision,
    expires: i64,
}

impl Granted {
    /// Who gets it, proved.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Everything the service gets.
    #[must_use]
    pub fn grant(&self) -> &Arc<CompiledGrant> {
        &self.grant
    }

    /// The policy revision that decided.
    #[must_use]
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// When the permissions end, in seconds since the Unix epoch.
    #[must_use]
    pub fn expires(&self) -> i64 {
        self.expires
    }
}

/// The connection may have nothing.
#[derive(Debug)]
pub struct Denied {
    /// Why, for operators only.
    pub reason: Denial,
    /// The key that was claimed or proved.
    pub key: Option<UserKey>,
    /// The service that the key belongs to, once proved.
    pub service: Option<Arc<str>>,
    /// The policy revision that decided; `None` where none was asked.
    pub revision: Option<Revision>,
}

/// Why a connection was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The client did not prove who it is.
    #[error(transparent)]
    Unproved(#[from] Unproved),
    /// No service has that key.
    #[error("no service in the policy has this key")]
    UnknownKey,
    /// The service is disabled.
    #[error("the service is disabled: {0}")]
    Disabled(String),
    /// The key counts only later.
    #[error("the key is not valid yet; it will be in {0} s (not_before)")]
    NotYetValid(i64),
    /// The key counts no more.
    #[error("the key expired {0} s ago (not_after)")]
    NoLongerValid(i64),
    /// The client's address is in none of the service's networks.
    #[error("{0:?} is in none of the service's `sources`")]
    Source(String),
    /// The service may not connect in this way.
    #[error("the service may not connect by {0}; its `connections` say how it may")]
    Connection(String),
    /// The server does not hold leafnodes to what they are given.
    #[error(
        "nats-server {0:?} does not enforce the permissions of leafnodes; 2.11.16, 2.12.7, \
         2.14.0 and later do"
    )]
    Leafnode(String),
    /// The policy places the service in an account that the settings do not offer.
    #[error("the policy places the service in the account {0}, which is not in [grants] accounts")]
    Account(Arc<str>),
    /// A leafnode calls itself by what breaks a line of the server's log.
    #[error("the client's name has a control character: \"{0}\"")]
    Name(String),
    /// More than the settings allow came from one source.
    #[error("more requests per minute from one {0} than [limits] per_{0} allows")]
    Limited(&'static str),
    /// The connection was let in already: it sent CONNECT again.
    #[error("the connection was let in already, and sent CONNECT again")]
    AskedAgain,
    /// The policies of several tenants have that key: whose it is, nobody can tell.
    #[error("the key is in the policies of several tenants ({0}), so it counts for none")]
    ClaimedTwice(String),
    /// It may be a key of a tenant whose policy this instance does not have yet.
    #[error("no service has this key, and this instance has no policy yet of the tenant {0}")]
    NotReady(String),
    /// The policy's source has not been heard of for too long to decide by what is known of it.
    #[error(
        "the policy's source has not answered for {0} s, which is more than [policy] keep_at_most"
    )]
    PolicyTooOld(i64),
    /// The grant could not be made: it is too large, or there is a defect.
    #[error(transparent)]
    Grant(#[from] GrantError),
}

impl Denial {
    /// Every name that [`Denial::code`] gives.
    pub const CODES: [&'static str; 24] = [
        "no_credential",
        "other_credential",
        "mqtt",
        "bad_key",
        "no_signature",
        "no_nonce",
        "signature_form",
        "bad_signature",
        "unknown_key",
        "disabled",
        "not_yet_valid",
        "no_longer_valid",
        "source",
        "connection",
        "leafnode",
        "account",
        "name",
        "limited",
        "asked_again",
        "claimed_twice",
        "not_ready",
        "policy_too_old",
        "grant_too_large",
        "internal",
    ];

    /// A short, stable name for metrics, logs and audit events.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unproved(Unproved::NoCredential) => "no_credential",
            Self::Unproved(Unproved::OtherCredential(_)) => "other_credential",
            Self::Unproved(Unproved::Mqtt) => "mqtt",
            Self::Unproved(Unproved::BadKey(_)) => "bad_key",
            Self::Unproved(Unproved::NoSignature(_)) => "no_signature",
            Self::Unproved(Unproved::NoNonce(_)) => "no_nonce",
            Self::Unproved(Unproved::SignatureForm(_)) => "signature_form",
            Self::Unproved(Unproved::BadSignature(_)) => "bad_signature",
            Self::UnknownKey => "unknown_key",
            Self::Disabled(_) => "disabled",
            Self::NotYetValid(_) => "not_yet_valid",
            Self::NoLongerValid(_) => "no_longer_valid",
            Self::Source(_) => "source",
            Self::Connection(_) => "connection",
            Self::Leafnode(_) => "leafnode",
            Self::Account(_) => "account",
            Self::Name(_) => "name",
            Self::Limited(_) => "limited",
            Self::AskedAgain => "asked_again",
            Self::ClaimedTwice(_) => "claimed_twice",
            Self::NotReady(_) => "not_ready",
            Self::PolicyTooOld(_) => "policy_too_old",
            Self::Grant(GrantError::TooLarge(_) | GrantError::TooEntangled(_)) => "grant_too_large",
            Self::Grant(_) => "internal",
        }
    }
}

/// From where, how and when somebody connects: what a decision needs to know besides the key.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The client's address as text.
    pub host: &'a str,
    /// The client's address, when it is one.
    pub address: Option<IpAddr>,
    /// How it connects; `None` for what solewriter does not know.
    pub connection: Option<ConnectionType>,
    /// The version of the server that it connects to, in that server's words.
    pub server: &'a str,
    /// Seconds since the Unix epoch.
    pub now: i64,
}

/// What the holder of a key has in one policy.
#[derive(Debug)]
pub struct Entitlement<'a> {
    /// The service.
    pub service: &'a Service,
    /// The key's own entry.
    pub entry: &'a ServiceKey,
    /// Everything that it gets.
    pub grant: Arc<CompiledGrant>,
}

/// Who asks where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thread {
    /// It answers everybody, so that it makes and signs nothing large.
    Answering,
    /// It has the time.
    Other,
}

/// Why there is no grant.
enum Missing {
    /// It is large, and the thread one that answers everybody.
    Large,
    /// There is none.
    Error(GrantError),
}

/// Why somebody gets nothing.
enum Refusal<'a> {
    Large(&'a Service),
    Denied(Denial, Option<&'a Service>),
}

/// The service of somebody who is proved: it gets more than is made and signed beside others.
#[derive(Debug)]
pub struct Large(pub Arc<str>);

/// How much each cache holds. All are bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheSizes {
    /// Compiled grants.
    pub grants: u64,
    /// What those take.
    pub grant_bytes: u64,
    /// Decoded keys of clients that were let in.
    pub client_keys: u64,
    /// Decoded keys of servers that asked.
    pub server_keys: u64,
    /// Curve keys of servers, ready to open and to seal.
    pub server_xkeys: u64,
    /// Client keys that a limit counts for.
    pub limited_keys: u64,
    /// Addresses that a limit counts for.
    pub limited_hosts: u64,
    /// Connections that were let in of late.
    pub asked_connections: u64,
    /// Policies that were in force before.
    pub past_policies: u64,
}

impl CacheSizes {
    /// Of both together. Deciders share what they know of connections.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            grants: self.grants + other.grants,
            grant_bytes: self.grant_bytes + other.grant_bytes,
            client_keys: self.client_keys + other.client_keys,
            server_keys: self.server_keys + other.server_keys,
            server_xkeys: self.server_xkeys + other.server_xkeys,
            limited_keys: self.limited_keys + other.limited_keys,
            limited_hosts: self.limited_hosts + other.limited_hosts,
            asked_connections: self.asked_connections.max(other.asked_connections),
            past_policies: self.past_policies + other.past_policies,
        }
    }
}

/// Decides requests; keeps compiled grants.
pub struct Decider {
    defaults: Defaults,
    /// Accounts that a policy may name, besides the default.
    accounts: Vec<Arc<str>>,
    /// The fraction of a lifetime that may be taken off at random, from 0 to 1.
    jitter: f64,
    /// Who was let in of late.
    asked: Arc<Asked>,
    /// By service. A grant is taken for what it was made from, and not for being there: so none
    /// outlives its policy, whichever decision put it there last.
    grants: moka::sync::Cache<Arc<str>, Kept>,
}

/// A grant, or why there is none; the revision in which it was last found right, and what it was
/// made from.
#[derive(Clone)]
struct Kept {
    revision: Revision,
    /// What the service was not given then.
    held: Vec<Pattern>,
    basis: GrantInputs,
    grant: Result<Arc<CompiledGrant>, GrantError>,
}

impl Kept {
    /// Of the claims.
    fn bytes(&self) -> usize {
        self.grant.as_ref().map_or(0, |grant| grant.claims().get().len())
    }
}

impl Decider {
    /// A decider. `accounts` are those that a policy may place services in, besides the
    /// default: whoever writes policies must not be able to reach the callout's account or the
    /// one that holds the buckets. `jitter` is the fraction of a lifetime, from 0 to 1, that may
    /// be taken off.
    #[must_use]
    pub fn new(defaults: Defaults, accounts: Vec<Arc<str>>, jitter: f64) -> Self {
        let jitter = jitter.clamp(0.0, 1.0);
        let weigh =
            |_: &Arc<str>, kept: &Kept| u32::try_from(kept.bytes() + BESIDES).unwrap_or(u32::MAX);
        // The newest is always kept: a large one that is turned away would be made for each login.
        let grants = moka::sync::Cache::builder()
            .max_capacity(KEPT_BYTES)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(weigh)
            .build();
        Self { defaults, accounts, jitter, asked: Arc::default(), grants }
    }

    /// The same, for one of several tenants: who was let in by one asked the others, too.
    #[must_use]
    pub fn with_asked(self, asked: Arc<Asked>) -> Self {
        Self { asked, ..self }
    }

    /// How much is kept here.
    #[must_use]
    pub fn cache_sizes(&self) -> CacheSizes {
        self.grants.run_pending_tasks();
        CacheSizes {
            grants: self.grants.entry_count(),
            grant_bytes: self.grants.weighted_size(),
            asked_connections: u64::try_from(self.asked.remembered()).unwrap_or(u64::MAX),
            ..CacheSizes::default()
        }
    }

    /// Decides, however large the grant is. `now` is in seconds since the Unix epoch; `chance`,
    /// from 0 to 1, spreads the expiry.
    ///
    /// ```
    /// use solewriter_core::callout::decide::Decider;
    /// use solewriter_core::callout::identity::Identity;
    /// use solewriter_core::policy::model::Policy;
    /// fn decide(decider: &Decider, identity: &Identity, policy: &Policy) {
    ///     let _ = decider.decide(identity, policy, 0, 0.0);
    /// }
    /// ```
    ///
    /// A request is decided only once its client is proved:
    ///
    /// ```compile_fail,E0308
    /// use solewriter_core::callout::decide::Decider;
    /// use solewriter_core::policy::model::Policy;
    /// use solewriter_core::callout::request::VerifiedRequest;
    /// fn decide(decider: &Decider, request: &VerifiedRequest, policy: &Policy) {
    ///     let _ = decider.decide(request, policy, 0, 0.0);
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Denied`] for whatever no rule grants.
    pub fn decide(
        &self,
        identity: &Identity,
        policy: &Policy,
        now: i64,
        chance: f64,
    ) -> Result<Granted, Denied> {
        self.decide_at(Thread::Other, identity, policy, now, chance).unwrap_or_else(|large| {
            // Not on this thread.
            let error = GrantError::Unwritable(large.0.clone());
            let (key, revision) = (Some(*identity.key()), Some(policy.revision().clone()));
            Err(Denied { reason: error.into(), key, service: Some(large.0), revision })
        })
    }

    /// The same on a thread that answers everybody.
    ///
    /// # Errors
    /// [`Large`] when what the service gets has to be made and signed on another one, by
    /// [`Decider::decide`].
    pub fn decide_unless_large(
        &self,
        identity: &Identity,
        policy: &Policy,
        now: i64,
        chance: f64,
    ) -> Result<Result<Granted, Denied>, Large> {
        self.decide_at(Thread::Answering, identity, policy, now, chance)
    }

    fn decide_at(
        &self,
        thread: Thread,
        identity: &Identity,
        policy: &Policy,
        now: i64,
        chance: f64,
    ) -> Result<Result<Granted, Denied>, Large> {
        let (key, request) = (identity.key(), identity.request());
        let (client, revision) = (request.client(), policy.revision());
        let denied = |reason: Denial, service: Option<&Service>| Denied {
            reason,
            key: Some(*key),
            service: service.map(|s| s.name.clone()),
            revision: Some(revision.clone()),
        };
        // A leafnode's name is logged as it is: with a line break, it could write any line that a
        // server writes.
        if client.connection == Some(ConnectionType::Leafnode)
            && client.name.contains(char::is_control)
        {
            return Ok(Err(denied(Denial::Name(words(&client.name)), None)));
        }
        let circumstances = Circumstances {
            host: &client.host,
            address: client.address,
            connection: client.connection,
            server: &request.server().version,
            now,
        };
        let Entitlement { service, entry, grant } =
            match self.entitlement_at(thread, policy, key, &circumstances) {
                Ok(entitlement) => entitlement,
                Err(Refusal::Large(service)) => {
                    return Err(Large(service.name.clone()));
                }
                Err(Refusal::Denied(reason, service)) => return Ok(Err(denied(reason, service))),
            };
        if !self.asked.first(request, now) {
            return Ok(Err(denied(Denial::AskedAgain, Some(service))));
        }
        let expires = self.expiry(&grant, now, chance).min(entry.not_after.unwrap_or(i64::MAX));
        let expires = expires.min(ends(service, now));
        Ok(Ok(Granted { identity: identity.clone(), grant, revision: revision.clone(), expires }))
    }

    /// What the holder of a key has in a policy, in these circumstances: the part of a decision
    /// that is asked again for connections that are open already.
    ///
    /// # Errors
    /// The reason and, where it is known, the service, when the holder may not connect so.
    pub fn entitlement<'a>(
        &self,
        policy: &'a Policy,
        key: &UserKey,
        circumstances: &Circumstances<'_>,
    ) -> Result<Entitlement<'a>, (Denial, Option<&'a Service>)> {
        self.entitlement_at(Thread::Other, policy, key, circumstances).map_err(|refusal| {
            match refusal {
                Refusal::Denied(denial, service) => (denial, service),
                // Not on this thread.
                Refusal::Large(service) => {
                    (GrantError::Unwritable(service.name.clone()).into(), Some(service))
                }
            }
        })
    }

    fn entitlement_at<'a>(
        &self,
        thread: Thread,
        policy: &'a Policy,
        key: &UserKey,
        circumstances: &Circumstances<'_>,
    ) -> Result<Entitlement<'a>, Refusal<'a>> {
        let Circumstances { host, address, connection, server, now } = *circumstances;
        let unknown = Refusal::Denied(Denial::UnknownKey, None);
        let (service, entry) = policy.holder(key).ok_or(unknown)?;
        let denied = |reason: Denial| Refusal::Denied(reason, Some(service));
        admit(service, connection, address, host).map_err(denied)?;
        if connection == Some(ConnectionType::Leafnode) && !holds_leafnodes(server) {
            return Err(denied(Denial::Leafnode(server.to_owned())));
        }
        if let Some(account) = &service.account
            && *account != self.defaults.account
            && !self.accounts.contains(account)
        {
            return Err(denied(Denial::Account(account.clone())));
        }
        in_time(entry, now).map_err(denied)?;
        let grant = self.grant_at(thread, service, policy.revision());
        let grant = grant.map_err(|missing| match missing {
            Missing::Large => Refusal::Large(service),
            Missing::Error(error) => denied(error.into()),
        })?;
        Ok(Entitlement { service, entry, grant })
    }

    /// Who was let in of late.
    #[must_use]
    pub fn asked(&self) -> &Arc<Asked> {
        &self.asked
    }

    /// The accounts that connections may be placed in, the default first.
    pub fn accounts(&self) -> impl Iterator<Item = &Arc<str>> {
        std::iter::once(&self.defaults.account).chain(&self.accounts)
    }

    /// What a service gets that says nothing itself.
    #[must_use]
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// The shortest time that permissions of this lifetime last.
    #[must_use]
    pub fn shortest(&self, lifetime: Duration) -> Duration {
        lifetime.mul_f64(1.0 - self.jitter)
    }

    /// What a service gets. Made when there is none yet, and again when the policy says something
    /// else of it than before; a change of others costs the comparison, once.
    fn grant_at(
        &self,
        thread: Thread,
        service: &Service,
        revision: &Revision,
    ) -> Result<Arc<CompiledGrant>, Missing> {
        let here = thread == Thread::Answering;
        let kept = self.grants.get(&service.name);
        let same = |kept: &&Kept| kept.revision == *revision && kept.held == service.held;
        if let Some(kept) = kept.as_ref().filter(same) {
            if here && kept.bytes() > LARGE_CLAIMS {
                return Err(Missing::Large);
            }
            return kept.grant.clone().map_err(Missing::Error);
        }
        if here && has_large_rules(service) {
            return Err(Missing::Large);
        }
        let basis = GrantInputs::of(service);
        let grant = match kept {
            Some(kept) if kept.basis == basis => kept.grant,
            _ => Grant::of(service, &self.defaults).and_then(|grant| grant.written()).map(Arc::new),
        };
        let (revision, held) = (revision.clone(), service.held.clone());
        let kept = Kept { revision, held, basis, grant: grant.clone() };
        self.grants.insert(service.name.clone(), kept);
        grant.map_err(Missing::Error)
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
    fn expiry(&self, grant: &CompiledGrant, now: i64, chance: f64) -> i64 {
        let lifetime = grant.lifetime().as_secs();
        let off = (lifetime as f64 * self.jitter * chance.clamp(0.0, 1.0)) as u64;
        let lasts = lifetime.saturating_sub(off).max(1);
        now.saturating_add(i64::try_from(lasts).unwrap_or(i64::MAX))
    }
}

/// When the server itself ends a connection that is still there after one of its service's entries
/// has ended ([`Rule::until`]): later by [`UNTIL_GRACE`], so that where connections are closed by a
/// sweep, it comes first, and no connection is made twice.
fn ends(service: &Service, now: i64) -> i64 {
    let untils = service.rules.iter().filter_map(Rule::until);
    let first = untils.filter(|until| *until > now).min();
    first.map_or(i64::MAX, |first| first.saturating_add(UNTIL_GRACE))
}

/// For how many seconds a sweep has the time to close what an entry's end concerns.
const UNTIL_GRACE: i64 = 30;

/// Whether a service's rules may come to a large grant: told without making it, in a time that no
/// policy makes long.
fn has_large_rules(service: &Service) -> bool {
    // What a subject has besides the keyspace.
    const BESIDES: usize = 40;
    let text = |rule: &Rule| match &rule.access {
        Access::Owns(keyspace) | Access::Writes(keyspace) | Access::Reads(keyspace) => {
            let part = keyspace.part().map_or(0, |part| part.as_str().len());
            2 * keyspace.bucket().as_str().len() + part
        }
        Access::Publishes(p) | Access::Subscribes(p) | Access::Answers(p) | Access::Calls(p) => {
            p.as_str().len()
        }
        // It comes to three more subjects than a keyspace.
        Access::OwnsStore(store) | Access::WritesStore(store) | Access::ReadsStore(store) => {
            3 * store.as_str().len()
        }
        Access::Consumes(Consumed { name, way }) => {
            let filter = match way {
                Way::Makes(Some(filter)) => filter.as_str().len(),
                Way::Pulls | Way::Listens | Way::Makes(None) => 0,
            };
            name.stream().as_str().len() + name.consumer().as_str().len() + filter
        }
        Access::FoundAs(name) | Access::Discovers(name) => name.as_str().len(),
        Access::DiscoversAll => 0,
        // Each of the stream's consumers is denied by name, in half as many subjects.
        Access::Replays(replayed) => {
            let filter = replayed.filter().map_or(0, |filter| filter.as_str().len());
            let stream = replayed.stream().as_str().len();
            let denied = |name: &StreamName| (stream + name.as_str().len() + BESIDES) / 2;
            stream + filter + replayed.durables().iter().map(denied).sum::<usize>()
        }
        Access::Audits(stream) => stream.as_str().len(),
    };
    let bytes = |rule: &Rule| SUBJECTS_OF_RULE * (text(rule) + BESIDES);
    let rules = &service.rules;
    rules.len() > LARGE_RULES || rules.iter().map(bytes).sum::<usize>() > LARGE_CLAIMS
}

/// What nats-server does not enforce on users that a callout authorised, so it is decided here:
/// from where and how a service connects.
///
/// # Errors
/// [`Denial`] when the service is disabled, or may not connect so or from there.
pub fn admit(
    service: &Service,
    connection: Option<ConnectionType>,
    address: Option<IpAddr>,
    host: &str,
) -> Result<(), Denial> {
    if let Some(why) = &service.disabled {
        return Err(Denial::Disabled(why.clone()));
    }
    let way = connection.filter(|way| service.connections.contains(way));
    if way.is_none() {
        let found = connection.map_or("an unknown way", ConnectionType::as_str);
        return Err(Denial::Connection(found.to_owned()));
    }
    let inside = |address| service.sources.iter().any(|network| network.contains(address));
    if !service.sources.is_empty() && !address.as_ref().is_some_and(inside) {
        return Err(Denial::Source(host.to_owned()));
    }
    Ok(())
}

/// Whether a key counts at that time, in seconds since the Unix epoch.
///
/// # Errors
/// [`Denial`] when it counts only later, or no more.
pub fn in_time(entry: &ServiceKey, now: i64) -> Result<(), Denial> {
    if let Some(from) = entry.not_before.filter(|from| now < *from) {
        return Err(Denial::NotYetValid(from.saturating_sub(now)));
    }
    if let Some(until) = entry.not_after.filter(|until| now >= *until) {
        return Err(Denial::NoLongerValid(now.saturating_sub(until)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::diagnostics::SourceFile;
    use crate::policy::validate::validate;

    fn granted(
        decider: &Decider,
        service: &Service,
        revision: &Revision,
    ) -> Result<Arc<CompiledGrant>, GrantError> {
        decider.grant_at(Thread::Other, service, revision).map_err(|missing| match missing {
            Missing::Error(error) => error,
            Missing::Large => panic!("not on this thread"),
        })
    }

    #[test]
    fn what_is_large_is_left_to_another_thread() {
        let defaults = Defaults {
            account: "APP".into(),
            lifetime: Duration::from_secs(60),
            audit: crate::grant::AuditStreams::default(),
        };
        let decider = Decider::new(defaults, Vec::new(), 0.0);
        let (few, wide) = (["x"].as_slice(), "y".repeat(200));
        let many: Vec<String> =
            (0..3_000).map(|n| format!("events.a.number.of.tokens.{n}")).collect();
        let long: Vec<String> = (0..90).map(|n| format!("{wide}.{n}")).collect();
        let huge: Vec<String> = (0..30_000).map(|n| format!("n{n}")).collect();
        let table =
            |name, list: &dyn std::fmt::Debug| format!("[service.{name}]\npublishes = {list:?}\n");
        let text = table("few", &few) + &table("many", &many) + &table("long", &long);
        let text = text + &table("huge", &huge);
        let policy = validate(&[SourceFile::new("p.toml", text)]).unwrap().policy;
        let ask = |thread, name: &str| {
            let service = policy.service(name).unwrap();
            match decider.grant_at(thread, service, policy.revision()) {
                Ok(_) => "granted",
                Err(Missing::Large) => "large",
                Err(Missing::Error(GrantError::TooLarge(_))) => "too large",
                Err(Missing::Error(_)) => "error",
            }
        };
        for (name, first, elsewhere, then) in [
            ("few", "granted", "granted", "granted"),
            ("many", "large", "granted", "large"),
            // Many rules, and no large grant: once it is there, it is given at once.
            ("long", "large", "granted", "granted"),
            ("huge", "large", "too large", "too large"),
        ] {
            assert_eq!(ask(Thread::Answering, name), first, "{name}");
            assert_eq!(ask(Thread::Answering, name), first, "{name} again");
            assert_eq!(ask(Thread::Other, name), elsewhere, "{name}");
            assert_eq!(ask(Thread::Answering, name), then, "{name}, once made");
        }
    }

    #[test]
    fn a_grant_of_an_older_revision_is_never_given() {
        let defaults = Defaults {
            account: "APP".into(),
            lifetime: Duration::from_secs(60),
            audit: crate::grant::AuditStreams::default(),
        };
        let decider = Decider::new(defaults, Vec::new(), 0.0);
        let subjects = |entry: &str| {
            let text = format!("[service.a]\npublishes = [\"{entry}\"]\n");
            let policy = validate(&[SourceFile::new("p.toml", text)]).unwrap().policy;
            let service = policy.service("a").unwrap();
            let grant = granted(&decider, service, policy.revision()).unwrap();
            let claims: serde_json::Value = serde_json::from_str(grant.claims().get()).unwrap();
            claims["pub"]["allow"][0].as_str().unwrap().to_owned()
        };
        assert_eq!(subjects("before"), "before");
        assert_eq!(subjects("after"), "after");
        assert_eq!(subjects("before"), "before", "as after a rollback");
    }

    #[test]
    fn a_grant_is_made_again_when_its_service_changes_and_kept_when_others_do() {
        let defaults = Defaults {
            account: "APP".into(),
            lifetime: Duration::from_secs(60),
            audit: crate::grant::AuditStreams::default(),
        };
        let decider = Decider::new(defaults, Vec::new(), 0.0);
        let grant = |text: &str| {
            let policy = validate(&[SourceFile::new("p.toml", text)]).unwrap().policy;
            granted(&decider, policy.service("a").unwrap(), policy.revision()).unwrap()
        };
        let one = "[service.a]\npublishes = [\"x\", \"y\"]\n";
        let first = grant(one);
        for same in [
            one,
            &format!("[service.b]\n{one}"),
            &format!("{one}description = \"more\"\nconnections = [\"WEBSOCKET\"]\n"),
        ] {
            assert!(Arc::ptr_eq(&first, &grant(same)), "{same}");
        }
        for other in [
            &one.replace("publishes", "subscribes"),
            &one.replace("publishes", "calls"),
            &one.replace("\"x\", \"y\"", "\"y\", \"x\""),
            &one.replace("\"x\", \"y\"", "\"xy\""),
            &format!("{one}account = \"OTHER\"\n"),
            &format!("{one}lifetime = \"30s\"\n"),
        ] {
            assert!(!Arc::ptr_eq(&grant(one), &grant(other)), "{other}");
        }
        assert_eq!(grant(&format!("{one}lifetime = \"30s\"\n")).lifetime().as_secs(), 30);
        assert_eq!(grant(&format!("{one}account = \"OTHER\"\n")).account(), "OTHER");
    }
}
