//! `solewriter learn`: a draft of a policy, from what clients of a running nats-server do.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use serde::Serialize;

use super::monitor::Monitor;
use super::traces::{TraceArgs, cannot_read, file};
use crate::adoption::connected::{Connz, Names, Open};
use crate::adoption::draft::before::Before;
use crate::adoption::draft::existing::Existing;
use crate::adoption::draft::report::Report;
use crate::adoption::evidence::generalise::Level;
use crate::adoption::learn::{Learner, write};
use crate::adoption::mapping::Mapping;
use crate::adoption::server_config::accounts::Config;
use crate::adoption::server_config::findings::{self, Finding};
use crate::adoption::server_config::report::report;
use crate::adoption::server_config::syntax::{Disk, Source as _};
use crate::adoption::trace::Trace;
use crate::cli::common::{NO, Output, PlaceView, YES, count, json, line};
use solewriter_core::diagnostics::Problem;
use solewriter_core::diagnostics::render::Style;
use solewriter_core::policy::model::Location;
use solewriter_types::keyspace::BucketName;

/// The most that is read of what a server tells of its streams.
const MOST: usize = 256 << 20;

/// Draft a policy from what clients do today.
///
/// Reads nats-server's configuration (who may do what today, and what nobody may have noticed), its trace
/// (what clients really do), and what servers tell of their streams and of who is connected. Writes the files of a policy, with how
/// often, when and by whom each entry was used; what cannot be decided is a question in the file.
/// Payloads and passwords are neither kept nor shown.
///
/// Exit code: 0 if it is done, 1 if files could not be written, 2 if there is nothing to learn from.
#[derive(Args)]
#[command(group = ArgGroup::new("seen").args(["trace", "monitor", "connz"]).multiple(true))]
pub struct Learn {
    /// nats-server's configuration, with what it includes. Its report is printed first.
    #[arg(long, value_name = "FILE")]
    server_config: Option<PathBuf>,
    #[command(flatten)]
    trace: TraceArgs,
    /// The file that says which clients are which services.
    #[arg(long, value_name = "FILE", requires = "seen")]
    map: Option<PathBuf>,
    /// What servers tell at /jsz?accounts=true&streams=true&consumers=true&config=true, a file for each
    /// server: existing streams and consumers, and their settings.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "seen")]
    jsz: Vec<PathBuf>,
    /// What servers tell at /connz?auth=true&subs=detail, a file for each page of each server: who is
    /// connected now, and its subscriptions.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    connz: Vec<PathBuf>,
    /// The monitoring port of each server, as `http://HOST:8222`. It is asked for what --jsz and
    /// --connz would have.
    #[arg(long, value_name = "URL", num_args = 1..)]
    monitor: Vec<Monitor>,
    /// The account whose streams and connections these are. Needed if several accounts have streams.
    #[arg(long, value_name = "NAME", requires = "seen")]
    account: Option<String>,
    /// How far what was seen stands for what was not.
    #[arg(long, value_enum, value_name = "LEVEL", default_value = "careful")]
    generalise: Level,
    /// Let each service do what its user could do before, too (`enforce = "observe"`), but for what
    /// others own.
    #[arg(long, requires_all = ["server_config", "seen"])]
    observe: bool,
    /// The directory for the files of the policy. Without it, only the report is printed.
    #[arg(long, value_name = "DIR", requires = "seen")]
    out: Option<PathBuf>,
    /// Replace files of an earlier draft in that directory.
    #[arg(long, requires = "out")]
    replace: bool,
    /// Print the report as JSON. The fields do not change.
    #[arg(long)]
    json: bool,
}

/// The whole report as JSON.
#[derive(Serialize)]
struct View<'a> {
    configuration: Option<Vec<FindingView<'a>>>,
    learned: Option<&'a Report>,
}

/// Something to know about nats-server's configuration.
#[derive(Serialize)]
struct FindingView<'a> {
    code: &'static str,
    account: Option<&'a str>,
    bucket: Option<&'a str>,
    message: &'a str,
    at: PlaceView,
    users: Vec<WhomView<'a>>,
    help: &'static str,
}

#[derive(Serialize)]
struct WhomView<'a> {
    user: &'a str,
    by: &'a str,
    at: PlaceView,
}

impl<'a> FindingView<'a> {
    fn new(finding: &'a Finding) -> Self {
        let whom = finding.whom.iter();
        Self {
            code: finding.kind.code(),
            account: finding.account.as_deref(),
            bucket: finding.bucket.as_ref().map(BucketName::as_str),
            message: &finding.message,
            at: PlaceView::new(&Location::from(&finding.span)),
            users: whom
                .map(|w| WhomView {
                    user: &w.user,
                    by: &w.by,
                    at: PlaceView::new(&Location::from(&w.span)),
                })
                .collect(),
            help: finding.help,
        }
    }
}

impl Learn {
    /// Runs the command.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        self.output().unwrap_or_else(|wrong| wrong).print()
    }

    fn output(&self) -> Result<Output, Output> {
        let sees = self.trace.is_given() || !self.connz.is_empty() || !self.monitor.is_empty();
        if self.server_config.is_none() && !sees {
            let nothing =
                "nothing to learn from: give --trace, --monitor, --server-config, or all of them";
            return Err(Output::cannot(&nothing));
        }
        let configured = self.server_config.as_deref().map(configuration).transpose()?;
        let before = configured.as_ref().filter(|_| self.observe).map(|c| c.before.clone());
        let learned = sees.then(|| self.learn(before)).transpose()?;
        let (mut out, mut err, mut code) = (String::new(), String::new(), YES);
        if let Some(Configured { text, problems, .. }) = &configured {
            out += text;
            err += problems;
        }
        if let Some(Learned { files, report, summary }) = &learned {
            if !out.is_empty() {
                out.push('\n');
            }
            out += &report.text();
            err += summary;
            if let Some(dir) = &self.out {
                match write(dir, files, self.replace) {
                    Ok(()) => err += &written(dir, files),
                    Err(error) => {
                        let error = line(&error.to_string());
                        err += &format!("error: nothing is written: {error}\n");
                        err += "  = help: name another directory, or add --replace\n";
                        code = NO;
                    }
                }
            }
        }
        if self.json {
            let found = configured.as_ref().map(|configured| &configured.findings);
            out = json(&View {
                configuration: found.map(|all| all.iter().map(FindingView::new).collect()),
                learned: learned.as_ref().map(|learned| &learned.report),
            });
        }
        Ok(Output { out, err, code })
    }

    fn learn(&self, before: Option<Before>) -> Result<Learned, Output> {
        let mapping = match &self.map {
            Some(path) => Mapping::read(&file(path)?).map_err(Output::wrong)?,
            None => Mapping::default(),
        };
        let mut existing = Existing::default();
        let mut account = self.account.clone();
        let mut add = |name: &str, text: &[u8]| {
            let added = existing.add_jsz(text, self.account.as_deref());
            let of = added.map_err(|error| wrong("bad-jsz", name, &error))?;
            // Whoever is connected elsewhere uses none of these streams.
            account = account.take().or(of);
            Ok(())
        };
        for path in &self.jsz {
            add(&path.display().to_string(), &whole(path)?)?;
        }
        let runtime = super::runtime().map_err(|error| Output::cannot(&error))?;
        for monitor in &self.monitor {
            let text = runtime.block_on(monitor.streams()).map_err(|e| Output::cannot(&e))?;
            add(&monitor.to_string(), &text)?;
        }
        let mut learner = Learner::new(mapping, existing, self.generalise);
        if let Some(before) = before {
            learner = learner.observing(before);
        }
        let mut open = Connected { account: account.as_deref(), ..Connected::default() };
        for path in &self.connz {
            let name = path.display().to_string();
            let page = Connz::parse(&whole(path)?).map_err(|e| wrong("bad-connz", &name, &e))?;
            if page.lacks_subscriptions() {
                let ask = "it lacks subscriptions: ask for /connz?auth=true&subs=detail";
                return Err(wrong("bad-connz", &name, ask));
            }
            let mut names = Names::default();
            names.see(&page);
            open.take(&page, &names, &mut learner);
        }
        for monitor in &self.monitor {
            let mut names = Names::default();
            let pages = runtime.block_on(monitor.connections(|page| names.see(page)));
            pages.map_err(|error| Output::cannot(&error))?;
            let take = |page: &Connz| open.take(page, &names, &mut learner);
            runtime.block_on(monitor.connections(take)).map_err(|error| Output::cannot(&error))?;
        }
        if !self.trace.is_given() {
            if open.connections == 0 {
                return Err(Output::cannot(&"nobody is connected there"));
            }
            let (files, report) = learner.finish();
            return Ok(Learned { files, report, summary: open.summary() });
        }
        let mut trace = Trace::new();
        let reading = self.trace.read(&mut trace, |deed| learner.take(&deed))?;
        let (files, report) = learner.finish();
        let counts = trace.counts();
        if counts.deeds == 0 {
            let nothing = "no client did anything in this trace; is `trace: true` in the server's \
                           configuration?";
            return Err(Output::cannot(&nothing));
        }
        let summary = format!(
            "{} lines read, {} not understood; {} clients, {} without a CONNECT\n",
            counts.lines,
            counts.strange + counts.doubted + reading.too_long,
            counts.connections,
            counts.without_connect + counts.unknown
        ) + &open.summary();
        Ok(Learned { files, report, summary })
    }
}

/// All of a file, if it is not too large.
fn whole(path: &Path) -> Result<Vec<u8>, Output> {
    let text = Disk.file(path, MOST).map_err(|error| cannot_read(path, &error))?;
    if text.len() > MOST {
        let error = format!("larger than {} MiB", MOST >> 20);
        return Err(cannot_read(path, &io::Error::other(error)));
    }
    Ok(text)
}

fn wrong(code: &'static str, name: &str, error: &str) -> Output {
    Output::wrong(Problem::error(code, format!("{}: {error}", line(name))))
}

/// Who is connected now.
#[derive(Default)]
struct Connected<'a> {
    account: Option<&'a str>,
    connections: usize,
    strange: usize,
    hidden: bool,
}

impl Connected<'_> {
    fn take(&mut self, page: &Connz, names: &Names, learner: &mut Learner) {
        for connection in Open::all(page, self.account, names) {
            self.connections += 1;
            self.strange += learner.take_open(&connection);
        }
        self.hidden |= names.hides();
    }

    fn summary(&self) -> String {
        if self.connections == 0 {
            return String::new();
        }
        let mut text = count(self.connections, "connection", "connections") + " now";
        if self.strange > 0 {
            text += &format!(
                ", {} of theirs not understood",
                count(self.strange, "subscription", "subscriptions")
            );
        }
        text.push('\n');
        if self.hidden {
            text += "a server has one user in $G only; older ones tell a token there, so that name is \
                     not kept: tell clients apart by name or address, with --map\n";
        }
        text
    }
}

/// What a trace comes to.
struct Learned {
    files: Vec<(String, String)>,
    report: Report,
    summary: String,
}

/// What a configuration comes to.
struct Configured {
    text: String,
    findings: Vec<Finding>,
    problems: String,
    before: Before,
}

fn configuration(path: &Path) -> Result<Configured, Output> {
    let (tree, config, problems) = Config::read(path, &Disk).map_err(Output::wrong)?;
    let Some(first) = tree.files.first() else { return Err(Output::cannot(&"no file")) };
    let findings = findings::of(&config, &first.span(0..0));
    let text = report(&config, &findings);
    let before = Before::of(&config);
    Ok(Configured { text, findings, problems: problems.render(Style::Plain), before })
}

fn written(dir: &Path, files: &[(String, String)]) -> String {
    let dir = line(&dir.display().to_string());
    match files.len() {
        0 => "no service was seen, so nothing is written\n".to_owned(),
        files => format!("wrote {} to {dir}\n", count(files, "file", "files")),
    }
}
