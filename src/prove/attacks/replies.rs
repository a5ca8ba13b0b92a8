//! Reply subjects: nats-server checks where a client publishes, and not where it wants the answer.

use super::super::{Attack, Control, Effect, Ending, Family, Step, Who, send};
use super::ACCOUNT;

const KEY: &str = "$KV.{victim}.theirs.k1";

/// One request that ordinary grants allow, with a key of the victim's as its reply subject.
fn reply(id: &'static str, title: &'static str, step: Step) -> Attack {
    Attack::new(id, title, Who::Neighbour, Effect::Changed)
        .step(step.reply(KEY))
        .closed(Ending::NoEffect, ACCOUNT)
        .control(Control::OneAccount)
        .rehearsed()
        .in_prove()
}

/// A reply subject that the server itself refuses.
fn refused(id: &'static str, title: &'static str, subject: &str) -> Attack {
    Attack::new(id, title, Who::Neighbour, Effect::Changed)
        .step(send("$KV.{mine}.a").reply(subject).body("x"))
        .closed(Ending::Refused, "the server refuses this reply subject to every client")
        .control(Control::OwnInbox)
        .in_prove()
}

pub(super) fn family() -> Family {
    let payload = "{\"last_by_subj\":\"$KV.{mine}.payload\"}";
    let consumer = "{\"stream_name\":\"KV_{mine}\",\"config\":{\"ack_policy\":\"none\",\
                    \"inactive_threshold\":60000000000}}";
    let named = "{\"stream_name\":\"KV_{mine}\",\"config\":{\"name\":\"w\",\"ack_policy\":\"none\",\
                 \"inactive_threshold\":60000000000}}";
    let filtered = "{\"stream_name\":\"KV_{mine}\",\"config\":{\"name\":\"w\",\"ack_policy\":\"none\",\
                    \"inactive_threshold\":60000000000,\"filter_subject\":\"$KV.{mine}.payload\"}}";
    Family {
        title: "Reply subjects",
        about: "nats-server checks the subject that a client publishes to, and not the reply \
                subject; whoever answers publishes there with rights of its own, and JetStream has \
                all. In each, the reply subject is a key of the victim's, and success is a change \
                of the victim's bucket. In one account every one of them works.",
        attacks: vec![
            reply(
                "reply-put",
                "A put to its own bucket: the acknowledgement would be stored",
                send("$KV.{mine}.a").body("x"),
            ),
            reply(
                "reply-put-headers",
                "The same with headers",
                send("$KV.{mine}.a").headers("KV-Operation: DEL\r\nNats-Msg-Id: 1").body("x"),
            ),
            reply(
                "reply-stream-info",
                "Opening its own bucket",
                send("$JS.API.STREAM.INFO.KV_{mine}"),
            ),
            reply(
                "reply-msg-get",
                "A get without direct get",
                send("$JS.API.STREAM.MSG.GET.KV_{mine}").body(payload),
            ),
            reply(
                "reply-direct-get",
                "A direct get: bytes of the attacker's choice would be stored",
                send("$JS.API.DIRECT.GET.KV_{mine}.$KV.{mine}.payload"),
            ),
            reply(
                "reply-direct-get-headers",
                "The same with headers",
                send("$JS.API.DIRECT.GET.KV_{mine}.$KV.{mine}.payload").headers("Nats-Rollup: all"),
            ),
            reply(
                "reply-direct-get-body",
                "A direct get with the key in its body",
                send("$JS.API.DIRECT.GET.KV_{mine}").body(payload),
            ),
            reply(
                "reply-consumer-create",
                "A new consumer",
                send("$JS.API.CONSUMER.CREATE.KV_{mine}").body(consumer),
            ),
            reply(
                "reply-consumer-create-named",
                "A new consumer with a name",
                send("$JS.API.CONSUMER.CREATE.KV_{mine}.w").body(named),
            ),
            reply(
                "reply-consumer-create-filtered",
                "A new consumer with a name and a filter",
                send("$JS.API.CONSUMER.CREATE.KV_{mine}.w.$KV.{mine}.payload").body(filtered),
            ),
            reply(
                "reply-consumer-info",
                "A look at a consumer",
                send("$JS.API.CONSUMER.INFO.KV_{mine}.w"),
            ),
            reply(
                "reply-consumer-delete",
                "The end of a consumer",
                send("$JS.API.CONSUMER.DELETE.KV_{mine}.w"),
            ),
            reply(
                "reply-purge",
                "A purge of its own bucket",
                send("$JS.API.STREAM.PURGE.KV_{mine}"),
            ),
            Attack::new(
                "reply-no-responders",
                "A request that nobody hears: the server's own answer would be stored",
                Who::Neighbour,
                Effect::Changed,
            )
            .step(send("events.{me}.nobody-hears").reply(KEY))
            .closed(Ending::NoEffect, "the server tells the client alone that nobody hears it")
            .control(Control::Nowhere)
            .in_prove(),
            Attack::new(
                "reply-api-delete",
                "Its own value, as a request to delete the victim's stream",
                Who::Neighbour,
                Effect::Stream,
            )
            .step(
                send("$JS.API.DIRECT.GET.KV_{mine}.$KV.{mine}.empty")
                    .reply("$JS.API.STREAM.DELETE.KV_{victim}"),
            )
            .closed(Ending::NoEffect, ACCOUNT)
            .control(Control::OneAccount)
            .rehearsed()
            .in_prove(),
            Attack::new(
                "reply-api-purge",
                "Its own value, as a request to purge the victim's bucket",
                Who::Neighbour,
                Effect::Changed,
            )
            .step(
                send("$JS.API.DIRECT.GET.KV_{mine}.$KV.{mine}.template")
                    .reply("$JS.API.STREAM.PURGE.KV_{victim}"),
            )
            .closed(Ending::NoEffect, ACCOUNT)
            .control(Control::OneAccount)
            .rehearsed()
            .in_prove(),
            refused(
                "reply-ack",
                "A put whose acknowledgement would acknowledge the victim's message",
                "$JS.ACK.KV_{victim}.pull.1.1.1.1.0",
            ),
            refused("reply-import", "A put, with a reply subject of service imports", "_R_.x.y"),
            refused("reply-gateway", "A put, with a reply subject of gateways", "_GR_.x.y.z"),
            forged(
                "reply-known-inbox",
                "Its own value, as an answer in the victim's inbox, of which it knows the name",
                "_INBOX.{them}.known",
            )
            .residual(
                "JetStream answers wherever it is asked to, and the victim has to hear answers",
                "client libraries put 22 random characters into each inbox name; use no fixed ones",
            ),
            forged(
                "reply-event",
                "Its own value, as an event of the victim's",
                "events.{them}.forged",
            )
            .residual(FORGED, STAMP),
            forged(
                "reply-request",
                "Its own value, as a request to a responder that it may not call",
                "{deputy}.uncalled",
            )
            .residual(FORGED, STAMP),
            Attack::new(
                "reply-event-no-headers",
                "Its own value, as an event of the victim's, without the headers of a direct get",
                Who::Neighbour,
                Effect::Delivered,
            )
            .step(
                send("$JS.API.DIRECT.GET.KV_{mine}")
                    .reply("events.{them}.forged")
                    .body("{\"last_by_subj\":\"$KV.{mine}.payload\",\"no_hdr\":true}"),
            )
            .residual(
                FORGED,
                "from 2.12 on nothing in it tells that JetStream sent it: take state from \
                 keyspaces, and sign events that must not be forged",
            )
            .since(2, 12),
            Attack::new(
                "reply-event-batch",
                "Its own values, several at once, as events of the victim's",
                Who::Neighbour,
                Effect::Stamped,
            )
            .step(
                send("$JS.API.DIRECT.GET.KV_{mine}")
                    .reply("events.{them}.forged")
                    .body("{\"multi_last\":[\"$KV.{mine}.payload\"]}"),
            )
            .residual(FORGED, STAMP)
            .since(2, 11),
            Attack::new(
                "reply-event-ack",
                "An acknowledgement of JetStream's, as an event of the victim's",
                Who::Neighbour,
                Effect::Delivered,
            )
            .step(send("$KV.{mine}.a").reply("events.{them}.forged").body("x"))
            .residual(
                FORGED,
                "its text is JetStream's, and not the attacker's to choose: a receiver that reads \
                 events strictly refuses it",
            ),
        ],
    }
}

const FORGED: &str = "JetStream answers wherever it is asked to. `publishes` and `calls` hold for \
                      what a service sends, and not for where it has answers sent; keyspaces are \
                      out of reach, because no stream listens in APP";
const STAMP: &str = "what JetStream answers with bytes of the attacker's choice has the header \
                     `Nats-Stream`, which no event or request has: receivers may refuse it (but see \
                     the row without headers). Take state from keyspaces";

/// The attacker's own value, got directly, with the answer sent to a plain subject.
fn forged(id: &'static str, title: &'static str, reply: &str) -> Attack {
    Attack::new(id, title, Who::Neighbour, Effect::Stamped)
        .step(send("$JS.API.DIRECT.GET.KV_{mine}.$KV.{mine}.payload").reply(reply))
}
