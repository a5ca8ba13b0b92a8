//! What was seen of a deployment: plain facts, from which the families of checks conclude.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::adoption::server_config::permissions::Rights;
use crate::buckets::Stream;
use crate::fleet::Report;
use crate::nats::certificate::Validity;
use crate::operator::{Change, Missing};
use crate::sessions::consumers::sweep::Survey;
use crate::signer::client::Unheld;
use solewriter_core::grant::AuditStreams;
use solewriter_core::policy::model::Policy;

/// Something that was looked for, or why it could not be seen and what would let it.
pub type Look<T> = Result<T, Blind>;

/// Why something could not be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blind {
    /// Why.
    pub why: String,
    /// What would have to be set or mended.
    pub mend: String,
}

impl Blind {
    /// A reason, and what would help.
    pub fn new(why: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { why: why.into(), mend: mend.into() }
    }
}

/// Everything that the checks conclude from.
pub struct Seen {
    /// What the settings say.
    pub settings: Settings,
    /// Each of `[nats] servers`.
    pub addresses: Vec<Address>,
    /// Each file with certificates that the settings name, by its setting, and for how long it is
    /// valid.
    pub certificates: Vec<(&'static str, Validity)>,
    /// What time it is here.
    pub now: Timestamp,
    /// Each user of our own, in the order of [`Role::ALL`].
    pub users: Vec<User>,
    /// Each server that answers the system user.
    pub servers: Look<Vec<SeenServer>>,
    /// How many servers the cluster says it has.
    pub active_servers: usize,
    /// Servers that do not tell of open connections as a server does, and how.
    pub untold: Vec<String>,
    /// Each account, as each server has it.
    pub accounts: Look<Vec<AccountOn>>,
    /// Who takes authorization requests.
    pub takers: Look<Vec<Taker>>,
    /// A connection with a key that nobody has, to each address.
    pub probes: Look<Vec<Probe>>,
    /// A connection without any credentials, to each address.
    pub anonymous: Vec<(String, Look<Entry>)>,
    /// Connections of the services' accounts.
    pub connections: Look<Vec<Connection>>,
    /// Connections in the accounts of our own users, and in the system account.
    pub guests: Look<Vec<Connection>>,
    /// What each instance says of itself.
    pub instances: Look<Vec<Report>>,
    /// The policy.
    pub policy: Look<Policy>,
    /// Whether the policy was seen, and does not hold.
    pub policy_is_wrong: bool,
    /// What is wrong with the bucket that the policy is in.
    pub policy_bucket: Vec<&'static str>,
    /// The consumers of buckets, object stores and audit streams, by the policy; the error is why the callout's
    /// user cannot list them.
    pub consumers: Look<Result<Survey, String>>,
    /// The streams of the account that holds the buckets.
    pub streams: Look<Vec<Stream>>,
    /// The JetStream domain that they are in, if it has a name.
    pub domain: Option<String>,
    /// The streams of the account that holds the audit streams.
    pub audit_streams: Look<Vec<Stream>>,
    /// How far services have moved, while the deployment is being adopted.
    pub adoption: Option<Look<Adoption>>,
    /// The account JWTs, in operator mode.
    pub operator: Option<Look<Operator>>,
}

/// What servers say of account JWTs, held against the settings.
#[derive(Clone, Debug)]
pub struct Operator {
    /// What has to change, by server.
    pub changes: Vec<(String, Change)>,
    /// What could not be compared, and why.
    pub unknown: Vec<String>,
    /// Accounts of the settings that there is no JWT of.
    pub missing: Vec<Missing>,
    /// JWTs that a server has otherwise than the files: the server, and the account.
    pub others: Vec<(String, Arc<str>)>,
    /// JWTs that end soon: the account, and the seconds left.
    pub ending: Vec<(Arc<str>, i64)>,
    /// Signing keys of the accounts that decide who gets in, whose seeds are not ours: the account, and
    /// the key; `None` where our own are not known.
    pub foreign_keys: Option<Vec<(Arc<str>, String)>>,
    /// What the server takes for the JWT of who has none.
    pub sentinel: Look<Sentinel>,
}

/// What a server takes for the JWT of who has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sentinel {
    /// Nothing.
    None,
    /// One, and what is wrong with it.
    Set(Vec<String>),
}

/// Who has moved to the services' account, and who is left in the old one.
#[derive(Clone, Debug, Default)]
pub struct Adoption {
    /// The old account, which has the buckets.
    pub old: String,
    /// Who may log in there without being asked about, by nats-server's configuration; `None` when
    /// none was given.
    pub logins: Option<Vec<Login>>,
    /// Connections that solewriter let in, by service.
    pub moved: BTreeMap<Arc<str>, Side>,
    /// Connections of the old account, by user.
    pub left: Vec<Left>,
    /// Servers that did not tell all of their connections, and how.
    pub untold: Vec<String>,
}

/// Somebody who may log in to the old account.
#[derive(Clone, Debug)]
pub struct Login {
    /// The user.
    pub user: String,
    /// Which service that is.
    pub service: Option<Arc<str>>,
    /// What it may do there; `None` if that is not in the configuration.
    pub rights: Option<Rights>,
}

/// Connections of one user in the old account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The user.
    pub user: String,
    /// Which service that is.
    pub service: Option<Arc<str>>,
    /// Its connections.
    pub side: Side,
}

/// Connections of one service in one account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// How many.
    pub connections: usize,
    /// From where; no more than [`Side::ADDRESSES`].
    pub addresses: BTreeSet<String>,
    /// Its queue groups, each with its subject; looked at only where it has connections in both
    /// accounts.
    pub queues: BTreeSet<(String, String)>,
}

impl Side {
    /// How many addresses are kept.
    pub const ADDRESSES: usize = 8;
}

/// What the settings say, as far as checks need it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The issuer's public key.
    pub issuer: Look<String>,
    /// Whether the signer holds the issuer's key, where one is set.
    pub signer: Option<Result<(), Unheld>>,
    /// The public curve key; `None` when requests come unsealed.
    pub xkey: Look<Option<String>>,
    /// Where services are placed, and where a policy may place them.
    pub accounts: Vec<Arc<str>>,
    /// How long permissions last that the policy says nothing of.
    pub lifetime: Duration,
    /// How long a request may wait in `serve`.
    pub patience: Duration,
    /// How far a server's clock may be behind.
    pub clock_leeway: Duration,
    /// The queue group of the instances.
    pub queue_group: String,
    /// The stream that takes solewriter's events, if one is named.
    pub audit: Option<String>,
    /// The audit streams, as services see them.
    pub audit_streams: AuditStreams,
    /// The cluster that has all streams, if the settings name one.
    pub cluster: Option<String>,
}

/// An address of `[nats] servers`.
#[derive(Clone, Debug)]
pub struct Address {
    /// `HOST:PORT`.
    pub name: String,
    /// Whether it is of this machine.
    pub loopback: bool,
    /// Whether our own connections there use TLS, as the settings say.
    pub tls: bool,
    /// The server's INFO.
    pub info: Look<Info>,
    /// For how long its certificate is valid, where it has one that is trusted.
    pub certificate: Option<Validity>,
}

/// What a server says before anybody logs in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Info {
    /// Its id.
    pub server_id: String,
    /// Its name.
    pub server_name: String,
    /// Its version.
    pub version: String,
    /// What a client is asked to sign; empty without.
    pub nonce: String,
    /// Whether a login is asked for.
    pub auth_required: bool,
    /// Whether TLS is demanded.
    pub tls_required: bool,
    /// Whether TLS is offered.
    pub tls_available: bool,
}

impl Seen {
    /// The account of one of our users, when it is known.
    #[must_use]
    pub fn account(&self, role: Role) -> Option<&str> {
        self.users.iter().find(|user| user.role == role)?.account.as_deref().ok()
    }
}

/// One of the users that the settings have seeds of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes and answers requests.
    Callout,
    /// Works for one tenant: reads its policy's bucket, and publishes its audit events. Without
    /// tenants, the callout's user does that.
    Control,
    /// Sees the servers.
    System,
    /// Manages the buckets.
    Admin,
    /// Manages the audit streams.
    AuditAdmin,
    /// Writes the policy's bucket.
    Publisher,
}

impl Role {
    /// All of them but a tenant's, in the order in which they connect.
    pub const ALL: [Self; 5] =
        [Self::Callout, Self::System, Self::Admin, Self::AuditAdmin, Self::Publisher];

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Callout => "callout user",
            Self::Control => "tenant's user",
            Self::System => "system user",
            Self::Admin => "admin",
            Self::AuditAdmin => "audit admin",
            Self::Publisher => "publisher",
        }
    }

    /// The setting with its seed.
    #[must_use]
    pub fn setting(self) -> &'static str {
        match self {
            Self::Callout | Self::Control => "[nats] nkey_seed",
            Self::System => "[system] nkey_seed",
            Self::Admin => "[admin] nkey_seed",
            Self::AuditAdmin => "[audit_admin] nkey_seed",
            Self::Publisher => "[publisher] nkey_seed",
        }
    }
}

/// What became of one of our users.
#[derive(Clone, Debug)]
pub struct User {
    /// Which.
    pub role: Role,
    /// Its public key, where the settings have a seed.
    pub key: Option<String>,
    /// Whether it got in.
    pub login: SeenLogin,
    /// The account that it is in.
    pub account: Look<String>,
    /// Whether the server asked about it; not known while nobody watches.
    pub called_out: Option<bool>,
}

/// How a login ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenLogin {
    /// The settings have no seed of it.
    NotSet,
    /// The seed cannot be used; why.
    Unusable(String),
    /// TLS fails: why, and what would help.
    NoTls(String, &'static str),
    /// The server does not let it in; why.
    Refused(String),
    /// It is in.
    In,
}

/// A server, from `VARZ`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SeenServer {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `authorization.timeout`, in seconds.
    pub auth_timeout: f64,
    /// When it read its configuration again, if it did since it started.
    pub reloaded: Option<Timestamp>,
    /// How far its clock is ahead of ours; negative when it is behind.
    pub ahead: f64,
    /// Whether it takes MQTT clients.
    pub mqtt: bool,
    /// Whether it takes WebSocket clients.
    pub websocket: bool,
    /// Whether it takes leafnodes.
    pub leafnodes: bool,
    /// Whether flow control and acknowledgements have their newer form (`js_ack_fc_v2`).
    pub newer_flow_control: bool,
    /// The largest message that it takes, in bytes; 0 when it does not say.
    pub max_payload: u64,
    /// Its name as a gateway; empty when it is none.
    pub gateway: String,
    /// Listeners of its own kind, `websocket` or `mqtt`, that let in who shows nothing, and as
    /// whom.
    pub guests: Vec<(&'static str, String)>,
}

/// An account as one server has it, from `ACCOUNTZ`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct AccountOn {
    /// The server's name.
    #[serde(skip)]
    pub server: String,
    /// The account's name.
    #[serde(rename = "account_name")]
    pub name: String,
    /// Whether it is the system account.
    #[serde(default)]
    pub is_system: bool,
    /// Whether JetStream is enabled in it.
    #[serde(default)]
    pub jetstream_enabled: bool,
    /// What it exports.
    #[serde(default)]
    pub exports: Vec<Export>,
    /// What it imports.
    #[serde(default)]
    pub imports: Vec<Import>,
    /// Its JWT, in operator mode.
    #[serde(default)]
    pub jwt: String,
    /// Subjects that become others: where from, and to what.
    #[serde(default)]
    pub mappings: BTreeMap<String, Vec<Mapping>>,
}

/// Where a mapping leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Mapping {
    /// The subject.
    #[serde(default)]
    pub subject: String,
}

/// An export.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Export {
    /// Its subject.
    #[serde(default)]
    pub subject: String,
    /// `service` or `stream`.
    #[serde(default, rename = "type")]
    pub kind: String,
}

/// An import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Import {
    /// The subject in the exporting account.
    #[serde(default)]
    pub subject: String,
    /// The subject in the importing account.
    #[serde(default)]
    pub local_subject: String,
    /// The exporting account.
    #[serde(default)]
    pub account: String,
    /// `service` or `stream`.
    #[serde(default, rename = "type")]
    pub kind: String,
}

/// A subscription that authorization requests go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taker {
    /// The server that it is connected to.
    pub server: String,
    /// The number of its connection there.
    pub connection: u64,
    /// The account that it is in.
    pub account: String,
    /// Its queue group; `None` gets every request.
    pub queue: Option<String>,
    /// Who it was let in as.
    pub user: String,
    /// Its name for itself.
    pub name: String,
    /// Whether it is our own, which only watches.
    pub watches: bool,
}

/// A connection, from `CONNZ`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Connection {
    /// Its number.
    pub cid: u64,
    /// Its name for itself.
    pub name: String,
    /// Who it was let in as.
    pub authorized_user: String,
    /// The account that it is in.
    pub account: String,
    /// `Client`, or `Leafnode` for a whole server.
    #[serde(default)]
    pub kind: String,
}

/// How a connection that has no business here ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It got in; into which account, when that can be told.
    Entered(Option<String>),
    /// It was refused after so long.
    Refused(Duration),
}

/// A connection with a key that nobody has.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Where.
    pub address: String,
    /// How it ended.
    pub entry: Look<Entry>,
    /// The request that the server made for it.
    pub request: Option<Request>,
}

/// An authorization request that was watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whether it came sealed.
    pub sealed: bool,
    /// What is in it, when it could be opened.
    pub content: Option<Content>,
}

/// What a request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The server's name.
    pub server: String,
    /// The account key that it expects answers from.
    pub issuer: String,
    /// Until when the server waits, from when the request came here, in seconds by our clock.
    pub waits: i64,
    /// Whether the client had something to sign.
    pub nonce: bool,
    /// Whether the server's signature verifies.
    pub verified: bool,
    /// The key that the client showed.
    pub nkey: String,
    /// The JWT that came with it, in operator mode.
    pub jwt: String,
}

/// A field of a server's answer, wherever it is.
#[must_use]
pub fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}
