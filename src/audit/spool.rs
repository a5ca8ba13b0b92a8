//! Events on disk: written before they are sent, removed when the stream has them.
//!
//! Each run of a producer has a folder of its own, `<spool>/<instance>/`, and keeps it locked
//! while it lives. A folder that nobody locks is what a run left behind, and the next one to look
//! takes it over. In it:
//!
//! - `<first sequence number>.jsonl`: events, one a line, appended to and removed as a whole;
//! - `acked`: the number of the last event that the stream has acknowledged;
//! - `lock`.
//!
//! What is written survives the end of the process, however it ends. It survives the end of the
//! machine once it is synced, which [`Run::sync`] does.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;

use solewriter_types::audit_loss::Loss;

/// A file of events is followed by another one from this size on, in bytes.
const SEGMENT_BYTES: u64 = 1024 * 1024;
/// A file that a run leaves that ended by itself and could not send everything.
const ENDED: &str = "ended";
/// The longest line that is read; events are far smaller.
const MAX_LINE_BYTES: usize = 256 * 1024;

/// An event as it is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number.
    pub sequence: u64,
    /// When it was recorded.
    pub time: Timestamp,
    /// The JSON, without the line's end.
    pub bytes: Vec<u8>,
}

/// What is read of a line, whatever else is in it.
#[derive(Deserialize)]
struct Head<'a> {
    sequence: &'a str,
    time: Timestamp,
}

impl Line {
    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let head: Head<'_> = serde_json::from_slice(&bytes).ok()?;
        let (sequence, time) = (head.sequence.parse().ok()?, head.time);
        Some(Self { sequence, time, bytes })
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64 + 1
    }
}

struct Segment {
    path: PathBuf,
    bytes: u64,
}

/// One run's events on disk.
pub struct Run {
    /// Names the run.
    pub instance: String,
    dir: PathBuf,
    _lock: File,
    acked_file: File,
    /// The last event that the stream has.
    acked: u64,
    /// The last event that is here; what was recorded later is lost or not written yet.
    last: u64,
    segments: VecDeque<Segment>,
    /// The last segment, open for appending.
    writing: Option<File>,
    /// How much of the first segment is done with.
    offset: u64,
    /// Not done with, in all segments.
    pending: u64,
    pending_bytes: u64,
    synced: bool,
    /// Files before the last one that are not synced.
    unsynced: Vec<File>,
    /// There is a file that the folder on the disk may not have.
    is_new: bool,
    /// Lines that were found damaged when the run was taken over.
    damage: Option<Loss>,
}

impl Run {
    /// Makes the folder of a new run.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(spool: &Path, instance: &str) -> io::Result<Self> {
        std::fs::create_dir_all(spool)?;
        // Locked before it has a name that others look at.
        let aside = spool.join(format!(".{instance}"));
        private_dir(&aside)?;
        let lock = open(&aside.join("lock"))?;
        lock.try_lock().map_err(|error| io::Error::other(error.to_string()))?;
        let dir = spool.join(instance);
        std::fs::rename(&aside, &dir)?;
        Self::at(dir, instance, lock)
    }

    fn at(dir: PathBuf, instance: &str, lock: File) -> io::Result<Self> {
        let acked_file = open(&dir.join("acked"))?;
        Ok(Self {
            instance: instance.to_owned(),
            dir,
            _lock: lock,
            acked_file,
            acked: 0,
            last: 0,
            segments: VecDeque::new(),
            writing: None,
            offset: 0,
            pending: 0,
            pending_bytes: 0,
            synced: true,
            unsynced: Vec::new(),
            is_new: true,
            damage: None,
        })
    }

    /// Takes over what earlier runs left, oldest first. A run whose folder cannot be read stays
    /// there, and is told by its error.
    pub fn left_behind(spool: &Path, own: &str) -> Vec<Result<Self, (PathBuf, io::Error)>> {
        let Ok(entries) = std::fs::read_dir(spool) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name != own && name.chars().all(|c| c.is_ascii_alphanumeric()))
            .collect();
        names.sort();
        let adopt = |name: &String| {
            let dir = spool.join(name);
            Self::adopt(dir.clone(), name).map_err(|error| (dir, error)).transpose()
        };
        names.iter().filter_map(adopt).collect()
    }

    /// `None` when its run lives.
    fn adopt(dir: PathBuf, instance: &str) -> io::Result<Option<Self>> {
        let lock = match OpenOptions::new().write(true).open(dir.join("lock")) {
            Ok(lock) => lock,
            // Somebody else took it over and is done with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if lock.try_lock().is_err() {
            return Ok(None);
        }
        let mut run = Self::at(dir, instance, lock)?;
        run.read_all()?;
        Ok(Some(run))
    }

    /// Finds out what is there.
    fn read_all(&mut self) -> io::Result<()> {
        let mut text = String::new();
        // What cannot be read counts as nothing acknowledged; the stream is asked then.
        if Read::take(&mut self.acked_file, 64).read_to_string(&mut text).is_ok() {
            self.acked = text.trim().parse().unwrap_or(0);
        }
        let mut names: Vec<PathBuf> = std::fs::read_dir(&self.dir)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
            .collect();
        names.sort();
        for path in names {
            let bytes = std::fs::metadata(&path)?.len();
            self.segments.push_back(Segment { path, bytes });
        }
        self.last = self.acked;
        let mut at = 0;
        let mut first = None;
        // The last number before damage, and how many lines of it: whether the stream has them
        // shows in the next number.
        let (mut before, mut damaged) = (0, 0);
        for (index, segment) in self.segments.iter().enumerate() {
            let mut reader = BufReader::new(File::open(&segment.path)?);
            at = 0;
            while let Some((line, length)) = next_line(&mut reader)? {
                if let Some(line) = &line {
                    if damaged > 0 && line.sequence > self.acked + 1 {
                        let first = before.max(self.acked) + 1;
                        // No more than there are numbers for: others were acknowledged.
                        let count = damaged.min(line.sequence.saturating_sub(first));
                        Loss { count, first, last: line.sequence - 1 }.add_to(&mut self.damage);
                    }
                    (before, damaged) = (line.sequence, 0);
                } else {
                    damaged += 1;
                }
                if let Some(line) = line.filter(|line| line.sequence > self.acked) {
                    first.get_or_insert((index, at));
                    self.pending += 1;
                    self.pending_bytes += line.len();
                    self.last = self.last.max(line.sequence);
                }
                at += length;
            }
        }
        // Behind the last line, only a run that ended by itself is known to have lost them here: of
        // one that was killed, its count tells.
        if damaged > 0 && self.ended() {
            let first = self.last + 1;
            let last = self.last + damaged;
            Loss { count: damaged, first, last }.add_to(&mut self.damage);
        }
        let (index, offset) = first.unwrap_or((self.segments.len(), at));
        for segment in self.segments.drain(..index) {
            std::fs::remove_file(segment.path)?;
        }
        self.offset = offset;
        Ok(())
    }

    /// Events that the stream has not acknowledged, and their size in bytes.
    #[must_use]
    pub fn pending(&self) -> (u64, u64) {
        (self.pending, self.pending_bytes)
    }

    /// Nothing waits any more, because it is gone. Gives what that was.
    pub fn give_up(&mut self) -> Loss {
        self.pending_bytes = 0;
        let count = std::mem::take(&mut self.pending);
        Loss { count, first: self.acked + 1, last: self.last }
    }

    /// Lines between others that were found damaged when the run was taken over, and that the
    /// stream did not have.
    #[must_use]
    pub fn damage(&self) -> Option<Loss> {
        self.damage
    }

    /// The number of the last event that was written.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Appends lines, all or none.
    ///
    /// # Errors
    /// What the file system says; then none of them is there.
    pub fn append(&mut self, lines: &[(u64, String)]) -> io::Result<()> {
        let Some((first, _)) = lines.first() else { return Ok(()) };
        let full = self.segments.back().is_none_or(|segment| segment.bytes >= SEGMENT_BYTES);
        if full || self.writing.is_none() {
            let path = self.dir.join(format!("{first:020}.jsonl"));
            let file = open(&path)?;
            if let Some(before) = self.writing.replace(file)
                && !self.synced
            {
                self.unsynced.push(before);
            }
            self.is_new = true;
            self.segments.push_back(Segment { path, bytes: 0 });
            self.forget_done()?;
        }
        let mut text = String::with_capacity(lines.iter().map(|(_, line)| line.len() + 1).sum());
        for (_, line) in lines {
            text.push_str(line);
            text.push('\n');
        }
        let (Some(file), Some(segment)) = (&mut self.writing, self.segments.back_mut()) else {
            return Err(io::Error::other("no file to write to"));
        };
        if let Err(error) = file.write_all(text.as_bytes()) {
            // Half a line would be taken for damage later.
            file.set_len(segment.bytes)?;
            file.seek(SeekFrom::Start(segment.bytes))?;
            return Err(error);
        }
        let length = text.len() as u64;
        segment.bytes += length;
        self.pending += lines.len() as u64;
        self.pending_bytes += length;
        self.last = lines.last().map_or(self.last, |(sequence, _)| *sequence);
        self.synced = false;
        Ok(())
    }

    /// The next lines that the stream has not acknowledged: at most so many, and so many bytes.
    ///
    /// # Errors
    /// What the file system says.
    pub fn next(&mut self, most: usize, most_bytes: u64) -> io::Result<Vec<Line>> {
        let mut lines = Vec::new();
        let (mut bytes, mut offset) = (0, self.offset);
        for segment in &self.segments {
            let mut file = File::open(&segment.path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut reader = BufReader::new(file);
            offset = 0;
            while lines.len() < most && bytes < most_bytes {
                let Some((line, length)) = next_line(&mut reader)? else { break };
                bytes += length;
                lines.extend(line.filter(|line| line.sequence > self.acked));
            }
            if lines.len() >= most || bytes >= most_bytes {
                break;
            }
        }
        Ok(lines)
    }

    /// The stream has these lines, which [`Run::next`] gave first.
    ///
    /// # Errors
    /// What the file system says. Nothing is lost by it: the lines are sent again, and the stream
    /// knows them.
    pub fn done(&mut self, lines: &[Line]) -> io::Result<()> {
        let Some(last) = lines.last() else { return Ok(()) };
        self.acked = last.sequence;
        self.pending = self.pending.saturating_sub(lines.len() as u64);
        let bytes: u64 = lines.iter().map(Line::len).sum();
        self.pending_bytes = self.pending_bytes.saturating_sub(bytes);
        // Damaged lines between them make the place inexact, never too far: what is read again is
        // left out by its number.
        self.offset += bytes;
        self.forget_done()?;
        self.acked_file.seek(SeekFrom::Start(0))?;
        self.acked_file.write_all(format!("{:020}\n", self.acked).as_bytes())
    }

    /// Removes files that are done with, except the one that is written to.
    fn forget_done(&mut self) -> io::Result<()> {
        while self.segments.len() > 1
            && let Some(segment) = self.segments.front()
            && self.offset >= segment.bytes
        {
            std::fs::remove_file(&segment.path)?;
            self.offset -= segment.bytes;
            self.segments.pop_front();
        }
        Ok(())
    }

    /// Writes to the disk itself what has not been, if anything waits: the files, and the folder
    /// that names them.
    ///
    /// # Errors
    /// What the file system says; then it is tried again the next time.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.pending == 0 {
            // The stream has what was in them.
            self.unsynced.clear();
            return Ok(());
        }
        while let Some(file) = self.unsynced.last() {
            file.sync_data()?;
            self.unsynced.pop();
        }
        if !self.synced {
            if let Some(file) = &self.writing {
                file.sync_data()?;
            }
            self.synced = true;
        }
        if self.is_new {
            sync_folder(&self.dir)?;
            if let Some(spool) = self.dir.parent() {
                sync_folder(spool)?;
            }
            self.is_new = false;
        }
        Ok(())
    }

    /// Notes that the run ended by itself, or removes its folder when nothing waits in it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn end(&mut self) -> io::Result<()> {
        if self.pending > 0 {
            return open(&self.dir.join(ENDED))?.sync_all();
        }
        self.clear()
    }

    /// Whether the run ended by itself.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.dir.join(ENDED).exists()
    }

    /// A file of the run's own.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// Removes the folder of a run that is over, with whatever is in it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(mut self) -> io::Result<()> {
        self.clear()
    }

    fn clear(&mut self) -> io::Result<()> {
        for segment in self.segments.drain(..) {
            match std::fs::remove_file(&segment.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::remove_file(self.dir.join("acked"))?;
        if self.ended() {
            std::fs::remove_file(self.dir.join(ENDED))?;
        }
        // The lock goes last: who cannot open it takes the folder for done.
        std::fs::remove_file(self.lock_file())?;
        std::fs::remove_dir(&self.dir)
    }
}

/// Writes to the disk itself which files a folder has.
fn sync_folder(path: &Path) -> io::Result<()> {
    // Elsewhere a folder cannot be opened.
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// The next line and its length with its end. The line is `None` when it is damaged; a last line
/// without an end is one that was being written, and is nothing.
fn next_line(reader: &mut impl BufRead) -> io::Result<Option<(Option<Line>, u64)>> {
    let mut bytes = Vec::new();
    let length = reader.by_ref().take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut bytes)? as u64;
    if bytes.pop() != Some(b'\n') {
        return Ok(None);
    }
    Ok(Some((Line::parse(bytes), length)))
}

/// Opens for reading and writing, and makes it if it is not there; for its owner alone.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)
}

fn private_dir(path: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.recursive(true).create(path)
}

#[cfg(test)]
mod tests;
