//! Plays nats-servers with very many connections towards `solewriter serve`: a client of a
//! real server answers for each of them what a server answers about its connections.
//! The answers have the form of 2.15.1's. A real server's time is kept by waiting: it deals with one
//! question after the other, and a list takes it longer the more it has.
//!
//! An instrument, as [`crate::fake_server`] is: what real servers say is tested with real ones.

use std::collections::HashMap;
use std::io::Write as _;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Error;
use solewriter_core::callout::issue::ConnectionName;
use solewriter_core::keys::{Seed, Server, Signer};

/// What a list takes 2.15.1: for each connection that the server has, and for each that it lists. With
/// 18,000, which come in two pages, that is 11 µs each: `solewriter-lab listing` finds less.
const HAS: Duration = Duration::from_micros(3);
const LISTS: Duration = Duration::from_micros(5);

/// What was asked of all of them.
#[derive(Debug, Default)]
pub struct Asked {
    /// Parts of lists.
    pub pages: AtomicU64,
    /// The bytes of these, and as they were sent.
    pub bytes: AtomicU64,
    /// See `bytes`.
    pub sent: AtomicU64,
    /// What was closed, by name, and when.
    pub closed: Mutex<HashMap<String, Vec<Instant>>>,
}

impl Asked {
    /// How many pages, bytes, and bytes as sent, so far.
    pub fn counts(&self) -> [u64; 3] {
        [&self.pages, &self.bytes, &self.sent].map(|n| n.load(Ordering::Relaxed))
    }

    /// When each connection of that service was closed.
    pub fn closed(&self, service: &str) -> Vec<Instant> {
        let all = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(service).cloned().unwrap_or_default()
    }

    /// How many were closed in all.
    pub fn closed_in_all(&self) -> usize {
        let all = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().map(Vec::len).sum()
    }
}

/// One connection of a simulated server.
struct Open {
    cid: u64,
    service: Arc<str>,
    text: Range<usize>,
}

/// A simulated server, until it is dropped.
pub struct Simulated {
    task: JoinHandle<()>,
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Question {
    cid: u64,
    limit: usize,
    offset: usize,
    acc: String,
}

impl Simulated {
    /// Begins to answer for a server of `all` that has these connections.
    ///
    /// # Errors
    /// When it cannot subscribe.
    pub async fn begin(
        client: Client,
        (number, all): (usize, usize),
        account: &str,
        names: &[ConnectionName],
        asked: Arc<Asked>,
    ) -> Result<Self, Error> {
        let id = Signer::new(&Seed::<Server>::generate())?.public().to_string();
        let subject = |what: &str| format!("$SYS.REQ.SERVER.{id}.{what}");
        let mut pings = client.subscribe("$SYS.REQ.SERVER.PING").await?;
        let mut questions = client.subscribe(subject("*")).await?;
        client.flush().await?;
        let (mut text, mut open) = (Vec::new(), Vec::with_capacity(names.len()));
        let now = jiff::Timestamp::now();
        for (cid, name) in (1..).zip(names) {
            let begin = text.len();
            serde_json::to_writer(&mut text, &described(cid, name, account, now))?;
            let service = Arc::from(name.service.as_str());
            open.push(Open { cid, service, text: begin..text.len() });
        }
        let mut server = Player { id, account: account.to_owned(), text, open, asked };
        let ping = json!({
            "server": {"id": server.id, "name": format!("simulated-{number}"), "ver": "2.15.1"},
            "statsz": {"active_servers": all},
        })
        .to_string();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some(question) = pings.next() => {
                        if let Some(reply) = question.reply {
                            let _ = client.publish(reply, ping.clone().into()).await;
                        }
                    }
                    Some(question) = questions.next() => {
                        let (answer, takes) = server.answer(&question);
                        tokio::time::sleep(takes).await;
                        server.send(&client, question, answer).await;
                    }
                }
            }
        });
        Ok(Self { task })
    }
}

struct Player {
    id: String,
    account: String,
    text: Vec<u8>,
    open: Vec<Open>,
    asked: Arc<Asked>,
}

impl Player {
    /// What it says, and how long that takes it.
    fn answer(&mut self, message: &Message) -> (Vec<u8>, Duration) {
        let question: Question = serde_json::from_slice(&message.payload).unwrap_or_default();
        let place = self.open.binary_search_by_key(&question.cid, |open| open.cid);
        if message.subject.ends_with(".KICK") {
            let Ok(place) = place else {
                let error = json!({"code": 400, "description": "no such client id"});
                return (
                    json!({"server": {"id": self.id}, "error": error}).to_string().into(),
                    Duration::ZERO,
                );
            };
            let Open { service, .. } = self.open.remove(place);
            let mut closed = self.asked.closed.lock().unwrap_or_else(PoisonError::into_inner);
            closed.entry(service.to_string()).or_default().push(Instant::now());
            return (
                json!({"server": {"id": self.id}, "data": {}}).to_string().into(),
                Duration::ZERO,
            );
        }
        let has = self.open.len();
        let (from, to) = if question.acc == self.account {
            self.asked.pages.fetch_add(1, Ordering::Relaxed);
            (question.offset.min(has), question.offset.saturating_add(question.limit).min(has))
        } else {
            (0, 0)
        };
        let mut answer = format!(
            "{{\"server\":{{\"id\":\"{}\",\"time\":\"{now}\"}},\"data\":{{\"now\":\"{now}\",\"total\":{has},\
             \"connections\":[",
            self.id,
            now = jiff::Timestamp::now(),
        )
        .into_bytes();
        let listed = self.open.get(from..to).unwrap_or_default();
        for (number, open) in listed.iter().enumerate() {
            if number > 0 {
                answer.push(b',');
            }
            answer.extend_from_slice(self.text.get(open.text.clone()).unwrap_or_default());
        }
        answer.extend_from_slice(b"]}}");
        let times =
            |duration: Duration, count: usize| duration * u32::try_from(count).unwrap_or(u32::MAX);
        let takes = times(HAS, has) + times(LISTS, listed.len());
        (answer, takes)
    }

    async fn send(&self, client: &Client, question: Message, answer: Vec<u8>) {
        let Some(reply) = question.reply else { return };
        let accepts = question.headers.as_ref().and_then(|all| all.get("Accept-Encoding"));
        let compressed = accepts.is_some_and(|accepted| accepted.as_str() == "snappy");
        let size = answer.len();
        let (sent, headers) = if compressed {
            let mut encoder = snap::write::FrameEncoder::new(Vec::new());
            let compressed =
                encoder.write_all(&answer).ok().and_then(|()| encoder.into_inner().ok());
            let mut headers = HeaderMap::new();
            headers.insert("Content-Encoding", "snappy");
            (compressed.unwrap_or_default(), headers)
        } else {
            (answer, HeaderMap::new())
        };
        if question.subject.ends_with(".CONNZ") {
            let count = |counter: &AtomicU64, bytes: usize| {
                counter.fetch_add(u64::try_from(bytes).unwrap_or_default(), Ordering::Relaxed);
            };
            count(&self.asked.bytes, size);
            count(&self.asked.sent, sent.len());
        }
        let _ = if headers.is_empty() {
            client.publish(reply, sent.into()).await
        } else {
            client.publish_with_headers(reply, headers, sent.into()).await
        };
    }
}

/// A connection, as 2.15.1 describes one that has done little.
fn described(
    cid: u64,
    name: &ConnectionName,
    account: &str,
    now: jiff::Timestamp,
) -> serde_json::Value {
    let [second, third, fourth] = [cid >> 16, cid >> 8, cid].map(|part| part & 0xff);
    json!({
        "cid": cid, "kind": "Client", "type": "nats", "ip": format!("10.{second}.{third}.{fourth}"),
        "port": 32_768 + cid % 28_000, "start": now.to_string(), "last_activity": now.to_string(),
        "rtt": "201µs", "uptime": "2m11s", "idle": "2m11s", "pending_bytes": 0, "in_msgs": cid % 977,
        "out_msgs": cid % 877, "in_bytes": cid * 7919 % 1_000_003, "out_bytes": cid * 7907 % 1_000_003,
        "subscriptions": 1 + cid % 7, "name": format!("{}-worker", name.service), "lang": "rust",
        "version": "0.51.0", "authorized_user": name.text(), "account": account,
    })
}
