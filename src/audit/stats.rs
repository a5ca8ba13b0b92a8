//! What is in the audit stream, counted; and what is missing from it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// What one run of a producer left in the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Run {
    /// Who records.
    pub producer: String,
    /// Events, each counted once.
    pub events: u64,
    /// Events that came again.
    pub duplicates: u64,
    /// The lowest number.
    pub first: u64,
    /// The highest number.
    pub last: u64,
    /// Numbers between the two that are not there, and after the last one that a later run told
    /// of.
    pub missing: u64,
    /// How many of these an event told of.
    pub told: u64,
    /// Numbers that are there, as ranges in order.
    #[serde(skip)]
    seen: Vec<(u64, u64)>,
    #[serde(skip)]
    told_to: u64,
}

impl Run {
    /// Whether the number is new.
    fn add(&mut self, number: u64) -> bool {
        let at = self.seen.partition_point(|(_, last)| *last < number);
        if self.seen.get(at).is_some_and(|(first, _)| *first <= number) {
            return false;
        }
        self.seen.insert(at, (number, number));
        self.join(at);
        if let Some(before) = at.checked_sub(1) {
            self.join(before);
        }
        true
    }

    /// Joins a range with the one after it, when they touch.
    fn join(&mut self, at: usize) {
        if let (Some((_, last)), Some((first, end))) =
            (self.seen.get(at).copied(), self.seen.get(at + 1).copied())
            && last + 1 == first
        {
            self.seen.remove(at + 1);
            if let Some(range) = self.seen.get_mut(at) {
                range.1 = end;
            }
        }
    }

    fn finish(&mut self) {
        self.events = self.seen.iter().map(|(first, last)| last - first + 1).sum();
        self.first = self.seen.first().map_or(0, |(first, _)| *first);
        self.last = self.seen.last().map_or(0, |(_, last)| *last);
        let end = self.last.max(self.told_to);
        self.missing = match self.seen.first() {
            Some((first, _)) => (end + 1 - first).saturating_sub(self.events),
            None => self.told,
        };
    }
}

/// Counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// All events.
    pub events: u64,
    /// The time of the first event, as it stands in it.
    pub first: Option<String>,
    /// The time of the last event, as it stands in it.
    pub last: Option<String>,
    /// Messages that are no events.
    pub foreign: u64,
    /// By type.
    pub types: BTreeMap<String, u64>,
    /// Denials by reason.
    pub denials: BTreeMap<String, u64>,
    /// Authorisations and violations by service, `-` where it is not known.
    pub services: BTreeMap<String, BTreeMap<String, u64>>,
    /// By instance.
    pub runs: BTreeMap<String, Run>,
}

impl Stats {
    /// Counts these events, and what is missing.
    #[must_use]
    pub fn of<'e>(events: impl IntoIterator<Item = &'e Value>) -> Self {
        let mut stats = Self::default();
        for event in events {
            stats.add(event);
        }
        stats.finish()
    }

    /// Counts one event.
    pub fn add(&mut self, event: &Value) {
        let text = |name: &str| event.get(name).and_then(Value::as_str);
        let place = || {
            let (_, source) = text("source")?.split_once('/')?;
            let (producer, instance) = source.split_once('/')?;
            Some((producer, instance, text("sequence")?.parse::<u64>().ok()?))
        };
        let (Some(kind), Some((producer, instance, number))) = (text("type"), place()) else {
            self.foreign += 1;
            return;
        };
        let run = self.runs.entry(instance.to_owned()).or_default();
        producer.clone_into(&mut run.producer);
        if !run.add(number) {
            run.duplicates += 1;
            return;
        }
        self.events += 1;
        let time = text("time").map(ToOwned::to_owned);
        self.first = self.first.take().or_else(|| time.clone());
        self.last = time;
        *self.types.entry(kind.to_owned()).or_default() += 1;
        let data = |name: &str| event.get("data").and_then(|data| data.get(name));
        let service = data("service").and_then(Value::as_str).unwrap_or("-");
        let what = kind.trim_start_matches("solewriter.").trim_start_matches("authorisation.");
        match kind {
            "solewriter.authorisation.granted"
            | "solewriter.authorisation.denied"
            | "solewriter.violation" => {
                let services = self.services.entry(service.to_owned()).or_default();
                *services.entry(what.to_owned()).or_default() += 1;
            }
            "solewriter.lost" => self.lost(&event["data"]),
            _ => {}
        }
        if kind == "solewriter.authorisation.denied"
            && let Some(reason) = data("reason").and_then(Value::as_str)
        {
            *self.denials.entry(reason.to_owned()).or_default() += 1;
        }
    }

    fn lost(&mut self, data: &Value) {
        let number = |name: &str| data.get(name).and_then(Value::as_u64).unwrap_or(0);
        if let Some(instance) = data.get("instance").and_then(Value::as_str) {
            let run = self.runs.entry(instance.to_owned()).or_default();
            run.told += number("count");
            run.told_to = run.told_to.max(number("last"));
        }
    }

    /// Counts what is missing. To be called once, at the end.
    #[must_use]
    pub fn finish(mut self) -> Self {
        self.runs.values_mut().for_each(Run::finish);
        self
    }

    /// How many events are missing, over all runs.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.runs.values().map(|run| run.missing).sum()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::audit::event::{Event, Lost, PRODUCER, Record, Source, Trouble};

    fn event(number: u64, event: Option<Event>) -> Value {
        let source = Source::new(PRODUCER, Timestamp::UNIX_EPOCH, 1);
        let other = || {
            let (reason, detail) = ("test".to_owned(), String::new());
            Event::Trouble(Trouble { reason, detail, service: None })
        };
        let event = event.unwrap_or_else(other);
        let record = Record { sequence: number, time: Timestamp::UNIX_EPOCH, event };
        serde_json::from_str(&record.line(&source)).unwrap()
    }

    fn run(numbers: &[u64], lost: Option<Lost>) -> Run {
        let mut stats = Stats::default();
        for number in numbers {
            stats.add(&event(*number, None));
        }
        if let Some(lost) = lost {
            // Told by a later run.
            let mut told = event(1, Some(Event::Lost(lost)));
            told["source"] = "/solewriter/later".into();
            stats.add(&told);
        }
        stats.finish().runs.into_iter().next().unwrap().1
    }

    #[test]
    fn what_is_missing_or_twice_is_counted_in_any_order() {
        for (numbers, events, missing, duplicates) in [
            (&[1, 2, 3][..], 3, 0, 0),
            (&[3, 1, 2], 3, 0, 0),
            (&[1, 4, 2, 9], 4, 5, 0),
            (&[1, 2, 2, 1, 3, 3], 3, 0, 3),
            (&[7, 8], 2, 0, 0),
        ] {
            let run = run(numbers, None);
            assert_eq!((run.events, run.missing, run.duplicates), (events, missing, duplicates));
        }
    }

    #[test]
    fn what_a_later_run_told_of_is_missing_behind_the_last_one() {
        let instance = Source::new(PRODUCER, Timestamp::UNIX_EPOCH, 1).instance;
        let lost = Lost { reason: "killed".to_owned(), count: 2, instance, first: 4, last: 5 };
        let run = run(&[1, 2, 3], Some(lost));
        assert_eq!((run.events, run.missing, run.told), (3, 2, 2));
    }
}
