//! The top level of a configuration.

use solewriter_core::diagnostics::{Collector, Problem, Spanned};

use super::account::{by_default, empty};
use super::reader::Reader;
use super::{Authorization, Callout, Config, GLOBAL, JetStream, Leafnodes, Listener, Tls};
use crate::adoption::server_config::syntax::{Entry, Map, Node, Tree, Value};

/// Keys of the server that are not about who may do what.
const OTHERS: &[&str] = &[
    "addr",
    "client_advertise",
    "connect_backoff",
    "connect_error_reports",
    "debug",
    "default_js_domain",
    "default_sentinel",
    "disable_sublist_cache",
    "feature_flags",
    "host",
    "http",
    "http_base_path",
    "http_port",
    "https",
    "https_port",
    "jetstream_max_catchup",
    "js_cluster_migrate",
    "lame_duck_duration",
    "lame_duck_grace_period",
    "limits",
    "listen",
    "log_file",
    "log_max_num",
    "log_size_limit",
    "logfile",
    "logfile_max_num",
    "logfile_size_limit",
    "logtime",
    "logtime_utc",
    "max_closed_clients",
    "max_conn",
    "max_connections",
    "max_control_line",
    "max_payload",
    "max_pending",
    "max_subs",
    "max_subscriptions",
    "max_sub_tokens",
    "max_subscription_tokens",
    "max_traced_msg_len",
    "monitor_port",
    "net",
    "no_fast_producer_stall",
    "no_header_support",
    "no_sys_acc",
    "no_system",
    "no_system_account",
    "ocsp",
    "ocsp_cache",
    "pid_file",
    "pidfile",
    "ping_interval",
    "ping_max",
    "port",
    "ports_file_dir",
    "prof_block_rate",
    "prof_port",
    "proxies",
    "proxy_protocol",
    "reconnect_error_reports",
    "remote_syslog",
    "resolver_pinned_accounts",
    "resolver_tls",
    "server_metadata",
    "server_tags",
    "strict",
    "syslog",
    "trace",
    "trace_headers",
    "trace_verbose",
    "write_deadline",
    "write_timeout",
];

/// Keys that are about who may do what.
const OURS: [&str; 12] = [
    "accounts",
    "authorization",
    "no_auth_user",
    "system_account",
    "system",
    "jetstream",
    "leafnodes",
    "leaf",
    "tls",
    "mappings",
    "maps",
    "websocket",
];

pub(super) fn is_known(key: &str) -> bool {
    let others = ["ws", "mqtt", "cluster", "gateway"];
    OURS.contains(&key) || others.contains(&key) || OTHERS.contains(&key)
}

pub(super) fn read(tree: &Tree, problems: &Collector) -> Config {
    let reader = Reader { problems };
    let root = &tree.root;
    let mut config =
        Config { tls: root.get("tls").and_then(|e| reader.tls(e)), ..Config::default() };
    let certificates = config.tls.as_ref().is_some_and(|tls| tls.map);
    let mut global = None;
    for entry in root.entries() {
        let (key, value) = (entry.key.value.to_ascii_lowercase(), &entry.value);
        match key.as_str() {
            "server_name" => config.server_name = reader.text(value),
            "accounts" => config.accounts = reader.accounts(value, certificates),
            "authorization" => global = reader.authorization(entry, certificates, &mut config),
            "no_auth_user" => config.no_auth_user = reader.text(value),
            "system_account" | "system" => config.system_account = reader.text(value),
            "jetstream" => config.jetstream = Some(reader.jetstream(entry)),
            "leafnodes" | "leaf" => config.leafnodes = reader.leafnodes(entry, certificates),
            "websocket" | "ws" => config.websocket = reader.listener(entry),
            "mqtt" => config.mqtt = reader.listener(entry),
            "cluster" => config.cluster = Some(entry.key.span.clone()),
            "gateway" => config.gateway = Some(entry.key.span.clone()),
            "operator" | "operators" | "roots" | "root" | "root_operators" | "root_operator"
            | "resolver" | "resolver_preload" | "trusted" | "trusted_keys" => {
                config.operator.push(entry.key.clone());
            }
            // Of the account of everybody that is in none.
            "tls" | "mappings" | "maps" => {}
            other if OTHERS.contains(&other) => {}
            _ => reader.unknown(entry, "the server"),
        }
    }
    if let Some(mappings) = root.get("mappings").or_else(|| root.get("maps")) {
        let whole = Spanned::new(String::new(), mappings.value.span.clone());
        let name = Spanned::new(GLOBAL.to_owned(), mappings.key.span.clone());
        global.get_or_insert_with(|| empty(name, &whole)).mappings =
            reader.mappings(&mappings.value);
    }
    if let Some(account) = global {
        config.accounts.insert(0, account);
    }
    replaced(root, problems);
    operator(&config, problems);
    config
}

/// Keys that stand twice: the server takes the last, silently.
fn replaced(map: &Map, problems: &Collector) {
    let mut left = vec![map];
    while let Some(map) = left.pop() {
        for entry in map.replaced() {
            problems.push(
                Problem::warning("server-config-twice", "a key is set twice; the last one counts")
                    .at(&entry.key.span, "without effect")
                    .help("remove one of them: what is set here is not in force"),
            );
        }
        for entry in map.entries().filter(|entry| entry.value.variable.is_none()) {
            let mut values = vec![&entry.value.value];
            while let Some(value) = values.pop() {
                match value {
                    Value::Map(map) => left.push(map),
                    Value::List(list) => {
                        let own = list.iter().filter(|node| node.variable.is_none());
                        values.extend(own.map(|node| &node.value));
                    }
                    _ => {}
                }
            }
        }
    }
}

fn operator(config: &Config, problems: &Collector) {
    if let Some(key) = config.operator.first() {
        problems.push(
            Problem::warning("server-config-operator", "this is operator mode")
                .at(&key.span, "users and their permissions are in JWTs, not in this file")
                .help(
                    "read the JWTs with `nsc describe user`, or learn from a trace of the server; \
                     `auth_callout` is switched on in an account's JWT \
                     (`nsc edit authcallout`), not in this file",
                ),
        );
    }
}

impl Reader<'_> {
    fn tls(self, entry: &Entry) -> Option<Tls> {
        let map = self.map(&entry.value, "a map with `cert_file` and `key_file`")?;
        let on = |name| map.get(name).is_some_and(|entry| self.boolean(&entry.value));
        let map = on("verify_and_map") || on("verify_cert_and_check_known_urls");
        let span = entry.value.span.clone();
        Some(Tls { span, verify: map || on("verify"), map })
    }

    /// The users that are in no account, in an account named `$G`.
    fn authorization(
        self,
        entry: &Entry,
        certificates: bool,
        config: &mut Config,
    ) -> Option<super::Account> {
        let map = self.map(&entry.value, "a map with users")?;
        let span = entry.value.span.clone();
        let whole = Spanned::new(String::new(), span.clone());
        let name = Spanned::new(GLOBAL.to_owned(), entry.key.span.clone());
        let mut account = empty(name, &whole);
        let mut callout = None;
        for entry in map.entries() {
            let value = &entry.value;
            match entry.key.value.to_ascii_lowercase().as_str() {
                "user" | "username" | "pass" | "password" | "token" | "timeout"
                | "proxy_required" | "nkey" => {}
                "users" => account.users = self.users(value, certificates),
                "default_permission" | "default_permissions" | "permissions" => {
                    account.default_permissions = self.permissions(value);
                }
                "auth_callout" | "auth_hook" => callout = self.callout(value),
                _ => self.unknown(entry, "authorization"),
            }
        }
        by_default(&mut account.users, account.default_permissions.as_ref());
        // The default does not hold for the one user: the server has no place for it.
        account.users.extend(self.single(&entry.value, None));
        config.authorization = Some(Authorization { span, auth_callout: callout });
        let used = !account.users.is_empty() || account.default_permissions.is_some();
        used.then_some(account)
    }

    fn callout(self, node: &Node) -> Option<Callout> {
        let map = self.map(node, "a map with `issuer` and `auth_users`")?;
        let users = ["auth_users", "users"].into_iter().find_map(|name| map.get(name));
        Some(Callout {
            span: node.span.clone(),
            account: map.get("account").and_then(|entry| self.text(&entry.value)),
            auth_users: users.map(|entry| self.texts(&entry.value)).unwrap_or_default(),
            allowed_accounts: map
                .get("allowed_accounts")
                .map(|entry| self.texts(&entry.value))
                .unwrap_or_default(),
        })
    }

    fn jetstream(self, entry: &Entry) -> JetStream {
        let span = entry.value.span.clone();
        let on = self.switch(&entry.value);
        let Value::Map(map) = &entry.value.value else {
            return JetStream { span, on, domain: None, store_dir: None };
        };
        let text = |names: &[&str]| {
            names.iter().find_map(|name| map.get(name)).and_then(|entry| self.text(&entry.value))
        };
        let store_dir = text(&["store_dir", "storedir", "store"]);
        JetStream { span, on, domain: text(&["domain"]), store_dir }
    }

    fn listener(self, entry: &Entry) -> Option<Listener> {
        let map = self.map(&entry.value, "a map with `port`")?;
        let no_auth_user = map.get("no_auth_user").and_then(|entry| self.text(&entry.value));
        Some(Listener { span: entry.value.span.clone(), no_auth_user })
    }

    fn leafnodes(self, entry: &Entry, certificates: bool) -> Option<Leafnodes> {
        let map = self.map(&entry.value, "a map with `port`, `authorization` or `remotes`")?;
        let mut logins = Vec::new();
        if let Some(authorization) = map.get("authorization")
            && let Some(fields) = self.map(&authorization.value, "a map with logins")
        {
            if let Some(user) = self.single(&authorization.value, None) {
                logins.push((user, self.account_of(fields)));
            }
            if let Some(users) = fields.get("users") {
                for node in self.list(&users.value, "a list of users") {
                    let one = Node {
                        value: Value::List(vec![node.clone()]),
                        span: node.span.clone(),
                        variable: None,
                    };
                    let account = match &node.value {
                        Value::Map(fields) => self.account_of(fields),
                        _ => None,
                    };
                    let users = self.users(&one, certificates);
                    logins.extend(users.into_iter().map(|user| (user, account.clone())));
                }
            }
        }
        let mut remotes = Vec::new();
        if let Some(list) = map.get("remotes") {
            for node in self.list(&list.value, "a list of remotes") {
                if let Some(remote) = self.map(node, "a remote: `{url: …}`") {
                    let account = ["account", "local"].into_iter().find_map(|n| remote.get(n));
                    let account = account.and_then(|entry| self.text(&entry.value));
                    remotes.push(Spanned::new(account.map(|a| a.value), node.span.clone()));
                }
            }
        }
        Some(Leafnodes { span: entry.value.span.clone(), logins, remotes })
    }

    fn account_of(self, fields: &Map) -> Option<Spanned<String>> {
        fields.get("account").and_then(|entry| self.text(&entry.value))
    }
}
