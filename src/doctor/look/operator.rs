//! The account JWTs of operator mode, as servers have them.

use async_nats::Client;

use super::super::seen::{AccountOn, Blind, Entry, Look, Operator, Role, SeenLogin, Sentinel};
use super::watch::Watch;
use super::{System, UNEXPECTED, connect, greeting, system, without};
use crate::config::Tool;
use crate::nats::Login;
use crate::operator::situation::{self, SOON};
use crate::operator::{Account, Situation};
use crate::sessions::system_api::ServerName;
use solewriter_core::keys::{AccountKey, Seed, Signer};
use solewriter_core::policy::model::Policy;

/// The JWTs of the accounts in the settings, as the first server that answers has them. Servers know an
/// account when somebody used it; of others it is the file's.
///
/// # Errors
/// Why that cannot be seen.
pub async fn account_jwts(tool: &Tool) -> Look<Vec<String>> {
    let (client, servers) = asking(tool).await?;
    let (mut jwts, mut heard) = (Vec::new(), false);
    for file in tool.account_jwts().unwrap_or_default() {
        let Some(account) = Account::read(file) else { continue };
        let seen = system::account(&client, account.key.as_str(), &servers).await;
        let there = seen.into_iter().map(|on| on.jwt).find(|jwt| !jwt.is_empty());
        heard |= there.is_some();
        jwts.push(there.unwrap_or_else(|| file.to_owned()));
    }
    let _ = client.drain().await;
    if !heard {
        return Err(Blind::new(
            "no server tells of an account",
            "check that the system user may ask, with `solewriter doctor`",
        ));
    }
    Ok(jwts)
}

/// An account as each server has it that knows it.
///
/// # Errors
/// Why that cannot be seen.
pub async fn account_on(tool: &Tool, key: &AccountKey) -> Look<Vec<(String, Account)>> {
    let (client, servers) = asking(tool).await?;
    let seen = system::account(&client, key.as_str(), &servers).await;
    let _ = client.drain().await;
    Ok(seen.into_iter().filter_map(|on| Some((on.server, Account::read(&on.jwt)?))).collect())
}

/// A connection of the system user, and the servers that there are.
async fn asking(tool: &Tool) -> Look<(Client, Vec<ServerName>)> {
    let connected = connect(tool, Role::System, None, false).await;
    let client = match (connected.client, connected.user.login) {
        (Some(client), _) => client,
        (None, SeenLogin::Unusable(why) | SeenLogin::Refused(why) | SeenLogin::NoTls(why, _)) => {
            return Err(Blind::new(why, format!("see {}", Role::System.setting())));
        }
        (None, SeenLogin::NotSet | SeenLogin::In) => return Err(without(Role::System)),
    };
    let servers = System::of(Some(&client), &tool.account_ids).await.servers.servers;
    Ok((client, servers))
}

/// What a server takes for the JWT of a client that has a key and no JWT: the request about it has that.
async fn sentinel(tool: &Tool, watch: Option<&Watch>) -> Look<String> {
    let (Some(watch), Some(server)) = (watch, tool.servers.first()) else {
        return Err(without(Role::Callout));
    };
    let seed = Seed::generate();
    let nkey = Signer::new(&seed).map(|s| s.public().to_string()).unwrap_or_default();
    let awaited = watch.await_key(&nkey);
    let unusable = |error: &dyn std::fmt::Display| Blind::new(error.to_string(), "try again");
    let options = greeting::stranger(&Login::Nkey(seed), &tool.tls).map_err(|e| unusable(&e))?;
    let entry = greeting::enter(server, options).await?;
    let request = watch.since(&awaited, UNEXPECTED).await;
    match (request.and_then(|request| request.content), entry) {
        (Some(content), _) => Ok(content.jwt),
        (None, Entry::Refused(_)) => Ok(String::new()),
        (None, Entry::Entered(_)) => {
            Err(Blind::new("a stranger got in without a request", "see `callout`"))
        }
    }
}

/// Holds what servers have against the settings; `None` without operator mode.
pub async fn look(
    tool: &Tool,
    watch: Option<&Watch>,
    known: &Look<Vec<AccountOn>>,
    policy: Option<&Policy>,
) -> Option<Look<Operator>> {
    let files = tool.account_jwts()?;
    let sentinel = sentinel(tool, watch).await;
    Some(held(tool, &files, known, policy, &sentinel))
}

fn held(
    tool: &Tool,
    files: &[&str],
    known: &Look<Vec<AccountOn>>,
    policy: Option<&Policy>,
    sentinel: &Look<String>,
) -> Look<Operator> {
    let known = known.as_ref().map_err(Clone::clone)?;
    let now = jiff::Timestamp::now().as_second();
    let wrong = |error: String| Blind::new(error, "report this");
    let by_file = Situation::of(tool, files, policy, now).map_err(wrong)?;
    let mut seen = Operator {
        changes: Vec::new(),
        unknown: by_file.unknown(),
        missing: by_file.missing(),
        others: Vec::new(),
        ending: Vec::new(),
        foreign_keys: Some(Vec::new()),
        sentinel: Ok(Sentinel::None),
    };
    let mut servers: Vec<&str> = known.iter().map(|account| account.server.as_str()).collect();
    servers.sort_unstable();
    servers.dedup();
    for server in servers {
        let on: Vec<(Account, &str)> = known
            .iter()
            .filter(|account| account.server == server)
            .filter_map(|account| Some((Account::read(&account.jwt)?, account.jwt.as_str())))
            .collect();
        let mut jwts = Vec::new();
        for file in files {
            let Some(account) = Account::read(file) else { continue };
            let there = on.iter().find(|(other, _)| other.key == account.key);
            // A server knows an account when somebody used it.
            let other = there.map(|(_, jwt)| *jwt).filter(|jwt| jwt.trim() != file.trim());
            if other.is_some() {
                seen.others.push((server.to_owned(), account.name.clone()));
            }
            jwts.push(other.unwrap_or(file));
        }
        let differs;
        let situation = if jwts == files {
            &by_file
        } else {
            differs = Situation::of(tool, &jwts, policy, now).map_err(wrong)?;
            &differs
        };
        for account in situation.accounts() {
            let left = account.expires.saturating_sub(now);
            let said = seen.ending.iter().any(|(name, _)| *name == account.name);
            if account.expires != 0 && left < SOON && !said {
                seen.ending.push((account.name.clone(), left));
            }
        }
        match (situation.foreign_keys(), &mut seen.foreign_keys) {
            (Some(found), Some(all)) => {
                all.extend(found);
                all.sort();
                all.dedup();
            }
            (None, all) => *all = None,
            (Some(_), None) => {}
        }
        seen.changes.extend(situation.changes().into_iter().map(|c| (server.to_owned(), c)));
        seen.sentinel = match (sentinel, situation.asking()) {
            (Err(blind), _) => Err(blind.clone()),
            (Ok(jwt), Some(asking)) if !jwt.is_empty() => {
                Ok(Sentinel::Set(situation::sentinel(jwt, asking, now)))
            }
            (Ok(_), _) => Ok(Sentinel::None),
        };
    }
    Ok(seen)
}
