//! Which client of today is which service of the policy.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::adoption::deed::Client;
use solewriter_core::callout::issue::ConnectionName;
use solewriter_core::diagnostics::toml::{self, Table, nearest};
use solewriter_core::diagnostics::{Collector, Problem, Problems, SourceFile, Spanned};
use solewriter_core::keys::UserKey;
use solewriter_core::policy::model::{Policy, Service};

/// A file that says which clients are which services.
///
/// ```toml
/// [[client]]
/// user = "old"
/// name = "billing-*"
/// service = "billing"
/// ```
#[derive(Clone, Debug, Default)]
pub struct ClientMap {
    entries: Vec<Entry>,
}

/// All that is given has to fit.
#[derive(Clone, Debug)]
struct Entry {
    user: Option<String>,
    nkey: Option<String>,
    name: Option<String>,
    address: Option<IpNet>,
    service: Arc<str>,
}

impl ClientMap {
    /// Reads a map, and holds its services against the policy.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn read(file: &SourceFile, policy: &Policy) -> Result<Self, Problems> {
        let problems = Collector::new();
        let mut entries = Vec::new();
        if let Some(mut root) = toml::read(file, &problems) {
            let tables = root.table_array("client");
            root.finish();
            entries.extend(tables.into_iter().filter_map(|table| entry(table, policy)));
        }
        if problems.has_errors() { Err(problems.finish()) } else { Ok(Self { entries }) }
    }

    /// The service that a client is by the first entry that fits.
    fn service(&self, client: &Client) -> Option<&str> {
        let address: Option<IpAddr> = client.address.parse().ok();
        let fits = |entry: &&Entry| {
            let same = |wanted: &Option<String>, found: &Option<String>| {
                wanted.is_none() || wanted == found
            };
            let named = entry.name.as_deref().is_none_or(|pattern| {
                client.name.as_deref().is_some_and(|name| matches(pattern, name))
            });
            let from = entry.address.is_none_or(|network| {
                address.as_ref().is_some_and(|address| network.contains(address))
            });
            same(&entry.user, &client.user) && same(&entry.nkey, &client.nkey) && named && from
        };
        self.entries.iter().find(fits).map(|entry| &*entry.service)
    }
}

fn entry(mut table: Table<'_>, policy: &Policy) -> Option<Entry> {
    let problems = table.problems();
    table.require("service", "service = \"billing\"");
    let (user, nkey) = (table.string("user"), table.string("nkey"));
    let (name, address) = (table.string("name"), table.string("address"));
    let service = table.string("service");
    if [&user, &nkey, &name, &address].iter().all(|given| given.is_none()) {
        problems.push(
            Problem::error("no-client", "the entry says nothing of a client")
                .at(table.span(), "")
                .help("write one or more of `user`, `nkey`, `name` and `address`"),
        );
    }
    if let Some(nkey) = &nkey
        && UserKey::parse(&nkey.value).is_err()
    {
        problems.push(
            Problem::error("bad-nkey", format!("`{}` is not a public user NKEY", nkey.value))
                .at(&nkey.span, "")
                .help("write the public key, which begins with U"),
        );
    }
    let address = address.map(|address| network(&address, problems));
    table.finish();
    let service = known(&service?, policy, problems)?;
    let text = |value: Option<Spanned<String>>| value.map(|value| value.value);
    let address = match address {
        Some(network) => Some(network?),
        None => None,
    };
    Some(Entry { user: text(user), nkey: text(nkey), name: text(name), address, service })
}

fn known(name: &Spanned<String>, policy: &Policy, problems: &Collector) -> Option<Arc<str>> {
    if let Some(service) = policy.service(&name.value) {
        return Some(Arc::clone(&service.name));
    }
    let message = format!("there is no service `{}`", name.value);
    let problem = Problem::error("unknown-service", message).at(&name.span, "");
    let known = policy.services().iter().map(|service| &*service.name);
    problems.push(match nearest(&name.value, known) {
        Some(near) => problem.help(format!("did you mean `{near}`?")),
        None => problem.help("give the NAME of a `[service.NAME]` table"),
    });
    None
}

fn network(text: &Spanned<String>, problems: &Collector) -> Option<IpNet> {
    let found = text.value.parse::<IpNet>().ok();
    let found = found.or_else(|| text.value.parse::<IpAddr>().ok().map(IpNet::from));
    if found.is_none() {
        problems.push(
            Problem::error("bad-network", format!("`{}` is not an address", text.value))
                .at(&text.span, "")
                .help("write an address or a network with its prefix, such as 10.1.0.0/16"),
        );
    }
    found
}

/// Whether a name fits a pattern, in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        let Some(at) = left.find(part) else { return false };
        left = left.get(at + part.len()..).unwrap_or_default();
    }
    true
}

/// The service that a client would be: by its NKEY, by the name that solewriter gave it, by its user
/// name, or by the map.
pub(super) fn service<'p>(
    policy: &'p Policy,
    map: &ClientMap,
    client: &Client,
) -> Option<&'p Service> {
    let key = client.nkey.as_deref().and_then(|key| UserKey::parse(key).ok());
    if let Some((service, _)) = key.and_then(|key| policy.holder(&key)) {
        return Some(service);
    }
    let user = client.user.as_deref();
    if let Some(granted) = user.and_then(ConnectionName::parse) {
        return policy.service(&granted.service);
    }
    let named = user.and_then(|user| policy.service(user));
    named.or_else(|| policy.service(map.service(client)?))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, expected) in [
            ("billing", "billing", true),
            ("billing", "billing-1", false),
            ("billing-*", "billing-1", true),
            ("billing-*", "billing-", true),
            ("*-1", "billing-1", true),
            ("b*g*1", "billing-1", true),
            ("b*g*g", "bg", false),
            ("*", "", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
