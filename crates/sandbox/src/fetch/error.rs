//! Why there is no nats-server, in words that say what was tried and what to do.

use std::env;
use std::io;
use std::path::PathBuf;

use super::{GIVEN, OLDEST_USABLE, PROBE_WITHIN, SUPPORTED};

/// Why there is no nats-server to run.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The version asked for has no pinned build.
    #[error("nats-server {version} is not a version that can be fetched; these can: {}", SUPPORTED.join(", "))]
    Unknown {
        /// The version asked for.
        version: String,
    },
    /// The binary that the user chose cannot be used.
    #[error(
        "{GIVEN}={}: {reason}; set it to a nats-server of {OLDEST_USABLE} or newer, or unset it",
        path.display()
    )]
    Given {
        /// The value of the variable.
        path: PathBuf,
        /// What is wrong with it.
        reason: ProbeError,
    },
    /// Every route was tried and none gave a binary.
    #[error(
        "no nats-server {version}:{}\n  set {GIVEN}=/path/to/nats-server to use one that you have",
        list(tried)
    )]
    Unobtainable {
        /// The version that was looked for.
        version: String,
        /// Every route, in the order tried.
        tried: Vec<Attempt>,
    },
}

/// One route that gave no binary.
#[derive(Debug)]
pub struct Attempt {
    /// Where the binary was looked for.
    pub route: String,
    /// Why it was not found, or not taken.
    pub reason: RouteError,
}

/// Why one route gave no binary.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// A binary that was already there is not the right one.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// No build of this version is pinned for this operating system and processor.
    #[error("no build is pinned for {}/{}", env::consts::OS, env::consts::ARCH)]
    Platform,
    /// This route's build is another than the pinned one.
    #[error("not downloaded: no sha256 is pinned for this build")]
    NotPinned,
    /// Neither `SOLEWRITER_CACHE`, `XDG_CACHE_HOME` nor `HOME` is set.
    #[error("nowhere to keep it: set SOLEWRITER_CACHE to a directory")]
    NoCache,
    /// A file or directory of the cache could not be read or written.
    #[error("{}: {source}", path.display())]
    Disk {
        /// The file or directory.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// No root certificate to trust a server by.
    #[error("no trusted root certificates{detail}; set SSL_CERT_FILE to a PEM file of them")]
    NoRoots {
        /// What went wrong while they were read; may be empty.
        detail: String,
    },
    /// The request failed, or the answer was an error.
    #[error("GET {url}: {reason}")]
    Http {
        /// The address, without user name and password.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// The package index answered something else than the simple API's JSON.
    #[error("{url} is no PyPI simple index in JSON (PEP 691): {source}")]
    Index {
        /// The address, without user name and password.
        url: String,
        /// What the parser found.
        source: serde_json::Error,
    },
    /// The index lists no wheel of the version for this platform.
    #[error("{url} lists no wheel of this version for this platform")]
    NoWheel {
        /// The address, without user name and password.
        url: String,
    },
    /// A download or a binary is larger than any nats-server.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// The limit in bytes.
        limit: u64,
    },
    /// The archive cannot be read, or has no nats-server where one belongs.
    #[error("{entry} in the archive: {reason}")]
    Archive {
        /// The entry's name.
        entry: String,
        /// What went wrong.
        reason: String,
    },
    /// The binary is not the one that was pinned.
    #[error("sha256 is {actual}, expected {expected}; nothing was kept")]
    Mismatch {
        /// The pinned hash.
        expected: String,
        /// The hash of what was found.
        actual: String,
    },
}

/// Why a binary that was already there cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It could not be run.
    #[error("cannot be run: {0}")]
    Run(#[from] io::Error),
    /// It did not exit in time.
    #[error("`--version` did not end within {} s", PROBE_WITHIN.as_secs())]
    Hangs,
    /// It said something else than a version.
    #[error("is no nats-server: `--version` printed {output:?}")]
    Stranger {
        /// The beginning of what it printed.
        output: String,
    },
    /// Its version is not the one that was asked for.
    #[error("is nats-server {found}, not {wanted}")]
    Other {
        /// Its version.
        found: String,
        /// The version asked for.
        wanted: String,
    },
    /// Its version is too old.
    #[error("is nats-server {found}, too old: {needed} or newer is needed")]
    Old {
        /// Its version.
        found: String,
        /// The oldest that would do.
        needed: String,
    },
}

fn list(tried: &[Attempt]) -> String {
    tried.iter().map(|Attempt { route, reason }| format!("\n  {route}: {reason}")).collect()
}
