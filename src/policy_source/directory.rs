//! The policy directory: texts as they lie on disk. Parses nothing.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fs::{self, Metadata};
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use solewriter_core::diagnostics::{Collector, Problem, Problems, SourceFile};
use solewriter_types::clean;

/// The most bytes that a policy may have in all.
pub const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The most files that a policy may have, and the most entries that are looked at.
pub const MAX_FILES: usize = 20_000;

/// How often files that change under the reader's eyes are read anew, and how much longer each
/// time it waits before.
const ATTEMPTS: u32 = 8;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(10);

/// The deepest folder, counted from the policy directory.
const MAX_DEPTH: usize = 16;

/// What the name of a file of assertions about the policy ends in. It is no part of the policy.
pub const TEST_SUFFIX: &str = ".test.toml";

/// What the name of a file ends in that holds a document of an emergency.
pub const EMERGENCY_SUFFIX: &str = ".emergency";

/// What a file in a policy directory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A part of the policy: `*.toml`.
    Policy,
    /// Assertions about it: `*.test.toml`.
    Test,
    /// A document that a person signed: `*.emergency`.
    Emergency,
}

impl Kind {
    /// The kind of file that a name stands for. `None` for a file that is nobody's business.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        if name.ends_with(TEST_SUFFIX) {
            Some(Self::Test)
        } else if name.ends_with(EMERGENCY_SUFFIX) {
            Some(Self::Emergency)
        } else if name.ends_with(".toml") {
            Some(Self::Policy)
        } else {
            None
        }
    }
}

/// A directory of policy files: every `*.toml` in it and below, but for names that begin with a
/// dot (`.git`, editors' files, the `..data` of a mounted Kubernetes config map) and for
/// assertions about the policy, `*.test.toml`. Symbolic links are followed where they lead to
/// something in the directory itself, as those of a mounted config map do; others are errors, and
/// nothing is read through them: somebody who may add a file here must not read every file that
/// solewriter can read.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

/// One file that was found.
struct Found {
    /// Relative to the directory, with `/` between folders.
    name: String,
    /// Where it is, without any symbolic link, from the directory on.
    path: PathBuf,
    metadata: Metadata,
}

impl Directory {
    /// Names a directory; nothing is read yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads all files, sorted by name, as they were at one time: files that are replaced while
    /// they are read are read again. Blocks.
    ///
    /// # Errors
    /// Every file and folder that cannot be read, is not UTF-8, or is beyond [`MAX_BYTES`] and
    /// [`MAX_FILES`]; a directory without any policy file; and one that changes all the time.
    pub fn read(&self) -> Result<Vec<SourceFile>, Problems> {
        self.read_seen(&mut Known::default()).1
    }

    /// The same, with the fingerprint of what was read. Files that are known are not read again, and
    /// those that were read are known then.
    pub(super) fn read_seen(&self, known: &mut Known) -> (u64, Result<Vec<SourceFile>, Problems>) {
        let files = self.read_steadily(Kind::Policy, known);
        let fingerprint = files.0;
        let files = files.1.and_then(|files| {
            if files.is_empty() {
                let path = self.path.display();
                return Err(Problem::error("empty-policy", format!("no policy file in {path}"))
                    .help("put at least one `*.toml` file with a `[service.NAME]` table there")
                    .into());
            }
            Ok(files)
        });
        (fingerprint, files)
    }

    /// Reads the files of assertions, sorted by name; there may be none. Blocks.
    ///
    /// # Errors
    /// As [`Directory::read`].
    pub fn read_tests(&self) -> Result<Vec<SourceFile>, Problems> {
        self.read_steadily(Kind::Test, &mut Known::default()).1
    }

    /// Reads the documents of emergencies; there may be none. Blocks.
    ///
    /// # Errors
    /// As [`Directory::read`].
    pub fn read_emergencies(&self) -> Result<Vec<String>, Problems> {
        let files = self.read_steadily(Kind::Emergency, &mut Known::default()).1?;
        Ok(files.into_iter().map(|file| file.text().to_owned()).collect())
    }

    /// What is read is of one moment: the list of files is the same before and after, and each
    /// file that was opened is the one that was listed.
    fn read_steadily(
        &self,
        kind: Kind,
        known: &mut Known,
    ) -> (u64, Result<Vec<SourceFile>, Problems>) {
        let mut before = self.fingerprint(kind);
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(BETWEEN_ATTEMPTS * attempt);
                before = self.fingerprint(kind);
            }
            let read = self.read_kind(kind, known, SystemTime::now());
            if self.fingerprint(kind) == before
                && let Some(files) = read
            {
                return (before, files);
            }
        }
        let path = self.path.display();
        let problem =
            Problem::error("unsteady", format!("the files in {path} changed while they were read"))
                .help("they are read again as soon as they stay the same for a moment");
        (before, Err(problem.into()))
    }

    /// `None` when a file was replaced under the reader's eyes. `now` is the time at which it begins.
    fn read_kind(
        &self,
        kind: Kind,
        known: &mut Known,
        now: SystemTime,
    ) -> Option<Result<Vec<SourceFile>, Problems>> {
        let before = std::mem::take(known);
        let problems = Collector::new();
        let top = self.top();
        let found = self.find(&top, kind, &problems);
        let mut left = MAX_BYTES;
        let mut files = Vec::with_capacity(found.len());
        for Found { name, path, metadata } in &found {
            if let Some(file) = before.get(name, metadata, left) {
                left -= file.text().len() as u64;
                known.insert(metadata, file.clone(), now);
                files.push(file);
                continue;
            }
            match read_up_to(&top, path, metadata, left) {
                Ok((opened, _)) if !same_file(&opened, metadata) => return None,
                Ok((_, Some(bytes))) => {
                    left -= bytes.len() as u64;
                    let Some(file) = decode(name, bytes, &problems) else { continue };
                    let file = before.shared(file);
                    known.insert(metadata, file.clone(), now);
                    files.push(file);
                }
                Ok((_, None)) => {
                    problems.push(
                        Problem::error(
                            "too-large",
                            format!("the policy has more than {} MiB in all", MAX_BYTES >> 20),
                        )
                        .help(format!(
                            "reading stopped at {name}; does the directory have other files?"
                        )),
                    );
                    break;
                }
                Err(error) if is_swapped(&error) => return None,
                Err(error) => problems.push(unreadable(name, &error)),
            }
        }
        Some(if problems.has_errors() { Err(problems.finish()) } else { Ok(files) })
    }

    /// The directory itself. Where it leads is asked once, so that a link that is swapped meanwhile
    /// mixes nothing.
    fn top(&self) -> PathBuf {
        fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone())
    }

    fn find(&self, top: &Path, kind: Kind, problems: &Collector) -> Vec<Found> {
        let mut found = Vec::new();
        let mut looked_at = 0;
        let mut folders = vec![(top.to_owned(), String::new(), Vec::<PathBuf>::new())];
        while let Some((folder, prefix, mut above)) = folders.pop() {
            let listed = fs::canonicalize(&folder).and_then(|c| Ok((c, list(&folder)?)));
            let (canonical, entries) = match listed {
                Ok(listed) => listed,
                Err(error) => {
                    let shown =
                        if prefix.is_empty() { self.path.display().to_string() } else { prefix };
                    problems.push(unreadable(&shown, &error));
                    continue;
                }
            };
            if above.contains(&canonical) || above.len() > MAX_DEPTH {
                let message = format!("{prefix} leads back to a folder above it, or too deep");
                problems
                    .push(Problem::error("folder-loop", message).help("remove the symbolic link"));
                continue;
            }
            above.push(canonical);
            for (name, path) in entries {
                looked_at += 1;
                if looked_at > MAX_FILES {
                    problems.push(
                        Problem::error(
                            "too-many-files",
                            format!("more than {MAX_FILES} entries in {}", self.path.display()),
                        )
                        .help("is this the policy directory?"),
                    );
                    return found;
                }
                let name = format!("{prefix}{name}");
                let is_wanted = Kind::of(&name) == Some(kind);
                let (path, metadata) = match target(&path) {
                    Ok(target) => target,
                    Err(error) => {
                        if is_wanted {
                            problems.push(unreadable(&name, &error));
                        }
                        continue;
                    }
                };
                // Not a pipe or a device: reading one could wait for ever.
                let is_file = metadata.is_file() && is_wanted;
                if !metadata.is_dir() && !is_file {
                    continue;
                }
                if !path.starts_with(top) {
                    problems.push(leads_out(&name, &path));
                } else if metadata.is_dir() {
                    folders.push((path, format!("{name}/"), above.clone()));
                } else if name.contains(clean::is_unclean) {
                    problems.push(unclean_name(&name));
                } else {
                    found.push(Found { name, path, metadata });
                }
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// Changes whenever a file comes, goes or is written. Reads no file. Blocks.
    pub(super) fn fingerprint(&self, kind: Kind) -> u64 {
        let problems = Collector::new();
        let mut hasher = DefaultHasher::new();
        for Found { name, metadata, .. } in self.find(&self.top(), kind, &problems) {
            name.hash(&mut hasher);
            marks(&metadata).hash(&mut hasher);
        }
        problems.finish().to_string().hash(&mut hasher);
        hasher.finish()
    }
}

/// The visible entries of a folder: name and path.
fn list(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)?.take(MAX_FILES + 1) {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            entries.push((name, entry.path()));
        }
    }
    Ok(entries)
}

/// Files that were read before, by their names.
#[derive(Debug, Default)]
pub(super) struct Known(HashMap<Arc<str>, KnownFile>);

#[derive(Debug)]
struct KnownFile {
    file: SourceFile,
    /// What it was like, if it had been left alone for a while when it was read: then a write after that
    /// shows, and a file with the same marks has the same text.
    left_alone: Option<Marks>,
}

impl Known {
    /// For how long a file has to have been left alone. File systems tell writes apart that are two
    /// seconds from each other, and most of them far less.
    const ALONE: Duration = Duration::from_secs(3);

    /// All files have to be read again.
    pub(super) fn read_all_again(&mut self) {
        self.0.values_mut().for_each(|known| known.left_alone = None);
    }

    /// The file of that name, if it is the same and has at most so many bytes.
    fn get(&self, name: &str, metadata: &Metadata, most: u64) -> Option<SourceFile> {
        let KnownFile { file, left_alone } = self.0.get(name)?;
        let same = *left_alone == Some(marks(metadata)) && file.text().len() as u64 <= most;
        same.then(|| file.clone())
    }

    /// The known file, if the one that was read is the same: one text is enough in memory.
    fn shared(&self, read: SourceFile) -> SourceFile {
        match self.0.get(read.name()) {
            Some(known) if known.file == read => known.file.clone(),
            _ => read,
        }
    }

    /// A file was read, at that time or later, when it was listed so.
    fn insert(&mut self, metadata: &Metadata, file: SourceFile, now: SystemTime) {
        let marks = marks(metadata);
        let alone = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age >= Self::ALONE);
        // Which nobody can set.
        let [seconds, part] = marks.changed;
        let since = u64::try_from(seconds).ok().zip(u32::try_from(part).ok());
        let inode_changed = since.map(|(s, n)| SystemTime::UNIX_EPOCH + Duration::new(s, n));
        let all = marks.modified.is_some_and(alone) && inode_changed.is_none_or(alone);
        let left_alone = all.then_some(marks);
        self.0.insert(Arc::clone(file.name()), KnownFile { file, left_alone });
    }
}

/// What is different when a file was replaced, written, or opened to other readers: length, times
/// and inode. The inode's time shows a write whose own time was set back, and a change of mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Marks {
    length: u64,
    modified: Option<SystemTime>,
    /// Device and inode.
    place: [u64; 2],
    /// When the inode was changed, in seconds since the Unix epoch, and nanoseconds.
    changed: [i64; 2],
}

fn marks(metadata: &Metadata) -> Marks {
    #[cfg(unix)]
    let (place, changed) = {
        use std::os::unix::fs::MetadataExt;
        ([metadata.dev(), metadata.ino()], [metadata.ctime(), metadata.ctime_nsec()])
    };
    #[cfg(not(unix))]
    let (place, changed) = ([0; 2], [0; 2]);
    Marks { length: metadata.len(), modified: metadata.modified().ok(), place, changed }
}

fn same_file(one: &Metadata, other: &Metadata) -> bool {
    marks(one) == marks(other)
}

/// What a name stands for: where it is, without any symbolic link, and what it is.
fn target(path: &Path) -> io::Result<(PathBuf, Metadata)> {
    let own = fs::symlink_metadata(path)?;
    if !own.is_symlink() {
        return Ok((path.to_owned(), own));
    }
    let path = fs::canonicalize(path)?;
    let metadata = fs::symlink_metadata(&path)?;
    Ok((path, metadata))
}

/// The whole opened file; `None` if it is longer than `limit`. Nothing is read if it is not the file
/// that was listed.
fn read_up_to(
    top: &Path,
    path: &Path,
    listed: &Metadata,
    limit: u64,
) -> io::Result<(Metadata, Option<Vec<u8>>)> {
    let mut file = open_beneath(top, path)?;
    let opened = file.metadata()?;
    if !same_file(&opened, listed) {
        return Ok((opened, None));
    }
    let room = usize::try_from(opened.len().min(limit)).unwrap_or_default();
    let mut bytes = Vec::with_capacity(room);
    (&mut file).take(limit + 1).read_to_end(&mut bytes)?;
    // Asked again after reading: what was written meanwhile shows.
    Ok((file.metadata()?, (bytes.len() as u64 <= limit).then_some(bytes)))
}

/// Opens a file below a folder, and follows no symbolic link on the way: one that was put there
/// since the file was listed is an error. Never waits, whatever is there.
#[cfg(unix)]
fn open_beneath(top: &Path, path: &Path) -> io::Result<fs::File> {
    use rustix::fs::{Mode, OFlags, open, openat};
    let common = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let folder = common | OFlags::DIRECTORY;
    let mut at = open(top, folder, Mode::empty())?;
    let below = path.strip_prefix(top).map_err(io::Error::other)?;
    let mut names = below.iter().peekable();
    while let Some(name) = names.next() {
        let flags = if names.peek().is_some() { folder } else { common };
        at = openat(&at, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(fs::File::from(at))
}

#[cfg(not(unix))]
fn open_beneath(_: &Path, path: &Path) -> io::Result<fs::File> {
    fs::File::open(path)
}

/// Whether something else was put in a listed file's place, or in that of a folder above it.
fn is_swapped(error: &io::Error) -> bool {
    #[cfg(unix)]
    {
        use rustix::io::Errno;
        // NXIO: a socket.
        let swapped = [Errno::LOOP, Errno::NOTDIR, Errno::MLINK, Errno::NXIO];
        if swapped.iter().any(|swapped| error.raw_os_error() == Some(swapped.raw_os_error())) {
            return true;
        }
    }
    error.kind() == io::ErrorKind::NotFound
}

fn leads_out(name: &str, target: &Path) -> Problem {
    let message = format!(
        "{name} is a symbolic link to {}, which is outside of the policy directory",
        target.display()
    );
    Problem::error("link-outside", message)
        .help("such files are not read: copy it into the directory, or let the link point into it")
}

fn unclean_name(name: &str) -> Problem {
    let message = format!("the name of {} has invisible characters", clean::line(name));
    Problem::error("file-name", message).help(
        "rename it: control characters, line breaks and text direction marks can mislead readers",
    )
}

fn decode(name: &str, bytes: Vec<u8>, problems: &Collector) -> Option<SourceFile> {
    match String::from_utf8(bytes) {
        Ok(text) => Some(SourceFile::new(name, text)),
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let file = SourceFile::new(name, String::from_utf8_lossy(error.as_bytes()));
            problems.push(
                Problem::error("not-utf-8", format!("{name} is not UTF-8 text"))
                    .at(&file.span(good..good + 1), "this byte is not UTF-8")
                    .help("save the file as UTF-8"),
            );
            None
        }
    }
}

fn unreadable(name: &str, error: &io::Error) -> Problem {
    Problem::error("unreadable", format!("cannot read {name}: {error}"))
        .help("check that it exists, and that this user may read it")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The names of files.
    pub fn names(files: &[SourceFile]) -> Vec<&str> {
        files.iter().map(|file| file.name().as_ref()).collect()
    }

    /// Writes a file, and makes the folders that it is in.
    pub fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn reads_policy_files_of_all_folders_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "b.toml",
            "team/a.toml",
            "a.toml",
            "README.md",
            ".hidden.toml",
            ".git/x.toml",
            "a.test.toml",
            "team/b.test.toml",
        ] {
            write(&dir.path().join(name), name);
        }
        let tests = Directory::new(dir.path()).read_tests().unwrap();
        assert_eq!(names(&tests), ["a.test.toml", "team/b.test.toml"]);
        let files = Directory::new(dir.path()).read().unwrap();
        assert_eq!(names(&files), ["a.toml", "b.toml", "team/a.toml"]);
        assert_eq!(files[2].text(), "team/a.toml");
    }

    #[cfg(unix)]
    #[test]
    fn reads_a_mounted_config_map_once_and_refuses_a_loop() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("..2027_01_01/a.toml"), "new");
        symlink("..2027_01_01", dir.path().join("..data")).unwrap();
        symlink("..data/a.toml", dir.path().join("a.toml")).unwrap();
        let directory = Directory::new(dir.path());
        assert_eq!(names(&directory.read().unwrap()), ["a.toml"]);

        symlink(".", dir.path().join("self")).unwrap();
        assert!(directory.read().unwrap_err().to_string().contains("error[folder-loop]"));
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_out_are_named_and_never_read() {
        use std::os::unix::fs::symlink;
        let outside = tempfile::tempdir().unwrap();
        write(&outside.path().join("secret"), "the secret = 1");
        write(&outside.path().join("folder/b.toml"), "another secret = 1");
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("own/c.toml"), "c");
        let links = [
            ("a.toml", "secret", "secret"),
            ("team", "folder", "folder"),
            ("twice.toml", "over", "secret"),
        ];
        symlink(outside.path().join("secret"), outside.path().join("over")).unwrap();
        for (name, target, real) in links {
            let link = dir.path().join(name);
            symlink(outside.path().join(target), &link).unwrap();
            let problems = Directory::new(dir.path()).read().unwrap_err().to_string();
            let real = fs::canonicalize(outside.path().join(real)).unwrap();
            assert_eq!(
                problems.lines().next().unwrap(),
                format!(
                    "error[link-outside]: {name} is a symbolic link to {}, which is outside of the \
                     policy directory",
                    real.display()
                )
            );
            assert!(!problems.contains("secret ="), "{problems}");
            fs::remove_file(link).unwrap();
        }
        // What is no policy file is nobody's business, and what leads to something inside is read.
        symlink(outside.path().join("secret"), dir.path().join("README.md")).unwrap();
        symlink("own", dir.path().join("linked")).unwrap();
        let files = Directory::new(dir.path()).read().unwrap();
        assert_eq!(names(&files), ["linked/c.toml", "own/c.toml"]);
        // The directory itself may be a link.
        symlink(dir.path(), outside.path().join("policy")).unwrap();
        assert!(Directory::new(outside.path().join("policy")).read().is_ok());
    }

    /// Something else is put where a file was listed, before it is opened.
    #[cfg(unix)]
    #[test]
    fn what_is_swapped_in_is_neither_followed_nor_waited_for() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        use std::os::unix::fs::symlink;
        let outside = tempfile::tempdir().unwrap();
        write(&outside.path().join("a.toml"), "secret");
        let dir = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(dir.path()).unwrap();
        let file = top.join("team/a.toml");
        let listed = || {
            write(&file, "one");
            let directory = Directory::new(&top);
            let found = directory.find(&top, Kind::Policy, &Collector::new());
            found.into_iter().next().unwrap()
        };
        let Found { path, metadata, .. } = listed();
        assert_eq!(read_up_to(&top, &path, &metadata, 9).unwrap().1.unwrap(), b"one");

        fs::remove_file(&file).unwrap();
        mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let (opened, read) = read_up_to(&top, &path, &metadata, 9).unwrap();
        assert!(!same_file(&opened, &metadata) && read.is_none());
        fs::remove_file(&file).unwrap();

        let Found { path, metadata, .. } = listed();
        fs::remove_file(&file).unwrap();
        symlink(outside.path().join("a.toml"), &file).unwrap();
        assert!(is_swapped(&read_up_to(&top, &path, &metadata, 9).unwrap_err()));
        fs::remove_file(&file).unwrap();

        let Found { path, metadata, .. } = listed();
        fs::remove_dir_all(top.join("team")).unwrap();
        symlink(outside.path(), top.join("team")).unwrap();
        assert!(is_swapped(&read_up_to(&top, &path, &metadata, 9).unwrap_err()));
    }

    #[cfg(unix)]
    #[test]
    fn a_name_that_cannot_be_shown_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let name = clean::HOSTILE.to_owned() + "toml";
        write(&dir.path().join(&name), "");
        let problems = Directory::new(dir.path()).read().unwrap_err().to_string();
        assert!(
            problems.starts_with("error[file-name]: the name of e\\u{1b}[31mvil\\n"),
            "{problems}"
        );
        assert!(clean::dirt(&problems).is_empty());
    }

    #[test]
    fn what_was_left_alone_is_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path());
        let (old, new) = (dir.path().join("a.toml"), dir.path().join("b.toml"));
        write(&old, "one");
        write(&new, "two");
        let shared = |a: &SourceFile, b: &SourceFile| std::ptr::eq(a.text(), b.text());
        // As if that much time had passed.
        let read = |known: &mut Known, passed: Duration| {
            let later = SystemTime::now() + passed;
            directory.read_kind(Kind::Policy, known, later).unwrap().unwrap()
        };
        let mut known = Known::default();
        let marked = |known: &Known| known.0.values().filter(|k| k.left_alone.is_some()).count();
        // What was just written may be written once more, with the same marks.
        let first = read(&mut known, Duration::ZERO);
        assert_eq!((known.0.len(), marked(&known)), (2, 0));
        let second = read(&mut known, Known::ALONE);
        assert_eq!(marked(&known), 2);
        let third = read(&mut known, Known::ALONE);
        for again in [&second, &third] {
            assert!(first.iter().zip(again).all(|(a, b)| shared(a, b)), "one text in memory");
        }
        // Its own time may be set back; the inode's is not.
        let times = fs::metadata(&new).unwrap().modified().unwrap();
        write(&new, "six");
        fs::File::options().write(true).open(&new).unwrap().set_modified(times).unwrap();
        let third = read(&mut known, Known::ALONE);
        assert_eq!(third[1].text(), "six");
        assert!(shared(&third[0], &first[0]));
        fs::remove_file(&old).unwrap();
        assert_eq!(names(&read(&mut known, Known::ALONE)), ["b.toml"]);
        assert_eq!((known.0.len(), marked(&known)), (1, 1));
        known.read_all_again();
        assert_eq!(marked(&known), 0);
    }

    #[test]
    fn says_that_a_directory_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let problems = Directory::new(dir.path().join("nowhere")).read().unwrap_err().to_string();
        assert!(problems.starts_with("error[unreadable]: cannot read "), "{problems}");
    }

    #[test]
    fn is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let file = fs::File::create(dir.path().join("a.toml")).unwrap();
        file.set_len(MAX_BYTES + 1).unwrap();
        let problems = Directory::new(dir.path()).read().unwrap_err().to_string();
        assert!(problems.starts_with("error[too-large]: the policy has more than 64 MiB in all"));
    }
}
