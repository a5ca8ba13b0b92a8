//! Names under which services are found: each has one service, and who looks for one finds it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::draft::Draft;
use super::settings::Place;
use crate::diagnostics::toml::nearest;
use crate::diagnostics::{Collector, Problem};
use crate::policy::model::{Access, FoundName};

/// Each name under which a service is found: the service, and the place of its rule.
fn found(drafts: &[Draft]) -> impl Iterator<Item = (&Draft, &FoundName, &Place)> {
    drafts.iter().flat_map(|draft| {
        draft.rules().filter_map(move |(rule, place)| match &rule.access {
            Access::FoundAs(name) => Some((draft, name, place)),
            _ => None,
        })
    })
}

/// A name has one service, and so have all names that look like it: who asks for a name takes
/// whoever answers for it.
pub fn check_use(drafts: &[Draft], problems: &Collector) {
    let mut first: BTreeMap<String, (&Draft, &FoundName, &Place)> = BTreeMap::new();
    for (draft, name, place) in found(drafts) {
        let (by, other, at) = *first.entry(name.looks()).or_insert((draft, name, place));
        let (one, two) = (&by.service.name, &draft.service.name);
        if one == two {
            continue;
        }
        let (code, message) = if name == other {
            ("two-found", format!("`{one}` and `{two}` would both be found as `{name}`"))
        } else {
            ("names-alike", format!("`{name}` of `{two}` looks like `{other}` of `{one}`"))
        };
        problems.push(
            Problem::error(code, message)
                .at(&place.span, format!("`{two}` is found so here"))
                .also(&at.span, format!("`{one}` is found so here"))
                .help("give one of them another name: who asks for a name trusts who answers"),
        );
    }
}

/// Finds names that are looked for, and that no service is found as.
pub fn check_discovered(drafts: &[Draft], problems: &Collector) {
    let known: BTreeSet<&FoundName> = found(drafts).map(|(_, name, _)| name).collect();
    let mut said: HashSet<(Arc<str>, usize, &FoundName)> = HashSet::new();
    for (rule, place) in drafts.iter().flat_map(Draft::rules) {
        let Access::Discovers(name) = &rule.access else { continue };
        // Once for a role, not for each service that has it.
        let span = &place.span;
        let key = (Arc::clone(span.file().name()), span.range().start, name);
        if known.contains(name) || !said.insert(key) {
            continue;
        }
        let help = match nearest(name.as_str(), known.iter().map(|known| known.as_str())) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("put `found_as = [\"{name}\"]` into the table of that service"),
        };
        let message = format!("no service is found as `{name}`");
        problems.push(Problem::error("nobody-found", message).at(span, "").help(help));
    }
}
