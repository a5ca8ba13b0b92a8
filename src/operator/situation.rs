//! The accounts of a deployment in operator mode: which is which, and what their JWTs have to say by the
//! settings and the policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::change::{About, Account, Change, word};
use super::picture::{ASKING, CONTROL, Picture, SERVICES, SYSTEM, Taken, account_end, kind};
use crate::adoption::server_config::accounts;
use crate::config::{PolicySource, Tool};
use crate::nats::Login;
use crate::passes::{self, within};
use solewriter_core::account_jwt::{
    self, ActivationBody, Authorization, EVERY, Export, Import, PassKind, SigningKey, UserBody,
};
use solewriter_core::keys::{AccountKey, CurveSecret, UserKey};
use solewriter_core::policy::model::Policy;

const STATE: &str = "STATE";
const POLICY: &str = "POLICY";
const PUBLISH: &str = "PUBLISH";
const AUDIT: &str = "AUDIT";
const MONITOR: &str = "MONITOR";

/// What the settings say of the accounts.
pub struct Situation<'a> {
    picture: Picture,
    accounts: Vec<Account>,
    /// Which accounts of the picture they are.
    roles: BTreeMap<&'static str, Vec<usize>>,
    tool: &'a Tool,
    policy: Option<&'a Policy>,
    callout: Option<UserKey>,
    issuer: Result<AccountKey, String>,
    xkey: Result<Option<String>, String>,
    placing: Result<Vec<AccountKey>, String>,
    now: i64,
}

/// An account of the picture that there is no JWT of.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Missing {
    /// Its name in the picture.
    pub account: String,
    /// What tells which account it is.
    pub by: &'static str,
}

/// What could not be compared, because something is not known here.
pub type Unknown = String;

impl<'a> Situation<'a> {
    /// Finds out which account is which. `jwts` are those of the settings, or what a server has in their
    /// place.
    ///
    /// # Errors
    /// When the accounts cannot be drawn.
    pub fn of(
        tool: &'a Tool,
        jwts: &[&str],
        policy: Option<&'a Policy>,
        now: i64,
    ) -> Result<Self, String> {
        let picture = match &tool.tenant {
            None => Picture::shipped(policy)?,
            Some(_) => Picture::of_a_tenant(policy)?,
        };
        let accounts: Vec<Account> = jwts.iter().filter_map(|jwt| Account::read(jwt)).collect();
        let login = |login: Result<Login, _>| login.ok();
        let callout = login(tool.answering());
        let control = tool.tenant.as_ref().and_then(|_| login(tool.callout()));
        let mut roles = BTreeMap::new();
        let named = |name: &str| accounts.iter().position(|a| &*a.name == name);
        // A tenant's accounts have its name behind them, as `init` writes them.
        let end = tool.tenant.as_ref().map(|name| account_end(name)).unwrap_or_default();
        let of = |user: Option<&Login>| {
            let body = account_jwt::read::<UserBody>(user?.jwt()?).ok()?;
            let issuer = &body.nats.issuer_account;
            let key = if issuer.is_empty() { &body.iss } else { issuer };
            accounts.iter().position(|account| account.key.as_str() == key)
        };
        let system = named(SYSTEM);
        for (role, user) in [
            (ASKING, callout.as_ref()),
            (STATE, login(tool.admin()).as_ref()),
            (AUDIT, login(tool.audit_admin()).as_ref()),
            (PUBLISH, login(tool.publisher()).as_ref()),
            (MONITOR, login(tool.system()).as_ref()),
        ] {
            // Nobody logs in to the servers' account.
            let shared = [ASKING, MONITOR].contains(&role);
            let own = || named(&if shared { role.to_owned() } else { format!("{role}{end}") });
            let found = of(user).filter(|at| Some(*at) != system).or_else(own);
            roles.insert(role, found.into_iter().collect());
        }
        if tool.tenant.is_some() {
            roles.insert(CONTROL, of(control.as_ref()).into_iter().collect());
        }
        for (role, name) in [(POLICY, format!("{POLICY}{end}")), (SYSTEM, SYSTEM.to_owned())] {
            roles.insert(role, named(&name).into_iter().collect::<Vec<_>>());
        }
        let placed = std::iter::once(&tool.defaults.account).chain(&tool.accounts);
        roles.insert(SERVICES, placed.filter_map(|name| named(name)).collect());
        let unusable = |error: solewriter_core::keys::KeyError| error.to_string();
        let issuer = tool.issuer().map(|issuer| *issuer.public()).map_err(|p| p.first());
        let xkey = tool.xkey().map_err(|p| p.first()).and_then(|seed| {
            let public = |seed| Ok(CurveSecret::new(&seed).map_err(unusable)?.public().to_string());
            seed.map(public).transpose()
        });
        let placing = tool.placing().map_err(|p| p.first());
        let callout = callout.and_then(|login| login.key());
        Ok(Self { picture, accounts, roles, tool, policy, callout, issuer, xkey, placing, now })
    }

    /// The accounts whose JWTs were read.
    #[must_use]
    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    fn all(&self, role: &str) -> impl Iterator<Item = &Account> {
        let places = self.roles.get(role).map(Vec::as_slice).unwrap_or_default();
        places.iter().filter_map(|at| self.accounts.get(*at))
    }

    fn one(&self, role: &str) -> Option<&Account> {
        self.all(role).next()
    }

    /// The account that asks.
    #[must_use]
    pub fn asking(&self) -> Option<&Account> {
        self.one(ASKING)
    }

    /// Whether it is one of the picture.
    fn has_role(&self, account: &Account) -> bool {
        self.roles.keys().any(|role| self.all(role).any(|other| other.key == account.key))
    }

    /// What there is no JWT of.
    #[must_use]
    pub fn missing(&self) -> Vec<Missing> {
        let bucket = matches!(self.tool.source, Some(PolicySource::Bucket(_)));
        let audit = self.tool.audit.is_some() && !self.tool.defaults.audit.are_beside_buckets();
        let mut missing = Vec::new();
        for (role, needed, by) in [
            (ASKING, true, "the account of the user in [nats] credentials"),
            (
                CONTROL,
                self.tool.tenant.is_some(),
                "the account of the user in the tenant's [nats] credentials",
            ),
            (STATE, true, "the account of the user in [admin] credentials"),
            (
                MONITOR,
                self.tool.system().is_ok(),
                "the account of the user in [system] credentials",
            ),
            (SYSTEM, self.tool.system().is_ok(), "the account that is called so"),
            (AUDIT, audit, "the account of the user in [audit_admin] credentials"),
            (POLICY, bucket, "the account that is called so"),
            (PUBLISH, bucket, "the account of the user in [publisher] credentials"),
        ] {
            if needed && self.one(role).is_none() {
                missing.push(Missing { account: role.to_owned(), by });
            }
        }
        for name in std::iter::once(&self.tool.defaults.account).chain(&self.tool.accounts) {
            if !self.all(SERVICES).any(|account| account.name == *name) {
                let by = "an account that [grants] names";
                missing.push(Missing { account: name.to_string(), by });
            }
        }
        missing
    }

    /// What could not be compared.
    #[must_use]
    pub fn unknown(&self) -> Vec<Unknown> {
        let mut unknown = Vec::new();
        if self.callout.is_none() {
            unknown.push("[nats] credentials: who answers".to_owned());
        }
        unknown.extend(self.issuer.as_ref().err().cloned());
        unknown.extend(self.xkey.as_ref().err().cloned());
        unknown.extend(self.placing.as_ref().err().cloned());
        unknown
    }

    /// Signing keys of the accounts that decide who gets in, whose seeds are not those of the settings.
    /// `None` where those are not known here.
    #[must_use]
    pub fn foreign_keys(&self) -> Option<Vec<(Arc<str>, String)>> {
        let (placing, issuer) = (self.placing.as_ref().ok()?, self.issuer.as_ref().ok()?);
        let ours: Vec<&str> = placing.iter().chain([issuer]).map(AccountKey::as_str).collect();
        let mut foreign = Vec::new();
        for account in self.all(SERVICES).chain(self.all(ASKING)) {
            for key in account.body.signing_keys.iter().map(SigningKey::key) {
                if !ours.contains(&key) {
                    foreign.push((account.name.clone(), key.to_owned()));
                }
            }
        }
        Some(foreign)
    }

    /// All that has to change, account by account.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        changes.extend(self.authorization());
        changes.extend(self.signing_keys());
        for (role, places) in &self.roles {
            for account in places.iter().filter_map(|at| self.accounts.get(*at)) {
                self.limits(role, account, &mut changes);
                self.exports(role, account, &mut changes);
                self.imports(role, account, &mut changes);
            }
        }
        // Whoever else imports the buckets or the policy does so past both.
        for account in self.accounts.iter().filter(|account| !self.has_role(account)) {
            for import in &account.body.imports {
                let of = [STATE, POLICY].into_iter().filter_map(|role| self.one(role));
                if let Some(exporter) = of.into_iter().find(|a| a.key.as_str() == import.account) {
                    changes.push(Change::no_import(account, exporter, import.clone()));
                }
            }
        }
        changes
    }

    /// Who is asked, about whom, and where somebody may be placed.
    fn authorization(&self) -> Option<Change> {
        let asking = self.asking()?;
        let now = &asking.body.authorization;
        let callout = self.callout.as_ref()?;
        let (mut wrong, mut flags) = (Vec::new(), String::new());
        if now.is_empty() {
            wrong.push("it has no `authorization`, so nobody is asked".to_owned());
        }
        if !now.auth_users.iter().any(|user| *user == callout.to_string()) {
            wrong.push(format!("`auth_users` does not have the callout user ({callout})"));
            flags += &format!(" --auth-user {callout}");
        }
        for user in now.auth_users.iter().filter(|user| **user != callout.to_string()) {
            wrong.push(format!("`auth_users` has {user}: that user gets in, and nobody is asked"));
            flags += &format!(" --rm-auth-user {}", word(user));
        }
        let placed: Vec<&Account> =
            self.all(SERVICES).filter(|account| account.key != asking.key).collect();
        for account in &placed {
            if !now.allowed_accounts.iter().any(|key| key == account.key.as_str()) {
                let (name, key) = (&account.name, account.key);
                wrong.push(format!("`allowed_accounts` does not have {name} ({key})"));
                flags += &format!(" --allowed-account {key}");
            }
        }
        for key in &now.allowed_accounts {
            if placed.iter().any(|account| key == account.key.as_str()) {
                continue;
            }
            let whose = self.accounts.iter().find(|account| account.key.as_str() == key);
            // Other tenants' services have to be placed, too: in accounts that the settings know.
            if self.tool.tenant.is_some() && whose.is_some_and(|other| !self.has_role(other)) {
                continue;
            }
            wrong.push(match whose {
                _ if key == EVERY => {
                    "`allowed_accounts` has `*`: an answer may place somebody in each account"
                        .to_owned()
                }
                Some(account) => format!(
                    "`allowed_accounts` has {} ({key}), where no service is placed",
                    account.name
                ),
                None => format!("`allowed_accounts` has {key}, where no service is placed"),
            });
            flags += &format!(" --rm-allowed-account {}", word(key));
        }
        let xkey = match &self.xkey {
            Ok(Some(ours)) if *ours != now.xkey => {
                wrong.push(format!("requests are not sealed to [xkey] seed ({ours})"));
                flags += &format!(" --curve {ours}");
                ours.clone()
            }
            Ok(None) if !now.xkey.is_empty() => {
                wrong.push("requests are sealed, and [xkey] seed is not set".to_owned());
                flags += " --rm-curve";
                String::new()
            }
            _ => now.xkey.clone(),
        };
        let wanted = Authorization {
            auth_users: vec![callout.to_string()],
            allowed_accounts: self.allowed(&placed, &now.allowed_accounts),
            xkey,
        };
        let found = wrong.join("\n");
        (!wrong.is_empty()).then(|| Change::authorization(asking, found, wanted, &flags))
    }

    /// The accounts that should be allowed: those of services, and those of other tenants' that are now.
    fn allowed(&self, placed: &[&Account], now: &[String]) -> Vec<String> {
        let mut allowed: Vec<String> =
            placed.iter().map(|account| account.key.to_string()).collect();
        if self.tool.tenant.is_some() {
            let others = self.accounts.iter().filter(|account| !self.has_role(account));
            let others = others.map(|account| account.key.to_string());
            allowed.extend(others.filter(|key| now.contains(key)));
        }
        allowed
    }

    /// Our keys, in the accounts that they sign for.
    fn signing_keys(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        if let (Some(asking), Ok(issuer)) = (self.asking(), &self.issuer)
            && !asking.signs(issuer)
        {
            let found = format!("{issuer}, the key of [issuer] seed, does not sign for it");
            changes.push(Change::signing_key(asking, *issuer, found));
        }
        let Ok(placing) = &self.placing else { return changes };
        let mut free: Vec<&AccountKey> =
            placing.iter().filter(|key| !self.accounts.iter().any(|a| a.signs(key))).collect();
        for account in self.all(SERVICES) {
            let own = placing.iter().find(|key| account.signs(key));
            match own {
                Some(key) => {
                    if let Some(SigningKey::Scoped { role, .. }) = account.signing_key(key) {
                        let found = format!(
                            "{key}, which signs users, has a scope ({role:?}): everybody would get \
                             the scope's permissions"
                        );
                        changes.push(Change::signing_key(account, *key, found));
                    }
                }
                None if !free.is_empty() => {
                    let key = free.remove(0);
                    let found = format!("{key}, a key of [operator] seeds, does not sign for it");
                    changes.push(Change::signing_key(account, *key, found));
                }
                // `serve` says that it has no seed for it.
                None => {}
            }
        }
        changes
    }

    fn limits(&self, role: &str, account: &Account, changes: &mut Vec<Change>) {
        // The servers' account is the operator's own.
        let Some(wanted) = self.picture.account(role).filter(|_| role != SYSTEM) else { return };
        let wanted = wanted.jetstream.as_ref().is_some_and(|on| on.value);
        let amounts = ["mem_storage", "disk_storage", "streams", "consumer"];
        if wanted && !account.has_jetstream() {
            changes.push(Change::limits(
                account,
                About::Jetstream,
                "JetStream is not enabled in it",
                "--js-mem-storage -1 --js-disk-storage -1 --js-streams -1 --js-consumer -1",
                amounts.map(|name| (name, json!(-1))).into(),
            ));
        } else if !wanted && account.has_jetstream() {
            let mut limits: Vec<(&'static str, Value)> =
                amounts.map(|name| (name, json!(0))).into();
            limits.push(("tiered_limits", Value::Null));
            changes.push(Change::limits(
                account,
                About::Jetstream,
                "JetStream is enabled in it: whoever is there writes through a reply subject",
                "--js-disable",
                limits,
            ));
        }
        // A sentinel is a bearer token, of the account that asks.
        if role != ASKING && !account.body.limits.disallow_bearer {
            changes.push(Change::limits(
                account,
                About::Bearer,
                "it takes bearer tokens: a user's JWT alone gets in, past the callout",
                "--disallow-bearer",
                vec![("disallow_bearer", json!(true))],
            ));
        }
    }

    /// What is imported from an account of that role, by accounts that there are.
    fn importers<'s>(&'s self, role: &'s str) -> impl Iterator<Item = &'s Taken> {
        let there = self.roles.iter().filter(|(_, places)| !places.is_empty());
        there
            .flat_map(|(importer, _)| self.picture.imports(importer))
            .filter(move |taken| taken.from == role)
    }

    fn exports(&self, role: &str, account: &Account, changes: &mut Vec<Change>) {
        let exports: &[accounts::Export] =
            self.picture.account(role).map(|a| a.exports.as_slice()).unwrap_or_default();
        let wanted: Vec<Export> = exports
            .iter()
            .map(|export| Export {
                name: export.subject.value.clone(),
                subject: export.subject.value.clone(),
                kind: kind(export.passage),
                token_req: true,
                response_type: if export.many { "Stream" } else { "" }.to_owned(),
            })
            .filter(|export| {
                self.importers(role).any(|taken| {
                    taken.kind == export.kind && within(&taken.subject, &export.subject)
                })
            })
            .collect();
        let now = &account.body.exports;
        for export in &wanted {
            let same = now.iter().find(|e| e.kind == export.kind && e.subject == export.subject);
            match same {
                None => changes.push(Change::export(account, export.clone())),
                Some(found) if !found.token_req => {
                    let (subject, wide) = (&export.subject, "any account of the operator");
                    let found = format!("it exports `{subject}` to {wide}");
                    changes.push(Change::mended_export(account, export.clone(), found));
                }
                Some(found)
                    if !export.response_type.is_empty()
                        && !found.response_type.eq_ignore_ascii_case(&export.response_type) =>
                {
                    let subject = &export.subject;
                    let found = format!("a request to `{subject}` gets one answer, and needs many");
                    changes.push(Change::mended_export(account, export.clone(), found));
                }
                Some(_) => {}
            }
        }
        // Others export what they like; these have nothing for anybody else.
        if ![STATE, POLICY, AUDIT, ASKING, CONTROL].contains(&role) {
            return;
        }
        for export in now {
            let expected =
                wanted.iter().any(|e| e.kind == export.kind && e.subject == export.subject);
            if !expected && !self.may_export(role, export) {
                changes.push(Change::no_export(account, export.clone()));
            }
        }
    }

    /// What an account may export though nobody needs it: what would pass for consumers and stores, and
    /// where no policy is known, the subjects of streams.
    fn may_export(&self, role: &str, export: &Export) -> bool {
        let always = passes::of_buckets().into_iter().chain(passes::of_consumers_and_stores());
        let service = export.kind == PassKind::Service;
        role == STATE
            && (always.into_iter().any(|pass| pass.subject == export.subject)
                || service
                    && self.policy.is_none()
                    && !export.subject.starts_with(['$', '_', '*', '>']))
    }

    fn imports(&self, role: &str, account: &Account, changes: &mut Vec<Change>) {
        let mut wanted: Vec<(&Account, Import)> = Vec::new();
        for Taken { kind, from, subject, local } in self.picture.imports(role) {
            let Some(exporter) = self.one(from) else { continue };
            let import = Import {
                name: local.clone(),
                subject: subject.clone(),
                account: exporter.key.to_string(),
                token: String::new(),
                local_subject: if local == subject { String::new() } else { local.clone() },
                kind: *kind,
            };
            wanted.push((exporter, import));
        }
        let same = |a: &Import, b: &Import| {
            let local = |i: &Import| {
                let local = &i.local_subject;
                if local.is_empty() { i.subject.clone() } else { local.clone() }
            };
            (&a.account, &a.subject, a.kind, local(a)) == (&b.account, &b.subject, b.kind, local(b))
        };
        for (exporter, import) in &wanted {
            let found = account.body.imports.iter().find(|found| same(found, import));
            match found {
                None => changes.push(Change::import(account, exporter, import.clone(), None)),
                Some(found) => {
                    if let Some(wrong) = self.activation(account, exporter, found) {
                        let import = Import { token: String::new(), ..found.clone() };
                        changes.push(Change::import(account, exporter, import, Some(wrong)));
                    }
                }
            }
        }
        for import in &account.body.imports {
            let ours = self.accounts.iter().find(|a| a.key.as_str() == import.account);
            let Some(exporter) = ours.filter(|exporter| self.has_role(exporter)) else { continue };
            let streams =
                role == SERVICES && self.policy.is_none() && import.kind == PassKind::Service;
            if !wanted.iter().any(|(_, wanted)| same(wanted, import)) && !streams {
                changes.push(Change::no_import(account, exporter, import.clone()));
            }
        }
    }

    /// What is wrong with an import's activation.
    fn activation(
        &self,
        account: &Account,
        exporter: &Account,
        import: &Import,
    ) -> Option<&'static str> {
        if import.token.is_empty() {
            return Some("is missing");
        }
        let Ok(claims) = account_jwt::read::<ActivationBody>(&import.token) else {
            return Some("cannot be read");
        };
        let signed = AccountKey::parse(&claims.iss).is_ok_and(|key| {
            exporter.signs(&key) && account_jwt::verify(&import.token, &key).is_ok()
        });
        if !signed {
            Some("its exporter did not sign")
        } else if claims.sub != account.key.as_str() {
            Some("is another account's")
        } else if claims.exp != 0 && claims.exp <= self.now {
            Some("has expired")
        } else if claims.nats.kind != import.kind || !within(&import.subject, &claims.nats.subject)
        {
            Some("is for another subject")
        } else {
            None
        }
    }

    /// The `nsc` commands that make our own users where the settings have no credentials of them, with
    /// the permissions of the picture.
    #[must_use]
    pub fn users(&self) -> Vec<String> {
        let audit = self.tool.audit.is_some();
        let bucket = matches!(self.tool.source, Some(PolicySource::Bucket(_)));
        let tool = self.tool;
        let own = if tool.tenant.is_some() { CONTROL } else { ASKING };
        let mut commands = Vec::new();
        for (role, user, known, needed) in [
            (own, "callout", tool.callout().is_ok(), true),
            (STATE, "admin", tool.admin().is_ok(), true),
            (MONITOR, "system", tool.system().is_ok(), true),
            (AUDIT, "audit-admin", tool.audit_admin().is_ok(), audit),
            (PUBLISH, "publisher", tool.publisher().is_ok(), bucket),
        ] {
            if known || !needed {
                continue;
            }
            let name = self.one(role).map_or(role, |account| &account.name);
            let drawn = self.picture.account(role);
            let drawn = drawn.and_then(|account| account.users.first()?.permissions.as_ref());
            let mut command = format!("nsc add user --account {} --name {user}", word(name));
            for (flag, rules) in [
                ("--allow-sub", drawn.and_then(|p| p.subscribe.as_ref())),
                ("--allow-pub", drawn.and_then(|p| p.publish.as_ref())),
            ] {
                let allowed = rules.and_then(|rules| rules.allow.as_deref()).unwrap_or_default();
                let subjects: Vec<String> =
                    allowed.iter().map(|rule| rule.subject.to_string()).collect();
                if !subjects.is_empty() {
                    command += &format!(" {flag} {}", word(&subjects.join(",")));
                }
            }
            commands.push(command);
            commands.push(format!(
                "nsc generate creds --account {} --name {user} --output-file keys/{user}.creds",
                word(name)
            ));
        }
        commands
    }
}

/// What a sentinel's JWT says that it should not: it leads to the callout of `asking`, and nowhere else.
#[must_use]
pub fn sentinel(jwt: &str, asking: &Account, now: i64) -> Vec<String> {
    let Ok(claims) = account_jwt::read::<UserBody>(jwt) else {
        return vec!["it cannot be read".to_owned()];
    };
    let body = &claims.nats;
    let mut wrong = Vec::new();
    if asking.body.authorization.auth_users.contains(&claims.sub) {
        wrong.push(
            "`auth_users` has its user: everybody gets in as that, and nobody is asked".into(),
        );
    }
    let account = if body.issuer_account.is_empty() { &claims.iss } else { &body.issuer_account };
    if account != asking.key.as_str() {
        wrong.push(format!("it is of {account}, and {} asks", asking.name));
    }
    let silent = |subjects: &account_jwt::Subjects| subjects.deny.iter().any(|s| s == ">");
    if !silent(&body.publish) || !silent(&body.subscribe) {
        wrong.push(
            "it permits something, and everybody has it: it should deny `>` on both sides"
                .to_owned(),
        );
    }
    if claims.exp != 0 && claims.exp.saturating_sub(now) < SOON {
        let left = claims.exp.saturating_sub(now) / 86_400;
        wrong.push(format!("it expires in {left} days, and then nobody gets in without a JWT"));
    }
    let signer = AccountKey::parse(&claims.iss);
    if signer.is_ok_and(|key| key != asking.key) {
        wrong.push("a signing key signed it, and it ends when that key is replaced".to_owned());
    }
    wrong
}

/// Within which a JWT that ends is told of, in seconds.
pub const SOON: i64 = 30 * 86_400;
