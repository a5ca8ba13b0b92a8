//! Configurations of nats-server as companies have them (`tests/adopt/configurations`), and what is read from
//! each. `UPDATE_DOCS=1` writes the reports; `tests/e2e/server_config.rs` has the server read the
//! same files.

use std::io;
use std::path::{Path, PathBuf};

use solewriter::adoption::server_config::accounts::Config;
use solewriter::adoption::server_config::syntax::{self, Disk, Source};
use solewriter::adoption::server_config::{findings, report};
use solewriter_core::diagnostics::{Collector, Severity};

/// A folder as the place where the server was started, with the one variable that the files use.
pub struct Folder(pub PathBuf);

impl Source for Folder {
    fn file(&self, path: &Path, most: usize) -> io::Result<Vec<u8>> {
        Disk.file(&self.0.join(path), most)
    }

    fn environment(&self, name: &str) -> Option<String> {
        (name == "SERVER_NAME_OF_TEST").then(|| "templates-1".to_owned())
    }
}

#[test]
fn every_configuration_is_read_as_its_report_says() {
    let mut failures = String::new();
    let cases = super::cases("tests/adopt/configurations");
    assert!(cases.len() >= 10);
    for case in cases {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let tree = syntax::read(Path::new("nats-server.conf"), &Folder(case.clone()));
        let tree = tree.unwrap_or_else(|problems| panic!("{name}: {problems}"));
        let problems = Collector::new();
        let config = Config::of(&tree, &problems);
        let problems = problems.finish();
        let found = findings::of(&config, &tree.files[0].span(0..0));
        let mut said = report::report(&config, &found);
        assert!(!problems.has_errors(), "{name}: {problems}");
        assert_eq!(problems.count(Severity::Note), 0, "{name}: {problems}");
        if !problems.is_empty() {
            said += &format!("\n{problems}");
        }
        let all = format!("{said} {config:?} {tree:?} {found:?}");
        assert!(!all.contains("fake"), "{name} tells a password");

        let file = case.join("report.txt");
        super::golden("UPDATE_DOCS", &file, &said, &mut failures);
    }
    super::all_as_expected("UPDATE_DOCS", &failures);
}
