//! Who is connected: every connection that solewriter let in, on every server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::{Instant, timeout_at};

use crate::sessions::system_api::{
    Connection, ServerName, Servers, System, SystemError, all_answered,
};
use solewriter_core::callout::decide::Circumstances;
use solewriter_core::callout::issue::ConnectionName;

/// How many servers are asked at the same time. Many, so that those which do not answer keep no
/// other one waiting.
const AT_ONCE: usize = 256;
/// How long those that have told everything wait for the others.
const WAIT_FOR_SLOW: Duration = Duration::from_millis(500);

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
    /// What the caller kept.
    pub found: Vec<T>,
    /// The servers that were asked.
    pub servers: Vec<ServerName>,
    /// How many servers there should be.
    pub expected: usize,
    /// The names of servers that others know of, and that did not answer.
    pub silent: BTreeSet<String>,
    /// Whether each server has a route to each other one of its cluster.
    pub connected: bool,
    /// What went wrong, by server.
    pub failures: Vec<(ServerName, SystemError)>,
    /// How long those took that told everything.
    pub took: Duration,
}

impl<T> Survey<T> {
    /// Whether every server that there should be told everything.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.failures.is_empty() && all_answered(&self.servers, self.expected, &self.silent)
    }
}

/// Looks at every connection in these accounts on every server, and keeps what `keep` makes of
/// those that solewriter let in.
///
/// # Errors
/// [`SystemError`] when no server can be found.
pub async fn survey<T>(
    system: &System,
    accounts: &[Arc<str>],
    keep: impl Fn(Session) -> Option<T>,
) -> Result<Survey<T>, SystemError> {
    let mut found = Vec::new();
    let mut survey = survey_in_parts(system, accounts, keep, |part| found.extend(part)).await?;
    survey.found = found;
    Ok(survey)
}

/// As [`survey`], and gives what it kept to `take` in parts: what the servers told that were done,
/// while slow ones still tell. None of them waits for one that lies.
///
/// # Errors
/// [`SystemError`] when no server can be found.
pub async fn survey_in_parts<T>(
    system: &System,
    accounts: &[Arc<str>],
    keep: impl Fn(Session) -> Option<T>,
    mut take: impl FnMut(Vec<T>),
) -> Result<Survey<T>, SystemError> {
    let began = Instant::now();
    let Servers { servers, expected, silent, connected } = system.servers().await?;
    let (keep, names) = (&keep, servers.clone());
    let asked = stream::iter(names).map(|server| async move {
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
    let mut asked = std::pin::pin!(asked.buffer_unordered(AT_ONCE).fuse());
    let (mut part, mut failures, mut took) = (Vec::new(), Vec::new(), Duration::ZERO);
    let mut done = false;
    while !done {
        let wait = Instant::now() + WAIT_FOR_SLOW;
        loop {
            match timeout_at(wait, asked.next()).await {
                Ok(Some((kept, failure))) => {
                    if failure.is_none() {
                        took = began.elapsed();
                    }
                    part.extend(kept);
                    failures.extend(failure);
                }
                Ok(None) => {
                    done = true;
                    break;
                }
                Err(_) => break,
            }
        }
        if !part.is_empty() {
            take(std::mem::take(&mut part));
        }
    }
    Ok(Survey { found: Vec::new(), servers, expected, silent, connected, failures, took })
}
