//! What the system account tells of open connections, and how it closes one.
//!
//! Seen on nats-server 2.10.25 and 2.15.1: `$SYS.REQ.SERVER.PING` is answered by every server,
//! with the number of servers that it knows; CONNZ of one account lists leafnodes too; KICK
//! closes clients and leafnodes alike, and a number is never used twice while a server runs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::{Instant, timeout, timeout_at};

use crate::policy::model::ConnectionType;
use crate::protocol::request;

/// How long a server may take to answer one question.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How long servers may take to say that they are there.
const GATHER_WITHIN: Duration = Duration::from_secs(1);
/// How many connections are asked for at once: about 200 KB.
const PAGE: u64 = 256;
/// The most servers that are kept in mind.
const MAX_SERVERS: usize = 4096;

/// Why the system account did not help.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// No answer, or no connection.
    #[error("{subject}: {error}")]
    Request {
        /// What was asked.
        subject: String,
        /// What came of it.
        error: String,
    },
    /// An answer that is not understood.
    #[error("{subject}: the answer is not understood: {error}")]
    Answer {
        /// What was asked.
        subject: String,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// The server says no.
    #[error("{subject}: {description}")]
    Refused {
        /// What was asked.
        subject: String,
        /// Why not.
        description: String,
    },
}

/// A running nats-server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct ServerName {
    /// Its public key.
    pub id: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its version.
    #[serde(default, rename = "ver")]
    pub version: String,
    /// The cluster that it is in, or empty.
    #[serde(default)]
    pub cluster: String,
}

/// The servers that answered.
#[derive(Debug, Default)]
pub struct Servers {
    /// Sorted by id.
    pub servers: Vec<ServerName>,
    /// How many there should be, as the servers themselves say.
    pub expected: usize,
}

impl Servers {
    /// Whether all answered.
    #[must_use]
    pub fn complete(&self) -> bool {
        !self.servers.is_empty() && self.servers.len() >= self.expected
    }
}

/// One open connection, as its server describes it (CONNZ).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Connection {
    /// Its number on that server.
    pub cid: u64,
    /// `Client` or `Leafnode`.
    #[serde(default)]
    pub kind: String,
    /// `nats`, `websocket` or `mqtt`; empty for a leafnode.
    #[serde(default, rename = "type")]
    pub protocol: String,
    /// The client's address.
    #[serde(default)]
    pub ip: String,
    /// When it was made, RFC 3339.
    #[serde(default)]
    pub start: String,
    /// The client's name for itself.
    #[serde(default)]
    pub name: String,
    /// Its library.
    #[serde(default)]
    pub lang: String,
    /// Its library's version.
    #[serde(default)]
    pub version: String,
    /// The name that its permissions gave it.
    #[serde(default)]
    pub authorized_user: String,
}

impl Connection {
    /// How it connects; `None` for what solewriter does not know.
    #[must_use]
    pub fn way(&self) -> Option<ConnectionType> {
        ConnectionType::of(&self.kind, &self.protocol)
    }

    /// Its address, when it is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        request::address(&self.ip)
    }
}

/// What became of a connection that was to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The server closed it.
    Closed,
    /// It was gone already.
    Gone,
}

#[derive(Deserialize)]
struct Answer<T> {
    data: Option<T>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
struct Ping {
    server: ServerName,
    #[serde(default)]
    statsz: Stats,
}

#[derive(Default, Deserialize)]
struct Stats {
    #[serde(default)]
    active_servers: usize,
}

#[derive(Deserialize)]
struct Connections {
    #[serde(default)]
    total: u64,
    #[serde(default)]
    connections: Option<Vec<Connection>>,
}

/// A connection of the system account's user.
#[derive(Clone, Debug)]
pub struct System {
    client: Client,
}

impl System {
    /// Uses a connection of a user in the system account.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Finds every server that can be reached. It ends when all have answered that the servers
    /// themselves know of, or after a second.
    ///
    /// # Errors
    /// When nothing can be asked. Servers that do not answer are no error: see
    /// [`Servers::complete`].
    pub async fn servers(&self) -> Result<Servers, SystemError> {
        let subject = "$SYS.REQ.SERVER.PING";
        let failed = |error: String| SystemError::Request { subject: subject.to_owned(), error };
        let inbox = self.client.new_inbox();
        let mut answers =
            self.client.subscribe(inbox.clone()).await.map_err(|e| failed(e.to_string()))?;
        self.client
            .publish_with_reply(subject, inbox, Bytes::new())
            .await
            .map_err(|e| failed(e.to_string()))?;
        let deadline = Instant::now() + GATHER_WITHIN;
        let mut found = BTreeMap::new();
        let mut expected = 1;
        while found.len() < expected.min(MAX_SERVERS) {
            let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await else { break };
            let Ok(ping) = serde_json::from_slice::<Ping>(&answer.payload) else { continue };
            expected = expected.max(ping.statsz.active_servers);
            found.insert(ping.server.id.clone(), ping.server);
        }
        let _ = answers.unsubscribe().await;
        Ok(Servers { servers: found.into_values().collect(), expected })
    }

    /// Gives every connection of an account on one server to `each`, one page at a time. Some may
    /// be given twice; none that was open all the while is left out.
    ///
    /// # Errors
    /// [`SystemError`]; what was found until then was given.
    pub async fn connections(
        &self,
        server: &str,
        account: &str,
        mut each: impl FnMut(Connection),
    ) -> Result<(), SystemError> {
        let total = self.page(server, account, 0, &mut each).await?;
        if total <= PAGE {
            return Ok(());
        }
        // From the end: when a connection ends meanwhile, those after it move one place forward,
        // into what is still to be read. New ones are added at the end, and are new.
        let mut offset = total;
        while offset > 0 {
            offset = offset.saturating_sub(PAGE);
            self.page(server, account, offset, &mut each).await?;
        }
        Ok(())
    }

    async fn page(
        &self,
        server: &str,
        account: &str,
        offset: u64,
        each: &mut impl FnMut(Connection),
    ) -> Result<u64, SystemError> {
        let question = json!({"auth": true, "acc": account, "limit": PAGE, "offset": offset});
        let subject = format!("$SYS.REQ.SERVER.{server}.CONNZ");
        let answer: Option<Connections> = self.ask(subject, &question).await?;
        let Some(Connections { total, connections }) = answer else { return Ok(0) };
        connections.into_iter().flatten().for_each(each);
        Ok(total)
    }

    /// Closes one connection.
    ///
    /// # Errors
    /// [`SystemError`] when it is not known to be closed.
    pub async fn close(&self, server: &str, cid: u64) -> Result<Closed, SystemError> {
        let subject = format!("$SYS.REQ.SERVER.{server}.KICK");
        let answer = self.ask::<serde_json::Value>(subject, &json!({"cid": cid})).await;
        match answer {
            Ok(_) => Ok(Closed::Closed),
            Err(SystemError::Refused { description, .. }) if description.contains("no such") => {
                Ok(Closed::Gone)
            }
            Err(error) => Err(error),
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        subject: String,
        question: &serde_json::Value,
    ) -> Result<Option<T>, SystemError> {
        let request = self.client.request(subject.clone(), question.to_string().into());
        let answer = match timeout(ANSWER_WITHIN, request).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                return Err(SystemError::Request { subject, error: error.to_string() });
            }
            Err(_) => {
                let error = format!("no answer within {} s", ANSWER_WITHIN.as_secs());
                return Err(SystemError::Request { subject, error });
            }
        };
        match serde_json::from_slice::<Answer<T>>(&answer.payload) {
            Ok(Answer { error: Some(Refusal { description }), .. }) => {
                Err(SystemError::Refused { subject, description })
            }
            Ok(Answer { data, .. }) => Ok(data),
            Err(error) => Err(SystemError::Answer { subject, error }),
        }
    }
}
