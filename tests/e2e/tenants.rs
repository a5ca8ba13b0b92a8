//! Several tenants on one server and one `serve`: what each has for itself, what one cannot do to the
//! other, and that what is wrong with one changes nothing for the other (docs/tenants.md).

use std::path::PathBuf;

use async_nats::jetstream::{self, consumer::PullConsumer, kv};
use futures_util::{FutureExt as _, StreamExt as _};
use rustix::process::Signal;
use serde_json::Value;
use solewriter_core::callout::asked;
use solewriter_core::keys::{Seed, User};

use super::deployment::{Deployment, Prepared, Service, edit, eventually, read};
use super::raw::Raw;
use super::second_connect::again;
use super::sessions::Client;

const TENANTS: [&str; 2] = ["shop", "bank"];

/// A service of a tenant's sample policy.
fn service(deployment: &Deployment, tenant: &str, name: &str) -> Service {
    let seed_file = deployment.files.seed_file(&format!("{tenant}-{name}"));
    let seed = Seed::parse(&read(&seed_file)).unwrap();
    Service { name: name.to_owned(), seed, seed_file }
}

async fn connect(deployment: &Deployment, tenant: &str, name: &str) -> Client {
    Client::connect(deployment.url(), &service(deployment, tenant, name)).await
}

async fn refused(deployment: &Deployment, tenant: &str, name: &str) -> bool {
    let service = service(deployment, tenant, name);
    let options = async_nats::ConnectOptions::with_nkey(service.seed.expose().to_owned());
    options.connect(deployment.url()).await.is_err()
}

async fn bucket(client: &Client, name: &str) -> kv::Store {
    jetstream::new(client.client.clone()).get_key_value(name).await.unwrap()
}

fn policy_file(deployment: &Deployment, tenant: &str) -> PathBuf {
    deployment.files.policy().join(tenant).join("services.toml")
}

async fn doctor_finds_nothing(deployment: &Deployment, tenant: &str) {
    let said = deployment.tool_of_tenant(tenant, &["doctor", "--format", "json"]).await.json();
    let problems = said["findings"].as_array().unwrap().iter();
    // What is known against the oldest server is no matter of tenants.
    let problems = problems.filter(|f| f["outcome"] == "problem" && f["check"] != "advisories");
    assert_eq!(problems.count(), 0, "{said:#}");
}

async fn stop(deployment: &mut Deployment, instance: usize) {
    deployment.instances[instance].signal(Signal::TERM);
    let _ = deployment.instances[instance].child.wait().await;
}

/// What `init --tenant` writes, started; what each policy declares is there.
async fn start(prepared: Prepared, version: &'static str) -> Deployment {
    let deployment = prepared.start_as_is(version).await;
    for tenant in TENANTS {
        let ran = deployment.tool_of_tenant(tenant, &["state", "apply", "--yes"]).await;
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    deployment
}

on_every_server!(each_tenant_has_its_own);
async fn each_tenant_has_its_own(version: &'static str) {
    let deployment = start(Prepared::tenants(&TENANTS), version).await;
    for tenant in TENANTS {
        doctor_finds_nothing(&deployment, tenant).await;
    }
    // Both have the services, buckets and streams of the sample policy: by the same names.
    let shop = connect(&deployment, "shop", "orders").await;
    let bank = connect(&deployment, "bank", "orders").await;
    let (shops, banks) = (bucket(&shop, "orders").await, bucket(&bank, "orders").await);
    shops.put("k1", "of the shop".into()).await.unwrap();
    banks.put("k2", "of the bank".into()).await.unwrap();
    assert_eq!(shops.get("k2").await.unwrap(), None);
    assert_eq!(banks.get("k1").await.unwrap(), None);

    // A stream client: what one publishes, the other's consumer never gets.
    let publisher = jetstream::new(shop.client.clone());
    publisher.publish("events.orders.new", "1".into()).await.unwrap().await.unwrap();
    let next = async |tenant: &str| {
        let client = connect(&deployment, tenant, "warehouse").await;
        let context = jetstream::new(client.client.clone());
        let consumer: PullConsumer =
            context.get_consumer_from_stream("warehouse", "EVENTS").await.unwrap();
        let mut batch = consumer.fetch().max_messages(1).messages().await.unwrap();
        let message = batch.next().await?.unwrap();
        message.ack().await.unwrap();
        Some(message.payload.clone())
    };
    assert_eq!(next("shop").await.as_deref(), Some(&b"1"[..]));
    assert_eq!(next("bank").await, None);

    // Plain messages: the first that the bank's service hears is the bank's.
    let hearing = connect(&deployment, "bank", "warehouse").await;
    let mut heard = hearing.client.subscribe("events.orders.>").await.unwrap();
    let first = eventually("a message", async || {
        for (client, whose) in [(&shop, "the shop"), (&bank, "the bank")] {
            client.client.publish("events.orders.new", whose.into()).await.unwrap();
            client.client.flush().await.unwrap();
        }
        heard.next().now_or_never().flatten()
    });
    assert_eq!(first.await.payload.as_ref(), b"the bank");
    // A stranger is refused.
    let stranger = Seed::<User>::generate();
    let options = async_nats::ConnectOptions::with_nkey(stranger.expose().to_owned());
    assert!(options.connect(deployment.url()).await.is_err());
}

on_every_server!(each_tenant_has_keys_of_its_own_in_operator_mode);
async fn each_tenant_has_keys_of_its_own_in_operator_mode(version: &'static str) {
    let deployment = start(Prepared::operator_tenants(&TENANTS, version), version).await;
    let enter = async |tenant: &str, name: &str| {
        let options = deployment.login(&format!("{tenant}-{name}"));
        let options = options.custom_inbox_prefix(format!("_INBOX.{name}"));
        jetstream::new(options.connect(deployment.url()).await.unwrap())
    };
    for tenant in TENANTS {
        doctor_finds_nothing(&deployment, tenant).await;
        let orders = enter(tenant, "orders").await.get_key_value("orders").await.unwrap();
        orders.put("whose", tenant.into()).await.unwrap();
    }
    for tenant in TENANTS {
        // Billing reads what orders wrote: its own tenant's.
        let orders = enter(tenant, "billing").await.get_key_value("orders").await.unwrap();
        assert_eq!(orders.get("whose").await.unwrap().as_deref(), Some(tenant.as_bytes()));
    }
    // Users of each tenant's services are signed with that tenant's key, and with no other.
    let key = |tenant: &str| read(&deployment.files.seed_file(&format!("{tenant}-app")));
    assert_ne!(key("shop"), key("bank"));
    let without = read(&deployment.files.settings()).replace("\"keys/shop-app.nk\", ", "");
    let settings = deployment.files.dir.join("without.toml");
    std::fs::write(&settings, without).unwrap();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_solewriter"));
    let mut serve = std::process::Command::new(program);
    let output = serve
        .args(["serve", "--nats-servers", "nats://127.0.0.1:1", "--config"])
        .arg(&settings)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("APP_SHOP, and there is no seed of it"), "{said}");
}

on_every_server!(what_changes_for_one_changes_nothing_for_the_other);
async fn what_changes_for_one_changes_nothing_for_the_other(version: &'static str) {
    let mut deployment = start(Prepared::tenants(&TENANTS), version).await;
    let shop = connect(&deployment, "shop", "orders").await;
    let bank = connect(&deployment, "bank", "orders").await;
    let (shops, banks) = (bucket(&shop, "orders").await, bucket(&bank, "orders").await);
    shops.put("k", "1".into()).await.unwrap();
    banks.put("k", "1".into()).await.unwrap();

    // A revocation: whoever lost it is out at once, and the namesake stays.
    let file = policy_file(&deployment, "shop");
    let before = read(&file);
    edit(&file, "owns = [\"orders\"]\n", "");
    eventually("the connection to be closed", async || (shop.lost() > 0).then_some(())).await;
    assert_eq!(bank.lost(), 0);
    banks.put("k", "2".into()).await.unwrap();
    std::fs::write(&file, &before).unwrap();
    eventually("the owner to be back", async || shops.put("k", "2".into()).await.ok()).await;

    // A handover inside one tenant is settled there.
    let moved = before.replace("owns = [\"orders\"]\n", "");
    let moved = moved.replace("owns = [\"invoices\", ", "owns = [\"orders\", \"invoices\", ");
    std::fs::write(&file, moved.replace("reads = [\"orders\"]\n", "")).unwrap();
    let moved =
        deployment.instances[0].says_where("handed_over", |line| line["to"] == "billing").await;
    assert_eq!(moved["spans"][0]["tenant"], "shop", "{moved}");
    let billing = connect(&deployment, "shop", "billing").await;
    let now = bucket(&billing, "orders").await;
    eventually("the new owner to write", async || now.put("k", "3".into()).await.ok()).await;
    assert_eq!(bank.lost(), 0, "the other tenant's connections stay");

    // What is broken in one is refused there, with the place, and said at its metrics alone.
    edit(&policy_file(&deployment, "bank"), "[service.orders]", "[service.orders");
    let refusal = deployment.instances[0].says("policy_refused").await;
    assert_eq!(refusal["spans"][0]["tenant"], "bank", "{refusal}");
    assert!(refusal["problems"].as_str().unwrap().contains("services.toml"), "{refusal}");
    let loads = "solewriter_policy_loads_total";
    let refused = |tenant: &str| format!("{loads}{{tenant=\"{tenant}\",outcome=\"refused\"}}");
    assert_eq!(deployment.instances[0].metric(&refused("bank")).await, 1.0);
    assert_eq!(deployment.instances[0].metric(&refused("shop")).await, 0.0);
    connect(&deployment, "bank", "billing").await;
    connect(&deployment, "shop", "warehouse").await;
    let (status, ready) = deployment.instances[0].get("/readyz").await;
    assert_eq!(status, 200, "{ready}");
    let (shops, banks) = ready.split_once("tenant: bank\n").unwrap();
    assert!(banks.contains("changes refused") && !shops.contains("changes refused"), "{ready}");
}

on_the_newest_server!(a_tenant_without_a_policy_keeps_nobody_waiting, some_room);
async fn a_tenant_without_a_policy_keeps_nobody_waiting(version: &'static str) {
    let prepared = Prepared::tenants(&TENANTS);
    let file = prepared.files.policy().join("bank/services.toml");
    let whole = read(&file);
    std::fs::write(&file, "[service.orders\n").unwrap();
    let mut deployment = prepared.start_as_is(version).await;
    connect(&deployment, "shop", "orders").await;
    assert!(refused(&deployment, "bank", "orders").await);
    let denied = deployment.instances[0]
        .says_where("authorisation", |line| line["outcome"] == "denied")
        .await;
    assert_eq!(denied["reason"], "not_ready", "{denied}");
    assert!(denied["detail"].as_str().unwrap().contains("bank"), "{denied}");

    std::fs::write(&file, whole).unwrap();
    eventually("the policy to be in force", async || {
        (!refused(&deployment, "bank", "orders").await).then_some(())
    })
    .await;
}

on_the_newest_server!(a_policy_declares_no_more_than_its_quota, some_room);
async fn a_policy_declares_no_more_than_its_quota(version: &'static str) {
    let prepared = Prepared::tenants(&TENANTS);
    edit(&prepared.files.settings_of("bank"), "buckets = 200", "buckets = 3");
    let mut deployment = prepared.start_as_is(version).await;
    let more = deployment.files.policy().join("bank/more.toml");
    std::fs::write(&more, "[bucket.b1]\n[bucket.b2]\n").unwrap();
    let refusal = deployment.instances[0]
        .says_where("policy_refused", |line| line["spans"][0]["tenant"] == "bank")
        .await;
    let said = refusal["problems"].as_str().unwrap();
    assert!(said.contains("the tenant may have 3"), "{said}");
}

on_the_newest_server!(a_key_belongs_to_the_tenant_that_had_it_first, some_room);
async fn a_key_belongs_to_the_tenant_that_had_it_first(version: &'static str) {
    let mut deployment = start(Prepared::tenants(&TENANTS), version).await;
    let shop = connect(&deployment, "shop", "orders").await;
    let key = service(&deployment, "shop", "orders").key();
    let file = policy_file(&deployment, "bank");
    let before = read(&file);

    // The bank's author would have the shop's service write into the bank.
    let thief =
        format!("\n[service.thief]\nnkeys = [\"{key}\"]\nowns = [\"loot\"]\n[bucket.loot]\n");
    std::fs::write(&file, format!("{before}{thief}")).unwrap();
    let refusal = deployment.instances[0]
        .says_where("policy_refused", |line| line["spans"][0]["tenant"] == "bank")
        .await;
    let said = refusal["problems"].as_str().unwrap().to_owned();
    assert!(said.contains("the key of [service.thief] belongs to another tenant"), "{said}");
    assert!(said.contains("services.toml:") && said.contains(&key), "{said}");
    assert!(!said.contains("shop"), "whose it is, is not the bank's to know: {said}");
    assert_eq!(shop.lost(), 0);
    connect(&deployment, "shop", "orders").await;
    // Without the key, the rest of that change is as good as any.
    connect(&deployment, "bank", "orders").await;

    // A restart does not make it theirs: what was kept was in force before.
    stop(&mut deployment, 0).await;
    let again = deployment.add_instance(&[]).await;
    connect(&deployment, "shop", "orders").await;

    // Who starts without anything kept cannot know who came first. Nobody gets in with that key, and
    // everybody else does.
    stop(&mut deployment, again).await;
    for tenant in TENANTS {
        std::fs::remove_file(deployment.files.dir.join(format!("{tenant}.kept"))).unwrap();
    }
    let cold = deployment.add_instance(&[]).await;
    assert!(refused(&deployment, "shop", "orders").await);
    let denied = |line: &Value| line["reason"] == "claimed_twice";
    let denied = deployment.instances[cold].says_where("authorisation", denied).await;
    let said = denied["detail"].as_str().unwrap();
    assert!(said.contains("shop") && said.contains("bank"), "{said}");
    connect(&deployment, "shop", "billing").await;
    connect(&deployment, "bank", "orders").await;
    std::fs::write(&file, before).unwrap();
    eventually("the key to be the shop's again", async || {
        (!refused(&deployment, "shop", "orders").await).then_some(())
    })
    .await;
}

on_every_server!(each_tenant_pushes_into_a_bucket_of_its_own);
async fn each_tenant_pushes_into_a_bucket_of_its_own(version: &'static str) {
    let prepared = Prepared::tenants(&TENANTS);
    let policies = TENANTS.map(|tenant| prepared.files.policy().join(tenant));
    for tenant in TENANTS {
        edit(
            &prepared.files.settings_of(tenant),
            &format!("directory = \"../policy/{tenant}\""),
            "bucket = \"solewriter_policy\"",
        );
    }
    let mut deployment = prepared.start_server(version).await;
    deployment.launch_instance(&[]);
    for (tenant, policy) in TENANTS.into_iter().zip(&policies) {
        let ran = deployment
            .tool_of_tenant(
                tenant,
                &["policy", "push", policy.to_str().unwrap(), "--message", "why", "--yes"],
            )
            .await;
        assert_eq!(ran.code, 0, "{ran:?}");
        // Who pushes hears of the instances of its own tenant, and of its own policy there.
        assert!(ran.out.contains("1 instance"), "{ran:?}");
    }
    deployment.instances[0].says("ready").await;
    connect(&deployment, "shop", "orders").await;
    let bank = connect(&deployment, "bank", "orders").await;

    // A push of the one is no push of the other.
    edit(&policies[0].join("services.toml"), "Takes orders", "Takes all orders");
    let ran = deployment
        .tool_of_tenant(
            "shop",
            &["policy", "push", policies[0].to_str().unwrap(), "--message", "why", "--yes"],
        )
        .await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let number = |tenant: &str| format!("solewriter_policy_number{{tenant=\"{tenant}\"}}");
    assert_eq!(deployment.instances[0].metric(&number("shop")).await, 2.0);
    assert_eq!(deployment.instances[0].metric(&number("bank")).await, 1.0);
    assert_eq!(bank.lost(), 0);
    // The publisher of the one has no way to the other's bucket: it is in another account.
    let options = deployment.login("shop-publisher").custom_inbox_prefix("_INBOX.solewriter");
    let publisher = options.connect(deployment.url()).await.unwrap();
    publisher.publish("$KV.solewriter_policy.revision.2", "x".into()).await.unwrap();
    publisher.flush().await.unwrap();
    connect(&deployment, "bank", "billing").await;
    assert_eq!(deployment.instances[0].metric(&number("bank")).await, 1.0);
    // More than the quota is not even pushed.
    edit(&deployment.files.settings_of("bank"), "buckets = 200", "buckets = 1");
    let ran = deployment
        .tool_of_tenant(
            "bank",
            &["policy", "push", policies[1].to_str().unwrap(), "--message", "why", "--yes"],
        )
        .await;
    assert!(ran.code != 0 && ran.err.contains("the tenant may have 1"), "{ran:?}");
}

on_every_server!(a_connection_does_not_go_over_to_another_tenant);
/// A server before 2.11.17 leaves a connection its subscriptions when it sends CONNECT again: with the key
/// of a service of another tenant, it would keep what the first tenant takes from it.
async fn a_connection_does_not_go_over_to_another_tenant(version: &'static str) {
    let deployment = start(Prepared::tenants(&TENANTS), version).await;
    let mut raw = Raw::login(&deployment, &service(&deployment, "shop", "warehouse")).await;
    raw.subscribe("events.orders.>").await.unwrap();
    let entered = raw.enter(&again(&raw, &service(&deployment, "bank", "warehouse"))).await;
    if asked::is_open(version) {
        assert_eq!(entered, Err("Authorization Violation".to_owned()));
        raw.closed().await;
        return;
    }
    // A later one ends them.
    assert_eq!(entered, Ok(()));
    let shop = connect(&deployment, "shop", "orders").await;
    shop.client.publish("events.orders.new", "1".into()).await.unwrap();
    shop.client.flush().await.unwrap();
    raw.fence().await.unwrap();
    assert!(raw.delivered.is_empty(), "it kept its subscription");
}

on_every_server!(one_attacks_and_the_other_does_not_feel_it);
async fn one_attacks_and_the_other_does_not_feel_it(version: &'static str) {
    let deployment = start(Prepared::tenants(&TENANTS), version).await;
    let bank = connect(&deployment, "bank", "orders").await;
    let ran = deployment.tool_of_tenant("shop", &["prove", "--yes"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("held"), "{ran:?}");
    assert_eq!(bank.lost(), 0);
}
