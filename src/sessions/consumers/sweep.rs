//! One round: list the consumers of every stream, and delete those that must go.
//!
//! Each stream has its own bounds, so one with very many consumers does not stop the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::Settings;
use super::listing::{ApiError, Deleted, Jetstream, Listed};
use super::verdict::{Cause, Consumer, Judge, Owner, Place, Verdict};
use crate::nats::connect::CONSUMERS_NEED;
use crate::policy_source::losses::Loss;
use solewriter_core::grant::AuditStreams;
use solewriter_core::policy::model::{Access, Policy};
use solewriter_types::audit_event::words;

/// How many streams are looked at, and how many consumers of one deleted, at the same time.
const STREAMS_AT_ONCE: usize = 4;
const DELETIONS_AT_ONCE: usize = 8;
/// How long it may take to list one stream's consumers, page after page; and with their deletion.
const LIST_WITHIN: Duration = Duration::from_secs(8);
const STREAM_WITHIN: Duration = Duration::from_secs(24);
/// How many consumers of one stream are deleted in one round.
const MAX_DELETIONS: usize = 4_096;
/// How many deletions of one kind have a log line of their own, on one stream in one round.
const LINES: usize = 8;

/// A consumer that is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doomed {
    /// Its name.
    pub consumer: Consumer,
    /// Whom it reaches.
    pub owner: Owner,
    /// Why.
    pub cause: Cause,
}

/// What a look at one stream found.
#[derive(Debug, Default)]
pub struct Found {
    /// What may stay.
    pub kept: Vec<(Owner, Consumer)>,
    /// What must go.
    pub doomed: Vec<Doomed>,
}

/// What a round came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// How many may stay, by whether they reach a service.
    pub services: usize,
    /// Those that reach none.
    pub nobodys: usize,
    /// How many were deleted, by cause.
    pub deleted: BTreeMap<Cause, u64>,
    /// How many could not be deleted.
    pub failed: usize,
    /// How many streams did not tell everything.
    pub untold: usize,
    /// How many were over a limit.
    pub over_limit: usize,
    /// Whether it stopped before the end.
    pub cut_short: bool,
}

impl Done {
    fn add(&mut self, other: Self) {
        self.services += other.services;
        self.nobodys += other.nobodys;
        for (cause, count) in other.deleted {
            *self.deleted.entry(cause).or_default() += count;
        }
        self.failed += other.failed;
        self.untold += other.untold;
        self.over_limit += other.over_limit;
        self.cut_short |= other.cut_short;
    }
}

/// Where consumers are: the two accounts.
#[derive(Clone, Debug)]
pub struct Accounts {
    /// The buckets'.
    pub state: Jetstream,
    /// The audit streams', if it can be asked.
    pub audit: Option<Jetstream>,
    /// The audit streams of the settings.
    pub audit_streams: AuditStreams,
}

/// A stream whose consumers are looked at.
pub type Target = (Jetstream, Place, String);

impl Accounts {
    /// Every stream whose consumers a grant may concern, and whether that is all of them.
    ///
    /// # Errors
    /// [`ApiError`] when the state account does not answer.
    pub async fn targets(&self, policy: &Policy) -> Result<(Vec<Target>, bool), ApiError> {
        let (streams, whole) = self.state.streams().await?;
        let names = &self.audit_streams;
        // Where older deployments have them in this account, too.
        let is_audit =
            |stream: &String| [names.events(), names.services()].contains(&stream.as_str());
        let place = |stream: String| Some((self.state.clone(), Place::of(&stream)?, stream));
        let held = streams.into_iter().filter(|stream| !is_audit(stream)).filter_map(place);
        let rules = policy.services().iter().flat_map(|service| &service.rules);
        let mut audits: BTreeSet<String> = rules
            .filter_map(|rule| match &rule.access {
                Access::Audits(stream) => Some(stream.to_string()),
                _ => None,
            })
            .collect();
        // A stream that nobody audits any more may have consumers from before.
        audits.extend([names.events(), names.services()].map(str::to_owned));
        let audits = audits
            .into_iter()
            .filter_map(|stream| self.audit.clone().map(|account| (account, Place::Audit, stream)));
        Ok((held.chain(audits).collect(), whole))
    }
}

/// Looks at the consumers of one stream. Gives what it found and how much was told.
///
/// # Errors
/// [`ApiError`] when nothing was.
pub async fn look(
    (account, place, stream): &Target,
    policy: &Policy,
    settings: Settings,
    deadline: Instant,
) -> Result<(Found, Listed), ApiError> {
    let now = jiff::Timestamp::now().as_second();
    let mut judge = Judge::new(policy, (*place, stream), settings, now);
    let mut found = Found::default();
    let mut seen = BTreeSet::new();
    let each = |mut consumer: Consumer| {
        if !seen.insert(consumer.name.clone()) {
            return;
        }
        let verdict = judge.judge(&consumer);
        // Clients choose how long these are, and they were read.
        consumer.filters = Vec::new();
        match verdict {
            Verdict::Keep(owner) => found.kept.push((owner, consumer)),
            Verdict::Delete(owner, cause) => found.doomed.push(Doomed { consumer, owner, cause }),
        }
    };
    let listed = account.consumers(stream, deadline, each).await?;
    for index in judge.surplus(&found.kept).into_iter().rev() {
        let (owner, consumer) = found.kept.swap_remove(index);
        found.doomed.push(Doomed { consumer, owner, cause: Cause::TooMany });
    }
    found.doomed.sort_by(|a, b| (a.cause, &a.consumer.name).cmp(&(b.cause, &b.consumer.name)));
    Ok((found, listed))
}

/// What the tools show: everything that the next round would delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// How many streams were looked at.
    pub streams: usize,
    /// How many consumers may stay.
    pub kept: usize,
    /// What must go, with its stream.
    pub doomed: Vec<(String, Doomed)>,
    /// Durable consumers, each with its stream, that services may change because no policy
    /// declares them: these replay the stream.
    pub exposed: Vec<(String, String, Vec<Arc<str>>)>,
    /// Streams that did not tell everything, and why.
    pub untold: Vec<(String, String)>,
}

/// Looks at every stream, and deletes nothing.
///
/// # Errors
/// [`ApiError`] when the state account does not answer.
pub async fn survey(
    accounts: &Accounts,
    policy: &Policy,
    settings: Settings,
) -> Result<Survey, ApiError> {
    let (targets, whole) = accounts.targets(policy).await?;
    let mut survey = Survey { streams: targets.len(), ..Survey::default() };
    if !whole {
        survey.untold.push(("STREAM.NAMES".to_owned(), "there are too many".to_owned()));
    }
    let looks = stream::iter(targets).map(|target| async move {
        let deadline = Instant::now() + LIST_WITHIN;
        (look(&target, policy, settings, deadline).await, target.2)
    });
    let mut looks = looks.buffer_unordered(STREAMS_AT_ONCE);
    while let Some((looked, stream)) = looks.next().await {
        match looked {
            Ok((found, listed)) => {
                survey.kept += found.kept.len();
                survey.exposed.extend(exposed(policy, &stream, &found));
                let doomed = found.doomed.into_iter().map(|doomed| (stream.clone(), doomed));
                survey.doomed.extend(doomed);
                if listed == Listed::Part {
                    survey
                        .untold
                        .push((stream, "there are too many, or too large ones".to_owned()));
                } else if listed == Listed::NoStream {
                    survey.streams -= 1;
                }
            }
            Err(error) => survey.untold.push((stream, error.to_string())),
        }
    }
    survey.doomed.sort_by(|(a, one), (b, other)| {
        (a, one.cause, &one.consumer.name).cmp(&(b, other.cause, &other.consumer.name))
    });
    survey.exposed.sort();
    survey.untold.sort();
    Ok(survey)
}

/// The durable consumers of a stream that services replay, and that no deny protects from them.
fn exposed(policy: &Policy, stream: &str, found: &Found) -> Vec<(String, String, Vec<Arc<str>>)> {
    let Some(declared) = policy.stream(stream) else { return Vec::new() };
    let replayers: Vec<Arc<str>> = policy.replayers(stream).map(|s| Arc::clone(&s.name)).collect();
    if replayers.is_empty() {
        return Vec::new();
    }
    let durable = found.kept.iter().map(|(_, consumer)| consumer).filter(|c| c.durable);
    durable
        .filter(|consumer| declared.consumer(&consumer.name).is_none())
        .map(|consumer| (stream.to_owned(), consumer.name.clone(), replayers.clone()))
        .collect()
}

/// One round, for as long as `go_on` says before each stream and each deletion. What was lost, of
/// services whose connections were closed, ends with their pulls.
///
/// # Errors
/// [`ApiError`] when the state account does not answer.
pub async fn round(
    accounts: &Accounts,
    policy: &Policy,
    settings: Settings,
    losses: &[Loss],
    go_on: impl Fn() -> bool,
) -> Result<Done, ApiError> {
    let (targets, whole) = accounts.targets(policy).await?;
    let go_on = &go_on;
    let mut streams = stream::iter(targets)
        .map(|target| async move { one(&target, policy, (settings, losses), go_on).await })
        .buffer_unordered(STREAMS_AT_ONCE);
    let mut done = Done { untold: usize::from(!whole), ..Done::default() };
    while let Some(stream) = streams.next().await {
        done.add(stream);
    }
    Ok(done)
}

async fn one(
    target: &Target,
    policy: &Policy,
    (settings, losses): (Settings, &[Loss]),
    go_on: &impl Fn() -> bool,
) -> Done {
    let cut_short = Done { cut_short: true, ..Done::default() };
    if !go_on() {
        return cut_short;
    }
    let began = Instant::now();
    let stream = &target.2;
    let (found, listed) = match look(target, policy, settings, began + LIST_WITHIN).await {
        Ok(looked) => looked,
        Err(error) => {
            tracing::warn!(
                event = "consumers_untold", stream, %error,
                "a stream's consumers cannot be listed",
            );
            return Done { untold: 1, ..Done::default() };
        }
    };
    if listed == Listed::Part {
        tracing::warn!(
            event = "consumers_untold",
            stream,
            listed = found.kept.len() + found.doomed.len(),
            "not all consumers of a stream were listed; the next round looks again",
        );
    }
    let services = found.kept.iter().filter(|(owner, _)| *owner != Owner::Nobody).count();
    let mut done = Done {
        services,
        nobodys: found.kept.len() - services,
        untold: usize::from(listed == Listed::Part),
        over_limit: found.doomed.iter().filter(|d| d.cause == Cause::TooMany).count(),
        ..Done::default()
    };
    alert(stream, &found, settings);
    let lost = lost(target, policy, &found, losses);
    delete(target, found.doomed, (began + STREAM_WITHIN, go_on), &mut done).await;
    end_pulls(target, lost).await;
    done
}

/// The pull consumers of a stream that somebody lost: the declared one, or all that are not declared.
fn lost((_, _, stream): &Target, policy: &Policy, found: &Found, losses: &[Loss]) -> Vec<String> {
    let is_declared =
        |name: &str| policy.stream(stream).is_some_and(|s| s.consumer(name).is_some());
    let is_lost = |consumer: &&Consumer| {
        let named = |loss: &Loss| match &loss.consumer {
            Some(name) => *name == consumer.name,
            None => !is_declared(&consumer.name),
        };
        losses.iter().any(|loss| loss.stream == *stream && named(loss))
    };
    let pulled = found.kept.iter().map(|(_, consumer)| consumer).filter(|c| c.deliver.is_none());
    pulled.filter(is_lost).take(MAX_DELETIONS).map(|consumer| consumer.name.clone()).collect()
}

/// Ends the pulls under way of these consumers.
///
/// In a cluster, JetStream does not see that who asked another server than the leader's is gone, and
/// sends to it for as long as its service listens there (seen on 2.10.25 and 2.15.1). A new leader
/// knows of no pull.
async fn end_pulls((account, _, stream): &Target, lost: Vec<String>) {
    let mut ended = stream::iter(lost)
        .map(|consumer| async move {
            let outcome = account.step_down(stream, &consumer).await;
            (consumer, outcome)
        })
        .buffer_unordered(DELETIONS_AT_ONCE);
    while let Some((consumer, outcome)) = ended.next().await {
        let Err(error) = outcome else { continue };
        tracing::warn!(
            event = "pulls_not_ended",
            stream,
            consumer = words(&consumer),
            %error,
            "a service lost this consumer, and what it asked for before may still be sent to it: \
             {}",
            CONSUMERS_NEED,
        );
    }
}

/// Says whose consumers are too many.
fn alert(stream: &str, found: &Found, settings: Settings) {
    let mut over: BTreeMap<&str, usize> = BTreeMap::new();
    for doomed in found.doomed.iter().filter(|doomed| doomed.cause == Cause::TooMany) {
        *over.entry(name(&doomed.owner)).or_default() += 1;
    }
    for (service, surplus) in over {
        tracing::error!(
            event = "consumers_over_limit",
            stream,
            service,
            surplus,
            limit = settings.per_service,
            "there are more consumers than [sessions] consumers_per_service allows; the extra \
             ones are deleted",
        );
    }
}

async fn delete(
    (account, _, stream): &Target,
    doomed: Vec<Doomed>,
    (deadline, go_on): (Instant, &impl Fn() -> bool),
    done: &mut Done,
) {
    let found = doomed.len();
    let doomed = stream::iter(doomed.into_iter().take(MAX_DELETIONS));
    let mut deletions = doomed
        .map(|doomed| async move {
            // What was begun is ended; the rest is left for the next round.
            let outcome = if go_on() && Instant::now() < deadline {
                Some(account.delete(stream, &doomed.consumer.name).await)
            } else {
                None
            };
            (doomed, outcome)
        })
        .buffer_unordered(DELETIONS_AT_ONCE);
    let mut said: BTreeMap<Cause, usize> = BTreeMap::new();
    let mut tried = 0;
    while let Some((doomed, outcome)) = deletions.next().await {
        let Some(outcome) = outcome else {
            done.cut_short = true;
            continue;
        };
        tried += 1;
        match &outcome {
            Ok(Deleted::Deleted) => *done.deleted.entry(doomed.cause).or_default() += 1,
            Ok(Deleted::Gone) => {}
            Err(_) => done.failed += 1,
        }
        let said = said.entry(doomed.cause).or_default();
        *said += 1;
        if *said <= LINES {
            log(stream, &doomed, &outcome);
        }
    }
    done.cut_short |= tried < found;
    let more: usize = said.values().map(|count| count.saturating_sub(LINES)).sum();
    if more > 0 {
        tracing::warn!(
            event = "consumers_deleted",
            stream,
            more,
            "more consumers like these were deleted"
        );
    }
}

fn log(stream: &str, doomed: &Doomed, outcome: &Result<Deleted, ApiError>) {
    let Doomed { consumer, owner, cause } = doomed;
    tracing::warn!(
        event = "consumer_deleted",
        outcome = match outcome {
            Ok(Deleted::Deleted) => "deleted",
            Ok(Deleted::Gone) => "gone",
            Err(_) => "failed",
        },
        stream,
        consumer = words(&consumer.name),
        service = name(owner),
        cause = cause.code(),
        delivers_to = consumer.deliver.as_deref().map(words),
        error = outcome.as_ref().err().map(ToString::to_string),
        "{}",
        cause.explain(),
    );
}

fn name(owner: &Owner) -> &str {
    match owner {
        Owner::Service(service) => service,
        Owner::Nobody => "",
    }
}
