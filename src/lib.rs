//! solewriter: a NATS authorization callout service that makes "one keyspace, one writer" a rule
//! that the broker enforces.
//!
//! nats-server asks on `$SYS.REQ.USER.AUTH` about each connection. The way of one request:
//!
//! ```text
//! bytes ─ open ─▶ VerifiedRequest ─ limit, prove ─▶ Identity ─ decide ─▶ Granted ─ issue ─▶ bytes
//! ```
//!
//! It never turns back, and each stage takes the proof that the one before made, so that a
//! skipped check does not compile. [`authorizer`] is that way as one synchronous function;
//! [`service`] puts it on the broker. `ARCHITECTURE.md` has the invariants and the test that
//! guards each.
//!
//! In reading order: [`subject`], [`keyspace`], [`operation`] and [`keys`] are the words; [`protocol`] and
//! [`identity`] say who asks; [`policy`] (read through [`source`]) says who may do what;
//! [`permissions`], [`decide`] and [`issue`] make the answer; [`nats`], [`config`], [`telemetry`],
//! [`http`], [`broker`], [`fleet`], [`follow`], [`service`] and [`cli`] run it; [`sessions`] keeps
//! open connections to the policy.

// What the guard inside a client needs too.
#[cfg(feature = "service")]
pub mod audit;
#[cfg(not(feature = "service"))]
pub mod audit {
    //! The events of the audit stream.
    pub mod event;
    #[cfg(feature = "guard")]
    pub mod loss;
    #[cfg(feature = "guard")]
    pub mod publish;
    #[cfg(feature = "guard")]
    pub mod violation;
}
pub mod clean;
pub mod connection_type;
#[cfg(any(feature = "guard", feature = "service"))]
pub mod fold;
#[cfg(feature = "guard")]
pub mod guard;
pub mod keyspace;
#[cfg(all(unix, feature = "sandbox"))]
pub mod load;
pub mod operation;
#[cfg(any(feature = "guard", feature = "service"))]
pub mod quoted;
pub mod subject;

// The service and its tools.
#[cfg(feature = "service")]
pub mod asked;
#[cfg(feature = "service")]
pub mod attacks;
#[cfg(feature = "service")]
pub mod authorizer;
#[cfg(feature = "service")]
pub mod broker;
#[cfg(feature = "service")]
pub mod buckets;
#[cfg(feature = "service")]
pub mod cli;
#[cfg(feature = "service")]
pub mod config;
#[cfg(feature = "service")]
pub mod decide;
#[cfg(feature = "service")]
pub mod diff;
#[cfg(feature = "service")]
pub mod doctor;
#[cfg(feature = "service")]
pub mod expect;
#[cfg(feature = "service")]
pub mod fleet;
#[cfg(feature = "service")]
pub mod follow;
#[cfg(feature = "service")]
pub mod http;
#[cfg(feature = "service")]
pub mod identity;
#[cfg(feature = "service")]
pub mod issue;
#[cfg(feature = "service")]
pub mod keys;
#[cfg(feature = "service")]
pub mod limits;
#[cfg(feature = "service")]
pub mod map;
#[cfg(feature = "service")]
pub mod nats;
#[cfg(feature = "service")]
pub mod permissions;
#[cfg(feature = "service")]
pub mod policy;
#[cfg(feature = "service")]
pub mod protocol;
#[cfg(feature = "service")]
pub mod query;
#[cfg(all(unix, feature = "sandbox"))]
pub mod sandbox;
#[cfg(feature = "service")]
pub mod scaffold;
#[cfg(feature = "service")]
pub mod schema;
#[cfg(feature = "service")]
pub mod service;
#[cfg(feature = "service")]
pub mod sessions;
#[cfg(feature = "service")]
pub mod source;
#[cfg(feature = "service")]
pub mod telemetry;
#[cfg(feature = "service")]
pub mod violations;

/// The Rust lines of the documentation compile.
#[cfg(all(doctest, feature = "service"))]
#[doc = include_str!("../docs/clients.md")]
mod documentation {}
