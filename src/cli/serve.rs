//! `solewriter serve`: the service.

mod background;
mod recording;
mod signing;
mod tenant;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, JoinSet};

use self::background::Fellows;
use self::signing::Signing;
use self::tenant::{Common, Tenant};
use super::{fail, report, runtime};
use crate::audit::Recorder;
use crate::cli::common::SettingsArgs;
use crate::config::{self, Settings};
use crate::fleet::{Identity, Member, PublicKeys};
use crate::http;
use crate::nats::{Login, Nats, Secret};
use crate::policy_source::tenancy::Neighbourhood;
use crate::service::{self, CALLOUT_SUBJECT, Health, Service};
use crate::systemd;
use crate::telemetry::{self, Exposition, Metrics, Scope};
use crate::traces::{self, Exporter, Tracer};
use solewriter_core::account_jwt;
use solewriter_core::callout::authorizer::Authorizer;
use solewriter_core::callout::issue::{self, Issuer};
use solewriter_core::callout::rate_limit::RateLimits;
use solewriter_core::callout::xkey::Sealer;
use solewriter_core::keys::{AccountSigner, CurveSecret, Signer, UserKey};
use solewriter_types::audit_event::{PRODUCER, Source};

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
async fn recorded(mut settings: Settings) -> Result<ExitCode, String> {
    // Who holds the issuer's key has to sign before anything else begins.
    if let Some(signer) = Signing::of(&settings) {
        signer.begin().await?;
    }
    let (neighbourhood, asked) = (Arc::default(), Arc::default());
    let common = Common {
        sees_connections: settings.system.is_some(),
        neighbourhood: &neighbourhood,
        asked: &asked,
    };
    let mut tenants = Vec::new();
    for tenant in std::mem::take(&mut settings.tenants) {
        // Who cannot see connections cannot tell when something is settled.
        let settler = settings.system.is_some();
        let settler = settler.then(|| handover_user(&settings.issuer, tenant.name.as_deref()));
        tenants.push(Tenant::new(tenant, settler.transpose()?, &common)?);
    }
    for recording in tenants.iter().map(Tenant::recording) {
        recording.started(settings.issuer.public(), settings.xkey.as_ref())?;
    }
    let outcome = begun(&mut tenants, settings, neighbourhood).await;
    let said = match &outcome {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err("the policy does not load"),
        Err(error) => Err(error.as_str()),
    };
    join_all(tenants.into_iter().map(|tenant| tenant.stopped(said))).await;
    Ok(outcome?.unwrap_or(ExitCode::SUCCESS))
}

/// Gives an exit code when it does not even begin.
async fn begun(
    tenants: &mut [Tenant],
    settings: Settings,
    neighbourhood: Arc<Neighbourhood>,
) -> Result<Option<ExitCode>, String> {
    // What was kept was in force: all of it before anything that is new.
    let kept: Vec<bool> = tenants.iter().map(Tenant::begin_from_kept).collect();
    for (tenant, kept) in tenants.iter_mut().zip(kept) {
        if let Err(code) = tenant.begin(kept).await {
            return Ok(Some(code));
        }
    }
    serve(settings, tenants, neighbourhood).await.map(|()| None)
}

/// What belongs to the process: where there are no tenants, what belongs to the one policy.
fn of_the_process(tenants: &[Tenant]) -> (Exposition, Arc<Metrics>, Recorder) {
    match tenants {
        [only] if only.name().is_none() => {
            let metrics = Arc::clone(only.metrics());
            (Exposition::new(metrics.clone(), Vec::new()), metrics, only.recorder().clone())
        }
        several => {
            let metrics = Metrics::of(Scope::Process);
            let each = several.iter().map(|tenant| Arc::clone(tenant.metrics())).collect();
            let source = Source::new(PRODUCER, Timestamp::now(), rand::random());
            let recorder = Recorder::to_the_log(source, metrics.clone());
            (Exposition::new(metrics.clone(), each), metrics, recorder)
        }
    }
}

async fn serve(
    settings: Settings,
    tenants: &mut [Tenant],
    neighbourhood: Arc<Neighbourhood>,
) -> Result<(), String> {
    let signing = Signing::of(&settings);
    let Settings { nats, issuer, operator, xkey, system, limits, listen, traces, .. } = settings;
    let sealer = xkey
        .map(|seed| CurveSecret::new(&seed).map(Sealer::new))
        .transpose()
        .map_err(|error| error.to_string())?;
    let (exposition, metrics, recorder) = of_the_process(tenants);
    let exposition = Arc::new(exposition);
    let deciding = tenants.iter().map(Tenant::deciding).collect();
    let deciding = Arc::new(service::Tenants::new(deciding, neighbourhood));
    let health = Health::new(Arc::clone(&deciding), metrics.clone(), recorder.clone());
    let keys = PublicKeys::of(&issuer, sealer.as_ref(), operator.as_ref());
    let identity = Identity::new(rand::random(), Timestamp::now().as_second());
    let (tracer, exporter) = trace(traces, &identity, &nats, &metrics)?;
    let issuer = Issuer::new(issuer, sealer).with_operator(operator);
    let service = Arc::new(Service {
        instance: Arc::clone(&identity.id),
        authorizer: Authorizer::new(issuer, limits.clock_leeway)
            .with_limits(RateLimits::new(limits.per_key, limits.per_host)),
        tenants: Arc::clone(&deciding),
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
    let descriptors = http::raise_descriptor_limit();
    if let Some(address) = listen {
        listen_at(address, exposition.clone(), health.clone(), descriptors, until_stopped())
            .await?;
    }
    tracing::info!(event = "instance", id = &*identity.id, host = identity.host);
    // Each of these goes on for ever.
    let mut tasks = JoinSet::new();
    let mut together = Vec::new();
    for (tenant, deciding) in tenants.iter_mut().zip(deciding.iter()) {
        let issuer = service.authorizer.issuer();
        let member = Member {
            identity: identity.clone(),
            tenant: deciding.name.clone(),
            store: deciding.store.clone(),
            source_status: deciding.source_status.clone(),
            connections: nats.connections,
            keys: keys.clone(),
        };
        let (system, settler) = (system.clone(), settler(issuer, deciding.name.as_deref())?);
        let fellows = Fellows { callout: &nats, tenant: deciding, issuer, member, system, settler };
        together.push(tenant.work(&mut tasks, fellows, stopped.clone())?);
    }
    if let Some(signing) = signing {
        tasks.spawn(signing.follow(health.clone()));
    }
    tell_systemd(&mut tasks, health, exposition)?;
    let mut together = tokio::spawn(async move {
        join_all(together).await;
    });
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
    metrics: Arc<Exposition>,
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
fn handover_user(issuer: &AccountSigner, tenant: Option<&str>) -> Result<UserKey, String> {
    let seed = issue::handover_seed(issuer, tenant).map_err(|error| error.to_string())?;
    Ok(*Signer::new(&seed).map_err(|error| error.to_string())?.public())
}

/// How who settles handovers logs in.
fn settler(issuer: &Issuer, tenant: Option<&str>) -> Result<Login, String> {
    let seed = issuer.handover_seed(tenant).map_err(|error| error.to_string())?;
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
    metrics: Arc<Exposition>,
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
