//! `solewriter signer`: holds the issuer's key and signs for `serve`, in a process of its own.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use super::{fail, report, runtime, wrong};
use crate::cli::common::{LogArgs, duration};
use crate::config;
use crate::signer::client::Client;
use crate::signer::desk::Desk;
use crate::signer::keys::Keys;
use crate::signer::socket::Socket;
use crate::signer::token::Token;
use solewriter_core::callout::signable::Bounds;
use solewriter_core::keys::{Account, AccountKey, AccountSigner, Seed, Signer as SeedSigner};

/// The variable with seeds themselves, separated by commas.
const SEEDS_VALUE: &str = "SOLEWRITER_SIGNER_SEEDS_VALUE";
/// The variable with the PIN itself.
const PIN_VALUE: &str = "SOLEWRITER_SIGNER_PIN_VALUE";
/// Where names of users are.
const USERS: &str = "/etc/passwd";

/// Hold the issuer's key in a process of its own, and sign for `serve`.
///
/// `serve` asks on a Unix socket (`[issuer] signer`), and never has the key. The signer signs
/// nothing but users and answers as solewriter makes them: in the accounts named, for the time named,
/// so often. Each signature is a line in its log. docs/signer.md has the protocol.
///
/// Runs until SIGTERM or SIGINT.
#[derive(Args)]
pub struct Signer {
    /// The socket to listen on. Its folder must let the users of --peer in.
    #[arg(long, value_name = "SOCKET")]
    listen: PathBuf,
    /// A user who may ask, by name or number. May be given several times.
    #[arg(long = "peer", value_name = "USER", required = true)]
    peers: Vec<String>,
    /// An account that users may be placed in: by name or, in operator mode, by public key (there
    /// also the one of the callout). May be given several times.
    #[arg(long = "account", value_name = "ACCOUNT", required = true)]
    accounts: Vec<String>,
    /// A file with a seed that signs. May be given several times. `SOLEWRITER_SIGNER_SEEDS_VALUE` has
    /// seeds themselves, separated by commas.
    #[arg(long = "seed", value_name = "FILE")]
    seeds: Vec<PathBuf>,
    /// The socket of an adapter to where the key is, such as a key management service. It is asked as
    /// this signer is; what it signs is verified.
    #[arg(long, value_name = "SOCKET", requires = "adapter_keys")]
    adapter: Option<PathBuf>,
    /// The public key that it signs with. May be given several times.
    #[arg(long = "adapter-key", value_name = "KEY", requires = "adapter")]
    adapter_keys: Vec<String>,
    /// The PKCS#11 module (a shared library) of the token with the key.
    #[arg(long, value_name = "FILE", requires = "pkcs11_token", requires = "pkcs11_keys")]
    pkcs11_module: Option<PathBuf>,
    /// The label of the token.
    #[arg(long, value_name = "LABEL", requires = "pkcs11_module")]
    pkcs11_token: Option<String>,
    /// The label of a key in it. May be given several times.
    #[arg(long = "pkcs11-key", value_name = "LABEL", requires = "pkcs11_module")]
    pkcs11_keys: Vec<String>,
    /// The file with the token's PIN. `SOLEWRITER_SIGNER_PIN_VALUE` has the PIN itself.
    #[arg(long, value_name = "FILE", requires = "pkcs11_module")]
    pkcs11_pin: Option<PathBuf>,
    /// The longest lifetime of a user that is signed: at least the longest one of the policy.
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = duration)]
    longest: Duration,
    /// Questions that are answered in a second; a login takes two.
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000)]
    per_second: u32,
    #[command(flatten)]
    log: LogArgs,
}

impl Signer {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let _log = match self.log.start() {
            Ok(log) => log,
            Err(error) => return wrong(&error),
        };
        let keys = match self.keys() {
            Ok(keys) => keys,
            Err(code) => return code,
        };
        let peers: Result<Vec<u32>, String> = self.peers.iter().map(|peer| user(peer)).collect();
        let peers = match peers {
            Ok(peers) => peers,
            Err(error) => return wrong(&error),
        };
        let outcome = runtime()
            .map_err(|error| error.to_string())
            .and_then(|runtime| runtime.block_on(self.serve(keys, &peers)));
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        }
    }

    async fn serve(&self, keys: Keys, peers: &[u32]) -> Result<(), String> {
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
        let public = keys.public();
        for key in &public {
            tracing::info!(event = "key", %key);
        }
        let bounds = Bounds {
            accounts: self.accounts.iter().cloned().collect(),
            longest: i64::try_from(self.longest.as_secs()).unwrap_or(i64::MAX),
        };
        let desk = Arc::new(Desk::new(Box::new(keys), public, bounds, self.per_second));
        let socket = Socket::bind(&self.listen)?;
        tracing::info!(event = "listening", socket = %self.listen.display(), ?peers);
        tokio::select! {
            () = socket.serve(desk, peers) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    }

    /// The keys, or the exit code after saying what is wrong with them.
    fn keys(&self) -> Result<Keys, ExitCode> {
        let mut keys = Keys::default();
        let mut add = |seed: &Seed<Account>| {
            let key = SeedSigner::new(seed).map_err(|error| wrong(&error))?;
            keys.add(key).map_err(|error| wrong(&error))
        };
        for file in &self.seeds {
            add(&config::seed_file("--seed", file).map_err(|problems| report(&problems))?)?;
        }
        if let Ok(value) = std::env::var(SEEDS_VALUE) {
            let value = Zeroizing::new(value);
            for text in value.split(',') {
                let seed = Seed::parse(text).map_err(|error| {
                    wrong(&format!("{SEEDS_VALUE} does not hold a seed: {error}"))
                });
                add(&seed?)?;
            }
        }
        if let Some(adapter) = &self.adapter {
            let adapter = Arc::new(Client::new(adapter));
            for given in &self.adapter_keys {
                let key = AccountKey::parse(given)
                    .map_err(|error| wrong(&format!("--adapter-key {given:?}: {error}")))?;
                let signer = AccountSigner::elsewhere(key, adapter.clone());
                keys.add(signer).map_err(|error| wrong(&error))?;
            }
        }
        if let (Some(module), Some(token)) = (&self.pkcs11_module, &self.pkcs11_token) {
            let pin = match (&self.pkcs11_pin, std::env::var(PIN_VALUE)) {
                (Some(_), Ok(_)) => {
                    return Err(wrong(&format!("--pkcs11-pin and {PIN_VALUE} exclude each other")));
                }
                (None, Ok(pin)) => Zeroizing::new(pin),
                (Some(file), Err(_)) => config::secret_text("--pkcs11-pin", file)
                    .map_err(|problems| report(&problems))?,
                (None, Err(_)) => {
                    return Err(wrong(&format!(
                        "the token needs a PIN: --pkcs11-pin or {PIN_VALUE}"
                    )));
                }
            };
            let opened = Token::open(module, token, &self.pkcs11_keys, pin.trim());
            let opened = opened.map_err(|error| fail(&error))?;
            keys.add_token(opened).map_err(|error| wrong(&error))?;
        }
        if keys.public().is_empty() {
            return Err(wrong(
                &"there is no key: give --seed, --adapter, or --pkcs11-module with its token",
            ));
        }
        Ok(keys)
    }
}

/// The number of a user.
fn user(given: &str) -> Result<u32, String> {
    if let Ok(number) = given.parse() {
        return Ok(number);
    }
    let users = config::read_text(USERS.as_ref()).map_err(|error| format!("{USERS}: {error}"))?;
    let found = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(given)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    found.ok_or_else(|| {
        format!(
            "--peer {given:?}: there is no such user in {USERS}; give the user's number (id -u)"
        )
    })
}
