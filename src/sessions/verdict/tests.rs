//! Policies that follow each other, and what becomes of who was let in by each.

use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::sessions::system_api::ServerName;
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::grant::Defaults;
use solewriter_core::keys::{Seed, Signer, User, UserKey};
use solewriter_core::policy::validate::validate;
use solewriter_types::connection_type::ConnectionType;

/// A store in which policies come into force one after the other, and whoever was let in by one.
struct Bench {
    store: Store,
    decider: Decider,
    key: UserKey,
    others: Others,
    gained: Gained,
}

const HERE: Circumstances<'static> = Circumstances {
    host: "10.1.2.3",
    address: Some(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 3))),
    connection: Some(ConnectionType::Standard),
    server: "2.15.1",
    now: 1_800_000_000,
};

impl Bench {
    fn new() -> Self {
        let defaults = Defaults {
            account: "APP".into(),
            lifetime: Duration::from_secs(60),
            audit: solewriter_core::grant::AuditStreams::default(),
        };
        Self {
            store: Store::default(),
            decider: Decider::new(defaults, vec!["APP2".into()], 0.0),
            key: *Signer::new(&Seed::<User>::generate()).unwrap().public(),
            others: Others::default(),
            gained: Gained::Leave,
        }
    }

    /// Puts a policy in force, in which the service `s` has this in its table.
    fn put(&self, table: &str) {
        self.put_all(&format!("[service.s]\nnkeys = [\"{}\"]\n{table}", self.key));
    }

    fn put_all(&self, text: &str) {
        let files =
            [SourceFile::new("p.toml", format!("[bucket.a]\n[bucket.b]\n[bucket.c]\n{text}"))];
        self.store.replace(validate(&files).unwrap(), None, Timestamp::UNIX_EPOCH);
    }

    /// The name of a connection that the policy in force lets in.
    fn name(&self) -> ConnectionName {
        let snapshot = self.store.current().unwrap();
        let policy = &snapshot.policy;
        let entitlement = self.decider.entitlement(policy, &self.key, &HERE).unwrap();
        ConnectionName {
            service: entitlement.service.name.to_string(),
            key: self.key,
            revision: policy.revision().whole().to_owned(),
            digest: Some(entitlement.grant.digest().to_string()),
            asked: Some(HERE.now),
            expires: Some(HERE.now + 60),
        }
    }

    fn judge_at(&self, name: &ConnectionName, circumstances: &Circumstances<'_>) -> Verdict {
        let snapshot = self.store.current().unwrap();
        let judge = Judge {
            decider: &self.decider,
            policy: &snapshot.policy,
            for_now: &snapshot.policy,
            store: &self.store,
            others: &self.others,
            gained: self.gained,
            changes: &Changes::default(),
        };
        judge.judge(name, circumstances)
    }

    fn judge(&self, name: &ConnectionName) -> Verdict {
        self.judge_at(name, &HERE)
    }

    /// Why it is closed, in short and at length.
    fn closes(&self, name: &ConnectionName) -> (String, String) {
        match self.judge(name) {
            Verdict::Close(closing) => (closing.cause.code().to_owned(), closing.detail),
            other => panic!("{other:?}"),
        }
    }
}

fn pair(code: &str, detail: &str) -> (String, String) {
    (code.to_owned(), detail.to_owned())
}

/// A bench whose policies are handed over, with the policy as it counts for now.
fn handing_over() -> (Bench, impl Fn(&Bench, &ConnectionName) -> Verdict) {
    let settler = *Signer::new(&Seed::<User>::generate()).unwrap().public();
    let bench = Bench { store: Store::with_handovers(settler), ..Bench::new() };
    let judge = |bench: &Bench, name: &ConnectionName| {
        let snapshot = bench.store.current().unwrap();
        let judge = Judge {
            decider: &bench.decider,
            policy: &snapshot.policy,
            for_now: &snapshot.for_now(true),
            store: &bench.store,
            others: &bench.others,
            gained: bench.gained,
            changes: &Changes::default(),
        };
        judge.judge(name, &HERE)
    };
    (bench, judge)
}

#[test]
fn what_is_in_transit_is_held_back_and_then_given() {
    let (bench, judge) = handing_over();
    let old = |bench: &Bench| format!("[service.s]\nnkeys = [\"{}\"]\n", bench.key);
    bench.put_all(&(old(&bench) + "[service.o]\nowns = [\"a\"]\n"));
    let before = bench.name();
    assert!(bench.store.current().unwrap().unsettled().is_none());
    bench.put_all(&(old(&bench) + "owns = [\"a\"]\n[service.o]\n"));
    let snapshot = bench.store.current().unwrap();
    let unsettled = snapshot.unsettled().unwrap();
    assert_eq!(unsettled.in_transit.len(), 1);
    // It would gain to read what it is to own, and no more for now.
    assert_eq!(judge(&bench, &before), Verdict::Gained("read a".to_owned()));
    let entitled = bench.decider.entitlement(&unsettled.policy, &bench.key, &HERE).unwrap();
    let digest = Some(entitled.grant.digest().to_string());
    let for_now = ConnectionName { digest, revision: bench.name().revision, ..before };
    assert_eq!(judge(&bench, &for_now), Verdict::Current);
    // Without the lease it gets as much.
    let none = snapshot.for_now(false);
    let none = bench.decider.entitlement(&none, &bench.key, &HERE).unwrap();
    assert_eq!(none.grant.digest(), entitled.grant.digest());
    let revision = snapshot.policy.revision().whole();
    assert!(bench.store.settle("another", None).is_none());
    assert!(bench.store.settle(revision, Some(("l", 1))).is_none(), "it is of no bucket");
    assert!(bench.store.settle(revision, None).is_some());
    assert!(bench.store.settle(revision, None).is_none(), "once");
    let Verdict::Close(closing) = judge(&bench, &for_now) else { panic!() };
    assert_eq!((closing.cause, closing.detail.as_str()), (Cause::GainedDuty, "write a"));
}

#[test]
fn who_had_it_all_the_while_keeps_it_when_a_move_is_taken_back() {
    let (bench, judge) = handing_over();
    let own = format!("[service.s]\nnkeys = [\"{}\"]\n", bench.key);
    let (mine, others) = (
        format!("{own}owns = [\"a\"]\n[service.o]\n"),
        format!("{own}[service.o]\nowns = [\"a\"]\n"),
    );
    bench.put_all(&mine);
    let had = bench.name();
    bench.put_all(&others);
    assert!(matches!(judge(&bench, &had), Verdict::Close(Closing { cause: Cause::Lost, .. })));
    bench.put_all(&mine);
    assert!(bench.store.current().unwrap().unsettled().is_some());
    assert_eq!(judge(&bench, &had), Verdict::Current);
}

#[test]
fn two_grants_are_compared_once_for_all_connections() {
    let bench = Bench::new();
    bench.put("owns = [\"a\"]\npublishes = [\"x\"]");
    let first = bench.name();
    bench.put("owns = [\"a\"]");
    let second = bench.name();
    bench.put("owns = [\"b\"]");
    let (snapshot, changes) = (bench.store.current().unwrap(), Changes::default());
    let judge = Judge {
        decider: &bench.decider,
        policy: &snapshot.policy,
        for_now: &snapshot.policy,
        store: &bench.store,
        others: &bench.others,
        gained: bench.gained,
        changes: &changes,
    };
    let names = [&first, &second, &first, &first, &second];
    let found = names.map(|name| judge.judge(name, &HERE));
    assert_eq!(found, names.map(|name| bench.judge(name)), "as each by itself");
    assert_ne!(found[0], found[1]);
    assert_eq!(changes.0.lock().unwrap().len(), 2);
    // What is not the grant's is asked of each connection.
    let elsewhere = Circumstances { connection: None, ..HERE };
    assert_ne!(judge.judge(&first, &elsewhere), found[0]);
}

#[test]
fn who_has_what_the_policy_says_is_left_whatever_else_changed() {
    let bench = Bench::new();
    bench.put("owns = [\"a\"]\npublishes = [\"x\", \"y\"]");
    let name = bench.name();
    assert_eq!(bench.judge(&name), Verdict::Current);
    // Written otherwise, and another service came.
    bench.put("publishes = [\"y\", \"x\"]\nowns = [\"a\"]\n[service.other]\n");
    assert_ne!(bench.name().revision, name.revision);
    assert_eq!(bench.judge(&name), Verdict::Current);
    // What it loses in time and in words is no right.
    bench.put(
        "description = \"new\"\nlifetime = \"20s\"\nowns = [\"a\"]\npublishes = [\"x\", \"y\"]",
    );
    assert_eq!(bench.judge(&name), Verdict::Current);
}

#[test]
fn who_lost_something_is_closed_and_the_loss_is_named() {
    let bench = Bench::new();
    for (before, after, lost) in [
        ("owns = [\"a\", \"b\"]", "owns = [\"a\"]", "write b, read b"),
        ("owns = [\"a\"]", "reads = [\"a\"]", "write a"),
        ("owns = [\"a\"]", "publishes = [\"x\"]", "write a, read a"),
        ("publishes = [\"x.>\"]", "publishes = [\"x.*\"]", "publish x.>"),
        // Something was gained too.
        ("publishes = [\"x\"]", "publishes = [\"y\"]", "publish x"),
        ("subscribes = [\"n.>\"]", "subscribes = [\"n.*\"]", "subscribe n.>"),
        ("answers = [\"q\"]", "", "answer q"),
        (
            "calls = [\"q\"]",
            "publishes = [\"q\"]\naccount = \"APP2\"",
            "its place in the account APP",
        ),
    ] {
        bench.put(before);
        let name = bench.name();
        bench.put(after);
        assert_eq!(bench.closes(&name), pair("lost", lost), "{before} to {after}");
    }
}

#[test]
fn many_losses_are_named_in_short() {
    let bench = Bench::new();
    let subjects: Vec<String> = (10..40).map(|n| format!("\"x{n}.{}\"", "y".repeat(60))).collect();
    bench.put(&format!("publishes = [{}]", subjects.join(", ")));
    let name = bench.name();
    bench.put("publishes = [\"z\"]");
    let (_, detail) = bench.closes(&name);
    assert!(detail.starts_with("publish x10.y") && detail.ends_with("… and 22 more"), "{detail}");
    assert!(detail.chars().count() < NAMED_CHARACTERS + 20);
}

#[test]
fn who_only_gained_is_closed_when_the_settings_say_so() {
    let mut bench = Bench::new();
    for (before, after, gained) in [
        ("owns = [\"a\"]", "owns = [\"a\"]\nreads = [\"b\"]", "read b"),
        ("publishes = [\"x.y\", \"x.z.>\"]", "publishes = [\"x.>\"]", "publish x.>"),
        ("", "subscribes = [\"n.*\"]", "subscribe n.*"),
        ("subscribes = [\"n.*\"]", "subscribes = [\"n.>\"]", "subscribe n.>"),
    ] {
        bench.gained = Gained::Leave;
        bench.put(before);
        let name = bench.name();
        bench.put(after);
        assert_eq!(bench.judge(&name), Verdict::Gained(gained.to_owned()), "{before} to {after}");
        bench.gained = Gained::Close;
        assert_eq!(bench.closes(&name), pair("gained", gained), "{before} to {after}");
    }
}

/// Whoever had it before may not write or answer any more: until this one can, nobody can.
#[test]
fn who_gains_what_nobody_else_may_do_is_closed_whatever_the_settings_say() {
    let mut bench = Bench::new();
    for (before, after, gained) in [
        ("owns = [\"a\"]", "owns = [\"a\", \"b\"]", "write b, read b"),
        ("reads = [\"a\"]", "owns = [\"a\"]", "write a"),
        ("", "owns = [\"a\"]\npublishes = [\"x\"]", "write a, read a, publish x"),
        ("publishes = [\"x\"]", "publishes = [\"x\"]\nanswers = [\"q\"]", "answer q"),
        ("answers = [\"q.a\"]", "answers = [\"q.>\"]", "answer q.>"),
        ("answers = [\"q\"]", "answers = [\"q\"]\nfound_as = [\"n\"]", "found n"),
    ] {
        bench.put(before);
        let name = bench.name();
        bench.put(after);
        for gained_else in [Gained::Leave, Gained::Close] {
            bench.gained = gained_else;
            assert_eq!(bench.closes(&name), pair("gained", gained), "{before} to {after}");
        }
        // Not once it has it: the rest is as the settings say.
        bench.gained = Gained::Leave;
        let name = bench.name();
        bench.put(&format!("{after}\nreads = [\"c\"]"));
        assert_eq!(bench.judge(&name), Verdict::Gained("read c".to_owned()), "{after}");
    }
}

/// A connection of that life, seen so many seconds after it was made.
fn after(name: &ConnectionName, life: i64, seconds: i64) -> (Session, i64) {
    let key =
        solewriter_core::keys::Signer::new(&Seed::<solewriter_core::keys::Server>::generate())
            .unwrap();
    let session = Session {
        server: ServerName {
            id: key.public().to_string(),
            version: HERE.server.to_owned(),
            ..ServerName::default()
        },
        account: "APP".into(),
        name: ConnectionName { expires: Some(HERE.now + life), ..name.clone() },
        connection: serde_json::from_str(
            "{\"cid\": 7, \"kind\": \"Client\", \"type\": \"nats\", \"ip\": \"10.1.2.3\"}",
        )
        .unwrap(),
    };
    (session, HERE.now + seconds)
}

#[test]
fn who_is_about_to_meet_the_end_of_its_permissions_is_closed_before() {
    let bench = Bench::new();
    let judge = |(session, now): &(Session, i64)| {
        let snapshot = bench.store.current().unwrap();
        let judge = Judge {
            decider: &bench.decider,
            policy: &snapshot.policy,
            for_now: &snapshot.policy,
            store: &bench.store,
            others: &bench.others,
            gained: bench.gained,
            changes: &Changes::default(),
        };
        judge.judge_session(session, *now)
    };
    bench.put("publishes = [\"x\"]");
    let name = bench.name();
    assert_eq!(judge(&after(&name, 60, 47)), Verdict::Current);
    let Verdict::Close(closing) = judge(&after(&name, 60, 48)) else { panic!() };
    assert_eq!((&closing.cause, closing.cause.code()), (&Cause::Expiring(12), "expiring"));
    assert_eq!(closing.detail, "its permissions end in 12 s");
    assert!(!closing.cause.takes(), "it has nothing too much");
    // Who waits for something gets it with that.
    bench.put("publishes = [\"x\", \"y\"]");
    assert_eq!(judge(&after(&name, 60, 47)), Verdict::Gained("publish y".to_owned()));
    assert!(matches!(judge(&after(&name, 60, 48)), Verdict::Close(c) if c == closing));
    // What it should not have is the better reason.
    bench.put("");
    let Verdict::Close(lost) = judge(&after(&name, 60, 48)) else { panic!() };
    assert_eq!(lost.cause, Cause::Lost);
}

#[test]
fn who_ends_with_its_key_is_left_to_end() {
    let bench = Bench::new();
    let (key, until) = (bench.key, "2027-01-15T08:01:00Z");
    let put = |until: &str| {
        bench.put_all(&format!(
            "[service.s]\nnkeys = [{{ key = \"{key}\", not_after = {until} }}]\n"
        ));
    };
    put(until);
    let name = bench.name();
    let snapshot = || bench.store.current().unwrap();
    let verdict = |session: &Session, now| {
        let snapshot = snapshot();
        let judge = Judge {
            decider: &bench.decider,
            policy: &snapshot.policy,
            for_now: &snapshot.policy,
            store: &bench.store,
            others: &bench.others,
            gained: bench.gained,
            changes: &Changes::default(),
        };
        judge.judge_session(session, now)
    };
    let (session, now) = after(&name, 60, 55);
    assert_eq!(verdict(&session, now), Verdict::Current, "{until} is in 5 s");
    // Its key counts for longer now.
    put("2027-01-15T09:00:00Z");
    assert!(matches!(verdict(&session, now), Verdict::Close(c) if c.cause == Cause::Expiring(5)));
}

#[test]
fn a_deny_that_comes_with_a_gain_takes_nothing() {
    let bench = Bench::new();
    // The server takes `n.*` for everything below, so a deny comes with it.
    bench.put("subscribes = [\"m.>\"]");
    let name = bench.name();
    bench.put("subscribes = [\"m.>\", \"n.*\"]");
    assert_eq!(bench.judge(&name), Verdict::Gained("subscribe n.*".to_owned()));
}

/// Until it connects again, it may change the consumer that is declared now.
#[test]
fn who_replays_a_stream_is_closed_when_a_consumer_of_it_is_declared() {
    let bench = Bench::new();
    let table = "replays = [\"EVENTS/e.>\"]\n[stream.EVENTS]\nsubjects = [\"e.>\"]\n";
    let consumer = "[stream.EVENTS.consumer.shipping]\n";
    bench.put(table);
    let free = bench.name();
    bench.put(&format!("{table}{consumer}"));
    let (code, detail) = bench.closes(&free);
    assert_eq!(code, "lost");
    assert!(detail.contains("publish $JS.API.CONSUMER.*.EVENTS.shipping"), "{detail}");
    // What is denied already is not lost again.
    let held = bench.name();
    bench.put(&format!("{table}{consumer}[service.other]\n"));
    assert_eq!(bench.judge(&held), Verdict::Current);
    bench.put(table);
    assert_eq!(bench.judge(&held), Verdict::Current);
}

#[test]
fn a_leafnode_stays_only_where_the_server_holds_it() {
    let bench = Bench::new();
    bench.put("publishes = [\"x\"]\nconnections = [\"LEAFNODE\"]");
    let by_leafnode = Circumstances { connection: Some(ConnectionType::Leafnode), ..HERE };
    let entitlement = |server| {
        let circumstances = Circumstances { server, ..by_leafnode };
        let snapshot = bench.store.current().unwrap();
        let entitled = bench.decider.entitlement(&snapshot.policy, &bench.key, &circumstances);
        entitled.map(drop).map_err(|(denial, _)| denial.code())
    };
    assert_eq!(entitlement("2.15.1"), Ok(()));
    for server in ["2.10.25", "2.11.15", "2.12.6", "2.13.0", "", "unknown"] {
        assert_eq!(entitlement(server), Err("leafnode"), "{server}");
    }
}

#[test]
fn who_would_not_be_let_in_any_more_is_closed_for_that_reason() {
    let bench = Bench::new();
    let x = "publishes = [\"x\"]";
    for (after, code) in [
        ("disabled = \"sold\"", "disabled"),
        ("sources = [\"192.168.0.0/16\"]", "source"),
        ("connections = [\"WEBSOCKET\"]", "connection"),
        ("account = \"ELSEWHERE\"", "account"),
    ] {
        bench.put(x);
        let name = bench.name();
        bench.put(&format!("{x}\n{after}"));
        assert_eq!(bench.closes(&name).0, code, "{after}");
    }
    bench.put(x);
    let name = bench.name();
    bench.put_all("[service.t]\n");
    assert_eq!(bench.closes(&name).0, "unknown_key");
    bench.put_all(&format!("[service.t]\nnkeys = [\"{}\"]\n{x}", bench.key));
    assert_eq!(bench.closes(&name), pair("other_service", "the key now belongs to t"));
}

#[test]
fn what_the_server_does_not_enforce_is_asked_of_each_connection() {
    let bench = Bench::new();
    bench.put("sources = [\"10.0.0.0/8\"]\npublishes = [\"x\"]");
    let name = bench.name();
    assert_eq!(bench.judge(&name), Verdict::Current);
    let address = "11.0.0.1".parse().ok();
    let elsewhere = Circumstances { host: "11.0.0.1", address, ..HERE };
    let by_mqtt = Circumstances { connection: Some(ConnectionType::Mqtt), ..HERE };
    for circumstances in [elsewhere, by_mqtt, Circumstances { connection: None, ..HERE }] {
        let verdict = bench.judge_at(&name, &circumstances);
        assert!(matches!(verdict, Verdict::Close(_)), "{circumstances:?}");
    }
}

#[test]
fn a_key_whose_time_has_passed_is_found_without_any_change() {
    let bench = Bench::new();
    let key = bench.key;
    bench.put_all(&format!(
        "[service.s]\nnkeys = [{{ key = \"{key}\", not_after = 2027-01-15T08:00:10Z }}]\n"
    ));
    let name = bench.name();
    assert_eq!(bench.judge(&name), Verdict::Current);
    let later = Circumstances { now: HERE.now + 60, ..HERE };
    let Verdict::Close(closing) = bench.judge_at(&name, &later) else { panic!() };
    assert_eq!(closing.cause, Cause::Denied("no_longer_valid"));
}

#[test]
fn what_is_not_known_any_more_cannot_be_shown_to_have_lost_nothing() {
    let bench = Bench::new();
    bench.put("publishes = [\"x\"]");
    let name = bench.name();
    // As after a restart: nobody remembers the policy before.
    let restarted = Bench { key: bench.key, ..Bench::new() };
    restarted.put("publishes = [\"x\", \"y\"]");
    assert_eq!(restarted.closes(&name).0, "not_known");
    // The grant itself says that nothing changed, whatever the policy was.
    restarted.put("publishes = [\"x\"]\n[service.other]\n");
    assert_eq!(restarted.judge(&name), Verdict::Current);
    // And then what that was, when it is no more.
    restarted.put("publishes = [\"x\", \"y\"]");
    assert_eq!(restarted.judge(&name), Verdict::Gained("publish y".to_owned()));
    restarted.put("owns = [\"a\"]");
    assert_eq!(restarted.closes(&name), pair("lost", "publish x"));
}

#[test]
fn a_grant_that_settings_made_otherwise_is_not_known() {
    let bench = Bench::new();
    bench.put("publishes = [\"x\"]");
    let mut name = bench.name();
    name.digest = Some("0000000000000000".to_owned());
    assert_eq!(bench.closes(&name).0, "not_known");
}

#[test]
fn names_that_older_versions_gave_are_never_current() {
    let mut bench = Bench::new();
    bench.put("publishes = [\"x\"]");
    let name = bench.name();
    let (revision, digest) = (&name.revision[..12], &name.digest.as_ref().unwrap()[..16]);
    let older = |digest: Option<&str>| ConnectionName {
        revision: revision.to_owned(),
        digest: digest.map(ToOwned::to_owned),
        asked: None,
        expires: None,
        ..name.clone()
    };
    for name in [older(Some(digest)), older(None)] {
        assert_eq!(ConnectionName::parse(&name.to_string()).as_ref(), Some(&name));
        bench.others.unlike = false;
        assert_eq!(bench.closes(&name).0, "not_known");
        // While the version that gives them runs beside this one, it would give them again.
        bench.others.unlike = true;
        assert_eq!(bench.judge(&name), Verdict::Newer);
    }
    bench.put("publishes = [\"y\"]");
    assert_eq!(bench.closes(&older(Some(digest))).0, "not_known");
}

#[test]
fn a_digest_that_begins_as_the_grants_does_is_another() {
    let bench = Bench::new();
    bench.put("publishes = [\"x\"]");
    let mut name = bench.name();
    let mut digest = name.digest.clone().unwrap();
    let last = if digest.pop() == Some('0') { '1' } else { '0' };
    digest.push(last);
    name.digest = Some(digest);
    assert_eq!(bench.closes(&name).0, "not_known");
}

#[test]
fn who_was_let_in_by_an_instance_that_is_ahead_is_left() {
    let mut bench = Bench::new();
    bench.put("publishes = [\"y\"]");
    let ahead = bench.name();
    bench.put("publishes = [\"x\"]");
    assert_eq!(bench.closes(&ahead).0, "lost");
    bench.others.newer = vec![ahead.revision.clone()];
    assert_eq!(bench.judge(&ahead), Verdict::Newer);
}

#[test]
fn two_versions_side_by_side_do_not_close_each_others_connections() {
    let mut bench = Bench::new();
    bench.put("publishes = [\"x\"]");
    let mut name = bench.name();
    name.digest = Some("0000000000000000".to_owned());
    bench.others.unlike = true;
    assert_eq!(bench.judge(&name), Verdict::Newer);
    // Of another policy, it may have something that was taken.
    bench.put("publishes = [\"y\"]");
    assert_eq!(bench.closes(&name).0, "not_known");
}

#[test]
fn denials_are_the_most_urgent() {
    let mut causes = [
        Cause::Gained,
        Cause::Expiring(5),
        Cause::Expiring(-1),
        Cause::GainedDuty,
        Cause::NotKnown,
        Cause::Lost,
        Cause::OtherService,
        Cause::AskedAgain,
        Cause::Denied("x"),
    ];
    causes.sort();
    let codes: Vec<&str> = causes.iter().map(Cause::code).collect();
    let (takes, others) = codes.split_at(5);
    assert_eq!(takes, ["x", "asked_again", "other_service", "lost", "not_known"]);
    assert_eq!(others, ["gained", "expiring", "expiring", "gained"]);
    assert!(causes.iter().take(5).all(Cause::takes) && !causes.iter().skip(5).any(Cause::takes));
    assert_eq!(causes[6], Cause::Expiring(-1), "who ends first is the first");
}

/// Two policies whose revisions share their first 48 bits: the second does not let billing read.
#[test]
fn of_two_policies_that_begin_alike_the_second_decides() {
    let mut bench = Bench::new();
    bench.key = UserKey::parse("UA4AQTRJEJZQBMVFBG6GSITV6WUEY4YHSDEL7Q2E3UON3FZEWSJXR7JS").unwrap();
    let load = |text: &str| {
        let files = [SourceFile::new("policy.toml", text)];
        bench.store.replace(validate(&files).unwrap(), None, Timestamp::UNIX_EPOCH)
    };
    let before = load(include_str!("../../../tests/collision/before.toml"));
    let name = bench.name();
    assert_eq!(bench.judge(&name), Verdict::Current);
    let after = load(include_str!("../../../tests/collision/after.toml"));
    let (before, after) = (before.after.policy.revision(), after.after.policy.revision());
    assert_eq!(before.to_string(), after.to_string(), "people are shown the same");
    assert_ne!(before, after);
    let current = bench.store.current().unwrap();
    assert_eq!(current.policy.revision(), after, "and the second is in force");
    let grant = bench.decider.entitlement(&current.policy, &bench.key, &HERE).unwrap().grant;
    assert!(!grant.claims().get().contains("KV_orders"), "{}", grant.claims());
    assert_eq!(bench.closes(&name), pair("lost", "read orders"));
}
