//! Real nats-server processes, for `solewriter demo` and for tests.
//!
//! [`fetch`] finds a nats-server binary or downloads one whose hash this crate pins;
//! [`server`] runs it as a child process and controls it. Nothing here has a part in
//! deciding or issuing: a production build leaves this module out with
//! `--no-default-features`. Unix only.

pub mod cpu_usage;
pub mod fetch;
mod pins;
pub mod server;

pub use fetch::{FetchError, NEWEST, SUPPORTED};
pub use server::{Server, SignalError, StartError, WaitError, free_ports};
