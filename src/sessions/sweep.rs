//! One round: look at every open connection, then close those that must be closed, at the pace
//! that the settings allow.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::expiry;
use super::verdict::{Cause, Closing, Judge, Verdict};
use crate::audit::Recorder;
use crate::fleet::{MAX_WAITING, MAX_WAITS_FOR, Waiting};
use crate::sessions::listing::{Session, survey_in_parts};
use crate::sessions::system_api::{Closed, System, SystemError, of_one_cluster};
use crate::telemetry::{Metrics, SessionState};
use solewriter_core::keys::UserKey;
use solewriter_types::audit_event::{Event, SessionClosed, words};

/// The most connections that one round closes, of those that have something too much and of the
/// others; the next one finds the rest.
const MAX_CLOSINGS: usize = 20_000;

/// How many servers that did not tell everything are named.
const NAMED: usize = 16;

/// A connection that is to be closed.
#[derive(Debug)]
pub struct Stale {
    /// The connection.
    pub session: Session,
    /// Why.
    pub closing: Closing,
}

/// What a look at the connections found.
#[derive(Debug, Default)]
pub struct Looked {
    /// Whether every server told everything.
    pub complete: bool,
    /// Whether any server answered.
    pub heard: bool,
    /// How long it took, without those that did not tell everything.
    pub cost: Duration,
    /// The shortest life of any connection, in seconds, of those that are ended before their time.
    pub shortest_life: Option<i64>,
    /// Who is left although the policy gives it more than it has.
    pub waiting: Vec<Waiting>,
    /// The servers that told everything, by their keys.
    pub servers: BTreeSet<String>,
    /// Their names, and those of the servers that answered and did not tell everything.
    pub answered: BTreeSet<String>,
    /// The names of those that there should be and that did not tell everything; empty names for
    /// those that are known by their number alone.
    pub missing: Vec<String>,
    /// Whether each server is connected with each other one.
    pub connected: bool,
    /// The connections that have more than the policy gives them, by another one, on each server.
    pub carriers: BTreeMap<Carrier, usize>,
}

/// A service and a server's name.
pub type Carrier = (String, String);

/// Looks at every open connection, and gives what must be closed to `close`, the most urgent first:
/// in parts, so that no server waits for a slow one.
///
/// # Errors
/// [`SystemError`] when no server can be found.
pub async fn look(
    system: &System,
    judge: &Judge<'_>,
    metrics: &Metrics,
    mut close: impl FnMut(Vec<Stale>),
) -> Result<Looked, SystemError> {
    let accounts: Vec<_> = judge.decider.accounts().cloned().collect();
    let now = jiff::Timestamp::now().as_second();
    let count = Counts::default();
    let shortest = AtomicI64::new(i64::MAX);
    let waits = Waits::default();
    let carriers = Mutex::new(BTreeMap::<Carrier, usize>::new());
    let revision = judge.policy.revision().whole();
    let carries = |session: &Session| {
        // What this policy gave has nothing of another one.
        if session.name.revision != revision {
            let mut all = carriers.lock().unwrap_or_else(PoisonError::into_inner);
            let who = (session.name.service.clone(), session.server.name.clone());
            *all.entry(who).or_default() += 1;
        }
    };
    let keep = |session: Session| {
        if let Some(life) = expiry::life(&session.name) {
            shortest.fetch_min(life, Ordering::Relaxed);
        }
        match judge.judge_session(&session, now) {
            Verdict::Current => count.add(SessionState::Current),
            Verdict::Gained(what) => {
                count.add(SessionState::Gained);
                waits.add(&session.name.service, &what);
            }
            Verdict::Newer => {
                carries(&session);
                count.add(SessionState::Newer);
            }
            Verdict::Close(closing) => {
                if closing.cause.takes() {
                    carries(&session);
                }
                count.add(match closing.cause {
                    Cause::Expiring(_) => SessionState::Expiring,
                    _ => SessionState::Stale,
                });
                return Some(Stale { session, closing });
            }
        }
        None
    };
    let (mut seen, mut left, mut left_later) = (HashSet::new(), MAX_CLOSINGS, MAX_CLOSINGS);
    let mut all = true;
    let part = |mut stale: Vec<Stale>| {
        stale.retain(|s| seen.insert((s.session.server.id.clone(), s.session.connection.cid)));
        stale.sort_by(|a, b| a.closing.cause.cmp(&b.closing.cause));
        stale.retain(|stale| {
            // What may wait takes no place of what must go.
            let left = if stale.closing.cause.takes() { &mut left } else { &mut left_later };
            let fits = *left > 0;
            *left -= usize::from(fits);
            all &= fits;
            fits
        });
        close(stale);
    };
    let found = survey_in_parts(system, &accounts, keep, part).await?;
    for (server, error) in found.failures.iter().take(NAMED) {
        tracing::warn!(
            event = "survey_incomplete", server = words(&server.name), server_id = server.id,
            %error, failing = found.failures.len(),
            "a server did not list its connections correctly",
        );
    }
    metrics.sessions().failing(found.failures.len());
    for cluster in found.servers.iter().map(|server| &server.cluster) {
        metrics.see_cluster(cluster);
    }
    count.publish(metrics);
    let failed: BTreeSet<&str> = found.failures.iter().map(|(s, _)| s.id.as_str()).collect();
    let told = found.servers.iter().filter(|server| !failed.contains(server.id.as_str()));
    let servers: BTreeSet<String> = told.map(|server| server.id.clone()).collect();
    let mut missing: Vec<String> = found.silent.iter().cloned().collect();
    missing.extend(found.failures.iter().map(|(server, _)| server.name.clone()));
    // Servers of one cluster know each other by name. What they count has those that were killed a
    // minute ago, and twice those that were started anew.
    if !of_one_cluster(&found.servers) {
        let known = servers.len() + missing.len();
        missing.extend((known..found.expected).map(|_| String::new()));
    }
    let answered = found.servers.iter().map(|server| server.name.clone()).collect();
    let carriers = carriers.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Looked {
        servers,
        answered,
        missing,
        connected: found.connected,
        carriers,
        complete: found.complete() && all,
        heard: !found.servers.is_empty(),
        cost: found.took,
        shortest_life: Some(shortest.into_inner()).filter(|life| *life < i64::MAX),
        waiting: waits.most(),
    })
}

#[derive(Default)]
struct Counts([AtomicI64; SessionState::ALL.len()]);

impl Counts {
    fn add(&self, state: SessionState) {
        if let Some(count) = self.0.get(state as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn publish(&self, metrics: &Metrics) {
        for (state, count) in SessionState::ALL.into_iter().zip(&self.0) {
            metrics.sessions().seen(state, count.load(Ordering::Relaxed));
        }
    }
}

/// Who waits, by service.
#[derive(Default)]
struct Waits(Mutex<HashMap<String, Waiting>>);

impl Waits {
    fn add(&self, service: &str, what: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = all.get_mut(service) {
            waiting.connections += 1;
            return;
        }
        let what = what.chars().take(MAX_WAITS_FOR).collect();
        let waiting = Waiting { service: service.to_owned(), connections: 1, what };
        all.insert(service.to_owned(), waiting);
    }

    /// Those with the most connections.
    fn most(self) -> Vec<Waiting> {
        let all = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Waiting> = all.into_values().collect();
        all.sort_by(|a, b| (b.connections, &a.service).cmp(&(a.connections, &b.service)));
        all.truncate(MAX_WAITING);
        all
    }
}

/// What became of the connections that were to be closed.
#[derive(Debug, Default)]
pub struct Done {
    /// How many were closed, or gone already.
    pub closed: usize,
    /// How many could not be closed.
    pub failed: usize,
    /// Whether it stopped before the end.
    pub cut_short: bool,
    /// Whose connections they were.
    pub keys: HashSet<UserKey>,
}

impl Done {
    /// Adds what became of others.
    pub fn add(&mut self, other: Self) {
        self.closed += other.closed;
        self.failed += other.failed;
        self.cut_short |= other.cut_short;
        self.keys.extend(other.keys);
    }
}

/// Closes them, `per_second` at most, for as long as `go_on` says of the next one.
pub async fn close(
    system: &System,
    stale: Vec<Stale>,
    per_second: u32,
    revision: &str,
    (recorder, metrics): (&Recorder, &Metrics),
    go_on: impl Fn(&Stale) -> bool,
) -> Done {
    let gap = Duration::from_secs(1) / per_second.max(1);
    let mut due = Instant::now();
    let mut done = Done::default();
    let mut silent = HashSet::new();
    for next in stale {
        tokio::time::sleep_until(due.into()).await;
        // What could not be done in time is not made up for in a burst.
        due = (due + gap).max(Instant::now().checked_sub(gap).unwrap_or(due));
        if !go_on(&next) {
            done.cut_short = true;
            break;
        }
        let Stale { session, closing } = next;
        if silent.contains(&session.server.id) {
            done.failed += 1;
            continue;
        }
        let closed = system.close(&session.server.id, session.connection.cid).await;
        let outcome = match &closed {
            Ok(Closed::Closed) => "closed",
            Ok(Closed::Gone) => "gone",
            Err(_) => "failed",
        };
        if closed.is_ok() {
            done.closed += 1;
            done.keys.insert(session.name.key);
        } else {
            done.failed += 1;
            silent.insert(session.server.id.clone());
        }
        metrics.sessions().closed(outcome, closing.cause.code());
        recorder.record(event(&session, &closing, revision, outcome, closed.err()));
    }
    done
}

fn event(
    session: &Session,
    closing: &Closing,
    revision: &str,
    outcome: &str,
    error: Option<SystemError>,
) -> Event {
    let Session { server, account, name, connection } = session;
    let detail = match error {
        Some(error) => format!("{}: {error}", closing.detail),
        None => closing.detail.clone(),
    };
    Event::SessionClosed(Box::new(SessionClosed {
        outcome: outcome.to_owned(),
        reason: closing.cause.code().to_owned(),
        detail: Some(words(&detail)).filter(|detail| !detail.is_empty()),
        service: name.service.clone(),
        nkey: name.key.to_string(),
        host: Some(words(&connection.ip)),
        server: words(&server.name),
        server_id: server.id.clone(),
        cid: connection.cid,
        account: account.to_string(),
        revision: revision.to_owned(),
        had_revision: name.revision.clone(),
        grant: closing.grant.clone(),
        had_grant: name.digest.clone(),
    }))
}
