//! Connections that are open already: find those that a change of the policy took something
//! from, and close them.
//!
//! nats-server fixes permissions when a connection is made, so nothing else changes what it may
//! do. Its client comes back by itself, and gets what the policy in force says.
//!
//! One living instance at a time sweeps ([`crate::fleet`] says which): it compares *every* open
//! connection with the policy in force, again and again ([`schedule`]). It remembers nothing that
//! could be lost: a sweep that is cut short, by SIGKILL too, is begun anew by whoever comes next.
//! Two may sweep at the same time for a few seconds, while they do not know of each other. That
//! does no harm: both close only what a verdict closes, and a connection's number is never used
//! again while its server runs.
//!
//! What a connection had made for itself in JetStream does not end with it: see [`consumers`].
//!
//! [`verdict`] decides, [`expiry`] about time, [`listing`] finds, [`system_api`] asks and closes,
//! [`sweep`] does one round. [`onlooker`] judges the same for tools.

pub mod barrier;
pub mod consumers;
pub mod expiry;
pub mod handover;
pub mod listing;
pub mod onlooker;
pub mod schedule;
pub mod sweep;
pub mod sweeper;
pub mod system_api;
pub mod system_connection;
pub mod verdict;

use std::time::Duration;

use solewriter_core::grant::Defaults;
use solewriter_core::policy::model::Policy;

/// How changes of the policy reach open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often every open connection is looked at even if nothing changed.
    pub every: Duration,
    /// How many connections are closed in a second, at most.
    pub close_per_second: u32,
    /// What becomes of connections whose service only gained something that nobody waits for.
    pub gained: verdict::Gained,
    /// What is allowed of consumers.
    pub consumers: consumers::Settings,
}

/// How long a connection can keep what a change took from its service when nobody closes it: the
/// longest lifetime of any grant.
#[must_use]
pub fn reach_without_system_user(policy: &Policy, defaults: &Defaults) -> Duration {
    let own = policy.services().iter().map(|s| s.lifetime.unwrap_or(defaults.lifetime));
    own.max().unwrap_or(defaults.lifetime)
}

/// What to tell people who run without a system user, with that number.
#[must_use]
pub fn without_system_user(policy: &Policy, defaults: &Defaults) -> String {
    format!(
        "a policy change reaches open connections after at most {} s, when their \
         permissions expire, and what moves from one service to another both may write until \
         then; set [system] nkey_seed to reach them at once",
        reach_without_system_user(policy, defaults).as_secs()
    )
}
