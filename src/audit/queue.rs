//! The bounded queue between decisions and the sink.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::Recorder;
use super::event::{Event, Record, Source};
use super::loss::Loss;
use super::tally::Tally;
use crate::telemetry::{self, Metrics};

/// How many events may wait to be written to disk: eight seconds of a thousand a second, and a
/// few MB.
pub const CAPACITY: usize = 8192;

/// Numbers events and keeps them until the sink takes them.
pub(super) struct Queue {
    /// 0 when nobody takes events.
    capacity: usize,
    state: Mutex<State>,
    filled: Notify,
}

struct State {
    next: u64,
    waiting: VecDeque<Arc<Record>>,
    lost: Option<Loss>,
    tally: Option<Tally>,
}

impl State {
    fn number(&mut self, event: Event, time: Timestamp) -> Arc<Record> {
        let record = Arc::new(Record { sequence: self.next, time, event });
        if let Some(tally) = &self.tally {
            tally.set(self.next);
        }
        self.next += 1;
        record
    }
}

impl Queue {
    pub fn new(capacity: usize) -> Arc<Self> {
        let state = State { next: 1, waiting: VecDeque::new(), lost: None, tally: None };
        Arc::new(Self { capacity, state: Mutex::new(state), filled: Notify::new() })
    }

    /// Numbers the event, and keeps it if there is room.
    pub fn push(&self, event: Event, time: Timestamp) -> Arc<Record> {
        let record = {
            // Nothing that a panic could leave half done is behind the lock.
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let record = state.number(event, time);
            if self.capacity == 0 {
                return record;
            }
            if state.waiting.len() < self.capacity {
                state.waiting.push_back(Arc::clone(&record));
            } else {
                Loss::one(record.sequence).add_to(&mut state.lost);
            }
            record
        };
        self.filled.notify_one();
        record
    }
}

/// The sink's end of the queue.
pub struct Intake(Recorder);

impl Intake {
    pub(super) fn new(recorder: Recorder) -> Self {
        Self(recorder)
    }

    /// Who records.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.0.source
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// Records into this queue.
    pub(super) fn recorder(&self) -> &Recorder {
        &self.0
    }

    /// Keeps the count of what is recorded where a kill leaves it.
    pub(super) fn count_in(&self, tally: Option<Tally>) {
        let mut state = self.lock();
        if let Some(tally) = &tally {
            tally.set(state.next - 1);
        }
        state.tally = tally;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.queue.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there may be something.
    pub async fn filled(&self) {
        self.0.queue.filled.notified().await;
    }

    /// Takes everything that waits, in order. What did not fit since the last time is told by an
    /// event at the end, with a number of its own.
    pub fn take(&self, now: Timestamp) -> Vec<Arc<Record>> {
        let (mut taken, lost) = {
            let mut state = self.lock();
            let taken: Vec<Arc<Record>> = state.waiting.drain(..).collect();
            let lost = state.lost.take().map(|loss| {
                let event = loss.event("queue_full", &self.source().instance);
                (loss, state.number(event, now))
            });
            (taken, lost)
        };
        if let Some((loss, record)) = lost {
            self.metrics().audit_lost("queue_full", loss.count);
            telemetry::log_event(self.source(), &record);
            taken.push(record);
        }
        taken
    }

    /// A record of the sink's own, logged and numbered like any other, that does not go through
    /// the queue.
    pub(super) fn number(&self, event: Event, now: Timestamp) -> Arc<Record> {
        let record = self.lock().number(event, now);
        telemetry::log_event(self.source(), &record);
        record
    }

    /// The run ends by itself: nothing is lost that nobody knows of.
    pub(super) fn end(&self) {
        self.lock().tally = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::event::{PRODUCER, Trouble};

    fn event(text: &str) -> Event {
        Event::Trouble(Trouble { reason: text.to_owned(), detail: String::new(), service: None })
    }

    #[test]
    fn what_does_not_fit_is_counted_and_told_with_its_numbers() {
        let source = Source::new(PRODUCER, Timestamp::UNIX_EPOCH, 0);
        let (recorder, intake) = Recorder::with_queue(source, Metrics::new(), 2);
        for text in ["a", "b", "c", "d"] {
            recorder.record(event(text));
        }
        let taken = intake.take(Timestamp::UNIX_EPOCH);
        let numbers: Vec<u64> = taken.iter().map(|record| record.sequence).collect();
        assert_eq!(numbers, [1, 2, 5]);
        let Event::Lost(lost) = &taken[2].event else { panic!("{taken:?}") };
        assert_eq!((lost.count, lost.first, lost.last), (2, 3, 4));
        recorder.record(event("e"));
        let taken = intake.take(Timestamp::UNIX_EPOCH);
        assert_eq!((taken.len(), taken[0].sequence), (1, 6), "the loss is told once");
    }
}
