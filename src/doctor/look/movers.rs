//! Who has moved to the services' account, and who is still in the old one.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_nats::Client;

use super::super::seen::{Adoption, Blind, Left, Login, Look, Role, Side};
use super::without;
use crate::adoption::connected::client;
use crate::adoption::deed;
use crate::adoption::mapping::Mapping;
use crate::adoption::rehearsal;
use crate::adoption::server_config::accounts::{self, Config};
use crate::adoption::server_config::permissions::rights;
use crate::nats::AccountIds;
use crate::sessions::listing::survey;
use crate::sessions::system_api::{Connection, System};
use solewriter_core::policy::model::Policy;
use solewriter_types::clean;
use solewriter_types::server_log::line::Kind;

/// The most users of the old account that are told apart.
const MOST_USERS: usize = 4_096;
/// How many servers that do not tell of their connections are named.
const UNTOLD: usize = 16;
/// How many connections are asked for their queue groups, of one service in one account, and of all.
const SAMPLE: usize = 8;
const SAMPLES: usize = 256;
/// The most queue groups that are kept of those.
const QUEUES: usize = 256;

/// An adoption that is under way.
#[derive(Clone, Debug)]
pub struct Adopting {
    /// The public keys of solewriter's own users.
    pub own: Vec<String>,
    /// The old account, as it was called before.
    pub account: Option<String>,
    /// Which client is which service, where names and NKEYs do not tell.
    pub map: Mapping,
    /// nats-server's configuration that is in force.
    pub config: Option<Config>,
}

/// A few connections: their server, and their number there.
type Some = Vec<(String, u64)>;

/// What is gathered of one service or user.
#[derive(Default)]
struct Gathered {
    side: Side,
    some: Some,
}

impl Gathered {
    fn add(&mut self, server: &str, connection: &Connection) {
        self.side.connections += 1;
        if self.side.addresses.len() < Side::ADDRESSES {
            self.side.addresses.insert(clean::line(&connection.ip).into_owned());
        }
        if self.some.len() < SAMPLE {
            self.some.push((server.to_owned(), connection.cid));
        }
    }
}

impl Adopting {
    /// Looks at who is connected where.
    pub(super) async fn look(
        &self,
        system: Look<&Client>,
        old: Option<&str>,
        services: &[Arc<str>],
        policy: Look<&Policy>,
    ) -> Look<Adoption> {
        let (old, policy) = (old.ok_or_else(|| without(Role::Admin))?, policy?);
        let logins = match &self.config {
            Some(config) => Some(self.logins(config, old, policy)?),
            None => None,
        };
        // `adopt` knows no operator mode, so accounts have their names.
        let asking = System::new(system?.clone(), AccountIds::default());
        let mut moved: BTreeMap<Arc<str>, Gathered> = BTreeMap::new();
        let seen = survey(&asking, services, |session| {
            Some((session.name.service, session.server.id, session.connection))
        });
        let seen = seen.await.map_err(|error| Blind::new(error.to_string(), AGAIN))?;
        let mut untold: Vec<String> =
            seen.failures.iter().map(|(server, error)| said(&server.name, error)).collect();
        untold.extend(seen.silent.iter().map(|name| said(name, &"no answer")));
        for (service, server, connection) in &seen.found {
            moved.entry(service.as_str().into()).or_default().add(server, connection);
        }
        let mut left: BTreeMap<(String, Option<Arc<str>>), Gathered> = BTreeMap::new();
        for server in &seen.servers {
            let each = |connection: Connection| {
                if self.own.contains(&connection.authorized_user) {
                    return;
                }
                let client = client(&connection, old);
                let service = rehearsal::service(policy, &self.map, &client);
                let key = (label(&client), service.map(|service| Arc::clone(&service.name)));
                let known = left.len() < MOST_USERS || left.contains_key(&key);
                let key = if known { key } else { ("others".to_owned(), None) };
                left.entry(key).or_default().add(&server.id, &connection);
            };
            if let Err(error) = asking.connections(&server.id, old, each).await {
                untold.push(said(&server.name, &error));
            }
        }
        untold.truncate(UNTOLD);
        queues(&asking, &mut moved, &mut left).await;
        Ok(Adoption {
            old: old.to_owned(),
            logins,
            moved: moved.into_iter().map(|(service, all)| (service, all.side)).collect(),
            left: left
                .into_iter()
                .map(|((user, service), all)| Left { user, service, side: all.side })
                .collect(),
            untold,
        })
    }

    /// Who may log in to the old account by the configuration.
    fn logins(&self, config: &Config, old: &str, policy: &Policy) -> Look<Vec<Login>> {
        let before = self.account.as_deref().unwrap_or(accounts::GLOBAL);
        let found = config.account(old).or_else(|| config.account(before));
        let Some(account) = found else {
            return Err(Blind::new(
                format!("the configuration that was given has no account {old}"),
                "give --server-config the file that nats-server runs with now",
            ));
        };
        let name = &account.name.value;
        let unasked = |user: &&accounts::User| config.is_unasked(account, user);
        let users =
            account.users.iter().filter(unasked).filter(|user| {
                user.name.as_ref().is_none_or(|name| !self.own.contains(&name.value))
            });
        let mut logins: Vec<Login> = users
            .map(|user| Login {
                user: clean::line(user.label()).into_owned(),
                service: self.service_of(policy, user, name),
                rights: Some(rights(user)),
            })
            .collect();
        if let Some(leafnodes) = &config.leafnodes {
            let here = |account: Option<&str>| account.unwrap_or(accounts::GLOBAL) == name;
            let of_logins = leafnodes
                .logins
                .iter()
                .filter(|(_, account)| here(account.as_ref().map(|a| a.value.as_str())))
                .map(|(user, _)| user.label());
            let remotes = leafnodes
                .remotes
                .iter()
                .filter(|remote| here(remote.value.as_deref()))
                .map(|_| "a remote");
            logins.extend(of_logins.chain(remotes).map(|user| Login {
                user: clean::line(&format!("{user} (leafnode)")).into_owned(),
                service: None,
                rights: None,
            }));
        }
        Ok(logins)
    }

    fn service_of(
        &self,
        policy: &Policy,
        user: &accounts::User,
        account: &str,
    ) -> Option<Arc<str>> {
        let name = user.name.as_ref().map(|name| name.value.clone());
        let client = deed::Client {
            connection: 0,
            kind: Kind::Cid,
            address: String::new(),
            account: Some(account.to_owned()),
            nkey: name.clone().filter(|_| user.login == accounts::Login::Nkey),
            user: name,
            name: None,
            lang: None,
        };
        rehearsal::service(policy, &self.map, &client).map(|service| Arc::clone(&service.name))
    }
}

const AGAIN: &str = "check that the system user may ask, and try again";

fn said(server: &str, error: &dyn std::fmt::Display) -> String {
    clean::line(&format!("{server}: {error}")).into_owned()
}

/// What people call who is connected.
fn label(client: &deed::Client) -> String {
    let user = client.user.as_deref().unwrap_or("without a name");
    let leaf = if client.kind == Kind::Lid { " (leafnode)" } else { "" };
    clean::line(&format!("{user}{leaf}")).into_owned()
}

/// The queue groups of who has connections in both accounts.
async fn queues(
    asking: &System,
    moved: &mut BTreeMap<Arc<str>, Gathered>,
    left: &mut BTreeMap<(String, Option<Arc<str>>), Gathered>,
) {
    let mut asked = 0;
    for ((_, service), old) in left {
        let Some(new) = service.as_ref().and_then(|service| moved.get_mut(service)) else {
            continue;
        };
        for all in [old, new] {
            for (server, cid) in std::mem::take(&mut all.some) {
                asked += 1;
                if asked > SAMPLES {
                    return;
                }
                // Who is gone, or says too much, has no queue group that is known.
                let found = asking.subscriptions_of(&server, cid).await.unwrap_or_default();
                let groups =
                    found.into_iter().filter(|subscription| !subscription.queue.is_empty());
                for group in groups.take(QUEUES) {
                    if all.side.queues.len() < QUEUES {
                        let clean = |text: &str| clean::line(text).into_owned();
                        all.side.queues.insert((clean(&group.subject), clean(&group.queue)));
                    }
                }
            }
        }
    }
}
