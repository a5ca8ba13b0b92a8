//! The policy itself: who has the publisher's seed, or an author's key beside it, and wants more than
//! the author's part. Nobody uses a tool of ours, which would refuse it before.

use serde_json::Value;
use solewriter::prove::{Attack, Control, Effect, Ending, Expected, Family, Step, Who};

use super::deployment::{Deployment, eventually};
use super::doors::Seen;
use super::suite::Place;
use crate::authors::{Author, TEAM_B, entry, fleet, put, with_author, write};
use crate::bucket;

const UNSIGNED: &str = "author-unsigned";
const REPLAY: &str = "author-replay";
const OTHER_PART: &str = "author-other-part";

fn attack(
    (id, title, line): (&'static str, &'static str, &'static str),
    why: &'static str,
    control: &'static str,
) -> Attack {
    let mut attack = super::suite::families().remove(0).attacks.remove(0);
    attack.id = id;
    attack.title = title;
    attack.who = Who::Thief;
    attack.steps = vec![Step::Told(line)];
    attack.effect = Effect::Learns("{secret}");
    attack.expected = Expected::Closed { by: Ending::NoEffect, why };
    attack.control = Control::Told(control);
    attack.in_prove = false;
    attack
}

/// What is tried, and why it fails.
pub fn family() -> Family {
    let line = "PUB $KV.solewriter_policy.revision.{next}";
    let by_all = "signed by an author of all";
    Family {
        title: "The policy, where authors sign",
        about: "Who attacks has the publisher's seed, and in the last row an author's key. Success is \
                that an instance puts the revision in force. [authors.md](authors.md) says \
                what a part is.",
        attacks: vec![
            attack(
                (UNSIGNED, "The publisher's seed: a policy that nobody signed", line),
                "no author signed it",
                by_all,
            ),
            attack(
                (
                    REPLAY,
                    "The publisher's seed: an older push, with its signature, as the next one",
                    line,
                ),
                "the signature is over the number",
                by_all,
            ),
            attack(
                (OTHER_PART, "An author's key, too: a change in another author's part", line),
                "each instance compares what counts with what comes, in meaning",
                by_all,
            ),
        ],
    }
}

/// Whether the instance puts it in force, or refuses it.
async fn ending(deployment: &mut Deployment, number: u64) -> Ending {
    let instance = &mut deployment.instances[0];
    let of = |line: &Value, event: &str| line["event"] == event && line["number"] == number;
    eventually(&format!("revision {number} is judged"), async || {
        let lines = instance.lines();
        let said = |event: &str| lines.iter().any(|line| of(line, event));
        if said("policy_changed") {
            return Some(Ending::Succeeded);
        }
        said("policy_refused").then_some(Ending::NoEffect)
    })
    .await
}

/// Everything, at one place.
pub async fn run(place: Place) -> Vec<Seen> {
    let (mut deployment, authors) = fleet(place.version).await;
    let first = entry(&deployment, 1).await;
    let numbered = |entry: &Value, number: u64| {
        let mut entry = entry.clone();
        entry["number"] = number.into();
        entry
    };
    // The documents of all three: another team's service is switched off.
    write(
        &deployment,
        "b",
        &TEAM_B.replace("[service.b-api]", "[service.b-api]\ndisabled = \"x\""),
    );
    let files = crate::authors::files(&deployment);
    let bucket = bucket::bucket(&deployment).await;
    bucket::push_unasked(&bucket, &files).await.unwrap();
    let evil = entry(&deployment, 2).await;
    let mut seen = vec![(UNSIGNED, ending(&mut deployment, 2).await)];

    put(&deployment, 3, &numbered(&first, 3)).await;
    seen.push((REPLAY, ending(&mut deployment, 3).await));

    let by = |author: &Author, number| {
        let entry = with_author(numbered(&evil, number), author.name);
        author.signs(entry, "east", &first)
    };
    put(&deployment, 4, &by(&authors.lea, 4)).await;
    seen.push((OTHER_PART, ending(&mut deployment, 4).await));

    // The control of all: the same documents, by somebody who may.
    put(&deployment, 5, &by(&authors.ops, 5)).await;
    let control = ending(&mut deployment, 5).await;
    let judged = |(id, ending)| match control {
        Ending::Succeeded => (id, Ok(Some(ending))),
        other => (id, Err(format!("its control should work, and {}", other.word()))),
    };
    seen.into_iter().map(judged).collect()
}
