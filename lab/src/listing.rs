//! What it costs nats-server to list its open connections, as a sweep has it do: by pages of the size
//! that `serve` takes, and by small ones.

use std::time::Duration;

use serde_json::json;

use super::results::{self, Listing, ListingRound, Listings, Machine};
use super::{Error, progress};
use crate::fixture_policy::{CLIENTS, FixturePolicy};
use crate::real_clients::{Against, ServerTestbed};
use crate::testbed::Testbed;
use solewriter::nats::AccountIds;
use solewriter::nats::connect::INBOX;
use solewriter::sessions::system_api::System;
use solewriter_sandbox::{NEWEST, cpu_usage};

/// The account that services are placed in.
const ACCOUNT: &str = "APP";
/// A small page.
const SMALL: usize = 256;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many connections are open.
    pub connections: usize,
    /// Rounds, each in both ways.
    pub rounds: usize,
    /// nats-server's version.
    pub nats_server: Option<String>,
}

/// Measures it.
///
/// # Errors
/// When something does not start, or connections are left out.
pub async fn run(plan: Plan) -> Result<Listings, Error> {
    let nats_server = plan.nats_server.unwrap_or_else(|| NEWEST.to_owned());
    let mut listings = Listings {
        machine: Machine::here(nats_server.clone()),
        date: results::now(),
        load_before: results::load_average(),
        rounds: Vec::new(),
    };
    let stage = std::sync::Arc::new(Testbed::set(FixturePolicy::new(20, 20, CLIENTS)?, true)?);
    let server =
        ServerTestbed::open(stage.clone(), Against::Solewriter, 1, Some(nats_server), &[]).await?;
    progress(&format!("{} connections are made", plan.connections));
    let standing = server.stand(plan.connections).await?;
    let seed = stage.secret("system.nk")?.to_string();
    let options = async_nats::ConnectOptions::with_nkey(seed).custom_inbox_prefix(INBOX);
    let client = options.connect(server.server.client_url()).await?;
    let system = System::new(client.clone(), AccountIds::default());
    let servers = system.servers().await?.servers;
    let id = &servers.first().ok_or("the server does not say that it is there")?.id;
    for round in 1..=plan.rounds.max(1) {
        progress(&format!("round {round} of {}", plan.rounds.max(1)));
        let small = measured(&server, async || by_small_pages(&client, id).await).await?;
        let serve = measured(&server, async || {
            let mut listed = 0;
            system.connections(id, ACCOUNT, |_| listed += 1).await?;
            Ok(listed)
        })
        .await?;
        for listing in [small, serve] {
            if listing.connections < plan.connections {
                return Err(format!("{} were listed", listing.connections).into());
            }
        }
        listings.rounds.push(ListingRound { small, serve });
    }
    drop((standing, client));
    server.close().await?;
    Ok(listings)
}

/// What a listing takes, of both.
async fn measured(
    server: &ServerTestbed,
    list: impl AsyncFnOnce() -> Result<usize, Error>,
) -> Result<Listing, Error> {
    let usage = || {
        let of = |pid| cpu_usage::of(pid).map(|usage| usage.cpu).ok_or("no CPU time to be had");
        let server = server.server.pid().ok_or("the server is gone")?;
        Ok::<[Duration; 2], Error>([of(server)?, of(std::process::id())?])
    };
    let (before, began) = (usage()?, std::time::Instant::now());
    let connections = list().await?;
    let (seconds, after) = (began.elapsed().as_secs_f64(), usage()?);
    let ([server, own], [server_now, own_now]) = (before, after);
    let server_cpu = server_now.saturating_sub(server).as_secs_f64();
    let own_cpu = own_now.saturating_sub(own).as_secs_f64();
    Ok(Listing { connections, seconds, server_cpu, own_cpu })
}

async fn by_small_pages(client: &async_nats::Client, id: &str) -> Result<usize, Error> {
    let mut listed = 0;
    loop {
        let question = json!({"auth": true, "acc": ACCOUNT, "limit": SMALL, "offset": listed});
        let subject = format!("$SYS.REQ.SERVER.{id}.CONNZ");
        let answer = client.request(subject, question.to_string().into()).await?;
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload)?;
        let page = answer.pointer("/data/connections").and_then(|page| page.as_array());
        let page = page.map_or(0, Vec::len);
        listed += page;
        if page < SMALL {
            return Ok(listed);
        }
    }
}
