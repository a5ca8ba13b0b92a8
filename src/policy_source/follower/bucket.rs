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

use super::{BackgroundWorker, CLOCKS, Follower, Found, UNJUDGED, Unjudged, hangup};
use crate::policy_source::bucket::read::{Change, Reader, Seen};
use crate::policy_source::bucket::{ANSWER_WITHIN, Bucket, ReadError};
use crate::policy_source::origin::Origin;
use crate::policy_source::snapshot_store::Past;
use crate::policy_source::status::SourceState;
use crate::sessions::reach_without_system_user;
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::policy::model::Policy;
use solewriter_core::policy::validate::validate_for;
use solewriter_types::keyspace::BucketName;

/// After a hint: how soon to look again when it is not stored yet, doubling, and for how long.
const HINT_PAUSE: Duration = Duration::from_millis(5);
const HINT_FOR: Duration = Duration::from_secs(2);

/// The most revisions that are read for that.
const MAX_PAST: usize = 32;

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
    let reader = Reader::new(bucket, seen).judging(follower.judge.clone());
    follow(follower, reader, news, poll, signal).await;
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
        if let Ok(state) = follower.look(&mut reader, &mut aside).await {
            // In this order: who waits for the end of a look may ask for the lease then.
            if state == SourceState::Answered {
                guard.heard(look);
            }
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
    ) -> Result<SourceState, Unjudged> {
        let seen = if reader.bucket().client().connection_state() == State::Connected {
            self.look_at_all(reader, aside).await
        } else {
            // Nothing is asked that would wait for a connection.
            Err(ReadError::Unreachable(NOT_CONNECTED.to_owned()))
        };
        let mut looked = Ok(());
        let state = match seen {
            Ok(Seen::Other(change)) => {
                looked = self.take(*change, reader, aside).await;
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
        self.heard(state.clone(), Timestamp::now().as_second());
        looked.map(|()| state)
    }

    /// Looks at the documents of emergencies, and at the newest revision. Who cannot see whether an
    /// emergency began does not know who writes what.
    async fn look_at_all(
        &self,
        reader: &mut Reader,
        aside: &mut BackgroundWorker,
    ) -> Result<Seen, ReadError> {
        match reader.emergencies().await {
            Ok(Some(documents)) => {
                let follower = self.clone();
                let judge = move || follower.documents(documents, Timestamp::now());
                if aside.run(judge).await.is_err() {
                    reader.forget_emergencies();
                    return Err(ReadError::Unreachable(UNJUDGED.to_owned()));
                }
            }
            Ok(None) | Err(ReadError::Missing) => {}
            Err(error) => return Err(error),
        }
        reader.look().await
    }

    /// What is known of the revisions between the one in force and `next`; or, when none is in
    /// force, of those of which connections may still be open.
    async fn past(&self, next: &Origin, reader: &mut Reader, aside: &mut BackgroundWorker) -> Past {
        let mut past = Past::default();
        if !self.store.hands_over() {
            return past;
        }
        match self.read_past(next, reader, aside, &mut past.policies).await {
            Ok(complete) => past.unknown = !complete,
            Err(error) => {
                past.unknown = true;
                tracing::warn!(
                    event = "policy_past_unknown",
                    error,
                    "the revisions before this one could not be read: nobody is given anything new \
                     to write before every open connection was looked at",
                );
            }
        }
        past.policies.reverse();
        past
    }

    /// Reads them, the newest first. Gives whether these are all that count.
    async fn read_past(
        &self,
        next: &Origin,
        reader: &mut Reader,
        aside: &mut BackgroundWorker,
        policies: &mut Vec<Policy>,
    ) -> Result<bool, String> {
        let failed = |error: ReadError| error.to_string();
        let in_force = self.store.origin();
        let known = in_force.as_ref().filter(|origin| origin.lineage == next.lineage);
        let after = known.map_or(0, |origin| origin.number);
        let mut lasts = self.defaults.lifetime;
        for number in (after.saturating_add(1)..next.number).rev() {
            if policies.len() >= MAX_PAST {
                return Ok(false);
            }
            // Until when it was the newest, by the clock of the bucket's server.
            let ended = reader.bucket().stored(number.saturating_add(1)).await.map_err(failed)?;
            let age = ended.map_or(0, |ended| Timestamp::now().as_second().saturating_sub(ended));
            let age = Duration::from_secs(u64::try_from(age).unwrap_or(0));
            // The one before in any case, whatever the clocks say.
            if age > lasts + CLOCKS && !policies.is_empty() {
                break;
            }
            let Some(files) = reader.older(number).await.map_err(failed)? else { continue };
            let (give, taken) = std::sync::mpsc::channel();
            let follower = self.clone();
            let judge = move || drop(give.send(follower.as_it_was(&files)));
            let judged = aside.run(judge).await;
            judged.map_err(|Unjudged| UNJUDGED.to_owned())?;
            for policy in taken.recv().unwrap_or_default() {
                lasts = lasts.max(reach_without_system_user(&policy, &self.defaults));
                policies.push(policy);
            }
        }
        Ok(true)
    }

    /// What may have been in force when these were the files; nothing if they do not hold, because
    /// then they never were. Blocks.
    fn as_it_was(&self, files: &[SourceFile]) -> Vec<Policy> {
        let Ok(validated) = validate_for(files, &self.defaults.audit) else { return Vec::new() };
        let mut policies = self.temporary().with_each(files, Timestamp::now(), self.reach());
        policies.push(validated.policy);
        policies
    }

    async fn take(
        &self,
        change: Change,
        reader: &mut Reader,
        aside: &mut BackgroundWorker,
    ) -> Result<(), Unjudged> {
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
        let past = match &origin {
            Some(origin) => self.past(origin, reader, aside).await,
            None => Past::default(),
        };
        let found = Found { files, origin, past };
        // A problem is told of where it is found.
        aside.run(move || drop(follower.judge(found, Timestamp::now()))).await
    }
}
