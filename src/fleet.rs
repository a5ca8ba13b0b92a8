//! The instances among themselves: who each one is, and what it reports.
//!
//! Each instance reports once a second, in the callout's account, that it is running and what it
//! serves ([`heartbeat`]). The publisher's account imports only these reports: a publisher learns who
//! serves the policy, but cannot send anything to the instances. Services are in another account and
//! get no reports.
//!
//! [`peers`] is what an instance concludes from the reports, [`Instances`] what a tool does.

pub mod heartbeat;
pub mod peers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Subscriber};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use self::peers::{BEAT, Beat, GONE_AFTER};
use crate::policy_source::snapshot_store::Store;
use crate::policy_source::status::SourceStatus;
use crate::policy_source::temporary::MAX_ON;
use solewriter_core::callout::issue::Operator;
use solewriter_core::callout::xkey::Sealer;
use solewriter_core::diagnostics::toml::show_time;
use solewriter_core::emergency::Emergency;
use solewriter_core::keys::AccountSigner;
use solewriter_core::policy::model::Policy;
use solewriter_types::audit_event::cut;

/// Where an instance says that it lives: `solewriter.instance.<id>`.
pub const SUBJECT: &str = "solewriter.instance";

/// The most instances that a tool keeps in mind.
const MAX_INSTANCES: usize = 10_000;

/// How long a tool listens before it has heard everybody: a beat, and as long again for one that is
/// late. Nobody knows how many there are.
const LISTEN: Duration = BEAT.saturating_mul(2);

/// How much of what was refused is told, in characters: a beat is short.
const MAX_WHY: usize = 200;

/// Of how many services an instance tells that they wait, and in how many characters for what.
pub const MAX_WAITING: usize = 16;
/// As above.
pub const MAX_WAITS_FOR: usize = 120;

/// Of how many things in transit an instance tells, and in how many characters of each.
pub const MAX_TRANSIT: usize = 8;
/// As above.
pub const MAX_WORDS: usize = 160;

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

    /// Whether that may be the id of an instance.
    #[must_use]
    pub fn is_id(text: &str) -> bool {
        let of_base32 = |b: u8| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b);
        text.len() == 16 && text.bytes().all(of_base32)
    }
}

/// The name of a connection on which an instance answers.
#[must_use]
pub fn answering_name(name: &str, instance: &str) -> String {
    format!("{name}-{instance}")
}

/// Which instance answers on a connection of the callout's user with that name: `None` for a
/// connection on which nobody does, `Some(None)` where that is not known.
#[must_use]
pub fn instance_of(name: &str) -> Option<Option<String>> {
    let last = name.rsplit('-').next().unwrap_or(name);
    // Those of one purpose, each of which belongs to an instance or a tool.
    if OTHERS.contains(&last) {
        return None;
    }
    Some(Some(last.to_owned()).filter(|id| Identity::is_id(id)))
}

/// How the names of connections of the callout's user end that are for something else.
const OTHERS: [&str; 6] = ["control", "large", "audit", "consumers", "doctor", "policy"];

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
    /// Which services' open connections wait for what the policy gives them, when this is the
    /// instance that looks after them; the most [`MAX_WAITING`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<Waiting>,
    /// What is in transit from one service to another, when this is the instance that looks after
    /// it; the most [`MAX_TRANSIT`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transit: Vec<Transit>,
    /// Whether nothing is in transit, as far as this instance knows; `None` for one that does not
    /// know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<bool>,
    /// What moved by the policy that it serves, when this instance settled it; the most
    /// [`MAX_TRANSIT`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handed_over: Vec<Moved>,
    /// The revision of the policy's documents, which is another than [`Self::revision`] while
    /// something counts on top of them, or has ended; `None` for one that does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<String>,
    /// The emergency grants that count, as many as there is room for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emergencies: Vec<EmergencyNow>,
    /// The public keys that it answers with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<PublicKeys>,
}

/// An emergency grant that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmergencyNow {
    /// Its id.
    pub id: String,
    /// Who writes.
    pub service: String,
    /// What.
    pub keyspace: String,
    /// The key of who signed it.
    pub by: String,
    /// Why, in their words, cut.
    pub reason: String,
    /// When it ends (Unix time).
    pub until: i64,
}

impl EmergencyNow {
    fn of(emergency: &Emergency) -> Self {
        Self {
            id: emergency.id().to_owned(),
            service: emergency.service().to_owned(),
            keyspace: emergency.keyspace().to_string(),
            by: emergency.by().to_string(),
            reason: cut(emergency.reason(), MAX_WORDS),
            until: emergency.until(),
        }
    }

    /// One sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { id, service, keyspace, by, reason, until } = self;
        let until = show_time(*until);
        format!("emergency {id}: `{service}` writes `{keyspace}` until {until}; {by}: {reason}")
    }
}

/// The public keys that an instance answers with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKeys {
    /// What signs.
    pub issuer: String,
    /// What requests are sealed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xkey: Option<String>,
    /// What signs users, in operator mode.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
}

/// Something that moved from one service to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// What: a keyspace, an object store, or subjects.
    pub what: String,
    /// Who wrote it; `None` where that was not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Who writes it.
    pub to: String,
    /// For how many milliseconds nobody could write it, at most.
    pub vacant_ms: u64,
}

impl Transit {
    /// One sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { what, from, to, seconds, waits_for } = self;
        let between = match from {
            Some(from) => format!("is between `{from}` and `{to}`"),
            None => format!("is held back from `{to}`"),
        };
        format!("`{what}` {between} for {seconds} s: {waits_for}")
    }
}

impl Moved {
    /// One sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { what, from, to, vacant_ms } = self;
        let from = from.as_ref().map(|from| format!(" from `{from}`")).unwrap_or_default();
        format!("`{what}` moved{from} to `{to}`; nobody could write it for {vacant_ms} ms at most")
    }
}

/// The right to write something that nobody is given yet: another service may still have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transit {
    /// What: a keyspace, an object store, or subjects.
    pub what: String,
    /// Who may still have it; `None` where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Who is to have it.
    pub to: String,
    /// For how many seconds.
    pub seconds: u64,
    /// What it waits for, in words.
    pub waits_for: String,
}

/// Connections of one service that only gained something, and get it when they connect anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The service.
    pub service: String,
    /// How many.
    pub connections: usize,
    /// For what, in the words of the policy.
    #[serde(rename = "for")]
    pub what: String,
}

impl PublicKeys {
    /// Of what an instance has.
    #[must_use]
    pub fn of(
        issuer: &AccountSigner,
        sealer: Option<&Sealer>,
        operator: Option<&Operator>,
    ) -> Self {
        let xkey = sealer.map(|sealer| sealer.public().to_string());
        let placed = operator.into_iter().flat_map(|operator| operator.accounts.values());
        let mut users: Vec<String> =
            placed.map(|placed| placed.signer.public().to_string()).collect();
        users.sort_unstable();
        Self { issuer: issuer.public().to_string(), xkey, users }
    }
}

impl Report {
    /// What a beat tells of its instance.
    fn told(beat: Beat) -> Self {
        let Beat { instance, started, revision, number, lineage, about, .. } = beat;
        let unknown = || "unknown".to_owned();
        let about = about.unwrap_or_else(|| Self {
            instance: String::new(),
            host: unknown(),
            version: unknown(),
            connections: one(),
            started: 0,
            source: unknown(),
            source_state: unknown(),
            confirmed: None,
            revision: None,
            number: None,
            lineage: None,
            since: None,
            too_old: None,
            refused_since: None,
            refused_number: None,
            refused_errors: 0,
            refused_first: None,
            waiting: Vec::new(),
            transit: Vec::new(),
            settled: None,
            handed_over: Vec::new(),
            documents: None,
            emergencies: Vec::new(),
            keys: None,
        });
        Self { instance, started, revision, number, lineage, ..about }
    }
}

/// What an instance has that does not say.
fn one() -> usize {
    1
}

/// What an instance knows about itself.
pub struct Member {
    /// Who it is.
    pub identity: Identity,
    /// Of which tenant it speaks; `None` where there are no tenants.
    pub tenant: Option<Arc<str>>,
    /// The policy in force.
    pub store: Arc<Store>,
    /// Where it came from.
    pub source_status: Arc<SourceStatus>,
    /// On how many connections it takes requests.
    pub connections: usize,
    /// What it answers with.
    pub keys: PublicKeys,
}

impl Member {
    /// What to say of itself at that Unix time.
    #[must_use]
    pub fn report(&self, now: i64) -> Report {
        let Self { identity, tenant: _, store, source_status, connections, keys } = self;
        let snapshot = store.current();
        let origin = snapshot.as_ref().and_then(|s| s.origin());
        let refused = source_status.refused();
        Report {
            instance: identity.id.to_string(),
            host: identity.host.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            connections: *connections,
            started: identity.started,
            source: source_status.source().to_owned(),
            source_state: source_status.state().as_str().to_owned(),
            confirmed: source_status.confirmed(),
            revision: snapshot.as_ref().map(|s| s.policy.revision().whole().to_owned()),
            number: origin.as_ref().map(|o| o.number),
            lineage: origin.as_ref().map(|o| o.lineage.clone()),
            since: snapshot.as_ref().map(|s| s.loaded_at.as_second()),
            too_old: source_status.too_old(now),
            refused_since: refused.as_ref().map(|r| r.since),
            refused_number: refused.as_ref().and_then(|r| r.number),
            refused_errors: refused.as_ref().map_or(0, |r| r.errors),
            refused_first: refused.as_ref().map(|r| r.first.chars().take(MAX_WHY).collect()),
            waiting: Vec::new(),
            transit: Vec::new(),
            documents: snapshot.as_ref().map(|s| s.policy.documents().whole().to_owned()),
            emergencies: snapshot.iter().flat_map(|s| emergencies(&s.policy)).collect(),
            settled: snapshot.filter(|_| store.hands_over()).map(|s| s.unsettled().is_none()),
            handed_over: Vec::new(),
            keys: Some(keys.clone()),
        }
    }
}

fn emergencies(policy: &Policy) -> Vec<EmergencyNow> {
    policy.emergencies().iter().take(MAX_ON).map(EmergencyNow::of).collect()
}

/// Every emergency grant that counts on some instance, each once.
#[must_use]
pub fn emergencies_of(reports: &[Report]) -> Vec<&EmergencyNow> {
    let all = reports.iter().flat_map(|report| &report.emergencies);
    let by_id: BTreeMap<&str, &EmergencyNow> = all.map(|one| (one.id.as_str(), one)).collect();
    by_id.into_values().collect()
}

/// The instances that a tool hears.
pub struct Instances {
    beats: Subscriber,
    since: Instant,
    heard: BTreeMap<String, (Report, Instant)>,
}

impl Instances {
    /// Begins to listen.
    ///
    /// # Errors
    /// When that cannot be done.
    pub async fn listen(client: &Client) -> Result<Self, String> {
        let beats = client.subscribe(format!("{SUBJECT}.*")).await.map_err(|e| e.to_string())?;
        client.flush().await.map_err(|e| e.to_string())?;
        Ok(Self { beats, since: Instant::now(), heard: BTreeMap::new() })
    }

    /// What those say that live, sorted by instance: after everybody could be heard.
    pub async fn all(&mut self) -> Vec<Report> {
        self.until(self.since + LISTEN).await;
        if self.heard.is_empty() {
            self.until(self.since + GONE_AFTER).await;
        }
        self.living()
    }

    /// The same once one of them has said something, or at `deadline`.
    pub async fn next(&mut self, deadline: Instant) -> Vec<Report> {
        let deadline = deadline.min(Instant::now() + BEAT);
        if let Ok(Some(message)) = timeout_at(deadline, self.beats.next()).await {
            self.take(&message.payload);
        }
        self.living()
    }

    async fn until(&mut self, deadline: Instant) {
        while let Ok(Some(message)) = timeout_at(deadline, self.beats.next()).await {
            self.take(&message.payload);
        }
    }

    fn take(&mut self, payload: &[u8]) {
        let Some(beat) = Beat::read(payload) else { return };
        if beat.leaves {
            self.heard.remove(&beat.instance);
        } else if self.heard.len() < MAX_INSTANCES || self.heard.contains_key(&beat.instance) {
            self.heard.insert(beat.instance.clone(), (Report::told(beat), Instant::now()));
        }
    }

    fn living(&mut self) -> Vec<Report> {
        self.heard.retain(|_, (_, heard)| heard.elapsed() < GONE_AFTER);
        self.heard.values().map(|(report, _)| report.clone()).collect()
    }
}

/// Hears all instances, and gives what they say of themselves, sorted by instance.
///
/// # Errors
/// When nobody can be heard at all.
pub async fn ask(client: &Client) -> Result<Vec<Report>, String> {
    Ok(Instances::listen(client).await?.all().await)
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
    fn what_an_older_instance_does_not_say_is_unknown() {
        let old = br#"{"instance":"a","started":5,"revision":"r","held_ms":9,"number":3,"lineage":"l","had":[],"sweeps":true,"makes":"m"}"#;
        let report = Report::told(Beat::read(old).unwrap());
        assert_eq!((report.instance.as_str(), report.number), ("a", Some(3)));
        assert_eq!((report.version.as_str(), report.source_state.as_str()), ("unknown", "unknown"));
        // Whom the rest is about is what the beat says.
        let mixed = Beat {
            about: Some(Report { instance: "b".to_owned(), number: Some(9), ..report }),
            ..Beat::read(old).unwrap()
        };
        let report = Report::told(mixed);
        assert_eq!((report.instance.as_str(), report.number), ("a", Some(3)));
    }
}
