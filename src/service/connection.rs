//! The connections to nats-server, watched.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{Client, ClientError, ConnectOptions, Event, ServerAddr, ServerError};

use super::health::Health;
use crate::fleet::answering_name;
use crate::nats::Nats;
use crate::nats::connect;
use crate::telemetry::Dropped;
use solewriter_types::audit_event::{self, Trouble, words};

/// Where nats-server asks.
pub const CALLOUT_SUBJECT: &str = "$SYS.REQ.USER.AUTH";
/// Why the service stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A setting that only shows to be wrong when it is used.
    #[error("the connection to nats-server cannot be set up: {0}")]
    Setup(String),
    /// The client library gave the connection up, which it should never do.
    #[error("the connection to nats-server was closed for good")]
    Closed,
    /// The thread for the connection could not be had.
    #[error("no thread for the connection to nats-server: {0}")]
    Thread(#[from] std::io::Error),
    /// The subscription could not be made.
    #[error("cannot subscribe to {CALLOUT_SUBJECT}: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
}

/// The pauses between two attempts to come back: at first, for ten seconds, and then. After a
/// restart of the servers every client waits for this service, and a request that a server sends
/// before this service is back is lost: its client waits for the whole of the server's timeout. So
/// this service has to be there before they are.
const RETURN_SOON: Duration = Duration::from_millis(10);
const SOON: usize = 1_000;
const RETURN_AT_MOST: Duration = Duration::from_millis(200);

/// How often it is told why the connection does not come back.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// The connection on which requests come.
pub(super) async fn connect(
    nats: &Nats,
    instance: &str,
    health: &Arc<Health>,
) -> Result<Client, ServiceError> {
    let name = answering_name(&nats.name, instance);
    let absence = Arc::new(Absence::default());
    let options = || {
        let (health, absence) = (health.clone(), absence.clone());
        let options = connect::options(&nats.login, &nats.tls, &name)?;
        let again = Arc::new((nats.servers.clone(), options.clone()));
        Ok(options.reconnect_delay_callback(reconnect_delay).event_callback(move |event| {
            let (health, absence, again) = (health.clone(), absence.clone(), again.clone());
            async move {
                if let Event::ClientError(error) = &event {
                    observe_failure(&absence, error, again);
                } else {
                    observe(&health, &absence, &event);
                }
            }
        }))
    };
    connect::connect_patiently(&nats.servers, &name, options)
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
    connect_for(nats, "control").await
}

/// A connection of the same user for one purpose, which is in its name.
pub(super) async fn connect_for(nats: &Nats, purpose: &str) -> Result<Client, ServiceError> {
    let name = format!("{}-{purpose}", nats.name);
    let options = || {
        let options = connect::options(&nats.login, &nats.tls, &name)?;
        Ok(options.event_callback(|event| async move { observe_beside(&event) }))
    };
    connect::connect_patiently(&nats.servers, &name, options)
        .await
        .map_err(|error| ServiceError::Setup(error.to_string()))
}

/// The largest answer that the server of a connection takes.
pub(super) fn room(client: &Client) -> usize {
    match client.server_info().max_payload {
        0 => usize::MAX,
        bytes => bytes,
    }
}

/// The pause before the next attempt to come back, after so many.
#[must_use]
pub fn reconnect_delay(attempts: usize) -> Duration {
    if attempts < SOON { RETURN_SOON } else { RETURN_AT_MOST }
}

/// Whether a connection is away, and when an error was last told since: attempts come too fast to
/// tell of each.
#[derive(Default)]
struct Absence {
    away: AtomicBool,
    told: Mutex<Option<Instant>>,
}

impl Absence {
    fn begins(&self) {
        *self.told() = None;
        self.away.store(true, Ordering::Relaxed);
    }

    fn ends(&self) {
        self.away.store(false, Ordering::Relaxed);
    }

    fn told(&self) -> MutexGuard<'_, Option<Instant>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an error is one to tell: any while connected, and after that the first and one
    /// every [`TELL_AGAIN`], because the reason may have changed by then.
    fn tell(&self) -> bool {
        let mut told = self.told();
        let due = told.is_none_or(|told| told.elapsed() >= TELL_AGAIN);
        if due {
            *told = Some(Instant::now());
        }
        due || !self.away.load(Ordering::Relaxed)
    }
}

/// What async-nats could not do, and why not: it tells the kind alone.
fn observe_failure(
    absence: &Absence,
    error: &ClientError,
    again: Arc<(Vec<ServerAddr>, ConnectOptions)>,
) {
    if !absence.tell() {
        tracing::debug!(event = "client_error", error = %error);
        return;
    }
    let error = error.to_string();
    tokio::spawn(async move {
        let (servers, options) = &*again;
        let cause = connect::why(servers, options.clone()).await;
        tracing::warn!(event = "client_error", error, cause);
    });
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
        "nats-server refused a subject that solewriter needs: check the callout user's permissions",
    );
}

fn observe(health: &Health, absence: &Absence, happened: &Event) {
    match happened {
        Event::Connected => {
            absence.ends();
            health.connection(true);
            tracing::info!(event = "connected", "connected to nats-server");
        }
        Event::Disconnected => {
            absence.begins();
            health.connection(false);
            tracing::warn!(event = "disconnected", "connection to nats-server lost; reconnecting");
        }
        Event::SlowConsumer(_) => {
            health.metrics.dropped(Dropped::SlowConsumer, 1);
            tracing::error!(event = "slow_consumer", "a request was dropped: too many are waiting");
        }
        Event::ServerError(ServerError::Other(text)) if text.contains("Permissions Violation") => {
            health.recorder.record(audit_event::Event::Trouble(Trouble {
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
        // It has its own observer.
        Event::ClientError(_) => {}
        Event::LameDuckMode | Event::Draining | Event::Closed => {
            tracing::info!(event = "connection", state = %happened);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_back_before_anybody_else() {
        let within = |time: Duration| {
            let mut tried = 0;
            let mut passed = Duration::ZERO;
            while passed < time {
                passed += reconnect_delay(tried);
                tried += 1;
            }
            tried
        };
        assert_eq!(within(Duration::from_millis(10)), 1);
        assert_eq!(within(Duration::from_secs(1)), 100);
        // And a server that is away for an hour is not asked a hundred times a second.
        assert!(within(Duration::from_secs(3600)) < 20_000);
    }

    #[test]
    fn of_an_absence_the_first_error_is_told() {
        let absence = Absence::default();
        assert!(absence.tell() && absence.tell(), "each while connected");
        absence.begins();
        assert_eq!([absence.tell(), absence.tell(), absence.tell()], [true, false, false]);
        absence.ends();
        assert!(absence.tell() && absence.tell());
    }
}
