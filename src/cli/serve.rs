//! `solewriter serve`: the service.

mod background;
mod recording;
mod signing;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_nats::Client;
use clap::Args;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, JoinSet};

use self::recording::Recording;
use self::signing::Signing;
use super::{fail, report, runtime};
use crate::cli::common::SettingsArgs;
use crate::cli::serve::background::Background;
use crate::config::{self, Policy, PolicySource, Settings};
use crate::fleet::{Identity, Member, PublicKeys};
use crate::http;
use crate::nats::{Login, Nats, Secret};
use crate::policy_source::bucket::chain::Judge;
use crate::policy_source::cache::PolicyCache;
use crate::policy_source::directory::Directory;
use crate::policy_source::follower::{self, Follower};
use crate::policy_source::snapshot_store::Store;
use crate::policy_source::status::SourceStatus;
use crate::policy_source::temporary::Temporary;
use crate::policy_source::watcher::{Timing, Watcher};
use crate::service::{CALLOUT_SUBJECT, Health, Service, connect_beside};
use crate::sessions::{self, consumers};
use crate::systemd;
use crate::telemetry::{self, Metrics};
use crate::traces::{self, Exporter, Tracer};
use solewriter_core::account_jwt;
use solewriter_core::callout::authorizer::Authorizer;
use solewriter_core::callout::decide::Decider;
use solewriter_core::callout::issue::{self, Issuer};
use solewriter_core::callout::rate_limit::RateLimits;
use solewriter_core::callout::xkey::Sealer;
use solewriter_core::keys::{AccountSigner, CurveSecret, Signer, UserKey};

/// How long it may take to tell the other instances that this one ends.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// Answer nats-server's authorization requests.
///
/// Runs until SIGTERM or SIGINT, and then finishes the requests that it has taken. It notices a
/// changed policy by itself, and at once on SIGHUP. The new policy decides from the next connection
/// on. Open connections of services that lose something, or own something new, are closed.
#[derive(Args)]
pub struct Serve {
    #[command(flatten)]
    settings: SettingsArgs,
}

impl Serve {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let SettingsArgs { config, overrides } = &self.settings;
        let (settings, logging) = match config::load(config, overrides) {
            Ok(loaded) => loaded,
            Err(problems) => return report(&problems),
        };
        let _log = match telemetry::start_logging(logging.format, &logging.filter) {
            Ok(log) => log,
            Err(error) => {
                return fail(&format!("the log filter {:?} is wrong: {error}", logging.filter));
            }
        };
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
    metrics.consumers().causes(consumers::verdict::Cause::ALL.iter().map(|cause| cause.code()));
    metrics.sessions().causes(sessions::verdict::Cause::CODES);
    if settings.cluster.is_some() {
        metrics.state_is_in_a_cluster();
    }
    let (recording, sink) =
        Recording::start(settings.audit.clone(), &settings.nats, metrics.clone())?;
    recording.started(settings.issuer.public(), settings.xkey.as_ref())?;
    let Policy { source, keep, keep_at_most, lease, .. } = &settings.policy;
    if matches!(source, PolicySource::Directory(_)) && keep.is_none() && settings.system.is_some() {
        tracing::warn!(
            event = "handover_not_kept",
            "without [policy] keep, a restart while something moves from one service to another lets \
             both write it until the sweep that follows",
        );
    }
    if let Some(signer) = Signing::of(&settings) {
        signer.begin().await?;
    }
    // Who cannot see connections cannot tell when something is settled.
    let settler = settings.system.is_some().then(|| handover_user(&settings.issuer)).transpose()?;
    let lease = lease.filter(|_| settler.is_some());
    let store = settler.map_or_else(Store::new, Store::with_handovers);
    let keeper = keep.clone().map(|file| PolicyCache::new(file, source.to_string(), *keep_at_most));
    let follower = Follower {
        store: Arc::new(store),
        source_status: Arc::new(
            SourceStatus::new(source.to_string(), *keep_at_most).with_lease(lease),
        ),
        metrics,
        keeper: keeper.map(Arc::new),
        recorder: recording.recorder.clone(),
        defaults: settings.defaults.clone(),
        temporary: Arc::new(Mutex::new(Temporary::new(
            settings.emergency.clone(),
            settings.defaults.audit.clone(),
        ))),
        judge: settings
            .policy
            .authors
            .clone()
            .map(|authors| Arc::new(Judge { authors, audit: settings.defaults.audit.clone() })),
    };
    let kept = follower::start_from_kept(&follower);
    let watcher = match source {
        PolicySource::Bucket(_) => None,
        PolicySource::Directory(path) => {
            // Watching begins before the first reading, so that no change falls between.
            let timing = Timing { poll: settings.policy.poll, ..Timing::default() };
            let mut watcher = Watcher::start(Directory::new(path), timing);
            follower.emergencies_of(&watcher).await;
            match follower.begin(watcher.read_now().await) {
                Err(problems) if !kept => {
                    // The problems themselves are printed; the log alone does not need them twice.
                    if sink.is_some() {
                        follower.record_refusal(&problems, None);
                    }
                    recording.stopped(sink, Err("the policy does not load")).await;
                    return Ok(report(&problems));
                }
                _ => Some(watcher),
            }
        }
    };
    let outcome = serve(settings, follower, watcher).await;
    recording.stopped(sink, outcome.as_ref().map(drop).map_err(String::as_str)).await;
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn serve(
    settings: Settings,
    follower: Follower,
    watcher: Option<Watcher>,
) -> Result<(), String> {
    let signing = Signing::of(&settings);
    let Settings {
        nats,
        issuer,
        operator,
        xkey,
        system,
        policy,
        defaults,
        accounts,
        jitter,
        sessions,
        limits,
        listen,
        traces,
        ..
    } = settings;
    let Follower { store, source_status, metrics, recorder, .. } = follower.clone();
    let sealer = xkey
        .map(|seed| CurveSecret::new(&seed).map(Sealer::new))
        .transpose()
        .map_err(|error| error.to_string())?;
    let health =
        Health::new(store.clone(), source_status.clone(), metrics.clone(), recorder.clone());
    let keys = PublicKeys::of(&issuer, sealer.as_ref(), operator.as_ref());
    let identity = Identity::new(rand::random(), Timestamp::now().as_second());
    let (tracer, exporter) = trace(traces, &identity, &nats, &metrics)?;
    let service = Arc::new(Service {
        fleet: OnceLock::new(),
        instance: Arc::clone(&identity.id),
        authorizer: Authorizer::new(
            Issuer::new(issuer, sealer).with_operator(operator),
            Decider::new(defaults, accounts, jitter),
            limits.clock_leeway,
        )
        .with_limits(RateLimits::new(limits.per_key, limits.per_host)),
        store: store.clone(),
        source_status: source_status.clone(),
        metrics: metrics.clone(),
        recorder,
        tracer,
        health: health.clone(),
        limits,
    });

    let measured = Arc::downgrade(&service);
    metrics.measure_caches(move || {
        measured.upgrade().map(|service| service.cache_sizes()).unwrap_or_default()
    });
    let (stop, stopped) = watch::channel(false);
    let until_stopped = || {
        let mut stopped = stopped.clone();
        async move {
            // An error means that the sender is gone, which is a stop too.
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    };
    let hear = |kind| signal(kind).map_err(|error| error.to_string());
    let (terminate, interrupt) = (hear(SignalKind::terminate())?, hear(SignalKind::interrupt())?);
    let hangup = hear(SignalKind::hangup())?;
    let descriptors = http::raise_descriptor_limit();
    if let Some(address) = listen {
        listen_at(address, metrics.clone(), health.clone(), descriptors, until_stopped()).await?;
    }
    tracing::info!(event = "instance", id = &*identity.id, host = identity.host);
    let (connections, status) = (nats.connections, source_status.clone());
    let member = Member { identity, store, source_status: status, connections, keys };
    let settler = settler(service.authorizer.issuer())?;
    let together = Background::prepare(&nats, system, settler, sessions, &service, member);
    let (connected, connection) = watch::channel(None);
    // Each of these goes on for ever.
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        source_status.stall_guard.watch().await;
        "showing that the process runs"
    });
    tasks.spawn(talk(nats.clone(), connected));
    tasks.spawn(follower::keep_time(follower.clone()));
    tasks.spawn(following(follower, watcher, policy, connection.clone(), hangup));
    if let Some(signing) = signing {
        tasks.spawn(signing.follow(health.clone()));
    }
    tell_systemd(&mut tasks, health, metrics)?;
    let mut together = tokio::spawn(together.run(first(connection), stopped.clone()));
    tasks.spawn(until_told(terminate, interrupt, stop.clone()));
    let mut running = std::pin::pin!(service.run(nats, until_stopped()));
    let outcome = tokio::select! {
        outcome = &mut running => outcome.map_err(|error| error.to_string()),
        what = ended(&mut tasks, &mut together, stopped) => {
            tracing::error!(
                event = "task_ended", what,
                "this must not happen, and the service cannot work without it: stopping",
            );
            let _ = stop.send(true);
            let outcome = running.await.map_err(|error| error.to_string());
            outcome.and_then(|()| Err(format!("this part ended too early: {what}")))
        }
    };
    leave(together, exporter).await;
    tasks.abort_all();
    outcome
}

/// The others hear that this one leaves; they would find out by themselves. What was traced is sent.
async fn leave(together: JoinHandle<()>, exporter: Option<Exporter>) {
    if !together.is_finished() {
        let _ = tokio::time::timeout(LEAVE_WITHIN, together).await;
    }
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }
}

/// Begins to trace, if the settings say where traces go.
fn trace(
    settings: Option<traces::Settings>,
    Identity { id, host, .. }: &Identity,
    nats: &Nats,
    metrics: &Arc<Metrics>,
) -> Result<(Option<Arc<Tracer>>, Option<Exporter>), String> {
    let Some(settings) = settings else { return Ok((None, None)) };
    let (subject, group) = (CALLOUT_SUBJECT, &nats.queue_group);
    let (tracer, exporter) =
        Exporter::start(settings, id, host, subject, group, Arc::clone(metrics))?;
    Ok((Some(tracer), Some(exporter)))
}

/// Lets systemd know how the service is, if it started this process.
fn tell_systemd(
    tasks: &mut JoinSet<&'static str>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
) -> Result<(), String> {
    if systemd::listens() {
        let hangup = signal(SignalKind::hangup()).map_err(|e| e.to_string())?;
        tasks.spawn(async move {
            systemd::follow(health, metrics, hangup).await;
            "telling systemd how the service is"
        });
    }
    Ok(())
}

/// Stops the service when a signal says so, and goes on for ever.
async fn until_told(
    mut terminate: Signal,
    mut interrupt: Signal,
    stop: watch::Sender<bool>,
) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    systemd::stopping();
    let _ = stop.send(true);
    std::future::pending().await
}

/// The key of who settles handovers, the same for each instance.
fn handover_user(issuer: &AccountSigner) -> Result<UserKey, String> {
    let seed = issue::handover_seed(issuer).map_err(|error| error.to_string())?;
    Ok(*Signer::new(&seed).map_err(|error| error.to_string())?.public())
}

/// How who settles handovers logs in.
fn settler(issuer: &Issuer) -> Result<Login, String> {
    let seed = issuer.handover_seed().map_err(|error| error.to_string())?;
    let now = Timestamp::now().as_second();
    let sentinel = issuer.sentinel(&seed, now).map_err(|error| error.to_string())?;
    Ok(match sentinel {
        None => Login::Nkey(seed),
        Some(jwt) => Login::Credentials(Secret::new(account_jwt::credentials(&jwt, &seed))),
    })
}

/// Serves health and metrics at that address.
async fn listen_at(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    descriptors: Option<u64>,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> Result<(), String> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("[http] listen: cannot listen on {address}: {error}"))?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(event = "http", %address, "serving /livez, /readyz and /metrics");
    }
    tokio::spawn(http::serve(listener, metrics, health, descriptors, stopped));
    Ok(())
}

/// Follows the policy's source. Gives what it was that ended.
async fn following(
    follower: Follower,
    watcher: Option<Watcher>,
    policy: Policy,
    connection: watch::Receiver<Option<Client>>,
    hangup: Signal,
) -> &'static str {
    match (watcher, policy.source) {
        (Some(watcher), _) => follower::directory(follower, watcher, hangup).await,
        (None, PolicySource::Bucket(name)) => {
            // Often enough that one question may fail before the lease is over.
            let poll = policy.poll.min(policy.lease.map_or(Duration::MAX, |lease| lease / 4));
            follower::bucket(follower, first(connection), name, poll, hangup).await;
        }
        // A directory always has a watcher.
        (None, PolicySource::Directory(_)) => {}
    }
    "following the policy's source"
}

/// Resolves when something that should go on does not: it returned, or a defect ended it. A
/// service without it would answer by a policy that nobody follows. `background` may end once the
/// service is stopped.
async fn ended(
    tasks: &mut JoinSet<&'static str>,
    together: &mut JoinHandle<()>,
    stopped: watch::Receiver<bool>,
) -> String {
    let why = |ended: Result<&'static str, JoinError>| match ended {
        Ok(what) => what.to_owned(),
        Err(error) => error.to_string(),
    };
    tokio::select! {
        Some(ended) = tasks.join_next() => why(ended),
        ended = together => {
            if *stopped.borrow() {
                std::future::pending::<()>().await;
            }
            why(ended.map(|()| "hearing the other instances"))
        }
    }
}

/// Makes the second connection and hands it out. Ends only when there is none: then it gives what it
/// was that ended.
async fn talk(nats: Arc<Nats>, connected: watch::Sender<Option<Client>>) -> &'static str {
    match connect_beside(&nats).await {
        Ok(client) => {
            let _ = connected.send(Some(client));
            std::future::pending::<()>().await;
        }
        Err(error) => tracing::error!(event = "connect_failed", %error),
    }
    "the connection to the other instances"
}

/// The connection, once it is there; `None` when it will never be.
async fn first(mut connection: watch::Receiver<Option<Client>>) -> Option<Client> {
    let client = connection.wait_for(Option::is_some).await.ok()?;
    client.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn what_ended(
        task: impl Future<Output = &'static str> + Send + 'static,
        together: impl Future<Output = ()> + Send + 'static,
        stopped: bool,
    ) -> Option<String> {
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending());
        tasks.spawn(task);
        let mut together = tokio::spawn(together);
        let (_stop, stopped) = watch::channel(stopped);
        let ended = ended(&mut tasks, &mut together, stopped);
        tokio::time::timeout(Duration::from_millis(300), ended).await.ok()
    }

    #[tokio::test]
    async fn what_goes_on_for_ever_is_missed_when_it_ends() {
        use std::future::pending;
        assert_eq!(what_ended(pending(), pending(), false).await, None);
        let returned = what_ended(async { "following" }, pending(), false).await;
        assert_eq!(returned.as_deref(), Some("following"));
        let defect = what_ended(async { panic!("a defect") }, pending(), false).await;
        assert!(defect.unwrap().contains("a defect"));
        let together = what_ended(pending(), async { panic!("another") }, false).await;
        assert!(together.unwrap().contains("another"));
        assert!(what_ended(pending(), async {}, false).await.is_some());
        assert_eq!(what_ended(pending(), async {}, true).await, None, "it was told to end");
    }
}
