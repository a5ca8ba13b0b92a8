//! Push consumers: JetStream publishes to a subject of the attacker's choice, with all rights.

use serde_json::json;

use super::super::{Attack, Control, Effect, Ending, Family, Step, Who, ask};

const LISTENS: &str = "a subscriber to the literal key, in the account that holds the buckets, is \
                       what JetStream needs to deliver there; the bucket stores it under the \
                       attacker's own key";
const NO_SUB: &str = "as the admin, never subscribe to a key in STATE: read with `nats kv get` and \
                      `nats kv watch`";

/// A push consumer on the attacker's own bucket that delivers the attacker's own value.
fn consumer(deliver: &str, group: &str) -> Step {
    let mut config = json!({"deliver_subject": deliver, "ack_policy": "none",
        "deliver_policy": "all", "filter_subject": "$KV.{mine}.payload",
        "inactive_threshold": 60_000_000_000_u64});
    if !group.is_empty() {
        config["deliver_group"] = json!(group);
    }
    let body = json!({"stream_name": "KV_{mine}", "config": config});
    ask("$JS.API.CONSUMER.CREATE.KV_{mine}").body(&body.to_string())
}

pub(super) fn family() -> Family {
    let push = |id, title, deliver: &str, group: &str, effect| {
        Attack::new(id, title, Who::Neighbour, effect).step(consumer(deliver, group))
    };
    let unheard = "JetStream delivers where someone subscribes to this very subject, and nobody \
                   can: no core subscription on `$KV.>` is ever granted";
    let inside = "what JetStream delivers stays in STATE; of it, only inboxes pass to APP";
    let key = "$KV.{victim}.theirs.k1";
    let literal = || Control::OneAccountGranted(Vec::new(), vec![key.to_owned()]);
    Family {
        title: "Push consumers",
        about: "A consumer on the attacker's own bucket, with a deliver subject of its choice.",
        attacks: vec![
            push("push-key", "Deliver into a key of the victim's", key, "", Effect::Changed)
                .first(super::super::listen(key))
                .closed(Ending::Refused, unheard)
                .control(literal())
                .in_prove(),
            push(
                "push-key-unheard",
                "The same without anyone who listens there",
                key,
                "",
                Effect::Changed,
            )
            .closed(Ending::NoEffect, unheard)
            .control(Control::Nowhere)
            .rehearsed()
            .in_prove(),
            push("push-key-group", "The same with a deliver group", key, "g", Effect::Changed)
                .first(super::super::listen(key).queue("g"))
                .closed(Ending::Refused, unheard)
                .control(literal())
                .in_prove(),
            push(
                "push-key-admin-listens",
                "Deliver into a key of the victim's, while the admin subscribes to that very key \
                 in STATE, as `nats sub '$KV.orders.k1'` does",
                key,
                "",
                Effect::Changed,
            )
            .first(Step::AdminListens(key.to_owned()))
            .residual(LISTENS, NO_SUB),
            push(
                "push-rollup-admin-listens",
                "Deliver a message that rolls up, while the admin subscribes so",
                key,
                "",
                Effect::Changed,
            )
            .first(super::super::send("$KV.{mine}.payload").headers("Nats-Rollup: sub").body("x"))
            .first(Step::AdminListens(key.to_owned()))
            .residual(LISTENS, NO_SUB),
            push(
                "push-event",
                "Deliver as an event of the victim's",
                "events.{them}.forged",
                "",
                Effect::Delivered,
            )
            .closed(Ending::NoEffect, inside)
            .control(Control::OneAccount)
            .rehearsed(),
            push(
                "push-request",
                "Deliver as a request to a responder",
                "{deputy}",
                "",
                Effect::Delivered,
            )
            .closed(Ending::NoEffect, inside)
            .control(Control::OneAccount)
            .rehearsed(),
            push(
                "push-purge",
                "Deliver as a request to purge the victim's bucket",
                "$JS.API.STREAM.PURGE.KV_{victim}",
                "",
                Effect::Changed,
            )
            .closed(Ending::NoEffect, "JetStream has no subscriber to that very subject")
            .control(Control::Nowhere)
            .rehearsed()
            .in_prove(),
            push(
                "push-known-inbox",
                "Deliver its own value to the victim's inbox, of which it knows the name",
                "_INBOX.{them}.known",
                "",
                Effect::Delivered,
            )
            .residual(
                "a push consumer delivers to any inbox, and the victim has to hear its own",
                "client libraries put 22 random characters into each inbox name; use no fixed ones",
            ),
            push(
                "push-known-inbox-group",
                "The same with a deliver group",
                "_INBOX.{them}.known",
                "g",
                Effect::Delivered,
            )
            .closed(Ending::NoEffect, "the victim is not in the group")
            .control(Control::Nowhere)
            .rehearsed(),
        ],
    }
}
