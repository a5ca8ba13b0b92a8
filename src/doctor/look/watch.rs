//! Watches authorization requests go by, as the callout user that it is: a subscriber outside the
//! queue group gets a copy of each. It never answers, and keeps only requests that it caused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Client, Message};
use futures_util::StreamExt;
use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::super::seen::{Content, Request};
use crate::nats::connect;
use solewriter_core::callout::claims;
use solewriter_core::callout::jwt::Unverified;
use solewriter_core::callout::request::{MAX_REQUEST_BYTES, subject};
use solewriter_core::callout::xkey::Sealer;
use solewriter_core::keys::{CurveKey, ServerKey};

/// How long the server may take to confirm the subscription.
const CONFIRM: Duration = Duration::from_secs(5);

/// Requests as they came.
pub struct Watch {
    kept: Arc<Mutex<Kept>>,
    task: JoinHandle<()>,
}

/// What is kept of them: however many others a busy server makes, ours is seen.
#[derive(Default)]
struct Kept {
    /// Of each key that is waited for, the first request since.
    awaited: BTreeMap<String, Option<Request>>,
    /// How many came that do not open, and the last of them.
    closed: u64,
    last_closed: Option<Request>,
}

/// A key that is waited for.
pub struct Awaited {
    nkey: String,
    /// How many had come that do not open.
    closed: u64,
}

impl Kept {
    fn await_key(&mut self, nkey: &str) -> Awaited {
        self.awaited.insert(nkey.to_owned(), None);
        Awaited { nkey: nkey.to_owned(), closed: self.closed }
    }

    fn keep(&mut self, request: Request) {
        match &request.content {
            None => {
                self.closed += 1;
                self.last_closed = Some(request);
            }
            Some(content) => {
                if let Some(place @ None) = self.awaited.get_mut(&content.nkey) {
                    *place = Some(request);
                }
            }
        }
    }

    fn found(&self, awaited: &Awaited) -> Option<Request> {
        let of_key = self.awaited.get(&awaited.nkey).and_then(Option::as_ref);
        let closed = self.last_closed.as_ref().filter(|_| self.closed > awaited.closed);
        of_key.or(closed).cloned()
    }
}

impl Watch {
    /// Begins to watch. `None` when this user may not subscribe.
    pub async fn begin(client: &Client, sealer: Option<Sealer>) -> Option<Self> {
        let mut requests = client.subscribe("$SYS.REQ.USER.AUTH").await.ok()?;
        // A message to ourselves, sent after it, proves that the server has the subscription.
        let fence = format!("{}.{}", connect::INBOX, client.new_inbox().rsplit('.').next()?);
        let mut fenced = client.subscribe(fence.clone()).await.ok()?;
        client.publish(fence, "".into()).await.ok()?;
        timeout(CONFIRM, fenced.next()).await.ok()??;
        let kept = Arc::new(Mutex::new(Kept::default()));
        let keeping = Arc::clone(&kept);
        let task = tokio::spawn(async move {
            while let Some(message) = requests.next().await {
                let request = read(&message, sealer.as_ref());
                keeping.lock().unwrap_or_else(PoisonError::into_inner).keep(request);
            }
        });
        Some(Self { kept, task })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on a request for the holder of that key is kept, for [`Watch::since`].
    pub fn await_key(&self, nkey: &str) -> Awaited {
        self.kept().await_key(nkey)
    }

    /// A request since then for the holder of that key; or, since its key is not known, one
    /// that does not open. Waits for it, no longer than `patience`: it goes another way than what
    /// the server said to who asked.
    pub async fn since(&self, awaited: &Awaited, patience: Duration) -> Option<Request> {
        let deadline = Instant::now() + patience;
        loop {
            let found = self.kept().found(awaited);
            if found.is_some() || Instant::now() >= deadline {
                return found;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn read(message: &Message, sealer: Option<&Sealer>) -> Request {
    let sealed = message.payload.starts_with(b"xkv1");
    let plain = if message.payload.len() > MAX_REQUEST_BYTES {
        None
    } else if sealed {
        let sender = message.headers.as_ref().and_then(|h| h.get("Nats-Server-Xkey"));
        sender
            .and_then(|sender| CurveKey::parse(sender.as_str()).ok())
            .and_then(|sender| sealer?.open(&message.payload, &sender).ok())
    } else {
        Some(message.payload.to_vec())
    };
    Request { sealed, content: plain.and_then(|plain| content(&plain)) }
}

fn content(token: &[u8]) -> Option<Content> {
    let token = Unverified::split(token).ok()?;
    let request: claims::Request = token.claims().ok()?;
    let key = ServerKey::parse(&request.iss).ok();
    let offered = request.nats.connect_opts;
    let nkey = if offered.nkey.is_empty() {
        subject(&offered.jwt).unwrap_or_default()
    } else {
        offered.nkey.clone()
    };
    Some(Content {
        server: request.nats.server_id.name,
        issuer: request.sub,
        waits: request.exp - Timestamp::now().as_second(),
        nonce: !request.nats.client_info.nonce.is_empty(),
        verified: key.is_some_and(|key| token.verify(&key).is_ok()),
        nkey,
        jwt: offered.jwt,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(nkey: &str) -> Request {
        let content = Content {
            server: "n1".to_owned(),
            issuer: "A".to_owned(),
            waits: 10,
            nonce: true,
            verified: true,
            nkey: nkey.to_owned(),
            jwt: String::new(),
        };
        Request { sealed: true, content: Some(content) }
    }

    #[test]
    fn among_any_number_of_requests_the_one_that_was_caused_is_kept() {
        let mut kept = Kept::default();
        let awaited = kept.await_key("U1");
        for number in 0..100_000 {
            kept.keep(request(&format!("other {number}")));
        }
        assert_eq!(kept.found(&awaited), None);
        kept.keep(request("U1"));
        assert_eq!(kept.found(&awaited), Some(request("U1")));
        assert_eq!(kept.awaited.len(), 1);
        // What came before somebody waits for it again is another's.
        let again = kept.await_key("U1");
        assert_eq!(kept.found(&again), None);
    }

    #[test]
    fn one_that_does_not_open_counts_where_it_came_since() {
        let mut kept = Kept::default();
        let closed = Request { sealed: true, content: None };
        kept.keep(closed.clone());
        let awaited = kept.await_key("U1");
        assert_eq!(kept.found(&awaited), None);
        kept.keep(closed.clone());
        assert_eq!(kept.found(&awaited), Some(closed));
        kept.keep(request("U1"));
        assert_eq!(kept.found(&awaited), Some(request("U1")));
    }
}
