//! The settings as the rest of the program has them: final types, checked.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::Spool;
use crate::nats::{Login, Nats};
use crate::policy_source::tenancy::Quota;
use crate::service::Limits;
use crate::sessions;
use crate::signer::client::Client;
use crate::telemetry::LogFormat;
use crate::traces;
use solewriter_core::authors::Authors;
use solewriter_core::callout::issue::Operator;
use solewriter_core::emergency;
use solewriter_core::grant::Defaults;
use solewriter_core::keys::{AccountSigner, Curve, Seed};
use solewriter_types::keyspace::BucketName;

/// Where the policy comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicySource {
    /// A folder of files.
    Directory(PathBuf),
    /// A NATS KV bucket, of which the callout's account imports reads.
    Bucket(BucketName),
}

impl fmt::Display for PolicySource {
    /// As people say it: `the directory policy`, `the policy bucket x`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "the directory {}", path.display()),
            Self::Bucket(name) => write!(f, "the policy bucket {name}"),
        }
    }
}

/// The policy: where it is, and how it is followed.
#[derive(Debug)]
pub struct Policy {
    /// Where it comes from.
    pub source: PolicySource,
    /// Who may change which part of it; `None` for whoever may push.
    pub authors: Option<Authors>,
    /// How often the source is looked at even if no event told of a change.
    pub poll: Duration,
    /// The file that keeps the last good policy.
    pub keep: Option<PathBuf>,
    /// How long the source may be silent before everything is denied.
    pub keep_at_most: Duration,
    /// Within which a bucket has to answer, for anybody to be given something to write; `None` where
    /// that is not asked for.
    pub lease: Option<Duration>,
}

/// Everything that `serve` needs, checked.
#[derive(Debug)]
pub struct Settings {
    /// The broker.
    pub nats: Arc<Nats>,
    /// Signs every answer.
    pub issuer: AccountSigner,
    /// Where its key is held, if not here.
    pub signer: Option<Arc<Client>>,
    /// What signs users in operator mode.
    pub operator: Option<Operator>,
    /// Opens sealed requests.
    pub xkey: Option<Seed<Curve>>,
    /// The system user, for what reaches live connections.
    pub system: Option<Arc<Login>>,
    /// The tenants; one without a name where the settings have none.
    pub tenants: Vec<Tenant>,
    /// Bounds.
    pub limits: Limits,
    /// Where health and metrics listen, if anywhere.
    pub listen: Option<SocketAddr>,
    /// Where traces go, if anywhere.
    pub traces: Option<traces::Settings>,
}

/// A policy, with all that is its own.
#[derive(Debug)]
pub struct Tenant {
    /// What it is called; `None` where there are no tenants.
    pub name: Option<Arc<str>>,
    /// The broker, with the user for the policy's bucket, for audit events, and for what instances say
    /// to each other. Without tenants, the callout's.
    pub nats: Arc<Nats>,
    /// The policy.
    pub policy: Policy,
    /// Who may sign an emergency grant.
    pub emergency: emergency::Rules,
    /// What services get that say nothing themselves.
    pub defaults: Defaults,
    /// Other accounts that a policy may place services in.
    pub accounts: Vec<Arc<str>>,
    /// From 0 to 1: at most this part of a lifetime is taken off at random.
    pub jitter: f64,
    /// The cluster that has all streams, where gateways join several.
    pub cluster: Option<String>,
    /// How changes of the policy reach open connections.
    pub sessions: sessions::Settings,
    /// Where audit events go, besides the log.
    pub audit: Option<Audit>,
    /// What its policy may declare at most.
    pub quota: Quota,
}

/// The audit stream.
#[derive(Clone, Debug)]
pub struct Audit {
    /// Its name.
    pub stream: String,
    /// Where events are kept until it has them.
    pub spool: Spool,
}

/// How to log: known before everything else is checked, so that problems can be logged.
#[derive(Clone, Debug)]
pub struct Logging {
    /// How lines look.
    pub format: LogFormat,
    /// `tracing` directives.
    pub filter: String,
}
