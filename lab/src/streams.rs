//! What it costs to reach a stream through the import of the state account: the same messages,
//! published and consumed by a service and, directly in that account, by the admin, in one run.

use std::sync::Arc;
use std::time::Instant;

use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::{self, stream};
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryStreamExt};

use super::direct::count;
use super::report::MANY;
use super::results::{self, Machine, Place, StreamRound, Streams};
use super::{Error, progress};
use crate::fixture_policy::{FixturePolicy, STREAM, WORK};
use crate::real_clients::{Against, ServerTestbed};
use crate::testbed::Testbed;
use solewriter::passes;
use solewriter_sandbox::NEWEST;

/// The subject of every message.
const SUBJECT: &str = "events.load";
/// What each holds.
const PAYLOAD: [u8; 128] = [b'x'; 128];

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rounds, each in both places.
    pub rounds: usize,
    /// Messages of a round with many in flight; a tenth of it with one.
    pub messages: usize,
    /// nats-server's version.
    pub nats_server: Option<String>,
}

/// Measures it.
///
/// # Errors
/// When something does not start, or a message is lost.
pub async fn run(plan: Plan) -> Result<Streams, Error> {
    let nats_server = plan.nats_server.unwrap_or_else(|| NEWEST.to_owned());
    let stage = Arc::new(Testbed::set(FixturePolicy::with_stream()?, true)?);
    let config = stage.deployment.server_config();
    let text = std::fs::read_to_string(&config)?;
    std::fs::write(&config, passes::in_config(&text, Some(&stage.company.policy()?)))?;
    let server =
        ServerTestbed::open(stage.clone(), Against::Solewriter, 1, Some(nats_server.clone()), &[])
            .await?;
    let url = server.server.client_url();
    let admin = stage.secret("admin.nk")?;
    let service = stage.company.clients.first().ok_or("the policy has no service")?;
    let connect = async |seed: &str, inbox: &str| {
        let options = async_nats::ConnectOptions::with_nkey(seed.to_owned());
        let client = options.custom_inbox_prefix(inbox).connect(url).await?;
        Ok::<_, Error>(jetstream::new(client))
    };
    let inside = connect(&admin, "_INBOX.solewriter.lab").await?;
    let inbox = format!("_INBOX.{}", service.service);
    let through = connect(service.seed.expose(), &inbox).await?;
    let mut streams = Streams {
        machine: Machine::here(nats_server),
        date: results::now(),
        load_before: results::load_average(),
        messages: plan.messages,
        bytes: PAYLOAD.len(),
        ..Streams::default()
    };
    for round in 1..=plan.rounds.max(1) {
        for (place, context) in [(Place::Import, &through), (Place::State, &inside)] {
            progress(&format!("round {round} of {}, {}", plan.rounds.max(1), place.words()));
            let found = measure(&inside, context, plan.messages.max(10)).await?;
            streams.rounds.push(StreamRound { place, ..found });
        }
    }
    drop((inside, through));
    server.close().await?;
    Ok(streams)
}

/// One round: an empty stream, messages into it, and out of it again.
async fn measure(
    admin: &jetstream::Context,
    context: &jetstream::Context,
    many: usize,
) -> Result<StreamRound, Error> {
    let few = many / 10;
    let mut round = StreamRound::default();
    for (messages, in_flight, publishes, consumes) in [
        (few, 1, &mut round.publish_one, &mut round.consume_one),
        (many, MANY, &mut round.publish_many, &mut round.consume_many),
    ] {
        make(admin).await?;
        let began = Instant::now();
        publish(context, messages, in_flight).await?;
        *publishes = count(messages.try_into()?) / began.elapsed().as_secs_f64();
        let consumer: PullConsumer = context.get_consumer_from_stream(WORK, STREAM).await?;
        let began = Instant::now();
        consume(&consumer, messages, in_flight).await?;
        *consumes = count(messages.try_into()?) / began.elapsed().as_secs_f64();
    }
    Ok(round)
}

/// The stream and its consumer anew.
async fn make(admin: &jetstream::Context) -> Result<(), Error> {
    if admin.get_stream(STREAM).await.is_ok() {
        admin.delete_stream(STREAM).await?;
    }
    let config = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["events.>".to_owned()],
        storage: stream::StorageType::Memory,
        ..stream::Config::default()
    };
    let stream = admin.create_stream(config).await?;
    let config = pull::Config { durable_name: Some(WORK.to_owned()), ..pull::Config::default() };
    stream.create_consumer(config).await?;
    Ok(())
}

/// So many messages, each acknowledged, at most `in_flight` of them at a time.
async fn publish(
    context: &jetstream::Context,
    messages: usize,
    in_flight: usize,
) -> Result<(), Error> {
    let mut waiting = FuturesUnordered::new();
    for _ in 0..messages {
        if waiting.len() >= in_flight {
            waiting.try_next().await?;
        }
        let acknowledged = context.publish(SUBJECT, PAYLOAD.to_vec().into()).await?;
        waiting.push(acknowledged.into_future());
    }
    while waiting.try_next().await?.is_some() {}
    Ok(())
}

/// Takes so many messages, `in_flight` with each request, and acknowledges each. The last
/// acknowledgement is confirmed, and so are all before it.
async fn consume(consumer: &PullConsumer, messages: usize, in_flight: usize) -> Result<(), Error> {
    let mut left = messages;
    while left > 0 {
        let mut batch = consumer.fetch().max_messages(in_flight.min(left)).messages().await?;
        let before = left;
        while let Some(message) = batch.next().await {
            let message = message?;
            left = left.saturating_sub(1);
            if left == 0 {
                message.double_ack().await?;
            } else {
                message.ack().await?;
            }
        }
        if left == before {
            return Err(format!("{left} of {messages} messages did not come").into());
        }
    }
    Ok(())
}
