//! `solewriter init`: everything for a working deployment, in one folder.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::fail;
use crate::scaffold::Scaffold;

/// Write keys, configurations and a sample policy for a working deployment.
///
/// Then start both with the commands it prints. No file is ever overwritten.
#[derive(Args, Debug)]
pub struct Init {
    /// Folder to write to; made if it is not there.
    pub dir: PathBuf,
    /// Where nats-server will listen.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:4222")]
    pub nats_listen: String,
    /// Where solewriter's health and metrics will listen.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9980")]
    pub http_listen: SocketAddr,
    /// The name of the server.
    #[arg(long, value_name = "NAME", default_value = "nats-1")]
    pub server_name: String,
}

impl Init {
    /// Runs the command.
    #[must_use]
    #[allow(clippy::print_stdout)]
    pub fn run(self) -> ExitCode {
        let Self { dir, nats_listen, http_listen, server_name } = self;
        match (Scaffold { dir, nats_listen, http_listen, server_name }).write() {
            Ok(deployment) => {
                let (server, settings) = (deployment.server_config(), deployment.settings());
                println!("Wrote a deployment to {}.\n", deployment.dir.display());
                println!("Start it, each in a terminal of its own:\n");
                println!("  nats-server -c {}", quoted(&server));
                println!("  solewriter serve -c {}\n", quoted(&settings));
                println!("Who may do what is in {}.", quoted(&deployment.policy()));
                println!("The seeds in {} are secret.", quoted(&deployment.dir.join("keys")));
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error),
        }
    }
}

/// A path as one word of a shell command.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    if text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c)) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
