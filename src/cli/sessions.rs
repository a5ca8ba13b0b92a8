//! `solewriter sessions`: who is connected, and by which policy; and closing connections by hand.

mod consumers;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::finish;
use crate::cli::common::{self, Format, NO, Output, SettingsArgs, YES, count, json, line, meant};
use crate::config::{PolicySource, Tool};
use crate::fleet::{self, Report};
use crate::policy_source::bucket::ReadError;
use crate::policy_source::directory::Directory;
use crate::sessions::listing::{Session, Survey, survey};
use crate::sessions::onlooker::Onlooker;
use crate::sessions::system_api::{Closed, System};
use crate::sessions::verdict::{Cause, Closing, Verdict};
use solewriter_core::callout::decide::Decider;
use solewriter_core::diagnostics::{Problems, SourceFile};
use solewriter_core::keys::UserKey;
use solewriter_core::policy::model::{Policy, short};

/// List the open connections that solewriter let in, on all servers, and by which policy.
///
/// Asks the servers as the system user (`nkey_seed` in `[system]`). With the callout's or the
/// publisher's seed it also learns which policy each instance serves.
///
/// Exit code: 0, or 1 if a server did not answer, or 2 if nobody could be asked.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Sessions {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

#[derive(Subcommand)]
enum Command {
    Close(Close),
    Consumers(consumers::Consumers),
}

#[derive(Args)]
struct List {
    /// Only those of this service.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only those of this key.
    #[arg(long, value_name = "NKEY", value_parser = public_key)]
    nkey: Option<String>,
    /// Only those that were let in by this policy revision. The beginning of it is enough.
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// Only those whose permissions differ from the policy in force.
    #[arg(long)]
    stale: bool,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Close every connection of a service or of one key.
///
/// Shows them first, and asks. Their clients reconnect by themselves and get the permissions of the
/// policy in force. To keep them out, disable the service in the policy.
///
/// Exit code: 0 if all are closed; 1 if none was closed, or not all, or if a server did not answer,
/// so that there may be more; 2 if nobody could be asked.
#[derive(Args)]
struct Close {
    /// The service's name, or one public NKEY.
    #[arg(value_name = "SERVICE|NKEY")]
    whose: String,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// How many to close per second, at most.
    #[arg(long, value_name = "NUMBER", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    per_second: u32,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// A public NKEY of a user, as it is written.
fn public_key(text: &str) -> Result<String, String> {
    let key = UserKey::parse(text).map_err(|error| format!("not a public user NKEY: {error}"))?;
    Ok(key.to_string())
}

/// How a connection stands to the policy in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It has what the policy says.
    Current,
    /// It lacks something that it would get.
    Gains,
    /// It has something that it should not have.
    Stale,
    /// It was let in by another revision, with another grant, and what that was is not known
    /// here.
    Unknown,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Current => "yes",
            Self::Gains => "gains",
            Self::Stale => "no",
            Self::Unknown => "?",
        }
    }
}

#[derive(Serialize)]
struct Row {
    service: String,
    nkey: String,
    revision: String,
    grant: Option<String>,
    current: State,
    reason: Option<String>,
    account: String,
    connection: &'static str,
    host: String,
    server: String,
    server_id: String,
    cid: u64,
    since: String,
    client: String,
    library: String,
}

#[derive(Serialize)]
struct SessionsView<'a> {
    /// The revisions that the instances serve; empty when none could be asked.
    revisions: &'a [String],
    complete: bool,
    sessions: &'a [Row],
}

impl Sessions {
    /// Runs the command.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        finish(async {
            match &self.command {
                None => self.list.output().await,
                Some(Command::Close(close)) => close.output().await,
                Some(Command::Consumers(consumers)) => consumers.output().await,
            }
        })
    }
}

/// Nobody can be asked.
fn cannot(error: &dyn std::fmt::Display) -> Output {
    Output::cannot(error)
}

/// What can be seen of the deployment.
struct Seen {
    rows: Vec<Row>,
    /// Services with open connections, wanted or not.
    connected: BTreeSet<String>,
    /// The policy to compare with, if there is one.
    policy: Option<Onlooker>,
    revisions: Vec<String>,
    complete: bool,
    notes: String,
}

impl Seen {
    /// Why there is no connection of somebody: a service, or a key.
    fn nobody(&self, whose: &str) -> String {
        let policy = self.policy.as_ref().map(Onlooker::policy);
        let shown = line(whose);
        if let Ok(key) = UserKey::parse(whose) {
            return match policy.map(|policy| policy.holder(&key)) {
                Some(Some((service, _))) => {
                    format!("no connection of {shown}, a key of `{}`\n", service.name)
                }
                Some(None) => {
                    format!("no connection of {shown}: no service in the policy has this key\n")
                }
                None => format!("no connection of {shown}\n"),
            };
        }
        let connected = self.connected.iter().map(String::as_str);
        match policy {
            None => format!("no connection of {shown}{}\n", meant(whose, connected)),
            Some(policy) if policy.service(whose).is_some() => {
                format!("no connection of {shown}\n")
            }
            Some(policy) => {
                let known = policy.services().iter().map(|service| &*service.name);
                let meant = meant(whose, known.chain(connected));
                format!("no connection of {shown}: there is no service of that name{meant}\n")
            }
        }
    }
}

impl List {
    async fn output(&self) -> Result<Output, Output> {
        let tool = self.settings.load()?;
        let system = connect(&tool).await?;
        let wanted = |session: &Session| {
            let name = &session.name;
            self.service.as_ref().is_none_or(|service| *service == name.service)
                && self.nkey.as_ref().is_none_or(|nkey| *nkey == name.key.as_str())
                && self.revision.as_ref().is_none_or(|revision| name.revision.starts_with(revision))
        };
        let mut seen = look(&tool, &system, wanted).await?;
        if let Some(beginning) = &self.revision {
            let several: HashSet<_> = seen.rows.iter().map(|row| row.revision.as_str()).collect();
            if several.len() > 1 {
                let mut all: Vec<_> = several.into_iter().collect();
                all.sort_unstable();
                return Err(cannot(&format!(
                    "several revisions begin with {}; give more digits: {}",
                    line(beginning),
                    all.join(", ")
                )));
            }
        }
        if seen.rows.is_empty() {
            let whose = self.service.as_ref().or(self.nkey.as_ref());
            let nobody = whose.map(|whose| format!("note: {}", seen.nobody(whose)));
            seen.notes += &nobody.unwrap_or_default();
        }
        if self.stale {
            seen.rows.retain(|row| row.current != State::Current);
        }
        let code = if seen.complete { YES } else { NO };
        let Seen { rows, revisions, complete, notes, .. } = &seen;
        let out = match self.format {
            Format::Json => json(&SessionsView { revisions, complete: *complete, sessions: rows }),
            Format::Text => table(rows),
        };
        Ok(Output { out, err: notes.clone(), code })
    }
}

impl Close {
    async fn output(&self) -> Result<Output, Output> {
        let tool = self.settings.load()?;
        let system = connect(&tool).await?;
        let wanted = |session: &Session| {
            session.name.service == self.whose || session.name.key.as_str() == self.whose
        };
        let seen = look(&tool, &system, wanted).await?;
        if seen.rows.is_empty() {
            let err = seen.notes.clone() + &seen.nobody(&self.whose);
            return Ok(Output { out: String::new(), err, code: NO });
        }
        let connections = count(seen.rows.len(), "connection", "connections");
        if !self.yes {
            let question = format!("{}\nclose {connections}?", table(&seen.rows));
            if !agreed(&question)? {
                return Ok(Output::data("nothing was closed\n".to_owned(), NO));
            }
        }
        let (mut closed, mut gone, mut failed) = (0, 0, String::new());
        let gap = Duration::from_secs(1) / self.per_second;
        let mut due = Instant::now();
        for row in &seen.rows {
            tokio::time::sleep_until(due.into()).await;
            due += gap;
            match system.close(&row.server_id, row.cid).await {
                Ok(Closed::Closed) => closed += 1,
                Ok(Closed::Gone) => gone += 1,
                Err(error) => {
                    let _ = writeln!(failed, "{} on {}: {error}", row.cid, line(&row.server));
                }
            }
        }
        let whole = failed.is_empty() && seen.complete;
        let code = if whole { YES } else { NO };
        if !seen.complete {
            failed += "there may be more: not every server listed its connections\n";
        }
        let out = format!(
            "closed {}; {gone} had ended before. Their clients reconnect and get the permissions \
             of the policy; to keep them out, disable the service\n",
            count(closed, "connection", "connections"),
        );
        Ok(Output { out, err: format!("{}{failed}", seen.notes), code })
    }
}

/// Asks on the terminal.
#[allow(clippy::print_stdout)]
fn agreed(question: &str) -> Result<bool, Output> {
    if !std::io::stdin().is_terminal() {
        return Err(cannot(&"there is no terminal to ask on: repeat it with --yes"));
    }
    print!("{question} [y/N] ");
    let _ = std::io::stdout().flush();
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|error| cannot(&error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What the connections of this command are called.
const NAME: &str = "solewriter-sessions";

/// Connects as the system user.
pub(super) async fn connect(tool: &Tool) -> Result<System, Output> {
    let login = tool.system().map_err(Output::wrong)?;
    let client = common::connect(tool, &login, NAME).await.map_err(|error| cannot(&error))?;
    Ok(System::new(client, tool.account_ids.clone()))
}

/// Everything that is wanted, and how it stands to the policy in force.
async fn look(
    tool: &Tool,
    system: &System,
    wanted: impl Fn(&Session) -> bool,
) -> Result<Seen, Output> {
    let all: Survey<Session> =
        survey(system, &accounts(tool), Some).await.map_err(|error| cannot(&error))?;
    if all.servers.is_empty() {
        return Err(cannot(
            &"no server answers: does [system] nkey_seed belong to a user whose account imports that, \
              and is that user in auth_callout.auth_users?",
        ));
    }
    let mut notes = String::new();
    if all.servers.len() < all.expected {
        let _ =
            writeln!(notes, "warning: {} of {} servers answered", all.servers.len(), all.expected);
    }
    for (server, error) in &all.failures {
        let _ =
            writeln!(notes, "warning: the list of {} is not complete: {error}", line(&server.name));
    }
    let (complete, sessions) = (all.complete(), all.found);
    let now = jiff::Timestamp::now().as_second();
    let standard = Standard::find(tool, &sessions, now, &mut notes).await;
    let connected = sessions.iter().map(|session| session.name.service.clone()).collect();
    let mut seen = HashSet::new();
    let mut rows: Vec<Row> = sessions
        .into_iter()
        .filter(|session| seen.insert((session.server.id.clone(), session.connection.cid)))
        .filter(wanted)
        .map(|session| standard.row(session, now))
        .collect();
    rows.sort_by(|a, b| {
        (&a.service, &a.nkey, &a.server, a.cid).cmp(&(&b.service, &b.nkey, &b.server, b.cid))
    });
    let Standard { served: revisions, policy, .. } = standard;
    Ok(Seen { rows, connected, policy, revisions, complete, notes })
}

/// The accounts that services are in.
pub(super) fn accounts(tool: &Tool) -> Vec<Arc<str>> {
    std::iter::once(&tool.defaults.account).chain(&tool.accounts).cloned().collect()
}

/// What connections are held against.
struct Standard {
    /// The revisions that the instances serve.
    served: Vec<String>,
    /// The policy that they serve, or the newest when nobody could be asked; `None` when it was not
    /// found.
    policy: Option<Onlooker>,
    /// The grants that the served policy was seen to give.
    grants: HashMap<String, HashSet<String>>,
    /// What services' connections wait for, as the instance says that looks after them.
    waiting: HashMap<String, String>,
}

impl Standard {
    async fn find(tool: &Tool, sessions: &[Session], now: i64, notes: &mut String) -> Self {
        let reports = match reports(tool).await {
            Ok(reports) => reports,
            Err(why) => {
                let _ =
                    writeln!(notes, "note: the instances cannot be asked what they serve: {why}");
                Vec::new()
            }
        };
        let mut served: Vec<String> = reports.iter().filter_map(|r| r.revision.clone()).collect();
        served.sort_unstable();
        served.dedup();
        let policy = match policy(tool, &served, sessions, now).await {
            Ok(policy) => policy,
            Err(why) => {
                let _ = writeln!(notes, "note: {}", line(&why));
                None
            }
        };
        if served.is_empty() && policy.is_none() {
            notes.push_str("note: there is no policy to compare with, so it is unknown which connections are current\n");
        }
        let mut grants: HashMap<String, HashSet<String>> = HashMap::new();
        for session in sessions.iter().filter(|s| served.contains(&s.name.revision)) {
            let given = grants.entry(session.name.service.clone()).or_default();
            given.extend(session.name.digest.clone());
        }
        let waiting = reports.into_iter().flat_map(|report| report.waiting);
        let waiting = waiting.map(|waiting| (waiting.service, waiting.what)).collect();
        Self { served, policy, grants, waiting }
    }

    fn state(&self, session: &Session, now: i64) -> (State, Option<String>) {
        let name = &session.name;
        if let Some(policy) = &self.policy {
            return match policy.judge(session, now) {
                Verdict::Current | Verdict::Newer => (State::Current, None),
                Verdict::Gained(what) => (State::Gains, Some(what)),
                Verdict::Close(Closing { cause, detail, .. }) => match cause {
                    Cause::Expiring(_) => (State::Current, None),
                    Cause::GainedDuty | Cause::Gained => (State::Gains, Some(detail)),
                    // What remembers that policy is the instance.
                    Cause::NotKnown => match self.waiting.get(&name.service) {
                        Some(what) => (State::Gains, Some(what.clone())),
                        None => (State::Unknown, Some(format!("{}: {detail}", cause.code()))),
                    },
                    _ => (State::Stale, Some(format!("{}: {detail}", cause.code()))),
                },
            };
        }
        let given = self.grants.get(&name.service);
        let same = name.digest.as_ref().zip(given).is_some_and(|(d, given)| given.contains(d));
        if self.served.contains(&name.revision) || same {
            (State::Current, None)
        } else {
            (State::Unknown, None)
        }
    }

    fn row(&self, session: Session, now: i64) -> Row {
        let (current, reason) = self.state(&session, now);
        let connection = session.connection.way().map_or("UNKNOWN", |way| way.as_str());
        let Session { server, account, name, connection: seen } = session;
        let library = format!("{} {}", seen.lang, seen.version);
        Row {
            service: name.service,
            nkey: name.key.to_string(),
            revision: name.revision,
            grant: name.digest,
            current,
            reason,
            account: account.to_string(),
            connection,
            host: seen.ip,
            server: server.name,
            server_id: server.id,
            cid: seen.cid,
            since: seen.start,
            client: line(&seen.name),
            library: line(library.trim()),
        }
    }
}

/// What the living instances say of themselves.
async fn reports(tool: &Tool) -> Result<Vec<Report>, String> {
    let login = tool.reader().map_err(|problems| problems.summary())?;
    let client = common::connect(tool, &login, NAME).await.map_err(|error| error.to_string())?;
    let reports = fleet::ask(&client).await?;
    if reports.is_empty() {
        return Err("no instance answers".to_owned());
    }
    Ok(reports)
}

/// The policy that all instances serve, or the newest when that is not known; with what the
/// connections were let in by, where that can be found.
async fn policy(
    tool: &Tool,
    served: &[String],
    sessions: &[Session],
    now: i64,
) -> Result<Option<Onlooker>, String> {
    let fits = |revision: &str| served.iter().all(|served| served == revision);
    let summary = |problems: Problems| problems.summary();
    let judged = |files: &[SourceFile], documents: Vec<String>| {
        let policy = tool.in_force(files, documents).map_err(summary)?;
        let fits = fits(policy.revision().whole());
        Ok::<_, String>(fits.then(|| onlooker(tool, policy)))
    };
    let Some(PolicySource::Bucket(name)) = &tool.source else {
        let Some(path) = &tool.policy else { return Ok(None) };
        let directory = Directory::new(path);
        let documents = directory.read_emergencies().map_err(summary)?;
        return judged(&directory.read().map_err(summary)?, documents);
    };
    let unread = |error: ReadError| format!("the policy bucket {name} cannot be read: {error}");
    let bucket = super::policy::connect_to_read(tool).await.map_err(|output| output.err)?;
    let judge = tool.judge();
    let counts = bucket.that_counts(judge.as_ref()).await.map_err(unread)?;
    let Some(entry) = counts else { return Ok(None) };
    let files = bucket.files(&entry).await.map_err(unread)?;
    let documents = bucket.all_emergencies().await.map_err(unread)?;
    let mut policy = judged(&files, documents)?;
    if let Some(policy) = &mut policy {
        policy.recall(&bucket, sessions, now).await.map_err(unread)?;
    }
    Ok(policy)
}

/// Judges by that policy as the instances do that have these settings.
pub(super) fn onlooker(tool: &Tool, policy: Policy) -> Onlooker {
    let decider = Decider::new(tool.defaults.clone(), tool.accounts.clone(), 0.0);
    Onlooker::new(policy, decider, &tool.sessions)
}

/// For people.
fn table(rows: &[Row]) -> String {
    let mut cells = vec![
        [
            "SERVICE",
            "NKEY",
            "REVISION",
            "CURRENT",
            "CONNECTION",
            "HOST",
            "SERVER",
            "CID",
            "SINCE",
            "CLIENT",
        ]
        .map(str::to_owned),
    ];
    for row in rows {
        let client = if row.client.is_empty() { "-" } else { &row.client };
        cells.push([
            row.service.clone(),
            row.nkey.clone(),
            short(&row.revision).to_owned(),
            row.current.as_str().to_owned(),
            row.connection.to_owned(),
            line(&row.host),
            line(&row.server),
            row.cid.to_string(),
            line(row.since.get(..19).unwrap_or(&row.since)),
            format!("{client} ({})", row.library),
        ]);
    }
    let mut widths = [0; 10];
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &cells {
        let padded: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", padded.join("  ").trim_end());
    }
    for row in rows {
        if let Some(reason) = &row.reason {
            let _ = writeln!(text, "{} on {}: {}", row.cid, line(&row.server), line(reason));
        }
    }
    text + &format!("{}\n", count(rows.len(), "connection", "connections"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use solewriter_types::clean::{HOSTILE, dirt};

    /// A client, and a server that lies, say whatever they like.
    #[test]
    fn what_others_call_themselves_moves_nothing_on_the_screen() {
        let hostile = || HOSTILE.to_owned();
        let row = Row {
            service: "orders".to_owned(),
            nkey: "U".to_owned(),
            revision: "0123456789ab".to_owned(),
            grant: None,
            current: State::Stale,
            reason: Some(hostile()),
            account: hostile(),
            connection: "STANDARD",
            host: hostile(),
            server: hostile(),
            server_id: hostile(),
            cid: 7,
            since: hostile(),
            client: line(HOSTILE),
            library: line(HOSTILE),
        };
        let text = table(std::slice::from_ref(&row));
        assert!(dirt(&text).is_empty(), "{text:?}");
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("e\\u{1b}[31mvil\\n"), "{text}");
        let json = json(&SessionsView { revisions: &[], complete: true, sessions: &[row] });
        assert!(dirt(&json).is_empty(), "{json:?}");
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(parsed["sessions"][0]["server"], HOSTILE);
    }
}
