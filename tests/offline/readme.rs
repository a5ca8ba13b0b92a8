//! The README's commands do what it says, in its order.

use std::path::Path;
use std::process::Command;

const README: &str = include_str!("../../README.md");

/// Runs a command in a folder, and gives what it printed.
fn run(folder: &Path, command: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .args(command.split(' '))
        .current_dir(folder)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "$ solewriter {command}\n{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Every command of `solewriter` in the README, and every file that it has one write, in its order;
/// but for those that need a server, which `tests/e2e/documentation.rs` runs.
#[test]
fn the_readmes_commands_work_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut ran = Vec::new();
    let mut key = String::new();
    let mut lines = README.lines();
    while let Some(line) = lines.next() {
        let Some(mark) = line.strip_prefix("```").filter(|mark| !mark.is_empty()) else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if let Some(file) = mark.strip_prefix("toml ") {
            // Nothing that `init` wrote is written over.
            assert!(!folder.join(file).exists(), "{file}");
            let text = block.join("\n");
            assert!(text.contains("\"U…\""), "{text}");
            std::fs::write(folder.join(file), text.replace("U…", key.trim())).unwrap();
        }
        for command in block.iter().filter_map(|line| line.strip_prefix("$ solewriter ")) {
            if ["serve ", "state ", "doctor "].iter().any(|c| command.starts_with(c)) {
                continue;
            }
            let said = run(folder, command);
            if command.starts_with("key new ") {
                key.clone_from(&said);
            }
            ran.push((command, said));
        }
    }
    let begun = ["init ", "key new ", "check ", "who-can ", "explain ", "test "];
    assert_eq!(ran.len(), begun.len(), "{ran:?}");
    for ((command, _), begun) in ran.iter().zip(begun) {
        assert!(command.starts_with(begun), "{command}");
    }
    assert!(ran[3].1.contains("  shipping\n"), "{}", ran[3].1);
    // The services of the sample are still there.
    run(folder, "explain billing --policy deployment/policy");
}

/// `init` says what to do next, in an order and with paths that work; that the commands do is
/// `tests/e2e/documentation.rs`.
#[test]
fn init_says_what_to_do_next() {
    let folder = tempfile::tempdir().unwrap();
    let said = run(folder.path(), "init deployment");
    let commands: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    let dir = folder.path().canonicalize().unwrap().join("deployment");
    let [server, settings] = ["nats-server.conf", "solewriter.toml"].map(|file| dir.join(file));
    assert!(server.exists() && settings.exists());
    let (server, settings) = (server.display(), settings.display());
    let wanted = [
        format!("nats-server -c {server}"),
        format!("solewriter serve -c {settings}"),
        format!("solewriter state apply -c {settings} --yes"),
        format!("solewriter doctor -c {settings}"),
    ];
    assert_eq!(commands, wanted);
    // The README has the same, in the same order.
    let mut rest = README;
    for command in wanted {
        let command = command.replace(&format!("{}/", dir.display()), "deployment/");
        let found = rest.split_once(&format!("$ {command}\n"));
        rest = found.unwrap_or_else(|| panic!("$ {command}")).1;
    }
}

/// What the README says to set in each library is what the examples do, which run on real servers
/// (`tests/e2e/documentation.rs`).
#[test]
fn what_to_set_in_each_library_is_what_the_examples_set() {
    let examples = include_str!("../../docs/clients.md");
    for (library, shown) in [
        ("async-nats", "ConnectOptions::with_nkey(seed.trim().to_owned())"),
        ("async-nats", ".custom_inbox_prefix(\"_INBOX.orders\")"),
        ("nats.py", "inbox_prefix=b\"_INBOX.orders\""),
        (
            "nats.js",
            "authenticator: nkeyAuthenticator(new TextEncoder().encode(seed.toString().trim()))",
        ),
        ("nats.js", "inboxPrefix: \"_INBOX.orders\""),
        ("nats.go", "nats.CustomInboxPrefix(\"_INBOX.orders\")"),
    ] {
        let row = README.lines().find(|line| line.starts_with(&format!("| {library} |"))).unwrap();
        assert!(row.contains(&format!("`{shown}`")), "{row}");
        assert!(examples.contains(shown), "{shown}");
    }
}

/// The two commands that do everything are the ones that `.ci/run` runs.
#[test]
fn the_two_commands_are_those_of_the_checks() {
    let checks = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/run")).unwrap();
    assert!(
        README.contains("$ cargo run -- demo")
            && checks.contains("cargo run --locked --quiet -- demo")
    );
    assert!(
        README.contains("$ cargo test --workspace\n")
            && checks.contains("cargo test --locked --workspace --no-fail-fast")
    );
}
