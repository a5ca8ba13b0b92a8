//! What an instance does besides answering: it tells the others what it serves, and looks after
//! connections that are open already.

use std::sync::Arc;

use async_nats::Client;
use tokio::sync::{Notify, watch};

use crate::fleet::Member;
use crate::fleet::heartbeat::Fleet;
use crate::nats::{Login, Nats};
use crate::service::Tenant;
use crate::sessions::sweeper::{Sweeper, Whole};
use crate::sessions::system_connection::Access;
use crate::sessions::{self, consumers, reach_without_system_user};
use solewriter_core::callout::issue::Issuer;

/// An instance among the others.
pub(super) struct Background {
    nats: Arc<Nats>,
    system: Option<Arc<Login>>,
    fleet: Arc<Fleet>,
    keeper: Sweeper,
    consumers: consumers::sweeper::ConsumerSweeper,
}

/// Who it works for, and with whom.
pub(super) struct Fellows<'a> {
    /// The connections on which requests come.
    pub(super) callout: &'a Arc<Nats>,
    /// What decides.
    pub(super) tenant: &'a Tenant,
    /// Signs what this instance says to the others.
    pub(super) issuer: &'a Arc<Issuer>,
    /// What it says of itself.
    pub(super) member: Member,
    /// The system user.
    pub(super) system: Option<Arc<Login>>,
    /// Who settles handovers.
    pub(super) settler: Login,
}

impl Background {
    /// Puts it together; nothing is connected yet. `nats` is for the policy's own user.
    pub(super) fn prepare(
        nats: &Arc<Nats>,
        settings: sessions::Settings,
        fellows: Fellows<'_>,
    ) -> Self {
        let Fellows { callout, tenant, issuer, member, system, settler } = fellows;
        let Tenant { decider, store, source_status, metrics, recorder, .. } = tenant;
        let defaults = decider.defaults();
        // An instance that names connections otherwise would close ours, and we its own.
        let makes = format!("{} whole {}", env!("CARGO_PKG_VERSION"), defaults.account);
        let asked = Arc::clone(decider.asked());
        let fleet = Fleet::new(member, makes, asked, Arc::clone(issuer));
        if store.hands_over() && source_status.lease().is_some() {
            let _ = tenant.fleet.set(Arc::clone(&fleet));
        }
        let closed = Arc::new(Notify::new());
        let consumers = consumers::sweeper::ConsumerSweeper {
            store: store.clone(),
            source_status: source_status.clone(),
            metrics: metrics.clone(),
            fleet: fleet.clone(),
            audit_streams: defaults.audit.clone(),
            every: settings.every,
            settings: settings.consumers,
            elected: system.is_some(),
            closed: closed.clone(),
        };
        let keeper = Sweeper {
            decider: decider.clone(),
            store: store.clone(),
            source_status: source_status.clone(),
            recorder: recorder.clone(),
            metrics: metrics.clone(),
            fleet: fleet.clone(),
            settings,
            closed,
            nats: nats.clone(),
            caller: callout.login.key().map(|key| key.to_string()),
            whole: Whole::default(),
            settler,
        };
        Self { nats: nats.clone(), system, fleet, keeper, consumers }
    }

    /// Works until it is stopped. `connection` is one in the callout's account.
    pub(super) async fn run(
        self,
        connection: impl Future<Output = Option<Client>>,
        stopped: watch::Receiver<bool>,
    ) {
        let until_stopped = || {
            let mut stopped = stopped.clone();
            async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            }
        };
        let beating = async {
            let client = tokio::select! {
                client = connection => client,
                () = until_stopped() => None,
            };
            let Some(client) = client else { return };
            if let Err(error) = self.fleet.run(client, until_stopped()).await {
                tracing::error!(
                    event = "beats_failed", %error,
                    "this instance and the others do not hear each other",
                );
            }
        };
        let sweeping = async {
            match &self.system {
                Some(login) => {
                    let Nats { servers, tls, name, accounts, .. } = &*self.nats;
                    let name = format!("{name}-system");
                    let access = Access { servers, tls, login, accounts, name: &name };
                    self.keeper.run(&access, until_stopped()).await;
                }
                None => without_system_user(&self.keeper, until_stopped()).await,
            }
        };
        let consumers = self.consumers.run(&self.nats, until_stopped());
        tokio::join!(beating, sweeping, consumers);
    }
}

/// Says, at start and whenever it changes, how late a change may reach open connections.
async fn without_system_user(keeper: &Sweeper, stopped: impl Future<Output = ()>) {
    let defaults = keeper.decider.defaults();
    let mut changes = keeper.store.changes();
    let mut said = None;
    tokio::pin!(stopped);
    loop {
        if let Some(snapshot) = keeper.store.current() {
            let reach = reach_without_system_user(&snapshot.policy, defaults);
            keeper.metrics.sessions().reach(reach);
            if said.replace(reach) != Some(reach) {
                tracing::warn!(
                    event = "no_system_user",
                    seconds = reach.as_secs(),
                    "{}",
                    sessions::without_system_user(&snapshot.policy, defaults),
                );
            }
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = &mut stopped => return,
        }
    }
}
