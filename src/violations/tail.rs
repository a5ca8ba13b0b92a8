//! A log file that grows, is renamed and replaced, or cut: its lines, each once, in order.
//!
//! nats-server (`logfile_size_limit`) and logrotate rename the file and go on in a new one; what
//! was open is read to its end first, and files that came and went in between are found beside it,
//! by the time of their last change. That one was removed is told: so may others be. A file that is cut in place (`copytruncate`) begins anew; what
//! nobody had read before the cut is lost, and cannot be noticed.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use solewriter_types::server_log::lines::{Lines, MAX_LINE};

/// How much is read at a time.
const CHUNK: usize = 256 * 1024;
/// How often a list of files is tried while they are being renamed.
const TRIES: u32 = 16;
/// How many bytes before a position tell whether it is still the same text.
const MARK: usize = 256;

/// Up to where a file was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    device: u64,
    inode: u64,
    /// Behind the last whole line.
    offset: u64,
    /// SHA-256 of the bytes before it, [`MARK`] at most.
    mark: String,
    /// When it was noted, in seconds since the Unix epoch: what was written later is unread.
    noted: u64,
}

/// Something other than a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// There may be more at once.
    More,
    /// Everything that is there has been read.
    UpToDate,
    /// There is no such file (yet).
    Missing,
    /// The file was cut, or another was put in its place under the same number; it is read from
    /// its beginning. Lines may be lost.
    Cut,
    /// The file that was read last is gone, or another by now. Lines may be lost: its own, or
    /// those of files that came and went since.
    Gone,
}

/// Where to begin in a file about which nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With its first line.
    Start,
    /// With what is written from now on.
    End,
}

type Id = (u64, u64);

struct Open {
    file: File,
    id: Id,
    /// How far the file was read.
    read: u64,
    /// The last bytes that were read, [`MARK`] at most.
    mark: Vec<u8>,
    /// Whether the last look found nothing new.
    idle: bool,
}

/// Follows one file by its name.
pub struct Tail {
    path: PathBuf,
    begin: Begin,
    resume: Option<Position>,
    open: Option<Open>,
    lines: Lines,
}

impl Tail {
    /// Follows `path`, from where it was left or, without that, from `begin`.
    #[must_use]
    pub fn new(path: &Path, resume: Option<Position>, begin: Begin) -> Self {
        let path = path.to_owned();
        Self { path, begin, resume, open: None, lines: Lines::default() }
    }

    /// Reads on, and gives the lines. Blocks as long as reading a file does.
    ///
    /// # Errors
    /// What the system says; go on calling.
    pub fn read(&mut self, line: impl FnMut(&[u8])) -> io::Result<News> {
        match self.read_on(line) {
            // Files are being renamed just now. Nothing was read.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(News::More),
            outcome => outcome,
        }
    }

    fn read_on(&mut self, mut line: impl FnMut(&[u8])) -> io::Result<News> {
        let Some(open) = &mut self.open else { return self.begin() };
        let metadata = open.file.metadata()?;
        let was_cut = metadata.len() < open.read
            || (open.idle && metadata.len() > open.read && !open.is_same_text()?);
        if was_cut {
            open.file.seek(SeekFrom::Start(0))?;
            (open.read, open.idle) = (0, false);
            open.mark.clear();
            self.lines.forget();
            return Ok(News::Cut);
        }
        let mut chunk = Vec::with_capacity(CHUNK);
        let length = (&open.file).take(CHUNK as u64).read_to_end(&mut chunk)?;
        if length > 0 {
            open.idle = false;
            open.passed(&chunk);
            self.lines.feed(&chunk, line);
            return Ok(News::More);
        }
        open.idle = true;
        if let Some(next) = self.successor()? {
            // Between the look at the end and the look at the folder, a line may have come.
            let mut rest = Vec::new();
            if let Some(open) = &mut self.open {
                (&open.file).take(CHUNK as u64).read_to_end(&mut rest)?;
                open.passed(&rest);
            }
            self.lines.feed(&rest, &mut line);
            if rest.is_empty() {
                let (is_removed, next) = (next.is_after_a_gap, next.open()?);
                self.lines.end(line);
                self.open = Some(next);
                return Ok(if is_removed { News::Gone } else { News::More });
            }
            return Ok(News::More);
        }
        Ok(News::UpToDate)
    }

    /// How far it is, for a later [`Tail::new`]. Lines that were given are before it.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        let Some(open) = &self.open else { return self.resume.clone() };
        let offset = open.read.saturating_sub(self.lines.pending());
        // Without a mark, a position is as good; only a replaced file is not noticed.
        let before = open.before(offset).unwrap_or_default();
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Some(Position {
            device: open.id.0,
            inode: open.id.1,
            offset,
            mark: if before.is_empty() { String::new() } else { marked(&before) },
            noted: since_epoch.map_or(0, |d| d.as_secs()),
        })
    }

    /// How many bytes are there to be read, in this file and those after it.
    #[must_use]
    pub fn behind(&self) -> u64 {
        let Some(open) = &self.open else { return 0 };
        let here = open.file.metadata().map_or(0, |m| m.len().saturating_sub(open.read));
        let after = self.after(open).unwrap_or_default();
        after.iter().map(|file| file.length).sum::<u64>() + here
    }

    /// How many lines were too long to be looked at.
    #[must_use]
    pub fn too_long(&self) -> u64 {
        self.lines.too_long
    }

    fn begin(&mut self) -> io::Result<News> {
        let Some(resume) = self.resume.clone() else {
            let Some(mut open) = Open::try_at(&self.path, 0)? else { return Ok(News::Missing) };
            if self.begin == Begin::End {
                open.skip_to_end()?;
            }
            // A file that comes later is new as a whole.
            self.begin = Begin::Start;
            self.open = Some(open);
            return Ok(News::More);
        };
        // Under its own name, or under the one that it has got meanwhile.
        for file in self.siblings()? {
            if file.id == (resume.device, resume.inode)
                && let Some(open) = Open::resume(&file.path, &resume)?
            {
                (self.open, self.resume) = (Some(open), None);
                return Ok(News::More);
            }
        }
        // What was written since is in whatever file was changed since.
        let mut left = self.siblings()?;
        left.retain(|file| file.changed.0 >= i64::try_from(resume.noted).unwrap_or(i64::MAX));
        match left.first() {
            Some(file) => {
                (self.open, self.resume) = (Some(file.open()?), None);
                Ok(News::Gone)
            }
            None => Ok(News::Missing),
        }
    }

    /// The file to read after the one that is open, once there is one.
    fn successor(&self) -> io::Result<Option<Sibling>> {
        let Some(open) = &self.open else { return Ok(None) };
        match fs::metadata(&self.path) {
            Ok(metadata) if identity(&metadata) != open.id => {}
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let next = self.after(open)?.into_iter().next();
        // logrotate makes the new file before the server knows: as long as nobody wrote to it,
        // the old one may still grow.
        Ok(next.filter(|file| !file.is_log || file.length > 0))
    }

    /// The files that came after that one, in order.
    fn after(&self, open: &Open) -> io::Result<Vec<Sibling>> {
        let mut files = self.siblings()?;
        if let Some(at) = files.iter().position(|file| file.id == open.id) {
            files.drain(..=at);
            return Ok(files);
        }
        // It was removed. What was changed later than it came after it, and more may be removed.
        let metadata = open.file.metadata()?;
        let changed = (metadata.mtime(), metadata.mtime_nsec());
        files.retain(|file| file.is_log || file.changed > changed);
        if let Some(first) = files.first_mut() {
            first.is_after_a_gap = true;
        }
        Ok(files)
    }

    /// The log and what it was renamed to, in the order of their last change; the log itself is
    /// the last. Compressed files are none: they hold what was read long ago.
    ///
    /// Listing a folder takes a moment. A file that is renamed in it can be missed under either
    /// name; so a list counts only when the log was one file before it and after it.
    fn siblings(&self) -> io::Result<Vec<Sibling>> {
        let log = || fs::metadata(&self.path).ok().map(|metadata| identity(&metadata));
        for _ in 0..TRIES {
            let before = log();
            let files = self.list()?;
            if log() == before {
                return Ok(files);
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    fn list(&self) -> io::Result<Vec<Sibling>> {
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned());
        let Some(name) = name else { return Err(io::ErrorKind::InvalidInput.into()) };
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut files = Vec::new();
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let found = entry.file_name().to_string_lossy().into_owned();
            let compressed =
                [".gz", ".bz2", ".xz", ".zst"].iter().any(|suffix| found.ends_with(suffix));
            if !found.starts_with(&name) || compressed {
                continue;
            }
            let path = if found == name { self.path.clone() } else { entry.path() };
            // It may be gone by now, and then it is none.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if metadata.is_file() {
                files.push(Sibling {
                    is_log: found == name,
                    is_after_a_gap: false,
                    changed: (metadata.mtime(), metadata.mtime_nsec()),
                    length: metadata.len(),
                    id: identity(&metadata),
                    path,
                });
            }
        }
        files.sort_by(|a, b| (a.is_log, a.changed, &a.path).cmp(&(b.is_log, b.changed, &b.path)));
        Ok(files)
    }
}

struct Sibling {
    is_log: bool,
    /// What came before it was removed.
    is_after_a_gap: bool,
    changed: (i64, i64),
    length: u64,
    id: Id,
    path: PathBuf,
}

impl Sibling {
    /// Opens it from its beginning, unless its name is another file's by now.
    fn open(&self) -> io::Result<Open> {
        let open = Open::at(&self.path, 0)?;
        if open.id == self.id { Ok(open) } else { Err(io::ErrorKind::Interrupted.into()) }
    }
}

fn identity(metadata: &fs::Metadata) -> Id {
    (metadata.dev(), metadata.ino())
}

fn marked(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

impl Open {
    fn at(path: &Path, offset: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        file.seek(SeekFrom::Start(offset))?;
        let mut open =
            Self { file, id: identity(&metadata), read: offset, mark: Vec::new(), idle: false };
        open.mark = open.before(offset)?;
        Ok(open)
    }

    fn try_at(path: &Path, offset: u64) -> io::Result<Option<Self>> {
        match Self::at(path, offset) {
            Ok(open) => Ok(Some(open)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// At a noted position, if the file still has that text before it.
    fn resume(path: &Path, position: &Position) -> io::Result<Option<Self>> {
        let Some(open) = Self::try_at(path, position.offset)? else { return Ok(None) };
        if open.id != (position.device, position.inode) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = open.file.metadata()?.len();
        let same = position.mark.is_empty() || position.mark == marked(&open.mark);
        Ok((length >= position.offset && same).then_some(open))
    }

    /// Passes over the whole lines that are there.
    fn skip_to_end(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let mut from = length;
        // A line that is being written now belongs to what comes.
        while from > 0 && length - from < MAX_LINE as u64 {
            let mut byte = [0];
            self.file.read_exact_at(&mut byte, from - 1)?;
            if byte == [b'\n'] {
                break;
            }
            from -= 1;
        }
        self.file.seek(SeekFrom::Start(from))?;
        self.read = from;
        self.mark = self.before(from)?;
        Ok(())
    }

    /// The bytes before an offset, [`MARK`] at most.
    fn before(&self, offset: u64) -> io::Result<Vec<u8>> {
        let length = offset.min(MARK as u64);
        let mut bytes = Vec::new();
        let mut buffer = vec![0; usize::try_from(length).unwrap_or(0)];
        match self.file.read_exact_at(&mut buffer, offset - length) {
            Ok(()) => bytes = buffer,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
        Ok(bytes)
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.read += bytes.len() as u64;
        self.mark.extend_from_slice(bytes);
        let excess = self.mark.len().saturating_sub(MARK);
        self.mark.drain(..excess);
    }

    /// Whether what stands before the end of what was read is what was read.
    fn is_same_text(&self) -> io::Result<bool> {
        Ok(self.before(self.read)?.ends_with(&self.mark))
    }
}

#[cfg(test)]
mod tests;
