//! The settings as the tools read them: nothing but the addresses must be there, and a seed is
//! read when it is needed, since whoever runs a tool rarely holds all of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::checks::{
    self, SERVERS_EXAMPLE, bucket, clock_leeway, grants, login, missing, name, patience,
    queue_group, servers, sessions, tls,
};
use super::issuer::{Issuing, issuing};
use super::operator::{Accounts, signers};
use super::reading::{overridden, read};
use super::secret::{ADMIN, AUDIT_ADMIN, CALLOUT, PUBLISHER, SYSTEM, SeedSetting, XKEY, seed};
use super::table::{self, Raw};
use super::{Overrides, PolicySource, tenants};
use crate::nats::{AccountIds, Login, Secret, Tls};
use crate::policy_source::bucket::chain::Judge;
use crate::policy_source::temporary::on_top;
use crate::policy_source::tenancy::Quota;
use crate::signer::client::Client;
use solewriter_core::account_jwt;
use solewriter_core::authors::Authors;
use solewriter_core::callout::issue::{Issuer, Operator};
use solewriter_core::diagnostics::{Collector, Problem, Problems, SourceFile, Spanned};
use solewriter_core::emergency;
use solewriter_core::grant::Defaults;
use solewriter_core::keys::{AccountKey, AccountSigner, Curve, Seed, User};
use solewriter_core::policy::model::Policy;
use solewriter_core::policy::validate::{Validated, Validator, validate_for};
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
    /// How servers name accounts.
    pub account_ids: AccountIds,
    /// The JWTs of operator mode.
    known: Option<Accounts>,
    operator: table::Operator,
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
    /// The cluster that has all streams, where gateways join several.
    pub cluster: Option<String>,
    /// How changes reach open connections, and what is allowed of consumers.
    pub sessions: crate::sessions::Settings,
    /// Who may sign an emergency grant.
    pub emergency: emergency::Rules,
    /// Who may change which part of the policy; `None` for whoever may push.
    pub authors: Option<Authors>,
    /// The settings file, for messages.
    pub path: PathBuf,
    /// Whose they are, where there are tenants.
    pub tenant: Option<String>,
    /// What a policy may declare at most.
    quota: Quota,
    /// Whether `serve` keeps its policy for the next start.
    keeps: bool,
    callout: OurUser,
    /// Where there are tenants, who answers for all of them.
    answering: Option<OurUser>,
    issuer: table::Issuer,
    xkey: Option<Spanned<PathBuf>>,
    system: OurUser,
    admin: OurUser,
    audit_admin: OurUser,
    publisher: OurUser,
}

/// A user of ours: the file with its seed, or with its credentials.
struct OurUser(Option<Spanned<PathBuf>>, Option<Spanned<PathBuf>>);

impl OurUser {
    fn is_set(&self) -> bool {
        self.0.is_some() || self.1.is_some()
    }
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
        if let Some(files) = &raw.tenants.files {
            let names = files.iter().map(|file| file.value.display().to_string());
            let message = format!("{} is for several tenants", path.display());
            problems.push(
                Problem::error("several-tenants", message).help(format!(
                    "name one with --config: {}",
                    names.collect::<Vec<_>>().join(", ")
                )),
            );
        }
        let tenant = raw.tenant.of.as_ref().and_then(|_| tenants::name_of(path));
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
        let emergency = checks::emergency(&raw, path, problems);
        let authors = checks::authors(&raw, problems);
        let cluster = name(raw.state.cluster.as_ref(), problems);
        let known = Accounts::read(&raw, problems);
        let quota = checks::quota(&raw);
        let (defaults, accounts) = grants?;
        Some(Self {
            servers: servers?,
            tls: tls?,
            defaults,
            accounts,
            account_ids: known.as_ref().map(Accounts::ids).unwrap_or_default(),
            known,
            operator: raw.operator,
            policy: raw.policy.directory.map(|p| p.value),
            source,
            patience: patience?,
            clock_leeway: clock_leeway?,
            queue_group: queue_group?,
            bucket: bucket?,
            audit: raw.audit.stream.map(|stream| stream.value),
            cluster,
            sessions: sessions?,
            emergency: emergency?,
            authors: authors?,
            path: path.to_owned(),
            tenant,
            quota,
            callout: OurUser(raw.nats.nkey_seed, raw.nats.credentials),
            answering: raw.answering.map(|(seed, credentials)| OurUser(seed, credentials)),
            issuer: raw.issuer,
            xkey: raw.xkey.seed,
            keeps: raw.policy.keep.is_some(),
            system: OurUser(raw.system.nkey_seed, raw.system.credentials),
            admin: OurUser(raw.admin.nkey_seed, raw.admin.credentials),
            audit_admin: OurUser(raw.audit_admin.nkey_seed, raw.audit_admin.credentials),
            publisher: OurUser(raw.publisher.nkey_seed, raw.publisher.credentials),
        })
    }

    /// The login of the user in `[nats]`: the callout's, or a tenant's.
    ///
    /// # Errors
    /// When the settings name none, or it cannot be read.
    pub fn callout(&self) -> Result<Login, Problems> {
        self.login(&self.callout, CALLOUT.of(self.tenant.as_deref()))
    }

    /// The login of the user that answers requests: for all tenants, where there are some.
    ///
    /// # Errors
    /// As [`Tool::callout`].
    pub fn answering(&self) -> Result<Login, Problems> {
        match &self.answering {
            Some(user) => self.login(user, CALLOUT),
            None => self.callout(),
        }
    }

    /// What signs every answer.
    ///
    /// # Errors
    /// As [`Tool::callout`].
    pub fn issuer(&self) -> Result<AccountSigner, Problems> {
        Ok(self.issuing()?.issuer)
    }

    /// The signer that holds the issuer's key, if it is not held here.
    ///
    /// # Errors
    /// As [`Tool::callout`].
    pub fn signer(&self) -> Result<Option<Arc<Client>>, Problems> {
        if self.issuer.signer.is_none() { Ok(None) } else { Ok(self.issuing()?.signer) }
    }

    fn issuing(&self) -> Result<Issuing, Problems> {
        let problems = Collector::new();
        match issuing(&self.issuer, &self.path, &problems) {
            Some(issuing) if !problems.has_errors() => Ok(issuing),
            _ => Err(problems.finish()),
        }
    }

    /// What these files are to instances with these settings: a policy within its quota, or none.
    ///
    /// # Errors
    /// Why they are no policy.
    pub fn validated(&self, files: &[SourceFile]) -> Result<Validated, Problems> {
        let validated = validate_for(files, &self.defaults.audit)?;
        self.quota.check(&validated.policy)?;
        Ok(validated)
    }

    /// The policy that instances with these settings have now by these files and documents, with what
    /// counts for a while.
    ///
    /// # Errors
    /// Why the files are no policy.
    pub fn in_force(
        &self,
        files: &[SourceFile],
        documents: Vec<String>,
    ) -> Result<Policy, Problems> {
        let policy = self.validated(files)?.policy;
        Ok(self.on_top(policy, files, documents))
    }

    /// The same, of files that come to that policy.
    #[must_use]
    pub fn on_top(&self, policy: Policy, files: &[SourceFile], documents: Vec<String>) -> Policy {
        let (rules, audit) = (&self.emergency, &self.defaults.audit);
        on_top(policy, files, documents, rules, audit, jiff::Timestamp::now())
    }

    /// What pushes are judged by, where the settings name authors.
    #[must_use]
    pub fn judge(&self) -> Option<Arc<Judge>> {
        let judge = |authors: &Authors| {
            let validator = Arc::new(Validator::new(self.defaults.audit.clone()));
            Arc::new(Judge { authors: authors.clone(), validator })
        };
        self.authors.as_ref().map(judge)
    }

    /// Whether accounts are JWTs here.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        self.known.is_some()
    }

    /// The account whose callout answers with that key, in operator mode.
    #[must_use]
    pub fn asking(&self, issuer: &AccountKey) -> Option<AccountKey> {
        self.known.as_ref()?.of_key(issuer)
    }

    /// The account JWTs of the settings; `None` without operator mode.
    #[must_use]
    pub fn account_jwts(&self) -> Option<Vec<&str>> {
        Some(self.known.as_ref()?.jwts().collect())
    }

    /// The public keys of what signs users in operator mode.
    ///
    /// # Errors
    /// When a seed cannot be read, or a key is none.
    pub fn placing(&self) -> Result<Vec<AccountKey>, Problems> {
        let problems = Collector::new();
        let client = self.issuer.signer.as_ref().map(|socket| Arc::new(Client::new(&socket.value)));
        let signers = signers(&self.operator, client.as_ref(), &problems);
        if problems.has_errors() {
            return Err(problems.finish());
        }
        if signers.is_empty() {
            problems.push(missing(&self.path, "operator", "seeds", "[\"keys/app.nk\"]"));
            return Err(problems.finish());
        }
        Ok(signers.iter().map(|(_, signer)| *signer.public()).collect())
    }

    /// How the holder of a seed connects so that the server asks about it. In operator mode that takes a
    /// JWT, which a key of the account that asks signs; without that key, a server's own will do.
    #[must_use]
    pub fn way_in(&self, seed: Seed<User>) -> Login {
        let sentinel = || {
            let issuer = self.issuer().ok()?;
            let asking = self.asking(issuer.public())?;
            let operator = Operator { asking, accounts: HashMap::new() };
            let now = jiff::Timestamp::now().as_second();
            let jwt = Issuer::new(issuer, None).with_operator(Some(operator)).sentinel(&seed, now);
            Some(account_jwt::credentials(&jwt.ok()??, &seed))
        };
        match self.known.as_ref().and_then(|_| sentinel()) {
            Some(text) => Login::Credentials(Secret::new(text)),
            None => Login::Nkey(seed),
        }
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

    /// The system user's login.
    ///
    /// # Errors
    /// As [`Tool::callout`].
    pub fn system(&self) -> Result<Login, Problems> {
        self.login(&self.system, SYSTEM)
    }

    /// Where the settings of `serve` cannot hold that what moves from one service to another never has
    /// two writers, and what bounds that: a sentence.
    #[must_use]
    pub fn not_handed_over(&self) -> Option<String> {
        let lifetime = self.defaults.lifetime.as_secs();
        if !self.system.is_set() {
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

    /// The login of the admin's user, in the account of the buckets.
    ///
    /// # Errors
    /// As [`Tool::callout`].
    pub fn admin(&self) -> Result<Login, Problems> {
        self.login(&self.admin, ADMIN.of(self.tenant.as_deref()))
    }

    /// The login of the admin's user in the account of the audit streams.
    ///
    /// # Errors
    /// As [`Tool::callout`].
    pub fn audit_admin(&self) -> Result<Login, Problems> {
        self.login(&self.audit_admin, AUDIT_ADMIN.of(self.tenant.as_deref()))
    }

    /// The login of the user who may add to the policy's bucket.
    ///
    /// # Errors
    /// As [`Tool::callout`].
    pub fn publisher(&self) -> Result<Login, Problems> {
        self.login(&self.publisher, PUBLISHER.of(self.tenant.as_deref()))
    }

    /// The login of somebody who may read the policy's bucket and hears the instances: the
    /// publisher, or whoever answers requests.
    ///
    /// # Errors
    /// As [`Tool::callout`].
    pub fn reader(&self) -> Result<Login, Problems> {
        let given = PUBLISHER.of(self.tenant.as_deref()).is_handed_over();
        if self.publisher.is_set() || given || !self.has_callout() {
            return self.publisher();
        }
        self.callout()
    }

    fn login(&self, user: &OurUser, setting: SeedSetting<'_>) -> Result<Login, Problems> {
        let problems = Collector::new();
        let login = login(user.0.as_ref(), user.1.as_ref(), setting, &problems);
        if login.is_none() && !problems.has_errors() {
            problems.push(missing(&self.path, setting.table, setting.key, &setting.example()));
        }
        login.ok_or_else(|| problems.finish())
    }

    /// Whether the settings name the callout user's seed by file or environment.
    #[must_use]
    pub fn has_callout(&self) -> bool {
        self.callout.is_set() || CALLOUT.of(self.tenant.as_deref()).is_handed_over()
    }
}
