//! What the servers tell of open connections, and how it closes one.
//!
//! Seen on nats-server 2.10.25 and 2.15.1: `$SYS.REQ.SERVER.PING` is answered by every server,
//! with the number of servers that it knows; CONNZ of one account lists leafnodes too; KICK
//! closes clients and leafnodes alike, and a number is never used twice while a server runs.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Read;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, HeaderMap, HeaderValue, Message, Request};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use crate::nats::AccountIds;
use solewriter_core::callout::request;
use solewriter_core::keys::ServerKey;
use solewriter_types::connection_type::ConnectionType;

/// How long a server may take to answer one question, and to tell of all of its connections.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
const TELL_WITHIN: Duration = Duration::from_secs(30);
/// How long servers may take to say that they are there; and how long, once as many have as most
/// of them say that there are, the others may.
const GATHER_WITHIN: Duration = Duration::from_secs(1);
const GATHER_MORE: Duration = Duration::from_millis(150);
/// How many connections are asked for at once, in whatever answer: at most six megabytes.
const PAGE: u64 = 256;
/// How many are asked for where they are small, and how many bytes that is to be before it is
/// compressed. For each page nats-server describes and sorts all that it has, so few pages are cheap.
/// So many with the longest names that clients can have fill what a server keeps for a slow client.
const LARGE_PAGE: u64 = 12_288;
const LARGE_PAGE_BYTES: u64 = 12 * 1024 * 1024;
/// What servers compress with, and what it takes least of their processors for.
const COMPRESSED: &str = "snappy";
/// How many large pages are asked for at a time, of all servers: what is to be held in memory. Who
/// finds as many under way asks for a small one.
const LARGE_PAGES_AT_ONCE: usize = 8;
/// The most servers that are kept in mind, and the most answers that are looked at to find them.
const MAX_SERVERS: usize = 1024;
const MAX_ANSWERS: usize = 2 * MAX_SERVERS;
/// The longest answer that is looked at, in bytes, when it is decompressed. What clients say of
/// themselves fills a page of [`PAGE`] with six megabytes at most: a line of theirs has 4 KB, and JSON makes six of one.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// The most that a server may say of the connections of one account: how many there are, and in
/// how many bytes.
const MAX_CONNECTIONS: u64 = 262_144;
const MAX_BYTES: usize = 512 * 1024 * 1024;
/// How many pages are read to find the logins under way.
const MAX_LOGIN_PAGES: u64 = 64;
/// The account in which connections are before they are let in.
const DEFAULT_ACCOUNT: &str = "$G";
/// How many pages may tell nothing new. A few do, when many connections end while they are told.
const MAX_STALE_PAGES: u32 = 4;
/// The longest name of a server, in characters.
const MAX_NAME: usize = 200;

/// Why the servers did not help.
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
    #[error("{subject}: the answer cannot be parsed: {error}")]
    Answer {
        /// What was asked.
        subject: String,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// An answer that no server gives.
    #[error("{subject}: the answer cannot be true: {why}")]
    Untrue {
        /// What was asked.
        subject: String,
        /// Why not.
        why: String,
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
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
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
    /// How many seconds its clock is ahead of ours, as it says with each answer.
    #[serde(default, rename = "time", deserialize_with = "ahead")]
    pub ahead: i64,
}

/// A time that an answer was sent at, against ours; 0 for what is none.
fn ahead<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    let said: jiff::Timestamp = match Option::<String>::deserialize(from)?.map(|t| t.parse()) {
        Some(Ok(said)) => said,
        _ => return Ok(0),
    };
    Ok(said.as_second().saturating_sub(jiff::Timestamp::now().as_second()))
}

impl ServerName {
    /// The same with words that are fit to be kept; `None` when that is no server's key, which is
    /// a token of a subject too.
    fn checked(self) -> Option<Self> {
        ServerKey::parse(&self.id).ok()?;
        let cut = |text: String| text.chars().take(MAX_NAME).collect();
        let (name, version) = (cut(self.name), cut(self.version));
        Some(Self { id: self.id, name, version, cluster: cut(self.cluster), ahead: self.ahead })
    }
}

/// The servers that answered.
#[derive(Debug, Default)]
pub struct Servers {
    /// Sorted by id.
    pub servers: Vec<ServerName>,
    /// How many there should be, as most of the servers themselves say.
    pub expected: usize,
    /// The names of others that one of them knows of: it has a route to it, or shares JetStream's
    /// meta group with it.
    pub silent: BTreeSet<String>,
    /// Whether each of them has a route to each other one of its cluster.
    pub connected: bool,
}

impl Servers {
    /// Whether all answered.
    #[must_use]
    pub fn complete(&self) -> bool {
        all_answered(&self.servers, self.expected, &self.silent)
    }

    /// Whether all answered, and are connected with each other.
    #[must_use]
    pub fn whole(&self) -> bool {
        self.complete() && self.connected
    }
}

/// Whether these are all servers that there are. Those of one cluster know each other by name; what
/// they count has those that were killed a minute ago, and twice those that were started anew. Other
/// clusters are counted only.
#[must_use]
pub fn all_answered(servers: &[ServerName], expected: usize, silent: &BTreeSet<String>) -> bool {
    let counted = of_one_cluster(servers) || servers.len() >= expected;
    !servers.is_empty() && silent.is_empty() && counted
}

/// Whether all of these are of the same cluster, and there is one: servers of one cluster know each
/// other by name.
pub fn of_one_cluster<'a>(servers: impl IntoIterator<Item = &'a ServerName>) -> bool {
    servers.into_iter().map(|s| s.cluster.as_str()).collect::<BTreeSet<_>>().len() == 1
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
    /// The name that its permissions gave it; what the client claims, until it is let in.
    #[serde(default)]
    pub authorized_user: String,
    /// The account that it is in; empty until it is let in.
    #[serde(default)]
    pub account: String,
    /// The public NKEY that it logged in with, of a user of nats-server's configuration.
    #[serde(default)]
    pub nkey: String,
    /// How many subscriptions it has.
    #[serde(default, rename = "subscriptions")]
    pub subscribed: u64,
    /// What it is subscribed to, where that was asked for.
    #[serde(default, rename = "subscriptions_list_detail")]
    pub subscriptions: Option<Vec<Subscription>>,
}

/// A subscription of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Subscription {
    /// The subject, maybe with wildcards.
    #[serde(default)]
    pub subject: String,
    /// The queue group; empty without.
    #[serde(default, rename = "qgroup")]
    pub queue: String,
}

impl Connection {
    /// How it connects; `None` for what solewriter does not know.
    #[must_use]
    pub fn way(&self) -> Option<ConnectionType> {
        ConnectionType::of(&self.kind, &self.protocol)
    }

    /// The same with no more of its client's words than anybody reads.
    #[must_use]
    pub fn cut(mut self) -> Self {
        for text in [&mut self.name, &mut self.lang, &mut self.version, &mut self.ip] {
            if let Some((end, _)) = text.char_indices().nth(MAX_NAME) {
                text.truncate(end);
                text.shrink_to_fit();
            }
        }
        self
    }

    /// When it was made, in seconds since the Unix epoch.
    #[must_use]
    pub fn made(&self) -> Option<i64> {
        self.start.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
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
    server: ServerName,
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
    #[serde(default)]
    routes: Option<Vec<Named>>,
    #[serde(default)]
    jetstream: Option<JetstreamStats>,
}

/// Another server, by its name.
#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct JetstreamStats {
    #[serde(default)]
    meta: Option<MetaGroup>,
}

/// The servers that hold JetStream's assets together. Its leader alone lists them.
#[derive(Deserialize)]
struct MetaGroup {
    #[serde(default)]
    replicas: Option<Vec<Named>>,
}

impl Stats {
    fn routes(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().flatten().map(|route| route.name.as_str()).filter(|n| !n.is_empty())
    }

    /// Every other server that this one knows of.
    fn others(&self) -> impl Iterator<Item = &str> {
        let meta = self.jetstream.as_ref().and_then(|jetstream| jetstream.meta.as_ref());
        let replicas = meta.and_then(|meta| meta.replicas.as_ref()).into_iter().flatten();
        self.routes().chain(replicas.map(|peer| peer.name.as_str()).filter(|n| !n.is_empty()))
    }
}

#[derive(Deserialize)]
struct Connections {
    /// The server's time.
    #[serde(default)]
    now: String,
    #[serde(default)]
    total: u64,
    #[serde(default)]
    connections: Option<Vec<Connection>>,
}

/// A connection of the system user, who may ask the servers.
#[derive(Clone, Debug)]
pub struct System {
    client: Client,
    /// How servers name accounts.
    accounts: AccountIds,
    patient: bool,
    large_pages: Arc<Semaphore>,
}

impl System {
    /// Uses a connection of a user who may ask the servers.
    #[must_use]
    pub fn new(client: Client, accounts: AccountIds) -> Self {
        let large_pages = Arc::new(Semaphore::new(LARGE_PAGES_AT_ONCE));
        Self { client, accounts, patient: false, large_pages }
    }

    /// The same, but it waits for answers of more servers even after all known servers have answered.
    #[must_use]
    pub fn patient(self) -> Self {
        Self { patient: true, ..self }
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
        let servers = gather(&mut answers, self.patient).await;
        let _ = answers.unsubscribe().await;
        Ok(servers)
    }

    /// Gives every connection of an account on one server to `each`, one page at a time. Some may
    /// be given twice; none that was open all the while is left out. No number of the server's is
    /// believed: it ends after so many connections, bytes and seconds.
    ///
    /// # Errors
    /// [`SystemError`]; what was found until then was given.
    pub async fn connections(
        &self,
        server: &str,
        account: &str,
        each: impl FnMut(Connection),
    ) -> Result<(), SystemError> {
        let account = self.accounts.of(account);
        let seen = HashSet::new();
        let all = Telling { system: self, server, account, each, seen, bytes: 0, large: PAGE };
        timeout(TELL_WITHIN, all.hear()).await.unwrap_or_else(|_| {
            let error = format!("its list was not complete within {} s", TELL_WITHIN.as_secs());
            Err(SystemError::Request { subject: connz(server), error })
        })
    }

    /// What one connection is subscribed to; nothing if it is gone.
    ///
    /// # Errors
    /// [`SystemError`]
    pub async fn subscriptions_of(
        &self,
        server: &str,
        cid: u64,
    ) -> Result<Vec<Subscription>, SystemError> {
        let question = json!({"auth": true, "cid": cid, "subscriptions_detail": true});
        let (answer, _) = self.ask::<Connections>(connz(server), server, &question).await?;
        let connections = answer.and_then(|answer| answer.connections).unwrap_or_default();
        Ok(connections
            .into_iter()
            .filter_map(|connection| connection.subscriptions)
            .flatten()
            .collect())
    }

    /// Addresses of servers, as the one that it is connected to tells them.
    #[must_use]
    pub fn known_addresses(&self) -> Vec<String> {
        self.client.server_info().connect_urls
    }

    /// The names of the connections of one user on a server, in whichever account.
    ///
    /// # Errors
    /// [`SystemError`]
    pub async fn names_of(&self, server: &str, user: &str) -> Result<Vec<String>, SystemError> {
        let question = json!({"auth": true, "user": user, "limit": PAGE});
        let (answer, _) = self.ask::<Connections>(connz(server), server, &question).await?;
        let connections = answer.and_then(|answer| answer.connections).unwrap_or_default();
        if connections.len() as u64 >= PAGE {
            let why = format!("{PAGE} connections or more of one user");
            return Err(SystemError::Untrue { subject: connz(server), why });
        }
        Ok(connections.into_iter().map(|connection| connection.cut().name).collect())
    }

    /// The logins that are under way on a server, and for how long: connections that are in no account.
    /// The server lists them with its default account's, and says no account of them.
    ///
    /// # Errors
    /// [`SystemError`]
    pub async fn logins(&self, server: &str) -> Result<Vec<(u64, Duration)>, SystemError> {
        let untrue =
            |why: &str| SystemError::Untrue { subject: connz(server), why: why.to_owned() };
        let mut found = Vec::new();
        for page in 0..MAX_LOGIN_PAGES {
            let offset = PAGE * page;
            let question =
                json!({"auth": true, "acc": DEFAULT_ACCOUNT, "limit": PAGE, "offset": offset});
            let (answer, _) = self.ask::<Connections>(connz(server), server, &question).await?;
            let Some(Connections { now, connections, .. }) = answer else { return Ok(found) };
            let connections = connections.unwrap_or_default();
            let last = (connections.len() as u64) < PAGE;
            for connection in connections.iter().filter(|c| c.account.is_empty()) {
                let now: jiff::Timestamp =
                    now.parse().map_err(|_| untrue("it does not say when"))?;
                let start: jiff::Timestamp =
                    connection.start.parse().map_err(|_| untrue("a connection without a start"))?;
                let age = Duration::try_from(now.duration_since(start)).unwrap_or_default();
                found.push((connection.cid, age));
            }
            if last {
                return Ok(found);
            }
        }
        Err(untrue("too many connections are in its default account"))
    }

    /// Closes one connection.
    ///
    /// # Errors
    /// [`SystemError`] when it is not known to be closed.
    pub async fn close(&self, server: &str, cid: u64) -> Result<Closed, SystemError> {
        let subject = format!("$SYS.REQ.SERVER.{server}.KICK");
        let answer = self.ask::<IgnoredAny>(subject, server, &json!({"cid": cid})).await;
        match answer {
            Ok(_) => Ok(Closed::Closed),
            Err(SystemError::Refused { description, .. }) if description.contains("no such") => {
                Ok(Closed::Gone)
            }
            Err(error) => Err(error),
        }
    }

    /// Asks one server. Gives what it says, and how many bytes that took.
    async fn ask<T: DeserializeOwned>(
        &self,
        subject: String,
        server: &str,
        question: &serde_json::Value,
    ) -> Result<(Option<T>, usize), SystemError> {
        self.request(subject, server, Request::new(), question).await
    }

    /// The same, with an answer that is compressed on its way.
    async fn ask_for_much<T: DeserializeOwned>(
        &self,
        subject: String,
        server: &str,
        question: &serde_json::Value,
    ) -> Result<(Option<T>, usize), SystemError> {
        let mut headers = HeaderMap::new();
        headers.insert("Accept-Encoding", COMPRESSED);
        self.request(subject, server, Request::new().headers(headers), question).await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        subject: String,
        server: &str,
        request: Request,
        question: &serde_json::Value,
    ) -> Result<(Option<T>, usize), SystemError> {
        let request = request.payload(question.to_string().into());
        let request = self.client.send_request(subject.clone(), request);
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
        let payload = match decompressed(answer) {
            Ok(payload) => payload,
            Err(why) => return Err(SystemError::Untrue { subject, why }),
        };
        match serde_json::from_slice::<Answer<T>>(&payload) {
            Ok(answer) if answer.server.id != server => {
                let why = "it is from another server".to_owned();
                Err(SystemError::Untrue { subject, why })
            }
            Ok(Answer { error: Some(Refusal { description }), .. }) => {
                let description = description.chars().take(MAX_NAME).collect();
                Err(SystemError::Refused { subject, description })
            }
            Ok(Answer { data, .. }) => Ok((data, payload.len())),
            Err(error) => Err(SystemError::Answer { subject, error }),
        }
    }
}

/// What an answer says, which may be compressed; or why it cannot be true.
fn decompressed(answer: Message) -> Result<Bytes, String> {
    let too_long = |size: usize| format!("it has {size} bytes");
    if answer.payload.len() > MAX_ANSWER {
        return Err(too_long(answer.payload.len()));
    }
    let encoding = answer.headers.as_ref().and_then(|headers| headers.get("Content-Encoding"));
    match encoding.map(HeaderValue::as_str) {
        None => Ok(answer.payload),
        Some(COMPRESSED) => {
            let mut all = Vec::new();
            // One byte more than it may have, to see that it has more.
            let most = MAX_ANSWER as u64 + 1;
            let mut reader = snap::read::FrameDecoder::new(&*answer.payload).take(most);
            reader
                .read_to_end(&mut all)
                .map_err(|error| format!("it cannot be decompressed: {error}"))?;
            if all.len() > MAX_ANSWER { Err(too_long(all.len())) } else { Ok(all.into()) }
        }
        Some(_) => Err("it is compressed in another way than was asked for".to_owned()),
    }
}

fn connz(server: &str) -> String {
    format!("$SYS.REQ.SERVER.{server}.CONNZ")
}

/// Hears which servers there are.
async fn gather(answers: &mut (impl Stream<Item = Message> + Unpin), patient: bool) -> Servers {
    let mut deadline = Instant::now() + GATHER_WITHIN;
    let mut found = BTreeMap::new();
    let mut said: Vec<usize> = Vec::new();
    let mut known: Vec<(String, Stats)> = Vec::new();
    for _ in 0..MAX_ANSWERS {
        let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await else { break };
        if answer.payload.len() > MAX_ANSWER {
            continue;
        }
        let Ok(Ping { server, statsz }) = serde_json::from_slice(&answer.payload) else { continue };
        let Some(server) = server.checked().filter(|_| found.len() < MAX_SERVERS) else { continue };
        if let Entry::Vacant(place) = found.entry(server.id.clone()) {
            known.push((server.name.clone(), statsz));
            place.insert(server);
            said.push(known.last().map_or(0, |(_, stats)| stats.active_servers));
        }
        if patient {
            continue;
        }
        // Who says that there are more is waited for no longer than anybody takes.
        if found.len() >= said.iter().copied().max().unwrap_or(1) {
            break;
        }
        // Who was killed is counted for a minute, and who was started anew twice.
        if found.len() >= most(&mut said) || all_known(&found, &known) {
            deadline = deadline.min(Instant::now() + GATHER_MORE);
        }
    }
    let expected = most(&mut said).min(MAX_SERVERS);
    let servers: Vec<ServerName> = found.into_values().collect();
    let (silent, connected) = known_to_each_other(&servers, &known);
    Servers { servers, expected, silent, connected }
}

/// Whether these are of one cluster, and all servers that they know by name.
fn all_known(found: &BTreeMap<String, ServerName>, known: &[(String, Stats)]) -> bool {
    let names: BTreeSet<&str> = found.values().map(|server| server.name.as_str()).collect();
    let others = known.iter().flat_map(|(_, stats)| stats.others());
    of_one_cluster(found.values())
        && found.len() > 1
        && others.into_iter().all(|name| names.contains(name))
}

/// The servers that some know of and that did not answer; and whether all that did are connected
/// with all others of their cluster.
fn known_to_each_other(
    servers: &[ServerName],
    known: &[(String, Stats)],
) -> (BTreeSet<String>, bool) {
    let answered: BTreeSet<&str> = servers.iter().map(|server| server.name.as_str()).collect();
    let others = known.iter().flat_map(|(_, stats)| stats.others());
    let silent = others.filter(|name| !answered.contains(name)).take(MAX_SERVERS);
    let silent = silent.map(|name| name.chars().take(MAX_NAME).collect()).collect();
    let cluster =
        |name: &str| servers.iter().find(|s| s.name == name).map_or("", |s| s.cluster.as_str());
    let connected = known.iter().all(|(name, stats)| {
        let routes: BTreeSet<&str> = stats.routes().collect();
        let mine = cluster(name);
        let peers = servers.iter().filter(|s| s.name != *name && s.cluster == mine);
        mine.is_empty() || peers.map(|peer| peer.name.as_str()).all(|peer| routes.contains(peer))
    });
    (silent, connected)
}

/// What no more than half of them exceed: one that lies does not decide.
fn most(said: &mut [usize]) -> usize {
    said.sort_unstable();
    said.get(said.len() / 2).copied().unwrap_or(1).max(1)
}

/// A server that is telling of the connections of one account.
struct Telling<'a, F> {
    system: &'a System,
    server: &'a str,
    account: &'a str,
    each: F,
    /// The numbers of those that it told of.
    seen: HashSet<u64>,
    bytes: usize,
    /// How many a large page has.
    large: u64,
}

impl<F: FnMut(Connection)> Telling<'_, F> {
    async fn hear(mut self) -> Result<(), SystemError> {
        let Page { total, .. } = self.page(0, PAGE).await?;
        // From the end: when a connection ends meanwhile, those after it move one place forward,
        // into what is still to be read. New ones are added at the end, and are new.
        let mut offset = if total > PAGE { total.min(MAX_CONNECTIONS) } else { 0 };
        self.large = self.large_page();
        let mut stale = 0;
        while offset > 0 {
            let room =
                if self.large > PAGE { self.system.large_pages.try_acquire().ok() } else { None };
            let limit = if room.is_some() { self.large } else { PAGE };
            let from = offset.saturating_sub(limit);
            let page = match self.page(from, limit).await {
                // What its clients say of themselves may be too much for a large page.
                Err(_) if limit > PAGE => {
                    self.large = PAGE;
                    continue;
                }
                page => page?,
            };
            offset = from;
            if page.given == 0 && page.total > offset {
                return Err(self.untrue(format!(
                    "it says that it has {} connections, but lists none from {offset} on",
                    page.total
                )));
            }
            // When many have ended, what is left is found where there is something.
            offset = offset.min(page.total);
            stale = if page.new == 0 { stale + 1 } else { 0 };
            if stale > MAX_STALE_PAGES {
                return Err(self.untrue("it lists the same connections again".to_owned()));
            }
        }
        if total > MAX_CONNECTIONS {
            return Err(self.untrue(format!("it says that it has {total} connections")));
        }
        Ok(())
    }

    /// How many fit into a large page, by what the first page had.
    fn large_page(&self) -> u64 {
        let (bytes, seen) = (self.bytes as u64, self.seen.len() as u64);
        let each = bytes.checked_div(seen).unwrap_or(bytes).max(1);
        (LARGE_PAGE_BYTES / each).clamp(PAGE, LARGE_PAGE)
    }

    async fn page(&mut self, offset: u64, limit: u64) -> Result<Page, SystemError> {
        let question = json!({"auth": true, "acc": self.account, "limit": limit, "offset": offset});
        let (subject, server) = (connz(self.server), self.server);
        let asked = self.system.ask_for_much::<Connections>(subject, server, &question);
        let (answer, size) = asked.await?;
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > MAX_BYTES {
            return Err(self.untrue(format!("its list has more than {MAX_BYTES} bytes")));
        }
        let Some(Connections { total, connections, .. }) = answer else {
            return Ok(Page::default());
        };
        let connections = connections.unwrap_or_default();
        let given = connections.len();
        if given as u64 > limit {
            let why = format!("it lists {given} connections where {limit} were requested");
            return Err(self.untrue(why));
        }
        let before = self.seen.len();
        for connection in connections {
            if self.seen.insert(connection.cid) {
                (self.each)(connection.cut());
            }
        }
        Ok(Page { total, given, new: self.seen.len() - before })
    }

    fn untrue(&self, why: String) -> SystemError {
        SystemError::Untrue { subject: connz(self.server), why }
    }
}

/// What a page came to.
#[derive(Default)]
struct Page {
    /// How many connections there are, it says.
    total: u64,
    /// How many it gave.
    given: usize,
    /// How many of those had not been given.
    new: usize,
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn answer(encoding: Option<&str>, payload: Vec<u8>) -> Message {
        let headers = encoding.map(|encoding| {
            let mut headers = HeaderMap::new();
            headers.insert("Content-Encoding", encoding);
            headers
        });
        let length = payload.len();
        Message {
            subject: "inbox".into(),
            reply: None,
            payload: payload.into(),
            headers,
            status: None,
            description: None,
            length,
        }
    }

    fn compressed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = snap::write::FrameEncoder::new(Vec::new());
        encoder.write_all(bytes).unwrap();
        encoder.into_inner().unwrap()
    }

    #[test]
    fn what_is_compressed_is_bounded_and_read_as_it_says() {
        let plain = b"{\"server\": {}}".repeat(1_000);
        assert_eq!(decompressed(answer(None, plain.clone())).unwrap(), plain);
        let sent = answer(Some(COMPRESSED), compressed(&plain));
        assert!(sent.payload.len() < plain.len() / 4);
        assert_eq!(decompressed(sent).unwrap(), plain);
        let most = vec![0; MAX_ANSWER];
        assert_eq!(decompressed(answer(Some(COMPRESSED), compressed(&most))).unwrap(), most);
        // A megabyte that becomes very many.
        let bomb = compressed(&vec![0; 20 * MAX_ANSWER]);
        assert!(bomb.len() < MAX_ANSWER);
        let half = compressed(&plain).split_off(1_000 / 2);
        for (encoding, payload) in [
            (Some(COMPRESSED), bomb),
            (Some(COMPRESSED), plain.clone()),
            (Some(COMPRESSED), half),
            (Some("gzip"), compressed(&plain)),
            (None, vec![0; MAX_ANSWER + 1]),
        ] {
            let size = payload.len();
            assert!(decompressed(answer(encoding, payload)).is_err(), "{encoding:?}, {size} bytes");
        }
    }
}
