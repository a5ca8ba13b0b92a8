//! What a client does again and again, counted until it is looked at: most of a trace repeats.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::civil::DateTime;
use solewriter_types::kv_operation::is_inbox;
use solewriter_types::subject::MAX_SUBJECT_BYTES;

use super::fact::is_of_inboxes;
use crate::adoption::deed::{Act, Client};

/// The most clients that are known at a time.
const MAX_CLIENTS: usize = 16_384;

/// The most things that wait together.
const MAX_WAITING: usize = 65_536;

/// Requests that name something made up, and so come once.
const ONCE: [&str; 5] = [
    "$JS.ACK.",
    "$JS.FC.",
    "$JS.API.CONSUMER.CREATE.",
    "$JS.API.CONSUMER.INFO.",
    "$JS.API.CONSUMER.DELETE.",
];

/// What is to be done with a deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth<'a> {
    /// It shows nothing.
    Nothing,
    /// It may come again: it is counted.
    Again(Way, &'a str),
    /// It is looked at.
    Once,
}

/// How a subject was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Way {
    Publish,
    /// With a reply subject below the inbox prefix that the service will have.
    Ask,
    /// With another inbox as the reply subject.
    AskElsewhere,
    Subscribe,
}

/// What a deed of that service is worth.
pub(super) fn worth<'a>(act: Act<'a>, service: &str) -> Worth<'a> {
    match act {
        Act::Receive { subject, reply } => match reply {
            Some(reply) if is_inbox(reply) => Worth::Once,
            Some(reply) if reply.starts_with("$JS.ACK.") && !subject.starts_with(['$', '_']) => {
                Worth::Once
            }
            _ => Worth::Nothing,
        },
        Act::Publish { subject, .. } | Act::Subscribe { subject, .. }
            if subject.len() > MAX_SUBJECT_BYTES
                || is_of_inboxes(subject)
                || is_inbox(subject)
                || ONCE.iter().any(|prefix| subject.starts_with(prefix)) =>
        {
            Worth::Once
        }
        Act::Publish { subject, reply: None } => Worth::Again(Way::Publish, subject),
        Act::Publish { subject, reply: Some(reply) } if is_of_inboxes(reply) => {
            let own = reply.split('.').nth(1) == Some(service);
            Worth::Again(if own { Way::Ask } else { Way::AskElsewhere }, subject)
        }
        Act::Subscribe { subject, queue: None } => Worth::Again(Way::Subscribe, subject),
        Act::Publish { .. } | Act::Subscribe { .. } => Worth::Once,
    }
}

/// How often something was done, and when.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub count: u64,
    pub first: Option<DateTime>,
    pub last: Option<DateTime>,
}

/// A client that is known.
#[derive(Clone, Debug)]
pub(super) struct Met {
    pub service: Arc<str>,
    pub user: Arc<str>,
    waiting: [HashMap<Box<str>, Times>; 4],
}

/// Who is known, and what they did.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    by_client: HashMap<Client, usize>,
    clients: Vec<Met>,
    waiting: usize,
}

impl Repeats {
    /// The number of a client, if it is known.
    pub fn known(&self, client: &Client) -> Option<usize> {
        self.by_client.get(client).copied()
    }

    /// Whether no more clients can be met before what waits is taken.
    pub fn is_full(&self) -> bool {
        self.clients.len() >= MAX_CLIENTS || self.waiting >= MAX_WAITING
    }

    /// Gives a client a number.
    pub fn meet(&mut self, client: &Client, service: Arc<str>, user: Arc<str>) -> usize {
        let number = self.clients.len();
        self.clients.push(Met { service, user, waiting: Default::default() });
        self.by_client.insert(client.clone(), number);
        number
    }

    pub fn of(&self, number: usize) -> Option<&Met> {
        self.clients.get(number)
    }

    /// Counts.
    pub fn again(&mut self, number: usize, way: Way, subject: &str, at: Option<DateTime>) {
        let met = self.clients.get_mut(number);
        let Some(waiting) = met.and_then(|met| met.waiting.get_mut(way as usize)) else { return };
        let times = if let Some(times) = waiting.get_mut(subject) {
            times
        } else {
            self.waiting += 1;
            waiting.entry(subject.into()).or_default()
        };
        times.count += 1;
        times.first = match (times.first, at) {
            (Some(first), Some(at)) => Some(first.min(at)),
            (first, at) => first.or(at),
        };
        times.last = times.last.max(at);
    }

    /// Takes all that waits, always in one order, and forgets who was known.
    pub fn take(&mut self) -> Vec<(Met, Way, Box<str>, Times)> {
        let mut all = Vec::with_capacity(self.waiting);
        for mut met in std::mem::take(self).clients {
            let waiting = std::mem::take(&mut met.waiting);
            let ways = [Way::Publish, Way::Ask, Way::AskElsewhere, Way::Subscribe];
            for (way, waiting) in ways.into_iter().zip(waiting) {
                let mut subjects: Vec<_> = waiting.into_iter().collect();
                subjects.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
                let of = |(subject, times)| (met.clone(), way, subject, times);
                all.extend(subjects.into_iter().map(of));
            }
        }
        all
    }
}
