//! The commands of `solewriter-lab`: what it costs, how much it carries, how long it takes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::ceiling;
use crate::change;
use crate::cleanup;
use crate::direct::{Direct, Outcome, Pressure};
use crate::fake_server::FakeServer;
use crate::fixture_policy::{CLIENTS, FixturePolicy};
use crate::listing;
use crate::real_clients::{self, Against, ServerTestbed, Storm, Upset};
use crate::render::Goal;
use crate::report::{Effort, Run};
use crate::request::{Kind, Minter};
use crate::results::{Beside, Report, median};
use crate::served;
use crate::soak;
use crate::streams;
use crate::sweeps;
use crate::testbed::Testbed;
use crate::{Error, progress};
use solewriter::cli::common::{self, Format};
use solewriter::cli::fail;
use solewriter::config::{self, Overrides, PolicySource};
use solewriter::policy_source::directory::Directory;
use solewriter_core::grant::Grant;
use solewriter_core::policy::validate::validate_for;

/// Put load on solewriter and measure it.
///
/// Everything runs on this machine, on loopback, in a temporary folder that is removed.
#[derive(Args)]
pub struct Load {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Direct(DirectCommand),
    Connect(ConnectCommand),
    Report(ReportCommand),
    Streams(StreamsCommand),
    Listing(ListingCommand),
    Change(ChangeCommand),
    Served(ServedCommand),
    Sweeps(SweepsCommand),
    Soak(SoakCommand),
    #[command(hide = true)]
    Ceiling(Ceiling),
}

impl Load {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        // The ceiling is a part of somebody else's run.
        if !matches!(self.command, Command::Ceiling(_))
            && let Err(error) = cleanup::when_interrupted()
        {
            return fail(&error);
        }
        let outcome = match self.command {
            Command::Direct(direct) => direct.run(),
            Command::Connect(connect) => connect.run(),
            Command::Report(report) => report.run(),
            Command::Streams(streams) => streams.run(),
            Command::Listing(listing) => listing.run(),
            Command::Change(change) => change.run(),
            Command::Served(served) => served.run(),
            Command::Sweeps(sweeps) => sweeps.run(),
            Command::Soak(soak) => soak.run(),
            Command::Ceiling(ceiling) => ceiling.run(),
        };
        match outcome {
            Ok(text) => solewriter::cli::print(text.as_bytes()),
            Err(error) => fail(&error),
        }
    }
}

/// Feed requests straight to `solewriter serve`: this command plays nats-server.
///
/// It signs requests (and seals them, unless --plain) as a server does, sends them to a real
/// `serve` process over TCP, and takes the answers, of which it verifies one in a hundred.
#[derive(Args)]
struct DirectCommand {
    #[command(flatten)]
    company: CompanyArgs,
    /// Requests in the clear, instead of sealed ones.
    #[arg(long)]
    plain: bool,
    /// Closed loop: so many requests in flight.
    #[arg(long, value_name = "NUMBER", default_value_t = 64, conflicts_with = "rate")]
    concurrency: usize,
    /// Open loop: so many requests a second, latencies counted from when each was to be sent.
    #[arg(long, value_name = "PER-SECOND")]
    rate: Option<f64>,
    /// What is asked.
    #[arg(long, value_enum, default_value_t = Kind::Good)]
    requests: Kind,
    /// `serve` processes.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    instances: usize,
    /// `solewriter signer` holds the issuer's key; its CPU counts as the service's.
    #[arg(long)]
    signer: bool,
    #[command(flatten)]
    time: TimeArgs,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Further arguments for `solewriter serve`, after `--`.
    #[arg(last = true, value_name = "SERVE-ARGUMENTS")]
    serve: Vec<String>,
}

#[derive(Args)]
struct CompanyArgs {
    /// Services in the policy.
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    services: usize,
    /// Subjects in each grant.
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    subjects: usize,
}

impl CompanyArgs {
    fn make(&self) -> Result<FixturePolicy, Error> {
        FixturePolicy::new(self.services, self.subjects, CLIENTS)
    }
}

#[derive(Args)]
struct TimeArgs {
    /// How long to measure, each round.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = common::duration)]
    duration: Duration,
    /// How long to run before that.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = common::duration)]
    warm_up: Duration,
    /// Rounds; the median of each figure is reported.
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    rounds: usize,
}

#[derive(Serialize)]
struct DirectReport {
    sealed: bool,
    services: usize,
    subjects: usize,
    instances: usize,
    requests: Kind,
    pressure: Pressure,
    rounds: Vec<Outcome>,
    crypto_cpu_us: Vec<f64>,
    per_second: f64,
    service_cpu_us: Option<f64>,
    crypto_us: f64,
    ratio: Option<f64>,
}

impl DirectCommand {
    fn run(self) -> Result<String, Error> {
        let pressure = match self.rate {
            Some(rate) => Pressure::Rate(rate),
            None => Pressure::Concurrency(self.concurrency),
        };
        if self.requests == Kind::Forged && self.rate.is_none() {
            return Err("forged requests get no answer, so they need --rate".into());
        }
        progress("making a policy, keys and requests");
        let company = self.company.make()?;
        let stage = Testbed::set(company, !self.plain)?;
        let minter = Arc::new(Minter::new(&stage)?);
        let broker = Arc::new(FakeServer::open()?);
        let signer = if self.signer { Some(stage.signer()?) } else { None };
        let serves: Vec<_> = (0..self.instances.max(1))
            .map(|number| stage.serve(&broker.url(), number, &self.serve))
            .collect::<Result<_, _>>()?;
        let direct = Direct { broker, minter };
        let requests = Arc::new(direct.mint(&stage, self.requests, 2_000)?);
        let (crypto, _) = direct.crypto(&stage)?;
        let contained = || -> Result<Duration, Error> {
            let sealing = if self.plain { Duration::ZERO } else { crypto.sealing_cost()? };
            Ok(crypto.cost()? + sealing)
        };
        let mut crypto_cpu = vec![contained()?];
        let mut rounds = Vec::new();
        for round in 0..self.time.rounds.max(1) {
            progress(&format!("round {} of {}", round + 1, self.time.rounds.max(1)));
            let serves: Vec<_> = serves.iter().chain(&signer).collect();
            let time = (self.time.warm_up, self.time.duration);
            rounds.push(direct.run(&serves, &requests, self.requests, pressure, time)?);
            crypto_cpu.push(contained()?);
        }
        let crypto_cpu_us: Vec<f64> = crypto_cpu.iter().map(|c| c.as_secs_f64() * 1e6).collect();
        let service_cpu_us = median(rounds.iter().filter_map(|r| r.service_cpu_us));
        let crypto_us = median(crypto_cpu_us.iter().copied()).unwrap_or_default();
        let report = DirectReport {
            sealed: !self.plain,
            services: self.company.services,
            subjects: self.company.subjects,
            instances: serves.len(),
            requests: self.requests,
            pressure,
            per_second: median(rounds.iter().map(|r| r.per_second)).unwrap_or_default(),
            ratio: service_cpu_us.map(|us| us / crypto_us),
            service_cpu_us,
            crypto_us,
            crypto_cpu_us,
            rounds,
        };
        for serve in serves.into_iter().chain(signer) {
            serve.stop()?;
        }
        Ok(match self.format {
            Format::Json => common::json(&report),
            Format::Text => report.text(),
        })
    }
}

impl DirectReport {
    fn text(&self) -> String {
        let mut text = String::new();
        for round in &self.rounds {
            text += &format!(
                "{:.0}/s, p50 {:.2} ms, p99 {:.2} ms, max {:.1} ms, CPU of the service {:.1} us, \
                 of the generator {:.1} us, late {}\n",
                round.per_second,
                round.latency.p50_ms,
                round.latency.p99_ms,
                round.latency.max_ms,
                round.service_cpu_us.unwrap_or_default(),
                round.generator_cpu_us.unwrap_or_default(),
                round.late,
            );
        }
        text += &format!("cryptography alone: {:.1?} us\n", self.crypto_cpu_us);
        text += &format!(
            "median: {:.0}/s, {:.1} us of CPU each, {:.2} times the cryptography\n",
            self.per_second,
            self.service_cpu_us.unwrap_or_default(),
            self.ratio.unwrap_or_default()
        );
        text
    }
}

/// Let real NKEY clients connect through a real nats-server.
///
/// In turn against solewriter, against a callout that signs a fixed grant and does nothing else
/// (the ceiling), and against the server alone with the same users in its configuration (the
/// floor).
#[derive(Args)]
struct ConnectCommand {
    #[command(flatten)]
    company: CompanyArgs,
    /// Requests and answers in the clear, instead of sealed.
    #[arg(long)]
    plain: bool,
    /// Who decides; several, separated by commas, take turns.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "WHO",
        default_value = "solewriter,ceiling,static-users"
    )]
    against: Vec<Against>,
    /// Closed loop: so many clients, each of which connects again as soon as it stood.
    #[arg(long, value_name = "NUMBER", default_value_t = 64, conflicts_with_all = ["rate", "storm"])]
    concurrency: usize,
    /// Open loop: so many connections a second, latencies counted from when each was due.
    #[arg(long, value_name = "PER-SECOND", conflicts_with = "storm")]
    rate: Option<f64>,
    /// So many clients that stand lose their server, and all come back at once.
    #[arg(long, value_name = "CLIENTS")]
    storm: Option<usize>,
    /// The clients of the storm lose their connections because the server reads its configuration
    /// again (SIGHUP), and not because it restarts. Who is let in by the server alone loses none, so
    /// `static-users` is left out.
    #[arg(long, requires = "storm")]
    reload: bool,
    /// How long a client of the storm waits to be let in before it tries again: nats.js 20 s,
    /// nats.go and nats.py 2 s.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = common::duration, requires = "storm")]
    patience: Duration,
    /// `serve` processes.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    instances: usize,
    /// Version of nats-server; the newest that is at hand if none is given.
    #[arg(long, value_name = "VERSION")]
    nats_server: Option<String>,
    #[command(flatten)]
    time: TimeArgs,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Further arguments for `solewriter serve`, after `--`.
    #[arg(last = true, value_name = "SERVE-ARGUMENTS")]
    serve: Vec<String>,
}

#[derive(Serialize)]
struct ConnectRound {
    against: Against,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<real_clients::Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storm: Option<Storm>,
}

impl ConnectCommand {
    fn run(self) -> Result<String, Error> {
        solewriter::cli::runtime()?.block_on(self.measure())
    }

    async fn measure(self) -> Result<String, Error> {
        progress("making a policy and keys");
        let company = self.company.make()?;
        let stage = Arc::new(Testbed::set(company, !self.plain)?);
        let mut rounds = Vec::new();
        for round in 1..=self.time.rounds.max(1) {
            let loses = |against: &&Against| !self.reload || **against != Against::StaticUsers;
            for against in self.against.iter().filter(loses) {
                progress(&format!("round {round} of {}, {against:?}", self.time.rounds.max(1)));
                let version = self.nats_server.clone();
                let (against, instances) = (*against, self.instances.max(1));
                let mut theatre =
                    ServerTestbed::open(stage.clone(), against, instances, version, &self.serve)
                        .await?;
                let mut found = ConnectRound { against, connections: None, storm: None };
                if let Some(clients) = self.storm {
                    let upset = if self.reload { Upset::Reload } else { Upset::Restart };
                    found.storm = Some(theatre.storm(clients, self.patience, upset).await?);
                } else {
                    let pressure = match self.rate {
                        Some(rate) => Pressure::Rate(rate),
                        None => Pressure::Concurrency(self.concurrency),
                    };
                    let time = (self.time.warm_up, self.time.duration);
                    found.connections = Some(theatre.run(pressure, time).await?);
                }
                theatre.close().await?;
                rounds.push(found);
            }
        }
        Ok(match self.format {
            Format::Json => common::json(&rounds),
            Format::Text => rounds.iter().map(ConnectRound::text).collect(),
        })
    }
}

impl ConnectRound {
    fn text(&self) -> String {
        let micros = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| format!("{us:.0}"));
        if let Some(storm) = &self.storm {
            return format!(
                "{:?}: {} clients back in {:.2} s, p50 {:.0} ms, {} attempts failed, {} clients \
                 refused twice in a row\n",
                self.against,
                storm.clients,
                storm.seconds,
                storm.latency.p50_ms,
                storm.retries,
                storm.gave_up
            );
        }
        let Some(run) = &self.connections else { return String::new() };
        format!(
            "{:?}: {:.0} connections/s, {} failed, p50 {:.2} ms, p99 {:.2} ms, CPU each: server {} \
             us, callout {} us, clients {} us\n",
            self.against,
            run.per_second,
            run.failed,
            run.latency.p50_ms,
            run.latency.p99_ms,
            micros(run.server_cpu_us),
            micros(run.service_cpu_us),
            micros(run.generator_cpu_us),
        )
    }
}

/// Run the whole comparison and write docs/performance.md.
///
/// Takes about 20 minutes. Results are kept in DOCS/performance/report.json as they come; a run that
/// was stopped goes on from there, and one that is to begin anew needs that file gone.
#[derive(Args)]
struct ReportCommand {
    /// The folder of the documentation.
    #[arg(long, value_name = "DOCS", default_value = "docs")]
    docs: PathBuf,
    /// Write the page from the results that are there, and measure nothing.
    #[arg(long)]
    render: bool,
    /// Only see that everything works: tiny, and its figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// Version of nats-server.
    #[arg(long, value_name = "VERSION")]
    nats_server: Option<String>,
}

impl ReportCommand {
    fn run(self) -> Result<String, Error> {
        let file = self.docs.join("performance").join("report.json");
        let report: Report = if self.render {
            serde_json::from_slice(&std::fs::read(&file)?)?
        } else {
            let effort = if self.quick { Effort::QUICK } else { Effort::FULL };
            Run::begin(&file, effort, self.nats_server)?.finish()?
        };
        write_pages(&self.docs)?;
        Ok(judged(&report.goals()))
    }
}

/// Makes the page and its plots from the results that are there.
fn write_pages(docs: &Path) -> Result<(), Error> {
    let folder = docs.join("performance");
    let report: Report = serde_json::from_slice(&std::fs::read(folder.join("report.json"))?)?;
    let beside = Beside::kept(&folder)?;
    let mut pages = report.pages(&beside);
    pages.push(("sizing.md".to_owned(), report.sizing(&beside)));
    for (name, text) in pages {
        std::fs::write(docs.join(name), text)?;
    }
    Ok(())
}

/// Keeps the results of one part in DOCS/performance, and makes the page anew if there is one.
fn keep(docs: &Path, name: &str, results: &impl Serialize) -> Result<(), Error> {
    let folder = docs.join("performance");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join(name), common::json(results))?;
    if folder.join("report.json").exists() { write_pages(docs) } else { Ok(()) }
}

/// Goals as lines: met, not met, not measured.
fn judged(goals: &[Goal]) -> String {
    let line = |goal: &Goal| {
        let met = match goal.met {
            None => "not measured",
            Some(true) => "met",
            Some(false) => "NOT MET",
        };
        let given = if goal.same_run { "" } else { " (against a given figure)" };
        format!("{met:<13}{}: {}{given}\n", goal.goal, goal.found)
    };
    goals.iter().map(line).collect()
}

/// Publish to a stream and consume it, through the import of the state account and directly in
/// that account, and add what it shows to docs/performance.md. Takes a minute.
#[derive(Args)]
struct StreamsCommand {
    /// Rounds, each in both places.
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    rounds: usize,
    /// Messages with 64 in flight; a tenth of it with one.
    #[arg(long, value_name = "NUMBER", default_value_t = 30_000)]
    messages: usize,
    /// The folder of the documentation, to which DOCS/performance/streams.json is written.
    #[arg(long, value_name = "DOCS", default_value = "docs")]
    docs: PathBuf,
    /// Version of nats-server.
    #[arg(long, value_name = "VERSION")]
    nats_server: Option<String>,
}

impl StreamsCommand {
    fn run(self) -> Result<String, Error> {
        let plan = streams::Plan {
            rounds: self.rounds,
            messages: self.messages,
            nats_server: self.nats_server,
        };
        let streams = solewriter::cli::runtime()?.block_on(streams::run(plan))?;
        keep(&self.docs, "streams.json", &streams)?;
        Ok(common::json(&streams.rounds))
    }
}

/// Have nats-server list its open connections, as a sweep does and by small pages, and add what it
/// shows to docs/performance.md and docs/sizing.md. Takes two minutes.
#[derive(Args)]
struct ListingCommand {
    /// Open connections.
    #[arg(long, value_name = "NUMBER", default_value_t = 18_000)]
    connections: usize,
    /// Rounds, each in both ways.
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    rounds: usize,
    /// The folder of the documentation, to which DOCS/performance/listing.json is written.
    #[arg(long, value_name = "DOCS", default_value = "docs")]
    docs: PathBuf,
    /// Version of nats-server.
    #[arg(long, value_name = "VERSION")]
    nats_server: Option<String>,
}

impl ListingCommand {
    fn run(self) -> Result<String, Error> {
        let plan = listing::Plan {
            connections: self.connections,
            rounds: self.rounds,
            nats_server: self.nats_server,
        };
        let listings = solewriter::cli::runtime()?.block_on(listing::run(plan))?;
        keep(&self.docs, "listing.json", &listings)?;
        Ok(common::json(&listings.rounds))
    }
}

/// Measure what a change of one service costs in a large policy, and add what it shows to
/// docs/performance.md. Takes four minutes.
#[derive(Args)]
struct ChangeCommand {
    /// Services in the policy.
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000)]
    services: usize,
    /// How often each is done.
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    rounds: usize,
    /// The folder of the documentation, to which DOCS/performance/change.json is written.
    #[arg(long, value_name = "DOCS", default_value = "docs")]
    docs: PathBuf,
}

impl ChangeCommand {
    fn run(self) -> Result<String, Error> {
        let changes = change::run(&change::Plan { services: self.services, rounds: self.rounds })?;
        keep(&self.docs, "change.json", &changes)?;
        Ok(common::json(&changes.rounds))
    }
}

/// Let a callout answer in many ways, measure what each costs nats-server, and add that to
/// docs/performance.md. Takes a quarter of an hour.
#[derive(Args)]
struct ServedCommand {
    /// Rounds, in each of which every answer has its turn.
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    rounds: usize,
    /// How long a turn takes.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = common::duration)]
    turn: Duration,
    /// How many subjects an answer has, with commas between them.
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS", default_value = "20,500,2400")]
    subjects: Vec<usize>,
    /// The folder of the documentation, to which DOCS/performance/served.json is written.
    #[arg(long, value_name = "DOCS", default_value = "docs")]
    docs: PathBuf,
    /// Versions of nats-server, with commas between them; the first and the last supported one if
    /// none is given.
    #[arg(long, value_delimiter = ',', value_name = "VERSIONS")]
    nats_server: Vec<String>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl ServedCommand {
    fn run(self) -> Result<String, Error> {
        let plan = served::Plan {
            rounds: self.rounds.max(1),
            turn: self.turn,
            subjects: self.subjects,
            nats_servers: self.nats_server,
        };
        let served = solewriter::cli::runtime()?.block_on(served::run(plan))?;
        keep(&self.docs, "served.json", &served)?;
        Ok(match self.format {
            Format::Json => common::json(&served.servers),
            Format::Text => judged(&served.goals()),
        })
    }
}

/// Simulate servers with very many open connections, take something from one service after the other,
/// and add what it shows to docs/performance.md. Takes some minutes.
#[derive(Args)]
struct SweepsCommand {
    /// Open connections, 40 of each service, on three servers.
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000)]
    connections: usize,
    /// Services that lose something, one after the other.
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    changes: usize,
    /// Looks at all connections to wait for while nothing changes.
    #[arg(long, value_name = "NUMBER", default_value_t = 4)]
    looks: u64,
    /// The folder of the documentation, to which DOCS/performance/sweeps.json is written.
    #[arg(long, value_name = "DOCS", default_value = "docs")]
    docs: PathBuf,
    /// Version of nats-server.
    #[arg(long, value_name = "VERSION")]
    nats_server: Option<String>,
    /// From one look to the next. The goal is for what is the default of `[sessions] every`, too.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = common::duration)]
    every: Duration,
}

impl SweepsCommand {
    fn run(self) -> Result<String, Error> {
        let plan = sweeps::Plan {
            connections: self.connections,
            changes: self.changes,
            looks: self.looks,
            nats_server: self.nats_server,
            every: self.every,
        };
        let sweeps = solewriter::cli::runtime()?.block_on(sweeps::run(plan))?;
        keep(&self.docs, "sweeps.json", &sweeps)?;
        Ok(common::json(&sweeps))
    }
}

/// Run at half of what the machine carries for long, with changes of the policy and restarts of
/// nats-server, and add what it shows to docs/performance.md.
#[derive(Args)]
struct SoakCommand {
    /// How long.
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = common::duration)]
    duration: Duration,
    /// Services in the policy.
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    services: usize,
    /// How long the capacity is looked for before.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = common::duration)]
    calibrate: Duration,
    /// Connections to offer, instead of half of that capacity.
    #[arg(long, value_name = "PER-SECOND")]
    rate: Option<f64>,
    /// The folder of the documentation, to which DOCS/performance/soak.json is written.
    #[arg(long, value_name = "DOCS", default_value = "docs")]
    docs: PathBuf,
    /// Version of nats-server.
    #[arg(long, value_name = "VERSION")]
    nats_server: Option<String>,
}

impl SoakCommand {
    fn run(self) -> Result<String, Error> {
        let plan = soak::Plan {
            length: self.duration,
            services: self.services,
            calibrate: self.calibrate,
            rate: self.rate,
            nats_server: self.nats_server,
        };
        let soak = solewriter::cli::runtime()?.block_on(soak::run(plan))?;
        keep(&self.docs, "soak.json", &soak)?;
        Ok(judged(&soak.goals()))
    }
}

/// A callout that lets everybody in, for comparison alone.
#[derive(Args)]
struct Ceiling {
    /// The settings file.
    #[arg(long)]
    config: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
}

impl Ceiling {
    fn run(self) -> Result<String, Error> {
        let loaded = config::load(&self.config, &self.overrides);
        let (settings, _) = loaded.map_err(|problems| problems.render(common::style()))?;
        let [tenant] = settings.tenants.as_slice() else {
            return Err("this measures one policy, and the settings have tenants".into());
        };
        let PolicySource::Directory(directory) = &tenant.policy.source else {
            return Err("the policy has to be in a directory".into());
        };
        let files = Directory::new(directory).read();
        let validated = files.and_then(|files| validate_for(&files, &tenant.defaults.audit));
        let policy = validated.map_err(|problems| problems.summary())?.policy;
        let service = policy.services().first().ok_or("the policy has no service")?;
        let grant = Grant::of(service, &tenant.defaults)?.written()?;
        ceiling::run(settings, Arc::new(grant))?;
        Ok(String::new())
    }
}
