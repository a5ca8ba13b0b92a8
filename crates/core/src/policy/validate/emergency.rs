//! Emergency grants: one keyspace has another owner for a while.
//!
//! What is changed is what the documents say, so that the policy that comes of it is judged whole, by
//! every rule there is. Two owners cannot come of it.

use super::super::document::{GrantEntry, ServiceEntry};
use crate::diagnostics::{Collector, Problem, SourceFile, Spanned};
use crate::emergency::Emergency;
use solewriter_types::keyspace::Keyspace;

/// Takes the keyspace from its owner, and gives it to the service.
pub fn apply(emergency: &Emergency, services: &mut [ServiceEntry], problems: &Collector) {
    let keyspace = emergency.keyspace();
    let text = keyspace.to_string();
    let name = format!("emergency grant {}", emergency.id());
    let file = SourceFile::new(name, text.as_str());
    let span = file.span(0..text.len());
    let refuse = |message: String, help: &str| {
        problems.push(Problem::error("emergency", message).at(&span, "").help(help));
    };
    let by = emergency.by().as_str();
    let has = |service: &&ServiceEntry| service.keys.iter().any(|key| key.key.value == by);
    if let Some(service) = services.iter().find(has) {
        refuse(
            format!("its key is one of `{}`", service.name.value),
            "a service's key must not sign emergency grants: give the operator a key of its own",
        );
        return;
    }
    let service = emergency.service();
    match services.iter().find(|entry| entry.name.value == *service) {
        None => {
            refuse(format!("there is no service `{service}`"), "name a service of the policy");
            return;
        }
        Some(entry) if entry.disabled.is_some() => {
            refuse(format!("`{service}` is disabled"), "enable it in the policy, or name another");
            return;
        }
        Some(_) => {}
    }
    let owns = |entry: &GrantEntry| Keyspace::parse(&entry.text.value).ok();
    let mut owners = Vec::new();
    for entry in services.iter() {
        for owned in entry.grants.owns.iter().filter_map(owns) {
            if owned.shared_key(keyspace).is_some() {
                owners.push((entry.name.value.clone(), owned));
            }
        }
    }
    let shown: Vec<String> =
        owners.iter().map(|(owner, owned)| format!("`{owner}` owns `{owned}`")).collect();
    match owners.as_slice() {
        [] => {}
        [(owner, _)] if owner == service => {
            refuse(format!("`{service}` owns it already"), "there is nothing to grant");
            return;
        }
        [(_, owned)] if owned == keyspace => {}
        [_] => {
            let help = "an emergency grant takes a whole entry of its owner: name that";
            refuse(
                format!("it is a part of what another owns, or more: {}", shown.join(", ")),
                help,
            );
            return;
        }
        _ => {
            let help = "an emergency grant takes a keyspace of one owner: name one of these";
            refuse(format!("it has several owners: {}", shown.join(", ")), help);
            return;
        }
    }
    let moved = || Spanned::new(text.clone(), span.clone());
    for entry in services {
        let grants = &mut entry.grants;
        let before = grants.owns.len();
        grants.owns.retain(|owned| owns(owned).as_ref() != Some(keyspace));
        if grants.owns.len() < before {
            grants.reads.push(GrantEntry { text: moved(), until: None });
        }
        if entry.name.value == *service {
            // To own it is to read it.
            grants.reads.retain(|read| owns(read).as_ref() != Some(keyspace));
            grants.owns.push(GrantEntry { text: moved(), until: None });
        }
    }
}
