//! A policy that `serve` decides by, from its settings to the work that keeps it in force. Without
//! tenants, there is one.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_nats::Client;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{Instrument, Span};

use super::background::{Background, Fellows};
use super::recording::Recording;
use crate::audit::{Recorder, Sink};
use crate::cli::report;
use crate::config::{self, Policy, PolicySource};
use crate::nats::Nats;
use crate::policy_source::bucket::chain::Judge;
use crate::policy_source::cache::PolicyCache;
use crate::policy_source::directory::Directory;
use crate::policy_source::follower::{self, Follower};
use crate::policy_source::snapshot_store::Store;
use crate::policy_source::status::SourceStatus;
use crate::policy_source::temporary::Temporary;
use crate::policy_source::tenancy::Neighbourhood;
use crate::policy_source::watcher::{Timing, Watcher};
use crate::service::{self, connect_beside};
use crate::sessions::{self, consumers};
use crate::telemetry::{Metrics, Scope};
use solewriter_core::callout::asked::Asked;
use solewriter_core::callout::decide::Decider;
use solewriter_core::keys::UserKey;
use solewriter_core::policy::validate::Validator;

/// What `serve` has of a tenant.
pub(super) struct Tenant {
    settings: config::Tenant,
    /// What its lines of the log are in.
    span: Span,
    follower: Follower,
    watcher: Option<Watcher>,
    recording: Recording,
    sink: Option<Sink>,
    decider: Arc<Decider>,
}

/// What all of them share.
pub(super) struct Common<'a> {
    /// Whether there is a system user.
    pub(super) sees_connections: bool,
    pub(super) neighbourhood: &'a Arc<Neighbourhood>,
    /// The connections that were let in of late, whoever's they are.
    pub(super) asked: &'a Arc<Asked>,
}

impl Tenant {
    /// Puts it together; no policy is in force. `settler` is the key of who settles its handovers.
    ///
    /// # Errors
    /// A message, when the spool cannot be used.
    pub(super) fn new(
        settings: config::Tenant,
        settler: Option<UserKey>,
        common: &Common<'_>,
    ) -> Result<Self, String> {
        let (span, scope) = match &settings.name {
            None => (Span::none(), Scope::Whole),
            Some(name) => (tracing::error_span!("tenant", tenant = &**name), Scope::Tenant(name)),
        };
        let entered = span.clone().entered();
        let metrics = Metrics::of(scope);
        metrics.consumers().causes(consumers::verdict::Cause::ALL.iter().map(|cause| cause.code()));
        metrics.sessions().causes(sessions::verdict::Cause::CODES);
        if settings.cluster.is_some() {
            metrics.state_is_in_a_cluster();
        }
        let (recording, sink) =
            Recording::start(settings.audit.clone(), &settings.nats, metrics.clone(), &span)?;
        let Policy { source, authors, keep, keep_at_most, lease, .. } = &settings.policy;
        if matches!(source, PolicySource::Directory(_)) && keep.is_none() && common.sees_connections
        {
            tracing::warn!(
                event = "handover_not_kept",
                "without [policy] keep, a restart while something moves from one service to another \
                 lets both write it until the sweep that follows",
            );
        }
        let lease = lease.filter(|_| settler.is_some());
        let store = Arc::new(settler.map_or_else(Store::new, Store::with_handovers));
        common.neighbourhood.join(Arc::clone(&store));
        let keeper =
            keep.clone().map(|file| PolicyCache::new(file, source.to_string(), *keep_at_most));
        let audit = settings.defaults.audit.clone();
        let validator = Arc::new(Validator::new(audit.clone()));
        let temporary = Temporary::new(settings.emergency.clone(), audit);
        let judge = |authors| Arc::new(Judge { authors, validator: Arc::clone(&validator) });
        let follower = Follower {
            store,
            source_status: Arc::new(
                SourceStatus::new(source.to_string(), *keep_at_most).with_lease(lease),
            ),
            metrics,
            keeper: keeper.map(Arc::new),
            recorder: recording.recorder.clone(),
            defaults: settings.defaults.clone(),
            temporary: Arc::new(Mutex::new(temporary)),
            judge: authors.clone().map(judge),
            validator,
            quota: settings.quota,
            neighbourhood: Arc::clone(common.neighbourhood),
            warned: Arc::default(),
        };
        let (defaults, accounts) = (settings.defaults.clone(), settings.accounts.clone());
        let decider = Arc::new(
            Decider::new(defaults, accounts, settings.jitter).with_asked(Arc::clone(common.asked)),
        );
        drop(entered);
        let watcher = None;
        Ok(Self { settings, span, follower, watcher, recording, sink, decider })
    }

    pub(super) fn recorder(&self) -> &Recorder {
        &self.recording.recorder
    }

    pub(super) fn recording(&self) -> &Recording {
        &self.recording
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.follower.metrics
    }

    pub(super) fn name(&self) -> Option<&Arc<str>> {
        self.settings.name.as_ref()
    }

    /// Puts the kept policy in force, if there is one. Gives whether there was.
    pub(super) fn begin_from_kept(&self) -> bool {
        self.span.in_scope(|| follower::start_from_kept(&self.follower))
    }

    /// Puts the policy of a directory in force. Without tenants, one that does not load ends the start
    /// if nothing was kept; of several, the others go on.
    ///
    /// # Errors
    /// The exit code, after the problems were printed.
    pub(super) async fn begin(&mut self, kept: bool) -> Result<(), ExitCode> {
        let span = self.span.clone();
        self.begin_within(kept).instrument(span).await
    }

    async fn begin_within(&mut self, kept: bool) -> Result<(), ExitCode> {
        let follower = &self.follower;
        let Policy { source: PolicySource::Directory(path), poll, .. } = &self.settings.policy
        else {
            return Ok(());
        };
        // Watching begins before the first reading, so that no change falls between.
        let timing = Timing { poll: *poll, ..Timing::default() };
        let mut watcher = Watcher::start(Directory::new(path), timing);
        follower.emergencies_of(&watcher).await;
        match follower.begin(watcher.read_now().await) {
            Err(problems) if !kept => {
                // Printed problems need not stand in the log, too.
                if self.settings.name.is_some() || self.sink.is_some() {
                    follower.record_refusal(&problems, None);
                }
                if self.settings.name.is_none() {
                    return Err(report(&problems));
                }
            }
            _ => {}
        }
        self.watcher = Some(watcher);
        Ok(())
    }

    /// What decides by it.
    pub(super) fn deciding(&self) -> service::Tenant {
        let Follower { store, source_status, metrics, recorder, .. } = self.follower.clone();
        service::Tenant {
            name: self.settings.name.clone(),
            decider: Arc::clone(&self.decider),
            store,
            source_status,
            metrics,
            recorder,
            fleet: OnceLock::new(),
        }
    }

    /// Keeps the policy in force what its source has, each task for ever. Gives what looks after open
    /// connections, which ends once `stopped` says so.
    ///
    /// # Errors
    /// A message, when signals cannot be heard.
    pub(super) fn work(
        &mut self,
        tasks: &mut JoinSet<&'static str>,
        fellows: Fellows<'_>,
        stopped: watch::Receiver<bool>,
    ) -> Result<impl Future<Output = ()> + Send + use<>, String> {
        let hangup = signal(SignalKind::hangup()).map_err(|error| error.to_string())?;
        let (follower, span) = (self.follower.clone(), &self.span);
        let status = Arc::clone(&follower.source_status);
        let nats = &self.settings.nats;
        let background = Background::prepare(nats, self.settings.sessions, fellows);
        let (connected, connection) = watch::channel(None);
        tasks.spawn(async move {
            status.stall_guard.watch().await;
            "showing that the process runs"
        });
        tasks.spawn(talk(Arc::clone(nats), connected).instrument(span.clone()));
        tasks.spawn(follower::keep_time(follower.clone()).instrument(span.clone()));
        let (watcher, policy) = (self.watcher.take(), &self.settings.policy);
        let following = following(follower, watcher, policy, connection.clone(), hangup);
        tasks.spawn(following.instrument(span.clone()));
        Ok(background.run(first(connection), stopped).instrument(span.clone()))
    }

    /// The service ends. Its last events get the time to arrive.
    pub(super) async fn stopped(self, outcome: Result<(), &str>) {
        self.recording.stopped(self.sink, outcome).await;
    }
}

/// Follows the policy's source. Gives what it was that ended.
fn following(
    follower: Follower,
    watcher: Option<Watcher>,
    policy: &Policy,
    connection: watch::Receiver<Option<Client>>,
    hangup: Signal,
) -> impl Future<Output = &'static str> + Send + use<> {
    // Often enough that one question may fail before the lease is over.
    let poll = policy.poll.min(policy.lease.map_or(Duration::MAX, |lease| lease / 4));
    let source = policy.source.clone();
    async move {
        match (watcher, source) {
            (Some(watcher), _) => follower::directory(follower, watcher, hangup).await,
            (None, PolicySource::Bucket(name)) => {
                follower::bucket(follower, first(connection), name, poll, hangup).await;
            }
            // A directory always has a watcher.
            (None, PolicySource::Directory(_)) => {}
        }
        "following the policy's source"
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
