//! `docs/performance.md` and `docs/sizing.md` say what was measured, and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use solewriter_lab::results::{
    Beside, Changes, Listings, Report, Served, ServedBy, ServedGrant, Soak, Streams, Sweeps, kept,
};

fn docs() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"))
}

/// The page and its plots are what the results that are kept make of them, byte for byte.
#[test]
fn no_number_in_the_page_is_written_by_hand() {
    let Some(report) = kept::<Report>(&docs().join("performance/report.json")).unwrap() else {
        assert!(
            !docs().join("performance.md").exists(),
            "a page without the results it is made of"
        );
        return;
    };
    let beside = Beside::kept(&docs().join("performance")).unwrap();
    let mut pages = report.pages(&beside);
    pages.push(("sizing.md".to_owned(), report.sizing(&beside)));
    for (name, text) in pages {
        let found = std::fs::read_to_string(docs().join(&name)).unwrap_or_default();
        let help = format!("docs/{name}: make it with `solewriter-lab report --render`");
        assert!(found == text, "{help}");
    }
    let Beside { streams, listings, changes, served, sweeps, .. } = &beside;
    let streams = streams.iter().all(|s| s.machine.release && s.rounds.len() > 2);
    let listings = listings.iter().all(|l| l.machine.release && l.rounds.len() > 2);
    let enough = |by: &ServedBy| by.grants.iter().all(|grant| grant.clear.len() > 2);
    let served = served.iter().all(|s| s.machine.release && s.servers.iter().all(enough));
    let changes = changes.iter().all(|c| c.machine.release && c.rounds.len() > 2);
    let sweeps = sweeps.iter().all(|s| s.machine.release && s.revocations.len() > 20);
    assert!(
        streams && listings && changes && served && sweeps,
        "figures of a debug build, or of a quick run, mean nothing"
    );
    assert!(report.machine.release, "figures of a debug build mean nothing");
    assert!(report.connect.iter().all(|part| part.closed.len() > 1), "a quick run means nothing");
}

/// What was not measured is said to be so, and no goal is met by it.
#[test]
fn a_report_of_nothing_meets_nothing() {
    let report = Report::default();
    for goal in report.goals() {
        assert_eq!((goal.met, goal.found.as_str()), (None, "not measured"), "{}", goal.goal);
    }
    for goal in Sweeps::default().goals(None) {
        assert_eq!((goal.met, goal.found.as_str()), (None, "not measured"), "{}", goal.goal);
    }
    let grants = vec![ServedGrant::default()];
    let served =
        Served { servers: vec![ServedBy { grants, ..ServedBy::default() }], ..Served::default() };
    let pages = report.pages(&Beside {
        streams: Some(Streams::default()),
        soak: Some(Soak::default()),
        listings: Some(Listings::default()),
        changes: Some(Changes::default()),
        served: Some(served),
        sweeps: Some(Sweeps::default()),
    });
    let page = &pages[0].1;
    let sizing = report.sizing(&Beside::default());
    assert!(sizing.contains("| - µs |") && !sizing.contains("NaN"), "{sizing}");
    assert!(page.contains("not measured") && !page.contains("NaN"), "{page}");
    for (name, text) in &pages {
        let svg = name.strip_prefix("performance/");
        let shown = svg.is_none_or(|svg| page.contains(&format!("](performance/{svg})")));
        assert!(shown, "{name} is not on the page");
        assert!(!text.contains("NaN") && !text.contains("inf"), "{name}");
    }
}
