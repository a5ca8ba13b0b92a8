//! Plans of one bucket, and streams beside it.

use serde_json::{Map, Value, json};

use super::*;
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::policy::validate::validate;

const BUCKET: &str = "[bucket.b]\nmax_bytes = \"1MiB\"\n";

fn policy(text: &str) -> Policy {
    let services = "[service.s]\nnkeys = []\nowns = [\"b\"]\n";
    validate(&[SourceFile::new("p.toml", format!("{services}{text}"))]).unwrap().policy
}

/// The stream as declared, with these fields instead.
fn stream(policy: &Policy, fields: &Value, messages: u64) -> Stream {
    let mut config = declared::config(&policy.buckets()[0]);
    config.extend(fields.as_object().unwrap().clone());
    let state = State { messages, bytes: messages, num_subjects: 1 };
    Stream { config, state, cluster: None }
}

fn only(text: &str, fields: &Value, messages: u64) -> BucketPlan {
    let policy = policy(text);
    let mut plan = Plan::of(&policy, &[stream(&policy, fields, messages)]);
    assert_eq!(plan.agrees(), plan.buckets[0].changes.is_empty());
    plan.buckets.remove(0)
}

#[test]
fn a_setting_that_nobody_knows_is_seen_and_left() {
    let plan = only(BUCKET, &json!({"allow_teleport": {"to": "mars"}}), 0);
    assert_eq!((plan.action, plan.changes.len()), (Action::Recreate, 1));
    assert_eq!(plan.changes[0].class, Class::Unknown);
    assert_eq!(plan.config["allow_teleport"], json!({"to": "mars"}));
    assert!(!plan.has_work());
    // Off, it says nothing.
    for off in [json!(false), json!(0), json!(""), json!([]), json!({}), Value::Null] {
        assert_eq!(only(BUCKET, &json!({"allow_teleport": off}), 0).action, Action::Keep);
    }
}

#[test]
fn what_servers_leave_out_or_write_otherwise_is_no_difference() {
    let policy = policy("[bucket.b]\nrollup = false\n");
    let mut stream = stream(&policy, &json!({}), 0);
    for absent in ["allow_rollup_hdrs", "description", "max_msgs", "compression"] {
        stream.config.remove(absent);
    }
    stream
        .config
        .extend(json!({"max_bytes": 0, "metadata": {"a": "b"}}).as_object().unwrap().clone());
    assert!(Plan::of(&policy, &[stream]).agrees());
}

#[test]
fn an_update_sends_everything_else_back() {
    let more = json!({"max_msgs_per_subject": 9, "placement": {"tags": ["ssd"]}, "republish": {"src": ">", "dest": "x.>"}});
    let plan = only(BUCKET, &more, 0);
    assert_eq!(plan.action, Action::Update);
    assert_eq!(plan.config["placement"], json!({"tags": ["ssd"]}));
    assert_eq!(plan.config["max_msgs_per_subject"], 1);
    assert!(!plan.config.contains_key("republish"));
}

#[test]
fn data_is_lost_only_where_there_is_some() {
    for (fields, messages, class) in [
        (json!({"max_msgs_per_subject": 5}), 0, Class::Safe),
        // One value for each key.
        (json!({"max_msgs_per_subject": 5}), 1, Class::Safe),
        (json!({"max_msgs_per_subject": 5}), 2, Class::LosesData),
        (json!({"max_msgs_per_subject": -1}), 2, Class::LosesData),
        (json!({"max_bytes": -1}), 2, Class::Safe),
        (json!({"max_bytes": -1}), 2 << 20, Class::LosesData),
        (json!({"max_bytes": 3 << 20}), 2 << 20, Class::LosesData),
        (json!({"max_bytes": 1}), 1, Class::Safe),
        // Even empty, it would be on one server only.
        (json!({"num_replicas": 3}), 0, Class::LosesData),
        (json!({"storage": "memory"}), 0, Class::Recreate),
        (json!({"discard": "old"}), 9, Class::Safe),
    ] {
        let plan = only(BUCKET, &fields, messages);
        assert_eq!(plan.changes.len(), 1, "{fields}");
        assert_eq!(plan.changes[0].class, class, "{fields} with {messages}");
    }
    let ttl =
        only("[bucket.b]\nttl = \"1h\"\nduplicate_window = \"1m\"", &json!({"max_age": 0}), 1);
    assert_eq!(ttl.changes[0].class, Class::LosesData);
    let old =
        only("[bucket.b]\nmax_bytes = \"1KiB\"\ndiscard = \"old\"", &json!({"discard": "new"}), 1);
    assert_eq!(old.changes[0].class, Class::LosesData);
}

#[test]
fn a_ttl_of_keys_is_switched_on_and_never_off() {
    let by_hand = json!({"allow_msg_ttl": true, "subject_delete_marker_ttl": 1_000_000_000});
    // Even where nothing is in it.
    let plan = only(BUCKET, &by_hand, 0);
    assert_eq!(plan.action, Action::Recreate);
    let classes: Vec<_> = plan.changes.iter().map(|c| (c.word.unwrap(), c.class)).collect();
    assert_eq!(classes, [("key_ttl", Class::Recreate), ("limit_markers", Class::Safe)]);
    assert_eq!(plan.config["allow_msg_ttl"], true);
    assert!(plan.to_string().contains("or declare `key_ttl = true`"), "{plan}");
    let declared = "[bucket.b]\nkey_ttl = true\nlimit_markers = \"1s\"\n";
    assert_eq!(only(declared, &by_hand, 9).action, Action::Keep);
    // Servers before 2.11 leave both out.
    let plan =
        only(declared, &json!({"allow_msg_ttl": null, "subject_delete_marker_ttl": null}), 9);
    assert_eq!(plan.action, Action::Update);
    assert!(plan.changes.iter().all(|change| change.class == Class::Safe));
    assert_eq!(plan.config["allow_msg_ttl"], true);
}

#[test]
fn a_server_that_keeps_every_value_for_ever_is_named() {
    let plan = |text| Plan::of(&policy(text), &[]);
    let ttl = plan("[bucket.b]\nkey_ttl = true\n");
    for (server, named) in
        [("2.10.25", 1), ("2.11.0", 0), ("2.11.0-RC.3", 0), ("2.15.1", 0), ("", 1), ("two", 1)]
    {
        assert_eq!(ttl.without_ttl(server).len(), named, "{server:?}");
        assert!(plan(BUCKET).without_ttl(server).is_empty(), "{server:?}");
    }
}

#[test]
fn other_streams_are_dangerous_when_they_meet_keys_or_answers() {
    let policy = policy(BUCKET);
    for (config, danger) in [
        (json!({"name": "x", "subjects": ["$KV.b.>"]}), true),
        (json!({"name": "x", "subjects": [">"]}), true),
        (json!({"name": "x", "subjects": ["a.>", "_INBOX.*.>"]}), true),
        (
            json!({"name": "x", "subjects": ["a"], "republish": {"dest": "$KV.b.{{wildcard(1)}}"}}),
            true,
        ),
        (
            json!({"name": "x", "subjects": ["a"], "republish": {"dest": "{{wildcard(1)}}.b.c"}}),
            true,
        ),
        (json!({"name": "x", "subjects": ["a"], "republish": {"dest": "b.>"}}), false),
        (json!({"name": "KV_c", "subjects": ["$KV.c.>"]}), false),
        (json!({"name": "KV_c", "subjects": ["$KV.b.>"]}), true),
        (json!({"name": "x", "subjects": ["$O.files.>"]}), false),
    ] {
        let other = Stream { config: config.as_object().unwrap().clone(), ..Stream::default() };
        let plan = Plan::of(&policy, &[other, stream(&policy, &json!({}), 0)]);
        assert_eq!(plan.agrees(), !danger, "{config}: {plan}");
    }
}

#[test]
fn what_a_consumer_skips_is_told_by_what_its_stream_keeps() {
    for (retention, now, then, class) in [
        ("limits", json!(["a.*"]), "a.b", Class::Safe),
        ("interest", json!(["a.*"]), "a.b", Class::LosesData),
        ("workqueue", json!(["a.*"]), "a.b", Class::LosesData),
        ("interest", json!([]), "a.b", Class::LosesData),
        ("interest", json!(["a.b"]), "a.*", Class::Safe),
    ] {
        let text = format!(
            "[stream.S]\nsubjects = [\"a.>\"]\nretention = \"{retention}\"\n\
             [stream.S.consumer.c]\nfilter = [\"{then}\"]\n{BUCKET}"
        );
        let policy = policy(&text);
        let created = Plan::of(&policy, &[]).and_consumers(&policy, &[]);
        let mut config = created.consumers[0].config.clone();
        assert_eq!(config["filter_subject"], then);
        config.remove("filter_subject");
        config.insert("filter_subjects".to_owned(), now.clone());
        let found = Consumer { name: "c".to_owned(), config, num_ack_pending: 0 };
        let listed = Consumers { stream: "S".to_owned(), consumers: vec![found] };
        let plan = Plan::of(&policy, &[]).and_consumers(&policy, &[listed]);
        let changes = &plan.consumers[0].changes;
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert_eq!(changes[0].class, class, "{retention} {now} {then}");
        assert_eq!(plan.consumers[0].config["filter_subject"], then);
    }
}

#[test]
fn where_a_push_consumer_delivers_is_made_up_for_who_uses_it() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let text = |users: &str, more: &str| {
        let used = "nkeys = []\nconsumes = [\"S/c\"]\n";
        let services: String =
            users.split(' ').map(|name| format!("[service.{name}]\n{used}")).collect();
        format!(
            "{BUCKET}[stream.S]\nsubjects = [\"a.>\"]\n[stream.S.consumer.c]\n\
             shared = \"test\"\n{more}{services}"
        )
    };
    let plan = |users: &str, more: &str, found: Option<&Map<String, Value>>| {
        let policy = policy(&text(users, more));
        let consumer = |config: &Map<String, Value>| Consumer {
            name: "c".to_owned(),
            config: config.clone(),
            num_ack_pending: 0,
        };
        let consumers = found.map(consumer).into_iter().collect();
        let listed = Consumers { stream: "S".to_owned(), consumers };
        let mut plan = Plan::of(&policy, &[]).and_consumers(&policy, &[listed]);
        plan.consumers.remove(0)
    };
    let push = "push = true\n";
    let created = plan("one two", push, None);
    assert_eq!(created.config["deliver_subject"], "_INBOX.$push.S.c.*", "no secret is shown");
    assert_eq!(created.config["metadata"], json!({"solewriter.users": "one, two"}));
    let sent = |plan: &BucketPlan| super::consumer::with_secret(&plan.config);
    let made = sent(&created)["deliver_subject"].as_str().unwrap().to_owned();
    let secret = made.strip_prefix("_INBOX.$push.S.c.").unwrap();
    assert_eq!(secret.len(), SECRET.len());
    assert_ne!(sent(&created), sent(&created), "nobody guesses it");

    let mut there = created.config.clone();
    there.insert("deliver_subject".to_owned(), json!(made));
    assert_eq!(plan("one two", push, Some(&there)).action, Action::Keep);
    // What else changes leaves it, and it is sent back as it is.
    let grouped = plan("one two", "push = true\ngroup = \"g\"\n", Some(&there));
    assert_eq!(grouped.action, Action::Update);
    assert_eq!(
        (&sent(&grouped)["deliver_subject"], &grouped.config["deliver_group"]),
        (&json!(made), &json!("g"))
    );
    // Of others than before, or made by somebody else, it is made up anew.
    let moved = plan("one", push, Some(&there));
    let changes: Vec<_> = moved.changes.iter().map(|c| (&*c.field, c.class)).collect();
    assert_eq!(changes, [("deliver_subject", Class::Safe)]);
    let now = moved.changes[0].now.as_ref().unwrap();
    assert_eq!(now, "_INBOX.$push.S.c.(made for one, two)", "no secret is shown");
    assert_eq!(moved.config["metadata"], json!({"solewriter.users": "one"}));
    assert_ne!(sent(&moved)["deliver_subject"], json!(made));
    for other in ["_INBOX.one.d", "_INBOX.$push.S.c", "_INBOX.$push.S.c.0123", "_INBOX.$push.S.d.0"]
    {
        there.insert("deliver_subject".to_owned(), json!(other));
        assert_eq!(plan("one two", push, Some(&there)).action, Action::Update, "{other}");
    }
    // To be asked instead of sending, or back, takes a new consumer.
    assert_eq!(plan("one two", "", Some(&there)).action, Action::Recreate);
    let pulled = plan("one two", "", None).config;
    assert_eq!(plan("one two", push, Some(&pulled)).action, Action::Recreate);
    assert_eq!(plan("one two", "", Some(&pulled)).action, Action::Keep);
}

#[test]
fn a_stream_that_republishes_to_declared_objects_is_dangerous() {
    let policy = policy(&format!("{BUCKET}[store.files]\n"));
    for (destination, is_danger) in [("$O.files.M.>", true), ("$O.others.M.>", false)] {
        let config = json!({"name": "x", "subjects": ["a"], "republish": {"dest": destination}});
        let other = Stream { config: config.as_object().unwrap().clone(), ..Stream::default() };
        let plan = Plan::of(&policy, &[other]);
        assert_eq!(plan.others[0].danger.is_some(), is_danger, "{destination}");
    }
}

#[test]
fn a_consumer_that_a_service_makes_is_left_as_it_is() {
    let policy = policy(
        "[bucket.b]\n[stream.E]\nsubjects = [\"e.>\"]\n[stream.E.consumer.own]\n\
         made_by = \"service\"\n[stream.E.consumer.later]\nmade_by = \"service\"\n\
         [stream.E.consumer.ours]\n",
    );
    let own = Consumer { name: "own".to_owned(), ..Consumer::default() };
    let listed = [Consumers { stream: "E".to_owned(), consumers: vec![own] }];
    let plan = Plan::of(&policy, &[]).and_consumers(&policy, &listed);
    let planned: Vec<String> = plan.consumers.iter().map(BucketPlan::title).collect();
    assert_eq!(planned, ["E/ours"]);
    let said = plan.to_string();
    let left =
        "consumers that their services make, left as they are: E/later (not there yet), E/own\n";
    assert!(said.contains(left), "{said}");
}

#[test]
fn a_copy_follows_its_original_and_takes_nothing_itself() {
    let text = "[bucket.b]\nhistory = 5\nkey_ttl = true\nmax_bytes = \"1MiB\"\n\
                [bucket.copy]\ncopy_of = \"b\"\n";
    let policy = policy(text);
    let plan = Plan::of(&policy, &[]);
    let config = &plan.buckets[1].config;
    assert_eq!(
        config["sources"],
        json!([{"name": "KV_b",
            "subject_transforms": [{"src": "$KV.b.>", "dest": "$KV.copy.>"}]}])
    );
    assert_eq!((&config["subjects"], &config["max_bytes"]), (&json!([]), &json!(-1)));
    let settings = ["max_msgs_per_subject", "allow_msg_ttl", "allow_rollup_hdrs"];
    assert_eq!(settings.map(|field| config[field].clone()), [json!(5), json!(true), json!(true)]);
    let text = plan.to_string();
    assert!(text.contains("copy_of") && text.contains("KV_b"), "{text}");

    let copy = |fields: Value, messages| {
        let mut config = config.clone();
        config.extend(fields.as_object().unwrap().clone());
        let state = State { messages, bytes: messages, num_subjects: 1 };
        let found = Stream { config, state, cluster: None };
        Plan::of(&policy, &[found]).buckets.remove(1)
    };
    // As servers give it.
    assert_eq!(copy(json!({"subjects": null}), 9).action, Action::Keep);
    let listens = copy(json!({"subjects": ["$KV.copy.>"]}), 9);
    assert_eq!((listens.action, &listens.config["subjects"]), (Action::Update, &json!([])));
    // What is in it would stay, from wherever it is.
    for sources in [json!(null), json!([{"name": "KV_other"}])] {
        assert_eq!(copy(json!({"sources": sources}), 9).action, Action::Recreate, "{sources}");
        assert_eq!(copy(json!({"sources": sources}), 0).action, Action::Update, "{sources}");
    }
}

#[test]
fn buckets_of_other_domains_are_left_out_and_found_where_they_are_not_to_be() {
    let text = "[bucket.b]\ndomain = \"hub\"\n[bucket.copy]\ndomain = \"edge\"\n\
                copy_of = \"b\"\n[bucket.near]\ndomain = \"hub\"\ncopy_of = \"b\"\n[bucket.any]\n";
    let policy = policy(text);
    let named = |plan: &Plan| plan.buckets.iter().map(|b| b.bucket.clone()).collect::<Vec<_>>();
    let hub = Plan::of(&policy, &[]).in_domain(&policy, Some("hub"));
    assert_eq!(named(&hub), ["any", "b", "near"]);
    assert!(hub.to_string().contains("other JetStream domains, not looked at: copy (edge)\n"));
    let edge = Plan::of(&policy, &[]).in_domain(&policy, Some("edge"));
    assert_eq!(named(&edge), ["any", "copy"]);
    assert_eq!(
        edge.buckets[1].config["sources"][0]["external"],
        json!({"api": "$JS.hub.API", "deliver": "_COPY.copy"})
    );
    assert!(hub.buckets[2].config["sources"][0].get("external").is_none());
    // JetStream without a name is no domain.
    assert_eq!(named(&Plan::of(&policy, &[]).in_domain(&policy, None)), ["any"]);

    let there = stream(&policy, &json!({"name": "KV_b", "subjects": ["$KV.b.>"]}), 1);
    let twice = Plan::of(&policy, &[there]).in_domain(&policy, Some("edge"));
    assert!(!twice.agrees());
    let danger = twice.others[0].danger.as_deref().unwrap();
    assert!(danger.contains("declared in JetStream domain hub"), "{danger}");
}

#[test]
fn streams_and_stores_of_other_domains_are_left_out_with_their_consumers() {
    let text = "[stream.S]\nsubjects = [\"s.>\"]\ndomain = \"edge\"\n[stream.S.consumer.w]\n\
                [stream.S.consumer.own]\nmade_by = \"service\"\n[store.o]\ndomain = \"edge\"\n\
                [store.b]\n[bucket.b]\ndomain = \"edge\"\n[service.a]\nconsumes = [\"S/own\"]\n";
    let policy = policy(text);
    let plan = || Plan::of(&policy, &[]).and_consumers(&policy, &[]);
    let hub = plan().in_domain(&policy, Some("hub"));
    let planned: Vec<_> = hub.declared().map(|plan| (plan.kind, plan.title())).collect();
    assert_eq!(planned, [(Kind::Store, "b".to_owned())]);
    assert!(hub.left_to_services.is_empty());
    let said =
        "in other JetStream domains, not looked at: b (edge), stream S (edge), store o (edge)\n";
    assert!(hub.to_string().contains(said), "{hub}");
    assert_eq!(plan().in_domain(&policy, Some("edge")).declared().count(), 5);
    let there = stream(&policy, &json!({"name": "S", "subjects": ["s.>"]}), 1);
    let twice = Plan::of(&policy, &[there]).in_domain(&policy, Some("hub"));
    assert!(twice.others[0].danger.as_ref().unwrap().contains("JetStream domain edge"));
}
