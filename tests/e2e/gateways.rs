//! Clusters joined by gateways: what that opens, who says so, and the shape in which the rule holds.

use async_nats::jetstream::{self, stream};
use serde_json::json;

use std::time::Instant;

use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::deployment::{Deployment, Prepared, eventually, eventually_within};
use super::raw::Raw;
use super::sessions::Client;

const POLICY: &str = r#"
[bucket.mine]

[bucket.vault]

[service.mine]
nkeys = ["{mine}"]
owns = ["mine"]

[service.vault]
nkeys = ["{vault}"]
owns = ["vault"]
"#;

/// Nothing is held back.
fn open<const CLUSTERS: usize>() -> [watch::Receiver<bool>; CLUSTERS] {
    std::array::from_fn(|_| watch::channel(false).1)
}

/// What a service does to have JetStream deliver what it stored to a subject that it may not use.
async fn deliver_to(subject: &str, mine: &mut Raw) {
    mine.publish_with("$KV.mine.x", "", "Nats-Rollup: all", b"x").await.unwrap();
    let consumer = json!({"stream_name": "KV_mine", "config": {"name": "c", "ack_policy": "none",
        "deliver_policy": "all", "deliver_subject": subject, "filter_subject": "$KV.mine.>",
        "mem_storage": true, "inactive_threshold": 60_000_000_000_u64}});
    let create = "$JS.API.CONSUMER.CREATE.KV_mine.c.$KV.mine.>";
    mine.publish_with(create, "_INBOX.mine.c", "", consumer.to_string().as_bytes()).await.unwrap();
}

/// A bucket in one of the clusters.
async fn bucket(deployment: &Deployment, name: &str, cluster: &str) {
    let admin = deployment.admin().await;
    let placement = stream::Placement { cluster: Some(cluster.to_owned()), ..Default::default() };
    let config = stream::Config {
        name: format!("KV_{name}"),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        discard: stream::DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        placement: Some(placement),
        ..Default::default()
    };
    // The other cluster may not be heard of yet.
    eventually("the bucket", async || admin.create_stream(config.clone()).await.ok()).await;
}

on_every_server!(a_bucket_of_another_cluster_is_erased_and_everybody_says_so);
/// The hole is nats-server's, and whoever runs one with it is told.
async fn a_bucket_of_another_cluster_is_erased_and_everybody_says_so(version: &'static str) {
    let mut deployment =
        Prepared::new().start_supercluster(version, ["a", "b"], open(), POLICY).await;
    deployment.add_instance(&[]).await;
    bucket(&deployment, "mine", "a").await;
    bucket(&deployment, "vault", "b").await;
    let keys = async || deployment.content("vault").await.len();
    let owner = deployment.service("vault");
    let mut vault = Raw::try_login(&deployment.urls()[1], &owner.seed).await.unwrap();
    for key in ["k1", "k2", "k3"] {
        vault.publish(&format!("$KV.vault.{key}"), b"v").await.unwrap();
    }
    eventually("the values", async || (keys().await == 3).then_some(())).await;
    let mut mine =
        Raw::try_login(deployment.url(), &deployment.service("mine").seed).await.unwrap();
    mine.publish("$KV.vault.k1", b"x").await.unwrap_err();
    deliver_to("$KV.vault.k1", &mut mine).await;
    eventually("the vault to be erased", async || (keys().await == 1).then_some(())).await;

    let line = deployment.instances[0].says("gateways").await;
    assert_eq!((&line["level"], &line["clusters"]), (&json!("ERROR"), &json!("a, b")), "{line}");
    assert_eq!(deployment.instances[0].metric("solewriter_clusters").await, 2.0);
    let doctor = deployment.tool(&["doctor", "--format", "json"]).await;
    assert_eq!(doctor.code, 1, "{doctor:?}");
    let said = doctor.json();
    let problem = said["findings"].as_array().unwrap().iter().find(|f| f["check"] == "gateways");
    let problem = problem.unwrap();
    assert_eq!(problem["outcome"], "problem", "{problem}");
    let found = problem["found"].as_str().unwrap();
    assert!(found.contains("node-1 (of a), node-2 (of b)"), "{found}");
}

/// A bucket's owner, a reader, a stream with a consumer.
pub const THREE: &str = r#"
[bucket.mine]
rollup = true

[bucket.vault]

[stream.orders]
subjects = ["orders.>"]

[stream.orders.consumer.worker]

[service.mine]
nkeys = ["{mine}"]
owns = ["mine"]

[service.vault]
nkeys = ["{vault}"]
owns = ["vault"]
publishes = ["orders.new"]

[service.reader]
nkeys = ["{reader}"]
reads = ["vault"]
consumes = ["orders/worker"]
"#;

/// What `doctor` says of gateways: its outcome, and what it found.
async fn judged(deployment: &Deployment) -> (String, String) {
    let said = deployment.tool(&["doctor", "--format", "json"]).await.json();
    let found = said["findings"].as_array().unwrap().iter().find(|f| f["check"] == "gateways");
    let text = |field: &str| found.unwrap()[field].as_str().unwrap().to_owned();
    (text("outcome"), text("found"))
}

on_every_server!(where_one_cluster_has_all_streams_the_rule_holds, more_room);
async fn where_one_cluster_has_all_streams_the_rule_holds(version: &'static str) {
    let (holds, held): (Vec<_>, Vec<_>) = (0..3).map(|_| watch::channel(false)).unzip();
    let mut deployment = Prepared::new()
        .without_buckets()
        .with_settings("[grants]", "[state]\ncluster = \"a\"\n\n[grants]")
        .start_supercluster(version, ["a", "b", "c"], held.try_into().unwrap(), THREE)
        .await;
    let urls = deployment.urls();
    for url in &urls {
        deployment.add_instance(&["--nats-servers", url]).await;
    }
    // A stream in another cluster is found, and moved.
    bucket(&deployment, "vault", "b").await;
    let (outcome, found) = judged(&deployment).await;
    assert!(outcome == "problem" && found.contains("KV_vault is in cluster b"), "{found}");
    let plan = deployment.tool(&["state", "plan"]).await;
    assert!(plan.code == 1 && plan.out.contains("placement.cluster"), "{plan:?}");
    deployment.apply(&[]).await;
    eventually("all streams to be in one cluster", async || {
        (judged(&deployment).await.0 == "ok").then_some(())
    })
    .await;

    // Clients of each cluster, with a client library: a bucket's owner, a reader, a consumer.
    let (owner, reader) = (deployment.service("vault"), deployment.service("reader"));
    let owner = Client::connect(&urls[1], &owner).await.client;
    let vault = jetstream::new(owner.clone()).get_key_value("vault").await.unwrap();
    for key in ["k1", "k2", "k3"] {
        vault.put(key, key.into()).await.unwrap();
    }
    let client = Client::connect(&urls[2], &reader).await.client;
    let read = jetstream::new(client.clone()).get_key_value("vault").await.unwrap();
    assert_eq!(read.get("k2").await.unwrap().unwrap(), "k2");
    read.put("k2", "x".into()).await.unwrap_err();
    jetstream::new(owner).publish("orders.new", "1".into()).await.unwrap().await.unwrap();
    let consumer: jetstream::consumer::PullConsumer =
        jetstream::new(client).get_consumer_from_stream("worker", "orders").await.unwrap();
    let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
    let message = messages.next().await.unwrap().unwrap();
    message.double_ack().await.unwrap();

    // Each cluster's own instance was asked.
    let asked = |instance: usize| {
        let decisions = deployment.instances[instance].decisions();
        decisions.iter().any(|decision| decision["service"] == "reader")
    };
    assert_eq!([asked(0), asked(1), asked(2)], [false, false, true]);

    // What erases a bucket of another cluster does nothing here, from any of them.
    let mine = deployment.service("mine");
    for url in &urls {
        let mut mine = Raw::try_login(url, &mine.seed).await.unwrap();
        mine.publish("$KV.vault.k1", b"x").await.unwrap_err();
        deliver_to("$KV.vault.k1", &mut mine).await;
        // JetStream delivers from the first cluster, and had heard of the consumer before this.
        mine.publish("$KV.mine.after", b"x").await.unwrap();
        let after = "{\"last_by_subj\":\"$KV.mine.after\"}";
        mine.publish_with("$JS.API.DIRECT.GET.KV_mine", "_INBOX.mine.g", "", after.as_bytes())
            .await
            .unwrap();
        mine.fence().await.unwrap();
    }
    assert_eq!(deployment.content("vault").await.len(), 3);

    // A right that is taken away is gone in each cluster.
    let mut open = Vec::new();
    for url in &urls {
        open.push(Raw::try_login(url, &reader.seed).await.unwrap());
    }
    let began = Instant::now();
    deployment.write_policy(&THREE.replace("reads = [\"vault\"]\n", ""));
    for connection in &mut open {
        connection.closed().await;
    }
    println!("{version}: closed in three clusters after {:?}", began.elapsed());

    // One that is cut off goes on letting services in, by the policy that it has, and is not
    // forgotten when it is back.
    let mut open = Raw::try_login(&urls[2], &reader.seed).await.unwrap();
    holds[2].send(true).unwrap();
    deployment.write_policy(&THREE.replace("consumes = [\"orders/worker\"]\n", ""));
    let began = Instant::now();
    open.closed().await;
    println!("{version}: closed in the cluster that is cut off after {:?}", began.elapsed());
    Raw::try_login(&urls[2], &mine.seed).await.unwrap();
    holds[2].send(false).unwrap();
    let began = Instant::now();
    let deadline = std::time::Duration::from_secs(60);
    eventually_within(deadline, "the cluster to be back", async || {
        vault_again(&deployment, &urls[2]).await.then_some(())
    })
    .await;
    println!("{version}: writes again after {:?}", began.elapsed());
}

/// Whether the owner writes its bucket from there.
async fn vault_again(deployment: &Deployment, url: &str) -> bool {
    let owner = Client::connect(url, &deployment.service("vault")).await.client;
    let Ok(vault) = jetstream::new(owner).get_key_value("vault").await else { return false };
    vault.put("again", "1".into()).await.is_ok()
}
