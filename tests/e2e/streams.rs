//! Streams, their consumers and object stores: who uses what a policy says, and nobody else does.

use std::collections::BTreeSet;
use std::process::Command;

use async_nats::jetstream::consumer::{PullConsumer, PushConsumer, pull, push};
use async_nats::jetstream::{self, AckKind, object_store, stream};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::clients::python;
use super::deployment::{DEADLINE, Deployment, Prepared, Violation, eventually};
use super::operations;
use super::raw::Raw;

const EVENTS: &str = r#"
[stream.EVENTS]
subjects = ["events.>"]

[stream.EVENTS.consumer.shipping]
filter = ["events.orders.>"]

[stream.EVENTS.consumer.billing]
filter = ["events.orders.>"]

[store.invoices]

[service.invoices]
nkeys = ["{invoices}"]
owns = ["store:invoices"]

[service.archive]
nkeys = ["{archive}"]
reads = ["store:invoices"]

[service.orders]
nkeys = ["{orders}"]
publishes = ["events.orders.>"]

[service.shipping]
nkeys = ["{shipping}"]
consumes = ["EVENTS/shipping"]

[service.billing]
nkeys = ["{billing}"]
consumes = ["EVENTS/billing"]

[service.history]
nkeys = ["{history}"]
replays = ["EVENTS/events.orders.>"]

[service.everything]
nkeys = ["{everything}"]
replays = ["EVENTS"]
"#;

/// A deployment whose services reach the stream; the admin made it, with its consumers.
async fn start(version: &'static str, more: &str) -> Deployment {
    let deployment = Prepared::new()
        .with_server("system_account: SYS", &format!("{more}\nsystem_account: SYS"))
        .start(version, EVENTS)
        .await;
    let admin = deployment.admin().await;
    let config = stream::Config {
        name: "EVENTS".to_owned(),
        subjects: vec!["events.>".to_owned()],
        storage: stream::StorageType::Memory,
        allow_direct: true,
        ..Default::default()
    };
    let events = admin.create_stream(config).await.unwrap();
    for name in ["shipping", "billing"] {
        let config = pull::Config {
            durable_name: Some(name.to_owned()),
            filter_subject: "events.orders.>".to_owned(),
            ack_wait: DEADLINE,
            ..Default::default()
        };
        events.create_consumer(config).await.unwrap();
    }
    deployment
}

/// Publishes four messages as the service `orders`; the stream acknowledges each.
async fn publish(deployment: &Deployment) {
    let (client, _) =
        operations::connect(deployment.url(), &deployment.service("orders")).await.unwrap();
    let context = jetstream::new(client);
    for text in ["1", "2", "3", "4"] {
        context.publish("events.orders.new", text.into()).await.unwrap().await.unwrap();
    }
}

/// What a consumer has done, as the admin sees it; without times.
async fn state(deployment: &Deployment, consumer: &str) -> Value {
    let stream = deployment.admin().await.get_stream("EVENTS").await.unwrap();
    let info = stream.consumer_info(consumer).await.unwrap();
    json!({"config": serde_json::to_value(&info.config).unwrap(), "delivered": info.delivered.stream_sequence,
        "acknowledged": info.ack_floor.stream_sequence, "pending": info.num_ack_pending,
        "left": info.num_pending})
}

async fn is_done(deployment: &Deployment, consumer: &str) {
    eventually("every message to be acknowledged", async || {
        let state = state(deployment, consumer).await;
        (state["pending"] == 0 && state["left"] == 0 && state["acknowledged"] == 4).then_some(())
    })
    .await;
}

/// As `tests/clients/py/consume.py` does.
async fn consume(deployment: &Deployment, acks: &str) {
    let shipping = deployment.service("shipping");
    let (client, mut refused) = operations::connect(deployment.url(), &shipping).await.unwrap();
    let context = jetstream::new(client);
    let consumer: PullConsumer =
        context.get_consumer_from_stream("shipping", "EVENTS").await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let mut came = Vec::new();
    while came.len() < 5 {
        let next = tokio::time::timeout(DEADLINE, messages.next()).await;
        let message = next.expect("a message in time").unwrap().unwrap();
        assert!(message.reply.as_ref().unwrap().starts_with(acks), "{:?}", message.reply);
        let text = String::from_utf8(message.payload.to_vec()).unwrap();
        match text.as_str() {
            "1" => message.double_ack().await.unwrap(),
            "2" if !came.contains(&text) => message.ack_with(AckKind::Nak(None)).await.unwrap(),
            "2" => message.ack().await.unwrap(),
            "3" => {
                message.ack_with(AckKind::Progress).await.unwrap();
                message.double_ack().await.unwrap();
            }
            _ => message.ack_with(AckKind::Term).await.unwrap(),
        }
        came.push(text);
    }
    came.sort();
    assert_eq!(came, ["1", "2", "2", "3", "4"]);
    is_done(deployment, "shipping").await;
    assert!(refused.try_recv().is_err());
}

async fn consume_in_python(deployment: &Deployment) {
    let billing = deployment.service("billing");
    let url = deployment.url().to_owned();
    let output = tokio::task::spawn_blocking(move || {
        let (folder, python) = python();
        Command::new(python)
            .arg(folder.join("consume.py"))
            .args(["--server", &url, "--inbox", "_INBOX.billing", "--seed-file"])
            .arg(&billing.seed_file)
            .args(["EVENTS", "billing"])
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let came: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert_eq!(came, json!({"consumer": "billing", "came": ["1", "2", "2", "3", "4"]}));
    is_done(deployment, "billing").await;
}

on_every_server!(who_consumes_takes_and_acknowledges_without_a_violation);
async fn who_consumes_takes_and_acknowledges_without_a_violation(version: &'static str) {
    // Acknowledgements of the newer form exist from 2.14 on, and only where this is set.
    let newer = "feature_flags { js_ack_fc_v2: true }";
    let newer = ["2.14.6", "2.15.1"].contains(&version).then_some((newer, "$JS.ACK._."));
    for (more, acks) in [Some(("", "$JS.ACK.EVENTS.")), newer].into_iter().flatten() {
        let deployment = start(version, more).await;
        publish(&deployment).await;
        consume(&deployment, acks).await;
        consume_in_python(&deployment).await;
        assert_eq!(deployment.violations(), [], "{more}");
    }
}

on_every_server!(nobody_touches_anothers_consumer);
async fn nobody_touches_anothers_consumer(version: &'static str) {
    let deployment = start(version, "").await;
    publish(&deployment).await;
    let mut billing = Raw::login(&deployment, &deployment.service("billing")).await;
    billing.subscribe("_INBOX.billing.>").await.unwrap();
    let next = "$JS.API.CONSUMER.MSG.NEXT.EVENTS.billing";
    billing.publish_with(next, "_INBOX.billing.1", "", b"1").await.unwrap();
    let taken = billing.message().await;
    assert_eq!(taken.payload, b"1");
    let ack = taken.reply.unwrap();
    let before = state(&deployment, "billing").await;
    assert_eq!(before["pending"], 1);

    let mut shipping = Raw::login(&deployment, &deployment.service("shipping")).await;
    let api = |rest: &str| format!("$JS.API.{rest}");
    let others = [
        ack.clone(),
        api("CONSUMER.MSG.NEXT.EVENTS.billing"),
        api("CONSUMER.INFO.EVENTS.billing"),
        api("CONSUMER.DELETE.EVENTS.billing"),
        api("CONSUMER.PAUSE.EVENTS.billing"),
        api("CONSUMER.RESET.EVENTS.billing"),
        api("CONSUMER.UNPIN.EVENTS.billing"),
        api("CONSUMER.CREATE.EVENTS"),
        api("CONSUMER.CREATE.EVENTS.billing.events.orders.>"),
        api("CONSUMER.DURABLE.CREATE.EVENTS.billing"),
        // Its own, too: what uses a consumer does not make or change it.
        api("CONSUMER.CREATE.EVENTS.shipping.events.orders.>"),
        api("CONSUMER.DURABLE.CREATE.EVENTS.shipping"),
        api("CONSUMER.DELETE.EVENTS.shipping"),
        api("STREAM.INFO.EVENTS"),
        api("STREAM.PURGE.EVENTS"),
        api("STREAM.MSG.GET.EVENTS"),
        api("STREAM.MSG.DELETE.EVENTS"),
        api("DIRECT.GET.EVENTS.events.orders.new"),
        "events.orders.new".to_owned(),
    ];
    for subject in &others {
        let said = shipping.publish(subject, b"").await;
        assert_eq!(said, Err(format!("Permissions Violation for Publish to \"{subject}\"")));
    }
    let refused: Vec<Violation> = others
        .iter()
        .map(|subject| Violation {
            service: "shipping".to_owned(),
            act: format!("publish {subject}"),
        })
        .collect();
    assert_eq!(deployment.violations(), refused);
    assert_eq!(state(&deployment, "billing").await, before);

    // The same acknowledgement counts when it is the consumer's own service that gives it.
    billing.publish(&ack, b"").await.unwrap();
    eventually("the message to be acknowledged", async || {
        (state(&deployment, "billing").await["pending"] == 0).then_some(())
    })
    .await;
}

/// Three ways of async-nats, the second with so many bytes that the server asks for flow control.
async fn replay(deployment: &Deployment, service: &str, filter: &str, count: usize) {
    let who = deployment.service(service);
    let (client, mut refused) = operations::connect(deployment.url(), &who).await.unwrap();
    let context = jetstream::new(client.clone());
    let stream = context.get_stream("EVENTS").await.unwrap();
    let name = || Some(client.new_inbox().replace('.', "-"));
    let filter_subject = filter.to_owned();
    let config = pull::OrderedConfig {
        name: name(),
        filter_subject: filter_subject.clone(),
        ..Default::default()
    };
    let mut ordered = stream.create_consumer(config).await.unwrap().messages().await.unwrap();
    let config = push::OrderedConfig {
        name: name(),
        deliver_subject: client.new_inbox(),
        filter_subject: filter_subject.clone(),
        ..Default::default()
    };
    let mut pushed = stream.create_consumer(config).await.unwrap().messages().await.unwrap();
    let config = pull::Config { name: name(), filter_subject, ..Default::default() };
    let mut fetched = stream.create_consumer(config).await.unwrap().messages().await.unwrap();
    for number in 0..count {
        let next = tokio::time::timeout(DEADLINE, ordered.next()).await;
        let one = next.expect("the ordered consumer's in time").unwrap().unwrap();
        let next = tokio::time::timeout(DEADLINE, pushed.next()).await;
        let two = next.expect("the push consumer's in time").unwrap().unwrap();
        let next = tokio::time::timeout(DEADLINE, fetched.next()).await;
        let three = next.expect("the ephemeral consumer's in time").unwrap().unwrap();
        assert_eq!((&one.payload, &one.payload), (&two.payload, &three.payload), "{number}");
        three.double_ack().await.unwrap();
    }
    let last = stream.direct_get_last_for_subject("events.orders.new").await.unwrap();
    assert_eq!(last.payload, "4");
    assert!(refused.try_recv().is_err(), "{service}");
}

async fn replay_in_python(deployment: &Deployment) {
    let history = deployment.service("history");
    let url = deployment.url().to_owned();
    let output = tokio::task::spawn_blocking(move || {
        let (folder, python) = python();
        Command::new(python)
            .arg(folder.join("replay.py"))
            .args(["--server", &url, "--inbox", "_INBOX.history", "--seed-file"])
            .arg(&history.seed_file)
            .args(["EVENTS", "events.orders.>", "4"])
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let came: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    let all = ["1", "2", "3", "4"];
    assert_eq!(came, json!({"ordered": all, "fetched": all, "last": "4"}));
}

on_every_server!(who_replays_reads_its_part_without_a_violation);
async fn who_replays_reads_its_part_without_a_violation(version: &'static str) {
    const LARGE: usize = 300;
    let newer = "feature_flags { js_ack_fc_v2: true }";
    let newer = ["2.14.6", "2.15.1"].contains(&version).then_some(newer);
    for more in [Some(""), newer].into_iter().flatten() {
        let deployment = start(version, more).await;
        publish(&deployment).await;
        // This library cannot read the newer form of what its ordered consumers are asked.
        if more.is_empty() {
            replay_in_python(&deployment).await;
        }
        let admin = deployment.admin().await;
        admin.publish("events.bills.new", "no order".into()).await.unwrap().await.unwrap();
        replay(&deployment, "history", "events.orders.>", 4).await;
        for _ in 0..LARGE {
            let payload = vec![b'x'; 20_000].into();
            admin.publish("events.bills.large", payload).await.unwrap().await.unwrap();
        }
        replay(&deployment, "everything", "events.>", 5 + LARGE).await;
        assert_eq!(deployment.violations(), [], "{more}");
    }
}

on_every_server!(who_replays_touches_no_declared_consumer_and_reads_nothing_else);
async fn who_replays_touches_no_declared_consumer_and_reads_nothing_else(version: &'static str) {
    let deployment = start(version, "").await;
    publish(&deployment).await;
    let admin = deployment.admin().await;
    admin.publish("events.bills.new", "no order".into()).await.unwrap().await.unwrap();
    let mut billing = Raw::login(&deployment, &deployment.service("billing")).await;
    billing.subscribe("_INBOX.billing.>").await.unwrap();
    let next = "$JS.API.CONSUMER.MSG.NEXT.EVENTS.billing";
    billing.publish_with(next, "_INBOX.billing.1", "", b"1").await.unwrap();
    let ack = billing.message().await.reply.unwrap();
    let before = state(&deployment, "billing").await;
    assert_eq!(before["pending"], 1);

    let api = |rest: &str| format!("$JS.API.{rest}");
    // Of any service that replays, of a part or of all.
    let consumers = [
        ack.clone(),
        ack.replace("$JS.ACK.", "$JS.ACK._.Vb6IuEH0."),
        api("CONSUMER.MSG.NEXT.EVENTS.billing"),
        api("CONSUMER.INFO.EVENTS.billing"),
        api("CONSUMER.DELETE.EVENTS.billing"),
        api("CONSUMER.PAUSE.EVENTS.billing"),
        api("CONSUMER.RESET.EVENTS.billing"),
        api("CONSUMER.UNPIN.EVENTS.billing"),
        api("CONSUMER.CREATE.EVENTS"),
        api("CONSUMER.CREATE.EVENTS.billing"),
        api("CONSUMER.CREATE.EVENTS.billing.events.orders.>"),
        api("CONSUMER.DURABLE.CREATE.EVENTS.billing"),
        api("CONSUMER.NAMES.EVENTS"),
        api("STREAM.PURGE.EVENTS"),
        api("STREAM.MSG.DELETE.EVENTS"),
        "events.orders.new".to_owned(),
    ];
    let beyond = [
        api("CONSUMER.CREATE.EVENTS.mine"),
        api("CONSUMER.CREATE.EVENTS.mine.>"),
        api("CONSUMER.CREATE.EVENTS.mine.events.>"),
        api("CONSUMER.CREATE.EVENTS.mine.events.bills.new"),
        api("STREAM.MSG.GET.EVENTS"),
        api("DIRECT.GET.EVENTS"),
        api("DIRECT.GET.EVENTS.events.bills.new"),
        api("DIRECT.GET.EVENTS.events.>"),
    ];
    for (service, more) in [("history", &beyond[..]), ("everything", &[])] {
        let mut raw = Raw::login(&deployment, &deployment.service(service)).await;
        for subject in consumers.iter().chain(more) {
            let said = raw.publish(subject, b"").await;
            assert_eq!(said, Err(format!("Permissions Violation for Publish to \"{subject}\"")));
        }
        // What the subject says, JetStream holds against the body.
        raw.subscribe(&format!("_INBOX.{service}.>")).await.unwrap();
        let subject = "$JS.API.CONSUMER.CREATE.EVENTS.mine.events.orders.>";
        for (name, filters) in [
            ("billing", json!({"filter_subject": "events.orders.>"})),
            ("mine", json!({"filter_subject": "events.>"})),
            ("mine", json!({"filter_subjects": ["events.orders.>", "events.bills.>"]})),
        ] {
            let mut config = json!({"name": name, "durable_name": name, "ack_policy": "explicit",
                "max_deliver": 1});
            config.as_object_mut().unwrap().extend(filters.as_object().unwrap().clone());
            let body = json!({"stream_name": "EVENTS", "config": config}).to_string();
            let reply = format!("_INBOX.{service}.made");
            raw.publish_with(subject, &reply, "", body.as_bytes()).await.unwrap();
            let answer: Value = serde_json::from_slice(&raw.message().await.payload).unwrap();
            assert!(answer["error"]["err_code"].is_number(), "{service} {body}: {answer}");
        }
    }
    assert_eq!(state(&deployment, "billing").await, before);
    let consumers: Vec<String> = admin
        .get_stream("EVENTS")
        .await
        .unwrap()
        .consumer_names()
        .map(Result::unwrap)
        .collect()
        .await;
    assert!(!consumers.iter().any(|name| name == "mine"), "{consumers:?}");

    // A durable consumer that no policy declares is open to them, and `doctor` says so.
    let config = pull::Config { durable_name: Some("byhand".to_owned()), ..Default::default() };
    admin.create_consumer_on_stream(config, "EVENTS").await.unwrap();
    let mut history = Raw::login(&deployment, &deployment.service("history")).await;
    history.publish("$JS.API.CONSUMER.INFO.EVENTS.byhand", b"").await.unwrap();
    let report = deployment.tool(&["doctor", "--format", "json"]).await.json();
    let findings = report["findings"].as_array().unwrap();
    let said = findings.iter().find(|f| f["check"] == "consumers" && f["outcome"] == "warning");
    assert_eq!(
        said.expect("a warning")["found"],
        "EVENTS: byhand is not declared, so services that replay the stream can change, use and \
         delete it: everything, history"
    );
}

on_every_server!(a_replay_ends_with_the_right_to_it);
async fn a_replay_ends_with_the_right_to_it(version: &'static str) {
    let mut deployment = start(version, "").await;
    for (name, filter) in [("history", "events.orders.>"), ("everything", "events.>")] {
        let config = json!({"name": name, "deliver_subject": format!("_INBOX.{name}.replay"),
            "filter_subject": filter, "ack_policy": "none",
            "inactive_threshold": 3_600_000_000_000_u64});
        let body = json!({"stream_name": "EVENTS", "config": config}).to_string();
        let mut raw = Raw::login(&deployment, &deployment.service(name)).await;
        let subject = format!("$JS.API.CONSUMER.CREATE.EVENTS.{name}.{filter}");
        raw.publish(&subject, body.as_bytes()).await.unwrap();
    }
    let stream = deployment.admin().await.get_stream("EVENTS").await.unwrap();
    let consumers = async || {
        let names: Vec<_> = stream.consumer_names().collect().await;
        let mut names: Vec<String> = names.into_iter().map(Result::unwrap).collect();
        names.sort();
        names
    };
    eventually("both replays", async || (consumers().await.len() == 4).then_some(())).await;
    // The one has nothing of it any more, the other a part.
    let narrowed = EVENTS
        .replace("replays = [\"EVENTS/events.orders.>\"]", "")
        .replace("replays = [\"EVENTS\"]", "replays = [\"EVENTS/events.orders.>\"]");
    deployment.write_policy(&narrowed);
    for _ in 0..2 {
        let deleted = deployment.instances[0].says("consumer_deleted").await;
        assert_eq!((&deleted["stream"], &deleted["cause"]), (&json!("EVENTS"), &json!("lost")));
    }
    eventually("both to end", async || {
        (consumers().await == ["billing", "shipping"]).then_some(())
    })
    .await;
}

const PUSHED: &str = r#"
[stream.EVENTS]
subjects = ["events.>"]

[stream.EVENTS.consumer.alerts]
push = true
heartbeat = "1s"
flow_control = true

[stream.EVENTS.consumer.mail]
push = true
group = "mailers"

[service.orders]
nkeys = ["{orders}"]
publishes = ["events.orders.>"]

[service.shipping]
nkeys = ["{shipping}"]
consumes = ["EVENTS/alerts", "EVENTS/mail"]

[service.billing]
nkeys = ["{billing}"]
publishes = ["bills.>"]

[service.history]
nkeys = ["{history}"]
replays = ["EVENTS"]
answers = ["asked"]
"#;

/// Takes four messages of a push consumer, as a client that a group may share.
async fn take(client: &async_nats::Client, consumer: &str) -> Vec<push::Messages> {
    let context = jetstream::new(client.clone());
    let pushed = async || -> PushConsumer {
        context.get_consumer_from_stream(consumer, "EVENTS").await.unwrap()
    };
    let mut all = vec![pushed().await.messages().await.unwrap()];
    if consumer == "mail" {
        all.push(pushed().await.messages().await.unwrap());
    }
    all
}

/// Waits for so many messages, whichever of these takes them, and acknowledges each.
async fn took(all: &mut [push::Messages], count: usize) {
    for _ in 0..count {
        let next = futures_util::future::select_all(all.iter_mut().map(|messages| messages.next()));
        let (message, ..) = tokio::time::timeout(DEADLINE, next).await.expect("a message in time");
        message.unwrap().unwrap().ack().await.unwrap();
    }
}

on_every_server!(what_a_consumer_sends_goes_to_who_consumes_it_alone);
async fn what_a_consumer_sends_goes_to_who_consumes_it_alone(version: &'static str) {
    let deployment = Prepared::new().without_buckets().start(version, PUSHED).await;
    deployment.apply(&[]).await;
    let config = async |consumer: &str| {
        let context = deployment.admin().await;
        let found: PushConsumer =
            context.get_consumer_from_stream(consumer, "EVENTS").await.unwrap();
        (found.cached_info().config.deliver_subject.clone().unwrap(), found.cached_info().clone())
    };
    let (alerts, _) = config("alerts").await;
    let (mail, _) = config("mail").await;
    assert!(alerts.starts_with("_INBOX.$push.EVENTS.alerts."), "{alerts}");
    let (shipping, mut refused) =
        operations::connect(deployment.url(), &deployment.service("shipping")).await.unwrap();
    let (mut of_alerts, mut of_mail) =
        (take(&shipping, "alerts").await, take(&shipping, "mail").await);
    publish(&deployment).await;
    took(&mut of_alerts, 4).await;
    // One message for each, whoever of the group takes it.
    took(&mut of_mail, 4).await;
    is_done(&deployment, "alerts").await;
    is_done(&deployment, "mail").await;
    assert!(refused.try_recv().is_err());
    assert_eq!(deployment.violations(), [] as [Violation; 0]);

    // Who knows everything about it, and may replay and answer, hears nothing of it.
    for service in ["history", "billing"] {
        let mut raw = Raw::login(&deployment, &deployment.service(service)).await;
        for subject in [
            alerts.as_str(),
            "_INBOX.$push.EVENTS.alerts.>",
            "_INBOX.$push.>",
            "_INBOX.>",
            mail.as_str(),
        ] {
            let said = raw.subscribe(subject).await.map(|_| ());
            let error = format!("Permissions Violation for Subscription to \"{subject}\"");
            assert_eq!(said, Err(error), "{service}");
        }
        let error = "Permissions Violation for Subscription to \"{}\" using queue \"mailers\"";
        let said = raw.subscribe_in(&mail, "mailers").await;
        assert_eq!(said, Err(error.replace("{}", &mail)), "{service}");
        for subject in ["$JS.API.CONSUMER.INFO.EVENTS.alerts", "$JS.FC.EVENTS.alerts.1"] {
            let said = raw.publish(subject, b"").await;
            let error = format!("Permissions Violation for Publish to \"{subject}\"");
            assert_eq!(said, Err(error), "{service}");
        }
    }
    eventually("the refused subscriptions in the log", async || {
        let violations = deployment.violations();
        violations.iter().any(|v| v.service == "billing" && v.act.contains(&alerts)).then_some(())
    })
    .await;

    // The consumer moves, with its position; who had it hears no more, and knows no more.
    deployment.write_policy(
        &PUSHED
            .replace(
                "consumes = [\"EVENTS/alerts\", \"EVENTS/mail\"]",
                "consumes = [\"EVENTS/mail\"]",
            )
            .replace("publishes = [\"bills.>\"]", "consumes = [\"EVENTS/alerts\"]"),
    );
    let (billing, _) = eventually("billing to be let in as who consumes it", async || {
        let billing = operations::connect(deployment.url(), &deployment.service("billing")).await;
        let (client, refused) = billing.ok()?;
        let asked = client.request("$JS.API.CONSUMER.INFO.EVENTS.alerts", "".into());
        tokio::time::timeout(DEADLINE / 10, asked).await.ok()?.ok()?;
        Some((client, refused))
    })
    .await;
    let mut raw = Raw::login(&deployment, &deployment.service("shipping")).await;
    let error = format!("Permissions Violation for Subscription to \"{alerts}\"");
    assert_eq!(raw.subscribe(&alerts).await.map(|_| ()), Err(error));
    let mut of_billing = take(&billing, "alerts").await;
    publish(&deployment).await;
    took(&mut of_billing, 4).await;
    let planned = deployment.tool(&["state", "plan"]).await;
    assert!(
        planned.out.contains("others may know where it delivers, and could send there"),
        "{planned:?}"
    );
    assert!(!planned.out.contains(&alerts), "no secret is shown: {planned:?}");
    let refused = deployment.tool(&["state", "apply", "--yes"]).await;
    let said = "error: consumer EVENTS/alerts: somebody listens to it, and nats-server changes \
                where a push consumer delivers only while nobody does: stop its clients, apply \
                again, and start them\n";
    assert_eq!((refused.code, refused.err.contains(said)), (1, true), "{refused:?}");
    drop(of_billing);
    eventually("the subject to change", async || {
        (deployment.tool(&["state", "apply", "--yes"]).await.code == 0).then_some(())
    })
    .await;
    let (now, info) = config("alerts").await;
    assert_ne!(now, alerts);
    assert_eq!(info.ack_floor.stream_sequence, 8, "its position stays");
    let mut of_billing = take(&billing, "alerts").await;
    publish(&deployment).await;
    took(&mut of_billing, 4).await;
    let again = deployment.tool(&["state", "plan"]).await;
    assert_eq!(again.code, 0, "{again:?}");
}

on_every_server!(a_pull_does_not_outlive_the_right_to_it);
/// Not even one whose service is back at once, on several connections that are closed one after
/// the other.
async fn a_pull_does_not_outlive_the_right_to_it(version: &'static str) {
    let deployment = start(version, "").await;
    no_pull_is_left(&deployment, EVENTS).await;
}

on_every_server!(a_pull_does_not_outlive_the_right_to_it_in_a_cluster);
async fn a_pull_does_not_outlive_the_right_to_it_in_a_cluster(version: &'static str) {
    let policy = EVENTS
        .replace("subjects = [\"events.>\"]", "subjects = [\"events.>\"]\nreplicas = 3")
        .replace("consumer.shipping]", "consumer.shipping]\nack_wait = \"1s\"");
    let prepared = Prepared::new().without_buckets();
    let mut deployment = prepared.start_cluster(version, &policy).await;
    deployment.apply(&[]).await;
    deployment.add_instance(&[]).await;
    no_pull_is_left(&deployment, &policy).await;
}

async fn no_pull_is_left(deployment: &Deployment, policy: &str) {
    let shipping = deployment.service("shipping");
    let urls = deployment.urls();
    let next = "$JS.API.CONSUMER.MSG.NEXT.EVENTS.shipping";
    let mut all = Vec::new();
    for number in 0..4 {
        let url = urls[number % urls.len()].clone();
        let mut raw = Raw::try_login(&url, &shipping.seed).await.unwrap();
        raw.subscribe("_INBOX.shipping.>").await.unwrap();
        // Without an end.
        raw.publish_with(next, &format!("_INBOX.shipping.{number}"), "", b"1").await.unwrap();
        all.push((raw, url));
    }
    let stream = deployment.admin().await.get_stream("EVENTS").await.unwrap();
    let waiting = async || stream.consumer_info("shipping").await.unwrap().num_waiting;
    eventually("the pulls", async || (waiting().await == 4).then_some(())).await;

    let has = "consumes = [\"EVENTS/shipping\"]";
    let moved =
        policy.replace(has, "calls = [\"asked\"]").replace("consumes = [\"EVENTS/billing\"]", has);
    deployment.write_policy(&moved);
    let back = async |(mut raw, url): (Raw, String)| {
        raw.closed().await;
        let mut raw = Raw::try_login(&url, &shipping.seed).await.unwrap();
        raw.subscribe("_INBOX.shipping.>").await.unwrap();
        raw
    };
    let mut all = futures_util::future::join_all(all.into_iter().map(back)).await;
    if urls.len() == 1 {
        assert_eq!(waiting().await, 0);
    }
    // In a cluster, JetStream does not see that who asked another server is gone, and sends these
    // messages to nobody, once.
    publish(deployment).await;
    let mut billing = Raw::login(deployment, &deployment.service("billing")).await;
    billing.subscribe("_INBOX.billing.>").await.unwrap();
    let mut came = BTreeSet::new();
    while came.len() < 4 {
        billing.publish_with(next, "_INBOX.billing.1", "", b"1").await.unwrap();
        let message = billing.message().await;
        billing.publish(&message.reply.unwrap(), b"").await.unwrap();
        came.insert(message.payload);
    }
    for raw in &mut all {
        raw.publish_with("asked", "", "", b"").await.unwrap();
        let heard = tokio::time::timeout(DEADLINE / 100, raw.message()).await;
        assert!(heard.is_err(), "{heard:?}");
    }
}

const PRIORITY: &str = r#"
[stream.EVENTS]
subjects = ["events.>"]

[stream.EVENTS.consumer.jobs]
priority = "pinned_client"
priority_group = "sixteen-letters-"
priority_timeout = "2m"
deliver = "by_start_sequence"
start_sequence = 3

[service.orders]
nkeys = ["{orders}"]
publishes = ["events.orders.>"]

[service.shipping]
nkeys = ["{shipping}"]
consumes = ["EVENTS/jobs"]
"#;

on_every_server!(one_client_of_a_priority_group_is_pinned_and_stays_so);
async fn one_client_of_a_priority_group_is_pinned_and_stays_so(version: &'static str) {
    if version.starts_with("2.10.") {
        return; // It knows no priority groups; `state plan` says so.
    }
    let deployment = Prepared::new().without_buckets().start(version, PRIORITY).await;
    deployment.apply(&[]).await;
    publish(&deployment).await;
    let mut raw = Raw::login(&deployment, &deployment.service("shipping")).await;
    raw.subscribe("_INBOX.shipping.>").await.unwrap();
    let next = "$JS.API.CONSUMER.MSG.NEXT.EVENTS.jobs";
    let ask = br#"{"batch":1,"group":"sixteen-letters-"}"#;
    raw.publish_with(next, "_INBOX.shipping.1", "", ask).await.unwrap();
    let first = raw.message().await;
    assert_eq!(first.payload, b"3");
    let pinned = async || {
        let client = deployment.admin().await.client();
        let asked = client.request("$JS.API.CONSUMER.INFO.EVENTS.jobs", "".into()).await;
        let info: Value = serde_json::from_slice(&asked.unwrap().payload).unwrap();
        info["priority_groups"][0]["pinned_client_id"].clone()
    };
    let id = pinned().await;
    assert!(id.is_string(), "{id}");
    // Nobody unpins it, whoever uses the consumer.
    for service in ["shipping", "orders"] {
        let mut raw = Raw::login(&deployment, &deployment.service(service)).await;
        let unpin = "$JS.API.CONSUMER.UNPIN.EVENTS.jobs";
        let said = raw.publish(unpin, br#"{"group":"sixteen-letters-"}"#).await;
        assert_eq!(said, Err(format!("Permissions Violation for Publish to \"{unpin}\"")));
    }
    assert_eq!(pinned().await, id);
    // All of it but its start is changed in place.
    let changed = PRIORITY
        .replace("pinned_client", "overflow")
        .replace("priority_timeout = \"2m\"\n", "")
        .replace("sixteen-letters-", "workers");
    for policy in [changed.as_str(), PRIORITY] {
        deployment.write_policy(policy);
        deployment.apply(&[]).await;
        assert_eq!(deployment.tool(&["state", "plan"]).await.code, 0);
    }
    deployment.write_policy(&PRIORITY.replace("start_sequence = 3", "start_sequence = 2"));
    let planned = deployment.tool(&["state", "plan"]).await;
    let line = "  ! start_sequence  3 -> 2  CANNOT BE CHANGED\n";
    assert!(planned.out.contains(line), "{planned:?}");
}

async fn create_store(deployment: &Deployment) {
    let config = object_store::Config {
        bucket: "invoices".to_owned(),
        storage: stream::StorageType::Memory,
        ..Default::default()
    };
    deployment.admin().await.create_object_store(config).await.unwrap();
}

/// The names of the objects, as the admin sees them.
async fn objects(deployment: &Deployment) -> Vec<String> {
    let store = deployment.admin().await.get_object_store("invoices").await.unwrap();
    let mut list = store.list().await.unwrap();
    let mut names = Vec::new();
    while let Some(object) = list.next().await {
        names.push(object.unwrap().name);
    }
    names
}

async fn read_object(context: &jetstream::Context, name: &str) -> usize {
    let store = context.get_object_store("invoices").await.unwrap();
    let mut content = Vec::new();
    store.get(name).await.unwrap().read_to_end(&mut content).await.unwrap();
    content.len()
}

on_every_server!(objects_are_written_by_their_owner_and_read_by_readers);
async fn objects_are_written_by_their_owner_and_read_by_readers(version: &'static str) {
    // Three hundred chunks.
    const SIZE: usize = 40_000_000;
    let deployment = start(version, "").await;
    create_store(&deployment).await;
    let connect = async |name: &str| {
        let (client, _) =
            operations::connect(deployment.url(), &deployment.service(name)).await.unwrap();
        jetstream::new(client)
    };
    let (owner, reader) = (connect("invoices").await, connect("archive").await);
    let store = owner.get_object_store("invoices").await.unwrap();
    for name in ["kept", "gone"] {
        // Twice: what was there before is purged.
        for _ in 0..2 {
            store.put(name, &mut vec![7; SIZE].as_slice()).await.unwrap();
        }
    }
    assert_eq!(read_object(&owner, "kept").await, SIZE);
    assert_eq!(read_object(&reader, "kept").await, SIZE);
    store.delete("gone").await.unwrap();
    assert_eq!(objects(&deployment).await, ["kept"]);
    let seen = reader.get_object_store("invoices").await.unwrap();
    assert_eq!(seen.list().await.unwrap().next().await.unwrap().unwrap().name, "kept");

    for (service, operations) in [("invoices", "put get list delete"), ("archive", "get list")] {
        let (url, who) = (deployment.url().to_owned(), deployment.service(service));
        let output = tokio::task::spawn_blocking(move || {
            let (folder, python) = python();
            let mut command = Command::new(python);
            command.arg(folder.join("objects.py")).args(["--server", &url, "--inbox"]);
            command.arg(format!("_INBOX.{}", who.name)).arg("--seed-file").arg(&who.seed_file);
            command.arg("invoices").args(operations.split(' ')).output().unwrap()
        })
        .await
        .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(deployment.violations(), []);
}

on_every_server!(nobody_writes_anothers_objects);
async fn nobody_writes_anothers_objects(version: &'static str) {
    let deployment = start(version, "").await;
    create_store(&deployment).await;
    let admin = deployment.admin().await;
    let store = admin.get_object_store("invoices").await.unwrap();
    store.put("kept", &mut [7; 10].as_slice()).await.unwrap();
    let before = admin.get_stream("OBJ_invoices").await.unwrap().cached_info().clone();
    let subjects = [
        "$O.invoices.C.x",
        "$O.invoices.M.a2VwdA==",
        "$JS.API.STREAM.PURGE.OBJ_invoices",
        "$JS.API.STREAM.UPDATE.OBJ_invoices",
        "$JS.API.STREAM.DELETE.OBJ_invoices",
        "$JS.API.STREAM.MSG.DELETE.OBJ_invoices",
    ];
    for service in ["archive", "shipping"] {
        let mut raw = Raw::login(&deployment, &deployment.service(service)).await;
        for subject in subjects {
            let said = raw.publish(subject, b"").await;
            assert_eq!(said, Err(format!("Permissions Violation for Publish to \"{subject}\"")));
        }
    }
    // Not even the owner seals it, and who has no store asks nothing of the account.
    let mut owner = Raw::login(&deployment, &deployment.service("invoices")).await;
    assert!(owner.publish("$JS.API.STREAM.UPDATE.OBJ_invoices", b"").await.is_err());
    let mut shipping = Raw::login(&deployment, &deployment.service("shipping")).await;
    for subject in ["$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.OBJ_invoices"] {
        assert!(shipping.publish(subject, b"").await.is_err(), "{subject}");
    }
    let after = admin.get_stream("OBJ_invoices").await.unwrap().cached_info().clone();
    assert_eq!(after.state, before.state);
    assert_eq!(after.config, before.config);
    // The owner's put is stored: the subjects above are those that write.
    owner.publish("$O.invoices.C.x", b"mine").await.unwrap();
    eventually("the owner's chunk to be stored", async || {
        let stream = admin.get_stream("OBJ_invoices").await.unwrap();
        (stream.cached_info().state.messages == before.state.messages + 1).then_some(())
    })
    .await;
}

on_every_server!(a_watch_of_a_store_ends_with_the_right_to_read_it);
/// Its consumer would go on delivering to an inbox that its client still may subscribe to.
async fn a_watch_of_a_store_ends_with_the_right_to_read_it(version: &'static str) {
    let mut deployment = start(version, "").await;
    create_store(&deployment).await;
    for name in ["archive", "invoices"] {
        let config = json!({"name": name, "deliver_subject": format!("_INBOX.{name}.watch"),
            "ack_policy": "none", "inactive_threshold": 3_600_000_000_000_u64});
        let body = json!({"stream_name": "OBJ_invoices", "config": config}).to_string();
        let mut raw = Raw::login(&deployment, &deployment.service(name)).await;
        raw.publish("$JS.API.CONSUMER.CREATE.OBJ_invoices", body.as_bytes()).await.unwrap();
    }
    let stream = deployment.admin().await.get_stream("OBJ_invoices").await.unwrap();
    let consumers = async || {
        let names: Vec<_> = stream.consumer_names().collect().await;
        let mut names: Vec<String> = names.into_iter().map(Result::unwrap).collect();
        names.sort();
        names
    };
    eventually("both watches", async || (consumers().await.len() == 2).then_some(())).await;
    deployment.write_policy(&EVENTS.replace("reads = [\"store:invoices\"]", ""));
    let deleted = deployment.instances[0].says("consumer_deleted").await;
    let seen = (&deleted["stream"], &deleted["consumer"], &deleted["cause"]);
    assert_eq!(seen, (&json!("OBJ_invoices"), &json!("archive"), &json!("lost")), "{deleted}");
    eventually("the reader's to end", async || (consumers().await == ["invoices"]).then_some(()))
        .await;
}
