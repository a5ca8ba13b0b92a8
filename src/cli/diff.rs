//! `solewriter diff`: what changes for whom between two policies.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use self::view::{DiffView, markdown, text};
use super::asked::PolicyArgs;
use crate::cli::common::{NO, Output, YES, json, no_grant};
use solewriter_core::analysis::diff::{Diff, diff};
use solewriter_core::grant::Defaults;
use solewriter_core::policy::model::Policy;

mod view;

/// Show what each service gains and loses from one policy to another, and what changes in the
/// declarations of streams, consumers and object stores.
///
/// OLD and NEW are each a directory, or a git revision of the directory that --policy names
/// (`HEAD~1`, `main`), or REVISION:PATH with the path from the top of the repository. With --config
/// they are a directory, or a revision of the policy bucket, or `served` for what is served now.
/// Without NEW, it is the directory that --policy names, as it is now.
///
/// Exit code: 0 with or without changes, 1 if there is a change that --fail-on names, 2 if the two
/// cannot be compared.
#[derive(Args)]
#[command(mut_arg("revision", |revision| revision.hide(true)))]
#[command(mut_arg("policy", |policy| policy.help(
    "The directory whose git revisions OLD and NEW name, and which NEW is when it is left out; with \
     --config only the latter [default: policy]"
)))]
pub struct DiffCommand {
    /// The policy before: DIR, REVISION or REVISION:PATH.
    #[arg(value_name = "OLD")]
    old: String,
    /// The policy after: DIR, REVISION or REVISION:PATH [default: the --policy directory].
    #[arg(value_name = "NEW")]
    new: Option<String>,
    #[command(flatten)]
    policy: PolicyArgs,
    /// End with 1 if there is such a change.
    #[arg(long, value_name = "CHANGE", value_delimiter = ',')]
    fail_on: Vec<Change>,
    /// How to print the changes.
    #[arg(long, value_enum, default_value = "text")]
    format: DiffFormat,
}

/// What a change can be refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Change {
    /// A service may do more, or is new.
    Gain,
    /// A service may do less, or is removed.
    Loss,
    /// A key, an object store, a consumer, a subject of a stream or a found name has another service.
    Transfer,
}

/// How to print changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DiffFormat {
    /// For people.
    Text,
    /// For programs; the fields are documented and stable.
    Json,
    /// For pull requests.
    Markdown,
}

impl Change {
    fn is_in(self, diff: &Diff) -> bool {
        match self {
            Self::Gain => {
                diff.services.iter().any(solewriter_core::analysis::diff::ServiceChange::gains)
            }
            Self::Loss => {
                diff.services.iter().any(solewriter_core::analysis::diff::ServiceChange::loses)
            }
            Self::Transfer => !diff.transfers.is_empty(),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Gain => "gain",
            Self::Loss => "loss",
            Self::Transfer => "transfer",
        }
    }
}

impl DiffCommand {
    /// Runs the command.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        self.output().unwrap_or_else(|wrong| wrong).print()
    }

    fn output(&self) -> Result<Output, Output> {
        self.policy.must_be_of_use(self.new.is_some())?;
        let old = self.policy.named(&self.old)?;
        let directory = self.policy.folder().display().to_string();
        let new_name = self.new.as_ref().unwrap_or(&directory);
        let new = self.policy.named(new_name)?;
        let defaults = new.defaults;
        let (old, new) = (old.policy, new.policy);
        let found = compare(&old, &new, &defaults)?;
        let view = DiffView {
            old: (self.old.as_str(), old.revision().whole()),
            new: (new_name.as_str(), new.revision().whole()),
            diff: &found,
        };
        let out = match self.format {
            DiffFormat::Text => text(&view),
            DiffFormat::Json => json(&view),
            DiffFormat::Markdown => markdown(&view),
        };
        let refused: Vec<&str> =
            self.fail_on.iter().filter(|c| c.is_in(&found)).map(|c| c.as_str()).collect();
        if refused.is_empty() {
            return Ok(Output::data(out, YES));
        }
        let err = format!("refused because of --fail-on: there is a {}\n", refused.join(" and a "));
        Ok(Output { out, err, code: NO })
    }
}

/// What each identity gains and loses.
fn compare(old: &Policy, new: &Policy, defaults: &Defaults) -> Result<Diff, Output> {
    diff(old, new, defaults).map_err(|(service, error)| {
        let place = new.service(&service).or(old.service(&service)).map(|s| s.at.to_string());
        Output::wrong(no_grant(&service, &place.unwrap_or_default(), &error))
    })
}

/// The changes as people read them, for a command that is about to make them.
pub(super) fn described(
    (old_name, old): (&str, &Policy),
    (new_name, new): (&str, &Policy),
    defaults: &Defaults,
) -> Result<String, Output> {
    let found = compare(old, new, defaults)?;
    Ok(text(&DiffView {
        old: (old_name, old.revision().whole()),
        new: (new_name, new.revision().whole()),
        diff: &found,
    }))
}
