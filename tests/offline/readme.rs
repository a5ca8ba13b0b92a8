//! The README's commands do what it says, in its order.

use std::process::Command;

const README: &str = include_str!("../../README.md");

/// Every command of `solewriter` in the README, but for those that need a server, which
/// `tests/e2e/documentation.rs` runs.
#[test]
fn the_readmes_commands_work_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let commands: Vec<&str> = README
        .lines()
        .filter_map(|line| line.strip_prefix("$ solewriter "))
        .filter(|command| !["serve ", "buckets ", "doctor "].iter().any(|c| command.starts_with(c)))
        .collect();
    assert!(commands.len() >= 4, "{commands:?}");
    for command in commands {
        let output = Command::new(env!("CARGO_BIN_EXE_solewriter"))
            .args(command.split(' '))
            .current_dir(folder.path())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "$ solewriter {command}\n{stderr}");
    }
    // What is started next is there.
    for file in ["deployment/nats-server.conf", "deployment/solewriter.toml"] {
        assert!(README.contains(file) && folder.path().join(file).exists(), "{file}");
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
    assert!(README.contains("$ cargo test\n") && checks.contains("cargo test --locked"));
}
