//! What is in the audit stream, counted; and what is missing from it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::origin::{self, FOLLOWER, Place};

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
    /// How many of these an event reported.
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

/// Violations by who saw them, in [`Stats::services`].
const VIOLATIONS_LOGGED: &str = "violation.server_log";
const VIOLATIONS_SEEN: &str = "violation.client";

/// Counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// All events.
    pub events: u64,
    /// The time of the first event, as it stands in it.
    pub first: Option<String>,
    /// The time of the last event, as it stands in it.
    pub last: Option<String>,
    /// Messages that are no events, or claim to come from somebody else. They count nowhere else.
    pub foreign: u64,
    /// Those by the producer that published them, `-` where the subject names none.
    pub foreign_by: BTreeMap<String, u64>,
    /// By type.
    pub types: BTreeMap<String, u64>,
    /// Denials by reason.
    pub denials: BTreeMap<String, u64>,
    /// Authorisations and violations by service, `-` where it is not known. A key that was removed
    /// from the policy counts for the service that had it, where the event says so. Violations are counted
    /// as often as they happened, apart by who saw them: the server's log has each, and the guard
    /// of the service sees many of the same.
    pub services: BTreeMap<String, BTreeMap<String, u64>>,
    /// By producer and instance.
    pub runs: BTreeMap<String, Run>,
}

/// A reader of the stream that counts.
#[derive(Clone, Debug)]
pub struct Counter {
    stats: Stats,
    followers: Vec<String>,
}

impl Default for Counter {
    fn default() -> Self {
        Self::new(vec![FOLLOWER.to_owned()])
    }
}

impl Counter {
    /// `followers` are the services that follow servers' logs.
    #[must_use]
    pub fn new(followers: Vec<String>) -> Self {
        Self { stats: Stats::default(), followers }
    }

    /// Counts one message.
    pub fn add(&mut self, subject: &str, event: &Value) {
        match origin::judge(subject, event, &self.followers) {
            Ok(place) => self.stats.add(place, event),
            Err(_) => self.stats.add_foreign(subject),
        }
    }

    /// Counts what is missing.
    #[must_use]
    pub fn finish(mut self) -> Stats {
        self.stats.runs.values_mut().for_each(Run::finish);
        self.stats
    }
}

impl Stats {
    /// Counts these messages, each a subject and an event, and what is missing.
    #[must_use]
    pub fn of<'e>(messages: impl IntoIterator<Item = (&'e str, &'e Value)>) -> Self {
        let mut counter = Counter::default();
        for (subject, event) in messages {
            counter.add(subject, event);
        }
        counter.finish()
    }

    fn add_foreign(&mut self, subject: &str) {
        self.foreign += 1;
        let producer = origin::of_subject(subject).map_or("-", |(producer, _)| producer);
        *self.foreign_by.entry(producer.to_owned()).or_default() += 1;
    }

    /// The run of a producer. Two producers that give a run one name have one each.
    fn run(&mut self, producer: &str, instance: &str) -> &mut Run {
        let run = self.runs.entry(format!("{producer}/{instance}")).or_default();
        producer.clone_into(&mut run.producer);
        run
    }

    fn add(&mut self, place: Place<'_>, event: &Value) {
        let Place { producer, instance, number } = place;
        let run = self.run(producer, instance);
        if !run.add(number) {
            run.duplicates += 1;
            return;
        }
        self.events += 1;
        let text = |name: &str| event.get(name).and_then(Value::as_str);
        let time = text("time").map(ToOwned::to_owned);
        self.first = self.first.take().or_else(|| time.clone());
        self.last = time;
        let kind = text("type").unwrap_or_default();
        *self.types.entry(kind.to_owned()).or_default() += 1;
        let data = |name: &str| event.get("data").and_then(|data| data.get(name));
        let (what, times) = match kind {
            "solewriter.authorisation.granted" => ("granted", 1),
            "solewriter.authorisation.denied" => ("denied", 1),
            "solewriter.violation" => {
                let is_client = data("seen_by").is_some_and(|seen_by| seen_by == "client");
                let what = if is_client { VIOLATIONS_SEEN } else { VIOLATIONS_LOGGED };
                (what, data("count").and_then(Value::as_u64).unwrap_or(1))
            }
            "solewriter.lost" => return self.lost(producer, event.get("data")),
            _ => return,
        };
        // A key that was removed counts for the service that had it.
        let service = data("service").or_else(|| data("former_service"));
        let service = service.and_then(Value::as_str).unwrap_or("-");
        let services = self.services.entry(service.to_owned()).or_default();
        let count = services.entry(what.to_owned()).or_default();
        *count = count.saturating_add(times);
        if kind == "solewriter.authorisation.denied"
            && let Some(reason) = data("reason").and_then(Value::as_str)
        {
            *self.denials.entry(reason.to_owned()).or_default() += 1;
        }
    }

    /// A producer reports losses only of its own runs.
    fn lost(&mut self, producer: &str, data: Option<&Value>) {
        let Some(data) = data else { return };
        let number = |name: &str| {
            let number = data.get(name).and_then(Value::as_u64);
            number.unwrap_or(0).min(origin::MAX_NUMBER)
        };
        if let Some(instance) = data.get("instance").and_then(Value::as_str) {
            let run = self.run(producer, instance);
            run.told = run.told.saturating_add(number("count"));
            run.told_to = run.told_to.max(number("last"));
        }
    }

    /// How many events are missing, over all runs.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.runs.values().fold(0, |sum, run| sum.saturating_add(run.missing))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use solewriter_types::audit_event::{Event, Lost, PRODUCER, Record, Source, Trouble};

    fn message(source: &Source, number: u64, event: Option<Event>) -> (String, Value) {
        let other = || {
            let (reason, detail) = ("test".to_owned(), String::new());
            Event::Trouble(Trouble { reason, detail, service: None })
        };
        let event = event.unwrap_or_else(other);
        let record = Record { sequence: number, time: Timestamp::UNIX_EPOCH, event };
        (source.subject(), serde_json::from_str(&record.line(source)).unwrap())
    }

    fn source(producer: &str, instance: &str) -> Source {
        Source { producer: producer.to_owned(), instance: instance.to_owned() }
    }

    fn counted(messages: &[(String, Value)]) -> Stats {
        Stats::of(messages.iter().map(|(subject, event)| (subject.as_str(), event)))
    }

    fn run(numbers: &[u64], lost: Option<Lost>) -> Run {
        let own = source(PRODUCER, "early");
        let mut all: Vec<_> = numbers.iter().map(|number| message(&own, *number, None)).collect();
        // Told by a later run.
        all.extend(
            lost.map(|lost| message(&source(PRODUCER, "later"), 1, Some(Event::Lost(lost)))),
        );
        counted(&all).runs.into_iter().next().unwrap().1
    }

    fn lost(instance: &str, count: u64, first: u64, last: u64) -> Lost {
        Lost { reason: "killed".to_owned(), count, instance: instance.to_owned(), first, last }
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
        let run = run(&[1, 2, 3], Some(lost("early", 2, 4, 5)));
        assert_eq!((run.events, run.missing, run.told), (3, 2, 2));
    }

    #[test]
    fn nobody_fills_or_makes_the_gaps_of_another() {
        let own = source(PRODUCER, "r1");
        let honest = [1, 2, 5].map(|number| message(&own, number, None));
        let before = counted(&honest);
        let evil = source("evil", "r1");
        let mut all = honest.to_vec();
        // As if from solewriter's own run: the missing numbers, one far away, and a loss.
        for number in [3, 4, 999] {
            all.push((evil.subject(), message(&own, number, None).1));
        }
        let told = |of: &Source| message(of, 6, Some(Event::Lost(lost("r1", 900, 6, 905))));
        all.push((evil.subject(), told(&own).1));
        // In its own name, about another's run.
        all.push((evil.subject(), told(&evil).1));
        let stats = counted(&all);
        assert_eq!((stats.foreign, stats.foreign_by["evil"]), (4, 4));
        assert_eq!(stats.runs["solewriter/r1"], before.runs["solewriter/r1"]);
        assert_eq!((stats.runs["solewriter/r1"].missing, stats.runs["evil/r1"].told), (2, 900));
    }

    #[test]
    fn a_removed_key_counts_for_the_service_that_had_it() {
        let source = source(PRODUCER, "r1");
        let denied = |number: u64, former: Option<&str>| {
            let mut message = message(&source, number, None);
            message.1["type"] = "solewriter.authorisation.denied".into();
            message.1["data"] = json!({"reason": "unknown_key", "former_service": former});
            message
        };
        let stats = counted(&[denied(1, Some("billing")), denied(2, None)]);
        assert_eq!((stats.services["billing"]["denied"], stats.services["-"]["denied"]), (1, 1));
        assert_eq!(stats.denials["unknown_key"], 2);
    }

    #[test]
    fn violations_count_as_often_as_they_happened_and_once_for_who_saw_them() {
        let violation = |by: &str, producer: &str, number: u64, count: u64| {
            let source = source(producer, "r1");
            let mut message = message(&source, number, None);
            message.1["type"] = "solewriter.violation".into();
            message.1["data"] = json!({"seen_by": by, "service": "billing", "count": count});
            message
        };
        let stats = counted(&[
            violation("server_log", FOLLOWER, 1, 1),
            violation("server_log", FOLLOWER, 2, 1000),
            violation("client", "billing", 1, 1),
            violation("client", "billing", 2, 40),
            violation("client", "evil", 1, 7),
        ]);
        let billing = &stats.services["billing"];
        assert_eq!((billing[VIOLATIONS_LOGGED], billing[VIOLATIONS_SEEN]), (1001, 41));
        assert_eq!((stats.foreign, stats.types["solewriter.violation"]), (1, 4));
    }
}
