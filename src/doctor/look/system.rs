//! What the system user is told: the servers, their accounts and connections.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::Client;
use futures_util::StreamExt;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::super::seen::{AccountOn, Connection, Server, Taker, text};

/// What tells the time here.
pub type Clock = fn() -> Timestamp;

/// How long servers may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Accounts that are looked at; more are not.
pub const MOST_ACCOUNTS: usize = 200;
/// Connections that are looked at on a server; more are not.
const MOST_CONNECTIONS: usize = 20_000;
/// Servers that are waited for.
const MOST_SERVERS: usize = 1024;
/// The most that a server gives at once.
const PAGE: usize = 1024;

/// Asks all servers, and waits until `count` have answered or time is up.
pub async fn ask_all(client: &Client, what: &str, question: &Value, count: usize) -> Vec<Answer> {
    let inbox = client.new_inbox();
    let Ok(mut answers) = client.subscribe(inbox.clone()).await else { return Vec::new() };
    let subject = format!("$SYS.REQ.SERVER.{what}");
    let sent = client.publish_with_reply(subject, inbox, question.to_string().into()).await;
    if sent.is_err() || client.flush().await.is_err() {
        return Vec::new();
    }
    let deadline = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    while all.len() < count {
        let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await else { break };
        let came = Instant::now();
        if let Ok(value) = serde_json::from_slice::<Value>(&answer.payload) {
            all.push(Answer { value, came });
        }
    }
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

/// How many servers there are, as one of them has it, and the ids of those that answer. None when
/// nobody does: then this is no system user.
pub async fn everybody(client: &Client) -> (usize, Vec<String>) {
    let answers = ask_all(client, "PING", &json!({}), 1).await;
    let count = |answer: &Answer| {
        let count = answer.value.pointer("/statsz/active_servers").and_then(Value::as_u64);
        count.and_then(|n| usize::try_from(n).ok()).unwrap_or(1).min(MOST_SERVERS)
    };
    let Some(count) = answers.first().map(count) else { return (0, Vec::new()) };
    let answers = ask_all(client, "PING", &json!({}), count).await;
    // What is no id would be another subject.
    let ids = answers.iter().map(Answer::id);
    let plain = |id: &String| !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric());
    (count, ids.filter(plain).collect())
}

/// Every server. `clock` tells the time here.
pub async fn servers(client: &Client, count: usize, clock: Clock) -> Vec<Server> {
    let answers = ask_all(client, "PING.VARZ", &json!({}), count).await;
    let mut servers: Vec<Server> = answers.iter().map(|answer| server(answer, clock)).collect();
    servers.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    servers
}

fn server(answer: &Answer, clock: Clock) -> Server {
    let data = answer.data();
    let now = text(data, "/now").parse::<Timestamp>().ok();
    let listens = |what: &str| {
        data.pointer(&format!("/{what}/port")).and_then(Value::as_i64).is_some_and(|port| port != 0)
    };
    Server {
        id: answer.id(),
        name: answer.server(),
        version: text(data, "/version"),
        auth_timeout: data.get("auth_timeout").and_then(Value::as_f64).unwrap_or_default(),
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
pub async fn accounts(client: &Client, count: usize) -> Vec<AccountOn> {
    let lists = ask_all(client, "PING.ACCOUNTZ", &json!({}), count).await;
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
        for answer in ask_all(client, "PING.ACCOUNTZ", &json!({"account": name}), count).await {
            let detail = answer.data().get("account_detail").unwrap_or(&Value::Null);
            if let Ok(account) = AccountOn::deserialize(detail) {
                accounts.push(AccountOn { server: answer.server(), ..account });
            }
        }
    }
    accounts
}

/// Every connection of an account, by server.
pub async fn connections(client: &Client, account: &str, servers: &[String]) -> Vec<Connection> {
    let mut all = Vec::new();
    let mut offset = 0;
    while offset < MOST_CONNECTIONS {
        let question = json!({"auth": true, "acc": account, "limit": PAGE, "offset": offset});
        let mut more = false;
        // Each server by itself: in an account that imports it, PING.CONNZ is answered twice, once
        // about the asker's own account.
        for server in servers {
            let answers = ask_all(client, &format!("{server}.CONNZ"), &question, 1).await;
            for answer in &answers {
                let page = list(answer, "connections");
                more |= page.len() >= PAGE;
                all.extend(page.iter().filter_map(|c| Connection::deserialize(c).ok()));
            }
        }
        if !more {
            break;
        }
        offset += PAGE;
    }
    all
}

fn list<'a>(answer: &'a Answer, field: &str) -> &'a [Value] {
    answer.data().get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// One connection of a server.
pub async fn connection(client: &Client, server: &str, cid: u64) -> Option<Connection> {
    let question = json!({"auth": true, "cid": cid});
    let answers = ask_all(client, &format!("{server}.CONNZ"), &question, 1).await;
    let connection = answers.first()?.data().pointer("/connections/0")?;
    Connection::deserialize(connection).ok()
}

/// Every subscription of an account that gets authorization requests. `watching` is our own
/// connection: its server's id, and its number there.
pub async fn takers(
    client: &Client,
    account: &str,
    watching: Option<&(String, u64)>,
    count: usize,
) -> Vec<Taker> {
    let question = json!({"subscriptions": true, "test": "$SYS.REQ.USER.AUTH", "acc": account});
    let answers = ask_all(client, "PING.SUBSZ", &question, count).await;
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
