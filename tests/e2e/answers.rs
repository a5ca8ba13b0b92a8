//! What the tools answer is what a real server does: `explain`, `who-can` and `diff` against the
//! connections of the very services.

use std::time::Duration;

use solewriter::policy_source::directory::Directory;
use solewriter_core::analysis::diff::diff;
use solewriter_core::analysis::query::{Question, Verb, may, signed, who_can};
use solewriter_core::grant::{Defaults, Grant, Side};
use solewriter_core::policy::model::Policy;
use solewriter_core::policy::validate::validate;
use solewriter_types::subject::Pattern;

use super::deployment::Deployment;
use super::raw::Raw;

const SERVICES: [&str; 5] = ["orders", "billing", "quotes", "lines", "idle"];

const POLICY: &str = r#"
[service.orders]
nkeys = ["{orders}"]
owns = ["orders"]
reads = ["rates/eur.>"]
publishes = ["events.orders.>", "metrics.*"]
calls = ["svc.quote"]

[service.billing]
nkeys = ["{billing}"]
owns = ["rates"]
reads = ["orders"]
subscribes = ["events.*", "events.>"]

[service.quotes]
nkeys = ["{quotes}"]
reads = ["rates"]
subscribes = ["metrics.*"]
answers = ["svc.quote"]

[service.lines]
nkeys = ["{lines}"]
owns = ["fulfilment/line.>"]

[service.idle]
nkeys = ["{idle}"]
"#;

/// Subjects near every rule, on both sides of its edge.
const SUBJECTS: [&str; 36] = [
    "$KV.orders.1001",
    "$KV.orders.a.b",
    "$KV.orders.>",
    "$KV.rates.eur",
    "$KV.rates.eur.x",
    "$KV.fulfilment.line.1",
    "$KV.fulfilment.line.>",
    "$KV.fulfilment.bill.1",
    "$KV.fulfilment.>",
    "events.orders.new",
    "events.orders.>",
    "events.orders",
    "events.billing",
    "events.>",
    "events.*",
    "metrics.cpu",
    "metrics.>",
    "metrics.*",
    "metrics.cpu.idle",
    "svc.quote",
    "svc.quote.x",
    "svc.>",
    "_INBOX.orders.x",
    "_INBOX.billing.>",
    "_INBOX.>",
    "$JS.API.STREAM.INFO.KV_orders",
    "$JS.API.STREAM.PURGE.KV_orders",
    "$JS.API.STREAM.DELETE.KV_orders",
    "$JS.API.STREAM.MSG.GET.KV_rates",
    "$JS.API.DIRECT.GET.KV_rates.$KV.rates.eur.x",
    "$JS.API.DIRECT.GET.KV_rates.$KV.rates.usd",
    "$JS.API.CONSUMER.CREATE.KV_orders",
    "$JS.API.CONSUMER.CREATE.KV_rates.n.$KV.rates.eur.>",
    "$JS.API.CONSUMER.CREATE.KV_rates.n.$KV.rates.>",
    "$SYS.REQ.SERVER.PING",
    "anything",
];

fn policy(deployment: &Deployment) -> Policy {
    let files = Directory::new(deployment.files.policy()).read().unwrap();
    validate(&files).unwrap().policy
}

fn defaults() -> Defaults {
    Defaults {
        account: "APP".into(),
        lifetime: Duration::from_secs(3600),
        audit: solewriter_core::grant::AuditStreams::default(),
    }
}

fn question(verb: Verb, subject: &str) -> Question {
    Question::parse(verb, subject).unwrap()
}

/// Whether the server lets a service do it.
async fn server_says(deployment: &Deployment, service: &str, verb: Verb, subject: &str) -> bool {
    let mut client = Raw::login(deployment, &deployment.service(service)).await;
    match verb {
        Verb::Subscribe => client.subscribe(subject).await.is_ok(),
        _ => client.publish(subject, b"").await.is_ok(),
    }
}

on_every_server!(the_answers_of_explain_are_the_servers);
/// For every service and subject, on both sides: the answer of `explain` is the server's.
async fn the_answers_of_explain_are_the_servers(version: &'static str) {
    let deployment = Deployment::start(version, POLICY).await;
    let policy = policy(&deployment);
    let mut yes = 0;
    for name in SERVICES {
        let grant = Grant::of(policy.service(name).unwrap(), &defaults()).unwrap();
        for subject in SUBJECTS {
            for verb in [Verb::Publish, Verb::Subscribe] {
                let answer = may(&grant, &question(verb, subject));
                let server = server_says(&deployment, name, verb, subject).await;
                assert_eq!(answer.accepted, server, "{name} {verb:?} {subject}: {answer:?}");
                yes += usize::from(server);
            }
        }
    }
    assert!(yes > 30, "the server accepted {yes}: hardly anything was compared");
}

/// Entries that others cover, beside denials.
const COVERED: &str = r#"
[stream.EVENTS]
subjects = ["events.>"]
[stream.EVENTS.consumer.shipping]

[service.orders]
nkeys = ["{orders}"]
owns = ["orders"]
publishes = ["metrics.>", "metrics.cpu", "metrics.*.idle", "jobs.*", "jobs.a"]
subscribes = ["news.>", "news.eu", "news.*.eu", "alerts.*", "alerts.a"]
replays = ["EVENTS"]
"#;

/// Subjects within what is left out, and beside it.
const NEAR_COVERED: [&str; 18] = [
    "metrics",
    "metrics.cpu.x",
    "metrics.x.idle",
    "jobs.b",
    "jobs.a.b",
    "jobs.>",
    "news",
    "news.eu.x",
    "news.x.eu",
    "news.*",
    "alerts.b",
    "alerts.a.b",
    "alerts.>",
    "$JS.FC.KV_orders.x.y",
    "$JS.FC.KV_other.x.y",
    "$JS.API.CONSUMER.DELETE.EVENTS.shipping",
    "$JS.API.CONSUMER.CREATE.EVENTS.shipping",
    "$JS.API.CONSUMER.CREATE.EVENTS.own.events.a",
];

on_every_server!(what_a_grant_leaves_out_the_server_takes_all_the_same);
/// Of each subject the server says what all entries of the rules would say, though some are not sent.
async fn what_a_grant_leaves_out_the_server_takes_all_the_same(version: &'static str) {
    let deployment = Deployment::start(version, COVERED).await;
    let policy = policy(&deployment);
    let grant = Grant::of(policy.service("orders").unwrap(), &defaults()).unwrap();
    let (publish, subscribe) = signed(&grant);
    let mut client = Raw::login(&deployment, &deployment.service("orders")).await;
    let mut told = [0, 0];
    for (side, sent) in [(Side::Publish, publish), (Side::Subscribe, subscribe)] {
        let all = grant.permissions(side);
        let deny: Vec<Pattern> = sent.deny.iter().map(|s| Pattern::parse(s).unwrap()).collect();
        let left_out: Vec<&str> = all.iter().map(|p| p.subject.as_str()).collect();
        let left_out = left_out.iter().filter(|s| !sent.allow.iter().any(|sent| sent == *s));
        assert!(left_out.count() > 2 && !deny.is_empty(), "{side:?}: {sent:?}");
        for asked in all.iter().map(|p| p.subject.as_str()).chain(NEAR_COVERED) {
            let denied = deny.iter().any(|entry| entry.matches_wire(asked));
            let given = !denied && all.iter().any(|p| p.subject.matches_wire(asked));
            let taken = match side {
                Side::Publish => client.publish(asked, b"").await.is_ok(),
                Side::Subscribe => client.subscribe(asked).await.is_ok(),
            };
            assert_eq!(taken, given, "{side:?} {asked}: {sent:?}");
            told[usize::from(taken)] += 1;
        }
    }
    assert!(told.iter().all(|told| *told > 15), "{told:?}: hardly anything was compared");
    // And who asks why is told of every rule.
    let answer = may(&grant, &question(Verb::Publish, "metrics.cpu"));
    let rules: Vec<String> =
        answer.rules().iter().map(|rule| grant.rules()[*rule].access.to_string()).collect();
    assert_eq!(rules, ["publishes metrics.>", "publishes metrics.cpu"]);
}

on_every_server!(who_can_names_those_whom_the_server_lets);
/// `who-can` names exactly those whom the server lets.
async fn who_can_names_those_whom_the_server_lets(version: &'static str) {
    let deployment = Deployment::start(version, POLICY).await;
    let policy = policy(&deployment);
    for (verb, subject) in [
        (Verb::Publish, "$KV.orders.1001"),
        (Verb::Publish, "$KV.fulfilment.line.7"),
        (Verb::Publish, "svc.quote"),
        (Verb::Publish, "$JS.API.STREAM.INFO.KV_rates"),
        (Verb::Publish, "nobody.may"),
        (Verb::Subscribe, "events.orders.new"),
        (Verb::Subscribe, "_INBOX.orders.x"),
    ] {
        let mut told: Vec<String> = who_can(&policy, &defaults(), &question(verb, subject))
            .unwrap()
            .into_iter()
            .map(|capable| capable.service.name.to_string())
            .collect();
        told.sort();
        let mut seen = Vec::new();
        for name in SERVICES {
            if server_says(&deployment, name, verb, subject).await {
                seen.push(name.to_owned());
            }
        }
        seen.sort();
        assert_eq!(told, seen, "{verb:?} {subject}");
    }
}

/// A stream with consumers, and an object store.
const KEPT: &str = r#"
[stream.EVENTS]
subjects = ["events.>"]
[stream.EVENTS.consumer.shipping]
filter = ["events.orders.>"]
[stream.EVENTS.consumer.reports]
shared = "either may write the report"
[stream.EVENTS.consumer.spare]
[store.invoices]

[service.orders]
nkeys = ["{orders}"]
publishes = ["events.orders.>"]

[service.billing]
nkeys = ["{billing}"]
owns = ["store:invoices"]
consumes = ["EVENTS/reports"]

[service.quotes]
nkeys = ["{quotes}"]
reads = ["store:invoices"]

[service.lines]
nkeys = ["{lines}"]
consumes = ["EVENTS/shipping", "EVENTS/reports"]

[service.idle]
nkeys = ["{idle}"]
"#;

/// Each question about them, and all subjects that a client publishes to for it.
fn kept() -> Vec<(Verb, &'static str, Vec<String>)> {
    let ack = |consumer: &str| {
        ["EVENTS", "_.ACtJ5Xr0.EVENTS"]
            .map(|s| format!("$JS.ACK.{s}.{consumer}.1.7.7.1795919999.0"))
    };
    let consume = |consumer: &str| {
        let api = ["INFO", "MSG.NEXT"].map(|s| format!("$JS.API.CONSUMER.{s}.EVENTS.{consumer}"));
        api.into_iter().chain(ack(consumer)).collect::<Vec<_>>()
    };
    let read = [
        "$JS.API.STREAM.INFO.OBJ_invoices",
        "$JS.API.STREAM.MSG.GET.OBJ_invoices",
        "$JS.API.DIRECT.GET.OBJ_invoices.$O.invoices.M.x",
        "$JS.API.CONSUMER.CREATE.OBJ_invoices",
        "$JS.API.CONSUMER.CREATE.OBJ_invoices.x.$O.invoices.M.>",
        "$JS.API.CONSUMER.DELETE.OBJ_invoices.x",
    ];
    let write = ["$O.invoices.C.x", "$O.invoices.M.x", "$JS.API.STREAM.PURGE.OBJ_invoices"];
    let all = |subjects: &[&str]| subjects.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    vec![
        (Verb::Consume, "EVENTS/shipping", consume("shipping")),
        (Verb::Consume, "EVENTS/reports", consume("reports")),
        (Verb::Consume, "EVENTS/spare", consume("spare")),
        (Verb::Ack, "EVENTS/shipping", ack("shipping").to_vec()),
        (Verb::Ack, "EVENTS/reports", ack("reports").to_vec()),
        (Verb::Write, "store:invoices", all(&write)),
        (Verb::Read, "store:invoices", all(&read)),
        (Verb::Publish, "events.orders.new", all(&["events.orders.new"])),
    ]
}

on_every_server!(what_is_said_of_streams_and_stores_is_what_the_server_does);
/// Whom `who-can` names, the server lets publish each subject of it; of everybody else it takes none.
async fn what_is_said_of_streams_and_stores_is_what_the_server_does(version: &'static str) {
    let deployment = Deployment::start(version, KEPT).await;
    let policy = policy(&deployment);
    for (verb, target, subjects) in kept() {
        let asked = question(verb, target);
        asked.check_names(&policy).unwrap();
        let told = who_can(&policy, &defaults(), &asked).unwrap();
        let told: Vec<&str> = told.iter().map(|capable| &*capable.service.name).collect();
        let mut seen = 0;
        for name in SERVICES {
            let mut client = Raw::login(&deployment, &deployment.service(name)).await;
            for subject in &subjects {
                let taken = client.publish(subject, b"").await.is_ok();
                assert_eq!(taken, told.contains(&name), "{verb:?} {target}: {name} {subject}");
                seen += usize::from(taken);
            }
        }
        assert_eq!(seen, told.len() * subjects.len());
        assert_eq!(told.is_empty(), target == "EVENTS/spare", "{target}: {told:?}");
    }
}

on_every_server!(a_consumer_that_diff_says_changes_hands_does);
/// What `diff` says of a consumer and a store, the server does from then on.
async fn a_consumer_that_diff_says_changes_hands_does(version: &'static str) {
    let mut deployment = Deployment::start(version, KEPT).await;
    let old = policy(&deployment);
    let handed_over = KEPT
        .replace("consumes = [\"EVENTS/shipping\", \"EVENTS/reports\"]", "")
        .replace("owns = [\"store:invoices\"]", "reads = [\"store:invoices\"]")
        .replace(
            "nkeys = [\"{idle}\"]",
            "nkeys = [\"{idle}\"]\nconsumes = [\"EVENTS/shipping\"]\nowns = [\"store:invoices\"]",
        );
    deployment.write_policy(&handed_over);
    deployment.instances[0].says("policy_changed").await;
    // What moves is in transit until the old owner's connections are closed.
    deployment.instances[0].says("handover_settled").await;
    let new = policy(&deployment);
    let change = diff(&old, &new, &defaults()).unwrap();
    let said = |name: &str, gained: bool| -> Vec<String> {
        let of_service = change.services.iter().find(|change| &*change.service == name).unwrap();
        if gained { of_service.all_gains().collect() } else { of_service.all_losses().collect() }
    };
    assert_eq!(said("lines", false), ["consume EVENTS/reports", "consume EVENTS/shipping"]);
    assert_eq!(said("billing", false), ["write store:invoices"]);
    let gained = ["write store:invoices", "read store:invoices", "consume EVENTS/shipping"];
    assert_eq!(said("idle", true), gained);
    let next = "$JS.API.CONSUMER.MSG.NEXT.EVENTS.shipping";
    for (name, subject, taken) in [
        ("lines", next, false),
        ("idle", next, true),
        ("billing", "$O.invoices.C.x", false),
        ("billing", "$JS.API.STREAM.INFO.OBJ_invoices", true),
        ("idle", "$O.invoices.C.x", true),
    ] {
        let server = server_says(&deployment, name, Verb::Publish, subject).await;
        assert_eq!(server, taken, "{name} {subject}");
    }
}

on_every_server!(what_diff_says_is_lost_the_server_refuses);
/// What `diff` says is lost, the server refuses from then on; what it says is gained, it lets.
async fn what_diff_says_is_lost_the_server_refuses(version: &'static str) {
    let mut deployment = Deployment::start(version, POLICY).await;
    let old = policy(&deployment);
    let write = "$KV.orders.1001";
    assert!(server_says(&deployment, "orders", Verb::Publish, write).await);
    assert!(!server_says(&deployment, "idle", Verb::Publish, write).await);

    let handed_over = POLICY
        .replace("owns = [\"orders\"]\n", "")
        .replace("nkeys = [\"{idle}\"]", "nkeys = [\"{idle}\"]\nowns = [\"orders\"]");
    deployment.write_policy(&handed_over);
    deployment.instances[0].says("policy_changed").await;
    // What moves is in transit until the old owner's connections are closed.
    deployment.instances[0].says("handover_settled").await;
    let new = policy(&deployment);
    let change = diff(&old, &new, &defaults()).unwrap();
    let changed = |name: &str| change.services.iter().find(|s| &*s.service == name).unwrap();
    assert!(changed("orders").loses() && changed("idle").gains(), "{change:?}");
    assert_eq!(change.transfers.len(), 1, "{change:?}");

    assert!(!server_says(&deployment, "orders", Verb::Publish, write).await);
    assert!(server_says(&deployment, "idle", Verb::Publish, write).await);
}
