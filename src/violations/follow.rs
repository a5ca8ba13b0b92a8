//! The follower at work: from lines to what is told, in the log and in the audit stream.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::explain::Explainer;
use super::outbox::{CAPACITY, Outbox};
use super::state::{Outgoing, State, StateFile};
use super::tail::{News, Tail};
use crate::policy_source::snapshot_store::Store;
use solewriter_core::callout::issue::ConnectionName;
use solewriter_types::audit_event::{Event, Record, SUBJECT_ROOT, Source, Trouble, message_id};
use solewriter_types::dedup::{Dedup, MAX_FOLDS, Told};
use solewriter_types::server_log::line::{Line, Refusal, parse};
use solewriter_types::server_log::lines::Lines;
use solewriter_types::violation_log;

/// How often a file is looked at that has nothing new.
const LOOK: Duration = Duration::from_millis(50);
/// How often what was told is saved, and then published.
const SAVE: Duration = Duration::from_millis(150);
/// How often the position is saved when nothing was told.
const SAVE_QUIET: Duration = Duration::from_secs(2);
/// For how long there must be more to read before it counts as being behind, and how often that
/// is said.
const BEHIND: Duration = Duration::from_secs(1);
const BEHIND_AGAIN: Duration = Duration::from_secs(10);
/// How long the last events may take at the end.
const FAREWELL: Duration = Duration::from_secs(5);
/// How many refusals of our own events are folded at a time: they differ by connection alone.
const MAX_OWN_FOLDS: usize = 64;
/// How long after everything was read what comes is the server's again: it writes a line, with
/// whatever a client put into it, in one go.
const SETTLED: Duration = Duration::from_secs(2);
/// How many violations of a stream are known again after a restart.
const RECENT: usize = 1024;

/// Where lines come from.
pub enum Input {
    /// A file.
    File(Box<Tail>),
    /// Bytes as they come, until there are no more.
    Stream(mpsc::Receiver<Vec<u8>>, Lines),
}

/// How to follow.
pub struct Options {
    /// Repeats within this time are counted together; zero tells each by itself.
    pub window: SignedDuration,
    /// The zone of the times in the log.
    pub zone: TimeZone,
    /// The server's name, if its log need not be asked.
    pub server: Option<String>,
    /// The follower's own service, as which it publishes.
    pub service: String,
    /// Whether events are published.
    pub publishes: bool,
}

/// Counts, for the end and for tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lines read.
    pub lines: u64,
    /// Violations among them.
    pub violations: u64,
    /// What was told of them.
    pub told: u64,
    /// Lines that seem to be violations and are not understood.
    pub strange: u64,
    /// Lines that were too long to be looked at.
    pub too_long: u64,
}

/// Follows one server's log.
pub struct Follower {
    options: Options,
    input: Input,
    folds: Dedup<Refusal>,
    /// Refusals of our own events. They are only logged, and have no number, so that the numbers of
    /// published events have no gaps.
    own: Dedup<Refusal>,
    own_subjects: String,
    explainer: Explainer,
    store: Option<Arc<Store>>,
    file: Option<StateFile>,
    source: Source,
    server: Option<String>,
    recent: VecDeque<u64>,
    /// Those of the last run: they may come again.
    known: HashSet<u64>,
    staged: Vec<Arc<Outgoing>>,
    outbox: Arc<Outbox>,
    tally: Counts,
    strange_said: bool,
    too_long_said: bool,
    /// Whether what is read may be a client's words, because a line before it was [`Line::Loose`].
    loose: bool,
    /// When everything was read since.
    settling: Option<Instant>,
}

/// What one look at the input came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Looked {
    More,
    UpToDate,
    Ended,
}

impl Follower {
    /// Begins, or goes on from `state`. `input` must be where that state says.
    #[must_use]
    pub fn new(
        options: Options,
        input: Input,
        explainer: Explainer,
        store: Option<Arc<Store>>,
        state: State,
        file: Option<StateFile>,
    ) -> Self {
        let State {
            instance,
            next,
            server,
            position: _,
            recent,
            folds: open,
            own_folds,
            loose,
            outbox,
        } = state;
        let mut folds = Dedup::new(options.window, MAX_FOLDS);
        folds.restore(next.max(1), open);
        let mut own = Dedup::new(options.window, MAX_OWN_FOLDS);
        own.restore(1, own_folds);
        let waiting = Arc::new(Outbox::default());
        waiting.put(outbox.into_iter().map(Arc::new));
        Self {
            source: Source { producer: options.service.clone(), instance },
            server: options.server.clone().or(server),
            own_subjects: format!("{SUBJECT_ROOT}.{}.", options.service),
            options,
            input,
            folds,
            own,
            explainer,
            store,
            file,
            known: recent.iter().copied().collect(),
            recent: recent.into(),
            staged: Vec::new(),
            outbox: waiting,
            tally: Counts::default(),
            strange_said: false,
            loose,
            settling: None,
            too_long_said: false,
        }
    }

    /// What waits to be published, for [`Outbox::deliver`].
    #[must_use]
    pub fn outbox(&self) -> Arc<Outbox> {
        Arc::clone(&self.outbox)
    }

    /// Where events go.
    #[must_use]
    pub fn subject(&self) -> String {
        self.source.subject()
    }

    /// Follows until there is nothing more to come or `stop` says so; then tells what is counted,
    /// waits a little for the last acknowledgements, and saves.
    ///
    /// # Errors
    /// When the state cannot be saved: going on would tell things twice.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> io::Result<Counts> {
        let mut saved = Instant::now();
        let mut lag = Lag::default();
        loop {
            if let Some(snapshot) = self.store.as_ref().and_then(|store| store.current()) {
                self.explainer.set(snapshot);
            }
            let looked = self.look().await;
            let pause = match looked {
                Looked::More => Duration::ZERO,
                Looked::UpToDate | Looked::Ended => {
                    let (mut told, mut own) = (Vec::new(), Vec::new());
                    let now = Timestamp::now();
                    self.folds.end_passed(now, &mut told);
                    self.own.end_passed(now, &mut own);
                    self.stage(told);
                    self.log_own(own);
                    LOOK
                }
            };
            let due = if self.staged.is_empty() { SAVE_QUIET } else { SAVE };
            // While up to date, what was told goes out at once.
            if saved.elapsed() >= due || (looked != Looked::More && !self.staged.is_empty()) {
                self.save()?;
                saved = Instant::now();
            }
            lag.note(looked == Looked::More, &self.input);
            if looked == Looked::Ended || *stop.borrow() {
                break;
            }
            while self.options.publishes && self.outbox.len() >= CAPACITY && !*stop.borrow() {
                lag.note(true, &self.input);
                let _ = timeout(BEHIND, self.outbox.delivered()).await;
            }
            if pause.is_zero() {
                tokio::task::yield_now().await;
            } else {
                let _ = timeout(pause, stop.changed()).await;
            }
        }
        self.end().await
    }

    async fn end(mut self) -> io::Result<Counts> {
        let (mut told, mut own) = (Vec::new(), Vec::new());
        self.folds.end_all(&mut told);
        self.own.end_all(&mut own);
        self.stage(told);
        self.log_own(own);
        self.save()?;
        let deadline = Instant::now() + FAREWELL;
        while self.options.publishes && !self.outbox.is_empty() && Instant::now() < deadline {
            let _ = timeout(LOOK, self.outbox.delivered()).await;
        }
        self.save()?;
        let waiting = self.outbox.len();
        if waiting > 0 && self.options.publishes {
            let kept = if self.file.is_some() { "kept for the next start" } else { "lost" };
            tracing::error!(event = "unacknowledged", waiting, "these events are {kept}");
        }
        let Counts { lines, violations, told, strange, too_long } = self.tally;
        tracing::info!(event = "stopped", lines, violations, told, strange, too_long, waiting);
        Ok(self.tally)
    }

    /// Reads a piece of the input.
    async fn look(&mut self) -> Looked {
        let mut lines = Batch { loose: self.loose, ..Batch::default() };
        let looked = match &mut self.input {
            Input::File(tail) => {
                let read = tail.read(|line| lines.take(line));
                self.tally.too_long = tail.too_long();
                match read {
                    Ok(News::More) => Looked::More,
                    Ok(News::UpToDate | News::Missing) => Looked::UpToDate,
                    Ok(news @ (News::Cut | News::Gone)) => {
                        self.trouble(gap(news));
                        Looked::More
                    }
                    Err(error) => {
                        tracing::error!(event = "log_unreadable", %error, "trying again");
                        sleep(BEHIND).await;
                        Looked::UpToDate
                    }
                }
            }
            Input::Stream(bytes, cutter) => match timeout(LOOK, bytes.recv()).await {
                Ok(Some(chunk)) => {
                    cutter.feed(&chunk, |line| lines.take(line));
                    self.tally.too_long = cutter.too_long;
                    if bytes.is_empty() { Looked::UpToDate } else { Looked::More }
                }
                Ok(None) => {
                    cutter.end(|line| lines.take(line));
                    Looked::Ended
                }
                Err(_) => Looked::UpToDate,
            },
        };
        self.settle(lines.loosened, looked);
        self.take(lines);
        looked
    }

    /// Decides whether what is read from now on is the server's.
    fn settle(&mut self, loosened: bool, looked: Looked) {
        if loosened {
            (self.loose, self.settling) = (true, None);
        }
        if self.loose && looked == Looked::UpToDate {
            let since = *self.settling.get_or_insert_with(Instant::now);
            if since.elapsed() >= SETTLED {
                (self.loose, self.settling) = (false, None);
            }
        }
    }

    fn take(&mut self, batch: Batch) {
        let Batch { lines, found, names, strange, loose: _, loosened: _ } = batch;
        self.tally.lines += lines;
        if let Some(name) = names
            && self.options.server.is_none()
        {
            self.server = Some(name);
        }
        let now = Timestamp::now();
        let (mut told, mut own) = (Vec::new(), Vec::new());
        for (refusal, hash) in found {
            if matches!(self.input, Input::Stream(..)) && refusal.at.is_some() {
                if self.known.contains(&hash) {
                    continue;
                }
                self.recent.push_back(hash);
                if self.recent.len() > RECENT {
                    self.recent.pop_front();
                }
            }
            self.tally.violations += 1;
            let time = refusal.at.and_then(|at| self.options.zone.to_timestamp(at).ok());
            let time = time.unwrap_or(now);
            if self.is_own(&refusal) {
                self.own.take(refusal, time, now, &mut own);
            } else {
                self.folds.take(refusal, time, now, &mut told);
            }
        }
        self.stage(told);
        self.log_own(own);
        self.tally.strange += strange;
        if strange > 0 && !self.strange_said {
            self.strange_said = true;
            self.trouble(
                "the server's log has violations in a form that this version of solewriter does \
                 not know; they are not reported. Is the server newer than 2.15?",
            );
        }
        if self.tally.too_long > 0 && !self.too_long_said {
            self.too_long_said = true;
            self.trouble(
                "the server's log has lines longer than 64 KiB, which no client can cause; they \
                 are skipped, and counted until the end. Is this the log of one nats-server?",
            );
        }
    }

    /// Logs what is told, and has it published after the next save.
    fn stage(&mut self, told: Vec<Told<Refusal>>) {
        for told in told {
            let event = self.explainer.event(&told, self.server.as_deref(), &self.source);
            self.tally.told += 1;
            violation_log::log(Some(&self.source.id(told.number)), &event);
            let (sequence, time) = (told.number, told.last);
            self.publish(&Record { sequence, time, event: Event::Violation(event.into()) });
        }
    }

    /// Logs refusals of our own events. Told to the audit stream, each would come back: what
    /// forbids us that subject forbids the event about it too.
    fn log_own(&mut self, told: Vec<Told<Refusal>>) {
        for told in told {
            let mut event = self.explainer.event(&told, self.server.as_deref(), &self.source);
            self.tally.told += 1;
            // That one has no id either.
            event.repeats = None;
            violation_log::log(None, &event);
        }
    }

    fn is_own(&self, refusal: &Refusal) -> bool {
        let is_ours = |user: &String| {
            ConnectionName::parse(user)
                .is_some_and(|granted| granted.service == self.options.service)
        };
        refusal.subject.starts_with(&self.own_subjects)
            && refusal.user.as_ref().is_some_and(is_ours)
    }

    fn publish(&mut self, record: &Record) {
        if self.options.publishes {
            let id = message_id();
            self.staged.push(Arc::new(Outgoing { id, body: record.line(&self.source) }));
        }
    }

    /// Tells of something that needs a person.
    fn trouble(&mut self, detail: &str) {
        let sequence = self.folds.number();
        let (reason, detail) = ("violations_log".to_owned(), detail.to_owned());
        tracing::error!(event = "trouble", audit = self.source.id(sequence), reason, detail);
        let event = Event::Trouble(Trouble { reason, detail, service: None });
        self.publish(&Record { sequence, time: Timestamp::now(), event });
    }

    /// Saves, and lets go what waited for that.
    fn save(&mut self) -> io::Result<()> {
        if let Some(file) = &self.file {
            let mut outbox = self.outbox.saved();
            outbox.extend(self.staged.iter().map(|event| Outgoing::clone(event)));
            file.save(&State {
                instance: self.source.instance.clone(),
                next: self.folds.next(),
                server: self.server.clone(),
                position: match &self.input {
                    Input::File(tail) => tail.position(),
                    Input::Stream(..) => None,
                },
                recent: self.recent.iter().copied().collect(),
                folds: self.folds.saved(),
                own_folds: self.own.saved(),
                loose: self.loose,
                outbox,
            })?;
        }
        self.outbox.put(self.staged.drain(..));
        Ok(())
    }
}

fn gap(news: News) -> &'static str {
    match news {
        News::Cut => {
            "the server's log was cut in place; what was written to it since it was last read may \
             be lost. Let it be renamed instead (logfile_size_limit, or logrotate without \
             copytruncate)"
        }
        _ => {
            "the log file that was read last is gone, or has other content; violations that were \
             only there, or in files that existed only meanwhile, are lost"
        }
    }
}

/// What one piece of the input has.
#[derive(Default)]
struct Batch {
    lines: u64,
    found: Vec<(Refusal, u64)>,
    names: Option<String>,
    strange: u64,
    /// Whether the next line may be a client's words.
    loose: bool,
    /// Whether one of these lines made it so.
    loosened: bool,
}

impl Batch {
    fn take(&mut self, line: &[u8]) {
        self.lines += 1;
        match parse(line) {
            Line::Refusal(refusal) => {
                let refusal = Refusal { unproved: self.loose, ..*refusal };
                self.found.push((refusal, hash(line)));
            }
            Line::ServerName(name) if !self.loose => self.names = Some(name),
            Line::Loose => (self.loose, self.loosened) = (true, true),
            Line::Strange => self.strange += 1,
            Line::ServerName(_) | Line::Other => {}
        }
    }
}

/// The same for the same line, in every version.
fn hash(line: &[u8]) -> u64 {
    let digest = digest(&SHA256, line);
    let first = digest.as_ref().first_chunk().copied();
    u64::from_be_bytes(first.unwrap_or_default())
}

/// Says when there is more to read than is read.
#[derive(Default)]
struct Lag {
    since: Option<Instant>,
    said: Option<Instant>,
}

impl Lag {
    fn note(&mut self, behind: bool, input: &Input) {
        if !behind {
            if self.said.is_some() {
                tracing::info!(event = "caught_up", "everything in the log has been read");
            }
            *self = Self::default();
            return;
        }
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        let is_due = self.said.is_none_or(|said| now - said >= BEHIND_AGAIN);
        if now - since >= BEHIND && is_due {
            self.said = Some(now);
            let (bytes, chunks) = match input {
                Input::File(tail) => (Some(tail.behind()), None),
                Input::Stream(bytes, _) => (None, Some(bytes.len())),
            };
            tracing::warn!(
                event = "behind",
                bytes,
                chunks,
                seconds = (now - since).as_secs(),
                "the log is written faster than it is read, or was already long at the start",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use solewriter_core::grant::Defaults;

    const KEY: &str = "UCRAFZAHGBQKZ5WVGGAZTW3N7PIO7NNEZC77U2TFP7DSBDSFHKEUCIHK";

    fn line(second: u32, service: &str, subject: &str) -> String {
        format!(
            "[1] 2026/11/23 18:12:{second:02}.000000 [ERR] h:1 - cid:7 - \"v2:rust:x\" - \
             \"APP/user:{service}/{KEY}/0123456789ab\" - Publish Violation - Subject \"{subject}\"\n"
        )
    }

    async fn follow(text: String) -> (Counts, State) {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::new(&folder.path().join("state.json"));
        let options = Options {
            window: SignedDuration::from_secs(60),
            zone: TimeZone::UTC,
            server: None,
            service: "violations".to_owned(),
            publishes: true,
        };
        let lifetime = Duration::from_secs(60);
        let explainer = Explainer::new(Defaults {
            account: "APP".into(),
            lifetime,
            audit: solewriter_core::grant::AuditStreams::default(),
        });
        let (send, pieces) = mpsc::channel(1);
        send.send(text.into_bytes()).await.unwrap();
        drop(send);
        let input = Input::Stream(pieces, Lines::default());
        let state = State { instance: "i".to_owned(), ..State::default() };
        let follower = Follower::new(options, input, explainer, None, state, Some(file.clone()));
        let (_stop, stopped) = watch::channel(false);
        // Nobody takes the events: they are in the state at the end.
        let tally = follower.run(stopped).await.unwrap();
        (tally, file.load().unwrap().unwrap())
    }

    /// A leafnode's name, with line breaks in it: by a short line, and by one that is too long to be
    /// looked at.
    #[tokio::test]
    async fn what_may_be_a_clients_words_is_of_nobody() {
        let left = "[1] 2026/11/23 18:12:02.0 [INF] h:1 - lid:6 - Leafnode connection closed: x - Remote: ";
        for name in ["edge\n".to_owned(), "e".repeat(2 * 64 * 1024) + "\n"] {
            let text = [
                line(1, "intruder", "$KV.orders.a"),
                format!("{left}{name}"),
                line(3, "intruder", "$KV.orders.a"),
                "[1] 2026/11/23 18:12:04.0 [INF]   Name:            forged\n".to_owned(),
                line(5, "victim", "$KV.orders.b"),
            ];
            let (tally, state) = follow(text.concat()).await;
            assert_eq!((tally.violations, tally.told), (3, 3));
            let events: Vec<serde_json::Value> = state
                .outbox
                .iter()
                .map(|event| serde_json::from_str(&event.body).unwrap())
                .filter(|event: &serde_json::Value| event["type"] == "solewriter.violation")
                .collect();
            let brief: Vec<[&serde_json::Value; 4]> = events
                .iter()
                .map(|event| &event["data"])
                .map(|data| [&data["service"], &data["unproved"], &data["count"], &data["server"]])
                .collect();
            let null = &serde_json::Value::Null;
            let (one, yes) = (&serde_json::json!(1), &serde_json::json!(true));
            let told = [&serde_json::json!("intruder"), null, one, null];
            let doubted = [null, yes, one, null];
            assert_eq!(brief, [told, doubted, doubted]);
            // Also after a restart, and until everything was read for a while.
            assert!(state.loose);
        }
    }

    #[tokio::test]
    async fn what_is_published_is_numbered_without_a_gap_and_long_lines_are_told_once() {
        let own = "audit.events.violations.i";
        let text = [
            line(1, "intruder", "$KV.orders.a"),
            line(2, "violations", own),
            line(3, "violations", own),
            line(4, "intruder", "$KV.orders.b"),
            // Somebody else there is a violation like any other, and so is it elsewhere.
            line(5, "intruder", own),
            line(6, "violations", "audit.events.solewriter.i"),
            "x".repeat(2 * 64 * 1024) + "\n",
            "y".repeat(2 * 64 * 1024) + "\n",
        ];
        let (tally, state) = follow(text.concat()).await;
        assert_eq!((tally.violations, tally.told, tally.too_long), (6, 6, 2));
        let events: Vec<serde_json::Value> =
            state.outbox.iter().map(|event| serde_json::from_str(&event.body).unwrap()).collect();
        let brief: Vec<(&str, &str)> = events
            .iter()
            .map(|event| {
                let data = &event["data"];
                let what = data["subject"].as_str().or(data["reason"].as_str()).unwrap();
                (event["sequence"].as_str().unwrap(), what)
            })
            .collect();
        let expected = [
            ("000000000001", "$KV.orders.a"),
            ("000000000002", "$KV.orders.b"),
            ("000000000003", own),
            ("000000000004", "audit.events.solewriter.i"),
            ("000000000005", "violations_log"),
        ];
        assert_eq!(brief, expected);
        assert_eq!(state.next, 6);
    }
}
