//! `solewriter key`: an NKEY for a service, the public half of one, and a new one in place of another.

mod rotate;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::{fail, print};
use crate::config;
use crate::scaffold;
use solewriter_core::keys::{Account, Curve, CurveSecret, Role, Seed, Signer, User};

/// Make an NKEY, print the public key of a seed, or replace the issuer's key or the xkey.
#[derive(Args)]
pub struct Key {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
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
    Rotate(rotate::Rotate),
}

/// Whose key it is.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// Of a service in the policy, or of a user in nats-server's configuration.
    Service,
    /// Of an issuer: `[issuer] seed` of the settings, and `issuer` in nats-server's `auth_callout`.
    Issuer,
    /// The curve key that requests are sealed to: `[xkey] seed` of the settings, and `xkey` in
    /// nats-server's `auth_callout`.
    Xkey,
}

impl Key {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let public = match &self.action {
            Action::New { file, kind: Kind::Service } => new::<User>(file),
            Action::New { file, kind: Kind::Issuer } => new::<Account>(file),
            Action::New { file, kind: Kind::Xkey } => new_xkey(file),
            Action::Rotate(rotate) => return rotate.run(),
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
    written(file, &seed, public.map_err(|error| error.to_string())?)
}

fn new_xkey(file: &Path) -> Result<String, String> {
    let seed = Seed::<Curve>::generate();
    let public = CurveSecret::new(&seed).map(|secret| secret.public().to_string());
    written(file, &seed, public.map_err(|error| error.to_string())?)
}

fn written<K: Role>(file: &Path, seed: &Seed<K>, public: String) -> Result<String, String> {
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
    if let Ok(xkey) = Seed::<Curve>::parse(&text).and_then(|seed| CurveSecret::new(&seed)) {
        return Ok(xkey.public().to_string());
    }
    let user = Seed::<User>::parse(&text).and_then(|seed| Signer::new(&seed));
    user.map(|signer| signer.public().to_string()).map_err(|error| failed(&error))
}
