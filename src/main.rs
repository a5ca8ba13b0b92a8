//! Parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use solewriter::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
