//! Streams with their consumers, work queues and object stores.

use serde_json::{Value, json};

use super::super::target::{Need, Target};
use super::super::{
    Attack, Control, Effect, Ending, Family, Step, Who, ask, listen, send, victim_writes,
};
use super::{ACCOUNT, NEVER, NOT_GRANTED};

/// The victim's message that is under way, acknowledged: delivered once, the first of the stream
/// and of the consumer.
const ACK: &str = "$JS.ACK.log-{victim}.durable.1.1.1.1.0";
/// Why what uses a consumer cannot change one.
const USES: &str = "`consumes` is information, the next message and acknowledgements, of that \
                    consumer alone";
/// Where a consumer of the attacker's delivers.
const READ: &str = "_INBOX.{me}.read";
/// Why only the owner writes an object store.
const OWNER: &str = "granted to the owner of the store alone";

fn text(body: &Value) -> String {
    if body.is_null() { String::new() } else { body.to_string() }
}

/// One subject that the attacker lacks, and then nothing comes of it.
fn one(
    target: Target,
    id: &'static str,
    title: &'static str,
    subject: &'static str,
    effect: Effect,
) -> Attack {
    Attack::new(id, title, Who::Neighbour, effect)
        .on(target)
        .step(ask(subject).body("x"))
        .closed(Ending::Refused, NOT_GRANTED)
        .once_granted(&[subject])
        .in_prove_with(&[Need::Stored])
}

/// The same for a request of the JetStream API.
fn request(
    target: Target,
    id: &'static str,
    title: &'static str,
    subject: &'static str,
    body: &Value,
    effect: Effect,
) -> Attack {
    let needs: &[Need] = if target == Target::Store { &[Need::Stored] } else { &[Need::Consumer] };
    one(target, id, title, subject, effect)
        .instead(ask(subject).body(&text(body)))
        .in_prove_with(needs)
}

/// A request that ordinary grants allow, with a subject of the victim's as its reply subject.
fn forged(target: Target, id: &'static str, title: &'static str, step: Step) -> Attack {
    Attack::new(id, title, Who::Neighbour, Effect::Changed)
        .on(target)
        .step(step.reply(target.written()))
        .closed(Ending::NoEffect, ACCOUNT)
        .control(Control::OneAccount)
        .rehearsed()
        .in_prove_with(&[Need::Stored])
}

/// A consumer of the attacker's that delivers what it reads, with such settings besides. The attacker
/// listens there.
fn reader(target: Target, settings: &Value) -> Value {
    let mut config = json!({"ack_policy": "none", "deliver_subject": READ,
        "inactive_threshold": 60_000_000_000_u64});
    if let (Some(config), Some(settings)) = (config.as_object_mut(), settings.as_object()) {
        config.extend(settings.clone());
    }
    json!({"stream_name": target.stream(), "config": config})
}

/// What an acknowledgement of a batch with the victim's message and the attacker's says.
const BOTH: Effect = Effect::Learns("\"count\":2");

/// The victim begins an atomic batch, and the attacker ends it with a message to `to`.
fn joins(target: Target, to: &'static str, id: &'static str, title: &'static str) -> Attack {
    let end = "Nats-Batch-Id: b\r\nNats-Batch-Sequence: 2\r\nNats-Batch-Commit: 1";
    Attack::new(id, title, Who::Sharer, BOTH)
        .on(target)
        .step(victim_writes("Nats-Batch-Id: b\r\nNats-Batch-Sequence: 1"))
        .step(ask(to).headers(end).body("x"))
        .since(2, 12)
}

/// The same with a fast batch, whose id is in the reply subject: 0 begins it, and 2 ends it.
fn joins_fast(target: Target, to: &'static str, id: &'static str, title: &'static str) -> Attack {
    Attack::new(id, title, Who::Sharer, BOTH)
        .on(target)
        .step(victim_writes("").reply("_INBOX.{them}.b.10.fail.1.0.$FI"))
        .step(send(to).reply("_INBOX.{me}.b.10.fail.2.2.$FI").body("x"))
        .since(2, 14)
}

pub(super) fn writing() -> Family {
    let (stream, queue) = (Target::Stream, Target::WorkQueue);
    let written = "attack.log.{victim}.new";
    Family {
        title: "Streams with one writer",
        about: "The victim alone publishes what its stream keeps. The attacker has a stream of its \
                own, and a durable consumer on that.",
        attacks: vec![
            one(
                stream,
                "stream-write",
                "A message of its own in the victim's stream",
                "attack.log.{victim}.forged",
                Effect::Changed,
            ),
            one(
                queue,
                "queue-write",
                "A task of its own in the victim's work queue",
                "attack.work.{victim}.forged",
                Effect::Changed,
            ),
            forged(
                stream,
                "stream-reply-put",
                "A message to its own stream: the acknowledgement would be kept",
                send("attack.log.{mine}.a").body("x"),
            ),
            forged(
                stream,
                "stream-reply-next",
                "The next message of its own consumer: a message of the attacker's choice would be \
                 kept",
                send("$JS.API.CONSUMER.MSG.NEXT.log-{mine}.durable"),
            ),
            forged(
                stream,
                "stream-reply-info",
                "A look at its own consumer: the answer would be kept",
                send("$JS.API.CONSUMER.INFO.log-{mine}.durable"),
            ),
            forged(
                stream,
                "stream-reply-direct-get",
                "A direct get of its own value: it would be kept",
                send("$JS.API.DIRECT.GET.KV_{mine}.$KV.{mine}.payload"),
            ),
            forged(
                stream,
                "stream-reply-ack-next",
                "An acknowledgement that asks for the next message: it would be kept",
                send("$JS.ACK.log-{mine}.durable.1.1.1.1.0").body("+NXT"),
            )
            .first(ask("$JS.API.CONSUMER.MSG.NEXT.log-{mine}.durable"))
            .in_prove_with(&[Need::Stored, Need::Acks]),
            forged(
                queue,
                "queue-reply-next",
                "The next message of its own consumer, as a task in the victim's work queue",
                send("$JS.API.CONSUMER.MSG.NEXT.log-{mine}.durable"),
            ),
            joins(
                stream,
                written,
                "stream-batch-join",
                "The victim's atomic batch, joined and ended",
            )
            .by(Who::Neighbour)
            .bucket(json!({"allow_atomic": true}))
            .closed(Ending::Refused, NOT_GRANTED)
            .once_granted(&[written]),
            joins_fast(
                stream,
                written,
                "stream-batch-fast",
                "The victim's fast batch, joined and ended",
            )
            .by(Who::Neighbour)
            .bucket(json!({"allow_batched": true}))
            .closed(Ending::Refused, NOT_GRANTED)
            .once_granted(&[written]),
            request(
                stream,
                "stream-purge-subject",
                "A subject of the victim's stream, purged",
                "$JS.API.STREAM.PURGE.log-{victim}",
                &json!({"filter": "attack.log.{victim}.new"}),
                Effect::Changed,
            ),
            request(
                stream,
                "stream-erase",
                "A message of the victim's stream, deleted",
                "$JS.API.STREAM.MSG.DELETE.log-{victim}",
                &json!({"seq": 1}),
                Effect::Changed,
            )
            .closed(Ending::Refused, NEVER),
            request(
                stream,
                "stream-change",
                "The victim's stream, changed to keep one message",
                "$JS.API.STREAM.UPDATE.log-{victim}",
                &json!({"name": "log-{victim}", "subjects": ["attack.log.{victim}.>"],
                    "storage": "memory", "allow_direct": true, "max_msgs": 1}),
                Effect::Changed,
            )
            .closed(Ending::Refused, NEVER),
            request(
                stream,
                "stream-read-ephemeral",
                "A consumer of its own, to read the victim's stream",
                "$JS.API.CONSUMER.CREATE.log-{victim}",
                &reader(stream, &Value::Null),
                Effect::Learns("{secret}"),
            )
            .first(listen(READ)),
            request(
                stream,
                "stream-read-direct",
                "The last message of a subject of the victim's stream",
                "$JS.API.DIRECT.GET.log-{victim}.attack.log.{victim}.new",
                &Value::Null,
                Effect::Learns("{secret}"),
            ),
            request(
                stream,
                "stream-read-message",
                "A message of the victim's stream by its number",
                "$JS.API.STREAM.MSG.GET.log-{victim}",
                &json!({"seq": 1}),
                Effect::Learns("{secret}"),
            ),
        ],
    }
}

/// A request about the victim's durable consumer.
fn about(id: &'static str, title: &'static str, subject: &'static str, body: &Value) -> Attack {
    request(Target::Stream, id, title, subject, body, Effect::Consumer)
        .closed(Ending::Refused, USES)
}

pub(super) fn consumers() -> Family {
    let stream = Target::Stream;
    let turned = json!({"stream_name": "log-{victim}", "config": {"name": "durable",
        "durable_name": "durable", "deliver_policy": "all", "ack_policy": "explicit",
        "description": "turned", "max_deliver": 1, "mem_storage": true}});
    let mut filtered = turned.clone();
    filtered["config"]["filter_subject"] = json!("attack.log.{victim}.none");
    let bare = json!({"stream_name": "log-{victim}", "config": {"name": "durable",
        "deliver_policy": "all", "ack_policy": "explicit", "description": "turned",
        "mem_storage": true}});
    let ack = |id, title, body: &'static str, effect| {
        one(stream, id, title, ACK, effect)
            .instead(ask(ACK).body(body))
            .closed(Ending::Refused, USES)
            .in_prove_with(&[Need::Acks])
    };
    Family {
        title: "Durable consumers",
        about: "The victim has a durable consumer on its stream, and one message under way. The \
                attacker knows the name, which is in the policy.",
        attacks: vec![
            ack("ack-other", "The message acknowledged, in its place", "+ACK", Effect::Consumer),
            ack("ack-term", "The message given up, in its place", "+TERM", Effect::Consumer),
            ack("ack-nak", "The message asked for again, in its place", "-NAK", Effect::Accepted),
            ack("ack-progress", "The message kept under way", "+WPI", Effect::Accepted),
            ack(
                "ack-next",
                "An acknowledgement that asks for the next message",
                "+NXT",
                Effect::Learns("{secret}"),
            ),
            Attack::new(
                "ack-other-v2",
                "The message acknowledged, in the form that has domain and account",
                Who::Neighbour,
                Effect::Consumer,
            )
            .on(stream)
            .step(ask("$JS.ACK._.7oMV6m2w.log-{victim}.durable.1.1.1.1.0").body("+ACK"))
            .closed(Ending::Refused, USES)
            .control(Control::Nowhere),
            Attack::new(
                "ack-shifted",
                "The same, with the attacker's own consumer where the newer form has it",
                Who::Neighbour,
                Effect::Consumer,
            )
            .on(stream)
            .step(ask("$JS.ACK.log-{victim}.durable.log-{mine}.durable.1.1.0").body("+ACK"))
            .closed(
                Ending::NoEffect,
                "where the newer form has a stream, the older one has a number, and no stream that \
                 the policy declares is one",
            )
            .control(Control::Nowhere),
            about(
                "durable-next",
                "The next message of the victim's consumer, taken",
                "$JS.API.CONSUMER.MSG.NEXT.log-{victim}.durable",
                &json!({"batch": 1, "expires": 1_000_000_000}),
            ),
            request(
                Target::WorkQueue,
                "queue-next",
                "A task of the victim's work queue, taken",
                "$JS.API.CONSUMER.MSG.NEXT.work-{victim}.durable",
                &json!({"batch": 1, "expires": 1_000_000_000}),
                Effect::Learns("{secret}"),
            )
            .closed(Ending::Refused, USES),
            one(
                Target::WorkQueue,
                "queue-ack",
                "A task of the victim's, acknowledged in its place: it is gone",
                "$JS.ACK.work-{victim}.durable.1.1.1.1.0",
                Effect::Changed,
            )
            .instead(ask("$JS.ACK.work-{victim}.durable.1.1.1.1.0").body("+ACK"))
            .closed(Ending::Refused, USES)
            .in_prove_with(&[Need::Acks]),
            one(
                Target::WorkQueue,
                "queue-drain",
                "All tasks of the victim's, taken and acknowledged: the work queue is empty",
                "$JS.API.CONSUMER.MSG.NEXT.work-{victim}.durable",
                Effect::Changed,
            )
            .instead(ask("$JS.API.CONSUMER.MSG.NEXT.work-{victim}.durable"))
            .step(ask("$JS.ACK.work-{victim}.durable.1.2.2.1.0").body("+ACK"))
            .step(ask("$JS.ACK.work-{victim}.durable.1.1.1.1.0").body("+ACK"))
            .closed(Ending::Refused, USES)
            .once_granted(&[
                "$JS.API.CONSUMER.MSG.NEXT.work-{victim}.durable",
                "$JS.ACK.work-{victim}.durable.>",
            ])
            .in_prove_with(&[Need::Consumer, Need::Acks]),
            about(
                "durable-create-over",
                "The victim's consumer, made anew with one delivery of each message",
                "$JS.API.CONSUMER.CREATE.log-{victim}.durable",
                &turned,
            ),
            about(
                "durable-create-filter",
                "The same with another filter in the subject",
                "$JS.API.CONSUMER.CREATE.log-{victim}.durable.attack.log.{victim}.none",
                &filtered,
            ),
            about(
                "durable-create-bare",
                "The same with the name in the body alone",
                "$JS.API.CONSUMER.CREATE.log-{victim}",
                &bare,
            ),
            about(
                "durable-create-older",
                "The same as older libraries ask for it",
                "$JS.API.CONSUMER.DURABLE.CREATE.log-{victim}.durable",
                &turned,
            )
            .closed(Ending::Refused, NEVER),
            about(
                "durable-delete",
                "The victim's consumer, deleted",
                "$JS.API.CONSUMER.DELETE.log-{victim}.durable",
                &Value::Null,
            ),
            about(
                "durable-pause",
                "The victim's consumer, paused",
                "$JS.API.CONSUMER.PAUSE.log-{victim}.durable",
                &json!({"pause_until": "2099-01-01T00:00:00Z"}),
            )
            .closed(Ending::Refused, NEVER)
            .since(2, 11),
            request(
                stream,
                "durable-reset",
                "The victim's consumer, set back to its beginning",
                "$JS.API.CONSUMER.RESET.log-{victim}.durable",
                &json!({"seq": 1}),
                Effect::Answered,
            )
            .closed(Ending::Refused, NEVER)
            .since(2, 14),
            request(
                stream,
                "durable-unpin",
                "The client that a consumer of the victim's is pinned to, unpinned",
                "$JS.API.CONSUMER.UNPIN.log-{victim}.pinned",
                &json!({"group": "g"}),
                Effect::Answered,
            )
            .first(Step::AdminAsks(
                "CONSUMER.CREATE.log-{victim}.pinned".to_owned(),
                super::administration::pinned(stream).to_string(),
            ))
            .closed(Ending::Refused, NEVER)
            .since(2, 11),
            request(
                stream,
                "durable-info",
                "A look at the victim's consumer",
                "$JS.API.CONSUMER.INFO.log-{victim}.durable",
                &Value::Null,
                Effect::Answered,
            )
            .closed(Ending::Refused, USES),
            Attack::new(
                "durable-own-create",
                "Its own consumer, changed: it reads what the policy did not declare",
                Who::Neighbour,
                Effect::Answered,
            )
            .on(stream)
            .step(
                ask("$JS.API.CONSUMER.CREATE.log-{mine}.durable")
                    .body(&turned.to_string().replace("{victim}", "{mine}")),
            )
            .closed(Ending::Refused, USES)
            .once_granted(&["$JS.API.CONSUMER.CREATE.log-{mine}.durable"])
            .in_prove_with(&[Need::Consumer]),
        ],
    }
}

/// A replayer of other subjects asks for what is not its own.
fn replay(
    id: &'static str,
    title: &'static str,
    subject: &'static str,
    body: &Value,
    effect: Effect,
) -> Attack {
    request(Target::Stream, id, title, subject, body, effect)
        .by(Who::PartReader)
        .in_prove_with(&[Need::Replay])
}

pub(super) fn replays() -> Family {
    let denied = "each declared consumer is denied by its name";
    let filter = "`replays` is bounded by the subject in the request";
    let secret = Effect::Learns("{secret}");
    let create =
        |filter: &str| reader(Target::Stream, &json!({"name": "own", "filter_subject": filter}));
    let turned = json!({"stream_name": "log-{victim}", "config": {"name": "durable",
        "durable_name": "durable", "deliver_policy": "all", "ack_policy": "explicit",
        "description": "turned", "filter_subject": "attack.log.{victim}.open.>", "mem_storage": true}});
    let last = json!({"last_by_subj": "attack.log.{victim}.new"});
    let whole = "$JS.API.CONSUMER.CREATE.log-{victim}.own";
    let direct = "$JS.API.DIRECT.GET.log-{victim}";
    Family {
        title: "Replays of a part of a stream",
        about: "The part reader `replays` what is below `open` in the victim's stream: it makes \
                consumers under any name, with that filter.",
        attacks: vec![
            replay(
                "replay-filter",
                "A consumer for a subject that is not its own",
                "$JS.API.CONSUMER.CREATE.log-{victim}.own.attack.log.{victim}.new",
                &create("attack.log.{victim}.new"),
                secret,
            )
            .first(listen(READ))
            .closed(Ending::Refused, filter),
            replay(
                "replay-body",
                "A consumer with its own filter in the subject, and another one in the body",
                "$JS.API.CONSUMER.CREATE.log-{victim}.own.attack.log.{victim}.open.>",
                &create("attack.log.{victim}.new"),
                secret,
            )
            .first(listen(READ))
            .closed(Ending::Rejected, "the server holds the filter in the body against the subject")
            .control(Control::Instead(
                ask(whole).body(&create("attack.log.{victim}.new").to_string()),
                whole.to_owned(),
            )),
            replay("replay-no-filter", "A consumer without a filter", whole, &create(""), secret)
                .first(listen(READ))
                .closed(Ending::Refused, filter),
            replay(
                "replay-direct",
                "The last message of a subject that is not its own",
                "$JS.API.DIRECT.GET.log-{victim}.attack.log.{victim}.new",
                &Value::Null,
                secret,
            )
            .closed(Ending::Refused, filter),
            replay(
                "replay-direct-body",
                "The same, with a subject of its own in the request and another one in the body",
                "$JS.API.DIRECT.GET.log-{victim}.attack.log.{victim}.open.x",
                &last,
                secret,
            )
            .closed(Ending::Rejected, "the server takes no body there")
            .control(Control::Instead(ask(direct).body(&last.to_string()), direct.to_owned())),
            replay(
                "replay-create-over",
                "The victim's durable consumer, made anew with its own filter",
                "$JS.API.CONSUMER.CREATE.log-{victim}.durable.attack.log.{victim}.open.>",
                &turned,
                Effect::Consumer,
            )
            .closed(Ending::Refused, denied),
            replay(
                "replay-delete",
                "The victim's durable consumer, deleted",
                "$JS.API.CONSUMER.DELETE.log-{victim}.durable",
                &Value::Null,
                Effect::Consumer,
            )
            .closed(Ending::Refused, denied),
            replay(
                "replay-next",
                "The next message of the victim's durable consumer",
                "$JS.API.CONSUMER.MSG.NEXT.log-{victim}.durable",
                &Value::Null,
                secret,
            )
            .closed(Ending::Refused, denied),
            replay(
                "replay-info",
                "A look at the victim's durable consumer",
                "$JS.API.CONSUMER.INFO.log-{victim}.durable",
                &Value::Null,
                Effect::Answered,
            )
            .closed(Ending::Refused, denied),
            replay(
                "replay-ack",
                "A message of the victim's durable consumer, acknowledged in its place",
                ACK,
                &Value::Null,
                Effect::Consumer,
            )
            .closed(Ending::Refused, denied)
            .in_prove_with(&[Need::Replay, Need::Acks]),
            replay(
                "replay-purge",
                "A subject of the stream that it replays, purged",
                "$JS.API.STREAM.PURGE.log-{victim}",
                &json!({"filter": "attack.log.{victim}.new"}),
                Effect::Changed,
            )
            .closed(Ending::Refused, NOT_GRANTED),
            replay(
                "replay-write",
                "A message in the stream that it replays",
                "attack.log.{victim}.open.forged",
                &Value::Null,
                Effect::Changed,
            )
            .closed(Ending::Refused, NOT_GRANTED)
            .in_prove_with(&[Need::Replay, Need::Stored]),
        ],
    }
}

pub(super) fn shared() -> Family {
    let own = "attack.both.{victim}.mine.a";
    let put = |id, title, headers: &str, effect| {
        Attack::new(id, title, Who::Sharer, effect)
            .on(Target::Shared)
            .step(ask(own).headers(headers).body("x"))
    };
    let off = "the setting is off in every stream with several writers that the policy declares";
    Family {
        title: "Streams with several writers",
        about: "The attacker publishes what is below `mine`, the victim what is below `theirs`, in \
                one stream.",
        attacks: vec![
            Attack::new(
                "both-write",
                "A message in the victim's place",
                Who::Sharer,
                Effect::Changed,
            )
            .on(Target::Shared)
            .step(ask("attack.both.{victim}.theirs.forged").body("x"))
            .closed(Ending::Refused, NOT_GRANTED)
            .once_granted(&["attack.both.{victim}.theirs.forged"])
            .in_prove_with(&[Need::Stored]),
            put(
                "both-msg-id",
                "Take the message id that the victim will use",
                "Nats-Msg-Id: next",
                Effect::Blocked,
            )
            .step(Step::Pass(300))
            .step(victim_writes("Nats-Msg-Id: next"))
            .closed(
                Ending::NoEffect,
                "a stream with several writers has the least duplicate window, 100 ms",
            )
            .control(Control::Bucket(json!({"duplicate_window": 120_000_000_000_u64}))),
            put("both-rollup", "Erase everyone's messages", "Nats-Rollup: all", Effect::Changed)
                .closed(Ending::Rejected, off)
                .control(Control::Bucket(json!({"allow_rollup_hdrs": true})))
                .in_prove_with(&[Need::Stored]),
            Attack::new(
                "both-evict",
                "So many messages that the victim's are dropped",
                Who::Sharer,
                Effect::Changed,
            )
            .on(Target::Shared)
            .step(send(own).body("x").times(40))
            .closed(Ending::NoEffect, "the policy check refuses a cap that drops old messages")
            .control(Control::Bucket(json!({"max_msgs": 20}))),
            put(
                "both-schedule",
                "A message that JetStream stores, later, in the victim's place",
                "Nats-Schedule: @at 2020-01-01T00:00:00Z\r\n\
                 Nats-Schedule-Target: attack.both.{victim}.theirs.forged",
                Effect::Changed,
            )
            .closed(Ending::Rejected, off)
            .control(Control::Bucket(json!({"allow_msg_schedules": true})))
            .since(2, 12),
            put(
                "both-batch",
                "An atomic batch that is never finished",
                "Nats-Batch-Id: b\r\nNats-Batch-Sequence: 1",
                Effect::Blocked,
            )
            .step(victim_writes(""))
            .closed(Ending::Rejected, off)
            .control(Control::Nowhere)
            .since(2, 12),
            joins(Target::Shared, own, "both-batch-join", "The victim's atomic batch, ended early")
                .closed(Ending::Rejected, off)
                .control(Control::Bucket(json!({"allow_atomic": true}))),
            joins_fast(
                Target::Shared,
                own,
                "both-batch-fast",
                "The victim's fast batch, ended early",
            )
            .closed(Ending::Rejected, off)
            .control(Control::Bucket(json!({"allow_batched": true}))),
            request(
                Target::Shared,
                "both-purge",
                "A subject of the victim's, purged by another writer",
                "$JS.API.STREAM.PURGE.both-{victim}",
                &json!({"filter": "attack.both.{victim}.theirs.new"}),
                Effect::Changed,
            )
            .by(Who::Sharer),
        ],
    }
}

pub(super) fn stores() -> Family {
    let store = Target::Store;
    let write = |id, title, subject| {
        one(store, id, title, subject, Effect::Changed).closed(Ending::Refused, OWNER)
    };
    // The probers of `prove` have neither the rights of a reader nor a store of the attacker's.
    let of = |who, attack: Attack| attack.by(who).not_in_prove();
    let purge = json!({"filter": "$O.{victim}.C.chunk"});
    Family {
        title: "Object stores",
        about: "The victim's store holds an object; the part owner has a store of its own.",
        attacks: vec![
            write("object-chunk", "Content of an object, forged", "$O.{victim}.C.chunk"),
            write("object-meta", "Another content for an object", "$O.{victim}.M.b25l").instead(
                ask("$O.{victim}.M.b25l")
                    .headers("Nats-Rollup: sub")
                    .body("{\"name\":\"one\",\"nuid\":\"forged\"}"),
            ),
            of(
                Who::Reader,
                write(
                    "object-meta-reader",
                    "The same by a reader of the store",
                    "$O.{victim}.M.b25l",
                )
                .instead(
                    ask("$O.{victim}.M.b25l")
                        .headers("Nats-Rollup: sub")
                        .body("{\"name\":\"one\",\"nuid\":\"forged\"}"),
                ),
            ),
            request(
                store,
                "object-purge",
                "The content of an object, removed",
                "$JS.API.STREAM.PURGE.OBJ_{victim}",
                &purge,
                Effect::Changed,
            )
            .closed(Ending::Refused, OWNER),
            of(
                Who::Reader,
                request(
                    store,
                    "object-purge-reader",
                    "The same by a reader of the store",
                    "$JS.API.STREAM.PURGE.OBJ_{victim}",
                    &purge,
                    Effect::Changed,
                )
                .closed(Ending::Refused, OWNER),
            ),
            request(
                store,
                "object-seal",
                "The victim's store, sealed",
                "$JS.API.STREAM.UPDATE.OBJ_{victim}",
                &json!({"name": "OBJ_{victim}", "subjects": ["$O.{victim}.C.>", "$O.{victim}.M.>"],
                    "storage": "memory", "discard": "new", "allow_direct": true,
                    "allow_rollup_hdrs": true, "sealed": true}),
                Effect::Stream,
            )
            .closed(Ending::Refused, NEVER),
            of(
                Who::Sharer,
                forged(
                    store,
                    "object-reply-put",
                    "A put into its own store: the acknowledgement would be an object of the \
                     victim's",
                    send("$O.{mine}.C.a").body("x"),
                ),
            ),
            of(
                Who::Sharer,
                forged(
                    store,
                    "object-reply-get",
                    "A get of its own content: it would be an object of the victim's",
                    send("$JS.API.STREAM.MSG.GET.OBJ_{mine}")
                        .body("{\"last_by_subj\":\"$O.{mine}.C.payload\"}"),
                ),
            ),
            forged(
                store,
                "object-reply-direct-get",
                "A direct get of its own value: it would be an object of the victim's",
                send("$JS.API.DIRECT.GET.KV_{mine}.$KV.{mine}.payload"),
            ),
            Attack::new(
                "object-names-reader",
                "The names of all streams, by a reader of the store",
                Who::Reader,
                Effect::Learns("KV_{victim}"),
            )
            .on(store)
            .step(ask("$JS.API.STREAM.NAMES"))
            .residual(
                "client libraries (nats.py, nats.go) find a store by this request, and it names every stream",
                "put no secret into the name of a stream, a bucket or a store",
            ),
            request(
                store,
                "object-read",
                "A consumer, to read the victim's store",
                "$JS.API.CONSUMER.CREATE.OBJ_{victim}",
                &reader(store, &Value::Null),
                Effect::Learns("{secret}"),
            )
            .first(listen(READ)),
            request(
                store,
                "object-read-message",
                "Content of an object, by its number",
                "$JS.API.STREAM.MSG.GET.OBJ_{victim}",
                &json!({"seq": 1}),
                Effect::Learns("{secret}"),
            ),
        ],
    }
}
