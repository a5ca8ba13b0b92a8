//! Chains of imports: what JetStream answers arrives in APP on a subject of the attacker's choice,
//! and APP imports services of other accounts under such subjects.

use serde_json::{Value, json};
use solewriter::prove::{Attack, Control, Ending, Expected, Family};
use tokio::time::Instant;

use super::deployment::{Deployment, Prepared};
use super::doors::{self, Seen};
use super::raw::Raw;
use super::suite::{PATIENCE, Place};

const LINE: &str = "PUB $JS.API.DIRECT.GET.KV_mine.$KV.mine.payload {each}";
const KEY: &str = "{ service: { account: STATE, subject: \"$KV.victim.k\" } }";

/// What is tried, and why it fails.
pub fn family() -> Family {
    let row = |id, title, how, why| {
        let mut attack: Attack = doors::told(doors::attack(id, title, how, why), LINE);
        if let Expected::Closed { by, .. } = &mut attack.expected {
            *by = Ending::NoEffect;
        }
        attack
    };
    let again = "what comes back through one import goes on through another under the name that \
                 the server gave it, and not under the one that was asked for";
    let mut literal = row(
        "chain-literal",
        "The same, where APP imports that very key, without a wildcard",
        "",
        "",
    );
    literal.expected = Expected::Residual {
        reason: "an import without a wildcard has one name, and the server gives it to whatever \
                 arrives",
        mitigation: "import no service into APP without a wildcard, and rename none: `doctor` \
                     warns of what APP imports beside what `init` writes",
    };
    literal.control = Control::Here;
    Family {
        title: "Chains of imports",
        about: "The attacker asks for a value of its own, and the answer is to go to each subject \
                that APP imports from another account: keys, requests of STATE's and of AUDIT's \
                JetStream, audit events. Success is that another's bucket or an audit stream is \
                not what it was.",
        attacks: vec![
            row("chain-state", "Into STATE: keys and requests", "for the admin, who may", again),
            row("chain-audit", "Into AUDIT: events and requests", "for AUDIT's admin", again),
            row(
                "chain-callout",
                "To the callout and the servers: authorization requests, beats, monitoring",
                "for the callout's user",
                "APP imports nothing of AUTH, and nothing of the servers'",
            ),
            literal,
        ],
    }
}

const POLICY: &str = r#"
[bucket.mine]
[bucket.victim]
[service.mine]
nkeys = ["{mine}"]
owns = ["mine"]
publishes = ["audit.events.mine.>"]
[service.victim]
nkeys = ["{victim}"]
owns = ["victim"]
"#;

const STATE: [&str; 9] = [
    "$KV.victim.k",
    "$KV.victim.other",
    "$JS.API.STREAM.PURGE.KV_victim",
    "$JS.API.STREAM.DELETE.KV_victim",
    "$JS.API.STREAM.UPDATE.KV_victim",
    "$JS.API.STREAM.MSG.DELETE.KV_victim",
    "$JS.API.CONSUMER.CREATE.KV_victim",
    "$JS.API.CONSUMER.DELETE.KV_victim.watch",
    "$JS.FC.KV_victim.watch.abcd",
];
const AUDIT: [&str; 9] = [
    "audit.events.solewriter.x",
    "audit.events.victim.x",
    "audit.services.victim.x",
    "$JS.AUDIT.API.STREAM.PURGE.EVENTS",
    "$JS.AUDIT.API.STREAM.DELETE.EVENTS",
    "$JS.AUDIT.API.STREAM.PURGE.SERVICES",
    "$JS.AUDIT.API.CONSUMER.CREATE.EVENTS",
    "$JS.AUDIT.API.CONSUMER.DELETE.EVENTS.watch",
    "$JS.AUDIT.FC.EVENTS.watch.abcd",
];
const OTHERS: [&str; 4] = [
    "$SYS.REQ.USER.AUTH",
    "solewriter.instance.x",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.ACCOUNT.STATE.JSZ",
];

/// Tries everything. Gives what came of each, or what is not as it should be.
pub async fn run(place: Place) -> Vec<Seen> {
    let deployment = start(place.prepared(), place).await;
    let (mut state, mut audit) = stages(&deployment).await;
    let mut callout = Raw::login_as(&deployment, "callout").await;
    for subject in ["$SYS.REQ.USER.AUTH", "solewriter.instance.x"] {
        callout.subscribe(subject).await.unwrap();
    }
    let before = (content(&mut state, "KV_victim").await, both(&mut audit).await);
    let tried = async |subjects: &[&str]| {
        let service = deployment.service("mine");
        let mut raw = Raw::login(&deployment, &service).await;
        for subject in subjects {
            attack(&mut raw, subject).await;
        }
        raw.fence().await.unwrap();
    };
    tried(&STATE).await;
    let of_state = changed(async || content(&mut state, "KV_victim").await != before.0).await;
    tried(&AUDIT).await;
    let of_audit = changed(async || both(&mut audit).await != before.1).await;
    tried(&OTHERS).await;
    let of_others = changed(async || hears(&mut callout).await).await;

    // The control: who may publish there is heard there.
    let mut controls = Vec::new();
    ask(&mut state, "$KV.victim.k", "the admin's").await;
    controls.push(changed(async || content(&mut state, "KV_victim").await != before.0).await);
    ask(&mut audit, "audit.events.solewriter.x", "the admin's").await;
    controls.push(changed(async || both(&mut audit).await != before.1).await);
    callout.publish("solewriter.instance.x", b"chosen").await.unwrap();
    controls.push(changed(async || hears(&mut callout).await).await);
    let mut seen: Vec<Seen> = ["chain-state", "chain-audit", "chain-callout"]
        .into_iter()
        .zip(controls)
        .zip([of_state, of_audit, of_others])
        .map(|((id, works), ending)| {
            let works = works == Ending::Succeeded;
            (id, if works { Ok(Some(ending)) } else { Err("its control does not work".to_owned()) })
        })
        .collect();

    if place.cluster || place.operator {
        // In a cluster it depends on which server has which stream.
        return seen;
    }
    let all = "{ service: { account: STATE, subject: \"$KV.>\" } }";
    let prepared = Prepared::new().with_server(all, &format!("{all}\n      {KEY}"));
    let deployment = start(prepared, place).await;
    let (mut state, _) = stages(&deployment).await;
    let before = content(&mut state, "KV_victim").await;
    let mut raw = Raw::login(&deployment, &deployment.service("mine")).await;
    attack(&mut raw, "$KV.victim.k").await;
    let ending = changed(async || content(&mut state, "KV_victim").await != before).await;
    seen.push(("chain-literal", Ok(Some(ending))));
    seen
}

async fn start(prepared: Prepared, place: Place) -> Deployment {
    if !place.cluster {
        return prepared.start(place.version, POLICY).await;
    }
    let mut deployment = prepared.start_cluster(place.version, POLICY).await;
    deployment.add_instance(&[]).await;
    deployment
}

/// Whether something is so within the time that effects have to show.
async fn changed(mut is_so: impl AsyncFnMut() -> bool) -> Ending {
    let until = Instant::now() + PATIENCE;
    loop {
        if is_so().await {
            return Ending::Succeeded;
        }
        if Instant::now() > until {
            return Ending::NoEffect;
        }
    }
}

/// Whether the callout was sent what the attacker chose.
async fn hears(callout: &mut Raw) -> bool {
    callout.fence().await.unwrap();
    callout.delivered.iter().any(|message| message.payload == b"chosen")
}

/// Asks for its own value in each way that a service may, with the answer to that subject.
async fn attack(raw: &mut Raw, reply: &str) {
    for (subject, body) in [
        ("$JS.API.DIRECT.GET.KV_mine.$KV.mine.payload", ""),
        ("$JS.API.DIRECT.GET.KV_mine.$KV.mine.empty", ""),
        ("$JS.API.DIRECT.GET.KV_mine", "{\"last_by_subj\":\"$KV.mine.payload\",\"no_hdr\":true}"),
        ("$JS.API.STREAM.INFO.KV_mine", ""),
        ("$KV.mine.a", "x"),
        ("audit.events.mine.run", "x"),
    ] {
        raw.publish_with(subject, reply, "", body.as_bytes()).await.unwrap();
    }
    // Answered to itself after all of these: JetStream is done with them.
    raw.subscribe("_INBOX.mine.fence").await.unwrap();
    raw.publish_with("$JS.API.STREAM.INFO.KV_mine", "_INBOX.mine.fence", "", b"").await.unwrap();
    let answer = raw.message().await;
    assert_eq!(answer.subject, "_INBOX.mine.fence");
}

/// The admins, with buckets and audit streams in their accounts.
async fn stages(deployment: &Deployment) -> (Raw, Raw) {
    let mut state = Raw::login_as(deployment, "admin").await;
    let mut audit = Raw::login_as(deployment, "audit-admin").await;
    for raw in [&mut state, &mut audit] {
        raw.subscribe("_INBOX.answer").await.unwrap();
    }
    for bucket in ["mine", "victim"] {
        create(&mut state, &format!("KV_{bucket}"), &format!("$KV.{bucket}.>")).await;
    }
    create(&mut audit, "EVENTS", "audit.events.solewriter.*").await;
    create(&mut audit, "SERVICES", "audit.services.*.*").await;
    for (subject, value) in
        [("$KV.mine.payload", "chosen"), ("$KV.mine.empty", ""), ("$KV.victim.k", "the victim's")]
    {
        ask(&mut state, subject, value).await;
    }
    ask(&mut audit, "audit.events.solewriter.run", "recorded").await;
    (state, audit)
}

async fn create(raw: &mut Raw, name: &str, subject: &str) {
    let config = json!({"name": name, "subjects": [subject], "storage": "memory",
        "allow_direct": true});
    let made = ask(raw, &format!("$JS.API.STREAM.CREATE.{name}"), &config.to_string()).await;
    assert!(made["error"].is_null(), "{made}");
}

async fn ask(raw: &mut Raw, subject: &str, body: &str) -> Value {
    raw.publish_with(subject, "_INBOX.answer", "", body.as_bytes()).await.unwrap();
    loop {
        let message = raw.message().await;
        if message.subject == "_INBOX.answer" {
            return serde_json::from_slice(&message.payload).unwrap_or_default();
        }
    }
}

/// What a stream holds, and its consumers; not what its owner wrote there itself.
async fn content(raw: &mut Raw, stream: &str) -> Value {
    let question = json!({"subjects_filter": ">"}).to_string();
    let info = ask(raw, &format!("$JS.API.STREAM.INFO.{stream}"), &question).await;
    assert!(info["error"].is_null() || info["error"]["code"] == 404, "{info}");
    let subjects = info["state"]["subjects"].as_object().cloned().unwrap_or_default();
    // Not what solewriter records meanwhile.
    let ours = |subject: &str| {
        let run = subject.strip_prefix("audit.events.solewriter.");
        subject == "audit.services.mine.run" || run.is_some_and(|run| run != "run" && run != "x")
    };
    let theirs: Vec<_> = subjects.iter().filter(|(subject, _)| !ours(subject)).collect();
    json!([info["config"]["name"], theirs, info["state"]["consumer_count"]])
}

async fn both(audit: &mut Raw) -> Value {
    json!([content(audit, "EVENTS").await, content(audit, "SERVICES").await])
}
