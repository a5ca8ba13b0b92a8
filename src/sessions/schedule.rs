//! When to look at the open connections again, and whom to leave alone for a moment. Time is an
//! argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use solewriter_core::keys::UserKey;

/// In whole milliseconds. What is for ever is far below what a sum of some of them could hold.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).map_or(MOST, |millis| millis.min(MOST))
}

const MOST: u64 = u64::MAX / 8;

/// The shortest pause between two sweeps.
const SHORTEST: Duration = Duration::from_millis(250);
/// The longest one while something is not settled.
const LONGEST: Duration = Duration::from_secs(5);
/// Nothing may have happened for so long before a sweep that finds nothing is the last: longer
/// than a request, decided by the policy before, can be on its way.
const SETTLED_AFTER: Duration = Duration::from_secs(3);
/// How often news of the others make looking quick again.
const HEAR: Duration = Duration::from_secs(2);
/// Looking takes at most this part of the time: one in so many.
const SHARE: u32 = 5;

/// What a sweep came to; by default, to nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// It closed something, or should have.
    pub found: bool,
    /// Every server told everything, and every instance serves the same policy.
    pub complete: bool,
    /// When it began, if it did.
    pub began: Option<Instant>,
    /// How long it took to look; closing is not counted, which is slow on purpose.
    pub cost: Duration,
    /// When to look again at the latest, if before the slow rhythm says.
    pub within: Option<Duration>,
}

/// At once after a change, quickly while anything is unsettled, slowly for ever.
#[derive(Debug)]
pub struct Rhythm {
    every: Duration,
    pause: Duration,
    unsettled: Instant,
    next: Instant,
    /// When the others last made it quick.
    heard: Option<Instant>,
}

impl Rhythm {
    /// A slow rhythm of `every`, which begins at once.
    #[must_use]
    pub fn new(every: Duration, now: Instant) -> Self {
        Self { every, pause: SHORTEST.min(every), unsettled: now, next: now, heard: None }
    }

    /// Something happened.
    pub fn stir(&mut self, now: Instant) {
        *self = Self { heard: self.heard, ..Self::new(self.every, now) };
    }

    /// Something is new among the other instances. News without end does not cause more sweeps.
    pub fn heard(&mut self, now: Instant) {
        if self.heard.is_none_or(|at| now.duration_since(at) > HEAR) {
            self.stir(now);
            self.heard = Some(now);
        }
    }

    /// Sweep next at that time, if it is before.
    pub fn sooner(&mut self, at: Instant) {
        self.next = self.next.min(at);
    }

    /// When to sweep next.
    #[must_use]
    pub fn next(&self) -> Instant {
        self.next
    }

    /// A sweep is over.
    pub fn swept(&mut self, outcome: Outcome, now: Instant) {
        let Outcome { found, complete, began, cost, within } = outcome;
        let rest = cost * (SHARE - 1);
        let every = within.map_or(self.every, |within| within.max(rest).min(self.every));
        if found || !complete {
            self.unsettled = now;
        }
        let settled = |began: Instant| began.saturating_duration_since(self.unsettled);
        if began.is_some_and(|began| settled(began) >= SETTLED_AFTER) {
            self.next = now + every;
            return;
        }
        if found {
            self.pause = SHORTEST.min(self.every);
        }
        self.next = now + self.pause.max(rest).min(every);
        self.pause = (self.pause * 3 / 2).min(LONGEST).min(self.every);
    }
}

/// Identities that were closed, and may be closed again only later. If an instance lags, a client
/// comes back with an old grant; it must not be closed again and again.
#[derive(Debug, Default)]
pub struct Patience {
    closed: HashMap<UserKey, Again>,
}

#[derive(Debug)]
struct Again {
    from: Instant,
    pause: Duration,
}

impl Patience {
    const FIRST: Duration = Duration::from_millis(500);
    const LAST: Duration = Duration::from_secs(30);
    /// After which an identity counts as well-behaved again.
    const FORGET: Duration = Duration::from_secs(60);

    /// Whether an identity may be closed.
    #[must_use]
    pub fn allows(&self, key: &UserKey, now: Instant) -> bool {
        self.closed.get(key).is_none_or(|again| now >= again.from)
    }

    /// Every connection of these identities that had to be closed was closed.
    pub fn closed(&mut self, keys: impl IntoIterator<Item = UserKey>, now: Instant) {
        self.closed.retain(|_, again| now < again.from + Self::FORGET);
        for key in keys {
            let pause = match self.closed.get(&key) {
                Some(again) => (again.pause * 2).min(Self::LAST),
                None => Self::FIRST,
            };
            self.closed.insert(key, Again { from: now + pause, pause });
        }
    }

    /// Another policy is in force: everybody may be closed.
    pub fn forget(&mut self) {
        self.closed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use solewriter_core::keys::{Seed, Signer, User};

    const CLEAN: (bool, bool) = (false, true);
    const FOUND: (bool, bool) = (true, true);
    const EVERY: Duration = Duration::from_secs(30);

    /// Sweeps that take 10 ms; gives the pauses before each.
    fn pauses(rhythm: &mut Rhythm, mut now: Instant, outcomes: &[(bool, bool)]) -> Vec<u128> {
        let cost = Duration::from_millis(10);
        outcomes
            .iter()
            .map(|(found, complete)| {
                let (pause, began) = (rhythm.next() - now, rhythm.next());
                now = began + cost;
                let (found, complete) = (*found, *complete);
                let began = Some(began);
                rhythm.swept(Outcome { found, complete, began, cost, within: None }, now);
                pause.as_millis()
            })
            .collect()
    }

    #[test]
    fn after_a_change_it_is_quick_until_nothing_was_found_for_a_while() {
        let now = Instant::now();
        let mut rhythm = Rhythm::new(EVERY, now);
        let pauses = pauses(&mut rhythm, now, &[CLEAN; 8]);
        assert_eq!(pauses, [0, 250, 375, 562, 843, 1265, 30_000, 30_000]);
    }

    #[test]
    fn what_is_found_makes_it_quick_again() {
        let now = Instant::now();
        let mut rhythm = Rhythm::new(EVERY, now);
        let found = [CLEAN, CLEAN, CLEAN, FOUND, CLEAN, CLEAN];
        assert_eq!(pauses(&mut rhythm, now, &found), [0, 250, 375, 562, 250, 375]);
    }

    #[test]
    fn it_never_settles_while_an_instance_lags_or_a_server_is_silent() {
        let now = Instant::now();
        let mut rhythm = Rhythm::new(EVERY, now);
        let pauses = pauses(&mut rhythm, now, &[(false, false); 40]);
        assert_eq!(pauses.last(), Some(&5000));
    }

    #[test]
    fn a_look_that_takes_long_is_followed_by_a_long_rest() {
        let now = Instant::now();
        let mut rhythm = Rhythm::new(EVERY, now);
        let looked = |cost: u64| {
            let cost = Duration::from_secs(cost);
            Outcome { found: true, complete: true, began: Some(now), cost, within: None }
        };
        let end = now + Duration::from_secs(60);
        rhythm.swept(looked(2), end);
        assert_eq!(rhythm.next() - end, Duration::from_secs(8), "closing for a minute is no cost");
        rhythm.swept(looked(100), end);
        assert_eq!(rhythm.next() - end, EVERY, "never longer than the slow rhythm");
    }

    #[test]
    fn it_looks_as_soon_as_somebody_has_to_be_found_but_not_all_the_time() {
        let now = Instant::now();
        let mut rhythm = Rhythm::new(EVERY, now);
        let looked = |within: u64, cost: u64| {
            let (within, cost) = (Some(Duration::from_secs(within)), Duration::from_millis(cost));
            Outcome { complete: true, began: Some(now + SETTLED_AFTER), within, cost, found: false }
        };
        let end = now + Duration::from_secs(60);
        for (within, cost, pause) in [(5, 10, 5000), (600, 10, 30_000), (1, 500, 2000)] {
            rhythm.swept(looked(within, cost), end);
            assert_eq!((rhythm.next() - end).as_millis(), pause, "{within} s, {cost} ms");
        }
    }

    #[test]
    fn news_without_end_make_it_no_quicker() {
        let now = Instant::now();
        let mut rhythm = Rhythm::new(EVERY, now);
        let settled =
            Outcome { complete: true, began: Some(now + SETTLED_AFTER), ..Outcome::default() };
        let mut stirred = 0;
        for tick in 0..200 {
            let now = now + Duration::from_millis(50) * tick;
            rhythm.swept(settled, now);
            let slow = rhythm.next();
            rhythm.heard(now);
            stirred += usize::from(rhythm.next() < slow);
        }
        assert_eq!(stirred, 5, "in 10 s");
    }

    #[test]
    fn where_nothing_can_be_looked_at_it_waits() {
        let now = Instant::now();
        let mut rhythm = Rhythm::new(EVERY, now);
        rhythm.swept(Outcome::default(), now);
        assert!(rhythm.next() > now);
    }

    #[test]
    fn who_comes_back_with_an_old_grant_is_closed_ever_less_often() {
        let key = *Signer::new(&Seed::<User>::generate()).unwrap().public();
        let other = *Signer::new(&Seed::<User>::generate()).unwrap().public();
        let mut now = Instant::now();
        let mut patience = Patience::default();
        assert!(patience.allows(&key, now));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            patience.closed([key], now);
            assert!(!patience.allows(&key, now));
            assert!(patience.allows(&other, now));
            let begin = now;
            while !patience.allows(&key, now) {
                now += Duration::from_millis(500);
            }
            pauses.push((now - begin).as_millis());
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        patience.closed([key], now);
        patience.forget();
        assert!(patience.allows(&key, now));
        patience.closed([key], now);
        patience.closed([other], now + Duration::from_secs(3600));
        assert_eq!(patience.closed.len(), 1, "who behaved for a while is forgotten");
    }
}
