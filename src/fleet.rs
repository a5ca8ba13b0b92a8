//! The instances among themselves: who each one is, and what it answers when it is asked.
//!
//! Whoever may log in to the callout's account asks on `solewriter.ping`, with a reply subject in
//! the inboxes of solewriter's own users. Services live in another account and hear nothing of it.
//!
//! [`beats`] is what each tells the others without being asked, [`peers`] what is known from that.

pub mod beats;
pub mod peers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::broker::INBOX;
use crate::policy::standing::Standing;
use crate::policy::store::Store;

/// Where instances are asked who they are and which policy they serve.
pub const PING: &str = "solewriter.ping";

/// The longest answer that is read, in bytes, and the most answers.
const MAX_ANSWER: usize = 16 * 1024;
const MAX_ANSWERS: usize = 10_000;

/// How long to wait for the first answer, and how long after the newest for one more: so many
/// times what the newest took, within these bounds.
const FIRST_WITHIN: Duration = Duration::from_secs(1);
const MORE_AT_LEAST: Duration = Duration::from_millis(200);
const MORE_TIMES: u32 = 4;

/// One running instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its own for as long as it runs; one token of a subject.
    pub id: Arc<str>,
    /// The machine that it runs on.
    pub host: String,
    /// When it started, in seconds since the Unix epoch.
    pub started: i64,
}

impl Identity {
    /// A new instance on this machine. `random` makes it its own.
    #[must_use]
    pub fn new(random: [u8; 10], now: i64) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let id = data_encoding::BASE32_NOPAD.encode(&random).to_lowercase();
        Self { id: id.into(), host, started: now }
    }
}

/// What an instance says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The instance.
    pub instance: String,
    /// Its machine.
    pub host: String,
    /// solewriter's version.
    pub version: String,
    /// On how many connections it takes requests.
    #[serde(default = "one")]
    pub connections: usize,
    /// When it started (Unix time).
    pub started: i64,
    /// Where its policy comes from, for people.
    pub source: String,
    /// What the source said when it was last asked: `answered`, `missing`, `empty`,
    /// `unreachable`, `unasked`.
    pub source_state: String,
    /// When the source last answered (Unix time).
    pub confirmed: Option<i64>,
    /// The policy revision in force.
    pub revision: Option<String>,
    /// Its number in the policy's bucket.
    pub number: Option<u64>,
    /// Which bucket of that name it is from.
    pub lineage: Option<String>,
    /// Since when it has been in force (Unix time).
    pub since: Option<i64>,
    /// Since when it decides nothing because its policy is too old, in seconds of age.
    pub too_old: Option<i64>,
    /// Since when changes have been refused (Unix time).
    pub refused_since: Option<i64>,
    /// The number of the refused change, if it came from a bucket.
    pub refused_number: Option<u64>,
    /// How many errors it has.
    pub refused_errors: usize,
    /// The first of them.
    pub refused_first: Option<String>,
}

/// What an instance has that does not say.
fn one() -> usize {
    1
}

/// What an instance knows about itself.
pub struct Member {
    /// Who it is.
    pub identity: Identity,
    /// The policy in force.
    pub store: Arc<Store>,
    /// Where it came from.
    pub standing: Arc<Standing>,
    /// On how many connections it takes requests.
    pub connections: usize,
}

impl Member {
    /// What to say of itself at that Unix time.
    #[must_use]
    pub fn report(&self, now: i64) -> Report {
        let Self { identity, store, standing, connections } = self;
        let snapshot = store.current();
        let origin = snapshot.as_ref().and_then(|s| s.origin());
        let refused = standing.refused();
        Report {
            instance: identity.id.to_string(),
            host: identity.host.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            connections: *connections,
            started: identity.started,
            source: standing.source().to_owned(),
            source_state: standing.state().as_str().to_owned(),
            confirmed: standing.confirmed(),
            revision: snapshot.as_ref().map(|s| s.policy.revision().whole().to_owned()),
            number: origin.as_ref().map(|o| o.number),
            lineage: origin.as_ref().map(|o| o.lineage.clone()),
            since: snapshot.as_ref().map(|s| s.loaded_at.as_second()),
            too_old: standing.too_old(now),
            refused_since: refused.as_ref().map(|r| r.since),
            refused_number: refused.as_ref().and_then(|r| r.number),
            refused_errors: refused.as_ref().map_or(0, |r| r.errors),
            refused_first: refused.as_ref().map(|r| r.first.clone()),
        }
    }

    /// Answers whoever asks, until the connection is closed.
    pub async fn answer(&self, client: Client) {
        let mut questions = match client.subscribe(PING).await {
            Ok(questions) => questions,
            Err(error) => {
                tracing::error!(event = "ping_failed", %error, "nobody can ask this instance");
                return;
            }
        };
        while let Some(Message { reply, .. }) = questions.next().await {
            // Only into the inboxes that our own users read.
            let Some(to) = reply.filter(|to| is_inbox(to)) else { continue };
            let report = self.report(jiff::Timestamp::now().as_second());
            let Ok(bytes) = serde_json::to_vec(&report) else { continue };
            let _ = client.publish(to, bytes.into()).await;
        }
    }
}

fn is_inbox(subject: &str) -> bool {
    subject.strip_prefix(INBOX).is_some_and(|rest| rest.starts_with('.'))
}

/// Asks all instances, and gives what those say that answer, sorted by instance. Nobody knows how
/// many there are: it ends when no answer came for a while.
///
/// # Errors
/// When the question cannot be sent.
pub async fn ask(client: &Client) -> Result<Vec<Report>, String> {
    let inbox = client.new_inbox();
    let answers = client.subscribe(inbox.clone()).await.map_err(|e| e.to_string())?;
    client.publish_with_reply(PING, inbox, bytes::Bytes::new()).await.map_err(|e| e.to_string())?;
    client.flush().await.map_err(|e| e.to_string())?;
    Ok(gather(answers).await)
}

async fn gather(mut answers: Subscriber) -> Vec<Report> {
    let asked = Instant::now();
    let mut deadline = asked + FIRST_WITHIN;
    let mut reports = BTreeMap::new();
    while let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await {
        let took = asked.elapsed();
        deadline = Instant::now() + (took * MORE_TIMES).clamp(MORE_AT_LEAST, FIRST_WITHIN);
        if answer.payload.len() > MAX_ANSWER || reports.len() >= MAX_ANSWERS {
            continue;
        }
        if let Ok(report) = serde_json::from_slice::<Report>(&answer.payload) {
            reports.insert(report.instance.clone(), report);
        }
    }
    let _ = answers.unsubscribe().await;
    reports.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_one_token_of_a_subject() {
        let one = Identity::new([1; 10], 5);
        assert_eq!(&*one.id, "aeaqcaibaeaqcaib");
        assert!(!one.host.is_empty());
        assert_ne!(one.id, Identity::new([2; 10], 5).id);
    }

    #[test]
    fn answers_go_to_inboxes_of_our_own_users_alone() {
        assert!(is_inbox("_INBOX.solewriter.abc.1"));
        for subject in ["_INBOX.solewriter", "_INBOX.solewriterx.a", "$KV.solewriter_policy.a"] {
            assert!(!is_inbox(subject), "{subject}");
        }
    }
}
