//! What was made under a grant that is no more, and taking all that there is: attacks that need a
//! change of the policy in the middle, and the sweep.

use serde_json::{Value, json};
use solewriter::prove::{Attack, Control, Effect, Ending, Expected, Family, Step, Who};

use super::deployment::{Deployment, eventually};
use super::raw::Raw;
use super::suite::Place;

const BEFORE: &str = r#"
[service.victim]
nkeys = ["{victim}"]
owns = ["orders"]

[service.lost]
nkeys = ["{lost}"]
reads = ["orders", "rates"]

[service.narrowed]
nkeys = ["{narrowed}"]
reads = ["orders"]

[service.handed-on]
nkeys = ["{handed-on}"]
reads = ["orders"]

[service.part]
nkeys = ["{part}"]
reads = ["orders/open.>"]
"#;

const AFTER: &str = r#"
[service.victim]
nkeys = ["{victim}"]
owns = ["orders"]

[service.lost]
nkeys = ["{lost}"]
reads = ["rates"]

[service.narrowed]
nkeys = ["{narrowed}"]
reads = ["orders/open.>"]

[service.handed-on]
nkeys = ["{another}"]
reads = ["rates"]

[service.part]
nkeys = ["{part}"]
reads = ["orders/open.>"]
"#;

/// How many consumers of one service one bucket may have here.
const LIMIT: usize = 20;
/// How many the attacker makes: all that nats-server 2.15 allows.
const MANY: usize = 1000;
const CROWD: &str = "crowd-consumers";
/// Row, service, and whose seed comes back after the change.
const OUTLIVE: [(&str, &str, &str); 3] = [
    ("outlive-lost", "lost", "lost"),
    ("outlive-narrowed", "narrowed", "narrowed"),
    ("outlive-name", "handed-on", "another"),
];

fn attack(id: &'static str, title: &'static str, line: &'static str) -> Attack {
    let mut attack = super::suite::families().remove(0).attacks.remove(0);
    attack.id = id;
    attack.title = title;
    attack.who = Who::Reader;
    attack.steps = vec![Step::Told(line)];
    attack.effect = Effect::Learns("{secret}");
    attack.expected = Expected::Closed {
        by: Ending::NoEffect,
        why: "the sweep deletes each consumer that no grant in force covers",
    };
    attack.control = Control::Told("before the policy changes");
    attack.in_prove = false;
    attack
}

/// What is tried, and why it fails.
pub fn family() -> Family {
    let line = "a durable push consumer on KV_{victim} that delivers to _INBOX.{me}.values; then \
                the policy changes, and SUB _INBOX.{me}.values on a new connection";
    Family {
        title: "What outlives its grant, and taking all there is",
        about: "A consumer lives in STATE, and not with the connection that made it. Success is \
                that a value which was written after the change arrives; in the last, that the \
                consumers stay, or the owner cannot watch its bucket.",
        attacks: vec![
            attack("outlive-lost", "A consumer of a reader whose `reads` was removed", line),
            attack(
                "outlive-narrowed",
                "A consumer on the whole bucket, of a reader who may read a part of it now",
                line,
            ),
            attack(
                "outlive-name",
                "A consumer of a service whose name has another key and other rights now",
                line,
            ),
            Attack {
                who: Who::PartReader,
                effect: Effect::Blocked,
                control: Control::Told("until the sweep"),
                expected: Expected::Closed {
                    by: Ending::NoEffect,
                    why: "the sweep deletes what is more than one service may have",
                },
                ..attack(
                    CROWD,
                    "1,000 durable consumers on the victim's bucket, in the names of the attacker, \
                     of the victim and of nobody",
                    "PUB $JS.API.CONSUMER.CREATE.KV_{victim}.c1.$KV.{victim}.open.> …, 1,000 \
                     times, and off",
                )
            },
        ],
    }
}

type Seen = (&'static str, Result<Option<Ending>, String>);

/// Tries everything. Gives what came of each.
pub async fn run(place: Place) -> Vec<Seen> {
    let settings = format!("[sessions]\nconsumers_per_service = {LIMIT}\n[http]");
    let deployment =
        place.prepared().with_settings("[http]", &settings).start(place.version, BEFORE).await;
    deployment.create_buckets(&["orders", "rates"]).await;
    let mut made = Vec::new();
    for (_, service, _) in OUTLIVE {
        let mut raw = Raw::login(&deployment, &deployment.service(service)).await;
        raw.subscribe(&format!("_INBOX.{service}.values")).await.unwrap();
        create(&mut raw, service, &json!({"deliver_policy": "new"})).await;
        made.push(raw);
    }
    until(&deployment, |count| count == OUTLIVE.len()).await;
    let bucket = deployment.bucket("orders").await;
    // The control: each hears it.
    bucket.put("k", "before".into()).await.unwrap();
    for raw in &mut made {
        while raw.message().await.payload != b"before" {}
    }
    deployment.write_policy(AFTER);
    until(&deployment, |count| count == 0).await;
    let mut seen = Vec::new();
    for (id, service, holder) in OUTLIVE {
        let mut raw = Raw::login(&deployment, &deployment.service(holder)).await;
        raw.subscribe(&format!("_INBOX.{service}.values")).await.unwrap();
        bucket.put("k", "after".into()).await.unwrap();
        // It comes after whatever the server has delivered.
        deployment.admin().await.publish("_INBOX.nobody.x", "".into()).await.ok();
        raw.fence().await.unwrap();
        let heard = raw.delivered.iter().any(|message| message.payload == b"after");
        seen.push((id, Ok(Some(if heard { Ending::Succeeded } else { Ending::NoEffect }))));
    }
    seen.push((CROWD, crowd(&deployment).await));
    seen
}

async fn crowd(deployment: &Deployment) -> Result<Option<Ending>, String> {
    let mut raw = Raw::login(deployment, &deployment.service("part")).await;
    let mut lines = String::new();
    for n in 0..MANY {
        let deliver = match n % 3 {
            0 => json!(format!("_INBOX.part.{n}")),
            1 => json!(format!("_INBOX.victim.{n}")),
            _ => Value::Null,
        };
        let config = json!({"durable_name": format!("c{n}"), "deliver_subject": deliver,
            "ack_policy": "none", "filter_subject": "$KV.orders.open.>"});
        let body = json!({"stream_name": "KV_orders", "config": config}).to_string();
        let answer = if n + 1 == MANY { "_INBOX.part.made " } else { "" };
        lines += &format!(
            "PUB $JS.API.CONSUMER.CREATE.KV_orders.c{n}.$KV.orders.open.> {answer}{}\r\n{body}\r\n",
            body.len()
        );
    }
    raw.subscribe("_INBOX.part.made").await?;
    raw.send(lines.as_bytes()).await;
    // The control: the last of them is made. A sweep may have deleted the first meanwhile.
    let made: Value = serde_json::from_slice(&raw.message().await.payload).unwrap();
    if made["error"].is_object() {
        return Err(format!("its control should work, and does not: {made}"));
    }
    drop(raw);
    // A change that concerns nobody has the sweeper look at once, and not within 30 s.
    deployment.write_policy(&format!("{AFTER}\n# looked at\n"));
    until(deployment, |count| count <= 3 * LIMIT).await;
    let mut victim = Raw::login(deployment, &deployment.service("victim")).await;
    victim.subscribe("_INBOX.victim.values").await?;
    victim.subscribe("_INBOX.victim.made").await?;
    create(&mut victim, "victim", &json!({"deliver_policy": "new"})).await;
    let answer: Value = serde_json::from_slice(&victim.message().await.payload).unwrap();
    if answer["error"].is_object() {
        return Ok(Some(Ending::Succeeded));
    }
    deployment.bucket("orders").await.put("k", "watched".into()).await.unwrap();
    let message = victim.message().await;
    if message.payload == b"watched" {
        Ok(Some(Ending::NoEffect))
    } else {
        Err(format!("the victim heard something else: {message:?}"))
    }
}

/// A durable push consumer on the whole bucket, delivering to the service's inbox.
async fn create(raw: &mut Raw, service: &str, settings: &Value) {
    let mut config = json!({"durable_name": service, "ack_policy": "none",
        "deliver_subject": format!("_INBOX.{service}.values")});
    config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let body = json!({"stream_name": "KV_orders", "config": config}).to_string();
    let reply = format!("_INBOX.{service}.made");
    let subject = format!("$JS.API.CONSUMER.CREATE.KV_orders.{service}");
    raw.publish_with(&subject, &reply, "", body.as_bytes()).await.unwrap();
}

/// Waits until the bucket has so many consumers.
async fn until(deployment: &Deployment, so_many: impl Fn(usize) -> bool) {
    let stream = deployment.admin().await.get_stream("KV_orders").await.unwrap();
    eventually("the consumers of KV_orders", async || {
        let state = stream.get_info().await.ok()?.state;
        so_many(state.consumer_count).then_some(())
    })
    .await;
}
