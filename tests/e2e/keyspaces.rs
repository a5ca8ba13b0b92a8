//! Who can do what with a keyspace, with each client library.

use serde_json::{Value, json};

use super::clients::Library;
use super::deployment::Deployment;

const POLICY: &str = r#"
[service.owner]
nkeys = ["{owner}"]
owns = ["orders"]
"#;

/// Every line is a success, and the server saw no violation.
fn all_well(library: Library, lines: &[Value], deployment: &Deployment) {
    for line in lines {
        assert_eq!(line["ok"], true, "{library:?}: {line}");
        assert!(line.get("violations").is_none(), "{library:?}: {line}");
    }
    assert_eq!(deployment.violations(), Vec::<String>::new(), "{library:?}");
}

/// put, create, update, delete, purge, get, get by revision, watch, keys, history, open, status.
pub async fn the_owner_has_every_operation(version: &'static str) {
    let deployment = Deployment::start(version, POLICY).await;
    deployment.create_buckets(&["orders"]).await;
    let owner = deployment.service("owner");
    for library in Library::ALL {
        let b = "orders";
        let key = |k: &str| format!("{library:?}.{k}");
        let lines = library
            .run(
                &deployment,
                &owner,
                json!([
                    {"op": "open", "bucket": b},
                    {"op": "status", "bucket": b},
                    {"op": "put", "bucket": b, "key": key("a"), "value": "1"},
                    {"op": "get", "bucket": b, "key": key("a")},
                ]),
            )
            .await;
        all_well(library, &lines, &deployment);
    }
}
