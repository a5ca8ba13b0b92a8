//! Keeps open connections to the policy, for as long as the process runs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};

use super::barrier::Barrier;
use super::handover::{self, Before, Fellows, Handover, Next};
use super::sweep::{self, Stale};
use super::verdict::{Cause, Changes, Judge, Others};
use super::{Settings, expiry, reach_without_system_user};
use crate::audit::Recorder;
use crate::fleet::heartbeat::{Fleet, FleetView};
use crate::fleet::{MAX_TRANSIT, MAX_WORDS, Moved, Transit};
use crate::nats::{Login, Nats};
use crate::policy_source::origin::Origin;
use crate::policy_source::snapshot_store::{Snapshot, Store, Unsettled};
use crate::policy_source::status::SourceStatus;
use crate::sessions::schedule::{Outcome, Patience, Rhythm, millis};
use crate::sessions::system_api::System;
use crate::sessions::system_connection::{Access, SystemConnection};
use crate::telemetry::Metrics;
use solewriter_core::callout::decide::Decider;
use solewriter_core::policy::model::Policy;
use solewriter_types::audit_event::{Event, HandedOver, words};

/// How long the first sweep after a change waits for the other instances to have it too: what is
/// closed before would come back with the old grant.
const AGREE_WITHIN: Duration = Duration::from_millis(300);
/// How long the policy's source may take when it is asked to look.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// How often to look whether the servers are connected with each other. What matters takes longer
/// than a lease.
const WATCH: Duration = Duration::from_millis(500);
/// How often to check whether it is this instance's turn, if no event says so.
const TURN: Duration = Duration::from_millis(500);
/// How long a look goes on at least, when something happens meanwhile.
const LOOK_FOR: Duration = Duration::from_secs(1);
/// How long instances may differ before it is said aloud, and how often it is repeated.
const DIFFER_FOR: Duration = Duration::from_secs(10);
const DIFFER_AGAIN: Duration = Duration::from_secs(60);
/// For how long after a change who gains something waits for all to be closed that lost something:
/// a server that does not answer must not keep a keyspace from its owner.
const HAND_OVER_ANYWAY: Duration = Duration::from_secs(10);
/// For how many seconds one round closes those of each kind that have nothing too much. Then
/// everybody is looked at again.
const LATER_FOR: u32 = 10;

/// What sweeping needs.
pub struct Sweeper {
    /// Asked about open connections as it is about new ones.
    pub decider: Arc<Decider>,
    /// The policy in force.
    pub store: Arc<Store>,
    /// What is known of where it came from.
    pub source_status: Arc<SourceStatus>,
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
    /// How to reach servers.
    pub nats: Arc<Nats>,
    /// The name of the callout's user, as servers have it.
    pub caller: Option<String>,
    /// Who settles what is in transit.
    pub settler: Login,
    /// Since when all servers have been seen to be connected with each other, without a break.
    pub whole: Whole,
}

/// Since when the servers have been whole; `None` while they are not, or nobody looked.
#[derive(Debug, Default)]
pub struct Whole(Mutex<Option<Instant>>);

impl Whole {
    fn since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a look at the servers that began at `began` found.
    fn looked(&self, whole: bool, began: Instant) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *since = if whole { since.or(Some(began)) } else { None };
    }
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
    said_directories: bool,
    /// The servers there were.
    servers: handover::Servers,
    /// What is in transit.
    handover: Option<Handover>,
}

impl Sweeper {
    /// Connects (as often as it takes) and sweeps until `stopped`.
    pub async fn run(&self, access: &Access<'_>, stopped: impl Future<Output = ()>) {
        let work = async {
            match SystemConnection::open(access).await {
                Ok(link) => {
                    let watching = self.watch_servers(link.system().clone());
                    tokio::join!(self.sweep_for_ever(link), watching);
                }
                Err(error) => tracing::error!(event = "system_connect_failed", %error),
            }
        };
        tokio::select! {
            () = work => {}
            () = stopped => {}
        }
        self.fleet.can_sweep(false);
    }

    /// Sees to it that a handover knows when servers were last cut off from each other: behind a cut,
    /// an instance may hear an old policy, and nobody hears the instance.
    async fn watch_servers(&self, system: System) {
        if !self.store.hands_over() || self.source_status.lease().is_none() {
            return;
        }
        loop {
            let began = Instant::now();
            let whole = system.servers().await.is_ok_and(|servers| servers.whole());
            self.whole.looked(whole, began);
            tokio::time::sleep(WATCH).await;
        }
    }

    async fn sweep_for_ever(&self, mut link: SystemConnection) {
        let (mut changes, mut news) = (self.store.changes(), self.fleet.news());
        let mut known = Known {
            rhythm: Rhythm::new(self.settings.every, Instant::now()),
            patience: Patience::default(),
            sure: None,
            swept: None,
            differ_since: None,
            said: None,
            said_directories: false,
            servers: handover::Servers::default(),
            handover: None,
        };
        loop {
            let usable = link.usable().await;
            self.settle_in_time();
            self.fleet.can_sweep(usable);
            let view = self.fleet.view().filter(|view| usable && self.turn(view, &mut known));
            if view.is_none() {
                self.metrics.sessions().sweeper(false);
                self.fleet.tell_waiting(Vec::new());
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
                _ = news.changed() => known.rhythm.heard(Instant::now()),
                () = tokio::time::sleep_until(next.unwrap_or(turn).min(turn).into()) => {}
            }
        }
    }

    /// When to look next: where every instance serves the policy that was swept for, not before
    /// the servers had their `rest`.
    fn next(&self, known: &Known, view: &FleetView, rest: Option<Instant>) -> Instant {
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
    fn turn(&self, view: &FleetView, known: &mut Known) -> bool {
        self.metrics.sessions().instances(view.living);
        let now = Instant::now();
        let of_directory = self.store.origin().is_none() && self.store.current().is_some();
        if of_directory && view.living > 1 && !std::mem::replace(&mut known.said_directories, true)
        {
            tracing::warn!(
                event = "directories",
                instances = view.living,
                "several instances read the policy from directories: while their files differ, one \
                 may let the old owner of a keyspace in beside the new one; a policy bucket has none \
                 of that",
            );
        }
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
        view: &FleetView,
        known: &mut Known,
        (changes, news): (&mut watch::Receiver<()>, &mut watch::Receiver<u64>),
    ) -> bool {
        if known.sure != Some(view.times) {
            // It is this instance's turn since just now, or it slept: what it knows may be old.
            self.source_status.stall_guard.look_now(LOOK_WITHIN).await;
            if known.sure.is_none() && !view.doubts {
                tracing::info!(event = "sweeper", "this instance sweeps open connections");
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
        let unsettled = snapshot.unsettled();
        let before = match &unsettled {
            Some(_) => self.look_before(system).await,
            None => None,
        };
        let for_now = unsettled.as_ref().map_or(&snapshot.policy, |unsettled| &unsettled.policy);
        let judge = Judge {
            decider: &self.decider,
            policy: &snapshot.policy,
            for_now,
            store: &self.store,
            others: &others,
            gained: self.settings.gained,
            changes: &Changes::default(),
        };
        let go_on = || {
            // Not on any news: who makes them without end would stop this.
            let same = |now: FleetView| now.elected && now.times == view.times;
            !changes.has_changed().unwrap_or(true) && self.fleet.view().is_some_and(same)
        };
        let judging = (&judge, view.agreed);
        let swept = self.sweep(system, judging, &mut known.patience, go_on).await;
        let heard = swept.is_some();
        let (outcome, looked) = swept.unwrap_or_default();
        known.servers.answered(&looked, Instant::now());
        let complete = outcome.complete && view.agreed;
        known.rhythm.swept(Outcome { complete, ..outcome }, Instant::now());
        match (unsettled, before) {
            (Some(unsettled), Some(mut before)) if heard => {
                if let Some(caller) = &self.caller {
                    handover::look_after(system, caller, &mut before).await;
                }
                self.hand_over(system, &snapshot, &unsettled, (&before, &looked), known).await;
            }
            (Some(_), _) => {}
            (None, _) => {
                known.handover = None;
                self.metrics.sessions().in_transit(0);
                self.fleet.tell_transit(Vec::new());
            }
        }
        heard
    }

    async fn look_before(&self, system: &System) -> Option<Before> {
        match handover::look_before(system, self.caller.as_ref()?).await {
            Ok(before) => Some(before),
            Err(error) => {
                tracing::warn!(event = "handover_look_failed", %error, "nobody can be asked");
                None
            }
        }
    }

    /// Goes on with what is in transit.
    async fn hand_over(
        &self,
        system: &System,
        snapshot: &Snapshot,
        unsettled: &Unsettled,
        (before, looked): (&Before, &sweep::Looked),
        known: &mut Known,
    ) {
        let Some(view) = self.fleet.view() else { return };
        let Known { handover, rhythm, servers, .. } = known;
        let same = handover.take().filter(|handover| handover.is_of(snapshot, unsettled));
        let handover = handover.insert(same.unwrap_or_else(|| {
            let lasts = self.lasts(snapshot);
            Handover::new(snapshot, unsettled, self.source_status.lease(), lasts)
        }));
        let in_transit = unsettled.in_transit.iter().map(|one| one.subjects.clone());
        let barrier = Barrier {
            nats: &self.nats,
            more: system.known_addresses(),
            login: &self.settler,
            subjects: in_transit.chain(unsettled.claims.kept()).collect(),
        };
        let fellows = Fellows {
            differ: view.differs,
            differed: view.differed,
            // One that reads a directory has nobody to hear.
            attentive: match (self.source_status.lease(), self.whole.since()) {
                (Some(_), Some(since)) => view.attentive.max(since),
                (Some(_), None) => Instant::now(),
                (None, _) => view.attentive,
            },
            certain: &view.certain,
        };
        let next = handover.looked((before, looked), servers, &fellows, &barrier).await;
        self.metrics.sessions().in_transit(unsettled.in_transit.len());
        self.fleet.tell_transit(told(handover, unsettled));
        if let Some(waits_for) = handover.news() {
            tracing::info!(
                event = "handover_waits",
                revision = snapshot.policy.revision().whole(),
                in_transit = unsettled.in_transit.len(),
                took_ms = millis(handover.took()),
                waits_for = words(&waits_for),
            );
        }
        for (server, cid) in handover.stuck(before) {
            // Who asks again is answered by somebody else.
            let _ = system.close(server, cid).await;
        }
        match next {
            Next::Look(at) => rhythm.sooner(at),
            Next::Settled => self.settled(snapshot, handover),
        }
    }

    /// How long permissions last at most, by this policy and by those before.
    fn lasts(&self, snapshot: &Snapshot) -> Duration {
        let reach = |policy: &Policy| reach_without_system_user(policy, self.decider.defaults());
        let before = self.store.past();
        let before = before.iter().map(|past| reach(&past.policy));
        before.fold(reach(&snapshot.policy), Duration::max)
    }

    /// Where nobody can be asked, what is in transit ends when every permission has.
    fn settle_in_time(&self) {
        let Some(snapshot) = self.store.current() else { return };
        let Some(unsettled) = snapshot.unsettled() else { return };
        let lease = self.source_status.lease();
        if unsettled.since.elapsed() < handover::ends_after(lease, self.lasts(&snapshot)) {
            return;
        }
        let origin = snapshot.origin();
        let of_bucket = origin.as_deref().map(Origin::of_bucket);
        let revision = snapshot.policy.revision().whole();
        if self.store.settle(revision, of_bucket).is_some() {
            tracing::warn!(
                event = "handover_settled",
                revision,
                "every permission that earlier policies gave has ended; nobody could be asked",
            );
        }
    }

    /// Nothing is left of what was in transit: everybody may know.
    fn settled(&self, snapshot: &Snapshot, handover: &Handover) {
        let origin = snapshot.origin();
        let of_bucket = origin.as_deref().map(Origin::of_bucket);
        let revision = snapshot.policy.revision().whole();
        let Some(unsettled) = self.store.settle(revision, of_bucket) else { return };
        self.fleet.tell_transit(Vec::new());
        tracing::info!(
            event = "handover_settled",
            revision,
            forced = handover.is_forced(),
            took_ms = millis(handover.took()),
            moved = unsettled.in_transit.len(),
            "nothing is left of what earlier policies gave",
        );
        let moved = unsettled.in_transit.iter().take(MAX_TOLD).map(|one| Moved {
            what: cut(&one.what()),
            from: one.from.as_ref().map(ToString::to_string),
            to: one.to.to_string(),
            vacant_ms: millis(handover.vacant(one.from.as_deref())),
        });
        let moved: Vec<Moved> = moved.collect();
        self.fleet.tell_handed_over(revision, moved.iter().take(MAX_TRANSIT).cloned().collect());
        for Moved { what, from, to, vacant_ms } in moved {
            self.metrics.sessions().handed_over(Duration::from_millis(vacant_ms));
            self.recorder.record(Event::HandedOver(HandedOver {
                what,
                from,
                to,
                vacant_ms,
                forced: handover.is_forced(),
                revision: revision.to_owned(),
                number: origin.as_ref().map(|origin| origin.number),
            }));
        }
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

    /// Closes connections. Who loses something is not let in again at once.
    async fn close(
        &self,
        system: &System,
        stale: Vec<Stale>,
        (pace, revision): (u32, &str),
        go_on: &impl Fn() -> bool,
    ) -> sweep::Done {
        let records = (&self.recorder, &*self.metrics);
        let before_each = |next: &Stale| {
            if next.closing.cause.takes()
                && let Some(snapshot) = self.store.current()
            {
                snapshot.losses.hold_back(&next.session.name.service);
            }
            go_on()
        };
        let done = sweep::close(system, stale, pace, revision, records, before_each).await;
        if done.closed > 0 {
            self.closed.notify_one();
        }
        done
    }

    async fn sweep(
        &self,
        system: &System,
        (judge, agreed): (&Judge<'_>, bool),
        patience: &mut Patience,
        go_on: impl Fn() -> bool,
    ) -> Option<(Outcome, sweep::Looked)> {
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
        let pace = self.settings.close_per_second;
        let close = async |stale: Vec<Stale>, pace| {
            self.close(system, stale, (pace, revision), &go_on).await
        };
        let (mut found, mut held_back) = (0, 0);
        let mut done = sweep::Done::default();
        let closing = async {
            let mut later = Vec::new();
            while let Some(part) = parts.recv().await {
                let (mut stale, others): (Vec<Stale>, Vec<Stale>) =
                    part.into_iter().partition(|stale: &Stale| stale.closing.cause.takes());
                later.extend(others);
                found += stale.len();
                held_back += hold_back(&mut stale, patience, began);
                if !done.cut_short {
                    done.add(close(stale, pace).await);
                }
            }
            later
        };
        let (looked, later) = tokio::join!(looking, closing);
        let looked = looked.unwrap_or_else(|error| {
            tracing::warn!(event = "sweep_failed", %error, "nobody can be asked");
            sweep::Looked::default()
        });
        let mut looked = looked;
        let sweep::Looked { complete, heard, cost, shortest_life, .. } = looked;
        if !heard {
            self.metrics.sessions().swept(false, began.elapsed());
            return None;
        }
        self.fleet.tell_waiting(std::mem::take(&mut looked.waiting));
        let mut later = Later::of(later);
        found += later.duties.len() + later.gains.len();
        // Former owners are closed before new owners, as far as that can be known.
        let over = complete && agreed && done.failed == 0 && held_back == 0 && !done.cut_short;
        let for_long = self.store.current().map(|current| current.since.elapsed());
        if !over && for_long.is_none_or(|for_long| for_long < HAND_OVER_ANYWAY) {
            held_back += later.wait();
        }
        held_back += later.limit(patience, began, pace);
        let Later { duties, expiring, gains } = later;
        let mut ended = sweep::Done::default();
        done.add(close(duties, pace).await);
        if !done.cut_short {
            let pace = pace.max(pace_of(&expiring));
            ended = close(expiring, pace).await;
            done.cut_short |= ended.cut_short;
        }
        if !done.cut_short {
            done.add(close(gains, pace).await);
        }
        let sweep::Done { closed, failed, cut_short, keys } = done;
        if !cut_short {
            patience.closed(keys, Instant::now());
        }
        let failed = failed + ended.failed;
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
                took_ms = millis(began.elapsed()),
                "checked every open connection",
            );
        }
        let outcome = Outcome {
            // What ends anyway leaves nothing unsettled.
            found: closed + failed > 0 || cut_short,
            complete,
            began: Some(began),
            cost,
            within: Some(expiry::look_within(shortest_life, judge.decider, judge.policy)),
        };
        Some((outcome, looked))
    }
}

/// The most handovers that are told of one by one.
const MAX_TOLD: usize = 1_000;

/// What is in transit, for people.
fn told(handover: &Handover, unsettled: &Unsettled) -> Vec<Transit> {
    let waits_for = cut(&handover.waits_for());
    let all = unsettled.in_transit.iter().take(MAX_TRANSIT).map(|one| Transit {
        what: cut(&one.what()),
        from: one.from.as_ref().map(ToString::to_string),
        to: one.to.to_string(),
        seconds: handover.took().as_secs(),
        waits_for: waits_for.clone(),
    });
    all.collect()
}

/// So much of a text that a beat with many of them is still read.
fn cut(text: &str) -> String {
    words(text).chars().take(MAX_WORDS).collect()
}

/// What is closed when every server has told, in this order.
#[derive(Default)]
struct Later {
    /// They gain something that nobody else may do.
    duties: Vec<Stale>,
    /// Their permissions are about to end; the first to end is the first.
    expiring: Vec<Stale>,
    /// They gain something else.
    gains: Vec<Stale>,
}

impl Later {
    fn of(all: Vec<Stale>) -> Self {
        let mut later = Self::default();
        for stale in all {
            match stale.closing.cause {
                Cause::GainedDuty => later.duties.push(stale),
                Cause::Expiring(_) => later.expiring.push(stale),
                _ => later.gains.push(stale),
            }
        }
        later.expiring.sort_by(|a, b| a.closing.cause.cmp(&b.closing.cause));
        later
    }

    /// Nobody gains anything in this round. Gives how many wait.
    fn wait(&mut self) -> usize {
        std::mem::take(&mut self.duties).len() + std::mem::take(&mut self.gains).len()
    }

    /// Leaves out who came back with an old grant just now, and what takes too long for one round.
    /// Gives how many.
    fn limit(&mut self, patience: &Patience, now: Instant, pace: u32) -> usize {
        let gain = [&mut self.duties, &mut self.gains];
        let held: usize =
            gain.into_iter().map(|gain| hold_back(gain, patience, now) + leave(gain, pace)).sum();
        let hurried = pace.max(pace_of(&self.expiring));
        held + leave(&mut self.expiring, hurried)
    }
}

/// Leaves out those that came back with an old grant just now. Gives how many.
fn hold_back(stale: &mut Vec<Stale>, patience: &Patience, now: Instant) -> usize {
    let before = stale.len();
    stale.retain(|stale| patience.allows(&stale.session.name.key, now));
    before - stale.len()
}

/// Leaves what takes too long for one round to the next. Gives how many.
fn leave(stale: &mut Vec<Stale>, pace: u32) -> usize {
    let before = stale.len();
    stale.truncate(usize::try_from(pace.saturating_mul(LATER_FOR)).unwrap_or(usize::MAX));
    before - stale.len()
}

/// How many of them have to be closed in a second.
fn pace_of(expiring: &[Stale]) -> u32 {
    match expiring.first().map(|first| &first.closing.cause) {
        Some(Cause::Expiring(left)) => expiry::pace(expiring.len(), *left),
        _ => 0,
    }
}
