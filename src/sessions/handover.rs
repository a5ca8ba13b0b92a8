//! Brings what is in transit to its end: looks, has a message sent behind what closed connections
//! had sent, and says when it is settled. [`solewriter_core::handover::transit`] decides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::sweep::{Carrier, Looked};
use super::system_api::{System, SystemError};
use crate::fleet::instance_of;
use crate::fleet::peers::BEAT;
use crate::policy_source::snapshot_store::{Snapshot, Unsettled};
use crate::policy_source::stall_guard::STALL;
use crate::sessions::barrier::Barrier;
use crate::sessions::schedule::millis;
use solewriter_core::handover::transit::{Holds, Instances, Look, Step, Time, Times, Transit};

/// For how much longer than its quorum lives a server may answer for a stream: it looks every ten
/// seconds whether it has heard from the others within ten seconds (nats-server's
/// `lostQuorumInterval`).
const STALE: Duration = Duration::from_secs(20);
/// How long what a closed connection sent may be on its way between two servers, at most: after two
/// pings without an answer (`ping_interval`, two minutes each) they give a route up.
const UNDER_WAY: Duration = Duration::from_secs(360);
/// How long a server that closed a connection goes on with what it had read of it, at most: some
/// 20 ms were seen on a machine that had more to do than it could (`docs/handover.md`).
const SETTLE: Duration = Duration::from_millis(100);
/// After what time a login takes too long.
const STUCK_AFTER: Duration = Duration::from_secs(1);
/// After what time it is told what is waited for.
const TELL_AFTER: Duration = Duration::from_secs(1);
/// The shortest and the longest pause between two looks.
const SOONEST: Duration = Duration::from_millis(10);
const LATEST: Duration = Duration::from_secs(1);

/// What is seen of logins and of instances before connections are looked at.
pub struct Before {
    began: Instant,
    /// Of servers that answered, by their keys.
    servers: BTreeSet<String>,
    /// The instances that have a connection on which they answer; `None` for one that is not known.
    answering: BTreeSet<Option<String>>,
    /// The logins under way: server, connection, and since when.
    logins: Vec<(String, u64, Instant)>,
}

/// Looks at what has to be seen before connections are: a login that is under way then is either
/// seen to be, or is a connection when they are looked at.
///
/// # Errors
/// [`SystemError`] when no server can be found.
pub async fn look_before(system: &System, caller: &str) -> Result<Before, SystemError> {
    let began = Instant::now();
    let found = system.servers().await?;
    let asked = found.servers.iter().map(|server| async move {
        let names = system.names_of(&server.id, caller).await?;
        let logins = system.logins(&server.id).await?;
        // Their age is told by the server; the question is as old as the answer at most.
        let now = Instant::now();
        let since = |(cid, age): (u64, Duration)| {
            (server.id.clone(), cid, now.checked_sub(age).unwrap_or(began))
        };
        let logins: Vec<_> = logins.into_iter().map(since).collect();
        Ok::<_, SystemError>((server.id.clone(), names, logins))
    });
    let (servers, answering) = (BTreeSet::new(), BTreeSet::new());
    let mut before = Before { began, servers, answering, logins: Vec::new() };
    for answer in join_all(asked).await {
        match answer {
            Ok((id, names, logins)) => {
                before.servers.insert(id);
                before.answering.extend(names.iter().filter_map(|name| instance_of(name)));
                before.logins.extend(logins);
            }
            // It counts as missing.
            Err(error) => tracing::debug!(event = "handover_look", %error),
        }
    }
    Ok(before)
}

/// Which instances answer, again: the one that came to another server between two of them is heard by
/// one of the two.
pub async fn look_after(system: &System, caller: &str, before: &mut Before) {
    let asked = before.servers.iter().map(|id| system.names_of(id, caller));
    for names in join_all(asked).await {
        match names {
            Ok(names) => before.answering.extend(names.iter().filter_map(|name| instance_of(name))),
            Err(error) => {
                tracing::debug!(event = "handover_look", %error);
                before.answering.insert(None);
            }
        }
    }
}

/// The servers that this instance has seen, by name, and when it last did: what was cut off from all
/// others, these may not know any more.
#[derive(Debug, Default)]
pub struct Servers(BTreeMap<String, Instant>);

impl Servers {
    /// More are not kept in mind.
    const AT_MOST: usize = 10_000;

    /// Takes note of those that answered.
    pub fn answered(&mut self, looked: &Looked, now: Instant) {
        for name in looked.answered.iter().filter(|name| !name.is_empty()) {
            if self.0.len() < Self::AT_MOST || self.0.contains_key(name) {
                self.0.insert(name.clone(), now);
            }
        }
    }

    /// Those that were there within that time, and are not now.
    fn gone<'a>(
        &'a self,
        looked: &'a Looked,
        within: Duration,
    ) -> impl Iterator<Item = String> + 'a {
        let gone = self
            .0
            .iter()
            .filter(move |(name, at)| at.elapsed() <= within && !looked.answered.contains(*name));
        gone.map(|(name, _)| name.clone()).filter(|name| !looked.missing.contains(name))
    }
}

/// What is known of the other instances.
pub struct Fellows<'a> {
    /// Whether one that lives said, signed, that it serves another policy.
    pub differ: bool,
    /// When one last said so, whether it lives or not.
    pub differed: Option<Instant>,
    /// Since when every word of them was heard.
    pub attentive: Instant,
    /// Those of which it is certain.
    pub certain: &'a BTreeSet<String>,
}

/// What has to happen next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Everything has to be looked at again, not before that time.
    Look(Instant),
    /// It is settled.
    Settled,
}

/// After what time nobody can have anything by an older policy, whoever could be asked: every
/// permission that was given by one has ended.
#[must_use]
pub fn ends_after(lease: Option<Duration>, lasts: Duration) -> Duration {
    grants_for(lease) + STALE + lasts + UNDER_WAY
}

/// How long an instance that is not heard may go on to grant: it notices after so much time that it
/// was stopped, and its last word may be as old as a beat.
fn grants_for(lease: Option<Duration>) -> Duration {
    lease.map_or(Duration::ZERO, |lease| lease + STALL + BEAT)
}

/// The policy in force on its way to being settled.
pub struct Handover {
    revision: String,
    forced: bool,
    /// Since when it is in force, before anything was looked at for it. Times are counted from here.
    since: Instant,
    /// How long a connection may last.
    lasts: Duration,
    /// How long an instance may grant without hearing from the policy's source.
    lease: Duration,
    transit: Transit<String>,
    carriers: BTreeMap<Carrier, usize>,
    missing: Vec<String>,
    /// What was told of what it waits for.
    told: String,
    /// Since when messages are sent through servers.
    barrier_since: Option<Instant>,
    /// The instances that were not heard, and why the lease has to pass.
    unheard: Vec<String>,
    why_lease: &'static str,
    /// When each service's last connection was found that had something to give away.
    had_until: BTreeMap<String, Instant>,
}

impl Handover {
    /// Begins. `lease` is that of the policy's source, `lasts` the longest lifetime of permissions.
    #[must_use]
    pub fn new(
        snapshot: &Snapshot,
        unsettled: &Unsettled,
        lease: Option<Duration>,
        lasts: Duration,
    ) -> Self {
        let lease = grants_for(lease);
        let forced = snapshot.origin().is_some_and(|origin| origin.forced);
        let times = Times {
            lease: millis(lease),
            stale: millis(STALE),
            lasts: millis(lasts + UNDER_WAY),
            settle: millis(SETTLE),
        };
        Self {
            revision: snapshot.policy.revision().whole().to_owned(),
            forced,
            since: unsettled.since,
            lasts,
            lease,
            transit: Transit::new(times, forced, 0),
            carriers: BTreeMap::new(),
            missing: Vec::new(),
            told: String::new(),
            barrier_since: None,
            unheard: Vec::new(),
            why_lease: "",
            had_until: BTreeMap::new(),
        }
    }

    /// Whether it is about that.
    #[must_use]
    pub fn is_of(&self, snapshot: &Snapshot, unsettled: &Unsettled) -> bool {
        self.revision == snapshot.policy.revision().whole()
            && self.since == unsettled.since
            && self.forced == snapshot.origin().is_some_and(|origin| origin.forced)
    }

    fn at(&self, instant: Instant) -> Time {
        millis(instant.saturating_duration_since(self.since))
    }

    /// Everything was looked at. Sends what has to be sent, and gives what is next.
    pub async fn looked(
        &mut self,
        (before, looked): (&Before, &Looked),
        seen: &Servers,
        fellows: &Fellows<'_>,
        barrier: &Barrier<'_>,
    ) -> Next {
        let now = Instant::now();
        let known = |id: &Option<String>| {
            id.as_ref().is_some_and(|instance| fellows.certain.contains(instance))
        };
        let unheard = before.answering.iter().filter(|id| !known(id));
        let unheard =
            unheard.map(|id| id.clone().unwrap_or_else(|| "one without a name".to_owned()));
        self.unheard = unheard.collect();
        let unseen = looked.servers.difference(&before.servers).count();
        let mut silent = looked.missing.clone();
        silent.extend(seen.gone(looked, self.lasts));
        let missing = silent.len() + unseen;
        // Who was not heard for so long may have spoken before, and be between two connections.
        let attentive = fellows.attentive.elapsed() >= self.lease;
        // What was said before has had its lease.
        let differed = fellows.differed.filter(|at| at.elapsed() < self.lease);
        self.why_lease = if !attentive {
            "for less than a lease, all servers were connected and this instance heard the others"
        } else if differed.is_some() {
            "an instance that is not heard any more served another policy"
        } else {
            "not every instance is heard"
        };
        let instances = match (fellows.differ, self.unheard.is_empty() && attentive) {
            (true, _) => Instances::Differ,
            (false, true) => Instances::AllServe,
            (false, false) => Instances::NotAllHeard,
        };
        self.transit.looked(Look {
            began: self.at(before.began),
            ended: self.at(now),
            instances,
            differed: differed.map(|at| self.at(at)),
            connected: looked.connected,
            servers: looked.servers.clone(),
            missing,
            carriers: looked.carriers.values().sum(),
            login_since: before.logins.iter().map(|(.., since)| self.at(*since)).min(),
        });
        self.carriers.clone_from(&looked.carriers);
        self.missing = silent;
        for (service, _) in looked.carriers.keys() {
            self.had_until.insert(service.clone(), now);
        }
        self.go_on(barrier).await
    }

    /// The logins that are waited for and take too long: their server may have asked an instance that
    /// does not answer. Who is closed asks again.
    #[must_use]
    pub fn stuck<'a>(&self, before: &'a Before) -> Vec<(&'a str, u64)> {
        if self.transit.holds() != Holds::Login {
            return Vec::new();
        }
        let stuck = before.logins.iter().filter(|(.., since)| since.elapsed() >= STUCK_AFTER);
        stuck.map(|(server, cid, _)| (server.as_str(), *cid)).collect()
    }

    /// What it waits for, in words, when that is something else than when this was last asked, and
    /// takes a while.
    pub fn news(&mut self) -> Option<String> {
        let waits_for = self.waits_for();
        let news = self.since.elapsed() >= TELL_AFTER && self.told != waits_for;
        news.then(|| {
            self.told.clone_from(&waits_for);
            waits_for
        })
    }

    async fn go_on(&mut self, barrier: &Barrier<'_>) -> Next {
        loop {
            match self.transit.next(self.at(Instant::now())) {
                Step::Settled => return Next::Settled,
                Step::Look => {
                    self.barrier_since = None;
                    return Next::Look(Instant::now() + self.pause());
                }
                Step::Wait(until) => {
                    let until = self.since + Duration::from_millis(until);
                    tokio::time::sleep_until(until.into()).await;
                }
                Step::Barrier(servers) => {
                    let (count, sent) = (servers.len(), self.at(Instant::now()));
                    let passed = barrier.send(&servers).await;
                    for server in &passed {
                        self.transit.passed(server, sent);
                    }
                    let since = *self.barrier_since.get_or_insert_with(Instant::now);
                    if passed.len() < count && since.elapsed() >= UNDER_WAY {
                        // Whatever was on its way by then has arrived, or never will.
                        tracing::warn!(
                            event = "handover_without_barrier",
                            servers = count - passed.len(),
                            "servers cannot be reached to have a message sent through them; list \
                             their addresses in [nats] servers",
                        );
                        for server in servers.difference(&passed) {
                            self.transit.passed(server, sent);
                        }
                    } else if passed.len() < count {
                        return Next::Look(Instant::now() + self.pause());
                    }
                }
            }
        }
    }

    /// Often at first, and when something was just closed.
    fn pause(&self) -> Duration {
        match self.transit.holds() {
            Holds::NotLooked | Holds::Connections(_) => SOONEST,
            _ => (self.since.elapsed() / 10).clamp(SOONEST, LATEST),
        }
    }

    /// For how long nobody could write what a service had, as far as it is known: since its last
    /// connection was found, or since the policy came into force.
    #[must_use]
    pub fn vacant(&self, from: Option<&str>) -> Duration {
        let had = from.and_then(|from| self.had_until.get(from));
        had.unwrap_or(&self.since).elapsed()
    }

    /// For how long it took.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whether it did not wait for servers that do not answer.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.forced
    }

    /// What it waits for, in words.
    #[must_use]
    pub fn waits_for(&self) -> String {
        let some = |count: usize, one: &str, more: &str| match count {
            1 => format!("1 {one}"),
            count => format!("{count} {more}"),
        };
        match self.transit.holds() {
            Holds::NotLooked => "the first look at every server".to_owned(),
            Holds::Instances => "an instance serves another policy".to_owned(),
            Holds::Lease => {
                let unheard = self.unheard.join(", ");
                let names = if unheard.is_empty() { unheard } else { format!(" ({unheard})") };
                format!("{}{names}; the lease has to pass", self.why_lease)
            }
            Holds::Servers(count) => {
                let names: Vec<&str> = self
                    .missing
                    .iter()
                    .map(String::as_str)
                    .filter(|name| !name.is_empty())
                    .collect();
                let servers = some(count, "server does", "servers do");
                if names.is_empty() {
                    format!("{servers} not answer")
                } else {
                    format!("{servers} not answer: {}", names.join(", "))
                }
            }
            Holds::Connections(_) => {
                let each = self.carriers.iter().take(NAMED).map(|((service, server), count)| {
                    let remain = some(*count, "connection", "connections");
                    format!("{remain} of {service} on server {server}")
                });
                format!("{} remain", each.collect::<Vec<_>>().join(", "))
            }
            Holds::Login => "a login from before is under way".to_owned(),
            Holds::Barrier(count) => {
                let servers = some(count, "server", "servers");
                format!("what was sent before may not have arrived yet, through {servers}")
            }
        }
    }
}

/// How many services and servers are named.
const NAMED: usize = 4;
