//! The settings as the tools read them: nothing but the addresses must be there, and a seed is
//! read when it is needed, since whoever runs a tool rarely holds all of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::checks::{
    SERVERS_EXAMPLE, bucket, clock_leeway, grants, login, missing, patience, queue_group, servers,
    sessions, tls,
};
use super::reading::{overridden, read};
use super::secret::{
    ADMIN, AUDIT_ADMIN, CALLOUT, ISSUER, PUBLISHER, SYSTEM, SeedSetting, XKEY, seed,
};
use super::table::Raw;
use super::{Overrides, PolicySource};
use crate::nats::{Login, Tls};
use solewriter_core::diagnostics::{Collector, Problems, SourceFile, Spanned};
use solewriter_core::grant::Defaults;
use solewriter_core::keys::{Account, Curve, Role, Seed, User};
use solewriter_types::keyspace::BucketName;

/// What must be there, for whoever has no file: where nats-server listens by itself.
const ADDRESS: &str = "[nats]\nservers = [\"nats://127.0.0.1:4222\"]\n";

/// What the tools know about the deployment.
pub struct Tool {
    /// Addresses, at least one.
    pub servers: Vec<async_nats::ServerAddr>,
    /// TLS.
    pub tls: Tls,
    /// What services get that say nothing themselves.
    pub defaults: Defaults,
    /// Other accounts that a policy may place services in.
    pub accounts: Vec<Arc<str>>,
    /// The policy's folder, if the settings name one.
    pub policy: Option<PathBuf>,
    /// Where the policy comes from, if the settings say so.
    pub source: Option<PolicySource>,
    /// How long a request may wait in `serve`.
    pub patience: Duration,
    /// How far servers' clocks may be behind.
    pub clock_leeway: Duration,
    /// The queue group that instances share.
    pub queue_group: String,
    /// The bucket that the policy is in, or the one that it would be in.
    pub bucket: BucketName,
    /// The stream that takes solewriter's events, if the settings name one.
    pub audit: Option<String>,
    /// How changes reach open connections, and what is allowed of consumers.
    pub sessions: crate::sessions::Settings,
    /// The settings file, for messages.
    pub path: PathBuf,
    /// Whether `serve` keeps its policy for the next start.
    keeps: bool,
    nats_seed: Option<Spanned<PathBuf>>,
    credentials: Option<Spanned<PathBuf>>,
    issuer: Option<Spanned<PathBuf>>,
    xkey: Option<Spanned<PathBuf>>,
    system: Option<Spanned<PathBuf>>,
    admin: Option<Spanned<PathBuf>>,
    audit_admin: Option<Spanned<PathBuf>>,
    publisher: Option<Spanned<PathBuf>>,
}

impl Tool {
    /// Reads the settings file with what overrides it. No seed is read yet.
    ///
    /// # Errors
    /// Every problem found, not the first.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Self, Problems> {
        let problems = Collector::new();
        let raw = read(path, overrides, &problems)?;
        Self::whole(raw, path, problems)
    }

    /// The settings of whoever has no file: what flags and the environment say, over defaults.
    ///
    /// # Errors
    /// As [`Tool::load`].
    pub fn without_file(overrides: &Overrides) -> Result<Self, Problems> {
        let problems = Collector::new();
        let address = SourceFile::new("defaults", ADDRESS);
        let raw = Raw::read(&address, Path::new(""), &problems);
        let raw = overridden(raw, overrides, &problems);
        Self::whole(raw, Path::new("the settings file"), problems)
    }

    fn whole(raw: Raw, path: &Path, problems: Collector) -> Result<Self, Problems> {
        match Self::resolve(raw, path, &problems) {
            Some(tool) if !problems.has_errors() => Ok(tool),
            _ => Err(problems.finish()),
        }
    }

    fn resolve(raw: Raw, path: &Path, problems: &Collector) -> Option<Self> {
        if raw.nats.servers.is_none() {
            problems.push(missing(path, "nats", "servers", SERVERS_EXAMPLE));
        }
        let servers = servers(raw.nats.servers.as_deref(), problems);
        let tls = tls(&raw, problems);
        let grants = grants(&raw, problems);
        let (patience, clock_leeway) = (patience(&raw, problems), clock_leeway(&raw, problems));
        let queue_group = queue_group(&raw, problems);
        let bucket = bucket(&raw, problems);
        let source = match (&raw.policy.bucket, &raw.policy.directory) {
            (Some(_), _) => bucket.clone().map(PolicySource::Bucket),
            (None, policy) => policy.as_ref().map(|p| PolicySource::Directory(p.value.clone())),
        };
        let sessions = sessions(&raw, problems);
        let (defaults, accounts) = grants?;
        Some(Self {
            servers: servers?,
            tls: tls?,
            defaults,
            accounts,
            policy: raw.policy.directory.map(|p| p.value),
            source,
            patience: patience?,
            clock_leeway: clock_leeway?,
            queue_group: queue_group?,
            bucket: bucket?,
            audit: raw.audit.stream.map(|stream| stream.value),
            sessions: sessions?,
            path: path.to_owned(),
            nats_seed: raw.nats.nkey_seed,
            credentials: raw.nats.credentials,
            issuer: raw.issuer.seed,
            xkey: raw.xkey.seed,
            keeps: raw.policy.keep.is_some(),
            system: raw.system.nkey_seed,
            admin: raw.admin.nkey_seed,
            audit_admin: raw.audit_admin.nkey_seed,
            publisher: raw.publisher.nkey_seed,
        })
    }

    /// The callout user's login.
    ///
    /// # Errors
    /// When the settings name none, or it cannot be read.
    pub fn callout(&self) -> Result<Login, Problems> {
        let problems = Collector::new();
        let login = login(self.nats_seed.as_ref(), self.credentials.as_ref(), &problems);
        if login.is_none() && !problems.has_errors() {
            problems.push(missing(&self.path, CALLOUT.table, CALLOUT.key, &CALLOUT.example()));
        }
        login.ok_or_else(|| problems.finish())
    }

    /// The issuer account's seed.
    ///
    /// # Errors
    /// As [`Tool::callout`].
    pub fn issuer(&self) -> Result<Seed<Account>, Problems> {
        self.needed(self.issuer.as_ref(), ISSUER)
    }

    /// The curve seed that opens sealed requests, if one is set.
    ///
    /// # Errors
    /// When it is set and cannot be read.
    pub fn xkey(&self) -> Result<Option<Seed<Curve>>, Problems> {
        let problems = Collector::new();
        let xkey = seed(self.xkey.as_ref(), XKEY, &problems);
        if problems.has_errors() { Err(problems.finish()) } else { Ok(xkey) }
    }

    /// The system user's seed.
    ///
    /// # Errors
    /// As [`Tool::callout`].
    pub fn system(&self) -> Result<Seed<User>, Problems> {
        self.needed(self.system.as_ref(), SYSTEM)
    }

    /// Where the settings of `serve` cannot hold that what moves from one service to another never has
    /// two writers, and what bounds that: a sentence.
    #[must_use]
    pub fn not_handed_over(&self) -> Option<String> {
        let lifetime = self.defaults.lifetime.as_secs();
        if self.system.is_none() {
            return Some(format!(
                "without [system] nkey_seed, both may write what moves from one service to another, \
                 until the permissions of the old owner expire: after {lifetime} s, unless the policy \
                 says otherwise"
            ));
        }
        let directory = matches!(self.source, Some(PolicySource::Directory(_)));
        (directory && !self.keeps).then(|| {
            "without [policy] keep, a restart of `serve` while something moves from one service to \
             another lets both write it until the sweep that follows"
                .to_owned()
        })
    }

    /// The seed of the admin's user, in the account of the buckets.
    ///
    /// # Errors
    /// As [`Tool::callout`].
    pub fn admin(&self) -> Result<Seed<User>, Problems> {
        self.needed(self.admin.as_ref(), ADMIN)
    }

    /// The seed of the admin's user in the account of the audit streams.
    ///
    /// # Errors
    /// As [`Tool::callout`].
    pub fn audit_admin(&self) -> Result<Seed<User>, Problems> {
        self.needed(self.audit_admin.as_ref(), AUDIT_ADMIN)
    }

    /// The seed of the user who may add to the policy's bucket.
    ///
    /// # Errors
    /// As [`Tool::callout`].
    pub fn publisher(&self) -> Result<Seed<User>, Problems> {
        self.needed(self.publisher.as_ref(), PUBLISHER)
    }

    /// The login of somebody who may read the policy's bucket and hears the instances: the
    /// publisher, or whoever answers requests.
    ///
    /// # Errors
    /// As [`Tool::callout`].
    pub fn reader(&self) -> Result<Login, Problems> {
        let given = PUBLISHER.is_handed_over();
        if self.publisher.is_some() || given || !self.has_callout() {
            return self.publisher().map(Login::Nkey);
        }
        self.callout()
    }

    fn needed<K: Role>(
        &self,
        file: Option<&Spanned<PathBuf>>,
        setting: SeedSetting,
    ) -> Result<Seed<K>, Problems> {
        let problems = Collector::new();
        let seed = seed(file, setting, &problems);
        if seed.is_none() && !problems.has_errors() {
            problems.push(missing(&self.path, setting.table, setting.key, &setting.example()));
        }
        seed.ok_or_else(|| problems.finish())
    }

    /// Whether the settings name the callout user's seed by file or environment.
    #[must_use]
    pub fn has_callout(&self) -> bool {
        self.nats_seed.is_some() || self.credentials.is_some() || CALLOUT.is_handed_over()
    }
}
