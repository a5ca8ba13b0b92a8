//! A nats-server child process.
//!
//! The config decides what listens; a port of `-1` is picked by the system and read back
//! from the ports file that the server writes. A [`Server`] that is dropped is killed.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{TcpListener, UdpSocket};
use std::path::{self, Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout, timeout_at};

const READY_WITHIN: Duration = Duration::from_secs(30);
const STOP_WITHIN: Duration = Duration::from_secs(10);
const REAP_WITHIN: Duration = Duration::from_secs(2);
const GREETING_WITHIN: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(10);
const TAIL_LINES: usize = 20;
/// What nats-server says when somebody else has a port of its.
const PORT_TAKEN: &str = "address already in use";
const PORT_AGAIN: Duration = Duration::from_millis(200);
const PORT_TRIES: usize = 10;
/// Below the ports that the system gives away, and above those of well-known services.
const LOWEST_PORT: u16 = 10_000;

/// The addresses that a server listens on, as URLs; empty where it does not.
///
/// Leafnode and MQTT listeners are not among them: the server does not report them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Ports {
    /// Clients: `nats://127.0.0.1:4222`, or `tls://…`.
    pub nats: Vec<String>,
    /// The monitoring endpoint: `http://127.0.0.1:8222`, or `https://…`.
    pub monitoring: Vec<String>,
    /// Routes of the cluster: `nats://127.0.0.1:6222`.
    pub cluster: Vec<String>,
    /// The Go profiler.
    pub profile: Vec<String>,
    /// WebSocket clients: `ws://127.0.0.1:8080`, or `wss://…`.
    pub websocket: Vec<String>,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The server's directory, or a file in it, cannot be prepared.
    #[error("cannot prepare {} for nats-server: {source}", path.display())]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The binary cannot be run.
    #[error("cannot run {}: {source}", binary.display())]
    Spawn {
        /// The binary.
        binary: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// It exited instead of serving.
    #[error("nats-server ended ({status}) before it was ready; its last lines:\n{log}")]
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        log: String,
    },
    /// It runs, but does not serve clients.
    #[error("nats-server was not ready within {} s; its last lines:\n{log}", within.as_secs_f32())]
    NotReady {
        /// How long it had.
        within: Duration,
        /// The end of what it wrote.
        log: String,
    },
    /// The server that was to be restarted could not be stopped.
    #[error(transparent)]
    Stop(#[from] SignalError),
}

/// Why a running server could not be told something.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// It does not run.
    #[error("nats-server is not running")]
    NotRunning,
    /// The system refused.
    #[error("cannot signal nats-server: {0}")]
    System(#[from] io::Error),
}

/// The log line that was waited for did not come.
#[derive(Debug, thiserror::Error)]
#[error("nats-server did not log {wanted} within {} s; its last lines:\n{log}", within.as_secs_f32())]
pub struct WaitError {
    /// What was waited for.
    pub wanted: String,
    /// How long it had.
    pub within: Duration,
    /// The end of the log.
    pub log: String,
}

/// A nats-server child process, killed when dropped.
#[derive(Debug)]
pub struct Server {
    binary: PathBuf,
    config: PathBuf,
    dir: PathBuf,
    output: PathBuf,
    log: PathBuf,
    /// Whether clients begin, with TLS.
    speaks_last: bool,
    child: Option<Child>,
    ports: Ports,
    client_url: String,
}

impl Server {
    /// Runs `binary -c config` in `dir` and waits until it greets clients, at most 30 s.
    ///
    /// `dir` is this server's alone and is made if missing. It is the working directory, so
    /// relative paths in the config start there; what the server prints goes to
    /// `dir/nats-server.out`. Call it within a tokio runtime. With TLS
    /// `handshake_first: true` in the config's own file, the server is ready when it takes
    /// connections, because it greets nobody.
    ///
    /// # Errors
    ///
    /// [`StartError`], which has the end of the server's log when the server is to blame.
    pub async fn start(binary: &Path, config: &Path, dir: &Path) -> Result<Self, StartError> {
        Self::start_within(binary, config, dir, READY_WITHIN).await
    }

    async fn start_within(
        binary: &Path,
        config: &Path,
        dir: &Path,
        within: Duration,
    ) -> Result<Self, StartError> {
        let prepare = |path: &Path, source| StartError::Directory { path: path.to_owned(), source };
        fs::create_dir_all(dir).map_err(|e| prepare(dir, e))?;
        // The child works in `dir`: what is relative here would be something else there.
        let absolute = |path: &Path| path::absolute(path).map_err(|e| prepare(path, e));
        let dir = absolute(dir)?;
        let config = absolute(config)?;
        // A bare name is for the system to find on PATH.
        let binary = match binary.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => absolute(binary)?,
            _ => binary.to_owned(),
        };
        let output = dir.join("nats-server.out");
        File::create(&output).map_err(|e| prepare(&output, e))?;
        let text = fs::read(&config).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let speaks_last = text.contains("handshake_first: true");
        let log = log_file(&text).map_or_else(|| output.clone(), |file| dir.join(file));
        let mut server = Self {
            binary,
            config,
            dir,
            output,
            log,
            speaks_last,
            child: None,
            ports: Ports::default(),
            client_url: String::new(),
        };
        server.launch(&[], within).await?;
        Ok(server)
    }

    /// Starts the process; once more when somebody has one of its ports for a moment, as a client's
    /// end of a connection does.
    async fn launch(&mut self, overrides: &[String], within: Duration) -> Result<(), StartError> {
        let deadline = Instant::now() + within;
        for _ in 0..PORT_TRIES {
            match self.launch_once(overrides, deadline, within).await {
                Err(StartError::Exited { log, .. }) if log.contains(PORT_TAKEN) => {
                    sleep(PORT_AGAIN).await;
                }
                launched => return launched,
            }
        }
        self.launch_once(overrides, deadline, within).await
    }

    async fn launch_once(
        &mut self,
        overrides: &[String],
        deadline: Instant,
        within: Duration,
    ) -> Result<(), StartError> {
        let ports_dir = self.dir.join(".ports");
        let prepare = |path: &Path, source| StartError::Directory { path: path.to_owned(), source };
        // The file of a server that was killed is still there.
        match fs::remove_dir_all(&ports_dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(prepare(&ports_dir, error));
            }
            _ => fs::create_dir(&ports_dir).map_err(|e| prepare(&ports_dir, e))?,
        }
        let output = OpenOptions::new()
            .append(true)
            .open(&self.output)
            .map_err(|e| prepare(&self.output, e))?;
        let errors = output.try_clone().map_err(|e| prepare(&self.output, e))?;
        let mut command = Command::new(&self.binary);
        command
            .arg("-c")
            .arg(&self.config)
            .arg("--ports_file_dir")
            .arg(&ports_dir)
            .args(overrides)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true);
        let child = loop {
            match command.spawn() {
                // A binary just written may still be open in another thread's unborn child.
                Err(error)
                    if error.kind() == io::ErrorKind::ExecutableFileBusy
                        && Instant::now() < deadline =>
                {
                    sleep(POLL).await;
                }
                spawned => {
                    break spawned.map_err(|source| StartError::Spawn {
                        binary: self.binary.clone(),
                        source,
                    })?;
                }
            }
        };
        let child = self.child.insert(child);
        let (ports, client_url) = loop {
            let exited = child.try_wait().map_err(SignalError::System)?;
            if let Some(status) = exited {
                self.child = None;
                return Err(StartError::Exited { status, log: self.last_words() });
            }
            if let Some(ports) = read_ports(&ports_dir)
                && let Some(url) = preferred(&ports.nats)
                && greets(&url, self.speaks_last, deadline).await
            {
                break (ports, url);
            }
            if Instant::now() >= deadline {
                self.kill().await?;
                return Err(StartError::NotReady { within, log: self.last_words() });
            }
            sleep(POLL).await;
        };
        self.ports = ports;
        self.client_url = client_url;
        Ok(())
    }

    /// Where clients connect: `nats://127.0.0.1:PORT`, on the loopback interface if the server listens there.
    #[must_use]
    pub fn client_url(&self) -> &str {
        &self.client_url
    }

    /// Every address that the server reported when it last started.
    #[must_use]
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// The process id; `None` when it does not run.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Whether the process is still there, paused or not.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The server's log: the config's `log_file`, else what it printed.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// All of the log so far, over restarts too; empty when there is none.
    #[must_use]
    pub fn log(&self) -> String {
        read_from(&self.log, 0)
    }

    /// The log's length in bytes: a mark for [`Server::wait_for_log_where`].
    #[must_use]
    pub fn log_mark(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |meta| meta.len())
    }

    /// The first line of the log that contains `needle`, waiting for it at most `within`.
    ///
    /// # Errors
    ///
    /// [`WaitError`] when it does not come.
    pub async fn wait_for_log(&self, needle: &str, within: Duration) -> Result<String, WaitError> {
        self.wait(&format!("{needle:?}"), 0, |line| line.contains(needle), within).await
    }

    /// The first line after `mark` (of [`Server::log_mark`]) that `wanted` accepts, waiting for it at most `within`.
    ///
    /// # Errors
    ///
    /// [`WaitError`] when it does not come.
    pub async fn wait_for_log_where(
        &self,
        mark: u64,
        wanted: impl Fn(&str) -> bool,
        within: Duration,
    ) -> Result<String, WaitError> {
        self.wait("what was waited for", mark, wanted, within).await
    }

    async fn wait(
        &self,
        what: &str,
        mark: u64,
        wanted: impl Fn(&str) -> bool,
        within: Duration,
    ) -> Result<String, WaitError> {
        let deadline = Instant::now() + within;
        loop {
            let last_look = Instant::now() >= deadline;
            let log = read_from(&self.log, mark);
            // The last line may be half written.
            let complete = log.rfind('\n').and_then(|end| log.get(..end)).unwrap_or_default();
            if let Some(line) = complete.lines().find(|line| wanted(line)) {
                return Ok(line.to_owned());
            }
            if last_look {
                return Err(WaitError { wanted: what.to_owned(), within, log: self.last_words() });
            }
            sleep(POLL).await;
        }
    }

    /// Shuts the server down: SIGTERM, and SIGKILL if it is still there after 10 s. A paused one is
    /// resumed for it. Does nothing when it does not run.
    ///
    /// # Errors
    ///
    /// [`SignalError::System`] when the system refuses.
    pub async fn stop(&mut self) -> Result<(), SignalError> {
        if !self.is_running() {
            self.child = None;
            return Ok(());
        }
        self.signal(Signal::TERM)?;
        self.signal(Signal::CONT)?;
        if let Some(child) = &mut self.child
            && let Ok(ended) = timeout(STOP_WITHIN, child.wait()).await
        {
            ended?;
            self.child = None;
            return Ok(());
        }
        self.kill().await
    }

    /// Ends the process at once, as a crash would: SIGKILL. Does nothing when it does not run.
    ///
    /// # Errors
    ///
    /// [`SignalError::System`] when the system refuses.
    pub async fn kill(&mut self) -> Result<(), SignalError> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Stops the server if it runs and starts it again, on the same client and monitoring
    /// ports. Other ports stay the same only if the config fixes them.
    ///
    /// # Errors
    ///
    /// As [`Server::start`]; also when another process took the port in between and keeps it.
    pub async fn restart(&mut self) -> Result<(), StartError> {
        self.stop().await?;
        let mut overrides = Vec::new();
        let mut keep = |flag: &str, url: &str| {
            if let Some((_, port)) = url.rsplit_once(':') {
                overrides.extend([flag.to_owned(), port.to_owned()]);
            }
        };
        keep("-p", &self.client_url);
        if let Some(url) = preferred(&self.ports.monitoring) {
            keep(if url.starts_with("https:") { "-ms" } else { "-m" }, &url);
        }
        self.launch(&overrides, READY_WITHIN).await
    }

    /// Makes the server read its config again: SIGHUP. It logs `Reloaded server configuration`, or
    /// `Failed to reload server configuration`.
    ///
    /// # Errors
    ///
    /// [`SignalError`] when it does not run or the system refuses.
    pub fn reload(&self) -> Result<(), SignalError> {
        self.signal(Signal::HUP)
    }

    /// Freezes the process, connections and all: SIGSTOP. Returns when every thread stands still.
    ///
    /// # Errors
    ///
    /// [`SignalError`] when it does not run or the system refuses.
    pub fn pause(&self) -> Result<(), SignalError> {
        self.signal(Signal::STOP)?;
        let what = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(self.process()?), what)
            .map(drop)
            .map_err(|error| SignalError::System(error.into()))
    }

    /// Undoes [`Server::pause`]: SIGCONT.
    ///
    /// # Errors
    ///
    /// [`SignalError`] when it does not run or the system refuses.
    pub fn resume(&self) -> Result<(), SignalError> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), SignalError> {
        kill_process(self.process()?, signal).map_err(|error| SignalError::System(error.into()))
    }

    /// A child not yet waited for keeps its id, so this cannot be another process.
    fn process(&self) -> Result<Pid, SignalError> {
        self.pid()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
            .ok_or(SignalError::NotRunning)
    }

    /// The end of what it printed, and of its log when that is another file.
    fn last_words(&self) -> String {
        let mut words = tail(&read_from(&self.output, 0));
        if self.log != self.output {
            words.push_str(&tail(&read_from(&self.log, 0)));
        }
        words
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        if child.start_kill().is_err() {
            return;
        }
        // Brief, and blocking on purpose: who drops a server may delete its directory next.
        let deadline = std::time::Instant::now() + REAP_WITHIN;
        while matches!(child.try_wait(), Ok(None)) && std::time::Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Different ports for a config that must name them before its server runs, as the routes of a
/// cluster do; use `-1` in the config where it will do.
///
/// They are free now, and not of those that the system gives to connections and to listeners on
/// port 0: so nothing takes one meanwhile that did not ask for exactly it. No two calls are given
/// the same port, in other processes neither while this one runs: each port is claimed by a UDP
/// socket of the same number, which the system gives to one process and takes back when it ends.
///
/// # Errors
///
/// When there are not so many.
pub fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    static NEXT: LazyLock<AtomicUsize> = LazyLock::new(|| {
        // Anywhere: other processes look for ports too.
        let drawn = RandomState::new().hash_one(std::process::id());
        AtomicUsize::new(usize::from(u16::try_from(drawn % 0xffff).unwrap_or_default()))
    });
    static CLAIMS: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    let range = LOWEST_PORT..first_ephemeral_port();
    let mut ports = Vec::with_capacity(count);
    for _ in range.clone() {
        if ports.len() == count {
            return Ok(ports);
        }
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % range.len();
        let port = range.clone().nth(step).unwrap_or(LOWEST_PORT);
        let Ok(claim) = UdpSocket::bind(("127.0.0.1", port)) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            CLAIMS.lock().unwrap_or_else(PoisonError::into_inner).push(claim);
            ports.push(port);
        }
    }
    Err(io::ErrorKind::AddrNotAvailable.into())
}

/// The first port that the system gives to whoever does not ask for one, where it tells.
fn first_ephemeral_port() -> u16 {
    let told = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
    told.and_then(|range| range.split_whitespace().next()?.parse().ok())
        .filter(|first| *first > LOWEST_PORT + 1000)
        .unwrap_or(32_768)
}

/// The ports file, once it is there and whole.
fn read_ports(dir: &Path) -> Option<Ports> {
    // Named after the binary's file name and the process id.
    let file = fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "ports"))?;
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

/// The URL to use of a listener that has one for each interface.
fn preferred(urls: &[String]) -> Option<String> {
    urls.iter()
        .find(|url| url.contains("://127.0.0.1:") || url.contains("://[::1]:"))
        .or(urls.first())
        .cloned()
}

/// Whether something at `url` says `INFO`, the first word of a NATS server.
async fn greets(url: &str, silent: bool, deadline: Instant) -> bool {
    let Some((_, address)) = url.split_once("://") else { return false };
    if silent {
        let connecting = timeout_at(deadline, TcpStream::connect(address)).await;
        return matches!(connecting, Ok(Ok(_)));
    }
    let mut greeting = [0; 5];
    let hear =
        async { TcpStream::connect(address).await?.read_exact(&mut greeting).await.map(drop) };
    let heard = timeout_at(deadline.min(Instant::now() + GREETING_WITHIN), hear).await;
    matches!(heard, Ok(Ok(()))) && greeting == *b"INFO "
}

/// The `log_file` of a nats-server config, as written. Not seen: one that an include or a variable sets.
fn log_file(config: &str) -> Option<PathBuf> {
    config.lines().find_map(|line| {
        let line = line.trim_start();
        let value = line.strip_prefix("log_file").or_else(|| line.strip_prefix("logfile"))?;
        let value = value.strip_prefix([':', '=', ' ', '\t'])?;
        let value = value.trim_start_matches([':', '=', ' ', '\t']);
        let value = match value.strip_prefix(['"', '\'']) {
            Some(quoted) => quoted.split(['"', '\'']).next(),
            None => value.split([',', ';', '#', ' ', '\t']).next(),
        }?;
        (!value.is_empty() && !value.starts_with('$')).then(|| PathBuf::from(value))
    })
}

fn read_from(file: &Path, offset: u64) -> String {
    let read = || {
        let mut file = File::open(file)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

fn tail(text: &str) -> String {
    let skipped = text.lines().count().saturating_sub(TAIL_LINES);
    text.lines().skip(skipped).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests;
