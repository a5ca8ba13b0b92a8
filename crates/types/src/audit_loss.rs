//! Numbers of events that will never be in the stream, counted until that can be told.

use crate::audit_event::{Event, Lost};

/// How many, and between which numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// How many events.
    pub count: u64,
    /// The number of the first can be no lower,
    pub first: u64,
    /// and that of the last no higher.
    pub last: u64,
}

impl Loss {
    /// Of one event.
    #[must_use]
    pub fn one(sequence: u64) -> Self {
        Self { count: 1, first: sequence, last: sequence }
    }

    /// Adds it to what was lost before.
    pub fn add_to(self, before: &mut Option<Self>) {
        let before = before.get_or_insert(Self { count: 0, ..self });
        before.count += self.count;
        before.first = before.first.min(self.first);
        before.last = before.last.max(self.last);
    }

    /// The event that tells of it: why they are lost, and which run they belong to.
    #[must_use]
    pub fn event(self, reason: &str, instance: &str) -> Event {
        let Self { count, first, last } = self;
        let (reason, instance) = (reason.to_owned(), instance.to_owned());
        Event::Lost(Lost { reason, count, instance, first, last })
    }
}
