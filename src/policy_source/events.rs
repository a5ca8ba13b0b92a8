//! A policy's fate as events: what changed, what was wrong, and which keys need a person soon.

use std::sync::Arc;

use jiff::Timestamp;

use solewriter_core::analysis::diff::{self, Diff, Fate, ServiceChange};
use solewriter_core::diagnostics::render::Style;
use solewriter_core::diagnostics::toml::show_time;
use solewriter_core::diagnostics::{Problem, Problems, Severity};
use solewriter_core::grant::Defaults;
use solewriter_core::policy::model::{Policy, Revision, Service};
use solewriter_types::audit_event::{
    Changes, Event, Fault, MAX_NAMES, Names, Origin, PolicyAccepted, PolicyRefused, Transfer,
    Trouble, words,
};

/// The most text of problems that an event holds, in characters.
const MAX_PROBLEM_TEXT: usize = 16 * 1024;
/// How long before its last key ends a service is told of, in seconds: a week.
const SOON: i64 = 7 * 86_400;

/// A policy came into force, after another one or at start.
#[must_use]
pub fn accepted(
    before: Option<&Policy>,
    after: &Policy,
    warnings: &Problems,
    origin: Origin,
    defaults: &Defaults,
) -> Event {
    let changes = before.and_then(|before| diff::diff(before, after, defaults).ok());
    Event::PolicyAccepted(Box::new(PolicyAccepted {
        revision: after.revision().whole().to_owned(),
        before: before.map(|before| before.revision().whole().to_owned()),
        origin,
        services: after.services().len() as u64,
        buckets: after.buckets().len() as u64,
        warnings: warnings.len() as u64,
        changes: changes.as_ref().map(changed),
    }))
}

fn changed(diff: &Diff) -> Changes {
    let of = |fate| {
        let services = diff.services.iter().filter(move |change| change.fate == fate);
        Names::of(services.map(|change| change.service.as_ref()))
    };
    let services = || diff.services.iter();
    let named = |change: &ServiceChange, what| format!("{}: {what}", change.service);
    let gains = services().flat_map(|one| one.all_gains().map(move |what| named(one, what)));
    let losses = services().flat_map(|one| one.all_losses().map(move |what| named(one, what)));
    let (gains, losses) = (Names::of(gains), Names::of(losses));
    Changes {
        added: of(Fate::Added),
        removed: of(Fate::Removed),
        changed: of(Fate::Changed),
        transferred: diff.transfers.len() as u64,
        transfers: diff.transfers.iter().take(MAX_NAMES).map(transferred).collect(),
        gained: gains.count,
        gains: gains.names,
        lost: losses.count,
        losses: losses.names,
    }
}

fn transferred(transfer: &diff::Transfer) -> Transfer {
    let (mut about, subject) = transfer.moved.about();
    about.keyspace = about.keyspace.as_deref().map(words);
    let subject = subject.as_deref().map(words);
    Transfer { about, subject, from: transfer.from.to_string(), to: transfer.to.to_string() }
}

/// A policy was refused; `in_force` is the one that stays, if any.
#[must_use]
pub fn refused(in_force: Option<&Revision>, problems: &Problems, origin: Origin) -> Event {
    let errors = || problems.iter().filter(|problem| problem.severity == Severity::Error);
    let fault = |problem: &Problem| Fault {
        code: problem.code.to_owned(),
        message: words(&problem.message),
        at: problem.primary.as_ref().map(|label| {
            let (line, column) = label.span.line_column();
            words(&format!("{}:{line}:{column}", label.span.file().name()))
        }),
    };
    Event::PolicyRefused(Box::new(PolicyRefused {
        revision: in_force.map(|revision| revision.whole().to_owned()),
        origin,
        errors: problems.count(Severity::Error) as u64,
        faults: errors().take(MAX_NAMES).map(fault).collect(),
        problems: problems.render(Style::Plain).chars().take(MAX_PROBLEM_TEXT).collect(),
    }))
}

/// Services whose last key has ended or will soon, at most [`MAX_NAMES`] of them.
#[must_use]
pub fn troubles(policy: &Policy, now: Timestamp) -> Vec<Event> {
    let trouble = |service: &Arc<Service>| {
        // The end of the last key; a key without an end has no such trouble.
        let ends = service.keys.iter().map(|key| key.not_after).collect::<Option<Vec<i64>>>()?;
        let last = ends.into_iter().max()?;
        if service.disabled.is_some() || last > now.as_second().saturating_add(SOON) {
            return None;
        }
        let (reason, end) = if last <= now.as_second() {
            ("key_ended", "has ended")
        } else {
            ("key_ends_soon", "will end")
        };
        let time = show_time(last);
        Some(Event::Trouble(Trouble {
            reason: reason.to_owned(),
            detail: format!(
                "the last key of `{}` {end} at {time}: add a new one to its `nkeys`",
                service.name
            ),
            service: Some(service.name.to_string()),
        }))
    };
    policy.services().iter().filter_map(trouble).take(MAX_NAMES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use solewriter_core::diagnostics::SourceFile;
    use solewriter_core::policy::validate::validate;
    use solewriter_types::audit_event::About;

    const KEY: &str = "UCRAFZAHGBQKZ5WVGGAZTW3N7PIO7NNEZC77U2TFP7DSBDSFHKEUCIHK";

    fn policy(text: &str) -> (Policy, Problems) {
        let valid = validate(&[SourceFile::new("p.toml", text)]).unwrap();
        (valid.policy, valid.warnings)
    }

    fn defaults() -> Defaults {
        Defaults {
            account: "APP".into(),
            lifetime: std::time::Duration::from_secs(60),
            audit: solewriter_core::grant::AuditStreams::default(),
        }
    }

    #[test]
    fn a_change_is_told_by_names_and_counts() {
        let (before, _) =
            policy("[bucket.a]\n[service.gone]\n[service.one]\nowns = [\"a\"]\n[service.two]\n");
        let (after, warnings) =
            policy("[bucket.a]\n[service.new]\n[service.one]\n[service.two]\nowns = [\"a\"]\n");
        let event = accepted(Some(&before), &after, &warnings, Origin::default(), &defaults());
        let Event::PolicyAccepted(event) = event else { panic!() };
        let changes = event.changes.unwrap();
        assert_eq!(changes.added.names, ["new"]);
        assert_eq!(changes.removed.names, ["gone"]);
        assert_eq!(changes.changed.names, ["one", "two"]);
        assert_eq!((changes.transferred, changes.gained, changes.lost), (1, 2, 2));
        assert_eq!(changes.gains, ["two: write a", "two: read a"]);
        assert_eq!(changes.losses, ["one: write a", "one: read a"]);
        let about = About { keyspace: Some("a".to_owned()), ..About::default() };
        let transfer = Transfer { about, subject: None, from: "one".into(), to: "two".into() };
        assert_eq!(changes.transfers, [transfer]);
        assert_eq!(event.warnings, 3, "three services without keys");
    }

    #[test]
    fn a_transfer_names_what_changed_hands() {
        let text = |one: &str, two: &str| {
            policy(&format!(
                "[stream.EVENTS]\nsubjects = ['events.>']\n[stream.EVENTS.consumer.all]\n\
                 [store.bills]\n[service.one]\n{one}[service.two]\n{two}"
            ))
        };
        let all = "publishes = ['events.x']\nconsumes = ['EVENTS/all']\nowns = ['store:bills']\n\
                   found_as = ['api']\n";
        let ((before, _), (after, warnings)) = (text(all, ""), text("", all));
        let event = accepted(Some(&before), &after, &warnings, Origin::default(), &defaults());
        let Event::PolicyAccepted(event) = event else { panic!() };
        let changes = serde_json::to_value(event.changes.unwrap()).unwrap();
        assert_eq!(changes["transferred"], 4);
        assert_eq!(
            changes["transfers"],
            serde_json::json!([
                {"store": "bills", "from": "one", "to": "two"},
                {"stream": "EVENTS", "consumer": "all", "from": "one", "to": "two"},
                {"stream": "EVENTS", "subject": "events.x", "from": "one", "to": "two"},
                {"found_as": "api", "from": "one", "to": "two"},
            ])
        );
    }

    #[test]
    fn a_key_that_is_removed_is_a_loss() {
        let (before, _) = policy(&format!("[service.one]\nnkeys = [\"{KEY}\"]\n"));
        let defaults = Defaults {
            account: "APP".into(),
            lifetime: std::time::Duration::from_secs(60),
            audit: solewriter_core::grant::AuditStreams::default(),
        };
        for (after, gone) in [("[service.one]\n", false), ("[service.two]\n", true)] {
            let (after, warnings) = policy(after);
            let event = accepted(Some(&before), &after, &warnings, Origin::default(), &defaults);
            let Event::PolicyAccepted(event) = event else { panic!() };
            let changes = event.changes.unwrap();
            assert_eq!((changes.lost, changes.losses), (1, vec![format!("one: key {KEY}")]));
            assert_eq!(changes.removed.names.is_empty(), !gone);
        }
    }

    #[test]
    fn a_key_that_ends_soon_is_told_unless_another_stays() {
        let text = |end: &str| format!("[service.s]\nnkeys = [{{ key = \"{KEY}\"{end} }}]\n");
        let now: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
        let reasons = |end: &str| {
            let events = troubles(&policy(&text(end)).0, now);
            let reason = |event: &Event| match event {
                Event::Trouble(trouble) => trouble.reason.clone(),
                other => panic!("{other:?}"),
            };
            events.iter().map(reason).collect::<Vec<String>>()
        };
        assert_eq!(reasons(", not_after = 2027-01-03T00:00:00Z"), ["key_ends_soon"]);
        assert_eq!(reasons(", not_after = 2026-12-03T00:00:00Z"), ["key_ended"]);
        assert!(reasons(", not_after = 2027-02-03T00:00:00Z").is_empty());
        assert!(reasons("").is_empty());
    }
}
