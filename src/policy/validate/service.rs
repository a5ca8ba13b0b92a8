//! One service after another, and what no two may share.

use std::collections::HashMap;
use std::sync::Arc;

use super::Draft;
use super::settings::{self, Settings, shown};
use crate::keys::UserKey;
use crate::policy::document::{KeyEntry, ServiceEntry};
use crate::policy::model::{ConnectionType, Location, Service, ServiceKey};
use crate::source::{Collector, Problem, Span, Spanned};

/// The longest service name. It is one token of its inbox, and part of its user name.
pub const MAX_NAME_CHARS: usize = 64;

/// Judges every service. A service with problems is given back as far as it could be read.
pub fn check(entries: Vec<ServiceEntry>, problems: &Collector) -> Vec<Draft> {
    let mut names: HashMap<String, Span> = HashMap::new();
    let mut holders: HashMap<UserKey, Spanned<Arc<str>>> = HashMap::new();
    let mut drafts = Vec::with_capacity(entries.len());
    for entry in entries {
        check_name(&entry.name, problems);
        if let Some(first) = names.get(&entry.name.value) {
            problems.push(
                Problem::error(
                    "duplicate-service",
                    format!("service `{}` is defined twice", entry.name.value),
                )
                .at(&entry.name.span, "defined again here")
                .also(first, "first defined here")
                .help("merge the two tables, or give one of them another name"),
            );
            continue;
        }
        names.insert(entry.name.value.clone(), entry.name.span.clone());
        drafts.push(service(entry, &mut holders, problems));
    }
    drafts
}

fn check_name(name: &Spanned<String>, problems: &Collector) {
    let text = name.value.as_str();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let reason = if text.is_empty() {
        "it is empty".to_owned()
    } else if let Some(bad) = text.chars().find(|c| !allowed(*c)) {
        format!("it contains {bad:?}")
    } else if text.len() > MAX_NAME_CHARS {
        format!("it has {} characters", text.len())
    } else {
        return;
    };
    problems.push(
        Problem::error("bad-name", format!("`{}` cannot name a service: {reason}", shown(text)))
            .at(&name.span, "")
            .help(format!(
                "use 1 to {MAX_NAME_CHARS} letters, digits, `_` and `-`: the name becomes one token of the \
                 service's inbox"
            )),
    );
}

fn service(
    entry: ServiceEntry,
    holders: &mut HashMap<UserKey, Spanned<Arc<str>>>,
    problems: &Collector,
) -> Draft {
    let name: Arc<str> = entry.name.value.as_str().into();
    if entry.keys.is_empty() {
        problems.push(
            Problem::warning("no-keys", format!("service `{name}` has no usable key"))
                .at(&entry.name.span, "nobody can connect as it")
                .help("add `nkeys = [\"U...\"]`"),
        );
    }
    let keys = entry.keys.into_iter().filter_map(|key| check_key(key, &name, holders, problems));
    let keys = keys.collect();
    let (rules, rule_spans) = settings::rules(entry.grants, problems);
    let Settings { account, lifetime, sources, connections } =
        settings::settings(entry.settings, problems);
    if let Some(reason) = entry.disabled.as_ref().filter(|r| r.value.trim().is_empty()) {
        problems.push(
            Problem::error("no-reason", "`disabled` needs a reason")
                .at(&reason.span, "")
                .help("say why, for those who wonder; leave `disabled` out to enable the service"),
        );
    }
    let service = Service {
        name,
        description: entry.description.map(|text| text.value),
        keys,
        rules,
        account,
        lifetime,
        sources: sources.unwrap_or_default(),
        connections: connections.unwrap_or_else(|| vec![ConnectionType::Standard]),
        disabled: entry.disabled.map(|reason| reason.value),
        at: Location::from(&entry.name.span),
    };
    Draft { service, rules: rule_spans }
}

fn check_key(
    entry: KeyEntry,
    service: &Arc<str>,
    holders: &mut HashMap<UserKey, Spanned<Arc<str>>>,
    problems: &Collector,
) -> Option<ServiceKey> {
    let KeyEntry { key: written, not_before, not_after } = entry;
    let key = match UserKey::parse(&written.value) {
        Ok(key) => key,
        Err(error) => {
            problems.push(
                // The text is not repeated: it may be a seed.
                Problem::error("bad-nkey", format!("not a public user NKEY: {error}"))
                    .at(&written.span, "")
                    .help("a public user NKEY begins with 'U' and has 56 characters"),
            );
            return None;
        }
    };
    if let (Some(from), Some(until)) = (&not_before, &not_after)
        && from.value >= until.value
    {
        problems.push(
            Problem::error("empty-window", "the key is never valid")
                .at(&until.span, "not after this")
                .also(&from.span, "and not before this")
                .help("`not_before` must be earlier than `not_after`"),
        );
    }
    if let Some(first) = holders.get(&key) {
        let problem = if first.value == *service {
            Problem::error("duplicate-nkey", format!("service `{service}` lists an NKEY twice"))
                .help("remove one of the two")
        } else {
            let message = format!("services `{}` and `{service}` share an NKEY", first.value);
            Problem::error("shared-nkey", message)
                .help("give each service its own key: whoever holds this one would be both")
        };
        problems.push(problem.at(&written.span, "again here").also(&first.span, "first here"));
        return None;
    }
    holders.insert(key, Spanned::new(Arc::clone(service), written.span));
    let not_before = not_before.map(|time| time.value);
    let not_after = not_after.map(|time| time.value);
    Some(ServiceKey { key, not_before, not_after })
}
