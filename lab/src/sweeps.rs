//! What it costs to keep very many open connections to the policy, and how fast a change reaches those
//! of one service: `serve`, a real server, and three simulated ones ([`crate::simulated`]) that have
//! the connections.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::results::{self, Machine, Revocation, SteadyLooks, Sweeps};
use super::{Error, progress};
use crate::fixture_policy::FixturePolicy;
use crate::real_clients::{Against, ServerTestbed};
use crate::simulated::{Asked, Simulated};
use crate::testbed::{Serve, Testbed, replace};
use solewriter_core::callout::issue::ConnectionName;
use solewriter_core::keys::{Seed, Signer, User};
use solewriter_sandbox::NEWEST;

/// Servers that have the connections.
const SERVERS: usize = 3;
/// Connections of each service.
const EACH: usize = 40;
/// How long permissions last: nothing ends while this goes on.
const LASTS: i64 = 24 * 3600;
/// How long anything may take before the run fails.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many connections are open.
    pub connections: usize,
    /// How many services lose something, one after the other.
    pub changes: usize,
    /// How many looks at all connections are waited for while nothing changes.
    pub looks: u64,
    /// nats-server's version.
    pub nats_server: Option<String>,
    /// From one look to the next (`[sessions] every`).
    pub every: Duration,
}

/// Measures it.
///
/// # Errors
/// When something does not start, or another connection is closed than what is to be.
pub async fn run(plan: Plan) -> Result<Sweeps, Error> {
    let nats_server = plan.nats_server.unwrap_or_else(|| NEWEST.to_owned());
    let services = plan.connections.div_ceil(EACH);
    let mut sweeps = Sweeps {
        machine: Machine::here(nats_server.clone()),
        date: results::now(),
        load_before: results::load_average(),
        connections: services * EACH,
        servers: SERVERS,
        each: EACH,
        ..Sweeps::default()
    };
    let stage = Arc::new(Testbed::set(FixturePolicy::new(services, 20, services)?, true)?);
    let seed = let_somebody_answer(&stage)?;
    let mut server =
        ServerTestbed::open(stage.clone(), Against::Solewriter, 0, Some(nats_server), &[]).await?;
    progress(&format!("{} connections are made up", sweeps.connections));
    let asked = Arc::new(Asked::default());
    let mut servers = Vec::new();
    for (number, names) in names(&stage)?.iter().enumerate() {
        let client = async_nats::ConnectOptions::with_nkey(seed.expose().to_owned());
        let client = client.connect(server.server.client_url()).await?;
        let place = (number, SERVERS);
        servers.push(Simulated::begin(client, place, "APP", names, asked.clone()).await?);
    }
    let (with, url) = (stage.clone(), server.server.client_url().to_owned());
    let arguments = ["--sessions-every".to_owned(), format!("{}s", plan.every.as_secs())];
    // Longer than from one of the looks after a start or a change to the next.
    let pause = plan.every * 2 / 3;
    let serve = tokio::task::spawn_blocking(move || with.serve(&url, 0, &arguments)).await??;
    server.serves.push(serve);
    let usage = || {
        let serve = server.serves.first().and_then(Serve::usage);
        serve.ok_or("no CPU time to be had")
    };

    // Until the first looks are over, which are close together.
    quiet(&asked, pause).await?;
    progress(&format!("{} looks while nothing changes", plan.looks));
    let (began, before, counted) = (Instant::now(), usage()?, asked.counts());
    for _ in 0..plan.looks {
        next_look(&asked, pause).await?;
    }
    let (seconds, after) = (began.elapsed().as_secs_f64(), usage()?);
    let [pages, bytes, sent] = since(&asked, counted);
    sweeps.steady = SteadyLooks {
        seconds,
        looks: plan.looks,
        own_cpu: after.cpu.saturating_sub(before.cpu).as_secs_f64(),
        rss: after.peak_rss,
        pages,
        bytes,
        sent,
    };
    for number in 0..plan.changes {
        let loser = stage.company.clients.get(number * services / plan.changes.max(1));
        let loser = &loser.ok_or("there are fewer services than changes")?.service;
        progress(&format!("change {} of {}", number + 1, plan.changes));
        // Whatever it is doing then.
        sleep(Duration::from_secs(2).mul_f64(rand::random())).await;
        let counted = asked.counts();
        stage.take_from(loser)?;
        let written = Instant::now();
        let all = async {
            loop {
                let closed = asked.closed(loser);
                if closed.len() >= EACH {
                    return closed;
                }
                sleep(LOOK_AGAIN).await;
            }
        };
        let closed = timeout(PATIENCE, all).await.map_err(|_| format!("{loser} keeps some"))?;
        let last = closed.iter().max().map_or(Duration::MAX, |last| *last - written);
        let [pages, ..] = since(&asked, counted);
        sweeps.revocations.push(Revocation { seconds: last.as_secs_f64(), pages });
    }
    quiet(&asked, pause).await?;
    if asked.closed_in_all() != plan.changes * EACH {
        return Err(format!("{} connections were closed", asked.closed_in_all()).into());
    }
    drop(servers);
    server.close().await?;
    Ok(sweeps)
}

/// What was asked since then.
fn since(asked: &Asked, before: [u64; 3]) -> [u64; 3] {
    let mut counts = asked.counts();
    for (count, before) in counts.iter_mut().zip(before) {
        *count -= before;
    }
    counts
}

/// Waits until nobody was asked for a list for so long: the quick looks are over.
async fn quiet(asked: &Asked, pause: Duration) -> Result<(), Error> {
    let over = async {
        let (mut pages, mut since) = (asked.counts()[0], Instant::now());
        while pages == 0 || since.elapsed() < pause {
            sleep(LOOK_AGAIN).await;
            let now = asked.counts()[0];
            if now != pages {
                (pages, since) = (now, Instant::now());
            }
        }
    };
    timeout(PATIENCE, over).await.map_err(|_| "there is no end of looks".into())
}

/// Waits for one look, and until it is over.
async fn next_look(asked: &Asked, pause: Duration) -> Result<(), Error> {
    let pages = asked.counts()[0];
    let begun = async {
        while asked.counts()[0] == pages {
            sleep(LOOK_AGAIN).await;
        }
    };
    timeout(PATIENCE, begun).await.map_err(|_| "there is no look")?;
    quiet(asked, pause).await
}

/// Somebody in the account that the system user asks may answer as a server does, and at length.
fn let_somebody_answer(stage: &Testbed) -> Result<Seed<User>, Error> {
    let seed = Seed::<User>::generate();
    let key = Signer::new(&seed)?.public().to_string();
    let file = stage.deployment.server_config();
    // The real one answers elsewhere: it would say that there is no other.
    replace(&file, "system_account: SYS", "system_account: ELSEWHERE")?;
    let accounts = format!("  ELSEWHERE {{}}\n  SYS {{\n    users: [ {{ nkey: {key} }} ]\n");
    replace(&file, "  SYS {\n", &accounts)?;
    replace(&file, "auth_users: [", &format!("auth_users: [ {key},"))?;
    replace(&file, "jetstream {", "max_payload: 32MB\nmax_pending: 128MB\njetstream {")?;
    Ok(seed)
}

/// The names of all connections, by server: those of each service are on all of them.
fn names(stage: &Testbed) -> Result<Vec<Vec<ConnectionName>>, Error> {
    let policy = stage.company.policy()?;
    let asked = jiff::Timestamp::now().as_second();
    let mut servers = vec![Vec::new(); SERVERS];
    for client in &stage.company.clients {
        let digest = stage.company.grant(client)?.digest().to_string();
        let name = ConnectionName {
            service: client.service.clone(),
            key: *client.signer.public(),
            revision: policy.revision().whole().to_owned(),
            digest: Some(digest),
            asked: Some(asked),
            expires: Some(asked + LASTS),
        };
        for (_, server) in (0..EACH).zip((0..SERVERS).cycle()) {
            servers.get_mut(server).ok_or("no such server")?.push(name.clone());
        }
    }
    Ok(servers)
}
