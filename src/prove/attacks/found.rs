//! Services that can be found: nobody answers in the name of another.

use super::super::{Attack, Effect, Ending, Family, Step, Who, ask, listen};

/// Why only one service hears what a name is asked.
const NAMED: &str = "`found_as` is one name, and one service has it";

/// The attacker listens where the victim is asked.
fn hear(id: &'static str, title: &'static str, subject: &'static str) -> Attack {
    Attack::new(id, title, Who::Sharer, Effect::Accepted)
        .step(listen(subject))
        .closed(Ending::Refused, NAMED)
        .once_heard(&[subject])
        .in_prove()
}

pub(super) fn family() -> Family {
    let in_queue = |step: Step| step.queue("q");
    let of_one = "$SRV.INFO.{them}";
    Family {
        title: "Services that can be found",
        about: "The victim is found under its own name, and so is the attacker.",
        attacks: vec![
            hear("found-as-other", "Be found under the victim's name", of_one),
            hear("found-as-other-id", "The same with an id", "$SRV.PING.{them}.one"),
            hear("found-as-other-ids", "The same with every id", "$SRV.STATS.{them}.>"),
            hear("found-as-anybody", "Be found under every name", "$SRV.INFO.*"),
            hear("found-as-all", "Hear whatever anybody is asked", "$SRV.>"),
            hear("found-as-other-queue", "Take the victim's questions in a queue group", of_one)
                .instead(in_queue(listen(of_one))),
            Attack::new(
                "found-ask",
                "Ask the victim for what it offers",
                Who::Sharer,
                Effect::Accepted,
            )
            .step(ask(of_one))
            .closed(Ending::Refused, "`discovers` does not name it")
            .once_granted(&[of_one])
            .in_prove(),
        ],
    }
}
