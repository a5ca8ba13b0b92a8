//! CONNECT a second time on an open connection: nats-server up to 2.11.16 and 2.12.7 asks again,
//! and leaves the connection the subscriptions that it has.

use serde_json::{Value, json};
use solewriter_core::callout::asked;

use super::deployment::{Deployment, Instance, Prepared, Service, eventually};
use super::raw::Raw;
use super::sessions::closed;

const POLICY: &str = r#"
[service.listener]
nkeys = ["{listener}"]
connections = ["STANDARD", "WEBSOCKET"]
subscribes = ["news.>"]

[service.other]
nkeys = ["{other}"]
connections = ["STANDARD", "WEBSOCKET"]
subscribes = ["else.>"]

[service.speaker]
nkeys = ["{speaker}"]
publishes = ["news.>"]
"#;

/// As the listener loses what it hears.
fn without_news() -> String {
    POLICY.replace("\"news.>\"]\n\n[service.other]", "\"old.>\"]\n\n[service.other]")
}

async fn start(version: &'static str) -> Deployment {
    let websocket = "websocket { listen: \"127.0.0.1:-1\", no_tls: true }\nsystem_account: SYS";
    Prepared::new()
        .with_server("system_account: SYS", websocket)
        .with_settings("[system]", "[sessions]\nevery = \"1s\"\n\n[system]")
        .start(version, POLICY)
        .await
}

/// What the second CONNECT says: who it is now, and no user, whom the first one was given.
pub fn again(raw: &Raw, service: &Service) -> Value {
    let mut proof = raw.proof(&service.seed);
    proof.as_object_mut().unwrap().insert("user".to_owned(), json!(""));
    proof
}

/// Who was let in so often, of one instance or all.
fn granted(deployment: &Deployment, service: &str) -> usize {
    let decisions = deployment.instances.iter().flat_map(super::deployment::Instance::decisions);
    decisions.filter(|d| d["service"] == service && d["outcome"] == "granted").count()
}

async fn dial(deployment: &Deployment, websocket: bool) -> Raw {
    match deployment.server.ports().websocket.first() {
        Some(url) if websocket => Raw::dial_websocket(url).await,
        _ => Raw::dial(deployment.url()).await,
    }
}

on_every_server!(who_asks_an_instance_twice_is_refused);
/// Whoever asks one instance twice is refused and closed, whatever it proves, and however it
/// connects.
async fn who_asks_an_instance_twice_is_refused(version: &'static str) {
    let deployment = start(version).await;
    let listener = deployment.service("listener");
    let mut speaker = Raw::login(&deployment, &deployment.service("speaker")).await;
    let mut refused = 0;
    for websocket in [false, true] {
        for second in ["listener", "other"] {
            let mut raw = dial(&deployment, websocket).await;
            let proof = raw.proof(&listener.seed);
            let so_far = granted(&deployment, "listener");
            raw.enter(&proof).await.unwrap();
            raw.subscribe("news.a").await.unwrap();
            eventually("the line about it", async || {
                (granted(&deployment, "listener") > so_far).then_some(())
            })
            .await;
            let before = granted(&deployment, second);
            let options = again(&raw, &deployment.service(second));
            let entered = raw.enter(&options).await;
            if asked::is_open(version) {
                assert_eq!(granted(&deployment, second), before, "{second} was let in again");
                assert_eq!(entered, Err("Authorization Violation".to_owned()));
                let denied = eventually("the refusal", async || {
                    let decisions = deployment.instances[0].decisions();
                    let mut denied = decisions.into_iter().filter(|d| d["outcome"] == "denied");
                    denied.nth(refused)
                })
                .await;
                refused += 1;
                assert_eq!(denied["reason"], "asked_again", "{denied}");
                assert_eq!(denied["service"], second, "{denied}");
                raw.closed().await;
            } else {
                // A server that is mended asks again, and ends the subscriptions.
                assert_eq!(entered, Ok(()));
                speaker.publish("news.a", b"1").await.unwrap();
                speaker.fence().await.unwrap();
                raw.fence().await.unwrap();
                assert!(raw.delivered.is_empty(), "it kept its subscription");
            }
        }
    }
    // One that asked once is left alone.
    assert_eq!(closed(&deployment), Vec::<Value>::new());
}

on_every_server!(who_asks_two_instances_is_closed);
/// Whoever asks two instances is let in by the second, and closed by the sweep.
async fn who_asks_two_instances_is_closed(version: &'static str) {
    let mut deployment = start(version).await;
    deployment.add_instance(&[]).await;
    let (listener, other) = (deployment.service("listener"), deployment.service("other"));
    let mut honest = Raw::login(&deployment, &other).await;
    let (mut through, mut refused) = (0, 0);
    // A server asks any of the instances.
    for _ in 0..24 {
        let mut raw = Raw::dial(deployment.url()).await;
        let proof = raw.proof(&listener.seed);
        raw.enter(&proof).await.unwrap();
        raw.subscribe("news.a").await.unwrap();
        let options = again(&raw, &other);
        if asked::is_open(version) {
            match raw.enter(&options).await {
                // The instance that got it had not heard of the first request yet.
                Ok(()) => through += 1,
                Err(_) => refused += 1,
            }
            raw.closed().await;
        } else {
            let _ = raw.enter(&options).await;
        }
    }
    if asked::is_open(version) {
        assert_eq!(through + refused, 24, "each is refused by one of the two, or closed");
        let by = |instance: &Instance| {
            let again = |d: &Value| d["reason"] == "asked_again";
            instance.decisions().iter().filter(|d| again(d)).count()
        };
        assert!(deployment.instances.iter().all(|i| by(i) > 0), "one of them never got any");
        let lines = eventually("the lines about them", async || {
            Some(closed(&deployment)).filter(|lines| lines.len() >= through)
        })
        .await;
        assert!(lines.iter().all(|line| line["reason"] == "asked_again"), "{lines:#?}");
        assert!(lines.iter().all(|line| line["service"] == "other"), "{lines:#?}");
    }
    assert_eq!(honest.fence().await, Ok(()));
}

on_every_server!(who_asks_again_after_a_restart_is_closed);
/// Whoever waits until the only instance was started anew is closed by the sweep of the new one.
async fn who_asks_again_after_a_restart_is_closed(version: &'static str) {
    let mut deployment = start(version).await;
    let listener = deployment.service("listener");
    let mut raw = Raw::login(&deployment, &listener).await;
    raw.subscribe("news.a").await.unwrap();
    let mut honest = Raw::login(&deployment, &listener).await;
    deployment.instances[0].child.kill().await.unwrap();
    // It was let in two seconds before the new one can have heard anything.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    deployment.instances.clear();
    deployment.add_instance(&[]).await;
    let options = again(&raw, &listener);
    let entered = raw.enter(&options).await;
    if asked::is_open(version) {
        assert_eq!(entered, Ok(()), "nobody can know it at once");
        raw.closed().await;
        let line = eventually("the line about it", async || closed(&deployment).pop()).await;
        assert_eq!(line["reason"], "asked_again", "{line}");
    }
    assert_eq!(honest.fence().await, Ok(()), "who was let in before is left");
    // What is lost is lost, however often it asks.
    deployment.write_policy(&without_news());
    honest.closed().await;
}
