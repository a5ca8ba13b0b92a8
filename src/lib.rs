//! solewriter: a NATS authorization callout service that makes "one keyspace, one writer" a rule
//! that the broker enforces.
//!
//! nats-server asks on `$SYS.REQ.USER.AUTH` about each connection. The way of one request:
//!
//! ```text
//! bytes ─ protocol ─▶ VerifiedRequest ─ identity ─▶ Identity ─ policy ─▶ Service
//!       ─ permissions ─▶ Grant ─ issue ─▶ bytes
//! ```
//!
//! It never turns back, and each stage takes the proof that the one before made, so that a
//! skipped check does not compile. [`authorizer`] is that way as one synchronous function;
//! [`service`] puts it on the broker. `ARCHITECTURE.md` has the invariants and the test that
//! guards each.
//!
//! In reading order: [`subject`], [`keyspace`] and [`keys`] are the words; [`protocol`] and
//! [`identity`] say who asks; [`policy`] (read through [`source`]) says who may do what;
//! [`permissions`], [`decide`] and [`issue`] make the answer; [`config`], [`telemetry`], [`http`],
//! [`service`] and [`cli`] run it.

pub mod authorizer;
pub mod cli;
pub mod config;
pub mod decide;
pub mod diff;
pub mod expect;
pub mod http;
pub mod identity;
pub mod issue;
pub mod keys;
pub mod keyspace;
pub mod limits;
#[cfg(all(unix, feature = "sandbox"))]
pub mod load;
pub mod map;
pub mod permissions;
pub mod policy;
pub mod protocol;
pub mod query;
#[cfg(all(unix, feature = "sandbox"))]
pub mod sandbox;
pub mod schema;
pub mod service;
pub mod source;
pub mod subject;
pub mod telemetry;

/// The Rust lines of the documentation compile.
#[cfg(doctest)]
#[doc = include_str!("../docs/clients.md")]
mod documentation {}
