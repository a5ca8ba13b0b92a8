//! Which client of today is which service of the policy.

use crate::adoption::deed::Client;
use crate::adoption::mapping::Mapping;
use solewriter_core::callout::issue::ConnectionName;
use solewriter_core::diagnostics::toml::nearest;
use solewriter_core::diagnostics::{Collector, Problem, Problems, SourceFile};
use solewriter_core::keys::UserKey;
use solewriter_core::policy::model::{Policy, Service};

/// Reads a map, and holds its services against the policy.
///
/// # Errors
/// All that is wrong with it.
pub fn read_map(file: &SourceFile, policy: &Policy) -> Result<Mapping, Problems> {
    let map = Mapping::read(file)?;
    let problems = Collector::new();
    for (name, span) in map.services().filter(|(name, _)| policy.service(name).is_none()) {
        let message = format!("there is no service `{name}`");
        let problem = Problem::error("unknown-service", message).at(span, "");
        let known = policy.services().iter().map(|service| &*service.name);
        problems.push(match nearest(name, known) {
            Some(near) => problem.help(format!("did you mean `{near}`?")),
            None => problem.help("give the NAME of a `[service.NAME]` table"),
        });
    }
    if problems.has_errors() { Err(problems.finish()) } else { Ok(map) }
}

/// The service that a client would be: by its NKEY, by the name that solewriter gave it, by its user
/// name, or by the map.
#[must_use]
pub fn service<'p>(policy: &'p Policy, map: &Mapping, client: &Client) -> Option<&'p Service> {
    let key = client.nkey.as_deref().and_then(|key| UserKey::parse(key).ok());
    if let Some((service, _)) = key.and_then(|key| policy.holder(&key)) {
        return Some(service);
    }
    let user = client.user.as_deref();
    if let Some(granted) = user.and_then(ConnectionName::parse) {
        return policy.service(&granted.service);
    }
    let named = user.and_then(|user| policy.service(user));
    named.or_else(|| policy.service(&map.service(client)?))
}
