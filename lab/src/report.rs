//! The whole comparison, in one run: everything that `docs/performance.md` shows but the soak.
//!
//! Rounds take turns and medians are kept, so that what else a machine does spoils a round and not
//! the report. Each part is saved when it is done: a run that was stopped goes on from there.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::crypto::Crypto;
use super::direct::{Direct, Outcome, Pressure};
use super::request::{Kind, Minter, Request};
use super::results::{
    self, BESIDE_CHANGES, BESIDE_NOTHING, Connect, Goodput, Instances, Isolation, Machine, Misuse,
    Report, Scale,
};
use super::{Error, progress, replace_file};
use crate::fake_server::FakeServer;
use crate::fixture_policy::{CLIENTS, FixturePolicy};
use crate::real_clients::{Against, PATIENCE, ServerTestbed, Upset};
use crate::testbed::{Serve, Testbed};
use solewriter::audit::CAPACITY;
use solewriter_sandbox::NEWEST;
use solewriter_sandbox::cpu_usage;

/// In flight, where it says "many".
pub const MANY: usize = 64;
/// Clients of the open loop through a server, each second.
pub const OPEN_RATE: f64 = 500.0;
/// Multiples of the capacity that are offered.
const OFFERED: [f64; 8] = [0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0];

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Services in most policies.
    pub services: usize,
    /// Services in the largest.
    pub large: usize,
    /// Subjects in the largest grant.
    pub subjects: usize,
    /// Rounds.
    pub rounds: usize,
    /// Rounds through nats-server, with a storm in each.
    pub connect_rounds: usize,
    /// Length of a round.
    pub round: Duration,
    /// What runs before each.
    pub warm_up: Duration,
    /// Clients of the storm.
    pub storm: usize,
}

impl Effort {
    /// What the documentation shows.
    pub const FULL: Self = Self {
        services: 10_000,
        large: 100_000,
        subjects: 500,
        rounds: 4,
        connect_rounds: 5,
        round: Duration::from_secs(4),
        warm_up: Duration::from_secs(1),
        storm: 10_000,
    };
    /// Only to see that everything works.
    pub const QUICK: Self = Self {
        services: 20,
        large: 200,
        subjects: 30,
        rounds: 1,
        connect_rounds: 1,
        round: Duration::from_millis(300),
        warm_up: Duration::from_millis(100),
        storm: 20,
    };
}

/// Where results are kept.
pub struct Run {
    report: Report,
    effort: Effort,
    nats_server: String,
    file: PathBuf,
    began: Instant,
}

/// A deployment whose server is this process.
struct Rig {
    stage: Testbed,
    direct: Direct,
    crypto: Crypto,
    answer_bytes: usize,
    serves: Vec<Serve>,
}

impl Rig {
    fn new(company: FixturePolicy, sealed: bool, instances: usize) -> Result<Self, Error> {
        let stage = Testbed::set(company, sealed)?;
        let broker = Arc::new(FakeServer::open()?);
        let minter = Arc::new(Minter::new(&stage)?);
        let serves: Vec<_> = (0..instances)
            .map(|number| stage.serve(&broker.url(), number, &[]))
            .collect::<Result<_, _>>()?;
        let direct = Direct { broker, minter };
        let (crypto, answer_bytes) = direct.crypto(&stage)?;
        Ok(Self { stage, direct, crypto, answer_bytes, serves })
    }

    fn requests(&self, kind: Kind) -> Result<Arc<Vec<Request>>, Error> {
        let many = self.stage.company.clients.len().max(100);
        Ok(Arc::new(self.direct.mint(&self.stage, kind, many)?))
    }

    fn run(
        &self,
        requests: &Arc<Vec<Request>>,
        kind: Kind,
        pressure: Pressure,
        time: (Duration, Duration),
    ) -> Result<Outcome, Error> {
        let serves: Vec<&Serve> = self.serves.iter().collect();
        self.direct.run(&serves, requests, kind, pressure, time)
    }

    fn close(self) -> Result<(), Error> {
        self.serves.into_iter().try_for_each(Serve::stop)
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Without its curve, which only some plots need.
fn plain(mut outcome: Outcome) -> Outcome {
    outcome.latency.curve.clear();
    outcome
}

impl Run {
    /// Goes on with what `file` has, or begins.
    ///
    /// # Errors
    /// When the file is there and is no report of this machine and version.
    pub fn begin(file: &Path, effort: Effort, nats_server: Option<String>) -> Result<Self, Error> {
        let nats_server = nats_server.unwrap_or_else(|| NEWEST.to_owned());
        let machine = Machine::here(nats_server.clone());
        let report = if file.exists() {
            let report: Report = serde_json::from_slice(&std::fs::read(file)?)?;
            if report.machine != machine {
                return Err(format!(
                    "{} is of another machine or version; remove it to begin anew",
                    file.display()
                )
                .into());
            }
            report
        } else {
            Report {
                machine,
                date: results::now(),
                load_before: results::load_average(),
                ..Report::default()
            }
        };
        Ok(Self { report, effort, nats_server, file: file.to_owned(), began: Instant::now() })
    }

    /// Measures what is not measured yet.
    ///
    /// # Errors
    /// When something does not work; what was measured before is kept.
    #[allow(clippy::type_complexity)]
    pub fn finish(mut self) -> Result<Report, Error> {
        let parts: [(&str, fn(&Self) -> bool, fn(&mut Self) -> Result<(), Error>); 8] = [
            (
                "straight to the service, in the clear",
                |r| r.report.direct.is_empty(),
                |r| r.direct(false),
            ),
            ("straight to the service, sealed", |r| r.report.direct.len() < 2, |r| r.direct(true)),
            ("more than it can carry", |r| r.report.goodput.is_empty(), Self::goodput),
            ("what is refused", |r| r.report.misuse.is_empty(), Self::misuse),
            ("beside slow neighbours", |r| r.report.isolation.is_empty(), Self::isolation),
            ("small and large policies", |r| r.report.scale.is_empty(), Self::scale),
            ("one instance and two", |r| r.report.instances.is_empty(), Self::instances),
            ("through nats-server", |r| r.report.connect.is_empty(), Self::connect),
        ];
        let count = parts.len();
        for (number, (name, wanted, part)) in parts.into_iter().enumerate() {
            if wanted(&self) {
                let at = self.report.seconds + self.began.elapsed().as_secs_f64();
                progress(&format!("[{at:>4.0} s] part {} of {count}: {name}", number + 1));
                part(&mut self)?;
                self.save()?;
            }
        }
        Ok(self.report)
    }

    fn save(&mut self) -> Result<(), Error> {
        self.report.seconds += self.began.elapsed().as_secs_f64();
        self.began = Instant::now();
        if let Some(folder) = self.file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut text = serde_json::to_string_pretty(&self.report)?;
        text.push('\n');
        Ok(replace_file(&self.file, &text)?)
    }

    fn time(&self) -> (Duration, Duration) {
        (self.effort.warm_up, self.effort.round)
    }

    fn company(&self) -> Result<FixturePolicy, Error> {
        FixturePolicy::new(self.effort.services, 20, CLIENTS)
    }

    fn direct(&mut self, sealed: bool) -> Result<(), Error> {
        let rig = Rig::new(self.company()?, sealed, 1)?;
        let requests = rig.requests(Kind::Good)?;
        let mut part = results::Direct {
            sealed,
            crypto_us: vec![micros(rig.crypto.cost()?)],
            sealing_us: if sealed { micros(rig.crypto.sealing_cost()?) } else { 0.0 },
            answer_bytes: rig.answer_bytes,
            ..results::Direct::default()
        };
        let run = |pressure| rig.run(&requests, Kind::Good, pressure, self.time());
        for _ in 0..self.effort.rounds {
            part.many.push(plain(run(Pressure::Concurrency(MANY))?));
            part.crypto_us.push(micros(rig.crypto.cost()?));
            part.one.push(plain(run(Pressure::Concurrency(1))?));
        }
        let half = part.per_second().unwrap_or_default() / 2.0;
        for _ in 0..self.effort.rounds {
            part.half.push(run(Pressure::Rate(half))?);
        }
        rig.close()?;
        self.report.direct.push(part);
        Ok(())
    }

    /// Requests a second that the service carries, sealed.
    fn capacity(&self) -> Result<f64, Error> {
        let sealed = self.report.direct.iter().find(|part| part.sealed);
        sealed.and_then(results::Direct::per_second).ok_or("no capacity was measured".into())
    }

    /// The service has processors of its own where there are two, so that what the generator takes
    /// for four times the load is not taken from it.
    fn goodput(&mut self) -> Result<(), Error> {
        let rig = Rig::new(self.company()?, true, 1)?;
        let requests = rig.requests(Kind::Good)?;
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let half = processors / 2;
        let serve = rig.serves.first().ok_or("no service")?.pid();
        let apart = processors > 1
            && cpu_usage::keep_on(serve, half..processors)
            && cpu_usage::keep_on(std::process::id(), 0..half);
        let run = |pressure| rig.run(&requests, Kind::Good, pressure, self.time()).map(plain);
        let mut points = Vec::new();
        let capacity = run(Pressure::Concurrency(MANY)).and_then(|outcome| {
            for times in OFFERED {
                let outcome = run(Pressure::Rate(outcome.per_second * times))?;
                points.push(Goodput { times, outcome });
            }
            Ok(outcome.per_second)
        });
        if apart && !cpu_usage::keep_on(std::process::id(), 0..processors) {
            return Err("the generator could not be given its processors back".into());
        }
        self.report.goodput_capacity = capacity?;
        self.report.goodput = points;
        rig.close()
    }

    fn misuse(&mut self) -> Result<(), Error> {
        let rig = Rig::new(self.company()?, true, 1)?;
        let kinds = [Kind::Good, Kind::UnknownKey, Kind::BadSignature, Kind::Forged];
        let mut parts = Vec::new();
        for kind in kinds {
            parts.push((Misuse { kind, cpu_us: Vec::new() }, rig.requests(kind)?));
        }
        // Half of what it carries: forged requests get no answer that could be waited for.
        let pressure = Pressure::Rate(self.capacity()? / 2.0);
        for _ in 0..self.effort.rounds {
            for (part, requests) in &mut parts {
                let outcome = rig.run(requests, part.kind, pressure, self.time())?;
                let each = outcome.sent.max(1);
                let cpu = outcome.service_processors.unwrap_or_default() * outcome.seconds * 1e6;
                part.cpu_us.push(cpu / super::direct::count(each));
            }
        }
        rig.close()?;
        self.report.misuse = parts.into_iter().map(|(part, _)| part).collect();
        Ok(())
    }

    fn isolation(&mut self) -> Result<(), Error> {
        let pressure = Pressure::Rate(self.capacity()? / 2.0);
        let rig = Rig::new(self.company()?, true, 1)?;
        let requests = rig.requests(Kind::Good)?;
        let run = || rig.run(&requests, Kind::Good, pressure, self.time()).map(plain);
        let mut found = Vec::new();
        let mut note = |beside: &str, outcome| {
            found.push(Isolation { beside: beside.to_owned(), outcome });
        };
        note(BESIDE_NOTHING, run()?);
        let address = rig.serves.first().and_then(Serve::http).ok_or("no address for metrics")?;
        note(BESIDE_CHANGES, beside(|stop| change_policy(&rig.stage, &address, stop), run)?);
        note(
            "200 metrics clients that ask and never read, or never finish asking",
            beside(|stop| hold_metrics(&address, stop), run)?,
        );
        let Rig { stage, direct, serves, .. } = rig;
        serves.into_iter().try_for_each(Serve::stop)?;
        let spool = stage.folder().join("spool");
        let arguments = ["--audit-spool".to_owned(), spool.display().to_string()];
        let serve = stage.serve(&direct.broker.url(), 1, &arguments)?;
        stop_disk(&spool)?;
        let outcome = direct.run(&[&serve], &requests, Kind::Good, pressure, self.time())?;
        let address = serve.http().ok_or("no address for metrics")?;
        // Nothing more is counted as written, and what waits has its bound.
        let recorded = metric(&address, "solewriter_audit_events_total")?;
        let written = metric(&address, "solewriter_audit_pending")?;
        let most = f64::from(u32::try_from(CAPACITY)?);
        if recorded < written + most && self.effort.round > Duration::from_secs(1) {
            return Err(
                format!("the disk did not stop: {written} of {recorded} events are on it").into()
            );
        }
        note("the disk with the audit spool, which takes nothing any more", plain(outcome));
        // It waits for that disk until it is killed.
        drop(serve);
        // Its log goes into a pipe that nobody empties, as on a disk that does not answer.
        let unread = stage.serve_unread(&direct.broker.url())?;
        direct.broker.wait(Duration::from_secs(60))?;
        let outcome = direct.run(&[&unread], &requests, Kind::Good, pressure, self.time())?;
        note("nobody reads the log, which is full", plain(outcome));
        drop(unread);
        self.report.isolation = found;
        Ok(())
    }

    fn scale(&mut self) -> Result<(), Error> {
        let Effort { services, large, subjects, rounds, .. } = self.effort;
        let clients = 10 * CLIENTS;
        let sizes =
            [(10, 20, 10), (services, 20, CLIENTS), (large, 20, clients), (10, subjects, 10)];
        for (services, subjects, clients) in sizes {
            progress(&format!("         {services} services, {subjects} subjects a grant"));
            let mut rig = Rig::new(FixturePolicy::new(services, subjects, clients)?, true, 1)?;
            let mut start_up = Vec::new();
            for _ in 1..rounds {
                let serve = rig.serves.pop().ok_or("no service")?;
                start_up.push(serve.started_in.as_secs_f64());
                serve.stop()?;
                rig.serves.push(rig.stage.serve(&rig.direct.broker.url(), 0, &[])?);
            }
            start_up.extend(rig.serves.iter().map(|serve| serve.started_in.as_secs_f64()));
            let rss = |rig: &Rig| -> u64 {
                rig.serves.iter().filter_map(Serve::usage).map(|usage| usage.rss).sum()
            };
            let rss_ready = rss(&rig);
            let requests = rig.requests(Kind::Good)?;
            let mut part = Scale {
                services,
                subjects,
                policy_bytes: rig.stage.company.policy_bytes(),
                start_up,
                rss_ready,
                clients: rig.stage.company.clients.len(),
                crypto_us: micros(rig.crypto.cost()?),
                answer_bytes: rig.answer_bytes,
                ..Scale::default()
            };
            let run = |pressure| rig.run(&requests, Kind::Good, pressure, self.time()).map(plain);
            // The first round answers every client once, and makes its grant.
            for _ in 0..rounds {
                part.many.push(run(Pressure::Concurrency(MANY))?);
                part.one.push(run(Pressure::Concurrency(1))?);
            }
            part.rss_after = rss(&rig);
            rig.close()?;
            self.report.scale.push(part);
        }
        Ok(())
    }

    fn instances(&mut self) -> Result<(), Error> {
        let mut found = Vec::new();
        for instances in [1, 2] {
            let rig = Rig::new(self.company()?, true, instances)?;
            let requests = rig.requests(Kind::Good)?;
            let mut rounds = Vec::new();
            for _ in 0..self.effort.rounds {
                let pressure = Pressure::Concurrency(MANY);
                rounds.push(plain(rig.run(&requests, Kind::Good, pressure, self.time())?));
            }
            rig.close()?;
            found.push(Instances { instances, rounds });
        }
        self.report.instances = found;
        Ok(())
    }

    fn connect(&mut self) -> Result<(), Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let stage = Arc::new(Testbed::set(self.company()?, true)?);
        let who = [Against::StaticUsers, Against::Ceiling, Against::Solewriter];
        let mut found: Vec<Connect> = who
            .into_iter()
            .map(|against| Connect {
                against,
                closed: Vec::new(),
                apart: Vec::new(),
                open: Vec::new(),
                storm: Vec::new(),
            })
            .collect();
        for round in 0..self.effort.connect_rounds {
            for part in &mut found {
                progress(&format!("         round {}, {:?}", round + 1, part.against));
                runtime.block_on(self.connect_round(&stage, part))?;
            }
        }
        self.report.connect = found;
        Ok(())
    }

    async fn connect_round(&self, stage: &Arc<Testbed>, part: &mut Connect) -> Result<(), Error> {
        let version = Some(self.nats_server.clone());
        let mut theatre = ServerTestbed::open(stage.clone(), part.against, 1, version, &[]).await?;
        let mut closed = theatre.run(Pressure::Concurrency(MANY), self.time()).await?;
        closed.latency.curve.clear();
        part.closed.push(closed);
        if part.against != Against::StaticUsers && theatre.keep_apart(true) {
            let mut apart = theatre.run(Pressure::Concurrency(MANY), self.time()).await?;
            apart.latency.curve.clear();
            part.apart.push(apart);
            if !theatre.keep_apart(false) {
                return Err("the processes could not be put together again".into());
            }
        }
        part.open.push(theatre.run(Pressure::Rate(OPEN_RATE), self.time()).await?);
        if part.against != Against::StaticUsers {
            part.storm.push(theatre.storm(self.effort.storm, PATIENCE, Upset::Restart).await?);
        }
        theatre.close().await
    }
}

/// Runs something beside a run, until that ends.
fn beside(
    neighbour: impl Fn(&AtomicBool) -> Result<(), Error> + Sync,
    run: impl FnOnce() -> Result<Outcome, Error>,
) -> Result<Outcome, Error> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let noise = scope.spawn(|| neighbour(&stop).map_err(|error| error.to_string()));
        let outcome = run();
        stop.store(true, Ordering::Relaxed);
        noise.join().map_err(|_| "what ran beside panicked")??;
        outcome
    })
}

/// Changes the policy again and again, and puts it back: seldom enough that judging it and the load
/// have room on two processors together.
fn change_policy(stage: &Testbed, address: &str, stop: &AtomicBool) -> Result<(), Error> {
    const LOADS: &str = "solewriter_policy_loads_total{outcome=\"accepted\"}";
    let file = stage.deployment.policy().join("changes.toml");
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        std::fs::write(&file, format!("[bucket.changes{number}]\n"))?;
        let next = Instant::now() + Duration::from_secs(2);
        while Instant::now() < next && !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(20));
        }
    }
    // What comes next begins when the last change is through.
    let (loads, deadline) = (metric(address, LOADS)?, Instant::now() + Duration::from_secs(30));
    std::fs::remove_file(&file)?;
    while metric(address, LOADS)? <= loads && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// From the next file of the audit spool on, nothing that is written to it ever ends: pipes that
/// nobody reads stand where the files would be.
fn stop_disk(spool: &Path) -> Result<(), Error> {
    const EVENTS: u64 = 6_000;
    let mut stuck = 0;
    for run in std::fs::read_dir(spool)? {
        let run = run?.path();
        let names = (2..EVENTS).map(|number| run.join(format!("{number:020}.jsonl")));
        let names: Vec<PathBuf> = names.filter(|path| !path.exists()).collect();
        for names in names.chunks(1_000) {
            let status = Command::new("mkfifo").args(names).status()?;
            stuck += if status.success() { names.len() } else { 0 };
        }
    }
    if stuck == 0 { Err("there is no audit spool to stop".into()) } else { Ok(()) }
}

/// The value of a metric, given with its labels; 0 while there is none.
fn metric(address: &str, name: &str) -> Result<f64, Error> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.map_or(Ok(0.0), str::parse)?)
}

/// Holds connections to the metrics listener: half of them ask and never read, half never finish
/// asking.
fn hold_metrics(address: &str, stop: &AtomicBool) -> Result<(), Error> {
    let mut held = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(address)?;
        let request: &[u8] = if number % 2 == 0 {
            b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\nGET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
        } else {
            b"GET /metrics HTTP/1.1\r\nHo"
        };
        stream.write_all(request)?;
        held.push(stream);
    }
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(20));
    }
    drop(held);
    Ok(())
}
