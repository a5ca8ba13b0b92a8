//! Log lines on their way to stderr, through a bounded buffer.
//!
//! Whoever reads the log (a disk, a collector at the other end of a pipe) may be slow or stuck,
//! and a decision must not wait for it. So lines are gathered here and one thread writes them, many at
//! once. When the buffer is full, lines are lost and counted. `tracing-appender` does the same
//! with one wake-up of its thread for each line, which is a good part of what a decision costs.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use solewriter_types::clean;

/// The most that waits, in bytes: some 10,000 decisions.
const ROOM: usize = 8 * 1024 * 1024;
/// How long lines are gathered before they are written.
const GATHER: Duration = Duration::from_millis(5);
/// How long the end of the process waits for the last lines.
const FAREWELL: Duration = Duration::from_secs(1);

/// Lines that were lost because nobody took them, of the whole process.
pub(super) static LOST: LazyLock<Counter> = LazyLock::new(Counter::default);

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Lines are being written.
    writing: bool,
    /// The process ends: nothing is gathered any more.
    hurry: bool,
}

/// Where lines wait.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<(Mutex<State>, Condvar)>);

impl Lines {
    /// Begins to write to `sink` on a thread of its own.
    pub(super) fn to(mut sink: impl Write + Send + 'static) -> io::Result<Self> {
        let lines = Self::default();
        let writing = lines.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            let mut batch = Vec::new();
            let mut reported = LOST.get();
            loop {
                writing.next(&mut batch);
                // There is nowhere to say that the log cannot be written.
                let _ = sink.write_all(&batch).and_then(|()| sink.flush());
                batch.clear();
                let lost = LOST.get();
                if lost > reported {
                    tracing::warn!(
                        event = "log_lines_lost",
                        lines = lost - reported,
                        "log lines were lost because nobody read them fast enough"
                    );
                    reported = lost;
                }
            }
        })?;
        Ok(lines)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that a panic could leave half done is behind the lock.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for lines, gathers more for a moment, and swaps them into `batch`, which is empty.
    fn next(&self, batch: &mut Vec<u8>) {
        let mut state = self.state();
        state.writing = false;
        self.0.1.notify_all();
        while state.waiting.is_empty() {
            state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let hurry = state.hurry;
        drop(state);
        if !hurry {
            thread::sleep(GATHER);
        }
        let mut state = self.state();
        std::mem::swap(&mut state.waiting, batch);
        state.writing = true;
    }

    /// Takes a line or some, whole or not at all. Never waits for the sink.
    fn push(&self, line: &[u8]) {
        let mut state = self.state();
        if state.waiting.len() + line.len() > ROOM {
            drop(state);
            LOST.inc();
            return;
        }
        let first = state.waiting.is_empty();
        state.waiting.extend_from_slice(line);
        drop(state);
        if first {
            self.0.1.notify_all();
        }
    }

    /// Waits until everything is written, but not for long.
    pub(super) fn finish(&self) {
        let deadline = Instant::now() + FAREWELL;
        let mut state = self.state();
        state.hurry = true;
        while (state.writing || !state.waiting.is_empty()) && Instant::now() < deadline {
            let waited = self.0.1.wait_timeout(state, GATHER);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Lines on their way to [`Lines`], each written whole: nothing that a client, a server or a file
/// calls itself breaks one, or deceives who looks.
#[derive(Clone)]
pub(super) struct Cleaned {
    lines: Lines,
    json: bool,
}

impl Cleaned {
    pub(super) fn new(lines: Lines, json: bool) -> Self {
        Self { lines, json }
    }
}

impl Write for Cleaned {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let (body, end) = line.strip_suffix(b"\n").map_or((line, &b""[..]), |body| (body, b"\n"));
        // Almost all are so, and a decision waits for each.
        if body.iter().all(|byte| matches!(byte, b' '..=b'~')) {
            self.lines.push(line);
            return Ok(line.len());
        }
        let text = String::from_utf8_lossy(body);
        let text = if self.json {
            clean::json(&text).replace('\n', "\\n")
        } else {
            clean::coloured(&text).replace('\n', "\\n")
        };
        self.lines.push(&[text.as_bytes(), end].concat());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Sink(mpsc::Sender<Vec<u8>>, Option<mpsc::Receiver<()>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(stuck) = &self.1 {
                let _ = stuck.recv();
            }
            let _ = self.0.send(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Waits for the end, also on a machine that is too busy for one farewell.
    fn finish(lines: &Lines) {
        let written = || {
            lines.finish();
            let state = lines.state();
            !state.writing && state.waiting.is_empty()
        };
        assert!((0..20).any(|_| written()), "lines are left");
    }

    #[test]
    fn every_line_is_written_before_the_end() {
        let (sender, receiver) = mpsc::channel();
        let mut lines = Lines::to(Sink(sender, None)).unwrap();
        for number in 0..1000 {
            lines.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        finish(&lines);
        let written: Vec<u8> = receiver.try_iter().flatten().collect();
        let expected: String = (0..1000).map(|number| format!("{number}\n")).collect();
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }

    #[test]
    fn a_line_stays_one_line_whatever_it_quotes() {
        for json in [true, false] {
            let (sender, receiver) = mpsc::channel();
            let lines = Lines::to(Sink(sender, None)).unwrap();
            let mut cleaned = Cleaned::new(lines.clone(), json);
            let hostile = clean::HOSTILE;
            let line = if json {
                format!("{{\"a\":{}}}\n", serde_json::json!(hostile))
            } else {
                format!("\u{1b}[31mERROR\u{1b}[0m {hostile}\n")
            };
            cleaned.write_all(line.as_bytes()).unwrap();
            cleaned.write_all(b"{\"plain\":1}\n").unwrap();
            finish(&lines);
            let written: Vec<u8> = receiver.try_iter().flatten().collect();
            let written = String::from_utf8(written).unwrap();
            assert_eq!(written.lines().count(), 2, "{written:?}");
            assert!(written.ends_with("\n{\"plain\":1}\n"), "{written:?}");
            let first = written.lines().next().unwrap();
            if json {
                assert!(clean::dirt(first).is_empty(), "{first:?}");
                assert_eq!(serde_json::from_str::<serde_json::Value>(first).unwrap()["a"], hostile);
            } else {
                // Three: the two of ours, and a colour in the text, which does no harm.
                assert_eq!(clean::dirt(first), ['\u{1b}'; 3]);
            }
        }
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_no_time() {
        let (sender, receiver) = mpsc::channel();
        let (free, stuck) = mpsc::channel();
        let mut lines = Lines::to(Sink(sender, Some(stuck))).unwrap();
        let line = vec![b'x'; 1024 * 1024];
        let before = LOST.get();
        let began = Instant::now();
        for _ in 0..100 {
            lines.write_all(&line).unwrap();
        }
        // Nobody took anything: what was gathered and what waits behind it is all there is.
        assert!(LOST.get() - before >= 80, "{}", LOST.get() - before);
        lines.finish();
        assert!(began.elapsed() >= FAREWELL, "it gave the reader its time");
        drop(free);
        assert!(receiver.recv().unwrap().len() >= line.len());
    }
}
