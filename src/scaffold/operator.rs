//! Operator mode: what nats-server's configuration says of accounts, as JWTs. There is one source for
//! both: the lines in `deploy/nats-server.conf`, with those of the policy's streams.

use std::collections::BTreeMap;
use std::path::Path;

use zeroize::Zeroizing;

use super::{InitError, Output, seed_output};
use crate::adoption::server_config::accounts::{self, Config, Rules};
use crate::operator::picture::{ASKING, Picture, Taken, kind};
use solewriter_core::account_jwt::{
    self, AccountBody, Authorization, Export, Import, Limits, OperatorBody, SigningKey, Subjects,
    UserBody,
};
use solewriter_core::callout::claims::VERSION;
use solewriter_core::keys::{Account, Operator, Seed, Signer, User};

/// nats-server's configuration in operator mode.
const SERVER_CONFIG: &str = include_str!("../../deploy/nats-server-operator.conf");
/// What a deployment in the server's configuration is made of.
pub(super) struct Given<'a> {
    /// nats-server's configuration.
    pub server: &'a str,
    /// The values that it includes.
    pub values: &'a str,
    /// solewriter's settings.
    pub settings: &'a str,
    /// Signs answers.
    pub issuer: &'a Signer<Account>,
    /// What requests are sealed to.
    pub xkey: &'a str,
    /// Everybody who has a seed: our own users, and services.
    pub users: &'a [(String, Seed<User>)],
    /// The accounts that services are placed in, each with the file of the seed that signs its users.
    pub placed: &'a [(String, String)],
}

/// An account, with its own key.
struct Made {
    seed: Seed<Account>,
    signer: Signer<Account>,
}

impl Given<'_> {
    /// The files that take the place of the configuration's.
    pub(super) fn outputs(&self, dir: &Path, now: i64) -> Result<Vec<Output>, InitError> {
        let unread = |error: &dyn std::fmt::Display| InitError::Accounts(error.to_string());
        let picture = Picture::of(self.server, self.values).map_err(|e| unread(&e))?;
        let config = &picture.config;
        let mut made = BTreeMap::new();
        for account in &config.accounts {
            let seed = Seed::generate();
            let signer = Signer::new(&seed)?;
            made.insert(account.name.value.clone(), Made { seed, signer });
        }

        let mut placing = BTreeMap::new();
        for (account, _) in self.placed {
            let seed = Seed::<Account>::generate();
            let signer = Signer::new(&seed)?;
            placing.insert(account.as_str(), Made { seed, signer });
        }
        let operator = Seed::<Operator>::generate();
        let operator_signer = Signer::new(&operator)?;
        let mut outputs = vec![seed_output(dir, "operator/operator.nk", &operator)];
        for (account, file) in self.placed {
            outputs
                .extend(placing.get(account.as_str()).map(|it| seed_output(dir, file, &it.seed)));
        }
        let mut preload = String::new();
        for account in &config.accounts {
            let name = &account.name.value;
            let Some(own) = made.get(name) else { continue };
            let signing = match name.as_str() {
                ASKING => Some(self.issuer),
                name => placing.get(name).map(|own| &own.signer),
            };
            let body = self.account(&picture, account, own, &made, signing, now)?;
            let key = own.signer.public();
            let jwt = account_jwt::sign(&operator_signer, key.as_str(), name, body, now)?;
            preload += &format!("  {key}: {jwt}\n");
            let path = dir.join("accounts").join(format!("{name}.jwt"));
            outputs.push(Output::new(path, format!("{jwt}\n"), false));
            outputs.push(seed_output(dir, &format!("operator/{name}.nk"), &own.seed));
            for user in &account.users {
                let Some(key) = &user.name else { continue };
                let permissions = user.permissions.as_ref();
                let (publish, subscribe) = (
                    subjects(permissions.and_then(|p| p.publish.as_ref())),
                    subjects(permissions.and_then(|p| p.subscribe.as_ref())),
                );
                let body = UserBody::new(own.signer.public(), publish, subscribe);
                outputs.push(self.credentials(dir, &own.signer, &key.value, body, now)?);
            }
        }
        let asking = made.get(ASKING).ok_or_else(|| unread(&"there is no AUTH"))?;
        let system = made.get(config.system()).ok_or_else(|| unread(&"there is no SYS"))?;
        outputs.extend(self.services(dir, config, asking, now)?);
        let body = OperatorBody {
            system_account: system.signer.public().to_string(),
            kind: "operator".to_owned(),
            version: VERSION,
            ..OperatorBody::default()
        };
        let key = operator_signer.public();
        let operator = account_jwt::sign(&operator_signer, key.as_str(), "solewriter", body, now)?;
        // Everybody has this one: it opens nothing, and its seed is not kept.
        let nobody = Signer::new(&Seed::<User>::generate())?;
        let mut body = way_in(asking);
        body.bearer_token = true;
        let sentinel =
            account_jwt::sign(&asking.signer, nobody.public().as_str(), "sentinel", body, now)?;
        let accounts = format!(
            "# What the operator signed. Public; nothing here is secret.\n\noperator: {operator}\n\
             system_account: {}\n\n\
             # Who connects without a JWT of its own is asked about with this one, which permits\n\
             # nothing. nats-server 2.10 does not know it: remove the line there, and let services\n\
             # connect with their .creds files.\ndefault_sentinel: {sentinel}\n\n\
             resolver: MEMORY\nresolver_preload: {{\n{preload}}}\n",
            system.signer.public(),
        );
        outputs.push(Output::new(dir.join("accounts.conf"), accounts, false));
        outputs.push(Output::new(dir.join("nats-server.conf"), SERVER_CONFIG, false));
        let used = ["NODE_NAME", "CLIENT_LISTEN", "JETSTREAM_DIR"];
        let used = |line: &&str| used.iter().any(|name| line.starts_with(name));
        let values: String =
            self.values.lines().filter(used).flat_map(|line| [line, "\n"]).collect();
        outputs.push(Output::new(dir.join("deployment.conf"), values, false));
        let names: Vec<&str> = made.keys().map(String::as_str).collect();
        outputs.push(Output::new(dir.join("solewriter.toml"), self.settings(&names), false));
        Ok(outputs)
    }

    /// What an account says.
    fn account(
        &self,
        picture: &Picture,
        account: &accounts::Account,
        own: &Made,
        made: &BTreeMap<String, Made>,
        signing: Option<&Signer<Account>>,
        now: i64,
    ) -> Result<AccountBody, InitError> {
        let name = &account.name.value;
        let exports = account.exports.iter().map(|export| Export {
            name: export.subject.value.clone(),
            subject: export.subject.value.clone(),
            kind: kind(export.passage),
            token_req: true,
            response_type: if export.many { "Stream" } else { "" }.to_owned(),
        });
        let mut imports = Vec::new();
        for Taken { kind, from, subject, local } in picture.imports(name) {
            let exporter =
                made.get(from).ok_or_else(|| InitError::Accounts(format!("there is no {from}")))?;
            let (signer, importer) = (&exporter.signer, own.signer.public());
            imports.push(Import {
                name: local.clone(),
                subject: subject.clone(),
                account: signer.public().to_string(),
                token: account_jwt::activation(signer, importer, subject, *kind, now)?,
                local_subject: if local == subject { String::new() } else { local.clone() },
                kind: *kind,
            });
        }
        let authorization = if name == ASKING {
            let callout =
                picture.config.authorization.as_ref().and_then(|a| a.auth_callout.as_ref());
            let listed = |key: &str| {
                callout.is_some_and(|callout| callout.auth_users.iter().any(|u| u.value == key))
            };
            let users = account.users.iter().filter_map(|user| user.name.as_ref());
            let allowed = self.placed.iter().filter_map(|(name, _)| made.get(name));
            let allowed = allowed.map(|own| own.signer.public().to_string());
            Authorization {
                // Users of other accounts log in by those: nobody asks about them.
                auth_users: users.map(|u| u.value.clone()).filter(|key| listed(key)).collect(),
                allowed_accounts: allowed.collect(),
                xkey: self.xkey.to_owned(),
            }
        } else {
            Authorization::default()
        };
        let jetstream = account.jetstream.as_ref().is_some_and(|on| on.value);
        let leaf = if self.placed.iter().any(|(placed, _)| placed == name) { -1 } else { 0 };
        Ok(AccountBody {
            imports,
            exports: exports.collect(),
            // The sentinel is a bearer token; nobody else is.
            limits: Limits { leaf, disallow_bearer: name != ASKING, ..Limits::none(jetstream) },
            signing_keys: signing
                .map(|signer| SigningKey::Plain(signer.public().to_string()))
                .into_iter()
                .collect(),
            authorization,
            kind: "account".to_owned(),
            version: VERSION,
        })
    }

    /// Services' own credentials: they get as far as to be asked about, and prove who they are.
    fn services(
        &self,
        dir: &Path,
        config: &Config,
        asking: &Made,
        now: i64,
    ) -> Result<Vec<Output>, InitError> {
        let mut outputs = Vec::new();
        for (name, seed) in self.users {
            let key = Signer::new(seed)?.public().to_string();
            if config.user(&key).is_some() {
                continue;
            }
            outputs.push(seed_output(dir, &format!("{name}.nk"), seed));
            // By the account itself: the issuer's key may be replaced, and these stay.
            outputs.push(self.credentials(dir, &asking.signer, &key, way_in(asking), now)?);
        }
        Ok(outputs)
    }

    fn credentials(
        &self,
        dir: &Path,
        signer: &Signer<Account>,
        key: &str,
        body: UserBody,
        now: i64,
    ) -> Result<Output, InitError> {
        for (name, seed) in self.users {
            if Signer::new(seed)?.public().as_str() == key {
                let jwt = account_jwt::sign(signer, key, name, body, now)?;
                let path = dir.join("keys").join(format!("{name}.creds"));
                let text: Zeroizing<String> = account_jwt::credentials(&jwt, seed);
                return Ok(Output { path, text, secret: true });
            }
        }
        Err(InitError::Accounts(format!("nobody has the seed of {key}")))
    }

    /// Settings with the credentials of our own users, where they have the files with their seeds.
    pub(super) fn with_credentials(&self, settings: &str) -> String {
        let names = self.users.iter().map(|(name, _)| name);
        names.fold(settings.to_owned(), |settings, name| {
            let seed = format!("keys/{name}.nk\"");
            let credentials = format!("keys/{name}.creds\"");
            let lines = settings.split_inclusive('\n').map(|line| {
                if line.starts_with("nkey_seed") && line.contains(&seed) {
                    line.replace(&seed, &credentials).replace("nkey_seed", "credentials")
                } else {
                    line.to_owned()
                }
            });
            lines.collect()
        })
    }

    /// solewriter's settings: credentials for seeds, and what signs.
    fn settings(&self, accounts: &[&str]) -> String {
        let settings = self.with_credentials(self.settings);
        let issuer = "[issuer]\nseed = \"keys/issuer.nk\"\n";
        let files: String =
            accounts.iter().map(|name| format!("  \"accounts/{name}.jwt\",\n")).collect();
        let seeds: Vec<String> =
            self.placed.iter().map(|(_, file)| format!("\"keys/{file}\"")).collect();
        let operator = format!(
            "{issuer}\n# Operator mode: the account JWTs, and what signs users of the account that \
             services are in.\n[operator]\naccounts = [\n{files}]\nseeds = [{}]\n",
            seeds.join(", "),
        );
        settings.replace(issuer, &operator)
    }
}

/// A user of the account that asks, who may do nothing there.
fn way_in(asking: &Made) -> UserBody {
    UserBody::new(asking.signer.public(), Subjects::nothing(), Subjects::nothing())
}

fn subjects(rules: Option<&Rules>) -> Subjects {
    let Some(rules) = rules else { return Subjects::default() };
    let texts = |rules: &[accounts::Rule]| {
        rules.iter().map(|rule| rule.subject.to_string()).collect::<Vec<_>>()
    };
    Subjects {
        allow: rules.allow.as_deref().map(texts).unwrap_or_default(),
        deny: texts(&rules.deny),
    }
}
