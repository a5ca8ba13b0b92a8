//! A company with a stream, an object store, and services that are found, under the grants of its
//! policy: what the client libraries do goes without a violation, and what needs more is refused.

use std::collections::BTreeMap;

use serde_json::json;

use super::deployment::{Deployment, Prepared, Violation};
use super::operations;
use super::stream_clients::{GO, JAVASCRIPT, Library, PYTHON, RUST, program, rust};

const POLICY: &str = r#"
[stream.EVENTS]
subjects = ["events.>"]
storage = "memory"

[stream.EVENTS.consumer.shipping]
filter = ["events.orders.>"]

[stream.EVENTS.consumer.own]
filter = ["events.orders.>"]
made_by = "service"

[stream.EVENTS.consumer.pushed]
filter = ["events.orders.>"]
push = true

[stream.JOBS]
subjects = ["jobs.>"]
retention = "workqueue"
storage = "memory"

[stream.JOBS.consumer.workers]

[store.invoices]
storage = "memory"

[service.orders]
nkeys = ["{orders}"]
publishes = ["events.orders.>", "jobs.>"]

[service.shipping]
nkeys = ["{shipping}"]
consumes = ["EVENTS/shipping", "EVENTS/own", "EVENTS/pushed", "JOBS/workers"]

[service.reports]
nkeys = ["{reports}"]
replays = ["EVENTS/events.orders.>"]

[service.invoices]
nkeys = ["{invoices}"]
owns = ["store:invoices"]

[service.archive]
nkeys = ["{archive}"]
reads = ["store:invoices"]

[service.quotes]
nkeys = ["{quotes}"]
found_as = ["quotes-api"]
answers = ["quotes.get"]
calls = ["quotes.get"]

[service.shop]
nkeys = ["{shop}"]
discovers = ["quotes-api"]
"#;

/// What no grant of this company's covers, beside what the library is never granted.
const REFUSED: [&str; 2] = ["found_by_subject", "manager"];

/// The service that does a step.
fn service(step: &str) -> &'static str {
    match step {
        "publish" | "publish_async" => "orders",
        "fetch" | "consume" | "subscribed" | "found_by_subject" | "manager" | "push"
        | "own_durable" | "work" => "shipping",
        "store_get" | "store_list" | "store_watch" => "archive",
        "found" => "quotes",
        "finds" => "shop",
        _ if step.starts_with("store_") => "invoices",
        _ => "reports",
    }
}

/// Makes what the policy declares, and puts something in it.
async fn create(deployment: &Deployment) {
    deployment.apply(&[]).await;
    let admin = deployment.admin().await;
    for _ in 0..200 {
        admin.publish("events.orders.1", "x".into()).await.unwrap().await.unwrap();
    }
    for job in ["1", "2"] {
        admin.publish("jobs.print", job.into()).await.unwrap().await.unwrap();
    }
    let store = admin.get_object_store("invoices").await.unwrap();
    store.put("a", &mut vec![7; 300_000].as_slice()).await.unwrap();
}

type Failures = BTreeMap<String, Option<String>>;

/// Runs these steps at the last node, each as its service. Nothing where the library cannot be had.
async fn run(deployment: &Deployment, library: Library, steps: &[&str]) -> Option<Failures> {
    let url = deployment.urls().pop().unwrap();
    if library.steps != RUST.steps {
        let logins: Vec<_> = steps
            .iter()
            .map(|step| {
                let service = service(step);
                let seed_file = deployment.service(service).seed_file;
                json!({"step": step, "service": service, "seed_file": seed_file})
            })
            .collect();
        let file = deployment.files.dir.join("logins.json");
        std::fs::write(&file, json!(logins).to_string()).unwrap();
        let file = file.to_str().unwrap();
        return program(library, &["--server", &url, "--as", file]).await;
    }
    let mut failures = Failures::new();
    for step in steps {
        let service = deployment.service(service(step));
        let (client, _) = operations::connect(&url, &service).await.unwrap();
        let running = Box::pin(rust(step, client.clone()));
        let outcome = tokio::time::timeout(std::time::Duration::from_secs(20), running).await;
        let error = outcome.unwrap_or_else(|_| Err("no end".into())).err();
        failures.insert((*step).to_owned(), error.map(|error| error.to_string()));
        client.flush().await.unwrap();
    }
    Some(failures)
}

/// What a library does that is refused, and what it may.
fn parted(library: Library) -> (Vec<&'static str>, Vec<&'static str>) {
    let is_refused = |step: &&str| library.refused.contains(step) || REFUSED.contains(step);
    library.steps.iter().copied().partition(is_refused)
}

/// Whatever it may goes without a violation. Nothing where the library cannot be had.
async fn may(deployment: &Deployment, library: Library) -> Option<()> {
    let (_, granted) = parted(library);
    let mut failures = run(deployment, library, &granted).await?;
    if deployment.nodes().count() > 1 {
        // A consumer that was just made may not be led yet, and then nobody answers (503).
        let failed: Vec<&str> =
            granted.iter().copied().filter(|step| failures[*step].is_some()).collect();
        if !failed.is_empty() {
            failures.extend(run(deployment, library, &failed).await?);
        }
    }
    let failed = failures.iter().filter(|(_, error)| error.is_some());
    assert_eq!(failed.collect::<Vec<_>>(), [], "{failures:#?}");
    assert_eq!(failures.len(), granted.len());
    assert_eq!(deployment.violations(), [] as [Violation; 0]);
    Some(())
}

async fn works(version: &'static str, library: Library) {
    let deployment = Prepared::new().without_buckets().start(version, POLICY).await;
    create(&deployment).await;
    let Some(()) = may(&deployment, library).await else { return };

    let (refused, _) = parted(library);
    let failures = run(&deployment, library, &refused).await.unwrap();
    let done = failures.iter().filter(|(_, error)| error.is_none());
    assert_eq!(done.collect::<Vec<_>>(), [], "{failures:#?}");
    let met: Vec<String> = deployment.violations().into_iter().map(|v| v.service).collect();
    for step in &refused {
        assert!(met.contains(&service(step).to_owned()), "{step} met no violation: {met:?}");
    }
}

on_every_server!(a_company_works_with_async_nats);
async fn a_company_works_with_async_nats(version: &'static str) {
    works(version, RUST).await;
}

on_every_server!(a_company_works_with_nats_py);
async fn a_company_works_with_nats_py(version: &'static str) {
    works(version, PYTHON).await;
}

on_every_server!(a_company_works_with_nats_js);
async fn a_company_works_with_nats_js(version: &'static str) {
    works(version, JAVASCRIPT).await;
}

on_every_server!(a_company_works_with_nats_go);
async fn a_company_works_with_nats_go(version: &'static str) {
    works(version, GO).await;
}

/// In a cluster of three, all libraries do what they may, too. What is refused waits long, and each
/// node refuses it as one server does.
mod a_company_works_in_a_cluster {
    on_server!(a_company_works_in_a_cluster, some_room, v2_15_1, "2.15.1");
}
async fn a_company_works_in_a_cluster(version: &'static str) {
    let policy = POLICY.replace("storage = \"memory\"", "storage = \"memory\"\nreplicas = 3");
    let prepared = Prepared::new().without_buckets();
    let mut deployment = prepared.start_cluster(version, &policy).await;
    deployment.add_instance(&[]).await;
    for library in [RUST, PYTHON, JAVASCRIPT, GO] {
        create(&deployment).await;
        may(&deployment, library).await;
        let admin = deployment.admin().await;
        admin.delete_stream("EVENTS").await.unwrap();
        admin.delete_stream("JOBS").await.unwrap();
        admin.delete_object_store("invoices").await.unwrap();
    }
}
