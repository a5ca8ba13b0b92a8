//! `solewriter operator`: the account JWTs of operator mode.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use super::asked::named_by;
use crate::cli::common::{Format, NO, Output, SettingsArgs, YES, json, load};
use crate::config::Tool;
use crate::doctor::look::account_jwts;
use crate::operator::{About, Activation, Missing, Situation};
use solewriter_core::policy::model::Policy;

/// Compare account JWTs with the settings and the policy.
#[derive(Args)]
pub struct OperatorCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Plan(Plan),
}

/// Print what to change in the JWTs of the accounts, as `nsc` commands or as claims.
///
/// Compares the JWTs in `[operator] accounts` with what the settings and the policy need: who is asked,
/// which accounts services may be placed in, signing keys, exports and imports, JetStream, bearer
/// tokens. Changes nothing, and prints nothing if nothing is left to do. `--format json` has the claims of
/// each account as they should be, and the activations that its imports take.
///
/// Exit code: 0 if there is nothing to change, 1 if there is, 2 if there is no answer.
#[derive(Args)]
struct Plan {
    /// The directory of policy files [default: the directory or bucket that the settings name].
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Compare what the servers have, instead of the files. Takes the system user.
    #[arg(long)]
    live: bool,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Serialize)]
struct View {
    agrees: bool,
    missing: Vec<Missing>,
    users: Vec<String>,
    not_compared: Vec<String>,
    accounts: Vec<AccountView>,
}

#[derive(Serialize)]
struct AccountView {
    account: String,
    key: String,
    changes: Vec<ChangeView>,
    /// The NATS part of the JWT with all changes made.
    claims: Value,
    /// What goes into `token` of imports there.
    activations: Vec<Activation>,
}

#[derive(Serialize)]
struct ChangeView {
    about: About,
    found: String,
    nsc: Vec<String>,
}

impl OperatorCommand {
    /// Runs the command.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        let Command::Plan(plan) = &self.command;
        plan.output().unwrap_or_else(|wrong| wrong).print()
    }
}

impl Plan {
    fn output(&self) -> Result<Output, Output> {
        let tool = self.settings.load()?;
        let Some(files) = tool.account_jwts() else {
            return Err(Output::cannot(
                &"[operator] accounts is not set: list the files with the accounts' JWTs there \
                  (`nsc describe account NAME --raw --output-file accounts/NAME.jwt`)",
            ));
        };
        let runtime = super::runtime().map_err(|error| Output::cannot(&error))?;
        let policy = runtime.block_on(self.policy(&tool))?;
        let live = if self.live {
            let live = runtime.block_on(account_jwts(&tool));
            live.map_err(|blind| Output::cannot(&format!("{}; {}", blind.why, blind.mend)))?
        } else {
            Vec::new()
        };
        let jwts: Vec<&str> =
            if self.live { live.iter().map(String::as_str).collect() } else { files };
        let now = jiff::Timestamp::now().as_second();
        let situation = Situation::of(&tool, &jwts, policy.as_ref(), now);
        let view = View::of(&situation.map_err(|error| Output::cannot(&error))?);
        let out = match self.format {
            Format::Json => json(&view),
            Format::Text => view.text(),
        };
        Ok(Output::data(out, if view.agrees { YES } else { NO }))
    }

    /// The policy; `None` where it is in a bucket that nobody can read yet.
    async fn policy(&self, tool: &Tool) -> Result<Option<Policy>, Output> {
        if let Some(dir) = &self.dir {
            return Ok(Some(load(dir, &tool.defaults.audit)?.1));
        }
        if let Some(dir) = &tool.policy {
            return Ok(Some(load(dir, &tool.defaults.audit)?.1));
        }
        Ok(named_by(tool).await.ok().map(|named| named.policy))
    }
}

impl View {
    fn of(situation: &Situation<'_>) -> Self {
        let changes = situation.changes();
        let mut accounts = Vec::new();
        for account in situation.accounts() {
            let own: Vec<_> = changes.iter().filter(|c| c.account == account.name).collect();
            if own.is_empty() {
                continue;
            }
            let mut claims = account.claims.clone();
            for change in &own {
                change.apply(&mut claims);
            }
            accounts.push(AccountView {
                account: account.name.to_string(),
                key: account.key.to_string(),
                activations: own.iter().filter_map(|c| c.activation(&account.key)).collect(),
                changes: own
                    .iter()
                    .map(|change| ChangeView {
                        about: change.about,
                        found: change.found.clone(),
                        nsc: change.nsc.clone(),
                    })
                    .collect(),
                claims,
            });
        }
        let (missing, users) = (situation.missing(), situation.users());
        let agrees = accounts.is_empty() && missing.is_empty() && users.is_empty();
        Self { agrees, missing, users, not_compared: situation.unknown(), accounts }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        for Missing { account, by } in &self.missing {
            let _ = writeln!(
                out,
                "There is no JWT of {account} in [operator] accounts ({by})\n  nsc add account --name \
                 {account}\n  nsc describe account --name {account} --raw --output-file \
                 accounts/{account}.jwt\n"
            );
        }
        for command in &self.users {
            let _ = writeln!(out, "{command}");
        }
        if !self.users.is_empty() {
            out.push('\n');
        }
        // Exports first: an activation takes an export that is there.
        for exports in [true, false] {
            for account in &self.accounts {
                let own: Vec<&ChangeView> = account
                    .changes
                    .iter()
                    .filter(|c| c.nsc.iter().any(|n| n.contains(" import ")) != exports)
                    .collect();
                if own.is_empty() {
                    continue;
                }
                let _ = writeln!(out, "{} ({})", account.account, account.key);
                for change in own {
                    for line in change.found.lines() {
                        let _ = writeln!(out, "  # {line}");
                    }
                    for command in &change.nsc {
                        let _ = writeln!(out, "  {command}");
                    }
                }
                out.push('\n');
            }
        }
        if !self.accounts.is_empty() {
            out += "Then push the JWTs (`nsc push --all`), write them to the files in [operator] \
                    accounts, and run `solewriter doctor`.\n";
        }
        for what in &self.not_compared {
            let _ = writeln!(out, "not compared: {what}");
        }
        out
    }
}
