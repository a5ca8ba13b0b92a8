//! The thread that makes and signs what is large, so that those who answer everybody do not.
//!
//! Such an answer takes milliseconds to sign, and its grant some more the first time. So there is
//! one thread for all of them: a grant is made once, however many ask for it, and nobody else
//! waits. Services take turns, so that one with a crowd of connections does not keep the others
//! waiting.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_nats::Subject;
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::{Notify, mpsc};

use super::{Shared, link};
use crate::authorizer::Proved;

/// How many requests of one service wait at most: as many as are answered while a server waits.
const WAITING: usize = 512;

/// A request whose answer is large.
pub(super) struct Job {
    pub proved: Box<Proved>,
    pub reply: Subject,
    /// When it was taken on.
    pub taken: Instant,
    /// The largest answer that its server takes.
    pub room: usize,
    /// Where the answer is sent from: the connection on which the request came.
    pub back: mpsc::UnboundedSender<Made>,
}

/// An answer, or that none is owed.
pub(super) struct Made {
    pub reply: Subject,
    pub answer: Option<(Bytes, String)>,
}

/// What waits.
#[derive(Default)]
pub(super) struct Queue {
    turns: Mutex<Turns>,
    more: Notify,
}

#[derive(Default)]
struct Turns {
    /// Never an empty list.
    waiting: HashMap<Arc<str>, VecDeque<Job>>,
    /// Each service that waits, once.
    order: VecDeque<Arc<str>>,
    closed: bool,
}

impl Queue {
    /// Adds a request, if its service has room for one more.
    pub(super) fn push(&self, job: Job) -> bool {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let Turns { waiting, order, closed } = &mut *turns;
        let service = job.proved.service();
        let jobs = waiting.entry(Arc::clone(service)).or_insert_with(|| {
            order.push_back(Arc::clone(service));
            VecDeque::new()
        });
        if *closed || jobs.len() >= WAITING {
            return false;
        }
        jobs.push_back(job);
        drop(turns);
        self.more.notify_one();
        true
    }

    /// The next request, of the service that has waited longest for its turn; `None` once the
    /// queue is closed.
    async fn next(&self) -> Option<Job> {
        loop {
            {
                let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
                if turns.closed {
                    return None;
                }
                if let Some(job) = turns.take() {
                    return Some(job);
                }
            }
            // A notification that came in between is kept.
            self.more.notified().await;
        }
    }

    /// Ends the thread. Nothing waits any more: the connections have got their answers, or given
    /// them up.
    pub(super) fn close(&self) {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.more.notify_one();
    }
}

impl Turns {
    fn take(&mut self) -> Option<Job> {
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

/// Answers what waits, until the queue is closed.
pub(super) fn work(shared: &Shared) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            // Closed, so that nothing waits here in vain.
            shared.large.close();
            return tracing::error!(event = "large_failed", %error);
        }
    };
    runtime.block_on(async {
        while let Some(Job { proved, reply, taken, room, back }) = shared.large.next().await {
            let answer = AssertUnwindSafe(shared.service.answer_large(&proved, taken, room));
            let answer = answer.catch_unwind().await.unwrap_or_else(|_| {
                link::defect();
                None
            });
            // A connection that is gone has nobody to answer.
            let _ = back.send(Made { reply, answer });
        }
    });
}
