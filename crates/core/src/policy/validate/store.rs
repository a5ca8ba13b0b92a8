//! Declared object stores, and whether each that is used is declared and has one owner.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::draft::Draft;
use super::names::defined_twice;
use super::settings::{Place, choice, domain, shown};
use super::times::{LEAST_WINDOW, check_least};
use crate::diagnostics::toml::nearest;
use crate::diagnostics::{Collector, Problem, Span};
use crate::grant::AuditStreams;
use crate::policy::document::StoreEntry;
use crate::policy::model::{Access, Location, STORE_PREFIX, Storage, Store};
use solewriter_types::keyspace::BucketName;

/// A declared object store, and where its name stands.
pub struct Declaration {
    pub store: Store,
    span: Span,
}

/// Judges every declaration.
pub fn check(
    entries: Vec<StoreEntry>,
    audit: &AuditStreams,
    problems: &Collector,
) -> Vec<Declaration> {
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
        let store = Store {
            name,
            description: entry.description.map(|text| text.value),
            ttl: entry.ttl.map(|time| time.value),
            max_bytes: entry.max_bytes.map(|size| size.value),
            replicas: entry.replicas.and_then(|n| u8::try_from(n.value).ok()).unwrap_or(1),
            storage: choice("storage", entry.storage.as_ref(), storages, Storage::as_str, problems)
                .unwrap_or(Storage::File),
            compression: entry.compression.is_some_and(|flag| flag.value),
            domain: domain(entry.domain.as_ref(), audit, problems),
            at: Location::from(&entry.name.span),
        };
        stores.push(Declaration { store, span: entry.name.span });
    }
    stores
}

/// Each `owns` or `reads` of an object store, with its service and place.
fn uses(drafts: &[Draft]) -> impl Iterator<Item = (&Draft, &BucketName, bool, &Place)> {
    drafts.iter().flat_map(|draft| {
        draft.rules().filter_map(move |(rule, place)| match &rule.access {
            Access::OwnsStore(store) => Some((draft, store, true, place)),
            Access::ReadsStore(store) => Some((draft, store, false, place)),
            _ => None,
        })
    })
}

/// An object store has one owner.
pub fn check_owners(drafts: &[Draft], problems: &Collector) {
    let mut owners: BTreeMap<&BucketName, (&Draft, &Place)> = BTreeMap::new();
    for (draft, store, _, place) in uses(drafts).filter(|(_, _, owns, _)| *owns) {
        let (by, at) = *owners.entry(store).or_insert((draft, place));
        let (one, two) = (&by.service.name, &draft.service.name);
        if one == two {
            continue;
        }
        problems.push(
            Problem::error(
                "two-owners",
                format!("`{one}` and `{two}` would both write object store `{store}`"),
            )
            .at(&place.span, format!("`{two}` owns it here"))
            .also(&at.span, format!("`{one}` owns it here"))
            .help("an object store has one owner: the other can read it (`reads`)"),
        );
    }
}

/// Finds stores that are used and not declared, and those that nobody owns.
pub fn check_declared(stores: &[Declaration], drafts: &[Draft], problems: &Collector) {
    let mut owned: HashSet<&BucketName> = HashSet::new();
    let mut said: HashSet<(Arc<str>, usize, &BucketName)> = HashSet::new();
    for (_, name, owns, place) in uses(drafts) {
        if owns {
            owned.insert(name);
        }
        // Once for a role, not for each service that has it.
        let span = &place.span;
        let key = (Arc::clone(span.file().name()), span.range().start, name);
        if stores.iter().any(|declared| declared.store.name == *name) || !said.insert(key) {
            continue;
        }
        let help = match nearest(name.as_str(), stores.iter().map(|s| s.store.name.as_str())) {
            Some(near) => format!("did you mean `{STORE_PREFIX}{near}`?"),
            None => format!("declare it: [store.{name}]"),
        };
        let message = format!("object store `{name}` is not declared");
        problems.push(Problem::error("undeclared-store", message).at(span, "").help(help));
    }
    for declared in stores.iter().filter(|declared| !owned.contains(&declared.store.name)) {
        let message = format!("nobody owns object store `{}`", declared.store.name);
        problems.push(
            Problem::note("unowned-store", message)
                .at(&declared.span, "no rule lets anybody write it"),
        );
    }
}
