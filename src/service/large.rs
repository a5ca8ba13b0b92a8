//! The thread that makes and signs what is large, so that those who answer everybody do not.
//!
//! Such an answer takes milliseconds to sign, and its grant some more the first time. So there is
//! one thread for all of them: a grant is made once, however many ask for it, and nobody else
//! waits. Services take turns (`queue`).
//!
//! It answers on a connection of its own, made when there is something to answer: nats-server
//! verifies an answer in the thread that reads its connection, and takes tens of milliseconds for
//! such a one, while whatever comes behind it waits.

use std::panic::AssertUnwindSafe;

use async_nats::Client;
use futures_util::FutureExt;
use tokio::time::timeout;

use super::connection::{connect_for, room};
use super::queue::Job;
use super::shared::{Shared, defect};
use crate::nats::Nats;
use crate::nats::round_trip::RoundTrip;

/// Answers what waits, until the queue is closed and empty.
pub(super) async fn work(shared: &Shared, nats: &Nats) {
    let mut connected = None;
    while let Some(job) = shared.large.next().await {
        let client = match connected.take() {
            Some(client) => client,
            None => match connect_for(nats, "large").await {
                Ok(client) => client,
                Err(error) => {
                    tracing::error!(event = "connect_failed", %error);
                    shared.done();
                    continue;
                }
            },
        };
        answer(shared, &client, job).await;
        connected = Some(client);
    }
    // The server has read the last answers before the connection goes.
    if let Some(client) = connected
        && let Ok(mut fence) = RoundTrip::new(&client).await
    {
        fence.pass().await;
    }
}

async fn answer(shared: &Shared, client: &Client, Job { proved, reply, taken, trace }: Job) {
    let answer = shared.service.answer_large(&proved, taken, room(client), trace);
    match AssertUnwindSafe(answer).catch_unwind().await {
        Ok(Some(answer)) => {
            // Few are held back, and for a second.
            if let Some(from) = answer.from {
                tokio::time::sleep_until(from.into()).await;
            }
            shared.send(client, reply, answer).await;
        }
        Ok(None) => {}
        Err(_) => defect(),
    }
    shared.done();
    // What is written is bounded by what the server reads, and goes out before the next is signed.
    let _ = timeout(shared.service.limits.patience, client.flush()).await;
}
