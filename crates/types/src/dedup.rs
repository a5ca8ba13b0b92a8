//! Repeats, folded: the first violation of a kind is told at once, those that follow within a
//! window are counted and told together when it ends. The counts of all that is told add up to
//! the number of violations.
//!
//! A window is measured by the times in the log, so that a follower that has fallen behind folds
//! as one that has not.
//!
//! What is told is numbered here, from 1 and without a gap, because the repeats refer to the first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// The most folds that are open at a time.
pub const MAX_FOLDS: usize = 4096;
/// The most bytes that their subjects and names may have together.
pub const MAX_BYTES: usize = 8 * 1024 * 1024;

/// What may repeat.
pub trait Same {
    /// Equal for what counts as the same.
    fn key(&self) -> String;
}

/// What is to be told: one violation, or the repeats of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told<R> {
    /// The first, or the last of the repeats.
    pub refusal: R,
    /// Its number.
    pub number: u64,
    /// How many violations this stands for.
    pub count: u64,
    /// When the first of them was.
    pub first: Timestamp,
    /// When the last of them was.
    pub last: Timestamp,
    /// For repeats, the number under which the first was told.
    pub repeats: Option<u64>,
}

/// The repeats of one violation, not told yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fold<R> {
    number: u64,
    /// When the first was, by the log.
    first: Timestamp,
    /// When it was read.
    opened: Timestamp,
    repeats: u64,
    /// When the first of the repeats was.
    again: Timestamp,
    last: Timestamp,
    refusal: R,
}

/// The folds that are open.
#[derive(Debug)]
pub struct Dedup<R> {
    window: SignedDuration,
    capacity: usize,
    open: HashMap<Arc<str>, (u64, Fold<R>)>,
    /// In the order of opening.
    order: BTreeMap<u64, Arc<str>>,
    opened: u64,
    bytes: usize,
    next: u64,
}

impl<R: Same + Clone> Dedup<R> {
    /// None open. A window of zero folds nothing.
    #[must_use]
    pub fn new(window: SignedDuration, capacity: usize) -> Self {
        Self {
            window,
            capacity: capacity.max(1),
            open: HashMap::new(),
            order: BTreeMap::new(),
            opened: 0,
            bytes: 0,
            next: 1,
        }
    }

    /// The number of the next thing that is told.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes a number, for something that is no violation.
    pub fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// Opens again what was saved.
    pub fn restore(&mut self, next: u64, saved: Vec<Fold<R>>) {
        self.next = next;
        for fold in saved {
            self.insert(fold.refusal.key().into(), fold);
        }
    }

    /// What is open, in the order of opening, for saving.
    #[must_use]
    pub fn saved(&self) -> Vec<Fold<R>> {
        let folds = self.order.values().filter_map(|key| self.open.get(key));
        folds.map(|(_, fold)| fold.clone()).collect()
    }

    /// Takes a violation up, and gives what is to be told now. `time` is when it happened, by the
    /// log; `now` is when it was read.
    pub fn take(&mut self, refusal: R, time: Timestamp, now: Timestamp, told: &mut Vec<Told<R>>) {
        while let Some(key) = self.order.values().next() {
            // Whoever was opened first ends first, unless the server's clock was set.
            let over = self.open.get(key).is_none_or(|(_, fold)| self.is_over(fold.first, time));
            if !over {
                break;
            }
            told.extend(self.close_oldest());
        }
        let key: Arc<str> = refusal.key().into();
        if let Some((_, fold)) = self.open.get_mut(&key) {
            if time.duration_since(fold.first) < self.window {
                if fold.repeats == 0 {
                    fold.again = time;
                }
                fold.repeats += 1;
                fold.last = time;
                fold.refusal = refusal;
                return;
            }
            told.extend(self.close(&key));
        }
        let number = self.number();
        told.push(Told {
            refusal: refusal.clone(),
            number,
            count: 1,
            first: time,
            last: time,
            repeats: None,
        });
        if self.window.is_zero() {
            return;
        }
        while self.open.len() >= self.capacity || self.bytes > MAX_BYTES {
            told.extend(self.close_oldest());
        }
        let fold =
            Fold { number, first: time, opened: now, repeats: 0, again: time, last: time, refusal };
        self.insert(key, fold);
    }

    /// Ends the folds whose window has passed, once everything that was written has been read:
    /// what is written from now on is later than any line of theirs could be.
    pub fn end_passed(&mut self, now: Timestamp, told: &mut Vec<Told<R>>) {
        while let Some(key) = self.order.values().next() {
            let passed = self.open.get(key).is_none_or(|(_, fold)| self.is_over(fold.opened, now));
            if !passed {
                break;
            }
            told.extend(self.close_oldest());
        }
    }

    /// Ends all.
    pub fn end_all(&mut self, told: &mut Vec<Told<R>>) {
        while !self.order.is_empty() {
            told.extend(self.close_oldest());
        }
    }

    /// How many violations are counted and not told yet.
    #[must_use]
    pub fn untold(&self) -> u64 {
        self.open.values().map(|(_, fold)| fold.repeats).sum()
    }

    fn is_over(&self, since: Timestamp, time: Timestamp) -> bool {
        time.duration_since(since) >= self.window
    }

    fn insert(&mut self, key: Arc<str>, fold: Fold<R>) {
        self.opened += 1;
        self.bytes += key.len();
        self.order.insert(self.opened, key.clone());
        if let Some((number, _)) = self.open.insert(key, (self.opened, fold)) {
            self.order.remove(&number);
        }
    }

    fn close_oldest(&mut self) -> Option<Told<R>> {
        let (_, key) = self.order.pop_first()?;
        self.close(&key)
    }

    fn close(&mut self, key: &Arc<str>) -> Option<Told<R>> {
        let (number, fold) = self.open.remove(key)?;
        self.order.remove(&number);
        self.bytes = self.bytes.saturating_sub(key.len());
        let Fold { number: first, repeats, again, last, refusal, .. } = fold;
        (repeats > 0).then(|| Told {
            refusal,
            number: self.number(),
            count: repeats,
            first: again,
            last,
            repeats: Some(first),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// User and subject.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Refusal(String);

    impl Same for Refusal {
        fn key(&self) -> String {
            self.0.clone()
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn refusal(user: &str, subject: &str) -> Refusal {
        Refusal(format!("{user}{subject}"))
    }

    fn folds(capacity: usize) -> Dedup<Refusal> {
        Dedup::new(SignedDuration::from_secs(10), capacity)
    }

    type Brief = (u64, String, u64, Option<u64>);

    /// Number, user and subject, count, and the number of the first.
    fn brief(told: Vec<Told<Refusal>>) -> Vec<Brief> {
        let brief = |t: Told<Refusal>| {
            let what = t.refusal.0;
            (t.number, what, t.count, t.repeats)
        };
        told.into_iter().map(brief).collect()
    }

    fn run(folds: &mut Dedup<Refusal>, lines: &[(&str, &str, i64)]) -> Vec<Brief> {
        let mut told = Vec::new();
        for (user, subject, second) in lines {
            folds.take(refusal(user, subject), at(*second), at(*second), &mut told);
        }
        brief(told)
    }

    fn expect(told: &[(u64, &str, u64, Option<u64>)]) -> Vec<Brief> {
        told.iter()
            .map(|(n, what, count, first)| (*n, (*what).to_owned(), *count, *first))
            .collect()
    }

    #[test]
    fn the_first_is_told_at_once_and_the_repeats_when_the_window_ends() {
        let mut folds = folds(9);
        let told = run(&mut folds, &[0, 1, 9, 10, 11].map(|second| ("a", "s", second)));
        let expected = [(1, "as", 1, None), (2, "as", 2, Some(1)), (3, "as", 1, None)];
        assert_eq!(told, expect(&expected));
        assert_eq!(folds.untold(), 1);
        let mut last = Vec::new();
        folds.end_passed(at(19), &mut last);
        assert_eq!(last, []);
        folds.end_passed(at(20), &mut last);
        assert_eq!((last[0].count, last[0].first, last[0].last), (1, at(11), at(11)));
        assert_eq!(brief(last), expect(&[(4, "as", 1, Some(3))]));
        assert_eq!(folds.untold(), 0);
    }

    #[test]
    fn a_violation_without_repeats_is_told_once() {
        let mut folds = folds(9);
        assert_eq!(run(&mut folds, &[("a", "s", 0)]), expect(&[(1, "as", 1, None)]));
        let mut told = Vec::new();
        folds.end_all(&mut told);
        assert_eq!(told, []);
    }

    #[test]
    fn another_user_or_subject_is_another_violation() {
        let mut folds = folds(9);
        let told = run(&mut folds, &[("a", "s", 0), ("b", "s", 0), ("a", "t", 0)]);
        let expected = [(1, "as", 1, None), (2, "bs", 1, None), (3, "at", 1, None)];
        assert_eq!(told, expect(&expected));
    }

    #[test]
    fn a_full_table_tells_its_oldest_and_loses_nothing() {
        let mut folds = folds(2);
        let lines = [("a", "s", 0), ("a", "s", 1), ("b", "s", 2), ("c", "s", 3), ("a", "s", 4)];
        let told = run(&mut folds, &lines);
        let first = |number, what| (number, what, 1, None);
        let again = (4, "as", 1, Some(1));
        let expected = [first(1, "as"), first(2, "bs"), first(3, "cs"), again, first(5, "as")];
        assert_eq!(told, expect(&expected));
    }

    proptest::proptest! {
        /// However small the table and however the log is cut, all violations are accounted for;
        /// and what is saved and read again goes on as if nothing had happened.
        #[test]
        fn counts_add_up_and_a_restart_changes_nothing(
            lines in proptest::collection::vec((0usize..4, 0usize..3, 0i64..6), 0..60),
            capacity in 1usize..5,
            cut in 0usize..60,
        ) {
            let mut second = 0;
            let names = ["a", "b", "c", "d"];
            let lines: Vec<(&str, &str, i64)> = lines.into_iter().map(|(user, subject, step)| {
                second += step;
                (names[user], names[subject], second)
            }).collect();
            let total = lines.len() as u64;
            let (mut one, mut other) = (folds(capacity), folds(capacity));
            let mut whole = run(&mut one, &lines);
            let (before, after) = lines.split_at(cut.min(lines.len()));
            let mut parts = run(&mut other, before);
            let saved = serde_json::to_string(&other.saved()).unwrap();
            let mut again = folds(capacity);
            again.restore(other.next(), serde_json::from_str(&saved).unwrap());
            parts.extend(run(&mut again, after));
            for (folds, told) in [(&mut one, &mut whole), (&mut again, &mut parts)] {
                let mut rest = Vec::new();
                folds.end_all(&mut rest);
                told.extend(brief(rest));
                assert_eq!(told.iter().map(|(_, _, count, _)| count).sum::<u64>(), total);
            }
            assert_eq!(whole, parts);
        }
    }
}
