//! One account: users, exports, imports, mappings.

use solewriter_core::diagnostics::{Problem, Spanned};

use super::reader::Reader;
use super::{Account, Export, Import, Mapping, Passage, Permissions, User};
use crate::adoption::server_config::syntax::{Entry, Map, Node, Value};

/// Keys of an account that are not about who may do what.
const OTHERS: [&str; 6] =
    ["nkey", "limits", "msg_trace", "trace_dest", "cluster_traffic", "account_token_position"];

/// The permissions of those who have none of their own.
pub(super) fn by_default(users: &mut [User], permissions: Option<&Permissions>) {
    for user in users.iter_mut().filter(|user| user.permissions.is_none()) {
        user.permissions = permissions.cloned();
        user.by_default = permissions.is_some();
    }
}

impl Reader<'_> {
    /// Accounts by name, or a list of names alone.
    pub fn accounts(self, node: &Node, certificates: bool) -> Vec<Account> {
        match &node.value {
            Value::List(list) => {
                let names = list.iter().filter_map(|node| self.text(node));
                names.map(|name| empty(name.clone(), &name)).collect()
            }
            Value::Map(map) => {
                map.entries().filter_map(|entry| self.account(entry, certificates)).collect()
            }
            _ => {
                self.unfit(node, "a map of accounts");
                Vec::new()
            }
        }
    }

    fn account(self, entry: &Entry, certificates: bool) -> Option<Account> {
        // An account may be set aside to be used as a variable, or be one.
        let Value::Map(map) = &entry.value.value else {
            if !entry.used {
                self.unfit(&entry.value, "an account: a map in `{}`");
            }
            return None;
        };
        let whole = Spanned::new(String::new(), entry.value.span.clone());
        let mut account = empty(entry.key.clone(), &whole);
        for entry in map.entries() {
            let value = &entry.value;
            match entry.key.value.to_ascii_lowercase().as_str() {
                "users" => account.users = self.users(value, certificates),
                "jetstream" => {
                    account.jetstream = Some(Spanned::new(self.switch(value), value.span.clone()));
                }
                "exports" => {
                    let list = self.list(value, "a list of exports");
                    account.exports = list.iter().filter_map(|node| self.export(node)).collect();
                }
                "imports" => {
                    let list = self.list(value, "a list of imports");
                    account.imports = list.iter().filter_map(|node| self.import(node)).collect();
                }
                "mappings" | "maps" => account.mappings = self.mappings(value),
                "default_permissions" => account.default_permissions = self.permissions(value),
                other if OTHERS.contains(&other) => {}
                _ => self.unknown(entry, "an account"),
            }
        }
        by_default(&mut account.users, account.default_permissions.as_ref());
        Some(account)
    }

    fn export(self, node: &Node) -> Option<Export> {
        let map = self.map(node, "an export: `{stream: …}` or `{service: …}`")?;
        let (passage, subject) = self.passage(node, map)?;
        let subject = self.text(&subject.value)?;
        let accounts = map.get("accounts").map(|entry| self.texts(&entry.value));
        let response = ["response", "response_type"].iter().find_map(|name| map.get(name));
        let response = response.and_then(|entry| self.text(&entry.value));
        Some(Export {
            passage,
            subject,
            many: response.is_some_and(|response| !response.value.eq_ignore_ascii_case("single")),
            accounts: accounts.unwrap_or_default(),
            span: node.span.clone(),
        })
    }

    fn import(self, node: &Node) -> Option<Import> {
        let map = self.map(node, "an import: `{stream: …}` or `{service: …}`")?;
        let (passage, source) = self.passage(node, map)?;
        let source_map = self.map(&source.value, "`{account: …, subject: …}`")?;
        let field = |name: &str| {
            let found = source_map.get(name);
            if found.is_none() {
                self.incomplete(&source.value, &format!("an import has no `{name}`"));
            }
            found.and_then(|entry| self.text(&entry.value))
        };
        Some(Import {
            passage,
            account: field("account")?,
            subject: field("subject")?,
            to: map.get("to").and_then(|entry| self.text(&entry.value)),
            prefix: map.get("prefix").and_then(|entry| self.text(&entry.value)),
            span: node.span.clone(),
        })
    }

    fn passage<'m>(self, node: &Node, map: &'m Map) -> Option<(Passage, &'m Entry)> {
        let stream = map.get("stream").map(|entry| (Passage::Stream, entry));
        let found = stream.or_else(|| map.get("service").map(|entry| (Passage::Service, entry)));
        if found.is_none() {
            self.incomplete(node, "it has neither `stream` nor `service`");
        }
        found
    }

    fn incomplete(self, node: &Node, message: &str) {
        self.problems.push(Problem::error("server-config-account", message).at(&node.span, "here"));
    }

    pub fn mappings(self, node: &Node) -> Vec<Mapping> {
        let Some(map) = self.map(node, "a map from subjects to subjects") else {
            return Vec::new();
        };
        let mapping = |entry: &Entry| {
            let to = match &entry.value.value {
                Value::List(list) => list.iter().filter_map(|n| self.destination(n)).collect(),
                Value::Map(_) => self.destination(&entry.value).into_iter().collect(),
                _ => self.text(&entry.value).into_iter().collect(),
            };
            Mapping { from: entry.key.clone(), to }
        };
        map.entries().map(mapping).collect()
    }

    fn destination(self, node: &Node) -> Option<Spanned<String>> {
        let map = self.map(node, "`{destination: …, weight: …}`")?;
        let found = map.get("destination").or_else(|| map.get("dest"));
        if found.is_none() {
            self.incomplete(node, "a mapping has no `destination`");
        }
        self.text(&found?.value)
    }
}

/// An account without anything.
pub(super) fn empty(name: Spanned<String>, whole: &Spanned<String>) -> Account {
    Account {
        name,
        span: whole.span.clone(),
        jetstream: None,
        users: Vec::new(),
        exports: Vec::new(),
        imports: Vec::new(),
        mappings: Vec::new(),
        default_permissions: None,
    }
}
