//! Two clusters joined by gateways: what that opens, and who says so.

use async_nats::jetstream::stream;
use serde_json::json;

use super::deployment::{Deployment, Prepared, eventually};
use super::raw::Raw;

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
    let mut deployment = Prepared::new().start_supercluster(version, POLICY).await;
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
    mine.publish_with("$KV.mine.x", "", "Nats-Rollup: all", b"x").await.unwrap();
    let consumer = json!({"stream_name": "KV_mine", "config": {"name": "c", "ack_policy": "none",
        "deliver_policy": "all", "deliver_subject": "$KV.vault.k1", "filter_subject": "$KV.mine.>",
        "mem_storage": true, "inactive_threshold": 60_000_000_000_u64}});
    let create = "$JS.API.CONSUMER.CREATE.KV_mine.c.$KV.mine.>";
    mine.publish_with(create, "_INBOX.mine.c", "", consumer.to_string().as_bytes()).await.unwrap();
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
