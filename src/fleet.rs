//! The instances among themselves: who each one is, and which policy it serves.
//!
//! Services live in another account and hear nothing of it.

pub mod beats;
pub mod peers;

use std::sync::Arc;

/// One running instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its own for as long as it runs; one token of a subject.
    pub id: Arc<str>,
    /// The machine that it runs on.
    pub host: String,
    /// When it started, in seconds since the Unix epoch.
    pub started: i64,
}

impl Identity {
    /// A new instance on this machine. `random` makes it its own.
    #[must_use]
    pub fn new(random: [u8; 10], now: i64) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let id = data_encoding::BASE32_NOPAD.encode(&random).to_lowercase();
        Self { id: id.into(), host, started: now }
    }
}
