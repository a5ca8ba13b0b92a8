//! Somebody with the callout's seed speaks among the instances.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::deployment::{Deployment, eventually};
use super::raw::Raw;

const BEFORE: &str = r#"
[service.kept]
nkeys = ["{kept}"]
publishes = ["events.kept"]
[service.revoked]
nkeys = ["{revoked}"]
publishes = ["events.revoked"]
"#;
const AFTER: &str = r#"
[service.kept]
nkeys = ["{kept}"]
publishes = ["events.kept"]
"#;

/// Beats that no instance sends: the oldest of all, who sweeps; who is ahead with what was revoked,
/// and with what nobody knows; who says that another leaves; who changes its mind; numbers and
/// lists beyond measure, and what is no beat at all.
fn forged(instance: &str, before: &str, now: &str, round: u64) -> Vec<Vec<u8>> {
    let beat = |id: &str, revision: &str, more: Value| {
        let mut beat = json!({"instance": id, "started": i64::MIN, "revision": revision,
            "held_ms": 0, "number": u64::MAX, "had": [], "sweeps": true, "makes": "other"});
        beat.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        beat.to_string().into_bytes()
    };
    let changing = format!("{round:064x}");
    vec![
        beat("first", now, json!({})),
        beat("ahead", before, json!({"had": [now]})),
        beat("unheard-of", "ffff", json!({})),
        beat(&format!("newcomer-{round}"), now, json!({})),
        beat("fickle", &changing, json!({"sweeps": round.is_multiple_of(2)})),
        beat(instance, before, json!({"leaves": true})),
        beat(instance, before, json!({"held_ms": u64::MAX})),
        beat("lists", now, json!({"had": vec![""; 5000]})),
        beat(&"x".repeat(9000), now, json!({})),
        vec![b'['; 60_000],
        b"{\"instance\":1}".to_vec(),
        vec![0xff; 300],
        Vec::new(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_beats_put_off_a_revocation_and_do_not_prevent_it() {
    let _room = crate::room::some_room().await;
    let deployment = Deployment::start("2.15.1", BEFORE).await;
    let kept = Raw::login(&deployment, &deployment.service("kept")).await;
    let mut revoked = Raw::login(&deployment, &deployment.service("revoked")).await;
    let instance = &deployment.instances[0];
    let decisions = instance.says_times("authorisation", 2).await;
    let before = decisions[0]["revision"].as_str().unwrap().to_owned();
    let (url, seed) = (deployment.url().to_owned(), deployment.seed("callout"));
    let mut forger = Raw::try_login(&url, &seed).await.unwrap();
    // Its id is what beats are published under.
    forger.subscribe("solewriter.instance.*").await.unwrap();
    let id = forger.message().await.subject;
    let id = id.strip_prefix("solewriter.instance.").unwrap().to_owned();
    let (told, mut now) = tokio::sync::watch::channel(before.clone());
    let forging = tokio::spawn(async move {
        let mut forger = Raw::try_login(&url, &seed).await.unwrap();
        for round in 0_u64.. {
            let current = now.borrow_and_update().clone();
            for payload in forged(&id, &before, &current, round) {
                forger.publish("solewriter.instance.forged", &payload).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    // It is believed: nobody looks after connections any more.
    let mut deployment = deployment;
    eventually("the forger is first", async || {
        let sweeps = deployment.instances[0].metric("solewriter_sessions_sweeper").await;
        (sweeps < 0.5).then_some(())
    })
    .await;
    deployment.write_policy(AFTER);
    let loaded = deployment.instances[0].says("policy_changed").await;
    told.send_replace(loaded["revision"].as_str().unwrap().to_owned());
    let began = Instant::now();
    let said = revoked.closed().await;
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}: {said}", began.elapsed());
    // And nobody else is harmed by it.
    drop(kept);
    Raw::login(&deployment, &deployment.service("kept")).await;
    assert!(!forging.is_finished());
    forging.abort();
    let lines = deployment.instances[0].lines();
    assert!(!lines.iter().any(|line| line["event"] == "panic"), "{lines:?}");
    assert_eq!(deployment.instances[0].get("/readyz").await.0, 200);
}
