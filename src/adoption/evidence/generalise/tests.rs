//! Patterns hold all that was seen, and no more than they should.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::adoption::evidence::tally::Mark;
use crate::adoption::evidence::tokens::{MAX_DEPTH, MAX_NODES};
use solewriter_types::subject::Subject;

fn tree(mut tree: Tokens, subjects: impl IntoIterator<Item = impl AsRef<str>>) -> Tokens {
    let user: Arc<str> = "u".into();
    for subject in subjects {
        tree.insert(subject.as_ref(), Mark::once(None, &user, None));
    }
    tree
}

fn patterns(tree: &Tokens, level: Level) -> String {
    let all: Vec<String> = tree.patterns(level).into_iter().map(|seen| seen.pattern).collect();
    all.join(" ")
}

fn of(subjects: &[&str], level: Level) -> String {
    patterns(&tree(Tokens::of_subjects(), subjects), level)
}

#[test]
fn ids_become_a_star_from_three_on() {
    let two = ["orders.1.created", "orders.2.created"];
    assert_eq!(of(&two, Level::Careful), "orders.1.created orders.2.created");
    let three = ["orders.1.created", "orders.2.created", "orders.3.shipped", "orders.all.done"];
    let expected = "orders.*.created orders.*.shipped orders.all.done";
    assert_eq!(of(&three, Level::Careful), expected);
    assert_eq!(of(&three, Level::None), three.join(" "));
    assert_eq!(of(&three, Level::Wide), "orders.>");
}

#[test]
fn words_become_a_star_where_many_have_the_same_around_them() {
    let names: Vec<String> = (0..20).map(|n| format!("sensor-{}", (b'a' + n) as char)).collect();
    let mut all: Vec<String> = names.iter().map(|name| format!("temp.{name}.celsius")).collect();
    all.push("temp.config.changed".to_owned());
    let found = patterns(&tree(Tokens::of_subjects(), &all), Level::Careful);
    assert_eq!(found, "temp.*.celsius temp.config.changed");
    all.remove(0);
    let found = tree(Tokens::of_subjects(), &all).patterns(Level::Careful);
    assert_eq!(found.len(), 20);
}

#[test]
fn the_first_token_stays_and_tails_of_many_lengths_end_in_rest() {
    assert_eq!(of(&["1.a", "2.a", "3.a"], Level::Careful), "1.a 2.a 3.a");
    let deep = ["f.1", "f.2", "f.3", "f.1.1", "f.1.2", "f.1.3", "f.1.1.1", "f.1.1.2", "f.1.1.3"];
    assert_eq!(of(&deep, Level::Careful), "f.>");
    let keys = patterns(&tree(Tokens::of_keys(), ["1", "2", "3"]), Level::Careful);
    assert_eq!(keys, "*");
    assert_eq!(of(&["a.>", "a.b", "b.*"], Level::Careful), "a.> b.*");
}

#[test]
fn millions_of_subjects_take_no_more_room_than_thousands() {
    for make in [
        (|n| format!("orders.{n}.created")) as fn(u32) -> String,
        |n| format!("a.{}.{}.{}", n % 7, n % 101, n),
        |n| format!("w{n}.x"),
        |n| format!("s.word{}x.y{}z.t{n}u", n % 300, n % 977),
        |n| vec!["d"; (n % 40 + 1) as usize].join("."),
    ] {
        for empty in [Tokens::of_keys(), Tokens::of_subjects()] {
            let all = tree(empty, (0..60_000).map(make));
            assert!(all.nodes() <= MAX_NODES, "{}", all.nodes());
            let found: Vec<Pattern> = all
                .patterns(Level::Careful)
                .iter()
                .map(|seen| Pattern::parse(&seen.pattern).unwrap())
                .collect();
            let lost = all.lost().count > 0;
            for n in (0..60_000).step_by(9_973) {
                let subject = make(n);
                assert!(lost || found.iter().any(|p| p.matches_wire(&subject)), "{subject}");
            }
        }
    }
    let ids = tree(Tokens::of_subjects(), (0..60_000).map(|n| format!("orders.{n}.created")));
    assert_eq!(patterns(&ids, Level::Careful), "orders.*.created");
    let words = tree(ids, ["orders.admin.config"]);
    assert_eq!(patterns(&words, Level::Careful), "orders.*.created orders.admin.config");
}

fn any_subject() -> impl Strategy<Value = String> {
    let token = prop_oneof!["[a-c]", "[0-9]{1,3}", "[a-z]{3}", "[0-9a-f]{8}"];
    prop::collection::vec(token, 1..MAX_DEPTH + 3).prop_map(|tokens| tokens.join("."))
}

proptest! {
    #[test]
    fn every_subject_is_in_a_pattern(
        subjects in prop::collection::vec(any_subject(), 1..300), keys in any::<bool>()
    ) {
        let empty = if keys { Tokens::of_keys() } else { Tokens::of_subjects() };
        let tree = tree(empty, &subjects);
        prop_assert_eq!(tree.lost().count, 0);
        for level in [Level::None, Level::Careful, Level::Wide] {
            let found = tree.patterns(level);
            let counted: u64 = found.iter().map(|seen| seen.tally.count).sum();
            prop_assert_eq!(counted, subjects.len() as u64);
            let patterns: Vec<Pattern> =
                found.iter().map(|seen| Pattern::parse(&seen.pattern).unwrap()).collect();
            for subject in &subjects {
                let literal = Subject::parse(subject).unwrap();
                prop_assert!(patterns.iter().any(|p| p.matches(&literal)), "{subject}");
            }
            let first = |pattern: &Pattern| pattern.first_token().to_owned();
            prop_assert!(keys || !patterns.iter().any(|p| matches!(&*first(p), "*" | ">")));
        }
    }

    #[test]
    fn what_was_not_seen_is_in_no_pattern_at_the_level_none(
        subjects in prop::collection::vec(any_subject(), 1..60), other in any_subject()
    ) {
        let short = |subject: &&String| subject.split('.').count() <= MAX_DEPTH;
        let subjects: Vec<&String> = subjects.iter().filter(short).collect();
        prop_assume!(!subjects.contains(&&other));
        let tree = tree(Tokens::of_subjects(), &subjects);
        for seen in tree.patterns(Level::None) {
            prop_assert!(!Pattern::parse(&seen.pattern).unwrap().matches_wire(&other));
            prop_assert!(subjects.contains(&&seen.pattern));
        }
    }
}
