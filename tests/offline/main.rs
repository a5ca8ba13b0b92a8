//! What needs no nats-server: the policy and its tools, the way of one request, and that
//! pages, schemas and messages are as the code has them.

// Helpers of tests fail the test when something is not as it must be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(missing_docs)]

use std::path::{Path, PathBuf};

mod adopt;
mod audit;
mod dependencies;
mod deploy;
mod docs;
mod fixtures;
mod handover;
mod learn;
mod operator;
mod permissions;
mod pipeline;
mod properties;
mod questions;
mod readme;
mod revisions;
mod schema;
mod server_config;
mod settings;
#[path = "../support/mod.rs"]
mod support;
mod tools;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Holds a text against the file that should have it. With the variable `update`, it is written there.
fn golden(update: &str, file: &Path, found: &str, failures: &mut String) {
    if std::env::var_os(update).is_some() {
        std::fs::write(file, found).unwrap();
        return;
    }
    let wanted = std::fs::read_to_string(file).unwrap_or_default();
    if wanted != found {
        let name = file.display();
        *failures += &format!("==== {name}: expected\n{wanted}==== but found\n{found}\n");
    }
}

/// Fails with what [`golden`] found.
fn all_as_expected(update: &str, failures: &str) {
    assert!(
        failures.is_empty(),
        "{failures}\nIf the new texts are right, run again with {update}=1 and look at the diff."
    );
}

/// The cases in a folder of the repository: each is a folder. There is one at least.
fn cases(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(repository().join(folder)).unwrap();
    let mut cases: Vec<PathBuf> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases
}
