//! Users. Their passwords and tokens are seen here, and nowhere kept.

use solewriter_core::diagnostics::{Problem, Span, Spanned};

use super::reader::Reader;
use super::{Login, Permissions, User};
use crate::adoption::server_config::syntax::{Entry, Node, Value};

/// The characters of a public NKEY.
const NKEY_CHARS: usize = 56;

impl Reader<'_> {
    /// A list of users. `map` is whether a name alone is that of a certificate.
    pub fn users(self, node: &Node, map: bool) -> Vec<User> {
        let list = self.list(node, "a list of users");
        list.iter().filter_map(|node| self.user(node, map)).collect()
    }

    fn user(self, node: &Node, map: bool) -> Option<User> {
        let fields = self.map(node, "a user: `{user: …, password: …}` or `{nkey: …}`")?;
        let mut user = User {
            name: None,
            login: if map { Login::Certificate } else { Login::Nothing },
            span: node.span.clone(),
            permissions: None,
            by_default: false,
            connection_types: Vec::new(),
        };
        let mut nkey = None;
        for entry in fields.entries() {
            let value = &entry.value;
            match entry.key.value.to_ascii_lowercase().as_str() {
                "user" | "username" => user.name = self.text(value),
                "nkey" => nkey = self.nkey(value),
                "pass" | "password" => {
                    if self.secret(entry) {
                        user.login = Login::Password;
                    }
                }
                "permission" | "permissions" | "authorization" => {
                    user.permissions = self.permissions(value);
                }
                "allowed_connection_types" | "connection_types" | "clients" => {
                    user.connection_types = self.texts(value);
                }
                // Of a leafnode, and of proxies: not what this view is about.
                "account" | "proxy_required" => {}
                _ => self.unknown(entry, "a user"),
            }
        }
        match (nkey, &user.name) {
            (Some(key), None) => {
                user.name = Some(key);
                user.login = Login::Nkey;
            }
            (Some(_), Some(_)) => self.problem(&node.span, "a user has a name and an NKEY"),
            (None, None) => {
                self.problem(&node.span, "a user has no name and no NKEY");
                return None;
            }
            (None, Some(_)) => {}
        }
        Some(user)
    }

    fn problem(self, span: &Span, message: &str) {
        let problem = Problem::error("server-config-user", message).at(span, "this user");
        self.problems.push(problem.help("write `user` and `password`, or `nkey` alone"));
    }

    /// A public NKEY. Anything else may be a seed, so it is not kept.
    fn nkey(self, node: &Node) -> Option<Spanned<String>> {
        let key = self.text(node)?;
        let base32 = |c: char| matches!(c, 'A'..='Z' | '2'..='7');
        if key.value.len() == NKEY_CHARS
            && key.value.starts_with('U')
            && key.value.chars().all(base32)
        {
            return Some(key);
        }
        self.problem(&node.span, "this is no public NKEY of a user (`U…`)");
        None
    }

    /// Whether a password or token is there. Its words are not looked at.
    fn secret(self, entry: &Entry) -> bool {
        if let Value::String(secret) = &entry.value.value {
            return !secret.is_empty();
        }
        self.unfit(&entry.value, "a text in quotes");
        false
    }

    /// The one user of `authorization` or of a leafnode's: `user` and `password`, or `token`.
    pub fn single(self, node: &Node, permissions: Option<&Permissions>) -> Option<User> {
        let fields = self.map(node, "a map with logins")?;
        let mut user = User {
            name: None,
            login: Login::Nothing,
            span: node.span.clone(),
            permissions: permissions.cloned(),
            by_default: permissions.is_some(),
            connection_types: Vec::new(),
        };
        let mut token = false;
        for entry in fields.entries() {
            match entry.key.value.to_ascii_lowercase().as_str() {
                "user" | "username" => user.name = self.text(&entry.value),
                "nkey" => {
                    if let Some(key) = self.nkey(&entry.value) {
                        user.name = Some(key);
                        user.login = Login::Nkey;
                    }
                }
                "pass" | "password" if self.secret(entry) => user.login = Login::Password,
                "token" if self.secret(entry) => token = true,
                _ => {}
            }
        }
        if token {
            if user.name.is_some() {
                self.problem(&node.span, "there is a user and a token; one of them is for nobody");
            }
            return Some(User { name: None, login: Login::Token, ..user });
        }
        user.name.is_some().then_some(user)
    }
}
