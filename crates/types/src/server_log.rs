//! nats-server's log: bytes become lines, and a line becomes what it says. No I/O, so that both
//! can be fuzzed without the service.

pub mod line;
pub mod lines;
pub mod rest;
