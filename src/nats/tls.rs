//! TLS towards nats-server.

use std::path::PathBuf;

use async_nats::ConnectOptions;

/// TLS towards nats-server.
#[derive(Debug, Default)]
pub struct Tls {
    /// Refuse a connection without it.
    pub required: bool,
    /// Handshake before the server's INFO.
    pub first: bool,
    /// Certificate authorities to trust, instead of the system's.
    pub ca: Option<PathBuf>,
    /// Client certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// Puts TLS into the options of a connection.
    #[must_use]
    pub fn apply(&self, mut options: ConnectOptions) -> ConnectOptions {
        if let Some(ca) = &self.ca {
            options = options.add_root_certificates(ca.clone());
        }
        if let Some((cert, key)) = &self.identity {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        if self.first {
            options = options.tls_first();
        }
        options.require_tls(self.required)
    }
}
