//! The policy's source goes away, in part or whole, and comes back.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use solewriter::policy_source::bucket::write::PushError;
use solewriter_core::diagnostics::SourceFile;
use solewriter_sandbox::Server;

use super::bucket::{ONE, TWO, bucket, policy, prepared, push, push_unasked, serves};
use super::deployment::{Deployment, Instance, NODES, Prepared, eventually};
use super::raw::Raw;

async fn enters(url: &str, deployment: &Deployment, service: &str) -> Result<(), String> {
    Raw::try_login(url, &deployment.service(service).seed).await.map(drop)
}

/// The bucket's stream: its leader's name and how many messages it has, as soon as `replicas`
/// other servers hold all of them.
async fn stream(
    bucket: &solewriter::policy_source::bucket::Bucket,
    replicas: usize,
) -> Option<(String, u64)> {
    let subject = "$JS.POLICY.API.STREAM.INFO.KV_solewriter_policy";
    let answer = bucket.client().request(subject, "".into()).await.ok()?;
    let info: Value = serde_json::from_slice(&answer.payload).ok()?;
    let leader = info["cluster"]["leader"].as_str()?.to_owned();
    let current = |peer: &&Value| peer["current"] == true && peer["offline"] != true;
    let others =
        info["cluster"]["replicas"].as_array().map_or(0, |r| r.iter().filter(current).count());
    let messages = info["state"]["messages"].as_u64()?;
    (others >= replicas).then_some((leader, messages))
}

/// The node of that name.
fn node<'a>(deployment: &'a mut Deployment, name: &str) -> &'a mut Server {
    let number: usize = name.strip_prefix("node-").unwrap().parse().unwrap();
    match number {
        1 => &mut deployment.server,
        peer => &mut deployment.peers[peer - 2],
    }
}

/// Documents of more than a megabyte in all, so that a push takes a while; each round's are new.
fn documents(deployment: &Deployment, round: usize) -> Vec<SourceFile> {
    deployment.write_policy(ONE);
    let text = deployment.policy_text(ONE);
    let buckets = std::fs::read_to_string(deployment.files.policy().join("buckets.toml")).unwrap();
    let mut files =
        vec![SourceFile::new("test.toml", text), SourceFile::new("buckets.toml", buckets)];
    for file in 0..60 {
        let filler = format!("# {round} {file} {}\n", "x".repeat(100)).repeat(500);
        let text = format!("{filler}[service.s{file}]\npublishes = [\"round.{round}\"]\n");
        files.push(SourceFile::new(format!("{file}.toml"), text));
    }
    files
}

on_every_server!(the_leader_dies_during_a_push);
async fn the_leader_dies_during_a_push(version: &'static str) {
    let mut deployment = prepared().start_cluster(version, ONE).await;
    let (code, said) = push(&deployment, ONE, &[]).await;
    assert!(
        code == 0 && said.contains("created the policy bucket solewriter_policy on 3"),
        "{said}"
    );
    for _ in 0..NODES {
        deployment.add_instance(&[]).await;
    }
    let mut survived = 0;
    for round in 0..3 {
        let bucket = bucket(&deployment).await;
        let before = eventually("the newest", async || bucket.head().await.ok()?).await;
        // Whoever was killed before holds everything again: else the next would be the second of
        // three that is lost, and nothing could be led.
        let (leader, messages) =
            eventually("a stream on all servers", async || stream(&bucket, NODES - 1).await).await;
        let files = documents(&deployment, round);
        let pushing = tokio::spawn({
            let (bucket, files) = (bucket.clone(), files.clone());
            async move { push_unasked(&bucket, &files).await }
        });
        // The pieces are on their way, and the push itself is not made yet.
        eventually("some of the documents", async || {
            (stream(&bucket, 0).await?.1 >= messages + 5).then_some(())
        })
        .await;
        node(&mut deployment, &leader).kill().await.unwrap();
        let outcome = pushing.await.unwrap();
        let head = eventually("the newest", async || bucket.head().await.ok()?).await;
        let newest = match outcome {
            Ok(entry) => {
                assert_eq!(head, entry, "what was told to be pushed is");
                assert_eq!(bucket.files(&head).await.unwrap().len(), files.len());
                survived += 1;
                entry.number
            }
            Err(PushError::Failed(_)) => {
                assert_eq!(head, before, "what was told not to be pushed is not");
                before.number
            }
            Err(PushError::Unknown(..)) => head.number,
            Err(error) => panic!("{error}"),
        };
        for instance in &mut deployment.instances {
            serves(instance, newest).await;
        }
        node(&mut deployment, &leader).restart().await.unwrap();
    }
    assert!(survived > 0, "no push outlived its leader");
    // And everything is as it was: a change reaches everyone.
    let (code, said) = push(&deployment, TWO, &["--wait", "30s"]).await;
    assert!(code == 0 && said.contains("all 3 instances serve it"), "{said}");
    // Half a push was nobody's policy, and the bucket was the same one all the time.
    for line in deployment.instances.iter().flat_map(Instance::lines) {
        for wrong in ["policy_refused", "policy_bucket_replaced"] {
            assert_ne!(line["event"], wrong, "{line}");
        }
    }
}

on_every_server!(losing_jetstream_costs_nothing_but_updates);
/// Two of three servers go, and JetStream with them: decisions go on, updates do not.
async fn losing_jetstream_costs_nothing_but_updates(version: &'static str) {
    let mut deployment = prepared().start_cluster(version, ONE).await;
    let (code, said) = push(&deployment, ONE, &[]).await;
    assert_eq!(code, 0, "{said}");
    let url = deployment.url().to_owned();
    deployment.add_instance(&["--policy-poll", "1s"]).await;
    for peer in &mut deployment.peers {
        peer.kill().await.unwrap();
    }
    deployment.instances[0].says("policy_source_lost").await;
    let instance = &mut deployment.instances[0];
    // A leader that lost the others answers reads for some seconds still.
    eventually("an instance that is ready, and says what it cannot read", async || {
        let (status, report) = instance.get("/readyz").await;
        let told = report.contains("solewriter_policy cannot be read: ");
        (status == 200 && told).then_some(())
    })
    .await;
    for _ in 0..20 {
        assert_eq!(enters(&url, &deployment, "billing").await, Ok(()));
    }
    eventually("a status that says so", async || {
        let (code, said) = policy(&deployment, &["status"]).await;
        let told = said.contains("(unreachable)") && said.contains("warning: ");
        (code == 0 && told).then_some(())
    })
    .await;

    for peer in &mut deployment.peers {
        peer.restart().await.unwrap();
    }
    deployment.instances[0].says("policy_source_back").await;
    let said = eventually("a push", async || {
        let (code, said) = push(&deployment, TWO, &["--wait", "30s"]).await;
        (code == 0).then_some(said)
    })
    .await;
    assert!(said.contains("1 instance serves it") || said.contains("nothing to push"), "{said}");
    assert!(enters(&url, &deployment, "billing").await.is_err());
}

on_every_server!(a_kept_policy_starts_an_instance_and_ends_in_time);
/// What was kept is where an instance starts when nobody answers, and it ends when it is too old.
async fn a_kept_policy_starts_an_instance_and_ends_in_time(version: &'static str) {
    let mut deployment = prepared().start_cluster(version, ONE).await;
    let (code, said) = push(&deployment, ONE, &[]).await;
    assert_eq!(code, 0, "{said}");
    let url = deployment.url().to_owned();
    let kept = deployment.dir.path().join("kept.json").display().to_string();
    let keep = ["--policy-keep", &kept, "--policy-poll", "1s"];
    deployment.add_instance(&keep).await;
    let (code, said) = push(&deployment, TWO, &[]).await;
    assert_eq!(code, 0, "{said}");
    deployment.instances[0].signal(Signal::TERM);
    deployment.instances[0].child.wait().await.unwrap();
    for peer in &mut deployment.peers {
        peer.kill().await.unwrap();
    }
    // A leader that lost the others answers reads for some seconds still.
    let bucket = bucket(&deployment).await;
    eventually("JetStream that does not answer", async || bucket.head().await.err()).await;

    // Without JetStream, and without what was kept: it waits.
    let at = deployment.launch_instance(&["--policy-poll", "1s"]);
    deployment.instances[at].says("policy_source_lost").await;
    assert_eq!(deployment.instances[at].get("/readyz").await.0, 503);
    deployment.instances[at].child.kill().await.unwrap();
    // With it, it serves the newest that it knew.
    let at = deployment.add_instance(&keep).await;
    let line = deployment.instances[at].says("policy_kept").await;
    assert_eq!(line["number"], 2, "{line}");
    assert_eq!(enters(&url, &deployment, "orders").await, Ok(()));
    assert!(enters(&url, &deployment, "billing").await.is_err());
    deployment.instances[at].child.kill().await.unwrap();

    // Past its age it denies everything, and says so.
    let at = deployment.add_instance(&[&keep[..], &["--policy-keep-at-most", "1s"]].concat()).await;
    let instance = &mut deployment.instances[at];
    let report = eventually("an instance that is not ready", async || {
        let (status, report) = instance.get("/readyz").await;
        (status == 503).then_some(report)
    })
    .await;
    assert!(report.contains("too old to decide by"), "{report}");
    assert_eq!(
        enters(&url, &deployment, "orders").await,
        Err("Authorization Violation".to_owned())
    );
    let denied = deployment.instances[at].says_where("authorisation", |l| l["outcome"] == "denied");
    let denied = denied.await;
    assert_eq!(denied["reason"], "policy_too_old", "{denied}");
    assert_eq!(denied["service"], "orders", "{denied}");
    // Its source answers again, and all is well.
    for peer in &mut deployment.peers {
        peer.restart().await.unwrap();
    }
    eventually("a service that comes in again", async || {
        enters(&url, &deployment, "orders").await.ok()
    })
    .await;
}

on_every_server!(a_kept_policy_stands_in_for_a_directory);
/// The same for a directory: it is broken when the instance starts, and then gone.
async fn a_kept_policy_stands_in_for_a_directory(version: &'static str) {
    let mut deployment = Prepared::new().start_broker(version, ONE).await;
    let url = deployment.url().to_owned();
    let kept = deployment.dir.path().join("kept.json").display().to_string();
    let keep = ["--policy-keep", &kept, "--policy-poll", "1s", "--policy-keep-at-most", "3s"];
    deployment.add_instance(&keep).await;
    deployment.instances[0].child.kill().await.unwrap();

    let folder = deployment.files.policy();
    let aside = deployment.dir.path().join("aside");
    deployment.write_policy("[service.orders\n");
    let at = deployment.add_instance(&keep).await;
    deployment.instances[at].says("policy_refused").await;
    deployment.instances[at].says("policy_loaded").await;
    // First why it begins with that policy, then that it does.
    let lines = deployment.instances[at].lines();
    let events: Vec<&str> = lines.iter().filter_map(|line| line["event"].as_str()).collect();
    let place = |event: &str| events.iter().position(|one| *one == event).unwrap();
    assert!(place("policy_kept") < place("policy_loaded"), "{events:?}");
    assert_eq!(enters(&url, &deployment, "billing").await, Ok(()));
    // A directory that says nonsense is a directory still; one that is gone confirms nothing.
    std::fs::rename(&folder, &aside).unwrap();
    deployment.instances[at].says("policy_source_lost").await;
    eventually("everything denied", async || {
        enters(&url, &deployment, "billing").await.is_err().then_some(())
    })
    .await;
    let too_old = |line: &serde_json::Value| line["reason"] == "policy_too_old";
    deployment.instances[at].says_where("authorisation", too_old).await;
    std::fs::rename(&aside, &folder).unwrap();
    deployment.write_policy(ONE);
    eventually("a service that comes in again", async || {
        enters(&url, &deployment, "billing").await.ok()
    })
    .await;
}

on_every_server!(an_instance_that_slept_reads_the_directory_first);
/// A directory that changed while the instance was stopped is read before anything is granted.
async fn an_instance_that_slept_reads_the_directory_first(version: &'static str) {
    let mut deployment = Deployment::start(version, ONE).await;
    let url = deployment.url().to_owned();
    assert_eq!(enters(&url, &deployment, "billing").await, Ok(()));
    deployment.instances[0].pause();
    let stopped = tokio::time::Instant::now();
    deployment.write_policy(TWO);
    let seed = deployment.service("billing").seed;
    let waiting = tokio::spawn(async move { Raw::try_login(&url, &seed).await.map(drop) });
    // Longer than what counts as asleep, shorter than what a server waits for an answer.
    tokio::time::sleep_until(stopped + Duration::from_millis(1500)).await;
    deployment.instances[0].signal(Signal::CONT);
    assert!(waiting.await.unwrap().is_err(), "a grant of the policy before");
    deployment.instances[0].says("policy_changed").await;
}
