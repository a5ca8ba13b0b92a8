//! Settings: one TOML file, each setting overridable by environment and flag, parsed into final
//! types once.
//!
//! An override is read by the same code as the file: it becomes a small TOML text of its own,
//! named after its flag, so that it is checked and reported alike.

mod overrides;
mod raw;
mod secret;
mod tool;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use self::overrides::{Kind, Overrides, documented, each};
use self::raw::Raw;
use self::secret::{
    ISSUER_SEED_VALUE, NATS_SEED_VALUE, SYSTEM_SEED_VALUE, XKEY_SEED_VALUE, read_text, secret_file,
    seed,
};
pub use self::tool::Tool;
use crate::audit::Spool;
use crate::nats::{Login, Nats, Secret, Tls};
use crate::service::Limits;
use crate::sessions::consumers::{self, Strangers};
use crate::sessions::{self, verdict::Gained};
use crate::telemetry::LogFormat;
use solewriter_core::diagnostics::{Collector, Problem, Problems, SourceFile, Spanned};
use solewriter_core::grant::{AuditStreams, Defaults};
use solewriter_core::keys::{Curve, Seed, Signer, User};
use solewriter_core::policy::model::StreamName;
use solewriter_types::keyspace::BucketName;

/// What is logged unless told otherwise: async-nats repeats at INFO what is logged here anyway.
const DEFAULT_FILTER: &str = "info,async_nats=warn";

/// What may wait for the audit stream, in bytes, unless the settings say otherwise: about 300,000
/// events.
const DEFAULT_SPOOL: u64 = 256 * 1024 * 1024;
const SPOOL_AT_LEAST: u64 = 1024 * 1024;
/// The bucket whose name `deploy/nats-server.conf` permits.
pub const DEFAULT_BUCKET: &str = "solewriter_policy";

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
    /// How often the source is looked at even if no event told of a change.
    pub poll: Duration,
    /// The file that keeps the last good policy.
    pub keep: Option<PathBuf>,
    /// How long the source may be silent before everything is denied.
    pub keep_at_most: Duration,
}

/// Everything that `serve` needs, checked.
#[derive(Debug)]
pub struct Settings {
    /// The broker.
    pub nats: Arc<Nats>,
    /// Signs every answer.
    pub issuer: Signer<solewriter_core::keys::Account>,
    /// Opens sealed requests.
    pub xkey: Option<Seed<Curve>>,
    /// The system user, for what reaches live connections.
    pub system: Option<Seed<User>>,
    /// The policy.
    pub policy: Policy,
    /// What services get that say nothing themselves.
    pub defaults: Defaults,
    /// Other accounts that a policy may place services in.
    pub accounts: Vec<Arc<str>>,
    /// From 0 to 1: at most this part of a lifetime is taken off at random.
    pub jitter: f64,
    /// How changes of the policy reach open connections.
    pub sessions: sessions::Settings,
    /// Bounds.
    pub limits: Limits,
    /// Where health and metrics listen, if anywhere.
    pub listen: Option<SocketAddr>,
    /// Where audit events go, besides the log.
    pub audit: Option<Audit>,
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

/// Reads a user's seed from the file that a flag names, which nobody else may read.
///
/// # Errors
/// What is wrong with the file.
pub fn seed_file(flag: &str, path: &Path) -> Result<Seed<User>, Problems> {
    let problems = Collector::new();
    let given = SourceFile::new(flag, path.display().to_string());
    let file = Spanned { value: path.to_owned(), span: given.span(0..given.text().len()) };
    let seed = secret_file(&file, &problems).and_then(|text| match Seed::parse(&text) {
        Ok(seed) => Some(seed),
        Err(error) => {
            let message = format!("{} does not hold the seed: {error}", path.display());
            problems.push(
                Problem::error("bad-seed", message)
                    .at(&file.span, "expected a file with a user's seed, `SU…`"),
            );
            None
        }
    });
    seed.ok_or_else(|| problems.finish())
}

/// Reads the settings file with what overrides it, and the secrets that they name.
///
/// # Errors
/// Every problem found, not the first.
pub fn load(path: &Path, overrides: &Overrides) -> Result<(Settings, Logging), Problems> {
    let problems = Collector::new();
    let raw = read(path, overrides, &problems)?;
    let resolved = resolve(raw, path, &problems);
    match resolved {
        Some(settings) if !problems.has_errors() => Ok(settings),
        _ => Err(problems.finish()),
    }
}

/// The file and what overrides it, put together and not judged yet.
fn read(path: &Path, overrides: &Overrides, problems: &Collector) -> Result<Raw, Problems> {
    let base = path.parent().unwrap_or(Path::new("."));
    let from_file = match read_text(path) {
        Ok(text) => {
            let file = SourceFile::new(path.display().to_string(), text.as_str());
            Raw::read(&file, base, problems)
        }
        Err(error) => {
            let message = format!("{} cannot be read: {error}", path.display());
            return Err(Problem::error("no-settings", message)
                .help("name the settings file with --config; `solewriter init DIR` writes one")
                .into());
        }
    };
    Ok(overridden(from_file, overrides, problems))
}

/// Puts what flags and the environment say over settings.
fn overridden(under: Raw, overrides: &Overrides, problems: &Collector) -> Raw {
    // Paths given by flag or environment are relative to where the command runs.
    overrides
        .documents
        .iter()
        .fold(under, |under, document| Raw::read(document, Path::new(""), problems).over(under))
}

fn resolve(raw: Raw, path: &Path, problems: &Collector) -> Option<(Settings, Logging)> {
    let missing = |table: &str, key: &str, example: &str| {
        if !raw.present.contains(&key) {
            problems.push(tool::missing(path, table, key, example));
        }
    };
    // Everything is looked at before the first `?`, so that all problems are reported.
    let servers = servers(raw.servers.as_deref(), problems);
    if raw.servers.is_none() {
        missing("nats", "servers", "[\"nats://127.0.0.1:4222\"]");
    }
    let login = login(raw.nats_seed.as_ref(), raw.credentials.as_ref(), problems);
    let given = |variable| std::env::var_os(variable).is_some();
    if login.is_none() && !raw.present.contains(&"credentials") && !given(NATS_SEED_VALUE) {
        missing("nats", "nkey_seed", "\"keys/callout.nk\"");
    }
    let issuer = seed(raw.issuer_seed.as_ref(), ISSUER_SEED_VALUE, problems);
    if issuer.is_none() && !given(ISSUER_SEED_VALUE) {
        missing("issuer", "seed", "\"keys/issuer.nk\"");
    }
    let issuer = issuer.and_then(|seed| Signer::new(&seed).ok());
    let xkey = seed(raw.xkey_seed.as_ref(), XKEY_SEED_VALUE, problems);
    let system = seed(raw.system_seed.as_ref(), SYSTEM_SEED_VALUE, problems);
    let policy = policy(&raw, path, problems);
    let tls = tls(&raw, problems);
    let queue_group = queue_group(&raw, problems);
    let connection_name = name(raw.name.as_ref(), "solewriter", problems);
    let grants = grants(&raw, problems);
    let patience = patience(&raw, problems);
    let clock_leeway = clock_leeway(&raw, problems);
    let sessions = sessions(&raw, problems);
    let drain = bounded(raw.drain, 10, 0..=600, problems);
    let listen = listen(raw.listen.as_ref(), problems);
    let audit = audit(raw.audit_stream, raw.audit_spool, raw.audit_spool_limit, problems);
    if raw.audit_given && !raw.present.contains(&"stream") {
        missing("audit", "stream", "\"AUDIT_EVENTS\"");
    }
    if raw.audit_given && !raw.present.contains(&"spool") {
        missing("audit", "spool", "\"audit-spool\"");
    }
    let format = log_format(raw.log_format.as_ref(), problems);
    let filter = raw.log_filter.map_or_else(|| DEFAULT_FILTER.to_owned(), |f| f.value);
    let jitter = raw.jitter.map_or(10, |j| j.value);
    let pending = raw.pending.map_or(16_384, |p| p.value);
    let connections = raw.connections.and_then(|c| usize::try_from(c.value).ok());
    let connections = connections.unwrap_or_else(default_connections);
    let (defaults, accounts) = grants?;

    let settings = Settings {
        nats: Arc::new(Nats {
            servers: servers?,
            login: login?,
            queue_group: queue_group?,
            name: connection_name?,
            connections,
            tls: tls?,
        }),
        issuer: issuer?,
        xkey,
        system,
        policy: policy?,
        defaults,
        accounts,
        jitter: f64::from(u8::try_from(jitter).unwrap_or(0)) / 100.0,
        sessions: sessions?,
        limits: Limits {
            pending: usize::try_from(pending).unwrap_or(1),
            patience: patience?,
            clock_leeway: i64::try_from(clock_leeway?.as_secs()).unwrap_or(0),
            drain: drain?,
            per_key: raw.per_key.and_then(|limit| u32::try_from(limit.value).ok()),
            per_host: raw.per_host.and_then(|limit| u32::try_from(limit.value).ok()),
        },
        listen: listen?,
        audit: audit?,
    };
    Some((settings, Logging { format: format?, filter }))
}

/// One for each processor: what comes on a connection is worked on by one thread. Two at least,
/// because nats-server verifies answers in the thread that reads their connection; and not so many
/// that an instance on a large machine is a crowd.
fn default_connections() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8)
}

fn queue_group(raw: &Raw, problems: &Collector) -> Option<String> {
    name(raw.queue_group.as_ref(), "solewriter", problems)
}

fn patience(raw: &Raw, problems: &Collector) -> Option<Duration> {
    bounded(raw.patience.clone(), 10, 0..=60, problems)
}

fn clock_leeway(raw: &Raw, problems: &Collector) -> Option<Duration> {
    bounded(raw.clock_leeway.clone(), 2, 0..=300, problems)
}

fn sessions(raw: &Raw, problems: &Collector) -> Option<sessions::Settings> {
    let every = bounded(raw.sweep_every.clone(), 30, 1..=3600, problems);
    let pace = raw.close_per_second.as_ref().map_or(100, |pace| pace.value);
    let gained = match raw.gained.as_ref().map(|gained| (gained, gained.value.as_str())) {
        None | Some((_, "leave")) => Some(Gained::Leave),
        Some((_, "close")) => Some(Gained::Close),
        Some((gained, other)) => {
            problems.push(
                Problem::error(
                    "bad-value",
                    format!("{other:?} is nothing to do with a connection"),
                )
                .at(&gained.span, "expected \"leave\" or \"close\""),
            );
            None
        }
    };
    let strangers = match raw.strangers.as_ref().map(|given| (given, given.value.as_str())) {
        None | Some((_, "delete")) => Some(Strangers::Delete),
        Some((_, "leave")) => Some(Strangers::Leave),
        Some((given, other)) => {
            problems.push(
                Problem::error("bad-value", format!("{other:?} is nothing to do with a consumer"))
                    .at(&given.span, "expected \"delete\" or \"leave\""),
            );
            None
        }
    };
    let per_service = raw.consumers_per_service.as_ref().map_or(200, |most| most.value);
    Some(sessions::Settings {
        consumers: consumers::Settings {
            per_service: usize::try_from(per_service).unwrap_or(1),
            strangers: strangers?,
        },
        every: every?,
        close_per_second: u32::try_from(pace).unwrap_or(1),
        gained: gained?,
    })
}

/// Where the policy is.
fn policy(raw: &Raw, path: &Path, problems: &Collector) -> Option<Policy> {
    let source = match (&raw.policy, &raw.bucket) {
        (Some(directory), Some(bucket)) => {
            problems.push(
                Problem::error(
                    "two-sources",
                    "`directory` and `bucket` in [policy] exclude each other",
                )
                .at(&bucket.span, "remove one")
                .also(&directory.span, "the other one"),
            );
            None
        }
        (Some(directory), None) => Some(PolicySource::Directory(directory.value.clone())),
        (None, Some(_)) => bucket(raw, problems).map(PolicySource::Bucket),
        (None, None) => {
            if !raw.present.contains(&"directory") && !raw.present.contains(&"bucket") {
                problems.push(tool::missing(path, "policy", "directory", "\"policy\""));
            }
            None
        }
    };
    let often = if raw.bucket.is_some() { 2 } else { 10 };
    let poll = bounded(raw.poll.clone(), often, 1..=86_400, problems);
    let keep_at_most = bounded(raw.keep_at_most.clone(), 72 * 3600, 1..=3650 * 86_400, problems);
    let keep = raw.keep.as_ref().map(|keep| keep.value.clone());
    Some(Policy { source: source?, poll: poll?, keep, keep_at_most: keep_at_most? })
}

/// The bucket that the policy is in.
fn bucket(raw: &Raw, problems: &Collector) -> Option<BucketName> {
    let Some(given) = &raw.bucket else { return BucketName::parse(DEFAULT_BUCKET).ok() };
    match BucketName::parse(&given.value) {
        Ok(name) => Some(name),
        Err(error) => {
            let message = format!("{:?} is no name of a bucket: {error}", given.value);
            problems.push(Problem::error("bad-name", message).at(&given.span, ""));
            None
        }
    }
}

/// Accounts and lifetime of grants.
fn grants(raw: &Raw, problems: &Collector) -> Option<(Defaults, Vec<Arc<str>>)> {
    let account = name(raw.account.as_ref(), "APP", problems);
    let accounts: Option<Vec<Arc<str>>> = raw
        .accounts
        .iter()
        .flatten()
        .map(|account| name(Some(account), "", problems).map(Arc::from))
        .collect();
    let lifetime = bounded(raw.lifetime.clone(), 3600, 10..=30 * 86_400, problems);
    let audit = audit_streams(raw, problems);
    let defaults = Defaults { account: Arc::from(account?), lifetime: lifetime?, audit: audit? };
    Some((defaults, accounts?))
}

/// The audit streams that a policy may name.
fn audit_streams(raw: &Raw, problems: &Collector) -> Option<AuditStreams> {
    let name = |given: &Option<Spanned<String>>| given.as_ref().map(|g| stream_name(g, problems));
    let (events, services) = (name(&raw.audit_stream), name(&raw.audit_services));
    if events == Some(None) || services == Some(None) {
        return None;
    }
    let (events, services, api) = (events.flatten(), services.flatten(), raw.audit_api.as_ref());
    let made = AuditStreams::new(events.as_ref(), services.as_ref(), api.map(|a| a.value.as_str()));
    match made {
        Ok(streams) => Some(streams),
        Err(error) => {
            // Of two streams with one name, that of services was put there besides.
            let (value, what) = match AuditStreams::new(events.as_ref(), services.as_ref(), None) {
                Ok(_) => (api, "is no prefix of JetStream's API"),
                Err(_) => {
                    (raw.audit_services.as_ref().or(raw.audit_stream.as_ref()), "is both streams")
                }
            };
            let shown = value.map(|value| value.value.clone()).unwrap_or_default();
            let problem = Problem::error("bad-value", format!("{shown:?} {what}"));
            problems.push(match value {
                Some(value) => problem.at(&value.span, error),
                None => problem,
            });
            None
        }
    }
}

fn stream_name(given: &Spanned<String>, problems: &Collector) -> Option<StreamName> {
    match StreamName::parse(&given.value) {
        Ok(name) => Some(name),
        Err(error) => {
            problems.push(
                Problem::error("bad-name", format!("{:?} is not a stream", given.value))
                    .at(&given.span, error),
            );
            None
        }
    }
}

fn tls(raw: &Raw, problems: &Collector) -> Option<Tls> {
    // Certificate and key: both or neither.
    let identity = match (&raw.tls_cert, &raw.tls_key) {
        (Some(cert), Some(key)) => Some((cert.value.clone(), key.value.clone())),
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => {
            problems.push(
                Problem::error("half-a-certificate", "`cert` and `key` in [nats.tls] go together")
                    .at(&one.span, "the other one is missing"),
            );
            return None;
        }
    };
    Some(Tls {
        required: raw.tls_required.as_ref().is_some_and(|r| r.value),
        first: raw.tls_first.as_ref().is_some_and(|f| f.value),
        ca: raw.tls_ca.as_ref().map(|ca| ca.value.clone()),
        identity,
    })
}

/// A name that NATS takes for a queue group, a connection or an account.
fn name(given: Option<&Spanned<String>>, default: &str, problems: &Collector) -> Option<String> {
    let Some(text) = given else { return Some(default.to_owned()) };
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.value.is_empty() || !text.value.chars().all(allowed) {
        problems.push(
            Problem::error("bad-name", format!("{:?} is not a name", text.value))
                .at(&text.span, "use letters, digits, `-`, `_` and `.`"),
        );
        return None;
    }
    Some(text.value.clone())
}

fn servers(
    given: Option<&[Spanned<String>]>,
    problems: &Collector,
) -> Option<Vec<async_nats::ServerAddr>> {
    let given = given?;
    let mut parsed = Vec::with_capacity(given.len());
    for server in given {
        match server.value.parse::<async_nats::ServerAddr>() {
            Ok(address) if address.has_user_pass() => problems.push(
                // The place is shown without its text, which holds a password.
                Problem::error(
                    "password-in-address",
                    format!("{}: an address holds a password", server.span.file().name()),
                )
                .help("solewriter connects with nkey_seed or credentials; remove `user:password@`"),
            ),
            Ok(address) => parsed.push(address),
            Err(error) => problems.push(
                Problem::error("bad-address", format!("{:?} is not an address", server.value))
                    .at(&server.span, error.to_string())
                    .help("write it as nats://HOST:PORT or tls://HOST:PORT"),
            ),
        }
    }
    if given.is_empty() {
        problems.push(Problem::error("no-servers", "`servers` in [nats] is empty"));
    }
    (!parsed.is_empty()).then_some(parsed)
}

fn login(
    seed_file: Option<&Spanned<PathBuf>>,
    credentials: Option<&Spanned<PathBuf>>,
    problems: &Collector,
) -> Option<Login> {
    match (seed_file, credentials) {
        (Some(seed), Some(credentials)) => {
            problems.push(
                Problem::error("two-logins", "`nkey_seed` and `credentials` exclude each other")
                    .at(&credentials.span, "remove one")
                    .also(&seed.span, "the other one"),
            );
            None
        }
        (None, Some(file)) => {
            let text = secret_file(file, problems)?;
            Some(Login::Credentials(Secret::new(text)))
        }
        (seed_file, None) => seed(seed_file, NATS_SEED_VALUE, problems).map(Login::Nkey),
    }
}

fn bounded(
    given: Option<Spanned<Duration>>,
    default: u64,
    seconds: std::ops::RangeInclusive<u64>,
    problems: &Collector,
) -> Option<Duration> {
    let Some(given) = given else { return Some(Duration::from_secs(default)) };
    let (least, most) =
        (Duration::from_secs(*seconds.start()), Duration::from_secs(*seconds.end()));
    if given.value < least || given.value > most {
        let range = format!("must be {}s to {}s", seconds.start(), seconds.end());
        problems
            .push(Problem::error("out-of-range", "duration out of range").at(&given.span, range));
        return None;
    }
    Some(given.value)
}

#[allow(clippy::option_option)]
fn listen(given: Option<&Spanned<String>>, problems: &Collector) -> Option<Option<SocketAddr>> {
    let Some(given) = given else { return Some(Some(SocketAddr::from(([127, 0, 0, 1], 9980)))) };
    if given.value == "off" {
        return Some(None);
    }
    if let Ok(address) = given.value.parse() {
        Some(Some(address))
    } else {
        problems.push(
            Problem::error("bad-address", format!("{:?} is not an address", given.value))
                .at(&given.span, "expected IP:PORT, or \"off\""),
        );
        None
    }
}

/// `None` when something is wrong with it; nothing in it when there is no such table.
#[allow(clippy::option_option)]
fn audit(
    stream: Option<Spanned<String>>,
    spool: Option<Spanned<PathBuf>>,
    limit: Option<Spanned<u64>>,
    problems: &Collector,
) -> Option<Option<Audit>> {
    let limit = match limit {
        Some(limit) if limit.value < SPOOL_AT_LEAST => {
            problems.push(
                Problem::error("out-of-range", "`spool_limit` is out of range")
                    .at(&limit.span, "must be at least 1MiB"),
            );
            return None;
        }
        Some(limit) => limit.value,
        None => DEFAULT_SPOOL,
    };
    let (Some(stream), Some(spool)) = (stream, spool) else { return Some(None) };
    // What is wrong with the name is said where grants are read.
    let name = StreamName::parse(&stream.value).ok()?;
    Some(Some(Audit { stream: name.to_string(), spool: Spool { dir: spool.value, limit } }))
}

fn log_format(given: Option<&Spanned<String>>, problems: &Collector) -> Option<LogFormat> {
    match given.map(|f| f.value.as_str()) {
        None | Some("auto") => Some(LogFormat::Auto),
        Some("text") => Some(LogFormat::Text),
        Some("json") => Some(LogFormat::Json),
        Some(_) => {
            if let Some(given) = given {
                problems.push(
                    Problem::error("bad-value", format!("{:?} is no log format", given.value))
                        .at(&given.span, "expected \"auto\", \"text\" or \"json\""),
                );
            }
            None
        }
    }
}
