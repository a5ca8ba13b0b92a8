//! Assertions held against a policy.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Expectation, What, Who};
use crate::analysis::query::advice::{advise, said};
use crate::analysis::query::{self, Answer, Question, Reach, may};
use crate::callout::decide::{Denial, admit, in_time};
use crate::diagnostics::{Problem, SourceFile, Span};
use crate::grant::{Defaults, Grant, GrantError};
use crate::policy::model::{Location, Policy, Rule, Service, ServiceKey};

/// What became of one assertion.
#[derive(Clone, Debug)]
pub struct Verdict<'e> {
    /// The assertion.
    pub expectation: &'e Expectation,
    /// What is wrong, when it does not hold.
    pub problem: Option<Problem>,
}

/// How one service stands to what an assertion is about.
struct Standing {
    /// How much of it the service's rules grant.
    reach: Reach,
    /// Why it cannot, though rules may grant it.
    barred: Option<String>,
    /// The rules that grant it.
    rules: Vec<Rule>,
    /// What would have to be different.
    advice: Vec<String>,
}

impl Standing {
    fn nothing(why: String) -> Self {
        Self { reach: Reach::None, barred: Some(why), rules: Vec::new(), advice: Vec::new() }
    }
}

/// What assertions are held against: a policy and all that it grants.
pub struct Judge<'p> {
    policy: &'p Policy,
    /// The policy's texts, to show the rules in.
    files: &'p [SourceFile],
    /// What each service gets.
    grants: HashMap<&'p str, Result<Grant, GrantError>>,
}

impl<'p> Judge<'p> {
    /// Makes each service's grant, once for all assertions.
    #[must_use]
    pub fn new(policy: &'p Policy, files: &'p [SourceFile], defaults: &Defaults) -> Self {
        let grant = |service: &'p Arc<Service>| (&*service.name, Grant::of(service, defaults));
        Self { policy, files, grants: policy.services().iter().map(grant).collect() }
    }

    /// Judges one assertion.
    #[must_use]
    pub fn verdict<'e>(&self, expectation: &'e Expectation) -> Verdict<'e> {
        verdict(self, expectation)
    }
}

fn verdict<'e>(judge: &Judge<'_>, expectation: &'e Expectation) -> Verdict<'e> {
    let policy = judge.policy;
    let case = Case { expectation, judge };
    let problem = match &expectation.who {
        Who::Service(name) => match query::identity(policy, &name.value) {
            Ok((service, key)) => case.one(service, key, expectation.can),
            Err(problem) => Some(problem.at(&name.span, "")),
        },
        Who::Only(names) => {
            let named = |service: &Service| {
                names.iter().any(|name| {
                    query::identity(policy, &name.value).is_ok_and(|(s, _)| s.name == service.name)
                })
            };
            let services = policy.services().iter();
            let failures: Vec<Problem> =
                services.filter_map(|service| case.one(service, None, named(service))).collect();
            joined(failures)
        }
    };
    let problem = problem.map(|problem| case.with_reason(problem));
    Verdict { expectation, problem }
}

/// Several failures as one problem: the first with the others' messages and places.
fn joined(failures: Vec<Problem>) -> Option<Problem> {
    const SHOWN: usize = 10;
    let count = failures.len();
    let mut failures = failures.into_iter();
    let mut first = failures.next()?;
    let mut more: Vec<String> = first.help.take().into_iter().collect();
    for other in failures.by_ref().take(SHOWN - 1) {
        more.push(other.message);
        first.related.extend(other.related);
    }
    if count > SHOWN {
        more.push(format!("and {} more services", count - SHOWN));
    }
    first.help = (!more.is_empty()).then(|| more.join("\n"));
    Some(first)
}

struct Case<'a> {
    expectation: &'a Expectation,
    judge: &'a Judge<'a>,
}

impl Case<'_> {
    /// Why the assertion does not hold for that service.
    fn one(&self, service: &Service, key: Option<&ServiceKey>, can: bool) -> Option<Problem> {
        let standing = match &self.expectation.what {
            What::Use(question) => self.usage(service, question, can),
            What::Connect { .. } => self.connect(service, key),
        };
        let Standing { reach, barred, rules, advice } = standing;
        let holds = if can {
            reach == Reach::All && barred.is_none()
        } else {
            // Rules count even while something else bars the service: that may end any day.
            reach == Reach::None
        };
        if holds {
            return None;
        }
        let (name, what) = (&service.name, self.expectation.what.text());
        let message = match (can, reach) {
            (true, Reach::All | Reach::None) => format!("`{name}` cannot {what}"),
            (_, Reach::Part) => format!("`{name}` can {what} in part"),
            (false, Reach::All | Reach::None) => format!("`{name}` can {what}"),
        };
        let expected = match (&self.expectation.who, can) {
            (Who::Service(_), true) => "expected that it can",
            (Who::Service(_), false) => "expected that it cannot",
            (Who::Only(_), true) => "expected that it can, and only those listed",
            (Who::Only(_), false) => "expected that only those listed can",
        };
        let mut problem =
            Problem::error("expectation-failed", message).at(&self.expectation.verb.span, expected);
        for rule in &rules {
            if let Some(span) = span(self.judge.files, &rule.at) {
                problem = problem.also(&span, format!("`{}` grants it", said(rule)));
            }
        }
        let help: Vec<String> = match (can, barred) {
            (true, barred) => barred.into_iter().chain(advice).collect(),
            (false, Some(why)) => vec![format!("its rules count, though {why}")],
            (false, None) => Vec::new(),
        };
        Some(if help.is_empty() { problem } else { problem.help(help.join("\n")) })
    }

    fn usage(&self, service: &Service, question: &Question, can: bool) -> Standing {
        let grant = match self.judge.grants.get(&*service.name) {
            Some(Ok(grant)) => grant,
            Some(Err(error)) => return Standing::nothing(error.to_string()),
            None => return Standing::nothing("it is not in the policy".to_owned()),
        };
        let answer = may(grant, question);
        // Who reads a copy of a bucket reads what is in it.
        let copies = if can { Vec::new() } else { query::of_copies(self.judge.policy, question) };
        let through = copies.iter().map(|(_, question)| may(grant, question));
        let answers: Vec<Answer> = std::iter::once(answer.clone()).chain(through).collect();
        let reach = answers.iter().map(|answer| answer.reach).max().unwrap_or(Reach::None);
        let rules: BTreeSet<usize> = answers.iter().flat_map(Answer::rules).collect();
        let rules = rules.into_iter().filter_map(|rule| grant.rules().get(rule).cloned());
        let advice = if answer.is_yes() || !can {
            Vec::new()
        } else {
            advise(self.judge.policy, service, question).sentences(answer.reach)
        };
        let barred = service.disabled.as_ref().map(|why| format!("it is disabled: {why}"));
        Standing { reach, barred, rules: rules.collect(), advice }
    }

    fn connect(&self, service: &Service, key: Option<&ServiceKey>) -> Standing {
        let denied = self.admitted(service, key).err();
        let reach = if denied.is_none() { Reach::All } else { Reach::None };
        Standing { reach, barred: denied, rules: Vec::new(), advice: Vec::new() }
    }

    fn admitted(&self, service: &Service, key: Option<&ServiceKey>) -> Result<(), String> {
        let What::Connect { source, connection, at } = &self.expectation.what else {
            return Ok(());
        };
        // Without a place, one that will do.
        let address = source.or_else(|| service.sources.first().map(ipnet::IpNet::addr));
        let host = address.map(|address| address.to_string()).unwrap_or_default();
        let said = |denial: Denial| denial.to_string();
        admit(service, Some(*connection), address, &host).map_err(said)?;
        let keys = key.map_or(service.keys.as_slice(), std::slice::from_ref);
        let mut denied = Err("it has no key".to_owned());
        for key in keys {
            denied = at.map_or(Ok(()), |now| in_time(key, now)).map_err(said);
            if denied.is_ok() {
                break;
            }
        }
        denied
    }

    fn with_reason(&self, mut problem: Problem) -> Problem {
        if let Some(because) = &self.expectation.because {
            let because = format!("because {because}");
            problem.help = Some(match problem.help.take() {
                Some(help) => format!("{help}\n{because}"),
                None => because,
            });
        }
        problem
    }
}

/// The text at a place: what is in quotes there, or the rest of the line.
fn span(files: &[SourceFile], at: &Location) -> Option<Span> {
    let (file, start) = at.found_in(files)?;
    let rest = file.text().get(start..)?.lines().next()?;
    let first = rest.chars().next()?;
    let closing = |quote: char| Some(rest.get(1..)?.find(quote)? + 2);
    let length = match first {
        '"' | '\'' => closing(first).unwrap_or(rest.len()),
        _ => rest.len(),
    };
    Some(file.span(start..start + length))
}
