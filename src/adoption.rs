//! From the NATS that a company runs today to a policy that the broker enforces.
//!
//! - [`deed`] is what the rest is about: one thing that one client did.
//! - [`trace`] reads deeds from the trace of nats-server.
//! - [`rehearsal`] holds a policy against them.
//! - [`server_config`] reads nats-server's configuration: who may do what today.

pub mod deed;
pub mod rehearsal;
pub mod server_config;
pub mod trace;
