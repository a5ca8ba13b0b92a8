//! From what was seen to the files of a policy, and to what people are told.
//!
//! What cannot be decided is a question in the files, and not a guess. `case` holds a draft while
//! `buckets`, `streams`, `subjects` and `discovery` make it; `page` writes it down. Then the
//! policy's own validation reads it: what that refuses becomes a comment. Last, `granted` asks of
//! everything that was seen whether the policy grants it, and what it does not is in the report.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::before::Before;
use self::case::Case;
use self::existing::Existing;
use self::page::{Item, Origin, Page, Table};
use self::report::{Drafted, NotGranted, Report};
use crate::adoption::evidence::fact::Fact;
use crate::adoption::evidence::generalise::Level;
use crate::adoption::evidence::{Evidence, UNKNOWN, Work};
use solewriter_core::analysis::query::Held;
use solewriter_core::diagnostics::{Problems, Severity, SourceFile};
use solewriter_core::policy::model::Policy;
use solewriter_core::policy::validate::validate;
use solewriter_types::clean;

pub mod before;
mod buckets;
mod case;
mod conflicts;
mod discovery;
pub mod existing;
mod granted;
mod page;
pub mod report;
mod streams;
mod subjects;

/// The file that declares what is kept.
pub const BUCKETS_FILE: &str = "buckets.toml";

/// The file of the services.
pub const SERVICES_FILE: &str = "services.toml";

/// How often what validation refuses is taken out, before all of it is.
const MOST_ROUNDS: usize = 200;

/// The keys of a service's table, in order.
const KEYS: [&str; 17] = [
    "nkeys",
    "enforce",
    "before.publish",
    "before.deny_publish",
    "before.subscribe",
    "before.deny_subscribe",
    "before.allow_responses",
    "owns",
    "reads",
    "publishes",
    "subscribes",
    "answers",
    "calls",
    "consumes",
    "replays",
    "found_as",
    "discovers",
];

/// The files of a policy, by name, and what people are told. No file where no service was seen: a
/// policy has one at least.
#[must_use]
pub fn draft(
    evidence: &Evidence,
    existing: &Existing,
    level: Level,
    before: Option<&Before>,
) -> (Vec<(String, String)>, Report) {
    let mut case = Case {
        evidence,
        existing,
        level,
        before,
        tables: Vec::new(),
        items: BTreeMap::new(),
        questions: Vec::new(),
        asked: BTreeMap::new(),
        reasons: BTreeMap::new(),
        conflicts: Vec::new(),
    };
    buckets::decide(&mut case);
    let kept = streams::declare(&mut case);
    let answered = subjects::answers(&mut case);
    subjects::published(&mut case, &answered, &kept);
    streams::consumers(&mut case, &kept);
    streams::replays(&mut case, &kept);
    discovery::decide(&mut case);
    conflicts::decide(&mut case);
    let mut pages = pages(&mut case);
    let policy = settle(&mut pages, &mut case.reasons);
    let report = report(&case, &pages, policy.as_ref());
    let files = match policy {
        Some(_) => pages.iter().map(|page| (page.name.to_owned(), page.render().0)).collect(),
        None => Vec::new(),
    };
    (files, report)
}

/// The files as they are before validation.
fn pages(case: &mut Case<'_>) -> [Page; 2] {
    let mut services = Page { name: SERVICES_FILE, ..Page::default() };
    services
        .head
        .push("Drafted by `solewriter learn` from what clients were seen to do.".to_owned());
    services.head.push("Each entry says how often, when last and by which users.".to_owned());
    for question in &case.questions {
        services.head.push(String::new());
        services.head.extend(question.lines());
    }
    let shared = shared_keys(case.evidence);
    for (name, work) in case.evidence.services() {
        if &**name == UNKNOWN {
            continue;
        }
        let mut table = Table { header: format!("service.{name}"), ..Table::default() };
        table.notes = about(work);
        let keys: Vec<&Arc<str>> =
            work.nkeys.names().iter().filter(|key| !shared.contains(*key)).collect();
        if keys.is_empty() {
            let note = if work.nkeys.is_empty() {
                "no NKEY was seen: `solewriter key new` makes one, and its public key goes here"
            } else {
                "its NKEY is another service's, too: `solewriter key new` makes one of its own"
            };
            table.items.push(Item::setting("nkeys", "[]".to_owned(), note));
        }
        for key in keys {
            table.items.push(Item::element("nkeys", key, "", Vec::new()));
        }
        let mut items = case.items.get(name).cloned().unwrap_or_default();
        match case.before.map(|before| before.items(work)) {
            Some(Ok(before)) => items.extend(before),
            Some(Err(why)) => table.notes.push(format!("Not observed: {why}.")),
            None => {}
        }
        let place = |item: &Item| KEYS.iter().position(|key| *key == item.key);
        items.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.value.cmp(&b.value)));
        items.dedup_by(|second, first| {
            let same = second.key == first.key && second.value == first.value;
            if same {
                first.facts.append(&mut second.facts);
                first.note = format!("{}; {}", first.note, second.note);
            }
            same
        });
        table.items.extend(items);
        services.tables.push(table);
    }
    let mut declared = Page { name: BUCKETS_FILE, ..Page::default() };
    declared
        .head
        .push("Drafted by `solewriter learn`: what JetStream keeps for services.".to_owned());
    declared.tables = std::mem::take(&mut case.tables);
    declared.tables.sort_by(|a, b| a.header.cmp(&b.header));
    [declared, services]
}

/// The keys that more than one service logged in with.
fn shared_keys(evidence: &Evidence) -> BTreeSet<Arc<str>> {
    let mut seen = BTreeSet::new();
    let mut shared = BTreeSet::new();
    for key in evidence.services().values().flat_map(|work| work.nkeys.names()) {
        if !seen.insert(Arc::clone(key)) {
            shared.insert(Arc::clone(key));
        }
    }
    shared
}

/// What is said above a service's table.
fn about(work: &Work) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(user) = &work.renamed {
        let user = clean::line(user);
        lines.push(format!("Its user is {user}, which cannot name a service."));
    } else if !work.users.is_empty() {
        lines.push(format!("Users: {}.", work.users));
    }
    if !work.names.is_empty() {
        lines.push(format!("Connections: {}.", work.names));
    }
    if !work.addresses.is_empty() {
        lines.push(format!("Addresses: {}.", work.addresses));
    }
    lines
}

/// Takes out what validation refuses, until it refuses nothing.
fn settle(
    pages: &mut [Page; 2],
    reasons: &mut BTreeMap<(Arc<str>, Fact), String>,
) -> Option<Policy> {
    if pages.iter().all(|page| !page.tables.iter().any(|t| t.header.starts_with("service."))) {
        return None;
    }
    for round in 0..=MOST_ROUNDS {
        let rendered: Vec<(String, Vec<Origin>)> = pages.iter().map(Page::render).collect();
        let named = pages.iter().zip(&rendered);
        let files: Vec<SourceFile> =
            named.map(|(page, (text, _))| SourceFile::new(page.name, text.clone())).collect();
        let problems = match validate(&files) {
            Ok(validated) => return Some(validated.policy),
            Err(problems) => problems,
        };
        if !take_out(pages, &rendered, &problems, reasons) || round + 1 == MOST_ROUNDS {
            // Nothing but the names of services stays.
            for table in pages.iter_mut().flat_map(|page| &mut page.tables) {
                let why = || "the draft could not be settled".to_owned();
                if !table.header.starts_with("service.") {
                    table.off.get_or_insert_with(why);
                }
                for item in &mut table.items {
                    item.off.get_or_insert_with(why);
                }
            }
        }
    }
    None
}

/// Makes comments of what the problems are about. Says whether there was anything.
fn take_out(
    pages: &mut [Page; 2],
    rendered: &[(String, Vec<Origin>)],
    problems: &Problems,
    reasons: &mut BTreeMap<(Arc<str>, Fact), String>,
) -> bool {
    let mut changed = false;
    for problem in problems.iter().filter(|problem| problem.severity == Severity::Error) {
        let Some(label) = &problem.primary else { continue };
        let name = &**label.span.file().name();
        let line = label.span.line_column().0 as usize;
        let Some(at) = pages.iter().position(|page| page.name == name) else { continue };
        let origin =
            rendered.get(at).and_then(|(_, origins)| *origins.get(line.checked_sub(1)?)?);
        let Some((table, item)) = origin else { continue };
        let Some(table) = pages.get_mut(at).and_then(|page| page.tables.get_mut(table)) else {
            continue;
        };
        let why = clean::line(&problem.message).into_owned();
        let service = table.header.strip_prefix("service.").map(Arc::<str>::from);
        if let Some(item) = item.and_then(|item| table.items.get_mut(item)) {
            changed |= item.off.is_none();
            item.off.get_or_insert_with(|| why.clone());
            for fact in item.facts.iter().filter(|_| service.is_some()) {
                let key = (service.clone().unwrap_or_default(), fact.clone());
                reasons.entry(key).or_insert_with(|| why.clone());
            }
        } else {
            changed |= table.off.is_none();
            table.off.get_or_insert(why);
        }
    }
    changed
}

fn report(case: &Case<'_>, pages: &[Page; 2], policy: Option<&Policy>) -> Report {
    let [_, services] = pages;
    let drafted = services.tables.iter().filter_map(|table| {
        let name = table.header.strip_prefix("service.")?;
        let work = case.evidence.services().get(name)?;
        let written = |item: &&Item| {
            let said = item.key == "nkeys" || item.key == "enforce";
            item.off.is_none() && !said && !item.key.starts_with("before.")
        };
        let has_key = table.items.iter().any(|item| item.key == "nkeys" && item.in_list);
        Some(Drafted {
            service: name.to_owned(),
            users: work.users.names().iter().map(ToString::to_string).collect(),
            entries: table.items.iter().filter(written).count(),
            has_key,
            other_inboxes: work.inbox.count,
        })
    });
    let services: Vec<Drafted> = drafted.collect();
    let next = next(case, &services);
    Report {
        conflicts: case.conflicts.clone(),
        questions: case.questions.clone(),
        not_granted: not_granted(case, policy),
        services,
        connected: Vec::new(),
        next,
    }
}

/// All that was seen and the policy does not grant.
fn not_granted(case: &Case<'_>, policy: Option<&Policy>) -> Vec<NotGranted> {
    let mut all = Vec::new();
    for name in case.evidence.services().keys() {
        let service = policy.and_then(|policy| policy.service(name));
        let grant = service.and_then(granted::grant);
        let held = grant.as_ref().map(Held::of);
        for deeds in case.deeds(|_| true).into_iter().filter(|deeds| deeds.service == name) {
            let (fact, record) = (deeds.fact, deeds.record);
            if held.as_ref().is_some_and(|held| granted::is_granted(held, fact, record)) {
                continue;
            }
            let key = (Arc::clone(name), fact.clone());
            let question = case.asked.get(&key).copied();
            let why = match (question, case.reasons.get(&key)) {
                (Some(number), _) => format!("QUESTION {number} decides it"),
                (None, _) if &**name == UNKNOWN => {
                    "nobody knows which service it was: `--map` can say so".to_owned()
                }
                (None, Some(why)) => why.clone(),
                (None, None) => granted::usual_reason(fact).to_owned(),
            };
            all.push(NotGranted { doing: deeds.doing(case.level), why, question });
        }
    }
    all
}

fn next(case: &Case<'_>, services: &[Drafted]) -> Vec<String> {
    let mut next = Vec::new();
    if services.is_empty() {
        next.push(
            "no client with a user was seen: let the trace run longer, or use --map".to_owned(),
        );
        return next;
    }
    if case.evidence.services().contains_key(UNKNOWN) {
        next.push(
            "say with --map which services the unknown clients are, and learn again".to_owned(),
        );
    }
    if case.existing.streams.is_none() {
        next.push("look up the settings of buckets and streams: nobody asked JetStream".to_owned());
    }
    if !case.questions.is_empty() {
        next.push(format!("answer the questions in {SERVICES_FILE}: {}", case.questions.len()));
    }
    if services.iter().any(|service| !service.has_key) {
        next.push("make NKEYs for the services that have none: solewriter key new".to_owned());
    }
    if services.iter().any(|service| service.other_inboxes > 0) {
        next.push("set the inbox prefix in each client: _INBOX.<service>".to_owned());
    }
    next.push("solewriter check".to_owned());
    next.push("solewriter rehearse, with a trace of another day".to_owned());
    next
}

#[cfg(test)]
mod tests;
