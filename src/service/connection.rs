//! The connection to nats-server: made as often as it takes, and watched.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, ServerError};

use super::{Health, ServiceError};
use crate::broker;
use crate::config::Nats;
use crate::telemetry::Dropped;

/// The longest pause between two attempts to connect.
const RETRY_AT_MOST: Duration = Duration::from_secs(2);

/// Connects, trying until it works: a broker that is not up yet, or restarts, is no reason to
/// give up. What is wrong is logged each time.
pub(super) async fn connect(nats: &Nats, health: &Arc<Health>) -> Result<Client, ServiceError> {
    let mut pause = Duration::from_millis(100);
    loop {
        match options(nats, health)?.connect(&nats.servers).await {
            Ok(client) => return Ok(client),
            Err(error) => tracing::error!(
                event = "connect_failed", servers = ?broker::addresses(&nats.servers),
                error = %error, retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                "cannot connect to nats-server: {}", broker::advice(&error),
            ),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_AT_MOST);
    }
}

fn options(nats: &Nats, health: &Arc<Health>) -> Result<ConnectOptions, ServiceError> {
    let options = broker::options(&nats.login, &nats.tls, &nats.name)
        .map_err(|error| ServiceError::Setup(error.to_string()))?;
    let health = health.clone();
    Ok(options
        .reconnect_delay_callback(|attempts| {
            let doublings = u32::try_from(attempts.min(10)).unwrap_or(10);
            (Duration::from_millis(10) * 2u32.saturating_pow(doublings)).min(RETRY_AT_MOST)
        })
        .event_callback(move |event| {
            let health = health.clone();
            async move { observe(&health, &event) }
        }))
}

fn observe(health: &Health, event: &Event) {
    match event {
        Event::Connected => {
            health.set_connected(true);
            tracing::info!(event = "connected", "connected to nats-server");
        }
        Event::Disconnected => {
            health.set_connected(false);
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
