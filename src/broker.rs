//! How anything here connects to nats-server: who it is, TLS, and its inbox.

use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, ServerAddr};
use futures_util::StreamExt;
use tokio::time::timeout;

use crate::config::{Login, Tls};

/// The inboxes of solewriter's own users in the callout's account; they are permitted these
/// (`deploy/nats-server.conf`).
pub const INBOX: &str = "_INBOX.solewriter";

/// How long the server may take to pass a message back: longer than it waits for an answer about a
/// client.
const PROOF: Duration = Duration::from_secs(12);

/// A connection that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The login is no good.
    #[error("credentials: {0}")]
    Credentials(std::io::Error),
    /// nats-server does not say no, and does not let the user do anything either.
    #[error(
        "{servers}: the server does not let this user in: is it in auth_callout.auth_users, and \
         may it publish and subscribe below {INBOX}?"
    )]
    NotIn {
        /// Where.
        servers: String,
    },
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
    let options = match login {
        Login::Nkey(seed) => ConnectOptions::with_nkey(seed.expose().to_owned()),
        Login::Credentials(text) => {
            ConnectOptions::with_credentials(text.expose()).map_err(BrokerError::Credentials)?
        }
    };
    Ok(with_tls(options, tls).name(name).custom_inbox_prefix(INBOX))
}

/// The same with TLS as the settings have it.
#[must_use]
pub fn with_tls(mut options: ConnectOptions, tls: &Tls) -> ConnectOptions {
    if let Some(ca) = &tls.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some((cert, key)) = &tls.identity {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    if tls.first {
        options = options.tls_first();
    }
    options.require_tls(tls.required)
}

/// Connects once, as a user who may send itself messages below [`INBOX`]; what is wrong is the
/// error.
///
/// # Errors
/// [`BrokerError`].
pub async fn connect(
    servers: &[ServerAddr],
    options: ConnectOptions,
) -> Result<Client, BrokerError> {
    let names = || addresses(servers).join(", ");
    let connected = options.connect(servers).await;
    let client = connected.map_err(|error| BrokerError::Connect { servers: names(), error })?;
    match timeout(PROOF, round_trip(&client)).await {
        Ok(Some(())) => Ok(client),
        _ => Err(BrokerError::NotIn { servers: names() }),
    }
}

/// Sends a message to ourselves. nats-server pings a client whose authorization it still waits
/// for, and async-nats 0.51 takes that for a success.
async fn round_trip(client: &Client) -> Option<()> {
    let subject = format!("{INBOX}.{}", client.new_inbox().rsplit('.').next()?);
    let mut messages = client.subscribe(subject.clone()).await.ok()?;
    client.publish(subject, "".into()).await.ok()?;
    messages.next().await.map(|_| ())
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
