//! Watches authorization requests go by, as the callout user that it is: a subscriber outside the
//! queue group gets a copy of each. It never answers, and keeps only requests that it caused.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, Message};
use futures_util::StreamExt;
use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::super::seen::{Content, Request};
use crate::broker;
use crate::keys::{CurveKey, ServerKey};
use crate::protocol::claims;
use crate::protocol::jwt::Unverified;
use crate::protocol::request::MAX_REQUEST_BYTES;
use crate::protocol::seal::Sealer;

/// The most requests that are kept: a busy server's go by unread.
const MOST: usize = 1000;
/// How long the server may take to confirm the subscription.
const CONFIRM: Duration = Duration::from_secs(5);

/// Requests as they came.
pub struct Watch {
    seen: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Begins to watch. `None` when this user may not subscribe.
    pub async fn begin(client: &Client, sealer: Option<Sealer>) -> Option<Self> {
        let mut requests = client.subscribe("$SYS.REQ.USER.AUTH").await.ok()?;
        // A message to ourselves, sent after it, proves that the server has the subscription.
        let fence = format!("{}.{}", broker::INBOX, client.new_inbox().rsplit('.').next()?);
        let mut fenced = client.subscribe(fence.clone()).await.ok()?;
        client.publish(fence, "".into()).await.ok()?;
        timeout(CONFIRM, fenced.next()).await.ok()??;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Some(message) = requests.next().await {
                let request = read(&message, sealer.as_ref());
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() < MOST {
                    kept.push(request);
                }
            }
        });
        Some(Self { seen, task })
    }

    /// How many came so far: a mark for [`Watch::since`].
    pub fn mark(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// A request since the mark for the holder of that key; or, since its key is not known, one
    /// that does not open. Waits a moment for it: it goes another way than the refusal.
    pub async fn since(&self, mark: usize, nkey: &str) -> Option<Request> {
        let deadline = Instant::now() + Duration::from_millis(500);
        loop {
            let found = self.found(mark, nkey);
            if found.is_some() || Instant::now() >= deadline {
                return found;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn found(&self, mark: usize, nkey: &str) -> Option<Request> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let since = seen.get(mark..).unwrap_or_default();
        let of = |r: &&Request| r.content.as_ref().is_some_and(|c| c.nkey == nkey);
        let closed = |r: &&Request| r.content.is_none();
        since.iter().find(of).or_else(|| since.iter().find(closed)).cloned()
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
    Some(Content {
        server: request.nats.server_id.name,
        issuer: request.sub,
        waits: request.exp - Timestamp::now().as_second(),
        nonce: !request.nats.client_info.nonce.is_empty(),
        verified: key.is_some_and(|key| token.verify(&key).is_ok()),
        nkey: request.nats.connect_opts.nkey,
    })
}
