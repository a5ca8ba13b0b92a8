//! Responders as deputies: whoever asks chooses where they answer.

use super::super::{Attack, Control, Effect, Ending, Family, Who, send};

pub(super) fn family() -> Family {
    let key = "$KV.{victim}.theirs.k1";
    let alone = "a responder may publish to inboxes alone: it gets no `resp`, which would override \
                 every deny";
    let asks = |id, title, to: &str, reply: &str, headers: &str, effect| {
        Attack::new(id, title, Who::Neighbour, effect)
            .step(send(to).reply(reply).headers(headers).body("chosen by the attacker"))
            .with_responders()
    };
    Family {
        title: "Responders",
        about: "The attacker may call a responder, and chooses the reply subject. The responder \
                answers wherever it is asked to, as client libraries do.",
        attacks: vec![
            asks(
                "responder-key",
                "A responder that owns nothing is asked to answer into a key of the victim's",
                "{plain}",
                key,
                "",
                Effect::Changed,
            )
            .closed(Ending::NoEffect, alone)
            .control(Control::AllowResponses)
            .rehearsed(),
            asks(
                "responder-key-headers",
                "The same with headers",
                "{plain}",
                key,
                "Nats-Rollup: all",
                Effect::Changed,
            )
            .closed(Ending::NoEffect, alone)
            .control(Control::AllowResponses)
            .rehearsed(),
            asks(
                "responder-event",
                "A responder that owns nothing is asked to answer as an event of the victim's",
                "{plain}",
                "events.{them}.forged",
                "",
                Effect::Delivered,
            )
            .closed(Ending::NoEffect, alone)
            .control(Control::AllowResponses)
            .rehearsed(),
            asks(
                "responder-purge",
                "A responder that owns nothing is asked to answer to JetStream, as a purge",
                "{plain}",
                "$JS.API.STREAM.PURGE.KV_{victim}",
                "",
                Effect::Changed,
            )
            .instead(send("{plain}").reply("$JS.API.STREAM.PURGE.KV_{victim}").body("{}"))
            .closed(Ending::NoEffect, alone)
            .control(Control::AllowResponses)
            .rehearsed(),
            asks(
                "responder-deputy",
                "The victim, which owns its keyspace and answers requests, is asked to answer \
                 into it",
                "{deputy}",
                key,
                "",
                Effect::Changed,
            )
            .residual(
                "the victim may publish there: it is its own keyspace, and no permission tells \
                 an answer from a put",
                "keep owning and answering apart: the policy check warns (`confused-deputy`). Or \
                 answer only where the reply subject begins with `_INBOX.`",
            ),
            asks(
                "responder-known-inbox",
                "A responder is asked to answer in the victim's inbox, of which the attacker knows \
                 the name",
                "{plain}",
                "_INBOX.{them}.known",
                "",
                Effect::Delivered,
            )
            .residual(
                "a responder may publish to every inbox: that is where answers go",
                "client libraries put 22 random characters into each inbox name; use no fixed ones",
            ),
            asks(
                "responder-uncalled",
                "A responder that it may not call",
                "{deputy}.uncalled",
                "_INBOX.{me}.answer",
                "",
                Effect::Delivered,
            )
            .closed(Ending::Refused, super::NOT_GRANTED)
            .once_granted(&["{deputy}.uncalled"]),
        ],
    }
}
