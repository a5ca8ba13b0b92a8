//! One keyspace, one writer: finds every key that two services would own.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::draft::Draft;
use crate::diagnostics::{Collector, MAX_PROBLEMS, Problem, Span};
use crate::policy::model::Access;
use solewriter_types::keyspace::{BucketName, Keyspace};
use solewriter_types::subject::tree::PatternTree;

/// The longest search for two owners, in pairs of places: about a second. A policy of 100,000
/// keyspaces takes fewer than a million.
pub const MAX_STEPS: usize = 20_000_000;

/// An `owns` entry.
struct Owned<'d> {
    keyspace: &'d Keyspace,
    service: &'d str,
    span: &'d Span,
}

/// Reports pairs of `owns` entries of different services that share a key, with such a key. The search
/// takes its steps from `steps`.
pub fn check(drafts: &[Draft], steps: &mut usize, problems: &Collector) {
    let shared = of_several(drafts);
    let mut buckets: BTreeMap<&BucketName, PatternTree<'_>> = BTreeMap::new();
    let mut owned = Vec::new();
    for (owner, draft) in drafts.iter().enumerate() {
        for (rule, place) in draft.rules() {
            let Access::Owns(keyspace) = &rule.access else { continue };
            if !shared.contains(keyspace.bucket()) {
                continue;
            }
            let tree = buckets.entry(keyspace.bucket()).or_default();
            match keyspace.part() {
                Some(part) => tree.insert(part, owned.len(), owner),
                None => tree.insert_all(owned.len(), owner),
            }
            owned.push(Owned { keyspace, service: &draft.service.name, span: &place.span });
        }
    }
    let mut left = MAX_PROBLEMS;
    for (bucket, tree) in &buckets {
        let Ok(conflicts) = tree.conflicts(left, steps) else {
            // What cannot be shown to have one writer is refused.
            problems.push(
                Problem::error(
                    "too-entangled",
                    format!("the keyspaces of bucket `{bucket}` take too long to compare"),
                )
                .help("use fewer `*`, or more buckets"),
            );
            return;
        };
        left -= conflicts.len();
        for (a, b) in conflicts {
            if let (Some(a), Some(b)) = (owned.get(a.min(b)), owned.get(a.max(b))) {
                problems.push(two_owners(a, b));
            }
        }
    }
}

/// Buckets of which several services own something: of a large policy, few.
fn of_several(drafts: &[Draft]) -> HashSet<&BucketName> {
    let mut first: HashMap<&BucketName, usize> = HashMap::new();
    let mut several = HashSet::new();
    for (owner, draft) in drafts.iter().enumerate() {
        for rule in &draft.service.rules {
            let Access::Owns(keyspace) = &rule.access else { continue };
            if *first.entry(keyspace.bucket()).or_insert(owner) != owner {
                several.insert(keyspace.bucket());
            }
        }
    }
    several
}

fn two_owners(first: &Owned<'_>, second: &Owned<'_>) -> Problem {
    // They overlap, so there is such a key.
    let key = first.keyspace.shared_key(second.keyspace).unwrap_or_default();
    Problem::error(
        "two-owners",
        format!("`{}` and `{}` would both write `{key}`", first.service, second.service),
    )
    .at(second.span, format!("`{}` owns it here", second.service))
    .also(first.span, format!("`{}` owns it here", first.service))
    .help("a key has one writer: move it out of one of the two; the other can read it (`reads`) or ask (`calls`)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::SourceFile;
    use crate::policy::model::Service;
    use crate::policy::validate::settings::Place;
    use crate::policy::validate::validate;

    #[test]
    fn a_policy_that_takes_too_long_to_compare_is_refused() {
        let file = SourceFile::new(
            "p.toml",
            "[bucket.b]\npart_owners = true\nrollup = false\nduplicate_window = \"100ms\"\n\
             [service.x]\nowns = [\"b/x.>\"]\n[service.y]\nowns = [\"b/y.>\"]\n",
        );
        let policy = validate(std::slice::from_ref(&file)).unwrap().policy;
        let place = Place { span: file.span(0..1), everything: false };
        let drafts: Vec<Draft> = policy
            .services()
            .iter()
            .map(|service| Draft {
                service: Service::clone(service),
                places: vec![place.clone()],
                before: None,
            })
            .collect();
        let problems = Collector::new();
        check(&drafts, &mut { MAX_STEPS }, &problems);
        assert!(!problems.has_errors());
        check(&drafts, &mut 0, &problems);
        assert!(problems.has_errors());
    }
}
