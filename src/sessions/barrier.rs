//! A message behind everything that the connections of a server have sent.
//!
//! What a client sent goes from its server to the stream's leader on the one connection that the two
//! have for the account, and is taken in order. So a message of another client of that server is
//! behind it, and once the stream has answered that one, it has dealt with all before.
//!
//! The message is a write that every stream refuses, whatever else it says: it expects to be in a
//! stream of a name that none can have. It goes to subjects that are in transit, as a user that every
//! instance lets in for that alone, and nobody else can be: its key is made from the issuer's seed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap, ServerAddr};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::time::{timeout, timeout_at};

use crate::nats::connect;
use crate::nats::{Login, Nats};
use crate::sessions::schedule::millis;
use solewriter_core::handover::claims::SETTLER;
use solewriter_types::kv_operation::inbox_prefix;
use solewriter_types::subject::Pattern;

/// How long a server may take to let it in, and a stream to answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const ANSWER_WITHIN: Duration = Duration::from_millis(2500);
/// How soon it is sent again when no answer came: while a stream elects its leader, a message may be
/// lost without a word (seen with nats-server 2.10.25). The first answer to any of them counts.
const AGAIN_AFTER: Duration = Duration::from_millis(300);
/// The most subjects that a message goes to, of those that are in transit.
const MAX_SUBJECTS: usize = 1_000;

/// The name of no stream.
const NO_STREAM: &str = "-";
/// The token that stands for a wildcard.
const TOKEN: &str = "solewriter-handover";

/// What is needed to send it.
pub struct Barrier<'a> {
    /// How servers are reached.
    pub nats: &'a Nats,
    /// More addresses of servers, as they tell them.
    pub more: Vec<String>,
    /// Who sends.
    pub login: &'a Login,
    /// Where to.
    pub subjects: Vec<Pattern>,
}

/// JetStream's answer about the streams that keep a subject.
#[derive(Deserialize)]
struct Names {
    #[serde(default)]
    total: u64,
    error: Option<IgnoredAny>,
}

/// Where JetStream says which streams keep a subject, in the callout's account.
const NAMES: &str = "$JS.STATE.API.STREAM.NAMES";

#[derive(Deserialize)]
struct Ack {
    error: Option<Refused>,
}

#[derive(Deserialize)]
struct Refused {
    err_code: u64,
}

impl Barrier<'_> {
    /// Sends it through each of these servers. Gives those through which every stream answered.
    pub async fn send(&self, servers: &BTreeSet<String>) -> BTreeSet<String> {
        let subjects = literals(&self.subjects);
        if subjects.is_empty() {
            return servers.clone();
        }
        let began = Instant::now();
        let through: Vec<_> = self.connect(servers).await.into_iter().collect();
        let connected = began.elapsed();
        let sent = through.iter().map(|(_, client)| async {
            let all = subjects.iter().map(|subject| pass(client, subject));
            join_all(all).await
        });
        let answers = join_all(sent).await;
        // A subject that no stream keeps has nothing behind which a message could be. Who may not ask
        // for that waits until a stream answers.
        let silent = |at: usize| {
            let mut answers = answers.iter().filter_map(|answers| answers.get(at));
            answers.any(|answered| !answered)
        };
        let silent = subjects.iter().enumerate().filter(|(at, _)| silent(*at));
        let silent: Vec<(usize, &String)> = silent.collect();
        let kept_by_none = self.kept_by_none(&silent).await;
        let fine = |(at, answered): (usize, &bool)| *answered || kept_by_none.contains(&at);
        let passed = through.iter().zip(&answers);
        let passed = passed.filter(|(_, answers)| answers.iter().enumerate().all(fine));
        let passed: BTreeSet<String> = passed.map(|((server, _), _)| server.clone()).collect();
        tracing::debug!(
            event = "handover_barrier",
            servers = servers.len(),
            connected = through.len(),
            passed = passed.len(),
            connect_ms = millis(connected),
            took_ms = millis(began.elapsed()),
        );
        passed
    }

    /// Which of these subjects no stream keeps, as JetStream says.
    async fn kept_by_none(&self, subjects: &[(usize, &String)]) -> HashSet<usize> {
        if subjects.is_empty() {
            return HashSet::new();
        }
        let name = format!("{}-control", self.nats.name);
        let asked = async {
            let options = connect::options(&self.nats.login, &self.nats.tls, &name).ok()?;
            let client = connect::connect(&self.nats.servers, options).await.ok()?;
            let asked = subjects.iter().map(|(at, subject)| {
                let (client, question) = (&client, json!({"subject": subject}).to_string());
                async move {
                    let answer = client.request(NAMES, question.into()).await.ok()?;
                    let names: Names = serde_json::from_slice(&answer.payload).ok()?;
                    (names.error.is_none() && names.total == 0).then_some(*at)
                }
            });
            Some(join_all(asked).await.into_iter().flatten().collect())
        };
        timeout(ANSWER_WITHIN, asked).await.ok().flatten().unwrap_or_default()
    }

    /// A connection to each of these servers that can be reached.
    async fn connect(&self, servers: &BTreeSet<String>) -> BTreeMap<String, Client> {
        let Nats { servers: known, tls, name, .. } = self.nats;
        let encrypted = known.iter().any(ServerAddr::tls_required);
        let scheme = if encrypted { "tls" } else { "nats" };
        let more = self
            .more
            .iter()
            .filter_map(|address| format!("{scheme}://{address}").parse::<ServerAddr>().ok());
        let mut seen = HashSet::new();
        let all = known.iter().cloned().chain(more);
        let all = all.filter(|a| seen.insert((a.host().to_owned(), a.port())));
        let connected = all.map(|address| async move {
            let options = connect::options(self.login, tls, &format!("{name}-handover")).ok()?;
            let options = options
                .custom_inbox_prefix(inbox_prefix(SETTLER))
                .ignore_discovered_servers()
                .connection_timeout(CONNECT_WITHIN)
                .max_reconnects(1);
            let connected = timeout(CONNECT_WITHIN, options.connect(address.clone())).await;
            let client = connected.ok()?.inspect_err(|error| {
                tracing::debug!(event = "handover_connect", %error);
            });
            let client = client.ok()?;
            Some((client.server_info().server_id, client))
        });
        let connected = join_all(connected).await.into_iter().flatten();
        connected.filter(|(id, _)| servers.contains(id)).collect()
    }
}

/// A subject for each stream that may keep some of these, as far as their names tell.
fn literals(patterns: &[Pattern]) -> Vec<String> {
    let mut streams = HashSet::new();
    let literal = |pattern: &Pattern| {
        let tokens = pattern.as_str().split('.');
        let tokens = tokens.map(|token| if matches!(token, "*" | ">") { TOKEN } else { token });
        tokens.collect::<Vec<_>>().join(".")
    };
    let stream = |text: &str| match text.split('.').collect::<Vec<_>>().as_slice() {
        [first @ ("$KV" | "$O"), name, ..] => format!("{first}.{name}"),
        _ => text.to_owned(),
    };
    let all = patterns.iter().map(literal).map(|subject| match subject.strip_prefix("$O.") {
        // Chunks and descriptions of objects are one stream's.
        Some(rest) => format!("$O.{}.M.{TOKEN}", rest.split('.').next().unwrap_or(rest)),
        None => subject,
    });
    all.filter(|subject| streams.insert(stream(subject))).take(MAX_SUBJECTS).collect()
}

/// Sends it again and again until a stream answers, or the time is over. Whether one did.
async fn pass(client: &Client, subject: &str) -> bool {
    let mut asked = FuturesUnordered::new();
    let until = Instant::now() + ANSWER_WITHIN;
    while Instant::now() < until {
        asked.push(ask(client, subject));
        let again = Instant::now() + AGAIN_AFTER;
        loop {
            match timeout_at(again.min(until).into(), asked.next()).await {
                Ok(Some(true)) => return true,
                // Nobody listens while a leader is elected.
                Ok(Some(false)) => {}
                Ok(None) => {
                    tokio::time::sleep_until(again.min(until).into()).await;
                    break;
                }
                Err(_) => break,
            }
        }
    }
    false
}

/// Sends it once. Whether a stream answered.
async fn ask(client: &Client, subject: &str) -> bool {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Stream", NO_STREAM);
    headers.insert("Nats-Expected-Last-Sequence", u64::MAX.to_string());
    headers.insert("Solewriter-Handover", "not to be stored");
    let asked = client.request_with_headers(subject.to_owned(), headers, "".into());
    match timeout(ANSWER_WITHIN, asked).await {
        Ok(Ok(answer)) => serde_json::from_slice::<Ack>(&answer.payload)
            .is_ok_and(|ack| ack.error.is_some_and(|error| ANSWERED.contains(&error.err_code))),
        Ok(Err(_)) | Err(_) => false,
    }
}

/// The codes with which a stream says that it does not take the message for what it expects: not
/// this stream (10060), another last sequence (10071).
const ANSWERED: [u64; 2] = [10_060, 10_071];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_for_each_stream() {
        let all = ["$KV.k.>", "$KV.k.a.*.x", "$KV.l.a", "$O.s.>", "$O.s.C.x", "events.x.>", "a.b"];
        let all: Vec<Pattern> = all.iter().map(|text| Pattern::parse(text).unwrap()).collect();
        let token = TOKEN;
        assert_eq!(
            literals(&all),
            [
                format!("$KV.k.{token}"),
                "$KV.l.a".to_owned(),
                format!("$O.s.M.{token}"),
                format!("events.x.{token}"),
                "a.b".to_owned(),
            ]
        );
    }
}
