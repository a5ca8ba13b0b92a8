//! Runs what the documentation shows.
//!
//! In a page, a block marked `toml PATH` is written to that file, and one marked `console` is
//! run: each line that begins with `$ ` by a shell, in one folder for the whole page, and what it
//! prints (stdout, then stderr) must be what follows. A line `...` stands for any lines, and
//! `...` at the end of a line for its rest. `[exit N]` is the exit code, when it is not 0.
//!
//! `UPDATE_DOCS=1` writes what was printed, but leaves blocks with `...` alone.

#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::repository;

const BINARY: &str = env!("CARGO_BIN_EXE_solewriter");

/// Runs one command and gives what it printed, with the folder named as in the page.
fn run(command: &str, folder: &Path) -> String {
    let path = format!(
        "{}:{}",
        Path::new(BINARY).parent().unwrap().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let output = Command::new("sh")
        .args(["-c", command])
        .current_dir(folder)
        .env("PATH", path)
        .env("HOME", folder)
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap();
    text += &String::from_utf8(output.stderr).unwrap();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    if output.status.code() != Some(0) {
        let _ = writeln!(text, "[exit {}]", output.status.code().unwrap_or(-1));
    }
    text.replace(&folder.display().to_string(), "/srv")
}

fn matches(wanted: &[&str], found: &[&str]) -> bool {
    match (wanted.split_first(), found.split_first()) {
        (None, None) => true,
        (Some((&"...", rest)), _) => (0..=found.len()).any(|skip| matches(rest, &found[skip..])),
        (Some((line, rest)), Some((other, others))) => {
            let same = match line.strip_suffix("...") {
                Some(start) => other.starts_with(start),
                None => line == other,
            };
            same && matches(rest, others)
        }
        _ => false,
    }
}

/// Whether every command of ours in the block is there: a page may tell of one that this build
/// leaves out.
fn can_run(block: &[&str], commands: &str) -> bool {
    let ours = block.iter().filter_map(|line| line.strip_prefix("$ solewriter "));
    ours.filter_map(|rest| rest.split(' ').next())
        .all(|name| commands.lines().any(|line| line.trim_start().starts_with(&format!("{name} "))))
}

/// Runs a page in a folder, and gives it as it should be.
fn play(page: &str, folder: &Path) -> String {
    let commands = run("solewriter --help", folder);
    let mut out = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let _ = writeln!(out, "{line}");
        let Some(mark) = line.strip_prefix("```").filter(|mark| !mark.is_empty()) else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if let Some(name) = mark.strip_prefix("toml ") {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, block.join("\n") + "\n").unwrap();
        }
        if mark == "console" && can_run(&block, &commands) {
            for part in block.chunk_by(|_, next| !next.starts_with("$ ")) {
                let command = part[0].strip_prefix("$ ").expect("a command first");
                let found = run(command, folder);
                let list: Vec<&str> = found.lines().collect();
                let _ = writeln!(out, "{}", part[0]);
                if matches(&part[1..], &list) {
                    out.extend(part[1..].iter().flat_map(|line| [*line, "\n"]));
                } else {
                    out.push_str(&found);
                }
            }
        } else {
            out.extend(block.iter().flat_map(|line| [*line, "\n"]));
        }
        out.push_str("```\n");
    }
    out
}

fn check(name: &str, prepare: impl FnOnce(&Path)) {
    let path = repository().join("docs").join(name);
    let page = std::fs::read_to_string(&path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let played = play(&page, folder.path());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &played).unwrap();
    } else {
        assert!(
            played == page,
            "docs/{name} shows something else than what is printed; run with UPDATE_DOCS=1 and \
             look at the diff:\n{played}"
        );
    }
}

/// The sample policy, where the commands look for one.
fn with_sample(folder: &Path) {
    std::fs::create_dir(folder.join("policy")).unwrap();
    for entry in std::fs::read_dir(repository().join("policy")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join("policy").join(entry.file_name())).unwrap();
    }
}

#[test]
fn the_page_about_the_map() {
    check("map.md", with_sample);
}

#[test]
fn the_page_about_shells_and_editors() {
    check("editors.md", with_sample);
}

#[test]
fn the_tutorial() {
    check("tutorial.md", |_| {});
}

#[test]
fn the_page_about_shapes() {
    check("shapes.md", |folder| {
        let made = run("solewriter init deployment", folder);
        assert!(folder.join("deployment/solewriter.toml").exists(), "{made}");
    });
}

#[test]
fn the_page_about_adopting() {
    check("adopt.md", |folder| {
        let trace = repository().join("tests/adopt/traces/2.15.1.log");
        std::fs::copy(trace, folder.join("nats-server.log")).unwrap();
        let config = repository().join("tests/adopt/configurations/small/nats-server.conf");
        std::fs::copy(config, folder.join("nats-server.conf")).unwrap();
    });
}

/// Puts a table between two lines of a page, or sees that it is there.
fn check_table(name: &str, from: &str, to: &str, table: &str) {
    let path = repository().join("docs").join(name);
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(from).unwrap();
    let (_, after) = rest.split_once(to).unwrap();
    let whole = format!("{before}{from}\n{table}{to}{after}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, whole).unwrap();
    } else {
        assert!(whole == page, "docs/{name} has another table; run with UPDATE_DOCS=1:\n{table}");
    }
}

#[test]
fn the_page_about_doctor_has_every_check_and_advisory() {
    use solewriter::doctor::CHECKS;
    use solewriter_types::advisories::{ADVISORIES, UP_TO, plain};
    let mut table =
        "| check | what must be so | why | takes |\n| --- | --- | --- | --- |\n".to_owned();
    for check in CHECKS {
        let _ = writeln!(
            table,
            "| `{}` | {} | {} | {} |",
            check.id, check.asks, check.why, check.takes
        );
    }
    check_table(
        "doctor.md",
        "<!-- generated from the code: UPDATE_DOCS=1 cargo test --test offline docs -->",
        "<!-- end -->",
        &table,
    );
    let mut table = "| note | name | fixed in | what |\n| --- | --- | --- | --- |\n".to_owned();
    for advisory in ADVISORIES {
        let (name, title) = (advisory.name, advisory.title);
        let note = advisory.note.zip(advisory.link());
        let note = note.map_or("none".to_owned(), |(note, link)| format!("[{note}]({link})"));
        let fixed: Vec<String> = advisory.fixed.iter().map(|f| plain(*f).to_string()).collect();
        let _ = writeln!(table, "| {note} | {name} | {} | {title} |", fixed.join(", "));
    }
    check_table(
        "doctor.md",
        "<!-- advisories: UPDATE_DOCS=1 cargo test --test offline docs -->",
        "<!-- end of advisories -->",
        &table,
    );
    let page = std::fs::read_to_string(repository().join("docs/doctor.md")).unwrap();
    assert!(page.contains(&format!("read up to note {UP_TO}")));
    // What it names is there.
    let attacks = std::fs::read_to_string(repository().join("docs/attacks.md")).unwrap();
    for (id, _) in solewriter::doctor::accounts::OPEN {
        assert!(attacks.contains(&format!("`{id}`")), "{id}");
    }
}

#[test]
fn the_page_about_settings_has_every_setting() {
    use solewriter::config::{SETTINGS, seed_variables};
    let mut table =
        "| setting | flag | environment variable | meaning [default] |\n| --- | --- | --- | --- |\n"
            .to_owned();
    for setting in SETTINGS {
        let (name, key, meaning) = (setting.table, setting.key, setting.meaning());
        let (flag, variable) = (setting.flag(), setting.variable());
        let _ = writeln!(table, "| `[{name}]` `{key}` | `--{flag}` | `{variable}` | {meaning} |");
    }
    check_table(
        "settings.md",
        "<!-- settings: UPDATE_DOCS=1 cargo test --test offline docs -->",
        "<!-- end of settings -->",
        &table,
    );
    let page = std::fs::read_to_string(repository().join("docs/settings.md")).unwrap();
    for variable in seed_variables() {
        assert!(page.contains(&format!("`{variable}`")), "{variable}");
    }
}

/// The files of a folder and of the folders in it.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The events that `serve` logs, as its source has them: each name with the levels it is logged at.
fn events_of_the_service() -> BTreeMap<String, BTreeSet<String>> {
    let mut files = Vec::new();
    for source in ["src", "crates/core/src", "crates/types/src"] {
        sources(&repository().join(source), &mut files);
    }
    let quoted = |text: &str| -> Vec<String> {
        text.split('"').skip(1).step_by(2).map(ToOwned::to_owned).collect()
    };
    let mut events: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        let name = file.strip_prefix(repository()).unwrap().display().to_string();
        // What other commands say is told where they are.
        let elsewhere = ["src/violations", "src/signer", "src/cli/"];
        let is_serves = name.starts_with("src/cli/serve");
        let is_test = name.ends_with("/tests.rs");
        if is_test || elsewhere.iter().any(|part| name.starts_with(part)) && !is_serves {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let (text, _) = text.split_once("#[cfg(test)]\nmod tests").unwrap_or((&text, ""));
        for (at, _) in text.match_indices("event = ") {
            let line = text[at..].lines().next().unwrap();
            let line = if line.contains("{ \"") { line } else { line.split(',').next().unwrap() };
            let before = &text[..at];
            if before.ends_with("let ") {
                continue;
            }
            let Some(macro_at) = before.rfind("tracing::") else { continue };
            let level = before[macro_at + "tracing::".len()..].split('!').next().unwrap();
            let levels: Vec<String> = if level == "$level" {
                // A macro that the function has for itself.
                let (function, _) = text[at..].split_once("\n}\n").unwrap();
                function
                    .split("told!(")
                    .skip(1)
                    .map(|arm| arm.split(')').next().unwrap().to_uppercase())
                    .collect()
            } else {
                vec![level.to_uppercase()]
            };
            for event in quoted(line) {
                events.entry(event).or_default().extend(levels.iter().cloned());
            }
        }
        // Of this one the name is its reason, which may have been chosen before.
        for part in text.split("Trouble(Trouble {").skip(1) {
            let line = part.trim_start().lines().next().unwrap();
            let mut names = quoted(line);
            if names.is_empty() && line.contains("reason.to_owned()") {
                let (before, _) = text.split_once("Trouble(Trouble {").unwrap();
                let (_, choice) = before.rsplit_once("let (reason, end) = ").unwrap();
                names = choice
                    .split("(\"")
                    .skip(1)
                    .filter_map(|c| c.split('"').next())
                    .map(ToOwned::to_owned)
                    .collect();
            }
            assert!(!names.is_empty(), "{name}: {line}");
            for event in names {
                events.entry(event).or_default().insert("ERROR".to_owned());
            }
        }
    }
    events
}

/// The page has each event, at the levels that it is logged at, and none that is not there any more.
#[test]
fn the_page_about_operating_has_the_events_of_the_service_and_their_levels() {
    let page = std::fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let (_, table) = page.split_once("| event | level | meaning |\n| --- | --- | --- |\n").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let events = events_of_the_service();
    assert!(events.len() > 60, "{}", events.len());
    let mut told = BTreeSet::new();
    let mut wrong = Vec::new();
    for row in table.lines() {
        let cells: Vec<&str> = row.split(" | ").collect();
        let names: Vec<&str> = cells[0].split('`').skip(1).step_by(2).collect();
        let mut logged = BTreeSet::new();
        for name in &names {
            told.insert((*name).to_owned());
            match events.get(*name) {
                Some(levels) => logged.extend(levels.iter().cloned()),
                None => wrong.push(format!("there is no event {name}")),
            }
        }
        let said: BTreeSet<String> = cells[1]
            .split(|c: char| !c.is_ascii_uppercase())
            .filter(|word| word.len() > 3)
            .map(ToOwned::to_owned)
            .collect();
        if said != logged {
            wrong.push(format!("{names:?} are logged at {logged:?}"));
        }
    }
    wrong.extend(events.keys().filter(|e| !told.contains(*e)).map(|e| format!("no row: {e}")));
    assert!(wrong.is_empty(), "docs/operations.md:\n{}", wrong.join("\n"));
}

/// The fields of a decision's line are those of the event, but for what has a line of its own.
#[test]
fn the_page_about_operating_has_every_field_of_a_decision() {
    let page = std::fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let (_, said) = page.split_once("A decision's fields: ").unwrap();
    let (said, _) = said.split_once("\n\n").unwrap();
    let schema: serde_json::Value =
        serde_json::from_str(&solewriter::audit::schema::document()).unwrap();
    let kinds = schema["oneOf"].as_array().unwrap();
    let decision = kinds
        .iter()
        .find_map(|kind| kind.pointer("/properties/data/properties")?.as_object())
        .filter(|fields| fields.contains_key("decision"))
        .unwrap();
    let mut fields = decision.keys().filter(|field| *field != "unanswered").peekable();
    assert!(fields.peek().is_some());
    for field in fields {
        assert!(said.contains(&format!("`{field}`")), "`{field}` is not in: {said}");
    }
}

#[test]
fn the_page_about_operating_has_every_metric() {
    let page = std::fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let text = solewriter::telemetry::Metrics::new().encode();
    // What counts nothing yet is not in it: those are found by where they are registered.
    let telemetry = repository().join("src/telemetry");
    let mut files = vec![telemetry.with_extension("rs")];
    sources(&telemetry, &mut files);
    let mut known = Vec::new();
    for file in files {
        let source = std::fs::read_to_string(&file).unwrap();
        for call in [".register(", ".register_with_unit("] {
            for part in source.split(call).skip(1) {
                let Some((before, rest)) = part.split_once('"') else { continue };
                let name = rest.split('"').next().unwrap();
                if before.len() < 60 && !before.contains(')') {
                    let row = format!("| `solewriter_{name}");
                    assert!(page.contains(&row), "{row}");
                    known.push(row);
                }
            }
        }
    }
    assert!(known.len() > 35, "{known:?}");
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let end = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let row = format!("| `{name}{end}` | {kind} |");
        assert!(page.contains(&row), "{row}");
        known.push(row);
    }
    for line in page.lines().filter(|line| line.starts_with("| `solewriter_")) {
        assert!(known.iter().any(|row| line.starts_with(row)), "there is no such metric: {line}");
    }
}
