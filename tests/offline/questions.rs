//! Runs the commands of `tests/questions` and of `docs/tools.md`, and compares everything they
//! print. `tests/questions/README.md` says how to add a case; no Rust is needed for it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::repository;

/// Set to anything, writes what is found instead of comparing.
const UPDATE: &str = "UPDATE_FIXTURES";

/// What a line with a command begins with.
const PROMPT: &str = "$ ";

#[test]
fn every_answer_is_as_expected() {
    let mut failures = String::new();
    for case in super::cases("tests/questions") {
        let path = case.join("session.txt");
        let text = fs::read_to_string(&path).unwrap();
        compare(&path, &text, &replay(&text, &case), &mut failures);
    }
    finish(&failures);
}

#[test]
fn the_documentation_shows_what_is_printed() {
    let path = repository().join("docs/tools.md");
    let text = fs::read_to_string(&path).unwrap();
    let mut found = String::new();
    let mut rest = text.as_str();
    let (mut blocks, fence) = (0, "```console\n");
    while let Some((before, block)) = rest.split_once(fence) {
        let (block, after) = block.split_once("```\n").expect("a block ends");
        found = found + before + fence + &replay(block, &repository().join("docs/tools")) + "```\n";
        rest = after;
        blocks += 1;
    }
    found += rest;
    assert!(blocks > 5, "examples are marked as console");
    let mut failures = String::new();
    compare(&path, &text, &found, &mut failures);
    finish(&failures);
}

fn finish(failures: &str) {
    assert!(
        failures.is_empty(),
        "{failures}\nIf the new texts are right, run again with {UPDATE}=1 and look at the diff."
    );
}

fn compare(path: &Path, expected: &str, found: &str, failures: &mut String) {
    if expected == found {
        return;
    }
    if std::env::var_os(UPDATE).is_some() {
        fs::write(path, found).unwrap();
        return;
    }
    let line = expected.lines().zip(found.lines()).take_while(|(a, b)| a == b).count() + 1;
    let name = path.display();
    let _ = writeln!(failures, "==== {name}, from line {line} on: expected\n{expected}");
    let _ = writeln!(failures, "==== but found\n{found}");
}

/// The same session with what the commands print now. Comments stay, and so does what is between
/// the end of one command and the next.
fn replay(session: &str, folder: &Path) -> String {
    let mut found = String::new();
    let mut printed = false;
    for line in session.lines() {
        if let Some(command) = line.strip_prefix(PROMPT) {
            let _ = writeln!(found, "{line}");
            found += &run(command, folder);
            printed = true;
        } else if printed && line.starts_with(EXIT) {
            printed = false;
        } else if !printed || line.starts_with("# ") {
            printed = false;
            let _ = writeln!(found, "{line}");
        }
    }
    found
}

/// What the line with the exit code begins with.
const EXIT: &str = "[exit ";

fn run(command: &str, folder: &Path) -> String {
    let words = words(command);
    assert_eq!(words.first().map(String::as_str), Some("solewriter"), "{command}");
    let output = Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .args(&words[1..])
        .current_dir(folder)
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    if !err.is_empty() {
        text = text + "[stderr]\n" + &err;
    }
    text + &format!("{EXIT}{}]\n", output.status.code().unwrap())
}

/// Words as a shell has them: apart by spaces, together in single quotes.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in command.chars() {
        match character {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            other => words.last_mut().unwrap().push(other),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}
