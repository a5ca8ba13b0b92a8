//! What the seed of each of solewriter's own users can do, as docs/seeds.md says it. What it cannot,
//! and where that would work, is in tests/attacks/seeds.rs.

use std::time::Duration;

use async_nats::jetstream;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::bucket;
use super::deployment::{DEADLINE, Deployment, eventually};
use super::raw::Raw;

const POLICY: &str = r#"
[service.orders]
nkeys = ["{orders}"]
owns = ["orders"]
"#;

/// A deployment whose policy is in its bucket, with a value in a service's bucket.
async fn deployment(version: &'static str) -> Deployment {
    let mut deployment = bucket::prepared().start_broker(version, POLICY).await;
    let (code, said) = bucket::push(&deployment, POLICY, &["--wait", "0s"]).await;
    assert_eq!(code, 0, "{said}");
    deployment.create_buckets(&["orders"]).await;
    deployment.bucket("orders").await.put("k", "a value".into()).await.unwrap();
    for (name, subject) in
        [("AUDIT_EVENTS", "audit.events.solewriter.*"), ("AUDIT_SERVICES", "audit.services.*.*")]
    {
        let config = json!({"name": name, "subjects": [subject], "allow_direct": true});
        let client = deployment.client("audit-admin", deployment.url()).await;
        let _ = ask(&client, &format!("$JS.API.STREAM.CREATE.{name}"), &config).await;
    }
    deployment.add_instance(&[]).await;
    deployment
}

async fn ask(client: &async_nats::Client, subject: &str, question: &Value) -> Value {
    let answer = client.request(subject.to_owned(), question.to_string().into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

async fn thief(deployment: &Deployment, name: &str) -> Raw {
    Raw::try_login(deployment.url(), &deployment.seed(name)).await.unwrap()
}

/// None of these may be published to, or subscribed to.
async fn is_refused(deployment: &Deployment, name: &str, publish: &[&str], subscribe: &[&str]) {
    let mut thief = thief(deployment, name).await;
    for subject in publish {
        assert!(thief.publish(subject, b"").await.is_err(), "{name} may publish to {subject}");
    }
    for subject in subscribe {
        assert!(thief.subscribe(subject).await.is_err(), "{name} may subscribe to {subject}");
    }
}

on_every_server!(the_callouts_seed);
/// It hears requests, reads the policy, writes audit events as solewriter and says what it likes
/// about instances; it lists consumers. It changes neither policy nor state.
async fn the_callouts_seed(version: &'static str) {
    let deployment = deployment(version).await;
    let mut requests = thief(&deployment, "callout").await;
    requests.subscribe("$SYS.REQ.USER.AUTH").await.unwrap();
    Raw::login(&deployment, &deployment.service("orders")).await;
    let heard = requests.message().await;
    assert!(heard.payload.starts_with(b"xkv1"), "sealed, so that it tells nothing");

    let client = deployment.client("callout", deployment.url()).await;
    let subject = "$JS.POLICY.API.DIRECT.GET.KV_solewriter_policy.$KV.solewriter_policy.revision.1";
    let revision = client.request(subject, "".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&revision.payload).contains("because"));
    let event = "audit.events.solewriter.forged";
    let stored = client.request(event, "{}".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&stored.payload).contains("AUDIT_EVENTS"));
    for (subject, field) in [
        ("$JS.STATE.API.STREAM.NAMES", "streams"),
        ("$JS.STATE.API.CONSUMER.LIST.KV_orders", "consumers"),
        ("$JS.AUDIT.API.CONSUMER.LIST.AUDIT_EVENTS", "consumers"),
    ] {
        assert!(ask(&client, subject, &Value::Null).await[field].is_array(), "{subject}");
    }
    let beat = json!({"instance": "forged", "started": 0, "revision": "r", "held_ms": 1,
        "sweeps": true, "makes": "m"});
    let forging = tokio::spawn(async move {
        loop {
            client.publish("solewriter.instance.forged", beat.to_string().into()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    eventually("the forged instance", async || {
        let (_, said) = bucket::policy(&deployment, &["status"]).await;
        said.contains("forged").then_some(())
    })
    .await;
    forging.abort();
    is_refused(
        &deployment,
        "callout",
        &[
            "$KV.solewriter_policy.revision.2",
            "$KV.orders.k",
            "$JS.API.STREAM.DELETE.KV_solewriter_policy",
            "$JS.STATE.API.STREAM.MSG.GET.KV_orders",
            "$JS.STATE.API.CONSUMER.CREATE.KV_orders",
            "$JS.AUDIT.API.STREAM.DELETE.AUDIT_EVENTS",
            "$SYS.REQ.SERVER.PING",
        ],
        &[">", "$KV.>", "_INBOX.>", "audit.>", "$SYS._INBOX.>"],
    )
    .await;
}

on_every_server!(the_publishers_seed);
/// It is the policy: whoever pushes lets in whom they like. It cannot undo what was pushed, and
/// reaches nothing but by that way.
async fn the_publishers_seed(version: &'static str) {
    let mut deployment = deployment(version).await;
    let stranger = "[service.stranger]\nnkeys = [\"{stranger}\"]\nowns = [\"orders\"]\n";
    let (code, said) = bucket::push(&deployment, stranger, &[]).await;
    assert_eq!(code, 0, "{said}");
    bucket::serves(&mut deployment.instances[0], 2).await;
    let mut stranger = Raw::login(&deployment, &deployment.service("stranger")).await;
    assert_eq!(stranger.publish("$KV.orders.k", b"theirs").await, Ok(()));
    // Who did it stays in the log.
    let (_, log) = bucket::policy(&deployment, &["log", "--format", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&log).unwrap().as_array().unwrap().len(), 2);
    is_refused(
        &deployment,
        "publisher",
        &[
            "$KV.orders.k",
            "$JS.API.STREAM.DELETE.KV_solewriter_policy",
            "$JS.API.STREAM.UPDATE.KV_solewriter_policy",
            "$JS.API.STREAM.PURGE.KV_solewriter_policy",
            "$JS.API.STREAM.CREATE.OTHER",
            "solewriter.instance.x",
            "audit.events.solewriter.x",
            "$SYS.REQ.SERVER.PING",
        ],
        &[">", "$SYS.REQ.USER.AUTH", "_INBOX.>", "audit.>"],
    )
    .await;
}

on_every_server!(the_admins_seed);
/// It has every bucket, and can write to a service's inbox. Neither the policy nor the audit.
async fn the_admins_seed(version: &'static str) {
    let deployment = deployment(version).await;
    let admin = deployment.admin().await;
    deployment.bucket("orders").await.put("k", "the admin's".into()).await.unwrap();
    let mut orders = Raw::login(&deployment, &deployment.service("orders")).await;
    orders.subscribe("_INBOX.orders.guessed").await.unwrap();
    let client = deployment.client("admin", deployment.url()).await;
    client.publish("_INBOX.orders.guessed", "a false answer".into()).await.unwrap();
    assert_eq!(orders.message().await.payload, b"a false answer");
    admin.delete_stream("KV_orders").await.unwrap();
    for stream in ["KV_solewriter_policy", "AUDIT_EVENTS", "AUDIT_SERVICES"] {
        assert!(admin.get_stream(stream).await.is_err(), "{stream}");
    }
    hears_nothing(&deployment, "admin").await;
}

on_every_server!(the_audit_admins_seed);
/// It has the audit streams, and can write to a service's inbox. Neither buckets nor the policy.
async fn the_audit_admins_seed(version: &'static str) {
    let deployment = deployment(version).await;
    let client = deployment.client("audit-admin", deployment.url()).await;
    let mut orders = Raw::login(&deployment, &deployment.service("orders")).await;
    orders.subscribe("_INBOX.orders.guessed").await.unwrap();
    client.publish("_INBOX.orders.guessed", "a false answer".into()).await.unwrap();
    assert_eq!(orders.message().await.payload, b"a false answer");
    let admin = jetstream::new(client);
    admin.delete_stream("AUDIT_EVENTS").await.unwrap();
    for stream in ["KV_solewriter_policy", "KV_orders"] {
        assert!(admin.get_stream(stream).await.is_err(), "{stream}");
    }
    hears_nothing(&deployment, "audit-admin").await;
}

/// In an account of its own, whoever may listen to everything hears neither requests nor instances.
async fn hears_nothing(deployment: &Deployment, name: &str) {
    let client = deployment.client(name, deployment.url()).await;
    for subject in ["$SYS.REQ.USER.AUTH", "solewriter.instance.*", "$SYS.SERVER.>"] {
        let mut heard = client.subscribe(subject).await.unwrap();
        client.flush().await.unwrap();
        // Each instance speaks once a second, and somebody asks to be let in.
        let _ = Raw::try_login(deployment.url(), &deployment.service("orders").seed).await;
        let heard = timeout(Duration::from_millis(1300), heard.next()).await;
        assert!(heard.is_err(), "{name} hears {subject}: {heard:?}");
    }
}

on_every_server!(the_system_users_seed);
/// It sees who is connected and what they listen to, and closes whom it likes; nothing else.
async fn the_system_users_seed(version: &'static str) {
    let deployment = deployment(version).await;
    let mut orders = Raw::login(&deployment, &deployment.service("orders")).await;
    orders.subscribe("_INBOX.orders.secret").await.unwrap();
    let client = deployment.client("system", deployment.url()).await;
    let server = client.server_info().server_id;
    let question = json!({"auth": true, "subscriptions": true, "acc": "APP"});
    let seen = ask(&client, &format!("$SYS.REQ.SERVER.{server}.CONNZ"), &question).await;
    let connection = &seen["data"]["connections"][0];
    assert!(connection["authorized_user"].as_str().unwrap().starts_with("orders/"), "{seen}");
    assert_eq!(connection["subscriptions_list"], json!(["_INBOX.orders.secret"]), "{seen}");
    let question = json!({"cid": connection["cid"]});
    ask(&client, &format!("$SYS.REQ.SERVER.{server}.KICK"), &question).await;
    timeout(DEADLINE, orders.closed()).await.unwrap();

    let own = |what: &str| format!("$SYS.REQ.SERVER.{server}.{what}");
    let (reload, lame) = (own("RELOAD"), own("LDM"));
    is_refused(
        &deployment,
        "system",
        &[
            "$JS.API.ACCOUNT.PURGE.STATE",
            "$JS.API.META.LEADER.STEPDOWN",
            "$JS.API.STREAM.DELETE.KV_orders",
            "$SYS.REQ.ACCOUNT.STATE.JSZ",
            "$SYS.REQ.CLAIMS.UPDATE",
            "$SYS.REQ.SERVER.PING.JSZ",
            "$KV.orders.k",
            "solewriter.instance.x",
            &reload,
            &lame,
        ],
        &[">", "$SYS.>", "$KV.>", "_INBOX.>", "solewriter.>"],
    )
    .await;
    let value = deployment.bucket("orders").await.get("k").await.unwrap();
    assert_eq!(value.as_deref(), Some(&b"a value"[..]));
}
