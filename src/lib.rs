//! solewriter: a NATS authorization callout service that makes "one keyspace, one writer" a rule
//! that the broker enforces.
//!
//! nats-server asks on `$SYS.REQ.USER.AUTH` about each connection. How one request is decided is
//! [`solewriter_core::callout`]; this crate puts it on the broker, and has the tools around it.
//! `ARCHITECTURE.md` is the way in; `docs/invariants.md` has what must always hold.
//!
//! In reading order: [`nats`] connects; [`policy_source`] follows the policy; [`service`] answers;
//! [`sessions`] keeps open connections to the policy, and [`fleet`] has the instances share that;
//! [`audit`], [`telemetry`] and [`traces`] tell of all of it. [`cli`] has a file for each command, and [`doctor`],
//! [`prove`], [`buckets`] and [`violations`] do what their commands promise.

pub mod adoption;
pub mod audit;
pub mod buckets;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod fleet;
pub mod http;
mod http_client;
pub mod nats;
pub mod operator;
pub mod passes;
pub mod policy_source;
pub mod prove;
pub mod scaffold;
pub mod schema;
pub mod service;
pub mod sessions;
pub mod signer;
pub mod systemd;
pub mod telemetry;
pub mod traces;
pub mod violations;

/// The Rust lines of the documentation compile.
#[cfg(doctest)]
#[doc = include_str!("../docs/clients.md")]
mod documentation {}
