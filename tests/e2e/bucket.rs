//! The policy in its bucket: a fleet, the tools, and what goes wrong.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use rustix::process::Signal;
use serde_json::Value;
use solewriter::keyspace::BucketName;
use solewriter::policy::bucket::Bucket;
use solewriter::policy::bucket::entry::{Entry, Words};
use solewriter::policy::bucket::write::PushError;
use solewriter::policy::directory::Directory;
use solewriter::source::SourceFile;
use tokio::process::Command;

use super::deployment::{Deployment, Instance, Prepared, eventually};
use super::raw::Raw;

const BUCKET: &str = "solewriter_policy";

pub const ONE: &str = r#"
[service.orders]
nkeys = ["{orders}"]
owns = ["orders"]

[service.billing]
nkeys = ["{billing}"]
publishes = ["events.billing.>"]
"#;

pub const TWO: &str = r#"
[service.orders]
nkeys = ["{orders}"]
owns = ["orders", "more"]
"#;

/// A deployment whose instances follow the bucket.
pub fn prepared() -> Prepared {
    let prepared = Prepared::new();
    // The assertions about the sample policy, which is another one.
    std::fs::remove_file(prepared.files.policy().join("services.test.toml")).unwrap();
    prepared.with_settings("directory = \"policy\"", &format!("bucket = \"{BUCKET}\""))
}

/// Runs `solewriter policy ...`. Gives the exit code and what it printed.
pub async fn policy(deployment: &Deployment, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .args(["policy", arguments[0], "--config"])
        .arg(deployment.files.settings())
        .args(["--nats-servers", &deployment.urls().join(",")])
        .args(&arguments[1..])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout) + &text(output.stderr))
}

/// Pushes a policy with the tool, as somebody.
pub async fn push(deployment: &Deployment, text: &str, more: &[&str]) -> (i32, String) {
    deployment.write_policy(text);
    let dir = deployment.files.policy().display().to_string();
    let arguments = ["push", &dir, "--yes", "--author", "lea", "-m", "because"];
    policy(deployment, &[&arguments[..], more].concat()).await
}

async fn pushed(deployment: &Deployment, text: &str) -> String {
    let (code, said) = push(deployment, text, &[]).await;
    assert_eq!(code, 0, "{said}");
    said
}

/// The bucket, as whoever may write it sees it.
pub async fn bucket(deployment: &Deployment) -> Bucket {
    let options =
        async_nats::ConnectOptions::with_nkey(deployment.seed("publisher").expose().to_owned());
    let options = options.custom_inbox_prefix("_INBOX.solewriter").retry_on_initial_connect();
    let client = options.connect(deployment.urls()).await.unwrap();
    Bucket::new(client, BucketName::parse(BUCKET).unwrap())
}

pub fn words(message: &str) -> Words {
    let (author, message) = ("lea".to_owned(), message.to_owned());
    Words { author, message, time: jiff::Timestamp::now().as_second(), rollback_of: None }
}

/// Pushes without the tool, and so without asking whether the policy holds.
pub async fn push_unasked(bucket: &Bucket, files: &[SourceFile]) -> Result<Entry, PushError> {
    let head = bucket.head().await.unwrap();
    bucket.push(head.as_ref(), files, words("unasked"), rand::random()).await
}

/// Waits until an instance serves that number of the bucket.
pub async fn serves(instance: &mut Instance, number: u64) {
    eventually(&format!("revision {number} in {}", instance.log.display()), async || {
        let found = instance.metric("solewriter_policy_number").await;
        #[allow(clippy::cast_precision_loss)]
        (found >= number as f64).then_some(())
    })
    .await;
}

async fn writes(deployment: &Deployment, service: &str, subject: &str) -> Result<(), String> {
    Raw::login(deployment, &deployment.service(service)).await.publish(subject, b"1").await
}

async fn enters(deployment: &Deployment, service: &str) -> Result<(), String> {
    Raw::try_login(deployment.url(), &deployment.service(service).seed).await.map(drop)
}

/// The bucket's stream, as nobody but the administrator of the server may: there is no user who
/// may delete it, so one is made for the test.
const KEEPER: &str = "UKEEPER";

fn with_keeper(prepared: Prepared) -> (Prepared, solewriter::keys::Seed<solewriter::keys::User>) {
    let seed = solewriter::keys::Seed::<solewriter::keys::User>::generate();
    let key = solewriter::keys::Signer::new(&seed).unwrap().public().to_string();
    let user = format!("users: [ {{ nkey: {key} }} ] # {KEEPER}");
    let listed = format!("auth_users: [ {key}, $CALLOUT_KEY");
    let prepared = prepared
        .with_server(
            "POLICY {\n    jetstream: enabled\n",
            &format!("POLICY {{\n    jetstream: enabled\n    {user}\n"),
        )
        .with_server("auth_users: [ $CALLOUT_KEY", &listed);
    (prepared, seed)
}

async fn keeper(
    deployment: &Deployment,
    seed: &solewriter::keys::Seed<solewriter::keys::User>,
) -> jetstream::Context {
    let options = async_nats::ConnectOptions::with_nkey(seed.expose().to_owned());
    jetstream::new(options.connect(deployment.url()).await.unwrap())
}

on_every_server!(a_fleet_waits_for_its_bucket_and_follows_it);
async fn a_fleet_waits_for_its_bucket_and_follows_it(version: &'static str) {
    let mut deployment = prepared().start_broker(version, ONE).await;
    for _ in 0..2 {
        deployment.launch_instance(&[]);
    }
    for instance in &mut deployment.instances {
        let waiting = instance.says("policy_source_waiting").await;
        assert_eq!(waiting["state"], "missing", "{waiting}");
        let (status, report) = instance.get("/readyz").await;
        assert_eq!(status, 503);
        let said = "waiting for the policy bucket solewriter_policy: it does not exist yet";
        assert!(report.contains(said) && report.contains("policy: none yet"), "{report}");
    }
    assert!(enters(&deployment, "billing").await.is_err(), "nobody decides without a policy");

    let said = pushed(&deployment, ONE).await;
    for part in [
        "the first revision, 2 services",
        "created the policy bucket solewriter_policy on 1 server",
        "pushed revision 1 (",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    // Not ready instances answer who asks too; they are waited for.
    assert!(said.contains("all 2 instances serve it"), "{said}");
    for instance in &mut deployment.instances {
        assert_eq!(instance.says("ready").await["event"], "ready");
    }
    assert_eq!(enters(&deployment, "billing").await, Ok(()));

    let said = pushed(&deployment, TWO).await;
    assert!(said.contains("billing (removed)") && said.contains("all 2 instances"), "{said}");
    for instance in &mut deployment.instances {
        let line = instance.says("policy_changed").await;
        assert_eq!((&line["number"], &line["author"]), (&2.into(), &"lea".into()), "{line}");
        let (status, report) = instance.get("/readyz").await;
        assert!(status == 200 && report.contains(" (number 2), the newest\n"), "{report}");
    }
    assert_eq!(writes(&deployment, "orders", "$KV.more.a").await, Ok(()));
    assert_eq!(enters(&deployment, "billing").await, Err("Authorization Violation".to_owned()));

    let (code, said) = push(&deployment, TWO, &[]).await;
    assert!(code == 0 && said.contains("nothing to push: revision 2 is this policy"), "{said}");
    let (code, said) = push(&deployment, ONE, &["--expect", "1"]).await;
    assert!(code == 1 && said.contains("revision 2 is the newest, not 1"), "{said}");
    let (code, said) = push(&deployment, "[service.a]\nown = [\"x\"]", &[]).await;
    assert!(code == 1 && said.contains("test.toml:2:1") && said.contains("owns"), "{said}");
    assert!(said.contains("nothing was pushed"), "{said}");
}

on_every_server!(what_was_pushed_is_logged_shown_pulled_and_rolled_back);
async fn what_was_pushed_is_logged_shown_pulled_and_rolled_back(version: &'static str) {
    let mut deployment = prepared().start_broker(version, ONE).await;
    let (code, said) = policy(&deployment, &["log"]).await;
    assert!(code == 2 && said.contains("solewriter_policy does not exist"), "{said}");
    let (code, said) = policy(&deployment, &["status"]).await;
    assert!(code == 1 && said.contains("no instance answers"), "{said}");
    pushed(&deployment, ONE).await;
    deployment.add_instance(&[]).await;
    pushed(&deployment, TWO).await;

    let (code, said) = policy(&deployment, &["log", "--format", "json"]).await;
    let log: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, log.as_array().unwrap().len()), (0, 2));
    assert_eq!((&log[0]["number"], &log[1]["number"]), (&2.into(), &1.into()));
    assert_eq!((&log[0]["author"], &log[0]["message"]), (&"lea".into(), &"because".into()));
    let first = log[1]["revision"].as_str().unwrap().to_owned();
    let (_, said) = policy(&deployment, &["log", "-n", "1"]).await;
    assert!(said.contains("lea: because\nand 1 older revision\n"), "{said}");

    // By number and by policy revision.
    for name in ["1", &first[..6]] {
        let (code, said) = policy(&deployment, &["show", name]).await;
        assert!(code == 0 && said.contains("[service.billing]"), "{said}");
        assert!(said.contains("# test.toml\n") && said.contains("# buckets.toml\n"), "{said}");
    }
    assert_eq!(policy(&deployment, &["show", "3"]).await.0, 2);

    let dir = deployment.dir.path().join("pulled");
    let name = dir.display().to_string();
    let (code, said) = policy(&deployment, &["pull", &name, "--revision", "1"]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(revision(&dir), first);
    // What is there is not overwritten, unless told so.
    std::fs::write(dir.join("mine.toml"), "").unwrap();
    let (code, said) = policy(&deployment, &["pull", &name]).await;
    assert_eq!(code, 1);
    for part in ["  mine.toml is not part of", "  test.toml differs", "nothing was written"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(dir.join("mine.toml").exists());
    let (code, said) = policy(&deployment, &["pull", &name, "--force"]).await;
    assert!(code == 0 && said.contains("is revision 2"), "{said}");
    assert!(!dir.join("mine.toml").exists());

    let (code, said) = policy(&deployment, &["rollback", "1", "--yes", "--author", "max"]).await;
    assert!(
        code == 0 && said.contains("pushed revision 3") && said.contains("billing (new)"),
        "{said}"
    );
    assert_eq!(enters(&deployment, "billing").await, Ok(()));
    let (_, said) = policy(&deployment, &["log"]).await;
    assert!(said.contains("max: roll back to 1 (documents of 1)"), "{said}");
    let (code, said) = policy(&deployment, &["status"]).await;
    assert!(
        code == 0 && said.contains("newest: revision 3") && said.contains(&first[..12]),
        "{said}"
    );
}

fn revision(dir: &Path) -> String {
    let files = Directory::new(dir).read().unwrap();
    solewriter::policy::validate::revision(&files).whole().to_owned()
}

on_every_server!(an_invalid_push_changes_nothing_and_everyone_hears);
/// A push that does not hold, from a tool that did not look or of another version.
async fn an_invalid_push_changes_nothing_and_everyone_hears(version: &'static str) {
    let mut deployment = prepared().start_broker(version, ONE).await;
    pushed(&deployment, ONE).await;
    for _ in 0..2 {
        deployment.add_instance(&[]).await;
    }
    let bucket = bucket(&deployment).await;
    let wrong = SourceFile::new("test.toml", "[service.orders]\nown = [\"orders\"]\n");
    let entry = push_unasked(&bucket, &[wrong]).await.unwrap();
    for instance in &mut deployment.instances {
        let line = instance.says("policy_refused").await;
        assert_eq!((&line["level"], &line["number"]), (&"ERROR".into(), &entry.number.into()));
        assert!(line["audit"].is_string(), "it is no audit event: {line}");
        let problems = line["problems"].as_str().unwrap();
        assert!(problems.contains("test.toml:2:1") && problems.contains("owns"), "{problems}");
        let (status, report) = instance.get("/readyz").await;
        assert!(status == 200 && report.contains("(number 1), changes refused for"), "{report}");
        assert!(instance.metric("solewriter_policy_refused_since_timestamp_seconds").await > 1e9);
        // It is judged once, however often it is looked at.
        let refused = "solewriter_policy_loads_total{outcome=\"refused\"}";
        assert_eq!(instance.metric(refused).await, 1.0);
    }
    let (code, said) = policy(&deployment, &["status"]).await;
    assert_eq!(code, 1);
    for part in ["has refused revision 2", "unknown key `own`", "not all instances"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    assert_eq!(enters(&deployment, "billing").await, Ok(()));
    // An entry that is none at all.
    let subject = format!("$KV.{BUCKET}.revision.3");
    let context = jetstream::new(bucket.client().clone());
    context.publish(subject, "{}".into()).await.unwrap().await.unwrap();
    for instance in &mut deployment.instances {
        instance.says_times("policy_refused", 2).await;
        instance.signal(Signal::HUP);
        instance.says_times("policy_refused", 3).await;
    }
    assert_eq!(enters(&deployment, "billing").await, Ok(()));
}

on_every_server!(where_nobody_can_be_asked_nothing_is_pushed);
/// A push asks, unless it is told not to; an answer that nobody can give is no.
async fn where_nobody_can_be_asked_nothing_is_pushed(version: &'static str) {
    let deployment = prepared().start_broker(version, ONE).await;
    pushed(&deployment, ONE).await;
    pushed(&deployment, TWO).await;
    let bucket = bucket(&deployment).await;
    let before = bucket.head().await.unwrap();
    deployment.write_policy(ONE);
    let dir = deployment.files.policy().display().to_string();
    for arguments in [&["push", &dir, "-m", "because"][..], &["rollback", "1"]] {
        let (code, said) = policy(&deployment, &[arguments, &["--author", "lea"]].concat()).await;
        assert!(code != 0 && said.contains("say --yes to push without being asked"), "{said}");
        assert_eq!(bucket.head().await.unwrap(), before);
    }
}

on_every_server!(of_two_who_push_at_once_one_wins);
async fn of_two_who_push_at_once_one_wins(version: &'static str) {
    let mut deployment = prepared().start_broker(version, ONE).await;
    pushed(&deployment, ONE).await;
    deployment.add_instance(&[]).await;
    // Each has many documents of its own, so that half of one and half of the other would show.
    let folders: Vec<_> = (0..2)
        .map(|who| {
            let dir = deployment.dir.path().join(format!("of-{who}"));
            std::fs::create_dir(&dir).unwrap();
            dir
        })
        .collect();
    for round in 1..=5u64 {
        for (who, dir) in folders.iter().enumerate() {
            for file in 0..10 {
                let text = format!("[service.s{file}]\npublishes = [\"e{who}.{round}\"]\n");
                std::fs::write(dir.join(format!("{file}.toml")), text).unwrap();
            }
        }
        let names: Vec<String> = folders.iter().map(|dir| dir.display().to_string()).collect();
        let one = |at: usize| {
            let arguments = [
                "push",
                &names[at],
                "--yes",
                "--author",
                ["a", "b"][at],
                "-m",
                "m",
                "--wait",
                "0s",
            ];
            let deployment = &deployment;
            async move { policy(deployment, &arguments).await }
        };
        let (a, b) = tokio::join!(one(0), one(1));
        let newest = round + 1;
        let bucket = bucket(&deployment).await;
        let mut head = bucket.head().await.unwrap().unwrap();
        if head.number > newest {
            // One began after the other had ended, and saw what it had pushed.
            assert_eq!((a.0, b.0), (0, 0));
            head = bucket.revision(newest).await.unwrap().unwrap();
        } else {
            let (lost, winner) = if a.0 == 0 { (&b, 0) } else { (&a, 1) };
            assert_eq!((a.0.min(b.0), a.0.max(b.0)), (0, 1), "{a:?}\n{b:?}");
            let told =
                format!("somebody pushed meanwhile: revision {newest} by {}", ["a", "b"][winner]);
            assert!(lost.1.contains(&told), "{}", lost.1);
            assert_eq!(head.author, ["a", "b"][winner]);
        }
        // Nothing is mixed.
        let who = usize::from(head.author == "b");
        let files = bucket.files(&head).await.unwrap();
        assert_eq!(files, Directory::new(&folders[who]).read().unwrap());
        let newest = bucket.head().await.unwrap().unwrap().number;
        serves(&mut deployment.instances[0], newest).await;
        if newest > round + 1 {
            return;
        }
    }
}

on_every_server!(an_instance_that_slept_through_a_push_grants_nothing_old);
/// The one who knows nothing grants nothing from it: an instance that was stopped while the policy
/// changed looks first.
async fn an_instance_that_slept_through_a_push_grants_nothing_old(version: &'static str) {
    let mut deployment = prepared().start_broker(version, ONE).await;
    pushed(&deployment, ONE).await;
    // It would not hear of it by itself for long.
    deployment.add_instance(&["--policy-poll", "1h"]).await;
    assert_eq!(enters(&deployment, "billing").await, Ok(()));
    for (round, text) in [TWO, ONE, TWO].into_iter().enumerate() {
        let before = 1 + 2 * round;
        deployment.instances[0].says_times("authorisation", before).await;
        deployment.instances[0].pause();
        let stopped = Instant::now();
        let (code, said) = push(&deployment, text, &["--wait", "0s"]).await;
        assert_eq!(code, 0, "{said}");
        let services = ["orders", "billing"].map(|name| deployment.service(name));
        let url = deployment.url().to_owned();
        let waiting: Vec<_> = services
            .map(|service| {
                let url = url.clone();
                tokio::spawn(async move { Raw::try_login(&url, &service.seed).await.map(drop) })
            })
            .into();
        // Longer than what counts as asleep, shorter than what a server waits for an answer.
        tokio::time::sleep_until((stopped + Duration::from_millis(1500)).into()).await;
        deployment.instances[0].signal(Signal::CONT);
        let mut entered = Vec::new();
        for one in waiting {
            entered.push(one.await.unwrap().is_ok());
        }
        assert_eq!(entered, [true, text == ONE], "round {round}");
        let wanted = revision(&deployment.files.policy());
        let decided = deployment.instances[0].says_times("authorisation", before + 2).await;
        for line in &decided[before..] {
            assert_eq!(line["revision"], wanted.as_str(), "{line}");
        }
    }
}

on_every_server!(a_deleted_bucket_costs_nothing_but_updates);
async fn a_deleted_bucket_costs_nothing_but_updates(version: &'static str) {
    let (prepared, seed) = with_keeper(prepared());
    let mut deployment = prepared.start_broker(version, ONE).await;
    pushed(&deployment, ONE).await;
    pushed(&deployment, TWO).await;
    pushed(&deployment, ONE).await;
    deployment.add_instance(&["--policy-poll", "1s"]).await;
    keeper(&deployment, &seed).await.delete_stream(format!("KV_{BUCKET}")).await.unwrap();
    let instance = &mut deployment.instances[0];
    let line = instance.says("policy_source_gone").await;
    assert_eq!((&line["level"], &line["state"]), (&"ERROR".into(), &"missing".into()), "{line}");
    let (status, report) = instance.get("/readyz").await;
    assert!(
        status == 200 && report.contains("solewriter_policy is gone; it last answered"),
        "{report}"
    );
    assert_eq!(instance.metric("solewriter_policy_source_up").await, 0.0);
    assert_eq!(enters(&deployment, "billing").await, Ok(()));

    // Made anew, it begins at 1 again, and is another one.
    let said = pushed(&deployment, TWO).await;
    assert!(
        said.contains("created the policy bucket") && said.contains("pushed revision 1 "),
        "{said}"
    );
    let instance = &mut deployment.instances[0];
    let line = instance.says("policy_bucket_replaced").await;
    assert_eq!((&line["before"], &line["number"]), (&3.into(), &1.into()), "{line}");
    assert_eq!(instance.says_times("policy_source_gone", 1).await.len(), 1, "told of once");
    assert_eq!(instance.metric("solewriter_policy_source_up").await, 1.0);
    assert!(enters(&deployment, "billing").await.is_err());
}

on_every_server!(a_revision_is_never_overwritten);
/// The bucket is written once: neither its user nor an older state of it changes what was pushed.
async fn a_revision_is_never_overwritten(version: &'static str) {
    let mut deployment = prepared().start_broker(version, ONE).await;
    pushed(&deployment, ONE).await;
    pushed(&deployment, TWO).await;
    deployment.add_instance(&["--policy-poll", "1s"]).await;
    let bucket = bucket(&deployment).await;
    let context = jetstream::new(bucket.client().clone());
    let before = bucket.head().await.unwrap().unwrap();
    for key in ["revision.1", "revision.2"] {
        let subject = format!("$KV.{BUCKET}.{key}");
        let ack = context.publish(subject, "{}".into()).await.unwrap().await;
        assert!(ack.is_err(), "{key} was overwritten");
    }
    assert_eq!(bucket.weaknesses().await, Ok(Vec::new()));
    assert_eq!(bucket.head().await.unwrap().unwrap(), before);
    let refused = context.delete_stream(format!("KV_{BUCKET}")).await;
    assert!(refused.is_err(), "whoever pushes may not delete");
    assert!(deployment.instances[0].lines().iter().all(|line| line["event"] != "policy_refused"));
}

on_every_server!(services_do_not_reach_the_bucket);
async fn services_do_not_reach_the_bucket(version: &'static str) {
    let mut deployment = prepared().start_broker(version, ONE).await;
    pushed(&deployment, ONE).await;
    deployment.add_instance(&[]).await;
    let before = bucket(&deployment).await.head().await.unwrap();
    let subject = format!("$KV.{BUCKET}.revision.2");
    assert!(writes(&deployment, "orders", &subject).await.is_err());
    // Nor does the admin of all other buckets, whose account is another.
    let admin = deployment.admin().await;
    assert!(admin.get_stream(format!("KV_{BUCKET}")).await.is_err());
    assert!(admin.publish(subject, "{}".into()).await.unwrap().await.is_err());
    // A bucket of that name in the services' reach is another one.
    deployment.create_bucket(BUCKET, true).await;
    admin.publish(format!("$KV.{BUCKET}.revision.2"), "{}".into()).await.unwrap().await.unwrap();
    assert_eq!(bucket(&deployment).await.head().await.unwrap(), before);
    deployment.instances[0].signal(Signal::HUP);
    deployment.instances[0].says("policy_unchanged").await;
    assert!(deployment.instances[0].lines().iter().all(|line| line["event"] != "policy_refused"));
}
