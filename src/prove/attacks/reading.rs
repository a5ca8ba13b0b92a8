//! Reading what was not granted: by key, by consumer, by listening.

use serde_json::{Value, json};

use super::super::{Attack, Control, Effect, Ending, Family, Who, ask, listen};
use super::{NEVER, NOT_GRANTED};

const SECRET: Effect = Effect::Learns("{secret}");

/// A request for a value.
fn get(
    id: &'static str,
    title: &'static str,
    who: Who,
    subject: &'static str,
    body: &Value,
) -> Attack {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Attack::new(id, title, who, SECRET)
        .step(ask(subject).body(&body))
        .closed(Ending::Refused, NOT_GRANTED)
        .once_granted(&[subject])
        .in_prove()
}

/// A consumer on the victim's bucket, that delivers to the attacker.
fn consumer(settings: &Value) -> String {
    let mut config = json!({"ack_policy": "none", "deliver_policy": "all",
        "deliver_subject": "_INBOX.{me}.values", "inactive_threshold": 60_000_000_000_u64});
    if let (Some(config), Some(settings)) = (config.as_object_mut(), settings.as_object()) {
        config.extend(settings.clone());
    }
    json!({"stream_name": "KV_{victim}", "config": config}).to_string()
}

fn watch(
    id: &'static str,
    title: &'static str,
    who: Who,
    subject: &'static str,
    settings: &Value,
) -> Attack {
    Attack::new(id, title, who, SECRET)
        .step(listen("_INBOX.{me}.values"))
        .step(ask(subject).body(&consumer(settings)))
        .closed(Ending::Refused, NOT_GRANTED)
        .once_granted(&[subject])
        .in_prove()
}

/// A consumer whose subject names the part that may be read and whose body asks for more.
fn smuggled(id: &'static str, title: &'static str, settings: &Value) -> Attack {
    let named = "$JS.API.CONSUMER.CREATE.KV_{victim}.w";
    Attack::new(id, title, Who::PartReader, SECRET)
        .step(listen("_INBOX.{me}.values"))
        .step(
            ask("$JS.API.CONSUMER.CREATE.KV_{victim}.w.$KV.{victim}.open.>")
                .body(&consumer(settings)),
        )
        .closed(Ending::Rejected, "JetStream compares the filter in the subject with the body")
        .control(Control::Instead(ask(named).body(&consumer(settings)), named.to_owned()))
        .in_prove()
}

/// A direct get of what may be read, with something beside it that asks for more.
fn beside(id: &'static str, title: &'static str, headers: &str, body: &Value) -> Attack {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let direct = "$JS.API.DIRECT.GET.KV_{victim}";
    let bad = ask("$JS.API.DIRECT.GET.KV_{victim}.$KV.{victim}.open.k").headers(headers);
    Attack::new(id, title, Who::PartReader, SECRET)
        .step(bad.body(&body))
        .closed(Ending::Rejected, "the server takes the key from the subject or from the body")
        .control(Control::Instead(ask(direct).body(&body), direct.to_owned()))
        .in_prove()
}

/// The body of [`smuggled`], as a text that no serialiser writes.
fn spelled(id: &'static str, title: &'static str, settings: &str) -> Attack {
    let body = format!(
        "{{\"stream_name\":\"KV_{{victim}}\",\"config\":{{\"name\":\"w\",\"ack_policy\":\"none\",\
         \"deliver_policy\":\"all\",\"deliver_subject\":\"_INBOX.{{me}}.values\",\
         \"inactive_threshold\":60000000000,{settings}}}}}"
    );
    let named = "$JS.API.CONSUMER.CREATE.KV_{victim}.w";
    Attack::new(id, title, Who::PartReader, SECRET)
        .step(listen("_INBOX.{me}.values"))
        .step(ask("$JS.API.CONSUMER.CREATE.KV_{victim}.w.$KV.{victim}.open.>").body(&body))
        .closed(
            Ending::Rejected,
            "JetStream compares the filter in the subject with what it read of the body, \
             whichever of two it took",
        )
        .control(Control::Instead(ask(named).body(&body), named.to_owned()))
        .in_prove()
}

pub(super) fn values() -> Family {
    let (n, p) = (Who::Neighbour, Who::PartReader);
    let by_key = json!({"last_by_subj": "$KV.{victim}.theirs.k1"});
    let direct = "$JS.API.DIRECT.GET.KV_{victim}";
    let direct_key = "$JS.API.DIRECT.GET.KV_{victim}.$KV.{victim}.theirs.k1";
    let msg_get = "$JS.API.STREAM.MSG.GET.KV_{victim}";
    let create = "$JS.API.CONSUMER.CREATE.KV_{victim}";
    let named = "$JS.API.CONSUMER.CREATE.KV_{victim}.w";
    let filtered = "$JS.API.CONSUMER.CREATE.KV_{victim}.w.$KV.{victim}.theirs.>";
    let whole = "$JS.API.CONSUMER.CREATE.KV_{victim}.w.$KV.{victim}.>";
    let theirs = json!({"name": "w", "filter_subject": "$KV.{victim}.theirs.>"});
    let mine = |id, title, subject: &str, body: &str, why| {
        Attack::new(id, title, n, SECRET)
            .step(ask(subject).body(body))
            .closed(Ending::Rejected, why)
            .control(Control::Nowhere)
            .in_prove()
    };
    Family {
        title: "Reading values",
        about: "Success is that a value of the victim's reaches the attacker. A part reader may \
                read the keys below `open` in the same bucket.",
        attacks: vec![
            get("get-direct", "A direct get of a key", n, direct_key, &Value::Null),
            get("get-direct-body", "A direct get by body", n, direct, &by_key),
            get("get-sequence", "A direct get by sequence", n, direct, &json!({"seq": 1})),
            get(
                "get-next",
                "The next message of any key",
                n,
                direct,
                &json!({"seq": 1, "next_by_subj": ">"}),
            ),
            get(
                "get-many",
                "Many keys at once",
                n,
                direct,
                &json!({"multi_last": ["$KV.{victim}.>"]}),
            )
            .since(2, 11),
            get("get-batch", "A batch", n, direct, &json!({"seq": 1, "batch": 10})),
            get("get-message", "A get without direct get", n, msg_get, &by_key),
            get(
                "get-direct-part",
                "A direct get of a key, by a part reader",
                p,
                direct_key,
                &Value::Null,
            ),
            get(
                "get-direct-body-part",
                "A direct get by body, by a part reader",
                p,
                direct,
                &by_key,
            ),
            get(
                "get-sequence-part",
                "A direct get by sequence, by a part reader",
                p,
                direct,
                &json!({"seq": 1}),
            ),
            get(
                "get-message-part",
                "A get without direct get, by a part reader",
                p,
                msg_get,
                &json!({"seq": 1}),
            ),
            watch("watch", "A watch", n, create, &Value::Null),
            watch("watch-named", "A watch with a name", n, named, &json!({"name": "w"})),
            watch("watch-filtered", "A watch with a filter", n, filtered, &theirs),
            watch("watch-part", "A watch, by a part reader", p, create, &Value::Null),
            watch(
                "watch-filtered-part",
                "A watch of another part, by a part reader",
                p,
                filtered,
                &theirs,
            ),
            watch(
                "watch-whole-part",
                "A watch of the whole bucket, by a part reader",
                p,
                whole,
                &json!({"name": "w", "filter_subject": "$KV.{victim}.>"}),
            ),
            smuggled(
                "filter-other",
                "A consumer that names its part and asks for another",
                &json!({"name": "w", "filter_subject": "$KV.{victim}.theirs.>"}),
            ),
            smuggled(
                "filter-several",
                "A consumer that names its part and asks for several",
                &json!({"name": "w", "filter_subjects":
                    ["$KV.{victim}.open.>", "$KV.{victim}.theirs.>"]}),
            ),
            smuggled(
                "filter-none",
                "A consumer that names its part and asks for all",
                &json!({"name": "w"}),
            ),
            spelled(
                "filter-doubled",
                "The same, with the filter twice",
                "\"filter_subject\":\"$KV.{victim}.open.>\",\
                 \"filter_subject\":\"$KV.{victim}.theirs.>\"",
            ),
            spelled(
                "filter-other-case",
                "The same, with the second in another case",
                "\"filter_subject\":\"$KV.{victim}.open.>\",\
                 \"Filter_Subject\":\"$KV.{victim}.theirs.>\"",
            ),
            spelled(
                "filter-several-case",
                "The same, with a list of filters in another case",
                "\"FILTER_SUBJECTS\":[\"$KV.{victim}.open.>\",\"$KV.{victim}.theirs.>\"]",
            ),
            spelled(
                "filter-escaped",
                "The same, with the key written in escapes",
                "\"filter\\u005fsubject\":\"$KV.{victim}.theirs.>\"",
            ),
            spelled(
                "filter-config-doubled",
                "The same, with a second `config`",
                "\"filter_subject\":\"$KV.{victim}.open.>\"},\
                 \"Config\":{\"filter_subject\":\"$KV.{victim}.theirs.>\"",
            ),
            spelled(
                "filter-star",
                "A consumer whose filter has a `>` in the middle, which a permission takes for a \
                 plain token",
                "\"filter_subject\":\"$KV.{victim}.theirs.>\"",
            )
            .instead(
                ask("$JS.API.CONSUMER.CREATE.KV_{victim}.w.$KV.{victim}.>.shown").body(&consumer(
                    &json!({"name": "w", "filter_subject": "$KV.{victim}.>.shown"}),
                )),
            )
            .first(listen("_INBOX.{me}.values"))
            .closed(Ending::Rejected, "JetStream knows no filter with a `>` in the middle")
            .not_in_prove(),
            beside(
                "get-body-beside",
                "A direct get of what it may read, with another key in the \
                 body",
                "",
                &by_key,
            ),
            beside(
                "get-sequence-beside",
                "The same with a sequence in the body",
                "",
                &json!({"seq": 1}),
            ),
            beside(
                "get-many-beside",
                "The same with many keys in the body",
                "",
                &json!({"multi_last": ["$KV.{victim}.>"]}),
            )
            .since(2, 11),
            beside(
                "get-next-beside",
                "The same with the next of any key in the body",
                "",
                &json!({"seq": 1, "next_by_subj": ">"}),
            ),
            beside(
                "get-headers-beside",
                "The same with headers that name another key, and another account",
                "Nats-Subject: $KV.{victim}.theirs.k1\r\nNats-Sequence: 1\r\n\
                 Nats-Request-Info: {\"acc\":\"STATE\",\"svc\":\"$JS.API.>\"}",
                &by_key,
            ),
            beside("get-headers-alone", "The same with these headers alone", "", &Value::Null)
                .instead(ask("$JS.API.DIRECT.GET.KV_{victim}.$KV.{victim}.open.k").headers(
                    "Nats-Subject: $KV.{victim}.theirs.k1\r\nNats-Sequence: 1\r\n\
                         Nats-Last-Sequence: 1",
                ))
                .closed(Ending::NoEffect, "no header of a direct get means anything")
                .control(Control::Nowhere),
            Attack::new(
                "get-star",
                "A direct get with a `>` in the middle, which a permission takes for a plain token",
                Who::PartReader,
                SECRET,
            )
            .step(ask("$JS.API.DIRECT.GET.KV_{victim}.$KV.{victim}.>.shown"))
            .closed(Ending::Rejected, "it is a key that no message has")
            .control(Control::Nowhere),
            mine(
                "filter-other-stream",
                "A consumer on its own bucket, with the victim's in the body",
                "$JS.API.CONSUMER.CREATE.KV_{mine}",
                &consumer(&Value::Null),
                "JetStream compares the stream in the subject with the body",
            ),
            mine(
                "get-other-stream",
                "A direct get in its own bucket of a key of the victim's",
                "$JS.API.DIRECT.GET.KV_{mine}",
                &by_key.to_string(),
                "a stream answers for its own messages alone",
            ),
        ],
    }
}

/// A subscription to what another gets.
fn hears(id: &'static str, title: &'static str, subject: &'static str, queue: &str) -> Attack {
    Attack::new(id, title, Who::Reader, Effect::Accepted)
        .step(listen(subject).queue(queue))
        .closed(Ending::Refused, "a service may listen to its own inbox alone")
        .once_heard(&[subject])
        .in_prove()
}

pub(super) fn others() -> Family {
    Family {
        title: "Listening",
        about: "Success is that the server takes the subscription: what is said there arrives then.",
        attacks: vec![
            hears("listen-inbox", "The victim's inbox", "_INBOX.{them}.>", ""),
            hears(
                "listen-inbox-queue",
                "The same in a queue group, to take it away",
                "_INBOX.{them}.>",
                "g",
            ),
            hears("listen-inboxes", "Every inbox", "_INBOX.>", ""),
            hears("listen-inboxes-star", "Every inbox, one token at a time", "_INBOX.*.*", ""),
            hears("listen-key", "A key of the victim's", "$KV.{victim}.theirs.k1", "")
                .closed(Ending::Refused, NEVER),
            hears("listen-bucket", "The victim's bucket", "$KV.{victim}.>", "")
                .closed(Ending::Refused, NEVER),
            hears("listen-bucket-queue", "The same in a queue group", "$KV.{victim}.>", "g")
                .closed(Ending::Refused, NEVER),
            hears("listen-keyspaces", "Every bucket", "$KV.>", "").closed(Ending::Refused, NEVER),
            hears("listen-api", "JetStream's requests", "$JS.API.>", "")
                .closed(Ending::Refused, NEVER),
            hears("listen-all", "Everything", ">", "").closed(Ending::Refused, NEVER),
            hears("listen-imports", "Answers between accounts", "_R_.>", "")
                .closed(Ending::Refused, NEVER),
            Attack::new(
                "listen-requests",
                "Requests that are the victim's to answer, in a queue group to take them away",
                Who::Reader,
                Effect::Accepted,
            )
            .step(listen("{deputy}").queue("g"))
            .closed(Ending::Refused, NOT_GRANTED)
            .once_heard(&["{deputy}"])
            .in_prove(),
            Attack::new("without-rules", "A service without rules reads", Who::Nobody, SECRET)
                .step(ask("$JS.API.DIRECT.GET.KV_{victim}.$KV.{victim}.theirs.k1"))
                .closed(Ending::Refused, "what no rule grants is denied, explicitly")
                .control(Control::Granted(
                    vec!["$JS.API.DIRECT.GET.KV_{victim}.$KV.{victim}.theirs.k1".to_owned()],
                    vec!["_INBOX.{me}.>".to_owned()],
                )),
            Attack::new(
                "without-rules-write",
                "A service without rules writes",
                Who::Nobody,
                Effect::Changed,
            )
            .step(ask("$KV.{victim}.theirs.k1").body("x"))
            .closed(Ending::Refused, "what no rule grants is denied, explicitly")
            .once_granted(&["$KV.{victim}.theirs.k1"]),
        ],
    }
}
