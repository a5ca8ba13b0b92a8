//! Repeats, folded: the first violation of a kind is told at once, those that follow within a
//! window are counted and told together when it ends. The counts of all that is told add up to
//! the number of violations.
//!
//! A window is measured by the times in the log. So which lines fall into one fold follows from
//! the log alone, and reading some lines a second time (after a crash) tells the same again, under
//! the same ids.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::line::Refusal;
use crate::operation::Act;

/// The most folds that are open at a time.
pub const MAX_FOLDS: usize = 4096;
/// The most bytes that their subjects and names may have together.
pub const MAX_BYTES: usize = 8 * 1024 * 1024;

/// One violation, with its time and the id of its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What the line said.
    pub refusal: Refusal,
    /// When.
    pub time: Timestamp,
    /// Follows from the line: the same line has the same id.
    pub id: String,
}

/// What is to be told: one violation, or the repeats of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Of the first, or the last of the repeats.
    pub refusal: Refusal,
    /// Names what is told, always the same for the same lines.
    pub id: String,
    /// How many violations this stands for.
    pub count: u64,
    /// When the first of them was.
    pub first: Timestamp,
    /// When the last of them was.
    pub last: Timestamp,
    /// For repeats, the id under which the first was told.
    pub repeats: Option<String>,
}

/// What makes two violations the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    /// The user; without one, the address and number of the connection.
    who: String,
    act: Act,
    subject: String,
    queue: Option<String>,
}

impl Key {
    fn of(refusal: &Refusal) -> Self {
        let who = match (&refusal.account, &refusal.user) {
            (Some(account), Some(user)) => format!("{account}/{user}"),
            (None, Some(user)) => user.clone(),
            (_, None) => format!("{} {}", refusal.address, refusal.connection),
        };
        Self {
            who,
            act: refusal.act,
            subject: refusal.subject.clone(),
            queue: refusal.queue.clone(),
        }
    }

    fn bytes(&self) -> usize {
        self.who.len() + self.subject.len() + self.queue.as_ref().map_or(0, String::len)
    }
}

/// The repeats of one violation, not told yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fold {
    id: String,
    /// When the first was, by the log.
    first: Timestamp,
    /// When it was read.
    opened: Timestamp,
    repeats: u64,
    /// When the first of the repeats was.
    again: Timestamp,
    last: Timestamp,
    refusal: Refusal,
}

impl Fold {
    fn told(self) -> Option<Told> {
        let Self { id, repeats, again, last, refusal, .. } = self;
        (repeats > 0).then(|| Told {
            refusal,
            // With the count, so that what was told early (at a stop) and what would have been
            // told in full are two things to whoever drops duplicates.
            id: format!("{id}-{repeats}"),
            count: repeats,
            first: again,
            last,
            repeats: Some(id),
        })
    }
}

/// The folds that are open.
#[derive(Debug)]
pub struct Folds {
    window: SignedDuration,
    capacity: usize,
    open: HashMap<Key, (u64, Fold)>,
    /// In the order of opening.
    order: BTreeMap<u64, Key>,
    opened: u64,
    bytes: usize,
}

impl Folds {
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
        }
    }

    /// Opens again what was saved.
    pub fn restore(&mut self, saved: Vec<Fold>) {
        for fold in saved {
            self.insert(Key::of(&fold.refusal), fold);
        }
    }

    /// What is open, in the order of opening, for saving.
    #[must_use]
    pub fn saved(&self) -> Vec<Fold> {
        let folds = self.order.values().filter_map(|key| self.open.get(key));
        folds.map(|(_, fold)| fold.clone()).collect()
    }

    /// Takes a violation up, and gives what is to be told now. `now` is the time of reading.
    pub fn take(&mut self, seen: Seen, now: Timestamp, told: &mut Vec<Told>) {
        let Seen { refusal, time, id } = seen;
        while let Some(key) = self.order.values().next() {
            // Whoever was opened first ends first, unless the server's clock was set.
            let over = self.open.get(key).is_none_or(|(_, fold)| self.is_over(fold.first, time));
            if !over {
                break;
            }
            told.extend(self.close_oldest());
        }
        let key = Key::of(&refusal);
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
        told.push(Told {
            refusal: refusal.clone(),
            id: id.clone(),
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
            Fold { id, first: time, opened: now, repeats: 0, again: time, last: time, refusal };
        self.insert(key, fold);
    }

    /// Ends the folds whose window has passed, once everything that was written has been read:
    /// what is written from now on is later than any line of theirs could be.
    pub fn end_passed(&mut self, now: Timestamp, told: &mut Vec<Told>) {
        while let Some(key) = self.order.values().next() {
            let passed = self.open.get(key).is_none_or(|(_, fold)| self.is_over(fold.opened, now));
            if !passed {
                break;
            }
            told.extend(self.close_oldest());
        }
    }

    /// Ends all.
    pub fn end_all(&mut self, told: &mut Vec<Told>) {
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

    fn insert(&mut self, key: Key, fold: Fold) {
        self.opened += 1;
        self.bytes += key.bytes();
        self.order.insert(self.opened, key.clone());
        if let Some((number, _)) = self.open.insert(key, (self.opened, fold)) {
            self.order.remove(&number);
        }
    }

    fn close_oldest(&mut self) -> Option<Told> {
        let (_, key) = self.order.pop_first()?;
        self.close(&key)
    }

    fn close(&mut self, key: &Key) -> Option<Told> {
        let (number, fold) = self.open.remove(key)?;
        self.order.remove(&number);
        self.bytes = self.bytes.saturating_sub(key.bytes());
        fold.told()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::violations::line::Kind;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn seen(user: &str, subject: &str, second: i64) -> Seen {
        let refusal = Refusal {
            at: None,
            connection: 1,
            kind: Kind::Cid,
            address: "h:1".to_owned(),
            client: None,
            account: None,
            user: Some(user.to_owned()),
            act: Act::Publish,
            subject: subject.to_owned(),
            queue: None,
        };
        Seen { refusal, time: at(second), id: format!("{user}{subject}{second}") }
    }

    fn folds(capacity: usize) -> Folds {
        Folds::new(SignedDuration::from_secs(10), capacity)
    }

    fn run(folds: &mut Folds, seen: Vec<Seen>) -> Vec<(String, u64)> {
        let mut told = Vec::new();
        for seen in seen {
            let now = seen.time;
            folds.take(seen, now, &mut told);
        }
        told.into_iter().map(|t| (t.id, t.count)).collect()
    }

    fn expect(told: &[(&str, u64)]) -> Vec<(String, u64)> {
        told.iter().map(|(id, count)| ((*id).to_owned(), *count)).collect()
    }

    #[test]
    fn the_first_is_told_at_once_and_the_repeats_when_the_window_ends() {
        let mut folds = folds(9);
        let lines = [0, 1, 9, 10, 11].map(|second| seen("a", "s", second));
        let told = run(&mut folds, lines.into());
        assert_eq!(told, expect(&[("as0", 1), ("as0-2", 2), ("as10", 1)]));
        assert_eq!(folds.untold(), 1);
        let mut last = Vec::new();
        folds.end_passed(at(19), &mut last);
        assert_eq!(last, []);
        folds.end_passed(at(20), &mut last);
        assert_eq!((last[0].count, last[0].first, last[0].last), (1, at(11), at(11)));
        assert_eq!(last[0].repeats.as_deref(), Some("as10"));
        assert_eq!(folds.untold(), 0);
    }

    #[test]
    fn a_violation_without_repeats_is_told_once() {
        let mut folds = folds(9);
        assert_eq!(run(&mut folds, vec![seen("a", "s", 0)]), expect(&[("as0", 1)]));
        let mut told = Vec::new();
        folds.end_all(&mut told);
        assert_eq!(told, []);
    }

    #[test]
    fn another_user_or_subject_is_another_violation() {
        let mut folds = folds(9);
        let lines = vec![seen("a", "s", 0), seen("b", "s", 0), seen("a", "t", 0)];
        assert_eq!(run(&mut folds, lines), expect(&[("as0", 1), ("bs0", 1), ("at0", 1)]));
    }

    #[test]
    fn a_full_table_tells_its_oldest_and_loses_nothing() {
        let mut folds = folds(2);
        let lines = vec![
            seen("a", "s", 0),
            seen("a", "s", 1),
            seen("b", "s", 2),
            seen("c", "s", 3),
            seen("a", "s", 4),
        ];
        let told = run(&mut folds, lines);
        let expected = [("as0", 1), ("bs2", 1), ("cs3", 1), ("as0-1", 1), ("as4", 1)];
        assert_eq!(told, expect(&expected));
    }

    proptest::proptest! {
        /// However small the table and however the log is cut, all violations are accounted for;
        /// and what is saved and read again goes on as if nothing had happened.
        #[test]
        fn counts_add_up_and_a_restart_changes_nothing(
            lines in proptest::collection::vec((0u8..4, 0u8..3, 0i64..6), 0..60),
            capacity in 1usize..5,
            cut in 0usize..60,
        ) {
            let mut second = 0;
            let lines: Vec<Seen> = lines.into_iter().map(|(user, subject, step)| {
                second += step;
                seen(&user.to_string(), &subject.to_string(), second)
            }).collect();
            let total = lines.len() as u64;
            let (mut one, mut other) = (folds(capacity), folds(capacity));
            let mut whole = run(&mut one, lines.clone());
            let (before, after) = lines.split_at(cut.min(lines.len()));
            let mut parts = run(&mut other, before.to_vec());
            let saved = serde_json::to_string(&other.saved()).unwrap();
            let mut again = folds(capacity);
            again.restore(serde_json::from_str(&saved).unwrap());
            parts.extend(run(&mut again, after.to_vec()));
            for (folds, told) in [(&mut one, &mut whole), (&mut again, &mut parts)] {
                let mut rest = Vec::new();
                folds.end_all(&mut rest);
                told.extend(rest.into_iter().map(|t| (t.id, t.count)));
                assert_eq!(told.iter().map(|(_, count)| count).sum::<u64>(), total);
            }
            assert_eq!(whole, parts);
        }
    }
}
