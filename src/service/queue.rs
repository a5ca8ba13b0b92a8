//! Requests whose answers are large, as they wait. Services take turns, so that one with a crowd of
//! connections does not keep the others waiting.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_nats::Subject;
use tokio::sync::Notify;

use crate::traces::Trace;
use solewriter_core::callout::authorizer::Proved;

/// How many requests of one service wait at most: some more than are answered while a server waits.
const WAITING: usize = 512;

/// A request whose answer is large.
pub(super) struct Job {
    pub proved: Box<Proved>,
    pub reply: Subject,
    /// What is noted of it, if it is traced.
    pub trace: Option<Box<Trace>>,
    /// When it was taken on.
    pub taken: Instant,
}

/// What waits.
pub(super) struct Queue<J> {
    turns: Mutex<Turns<J>>,
    more: Notify,
}

struct Turns<J> {
    /// Never an empty list.
    waiting: HashMap<Arc<str>, VecDeque<J>>,
    /// Each service that waits, once.
    order: VecDeque<Arc<str>>,
    closed: bool,
}

impl<J> Default for Queue<J> {
    fn default() -> Self {
        let turns = Turns { waiting: HashMap::new(), order: VecDeque::new(), closed: false };
        Self { turns: Mutex::new(turns), more: Notify::new() }
    }
}

impl<J> Queue<J> {
    /// Adds a request of a service, if that has room for one more.
    pub(super) fn push(&self, service: &Arc<str>, job: J) -> bool {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let Turns { waiting, order, closed } = &mut *turns;
        if *closed {
            return false;
        }
        let jobs = waiting.entry(Arc::clone(service)).or_insert_with(|| {
            order.push_back(Arc::clone(service));
            VecDeque::new()
        });
        if jobs.len() >= WAITING {
            return false;
        }
        jobs.push_back(job);
        drop(turns);
        self.more.notify_one();
        true
    }

    /// The next request, of the service that has waited longest for its turn; `None` once the
    /// queue is closed and nothing waits.
    pub(super) async fn next(&self) -> Option<J> {
        loop {
            {
                let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(job) = turns.take() {
                    return Some(job);
                }
                if turns.closed {
                    return None;
                }
            }
            // A notification that came in between is kept.
            self.more.notified().await;
        }
    }

    /// Takes no more requests; those that wait are answered.
    pub(super) fn close(&self) {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.more.notify_one();
    }
}

impl<J> Turns<J> {
    fn take(&mut self) -> Option<J> {
        let service = self.order.pop_front()?;
        let jobs = self.waiting.get_mut(&service)?;
        let job = jobs.pop_front();
        if jobs.is_empty() {
            self.waiting.remove(&service);
        } else {
            self.order.push_back(service);
        }
        job
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn services_take_turns_and_a_crowd_has_an_end() {
        let queue = Queue::default();
        let [crowd, one, other]: [Arc<str>; 3] = ["crowd".into(), "one".into(), "other".into()];
        let taken = (0..2 * WAITING).filter(|n| queue.push(&crowd, ("crowd", *n))).count();
        assert_eq!(taken, WAITING);
        assert!(queue.push(&one, ("one", 0)) && queue.push(&other, ("other", 0)));
        let mut order = Vec::new();
        for _ in 0..5 {
            order.push(queue.next().await.unwrap());
        }
        let expected = [("crowd", 0), ("one", 0), ("other", 0), ("crowd", 1), ("crowd", 2)];
        assert_eq!(order, expected);
        // There is room again; and what waits at the end is answered.
        assert!(queue.push(&crowd, ("crowd", WAITING)));
        queue.close();
        assert!(!queue.push(&one, ("one", 1)));
        let mut left = 0;
        while queue.next().await.is_some() {
            left += 1;
        }
        assert_eq!(left, WAITING - 2);
    }
}
