//! Judging a changed policy by what differs.
//!
//! The files that changed are judged twice, as they were and as they are, together with the files
//! that they have to do with ([`super::related`]). What is found in the others is the same both
//! times, whatever is missing around them; then the policy has to be another one in the changed files
//! alone. Wherever that cannot be shown, the whole is judged, so that nobody can tell from what comes
//! out which of the two was done.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::related::{self, Names, Placed, mine, others, sorted};
use super::usage::steps_for_stars;
use super::{
    Case, Judged, MAX_RULES, Sketch, Spent, Validated, durable, judge, ownership, revision,
};
use crate::diagnostics::{Problem, Problems, Severity, SourceFile};
use crate::grant::AuditStreams;
use crate::policy::model::{Declared, Policy, Service};

/// The part of a policy up to which it is judged by itself.
const PART: usize = 8;
/// The most problems that are kept of a part.
const KEPT: usize = 100_000;

/// Judges one policy after another, and remembers the last one that holds: what is the same in the
/// next is not judged again. What comes out is what [`super::validate_for`] gives.
#[derive(Debug, Default)]
pub struct Validator {
    audit: AuditStreams,
    last: Mutex<Option<Basis>>,
}

/// What is known of a policy that holds.
#[derive(Clone, Debug)]
struct Basis {
    files: Vec<SourceFile>,
    policy: Policy,
    warnings: Problems,
    general: BTreeSet<Arc<str>>,
    everything: bool,
    rules: usize,
    spent: Spent,
    /// How many bytes changed since the whole was judged.
    changed: usize,
}

impl Validator {
    /// Nothing is known yet. `audit` are the audit streams that the settings name.
    #[must_use]
    pub fn new(audit: AuditStreams) -> Self {
        Self { audit, last: Mutex::default() }
    }

    /// Reads and judges a whole policy. It shares what did not change with the last one that held.
    ///
    /// # Errors
    /// As [`super::validate_for`]; then the last one that held is still remembered.
    pub fn validate(&self, files: &[SourceFile]) -> Result<Validated, Problems> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let all = bytes(files);
        // Searches for advice are counted when the whole is judged, once for as much as it has.
        let known = last.as_ref().filter(|basis| basis.changed <= all);
        let next = known.and_then(|basis| again(basis, files, &self.audit, all / PART));
        if let Some(next) = next {
            let Basis { policy, warnings, .. } = next.clone();
            *last = Some(next);
            return Ok(Validated { policy, warnings });
        }
        let judged = judge(Case::whole(files, &self.audit));
        let before = last.as_ref().map(|basis| &basis.policy);
        let (validated, basis) = whole(judged, files, before)?;
        *last = basis;
        Ok(validated)
    }
}

/// A whole policy that holds, and what is known of it, if a change of it may be judged by itself. It
/// shares what is the same with the one before.
fn whole(
    judged: Judged,
    files: &[SourceFile],
    before: Option<&Policy>,
) -> Result<(Validated, Option<Basis>), Problems> {
    let Judged { ref general, everything, spent, strained, ref sketch, .. } = judged;
    // What observed services may do depends on all others.
    let entangled = strained || sketch.services.iter().any(|service| service.observed);
    let rules = sketch.services.iter().map(|service| service.rules.len()).sum();
    let in_order = files.is_sorted_by(|a, b| a.name() < b.name());
    let general = general.clone();
    let Validated { policy, warnings } = judged.hold()?;
    let policy = match before {
        Some(before) => policy.sharing(before),
        None => policy,
    };
    let validated = Validated { policy, warnings };
    let basis = (!entangled && in_order).then(|| Basis {
        files: files.to_vec(),
        policy: validated.policy.clone(),
        warnings: validated.warnings.clone(),
        general,
        everything,
        rules,
        spent,
        changed: 0,
    });
    Ok((validated, basis))
}

/// What differs between two lists of files, which are sorted by name.
struct Change {
    /// All files as they are. What is the same is shared with those of before.
    files: Vec<SourceFile>,
    /// Those that are no more, or were another text.
    before: Vec<SourceFile>,
    /// Those that are new, or another text.
    now: Vec<SourceFile>,
    names: Names,
}

impl Change {
    fn between(before: &[SourceFile], now: &[SourceFile]) -> Option<Self> {
        if !now.is_sorted_by(|a, b| a.name() < b.name()) {
            return None;
        }
        let mut change = Self {
            files: Vec::with_capacity(now.len()),
            before: vec![],
            now: vec![],
            names: Names::new(),
        };
        let mut old = before.iter().peekable();
        for file in now {
            while let Some(gone) = old.next_if(|old| old.name() < file.name()) {
                change.before.push(gone.clone());
            }
            match old.next_if(|old| old.name() == file.name()) {
                Some(same) if same == file => {
                    change.files.push(same.clone());
                    continue;
                }
                was => change.before.extend(was.cloned()),
            }
            change.files.push(file.clone());
            change.now.push(file.clone());
        }
        change.before.extend(old.cloned());
        let names = change.before.iter().chain(&change.now).map(|file| Arc::clone(file.name()));
        change.names = names.collect();
        Some(change)
    }
}

fn bytes(files: &[SourceFile]) -> usize {
    files.iter().map(|file| file.text().len()).sum()
}

/// Judges what differs from a policy that holds, if it is at most `most` bytes of text with what it has
/// to do with, and if the policy holds. `None` says nothing: the whole has to be judged.
fn again(basis: &Basis, files: &[SourceFile], audit: &AuditStreams, most: usize) -> Option<Basis> {
    let change = Change::between(&basis.files, files)?;
    let Change { names, .. } = &change;
    if names.is_empty() {
        return Some(basis.clone());
    }
    if basis.general.iter().any(|general| names.contains(general)) {
        return None;
    }
    let changed = basis.changed + bytes(&change.before).max(bytes(&change.now));
    let mut beside = basis.general.clone();
    let mut looked = look(&change, &beside, audit, most)?;
    let known = beside.len();
    beside.extend(related::files(names, &looked.0.sketch, &looked.1.sketch, &basis.policy)?);
    if beside.len() > known {
        looked = look(&change, &beside, audit, most)?;
    }
    let (was, is) = looked;
    let warnings = warnings(basis, names, &was.sketch, &is.sketch)?;
    let (rules, spent) = bounds(basis, names, &was, &is)?;
    let (services, declared) = merged(basis, names, &was.sketch, is.sketch)?;
    let revision = revision(&change.files);
    let policy = basis.policy.changed(revision, services, declared);
    Some(Basis {
        files: change.files,
        policy,
        warnings,
        general: basis.general.clone(),
        everything: basis.everything,
        rules,
        spent,
        changed,
    })
}

/// Judges the changed files as they were and as they are, beside others.
fn look(
    change: &Change,
    beside: &BTreeSet<Arc<str>>,
    audit: &AuditStreams,
    most: usize,
) -> Option<(Judged, Judged)> {
    let is_beside = |file: &&SourceFile| beside.contains(file.name());
    let beside: Vec<SourceFile> = change.files.iter().filter(is_beside).cloned().collect();
    if bytes(&change.before).max(bytes(&change.now)) + bytes(&beside) > most {
        return None;
    }
    let judged = |mine: &[SourceFile]| {
        let mut files = [mine, &beside].concat();
        files.sort_by(|a, b| a.name().cmp(b.name()));
        judge(Case { part: Some(KEPT), ..Case::whole(&files, audit) })
    };
    let (was, is) = (judged(&change.before), judged(&change.now));
    let general = is.general.iter().any(|general| change.names.contains(general));
    let observed = is.sketch.services.iter().any(|service| service.observed);
    let apart = |judged: &Judged| judged.complete && !judged.everything && !judged.strained;
    (!general && !observed && apart(&was) && apart(&is)).then_some((was, is))
}

/// The warnings of the whole, if the changed files have no error, and nothing is said of others that was
/// not said before.
fn warnings(basis: &Basis, names: &Names, was: &Sketch, is: &Sketch) -> Option<Problems> {
    let parts = |sketch: &Sketch| -> (Vec<Problem>, Vec<Problem>) {
        sketch.problems.iter().cloned().partition(|problem| problem.is_in(names))
    };
    if was.problems.unreported() + is.problems.unreported() > 0 {
        return None;
    }
    let ((was, was_others), (is, is_others)) = (parts(was), parts(is));
    let error = |problem: &Problem| problem.severity == Severity::Error;
    if was_others != is_others || was.iter().chain(&is).any(error) {
        return None;
    }
    let (mine, others): (Vec<&Problem>, Vec<&Problem>) =
        basis.warnings.iter().partition(|problem| problem.is_in(names));
    let all = basis.warnings.unreported() > 0 || mine.len() == was.len();
    let points = |problem: &&Problem| problem.points_into(names);
    if !all || !was.iter().zip(&mine).all(|(was, mine)| was == *mine) || others.iter().any(points) {
        return None;
    }
    basis.warnings.with_other(names, was.len(), is)
}

/// How many rules there are, and how long the searches take for which a policy is refused, if the
/// whole is not refused for that.
fn bounds(basis: &Basis, names: &Names, was: &Judged, is: &Judged) -> Option<(usize, Spent)> {
    let rules = |judged: &Judged| -> usize {
        mine(&judged.sketch.services, names).map(|service| service.rules.len()).sum()
    };
    let now = |had: usize, was: usize, is: usize| (had + is).saturating_sub(was);
    let rules = now(basis.rules, rules(was), rules(is));
    let (had, was, is) = (basis.spent, was.spent, is.spent);
    let spent = Spent {
        owners: now(had.owners, was.owners, is.owners),
        streams: now(had.streams, was.streams, is.streams),
        stars: now(had.stars, was.stars, is.stars),
    };
    let within = rules < MAX_RULES
        && spent.owners < ownership::MAX_STEPS
        && spent.streams < durable::MAX_STEPS
        && spent.stars < steps_for_stars(rules);
    within.then_some((rules, spent))
}

/// The services of the whole, and what is declared if that differs: if those of the other files are
/// what they were, and those of the changed files were found as the whole has them.
fn merged(
    basis: &Basis,
    names: &Names,
    was: &Sketch,
    is: Sketch,
) -> Option<(Vec<Arc<Service>>, Option<Declared>)> {
    let policy = &basis.policy;
    if !others(&was.services, names).eq(others(&is.services, names)) {
        return None;
    }
    let (had, old, new) = (policy.declared(), &was.declared, &is.declared);
    let buckets = declared(&had.buckets, &old.buckets, &new.buckets, names)?;
    let streams = declared(&had.streams, &old.streams, &new.streams, names)?;
    let stores = declared(&had.stores, &old.stores, &new.stores, names)?;
    // Who reads every bucket reads others now.
    let buckets_of = |sketch: &Declared| -> HashSet<_> {
        mine(&sketch.buckets, names).map(|bucket| bucket.name.clone()).collect()
    };
    if basis.everything && buckets_of(old) != buckets_of(new) {
        return None;
    }
    let same = buckets.is_none() && streams.is_none() && stores.is_none();
    let declared = (!same).then(|| Declared {
        buckets: buckets.unwrap_or_else(|| had.buckets.clone()),
        streams: streams.unwrap_or_else(|| had.streams.clone()),
        stores: stores.unwrap_or_else(|| had.stores.clone()),
    });
    let mut now: Vec<Service> = is.services;
    now.retain(|service| names.contains(&service.at.file));
    now.sort_by(|a, b| a.name.cmp(&b.name));
    let mine: Vec<(usize, &Arc<Service>)> = policy.of_files(names).collect();
    if !mine.iter().map(|(_, service)| &***service).eq(sorted(&was.services, names)) {
        return None;
    }
    let services = replaced(policy.services(), &mine, now)?;
    // A policy without a service does not hold.
    (!services.is_empty()).then_some((services, declared))
}

/// All services, with others in place of some, if no other has the name of one. All lists are sorted by
/// name; what is the same is shared.
fn replaced(
    all: &[Arc<Service>],
    some: &[(usize, &Arc<Service>)],
    now: Vec<Service>,
) -> Option<Vec<Arc<Service>>> {
    let mut services = Vec::with_capacity(all.len() + now.len());
    let (mut some, mut taken) = (some.iter().peekable(), 0);
    for new in now {
        // Those of before with an earlier name are no more.
        while let Some((at, _)) = some.next_if(|(_, old)| old.name < new.name) {
            services.extend_from_slice(all.get(taken..*at)?);
            taken = at + 1;
        }
        if let Some((at, old)) = some.next_if(|(_, old)| old.name == new.name) {
            services.extend_from_slice(all.get(taken..*at)?);
            taken = at + 1;
            services.push(if new == ***old { Arc::clone(old) } else { Arc::new(new) });
            continue;
        }
        // `Ok` where it is defined twice.
        let left = all.get(taken..)?;
        let before = left.binary_search_by(|other| other.name.cmp(&new.name)).err()?;
        services.extend_from_slice(left.get(..before)?);
        taken += before;
        services.push(Arc::new(new));
    }
    for (at, _) in some {
        services.extend_from_slice(all.get(taken..*at)?);
        taken = at + 1;
    }
    services.extend_from_slice(all.get(taken..)?);
    Some(services)
}

/// All of one kind that is declared, if that differs: `Some(None)` when it does not. `had` is what the
/// whole had, the others what was found of a part of it.
#[expect(clippy::option_option, reason = "not shown, the same, or another")]
fn declared<T: Placed>(had: &[T], was: &[T], is: &[T], names: &Names) -> Option<Option<Vec<T>>> {
    let before = sorted(was, names);
    if !others(was, names).eq(others(is, names)) || !mine(had, names).eq(before.iter().copied()) {
        return None;
    }
    if before == sorted(is, names) {
        return Some(None);
    }
    Some(Some(others(had, names).chain(mine(is, names)).cloned().collect()))
}

#[cfg(test)]
mod tests;
