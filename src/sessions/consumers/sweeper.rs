//! Keeps consumers to the policy, for as long as the process runs.
//!
//! On a connection of its own, though the user is the callout's: a list of consumers may be
//! larger than the server lets wait for one connection, which it closes then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::Settings;
use super::listing::{ApiError, Jetstream};
use super::sweep::{self, Accounts};
use crate::fleet::heartbeat::{Fleet, FleetView};
use crate::nats::Nats;
use crate::nats::connect;
use crate::policy_source::snapshot_store::Store;
use crate::policy_source::status::SourceStatus;
use crate::sessions::schedule::{Outcome, Rhythm};
use crate::telemetry::Metrics;
use solewriter_core::grant::AuditStreams;

/// How long the policy's source may take when it is asked to look.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// How often to check whether it is this instance's turn, if no event says so.
const TURN: Duration = Duration::from_millis(500);
/// How long to wait before asking again when the consumers cannot be listed at all: at first, and
/// at most. Each attempt without permission is a line in the server's log.
const ASK_AGAIN: Duration = Duration::from_secs(2);
const ASK_AGAIN_AT_MOST: Duration = Duration::from_secs(300);
/// After so many attempts in a row it is said aloud: a server that restarts fails some.
const SAY_AFTER: u32 = 3;

/// What sweeping consumers needs.
pub struct ConsumerSweeper {
    /// The policy in force.
    pub store: Arc<Store>,
    /// What is known of where it came from.
    pub source_status: Arc<SourceStatus>,
    /// Counts what is deleted.
    pub metrics: Arc<Metrics>,
    /// The instances.
    pub fleet: Arc<Fleet>,
    /// The audit streams, whose consumers are looked at too.
    pub audit_streams: AuditStreams,
    /// How often to look even if nothing changed.
    pub every: Duration,
    /// What is allowed.
    pub settings: Settings,
    /// Whether there is a system user: then the instance that closes connections does this too.
    /// Else nobody is elected, and each does it.
    pub elected: bool,
    /// Told whenever connections were closed: who is out cannot make a consumer anew, who was still
    /// in may have.
    pub closed: Arc<Notify>,
}

/// How asking has gone.
struct Asking {
    failures: u32,
    not_before: Instant,
}

impl ConsumerSweeper {
    /// Connects (as often as it takes) and sweeps until `stopped`.
    pub async fn run(&self, nats: &Nats, stopped: impl Future<Output = ()>) {
        let work = async {
            let name = format!("{}-consumers", nats.name);
            // A missing permission shows as a missing answer, and is reported with its fix.
            let options = || connect::options(&nats.login, &nats.tls, &name);
            match connect::connect_patiently(&nats.servers, &name, options).await {
                Ok(client) => self.sweep_for_ever(client).await,
                Err(error) => {
                    let error = format!("the connection to nats-server cannot be set up: {error}");
                    tracing::error!(event = "connect_failed", error);
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = stopped => {}
        }
    }

    async fn sweep_for_ever(&self, client: async_nats::Client) {
        let accounts = Accounts {
            state: Jetstream::state(client.clone()),
            audit: Some(Jetstream::audit(client)),
            audit_streams: self.audit_streams.clone(),
        };
        let (mut changes, mut news) = (self.store.changes(), self.fleet.news());
        let mut rhythm = Rhythm::new(self.every, Instant::now());
        let mut asking = Asking { failures: 0, not_before: Instant::now() };
        let mut sure = None;
        loop {
            let view = self.fleet.view().filter(|view| self.turn(view));
            if view.is_none() {
                sure = None;
            }
            let next = rhythm.next().max(asking.not_before);
            if let Some(view) = view
                && next <= Instant::now()
            {
                if sure != Some(view.times) {
                    // Its turn since just now, or it slept: what it knows may be old.
                    self.source_status.stall_guard.look_now(LOOK_WITHIN).await;
                    sure = Some(view.times);
                }
                self.round(&accounts, &view, (&mut rhythm, &mut asking), &mut changes).await;
                continue;
            }
            let wake = next.max(Instant::now()).min(Instant::now() + TURN);
            tokio::select! {
                // The senders live as long as this does.
                _ = changes.changed() => rhythm.stir(Instant::now()),
                _ = news.changed() => rhythm.heard(Instant::now()),
                () = self.closed.notified() => rhythm.stir(Instant::now()),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// Whether it is for this instance to do it. Two at once do no harm. Who says that there is
    /// something newer can put it off, and not prevent it.
    fn turn(&self, view: &FleetView) -> bool {
        if self.elected { view.elected } else { view.newer.is_empty() || view.for_itself }
    }

    async fn round(
        &self,
        accounts: &Accounts,
        view: &FleetView,
        (rhythm, asking): (&mut Rhythm, &mut Asking),
        changes: &mut watch::Receiver<()>,
    ) {
        let began = Instant::now();
        // What comes from here on cuts the round short.
        changes.borrow_and_update();
        let Some(snapshot) = self.store.current() else {
            rhythm.swept(Outcome::default(), Instant::now());
            return;
        };
        let go_on = || {
            let same = |now: FleetView| self.turn(&now) && now.times == view.times;
            !changes.has_changed().unwrap_or(true) && self.fleet.view().is_some_and(same)
        };
        let metrics = self.metrics.consumers();
        let losses = snapshot.losses.take();
        let done = sweep::round(accounts, &snapshot.policy, self.settings, &losses, go_on).await;
        if !losses.is_empty() && !done.as_ref().is_ok_and(|done| !done.cut_short) {
            snapshot.losses.take_again();
        }
        let done = match done {
            Ok(done) => done,
            Err(error) => {
                metrics.swept(false, began.elapsed());
                asking.failed(&error);
                metrics.reachable(asking.failures < SAY_AFTER);
                rhythm.swept(Outcome::default(), Instant::now());
                return;
            }
        };
        *asking = Asking { failures: 0, not_before: Instant::now() };
        metrics.reachable(true);
        metrics.seen(done.services, done.nobodys, done.over_limit);
        for (cause, count) in &done.deleted {
            metrics.deleted(cause.code(), *count);
        }
        let complete = done.untold == 0 && done.failed == 0 && !done.cut_short;
        metrics.swept(complete, began.elapsed());
        let deleted: u64 = done.deleted.values().sum();
        if deleted > 0 || done.failed > 0 {
            tracing::info!(
                event = "consumer_sweep",
                revision = %snapshot.policy.revision(),
                deleted,
                failed = done.failed,
                kept = done.services + done.nobodys,
                cut_short = done.cut_short,
                took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                "checked every consumer of buckets, object stores and audit streams",
            );
        }
        let outcome = Outcome {
            found: deleted > 0 || done.cut_short,
            complete: complete && view.agreed,
            began: Some(began),
            cost: if deleted > 0 { Duration::ZERO } else { began.elapsed() },
            within: None,
        };
        rhythm.swept(outcome, Instant::now());
    }
}

impl Asking {
    /// The state account does not answer.
    fn failed(&mut self, error: &ApiError) {
        self.failures = self.failures.saturating_add(1);
        let pause = ASK_AGAIN * 2u32.saturating_pow(self.failures.min(16) - 1);
        self.not_before = Instant::now() + pause.min(ASK_AGAIN_AT_MOST);
        if self.failures < SAY_AFTER {
            tracing::info!(event = "consumers_silent", %error, "consumers cannot be listed yet");
            return;
        }
        tracing::warn!(
            event = "consumers_unseen",
            %error,
            retry_in_s = pause.min(ASK_AGAIN_AT_MOST).as_secs(),
            "consumers cannot be listed, so a consumer can keep delivering after the service's \
             right has ended: {}",
            connect::CONSUMERS_NEED,
        );
    }
}
