//! The connection to nats-server: made as often as it takes, and watched.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerError};

use super::{Health, ServiceError};
use crate::config::{Login, Nats};
use crate::telemetry::Dropped;

/// The longest pause between two attempts to connect at the start.
const RETRY_AT_MOST: Duration = Duration::from_secs(2);
/// The longest pause between two attempts to come back. After a restart of the servers every client
/// waits for this service, and the server lets each wait its whole timeout when nobody is there.
const RETURN_AT_MOST: Duration = Duration::from_millis(200);

/// Connects, trying until it works: a broker that is not up yet, or restarts, is no reason to
/// give up. What is wrong is logged each time.
pub(super) async fn connect(nats: &Nats, health: &Arc<Health>) -> Result<Client, ServiceError> {
    let mut pause = Duration::from_millis(100);
    loop {
        match options(nats, health)?.connect(&nats.servers).await {
            Ok(client) => return Ok(client),
            Err(error) => tracing::error!(
                event = "connect_failed", servers = ?nats.servers.iter().map(|s| {
                    format!("{}:{}", s.host(), s.port())
                }).collect::<Vec<_>>(),
                error = %error, retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                "cannot connect to nats-server: {}", advice(&error),
            ),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_AT_MOST);
    }
}

/// What to look at first.
fn advice(error: &ConnectError) -> &'static str {
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            "it refuses this service: is its key that of the callout user, and is that user in \
             auth_callout.auth_users?"
        }
        ConnectErrorKind::Tls => "TLS failed: check [nats.tls], and the server's certificate",
        _ => "is it running, and is [nats] servers its address?",
    }
}

fn options(nats: &Nats, health: &Arc<Health>) -> Result<ConnectOptions, ServiceError> {
    let mut options = match &nats.login {
        Login::Nkey(seed) => ConnectOptions::with_nkey(seed.expose().to_owned()),
        Login::Credentials(text) => ConnectOptions::with_credentials(text.expose())
            .map_err(|error| ServiceError::Setup(format!("credentials: {error}")))?,
    };
    if let Some(ca) = &nats.tls.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some((cert, key)) = &nats.tls.identity {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    if nats.tls.first {
        options = options.tls_first();
    }
    let health = health.clone();
    Ok(options
        .name(&nats.name)
        .require_tls(nats.tls.required)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            let health = health.clone();
            async move { observe(&health, &event) }
        }))
}

/// The pause before the next attempt to come back, after so many.
pub(crate) fn reconnect_delay(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.min(10)).unwrap_or(10);
    (Duration::from_millis(10) * 2u32.saturating_pow(doublings)).min(RETURN_AT_MOST)
}

fn observe(health: &Health, event: &Event) {
    match event {
        Event::Connected => {
            health.connection(true);
            tracing::info!(event = "connected", "connected to nats-server");
        }
        Event::Disconnected => {
            health.connection(false);
            tracing::warn!(event = "disconnected", "connection to nats-server lost; reconnecting");
        }
        Event::SlowConsumer(_) => {
            health.metrics.dropped(Dropped::SlowConsumer, 1);
            tracing::error!(event = "slow_consumer", "a request was dropped: too many are waiting");
        }
        Event::ServerError(ServerError::Other(text)) if text.contains("Permissions Violation") => {
            tracing::error!(
                event = "not_permitted", error = %text,
                "nats-server refuses this service a subject it needs: check the callout user's \
                 permissions",
            );
        }
        Event::ServerError(error) => tracing::error!(event = "server_error", error = %error),
        Event::ClientError(error) => tracing::warn!(event = "client_error", error = %error),
        Event::LameDuckMode | Event::Draining | Event::Closed => {
            tracing::info!(event = "connection", state = %event);
        }
    }
}
