//! The operations of `tests/clients` for async-nats: the same script gives the same lines.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::{self, kv};
use async_nats::{Client, ConnectOptions, Event, ServerError, Subscriber};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::timeout;

use super::deployment::Service;

const PATIENCE: Duration = Duration::from_secs(5);
/// How long an operation may go on after a violation: most look like an answer that never comes.
const GRACE: Duration = Duration::from_millis(300);

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Connects as a service's developer should: its NKEY, and its private inbox. Violations go to
/// the receiver.
pub async fn connect(
    url: &str,
    service: &Service,
) -> Result<(Client, UnboundedReceiver<String>), async_nats::ConnectError> {
    let (sender, violations) = mpsc::unbounded_channel();
    let client = ConnectOptions::with_nkey(service.seed.expose().to_owned())
        .name(&service.name)
        .custom_inbox_prefix(format!("_INBOX.{}", service.name))
        .event_callback(move |event| {
            let sender = sender.clone();
            async move {
                if let Event::ServerError(ServerError::Other(text)) = event {
                    let _ = sender.send(text);
                }
            }
        })
        .connect(url)
        .await?;
    Ok((client, violations))
}

/// Runs a script as a service, through a connection of its own.
pub async fn run(url: &str, service: &Service, operations: &[Value]) -> Vec<Value> {
    let (client, mut violations) = match connect(url, service).await {
        Ok(connected) => connected,
        Err(error) => {
            return vec![json!({"op": "connect", "ok": false, "error": "authorization",
                "detail": error.to_string()})];
        }
    };
    let mut context = jetstream::new(client.clone());
    context.set_timeout(PATIENCE);
    let mut session =
        Session { client, context, stores: HashMap::new(), subscriptions: HashMap::new() };
    let mut lines = Vec::new();
    for operation in operations {
        while violations.try_recv().is_ok() {}
        let mut said = Vec::new();
        let outcome = {
            let attempt = session.attempt(operation);
            tokio::pin!(attempt);
            tokio::select! {
                outcome = &mut attempt => outcome,
                Some(violation) = violations.recv() => {
                    said.push(violation);
                    timeout(GRACE, attempt).await.unwrap_or_else(|_| Err("refused".into()))
                }
                () = tokio::time::sleep(PATIENCE * 2) => Err("no answer".into()),
            }
        };
        while let Ok(violation) = violations.try_recv() {
            said.push(violation);
        }
        // The library tells whoever publishes or subscribes nothing of a refusal.
        let outcome = match text(operation, "op") {
            "publish" | "subscribe" if !said.is_empty() => Err("refused".into()),
            _ => outcome,
        };
        let mut line = match outcome {
            Ok(result) => json!({"op": operation["op"], "ok": true, "result": result}),
            Err(error) => {
                let class = if said.is_empty() { class(&error) } else { "permissions" };
                json!({"op": operation["op"], "ok": false, "error": class,
                    "detail": error.to_string()})
            }
        };
        if !said.is_empty() {
            line["violations"] = json!(said);
        }
        lines.push(line);
    }
    lines
}

#[derive(Debug, thiserror::Error)]
#[error("not found")]
struct NotFound;

fn class(error: &Error) -> &'static str {
    let update = error.downcast_ref::<kv::UpdateError>().map(kv::UpdateError::kind);
    let create = error.downcast_ref::<kv::CreateError>().map(kv::CreateError::kind);
    if error.is::<NotFound>() {
        "not_found"
    } else if matches!(update, Some(kv::UpdateErrorKind::WrongLastRevision)) {
        "wrong_revision"
    } else if matches!(create, Some(kv::CreateErrorKind::AlreadyExists)) {
        "exists"
    } else {
        "other"
    }
}

fn text<'a>(operation: &'a Value, field: &str) -> &'a str {
    operation[field].as_str().unwrap_or_default()
}

fn number(operation: &Value, field: &str) -> u64 {
    operation[field].as_u64().unwrap_or_default()
}

fn entry(entry: &kv::Entry) -> Value {
    json!({
        "key": entry.key, "value": String::from_utf8_lossy(&entry.value), "revision": entry.revision,
        "operation": match entry.operation {
            kv::Operation::Put => "PUT",
            kv::Operation::Delete => "DEL",
            kv::Operation::Purge => "PURGE",
        },
    })
}

/// The library gives an entry for a key that was deleted; the others give none.
fn present(found: Option<kv::Entry>) -> Result<Value, Error> {
    let found = found.filter(|e| e.operation == kv::Operation::Put).ok_or(NotFound)?;
    Ok(entry(&found))
}

struct Session {
    client: Client,
    context: jetstream::Context,
    stores: HashMap<String, kv::Store>,
    subscriptions: HashMap<String, Subscriber>,
}

impl Session {
    async fn attempt(&mut self, op: &Value) -> Result<Value, Error> {
        let subject = text(op, "subject").to_owned();
        let value = text(op, "value").to_owned();
        match text(op, "op") {
            "publish" => {
                self.client.publish(subject, value.into()).await?;
                self.client.flush().await?;
                // The complaint, if there is one, comes before the answer to the flush, but
                // through another channel.
                tokio::time::sleep(GRACE).await;
                Ok(Value::Null)
            }
            "request" => {
                let reply = self.client.request(subject, value.into()).await?;
                Ok(json!({"value": String::from_utf8_lossy(&reply.payload)}))
            }
            "subscribe" => {
                let subscription = self.client.subscribe(subject.clone()).await?;
                self.client.flush().await?;
                tokio::time::sleep(GRACE).await;
                self.subscriptions.insert(subject, subscription);
                Ok(Value::Null)
            }
            "receive" => {
                let subscription = self.subscriptions.get_mut(&subject).ok_or("not subscribed")?;
                let wanted = usize::try_from(number(op, "expect").max(1))?;
                let messages: Vec<_> = subscription.take(wanted).collect().await;
                let message = |m: &async_nats::Message| json!({"subject": *m.subject, "value": String::from_utf8_lossy(&m.payload)});
                Ok(messages.iter().map(message).collect())
            }
            "open" => {
                let bucket = text(op, "bucket");
                let store = self.context.get_key_value(bucket).await?;
                self.stores.insert(bucket.to_owned(), store);
                Ok(Value::Null)
            }
            _ => {
                let store = self.stores.get(text(op, "bucket")).ok_or("the bucket is not open")?;
                on_store(store, op).await
            }
        }
    }
}

async fn on_store(store: &kv::Store, op: &Value) -> Result<Value, Error> {
    let value = || text(op, "value").to_owned().into();
    let key = text(op, "key");
    Ok(match text(op, "op") {
        "status" => {
            let status = store.status().await?;
            json!({"bucket": status.bucket(), "values": status.values(),
                "history": status.history()})
        }
        "put" => json!({"revision": store.put(key, value()).await?}),
        "create" if op["ttl"].is_u64() => {
            let ttl = Duration::from_secs(number(op, "ttl"));
            json!({"revision": store.create_with_ttl(key, value(), ttl).await?})
        }
        "create" => json!({"revision": store.create(key, value()).await?}),
        "update" => {
            json!({"revision": store.update(key, value(), number(op, "revision")).await?})
        }
        "delete" => {
            store.delete_expect_revision(key, op["revision"].as_u64()).await?;
            Value::Null
        }
        "purge" if op["ttl"].is_u64() => {
            store.purge_with_ttl(key, Duration::from_secs(number(op, "ttl"))).await?;
            Value::Null
        }
        "purge" => {
            store.purge(key).await?;
            Value::Null
        }
        "get" => present(store.entry(key).await?)?,
        "get_revision" => present(store.entry_for_revision(key, number(op, "revision")).await?)?,
        "keys" => {
            let mut keys: Vec<String> = store.keys().await?.try_collect().await?;
            keys.sort();
            json!(keys)
        }
        "history" => {
            let entries: Vec<kv::Entry> = store.history(key).await?.try_collect().await?;
            entries.iter().map(entry).collect()
        }
        "watch" => {
            let wanted = usize::try_from(number(op, "expect"))?;
            let watch = match op["keys"].as_array() {
                Some(keys) => {
                    store.watch_many_with_history(keys.iter().filter_map(Value::as_str)).await?
                }
                None => store.watch_with_history(text(op, "keys")).await?,
            };
            let entries: Vec<kv::Entry> = watch.take(wanted).try_collect().await?;
            entries.iter().map(entry).collect()
        }
        other => return Err(format!("no such operation: {other}").into()),
    })
}
