//! `solewriter state` on real servers: streams, consumers and object stores become what the policy
//! declares.

use std::process::Command;
use std::time::Duration;

use async_nats::jetstream;
use futures_util::StreamExt as _;
use serde_json::{Map, Value, json};

use super::clients::python;
use super::deployment::{Deployment, Prepared};

const POLICY: &str = r#"
[service.orders]
nkeys = ["{orders}"]
publishes = ["events.orders.>"]
calls = ["work.todo"]

[stream.EVENTS]
description = "What happened"
subjects = ["events.>"]
max_age = "720h"
max_per_subject = 100
max_message_size = "64KiB"

[stream.EVENTS.consumer.shipping]
description = "What is to be sent"
filter = ["events.orders.>"]
max_deliver = 5
backoff = ["1s", "5s"]

[stream.WORK]
subjects = ["work.todo"]
retention = "workqueue"
max_messages = 1000
discard = "new"
storage = "memory"

[stream.WORK.consumer.workers]
ack_wait = "20s"
max_ack_pending = 7

[store.files]
description = "Papers"
max_bytes = "8MiB"
"#;

/// A server with that policy and nothing of it; nobody has to answer requests.
async fn broker(version: &'static str, policy: &str) -> Deployment {
    Prepared::new().without_buckets().start_broker(version, policy).await
}

async fn admin(deployment: &Deployment) -> async_nats::Client {
    let options =
        async_nats::ConnectOptions::with_nkey(deployment.seed("admin").expose().to_owned());
    options.connect(deployment.url()).await.unwrap()
}

/// Asks JetStream, as the admin. Gives the configuration, and must succeed.
async fn config(client: &async_nats::Client, request: &str, body: &Value) -> Map<String, Value> {
    let subject = format!("$JS.API.{request}");
    let answer = client.request(subject, body.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer.get("error").is_none(), "{request} {body}: {answer}");
    answer["config"].as_object().unwrap().clone()
}

/// The policy changes; `apply` makes it so, at once or only when told that data may be lost. Gives
/// what it refuses with.
async fn change(deployment: &Deployment, from: &str, to: &str, loses: bool) -> String {
    let policy = POLICY.replace(from, to);
    assert_ne!(policy, POLICY, "{from}");
    deployment.write_policy(&policy);
    let mut said = String::new();
    if loses {
        let refused = deployment.tool(&["state", "apply", "--yes"]).await;
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.err.contains("nothing was changed, because data would be lost"));
        let again = deployment.tool(&["state", "plan"]).await;
        assert_eq!(again.out, refused.out, "it changed something");
        said = refused.err;
        deployment.apply(&["--allow-data-loss"]).await;
    } else {
        deployment.apply(&[]).await;
    }
    said
}

on_every_server!(streams_consumers_and_stores_are_created);
async fn streams_consumers_and_stores_are_created(version: &'static str) {
    let deployment = broker(version, POLICY).await;
    let planned = deployment.tool(&["state", "plan"]).await;
    assert_eq!(planned.code, 1, "{planned:?}");
    for wanted in [
        "stream EVENTS (test.toml:7:9) will be created\n  + subjects          events.>\n",
        "consumer EVENTS/shipping (test.toml:14:25) will be created\n",
        "object store files (test.toml:31:8) will be created\n",
        "2 declared streams: 0 as declared, 2 to create, 0 to update\n",
        "1 declared object store: 0 as declared, 1 to create, 0 to update\n",
        "2 declared consumers: 0 as declared, 2 to create, 0 to update\n",
    ] {
        assert!(planned.out.contains(wanted), "{wanted}\n{}", planned.out);
    }
    let backoff = planned.out.lines().find(|line| line.contains("+ backoff "));
    assert!(backoff.is_some_and(|line| line.ends_with(" 1s, 5s")), "{planned:?}");
    let applied = deployment.tool(&["state", "apply", "--yes"]).await;
    let created = "created EVENTS\ncreated WORK\ncreated files\ncreated EVENTS/shipping\n\
                   created WORK/workers\ncreated AUDIT_EVENTS\ncreated AUDIT_SERVICES\n";
    assert_eq!((applied.code, applied.err.as_str()), (0, created));

    let client = admin(&deployment).await;
    let events = config(&client, "STREAM.INFO.EVENTS", &json!({})).await;
    for (field, value) in [
        ("subjects", json!(["events.>"])),
        ("retention", json!("limits")),
        ("max_age", json!(30_u64 * 86_400 * 1_000_000_000)),
        ("max_msgs_per_subject", json!(100)),
        ("max_msg_size", json!(65536)),
        ("deny_delete", json!(true)),
    ] {
        assert_eq!(events[field], value, "{field}: {events:?}");
    }
    assert_ne!(events.get("allow_rollup_hdrs"), Some(&json!(true)), "{events:?}");
    let work = config(&client, "STREAM.INFO.WORK", &json!({})).await;
    assert_eq!((&work["retention"], &work["storage"]), (&json!("workqueue"), &json!("memory")));
    let shipping = config(&client, "CONSUMER.INFO.EVENTS.shipping", &json!({})).await;
    for (field, value) in [
        ("durable_name", json!("shipping")),
        ("filter_subject", json!("events.orders.>")),
        ("ack_policy", json!("explicit")),
        ("max_deliver", json!(5)),
        ("backoff", json!([1_000_000_000_u64, 5_000_000_000_u64])),
    ] {
        assert_eq!(shipping[field], value, "{field}: {shipping:?}");
    }
    let workers = config(&client, "CONSUMER.INFO.WORK.workers", &json!({})).await;
    assert_eq!(
        (&workers["max_ack_pending"], &workers["ack_wait"]),
        (&json!(7), &json!(20_000_000_000_u64))
    );

    // The server left nothing out, and added nothing that is a difference.
    let again = deployment.tool(&["state", "plan"]).await;
    assert_eq!(again.code, 0, "{again:?}");
    for wanted in [
        "streams as declared: EVENTS, WORK\n",
        "object stores as declared: files\n",
        "consumers as declared: EVENTS/shipping, WORK/workers\n",
    ] {
        assert!(again.out.contains(wanted), "{again:?}");
    }
    // The old word is the same command.
    assert_eq!(deployment.tool(&["buckets", "plan"]).await.out, again.out);
    let view = deployment.tool(&["state", "plan", "--format", "json"]).await.json();
    assert_eq!(view["agrees"], true, "{view}");
    assert_eq!(view["consumers"][0]["kind"], "consumer", "{view}");
    assert_eq!(view["consumers"][0]["stream"], "EVENTS", "{view}");
    assert_eq!(view["stores"][0]["stream"], "OBJ_files", "{view}");
    assert_eq!(view["declared_streams"][1]["bucket"], "WORK", "{view}");
}

on_every_server!(client_libraries_use_what_apply_made);
async fn client_libraries_use_what_apply_made(version: &'static str) {
    let deployment = broker(version, POLICY).await;
    deployment.apply(&[]).await;
    let client = admin(&deployment).await;
    let js = jetstream::new(client.clone());

    js.publish("events.orders.1", "one".into()).await.unwrap().await.unwrap();
    js.publish("events.returns.1", "other".into()).await.unwrap().await.unwrap();
    let consumer: jetstream::consumer::PullConsumer =
        js.get_consumer_from_stream("shipping", "EVENTS").await.unwrap();
    let wait = Duration::from_secs(20);
    let mut batch = consumer.fetch().max_messages(1).messages().await.unwrap();
    let message = tokio::time::timeout(wait, batch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(message.subject.as_str(), "events.orders.1");
    message.double_ack().await.unwrap();

    let (url, seed) = (deployment.url().to_owned(), deployment.files.seed_file("admin"));
    let ran = tokio::task::spawn_blocking(move || {
        let (folder, python) = python();
        let mut command = Command::new(python);
        command.arg(folder.join("state.py")).args(["--server", &url]);
        command.arg("--seed-file").arg(seed).output().unwrap()
    })
    .await
    .unwrap();
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "done\n", "{ran:?}");

    // The store that the library made besides has the same settings, but for those declared here
    // and for direct gets, which not every library switches on.
    let ours = config(&client, "STREAM.INFO.OBJ_files", &json!({})).await;
    let theirs = config(&client, "STREAM.INFO.OBJ_theirs", &json!({})).await;
    let own =
        ["name", "subjects", "description", "max_bytes", "deny_delete", "allow_direct", "metadata"];
    for (field, value) in theirs.iter().filter(|(field, _)| !own.contains(&field.as_str())) {
        assert_eq!(ours.get(field), Some(value), "{field}: {ours:?}");
    }
}

on_every_server!(a_stream_loses_nothing_without_being_told);
async fn a_stream_loses_nothing_without_being_told(version: &'static str) {
    let deployment = broker(version, POLICY).await;
    deployment.apply(&[]).await;
    let client = admin(&deployment).await;
    let js = jetstream::new(client.clone());
    for number in 0..3 {
        js.publish("events.orders.1", format!("{number}").into()).await.unwrap().await.unwrap();
    }
    // What harms nobody is done at once.
    change(&deployment, "What happened", "All that happened", false).await;
    change(&deployment, "\"events.>\"", "\"events.>\", \"more.>\"", false).await;
    let refused = change(&deployment, "\"events.>\"", "\"events.orders.>\"", true).await;
    assert!(refused.contains("EVENTS: subjects: what is published to the subjects taken away"));
    let refused = change(&deployment, "720h", "700h", true).await;
    assert!(refused.contains("EVENTS: max_age: messages older than that"), "{refused}");
    // Three messages of one subject are fewer than 90.
    change(&deployment, "max_per_subject = 100", "max_per_subject = 90", false).await;
    let refused = change(&deployment, "max_per_subject = 100", "max_per_subject = 2", true).await;
    assert!(refused.contains("EVENTS: max_per_subject: of each subject"), "{refused}");
    let refused = change(&deployment, "max_age = \"720h\"", "retention = \"interest\"", true).await;
    assert!(refused.contains("EVENTS: retention: messages that no consumer"), "{refused}");

    // No update changes these: the stream stays.
    for (from, to, word) in [
        ("storage = \"memory\"", "storage = \"file\"", "storage"),
        ("retention = \"workqueue\"", "retention = \"limits\"", "retention"),
    ] {
        deployment.write_policy(&POLICY.replace(from, to));
        let ran = deployment.tool(&["state", "apply", "--yes", "--allow-data-loss"]).await;
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(
            ran.out.contains("stream WORK (test.toml:20:9) cannot be changed to what is declared"),
            "{ran:?}"
        );
        assert!(ran.out.contains(&format!("! {word} ")), "{ran:?}");
        assert!(ran.out.contains("CANNOT BE CHANGED"), "{ran:?}");
    }
    let work = config(&client, "STREAM.INFO.WORK", &json!({})).await;
    assert_eq!((&work["retention"], &work["storage"]), (&json!("workqueue"), &json!("memory")));

    // What somebody made unsafe by hand is made safe again.
    deployment.write_policy(POLICY);
    deployment.apply(&["--allow-data-loss"]).await;
    let mut events = config(&client, "STREAM.INFO.EVENTS", &json!({})).await;
    events.insert("allow_rollup_hdrs".to_owned(), json!(true));
    events.insert("republish".to_owned(), json!({"src": ">", "dest": "copy.>"}));
    config(&client, "STREAM.UPDATE.EVENTS", &Value::Object(events)).await;
    let planned = deployment.tool(&["state", "plan"]).await;
    assert!(planned.out.contains("one message can erase all others of the stream"), "{planned:?}");
    deployment.apply(&[]).await;
    let events = config(&client, "STREAM.INFO.EVENTS", &json!({})).await;
    assert_ne!(events.get("allow_rollup_hdrs"), Some(&json!(true)), "{events:?}");
    assert!(events.get("republish").is_none_or(Value::is_null), "{events:?}");
}

on_every_server!(a_consumer_that_must_be_made_anew_keeps_its_position);
async fn a_consumer_that_must_be_made_anew_keeps_its_position(version: &'static str) {
    let deployment = broker(version, POLICY).await;
    deployment.apply(&[]).await;
    let client = admin(&deployment).await;
    // In place.
    change(&deployment, "\"20s\"", "\"40s\"", false).await;
    change(&deployment, "max_ack_pending = 7", "max_ack_pending = 9", false).await;
    change(&deployment, "max_deliver = 5", "max_deliver = 4", false).await;
    change(&deployment, "[\"1s\", \"5s\"]", "[\"2s\"]", false).await;
    let two = "[\"events.orders.>\", \"events.returns.>\"]";
    change(&deployment, "filter = [\"events.orders.>\"]", &format!("filter = {two}"), false).await;
    let shipping = config(&client, "CONSUMER.INFO.EVENTS.shipping", &json!({})).await;
    assert_eq!(shipping["filter_subjects"], json!(["events.orders.>", "events.returns.>"]));
    deployment.write_policy(POLICY);
    deployment.apply(&[]).await;
    let shipping = config(&client, "CONSUMER.INFO.EVENTS.shipping", &json!({})).await;
    assert_eq!(shipping["filter_subject"], "events.orders.>", "{shipping:?}");
    let refused =
        change(&deployment, "max_deliver = 5", "max_deliver = 5\ninactive = \"24h\"", true).await;
    assert!(refused.contains("EVENTS/shipping: inactive: unused for that long"), "{refused}");
    // Not in place: it stays, and nothing is deleted.
    for (from, to, word) in [
        ("max_deliver = 5", "max_deliver = 5\ndeliver = \"new\"", "deliver"),
        ("max_deliver = 5", "max_deliver = 5\nreplay = \"original\"", "replay"),
        ("max_deliver = 5", "max_deliver = 5\nack = \"all\"", "ack"),
    ] {
        deployment.write_policy(&POLICY.replace(from, to));
        let ran = deployment.tool(&["state", "apply", "--yes", "--allow-data-loss"]).await;
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.out.contains("consumer EVENTS/shipping (test.toml:14:25) cannot"), "{ran:?}");
        assert!(ran.out.contains(&format!("! {word} ")), "{ran:?}");
        assert!(ran.out.contains("Its position is lost"), "{ran:?}");
    }
    let shipping = config(&client, "CONSUMER.INFO.EVENTS.shipping", &json!({})).await;
    assert_eq!(shipping["deliver_policy"], "all", "{shipping:?}");
    // Deleted by its admin, it is made anew.
    client.request("$JS.API.CONSUMER.DELETE.EVENTS.shipping", "".into()).await.unwrap();
    deployment.apply(&[]).await;
    let shipping = config(&client, "CONSUMER.INFO.EVENTS.shipping", &json!({})).await;
    assert_eq!(shipping["ack_policy"], "all", "{shipping:?}");
}

on_every_server!(what_is_not_declared_is_reported_and_left);
async fn what_is_not_declared_is_reported_and_left(version: &'static str) {
    let deployment = broker(version, POLICY).await;
    deployment.apply(&[]).await;
    let client = admin(&deployment).await;
    for (name, subjects) in
        [("OTHER", json!(["other"])), ("OBJ_old", json!(["$O.old.C.>", "$O.old.M.>"]))]
    {
        let body = json!({"name": name, "subjects": subjects});
        config(&client, &format!("STREAM.CREATE.{name}"), &body).await;
    }
    for (name, durable) in [("byhand", true), ("passing", false)] {
        let mut consumer = json!({"name": name, "ack_policy": "explicit"});
        if durable {
            consumer["durable_name"] = json!(name);
        }
        let body = json!({"stream_name": "EVENTS", "config": consumer});
        config(&client, &format!("CONSUMER.CREATE.EVENTS.{name}"), &body).await;
    }
    let planned = deployment.tool(&["state", "plan"]).await;
    assert_eq!(planned.code, 0, "{planned:?}");
    for wanted in [
        "streams that are not declared, left as they are: OTHER\n",
        "object stores that are not declared, left as they are: old\n",
        "consumers that are not declared, left as they are: EVENTS/byhand (",
    ] {
        assert!(planned.out.contains(wanted), "{wanted} {planned:?}");
    }
    assert!(!planned.out.contains("passing"), "{planned:?}");
    let view = deployment.tool(&["state", "apply", "--yes", "--format", "json"]).await.json();
    assert_eq!(
        view["other_consumers"],
        json!([{"stream": "EVENTS", "consumer": "byhand", "replayers": []}])
    );
    let archive = "[service.archive]\nnkeys = []\nreplays = [\"EVENTS\"]\n";
    deployment.write_policy(&format!("{POLICY}{archive}"));
    let planned = deployment.tool(&["state", "plan"]).await;
    let wanted =
        "  ! EVENTS/byhand can be changed, used and deleted by who replays EVENTS: archive\n";
    assert!(planned.out.contains(wanted), "{planned:?}");
    config(&client, "STREAM.INFO.OTHER", &json!({})).await;
    config(&client, "CONSUMER.INFO.EVENTS.byhand", &json!({})).await;
    // A stream that republishes to declared subjects writes past every grant.
    let republish = json!({"src": ">", "dest": "events.>"});
    let body = json!({"name": "COPY", "subjects": ["a.>"], "republish": republish});
    config(&client, "STREAM.CREATE.COPY", &body).await;
    let planned = deployment.tool(&["state", "plan"]).await;
    assert_eq!(planned.code, 1, "{planned:?}");
    assert!(planned.out.contains("which are subjects of a declared stream or"), "{planned:?}");
}

on_every_server!(a_server_that_is_too_old_for_a_stream_is_named);
async fn a_server_that_is_too_old_for_a_stream_is_named(version: &'static str) {
    let policy = POLICY.replace(
        "max_messages = 1000",
        "max_messages = 1000\nmessage_ttl = true\natomic = true\nfast_batches = true",
    );
    let policy = policy.replace(
        "max_ack_pending = 7",
        "max_ack_pending = 7\npriority = \"prioritized\"\npriority_group = \"workers\"",
    );
    let deployment = broker(version, &policy).await;
    let minor: u64 = version.split('.').nth(1).unwrap().parse().unwrap();
    let planned = deployment.tool(&["state", "plan"]).await;
    let mut missing = false;
    for (what, word, since) in [
        ("stream WORK", "message_ttl", 11),
        ("stream WORK", "atomic", 12),
        ("stream WORK", "fast_batches", 14),
        ("consumer WORK/workers", "priority", 12),
    ] {
        let line = format!("  {what}: `{word}` takes 2.{since} or newer\n");
        assert_eq!(planned.err.contains(&line), minor < since, "{word} {planned:?}");
        missing |= minor < since;
    }
    let applied = deployment.tool(&["state", "apply", "--yes"]).await;
    assert_eq!(applied.code, i32::from(missing), "{applied:?}");
    assert_eq!(applied.err.contains("error: nothing was changed"), missing, "{applied:?}");
    let again = deployment.tool(&["state", "plan"]).await;
    assert_eq!(again.code, i32::from(missing), "{again:?}");
}
