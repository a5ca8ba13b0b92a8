//! `solewriter policy`: the policy in its bucket, for people.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::time::timeout;

use super::finish;
use crate::cli::common::{Output, SettingsArgs, YES, line};
use crate::config::{PolicySource, Tool};
use crate::nats::Login;
use crate::nats::connect;
use crate::policy_source::bucket::entry::Entry;
use crate::policy_source::bucket::{Bucket, ReadError};
use solewriter_core::diagnostics::Problem;

mod authors;
mod log;
mod pull;
mod push;
mod reach;
mod status;

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Work with the policy in a NATS KV bucket: push, may-push, pull, log, show,
/// rollback, status.
///
/// The bucket is in its own account, where no service can reach it. Every instance of `serve` whose
/// settings name the bucket follows it. A push succeeds as a whole or not at all. If two people push
/// at the same time, one of them is told to look again.
///
/// Exit code: 0 if it is done; 1 if it is not (the policy is not valid, somebody else was first, an
/// instance serves another policy, an open connection was not closed); 2 if there is no answer.
#[derive(Args)]
pub struct PolicyCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Push(push::Push),
    MayPush(authors::MayPush),
    Pull(pull::Pull),
    Log(log::Log),
    Show(log::Show),
    Rollback(push::Rollback),
    Status(status::Status),
}

impl PolicyCommand {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        finish(async {
            match self.command {
                Command::Push(push) => Box::pin(push.run()).await,
                Command::MayPush(may) => may.run().await,
                Command::Pull(pull) => pull.run().await,
                Command::Log(log) => log.run().await,
                Command::Show(show) => show.run().await,
                Command::Rollback(rollback) => Box::pin(rollback.run()).await,
                Command::Status(status) => status.run().await,
            }
        })
    }
}

/// The deployment that is meant.
#[derive(Args)]
#[command(mut_arg("config", |config| config.help(
    "The settings file of `serve`, or one that has only `[nats] servers`, `[publisher] nkey_seed` and \
     `[policy] bucket`. `solewriter settings` lists flags that override it"
)))]
struct Deployment {
    #[command(flatten)]
    settings: SettingsArgs,
}

impl Deployment {
    fn tool(&self) -> Result<Tool, Output> {
        self.settings.load()
    }

    /// The settings, for a command that changes what is in the bucket. Says when these serve
    /// something else.
    fn tool_to_push(&self) -> Result<Tool, Output> {
        let tool = self.tool()?;
        if let Some(PolicySource::Directory(folder)) = &tool.source {
            let (path, folder) = (tool.path.display().to_string(), folder.display().to_string());
            let err = format!(
                "warning: {} serves the directory {}, not the policy bucket {}: what is pushed is in \
                 force only where `[policy] bucket` stands instead of `directory`\n",
                line(&path),
                line(&folder),
                tool.bucket
            );
            let _ = Output { out: String::new(), err, code: YES }.print();
        }
        Ok(tool)
    }
}

/// Connects with that login, and names the policy's bucket.
pub(super) async fn connect(tool: &Tool, login: &Login) -> Result<Bucket, Output> {
    let options = connect::options(login, &tool.tls, "solewriter-policy")
        .map_err(|error| failed(&error))?
        .connection_timeout(CONNECT_WITHIN);
    let connected = timeout(CONNECT_WITHIN, connect::connect(&tool.servers, options)).await;
    let Ok(client) = connected else {
        let servers = connect::addresses(&tool.servers).join(", ");
        return Err(failed(&format!("cannot connect to {servers}: it does not answer")));
    };
    let client = client.map_err(|error| failed(&error))?;
    Ok(Bucket::new(client, tool.bucket.clone()))
}

/// Connects as somebody who may read the bucket.
pub(super) async fn connect_to_read(tool: &Tool) -> Result<Bucket, Output> {
    connect(tool, &tool.reader().map_err(Output::wrong)?).await
}

/// What could not be done.
fn failed(error: &dyn std::fmt::Display) -> Output {
    Output::failed(error)
}

/// The newest revision, whether it counts or not; there must be one.
pub(super) async fn head(bucket: &Bucket) -> Result<Entry, Output> {
    one(bucket, bucket.head().await)
}

/// The newest revision that counts; there must be one.
pub(super) async fn counting(tool: &Tool, bucket: &Bucket) -> Result<Entry, Output> {
    one(bucket, bucket.that_counts(tool.judge().as_ref()).await)
}

fn one(bucket: &Bucket, found: Result<Option<Entry>, ReadError>) -> Result<Entry, Output> {
    let name = bucket.name();
    let none = |what: &str| {
        let problem = Problem::error("no-policy", format!("the policy bucket {name} {what}"));
        Output::wrong(problem.help("`solewriter policy push DIR -m WHY` makes the first revision"))
    };
    match found {
        Ok(Some(head)) => Ok(head),
        Ok(None) => Err(none("is empty")),
        Err(ReadError::Missing) => Err(none("does not exist")),
        Err(error) => Err(unread(bucket, &error)),
    }
}

pub(super) fn unread(bucket: &Bucket, error: &ReadError) -> Output {
    failed(&format!("the policy bucket {} cannot be read: {error}", bucket.name()))
}

/// The revision that a person names: its number, or the beginning of its policy revision.
pub(super) async fn named(bucket: &Bucket, head: Entry, name: &str) -> Result<Entry, Output> {
    let number: Option<u64> = name.parse().ok();
    if let Some(number) = number.filter(|n| *n >= 1 && *n <= head.number) {
        return match bucket.revision(number).await {
            Ok(Some(entry)) => Ok(entry),
            Ok(None) => Err(failed(&format!("there is no revision {number}"))),
            Err(error) => Err(unread(bucket, &error)),
        };
    }
    let digest = name.len() >= 4 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let beginning = name.to_ascii_lowercase();
    let mut next = digest.then_some(head);
    let mut found: Option<Entry> = None;
    while let Some(entry) = next {
        let number = entry.number;
        if entry.policy.starts_with(&beginning) {
            // The list has each document's whole digest: a policy that was pushed twice has one.
            match &found {
                Some(newer) if newer.list != entry.list => return Err(ambiguous(newer, &entry)),
                Some(_) => {}
                None => found = Some(entry),
            }
        }
        next = match number.checked_sub(1).filter(|n| *n > 0) {
            Some(number) => {
                bucket.revision(number).await.map_err(|error| unread(bucket, &error))?
            }
            None => None,
        };
    }
    if let Some(found) = found {
        return Ok(found);
    }
    let problem = Problem::error("no-revision", format!("there is no revision {name:?}"));
    Err(Output::wrong(problem.help(
        "give its number, or at least four digits of its policy revision; `solewriter policy log` \
         lists them",
    )))
}

fn ambiguous(newer: &Entry, older: &Entry) -> Output {
    let problem = Problem::error(
        "ambiguous-revision",
        format!(
            "revisions {} and {} both begin like that, and are different policies: {} and {}",
            newer.number,
            older.number,
            line(&newer.policy),
            line(&older.policy)
        ),
    );
    Output::wrong(problem.help("give its number, or more digits of its policy revision"))
}

/// Prints what there is to say before the end.
fn say(text: &str) {
    super::print(text.as_bytes());
}
