//! Following a NATS KV bucket.
//!
//! A message on the bucket's subject is only a hint. It arrives within a millisecond, maybe before the
//! revision is stored. What counts is the look at the newest revision at each interval. So nothing
//! depends on a message being seen, and no consumer has to be created, repaired or permitted.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Subscriber};
use futures_util::StreamExt;
use jiff::Timestamp;
use tokio::signal::unix::Signal;
use tokio::time::{Instant, timeout};

use super::{BackgroundWorker, Follower, Found, UNJUDGED, Unjudged, hangup};
use crate::policy_source::bucket::read::{Change, Reader, Seen};
use crate::policy_source::bucket::{ANSWER_WITHIN, Bucket, ReadError};
use crate::policy_source::origin::Origin;
use crate::policy_source::status::SourceState;
use solewriter_types::keyspace::BucketName;

/// After a hint: how soon to look again when it is not stored yet, doubling, and for how long.
const HINT_PAUSE: Duration = Duration::from_millis(5);
const HINT_FOR: Duration = Duration::from_secs(2);

const NOT_CONNECTED: &str = "not connected to nats-server";

/// A hint that is not come true yet.
struct Hint {
    number: u64,
    pause: Duration,
    until: Instant,
}

/// Puts each revision of a bucket in force, for ever. `connecting` gives a connection in the
/// callout's account; `poll` is how often to look without a hint.
pub async fn bucket(
    follower: Follower,
    connecting: impl Future<Output = Option<Client>>,
    name: BucketName,
    poll: Duration,
    signal: Signal,
) {
    let mut connecting = std::pin::pin!(connecting);
    let client = loop {
        let look = follower.source_status.stall_guard.look();
        match timeout(ANSWER_WITHIN, &mut connecting).await {
            Ok(Some(client)) => break client,
            Ok(None) => return,
            // A kept policy is not held back for ever.
            Err(_) => {
                follower.not_connected();
                follower.source_status.stall_guard.conclude(look);
            }
        }
    };
    let bucket = Bucket::new(client, name);
    let news = bucket.client().subscribe(bucket.news()).await;
    let news = news.inspect_err(|error| tracing::error!(event = "policy_news_failed", %error)).ok();
    let seen = follower.store.origin().map(|origin| Origin::clone(&origin));
    follow(follower, Reader::new(bucket, seen), news, poll, signal).await;
}

async fn follow(
    follower: Follower,
    mut reader: Reader,
    mut news: Option<Subscriber>,
    poll: Duration,
    mut signal: Signal,
) {
    let guard = &follower.source_status.stall_guard;
    let mut aside = BackgroundWorker::default();
    let mut hint: Option<Hint> = None;
    loop {
        let look = guard.look();
        if follower.look(&mut reader, &mut aside).await.is_ok() {
            guard.conclude(look);
        }

        let number = follower.store.origin().map_or(0, |origin| origin.number);
        hint = hint.filter(|hint| hint.number > number && Instant::now() < hint.until);
        let pause = match &mut hint {
            Some(hint) => {
                let pause = hint.pause;
                hint.pause = (pause * 2).min(poll);
                pause
            }
            None => poll,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = guard.wanted() => {}
            () = hangup(&mut signal) => reader.forget(),
            number = heard(&mut news) => {
                hint = Some(Hint { number, pause: HINT_PAUSE, until: Instant::now() + HINT_FOR });
            }
        }
    }
}

/// The revision number in the next message.
async fn heard(news: &mut Option<Subscriber>) -> u64 {
    if let Some(news) = news {
        while let Some(message) = news.next().await {
            let number = message.subject.rsplit('.').next().and_then(|n| n.parse().ok());
            if let Some(number) = number {
                return number;
            }
        }
    }
    std::future::pending().await
}

impl Follower {
    fn not_connected(&self) {
        let state = SourceState::Unreachable(NOT_CONNECTED.to_owned());
        self.heard(state, Timestamp::now().as_second());
    }

    /// Looks at the bucket once, and deals with what it has.
    ///
    /// # Errors
    /// When that could not be done.
    async fn look(
        &self,
        reader: &mut Reader,
        aside: &mut BackgroundWorker,
    ) -> Result<(), Unjudged> {
        let seen = if reader.bucket().client().connection_state() == State::Connected {
            reader.look().await
        } else {
            // Nothing is asked that would wait for a connection.
            Err(ReadError::Unreachable(NOT_CONNECTED.to_owned()))
        };
        let mut looked = Ok(());
        let state = match seen {
            Ok(Seen::Other(change)) => {
                looked = self.take(change, aside).await;
                if looked.is_ok() {
                    SourceState::Answered
                } else {
                    reader.forget();
                    SourceState::Unreachable(UNJUDGED.to_owned())
                }
            }
            Ok(Seen::Same) => SourceState::Answered,
            Ok(Seen::Empty) => SourceState::Empty,
            Ok(Seen::Behind { number }) => {
                let ours = self.store.origin().map_or(0, |origin| origin.number);
                SourceState::Unreachable(format!(
                    "it went back to revision {number}, but {ours} is in force"
                ))
            }
            Err(ReadError::Missing) => SourceState::Missing,
            Err(error) => SourceState::Unreachable(error.to_string()),
        };
        self.heard(state, Timestamp::now().as_second());
        looked
    }

    async fn take(&self, change: Change, aside: &mut BackgroundWorker) -> Result<(), Unjudged> {
        let Change { origin, files, replaced } = change;
        if replaced {
            let before = self.store.origin();
            tracing::error!(
                event = "policy_bucket_replaced",
                source = self.source_status.source(),
                before = before.as_ref().map(|o| o.number),
                number = origin.as_ref().map(|o| o.number),
                "this is a new bucket: the one before was deleted",
            );
        }
        let follower = self.clone();
        let found = Found { files, origin };
        // A problem is told of where it is found.
        aside.run(move || drop(follower.judge(found, Timestamp::now()))).await
    }
}
