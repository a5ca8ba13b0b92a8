//! What holds the issuer's key, where `serve` does not.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::config::Settings;
use crate::service::Health;
use crate::signer::client::Client;
use solewriter_core::keys::AccountKey;

/// How long a start waits for it. Both may be started at once.
const BEGINS_WITHIN: Duration = Duration::from_secs(10);
/// How often it is asked whether it is there.
const EVERY: Duration = Duration::from_secs(1);
/// How long it may take to answer that, with the time to be taken on.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// A signer, and what it has to hold.
pub(super) struct Signing {
    signer: Arc<Client>,
    keys: Vec<AccountKey>,
}

impl Signing {
    /// The one that the settings name.
    pub(super) fn of(settings: &Settings) -> Option<Self> {
        let signer = Arc::clone(settings.signer.as_ref()?);
        let accounts = settings.operator.iter().flat_map(|operator| operator.accounts.values());
        let users = accounts.map(|placed| &placed.signer).filter(|signer| signer.is_elsewhere());
        let keys = users.chain([&settings.issuer]).map(|signer| *signer.public()).collect();
        Some(Self { signer, keys })
    }

    /// Waits until it is there.
    pub(super) async fn begin(&self) -> Result<(), String> {
        let deadline = Instant::now() + BEGINS_WITHIN;
        let mut said = None;
        loop {
            match self.ask().await {
                Ok(()) => return Ok(()),
                Err(why) if Instant::now() >= deadline => return Err(why),
                Err(why) => {
                    if said.as_ref() != Some(&why) {
                        tracing::warn!(event = "signer_awaited", error = why);
                        said = Some(why);
                    }
                }
            }
            sleep(EVERY / 4).await;
        }
    }

    /// Keeps an eye on it, for ever. Its type says what it was that ended.
    pub(super) async fn follow(self, health: Arc<Health>) -> &'static str {
        loop {
            let found = self.ask().await;
            if health.signer(found.clone()) {
                match found {
                    Ok(()) => tracing::info!(
                        event = "signer", socket = %self.signer.path().display(), "holds the keys",
                    ),
                    Err(error) => tracing::error!(
                        event = "signer_failed",
                        error,
                        "nobody is let in, and nobody is refused",
                    ),
                }
            }
            sleep(EVERY).await;
        }
    }

    async fn ask(&self) -> Result<(), String> {
        let (signer, keys) = (Arc::clone(&self.signer), self.keys.clone());
        let asked = tokio::task::spawn_blocking(move || signer.holds(&keys));
        match timeout(ANSWERS_WITHIN, asked).await {
            Ok(Ok(found)) => found.map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the signer does not answer".to_owned()),
        }
    }
}
