//! Violations, as nats-server's log tells of them.

pub mod explain;
pub mod follow;
pub mod outbox;
pub mod state;
pub mod tail;
