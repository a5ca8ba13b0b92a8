//! Keeps open connections to the policy, for as long as the process runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};

use super::Settings;
use super::link::{Access, Link};
use super::rhythm::{Outcome, Patience, Rhythm};
use super::sweep;
use super::system::System;
use super::verdict::{Changes, Judge, Others};
use crate::audit::Recorder;
use crate::decide::Decider;
use crate::fleet::beats::{Fleet, View};
use crate::policy::standing::Standing;
use crate::policy::store::Store;
use crate::telemetry::Metrics;

/// How long the first sweep after a change waits for the other instances to have it too: what is
/// closed before would come back with the old grant.
const AGREE_WITHIN: Duration = Duration::from_millis(300);
/// How long the policy's source may take when it is asked to look.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// How often to see whether it has become this instance's turn, when nothing tells of it.
const TURN: Duration = Duration::from_millis(500);
/// How long a look goes on at least, when something happens meanwhile.
const LOOK_FOR: Duration = Duration::from_secs(1);
/// How often news of the others make looking quick again.
const STIR: Duration = Duration::from_secs(2);
/// How long instances may differ before it is said aloud, and how often it is repeated.
const DIFFER_FOR: Duration = Duration::from_secs(10);
const DIFFER_AGAIN: Duration = Duration::from_secs(60);

/// What sweeping needs.
pub struct Keeper {
    /// Asked about open connections as it is about new ones.
    pub decider: Arc<Decider>,
    /// The policy in force.
    pub store: Arc<Store>,
    /// What is known of where it came from.
    pub standing: Arc<Standing>,
    /// Records what is closed.
    pub recorder: Recorder,
    /// Counts it.
    pub metrics: Arc<Metrics>,
    /// The instances.
    pub fleet: Arc<Fleet>,
    /// The pace.
    pub settings: Settings,
    /// Told when connections were closed.
    pub closed: Arc<Notify>,
}

/// What the keeper knows from one round to the next. None of it has to outlive the process.
struct Known {
    rhythm: Rhythm,
    patience: Patience,
    /// For which run of attention the source was asked, while it was this instance's turn.
    sure: Option<u64>,
    /// The revision of the last sweep.
    swept: Option<String>,
    differ_since: Option<Instant>,
    said: Option<Instant>,
    /// When the others last made it quick.
    stirred: Option<Instant>,
}

impl Known {
    /// Something is new among the others. Whoever makes news without end makes no more sweeps.
    fn heard(&mut self, now: Instant) {
        if self.stirred.is_none_or(|at| now.duration_since(at) > STIR) {
            self.stirred = Some(now);
            self.rhythm.stir(now);
        }
    }
}

impl Keeper {
    /// Connects (as often as it takes) and sweeps until `stopped`.
    pub async fn run(&self, access: &Access<'_>, stopped: impl Future<Output = ()>) {
        let work = async {
            match Link::open(access).await {
                Ok(link) => self.sweep_for_ever(link).await,
                Err(error) => tracing::error!(event = "system_connect_failed", %error),
            }
        };
        tokio::select! {
            () = work => {}
            () = stopped => {}
        }
        self.fleet.can_sweep(false);
    }

    async fn sweep_for_ever(&self, mut link: Link) {
        let (mut changes, mut news) = (self.store.changes(), self.fleet.news());
        let mut known = Known {
            rhythm: Rhythm::new(self.settings.every, Instant::now()),
            patience: Patience::default(),
            sure: None,
            swept: None,
            differ_since: None,
            said: None,
            stirred: None,
        };
        loop {
            let usable = link.usable().await;
            self.fleet.can_sweep(usable);
            let view = self.fleet.view().filter(|view| usable && self.turn(view, &mut known));
            if view.is_none() {
                self.metrics.sessions().sweeper(false);
                known.sure = None;
            }
            let turn = Instant::now() + TURN;
            let next = view.as_ref().map(|view| self.next(&known, view, link.rest_until()));
            if let Some(view) = view
                && next.is_some_and(|next| next <= Instant::now())
            {
                if !self.round(link.system(), &view, &mut known, (&mut changes, &mut news)).await {
                    link.silent();
                }
                continue;
            }
            tokio::select! {
                // The senders live as long as this does.
                _ = changes.changed() => known.rhythm.stir(Instant::now()),
                _ = news.changed() => known.heard(Instant::now()),
                () = tokio::time::sleep_until(next.unwrap_or(turn).min(turn).into()) => {}
            }
        }
    }

    /// When to look next: where every instance serves the policy that was swept for, not before
    /// the servers had their `rest`.
    fn next(&self, known: &Known, view: &View, rest: Option<Instant>) -> Instant {
        let next = known.rhythm.next();
        let current = self.store.current();
        let swept =
            current.is_some_and(|s| Some(s.policy.revision().whole()) == known.swept.as_deref());
        match rest {
            Some(rest) if swept && view.agreed => next.max(rest),
            _ => next,
        }
    }

    /// Whether it is this instance's turn. What is worth saying about the fleet is said here.
    fn turn(&self, view: &View, known: &mut Known) -> bool {
        self.metrics.sessions().instances(view.living);
        let now = Instant::now();
        if view.agreed {
            known.differ_since = None;
        } else {
            let since = *known.differ_since.get_or_insert(now);
            let said = known.said.is_some_and(|at| now.duration_since(at) < DIFFER_AGAIN);
            if now.duration_since(since) > DIFFER_FOR && !said {
                known.said = Some(now);
                tracing::warn!(
                    event = "instances_differ",
                    instances = view.living,
                    revision = self.store.current().map(|s| s.policy.revision().whole().to_owned()),
                    seconds = now.duration_since(since).as_secs(),
                    "the instances serve different policies: does each have the same source?",
                );
            }
        }
        view.elected
    }

    /// One look at everything, and what follows from it. False when nobody answered.
    async fn round(
        &self,
        system: &System,
        view: &View,
        known: &mut Known,
        (changes, news): (&mut watch::Receiver<()>, &mut watch::Receiver<u64>),
    ) -> bool {
        if known.sure != Some(view.times) {
            // It is this instance's turn since just now, or it slept: what it knows may be old.
            self.standing.freshness.look_now(LOOK_WITHIN).await;
            if known.sure.is_none() && !view.doubts {
                tracing::info!(event = "sweeper", "this instance looks after open connections");
                self.metrics.sessions().sweeper(true);
            }
            known.sure = Some(view.times);
            known.rhythm.stir(Instant::now());
            return true;
        }
        // What comes from here on cuts the round short.
        changes.borrow_and_update();
        let Some(snapshot) = self.store.current() else {
            known.rhythm.swept(Outcome::default(), Instant::now());
            return true;
        };
        let revision = snapshot.policy.revision().whole();
        if known.swept.as_deref() != Some(revision) {
            known.swept = Some(revision.to_owned());
            known.patience.forget();
            known.rhythm.stir(Instant::now());
            self.agree(news).await;
        }
        news.borrow_and_update();
        let Some(view) = self.fleet.view().filter(|v| v.elected && v.times == view.times) else {
            return true;
        };
        let others = Others { newer: view.newer.clone(), unlike: view.unlike };
        let judge = Judge {
            decider: &self.decider,
            policy: &snapshot.policy,
            store: &self.store,
            others: &others,
            gained: self.settings.gained,
            changes: &Changes::default(),
        };
        let go_on = || {
            // Not on any news: who makes them without end would stop this.
            let same = |now: View| now.elected && now.times == view.times;
            !changes.has_changed().unwrap_or(true) && self.fleet.view().is_some_and(same)
        };
        let outcome = self.sweep(system, &judge, &mut known.patience, go_on).await;
        let heard = outcome.is_some();
        let outcome = outcome.unwrap_or_default();
        let complete = outcome.complete && view.agreed;
        known.rhythm.swept(Outcome { complete, ..outcome }, Instant::now());
        heard
    }

    /// Waits a moment for every instance to serve the policy that is in force here.
    async fn agree(&self, news: &mut watch::Receiver<u64>) {
        let agreed = async {
            while self.fleet.view().is_some_and(|view| !view.agreed) {
                let _ = news.changed().await;
            }
        };
        let _ = tokio::time::timeout(AGREE_WITHIN, agreed).await;
    }

    async fn sweep(
        &self,
        system: &System,
        judge: &Judge<'_>,
        patience: &mut Patience,
        go_on: impl Fn() -> bool,
    ) -> Option<Outcome> {
        let began = Instant::now();
        let revision = judge.policy.revision().whole();
        let abandon = async {
            tokio::time::sleep(LOOK_FOR).await;
            while go_on() {
                tokio::time::sleep(LOOK_FOR / 10).await;
            }
        };
        // What is found on servers that are done is closed while slow ones still tell.
        let (give, mut parts) = mpsc::unbounded_channel();
        let looking = async move {
            let give = |part| drop(give.send(part));
            tokio::select! {
                looked = sweep::look(system, judge, &self.metrics, give) => looked,
                // Something happened, and a slow server still tells: the others are not to wait.
                () = abandon => Ok(sweep::Looked { heard: true, ..Default::default() }),
            }
        };
        let (mut found, mut held_back) = (0, 0);
        let mut done = sweep::Done::default();
        let closing = async {
            while let Some(mut stale) = parts.recv().await {
                found += stale.len();
                stale.retain(|s: &sweep::Stale| {
                    let allowed = patience.allows(&s.session.name.key, began);
                    held_back += usize::from(!allowed);
                    allowed
                });
                if done.cut_short {
                    continue;
                }
                let (pace, metrics) = (self.settings.close_per_second, &*self.metrics);
                let records = (&self.recorder, metrics);
                done.add(sweep::close(system, stale, pace, revision, records, &go_on).await);
            }
        };
        let (looked, ()) = tokio::join!(looking, closing);
        let looked = looked.unwrap_or_else(|error| {
            tracing::warn!(event = "sweep_failed", %error, "nobody can be asked");
            sweep::Looked::default()
        });
        let sweep::Looked { complete, heard, cost } = looked;
        if !heard {
            self.metrics.sessions().swept(false, began.elapsed());
            return None;
        }
        let sweep::Done { closed, failed, cut_short, keys } = done;
        if !cut_short {
            patience.closed(keys, Instant::now());
        }
        if closed > 0 {
            self.closed.notify_one();
        }
        let complete = complete && failed == 0 && !cut_short && held_back == 0;
        self.metrics.sessions().swept(complete, began.elapsed());
        if found > 0 {
            tracing::info!(
                event = "sweep",
                revision,
                found,
                closed,
                failed,
                held_back,
                cut_short,
                took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                "looked at every open connection",
            );
        }
        Some(Outcome {
            found: closed + failed > 0 || cut_short,
            complete,
            began: Some(began),
            cost,
        })
    }
}
