//! Who is connected: every connection that solewriter let in, on every server.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;

use super::system::{Connection, ServerName, System, SystemError};
use crate::decide::Circumstances;
use crate::issue::ConnectionName;

/// How many servers are asked at the same time.
const AT_ONCE: usize = 8;

/// A connection that solewriter let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The server that has it.
    pub server: ServerName,
    /// The account that it is in.
    pub account: Arc<str>,
    /// What it was let in by.
    pub name: ConnectionName,
    /// What the server says of it.
    pub connection: Connection,
}

impl Session {
    /// What a decision about it needs to know, at `now` in seconds since the Unix epoch.
    #[must_use]
    pub fn circumstances(&self, now: i64) -> Circumstances<'_> {
        Circumstances {
            host: &self.connection.ip,
            address: self.connection.address(),
            connection: self.connection.way(),
            server: &self.server.version,
            now,
        }
    }
}

/// What a survey found.
#[derive(Debug)]
pub struct Survey<T> {
    /// What the caller kept, sorted by server.
    pub found: Vec<T>,
    /// The servers that were asked.
    pub servers: Vec<ServerName>,
    /// How many servers there should be.
    pub expected: usize,
    /// What went wrong, by server.
    pub failures: Vec<(ServerName, SystemError)>,
}

impl<T> Survey<T> {
    /// Whether every server that there should be told everything.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.failures.is_empty() && !self.servers.is_empty() && self.servers.len() >= self.expected
    }
}

/// Looks at every connection in these accounts on every server, and keeps what `keep` makes of
/// those that solewriter let in. A connection may be given twice.
///
/// # Errors
/// [`SystemError`] when no server can be found.
pub async fn survey<T>(
    system: &System,
    accounts: &[Arc<str>],
    keep: impl Fn(Session) -> Option<T>,
) -> Result<Survey<T>, SystemError> {
    let gathered = system.servers().await?;
    let keep = &keep;
    let asked = stream::iter(gathered.servers.clone()).map(|server| async move {
        let mut found = Vec::new();
        for account in accounts {
            let each = |connection: Connection| {
                let Some(name) = ConnectionName::parse(&connection.authorized_user) else { return };
                let (server, account) = (server.clone(), Arc::clone(account));
                found.extend(keep(Session { server, account, name, connection }));
            };
            if let Err(error) = system.connections(&server.id, account, each).await {
                return (found, Some((server, error)));
            }
        }
        (found, None)
    });
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    let mut asked = asked.buffer_unordered(AT_ONCE);
    while let Some((kept, failure)) = asked.next().await {
        found.extend(kept);
        failures.extend(failure);
    }
    drop(asked);
    Ok(Survey { found, expected: gathered.expected, servers: gathered.servers, failures })
}
