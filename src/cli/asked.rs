//! Which policy a question is about: a folder, a git revision of one, or what is served.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::Args;
use tokio::time::Instant;

use super::policy::{connect_to_read, counting, head, named, unread};
use super::{git, runtime};
use crate::cli::common::{
    FOLDER, GrantArgs, Output, WRONG, accept, accepted, line, now, read, time,
};
use crate::config::{Overrides, PolicySource, Tool};
use crate::doctor::look::mappings;
use crate::doctor::seen::Blind;
use crate::fleet::peers::BEAT;
use crate::fleet::{Instances, Report, Transit};
use crate::policy_source::bucket::Bucket;
use crate::policy_source::bucket::entry::Entry;
use crate::policy_source::directory::Directory;
use solewriter_core::analysis::query::mapped::Mappings;
use solewriter_core::diagnostics::{Problem, Problems, SourceFile};
use solewriter_core::grant::Defaults;
use solewriter_core::keys::UserKey;
use solewriter_core::policy::model::{Policy, short};
use solewriter_core::policy::validate::{revision, validate_for};

/// The newest revision of what is served, as OLD or NEW.
pub(super) const SERVED: &str = "served";
/// What settings are called where nobody says.
pub(super) const SETTINGS: &str = "solewriter.toml";

/// Which policy is asked about.
#[derive(Args, Clone, Debug)]
pub struct PolicyArgs {
    /// The directory of policy files. Or a git revision of the directory `policy` (`HEAD~1`), or
    /// REVISION:PATH with the path from the top of the repository. Beside --config, a directory: a
    /// note says when it is not what is served [default: policy].
    #[arg(short, long, value_name = "DIR|REVISION")]
    policy: Option<PathBuf>,
    #[command(flatten)]
    served: ServedArgs,
    #[command(flatten)]
    grants: GrantArgs,
}

/// What is served, instead of a folder.
#[derive(Args, Clone, Debug)]
pub struct ServedArgs {
    /// Use the policy that is served. FILE is the settings file of `serve`: it names the policy,
    /// the account and the lifetime.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// With --config: a revision of the policy bucket, by its number or by the beginning of its
    /// policy revision.
    #[arg(short, long, value_name = "REVISION", requires = "config")]
    revision: Option<String>,
}

impl ServedArgs {
    /// The policy, when it is asked for. `beside` is the folder that was named, too.
    pub(super) fn load(&self, beside: Option<&Path>) -> Result<Option<Loaded>, Output> {
        let Some(config) = &self.config else { return Ok(None) };
        let which = self.revision.as_deref().map_or(Which::Newest, Which::Named);
        served(config, &which, compared(beside, &which)?).map(Some)
    }
}

/// A policy that holds, and the texts it came from.
pub(super) struct Loaded {
    /// Its texts.
    pub files: Vec<SourceFile>,
    /// The policy.
    pub policy: Policy,
    /// What services get that say nothing themselves.
    pub defaults: Defaults,
    /// The push that it came by, if it came from a bucket.
    pub pushed: Option<Entry>,
    /// Notes beside the answer, one per line.
    pub notes: String,
    /// The settings that name it, if it is what is served.
    settings: Option<Tool>,
}

impl Loaded {
    fn new((files, policy): (Vec<SourceFile>, Policy), defaults: Defaults) -> Self {
        Self { files, policy, defaults, pushed: None, notes: String::new(), settings: None }
    }

    /// The mappings of an account, where what is served is asked about; the error is a note of why
    /// they were not seen.
    pub(super) fn mappings(&self, account: &str) -> Result<Mappings, String> {
        let Some(tool) = &self.settings else { return Ok(Mappings::new()) };
        let seen = match runtime() {
            Ok(runtime) => runtime.block_on(mappings(tool, account)),
            Err(error) => Err(Blind::new(error.to_string(), "try again")),
        };
        seen.map_err(|Blind { why, mend }| {
            let (why, mend) = (line(&why), line(&mend));
            format!("note: `mappings` of account {account} were not looked at: {why}; {mend}\n")
        })
    }

    /// Of what that service may not write yet although the policy says so, or may still write
    /// although it does not: notes, one per line. Asks the instances, where what is served is asked
    /// about.
    pub(super) fn in_transit(&self, service: &str) -> String {
        let (Some(tool), Ok(runtime)) = (&self.settings, runtime()) else { return String::new() };
        let transit = runtime.block_on(in_transit(tool, self.policy.revision().whole()));
        let own = transit.iter().filter(|t| t.to == service || t.from.as_deref() == Some(service));
        own.map(|transit| format!("note: {}\n", line(&transit.sentence()))).collect()
    }

    /// Why this policy has no answer, with the notes: another policy may have one.
    pub(super) fn wrong(&self, problem: impl Into<Problems>) -> Output {
        let mut output = Output::wrong(problem);
        output.err.insert_str(0, &self.notes);
        output
    }
}

/// Which revision of a bucket is meant.
enum Which<'a> {
    Newest,
    Named(&'a str),
    /// The newest that was pushed by then, in seconds since the Unix epoch.
    At(i64),
}

impl PolicyArgs {
    /// The folder that is named, or the usual one.
    pub(super) fn folder(&self) -> &Path {
        self.policy.as_deref().unwrap_or(Path::new(FOLDER))
    }

    /// What a command that compares two policies does not look at, as the person asks it.
    pub(super) fn must_be_of_use(&self, both_named: bool) -> Result<(), Output> {
        let problem = if let Some(revision) = &self.served.revision {
            Problem::error("unused-revision", "`diff` does not look at --revision")
                .help(format!("name the revision as OLD or NEW: `{}`", line(revision)))
        } else if let (true, true, Some(folder)) =
            (both_named, self.served.config.is_some(), &self.policy)
        {
            let message = "with --config, OLD and NEW, `diff` does not look at --policy";
            let folder = line(&folder.display().to_string());
            Problem::error("unused-policy", message)
                .help(format!("name the folder as OLD or NEW: `{folder}`; or leave NEW out"))
        } else {
            return Ok(());
        };
        Err(Output::wrong(problem))
    }

    /// Whether one revision of what is served is asked for, and not the newest.
    pub(super) fn names_a_revision(&self) -> bool {
        self.served.revision.is_some()
    }

    /// The policy that is meant.
    pub(super) fn load(&self) -> Result<Loaded, Output> {
        match self.served.load(self.policy.as_deref())? {
            Some(loaded) => Ok(loaded),
            None => self.local(),
        }
    }

    /// The policy that was in force at that time, in seconds since the Unix epoch.
    pub(super) fn load_at(&self, at: i64) -> Result<Loaded, Output> {
        match &self.served.config {
            Some(config) => {
                let which = Which::At(at);
                served(config, &which, compared(self.policy.as_deref(), &which)?)
            }
            None => Err(Output::wrong(
                Problem::error("no-log", "a folder does not record what it had at another time")
                    .help("use --config: the policy bucket of those settings keeps every revision"),
            )),
        }
    }

    /// A policy by the name that a person gives it: a directory when there is one, a revision of
    /// what is served when settings are given, and else a git revision.
    pub(super) fn named(&self, name: &str) -> Result<Loaded, Output> {
        let path = PathBuf::from(name);
        if path.is_dir() {
            return self.directory(&path);
        }
        match &self.served.config {
            Some(config) if name == SERVED => served(config, &Which::Newest, self.folder()),
            Some(config) => served(config, &Which::Named(name), self.folder()),
            None => self.of_git(name),
        }
    }

    /// Whose key this was before the policy that was loaded, by the log of the policy bucket: for
    /// people. `None` without a bucket, or when that does not tell.
    pub(super) fn former_holder(&self, key: &UserKey, loaded: &Loaded) -> Option<String> {
        let (config, newest) = (self.served.config.as_ref()?, loaded.pushed.as_ref()?);
        let tool = Tool::load(config, &Overrides::default()).ok()?;
        Some(match wait(holder_before(&tool, key, newest)) {
            Ok(Some(FormerHolder { service, last, removed })) => format!(
                "it was a key of `{service}` until revision {} ({}); it was removed by {}",
                last.number,
                short(&last.policy),
                pushed(&removed),
            ),
            Ok(None) if newest.number > LOOKED_THROUGH => {
                format!("nor has any in the {LOOKED_THROUGH} revisions before")
            }
            Ok(None) => "nor has any in the revisions before".to_owned(),
            Err(output) => {
                let why = output.err.trim().lines().last().unwrap_or_default();
                format!("older revisions cannot be read: {why}")
            }
        })
    }

    /// The directory, or the git revision, of `--policy`.
    fn local(&self) -> Result<Loaded, Output> {
        let named = self.folder();
        if named.is_dir() {
            let mut loaded = self.directory(named)?;
            loaded.notes = elsewhere(named);
            return Ok(loaded);
        }
        match named.to_str() {
            // No folder of that name, and nothing that git could take for a revision of one.
            Some(name) if name != FOLDER => self.of_git(name),
            _ => self.directory(named),
        }
    }

    fn directory(&self, path: &Path) -> Result<Loaded, Output> {
        let files = read(path)?.map_err(Output::wrong)?;
        Ok(Loaded::new(accept(path, files, self.grants.audit())?, self.grants.defaults()))
    }

    fn of_git(&self, name: &str) -> Result<Loaded, Output> {
        let named = self.folder();
        let folder = if named.is_dir() { named } else { Path::new(FOLDER) };
        let files = if name.contains(':') {
            git::read(Path::new("."), name)
        } else if folder.is_dir() {
            // The folder itself, whatever its place in the repository.
            git::read(folder, &format!("{name}:./"))
        } else {
            return self.directory(named);
        };
        let accepted = accept(Path::new(name), files.map_err(Output::wrong)?, self.grants.audit())?;
        Ok(Loaded::new(accepted, self.grants.defaults()))
    }
}

/// The folder that what is served is compared with.
fn compared<'a>(named: Option<&'a Path>, which: &Which<'_>) -> Result<&'a Path, Output> {
    let Some(folder) = named else { return Ok(Path::new(FOLDER)) };
    let shown = line(&folder.display().to_string());
    let problem = if !matches!(which, Which::Newest) {
        Problem::error(
            "two-policies",
            format!("the folder {shown} is not looked at when another revision is asked about"),
        )
        .help("leave the folder out; `solewriter diff -c FILE REVISION DIR` compares the two")
    } else if folder.is_dir() {
        return Ok(folder);
    } else {
        Problem::error("no-directory", format!("there is no policy directory {shown}")).help(
            "beside --config, only a directory can be named, which is compared with what is served",
        )
    };
    Err(Output::wrong(problem))
}

/// What is served by those settings, and whether the folder beside it is another.
fn served(config: &Path, which: &Which<'_>, beside: &Path) -> Result<Loaded, Output> {
    let tool = Tool::load(config, &Overrides::default()).map_err(Output::wrong)?;
    let mut loaded = wait(of_settings(&tool, which))?;
    if matches!(which, Which::Newest)
        && let Ok(Ok(files)) = read(beside)
        && revision(&files) != *loaded.policy.documents()
    {
        let folder = line(&beside.display().to_string());
        loaded.notes = format!("note: the folder {folder} is not what is served\n");
    }
    loaded.settings = Some(tool);
    Ok(loaded)
}

/// The settings beside a folder or here, if there are any that hold.
pub(super) fn settings_beside(folder: &Path) -> Option<(PathBuf, Tool)> {
    let beside = folder.parent().unwrap_or(Path::new("")).join(SETTINGS);
    let here = PathBuf::from(SETTINGS);
    let path = [beside, here].into_iter().find(|path| path.is_file())?;
    let tool = Tool::load(&path, &Overrides::default()).ok()?;
    Some((path, tool))
}

/// What is worth knowing when a folder is asked and settings beside it serve a bucket.
fn elsewhere(folder: &Path) -> String {
    let Some((path, tool)) = settings_beside(folder) else { return String::new() };
    let Some(PolicySource::Bucket(bucket)) = &tool.source else { return String::new() };
    let (folder, path) = (folder.display().to_string(), path.display().to_string());
    format!(
        "note: this answer is about the folder {}, but {} serves the policy bucket {bucket}: ask \
         with --config\n",
        line(&folder),
        line(&path),
    )
}

/// What is in transit by the policy of that revision, as the instances say within a beat. That they
/// cannot be asked is told by other commands.
async fn in_transit(tool: &Tool, revision: &str) -> Vec<Transit> {
    let Ok(bucket) = connect_to_read(tool).await else { return Vec::new() };
    let Ok(mut instances) = Instances::listen(bucket.client()).await else { return Vec::new() };
    let until = Instant::now() + BEAT + BEAT / 10;
    loop {
        let reports = instances.next(until).await;
        let serves = reports.iter().filter(|report| report.revision.as_deref() == Some(revision));
        let serves: Vec<&Report> = serves.collect();
        let transit: Vec<Transit> = serves.iter().flat_map(|r| r.transit.clone()).collect();
        let settled = serves.iter().any(|report| report.settled == Some(true));
        if settled || !transit.is_empty() || Instant::now() >= until {
            return transit;
        }
    }
}

/// Runs what asks nats-server.
fn wait<T>(asking: impl Future<Output = Result<T, Output>>) -> Result<T, Output> {
    let runtime = runtime()
        .map_err(|error| Output::wrong(Problem::error("no-runtime", error.to_string())))?;
    runtime.block_on(asking)
}

/// The policy that the settings name: their folder as it is, or the newest revision in their
/// bucket.
pub(super) async fn named_by(tool: &Tool) -> Result<Loaded, Output> {
    of_settings(tool, &Which::Newest).await
}

async fn of_settings(tool: &Tool, which: &Which<'_>) -> Result<Loaded, Output> {
    let settings = tool.path.display();
    match (&tool.source, which) {
        (Some(PolicySource::Directory(path)), Which::Newest) => {
            let files = read(path)?.map_err(Output::wrong)?;
            let documents = Directory::new(path).read_emergencies().map_err(Output::wrong)?;
            let policy = accepted(path, tool.in_force(&files, documents))?;
            Ok(Loaded::new((files, policy), tool.defaults.clone()))
        }
        (Some(PolicySource::Directory(path)), Which::Named(_) | Which::At(_)) => {
            Err(Output::wrong(Problem::error("no-log", "a folder has no revisions").help(format!(
                "{settings} serves the folder {}; a git revision of it is given as --policy",
                path.display()
            ))))
        }
        // What cannot be asked is no answer of "no".
        (Some(PolicySource::Bucket(_)), _) => {
            of_bucket(tool, which).await.map_err(|output| Output { code: WRONG, ..output })
        }
        (None, _) => {
            let message = format!("{settings} does not say where the policy is");
            Err(Output::wrong(
                Problem::error("no-policy", message)
                    .help("set [policy] directory or [policy] bucket there"),
            ))
        }
    }
}

async fn of_bucket(tool: &Tool, which: &Which<'_>) -> Result<Loaded, Output> {
    let bucket = connect_to_read(tool).await?;
    let entry = match which {
        Which::Newest => counting(tool, &bucket).await?,
        Which::Named(name) => named(&bucket, head(&bucket).await?, name).await?,
        Which::At(at) => pushed_by(&bucket, head(&bucket).await?, *at).await?,
    };
    let files = bucket.files(&entry).await.map_err(|error| unread(&bucket, &error))?;
    let judged = match which {
        Which::Newest => {
            let documents = bucket.all_emergencies().await;
            tool.in_force(&files, documents.map_err(|error| unread(&bucket, &error))?)
        }
        Which::Named(_) => at(tool, &files, now()),
        Which::At(then) => at(tool, &files, *then),
    };
    let policy = accepted(Path::new(&format!("revision {}", entry.number)), judged)?;
    let mut loaded = Loaded::new((files, policy), tool.defaults.clone());
    loaded.pushed = Some(entry);
    Ok(loaded)
}

/// The policy of these files at that time.
fn at(tool: &Tool, files: &[SourceFile], then: i64) -> Result<Policy, Problems> {
    validate_for(files, &tool.defaults.audit).map(|validated| validated.policy.at(then))
}

/// How many revisions are looked through for a key.
const LOOKED_THROUGH: u64 = 200;

/// Who had a key that no service has any more.
struct FormerHolder {
    service: String,
    /// The last revision in which it had the key.
    last: Entry,
    /// The revision that removed the key: the one after.
    removed: Entry,
}

/// Who had the key in the newest revision before that one in which a service has it. At most
/// [`LOOKED_THROUGH`] are read.
async fn holder_before(
    tool: &Tool,
    key: &UserKey,
    newest: &Entry,
) -> Result<Option<FormerHolder>, Output> {
    let bucket = connect_to_read(tool).await?;
    let mut removed = newest.clone();
    let oldest = newest.number.saturating_sub(LOOKED_THROUGH).max(1);
    let mut known = HashMap::new();
    for number in (oldest..newest.number).rev() {
        let entry = bucket.revision(number).await.map_err(|error| unread(&bucket, &error))?;
        let Some(entry) = entry else { return Ok(None) };
        // What two revisions share is fetched once.
        let documents = bucket.documents(&entry, &known).await;
        known = documents.map_err(|error| unread(&bucket, &error))?.into_iter().collect();
        let files: Vec<SourceFile> = known.values().cloned().collect();
        if files.iter().any(|file| file.text().contains(key.as_str())) {
            let name = format!("revision {number}");
            let (_, policy) = accept(Path::new(&name), files, &tool.defaults.audit)?;
            if let Some((service, _)) = policy.holder(key) {
                let service = service.name.to_string();
                return Ok(Some(FormerHolder { service, last: entry, removed }));
            }
        }
        removed = entry;
    }
    Ok(None)
}

/// The newest entry that was pushed by then.
async fn pushed_by(bucket: &Bucket, newest: Entry, at: i64) -> Result<Entry, Output> {
    let mut entry = newest;
    while entry.time > at {
        let before = entry.number.saturating_sub(1);
        let found = bucket.revision(before).await.map_err(|error| unread(bucket, &error))?;
        let Some(found) = found else {
            let first = time(entry.time);
            let message =
                format!("nothing was pushed by {}: the first push is of {first}", time(at));
            return Err(Output::wrong(Problem::error("no-revision", message)));
        };
        entry = found;
    }
    Ok(entry)
}

/// A point in time as a person writes it: `2026-11-20T10:00:00Z`, or without a zone, then of here.
pub(super) fn moment(text: &str) -> Result<jiff::Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let local: Result<jiff::civil::DateTime, _> = text.parse();
    local
        .and_then(|local| jiff::tz::TimeZone::system().to_timestamp(local))
        .map_err(|_| "write 2026-11-20T10:00:00Z, or 2026-11-20T10:00 for local time".to_owned())
}

/// The same, of a time that has been.
pub(super) fn past_moment(text: &str) -> Result<jiff::Timestamp, String> {
    let (at, now) = (moment(text)?, jiff::Timestamp::now());
    if at > now { Err(to_come(now)) } else { Ok(at) }
}

/// What is wrong with a time that is asked about and has not been.
pub(super) fn to_come(now: jiff::Timestamp) -> String {
    format!("this time is to come: it is {now:.0} now")
}

/// How a revision came to be, for people.
pub(super) fn pushed(entry: &Entry) -> String {
    let Entry { number, policy, author, message, time: at, .. } = entry;
    line(&format!("revision {number} ({policy}), pushed {} by {author}: {message}", time(*at)))
}
