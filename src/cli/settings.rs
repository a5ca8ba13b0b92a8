//! `solewriter settings`: the settings, with the flag of each.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;

use super::common::{Output, YES};
use crate::config::SETTINGS;

/// List all settings, with the flag of each.
///
/// Every command that reads a settings file (--config) takes these flags, and their environment
/// variables.
#[derive(Args, Debug)]
pub struct SettingsCommand {}

impl SettingsCommand {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        Output::data(list(), YES).print()
    }
}

fn list() -> String {
    let width = SETTINGS.iter().map(|setting| setting.flag().len()).max().unwrap_or_default();
    let mut text = "A flag overrides the environment variable, and that overrides the settings file. The variable\n\
                    has the flag's name in capitals: --nats-tls-ca is SOLEWRITER_NATS_TLS_CA. Defaults are in\n\
                    brackets.\n"
        .to_owned();
    let mut last = "";
    for setting in SETTINGS {
        if setting.table != last {
            let _ = write!(text, "\n[{}]\n", setting.table);
            last = setting.table;
        }
        let _ = writeln!(text, "  --{:width$}  {}", setting.flag(), setting.meaning());
    }
    text
}
