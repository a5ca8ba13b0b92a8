//! `solewriter schema`: what an editor needs to complete and explain policy and settings files.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

/// Print a JSON Schema for policy or settings files.
///
/// Editors with taplo (Even Better TOML) use it if the first line of a file is `#:schema URL-or-path`.
#[derive(Args, Debug)]
pub struct Schema {
    /// The kind of file.
    #[arg(value_enum)]
    of: Of,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Of {
    /// A policy file.
    Policy,
    /// The settings of `serve`.
    Settings,
}

impl Schema {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let text = match self.of {
            Of::Policy => crate::schema::policy(),
            Of::Settings => crate::schema::settings(),
        };
        super::print(text.as_bytes())
    }
}
