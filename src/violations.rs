//! Violations, as nats-server's log tells of them.

pub mod explain;
pub mod fold;
pub mod line;
pub mod quoted;
pub mod tail;
pub mod who;
