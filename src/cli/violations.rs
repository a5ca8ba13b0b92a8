//! `solewriter violations`: what nats-server refused, from its log.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{ConnectOptions, Event, ServerAddr};
use clap::{Args, ValueEnum};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::{fail, report, runtime, wrong};
use crate::cli::common::{AuditArgs, LogArgs, duration};
use crate::config;
use crate::nats::{Login, Tls};
use crate::policy_source::directory::Directory;
use crate::policy_source::snapshot_store::Store;
use crate::policy_source::watcher::{Timing, Watcher};
use crate::telemetry::brief;
use crate::violations::explain::Explainer;
use crate::violations::follow::{Follower, Input, Options};
use crate::violations::state::{State, StateFile};
use crate::violations::tail::{Begin, Tail};
use solewriter_core::diagnostics::render::Style;
use solewriter_core::diagnostics::{Problems, Severity};
use solewriter_core::grant::{AuditStreams, Defaults};
use solewriter_core::policy::validate::validate_for;
use solewriter_guard::publish::Publisher;
use solewriter_types::audit_event::Source;
use solewriter_types::kv_operation::inbox_prefix;
use solewriter_types::server_log::lines::Lines;

/// How much of standard input is taken at a time, and how many such pieces may wait.
const PIECE: usize = 64 * 1024;
const PIECES: usize = 64;

/// Report every permission violation in nats-server's log, with the service and the owner.
///
/// Follows the log of one server; clients may be written in any language. Each violation is an ERROR
/// line on stderr and, with --nats-servers, an event in the audit stream. It names the service and
/// its key, the connection, the operation, the subject, the keyspace, its owner, and the policy
/// entry that would permit it. Repeats within --window are counted and reported together.
///
/// Runs until SIGTERM, SIGINT or the end of standard input.
#[derive(Args)]
pub struct Violations {
    /// nats-server's log: a file, which may be renamed meanwhile, or `-` for standard input.
    #[arg(long, value_name = "FILE")]
    log: PathBuf,
    /// The file that remembers how far the log was read. Without it, every start begins anew.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Where to begin in a log file, if nothing is remembered about it.
    #[arg(long, value_name = "PLACE", default_value = "start")]
    from: From,
    /// The directory of policy files, for owners and missing entries. Changes are noticed.
    #[arg(short, long, value_name = "DIR")]
    policy: Option<PathBuf>,
    /// Addresses of nats-server, to publish events. Without them, violations are only logged.
    #[arg(long, value_name = "URL", value_delimiter = ',', requires = "login")]
    nats_servers: Vec<ServerAddr>,
    /// The file with the seed of the service to connect as.
    #[arg(long, value_name = "FILE", requires = "nats_servers", group = "login")]
    nkey_seed: Option<PathBuf>,
    /// The file with the credentials of that service, instead of its seed: operator mode.
    #[arg(long, value_name = "FILE", requires = "nats_servers", group = "login")]
    credentials: Option<PathBuf>,
    /// The PEM file with the certificate authorities to trust, instead of the system's.
    #[arg(long, alias = "nats-tls-ca", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The PEM file with the client certificate. It and its key are read for each connection.
    #[arg(long, alias = "nats-tls-cert", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The PEM file with the client certificate's key.
    #[arg(long, alias = "nats-tls-key", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// TLS handshake before the server's INFO: for a server with `handshake_first`.
    #[arg(long, alias = "nats-tls-first")]
    tls_first: bool,
    /// The name of that service in the policy, for its inbox and its audit subject.
    #[arg(long, visible_alias = "service-name", value_name = "NAME", default_value = "violations")]
    service: String,
    #[command(flatten)]
    audit: AuditArgs,
    /// The name of the server, for events. Without it, the one that it writes to its log.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// For how long repeats of a violation are counted together. 0s reports each by itself.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration)]
    window: Duration,
    /// The time zone of nats-server's log: `utc` if the server has `logtime_utc: true`.
    #[arg(long, value_name = "ZONE", default_value = "local")]
    log_times: Zone,
    #[command(flatten)]
    log_args: LogArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum From {
    /// With its first line.
    Start,
    /// With what is written from now on.
    End,
}

#[derive(Clone, Copy, ValueEnum)]
enum Zone {
    /// This machine's zone.
    Local,
    /// Universal time.
    Utc,
}

fn store_revision(store: Option<&Store>) -> Option<String> {
    Some(store?.current()?.policy.revision().whole().to_owned())
}

impl Violations {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let _log = match self.log_args.start() {
            Ok(log) => log,
            Err(error) => return wrong(&error),
        };
        let token = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        if self.service.is_empty() || !self.service.chars().all(token) {
            return wrong(&format!("--service {:?} is not the name of a service", self.service));
        }
        let login = match (&self.nkey_seed, &self.credentials) {
            (Some(path), _) => config::seed_file("--nkey-seed", path).map(Login::Nkey).map(Some),
            (None, Some(path)) => config::credentials_file("--credentials", path).map(Some),
            (None, None) => Ok(None),
        };
        let login = match login {
            Ok(login) => login,
            Err(problems) => return report(&problems),
        };
        let policy = match self.policy.as_ref().map(|path| {
            // Watching begins before the first reading, so that no change falls between.
            let directory = Directory::new(path);
            let watcher = Watcher::start(directory.clone(), Timing::default());
            let store = Arc::new(Store::new());
            let validated = validate_for(&directory.read()?, self.audit.streams())?;
            store.replace(validated, None, Timestamp::now());
            Ok((store, watcher))
        }) {
            Some(Err(problems)) => return report(&problems),
            Some(Ok(policy)) => Some(policy),
            None => None,
        };
        let outcome = runtime().map_err(|error| error.to_string()).and_then(|runtime| {
            let outcome = runtime.block_on(self.follow(login, policy));
            // A thread that waits for standard input would be waited for.
            runtime.shutdown_background();
            outcome
        });
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        }
    }

    async fn follow(
        self,
        login: Option<Login>,
        policy: Option<(Arc<Store>, Watcher)>,
    ) -> Result<(), String> {
        let file = self.state.as_deref().map(StateFile::new);
        let state = match &file {
            Some(file) => file.load()?,
            None => None,
        };
        let resumed = state.is_some();
        let state = state.unwrap_or_else(|| State {
            instance: Source::new(&self.service, Timestamp::now(), rand::random()).instance,
            ..State::default()
        });
        let input = self.input(&state);
        let store = policy.as_ref().map(|(store, _)| Arc::clone(store));
        let options = Options {
            window: SignedDuration::try_from(self.window).map_err(|e| format!("--window: {e}"))?,
            zone: match self.log_times {
                Zone::Local => TimeZone::system(),
                Zone::Utc => TimeZone::UTC,
            },
            server: self.server_name.clone(),
            service: self.service.clone(),
            publishes: login.is_some(),
        };
        // Neither decides whether a rule grants something.
        let defaults = Defaults {
            account: "APP".into(),
            lifetime: Duration::from_secs(3600),
            audit: self.audit.streams().clone(),
        };
        let explainer = Explainer::new(defaults);
        let follower = Follower::new(options, input, explainer, store, state, file);
        tracing::info!(
            event = "following", log = %self.log.display(), resumed, subject = follower.subject(),
            revision = store_revision(policy.as_ref().map(|(store, _)| &**store)),
            version = env!("CARGO_PKG_VERSION"),
        );
        if let Some((store, watcher)) = policy {
            let audit = self.audit.streams().clone();
            tokio::spawn(keep_current(store, audit, watcher));
        }
        if let Some(login) = login {
            let (outbox, subject) = (follower.outbox(), follower.subject());
            let publisher = Publisher::new(self.connect(&login).await?, &subject);
            tokio::spawn(async move { outbox.deliver(&publisher).await });
        }
        let (stop, stopped) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            let _ = stop.send(true);
            // Kept, so that nobody takes its end for another stop.
            std::future::pending::<()>().await;
        });
        let outcome = follower.run(stopped).await;
        outcome.map(drop).map_err(|error| match &self.state {
            Some(path) => format!("cannot write {}: {error}", path.display()),
            None => error.to_string(),
        })
    }

    fn input(&self, state: &State) -> Input {
        if self.log.as_os_str() != "-" {
            let begin = match self.from {
                From::Start => Begin::Start,
                From::End => Begin::End,
            };
            return Input::File(Box::new(Tail::new(&self.log, state.position.clone(), begin)));
        }
        let (send, pieces) = mpsc::channel(PIECES);
        std::thread::spawn(move || {
            let mut input = std::io::stdin().lock();
            let mut buffer = vec![0; PIECE];
            while let Ok(length @ 1..) = input.read(&mut buffer) {
                let piece = buffer.get(..length).unwrap_or_default().to_vec();
                if send.blocking_send(piece).is_err() {
                    return;
                }
            }
        });
        Input::Stream(pieces, Lines::default())
    }

    /// Connects in the background, as often as it takes: the log is read meanwhile.
    async fn connect(&self, login: &Login) -> Result<async_nats::Client, String> {
        let options = match login {
            Login::Nkey(seed) => ConnectOptions::with_nkey(seed.expose().to_owned()),
            Login::Credentials(text) => ConnectOptions::with_credentials(text.expose())
                .map_err(|error| format!("the credentials cannot be used: {error}"))?,
        };
        let tls = Tls {
            required: false,
            first: self.tls_first,
            ca: self.ca.clone(),
            identity: self.cert.clone().zip(self.key.clone()),
        };
        let options = tls
            .apply(options)
            .name(&self.service)
            .custom_inbox_prefix(inbox_prefix(&self.service))
            .retry_on_initial_connect()
            .event_callback(|event| async move { observe(&event) });
        let connected = options.connect(&self.nats_servers).await;
        connected.map_err(|error| format!("cannot connect to nats-server: {error}"))
    }
}

fn observe(event: &Event) {
    match event {
        Event::Connected => tracing::info!(event = "connected"),
        Event::Disconnected => tracing::warn!(event = "disconnected"),
        Event::ServerError(error) => tracing::error!(event = "server_error", %error),
        Event::ClientError(error) => tracing::warn!(event = "client_error", %error),
        Event::SlowConsumer(_) | Event::LameDuckMode | Event::Draining | Event::Closed => {}
    }
}

/// Puts each change of the policy in force, for ever. One that does not hold is passed over.
async fn keep_current(store: Arc<Store>, audit: AuditStreams, mut watcher: Watcher) {
    loop {
        let read = watcher.changed().await;
        let (aside, streams) = (Arc::clone(&store), audit.clone());
        let loaded = tokio::task::spawn_blocking(move || {
            let validated = validate_for(&read?, &streams)?;
            Ok::<_, Problems>(aside.replace(validated, None, Timestamp::now()))
        });
        match loaded.await {
            Ok(Ok(loaded)) => {
                let revision = loaded.after.policy.revision().whole();
                tracing::info!(event = "policy_changed", revision);
            }
            Ok(Err(problems)) => tracing::error!(
                event = "policy_refused",
                summary = problems.summary(),
                problems =
                    brief(&problems.render(Style::Plain), problems.count(Severity::Error) as u64,),
                "owners are still those of the previous policy",
            ),
            Err(_) => {}
        }
    }
}
