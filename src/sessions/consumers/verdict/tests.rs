//! The judgement, kind by kind.

use std::sync::LazyLock;

use super::*;
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::keys::{Seed, Signer, User};
use solewriter_core::policy::validate::validate;

const NOW: i64 = 1_800_000_000;
static KEY: LazyLock<Vec<String>> = LazyLock::new(|| {
    let key = |_| Signer::new(&Seed::<User>::generate()).unwrap().public().to_string();
    (0..3).map(key).collect()
});

fn policy(text: &str) -> Policy {
    let head = "[bucket.orders]\npart_owners = true\nrollup = false\n\
                duplicate_window = \"100ms\"\n";
    let text = format!("{head}{text}");
    let validated = validate(&[SourceFile::new("p.toml", text.as_str())]);
    validated.unwrap_or_else(|problems| panic!("{problems:?}")).policy
}

fn usual() -> Policy {
    policy(&format!(
        "[service.owner]\nnkeys = [\"{}\"]\nowns = [\"orders\"]\n\
         [service.part]\nnkeys = [\"{}\"]\nreads = [\"orders/eu.>\", \"orders/us.a\"]\n\
         [service.auditor]\nnkeys = [\"{}\"]\naudits = [\"AUDIT_EVENTS\"]\n",
        KEY[0], KEY[1], KEY[2]
    ))
}

const SETTINGS: Settings = Settings { per_service: 3, strangers: Strangers::Delete };

/// A minute-old durable that delivers there.
fn to(deliver: &str, filters: &[&str]) -> Consumer {
    Consumer {
        name: "c".to_owned(),
        created: Some(NOW - FRESH_FOR),
        deliver: Some(deliver.to_owned()),
        filters: filters.iter().map(|f| (*f).to_owned()).collect(),
        bound: true,
        durable: true,
        bytes: 700,
    }
}

fn pull() -> Consumer {
    Consumer { deliver: None, bound: false, ..to("", &[]) }
}

fn judged(policy: &Policy, at: (Place, &str), settings: Settings, consumer: &Consumer) -> Verdict {
    Judge::new(policy, at, settings, NOW).judge(consumer)
}

fn cause(policy: &Policy, consumer: &Consumer) -> Option<Cause> {
    match judged(policy, (Place::Bucket, "KV_orders"), SETTINGS, consumer) {
        Verdict::Keep(_) => None,
        Verdict::Delete(_, cause) => Some(cause),
    }
}

#[test]
fn the_consumers_of_an_object_store_are_its_owners_and_readers() {
    let policy = policy(&format!(
        "[store.files]\n[store.other]\n\
         [service.owner]\nnkeys = [\"{}\"]\nowns = [\"store:files\"]\n\
         [service.reader]\nnkeys = [\"{}\"]\nreads = [\"store:files\"]\n\
         [service.else]\nnkeys = [\"{}\"]\nowns = [\"orders\", \"store:other\"]\n",
        KEY[0], KEY[1], KEY[2]
    ));
    for (service, expected) in [("owner", None), ("reader", None), ("else", Some(Cause::Lost))] {
        for filters in [&[][..], &["$O.files.C.x"], &["$O.files.M.>"]] {
            let consumer = to(&format!("_INBOX.{service}.x"), filters);
            let verdict = judged(&policy, (Place::Store, "OBJ_files"), SETTINGS, &consumer);
            let found = match verdict {
                Verdict::Keep(_) => None,
                Verdict::Delete(_, cause) => Some(cause),
            };
            assert_eq!(found, expected, "{service} {filters:?}");
        }
    }
    // Nobody is granted a pull there, nor a bucket's consumer by the name of a store.
    let stranger = judged(&policy, (Place::Store, "OBJ_files"), SETTINGS, &pull());
    assert_eq!(stranger, Verdict::Delete(Owner::Nobody, Cause::Stranger));
    let bucket = judged(&policy, (Place::Bucket, "KV_files"), SETTINGS, &to("_INBOX.owner.x", &[]));
    assert!(matches!(bucket, Verdict::Delete(Owner::Service(_), Cause::Lost)), "{bucket:?}");
    let places = ["KV_a", "OBJ_a", "EVENTS", "MQTT_sess", "$MQTT_msgs"].map(Place::of);
    let known = [Place::Bucket, Place::Store, Place::Stream].map(Some);
    assert_eq!(places[..3], known);
    assert_eq!(places[3..], [None, None]);
}

#[test]
fn the_consumers_of_a_stream_are_who_replays_and_who_uses_them() {
    let policy = policy(&format!(
        "[stream.EVENTS]\nsubjects = [\"events.>\"]\n[stream.EVENTS.consumer.shipping]\n\
         [stream.EVENTS.consumer.other]\n[stream.NEWS]\nsubjects = [\"news.>\"]\n\
         [service.all]\nnkeys = [\"{}\"]\nreplays = [\"EVENTS\"]\n\
         [service.part]\nnkeys = [\"{}\"]\nreplays = [\"EVENTS/events.a.>\"]\n\
         [service.shipping]\nnkeys = [\"{}\"]\nconsumes = [\"EVENTS/shipping\"]\n",
        KEY[0], KEY[1], KEY[2]
    ));
    let on = |stream, settings, consumer: &Consumer| match judged(
        &policy,
        (Place::Stream, stream),
        settings,
        consumer,
    ) {
        Verdict::Keep(_) => None,
        Verdict::Delete(_, cause) => Some(cause),
    };
    let leave = Settings { strangers: Strangers::Leave, ..SETTINGS };
    let named = |name: &str, deliver: &str, filters: &[&str]| Consumer {
        name: name.to_owned(),
        ..to(deliver, filters)
    };
    for (stream, name, deliver, filters, expected) in [
        ("EVENTS", "x", "_INBOX.all.x", &[][..], None),
        ("EVENTS", "x", "_INBOX.part.x", &["events.a.>"], None),
        ("EVENTS", "x", "_INBOX.part.x", &["events.a.b", "events.a.c"], None),
        ("EVENTS", "x", "_INBOX.part.x", &["events.a.b", "events.b"], Some(Cause::Lost)),
        ("EVENTS", "x", "_INBOX.part.x", &["events.>"], Some(Cause::Lost)),
        ("EVENTS", "x", "_INBOX.part.x", &[], Some(Cause::Lost)),
        ("EVENTS", "x", "_INBOX.shipping.x", &[], Some(Cause::Lost)),
        // A declared one of who uses it, and of nobody else.
        ("EVENTS", "shipping", "_INBOX.shipping.x", &[], None),
        ("EVENTS", "other", "_INBOX.shipping.x", &[], Some(Cause::Lost)),
        ("EVENTS", "shipping", "_INBOX.part.x", &[], Some(Cause::Lost)),
        ("NEWS", "shipping", "_INBOX.shipping.x", &[], Some(Cause::Lost)),
        ("NEWS", "x", "_INBOX.all.x", &[], Some(Cause::Lost)),
        // Whoever works in the account itself has consumers there.
        ("EVENTS", "x", "_INBOX.nobody.x", &[], None),
        ("EVENTS", "x", "deliver.there", &[], None),
        ("EVENTS", "x", "$KV.orders.a", &[], Some(Cause::System)),
        ("NONE", "x", "_INBOX.nobody.x", &[], None),
    ] {
        for settings in [SETTINGS, leave] {
            let consumer = named(name, deliver, filters);
            let found = on(stream, settings, &consumer);
            assert_eq!(found, expected, "{stream} {name} {deliver} {filters:?}");
        }
    }
    for stream in ["EVENTS", "NONE"] {
        assert_eq!(on(stream, SETTINGS, &pull()), None, "{stream}");
    }
    // What services hear of a stream that no policy knows yet stays where strangers do.
    let unknown = to("_INBOX.all.x", &[]);
    assert_eq!(on("NONE", SETTINGS, &unknown), Some(Cause::Lost));
    assert_eq!(on("NONE", leave, &unknown), None);
    // Of pull consumers there may be many: nobody knows whose position one holds.
    let judge = Judge::new(&policy, (Place::Stream, "EVENTS"), SETTINGS, NOW);
    assert_eq!(judge.surplus(&vec![(Owner::Nobody, pull()); 100]), [0_usize; 0]);
    let pushed: Vec<(Owner, Consumer)> = (0..5)
        .map(|n| (Owner::Service("all".into()), to(&format!("_INBOX.all.{n}"), &[])))
        .collect();
    assert_eq!(judge.surplus(&pushed).len(), 2);
}

#[test]
fn what_the_service_that_hears_it_may_read_is_covered() {
    let policy = usual();
    for (deliver, filters, expected) in [
        // Whoever reads the whole bucket may filter as it likes, a mirror's subjects included.
        ("_INBOX.owner.x", vec![], None),
        ("_INBOX.owner.x.y", vec!["$KV.orders.a", "$KV.orders.b.>"], None),
        ("_INBOX.owner.x", vec!["$KV.upstream.>"], None),
        // Parts: each filter within one of them.
        ("_INBOX.part.x", vec!["$KV.orders.eu.>"], None),
        ("_INBOX.part.x", vec!["$KV.orders.eu.de.1"], None),
        ("_INBOX.part.x", vec!["$KV.orders.eu.a", "$KV.orders.us.a"], None),
        ("_INBOX.part.x", vec![], Some(Cause::Lost)),
        ("_INBOX.part.x", vec!["$KV.orders.>"], Some(Cause::Lost)),
        ("_INBOX.part.x", vec!["$KV.orders.*.a"], Some(Cause::Lost)),
        ("_INBOX.part.x", vec!["$KV.orders.us.b"], Some(Cause::Lost)),
        ("_INBOX.part.x", vec!["$KV.orders.eu.a", "$KV.orders.us.b"], Some(Cause::Lost)),
        ("_INBOX.part.x", vec!["$KV.other.eu.>"], Some(Cause::Lost)),
        ("_INBOX.part.x", vec!["not a subject"], Some(Cause::Lost)),
        // It reads something else.
        ("_INBOX.auditor.x", vec![], Some(Cause::Lost)),
    ] {
        assert_eq!(cause(&policy, &to(deliver, &filters)), expected, "{deliver} {filters:?}");
    }
}

#[test]
fn what_reaches_no_service_goes_when_it_is_old() {
    let policy = usual();
    for deliver in
        ["_INBOX.nobody.x", "_INBOX.owner", "_INBOX.owner.", "_INBOX.", "x.y", "_INBOX.ownerx.y"]
    {
        let old = to(deliver, &[]);
        assert_eq!(cause(&policy, &old), Some(Cause::Stranger), "{deliver}");
        let with = |created| Consumer { created, ..old.clone() };
        assert_eq!(cause(&policy, &with(Some(NOW - FRESH_FOR + 1))), None, "{deliver}");
        // A time that cannot be is none.
        for created in [None, Some(NOW + 3600), Some(i64::MAX), Some(i64::MIN)] {
            assert_eq!(cause(&policy, &with(created)), Some(Cause::Stranger), "{created:?}");
        }
    }
    assert_eq!(cause(&policy, &pull()), Some(Cause::Stranger), "nobody pulls from a bucket");
    let leave = Settings { strangers: Strangers::Leave, ..SETTINGS };
    for left in [to("_INBOX.nobody.x", &[]), pull()] {
        let verdict = judged(&policy, (Place::Bucket, "KV_orders"), leave, &left);
        assert_eq!(verdict, Verdict::Keep(Owner::Nobody));
    }
    // Whatever the settings leave, never what a service hears and may not read.
    let lost = judged(&policy, (Place::Bucket, "KV_orders"), leave, &to("_INBOX.part.x", &[]));
    assert_eq!(lost, Verdict::Delete(Owner::Service("part".into()), Cause::Lost));
}

#[test]
fn subjects_of_the_servers_own_and_descriptions_out_of_proportion_go_at_once() {
    let policy = usual();
    let fresh = |deliver: &str| Consumer { created: Some(NOW), ..to(deliver, &[]) };
    for deliver in ["$KV.orders.a", "$JS.API.STREAM.PURGE.KV_orders", "$SYS.REQ.USER.AUTH"] {
        assert_eq!(cause(&policy, &fresh(deliver)), Some(Cause::System), "{deliver}");
    }
    let fat = Consumer { bytes: MAX_BYTES + 1, ..fresh("_INBOX.owner.x") };
    assert_eq!(cause(&policy, &fat), Some(Cause::Oversized));
    assert_eq!(cause(&policy, &Consumer { bytes: MAX_BYTES, ..fat }), None);
}

#[test]
fn a_service_that_nobody_can_connect_as_has_no_consumers() {
    let table = |more: &str| policy(&format!("[service.owner]\nowns = [\"orders\"]\n{more}"));
    let watch = to("_INBOX.owner.x", &[]);
    let key = |more: &str| table(&format!("nkeys = [{{ key = \"{}\"{more} }}]\n", KEY[0]));
    assert_eq!(cause(&key(""), &watch), None);
    assert_eq!(cause(&table(""), &watch), Some(Cause::NoKey));
    // NOW is 2027-01-15T08:00:00Z.
    for (window, expected) in [
        (", not_after = 2027-01-15T08:00:00Z", Some(Cause::NoKey)),
        (", not_after = 2027-01-15T08:00:01Z", None),
        (", not_before = 2027-01-15T08:00:01Z", Some(Cause::NoKey)),
        (", not_before = 2027-01-15T08:00:00Z", None),
    ] {
        assert_eq!(cause(&key(window), &watch), expected, "{window}");
    }
    let disabled = table(&format!("nkeys = [\"{}\"]\ndisabled = \"x\"\n", KEY[0]));
    assert_eq!(cause(&disabled, &watch), Some(Cause::Disabled));
}

#[test]
fn a_name_that_another_has_now_is_judged_by_what_that_one_may_read() {
    let before = to("_INBOX.part.x", &["$KV.orders.eu.>"]);
    assert_eq!(cause(&usual(), &before), None);
    let given_away =
        policy(&format!("[service.part]\nnkeys = [\"{}\"]\nreads = [\"orders/us.>\"]\n", KEY[2]));
    assert_eq!(cause(&given_away, &before), Some(Cause::Lost));
    let gone = policy(&format!("[service.owner]\nnkeys = [\"{}\"]\nowns = [\"orders\"]\n", KEY[0]));
    assert_eq!(cause(&gone, &before), Some(Cause::Stranger));
}

#[test]
fn an_audit_stream_is_its_auditors_and_its_own_accounts() {
    let policy = usual();
    let on =
        |stream, consumer: &Consumer| judged(&policy, (Place::Audit, stream), SETTINGS, consumer);
    let auditor = Owner::Service("auditor".into());
    let owner = Owner::Service("owner".into());
    let watch = to("_INBOX.auditor.x", &[]);
    assert_eq!(on("AUDIT_EVENTS", &watch), Verdict::Keep(auditor.clone()));
    assert_eq!(on("AUDIT_SERVICES", &watch), Verdict::Delete(auditor, Cause::Lost));
    let other = to("_INBOX.owner.x", &[]);
    assert_eq!(on("AUDIT_EVENTS", &other), Verdict::Delete(owner, Cause::Lost));
    for kept in [pull(), to("_INBOX.solewriter.x", &[])] {
        assert_eq!(on("AUDIT_EVENTS", &kept), Verdict::Keep(Owner::Nobody));
    }
}

#[test]
fn the_inbox_of_the_tools_is_nobody_elses() {
    assert_eq!(cause(&usual(), &to("_INBOX.solewriter.x", &[])), None);
}

/// The names of the surplus of these consumers, which are all the owner's.
fn surplus(kept: Vec<Consumer>) -> Vec<String> {
    let policy = usual();
    let judge = Judge::new(&policy, (Place::Bucket, "KV_orders"), SETTINGS, NOW);
    let owner = Owner::Service("owner".into());
    let kept: Vec<_> = kept.into_iter().map(|c| (owner.clone(), c)).collect();
    let mut names: Vec<String> =
        judge.surplus(&kept).into_iter().map(|index| kept[index].1.name.clone()).collect();
    names.sort();
    names
}

fn named(name: &str, created: i64, deliver: &str, bound: bool) -> Consumer {
    let deliver = format!("_INBOX.owner.{deliver}");
    Consumer { name: name.to_owned(), created: Some(created), bound, ..to(&deliver, &[]) }
}

#[test]
fn of_too_many_the_newest_go_but_first_what_nobody_hears() {
    assert!(surplus(vec![named("a", 1, "1", true), named("b", 2, "2", true)]).is_empty());
    let live = |n: i64| named(&format!("live{n}"), n, &n.to_string(), true);
    assert_eq!(surplus((1..=5).map(live).collect()), ["live4", "live5"]);
    // Older ones that nobody listens to, as another service could make them in the owner's name.
    let spoofed = |n: i64| named(&format!("spoofed{n}"), n - 100, &format!("s{n}"), false);
    let mixed = (1..=3).map(live).chain((1..=3).map(spoofed)).collect();
    assert_eq!(surplus(mixed), ["spoofed1", "spoofed2", "spoofed3"]);
    // Or such that deliver where the owner does listen.
    let again = |n: i64| named(&format!("again{n}"), n + 100, "1", true);
    let mixed = (1..=3).map(live).chain((1..=3).map(again)).collect();
    assert_eq!(surplus(mixed), ["again1", "again2", "again3"]);
    // What has no time counts as new.
    let mut kept: Vec<Consumer> = (1..=4).map(live).collect();
    kept[0].created = None;
    assert_eq!(surplus(kept), ["live1"]);
}

#[test]
fn each_owner_has_its_own_limit_and_nobody_one_of_its_own() {
    let policy = usual();
    let settings = Settings { per_service: 100, strangers: Strangers::Delete };
    let kept: Vec<(Owner, Consumer)> = (0..100)
        .map(|n| (Owner::Nobody, Consumer { name: format!("n{n}"), ..pull() }))
        .chain((0..100).map(|n| {
            let owner = if n % 2 == 0 { "owner" } else { "part" };
            let consumer = to(&format!("_INBOX.{owner}.{n}"), &[]);
            (Owner::Service(owner.into()), consumer)
        }))
        .collect();
    let of = |settings| {
        let judge = Judge::new(&policy, (Place::Bucket, "KV_orders"), settings, NOW);
        let surplus = judge.surplus(&kept);
        assert!(surplus.iter().all(|index| kept[*index].0 == Owner::Nobody));
        surplus.len()
    };
    assert_eq!(of(settings), 100 - STRANGERS_AT_MOST);
    assert_eq!(of(Settings { strangers: Strangers::Leave, ..settings }), 0);
}
