//! Headers that mean something to JetStream, in a bucket that two services own parts of.

use serde_json::json;

use solewriter_types::advisories::TRACING;

use super::super::{Attack, Control, Effect, Ending, Family, Step, Who, ask, send, victim_writes};

const OWN: &str = "$KV.{victim}.mine.a";

/// A put to the attacker's own part, with headers.
fn put(id: &'static str, title: &'static str, headers: &str, effect: Effect) -> Attack {
    Attack::new(id, title, Who::Sharer, effect).step(ask(OWN).headers(headers).body("x")).in_prove()
}

pub(super) fn family() -> Family {
    let rollup = "a bucket with several owners has `allow_rollup_hdrs: false`; the policy check \
                  insists that it is declared so";
    let off = "the setting is off in every bucket that the policy declares";
    let own = "the header changes what becomes of the attacker's own key alone";
    let on = |settings| Control::Bucket(settings);
    Family {
        title: "Headers, in a bucket with two owners",
        about: "The attacker owns the keys below `mine`, the victim those below `theirs`, of one \
                bucket. Each put is to a key of the attacker's own.",
        attacks: vec![
            put("header-rollup-all", "Erase everyone's keys", "Nats-Rollup: all", Effect::Changed)
                .closed(Ending::Rejected, rollup)
                .control(on(json!({"allow_rollup_hdrs": true}))),
            put("header-rollup-sub", "Erase a key's history", "Nats-Rollup: sub", Effect::Changed)
                .closed(Ending::Rejected, rollup)
                .control(Control::Nowhere),
            put(
                "header-msg-id",
                "Take the message id that the victim will use",
                "Nats-Msg-Id: next",
                Effect::Blocked,
            )
            .step(Step::Pass(300))
            .step(victim_writes("Nats-Msg-Id: next"))
            .closed(
                Ending::NoEffect,
                "a bucket with several owners has the least duplicate window, 100 ms",
            )
            .control(on(json!({"duplicate_window": 120_000_000_000_u64}))),
            put(
                "header-msg-id-at-once",
                "Take the message id that the victim will use within 100 ms",
                "Nats-Msg-Id: next",
                Effect::Blocked,
            )
            .step(victim_writes("Nats-Msg-Id: next"))
            .residual(
                "nats-server has no shorter window",
                "KV clients send no `Nats-Msg-Id`; who sends one makes it random",
            )
            .not_in_prove(),
            Attack::new(
                "many-puts-evict",
                "So many puts that a full bucket discards the victim's keys",
                Who::Sharer,
                Effect::Changed,
            )
            .bucket(json!({"max_msgs": 20, "max_msgs_per_subject": -1}))
            .step(send(OWN).body("x").times(40))
            .closed(Ending::NoEffect, "a bucket with several owners has `discard: new`")
            .control(on(json!({"discard": "old"}))),
            Attack::new(
                "many-puts-fill",
                "So many puts that the victim's find no room",
                Who::Sharer,
                Effect::Blocked,
            )
            .bucket(json!({"max_msgs": 20, "max_msgs_per_subject": -1}))
            .step(send(OWN).body("x").times(40))
            .step(victim_writes(""))
            .residual(
                "a cap is the whole bucket's, and a bucket full is full for everyone",
                "set no cap on a bucket with several owners, or give each owner a bucket",
            ),
            put(
                "header-expected",
                "Expect a sequence of the victim's key",
                "Nats-Expected-Last-Subject-Sequence: 1\r\n\
                 Nats-Expected-Last-Subject-Sequence-Subject: $KV.{victim}.theirs.k1",
                Effect::Changed,
            )
            .closed(Ending::NoEffect, own)
            .control(Control::Nowhere),
            put(
                "header-expected-stream",
                "Expect the victim's stream",
                "Nats-Expected-Stream: KV_{victim}\r\nNats-Expected-Last-Sequence: 99",
                Effect::Changed,
            )
            .closed(Ending::Rejected, own)
            .control(Control::Nowhere),
            put("header-ttl", "A put that ends soon", "Nats-TTL: 1s", Effect::Changed)
                .closed(
                    Ending::Rejected,
                    "`solewriter buckets` makes none that takes it; where one does, the \
                     attacker's own key ends",
                )
                .control(Control::Nowhere)
                .since(2, 11),
            put(
                "header-schedule",
                "A put that JetStream repeats, later, into a key of the victim's",
                "Nats-Schedule: @at 2020-01-01T00:00:00Z\r\n\
                 Nats-Schedule-Target: $KV.{victim}.theirs.k1",
                Effect::Changed,
            )
            .closed(Ending::Rejected, off)
            .control(on(json!({"allow_msg_schedules": true, "allow_msg_ttl": true,
                "discard": "old"})))
            .since(2, 12),
            Attack::new(
                "header-batch",
                "An atomic batch that is never finished",
                Who::Sharer,
                Effect::Blocked,
            )
            .step(ask(OWN).headers("Nats-Batch-Id: b\r\nNats-Batch-Sequence: 1").body("x"))
            .step(victim_writes(""))
            .closed(Ending::Rejected, off)
            .control(Control::Nowhere)
            .since(2, 12)
            .in_prove(),
            Attack::new(
                "header-batch-fast",
                "A fast batch that is never finished",
                Who::Sharer,
                Effect::Blocked,
            )
            .step(send(OWN).reply("_INBOX.{me}.b.10.fail.1.0.$FI").body("x"))
            .step(victim_writes(""))
            .closed(Ending::NoEffect, off)
            .control(Control::Nowhere)
            .since(2, 14)
            .in_prove(),
            put(
                "header-batch-commit",
                "An atomic batch whose last message is a key of the victim's",
                "Nats-Batch-Id: b\r\nNats-Batch-Sequence: 1",
                Effect::Changed,
            )
            .step(
                ask("$KV.{victim}.theirs.k1")
                    .headers("Nats-Batch-Id: b\r\nNats-Batch-Sequence: 2\r\nNats-Batch-Commit: 1")
                    .body("x"),
            )
            .closed(Ending::Refused, super::NOT_GRANTED)
            .once_granted(&["$KV.{victim}.theirs.k1"])
            .bucket(json!({"allow_atomic": true}))
            .not_in_prove(),
            put(
                "header-schedule-source",
                "A put that JetStream repeats with what the victim wrote",
                "Nats-Schedule: @at 2020-01-01T00:00:00Z\r\n\
                 Nats-Schedule-Source: $KV.{victim}.theirs.k1\r\n\
                 Nats-Schedule-Target: $KV.{victim}.mine.b",
                Effect::Learns("{secret}"),
            )
            .step(Step::Pass(700))
            .step(ask("$JS.API.DIRECT.GET.KV_{victim}.$KV.{victim}.mine.b"))
            .closed(Ending::Rejected, off)
            .control(on(json!({"allow_msg_schedules": true, "allow_msg_ttl": true,
                "discard": "old"})))
            .since(2, 14)
            .not_in_prove(),
            put(
                "header-source",
                "A put that says it comes from the victim's stream",
                "Nats-Stream-Source: KV_{victim} 1 > > $KV.{victim}.theirs.k1\r\n\
                 Nats-Stream: KV_{victim}\r\nNats-Subject: $KV.{victim}.theirs.k1\r\n\
                 Nats-Sequence: 1",
                Effect::Changed,
            )
            .closed(Ending::NoEffect, own)
            .control(Control::Nowhere),
            put(
                "header-marker",
                "A put that says that the victim's key was deleted",
                "Nats-Marker-Reason: MaxAge\r\nKV-Operation: PURGE\r\n\
                 Nats-Subject: $KV.{victim}.theirs.k1",
                Effect::Changed,
            )
            .closed(Ending::NoEffect, own)
            .control(Control::Nowhere),
            put("header-counter", "A counter's increment", "Nats-Incr: 1", Effect::Changed)
                .closed(Ending::Rejected, off)
                .control(Control::Nowhere)
                .since(2, 12),
            Attack::new(
                "other-part",
                "A put to a key of the victim's",
                Who::Sharer,
                Effect::Changed,
            )
            .step(ask("$KV.{victim}.theirs.k1").body("x"))
            .closed(Ending::Refused, super::NOT_GRANTED)
            .once_granted(&["$KV.{victim}.theirs.k1"])
            .in_prove(),
            Attack::new(
                "other-bucket",
                "A put to a key of the victim's, in a bucket that is the victim's alone",
                Who::Neighbour,
                Effect::Changed,
            )
            .step(ask("$KV.{victim}.theirs.k1").body("x"))
            .closed(Ending::Refused, super::NOT_GRANTED)
            .once_granted(&["$KV.{victim}.theirs.k1"])
            .in_prove(),
            Attack::new(
                "other-bucket-reader",
                "The same by who may read that bucket",
                Who::Reader,
                Effect::Changed,
            )
            .step(ask("$KV.{victim}.theirs.k1").body("x"))
            .closed(Ending::Refused, super::NOT_GRANTED)
            .once_granted(&["$KV.{victim}.theirs.k1"]),
            Attack::new(
                "trace-to-key",
                "A put whose trace is to go to a key of the victim's",
                Who::Neighbour,
                Effect::Changed,
            )
            .step(ask("$KV.{mine}.a").headers("Nats-Trace-Dest: $KV.{victim}.theirs.k1").body("x"))
            .closed(Ending::Refused, "the server asks for leave to publish where a trace goes")
            .control(Control::OneAccountGranted(
                vec!["$KV.{victim}.theirs.k1".to_owned()],
                Vec::new(),
            ))
            .since(2, 11)
            .opened_by(&TRACING)
            .in_prove(),
            Attack::new(
                "trace-to-purge",
                "A put whose trace is to be a request to purge the victim's bucket",
                Who::Neighbour,
                Effect::Changed,
            )
            .step(
                ask("$KV.{mine}.a")
                    .headers("Nats-Trace-Dest: $JS.API.STREAM.PURGE.KV_{victim}")
                    .body("x"),
            )
            .closed(Ending::Refused, "the server asks for leave to publish where a trace goes")
            .control(Control::Nowhere)
            .opened_by(&TRACING)
            .in_prove(),
            Attack::new(
                "trace-to-itself",
                "A put whose trace is to go to itself, to learn of accounts and servers",
                Who::Neighbour,
                Effect::Learns("\"server\""),
            )
            .step(ask("$KV.{mine}.a").headers("Nats-Trace-Dest: _INBOX.{me}.trace").body("x"))
            .closed(Ending::Refused, "the server asks for leave to publish where a trace goes")
            .once_granted(&["_INBOX.{me}.trace"])
            .since(2, 11)
            .opened_by(&TRACING)
            .in_prove(),
            Attack::new(
                "trace-to-itself-answering",
                "The same by a service that may answer into inboxes",
                Who::Sharer,
                Effect::Learns("\"server\""),
            )
            .step(ask("$KV.{mine}.a").headers("Nats-Trace-Dest: _INBOX.{me}.trace").body("x"))
            .known(
                "who may publish into inboxes may have a trace there; it tells by which servers \
                 and accounts the message of its own went, and no message of others",
            )
            .since(2, 11),
            Attack::new(
                "trace-to-own-bucket",
                "A put whose trace is to go to a key of its own, to learn of accounts and servers",
                Who::Neighbour,
                Effect::Learns("\"server\""),
            )
            .step(ask("$KV.{mine}.a").headers("Nats-Trace-Dest: $KV.{mine}.trace").body("x"))
            .step(ask("$JS.API.DIRECT.GET.KV_{mine}.$KV.{mine}.trace").times(50))
            .residual(
                "a trace may go wherever the service may publish, and tells the server's name, \
                 version and feature flags, and the names of the accounts that the message passed, \
                 APP and STATE",
                "put nothing that is secret into the names of servers and accounts; no message, \
                 permission or other client shows in a trace",
            )
            .since(2, 11),
        ],
    }
}
