//! `solewriter key`: an NKEY for a service, and the public half of one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::{fail, print};
use crate::config;
use crate::scaffold;
use solewriter_core::keys::{Account, Role, Seed, Signer, User};

/// Make an NKEY for a service or an issuer, or print the public key of a seed.
#[derive(Args, Debug)]
pub struct Key {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Write a new seed to a file that only its owner can read, and print the public key. It never
    /// overwrites a file.
    New {
        /// The file to write.
        file: PathBuf,
        /// Whose key it is.
        #[arg(long, value_enum, default_value = "service")]
        kind: Kind,
    },
    /// Print the public key of a seed.
    Public {
        /// The file with the seed.
        file: PathBuf,
    },
}

/// Whose key it is.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// Of a service in the policy, or of a user in nats-server's configuration.
    Service,
    /// Of an issuer: `[issuer] seed` of the settings, and `issuer` in nats-server's `auth_callout`.
    Issuer,
}

impl Key {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let public = match &self.action {
            Action::New { file, kind: Kind::Service } => new::<User>(file),
            Action::New { file, kind: Kind::Issuer } => new::<Account>(file),
            Action::Public { file } => public(file),
        };
        match public {
            Ok(public) => print(format!("{public}\n").as_bytes()),
            Err(error) => fail(&error),
        }
    }
}

fn new<K: Role>(file: &Path) -> Result<String, String> {
    let seed = Seed::<K>::generate();
    let public = Signer::new(&seed).map(|signer| signer.public().to_string());
    let public = public.map_err(|error| error.to_string())?;
    scaffold::write_secret(file, &format!("{}\n", seed.expose()))
        .map_err(|error| format!("{} cannot be written: {error}", file.display()))?;
    Ok(public)
}

fn public(file: &Path) -> Result<String, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let text = config::read_text(file).map_err(|error| failed(&error))?;
    if let Ok(issuer) = Seed::<Account>::parse(&text).and_then(|seed| Signer::new(&seed)) {
        return Ok(issuer.public().to_string());
    }
    let user = Seed::<User>::parse(&text).and_then(|seed| Signer::new(&seed));
    user.map(|signer| signer.public().to_string()).map_err(|error| failed(&error))
}
