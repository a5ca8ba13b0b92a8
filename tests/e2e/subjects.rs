//! Matching agrees with a real server.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use solewriter_types::subject::{Pattern, Subject};

use super::deployment::Prepared;
use super::raw::Raw;

const PATTERNS: usize = 80;
const SUBJECTS: usize = 80;

/// Short, of few tokens, so that matches are common; some tokens look like wildcards and are not.
fn text(random: &mut StdRng, tokens: &[&str]) -> String {
    let length = random.random_range(1..=4);
    let pick = |random: &mut StdRng| tokens[random.random_range(0..tokens.len())];
    (0..length).map(|_| pick(random)).collect::<Vec<_>>().join(".")
}

on_every_server!(matching_is_what_the_server_does);
async fn matching_is_what_the_server_does(version: &'static str) {
    let deployment = Prepared::new().start_broker(version, "").await;
    let seed: u64 = match std::env::var("SOLEWRITER_TEST_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::random(),
    };
    let mut random = StdRng::seed_from_u64(seed);
    // These match much, whatever chance adds.
    let mut patterns: Vec<Pattern> =
        [">", "*.>", "*.*"].iter().map(|text| Pattern::parse(text).unwrap()).collect();
    while patterns.len() < PATTERNS {
        let tokens = ["a", "a", "b", "*", "*", ">", "a*", "*a", ">a", "**", "é", "$a"];
        patterns.extend(Pattern::parse(&text(&mut random, &tokens)));
    }
    let mut subjects: Vec<Subject> = Vec::new();
    while subjects.len() < SUBJECTS {
        let tokens = ["a", "a", "b", "b", "a*", "*a", ">a", "**", "é", "$a"];
        subjects.extend(Subject::parse(&text(&mut random, &tokens)));
    }

    // The admin lives in the account STATE, where nothing else subscribes to such subjects.
    let mut admin = Raw::try_login(deployment.url(), &deployment.seed("admin")).await.unwrap();
    let mut bytes = String::new();
    for (sid, pattern) in patterns.iter().enumerate() {
        bytes.push_str(&format!("SUB {pattern} {sid}\r\n"));
    }
    for (number, subject) in subjects.iter().enumerate() {
        let number = number.to_string();
        bytes.push_str(&format!("PUB {subject} {}\r\n{number}\r\n", number.len()));
    }
    admin.send(bytes.as_bytes()).await;
    assert_eq!(admin.fence().await, Ok(()), "seed {seed}: the server takes every one");
    let delivered: BTreeSet<(usize, usize)> = admin
        .delivered
        .drain(..)
        .map(|m| {
            let number = String::from_utf8(m.payload).unwrap().parse().unwrap();
            (usize::try_from(m.sid).unwrap(), number)
        })
        .collect();
    let mut wrong = Vec::new();
    for (sid, pattern) in patterns.iter().enumerate() {
        for (number, subject) in subjects.iter().enumerate() {
            let (ours, theirs) = (pattern.matches(subject), delivered.contains(&(sid, number)));
            if ours != theirs {
                wrong.push(json!({"pattern": pattern.as_str(), "subject": subject.as_str(),
                    "solewriter": ours, "server": theirs}));
            }
        }
    }
    assert!(wrong.is_empty(), "SOLEWRITER_TEST_SEED={seed}: {wrong:#?}");
    assert!(delivered.len() > 100, "SOLEWRITER_TEST_SEED={seed}: hardly any match");
}
