//! What the documentation shows does what it says.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;
use solewriter::audit::event::Violation;
use solewriter::operation::Operation;

use super::clients;
use super::deployment::{Deployment, Prepared};
use super::violations::{create_stream, told};

const CLIENTS: &str = include_str!("../../docs/clients.md");
const BUCKET: &str = include_str!("../../docs/policy-bucket.md");

const GUARD: &str = include_str!("../../docs/guard.md");

/// The lines of a page's one example in a language.
fn example(page: &'static str, language: &str) -> &'static str {
    let (_, rest) = page.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("\n```").unwrap().0
}

/// Runs an example as the sample policy's `orders`, and gives what it printed.
async fn printed(deployment: &Deployment, mut command: Command) -> String {
    command
        .env("NATS_URL", deployment.url())
        .env("SEED_FILE", deployment.files.seed_file("orders"));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

on_every_server!(the_client_examples_work);
/// The examples for Python and JavaScript, with the sample policy that `init` writes.
async fn the_client_examples_work(version: &'static str) {
    let deployment = Deployment::sample(version).await;
    deployment.create_buckets(&["orders"]).await;

    let folder = deployment.dir.path();
    let python = folder.join("example.py");
    std::fs::write(&python, example(CLIENTS, "python")).unwrap();
    let (_, interpreter) = tokio::task::spawn_blocking(clients::python).await.unwrap();
    let mut command = Command::new(interpreter);
    command.arg(&python);
    assert_eq!(printed(&deployment, command).await, "two chairs\nnats: closed\n");

    // JavaScript finds its modules from where the program is.
    let modules = tokio::task::spawn_blocking(clients::javascript).await.unwrap();
    let javascript = folder.join("example.mjs");
    std::fs::write(&javascript, example(CLIENTS, "javascript")).unwrap();
    std::os::unix::fs::symlink(modules.join("node_modules"), folder.join("node_modules")).unwrap();
    let mut command = Command::new("node");
    command.arg(&javascript);
    assert_eq!(printed(&deployment, command).await, "two chairs\n");
    assert_eq!(deployment.violations(), []);
}

on_every_server!(the_guard_lines_of_python_and_javascript_work);
/// The programs of `docs/guard.md`: as the sample policy's `orders`, refused a key of another.
async fn the_guard_lines_of_python_and_javascript_work(version: &'static str) {
    let deployment = Deployment::sample(version).await;
    create_stream(&deployment).await;
    let folder = deployment.dir.path();
    let (_, python) = tokio::task::spawn_blocking(clients::python).await.unwrap();
    let modules = tokio::task::spawn_blocking(clients::javascript).await.unwrap();
    std::os::unix::fs::symlink(modules.join("node_modules"), folder.join("node_modules")).unwrap();
    // nats.py tells every subject in lower case, and this one has no other.
    for (number, language, file, interpreter, subject) in [
        (1, "python", "guard.py", python, "$kv.invoices.1"),
        (2, "javascript", "guard.mjs", PathBuf::from("node"), "$KV.invoices.1"),
    ] {
        let program = folder.join(file);
        std::fs::write(&program, example(GUARD, language)).unwrap();
        let mut command = Command::new(interpreter);
        command.arg(&program);
        assert_eq!(printed(&deployment, command).await, "", "{language}");
        let events = told(&deployment, "orders").await;
        assert_eq!(events.len(), number, "{language}: {events:?}");
        let event = &events[number - 1];
        let data: Violation = serde_json::from_value(event["data"].clone()).unwrap();
        assert_eq!((data.operation, data.count), (Operation::Write, 1));
        assert_eq!((data.subject.as_str(), data.seen_by.as_str()), (subject, "client"));
        assert_eq!(data.keyspace.as_deref(), Some("invoices/1"));
        assert_eq!(
            (&event["subject"], &event["sequence"]),
            (&json!("orders"), &json!("000000000001"))
        );
    }
    assert_eq!(deployment.violations().len(), 2);
}

on_every_server!(the_readmes_commands_work_on_a_server);
/// The README's commands that need a server, in its order, in the folder that it works in.
async fn the_readmes_commands_work_on_a_server(version: &'static str) {
    let deployment = Deployment::sample(version).await;
    let readme = include_str!("../../README.md");
    let commands = readme.lines().filter_map(|line| line.strip_prefix("$ solewriter "));
    let commands: Vec<&str> =
        commands.filter(|c| c.starts_with("buckets ") || c.starts_with("doctor ")).collect();
    assert!(commands.len() >= 2, "{commands:?}");
    for command in commands {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_solewriter"))
            .args(command.split(' '))
            .current_dir(deployment.dir.path())
            .env("SOLEWRITER_NATS_SERVERS", deployment.url())
            .output()
            .await
            .unwrap();
        let out = String::from_utf8_lossy(&output.stdout);
        // An old server has holes of its own, and `doctor` says so.
        let fine = output.status.success()
            || (command.starts_with("doctor ") && out.contains("known holes"));
        assert!(fine, "$ solewriter {command}\n{out}{}", String::from_utf8_lossy(&output.stderr));
    }
    let orders = deployment.bucket("orders").await;
    assert_eq!(orders.stream.cached_info().config.max_messages_per_subject, 5);
}

/// Whether what was printed is what the page shows: `...` stands for any lines, and at the end of
/// a line for its rest.
fn shown(wanted: &[&str], found: &[&str]) -> bool {
    match (wanted.split_first(), found.split_first()) {
        (None, None) => true,
        (Some((&"...", rest)), _) => (0..=found.len()).any(|skip| shown(rest, &found[skip..])),
        (Some((line, rest)), Some((other, others))) => {
            let start = line.strip_suffix("...");
            let same = start.map_or(line == other, |start| other.starts_with(start));
            same && shown(rest, others)
        }
        _ => false,
    }
}

on_every_server!(the_page_about_the_bucket_is_true);
/// Every command of the page about the policy's bucket, in a deployment that `init` wrote.
async fn the_page_about_the_bucket_is_true(version: &'static str) {
    let prepared =
        Prepared::new().with_settings("directory = \"policy\"", "bucket = \"solewriter_policy\"");
    let mut deployment = prepared.start_broker(version, "").await;
    let policy = deployment.files.policy();
    for file in ["test.toml", "buckets.toml"] {
        std::fs::remove_file(policy.join(file)).unwrap();
    }
    std::fs::copy(deployment.dir.path().join("sample.toml"), policy.join("services.toml")).unwrap();
    for _ in 0..2 {
        let at = deployment.launch_instance(&[]);
        deployment.instances[at].says("policy_source_waiting").await;
    }
    let mut ran = 0;
    let mut lines = BUCKET.lines();
    while let Some(line) = lines.next() {
        let Some(mark) = line.strip_prefix("```").filter(|mark| !mark.is_empty()) else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if let Some(name) = mark.strip_prefix("toml ") {
            std::fs::write(deployment.files.dir.join(name), block.join("\n") + "\n").unwrap();
        }
        if mark != "console" {
            continue;
        }
        for part in block.chunk_by(|_, next| !next.starts_with("$ ")) {
            let command = part[0].strip_prefix("$ ").unwrap();
            let arguments = command.strip_prefix("solewriter ").unwrap();
            let mut shell = Command::new("sh");
            shell
                .args(["-c", &format!("{} {arguments}", env!("CARGO_BIN_EXE_solewriter"))])
                .env("SOLEWRITER_NATS_SERVERS", deployment.url())
                .current_dir(&deployment.files.dir);
            let output =
                tokio::task::spawn_blocking(move || shell.output().unwrap()).await.unwrap();
            let found = String::from_utf8(output.stdout).unwrap()
                + &String::from_utf8(output.stderr).unwrap();
            let list: Vec<&str> = found.lines().collect();
            assert!(shown(&part[1..], &list), "{command} printed:\n{found}");
            assert!(output.status.success(), "{command}: {}", output.status);
            ran += 1;
        }
    }
    assert_eq!(ran, 7, "commands on the page");
}
