//! What a configuration is, as far as a plan needs it, and why it cannot be one.

use solewriter_core::diagnostics::{Collector, Problem, Problems, Span};
use solewriter_core::policy::model::Policy;
use solewriter_types::subject::Pattern;

use super::{Current, shared};
use crate::adoption::server_config::accounts::{
    Account, Export, GLOBAL, Import, Login, Passage, SYSTEM,
};
use crate::adoption::server_config::syntax::{Entry, Map, Node, Value};

/// Accounts that have a name of their own in every deployment.
pub(super) const OWN: [&str; 5] = ["AUTH", "POLICY", "PUBLISH", "AUDIT", "MONITOR"];

/// Names for the account of the services, and for the one of their state, where it has none.
const SERVICES: [&str; 3] = ["APP", "SERVICES", "SOLEWRITER_APP"];
const STATES: [&str; 3] = ["STATE", "KEPT", "SOLEWRITER_STATE"];

/// Where the state is today.
pub(super) enum Home<'c> {
    /// In an account that has a name.
    Named(&'c Account, &'c Map),
    /// In `$G`, with the users of `authorization`.
    Global(&'c Entry, &'c Map),
    /// In `$G`, and nobody logs in.
    Open,
}

/// What the edits go by.
pub(super) struct Situation<'c> {
    pub current: &'c Current,
    pub home: Home<'c>,
    /// The accounts of state, of services, and of the servers.
    pub state: String,
    pub services: &'static str,
    pub system: String,
    /// Subjects that both accounts use.
    pub shared: Vec<Pattern>,
    /// The plain subjects of the policy, if there is one.
    used: Option<Vec<Pattern>>,
}

fn error(code: &'static str, message: impl Into<String>) -> Problem {
    Problem::error(code, message)
}

impl<'c> Situation<'c> {
    pub fn of(
        current: &'c Current,
        account: Option<&str>,
        named: &[Pattern],
        policy: Option<&Policy>,
    ) -> Result<Self, Problems> {
        let problems = Collector::new();
        refuse(current, &problems);
        if problems.has_errors() {
            return Err(problems.finish());
        }
        let config = &current.config;
        let home = home(current, account)?;
        let taken = |name: &&str| config.account(name).is_some();
        let free = |names: &[&'static str]| names.iter().copied().find(|name| !taken(name));
        let (Some(services), Some(free_state)) = (free(&SERVICES), free(&STATES)) else {
            let names = SERVICES.join(", ");
            return Err(error("adopt-name", format!("the accounts {names} are all taken")).into());
        };
        let state = match &home {
            Home::Named(account, _) => account.name.value.clone(),
            _ => free_state.to_owned(),
        };
        let system = config.system().to_owned();
        let mut this =
            Self { current, home, state, services, system, shared: Vec::new(), used: None };
        this.used = policy.map(|policy| shared::plain(policy).cloned().collect());
        let imports = this.imports().iter().filter_map(|i| Pattern::parse(&i.local()).ok());
        this.shared = shared::trees(named, policy, &imports.collect::<Vec<_>>())?;
        this.collisions()?;
        Ok(this)
    }

    /// What the state account has today would meet what it gets.
    fn collisions(&self) -> Result<(), Problem> {
        for import in self.imports() {
            let Ok(local) = Pattern::parse(&import.local()) else { continue };
            if let Some(tree) = self.shared.iter().find(|tree| tree.overlaps(&local)) {
                let message = format!("{} imports {local}, and {tree} is to be shared", self.state);
                return Err(error("adopt-import", message).at(&import.span, "imported here").help(
                    "name what is shared with --shared, without these subjects; the new account \
                     has the same import",
                ));
            }
        }
        Ok(())
    }

    /// Whether leaf nodes log in to the account of state. They stay there in every stage.
    pub fn has_leaves(&self) -> bool {
        let Home::Named(state, _) = &self.home else { return false };
        let logins = self.current.config.leafnodes.iter().flat_map(|leaf| &leaf.logins);
        let mut accounts = logins.filter_map(|(_, account)| account.as_ref());
        accounts.any(|account| account.value == state.name.value)
    }

    /// What the account of state imports from others.
    fn imports(&self) -> &'c [Import] {
        match &self.home {
            Home::Named(account, _) => &account.imports,
            Home::Global(..) | Home::Open => &[],
        }
    }

    /// Of that, what the new account imports, too: what the policy's services use, or all. Not a
    /// service whose subject has no wildcard: any service of the new account would have JetStream send
    /// requests there, with that as a reply subject.
    pub fn imported(&self) -> impl Iterator<Item = &'c Import> + use<'_, 'c> {
        self.imports().iter().filter(|import| self.uses(import) && !is_open_to_replies(import))
    }

    /// What its services use, and it does not import for that reason.
    pub fn not_imported(&self) -> impl Iterator<Item = &'c Import> + use<'_, 'c> {
        self.imports().iter().filter(|import| self.uses(import) && is_open_to_replies(import))
    }

    fn uses(&self, import: &Import) -> bool {
        let local = Pattern::parse(&import.local());
        let Ok(local) = local else { return false };
        self.used.as_ref().is_none_or(|used| used.iter().any(|tree| tree.overlaps(&local)))
    }

    /// What others export to it and to some accounts only.
    pub fn restricted(&self) -> Vec<&'c Export> {
        let accounts = self.current.config.accounts.iter();
        let restricted = accounts.flat_map(|account| {
            account.exports.iter().filter(|export| {
                let of_it = |import: &Import| {
                    import.account.value == account.name.value
                        && import.passage == export.passage
                        && export.accounts.iter().any(|name| name.value == self.state)
                        && within(&import.subject.value, &export.subject.value)
                };
                self.imported().any(of_it)
            })
        });
        restricted.collect()
    }

    /// The map of accounts, if there is one, and where its setting is.
    pub fn accounts(&self) -> Option<(&'c Entry, &'c Map)> {
        map_of(self.current.tree.root.get("accounts")?)
    }

    /// The system account's map, if the file has that account.
    pub fn system_account(&self) -> Option<(&'c Entry, &'c Map)> {
        map_of(self.accounts()?.1.entries().find(|entry| entry.key.value == self.system)?)
    }

    pub fn authorization(&self) -> Option<(&'c Entry, &'c Map)> {
        map_of(self.current.tree.root.get("authorization")?)
    }

    /// The state account's users, with the place of each that stands in a list.
    pub fn users(&self) -> Vec<(String, Option<Span>)> {
        let map = match &self.home {
            Home::Named(_, map) | Home::Global(_, map) => map,
            Home::Open => return Vec::new(),
        };
        match map.get("users").map(|entry| &entry.value.value) {
            Some(Value::List(list)) => list
                .iter()
                .filter_map(|node| Some((user_name(node)?, Some(node.span.clone()))))
                .collect(),
            Some(_) => Vec::new(),
            None => self.single().into_iter().map(|name| (name, None)).collect(),
        }
    }

    /// The one user of `authorization`, where it has no list.
    pub fn single(&self) -> Option<String> {
        let Home::Global(_, map) = &self.home else { return None };
        map.get("users").is_none().then(|| name_in(map)).flatten()
    }

    /// Whether the state has no name yet, so that its folder has to get another.
    pub fn renames(&self) -> bool {
        !matches!(self.home, Home::Named(..))
    }
}

fn is_open_to_replies(import: &Import) -> bool {
    import.passage == Passage::Service
        && Pattern::parse(&import.local()).is_ok_and(|local| local.is_literal())
}

/// Whether all of an import is exported by that.
fn within(import: &str, export: &str) -> bool {
    let parsed = (Pattern::parse(import), Pattern::parse(export));
    matches!(parsed, (Ok(import), Ok(export)) if import.is_subset_of(&export))
}

/// A setting whose value is a map.
fn map_of(entry: &Entry) -> Option<(&Entry, &Map)> {
    match &entry.value.value {
        Value::Map(map) => Some((entry, map)),
        _ => None,
    }
}

/// The name or the NKEY of a user.
fn user_name(node: &Node) -> Option<String> {
    let Value::Map(map) = &node.value else { return None };
    name_in(map)
}

fn name_in(map: &Map) -> Option<String> {
    let found = ["user", "username", "nkey"].into_iter().find_map(|name| map.get(name))?;
    match &found.value.value {
        Value::String(name) => Some(name.clone()),
        _ => None,
    }
}

/// Where a value is written: of a variable, where it is set.
pub(super) fn written(node: &Node) -> Option<&Span> {
    match &node.variable {
        Some(variable) => variable.defined.as_ref(),
        None => Some(&node.span),
    }
}

/// What no plan can be made for.
fn refuse(current: &Current, problems: &Collector) {
    let config = &current.config;
    if let Some(key) = config.operator.first() {
        problems.push(
            error(
                "adopt-operator",
                "the server is in operator mode: accounts and users are in JWTs",
            )
            .at(&key.span, "by this")
            .help(
                "accounts are JWTs there: make settings with [operator] accounts, and `solewriter \
                 operator plan` prints what to change in them",
            ),
        );
    }
    if let Some(callout) = config.authorization.as_ref().and_then(|a| a.auth_callout.as_ref()) {
        problems.push(
            error("adopt-callout", "the server asks a service about its clients already")
                .at(&callout.span, "this one")
                .help("a server asks one service only; remove this one first, or leave it"),
        );
    }
    let tokens = config.accounts.iter().flat_map(|account| &account.users);
    for user in tokens.filter(|user| user.login == Login::Token) {
        problems.push(
            error(
                "adopt-token",
                "clients log in with a token, which the server takes in no account",
            )
            .at(&user.span, "in this map")
            .help(
                "first give each client a user of its own: replace `token` by `users: [{user: \
                     …, password: …}]` and reload; the same token may be everybody's password \
                     meanwhile",
            ),
        );
    }
    for name in OWN {
        if let Some(account) = config.account(name) {
            problems.push(
                error("adopt-name", format!("the account {name} is taken"))
                    .at(&account.name.span, "it has this name")
                    .help("solewriter needs an account of this name; rename this one"),
            );
        }
    }
    if config.jetstream.as_ref().is_none_or(|jetstream| !jetstream.on) {
        let problem = match &config.jetstream {
            Some(jetstream) => {
                error("adopt-jetstream", "JetStream is off").at(&jetstream.span, "here")
            }
            None => error("adopt-jetstream", "the configuration does not switch JetStream on"),
        };
        problems.push(problem.help(
            "write `jetstream {store_dir: …}` into it, also when a flag of the server switches it \
             on: the new accounts keep the policy and the audit in it",
        ));
    }
}

fn home<'c>(current: &'c Current, wanted: Option<&str>) -> Result<Home<'c>, Problem> {
    let config = &current.config;
    let named = |account: &&Account| account.name.value != GLOBAL;
    let keeping: Vec<&Account> =
        config.accounts.iter().filter(named).filter(|a| config.has_jetstream(a)).collect();
    let account = match wanted {
        Some(wanted) if wanted != GLOBAL => Some(config.account(wanted).ok_or_else(|| {
            let names: Vec<&str> =
                config.accounts.iter().map(|account| account.name.value.as_str()).collect();
            error("adopt-account", format!("there is no account {wanted}"))
                .help(format!("the accounts are {}", names.join(", ")))
        })?),
        Some(_) => None,
        None if keeping.len() > 1 => {
            let names: Vec<&str> = keeping.iter().map(|a| a.name.value.as_str()).collect();
            let message = format!("{} accounts have JetStream", keeping.len());
            let mut problem = error("adopt-account", message);
            for account in &keeping {
                problem = problem.also(&account.name.span, "one of them");
            }
            return Err(problem.help(format!(
                "name the one whose services move with --account: {}; the others stay as they are, \
                 and each is a plan of its own",
                names.join(", ")
            )));
        }
        None => keeping.first().copied(),
    };
    match account {
        Some(account) => in_named(current, account),
        None => in_global(current),
    }
}

fn in_named<'c>(current: &'c Current, account: &'c Account) -> Result<Home<'c>, Problem> {
    let name = &account.name.value;
    if *name == current.config.system() {
        return Err(error("adopt-account", format!("{name} is the system account"))
            .at(&account.name.span, "this one")
            .help("name the account that has the buckets and streams"));
    }
    if !current.config.has_jetstream(account) {
        return Err(error("adopt-account", format!("the account {name} has no JetStream"))
            .at(&account.name.span, "this one")
            .help("name the account that has the buckets and streams"));
    }
    let accounts = current.tree.root.get("accounts").and_then(map_of);
    let found = accounts.and_then(|(_, map)| {
        map_of(map.entries().find(|entry| entry.key.value == *name)?).map(|(_, map)| map)
    });
    found.map(|map| Home::Named(account, map)).ok_or_else(|| {
        error("adopt-account", format!("the account {name} is not written as a map"))
            .at(&account.name.span, "here")
            .help("write it as `NAME { … }`")
    })
}

fn in_global(current: &Current) -> Result<Home<'_>, Problem> {
    let config = &current.config;
    let root = &current.tree.root;
    let beside = config
        .accounts
        .iter()
        .find(|a| ![GLOBAL, SYSTEM, config.system()].contains(&&*a.name.value));
    if let Some(account) = beside {
        return Err(error("adopt-account", "no account has JetStream")
            .at(&account.name.span, "with a named account, `$G` has none either")
            .help("write `jetstream: enabled` into the account that has the buckets and streams"));
    }
    if let Some(cluster) = config.cluster.as_ref().or(config.gateway.as_ref()) {
        return Err(error(
            "adopt-global",
            "streams in `$G` cannot be given another account in a cluster",
        )
        .at(cluster, "a cluster")
        .help(
            "`$G` can export nothing, so the state needs an account with a name. On a single server \
             its folder is renamed; in a cluster the servers have agreed on the name. Back up all \
             streams (`nats account backup`), write the users into a named account with `jetstream: \
             enabled`, restore (`nats account restore`), and then come back",
        ));
    }
    if let Some(mappings) = root.get("mappings").or_else(|| root.get("maps")) {
        return Err(error("adopt-global", "mappings at the top level are of `$G`, which is left")
            .at(&mappings.key.span, "here")
            .help(
                "write users and mappings into a named account with `jetstream: enabled` first",
            ));
    }
    let Some(authorization) = root.get("authorization") else { return Ok(Home::Open) };
    let has_users = config.account(GLOBAL).is_some_and(|account| !account.users.is_empty());
    let Some((entry, map)) = map_of(authorization).filter(|_| has_users) else {
        return Ok(Home::Open);
    };
    let one_place = entry.value.variable.is_none()
        && entry.value.span.file().name() == entry.key.span.file().name();
    if !one_place {
        return Err(error("adopt-global", "`authorization` is a variable")
            .at(&entry.value.span, "used here")
            .help("write its map here: it becomes the account that has the state"));
    }
    if let Some(accounts) = root.get("accounts") {
        let place = |wanted: &Entry| {
            root.all().position(|entry| std::ptr::eq::<Entry>(entry, wanted)).unwrap_or(usize::MAX)
        };
        if place(accounts) < place(authorization) {
            return Err(error("adopt-global", "`accounts` stands before `authorization`")
                .at(&accounts.key.span, "this has to stand behind")
                .also(&entry.key.span, "this")
                .help(
                    "move `accounts` behind `authorization`, which changes nothing: the users of \
                     `authorization` become one of the accounts",
                ));
        }
    }
    Ok(Home::Global(entry, map))
}
