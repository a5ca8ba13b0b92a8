//! Checks: what was read becomes final types, or problems that name the place and the mend.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::http::uri::Scheme;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::issuer::{Issuing, issuing};
use super::operator::Accounts;
use super::secret::{
    CALLOUT, OPERATOR_SEEDS, SYSTEM, SeedSetting, XKEY, credentials as read_credentials, read_text,
    secret_file, seed,
};
use super::table::Raw;
use super::tenants::Read;
use super::{Audit, DEFAULT_BUCKET, Logging, Policy, PolicySource, Settings, Tenant};
use crate::audit::Spool;
use crate::nats::{Login, Nats, Tls};
use crate::policy_source::tenancy::Quota;
use crate::service::Limits;
use crate::sessions::consumers::{self, Strangers};
use crate::sessions::{self, verdict::Gained};
use crate::telemetry::LogFormat;
use crate::traces;
use solewriter_core::authors::{Authors, document};
use solewriter_core::diagnostics::{Collector, Problem, SourceFile, Spanned};
use solewriter_core::emergency::{LONGEST, Rules};
use solewriter_core::grant::{AuditStreams, Defaults};
use solewriter_core::policy::model::StreamName;
use solewriter_core::signed;
use solewriter_types::keyspace::BucketName;

/// The smallest spool, in bytes.
const SPOOL_AT_LEAST: u64 = 1024 * 1024;

/// Everything that `serve` needs; `None` when problems were found.
pub(super) fn resolve(
    raw: &Raw,
    path: &Path,
    tenants: Vec<Read>,
    problems: &Collector,
) -> Option<(Settings, Logging)> {
    let required = required(raw, path, problems);
    // Everything is looked at before the first `?`, so that all problems are reported.
    let servers = servers(raw.nats.servers.as_deref(), problems);
    required("nats", "servers", SERVERS_EXAMPLE);
    let login = broker_login(raw, path, None, problems);
    let issuing = issuing(&raw.issuer, path, problems);
    let xkey = seed(raw.xkey.seed.as_ref(), XKEY, problems);
    let system = self::login(
        raw.system.nkey_seed.as_ref(),
        raw.system.credentials.as_ref(),
        SYSTEM,
        problems,
    );
    let tls = tls(raw, problems);
    let queue_group = queue_group(raw, problems);
    let connection_name = name(raw.nats.name.as_ref(), problems);
    let limits = limits(raw, problems);
    let listen = listen(raw.http.listen.as_ref(), problems);
    let traces = traces(raw, problems);
    if raw.has_table("traces") {
        required("traces", "endpoint", "\"http://127.0.0.1:4318/v1/traces\"");
    }
    let format = log_format(raw.log.format.as_ref(), problems);
    let connections = raw.nats.connections.as_ref().and_then(|c| usize::try_from(c.value).ok());
    let connections = connections.unwrap_or_else(default_connections);
    let known = Accounts::read(raw, problems);
    let nats = match (servers, login, queue_group, connection_name, tls) {
        (Some(servers), Some(login), Some(queue_group), Some(name), Some(tls)) => {
            let accounts = known.as_ref().map(Accounts::ids).unwrap_or_default();
            let tls = Arc::new(tls);
            Some(Arc::new(Nats { servers, login, queue_group, name, connections, tls, accounts }))
        }
        _ => None,
    };
    let tenants: Option<Vec<Tenant>> = if raw.tenants.files.is_some() {
        let each = tenants.into_iter().map(|read| {
            let name = Some(Arc::from(read.name.as_str()));
            let login = broker_login(&read.raw, &read.path, name.as_deref(), problems);
            let nats = nats.as_ref().zip(login).map(|(nats, login)| {
                let name = format!("{}-{}", nats.name, read.name);
                let (servers, queue_group) = (nats.servers.clone(), nats.queue_group.clone());
                let (tls, accounts) = (Arc::clone(&nats.tls), nats.accounts.clone());
                Arc::new(Nats { servers, login, queue_group, name, connections, tls, accounts })
            });
            tenant(&read.raw, &read.path, (name, nats), problems)
        });
        let each: Vec<Option<Tenant>> = each.collect();
        each.into_iter().collect()
    } else {
        tenant(raw, path, (None, nats.clone()), problems).map(|only| vec![only])
    };
    let placed = tenants.as_ref().map(|tenants| {
        let accounts =
            tenants.iter().map(|t| std::iter::once(&t.defaults.account).chain(&t.accounts));
        accounts.flatten().cloned().collect::<Vec<Arc<str>>>()
    });
    let operator = match (&known, &issuing, placed) {
        (Some(known), Some(issuing), Some(placed)) => {
            known.issuing(raw, issuing, xkey.as_ref(), &placed, problems)
        }
        _ => None,
    };
    if raw.has_table("operator") {
        required("operator", "accounts", "[\"accounts/AUTH.jwt\", \"accounts/APP.jwt\"]");
        if !raw.has("operator", "keys") && !OPERATOR_SEEDS.is_handed_over() {
            required(OPERATOR_SEEDS.table, OPERATOR_SEEDS.key, &OPERATOR_SEEDS.example());
        }
    }

    let (nats, tenants) = (nats?, tenants?);
    super::tenants::apart(&tenants, &nats, problems);
    let Issuing { issuer, signer } = issuing?;
    let settings = Settings {
        nats,
        issuer,
        signer,
        operator,
        xkey,
        system: system.map(Arc::new),
        tenants,
        limits: limits?,
        listen: listen?,
        traces: traces?,
    };
    Some((settings, Logging { format: format?, filter: raw.log.filter.as_ref()?.value.clone() }))
}

/// Says of a setting that it is not there.
fn required<'a>(
    raw: &'a Raw,
    path: &'a Path,
    problems: &'a Collector,
) -> impl Fn(&str, &str, &str) + use<'a> {
    move |table, key, example| {
        if !raw.has(table, key) {
            problems.push(missing(path, table, key, example));
        }
    }
}

/// The user of `[nats]`; a tenant's, if there is a name.
fn broker_login(
    raw: &Raw,
    path: &Path,
    tenant: Option<&str>,
    problems: &Collector,
) -> Option<Login> {
    let setting = CALLOUT.of(tenant);
    let login =
        login(raw.nats.nkey_seed.as_ref(), raw.nats.credentials.as_ref(), setting, problems);
    if login.is_none() && !raw.has("nats", "credentials") && !setting.is_handed_over() {
        required(raw, path, problems)(setting.table, setting.key, &setting.example());
    }
    login
}

/// A policy, with all that is its own; `None` when problems were found.
fn tenant(
    raw: &Raw,
    path: &Path,
    (name, nats): (Option<Arc<str>>, Option<Arc<Nats>>),
    problems: &Collector,
) -> Option<Tenant> {
    // Everything is looked at before the first `?`, so that all problems are reported.
    let policy = policy(raw, path, problems);
    let grants = grants(raw, problems);
    let sessions = sessions(raw, problems);
    let emergency = emergency(raw, path, problems);
    let cluster = self::name(raw.state.cluster.as_ref(), problems);
    let audit = audit(raw, problems);
    if raw.has_table("audit") {
        let required = required(raw, path, problems);
        required("audit", "stream", "\"AUDIT_EVENTS\"");
        required("audit", "spool", "\"audit-spool\"");
    }
    let ((defaults, accounts), nats) = (grants?, nats?);
    Some(Tenant {
        name,
        nats,
        policy: policy?,
        emergency: emergency?,
        defaults,
        accounts,
        jitter: f64::from(u8::try_from(raw.grants.jitter_percent.as_ref()?.value).unwrap_or(0))
            / 100.0,
        cluster,
        sessions: sessions?,
        audit: audit?,
        quota: quota(raw),
    })
}

/// What a policy may declare at most.
pub(super) fn quota(raw: &Raw) -> Quota {
    let most = |given: &Option<Spanned<i64>>| usize::try_from(given.as_ref()?.value).ok();
    Quota {
        services: most(&raw.tenant.services),
        buckets: most(&raw.tenant.buckets),
        streams: most(&raw.tenant.streams),
        stores: most(&raw.tenant.stores),
    }
}

fn limits(raw: &Raw, problems: &Collector) -> Option<Limits> {
    let (patience, clock_leeway) = (patience(raw, problems), clock_leeway(raw, problems));
    let drain = bounded(raw.limits.drain.as_ref(), 0..=600, problems);
    let limit = |given: Option<&Spanned<i64>>| u32::try_from(given?.value).ok();
    Some(Limits {
        pending: usize::try_from(raw.limits.pending.as_ref()?.value).unwrap_or(1),
        patience: patience?,
        clock_leeway: i64::try_from(clock_leeway?.as_secs()).unwrap_or(0),
        drain: drain?,
        per_key: limit(raw.limits.per_key.as_ref()),
        per_host: limit(raw.limits.per_host.as_ref()),
    })
}

/// Who may sign an emergency grant. The longest is what the table of settings says.
pub(super) fn emergency(raw: &Raw, path: &Path, problems: &Collector) -> Option<Rules> {
    let longest = bounded(raw.emergency.longest.as_ref(), 1..=LONGEST.as_secs(), problems);
    let keys = signed::keys(raw.emergency.keys.iter().flatten(), problems);
    let fleet = raw.emergency.fleet.as_ref();
    signed::check_fleet(fleet, problems);
    if fleet.is_none() && !keys.is_empty() {
        problems.push(missing(path, "emergency", "fleet", "\"production\""));
    }
    let fleet = fleet.map(|fleet| fleet.value.clone()).unwrap_or_default();
    Some(Rules { keys, fleet, longest: longest? })
}

/// What stands in an example for the addresses.
pub(super) const SERVERS_EXAMPLE: &str = "[\"nats://127.0.0.1:4222\"]";

/// What stands for a setting that is not there.
pub(super) fn missing(path: &Path, table: &str, key: &str, example: &str) -> Problem {
    Problem::error("missing-setting", format!("`{key}` in [{table}] is not set"))
        .help(format!("in {}: [{table}] {key} = {example}", path.display()))
}

/// One for each processor: what comes on a connection is worked on by one thread. Two at least,
/// because nats-server verifies answers in the thread that reads their connection; and not so many
/// that an instance on a large machine is a crowd.
fn default_connections() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8)
}

pub(super) fn queue_group(raw: &Raw, problems: &Collector) -> Option<String> {
    name(raw.nats.queue_group.as_ref(), problems)
}

pub(super) fn patience(raw: &Raw, problems: &Collector) -> Option<Duration> {
    bounded(raw.limits.patience.as_ref(), 0..=60, problems)
}

pub(super) fn clock_leeway(raw: &Raw, problems: &Collector) -> Option<Duration> {
    bounded(raw.limits.clock_leeway.as_ref(), 0..=300, problems)
}

pub(super) fn sessions(raw: &Raw, problems: &Collector) -> Option<sessions::Settings> {
    let sessions = &raw.sessions;
    let every = bounded(sessions.every.as_ref(), 1..=3600, problems);
    let gained = one_of(
        sessions.gained.as_ref(),
        "nothing to do with a connection",
        &[("leave", Gained::Leave), ("close", Gained::Close)],
        problems,
    );
    let strangers = one_of(
        sessions.strangers.as_ref(),
        "nothing to do with a consumer",
        &[("delete", Strangers::Delete), ("leave", Strangers::Leave)],
        problems,
    );
    let per_service = sessions.consumers_per_service.as_ref()?.value;
    let pace = sessions.close_per_second.as_ref()?.value;
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

/// One of a few words, and what it stands for.
fn one_of<T: Copy>(
    given: Option<&Spanned<String>>,
    not: &str,
    words: &[(&str, T)],
    problems: &Collector,
) -> Option<T> {
    let given = given?;
    if let Some((_, found)) = words.iter().find(|(word, _)| *word == given.value) {
        return Some(*found);
    }
    let mut expected = String::from("expected ");
    for (index, (word, _)) in words.iter().enumerate() {
        expected += match index {
            0 => "",
            _ if index + 1 == words.len() => " or ",
            _ => ", ",
        };
        expected += &format!("{word:?}");
    }
    problems.push(
        Problem::error("bad-value", format!("{:?} is {not}", given.value))
            .at(&given.span, expected),
    );
    None
}

/// Where the policy is.
fn policy(raw: &Raw, path: &Path, problems: &Collector) -> Option<Policy> {
    let source = match (&raw.policy.directory, &raw.policy.bucket) {
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
            if !raw.has("policy", "directory") && !raw.has("policy", "bucket") {
                problems.push(missing(path, "policy", "directory", "\"policy\""));
            }
            None
        }
    };
    let poll = match &raw.policy.poll {
        Some(poll) => bounded(Some(poll), 1..=86_400, problems),
        None => Some(Duration::from_secs(if raw.policy.bucket.is_some() { 2 } else { 10 })),
    };
    let keep_at_most = bounded(raw.policy.keep_at_most.as_ref(), 1..=3650 * 86_400, problems);
    let keep = raw.policy.keep.as_ref().map(|keep| keep.value.clone());
    let lease = bounded(raw.policy.lease.as_ref(), 0..=3600, problems)?;
    let source = source?;
    let lease = Some(lease).filter(|l| matches!(source, PolicySource::Bucket(_)) && !l.is_zero());
    let authors = authors(raw, problems)?;
    Some(Policy { source, authors, poll: poll?, keep, keep_at_most: keep_at_most?, lease })
}

/// Who may change which part of the policy, if the settings say so; `None` when that is no good.
#[allow(clippy::option_option)]
pub(super) fn authors(raw: &Raw, problems: &Collector) -> Option<Option<Authors>> {
    let Some(given) = &raw.policy.authors else { return Some(None) };
    if raw.policy.directory.is_some() {
        problems.push(
            Problem::error("authors-of-a-directory", "`authors` in [policy] is for a bucket")
                .at(&given.span, "")
                .help("who may write into the directory is its author: remove one of the two"),
        );
        return None;
    }
    let name = given.value.display().to_string();
    match read_text(&given.value) {
        Ok(text) => match document::read(&SourceFile::new(name, text.as_str())) {
            Ok(authors) => Some(Some(authors)),
            Err(found) => {
                problems.extend(found);
                None
            }
        },
        Err(error) => {
            let message = format!("{name} cannot be read: {error}");
            problems.push(Problem::error("no-authors", message).at(&given.span, ""));
            None
        }
    }
}

/// The bucket that the policy is in.
pub(super) fn bucket(raw: &Raw, problems: &Collector) -> Option<BucketName> {
    let Some(given) = &raw.policy.bucket else { return BucketName::parse(DEFAULT_BUCKET).ok() };
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
pub(super) fn grants(raw: &Raw, problems: &Collector) -> Option<(Defaults, Vec<Arc<str>>)> {
    let account = name(raw.grants.account.as_ref(), problems);
    let accounts: Option<Vec<Arc<str>>> = raw
        .grants
        .accounts
        .iter()
        .flatten()
        .map(|account| name(Some(account), problems).map(Arc::from))
        .collect();
    let lifetime = bounded(raw.grants.lifetime.as_ref(), 10..=30 * 86_400, problems);
    let audit = audit_streams(raw, problems);
    let defaults = Defaults { account: Arc::from(account?), lifetime: lifetime?, audit: audit? };
    Some((defaults, accounts?))
}

/// The audit streams that a policy may name.
fn audit_streams(raw: &Raw, problems: &Collector) -> Option<AuditStreams> {
    let name = |given: &Option<Spanned<String>>| given.as_ref().map(|g| stream_name(g, problems));
    let (events, services) = (name(&raw.audit.stream), name(&raw.audit.services));
    if events == Some(None) || services == Some(None) {
        return None;
    }
    let (events, services, api) = (events.flatten(), services.flatten(), raw.audit.api.as_ref());
    let made = AuditStreams::new(events.as_ref(), services.as_ref(), api.map(|a| a.value.as_str()));
    match made {
        Ok(streams) => Some(streams),
        Err(error) => {
            // Of two streams with one name, that of services was put there besides.
            let (value, what) = match AuditStreams::new(events.as_ref(), services.as_ref(), None) {
                Ok(_) => (api, "is no prefix of JetStream's API"),
                Err(_) if raw.has("audit", "services") => {
                    (raw.audit.services.as_ref(), "is both streams")
                }
                Err(_) => (raw.audit.stream.as_ref(), "is both streams"),
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

pub(super) fn tls(raw: &Raw, problems: &Collector) -> Option<Tls> {
    let tls = &raw.nats_tls;
    // All are looked at before the first `?`.
    let ca = tls.ca.as_ref().map(|file| certificates(file, problems));
    let cert = tls.cert.as_ref().map(|file| certificates(file, problems));
    let key = tls.key.as_ref().map(|file| private_key(file, problems));
    // Certificate and key: both or neither.
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert?, key?)),
        (None, None) => None,
        _ => {
            if let Some(one) = tls.cert.as_ref().or(tls.key.as_ref()) {
                problems.push(
                    Problem::error(
                        "half-a-certificate",
                        "`cert` and `key` in [nats.tls] go together",
                    )
                    .at(&one.span, "the other one is missing"),
                );
            }
            return None;
        }
    };
    let ca = match ca {
        Some(ca) => Some(ca?),
        None => None,
    };
    Some(Tls {
        required: tls.required.as_ref().is_some_and(|required| required.value),
        first: tls.first.as_ref().is_some_and(|first| first.value),
        ca,
        identity,
    })
}

/// A file with certificates. It is read again for each connection, so that a new one is taken over.
fn certificates(file: &Spanned<PathBuf>, problems: &Collector) -> Option<PathBuf> {
    const WHAT: &str = "certificates";
    let text = pem(file, WHAT, problems)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let any = found.is_ok_and(|found| !found.is_empty());
    if any { Some(file.value.clone()) } else { not_pem(file, WHAT, problems) }
}

/// A file with a private key.
fn private_key(file: &Spanned<PathBuf>, problems: &Collector) -> Option<PathBuf> {
    const WHAT: &str = "a private key";
    match PrivateKeyDer::from_pem_slice(pem(file, WHAT, problems)?.as_bytes()) {
        Ok(_) => Some(file.value.clone()),
        Err(_) => not_pem(file, WHAT, problems),
    }
}

/// The text of a PEM file. What it holds may be secret.
fn pem(
    file: &Spanned<PathBuf>,
    what: &str,
    problems: &Collector,
) -> Option<zeroize::Zeroizing<String>> {
    named_text(file, &format!("expected a PEM file with {what}"), problems)
}

/// The text of a file that a setting names.
pub(super) fn named_text(
    file: &Spanned<PathBuf>,
    expected: &str,
    problems: &Collector,
) -> Option<zeroize::Zeroizing<String>> {
    let read = read_text(&file.value).map_err(|error| {
        problems.push(
            Problem::error(
                "unreadable",
                format!("{} cannot be read: {error}", file.value.display()),
            )
            .at(&file.span, expected)
            .help(
                "correct the path, or let solewriter's user read the file; in the settings \
                       file, a path is relative to that file's folder",
            ),
        );
    });
    read.ok()
}

fn not_pem<T>(file: &Spanned<PathBuf>, what: &str, problems: &Collector) -> Option<T> {
    problems.push(
        Problem::error("bad-pem", format!("{} does not hold {what}", file.value.display()))
            .at(&file.span, format!("expected a PEM file with {what}")),
    );
    None
}

/// A name that NATS takes for a queue group, a connection or an account.
pub(super) fn name(given: Option<&Spanned<String>>, problems: &Collector) -> Option<String> {
    let text = given?;
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

pub(super) fn servers(
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

pub(super) fn login(
    seed_file: Option<&Spanned<PathBuf>>,
    credentials: Option<&Spanned<PathBuf>>,
    setting: SeedSetting<'_>,
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
        (None, Some(file)) => read_credentials(file, problems),
        (seed_file, None) => seed(seed_file, setting, problems).map(Login::Nkey),
    }
}

fn bounded(
    given: Option<&Spanned<Duration>>,
    seconds: RangeInclusive<u64>,
    problems: &Collector,
) -> Option<Duration> {
    let given = given?;
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
pub(super) fn listen(
    given: Option<&Spanned<String>>,
    problems: &Collector,
) -> Option<Option<SocketAddr>> {
    let given = given?;
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
fn audit(raw: &Raw, problems: &Collector) -> Option<Option<Audit>> {
    let audit = &raw.audit;
    let limit = audit.spool_limit.as_ref()?;
    if limit.value < SPOOL_AT_LEAST {
        problems.push(
            Problem::error("out-of-range", "`spool_limit` is out of range")
                .at(&limit.span, "must be at least 1MiB"),
        );
        return None;
    }
    let (Some(stream), Some(spool)) = (&audit.stream, &audit.spool) else { return Some(None) };
    // What is wrong with the name is said where grants are read.
    let name = StreamName::parse(&stream.value).ok()?;
    let spool = Spool { dir: spool.value.clone(), limit: limit.value };
    Some(Some(Audit { stream: name.to_string(), spool }))
}

/// As for the audit stream.
#[allow(clippy::option_option)]
fn traces(raw: &Raw, problems: &Collector) -> Option<Option<traces::Settings>> {
    // All are looked at before the first `?`.
    let endpoint = raw.traces.endpoint.as_ref().map(|given| endpoint(given, problems));
    let headers = raw.traces.headers.as_ref().map(|file| headers(file, problems));
    let ca = raw.traces.ca.as_ref().map(|file| certificates(file, problems));
    let (headers, ca) = (headers.map_or(Some(HeaderMap::new()), |headers| headers)?, ca);
    let ca = match ca {
        Some(ca) => Some(ca?),
        None => None,
    };
    let one_in = u32::try_from(raw.traces.one_in.as_ref()?.value).unwrap_or(1);
    let Some(endpoint) = endpoint else { return Some(None) };
    Some(Some(traces::Settings { endpoint: endpoint?, one_in, headers, ca }))
}

/// The address of an OTLP receiver.
fn endpoint(given: &Spanned<String>, problems: &Collector) -> Option<Uri> {
    let refused = |why: String| {
        problems.push(
            Problem::error("bad-address", "`endpoint` in [traces] is not an address")
                .at(&given.span, why)
                .help("write it as http://HOST:4318/v1/traces or https://HOST/v1/traces"),
        );
    };
    // The place is shown without its text, which may hold a password or a token.
    if given.value.contains(['@', '?']) {
        problems.push(
            Problem::error(
                "password-in-address",
                format!(
                    "{}: `endpoint` in [traces] holds a user or a query",
                    given.span.file().name()
                ),
            )
            .help("put what the receiver asks for into the file that `headers` names"),
        );
        return None;
    }
    let uri = match given.value.parse::<Uri>() {
        Ok(uri) => uri,
        Err(error) => {
            refused(error.to_string());
            return None;
        }
    };
    let known = uri.scheme() == Some(&Scheme::HTTP) || uri.scheme() == Some(&Scheme::HTTPS);
    if !known || uri.host().is_none_or(str::is_empty) {
        refused("expected http:// or https://, and a host".to_owned());
        return None;
    }
    if uri.path() == "/" {
        refused("expected a path: receivers of OTLP have /v1/traces".to_owned());
        return None;
    }
    Some(uri)
}

/// A file with a header on each line. No value is shown.
fn headers(file: &Spanned<PathBuf>, problems: &Collector) -> Option<HeaderMap> {
    let text = secret_file(file, problems)?;
    let mut headers = HeaderMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let header = line.split_once(':').and_then(|(name, value)| {
            let name = name.trim().parse::<HeaderName>().ok()?;
            let mut value = HeaderValue::from_str(value.trim()).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        let Some((name, value)) = header else {
            let message = format!("{}:{}: no header", file.value.display(), number + 1);
            problems.push(
                Problem::error("bad-header", message)
                    .at(&file.span, "expected `name: value` on each line"),
            );
            return None;
        };
        headers.append(name, value);
    }
    Some(headers)
}

fn log_format(given: Option<&Spanned<String>>, problems: &Collector) -> Option<LogFormat> {
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    one_of(given, "no log format", &formats, problems)
}
