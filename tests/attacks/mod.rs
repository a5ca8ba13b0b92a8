//! Attacks on "one keyspace, one writer", on real servers and through the real service; the page
//! `docs/attacks.md` is what this run saw.
//!
//! Every supported version standalone, the oldest and the newest as a cluster of three, too.
//! `ATTACKS_ON=2.15.1` or `ATTACKS_ON=2.15.1-cluster` runs on that one alone, `ATTACKS=words`
//! those attacks whose names hold one of the words (`door`, `chain` and `author` are those with code of their own);
//! both leave the page alone.
//! `UPDATE_DOCS=1` writes the page.

mod authors;
mod beats;
mod chains;
mod control;
pub mod doors;
mod grants;
mod http;
mod lane;
mod operator;
pub mod prove;
mod seeds;
mod suite;

use super::{deployment, raw};
use solewriter::prove::page;
use suite::Place;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_attack_ends_as_the_table_says() {
    let _room = crate::room::some_room().await;
    let only = std::env::var("ATTACKS_ON").ok();
    let mut columns = Vec::new();
    let mut problems = Vec::new();
    let places = Place::ALL.into_iter();
    // One after the other: other tests run beside them, and some of these measure time.
    for place in places.filter(|place| only.as_ref().is_none_or(|only| *only == place.name())) {
        let (column, wrong) = suite::run_place(place).await;
        problems.extend(wrong.into_iter().map(|w| format!("{}: {w}", place.name())));
        columns.push((place.name(), column));
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    if only.is_none() && std::env::var_os("ATTACKS").is_none() {
        compare(&page::render(&suite::everything(), &columns));
    }
}

/// The same attacks, by services that may still do what they could before.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_is_observed_takes_nothing_of_others() {
    let _room = crate::room::some_room().await;
    let place = Place { version: "2.15.1", cluster: false, observed: true, operator: false };
    let (_, wrong) = suite::run_place(place).await;
    assert!(wrong.is_empty(), "{} problems:\n{}", wrong.len(), wrong.join("\n"));
}

/// The page is what was seen, or becomes it.
fn compare(seen: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/attacks.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, seen).unwrap();
        return;
    }
    let page = std::fs::read_to_string(path).unwrap_or_default();
    let differs = seen.lines().zip(page.lines()).find(|(seen, page)| seen != page);
    assert!(
        seen == page,
        "docs/attacks.md says something else than what was seen; run with UPDATE_DOCS=1 and look \
         at the diff. First: {differs:#?}"
    );
}
