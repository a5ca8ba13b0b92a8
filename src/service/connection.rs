//! The connections to nats-server, watched.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Event, ServerError};

use super::{Health, ServiceError};
use crate::audit::event::{self, Trouble, words};
use crate::broker;
use crate::config::Nats;
use crate::telemetry::Dropped;

/// The longest pause between two attempts to come back. After a restart of the servers every client
/// waits for this service, and the server lets each wait its whole timeout when nobody is there.
const RETURN_AT_MOST: Duration = Duration::from_millis(200);

/// The connection on which requests come.
pub(super) async fn connect(nats: &Nats, health: &Arc<Health>) -> Result<Client, ServiceError> {
    let options = || {
        let health = health.clone();
        let options = broker::options(&nats.login, &nats.tls, &nats.name)?;
        Ok(options.reconnect_delay_callback(reconnect_delay).event_callback(move |event| {
            let health = health.clone();
            async move { observe(&health, &event) }
        }))
    };
    broker::connect_patiently(&nats.servers, &nats.name, options)
        .await
        .map_err(|error| ServiceError::Setup(error.to_string()))
}

/// A connection for everything else that an instance does: reads the policy's bucket, talks with
/// the other instances.
///
/// Not the one on which requests come, though the user is the same: a policy of megabytes on its
/// way would delay the decisions behind it, and the exact steps in which that connection takes its
/// leave allow nobody else on it.
///
/// # Errors
/// When the login is no good.
pub async fn connect_beside(nats: &Nats) -> Result<Client, ServiceError> {
    let name = format!("{}-control", nats.name);
    let options = || {
        let options = broker::options(&nats.login, &nats.tls, &name)?;
        Ok(options.event_callback(|event| async move { observe_beside(&event) }))
    };
    broker::connect_patiently(&nats.servers, &name, options)
        .await
        .map_err(|error| ServiceError::Setup(error.to_string()))
}

/// The pause before the next attempt to come back, after so many.
pub(crate) fn reconnect_delay(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.min(10)).unwrap_or(10);
    (Duration::from_millis(10) * 2u32.saturating_pow(doublings)).min(RETURN_AT_MOST)
}

fn observe_beside(event: &Event) {
    match event {
        Event::ServerError(ServerError::Other(text)) if text.contains("Permissions Violation") => {
            not_permitted(text);
        }
        event => tracing::debug!(event = "control_connection", state = %event),
    }
}

fn not_permitted(text: &str) {
    tracing::error!(
        event = "not_permitted", error = %text,
        "nats-server refuses this service a subject it needs: check the callout user's \
         permissions",
    );
}

fn observe(health: &Health, happened: &Event) {
    match happened {
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
            health.recorder.record(event::Event::Trouble(Trouble {
                reason: "not_permitted".to_owned(),
                detail: format!(
                    "nats-server refuses this service a subject it needs, check the callout \
                     user's permissions: {}",
                    words(text)
                ),
                service: None,
            }));
        }
        Event::ServerError(error) => tracing::error!(event = "server_error", error = %error),
        Event::ClientError(error) => tracing::warn!(event = "client_error", error = %error),
        Event::LameDuckMode | Event::Draining | Event::Closed => {
            tracing::info!(event = "connection", state = %happened);
        }
    }
}
