//! What a refusal causes: a log line, an audit event, and a notice to the call that waits.
//!
//! The client library's event callback only puts it into a queue. One task folds repeats and logs,
//! and never waits for the network; another publishes, and may wait.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::context::PublishErrorKind;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::publish::Publisher;
use crate::server_error::Refused;
use solewriter_types::audit_event::{
    About, Event, Lost, Record, Source, Trouble, Violation, cut, message_id, words,
};
use solewriter_types::audit_loss::Loss;
use solewriter_types::dedup::{Dedup, Told};
use solewriter_types::kv_operation::{Act, Usage};
use solewriter_types::violation_log;

/// How many refusals may wait to be logged, and events to be published.
const QUEUE: usize = 256;
/// How many different refusals are folded at a time.
const FOLDS: usize = 256;
/// The longest subject in an event, in bytes; nats-server takes no longer one by default.
const MAX_SUBJECT: usize = 4096;
/// How often an event is published before it is given up.
const TRIES: u32 = 3;

/// What the guard was not able to tell.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    /// Refusals that did not even reach the log.
    pub unlogged: AtomicU64,
    /// Events that are in the log alone.
    pub unpublished: AtomicU64,
    /// Events that wait to be published.
    waiting: AtomicU64,
    /// Nothing is published any more.
    is_shut: AtomicBool,
    /// What still has to be published.
    lost: Mutex<Option<Loss>>,
}

impl Dropped {
    fn lost(&self) -> MutexGuard<'_, Option<Loss>> {
        // Nothing that a panic could leave half done is behind the lock.
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose(&self, record: &Record) {
        if !matches!(record.event, Event::Lost(_)) {
            self.unpublished.fetch_add(1, Ordering::Relaxed);
        }
        let mut lost = self.lost();
        Loss::one(record.sequence).add_to(&mut lost);
        // If the event about a loss is lost too, its count is added again.
        if let Event::Lost(Lost { count, first, last, .. }) = &record.event {
            Loss { count: *count, first: *first, last: *last }.add_to(&mut lost);
        }
    }

    /// Refusals that are not in the log, and events that are there alone.
    pub fn counts(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let never = if self.is_shut.load(Ordering::Relaxed) { count(&self.waiting) } else { 0 };
        (count(&self.unlogged), count(&self.unpublished) + never)
    }
}

/// A thing to report.
enum Report {
    Refused(Refused),
    Trouble {
        reason: &'static str,
        detail: String,
    },
    /// The connection was made (again).
    Connected,
    /// Tell what is counted, publish what waits, and say when that is done.
    Finish(oneshot::Sender<()>),
}

/// The end of the queue that everything is reported to. Never blocks.
#[derive(Clone)]
pub(super) struct Reporter {
    queue: mpsc::Sender<Report>,
    news: broadcast::Sender<Refused>,
    dropped: Arc<Dropped>,
}

impl Reporter {
    pub fn new(
        service: &str,
        nkey: Option<String>,
        window: SignedDuration,
        audit: bool,
    ) -> (Self, Desk) {
        let (queue, reports) = mpsc::channel(QUEUE);
        let (news, _) = broadcast::channel(QUEUE);
        let dropped = Arc::new(Dropped::default());
        let reporter = Self { queue, news, dropped: Arc::clone(&dropped) };
        // Two runs of one millisecond differ in what the standard library seeds its maps with.
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), service);
        let random = u32::try_from(random >> 32).unwrap_or(0);
        let desk = Desk {
            reports,
            service: service.to_owned(),
            nkey,
            source: Source::new(service, Timestamp::now(), random),
            folds: Dedup::new(window, FOLDS),
            client: None,
            audit,
            dropped,
        };
        (reporter, desk)
    }

    /// The server refused something.
    pub fn refused(&self, refused: Refused) {
        // Reported first: who hears of it here may close at once, and that tells what is reported.
        self.report(Report::Refused(refused.clone()));
        // Nobody may be waiting.
        let _ = self.news.send(refused);
    }

    /// Something else that a person should know.
    pub fn trouble(&self, reason: &'static str, detail: String) {
        self.report(Report::Trouble { reason, detail });
    }

    /// The connection was made (again), perhaps with other permissions.
    pub fn connected(&self) {
        self.report(Report::Connected);
    }

    fn report(&self, report: Report) {
        if self.queue.try_send(report).is_err() {
            self.dropped.unlogged.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every refusal from now on.
    pub fn news(&self) -> broadcast::Receiver<Refused> {
        self.news.subscribe()
    }

    /// How many refusals are not in the log, and how many events are in the log alone.
    pub fn dropped(&self) -> (u64, u64) {
        self.dropped.counts()
    }

    /// Tells what is reported so far, for at most so long. What the stream was not told by then it
    /// never is, and the log says so.
    pub async fn close(&self, patience: Duration) {
        if timeout(patience, self.finish()).await.is_err() {
            self.dropped.is_shut.store(true, Ordering::Relaxed);
        }
        let untold = self.dropped.lost().map_or(0, |lost| lost.count);
        let untold = untold + self.dropped.waiting.load(Ordering::Relaxed);
        if untold > 0 {
            tracing::error!(
                event = "audit_lost",
                count = untold,
                "the audit stream did not take these events of this service; they are in this log \
                 alone",
            );
        }
    }

    /// Waits until everything reported so far is told.
    async fn finish(&self) {
        let (done, is_done) = oneshot::channel();
        if self.queue.send(Report::Finish(done)).await.is_ok() {
            let _ = is_done.await;
        }
    }
}

/// Folds, logs and hands over to be published.
pub(super) struct Desk {
    reports: mpsc::Receiver<Report>,
    service: String,
    nkey: Option<String>,
    source: Source,
    folds: Dedup<Refused>,
    client: Option<Client>,
    audit: bool,
    dropped: Arc<Dropped>,
}

enum Parcel {
    Event(Box<Record>),
    Finish(oneshot::Sender<()>),
}

impl Desk {
    /// Works until every [`Reporter`] is gone.
    pub async fn work(mut self, client: Client) {
        let (post, parcels) = mpsc::channel(QUEUE);
        // Set when the audit subject itself is refused: an event about that would be refused too.
        let is_closed = Arc::new(AtomicBool::new(!self.audit));
        let postman = Postman {
            parcels,
            publisher: Publisher::new(client.clone(), &self.source.subject()),
            source: self.source.clone(),
            is_closed: Arc::clone(&is_closed),
            dropped: Arc::clone(&self.dropped),
        };
        tokio::spawn(postman.work());
        self.client = Some(client);
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut told = Vec::new();
            let report = tokio::select! {
                report = self.reports.recv() => report,
                _ = second.tick() => {
                    self.folds.end_passed(Timestamp::now(), &mut told);
                    self.tell(told, &post, &is_closed);
                    continue;
                }
            };
            match report {
                Some(Report::Refused(refused)) => {
                    let now = Timestamp::now();
                    self.folds.take(refused, now, now, &mut told);
                    self.tell(told, &post, &is_closed);
                }
                Some(Report::Trouble { reason, detail }) => {
                    self.trouble(reason, detail, &post, &is_closed);
                }
                Some(Report::Connected) => is_closed.store(!self.audit, Ordering::Relaxed),
                Some(Report::Finish(done)) => {
                    self.folds.end_all(&mut told);
                    self.tell(told, &post, &is_closed);
                    if self.audit && !is_closed.load(Ordering::Relaxed) {
                        self.tell_lost(&post);
                    }
                    // Waits for its turn, behind the events.
                    let _ = post.send(Parcel::Finish(done)).await;
                }
                None => return,
            }
        }
    }

    fn tell(
        &mut self,
        told: Vec<Told<Refused>>,
        post: &mpsc::Sender<Parcel>,
        is_closed: &AtomicBool,
    ) {
        for told in told {
            let is_own = self.is_own(&told.refusal);
            let event = self.event(&told);
            violation_log::log(Some(&self.source.id(told.number)), &event);
            let event = Event::Violation(event.into());
            let record = Record { sequence: told.number, time: told.last, event };
            if is_own {
                is_closed.store(true, Ordering::Relaxed);
            }
            self.post(record, post, is_closed);
        }
    }

    /// Whether it is an event of ours that was refused, and not the service's own try at somebody
    /// else's subject.
    fn is_own(&self, refused: &Refused) -> bool {
        refused.act == Act::Publish && refused.subject == self.source.subject()
    }

    fn event(&self, told: &Told<Refused>) -> Violation {
        let Told { refusal, number: _, count, first, last, repeats } = told;
        let usage = Usage::of(refusal.act, &refusal.subject);
        let info = self.client.as_ref().map(Client::server_info);
        Violation {
            unproved: false,
            seen_by: "client".to_owned(),
            service: Some(words(&self.service)),
            nkey: self.nkey.clone(),
            account: None,
            revision: None,
            host: None,
            server: info.as_ref().map(|info| words(&info.server_name)),
            cid: info.map(|info| info.client_id),
            client: None,
            operation: usage.operation,
            subject: cut(&refusal.subject, MAX_SUBJECT),
            queue: refusal.queue.as_deref().map(words),
            about: About::of(usage.target.as_ref()),
            owner: None,
            missing_rule: None,
            detail: None,
            repeats: repeats.map(|number| self.source.id(number)),
            count: *count,
            first: *first,
            last: *last,
        }
    }

    fn trouble(
        &mut self,
        reason: &str,
        detail: String,
        post: &mpsc::Sender<Parcel>,
        is_closed: &AtomicBool,
    ) {
        let sequence = self.folds.number();
        let service = words(&self.service);
        let id = self.source.id(sequence);
        tracing::error!(event = "trouble", audit = id, reason, detail, service);
        let (reason, service) = (reason.to_owned(), Some(service));
        let event = Event::Trouble(Trouble { reason, detail, service });
        self.post(Record { sequence, time: Timestamp::now(), event }, post, is_closed);
    }

    /// Hands an event over, or counts it; and tells then of those that were counted.
    fn post(&mut self, record: Record, post: &mpsc::Sender<Parcel>, is_closed: &AtomicBool) {
        if !self.audit {
            return;
        }
        if is_closed.load(Ordering::Relaxed) {
            return self.dropped.lose(&record);
        }
        self.hand_over(record, post);
        if post.capacity() > 1 {
            self.tell_lost(post);
        }
    }

    /// Reports the lost events. They have numbers, which are missing in the stream.
    fn tell_lost(&mut self, post: &mpsc::Sender<Parcel>) {
        let Some(loss) = self.dropped.lost().take() else { return };
        let event = loss.event("unpublished", &self.source.instance);
        let sequence = self.folds.number();
        self.hand_over(Record { sequence, time: Timestamp::now(), event }, post);
    }

    fn hand_over(&self, record: Record, post: &mpsc::Sender<Parcel>) {
        self.dropped.waiting.fetch_add(1, Ordering::Relaxed);
        let Err(TrySendError::Full(back) | TrySendError::Closed(back)) =
            post.try_send(Parcel::Event(Box::new(record)))
        else {
            return;
        };
        self.dropped.waiting.fetch_sub(1, Ordering::Relaxed);
        if let Parcel::Event(record) = back {
            self.dropped.lose(&record);
        }
    }
}

/// Publishes events, one after the other.
struct Postman {
    parcels: mpsc::Receiver<Parcel>,
    publisher: Publisher,
    source: Source,
    is_closed: Arc<AtomicBool>,
    dropped: Arc<Dropped>,
}

impl Postman {
    async fn work(mut self) {
        let mut failing = false;
        while let Some(parcel) = self.parcels.recv().await {
            let record = match parcel {
                Parcel::Event(record) => record,
                Parcel::Finish(done) => {
                    let _ = done.send(());
                    continue;
                }
            };
            let is_published = self.publish(&record).await;
            self.dropped.waiting.fetch_sub(1, Ordering::Relaxed);
            if is_published {
                failing = false;
                continue;
            }
            self.dropped.lose(&record);
            if !failing {
                tracing::warn!(
                    event = "audit_unavailable",
                    subject = self.source.subject(),
                    "the audit stream takes no events from this service; they are in this log alone",
                );
            }
            failing = true;
        }
    }

    async fn publish(&self, record: &Record) -> bool {
        let id = message_id();
        let body = bytes::Bytes::from(record.line(&self.source));
        for _ in 0..TRIES {
            // One more try would be one more violation.
            let is_shut = self.dropped.is_shut.load(Ordering::Relaxed);
            if is_shut || self.is_closed.load(Ordering::Relaxed) {
                return false;
            }
            let one = [(id.clone(), body.clone())];
            match self.publisher.publish(one, &mut Vec::new()).await {
                Ok(()) => return true,
                Err(error) if error.kind() == PublishErrorKind::TimedOut => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk(dropped: &Arc<Dropped>) -> Desk {
        let (mut reporter, mut desk) =
            Reporter::new("billing", None, SignedDuration::from_secs(60), true);
        reporter.dropped = Arc::clone(dropped);
        desk.dropped = Arc::clone(dropped);
        desk
    }

    fn refused(subject: &str) -> Refused {
        Refused { act: Act::Publish, subject: subject.to_owned(), queue: None }
    }

    fn record(sequence: u64) -> Record {
        let (reason, detail) = ("test".to_owned(), String::new());
        let event = Event::Trouble(Trouble { reason, detail, service: None });
        Record { sequence, time: Timestamp::UNIX_EPOCH, event }
    }

    #[test]
    fn only_a_refusal_of_its_own_events_silences_it() {
        let desk = desk(&Arc::default());
        assert!(desk.is_own(&refused(&desk.source.subject())));
        for other in
            ["audit.events.orders.x", "audit.events.solewriter.x", "audit.events.billing.x"]
        {
            assert!(!desk.is_own(&refused(other)), "{other}");
        }
    }

    #[test]
    fn what_is_not_published_is_told_with_the_next_event() {
        let dropped = Arc::default();
        let mut desk = desk(&dropped);
        let (post, mut parcels) = mpsc::channel(4);
        let open = AtomicBool::new(false);
        // As the postman does, when the stream takes nothing.
        for number in [1, 2, 4] {
            dropped.lose(&record(number));
        }
        desk.folds.restore(5, Vec::new());
        let next = record(desk.folds.number());
        desk.post(next, &post, &open);
        let mut take = || match parcels.try_recv() {
            Ok(Parcel::Event(record)) => record,
            _ => panic!("nothing is told"),
        };
        assert_eq!(take().sequence, 5);
        let told = take();
        let Event::Lost(lost) = &told.event else { panic!("{told:?}") };
        assert_eq!((lost.count, lost.first, lost.last), (3, 1, 4));
        // That is not published either: the count is not lost with it.
        dropped.lose(&told);
        assert_eq!(*dropped.lost(), Some(Loss { count: 4, first: 1, last: told.sequence }));
        assert_eq!(dropped.counts(), (0, 3));
    }

    #[tokio::test]
    async fn what_is_left_at_the_end_counts_as_in_the_log_alone() {
        let (reporter, desk) = Reporter::new("billing", None, SignedDuration::ZERO, true);
        let (post, _parcels) = mpsc::channel(4);
        desk.hand_over(record(1), &post);
        assert_eq!(reporter.dropped(), (0, 0));
        // Nobody works: it does not end in time.
        reporter.close(Duration::from_millis(10)).await;
        assert_eq!(reporter.dropped(), (0, 1));
    }
}
