//! What is known of nats-server itself.

pub mod advisories;
