//! What `solewriter adopt` edits in the configurations of companies (`tests/adopt/configurations`), or why it does
//! not. `UPDATE_DOCS=1` writes the diffs; `tests/e2e/adopt.rs` has the server check the same stages.

use std::collections::BTreeSet;
use std::path::Path;

use solewriter::adoption::stages::edits::diff;
use solewriter::adoption::stages::{Current, Keys, Plan, Planned, Request, Stage, readme};
use solewriter_core::diagnostics::Problems;
use solewriter_types::subject::Pattern;

use super::server_config::Folder;

/// Keys that are the same in each run, and nobody's.
fn keys() -> Keys {
    let key = |kind: char, name: &str| format!("{kind}{name:A<55}");
    Keys {
        issuer: key('A', "ISSUER"),
        xkey: key('X', "CALLOUT"),
        callout: key('U', "CALLOUT"),
        publisher: key('U', "PUBLISHER"),
        admin: key('U', "ADMIN"),
        audit_admin: key('U', "AUDITADMIN"),
        system: key('U', "SYSTEM"),
        anybody: key('U', "ANYBODY"),
    }
}

fn diffs(old: &Current, new: &Planned) -> String {
    let edited = old
        .texts()
        .iter()
        .filter_map(|(file, before)| Some(diff(file, before, new.texts.get(file)?, &new.lines)));
    edited.collect()
}

fn said(current: &Current, account: Option<&str>) -> Result<String, Problems> {
    let (keys, shared) = (keys(), [Pattern::parse("events.>").unwrap()]);
    let request = Request { account, shared: &shared, policy: None, keys: &keys };
    let plan = Plan::of(current, request)?;
    let beside = plan.stage(Stage::Beside)?;
    let last = plan.stage(Stage::Last { keep: BTreeSet::new() })?;
    let page = readme::plan(&plan, &[("1-beside", &beside), ("3-last", &last)], "nats-server.conf");
    assert!(!page.contains("fake"), "{page}");
    let notes = readme::notes(&plan);
    let notes = notes.iter().fold(String::new(), |text, note| text + "- " + note + "\n");
    Ok(format!(
        "Everybody beside\n\n{}\nNobody is left\n\n{}\nNotes\n\n{notes}",
        diffs(current, &beside),
        diffs(current, &last)
    ))
}

#[test]
fn every_configuration_is_edited_as_its_diff_says() {
    let mut failures = String::new();
    let cases = super::cases("tests/adopt/configurations");
    assert!(cases.len() >= 10);
    for case in cases {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let folder = Folder(case.clone());
        let current = Current::read(Path::new("nats-server.conf"), &folder).unwrap();
        let mut text = match said(&current, None) {
            Ok(text) => text,
            Err(problems) => format!("Refused\n\n{problems}"),
        };
        if name == "teams" {
            text +=
                &format!("\nWith --account SALES\n\n{}", said(&current, Some("SALES")).unwrap());
        }
        assert!(!text.contains("fake"), "{name} tells a password");
        let file = case.join("adopt.diff");
        super::golden("UPDATE_DOCS", &file, &text, &mut failures);
    }
    super::all_as_expected("UPDATE_DOCS", &failures);
}
