//! `solewriter init`: everything for a working deployment, in one folder.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::fail;
use crate::scaffold::{Deployment, Scaffold};

/// Write keys, configurations and a sample policy for a working deployment.
///
/// Then follow the steps that it prints: start both processes, create what the policy declares, and
/// check the deployment. It never overwrites a file.
#[derive(Args, Debug)]
pub struct Init {
    /// The folder to write to. It is created if it does not exist.
    pub dir: PathBuf,
    /// The address that nats-server will listen on.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:4222")]
    pub nats_listen: String,
    /// The address of solewriter's health and metrics.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9980")]
    pub http_listen: SocketAddr,
    /// The name of the nats-server.
    #[arg(long, value_name = "NAME", default_value = "nats-1")]
    pub server_name: String,
    /// Write accounts as JWTs that an operator signs, for nats-server's operator mode.
    #[arg(long)]
    pub operator: bool,
    /// A tenant, with accounts, settings and a policy of its own. Give it once for each.
    #[arg(long = "tenant", value_name = "NAME")]
    pub tenants: Vec<String>,
}

impl Init {
    /// Runs the command.
    #[must_use]
    #[allow(clippy::print_stdout)]
    pub fn run(self) -> ExitCode {
        let Self { dir, nats_listen, http_listen, server_name, operator, tenants } = self;
        let names = tenants.clone();
        match (Scaffold { dir, nats_listen, http_listen, server_name, operator, tenants }).write() {
            Ok(deployment) => {
                print!("{}", next(&deployment, &names));
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error),
        }
    }
}

/// What was written, and what to do next, for people.
fn next(deployment: &Deployment, tenants: &[String]) -> String {
    let settings = quoted(&deployment.settings());
    let own = tenants.iter().map(|tenant| quoted(&deployment.settings_of(tenant)));
    let each: Vec<String> = if tenants.is_empty() { vec![settings.clone()] } else { own.collect() };
    let lines: String = each
        .iter()
        .map(|settings| {
            format!(
                "  solewriter state apply -c {settings} --yes\n  solewriter doctor -c {settings}\n"
            )
        })
        .collect();
    format!(
        "Wrote a deployment to {dir}.\n\n\
         Start it, each in a terminal of its own:\n\n  \
         nats-server -c {server}\n  \
         solewriter serve -c {settings}\n\n\
         Then create what {policies} and the audit streams, and have a look whether all is \
         well:\n\n\
         {lines}\n\
         Who may do what is in {policy}.\n\
         The seeds in {keys} are secret.\n",
        policies = if tenants.is_empty() { "the policy declares" } else { "each policy declares" },
        dir = deployment.dir.display(),
        server = quoted(&deployment.server_config()),
        policy = quoted(&deployment.policy()),
        keys = quoted(&deployment.dir.join("keys")),
    )
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
