//! `solewriter.conf`: all that is new in nats-server's configuration, as variables that the edited
//! files use. The accounts are those that `init` writes.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use solewriter_core::policy::model::Policy;
use solewriter_types::subject::Pattern;

use super::situation::{Home, OWN, Situation};
use super::{Keys, Stage};
use crate::adoption::server_config::accounts::{Import, Passage};
use crate::passes;
use crate::scaffold::SERVER_CONFIG;

/// What a variable's name begins with.
const PREFIX: &str = "SOLEWRITER_";

/// Gates through which what is answered in the new account gets back, for as long as callers are in
/// the old one.
const ANSWERS: &str = "_INBOX.>";

/// A name or a text as the configuration has it.
pub(super) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let word =
        ["true", "yes", "on", "false", "no", "off"].iter().any(|w| text.eq_ignore_ascii_case(w));
    if !word && text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

/// The name of a variable.
pub(super) fn variable(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// The part of a text between two others.
fn between<'t>(text: &'t str, from: &str, to: &str) -> &'t str {
    let rest = text.split_once(from).map_or("", |(_, rest)| rest);
    rest.split_once(to).map_or("", |(found, _)| found)
}

/// What stands in an account of `init`'s configuration, without its comments.
fn account(config: &str, name: &str) -> String {
    let body = between(config, &format!("\n  {name} {{\n"), "\n  }\n");
    let lines = body.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.fold(String::new(), |text, line| text + line.strip_prefix("  ").unwrap_or(line) + "\n")
}

/// The lines of a list of an account.
fn list(account: &str, name: &str) -> Vec<String> {
    let lines = between(account, &format!("  {name}: [\n"), "\n  ]");
    lines.lines().map(|line| line.trim().to_owned()).collect()
}

/// The subject of a line with a service, or of one that imports it.
fn service(line: &str) -> Option<Pattern> {
    let rest = line.strip_prefix("{ service: ")?;
    Pattern::parse(rest.split('"').nth(1)?).ok()
}

/// An import of the account of state, for the new account.
fn imported(import: &Import) -> String {
    let kind = match import.passage {
        Passage::Stream => "stream",
        Passage::Service => "service",
    };
    let (account, subject) = (quoted(&import.account.value), quoted(&import.subject.value));
    let here = match (&import.to, &import.prefix) {
        (Some(to), _) => format!(", to: {}", quoted(&to.value)),
        (None, Some(prefix)) => format!(", prefix: {}", quoted(&prefix.value)),
        (None, None) => String::new(),
    };
    format!("{{ {kind}: {{ account: {account}, subject: {subject} }}{here} }}")
}

pub(super) struct Generated<'s> {
    pub situation: &'s Situation<'s>,
    pub keys: &'s Keys,
    pub policy: Option<&'s Policy>,
    pub stage: &'s Stage,
    /// Who is let in without a question, beside solewriter's own users.
    pub beside: Vec<String>,
    /// The variables that edits have used so far.
    pub used: RefCell<BTreeSet<String>>,
}

impl Generated<'_> {
    fn template(&self) -> String {
        passes::in_config(SERVER_CONFIG, self.policy)
    }

    /// Texts of `init` with the names and keys of this plan.
    fn named(&self, text: &str) -> String {
        let Situation { state, services, system, .. } = self.situation;
        let (state, system) = (quoted(state), quoted(system));
        let mut text = text
            .replace("account: STATE", &format!("account: {state}"))
            .replace("account: SYS", &format!("account: {system}"))
            .replace("APP", services);
        for (name, key) in self.keys.named() {
            text = text.replace(&format!("${name}"), key);
        }
        text
    }

    /// Whether somebody is in the account of state to whom plain messages have to pass.
    fn shares(&self) -> bool {
        !matches!(self.stage, Stage::Last { .. }) || self.situation.has_leaves()
    }

    /// Whether a service of `init`'s lines is within what is shared, and passes with it.
    fn within(&self, line: &str) -> bool {
        let tree = service(line);
        self.shares()
            && tree.is_some_and(|own| self.situation.shared.iter().any(|t| own.is_subset_of(t)))
    }

    /// The exports of the state account, a line each.
    pub fn exports(&self) -> Vec<String> {
        let services = self.situation.services;
        let mut lines = list(&account(&self.template(), "STATE"), "exports");
        lines.retain(|line| !self.within(line));
        for line in &mut lines {
            *line = self.named(line);
        }
        if self.shares() {
            for tree in self.situation.shared.iter().map(|tree| quoted(tree.as_str())) {
                lines.push(format!(
                    "{{ service: {tree}, response: stream, accounts: [ {services} ] }}"
                ));
                lines.push(format!("{{ stream: {tree}, accounts: [ {services} ] }}"));
            }
            if !self.situation.shared.is_empty() {
                lines.push(format!("{{ service: \"{ANSWERS}\", accounts: [ {services} ] }}"));
            }
        }
        lines
    }

    /// The account of services.
    fn services(&self) -> String {
        let body = account(&self.template(), "APP");
        let mut lines = list(&body, "imports");
        let from_state = |line: &str| line.contains("account: STATE");
        lines.retain(|line| !(from_state(line) && self.import_within(line)));
        let mut lines: Vec<String> = lines.iter().map(|line| self.named(line)).collect();
        if self.shares() && !self.situation.shared.is_empty() {
            let state = quoted(&self.situation.state);
            let import = |kind: &str, tree: &str| {
                format!("{{ {kind}: {{ account: {state}, subject: {tree} }} }}")
            };
            for tree in self.situation.shared.iter().map(|tree| quoted(tree.as_str())) {
                lines.push(import("service", &tree));
                lines.push(import("stream", &tree));
            }
            lines.push(import("service", &format!("\"{ANSWERS}\"")));
        }
        lines.extend(self.situation.imported().map(imported));
        let lines = lines.iter().fold(String::new(), |text, line| text + "    " + line + "\n");
        format!("  imports: [\n{lines}  ]\n")
    }

    fn import_within(&self, line: &str) -> bool {
        let subject = between(line, "subject: \"", "\"");
        let own = line.starts_with("{ service:").then(|| Pattern::parse(subject).ok()).flatten();
        self.shares()
            && own.is_some_and(|own| self.situation.shared.iter().any(|t| own.is_subset_of(t)))
    }

    /// The admin as a user, in a file.
    pub fn admin(&self, file: &str, defaults: bool) -> String {
        // Permissions that an account gives to whoever has none are not for its admin.
        let all = if defaults { ", permissions: { publish: \">\", subscribe: \">\" }" } else { "" };
        format!("{{ nkey: {}{all} }}", self.reference(file, "ADMIN"))
    }

    /// The accounts that the map of accounts gets, in a file.
    pub fn accounts(&self, file: &str) -> Vec<String> {
        let own = OWN.iter().copied().chain([self.situation.services]);
        let mut lines: Vec<String> =
            own.map(|name| format!("{name}: {}", self.reference(file, name))).collect();
        if self.situation.system_account().is_none() {
            let system = quoted(&self.situation.system);
            lines.push(format!("{system}: {{ exports: {} }}", self.reference(file, "SYSTEM")));
        }
        if matches!(self.situation.home, Home::Open) {
            lines.push(format!("{}: {}", self.situation.state, self.reference(file, "STATE")));
        }
        lines
    }

    /// What a variable stands for.
    fn value(&self, name: &str) -> String {
        match name {
            "ADMIN" => self.keys.admin.clone(),
            "SYSTEM" => {
                let lines = system_exports();
                let lines: Vec<String> = lines.iter().map(|line| self.named(line)).collect();
                list_of(&lines)
            }
            "EXPORTS" => list_of(&self.exports()),
            "STATE" => self.open_state(),
            "CALLOUT" => self.callout(),
            name if name == self.situation.services => format!("{{\n{}}}", self.services()),
            own => format!("{{\n{}}}", self.named(&account(&self.template(), own))),
        }
    }

    /// A variable of the new file. Where another file is edited it is not known, so its value stands
    /// there.
    pub fn reference(&self, file: &str, name: &str) -> String {
        if file != self.situation.current.main {
            return self.value(name);
        }
        self.used.borrow_mut().insert(name.to_owned());
        format!("${}", variable(name))
    }

    /// The account of state where nobody logs in.
    fn open_state(&self) -> String {
        let anybody = if self.shares() {
            format!("\n    {{ nkey: {} }}", self.keys.anybody)
        } else {
            String::new()
        };
        let exports = list_of(&self.exports()).replace('\n', "\n  ");
        format!(
            "{{\n  jetstream: enabled\n  users: [\n    {{ nkey: {} }}{anybody}\n  ]\n  exports: \
             {exports}\n}}",
            self.keys.admin
        )
    }

    fn callout(&self) -> String {
        let users = self.keys.users().into_iter().map(ToOwned::to_owned);
        let users = users.chain(self.beside.iter().map(|name| quoted(name)));
        let users = users.fold(String::new(), |text, user| text + "    " + &user + "\n");
        format!(
            "{{\n  issuer: {}\n  account: AUTH\n  # Who logs in without a question to \
             solewriter.\n  auth_users: [\n{users}  ]\n  xkey: {}\n}}",
            self.keys.issuer, self.keys.xkey
        )
    }

    /// The whole file, with what the edits use.
    pub fn text(&self) -> String {
        let Situation { home, services, current, .. } = self.situation;
        let open = matches!(home, Home::Open);
        let mut end = String::new();
        if self.situation.authorization().is_none() || matches!(home, Home::Global(..)) {
            let callout = self.reference(&current.main, "CALLOUT");
            let _ =
                write!(end, "\nauthorization {{\n  timeout: 10\n  auth_callout: {callout}\n}}\n");
        }
        if self.situation.accounts().is_none() && open {
            end.push_str("\naccounts {\n");
            for line in self.accounts(&current.main) {
                let _ = writeln!(end, "  {line}");
            }
            end.push_str("}\n");
        }
        if open && self.shares() {
            let _ = write!(end, "\nno_auth_user: {}\n", self.keys.anybody);
        }
        let mut text = format!(
            "# Written by `solewriter adopt`: {}.\n# Public keys only; nothing here is secret. The \
             file that includes this one uses these names.\n",
            self.stage.about(),
        );
        let names = ["ADMIN"].into_iter().chain(OWN).chain([*services]);
        for name in names.chain(["SYSTEM", "EXPORTS", "STATE", "CALLOUT"]) {
            if self.used.borrow().contains(name) {
                let _ = write!(text, "\n{}: {}\n", variable(name), self.value(name));
            }
        }
        text + &end
    }
}

/// The exports of the system account, a line each.
pub(super) fn system_exports() -> Vec<String> {
    list(&account(SERVER_CONFIG, "SYS"), "exports")
}

/// A list, a line each.
fn list_of(lines: &[String]) -> String {
    let lines = lines.iter().fold(String::new(), |text, line| text + "  " + line + "\n");
    format!("[\n{lines}]")
}
