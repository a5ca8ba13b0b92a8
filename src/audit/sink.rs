//! From the queue to disk, and from disk to the stream. A thread of its own does both, so that no
//! decision ever waits for either.
//!
//! - Each event is written to the spool before it is sent, and removed when the stream has
//!   acknowledged it. One batch is on its way at a time, and after a failure one event, until the
//!   stream takes it: of a batch that begins to get through in its middle, the first ones would
//!   come last. So the order of the stream is the order of the numbers.
//! - What was sent and not acknowledged is sent again with the same message id, which the stream
//!   remembers for [`super::stream::DUPLICATE_WINDOW`]. What is older than [`SURE`] is sent again
//!   only after the stream was asked for the last event that it has of this run.
//! - What earlier runs left in the spool is sent first.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::queue::Intake;
use super::sender::{self, Published, Question, SendError, Target};
use super::spool::{Line, Run};
use crate::audit::sequence_file::SequenceFile;
use solewriter_guard::publish::Pace;
use solewriter_types::audit_event::{Event, SUBJECT_ROOT, Trouble};
use solewriter_types::audit_loss::Loss;

/// The most events that are on their way to the stream, and their bytes.
const BATCH: usize = 256;
const BATCH_BYTES: u64 = 512 * 1024;
/// Younger events than this are surely among the message ids that the stream remembers.
pub const SURE: Duration = Duration::from_secs(60);
/// How long the stream is asked for its last event before older ones are sent without an answer.
const UNANSWERED: Duration = Duration::from_secs(60);
/// The longest pause between two attempts.
const PAUSE_AT_MOST: Duration = Duration::from_secs(2);
/// Events are gathered for so long before they are written: under load, a decision then wakes
/// nobody. This much may be lost when the process is killed.
const GATHER: Duration = Duration::from_millis(3);
/// How often what waits is synced to the disk, and left spools are looked for.
const TICK: Duration = Duration::from_secs(1);
const LOOK_EVERY: u32 = 10;
/// How long a sink that does not end is waited for, beyond the time that it was given: its disk
/// may hang.
const GRACE: Duration = Duration::from_secs(2);
/// How often it is said that events do not get through.
const SAY_EVERY: Duration = Duration::from_secs(30);
/// How long after the start nothing may get through before that is an error: the stream may not
/// have been made yet, or nats-server may not run yet.
const FIRST_WITHIN: Duration = Duration::from_secs(60);

/// Where events are kept until the stream has them.
#[derive(Clone, Debug)]
pub struct Spool {
    /// The folder, which instances may share.
    pub dir: PathBuf,
    /// What may wait in it for this instance, in bytes.
    pub limit: u64,
}

/// The running sink.
pub struct Sink {
    finish: oneshot::Sender<Instant>,
    ended: oneshot::Receiver<u64>,
}

impl Sink {
    /// Starts it.
    ///
    /// # Errors
    /// A message, when the spool cannot be used.
    pub fn start(intake: Intake, target: Target, spool: Spool) -> Result<Self, String> {
        let cannot = |error: std::io::Error| {
            format!("[audit] spool: {} cannot be used: {error}", spool.dir.display())
        };
        let own = Run::create(&spool.dir, &intake.source().instance).map_err(cannot)?;
        intake.count_in(SequenceFile::create(&own.instance));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| error.to_string())?;
        let ask = sender::start(target).map_err(|error| error.to_string())?;
        let (finish, finishing) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let mut keeper = SinkWorker {
            intake,
            ask,
            spool,
            own: Sending::new(own),
            old: VecDeque::new(),
            unwritten: Vec::new(),
            lost: None,
            on_its_way: None,
            pace: Pace::new(BATCH, PAUSE_AT_MOST),
            not_before: None,
            failing: None,
            said: None,
            expected_by: Some(Instant::now() + FIRST_WITHIN),
        };
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || {
                runtime.block_on(keeper.work(finishing));
                let _ = end.send(keeper.leave());
            })
            .map_err(|error| error.to_string())?;
        Ok(Self { finish, ended })
    }

    /// Sends what is left, for at most so long. Gives how many events wait in the spool for the
    /// next start; `None` when nobody knows, because its disk hangs or its thread is gone.
    pub async fn finish(self, patience: Duration) -> Option<u64> {
        let _ = self.finish.send(Instant::now() + patience);
        tokio::time::timeout(patience + GRACE, self.ended).await.ok()?.ok()
    }
}

/// A run whose events are being sent.
struct Sending {
    run: Run,
    /// Events up to this number may have been sent without our knowing whether they arrived.
    unsure: u64,
    /// The last event that the stream has, when that was asked since.
    stored: Option<u64>,
}

impl Sending {
    fn new(run: Run) -> Self {
        Self { run, unsure: 0, stored: None }
    }
}

enum Way {
    Last(oneshot::Receiver<Result<Option<String>, SendError>>),
    Publish(Vec<Line>, oneshot::Receiver<Published>),
}

enum Answer {
    Last(Result<Option<String>, SendError>),
    Publish(Vec<Line>, Published),
}

impl Way {
    /// Can be given up between two polls without loss: the receiver stays.
    async fn answer(&mut self) -> Answer {
        match self {
            Self::Last(answer) => Answer::Last(answer.await.unwrap_or(Err(SendError::Lost))),
            Self::Publish(lines, answer) => {
                let published = answer.await.unwrap_or_else(|_| Published::none(SendError::Lost));
                Answer::Publish(std::mem::take(lines), published)
            }
        }
    }
}

/// Waits for the rest of the time of gathering, and until there is something to write.
async fn more(intake: &Intake, gathered: Instant) {
    tokio::time::sleep_until(gathered).await;
    intake.filled().await;
}

struct SinkWorker {
    intake: Intake,
    ask: mpsc::Sender<Question>,
    spool: Spool,
    own: Sending,
    /// Earlier runs, oldest first; their events go before ours.
    old: VecDeque<Sending>,
    /// Taken from the queue, and not on disk because that failed.
    unwritten: Vec<(u64, String)>,
    /// What did not fit into the spool and was not told of yet.
    lost: Option<Loss>,
    /// The instance that it belongs to, and the question.
    on_its_way: Option<(String, Way)>,
    pace: Pace,
    not_before: Option<Instant>,
    /// Since when nothing gets through.
    failing: Option<Instant>,
    said: Option<Instant>,
    /// Until when it is no error that nothing got through yet; `None` once something did.
    expected_by: Option<Instant>,
}

impl SinkWorker {
    async fn work(&mut self, mut finishing: oneshot::Receiver<Instant>) {
        let mut end: Option<Instant> = None;
        let mut ticks = 0u32;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.look_for_old();
        let mut gathered = Instant::now();
        loop {
            if (end.is_some() || Instant::now() >= gathered) && self.write() {
                gathered = Instant::now() + GATHER;
            }
            self.send();
            if let Some(end) = end {
                let done = self.pending().0 == 0 && self.on_its_way.is_none();
                // What fails now is for the next start: nobody should wait for it.
                if done || self.not_before.is_some() || Instant::now() >= end {
                    return;
                }
            }
            let retry = self.not_before.unwrap_or_else(|| Instant::now() + TICK);
            let way = self.on_its_way.as_mut();
            let answered = async {
                match way {
                    Some((_, way)) => way.answer().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = more(&self.intake, gathered), if self.unwritten.is_empty() => {}
                answer = answered => self.answered(answer),
                () = tokio::time::sleep_until(retry), if self.not_before.is_some() => {
                    self.not_before = None;
                }
                _ = tick.tick() => {
                    self.sync();
                    ticks = ticks.wrapping_add(1);
                    if ticks.is_multiple_of(LOOK_EVERY) {
                        self.look_for_old();
                    }
                }
                // Dropped by who started us: that is an end too.
                asked = &mut finishing, if end.is_none() => {
                    end = Some(asked.unwrap_or_else(|_| Instant::now()));
                    // A last attempt, whatever failed before.
                    self.not_before = None;
                }
            }
        }
    }

    /// What waits for the stream: events and bytes.
    fn pending(&self) -> (u64, u64) {
        let mut all = self.own.run.pending();
        for old in &self.old {
            let (count, bytes) = old.run.pending();
            all = (all.0 + count, all.1 + bytes);
        }
        all
    }

    fn count(&self) {
        let (count, bytes) = self.pending();
        self.intake.metrics().audit_pending(count, bytes);
    }

    /// Takes what was recorded, and writes what fits. Gives whether there was anything.
    fn write(&mut self) -> bool {
        if self.unwritten.is_empty() {
            let mut bytes = self.pending().1;
            let source = self.intake.source();
            for record in self.intake.take(Timestamp::now()) {
                let line = record.line(source);
                let length = line.len() as u64 + 1;
                if bytes + length > self.spool.limit {
                    if self.lost.is_none() {
                        tracing::error!(
                            event = "audit_spool_full",
                            limit = self.spool.limit,
                            "the spool is full: from now on events are lost, and counted",
                        );
                    }
                    Loss::one(record.sequence).add_to(&mut self.lost);
                    self.intake.metrics().audit_lost("spool_full", 1);
                } else {
                    bytes += length;
                    self.unwritten.push((record.sequence, line));
                }
            }
            // Only once there is enough room again, not at the first free byte.
            if bytes < self.spool.limit / 10 * 9 {
                self.tell_loss();
            }
        }
        let anything = !self.unwritten.is_empty();
        self.write_down();
        anything
    }

    fn write_down(&mut self) {
        if self.unwritten.is_empty() {
            return;
        }
        match self.own.run.append(&self.unwritten) {
            Ok(()) => self.unwritten.clear(),
            Err(error) => self.say(&format!("cannot write to the spool: {error}")),
        }
        self.count();
    }

    /// Records what did not fit into the spool, if anything.
    fn tell_loss(&mut self) {
        let Some(loss) = self.lost.take() else { return };
        let source = self.intake.source();
        let event = loss.event("spool_full", &source.instance);
        let record = self.intake.number(event, Timestamp::now());
        self.unwritten.push((record.sequence, record.line(source)));
        // Numbered a moment ago, behind whatever came meanwhile and is in the queue.
        for record in self.intake.take(Timestamp::now()) {
            self.unwritten.push((record.sequence, record.line(source)));
        }
        self.unwritten.sort_by_key(|(sequence, _)| *sequence);
    }

    fn sync(&mut self) {
        if let Err(error) = self.own.run.sync() {
            self.say(&format!("cannot sync the spool: {error}"));
        }
    }

    /// Says that something fails, now and then.
    fn say(&mut self, what: &str) {
        if let Some((pending, bytes)) = self.due_to_say() {
            tracing::error!(
                event = "audit_waiting",
                error = what,
                pending,
                bytes,
                "events do not reach the audit stream; they are kept and sent later",
            );
        }
    }

    /// What waits, if something is to be said now.
    fn due_to_say(&mut self) -> Option<(u64, u64)> {
        let now = Instant::now();
        let due = self.said.is_none_or(|said| now - said >= SAY_EVERY);
        due.then(|| {
            self.said = Some(now);
            self.pending()
        })
    }

    /// Says that events do not get through: no error at a first start, before the stream is made.
    fn say_unsent(&mut self, what: &str) {
        if self.expected_by.is_none_or(|at| Instant::now() >= at) {
            self.say(what);
        } else if let Some((pending, bytes)) = self.due_to_say() {
            tracing::warn!(
                event = "audit_waiting",
                error = what,
                pending,
                bytes,
                "no event is in the audit stream yet; they are kept and sent later",
            );
        }
    }

    /// Asks the next thing, if nothing is on its way and something waits.
    fn send(&mut self) {
        while self.on_its_way.is_none() && self.not_before.is_none() {
            if !self.ask_next() {
                return;
            }
        }
    }

    /// Whether there was something to do.
    fn ask_next(&mut self) -> bool {
        while self.old.front().is_some_and(|old| old.run.pending().0 == 0) {
            if let Some(old) = self.old.pop_front()
                && let Err(error) = old.run.remove()
            {
                self.say(&format!("cannot remove an old spool: {error}"));
            }
        }
        let producer = self.intake.source().producer.clone();
        let sending = self.old.front_mut().unwrap_or(&mut self.own);
        if sending.run.pending().0 == 0 {
            return false;
        }
        let instance = sending.run.instance.clone();
        let subject = format!("{SUBJECT_ROOT}.{producer}.{instance}");
        let mut lines = match sending.run.next(self.pace.most(), BATCH_BYTES) {
            Ok(lines) => lines,
            Err(error) => {
                self.failed(&format!("cannot read the spool: {error}"));
                return false;
            }
        };
        if lines.is_empty() {
            let damage = sending.run.give_up();
            self.tell_damage(&instance, damage);
            return true;
        }
        let now = Timestamp::now();
        let stale = |line: &Line| now.duration_since(line.time).unsigned_abs() > SURE;
        let doubtful = lines.first().is_some_and(|l| l.sequence <= sending.unsure && stale(l));
        if doubtful && sending.stored.is_none() {
            let (answer, receiver) = oneshot::channel();
            self.put(Question::Last { subject, answer }, instance, Way::Last(receiver));
            return true;
        }
        let stored = sending.stored.unwrap_or(0);
        let known = lines.iter().take_while(|l| l.sequence <= stored && stale(l)).count();
        if known > 0 {
            lines.truncate(known);
            self.got_through(&instance, &lines, known);
            return true;
        }
        let (answer, receiver) = oneshot::channel();
        let way = Way::Publish(lines.clone(), receiver);
        let (unsure, named) = (sending.unsure, instance.clone());
        self.put(
            Question::Publish { subject, instance: named, lines, unsure, answer },
            instance,
            way,
        );
        true
    }

    fn put(&mut self, question: Question, instance: String, way: Way) {
        // There is room: one question at a time.
        match self.ask.try_send(question) {
            Ok(()) => self.on_its_way = Some((instance, way)),
            Err(_) => self.failed("the sending thread has ended"),
        }
    }

    fn sending(&mut self, instance: &str) -> &mut Sending {
        let old = self.old.iter_mut().find(|old| old.run.instance == instance);
        old.unwrap_or(&mut self.own)
    }

    /// These need not be sent any more, and the stream has so many of them.
    fn got_through(&mut self, instance: &str, lines: &[Line], stored: usize) {
        if let Err(error) = self.sending(instance).run.done(lines) {
            self.say(&format!("cannot record what the stream has: {error}"));
        }
        self.intake.metrics().audit_published(stored as u64);
        self.count();
    }

    /// Records events that the stream dropped as duplicates although they were never sent before:
    /// somebody who may publish there used their ids first.
    fn tell_taken(&self, instance: &str, numbers: &[u64]) {
        let mut loss = None;
        for number in numbers {
            Loss::one(*number).add_to(&mut loss);
        }
        let Some(loss) = loss else { return };
        self.intake.metrics().audit_lost("id_taken", loss.count);
        let recorder = self.intake.recorder();
        recorder.record(Event::Trouble(Trouble {
            reason: "audit_id_taken".to_owned(),
            detail: format!(
                "the stream dropped {} events of {instance}, from number {} on, because it \
                 already had messages with their ids, although they were never sent before. The \
                 log has the events. Somebody else who publishes to the stream used these ids",
                loss.count, loss.first
            ),
            service: None,
        }));
        recorder.record(loss.event("id_taken", instance));
    }

    /// Records events that were in the spool and are gone.
    fn tell_damage(&self, instance: &str, loss: Loss) {
        let count = loss.count;
        self.intake.metrics().audit_lost("damaged", count);
        let recorder = self.intake.recorder();
        recorder.record(Event::Trouble(Trouble {
            reason: "audit_spool_damaged".to_owned(),
            detail: format!(
                "{count} events that waited in the spool of {instance} are gone; the log has them"
            ),
            service: None,
        }));
        recorder.record(loss.event("damaged", instance));
    }

    fn answered(&mut self, answer: Answer) {
        let Some((instance, _)) = self.on_its_way.take() else { return };
        match answer {
            Answer::Last(Ok(id)) => {
                let number = |id: String| id.rsplit_once('-')?.1.parse().ok();
                let stored = id.and_then(number).unwrap_or(0);
                self.sending(&instance).stored = Some(stored);
                self.works();
            }
            Answer::Last(Err(error)) => {
                let reached = !matches!(error, SendError::Connect(_) | SendError::Lost);
                if reached && self.failing.is_some_and(|since| since.elapsed() > UNANSWERED) {
                    // Late and perhaps twice is better than never.
                    tracing::warn!(
                        event = "audit_unchecked",
                        instance,
                        "the stream cannot be asked which events it has; some may be sent twice",
                    );
                    self.sending(&instance).stored = Some(0);
                }
                self.failed(&error.to_string());
            }
            Answer::Publish(lines, Published { done, taken, outcome }) => {
                let (through, rest) = lines.split_at(done.min(lines.len()));
                self.got_through(&instance, through, through.len().saturating_sub(taken.len()));
                self.tell_taken(&instance, &taken);
                if let Some(last) = rest.last() {
                    let sending = self.sending(&instance);
                    sending.unsure = sending.unsure.max(last.sequence);
                    sending.stored = None;
                }
                match outcome {
                    Ok(()) => {
                        self.pace.took();
                        self.works();
                    }
                    Err(error) => self.failed(&error.to_string()),
                }
            }
        }
    }

    fn works(&mut self) {
        self.pace.answered();
        self.expected_by = None;
        self.intake.metrics().audit_connected(true);
        if let Some(since) = self.failing.take() {
            self.said = None;
            tracing::info!(
                event = "audit_flowing",
                after_seconds = since.elapsed().as_secs(),
                "events reach the audit stream again",
            );
        }
    }

    fn failed(&mut self, error: &str) {
        self.intake.metrics().audit_connected(false);
        self.failing.get_or_insert_with(Instant::now);
        self.say_unsent(error);
        self.not_before = Some(Instant::now() + self.pace.failed());
    }

    /// Takes over what runs left that are no more, and tells what they lost.
    fn look_for_old(&mut self) {
        let own = self.intake.source().instance.clone();
        let mut told = Vec::new();
        for found in Run::left_behind(&self.spool.dir, &own) {
            let run = match found {
                Ok(run) => run,
                Err((dir, error)) => {
                    self.say(&format!("cannot take over {}: {error}", dir.display()));
                    continue;
                }
            };
            let (pending, _) = run.pending();
            tracing::info!(event = "audit_left", instance = run.instance, pending);
            if !run.ended() {
                self.tell_what_was_lost(&run);
                told.push(run.instance.clone());
            }
            if let Some(damage) = run.damage() {
                self.tell_damage(&run.instance, damage);
            }
            self.old.push_back(Sending { run, unsure: u64::MAX, stored: None });
        }
        // Who is killed right here must leave it to the next to tell. What is told is on disk before
        // anything of these runs is removed.
        self.write();
        if self.unwritten.is_empty() {
            for instance in &told {
                SequenceFile::forget(instance);
            }
        }
        self.count();
    }

    /// A run that was killed had events in memory that were not on disk yet.
    fn tell_what_was_lost(&mut self, run: &Run) {
        let instance = run.instance.clone();
        let event = match SequenceFile::left_by(&instance, &run.lock_file()) {
            Some(recorded) if recorded <= run.last() => return,
            Some(recorded) => {
                let (first, count) = (run.last() + 1, recorded - run.last());
                self.intake.metrics().audit_lost("killed", count);
                Loss { count, first, last: recorded }.event("killed", &instance)
            }
            None => Event::Trouble(Trouble {
                reason: "audit_end_unknown".to_owned(),
                detail: format!(
                    "the run {instance} was killed, and its count of events was lost with the \
                     machine's memory. Events of its last milliseconds, after number {}, may be \
                     missing from the stream; the log has them",
                    run.last()
                ),
                service: None,
            }),
        };
        self.intake.recorder().record(event);
    }

    /// The end of the run. Gives how many events are left for the next one.
    fn leave(&mut self) -> u64 {
        self.intake.ends_soon();
        self.write();
        self.tell_loss();
        self.write_down();
        self.sync();
        let (pending, _) = self.pending();
        self.intake.end();
        if let Err(error) = self.own.run.end() {
            self.say(&format!("cannot close the spool: {error}"));
        }
        pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sink_whose_disk_hangs_is_not_waited_for() {
        let (finish, _finishing) = oneshot::channel();
        let (_end, ended) = oneshot::channel();
        let began = Instant::now();
        assert_eq!(Sink { finish, ended }.finish(Duration::from_millis(10)).await, None);
        assert!(began.elapsed() < GRACE * 3, "{:?}", began.elapsed());
        let (finish, _finishing) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        end.send(7).unwrap();
        assert_eq!(Sink { finish, ended }.finish(Duration::ZERO).await, Some(7));
    }
}
