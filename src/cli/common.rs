//! What the commands that answer questions about a policy have in common: how they read it, what
//! they print and which code they end with.

use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use async_nats::Client;
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::config::{self, Overrides, Tool};
use crate::nats::Login;
use crate::nats::connect::{self, BrokerError};
use crate::policy_source::directory::Directory;
use crate::telemetry::{self, LogFormat};
pub(super) use solewriter_core::analysis::query::advice::said;
use solewriter_core::diagnostics::render::Style;
pub(super) use solewriter_core::diagnostics::toml::show_duration as length;
use solewriter_core::diagnostics::toml::{nearest, parse_duration};
use solewriter_core::diagnostics::{Problem, Problems, SourceFile};
use solewriter_core::grant::{AuditStreams, Defaults};
use solewriter_core::keys::{Signer, User};
use solewriter_core::policy::model::{Location, Policy, Rule, StreamName};
use solewriter_core::policy::validate::validate_for;
use solewriter_types::clean;

/// The exit code of "yes" and "fine".
pub const YES: u8 = 0;
/// The exit code of "no" and of problems found.
pub const NO: u8 = super::FAILED;
/// The exit code of a question that cannot be answered: no such service, no such directory, a
/// policy that does not hold.
pub const WRONG: u8 = 2;

/// How a command that runs for long logs.
#[derive(Args)]
pub struct LogArgs {
    /// The format of this command's own log. `auto` is text on a terminal, otherwise JSON.
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    log_format: LogLines,
    /// What this command itself logs, as `tracing` directives.
    #[arg(long, value_name = "FILTER", default_value = "info,async_nats=warn")]
    log_filter: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogLines {
    /// By where stderr goes.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogArgs {
    /// Starts the log.
    ///
    /// # Errors
    /// When the filter is wrong.
    pub fn start(&self) -> Result<telemetry::Logging, String> {
        let format = match self.log_format {
            LogLines::Auto => LogFormat::Auto,
            LogLines::Text => LogFormat::Text,
            LogLines::Json => LogFormat::Json,
        };
        telemetry::start_logging(format, &self.log_filter)
            .map_err(|error| format!("the log filter {:?} is wrong: {error}", self.log_filter))
    }
}

/// What a command has to say, before any of it is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Data, for stdout.
    pub out: String,
    /// Problems, for stderr.
    pub err: String,
    /// The exit code.
    pub code: u8,
}

impl Output {
    /// Data and nothing else.
    #[must_use]
    pub fn data(out: String, code: u8) -> Self {
        Self { out, err: String::new(), code }
    }

    /// Problems that keep the question from being answered.
    #[must_use]
    pub fn wrong(problems: impl Into<Problems>) -> Self {
        let err = problems.into().render(style());
        Self { out: String::new(), err: format!("{}\n", err.trim_end()), code: WRONG }
    }

    /// Something that kept the command from being done.
    #[must_use]
    pub fn failed(error: &dyn std::fmt::Display) -> Self {
        Self::error(error, NO)
    }

    /// Something that keeps the question from being answered.
    #[must_use]
    pub fn cannot(error: &dyn std::fmt::Display) -> Self {
        Self::error(error, WRONG)
    }

    fn error(error: &dyn std::fmt::Display, code: u8) -> Self {
        let err = format!("error: {}\n", clean::lines(&error.to_string()));
        Self { out: String::new(), err, code }
    }

    /// Problems that keep the command from being done, and how many they are.
    #[must_use]
    pub fn refused(problems: &Problems) -> Self {
        let err = format!("{}{}\n", problems.render(style()), problems.summary());
        Self { out: String::new(), err, code: NO }
    }

    /// Prints it.
    #[must_use]
    pub fn print(self) -> ExitCode {
        // A reader that has seen enough (`| head`) is no failure.
        // Every word of others was made one line where it came in; this is the second wall.
        let _ = std::io::stdout().lock().write_all(clean::lines(&self.out).as_bytes());
        let _ = std::io::stderr().lock().write_all(clean::coloured(&self.err).as_bytes());
        ExitCode::from(self.code)
    }
}

/// How to print problems to stderr.
pub fn style() -> Style {
    if std::io::stderr().is_terminal() { Style::Coloured } else { Style::Plain }
}

/// How to print the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs; the fields are documented and stable.
    Json,
}

/// What the policy's folder is called where nobody says.
pub(super) const FOLDER: &str = "policy";

/// The directory of policy files, as DIR or as --policy DIR.
#[derive(Args, Clone, Debug)]
pub struct DirArgs {
    /// The directory of policy files [default: policy].
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The same as DIR.
    #[arg(short, long, value_name = "DIR", conflicts_with = "dir")]
    policy: Option<PathBuf>,
}

impl DirArgs {
    /// The directory, if one is named.
    pub(super) fn named(&self) -> Option<&Path> {
        self.policy.as_deref().or(self.dir.as_deref())
    }

    /// The directory that is named, or the usual one.
    pub(super) fn path(&self) -> &Path {
        self.named().unwrap_or(Path::new(FOLDER))
    }
}

/// What the settings file of `serve` says, for services about which the policy says nothing.
#[derive(Args, Clone, Debug)]
pub struct GrantArgs {
    /// The account of services for which the policy names none. `serve` takes it from `[grants]
    /// account` of its settings.
    #[arg(long, value_name = "NAME", default_value = "APP")]
    account: String,
    /// The lifetime of permissions for which the policy has none. `serve` takes it from `[grants]
    /// lifetime` of its settings.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    lifetime: Duration,
    #[command(flatten)]
    audit: AuditArgs,
}

/// What the settings file of `serve` says of the audit streams.
#[derive(Args, Clone, Debug)]
pub struct AuditArgs {
    /// The two streams that `audits` may name, and their API prefix. `serve` takes them from
    /// `[audit]` of its settings (`stream`, `services`, `api`).
    #[arg(
        long,
        value_name = "EVENTS,SERVICES,API",
        default_value = "AUDIT_EVENTS,AUDIT_SERVICES,$JS.AUDIT.API",
        value_parser = audit_streams
    )]
    audit_streams: AuditStreams,
}

fn audit_streams(text: &str) -> Result<AuditStreams, String> {
    let parts: Vec<&str> = text.split(',').collect();
    let [events, services, rest @ ..] = parts.as_slice() else {
        return Err("write both streams, with a comma".to_owned());
    };
    let api = match rest {
        [] => None,
        [api] => Some(*api),
        _ => return Err("write two streams and their API prefix".to_owned()),
    };
    let (events, services) = (StreamName::parse(events)?, StreamName::parse(services)?);
    Ok(AuditStreams::new(Some(&events), Some(&services), api)?)
}

impl AuditArgs {
    pub(super) fn streams(&self) -> &AuditStreams {
        &self.audit_streams
    }
}

/// A length of time, as flags have it.
///
/// # Errors
/// How to write one, in words.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .ok_or_else(|| "write a number and a unit, such as 90s, 1h30m or 30d".to_owned())
}

impl GrantArgs {
    pub(super) fn defaults(&self) -> Defaults {
        let audit = self.audit().clone();
        Defaults { account: self.account.as_str().into(), lifetime: self.lifetime, audit }
    }

    pub(super) fn audit(&self) -> &AuditStreams {
        self.audit.streams()
    }
}

/// Which deployment is looked at.
#[derive(Args, Clone)]
pub struct SettingsArgs {
    /// The settings file. `solewriter settings` lists flags that override it.
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "SOLEWRITER_CONFIG",
        default_value = "solewriter.toml"
    )]
    pub(super) config: PathBuf,
    #[command(flatten)]
    pub(super) overrides: Overrides,
}

/// Connects to that deployment, under that name, or says why not.
pub(super) async fn connect(tool: &Tool, login: &Login, name: &str) -> Result<Client, BrokerError> {
    connect::connect(&tool.servers, connect::options(login, &tool.tls, name)?).await
}

impl SettingsArgs {
    pub(super) fn load(&self) -> Result<Tool, Output> {
        Tool::load(&self.config, &self.overrides).map_err(Output::wrong)
    }
}

/// Reads a directory. The outer error says that there is none.
pub(super) fn read(path: &Path) -> Result<Result<Vec<SourceFile>, Problems>, Output> {
    if path.is_dir() {
        return Ok(Directory::new(path).read());
    }
    let message = format!("there is no policy directory {}", path.display());
    Err(Output::wrong(
        Problem::error("no-directory", message)
            .help("name the folder that holds the policy's *.toml files"),
    ))
}

/// Reads a directory that a command cannot do without.
pub(super) fn load(path: &Path, audit: &AuditStreams) -> Result<(Vec<SourceFile>, Policy), Output> {
    let files = read(path)?.map_err(Output::wrong)?;
    accept(path, files, audit)
}

/// Judges texts that a command cannot do without: as they are now.
pub(super) fn accept(
    name: &Path,
    files: Vec<SourceFile>,
    audit: &AuditStreams,
) -> Result<(Vec<SourceFile>, Policy), Output> {
    let judged = validate_for(&files, audit).map(|validated| validated.policy.at(now()));
    Ok((files, accepted(name, judged)?))
}

/// The policy, or that there is no answer.
pub(super) fn accepted(name: &Path, judged: Result<Policy, Problems>) -> Result<Policy, Output> {
    judged.map_err(|problems| {
        let mut output = Output::wrong(problems.clone());
        output.err += &format!(
            "\nthe policy {} does not hold: {}; so there is no answer\n",
            name.display(),
            problems.summary()
        );
        output
    })
}

/// Who signs with the seed in the file that `--key` names.
pub(super) fn signer(path: &Path) -> Result<Signer<User>, Output> {
    let seed = config::seed_file("--key", path).map_err(Output::wrong)?;
    Signer::new(&seed).map_err(|error| Output::failed(&error))
}

/// The time, in seconds since the Unix epoch.
pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// JSON as every command prints it.
pub fn json(value: &impl Serialize) -> String {
    // Strings, numbers and lists of them always have a JSON form.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    clean::json(&text).into_owned() + "\n"
}

/// A place in the policy as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct PlaceView {
    file: String,
    line: u32,
    column: u32,
}

impl PlaceView {
    pub fn new(at: &Location) -> Self {
        Self { file: at.file.to_string(), line: at.line, column: at.column }
    }
}

/// A rule as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct RuleView {
    verb: &'static str,
    target: String,
    role: Option<String>,
    /// When it ends, only there if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    /// Only there if it is what an observed service could do before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    observed: bool,
    at: PlaceView,
}

impl RuleView {
    pub fn new(rule: &Rule) -> Self {
        let text = rule.access.to_string();
        let verb = rule.access.verb();
        let target = text.get(verb.len() + 1..).unwrap_or_default().to_owned();
        let role = rule.role().map(ToString::to_string);
        let until = rule.until().map(time);
        let at = PlaceView::new(&rule.at);
        Self { verb, target, role, until, observed: rule.observed(), at }
    }
}

/// How many there are, in words: `1 service`, `2 services`.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// What was meant instead of a name that nobody has: ``; did you mean `orders`?``. Nothing when no
/// known name is near.
pub(super) fn meant<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    let near = nearest(name, known).map(|near| format!("; did you mean `{}`?", line(near)));
    near.unwrap_or_default()
}

/// Words that people wrote, as one line: what they hold cannot pass for output of ours.
pub(super) fn line(text: &str) -> String {
    clean::line(text).into_owned()
}

/// A point in time for people and JSON.
pub(super) use solewriter_core::diagnostics::toml::show_time as time;

/// A grant that could not be made: `serve` would refuse the service, and so it has nothing.
pub(super) fn no_grant(
    service: &str,
    at: &dyn std::fmt::Display,
    error: &dyn std::fmt::Display,
) -> Problem {
    Problem::error("no-grant", format!("service `{service}` ({at}) gets nothing: {error}"))
}
