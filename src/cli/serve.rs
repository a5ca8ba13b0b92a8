//! `solewriter serve`: the service.

mod recording;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use self::recording::Recording;
use super::{fail, report, runtime};
use crate::authorizer::Authorizer;
use crate::config::{self, Overrides, Settings};
use crate::decide::Decider;
use crate::http;
use crate::issue::Issuer;
use crate::keys::CurveSecret;
use crate::policy::directory::{Directory, Timing, Watcher};
use crate::policy::store::Store;
use crate::policy::validate::{Validated, validate};
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
        if let Err(error) = telemetry::start_logging(logging.format, &logging.filter) {
            return fail(&format!("the log filter {:?} is wrong: {error}", logging.filter));
        }
        let outcome = runtime()
            .map_err(|error| error.to_string())
            .and_then(|runtime| runtime.block_on(recorded(settings)));
        match outcome {
            Ok(code) => code,
            Err(error) => fail(&error),
        }
    }
}

/// The life of the service, with what there is to record of it.
async fn recorded(settings: Settings) -> Result<ExitCode, String> {
    let metrics = Metrics::new();
    let Settings { nats, policy, defaults, audit, .. } = &settings;
    let (recording, sink) =
        Recording::start(audit.clone(), nats, &metrics, policy, defaults.clone())?;
    let recording = Arc::new(recording);
    // Watching begins before the first reading, so that no change falls between.
    let directory = Directory::new(policy);
    let timing = Timing { poll: settings.poll, ..Timing::default() };
    let watcher = Watcher::start(directory.clone(), timing);
    let (policy, warnings) = match directory.read().and_then(|files| validate(&files)) {
        Ok(Validated { policy, warnings }) => (policy, warnings),
        Err(problems) => {
            // The problems themselves are printed; the log alone does not need them twice.
            if sink.is_some() {
                recording.refused(None, &problems);
                recording.stopped(sink, Err("the policy does not load")).await;
            }
            return Ok(report(&problems));
        }
    };
    log_warnings(&warnings);
    let store = Arc::new(Store::new(policy, Timestamp::now()));
    let outcome = serve(settings, metrics, store, watcher, &recording, &warnings).await;
    recording.stopped(sink, outcome.as_ref().map(drop).map_err(String::as_str)).await;
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn serve(
    settings: Settings,
    metrics: Arc<Metrics>,
    store: Arc<Store>,
    watcher: Watcher,
    recording: &Arc<Recording>,
    warnings: &Problems,
) -> Result<(), String> {
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
        audit: _,
    } = settings;
    let sealer = xkey
        .map(|seed| CurveSecret::new(&seed).map(Sealer::new))
        .transpose()
        .map_err(|error| error.to_string())?;
    let current = store.current();
    metrics.policy_accepted(&current.policy, Timestamp::now().as_second());
    let recorder = recording.recorder.clone();
    let health = Health::new(store.clone(), metrics.clone(), recorder.clone());
    let issuer = Issuer::new(issuer, sealer);
    recording.started(&issuer, &current.policy, warnings);
    let service = Arc::new(Service {
        authorizer: Authorizer::new(
            issuer,
            Decider::new(defaults, accounts, jitter),
            limits.clock_leeway,
        ),
        store: store.clone(),
        metrics: metrics.clone(),
        recorder,
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
    let keep_current = keep_current(store, metrics, Arc::clone(recording), watcher, hangup);
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
    recording: Arc<Recording>,
    mut watcher: Watcher,
    mut hangup: Signal,
) {
    loop {
        let read = tokio::select! {
            read = watcher.changed() => read,
            _ = hangup.recv() => watcher.read_now().await,
        };
        let (store, metrics, recording) = (store.clone(), metrics.clone(), recording.clone());
        // Validating a large policy takes a while; decisions go on meanwhile.
        let _ = tokio::task::spawn_blocking(move || load(&store, &metrics, &recording, read)).await;
    }
}

fn load(
    store: &Store,
    metrics: &Metrics,
    recording: &Recording,
    read: Result<Vec<SourceFile>, Problems>,
) {
    let now = Timestamp::now();
    match read.and_then(|files| store.load(&files, now)) {
        Ok(loaded) => {
            log_warnings(&loaded.warnings);
            metrics.policy_accepted(&loaded.after.policy, now.as_second());
            recording.loaded(&loaded);
        }
        Err(problems) => {
            metrics.policy_refused(now.as_second());
            recording.refused(Some(store.current().policy.revision()), &problems);
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
