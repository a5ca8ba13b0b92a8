//! Settings as one text has them, before they are put together and judged.

use std::path::{Path, PathBuf};
use std::time::Duration;

use solewriter_core::diagnostics::{Collector, Problem, SourceFile, Spanned, toml};
use solewriter_core::keys::{Seed, User};

/// Settings as read, from one text; `None` where it says nothing.
#[derive(Default)]
pub(super) struct Raw {
    pub(super) servers: Option<Vec<Spanned<String>>>,
    pub(super) nats_seed: Option<Spanned<PathBuf>>,
    pub(super) credentials: Option<Spanned<PathBuf>>,
    pub(super) queue_group: Option<Spanned<String>>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) connections: Option<Spanned<i64>>,
    pub(super) tls_required: Option<Spanned<bool>>,
    pub(super) tls_first: Option<Spanned<bool>>,
    pub(super) tls_ca: Option<Spanned<PathBuf>>,
    pub(super) tls_cert: Option<Spanned<PathBuf>>,
    pub(super) tls_key: Option<Spanned<PathBuf>>,
    pub(super) issuer_seed: Option<Spanned<PathBuf>>,
    pub(super) xkey_seed: Option<Spanned<PathBuf>>,
    pub(super) system_seed: Option<Spanned<PathBuf>>,
    pub(super) admin_seed: Option<Spanned<PathBuf>>,
    pub(super) audit_admin_seed: Option<Spanned<PathBuf>>,
    pub(super) publisher_seed: Option<Spanned<PathBuf>>,
    pub(super) policy: Option<Spanned<PathBuf>>,
    pub(super) bucket: Option<Spanned<String>>,
    pub(super) poll: Option<Spanned<Duration>>,
    pub(super) keep: Option<Spanned<PathBuf>>,
    pub(super) keep_at_most: Option<Spanned<Duration>>,
    pub(super) account: Option<Spanned<String>>,
    pub(super) accounts: Option<Vec<Spanned<String>>>,
    pub(super) lifetime: Option<Spanned<Duration>>,
    pub(super) jitter: Option<Spanned<i64>>,
    pub(super) sweep_every: Option<Spanned<Duration>>,
    pub(super) close_per_second: Option<Spanned<i64>>,
    pub(super) gained: Option<Spanned<String>>,
    pub(super) consumers_per_service: Option<Spanned<i64>>,
    pub(super) strangers: Option<Spanned<String>>,
    pub(super) pending: Option<Spanned<i64>>,
    pub(super) patience: Option<Spanned<Duration>>,
    pub(super) clock_leeway: Option<Spanned<Duration>>,
    pub(super) drain: Option<Spanned<Duration>>,
    pub(super) per_key: Option<Spanned<i64>>,
    pub(super) per_host: Option<Spanned<i64>>,
    pub(super) listen: Option<Spanned<String>>,
    pub(super) audit_stream: Option<Spanned<String>>,
    pub(super) audit_services: Option<Spanned<String>>,
    pub(super) audit_api: Option<Spanned<String>>,
    pub(super) audit_spool: Option<Spanned<PathBuf>>,
    pub(super) audit_spool_limit: Option<Spanned<u64>>,
    pub(super) log_format: Option<Spanned<String>>,
    pub(super) log_filter: Option<Spanned<String>>,
    /// Whether anything is said about the audit stream: then the rest of it is required.
    pub(super) audit_given: bool,
    /// Required settings that stand there, even if what they say is no good.
    pub(super) present: Vec<&'static str>,
}

/// A path, relative to `base`.
fn path(table: &mut toml::Table<'_>, key: &'static str, base: &Path) -> Option<Spanned<PathBuf>> {
    let text = table.string(key)?;
    if Seed::<User>::looks_like(&text.value) {
        // Without the place: showing the line would print the seed.
        let (line, _) = text.span.line_column();
        table.problems().push(
            Problem::error(
                "seed-in-settings",
                format!("{}:{line}: `{key}` is a seed itself", text.span.file().name()),
            )
            .help(
                "write it to a file that only you can read, and give that file's path here; \
                 replace the key if these settings were shared",
            ),
        );
        return None;
    }
    if text.value.is_empty() {
        let problem = Problem::error("empty-path", format!("`{key}` is empty"));
        table.problems().push(problem.at(&text.span, "expected a path"));
        return None;
    }
    Some(text.map(|t| base.join(t)))
}

impl Raw {
    pub(super) fn read(file: &SourceFile, base: &Path, problems: &Collector) -> Self {
        let mut raw = Self::default();
        let Some(mut root) = toml::read(file, problems) else { return raw };
        if let Some(mut nats) = root.table("nats") {
            raw.notes(&nats, &["servers", "nkey_seed", "credentials"]);
            raw.servers = nats.strings("servers");
            raw.nats_seed = path(&mut nats, "nkey_seed", base);
            raw.credentials = path(&mut nats, "credentials", base);
            raw.queue_group = nats.string("queue_group");
            raw.name = nats.string("name");
            raw.connections = nats.integer("connections", 1..=64);
            if let Some(mut tls) = nats.table("tls") {
                raw.tls_required = tls.boolean("required");
                raw.tls_first = tls.boolean("first");
                raw.tls_ca = path(&mut tls, "ca", base);
                raw.tls_cert = path(&mut tls, "cert", base);
                raw.tls_key = path(&mut tls, "key", base);
                tls.finish();
            }
            nats.finish();
        }
        if let Some(mut issuer) = root.table("issuer") {
            raw.notes(&issuer, &["seed"]);
            raw.issuer_seed = path(&mut issuer, "seed", base);
            issuer.finish();
        }
        if let Some(mut xkey) = root.table("xkey") {
            raw.xkey_seed = path(&mut xkey, "seed", base);
            xkey.finish();
        }
        if let Some(mut system) = root.table("system") {
            raw.system_seed = path(&mut system, "nkey_seed", base);
            system.finish();
        }
        if let Some(mut admin) = root.table("admin") {
            raw.admin_seed = path(&mut admin, "nkey_seed", base);
            admin.finish();
        }
        if let Some(mut audit_admin) = root.table("audit_admin") {
            raw.audit_admin_seed = path(&mut audit_admin, "nkey_seed", base);
            audit_admin.finish();
        }
        if let Some(mut publisher) = root.table("publisher") {
            raw.publisher_seed = path(&mut publisher, "nkey_seed", base);
            publisher.finish();
        }
        if let Some(mut policy) = root.table("policy") {
            raw.notes(&policy, &["directory", "bucket"]);
            raw.policy = path(&mut policy, "directory", base);
            raw.bucket = policy.string("bucket");
            raw.poll = policy.duration("poll");
            raw.keep = path(&mut policy, "keep", base);
            raw.keep_at_most = policy.duration("keep_at_most");
            policy.finish();
        }
        if let Some(mut grants) = root.table("grants") {
            raw.account = grants.string("account");
            raw.accounts = grants.strings("accounts");
            raw.lifetime = grants.duration("lifetime");
            raw.jitter = grants.integer("jitter_percent", 0..=50);
            grants.finish();
        }
        if let Some(mut sessions) = root.table("sessions") {
            raw.sweep_every = sessions.duration("every");
            raw.close_per_second = sessions.integer("close_per_second", 1..=100_000);
            raw.gained = sessions.string("gained");
            raw.consumers_per_service = sessions.integer("consumers_per_service", 1..=100_000);
            raw.strangers = sessions.string("strangers");
            sessions.finish();
        }
        if let Some(mut limits) = root.table("limits") {
            raw.pending = limits.integer("pending", 1..=1_000_000);
            raw.patience = limits.duration("patience");
            raw.clock_leeway = limits.duration("clock_leeway");
            raw.drain = limits.duration("drain");
            raw.per_key = limits.integer("per_key", 1..=1_000_000_000);
            raw.per_host = limits.integer("per_host", 1..=1_000_000_000);
            limits.finish();
        }
        if let Some(mut http) = root.table("http") {
            raw.listen = http.string("listen");
            http.finish();
        }
        if let Some(mut audit) = root.table("audit") {
            raw.audit_given = true;
            raw.notes(&audit, &["stream", "spool"]);
            raw.audit_stream = audit.string("stream");
            raw.audit_services = audit.string("services");
            raw.audit_api = audit.string("api");
            raw.audit_spool = path(&mut audit, "spool", base);
            raw.audit_spool_limit = audit.size("spool_limit");
            audit.finish();
        }
        if let Some(mut log) = root.table("log") {
            raw.log_format = log.string("format");
            raw.log_filter = log.string("filter");
            log.finish();
        }
        root.finish();
        raw
    }

    fn notes(&mut self, table: &toml::Table<'_>, keys: &[&'static str]) {
        self.present.extend(keys.iter().filter(|key| table.has(key)));
    }

    /// These, and `under` where these say nothing.
    pub(super) fn over(self, mut under: Self) -> Self {
        under.present.extend(self.present);
        macro_rules! over {
            ($($field:ident)*) => {
                Self {
                    $($field: self.$field.or(under.$field),)*
                    audit_given: self.audit_given || under.audit_given,
                    present: under.present,
                }
            };
        }
        over!(servers nats_seed credentials queue_group name connections tls_required tls_first
            tls_ca tls_cert tls_key issuer_seed xkey_seed system_seed admin_seed audit_admin_seed
            publisher_seed policy bucket poll keep keep_at_most account accounts lifetime jitter
            sweep_every close_per_second gained consumers_per_service strangers pending
            patience clock_leeway drain per_key per_host listen audit_stream audit_services audit_api audit_spool audit_spool_limit log_format
            log_filter)
    }
}
