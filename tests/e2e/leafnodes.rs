//! A leaf server with JetStream of its own: the shape of `docs/shapes.md`, set up from the lines of
//! that page; what holds across it, what a hostile leaf can do, and who says what is wrong.

use std::time::Instant;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use futures_util::StreamExt as _;
use serde_json::json;
use solewriter_core::keys::{Seed, User};
use solewriter_sandbox::free_ports;
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;

use super::deployment::{Deployment, Prepared, edit, eventually, held_route, policy_text, read};
use super::raw::Raw;
use super::sessions::Client;

const POLICY: &str = r#"
[bucket.prices]
domain = "hub"

[bucket.vault]
domain = "hub"

[bucket.prices-edge]
domain = "edge"
copy_of = "prices"

[bucket.orders]
domain = "edge"

[stream.events]
subjects = ["events.>"]
domain = "edge"

[stream.events.consumer.worker]

[stream.events.consumer.far]

[stream.log]
subjects = ["log.>"]
domain = "edge"

[store.pictures]
domain = "edge"

[service.prices]
nkeys = ["{prices}"]
owns = ["prices", "vault"]

[service.till]
nkeys = ["{till}"]
owns = ["orders", "store:pictures"]
reads = ["prices-edge"]
publishes = ["events.new", "log.>"]
consumes = ["events/worker"]

[service.dashboard]
nkeys = ["{dashboard}"]
reads = ["orders", "store:pictures"]
consumes = ["events/far"]
replays = ["log"]
"#;

/// The services of the policy; their seeds count on both servers.
const SERVICES: [&str; 3] = ["prices", "till", "dashboard"];

/// What `state link` prints for the two servers.
fn printed(prepared: &Prepared, policy: &str) -> [String; 2] {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("p.toml"), policy_text(&prepared.files, policy)).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .args(["state", "link", "hub", "edge"])
        .arg(dir.path())
        .arg("--config")
        .arg(prepared.files.settings())
        // Which port the server takes is not known yet, and nothing is asked of it.
        .args(["--nats-servers", "nats://127.0.0.1:4222"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (hub, leaf) = text.split_once("--- leaf: the server of domain edge\n").unwrap();
    let hub = hub.strip_prefix("--- hub: the server of domain hub\n").unwrap();
    [hub, leaf].map(ToOwned::to_owned)
}

/// Adds those lines to what `init` wrote.
fn with_lines(prepared: Prepared, lines: &str) -> Prepared {
    let lines = lines.strip_prefix("# ").unwrap();
    let file = prepared.files.server_config();
    let mut config = read(&file);
    for part in lines.split("\n# ") {
        let (place, lines) = part.split_once('\n').unwrap();
        let at = match place.strip_prefix("in ") {
            None => config.find("jetstream {").unwrap(),
            Some(place) => {
                let (table, list) = place.split_once('.').unwrap_or((place, ""));
                let table = config.find(&format!("{table} {{\n")).unwrap();
                let list = if list.is_empty() { "{\n".to_owned() } else { format!("{list}: [\n") };
                table + config[table..].find(&list).unwrap() + list.len()
            }
        };
        config.insert_str(at, &format!("{lines}\n"));
    }
    std::fs::write(file, config).unwrap();
    prepared
}

fn with_values(prepared: &Prepared, values: &str) {
    let file = prepared.files.dir.join("deployment.conf");
    std::fs::write(&file, read(&file) + values).unwrap();
}

/// A hub and an edge, with everything that is declared, and a switch that holds back what goes
/// between them. Somebody at each end has a key to its LINK.
pub struct Joined {
    pub hub: Deployment,
    pub edge: Deployment,
    held: watch::Sender<bool>,
    mallory: Seed<User>,
}

pub async fn joined(version: &'static str) -> Joined {
    let [hub, edge] = [(); 2].map(|()| Prepared::new().without_buckets());
    let [at_hub, at_edge] = printed(&hub, POLICY);
    let (hub, edge) = (with_lines(hub, &at_hub), with_lines(edge, &at_edge));
    let port = free_ports(1).unwrap()[0];
    let (held, switch) = watch::channel(false);
    let through = held_route(port, switch);
    let link = Seed::<User>::generate();
    let key =
        |seed: &Seed<User>| solewriter_core::keys::Signer::new(seed).unwrap().public().to_string();
    let listen = format!("\nLINK_LISTEN: \"127.0.0.1:{port}\"\nLINK_KEY: {}\n", key(&link));
    let dial = format!("\nHUB: \"nats://127.0.0.1:{through}\"\nLINK_SEED: {}\n", link.expose());
    let mallory = Seed::<User>::generate();
    for (server, values) in [(&hub, listen), (&edge, dial)] {
        with_values(server, &format!("{values}MALLORY: {}\n", key(&mallory)));
        let config = server.files.server_config();
        edit(&config, "  LINK {\n", "  LINK {\n    users: [ { nkey: $MALLORY } ]\n");
        edit(&config, "auth_users: [ ", "auth_users: [ $MALLORY, ");
    }

    let mut hub = hub.start(version, POLICY).await;
    for name in SERVICES {
        let service = hub.service(name);
        std::fs::copy(&service.seed_file, edge.files.seed_file(&format!("test-{name}"))).unwrap();
    }
    let mut edge = edge.start(version, POLICY).await;
    for deployment in [&mut hub, &mut edge] {
        deployment.instances[0].says("ready").await;
        deployment.apply(&[]).await;
    }
    Joined { hub, edge, held, mallory }
}

impl Joined {
    /// A bucket as a service at one of the servers opens it.
    async fn open(&self, at: &Deployment, service: &str, bucket: &str) -> jetstream::kv::Store {
        let client = Client::connect(at.url(), &at.service(service)).await.client;
        jetstream::new(client).get_key_value(bucket).await.unwrap()
    }
}

/// `doctor` finds no fault with LINK, at either end.
async fn no_fault_is_found_with_link(hub: &Deployment, edge: &Deployment) {
    for (deployment, domain) in [(hub, "hub"), (edge, "edge")] {
        let said = deployment.tool(&["doctor", "--format", "json"]).await.json();
        let findings = said["findings"].as_array().unwrap();
        // Of an old server, its holes are told.
        let wrong =
            |f: &&serde_json::Value| f["outcome"] == "problem" && f["check"] != "advisories";
        let wrong: Vec<_> = findings.iter().filter(wrong).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        let links = findings.iter().find(|f| f["check"] == "exports").unwrap();
        let passes = if domain == "hub" { "the copy prices-edge" } else { "what dashboard reads" };
        assert!(links["found"].as_str().unwrap().contains(passes), "{links}");
        let buckets = findings.iter().find(|f| f["check"] == "buckets").unwrap();
        let here = format!("JetStream domain here: {domain}; in others: ");
        assert!(buckets["found"].as_str().unwrap().contains(&here), "{buckets}");
    }
}

/// What the edge keeps, read by a service at the hub: `there` is its way.
async fn streams_and_objects_are_read_from_the_hub(edge: &Deployment, there: &jetstream::Context) {
    // A stream of the edge.
    let till = Client::connect(edge.url(), &edge.service("till")).await.client;
    let context = jetstream::new(till);
    context.publish("events.new", "1".into()).await.unwrap().await.unwrap();
    let consumer: PullConsumer =
        context.get_consumer_from_stream("worker", "events").await.unwrap();
    let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
    messages.next().await.unwrap().unwrap().double_ack().await.unwrap();

    // The same stream from the hub, by a consumer that is dashboard's; one that it replays; objects.
    let consumer: PullConsumer = there.get_consumer_from_stream("far", "events").await.unwrap();
    let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
    let message = messages.next().await.unwrap().unwrap();
    assert_eq!(message.payload, "1");
    message.double_ack().await.unwrap();
    let at_edge = edge.admin().await;
    let mut stored: PullConsumer = at_edge.get_consumer_from_stream("far", "events").await.unwrap();
    let info = stored.info().await.unwrap();
    assert_eq!((info.num_ack_pending, info.ack_floor.stream_sequence), (0, 1));
    for n in 0..300 {
        let body = format!("{n}").repeat(3_000);
        context.publish("log.line", body.into()).await.unwrap().await.unwrap();
    }
    let log = there.get_stream("log").await.unwrap();
    let ordered = pull::OrderedConfig::default();
    let consumer = log.create_consumer(ordered).await.unwrap();
    assert_eq!(consumer.messages().await.unwrap().take(300).count().await, 300);
    assert_eq!(log.direct_get(1).await.unwrap().subject.as_str(), "log.line");
    let pictures = context.get_object_store("pictures").await.unwrap();
    let picture = vec![7; 300_000];
    pictures.put("cat", &mut picture.as_slice()).await.unwrap();
    let pictures = there.get_object_store("pictures").await.unwrap();
    let mut seen = Vec::new();
    pictures.get("cat").await.unwrap().read_to_end(&mut seen).await.unwrap();
    assert_eq!(seen, picture);
}

on_every_server!(a_leaf_with_jetstream_of_its_own_has_one_writer_for_each_bucket, more_room);
async fn a_leaf_with_jetstream_of_its_own_has_one_writer_for_each_bucket(version: &'static str) {
    let joined = joined(version).await;
    let Joined { hub, edge, .. } = &joined;
    let plan = hub.tool(&["state", "plan"]).await;
    let elsewhere = "in other JetStream domains, not looked at: orders (edge), prices-edge (edge), \
                     stream events (edge), stream log (edge), store pictures (edge)";
    assert!(plan.code == 0 && plan.out.contains(elsewhere), "{plan:?}");

    no_fault_is_found_with_link(hub, edge).await;

    // Written at the hub, and read from the copy at the edge.
    let prices = joined.open(hub, "prices", "prices").await;
    for key in 0..300 {
        prices.put(format!("k{key}"), "1".repeat(12_000).into()).await.unwrap();
    }
    let copy = joined.open(edge, "till", "prices-edge").await;
    eventually("the copy", async || copy.get("k299").await.unwrap()).await;
    prices.put("k1", "2".into()).await.unwrap();
    let began = Instant::now();
    eventually("the change", async || copy.get("k1").await.unwrap().filter(|v| v == "2")).await;
    println!("{version}: a put is in the copy after {:?}", began.elapsed());
    copy.put("k1", "3".into()).await.unwrap_err();

    // Written at the edge, and read from the hub in the edge's domain: get, keys, watch.
    let orders = joined.open(edge, "till", "orders").await;
    for key in 0..300 {
        orders.put(format!("o{key}"), "1".repeat(12_000).into()).await.unwrap();
    }
    let dashboard = Client::connect(hub.url(), &hub.service("dashboard")).await.client;
    let there = jetstream::with_domain(dashboard, "edge");
    let far = there.get_key_value("orders").await.unwrap();
    assert_eq!(far.get("o7").await.unwrap().unwrap().len(), 12_000);
    assert_eq!(far.keys().await.unwrap().count().await, 300);
    far.put("o1", "x".into()).await.unwrap_err();

    Box::pin(streams_and_objects_are_read_from_the_hub(edge, &there)).await;

    // Services at either end, as intruders.
    let (before, orders_before) = (hub.content("prices").await, edge.content("orders").await);
    for (at, service, subjects) in [
        (
            edge,
            "till",
            &[
                "$KV.prices.k1",
                "$KV.prices-edge.k1",
                "$JS.hub.API.$KV.prices.k1",
                "hub.$KV.prices.k1",
                "$JS.hub.API.STREAM.INFO.KV_prices",
                "$JS.hub.API.STREAM.PURGE.KV_prices",
                "_COPY.prices-edge.x",
                "$JS.edge.API.$KV.orders.k1",
            ][..],
        ),
        (
            hub,
            "dashboard",
            &[
                "$KV.orders.o1",
                "$JS.edge.API.$KV.orders.o1",
                "edge.$KV.orders.o1",
                "$JS.edge.API.STREAM.PURGE.KV_orders",
                "$JS.edge.API.STREAM.DELETE.KV_orders",
                "$JS.edge.API.STREAM.INFO.KV_prices-edge",
                "events.new",
                "$JS.edge.API.events.new",
                "$JS.edge.API.STREAM.PURGE.events",
                "$JS.edge.API.STREAM.NAMES",
                "$JS.edge.API.CONSUMER.MSG.NEXT.events.worker",
                "$JS.edge.API.CONSUMER.CREATE.events.worker.events.>",
                "$JS.edge.API.CONSUMER.DELETE.events.far",
                "$JS.edge.API.CONSUMER.DURABLE.CREATE.log.x",
                "$JS.ACK.events.worker.1.1.1.1.1",
                "$JS.ACK.edge.12345678.events.worker.1.1.1.1.1",
                "$O.pictures.M.Y2F0",
                "$JS.edge.API.STREAM.PURGE.OBJ_pictures",
            ][..],
        ),
    ] {
        let mut raw = Raw::login(at, &at.service(service)).await;
        for subject in subjects {
            raw.publish(subject, b"x").await.expect_err(subject);
        }
    }

    // Where the hub is away, the edge goes on; the hub's puts come when it is back.
    joined.held.send(true).unwrap();
    prices.put("k2", "while away".into()).await.unwrap();
    assert_eq!(copy.get("k1").await.unwrap().unwrap(), "2");
    orders.put("o1", "while away".into()).await.unwrap();
    assert_eq!(copy.get("k2").await.unwrap().unwrap().len(), 12_000);
    joined.held.send(false).unwrap();
    eventually("the put", async || copy.get("k2").await.unwrap().filter(|v| v == "while away"))
        .await;
    assert_eq!(hub.content("prices").await.len(), before.len());
    assert_eq!(edge.content("orders").await.len(), orders_before.len());

    // A right that is taken away is gone where the policy is: each server has its own.
    let mut reads = Raw::login(edge, &edge.service("till")).await;
    let mut far = Raw::login(hub, &hub.service("dashboard")).await;
    let began = Instant::now();
    let less = POLICY
        .replace("reads = [\"prices-edge\"]\n", "")
        .replace("reads = [\"orders\", ", "reads = [");
    for deployment in [hub, edge] {
        deployment.write_policy(&less);
    }
    reads.closed().await;
    far.closed().await;
    println!("{version}: closed at both ends after {:?}", began.elapsed());
}

on_every_server!(a_hostile_leaf_reads_what_passes_and_writes_nothing);
/// Who runs the leaf server publishes into its LINK whatever they like.
async fn a_hostile_leaf_reads_what_passes_and_writes_nothing(version: &'static str) {
    let mut joined = joined(version).await;
    let Joined { hub, edge, mallory, .. } = &joined;
    let prices = joined.open(hub, "prices", "prices").await;
    prices.put("k1", "1".into()).await.unwrap();
    let copy = joined.open(edge, "till", "prices-edge").await;
    eventually("the copy", async || copy.get("k1").await.unwrap()).await;
    let vault = joined.open(hub, "prices", "vault").await;
    vault.put("k1", "1".into()).await.unwrap();
    let before = hub.content("prices").await;

    let mut leaf = Raw::try_login(edge.url(), mallory).await.unwrap();
    let consumer = |name: &str, deliver: &str| {
        json!({"stream_name": "KV_prices", "config": {"name": name, "ack_policy": "none",
            "deliver_policy": "all", "deliver_subject": deliver, "filter_subject": "$KV.prices.>",
            "mem_storage": true, "inactive_threshold": 60_000_000_000_u64}})
        .to_string()
    };
    let create = |name: &str| format!("hub.CONSUMER.CREATE.KV_prices.{name}.$KV.prices.>");
    for (subject, reply, body) in [
        ("$KV.prices.k1".to_owned(), "", "x".to_owned()),
        ("hub.$KV.prices.k1".to_owned(), "", "x".to_owned()),
        ("$JS.hub.API.$KV.prices.k1".to_owned(), "", "x".to_owned()),
        ("$JS.API.STREAM.PURGE.KV_prices".to_owned(), "_INBOX.m.1", String::new()),
        ("hub.STREAM.PURGE.KV_prices".to_owned(), "_INBOX.m.1", String::new()),
        ("$JS.hub.API.STREAM.PURGE.KV_prices".to_owned(), "_INBOX.m.1", String::new()),
        ("$JS.hub.API.STREAM.DELETE.KV_prices".to_owned(), "_INBOX.m.1", String::new()),
        // JetStream's answer, and what it stores, to a bucket's subject.
        ("hub.STREAM.INFO.KV_prices".to_owned(), "$KV.vault.k1", String::new()),
        ("$JS.hub.API.STREAM.INFO.KV_prices".to_owned(), "$KV.vault.k1", String::new()),
        (create("a"), "$KV.vault.k1", consumer("a", "_COPY.prices-edge.m")),
        (create("b"), "_INBOX.m.1", consumer("b", "$KV.prices.k1")),
        (create("c"), "$KV.vault.k1", consumer("c", "$KV.vault.k1")),
    ] {
        leaf.publish_with(&subject, reply, "Nats-Rollup: all", body.as_bytes()).await.unwrap();
    }
    // It may have a consumer of what passes: that is what passes. Once it answers, the hub has
    // read all before it.
    leaf.subscribe("_INBOX.m.last").await.unwrap();
    let body = consumer("d", "_COPY.prices-edge.d");
    leaf.publish_with(&create("d"), "_INBOX.m.last", "", body.as_bytes()).await.unwrap();
    let answer = leaf.message().await;
    assert!(String::from_utf8_lossy(&answer.payload).contains("\"name\":\"d\""), "{answer:?}");
    // And once the hub has stored another put, it has delivered what it would deliver.
    prices.put("k2", "2".into()).await.unwrap();
    eventually("the copy", async || copy.get("k2").await.unwrap()).await;
    let after = hub.content("prices").await;
    assert_eq!(after[..before.len()], before[..]);
    assert_eq!(after.len(), before.len() + 1);
    assert_eq!(hub.content("vault").await.len(), 1);
    // The consumer that was to deliver to a key is deleted, as anybody's is.
    let deleted = joined.hub.instances[0]
        .says_where("consumer_deleted", |line| line["consumer"] == "c")
        .await;
    assert_eq!(deleted["cause"], "system_subject", "{deleted}");
}

on_every_server!(a_hostile_hub_reads_what_passes_and_acknowledges_for_nobody_else);
/// Who runs the hub publishes into its LINK whatever they like.
async fn a_hostile_hub_reads_what_passes_and_acknowledges_for_nobody_else(version: &'static str) {
    let joined = joined(version).await;
    let Joined { hub, edge, mallory, .. } = &joined;
    let orders = joined.open(edge, "till", "orders").await;
    orders.put("o1", "1".into()).await.unwrap();
    let till = jetstream::new(Client::connect(edge.url(), &edge.service("till")).await.client);
    for subject in ["events.new", "log.line"] {
        till.publish(subject, "1".into()).await.unwrap().await.unwrap();
    }
    let worker: PullConsumer = till.get_consumer_from_stream("worker", "events").await.unwrap();
    let mut messages = worker.fetch().max_messages(1).messages().await.unwrap();
    let message = messages.next().await.unwrap().unwrap();
    let ack = message.reply.clone().unwrap().to_string();

    let mut raw = Raw::try_login(hub.url(), mallory).await.unwrap();
    let consumer = |name: &str, change: &str| {
        json!({"stream_name": "events", "config": {"name": name, "durable_name": name,
            "ack_policy": "explicit", "filter_subject": "events.>", "description": change}})
        .to_string()
    };
    let newer = ack.replacen("$JS.ACK.", "$JS.ACK.edge.12345678.", 1);
    for (subject, reply, body) in [
        // Somebody else's consumer.
        (ack.as_str(), "_INBOX.m.1", "+ACK".to_owned()),
        (newer.as_str(), "_INBOX.m.1", "+TERM".to_owned()),
        ("edge.CONSUMER.MSG.NEXT.events.worker", "_INBOX.m.1", String::new()),
        ("edge.CONSUMER.DELETE.events.worker", "_INBOX.m.1", String::new()),
        ("edge.CONSUMER.DELETE.events.far", "_INBOX.m.1", String::new()),
        ("edge.CONSUMER.CREATE.events", "_INBOX.m.1", consumer("worker", "taken")),
        ("edge.CONSUMER.CREATE.events.worker", "_INBOX.m.1", consumer("worker", "taken")),
        ("edge.CONSUMER.CREATE.events.worker.events.>", "_INBOX.m.1", consumer("worker", "taken")),
        ("edge.CONSUMER.DURABLE.CREATE.events.far", "_INBOX.m.1", consumer("far", "taken")),
        // What writes.
        ("edge.STREAM.PURGE.log", "_INBOX.m.1", String::new()),
        ("edge.STREAM.DELETE.log", "_INBOX.m.1", String::new()),
        ("edge.STREAM.PURGE.OBJ_pictures", "_INBOX.m.1", String::new()),
        ("$JS.edge.API.STREAM.PURGE.log", "_INBOX.m.1", String::new()),
        ("$JS.API.STREAM.PURGE.log", "_INBOX.m.1", String::new()),
        ("log.forged", "_INBOX.m.1", "x".to_owned()),
        ("events.new", "_INBOX.m.1", "x".to_owned()),
        ("$O.pictures.M.x", "_INBOX.m.1", "{}".to_owned()),
        ("$KV.orders.o1", "_INBOX.m.1", "x".to_owned()),
        // JetStream's answer to a subject that is stored.
        ("edge.STREAM.INFO.log", "log.forged", String::new()),
        ("edge.DIRECT.GET.log", "log.forged", "{\"seq\":1}".to_owned()),
        ("edge.STREAM.MSG.GET.log", "$KV.orders.o1", "{\"seq\":1}".to_owned()),
        ("edge.CONSUMER.MSG.NEXT.events.far", "$KV.orders.o1", "{\"no_wait\":true}".to_owned()),
    ] {
        raw.publish_with(subject, reply, "Nats-Rollup: all", body.as_bytes()).await.unwrap();
    }
    // What passes is answered, and then all before it was read.
    raw.subscribe("_INBOX.m.last").await.unwrap();
    raw.publish_with("edge.STREAM.INFO.log", "_INBOX.m.last", "", b"").await.unwrap();
    let answer = raw.message().await;
    assert!(String::from_utf8_lossy(&answer.payload).contains("\"name\":\"log\""), "{answer:?}");

    let admin = edge.admin().await;
    for (stream, count) in [("log", 1), ("events", 1), ("KV_orders", 1)] {
        let info = admin.get_stream(stream).await.unwrap().cached_info().clone();
        assert_eq!((stream, info.state.messages, info.state.last_sequence), (stream, count, count));
    }
    assert!(admin.get_stream("OBJ_pictures").await.is_ok());
    for (name, delivered) in [("worker", 1), ("far", 1)] {
        let mut stored: PullConsumer =
            admin.get_consumer_from_stream(name, "events").await.unwrap();
        let info = stored.info().await.unwrap();
        // Of the reader's own consumer, whoever runs its server takes the messages.
        let found = (info.delivered.consumer_sequence, info.num_ack_pending);
        assert_eq!((name, found), (name, (delivered, 1)));
        assert_ne!(info.config.description.as_deref(), Some("taken"), "{name}");
    }
    message.double_ack().await.unwrap();
}

on_every_server!(a_leafnode_in_the_wrong_account_is_told_of);
async fn a_leafnode_in_the_wrong_account_is_told_of(version: &'static str) {
    let hub = Prepared::new().without_buckets();
    let [lines, _] = printed(&hub, POLICY);
    let hub = with_lines(hub, &lines);
    let port = free_ports(1).unwrap()[0];
    let link = Seed::<User>::generate();
    let key = solewriter_core::keys::Signer::new(&link).unwrap().public().to_string();
    with_values(&hub, &format!("\nLINK_LISTEN: \"127.0.0.1:{port}\"\nLINK_KEY: {key}\n"));
    edit(
        &hub.files.server_config(),
        "nkey: $LINK_KEY, account: LINK",
        "nkey: $LINK_KEY, account: STATE",
    );
    let hub = hub.start(version, POLICY).await;
    hub.apply(&[]).await;
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("leaf.conf");
    let text = format!(
        "server_name: leaf\nlisten: \"127.0.0.1:-1\"\nleafnodes {{ remotes: [ {{ url: \
         \"nats://127.0.0.1:{port}\", nkey: {} }} ] }}\n",
        link.expose()
    );
    std::fs::write(&config, text).unwrap();
    let binary = super::deployment::binary(version).await;
    let leaf = solewriter_sandbox::Server::start(&binary, &config, dir.path()).await.unwrap();
    let found = eventually("doctor to see the leafnode", async || {
        let said = hub.tool(&["doctor", "--format", "json"]).await.json();
        let findings = said["findings"].as_array().unwrap().clone();
        let logins = findings.into_iter().find(|f| f["check"] == "logins").unwrap();
        (logins["outcome"] == "problem").then_some(logins)
    })
    .await;
    let text = found["found"].as_str().unwrap();
    assert!(text.contains("leafnodes are connected") && text.contains("in STATE"), "{found}");

    // It is told of with reason: from there, what is refused in LINK is stored.
    let mut stranger = Raw::dial(leaf.client_url()).await;
    stranger.enter(&json!({})).await.unwrap();
    eventually("the vault to be written", async || {
        let ask = "$JS.hub.API.STREAM.INFO.KV_prices";
        stranger.publish_with(ask, "$KV.vault.k1", "", b"").await.unwrap();
        (!hub.content("vault").await.is_empty()).then_some(())
    })
    .await;
}
