//! The services and buckets of the suite. A lane has one of each kind, and attacks on different
//! lanes go on at the same time.

use serde_json::{Value, json};
use solewriter::prove::testbed::Names;
use solewriter::prove::{Attack, Who};

/// How many there are.
pub const LANES: usize = 6;

const ATTACKERS: [Who; 5] =
    [Who::Neighbour, Who::Reader, Who::PartReader, Who::Sharer, Who::Nobody];

/// The service of an attacker.
pub fn attacker(who: Who, lane: usize) -> String {
    let kind = match who {
        Who::Neighbour => "neighbour",
        Who::Reader => "reader",
        Who::PartReader => "part-reader",
        Who::Sharer => "sharer",
        Who::Nobody | Who::Stranger | Who::Thief => "nobody",
    };
    format!("{kind}{lane}")
}

pub fn victim(lane: usize) -> String {
    format!("victim{lane}")
}

pub fn responder(lane: usize) -> String {
    format!("responder{lane}")
}

pub fn names(attack: &Attack, lane: usize) -> Names {
    let me = attacker(attack.who, lane);
    let kind = if attack.who == Who::Sharer { "shared" } else { "victim" };
    Names {
        mine: format!("of-{me}"),
        me,
        them: victim(lane),
        victim: format!("{kind}{lane}"),
        plain: format!("svc.plain{lane}"),
        deputy: format!("svc.deputy{lane}"),
        secret: format!("secret-of-{}-{lane}", attack.id),
    }
}

/// What a bucket is like that the policy declares with `part_owners`.
pub fn bucket(attack: &Attack) -> Value {
    if attack.who == Who::Sharer {
        json!({"allow_rollup_hdrs": false, "duplicate_window": 100_000_000})
    } else {
        Value::Null
    }
}

/// The policy of all lanes; `{name}` stands for a key. Who attacks may be observed, with
/// permissions for everything before.
pub fn policy(observed: bool) -> String {
    (0..LANES).map(|lane| of_lane(lane, observed)).collect()
}

const OBSERVED: &str = r#"enforce = "observe"
before.publish = [">"]
before.subscribe = [">"]
"#;

fn of_lane(lane: usize, observed: bool) -> String {
    let observed = if observed { OBSERVED } else { "" };
    let mut text = format!(
        r#"
[bucket.victim{lane}]
[bucket.shared{lane}]
part_owners = true
rollup = false
duplicate_window = "100ms"

[store.victim{lane}]
[store.shared{lane}]
[stream.log-victim{lane}]
subjects = ["attack.log.victim{lane}.>"]
[stream.log-victim{lane}.consumer.durable]
[stream.work-victim{lane}]
subjects = ["attack.work.victim{lane}.>"]
retention = "workqueue"
[stream.work-victim{lane}.consumer.durable]
[stream.both-shared{lane}]
subjects = ["attack.both.shared{lane}.>"]
duplicate_window = "100ms"

[service.victim{lane}]
nkeys = ["{{victim{lane}}}"]
owns = ["victim{lane}", "shared{lane}/theirs.>", "store:victim{lane}", "store:shared{lane}"]
consumes = ["log-victim{lane}/durable", "work-victim{lane}/durable"]
publishes = [
    "events.victim{lane}.>", "attack.log.victim{lane}.>", "attack.work.victim{lane}.>",
    "attack.both.shared{lane}.theirs.>",
]
subscribes = ["events.victim{lane}.>"]
answers = ["svc.deputy{lane}", "svc.deputy{lane}.>"]
found_as = ["victim{lane}"]

[service.responder{lane}]
nkeys = ["{{responder{lane}}}"]
answers = ["svc.plain{lane}"]
"#
    );
    for who in ATTACKERS {
        let me = attacker(who, lane);
        if who == Who::Nobody {
            text += &format!("[service.{me}]\nnkeys = [\"{{{me}}}\"]\n");
            continue;
        }
        let (mut owns, mut reads, mut publishes) = (String::new(), String::new(), String::new());
        let (mut found_as, mut replays) = (String::new(), String::new());
        match who {
            Who::Reader => reads = format!("\"victim{lane}\", \"store:victim{lane}\""),
            Who::PartReader => {
                replays = format!("\"log-victim{lane}/attack.log.victim{lane}.open.>\"");
                reads = format!("\"victim{lane}/open.>\", \"victim{lane}/*.shown\"");
            }
            Who::Sharer => {
                found_as = format!("\"{me}\"");
                text += &format!("\n[store.of-{me}]");
                owns = format!(", \"shared{lane}/mine.>\", \"store:of-{me}\"");
                publishes = format!(", \"attack.both.shared{lane}.mine.>\"");
            }
            _ => {}
        }
        text += &format!(
            r#"
[bucket.of-{me}]
[stream.log-of-{me}]
subjects = ["attack.log.of-{me}.>"]
[stream.log-of-{me}.consumer.durable]
[service.{me}]
nkeys = ["{{{me}}}"]
owns = ["of-{me}"{owns}]
reads = [{reads}]
consumes = ["log-of-{me}/durable"]
publishes = ["events.{me}.>", "attack.log.of-{me}.>"{publishes}]
found_as = [{found_as}]
replays = [{replays}]
calls = ["svc.plain{lane}", "svc.deputy{lane}"]
{observed}"#
        );
    }
    text
}
