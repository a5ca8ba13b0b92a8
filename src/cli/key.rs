//! `solewriter key`: an NKEY for a service, and the public half of one.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{fail, init, print};
use crate::keys::{Seed, Signer, User};

/// Make an NKEY for a service, or show the public key of one.
#[derive(Args, Debug)]
pub struct Key {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Write a new seed to a file that only its owner can read, and print the public key, which
    /// goes into the policy. No file is ever overwritten.
    New {
        /// The file to make.
        file: PathBuf,
    },
    /// Print the public key of a seed.
    Public {
        /// The file with the seed.
        file: PathBuf,
    },
}

impl Key {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let public = match &self.action {
            Action::New { file } => {
                let seed = Seed::<User>::generate();
                let text = zeroize::Zeroizing::new(format!("{}\n", seed.expose()));
                match init::write_secret(file, &text) {
                    Ok(()) => Signer::new(&seed).map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                }
                .map_err(|error| format!("{} cannot be written: {error}", file.display()))
            }
            Action::Public { file } => std::fs::read_to_string(file)
                .map(zeroize::Zeroizing::new)
                .map_err(|error| error.to_string())
                .and_then(|text| Seed::<User>::parse(&text).map_err(|error| error.to_string()))
                .and_then(|seed| Signer::new(&seed).map_err(|error| error.to_string()))
                .map_err(|error| format!("{}: {error}", file.display())),
        };
        match public {
            Ok(signer) => print(format!("{}\n", signer.public()).as_bytes()),
            Err(error) => fail(&error),
        }
    }
}
