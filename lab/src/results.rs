//! What the whole comparison found, as it is kept (`docs/performance/*.json`): everything in
//! `docs/performance.md` is made from these and from nothing else.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::direct;
use super::request::Kind;
use crate::real_clients::{self, Against, Storm};

/// Where and when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Processors.
    pub processors: usize,
    /// Memory, in bytes.
    pub memory: u64,
    /// Operating system and kernel.
    pub system: String,
    /// solewriter's version.
    pub solewriter: String,
    /// nats-server's version.
    pub nats_server: String,
    /// Whether solewriter was built for release.
    pub release: bool,
}

/// The whole comparison.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// When it began (UTC).
    pub date: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The load average of the last minute before it began: what else the machine had to do.
    pub load_before: f64,
    /// Requests straight to the service, in the clear and sealed.
    pub direct: Vec<Direct>,
    /// Requests a second that the service carries on the processors that it has for the next.
    #[serde(default)]
    pub goodput_capacity: f64,
    /// More and more requests, in the order of their number.
    pub goodput: Vec<Goodput>,
    /// What is refused, and what it costs.
    pub misuse: Vec<Misuse>,
    /// Policies of several sizes.
    pub scale: Vec<Scale>,
    /// One instance and two.
    pub instances: Vec<Instances>,
    /// What must not delay a decision.
    pub isolation: Vec<Isolation>,
    /// Real clients through a real server.
    pub connect: Vec<Connect>,
}

/// Requests straight to the service.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Direct {
    /// Whether they are sealed.
    pub sealed: bool,
    /// CPU of the four signatures, in microseconds, before and after each round.
    pub crypto_us: Vec<f64>,
    /// CPU of opening the request and sealing the answer; 0 in the clear.
    pub sealing_us: f64,
    /// The answer's size in bytes.
    pub answer_bytes: usize,
    /// 64 in flight.
    pub many: Vec<direct::Outcome>,
    /// One in flight.
    pub one: Vec<direct::Outcome>,
    /// Half of the maximum rate, open loop.
    pub half: Vec<direct::Outcome>,
}

/// One point of the goodput curve.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Goodput {
    /// Offered, as a multiple of the capacity.
    pub times: f64,
    /// What came of it.
    pub outcome: direct::Outcome,
}

/// What one kind of request costs.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Misuse {
    /// What was asked.
    pub kind: Kind,
    /// CPU of the service for each, in microseconds, by round.
    pub cpu_us: Vec<f64>,
}

/// One size of policy or grant.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Scale {
    /// Services in the policy.
    pub services: usize,
    /// Subjects in each grant.
    pub subjects: usize,
    /// The policy's texts, in bytes.
    pub policy_bytes: usize,
    /// From exec to ready, in seconds, by run.
    pub start_up: Vec<f64>,
    /// Resident memory when ready, in bytes.
    pub rss_ready: u64,
    /// Resident memory after every client was answered, in bytes.
    pub rss_after: u64,
    /// Clients that were answered.
    pub clients: usize,
    /// CPU of the four signatures, in microseconds.
    pub crypto_us: f64,
    /// The answer's size in bytes.
    pub answer_bytes: usize,
    /// 64 in flight.
    pub many: Vec<direct::Outcome>,
    /// One in flight.
    pub one: Vec<direct::Outcome>,
}

/// So many instances.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Instances {
    /// How many.
    pub instances: usize,
    /// 64 in flight.
    pub rounds: Vec<direct::Outcome>,
}

/// What runs beside an isolated measurement: nothing.
pub const BESIDE_NOTHING: &str =
    "nothing but an audit stream that never answers, as in all of these";
/// What runs beside an isolated measurement: changes of the policy.
pub const BESIDE_CHANGES: &str = "the policy, of as many services, changes every 2 s";

/// A run at half of the capacity beside something that must not disturb it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Isolation {
    /// What goes on beside it.
    pub beside: String,
    /// The run.
    pub outcome: direct::Outcome,
}

/// Real clients, against one of those who decide.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Connect {
    /// Who decides.
    pub against: Against,
    /// 64 at a time.
    pub closed: Vec<real_clients::Outcome>,
    /// The same with the callout on processors of its own.
    pub apart: Vec<real_clients::Outcome>,
    /// 500 a second.
    pub open: Vec<real_clients::Outcome>,
    /// All at once.
    pub storm: Vec<Storm>,
}

/// From where a stream is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// By a service, through the import of the state account.
    #[default]
    Import,
    /// By the admin, in the state account itself.
    State,
}

impl Place {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Import => "through the import",
            Self::State => "in the state account",
        }
    }
}

/// Messages of a stream, a second, in one round.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct StreamRound {
    /// From where.
    pub place: Place,
    /// Published and acknowledged, one in flight.
    pub publish_one: f64,
    /// The same, 64 in flight.
    pub publish_many: f64,
    /// Consumed and acknowledged, one at a time.
    pub consume_one: f64,
    /// The same, 64 at a time.
    pub consume_many: f64,
}

/// What it costs to reach a stream through the import.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Streams {
    /// Where.
    pub machine: Machine,
    /// When it began (UTC).
    pub date: String,
    /// The load average of the last minute before it began.
    pub load_before: f64,
    /// Messages of each figure with 64 in flight; a tenth of it with one.
    pub messages: usize,
    /// Bytes of each message.
    pub bytes: usize,
    /// Both places by turns.
    pub rounds: Vec<StreamRound>,
}

/// One way to have nats-server list its connections.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Listing {
    /// How many were listed.
    pub connections: usize,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// CPU of nats-server, in seconds.
    pub server_cpu: f64,
    /// CPU of who asks, in seconds.
    pub own_cpu: f64,
}

/// Both ways, one after the other.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct ListingRound {
    /// By pages of 256.
    pub small: Listing,
    /// As `serve` asks.
    pub serve: Listing,
}

/// What it costs nats-server to list its connections.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Listings {
    /// Where.
    pub machine: Machine,
    /// When it began (UTC).
    pub date: String,
    /// The load average of the last minute before it began.
    pub load_before: f64,
    /// Both ways by turns.
    pub rounds: Vec<ListingRound>,
}

/// What something took of `serve`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Change {
    /// Until the policy was in force, in seconds.
    pub seconds: f64,
    /// CPU until then, in seconds.
    pub in_force: f64,
    /// CPU until it did nothing any more, in seconds.
    pub cpu: f64,
}

/// All of a policy, and changes of it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct ChangeRound {
    /// The start, without what a start takes with a policy of one service.
    pub whole: Change,
    /// One service changes by a line.
    pub one: Change,
    /// There is one more service, with a bucket.
    pub new: Change,
}

/// What a change costs in a large policy.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Changes {
    /// Where.
    pub machine: Machine,
    /// When it began (UTC).
    pub date: String,
    /// The load average of the last minute before it began.
    pub load_before: f64,
    /// Services in the policy.
    pub services: usize,
    /// Each of these, one after the other.
    pub rounds: Vec<ChangeRound>,
    /// Resident memory after a start, in bytes.
    pub rss_ready: u64,
    /// The most until then.
    pub rss_peak: u64,
    /// The same after 100 changes.
    pub rss_after: u64,
}

/// Connections with one kind of grant, by who decides: CPU of nats-server for each, in
/// microseconds, by round.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ServedGrant {
    /// What is granted.
    pub what: String,
    /// How many subjects that is.
    pub subjects: usize,
    /// The answer's size in the clear.
    pub bytes: usize,
    /// Users of the server's configuration, with the same permissions.
    pub alone: Vec<f64>,
    /// A callout that is asked in the clear.
    pub clear: Vec<f64>,
    /// A callout whose requests and answers are sealed.
    pub sealed: Vec<f64>,
}

/// The same rights in many subjects and in few.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ServedCover {
    /// How many subjects the rules come to.
    pub subjects: usize,
    /// How many are sent.
    pub sent: usize,
    /// CPU of nats-server with all of them, in microseconds, by round.
    pub all: Vec<f64>,
    /// CPU of nats-server with those that are sent.
    pub few: Vec<f64>,
}

/// An answer that differs from another in one thing.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ServedForm {
    /// What is answered.
    pub what: String,
    /// The one that it is held against; itself if that is nothing else.
    pub against: String,
    /// How many subjects it has.
    pub subjects: usize,
    /// The answer's size.
    pub bytes: usize,
    /// CPU of nats-server for a connection, in microseconds, by round.
    pub cpu_us: Vec<f64>,
}

/// What connections cost one version of nats-server.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ServedBy {
    /// nats-server's version.
    pub nats_server: String,
    /// Grants of several sizes.
    pub grants: Vec<ServedGrant>,
    /// What it saves to leave out subjects that others cover.
    pub covers: Vec<ServedCover>,
    /// What else an answer may be.
    pub forms: Vec<ServedForm>,
}

/// What connections cost nats-server, by what the answer says.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Served {
    /// Where.
    pub machine: Machine,
    /// When it began (UTC).
    pub date: String,
    /// The load average of the last minute before it began.
    pub load_before: f64,
    /// The same in the end.
    pub load_after: f64,
    /// By version.
    pub servers: Vec<ServedBy>,
}

/// Looks at all connections while nothing changes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct SteadyLooks {
    /// How long it was watched, in seconds.
    pub seconds: f64,
    /// How many looks that were.
    pub looks: u64,
    /// CPU of `serve` in that time, in seconds: whatever it did.
    pub own_cpu: f64,
    /// The most memory that it had resident, in bytes.
    pub rss: u64,
    /// Pages that servers were asked for.
    pub pages: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Bytes of these as they were sent, which was compressed.
    pub sent: u64,
}

/// One service lost something.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Revocation {
    /// From when its file was written to when the last of its connections was closed.
    pub seconds: f64,
    /// Pages of lists that were asked for until then.
    pub pages: u64,
}

/// What very many connections cost `serve`, and how fast a change reaches those of one service.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Sweeps {
    /// Where.
    pub machine: Machine,
    /// When it began (UTC).
    pub date: String,
    /// The load average of the last minute before it began.
    pub load_before: f64,
    /// How many were open.
    pub connections: usize,
    /// On how many servers.
    pub servers: usize,
    /// How many each service had.
    pub each: usize,
    /// While nothing changed.
    pub steady: SteadyLooks,
    /// One service after the other.
    pub revocations: Vec<Revocation>,
}

/// A long run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Soak {
    /// Where.
    pub machine: Machine,
    /// When it began (UTC).
    pub date: String,
    /// How long it was to run, in seconds.
    pub seconds: f64,
    /// Connections per second that the machine carried before, closed loop.
    pub capacity: f64,
    /// Connections per second that were offered.
    pub rate: f64,
    /// Connections that were made.
    pub connected: u64,
    /// Connections refused, or not made in time, while the server stood.
    pub failed: u64,
    /// Attempts that met no server, or one that had just begun and had nobody to ask; each was made
    /// again.
    pub retried: u64,
    /// Changes of the policy that came into force.
    pub reloads: u64,
    /// Restarts of nats-server.
    pub restarts: u64,
    /// Over time.
    pub samples: Vec<Sample>,
}

/// One moment of a long run.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Sample {
    /// Seconds since the beginning.
    pub at: f64,
    /// Resident memory of the service, in bytes.
    pub service_rss: u64,
    /// Resident memory of nats-server, in bytes.
    pub server_rss: u64,
    /// Connections made since the sample before, per second.
    pub per_second: f64,
    /// 99 of 100 of those were faster, in milliseconds.
    pub p99_ms: f64,
}

/// What was measured beside the report.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// See [`super::streams`].
    pub streams: Option<Streams>,
    /// See [`super::soak`].
    pub soak: Option<Soak>,
    /// See [`super::listing`].
    pub listings: Option<Listings>,
    /// See [`super::change`].
    pub changes: Option<Changes>,
    /// See [`super::served`].
    pub served: Option<Served>,
    /// See [`super::sweeps`].
    pub sweeps: Option<Sweeps>,
}

impl Beside {
    /// What is kept of it in a folder.
    ///
    /// # Errors
    /// When a file is there and cannot be read.
    pub fn kept(folder: &Path) -> Result<Self, super::Error> {
        Ok(Self {
            streams: kept(&folder.join("streams.json"))?,
            soak: kept(&folder.join("soak.json"))?,
            listings: kept(&folder.join("listing.json"))?,
            changes: kept(&folder.join("change.json"))?,
            served: kept(&folder.join("served.json"))?,
            sweeps: kept(&folder.join("sweeps.json"))?,
        })
    }
}

/// The results in a file, if it is there.
///
/// # Errors
/// When it is there and cannot be read.
pub fn kept<T: DeserializeOwned>(file: &Path) -> Result<Option<T>, super::Error> {
    let text = file.exists().then(|| std::fs::read(file)).transpose()?;
    Ok(text.map(|text| serde_json::from_slice(&text)).transpose()?)
}

/// The middle one; of an even number, the lower of the two in the middle.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

impl Direct {
    /// CPU of the service for each authorisation, in microseconds.
    #[must_use]
    pub fn cpu_us(&self) -> Option<f64> {
        median(self.many.iter().filter_map(|outcome| outcome.service_cpu_us))
    }

    /// The four signatures, in microseconds.
    #[must_use]
    pub fn crypto(&self) -> Option<f64> {
        median(self.crypto_us.iter().copied())
    }

    /// Authorisations per second, 64 in flight.
    #[must_use]
    pub fn per_second(&self) -> Option<f64> {
        median(self.many.iter().map(|outcome| outcome.per_second))
    }
}

/// The median of what `of` makes of the same round of both.
pub(super) fn paired(one: &[f64], other: &[f64], of: impl Fn(f64, f64) -> f64) -> Option<f64> {
    median(one.iter().zip(other).map(|(one, other)| of(*one, *other)))
}

/// What each subject takes that one grant has and a smaller one has not.
fn each_more(small: &ServedGrant, large: &ServedGrant) -> Option<f64> {
    let subjects = u32::try_from(large.subjects.checked_sub(small.subjects)?).ok()?;
    let more = paired(&large.clear, &small.clear, |large, small| large - small)?;
    (subjects > 0).then(|| more / f64::from(subjects))
}

impl ServedBy {
    /// What sealing takes of nats-server for each connection, in microseconds.
    #[must_use]
    pub fn sealing(&self) -> Option<f64> {
        let smallest = self.grants.iter().min_by_key(|grant| grant.subjects)?;
        paired(&smallest.sealed, &smallest.clear, |sealed, clear| sealed - clear)
    }

    /// What each subject takes of nats-server for each connection, in microseconds, with the rules
    /// that have the largest answer: between the smallest and the largest grant of them.
    #[must_use]
    pub fn subject(&self) -> Option<f64> {
        let grants = self.dearest();
        each_more(grants.first()?, grants.last()?)
    }

    /// How much more a subject takes in the largest grant than in the one before.
    #[must_use]
    pub fn growth(&self) -> Option<f64> {
        let grants = self.dearest();
        let [first, middle, last] = grants.as_slice() else { return None };
        let (below, above) = (each_more(first, middle)?, each_more(middle, last)?);
        (below > 0.0).then(|| above / below)
    }

    /// The grants of the rules that have the largest answer, the smallest first.
    fn dearest(&self) -> Vec<&ServedGrant> {
        let largest = self.grants.iter().max_by_key(|grant| grant.bytes);
        let what = largest.map(|grant| grant.what.as_str());
        let same = self.grants.iter().filter(|grant| Some(grant.what.as_str()) == what);
        let mut grants: Vec<_> = same.collect();
        grants.sort_by_key(|grant| grant.subjects);
        grants
    }
}

impl Machine {
    /// This machine, and what runs on it.
    #[must_use]
    pub fn here(nats_server: String) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal");
        let memory = memory.split(' ').next().and_then(|kb| kb.parse::<u64>().ok());
        Self {
            processor: after(&read("/proc/cpuinfo"), "model name"),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory: memory.unwrap_or_default() * 1024,
            system: format!(
                "{} {} {}",
                std::env::consts::OS,
                read("/proc/sys/kernel/osrelease").trim(),
                std::env::consts::ARCH
            ),
            solewriter: env!("CARGO_PKG_VERSION").to_owned(),
            nats_server,
            release: !cfg!(debug_assertions),
        }
    }
}

/// The time, as the page shows it.
#[must_use]
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// What else the machine has to do: the load average of the last minute.
#[must_use]
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default()
}
