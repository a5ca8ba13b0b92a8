//! What the documentation shows does what it says.

use std::process::Command;

use super::clients;
use super::deployment::Deployment;

const CLIENTS: &str = include_str!("../../docs/clients.md");

/// The lines of the one example in a language.
fn example(language: &str) -> &'static str {
    let (_, rest) = CLIENTS.split_once(&format!("```{language}\n")).unwrap();
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
    std::fs::write(&python, example("python")).unwrap();
    let (_, interpreter) = tokio::task::spawn_blocking(clients::python).await.unwrap();
    let mut command = Command::new(interpreter);
    command.arg(&python);
    assert_eq!(printed(&deployment, command).await, "two chairs\nnats: closed\n");

    // JavaScript finds its modules from where the program is.
    let modules = tokio::task::spawn_blocking(clients::javascript).await.unwrap();
    let javascript = folder.join("example.mjs");
    std::fs::write(&javascript, example("javascript")).unwrap();
    std::os::unix::fs::symlink(modules.join("node_modules"), folder.join("node_modules")).unwrap();
    let mut command = Command::new("node");
    command.arg(&javascript);
    assert_eq!(printed(&deployment, command).await, "two chairs\n");
    assert_eq!(deployment.violations(), []);
}

pub async fn the_guard_lines_of_python_and_javascript_work(_version: &'static str) {}
