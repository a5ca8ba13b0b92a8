//! Plain subjects: requests and their answers, events, inboxes; and what nobody is granted.

use futures_util::StreamExt;
use serde_json::{Value, json};

use super::clients::Library;
use super::deployment::{Deployment, Violation};
use super::operations;
use super::raw::Raw;
use super::script::Script;

const QUOTES: &str = r#"
[service.quotes]
nkeys = ["{quotes}"]
answers = ["svc.quotes.>"]

[service.shop]
nkeys = ["{shop}"]
calls = ["svc.quotes.price"]
"#;

/// What the server says to whoever publishes what it may not.
fn no_publish(subject: &str) -> Result<(), String> {
    Err(format!("Permissions Violation for Publish to \"{subject}\""))
}

fn no_subscription(subject: &str) -> Result<u64, String> {
    Err(format!("Permissions Violation for Subscription to \"{subject}\""))
}

fn violation(service: &str, act: &str) -> Violation {
    Violation { service: service.to_owned(), act: act.to_owned() }
}

/// Subscribes to requests as the service `quotes`, and echoes each, wherever its reply is to go.
async fn answer_requests(deployment: &Deployment) -> async_nats::Client {
    let service = deployment.service("quotes");
    let (client, _) = operations::connect(deployment.url(), &service).await.unwrap();
    let mut requests = client.subscribe("svc.quotes.>").await.unwrap();
    client.flush().await.unwrap();
    let answering = client.clone();
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let text = format!("re: {}", String::from_utf8_lossy(&request.payload));
            if let Some(reply) = request.reply {
                answering.publish(reply, text.into()).await.unwrap();
            }
        }
    });
    client
}

on_every_server!(a_callers_requests_are_answered_where_it_may_call);
async fn a_callers_requests_are_answered_where_it_may_call(version: &'static str) {
    let deployment = Deployment::start(version, QUOTES).await;
    let _quotes = answer_requests(&deployment).await;
    let request = |subject: &str| json!({"op": "request", "subject": subject, "value": "chair", "timeout": 5});
    for library in Library::ALL {
        Script::on("none")
            .gives(request("svc.quotes.price"), json!({"value": "re: chair"}))
            .refused(request("svc.quotes.discount"), "svc.quotes.discount")
            .refused(request("svc.quotes.price.of"), "svc.quotes.price.of")
            .refused(request("svc.other"), "svc.other")
            .refused_to_subscribe(
                json!({"op": "subscribe", "subject": "svc.quotes.price"}),
                "svc.quotes.price",
            )
            .gives(request("svc.quotes.price"), json!({"value": "re: chair"}))
            .run(library, &deployment, &deployment.service("shop"))
            .await;
    }
}

on_every_server!(who_answers_publishes_to_inboxes_alone);
async fn who_answers_publishes_to_inboxes_alone(version: &'static str) {
    let deployment = Deployment::start(version, QUOTES).await;
    let mut quotes = Raw::login(&deployment, &deployment.service("quotes")).await;
    for subject in ["svc.quotes.price", "svc.shop", "events.x", "$KV.orders.a", "_INBOX"] {
        assert_eq!(quotes.publish(subject, b"").await, no_publish(subject));
    }
    let mut shop = Raw::login(&deployment, &deployment.service("shop")).await;
    shop.subscribe("_INBOX.shop.>").await.unwrap();
    quotes.publish("_INBOX.shop.1", b"here").await.unwrap();
    assert_eq!(shop.message().await.payload, b"here");
}

on_every_server!(nobody_is_made_to_answer_outside_inboxes);
/// A requester chooses the subject of the reply; the one who answers must not be made to write
/// where the requester wants.
async fn nobody_is_made_to_answer_outside_inboxes(version: &'static str) {
    let deployment = Deployment::start(version, QUOTES).await;
    let _quotes = answer_requests(&deployment).await;
    let mut shop = Raw::login(&deployment, &deployment.service("shop")).await;
    shop.subscribe("_INBOX.shop.>").await.unwrap();
    for reply in ["events.secret", "$KV.orders.a", "svc.quotes.price", "_INBOX.shop.1"] {
        shop.publish_with("svc.quotes.price", reply, "", b"x").await.unwrap();
    }
    // The answers come in order, so the last shows that the others have been tried.
    assert_eq!(shop.message().await.payload, b"re: x");
    let refused = ["publish events.secret", "publish $KV.orders.a", "publish svc.quotes.price"];
    assert_eq!(deployment.violations(), refused.map(|act| violation("quotes", act)));
}

on_every_server!(inboxes_are_private);
async fn inboxes_are_private(version: &'static str) {
    let deployment = Deployment::start(version, QUOTES).await;
    let mut shop = Raw::login(&deployment, &deployment.service("shop")).await;
    let others = [
        "_INBOX.quotes.>",
        "_INBOX.quotes.x",
        "_INBOX.>",
        "_INBOX.*",
        "_INBOX.*.>",
        "_INBOX.*.x",
        "_INBOX.shop",
        "_INBOX.shopkeeper.x",
        "_INBOX_shop.x",
        "*.shop.>",
        ">",
    ];
    for subject in others {
        assert_eq!(shop.subscribe(subject).await, no_subscription(subject));
    }
    assert_eq!(shop.subscribe("_INBOX.shop.>").await.map(drop), Ok(()));
    assert_eq!(shop.subscribe("_INBOX.shop.mux.*").await.map(drop), Ok(()));
    let expected = others.map(|subject| violation("shop", &format!("subscribe {subject}")));
    assert_eq!(deployment.violations(), expected);
}

const EVENTS: &str = r#"
[service.source]
nkeys = ["{source}"]
publishes = ["events.>"]

[service.listener]
nkeys = ["{listener}"]
subscribes = ["events.orders.>", "news"]

[service.starred]
nkeys = ["{starred}"]
subscribes = ["events.*"]
"#;

on_every_server!(events_go_from_who_publishes_to_who_subscribes);
async fn events_go_from_who_publishes_to_who_subscribes(version: &'static str) {
    let deployment = Deployment::start(version, EVENTS).await;
    let publish =
        |subject: &str| json!({"op": "publish", "subject": subject, "value": "from a library"});
    let subscribe = |subject: &str| json!({"op": "subscribe", "subject": subject});
    let mut listener = Raw::login(&deployment, &deployment.service("listener")).await;
    listener.subscribe("events.orders.>").await.unwrap();
    for library in Library::ALL {
        let subject = format!("events.orders.{}", library.word());
        Script::on("none")
            .gives(publish(&subject), Value::Null)
            .gives(publish("events.billing"), Value::Null)
            .refused(publish("news"), "news")
            .refused(publish("events"), "events")
            .refused_to_subscribe(subscribe("events.orders.>"), "events.orders.>")
            .run(library, &deployment, &deployment.service("source"))
            .await;
        let message = listener.message().await;
        assert_eq!(
            (message.subject, message.payload),
            (subject.clone(), b"from a library".to_vec())
        );
        Script::on("none")
            .gives(subscribe(&subject), Value::Null)
            .gives(subscribe("news"), Value::Null)
            .refused_to_subscribe(subscribe("events.billing"), "events.billing")
            .refused_to_subscribe(subscribe("events.>"), "events.>")
            .refused_to_subscribe(subscribe(">"), ">")
            .refused(publish(&subject), &subject)
            .run(library, &deployment, &deployment.service("listener"))
            .await;
    }
}

on_every_server!(each_library_receives_what_it_subscribes_to);
async fn each_library_receives_what_it_subscribes_to(version: &'static str) {
    let deployment = Deployment::start(version, EVENTS).await;
    let mut source = Raw::login(&deployment, &deployment.service("source")).await;
    for library in Library::ALL {
        let subject = format!("events.orders.{}", library.word());
        let listener = deployment.service("listener");
        let script = Script::on("none")
            .gives(json!({"op": "subscribe", "subject": subject}), Value::Null)
            .gives(
                json!({"op": "receive", "subject": subject, "expect": 1}),
                json!([{"subject": subject, "value": "hello"}]),
            );
        let received = script.run(library, &deployment, &listener);
        tokio::pin!(received);
        // Until it says that it has it: only the subscriber knows when it is there.
        loop {
            source.publish(&subject, b"hello").await.unwrap();
            let pause = std::time::Duration::from_millis(20);
            if tokio::time::timeout(pause, &mut received).await.is_ok() {
                break;
            }
        }
    }
}

on_every_server!(a_star_is_one_token_however_it_is_subscribed_to);
/// nats-server compares a subscription with `events.*` as if it were a subject, and lets
/// `events.>` pass; what goes beyond `events.*` is denied beside it.
async fn a_star_is_one_token_however_it_is_subscribed_to(version: &'static str) {
    let deployment = Deployment::start(version, EVENTS).await;
    let mut source = Raw::login(&deployment, &deployment.service("source")).await;
    let mut starred = Raw::login(&deployment, &deployment.service("starred")).await;
    assert_eq!(starred.subscribe("events.a.b").await, no_subscription("events.a.b"));
    assert_eq!(starred.subscribe("events.*.*").await, no_subscription("events.*.*"));
    let through = starred.subscribe("events.>").await.is_ok();
    starred.subscribe("events.*").await.unwrap();
    for subject in ["events.a.b", "events.a.b.c", "events.a"] {
        source.publish(subject, b"").await.unwrap();
    }
    // One connection's messages come in order: had the first two come, they would be there.
    let copies = if through { 2 } else { 1 };
    for _ in 0..copies {
        assert_eq!(starred.message().await.subject, "events.a");
    }
    starred.fence().await.unwrap();
    assert!(starred.delivered.is_empty(), "{:?}", starred.delivered);
}

const EVERYTHING: &str = r#"
[service.idle]
nkeys = ["{idle}"]

[service.busy]
nkeys = ["{busy}"]
owns = ["orders", "fulfilment/line.>"]
reads = ["customers", "rates/eur.>"]
publishes = ["events.busy.>"]
subscribes = ["events.others.>"]
answers = ["svc.busy.>"]
calls = ["svc.others.quote"]
"#;

/// What no rule can grant, and some that these rules are close to.
const NEVER_PUBLISHED: [&str; 43] = [
    "$JS.API.INFO",
    "$JS.API.STREAM.CREATE.KV_orders",
    "$JS.API.STREAM.CREATE.mine",
    "$JS.API.STREAM.UPDATE.KV_orders",
    "$JS.API.STREAM.DELETE.KV_orders",
    "$JS.API.STREAM.RESTORE.KV_orders",
    "$JS.API.STREAM.SNAPSHOT.KV_orders",
    "$JS.API.STREAM.MSG.DELETE.KV_orders",
    "$JS.API.STREAM.LEADER.STEPDOWN.KV_orders",
    "$JS.API.STREAM.PEER.REMOVE.KV_orders",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.PURGE.KV_fulfilment",
    "$JS.API.STREAM.PURGE.KV_customers",
    "$JS.API.STREAM.INFO.KV_others",
    "$JS.API.STREAM.MSG.GET.KV_fulfilment",
    "$JS.API.STREAM.MSG.GET.KV_rates",
    "$JS.API.DIRECT.GET.KV_rates",
    "$JS.API.DIRECT.GET.KV_rates.$KV.rates.usd.x",
    "$JS.API.CONSUMER.LIST.KV_orders",
    "$JS.API.CONSUMER.NAMES.KV_orders",
    "$JS.API.CONSUMER.DURABLE.CREATE.KV_orders.c",
    "$JS.API.CONSUMER.CREATE.KV_rates",
    "$JS.API.CONSUMER.CREATE.KV_rates.c",
    "$JS.API.CONSUMER.CREATE.KV_rates.c.$KV.rates.usd.>",
    "$JS.API.CONSUMER.CREATE.KV_rates.c.$KV.rates.>",
    "$JS.API.CONSUMER.MSG.NEXT.KV_orders.c",
    "$JS.API.CONSUMER.PAUSE.KV_orders.c",
    "$JS.ACK.KV_orders.c.1.1.1.1.0",
    "$JS.FC.KV_others.c.x",
    "$KV.customers.a",
    "$KV.fulfilment.other",
    "$KV.fulfilment.line",
    "$KV.rates.eur.x",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.USER.AUTH",
    "$SYS.REQ.USER.INFO",
    "$SRV.PING",
    "events.others.x",
    "svc.others.quote.x",
    "svc.busy.x",
    "$G.x",
    "anything",
];

const NEVER_SUBSCRIBED: [&str; 14] = [
    ">",
    "*",
    "*.>",
    "$SYS.>",
    "$SYS.REQ.USER.AUTH",
    "$JS.>",
    "$JS.API.>",
    "$JS.EVENT.ADVISORY.>",
    "$KV.>",
    "$KV.orders.>",
    "$KV.orders.a",
    "_INBOX.>",
    "events.>",
    "svc.>",
];

async fn is_refused_all(deployment: &Deployment, service: &str, publishes: &[&str]) {
    let mut client = Raw::login(deployment, &deployment.service(service)).await;
    let mut expected = Vec::new();
    for subject in publishes.iter().chain(&NEVER_PUBLISHED) {
        assert_eq!(client.publish(subject, b"{}").await, no_publish(subject), "{service}");
        expected.push(violation(service, &format!("publish {subject}")));
    }
    for subject in NEVER_SUBSCRIBED {
        assert_eq!(client.subscribe(subject).await, no_subscription(subject), "{service}");
        expected.push(violation(service, &format!("subscribe {subject}")));
    }
    assert_eq!(deployment.violations(), expected);
}

on_every_server!(nothing_is_granted_beyond_the_rules);
async fn nothing_is_granted_beyond_the_rules(version: &'static str) {
    let deployment = Deployment::start(version, EVERYTHING).await;
    deployment.create_buckets(&["orders", "fulfilment", "customers", "rates", "others"]).await;
    is_refused_all(&deployment, "busy", &[]).await;
    // They are told apart from what is granted, so the test above says something.
    let mut client = Raw::login(&deployment, &deployment.service("busy")).await;
    for subject in ["$KV.orders.a", "$KV.fulfilment.line.1", "events.busy.x", "svc.others.quote"] {
        assert_eq!(client.publish(subject, b"").await, Ok(()), "{subject}");
    }
}

on_every_server!(a_service_without_rules_can_do_nothing);
async fn a_service_without_rules_can_do_nothing(version: &'static str) {
    let deployment = Deployment::start(version, EVERYTHING).await;
    let granted =
        ["$KV.orders.a", "$KV.fulfilment.line.1", "events.busy.x", "_INBOX.idle.x", "_INBOX.x"];
    is_refused_all(&deployment, "idle", &granted).await;
    let mut client = Raw::login(&deployment, &deployment.service("idle")).await;
    assert_eq!(client.subscribe("_INBOX.idle.>").await, no_subscription("_INBOX.idle.>"));
}
