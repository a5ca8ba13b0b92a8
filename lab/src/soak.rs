//! A long run at half of what the machine carries: real clients, a policy that changes, a server
//! that restarts. Memory has to stay where it is, and nobody may be refused.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::direct::{Pressure, count};
use super::latency::Latencies;
use super::report::MANY;
use super::results::{self, Machine, Sample, Soak};
use super::{Error, progress};
use crate::fixture_policy::{CLIENTS, FixturePolicy};
use crate::real_clients::{Against, JITTER, PATIENCE, PAUSE, ServerTestbed, enter};
use crate::testbed::{Serve, Testbed};
use solewriter_sandbox::NEWEST;
use solewriter_sandbox::cpu_usage;

/// Points of the plots.
const SAMPLES: u32 = 180;
/// Changes of the policy in the whole run, and restarts of the server.
const RELOADS: u32 = 60;
const RESTARTS: u32 = 6;
/// How long after a restart a client may have met a server that had nobody to ask yet: as long as
/// the server lets it wait (`authorization { timeout }`), and a little.
const AFTERMATH: Duration = Duration::from_secs(12);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long.
    pub length: Duration,
    /// Services in the policy.
    pub services: usize,
    /// How long the capacity is looked for before.
    pub calibrate: Duration,
    /// Connections per second to offer, instead of half of that capacity.
    pub rate: Option<f64>,
    /// nats-server's version.
    pub nats_server: Option<String>,
}

/// What the clients' tasks share.
struct Shared {
    stage: Arc<Testbed>,
    address: std::net::SocketAddr,
    began: Instant,
    running: AtomicBool,
    /// Until when (in milliseconds since the beginning) what fails is the restart's doing.
    forgiven: AtomicU64,
    connected: AtomicU64,
    failed: AtomicU64,
    retried: AtomicU64,
    recent: Mutex<Latencies>,
    first: Mutex<Option<String>>,
}

impl Shared {
    fn forgiven(&self, at: Instant) -> bool {
        let at = at.saturating_duration_since(self.began).as_millis();
        at <= u128::from(self.forgiven.load(Ordering::Relaxed))
    }

    /// One client, which comes until it is let in.
    async fn client(&self, number: usize, due: Instant) {
        let clients = &self.stage.company.clients;
        let Some(client) = clients.get(number % clients.len().max(1)) else { return };
        loop {
            let tried = Instant::now();
            let error = match timeout(PATIENCE, enter(self.address, client)).await {
                Ok(Ok(stream)) => {
                    let _ = stream.set_zero_linger();
                    self.connected.fetch_add(1, Ordering::Relaxed);
                    let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
                    return recent.record(due.elapsed());
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it took too long".to_owned(),
            };
            if !self.forgiven(tried) && !self.forgiven(Instant::now()) {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(error);
                return;
            }
            self.retried.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE + JITTER.mul_f64(rand::random())).await;
        }
    }

    async fn keep_rate(self: Arc<Self>, rate: f64) {
        let apart = Duration::from_secs_f64(1.0 / rate.max(0.01));
        let mut tasks = JoinSet::new();
        let (began, mut number) = (Instant::now(), 0_u32);
        while self.running.load(Ordering::Relaxed) {
            let due = began + apart * number;
            sleep_until(due).await;
            let shared = self.clone();
            let client = usize::try_from(number).unwrap_or_default();
            tasks.spawn(async move { shared.client(client, due).await });
            while tasks.try_join_next().is_some() {}
            number = number.wrapping_add(1);
        }
        tasks.join_all().await;
    }
}

/// Runs it.
///
/// # Errors
/// When something does not start or stop. What fails on the way is a result.
pub async fn run(plan: Plan) -> Result<Soak, Error> {
    let stage = Arc::new(Testbed::set(FixturePolicy::new(plan.services, 20, CLIENTS)?, true)?);
    let version = plan.nats_server.clone().unwrap_or_else(|| NEWEST.to_owned());
    let theatre =
        ServerTestbed::open(stage.clone(), Against::Solewriter, 1, Some(version.clone()), &[])
            .await?;
    progress("looking for the capacity");
    let time = (plan.calibrate / 5, plan.calibrate);
    let capacity = theatre.run(Pressure::Concurrency(MANY), time).await?.per_second;
    let soak = Soak {
        machine: Machine::here(version),
        date: results::now(),
        seconds: plan.length.as_secs_f64(),
        capacity,
        rate: plan.rate.unwrap_or(capacity / 2.0),
        ..Soak::default()
    };
    let shared = Arc::new(Shared {
        stage,
        address: theatre.address,
        began: Instant::now(),
        running: AtomicBool::new(true),
        forgiven: AtomicU64::new(0),
        connected: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        retried: AtomicU64::new(0),
        recent: Mutex::default(),
        first: Mutex::default(),
    });
    watch(theatre, &shared, soak, plan.length).await
}

/// Keeps the load up, and looks at it, for so long.
async fn watch(
    mut theatre: ServerTestbed,
    shared: &Arc<Shared>,
    mut soak: Soak,
    length: Duration,
) -> Result<Soak, Error> {
    let clients = tokio::spawn(shared.clone().keep_rate(soak.rate));
    let step = length / SAMPLES;
    let mut before = 0;
    for number in 1..=SAMPLES {
        sleep_until(shared.began + step * number).await;
        if number % (SAMPLES / RELOADS) == 0 {
            change_policy(&shared.stage, number)?;
        }
        // Not at the very end, so that it is seen what comes of the last.
        if number % (SAMPLES / RESTARTS) == SAMPLES / RESTARTS / 2 {
            shared.forgiven.store(u64::MAX, Ordering::Relaxed);
            theatre.server.restart().await?;
            let until = (shared.began.elapsed() + AFTERMATH).as_millis();
            shared.forgiven.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
            soak.restarts += 1;
        }
        let connected = shared.connected.load(Ordering::Relaxed);
        let recent =
            std::mem::take(&mut *shared.recent.lock().unwrap_or_else(PoisonError::into_inner));
        let rss = |usage: Option<cpu_usage::Usage>| usage.map_or(0, |usage| usage.rss);
        let sample = Sample {
            at: shared.began.elapsed().as_secs_f64(),
            service_rss: theatre.serves.iter().map(|serve| rss(serve.usage())).sum(),
            server_rss: rss(theatre.server.pid().and_then(cpu_usage::of)),
            per_second: count(connected - before) / step.as_secs_f64().max(0.001),
            p99_ms: recent.summary().p99_ms,
        };
        before = connected;
        soak.samples.push(sample);
        soak.reloads += theatre.serves.iter().map(Serve::policy_changes).sum::<u64>();
        if number % (SAMPLES / 30) == 0 {
            progress(&format!(
                "[{:>5.0} s of {:.0}] {:.0}/s, p99 {:.1} ms, {:.1} MB, {} failed",
                sample.at,
                soak.seconds,
                sample.per_second,
                sample.p99_ms,
                count(sample.service_rss) / 1e6,
                shared.failed.load(Ordering::Relaxed)
            ));
        }
    }
    shared.running.store(false, Ordering::Relaxed);
    clients.await?;
    soak.connected = shared.connected.load(Ordering::Relaxed);
    soak.failed = shared.failed.load(Ordering::Relaxed);
    soak.retried = shared.retried.load(Ordering::Relaxed);
    if let Some(first) = shared.first.lock().unwrap_or_else(PoisonError::into_inner).take() {
        progress(&format!("the first that failed: {first}"));
    }
    theatre.close().await?;
    Ok(soak)
}

fn change_policy(stage: &Testbed, number: u32) -> std::io::Result<()> {
    let file = stage.deployment.policy().join("changes.toml");
    std::fs::write(file, format!("[bucket.changes{number}]\n"))
}
