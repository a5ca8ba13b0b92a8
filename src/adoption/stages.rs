//! The next configuration of nats-server: the company's own with the smallest edits, so that
//! solewriter answers for those services that have moved, and for nobody else.
//!
//! The account that has the buckets and streams becomes the account of state as it is. Stages:
//! everybody is let in without a question (`auth_users`); then users go, one service at a time; in
//! the last stage nobody is left. What is new stands in a file of its own, and the edits of the
//! company's files only name it.
//!
//! - [`edits`] changes texts by byte ranges, and shows what changed without secrets.
//! - [`readme`] says what each stage means for whom; [`written`] puts all of it into a folder.

pub mod edits;
mod files;
mod generated;
pub mod readme;
mod shared;
mod situation;
pub mod written;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use solewriter_core::diagnostics::{Collector, Problem, Problems, Severity};
use solewriter_core::policy::model::Policy;
use solewriter_types::subject::Pattern;
use zeroize::Zeroizing;

use crate::adoption::server_config::accounts::{self, Config};
use crate::adoption::server_config::findings::{self, Finding};
use crate::adoption::server_config::syntax::{self, MAX_BYTES, Source, Tree};
use edits::Texts;
use generated::Generated;
use situation::Situation;

/// The new file.
pub const NEW_FILE: &str = "solewriter.conf";

/// A configuration as it is today.
pub struct Current {
    tree: Tree,
    config: Config,
    texts: Texts,
    main: String,
    findings: Vec<Finding>,
    /// The variables of the environment that it uses.
    environment: Environment,
    /// How many keys are not known.
    notes: usize,
}

type Environment = BTreeMap<String, Zeroizing<String>>;

impl Current {
    /// Reads it.
    ///
    /// # Errors
    /// What nats-server would refuse as well.
    pub fn read(path: &Path, source: &dyn Source) -> Result<Self, Problems> {
        let heard = Heard { source, environment: RefCell::default() };
        let (tree, config, problems) = Config::read(path, &heard)?;
        let notes = problems.count(Severity::Note);
        let mut texts = Texts::new();
        for file in &tree.files {
            let name = file.name().to_string();
            let bytes = source.file(Path::new(&name), MAX_BYTES).unwrap_or_default();
            let text = Zeroizing::new(String::from_utf8(bytes).unwrap_or_default());
            if syntax::blank::blank(&text) != file.text() {
                let message = format!("{name} changed while it was read");
                return Err(Problem::error("adopt-file", message).help("try again").into());
            }
            texts.insert(name, text);
        }
        let main = tree.files.first().map(|file| file.name().to_string()).unwrap_or_default();
        let whole = tree.files.first().map(|file| file.span(0..0));
        let findings = whole.map(|whole| findings::of(&config, &whole)).unwrap_or_default();
        let environment = heard.environment.into_inner();
        Ok(Self { tree, config, texts, main, findings, environment, notes })
    }

    /// The files as they are, by name.
    #[must_use]
    pub fn texts(&self) -> &Texts {
        &self.texts
    }

    /// What it says.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The name of the new file, beside the first one.
    #[must_use]
    pub fn new_file(&self) -> String {
        Path::new(&self.main).with_file_name(NEW_FILE).display().to_string()
    }
}

/// The public keys of a deployment.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Keys {
    /// Signs what solewriter grants.
    pub issuer: String,
    /// Requests are sealed with it.
    pub xkey: String,
    /// solewriter's instances.
    pub callout: String,
    /// Who pushes policies.
    pub publisher: String,
    /// Who creates buckets and streams.
    pub admin: String,
    /// Who creates the audit streams.
    pub audit_admin: String,
    /// Who sees the servers and closes connections.
    pub system: String,
    /// Whom a client without a login is, where nobody has one; nobody has its seed.
    pub anybody: String,
}

impl Keys {
    /// By the names that `init`'s configuration has for them.
    fn named(&self) -> [(&'static str, &str); 6] {
        [
            ("CALLOUT_XKEY", &self.xkey),
            ("CALLOUT_KEY", &self.callout),
            ("PUBLISHER_KEY", &self.publisher),
            ("AUDIT_ADMIN_KEY", &self.audit_admin),
            ("ADMIN_KEY", &self.admin),
            ("SYSTEM_KEY", &self.system),
        ]
    }

    /// Those who log in.
    #[must_use]
    pub fn users(&self) -> [&str; 5] {
        [&self.callout, &self.publisher, &self.admin, &self.audit_admin, &self.system]
    }
}

/// A step of the adoption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Everybody is let in as before, and solewriter answers for whoever is new.
    Beside,
    /// The users that these services were are gone.
    Moved(Vec<Move>),
    /// Nobody is left in the old account but these users.
    Last {
        /// Who stays all the same.
        keep: BTreeSet<String>,
    },
}

impl Stage {
    fn about(&self) -> String {
        match self {
            Self::Beside => "everybody is let in as before".to_owned(),
            Self::Moved(moves) => {
                let names: Vec<&str> = moves.iter().map(|m| m.service.as_str()).collect();
                format!("moved are {}", names.join(", "))
            }
            Self::Last { .. } => "nobody is left in the old account".to_owned(),
        }
    }
}

/// A service that has moved, and the user that it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Its name in the policy.
    pub service: String,
    /// The user in the old account.
    pub user: String,
}

/// What a plan is made from, beside the configuration.
#[derive(Clone, Copy)]
pub struct Request<'r> {
    /// The account that has the state; found when there is one only.
    pub account: Option<&'r str>,
    /// Subjects that both accounts use.
    pub shared: &'r [Pattern],
    /// The policy.
    pub policy: Option<&'r Policy>,
    /// The keys.
    pub keys: &'r Keys,
}

/// One stage: all files of the configuration.
pub struct Planned {
    /// Which one.
    pub stage: Stage,
    /// The files by name, the new one with them.
    pub texts: Texts,
    /// The lines in them that are new, without the spaces around them.
    pub lines: BTreeSet<String>,
    /// Whether a reload brings it in when the stage before is in force; else a restart does.
    pub reload: bool,
    /// Whether the user is gone that clients without a login were.
    pub no_guests: bool,
}

/// All that a plan needs to know about the configuration, for those who tell of it.
pub struct Plan<'c> {
    situation: Situation<'c>,
    request: Request<'c>,
}

impl<'c> Plan<'c> {
    /// What the configuration is, if a plan can be made for it.
    ///
    /// # Errors
    /// Why it cannot, in words.
    pub fn of(current: &'c Current, request: Request<'c>) -> Result<Self, Problems> {
        let Request { account, shared, policy, .. } = request;
        let situation = Situation::of(current, account, shared, policy)?;
        Ok(Self { situation, request })
    }

    /// The name of the account that keeps the state.
    #[must_use]
    pub fn state(&self) -> &str {
        &self.situation.state
    }

    /// The name of the account of services.
    #[must_use]
    pub fn services(&self) -> &str {
        self.situation.services
    }

    /// The users of the state account, as they are today.
    #[must_use]
    pub fn users(&self) -> Vec<String> {
        self.situation.users().into_iter().map(|(name, _)| name).collect()
    }

    /// The user that a service of the policy was: the one with its NKEY, or with its name.
    #[must_use]
    pub fn user_of(&self, service: &str) -> Option<String> {
        let users = self.users();
        let found = self.request.policy.and_then(|policy| policy.service(service));
        let with_key = found.and_then(|service| {
            service.keys.iter().map(|key| key.key.to_string()).find(|key| users.contains(key))
        });
        with_key.or_else(|| users.iter().find(|user| *user == service).cloned())
    }

    /// The files of a stage.
    ///
    /// # Errors
    /// What cannot be edited, in words.
    pub fn stage(&self, stage: Stage) -> Result<Planned, Problems> {
        let gone = self.gone(&stage)?;
        let config = &self.situation.current.config;
        // A name in `auth_users` that no user has lets nobody in, and taking it out needs a restart;
        // so it stays until the last stage. But whoever keeps its NKEY is to be asked about.
        let keys = self.policy_keys();
        let asked = |user: &String| match &stage {
            Stage::Beside => false,
            Stage::Moved(_) => gone.contains(user) && keys.contains(user),
            Stage::Last { .. } => gone.contains(user),
        };
        let users = config.accounts.iter().flat_map(|account| &account.users);
        let names = users.filter_map(|user| user.name.as_ref().map(|name| name.value.clone()));
        let everybody: Vec<String> = names.collect();
        let mut beside: Vec<String> =
            everybody.iter().filter(|user| !asked(user)).cloned().collect();
        let reload = matches!(stage, Stage::Moved(_)) && !everybody.iter().any(asked);
        if self.is_open() && !matches!(stage, Stage::Last { .. }) {
            beside.push(self.request.keys.anybody.clone());
        }
        let generated = Generated {
            situation: &self.situation,
            keys: self.request.keys,
            policy: self.request.policy,
            stage: &stage,
            beside,
            used: RefCell::default(),
        };
        // What only those used who are gone is used by nobody; the server would refuse that.
        let mut unused = BTreeSet::new();
        loop {
            let (texts, lines) = files::edited(&generated, &gone, &unused)?;
            let more = self.hold(&texts, &gone, &everybody)?;
            if more.is_empty() {
                let guest = config.no_auth_user.as_ref();
                let no_guests = guest.is_some_and(|guest| gone.contains(&guest.value));
                return Ok(Planned { stage, texts, lines, reload, no_guests });
            }
            unused.extend(more);
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.situation.home, situation::Home::Open)
    }

    fn policy_keys(&self) -> BTreeSet<String> {
        let services = self.request.policy.map(Policy::services).unwrap_or_default();
        services.iter().flat_map(|s| &s.keys).map(|key| key.key.to_string()).collect()
    }

    /// The users that are gone in a stage.
    fn gone(&self, stage: &Stage) -> Result<BTreeSet<String>, Problem> {
        let users = self.users();
        let wanted: Vec<&String> = match stage {
            Stage::Beside => Vec::new(),
            Stage::Moved(moves) => moves.iter().map(|m| &m.user).collect(),
            Stage::Last { keep } => keep.iter().collect(),
        };
        if let Some(unknown) = wanted.iter().find(|user| !users.contains(**user)) {
            let message = format!("there is no user {unknown} in {}", self.old_account());
            return Err(Problem::error("adopt-moved", message).help(if users.is_empty() {
                "nobody has a user of its own there; only the last stage takes `no_auth_user` away"
                    .to_owned()
            } else {
                format!(
                    "say which user the service was: --moved SERVICE=USER. The users are {}",
                    some(&users)
                )
            }));
        }
        let wanted: BTreeSet<String> = wanted.into_iter().cloned().collect();
        Ok(match stage {
            Stage::Last { .. } => users.into_iter().filter(|user| !wanted.contains(user)).collect(),
            _ => wanted,
        })
    }

    /// What the account of state is called today.
    #[must_use]
    pub fn old_account(&self) -> &str {
        if self.situation.renames() { "$G" } else { self.state() }
    }

    /// The plan has to say what it is meant to say: what was written is read again. What comes back
    /// are variables that are not used any more.
    fn hold(
        &self,
        texts: &Texts,
        gone: &BTreeSet<String>,
        everybody: &[String],
    ) -> Result<BTreeSet<String>, Problems> {
        let wrong = |why: &str| {
            let message = format!("these files cannot be edited in small steps: {why}");
            Problem::error("adopt-edit", message).help(
                "a list or an account that is used in two places, as a variable or by `include`, \
                 has to be written where it is used",
            )
        };
        let again = Again { texts, environment: &self.situation.current.environment };
        let tree = syntax::read(Path::new(&self.situation.current.main), &again)
            .map_err(|problems| Problems::from(wrong(&problems.to_string())))?;
        let problems = Collector::new();
        let config = Config::of(&tree, &problems);
        let problems = problems.finish();
        if problems.has_errors() {
            return Err(wrong(&problems.to_string()).into());
        }
        let unused = self.unused(&tree);
        if !unused.is_empty() {
            return Ok(unused);
        }
        if problems.count(Severity::Note) > self.situation.current.notes {
            return Err(wrong("a variable would be used by nobody").into());
        }
        let names = |config: &Config| -> Vec<String> {
            let users = config.accounts.iter().flat_map(|account| &account.users);
            let mut names: Vec<String> =
                users.filter_map(|user| Some(user.name.as_ref()?.value.clone())).collect();
            names.sort();
            names
        };
        let own = self.request.keys.users().map(ToOwned::to_owned);
        let mut wanted: Vec<String> =
            everybody.iter().filter(|user| !gone.contains(*user)).cloned().chain(own).collect();
        let found: Vec<String> =
            names(&config).into_iter().filter(|name| *name != self.request.keys.anybody).collect();
        wanted.sort();
        if found != wanted {
            return Err(wrong("a user would be there twice, or be lost").into());
        }
        let accounts = situation::OWN.into_iter().chain([self.services(), self.state()]);
        if let Some(name) = accounts.into_iter().find(|name| config.account(name).is_none()) {
            return Err(wrong(&format!("the account {name} would not be there")).into());
        }
        let callout = config.authorization.as_ref().and_then(|a| a.auth_callout.as_ref());
        if callout.is_none_or(|callout| callout.auth_users.is_empty()) {
            return Err(wrong("the callout would not be there").into());
        }
        Ok(unused)
    }

    /// The variables at the top level that were used, and are not in this tree.
    fn unused(&self, tree: &Tree) -> BTreeSet<String> {
        let used = |tree: &Tree, name: &str| {
            tree.root.all().find(|entry| entry.key.value == name).is_some_and(|entry| entry.used)
        };
        let before = &self.situation.current.tree;
        let variables = before.root.all().filter(|entry| entry.used).map(|entry| &entry.key.value);
        let there = |name: &str| tree.root.all().any(|entry| entry.key.value == name);
        let unknown = |name: &str| !accounts::is_known(name);
        variables
            .filter(|name| unknown(name) && there(name) && !used(tree, name))
            .cloned()
            .collect()
    }

    /// The folder below `store_dir` that needs the name of the new account.
    #[must_use]
    pub fn renamed(&self) -> Option<(PathBuf, PathBuf)> {
        if !self.situation.renames() {
            return None;
        }
        let jetstream = self.situation.current.config.jetstream.as_ref();
        let dir = jetstream.and_then(|jetstream| jetstream.store_dir.as_ref());
        let dir = dir.map_or("/tmp/nats", |dir| &dir.value);
        let folder = Path::new(dir).join("jetstream");
        Some((folder.join("$G"), folder.join(self.state())))
    }
}

/// A few names for a message.
fn some(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(8).map(String::as_str).collect();
    let more = names.len().saturating_sub(shown.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

/// Files and the environment, with what was asked of the environment.
struct Heard<'s> {
    source: &'s dyn Source,
    environment: RefCell<Environment>,
}

impl Source for Heard<'_> {
    fn file(&self, path: &Path, most: usize) -> std::io::Result<Vec<u8>> {
        self.source.file(path, most)
    }

    fn environment(&self, name: &str) -> Option<String> {
        let value = self.source.environment(name)?;
        self.environment.borrow_mut().insert(name.to_owned(), value.clone().into());
        Some(value)
    }
}

/// The edited texts, read as files.
struct Again<'t> {
    texts: &'t Texts,
    environment: &'t Environment,
}

impl Source for Again<'_> {
    fn file(&self, path: &Path, _most: usize) -> std::io::Result<Vec<u8>> {
        let text = self.texts.get(&path.display().to_string());
        let text = text.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))?;
        Ok(text.as_bytes().to_vec())
    }

    fn environment(&self, name: &str) -> Option<String> {
        self.environment.get(name).map(|value| value.to_string())
    }
}

#[cfg(test)]
mod tests;
