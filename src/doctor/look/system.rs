//! What the system user is told: the servers, their accounts and connections.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::Client;
use futures_util::StreamExt;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::super::seen::{AccountOn, Connection, SeenServer, Taker, text};
use crate::sessions::system_api::ServerName;

/// What tells the time here.
pub type Clock = fn() -> Timestamp;

/// How long servers may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Accounts that are looked at; more are not.
pub const MOST_ACCOUNTS: usize = 200;
/// Connections that are looked at on a server; more are not.
const MOST_CONNECTIONS: usize = 20_000;
/// The most that a server gives at once.
const PAGE: usize = 1024;

/// The longest answer that is looked at, and all of those to one question, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
const MAX_ANSWERS: usize = 256 * 1024 * 1024;

/// Asks all servers, and waits until these have answered or time is up. Each is heard once; what
/// others say, and what is too long, is not.
pub async fn ask_all(
    client: &Client,
    what: &str,
    question: &Value,
    from: &[ServerName],
) -> Vec<Answer> {
    let inbox = client.new_inbox();
    let Ok(mut answers) = client.subscribe(inbox.clone()).await else { return Vec::new() };
    let subject = format!("$SYS.REQ.SERVER.{what}");
    let sent = client.publish_with_reply(subject, inbox, question.to_string().into()).await;
    if sent.is_err() || client.flush().await.is_err() {
        return Vec::new();
    }
    let deadline = Instant::now() + PATIENCE;
    let mut missing: BTreeSet<&str> = from.iter().map(|server| server.id.as_str()).collect();
    let (mut all, mut size) = (Vec::new(), 0_usize);
    while !missing.is_empty() {
        let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await else { break };
        let came = Instant::now();
        size = size.saturating_add(answer.payload.len());
        if size > MAX_ANSWERS {
            break;
        }
        if answer.payload.len() > MAX_ANSWER {
            continue;
        }
        let Ok(value) = serde_json::from_slice::<Value>(&answer.payload) else { continue };
        let answer = Answer { value, came };
        if missing.remove(answer.id().as_str()) {
            all.push(answer);
        }
    }
    let _ = answers.unsubscribe().await;
    all
}

/// A server's answer, and when it came.
pub struct Answer {
    value: Value,
    came: Instant,
}

impl Answer {
    fn server(&self) -> String {
        text(&self.value, "/server/name")
    }

    fn id(&self) -> String {
        text(&self.value, "/server/id")
    }

    fn data(&self) -> &Value {
        self.value.get("data").unwrap_or(&Value::Null)
    }
}

/// Every server. `clock` tells the time here.
pub async fn servers(client: &Client, from: &[ServerName], clock: Clock) -> Vec<SeenServer> {
    let answers = ask_all(client, "PING.VARZ", &json!({}), from).await;
    let mut servers: Vec<SeenServer> = answers.iter().map(|answer| server(answer, clock)).collect();
    servers.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    servers
}

fn server(answer: &Answer, clock: Clock) -> SeenServer {
    let data = answer.data();
    let time = |field: &str| text(data, field).parse::<Timestamp>().ok();
    let (now, started) = (time("/now"), time("/start"));
    let listens = |what: &str| {
        data.pointer(&format!("/{what}/port")).and_then(Value::as_i64).is_some_and(|port| port != 0)
    };
    SeenServer {
        id: answer.id(),
        name: answer.server(),
        version: text(data, "/version"),
        auth_timeout: data.get("auth_timeout").and_then(Value::as_f64).unwrap_or_default(),
        reloaded: time("/config_load_time").filter(|at| started.is_some_and(|start| *at > start)),
        ahead: now.map_or(0.0, |now| {
            now.duration_since(clock()).as_secs_f64() + answer.came.elapsed().as_secs_f64()
        }),
        mqtt: listens("mqtt"),
        websocket: listens("websocket"),
        leafnodes: listens("leaf"),
        newer_flow_control: data
            .pointer("/feature_flags/js_ack_fc_v2")
            .and_then(Value::as_bool)
            .unwrap_or_default(),
        max_payload: data.get("max_payload").and_then(Value::as_u64).unwrap_or_default(),
        gateway: text(data, "/gateway/name"),
        guests: ["websocket", "mqtt"]
            .into_iter()
            .map(|listener| (listener, text(data, &format!("/{listener}/no_auth_user"))))
            .filter(|(_, user)| !user.is_empty())
            .collect(),
    }
}

/// Every account as every server has it.
pub async fn accounts(client: &Client, from: &[ServerName]) -> Vec<AccountOn> {
    let lists = ask_all(client, "PING.ACCOUNTZ", &json!({}), from).await;
    let mut names: Vec<String> = lists
        .iter()
        .filter_map(|answer| answer.data().get("accounts")?.as_array())
        .flatten()
        .filter_map(|name| Some(name.as_str()?.to_owned()))
        .collect();
    names.sort();
    names.dedup();
    names.truncate(MOST_ACCOUNTS);
    let mut accounts = Vec::new();
    for name in names {
        accounts.extend(account(client, &name, from).await);
    }
    accounts
}

/// One account as every server has it.
pub async fn account(client: &Client, name: &str, from: &[ServerName]) -> Vec<AccountOn> {
    let answers = ask_all(client, "PING.ACCOUNTZ", &json!({"account": name}), from).await;
    let read = |answer: &Answer| {
        let detail = answer.data().get("account_detail").unwrap_or(&Value::Null);
        let account = AccountOn::deserialize(detail).ok()?;
        Some(AccountOn { server: answer.server(), ..account })
    };
    answers.iter().filter_map(read).collect()
}

/// Every connection of an account, by server.
pub async fn connections(client: &Client, account: &str, from: &[ServerName]) -> Vec<Connection> {
    let mut all = Vec::new();
    // Each server by itself: in an account that imports it, PING.CONNZ is answered twice, once
    // about the asker's own account.
    for server in from {
        let what = format!("{}.CONNZ", server.id);
        let one = std::slice::from_ref(server);
        let mut offset = 0;
        while offset < MOST_CONNECTIONS {
            let question = json!({"auth": true, "acc": account, "limit": PAGE, "offset": offset});
            let answers = ask_all(client, &what, &question, one).await;
            let pages = answers.iter().map(|answer| list(answer, "connections"));
            let page: Vec<_> = pages.flatten().take(PAGE).collect();
            all.extend(page.iter().filter_map(|c| Connection::deserialize(*c).ok()));
            if page.len() < PAGE {
                break;
            }
            offset += PAGE;
        }
    }
    all
}

fn list<'a>(answer: &'a Answer, field: &str) -> &'a [Value] {
    answer.data().get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// One connection of a server.
pub async fn connection(client: &Client, server: &str, cid: u64) -> Option<Connection> {
    let question = json!({"auth": true, "cid": cid});
    let from = [ServerName { id: server.to_owned(), ..ServerName::default() }];
    let answers = ask_all(client, &format!("{server}.CONNZ"), &question, &from).await;
    let connection = answers.first()?.data().pointer("/connections/0")?;
    Connection::deserialize(connection).ok()
}

/// Every subscription of an account that gets authorization requests. `watching` is our own
/// connection: its server's id, and its number there.
pub async fn takers(
    client: &Client,
    account: &str,
    watching: Option<&(String, u64)>,
    from: &[ServerName],
) -> Vec<Taker> {
    let question = json!({"subscriptions": true, "test": "$SYS.REQ.USER.AUTH", "acc": account});
    let answers = ask_all(client, "PING.SUBSZ", &question, from).await;
    let mut takers = Vec::new();
    let mut known: BTreeMap<(String, u64), Option<Connection>> = BTreeMap::new();
    for answer in &answers {
        for subscription in list(answer, "subscriptions_list") {
            let cid = subscription.get("cid").and_then(Value::as_u64).unwrap_or_default();
            let place = (answer.id(), cid);
            if !known.contains_key(&place) {
                let connection = connection(client, &place.0, cid).await;
                known.insert(place.clone(), connection);
            }
            // What a route or gateway passes on has no client's connection here.
            let Some(Some(connection)) = known.get(&place) else { continue };
            let queue = text(subscription, "/qgroup");
            takers.push(Taker {
                server: answer.server(),
                connection: cid,
                account: text(subscription, "/account"),
                queue: Some(queue).filter(|queue| !queue.is_empty()),
                user: connection.authorized_user.clone(),
                name: connection.name.clone(),
                watches: watching == Some(&place),
            });
        }
    }
    takers
}
