//! Asking the policy's source to look now.

use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// Asks for looks, and tells when one has ended.
#[derive(Debug)]
pub struct Look {
    wanted: Notify,
    ended: watch::Sender<u64>,
}

impl Default for Look {
    fn default() -> Self {
        Self { wanted: Notify::new(), ended: watch::Sender::new(0) }
    }
}

impl Look {
    /// Asks for a look, and does not wait.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Asks for a look, and waits until one has ended; at most so long. Gives whether it did.
    pub async fn look(&self, at_most: Duration) -> bool {
        let mut ended = self.ended.subscribe();
        self.want();
        timeout(at_most, ended.changed()).await.is_ok()
    }

    /// Resolves when a look is wanted.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// A look has ended, and what it found is in force.
    pub fn ended(&self) {
        self.ended.send_modify(|count| *count = count.wrapping_add(1));
    }
}
