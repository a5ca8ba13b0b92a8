//! What grants hold, what they never do, and what they take.

use std::time::Duration;

use super::compile::permissions;
use super::reserved::{NEVER_PUBLISH, NEVER_SUBSCRIBE};
use super::*;
use crate::diagnostics::SourceFile;
use crate::policy::model::{Access, StreamName};
use crate::policy::validate::validate;
use solewriter_types::keyspace::Keyspace;
use solewriter_types::kv_operation;
use solewriter_types::subject::Pattern;

fn streams(api: &str) -> Result<AuditStreams, &'static str> {
    AuditStreams::new(None, None, Some(api))
}

#[test]
fn audits_reaches_no_other_api_than_the_one_that_is_set() {
    for api in ["$JS.API", "$JS.AUDIT.API", "$JS.audit-2_x.API"] {
        assert_eq!(streams(api).unwrap().api(), api);
    }
    for api in [
        "",
        "$JS",
        "$JS.",
        "$JS..API",
        "$JS.*.API",
        "$JS.>.API",
        "$JS.>",
        "$JS.API.API",
        "$JS.ACK.API",
        "$JS.FC.API",
        "$JS.A.B.API",
        "$JS.A.API.",
        "$JS.A.api",
        "$KV.A.API",
        "$JS.A B.API",
        "JS.A.API",
        "$JS.API.STREAM.DELETE.API",
    ] {
        assert!(streams(api).is_err(), "{api:?}");
    }
    let name = |text: &str| StreamName::parse(text).unwrap();
    assert!(AuditStreams::new(Some(&name("X")), Some(&name("X")), None).is_err());
    let own = AuditStreams::new(Some(&name("X")), Some(&name("Y")), None).unwrap();
    assert_eq!(own.subjects_of("X"), Some("audit.events.>"));
    assert_eq!(own.subjects_of("Y"), Some("audit.services.>"));
    assert_eq!(own.subjects_of("AUDIT_EVENTS"), None);
}

#[test]
fn what_is_no_audit_stream_is_not_granted_either() {
    let text = "[service.a]\naudits = [\"AUDIT_EVENTS\"]\n";
    let mut service =
        validate(&[SourceFile::new("p.toml", text)]).unwrap().policy.service("a").unwrap().clone();
    let defaults = Defaults {
        account: "APP".into(),
        lifetime: Duration::from_secs(60),
        audit: AuditStreams::default(),
    };
    Grant::of(&service, &defaults).unwrap();
    service.rules[0].access = Access::Audits(StreamName::parse("EVENTS").unwrap());
    let refused = Grant::of(&service, &defaults);
    assert!(matches!(refused, Err(GrantError::NoAuditStream(_))), "{refused:?}");
}

/// Of a bucket in a domain: reading reaches it from elsewhere, and writing does not.
#[test]
fn a_bucket_of_a_domain_is_read_from_another_one_and_never_written() {
    let text = "[bucket.b]\ndomain = \"edge\"\n[bucket.near]\n\
                [service.a]\nowns = [\"b\", \"near\"]\n[service.r]\nreads = [\"b\"]\n";
    let policy = validate(&[SourceFile::new("p.toml", text)]).unwrap().policy;
    let defaults = Defaults {
        account: "APP".into(),
        lifetime: Duration::from_secs(60),
        audit: AuditStreams::default(),
    };
    for service in ["a", "r"] {
        let grant = Grant::of(policy.service(service).unwrap(), &defaults).unwrap();
        let may: Vec<&str> =
            grant.permissions(Side::Publish).iter().map(|p| p.subject.as_str()).collect();
        let far: Vec<&str> =
            may.iter().copied().filter(|subject| subject.starts_with("$JS.edge.")).collect();
        let near: Vec<String> = far.iter().map(|s| s.replacen("$JS.edge.", "$JS.", 1)).collect();
        assert!(near.iter().all(|subject| may.contains(&subject.as_str())), "{far:?}");
        assert_eq!(far.len(), 9, "{far:?}");
        assert!(far.iter().all(|s| s.contains(".KV_b")), "{far:?}");
        assert!(!far.iter().any(|s| s.contains("PURGE") || s.contains("API.$KV")), "{far:?}");
    }
}

/// Of a stream and an object store, too; but where a stream has consumers, no replay comes from
/// elsewhere: whoever is on the way could name one of them.
#[test]
fn a_stream_and_a_store_of_a_domain_are_read_from_another_one() {
    let text = "[stream.S]\nsubjects = [\"s.>\"]\ndomain = \"edge\"\n[stream.S.consumer.w]\n\
                [stream.S.consumer.own]\nmade_by = \"service\"\n\
                [stream.P]\nsubjects = [\"p.>\"]\ndomain = \"edge\"\n\
                [store.o]\ndomain = \"edge\"\n\
                [service.a]\nowns = [\"store:o\"]\npublishes = [\"s.>\", \"p.>\"]\n\
                [service.c]\nconsumes = [\"S/w\"]\n[service.m]\nconsumes = [\"S/own\"]\n\
                [service.r]\nreplays = [\"P\"]\n[service.q]\nreplays = [\"S\"]\n\
                [service.o]\nreads = [\"store:o\"]\n";
    let policy = validate(&[SourceFile::new("p.toml", text)]).unwrap().policy;
    let defaults = Defaults {
        account: "APP".into(),
        lifetime: Duration::from_secs(60),
        audit: AuditStreams::default(),
    };
    let far = |service: &str| {
        let grant = Grant::of(policy.service(service).unwrap(), &defaults).unwrap();
        let may = grant.permissions(Side::Publish).iter().map(|p| p.subject.to_string());
        may.filter_map(|s| Some(s.strip_prefix("$JS.edge.API.")?.to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(far("c"), ["CONSUMER.INFO.S.w", "CONSUMER.MSG.NEXT.S.w"]);
    assert_eq!(
        far("m"),
        ["CONSUMER.INFO.S.own", "CONSUMER.MSG.NEXT.S.own", "CONSUMER.CREATE.S.own"]
    );
    assert!(far("r").contains(&"CONSUMER.CREATE.P.*.>".to_owned()), "{:?}", far("r"));
    assert!(far("r").iter().all(|s| s.contains(".P")), "{:?}", far("r"));
    assert!(far("q").is_empty());
    let all = ["a", "o"].map(far);
    for far in &all {
        assert_eq!(far.len(), 8, "{far:?}");
        assert!(far.iter().all(|s| s.contains(".OBJ_o") && !s.contains("PURGE")), "{far:?}");
    }
}

#[test]
fn an_api_under_another_name_is_the_same_api() {
    for never in NEVER_PUBLISH.iter().filter(|never| never.starts_with("$JS.")) {
        for prefix in ["$JS.AUDIT.", "$JS.STATE.", "$JS.hub.", "$JS.*."] {
            let twin = never.replacen("$JS.", prefix, 1);
            let found = never_granted(Side::Publish, &Pattern::parse(&twin).unwrap());
            assert!(found.is_some(), "{twin}");
        }
    }
    for allowed in [
        "$JS.AUDIT.API.STREAM.INFO.AUDIT_EVENTS",
        "$JS.AUDIT.API.CONSUMER.CREATE.AUDIT_EVENTS",
        "$JS.AUDIT.API.DIRECT.GET.AUDIT_EVENTS.audit.events.>",
        "$JS.FC.AUDIT_EVENTS.>",
    ] {
        let found = never_granted(Side::Publish, &Pattern::parse(allowed).unwrap());
        assert_eq!(found, None, "{allowed}");
    }
}

#[test]
fn a_service_publishes_its_own_audit_events_unless_it_has_solewriters_name() {
    for (subject, service, own) in [
        ("audit.events.orders.>", "orders", true),
        ("audit.events.orders.run1", "orders", true),
        ("audit.events.orders.>", "billing", false),
        ("audit.events.>", "orders", false),
        ("audit.events.solewriter.>", "solewriter", false),
        ("audit.services.orders.>", "orders", false),
    ] {
        let pattern = Pattern::parse(subject).unwrap();
        assert_eq!(is_own_audit_subject(&pattern, service), own, "{subject} {service}");
    }
}

fn permission(text: &str) -> Permission {
    Permission { subject: Pattern::parse(text).unwrap(), purpose: "", rule: 0 }
}

/// Subjects of a service that reads that many buckets, and more that cover some of them.
fn long(buckets: usize) -> Vec<Permission> {
    let keyspace = |n| Keyspace::parse(&format!("bucket{n}")).unwrap();
    let mut list: Vec<Permission> = (0..buckets)
        .flat_map(|n| kv_operation::reading(&keyspace(n)))
        .map(|(_, subject)| permission(&subject))
        .collect();
    list.push(permission("$JS.FC.>"));
    list
}

#[test]
fn the_steps_of_a_long_list_grow_as_its_length() {
    let steps = |buckets| {
        let list = long(buckets);
        let mut left = usize::MAX;
        let made = permissions(&list, Vec::new(), &mut left);
        assert_eq!(made.allow.len(), list.len() - 2 * buckets, "flow control is one entry");
        usize::MAX - left
    };
    let (few, many) = (steps(100), steps(1_000));
    assert!(many <= 11 * few, "{few} steps for 100 buckets, {many} for 1,000");
}

#[test]
fn what_takes_too_long_to_compare_is_left_as_it_is() {
    let list = long(10);
    let made = permissions(&list, Vec::new(), &mut 0);
    assert_eq!(made.allow.len(), list.len(), "each of them, once");
    // And a crowd of wildcards in many places is bounded.
    let list: Vec<Permission> = (0..1 << 13)
        .map(|i: u32| {
            let tokens: String =
                (0..13).map(|bit| if i >> bit & 1 == 0 { "a." } else { "*." }).collect();
            permission(&format!("s.{tokens}x"))
        })
        .collect();
    let mut steps = 100_000;
    assert!(permissions(&list, Vec::new(), &mut steps).allow.len() > 1);
    assert_eq!(steps, 0);
}

proptest::proptest! {
    #[test]
    fn what_others_cover_is_left_out(
        list in proptest::collection::vec("(a|b|\\*)(\\.(a|b|\\*)){0,3}(\\.>)?|>", 0..12)
    ) {
        let list: Vec<Permission> = list.iter().map(|text| permission(text)).collect();
        let mut all: Vec<&Pattern> = list.iter().map(|p| &p.subject).collect();
        all.sort();
        all.dedup();
        let covered = |s: &&Pattern| all.iter().any(|o| o != s && s.is_subset_of(o));
        let expected: Vec<String> =
            all.iter().filter(|s| !covered(s)).map(ToString::to_string).collect();
        let mut steps = usize::MAX;
        proptest::prop_assert_eq!(permissions(&list, Vec::new(), &mut steps).allow, expected);
    }
}

#[test]
fn what_has_no_room_in_an_answer_is_refused_with_its_size() {
    let grant = |count: usize, length: usize| {
        let subject = |n| format!("{n:0length$}");
        let list: Vec<String> = (0..count).map(subject).collect();
        let text = format!("[service.a]\npublishes = {list:?}\n");
        let policy = validate(&[SourceFile::new("p.toml", text)]).unwrap().policy;
        let defaults = Defaults {
            account: "APP".into(),
            lifetime: Duration::from_secs(60),
            audit: crate::grant::AuditStreams::default(),
        };
        Grant::of(policy.service("a").unwrap(), &defaults)
    };
    let subjects = grant(MAX_SUBJECTS, 6).unwrap().subjects();
    assert_eq!(subjects, MAX_SUBJECTS + 1, "and the inbox");
    let too_many = grant(MAX_SUBJECTS + 1, 6).unwrap_err();
    assert_eq!(too_many, GrantError::TooLarge(TooLarge::Subjects));
    // Each takes 100 bytes, with two quotes and a comma; the inbox takes the rest.
    let fits = MAX_SUBJECT_BYTES / 103 - 1;
    grant(fits, 100).unwrap();
    match grant(fits + 2, 100) {
        Err(GrantError::TooLarge(TooLarge::Bytes { subjects, bytes })) => {
            assert_eq!(subjects, fits + 3);
            assert!(bytes > MAX_SUBJECT_BYTES, "{bytes}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_last_gate_stops_what_validation_let_through() {
    let text = "[service.a]\npublishes = [\"events.x\"]\n";
    let policy = validate(&[SourceFile::new("p.toml", text)]).unwrap().policy;
    let defaults = Defaults {
        account: "APP".into(),
        lifetime: Duration::from_secs(60),
        audit: crate::grant::AuditStreams::default(),
    };
    let service = policy.service("a").unwrap();
    Grant::of(service, &defaults).unwrap();
    let publish = Access::Publishes as fn(Pattern) -> Access;
    let subscribe = Access::Subscribes as fn(Pattern) -> Access;
    // Written out, and not taken from the lists: what is missing there is missed here.
    let published = [
        "$SYS.REQ.USER.AUTH",
        "$SYS.REQ.SERVER.PING.CONNZ",
        "$NRG.V.x",
        "$MQTT.msgs.x",
        "$SRV.PING",
        "$SRV.INFO.quotes-api",
        "$SRV.INFO.quotes-api.*",
        "$SRV.INFO.*",
        "$SRV.>",
        "$JS.API.INFO",
        "$JS.API.ACCOUNT.PURGE.APP",
        "$JS.API.SERVER.REMOVE",
        "$JS.API.META.LEADER.STEPDOWN",
        "$JS.API.STREAM.CREATE.KV_b",
        "$JS.API.STREAM.UPDATE.KV_b",
        "$JS.API.STREAM.DELETE.KV_b",
        "$JS.API.STREAM.RESTORE.KV_b",
        "$JS.API.STREAM.SNAPSHOT.KV_b",
        "$JS.API.STREAM.MSG.DELETE.KV_b",
        "$JS.API.STREAM.LEADER.STEPDOWN.KV_b",
        "$JS.API.STREAM.PEER.REMOVE.KV_b",
        "$JS.API.STREAM.LIST",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.TEMPLATE.CREATE.t",
        "$JS.API.CONSUMER.LIST.KV_b",
        "$JS.API.CONSUMER.NAMES.KV_b",
        "$JS.API.CONSUMER.DURABLE.CREATE.KV_b.c",
        "$JS.API.CONSUMER.PAUSE.KV_b.c",
        "$JS.API.CONSUMER.LEADER.STEPDOWN.KV_b.c",
        "$JS.API.CONSUMER.RESET.KV_b.c",
        "$JS.API.CONSUMER.UNPIN.KV_b.c",
        "$JS.ACK.KV_b.c.1.1.1.1.0",
        "$JS.ACK.EVENTS.shipping.>",
        "$JS.ACK.*.*.EVENTS.shipping.>",
        "_R_.x",
        "_GR_.x.y",
        "$JS.API.>",
        "$JS.>",
        "$SYS.>",
        ">",
        "*.API.>",
        "$JS.*.API.>",
        "$JS.AUDIT.API.STREAM.CREATE.AUDIT_EVENTS",
        "$JS.AUDIT.API.STREAM.DELETE.>",
        "audit.services.b.x",
    ];
    let subscribed = [
        "$KV.b.k",
        "$KV.>",
        "$JS.API.STREAM.INFO.KV_b",
        "$JS.>",
        "$SYS.REQ.USER.AUTH",
        "$SYS.>",
        "$NRG.V.x",
        "$MQTT.sub.x",
        "_R_.x",
        "_GR_.x.y",
        "$SRV.PING",
        "$SRV.INFO.quotes-api",
        "$SRV.INFO.quotes-api.*",
        "$SRV.INFO.*",
        "$SRV.>",
        "_INBOX.>",
        "_INBOX.b.>",
        ">",
    ];
    // An entry that nothing above reaches could go without a test that fails.
    for (side, literal, list) in [
        (Side::Publish, published.as_slice(), NEVER_PUBLISH.as_slice()),
        (Side::Subscribe, subscribed.as_slice(), NEVER_SUBSCRIBE.as_slice()),
    ] {
        let reached: Vec<&str> = literal
            .iter()
            .filter_map(|subject| never_granted(side, &Pattern::parse(subject).unwrap()))
            .collect();
        for never in list {
            assert!(reached.contains(never), "{never}: {side:?}");
        }
    }
    let cases = published.map(|subject| (publish, subject)).into_iter();
    for (access, never) in cases.chain(subscribed.map(|subject| (subscribe, subject))) {
        let mut hostile = service.clone();
        hostile.rules[0].access = access(Pattern::parse(never).unwrap());
        let refused = Grant::of(&hostile, &defaults);
        assert!(matches!(refused, Err(GrantError::Never { .. })), "{never}: {refused:?}");
    }
}
