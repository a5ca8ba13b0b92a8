//! Parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use solewriter::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
