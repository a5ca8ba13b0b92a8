//! The connection to the system account, and whether it is one: an instance that cannot see
//! connections must not take the turn of one that can.
//!
//! async-nats 0.51 calls itself connected when the server says anything at all, such as the PING
//! that comes while the server still waits to hear who the user is. So only an answer counts.

use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, Event, ServerAddr};

use super::system::System;
use crate::broker::{self, BrokerError};
use crate::config::{Login, Tls};

/// How long to wait before asking again whether anybody answers: at first, and at most.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const ASK_AGAIN_AT_MOST: Duration = Duration::from_secs(30);

/// How to reach the system account.
pub struct Access<'a> {
    /// Addresses.
    pub servers: &'a [ServerAddr],
    /// TLS.
    pub tls: &'a Tls,
    /// The system account's user.
    pub login: &'a Login,
    /// The connection's name.
    pub name: &'a str,
}

/// A connection that should be to the system account.
pub(super) struct Link {
    client: Client,
    system: System,
    answers: bool,
    ask_at: Instant,
    pause: Duration,
}

impl Link {
    /// Connects, trying until it works.
    pub(super) async fn open(access: &Access<'_>) -> Result<Self, BrokerError> {
        let options = || {
            let options = broker::options(access.login, access.tls, access.name)?;
            Ok(options.event_callback(|event| async move { observe(&event) }))
        };
        let client = broker::connect_patiently(access.servers, access.name, options).await?;
        let system = System::new(client.clone());
        Ok(Self { client, system, answers: false, ask_at: Instant::now(), pause: ASK_AGAIN })
    }

    /// What asks.
    pub(super) fn system(&self) -> &System {
        &self.system
    }

    /// Whether the servers answer. Asks them, when they did not and some time has passed.
    pub(super) async fn usable(&mut self) -> bool {
        let connected = self.client.connection_state() == State::Connected;
        if self.answers && connected {
            return true;
        }
        let now = Instant::now();
        if now < self.ask_at {
            return false;
        }
        let heard = connected && self.system.servers().await.is_ok_and(|s| !s.servers.is_empty());
        if heard {
            self.answers = true;
            self.pause = ASK_AGAIN;
            tracing::info!(event = "system_connected", "the servers answer the system user");
            return true;
        }
        self.silent();
        false
    }

    /// Nobody answered: others may have more luck.
    pub(super) fn silent(&mut self) {
        self.answers = false;
        self.ask_at = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(ASK_AGAIN_AT_MOST);
        tracing::error!(
            event = "system_unusable",
            connection = %self.client.connection_state(),
            "no server answers the user of [system] nkey_seed, so this instance cannot close \
             connections: is it a user of the system account, and in auth_callout.auth_users?",
        );
    }
}

fn observe(event: &Event) {
    match event {
        Event::Connected => tracing::debug!(event = "system_connection", state = "connected"),
        Event::Disconnected => {
            tracing::warn!(event = "system_disconnected", "reconnecting to the system account");
        }
        Event::ServerError(error) => tracing::warn!(event = "system_connection", %error),
        Event::ClientError(error) => tracing::warn!(event = "system_connection", %error),
        other => tracing::debug!(event = "system_connection", state = %other),
    }
}
