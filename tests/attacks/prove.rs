//! `solewriter prove` on live deployments: sound ones, and ones that were broken on purpose.

use std::process::Output;

use serde_json::Value;
use tokio::process::Command;

use solewriter::prove::{Control, Expected, attacks};

use super::deployment::{Deployment, Prepared, eventually};
use super::doors;

const POLICY: &str = r#"
[service.orders]
nkeys = ["{orders}"]
owns = ["orders"]
"#;

fn command(deployment: &Deployment, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_solewriter"));
    command
        .arg("prove")
        .arg("--config")
        .arg(deployment.files.settings())
        .args(["--nats-servers", &deployment.urls().join(",")])
        .args(arguments)
        .kill_on_drop(true);
    command
}

pub async fn prove(deployment: &Deployment, arguments: &[&str]) -> Output {
    command(deployment, arguments).output().await.unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The attacks that a verdict says succeeded.
fn succeeded(output: &Output) -> Vec<String> {
    let lines = text(&output.stdout);
    let broken = lines.lines().filter_map(|line| line.strip_prefix("SUCCEEDED"));
    broken.map(|rest| rest.split_whitespace().next().unwrap().to_owned()).collect()
}

async fn streams(deployment: &Deployment) -> Vec<String> {
    use futures_util::TryStreamExt as _;
    deployment.admin().await.stream_names().try_collect().await.unwrap()
}

/// The subjects of the probers' streams pass.
fn passing(prepared: Prepared) -> Prepared {
    let export = "{ service: \"$O.>\", accounts: [ APP ] }";
    let import = "{ service: { account: STATE, subject: \"$O.>\" } }";
    let more = |line: &str| format!("{line}\n{}", line.replace("$O.>", "attack.>"));
    prepared.with_server(export, &more(export)).with_server(import, &more(import))
}

fn held(verdict: &str, attack: &str) -> bool {
    verdict.contains(&format!("\nheld       {attack} "))
}

/// Neither a file nor a bucket of the probers' is left.
async fn nothing_is_left(deployment: &Deployment) {
    let files = std::fs::read_dir(deployment.files.policy()).unwrap();
    let files: Vec<String> = files.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!files.iter().any(|f| f.contains("prove")), "{files:?}");
    let streams = streams(deployment).await;
    assert!(!streams.iter().any(|s| s.contains("prove")), "{streams:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_deployment_is_proven_and_left_as_it_was() {
    let _room = crate::room::some_room().await;
    let deployment = passing(Prepared::new()).start("2.15.1", POLICY).await;
    deployment.create_buckets(&["orders"]).await;
    deployment.bucket("orders").await.put("a", "1".into()).await.unwrap();
    let before = deployment.content("orders").await;

    let shown = prove(&deployment, &[]).await;
    assert_eq!(shown.status.code(), Some(2));
    assert!(text(&shown.stderr).contains("buckets solewriter-prove-a and solewriter-prove-b"));
    nothing_is_left(&deployment).await;

    let output = prove(&deployment, &["--yes"]).await;
    let verdict = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{verdict}\n{}", text(&output.stderr));
    assert!(verdict.contains("PROVEN: no attack succeeded"), "{verdict}");
    assert!(verdict.contains("\nserver       2.15.1 test N"), "{verdict}");
    assert!(verdict.contains("\nservices in  APP\nbuckets in   STATE\n"), "{verdict}");
    for attack in [
        "reply-direct-get",
        "trace-to-key",
        "header-rollup-all",
        "enter-captured",
        "consumer-outlives",
        "stream-write",
        "stream-reply-direct-get",
        "queue-next",
        "ack-other",
        "durable-create-over",
        "replay-filter",
        "both-write",
        "object-meta",
        "found-as-other",
    ] {
        assert!(held(&verdict, attack), "{attack}: {verdict}");
    }
    assert!(!verdict.contains("skipped"), "{verdict}");
    let (body, digest) = verdict.trim_end().rsplit_once("digest       sha256:").unwrap();
    let computed = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.as_bytes());
    assert_eq!(digest, data_encoding::HEXLOWER.encode(computed.as_ref()), "{body:?}");
    nothing_is_left(&deployment).await;
    assert!(!deployment.instances[0].lines().iter().any(|line| line["event"] == "server_defect"));
    assert_eq!(deployment.content("orders").await, before);
    assert_eq!(streams(&deployment).await, ["KV_orders"]);
}

on_every_server!(in_operator_mode_all_is_proven);
/// By the default sentinel or, before 2.11, by JWTs that lead to the callout, which a key of the settings
/// signs.
async fn in_operator_mode_all_is_proven(version: &'static str) {
    // What a server refuses by itself, it refuses when this is over.
    let prepared =
        Prepared::operator_without_policy(version).with_server("timeout: 10", "timeout: 4");
    // The subjects of the probers' streams pass, which nobody else has.
    let all = format!("{POLICY}[stream.ALL]\nsubjects = [\"attack.>\"]\n");
    crate::operator::write_passes(&prepared.files, &all);
    let deployment = prepared.start_as_is(version).await;
    deployment.write_policy(POLICY);
    let output = prove(&deployment, &["--yes"]).await;
    let verdict = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{verdict}\n{}", text(&output.stderr));
    assert!(verdict.contains("PROVEN: no attack succeeded"), "{verdict}");
    assert!(verdict.contains(&format!("\nserver       {version} test N")), "{verdict}");
    assert!(verdict.contains("\nservices in  APP\nbuckets in   STATE\n"), "{verdict}");
    for attack in [
        "enter-captured",
        "enter-foreign-signature",
        "enter-admin-key",
        "reply-direct-get",
        "header-rollup-all",
        "consumer-outlives",
        "stream-write",
        "queue-next",
        "object-meta",
        "found-as-other",
    ] {
        assert!(held(&verdict, attack), "{attack}: {verdict}");
    }
    nothing_is_left(&deployment).await;
}

/// What attacks on streams need, and this deployment lacks, is said; buckets are tried all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_deployment_lacks_is_skipped_and_said() {
    let _room = crate::room::some_room().await;
    let import = |subject: &str| format!("{{ service: {{ account: STATE, subject: {subject} }} }}");
    let deployment = Prepared::new()
        .with_server(&import("\"$O.>\""), "")
        .with_server(&import("\"$JS.ACK.>\""), "")
        .with_settings("[http]", "[sessions]\nevery = \"2s\"\n[http]")
        .start("2.15.1", POLICY)
        .await;
    let output = prove(&deployment, &["--yes"]).await;
    let verdict = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{verdict}\n{}", text(&output.stderr));
    let skipped = |attack: &str, why: &str| {
        let (_, rest) = verdict.split_once(&format!("\nskipped    {attack} ")).expect(attack);
        let said = rest.lines().nth(1).unwrap();
        assert!(said.contains(why), "{attack}: {said}");
    };
    let stored =
        "what solewriter-prove-b writes to attack.log.solewriter-prove-b.new is not stored";
    skipped("stream-write", stored);
    skipped("stream-reply-put", stored);
    skipped("queue-write", "attack.work.solewriter-prove-b.new is not stored");
    skipped("both-write", "attack.both.solewriter-prove-b.theirs.new is not stored");
    skipped("ack-other", "its own acknowledgement is not answered");
    skipped("object-chunk", "$O.solewriter-prove-b.M.b25l is not stored");
    let number = verdict.matches("\nskipped ").count();
    let said = format!("\nverdict      PROVEN: no attack succeeded; {number} were skipped\n");
    assert!(verdict.contains(&said), "{verdict}");
    for attack in ["reply-put", "durable-create-over", "replay-filter", "found-as-other"] {
        assert!(held(&verdict, attack), "{attack}: {verdict}");
    }
    nothing_is_left(&deployment).await;

    // The organisation's names leave no room for the probers' streams.
    let naming = "[naming]\nevents = [\"events.{service}.>\"]\n";
    std::fs::write(deployment.files.policy().join("naming.toml"), naming).unwrap();
    let output = prove(&deployment, &["--yes", "--format", "json"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["verdict"], "proven");
    let attacks = verdict["attacks"].as_array().unwrap();
    let of = |id: &str| attacks.iter().find(|attack| attack["id"] == id).unwrap();
    assert_eq!(of("reply-put")["outcome"], "held");
    for attack in ["stream-write", "durable-next", "object-meta"] {
        assert_eq!(of(attack)["outcome"], "skipped");
        let why = of(attack)["evidence"].as_str().unwrap();
        assert!(why.starts_with("the policy would not hold with streams: "), "{why}");
    }
    nothing_is_left(&deployment).await;
}

/// The account of the buckets has room for the two of them alone.
#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_room_for_streams_buckets_are_tried() {
    let _room = crate::room::some_room().await;
    let enabled = |how: &str| format!("  STATE {{\n    jetstream: {how}");
    let deployment = Prepared::new()
        .with_server(&enabled("enabled"), &enabled("{ max_streams: 2 }"))
        .with_settings("[http]", "[sessions]\nevery = \"2s\"\n[http]")
        .start("2.15.1", POLICY)
        .await;
    let output = prove(&deployment, &["--yes"]).await;
    let verdict = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{verdict}\n{}", text(&output.stderr));
    let why = "JetStream does not make log-solewriter-prove-b: maximum number of streams reached";
    assert!(verdict.contains(why), "{verdict}");
    assert!(verdict.contains("\nskipped    durable-next "), "{verdict}");
    assert!(held(&verdict, "reply-put") && held(&verdict, "found-as-other"), "{verdict}");
    nothing_is_left(&deployment).await;
}

/// What was watched outlives the right to it where nobody may list consumers.
#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_does_not_sweep_consumers_is_found_out() {
    let _room = crate::room::some_room().await;
    let prepared =
        Prepared::new().with_server("              \"$JS.STATE.API.CONSUMER.LIST.*\"\n", "");
    let deployment = prepared.start("2.15.1", POLICY).await;
    let output = prove(&deployment, &["--yes", "--wait", "8"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert_eq!(succeeded(&output), ["consumer-outlives"]);
    nothing_is_left(&deployment).await;
}

/// Attacker and victim are at different servers, and a bucket may be at any.
#[tokio::test(flavor = "multi_thread")]
async fn a_sound_cluster_is_proven_through_all_of_its_servers() {
    let _room = crate::room::some_room().await;
    let mut deployment = passing(Prepared::new()).start_cluster("2.15.1", POLICY).await;
    deployment.add_instance(&[]).await;
    for replicas in ["1", "3"] {
        let output = prove(&deployment, &["--yes", "--replicas", replicas]).await;
        let verdict = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{verdict}\n{}", text(&output.stderr));
        assert!(verdict.contains("PROVEN: no attack succeeded"), "{verdict}");
        for node in 1..=3 {
            assert!(verdict.contains(&format!("\nserver       2.15.1 node-{node} N")), "{verdict}");
        }
        for attack in ["reply-direct-get", "reply-api-delete", "push-purge", "other-part"] {
            assert!(held(&verdict, attack), "{attack}: {verdict}");
        }
        assert!(!verdict.contains("skipped"), "{verdict}");
        nothing_is_left(&deployment).await;
    }
}

/// The account of the services has JetStream and the buckets itself.
fn in_one_account() -> Prepared {
    Prepared::new()
        .with_server("users: [ { nkey: $ADMIN_KEY } ]", "")
        .with_server(
            "  APP {",
            "  APP {\n    jetstream: enabled\n    users: [ { nkey: $ADMIN_KEY } ]",
        )
        .with_server("{ service: { account: STATE, subject: \"$KV.>\" } }", "")
        .with_server("{ service: { account: STATE, subject: \"$JS.API.>\" } }", "")
        .with_server("{ service: { account: STATE, subject: \"$JS.FC.>\" } }", "")
        .with_server("{ service: { account: STATE, subject: \"$JS.ACK.>\" } }", "")
        .with_server("{ service: { account: STATE, subject: \"$O.>\" } }", "")
        .with_server("{ stream: { account: STATE, subject: \"_INBOX.>\" } }", "")
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_and_services_in_one_account_are_found_out() {
    let _room = crate::room::some_room().await;
    let deployment = in_one_account().start("2.15.1", POLICY).await;
    let output = prove(&deployment, &["--yes"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let succeeded = succeeded(&output);
    for attack in [
        "reply-put",
        "reply-stream-info",
        "reply-direct-get",
        "reply-api-purge",
        "stream-reply-put",
        "stream-reply-ack-next",
        "queue-reply-next",
        "object-reply-direct-get",
    ] {
        assert!(succeeded.contains(&attack.to_owned()), "{succeeded:?}");
    }
    // Permissions hold all the same.
    for attack in [
        "other-part",
        "stream-delete",
        "listen-keyspaces",
        "enter-captured",
        "stream-write",
        "ack-other",
        "replay-filter",
        "object-meta",
        "found-as-other",
    ] {
        assert!(!succeeded.contains(&attack.to_owned()), "{succeeded:?}");
    }
    let verdict = text(&output.stdout);
    assert!(verdict.contains("\nverdict      BROKEN: "), "{verdict}");
    assert!(verdict.contains("\nservices in  APP\nbuckets in   APP\n"), "{verdict}");
    nothing_is_left(&deployment).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_tracing_asks_for_no_permission_is_found_out() {
    let _room = crate::room::some_room().await;
    let mut deployment = Deployment::start("2.11.11", POLICY).await;
    let output = prove(&deployment, &["--yes", "--format", "json"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["verdict"], "broken");
    assert!(verdict["digest"].as_str().unwrap().starts_with("sha256:"));
    let attacks = verdict["attacks"].as_array().unwrap().iter();
    let broken: Vec<&str> = attacks
        .filter(|attack| attack["outcome"] == "succeeded")
        .map(|attack| attack["id"].as_str().unwrap())
        .collect();
    assert_eq!(broken, ["trace-to-key", "trace-to-purge", "trace-to-itself"]);
    // The running service has warned of it, once.
    let tracing = |line: &Value| line["defect"] == "CVE-2026-33249";
    let warned = deployment.instances[0].says_where("server_defect", tracing).await;
    assert_eq!(warned["version"], "2.11.11", "{warned}");
    let lines = deployment.instances[0].lines();
    assert_eq!(lines.iter().filter(|line| tracing(line)).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_for_whoever_has_none_is_found_out() {
    let _room = crate::room::some_room().await;
    let deployment = Prepared::new()
        .with_server("  APP {", "  APP {\n    users: [ { user: anyone, password: anyone } ]")
        .with_server("$SYSTEM_KEY ]", "$SYSTEM_KEY, anyone ]")
        .with_server("system_account: SYS", "system_account: SYS\nno_auth_user: anyone")
        .start("2.15.1", POLICY)
        .await;
    let output = prove(&deployment, &["--yes"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(succeeded(&output).contains(&"enter-with-nothing".to_owned()), "{output:?}");
}

/// Every hole at once: one account, a bucket that several own and that takes everything, and
/// somebody with the issuer's seed who grants everything to everybody. Each attack that `prove`
/// tries has to work there, but for those that the server itself refuses to everybody.
#[tokio::test(flavor = "multi_thread")]
async fn where_every_hole_is_open_every_attack_succeeds() {
    let _room = crate::room::some_room().await;
    let deployment = doors::with_a_rogue(in_one_account()).start_broker("2.15.1", POLICY).await;
    let issuer = std::fs::read_to_string(deployment.files.seed_file("issuer")).unwrap();
    let issuer = nkeys::KeyPair::from_seed(issuer.trim()).unwrap();
    let mut rogue = doors::rogue(&deployment).await;
    let granting = tokio::spawn(async move {
        loop {
            let Ok(request) =
                tokio::time::timeout(std::time::Duration::from_secs(5), rogue.message()).await
            else {
                continue;
            };
            let answer = doors::grant(&doors::claims(&request.payload), &issuer, |_, _| {});
            rogue.publish(&request.reply.unwrap(), &answer).await.unwrap();
        }
    });
    // No solewriter runs that would look at connections, and nothing below asks for it.
    let output = prove(&deployment, &["--yes", "--wait", "10"]).await;
    granting.abort();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let succeeded = succeeded(&output);
    let mut missed = Vec::new();
    for attack in attacks::families().into_iter().flat_map(|family| family.attacks) {
        let opened = attack.in_prove
            && matches!(attack.expected, Expected::Closed { .. })
            && matches!(
                attack.control,
                Control::OneAccount
                    | Control::OneAccountGranted(..)
                    | Control::Granted(..)
                    | Control::Told(_)
            );
        if opened && !succeeded.contains(&attack.id.to_owned()) {
            missed.push(attack.id);
        }
    }
    // The server knows its own users.
    assert_eq!(missed, ["enter-admin-key", "enter-admin-foreign"], "{}", text(&output.stdout));
}

/// Services are placed where the buckets are, by the settings alone.
#[tokio::test(flavor = "multi_thread")]
async fn services_placed_in_the_account_of_the_buckets_are_found_out() {
    let _room = crate::room::some_room().await;
    let deployment = Prepared::new()
        .with_settings("account = \"APP\"", "account = \"STATE\"")
        .start("2.15.1", POLICY)
        .await;
    let output = prove(&deployment, &["--yes"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(succeeded(&output).contains(&"reply-direct-get".to_owned()), "{output:?}");
    nothing_is_left(&deployment).await;
}

/// An import without a wildcard is reached by reply subjects.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_of_one_subject_is_found_out() {
    let _room = crate::room::some_room().await;
    let import = |subject: &str| format!("{{ service: {{ account: STATE, subject: {subject} }} }}");
    let all = import("\"$KV.>\"");
    let one = import("\"$KV.solewriter-prove-b.theirs.k1\"");
    let of_stream = import("\"attack.log.solewriter-prove-b.new\"");
    let deployment = passing(Prepared::new())
        .with_server(&all, &format!("{all}\n      {one}\n      {of_stream}"))
        .start("2.15.1", POLICY)
        .await;
    let output = prove(&deployment, &["--yes"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let succeeded = succeeded(&output);
    for attack in ["reply-direct-get", "stream-reply-direct-get", "stream-reply-next"] {
        assert!(succeeded.contains(&attack.to_owned()), "{succeeded:?}");
    }
    for attack in ["reply-api-purge", "queue-reply-next"] {
        assert!(!succeeded.contains(&attack.to_owned()), "{succeeded:?}");
    }
    nothing_is_left(&deployment).await;
}

/// Where nothing comes back at all, attacks fail too: that proves nothing, and is said.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_answered_at_all_is_not_proven() {
    let _room = crate::room::some_room().await;
    let deployment = Prepared::new()
        .with_server("{ service: { account: STATE, subject: \"$JS.API.>\" } }", "")
        .start("2.15.1", POLICY)
        .await;
    let output = prove(&deployment, &["--yes"]).await;
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("NOT PROVEN"), "{output:?}");
    nothing_is_left(&deployment).await;
}

/// A second service with the same keys and a policy that grants everything would be one; here it is
/// a user of the configuration that has the victim's name.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_service_there_is_no_verdict() {
    let _room = crate::room::some_room().await;
    let deployment = Prepared::new().start_broker("2.15.1", POLICY).await;
    let output = prove(&deployment, &["--yes", "--wait", "1"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("the probers were not let in within 1 s"), "{output:?}");
    assert!(output.stdout.is_empty());
    nothing_is_left(&deployment).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stopped_in_the_middle_cleans_up() {
    let _room = crate::room::some_room().await;
    let deployment = Deployment::start("2.15.1", POLICY).await;
    let running = command(&deployment, &["--yes"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the probers' buckets", async || {
        let streams = streams(&deployment).await;
        streams.iter().any(|s| s.contains("prove")).then_some(())
    })
    .await;
    let pid = rustix::process::Pid::from_raw(running.id().unwrap().try_into().unwrap());
    rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::INT).unwrap();
    let output = running.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("there is no verdict"), "{output:?}");
    nothing_is_left(&deployment).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_made_is_not_touched() {
    let _room = crate::room::some_room().await;
    let deployment = Deployment::start("2.15.1", POLICY).await;
    deployment.create_buckets(&["mine-b"]).await;
    let output = prove(&deployment, &["--yes", "--name", "mine"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("there already is a bucket mine-b that"), "{output:?}");
    let file = deployment.files.policy().join("solewriter-prove.toml");
    std::fs::write(&file, "[bucket.some]\n").unwrap();
    let output = prove(&deployment, &["--yes"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("exists, and is not from this command"), "{output:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "[bucket.some]\n");
    assert_eq!(streams(&deployment).await, ["KV_mine-b"]);
    let theirs = async_nats::jetstream::stream::Config {
        name: "attack-yours-a".to_owned(),
        subjects: vec!["theirs".to_owned()],
        ..Default::default()
    };
    deployment.admin().await.create_stream(theirs).await.unwrap();
    let output = prove(&deployment, &["--yes", "--name", "yours"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("there already is a stream attack-yours-a that"),
        "{output:?}"
    );
    let mut left = streams(&deployment).await;
    left.sort();
    assert_eq!(left, ["KV_mine-b", "attack-yours-a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_would_not_hold_is_not_written() {
    let _room = crate::room::some_room().await;
    let deployment = Deployment::start("2.15.1", POLICY).await;
    std::fs::write(deployment.files.policy().join("naming.toml"), "[naming]\nbuckets = [\"x\"]\n")
        .unwrap();
    let output = prove(&deployment, &["--yes"]).await;
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("the policy would not hold") && said.contains("outside-convention"));
    nothing_is_left(&deployment).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_done_in_two_steps() {
    let _room = crate::room::some_room().await;
    let deployment = Deployment::start("2.15.1", POLICY).await;
    let dir = deployment.dir.path().join("probers");
    let dir = dir.to_str().unwrap();
    let prepared = prove(&deployment, &["--prepare", dir]).await;
    assert_eq!(prepared.status.code(), Some(0), "{prepared:?}");
    let file = format!("{dir}/solewriter-prove.toml");
    std::fs::copy(&file, deployment.files.policy().join("reviewed.toml")).unwrap();
    let output = prove(&deployment, &["--prepared", dir, "--yes"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(deployment.files.policy().join("reviewed.toml").exists());
}

/// Clusters `a` and `b`, joined by gateways.
async fn joined(prepared: Prepared) -> Deployment {
    let held = std::array::from_fn(|_| tokio::sync::watch::channel(false).1);
    let mut deployment = prepared.start_supercluster("2.15.1", ["a", "b"], held, POLICY).await;
    deployment.add_instance(&[]).await;
    deployment
}

/// It takes streams in two clusters to try. That servers are gateways, and that nothing says which
/// cluster has the streams, is enough to know.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_found_out() {
    let _room = crate::room::some_room().await;
    let deployment = joined(Prepared::new()).await;
    let output = prove(&deployment, &["--yes"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert_eq!(succeeded(&output), ["gateways"], "{}", text(&output.stdout));
    nothing_is_left(&deployment).await;
}

/// The shape in which the rule holds across gateways.
#[tokio::test(flavor = "multi_thread")]
async fn across_gateways_one_cluster_has_all_streams() {
    let _room = crate::room::some_room().await;
    let placed = "[state]\ncluster = \"b\"\n\n[grants]";
    let deployment = joined(Prepared::new().with_settings("[grants]", placed)).await;
    let output = prove(&deployment, &["--yes"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    nothing_is_left(&deployment).await;
}

/// A leaf server with JetStream and a callout of its own, joined to a hub.
async fn at_a_leaf(version: &'static str) {
    let _room = crate::room::some_room().await;
    let joined = crate::leafnodes::joined(version).await;
    let output = prove(&joined.edge, &["--yes"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    nothing_is_left(&joined.edge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_is_proven_on_the_oldest_server() {
    at_a_leaf("2.10.25").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_is_proven_on_the_newest_server() {
    at_a_leaf("2.15.1").await;
}
