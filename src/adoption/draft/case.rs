//! What a draft is made from, and what it comes to while it is made.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::before::Before;
use super::existing::Existing;
use super::page::{Item, Table};
use super::report::{Conflict, Doing, Question};
use crate::adoption::evidence::fact::Fact;
use crate::adoption::evidence::generalise::{Level, Seen};
use crate::adoption::evidence::{Evidence, Record, UNKNOWN, Work};
use solewriter_types::clean;

/// How many subjects a line shows.
const MOST_SUBJECTS: usize = 5;

/// What one service was seen to do.
pub struct Deeds<'e> {
    /// The service, or [`UNKNOWN`].
    pub service: &'e Arc<str>,
    /// What.
    pub fact: &'e Fact,
    /// How often, and with which subjects.
    pub record: &'e Record,
}

impl Deeds<'_> {
    /// Whether it is known whose they are.
    pub fn is_known(&self) -> bool {
        &**self.service != UNKNOWN
    }

    /// For people.
    pub fn doing(&self, level: Level) -> Doing {
        let all = self.record.subjects.patterns(level);
        let mut subjects: Vec<String> = all
            .iter()
            .take(MOST_SUBJECTS)
            .map(|seen| clean::line(&seen.pattern).into_owned())
            .collect();
        if all.len() > MOST_SUBJECTS {
            subjects.push(format!("and {} more", all.len() - MOST_SUBJECTS));
        }
        Doing::new(self.service, self.fact.to_string(), subjects, &self.record.tally)
    }
}

/// A draft that is being made.
pub struct Case<'e> {
    /// What was seen.
    pub evidence: &'e Evidence,
    /// What there is.
    pub existing: &'e Existing,
    /// How far what was seen stands for more.
    pub level: Level,
    /// What users could do, if services are to be observed.
    pub before: Option<&'e Before>,
    /// What is declared.
    pub tables: Vec<Table>,
    /// What each service gets.
    pub items: BTreeMap<Arc<str>, Vec<Item>>,
    /// What a person has to decide.
    pub questions: Vec<Question>,
    /// Which question decides what of a service.
    pub asked: BTreeMap<(Arc<str>, Fact), usize>,
    /// Why something is not granted.
    pub reasons: BTreeMap<(Arc<str>, Fact), String>,
    /// What is not as it should be.
    pub conflicts: Vec<Conflict>,
}

impl<'e> Case<'e> {
    /// Of every service, what it did of that kind.
    pub fn deeds(&self, wanted: impl Fn(&Fact) -> bool) -> Vec<Deeds<'e>> {
        let of = |(service, work): (&'e Arc<str>, &'e Work)| {
            let deeds =
                work.facts.iter().map(move |(fact, record)| Deeds { service, fact, record });
            deeds.collect::<Vec<_>>()
        };
        let all = self.evidence.services().iter().flat_map(of);
        all.filter(|deeds| wanted(deeds.fact)).collect()
    }

    /// The patterns of what was done.
    pub fn patterns(&self, deeds: &Deeds<'_>) -> Vec<Seen> {
        deeds.record.subjects.patterns(self.level)
    }

    /// Gives a service an entry.
    pub fn grant(&mut self, service: &Arc<str>, item: Item) {
        if &**service != UNKNOWN {
            self.items.entry(Arc::clone(service)).or_default().push(item);
        }
    }

    /// Asks a person about deeds.
    pub fn ask(&mut self, question: String, about: &[&Deeds<'_>], choices: Vec<String>) -> usize {
        let number = self.questions.len() + 1;
        for deeds in about {
            let key = (Arc::clone(deeds.service), deeds.fact.clone());
            self.asked.entry(key).or_insert(number);
        }
        let who = about.iter().map(|deeds| deeds.doing(self.level)).collect();
        self.questions.push(Question { number, question, who, choices });
        number
    }

    /// Notes what is not as it should be.
    pub fn conflict(&mut self, kind: &'static str, message: String, about: &[&Deeds<'_>]) {
        let who = about.iter().map(|deeds| deeds.doing(self.level)).collect();
        self.conflicts.push(Conflict { kind, message, who });
    }

    /// Notes why something is not granted.
    pub fn refuse(&mut self, deeds: &Deeds<'_>, why: impl Into<String>) {
        let key = (Arc::clone(deeds.service), deeds.fact.clone());
        self.reasons.entry(key).or_insert_with(|| why.into());
    }
}

/// The names of services, with commas, each once.
pub fn names<'d>(deeds: impl IntoIterator<Item = &'d &'d Deeds<'d>>) -> String {
    let mut all: Vec<&str> = deeds.into_iter().map(|deeds| &**deeds.service).collect();
    all.sort_unstable();
    all.dedup();
    all.join(", ")
}

/// How many different services there are among them.
pub fn services<'d>(deeds: impl IntoIterator<Item = &'d &'d Deeds<'d>>) -> usize {
    let mut all: Vec<&str> = deeds.into_iter().map(|deeds| &**deeds.service).collect();
    all.sort_unstable();
    all.dedup();
    all.len()
}
