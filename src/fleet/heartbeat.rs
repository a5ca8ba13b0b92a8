//! The beats of the instances, over core NATS alone: they work whatever becomes of JetStream, and
//! with a policy from a directory.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, HeaderMap, Message, Subscriber};
use data_encoding::BASE64;
use futures_util::StreamExt;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::peers::{BEAT, Beat, News, Peers, doubts};
use super::{Member, Moved, Report, SUBJECT, Transit, Waiting};
use crate::policy_source::status::SourceState;
use solewriter_core::callout::asked::Asked;
use solewriter_core::callout::issue::Issuer;

/// Where an instance says whom it let in: `solewriter.asked.<id>`.
const ASKED: &str = "solewriter.asked";

/// The header with an instance's signature of its beat.
const SIGNATURE: &str = "Solewriter-Signature";

/// What is signed of a beat: its subject too, so that no instance's is taken for another's, and the
/// tenant, so that none is taken for a word about another tenant.
fn vouched(tenant: Option<&str>, subject: &str, payload: &[u8]) -> Vec<u8> {
    let tenant = tenant.map(|tenant| format!("tenant {tenant}\n")).unwrap_or_default();
    [tenant.as_bytes(), subject.as_bytes(), b"\n", payload].concat()
}

/// How long an instance listens before it knows who else lives: after its start, and after it did
/// not run for a while (SIGSTOP, a starved machine) and so heard nobody.
const LISTEN: Duration = Duration::from_millis(1500);
/// A newcomer is answered if the last beat was so long ago.
const REPLY: Duration = Duration::from_millis(50);
/// A pause between two rounds that is longer than that is such a while.
const STALL: Duration = Duration::from_secs(2);

/// How long who has slept says nothing, at most, until the policy's source has answered.
const ASKS_FIRST: Duration = Duration::from_secs(2);

/// This instance among the others.
pub struct Fleet {
    member: Member,
    /// Names how grants are made here.
    makes: String,
    /// Who was let in of late, here and by the others.
    asked: Arc<Asked>,
    /// Signs what this instance says, and knows what others signed.
    issuer: Arc<Issuer>,
    /// Counts the beats.
    said: AtomicU64,
    /// Whether it was logged that a newer version speaks.
    told_of_newer: AtomicBool,
    /// Whether nats-server has read a beat that names a policy.
    spoke: watch::Sender<bool>,
    peers: Mutex<Peers>,
    /// Whether this instance can close connections now.
    sweeps: watch::Sender<bool>,
    /// Counts what happened among the others.
    news: watch::Sender<u64>,
    attention: Mutex<Option<Attention>>,
    /// Who waits for what the policy gives, as far as this instance saw.
    waiting: Mutex<Vec<Waiting>>,
    /// What is in transit.
    transit: Mutex<Vec<Transit>>,
    /// What moved by the policy of that revision.
    handed_over: Mutex<(String, Vec<Moved>)>,
}

/// Since when this instance has listened.
#[derive(Clone, Copy)]
struct Attention {
    /// The last round.
    alive: Instant,
    /// When everybody else has been heard.
    knows_at: Instant,
    /// Since when nothing was missed.
    since: Instant,
    /// Counts how often it had to begin anew.
    times: u64,
}

/// How often the policy's source is asked to look because another instance serves something else:
/// at once, and ever less often while nothing comes of it.
struct Nudges {
    last: Option<Instant>,
    next: Instant,
    pause: Duration,
}

impl Nudges {
    const PAUSE: Duration = Duration::from_secs(1);
    const PAUSE_AT_MOST: Duration = Duration::from_secs(30);

    fn new(now: Instant) -> Self {
        Self { last: None, next: now, pause: Self::PAUSE }
    }

    /// Something is new: quickly again, and no quicker than ever.
    fn again(&mut self, now: Instant) {
        self.pause = Self::PAUSE;
        self.next = self.last.map_or(now, |last| last + Self::PAUSE);
    }

    fn due(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        self.last = Some(now);
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(Self::PAUSE_AT_MOST);
        true
    }
}

/// How the fleet stands, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetView {
    /// Whether it is for this instance to close connections.
    pub elected: bool,
    /// Whether that is so only because it looks for itself now, whatever the others say.
    pub doubts: bool,
    /// Whether it is time to look for oneself, elected or not.
    pub for_itself: bool,
    /// Whether every living instance serves the same policy.
    pub agreed: bool,
    /// Revisions that others took up after this instance took up its own.
    pub newer: Vec<String>,
    /// Whether another instance makes other grants of one policy.
    pub unlike: bool,
    /// Whether one of them said, signed, that it serves another policy.
    pub differs: bool,
    /// When one whose last signed word was another policy last said so, whether it lives or not.
    pub differed: Option<Instant>,
    /// Since when this instance has heard every word of the others.
    pub attentive: Instant,
    /// The instances of which it is certain that they serve what this one does, itself included.
    pub certain: BTreeSet<String>,
    /// How many instances live, this one included.
    pub living: usize,
    /// Another number than before: this instance did not run for a while.
    pub times: u64,
}

impl Fleet {
    /// An instance that has not heard of any other. `makes` names how it makes grants.
    #[must_use]
    pub fn new(member: Member, makes: String, asked: Arc<Asked>, issuer: Arc<Issuer>) -> Arc<Self> {
        Arc::new(Self {
            member,
            makes,
            asked,
            issuer,
            said: AtomicU64::new(1),
            told_of_newer: AtomicBool::new(false),
            spoke: watch::Sender::new(false),
            peers: Mutex::default(),
            sweeps: watch::Sender::new(false),
            news: watch::Sender::new(0),
            attention: Mutex::default(),
            waiting: Mutex::default(),
            transit: Mutex::default(),
            handed_over: Mutex::default(),
        })
    }

    /// Whether this instance can close connections from now on.
    pub fn can_sweep(&self, sweeps: bool) {
        self.sweeps.send_if_modified(|before| std::mem::replace(before, sweeps) != sweeps);
    }

    /// What to tell people from now on of connections that wait for what their service gained.
    pub fn tell_waiting(&self, waiting: Vec<Waiting>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = waiting;
    }

    /// What to tell people from now on of what is in transit.
    pub fn tell_transit(&self, transit: Vec<Transit>) {
        *self.transit.lock().unwrap_or_else(PoisonError::into_inner) = transit;
    }

    /// What to tell people of what moved by the policy of that revision.
    pub fn tell_handed_over(&self, revision: &str, moved: Vec<Moved>) {
        let told = (revision.to_owned(), moved);
        *self.handed_over.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }

    /// Waits until the others could hear that this instance is there, and what it serves.
    pub async fn spoken(&self) {
        // The sender is ours.
        let _ = self.spoke.subscribe().wait_for(|spoke| *spoke).await;
    }

    /// Whether they could.
    #[must_use]
    pub fn has_spoken(&self) -> bool {
        *self.spoke.borrow()
    }

    /// Tells of whatever changes among the others.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// How the fleet stands. `None` while it is not known: nobody was listened to for long enough.
    #[must_use]
    pub fn view(&self) -> Option<FleetView> {
        let (times, attentive) = self.knows(Instant::now())?;
        let (me, adopted) = self.beat();
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let elected = peers.elect(&me, adopted);
        // Who does not hear from its source knows that it may be the one that is late.
        let for_itself = matches!(*self.member.source_status.state(), SourceState::Answered)
            && doubts(adopted.elapsed(), &me.instance);
        let doubts = !elected && me.sweeps && for_itself;
        let mut newer = peers.newer(&me, adopted, Instant::now());
        // Who doubts the others does not take from them that what was revoked is newer.
        newer.retain(|revision| !doubts || !me.had.contains(revision));
        let revision = me.revision.as_deref().unwrap_or_default();
        let certain = peers.certain(revision).chain([me.instance.as_str()]);
        Some(FleetView {
            elected: elected || doubts,
            doubts,
            for_itself,
            agreed: peers.agree(&me),
            newer,
            unlike: peers.unlike(&me),
            differs: peers.differ(&me),
            differed: peers.differed(&me),
            attentive,
            certain: certain.map(ToOwned::to_owned).collect(),
            living: peers.beats().count().saturating_add(1),
            times,
        })
    }

    /// Whether it has listened for long enough, and still does: for the how manieth time, and since
    /// when.
    fn knows(&self, now: Instant) -> Option<(u64, Instant)> {
        let attention = self.attention.lock().unwrap_or_else(PoisonError::into_inner);
        let knows =
            |a: &Attention| now >= a.knows_at && now.saturating_duration_since(a.alive) <= STALL;
        attention.filter(knows).map(|attention| (attention.times, attention.since))
    }

    /// Another instance tells whom it let in.
    fn hear_of(&self, payload: &[u8]) {
        if self.asked.hear(payload, Timestamp::now().as_second()) {
            self.news.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// A round begins. Gives whether it followed the one before.
    fn attend(&self, now: Instant) -> bool {
        let mut attention = self.attention.lock().unwrap_or_else(PoisonError::into_inner);
        let next = match *attention {
            Some(before) if now.saturating_duration_since(before.alive) <= STALL => {
                Attention { alive: now, ..before }
            }
            before => Attention {
                alive: now,
                knows_at: now + LISTEN,
                since: now,
                times: before.map_or(0, |before| before.times.wrapping_add(1)),
            },
        };
        let times = |attention: &Attention| attention.times;
        let went_on = attention.as_ref().map(times) == Some(next.times);
        *attention = Some(next);
        went_on
    }

    /// Words of the others may have been missed.
    fn missed(&self, now: Instant) {
        let mut attention = self.attention.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(attention) = attention.as_mut() {
            attention.since = now;
        }
    }

    /// Whether it did not run for a while, and has not heard the others for a lease since.
    fn has_slept(&self) -> bool {
        let attention = self.attention.lock().unwrap_or_else(PoisonError::into_inner);
        let lease = self.member.source_status.lease().unwrap_or(LISTEN);
        attention.is_some_and(|a| a.times > 0 && a.since.elapsed() < lease)
    }

    /// Whether this instance says that it can close connections. Who has slept leaves it to another
    /// one, if there is one: what that one has begun, it would have to begin anew.
    fn sweeps(&self, revision: Option<&str>) -> bool {
        let others = || {
            let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
            peers.others_sweep(revision)
        };
        *self.sweeps.borrow() && !(self.has_slept() && others())
    }

    /// What this instance says of itself, and when it took its policy up.
    fn beat(&self) -> (Beat, Instant) {
        let snapshot = self.member.store.current();
        let revision = snapshot.as_ref().map(|s| s.policy.revision().whole().to_owned());
        let since = snapshot.as_ref().map_or_else(Instant::now, |snapshot| snapshot.since);
        let origin = snapshot.as_ref().and_then(|snapshot| snapshot.origin());
        let beat = Beat {
            format: Beat::FORMAT,
            instance: self.member.identity.id.to_string(),
            started: self.member.identity.started,
            settled: snapshot.as_ref().is_some_and(|s| s.unsettled().is_none())
                && self.member.store.hands_over(),
            sweeps: self.sweeps(revision.as_deref()),
            revision,
            held_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
            number: origin.as_ref().map(|origin| origin.number),
            lineage: origin.as_ref().map(|origin| origin.lineage.clone()),
            had: self.member.store.past_revisions(),
            makes: self.makes.clone(),
            about: None,
            leaves: false,
            beat: 0,
        };
        (beat, since)
    }

    async fn say(&self, client: &Client, leaves: bool) {
        let (beat, _) = self.beat();
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let about = self.member.report(jiff::Timestamp::now().as_second());
        let named = about.revision.is_some();
        let mut transit = self.transit.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Another one may have settled it.
        transit.retain(|_| about.settled == Some(false));
        let (of, moved) = self.handed_over.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let handed_over = if about.revision.as_deref() == Some(&of) { moved } else { Vec::new() };
        let about = Some(Report { waiting, transit, handed_over, ..about });
        let number = self.said.fetch_add(1, Ordering::Relaxed);
        let Ok(bytes) = serde_json::to_vec(&Beat { about, leaves, beat: number, ..beat }) else {
            return;
        };
        // What waits for a connection says something else by the time it arrives.
        if client.connection_state() != State::Connected {
            return;
        }
        let subject = format!("{SUBJECT}.{}", self.member.identity.id);
        let text = vouched(self.member.tenant.as_deref(), &subject, &bytes);
        let issuer = Arc::clone(&self.issuer);
        // Who holds the key may be slow. Without a signature, it is a missed beat.
        let signed = tokio::task::spawn_blocking(move || issuer.vouch(&text)).await;
        let Ok(Ok(signature)) = signed else { return };
        let mut headers = HeaderMap::new();
        headers.insert(SIGNATURE, BASE64.encode(&signature));
        // A failure is a missed beat.
        let said = client.publish_with_headers(subject, headers, bytes.into()).await;
        if said.is_ok() && named && !*self.spoke.borrow() {
            let read = timeout(BEAT, client.flush()).await;
            self.spoke.send_if_modified(|spoke| {
                let first = matches!(read, Ok(Ok(()))) && !*spoke;
                *spoke |= first;
                first
            });
        }
    }

    /// Says that this instance lives, and listens to the others, until `stopped` resolves. When
    /// one of them serves another policy, the policy's source is looked at.
    ///
    /// # Errors
    /// When the subscription cannot be made.
    pub async fn run(
        &self,
        client: Client,
        stopped: impl Future<Output = ()>,
    ) -> Result<(), async_nats::SubscribeError> {
        let mut beats = client.subscribe(format!("{SUBJECT}.*")).await?;
        let mut asked = client.subscribe(format!("{ASKED}.*")).await?;
        let own = format!("{ASKED}.{}", self.member.identity.id);
        let mut rounds = interval(BEAT);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut changes, mut sweeps) = (self.member.store.changes(), self.sweeps.subscribe());
        let mut nudges = Nudges::new(Instant::now());
        let mut said: Option<Instant> = None;
        let mut asks: Option<Instant> = None;
        let mut connects = 0;
        tokio::pin!(stopped);
        loop {
            let mut say = true;
            let heard = tokio::select! {
                () = &mut stopped => break,
                _ = rounds.tick() => None,
                // The senders are ours, and so is the subscription.
                _ = changes.changed() => None,
                _ = sweeps.changed() => None,
                Some(message) = beats.next() => {
                    say = false;
                    Beat::read(&message.payload).map(|beat| (beat, self.is_vouched(&message)))
                }
                Some(message) = asked.next() => {
                    if *message.subject != *own {
                        self.hear_of(&message.payload);
                    }
                    continue;
                }
                notes = self.asked.to_tell(), if client.connection_state() == State::Connected => {
                    let _ = client.publish(own.clone(), notes.into()).await;
                    continue;
                }
            };
            let now = Instant::now();
            let went_on = self.attend(now);
            // What was said meanwhile was not heard.
            let connected = client.statistics().connects.load(Ordering::Relaxed);
            if std::mem::replace(&mut connects, connected) != connected
                || client.connection_state() != State::Connected
            {
                self.missed(now);
            }
            let hears = went_on && client.connection_state() == State::Connected;
            self.asked.hears(hears, Timestamp::now().as_second());
            let other = heard.filter(|(beat, _)| *beat.instance != *self.member.identity.id);
            if let Some((beat, vouched)) = other {
                let (news, differs) = self.hear(beat, vouched, now);
                // A newcomer should not have to wait for a beat of ours. Of many, most have to.
                say |= news.newcomer && said.is_none_or(|at| now.duration_since(at) > REPLY);
                if news.changed {
                    nudges.again(now);
                }
                if differs && nudges.due(now) {
                    self.member.source_status.stall_guard.want();
                }
            } else if say {
                self.forget(now);
            }
            // Who has slept asks the policy's source first: what it would say may be of before. It is
            // not silent for long: a source that does not answer is told, too.
            if self.member.source_status.stall_guard.holds() {
                asks = None;
            } else {
                say &= asks.get_or_insert(now).elapsed() > ASKS_FIRST;
            }
            if say {
                said = Some(now);
                self.say(&client, false).await;
            }
        }
        self.leave(&client, beats).await;
        Ok(())
    }

    /// Whether a beat is signed with the issuer's key, as the instance that it is from.
    fn is_vouched(&self, message: &Message) -> bool {
        let signature = message.headers.as_ref().and_then(|headers| headers.get(SIGNATURE));
        let signature = signature.and_then(|text| BASE64.decode(text.as_str().as_bytes()).ok());
        let Some(signature) = signature.and_then(|bytes| <[u8; 64]>::try_from(bytes).ok()) else {
            return false;
        };
        let tenant = self.member.tenant.as_deref();
        let text = vouched(tenant, &message.subject, &message.payload);
        self.issuer.vouches(&text, &signature)
    }

    /// Another instance settled the policy that is in force here.
    fn settled_by(&self, beat: &Beat) {
        let origin = beat.lineage.as_deref().zip(beat.number);
        if let Some(revision) = &beat.revision
            && self.member.store.settle(revision, origin).is_some()
        {
            tracing::info!(
                event = "handover_settled",
                revision,
                by = beat.instance,
                "another instance found that nothing is left of earlier policies",
            );
        }
    }

    /// Gives what is new, and whether the other one serves another policy.
    fn hear(&self, beat: Beat, vouched: bool, now: Instant) -> (News, bool) {
        let (me, _) = self.beat();
        let vouched = vouched && beat.is_understood();
        if !beat.is_understood() && !self.told_of_newer.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                event = "newer_instance",
                instance = beat.instance,
                format = beat.format,
                "an instance of a newer version says what this one does not know: what moves between \
                 services waits until every instance is of that version",
            );
        }
        if vouched && beat.settled && !me.settled {
            self.settled_by(&beat);
        }
        let differs = !beat.leaves && beat.revision.is_some() && beat.revision != me.revision;
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let news = peers.heard(beat, vouched, now);
        drop(peers);
        if news.changed {
            self.news.send_modify(|count| *count = count.wrapping_add(1));
        }
        (news, differs)
    }

    fn forget(&self, now: Instant) {
        // Who slept heard nobody: the others are not gone for that.
        if self.knows(now).is_none() {
            return;
        }
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = peers.forget(now);
        drop(peers);
        if gone {
            self.news.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Another one takes over at once, and not after some missed beats.
    async fn leave(&self, client: &Client, mut beats: Subscriber) {
        self.say(client, true).await;
        let _ = beats.unsubscribe().await;
        let _ = timeout(BEAT, client.flush()).await;
    }
}
