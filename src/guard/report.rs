//! What becomes of a refusal: a log line, an audit event, and news for whoever waits for it.
//!
//! The client library's event callback only puts it into a queue. One task folds repeats and logs,
//! and never waits for the network; another publishes, and may wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use async_nats::{Client, jetstream};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::said::Refused;
use crate::audit::event::{
    Event, Lost, Record, SUBJECT_ROOT, Source, Trouble, Violation, cut, words,
};
use crate::audit::violation;
use crate::fold::{Folds, Told};
use crate::operation::{Act, Usage};

/// How many refusals may wait to be logged, and events to be published.
const QUEUE: usize = 256;
/// How many different refusals are folded at a time.
const FOLDS: usize = 256;
/// The longest subject in an event, in bytes; nats-server takes no longer one by default.
const MAX_SUBJECT: usize = 4096;
/// How long the stream may take to acknowledge an event, and how often it is tried.
const PATIENCE: Duration = Duration::from_secs(5);
const TRIES: u32 = 3;

/// What the guard was not able to tell.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    /// Refusals that did not even reach the log.
    pub unlogged: AtomicU64,
    /// Events that are in the log alone.
    pub unpublished: AtomicU64,
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
            folds: Folds::new(window, FOLDS),
            client: None,
            audit,
            dropped,
            lost: None,
        };
        (reporter, desk)
    }

    /// The server refused something.
    pub fn refused(&self, refused: Refused) {
        // Nobody may be waiting.
        let _ = self.news.send(refused.clone());
        self.report(Report::Refused(refused));
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

    pub fn dropped(&self) -> &Dropped {
        &self.dropped
    }

    /// Waits until everything reported so far is told.
    pub async fn finish(&self) {
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
    folds: Folds<Refused>,
    client: Option<Client>,
    audit: bool,
    dropped: Arc<Dropped>,
    /// Events in a row that were not published: how many, the first and the last.
    lost: Option<(u64, u64, u64)>,
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
            stream: jetstream::new(client.clone()),
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
            let is_own =
                told.refusal.act == Act::Publish && told.refusal.subject.starts_with(SUBJECT_ROOT);
            let event = self.event(&told);
            violation::log(&self.source.id(told.number), &event);
            let event = Event::Violation(event.into());
            let record = Record { sequence: told.number, time: told.last, event };
            if is_own {
                is_closed.store(true, Ordering::Relaxed);
                self.lose(record.sequence);
            } else {
                self.post(record, post, is_closed);
            }
        }
    }

    fn event(&self, told: &Told<Refused>) -> Violation {
        let Told { refusal, number: _, count, first, last, repeats } = told;
        let usage = Usage::of(refusal.act, &refusal.subject);
        let info = self.client.as_ref().map(Client::server_info);
        Violation {
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
            keyspace: usage.target.map(|target| words(&target.to_string())),
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

    /// Hands an event over, or counts it; and tells first of those that were counted.
    fn post(&mut self, record: Record, post: &mpsc::Sender<Parcel>, is_closed: &AtomicBool) {
        if !self.audit {
            return;
        }
        if is_closed.load(Ordering::Relaxed) {
            return self.lose(record.sequence);
        }
        if let Some((count, first, last)) = self.lost
            && post.capacity() > 1
        {
            let (reason, instance) = ("queue_full".to_owned(), self.source.instance.clone());
            let lost = Event::Lost(Lost { reason, count, instance, first, last });
            let sequence = self.folds.number();
            let lost = Record { sequence, time: Timestamp::now(), event: lost };
            if post.try_send(Parcel::Event(Box::new(lost))).is_ok() {
                self.lost = None;
            }
        }
        let sequence = record.sequence;
        if post.try_send(Parcel::Event(Box::new(record))).is_err() {
            self.lose(sequence);
        }
    }

    fn lose(&mut self, sequence: u64) {
        if self.audit {
            self.dropped.unpublished.fetch_add(1, Ordering::Relaxed);
            let (count, first, _) = self.lost.unwrap_or((0, sequence, sequence));
            self.lost = Some((count + 1, first, sequence));
        }
    }
}

/// Publishes events, one after the other.
struct Postman {
    parcels: mpsc::Receiver<Parcel>,
    stream: jetstream::Context,
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
            if self.publish(&record).await {
                failing = false;
                continue;
            }
            self.dropped.unpublished.fetch_add(1, Ordering::Relaxed);
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
        let id = self.source.id(record.sequence);
        let body = bytes::Bytes::from(record.line(&self.source));
        for _ in 0..TRIES {
            // One more try would be one more violation.
            if self.is_closed.load(Ordering::Relaxed) {
                return false;
            }
            let message = PublishMessage::build().message_id(id.as_str()).payload(body.clone());
            let Ok(sent) = self.stream.send_publish(self.source.subject(), message).await else {
                continue;
            };
            // The stream drops what it has already, by the id.
            match timeout(PATIENCE, sent.into_future()).await {
                Ok(Ok(_)) => return true,
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(200)).await,
                Err(_) => {}
            }
        }
        false
    }
}
