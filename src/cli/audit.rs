//! `solewriter audit`: the audit streams, for people.

mod filter;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use jiff::Timestamp;

use self::filter::Filter;
use super::{fail, note, print, runtime, tool, wrong};
use crate::audit::event;
use crate::audit::origin::{self, FOLLOWER};
use crate::audit::reader::{ReadError, Reader, Then};
use crate::audit::stats::Counter;
use crate::clean;
use crate::keys::{Seed, User};
use crate::permissions::AuditStreams;
use crate::source::toml::parse_duration;

/// Read the audit streams: everything that was decided, and by what; and what services report.
///
/// Reads as a service whose entry in the policy says `audits = ["AUDIT_EVENTS", "AUDIT_SERVICES"]`,
/// or, with `--api '$JS.API'`, as the audit streams' own admin.
#[derive(Args)]
pub struct AuditCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Tail(Tail),
    Stats(StatsCommand),
}

/// Show events as they come.
///
/// What claims to come from somebody else than its producer is marked as foreign, and what it
/// claims is not shown. With a filter or --json it is left out and counted.
#[derive(Args)]
struct Tail {
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    filter: Filter,
    /// Begin so long ago (15m), or at a time (2027-01-31T00:00:00Z); `all` for the oldest event.
    #[arg(long, value_name = "WHEN", default_value = "10m", value_parser = since)]
    since: Since,
    /// End where the streams end now.
    #[arg(long)]
    no_follow: bool,
    /// Print each event as it is, one JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Count events, and what is missing.
///
/// Each run of a producer numbers its events from 1, so that a gap shows. Ends with 1 when events
/// are missing. What claims to come from somebody else than its producer counts as foreign and
/// as nothing else.
#[derive(Args)]
struct StatsCommand {
    #[command(flatten)]
    from: From,
    /// Begin so long ago (24h), or at a time (2027-01-31T00:00:00Z); `all` for the oldest event.
    #[arg(long, value_name = "WHEN", default_value = "all", value_parser = since)]
    since: Since,
    /// How to print it.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: tool::Format,
}

/// Where to read, and as whom.
#[derive(Args)]
struct From {
    /// nats-server addresses, separated by commas.
    #[arg(
        long,
        value_name = "LIST",
        env = "SOLEWRITER_NATS_SERVERS",
        default_value = "nats://127.0.0.1:4222",
        value_delimiter = ','
    )]
    nats_servers: Vec<async_nats::ServerAddr>,
    /// PEM file with the certificate authorities to trust.
    #[arg(long, value_name = "FILE", env = "SOLEWRITER_NATS_TLS_CA")]
    nats_tls_ca: Option<PathBuf>,
    /// File with the seed of a service that reads the audit streams, or of their admin.
    #[arg(long, value_name = "FILE", default_value = "keys/auditor.nk")]
    nkey_seed: PathBuf,
    /// The name of that service, for its inbox. The admin may have any.
    #[arg(long, value_name = "NAME", default_value = "auditor")]
    service_name: String,
    /// The streams: of what solewriter decided, and of what services report. Name one to read it
    /// alone.
    #[arg(
        long,
        value_name = "LIST",
        default_values = [event::DEFAULT_STREAM, event::DEFAULT_SERVICES_STREAM],
        value_delimiter = ','
    )]
    stream: Vec<String>,
    /// What requests to their JetStream begin with (`[audit] api` of the settings).
    #[arg(
        long,
        value_name = "PREFIX",
        env = "SOLEWRITER_AUDIT_API",
        default_value = event::DEFAULT_API
    )]
    api: String,
    /// Services that follow servers' logs (`solewriter violations`): they may tell what others did.
    #[arg(long, value_name = "LIST", default_value = FOLLOWER, value_delimiter = ',')]
    followers: Vec<String>,
}

#[derive(Clone, Copy)]
enum Since {
    All,
    Ago(std::time::Duration),
    At(Timestamp),
}

fn since(text: &str) -> Result<Since, String> {
    let at = || text.parse().ok().map(Since::At);
    match text {
        "all" => Ok(Since::All),
        _ => parse_duration(text).map(Since::Ago).or_else(at).ok_or_else(|| {
            "write a length of time such as 15m, a time such as 2027-01-31T00:00:00Z, or all"
                .to_owned()
        }),
    }
}

impl Since {
    fn time(self) -> Option<Timestamp> {
        match self {
            Self::All => None,
            Self::Ago(length) => Timestamp::now().checked_sub(length).ok(),
            Self::At(time) => Some(time),
        }
    }
}

impl From {
    fn reader(self) -> Result<Reader, String> {
        let path = self.nkey_seed;
        let text = std::fs::read_to_string(&path).map(zeroize::Zeroizing::new);
        let text = text.map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        let seed = Seed::<User>::parse(&text)
            .map_err(|error| format!("{} does not hold the seed: {error}", path.display()))?;
        // What is none would be a subject that nobody answers.
        AuditStreams::new(None, None, Some(&self.api)).map_err(|e| format!("--api: {e}"))?;
        let (servers, ca, service) = (self.nats_servers, self.nats_tls_ca, self.service_name);
        Ok(Reader { servers, seed, service, ca, streams: self.stream, api: self.api })
    }
}

impl AuditCommand {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let runtime = match runtime() {
            Ok(runtime) => runtime,
            Err(error) => return fail(&error),
        };
        let outcome = match self.command {
            Command::Tail(tail) => runtime.block_on(tail.run()),
            Command::Stats(stats) => runtime.block_on(stats.run()),
        };
        outcome.unwrap_or_else(|error| wrong(&error))
    }
}

impl Tail {
    async fn run(self) -> Result<ExitCode, String> {
        let followers = self.from.followers.clone();
        let reader = self.from.reader()?;
        let filter = self.filter.check()?;
        let mut foreign = 0_u64;
        let show = |subject: &str, event: &serde_json::Value| {
            let line = match origin::judge(subject, event, &followers) {
                Ok(_) if !filter.takes(event) => return Then::GoOn,
                Ok(_) if self.json => clean::json(&event.to_string()).into_owned() + "\n",
                Ok(place) => show::line(place.producer, event),
                Err(why) => {
                    foreign += 1;
                    if self.json || !filter.is_open() {
                        return Then::GoOn;
                    }
                    show::foreign(subject, why)
                }
            };
            // A reader that has seen enough (`| head`) is no failure.
            match std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes()) {
                Ok(()) => Then::GoOn,
                Err(_) => Then::Stop,
            }
        };
        let reading = reader.read(self.since.time(), !self.no_follow, show);
        tokio::select! {
            outcome = reading => outcome.map_err(|error: ReadError| error.to_string())?,
            _ = tokio::signal::ctrl_c() => {}
        }
        if foreign > 0 {
            let messages =
                tool::count(usize::try_from(foreign).unwrap_or(usize::MAX), "message", "messages");
            note(&format!("{messages} foreign: `solewriter audit stats` says who published them"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl StatsCommand {
    async fn run(self) -> Result<ExitCode, String> {
        let mut stats = Counter::new(self.from.followers.clone());
        let reader = self.from.reader()?;
        let count = |subject: &str, event: &serde_json::Value| {
            stats.add(subject, event);
            Then::GoOn
        };
        let outcome = reader.read(self.since.time(), false, count).await;
        outcome.map_err(|error| error.to_string())?;
        let stats = stats.finish();
        let text = match self.format {
            tool::Format::Text => show::stats(&stats),
            tool::Format::Json => tool::json(&stats),
        };
        let printed = print(text.as_bytes());
        Ok(if stats.missing() > 0 { ExitCode::from(tool::NO) } else { printed })
    }
}
