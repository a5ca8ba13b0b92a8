//! Who can do what with a keyspace, with each client library.

use serde_json::{Value, json};

use super::clients::Library;
use super::deployment::{Deployment, Service};
use super::script::{Script, entry};

/// Every operation of a key-value store, on a new bucket.
fn every_operation(script: Script, library: Library, bucket: &str) -> Script {
    let python_or_javascript = library != Library::AsyncNats;
    script
        .gives(json!({"op": "status"}), json!({"bucket": bucket, "values": 0, "history": 10}))
        .gives(json!({"op": "put", "key": "a", "value": "1"}), json!({"revision": 1}))
        .gives(json!({"op": "create", "key": "b", "value": "1"}), json!({"revision": 2}))
        .fails(json!({"op": "create", "key": "b", "value": "2"}), "exists")
        .gives(json!({"op": "get", "key": "b"}), entry("b", "1", 2))
        .fails(json!({"op": "get", "key": "c"}), "not_found")
        .gives(
            json!({"op": "update", "key": "a", "value": "2", "revision": 1}),
            json!({"revision": 3}),
        )
        .fails(json!({"op": "update", "key": "a", "value": "3", "revision": 1}), "wrong_revision")
        .gives(json!({"op": "get", "key": "a"}), entry("a", "2", 3))
        .gives(json!({"op": "get_revision", "key": "a", "revision": 1}), entry("a", "1", 1))
        .gives(
            json!({"op": "history", "key": "a"}),
            json!([entry("a", "1", 1), entry("a", "2", 3)]),
        )
        .gives(json!({"op": "put", "key": "part.x", "value": "1"}), json!({"revision": 4}))
        .gives(json!({"op": "keys", "at_least": 3}), json!(["a", "b", "part.x"]))
        .gives(json!({"op": "watch", "keys": "a", "expect": 1}), json!([entry("a", "2", 3)]))
        .gives(
            json!({"op": "watch", "keys": "part.>", "expect": 1}),
            json!([entry("part.x", "1", 4)]),
        )
        .gives(
            json!({"op": "watch", "keys": ">", "expect": 3}),
            json!([entry("b", "1", 2), entry("a", "2", 3), entry("part.x", "1", 4)]),
        )
        .gives(json!({"op": "delete", "key": "b"}), Value::Null)
        .fails(json!({"op": "get", "key": "b"}), "not_found")
        .gives(json!({"op": "create", "key": "b", "value": "3"}), json!({"revision": 6}))
        .gives(json!({"op": "purge", "key": "a"}), Value::Null)
        .fails(json!({"op": "get", "key": "a"}), "not_found")
        .gives(
            json!({"op": "history", "key": "a"}),
            json!([{"key": "a", "value": "", "revision": 7, "operation": "PURGE"}]),
        )
        .gives(json!({"op": "delete", "key": "part.x"}), Value::Null)
        .gives(json!({"op": "put", "key": "d", "value": "1"}), json!({"revision": 9}))
        // nats.js 3.4 purges every key that has ever been deleted, also where it is there again.
        .gives(json!({"op": "delete", "key": "b"}), Value::Null)
        .when(python_or_javascript, |s| s.gives(json!({"op": "purge_deletes"}), Value::Null))
        .gives(json!({"op": "keys", "at_least": 1}), json!(["d"]))
        .gives(json!({"op": "get", "key": "d"}), entry("d", "1", 9))
}

const OWNER: &str = r#"
[service.owner]
nkeys = ["{owner}"]
owns = ["rust", "python", "javascript"]
"#;

/// put, create, update, delete, purge, get, get by revision, watch, keys, history, open, status.
pub async fn the_owner_has_every_operation(version: &'static str) {
    let deployment = Deployment::start(version, OWNER).await;
    let owner = deployment.service("owner");
    for library in Library::ALL {
        let bucket = library.word();
        deployment.create_bucket(bucket, true).await;
        let script = every_operation(Script::open(bucket), library, bucket);
        script.run(library, &deployment, &owner).await;
    }
}

pub async fn the_owner_has_every_operation_without_direct_get(version: &'static str) {
    let deployment = Deployment::start(version, OWNER).await;
    let owner = deployment.service("owner");
    for library in Library::ALL {
        let bucket = library.word();
        deployment.create_bucket(bucket, false).await;
        let script = every_operation(Script::open_without_direct_get(bucket), library, bucket);
        script.run(library, &deployment, &owner).await;
    }
}
