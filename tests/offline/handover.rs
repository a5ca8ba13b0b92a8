//! The handover of a right to write, in every order of events: `handover::transit` and
//! `handover::claims` as the service runs them, in a world of two instances and two servers.
//!
//! What the world leaves out, because it cannot help a second writer, is said where it does so.

use std::fmt::Write as _;
use std::time::Instant;

use solewriter_core::diagnostics::SourceFile;
use solewriter_core::handover::claims::Claims;
use solewriter_core::handover::transit::{Instances, Look, Step, Time, Times, Transit, has_lease};
use solewriter_core::policy::model::Policy;
use solewriter_core::policy::validate::validate;
use stateright::{Checker, HasDiscoveries, Model, Property};

/// An instance, and the server that it is connected to: a cut is between the two of them.
type Side = usize;
const SIDES: [Side; 2] = [0, 1];
/// What the policy source counts: 1 is what was there. 0 is no policy.
type Revision = u8;
/// A connection that does not end by itself.
const NO_END: Time = Time::MAX;
const UNKNOWN: u8 = 1;

/// A step of the protocol that is left out, or a rule of it that somebody breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    /// An instance grants at once what is in transit.
    Hold,
    /// An instance grants by what it has, however long ago it heard.
    Lease,
    /// A look finds no connections.
    Carriers,
    /// A look finds no logins.
    Logins,
    /// No message is sent through the servers.
    Barrier,
    /// Instances that were not heard are said to serve the policy.
    Words,
    /// A server that does not answer is not said to be missing.
    Missing,
    /// The third revision is compared with the first.
    Middle,
    /// An instance that missed a revision compares with what it had.
    Gap,
    /// What an instance said is forgotten when it is not connected.
    Remember,
    /// An instance says that all were heard right after its own start.
    Attentive,
    /// It says so right after its connection broke.
    Listens,
    /// It says so right after the servers were not connected with each other.
    Whole,
    /// The message goes through a server as soon as the connections are closed.
    Settle,
    /// The lease is waited for, and not for the servers that answer for the source without it.
    Stale,
    /// Servers that do not answer are waited for a bit less than their connections last.
    Lasts,
}

/// A world.
#[derive(Clone, Debug)]
struct World {
    name: &'static str,
    /// Who has the right by each revision.
    owners: &'static [char],
    times: Times,
    /// How long a server waits for the answer to a login.
    login: Time,
    /// How long a connection lasts from when it was granted.
    life: Time,
    /// When it ends.
    end: Time,
    cuts: u8,
    crashes: u8,
    breaks: u8,
    /// Whose connection breaks.
    breaking: &'static [Side],
    /// Whether time passes before the second revision. Only what is remembered from then matters.
    early: bool,
    /// Which instances look and settle.
    lookers: &'static [Side],
    without: Option<Without>,
    /// Whether something is in transit for an instance, by what it has seen.
    held: Vec<bool>,
}

/// What an instance knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Instance {
    connected: bool,
    revision: Revision,
    heard: Option<Time>,
    /// The revisions since the last one that it knows to be settled, as bits; or [`UNKNOWN`].
    seen: u8,
    transit: Option<Transit<Side>>,
    /// A look that has begun, and how many of its steps were made.
    looking: Option<(usize, Look<Side>)>,
    /// What the other one last said that it serves, and when, if it may still have a lease. Who did
    /// not run for a while said nothing, and had not heard of the source since. So this is when it
    /// said so and heard of the source. Only for who looks.
    word: (Revision, Option<Time>),
    /// Since when it listens, to a server that is connected with the other one, if that is not a
    /// lease ago. Only for who looks.
    listens: Option<Time>,
}

/// A look asks who is connected and for logins, then looks at one server after the other, and asks
/// again who is connected. What it asks first is one step with the first server: what happens in
/// between, that server shows. The last is one with the last server: what happens in between can
/// happen at the first one.
const STEPS: usize = SIDES.len();

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Sent {
    Write(Revision),
    Barrier { by: Side, sent: Time },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Login {
    by: Revision,
    since: Time,
}

/// A server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Server {
    /// By which revision a connection has the right, and until when.
    open: Vec<(Revision, Time)>,
    /// Closed in this moment, with something read that was not sent on.
    closed: Vec<Revision>,
    /// An answer that gives the right is on its way.
    login: Option<Login>,
    /// What is on its way to the stream, in order.
    pipe: Vec<Sent>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: Time,
    source: Revision,
    /// Since when the sides do not hear each other, and the source's revision then.
    cut: Option<(Time, Revision)>,
    cuts: u8,
    crashes: u8,
    breaks: u8,
    instances: [Instance; 2],
    servers: [Server; 2],
    /// What each said to be settled, as bits. Whoever hears may hear it late, or never.
    settled: [u8; 2],
    /// By which revisions something was stored, as bits.
    stored: u8,
    /// A write was stored of a service that had been followed by another one.
    double: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Serves,
    Differs,
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Tick,
    Push,
    Cut,
    Heal,
    Crash(Side),
    Break(Side),
    Connect(Side),
    /// The instance asks the source, and adopts what it hears.
    Ask(Side),
    /// It hears from the other one that its revision is settled.
    Hear(Side),
    /// It looks at the next server, and has this word of the instance there.
    See(Side, Heard),
    /// It sends a message through a server.
    Send(Side, Side),
    Settle(Side),
    /// It answers a login at a server: the service of its revision is given the right.
    Grant(Side, Side),
    /// The same, for who comes last: it writes at once.
    Last(Side, Side),
    /// The answer arrives.
    Accept(Side),
    /// A connection writes, and nothing is before it.
    Write(Side, Revision),
    Deliver(Side),
}

const fn bit(revision: Revision) -> u8 {
    1 << revision
}

fn policy(owner: char) -> Policy {
    let service = |name| {
        let owns = if name == owner { "owns = ['k']\n" } else { "" };
        format!("[service.{}]\n{owns}", char::to_lowercase(name))
    };
    let services: String = ['A', 'B', 'C'].map(service).concat();
    validate(&[SourceFile::new("p.toml", format!("[bucket.k]\n{services}"))]).unwrap().policy
}

impl World {
    fn owner(&self, revision: Revision) -> char {
        self.owners[usize::from(revision) - 1]
    }

    fn last(&self) -> Revision {
        u8::try_from(self.owners.len()).unwrap()
    }

    fn lacks(&self, step: Without) -> bool {
        self.without == Some(step)
    }

    /// What the claims say for each set of revisions that an instance may have seen.
    fn with_claims(mut self) -> Self {
        let policies: Vec<Policy> = self.owners.iter().map(|owner| policy(*owner)).collect();
        let held = |seen: u8| {
            let start = if seen & UNKNOWN == 0 { Claims::default() } else { Claims::unknown() };
            let all = (1..=self.last()).filter(|revision| seen & bit(*revision) != 0);
            let all: Vec<&Policy> = all.map(|one| &policies[usize::from(one) - 1]).collect();
            let claims = all.windows(2).fold(start, |claims, two| claims.next(two[0], two[1]));
            all.last().is_some_and(|last| !claims.in_transit(last).is_empty())
        };
        self.held = (0..bit(self.last() + 1)).map(held).collect();
        self
    }

    fn told_times(&self) -> Times {
        let mut times = self.times;
        match self.without {
            Some(Without::Settle) => times.settle = 0,
            Some(Without::Stale) => times.stale = 0,
            Some(Without::Lasts) => times.lasts -= 1,
            _ => {}
        }
        times
    }
}

impl State {
    fn reach(&self, one: Side, other: Side) -> bool {
        self.cut.is_none() || one == other
    }

    /// What the source says to an instance. It is on the first side; a server of the second one
    /// may not know yet that it is not.
    fn source(&self, world: &World, instance: Side) -> Option<Revision> {
        match self.cut {
            Some((since, had)) if instance == 1 => {
                (self.now < since + world.times.stale).then_some(had)
            }
            _ => Some(self.source),
        }
    }

    /// It asks so often that it has heard in this moment.
    fn heard(&self, world: &World, of: Side) -> Option<Time> {
        let instance = &self.instances[of];
        let fresh = instance.connected && self.source(world, of) == Some(instance.revision);
        if fresh { Some(self.now) } else { instance.heard }
    }

    /// What it says changes for somebody: until here, all had heard, and had said what they serve.
    fn all_heard(&mut self, world: &World) {
        for side in SIDES {
            let heard = self.heard(world, side);
            if heard == Some(self.now) {
                self.says(world, side);
            }
            self.instances[side].heard = heard;
        }
    }

    /// An instance says what it serves.
    fn says(&mut self, world: &World, by: Side) {
        let (other, revision) = (1 - by, self.instances[by].revision);
        let hears = world.lookers.contains(&other) && self.instances[other].connected;
        if hears && self.reach(by, other) {
            self.instances[other].word = (revision, Some(self.now));
        }
    }

    /// Whether an instance gives anybody the right.
    fn grants(&self, world: &World, by: Side) -> bool {
        let instance = &self.instances[by];
        let lease = world.lacks(Without::Lease)
            || has_lease(self.heard(world, by), world.times.lease, self.now);
        let held = world.held[usize::from(instance.seen)] && !world.lacks(Without::Hold);
        instance.connected && instance.revision > 0 && lease && !held
    }

    fn store(&mut self, world: &World, by: Revision) {
        let later = (by + 1..=world.last()).filter(|later| self.stored & bit(*later) != 0);
        self.double |= later.into_iter().any(|later| world.owner(later) != world.owner(by));
        self.stored |= bit(by);
    }

    /// A connection is closed. As it may write until then, it has just done so.
    fn close(&mut self, world: &World, at: Side, by: Revision) {
        let server = &mut self.servers[at];
        server.open.retain(|(revision, _)| *revision != by);
        if world.times.settle > 0 {
            server.closed.push(by);
            server.closed.sort_unstable();
            server.closed.dedup();
        } else {
            self.push(at, Sent::Write(by));
        }
    }

    fn push(&mut self, at: Side, sent: Sent) {
        let pipe = &mut self.servers[at].pipe;
        if pipe.last() != Some(&sent) {
            pipe.push(sent);
        }
    }

    /// What was first sent through a server arrives.
    fn deliver(&mut self, world: &World, at: Side, count: usize) {
        let pipe = &mut self.servers[at].pipe;
        let count = count.min(pipe.len());
        for sent in pipe.drain(..count).collect::<Vec<_>>() {
            match sent {
                Sent::Write(by) => self.store(world, by),
                Sent::Barrier { by, sent } => {
                    if let Some(transit) = &mut self.instances[by].transit {
                        transit.passed(&at, sent);
                    }
                }
            }
        }
    }

    fn adopt(&mut self, world: &World, by: Side, revision: Revision) {
        let now = self.now;
        let instance = &mut self.instances[by];
        instance.heard = Some(now);
        let before = instance.revision;
        if revision <= before {
            return;
        }
        instance.revision = revision;
        instance.looking = None;
        instance.seen |= bit(revision);
        if before == 0 || (revision > before + 1 && !world.lacks(Without::Gap)) {
            instance.seen |= UNKNOWN;
        }
        if revision == 3 && world.lacks(Without::Middle) {
            instance.seen = bit(1) | bit(3);
        }
        // The first one was settled before all this.
        if revision == 1 {
            instance.seen = bit(1);
        }
        let looks = revision > 1 && world.lookers.contains(&by);
        instance.transit = looks.then(|| Transit::new(world.told_times(), false, now));
        // Before it grants anything by it.
        self.says(world, by);
    }

    fn is_settled(&mut self, of: Side) {
        let instance = &mut self.instances[of];
        instance.seen = bit(instance.revision);
        (instance.transit, instance.looking) = (None, None);
    }

    /// What may be known of the other instance in a step of a look. In the first and in the last one,
    /// it is asked who is connected: there are no others.
    fn words(&self, world: &World, by: Side) -> Vec<Heard> {
        let other = &self.instances[1 - by];
        let listed = other.connected && self.reach(by, 1 - by);
        if !listed || world.lacks(Without::Words) {
            return vec![Heard::Serves];
        }
        let mut words = vec![Heard::Nothing];
        let revision = self.instances[by].revision;
        // It may have said so, and not yet what it serves now.
        if other.seen & bit(revision) != 0 {
            words.push(Heard::Serves);
        }
        if other.revision != revision && other.revision > 0 {
            words.push(Heard::Differs);
        }
        words
    }

    fn see(&mut self, world: &World, by: Side, word: Heard) {
        let (now, revision) = (self.now, self.instances[by].revision);
        let began = || Look {
            began: now,
            ended: now,
            instances: Instances::AllServe,
            differed: None,
            // There are two.
            connected: true,
            servers: SIDES.into(),
            missing: 0,
            carriers: 0,
            login_since: None,
        };
        let (step, mut look) = self.instances[by].looking.take().unwrap_or_else(|| (0, began()));
        look.instances = match (look.instances, word) {
            (Instances::Differ, _) | (_, Heard::Differs) => Instances::Differ,
            (so_far, Heard::Serves) => so_far,
            (_, Heard::Nothing) => Instances::NotAllHeard,
        };
        if word == Heard::Differs {
            look.differed = Some(now);
        }
        for at in SIDES {
            if !self.reach(by, at) {
                look.servers.remove(&at);
                continue;
            }
            if step == 0 && !world.lacks(Without::Logins) {
                let since = self.servers[at].login.as_ref().map(|login| login.since);
                look.login_since = look.login_since.into_iter().chain(since).min();
            }
            if step != at || world.lacks(Without::Carriers) {
                continue;
            }
            let older = |(one, _): &(Revision, Time)| {
                *one < revision && world.owner(*one) != world.owner(revision)
            };
            let more: Vec<Revision> =
                self.servers[at].open.iter().filter(|one| older(one)).map(|one| one.0).collect();
            look.carriers += more.len();
            for one in more {
                self.close(world, at, one);
            }
        }
        if step + 1 < STEPS {
            self.instances[by].looking = Some((step + 1, look));
            return;
        }
        look.ended = now;
        if !world.lacks(Without::Missing) {
            look.missing = SIDES.len() - look.servers.len();
        }
        let gone = !self.instances[1 - by].connected;
        let instance = &mut self.instances[by];
        let (said, at) = instance.word;
        let forgotten = world.lacks(Without::Words) || gone && world.lacks(Without::Remember);
        if said != revision && !forgotten {
            look.differed = look.differed.max(at);
        }
        if look.instances == Instances::AllServe && instance.listens.is_some() {
            look.instances = Instances::NotAllHeard;
        }
        if let Some(transit) = &mut instance.transit {
            transit.looked(look);
        }
    }

    fn tick(&mut self, world: &World) {
        self.now += 1;
        for at in SIDES {
            for by in std::mem::take(&mut self.servers[at].closed) {
                self.push(at, Sent::Write(by));
            }
            let server = &mut self.servers[at];
            if server.login.as_ref().is_some_and(|login| self.now >= login.since + world.login) {
                server.login = None;
            }
            let ended = server.open.iter().filter(|(_, until)| *until <= self.now);
            for by in ended.map(|(by, _)| *by).collect::<Vec<_>>() {
                self.close(world, at, by);
            }
        }
        for instance in &mut self.instances {
            let lately = |at: &Time| has_lease(Some(*at), world.times.lease, self.now);
            instance.heard = instance.heard.filter(lately);
            instance.word.1 = instance.word.1.filter(lately);
            instance.listens = instance.listens.filter(lately);
        }
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let instance = || Instance {
            connected: true,
            revision: 1,
            heard: Some(0),
            seen: bit(1),
            transit: None,
            looking: None,
            word: (1, None),
            listens: None,
        };
        let server = || Server { open: vec![(1, self.life)], ..Server::default() };
        vec![State {
            now: 0,
            source: 1,
            cut: None,
            cuts: self.cuts,
            crashes: self.crashes,
            breaks: self.breaks,
            instances: [instance(), instance()],
            servers: [server(), server()],
            settled: [0; 2],
            stored: 0,
            double: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.double {
            return;
        }
        // Where nobody can send a message through a server, what it sent arrives in time.
        let waits = self.cuts > 0 && state.servers.iter().any(|one| !one.pipe.is_empty());
        // Nothing happens before the second revision that could not happen in its first moment.
        if state.now < self.end && (state.source > 1 || self.early) && !waits {
            actions.push(Action::Tick);
        }
        if state.source < self.last() {
            actions.push(Action::Push);
        }
        match state.cut {
            None if state.cuts > 0 => actions.push(Action::Cut),
            None => {}
            Some(_) => actions.push(Action::Heal),
        }
        for by in SIDES {
            let instance = &state.instances[by];
            if !instance.connected {
                actions.push(Action::Connect(by));
                continue;
            }
            if state.crashes > 0 {
                actions.push(Action::Crash(by));
            }
            if state.breaks > 0 && self.breaking.contains(&by) {
                actions.push(Action::Break(by));
            }
            if state.source(self, by).is_some_and(|revision| revision > instance.revision) {
                actions.push(Action::Ask(by));
            }
            let other = 1 - by;
            let told = state.settled[other] & bit(instance.revision) != 0;
            if told && instance.seen != bit(instance.revision) && state.reach(by, other) {
                actions.push(Action::Hear(by));
            }
            if let Some(transit) = &instance.transit {
                let words = state.words(self, by);
                let next = transit.next(state.now);
                let see = |word| Action::See(by, word);
                match next {
                    Step::Settled => actions.push(Action::Settle(by)),
                    _ if instance.looking.is_some() => actions.extend(words.into_iter().map(see)),
                    Step::Look => actions.extend(words.into_iter().map(see)),
                    Step::Wait(_) => {}
                    Step::Barrier(through) => {
                        let sent = Sent::Barrier { by, sent: state.now };
                        for at in through {
                            if !state.reach(by, at) {
                                // It does not answer.
                                actions.extend(words.iter().copied().map(see));
                            } else if !state.servers[at].pipe.contains(&sent) {
                                actions.push(Action::Send(by, at));
                            }
                        }
                    }
                }
            }
            if !state.grants(self, by) {
                continue;
            }
            if instance.revision == self.last() {
                if state.stored & bit(instance.revision) == 0 {
                    let at = SIDES.into_iter().filter(|at| state.reach(by, *at));
                    actions.extend(at.map(|at| Action::Last(by, at)));
                }
                continue;
            }
            for at in SIDES {
                if state.reach(by, at) && state.servers[at].login.is_none() {
                    actions.push(Action::Grant(by, at));
                }
            }
        }
        for at in SIDES {
            let server = &state.servers[at];
            if server.login.is_some() {
                actions.push(Action::Accept(at));
            }
            // Writes that arrive sooner than they have to do not help anybody.
            let write = |sent: &Sent| matches!(sent, Sent::Write(_));
            let matters = self.cuts > 0 || state.stored > bit(1);
            if server.pipe.iter().any(|sent| matters || !write(sent)) {
                actions.push(Action::Deliver(at));
            }
            // Who wrote and was followed by nobody may write again without a difference.
            let new = |by: Revision| {
                state.stored & bit(by) == 0 && by > 1 || state.stored >> (by + 1) != 0
            };
            let open = server.open.iter().map(|(by, _)| *by).filter(|by| new(*by));
            actions.extend(open.map(|by| Action::Write(at, by)));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Tick => next.tick(self),
            Action::Push => {
                next.all_heard(self);
                next.source += 1;
            }
            Action::Cut => {
                next.all_heard(self);
                next.cut = Some((next.now, next.source));
                next.cuts -= 1;
            }
            Action::Heal => {
                next.all_heard(self);
                next.cut = None;
                // It was not told what was said on the other side.
                for looker in self.lookers.iter().filter(|_| !self.lacks(Without::Whole)) {
                    next.instances[*looker].listens = Some(state.now);
                }
            }
            Action::Crash(by) => {
                next.all_heard(self);
                next.crashes -= 1;
                next.instances[by] = Instance {
                    connected: false,
                    revision: 0,
                    heard: None,
                    seen: UNKNOWN,
                    transit: None,
                    looking: None,
                    word: (0, None),
                    listens: None,
                };
            }
            Action::Break(by) => {
                next.all_heard(self);
                next.breaks -= 1;
                next.instances[by].connected = false;
            }
            Action::Connect(by) => {
                let listens = Some(state.now).filter(|_| self.lookers.contains(&by));
                next.instances[by].connected = true;
                if state.instances[by].revision == 0 && !self.lacks(Without::Attentive)
                    || state.instances[by].revision > 0 && !self.lacks(Without::Listens)
                {
                    next.instances[by].listens = listens;
                }
            }
            Action::Ask(by) => {
                let revision = next.source(self, by)?;
                next.adopt(self, by, revision);
            }
            Action::Hear(by) => next.is_settled(by),
            Action::See(by, word) => next.see(self, by, word),
            Action::Send(by, at) => {
                if self.lacks(Without::Barrier) {
                    next.instances[by].transit.as_mut()?.passed(&at, state.now);
                } else {
                    next.push(at, Sent::Barrier { by, sent: state.now });
                }
            }
            Action::Settle(by) => {
                next.settled[by] |= bit(next.instances[by].revision);
                next.is_settled(by);
            }
            Action::Grant(by, at) => {
                let by = next.instances[by].revision;
                next.servers[at].login = Some(Login { by, since: state.now });
            }
            Action::Last(by, at) => {
                next.deliver(self, at, usize::MAX);
                next.store(self, next.instances[by].revision);
                // What was to be settled is.
                for instance in &mut next.instances {
                    (instance.transit, instance.looking) = (None, None);
                }
            }
            Action::Accept(at) => {
                let server = &mut next.servers[at];
                let Login { by, since } = server.login.take()?;
                let until = if self.life == NO_END { NO_END } else { since + self.life };
                server.open.retain(|(one, _)| *one != by);
                server.open.push((by, until));
                server.open.sort_unstable();
            }
            Action::Write(at, by) => {
                next.deliver(self, at, usize::MAX);
                next.store(self, by);
            }
            Action::Deliver(at) => next.deliver(self, at, 1),
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_WRITER, |_, state: &State| !state.double),
            Property::sometimes(MOVES, |world: &Self, state: &State| {
                state.stored & bit(world.last()) != 0
            }),
        ]
    }
}

const ONE_WRITER: &str = "one writer";
const MOVES: &str = "who is to write does";

const TIMES: Times = Times { lease: 2, stale: 0, lasts: 0, settle: 0 };

fn world(name: &'static str) -> World {
    World {
        name,
        owners: &['A', 'B'],
        times: TIMES,
        login: 2,
        life: NO_END,
        end: 5,
        cuts: 0,
        crashes: 0,
        breaks: 0,
        breaking: &SIDES,
        early: false,
        lookers: &[0],
        without: None,
        held: Vec::new(),
    }
}

fn worlds() -> Vec<World> {
    let back: &[char] = &['A', 'B', 'A'];
    let on: &[char] = &['A', 'B', 'C'];
    let quick = Times { lease: 1, ..TIMES };
    let short = World { times: quick, login: 1, end: 2, ..world("") };
    let cut = World {
        name: "a cut",
        times: Times { lasts: 2, ..TIMES },
        life: 2,
        login: 1,
        end: 5,
        cuts: 1,
        ..world("")
    };
    let behind = Times { stale: 2, lease: 1, ..cut.times };
    let shorter = Times { lasts: 1, lease: 1, ..TIMES };
    let brief = World { times: shorter, life: 1, end: 2, ..cut.clone() };
    vec![
        world("pauses"),
        World {
            name: "servers that take time to close",
            times: Times { settle: 1, ..TIMES },
            end: 6,
            ..world("")
        },
        World { name: "two look", lookers: &[0, 1], times: quick, login: 1, end: 2, ..world("") },
        World { crashes: 1, end: 3, ..world("a crash") },
        World { breaks: 1, end: 3, ..world("a break") },
        World {
            crashes: 1,
            breaks: 1,
            breaking: &[1],
            login: 1,
            end: 2,
            ..world("a crash and a break")
        },
        World { breaks: 2, early: true, login: 1, end: 3, ..world("two breaks") },
        cut.clone(),
        World { name: "a source that is behind", times: behind, ..cut.clone() },
        World { name: "a cut, seen from the other side", lookers: &[1], end: 4, ..cut.clone() },
        World { name: "two cuts", cuts: 2, times: behind, end: 3, ..cut.clone() },
        World { name: "a cut and a crash", crashes: 1, ..brief.clone() },
        World { name: "a cut and a break", breaks: 1, ..brief },
        World {
            name: "a source that is behind, and a break",
            times: Times { stale: 3, ..cut.times },
            life: NO_END,
            end: 3,
            breaks: 1,
            breaking: &[1],
            ..cut
        },
        World { name: "back", owners: back, ..short.clone() },
        World { name: "on to a third", owners: on, ..short },
    ]
}

/// What the checker finds: in words, after how many steps two write, and whether it moves.
fn check(world: World) -> (String, Option<usize>, bool) {
    let started = Instant::now();
    let (name, without) = (world.name, world.without);
    let finish = if without.is_some() { HasDiscoveries::AnyFailures } else { HasDiscoveries::All };
    let checker = world.with_claims().checker().threads(2).finish_when(finish).spawn_bfs().join();
    let (states, seconds) = (checker.unique_state_count(), started.elapsed().as_secs_f64());
    let of = without.map_or_else(String::new, |step| format!(" without {step:?}"));
    let mut said = format!("{name}{of}: {states} states, {seconds:.1} s");
    let steps = checker.discovery(ONE_WRITER).map(|path| {
        let actions = path.into_actions();
        let _ = write!(said, ", two write after {} steps: {actions:?}", actions.len());
        actions.len()
    });
    (said, steps, checker.discovery(MOVES).is_some())
}

#[test]
fn there_is_one_writer_at_every_moment() {
    let mut wrong = Vec::new();
    for world in worlds() {
        let (said, double, moves) = check(world);
        println!("{said}");
        if (double, moves) != (None, true) {
            wrong.push(said);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The model would see what the protocol is there for.
#[test]
fn without_any_step_there_are_two() {
    let needed = [
        (Without::Hold, "pauses"),
        (Without::Lease, "on to a third"),
        (Without::Carriers, "pauses"),
        (Without::Logins, "pauses"),
        (Without::Barrier, "pauses"),
        (Without::Words, "pauses"),
        (Without::Settle, "servers that take time to close"),
        (Without::Remember, "a break"),
        (Without::Attentive, "a crash and a break"),
        (Without::Listens, "two breaks"),
        (Without::Whole, "a source that is behind, and a break"),
        (Without::Missing, "a cut"),
        (Without::Lasts, "a cut"),
        (Without::Stale, "a source that is behind"),
        (Without::Middle, "back"),
        (Without::Gap, "back"),
    ];
    let mut unnoticed = Vec::new();
    for (step, name) in needed {
        let world = worlds().into_iter().find(|world| world.name == name).unwrap();
        let (said, double, _) = check(World { without: Some(step), ..world });
        println!("{said}");
        if double.is_none() {
            unnoticed.push(said);
        }
    }
    assert!(unnoticed.is_empty(), "{}", unnoticed.join("\n"));
}
