//! `solewriter serve`: the service.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::{fail, report, runtime};
use crate::authorizer::Authorizer;
use crate::config::{self, Overrides, Settings};
use crate::decide::Decider;
use crate::http;
use crate::issue::Issuer;
use crate::keys::CurveSecret;
use crate::policy::directory::{Directory, Timing, Watcher};
use crate::policy::store::Store;
use crate::policy::validate::validate;
use crate::protocol::seal::Sealer;
use crate::service::{Health, Service};
use crate::source::render::Style;
use crate::source::{Problems, SourceFile};
use crate::telemetry::{self, Metrics};

/// Answer nats-server's authorization requests.
///
/// Runs until SIGTERM or SIGINT, then finishes what it took on. A policy file that is changed
/// takes effect for the next connection; SIGHUP reads the policy at once.
#[derive(Args)]
pub struct Serve {
    /// The settings file.
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "SOLEWRITER_CONFIG",
        default_value = "solewriter.toml"
    )]
    config: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
}

impl Serve {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let (settings, logging) = match config::load(&self.config, &self.overrides) {
            Ok(loaded) => loaded,
            Err(problems) => return report(&problems),
        };
        let _log = match telemetry::start_logging(logging.format, &logging.filter) {
            Ok(log) => log,
            Err(error) => {
                return fail(&format!("the log filter {:?} is wrong: {error}", logging.filter));
            }
        };
        // Watching begins before the first reading, so that no change falls between.
        let directory = Directory::new(&settings.policy);
        let timing = Timing { poll: settings.poll, ..Timing::default() };
        let watcher = Watcher::start(directory.clone(), timing);
        let policy = match directory.read().and_then(|files| validate(&files)) {
            Ok(validated) => validated,
            Err(problems) => return report(&problems),
        };
        log_warnings(&policy.warnings);
        let store = Arc::new(Store::new(policy.policy, Timestamp::now()));
        let outcome = runtime()
            .map_err(|error| error.to_string())
            .and_then(|rt| rt.block_on(serve(settings, store, watcher)));
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        }
    }
}

async fn serve(settings: Settings, store: Arc<Store>, watcher: Watcher) -> Result<(), String> {
    let Settings {
        nats,
        issuer,
        xkey,
        system: _,
        policy: _,
        poll: _,
        defaults,
        accounts,
        jitter,
        limits,
        listen,
    } = settings;
    let sealer = xkey
        .map(|seed| CurveSecret::new(&seed).map(Sealer::new))
        .transpose()
        .map_err(|error| error.to_string())?;
    let metrics = Metrics::new();
    metrics.policy_accepted(&store.current().policy, Timestamp::now().as_second());
    let health = Health::new(store.clone(), metrics.clone());
    let service = Arc::new(Service {
        authorizer: Authorizer::new(
            Issuer::new(issuer, sealer),
            Decider::new(defaults, accounts, jitter).with_limits(limits.per_key, limits.per_host),
            limits.clock_leeway,
        ),
        store: store.clone(),
        metrics: metrics.clone(),
        health: health.clone(),
        limits,
    });

    let (stop, stopped) = watch::channel(false);
    let until_stopped = || {
        let mut stopped = stopped.clone();
        async move {
            // An error means that the sender is gone, which is a stop too.
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    let hangup = signal(SignalKind::hangup()).map_err(|e| e.to_string())?;
    if let Some(address) = listen {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| format!("[http] listen: cannot listen on {address}: {error}"))?;
        if let Ok(address) = listener.local_addr() {
            tracing::info!(event = "http", %address, "serving /livez, /readyz and /metrics");
        }
        let http = http::serve(listener, metrics.clone(), health, until_stopped());
        tokio::spawn(async move {
            if let Err(error) = http.await {
                tracing::error!(event = "http_failed", %error);
            }
        });
    }
    let keep_current = keep_current(store, metrics, watcher, hangup);
    let following = tokio::spawn(async move {
        tokio::select! {
            () = keep_current => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = stop.send(true);
    });
    let outcome = service.run(nats, until_stopped()).await;
    following.abort();
    outcome.map_err(|error| error.to_string())
}

/// Puts each change of the policy in force, for ever.
async fn keep_current(
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    mut watcher: Watcher,
    mut hangup: Signal,
) {
    loop {
        let read = tokio::select! {
            read = watcher.changed() => read,
            _ = hangup.recv() => watcher.read_now().await,
        };
        let (store, metrics) = (store.clone(), metrics.clone());
        // Validating a large policy takes a while; decisions go on meanwhile.
        let _ = tokio::task::spawn_blocking(move || load(&store, &metrics, read)).await;
    }
}

fn load(store: &Store, metrics: &Metrics, read: Result<Vec<SourceFile>, Problems>) {
    let now = Timestamp::now();
    match read.and_then(|files| store.load(&files, now)) {
        Ok(loaded) => {
            log_warnings(&loaded.warnings);
            metrics.policy_accepted(&loaded.after.policy, now.as_second());
            tracing::info!(
                event = if loaded.is_change() { "policy_changed" } else { "policy_unchanged" },
                revision = %loaded.after.policy.revision(),
                before = %loaded.before.policy.revision(),
                services = loaded.after.policy.services().len(),
                "policy read",
            );
        }
        Err(problems) => {
            metrics.policy_refused(now.as_second());
            tracing::error!(
                event = "policy_refused", revision = %store.current().policy.revision(),
                summary = problems.summary(), problems = problems.render(Style::Plain),
                "the change was refused as a whole; the policy before stays in force",
            );
        }
    }
}

fn log_warnings(problems: &Problems) {
    for problem in problems {
        tracing::warn!(
            event = "policy_warning",
            code = problem.code,
            problem = problem.render(Style::Plain),
        );
    }
}
