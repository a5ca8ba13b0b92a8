//! What the connections of one service share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_nats::{Client, Subject};
use tokio::time::timeout;

use super::answer::{Reply, Service};
use super::queue::{Job, Queue};
use super::tenants::LOOK_AGAIN;

/// What the connections of one service share.
pub(super) struct Shared {
    pub(super) service: Arc<Service>,
    pub(super) connections: usize,
    /// Connections that have subscribed.
    pub(super) opened: AtomicUsize,
    /// Requests taken on and not answered yet, on all connections.
    pub(super) pending: AtomicUsize,
    /// Those whose answers are large.
    pub(super) large: Queue<Job>,
}

impl Shared {
    /// One request less.
    pub(super) fn done(&self) {
        self.service.metrics.done();
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) async fn send(&self, client: &Client, to: Subject, reply: Reply) {
        let Reply { bytes, decision, from: _, trace } = reply;
        let size = bytes.len();
        // While the connection is away, answers wait in it, and then there is no more room. The
        // server does not wait for them longer than for us.
        let patience = self.service.limits.patience.max(LOOK_AGAIN);
        let sent = timeout(patience, client.publish(to, bytes)).await;
        if let Some(trace) = trace {
            trace.replied(matches!(sent, Ok(Ok(()))), size);
        }
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(event = "reply_failed", decision, %error),
            Err(_) => tracing::error!(event = "reply_failed", decision, error = "not connected"),
        }
    }
}

/// Says that something is wrong with this program.
pub(super) fn defect() {
    tracing::error!(
        event = "defect",
        "a request could not be processed and got no answer; please report this"
    );
}
