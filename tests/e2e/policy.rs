//! Edits of the policy while everything runs.

use std::os::unix::fs::symlink;

use rustix::process::Signal;
use serde_json::Value;

use super::deployment::{Deployment, Prepared, eventually};
use super::raw::Raw;

const BEFORE: &str = r#"
[service.orders]
nkeys = ["{orders}"]
owns = ["orders"]

[service.billing]
nkeys = ["{billing}"]
publishes = ["events.billing.>"]
"#;

const AFTER: &str = r#"
[service.orders]
nkeys = ["{orders}"]
owns = ["orders", "more"]
"#;

async fn writes(deployment: &Deployment, service: &str, subject: &str) -> Result<(), String> {
    Raw::login(deployment, &deployment.service(service)).await.publish(subject, b"1").await
}

async fn changed(deployment: &mut Deployment, times: usize) -> Value {
    deployment.instances[0].says_times("policy_changed", times).await.pop().unwrap()
}

on_every_server!(an_edit_takes_effect_on_the_next_connection);
async fn an_edit_takes_effect_on_the_next_connection(version: &'static str) {
    let mut deployment = Deployment::start(version, BEFORE).await;
    let orders = deployment.service("orders");
    let billing = deployment.service("billing");
    let before = deployment.instances[0].says("ready").await["revision"].clone();
    let mut open = Raw::login(&deployment, &orders).await;
    assert!(open.publish("$KV.more.a", b"1").await.is_err());
    Raw::login(&deployment, &billing).await;

    deployment.write_policy(AFTER);
    let line = changed(&mut deployment, 1).await;
    assert_eq!(line["before"], before, "{line}");
    assert_ne!(line["revision"], before, "{line}");
    assert_eq!(line["services"], 1, "{line}");
    assert_eq!(writes(&deployment, "orders", "$KV.more.a").await, Ok(()));
    let refused = Raw::try_login(deployment.url(), &billing.seed).await.map(drop);
    assert_eq!(refused, Err("Authorization Violation".to_owned()));
    // What is open keeps what it has.
    assert!(open.publish("$KV.more.a", b"1").await.is_err());
    assert_eq!(open.publish("$KV.orders.a", b"1").await, Ok(()));
    let decisions = deployment.instances[0].says_times("authorisation", 4).await;
    let revisions: Vec<&Value> = decisions.iter().map(|d| &d["revision"]).collect();
    assert_eq!(revisions, [&before, &before, &line["revision"], &line["revision"]]);

    deployment.write_policy(BEFORE);
    let line = changed(&mut deployment, 2).await;
    assert_eq!(line["revision"], before, "the same text is the same revision: {line}");
    Raw::login(&deployment, &billing).await;
}

on_every_server!(an_invalid_edit_changes_nothing_and_says_why);
async fn an_invalid_edit_changes_nothing_and_says_why(version: &'static str) {
    let mut deployment = Deployment::start(version, BEFORE).await;
    let ready = deployment.instances[0].says("ready").await;
    let unknown_key = AFTER.replace("owns", "own");
    let second_owner = format!("{BEFORE}owns = [\"orders/line.>\"]\n");
    let twice = format!("{AFTER}\n[service.orders]\nowns = [\"x\"]\n");
    let edits = [
        ("[service.orders\nnkeys = 5", vec!["test.toml:1:"]),
        (unknown_key.as_str(), vec!["test.toml:4:1", "own", "owns"]),
        (second_owner.as_str(), vec!["test.toml:9:9", "part-owner", "... and 1 more error"]),
        (twice.as_str(), vec!["test.toml:6:", "orders"]),
        ("", vec!["service"]),
        ("[service.orders]\nnkeys = [\"UNKNOWN\"]", vec!["test.toml:2:"]),
        ("[service.\"a b\"]\npublishes = [\"x\"]", vec!["test.toml:1:", "a b"]),
        (
            "[service.a]\npublishes = [\"x..y\", \"x.>.y\", \"x y\"]",
            vec!["test.toml:2:14", "... and 2 more errors"],
        ),
        (
            "[service.a]\nowns = [\"or ders\", \"b*\"]",
            vec!["test.toml:2:9", "... and 1 more error"],
        ),
    ];
    for (at, (text, said)) in edits.iter().enumerate() {
        deployment.write_policy(text);
        let lines = deployment.instances[0].says_times("policy_refused", at + 1).await;
        assert_eq!(lines.len(), at + 1);
        let line = &lines[at];
        assert_eq!(line["level"], "ERROR", "{line}");
        assert_eq!(line["revision"], ready["revision"], "{line}");
        let problems = line["problems"].as_str().unwrap();
        for part in said {
            assert!(problems.contains(part), "no {part:?} in:\n{problems}");
        }
        // The one before stays in force, and whoever asks is told.
        let (status, report) = deployment.instances[0].get("/readyz").await;
        assert_eq!(status, 200);
        let revision = &ready["revision"].as_str().unwrap()[..12];
        let told = format!("policy: revision {revision}, changes refused for ");
        assert!(report.contains(&told), "{report}");
        assert_eq!(writes(&deployment, "orders", "$KV.orders.a").await, Ok(()));
        assert_eq!(writes(&deployment, "billing", "events.billing.x").await, Ok(()));
    }
    let instance = &mut deployment.instances[0];
    let refused = "solewriter_policy_loads_total{outcome=\"refused\"}";
    assert_eq!(instance.metric(refused).await, f64::from(u8::try_from(edits.len()).unwrap()));
    assert!(instance.metric("solewriter_policy_refused_since_timestamp_seconds").await > 1e9);

    deployment.write_policy(AFTER);
    changed(&mut deployment, 1).await;
    let (_, report) = deployment.instances[0].get("/readyz").await;
    assert!(report.contains(", the newest\n"), "{report}");
    let since = "solewriter_policy_refused_since_timestamp_seconds";
    assert!(deployment.instances[0].metric(since).await.abs() < 1.0);
}

on_every_server!(a_checkout_of_another_branch_is_one_change);
/// A keyspace moves from one file to another. What lies there while `git checkout` works has two
/// owners of it, or none.
async fn a_checkout_of_another_branch_is_one_change(version: &'static str) {
    const CHECKOUTS: usize = 6;
    let mut deployment = Prepared::new().start_broker(version, BEFORE).await;
    let folder = deployment.files.policy();
    std::fs::remove_file(folder.join("test.toml")).unwrap();
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git")
            .args(["-c", "user.name=test", "-c", "user.email=test@example.com"])
            .args(["-c", "commit.gpgsign=false", "-c", "init.defaultBranch=one"])
            .args(arguments)
            .current_dir(&folder)
            // Set where a hook of git runs the tests.
            .env_remove("GIT_DIR")
            .env_remove("GIT_INDEX_FILE")
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    };
    let commit = |orders: &str, billing: &str| {
        for (name, owned) in [("orders", orders), ("billing", billing)] {
            let text = format!("[service.{name}]\nnkeys = [\"{{{name}}}\"]\nowns = [{owned}]\n");
            let file = folder.join(name).join("services.toml");
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, deployment.policy_text(&text)).unwrap();
        }
        git(&["add", "-A"]);
        git(&["commit", "-qm", "a policy"]);
    };
    git(&["init", "-q"]);
    commit("\"orders\", \"more\"", "\"rates\"");
    git(&["checkout", "-qb", "two"]);
    commit("\"orders\"", "\"rates\", \"more\"");
    git(&["checkout", "-q", "one"]);
    deployment.add_instance(&[]).await;
    assert_eq!(writes(&deployment, "orders", "$KV.more.a").await, Ok(()));
    for checkout in 1..=CHECKOUTS {
        let (branch, owner) = [("one", "orders"), ("two", "billing")][checkout % 2];
        git(&["checkout", "-q", branch]);
        changed(&mut deployment, checkout).await;
        // What moves is in transit for a moment.
        deployment.instances[0].says_times("handover_settled", checkout).await;
        assert_eq!(writes(&deployment, owner, "$KV.more.a").await, Ok(()));
    }
    deployment.instances[0].signal(Signal::HUP);
    deployment.instances[0].says("policy_unchanged").await;
    let lines = deployment.instances[0].lines();
    assert_eq!(lines.iter().filter(|line| line["event"] == "policy_changed").count(), CHECKOUTS);
    assert!(lines.iter().all(|line| line["event"] != "policy_refused"));
}

on_every_server!(sighup_reads_the_policy_at_once);
async fn sighup_reads_the_policy_at_once(version: &'static str) {
    let mut deployment = Deployment::start(version, BEFORE).await;
    for times in 1..=3 {
        deployment.instances[0].signal(Signal::HUP);
        let lines = deployment.instances[0].says_times("policy_unchanged", times).await;
        assert_eq!(lines.len(), times);
    }
    deployment.write_policy(AFTER);
    deployment.instances[0].signal(Signal::HUP);
    changed(&mut deployment, 1).await;
    assert_eq!(writes(&deployment, "orders", "$KV.more.a").await, Ok(()));
}

on_every_server!(a_refused_change_that_is_taken_back_is_over);
/// A change that was refused at once by SIGHUP is forgotten when it is taken back.
async fn a_refused_change_that_is_taken_back_is_over(version: &'static str) {
    let mut deployment = Deployment::start(version, BEFORE).await;
    let extra = deployment.files.policy().join("extra.toml");
    std::fs::write(&extra, "x =").unwrap();
    deployment.instances[0].signal(Signal::HUP);
    deployment.instances[0].says("policy_refused").await;
    assert!(deployment.instances[0].get("/readyz").await.1.contains("changes refused"));
    std::fs::remove_file(&extra).unwrap();
    let instance = &mut deployment.instances[0];
    eventually("the newest policy in force", async || {
        instance.get("/readyz").await.1.contains("the newest").then_some(())
    })
    .await;
}

on_the_newest_server!(a_warning_is_logged_when_it_is_new, some_room);
async fn a_warning_is_logged_when_it_is_new(version: &'static str) {
    const UNHEARD: &str = "[service.a]\nnkeys = [\"{a}\"]\nsubscribes = [\"nobody.says\"]\n";
    let mut deployment = Deployment::start(version, UNHEARD).await;
    let warned = |lines: Vec<Value>| -> Vec<String> {
        let lines = lines.into_iter().filter(|line| line["event"] == "policy_warning");
        lines.map(|line| line["problem"].to_string()).collect()
    };
    // It is ready, so that all of them are there.
    let first = warned(deployment.instances[0].lines());
    assert!(first.iter().any(|problem| problem.contains("nobody.says")), "{first:?}");
    // Its line moves; and another one comes.
    let more = "[service.b]\nnkeys = [\"{b}\"]\nsubscribes = [\"nobody.sings\"]\n";
    deployment.write_policy(&format!("{more}{UNHEARD}"));
    let left = deployment.instances[0].says("policy_warnings_left").await;
    assert_eq!((&left["level"], &left["count"]), (&"INFO".into(), &first.len().into()), "{left}");
    let now = warned(deployment.instances[0].lines());
    assert_eq!(now.len(), first.len() + 1, "{now:?}");
    assert!(now.last().unwrap().contains("nobody.sings"), "{now:?}");
}

on_every_server!(a_swap_of_symbolic_links_is_seen);
/// As Kubernetes mounts a config map: the files are links into `..data`, which is a link to a
/// folder of its own for each version, and is swapped by a rename.
async fn a_swap_of_symbolic_links_is_seen(version: &'static str) {
    let mut deployment = Prepared::new().start_broker(version, BEFORE).await;
    let folder = deployment.files.policy();
    std::fs::remove_file(folder.join("test.toml")).unwrap();
    let mount = |name: &str, text: String| {
        std::fs::create_dir(folder.join(name)).unwrap();
        std::fs::write(folder.join(name).join("test.toml"), text).unwrap();
        symlink(name, folder.join("..data_tmp")).unwrap();
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    mount("..2026_01", deployment.policy_text(BEFORE));
    symlink("..data/test.toml", folder.join("test.toml")).unwrap();
    deployment.add_instance(&["--policy-poll", "1h"]).await;
    Raw::login(&deployment, &deployment.service("billing")).await;

    mount("..2026_02", deployment.policy_text(AFTER));
    std::fs::remove_dir_all(folder.join("..2026_01")).unwrap();
    changed(&mut deployment, 1).await;
    assert_eq!(writes(&deployment, "orders", "$KV.more.a").await, Ok(()));
}

on_every_server!(a_policy_that_does_not_load_keeps_it_from_starting);
async fn a_policy_that_does_not_load_keeps_it_from_starting(version: &'static str) {
    let mut deployment = Prepared::new().start_broker(version, "[service.a]\nown = [\"x\"]").await;
    let at = deployment.launch_instance(&[]);
    let instance = &mut deployment.instances[at];
    let status = instance.child.wait().await.unwrap();
    assert_eq!(status.code(), Some(1));
    let said = super::deployment::read(&instance.log);
    assert!(said.contains("test.toml:2:1") && said.contains("owns"), "{said}");
    assert!(deployment.connections("AUTH").await.is_empty());
}

on_every_server!(of_two_that_begin_alike_the_second_replaces_the_first);
/// Two policies whose revisions share their first 48 bits, found in twenty seconds: the second
/// takes something away, and replaces the first.
async fn of_two_that_begin_alike_the_second_replaces_the_first(version: &'static str) {
    let collision = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/collision");
    let prepared = Prepared::new();
    let folder = prepared.files.policy();
    for entry in std::fs::read_dir(&folder).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let policy = folder.join("policy.toml");
    std::fs::copy(collision.join("before.toml"), &policy).unwrap();
    let mut deployment = prepared.start_broker(version, "").await;
    std::fs::remove_file(folder.join("test.toml")).unwrap();
    deployment.add_instance(&[]).await;
    let aside = deployment.files.dir.join("policy.new");
    std::fs::copy(collision.join("after.toml"), &aside).unwrap();
    std::fs::rename(&aside, &policy).unwrap();
    let line = changed(&mut deployment, 1).await;
    let text = |field: &str| line[field].as_str().unwrap().to_owned();
    assert_eq!(text("before")[..12], text("revision")[..12], "{line}");
    assert_ne!(text("before"), text("revision"), "{line}");
    assert_eq!(line["lost"], 1, "{line}");
}
