//! From the NATS that a company runs today to a policy that the broker enforces.
//!
//! [`deed`] is what the rest is about: one thing that one client did.

pub mod deed;
pub mod server_config;
