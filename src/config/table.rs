//! Every setting, declared once: its place in the file, what it holds, what it means and what it is
//! when nothing is said. All else follows from this table: the reader of a text, flags and
//! environment variables, the schema, and the table in `docs/settings.md`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use solewriter_core::diagnostics::{Collector, SourceFile, Spanned, toml};

use super::reading::{path, paths};

/// What a setting holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A string that names a file or folder.
    Path,
    /// A string that names the file with a seed.
    Seed,
    /// An array of strings that name files.
    Paths,
    /// An array of strings that name files with seeds.
    Seeds,
    /// An array of strings.
    List,
    /// An integer: the least and the most that it may be.
    Number(i64, i64),
    /// True or false.
    Flag,
    /// A length of time.
    Duration,
    /// A number of bytes.
    Size,
}

impl Kind {
    /// Whether it holds several.
    #[must_use]
    pub fn is_list(self) -> bool {
        matches!(self, Self::List | Self::Paths | Self::Seeds)
    }
}

/// What a setting is when nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// Nothing: it is required, or off.
    Absent,
    /// This, written as for a flag.
    Value(&'static str),
    /// It depends on something: in words.
    Words(&'static str),
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// The table that it is in, such as `nats.tls`.
    pub table: &'static str,
    /// Its key there.
    pub key: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// What it means.
    pub help: &'static str,
    /// What it is when nothing is said.
    pub default: DefaultValue,
}

/// The type of a setting of that kind.
macro_rules! value {
    (Text) => { Spanned<String> };
    (Path) => { Spanned<PathBuf> };
    (Seed) => { Spanned<PathBuf> };
    (Paths) => { Vec<Spanned<PathBuf>> };
    (Seeds) => { Vec<Spanned<PathBuf>> };
    (List) => { Vec<Spanned<String>> };
    (Number) => { Spanned<i64> };
    (Flag) => { Spanned<bool> };
    (Duration) => { Spanned<Duration> };
    (Size) => { Spanned<u64> };
}

/// Reads a setting of that kind out of its table.
macro_rules! take {
    ($table:ident $base:ident $key:ident Text) => {
        $table.string(stringify!($key))
    };
    ($table:ident $base:ident $key:ident Path) => {
        path($table, stringify!($key), $base)
    };
    ($table:ident $base:ident $key:ident Seed) => {
        path($table, stringify!($key), $base)
    };
    ($table:ident $base:ident $key:ident Paths) => {
        paths($table, stringify!($key), $base)
    };
    ($table:ident $base:ident $key:ident Seeds) => {
        paths($table, stringify!($key), $base)
    };
    ($table:ident $base:ident $key:ident List) => {
        $table.strings(stringify!($key))
    };
    ($table:ident $base:ident $key:ident Number $least:literal $most:literal) => {
        $table.integer(stringify!($key), $least..=$most)
    };
    ($table:ident $base:ident $key:ident Flag) => {
        $table.boolean(stringify!($key))
    };
    ($table:ident $base:ident $key:ident Duration) => {
        $table.duration(stringify!($key))
    };
    ($table:ident $base:ident $key:ident Size) => {
        $table.size(stringify!($key))
    };
}

macro_rules! default {
    () => {
        DefaultValue::Absent
    };
    (= $value:literal) => {
        DefaultValue::Value($value)
    };
    (or $words:literal) => {
        DefaultValue::Words($words)
    };
}

macro_rules! settings {
    ($(
        $table:ident: $Table:ident = $name:literal, $about:literal {
            $(
                $key:ident: $kind:ident $(($least:literal, $most:literal))?, $help:literal
                $(= $value:literal)? $(or $words:literal)?;
            )+
        }
    )+) => {
        /// Every setting, in the order of the file.
        pub const SETTINGS: &[Setting] = &[$($(Setting {
            table: $name,
            key: stringify!($key),
            kind: Kind::$kind $(($least, $most))?,
            help: $help,
            default: default!($(= $value)? $(or $words)?),
        },)+)+];

        /// Every table with what it is about. A table stands before those in it.
        pub const TABLES: &[(&str, &str)] = &[$(($name, $about),)+];

        $(
            #[derive(Clone, Default)]
            pub(super) struct $Table {
                $(pub(super) $key: Option<value!($kind)>,)+
            }
        )+

        /// Settings as read and not judged yet; `None` where nothing is said.
        #[derive(Clone, Default)]
        pub(super) struct Raw {
            $(pub(super) $table: $Table,)+
            /// Of a tenant's: the files with the seed and with the credentials of the callout's
            /// user, who answers for all.
            pub(super) answering: Option<(Option<Spanned<PathBuf>>, Option<Spanned<PathBuf>>)>,
            /// Tables and keys that stand in a text, even if what they say is no good.
            present: Vec<(&'static str, Option<&'static str>)>,
        }

        impl Raw {
            /// Reads one text. Its paths are relative to `base`.
            pub(super) fn read(file: &SourceFile, base: &Path, problems: &Collector) -> Self {
                let mut raw = Self::default();
                let Some(mut tables) = Tables::read(file, problems) else { return raw };
                $(if let Some(table) = tables.open($name) {
                    raw.present.push(($name, None));
                    $(if table.has(stringify!($key)) {
                        raw.present.push(($name, Some(stringify!($key))));
                    })+
                    raw.$table = $Table {
                        $($key: take!(table base $key $kind $($least $most)?),)+
                    };
                })+
                tables.finish();
                raw
            }

            /// These, but for the tables of these names.
            pub(super) fn without(mut self, tables: &[&str]) -> Self {
                $(if tables.contains(&$name) {
                    self.$table = $Table::default();
                })+
                self.present.retain(|(table, _)| !tables.contains(table));
                self
            }

            /// These, and `under` where these say nothing.
            pub(super) fn over(self, under: Self) -> Self {
                let mut present = self.present;
                present.extend(under.present);
                Self {
                    $($table: $Table {
                        $($key: self.$table.$key.or(under.$table.$key),)+
                    },)+
                    answering: self.answering.or(under.answering),
                    present,
                }
            }
        }
    };
}

settings! {
    nats: Nats = "nats", "The broker, and who solewriter is to it." {
        servers: List, "nats-server addresses";
        nkey_seed: Seed, "file with the callout user's seed";
        credentials: Path, "credentials (.creds) file, instead of nkey_seed";
        queue_group: Text, "queue group that instances share" = "solewriter";
        name: Text, "name of the connection" = "solewriter";
        connections: Number(1, 64), "connections, a thread each" or "processors, 2 to 8";
    }
    nats_tls: NatsTls = "nats.tls", "TLS towards the broker." {
        required: Flag, "refuse a connection without TLS" = "false";
        first: Flag, "TLS handshake before the server's INFO" = "false";
        ca: Path, "PEM file with the certificate authorities to trust, instead of the system's";
        cert: Path, "PEM file with the client certificate";
        key: Path, "PEM file with the client certificate's key";
    }
    tenants: Tenants = "tenants",
        "Several tenants, each with accounts and a policy of its own: docs/tenants.md."
    {
        files: Paths, "files with the tenants' settings; each is named after its file";
    }
    tenant: Tenant = "tenant",
        "In a tenant's file: which settings it belongs to, and what its policy may declare at most."
    {
        of: Path, "the settings that list this file in [tenants] files";
        services: Number(1, 1_000_000), "services that its policy may have" or "no limit";
        buckets: Number(0, 1_000_000), "buckets that its policy may declare" or "no limit";
        streams: Number(0, 1_000_000), "streams that its policy may declare" or "no limit";
        stores: Number(0, 1_000_000), "object stores that its policy may declare" or "no limit";
    }
    issuer: Issuer = "issuer",
        "The account that signs every grant: the one secret that matters most."
    {
        seed: Seed, "file with the issuer account's seed";
        signer: Path, "socket of `solewriter signer`, which holds the key, instead of seed";
        key: Text, "the issuer's public key; with signer, it has to be there";
    }
    operator: Operator = "operator",
        "Operator mode: accounts are JWTs, and each has keys of its own that sign its users."
    {
        accounts: Paths,
            "files with account JWTs: of the callout's account, and of those that services are placed in";
        seeds: Seeds,
            "files with seeds that sign users of those accounts; of several for one, the first signs";
        keys: List, "public keys that sign them and that [issuer] signer holds";
    }
    xkey: Xkey = "xkey",
        "The curve key with which requests are sealed; requests in clear are then refused."
    {
        seed: Seed, "file with the curve seed that opens sealed requests";
    }
    system: System = "system",
        "The system user, who asks the servers: finds and closes connections."
    {
        nkey_seed: Seed, "file with the system user's seed";
        credentials: Path, "credentials (.creds) file, instead of nkey_seed";
    }
    admin: Admin = "admin", "Who manages the buckets, with the tools; `serve` does not use it." {
        nkey_seed: Seed, "for tools: file with the buckets' admin's seed";
        credentials: Path, "for tools: credentials (.creds) file, instead of nkey_seed";
    }
    state: State = "state", "The streams: of buckets, of events, and all others that tools make." {
        cluster: Text,
            "cluster that has all streams, where gateways join several: docs/shapes.md";
    }
    audit_admin: AuditAdmin = "audit_admin",
        "Who manages the audit streams, with the tools; `serve` does not use it."
    {
        nkey_seed: Seed, "for tools: file with the audit streams' admin's seed";
        credentials: Path, "for tools: credentials (.creds) file, instead of nkey_seed";
    }
    publisher: Publisher = "publisher",
        "Who changes the policy in its bucket, with the tools; `serve` does not use it."
    {
        nkey_seed: Seed, "for tools: file with the policy writer's seed";
        credentials: Path, "for tools: credentials (.creds) file, instead of nkey_seed";
    }
    policy: Policy = "policy", "Where the policy is." {
        directory: Path, "directory of policy files";
        bucket: Text, "NATS KV bucket with the policy, instead of directory";
        poll: Duration, "how often to look for changes no event told of; 2s for a bucket" or "10s";
        authors: Path, "file that says who may change which part of the policy, with signed pushes";
        keep: Path, "file that keeps the last good policy for the next start";
        keep_at_most: Duration,
            "deny every new connection once the policy's source was silent for so long" = "72h";
        lease: Duration,
            "give nobody anything to write once the bucket was silent for so long; 0s means never" = "5s";
    }
    grants: Grants = "grants", "What a connection gets when the policy does not say." {
        account: Text, "account that services are placed in" = "APP";
        accounts: List, "other accounts that a policy may name" or "none";
        lifetime: Duration, "how long permissions last" = "1h";
        jitter_percent: Number(0, 50), "at most this much off a lifetime" = "10";
    }
    emergency: Emergency = "emergency",
        "Who may give a keyspace to another service for a short time (`solewriter emergency`)."
    {
        keys: List, "public user NKEYs of the people who may" or "nobody";
        fleet: Text, "what this fleet is called: a grant for another one counts for nothing here";
        longest: Duration, "the longest that one may last, 24h at most" = "1h";
    }
    sessions: Sessions = "sessions", "Connections that are open while the policy changes." {
        every: Duration, "how often to look at every open connection" = "30s";
        close_per_second: Number(1, 100_000), "close at most so many a second" = "100";
        gained: Text,
            "connections that gained nothing to write or answer: leave or close" = "leave";
        consumers_per_service: Number(1, 100_000),
            "consumers that one service may have on one bucket" = "200";
        strangers: Text, "consumers that reach no service: delete or leave" = "delete";
    }
    limits: Limits = "limits", "What bounds the work." {
        pending: Number(1, 1_000_000), "requests waiting at most; more are dropped" = "16384";
        patience: Duration, "drop a request that waited longer" = "10s";
        clock_leeway: Duration, "how far servers' clocks may be behind" = "2s";
        drain: Duration, "time to finish what was taken on at stop" = "10s";
        per_key: Number(1, 1_000_000_000), "authorisations a minute of one key" or "no limit";
        per_host: Number(1, 1_000_000_000), "requests a minute from one address" or "no limit";
    }
    http: Http = "http", "Health and metrics." {
        listen: Text, "address for health and metrics, or off" = "127.0.0.1:9980";
    }
    audit: Audit = "audit", "The audit stream. Without it, events go to the log alone." {
        stream: Text, "JetStream stream that takes solewriter's events";
        services: Text, "JetStream stream that takes services' events" = "AUDIT_SERVICES";
        api: Text, "what requests to the audit streams' JetStream begin with" = "$JS.AUDIT.API";
        spool: Path, "directory for events that the stream does not have yet";
        spool_limit: Size, "what may wait there; more is lost" = "256MiB";
    }
    traces: Traces = "traces",
        "OpenTelemetry traces of decisions, by OTLP over HTTP. Off without this table."
    {
        endpoint: Text, "receiver of traces, such as http://127.0.0.1:4318/v1/traces";
        one_in: Number(1, 1_000_000), "trace one request of so many" = "100";
        headers: Path, "file with headers for the receiver, `name: value` on each line; may hold secrets";
        ca: Path, "PEM file with the certificate authorities to trust, besides the system's";
    }
    log: Log = "log", "The log." {
        format: Text, "auto, text or json" = "auto";
        filter: Text, "level or tracing directives" = "info,async_nats=warn";
    }
}

impl Raw {
    /// Whether the key stands in a text, even if what it says is no good. Defaults do not count.
    pub(super) fn has(&self, table: &str, key: &str) -> bool {
        self.present.contains(&(table, Some(key)))
    }

    /// The tables that stand in a text.
    pub(super) fn tables(&self) -> impl Iterator<Item = &'static str> {
        self.present.iter().filter(|(_, key)| key.is_none()).map(|(table, _)| *table)
    }

    /// Whether the table stands in a text.
    pub(super) fn has_table(&self, table: &str) -> bool {
        self.present.contains(&(table, None))
    }

    /// What the settings are when nothing is said.
    pub(super) fn defaults(problems: &Collector) -> Self {
        let values = SETTINGS.iter().filter_map(|setting| match setting.default {
            DefaultValue::Value(value) => Some(setting.document("default", value)),
            DefaultValue::Absent | DefaultValue::Words(_) => None,
        });
        let read = |document| Self::read(&document, Path::new(""), problems);
        let defaults = values.map(read).fold(Self::default(), |under, over| over.over(under));
        Self { present: Vec::new(), ..defaults }
    }
}

/// The tables of a text. They stay open until all are read, because one may be in another.
struct Tables<'a> {
    root: toml::Table<'a>,
    open: Vec<(&'static str, toml::Table<'a>)>,
}

impl<'a> Tables<'a> {
    fn read(file: &'a SourceFile, problems: &'a Collector) -> Option<Self> {
        Some(Self { root: toml::read(file, problems)?, open: Vec::new() })
    }

    fn open(&mut self, name: &'static str) -> Option<&mut toml::Table<'a>> {
        let table = match name.rsplit_once('.') {
            None => self.root.table(name)?,
            Some((outer, inner)) => {
                self.open.iter_mut().find(|(name, _)| *name == outer)?.1.table(inner)?
            }
        };
        self.open.push((name, table));
        self.open.last_mut().map(|(_, table)| table)
    }

    /// Reports what nobody asked for.
    fn finish(self) {
        self.open.into_iter().for_each(|(_, table)| table.finish());
        self.root.finish();
    }
}

impl Setting {
    /// Its flag, without the dashes before it: `nats-tls-ca`.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("{}-{}", self.table, self.key).replace(['.', '_'], "-")
    }

    /// Its environment variable: `SOLEWRITER_NATS_TLS_CA`.
    #[must_use]
    pub fn variable(&self) -> String {
        variable(self.table, self.key)
    }

    /// What it means, for whoever gives it as flag or variable, and its default in brackets.
    #[must_use]
    pub fn meaning(&self) -> String {
        let commas = if self.kind.is_list() { ", separated by commas" } else { "" };
        let default = match self.default {
            DefaultValue::Absent => String::new(),
            DefaultValue::Value(default) | DefaultValue::Words(default) => format!(" [{default}]"),
        };
        format!("{}{commas}{default}", self.help)
    }

    /// A value that was given as text, as a TOML text of that name.
    pub(super) fn document(&self, name: &str, value: &str) -> SourceFile {
        let quote = |text: &str| ::toml::Value::String(text.trim().to_owned()).to_string();
        let toml = match self.kind {
            Kind::Text | Kind::Path | Kind::Seed | Kind::Duration | Kind::Size => quote(value),
            Kind::List | Kind::Paths | Kind::Seeds => {
                let items: Vec<String> = value.split(',').map(quote).collect();
                format!("[{}]", items.join(", "))
            }
            Kind::Number(..) | Kind::Flag => value.trim().replace(['\n', '\r'], " "),
        };
        SourceFile::new(name, format!("[{}]\n{} = {toml}\n", self.table, self.key))
    }
}

/// The environment variable of a setting.
pub(super) fn variable(table: &str, key: &str) -> String {
    format!("solewriter_{table}_{key}").replace('.', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Raw` gives `None` for a default that cannot be read, and nothing would start on it.
    #[test]
    fn every_default_is_read_and_is_in_bounds() {
        let problems = Collector::new();
        let raw = Raw::defaults(&problems);
        assert!(!problems.has_errors(), "{}", problems.finish().summary());
        assert!(raw.present.is_empty(), "a default is nothing that somebody wrote");
        assert_eq!(raw.grants.lifetime.unwrap().value, Duration::from_secs(3600));
        assert_eq!(raw.limits.pending.unwrap().value, 16_384);
        assert_eq!(raw.audit.spool_limit.unwrap().value, 256 << 20);
        assert!(raw.nats.servers.is_none() && raw.policy.poll.is_none());
    }

    /// The core has them too, for questions that are asked without settings.
    #[test]
    fn the_audit_streams_defaults_are_those_of_the_core() {
        let raw = Raw::defaults(&Collector::new());
        let core = solewriter_core::grant::AuditStreams::default();
        assert_eq!(raw.audit.services.unwrap().value, core.services());
        assert_eq!(raw.audit.api.unwrap().value, core.api());
    }

    #[test]
    fn no_two_settings_have_one_flag_or_variable() {
        let flags: std::collections::BTreeSet<String> =
            SETTINGS.iter().map(Setting::flag).collect();
        let variables: std::collections::BTreeSet<String> =
            SETTINGS.iter().map(Setting::variable).collect();
        assert_eq!((flags.len(), variables.len()), (SETTINGS.len(), SETTINGS.len()));
    }
}
