//! nats-server, as everything here that connects to it needs to know it: where it is, who connects
//! and how it is encrypted.

mod account_ids;
pub mod certificate;
pub mod connect;
mod login;
pub mod raw_client;
pub mod round_trip;
mod tls;
pub mod tls_client;

use std::sync::Arc;

pub use self::account_ids::AccountIds;
pub use self::login::{Login, Secret};
pub use self::tls::Tls;

/// How to reach nats-server, and as whom.
#[derive(Debug)]
pub struct Nats {
    /// Addresses, at least one.
    pub servers: Vec<async_nats::ServerAddr>,
    /// Who we are.
    pub login: Login,
    /// The queue group that instances share.
    pub queue_group: String,
    /// The connection's name.
    pub name: String,
    /// How many connections there are, each with a thread that works on what comes on it.
    pub connections: usize,
    /// TLS.
    pub tls: Arc<Tls>,
    /// How servers name accounts.
    pub accounts: AccountIds,
}
