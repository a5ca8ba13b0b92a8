//! Three servers, three instances.

use super::deployment::Prepared;
use super::raw::Raw;

const POLICY: &str = r#"
[service.orders]
nkeys = ["{orders}"]
owns = ["orders"]
"#;

on_every_server!(a_service_works_through_any_node);
async fn a_service_works_through_any_node(version: &'static str) {
    let mut deployment = Prepared::new().start_cluster(version, POLICY).await;
    for _ in 0..deployment.nodes().count() {
        deployment.add_instance(&[]).await;
    }
    deployment.create_buckets(&["orders"]).await;
    let orders = deployment.service("orders");
    let nodes: Vec<String> = deployment.urls();
    for (number, node) in nodes.iter().enumerate() {
        let mut client = Raw::try_login(node, &orders.seed).await.unwrap();
        let inbox = format!("_INBOX.orders.{number}");
        client.subscribe(&format!("{inbox}.>")).await.unwrap();
        let put = format!("$KV.orders.n{number}");
        client.publish_with(&put, &format!("{inbox}.put"), "", b"here").await.unwrap();
        let answer = String::from_utf8(client.message().await.payload).unwrap();
        assert!(answer.contains("\"seq\":"), "{answer}");
    }
    assert_eq!(deployment.content("orders").await.len(), nodes.len());
}
