//! `solewriter adopt`: the next configuration of a nats-server that others run today.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::common::{Output, YES};
use super::init::quoted;
use crate::adoption::server_config::syntax::Disk;
use crate::adoption::stages::edits::{Texts, diff};
use crate::adoption::stages::written::{self, RECORD, Record};
use crate::adoption::stages::{Current, Move, Plan, Planned, Request, Stage, readme};
use crate::policy_source::directory::Directory;
use crate::scaffold;
use solewriter_core::policy::model::Policy;
use solewriter_core::policy::validate::validate;
use solewriter_types::subject::Pattern;

/// The folders of the first and of the last stage.
const BESIDE: &str = "1-beside";
const LAST: &str = "3-last";

/// Write the next configuration of a nats-server that runs without solewriter.
///
/// Reads its configuration with all that it includes, and writes a plan into a folder: keys,
/// solewriter's settings, and for each stage all files of the server's configuration with the
/// smallest edits. In the first stage everybody is let in as before; in the last one nobody is left
/// in the old account. README.md in the folder says what each means and how to go back. Prints the
/// edits as a diff without secrets. Changes and overwrites nothing.
///
/// Run it again with --moved when services have moved: then the users that they were are gone.
///
/// Exit code: 0 if it was written, 1 if no plan can be made, 2 if a file cannot be read.
#[derive(Args)]
pub struct Adopt {
    /// The file that nats-server is started with.
    #[arg(value_name = "NATS_SERVER_CONF")]
    config: PathBuf,
    /// The folder to write to.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The account that has the buckets and streams, when several have JetStream.
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// The policy's folder. Without --shared, its plain subjects pass between the accounts.
    #[arg(long, value_name = "DIR")]
    policy: Option<PathBuf>,
    /// Subjects of plain messages that services share, moved or not, such as `events.>`.
    #[arg(long, value_name = "SUBJECTS", value_delimiter = ',', value_parser = pattern)]
    shared: Vec<Pattern>,
    /// The services that have moved so far, each as NAME or NAME=USER, with a comma between them.
    /// Uses the plan in the folder.
    #[arg(long, value_name = "NAMES", conflicts_with = "keep")]
    moved: Vec<String>,
    /// Users who stay in the last stage, such as a tool's that manages streams.
    #[arg(long, value_name = "USERS", value_delimiter = ',')]
    keep: Vec<String>,
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text).map_err(|error| error.to_string())
}

impl Adopt {
    /// Runs the command.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        self.output().unwrap_or_else(|output| output).print()
    }

    fn output(&self) -> Result<Output, Output> {
        let dir = std::path::absolute(&self.out).map_err(|e| cannot(&self.out, &e))?;
        let current = Current::read(&self.config, &Disk).map_err(Output::wrong)?;
        if self.moved.is_empty() { self.first(&dir, &current) } else { self.next(&dir, &current) }
    }

    /// The whole plan.
    fn first(&self, dir: &Path, current: &Current) -> Result<Output, Output> {
        if dir.join(RECORD).symlink_metadata().is_ok() {
            let message = format!(
                "{} has a plan already; name what has moved with --moved, or another folder",
                dir.display()
            );
            return Err(Output::failed(&message));
        }
        let folder = match &self.policy {
            Some(folder) => Some(std::path::absolute(folder).map_err(|e| cannot(folder, &e))?),
            None => None,
        };
        let policy = folder.as_deref().map(policy).transpose()?;
        let (keys, mut outputs) = written::new_keys(dir).map_err(|e| Output::failed(&e))?;
        let request = Request {
            account: self.account.as_deref(),
            shared: &self.shared,
            policy: policy.as_ref(),
            keys: &keys,
        };
        let plan = Plan::of(current, request).map_err(|problems| Output::refused(&problems))?;
        let keep: BTreeSet<String> = self.keep.iter().cloned().collect();
        let stage = |stage| plan.stage(stage).map_err(|problems| Output::refused(&problems));
        let (beside, last) = (stage(Stage::Beside)?, stage(Stage::Last { keep })?);
        let record = Record {
            keys: keys.clone(),
            account: self.account.clone(),
            shared: self.shared.iter().map(ToString::to_string).collect(),
            policy: folder.as_ref().map(|folder| folder.display().to_string()),
        };
        let stages = [(BESIDE, &beside), (LAST, &last)];
        let page = readme::plan(&plan, &stages, &self.config.display().to_string());
        outputs.extend(written::settings(dir, current, plan.services(), folder.as_deref()));
        outputs.push(scaffold::Output::new(dir.join("README.md"), page, false));
        outputs.push(scaffold::Output::new(dir.join(RECORD), record.text(), false));
        for (name, planned) in stages {
            let folder = dir.join(name);
            outputs.extend(written::stage(&folder, &planned.texts).map_err(|e| cannot(dir, &e))?);
        }
        scaffold::write_all(dir, &outputs).map_err(|e| Output::failed(&e))?;
        let mut out = diffs(current.texts(), &beside, None);
        let _ = write!(
            out,
            "\nWrote {} and {} ({} users are gone in it, the edits are of the same kind).\nRead {} \
             first. What is new for the server is in {}.\n",
            quoted(&dir.join(BESIDE)),
            quoted(&dir.join(LAST)),
            plan.users().len().saturating_sub(self.keep.len()),
            quoted(&dir.join("README.md")),
            quoted(Path::new(&current.new_file().rsplit('/').next().unwrap_or_default())),
        );
        let notes = readme::notes(&plan);
        let err = notes.iter().fold(String::new(), |text, note| format!("{text}note: {note}\n"));
        Ok(Output { out, err, code: YES })
    }

    /// The stage in which some have moved.
    fn next(&self, dir: &Path, current: &Current) -> Result<Output, Output> {
        let file = dir.join(RECORD);
        let text = std::fs::read_to_string(&file).map_err(|e| cannot(&file, &e))?;
        let record = Record::parse(&text)
            .ok_or_else(|| cannot(&file, &"it is not what `solewriter adopt` wrote"))?;
        let folder = self.policy.clone().or(record.policy.map(PathBuf::from));
        let policy = folder.as_deref().map(policy).transpose()?;
        let shared = if self.shared.is_empty() {
            let parsed = record.shared.iter().map(|tree| Pattern::parse(tree));
            parsed.collect::<Result<Vec<_>, _>>().map_err(|e| cannot(&file, &e))?
        } else {
            self.shared.clone()
        };
        let request = Request {
            account: self.account.as_deref().or(record.account.as_deref()),
            shared: &shared,
            policy: policy.as_ref(),
            keys: &record.keys,
        };
        let plan = Plan::of(current, request).map_err(|problems| Output::refused(&problems))?;
        let moves: Vec<Move> = self.moved.iter().flat_map(|names| moves(&plan, names)).collect();
        let name = format!("2-moved-{}", moves.len());
        let stage = |stage| plan.stage(stage).map_err(|problems| Output::refused(&problems));
        let (beside, moved) = (stage(Stage::Beside)?, stage(Stage::Moved(moves))?);
        let to = dir.join(&name);
        let mut outputs = written::stage(&to, &moved.texts).map_err(|e| cannot(dir, &e))?;
        let page = readme::one(&plan, &name, &moved);
        outputs.push(scaffold::Output::new(to.join("README.md"), page.clone(), false));
        scaffold::write_all(&to, &outputs).map_err(|e| Output::failed(&e))?;
        let mut out = diffs(&beside.texts, &moved, Some(BESIDE));
        let _ = write!(out, "\nWrote {}.\n\n{page}", quoted(&to));
        Ok(Output::data(out, YES))
    }
}

/// Services that have moved. A user's name can have commas, as that of a certificate has.
fn moves(plan: &Plan<'_>, names: &str) -> Vec<Move> {
    let users = plan.users();
    let whole = |text: &str| match text.split_once('=') {
        Some((_, user)) => users.iter().any(|known| known == user),
        None => true,
    };
    let pieces: Vec<&str> = names.split(',').collect();
    let mut moves = Vec::new();
    let mut left = pieces.as_slice();
    while !left.is_empty() {
        let joined = (1..=left.len()).find_map(|count| {
            let text = left.get(..count)?.join(",");
            whole(&text).then_some((count, text))
        });
        // What is no user's name is told of as it is.
        let (count, text) = joined
            .unwrap_or_else(|| (1, left.first().map(ToString::to_string).unwrap_or_default()));
        moves.push(one_move(plan, &text));
        left = left.get(count..).unwrap_or_default();
    }
    moves
}

/// A service that has moved.
fn one_move(plan: &Plan<'_>, text: &str) -> Move {
    let (service, user) = match text.split_once('=') {
        Some((service, user)) => (service.to_owned(), user.to_owned()),
        None => (text.to_owned(), plan.user_of(text).unwrap_or_else(|| text.to_owned())),
    };
    Move { service, user }
}

/// The edits of each file. What is new in whole is not shown.
fn diffs(old: &Texts, new: &Planned, since: Option<&str>) -> String {
    let mut out = String::new();
    for (file, text) in &new.texts {
        if let Some(before) = old.get(file) {
            out += &diff(file, before, text, &new.lines);
        }
    }
    match since {
        Some(since) if !out.is_empty() => format!("What differs from {since}:\n\n{out}"),
        _ => out,
    }
}

fn policy(folder: &Path) -> Result<Policy, Output> {
    let files = Directory::new(folder).read().map_err(|e| cannot(folder, &e))?;
    Ok(validate(&files).map_err(|problems| Output::refused(&problems))?.policy)
}

fn cannot(path: &Path, error: &dyn std::fmt::Display) -> Output {
    Output::cannot(&format!("{}: {error}", path.display()))
}
