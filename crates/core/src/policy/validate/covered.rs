//! Entries that add nothing, and what all such searches of a policy may take.

use std::collections::BTreeMap;

use super::settings::Place;
use crate::diagnostics::{Collector, Problem};
use crate::policy::model::{Access, Rule};
use solewriter_types::subject::Pattern;
use solewriter_types::subject::tree::PatternTree;

/// The longest search of a whole policy for what is likely not meant, in places looked at: well
/// below a second. Each entry adds some, which is more than it takes without a crowd of wildcards.
pub const MAX_STEPS: usize = 10_000_000;
pub const STEPS_OF_ENTRY: usize = 100;

/// What is left of the searches; shared by all, so that the policy as a whole is bounded.
pub struct Effort(pub usize);

impl Effort {
    /// For one policy.
    pub fn new() -> Self {
        Self(MAX_STEPS)
    }

    /// A search took so many steps.
    pub fn spend(&mut self, steps: usize) {
        self.0 = self.0.saturating_sub(steps);
    }

    /// Whether the searches came near to what they may take.
    pub fn is_strained(&self) -> bool {
        self.0 < MAX_STEPS / 16 * 15
    }

    /// Whether nothing is left.
    pub fn is_spent(&self) -> bool {
        self.0 == 0
    }

    /// Says so when not everything was looked at.
    pub fn report(&self, problems: &Collector) {
        if self.is_spent() {
            problems.push(
                Problem::note("not-compared", "not every entry was compared with the others").help(
                    "there are many with `*` or `>` in many places, so entries that add \
                           nothing, or that nobody is on the other side of, may not be told of",
                ),
            );
        }
    }
}

/// Warns of entries that another entry of the same table makes needless.
pub fn check_covered<'r>(
    rules: impl Iterator<Item = (&'r Rule, &'r Place)>,
    effort: &mut Effort,
    problems: &Collector,
) {
    let mut groups: BTreeMap<&str, Vec<(String, &Rule, &Place)>> = BTreeMap::new();
    // What ends is no reason to leave out what does not, and what is to end says so for itself.
    for (rule, place) in rules.filter(|(rule, _)| rule.until().is_none()) {
        // What one owns one reads, so the two are looked at together.
        let (group, subjects) = match &rule.access {
            // Rules of what could be done before are made after this.
            Access::Writes(_) | Access::WritesStore(_) => continue,
            Access::Owns(keyspace) | Access::Reads(keyspace) => ("reads", keyspace.subjects()),
            Access::OwnsStore(store) | Access::ReadsStore(store) => ("stores", store.to_string()),
            Access::Publishes(p)
            | Access::Subscribes(p)
            | Access::Answers(p)
            | Access::Calls(p) => (rule.access.verb(), p.to_string()),
            Access::Consumes(consumed) => (rule.access.verb(), consumed.name.to_string()),
            Access::FoundAs(name) | Access::Discovers(name) => {
                (rule.access.verb(), name.to_string())
            }
            Access::DiscoversAll => (rule.access.verb(), "*".to_owned()),
            Access::Replays(replayed) => {
                let filter = replayed.filter().map_or(">", Pattern::as_str);
                (rule.access.verb(), format!("{}.{filter}", replayed.stream()))
            }
            Access::Audits(stream) => (rule.access.verb(), stream.to_string()),
        };
        groups.entry(group).or_default().push((subjects, rule, place));
    }
    for entries in groups.values().filter(|entries| entries.len() > 1) {
        let mut tree = PatternTree::new();
        for (i, (subjects, ..)) in entries.iter().enumerate() {
            tree.insert_text(subjects, i, 0);
        }
        for (i, (subjects, rule, place)) in entries.iter().enumerate() {
            let Ok(cover) = tree.cover(subjects, Some(i), &mut effort.0) else { return };
            let Some(cover) = cover else { continue };
            let Some((other, by, by_place)) = entries.get(cover) else { continue };
            // To read is no reason not to own; of two equal entries the second is needless; what
            // `*` stands for is nobody's entry.
            let kept = rule.access.verb() == "owns" && by.access.verb() == "reads";
            let twin = other == subjects && rule.access.verb() == by.access.verb();
            if place.everything || kept || (twin && cover > i) {
                continue;
            }
            let (message, label) = if twin {
                (format!("`{}` is listed twice", rule.access), "first listed here".to_owned())
            } else {
                (
                    format!("`{}` adds nothing", rule.access),
                    format!("`{by}` covers it", by = by.access),
                )
            };
            problems.push(
                Problem::warning("covered", message)
                    .at(&place.span, "")
                    .also(&by_place.span, label)
                    .help("remove it"),
            );
        }
    }
}
