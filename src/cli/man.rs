//! `solewriter man`: manual pages, one for each command.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory as _};
use clap_mangen::Man as Page;

use super::{Cli, fail};

/// Write manual pages.
///
/// Without a folder, it prints the page of solewriter itself. With one, it writes a page for
/// solewriter and for each subcommand there (solewriter.1, solewriter-serve.1, ...), and replaces
/// older pages.
#[derive(Args, Debug)]
pub struct Man {
    /// The folder to write all pages to. It is created if it does not exist.
    dir: Option<PathBuf>,
}

impl Man {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let mut command = Cli::command();
        // Without it, subcommands have no full names.
        command.build();
        let Some(dir) = self.dir else {
            let mut text = Vec::new();
            return match Page::new(command).render(&mut text) {
                Ok(()) => super::print(&text),
                Err(error) => fail(&error),
            };
        };
        match std::fs::create_dir_all(&dir).and_then(|()| write(&command, "solewriter", &dir)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("{}: {error}", dir.display())),
        }
    }
}

fn write(command: &Command, name: &str, dir: &Path) -> io::Result<()> {
    let mut text = Vec::new();
    // The flags of settings, which `--help` leaves to `solewriter settings`, are here with their texts.
    let shown = |arg: clap::Arg| arg.hide_short_help(false).hide_long_help(false);
    let page = command.clone().name(name.to_owned()).display_name(name.to_owned()).mut_args(shown);
    Page::new(page).render(&mut text)?;
    std::fs::write(dir.join(format!("{name}.1")), text)?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        if sub.get_name() != "help" {
            write(sub, &format!("{name}-{}", sub.get_name()), dir)?;
        }
    }
    Ok(())
}
