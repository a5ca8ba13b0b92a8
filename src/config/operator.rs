//! Operator mode: the account JWTs that the settings name, held against the keys that sign.
//!
//! The JWTs are public. With them, what would fail at the first connection is said at the start: a key
//! of no account, one with a scope, an account that the callout may not place anybody in.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::checks::named_text;
use super::issuer::{Issuing, public};
use super::secret::{OPERATOR_SEEDS, seeds};
use super::table::{self, Raw};
use crate::nats::AccountIds;
use crate::signer::client::Client;
use solewriter_core::account_jwt::{self, AccountBody, EVERY, SigningKey};
use solewriter_core::callout::issue::{self, Placed};
use solewriter_core::diagnostics::{Collector, Problem, Span, Spanned};
use solewriter_core::keys::{
    Account, AccountKey, AccountSigner, CurveSecret, Operator, PublicKey, Seed, Signer,
};

/// An account, as the file with its JWT says.
struct Known {
    name: Arc<str>,
    key: AccountKey,
    body: AccountBody,
    jwt: String,
    file: String,
    span: Span,
}

/// How a key signs for an account.
enum Signs<'a> {
    /// Users have the permissions that they are given.
    Freely,
    /// Users have those of that scope.
    InScope(&'a str),
}

impl Known {
    /// Whether a key signs for it, and how.
    fn signs(&self, key: &AccountKey) -> Option<Signs<'_>> {
        if *key == self.key {
            return Some(Signs::Freely);
        }
        let found = self.body.signing_keys.iter().find(|signing| signing.key() == key.as_str())?;
        Some(match found {
            SigningKey::Plain(_) => Signs::Freely,
            SigningKey::Scoped { role, .. } => Signs::InScope(role),
        })
    }
}

/// What signs users, each with where it stands: seeds, and then keys that the signer holds.
pub(super) fn signers(
    operator: &table::Operator,
    signer: Option<&Arc<Client>>,
    problems: &Collector,
) -> Vec<(String, AccountSigner)> {
    let seeds = seeds::<Account>(operator.seeds.as_deref(), OPERATOR_SEEDS, problems);
    let seeds = seeds.into_iter();
    let here = seeds.filter_map(|(file, seed)| Some((file, Signer::new(&seed).ok()?.into())));
    let mut signers: Vec<(String, AccountSigner)> = here.collect();
    for given in operator.keys.as_deref().unwrap_or_default() {
        let Some(signer) = signer else {
            let message = "`keys` in [operator] are held by a signer, and [issuer] names none";
            problems.push(
                Problem::error("no-signer", message)
                    .at(&given.span, "this key")
                    .help("set [issuer] signer, or give the seeds in [operator] seeds"),
            );
            continue;
        };
        let Some(key) = public(given, problems) else { continue };
        let elsewhere = AccountSigner::elsewhere(key, signer.clone());
        signers.push(("[operator] keys".to_owned(), elsewhere));
    }
    signers
}

/// What the settings say of operator mode.
pub(super) struct Accounts(Vec<Known>);

impl Accounts {
    /// Reads the JWTs; `None` without operator mode, or when one is no good.
    pub(super) fn read(raw: &Raw, problems: &Collector) -> Option<Self> {
        let files = raw.operator.accounts.as_deref()?;
        let now = jiff::Timestamp::now().as_second();
        let mut known: Vec<Known> = Vec::new();
        for file in files {
            let Some(found) = account(file, now, problems) else { continue };
            if let Some(other) = known.iter().find(|k| k.name == found.name || k.key == found.key) {
                problems.push(
                    Problem::error("two-accounts", format!("two JWTs are of {}", found.name))
                        .at(&found.span, "the name, or the key, of another file")
                        .also(&other.span, "the other one")
                        .help("policies name accounts: give each its own name, and each file once"),
                );
            }
            known.push(found);
        }
        if files.is_empty() {
            problems.push(Problem::error("no-accounts", "`accounts` in [operator] is empty").help(
                "list the account JWTs: accounts = [\"accounts/AUTH.jwt\", \"accounts/APP.jwt\"]",
            ));
        }
        (known.len() == files.len() && !problems.has_errors()).then_some(Self(known))
    }

    /// The public key of each account by its name.
    pub(super) fn ids(&self) -> AccountIds {
        AccountIds::new(self.0.iter().map(|known| (known.name.clone(), known.key)))
    }

    /// The JWTs, as the files have them.
    pub(super) fn jwts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|known| known.jwt.as_str())
    }

    /// The account that this is a key of.
    pub(super) fn of_key(&self, key: &AccountKey) -> Option<AccountKey> {
        self.0.iter().find(|known| known.signs(key).is_some()).map(|known| known.key)
    }

    /// What signs: for the account that asks with `issuer`, and for those that services are placed in.
    pub(super) fn issuing(
        &self,
        raw: &Raw,
        issuing: &Issuing,
        xkey: Option<&Seed<solewriter_core::keys::Curve>>,
        placed: &[Arc<str>],
        problems: &Collector,
    ) -> Option<issue::Operator> {
        let issuer = issuing.issuer.public();
        let Some(asking) = self.0.iter().find(|known| known.signs(issuer).is_some()) else {
            problems.push(
                Problem::error(
                    "not-the-issuer",
                    format!("[issuer] signs with {issuer}, which no JWT in [operator] accounts has"),
                )
                .help("that is a key of the account whose JWT has `authorization`: its own, or one of its signing keys"),
            );
            return None;
        };
        self.callout(asking, xkey, placed, problems);
        let mut accounts = HashMap::new();
        for (file, signer) in signers(&raw.operator, issuing.signer.as_ref(), problems) {
            let Some((known, signs)) =
                self.0.iter().find_map(|known| Some((known, known.signs(signer.public())?)))
            else {
                let message = format!("{file}: the key {} signs for no account", signer.public());
                problems.push(Problem::error("not-a-signing-key", message).help(
                    "no JWT in [operator] accounts has that key: push the account with it, and write its new JWT to the file",
                ));
                continue;
            };
            if let Signs::InScope(role) = signs {
                let message = format!(
                    "{file}: the key {} of {} has a scope ({role:?})",
                    signer.public(),
                    known.name
                );
                problems.push(Problem::error("scoped-key", message).help(
                    "the server would give everybody the scope's permissions, and nobody those of the policy: take a signing key without a scope",
                ));
                continue;
            }
            // The first one signs; the others are there for a rotation.
            accounts.entry(known.name.clone()).or_insert(Placed { account: known.key, signer });
        }
        for name in placed.iter().filter(|name| !accounts.contains_key(*name)) {
            let known = self.0.iter().any(|known| known.name == *name);
            let (missing, what) = if known {
                ("seed", "the file with the seed of one of its signing keys to [operator] seeds")
            } else {
                ("JWT", "the file with its JWT to [operator] accounts")
            };
            problems.push(
                Problem::error(
                    "no-account",
                    format!("[grants] names {name}, and there is no {missing} of it"),
                )
                .help(format!("add {what}")),
            );
        }
        Some(issue::Operator { asking: asking.key, accounts })
    }

    /// The callout, as the JWT of the account that asks has it.
    fn callout(
        &self,
        asking: &Known,
        xkey: Option<&Seed<solewriter_core::keys::Curve>>,
        placed: &[Arc<str>],
        problems: &Collector,
    ) {
        let authorization = &asking.body.authorization;
        let problem = |code: &'static str, message: String, help: &str| {
            problems.push(
                Problem::error(code, format!("{}: {message}", asking.file))
                    .at(&asking.span, "this JWT")
                    .help(format!(
                        "change the account, push it, and write its new JWT to the file: {help}"
                    )),
            );
        };
        if authorization.auth_users.is_empty() {
            problem(
                "no-callout",
                format!("{} has no `authorization`, so nobody is asked about", asking.name),
                "auth_users, allowed_accounts and xkey",
            );
            return;
        }
        let ours = xkey.and_then(|seed| Some(CurveSecret::new(seed).ok()?.public().to_string()));
        match (ours, authorization.xkey.as_str()) {
            (None, "") => {}
            (Some(ours), theirs) if ours == theirs => {}
            (Some(ours), _) => problem(
                "other-xkey",
                format!("requests are not sealed to [xkey] seed, which belongs to {ours}"),
                &format!("`xkey` is {ours}"),
            ),
            (None, _) => problem(
                "other-xkey",
                "requests are sealed, and [xkey] seed is not set".to_owned(),
                "without `xkey`; or set [xkey] seed",
            ),
        }
        let allowed = &authorization.allowed_accounts;
        if allowed.iter().any(|account| account == EVERY) {
            problem(
                "every-account",
                "`allowed_accounts` has `*`: the callout may place users in each account"
                    .to_owned(),
                "name the accounts that services are placed in",
            );
        }
        for known in self.0.iter().filter(|known| placed.contains(&known.name)) {
            let key = known.key.to_string();
            if known.key != asking.key && !allowed.iter().any(|a| *a == key || a == EVERY) {
                problem(
                    "account-not-allowed",
                    format!("`allowed_accounts` does not have {} ({key})", known.name),
                    "add it to `allowed_accounts`",
                );
            }
        }
    }
}

/// The account whose JWT a file has.
fn account(file: &Spanned<PathBuf>, now: i64, problems: &Collector) -> Option<Known> {
    const EXPECTED: &str = "expected a file with an account JWT (`nsc describe account --raw`)";
    let text = named_text(file, EXPECTED, problems)?;
    let path = file.value.display().to_string();
    // As tools write it: alone, or between lines with dashes.
    let token =
        text.lines().map(str::trim).find(|line| line.starts_with("eyJ")).unwrap_or_default();
    let bad = |message: String| {
        problems.push(
            Problem::error("bad-account", format!("{path}: {message}")).at(&file.span, EXPECTED),
        );
    };
    let claims = match account_jwt::read::<AccountBody>(token) {
        Ok(claims) if claims.nats.kind == "account" => claims,
        Ok(claims) => {
            bad(format!("it is the JWT of another kind: {:?}", claims.nats.kind));
            return None;
        }
        Err(error) => {
            bad(format!("it has no account JWT: {error}"));
            return None;
        }
    };
    let signed = PublicKey::<Operator>::parse(&claims.iss)
        .is_ok_and(|operator| account_jwt::verify(token, &operator).is_ok());
    if !signed {
        bad("no operator signed it: the JWT was changed".to_owned());
        return None;
    }
    if claims.exp != 0 && claims.exp <= now {
        bad(format!("it expired {} s ago", now.saturating_sub(claims.exp)));
        return None;
    }
    let key = match AccountKey::parse(&claims.sub) {
        Ok(key) => key,
        Err(error) => {
            bad(format!("its subject is no account: {error}"));
            return None;
        }
    };
    let (name, span) = (Arc::from(claims.name.as_str()), file.span.clone());
    Some(Known { name, key, body: claims.nats, jwt: token.to_owned(), file: path, span })
}
