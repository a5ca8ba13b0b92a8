//! When what was in transit is settled: nobody has it by an older policy any more, nobody will be
//! given it by one, and what they sent is behind whatever comes next.
//!
//! No I/O, and no clock: times are milliseconds on the clock of whoever looks, which goes on while
//! the process is stopped and is never set. Everything seen is an argument, so that a model checker
//! can run this against every order of events (`tests/offline/handover.rs`).
//!
//! In four steps, for each policy that comes into force:
//!
//! 1. **Quiet.** From some moment on no instance grants by an older policy. Either each one says
//!    that it serves this one, and nobody else is connected who could answer; or the lease has
//!    passed, within which every instance has to hear from the policy's source ([`has_lease`]).
//! 2. **Clean.** A look at every server, begun after that, finds no connection with an older grant
//!    that says more, and no login from before that is still under way.
//! 3. **Barrier.** A message through each server, behind whatever its connections had sent, was
//!    answered by each stream.
//! 4. **Settled.** Everybody may be told.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

/// Milliseconds.
pub type Time = u64;

/// Whether an instance may give anybody something to write: it has heard from the policy's source
/// within the lease. `heard` is when the newest question was asked that the source answered: what
/// it said may be as old.
#[must_use]
pub fn has_lease(heard: Option<Time>, lease: Time, now: Time) -> bool {
    heard.is_some_and(|heard| now.saturating_sub(heard) < lease)
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Times {
    /// Within which every instance has to hear from the policy's source.
    pub lease: Time,
    /// For how much longer a server that was cut off may answer for the source.
    pub stale: Time,
    /// How long a connection of a server that does not answer may last, and what it sent be on its
    /// way: the longest lifetime of permissions, and some.
    pub lasts: Time,
    /// How long a server that closed a connection goes on with what it had read of it, at most.
    pub settle: Time,
}

/// What a look says of the instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Instances {
    /// Everybody who could answer a server said that it serves this policy; and who looks has heard
    /// every word of the others for a lease before that: it ran, was connected, and so were all
    /// servers with each other.
    AllServe,
    /// One that lives serves another policy.
    Differ,
    /// Somebody may answer a server who was not heard.
    NotAllHeard,
}

/// One look at everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Look<S> {
    /// When it began.
    pub began: Time,
    /// When it ended.
    pub ended: Time,
    /// Who serves what.
    pub instances: Instances,
    /// When somebody said that it serves another policy, if that was its last word: within a lease at
    /// least.
    pub differed: Option<Time>,
    /// Whether all servers that answered are connected with each other: if not, one of them may not
    /// know that it leads no stream any more, and answer for the policy's source.
    pub connected: bool,
    /// The servers that told everything.
    pub servers: BTreeSet<S>,
    /// How many servers there should be that did not.
    pub missing: usize,
    /// How many connections have more than the policy gives them, by an older one.
    pub carriers: usize,
    /// Since when the oldest login has been under way that was found.
    pub login_since: Option<Time>,
}

/// What holds something in transit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holds {
    /// Nothing was looked at yet.
    NotLooked,
    /// An instance serves another policy.
    Instances,
    /// Not all instances were heard, and the lease has not passed.
    Lease,
    /// So many servers do not answer.
    Servers(usize),
    /// So many connections are open that have it.
    Connections(usize),
    /// A login from before is under way.
    Login,
    /// What was sent may not have arrived, through so many servers.
    Barrier(usize),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<S> {
    /// Look again.
    Look,
    /// Wait until then.
    Wait(Time),
    /// Send a message through each of these servers.
    Barrier(BTreeSet<S>),
    /// It is settled.
    Settled,
}

/// One policy's way to being settled, as one instance sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transit<S> {
    adopted: Time,
    forced: bool,
    times: Times,
    /// The last moment in which somebody may have granted by an older policy.
    quiet: Option<Time>,
    /// When the first look ended that found all servers connected with each other.
    joined: Option<Time>,
    /// When the last look ended, of those that found nothing.
    clean: Option<Time>,
    /// The servers through which a message has to pass.
    through: BTreeSet<S>,
    holds: Holds,
}

impl<S: Ord + Clone> Transit<S> {
    /// A policy came into force here, at that time. `forced`: its author says not to wait for
    /// servers that do not answer.
    #[must_use]
    pub fn new(times: Times, forced: bool, now: Time) -> Self {
        Self {
            adopted: now,
            forced,
            times,
            quiet: None,
            joined: None,
            clean: None,
            through: BTreeSet::new(),
            holds: Holds::NotLooked,
        }
    }

    /// Everything was looked at.
    pub fn looked(&mut self, look: Look<S>) {
        let Times { lease, stale, lasts, .. } = self.times;
        let Look { began, ended, instances, servers, missing, carriers, .. } = look;
        let login_since = look.login_since;
        let before = self.quiet;
        // Behind a server that does not answer, instances may go on, and it may answer for the
        // source.
        let silent = missing > 0 && !self.forced;
        if !silent && look.connected {
            self.joined = self.joined.or(Some(ended));
        }
        // A server that was cut off until then may have answered for the source until then, and who
        // serves another policy may have heard from its source until it was last heard.
        let apart = self.adopted + stale;
        let last = self.joined.map_or(apart, |joined| joined.min(apart));
        let passed = lease + last.max(look.differed.unwrap_or(0));
        let words = look.differed.is_none_or(|differed| ended >= differed + lease);
        self.quiet = match instances {
            // It may be given more time by its source.
            Instances::Differ => None,
            // Whoever comes later asks the source first, which has this policy.
            Instances::AllServe if !silent && words => before.or(Some(ended)),
            _ => before.or((ended >= passed).then_some(passed.saturating_sub(1))),
        };
        // By then, servers that were cut off have closed what they had.
        let gone = ended >= self.adopted + lease + stale + lasts;
        self.holds = match (instances, self.quiet) {
            (Instances::Differ, _) => Holds::Instances,
            _ if silent && !gone => Holds::Servers(missing),
            (_, None) => Holds::Lease,
            _ if carriers > 0 => Holds::Connections(carriers),
            // A connection may have come after it was told of its server: in the same millisecond, too.
            (_, Some(quiet)) if began <= quiet => Holds::NotLooked,
            (_, Some(quiet)) if login_since.is_some_and(|since| since <= quiet) => Holds::Login,
            _ => Holds::Barrier(servers.len()),
        };
        match self.holds {
            Holds::Barrier(_) if self.clean.is_some() => {
                self.holds = Holds::Barrier(self.through.len());
            }
            Holds::Barrier(_) => {
                self.clean = Some(ended);
                self.through = servers;
            }
            _ => {
                self.clean = None;
                self.through.clear();
            }
        }
    }

    /// A message was sent at `sent` through a server, and every stream has answered it.
    pub fn passed(&mut self, server: &S, sent: Time) {
        if self.clean.is_some_and(|clean| sent >= clean + self.times.settle) {
            self.through.remove(server);
            self.holds = Holds::Barrier(self.through.len());
        }
    }

    /// What to do next.
    #[must_use]
    pub fn next(&self, now: Time) -> Step<S> {
        let settle = self.times.settle;
        match self.clean {
            None => Step::Look,
            Some(_) if self.through.is_empty() => Step::Settled,
            Some(clean) if now < clean + settle => Step::Wait(clean + settle),
            Some(_) => Step::Barrier(self.through.clone()),
        }
    }

    /// What it waits for.
    #[must_use]
    pub fn holds(&self) -> Holds {
        self.holds
    }
}

impl<S: Hash> Hash for Transit<S> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { adopted, forced, times, quiet, joined, clean, through, holds: _ } = self;
        // What it waits for is only told: a model checker need not tell apart what differs in it.
        (adopted, forced, times, quiet, joined, clean, through).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { lease: 5_000, stale: 20_000, lasts: 60_000, settle: 50 };

    fn look(began: Time) -> Look<u8> {
        Look {
            began,
            ended: began + 10,
            instances: Instances::AllServe,
            differed: None,
            connected: true,
            servers: BTreeSet::from([1, 2]),
            missing: 0,
            carriers: 0,
            login_since: None,
        }
    }

    fn begun() -> Transit<u8> {
        Transit::new(TIMES, false, 1_000)
    }

    #[test]
    fn the_quickest_way() {
        let mut transit = begun();
        assert_eq!((transit.next(1_000), transit.holds()), (Step::Look, Holds::NotLooked));
        transit.looked(look(1_005));
        assert_eq!(transit.next(1_015), Step::Look, "who was heard meanwhile");
        transit.looked(Look { ended: 1_015, ..look(1_015) });
        assert_eq!(transit.holds(), Holds::NotLooked, "the first one may not have ended yet");
        transit.looked(Look { carriers: 3, ..look(1_016) });
        assert_eq!((transit.next(1_030), transit.holds()), (Step::Look, Holds::Connections(3)));
        transit.looked(look(1_040));
        assert_eq!((transit.next(1_060), transit.holds()), (Step::Wait(1_100), Holds::Barrier(2)));
        assert_eq!(transit.next(1_100), Step::Barrier(BTreeSet::from([1, 2])));
        transit.passed(&1, 1_100);
        transit.passed(&2, 1_099);
        assert_eq!(transit.next(1_110), Step::Barrier(BTreeSet::from([2])), "sent too early");
        transit.passed(&2, 1_110);
        assert_eq!(transit.next(1_120), Step::Settled);
    }

    #[test]
    fn who_was_not_heard_is_waited_for_as_long_as_its_lease_may_be() {
        for (connected, until) in [(true, 6_500), (false, 26_000)] {
            let mut transit = begun();
            let instances = Instances::NotAllHeard;
            let look = |began| Look { instances, connected, ..look(began) };
            // Until then, a server that was cut off may have answered for the source.
            transit.looked(look(1_490));
            transit.looked(look(until - 11));
            assert_eq!((transit.next(until), transit.holds()), (Step::Look, Holds::Lease));
            transit.looked(look(until - 5));
            assert_eq!(transit.next(until + 5), Step::Look, "it began before");
            transit.looked(look(until));
            assert_eq!(transit.next(until + 60), Step::Barrier(BTreeSet::from([1, 2])));
        }
    }

    #[test]
    fn who_serves_another_policy_is_waited_for_without_end() {
        let mut transit = begun();
        for at in [2_000, 10_000, 500_000] {
            transit.looked(Look { instances: Instances::Differ, ..look(at) });
            assert_eq!((transit.next(at + 100), transit.holds()), (Step::Look, Holds::Instances));
        }
        // Also when it comes back after all were heard, and even after a clean look.
        transit.looked(look(600_000));
        transit.looked(look(600_020));
        assert_ne!(transit.next(600_030), Step::Look);
        transit.looked(Look { instances: Instances::Differ, ..look(600_040) });
        transit.passed(&1, 600_200);
        transit.passed(&2, 600_200);
        assert_eq!(transit.next(600_300), Step::Look);
        transit.looked(look(600_400));
        assert_eq!(transit.next(600_500), Step::Look, "from the beginning");
    }

    #[test]
    fn a_server_that_does_not_answer_is_waited_for_while_its_connections_may_last() {
        let end = 1_000 + 5_000 + 20_000 + 60_000;
        let mut transit = begun();
        let silent = |began| Look { missing: 1, ..look(began) };
        for at in [2_000, 10_000, end - 11] {
            transit.looked(silent(at));
            assert_eq!((transit.next(at + 100), transit.holds()), (Step::Look, Holds::Servers(1)));
        }
        transit.looked(silent(end));
        assert_eq!(transit.next(end + 60), Step::Barrier(BTreeSet::from([1, 2])));
        // Who is behind it was not heard, whatever all others say.
        let mut transit = begun();
        transit.looked(silent(2_000));
        let instances = Instances::NotAllHeard;
        for at in [3_000, 6_100, 25_989] {
            transit.looked(Look { instances, missing: 1, ..look(at) });
        }
        assert_eq!(transit.quiet, None, "it may have answered for the source");
        // Its author may say that nobody is there.
        let mut forced = Transit::new(TIMES, true, 1_000);
        forced.looked(silent(1_100));
        forced.looked(silent(1_200));
        assert_eq!(forced.next(1_300), Step::Barrier(BTreeSet::from([1, 2])));
        // And not more: what is open there is closed first.
        forced.looked(Look { carriers: 1, ..silent(1_400) });
        assert_eq!(forced.holds(), Holds::Connections(1));
    }

    #[test]
    fn a_login_from_before_is_waited_for() {
        let mut transit = begun();
        transit.looked(look(1_500));
        transit.looked(Look { login_since: Some(1_510), ..look(2_000) });
        assert_eq!((transit.next(2_100), transit.holds()), (Step::Look, Holds::Login));
        transit.looked(Look { login_since: Some(1_511), ..look(3_000) });
        assert_eq!(transit.next(3_100), Step::Barrier(BTreeSet::from([1, 2])), "it came after");
    }

    #[test]
    fn who_served_another_policy_and_fell_silent_is_waited_for_as_long_as_its_lease_may_be() {
        for instances in [Instances::AllServe, Instances::NotAllHeard] {
            let mut transit = begun();
            let differed = Some(3_000);
            transit.looked(Look { instances: Instances::Differ, differed, ..look(3_010) });
            assert_eq!(transit.holds(), Holds::Instances);
            for at in [6_200, 7_900] {
                transit.looked(Look { instances, differed, ..look(at) });
                assert_eq!((transit.next(at + 20), transit.holds()), (Step::Look, Holds::Lease));
            }
            for at in [8_000, 8_020] {
                transit.looked(Look { instances, differed, ..look(at) });
            }
            assert_eq!(transit.next(8_200), Step::Barrier(BTreeSet::from([1, 2])), "{instances:?}");
        }
    }

    #[test]
    fn one_look_within_a_millisecond_is_not_two() {
        let mut transit = begun();
        transit.looked(Look { ended: 1_005, ..look(1_005) });
        assert_eq!((transit.next(1_005), transit.holds()), (Step::Look, Holds::NotLooked));
    }

    #[test]
    fn a_lease_counts_from_when_the_question_was_asked() {
        assert!(!has_lease(None, 100, 0));
        assert!(has_lease(Some(50), 100, 149));
        assert!(!has_lease(Some(50), 100, 150));
        assert!(has_lease(Some(50), 100, 20), "the clock is never set, so this cannot be");
    }
}
