//! What counts for a while: by the time, the documents and the policy beneath.

use std::time::Duration;

use super::*;
use solewriter_core::emergency::{Wish, id};
use solewriter_core::keys::{Seed, Signer, User};
use solewriter_core::policy::validate::validate;
use solewriter_types::keyspace::Keyspace;

const NOW: i64 = 1_800_000_000;
const POLICY: &str = "[bucket.k]\n[bucket.l]\n[service.a]\nowns = ['k']\n[service.b]\n\
    reads = [{ entry = 'l', until = 2027-01-15T08:10:00Z }]\n";
/// When that entry ends.
const UNTIL: i64 = NOW + 600;

struct Fleet {
    temporary: Temporary,
    signer: Signer<User>,
    documents: Vec<String>,
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

impl Fleet {
    fn new(policy: &str) -> Self {
        let signer = Signer::new(&Seed::generate()).unwrap();
        let longest = Duration::from_secs(3600);
        let keys = vec![*signer.public()];
        let rules = Rules { keys, fleet: "east".to_owned(), longest };
        let mut fleet = Self {
            temporary: Temporary::new(rules, AuditStreams::default()),
            signer,
            documents: Vec::new(),
        };
        fleet.rebase(policy);
        fleet
    }

    fn rebase(&mut self, policy: &str) {
        let files = [SourceFile::new("p.toml", policy)];
        let validated = validate(&files).unwrap();
        self.temporary.rebase(&files, validated.policy, None);
    }

    /// Signs a grant of `k` to that service at that time. Gives its id.
    fn grant(&mut self, service: &str, now: i64, seconds: u64) -> String {
        let id = id(rand::random());
        let keyspace = Keyspace::parse("k").unwrap();
        let wish = Wish { id: &id, fleet: "east", now, reason: "r" };
        let lasts = Duration::from_secs(seconds);
        self.documents.push(wish.grant(service, &keyspace, lasts, &self.signer).unwrap());
        id
    }

    fn end(&mut self, grant: &str, now: i64) {
        let id = id(rand::random());
        let wish = Wish { id: &id, fleet: "east", now, reason: "r" };
        self.documents.push(wish.end(grant, &self.signer).unwrap());
    }

    fn select(&mut self, now: i64) -> Selection {
        self.temporary.take(self.documents.clone(), at(now));
        self.temporary.select(at(now), 60).unwrap()
    }

    fn owners(&mut self, now: i64) -> Vec<String> {
        let selection = self.select(now);
        let keyspace = Keyspace::parse("k").unwrap();
        selection.policy.owners(&keyspace).map(|(service, _)| service.name.to_string()).collect()
    }
}

fn kinds(selection: &Selection) -> Vec<(&'static str, String)> {
    let told = |event: &Event| {
        let what = match event {
            Event::EmergencyBegan(event) => event.owner.clone().unwrap_or_default(),
            Event::EmergencyEnded(event) => event.cause.clone(),
            Event::EmergencyIgnored(event) => event.cause.clone(),
            other => panic!("{other:?}"),
        };
        (event.kind().rsplit('.').next().unwrap(), what)
    };
    selection.events.iter().map(told).collect()
}

fn told(told: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    told.iter().map(|(kind, what)| (*kind, (*what).to_owned())).collect()
}

#[test]
fn a_grant_begins_and_ends_by_itself_and_is_told_once_at_each_end() {
    let mut fleet = Fleet::new(POLICY);
    assert_eq!(fleet.owners(NOW), ["a"]);
    fleet.grant("b", NOW, 900);
    let began = fleet.select(NOW);
    assert_eq!(kinds(&began), told(&[("began", "a")]));
    assert_eq!(began.policy.emergencies().len(), 1);
    assert!(began.before.is_empty(), "what was in force here is known");
    assert!(!fleet.temporary.is_due(at(NOW + 599)));
    assert_eq!(kinds(&fleet.select(NOW + 500)), told(&[]));
    // The entry that ends by itself, too.
    assert!(fleet.temporary.is_due(at(UNTIL)));
    assert_eq!(fleet.owners(UNTIL), ["b"]);
    assert!(!fleet.temporary.is_due(at(NOW + 899)) && fleet.temporary.is_due(at(NOW + 900)));
    let ended = fleet.select(NOW + 900);
    assert_eq!(kinds(&ended), told(&[("ended", "time")]));
    assert_eq!(fleet.owners(NOW + 901), ["a"]);
    assert_eq!(kinds(&fleet.select(NOW + 902)), told(&[]));
    assert!(!fleet.temporary.is_due(at(NOW + 100_000)), "nothing is left to come");
}

#[test]
fn who_is_named_ends_it_early_and_nobody_else() {
    let mut fleet = Fleet::new(POLICY);
    let id = fleet.grant("b", NOW, 900);
    assert_eq!(fleet.owners(NOW), ["b"]);
    let other = Fleet::new(POLICY).signer;
    let mine = std::mem::replace(&mut fleet.signer, other);
    fleet.end(&id, NOW);
    assert_eq!(kinds(&fleet.select(NOW)), told(&[("ignored", "key")]));
    assert_eq!(kinds(&fleet.select(NOW)), told(&[]), "it is told once");
    assert_eq!(fleet.owners(NOW), ["b"]);
    fleet.signer = mine;
    fleet.end(&id, NOW);
    assert_eq!(kinds(&fleet.select(NOW)), told(&[("ended", "early")]));
    assert_eq!(fleet.owners(NOW), ["a"]);
    // The same document once more grants nothing.
    let again = fleet.documents[0].clone();
    fleet.documents.push(again);
    assert_eq!(fleet.owners(NOW), ["a"]);
}

#[test]
fn a_clock_that_is_set_back_lengthens_nothing() {
    let mut clock = Clock::default();
    let start = Instant::now();
    let later = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(clock.now(NOW, start), NOW);
    assert_eq!(clock.now(NOW + 10, later(10)), NOW + 10);
    // Set back by an hour; and by a day.
    assert_eq!(clock.now(NOW - 3600, later(20)), NOW + 20);
    assert_eq!(clock.now(NOW - 86_400, later(500)), NOW + 500);
    // Suspended: the clock that nobody sets stood still.
    assert_eq!(clock.now(NOW + 4000, later(501)), NOW + 4000);
    assert_eq!(clock.now(NOW + 502, later(503)), NOW + 4002);

    let mut fleet = Fleet::new(POLICY);
    fleet.grant("b", NOW, 900);
    assert_eq!(fleet.owners(NOW), ["b"]);
    assert_eq!(fleet.owners(NOW + 900), ["a"]);
    assert_eq!(fleet.owners(NOW + 10), ["a"]);
}

#[test]
fn a_policy_that_it_does_not_fit_ends_it_and_says_why() {
    let mut fleet = Fleet::new(POLICY);
    fleet.grant("b", NOW, 900);
    assert_eq!(fleet.owners(NOW), ["b"]);
    // One that changes something else: it counts on top of that.
    fleet.rebase(&POLICY.replace("[service.b]", "[service.c]\nreads = ['k']\n[service.b]"));
    assert_eq!(fleet.owners(NOW + 1), ["b"]);
    let gone = "[bucket.k]\n[service.a]\nowns = ['k']\n";
    fleet.rebase(gone);
    let selection = fleet.select(NOW + 2);
    assert_eq!(kinds(&selection), told(&[("ended", "policy")]));
    let Event::EmergencyEnded(ended) = &selection.events[0] else { panic!() };
    assert!(ended.detail.as_ref().unwrap().contains("there is no service `b`"), "{ended:?}");
    assert_eq!(kinds(&fleet.select(NOW + 3)), told(&[]));
    assert_eq!(fleet.owners(NOW + 3), ["a"]);
}

#[test]
fn a_start_knows_what_others_may_have_served_before() {
    let owner = |policy: &Policy| {
        let keyspace = Keyspace::parse("k").unwrap();
        policy.owners(&keyspace).map(|(service, _)| service.name.to_string()).next().unwrap()
    };
    // It began before this start: its owner may be writing still.
    let mut fleet = Fleet::new(POLICY);
    fleet.grant("b", NOW - 100, 900);
    let selection = fleet.select(NOW);
    assert_eq!(owner(&selection.policy), "b");
    assert!(selection.before.iter().any(|policy| owner(policy) == "a"));
    // It ended before this start: who was granted it may be writing still.
    let mut fleet = Fleet::new(POLICY);
    fleet.grant("b", NOW - 100, 70);
    let selection = fleet.select(NOW);
    assert_eq!(owner(&selection.policy), "a");
    assert!(selection.before.iter().any(|policy| owner(policy) == "b"));
    assert_eq!(kinds(&selection), told(&[]), "what is over at a start is no news");
    // So long ago that nobody is left: as if there had been nothing.
    let mut fleet = Fleet::new(POLICY);
    fleet.grant("b", NOW - 1000, 70);
    assert!(fleet.select(NOW).before.is_empty());
    // An entry that ended a moment ago.
    let selection = Fleet::new(POLICY).select(UNTIL + 30);
    assert!(selection.policy.service("b").unwrap().rules.is_empty());
    assert!(selection.before.iter().any(|p| !p.service("b").unwrap().rules.is_empty()));
    // One that fits an older policy alone.
    let mut fleet = Fleet::new("[bucket.k]\n[service.a]\nowns = ['k']\n");
    fleet.grant("b", NOW - 100, 900);
    assert_eq!(owner(&fleet.select(NOW).policy), "a");
    let older = [SourceFile::new("p.toml", POLICY)];
    let before = fleet.temporary.with_each(&older, at(NOW), 60);
    assert_eq!(before.iter().map(owner).collect::<Vec<_>>(), ["b"]);
    assert!(fleet.temporary.with_each(&older, at(NOW + 860), 60).is_empty());
    // One that began and ended while this instance was stopped.
    let mut fleet = Fleet::new(POLICY);
    assert_eq!(fleet.owners(NOW), ["a"]);
    let id = fleet.grant("b", NOW + 1, 900);
    fleet.end(&id, NOW + 2);
    let selection = fleet.select(NOW + 3);
    assert_eq!(owner(&selection.policy), "a");
    assert!(selection.before.iter().any(|policy| owner(policy) == "b"));
}

#[test]
fn a_document_that_is_sent_again_after_its_end_is_told() {
    let mut fleet = Fleet::new(POLICY);
    assert_eq!(fleet.owners(NOW), ["a"]);
    fleet.grant("b", NOW - 1000, 70);
    let selection = fleet.select(NOW);
    assert_eq!(kinds(&selection), told(&[("ignored", "over")]));
    assert_eq!(kinds(&fleet.select(NOW + 1)), told(&[]));
    // One from the future is looked at again.
    fleet.grant("b", NOW + 125, 70);
    assert_eq!(kinds(&fleet.select(NOW + 2)), told(&[("ignored", "future")]));
    assert!(!fleet.temporary.is_due(at(NOW + 4)) && fleet.temporary.is_due(at(NOW + 5)));
    assert_eq!(fleet.owners(NOW + 6), ["a"]);
    assert_eq!(fleet.owners(NOW + 125), ["b"]);
}

#[test]
fn no_number_of_documents_fills_the_memory_or_the_policy() {
    let mut fleet = Fleet::new("[bucket.k]\n[service.a]\n[service.b]\n[service.c]\n");
    for number in 0..3 * MAX_DOCUMENTS {
        fleet.grant(if number % 2 == 0 { "b" } else { "c" }, NOW, 900);
    }
    let selection = fleet.select(NOW);
    assert!(selection.policy.emergencies().len() <= MAX_ON);
    assert_eq!(fleet.temporary.documents().len(), MAX_DOCUMENTS);
    assert!(fleet.owners(NOW).len() == 1);
}

#[test]
fn without_anybody_in_the_settings_nothing_counts() {
    let mut fleet = Fleet::new(POLICY);
    fleet.grant("b", NOW, 900);
    fleet.temporary = Temporary::default();
    fleet.rebase(POLICY);
    let selection = fleet.select(NOW);
    assert_eq!(kinds(&selection), told(&[("ignored", "key")]));
    assert!(selection.policy.emergencies().is_empty());
    assert_eq!(fleet.owners(NOW), ["a"]);
}
