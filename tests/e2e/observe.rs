//! `enforce = "observe"`: a service that does as before, a neighbour that it must not harm, and the
//! two steps after it: the narrowing of its rights, and an owner for what nobody owned.

use std::process::Command;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::{self, kv};
use futures_util::StreamExt as _;

use super::deployment::{Deployment, Violation, eventually};
use super::operations;
use super::raw::Raw;

const POLICY: &str = r#"
[bucket.mine]

[bucket.theirs]

[bucket.nobodys]

[store.files]

[stream.EVENTS]
subjects = ["events.>"]
duplicate_window = "100ms"

[stream.EVENTS.consumer.shipping]

[service.owner]
nkeys = ["{owner}"]
owns = ["theirs", "store:files"]
publishes = ["events.owner.>", "news.>"]
consumes = ["EVENTS/shipping"]
calls = ["ask.old"]

[service.old]
nkeys = ["{old}"]
owns = ["mine"]
# what it could do
enforce = "observe"
before.publish = [">"]
before.deny_publish = ["news.secret"]
before.subscribe = [">"]
"#;

async fn client(deployment: &Deployment, service: &str) -> async_nats::Client {
    operations::connect(deployment.url(), &deployment.service(service)).await.unwrap().0
}

/// All that the service could do and may do.
async fn does_as_before(deployment: &Deployment) {
    let client = client(deployment, "old").await;
    let context = jetstream::new(client.clone());
    for bucket in ["mine", "nobodys"] {
        let store = context.get_key_value(bucket).await.unwrap();
        store.put("k", "v".into()).await.unwrap();
        store.purge("k").await.unwrap();
        store.put("k", bucket.to_owned().into()).await.unwrap();
    }
    let theirs: kv::Store = context.get_key_value("theirs").await.unwrap();
    assert_eq!(theirs.get("k").await.unwrap().unwrap(), "theirs");
    let mut watch = theirs.watch_with_history(">").await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().key, "k");
    let files = context.get_object_store("files").await.unwrap();
    assert!(files.list().await.unwrap().next().await.is_none());
    context.publish("events.old.x", "1".into()).await.unwrap().await.unwrap();
    // A consumer of its own that stays: nobody declared it.
    let events = context.get_stream("EVENTS").await.unwrap();
    let own = pull::Config { durable_name: Some("oldown".to_owned()), ..Default::default() };
    let consumer = events.create_consumer(own).await.unwrap();
    let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
    messages.next().await.unwrap().unwrap().ack().await.unwrap();
    // Plain messages, and answers.
    let mut news = client.subscribe("news.>").await.unwrap();
    let mut asked = client.subscribe("ask.old").await.unwrap();
    client.flush().await.unwrap();
    let owner = self::client(deployment, "owner").await;
    owner.publish("news.today", "fine".into()).await.unwrap();
    assert_eq!(news.next().await.unwrap().subject.as_str(), "news.today");
    let answers = async {
        let request = asked.next().await.unwrap();
        client.publish(request.reply.unwrap(), "answer".into()).await.unwrap();
        client.flush().await.unwrap();
    };
    let (answer, ()) = tokio::join!(owner.request("ask.old", "?".into()), answers);
    assert_eq!(answer.unwrap().payload, "answer");
}

/// What a neighbour has is out of reach, by whatever way: publishing, JetStream's own requests, and
/// requests whose answer would be stored.
async fn reaches_nothing_of_others(deployment: &Deployment) {
    let before = deployment.content("theirs").await;
    let mut raw = Raw::login(deployment, &deployment.service("old")).await;
    let refused = [
        "$KV.theirs.k",
        "$JS.API.STREAM.PURGE.KV_theirs",
        "$JS.API.STREAM.DELETE.KV_theirs",
        "$JS.API.STREAM.MSG.DELETE.KV_theirs",
        "$JS.API.STREAM.DELETE.EVENTS",
        "$O.files.M.x",
        "$O.files.C.x",
        "events.owner.x",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.shipping",
        "$JS.API.CONSUMER.CREATE.EVENTS.shipping",
        "$JS.API.CONSUMER.DELETE.EVENTS.shipping",
        "$JS.ACK.EVENTS.shipping.1.1.1.1.0",
        "news.secret",
        "$SYS.REQ.SERVER.PING",
        "audit.events.forged",
    ];
    for subject in refused {
        let said = raw.publish(subject, b"{}").await;
        assert!(said.is_err(), "{subject}");
    }
    for subject in ["_INBOX.owner.>", "$KV.theirs.>", "$SYS.>", "$JS.>"] {
        assert!(raw.subscribe(subject).await.is_err(), "{subject}");
    }
    // JetStream answers where it is told to: not into a bucket.
    for asked in [
        "$JS.API.STREAM.INFO.KV_mine",
        "$JS.API.DIRECT.GET.KV_mine.$KV.mine.k",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.oldown",
        "events.old.y",
    ] {
        let _ = raw.publish_with(asked, "$KV.theirs.forged", "", b"").await;
    }
    raw.fence().await.unwrap();
    // What was sent before is there before this.
    let owner = jetstream::new(client(deployment, "owner").await);
    owner.get_key_value("theirs").await.unwrap().put("last", "1".into()).await.unwrap();
    let after = deployment.content("theirs").await;
    assert_eq!(after.len(), before.len() + 1, "{after:?}");
}

on_every_server!(who_is_observed_does_as_before_and_reaches_nothing_of_others);
async fn who_is_observed_does_as_before_and_reaches_nothing_of_others(version: &'static str) {
    let mut deployment = Deployment::start(version, POLICY).await;
    deployment.apply(&[]).await;
    let owner = jetstream::new(client(&deployment, "owner").await);
    owner.get_key_value("theirs").await.unwrap().put("k", "theirs".into()).await.unwrap();

    Box::pin(does_as_before(&deployment)).await;
    assert_eq!(deployment.violations(), Vec::<Violation>::new());
    reaches_nothing_of_others(&deployment).await;
    let explained = Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .args(["explain", "old", "--write", "nobodys/k", "--policy"])
        .arg(deployment.files.policy())
        .output()
        .unwrap();
    let explained = String::from_utf8(explained.stdout).unwrap();
    assert!(explained.contains("as before: observed"), "{explained}");

    // Who gains what nobody owned has it alone, once the other cannot write it any more.
    let mut raw = Raw::login(&deployment, &deployment.service("old")).await;
    raw.publish("$KV.nobodys.k", b"old").await.unwrap();
    deployment.write_policy(&POLICY.replace("\"theirs\", ", "\"theirs\", \"nobodys\", "));
    raw.closed().await;
    eventually("the new owner to write", async || {
        let context = jetstream::new(client(&deployment, "owner").await);
        let store = context.get_key_value("nobodys").await.ok()?;
        store.put("k", "owner".into()).await.ok()
    })
    .await;
    let mut raw = Raw::login(&deployment, &deployment.service("old")).await;
    assert!(raw.publish("$KV.nobodys.k", b"old").await.is_err());
    raw.publish("$KV.mine.k", b"old").await.unwrap();

    // The second step: its rules alone.
    raw.publish("plain.x", b"").await.unwrap_err();
    raw.publish("news.y", b"").await.unwrap();
    deployment.write_policy(&POLICY.replace("enforce = \"observe\"", ""));
    raw.closed().await;
    let mut raw = Raw::login(&deployment, &deployment.service("old")).await;
    raw.publish("$KV.mine.k", b"old").await.unwrap();
    for subject in ["news.y", "events.old.x", "$KV.nobodys.k"] {
        assert!(raw.publish(subject, b"").await.is_err(), "{subject}");
    }
    let said = deployment.instances[0].says("policy_loaded").await;
    assert!(said.is_object());
}
