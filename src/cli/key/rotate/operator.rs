//! The same in operator mode, where an account has several signing keys at once: the new one is added to its
//! JWT, instances sign with it, the old one is removed. No server is restarted.

use super::{New, Rotate, What, say};
use crate::cli::common::{Output, YES};
use crate::config::Tool;
use crate::doctor::look;
use crate::operator::{Account, word};
use solewriter_core::account_jwt::SigningKey;
use solewriter_core::keys::AccountKey;
use solewriter_types::clean;

/// How an account has a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Has {
    /// As a signing key, or its own.
    It,
    /// With a scope: it gives nobody the permissions of the policy.
    InScope,
    Not,
}

fn has(account: &Account, key: &str) -> Has {
    if account.key.as_str() == key {
        return Has::It;
    }
    match account.body.signing_keys.iter().find(|signing| signing.key() == key) {
        Some(SigningKey::Plain(_)) => Has::It,
        Some(SigningKey::Scoped { .. }) => Has::InScope,
        None => Has::Not,
    }
}

impl Rotate {
    /// A signing key of an account: the one that signs answers, or the one that signs users.
    pub(super) async fn signing_key(&self, tool: &Tool) -> Result<Output, Output> {
        if self.what == What::SigningKey && self.login.is_none() {
            return Err(Output::cannot(
                &"--login is missing: only a service that gets in shows that a server takes users by the new key",
            ));
        }
        let account = self.account_of(tool)?;
        let now = self.signs(tool, &account)?;
        let new = self.new_key()?;
        let old = match (&self.old, now.as_str() == new.public) {
            (Some(old), _) => {
                let old = AccountKey::parse(old);
                Some(old.map_err(|error| Output::cannot(&format!("--old: {error}")))?.to_string())
            }
            (None, false) => Some(now.to_string()),
            (None, true) => Self::other(&account, &new.public)?,
        };
        let name = word(&account.name);
        new.say();
        let jwt = format!(
            "\x20    nsc push --account {name}\n\
             \x20    nsc describe account --name {name} --raw --output-file accounts/{name}.jwt\n"
        );
        say(&format!(
            "2. Add it to the signing keys of {name}, push its JWT, and write it to the file in [operator] accounts:\n\
             \x20    nsc edit account --name {name} --sk {}\n{jwt}",
            new.public
        ));
        self.until("the JWT with the new key", async || {
            self.everywhere(&account.key, &new.public, true).await
        })
        .await?;

        let config = self.settings.config.display();
        say(&format!(
            "3. In {config}, write {}, and restart the instances one after the other.\n",
            self.line(&new)
        ));
        self.until("the settings", async || Ok(self.in_file(&account, &new.public))).await?;
        self.until("instances with the new key", async || {
            let (with, without) = self.instances(tool, &new.public).await?;
            let state = format!("{with} have the new key, {without} another");
            Ok(if without == 0 && with > 0 { Ok(state) } else { Err(state) })
        })
        .await?;
        self.until("servers", async || self.answered(&new).await).await?;

        if let Some(old) = old {
            self.removed(tool, &account, &old, &new, &jwt).await?;
        }
        let what = match self.what {
            What::Issuer => format!("The issuer is {}.", new.public),
            _ => format!("Users of {name} are signed by {}.", new.public),
        };
        Ok(Output::data(format!("{what} Nothing needs the old seed any more: destroy it.\n"), YES))
    }

    /// The old key goes.
    async fn removed(
        &self,
        tool: &Tool,
        account: &Account,
        old: &str,
        new: &New,
        jwt: &str,
    ) -> Result<(), Output> {
        let name = word(&account.name);
        let gone = if self.what == What::SigningKey {
            format!(
                "   Servers close what the old key let in, and clients come back. After {} s nobody is left of them,\n\
                 \x20  unless [grants] or the policy gives somebody longer.\n",
                tool.defaults.lifetime.as_secs()
            )
        } else {
            "   The JWTs of services that the old key signed end with it.\n".to_owned()
        };
        say(&format!(
            "4. Remove {old} from the signing keys of {name}:\n\
             \x20    nsc edit account --name {name} --rm-sk {old}\n{jwt}{gone}"
        ));
        self.until("the JWT without the old key", async || {
            self.everywhere(&account.key, old, false).await
        })
        .await?;
        self.until("servers", async || self.answered(new).await).await
    }

    /// The account whose key it is, by its file.
    fn account_of(&self, tool: &Tool) -> Result<Account, Output> {
        let jwts = tool.account_jwts().unwrap_or_default();
        let mut accounts = jwts.into_iter().filter_map(Account::read);
        if self.what == What::Issuer {
            let issuer = *tool.issuer().map_err(Output::wrong)?.public();
            let asking = tool.asking(&issuer);
            return accounts.find(|account| Some(account.key) == asking).ok_or_else(|| {
                let message = format!(
                    "no JWT in [operator] accounts has the key of [issuer], {issuer}: write the pushed JWT to its file first"
                );
                Output::cannot(&message)
            });
        }
        let name = self.account.clone().unwrap_or_else(|| tool.defaults.account.to_string());
        accounts.find(|account| *account.name == *name).ok_or_else(|| {
            Output::cannot(&format!("no JWT in [operator] accounts is of {name}: see --account"))
        })
    }

    /// The key of that account that the settings sign with.
    fn signs(&self, tool: &Tool, account: &Account) -> Result<AccountKey, Output> {
        if self.what == What::Issuer {
            return Ok(*tool.issuer().map_err(Output::wrong)?.public());
        }
        // The first one signs.
        let keys = tool.placing().map_err(Output::wrong)?;
        keys.into_iter().find(|key| account.signs(key)).ok_or_else(|| {
            let message = format!(
                "no key in [operator] seeds or keys signs for {}: push the account with it, and write its JWT to the file",
                account.name
            );
            Output::cannot(&message)
        })
    }

    /// The one signing key that there is beside the new one, which the settings have already; `None` where
    /// there is none.
    fn other(account: &Account, new: &str) -> Result<Option<String>, Output> {
        let keys = account.body.signing_keys.iter().map(SigningKey::key);
        let others: Vec<&str> = keys.filter(|key| *key != new).collect();
        match others.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some((*one).to_owned())),
            several => Err(Output::cannot(&format!(
                "{} has these signing keys beside the new one: {}. Say which one goes: --old KEY",
                account.name,
                several.join(", ")
            ))),
        }
    }

    /// Whether the file's JWT and that of each server have a key, or have it no more.
    async fn everywhere(
        &self,
        account: &AccountKey,
        key: &str,
        wanted: bool,
    ) -> Result<Result<String, String>, String> {
        let Ok(tool) = self.settings.load() else {
            return Ok(Err("the settings, or a JWT that they name, cannot be read".to_owned()));
        };
        let jwts = tool.account_jwts().unwrap_or_default();
        let in_file = jwts.into_iter().filter_map(Account::read).find(|a| a.key == *account);
        let on = look::account_on(&tool, account).await;
        let on = on.map_err(|blind| format!("{}; {}", blind.why, blind.mend))?;
        if on.is_empty() {
            return Err("no server knows the account".to_owned());
        }
        let scoped = |has: Has| has == Has::InScope;
        if wanted && on.iter().any(|(_, account)| scoped(has(account, key))) {
            return Ok(Err("the key has a scope: add it without one".to_owned()));
        }
        let fits = |account: &Account| (has(account, key) != Has::Not) == wanted;
        let done: Vec<&str> =
            on.iter().filter(|(_, account)| fits(account)).map(|(s, _)| s.as_str()).collect();
        let file = in_file.as_ref().is_some_and(fits);
        let (with, of) = (if wanted { "have" } else { "are without" }, on.len());
        let file_has = match (file, wanted) {
            (true, true) => "the file has it",
            (false, true) => "the file does not have it",
            (true, false) => "so is the file",
            (false, false) => "the file still has it",
        };
        let colon = if done.is_empty() { "" } else { ": " };
        let state = format!(
            "{} of {of} servers {with} it{colon}{}; {file_has}",
            done.len(),
            // Servers name themselves.
            clean::line(&done.join(", "))
        );
        Ok(if file && done.len() == of { Ok(state) } else { Err(state) })
    }

    /// Whether the settings sign with the new key.
    fn in_file(&self, account: &Account, new: &str) -> Result<String, String> {
        let Ok(tool) = self.settings.load() else {
            return Err("they cannot be read".to_owned());
        };
        let jwts = tool.account_jwts().unwrap_or_default();
        let now = jwts.into_iter().filter_map(Account::read).find(|a| a.key == account.key);
        let key = now.and_then(|account| self.signs(&tool, &account).ok());
        match key {
            Some(key) if key.as_str() == new => Ok("they have the new key".to_owned()),
            Some(_) => Err("they have the old key".to_owned()),
            None => Err("they have no key of the account".to_owned()),
        }
    }

    /// Whether each server takes what the instances sign: a service gets in or, without one, an unknown key
    /// is refused by an answer.
    async fn answered(&self, new: &New) -> Result<Result<String, String>, String> {
        let tool = self.settings.load().map_err(|_| "the settings cannot be read".to_owned())?;
        let knocks = self.knock(&tool, new).await?;
        let took = |knock: &&look::Knock| {
            if self.login.is_some() { knock.entered } else { knock.refused_in_time }
        };
        let done: Vec<&str> = knocks.iter().filter(took).map(|k| k.address.as_str()).collect();
        let colon = if done.is_empty() { "" } else { ": " };
        let of = knocks.len();
        let state = format!("{} of {of} took an answer{colon}{}", done.len(), done.join(", "));
        Ok(if done.len() == of { Ok(state) } else { Err(state) })
    }
}
