//! Who can do what with a keyspace, with each client library.

use std::sync::atomic::Ordering;

use async_nats::jetstream;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::clients::{Library, older_javascript};
use super::deployment::{DEADLINE, Deployment, Prepared, eventually};
use super::raw::Raw;
use super::script::{Script, entry};

/// Some of the keys `a`, `b` and `part.x`: all but `a`. async-nats lists no part of the keys, so it
/// watches several; nats.py filters by itself, and by what a key contains.
fn some_keys(script: Script, library: Library, found: &Value) -> Script {
    let keys = |filters: [&str; 2]| json!({"op": "keys", "at_least": 2, "filters": filters});
    let watch = json!({"op": "watch", "keys": ["b", "part.>"], "expect": 2});
    let names = json!(["b", "part.x"]);
    match library {
        Library::AsyncNats => script.gives(watch, found.clone()),
        Library::NatsPy => script.gives(keys(["b", "part."]), names),
        Library::NatsJs => script.gives(keys(["b", "part.>"]), names).gives(watch, found.clone()),
    }
}

/// Every operation of a key-value store, on a new bucket.
fn every_operation(script: Script, library: Library, bucket: &str) -> Script {
    let python_or_javascript = library != Library::AsyncNats;
    let script = script
        .gives(json!({"op": "status"}), json!({"bucket": bucket, "values": 0, "history": 10}))
        .gives(json!({"op": "put", "key": "a", "value": "1"}), json!({"revision": 1}))
        .gives(json!({"op": "create", "key": "b", "value": "1"}), json!({"revision": 2}))
        .fails(json!({"op": "create", "key": "b", "value": "2"}), "exists")
        .gives(json!({"op": "get", "key": "b"}), entry("b", "1", 2))
        .fails(json!({"op": "get", "key": "c"}), "not_found")
        .gives(
            json!({"op": "update", "key": "a", "value": "2", "revision": 1}),
            json!({"revision": 3}),
        )
        .fails(json!({"op": "update", "key": "a", "value": "3", "revision": 1}), "wrong_revision")
        .gives(json!({"op": "get", "key": "a"}), entry("a", "2", 3))
        .gives(json!({"op": "get_revision", "key": "a", "revision": 1}), entry("a", "1", 1))
        .gives(
            json!({"op": "history", "key": "a"}),
            json!([entry("a", "1", 1), entry("a", "2", 3)]),
        )
        .gives(json!({"op": "put", "key": "part.x", "value": "1"}), json!({"revision": 4}))
        .gives(json!({"op": "keys", "at_least": 3}), json!(["a", "b", "part.x"]))
        .gives(json!({"op": "watch", "keys": "a", "expect": 1}), json!([entry("a", "2", 3)]))
        .gives(
            json!({"op": "watch", "keys": "part.>", "expect": 1}),
            json!([entry("part.x", "1", 4)]),
        )
        .gives(
            json!({"op": "watch", "keys": ">", "expect": 3}),
            json!([entry("b", "1", 2), entry("a", "2", 3), entry("part.x", "1", 4)]),
        );
    some_keys(script, library, &json!([entry("b", "1", 2), entry("part.x", "1", 4)]))
        .fails(json!({"op": "delete", "key": "b", "revision": 1}), "wrong_revision")
        .gives(json!({"op": "delete", "key": "b", "revision": 2}), Value::Null)
        .fails(json!({"op": "get", "key": "b"}), "not_found")
        .gives(json!({"op": "create", "key": "b", "value": "3"}), json!({"revision": 6}))
        .gives(json!({"op": "purge", "key": "a"}), Value::Null)
        .fails(json!({"op": "get", "key": "a"}), "not_found")
        .gives(
            json!({"op": "history", "key": "a"}),
            json!([{"key": "a", "value": "", "revision": 7, "operation": "PURGE"}]),
        )
        .gives(json!({"op": "delete", "key": "part.x"}), Value::Null)
        .gives(json!({"op": "put", "key": "d", "value": "1"}), json!({"revision": 9}))
        // nats.js 3.4 purges every key that has ever been deleted, also where it is there again.
        .gives(json!({"op": "delete", "key": "b"}), Value::Null)
        .when(python_or_javascript, |s| s.gives(json!({"op": "purge_deletes"}), Value::Null))
        .gives(json!({"op": "keys", "at_least": 1}), json!(["d"]))
        .gives(json!({"op": "get", "key": "d"}), entry("d", "1", 9))
}

const OWNER: &str = r#"
[service.owner]
nkeys = ["{owner}"]
owns = ["rust", "python", "javascript"]
"#;

on_every_server!(the_owner_has_every_operation);
/// put, create, update, delete, purge, get, get by revision, watch, keys, history, open, status.
async fn the_owner_has_every_operation(version: &'static str) {
    let deployment = Deployment::start(version, OWNER).await;
    let owner = deployment.service("owner");
    for library in Library::ALL {
        let bucket = library.word();
        deployment.create_bucket(bucket, true).await;
        let script = every_operation(Script::open(bucket), library, bucket);
        script.run(library, &deployment, &owner).await;
    }
}

on_every_server!(the_owner_has_every_operation_without_direct_get);
async fn the_owner_has_every_operation_without_direct_get(version: &'static str) {
    let deployment = Deployment::start(version, OWNER).await;
    let owner = deployment.service("owner");
    for library in Library::ALL {
        let bucket = library.word();
        deployment.create_bucket(bucket, false).await;
        let script = every_operation(Script::open_without_direct_get(bucket), library, bucket);
        script.run(library, &deployment, &owner).await;
    }
}

/// Puts values into a bucket as the admin.
async fn fill(deployment: &Deployment, bucket: &str, values: &[(&str, &str)]) {
    let store = deployment.bucket(bucket).await;
    for (key, value) in values {
        store.put(*key, (*value).to_owned().into()).await.unwrap();
    }
}

const READER: &str = r#"
[service.reader]
nkeys = ["{reader}"]
reads = ["orders", "plain", "many"]
"#;

/// Every reading operation on a bucket with the values of [`VALUES`].
fn every_reading_operation(script: Script, library: Library, bucket: &str) -> Script {
    let script = some_keys(script, library, &json!([entry("b", "1", 3), entry("part.x", "1", 4)]));
    script
        .gives(json!({"op": "status"}), json!({"bucket": bucket, "values": 4, "history": 10}))
        .gives(json!({"op": "get", "key": "a"}), entry("a", "2", 2))
        .gives(json!({"op": "get_revision", "key": "a", "revision": 1}), entry("a", "1", 1))
        .gives(
            json!({"op": "history", "key": "a"}),
            json!([entry("a", "1", 1), entry("a", "2", 2)]),
        )
        .gives(json!({"op": "keys", "at_least": 3}), json!(["a", "b", "part.x"]))
        .gives(json!({"op": "watch", "keys": "a", "expect": 1}), json!([entry("a", "2", 2)]))
        .gives(
            json!({"op": "watch", "keys": "part.*", "expect": 1}),
            json!([entry("part.x", "1", 4)]),
        )
        .gives(
            json!({"op": "watch", "keys": ">", "expect": 3}),
            json!([entry("a", "2", 2), entry("b", "1", 3), entry("part.x", "1", 4)]),
        )
}

const VALUES: [(&str, &str); 4] = [("a", "1"), ("a", "2"), ("b", "1"), ("part.x", "1")];

on_every_server!(a_reader_of_a_bucket_has_every_reading_operation);
async fn a_reader_of_a_bucket_has_every_reading_operation(version: &'static str) {
    let deployment = Deployment::start(version, READER).await;
    deployment.create_bucket("orders", true).await;
    deployment.create_bucket("plain", false).await;
    fill(&deployment, "orders", &VALUES).await;
    fill(&deployment, "plain", &VALUES).await;
    let reader = deployment.service("reader");
    for library in Library::ALL {
        let direct = every_reading_operation(Script::open("orders"), library, "orders");
        direct.run(library, &deployment, &reader).await;
        let plain = Script::open_without_direct_get("plain");
        let plain = every_reading_operation(plain, library, "plain");
        plain.run(library, &deployment, &reader).await;
    }
}

on_every_server!(a_reader_watches_three_thousand_keys);
/// More than a client takes in one piece: with flow control and heartbeats.
async fn a_reader_watches_three_thousand_keys(version: &'static str) {
    const KEYS: u64 = 3000;
    let deployment = Deployment::start(version, READER).await;
    deployment.create_bucket("many", true).await;
    let admin = deployment.admin().await;
    let key = |n: u64| format!("key.{n:04}");
    let value = "x".repeat(200);
    for n in 1..=KEYS {
        let ack =
            admin.publish(format!("$KV.many.{}", key(n)), value.clone().into()).await.unwrap();
        if n == KEYS {
            assert_eq!(ack.await.unwrap().sequence, KEYS);
        }
    }
    let entries: Vec<Value> = (1..=KEYS).map(|n| entry(&key(n), &value, n)).collect();
    let keys: Vec<String> = (1..=KEYS).map(key).collect();
    for library in Library::ALL {
        Script::open("many")
            .gives(json!({"op": "watch", "keys": ">", "expect": KEYS}), json!(entries))
            .gives(json!({"op": "keys", "at_least": KEYS}), json!(keys))
            .gives(json!({"op": "get", "key": key(KEYS)}), entry(&key(KEYS), &value, KEYS))
            .run(library, &deployment, &deployment.service("reader"))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_14_6_a_reader_watches_with_the_newer_flow_control() {
    a_reader_watches_with_the_newer_flow_control("2.14.6").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_15_1_a_reader_watches_with_the_newer_flow_control() {
    a_reader_watches_with_the_newer_flow_control("2.15.1").await;
}

/// Flow control as nats-server has it with `js_ack_fc_v2`, announced as the default of 2.16: without
/// a domain and with one. nats.py 2.16 is not among the libraries: it fails at the newer form of the
/// acknowledgement subjects, whatever is permitted.
async fn a_reader_watches_with_the_newer_flow_control(version: &'static str) {
    const KEYS: u64 = 1500;
    for (domain, token) in [("", "_"), ("domain: hub", "hub")] {
        let prepared = Prepared::new().with_server(
            "jetstream {\n",
            &format!("feature_flags {{ js_ack_fc_v2: true }}\njetstream {{\n  {domain}\n"),
        );
        let deployment = prepared.start(version, READER).await;
        deployment.create_bucket("many", true).await;
        let admin = deployment.admin().await;
        let key = |n: u64| format!("key.{n:04}");
        // More than fits into the window in which nothing is asked.
        let value = "x".repeat(4_000);
        for n in 1..=KEYS {
            let subject = format!("$KV.many.{}", key(n));
            let ack = admin.publish(subject, value.clone().into()).await.unwrap();
            if n == KEYS {
                assert_eq!(ack.await.unwrap().sequence, KEYS);
            }
        }
        // The admin hears what comes back to the buckets' account.
        let options =
            async_nats::ConnectOptions::with_nkey(deployment.seed("admin").expose().to_owned());
        let listener = options.connect(deployment.url()).await.unwrap();
        let mut flow = listener.subscribe("$JS.FC.>").await.unwrap();
        listener.flush().await.unwrap();
        let entries: Vec<Value> = (1..=KEYS).map(|n| entry(&key(n), &value, n)).collect();
        for library in [Library::AsyncNats, Library::NatsJs] {
            Script::open("many")
                .gives(json!({"op": "watch", "keys": ">", "expect": KEYS}), json!(entries))
                .run(library, &deployment, &deployment.service("reader"))
                .await;
            let asked = timeout(DEADLINE, flow.next()).await.unwrap().unwrap().subject;
            let tokens: Vec<&str> = asked.split('.').collect();
            assert_eq!((tokens[2], tokens[4], tokens.len()), (token, "KV_many", 7), "{asked}");
        }
    }
}

on_every_server!(a_reader_is_refused_each_write);
async fn a_reader_is_refused_each_write(version: &'static str) {
    let deployment = Deployment::start(version, READER).await;
    deployment.create_bucket("orders", true).await;
    fill(&deployment, "orders", &VALUES).await;
    deployment.bucket("orders").await.delete("b").await.unwrap();
    let before = deployment.content("orders").await;
    assert_eq!(before.len(), 5);
    for library in Library::ALL {
        Script::open("orders")
            .refused(json!({"op": "put", "key": "a", "value": "mine"}), "$KV.orders.a")
            .refused(json!({"op": "create", "key": "new", "value": "mine"}), "$KV.orders.new")
            .refused(
                json!({"op": "update", "key": "a", "value": "mine", "revision": 2}),
                "$KV.orders.a",
            )
            .refused(json!({"op": "delete", "key": "a"}), "$KV.orders.a")
            .refused(json!({"op": "delete", "key": "a", "revision": 2}), "$KV.orders.a")
            .refused(json!({"op": "purge", "key": "a"}), "$KV.orders.a")
            .refused(json!({"op": "purge", "key": "a", "ttl": 1}), "$KV.orders.a")
            .refused(
                json!({"op": "create", "key": "new", "value": "mine", "ttl": 1}),
                "$KV.orders.new",
            )
            .when(library != Library::AsyncNats, |s| {
                s.refused(json!({"op": "purge_deletes"}), "$JS.API.STREAM.PURGE.KV_orders")
            })
            .refused(
                json!({"op": "publish", "subject": "$KV.orders.a", "value": "mine"}),
                "$KV.orders.a",
            )
            .gives(json!({"op": "get", "key": "a"}), entry("a", "2", 2))
            .run(library, &deployment, &deployment.service("reader"))
            .await;
    }
    assert_eq!(deployment.content("orders").await, before);
}

const PARTS: &str = r#"
[service.clerk]
nkeys = ["{clerk}"]
reads = ["fulfilment/line.>"]

[service.line]
nkeys = ["{line}"]
owns = ["fulfilment/line.>"]
"#;

/// Every way to ask for keys in the body of a request, where no permission could see them.
fn refused_all_but_its_part(script: Script, library: Library) -> Script {
    let api = |rest: &str| format!("$JS.API.{rest}");
    let create = api("CONSUMER.CREATE.KV_fulfilment");
    // nats.js puts a name and what it wants to see in the subject; the others nothing.
    let watch = |keys: &str| match library {
        Library::NatsJs => format!("{create}.*.$KV.fulfilment.{keys}"),
        Library::AsyncNats | Library::NatsPy => create.clone(),
    };
    let other = "$JS.API.DIRECT.GET.KV_fulfilment.$KV.fulfilment.other.1";
    let request = |subject: &str, value: &str| json!({"op": "request", "subject": subject, "value": value, "timeout": 1});
    script
        .refused(json!({"op": "get", "key": "other.1"}), other)
        .refused(
            json!({"op": "get_revision", "key": "line.1", "revision": 1}),
            "$JS.API.DIRECT.GET.KV_fulfilment",
        )
        .refused(json!({"op": "watch", "keys": ">", "expect": 1}), &watch(">"))
        .refused(json!({"op": "watch", "keys": "other.>", "expect": 1}), &watch("other.>"))
        .refused(json!({"op": "history", "key": "other.1"}), &watch("other.1"))
        .refused(json!({"op": "keys"}), &watch(">"))
        .refused(
            request(
                "$JS.API.STREAM.MSG.GET.KV_fulfilment",
                r#"{"last_by_subj":"$KV.fulfilment.line.1"}"#,
            ),
            "$JS.API.STREAM.MSG.GET.KV_fulfilment",
        )
        .refused(
            request("$JS.API.DIRECT.GET.KV_fulfilment", r#"{"seq":2}"#),
            "$JS.API.DIRECT.GET.KV_fulfilment",
        )
        .refused(
            request("$JS.API.STREAM.PURGE.KV_fulfilment", ""),
            &api("STREAM.PURGE.KV_fulfilment"),
        )
}

/// nats.py and async-nats watch with a request that carries no filter where the server could
/// check it, so they get and do not watch.
fn watches_its_part(script: Script, library: Library, found: &Value) -> Script {
    let create = "$JS.API.CONSUMER.CREATE.KV_fulfilment";
    let watch = json!({"op": "watch", "keys": "line.>", "expect": 1});
    let history = json!({"op": "history", "key": "line.1"});
    match library {
        Library::NatsJs => script.gives(watch, json!([found])).gives(history, json!([found])),
        Library::AsyncNats | Library::NatsPy => {
            script.refused(watch, create).refused(history, create)
        }
    }
}

on_every_server!(a_reader_of_a_part_reads_that_part_alone);
async fn a_reader_of_a_part_reads_that_part_alone(version: &'static str) {
    let deployment = Deployment::start(version, PARTS).await;
    deployment.create_buckets(&["fulfilment"]).await;
    fill(&deployment, "fulfilment", &[("line.1", "1"), ("other.1", "secret")]).await;
    let before = deployment.content("fulfilment").await;
    for library in Library::ALL {
        let found = entry("line.1", "1", 1);
        let script = Script::open("fulfilment")
            .gives(json!({"op": "get", "key": "line.1"}), found.clone())
            .fails(json!({"op": "get", "key": "line.2"}), "not_found");
        refused_all_but_its_part(watches_its_part(script, library, &found), library)
            .refused(
                json!({"op": "put", "key": "line.1", "value": "mine"}),
                "$KV.fulfilment.line.1",
            )
            .gives(json!({"op": "get", "key": "line.1"}), found)
            .run(library, &deployment, &deployment.service("clerk"))
            .await;
    }
    assert_eq!(deployment.content("fulfilment").await, before);
}

on_every_server!(an_owner_of_a_part_writes_that_part_alone);
async fn an_owner_of_a_part_writes_that_part_alone(version: &'static str) {
    let deployment = Deployment::start(version, PARTS).await;
    for library in Library::ALL {
        deployment.create_buckets(&["fulfilment"]).await;
        fill(&deployment, "fulfilment", &[("other.1", "1")]).await;
        let script = Script::open("fulfilment")
            .gives(json!({"op": "put", "key": "line.1", "value": "1"}), json!({"revision": 2}))
            .gives(json!({"op": "create", "key": "line.2", "value": "1"}), json!({"revision": 3}))
            .gives(
                json!({"op": "update", "key": "line.1", "value": "2", "revision": 2}),
                json!({"revision": 4}),
            )
            .gives(json!({"op": "delete", "key": "line.2"}), Value::Null)
            .gives(json!({"op": "purge", "key": "line.1"}), Value::Null)
            .gives(json!({"op": "put", "key": "line.1", "value": "3"}), json!({"revision": 7}));
        let other = "$KV.fulfilment.other.1";
        let create = json!({"op": "create", "key": "other.1", "value": "mine"});
        let update = json!({"op": "update", "key": "other.1", "value": "mine", "revision": 1});
        let script = script
            .refused(json!({"op": "put", "key": "other.1", "value": "mine"}), other)
            .refused(update, other)
            .refused(json!({"op": "delete", "key": "other.1"}), other)
            .refused(json!({"op": "purge", "key": "other.1"}), other);
        let script = match library {
            // It takes the refusal for a key that exists, and looks whether that was deleted.
            Library::NatsJs => script.refused_both(
                create,
                other,
                "$JS.API.DIRECT.GET.KV_fulfilment.$KV.fulfilment.other.1",
            ),
            Library::AsyncNats | Library::NatsPy => script.refused(create, other),
        };
        refused_all_but_its_part(script, library)
            .gives(json!({"op": "get", "key": "line.1"}), entry("line.1", "3", 7))
            .run(library, &deployment, &deployment.service("line"))
            .await;
        let left: Vec<_> = deployment.content("fulfilment").await;
        let left: Vec<_> = left.iter().map(|(r, s, _, v)| (*r, s.as_str(), v.as_str())).collect();
        assert_eq!(
            left,
            [
                (1, "$KV.fulfilment.other.1", "1"),
                (3, "$KV.fulfilment.line.2", "1"),
                (5, "$KV.fulfilment.line.2", ""),
                (6, "$KV.fulfilment.line.1", ""),
                (7, "$KV.fulfilment.line.1", "3"),
            ]
        );
        deployment.admin().await.delete_stream("KV_fulfilment").await.unwrap();
    }
}

const STRANGER: &str = r#"
[service.stranger]
nkeys = ["{stranger}"]
owns = ["its-own"]
"#;

on_every_server!(a_service_without_a_grant_for_a_bucket_is_refused_everything);
async fn a_service_without_a_grant_for_a_bucket_is_refused_everything(version: &'static str) {
    let deployment = Deployment::start(version, STRANGER).await;
    deployment.create_buckets(&["orders", "its-own"]).await;
    fill(&deployment, "orders", &VALUES).await;
    let before = deployment.content("orders").await;
    for library in Library::ALL {
        let script = if library == Library::NatsJs {
            let watch =
                |keys: &str| format!("$JS.API.CONSUMER.CREATE.KV_orders.*.$KV.orders.{keys}");
            // Opening sends nothing, so every operation is tried.
            Script::open("orders")
                .refused(json!({"op": "status"}), "$JS.API.STREAM.INFO.KV_orders")
                .refused(
                    json!({"op": "get", "key": "a"}),
                    "$JS.API.DIRECT.GET.KV_orders.$KV.orders.a",
                )
                .refused(
                    json!({"op": "get_revision", "key": "a", "revision": 1}),
                    "$JS.API.DIRECT.GET.KV_orders",
                )
                .refused(json!({"op": "put", "key": "a", "value": "mine"}), "$KV.orders.a")
                .refused_both(
                    json!({"op": "create", "key": "c", "value": "mine"}),
                    "$KV.orders.c",
                    "$JS.API.DIRECT.GET.KV_orders.$KV.orders.c",
                )
                .refused(
                    json!({"op": "update", "key": "a", "value": "mine", "revision": 2}),
                    "$KV.orders.a",
                )
                .refused(json!({"op": "delete", "key": "a"}), "$KV.orders.a")
                .refused(json!({"op": "purge", "key": "a"}), "$KV.orders.a")
                .refused(json!({"op": "watch", "keys": "a", "expect": 1}), &watch("a"))
                .refused(json!({"op": "watch", "keys": ">", "expect": 1}), &watch(">"))
                .refused(json!({"op": "keys"}), &watch(">"))
                .refused(json!({"op": "history", "key": "a"}), &watch("a"))
                .refused(json!({"op": "purge_deletes"}), &watch(">"))
        } else {
            Script::on("orders").refused(json!({"op": "open"}), "$JS.API.STREAM.INFO.KV_orders")
        };
        [
            "$KV.orders.a",
            "$JS.API.STREAM.INFO.KV_orders",
            "$JS.API.DIRECT.GET.KV_orders.$KV.orders.a",
            "$JS.API.DIRECT.GET.KV_orders",
            "$JS.API.STREAM.MSG.GET.KV_orders",
            "$JS.API.STREAM.PURGE.KV_orders",
            "$JS.API.CONSUMER.CREATE.KV_orders",
            "$JS.API.CONSUMER.CREATE.KV_orders.c.$KV.orders.>",
            "$JS.API.CONSUMER.DURABLE.CREATE.KV_orders.c",
            "$JS.API.CONSUMER.INFO.KV_orders.c",
            "$JS.API.CONSUMER.DELETE.KV_orders.c",
            "$JS.API.CONSUMER.MSG.NEXT.KV_orders.c",
            "$JS.FC.KV_orders.c.x",
        ]
        .into_iter()
        .fold(script, |script, subject| {
            script.refused(json!({"op": "publish", "subject": subject, "value": "{}"}), subject)
        })
        .refused_to_subscribe(json!({"op": "subscribe", "subject": "$KV.orders.>"}), "$KV.orders.>")
        .run(library, &deployment, &deployment.service("stranger"))
        .await;
    }
    assert_eq!(deployment.content("orders").await, before);
}

on_every_server!(a_watch_goes_on_after_a_reconnect);
/// async-nats ends the consumer of the old connection and waits for the answer.
async fn a_watch_goes_on_after_a_reconnect(version: &'static str) {
    let deployment = Deployment::start(version, READER).await;
    deployment.create_buckets(&["orders"]).await;
    let (client, _violations) =
        super::operations::connect(deployment.url(), &deployment.service("reader")).await.unwrap();
    let store = jetstream::new(client.clone()).get_key_value("orders").await.unwrap();
    let mut watch = store.watch_all().await.unwrap();
    let mut seen = Vec::new();
    for round in 0..3 {
        let key = format!("k{round}");
        fill(&deployment, "orders", &[(&key, "1")]).await;
        let next = timeout(DEADLINE, watch.next()).await.unwrap().unwrap().unwrap();
        seen.push(next.key);
        let before = client.statistics().connects.load(Ordering::Relaxed);
        assert_eq!(deployment.kick("reader").await, 1);
        eventually("the client to come back", async || {
            (client.statistics().connects.load(Ordering::Relaxed) > before).then_some(())
        })
        .await;
    }
    fill(&deployment, "orders", &[("last", "1")]).await;
    seen.push(timeout(DEADLINE, watch.next()).await.unwrap().unwrap().unwrap().key);
    assert_eq!(seen, ["k0", "k1", "k2", "last"]);
    assert_eq!(store.get("last").await.unwrap().unwrap(), "1");
    assert_eq!(deployment.violations(), []);
}

on_every_server!(the_older_npm_package_works_without_its_check);
/// The npm package before `@nats-io/kv` asks for the usage of the whole account, which no service
/// is told, unless it is made without.
async fn the_older_npm_package_works_without_its_check(version: &'static str) {
    let deployment = Deployment::start(version, OWNER).await;
    deployment.create_bucket("javascript", true).await;
    let owner = deployment.service("owner");
    let asked = older_javascript(&deployment, &owner, "javascript", true).await;
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!((&asked[0]["op"], &asked[0]["ok"]), (&json!("open"), &json!(false)));
    let violations = deployment.violations();
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert_eq!(violations[0].act, "publish $JS.API.INFO");

    let lines = older_javascript(&deployment, &owner, "javascript", false).await;
    let outcomes: Vec<(&str, &Value)> =
        lines.iter().map(|line| (line["op"].as_str().unwrap(), &line["result"])).collect();
    assert!(lines.iter().all(|line| line["ok"] == true), "{lines:?}");
    let expected = [
        ("open", Value::Null),
        ("put", json!(1)),
        ("create", json!(2)),
        ("update", json!(3)),
        ("get", json!("2")),
        ("get_revision", json!("1")),
        ("keys", json!(["a", "b"])),
        ("history", json!(["1", "2"])),
        ("watch", json!("1")),
        ("delete", Value::Null),
        ("purge", Value::Null),
        ("purge_deletes", Value::Null),
        ("status", json!(0)),
    ];
    assert_eq!(outcomes, expected.iter().map(|(op, result)| (*op, result)).collect::<Vec<_>>());
    assert_eq!(deployment.violations().len(), 1);
}

on_every_server!(a_client_leaves_the_domain_out);
/// The import leads to the buckets' JetStream, whatever its domain is called there: a client that
/// names the domain asks in its own account, where there is none.
async fn a_client_leaves_the_domain_out(version: &'static str) {
    let prepared = Prepared::new().with_server("jetstream {", "jetstream {\n  domain: hub");
    let deployment = prepared.start(version, OWNER).await;
    deployment.create_bucket("rust", true).await;
    let owner = deployment.service("owner");
    let (client, _violations) = super::operations::connect(deployment.url(), &owner).await.unwrap();
    let named = jetstream::with_domain(client.clone(), "hub");
    assert!(named.get_key_value("rust").await.is_err());
    let refused = deployment.violations();
    assert!(
        refused.iter().all(|v| v.act == "publish $JS.hub.API.STREAM.INFO.KV_rust"),
        "{refused:?}"
    );
    assert!(!refused.is_empty());
    let store = jetstream::new(client).get_key_value("rust").await.unwrap();
    store.put("a", "1".into()).await.unwrap();
    assert_eq!(store.get("a").await.unwrap().unwrap(), "1");
    assert_eq!(deployment.violations().len(), refused.len());
}

const SHORT: &str = r#"
[service.owner]
nkeys = ["{owner}"]
owns = ["short", "long", "rust"]

[bucket.short]
key_ttl = true
limit_markers = "1h"

[bucket.long]
history = 5
key_ttl = true
limit_markers = "1h"
"#;

on_every_server!(a_key_with_a_ttl_runs_out);
/// A key that is created with a TTL runs out, and leaves a marker for those who watch.
async fn a_key_with_a_ttl_runs_out(version: &'static str) {
    let deployment = Deployment::start(version, SHORT).await;
    let planned = deployment.tool(&["buckets", "plan"]).await;
    let applied = deployment.tool(&["buckets", "apply", "--yes"]).await;
    if version == "2.10.25" {
        // It would take the setting and the TTLs, and keep every value for ever.
        let why = "nats-server 2.10.25 does not know `key_ttl`";
        assert!(planned.code == 1 && planned.err.contains(why), "{planned:?}");
        assert!(applied.code == 1 && applied.err.contains(why), "{applied:?}");
        assert!(
            applied.err.contains("declared with `key_ttl = true`: long, short\n"),
            "{applied:?}"
        );
        assert!(deployment.admin().await.get_stream("KV_rust").await.is_err());
        return;
    }
    assert!(planned.err.is_empty(), "{planned:?}");
    assert!(planned.out.contains("+ key_ttl           true\n"), "{planned:?}");
    assert!(planned.out.contains("+ limit_markers     1h\n"), "{planned:?}");
    assert_eq!(applied.code, 0, "{applied:?}");
    let owner = deployment.service("owner");
    let create = |key: &str| json!({"op": "create", "key": key, "value": "1", "ttl": 1});
    for (library, revision) in Library::ALL.into_iter().zip([1, 3, 5]) {
        let key = library.word();
        Script::open("short")
            .gives(create(key), json!({"revision": revision}))
            .run(library, &deployment, &owner)
            .await;
        let store = deployment.bucket("short").await;
        eventually("the key to run out", async || {
            store.get(key).await.unwrap().is_none().then_some(())
        })
        .await;
        let marker = json!({"key": key, "value": "", "revision": revision + 1,
            "operation": "PURGE"});
        // nats.py 2.16 takes the marker for a value, in a get; not in a watch.
        let get = json!({"op": "get", "key": key});
        let script = match library {
            Library::NatsPy => Script::open("short").gives(get, entry(key, "", revision + 1)),
            _ => Script::open("short").fails(get, "not_found"),
        };
        script
            .gives(json!({"op": "history", "key": key}), json!([marker]))
            .run(library, &deployment, &owner)
            .await;
        // Where it is not declared, the server refuses it, and keeps nothing.
        Script::open("rust")
            .fails(create("short"), "other")
            .fails(json!({"op": "get", "key": "short"}), "not_found")
            .run(library, &deployment, &owner)
            .await;
    }
    // With a longer history, nats-server makes no TTL shorter than the markers'.
    Script::open("long")
        .gives(create("a"), json!({"revision": 1}))
        .run(Library::AsyncNats, &deployment, &owner)
        .await;
    let (_, _, headers, _) = deployment.content("long").await.remove(0);
    assert!(headers.contains("\"3600\""), "{headers}");
}

/// Every form of a write that headers make, with what it leaves of the keys `a` and `b`: subjects,
/// in the order of their revisions.
const FORMS: [(&str, &[&str]); 8] = [
    ("", &["a", "b", "a"]),
    ("KV-Operation: DEL\r\n", &["a", "b", "a"]),
    ("KV-Operation: PURGE\r\nNats-Rollup: sub\r\n", &["b", "a"]),
    ("KV-Operation: PURGE\r\nNats-Rollup: sub\r\nNats-TTL: 1h\r\n", &["b", "a"]),
    ("Nats-Rollup: all\r\n", &["a"]),
    ("Nats-TTL: 1h\r\n", &["a", "b", "a"]),
    ("Nats-TTL: never\r\n", &["a", "b", "a"]),
    ("Nats-Expected-Last-Subject-Sequence: 1\r\n", &["a", "b", "a"]),
];

const FORMED: &str = r#"
[service.owner]
nkeys = ["{owner}"]
owns = ["formed"]

[service.reader]
nkeys = ["{reader}"]
reads = ["formed"]

[service.stranger]
nkeys = ["{stranger}"]
owns = ["its-own"]

[bucket.formed]
history = 5
key_ttl = true
"#;

on_every_server!(every_form_of_a_write_is_the_owners_alone);
async fn every_form_of_a_write_is_the_owners_alone(version: &'static str) {
    let policy = match version {
        // It has no TTLs, and so no such setting.
        "2.10.25" => FORMED.replace("key_ttl = true", ""),
        _ => FORMED.to_owned(),
    };
    let deployment = Deployment::start(version, &policy).await;
    deployment.apply(&[]).await;
    let left = async || {
        let content = deployment.content("formed").await;
        let key = |subject: &str| subject.strip_prefix("$KV.formed.").unwrap().to_owned();
        content.iter().map(|(_, subject, _, _)| key(subject)).collect::<Vec<_>>()
    };
    for (headers, leaves) in FORMS {
        let stream = deployment.admin().await.get_stream("KV_formed").await.unwrap();
        stream.purge().await.unwrap();
        fill(&deployment, "formed", &[("a", "1"), ("b", "1")]).await;
        let before = deployment.content("formed").await;
        // The revision that is there, which a purge does not reset.
        let headers = headers.replace("Sequence: 1", &format!("Sequence: {}", before[0].0));
        for service in ["reader", "stranger"] {
            let mut raw = Raw::login(&deployment, &deployment.service(service)).await;
            let said = raw.publish_with("$KV.formed.a", "", &headers, b"2").await;
            let refusal = "Permissions Violation for Publish to \"$KV.formed.a\"";
            assert_eq!(said, Err(refusal.to_owned()), "{service} {headers}");
        }
        assert_eq!(deployment.content("formed").await, before, "{headers}");
        let mut owner = Raw::login(&deployment, &deployment.service("owner")).await;
        owner.subscribe("_INBOX.owner.1").await.unwrap();
        owner.publish_with("$KV.formed.a", "_INBOX.owner.1", &headers, b"2").await.unwrap();
        let ack = String::from_utf8(owner.message().await.payload).unwrap();
        assert!(!ack.contains("error"), "{headers} {ack}");
        assert_eq!(left().await, leaves, "{headers}");
    }
}

const WITHOUT_ROLLUP: &str = r#"
[service.owner]
nkeys = ["{owner}"]
owns = ["steady"]

[bucket.steady]
history = 5
rollup = false
"#;

on_every_server!(without_rollup_a_purge_keeps_what_is_there);
/// The server refuses a purge there. A delete works, and keeps the history.
async fn without_rollup_a_purge_keeps_what_is_there(version: &'static str) {
    let deployment = Deployment::start(version, WITHOUT_ROLLUP).await;
    deployment.apply(&[]).await;
    let owner = deployment.service("owner");
    for (library, revision) in Library::ALL.into_iter().zip([1, 3, 5]) {
        let key = library.word();
        let deleted =
            json!({"key": key, "value": "", "revision": revision + 1, "operation": "DEL"});
        Script::open("steady")
            .gives(json!({"op": "put", "key": key, "value": "1"}), json!({"revision": revision}))
            .fails(json!({"op": "purge", "key": key}), "other")
            .gives(json!({"op": "get", "key": key}), entry(key, "1", revision))
            .gives(json!({"op": "delete", "key": key}), Value::Null)
            .gives(
                json!({"op": "history", "key": key}),
                json!([entry(key, "1", revision), deleted]),
            )
            .run(library, &deployment, &owner)
            .await;
    }
}

on_every_server!(a_purge_with_a_ttl_leaves_nothing_in_the_end);
async fn a_purge_with_a_ttl_leaves_nothing_in_the_end(version: &'static str) {
    if version == "2.10.25" {
        return; // It has no TTLs.
    }
    let deployment = Deployment::start(version, FORMED).await;
    deployment.apply(&[]).await;
    let owner = deployment.service("owner");
    for (library, revision) in Library::ALL.into_iter().zip([1, 3, 5]) {
        let key = library.word();
        Script::open("formed")
            .gives(json!({"op": "put", "key": key, "value": "1"}), json!({"revision": revision}))
            .gives(json!({"op": "purge", "key": key, "ttl": 1}), Value::Null)
            .fails(json!({"op": "get", "key": key}), "not_found")
            .run(library, &deployment, &owner)
            .await;
        eventually("the marker to run out", async || {
            deployment.content("formed").await.is_empty().then_some(())
        })
        .await;
    }
}

const COPIED: &str = r#"
[service.owner]
nkeys = ["{owner}"]
owns = ["origin"]

[service.reader]
nkeys = ["{reader}"]
reads = ["origin-copy"]

[bucket.origin]
history = 10

[bucket.origin-copy]
copy_of = "origin"
"#;

on_every_server!(a_copy_of_a_bucket_is_read_and_never_written);
async fn a_copy_of_a_bucket_is_read_and_never_written(version: &'static str) {
    let deployment = Deployment::start(version, COPIED).await;
    deployment.apply(&[]).await;
    let copied = async |count: usize| {
        eventually("the copy to follow", async || {
            (deployment.content("origin-copy").await.len() == count).then_some(())
        })
        .await;
    };
    fill(&deployment, "origin", &VALUES).await;
    copied(VALUES.len()).await;
    let reader = deployment.service("reader");
    for library in Library::ALL {
        let script = Script::open("origin-copy");
        every_reading_operation(script, library, "origin-copy")
            .refused(json!({"op": "put", "key": "a", "value": "mine"}), "$KV.origin-copy.a")
            .refused(
                json!({"op": "publish", "subject": "$KV.origin.a", "value": "mine"}),
                "$KV.origin.a",
            )
            .gives(json!({"op": "get", "key": "a"}), entry("a", "2", 2))
            .run(library, &deployment, &reader)
            .await;
    }
    // The original answers for itself, and what is purged there is purged here.
    let owner = deployment.service("owner");
    let script = (0..20).fold(Script::open("origin"), |script, _| {
        script.gives(json!({"op": "get", "key": "a"}), entry("a", "2", 2))
    });
    let script = script.gives(json!({"op": "purge", "key": "a"}), Value::Null);
    script.run(Library::AsyncNats, &deployment, &owner).await;
    copied(VALUES.len() - 1).await;
    let planned = deployment.tool(&["state", "plan"]).await;
    assert!(!planned.out.contains("origin-copy ("), "{planned:?}");
}
