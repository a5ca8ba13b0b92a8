//! What must pass between the account that keeps state and the services, for streams, consumers and
//! object stores: without its lines in nats-server's configuration, and with those that `state plan`
//! and `doctor` say.

use async_nats::Client;
use async_nats::jetstream;
use serde_json::Value;

use super::deployment::{Deployment, Prepared, eventually, read};
use super::operations;
use super::raw::Raw;

const EVENTS: &str = r#"
[stream.EVENTS]
subjects = ["events.>", "sold.now"]

[stream.EVENTS.consumer.shipping]
filter = ["events.orders.>"]

[store.files]

[service.orders]
nkeys = ["{orders}"]
publishes = ["events.orders.>", "sold.now"]

[service.shipping]
nkeys = ["{shipping}"]
consumes = ["EVENTS/shipping"]

[service.watching]
nkeys = ["{watching}"]
subscribes = ["events.>"]
"#;

/// A deployment with a nats-server of before the streams.
async fn without_lines(version: &'static str) -> Deployment {
    let before = "[service.orders]\nnkeys = [\"{orders}\"]\n";
    let mut deployment = Deployment::start(version, before).await;
    deployment.write_policy(EVENTS);
    deployment.instances[0].says("policy_changed").await;
    deployment
}

/// What `doctor` finds wrong with exports and imports: the problem, and how to mend it.
async fn problems(deployment: &Deployment) -> Vec<(String, String)> {
    let ran = deployment.tool(&["doctor", "--format", "json"]).await;
    let of_accounts = |f: &&Value| f["check"] == "imports" || f["check"] == "exports";
    let report = ran.json();
    let findings = report["findings"].as_array().unwrap().iter().filter(of_accounts);
    let findings = findings.filter(|f| f["outcome"] == "problem");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    findings.map(|f| (text(&f["found"]), text(&f["mend"]))).collect()
}

/// Puts lines into the configuration, behind one that it has, and reloads the server.
async fn reload(deployment: &Deployment, additions: &[(&str, Vec<String>)]) {
    let file = deployment.files.server_config();
    let mut config = read(&file);
    for (behind, lines) in additions {
        assert!(config.contains(behind), "{behind}");
        config = config.replace(behind, &format!("{behind}\n{}", lines.join("\n")));
    }
    std::fs::write(file, config).unwrap();
    let before = deployment.server.log().matches("Reloaded server configuration").count();
    deployment.server.reload().unwrap();
    eventually("the reload", async || {
        let log = deployment.server.log();
        (log.matches("Reloaded server configuration").count() > before).then_some(())
    })
    .await;
}

async fn client(deployment: &Deployment, service: &str) -> Client {
    operations::connect(deployment.url(), &deployment.service(service)).await.unwrap().0
}

/// How many messages the stream has.
async fn kept(deployment: &Deployment) -> u64 {
    let stream = deployment.admin().await.get_stream("EVENTS").await.unwrap();
    stream.cached_info().state.messages
}

/// Publishes these as `orders`; who subscribes hears each once, and in this order.
async fn publish_and_hear(deployment: &Deployment, texts: &[&'static str]) {
    let mut watching = Raw::login(deployment, &deployment.service("watching")).await;
    watching.subscribe("events.>").await.unwrap();
    let orders = client(deployment, "orders").await;
    for text in texts {
        orders.publish("events.orders.1", (*text).into()).await.unwrap();
    }
    orders.flush().await.unwrap();
    for text in texts {
        assert_eq!(watching.message().await.payload, text.as_bytes());
    }
}

const EXPORTED: &str = r#"{ service: "$O.>", accounts: [ APP ] }"#;
const IMPORTED: &str = r#"{ service: { account: STATE, subject: "$O.>" } }"#;

on_every_server!(a_stream_that_is_added_gets_its_lines_by_a_reload);
/// `state plan` says the lines, `doctor` says what is missing, and after a reload the stream keeps what
/// is published. Who subscribes gets the same before and after, once each.
async fn a_stream_that_is_added_gets_its_lines_by_a_reload(version: &'static str) {
    let deployment = without_lines(version).await;
    let planned = deployment.tool(&["state", "plan"]).await;
    let exports = "  exports of STATE:\n\
                   \x20   { service: \"$JS.ACK.>\", accounts: [ APP ] }\n\
                   \x20   { service: \"$O.>\", accounts: [ APP ] }\n\
                   \x20   { service: \"events.>\", accounts: [ APP ] }\n\
                   \x20   { service: \"sold.*\", accounts: [ APP ] }\n";
    let imports = "  imports of APP:\n\
                   \x20   { service: { account: STATE, subject: \"$JS.ACK.>\" } }\n\
                   \x20   { service: { account: STATE, subject: \"$O.>\" } }\n\
                   \x20   { service: { account: STATE, subject: \"events.>\" } }\n\
                   \x20   { service: { account: STATE, subject: \"sold.*\" } }\n";
    assert!(planned.out.ends_with(&format!("{exports}{imports}")), "{planned:?}");
    let applied = deployment.tool(&["state", "apply", "--yes", "--format", "json"]).await.json();
    let subjects: Vec<&str> = applied["passes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pass| pass["subject"].as_str().unwrap())
        .collect();
    assert_eq!(subjects, ["$JS.ACK.>", "$O.>", "events.>", "sold.now"]);
    // Nothing is new any more, and `init` wrote two of the lines.
    let again = deployment.tool(&["state", "plan"]).await;
    assert!(!again.out.contains("exports of"), "{again:?}");
    let missing =
        |line: &str, list: &str| format!("add {line} to the {list}, and reload the server");
    let is_of_a_stream = |line: &&str| line.contains("events.") || line.contains("sold.");
    let lines = |of: &str, list: &str| -> Vec<String> {
        let lines = of.lines().map(str::trim).filter(is_of_a_stream);
        lines.map(|line| missing(line, list)).collect()
    };
    let found = problems(&deployment).await;
    let mends: Vec<&str> = found.iter().map(|(_, mend)| mend.as_str()).collect();
    let wanted =
        [lines(exports, "exports of account STATE"), lines(imports, "imports of account APP")];
    assert_eq!(mends, wanted.concat(), "{found:?}");

    publish_and_hear(&deployment, &["lost"]).await;
    assert_eq!(kept(&deployment).await, 0);
    let added = |text: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim).filter(is_of_a_stream);
        lines.map(ToOwned::to_owned).collect()
    };
    reload(&deployment, &[(EXPORTED, added(exports)), (IMPORTED, added(imports))]).await;
    assert_eq!(problems(&deployment).await, []);
    publish_and_hear(&deployment, &["kept", "next"]).await;
    assert_eq!(kept(&deployment).await, 2);
    let context = jetstream::new(client(&deployment, "orders").await);
    context.publish("sold.now", "kept".into()).await.unwrap().await.unwrap();

    // What is imported is no right to publish it.
    let mut shipping = Raw::login(&deployment, &deployment.service("shipping")).await;
    for subject in ["events.orders.1", "sold.now", "sold.else", "$O.files.C.x", "$O.files.M.x"] {
        let said = shipping.publish(subject, b"").await;
        assert_eq!(said, Err(format!("Permissions Violation for Publish to \"{subject}\"")));
    }
    assert_eq!(kept(&deployment).await, 3);
}

on_every_server!(two_imports_of_one_subject_store_it_twice);
/// nats-server passes what is published once for each import that matches; `doctor` finds it.
async fn two_imports_of_one_subject_store_it_twice(version: &'static str) {
    let deployment = Prepared::new().start(version, EVENTS).await;
    deployment.apply(&[]).await;
    let context = jetstream::new(client(&deployment, "orders").await);
    let publish = async || {
        context.publish("events.orders.1", "x".into()).await.unwrap().await.unwrap();
    };
    publish().await;
    assert_eq!(kept(&deployment).await, 1);
    assert_eq!(problems(&deployment).await, []);
    let export = r#"{ service: "events.orders.>", accounts: [ APP ] }"#.to_owned();
    let import = r#"{ service: { account: STATE, subject: "events.orders.>" } }"#.to_owned();
    reload(&deployment, &[(EXPORTED, vec![export]), (IMPORTED, vec![import])]).await;
    publish().await;
    eventually("the message to be stored twice", async || {
        (kept(&deployment).await == 3).then_some(())
    })
    .await;
    let found = problems(&deployment).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0.starts_with("APP imports `"), "{found:?}");
    assert!(found[0].0.ends_with("what is published there is stored twice"), "{found:?}");
    assert_eq!(found[0].1, "remove one of them from the imports of account APP");
}
