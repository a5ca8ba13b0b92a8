//! The command line: one file a subcommand. Data goes to stdout, logs and problems to stderr.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cli::common::Output;
use solewriter_core::diagnostics::Problems;
use solewriter_types::clean;

pub mod adopt;
mod asked;
pub mod audit;
pub mod check;
pub mod common;
pub mod completions;
#[cfg(all(unix, feature = "sandbox"))]
pub mod demo;
pub mod diff;
pub mod doctor;
pub mod emergency;
pub mod explain;
mod git;
pub mod health;
pub mod init;
pub mod key;
pub mod learn;
pub mod man;
pub mod map;
mod monitor;
pub mod operator;
pub mod policy;
pub mod prove;
pub mod rehearse;
pub mod schema;
pub mod serve;
pub mod sessions;
pub mod settings;
pub mod signer;
pub mod state;
pub mod test;
mod traces;
pub mod upgrade;
pub mod violations;
pub mod who_can;

/// The exit code of "no", or of a command that failed. Success is 0, a wrong question is 2.
pub const FAILED: u8 = 1;

/// One keyspace, one writer: a NATS authorization callout service.
///
/// nats-server asks solewriter about each connection. solewriter proves that the client has the
/// NKEY of a service, looks up the rules of that service, and answers with exactly those permissions.
#[derive(Parser)]
#[command(name = "solewriter", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Serve),
    Signer(signer::Signer),
    Init(init::Init),
    Adopt(adopt::Adopt),
    Upgrade(upgrade::Upgrade),
    Key(key::Key),
    Check(check::Check),
    Explain(explain::Explain),
    WhoCan(who_can::WhoCan),
    Diff(diff::DiffCommand),
    Test(test::Test),
    #[command(alias = "buckets")]
    State(state::State),
    Doctor(doctor::Doctor),
    Operator(operator::OperatorCommand),
    Health(health::HealthCommand),
    Audit(audit::AuditCommand),
    Policy(policy::PolicyCommand),
    Emergency(emergency::EmergencyCommand),
    Violations(violations::Violations),
    #[cfg(all(unix, feature = "sandbox"))]
    Demo(demo::Demo),
    Prove(prove::Prove),
    Learn(learn::Learn),
    Rehearse(rehearse::Rehearse),
    Sessions(sessions::Sessions),
    Map(map::MapCommand),
    Settings(settings::SettingsCommand),
    Schema(schema::Schema),
    Completions(completions::Completions),
    Man(man::Man),
}

impl Cli {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Serve(serve) => serve.run(),
            Command::Signer(signer) => signer.run(),
            Command::Init(init) => init.run(),
            Command::Adopt(adopt) => adopt.run(),
            Command::Upgrade(upgrade) => upgrade.run(),
            Command::Key(key) => key.run(),
            Command::Check(check) => check.run(),
            Command::Explain(explain) => explain.run(),
            Command::WhoCan(who_can) => who_can.run(),
            Command::Diff(diff) => diff.run(),
            Command::Test(test) => test.run(),
            Command::State(state) => state.run(),
            Command::Doctor(doctor) => doctor.run(),
            Command::Operator(operator) => operator.run(),
            Command::Health(health) => health.run(),
            Command::Audit(audit) => audit.run(),
            Command::Policy(policy) => policy.run(),
            Command::Emergency(emergency) => emergency.run(),
            Command::Violations(violations) => violations.run(),
            #[cfg(all(unix, feature = "sandbox"))]
            Command::Demo(demo) => demo.run(),
            Command::Prove(prove) => prove.run(),
            Command::Learn(learn) => learn.run(),
            Command::Rehearse(rehearse) => rehearse.run(),
            Command::Sessions(sessions) => sessions.run(),
            Command::Map(map) => map.run(),
            Command::Settings(settings) => settings.run(),
            Command::Schema(schema) => schema.run(),
            Command::Completions(completions) => completions.run(),
            Command::Man(man) => man.run(),
        }
    }
}

/// Says what went wrong.
pub fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    Output::failed(error).print()
}

/// Says that the question itself was wrong.
fn wrong(error: &dyn std::fmt::Display) -> ExitCode {
    Output::cannot(error).print()
}

/// Says what is wrong with settings or a policy.
fn report(problems: &Problems) -> ExitCode {
    Output::refused(problems).print()
}

/// Says something beside the data.
#[allow(clippy::print_stderr)]
fn note(text: &str) {
    eprintln!("{}", clean::lines(text));
}

/// Writes data to stdout, to the byte; a disk that is full is a failure.
pub fn print(text: &[u8]) -> ExitCode {
    match std::io::stdout().write_all(text) {
        // Who reads no further has what they wanted.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => fail(&error),
        _ => ExitCode::SUCCESS,
    }
}

/// A tokio runtime for a command that talks to the network.
///
/// # Errors
/// When the system has no threads left.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Runs a command that talks to the network, and prints what comes of it.
fn finish(command: impl Future<Output = Result<Output, Output>>) -> ExitCode {
    let outcome = runtime().map_err(|error| Output::cannot(&error));
    outcome.and_then(|runtime| runtime.block_on(command)).unwrap_or_else(|wrong| wrong).print()
}
