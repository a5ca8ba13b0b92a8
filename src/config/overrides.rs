//! What overrides the file: flags and environment variables.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::table::{Kind, SETTINGS};
use solewriter_core::diagnostics::SourceFile;

/// Values given by flag or environment.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pub(super) documents: Vec<SourceFile>,
}

impl clap::FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut documents = Vec::new();
        for setting in SETTINGS {
            if let Some(value) = matches.get_one::<String>(&setting.flag()) {
                let name = format!("--{} or {}", setting.flag(), setting.variable());
                documents.push(setting.document(&name, value));
            }
        }
        Ok(Self { documents })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Overrides {
    fn augment_args(command: Command) -> Command {
        SETTINGS.iter().fold(command, |c, s| {
            c.arg(
                Arg::new(s.flag())
                    .long(s.flag())
                    .help_heading("Settings, instead of the file's")
                    .env(OsString::from(s.variable()))
                    .help(s.meaning())
                    .value_name(match s.kind {
                        Kind::Text => "TEXT",
                        Kind::Path | Kind::Seed => "FILE",
                        Kind::List => "LIST",
                        Kind::Paths | Kind::Seeds => "FILES",
                        Kind::Number(..) => "NUMBER",
                        Kind::Flag => "true|false",
                        Kind::Duration => "TIME",
                        Kind::Size => "SIZE",
                    })
                    .action(ArgAction::Set)
                    .hide_env_values(true)
                    // In manual pages and completions; for the screen, `solewriter settings`.
                    .hide_short_help(true)
                    .hide_long_help(true),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
