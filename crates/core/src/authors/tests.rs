//! The table of authors, and what a signature is held against.

use super::*;
use crate::diagnostics::SourceFile;
use crate::keys::Seed;

fn signer() -> Signer<User> {
    Signer::new(&Seed::generate()).unwrap()
}

fn authors(signer: &Signer<User>, fleet: &str) -> Authors {
    let author = Author { name: "lea".to_owned(), keys: vec![*signer.public()], part: None };
    Authors { fleet: fleet.to_owned(), list: vec![author] }
}

fn push() -> Push {
    Push {
        lineage: "l".to_owned(),
        number: 7,
        push: "p".to_owned(),
        policy: "ab".repeat(32),
        author: "lea".to_owned(),
        message: "m".to_owned(),
        ..Push::of(&BucketName::parse("policy").unwrap())
    }
}

fn signed(push: Push, signer: &Signer<User>) -> String {
    push.sign("east", 1_800_000_000, signer).unwrap()
}

#[test]
fn what_an_author_signed_is_read_back() {
    let signer = signer();
    let authors = authors(&signer, "east");
    let follows = Follows { number: 6, push: "o".to_owned(), policy: "cd".repeat(32) };
    let said = Push { follows: Some(follows), ..push() };
    let document = signed(said.clone(), &signer);
    let read = authors.read(Some(&document), &push()).unwrap();
    assert_eq!((read.author.name.as_str(), read.at), ("lea", 1_800_000_000));
    assert_eq!((read.key, read.push), (*signer.public(), said));
}

#[test]
fn a_push_that_says_something_else_than_was_signed_does_not_count() {
    let signer = signer();
    let authors = authors(&signer, "east");
    let document = signed(push(), &signer);
    let others = [
        Push { bucket: "other".to_owned(), ..push() },
        Push { lineage: "k".to_owned(), ..push() },
        Push { number: 8, ..push() },
        Push { push: "q".to_owned(), ..push() },
        Push { policy: format!("{}ac", "ab".repeat(31)), ..push() },
        // Short digests are for eyes.
        Push { policy: "ab".repeat(6), ..push() },
        Push { author: "max".to_owned(), ..push() },
        Push { message: "n".to_owned(), ..push() },
        Push { rollback_of: Some(1), ..push() },
        Push { forced: true, ..push() },
    ];
    assert!(authors.read(Some(&document), &push()).is_ok());
    for other in others {
        let read = authors.read(Some(&document), &other);
        assert!(matches!(read, Err(Unsigned::Other(_))), "{read:?}");
    }
}

#[test]
fn who_is_no_author_signs_in_vain() {
    let signer = signer();
    let document = signed(push(), &self::signer());
    let authors = authors(&signer, "east");
    assert!(matches!(authors.read(Some(&document), &push()), Err(Unsigned::Key(_))));
    assert_eq!(authors.read(None, &push()), Err(Unsigned::Missing));
    // An author's key, in the name of another one.
    let other = Push { author: "max".to_owned(), ..push() };
    let document = signed(other.clone(), &signer);
    assert!(matches!(authors.read(Some(&document), &other), Err(Unsigned::Other(_))));
}

#[test]
fn a_push_for_another_fleet_counts_for_nothing() {
    let signer = signer();
    let document = signed(push(), &signer);
    let read = authors(&signer, "west");
    let read = read.read(Some(&document), &push());
    assert_eq!(read, Err(Unsigned::Fleet("east".to_owned(), "west".to_owned())));
}

#[test]
fn what_was_changed_after_an_author_signed_it_is_refused() {
    let signer = signer();
    let authors = authors(&signer, "east");
    let document = signed(push(), &signer);
    for at in 0..document.len() {
        let mut bytes = document.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        // The last character of a part may have bits that count for nothing.
        if changed != document {
            assert!(authors.read(Some(&changed), &push()).is_err(), "{at}");
        }
    }
    assert!(authors.read(Some(&"A".repeat(9000)), &push()).is_err());
    assert!(authors.read(Some(""), &push()).is_err());
}

#[test]
fn a_document_of_an_emergency_is_no_push() {
    let signer = signer();
    let wish = crate::emergency::Wish {
        id: "aeaqcaibaeaqcaib",
        fleet: "east",
        now: 1_800_000_000,
        reason: "r",
    };
    let document = wish.end("aeaqcaibaeaqcaib", &signer).unwrap();
    let read = authors(&signer, "east");
    assert!(matches!(read.read(Some(&document), &push()), Err(Unsigned::Form(_))));
}

fn table(text: &str) -> Result<Authors, String> {
    document::read(&SourceFile::new("authors.toml", text)).map_err(|problems| problems.to_string())
}

const KEY: &str = "UCRAFZAHGBQKZ5WVGGAZTW3N7PIO7NNEZC77U2TFP7DSBDSFHKEUCIHK";

#[test]
fn a_table_is_read_whole() {
    let read = table(&format!(
        r#"
fleet = "east"
[author.ops]
keys = ["{KEY}"]
all = true
[author.lea]
keys = []
files = ["team-a/", "a.toml"]
services = ["a-*", "b"]
buckets = ["a_*", "orders/eu.>"]
stores = ["a_*"]
streams = ["A_*"]
subjects = ["a.>"]
found_as = ["a-*"]
accounts = ["A"]
reads = ["b_prices", "store:b_files"]
subscribes = ["b.events.>"]
calls = ["b.rpc.>"]
consumes = ["B_EVENTS/a-*"]
replays = ["B_EVENTS"]
discovers = ["b-*"]
"#
    ))
    .unwrap();
    assert_eq!((read.fleet.as_str(), read.list.len()), ("east", 2));
    assert!(read.named("ops").unwrap().part.is_none());
    assert_eq!(read.of_key(&UserKey::parse(KEY).unwrap()).unwrap().name, "ops");
    let part = read.named("lea").unwrap().part.clone().unwrap();
    assert!(part.services[0].means("a-x") && !part.services[0].means("ab"));
    assert!(part.services[1].means("b") && !part.services[1].means("bb"));
    let orders = |text| part.buckets[1].hold(&Keyspace::parse(text).unwrap());
    assert!(orders("orders/eu.x") && !orders("orders/us.x") && !orders("orders"));
    assert_eq!(part.uses.reads_stores, [Name::Is("b_files".to_owned())]);
    assert_eq!(part.uses.consumes[0].0, "B_EVENTS");
}

#[test]
fn mistakes_in_a_table_are_said() {
    let ops = format!("fleet = \"east\"\n[author.ops]\nkeys = [\"{KEY}\"]\nall = true\n");
    assert!(table(&ops).is_ok());
    for (text, code) in [
        (ops.replace("fleet = \"east\"\n", ""), "missing-key"),
        (ops.replace("\"east\"", "\"a b\""), "bad-fleet"),
        (ops.replace("all = true", "files = []"), "nobody-for-all"),
        (ops.replace(KEY, "SUAM"), "bad-nkey"),
        (format!("{ops}[author.two]\nkeys = [\"{KEY}\"]\n"), "shared-key"),
        (format!("{ops}services = [\"a\"]\n"), "all-and-parts"),
        (format!("{ops}[author.\"x y\"]\nkeys = []\n"), "bad-author"),
        (format!("{ops}[author.x]\nkeys = []\nservice = []\n"), "unknown-key"),
        (format!("{ops}[author.x]\nkeys = []\nservices = [\"*\"]\n"), "bad-part"),
        (format!("{ops}[author.x]\nkeys = []\nservices = [\"a*b\"]\n"), "bad-part"),
        (format!("{ops}[author.x]\nkeys = []\nsubjects = [\">\"]\n"), "bad-part"),
        (format!("{ops}[author.x]\nkeys = []\nsubjects = [\"$KV.>\"]\n"), "bad-part"),
        (format!("{ops}[author.x]\nkeys = []\nfiles = [\"/\"]\n"), "bad-part"),
        (format!("{ops}[author.x]\nkeys = []\nfiles = [\"team-a\"]\n"), "bad-part"),
        (format!("{ops}[author.x]\nkeys = []\nfiles = [\"../a/\"]\n"), "bad-part"),
        (format!("{ops}[author.x]\nkeys = []\nbuckets = [\"*\"]\n"), "bad-part"),
        (format!("{ops}[author.x]\nkeys = []\nconsumes = [\"B*/c\"]\n"), "bad-part"),
        (format!("{ops}[author.x]\nkeys = []\nconsumes = [\"B\"]\n"), "bad-part"),
    ] {
        let said = table(&text).unwrap_err();
        assert!(said.contains(code), "{code}: {said}");
    }
}
