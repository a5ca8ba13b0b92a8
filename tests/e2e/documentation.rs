//! What the documentation shows does what it says.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;
use solewriter::audit::event::Violation;
use solewriter::operation::Operation;

use super::clients;
use super::deployment::Deployment;
use super::violations::{create_stream, told};

const CLIENTS: &str = include_str!("../../docs/clients.md");

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

/// The examples for Python and JavaScript, with the sample policy that `init` writes.
pub async fn the_client_examples_work(version: &'static str) {
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

/// The programs of `docs/guard.md`: as the sample policy's `orders`, refused a key of another.
pub async fn the_guard_lines_of_python_and_javascript_work(version: &'static str) {
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

/// The README's commands that need a server, in its order, in the folder that it works in.
pub async fn the_readmes_commands_work_on_a_server(version: &'static str) {
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
