//! What the stream of a declared bucket must be like.

use serde_json::{Map, Value, json};

use solewriter_core::policy::model::Bucket;
use solewriter_types::keyspace::Keyspace;
use solewriter_types::kv_operation::{copied_to, domain_api};

/// The configuration that is sent to create the bucket, in the words of JetStream's API.
///
/// What every KV client sets when it creates a bucket (ADR-8), as the policy declares it. Keys are
/// never deleted from a stream by sequence number (`deny_delete`), so that a revision that was
/// there stays what it was.
///
/// A copy takes no subjects. It sources its original, with each key under its own name, so that
/// clients see a bucket like any other. It is no mirror: one that renames keys takes part in the
/// original's direct gets, and finds nothing there (seen on 2.10.25 and 2.15.1).
pub fn config(bucket: &Bucket) -> Map<String, Value> {
    let keyspace = Keyspace::whole(bucket.name.clone());
    let (subjects, sources) = match &bucket.copy_of {
        None => (vec![keyspace.subjects()], Vec::new()),
        Some(original) => {
            let original = Keyspace::whole(original.clone());
            let renamed = json!({"src": original.subjects(), "dest": keyspace.subjects()});
            let mut source = json!({"name": original.stream(), "subject_transforms": [renamed]});
            if let (Some(from), Some(source)) = (&bucket.copied_from, source.as_object_mut()) {
                let deliver = copied_to(bucket.name.as_str());
                let external = json!({"api": domain_api(from.as_str()), "deliver": deliver});
                source.insert("external".to_owned(), external);
            }
            (Vec::new(), vec![source])
        }
    };
    object(json!({
        "name": keyspace.stream(),
        "description": bucket.description.clone().unwrap_or_default(),
        "subjects": subjects,
        "sources": sources,
        "retention": "limits",
        "storage": bucket.storage.as_str(),
        "num_replicas": bucket.replicas,
        "max_msgs_per_subject": bucket.history,
        "max_age": bucket.ttl.map_or(0, nanoseconds),
        "allow_msg_ttl": bucket.key_ttl,
        "subject_delete_marker_ttl": bucket.limit_markers.map_or(0, nanoseconds),
        "max_msg_size": limit(bucket.max_value_size),
        "max_bytes": limit(bucket.max_bytes),
        "max_msgs": -1,
        "max_consumers": -1,
        "compression": if bucket.compression { "s2" } else { "none" },
        "discard": bucket.discard.as_str(),
        "duplicate_window": nanoseconds(bucket.duplicate_window),
        "allow_direct": bucket.direct,
        "allow_rollup_hdrs": bucket.rollup,
        "deny_delete": true,
    }))
}

/// A size or number that may be unlimited, as JetStream writes it.
pub(super) fn limit(size: Option<u64>) -> i64 {
    size.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX))
}

/// A time as JetStream writes it.
pub(super) fn nanoseconds(time: std::time::Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// The object that `json!` made of braces.
pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(config) => config,
        _ => Map::new(),
    }
}
