//! `solewriter-lab`: puts load on solewriter and measures it.

use std::process::ExitCode;

use clap::Parser;
use solewriter_lab::cli::Load;

/// What solewriter costs, how much it carries, how long it takes.
#[derive(Parser)]
#[command(name = "solewriter-lab", version, propagate_version = true, max_term_width = 100)]
struct Lab {
    #[command(flatten)]
    load: Load,
}

// As solewriter's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // What is measured is solewriter itself, built into this binary: `serve` and `signer` are its
    // own commands.
    let ours = |command: std::ffi::OsString| command == "serve" || command == "signer";
    if std::env::args_os().nth(1).is_some_and(ours) {
        return solewriter::cli::Cli::parse().run();
    }
    Lab::parse().load.run()
}
