//! Administration: of streams, of consumers, of accounts and servers.

use serde_json::{Value, json};

use super::super::{Attack, Control, Effect, Ending, Family, Step, Who, ask, send};
use super::{NEVER, NOT_GRANTED};
use crate::prove::target::{MADE_BY, Target};

/// Why a request is refused that some client libraries need for object stores.
const STORES: &str = "granted to users of object stores alone";

/// A request that needs one grant more than anyone has.
fn request(
    id: &'static str,
    title: &'static str,
    subject: &'static str,
    body: &Value,
    effect: Effect,
) -> Attack {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Attack::new(id, title, Who::Neighbour, effect)
        .step(ask(subject).body(&body))
        .closed(Ending::Refused, NEVER)
        .once_granted(&[subject])
        .in_prove()
}

/// A stream of the attacker's making, with such settings.
fn create(id: &'static str, title: &'static str, settings: Value, effect: Effect) -> Attack {
    let mut config = json!({"name": "attack-{victim}", "description": MADE_BY,
        "storage": "memory", "num_replicas": 1, "retention": "limits", "discard": "old"});
    if let (Some(config), Value::Object(settings)) = (config.as_object_mut(), settings) {
        config.extend(settings);
    }
    request(id, title, "$JS.API.STREAM.CREATE.attack-{victim}", &config, effect)
}

/// The victim's stream, with such settings.
fn update(id: &'static str, title: &'static str, settings: Value, effect: Effect) -> Attack {
    let mut config = json!({"name": "KV_{victim}", "subjects": ["$KV.{victim}.>"],
        "max_msgs_per_subject": 5, "storage": "memory", "discard": "new", "retention": "limits",
        "allow_rollup_hdrs": true, "deny_delete": true, "allow_direct": true, "num_replicas": 1,
        "max_msgs": -1, "max_bytes": -1});
    if let (Some(config), Value::Object(settings)) = (config.as_object_mut(), settings) {
        config.extend(settings);
    }
    request(id, title, "$JS.API.STREAM.UPDATE.KV_{victim}", &config, effect)
}

/// A consumer of a priority group, in the victim's stream.
pub(super) fn pinned(target: Target) -> Value {
    let minute = 60_000_000_000_u64;
    json!({"stream_name": target.stream(), "config": {"name": "pinned", "deliver_policy": "all",
        "ack_policy": "explicit", "inactive_threshold": minute, "priority_groups": ["g"],
        "priority_policy": "pinned_client", "priority_timeout": minute}})
}

pub(super) fn streams() -> Family {
    let there = Effect::Appears("attack-{victim}");
    let key = "$KV.{victim}.theirs.k1";
    Family {
        title: "Streams",
        about: "What whoever may administer streams can do. Each works with the one grant added.",
        attacks: vec![
            create("stream-create", "A stream of its own", json!({"subjects": ["attack.{victim}.>"]}), there),
            create(
                "stream-mirror",
                "A mirror of the victim's bucket, to read it",
                json!({"mirror": {"name": "KV_{victim}"}}),
                there,
            ),
            create(
                "stream-source",
                "A stream that sources the victim's bucket, to read it",
                json!({"subjects": ["attack.{victim}.>"], "sources": [{"name": "KV_{victim}"}]}),
                there,
            ),
            create(
                "stream-republish",
                "A stream that republishes into the victim's keys",
                json!({"subjects": ["attack.{victim}.>"], "republish": {"src": "attack.{victim}.>", "dest": "$KV.{victim}.theirs.>"}}),
                there,
            ),
            create(
                "stream-transform",
                "A stream that transforms what it sources",
                json!({"sources": [{"name": "KV_{victim}", "subject_transforms":
                    [{"src": "$KV.{victim}.>", "dest": "$KV.{mine}.>"}]}]}),
                there,
            ),
            update(
                "stream-update-republish",
                "The victim's stream, changed to republish everything to the attacker",
                json!({"republish": {"src": "$KV.{victim}.>", "dest": "_INBOX.{me}.all.>"}}),
                Effect::Stream,
            ),
            update(
                "stream-update-rollup",
                "The victim's stream, changed to refuse rollups",
                json!({"allow_rollup_hdrs": false, "deny_purge": true}),
                Effect::Stream,
            ),
            update(
                "stream-update-history",
                "The victim's stream, changed to hold one message",
                json!({"max_msgs": 1, "discard": "old"}),
                Effect::Changed,
            ),
            request(
                "stream-delete",
                "The victim's stream, deleted",
                "$JS.API.STREAM.DELETE.KV_{victim}",
                &Value::Null,
                Effect::Stream,
            ),
            request(
                "stream-purge",
                "The victim's bucket, purged",
                "$JS.API.STREAM.PURGE.KV_{victim}",
                &Value::Null,
                Effect::Changed,
            )
            .closed(Ending::Refused, "granted to the owner of the whole bucket alone"),
            request(
                "stream-purge-key",
                "A key of the victim's, purged",
                "$JS.API.STREAM.PURGE.KV_{victim}",
                &json!({"filter": key}),
                Effect::Changed,
            )
            .closed(Ending::Refused, "granted to the owner of the whole bucket alone"),
            request(
                "stream-msg-delete",
                "A message of the victim's, deleted",
                "$JS.API.STREAM.MSG.DELETE.KV_{victim}",
                &json!({"seq": 1}),
                Effect::Changed,
            )
            .bucket(json!({"deny_delete": false})),
            request(
                "stream-snapshot",
                "The victim's bucket, copied to the attacker's inbox",
                "$JS.API.STREAM.SNAPSHOT.KV_{victim}",
                &json!({"deliver_subject": "_INBOX.{me}.snapshot"}),
                Effect::Answered,
            )
            .bucket(json!({"storage": "file"})),
            request(
                "stream-restore",
                "A stream restored from the attacker's bytes",
                "$JS.API.STREAM.RESTORE.attack-{victim}",
                &json!({"config": {"name": "attack-{victim}", "description": MADE_BY,
                    "subjects": ["attack.{victim}.>"], "storage": "memory", "num_replicas": 1,
                    "retention": "limits", "discard": "old"}, "state": {}}),
                Effect::Answered,
            ),
            request(
                "stream-list",
                "All streams, listed",
                "$JS.API.STREAM.LIST",
                &Value::Null,
                Effect::Learns("KV_{victim}"),
            ),
            request(
                "stream-names",
                "The names of all streams",
                "$JS.API.STREAM.NAMES",
                &Value::Null,
                Effect::Learns("KV_{victim}"),
            )
            .closed(Ending::Refused, STORES),
            request(
                "stream-info",
                "The names of the victim's keys",
                "$JS.API.STREAM.INFO.KV_{victim}",
                &json!({"subjects_filter": ">"}),
                Effect::Learns("theirs.k1"),
            )
            .closed(Ending::Refused, "granted to those who may read the bucket")
            .not_in_prove(),
            Attack::new(
                "stream-info-reader",
                "The names of all keys, by a reader of some of them",
                Who::PartReader,
                Effect::Learns("theirs.k1"),
            )
            .step(ask("$JS.API.STREAM.INFO.KV_{victim}").body("{\"subjects_filter\":\">\"}"))
            .known(
                "every client needs STREAM.INFO to open a bucket, and it shows names and numbers of \
                 keys, never values; let no key's name be a secret",
            ),
            request(
                "stream-stepdown",
                "The leader of the victim's stream, made to step down",
                "$JS.API.STREAM.LEADER.STEPDOWN.KV_{victim}",
                &Value::Null,
                Effect::Answered,
            )
            .on_a_cluster(),
            request(
                "stream-peer-remove",
                "A server, removed from the victim's stream",
                "$JS.API.STREAM.PEER.REMOVE.KV_{victim}",
                &json!({"peer": "node-1"}),
                Effect::Accepted,
            )
            .on_a_cluster(),
        ],
    }
}

/// A request about the victim's consumer, of which the attacker knows the name.
fn about(
    id: &'static str,
    title: &'static str,
    subject: &'static str,
    body: &Value,
    effect: Effect,
) -> Attack {
    request(id, title, subject, body, effect)
}

const CREATES: &str = "creating a consumer under a name that exists changes it, and readers create \
                       consumers";
const NAME: &str = "a client that reads a bucket has to see and end its own watches, whose names \
                    cannot be known beforehand";
const RANDOM: &str = "client libraries name consumers with 22 random characters, and their names \
                      are listed to nobody; a client whose watch ends starts it again";

pub(super) fn consumers() -> Family {
    let changed = Effect::Consumer;
    let minute = 60_000_000_000_u64;
    let turned = |name: &str, durable: bool| {
        let mut config = json!({"name": name, "deliver_policy": "all", "ack_policy": "explicit",
            "description": "turned", "inactive_threshold": minute,
            "filter_subject": "$KV.{victim}.theirs.>", "mem_storage": true});
        if durable {
            config["durable_name"] = json!(name);
        }
        json!({"stream_name": "KV_{victim}", "config": config})
    };
    Family {
        title: "Consumers of others",
        about: "The victim's consumers are named `watch` and `pull`, and the attacker knows it; \
                in truth their names are random.",
        attacks: vec![
            about(
                "consumer-delete",
                "The end of the victim's watch",
                "$JS.API.CONSUMER.DELETE.KV_{victim}.watch",
                &Value::Null,
                changed,
            )
            .closed(Ending::Refused, "granted to those who may read the bucket")
            .not_in_prove(),
            // Who reads a part may answer it, so `prove` does not try it.
            about(
                "flow-control-forged",
                "Flow control of the victim's watch, answered by another",
                "$JS.FC.KV_{victim}.watch.abcd",
                &Value::Null,
                Effect::Accepted,
            )
            .not_in_prove(),
            about(
                "flow-control-forged-v2",
                "The same in the form that has domain and account",
                "$JS.FC._.7oMV6m2w.KV_{victim}.watch.abcd",
                &Value::Null,
                Effect::Accepted,
            )
            .not_in_prove(),
            Attack::new(
                "flow-control-shifted",
                "The same with the attacker's own bucket where the newer form has it",
                Who::Neighbour,
                changed,
            )
            .step(ask("$JS.FC.KV_{victim}.watch.KV_{mine}.watch.abcd"))
            .closed(
                Ending::NoEffect,
                "the server listens to literal subjects of five or seven tokens, and in the newer \
                 form the fifth is the stream",
            )
            .control(Control::Nowhere),
            Attack::new(
                "flow-control-reply",
                "A put whose acknowledgement would be such an answer",
                Who::Neighbour,
                changed,
            )
            .step(send("$KV.{mine}.a").reply("$JS.FC.KV_{victim}.watch.abcd").body("x"))
            .closed(Ending::NoEffect, super::ACCOUNT)
            .control(Control::Nowhere)
            .in_prove(),
            Attack::new(
                "flow-control-reader",
                "Answers to the flow control of the victim's watch, guessed, by a reader of the \
                 bucket",
                Who::Reader,
                changed,
            )
            .step(send("$JS.FC.KV_{victim}.watch.abcd").times(200))
            .closed(
                Ending::NoEffect,
                "the right one has four random characters, besides the consumer's name; who knew \
                 both would have the server send more at once, and not less, and nothing is lost",
            )
            .control(Control::Nowhere),
            Attack::new(
                "consumer-delete-reader",
                "The end of the victim's watch, by a reader of the bucket",
                Who::Reader,
                changed,
            )
            .step(ask("$JS.API.CONSUMER.DELETE.KV_{victim}.watch"))
            .residual(NAME, RANDOM),
            Attack::new(
                "consumer-delete-part-reader",
                "The end of the victim's watch, by a reader of other keys in the bucket",
                Who::PartReader,
                changed,
            )
            .step(ask("$JS.API.CONSUMER.DELETE.KV_{victim}.watch"))
            .residual(NAME, RANDOM),
            Attack::new(
                "consumer-info-reader",
                "A look at the victim's watch, by a reader of other keys in the bucket",
                Who::PartReader,
                Effect::Learns("$KV.{victim}.theirs."),
            )
            .step(ask("$JS.API.CONSUMER.INFO.KV_{victim}.watch"))
            .residual(NAME, RANDOM),
            Attack::new(
                "consumer-update-reader",
                "The victim's durable consumer, changed, by a reader of the bucket",
                Who::Reader,
                changed,
            )
            .step(
                ask("$JS.API.CONSUMER.CREATE.KV_{victim}.durable")
                    .body(&turned("durable", true).to_string()),
            )
            .residual(CREATES, "KV clients make none that are durable: use none on a bucket"),
            Attack::new(
                "consumer-update-watch",
                "A pull consumer of the victim's, changed, by a reader of the bucket",
                Who::Reader,
                changed,
            )
            .step(
                ask("$JS.API.CONSUMER.CREATE.KV_{victim}.pull")
                    .body(&turned("pull", false).to_string()),
            )
            .residual(CREATES, RANDOM),
            Attack::new(
                "consumer-update-push",
                "The victim's push consumer, changed, by a reader of the bucket",
                Who::Reader,
                changed,
            )
            .step(
                ask("$JS.API.CONSUMER.CREATE.KV_{victim}.watch")
                    .body(&turned("watch", false).to_string()),
            )
            .closed(
                Ending::Rejected,
                "the server does not change a push consumer that is not durable",
            )
            .control(Control::Nowhere),
            about(
                "consumer-update",
                "The victim's durable consumer, changed",
                "$JS.API.CONSUMER.CREATE.KV_{victim}.durable.$KV.{victim}.theirs.>",
                &turned("durable", true),
                changed,
            )
            .closed(Ending::Refused, NOT_GRANTED),
            about(
                "consumer-durable",
                "A durable consumer on the victim's bucket",
                "$JS.API.CONSUMER.DURABLE.CREATE.KV_{victim}.mine",
                &json!({"stream_name": "KV_{victim}", "config": {"durable_name": "mine",
                    "ack_policy": "explicit"}}),
                Effect::Answered,
            ),
            about(
                "consumer-pause",
                "The victim's watch, paused",
                "$JS.API.CONSUMER.PAUSE.KV_{victim}.watch",
                &json!({"pause_until": "2099-01-01T00:00:00Z"}),
                changed,
            )
            .since(2, 11),
            about(
                "consumer-reset",
                "The victim's pull consumer, set back to its beginning",
                "$JS.API.CONSUMER.RESET.KV_{victim}.pull",
                &json!({"seq": 1}),
                Effect::Answered,
            )
            .since(2, 14),
            about(
                "consumer-unpin",
                "The client that the victim's consumer is pinned to, unpinned",
                "$JS.API.CONSUMER.UNPIN.KV_{victim}.pinned",
                &json!({"group": "g"}),
                Effect::Answered,
            )
            .first(Step::AdminAsks(
                "CONSUMER.CREATE.KV_{victim}.pinned".to_owned(),
                pinned(Target::Bucket).to_string(),
            ))
            .since(2, 11),
            about(
                "consumer-next",
                "The next message of the victim's consumer, taken",
                "$JS.API.CONSUMER.MSG.NEXT.KV_{victim}.pull",
                &json!({"batch": 1, "expires": 1_000_000_000}),
                Effect::Learns("{secret}"),
            )
            .closed(Ending::Refused, NOT_GRANTED),
            Attack::new(
                "consumer-next-reader",
                "The same by a reader of other keys",
                Who::PartReader,
                Effect::Learns("{secret}"),
            )
            .step(
                ask("$JS.API.CONSUMER.MSG.NEXT.KV_{victim}.pull")
                    .body("{\"batch\":1,\"expires\":1000000000}"),
            )
            .closed(Ending::Refused, NOT_GRANTED)
            .once_granted(&["$JS.API.CONSUMER.MSG.NEXT.KV_{victim}.pull"]),
            about(
                "consumer-ack",
                "A message of the victim's, acknowledged in its place",
                "$JS.ACK.KV_{victim}.pull.1.1.1.1.0",
                &Value::Null,
                Effect::Accepted,
            ),
            about(
                "consumer-names",
                "The names of the victim's consumers",
                "$JS.API.CONSUMER.NAMES.KV_{victim}",
                &Value::Null,
                Effect::Learns("watch"),
            ),
            about(
                "consumer-list",
                "The victim's consumers, listed",
                "$JS.API.CONSUMER.LIST.KV_{victim}",
                &Value::Null,
                Effect::Learns("watch"),
            ),
            about(
                "consumer-stepdown",
                "The leader of the victim's consumer, made to step down",
                "$JS.API.CONSUMER.LEADER.STEPDOWN.KV_{victim}.watch",
                &Value::Null,
                Effect::Answered,
            )
            .on_a_cluster(),
        ],
    }
}

pub(super) fn servers() -> Family {
    // Not for live deployments: in one that lets them through, they would do what they say.
    let taken = |id, title, subject, body: Value| {
        request(id, title, subject, &body, Effect::Accepted).not_in_prove()
    };
    let answered =
        |id, title, subject, body: Value| request(id, title, subject, &body, Effect::Answered);
    let listens = |id, title, subject: &'static str| {
        Attack::new(id, title, Who::Neighbour, Effect::Accepted)
            .step(super::super::listen(subject))
            .closed(Ending::Refused, NEVER)
            .once_heard(&[subject])
            .in_prove()
    };
    Family {
        title: "Accounts, servers and their own subjects",
        about: "What is nobody's business but the operator's. Where success is that the server \
                takes it, what would come of it is for the system account alone.",
        attacks: vec![
            answered("account-info", "The account's use of JetStream", "$JS.API.INFO", Value::Null)
                .closed(Ending::Refused, STORES),
            taken(
                "account-purge",
                "An account's streams, purged",
                "$JS.API.ACCOUNT.PURGE.NONE",
                Value::Null,
            )
            .closed(
                Ending::Refused,
                "never granted: before 2.10.27 the server takes it from any account \
                 (CVE-2025-30215; seen on 2.10.25, where it erased another account)",
            ),
            taken(
                "meta-stepdown",
                "The leader of the cluster, made to step down",
                "$JS.API.META.LEADER.STEPDOWN",
                Value::Null,
            ),
            taken(
                "server-remove",
                "A server, removed from the cluster",
                "$JS.API.SERVER.REMOVE",
                json!({"peer": "n1"}),
            ),
            answered("sys-user-info", "Who am I, of the server", "$SYS.REQ.USER.INFO", Value::Null),
            taken(
                "sys-connections",
                "The account's connections",
                "$SYS.REQ.ACCOUNT.APP.CONNZ",
                Value::Null,
            ),
            taken("sys-ping", "The account's numbers", "$SYS.REQ.ACCOUNT.PING.CONNZ", Value::Null),
            taken("sys-kick", "A client, closed", "$SYS.REQ.SERVER.x.KICK", json!({"cid": 1})),
            taken("sys-reload", "The server, reloaded", "$SYS.REQ.SERVER.x.RELOAD", Value::Null),
            Attack::new(
                "sys-auth-request",
                "An authorization request of its own",
                Who::Neighbour,
                Effect::Accepted,
            )
            .step(send_auth())
            .closed(Ending::Refused, "no client can publish there, whatever it is granted")
            .control(Control::Nowhere)
            .in_prove(),
            listens("sys-auth-listen", "Listen to authorization requests", "$SYS.REQ.USER.AUTH"),
            listens("sys-listen", "Listen to the system's events", "$SYS.ACCOUNT.>"),
            listens("advisory-listen", "Listen to JetStream's advisories", "$JS.EVENT.ADVISORY.>"),
            taken("srv-ping", "Ask which services answer", "$SRV.PING", Value::Null)
                .closed(Ending::Refused, "only `discovers = [\"*\"]` grants it"),
            listens("srv-listen", "Pose as a service to those who ask", "$SRV.PING")
                .closed(Ending::Refused, "only `found_as` grants it"),
            taken("mqtt-publish", "Write what MQTT sessions keep", "$MQTT.msgs.x", Value::Null),
            listens("mqtt-listen", "Listen to what MQTT clients are sent", "$MQTT.sub.>"),
            taken("raft-publish", "Speak as a server of the cluster", "$NRG.V.x", Value::Null)
                .closed(Ending::Refused, "no client can publish there, whatever it is granted")
                .control(Control::Nowhere),
        ],
    }
}

fn send_auth() -> Step {
    super::super::send("$SYS.REQ.USER.AUTH").reply("_INBOX.{me}.answer").body("x")
}
