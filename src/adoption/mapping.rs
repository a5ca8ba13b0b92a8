//! Which client is which service: what an engineer writes down where users alone do not tell.
//!
//! ```toml
//! [[client]]
//! name = "orders-*"
//! address = "10.1.0.0/16"
//! service = "orders"
//! ```
//!
//! All that an entry says has to be so. The first entry that fits counts.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use solewriter_core::diagnostics::toml::{self, Table};
use solewriter_core::diagnostics::{Collector, Problem, Problems, SourceFile, Span, Spanned};
use solewriter_core::keys::UserKey;
use solewriter_core::policy::model::LONGEST_NAME;

use super::deed::Client;
use solewriter_types::audit_event::PRODUCER;

/// Whether a text can name a service.
#[must_use]
pub fn is_service(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    !text.is_empty() && text.len() <= LONGEST_NAME && text.chars().all(allowed) && text != PRODUCER
}

/// Which client is which service.
#[derive(Clone, Debug, Default)]
pub struct Mapping {
    entries: Vec<Entry>,
}

/// One `[[client]]`.
#[derive(Clone, Debug)]
struct Entry {
    user: Option<String>,
    nkey: Option<String>,
    name: Option<String>,
    address: Option<IpNet>,
    service: Arc<str>,
    /// Where the service is named.
    at: Span,
}

impl Mapping {
    /// Reads the file.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn read(file: &SourceFile) -> Result<Self, Problems> {
        let problems = Collector::new();
        let mut entries = Vec::new();
        if let Some(mut root) = toml::read(file, &problems) {
            for table in root.table_array("client") {
                entries.extend(entry(table, &problems));
            }
            root.finish();
        }
        let problems = problems.finish();
        if problems.has_errors() { Err(problems) } else { Ok(Self { entries }) }
    }

    /// The service that a client is, if an entry says so.
    #[must_use]
    pub fn service(&self, client: &Client) -> Option<Arc<str>> {
        let entry = self.entries.iter().find(|entry| entry.fits(client))?;
        Some(Arc::clone(&entry.service))
    }

    /// Every service that is named, and where.
    pub fn services(&self) -> impl Iterator<Item = (&str, &Span)> {
        self.entries.iter().map(|entry| (&*entry.service, &entry.at))
    }
}

impl Entry {
    fn fits(&self, client: &Client) -> bool {
        let same = |wanted: &Option<String>, found: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| found.as_ref() == Some(wanted))
        };
        let name = self.name.as_deref();
        same(&self.user, &client.user)
            && same(&self.nkey, &client.nkey)
            && name.is_none_or(|name| client.name.as_deref().is_some_and(|n| is_like(name, n)))
            && self.address.is_none_or(|net| {
                // A link-local address may have a zone.
                let address = client.address.split('%').next().unwrap_or_default();
                address.parse::<IpAddr>().is_ok_and(|address| net.contains(&address.to_canonical()))
            })
    }
}

/// Whether a text is as a pattern says, in which `*` stands for any characters.
fn is_like(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        let Some((_, after)) = left.split_once(part) else { return false };
        left = after;
    }
    true
}

fn entry(mut table: Table<'_>, problems: &Collector) -> Option<Entry> {
    table.require("service", "\"orders\"");
    let place = table.span().clone();
    let [user, name] = ["user", "name"].map(|key| table.string(key));
    let (nkey, address) = (table.string("nkey"), table.string("address"));
    let service = table.string("service");
    table.finish();
    if user.is_none() && name.is_none() && nkey.is_none() && address.is_none() {
        problems.push(
            Problem::error("missing-key", "`[[client]]` does not say which client")
                .at(&place, "")
                .help("add `user`, `nkey`, `name` or `address`"),
        );
    }
    let is_key = nkey.as_ref().is_none_or(|nkey| checked_key(nkey, problems));
    let address = match address.as_ref().map(|text| network(text, problems)) {
        Some(None) => return None,
        Some(found) => found,
        None => None,
    };
    let service = service?;
    if !is_service(&service.value) {
        problems.push(
            Problem::error("bad-name", format!("`{}` cannot name a service", service.value))
                .at(&service.span, "")
                .help("use 1 to 64 letters, digits, `_` and `-`; `solewriter` is taken"),
        );
        return None;
    }
    let text = |value: Option<Spanned<String>>| value.map(|value| value.value);
    is_key.then(|| Entry {
        user: text(user),
        nkey: text(nkey),
        name: text(name),
        address,
        service: service.value.into(),
        at: service.span,
    })
}

fn checked_key(nkey: &Spanned<String>, problems: &Collector) -> bool {
    let Err(error) = UserKey::parse(&nkey.value) else { return true };
    problems.push(
        // The text is not repeated: it may be a seed.
        Problem::error("bad-nkey", format!("not a public user NKEY: {error}"))
            .at(&nkey.span, "")
            .help("a public user NKEY begins with 'U' and has 56 characters"),
    );
    false
}

fn network(text: &Spanned<String>, problems: &Collector) -> Option<IpNet> {
    let address = || text.value.parse::<IpAddr>().ok().map(IpNet::from);
    let found = text.value.parse::<IpNet>().ok().or_else(address);
    if found.is_none() {
        problems.push(
            Problem::error("bad-network", "`address` is neither an address nor a network")
                .at(&text.span, "")
                .help("write \"10.1.2.3\" or \"10.1.0.0/16\""),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use solewriter_core::diagnostics::render::Style;
    use solewriter_types::server_log::line::Kind;

    fn client(user: Option<&str>, name: Option<&str>, address: &str) -> Client {
        Client {
            connection: 1,
            kind: Kind::Cid,
            address: address.to_owned(),
            account: None,
            user: user.map(ToOwned::to_owned),
            nkey: None,
            name: name.map(ToOwned::to_owned),
            lang: None,
        }
    }

    #[test]
    fn the_first_entry_that_fits_counts() {
        let text = "[[client]]\nuser = \"app\"\nname = \"orders-*\"\nservice = \"orders\"\n\
                    [[client]]\naddress = \"10.1.0.0/16\"\nservice = \"edge\"\n\
                    [[client]]\nname = \"*-job-*\"\naddress = \"::1\"\nservice = \"jobs\"\n";
        let mapping = Mapping::read(&SourceFile::new("map.toml", text)).unwrap();
        let of = |user, name, address| mapping.service(&client(user, name, address));
        assert_eq!(of(Some("app"), Some("orders-1"), "10.1.2.3").as_deref(), Some("orders"));
        assert_eq!(of(Some("app"), Some("order"), "10.1.2.3").as_deref(), Some("edge"));
        assert_eq!(of(None, Some("a-job-1"), "::1").as_deref(), Some("jobs"));
        assert_eq!(of(None, Some("a-jab-1"), "::1"), None);
        assert_eq!(of(None, None, "no address"), None);
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "a", true),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(is_like(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let text = "[[client]]\nservice = \"a.b\"\nuser = \"x\"\n[[client]]\nservice = \"a\"\n\
                    [[client]]\naddress = \"ten\"\nnkey = \"SUX\"\nusr = 1\n";
        let problems = Mapping::read(&SourceFile::new("map.toml", text)).unwrap_err();
        let text = problems.render(Style::Plain);
        for expected in ["map.toml:2", "which client", "address", "bad-nkey", "usr", "missing-key"]
        {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}
