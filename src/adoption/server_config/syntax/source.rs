//! Where files and variables of the environment come from.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// What a configuration is read from.
pub trait Source {
    /// A file, of which at most `most` bytes and one more are wanted.
    ///
    /// # Errors
    /// That it cannot be read.
    fn file(&self, path: &Path, most: usize) -> io::Result<Vec<u8>>;

    /// A variable of the environment that the server runs in.
    fn environment(&self, name: &str) -> Option<String>;
}

/// Files on disk, and the environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Source for Disk {
    fn file(&self, path: &Path, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let most = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
        File::open(path)?.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn environment(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}
