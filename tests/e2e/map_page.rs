//! The map's page in a real browser, at the sizes that people have: a dozen services, a hundred, a
//! thousand, on a desk and on a phone.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::clients::node_modules;

/// A browser, where there is one: `SOLEWRITER_BROWSER`, or what is on `PATH`.
pub fn browser() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("SOLEWRITER_BROWSER") {
        return Some(given.into());
    }
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|program| program.is_file())
}

/// A policy of so many services, each with a bucket that another one reads, and events. The first of
/// them also have a stream, a store and a name. In one file their names begin alike; otherwise there
/// is a file for each team.
fn policy(dir: &Path, services: usize, in_one_file: bool) {
    const TEAMS: [&str; 7] =
        ["billing", "catalog", "orders", "pricing", "shipping", "stock", "web"];
    let mut texts = vec![String::new(); TEAMS.len()];
    for number in 0..services {
        let team = number % TEAMS.len();
        let name = format!("{}-{number}", TEAMS[team]);
        let reads =
            format!("{}-{}", TEAMS[(number + 1) % services % TEAMS.len()], (number + 1) % services);
        let nkey = nkeys::KeyPair::new_user().public_key();
        let (store, stream) = match number {
            0 => (
                ", \"store:files\"",
                "found_as = [\"first-api\"]\n\n[store.files]\n\n[stream.EVENTS]\n\
                 subjects = [\"events.billing-0.>\"]\n\n[stream.EVENTS.consumer.second]\n",
            ),
            1 => ("", "consumes = [\"EVENTS/second\"]\ndiscovers = [\"first-api\"]\n"),
            2 => ("", "replays = [\"EVENTS\"]\n"),
            _ => ("", ""),
        };
        let _ = write!(
            texts[team],
            "[service.{name}]\nnkeys = [\"{nkey}\"]\nowns = [\"{name}\"{store}]\nreads = [\"{reads}\"]\n\
             publishes = [\"events.{name}.>\"]\nsubscribes = [\"events.{reads}.>\"]\n{stream}\n\
             [bucket.{name}]\n\n"
        );
    }
    std::fs::create_dir_all(dir).unwrap();
    if in_one_file {
        std::fs::write(dir.join("services.toml"), texts.concat()).unwrap();
        return;
    }
    for (team, text) in TEAMS.iter().zip(texts) {
        std::fs::write(dir.join(format!("{team}.toml")), text).unwrap();
    }
}

#[test]
fn the_page_shows_boxes_groups_and_all_of_its_width() {
    let Some(browser) = browser() else {
        eprintln!("skipped: there is no Chromium here (apt-get install chromium)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut pages = Vec::new();
    for (services, in_one_file) in [(12, true), (100, true), (100, false), (1000, false)] {
        let name = format!("{services}-{}", if in_one_file { "one-file" } else { "files" });
        let policy_dir = dir.path().join(&name);
        policy(&policy_dir, services, in_one_file);
        let page = dir.path().join(format!("{name}.html"));
        let drawn = Command::new(env!("CARGO_BIN_EXE_solewriter"))
            .args(["map", "--format", "html"])
            .arg(&policy_dir)
            .output()
            .unwrap();
        assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
        std::fs::write(&page, drawn.stdout).unwrap();
        pages.push(page);
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    let folder = node_modules(&source, &["map.mjs"]);
    let mut look = Command::new("node");
    look.arg("map.mjs").arg(browser).args(&pages).current_dir(folder);
    let looked = look.output().unwrap();
    let text = String::from_utf8_lossy(&looked.stdout);
    let errors = String::from_utf8_lossy(&looked.stderr);
    assert!(looked.status.success(), "{text}{errors}");
}
