//! The operations of `tests/clients` for async-nats: the same script gives the same lines.

use std::time::Duration;

use async_nats::jetstream::{self, kv};
use async_nats::{Client, ConnectOptions, Event, ServerError};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::deployment::Service;

const PATIENCE: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_millis(300);

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Runs a script as a service, through a connection of its own.
pub async fn run(url: &str, service: &Service, operations: &Value) -> Vec<Value> {
    let (sender, mut violations) = mpsc::unbounded_channel();
    let connected = ConnectOptions::with_nkey(service.seed.expose().to_owned())
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
        .await;
    let client = match connected {
        Ok(client) => client,
        Err(error) => {
            return vec![json!({"op": "connect", "ok": false, "error": "authorization",
                "detail": error.to_string()})];
        }
    };
    let mut context = jetstream::new(client.clone());
    context.set_timeout(PATIENCE);
    let mut lines = Vec::new();
    for operation in operations.as_array().unwrap() {
        while violations.try_recv().is_ok() {}
        let mut said = Vec::new();
        let outcome = {
            let attempt = attempt(&client, &context, operation);
            tokio::pin!(attempt);
            tokio::select! {
                outcome = &mut attempt => outcome,
                Some(violation) = violations.recv() => {
                    said.push(violation);
                    timeout(GRACE, attempt).await.unwrap_or_else(|_| Err("refused".into()))
                }
                () = tokio::time::sleep(PATIENCE * 2) => Err("timeout".into()),
            }
        };
        while let Ok(violation) = violations.try_recv() {
            said.push(violation);
        }
        let mut line = match outcome {
            Ok(result) => json!({"op": operation["op"], "ok": true, "result": result}),
            Err(error) => {
                let class = if said.is_empty() { "other" } else { "permissions" };
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

fn text<'a>(operation: &'a Value, field: &str) -> &'a str {
    operation[field].as_str().unwrap_or_default()
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

async fn attempt(
    client: &Client,
    context: &jetstream::Context,
    op: &Value,
) -> Result<Value, Error> {
    let value = || text(op, "value").to_owned().into();
    let (key, subject) = (text(op, "key"), text(op, "subject").to_owned());
    match text(op, "op") {
        "publish" => {
            client.publish(subject, value()).await?;
            client.flush().await?;
            // The complaint, if there is one, comes before the answer to the flush, but through
            // another channel.
            tokio::time::sleep(GRACE).await;
            return Ok(Value::Null);
        }
        "request" => {
            let reply = client.request(subject, value()).await?;
            return Ok(json!({"value": String::from_utf8_lossy(&reply.payload)}));
        }
        "subscribe" => {
            let _subscription = client.subscribe(subject).await?;
            client.flush().await?;
            tokio::time::sleep(GRACE).await;
            return Ok(Value::Null);
        }
        _ => {}
    }
    let store = context.get_key_value(text(op, "bucket")).await?;
    Ok(match text(op, "op") {
        "open" => Value::Null,
        "status" => json!({"bucket": store.status().await?.bucket()}),
        "put" => json!({"revision": store.put(key, value()).await?}),
        "create" => json!({"revision": store.create(key, value()).await?}),
        "update" => {
            let last = op["revision"].as_u64().unwrap_or_default();
            json!({"revision": store.update(key, value(), last).await?})
        }
        "delete" => {
            store.delete(key).await?;
            Value::Null
        }
        "purge" => {
            store.purge(key).await?;
            Value::Null
        }
        "get" => entry(&store.entry(key).await?.ok_or("not found")?),
        "get_revision" => {
            let revision = op["revision"].as_u64().unwrap_or_default();
            entry(&store.entry_for_revision(key, revision).await?.ok_or("not found")?)
        }
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
            let wanted = usize::try_from(op["expect"].as_u64().unwrap_or_default())?;
            let watch = store.watch_with_history(text(op, "keys")).await?;
            let entries: Vec<kv::Entry> = watch.take(wanted).try_collect().await?;
            entries.iter().map(entry).collect()
        }
        other => return Err(format!("no such operation: {other}").into()),
    })
}
