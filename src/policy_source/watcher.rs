//! News of changes in a policy directory.

use std::time::Duration;

use notify::Watcher as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::policy_source::directory::{Directory, Kind, Known};
use solewriter_core::diagnostics::{Problem, Problems, SourceFile};

/// How patiently a [`Watcher`] waits.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How often to look without having been told of a change: some file systems tell nothing.
    pub poll: Duration,
    /// How long the files must stay the same before they count as written.
    pub settle: Duration,
    /// The longest wait for that.
    pub settle_at_most: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(5),
            settle: Duration::from_millis(200),
            settle_at_most: Duration::from_secs(3),
        }
    }
}

/// Tells of changes in a [`Directory`].
///
/// Start it before the first [`Directory::read`], so that no change in between is lost.
#[derive(Debug)]
pub struct Watcher {
    directory: Directory,
    timing: Timing,
    seen: u64,
    /// The files that were read last.
    known: Known,
    /// What was wrong when the files could not be read; it may end without a trace in them.
    unreadable: Option<String>,
    events: mpsc::Receiver<()>,
    notify: Option<notify::RecommendedWatcher>,
}

impl Watcher {
    /// Begins to watch. When the operating system gives no news, looking every
    /// [`Timing::poll`] remains. Blocks shortly.
    #[must_use]
    pub fn start(directory: Directory, timing: Timing) -> Self {
        // One waiting event is enough: it means "look".
        let (sender, events) = mpsc::channel(1);
        let notify = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading is an event too.
            if !event.is_ok_and(|e| e.kind.is_access()) {
                let _ = sender.try_send(());
            }
        })
        .ok();
        let seen = directory.fingerprint(Kind::Policy);
        let known = Known::default();
        let mut watcher = Self { directory, timing, seen, known, unreadable: None, events, notify };
        watcher.arm();
        watcher
    }

    /// Watches the directory, and its parent for the case that the directory itself is replaced.
    /// Repeated after each change, because what is watched is the inode and not the name.
    fn arm(&mut self) {
        let Some(notify) = &mut self.notify else { return };
        let Ok(path) = std::path::absolute(self.directory.path()) else { return };
        // A failure is no problem: polling remains.
        if let Some(parent) = path.parent() {
            let _ = notify.watch(parent, notify::RecursiveMode::NonRecursive);
        }
        let _ = notify.unwatch(&path);
        let _ = notify.watch(&path, notify::RecursiveMode::Recursive);
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// What was read counts as not seen: the next look reads it again.
    pub fn forget(&mut self) {
        self.seen = !self.seen;
    }

    /// Reads the files now, whether they changed or not; what is read counts as seen.
    ///
    /// # Errors
    /// As [`Directory::read`].
    pub async fn read_now(&mut self) -> Result<Vec<SourceFile>, Problems> {
        self.known.read_all_again();
        self.read_changed().await
    }

    /// The same of what changed; the other files are those that were read before.
    async fn read_changed(&mut self) -> Result<Vec<SourceFile>, Problems> {
        let (directory, mut known) = (self.directory.clone(), std::mem::take(&mut self.known));
        let read = tokio::task::spawn_blocking(move || (directory.read_seen(&mut known), known));
        let Ok(((seen, read), known)) = read.await else {
            self.forget();
            let problem = Problem::error("unreadable", "reading the policy was cut short");
            return Err(problem.into());
        };
        self.known = known;
        // Files that changed all the time are looked at again, whatever they are then.
        let failed = |code| read.as_ref().err().filter(|p| p.iter().any(|p| p.code == code));
        self.seen = if failed("unsteady").is_some() { !seen } else { seen };
        self.unreadable = failed("unreadable").map(ToString::to_string);
        self.arm();
        read
    }

    /// Waits until there is a reason to look: something happened, or [`Timing::poll`] passed.
    /// Cancelling it loses nothing.
    pub async fn moved(&mut self) {
        if let Ok(None) = timeout(self.timing.poll, self.events.recv()).await {
            // No watcher, so nobody sends.
            sleep(self.timing.poll).await;
        }
    }

    /// Looks whether files changed; if they did, waits until they stay the same for
    /// [`Timing::settle`], and reads them. What could not be read is tried again each time. `None`
    /// when nothing changed. Cancelling it loses nothing.
    pub async fn look(&mut self) -> Option<Result<Vec<SourceFile>, Problems>> {
        let changed = self.settle().await != self.seen;
        if !changed && self.unreadable.is_none() {
            return None;
        }
        let before = self.unreadable.clone();
        let read = self.read_changed().await;
        // The same failure is told of once.
        (changed || self.unreadable.is_none() || self.unreadable != before).then_some(read)
    }

    /// Waits until files changed and then stayed the same, and reads them. Cancelling it loses
    /// nothing.
    ///
    /// # Errors
    /// As [`Directory::read`]. Go on calling afterwards: the next change is reported again.
    pub async fn changed(&mut self) -> Result<Vec<SourceFile>, Problems> {
        loop {
            self.moved().await;
            if let Some(read) = self.look().await {
                return read;
            }
        }
    }

    async fn settle(&self) -> u64 {
        let deadline = Instant::now() + self.timing.settle_at_most;
        let mut before = self.fingerprint().await;
        if before == self.seen {
            return before;
        }
        loop {
            sleep(self.timing.settle).await;
            let after = self.fingerprint().await;
            if after == before || Instant::now() >= deadline {
                return after;
            }
            before = after;
        }
    }

    async fn fingerprint(&self) -> u64 {
        let directory = self.directory.clone();
        let seen = self.seen;
        tokio::task::spawn_blocking(move || directory.fingerprint(Kind::Policy))
            .await
            .unwrap_or(seen)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::policy_source::directory::tests::{names, write};

    fn watcher(path: &Path, poll: Duration) -> Watcher {
        let settle = Duration::from_millis(30);
        let timing = Timing { poll, settle, settle_at_most: Duration::from_secs(1) };
        Watcher::start(Directory::new(path), timing)
    }

    async fn next(watcher: &mut Watcher) -> Result<Vec<SourceFile>, Problems> {
        timeout(Duration::from_secs(20), watcher.changed()).await.unwrap()
    }

    /// The next look at which the file at that place has that text: on a busy machine one may come
    /// between the two steps of a write.
    async fn sees(watcher: &mut Watcher, at: usize, text: &str) -> Vec<SourceFile> {
        loop {
            if let Ok(files) = next(watcher).await
                && files.get(at).is_some_and(|file| file.text() == text)
            {
                return files;
            }
        }
    }

    #[tokio::test]
    async fn tells_of_a_write_a_rename_and_a_removal() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy");
        write(&policy.join("a.toml"), "one");
        let mut watcher = watcher(&policy, Duration::from_secs(60));

        write(&policy.join("a.toml"), "two");
        sees(&mut watcher, 0, "two").await;

        write(&policy.join("new"), "three");
        fs::rename(policy.join("new"), policy.join("a.toml")).unwrap();
        sees(&mut watcher, 0, "three").await;

        write(&policy.join("team/b.toml"), "four");
        let files = sees(&mut watcher, 1, "four").await;
        assert_eq!(names(&files), ["a.toml", "team/b.toml"]);
        write(&policy.join("team/b.toml"), "five!");
        sees(&mut watcher, 1, "five!").await;

        fs::remove_dir_all(&policy).unwrap();
        while next(&mut watcher).await.is_ok() {}
        write(&policy.join("a.toml"), "back");
        sees(&mut watcher, 0, "back").await;
        write(&policy.join("a.toml"), "again");
        sees(&mut watcher, 0, "again").await;
    }

    #[tokio::test]
    async fn polls_when_nothing_tells() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("a.toml"), "one");
        let mut watcher = watcher(dir.path(), Duration::from_millis(20));
        watcher.notify = None;
        write(&dir.path().join("a.toml"), "other");
        sees(&mut watcher, 0, "other").await;
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_file_that_other_readers_may_open_is_read_again() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        write(&file, "one");
        let mut watcher = watcher(dir.path(), Duration::from_millis(20));
        for mode in [0o000, 0o644] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            // Whoever is root reads it either way, and notices the change all the same.
            let read = next(&mut watcher).await;
            assert_eq!(read.is_ok(), fs::File::open(&file).is_ok(), "{mode:o}");
        }
    }

    /// A link to nothing: it cannot be read by anybody, root included.
    #[cfg(unix)]
    #[tokio::test]
    async fn what_cannot_be_read_is_told_of_once_and_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("nowhere.toml", dir.path().join("a.toml")).unwrap();
        let mut watcher = watcher(dir.path(), Duration::from_millis(20));
        assert!(watcher.read_now().await.unwrap_err().to_string().contains("error[unreadable]"));
        for _ in 0..3 {
            assert!(watcher.look().await.is_none());
        }
        fs::remove_file(dir.path().join("a.toml")).unwrap();
        write(&dir.path().join("a.toml"), "one");
        sees(&mut watcher, 0, "one").await;
        assert!(watcher.look().await.is_none());
        // What was wrong ends without a trace in the file: a disk, a network.
        watcher.unreadable = Some("cannot read a.toml".to_owned());
        assert_eq!(next(&mut watcher).await.unwrap()[0].text(), "one");
        assert!(watcher.look().await.is_none());
    }

    #[tokio::test]
    async fn stays_silent_while_nothing_changes() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("a.toml"), "one");
        let mut watcher = watcher(dir.path(), Duration::from_millis(10));
        write(&dir.path().join("notes.txt"), "not a policy file");
        assert!(timeout(Duration::from_millis(300), watcher.changed()).await.is_err());
    }
}
