//! Warnings and notes: a policy that holds, and is likely not what was meant.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::bucket::Buckets;
use super::covered::{Effort, MAX_STEPS, STEPS_OF_ENTRY, check_covered};
use super::draft::Draft;
use super::role::Roles;
use super::settings::Place;
use super::threads::Threads;
use crate::diagnostics::{Collector, Problem};
use crate::policy::model::{Access, Rule};
use solewriter_types::connection_type::ConnectionType;
use solewriter_types::subject::tree::PatternTree;
use solewriter_types::subject::{Pattern, StarError, deny_below_stars};

/// How long the search for [`check_stars`] may be in a policy of so many rules. Not shared with what is
/// only advice: a policy must not be refused for that.
pub fn steps_for_stars(rules: usize) -> usize {
    MAX_STEPS.saturating_add(rules.saturating_mul(STEPS_OF_ENTRY))
}

/// Judges each service by itself. Gives how many steps it took of [`steps_for_stars`].
pub fn check(
    drafts: &[Draft],
    effort: &mut Effort,
    threads: Threads,
    problems: &Collector,
) -> usize {
    let entries: usize = drafts.iter().map(|draft| draft.service.rules.len()).sum();
    let most = steps_for_stars(entries);
    effort.0 = effort.0.saturating_add(entries.saturating_mul(STEPS_OF_ENTRY));
    let all = effort.0;
    let spent = threads.each_judged(threads.parts(drafts), problems, |drafts, problems| {
        let (mut effort, mut steps) = (Effort(all), most);
        for draft in drafts {
            // A role's own entries were judged with the role.
            let own = draft.rules().filter(|(rule, _)| rule.role().is_none());
            check_covered(own, &mut effort, problems);
            check_deputy(draft, problems);
            check_stars(draft, &mut steps, problems);
            check_leafnode(draft, problems);
        }
        (all.saturating_sub(effort.0), most.saturating_sub(steps))
    });
    effort.spend(spent.iter().map(|(searched, _)| searched).sum());
    spent.iter().map(|(_, steps)| steps).sum()
}

/// A leafnode is told each subject that others subscribe to and that it may publish to: with
/// `answers`, everybody's inboxes, whose names are all that protects them. And nats-server keeps
/// buckets and JetStream from leafnodes.
fn check_leafnode(draft: &Draft, problems: &Collector) {
    if !draft.service.connections.contains(&ConnectionType::Leafnode) {
        return;
    }
    let name = &draft.service.name;
    let find = |wanted: fn(&Access) -> bool| draft.rules().find(|(rule, _)| wanted(&rule.access));
    let answers = |access: &Access| matches!(access, Access::Answers(_) | Access::FoundAs(_));
    if let Some((_, answers)) = find(answers) {
        problems.push(
            Problem::error(
                "leafnode-answers",
                format!("`{name}` may connect as LEAFNODE and answers requests"),
            )
            .at(&answers.span, "it may publish to inboxes, so a server tells it everybody's")
            .help(
                "give what answers a service of its own, whose `connections` have no LEAFNODE: \
                 a leafnode that knows an inbox can forge the answer to it",
            ),
        );
    }
    let kept = |access: &Access| {
        matches!(
            access,
            Access::Owns(_)
                | Access::Reads(_)
                | Access::OwnsStore(_)
                | Access::ReadsStore(_)
                | Access::Consumes(_)
                | Access::Replays(_)
                | Access::Audits(_)
        )
    };
    if let Some((rule, kept)) = find(kept) {
        problems.push(
            Problem::warning(
                "leafnode-keyspaces",
                format!(
                    "`{name}` may connect as LEAFNODE, by which `{}` does not work",
                    rule.access
                ),
            )
            .at(&kept.span, "nats-server lets neither keys nor JetStream through to a leafnode")
            .help(
                "connect by STANDARD or WEBSOCKET for that; a leafnode carries plain subjects. \
                 A leaf server whose clients use buckets has a callout of its own: docs/shapes.md",
            ),
        );
    }
}

/// A subscription that ends in `*` comes with a denial of what is below it, which would take
/// away what another entry grants there.
pub fn check_stars(draft: &Draft, steps: &mut usize, problems: &Collector) {
    let subscribed: Vec<(&Pattern, &Place)> = draft
        .rules()
        .filter_map(|(rule, place)| match &rule.access {
            Access::Subscribes(pattern) | Access::Answers(pattern) => Some((pattern, place)),
            _ => None,
        })
        .collect();
    let patterns: Vec<&Pattern> = subscribed.iter().map(|(pattern, _)| *pattern).collect();
    let (star, other) = match deny_below_stars(&patterns, steps) {
        Ok(_) => return,
        Err(StarError::Conflict { star, other }) => (star, other),
        Err(StarError::TooEntangled) => {
            let Some((_, place)) = subscribed.first() else { return };
            let name = &draft.service.name;
            let message = format!("the subscriptions of `{name}` take too long to compare");
            return problems.push(
                Problem::error("too-entangled", message)
                    .at(&place.span, "")
                    .help("use fewer that end in `*`"),
            );
        }
    };
    let (Some((star, at)), Some((other, below))) = (subscribed.get(star), subscribed.get(other))
    else {
        return;
    };
    let above = star.as_str().strip_suffix('*').unwrap_or(star.as_str());
    problems.push(
        Problem::error("star-conflict", format!("`{star}` cannot stand beside `{other}`"))
            .at(&at.span, format!("a client may send `{above}>` here, so `{star}.>` is denied"))
            .also(&below.span, "and that would be denied with it")
            .help(format!("write `{above}>` if all below may be received; else name the subjects")),
    );
}

/// A service that owns and answers can be made to write its own keys: the caller chooses the
/// reply subject, and the server lets the owner publish there. One that consumes can be made to
/// acknowledge: an empty answer is an acknowledgement. For one that is found, its client library
/// answers, wherever it is asked to.
fn check_deputy(draft: &Draft, problems: &Collector) {
    let find = |wanted: fn(&Access) -> bool| draft.rules().find(|(rule, _)| wanted(&rule.access));
    let found = find(|access| matches!(access, Access::FoundAs(_)));
    let help = if found.is_some() {
        "no permission can prevent it, and the client library answers `$SRV` requests by itself: \
         split the service in two"
    } else {
        "no permission can prevent it: answer only to subjects that begin with `_INBOX.`, or \
         split the service in two"
    };
    let answers = found.or_else(|| find(|access| matches!(access, Access::Answers(_))));
    let Some((_, answers)) = answers else { return };
    let (does, also, choice) = if let Some((_, owns)) = find(|a| matches!(a, Access::Owns(_))) {
        ("owns a keyspace", owns, "and may choose a key of this")
    } else if let Some((_, owns)) = find(|a| matches!(a, Access::OwnsStore(_))) {
        ("owns an object store", owns, "and may choose an object of this")
    } else if let Some((_, consumes)) = find(|a| matches!(a, Access::Consumes(_))) {
        (
            "consumes messages",
            consumes,
            "and may choose a message of this: an empty answer acknowledges it",
        )
    } else {
        return;
    };
    problems.push(
        Problem::warning(
            "confused-deputy",
            format!("`{}` {does} and answers requests", draft.service.name),
        )
        .at(&answers.span, "a caller chooses where the answer goes")
        .also(&also.span, choice)
        .help(help),
    );
}

/// What is asked for and nobody offers, and the other way round.
pub fn check_counterparts(
    (buckets, roles): (&Buckets, &Roles),
    drafts: &[Draft],
    effort: &mut Effort,
    threads: Threads,
    problems: &Collector,
) {
    let offered = Offered::by(drafts, buckets);
    let all = effort.0;
    let searched = threads.each_judged(threads.parts(drafts), problems, |drafts, problems| {
        let mut search = Search::new(&offered, all);
        for draft in drafts {
            search.check(draft, buckets, problems);
        }
        (search.of_roles, all.saturating_sub(search.effort.0))
    });
    let mut of_roles = HashMap::new();
    for (found, steps) in searched {
        effort.spend(steps);
        for (place, problem) in found {
            of_roles.entry(place).or_insert(problem);
        }
    }
    for problem in of_roles.into_values() {
        problems.push(problem);
    }
    for bucket in &buckets.list {
        if !offered.owns_of(bucket.name.as_str())
            && let Some((_, span)) = buckets.names.get(&bucket.name)
        {
            problems.advise(span, || {
                let message = format!("nobody owns bucket `{}`", bucket.name);
                Problem::note("unowned-bucket", message).at(span, "no rule lets anybody write it")
            });
        }
    }
    for role in roles.values().filter(|role| !role.used.load(Ordering::Relaxed)) {
        let message = format!("no service has role `{}`", role.name.value);
        problems.push(Problem::note("unused-role", message).at(&role.name.span, ""));
    }
}

/// What services offer.
#[derive(Default)]
struct Offered<'d> {
    /// Buckets that somebody owns whole.
    whole: HashSet<&'d str>,
    /// The parts of others that are owned.
    owned: BTreeMap<&'d str, PatternTree<'d>>,
    published: PatternTree<'d>,
    answered: PatternTree<'d>,
}

impl<'d> Offered<'d> {
    fn by(drafts: &'d [Draft], buckets: &'d Buckets) -> Self {
        let mut offered = Self::default();
        for (rule, _) in drafts.iter().flat_map(Draft::rules) {
            match &rule.access {
                Access::Owns(keyspace) => {
                    let bucket = keyspace.bucket().as_str();
                    match keyspace.part() {
                        Some(part) => offered.owned.entry(bucket).or_default().insert(part, 0, 0),
                        None => drop(offered.whole.insert(bucket)),
                    }
                }
                Access::Publishes(pattern) => offered.published.insert(pattern, 0, 0),
                Access::Answers(pattern) => offered.answered.insert(pattern, 0, 0),
                Access::Reads(_)
                | Access::Writes(_)
                | Access::WritesStore(_)
                | Access::OwnsStore(_)
                | Access::ReadsStore(_)
                | Access::Subscribes(_)
                | Access::Calls(_)
                | Access::Consumes(_)
                | Access::FoundAs(_)
                | Access::Discovers(_)
                | Access::DiscoversAll
                | Access::Replays(_)
                | Access::Audits(_) => {}
            }
        }
        // What is written to a bucket is in its copies, too.
        for (copy, original) in buckets.list.iter().filter_map(|b| Some((b, b.copy_of.as_ref()?))) {
            if offered.owns_of(original.as_str()) {
                offered.whole.insert(copy.name.as_str());
            }
        }
        offered
    }

    /// Whether somebody owns of that bucket.
    fn owns_of(&self, bucket: &str) -> bool {
        self.whole.contains(bucket) || self.owned.contains_key(bucket)
    }
}

/// Where an entry of a role stands.
type RolePlace = (Arc<str>, usize);

/// Looks for what nobody offers.
struct Search<'o, 'd> {
    offered: &'o Offered<'d>,
    effort: Effort,
    /// What is known of `published` and `answered`: many services subscribe to the same.
    unpublished: HashMap<&'d str, bool>,
    unanswered: HashMap<&'d str, bool>,
    /// What is said of a role's entry, once and not for each service that has the role.
    of_roles: HashMap<RolePlace, Problem>,
}

impl<'o, 'd> Search<'o, 'd> {
    fn new(offered: &'o Offered<'d>, effort: usize) -> Self {
        Self {
            offered,
            effort: Effort(effort),
            unpublished: HashMap::new(),
            unanswered: HashMap::new(),
            of_roles: HashMap::new(),
        }
    }

    fn check(&mut self, draft: &'d Draft, buckets: &Buckets, problems: &Collector) {
        for (rule, place) in draft.rules() {
            // Said already: an error.
            if let Access::Reads(keyspace) = &rule.access
                && !buckets.names.contains_key(keyspace.bucket())
            {
                continue;
            }
            let Some((code, does, what)) = self.missing(rule, place) else { continue };
            let span = &place.span;
            let note = || {
                let message = format!("nobody {does} `{what}`");
                Problem::note(code, message).at(span, "")
            };
            if rule.role().is_none() {
                problems.advise(span, note);
                continue;
            }
            let place = (Arc::clone(span.file().name()), span.range().start);
            self.of_roles.entry(place).or_insert_with(note);
        }
    }

    /// What this rule asks for and nobody offers: the code of that, what nobody does, and with what.
    fn missing(
        &mut self,
        rule: &'d Rule,
        place: &Place,
    ) -> Option<(&'static str, &'static str, &'d dyn fmt::Display)> {
        let Self { offered, effort, unpublished, unanswered, .. } = self;
        let mut lacks = |tree: &PatternTree<'_>, known: &mut HashMap<&'d str, bool>, pattern| {
            let pattern = Pattern::as_str(pattern);
            let search = || tree.overlaps(pattern, &mut effort.0) == Ok(false);
            *known.entry(pattern).or_insert_with(search)
        };
        match &rule.access {
            Access::Reads(keyspace) if !place.everything => {
                let bucket = keyspace.bucket().as_str();
                let part = keyspace.part().map_or(">", |part| part.as_str());
                let tree = offered.owned.get(bucket);
                let held = |tree: &PatternTree<'_>| tree.overlaps(part, &mut effort.0) != Ok(false);
                let owned = offered.whole.contains(bucket) || tree.is_some_and(held);
                (!owned).then_some(("unowned-read", "owns", keyspace))
            }
            Access::Calls(pattern) if lacks(&offered.answered, unanswered, pattern) => {
                Some(("unanswered-call", "answers", pattern))
            }
            Access::Subscribes(pattern) if lacks(&offered.published, unpublished, pattern) => {
                Some(("unpublished-subscription", "publishes to", pattern))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::SourceFile;
    use crate::policy::model::Service;
    use crate::policy::validate::validate;

    #[test]
    fn what_takes_too_long_to_compare_is_told_or_refused() {
        let text = "[service.s]\nsubscribes = [\"e.a.*\", \"e.b.*\", \"e.a.c\"]\n";
        let file = SourceFile::new("p.toml", text);
        let policy = validate(std::slice::from_ref(&file)).unwrap().policy;
        let place = Place { span: file.span(0..1), everything: false };
        let service = Service::clone(&policy.services()[0]);
        let draft = Draft { places: vec![place; service.rules.len()], service, before: None };
        let codes = |effort: &mut Effort, steps: &mut usize| -> Vec<&str> {
            let problems = Collector::new();
            check_covered(draft.rules(), effort, &problems);
            check_stars(&draft, steps, &problems);
            effort.report(&problems);
            problems.finish().iter().map(|problem| problem.code).collect()
        };
        assert_eq!(codes(&mut Effort::new(), &mut { MAX_STEPS }), ["covered"]);
        assert_eq!(codes(&mut Effort(3), &mut { MAX_STEPS }), ["not-compared"]);
        assert!(codes(&mut Effort::new(), &mut 3).contains(&"too-entangled"));
        // All services together have one bound.
        let mut steps = 60;
        let mut all = Effort(60);
        let found: Vec<_> = (0..9).map(|_| codes(&mut all, &mut steps)).collect();
        assert!(!found[0].contains(&"too-entangled") && found[8].contains(&"too-entangled"));
        assert!(!found[0].contains(&"not-compared") && found[8].contains(&"not-compared"));
    }
}
