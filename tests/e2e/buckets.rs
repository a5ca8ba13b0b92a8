//! `solewriter buckets` on real servers: streams become what the policy declares.

use serde_json::{Value, json};
use solewriter::buckets::streams;

use super::deployment::{Deployment, Prepared};

const POLICY: &str = r#"
[service.orders]
nkeys = ["{orders}"]
owns = ["kept"]

[bucket.kept]
description = "Kept on disk"
history = 5
ttl = "30d"
max_value_size = "64KiB"
max_bytes = "8MiB"
compression = true

[bucket.shared]
storage = "memory"
part_owners = true
rollup = false
duplicate_window = "100ms"
"#;

/// A server with that policy and no bucket; nobody has to answer requests.
async fn broker(version: &'static str, policy: &str) -> Deployment {
    let prepared = Prepared::new().without_buckets();
    prepared.start_broker(version, policy).await
}

/// Asks JetStream, as the admin.
async fn api(deployment: &Deployment, request: &str, body: &Value) -> Value {
    let options =
        async_nats::ConnectOptions::with_nkey(deployment.seed("admin").expose().to_owned());
    let client = options.connect(deployment.url()).await.unwrap();
    let subject = format!("$JS.API.{request}");
    let answer = client.request(subject, body.to_string().into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

/// The same, which must succeed. Gives the stream's configuration.
async fn config(deployment: &Deployment, request: &str, body: &Value) -> Value {
    let answer = api(deployment, request, body).await;
    assert!(answer.get("error").is_none(), "{request} {body}: {answer}");
    answer["config"].clone()
}

/// What `plan` says about one bucket.
async fn plan(deployment: &Deployment, bucket: &str) -> Value {
    let ran = deployment.tool(&["buckets", "plan", "--format", "json"]).await;
    let view = ran.json();
    assert_eq!(ran.code == 0, view["agrees"] == true, "{ran:?}");
    let buckets = view["buckets"].as_array().unwrap();
    buckets.iter().find(|b| b["bucket"] == bucket).unwrap().clone()
}

async fn apply(deployment: &Deployment, more: &[&str]) {
    let ran = deployment.tool(&[&["buckets", "apply", "--yes"], more].concat()).await;
    assert_eq!(ran.code, 0, "{ran:?}");
}

on_every_server!(apply_creates_what_is_declared_and_nothing_more_to_do);
async fn apply_creates_what_is_declared_and_nothing_more_to_do(version: &'static str) {
    let deployment = broker(version, POLICY).await;
    let planned = deployment.tool(&["buckets", "plan"]).await;
    assert_eq!(planned.code, 1, "{planned:?}");
    let wanted = "\
bucket kept (test.toml:6:9) will be created
  + description       Kept on disk
  + history           5
  + ttl               30d
  + max_value_size    65536
  + max_bytes         8388608
  + replicas          1
  + storage           file
  + compression       s2
  + discard           new
  + direct            true
  + rollup            true
  + duplicate_window  2m
";
    assert!(planned.out.starts_with(wanted), "{}", planned.out);
    assert!(
        planned.out.contains("stream AUDIT_EVENTS (settings) will be created\n"),
        "{planned:?}"
    );
    // Nobody said yes, and nothing was done.
    let unasked = deployment.tool(&["buckets", "apply"]).await;
    assert_eq!(unasked.code, 2, "{unasked:?}");
    assert!(unasked.err.contains("add --yes"), "{unasked:?}");
    assert_eq!(deployment.tool(&["buckets", "plan"]).await.out, planned.out);

    let applied = deployment.tool(&["buckets", "apply", "--yes"]).await;
    assert_eq!(
        (applied.code, applied.err.as_str()),
        (0, "created kept\ncreated shared\ncreated AUDIT_EVENTS\ncreated AUDIT_SERVICES\n")
    );
    let kept = config(&deployment, "STREAM.INFO.KV_kept", &json!({})).await;
    for (field, value) in [
        ("subjects", json!(["$KV.kept.>"])),
        ("max_msgs_per_subject", json!(5)),
        ("max_age", json!(30_u64 * 86_400 * 1_000_000_000)),
        ("max_msg_size", json!(65536)),
        ("max_bytes", json!(8_388_608)),
        ("storage", json!("file")),
        ("compression", json!("s2")),
        ("discard", json!("new")),
        ("deny_delete", json!(true)),
        ("allow_direct", json!(true)),
        ("allow_rollup_hdrs", json!(true)),
        ("duplicate_window", json!(120_000_000_000_u64)),
    ] {
        assert_eq!(kept[field], value, "{field}: {kept}");
    }
    let shared = config(&deployment, "STREAM.INFO.KV_shared", &json!({})).await;
    assert_eq!(shared["duplicate_window"], 100_000_000, "{shared}");
    assert_eq!(shared["storage"], "memory", "{shared}");
    assert_ne!(shared["allow_rollup_hdrs"], true, "{shared}");

    let again = deployment.tool(&["buckets", "plan"]).await;
    let agreed = "as declared: kept, shared\n\
                  2 declared buckets: 2 as declared, 0 to create, 0 to update\n";
    assert_eq!((again.code, again.out.as_str()), (0, agreed));
    let again = deployment.tool(&["buckets", "apply"]).await;
    assert_eq!((again.code, again.out.as_str(), again.err.as_str()), (0, agreed, ""));
}

on_every_server!(every_setting_that_strayed_is_seen_and_mended);
/// Every setting that an admin may have changed by hand, or a client library set otherwise.
async fn every_setting_that_strayed_is_seen_and_mended(version: &'static str) {
    let deployment = broker(version, POLICY).await;
    apply(&deployment, &[]).await;
    let good = config(&deployment, "STREAM.INFO.KV_kept", &json!({})).await;
    let newer = |first: &str| version_at_least(version, first);
    let strays = [
        ("subjects", json!(["$KV.kept.>", "else.>"]), true),
        ("description", json!("another"), true),
        ("max_msgs_per_subject", json!(3), true),
        ("max_msg_size", json!(1024), true),
        ("max_bytes", json!(4_194_304), true),
        ("max_msgs", json!(1000), true),
        ("compression", json!("none"), true),
        ("discard", json!("old"), true),
        ("allow_direct", json!(false), true),
        ("allow_rollup_hdrs", json!(false), true),
        ("duplicate_window", json!(60_000_000_000_u64), true),
        ("republish", json!({"src": ">", "dest": "leak.>"}), true),
        ("sources", json!([{"name": "KV_shared"}]), true),
        ("subject_transform", json!({"src": "$KV.kept.a", "dest": "$KV.kept.b"}), true),
        ("no_ack", json!(true), true),
        ("discard_new_per_subject", json!(true), true),
        ("allow_atomic", json!(true), newer("2.12.0")),
        ("allow_batched", json!(true), newer("2.14.0")),
    ];
    for (field, value, known) in strays {
        if !known {
            continue;
        }
        let mut stray = good.clone();
        stray[field] = value.clone();
        config(&deployment, "STREAM.UPDATE.KV_kept", &stray).await;
        let planned = plan(&deployment, "kept").await;
        let changes = planned["changes"].as_array().unwrap();
        let fields: Vec<&Value> = changes.iter().map(|c| &c["field"]).collect();
        assert_eq!(fields, [field], "{planned}");
        assert_eq!(changes[0]["class"], "safe", "{planned}");
        assert_eq!(planned["action"], "update", "{planned}");
        apply(&deployment, &[]).await;
        let mended = config(&deployment, "STREAM.INFO.KV_kept", &json!({})).await;
        let plain = |config: &Value| {
            let mut config = config.clone();
            // Servers add their own notes here.
            config.as_object_mut().unwrap().remove("metadata");
            config
        };
        assert_eq!(plain(&mended), plain(&good), "{field}");
    }
}

fn version_at_least(version: &str, first: &str) -> bool {
    let parts = |v: &str| v.split('.').map(|p| p.parse::<u32>().unwrap()).collect::<Vec<_>>();
    parts(version) >= parts(first)
}

on_every_server!(what_loses_data_is_refused_unless_told_so);
async fn what_loses_data_is_refused_unless_told_so(version: &'static str) {
    let deployment = broker(version, POLICY).await;
    apply(&deployment, &[]).await;
    let kept = deployment.bucket("kept").await;
    for number in 0..4 {
        kept.put("a", number.to_string().into()).await.unwrap();
    }
    kept.put("big", vec![b'x'; 60_000].into()).await.unwrap();
    let tighter = [
        ("history = 5", "history = 2", "of each key, older values than that are deleted"),
        ("ttl = \"30d\"", "ttl = \"24h\"", "values older than that are deleted"),
        ("max_bytes = \"8MiB\"", "max_bytes = \"32KiB\"", "it is larger than that now"),
    ];
    for (from, to, why) in tighter {
        deployment.write_policy(&POLICY.replace(from, to));
        let before = deployment.content("kept").await;
        let refused = deployment.tool(&["buckets", "apply", "--yes"]).await;
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.out.contains("LOSES DATA") && refused.err.contains(why), "{refused:?}");
        assert!(refused.err.contains("--allow-data-loss"), "{refused:?}");
        assert_eq!(deployment.content("kept").await, before, "{to}");
        // The other way round, nothing is lost.
        deployment.write_policy(POLICY);
        assert_eq!(plan(&deployment, "kept").await["action"], "keep");
    }
    deployment.write_policy(&POLICY.replace("history = 5", "history = 2"));
    apply(&deployment, &["--allow-data-loss"]).await;
    assert_eq!(deployment.content("kept").await.len(), 3);
    // What has nothing to lose is not asked about: back to 5, and then each key has at most 2.
    deployment.write_policy(POLICY);
    apply(&deployment, &[]).await;
}

on_every_server!(what_no_update_changes_is_said);
async fn what_no_update_changes_is_said(version: &'static str) {
    let deployment = broker(version, POLICY).await;
    apply(&deployment, &[]).await;
    deployment.bucket("kept").await.put("a", "1".into()).await.unwrap();
    let moved = POLICY.replace("history = 5", "history = 6\nstorage = \"memory\"");
    deployment.write_policy(&moved);
    let ran = deployment.tool(&["buckets", "apply", "--yes"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains("  ! storage  file -> memory  CANNOT BE CHANGED\n"), "{ran:?}");
    assert!(ran.out.contains("create it again"), "{ran:?}");
    // What can be changed was, and the value is still there.
    let kept = config(&deployment, "STREAM.INFO.KV_kept", &json!({})).await;
    assert_eq!((&kept["max_msgs_per_subject"], &kept["storage"]), (&json!(6), &json!("file")));
    assert_eq!(deployment.content("kept").await.len(), 1);

    // Settings of new servers that nothing turns off again.
    for (first, field) in [("2.12.0", "allow_msg_schedules"), ("2.12.0", "allow_msg_counter")] {
        if !version_at_least(version, first) {
            continue;
        }
        let odd = json!({"name": "KV_shared", "subjects": ["$KV.shared.>"], "storage": "memory",
            "max_msgs_per_subject": 1, "deny_delete": true, "allow_direct": true,
            "duplicate_window": 100_000_000, field: true});
        api(&deployment, "STREAM.DELETE.KV_shared", &json!({})).await;
        config(&deployment, "STREAM.CREATE.KV_shared", &odd).await;
        let planned = plan(&deployment, "shared").await;
        assert_eq!(planned["action"], "recreate", "{planned}");
        let change = planned["changes"].as_array().unwrap().iter().find(|c| c["field"] == field);
        assert_eq!(change.unwrap()["class"], "recreate", "{planned}");
    }
}

on_every_server!(streams_that_nobody_declared_are_reported);
async fn streams_that_nobody_declared_are_reported(version: &'static str) {
    let deployment = broker(version, POLICY).await;
    apply(&deployment, &[]).await;
    let forgotten = json!({"name": "KV_forgotten", "subjects": ["$KV.forgotten.>"]});
    config(&deployment, "STREAM.CREATE.KV_forgotten", &forgotten).await;
    config(&deployment, "STREAM.CREATE.plain", &json!({"name": "plain", "subjects": ["x.>"]}))
        .await;
    // Nobody is granted it, so it endangers nothing.
    let ran = deployment.tool(&["buckets", "plan"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("not declared, so nobody may use them: forgotten "), "{ran:?}");
    assert!(ran.out.contains("not declared, left as they are: plain\n"), "{ran:?}");
    for (name, stray, said) in [
        (
            "writer",
            json!({"name": "writer", "subjects": ["w.>"],
                "republish": {"src": "w.>", "dest": "$KV.kept.>"}}),
            "it republishes to `$KV.kept.>`, which are keys of buckets",
        ),
        (
            "taker",
            json!({"name": "taker", "subjects": ["_INBOX.orders.>"]}),
            "it captures `_INBOX.orders.>`, which are answers to clients",
        ),
    ] {
        config(&deployment, &format!("STREAM.CREATE.{name}"), &stray).await;
        let ran = deployment.tool(&["buckets", "plan"]).await;
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.out.contains(&format!("  ! DANGER  {said}")), "{ran:?}");
        // Nothing that is not declared is touched.
        let ran = deployment.tool(&["buckets", "apply", "--yes"]).await;
        assert_eq!(ran.code, 1, "{ran:?}");
        config(&deployment, &format!("STREAM.INFO.{name}"), &json!({})).await;
        api(&deployment, &format!("STREAM.DELETE.{name}"), &json!({})).await;
    }
    config(&deployment, "STREAM.INFO.KV_forgotten", &json!({})).await;
}

on_every_server!(who_is_not_the_admin_is_told_so);
async fn who_is_not_the_admin_is_told_so(version: &'static str) {
    let deployment = broker(version, POLICY).await;
    let system = deployment.files.seed_file("system").display().to_string();
    let ran = deployment.tool(&["buckets", "plan", "--admin-nkey-seed", &system]).await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("may this user ask it? It must be the admin"), "{ran:?}");
    let stranger = deployment.files.seed_file("orders").display().to_string();
    let ran = deployment.tool(&["buckets", "plan", "--admin-nkey-seed", &stranger]).await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("auth_callout.auth_users"), "{ran:?}");
    let settings = std::fs::read_to_string(deployment.files.settings()).unwrap();
    let without = settings.replace("[admin]\nnkey_seed = \"keys/admin.nk\"\n", "");
    std::fs::write(deployment.files.settings(), without).unwrap();
    let ran = deployment.tool(&["buckets", "plan"]).await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("`nkey_seed` in [admin] is not set"), "{ran:?}");
}

on_every_server!(buckets_of_a_cluster_have_replicas);
async fn buckets_of_a_cluster_have_replicas(version: &'static str) {
    let prepared = Prepared::new().without_buckets();
    let policy = POLICY.replace("history = 5", "history = 5\nreplicas = 3");
    let deployment = prepared.start_cluster(version, &policy).await;
    apply(&deployment, &[]).await;
    let kept = config(&deployment, "STREAM.INFO.KV_kept", &json!({})).await;
    assert_eq!(kept["num_replicas"], 3, "{kept}");
    deployment.write_policy(&policy.replace("replicas = 3", "replicas = 1"));
    let refused = deployment.tool(&["buckets", "apply", "--yes"]).await;
    assert!(
        refused.code == 1 && refused.err.contains("a copy of every value is deleted"),
        "{refused:?}"
    );
    apply(&deployment, &["--allow-data-loss"]).await;
    let all = streams::all(&deployment.admin().await.client()).await.unwrap();
    assert_eq!(all.len(), 2);
    // The audit streams, too, have as many replicas as the best kept bucket.
    let audit = streams::all(&deployment.audit_admin().await.client()).await.unwrap();
    assert_eq!(audit.len(), 2);
    assert!(audit.iter().all(|stream| stream.config["num_replicas"] == 3));
}

on_every_server!(the_page_about_buckets_shows_what_is_printed);
/// The plan that `docs/state.md` shows.
async fn the_page_about_buckets_shows_what_is_printed(version: &'static str) {
    const PAGE: &str = include_str!("../../docs/state.md");
    let deployment = Deployment::sample(version).await;
    apply(&deployment, &[]).await;
    let mut orders = config(&deployment, "STREAM.INFO.KV_orders", &json!({})).await;
    orders["allow_direct"] = json!(false);
    orders["max_msgs_per_subject"] = json!(64);
    config(&deployment, "STREAM.UPDATE.KV_orders", &orders).await;
    let bucket = deployment.bucket("orders").await;
    for value in ["one", "two"] {
        bucket.put("1001", value.into()).await.unwrap();
    }
    let sessions = json!({"name": "KV_sessions", "subjects": ["$KV.sessions.>"]});
    config(&deployment, "STREAM.CREATE.KV_sessions", &sessions).await;
    let (_, block) = PAGE.split_once("```console\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let (command, shown) = block.split_once('\n').unwrap();
    assert_eq!(command, "$ solewriter state plan policy -c deployment/solewriter.toml");
    let policy = deployment.files.policy().display().to_string();
    let ran = deployment.tool(&["buckets", "plan", &policy]).await;
    // The harness has the sample policy under another name, and its lines may move.
    let place = |text: &str| text.split_once('(').unwrap().1.split_once(')').unwrap().0.to_owned();
    let printed = ran.out.replace(&place(&ran.out), &place(shown));
    assert_eq!((ran.code, printed.as_str()), (1, shown));
}
