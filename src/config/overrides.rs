//! The table of settings, and what overrides the file: flags and environment variables.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Command};

use solewriter_core::diagnostics::SourceFile;

/// What a setting holds, so that an override can be written as TOML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A string that names a file or folder.
    Path,
    /// An array of strings.
    List,
    /// An integer.
    Number,
    /// True or false.
    Flag,
}

/// One setting: where it stands in the file, and its help.
struct Setting {
    table: &'static str,
    key: &'static str,
    kind: Kind,
    help: &'static str,
}

const fn setting(
    table: &'static str,
    key: &'static str,
    kind: Kind,
    help: &'static str,
) -> Setting {
    Setting { table, key, kind, help }
}

/// Every setting, in the order of the file. `docs/settings.md` is checked against it.
const SETTINGS: [Setting; 45] = [
    setting("nats", "servers", Kind::List, "nats-server addresses, separated by commas"),
    setting("nats", "nkey_seed", Kind::Path, "file with the callout user's seed"),
    setting("nats", "credentials", Kind::Path, "credentials (.creds) file, instead of nkey_seed"),
    setting("nats", "queue_group", Kind::Text, "queue group that instances share [solewriter]"),
    setting("nats", "name", Kind::Text, "name of the connection [solewriter]"),
    setting("nats", "connections", Kind::Number, "connections, a thread each [processors, 2 to 8]"),
    setting("nats.tls", "required", Kind::Flag, "refuse a connection without TLS [false]"),
    setting("nats.tls", "first", Kind::Flag, "TLS handshake before the server's INFO [false]"),
    setting("nats.tls", "ca", Kind::Path, "PEM file with the certificate authorities to trust"),
    setting("nats.tls", "cert", Kind::Path, "PEM file with the client certificate"),
    setting("nats.tls", "key", Kind::Path, "PEM file with the client certificate's key"),
    setting("issuer", "seed", Kind::Path, "file with the issuer account's seed"),
    setting("xkey", "seed", Kind::Path, "file with the curve seed that opens sealed requests"),
    setting("system", "nkey_seed", Kind::Path, "file with the system user's seed"),
    setting("admin", "nkey_seed", Kind::Path, "for tools: file with the buckets' admin's seed"),
    setting(
        "audit_admin",
        "nkey_seed",
        Kind::Path,
        "for tools: file with the audit streams' admin's seed",
    ),
    setting("publisher", "nkey_seed", Kind::Path, "for tools: file with the policy writer's seed"),
    setting("policy", "directory", Kind::Path, "directory of policy files"),
    setting("policy", "bucket", Kind::Text, "NATS KV bucket with the policy, instead of directory"),
    setting(
        "policy",
        "poll",
        Kind::Text,
        "how often to look for changes no event told of; 2s for a bucket [10s]",
    ),
    setting(
        "policy",
        "keep",
        Kind::Path,
        "file that keeps the last good policy for the next start",
    ),
    setting(
        "policy",
        "keep_at_most",
        Kind::Text,
        "deny every new connection once the policy's source was silent for so long [72h]",
    ),
    setting("grants", "account", Kind::Text, "account that services are placed in [APP]"),
    setting("grants", "accounts", Kind::List, "other accounts that a policy may name [none]"),
    setting("grants", "lifetime", Kind::Text, "how long permissions last [1h]"),
    setting("grants", "jitter_percent", Kind::Number, "at most this much off a lifetime [10]"),
    setting("sessions", "every", Kind::Text, "how often to look at every open connection [30s]"),
    setting("sessions", "close_per_second", Kind::Number, "close at most so many a second [100]"),
    setting(
        "sessions",
        "gained",
        Kind::Text,
        "connections that gained nothing to write or answer: leave or close [leave]",
    ),
    setting(
        "sessions",
        "consumers_per_service",
        Kind::Number,
        "consumers that one service may have on one bucket [200]",
    ),
    setting(
        "sessions",
        "strangers",
        Kind::Text,
        "consumers that reach no service: delete or leave [delete]",
    ),
    setting(
        "limits",
        "pending",
        Kind::Number,
        "requests waiting at most; more are dropped [16384]",
    ),
    setting("limits", "patience", Kind::Text, "drop a request that waited longer [10s]"),
    setting("limits", "clock_leeway", Kind::Text, "how far servers' clocks may be behind [2s]"),
    setting("limits", "drain", Kind::Text, "time to finish what was taken on at stop [10s]"),
    setting("limits", "per_key", Kind::Number, "authorisations a minute of one key [no limit]"),
    setting("limits", "per_host", Kind::Number, "requests a minute from one address [no limit]"),
    setting(
        "http",
        "listen",
        Kind::Text,
        "address for health and metrics, or off [127.0.0.1:9980]",
    ),
    setting("audit", "stream", Kind::Text, "JetStream stream that takes solewriter's events"),
    setting(
        "audit",
        "services",
        Kind::Text,
        "JetStream stream that takes services' events [AUDIT_SERVICES]",
    ),
    setting(
        "audit",
        "api",
        Kind::Text,
        "what requests to the audit streams' JetStream begin with [$JS.AUDIT.API]",
    ),
    setting("audit", "spool", Kind::Path, "directory for events that the stream does not have yet"),
    setting("audit", "spool_limit", Kind::Text, "what may wait there; more is lost [256MiB]"),
    setting("log", "format", Kind::Text, "auto, text or json [auto]"),
    setting("log", "filter", Kind::Text, "level or tracing directives [info,async_nats=warn]"),
];

impl Setting {
    /// `nats-tls-ca`.
    fn flag(&self) -> String {
        format!("{}-{}", self.table, self.key).replace(['.', '_'], "-")
    }

    /// `SOLEWRITER_NATS_TLS_CA`.
    fn variable(&self) -> String {
        format!("solewriter_{}_{}", self.table, self.key).replace('.', "_").to_uppercase()
    }

    /// The override as a TOML text.
    fn document(&self, value: &str) -> SourceFile {
        let quote = |text: &str| ::toml::Value::String(text.trim().to_owned()).to_string();
        let toml = match self.kind {
            Kind::Text | Kind::Path => quote(value),
            Kind::List => {
                let items: Vec<String> = value.split(',').map(quote).collect();
                format!("[{}]", items.join(", "))
            }
            Kind::Number | Kind::Flag => value.trim().replace(['\n', '\r'], " "),
        };
        let name = format!("--{} or {}", self.flag(), self.variable());
        SourceFile::new(name, format!("[{}]\n{} = {toml}\n", self.table, self.key))
    }
}

/// Values given by flag or environment.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pub(super) documents: Vec<SourceFile>,
}

impl clap::FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut documents = Vec::new();
        for setting in &SETTINGS {
            if let Some(value) = matches.get_one::<String>(&setting.flag()) {
                documents.push(setting.document(value));
            }
        }
        Ok(Self { documents })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Overrides {
    fn augment_args(command: Command) -> Command {
        SETTINGS.iter().fold(command, |c, s| {
            c.arg(
                Arg::new(s.flag())
                    .long(s.flag())
                    .help_heading("Settings, instead of the file's")
                    .env(OsString::from(s.variable()))
                    .help(s.help)
                    .value_name(match s.kind {
                        Kind::Text => "TEXT",
                        Kind::Path => "FILE",
                        Kind::List => "LIST",
                        Kind::Number => "NUMBER",
                        Kind::Flag => "true|false",
                    })
                    .action(ArgAction::Set)
                    .hide_env_values(true)
                    // In manual pages and completions; for the screen, `solewriter settings`.
                    .hide_short_help(true)
                    .hide_long_help(true),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Every setting as table, key, kind and help, in the order of the file.
pub fn each() -> impl Iterator<Item = (&'static str, &'static str, Kind, &'static str)> {
    SETTINGS.iter().map(|s| (s.table, s.key, s.kind, s.help))
}

/// Every setting as `(table, key, flag, environment variable, help)`, in the order of the file.
pub fn documented() -> impl Iterator<Item = [String; 5]> {
    SETTINGS
        .iter()
        .map(|s| [s.table.to_owned(), s.key.to_owned(), s.flag(), s.variable(), s.help.to_owned()])
}
