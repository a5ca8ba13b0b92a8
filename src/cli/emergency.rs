//! `solewriter emergency`: break glass. A person whom the settings name gives a keyspace to another
//! service for a short time.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::time::Instant;

use super::finish;
use super::policy::{connect, connect_to_read, counting, unread};
use crate::cli::common::{
    self, Format, NO, Output, SettingsArgs, YES, count, duration, json, length, line, now, time,
};
use crate::config::{PolicySource, Tool};
use crate::fleet::{Instances, Report};
use crate::policy_source::bucket::Bucket;
use crate::policy_source::directory::{Directory, EMERGENCY_SUFFIX};
use crate::scaffold;
use solewriter_core::diagnostics::{Problem, SourceFile};
use solewriter_core::emergency::{
    self, Document, Emergency, MAX_REASON, Rules, Standing, Wish, is_id,
};
use solewriter_core::keys::{Signer, User};
use solewriter_core::policy::validate::validate_with;
use solewriter_types::keyspace::Keyspace;

/// Break glass: give a keyspace to another service for a short time, and take it back.
///
/// A person signs a grant with a key of their own, which `[emergency] keys` of the settings names.
/// Every instance verifies it. While it lasts, the service writes the keyspace, and its owner cannot
/// write it: what moves is handed over at both ends, so there are never two writers. It ends by itself.
///
/// Exit code: 0 if it is done; 1 if it is not; 2 if there is no answer.
#[derive(Args)]
pub struct EmergencyCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Grant(Grant),
    End(End),
    List(List),
}

/// Let a service write a keyspace for a while, and its owner not.
#[derive(Args)]
struct Grant {
    /// The service that is to write.
    #[arg(value_name = "SERVICE")]
    service: String,
    /// What: as an `owns` entry of its owner has it, or a keyspace that nobody owns.
    #[arg(value_name = "KEYSPACE")]
    keyspace: String,
    /// For how long, at most `[emergency] longest`.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    lasts: Duration,
    #[command(flatten)]
    signed: Signed,
}

/// End a grant early.
#[derive(Args)]
struct End {
    /// The id of the grant: `solewriter emergency list` shows it.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    signed: Signed,
}

/// List the grants of the last two days, and what became of them.
#[derive(Args)]
struct List {
    /// How to print it.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Args)]
struct Signed {
    /// Why, for the audit and for everybody who looks.
    #[arg(long, value_name = "WHY")]
    reason: String,
    /// The file with your seed, whose public key `[emergency] keys` names.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// How long to wait until every instance has it, and what moves has its writer. 0s means not to
    /// wait.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    wait: Duration,
    #[command(flatten)]
    settings: SettingsArgs,
}

impl EmergencyCommand {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        finish(async {
            match self.command {
                Command::Grant(grant) => grant.run().await,
                Command::End(end) => end.run().await,
                Command::List(list) => list.run().await,
            }
        })
    }
}

impl Signed {
    /// The settings and who signs; says what would be refused anyway.
    fn signer(&self) -> Result<(Tool, Signer<User>), Output> {
        let tool = self.settings.load()?;
        let signer = common::signer(&self.key)?;
        if !tool.emergency.keys.contains(signer.public()) {
            let message = format!("{} is not in [emergency] keys", signer.public());
            let help = "who may sign is for the settings of `serve` to say, on every instance";
            return Err(Output::wrong(Problem::error("not-allowed", message).help(help)));
        }
        let reason = self.reason.trim();
        if reason.is_empty() || reason.chars().count() > MAX_REASON {
            let message = "--reason is empty or too long";
            let help = format!("say why in 1 to {MAX_REASON} characters");
            return Err(Output::wrong(Problem::error("bad-reason", message).help(help)));
        }
        Ok((tool, signer))
    }

    fn wish<'w>(&'w self, tool: &'w Tool, id: &'w str) -> Wish<'w> {
        Wish { id, fleet: &tool.emergency.fleet, now: now(), reason: self.reason.trim() }
    }
}

/// Where the policy is, and the documents of emergencies beside it.
enum Place {
    Bucket(Box<Bucket>),
    Directory(Directory),
}

impl Place {
    /// The policy's source; `adding` as somebody who may add to it.
    async fn of(tool: &Tool, adding: bool) -> Result<Self, Output> {
        if let Some(PolicySource::Directory(path)) = &tool.source {
            return Ok(Self::Directory(Directory::new(path)));
        }
        let bucket = if adding {
            connect(tool, &tool.publisher().map_err(Output::wrong)?).await?
        } else {
            connect_to_read(tool).await?
        };
        Ok(Self::Bucket(Box::new(bucket)))
    }

    async fn files(&self, tool: &Tool) -> Result<Vec<SourceFile>, Output> {
        match self {
            Self::Directory(directory) => common::read(directory.path())?.map_err(Output::wrong),
            Self::Bucket(bucket) => {
                let head = counting(tool, bucket).await?;
                bucket.files(&head).await.map_err(|error| unread(bucket, &error))
            }
        }
    }

    async fn documents(&self) -> Result<Vec<String>, Output> {
        match self {
            Self::Directory(directory) => directory.read_emergencies().map_err(Output::wrong),
            Self::Bucket(bucket) => {
                bucket.all_emergencies().await.map_err(|error| unread(bucket, &error))
            }
        }
    }

    async fn add(&self, id: &str, document: &str) -> Result<(), Output> {
        match self {
            Self::Directory(directory) => put(directory.path(), id, document).map_err(|error| {
                let path = directory.path().display();
                Output::failed(&format!("{path} cannot be written: {error}"))
            }),
            Self::Bucket(bucket) => {
                bucket.add_emergency(document).await.map_err(|error| Output::failed(&error))
            }
        }
    }

    /// Somebody who hears the instances, if the settings have a login for that.
    async fn instances(&self, tool: &Tool) -> Option<Instances> {
        let client = match self {
            Self::Bucket(bucket) => bucket.client().clone(),
            Self::Directory(_) => connect_to_read(tool).await.ok()?.client().clone(),
        };
        Instances::listen(&client).await.ok()
    }
}

/// Writes a file that is there as a whole or not at all. It holds no secret.
fn put(directory: &Path, id: &str, document: &str) -> std::io::Result<()> {
    // Nobody reads files that begin with a dot.
    let made = directory.join(format!(".{id}.new"));
    scaffold::write_plain(&made, &format!("{document}\n"))?;
    std::fs::rename(&made, directory.join(format!("{id}{EMERGENCY_SUFFIX}")))
}

impl Grant {
    async fn run(self) -> Result<Output, Output> {
        let (tool, signer) = self.signed.signer()?;
        let keyspace = Keyspace::parse(&self.keyspace).map_err(|error| {
            let message = format!("`{}` is no keyspace: {error}", line(&self.keyspace));
            Output::wrong(Problem::error("bad-keyspace", message))
        })?;
        let id = emergency::id(rand::random());
        let signed =
            self.signed.wish(&tool, &id).grant(&self.service, &keyspace, self.lasts, &signer);
        let document = signed.map_err(|error| Output::failed(&error))?;
        let grant = match tool.emergency.read(&document, now()) {
            Ok(Document::Grant(grant)) => grant,
            Ok(Document::End(_)) => return Err(Output::failed(&"it grants nothing")),
            Err(why) => {
                return Err(Output::wrong(Problem::error("emergency", why.to_string())));
            }
        };
        let place = Place::of(&tool, true).await?;
        fits(&tool, &place, &grant).await?;
        let instances = place.instances(&tool).await;
        place.add(&id, &document).await?;
        super::print(
            format!(
                "emergency grant {id}: `{}` writes `{keyspace}` until {} ({})\n",
                line(&self.service),
                time(grant.until()),
                length(self.lasts)
            )
            .as_bytes(),
        );
        wait(instances, &id, true, self.signed.wait).await
    }
}

/// Judges the policy with the grant, as every instance will.
async fn fits(tool: &Tool, place: &Place, grant: &Emergency) -> Result<(), Output> {
    let (files, documents) = (place.files(tool).await?, place.documents().await?);
    let policy = tool.in_force(&files, documents).map_err(Output::wrong)?;
    let counts = policy.emergencies();
    let mut all: Vec<&Emergency> = counts.iter().collect();
    all.push(grant);
    validate_with(&files, &tool.defaults.audit, &all).map(drop).map_err(|problems| {
        let mut output = Output::refused(&problems);
        output.err += "nothing was granted\n";
        output
    })
}

impl End {
    async fn run(self) -> Result<Output, Output> {
        let (tool, signer) = self.signed.signer()?;
        let place = Place::of(&tool, true).await?;
        let rows = rows(&tool.emergency, &place.documents().await?);
        let Some(row) = rows.iter().find(|row| is_id(&self.id) && row.id == self.id) else {
            let message = format!("there is no emergency grant `{}`", line(&self.id));
            let help = "`solewriter emergency list` shows those of the last two days";
            return Err(Output::wrong(Problem::error("no-emergency", message).help(help)));
        };
        if row.state == ENDED || row.state == OVER {
            return Ok(Output::data(format!("the grant {} is over already\n", row.id), YES));
        }
        let id = emergency::id(rand::random());
        let signed = self.signed.wish(&tool, &id).end(&self.id, &signer);
        let document = signed.map_err(|error| Output::failed(&error))?;
        let instances = place.instances(&tool).await;
        place.add(&id, &document).await?;
        super::print(format!("the emergency grant {} is ended\n", self.id).as_bytes());
        wait(instances, &self.id, false, self.signed.wait).await
    }
}

/// Waits until every instance that lives has the grant, or has it no more, and nothing is in transit.
async fn wait(
    instances: Option<Instances>,
    id: &str,
    begins: bool,
    at_most: Duration,
) -> Result<Output, Output> {
    if at_most.is_zero() {
        return Ok(Output::data(String::new(), YES));
    }
    let Some(mut instances) = instances else {
        let err =
            "note: the instances were not asked: that takes [publisher] or [nats] nkey_seed\n";
        return Ok(Output { out: String::new(), err: err.to_owned(), code: YES });
    };
    let deadline = Instant::now() + at_most;
    let mut reports = instances.all().await;
    loop {
        let has = |report: &&Report| report.emergencies.iter().any(|one| one.id == id) == begins;
        let serving = reports.iter().filter(has).count();
        let settled = reports.iter().filter(has).all(|report| report.settled != Some(false));
        if serving == reports.len() && settled {
            let mut out = match serving {
                0 => "no instance answers\n".to_owned(),
                all => format!("{} it\n", have(all, begins)),
            };
            for moved in reports.iter().flat_map(|report| &report.handed_over) {
                let _ = writeln!(out, "{}", line(&moved.sentence()));
            }
            let code = if serving == 0 { NO } else { YES };
            return Ok(Output { out, err: String::new(), code });
        }
        if Instant::now() >= deadline {
            let mut err = format!("{} of {} it\n", have(serving, begins), reports.len());
            for transit in reports.iter().flat_map(|report| &report.transit) {
                let _ = writeln!(err, "{}", line(&transit.sentence()));
            }
            err += "it goes on without this command: see `solewriter policy status`\n";
            return Err(Output { out: String::new(), err, code: NO });
        }
        reports = instances.next(deadline).await;
    }
}

fn have(instances: usize, begins: bool) -> String {
    let instances = count(instances, "instance", "instances");
    format!("{instances} {}", if begins { "counted" } else { "ended" })
}

/// What became of a grant.
const ENDED: &str = "ended early";
const OVER: &str = "over";

/// A grant as it is listed.
#[derive(Serialize)]
struct Row {
    id: String,
    state: &'static str,
    service: String,
    keyspace: String,
    by: String,
    from: String,
    until: String,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
}

/// The grants of these documents, and what became of each. What cannot be verified is none.
fn rows(rules: &Rules, documents: &[String]) -> Vec<Row> {
    let now = now();
    let read: Vec<Document> = documents.iter().filter_map(|d| rules.read(d, now).ok()).collect();
    let end_of = |id: &str| {
        read.iter().find_map(|document| match document {
            Document::End(end) if end.ends == id => Some(format!("{}: {}", end.by, end.reason)),
            _ => None,
        })
    };
    let grants = read.iter().filter_map(|document| match document {
        Document::Grant(grant) => Some(grant),
        Document::End(_) => None,
    });
    let row = |grant: &Emergency| {
        let end = end_of(grant.id());
        let state = match (grant.stands(now), &end) {
            (Standing::Over, None) => OVER,
            (_, Some(_)) => ENDED,
            (Standing::Waits, None) => "begins in a moment",
            (Standing::On, None) => "signed, and not over",
        };
        Row {
            id: grant.id().to_owned(),
            state,
            service: grant.service().to_owned(),
            keyspace: grant.keyspace().to_string(),
            by: grant.by().to_string(),
            from: time(grant.from()),
            until: time(grant.until()),
            reason: grant.reason().to_owned(),
            end,
        }
    };
    grants.map(row).collect()
}

impl List {
    async fn run(self) -> Result<Output, Output> {
        let tool = self.settings.load()?;
        let place = Place::of(&tool, false).await?;
        let documents = place.documents().await?;
        let rows = rows(&tool.emergency, &documents);
        if self.format == Format::Json {
            return Ok(Output::data(json(&rows), YES));
        }
        let mut out = String::new();
        for row in &rows {
            let Row { id, state, service, keyspace, by, from, until, reason, end } = row;
            let _ = writeln!(out, "{id}  {state}");
            let _ =
                writeln!(out, "    {} writes {}, {from} to {until}", line(service), line(keyspace));
            let _ = writeln!(out, "    signed by {by}: {}", line(reason));
            if let Some(end) = end {
                let _ = writeln!(out, "    ended by {}", line(end));
            }
        }
        if rows.is_empty() {
            out += "no emergency grant\n";
        }
        Ok(Output::data(out, YES))
    }
}
