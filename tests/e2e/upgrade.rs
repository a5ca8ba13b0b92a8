//! `solewriter upgrade` on deployments as an older `init` wrote them: its own steps are followed, on
//! real servers, until `doctor` is content.

use std::process::Stdio;

use serde_json::Value;
use solewriter::policy_source::bucket::Bucket;
use solewriter::policy_source::directory::Directory;
use solewriter_core::keys::{Seed, User};
use solewriter_types::keyspace::BucketName;
use tokio::process::Command;

use super::bucket;
use super::deployment::{DEADLINE, Deployment, Prepared, Ran, edit, read};
use super::raw::Raw;

/// What `init` wrote while there were four accounts.
pub const FOUR_ACCOUNTS: &str = include_str!("../../src/cli/upgrade/nats-server.conf");

const POLICY: &str = r#"
[bucket.orders]

[service.orders]
nkeys = ["{orders}"]
owns = ["orders"]
"#;

/// The same files as an older `init` left them.
pub fn four_accounts(prepared: Prepared) -> Prepared {
    let files = &prepared.files;
    std::fs::write(files.server_config(), FOUR_ACCOUNTS).unwrap();
    std::fs::remove_file(files.seed_file("audit-admin")).unwrap();
    prepared
        .without_value("AUDIT_ADMIN_KEY")
        .with_settings("[audit_admin]\nnkey_seed = \"keys/audit-admin.nk\"\n", "")
}

async fn upgrade(deployment: &Deployment, more: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_solewriter"));
    command.arg("upgrade").arg(&deployment.files.dir).args(more);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// What was printed, with the folder's name in short.
fn said(deployment: &Deployment, ran: &Ran) -> String {
    ran.out.replace(&deployment.files.dir.display().to_string(), "DIR")
}

/// What `doctor` calls problems, and did not when there was no server to blame.
async fn problems(deployment: &Deployment) -> Vec<(String, String)> {
    let view = deployment.tool(&["doctor", "--format", "json"]).await.json();
    let findings = view["findings"].as_array().unwrap();
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    findings
        .iter()
        .filter(|f| f["outcome"] == "problem" && f["check"] != "advisories")
        .map(|f| (text(f, "check"), text(f, "found")))
        .collect()
}

/// Does what was printed, line for line, in the order in which it was.
async fn follow(deployment: &mut Deployment, steps: &str) {
    for line in steps.lines() {
        if line.contains("reload the servers") {
            deployment.server.reload().unwrap();
            deployment
                .server
                .wait_for_log("Reloaded server configuration", DEADLINE)
                .await
                .unwrap();
        }
        if line.contains("restart every server") {
            deployment.server.restart().await.unwrap();
        }
        let Some(command) = line.strip_prefix("    ") else { continue };
        if command.starts_with("solewriter serve") {
            deployment.add_instance(&[]).await;
        } else if command.starts_with("mv ") || command.starts_with("solewriter ") {
            let binary = env!("CARGO_BIN_EXE_solewriter");
            let command = command.replace("solewriter ", &format!("{binary} "));
            let yes = if command.contains("buckets apply") { " --yes" } else { "" };
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!("{command}{yes}")).stdin(Stdio::null());
            shell.env("SOLEWRITER_NATS_SERVERS", deployment.url()).kill_on_drop(true);
            let output = shell.output().await.unwrap();
            let fine = output.status.success()
                // It ends with 1 where there is more to do, and with problems of the server.
                || command.contains(" upgrade ")
                || command.contains(" doctor ");
            assert!(fine, "{command}: {output:?}");
        }
    }
}

on_every_server!(a_policy_in_its_bucket_moves_by_the_printed_steps);
async fn a_policy_in_its_bucket_moves_by_the_printed_steps(version: &'static str) {
    let prepared = four_accounts(bucket::prepared());
    std::fs::remove_file(prepared.files.policy().join("buckets.toml")).unwrap();
    let mut deployment = prepared.start_broker(version, POLICY).await;
    // As an older `policy push` did it.
    let client = deployment.client("publisher", deployment.url()).await;
    let old = Bucket::in_own_account(client, BucketName::parse("solewriter_policy").unwrap());
    old.create(Some(1)).await.unwrap();
    let files = Directory::new(deployment.files.policy()).read().unwrap();
    bucket::push_unasked(&old, &files).await.unwrap();

    // What is open in it, doctor says.
    let found = problems(&deployment).await;
    for (check, said) in [
        (
            "users",
            "publisher: it is in AUTH, beside the callout user: where the policy's bucket is there \
             too, the callout's seed alone writes the policy, through a reply subject",
        ),
        (
            "users",
            "system user: it logs in to SYS, the system account. In a cluster its seed alone purges \
             any account, whatever its permissions, through a reply subject",
        ),
        (
            "jetstream",
            "JetStream is enabled in AUTH, where the callout user is: its seed alone makes JetStream \
             write there, through a reply subject",
        ),
    ] {
        assert!(found.contains(&(check.to_owned(), said.to_owned())), "{said}: {found:?}");
    }

    let ran = upgrade(&deployment, &[]).await;
    assert_eq!((ran.code, ran.err.as_str()), (1, ""), "{ran:?}");
    assert_eq!(said(&deployment, &ran), read("tests/e2e/upgrade/bucket.txt".as_ref()));
    assert!(!deployment.files.seed_file("audit-admin").exists(), "it only looks");
    let steps = ran.out;
    follow(&mut deployment, &steps).await;

    assert_eq!(problems(&deployment).await, []);
    let (code, log) = bucket::policy(&deployment, &["log"]).await;
    assert!(code == 0 && log.contains("the bucket moves to POLICY"), "{log}");
    let entered = Raw::try_login(deployment.url(), &deployment.service("orders").seed).await;
    assert!(entered.is_ok());
    // The old files are there still, and nothing is left to do.
    assert_eq!(read(&deployment.files.dir.join("nats-server.conf.old")), FOUR_ACCOUNTS);
    let ran = upgrade(&deployment, &[]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "nothing to change\n"), "{ran:?}");
}

on_every_server!(a_policy_in_a_directory_goes_on_by_the_printed_steps);
async fn a_policy_in_a_directory_goes_on_by_the_printed_steps(version: &'static str) {
    let mut deployment = four_accounts(Prepared::new()).start(version, POLICY_OF_A_DIRECTORY).await;
    let orders = deployment.service("orders");
    Raw::try_login(deployment.url(), &orders.seed).await.unwrap();
    deployment.instances.clear();
    let steps = upgrade(&deployment, &[]).await.out;
    assert!(!steps.contains("policy pull") && !steps.contains("policy push"), "{steps}");
    follow(&mut deployment, &steps).await;
    assert_eq!(problems(&deployment).await, []);
    Raw::try_login(deployment.url(), &orders.seed).await.unwrap();
}

const POLICY_OF_A_DIRECTORY: &str = r#"
[service.orders]
nkeys = ["{orders}"]
owns = ["orders"]
"#;

on_every_server!(a_deployment_of_before_streams_gets_their_lines);
/// The new file is the old one, own changes and all, with what the policy's streams need.
async fn a_deployment_of_before_streams_gets_their_lines(version: &'static str) {
    let policy = format!("{POLICY_OF_A_DIRECTORY}{STREAM}");
    let mut deployment = Prepared::new().start(version, &policy).await;
    deployment.instances.clear();
    let config = deployment.files.server_config();
    edit(&config, "  timeout: 10\n", "  timeout: 20\n");
    let with_lines = read(&config);
    let of_streams =
        |line: &&str| !["$JS.ACK.>", "$O.>", "\"events.>"].iter().any(|s| line.contains(s));
    let before: Vec<&str> = with_lines.lines().filter(of_streams).collect();
    std::fs::write(&config, before.join("\n") + "\n").unwrap();
    deployment.server.restart().await.unwrap();
    let ran = upgrade(&deployment, &[]).await;
    assert_eq!((ran.code, ran.err.as_str()), (1, ""), "{ran:?}");
    let told = "nats-server.conf: it lacks what streams, consumers and object stores need to pass \
                between STATE and APP\n\
                \x20 + { service: \"$JS.ACK.>\", accounts: [ APP ] }\n\
                \x20 + { service: \"$O.>\", accounts: [ APP ] }\n\
                \x20 + { service: \"events.>\", accounts: [ APP ] }\n\
                \x20 + { service: { account: STATE, subject: \"$JS.ACK.>\" } }\n\
                \x20 + { service: { account: STATE, subject: \"$O.>\" } }\n\
                \x20 + { service: { account: STATE, subject: \"events.>\" } }\n\n\
                nats-server.conf: as this version writes it, except for your own changes:\n\
                \x20 + max_file_store: 64GB\n  + timeout: 20\n  - timeout: 10\n";
    assert!(ran.out.starts_with(told), "{}", ran.out);
    follow(&mut deployment, &ran.out).await;
    assert_eq!(read(&config), with_lines);
    deployment.apply(&[]).await;
    assert_eq!(problems(&deployment).await, []);
    let again = upgrade(&deployment, &[]).await;
    assert!(again.code == 0 && again.out.ends_with("nothing to change\n"), "{again:?}");
}

const STREAM: &str = r#"
[stream.EVENTS]
subjects = ["events.>"]

[stream.EVENTS.consumer.all]
"#;

on_every_server!(what_is_there_stays);
/// Nothing is overwritten, what people changed is told, and what is no deployment is refused.
async fn what_is_there_stays(version: &'static str) {
    let deployment = four_accounts(Prepared::new()).start_broker(version, POLICY).await;
    let config = deployment.files.server_config();
    edit(&config, "  timeout: 10\n", "  timeout: 20\n");
    let before = read(&config);
    let ran = upgrade(&deployment, &["--write"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    for part in ["copy them to it\n  + timeout: 20\n  - timeout: 10", "DIR/nats-server.conf.new\n"]
    {
        assert!(said(&deployment, &ran).contains(part), "no {part:?} in {}", ran.out);
    }
    assert_eq!(read(&config), before);
    let seed = read(&deployment.files.seed_file("audit-admin"));
    assert!(Seed::<User>::parse(&seed).is_ok() && !ran.out.contains(seed.trim()));
    let key = deployment.files.dir.join("deployment.conf.new");
    let made = read(&key);
    // A second time: nothing is written over, and the seed that is there is kept.
    let again = upgrade(&deployment, &["--write"]).await;
    assert_eq!(again.code, 2, "{again:?}");
    assert!(again.err.contains("nats-server.conf.new cannot be written: it exists"), "{again:?}");
    for name in ["nats-server.conf", "deployment.conf", "solewriter.toml"] {
        std::fs::remove_file(deployment.files.dir.join(format!("{name}.new"))).unwrap();
    }
    assert_eq!(upgrade(&deployment, &["--write"]).await.code, 1);
    assert_eq!((read(&deployment.files.seed_file("audit-admin")), read(&key)), (seed, made));

    // A new one with changes of its own needs nothing.
    let own = Prepared::new().with_server("  timeout: 10\n", "  timeout: 20\n");
    let own = own.start_broker(version, POLICY).await;
    let ran = upgrade(&own, &[]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let told = "nats-server.conf: as this version writes it, except for your own changes:\n  + \
                max_file_store: 64GB\n  + timeout: 20\n  - timeout: 10\nnothing to change\n";
    assert_eq!(ran.out, told);
    std::fs::remove_file(own.files.settings()).unwrap();
    let ran = upgrade(&own, &[]).await;
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("solewriter.toml cannot be read"), "{ran:?}");
    assert!(ran.err.contains("help: name the folder that `solewriter init` wrote"), "{ran:?}");
}
