//! Settings: one TOML file, each setting overridable by environment and flag, parsed into final
//! types once.
//!
//! An override is read by the same code as the file: it becomes a small TOML text of its own,
//! named after its flag, so that it is checked and reported alike.

mod overrides;
mod raw;
mod secret;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use self::overrides::{Kind, Overrides, documented, each};
use self::raw::Raw;
pub use self::secret::Secret;
use self::secret::{
    ISSUER_SEED_VALUE, NATS_SEED_VALUE, SYSTEM_SEED_VALUE, XKEY_SEED_VALUE, read_text, secret_file,
    seed,
};
use crate::keys::{Curve, Seed, Signer, User};
use crate::permissions::Defaults;
use crate::source::{Collector, Problem, Problems, SourceFile, Spanned};
use crate::telemetry::LogFormat;

/// What is logged unless told otherwise: async-nats repeats at INFO what is logged here anyway.
const DEFAULT_FILTER: &str = "info,async_nats=warn";

/// How to reach nats-server, and as whom.
#[derive(Debug)]
pub struct Nats {
    /// Addresses, at least one.
    pub servers: Vec<async_nats::ServerAddr>,
    /// Who we are.
    pub login: Login,
    /// The queue group that instances share.
    pub queue_group: String,
    /// The connection's name.
    pub name: String,
    /// How many connections there are, each with a thread that works on what comes on it.
    pub connections: usize,
    /// TLS.
    pub tls: Tls,
}

/// What solewriter itself connects with.
#[derive(Debug)]
pub enum Login {
    /// The callout user's NKEY.
    Nkey(Seed<User>),
    /// A credentials file's text.
    Credentials(Secret),
}

/// TLS towards nats-server.
#[derive(Debug, Default)]
pub struct Tls {
    /// Refuse a connection without it.
    pub required: bool,
    /// Handshake before the server's INFO.
    pub first: bool,
    /// Certificate authorities to trust, besides the system's.
    pub ca: Option<PathBuf>,
    /// Client certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What bounds the work.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests waiting at most.
    pub pending: usize,
    /// How long a request may wait.
    pub patience: Duration,
    /// How far servers' clocks may be behind, in seconds.
    pub clock_leeway: i64,
    /// How long stopping may take.
    pub drain: Duration,
    /// Authorisations of one key in a minute at most.
    pub per_key: Option<u32>,
    /// Requests from one address in a minute at most.
    pub per_host: Option<u32>,
}

/// Everything that `serve` needs, checked.
#[derive(Debug)]
pub struct Settings {
    /// The broker.
    pub nats: Nats,
    /// Signs every answer.
    pub issuer: Signer<crate::keys::Account>,
    /// Opens sealed requests.
    pub xkey: Option<Seed<Curve>>,
    /// A system account user, for what reaches live connections.
    pub system: Option<Seed<User>>,
    /// The policy's folder.
    pub policy: PathBuf,
    /// How often the folder is read even if no event told of a change.
    pub poll: Duration,
    /// What services get that say nothing themselves.
    pub defaults: Defaults,
    /// Other accounts that a policy may place services in.
    pub accounts: Vec<Arc<str>>,
    /// From 0 to 1: at most this part of a lifetime is taken off at random.
    pub jitter: f64,
    /// Bounds.
    pub limits: Limits,
    /// Where health and metrics listen, if anywhere.
    pub listen: Option<SocketAddr>,
}

/// How to log: known before everything else is checked, so that problems can be logged.
#[derive(Clone, Debug)]
pub struct Logging {
    /// How lines look.
    pub format: LogFormat,
    /// `tracing` directives.
    pub filter: String,
}

/// Reads the settings file with what overrides it, and the secrets that they name.
///
/// # Errors
/// Every problem found, not the first.
pub fn load(path: &Path, overrides: &Overrides) -> Result<(Settings, Logging), Problems> {
    let problems = Collector::new();
    let base = path.parent().unwrap_or(Path::new("."));
    let from_file = match read_text(path) {
        Ok(text) => {
            let file = SourceFile::new(path.display().to_string(), text.as_str());
            Raw::read(&file, base, &problems)
        }
        Err(error) => {
            problems.push(
                Problem::error(
                    "no-settings",
                    format!("{} cannot be read: {error}", path.display()),
                )
                .help("name the settings file with --config; `solewriter init DIR` writes one"),
            );
            return Err(problems.finish());
        }
    };
    // Paths given by flag or environment are relative to where the command runs.
    let raw = overrides.documents.iter().fold(from_file, |under, document| {
        Raw::read(document, Path::new(""), &problems).over(under)
    });
    let resolved = resolve(raw, path, &problems);
    match resolved {
        Some(settings) if !problems.has_errors() => Ok(settings),
        _ => Err(problems.finish()),
    }
}

fn resolve(raw: Raw, path: &Path, problems: &Collector) -> Option<(Settings, Logging)> {
    let present = raw.present;
    let missing = |table: &str, key: &str, example: &str| {
        if present.contains(&key) {
            return;
        }
        problems.push(
            Problem::error("missing-setting", format!("`{key}` in [{table}] is not set"))
                .help(format!("in {}: [{table}] {key} = {example}", path.display())),
        );
    };
    // Everything is looked at before the first `?`, so that all problems are reported.
    let servers = servers(raw.servers.as_deref(), problems);
    if raw.servers.is_none() {
        missing("nats", "servers", "[\"nats://127.0.0.1:4222\"]");
    }
    let login = login(raw.nats_seed.as_ref(), raw.credentials.as_ref(), problems);
    let given = |variable| std::env::var_os(variable).is_some();
    if login.is_none() && !present.contains(&"credentials") && !given(NATS_SEED_VALUE) {
        missing("nats", "nkey_seed", "\"keys/callout.nk\"");
    }
    let issuer = seed(raw.issuer_seed.as_ref(), ISSUER_SEED_VALUE, problems);
    if issuer.is_none() && !given(ISSUER_SEED_VALUE) {
        missing("issuer", "seed", "\"keys/issuer.nk\"");
    }
    let issuer = issuer.and_then(|seed| Signer::new(&seed).ok());
    let xkey = seed(raw.xkey_seed.as_ref(), XKEY_SEED_VALUE, problems);
    let system = seed(raw.system_seed.as_ref(), SYSTEM_SEED_VALUE, problems);
    if raw.policy.is_none() {
        missing("policy", "directory", "\"policy\"");
    }
    let identity = certificate(raw.tls_cert, raw.tls_key, problems);
    let token = |given, default| name(given, default, problems);
    let queue_group = token(raw.queue_group, "solewriter");
    let connection_name = token(raw.name, "solewriter");
    let account = token(raw.account, "APP");
    let accounts: Option<Vec<Arc<str>>> = raw
        .accounts
        .unwrap_or_default()
        .into_iter()
        .map(|account| token(Some(account), "").map(Arc::from))
        .collect();
    let lifetime = bounded(raw.lifetime, 3600, 10..=30 * 86_400, problems);
    let poll = bounded(raw.poll, 10, 1..=86_400, problems);
    let patience = bounded(raw.patience, 2, 0..=60, problems);
    let clock_leeway = bounded(raw.clock_leeway, 2, 0..=300, problems);
    let drain = bounded(raw.drain, 10, 0..=600, problems);
    let listen = listen(raw.listen.as_ref(), problems);
    let format = log_format(raw.log_format.as_ref(), problems);
    let filter = raw.log_filter.map_or_else(|| DEFAULT_FILTER.to_owned(), |f| f.value);
    let jitter = raw.jitter.map_or(10, |j| j.value);
    let pending = raw.pending.map_or(4096, |p| p.value);
    let connections = raw.connections.and_then(|c| usize::try_from(c.value).ok());
    let connections = connections.unwrap_or_else(default_connections);

    let settings = Settings {
        nats: Nats {
            servers: servers?,
            login: login?,
            queue_group: queue_group?,
            name: connection_name?,
            connections,
            tls: Tls {
                required: raw.tls_required.is_some_and(|r| r.value),
                first: raw.tls_first.is_some_and(|f| f.value),
                ca: raw.tls_ca.map(|ca| ca.value),
                identity,
            },
        },
        issuer: issuer?,
        xkey,
        system,
        policy: raw.policy?.value,
        poll: poll?,
        defaults: Defaults { account: Arc::from(account?), lifetime: lifetime? },
        accounts: accounts?,
        jitter: f64::from(u8::try_from(jitter).unwrap_or(0)) / 100.0,
        limits: Limits {
            pending: usize::try_from(pending).unwrap_or(1),
            patience: patience?,
            clock_leeway: i64::try_from(clock_leeway?.as_secs()).unwrap_or(0),
            drain: drain?,
            per_key: raw.per_key.and_then(|limit| u32::try_from(limit.value).ok()),
            per_host: raw.per_host.and_then(|limit| u32::try_from(limit.value).ok()),
        },
        listen: listen?,
    };
    Some((settings, Logging { format: format?, filter }))
}

/// One for each processor: what comes on a connection is worked on by one thread. Two at least,
/// because nats-server verifies answers in the thread that reads their connection; and not so many
/// that an instance on a large machine is a crowd.
fn default_connections() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8)
}

/// Certificate and key: both or neither.
fn certificate(
    cert: Option<Spanned<PathBuf>>,
    key: Option<Spanned<PathBuf>>,
    problems: &Collector,
) -> Option<(PathBuf, PathBuf)> {
    match (cert, key) {
        (Some(cert), Some(key)) => Some((cert.value, key.value)),
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => {
            problems.push(
                Problem::error("half-a-certificate", "`cert` and `key` in [nats.tls] go together")
                    .at(&one.span, "the other one is missing"),
            );
            None
        }
    }
}

/// A name that NATS takes for a queue group, a connection or an account.
fn name(given: Option<Spanned<String>>, default: &str, problems: &Collector) -> Option<String> {
    let Some(text) = given else { return Some(default.to_owned()) };
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.value.is_empty() || !text.value.chars().all(allowed) {
        problems.push(
            Problem::error("bad-name", format!("{:?} is not a name", text.value))
                .at(&text.span, "use letters, digits, `-`, `_` and `.`"),
        );
        return None;
    }
    Some(text.value)
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
            Some(Login::Credentials(Secret(text)))
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
