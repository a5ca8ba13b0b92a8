//! Several tenants: the accounts of `deploy/nats-server.conf` once for each, beside those of the callout,
//! of the system user and of the servers.

use super::InitError;
use crate::config::is_tenant_name;
use crate::operator::picture::account_end;

/// What holds for all tenants.
const SETTINGS: &str = include_str!("../../deploy/tenants/solewriter.toml");
/// What is a tenant's own.
const TENANT: &str = include_str!("../../deploy/tenants/tenant.toml");

/// The accounts that each tenant has, as the configuration for one policy calls them.
const OF_EACH: [&str; 6] = ["AUTH", "POLICY", "PUBLISH", "AUDIT", "STATE", "APP"];
/// The users that each tenant has, as that configuration calls them.
pub(super) const USERS: [(&str, &str); 4] = [
    ("callout", "CALLOUT_KEY"),
    ("publisher", "PUBLISHER_KEY"),
    ("admin", "ADMIN_KEY"),
    ("audit-admin", "AUDIT_ADMIN_KEY"),
];

/// The account of the callout, which is nobody's: it answers, and there is nothing else in it.
const CALLOUT: &str = r#"  # The callout lives here, apart from every tenant. Its user answers requests, and reaches nothing that
  # any tenant has.
  AUTH {
    users: [
      {
        nkey: $CALLOUT_KEY
        permissions {
          subscribe: { allow: ["$SYS.REQ.USER.AUTH", "_INBOX.solewriter.>"] }
          publish: { allow: ["$SYS._INBOX.>", "_INBOX.solewriter.>", "solewriter.nobody"] }
        }
      }
    ]
  }
"#;

/// A tenant that is to be written.
pub(super) struct Tenant<'a>(&'a str);

impl<'a> Tenant<'a> {
    /// All of them.
    ///
    /// # Errors
    /// [`InitError::Value`], when one is no name, or there twice.
    pub(super) fn all(names: &'a [String]) -> Result<Vec<Self>, InitError> {
        let mut seen = std::collections::BTreeSet::new();
        for name in names {
            if !is_tenant_name(name) {
                let help = "a tenant's name has lower-case letters, digits and `-`, a letter first, \
                            and 32 characters at most";
                return Err(InitError::Value(name.clone(), help));
            }
            if !seen.insert(name) {
                return Err(InitError::Value(name.clone(), "two tenants cannot have one name"));
            }
        }
        Ok(names.iter().map(|name| Self(name)).collect())
    }

    pub(super) fn name(&self) -> &'a str {
        self.0
    }

    /// What the configuration for one policy calls so.
    pub(super) fn account(&self, name: &str) -> String {
        let name = if name == "AUTH" { "CONTROL" } else { name };
        format!("{name}{}", account_end(self.0))
    }

    /// The name of a value that the configuration includes.
    pub(super) fn value(&self, name: &str) -> String {
        format!("{name}{}", account_end(self.0))
    }

    /// The file of a seed of its own.
    pub(super) fn seed(&self, name: &str) -> String {
        format!("{}-{name}.nk", self.0)
    }

    /// Its settings.
    pub(super) fn settings(&self) -> String {
        TENANT.replace("_SHOP", &account_end(self.0)).replace("shop", self.0)
    }

    /// Its accounts, of the configuration for one policy with the lines of its streams.
    fn accounts(&self, config: &str) -> String {
        let mut out = format!(
            "\n  # The tenant {}: what each line is for is said in deploy/nats-server.conf, where the\n  \
             # accounts have no ending, and CONTROL is AUTH.\n",
            self.0
        );
        let mut lines = accounts_of(config);
        lines.retain(|(account, _)| OF_EACH.contains(account));
        for (_, line) in lines {
            if line.trim_start().starts_with('#') {
                continue;
            }
            let line = line.replace("\"$SYS.REQ.USER.AUTH\", ", "");
            let line = line.replace("\"$SYS._INBOX.>\", ", "");
            out += &self.renamed(&line);
            out.push('\n');
        }
        out
    }

    /// A line with the tenant's own accounts and values.
    fn renamed(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for name in OF_EACH {
            let own = self.account(name);
            line = line.replace(&format!("account: {name},"), &format!("account: {own},"));
            if let Some(indent) = line.strip_suffix(&format!("{name} {{"))
                && indent.trim().is_empty()
            {
                line = format!("{indent}{own} {{");
            }
            if line.trim_start() == format!("account: {name}") {
                line = line.replace(name, &own);
            }
        }
        if let Some((before, list)) = line.split_once("accounts: [")
            && let Some((names, after)) = list.split_once(']')
        {
            let names: Vec<String> =
                names.split(',').map(|name| self.account(name.trim())).collect();
            line = format!("{before}accounts: [ {} ]{after}", names.join(", "));
        }
        for (_, value) in USERS {
            line =
                line.replace(&format!("nkey: ${value}"), &format!("nkey: ${}", self.value(value)));
        }
        line
    }
}

/// The lines of the accounts, each with the account that it belongs to. Comments before an account are
/// its own.
fn accounts_of(config: &str) -> Vec<(&str, &str)> {
    let inside = config.split_once("\naccounts {\n").map_or("", |(_, inside)| inside);
    let inside = inside.split_once("\n}\n").map_or(inside, |(inside, _)| inside);
    let (mut all, mut before) = (Vec::new(), Vec::new());
    let mut account: Option<&str> = None;
    for line in inside.lines() {
        let begins = line.strip_prefix("  ").and_then(|line| line.strip_suffix(" {"));
        if account.is_none()
            && let Some(name) = begins
        {
            all.extend(before.drain(..).map(|line| (name, line)));
            account = Some(name);
        }
        match account {
            Some(name) => all.push((name, line)),
            None => before.push(line),
        }
        if line == "  }" {
            account = None;
        }
    }
    all
}

/// nats-server's configuration: `each` is that for one policy, of each tenant.
pub(super) fn server_config(tenants: &[(Tenant<'_>, String)]) -> String {
    let Some((_, config)) = tenants.first() else { return String::new() };
    let (head, rest) = config.split_once("\naccounts {\n").unwrap_or((config, ""));
    let tail = rest.split_once("\n}\n").map_or("", |(_, tail)| tail);
    let mut out = format!("{head}\naccounts {{\n{CALLOUT}");
    for (tenant, config) in tenants {
        out += &tenant.accounts(config);
    }
    for (account, line) in accounts_of(config) {
        if !OF_EACH.contains(&account) {
            out += line;
            out.push('\n');
        }
    }
    let users = |tenant: &Tenant<'_>| USERS.map(|(_, value)| format!("${}", tenant.value(value)));
    let users: Vec<String> = tenants.iter().flat_map(|(tenant, _)| users(tenant)).collect();
    let own = "$PUBLISHER_KEY, $ADMIN_KEY, $AUDIT_ADMIN_KEY";
    out + "}\n" + &tail.replace(own, &users.join(", "))
}

/// The settings that list them.
pub(super) fn settings(tenants: &[(Tenant<'_>, String)]) -> String {
    let files = tenants.iter().map(|(tenant, _)| format!("\"tenants/{}.toml\"", tenant.0));
    let files = files.collect::<Vec<_>>().join(", ");
    SETTINGS.replace("\"tenants/shop.toml\", \"tenants/bank.toml\"", &files)
}
