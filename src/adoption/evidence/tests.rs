//! What deeds show of a service.

use super::fact::Fact::*;
use super::*;
use crate::adoption::evidence::generalise::Level;
use solewriter_types::keyspace::BucketName;
use solewriter_types::server_log::line::Kind;

fn client(user: Option<&str>, connection: u64) -> Client {
    Client {
        connection,
        kind: Kind::Cid,
        address: "10.0.0.1".to_owned(),
        account: None,
        user: user.map(ToOwned::to_owned),
        nkey: None,
        name: None,
        lang: None,
    }
}

fn publish<'a>(subject: &'a str, reply: Option<&'a str>) -> Act<'a> {
    Act::Publish { subject, reply }
}

/// What a service was seen to do, a line for each.
fn told(evidence: &Evidence, service: &str) -> Vec<String> {
    let work = &evidence.services()[service];
    let line = |(fact, record): (&Fact, &Record)| {
        let subjects: Vec<String> =
            record.subjects.patterns(Level::None).into_iter().map(|s| s.pattern).collect();
        format!("{fact} x{} {}", record.tally.count, subjects.join(" ")).trim_end().to_owned()
    };
    work.facts.iter().map(line).collect()
}

fn seen(acts: &[Act<'_>], durables: Durables) -> Evidence {
    let mut evidence = Evidence::new(Mapping::default(), durables);
    let by = client(Some("a"), 1);
    for act in acts {
        evidence.take(&Deed { by: &by, at: None, act: *act });
    }
    evidence.settle();
    evidence
}

#[test]
fn each_deed_is_kept_as_what_it_means() {
    let bucket = |name: &str| BucketName::parse(name).unwrap();
    let inbox = Some("_INBOX.x.1");
    for (act, expected) in [
        (publish("$KV.b.k.1", inbox), vec![(Writes(bucket("b")), Some("k.1"))]),
        (
            publish("$JS.API.DIRECT.GET.KV_b.$KV.b.k.1", inbox),
            vec![(Reads(bucket("b")), Some("k.1"))],
        ),
        (publish("$JS.API.CONSUMER.CREATE.KV_b", inbox), vec![(Reads(bucket("b")), Some(">"))]),
        (
            publish("$JS.API.CONSUMER.CREATE.KV_b.x.$KV.b.k.>", inbox),
            vec![(Reads(bucket("b")), Some("k.>"))],
        ),
        (publish("$JS.API.CONSUMER.INFO.KV_b.x", inbox), vec![(Reads(bucket("b")), None)]),
        (publish("$JS.API.STREAM.INFO.KV_b", inbox), vec![(Opens(bucket("b")), None)]),
        (publish("$JS.API.STREAM.PURGE.KV_b", inbox), vec![(Purges(bucket("b")), None)]),
        (publish("$O.s.C.1", inbox), vec![(WritesStore(bucket("s")), None)]),
        (publish("events.a", None), vec![(Publishes, Some("events.a"))]),
        (publish("events.a", inbox), vec![(Requests, Some("events.a"))]),
        (
            publish("events.a", Some("back")),
            vec![(Requests, Some("events.a")), (OddReplies, Some("back"))],
        ),
        (
            publish("$JS.API.CONSUMER.MSG.NEXT.E.ship", inbox),
            vec![(Pulls("E".into(), "ship".into()), None)],
        ),
        (publish("$JS.ACK.E.ship.1.2.3.4.5", None), vec![(Acks("E".into(), "ship".into()), None)]),
        (
            publish("$JS.API.CONSUMER.CREATE.E.ship.e.>", inbox),
            vec![(Makes("E".into(), "ship".into()), Some("e.>"))],
        ),
        (
            publish("$JS.API.CONSUMER.CREATE.E.aB3dE9kP.e.>", inbox),
            vec![(Replays("E".into()), Some("e.>"))],
        ),
        (publish("$JS.API.CONSUMER.MSG.NEXT.E.aB3dE9kP", inbox), vec![(Replays("E".into()), None)]),
        (
            publish("$JS.API.CONSUMER.CREATE.E", inbox),
            vec![(Unnamed("E".into()), None), (Replays("E".into()), Some(">"))],
        ),
        (publish("$JS.API.DIRECT.GET.E.e.1", inbox), vec![(Replays("E".into()), Some("e.1"))]),
        (
            publish("$JS.API.STREAM.CREATE.E", inbox),
            vec![(Manages("STREAM.CREATE".into(), "E".into()), None)],
        ),
        (
            publish("$JS.API.STREAM.PURGE.E", inbox),
            vec![(Manages("STREAM.PURGE".into(), "E".into()), None)],
        ),
        (publish("$JS.API.INFO", inbox), vec![(Manages("INFO".into(), String::new()), None)]),
        (publish("$SRV.PING", inbox), vec![(FindsAll, None)]),
        (publish("$SRV.INFO.q", inbox), vec![(Finds("q".into()), None)]),
        (publish("$JS.hub.API.STREAM.LIST", inbox), vec![(Elsewhere, None)]),
        (Act::Subscribe { subject: "_INBOX.x.*", queue: None }, vec![]),
        (
            Act::Subscribe { subject: "_INBOX.>", queue: None },
            vec![(HearsInboxes, Some("_INBOX.>"))],
        ),
        (
            Act::Subscribe { subject: "$KV.b.>", queue: None },
            vec![(SubscribesSystem, Some("$KV.b.>"))],
        ),
        (Act::Subscribe { subject: ">", queue: None }, vec![(Subscribes, Some(">"))]),
        (
            Act::Subscribe { subject: "$SRV.PING", queue: None },
            vec![(FoundByAll, Some("$SRV.PING"))],
        ),
        (
            Act::Subscribe { subject: "$SRV.PING.q.1", queue: None },
            vec![(Found("q".into()), Some("$SRV.PING.q.1"))],
        ),
    ] {
        assert_eq!(facts(act, &None), expected, "{act:?}");
    }
}

#[test]
fn what_is_known_of_consumers_beats_what_their_names_look_like() {
    let durables = Some(BTreeSet::from([("E".to_owned(), "aB3dE9kP".to_owned())]));
    let next = |name| format!("$JS.API.CONSUMER.MSG.NEXT.E.{name}");
    let (known, unknown) = (next("aB3dE9kP"), next("ship"));
    let of = |subject| facts(publish(subject, None), &durables).remove(0).0;
    assert_eq!(of(&known), Pulls("E".into(), "aB3dE9kP".into()));
    assert_eq!(of(&unknown), Replays("E".into()));
}

#[test]
fn an_answer_is_told_by_the_inbox_that_it_goes_to() {
    let evidence = seen(
        &[
            Act::Subscribe { subject: "svc.price.*", queue: Some("q") },
            Act::Receive { subject: "svc.price.eur", reply: Some("_INBOX.b.1") },
            publish("_INBOX.b.1", None),
            publish("_INBOX.b.2", None),
        ],
        None,
    );
    assert_eq!(
        told(&evidence, "a"),
        [
            "subscribes x1 svc.price.*",
            "answers x1 svc.price.eur",
            "publishes into inboxes without a request x1"
        ]
    );
    let tally = &evidence.services()["a"].facts[&Subscribes].tally;
    assert_eq!(tally.to_string(), "once, by a, queue q");
}

#[test]
fn what_is_delivered_tells_what_a_stream_keeps() {
    let reply = Some("$JS.ACK.E.ship.1.2.3.4.5");
    let evidence = seen(&[Act::Receive { subject: "e.1", reply }], None);
    let kept = evidence.streams()["E"].patterns(Level::None);
    assert_eq!(kept[0].pattern, "e.1");
}

#[test]
fn nobody_known_is_nobody() {
    let mut evidence = Evidence::new(Mapping::default(), None);
    let (nobody, odd) = (client(None, 1), client(Some("or ders"), 2));
    for by in [&nobody, &odd] {
        evidence.take(&Deed { by, at: None, act: publish("$KV.b.k", None) });
    }
    evidence.settle();
    assert_eq!(told(&evidence, UNKNOWN), ["writes bucket b x1 k"]);
    assert_eq!(evidence.services()["or-ders"].renamed.as_deref(), Some("or ders"));
}

#[test]
fn memory_is_flat() {
    let mut evidence = Evidence::new(Mapping::default(), None);
    let by = client(Some("a"), 1);
    for n in 0..1_000_000_u64 {
        let (key, inbox) = (format!("$KV.b.order.{n}"), format!("_INBOX.x.{n}"));
        let ack = format!("$JS.ACK.E.ship.1.{n}.{n}.1795919999.0");
        let made = format!("$JS.API.CONSUMER.CREATE.E.aB3{:05}.e.>", n % 100_000);
        evidence.take(&Deed { by: &by, at: None, act: publish(&key, Some(&inbox)) });
        if n % 10 == 0 {
            let requested = Act::Receive { subject: "svc.x", reply: Some(&inbox) };
            for act in [publish(&ack, None), publish(&made, Some(&inbox)), requested] {
                evidence.take(&Deed { by: &by, at: None, act });
            }
        }
    }
    evidence.settle();
    assert!(evidence.nodes() < 2_000, "{}", evidence.nodes());
    assert!(evidence.asked.subjects.len() <= MAX_ASKED);
    assert!(evidence.services()["a"].facts.len() < 10, "{:?}", told(&evidence, "a"));
}

#[test]
fn many_services_with_many_subjects_stay_below_the_bound() {
    let mut evidence = Evidence::new(Mapping::default(), None);
    for n in 0..400_000_u64 {
        let by = client(Some(&format!("s{}", n % 200)), n % 200);
        let subject = format!("a{}.w{}x.y{n}z", n % 5, n % 211);
        evidence.take(&Deed { by: &by, at: None, act: publish(&subject, None) });
    }
    evidence.settle();
    assert!(evidence.nodes() <= MAX_NODES, "{}", evidence.nodes());
}
