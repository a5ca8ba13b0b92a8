//! Random policies: whatever validates keeps the promises, and every tool says what the grants
//! say.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;
use solewriter_core::analysis::diff::{Moved, diff};
use solewriter_core::analysis::query::{Question, Reach, Verb, may, who_can};
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::grant::{Defaults, Grant, Side, never_granted};
use solewriter_core::policy::model::{Access, ConsumerName, Policy, Replayed, StreamName};
use solewriter_core::policy::validate::validate;
use solewriter_types::keyspace::Keyspace;
use solewriter_types::subject::Pattern;

fn defaults() -> Defaults {
    Defaults {
        account: Arc::from("APP"),
        lifetime: Duration::from_secs(3600),
        audit: solewriter_core::grant::AuditStreams::default(),
    }
}

const SERVICES: [&str; 3] = ["s", "t", "u"];
const BUCKETS: [&str; 2] = ["p", "q"];

/// A keyspace in the two buckets.
fn keyspace() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => "[pq]",
        4 => "[pq]/[ab](\\.[abc]){0,2}",
        3 => "[pq]/([ab]|\\*)(\\.[ab]){0,1}\\.>",
    ]
}

/// A plain subject, and now and then one that must never be granted.
fn subject() -> impl Strategy<Value = String> {
    prop_oneof![
        60 => "[ef](\\.([ab]|\\*)){0,2}\\.([ab]|>|\\*)",
        1 => prop::sample::select(vec![
            ">", "*", "$KV.p.a", "$JS.API.>", "$SYS.>", "_INBOX.>", "e.*", "*.>", "_R_.a",
        ]).prop_map(str::to_owned),
    ]
}

/// One entry: service, list, value. More entries make a policy less likely to hold.
fn entry() -> impl Strategy<Value = (usize, &'static str, String)> {
    let service = 0..SERVICES.len();
    prop_oneof![
        3 => (service.clone(), Just("owns"), keyspace()),
        3 => (service.clone(), Just("reads"), keyspace()),
        1 => (service.clone(), Just("reads"), Just("*".to_owned())),
        4 => (service, prop::sample::select(vec!["publishes", "subscribes", "answers", "calls"]),
              subject()),
    ]
}

fn text(entries: &[(usize, &'static str, String)]) -> String {
    let mut text = String::new();
    for bucket in BUCKETS {
        text += &format!(
            "[bucket.{bucket}]\npart_owners = true\nrollup = false\nduplicate_window = '100ms'\n"
        );
    }
    for (index, service) in SERVICES.iter().enumerate() {
        text += &format!("[service.{service}]\n");
        for list in ["owns", "reads", "publishes", "subscribes", "answers", "calls"] {
            let values: Vec<&String> = entries
                .iter()
                .filter(|(s, l, _)| *s == index && *l == list)
                .map(|e| &e.2)
                .collect();
            if !values.is_empty() {
                text += &format!("{list} = {values:?}\n");
            }
        }
    }
    text
}

/// A policy that holds.
fn policy() -> impl Strategy<Value = Arc<Policy>> {
    prop::collection::vec(entry(), 0..9).prop_filter_map("does not hold", |entries| {
        let validated = validate(&[SourceFile::new("p.toml", text(&entries))]).ok()?;
        Some(Arc::new(validated.policy))
    })
}

/// What a service could do before: publish and subscribe, with what was denied.
type Before = [Vec<&'static str>; 4];

fn before() -> impl Strategy<Value = Option<Before>> {
    let some = |most: usize| {
        let all = vec![
            ">",
            "*.>",
            "$KV.>",
            "$KV.p.>",
            "$KV.*.a",
            "$KV.p.a.>",
            "$KV.*.*.b",
            "e.>",
            "e.*",
            "e.*.b",
            "f.a",
            "f.b.>",
            "$JS.API.>",
            "$JS.>",
            "_INBOX.>",
            "$SRV.>",
            "$SYS.>",
        ];
        prop::collection::vec(prop::sample::select(all), 0..=most)
    };
    let side = [some(3), some(1), some(3), some(1)];
    prop::option::weighted(0.7, side)
}

/// The text of a policy with observed services, and a stream.
fn observed_text(
    entries: &[(usize, &'static str, String)],
    before: &[Option<Before>; 3],
) -> String {
    let mut text = text(entries);
    text += "[stream.E]\nsubjects = ['e.>']\nduplicate_window = '100ms'\n";
    for (service, before) in SERVICES.iter().zip(before) {
        let Some(before) = before else { continue };
        let mut observed = format!("[service.{service}]\nenforce = 'observe'\n");
        let keys = ["publish", "deny_publish", "subscribe", "deny_subscribe"];
        for (key, list) in keys.iter().zip(before) {
            observed += &format!("before.{key} = {list:?}\n");
        }
        text = text.replace(&format!("[service.{service}]\n"), &observed);
    }
    text
}

/// A policy that holds, with what its services could do before.
fn observed() -> impl Strategy<Value = (Arc<Policy>, [Option<Before>; 3])> {
    let all = (prop::collection::vec(entry(), 0..7), [before(), before(), before()]);
    all.prop_filter_map("does not hold", |(entries, before)| {
        let text = observed_text(&entries, &before);
        let validated = validate(&[SourceFile::new("p.toml", text)]).ok()?;
        Some((Arc::new(validated.policy), before))
    })
}

/// Every key of up to three tokens, as a text for [`Keyspace`].
fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    let mut level: Vec<String> = vec![String::new()];
    for _ in 0..3 {
        level = level
            .iter()
            .flat_map(|above| {
                ["a", "b", "x"]
                    .map(|t| if above.is_empty() { t.into() } else { format!("{above}.{t}") })
            })
            .collect();
        keys.extend(level.iter().cloned());
    }
    BUCKETS.iter().flat_map(|b| keys.iter().map(move |k| format!("{b}/{k}"))).collect()
}

/// Some of all keys.
fn some_keys() -> impl Strategy<Value = Vec<String>> {
    prop::sample::subsequence(keys(), 12)
}

/// Some of all subjects.
fn some_subjects() -> impl Strategy<Value = Vec<String>> {
    prop::sample::subsequence(subjects(), 30)
}

/// Subjects that somebody might use, plain ones and others.
fn subjects() -> Vec<String> {
    let mut subjects: Vec<String> = [
        ">",
        "*",
        "$KV.>",
        "$KV.p.>",
        "$JS.>",
        "$JS.API.>",
        "$JS.API.INFO",
        "$SYS.>",
        "$SYS.REQ.USER.AUTH",
        "$JS.API.STREAM.CREATE.KV_p",
        "$JS.API.STREAM.UPDATE.KV_p",
        "$JS.API.STREAM.DELETE.KV_p",
        "$JS.API.STREAM.PURGE.KV_p",
        "$JS.API.STREAM.MSG.DELETE.KV_p",
        "$JS.API.STREAM.INFO.KV_p",
        "$JS.API.STREAM.MSG.GET.KV_p",
        "$JS.API.CONSUMER.NAMES.KV_p",
        "$JS.API.DIRECT.GET.KV_p",
        "$JS.API.DIRECT.GET.KV_p.$KV.p.a",
        "$JS.API.CONSUMER.CREATE.KV_p",
        "$JS.API.CONSUMER.CREATE.KV_p.x.$KV.p.a",
        "$JS.API.CONSUMER.CREATE.KV_p.x.$KV.p.>",
        "$JS.ACK.KV_p.x.1",
        "$JS.FC.KV_p.x.y",
        "_R_.x",
        "_GR_.x",
        "_INBOX.>",
        "_INBOX.s.>",
        "_INBOX.s.x",
        "_INBOX.t.x",
        "_INBOX.x",
        "$SRV.PING",
    ]
    .map(str::to_owned)
    .into();
    for first in ["e", "f", "g"] {
        for rest in
            ["a", "b", "a.a", "a.b", "b.a", "x.y", "a.b.a", "x.y.z", ">", "*", "a.>", "*.a", "*.>"]
        {
            subjects.push(format!("{first}.{rest}"));
        }
    }
    subjects.extend(keys().iter().map(|key| format!("$KV.{}", key.replacen('/', ".", 1))));
    subjects
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap()
}

fn is_literal(text: &str) -> bool {
    text.split('.').all(|token| token != "*" && token != ">")
}

/// nats-server's comparison, written again and from the signed JSON: `text` token by token as it
/// stands, with the allow list and then with the deny list.
fn server_takes(grant: &Grant, side: Side, text: &str) -> bool {
    fn matches(entry: &str, text: &str) -> bool {
        let entry: Vec<&str> = entry.split('.').collect();
        let text: Vec<&str> = text.split('.').collect();
        for (i, token) in entry.iter().enumerate() {
            match (*token, text.get(i)) {
                (_, None) => return false,
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (literal, Some(other)) if literal != *other => return false,
                _ => {}
            }
        }
        entry.len() == text.len()
    }
    let claims = serde_json::to_value(grant.claims()).unwrap();
    let side = if side == Side::Publish { "pub" } else { "sub" };
    let lists = &claims[side];
    let list = |name: &str| -> Vec<String> {
        let entries = lists[name].as_array().cloned().unwrap_or_default();
        entries.iter().map(|e: &Value| e.as_str().unwrap().to_owned()).collect()
    };
    let (allow, deny) = (list("allow"), list("deny"));
    // Two empty lists would mean that everything is allowed.
    (allow.is_empty() && deny.is_empty() || allow.iter().any(|e| matches(e, text)))
        && !deny.iter().any(|e| matches(e, text))
}

fn grants(policy: &Policy) -> Vec<Grant> {
    policy.services().iter().map(|s| Grant::of(s, &defaults()).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn no_key_has_two_writers_and_nothing_forbidden_is_granted(
        policy in policy(), keys in some_keys(), subjects in some_subjects()
    ) {
        let grants = grants(&policy);
        for key in &keys {
            let put = format!("$KV.{}", key.replacen('/', ".", 1));
            let writers = grants.iter().filter(|g| server_takes(g, Side::Publish, &put)).count();
            prop_assert!(writers <= 1, "{put} has {writers} writers");
        }
        for grant in &grants {
            for side in [Side::Publish, Side::Subscribe] {
                for permission in grant.permissions(side) {
                    prop_assert_eq!(never_granted(side, &permission.subject), None);
                }
                for text in &subjects {
                    if never_granted(side, &pattern(text)).is_some() || text == ">" || text == "*" {
                        prop_assert!(!server_takes(grant, side, text), "{} {side:?} {text}", grant.service());
                    }
                }
            }
        }
    }

    #[test]
    fn who_is_observed_has_what_it_had_and_nothing_that_others_own(
        (policy, before) in observed(), keys in some_keys(), subjects in some_subjects()
    ) {
        let granted = grants(&policy);
        let enforced = policy.enforced();
        let own = grants(&enforced);
        let had = |service: usize, publish: bool, text: &str| {
            let Some([allow, deny, listen, deaf]) = &before[service] else { return false };
            let holds = |list: &[&str]| list.iter().any(|p| pattern(p).matches_wire(text));
            if publish { holds(allow) && !holds(deny) } else { holds(listen) && !holds(deaf) }
        };
        let puts: Vec<String> =
            keys.iter().map(|key| format!("$KV.{}", key.replacen('/', ".", 1))).collect();
        let plain = || subjects.iter().filter(|text| text.starts_with(['e', 'f']) && is_literal(text));
        for text in puts.iter().chain(plain()) {
            let taken = |all: &[Grant], s: usize| server_takes(&all[s], Side::Publish, text);
            let kept = text.starts_with("$KV.") || text.starts_with("e.");
            let owner = (0..SERVICES.len()).find(|s| kept && taken(&own, *s));
            for s in 0..SERVICES.len() {
                let may = taken(&granted, s);
                prop_assert!(!may || owner.is_none_or(|owner| owner == s), "{text}: {} and {owner:?}", SERVICES[s]);
                prop_assert!(!may || had(s, true, text) || taken(&own, s), "{text}: {}", SERVICES[s]);
                // What nobody owns, it has as before; a key that ends a pattern in `*` is not kept.
                let star = before[s].as_ref().is_some_and(|b| b[0].iter().any(|p| p.ends_with('*')));
                let plain = !text.starts_with("$KV.") && had(s, true, text);
                let known = before[s].as_ref().is_some_and(|b| b[0].iter().all(|p| !p.starts_with(['>', '*'])));
                prop_assert!(may || !plain || owner.is_some() || !known || star, "{text}: {}", SERVICES[s]);
            }
        }
        for text in plain() {
            for s in 0..SERVICES.len() {
                let may = server_takes(&granted[s], Side::Subscribe, text);
                let was = had(s, false, text) || server_takes(&own[s], Side::Subscribe, text);
                // nats-server takes `e.>` from who may subscribe to `e.*`.
                let star = before[s].as_ref().is_some_and(|b| b[2].contains(&"e.*"));
                prop_assert!(!may || was || star, "{text}: {}", SERVICES[s]);
            }
        }
        for (s, grant) in granted.iter().enumerate() {
            for side in [Side::Publish, Side::Subscribe] {
                for permission in grant.permissions(side) {
                    prop_assert_eq!(never_granted(side, &permission.subject), None);
                }
            }
            for other in SERVICES.iter().filter(|other| **other != SERVICES[s]) {
                let inbox = format!("_INBOX.{other}.x");
                prop_assert!(!server_takes(grant, Side::Subscribe, &inbox));
            }
        }
    }

    #[test]
    fn an_answer_is_what_the_server_does(policy in policy(), subjects in some_subjects()) {
        for grant in grants(&policy) {
            for text in &subjects {
                let (publish, subscribe) =
                    (Question::Publish(pattern(text)), Question::Subscribe(pattern(text)));
                for (side, question) in [(Side::Publish, publish), (Side::Subscribe, subscribe)] {
                    let answer = may(&grant, &question);
                    let taken = server_takes(&grant, side, text);
                    prop_assert_eq!(answer.accepted, taken, "{} {:?} {}", grant.service(), side, text);
                    if is_literal(text) {
                        prop_assert_eq!(answer.is_yes(), taken, "{} {}", question, grant.service());
                        prop_assert!(answer.is_yes() || answer.reach == Reach::None);
                    } else if side == Side::Subscribe {
                        prop_assert!(taken || !answer.is_yes());
                    }
                    prop_assert_eq!(answer.grounds.is_empty(), answer.reach == Reach::None);
                }
            }
        }
    }

    #[test]
    fn keyspaces_are_written_and_read_by_whom_the_rules_say(
        policy in policy(), keys in some_keys(), asked in keyspace()
    ) {
        let asked: Vec<String> = keys.into_iter().chain([asked]).collect();
        for keyspace in asked.iter().filter_map(|text| Keyspace::parse(text).ok()) {
            let mut all = 0;
            let mut some = BTreeSet::new();
            for (service, grant) in policy.services().iter().zip(grants(&policy)) {
                let reach = |owned: bool| {
                    let spaces = service.rules.iter().filter_map(|rule| match &rule.access {
                        Access::Owns(k) => Some(k),
                        Access::Reads(k) if !owned => Some(k),
                        _ => None,
                    });
                    let near: Vec<&Keyspace> =
                        spaces.filter(|k| k.shared_key(&keyspace).is_some()).collect();
                    (near.iter().any(|k| keyspace.is_within(k)), !near.is_empty())
                };
                for (question, (whole, part)) in [
                    (Question::Write(keyspace.clone()), reach(true)),
                    (Question::Read(keyspace.clone()), reach(false)),
                ] {
                    let answer = may(&grant, &question);
                    // Several parts may make a whole, so a yes can be more than one rule says.
                    prop_assert!(!whole || answer.is_yes(), "{} {question}", service.name);
                    prop_assert_eq!(part, answer.reach != Reach::None, "{} {}", service.name, question);
                    if matches!(question, Question::Write(_)) && part {
                        some.insert(service.name.to_string());
                        all += usize::from(answer.is_yes());
                    }
                }
            }
            prop_assert!(all <= 1);
            let question = Question::Write(keyspace.clone());
            let capable = who_can(&policy, &defaults(), &question).unwrap();
            let names: BTreeSet<String> =
                capable.iter().map(|one| one.service.name.to_string()).collect();
            prop_assert_eq!(&names, &some);
            if keyspace.part().is_some_and(Pattern::is_literal) {
                prop_assert!(names.len() <= 1, "{keyspace}: {names:?}");
            }
        }
    }

    #[test]
    fn a_difference_is_what_the_grants_differ_in(
        old in policy(), new in policy(), keys in some_keys(), subjects in some_subjects()
    ) {
        let found = diff(&old, &new, &defaults()).unwrap();
        let of = |policy: &Policy, name: &str| {
            Grant::of(policy.service(name).unwrap(), &defaults()).unwrap()
        };
        for name in SERVICES {
            let (had, has) = (of(&old, name), of(&new, name));
            let change = found.services.iter().find(|change| &*change.service == name);
            let differs = |one: &Grant, other: &Grant| {
                [Side::Publish, Side::Subscribe].into_iter().any(|side| {
                    subjects.iter().filter(|text| is_literal(text)).any(|text| {
                        server_takes(one, side, text) && !server_takes(other, side, text)
                    })
                })
            };
            let gains = change.is_some_and(|change| !change.gains.is_empty());
            let loses = change.is_some_and(|change| !change.loses.is_empty());
            prop_assert!(gains || !differs(&has, &had), "{name} gains unsaid");
            prop_assert!(loses || !differs(&had, &has), "{name} loses unsaid");
            let Some(change) = change else { continue };
            for (rights, before, after) in
                [(&change.gains, &had, &has), (&change.loses, &has, &had)]
            {
                for right in rights {
                    let question = match right.verb {
                        // Asked for by its subjects, not as a question of its own.
                        Verb::Found | Verb::Find | Verb::Audit => continue,
                        Verb::Replay => {
                            let none = |_: &StreamName| Arc::from([]);
                            Question::Replay(Replayed::parse(&right.target, none).unwrap())
                        }
                        Verb::Consume => {
                            Question::Consume(ConsumerName::parse(&right.target).unwrap())
                        }
                        Verb::Ack => panic!("no rule grants it alone"),
                        Verb::Write => Question::Write(Keyspace::parse(&right.target).unwrap()),
                        Verb::Read => Question::Read(Keyspace::parse(&right.target).unwrap()),
                        Verb::Publish | Verb::Call => Question::Publish(pattern(&right.target)),
                        Verb::Subscribe | Verb::Answer => Question::Subscribe(pattern(&right.target)),
                    };
                    prop_assert!(may(after, &question).is_yes(), "{name} {question}");
                    if matches!(right.verb, Verb::Write | Verb::Read) {
                        let reach = may(before, &question).reach;
                        prop_assert_ne!(reach, Reach::All, "{} {}", name, question);
                        prop_assert_eq!(right.in_part, reach == Reach::Part, "{} {}", name, question);
                    }
                }
            }
        }
        let moved = found.transfers.iter().filter_map(|transfer| match &transfer.moved {
            Moved::Keyspace(keyspace) => Some((transfer, keyspace)),
            _ => None,
        });
        for (transfer, keyspace) in moved.clone() {
            let question = Question::Write(keyspace.clone());
            prop_assert!(may(&of(&old, &transfer.from), &question).is_yes());
            prop_assert!(may(&of(&new, &transfer.to), &question).is_yes());
        }
        for key in &keys {
            let question = Question::Write(Keyspace::parse(key).unwrap());
            let owner = |policy: &Policy| {
                let capable = who_can(policy, &defaults(), &question).unwrap();
                capable.first().map(|one| one.service.name.to_string())
            };
            let (Some(from), Some(to)) = (owner(&old), owner(&new)) else { continue };
            let said = moved.clone().any(|(transfer, keyspace)| {
                *transfer.from == from && *transfer.to == to
                    && Keyspace::parse(key).unwrap().is_within(keyspace)
            });
            prop_assert_eq!(said, from != to, "{} from {} to {}", key, from, to);
        }
    }

    #[test]
    fn nothing_differs_from_itself(policy in policy()) {
        prop_assert!(diff(&policy, &policy, &defaults()).unwrap().is_empty());
    }
}
