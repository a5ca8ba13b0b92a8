//! A draft holds before the policy's own validation, and tells of all that it does not grant.

use proptest::prelude::*;

use super::*;
use crate::adoption::deed::{Act, Client, Deed};
use crate::adoption::evidence::fact::facts;
use crate::adoption::mapping::Mapping;
use solewriter_core::analysis::query::Reach;
use solewriter_core::grant::Side;
use solewriter_types::kv_operation::is_inbox;
use solewriter_types::server_log::line::Kind;
use solewriter_types::subject::Pattern;

/// One thing that a user did: `publish`, `subscribe` or `receive`, a subject, and a reply subject
/// or a queue group.
type Done = (Option<String>, &'static str, String, Option<String>);

fn client(user: Option<&String>) -> Client {
    Client {
        connection: user.map_or(0, |user| user.len() as u64 + 1),
        kind: Kind::Cid,
        address: "10.0.0.1".to_owned(),
        account: None,
        user: user.cloned(),
        nkey: None,
        name: None,
        lang: None,
    }
}

fn act((_, verb, subject, extra): &Done) -> Act<'_> {
    let extra = extra.as_deref();
    match *verb {
        "publish" => Act::Publish { subject, reply: extra },
        "subscribe" => Act::Subscribe { subject, queue: extra },
        _ => Act::Receive { subject, reply: extra },
    }
}

fn drafted(all: &[Done], existing: &Existing, level: Level) -> (Vec<(String, String)>, Report) {
    let mut evidence = Evidence::new(Mapping::default(), existing.durables());
    for done in all {
        evidence.take(&Deed { by: &client(done.0.as_ref()), at: None, act: act(done) });
    }
    evidence.settle();
    draft(&evidence, existing, level, None)
}

fn done(user: &str, verb: &'static str, subject: &str, extra: Option<&str>) -> Done {
    (Some(user.to_owned()), verb, subject.to_owned(), extra.map(ToOwned::to_owned))
}

fn policy(files: &[(String, String)]) -> Policy {
    let files: Vec<SourceFile> =
        files.iter().map(|(name, text)| SourceFile::new(&**name, text.clone())).collect();
    match validate(&files) {
        Ok(validated) => validated.policy,
        Err(problems) => panic!("{problems}"),
    }
}

/// The lines of the services' file that are no comments, without what is said beside them.
fn written(files: &[(String, String)]) -> String {
    let text = &files.iter().find(|(name, _)| name == SERVICES_FILE).unwrap().1;
    let lines = text.lines().map(|line| line.split(" # ").next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect::<Vec<_>>().join(" ")
}

const INBOX: Option<&str> = Some("_INBOX.x.1");

#[test]
fn one_writer_owns_and_two_are_asked_about() {
    let one = [
        done("a", "publish", "$KV.orders.1", INBOX),
        done("b", "publish", "$JS.API.CONSUMER.CREATE.KV_orders", INBOX),
    ];
    let (files, report) = drafted(&one, &Existing::default(), Level::Careful);
    policy(&files);
    let text = written(&files);
    assert!(text.contains("owns = [ \"orders\", ]"), "{text}");
    assert!(text.contains("reads = [ \"orders\", ]"), "{text}");
    assert!(report.questions.is_empty() && report.not_granted.is_empty(), "{}", report.text());

    let two = [
        done("a", "publish", "$KV.orders.a.1", INBOX),
        done("b", "publish", "$KV.orders.b.1", INBOX),
    ];
    let (files, report) = drafted(&two, &Existing::default(), Level::Careful);
    policy(&files);
    assert!(!written(&files).contains("owns"));
    let question = report.questions.first().unwrap();
    assert!(question.choices.iter().any(|c| c.contains("part_owners")), "{question:?}");
    assert_eq!(report.conflicts.first().unwrap().kind, "bucket-writers");
    assert_eq!(report.not_granted.len(), 2);
    assert!(report.not_granted.iter().all(|n| n.question == Some(1)));
}

#[test]
fn what_nobody_known_writes_nobody_owns() {
    let all = [
        done("a", "publish", "$KV.orders.1", INBOX),
        (None, "publish", "$KV.orders.2".to_owned(), None),
    ];
    let (files, report) = drafted(&all, &Existing::default(), Level::Careful);
    assert!(!written(&files).contains("owns"));
    assert!(report.conflicts.iter().any(|c| c.kind == "unknown-clients"), "{}", report.text());
    let nobody = [(None, "publish", "$KV.orders.2".to_owned(), None)];
    let (files, report) = drafted(&nobody, &Existing::default(), Level::Careful);
    assert!(files.is_empty());
    assert_eq!(report.not_granted.len(), 1);
}

#[test]
fn who_answers_is_told_from_who_listens() {
    let all = [
        done("q", "subscribe", "svc.price.*", Some("workers")),
        done("q", "subscribe", "events.>", None),
        done("q", "receive", "svc.price.eur", INBOX),
        done("q", "publish", "_INBOX.x.1", None),
        done("c", "publish", "svc.price.eur", INBOX),
    ];
    let (files, report) = drafted(&all, &Existing::default(), Level::Careful);
    policy(&files);
    let text = written(&files);
    for expected in [
        "answers = [ \"svc.price.*\", ]",
        "subscribes = [ \"events.>\", ]",
        "calls = [ \"svc.price.eur\", ]",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(report.not_granted.is_empty(), "{}", report.text());
}

#[test]
fn what_validation_refuses_becomes_a_comment() {
    let all = [
        done("a", "subscribe", "x.*", None),
        done("a", "subscribe", "x.y.z", None),
        done("a", "publish", "audit.events.other.1", None),
        done("a", "publish", "fine", None),
    ];
    let (files, report) = drafted(&all, &Existing::default(), Level::Careful);
    policy(&files);
    assert!(written(&files).contains("publishes = [ \"fine\", ]"), "{}", written(&files));
    let told: Vec<&str> = report.not_granted.iter().map(|n| n.doing.what.as_str()).collect();
    assert_eq!(told, ["publishes", "subscribes"], "{}", report.text());
    let services = &files.last().unwrap().1;
    assert!(services.contains("not written, because"), "{services}");
}

/// Whether a policy grants a deed, on the wire.
fn is_granted(policy: Option<&Policy>, service: &str, act: Act<'_>) -> bool {
    let grant = policy.and_then(|p| p.service(service)).and_then(granted::grant);
    let Some(grant) = &grant else { return false };
    let (side, subject) = match act {
        Act::Publish { subject, .. } => (Side::Publish, subject),
        Act::Subscribe { subject, .. } => (Side::Subscribe, subject),
        Act::Receive { .. } => return true,
    };
    let Ok(pattern) = Pattern::parse(subject) else { return false };
    Held::of(grant).covered(side, &pattern) == Reach::All
}

fn any_subject() -> impl Strategy<Value = String> {
    let bucket = "[ab]";
    let key = "[ab]\\.[1-4]|[a-c]|[1-4]";
    let plain = "(ev|svc)\\.[ab]\\.[1-5]|(ev|svc)\\.[ab]|audit\\.events\\.a|odd";
    let name = "[pq]|aB3dE9k[1-9]";
    prop_oneof![
        (bucket, key).prop_map(|(b, k)| format!("$KV.{b}.{k}")),
        (bucket, key).prop_map(|(b, k)| format!("$JS.API.DIRECT.GET.KV_{b}.$KV.{b}.{k}")),
        (bucket, name).prop_map(|(b, n)| format!("$JS.API.CONSUMER.CREATE.KV_{b}.{n}.$KV.{b}.>")),
        "\\$JS\\.API\\.(STREAM\\.(INFO|PURGE|CREATE)|CONSUMER\\.CREATE)\\.(KV_a|OBJ_s|E)",
        "\\$JS\\.API\\.(INFO|STREAM\\.NAMES|STREAM\\.LIST)",
        "\\$O\\.s\\.[CM]\\.[a-c]",
        (name, plain).prop_map(|(n, s)| format!("$JS.API.CONSUMER.CREATE.E.{n}.{s}")),
        name.prop_map(|n| format!("$JS.API.CONSUMER.MSG.NEXT.E.{n}")),
        name.prop_map(|n| format!("$JS.ACK.E.{n}.1.2.3.4.5")),
        "\\$SRV\\.(PING|INFO)(\\.[pq])?",
        "\\$JS\\.hub\\.API\\.STREAM\\.LIST|\\$SYS\\.REQ\\.x|_INBOX\\.z\\.[1-3]",
        plain,
        plain,
    ]
}

fn any_done() -> impl Strategy<Value = Done> {
    let user = prop::option::weighted(0.9, "[a-d]|u v");
    let publish = (any_subject(), prop::option::of("_INBOX\\.z\\.[1-3]|back"))
        .prop_map(|(subject, reply)| ("publish", subject, reply));
    let subject = "(ev|svc)\\.(\\*|>|[ab]\\.\\*|[ab])|>|\\*|\\$KV\\.a\\.>|_INBOX\\.(>|z\\.\\*)|\
                   \\$SRV\\.(PING|INFO|STATS)(\\.[pqP])?|\\$SRV\\.>";
    let subscribe = (subject, prop::option::of("[gh]"))
        .prop_map(|(subject, queue)| ("subscribe", subject, queue));
    let reply = "_INBOX\\.z\\.[1-3]|\\$JS\\.ACK\\.E\\.p\\.1\\.2\\.3\\.4\\.5";
    let receive = ("(ev|svc)\\.[ab](\\.[1-5])?", reply)
        .prop_map(|(subject, reply)| ("receive", subject, Some(reply)));
    (user, prop_oneof![4 => publish, 2 => subscribe, 1 => receive])
        .prop_map(|(user, (verb, subject, extra))| (user, verb, subject, extra))
}

fn any_existing() -> impl Strategy<Value = Existing> {
    use crate::buckets::{Consumer, Consumers, Stream};
    use serde_json::json;
    let stream = |config: serde_json::Value| Stream {
        config: config.as_object().unwrap().clone(),
        ..Stream::default()
    };
    let retention = prop_oneof!["limits", "interest", "workqueue"];
    let facts = (retention, any::<bool>(), any::<bool>(), any::<bool>());
    let some = facts.prop_map(move |(retention, capped, direct, wide)| {
        let subjects = if wide { json!(["ev.>"]) } else { json!(["ev.a.*", "ev.b"]) };
        let most = if capped { 1000 } else { -1 };
        let e = json!({"name": "E", "subjects": subjects, "retention": retention, "max_msgs": most,
            "storage": "file", "duplicate_window": 120_000_000_000_u64, "allow_direct": direct});
        let a = json!({"name": "KV_a", "subjects": ["$KV.a.>"], "max_msgs_per_subject": 5,
            "allow_direct": direct, "allow_rollup_hdrs": true, "num_replicas": 3});
        let p = json!({"durable_name": "p", "ack_policy": "explicit", "max_ack_pending": 7,
            "filter_subject": "ev.a.1", "deliver_subject": if wide { "x" } else { "" }});
        let consumer = Consumer {
            name: "p".to_owned(),
            config: p.as_object().unwrap().clone(),
            num_ack_pending: 0,
        };
        Existing {
            streams: Some(vec![stream(e), stream(a)]),
            consumers: vec![Consumers { stream: "E".to_owned(), consumers: vec![consumer] }],
        }
    });
    prop_oneof![Just(Existing::default()), some]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_draft_holds_and_hides_nothing(
        all in prop::collection::vec(any_done(), 1..60),
        existing in any_existing(),
        level in prop_oneof![Just(Level::None), Just(Level::Careful), Just(Level::Wide)],
    ) {
        let (files, report) = drafted(&all, &existing, level);
        let policy = (!files.is_empty()).then(|| policy(&files));
        let nobody_known = all.iter().all(|(user, ..)| user.is_none());
        prop_assert_eq!(files.is_empty(), nobody_known, "{}", report.text());
        for done in &all {
            let act = act(done);
            let service = done.0.as_deref().map_or(UNKNOWN, |u| if u == "u v" { "u-v" } else { u });
            if is_granted(policy.as_ref(), service, act) {
                continue;
            }
            let own = match act {
                Act::Publish { subject, .. } => is_inbox(subject),
                Act::Subscribe { subject, .. } => subject.starts_with("_INBOX.z."),
                Act::Receive { .. } => true,
            };
            let mut told = report.not_granted.iter().filter(|n| n.doing.service == service);
            let mut shown = facts(act, &existing.durables());
            shown.retain(|(fact, _)| *fact != Fact::OddReplies);
            let listed = shown
                .iter()
                .any(|(fact, _)| told.clone().any(|n| n.doing.what == fact.to_string()));
            // Into an inbox: an answer, or nobody asked.
            let into = told.any(|n| n.doing.what.contains("inboxes") || n.doing.what == "answers");
            prop_assert!(listed || own && (into || shown.is_empty()), "{done:?}: {}", report.text());
        }
        let asked: Vec<usize> = report.questions.iter().map(|q| q.number).collect();
        prop_assert_eq!(asked, (1..=report.questions.len()).collect::<Vec<_>>());
    }
}
