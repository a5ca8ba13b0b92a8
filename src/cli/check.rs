//! `solewriter check`: does the policy hold?

use std::collections::HashSet;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::asked::settings_beside;
use crate::cli::common::{
    DirArgs, Format, GrantArgs, NO, Output, YES, count, json, line, no_grant, now, read, style,
    time,
};
use solewriter_core::diagnostics::{Collector, Problem, Problems, Severity};
use solewriter_core::grant::{Defaults, Grant, GrantError, MANY_SUBJECTS};
use solewriter_core::policy::validate::{Validated, validate_for};

/// Say whether a policy is valid, and everything that is wrong with it.
///
/// Does what `serve` does before it uses a policy. It also compiles the grant of each service, which
/// `serve` does when the service first connects.
///
/// Exit code: 0 if the policy is valid, 1 if it is not, 2 if there is no such directory.
#[derive(Args)]
pub struct Check {
    #[command(flatten)]
    dir: DirArgs,
    /// What to refuse, besides errors.
    #[arg(long, value_name = "WHAT")]
    deny: Option<Deny>,
    /// How to print the answer. Text about problems goes to stderr, JSON to stdout.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    grants: GrantArgs,
}

/// What a strict check refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Deny {
    /// Warnings.
    Warnings,
}

#[derive(Serialize)]
struct ProblemsView<'a> {
    holds: bool,
    revision: Option<&'a str>,
    services: Option<usize>,
    buckets: Option<usize>,
    #[serde(flatten)]
    problems: &'a Problems,
}

impl Check {
    /// Runs the command.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        self.output().unwrap_or_else(|wrong| wrong).print()
    }

    fn output(&self) -> Result<Output, Output> {
        let checked =
            read(self.dir.path())?.and_then(|files| validate_for(&files, self.grants.audit()));
        let checked = checked.and_then(|validated| grant_all(validated, &self.grants.defaults()));
        let checked = checked.map(|validated| told_of_ends(validated, now()));
        let (problems, policy) = match &checked {
            Ok(Validated { policy, warnings }) => (warnings, Some(policy)),
            Err(problems) => (problems, None),
        };
        let denied = self.deny.is_some() && problems.count(Severity::Warning) > 0;
        let holds = policy.is_some() && !denied;
        let code = if holds { YES } else { NO };
        if self.format == Format::Json {
            let view = ProblemsView {
                holds,
                revision: policy.map(|p| p.revision().whole()),
                services: policy.map(|p| p.services().len()),
                buckets: policy.map(|p| p.buckets().len()),
                problems,
            };
            return Ok(Output::data(json(&view), code));
        }
        let mut err = problems.render(style()) + &handovers(self.dir.path());
        let summary = problems.summary();
        let mut out = String::new();
        match policy {
            Some(policy) if holds => {
                let services = count(policy.services().len(), "service", "services");
                let buckets = count(policy.buckets().len(), "bucket", "buckets");
                let revision = policy.revision();
                out = format!(
                    "the policy holds: {services}, {buckets}, revision {revision}; {summary}\n"
                );
            }
            Some(_) => err += &format!("the policy is refused: {summary}, with warnings denied\n"),
            None => err += &format!("the policy does not hold: {summary}\n"),
        }
        Ok(Output { out, err, code })
    }
}

/// What the settings beside that folder do not hold, if there are settings.
fn handovers(folder: &Path) -> String {
    let Some((path, tool)) = settings_beside(folder) else { return String::new() };
    let Some(sentence) = tool.not_handed_over() else { return String::new() };
    format!("note: {}: {sentence} (docs/handover.md)\n", line(&path.display().to_string()))
}

/// Warns of entries that have ended: they grant nothing, and may go.
fn told_of_ends(validated: Validated, now: i64) -> Validated {
    let Validated { policy, warnings } = validated;
    let problems = Collector::new();
    let mut told = HashSet::new();
    for (service, rule) in
        policy.services().iter().flat_map(|s| s.rules.iter().map(move |r| (s, r)))
    {
        let Some(until) = rule.until().filter(|_| !rule.counts(now)) else { continue };
        // What stands in a role is one entry of several services.
        if told.insert((&rule.at.file, rule.at.line, rule.at.column)) {
            let (name, access, at) = (&service.name, &rule.access, &rule.at);
            let ended = time(until);
            let message = format!("`{name}` {access} no more: the entry ({at}) ended at {ended}");
            let help = "remove the entry, or give it a later `until`";
            problems.push(Problem::warning("ended", message).help(help));
        }
    }
    problems.extend(warnings);
    let warnings = problems.finish();
    Validated { warnings, policy }
}

/// Makes each service's grant, as `serve` will.
pub(super) fn grant_all(validated: Validated, defaults: &Defaults) -> Result<Validated, Problems> {
    let problems = Collector::new();
    for service in validated.policy.services() {
        match Grant::of(service, defaults) {
            Err(error) => {
                let problem = no_grant(&service.name, &service.at, &error);
                let large = matches!(error, GrantError::TooLarge(_));
                problems.push(if large { problem.help(SPLIT) } else { problem });
            }
            Ok(grant) if grant.subjects() > MANY_SUBJECTS => {
                let (name, at, count) = (&service.name, &service.at, grant.subjects());
                let message = format!("service `{name}` ({at}) gets {count} subjects");
                let problem = Problem::warning("many-subjects", message).help(format!(
                    "with more than {MANY_SUBJECTS}, each login keeps nats-server busy for some 20 \
                     ms, and the connection holds all of them; {SPLIT}"
                ));
                problems.push(problem);
            }
            Ok(_) => {}
        }
    }
    let refused = problems.has_errors();
    problems.extend(validated.warnings);
    let warnings = problems.finish();
    if refused { Err(warnings) } else { Ok(Validated { warnings, ..validated }) }
}

/// What to do about a grant that is too large.
const SPLIT: &str = "list what it needs instead of `reads = [\"*\"]`, use one subject with a wildcard for many, or split the service";
