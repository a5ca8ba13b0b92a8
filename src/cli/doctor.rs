//! `solewriter doctor`: is the running deployment what it should be?

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::traces::file;
use crate::adoption::mapping::Mapping;
use crate::adoption::server_config::accounts::Config;
use crate::adoption::server_config::syntax::Disk;
use crate::adoption::stages::written::{RECORD, Record};
use crate::cli::common::{Format, NO, Output, SettingsArgs, YES, count, json};
use crate::doctor::look::{Adopting, look};
use crate::doctor::movers::Progress;
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
    /// What `solewriter adopt` wrote of an adoption that is under way. Without it, `adopt.toml`
    /// beside the settings, if it is there.
    #[arg(long, value_name = "FILE")]
    adoption: Option<PathBuf>,
    /// The configuration that nats-server runs with now: who may still log in to the old account,
    /// and what they may do. Only while the deployment is being adopted.
    #[arg(long, value_name = "FILE")]
    server_config: Option<PathBuf>,
    /// The file that says which clients of the old account are which services.
    #[arg(long, value_name = "FILE")]
    map: Option<PathBuf>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    adoption: Option<&'a Progress>,
}

impl Doctor {
    /// Runs the command.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        self.output().unwrap_or_else(|wrong| wrong).print()
    }

    fn output(&self) -> Result<Output, Output> {
        let tool = self.settings.load()?;
        let adopting = self.adopting()?;
        let runtime = super::runtime().map_err(|error| Output::cannot(&error))?;
        let seen = runtime.block_on(look(&tool, adopting.as_ref(), jiff::Timestamp::now));
        let report = Report::of(&seen);
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
                adoption: report.adoption.as_ref(),
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

    /// The adoption that is under way, if there is one.
    fn adopting(&self) -> Result<Option<Adopting>, Output> {
        let beside = self.settings.config.with_file_name(RECORD);
        let path = match &self.adoption {
            Some(path) => path,
            None if beside.is_file() => &beside,
            None => {
                let given = [("--server-config", &self.server_config), ("--map", &self.map)];
                return match given.into_iter().find(|(_, path)| path.is_some()) {
                    Some((flag, _)) => Err(Output::cannot(&format!(
                        "{flag} is for an adoption that is under way, and there is no {}; name it \
                         with --adoption",
                        beside.display()
                    ))),
                    None => Ok(None),
                };
            }
        };
        let record = record(path)?;
        let map = match &self.map {
            Some(path) => Mapping::read(&file(path)?).map_err(Output::wrong)?,
            None => Mapping::default(),
        };
        let config = match &self.server_config {
            Some(path) => Some(Config::read(path, &Disk).map_err(Output::wrong)?.1),
            None => None,
        };
        let own = record.keys.users().map(ToOwned::to_owned).into();
        Ok(Some(Adopting { own, account: record.account, map, config }))
    }
}

fn record(path: &Path) -> Result<Record, Output> {
    let text = file(path)?;
    Record::parse(text.text()).ok_or_else(|| {
        let message = format!("{}: it is not what `solewriter adopt` wrote", path.display());
        Output::cannot(&message)
    })
}
