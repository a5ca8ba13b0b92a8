//! `solewriter health`: asks a running `serve` how it is, for probes of containers and supervisors.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::time::timeout;

use super::common::{NO, Output, SettingsArgs, YES, duration};
use crate::http_client;

/// The longest answer that is read, in bytes.
const ANSWER_AT_MOST: usize = 64 * 1024;

/// Ask a running `serve` whether it can answer requests.
///
/// Asks /readyz at the address of `[http] listen`, on this machine, and prints the answer.
///
/// Exit code: 0 if it is ready, 1 if it is not or does not answer, 2 if it cannot be asked.
#[derive(Args)]
pub struct HealthCommand {
    /// Ask only whether the process runs (/livez).
    #[arg(long)]
    live: bool,
    /// Ask there, instead of at the settings' address. No settings are read then.
    #[arg(long, value_name = "HOST:PORT")]
    at: Option<String>,
    /// How long to wait for the answer.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    wait: Duration,
    #[command(flatten)]
    settings: SettingsArgs,
}

impl HealthCommand {
    /// Runs the command.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        self.output().unwrap_or_else(|wrong| wrong).print()
    }

    fn output(&self) -> Result<Output, Output> {
        let address = match &self.at {
            Some(address) => address.clone(),
            None => self.listening()?.to_string(),
        };
        let path = if self.live { "/livez" } else { "/readyz" };
        let runtime = super::runtime().map_err(|error| Output::cannot(&error))?;
        let asked = runtime.block_on(async { timeout(self.wait, ask(&address, path)).await });
        match asked {
            Ok(Ok((well, answer))) => Ok(Output::data(answer, if well { YES } else { NO })),
            Ok(Err(error)) => Err(Output::failed(&format!("{address} does not answer: {error}"))),
            Err(_) => Err(Output::failed(&format!("{address} does not answer in time"))),
        }
    }

    /// Where the settings' `serve` can be asked.
    fn listening(&self) -> Result<SocketAddr, Output> {
        let SettingsArgs { config, overrides } = &self.settings;
        let listen = crate::config::http_address(config, overrides).map_err(Output::wrong)?;
        let Some(listen) = listen else {
            let off = "[http] listen is \"off\", so nobody can ask it";
            return Err(Output::cannot(&off));
        };
        if listen.port() == 0 {
            let unknown =
                "[http] listen has port 0, so the system picks one that nobody knows here";
            return Err(Output::cannot(&unknown));
        }
        Ok(reachable(listen))
    }
}

/// Where to ask what listens there: who listens on every address does so on this machine's own.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Whether the answer is good, and what it says.
async fn ask(address: &str, path: &str) -> Result<(bool, String), String> {
    let answer = http_client::ask(address, address, path).await?;
    let well = answer.status().is_success();
    let body = http_client::body(answer.into_body(), ANSWER_AT_MOST).await?;
    Ok((well, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_asked_here() {
        for (listen, asked) in [
            ("0.0.0.0:9980", "127.0.0.1:9980"),
            ("[::]:9980", "[::1]:9980"),
            ("10.1.2.3:80", "10.1.2.3:80"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), asked);
        }
    }
}
