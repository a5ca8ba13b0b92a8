//! How anything here connects to nats-server: who it is, TLS, and its inbox.

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, ServerAddr};

use crate::config::{Login, Tls};

/// The inboxes of solewriter's own users in the callout's account; they are permitted these
/// (`deploy/nats-server.conf`).
pub const INBOX: &str = "_INBOX.solewriter";

/// A connection that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The login is no good.
    #[error("credentials: {0}")]
    Credentials(std::io::Error),
    /// nats-server cannot be reached, or refuses.
    #[error("cannot connect to {servers}: {error}: {}", advice(.error))]
    Connect {
        /// Where.
        servers: String,
        /// Why not.
        error: ConnectError,
    },
}

/// Options for a connection of that login, with an inbox of our own users.
///
/// # Errors
/// When the credentials cannot be parsed.
pub fn options(login: &Login, tls: &Tls, name: &str) -> Result<ConnectOptions, BrokerError> {
    let mut options = match login {
        Login::Nkey(seed) => ConnectOptions::with_nkey(seed.expose().to_owned()),
        Login::Credentials(text) => {
            ConnectOptions::with_credentials(text.expose()).map_err(BrokerError::Credentials)?
        }
    };
    if let Some(ca) = &tls.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some((cert, key)) = &tls.identity {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    if tls.first {
        options = options.tls_first();
    }
    Ok(options.name(name).require_tls(tls.required).custom_inbox_prefix(INBOX))
}

/// Connects once; what is wrong is the error.
///
/// # Errors
/// [`BrokerError`].
pub async fn connect(
    servers: &[ServerAddr],
    options: ConnectOptions,
) -> Result<Client, BrokerError> {
    let connected = options.connect(servers).await;
    connected
        .map_err(|error| BrokerError::Connect { servers: addresses(servers).join(", "), error })
}

/// `HOST:PORT` of each, for messages.
pub fn addresses(servers: &[ServerAddr]) -> Vec<String> {
    servers.iter().map(|s| format!("{}:{}", s.host(), s.port())).collect()
}

/// What to look at first.
pub fn advice(error: &ConnectError) -> &'static str {
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            "it refuses this user: is the key one that the server's configuration has, in \
             auth_callout.auth_users too?"
        }
        ConnectErrorKind::Tls => "TLS failed: check [nats.tls], and the server's certificate",
        _ => "is it running, and is [nats] servers its address?",
    }
}
