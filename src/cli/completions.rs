//! `solewriter completions`: what a shell needs to complete commands and flags.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;

/// Print completions for a shell.
///
/// Write them to this file:
///   bash  ~/.local/share/bash-completion/completions/solewriter
///   fish  ~/.config/fish/completions/solewriter.fish
///   zsh   _solewriter, in a folder of $fpath
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "solewriter", &mut text);
        super::print(&text)
    }
}
