//! `solewriter doctor`: is the running deployment what it should be?

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::cli::common::{Format, NO, Output, SettingsArgs, YES, count, json};
use crate::doctor::look::look;
use crate::doctor::{Finding, Outcome, Report};

/// Check the running deployment, and say how to fix what is wrong.
///
/// Connects with every seed that the settings name, and changes nothing. If it cannot see something,
/// it says which setting it needs.
///
/// Exit code: 0 if there is no problem, 1 if there is one, 2 if the settings cannot be read.
#[derive(Args)]
pub struct Doctor {
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// What to fail on, besides problems.
    #[arg(long, value_name = "WHAT")]
    deny: Option<Deny>,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// What a strict look fails on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Deny {
    /// Warnings.
    Warnings,
}

#[derive(Serialize)]
struct FindingsView<'a> {
    healthy: bool,
    problems: usize,
    warnings: usize,
    not_seen: usize,
    findings: &'a [Finding],
}

impl Doctor {
    /// Runs the command.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        self.output().unwrap_or_else(|wrong| wrong).print()
    }

    fn output(&self) -> Result<Output, Output> {
        let tool = self.settings.load()?;
        let runtime = super::runtime().map_err(|error| Output::cannot(&error))?;
        let report = Report::of(&runtime.block_on(look(&tool, jiff::Timestamp::now)));
        let (problems, warnings) = (report.count(Outcome::Problem), report.count(Outcome::Warning));
        let not_seen = report.count(Outcome::NotSeen);
        let healthy = problems == 0 && (self.deny.is_none() || warnings == 0);
        let out = match self.format {
            Format::Json => json(&FindingsView {
                healthy,
                problems,
                warnings,
                not_seen,
                findings: &report.findings,
            }),
            Format::Text => format!(
                "{report}\n{}, {}, {} not seen\n",
                count(problems, "problem", "problems"),
                count(warnings, "warning", "warnings"),
                not_seen
            ),
        };
        Ok(Output::data(out, if healthy { YES } else { NO }))
    }
}
