//! Declared object stores.

use std::collections::HashMap;

use super::names::defined_twice;
use super::settings::{choice, shown};
use super::times::{LEAST_WINDOW, check_least};
use crate::diagnostics::{Collector, Problem, Span};
use crate::policy::document::StoreEntry;
use crate::policy::model::{Location, Storage, Store};
use solewriter_types::keyspace::BucketName;

/// Judges every declaration.
pub fn check(entries: Vec<StoreEntry>, problems: &Collector) -> Vec<Store> {
    let mut names: HashMap<BucketName, Span> = HashMap::new();
    let mut stores = Vec::new();
    for entry in entries {
        let name = match BucketName::parse(&entry.name.value) {
            Ok(name) => name,
            Err(error) => {
                let text = shown(&entry.name.value);
                let message = format!("`{text}` cannot name an object store: {error}");
                problems.push(
                    Problem::error("bad-name", message)
                        .at(&entry.name.span, "")
                        .help("use letters, digits, `_` and `-`"),
                );
                continue;
            }
        };
        if let Some(first) = names.get(&name) {
            problems.push(defined_twice("store", &entry.name, first));
            continue;
        }
        names.insert(name.clone(), entry.name.span.clone());
        check_least("ttl", entry.ttl.as_ref(), LEAST_WINDOW, "100ms", problems);
        let storages = [Storage::File, Storage::Memory];
        stores.push(Store {
            name,
            description: entry.description.map(|text| text.value),
            ttl: entry.ttl.map(|time| time.value),
            max_bytes: entry.max_bytes.map(|size| size.value),
            replicas: entry.replicas.and_then(|n| u8::try_from(n.value).ok()).unwrap_or(1),
            storage: choice("storage", entry.storage.as_ref(), storages, Storage::as_str, problems)
                .unwrap_or(Storage::File),
            compression: entry.compression.is_some_and(|flag| flag.value),
            at: Location::from(&entry.name.span),
        });
    }
    stores
}
