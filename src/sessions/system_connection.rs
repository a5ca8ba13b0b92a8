//! The system user's connection, and whether servers answer it: an instance that cannot see
//! connections must not take the turn of one that can.
//!
//! async-nats 0.51 calls itself connected when the server says anything at all, such as the PING
//! that comes while the server still waits to hear who the user is. So only an answer counts.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, Event, ServerAddr};

use crate::nats::connect::{self, BrokerError};
use crate::nats::{AccountIds, Login, Tls};
use crate::sessions::system_api::System;

/// How long to wait before asking again whether anybody answers: at first, and at most.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const ASK_AGAIN_AT_MOST: Duration = Duration::from_secs(30);
/// How long servers that answered may be silent before that is an error: they were restarted, and
/// everybody comes back.
const SILENT_FOR: Duration = Duration::from_secs(10);
/// How long after a reconnection nothing is looked at that did not change: when a server was
/// restarted, everybody comes back and is judged by the policy in force, and looking takes the
/// processor that they wait for.
const REST: Duration = Duration::from_secs(5);

/// How to connect as the system user.
pub struct Access<'a> {
    /// Addresses.
    pub servers: &'a [ServerAddr],
    /// TLS.
    pub tls: &'a Tls,
    /// The system user.
    pub login: &'a Login,
    /// How servers name accounts.
    pub accounts: &'a AccountIds,
    /// The connection's name.
    pub name: &'a str,
}

/// A connection that servers should answer.
pub(super) struct SystemConnection {
    client: Client,
    system: System,
    answers: bool,
    answered: Option<Instant>,
    ask_at: Instant,
    pause: Duration,
    connects: u64,
    returned: Option<Instant>,
}

impl SystemConnection {
    /// Connects, trying until it works.
    pub(super) async fn open(access: &Access<'_>) -> Result<Self, BrokerError> {
        let options = || {
            let options = connect::options(access.login, access.tls, access.name)?;
            Ok(options.event_callback(|event| async move { observe(&event) }))
        };
        let client = connect::connect_patiently(access.servers, access.name, options).await?;
        let system = System::new(client.clone(), access.accounts.clone());
        Ok(Self {
            connects: connects(&client),
            client,
            system,
            answers: false,
            answered: None,
            ask_at: Instant::now(),
            pause: ASK_AGAIN,
            returned: None,
        })
    }

    /// What asks.
    pub(super) fn system(&self) -> &System {
        &self.system
    }

    /// Until when to look at nothing but what changed: a moment after each reconnection.
    pub(super) fn rest_until(&self) -> Option<Instant> {
        self.returned.map(|at| at + REST)
    }

    /// Whether the servers answer. Asks them, when they did not and some time has passed.
    pub(super) async fn usable(&mut self) -> bool {
        let connected = self.client.connection_state() == State::Connected;
        let now = Instant::now();
        let connects = connects(&self.client);
        if std::mem::replace(&mut self.connects, connects) != connects {
            self.returned = Some(now);
            // That the servers answered on the connection before says nothing of this one.
            self.answers = false;
            self.ask_at = now;
            self.pause = ASK_AGAIN;
        }
        if self.answers && connected {
            self.answered = Some(now);
            return true;
        }
        if now < self.ask_at {
            return false;
        }
        let heard = connected && self.system.servers().await.is_ok_and(|s| !s.servers.is_empty());
        if heard {
            self.answers = true;
            self.answered = Some(Instant::now());
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
        if self.answered.is_some_and(|at| at.elapsed() < SILENT_FOR) {
            tracing::warn!(
                event = "system_silent",
                connection = %self.client.connection_state(),
                "the servers do not answer the system user at the moment",
            );
            return;
        }
        tracing::error!(
            event = "system_unusable",
            connection = %self.client.connection_state(),
            "no server answers the user of [system] nkey_seed, so this instance cannot close \
             connections: does its account import the requests that it makes, and is it in \
             auth_callout.auth_users?",
        );
    }
}

/// How often a client has connected.
fn connects(client: &Client) -> u64 {
    client.statistics().connects.load(Ordering::Relaxed)
}

fn observe(event: &Event) {
    match event {
        Event::Connected => tracing::debug!(event = "system_connection", state = "connected"),
        Event::Disconnected => {
            tracing::warn!(event = "system_disconnected", "reconnecting as the system user");
        }
        Event::ServerError(error) => tracing::warn!(event = "system_connection", %error),
        Event::ClientError(error) => tracing::warn!(event = "system_connection", %error),
        other => tracing::debug!(event = "system_connection", state = %other),
    }
}
