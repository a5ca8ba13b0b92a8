//! From the NATS that a company runs today to a policy that the broker enforces.
//!
//! - [`deed`] is what the rest is about: one thing that one client did.
//! - [`server_config`] reads nats-server's configuration: who may do what today.

pub mod deed;
pub mod server_config;
