//! Documents of emergencies: what is refused, and for how long one counts.

use super::*;
use crate::diagnostics::SourceFile;
use crate::grant::AuditStreams;
use crate::keys::Seed;
use crate::policy::model::{Access, Policy};
use crate::policy::validate::{validate, validate_with};
use crate::signed::{MAX_NAME, is_fleet};

const NOW: i64 = 1_800_000_000;
const ID: &str = "aeaqcaibaeaqcaib";

fn signer() -> Signer<User> {
    Signer::new(&Seed::generate()).unwrap()
}

fn rules(signer: &Signer<User>) -> Rules {
    let longest = Duration::from_secs(3600);
    Rules { keys: vec![*signer.public()], fleet: "east".to_owned(), longest }
}

fn wish<'w>() -> Wish<'w> {
    Wish { id: ID, fleet: "east", now: NOW, reason: "the owner is on fire" }
}

fn grant(signer: &Signer<User>, minutes: u64) -> String {
    let keyspace = Keyspace::parse("orders").unwrap();
    wish().grant("billing", &keyspace, Duration::from_secs(60 * minutes), signer).unwrap()
}

fn emergency(service: &str, keyspace: &str) -> Emergency {
    let signer = signer();
    let keyspace = Keyspace::parse(keyspace).unwrap();
    let token = wish().grant(service, &keyspace, Duration::from_secs(60), &signer).unwrap();
    match rules(&signer).read(&token, NOW).unwrap() {
        Document::Grant(grant) => grant,
        Document::End(end) => panic!("{end:?}"),
    }
}

#[test]
fn a_document_says_what_was_signed_and_counts_for_its_time() {
    let signer = signer();
    let token = grant(&signer, 15);
    let Ok(Document::Grant(grant)) = rules(&signer).read(&format!(" {token}\n"), NOW) else {
        panic!();
    };
    assert_eq!((grant.service(), grant.keyspace().to_string().as_str()), ("billing", "orders"));
    assert_eq!((grant.id(), grant.by(), grant.reason()), (ID, signer.public(), wish().reason));
    assert_eq!((grant.from(), grant.until(), grant.token()), (NOW, NOW + 900, token.as_str()));
    for (now, stands) in [
        (NOW - 1, Standing::Waits),
        (NOW, Standing::On),
        (NOW + 899, Standing::On),
        (NOW + 900, Standing::Over),
    ] {
        assert_eq!(grant.stands(now), stands, "{now}");
    }
    let end = wish().end("bbbbbbbbbbbbbbbb", &signer).unwrap();
    let Ok(Document::End(end)) = rules(&signer).read(&end, NOW) else { panic!() };
    assert_eq!((end.ends.as_str(), end.by), ("bbbbbbbbbbbbbbbb", *signer.public()));
}

#[test]
fn who_is_not_named_signs_in_vain() {
    let (named, other) = (signer(), signer());
    let rules = rules(&named);
    assert!(rules.read(&grant(&named, 15), NOW).is_ok());
    let refused = rules.read(&grant(&other, 15), NOW);
    assert_eq!(refused, Err(Refused::Key(*other.public())));
    // A key that was taken out of the settings.
    let none = Rules { keys: Vec::new(), ..rules.clone() };
    assert_eq!(none.read(&grant(&named, 15), NOW), Err(Refused::Key(*named.public())));
    let end = wish().end(ID, &other).unwrap();
    assert_eq!(rules.read(&end, NOW), Err(Refused::Key(*other.public())));
}

#[test]
fn a_document_for_another_fleet_counts_for_nothing() {
    let signer = signer();
    let west = Rules { fleet: "west".to_owned(), ..rules(&signer) };
    let fleets = Refused::Fleet("east".to_owned(), "west".to_owned());
    assert_eq!(west.read(&grant(&signer, 15), NOW), Err(fleets));
}

#[test]
fn what_was_changed_after_it_was_signed_is_refused() {
    let (named, other) = (signer(), signer());
    let token = grant(&named, 15);
    let [header, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let text = data_encoding::BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap();
    let text = String::from_utf8(text).unwrap();
    for (from, to) in [
        ("billing", "attacks"),
        ("\"orders\"", "\"prices\""),
        ("east", "west"),
        (&*(NOW + 900).to_string(), &*(NOW + 901).to_string()),
        (&*NOW.to_string(), &*(NOW + 1).to_string()),
        (ID, "bbbbbbbbbbbbbbbb"),
        ("on fire", "at rest"),
        (named.public().as_str(), other.public().as_str()),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        let claims = data_encoding::BASE64URL_NOPAD.encode(changed.as_bytes());
        let rules = Rules { keys: vec![*named.public(), *other.public()], ..rules(&named) };
        let read = rules.read(&format!("{header}.{claims}.{signature}"), NOW);
        assert_eq!(read, Err(Refused::Signature), "{from}");
    }
    for cut in ["", "x", ".", "..", &token[..token.len() - 4], &format!("{token}.x")] {
        assert!(rules(&named).read(cut, NOW).is_err(), "{cut}");
    }
    let long = "x".repeat(MAX_DOCUMENT + 1);
    assert_eq!(rules(&named).read(&long, NOW), Err(Refused::Form("it is too long")));
}

#[test]
fn nothing_lasts_longer_than_the_settings_say_or_begins_in_the_future() {
    let signer = signer();
    assert!(rules(&signer).read(&grant(&signer, 60), NOW).is_ok());
    assert_eq!(rules(&signer).read(&grant(&signer, 61), NOW), Err(Refused::TooLong(3660, 3600)));
    let long = Rules { longest: Duration::from_secs(1 << 40), ..rules(&signer) };
    assert!(long.read(&grant(&signer, 24 * 60), NOW).is_ok());
    assert!(matches!(long.read(&grant(&signer, 24 * 60 + 1), NOW), Err(Refused::TooLong(..))));
    assert!(rules(&signer).read(&grant(&signer, 0), NOW).is_err());
    assert!(rules(&signer).read(&grant(&signer, 5), NOW - AHEAD).is_ok());
    let early = rules(&signer).read(&grant(&signer, 5), NOW - AHEAD - 1);
    assert_eq!(early, Err(Refused::Future(AHEAD + 1)));
}

#[test]
fn words_of_people_and_ids_are_bounded() {
    let signer = signer();
    let read = |id: &str, reason: &str, service: &str| {
        let keyspace = Keyspace::parse("orders").unwrap();
        let wish = Wish { id, reason, ..wish() };
        let token = wish.grant(service, &keyspace, Duration::from_secs(60), &signer).unwrap();
        rules(&signer).read(&token, NOW)
    };
    assert!(read(ID, &"r".repeat(MAX_REASON), "billing").is_ok());
    assert!(read(ID, &"r".repeat(MAX_REASON + 1), "billing").is_err());
    assert!(read(ID, "r", &"s".repeat(MAX_NAME + 1)).is_err());
    for id in ["", "../../etc/passwd", "AEAQCAIBAEAQCAIB", "aeaqcaibaeaqcaib2"] {
        assert!(read(id, "r", "billing").is_err(), "{id}");
    }
    assert!(is_id(&id([7; 10])) && is_fleet("east-1.x_y"));
    assert!(!is_fleet("") && !is_fleet("a b") && !is_fleet(&"f".repeat(MAX_NAME + 1)));
}

const POLICY: &str = "[bucket.orders]\n[bucket.free]\n[bucket.parts]\npart_owners = true\n\
    rollup = false\nduplicate_window = '100ms'\n[service.orders]\nowns = ['orders', 'parts/a.>']\n\
    [service.billing]\nowns = ['parts/b.>']\nreads = ['orders']\n[service.off]\ndisabled = 'x'\n";

fn policy_with(emergencies: &[&Emergency]) -> Result<Policy, String> {
    let files = [SourceFile::new("p.toml", POLICY)];
    validate_with(&files, &AuditStreams::default(), emergencies)
        .map(|validated| validated.policy)
        .map_err(|problems| problems.to_string())
}

fn writers<'p>(policy: &'p Policy, keyspace: &str) -> Vec<&'p str> {
    let keyspace = Keyspace::parse(keyspace).unwrap();
    policy.owners(&keyspace).map(|(service, _)| &*service.name).collect()
}

#[test]
fn a_keyspace_has_one_writer_before_and_in_an_emergency() {
    let before = policy_with(&[]).unwrap();
    assert_eq!(writers(&before, "orders"), ["orders"]);
    let taken = emergency("billing", "orders");
    let during = policy_with(&[&taken]).unwrap();
    assert_eq!(writers(&during, "orders"), ["billing"]);
    let reads = |policy: &Policy| {
        let keyspace = Keyspace::parse("orders").unwrap();
        let rules = &policy.service("orders").unwrap().rules;
        rules.iter().any(|rule| rule.access == Access::Reads(keyspace.clone()))
    };
    assert!(reads(&during) && !reads(&before), "who lost it goes on reading it");
    assert_ne!(during.revision(), before.revision());
    assert_eq!(during.documents(), before.revision());
    assert_eq!(before.documents(), before.revision());
    // What nobody owns; a part; two at once.
    let (free, part) = (emergency("billing", "free"), emergency("billing", "parts/a.>"));
    let all = policy_with(&[&taken, &free, &part]).unwrap();
    for keyspace in ["orders", "free", "parts/a.x"] {
        assert_eq!(writers(&all, keyspace), ["billing"], "{keyspace}");
    }
}

#[test]
fn an_emergency_that_does_not_fit_the_policy_says_why() {
    for (service, keyspace, why) in [
        ("nobody", "orders", "there is no service `nobody`"),
        ("off", "orders", "`off` is disabled"),
        ("orders", "orders", "`orders` owns it already"),
        (
            "billing",
            "orders/x",
            "it is a part of what another owns, or more: `orders` owns `orders`",
        ),
        (
            "orders",
            "parts",
            "it has several owners: `orders` owns `parts/a.>`, `billing` owns `parts/b.>`",
        ),
        ("billing", "elsewhere", "elsewhere"),
        ("billing", "free/part.>", "free"),
    ] {
        let problems = policy_with(&[&emergency(service, keyspace)]).unwrap_err();
        assert!(problems.contains(why), "{problems}");
    }
}

#[test]
fn a_key_of_a_service_signs_no_emergency() {
    let emergency = emergency("billing", "orders");
    let text = format!("[bucket.orders]\n[service.billing]\nnkeys = ['{}']\n", emergency.by());
    let files = [SourceFile::new("p.toml", text)];
    validate(&files).unwrap();
    let refused = validate_with(&files, &AuditStreams::default(), &[&emergency]).unwrap_err();
    assert!(refused.to_string().contains("its key is one of `billing`"), "{refused}");
}
