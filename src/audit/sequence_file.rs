//! How many events a run has recorded, where it outlives the process that is killed.
//!
//! Events are written to disk by another thread than the one that decides, a moment later. Of a
//! run that is killed in that moment, the number tells how many it cost. It is kept in the
//! system's shared memory (`/dev/shm`, Linux), so that no decision ever waits for a disk; where
//! there is none, and after a restart of the machine, the number is not known, and that is said.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

/// The folder, which belongs to everyone: a file in it counts only if it is our own.
const SHARED_MEMORY: &str = "/dev/shm";

/// The number of one run.
pub struct SequenceFile {
    file: File,
    path: PathBuf,
}

fn path(instance: &str) -> PathBuf {
    Path::new(SHARED_MEMORY).join(format!("solewriter-audit-{instance}"))
}

impl SequenceFile {
    /// Begins at 0. `None` where there is no shared memory.
    #[cfg(unix)]
    #[must_use]
    pub fn create(instance: &str) -> Option<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = path(instance);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path).ok()?;
        let tally = Self { file, path };
        tally.set(0);
        Some(tally)
    }

    /// Shared memory is not known on other systems.
    #[cfg(not(unix))]
    #[must_use]
    pub fn create(_: &str) -> Option<Self> {
        None
    }

    /// Notes how many events were recorded.
    #[cfg(unix)]
    pub fn set(&self, recorded: u64) {
        use std::os::unix::fs::FileExt;
        // If this fails, the loss is counted too low by the events that follow.
        let _ = self.file.write_all_at(&recorded.to_le_bytes(), 0);
    }

    /// Nothing.
    #[cfg(not(unix))]
    pub fn set(&self, _: u64) {
        let _ = &self.file;
    }

    /// The number that a run left. `ours` is a file of that run, to compare the owner with.
    #[cfg(unix)]
    #[must_use]
    pub fn left_by(instance: &str, ours: &Path) -> Option<u64> {
        use std::os::unix::fs::MetadataExt;
        let path = path(instance);
        let found = path.symlink_metadata().ok()?;
        if !found.is_file() || found.uid() != ours.metadata().ok()?.uid() {
            return None;
        }
        let number = std::fs::read(&path).ok()?;
        Some(u64::from_le_bytes(number.try_into().ok()?))
    }

    /// Shared memory is not known on other systems.
    #[cfg(not(unix))]
    #[must_use]
    pub fn left_by(_: &str, _: &Path) -> Option<u64> {
        None
    }
}

impl SequenceFile {
    /// Removes the number that a run left, once what it cost is on disk.
    pub fn forget(instance: &str) {
        let _ = std::fs::remove_file(path(instance));
    }
}

impl Drop for SequenceFile {
    /// A run that ends by itself needs no number.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_number_outlives_the_run_that_was_killed_and_no_other() {
        let instance = format!("test{}", rand::random::<u64>());
        let ours = tempfile::NamedTempFile::new().unwrap();
        let tally = SequenceFile::create(&instance).unwrap();
        assert!(SequenceFile::create(&instance).is_none(), "it is never anybody else's");
        tally.set(41);
        tally.set(42);
        // As a kill leaves it.
        let left = std::fs::read(path(&instance)).unwrap();
        drop(tally);
        std::fs::write(path(&instance), left).unwrap();
        // Until it is told: who reads it may be killed, too.
        for _ in 0..2 {
            assert_eq!(SequenceFile::left_by(&instance, ours.path()), Some(42));
        }
        SequenceFile::forget(&instance);
        assert_eq!(SequenceFile::left_by(&instance, ours.path()), None);
        drop(SequenceFile::create(&instance).unwrap());
        assert_eq!(SequenceFile::left_by(&instance, ours.path()), None);
    }
}
