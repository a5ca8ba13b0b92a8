//! What services could do before: the permissions of their users in nats-server's configuration, as
//! `[service.NAME.before]`.

use std::collections::BTreeMap;

use super::page::Item;
use crate::adoption::evidence::Work;
use crate::adoption::server_config::accounts::{Config, Rule, Rules, User};
use crate::adoption::server_config::report::place;
use solewriter_core::diagnostics::Span;

/// What each user of a configuration may do, by its name or NKEY.
#[derive(Clone, Debug, Default)]
pub struct Before(BTreeMap<String, Permitted>);

#[derive(Clone, Debug)]
struct Permitted {
    publish: List,
    subscribe: List,
    responses: Option<Span>,
}

/// Subjects with their places.
#[derive(Clone, Debug)]
struct List {
    allow: Vec<(String, Span)>,
    deny: Vec<(String, Span)>,
    /// Permissions for queue groups, which a policy cannot have.
    queues: Vec<(String, Span)>,
}

impl Before {
    /// Of a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let users = config.accounts.iter().flat_map(|account| &account.users);
        let named = users.filter_map(|user| Some((user.name.as_ref()?.value.clone(), of(user))));
        Self(named.collect())
    }

    /// The entries of a service that has these users, or why there are none.
    ///
    /// Of several users, what any of them could do counts, and what all of them were denied.
    pub(super) fn items(&self, work: &Work) -> Result<Vec<Item>, &'static str> {
        let names = work.users.names().iter().chain(work.nkeys.names());
        let all: Vec<&Permitted> = names.filter_map(|name| self.0.get(&**name)).collect();
        if all.is_empty() {
            return Err("no user of it is in the configuration, so what it could do is not known");
        }
        let mut items = vec![Item::setting(
            "enforce",
            "\"observe\"".to_owned(),
            "it may do as before, but for what others own; take it out when `rehearse` is silent",
        )];
        side(["before.publish", "before.deny_publish"], &all, |p| &p.publish, &mut items);
        side(["before.subscribe", "before.deny_subscribe"], &all, |p| &p.subscribe, &mut items);
        if let Some(span) = all.iter().find_map(|permitted| permitted.responses.as_ref()) {
            items.push(Item::setting("before.allow_responses", "true".to_owned(), place(span)));
        }
        Ok(items)
    }
}

fn side(
    [allow, deny]: [&'static str; 2],
    all: &[&Permitted],
    of: impl Fn(&Permitted) -> &List,
    items: &mut Vec<Item>,
) {
    let mut allowed: BTreeMap<&str, &Span> = BTreeMap::new();
    for list in all.iter().map(|permitted| of(permitted)) {
        allowed.extend(list.allow.iter().map(|(subject, span)| (subject.as_str(), span)));
    }
    for (subject, span) in &allowed {
        items.push(Item::element(allow, subject, place(span), Vec::new()));
    }
    for (rule, span) in all.iter().flat_map(|permitted| &of(permitted).queues) {
        let off = Some("a policy has no permissions for queue groups".to_owned());
        items.push(Item { off, ..Item::element(allow, rule, place(span), Vec::new()) });
    }
    if allowed.is_empty() {
        return;
    }
    let Some((first, others)) = all.split_first() else { return };
    for (subject, span) in &of(first).deny {
        let denied = |other: &&Permitted| of(other).deny.iter().any(|(d, _)| d == subject);
        if others.iter().all(denied) {
            items.push(Item::element(deny, subject, place(span), Vec::new()));
        }
    }
}

fn of(user: &User) -> Permitted {
    let permissions = user.permissions.as_ref();
    Permitted {
        publish: list(permissions.and_then(|p| p.publish.as_ref()), user),
        subscribe: list(permissions.and_then(|p| p.subscribe.as_ref()), user),
        responses: permissions.and_then(|p| p.responses.as_ref()).map(|r| r.span.clone()),
    }
}

fn list(rules: Option<&Rules>, user: &User) -> List {
    let plain = |rules: &[Rule]| {
        let plain = rules.iter().filter(|rule| rule.queue.is_none());
        plain.map(|rule| (rule.subject.to_string(), rule.span.clone())).collect::<Vec<_>>()
    };
    let allow = rules.and_then(|rules| rules.allow.as_deref());
    let queue = |rule: &Rule| {
        let text = format!("{} {}", rule.subject, rule.queue.as_ref()?);
        Some((text, rule.span.clone()))
    };
    List {
        // No list allows everything.
        allow: allow.map_or_else(|| vec![(">".to_owned(), user.span.clone())], plain),
        deny: rules.map(|rules| plain(&rules.deny)).unwrap_or_default(),
        queues: allow.unwrap_or_default().iter().filter_map(queue).collect(),
    }
}
