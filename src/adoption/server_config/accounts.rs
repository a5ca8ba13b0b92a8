//! The typed view of a configuration: accounts, users, permissions.
//!
//! No password and no token is in it: only that a user has one. What the server would refuse is a
//! problem, and so is a key of a user or an account that this version does not know, as a note.

mod account;
mod permission;
mod reader;
mod server;
mod user;

use std::path::Path;

use solewriter_core::diagnostics::{Collector, Problems, Span, Spanned};
use solewriter_types::subject::Pattern;

use super::syntax::{self, Source, Tree};

/// The account of users that are in no account.
pub const GLOBAL: &str = "$G";

/// The system account, when none is named.
pub const SYSTEM: &str = "$SYS";

/// What a configuration says of who may do what.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The server's name.
    pub server_name: Option<Spanned<String>>,
    /// The accounts, as written. Users of `authorization` are in one named `$G`, which comes first
    /// if it has users.
    pub accounts: Vec<Account>,
    /// `authorization` at the top level.
    pub authorization: Option<Authorization>,
    /// Who a client is that gives no login.
    pub no_auth_user: Option<Spanned<String>>,
    /// The account of the server's own messages.
    pub system_account: Option<Spanned<String>>,
    /// `jetstream` at the top level.
    pub jetstream: Option<JetStream>,
    /// Certificates for clients.
    pub tls: Option<Tls>,
    /// `leafnodes`.
    pub leafnodes: Option<Leafnodes>,
    /// `websocket`.
    pub websocket: Option<Listener>,
    /// `mqtt`.
    pub mqtt: Option<Listener>,
    /// `cluster`.
    pub cluster: Option<Span>,
    /// `gateway`.
    pub gateway: Option<Span>,
    /// The keys of operator mode, where users are in JWTs and not in this file.
    pub operator: Vec<Spanned<String>>,
}

/// An account.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its name, where it is written; of `$G`, where `authorization` is.
    pub name: Spanned<String>,
    /// The whole of it.
    pub span: Span,
    /// Its own `jetstream`, and whether that is on.
    pub jetstream: Option<Spanned<bool>>,
    /// Its users.
    pub users: Vec<User>,
    /// What it exports.
    pub exports: Vec<Export>,
    /// What it imports.
    pub imports: Vec<Import>,
    /// Its mappings: the subject, and what messages to it become.
    pub mappings: Vec<Mapping>,
    /// The permissions of users without any of their own.
    pub default_permissions: Option<Permissions>,
}

/// How a user proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Login {
    /// A name and a password, which is not kept here.
    Password,
    /// A token, which is not kept here.
    Token,
    /// The key of an NKEY.
    Nkey,
    /// A certificate that names the user (`verify_and_map`).
    Certificate,
    /// A name alone.
    Nothing,
}

impl Login {
    /// The login in a few words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Token => "token",
            Self::Nkey => "nkey",
            Self::Certificate => "certificate",
            Self::Nothing => "a name alone",
        }
    }
}

/// A user.
#[derive(Clone, Debug)]
pub struct User {
    /// Its name, or its public NKEY; nothing for the one that logs in with the token.
    pub name: Option<Spanned<String>>,
    /// How it logs in.
    pub login: Login,
    /// The whole of it.
    pub span: Span,
    /// What it may do: its own, or its account's default. Without any, everything.
    pub permissions: Option<Permissions>,
    /// Whether the permissions are the default ones.
    pub by_default: bool,
    /// How it may connect. Empty is any way.
    pub connection_types: Vec<Spanned<String>>,
}

impl User {
    /// The name for a message.
    #[must_use]
    pub fn label(&self) -> &str {
        self.name.as_ref().map_or("who has the token", |name| &name.value)
    }
}

/// Permissions of a user.
#[derive(Clone, Debug)]
pub struct Permissions {
    /// The whole of them.
    pub span: Span,
    /// What it may publish; without, everything.
    pub publish: Option<Rules>,
    /// What it may subscribe to; without, everything.
    pub subscribe: Option<Rules>,
    /// Whether it may answer requests, wherever an answer is wanted.
    pub responses: Option<Responses>,
}

/// One side of permissions.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The whole of them.
    pub span: Span,
    /// What is allowed. `None` is everything; an empty list in the file is that, too.
    pub allow: Option<Vec<Rule>>,
    /// What is not, though it is allowed.
    pub deny: Vec<Rule>,
}

/// A subject of a permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The subject, maybe with wildcards.
    pub subject: Pattern,
    /// The queue group, maybe with wildcards.
    pub queue: Option<String>,
    /// Where it is written.
    pub span: Span,
}

/// `allow_responses`.
#[derive(Clone, Debug)]
pub struct Responses {
    /// Where.
    pub span: Span,
    /// How many answers to one request; negative is any number.
    pub max: Option<i64>,
    /// For how long, as written.
    pub expires: Option<String>,
}

/// `authorization` at the top level.
#[derive(Clone, Debug)]
pub struct Authorization {
    /// The whole of it.
    pub span: Span,
    /// Its `auth_callout`.
    pub auth_callout: Option<Callout>,
}

/// `auth_callout`: the server already asks a service.
#[derive(Clone, Debug)]
pub struct Callout {
    /// The whole of it.
    pub span: Span,
    /// The account in which the service is asked.
    pub account: Option<Spanned<String>>,
    /// Who logs in without it.
    pub auth_users: Vec<Spanned<String>>,
    /// The accounts whose users it is asked about. Empty is every account.
    pub allowed_accounts: Vec<Spanned<String>>,
}

/// Whether something is a stream of messages or a service that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Passage {
    /// Messages.
    Stream,
    /// Requests.
    Service,
}

/// An export of an account.
#[derive(Clone, Debug)]
pub struct Export {
    /// What kind.
    pub passage: Passage,
    /// The subject.
    pub subject: Spanned<String>,
    /// The accounts that may import it. Empty is every account.
    pub accounts: Vec<Spanned<String>>,
    /// Whether one request may have many answers.
    pub many: bool,
    /// The whole of it.
    pub span: Span,
}

/// An import of an account.
#[derive(Clone, Debug)]
pub struct Import {
    /// What kind.
    pub passage: Passage,
    /// The account that exports it.
    pub account: Spanned<String>,
    /// The subject there.
    pub subject: Spanned<String>,
    /// The subject here, when it is another.
    pub to: Option<Spanned<String>>,
    /// What stands before the subject here.
    pub prefix: Option<Spanned<String>>,
    /// The whole of it.
    pub span: Span,
}

impl Import {
    /// The subject in the account that imports.
    #[must_use]
    pub fn local(&self) -> String {
        match (&self.to, &self.prefix) {
            (Some(to), _) => to.value.clone(),
            (None, Some(prefix)) => {
                format!("{}.{}", prefix.value.trim_end_matches('.'), self.subject.value)
            }
            (None, None) => self.subject.value.clone(),
        }
    }
}

/// A mapping of an account.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The subject that is published to.
    pub from: Spanned<String>,
    /// What it becomes, one of several by weight.
    pub to: Vec<Spanned<String>>,
}

/// `jetstream` at the top level.
#[derive(Clone, Debug)]
pub struct JetStream {
    /// The whole of it.
    pub span: Span,
    /// Whether it is on.
    pub on: bool,
    /// Its domain, which changes the subjects of its API.
    pub domain: Option<Spanned<String>>,
    /// Where it stores.
    pub store_dir: Option<Spanned<String>>,
}

/// `tls` for clients.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The whole of it.
    pub span: Span,
    /// Whether clients need a certificate.
    pub verify: bool,
    /// Whether their certificate says who they are.
    pub map: bool,
}

/// `leafnodes`.
#[derive(Clone, Debug)]
pub struct Leafnodes {
    /// The whole of it.
    pub span: Span,
    /// Who may connect as a leaf, with the account that it then is in.
    pub logins: Vec<(User, Option<Spanned<String>>)>,
    /// The local account of each connection to another server.
    pub remotes: Vec<Spanned<Option<String>>>,
}

/// Another listener for clients.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The whole of it.
    pub span: Span,
    /// Who a client is that gives no login here.
    pub no_auth_user: Option<Spanned<String>>,
}

/// Whether the server knows a key at the top level, in small letters. What it does not know has to be
/// used as a variable.
#[must_use]
pub fn is_known(key: &str) -> bool {
    server::is_known(key)
}

impl Config {
    /// The view of a tree. What is wrong goes to `problems`, and the rest is read all the same.
    #[must_use]
    pub fn of(tree: &Tree, problems: &Collector) -> Self {
        server::read(tree, problems)
    }

    /// Reads a configuration, with the problems that are none for the server.
    ///
    /// # Errors
    /// What nats-server would refuse as well.
    pub fn read(path: &Path, source: &dyn Source) -> Result<(Tree, Self, Problems), Problems> {
        let tree = syntax::read(path, source)?;
        let problems = Collector::new();
        let config = Self::of(&tree, &problems);
        let problems = problems.finish();
        if problems.has_errors() { Err(problems) } else { Ok((tree, config, problems)) }
    }

    /// Whether a user of an account logs in without a question to who answers the callout.
    #[must_use]
    pub fn is_unasked(&self, account: &Account, user: &User) -> bool {
        let Some(callout) = self.authorization.as_ref().and_then(|a| a.auth_callout.as_ref())
        else {
            return true;
        };
        let names = |list: &[Spanned<String>], name: &str| list.iter().any(|n| n.value == name);
        let asked = callout.allowed_accounts.is_empty()
            || names(&callout.allowed_accounts, &account.name.value);
        !asked || user.name.as_ref().is_some_and(|name| names(&callout.auth_users, &name.value))
    }

    /// The account of that name.
    #[must_use]
    pub fn account(&self, name: &str) -> Option<&Account> {
        self.accounts.iter().find(|account| account.name.value == name)
    }

    /// The name of the system account.
    #[must_use]
    pub fn system(&self) -> &str {
        self.system_account.as_ref().map_or(SYSTEM, |name| &name.value)
    }

    /// A user by its name or NKEY, with its account.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<(&Account, &User)> {
        self.accounts.iter().find_map(|account| {
            let is = |user: &&User| user.name.as_ref().is_some_and(|n| n.value == name);
            account.users.iter().find(is).map(|user| (account, user))
        })
    }

    /// Whether an account has JetStream. It may have it too when the file does not say so, by the
    /// server's flags; then it is taken to have it when there is no other account that could.
    #[must_use]
    pub fn has_jetstream(&self, account: &Account) -> bool {
        if let Some(own) = &account.jetstream {
            return own.value;
        }
        let alone =
            !self.accounts.iter().any(|a| a.name.value != GLOBAL && a.name.value != self.system());
        account.name.value == GLOBAL && alone && self.jetstream.as_ref().is_none_or(|js| js.on)
    }
}

#[cfg(test)]
pub(crate) mod tests;
