//! How often something was seen, when, and by whom.

use std::fmt;
use std::sync::Arc;

use jiff::civil::DateTime;

use solewriter_types::clean;

/// The most names that are kept of one thing.
const MOST_NAMES: usize = 4;

/// A few names, and whether there were more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Few {
    names: Vec<Arc<str>>,
    more: bool,
}

impl Few {
    /// Adds a name, if it is not there and there is room.
    pub fn add(&mut self, name: &Arc<str>) {
        let Err(at) = self.names.binary_search(name) else { return };
        if self.names.len() < MOST_NAMES {
            self.names.insert(at, Arc::clone(name));
        } else {
            self.more = true;
        }
    }

    /// Adds those of another.
    pub fn merge(&mut self, other: &Self) {
        for name in &other.names {
            self.add(name);
        }
        self.more |= other.more;
    }

    /// The names, in order.
    #[must_use]
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether there were more than are kept.
    #[must_use]
    pub fn is_more(&self) -> bool {
        self.more
    }
}

impl fmt::Display for Few {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.names.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            // A client chose it: in a comment it stays on its line.
            write!(f, "{comma}{}", clean::line(name))?;
        }
        if self.more { f.write_str(" and others") } else { Ok(()) }
    }
}

/// What is told of one thing that was done.
#[derive(Clone, Copy, Debug)]
pub struct Mark<'a> {
    /// How often.
    pub count: u64,
    /// How many of those are no deeds, but what somebody has open now.
    pub now: u64,
    /// When first.
    pub first: Option<DateTime>,
    /// When last.
    pub last: Option<DateTime>,
    /// By which user.
    pub user: &'a Arc<str>,
    /// In which queue group, of a subscription.
    pub queue: Option<&'a Arc<str>>,
}

impl<'a> Mark<'a> {
    /// Of one thing that a user did once.
    #[must_use]
    pub fn once(at: Option<DateTime>, user: &'a Arc<str>, queue: Option<&'a Arc<str>>) -> Self {
        Self { count: 1, now: 0, first: at, last: at, user, queue }
    }
}

/// How often something was seen, when first and last, and by which users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often.
    pub count: u64,
    /// How many of those are no deeds, but what somebody has open now.
    pub now: u64,
    /// When first, by the server's clock.
    pub first: Option<DateTime>,
    /// When last.
    pub last: Option<DateTime>,
    /// By which users.
    pub users: Few,
    /// In which queue groups.
    pub queues: Few,
}

impl Tally {
    /// Counts it.
    pub fn add(&mut self, mark: Mark<'_>) {
        self.count = self.count.saturating_add(mark.count);
        self.now = self.now.saturating_add(mark.now);
        self.times(mark.first, mark.last);
        self.users.add(mark.user);
        if let Some(queue) = mark.queue {
            self.queues.add(queue);
        }
    }

    /// Counts what another has counted.
    pub fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.now = self.now.saturating_add(other.now);
        self.times(other.first, other.last);
        self.users.merge(&other.users);
        self.queues.merge(&other.queues);
    }

    fn times(&mut self, first: Option<DateTime>, last: Option<DateTime>) {
        self.first = match (self.first, first) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
        self.last = self.last.max(last);
    }
}

/// How often something was seen: `once`, `12 times`; `connected now` where no deed shows it.
#[must_use]
pub fn times(count: u64, now: u64) -> String {
    match count.saturating_sub(now) {
        0 => "connected now".to_owned(),
        1 => "once".to_owned(),
        n => format!("{n} times"),
    }
}

/// A time for people, to the second.
#[must_use]
pub fn shown(time: DateTime) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

impl fmt::Display for Tally {
    /// As a comment says it: `12 times, last 2026-11-27 20:01:15, by orders`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&times(self.count, self.now))?;
        match (self.count.saturating_sub(self.now), self.last) {
            (1, Some(last)) => write!(f, ", {}", shown(last))?,
            (_, Some(last)) => write!(f, ", last {}", shown(last))?,
            (_, None) => {}
        }
        if !self.users.is_empty() {
            write!(f, ", by {}", self.users)?;
        }
        if !self.queues.is_empty() {
            write!(f, ", queue {}", self.queues)?;
        }
        Ok(())
    }
}
