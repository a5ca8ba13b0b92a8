//! `solewriter state`: makes what JetStream keeps what the policy declares.

use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::asked::named_by;
use super::finish;
use crate::buckets::streams::{self, Done};
use crate::buckets::{Action, BucketPlan, Kind, Plan, TooNew, audit_streams, title};
use crate::cli::common::{self, Format, NO, Output, SettingsArgs, YES, count, json, line, load};
use crate::config::Tool;
use crate::nats::connect::account;
use crate::nats::{AccountIds, Login};
use crate::operator::{Change, Situation};
use crate::passes::link::Link;
use crate::passes::{self, DueTo, Pass};
use solewriter_core::grant::AuditStreams;
use solewriter_core::policy::model::{Domain, Policy};

/// Create and update what the policy declares: buckets, streams, consumers and object stores.
///
/// Connects as the admin of the account that holds them (`[admin] nkey_seed` of the settings). Creates
/// each of them with safe settings, and updates those that differ. Never deletes anything. `buckets` is
/// the same command.
#[derive(Args)]
pub struct State {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Plan(PlanCommand),
    Apply(Apply),
    Link(LinkCommand),
}

/// Show what `apply` would do, and change nothing.
///
/// Exit code: 0 if everything is as declared, 1 if something differs, 2 if there is no answer.
#[derive(Args)]
struct PlanCommand {
    #[command(flatten)]
    question: Question,
}

/// Show what differs, and change it.
///
/// Asks before it changes anything, unless --yes is given. If one change would lose data, nothing is
/// changed without --allow-data-loss.
///
/// Exit code: 0 if everything is now as declared, 1 if something is not, 2 if there is no answer.
#[derive(Args)]
struct Apply {
    #[command(flatten)]
    question: Question,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// Also make changes that lose data.
    #[arg(long)]
    allow_data_loss: bool,
}

/// Print the lines of nats-server's configuration for a leafnode between two JetStream domains.
///
/// Both servers have a configuration that `init` wrote. The leafnode joins an account in which nobody
/// is, and only what the policy says passes: what services read in the other domain, and what copies
/// of buckets are sent. Nothing is asked of a server, and nothing is changed.
///
/// Exit code: 0 if lines were printed, 2 if there is no answer.
#[derive(Args)]
struct LinkCommand {
    /// The domain of the server that accepts the leafnode.
    hub: String,
    /// The domain of the server that connects to it.
    leaf: String,
    /// The directory of policy files [default: the directory or bucket that the settings name].
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A service that reads in the domain where it is not connected. May be repeated [default: each
    /// service that reads in a domain and writes nothing there].
    #[arg(long, value_name = "SERVICE")]
    reader: Vec<String>,
    /// The account that the leafnode joins, on both servers: one of its own for each leaf.
    #[arg(long, default_value = "LINK")]
    account: String,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Args)]
struct Question {
    /// The directory of policy files [default: the directory or bucket that the settings name].
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The same as DIR.
    #[arg(short, long, value_name = "DIR", conflicts_with = "dir")]
    policy: Option<PathBuf>,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Serialize)]
struct PlanView<'a> {
    agrees: bool,
    #[serde(flatten)]
    plan: &'a Plan,
    passes: &'a [PassView],
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<Vec<DoneView<'a>>>,
}

/// Something new, and what nats-server's configuration must have for it; in operator mode, the `nsc`
/// commands that change the accounts' JWTs, each on a line.
#[derive(Serialize)]
struct PassView {
    subject: String,
    /// The account that exports it, and the line for that.
    state: String,
    export: String,
    /// The accounts that import it, and the line for that.
    services: Vec<String>,
    import: String,
}

#[derive(Serialize)]
struct DoneView<'a> {
    kind: Kind,
    bucket: &'a str,
    stream: &'a str,
    action: Action,
    error: Option<String>,
}

impl State {
    /// Runs the command.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        finish(async {
            match &self.command {
                Command::Plan(plan) => plan.output().await,
                Command::Apply(apply) => apply.output().await,
                Command::Link(link) => link.output().await,
            }
        })
    }
}

/// Something that keeps the question from being answered.
fn failed(error: &dyn std::fmt::Display) -> Output {
    Output::cannot(error)
}

/// The admin's connection and the policy.
struct Asked {
    client: async_nats::Client,
    policy: Policy,
    /// The cluster that has all streams, if the settings name one.
    cluster: Option<String>,
    /// The accounts that services are placed in.
    services: Vec<String>,
    /// How servers name accounts.
    ids: AccountIds,
    /// What the account JWTs lack, in operator mode.
    jwts: Option<Vec<Change>>,
    /// The audit streams and their admin, where there are any to look at.
    audit: Option<(async_nats::Client, AuditStreams)>,
}

impl Question {
    async fn ask(&self) -> Result<Asked, Output> {
        let tool = self.settings.load()?;
        let policy = match self.dir.as_ref().or(self.policy.as_ref()) {
            Some(dir) => load(dir, &tool.defaults.audit)?.1,
            None => named_by(&tool).await?.policy,
        };
        let admin = tool.admin().map_err(Output::wrong)?;
        let client = connect(&tool, &admin).await?;
        let services = std::iter::once(&tool.defaults.account).chain(&tool.accounts);
        let services = services.map(ToString::to_string).collect();
        let (ids, audit) = (tool.account_ids.clone(), audit(&tool).await?);
        let jwts = match tool.account_jwts() {
            Some(jwts) => {
                let now = jiff::Timestamp::now().as_second();
                let situation = Situation::of(&tool, &jwts, Some(&policy), now);
                Some(situation.map_err(|error| failed(&error))?.changes())
            }
            None => None,
        };
        let cluster = tool.cluster.clone();
        Ok(Asked { client, policy, cluster, services, ids, jwts, audit })
    }
}

/// The audit streams and their admin. There is nothing to look at without a stream, and where the
/// streams are beside the buckets, as in deployments of older versions, there is no such admin.
async fn audit(tool: &Tool) -> Result<Option<(async_nats::Client, AuditStreams)>, Output> {
    let streams = &tool.defaults.audit;
    if tool.audit.is_none() || streams.are_beside_buckets() {
        return Ok(None);
    }
    match tool.audit_admin() {
        Ok(login) => {
            let client = connect(tool, &login).await?;
            Ok(Some((client, streams.clone())))
        }
        Err(problems) if problems.iter().all(|p| p.code == "missing-setting") => {
            let note = "note: the audit streams were not looked at: [audit_admin] nkey_seed is not \
                        set\n";
            let _ = Output { out: String::new(), err: note.to_owned(), code: YES }.print();
            Ok(None)
        }
        Err(problems) => Err(Output::wrong(problems)),
    }
}

async fn connect(tool: &Tool, login: &Login) -> Result<async_nats::Client, Output> {
    common::connect(tool, login, "solewriter state").await.map_err(|e| failed(&e))
}

impl Asked {
    async fn plan(&self) -> Result<Plan, Output> {
        let streams = streams::all(&self.client).await.map_err(|e| failed(&e))?;
        let consumers = streams::consumers(&self.client, &self.policy, &streams).await;
        let consumers = consumers.map_err(|e| failed(&e))?;
        let plan = Plan::of(&self.policy, &streams).and_consumers(&self.policy, &consumers);
        let plan = match &self.audit {
            Some((client, names)) => {
                let streams = streams::all(client).await.map_err(|e| failed(&e))?;
                plan.and_audit(audit_streams(names, &self.policy), &streams)
            }
            None => plan,
        };
        let domain = self.client.server_info().domain;
        Ok(plan.placed_in(self.cluster.as_deref()).in_domain(&self.policy, domain.as_deref()))
    }

    /// What is said where the server is too old for a bucket or a stream.
    fn too_old(&self, plan: &Plan) -> Option<String> {
        let server = self.client.server_info().version;
        let names: Vec<&str> =
            plan.without_ttl(&server).into_iter().map(|bucket| bucket.bucket.as_str()).collect();
        let buckets = (!names.is_empty()).then(|| {
            format!(
                "nats-server {} does not know `key_ttl` (2.11 or newer does): it would keep every \
                 value for ever, and say nothing\n  declared with `key_ttl = true`: {}\n",
                line(&server),
                names.join(", ")
            )
        });
        let streams: String = plan
            .too_new(&server)
            .iter()
            .map(|found| {
                let (major, minor) = found.since;
                let TooNew { plan, word, .. } = found;
                let (kind, name) = (plan.kind.as_str(), plan.title());
                format!("  {kind} {name}: `{word}` takes {major}.{minor} or newer\n")
            })
            .collect();
        let streams = (!streams.is_empty()).then(|| {
            let server = line(&server);
            format!("nats-server {server} does not know all that these declare\n{streams}")
        });
        match (buckets, streams) {
            (Some(buckets), Some(streams)) => Some(buckets + &streams),
            (buckets, streams) => buckets.or(streams),
        }
    }

    /// What nats-server must let pass for what the plan creates. The admin does not see whether it
    /// does.
    async fn passes(&self, plan: &Plan) -> Vec<PassView> {
        let is_created = |plans: &[BucketPlan]| plans.iter().any(|p| p.action == Action::Create);
        let domain = self.client.server_info().domain;
        let mut needed = passes::needed(&self.policy, domain.as_deref());
        needed.retain(|pass| match &pass.due_to {
            DueTo::Buckets => false,
            DueTo::Consumers => is_created(&plan.consumers),
            DueTo::Stores => is_created(&plan.stores),
            DueTo::Stream(name) => plan.declared_streams.iter().any(|stream| {
                let keeps_more = stream.changes.iter().any(|change| change.field == "subjects");
                stream.bucket == name.as_str() && keeps_more
            }),
        });
        if needed.is_empty() {
            return Vec::new();
        }
        let state = account(&self.client).await.unwrap_or_else(|| "STATE".to_owned());
        let state = self.ids.name(&state).to_owned();
        let services: Vec<&str> = self.services.iter().map(String::as_str).collect();
        let nsc = |changes: &[Change], accounts: &[&str], pass: &Pass| {
            let passed = pass.passed();
            let own = changes.iter().filter(|change| {
                accounts.contains(&&*change.account) && change.passes() == Some(&*passed)
            });
            own.flat_map(|change| change.nsc.clone()).collect::<Vec<_>>().join("\n")
        };
        let view = |pass: Pass| PassView {
            export: match &self.jwts {
                Some(changes) => nsc(changes, &[&state], &pass),
                None => pass.export(&services),
            },
            import: match &self.jwts {
                Some(changes) => nsc(changes, &services, &pass),
                None => pass.import(&state),
            },
            state: state.clone(),
            services: self.services.clone(),
            subject: pass.subject,
        };
        let mut views: Vec<PassView> = needed.into_iter().map(view).collect();
        // A JWT that lets it pass needs no change.
        views.retain(|view| !(view.export.is_empty() && view.import.is_empty()));
        views
    }

    async fn apply(&self, plan: &Plan) -> Vec<Done> {
        let mut done = streams::apply(&self.client, plan.declared()).await;
        if let Some((client, _)) = &self.audit {
            done.extend(streams::apply(client, &plan.streams).await);
        }
        done
    }
}

/// What is left to do: a line for each kind of thing that is declared.
fn summary(plan: &Plan) -> String {
    let dangers = plan.others.iter().filter(|other| other.danger.is_some()).count();
    let audit = plan.streams.iter().filter(|s| s.action != Action::Keep).count();
    let mut beside = Vec::new();
    if audit > 0 {
        beside.push(format!("{} to create or update besides", count(audit, "stream", "streams")));
    }
    let mut in_the_way = Vec::new();
    if dangers > 0 {
        in_the_way.push(format!("{} in the way", count(dangers, "stream", "streams")));
    }
    let declared = |plans: &[BucketPlan], one, many, before: &[String], after: &[String]| {
        let with = |action| plans.iter().filter(|plan| plan.action == action).count();
        let mut parts = vec![
            format!("{} to create", with(Action::Create)),
            format!("{} to update", with(Action::Update)),
        ];
        parts.extend_from_slice(before);
        if with(Action::Recreate) > 0 {
            parts.push(format!("{} that cannot be changed in place", with(Action::Recreate)));
        }
        parts.extend_from_slice(after);
        let declared = count(plans.len(), one, many);
        format!("{declared}: {} as declared, {}\n", with(Action::Keep), parts.join(", "))
    };
    let mut lines =
        declared(&plan.buckets, "declared bucket", "declared buckets", &beside, &in_the_way);
    for (plans, one, many) in [
        (&plan.declared_streams, "declared stream", "declared streams"),
        (&plan.stores, "declared object store", "declared object stores"),
        (&plan.consumers, "declared consumer", "declared consumers"),
    ] {
        if !plans.is_empty() {
            lines += &declared(plans, one, many, &[], &[]);
        }
    }
    lines
}

/// The lines that what is new needs.
fn lines(passes: &[PassView], jwts: bool) -> String {
    let Some(first) = passes.first() else { return String::new() };
    if jwts {
        let mut said = "\nThe accounts' JWTs must let services reach what is new. Push them, and write them to \
                        the files in [operator] accounts.\n`solewriter operator plan` prints all that they \
                        lack.\n"
            .to_owned();
        // Exports first: an activation takes an export that is there.
        for command in passes.iter().flat_map(|pass| pass.export.lines()) {
            said += &format!("    {}\n", line(command));
        }
        for command in passes.iter().flat_map(|pass| pass.import.lines()) {
            said += &format!("    {}\n", line(command));
        }
        return said;
    }
    let mut said = "\nnats-server must let services reach what is new. Add the lines that its \
                    configuration lacks, and\nreload the servers, one after the other. `solewriter \
                    doctor` says whether any is missing.\n"
        .to_owned();
    said += &format!("  exports of {}:\n", first.state);
    said += &passes.iter().map(|pass| format!("    {}\n", line(&pass.export))).collect::<String>();
    said += &format!("  imports of {}:\n", first.services.join(" and of "));
    said + &passes.iter().map(|pass| format!("    {}\n", line(&pass.import))).collect::<String>()
}

impl PlanCommand {
    async fn output(&self) -> Result<Output, Output> {
        let asked = self.question.ask().await?;
        let plan = asked.plan().await?;
        let passes = asked.passes(&plan).await;
        let code = if plan.agrees() { YES } else { NO };
        let out = match self.question.format {
            Format::Json => {
                let agrees = plan.agrees();
                json(&PlanView { agrees, plan: &plan, passes: &passes, applied: None })
            }
            Format::Text => {
                format!("{plan}{}{}", summary(&plan), lines(&passes, asked.jwts.is_some()))
            }
        };
        let err = asked.too_old(&plan).map(|why| format!("warning: {why}")).unwrap_or_default();
        Ok(Output { out, err, code })
    }
}

impl LinkCommand {
    async fn output(&self) -> Result<Output, Output> {
        let tool = self.settings.load()?;
        if tool.account_jwts().is_some() {
            return Err(failed(
                &"in operator mode, exports and imports stand in the accounts' JWTs: these lines are \
                  for accounts in nats-server's configuration",
            ));
        }
        let policy = match &self.dir {
            Some(dir) => load(dir, &tool.defaults.audit)?.1,
            None => named_by(&tool).await?.policy,
        };
        let domain = |name: &str| {
            let said = |why| failed(&format!("`{}` is no JetStream domain: {why}", line(name)));
            Domain::parse(name).map_err(said)
        };
        let (hub, leaf) = (domain(&self.hub)?, domain(&self.leaf)?);
        if hub == leaf {
            return Err(failed(&"a leafnode is between two domains: name two"));
        }
        let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if self.account.is_empty() || !is_name(&self.account) {
            return Err(failed(&"an account's name here is letters, digits and `_`"));
        }
        let unknown = self.reader.iter().find(|name| policy.service(name).is_none());
        if let Some(name) = unknown {
            return Err(failed(&format!("the policy has no service `{}`", line(name))));
        }
        let (account, readers) = (self.account.as_str(), self.reader.as_slice());
        let link = Link { policy: &policy, hub, leaf, account, readers };
        let mut out = String::new();
        for (what, domain) in [("hub", &link.hub), ("leaf", &link.leaf)] {
            let lines = link.lines(domain, &tool.defaults).map_err(|error| failed(&error))?;
            out += &format!("--- {what}: the server of domain {domain}\n{lines}");
        }
        Ok(Output::data(out, YES))
    }
}

impl Apply {
    async fn output(&self) -> Result<Output, Output> {
        let asked = self.question.ask().await?;
        let plan = asked.plan().await?;
        let passes = asked.passes(&plan).await;
        let text = self.question.format == Format::Text;
        if text {
            let shown = format!("{plan}{}{}", summary(&plan), lines(&passes, asked.jwts.is_some()));
            let _ = Output::data(shown, YES).print();
        }
        if !plan.has_work() {
            return Ok(self.finish(&plan, &passes, &[], String::new()));
        }
        if let Some(why) = asked.too_old(&plan) {
            let why = format!("error: nothing was changed: {why}");
            return Ok(self.finish(&plan, &passes, &[], why));
        }
        if let Some(refusal) = self.refusal(&plan) {
            return Ok(self.finish(&plan, &passes, &[], refusal));
        }
        if !self.yes && !confirmed()? {
            return Ok(self.finish(&plan, &passes, &[], "nothing was changed\n".to_owned()));
        }
        // What was agreed to is what is done: somebody else may have been here meanwhile.
        if asked.plan().await? != plan {
            let err = "error: somebody else made a change meanwhile, so nothing was changed: look again\n";
            return Ok(Output { out: String::new(), err: err.to_owned(), code: NO });
        }
        let done = asked.apply(&plan).await;
        let mut said = String::new();
        for Done { kind, bucket, stream, action, outcome } in &done {
            let name = title(*kind, stream, bucket);
            said += &match (outcome, action) {
                (Err(error), _) => format!("error: {} {name}: {error}\n", kind.as_str()),
                (Ok(()), Action::Create) => format!("created {name}\n"),
                (Ok(()), _) => format!("updated {name}\n"),
            };
        }
        // The server has the last word on what they are like now.
        let after = asked.plan().await?;
        if !after.agrees() && text {
            said += &format!("\nstill not as declared:\n{after}");
        }
        Ok(self.finish(&after, &passes, &done, said))
    }

    fn refusal(&self, plan: &Plan) -> Option<String> {
        if self.allow_data_loss {
            return None;
        }
        let lost: Vec<String> = plan
            .losses()
            .map(|(bucket, change)| {
                let why = change.why.as_deref().unwrap_or_default();
                format!("  {}: {}: {why}\n", bucket.title(), change.word.unwrap_or(&change.field))
            })
            .collect();
        (!lost.is_empty()).then(|| {
            format!(
                "error: nothing was changed, because data would be lost:\n{}\
                 add --allow-data-loss if that is wanted\n",
                lost.concat()
            )
        })
    }

    /// What is said in the end; `plan` is what is left to do.
    fn finish(&self, plan: &Plan, passes: &[PassView], done: &[Done], err: String) -> Output {
        let code = if plan.agrees() { YES } else { NO };
        let out = match self.question.format {
            Format::Text => String::new(),
            Format::Json => {
                let applied = done.iter().map(|done| DoneView {
                    kind: done.kind,
                    bucket: &done.bucket,
                    stream: &done.stream,
                    action: done.action,
                    error: done.outcome.as_ref().err().map(ToString::to_string),
                });
                let (agrees, applied) = (plan.agrees(), Some(applied.collect()));
                json(&PlanView { agrees, plan, passes, applied })
            }
        };
        Output { out, err, code }
    }
}

/// Asks the person at the terminal.
fn confirmed() -> Result<bool, Output> {
    if !std::io::stdin().is_terminal() {
        return Err(failed(&"there is no terminal to ask on: add --yes to apply this"));
    }
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "Apply this? [y/N] ");
    let _ = stderr.flush();
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|e| failed(&e))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
