//! What a change of the policy took from services that read streams, for the sake of their requests
//! for messages that are under way.
//!
//! Such a request belongs to its consumer, and outlives the connection that it came on. On one
//! server, JetStream drops it when it finds that nobody listens to its inbox; it looks when consumers
//! are listed, which the sweep does after it has closed connections. So nobody of the service may be
//! in at that moment. In a cluster, the sweep has another server lead the consumer.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use solewriter_core::policy::model::{Access, Policy};
use solewriter_types::subject::Pattern;

/// For how long a service is not let in that has lost something. Clients wait two seconds at least
/// to be let in.
const HOLD_BACK: Duration = Duration::from_secs(1);

/// What a service may no longer read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Loss {
    /// The stream.
    pub stream: String,
    /// The declared consumer; `None` for those that the service made to replay the stream.
    pub consumer: Option<String>,
}

/// What services may no longer read of streams that they could by the policy before.
#[derive(Debug, Default)]
pub struct Losses(HashMap<Arc<str>, Mutex<Loser>>);

/// A service that has lost something.
#[derive(Clone, Debug)]
struct Loser {
    /// It is let in from then on.
    from: Instant,
    lost: Vec<Loss>,
    /// Whether connections of it were closed, and nothing was done about its requests since.
    closed: bool,
}

/// What a rule lets a service read of a stream: the loss that it would be, and the filter.
fn read(access: &Access) -> Option<(Loss, Option<&str>)> {
    let (stream, consumer, filter) = match access {
        Access::Consumes(had) => (had.name.stream(), Some(had.name.consumer()), None),
        Access::Replays(had) => (had.stream(), None, had.filter().map(Pattern::as_str)),
        Access::Audits(stream) => (stream, None, None),
        _ => return None,
    };
    let consumer = consumer.map(ToString::to_string);
    Some((Loss { stream: stream.to_string(), consumer }, filter))
}

fn lock(loser: &Mutex<Loser>) -> MutexGuard<'_, Loser> {
    loser.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Losses {
    /// What the change from one policy to the next takes; and what is not settled of these.
    #[must_use]
    pub fn next(&self, before: &Policy, next: &Policy) -> Self {
        let now = Instant::now();
        let unsettled = self.0.iter().map(|(name, loser)| (Arc::clone(name), lock(loser).clone()));
        let mut all: HashMap<Arc<str>, Loser> =
            unsettled.filter(|(_, loser)| loser.closed || loser.from > now).collect();
        for (service, after) in next.compared(before) {
            let Some(service) = service else { continue };
            let had: HashSet<_> =
                service.rules.iter().filter_map(|rule| read(&rule.access)).collect();
            if had.is_empty() {
                continue;
            }
            let rules = after.map_or(&[][..], |service| &service.rules);
            let has: HashSet<_> = rules.iter().filter_map(|rule| read(&rule.access)).collect();
            let lost: Vec<Loss> = had.difference(&has).map(|(loss, _)| loss.clone()).collect();
            if !lost.is_empty() {
                let new = Loser { from: now, lost: Vec::new(), closed: false };
                let loser = all.entry(Arc::clone(&service.name)).or_insert(new);
                loser.from = now + HOLD_BACK;
                loser.lost.extend(lost);
            }
        }
        Self(all.into_iter().map(|(name, loser)| (name, Mutex::new(loser))).collect())
    }

    /// A connection of that service is about to be closed: if it has lost something, it is not let in
    /// for a moment from now on.
    pub fn hold_back(&self, service: &str) {
        if let Some(loser) = self.0.get(service) {
            let mut loser = lock(loser);
            loser.from = Instant::now() + HOLD_BACK;
            loser.closed = true;
        }
    }

    /// From when on a service is let in; `None` when it is now.
    #[must_use]
    pub fn lets_in_from(&self, service: &str) -> Option<Instant> {
        let loser = lock(self.0.get(service)?);
        (loser.from > Instant::now()).then_some(loser.from)
    }

    /// What services have lost of whom connections were closed since this was last asked.
    #[must_use]
    pub fn take(&self) -> Vec<Loss> {
        let mut all = Vec::new();
        for loser in self.0.values() {
            let mut loser = lock(loser);
            if std::mem::take(&mut loser.closed) {
                all.extend(loser.lost.iter().cloned());
            }
        }
        all
    }

    /// What was taken could not be settled.
    pub fn take_again(&self) {
        self.0.values().for_each(|loser| lock(loser).closed = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use solewriter_core::diagnostics::SourceFile;
    use solewriter_core::policy::validate::validate;

    #[test]
    fn who_loses_a_consumer_is_held_back_for_a_moment() {
        let mut last: Option<(Arc<Losses>, Policy)> = None;
        let mut policy = |consumes: &str, replays: &str, more: &str| {
            let text = format!(
                "[stream.S]\nsubjects = [\"s.>\"]\n[stream.S.consumer.a]\n\
                 [stream.S.consumer.b]\n[stream.T]\nsubjects = [\"t.>\"]\n{more}\
                 [service.one]\nconsumes = [{consumes}]\n\
                 [service.two]\nreplays = [{replays}]\n"
            );
            let next = validate(&[SourceFile::new("p.toml", &*text)]).unwrap().policy;
            let now = last.as_ref().map(|(losses, last)| losses.next(last, &next));
            let now = Arc::new(now.unwrap_or_default());
            last = Some((Arc::clone(&now), next));
            let held = ["one", "two", "three"].map(|service| now.lets_in_from(service).is_some());
            (held, now)
        };
        let all = "\"S/a\", \"S/b\"";
        assert_eq!(policy(all, "\"S\", \"T/t.x\"", "").0, [false; 3], "the first");
        // Another consumer is one more that replays leave alone, and no loss.
        let more = "[stream.T.consumer.c]\n";
        assert_eq!(policy(all, "\"S\", \"T/t.x\"", more).0, [false; 3]);
        assert_eq!(policy("\"S/b\"", "\"S\", \"T/t.x\"", more).0, [true, false, false]);
        // Who is held back is so by the next policy, too.
        let (held, current) = policy("\"S/b\"", "\"S\", \"T/t.y\"", more);
        assert_eq!(held, [true, true, false]);
        let from = current.lets_in_from("one").unwrap();
        assert!(from <= Instant::now() + HOLD_BACK, "{from:?}");
        // Longer, when a connection is closed; and nobody else.
        current.hold_back("one");
        current.hold_back("three");
        assert!(current.lets_in_from("one").unwrap() > from);
        assert_eq!(current.lets_in_from("three"), None);
        // What it lost is told once for each time, and of nobody else.
        let loss = |stream: &str, consumer: Option<&str>| Loss {
            stream: stream.to_owned(),
            consumer: consumer.map(ToOwned::to_owned),
        };
        assert_eq!(current.take(), [loss("S", Some("a"))]);
        assert_eq!(current.take(), []);
        current.hold_back("two");
        assert_eq!(current.take(), [loss("T", None)]);
        current.hold_back("one");
        // Nor is it forgotten with the next policy.
        let (_, next) = policy("\"S/b\"", "\"S\"", more);
        assert_eq!(next.take(), [loss("S", Some("a"))]);
    }
}
