//! What an instance does besides answering: it tells the others what it serves, and looks after
//! connections that are open already.

use std::sync::Arc;

use async_nats::{ConnectOptions, ServerAddr};
use jiff::Timestamp;

use crate::broker;
use crate::config::{Login, Nats, Tls};
use crate::fleet::Identity;
use crate::fleet::beats::Fleet;
use crate::keys::{Seed, User};
use crate::policy::look::Look;
use crate::service::Service;
use crate::sessions::keeper::{Access, Keeper};
use crate::sessions::{self, reach_without_system_user};

/// An instance among the others.
pub(super) struct Among {
    servers: Vec<ServerAddr>,
    options: ConnectOptions,
    fleet: Arc<Fleet>,
    look: Arc<Look>,
    keeper: Keeper,
    access: Option<Access>,
}

impl Among {
    /// Puts it together; nothing is connected yet.
    pub(super) fn prepare(
        nats: &Nats,
        system: Option<Seed<User>>,
        settings: sessions::Settings,
        service: &Arc<Service>,
        look: &Arc<Look>,
    ) -> Result<Self, String> {
        let identity = Identity::new(rand::random(), Timestamp::now().as_second());
        let defaults = service.authorizer.decider().defaults();
        let makes = format!("{} {}", env!("CARGO_PKG_VERSION"), defaults.account);
        let fleet = Fleet::new(identity, makes, service.store.clone());
        let control = format!("{}-control", nats.name);
        let options = broker::options(&nats.login, &nats.tls, &control)
            .map_err(|error| error.to_string())?
            .retry_on_initial_connect();
        let access = system.map(|seed| Access {
            servers: nats.servers.clone(),
            tls: Tls {
                required: nats.tls.required,
                first: nats.tls.first,
                ca: nats.tls.ca.clone(),
                identity: nats.tls.identity.clone(),
            },
            login: Login::Nkey(seed),
            name: format!("{}-system", nats.name),
        });
        let keeper =
            Keeper { service: service.clone(), fleet: fleet.clone(), look: look.clone(), settings };
        let servers = nats.servers.clone();
        Ok(Self { servers, options, fleet, look: look.clone(), keeper, access })
    }

    /// Works until both resolve.
    pub(super) async fn run(
        self,
        stopped: impl Future<Output = ()> + Send,
        stopped_too: impl Future<Output = ()> + Send,
    ) {
        let Self { servers, options, fleet, look, keeper, access } = self;
        let beating = async {
            let beats = match options.connect(servers).await {
                Ok(client) => {
                    fleet.run(client, || look.want(), stopped).await.map_err(|e| e.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = beats {
                tracing::error!(
                    event = "beats_failed",
                    error,
                    "this instance neither hears the others nor is heard by them",
                );
            }
        };
        let sweeping = async {
            match access {
                Some(access) => keeper.run(&access, stopped_too).await,
                None => without_system_user(&keeper.service, stopped_too).await,
            }
        };
        tokio::join!(beating, sweeping);
    }
}

/// Says, at start and whenever it changes, how late a change may reach open connections.
async fn without_system_user(service: &Service, stopped: impl Future<Output = ()>) {
    let defaults = service.authorizer.decider().defaults();
    let mut changes = service.store.changes();
    let mut said = None;
    tokio::pin!(stopped);
    loop {
        let snapshot = service.store.current();
        let reach = reach_without_system_user(&snapshot.policy, defaults);
        service.metrics.sessions().reach(reach);
        if said.replace(reach) != Some(reach) {
            tracing::warn!(
                event = "no_system_user",
                seconds = reach.as_secs(),
                "{}",
                sessions::without_system_user(&snapshot.policy, defaults),
            );
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = &mut stopped => return,
        }
    }
}
