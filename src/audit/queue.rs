//! The bounded queue between decisions and the sink.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::Recorder;
use crate::audit::sequence_file::SequenceFile;
use crate::telemetry::{self, Metrics};
use solewriter_types::audit_event::{Event, Record, Source};
use solewriter_types::audit_loss::Loss;

/// How many events may wait to be written to disk: eight seconds of a thousand a second, and a
/// few MB.
pub const CAPACITY: usize = 8192;

/// How many events that anybody on the network can cause are kept at once, and how many more for
/// each second: a flood of them must not push everything else out of the stream. At that pace its
/// gigabyte lasts for two weeks.
const STRANGERS: u32 = 10_000;
const STRANGERS_PER_SECOND: u32 = 1;
/// How often it is told how many were not kept.
const TELL_STRANGERS: i64 = 60;

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
    tally: Option<SequenceFile>,
    strangers: Strangers,
}

/// What strangers cause, within bounds.
struct Strangers {
    /// How many more are kept.
    left: u32,
    /// Up to which second that was counted.
    counted: i64,
    /// Those that are in the log alone.
    lost: Option<Loss>,
    told: i64,
    /// The run ends: everything is told now.
    ends: bool,
}

impl Strangers {
    /// Whether one more is kept.
    fn admit(&mut self, now: i64) -> bool {
        let passed = u32::try_from(now.saturating_sub(self.counted).max(0)).unwrap_or(u32::MAX);
        let more = passed.saturating_mul(STRANGERS_PER_SECOND);
        self.left = self.left.saturating_add(more).min(STRANGERS);
        self.counted = self.counted.max(now);
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        true
    }

    /// Those to be told of now.
    fn untold(&mut self, now: i64) -> Option<Loss> {
        if !self.ends && now.saturating_sub(self.told) < TELL_STRANGERS {
            return None;
        }
        let lost = self.lost.take()?;
        self.told = now;
        Some(lost)
    }
}

/// Whether anybody on the network can cause it, without the key of a service.
fn is_of_a_stranger(event: &Event) -> bool {
    match event {
        Event::Authorisation(decided) => decided.service.is_none(),
        Event::RequestRejected(_) => true,
        _ => false,
    }
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
        let strangers = Strangers { left: STRANGERS, counted: 0, lost: None, told: 0, ends: false };
        let state = State { next: 1, waiting: VecDeque::new(), lost: None, tally: None, strangers };
        Arc::new(Self { capacity, state: Mutex::new(state), filled: Notify::new() })
    }

    /// Numbers the event, and keeps it if there is room.
    pub fn push(&self, event: Event, time: Timestamp) -> Arc<Record> {
        let record = {
            // Nothing that a panic could leave half done is behind the lock.
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let is_of_a_stranger = is_of_a_stranger(&event);
            let record = state.number(event, time);
            if self.capacity == 0 {
                return record;
            }
            if is_of_a_stranger && !state.strangers.admit(time.as_second()) {
                Loss::one(record.sequence).add_to(&mut state.strangers.lost);
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
    pub(super) fn count_in(&self, tally: Option<SequenceFile>) {
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
            let lost = [
                ("queue_full", state.lost.take()),
                ("strangers", state.strangers.untold(now.as_second())),
            ];
            let lost = lost.map(|(reason, loss)| {
                let loss = loss?;
                let event = loss.event(reason, &self.source().instance);
                Some((reason, loss, state.number(event, now)))
            });
            (taken, lost)
        };
        for (reason, loss, record) in lost.into_iter().flatten() {
            self.metrics().audit_lost(reason, loss.count);
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

    /// The run ends soon: the next [`Intake::take`] reports what is not reported yet.
    pub(super) fn ends_soon(&self) {
        self.lock().strangers.ends = true;
    }

    /// The run ends by itself: nothing is lost that nobody knows of.
    pub(super) fn end(&self) {
        self.lock().tally = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use solewriter_types::audit_event::{PRODUCER, Trouble};

    fn event(text: &str) -> Event {
        Event::Trouble(Trouble { reason: text.to_owned(), detail: String::new(), service: None })
    }

    /// However many strangers there are, they push nothing else out of the stream.
    #[test]
    fn what_strangers_cause_is_kept_within_bounds_and_counted() {
        use solewriter_types::audit_event::{RequestRejected, Started};
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let source = Source::new(PRODUCER, Timestamp::UNIX_EPOCH, 0);
        let (recorder, intake) = Recorder::with_queue(source, Metrics::new(), 100_000);
        let stranger = || {
            let (reason, detail) = ("signature".to_owned(), String::new());
            Event::RequestRejected(RequestRejected { reason, detail })
        };
        let push = |event: Event, second: i64| drop(recorder.queue.push(event, at(second)));
        let lost = |taken: &[Arc<Record>]| -> Vec<(String, u64, u64, u64)> {
            let lost = |record: &Arc<Record>| match &record.event {
                Event::Lost(lost) => Some((lost.reason.clone(), lost.count, lost.first, lost.last)),
                _ => None,
            };
            taken.iter().filter_map(lost).collect()
        };
        (0..12_000).for_each(|_| push(stranger(), 1_000));
        push(event("kept"), 1_000);
        let taken = intake.take(at(1_000));
        // All that it may be, what is no stranger's, and how many are missing.
        assert_eq!(taken.len(), 10_002);
        assert!(taken.iter().any(|record| record.sequence == 12_001));
        assert_eq!(lost(&taken), [("strangers".to_owned(), 2_000, 10_001, 12_000)]);
        // One more for each second, told once a minute.
        (0..500).for_each(|_| push(stranger(), 1_005));
        let taken = intake.take(at(1_005));
        assert_eq!((taken.len(), lost(&taken).len()), (5, 0));
        let taken = intake.take(at(1_060));
        assert_eq!(lost(&taken).iter().map(|lost| lost.1).collect::<Vec<u64>>(), [495]);
        // The clock is set back, and the end comes.
        push(stranger(), 900);
        push(Event::Started(Started { version: "1".to_owned(), issuer: None, xkey: None }), 900);
        assert_eq!(intake.take(at(900)).len(), 1);
        intake.ends_soon();
        assert_eq!(lost(&intake.take(at(900))).len(), 1, "told at the end");
        let loss = "solewriter_audit_lost_total{reason=\"strangers\"} 2496";
        assert!(recorder.metrics.encode().contains(loss));
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
