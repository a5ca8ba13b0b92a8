//! Real NKEY clients through a real nats-server: what a connection costs, and whom.
//!
//! The clients speak the protocol themselves (INFO, CONNECT with the signed nonce, PING, PONG), so
//! that a client library's own cost does not crowd out what is measured. A connection counts from
//! the time at which it was to be made to the server's PONG.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Error;
use super::direct::{Pressure, count, per};
use super::latency::{Latencies, Summary};
use crate::fixture_policy::{Client, FixturePolicy};
use crate::testbed::{Serve, Testbed};
use solewriter_sandbox::cpu_usage;
use solewriter_sandbox::{Server, fetch};

/// How long one connection may take before it counts as failed: as long as nats.js waits.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// What a client library pauses before it tries again (nats.go: 2 s, and up to 0.1 s at random).
pub(super) const PAUSE: Duration = Duration::from_secs(2);
pub(super) const JITTER: Duration = Duration::from_millis(100);
/// How long a storm may take in all.
const STORM: Duration = Duration::from_secs(180);

/// Who decides about connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Against {
    /// `solewriter serve`.
    Solewriter,
    /// A callout that signs a fixed grant and does nothing else: the best that any could do.
    Ceiling,
    /// The server alone, with the same users and permissions in its configuration: the floor.
    StaticUsers,
}

/// How the clients of a storm lose their connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upset {
    /// The server is stopped and started again.
    Restart,
    /// The server reads its configuration again, in which nothing changed. That closes whatever a
    /// callout let in, and nothing else.
    Reload,
}

/// What a run found.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Outcome {
    /// Length of the measured part, in seconds.
    pub seconds: f64,
    /// Connections made in it.
    pub connected: u64,
    /// Connections that were refused, or took too long.
    pub failed: u64,
    /// Connections made, per second.
    pub per_second: f64,
    /// From when each was to be made to when it stood.
    pub latency: Summary,
    /// CPU of nats-server for each, in microseconds.
    pub server_cpu_us: Option<f64>,
    /// CPU of the callout for each, in microseconds.
    pub service_cpu_us: Option<f64>,
    /// CPU of this process for each, in microseconds.
    pub generator_cpu_us: Option<f64>,
    /// Resident memory of the callout at the end, in bytes.
    pub service_rss: Option<u64>,
    /// Resident memory of nats-server at the end, in bytes.
    pub server_rss: Option<u64>,
}

/// What a storm did.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Storm {
    /// Clients that were connected, lost their server, and came back.
    pub clients: usize,
    /// From the moment at which the server listened again, or was told to reload, to the last
    /// client's connection.
    pub seconds: f64,
    /// Attempts that failed, and were made again.
    pub retries: u64,
    /// Clients that were refused twice in a row, at which some client libraries give up.
    pub gave_up: u64,
    /// When each stood again.
    pub latency: Summary,
    /// CPU of nats-server, in seconds.
    pub server_cpu: Option<f64>,
    /// CPU of the callout, in seconds.
    pub service_cpu: Option<f64>,
}

/// A server, those who decide for it, and its clients.
pub struct ServerTestbed {
    /// The server.
    pub server: Server,
    /// Who decides.
    pub against: Against,
    /// The processes that decide.
    pub serves: Vec<Serve>,
    pub(super) address: SocketAddr,
    stage: Arc<Testbed>,
    processors: usize,
}

impl ServerTestbed {
    /// Starts the server and so many instances of what decides. `services` is the policy's size.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn open(
        stage: Arc<Testbed>,
        against: Against,
        instances: usize,
        version: Option<String>,
        arguments: &[String],
    ) -> Result<Self, Error> {
        let fetch = move || version.map_or_else(fetch::any, |version| fetch::exact(&version));
        let binary: PathBuf = tokio::task::spawn_blocking(fetch).await??;
        let config = match against {
            Against::StaticUsers => static_users(&stage)?,
            _ => stage.deployment.server_config(),
        };
        let name = format!("server-{}", data_encoding::HEXLOWER.encode(&rand::random::<[u8; 4]>()));
        let server = Server::start(&binary, &config, &stage.folder().join(name)).await?;
        let url = server.client_url().to_owned();
        let address = url.rsplit('/').next().unwrap_or_default().parse()?;
        let mut serves = Vec::new();
        for number in 0..instances {
            let (stage, url, arguments) = (stage.clone(), url.clone(), arguments.to_vec());
            serves.push(match against {
                Against::StaticUsers => break,
                Against::Solewriter => {
                    tokio::task::spawn_blocking(move || stage.serve(&url, number, &arguments))
                        .await??
                }
                Against::Ceiling => {
                    tokio::task::spawn_blocking(move || stage.ceiling(&url, number)).await??
                }
            });
        }
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { server, against, serves, address, stage, processors })
    }

    /// Stops everything.
    ///
    /// # Errors
    /// When something does not stop.
    pub async fn close(mut self) -> Result<(), Error> {
        for serve in self.serves.drain(..) {
            tokio::task::spawn_blocking(move || serve.stop()).await??;
        }
        self.server.stop().await?;
        Ok(())
    }

    fn usage(
        &self,
    ) -> (Option<cpu_usage::Usage>, Option<cpu_usage::Usage>, Option<cpu_usage::Usage>) {
        let mut services = Some(cpu_usage::Usage::default());
        for serve in &self.serves {
            services = services.zip(serve.usage()).map(|(sum, one)| cpu_usage::Usage {
                cpu: sum.cpu + one.cpu,
                rss: sum.rss + one.rss,
                peak_rss: sum.peak_rss + one.peak_rss,
            });
        }
        let server = self.server.pid().and_then(cpu_usage::of);
        (server, services, cpu_usage::of(std::process::id()))
    }

    /// Puts what decides on one half of the processors, and the server and its clients on the other,
    /// as on machines of their own; or undoes that. Gives whether it could.
    #[must_use]
    pub fn keep_apart(&self, apart: bool) -> bool {
        let Some(server) = self.server.pid().filter(|_| self.processors > 1) else { return false };
        let half = self.processors / 2;
        let (ours, theirs) = if apart {
            (half..self.processors, 0..half)
        } else {
            (0..self.processors, 0..self.processors)
        };
        [server, std::process::id()].into_iter().all(|pid| cpu_usage::keep_on(pid, theirs.clone()))
            && self.serves.iter().all(|serve| cpu_usage::keep_on(serve.pid(), ours.clone()))
    }

    /// Makes connections, one after the other in so many tasks, or so many a second.
    ///
    /// # Errors
    /// When none succeeds.
    pub async fn run(
        &self,
        pressure: Pressure,
        (warm_up, length): (Duration, Duration),
    ) -> Result<Outcome, Error> {
        let crowd = Arc::new(Crowd::new(self.address, self.stage.clone()));
        let mut tasks = tokio::task::JoinSet::new();
        match pressure {
            Pressure::Concurrency(many) => {
                for _ in 0..many {
                    tasks.spawn(crowd.clone().keep_coming());
                }
            }
            Pressure::Rate(rate) => {
                tasks.spawn(crowd.clone().keep_rate(rate));
            }
        }
        sleep(warm_up).await;
        let before = self.usage();
        let began = Instant::now();
        crowd.counting.store(true, Ordering::Relaxed);
        sleep(length).await;
        crowd.counting.store(false, Ordering::Relaxed);
        let seconds = began.elapsed().as_secs_f64();
        let after = self.usage();
        crowd.running.store(false, Ordering::Relaxed);
        let _ = timeout(PATIENCE, async { while tasks.join_next().await.is_some() {} }).await;
        tasks.shutdown().await;
        let connected = crowd.connected.load(Ordering::Relaxed);
        let failed = crowd.failed.load(Ordering::Relaxed);
        if connected == 0 {
            let first = crowd.first.lock().unwrap_or_else(PoisonError::into_inner).take();
            return Err(format!("nobody was let in: {}", first.unwrap_or_default()).into());
        }
        let each = |before: Option<cpu_usage::Usage>, after: Option<cpu_usage::Usage>| {
            before.zip(after).and_then(|(b, a)| per(a.cpu.saturating_sub(b.cpu), connected))
        };
        let latency = crowd.latencies.lock().unwrap_or_else(PoisonError::into_inner).summary();
        Ok(Outcome {
            seconds,
            connected,
            failed,
            per_second: count(connected) / seconds,
            latency,
            server_cpu_us: each(before.0, after.0),
            service_cpu_us: each(before.1, after.1),
            generator_cpu_us: each(before.2, after.2),
            service_rss: after.1.map(|usage| usage.rss),
            server_rss: after.0.map(|usage| usage.rss),
        })
    }

    /// So many connections that stand, until they are dropped.
    ///
    /// # Errors
    /// When not all of them ever stand.
    pub async fn stand(&self, clients: usize) -> Result<Vec<TcpStream>, Error> {
        Arc::new(Crowd::new(self.address, self.stage.clone())).stand(clients).await
    }

    /// Connects so many clients, has them all lose their connections, and lets them come back at
    /// once. Who is not let in within `patience` hangs up and tries again.
    ///
    /// # Errors
    /// When not all of them ever stand.
    pub async fn storm(
        &mut self,
        clients: usize,
        patience: Duration,
        upset: Upset,
    ) -> Result<Storm, Error> {
        let mut crowd = Crowd::new(self.address, self.stage.clone());
        crowd.patience = patience;
        let crowd = Arc::new(crowd);
        let mut standing = crowd.stand(clients).await?;
        if upset == Upset::Restart {
            self.server.restart().await?;
            standing.clear();
        }
        for counter in [&crowd.failed, &crowd.gave_up] {
            counter.store(0, Ordering::Relaxed);
        }
        *crowd.latencies.lock().unwrap_or_else(PoisonError::into_inner) = Latencies::new();
        let before = self.usage();
        let began = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        let mut standing = standing.into_iter();
        for number in 0..clients {
            let (crowd, stands) = (crowd.clone(), standing.next());
            tasks.spawn(async move {
                if let Some(stream) = stands {
                    timeout(STORM, until_closed(stream)).await.ok()?;
                }
                let stream = crowd.insist(number, began + STORM).await;
                crowd.record(began.elapsed());
                stream
            });
        }
        if upset == Upset::Reload {
            self.server.reload()?;
        }
        let standing = tasks.join_all().await;
        let seconds = began.elapsed().as_secs_f64();
        let after = self.usage();
        if let Some(lost) = Some(standing.iter().filter(|s| s.is_none()).count()).filter(|n| *n > 0)
        {
            return Err(format!("{lost} clients did not come back within {STORM:?}").into());
        }
        let spent = |before: Option<cpu_usage::Usage>, after: Option<cpu_usage::Usage>| {
            // A server that was restarted is another process, and begins at nothing.
            before.zip(after).map(|(b, a)| a.cpu.saturating_sub(b.cpu).as_secs_f64())
        };
        let latency = crowd.latencies.lock().unwrap_or_else(PoisonError::into_inner).summary();
        Ok(Storm {
            clients,
            seconds,
            retries: crowd.failed.load(Ordering::Relaxed),
            gave_up: crowd.gave_up.load(Ordering::Relaxed),
            latency,
            server_cpu: spent(before.0, after.0),
            service_cpu: spent(before.1, after.1),
        })
    }
}

/// Those who connect.
struct Crowd {
    address: SocketAddr,
    stage: Arc<Testbed>,
    patience: Duration,
    next: AtomicUsize,
    running: AtomicBool,
    counting: AtomicBool,
    connected: AtomicU64,
    failed: AtomicU64,
    gave_up: AtomicU64,
    latencies: Mutex<Latencies>,
    first: Mutex<Option<String>>,
}

impl Crowd {
    fn new(address: SocketAddr, stage: Arc<Testbed>) -> Self {
        Self {
            address,
            stage,
            patience: PATIENCE,
            next: AtomicUsize::new(0),
            running: AtomicBool::new(true),
            counting: AtomicBool::new(false),
            connected: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            gave_up: AtomicU64::new(0),
            latencies: Mutex::default(),
            first: Mutex::default(),
        }
    }

    fn client(&self, number: usize) -> Option<&Client> {
        let FixturePolicy { clients, .. } = &self.stage.company;
        clients.get(number % clients.len().max(1))
    }

    fn record(&self, took: Duration) {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).record(took);
    }

    /// One connection, due at a time, closed as soon as it stands.
    async fn one(&self, due: Instant) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(client) = self.client(number) else { return };
        let made = timeout(PATIENCE, enter(self.address, client)).await;
        let made = made.unwrap_or_else(|_| Err("it took too long".into()));
        if let Ok(stream) = &made {
            // Without the usual farewell, which would use up ports for a minute.
            let _ = stream.set_zero_linger();
        }
        if !self.counting.load(Ordering::Relaxed) {
            return;
        }
        match made {
            Ok(_) => {
                self.connected.fetch_add(1, Ordering::Relaxed);
                self.record(due.elapsed());
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(error.to_string());
            }
        }
    }

    async fn keep_coming(self: Arc<Self>) {
        while self.running.load(Ordering::Relaxed) {
            self.one(Instant::now()).await;
        }
    }

    async fn keep_rate(self: Arc<Self>, rate: f64) {
        let (began, apart) = (Instant::now(), Duration::from_secs_f64(1.0 / rate.max(0.01)));
        let mut tasks = tokio::task::JoinSet::new();
        let mut number = 0;
        while self.running.load(Ordering::Relaxed) {
            let due = began + apart * number;
            sleep_until(due).await;
            let crowd = self.clone();
            tasks.spawn(async move { crowd.one(due).await });
            while tasks.try_join_next().is_some() {}
            number += 1;
        }
        tasks.join_all().await;
    }

    /// So many connections that stand. They come in gently, because that is not what is measured.
    async fn stand(self: &Arc<Self>, clients: usize) -> Result<Vec<TcpStream>, Error> {
        raise_open_files();
        let mut standing = Vec::with_capacity(clients);
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..clients {
            if tasks.len() >= 32 {
                standing.extend(tasks.join_next().await.transpose()?.flatten());
            }
            let crowd = self.clone();
            tasks.spawn(async move { crowd.insist(number, Instant::now() + STORM).await });
        }
        standing.extend(tasks.join_all().await.into_iter().flatten());
        if standing.len() < clients {
            return Err("not every client could connect".into());
        }
        Ok(standing)
    }

    /// Connects as a client library does: again and again, with a pause. `None` when time is up.
    async fn insist(&self, number: usize, until: Instant) -> Option<TcpStream> {
        let client = self.client(number)?;
        let mut refused = false;
        while Instant::now() < until {
            match timeout(self.patience, enter(self.address, client)).await {
                Ok(Ok(stream)) => {
                    let _ = stream.set_zero_linger();
                    return Some(stream);
                }
                Ok(Err(error)) => {
                    let again = error.to_string().contains("uthorization");
                    self.gave_up.fetch_add(u64::from(refused && again), Ordering::Relaxed);
                    refused = again;
                }
                Err(_) => refused = false,
            }
            self.failed.fetch_add(1, Ordering::Relaxed);
            sleep(PAUSE + JITTER.mul_f64(rand::random())).await;
        }
        None
    }
}

/// Connects and waits until the server has let the client in.
pub(super) async fn enter(address: SocketAddr, client: &Client) -> Result<TcpStream, Error> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4096);
    let info = line(&mut stream, &mut buffer).await?;
    let info = info.strip_prefix("INFO ").ok_or("the server did not greet")?;
    let info: serde_json::Value = serde_json::from_str(info)?;
    let nonce = info.get("nonce").and_then(|n| n.as_str()).ok_or("the server sent no nonce")?;
    let signature = client.signer.sign(nonce.as_bytes());
    let connect = serde_json::json!({
        "verbose": false, "pedantic": false, "tls_required": false, "lang": "load",
        "version": env!("CARGO_PKG_VERSION"), "protocol": 1, "headers": true, "echo": true,
        "name": client.service, "nkey": client.signer.public().as_str(),
        "sig": data_encoding::BASE64URL_NOPAD.encode(&signature),
    });
    stream.write_all(format!("CONNECT {connect}\r\nPING\r\n").as_bytes()).await?;
    loop {
        let said = line(&mut stream, &mut buffer).await?;
        match said.split_ascii_whitespace().next() {
            Some("PONG") => return Ok(stream),
            Some("INFO") => {}
            // It asks who is still there while the callout decides: after 2 s, and again.
            Some("PING") => stream.write_all(b"PONG\r\n").await?,
            _ => return Err(format!("the server said {said}").into()),
        }
    }
}

/// Waits until the server closes the connection.
async fn until_closed(mut stream: TcpStream) {
    let mut said = [0; 1024];
    while stream.read(&mut said).await.is_ok_and(|count| count > 0) {}
}

/// The next line, without its end.
async fn line(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<String, Error> {
    loop {
        if let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        if buffer.len() > 64 * 1024 {
            return Err("the server sent a very long line".into());
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err("the server closed the connection".into());
        }
    }
}

/// As many open files as the system allows.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What is not enough shows in connections that fail.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// A server's configuration in which the clients are users, with what solewriter grants them.
fn static_users(stage: &Testbed) -> Result<PathBuf, Error> {
    let mut users = String::new();
    for client in &stage.company.clients {
        let grant = stage.company.grant(client)?;
        let claims = serde_json::to_value(grant.claims())?;
        let list = |side: &str| claims.pointer(side).map(ToString::to_string).unwrap_or_default();
        writeln!(
            users,
            "      {{ nkey: {}, permissions {{ publish {{ allow: {} }}, subscribe {{ allow: {} }} }} }}",
            client.signer.public(),
            list("/pub/allow"),
            list("/sub/allow"),
        )?;
    }
    let text = format!(
        "server_name: load\nlisten: \"127.0.0.1:-1\"\nauthorization {{ timeout: 10 }}\n\
         accounts {{\n  APP {{\n    users: [\n{users}    ]\n  }}\n}}\n"
    );
    let path = stage.folder().join("static-users.conf");
    std::fs::write(&path, text)?;
    Ok(path)
}
