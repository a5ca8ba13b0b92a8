//! Roles: rules that several services share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::covered::{Effort, check_covered};
use super::names::{check_name, defined_twice};
use super::settings::{Domains, Durables, MAX_RULES, Place, Scope, rules};
use crate::diagnostics::toml::nearest;
use crate::diagnostics::{Collector, Problem, Span, Spanned};
use crate::grant::AuditStreams;
use crate::policy::document::{GrantEntries, RoleEntry};
use crate::policy::model::Rule;

/// A role whose entries are in order.
pub struct Role {
    pub name: Spanned<Arc<str>>,
    grants: GrantEntries,
    pub used: AtomicBool,
}

/// Roles by name.
pub type Roles = BTreeMap<Arc<str>, Role>;

/// Judges every role once, so that its problems are not reported for each service that has it.
pub fn check(
    entries: Vec<RoleEntry>,
    audit: &AuditStreams,
    effort: &mut Effort,
    problems: &Collector,
) -> Roles {
    let mut roles = Roles::new();
    for RoleEntry { name, alone, grants } in entries {
        check_name("role", &name, problems);
        for (key, span) in alone {
            let (what, why, who) = if key == "owns" {
                ("own anything", "a key has one writer", "writes it")
            } else {
                ("be found as anything", "a found name belongs to one service", "is found so")
            };
            problems.push(
                Problem::error("role-owns", format!("role `{}` cannot {what}", name.value))
                    .at(&span, format!("a role is shared, and {why}"))
                    .help(format!("move it to the one service that {who}")),
            );
        }
        let key: Arc<str> = name.value.as_str().into();
        if let Some(first) = roles.get(&key) {
            problems.push(defined_twice("role", &name, &first.name.span));
            continue;
        }
        // Any name does: what it is put into is judged again with each service's own.
        let trial = Collector::new();
        let left = AtomicUsize::new(MAX_RULES);
        let scope = Scope {
            service: "x",
            role: Some(&key),
            buckets: &[],
            domains: &Domains::default(),
            durables: &Durables::new(),
            audit,
            left: &left,
            problems: &trial,
        };
        let (made, places) = rules(&grants, &scope);
        check_covered(made.iter().zip(&places), effort, &trial);
        let trial = trial.finish();
        let grants = if trial.has_errors() { GrantEntries::default() } else { grants };
        problems.extend(trial);
        let role =
            Role { name: name.map(|_| Arc::clone(&key)), grants, used: AtomicBool::new(false) };
        roles.insert(key, role);
    }
    roles
}

/// What a service gets from the roles that it names. `complete` says whether all files could be
/// read, so that a role that is missing is really missing.
pub fn apply(
    names: &[Spanned<String>],
    roles: &Roles,
    complete: bool,
    scope: &Scope<'_>,
) -> (Vec<Rule>, Vec<Place>) {
    let mut all = (Vec::new(), Vec::new());
    let mut had: BTreeMap<&str, &Span> = BTreeMap::new();
    for name in names {
        if let Some(first) = had.insert(&name.value, &name.span) {
            scope.problems.push(
                Problem::warning("covered", format!("role `{}` is listed twice", name.value))
                    .at(&name.span, "")
                    .also(first, "first listed here")
                    .help("remove one of the two"),
            );
            continue;
        }
        let Some(role) = roles.get(name.value.as_str()) else {
            if complete && !scope.problems.is_full() {
                scope.problems.push(unknown(name, roles));
            }
            continue;
        };
        role.used.store(true, Ordering::Relaxed);
        let scope = Scope { role: Some(&role.name.value), ..*scope };
        let (rules, places) = rules(&role.grants, &scope);
        all.0.extend(rules);
        all.1.extend(places);
    }
    all
}

fn unknown(name: &Spanned<String>, roles: &Roles) -> Problem {
    let known = || roles.keys().map(AsRef::as_ref);
    let help = match nearest(&name.value, known()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if roles.is_empty() => "define it in a `[role.NAME]` table".to_owned(),
        None => {
            let known: Vec<&str> = known().take(20).collect();
            format!("the roles are {}", known.join(", "))
        }
    };
    let message = format!("there is no role `{}`", super::settings::shown(&name.value));
    Problem::error("unknown-role", message).at(&name.span, "").help(help)
}
