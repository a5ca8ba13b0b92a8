//! The policy in its bucket: a fleet, the tools, and what goes wrong.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use rustix::process::Signal;
use serde_json::Value;
use solewriter::policy_source::bucket::Bucket;
use solewriter::policy_source::bucket::entry::{Entry, Words};
use solewriter::policy_source::bucket::write::PushError;
use solewriter::policy_source::directory::Directory;
use solewriter_core::diagnostics::SourceFile;
use solewriter_sandbox::free_ports;
use solewriter_types::keyspace::BucketName;
use tokio::process::Command;

use super::deployment::{Deployment, Instance, Prepared, Ran, edit, eventually};
use super::raw::Raw;

const BUCKET: &str = "solewriter_policy";
/// What `diff` calls what is served.
const SERVED: &str = "served";

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
    Words {
        author,
        message,
        time: jiff::Timestamp::now().as_second(),
        rollback_of: None,
        forced: false,
    }
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

fn with_keeper(
    prepared: Prepared,
) -> (Prepared, solewriter_core::keys::Seed<solewriter_core::keys::User>) {
    let seed = solewriter_core::keys::Seed::<solewriter_core::keys::User>::generate();
    let key = solewriter_core::keys::Signer::new(&seed).unwrap().public().to_string();
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
    seed: &solewriter_core::keys::Seed<solewriter_core::keys::User>,
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
    assert!(
        code == 0 && said.contains("nothing to push: revision 2 already is this policy"),
        "{said}"
    );
    let (code, said) = push(&deployment, ONE, &["--expect", "1"]).await;
    assert!(code == 1 && said.contains("the newest revision is 2, not 1"), "{said}");
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

/// Asks about the policy that the settings name, beside the deployment's folder of one.
async fn ask(deployment: &Deployment, arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_solewriter"));
    command.args(arguments).arg("--config").arg(deployment.files.settings());
    // The folder is compared with what is served now, and with nothing else.
    let names_others = arguments.contains(&"--revision") || arguments.contains(&"--at");
    if !names_others
        && !arguments.starts_with(&["diff", "1"])
        && !arguments.starts_with(&["diff", "2"])
    {
        command.arg("--policy").arg(deployment.files.policy());
    }
    let output = command.stdin(Stdio::null()).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    Ran { code: output.status.code().unwrap(), out, err }
}

/// Waits until no push of this second is to come: the log counts in seconds.
async fn past(second: i64) {
    eventually("the next second", async || {
        (jiff::Timestamp::now().as_second() > second).then_some(())
    })
    .await;
}

fn time(second: i64) -> String {
    jiff::Timestamp::from_second(second).unwrap().to_string()
}

/// The newest revision.
async fn head(deployment: &Deployment) -> Entry {
    bucket(deployment).await.head().await.unwrap().unwrap()
}

/// A policy that was pushed and then changed by another push, in a later second; the folder is what
/// is served. Gives both revisions.
async fn pushed_twice(version: &'static str) -> (Deployment, Entry, Entry) {
    let deployment = prepared().start_broker(version, ONE).await;
    edit(&deployment.files.settings(), "nats://127.0.0.1:-1", deployment.url());
    // Before the first push there is nothing to answer by, which is no "no".
    let ran = ask(&deployment, &["explain", "billing"]).await;
    assert!(ran.code == 2 && ran.err.contains("does not exist"), "{ran:?}");
    pushed(&deployment, ONE).await;
    let first = head(&deployment).await;
    past(first.time).await;
    pushed(&deployment, TWO).await;
    let second = head(&deployment).await;
    past(second.time).await;
    (deployment, first, second)
}

on_every_server!(questions_are_answered_by_what_is_served);
/// Questions about what is served, and was: by the newest revision, one that is named, and the one
/// of a time; after a push and a rollback.
async fn questions_are_answered_by_what_is_served(version: &'static str) {
    let (deployment, first, second) = pushed_twice(version).await;
    let ask = async |arguments: &[&str]| ask(&deployment, arguments).await;
    // Now.
    let ran = ask(&["who-can", "write", "more"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let start = format!(
        "now: revision 2 ({}), pushed {} by lea: because\n",
        second.policy,
        time(second.time)
    );
    assert!(ran.out.starts_with(&start) && ran.out.contains("\n  orders\n"), "{ran:?}");
    // At a time.
    for at in [time(first.time), time(second.time - 1)] {
        let ran = ask(&["who-can", "write", "more", "--at", &at]).await;
        let start = format!("at {at}: revision 1 ({}), pushed ", first.policy);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.out.starts_with(&start) && ran.out.contains("nobody may write"), "{ran:?}");
    }
    let ran =
        ask(&["who-can", "write", "more", "--at", &time(second.time), "--format", "json"]).await;
    let found = ran.json();
    assert_eq!(
        (&found["pushed"]["number"], &found["revision"]),
        (&2.into(), &second.policy.as_str().into())
    );
    assert_eq!(
        (&found["pushed"]["author"], &found["pushed"]["message"]),
        (&"lea".into(), &"because".into())
    );
    assert_eq!(found["services"][0]["service"], "orders", "{ran:?}");
    let ran = ask(&["who-can", "write", "more", "--at", &time(first.time - 1)]).await;
    assert!(ran.code == 2 && ran.err.contains("nothing was pushed by"), "{ran:?}");
    let ran = ask(&["who-can", "write", "more", "--at", "2999-01-01T00:00:00Z"]).await;
    assert!(ran.code == 2 && ran.err.contains("this time is to come: it is "), "{ran:?}");
    // By a revision.
    for name in ["1", &first.policy[..8]] {
        let ran = ask(&["who-can", "publish", "events.billing.x", "--revision", name]).await;
        assert!(ran.code == 0 && ran.out.contains("\n  billing\n"), "{ran:?}");
        let ran = ask(&["explain", "billing", "--revision", name]).await;
        assert!(ran.code == 0 && ran.out.starts_with("billing ("), "{ran:?}");
    }
    let ran = ask(&["explain", "billing"]).await;
    assert!(ran.code == 2 && ran.err.contains("there is no service `billing`"), "{ran:?}");
    for arguments in [&["--revision", "3"][..], &["--revision", "1", "--at", "2027-01-31T00:00"]] {
        let ran = ask(&[&["who-can", "write", "more"], arguments].concat()).await;
        assert_eq!(ran.code, 2, "{ran:?}");
    }

    // Whose key it was.
    let billing = deployment.service("billing").key();
    let ran = ask(&["explain", &billing]).await;
    let said = format!(
        "it was a key of `billing` until revision 1 ({}); it was removed by revision 2 ({}), pushed {} \
         by {}: {}",
        &first.policy[..12],
        second.policy,
        time(second.time),
        second.author,
        second.message,
    );
    assert!(ran.code == 2 && ran.err.replace('\n', " ").contains(&said), "{ran:?}");
    let ran = ask(&["explain", &deployment.service("nobody").key()]).await;
    assert!(ran.code == 2 && ran.err.contains("nor has any in the revisions before"), "{ran:?}");
    // Not of what came later.
    let ran = ask(&["explain", &billing, "--revision", "1"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");

    // Back to the first: the newest is what is asked, and the log has all three.
    let (code, said) = policy(&deployment, &["rollback", "1", "--yes", "--author", "max"]).await;
    assert_eq!(code, 0, "{said}");
    let third = head(&deployment).await;
    let ran = ask(&["who-can", "write", "more"]).await;
    assert!(ran.code == 1 && ran.out.starts_with("now: revision 3 ("), "{ran:?}");
    assert!(ran.out.contains(" by max: roll back to 1\n"), "{ran:?}");
    assert_eq!(ask(&["explain", &billing]).await.code, 0);
    for (at, code, number) in [(second.time, 0, 2), (third.time, 1, 3)] {
        let ran = ask(&["who-can", "write", "more", "--at", &time(at)]).await;
        let start = format!("at {}: revision {number} (", time(at));
        assert!(ran.code == code && ran.out.starts_with(&start), "{ran:?}");
    }

    // Where nobody answers, there is no answer.
    let nowhere = format!("nats://127.0.0.1:{}", free_ports(1).unwrap()[0]);
    edit(&deployment.files.settings(), deployment.url(), &nowhere);
    let ran = ask(&["explain", "orders", "--write", "orders"]).await;
    assert!(ran.code == 2 && ran.err.contains("cannot connect to"), "{ran:?}");
}

on_every_server!(a_folder_that_is_not_what_is_served_is_said);
/// A folder that is not what is served: that is said, whichever of the two is asked, and `diff`
/// shows it.
async fn a_folder_that_is_not_what_is_served_is_said(version: &'static str) {
    let (deployment, first, _) = pushed_twice(version).await;
    let ask = async |arguments: &[&str]| ask(&deployment, arguments).await;
    let ran = ask(&["who-can", "write", "more"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    deployment.write_policy(&TWO.replace("\"more\"", "\"rates\""));
    let ran = ask(&["who-can", "write", "more"]).await;
    assert!(ran.code == 0 && ran.out.starts_with("now: revision 2 ("), "{ran:?}");
    assert!(ran.err.ends_with("policy is not what is served\n"), "{ran:?}");
    let folder = deployment.files.policy().display().to_string();
    let local = async |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_solewriter"))
            .args(arguments)
            .args(["--policy", &folder])
            .output();
        let output = output.await.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, err) = local(&["who-can", "write", "more"]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("serves the policy bucket solewriter_policy: ask with --config"), "{err}");
    // Above all when the folder has no answer.
    for arguments in [["explain", "billing"], ["explain", &deployment.service("billing").key()]] {
        let (code, err) = local(&arguments).await;
        assert!(code == Some(2) && err.contains("ask with --config"), "{err}");
    }
    let (code, err) = local(&["who-can", "write", "more", "--at", &time(first.time)]).await;
    assert!(code == Some(2) && err.contains("a folder does not record"), "{err}");

    // What a push of it would change, and what the last one did.
    let ran = ask(&["diff", SERVED, "--format", "json"]).await;
    let change = &ran.json()["services"];
    assert_eq!((ran.code, change.as_array().unwrap().len()), (0, 1), "{ran:?}");
    assert_eq!(change[0]["service"], "orders", "{ran:?}");
    let ran = ask(&["diff", "1", SERVED]).await;
    assert!(ran.code == 0 && ran.out.contains("billing"), "{ran:?}");
    let ran = ask(&["diff", "2", SERVED, "--fail-on", "gain,loss,transfer"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");

    // A rollback makes them differ, too.
    deployment.write_policy(TWO);
    let (code, said) = policy(&deployment, &["rollback", "1", "--yes", "--author", "max"]).await;
    assert_eq!(code, 0, "{said}");
    let ran = ask(&["who-can", "write", "more"]).await;
    assert!(ran.code == 1 && ran.err.ends_with("policy is not what is served\n"), "{ran:?}");
    let ran = ask(&["diff", "1", SERVED, "--fail-on", "gain,loss,transfer"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let ran = ask(&["diff", SERVED, "--fail-on", "loss"]).await;
    assert!(ran.code == 1 && ran.out.contains("billing"), "{ran:?}");
}

on_every_server!(a_removed_key_is_known_as_its_former_services);
/// A key that a push removed: the client learns as little as anybody, the log knows whose it was.
async fn a_removed_key_is_known_as_its_former_services(version: &'static str) {
    let mut deployment = prepared().start_broker(version, ONE).await;
    pushed(&deployment, ONE).await;
    deployment.add_instance(&[]).await;
    let first = bucket(&deployment).await.head().await.unwrap().unwrap();
    pushed(&deployment, TWO).await;
    let refused = Err("Authorization Violation".to_owned());
    assert_eq!(enters(&deployment, "billing").await, refused);
    assert_eq!(enters(&deployment, "nobody").await, refused);
    let lines = deployment.instances[0].says_times("authorisation", 2).await;
    let short = &first.policy[..12];
    let said = format!(
        "no service in the policy has this key; it was a key of `billing` until revision 1 ({short})"
    );
    for (line, former, detail) in [
        (&lines[0], Some(("billing", first.policy.as_str())), said.as_str()),
        (&lines[1], None, "no service in the policy has this key"),
    ] {
        assert_eq!((&line["reason"], &line["service"]), (&"unknown_key".into(), &"-".into()));
        assert_eq!(line["detail"], detail, "{line}");
        assert_eq!(line["former_service"].as_str(), former.map(|(service, _)| service), "{line}");
        assert_eq!(line["former_revision"].as_str(), former.map(|(_, revision)| revision));
    }
    // It comes back, and goes again: the newest revision that had it is told.
    let (code, said) = policy(&deployment, &["rollback", "1", "--yes", "--author", "max"]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(enters(&deployment, "billing").await, Ok(()));
    pushed(&deployment, TWO).await;
    assert_eq!(enters(&deployment, "billing").await, refused);
    // Who settles what was taken connects too.
    let lines = eventually("the last refusal", async || {
        let lines = deployment.instances[0].lines().into_iter();
        let lines = lines.filter(|line| line["event"] == "authorisation");
        let lines: Vec<_> = lines.filter(|line| line["service"] != "$handover").collect();
        (lines.len() == 4).then_some(lines)
    });
    let lines = lines.await;
    let detail = lines[3]["detail"].as_str().unwrap();
    assert!(detail.ends_with(&format!("until revision 3 ({short})")), "{detail}");
}

fn revision(dir: &Path) -> String {
    let files = Directory::new(dir).read().unwrap();
    solewriter_core::policy::validate::revision(&files).whole().to_owned()
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
        assert!(code != 0 && said.contains("add --yes to push without a question"), "{said}");
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
                format!("somebody else has pushed revision {newest} ({}: ", ["a", "b"][winner]);
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
    // Between being made and being written, it may have been seen empty; it was missing once.
    let gone = instance.says_times("policy_source_gone", 1).await;
    let missing = gone.iter().filter(|line| line["state"] == "missing");
    assert_eq!(missing.count(), 1, "told of once: {gone:?}");
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
