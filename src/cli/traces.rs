//! nats-server's trace as files and streams, for the commands that read it.

use std::fs::File;
use std::io::{IsTerminal, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{note, runtime};
use crate::adoption::deed::Deed;
use crate::adoption::trace::{Source, Trace};
use crate::cli::common::{Output, line};
use crate::violations::tail::{Begin, News, Tail};
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::diagnostics::toml::show_size;
use solewriter_types::server_log::lines::Lines;

/// How much is read at a time.
const PIECE: usize = 256 * 1024;
/// How many pieces of standard input may wait.
const PIECES: usize = 16;
/// How long a file that has ended is left alone.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a terminal is told how far it is.
const PROGRESS: Duration = Duration::from_millis(500);

/// Where the trace is.
#[derive(Args, Clone, Debug)]
pub struct TraceArgs {
    /// nats-server's log with `trace: true`: files of one server or several, in the order of time,
    /// and `-` for standard input.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    trace: Vec<PathBuf>,
    /// Go on at the end of the files, which may be renamed meanwhile, until SIGINT or SIGTERM.
    #[arg(long)]
    follow: bool,
}

/// How it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// Lines that were too long to be looked at.
    pub too_long: u64,
}

impl TraceArgs {
    /// Whether there is any.
    pub(super) fn is_given(&self) -> bool {
        !self.trace.is_empty()
    }

    pub(super) fn follows(&self) -> bool {
        self.follow
    }

    /// Reads all of it. With --follow, until it is told to stop.
    pub(super) fn read(
        &self,
        trace: &mut Trace,
        mut deed: impl FnMut(Deed<'_>),
    ) -> Result<Reading, Output> {
        if self.trace.is_empty() {
            return Err(Output::cannot(
                &"give nats-server's log: --trace FILE, or - for standard input",
            ));
        }
        if let Some(twice) = self.trace.iter().filter(|path| is_stdin(path)).nth(1) {
            return Err(Output::cannot(&format!("{} is there once", twice.display())));
        }
        for path in self.trace.iter().filter(|path| !is_stdin(path)) {
            // Before anything is read: an answer about a part of them is none.
            File::open(path).map_err(|error| cannot_read(path, &error))?;
            if path.is_dir() {
                return Err(cannot_read(path, &std::io::ErrorKind::IsADirectory.into()));
            }
        }
        if self.follow { self.follow(trace, &mut deed) } else { self.once(trace, &mut deed) }
    }

    fn once(&self, trace: &mut Trace, deed: &mut dyn FnMut(Deed<'_>)) -> Result<Reading, Output> {
        let mut progress = Progress::new(&self.trace);
        let mut reading = Reading::default();
        let mut buffer = vec![0; PIECE];
        // Files are of one server, or tell the servers apart by themselves.
        let source = trace.source();
        for path in &self.trace {
            let mut input: Box<dyn Read> = if is_stdin(path) {
                Box::new(std::io::stdin().lock())
            } else {
                Box::new(File::open(path).map_err(|error| cannot_read(path, &error))?)
            };
            let mut lines = Lines::default();
            loop {
                let length = match input.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => length,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(cannot_read(path, &error)),
                };
                let piece = buffer.get(..length).unwrap_or_default();
                lines.feed(piece, |line| trace.line(source, line, &mut *deed));
                progress.passed(length, trace.counts().lines);
            }
            lines.end(|line| trace.line(source, line, &mut *deed));
            reading.too_long += lines.too_long;
        }
        progress.end();
        Ok(reading)
    }

    fn follow(&self, trace: &mut Trace, deed: &mut dyn FnMut(Deed<'_>)) -> Result<Reading, Output> {
        let runtime = runtime().map_err(|error| Output::cannot(&error))?;
        let stopped = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stopped);
        let listening = runtime.block_on(async move {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            tokio::spawn(async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                flag.store(true, Ordering::Relaxed);
            });
            Ok::<_, std::io::Error>(())
        });
        listening.map_err(|error| Output::cannot(&error))?;
        let mut inputs: Vec<Input> =
            self.trace.iter().map(|path| Input::of(path, trace.source())).collect();
        loop {
            // Asked before: what was written before the signal is read.
            let ends = stopped.load(Ordering::Relaxed);
            let mut idle = true;
            for input in &mut inputs {
                idle &= !input.read(trace, deed);
            }
            if ends || inputs.iter().all(Input::has_ended) {
                break;
            }
            if idle {
                std::thread::sleep(PAUSE);
            }
        }
        // A thread that waits for standard input would be waited for.
        runtime.shutdown_background();
        Ok(Reading { too_long: inputs.iter().map(Input::too_long).sum() })
    }
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// A file that people wrote.
pub(super) fn file(path: &Path) -> Result<SourceFile, Output> {
    let text = std::fs::read_to_string(path).map_err(|error| cannot_read(path, &error))?;
    Ok(SourceFile::new(path.display().to_string(), text))
}

pub(super) fn cannot_read(path: &Path, error: &std::io::Error) -> Output {
    Output::cannot(&format!("cannot read {}: {error}", line(&path.display().to_string())))
}

/// What is followed.
enum Input {
    File { path: PathBuf, tail: Box<Tail>, source: Source, troubled: bool },
    Stream { pieces: Receiver<Vec<u8>>, lines: Lines, source: Source, ended: bool },
}

impl Input {
    fn of(path: &Path, source: Source) -> Self {
        if !is_stdin(path) {
            let tail = Box::new(Tail::new(path, None, Begin::Start));
            return Self::File { path: path.to_owned(), tail, source, troubled: false };
        }
        let (send, pieces) = sync_channel(PIECES);
        std::thread::spawn(move || {
            let mut input = std::io::stdin().lock();
            let mut buffer = vec![0; PIECE];
            while let Ok(length @ 1..) = input.read(&mut buffer) {
                let piece = buffer.get(..length).unwrap_or_default().to_vec();
                if send.send(piece).is_err() {
                    return;
                }
            }
        });
        Self::Stream { pieces, lines: Lines::default(), source, ended: false }
    }

    /// Reads a piece; whether there may be more at once.
    fn read(&mut self, trace: &mut Trace, deed: &mut dyn FnMut(Deed<'_>)) -> bool {
        match self {
            Self::File { path, tail, source, troubled } => {
                let path = line(&path.display().to_string());
                match tail.read(|line| trace.line(*source, line, &mut *deed)) {
                    Ok(News::More) => true,
                    Ok(News::UpToDate | News::Missing) => false,
                    Ok(News::Cut | News::Gone) => {
                        note(&format!("note: lines of {path} may be lost: it was replaced"));
                        true
                    }
                    Err(error) => {
                        if !*troubled {
                            note(&format!("note: cannot read {path}: {error}; trying again"));
                        }
                        *troubled = true;
                        false
                    }
                }
            }
            Self::Stream { pieces, lines, source, ended } => match pieces.try_recv() {
                Ok(piece) => {
                    lines.feed(&piece, |line| trace.line(*source, line, &mut *deed));
                    true
                }
                Err(TryRecvError::Empty) => false,
                Err(TryRecvError::Disconnected) => {
                    lines.end(|line| trace.line(*source, line, &mut *deed));
                    *ended = true;
                    false
                }
            },
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self, Self::Stream { ended: true, .. })
    }

    fn too_long(&self) -> u64 {
        match self {
            Self::File { tail, .. } => tail.too_long(),
            Self::Stream { lines, .. } => lines.too_long,
        }
    }
}

/// Tells a terminal how far it is.
struct Progress {
    shown: bool,
    whole: u64,
    read: u64,
    began: Instant,
    told: Option<Instant>,
}

impl Progress {
    fn new(files: &[PathBuf]) -> Self {
        let length = |path: &PathBuf| std::fs::metadata(path).map_or(0, |found| found.len());
        Self {
            shown: std::io::stderr().is_terminal(),
            whole: files.iter().map(length).sum(),
            read: 0,
            began: Instant::now(),
            told: None,
        }
    }

    fn passed(&mut self, bytes: usize, lines: u64) {
        self.read += bytes as u64;
        if !self.shown || self.told.unwrap_or(self.began).elapsed() < PROGRESS {
            return;
        }
        self.told = Some(Instant::now());
        let per_second = u128::from(lines) * 1000 / self.began.elapsed().as_millis().max(1);
        let read = show_size(self.read - self.read % (1024 * 1024));
        // Of a stream, nobody knows how much is to come.
        let part = match (self.read * 100).checked_div(self.whole) {
            Some(percent) => format!(" ({} %)", percent.min(100)),
            None => String::new(),
        };
        let _ = write!(std::io::stderr(), "\r{read} read{part}, {per_second} lines/s \x1b[K");
    }

    fn end(&self) {
        if self.told.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
