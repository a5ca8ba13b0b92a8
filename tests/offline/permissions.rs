//! Rules to subjects: exactly what is needed, and never what is never granted.

use nats_jwt::NatsPermissions;
use proptest::prelude::*;
use solewriter::policy_source::directory::Directory;
use solewriter_core::analysis::query::{Held, Question, Reach, may, signed};
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::diagnostics::render::Style;
use solewriter_core::grant::{AuditStreams, Defaults, Grant, Side, never_granted};
use solewriter_core::policy::model::{Access, ConsumerName, FoundName, Policy, StreamName, Way};
use solewriter_core::policy::validate::{validate, validate_for};
use solewriter_types::kv_operation::{
    Needed, READING_STORES, consuming, durable_create, replaying, taking, writing_store,
};
use solewriter_types::subject::Pattern;

fn defaults() -> Defaults {
    Defaults {
        account: "APP".into(),
        lifetime: std::time::Duration::from_secs(3600),
        audit: AuditStreams::default(),
    }
}

fn policy(text: &str) -> Option<Policy> {
    validate(&[SourceFile::new("test.toml", text)]).ok().map(|validated| validated.policy)
}

/// The allow and deny lists of the one service of a policy.
fn lists(rules: &str) -> serde_json::Value {
    let text = format!("[bucket.b]\n[service.s]\n{rules}\n");
    let policy = policy(&text).expect(&text);
    let grant = Grant::of(policy.service("s").unwrap(), &defaults()).unwrap();
    let claims = serde_json::to_value(grant.claims()).unwrap();
    serde_json::json!({"pub": claims["pub"], "sub": claims["sub"]})
}

#[test]
fn a_reader_of_a_bucket_gets_no_way_to_write_it() {
    assert_eq!(
        lists("reads = [\"b\"]"),
        serde_json::json!({
            "pub": {"allow": [
                "$JS.API.CONSUMER.CREATE.KV_b",
                "$JS.API.CONSUMER.CREATE.KV_b.*",
                "$JS.API.CONSUMER.CREATE.KV_b.*.$KV.b.>",
                "$JS.API.CONSUMER.DELETE.KV_b.*",
                "$JS.API.CONSUMER.INFO.KV_b.*",
                "$JS.API.DIRECT.GET.KV_b",
                "$JS.API.DIRECT.GET.KV_b.$KV.b.>",
                "$JS.API.STREAM.INFO.KV_b",
                "$JS.API.STREAM.MSG.GET.KV_b",
                "$JS.FC.*.*.KV_b.>",
                "$JS.FC.KV_b.>",
            ]},
            "sub": {"allow": ["_INBOX.s.>"]},
        })
    );
}

#[test]
fn a_reader_of_a_part_gets_nothing_that_chooses_keys_in_its_body() {
    assert_eq!(
        lists("reads = [\"b/line.>\"]"),
        serde_json::json!({
            "pub": {"allow": [
                "$JS.API.CONSUMER.CREATE.KV_b.*.$KV.b.line.>",
                "$JS.API.CONSUMER.DELETE.KV_b.*",
                "$JS.API.CONSUMER.INFO.KV_b.*",
                "$JS.API.DIRECT.GET.KV_b.$KV.b.line.>",
                "$JS.API.STREAM.INFO.KV_b",
                "$JS.FC.*.*.KV_b.>",
                "$JS.FC.KV_b.>",
            ]},
            "sub": {"allow": ["_INBOX.s.>"]},
        })
    );
}

#[test]
fn plain_subjects_are_granted_on_their_side_only() {
    assert_eq!(
        lists("publishes = [\"events.a.>\"]\nsubscribes = [\"events.b.>\"]"),
        serde_json::json!({
            "pub": {"allow": ["events.a.>"]},
            "sub": {"allow": ["_INBOX.s.>", "events.b.>"]},
        })
    );
    assert_eq!(
        lists("subscribes = [\"events.b.>\"]"),
        serde_json::json!({"pub": {"deny": [">"]}, "sub": {"allow": ["events.b.>"]}})
    );
    assert_eq!(
        lists("calls = [\"svc.quote\"]"),
        serde_json::json!({"pub": {"allow": ["svc.quote"]}, "sub": {"allow": ["_INBOX.s.>"]}})
    );
}

#[test]
fn who_answers_may_publish_to_inboxes_and_gets_no_resp() {
    assert_eq!(
        lists("answers = [\"svc.s.>\"]"),
        serde_json::json!({
            "pub": {"allow": ["_INBOX.>"]},
            "sub": {"allow": ["svc.s.>"]},
        })
    );
}

#[test]
fn a_subscription_that_ends_in_a_star_cannot_be_widened() {
    assert_eq!(
        lists("subscribes = [\"events.*\"]")["sub"],
        serde_json::json!({"allow": ["events.*"], "deny": ["events.*.>"]})
    );
    // Where deeper subjects are granted anyway, there is nothing to deny.
    assert_eq!(
        lists("subscribes = [\"events.*\", \"events.>\"]")["sub"],
        serde_json::json!({"allow": ["events.>"]})
    );
}

#[test]
fn a_denial_that_would_take_another_grant_is_a_problem_of_the_policy() {
    for rules in [
        "subscribes = [\"events.*\", \"events.a.b\"]",
        "subscribes = [\"events.*\"]\nanswers = [\"events.a.>\"]",
        "subscribes = [\"events.*\", \"events.*.x\"]",
    ] {
        let problems =
            validate(&[SourceFile::new("t.toml", format!("[service.s]\n{rules}\n"))]).unwrap_err();
        assert!(problems.iter().any(|p| p.code == "star-conflict"), "{rules}");
    }
}

#[test]
fn nothing_stands_twice_or_under_another_entry() {
    let lists = lists("owns = [\"b\"]\nreads = [\"b\", \"b/x\"]\npublishes = [\"e.>\", \"e.a\"]");
    let allow = lists["pub"]["allow"].as_array().unwrap();
    let patterns: Vec<Pattern> =
        allow.iter().map(|s| Pattern::parse(s.as_str().unwrap()).unwrap()).collect();
    for (i, one) in patterns.iter().enumerate() {
        for (j, other) in patterns.iter().enumerate() {
            assert!(i == j || !one.is_subset_of(other), "{one} is within {other}");
        }
    }
}

/// Texts that an operator, or an attacker of the policy repository, might write.
fn entry() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        4 => "[ab]",
        1 => Just("*".to_owned()),
        1 => Just(">".to_owned()),
        1 => prop::sample::select(vec![
            "$KV", "$JS", "$SYS", "_INBOX", "API", "STREAM", "CREATE", "KV_b", "_R_", "$SRV", "",
        ]).prop_map(str::to_owned),
    ];
    (prop::option::weighted(0.5, "[bc]"), proptest::collection::vec(token, 1..4)).prop_map(
        |(bucket, tokens)| match bucket {
            Some(bucket) => format!("{bucket}/{}", tokens.join(".")),
            None => tokens.join("."),
        },
    )
}

/// Streams and consumers whose names are words of the API, of other names, or of each other.
const CONSUMERS: [(&str, [&str; 2]); 4] = [
    ("S", ["c", "INFO"]),
    ("CREATE", ["c", "S"]),
    ("API", ["STREAM", "1a"]),
    ("ACK", ["API", "c"]),
];

/// Mostly a declared consumer.
fn consumed() -> impl Strategy<Value = String> {
    let declared =
        CONSUMERS.iter().flat_map(|(s, consumers)| consumers.map(|c| format!("{s}/{c}")));
    let declared: Vec<String> = declared.collect();
    prop_oneof![
        20 => prop::sample::select(declared),
        1 => prop::sample::select(vec!["S/*", "*/c", "S/>", "1/5", "S", "S/c/c", "_/c", "KV_b/c", "S/c.c"])
            .prop_map(str::to_owned),
    ]
}

/// Mostly nothing; names of services that are words of the framework, of each other, or none.
fn found() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let key = prop::sample::select(vec!["found_as", "discovers"]);
    let name = prop_oneof![
        20 => "[nm]|PING|INFO",
        1 => "\\*|[n.*>]{1,3}|\\$SRV",
    ];
    proptest::collection::vec((key, name), 0..3)
}

/// Mostly a part of a declared stream, or all of it.
fn replayed() -> impl Strategy<Value = String> {
    let streams: Vec<&str> = CONSUMERS.iter().map(|(stream, _)| *stream).chain(["BARE"]).collect();
    let filter = prop_oneof![
        2 => Just(String::new()),
        8 => "(\\.(c|S|INFO|x|\\*)){0,2}(\\.>|\\.c|\\.d|\\.\\*)",
    ];
    let declared = (prop::sample::select(streams), filter).prop_map(|(stream, filter)| {
        if filter.is_empty() {
            stream.to_owned()
        } else {
            format!("{stream}/kept.{stream}{filter}")
        }
    });
    prop_oneof![
        20 => declared,
        1 => prop::sample::select(vec!["S/>", "*/>", "S/*.c", "KV_b", "1", "S/kept.>", "_/kept.S.>"])
            .prop_map(str::to_owned),
    ]
}

/// Sometimes a declared object store.
fn store() -> impl Strategy<Value = Option<(&'static str, String)>> {
    let verb = prop::sample::select(vec!["owns", "reads"]);
    prop::option::weighted(
        0.4,
        (verb, prop_oneof![9 => "a|KV_b", 1 => "[b*>.$/]{1,2}".prop_map(String::from)]),
    )
}

fn hostile_policy() -> impl Strategy<Value = String> {
    let verb =
        prop::sample::select(vec!["owns", "reads", "publishes", "subscribes", "answers", "calls"]);
    let rules =
        proptest::collection::btree_map(verb, proptest::collection::vec(entry(), 1..3), 0..4);
    let replayed = proptest::collection::vec(replayed(), 0..3);
    let consumed = proptest::collection::vec(consumed(), 0..2);
    let rules = (rules, consumed, replayed, store(), found()).prop_map(
        |(mut rules, consumed, replayed, store, found)| {
            rules.insert("consumes", consumed);
            rules.insert("replays", replayed);
            for (key, name) in found {
                rules.entry(key).or_default().push(name);
            }
            if let Some((verb, store)) = store {
                let list: &mut Vec<String> = rules.entry(verb).or_default();
                list.push(format!("store:{store}"));
            }
            rules
        },
    );
    let services = proptest::collection::vec(rules, 1..4);
    (services, any::<bool>(), any::<bool>()).prop_map(|(services, filtered, pushed)| {
        let mut text = String::from("[bucket.a]\n");
        text.push_str("[store.a]\n[store.KV_b]\n");
        for (stream, consumers) in CONSUMERS {
            text.push_str(&format!("[stream.{stream}]\nsubjects = [\"kept.{stream}.>\"]\n"));
            for consumer in consumers {
                text.push_str(&format!("[stream.{stream}.consumer.{consumer}]\n"));
                // Of two, a service makes the second.
                if consumer == consumers[0] {
                    text.push_str(&format!("shared = \"test\"\npush = {pushed}\n"));
                } else {
                    text.push_str("made_by = \"service\"\n");
                    if filtered {
                        text.push_str(&format!("filter = [\"kept.{stream}.x.>\"]\n"));
                    }
                }
            }
        }
        text.push_str("[stream.BARE]\nsubjects = [\"kept.BARE.>\"]\n");
        for bucket in ["b", "c"] {
            text.push_str(&format!(
                "[bucket.{bucket}]\npart_owners = true\nrollup = false\nduplicate_window = \"100ms\"\n"
            ));
        }
        for (i, rules) in services.into_iter().enumerate() {
            text.push_str(&format!("[service.s{i}]\n"));
            for (verb, entries) in rules {
                text.push_str(&format!("{verb} = {entries:?}\n"));
            }
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4000, failure_persistence: None, ..ProptestConfig::default()
    })]

    /// The gate in `permissions` and validation agree, and neither lets anything through.
    #[test]
    fn whatever_validates_grants_nothing_that_is_never_granted(text in hostile_policy()) {
        let Some(policy) = policy(&text) else { return Ok(()) };
        for service in policy.services() {
            let grant = Grant::of(service, &defaults());
            prop_assert!(grant.is_ok(), "{:?}\n{}", grant.err(), text);
            let grant = grant.unwrap();
            for side in [Side::Publish, Side::Subscribe] {
                for permission in grant.permissions(side) {
                    let subject = &permission.subject;
                    let of_store = READING_STORES.contains(&subject.as_str())
                        && service.rules.iter().any(|rule| {
                            matches!(rule.access, Access::OwnsStore(_) | Access::ReadsStore(_))
                        });
                    let old_create = service.rules.iter().any(|rule| match &rule.access {
                        Access::Consumes(consumed) if consumed.way == Way::Makes(None) => {
                            let name = &consumed.name;
                            let (stream, consumer) = (name.stream(), name.consumer());
                            durable_create(stream.as_str(), consumer.as_str()) == subject.as_str()
                        }
                        _ => false,
                    });
                    let of_store = of_store || old_create;
                    let never = never_granted(side, subject);
                    prop_assert!(of_store || never.is_none(), "{never:?} {subject}\n{text}");
                    prop_assert!(!subject.starts_with_wildcard(), "{}\n{}", subject, &text);
                    if side == Side::Subscribe && subject.first_token() == "_INBOX" {
                        let own = format!("_INBOX.{}.>", service.name);
                        let listens = service.rules.iter().any(|rule| match &rule.access {
                            Access::Consumes(consumed) if consumed.way == Way::Listens => {
                                let name = &consumed.name;
                                let (stream, consumer) = (name.stream(), name.consumer());
                                subject.as_str() == format!("_INBOX.$push.{stream}.{consumer}.*")
                            }
                            _ => false,
                        });
                        prop_assert!(subject.as_str() == own || listens, "{subject}\n{text}");
                    }
                }
            }
        }
    }

    /// Who hears what a service of a name is asked is found as it, alone; who asks discovers it.
    #[test]
    fn nobody_hears_or_asks_a_service_without_a_rule(text in hostile_policy()) {
        let Some(policy) = policy(&text) else { return Ok(()) };
        for name in ["n", "m", "PING", "INFO", "nobody"] {
            let name = FoundName::parse(name).unwrap();
            let questions: Vec<Pattern> = ["PING", "INFO", "STATS", "SCHEMA"]
                .iter()
                .flat_map(|verb| [format!("$SRV.{verb}.{name}"), format!("$SRV.{verb}.{name}.id")])
                .map(|subject| Pattern::parse(&subject).unwrap())
                .collect();
            let mut holder = None;
            for service in policy.services() {
                let grant = Grant::of(service, &defaults()).unwrap();
                let has = |wanted: &[Access]| {
                    service.rules.iter().any(|rule| wanted.contains(&rule.access))
                };
                let reaches = |side| questions.iter().any(|question| {
                    grant.permissions(side).iter().any(|p| p.subject.overlaps(question))
                });
                let found = has(&[Access::FoundAs(name.clone())]);
                let discovers = has(&[Access::Discovers(name.clone()), Access::DiscoversAll]);
                prop_assert_eq!(reaches(Side::Subscribe), found, "{} {}\n{}", service.name, name, text);
                prop_assert_eq!(reaches(Side::Publish), discovers, "{} {}\n{}", service.name, name, text);
                if found {
                    prop_assert_eq!(holder.replace(&service.name), None, "{}\n{}", name, text);
                }
            }
        }
    }

    /// A key that one service may write, no other may; and whoever may write it owns it.
    #[test]
    fn no_key_has_two_writers(text in hostile_policy()) {
        let Some(policy) = policy(&text) else { return Ok(()) };
        let mut written: Vec<(&str, Pattern)> = Vec::new();
        for service in policy.services() {
            let grant = Grant::of(service, &defaults()).unwrap();
            let own: Vec<Pattern> = service.rules.iter().flat_map(|rule| match &rule.access {
                Access::Owns(keyspace) => vec![keyspace.subjects()],
                Access::OwnsStore(store) => {
                    writing_store(store.as_str()).map(|(_, subject)| subject).to_vec()
                }
                _ => Vec::new(),
            }).map(|subject| Pattern::parse(&subject).unwrap()).collect();
            for permission in grant.permissions(Side::Publish) {
                let subject = &permission.subject;
                let store = subject.as_str().starts_with("$O.")
                    || subject.as_str().starts_with("$JS.API.STREAM.PURGE.OBJ_");
                if subject.first_token() != "$KV" && !store {
                    continue;
                }
                prop_assert!(own.contains(subject), "{} writes {subject}\n{text}", service.name);
                let other = written.iter().find(|(name, theirs)| {
                    *name != &*service.name && theirs.overlaps(subject)
                });
                prop_assert!(other.is_none(), "{} and {other:?}: {subject}\n{text}", service.name);
                written.push((&service.name, subject.clone()));
            }
        }
    }
}

/// Entries of which many cover others, overlap them, or stand beside them.
fn crowded_policy() -> impl Strategy<Value = String> {
    let entry = || "s\\.(a|b|\\*)(\\.(a|b|\\*)){0,2}(\\.>)?|s\\.>";
    let list = || proptest::collection::vec(entry(), 0..8);
    (list(), list(), list(), any::<bool>()).prop_map(|(publishes, calls, subscribes, replays)| {
        let replays = if replays { "replays = [\"NEWS\"]\n" } else { "" };
        format!(
            "[stream.NEWS]\nsubjects = [\"news.>\"]\n[stream.NEWS.consumer.a]\n\
             [stream.NEWS.consumer.b]\n[service.s]\npublishes = {publishes:?}\ncalls = \
             {calls:?}\nsubscribes = {subscribes:?}\n{replays}"
        )
    })
}

/// Subjects within a pattern and near its edges, with wildcards as a client may send them, too.
fn near(pattern: &Pattern) -> Vec<String> {
    let text = pattern.as_str();
    let shorter = text.rsplit_once('.').map(|(before, _)| before.to_owned());
    let mut near: Vec<String> = ["a", "x", "*"]
        .into_iter()
        .flat_map(|token| {
            let filled = text.replace('*', token);
            ["a", "x.y", "*", "a.>"].map(|rest| match filled.strip_suffix('>') {
                Some(before) => format!("{before}{rest}"),
                None => filled.clone(),
            })
        })
        .flat_map(|subject| [format!("{subject}.a"), format!("{subject}.>"), subject])
        .collect();
    near.extend(shorter);
    near.push(text.to_owned());
    near.sort();
    near.dedup();
    near
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200, failure_persistence: None, ..ProptestConfig::default()
    })]

    /// What is sent leaves out what another entry covers. Of every subject the server then says what
    /// it would say with all entries, and `explain` still names each rule that gives it.
    #[test]
    fn what_is_left_out_changes_nobodys_rights(
        text in prop_oneof![crowded_policy(), hostile_policy()]
    ) {
        let Some(policy) = policy(&text) else { return Ok(()) };
        for service in policy.services() {
            let grant = Grant::of(service, &defaults()).unwrap();
            let (publish, subscribe) = signed(&grant);
            for (side, sent) in [(Side::Publish, publish), (Side::Subscribe, subscribe)] {
                let parse = |entry: &String| Pattern::parse(entry).unwrap();
                let allow: Vec<Pattern> = sent.allow.iter().map(parse).collect();
                let deny: Vec<Pattern> = sent.deny.iter().map(parse).collect();
                let all = grant.permissions(side);
                for asked in all.iter().flat_map(|p| near(&p.subject)) {
                    let denied = deny.iter().any(|entry| entry.matches_wire(&asked));
                    // Without an allow list, the server takes whatever is not denied.
                    let takes = !denied
                        && (allow.is_empty() || allow.iter().any(|e| e.matches_wire(&asked)));
                    let given = !denied && all.iter().any(|p| p.subject.matches_wire(&asked));
                    prop_assert_eq!(takes, given, "{:?} {}: {}\n{}", side, service.name, asked, text);
                    let Ok(pattern) = Pattern::parse(&asked) else { continue };
                    if !takes || !pattern.is_literal() {
                        continue;
                    }
                    let mut rules: Vec<usize> = all
                        .iter()
                        .filter(|p| pattern.is_subset_of(&p.subject))
                        .map(|p| p.rule)
                        .collect();
                    rules.sort_unstable();
                    rules.dedup();
                    let question = match side {
                        Side::Publish => Question::Publish(pattern),
                        Side::Subscribe => Question::Subscribe(pattern),
                    };
                    prop_assert_eq!(may(&grant, &question).rules(), rules, "{}\n{}", asked, text);
                }
            }
        }
    }
}

/// What the rules of some fixtures come to, how much of it is sent, and the bytes of it. A connection
/// costs nats-server so much the more, the more is sent (`docs/performance.md`). More than these is
/// a regression; fewer: lower them.
///
/// The last figure is what could go besides: a denied subject within another, and two that one with
/// `>` could stand for. It is so little that it is not done (`docs/decisions.md`).
#[test]
fn what_is_sent_grows_by_nothing() {
    let (mut rules, mut all_sent, mut all_spare) = (0, 0, 0);
    for (fixture, expected) in [
        ("a-publish-that-is-partly-kept", [8, 3, 175, 0]),
        ("consumers-that-services-make", [26, 19, 892, 0]),
        ("copies-of-buckets", [34, 26, 1_107, 0]),
        ("entries-that-add-nothing", [76, 31, 1_123, 0]),
        ("owners-side-by-side", [62, 39, 1_497, 0]),
        ("push-consumers-and-priorities", [26, 24, 846, 0]),
        ("replays", [132, 69, 2_380, 3]),
        ("services-that-are-found", [52, 53, 1_541, 0]),
    ] {
        let folder = std::path::Path::new("tests/fixtures").join(fixture).join("policy");
        let files = Directory::new(folder).read().unwrap();
        let policy = validate(&files).unwrap().policy;
        let mut found = [0; 4];
        for service in policy.services() {
            let grant = Grant::of(service, &defaults()).unwrap();
            let (publish, subscribe) = signed(&grant);
            let permissions = [Side::Publish, Side::Subscribe].map(|side| grant.permissions(side));
            found[0] += permissions.iter().map(|side| side.len()).sum::<usize>();
            found[1] += grant.subjects();
            found[2] += grant.written().unwrap().claims().get().len();
            found[3] += [publish, subscribe].into_iter().map(spare).sum::<usize>();
            for list in [&publish.allow, &subscribe.allow] {
                // In one order, whatever that of the rules is: a grant keeps its digest.
                assert!(list.is_sorted(), "{fixture}: {list:?}");
            }
        }
        println!("(\"{fixture}\", {found:?}),");
        let most = found.iter().zip(expected).all(|(found, expected)| *found <= expected);
        assert!(most, "{fixture}: {found:?}, not {expected:?}");
        rules += found[0];
        all_sent += found[1];
        all_spare += found[3];
    }
    println!("{rules} of the rules, {all_sent} sent, {all_spare} to spare");
    assert!(all_sent < rules && all_spare * 50 < all_sent, "{rules} {all_sent} {all_spare}");
}

/// How many more entries could go, and nobody's rights would differ.
fn spare(list: &NatsPermissions) -> usize {
    let deny: Vec<Pattern> = list.deny.iter().map(|s| Pattern::parse(s).unwrap()).collect();
    let within = |one: &&Pattern| deny.iter().any(|other| other != *one && one.is_subset_of(other));
    let one_for_two = |entry: &&String| {
        let shorter = entry.strip_suffix(".>").filter(|shorter| shorter.ends_with(".*"));
        shorter.is_some_and(|shorter| list.allow.iter().any(|other| other == shorter))
    };
    deny.iter().filter(within).count() + list.allow.iter().filter(one_for_two).count()
}

/// Whether nats-server lets a client publish to that literal subject.
fn takes(grant: &Grant, subject: &str) -> bool {
    let (publish, _) = signed(grant);
    let any = |list: &[String]| {
        list.iter().any(|entry| Pattern::parse(entry).unwrap().matches_wire(subject))
    };
    any(&publish.allow) && !any(&publish.deny)
}

/// Every request and answer by which a client reaches that consumer of that stream, beside a
/// request without a name in its subject.
fn ways_to(stream: &str, consumer: &str) -> Vec<String> {
    let requests = ["INFO", "DELETE", "PAUSE", "RESET", "UNPIN", "CREATE", "MSG.NEXT"];
    let more = ["LEADER.STEPDOWN", "DURABLE.CREATE", "ANYTHING", "ANY.THING"];
    let named = requests
        .into_iter()
        .chain(more)
        .map(|request| format!("$JS.API.CONSUMER.{request}.{stream}.{consumer}"));
    let filters = ["c", "x.y", "*", ">", "kept.>", "kept.S.>", "kept.S.c", "kept.S.x.d"];
    let filters = filters.iter().map(|filter| filter.replace(".S", &format!(".{stream}")));
    let created =
        filters.map(|filter| format!("$JS.API.CONSUMER.CREATE.{stream}.{consumer}.{filter}"));
    // Acknowledgements and flow control in both forms.
    let answers = ["", "_.Vb6IuEH0.", "hub.Vb6IuEH0."].into_iter().flat_map(|before| {
        [
            format!("$JS.ACK.{before}{stream}.{consumer}.1.5.1.1790000000000000000.0"),
            format!("$JS.FC.{before}{stream}.{consumer}.Ab3d"),
        ]
    });
    named.chain(created).chain(answers).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000, failure_persistence: None, ..ProptestConfig::default()
    })]

    /// What is allowed and not denied reaches no durable consumer but the service's own, and of
    /// that only what `consumes` grants; and nothing of a stream that it does not replay.
    #[test]
    fn who_replays_reaches_no_durable_consumer(text in hostile_policy()) {
        let Some(policy) = policy(&text) else { return Ok(()) };
        for service in policy.services() {
            let grant = Grant::of(service, &defaults()).unwrap();
            for (stream, consumers) in CONSUMERS {
                let bare = format!("$JS.API.CONSUMER.CREATE.{stream}");
                prop_assert!(!takes(&grant, &bare), "{} {bare}\n{text}", service.name);
                for consumer in consumers {
                    let name = ConsumerName::parse(&format!("{stream}/{consumer}")).unwrap();
                    let own = service.rules.iter().find_map(|r| match &r.access {
                        Access::Consumes(consumed) if consumed.name == name => Some(&consumed.way),
                        _ => None,
                    });
                    let makes = matches!(own, Some(Way::Makes(_)));
                    let made = format!(".{stream}.{consumer}");
                    let made = |way: &str| {
                        let rest = way.strip_prefix("$JS.API.CONSUMER.");
                        let rest = rest.map(|rest| rest.strip_prefix("DURABLE.").unwrap_or(rest));
                        rest.and_then(|rest| rest.strip_prefix("CREATE"))
                            .is_some_and(|rest| rest.starts_with(&made))
                    };
                    let listens = own == Some(&Way::Listens);
                    let own = own.is_some();
                    let patterns = |needed: Vec<Needed>| -> Vec<Pattern> {
                        needed.iter().map(|(_, s)| Pattern::parse(s).unwrap()).collect()
                    };
                    let pulls = patterns(consuming(stream, consumer).to_vec());
                    let used = if listens {
                        patterns(taking(stream, consumer).to_vec())
                    } else {
                        pulls.clone()
                    };
                    for way in ways_to(stream, consumer) {
                        let using = used.iter().any(|used| used.matches_wire(&way));
                        let flow = way.starts_with("$JS.FC.");
                        let taken = takes(&grant, &way);
                        // Who replays the stream, too, may ask a push consumer in vain.
                        let in_vain = listens && pulls.iter().any(|p| p.matches_wire(&way));
                        let own_ways = using || in_vain || flow || makes && made(&way);
                        prop_assert!(!taken || own && own_ways, "{} {way}\n{text}", service.name);
                        prop_assert!(taken || !own || !using, "{} lacks {way}\n{text}", service.name);
                    }
                }
            }
            // The same of a consumer that a client made itself, for who replays.
            for stream in CONSUMERS.iter().map(|(stream, _)| *stream).chain(["BARE"]) {
                let replays = service.rules.iter().any(|rule| {
                    matches!(&rule.access, Access::Replays(r) if r.stream().as_str() == stream)
                });
                let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.mine");
                prop_assert_eq!(takes(&grant, &next), replays, "{} {}\n{}", service.name, next, text);
            }
        }
    }
}

#[test]
fn who_replays_a_part_makes_consumers_of_that_part() {
    let text = "[stream.EVENTS]\nsubjects = [\"events.>\"]\n[stream.EVENTS.consumer.shipping]\n\
                [service.s]\nreplays = [\"EVENTS/events.orders.>\"]\n";
    let lists = |text: &str| {
        let policy = policy(text).expect(text);
        let grant = Grant::of(policy.service("s").unwrap(), &defaults()).unwrap();
        let claims = serde_json::to_value(grant.claims()).unwrap();
        serde_json::json!({"pub": claims["pub"], "sub": claims["sub"]})
    };
    let part = [
        "$JS.ACK.*.*.EVENTS.*.>",
        "$JS.ACK.EVENTS.*.*.*.*.*.*",
        "$JS.API.CONSUMER.CREATE.EVENTS.*.events.orders.>",
        "$JS.API.CONSUMER.DELETE.EVENTS.*",
        "$JS.API.CONSUMER.INFO.EVENTS.*",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.*",
        "$JS.API.DIRECT.GET.EVENTS.events.orders.>",
        "$JS.API.STREAM.INFO.EVENTS",
        "$JS.FC.*.*.EVENTS.>",
        "$JS.FC.EVENTS.*.*",
    ];
    let denied = [
        "$JS.ACK.*.*.EVENTS.shipping.>",
        "$JS.ACK.EVENTS.shipping.>",
        "$JS.API.CONSUMER.*.EVENTS.shipping",
        "$JS.API.CONSUMER.CREATE.EVENTS.shipping.>",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.shipping",
        "$JS.FC.*.*.EVENTS.shipping.>",
        "$JS.FC.EVENTS.shipping.>",
    ];
    let expected = serde_json::json!({
        "pub": {"allow": part, "deny": denied},
        "sub": {"allow": ["_INBOX.s.>"]},
    });
    assert_eq!(lists(text), expected);
    // Who uses the consumer too may do what `consumes` says, and not make or delete it.
    let own = lists(&format!("{text}consumes = [\"EVENTS/shipping\"]\n"));
    let denied = [
        "$JS.API.CONSUMER.CREATE.EVENTS.shipping",
        "$JS.API.CONSUMER.CREATE.EVENTS.shipping.>",
        "$JS.API.CONSUMER.DELETE.EVENTS.shipping",
    ];
    assert_eq!(own["pub"]["deny"], serde_json::json!(denied));
    // The whole stream: the body may choose subjects, and a consumer only where there is none.
    let whole = text.replace("EVENTS/events.orders.>", "EVENTS");
    let more = [
        "$JS.API.CONSUMER.CREATE.EVENTS.*",
        "$JS.API.CONSUMER.CREATE.EVENTS.*.>",
        "$JS.API.DIRECT.GET.EVENTS",
        "$JS.API.DIRECT.GET.EVENTS.>",
        "$JS.API.STREAM.MSG.GET.EVENTS",
    ];
    let all = lists(&whole)["pub"].clone();
    let allowed: Vec<&str> =
        all["allow"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    let new: Vec<&str> = allowed.iter().copied().filter(|s| !part.contains(s)).collect();
    assert_eq!(new, more);
    assert_eq!(all["deny"], expected["pub"]["deny"]);
    let alone = lists(&whole.replace("[stream.EVENTS.consumer.shipping]\n", ""))["pub"].clone();
    assert!(alone["allow"].as_array().unwrap().contains(&"$JS.API.CONSUMER.CREATE.EVENTS".into()));
    assert_eq!(alone["deny"], serde_json::Value::Null);
}

/// What a service holds of a stream is one thing, and what it is denied another.
#[test]
fn what_is_denied_is_not_held() {
    let text = "[stream.EVENTS]\nsubjects = [\"events.>\"]\n[stream.EVENTS.consumer.shipping]\n\
                [service.s]\nreplays = [\"EVENTS\"]\n";
    let policy = policy(text).unwrap();
    let grant = Grant::of(policy.service("s").unwrap(), &defaults()).unwrap();
    let held = Held::of(&grant);
    for (subject, reach, accepted) in [
        ("$JS.API.CONSUMER.CREATE.EVENTS.mine.events.>", Reach::All, true),
        ("$JS.API.CONSUMER.CREATE.EVENTS.shipping.events.>", Reach::None, false),
        ("$JS.API.CONSUMER.CREATE.EVENTS.shipping", Reach::None, false),
        // As text it is no consumer's name.
        ("$JS.API.CONSUMER.CREATE.EVENTS.*.events.>", Reach::Part, true),
        ("$JS.API.CONSUMER.INFO.EVENTS.shipping", Reach::None, false),
        ("$JS.ACK.EVENTS.shipping.1.2.3.4.5", Reach::None, false),
        ("$JS.ACK.EVENTS.*.1.2.3.4.5", Reach::Part, true),
        ("$JS.ACK.EVENTS.mine.1.2.3.4.5", Reach::All, true),
        ("$JS.ACK.EVENTS.mine.1.2.3.4", Reach::None, false),
        ("$JS.ACK.EVENTS.Vb6IuEH0.OTHER.c.1.2.3.4.5", Reach::None, false),
    ] {
        let pattern = Pattern::parse(subject).unwrap();
        assert_eq!(held.covered(Side::Publish, &pattern), reach, "{subject}");
        let answer = may(&grant, &Question::Publish(pattern));
        assert_eq!((answer.reach, answer.accepted), (reach, accepted), "{subject}");
    }
}

#[test]
fn who_reads_a_store_gets_no_way_to_write_it() {
    let lists = |rules: &str| {
        let text = format!("[store.b]\n[service.s]\n{rules}\n");
        let policy = policy(&text).expect(&text);
        let grant = Grant::of(policy.service("s").unwrap(), &defaults()).unwrap();
        serde_json::to_value(grant.claims()).unwrap()["pub"]["allow"].clone()
    };
    let read = [
        "$JS.API.CONSUMER.CREATE.OBJ_b",
        "$JS.API.CONSUMER.CREATE.OBJ_b.*.$O.b.>",
        "$JS.API.CONSUMER.DELETE.OBJ_b.*",
        "$JS.API.CONSUMER.INFO.OBJ_b.*",
        "$JS.API.DIRECT.GET.OBJ_b",
        "$JS.API.DIRECT.GET.OBJ_b.$O.b.M.*",
        "$JS.API.INFO",
        "$JS.API.STREAM.INFO.OBJ_b",
        "$JS.API.STREAM.MSG.GET.OBJ_b",
        "$JS.API.STREAM.NAMES",
        "$JS.FC.*.*.OBJ_b.>",
        "$JS.FC.OBJ_b.>",
    ];
    assert_eq!(lists("reads = [\"store:b\"]"), serde_json::json!(read));
    let mut all = read.to_vec();
    all.extend(["$JS.API.STREAM.PURGE.OBJ_b", "$O.b.C.*", "$O.b.M.*"]);
    all.sort_unstable();
    assert_eq!(lists("owns = [\"store:b\"]"), serde_json::json!(all));
}

#[test]
fn who_consumes_asks_that_consumer_and_acknowledges_for_it() {
    let text = "[stream.EVENTS]\nsubjects = [\"events.>\"]\n[stream.EVENTS.consumer.shipping]\n\
                [service.s]\nconsumes = [\"EVENTS/shipping\"]\n";
    let policy = policy(text).expect(text);
    let grant = Grant::of(policy.service("s").unwrap(), &defaults()).unwrap();
    let claims = serde_json::to_value(grant.claims()).unwrap();
    assert_eq!(
        serde_json::json!({"pub": claims["pub"], "sub": claims["sub"]}),
        serde_json::json!({
            "pub": {"allow": [
                "$JS.ACK.*.*.EVENTS.shipping.>",
                "$JS.ACK.EVENTS.shipping.>",
                "$JS.API.CONSUMER.INFO.EVENTS.shipping",
                "$JS.API.CONSUMER.MSG.NEXT.EVENTS.shipping",
            ]},
            "sub": {"allow": ["_INBOX.s.>"]},
        })
    );
}

#[test]
fn who_is_found_hears_its_own_name_and_everybodys() {
    assert_eq!(
        lists("found_as = [\"quotes\"]"),
        serde_json::json!({
            "pub": {"allow": ["_INBOX.>"]},
            "sub": {
                "allow": [
                    "$SRV.INFO",
                    "$SRV.INFO.quotes",
                    "$SRV.INFO.quotes.*",
                    "$SRV.PING",
                    "$SRV.PING.quotes",
                    "$SRV.PING.quotes.*",
                    "$SRV.SCHEMA",
                    "$SRV.SCHEMA.quotes",
                    "$SRV.SCHEMA.quotes.*",
                    "$SRV.STATS",
                    "$SRV.STATS.quotes",
                    "$SRV.STATS.quotes.*",
                ],
                "deny": [
                    "$SRV.INFO.quotes.*.>",
                    "$SRV.PING.quotes.*.>",
                    "$SRV.SCHEMA.quotes.*.>",
                    "$SRV.STATS.quotes.*.>",
                ],
            },
        })
    );
}

#[test]
fn who_discovers_one_name_asks_for_it_alone() {
    let asked = |discovers: &str| {
        let text = format!(
            "[service.q]\nfound_as = [\"quotes\"]\n[service.s]\ndiscovers = [\"{discovers}\"]\n"
        );
        let policy = policy(&text).expect(&text);
        let grant = Grant::of(policy.service("s").unwrap(), &defaults()).unwrap();
        let claims = serde_json::to_value(grant.claims()).unwrap();
        assert_eq!(claims["sub"]["allow"], serde_json::json!(["_INBOX.s.>"]));
        claims["pub"]["allow"].clone()
    };
    let all = |forms: &[&str]| {
        let verbs = ["INFO", "PING", "SCHEMA", "STATS"].into_iter();
        verbs
            .flat_map(|verb| forms.iter().map(move |form| format!("$SRV.{verb}{form}")))
            .collect::<Vec<_>>()
    };
    assert_eq!(asked("quotes"), serde_json::json!(all(&[".quotes", ".quotes.*"])));
    assert_eq!(asked("*"), serde_json::json!(all(&["", ".*", ".*.*"])));
}

/// Of two consumers, neither form of one's acknowledgements is one of the other's.
#[test]
fn no_acknowledgement_is_another_consumers() {
    let of = |name: &str| {
        let name = ConsumerName::parse(name).unwrap();
        consuming(name.stream().as_str(), name.consumer().as_str()).map(|(_, subject)| subject)
    };
    // As nats-server writes them: older and newer form.
    let acks = |name: &str| {
        let name = name.replace('/', ".");
        ["", "_.Vb6IuEH0.", "hub.Vb6IuEH0."].map(|before| {
            let subject = format!("$JS.ACK.{before}{name}.1.5.1.1790000000000000000.0");
            Pattern::parse(&subject).unwrap()
        })
    };
    let names = ["S/c", "S/d", "T/c", "c/S", "ACK/API", "API/c", "a1/5b", "hub/c", "S/S"];
    // Who replays a stream acknowledges for its consumers, and in a domain of that name for no
    // other's.
    for (stream, theirs) in
        [("S", "S/c"), ("S", "T/c"), ("hub", "S/c"), ("hub", "hub/c"), ("c", "S/c")]
    {
        for ack in acks(theirs) {
            let reached = replaying(stream, None, true)
                .iter()
                .any(|(_, granted)| ack.is_subset_of(&Pattern::parse(granted).unwrap()));
            assert_eq!(reached, theirs.starts_with(&format!("{stream}/")), "{stream} {ack}");
        }
    }
    for mine in names {
        for theirs in names {
            for ack in acks(theirs) {
                let reached = of(mine)
                    .iter()
                    .any(|granted| ack.is_subset_of(&Pattern::parse(granted).unwrap()));
                assert_eq!(reached, mine == theirs, "{mine} {ack}");
            }
        }
    }
    for name in
        ["1/5", "S/5", "5/S", "_/c", "S/_", "S/*", "*/c", "S/>", "KV_b/c", "S", "S/c/d", "/c", "S/"]
    {
        assert!(ConsumerName::parse(name).is_err(), "{name}");
    }
    for never in [
        "$JS.ACK.>",
        "$JS.ACK.S.>",
        "$JS.ACK.S.*.>",
        "$JS.ACK.*.c.>",
        "$JS.ACK.*.*.*.c.>",
        "$JS.ACK.*.*.S.>",
        "$JS.ACK.*.*.1.5.>",
        "$JS.ACK.S.c",
        "$JS.ACK.S.c.*",
        "$JS.ACK._.*.S.c.>",
        "$JS.*.ACK.S.c.>",
        "$JS.hub.ACK.S.c.>",
        "$JS.ACK.KV_b.c.>",
    ] {
        let pattern = Pattern::parse(never).unwrap();
        assert!(never_granted(Side::Publish, &pattern).is_some(), "{never}");
    }
}

#[test]
fn a_digest_names_account_and_permissions_and_nothing_else() {
    let digest = |text: &str| {
        let policy = policy(text).expect(text);
        let grant = Grant::of(policy.service("s").unwrap(), &defaults()).unwrap();
        grant.digest().to_string()
    };
    let base = "[bucket.b]\n[bucket.c]\n[service.s]\nowns = [\"b\"]\nreads = [\"c\"]\n";
    let first = digest(base);
    assert_eq!(first.len(), 64, "the whole of a SHA-256");
    // Written otherwise, with another revision, lifetime or reason, it is the same grant.
    for same in [
        "# another revision\n[service.s]\nlifetime = \"5m\"\nowns = [\"b\"]\nreads = [\"c\"]\n[bucket.b]\n[bucket.c]\n",
        "[role.r]\nreads = [\"c\"]\n[bucket.b]\n[bucket.c]\n[service.s]\nroles = [\"r\"]\nowns = [\"b\"]\n",
    ] {
        assert_eq!(digest(same), first, "{same}");
    }
    for (from, to) in [
        ("reads = [\"c\"]", "reads = [\"c/x\"]"),
        ("reads = [\"c\"]", ""),
        ("owns = [\"b\"]", "owns = [\"b\"]\naccount = \"OTHER\""),
        ("owns = [\"b\"]", "owns = [\"b\"]\nsubscribes = [\"a.b\"]"),
    ] {
        assert_ne!(digest(&base.replace(from, to)), first, "{to}");
    }
}

#[test]
fn who_audits_reads_that_stream_and_nothing_more() {
    let lists = lists("audits = [\"AUDIT_EVENTS\"]");
    let publish: Vec<&str> =
        lists["pub"]["allow"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    assert_eq!(
        publish,
        [
            "$JS.AUDIT.API.CONSUMER.CREATE.AUDIT_EVENTS",
            "$JS.AUDIT.API.CONSUMER.CREATE.AUDIT_EVENTS.*",
            "$JS.AUDIT.API.CONSUMER.CREATE.AUDIT_EVENTS.*.audit.events.>",
            "$JS.AUDIT.API.CONSUMER.DELETE.AUDIT_EVENTS.*",
            "$JS.AUDIT.API.CONSUMER.INFO.AUDIT_EVENTS.*",
            "$JS.AUDIT.API.CONSUMER.MSG.NEXT.AUDIT_EVENTS.*",
            "$JS.AUDIT.API.DIRECT.GET.AUDIT_EVENTS",
            "$JS.AUDIT.API.DIRECT.GET.AUDIT_EVENTS.audit.events.>",
            "$JS.AUDIT.API.STREAM.INFO.AUDIT_EVENTS",
            "$JS.AUDIT.API.STREAM.MSG.GET.AUDIT_EVENTS",
            "$JS.FC.*.*.AUDIT_EVENTS.>",
            "$JS.FC.AUDIT_EVENTS.>",
        ]
    );
    assert_eq!(lists["sub"]["allow"], serde_json::json!(["_INBOX.s.>"]));
}

#[test]
fn services_events_are_read_from_their_own_stream() {
    let lists = lists("audits = [\"AUDIT_SERVICES\"]");
    let publish = lists["pub"]["allow"].as_array().unwrap();
    for subject in [
        "$JS.AUDIT.API.CONSUMER.CREATE.AUDIT_SERVICES.*.audit.services.>",
        "$JS.AUDIT.API.DIRECT.GET.AUDIT_SERVICES.audit.services.>",
        "$JS.FC.AUDIT_SERVICES.>",
    ] {
        assert!(publish.iter().any(|s| s == subject), "{subject}: {publish:?}");
    }
}

/// Whatever else is a stream is none that `audits` grants reading of.
#[test]
fn only_the_streams_of_the_settings_are_audited() {
    let file = [SourceFile::new("p.toml", "[service.s]\naudits = [\"EVENTS\"]\n")];
    let problems = validate(&file).unwrap_err().render(Style::Plain);
    assert_eq!(
        problems,
        "warning[no-keys]: service `s` has no usable key\n \
         --> p.toml:1:10\n  |\n1 | [service.s]\n  |          ^ nobody can connect as it\n  |\n  \
         = help: add `nkeys = [\"U...\"]`\n\n\
         error[no-audit-stream]: `audits` may not hold `EVENTS`\n \
         --> p.toml:2:11\n  |\n2 | audits = [\"EVENTS\"]\n  |           ^^^^^^^^ this is no audit stream: reading it is not what `audits` grants\n  |\n  \
         = help: write \"AUDIT_EVENTS\" for what solewriter decided, \"AUDIT_SERVICES\" for what services report; if the audit streams have other names, the settings say so: [audit] stream and services\n\n"
    );
    let name = |text: &str| StreamName::parse(text).unwrap();
    let own =
        AuditStreams::new(Some(&name("EVENTS")), Some(&name("MORE")), Some("$JS.API")).unwrap();
    let policy = validate_for(&file, &own).unwrap().policy;
    let defaults = Defaults { audit: own, ..defaults() };
    let grant = Grant::of(policy.service("s").unwrap(), &defaults).unwrap();
    let wanted = "$JS.API.CONSUMER.CREATE.EVENTS";
    assert!(grant.permissions(Side::Publish).iter().any(|p| p.subject.as_str() == wanted));
    let old = [SourceFile::new("p.toml", "[service.s]\naudits = [\"AUDIT_EVENTS\"]\n")];
    assert!(validate_for(&old, &defaults.audit).is_err());
}
