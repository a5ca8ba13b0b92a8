//! The organisation's naming convention: what a service may own, publish, answer and so on is
//! named after templates, or excepted with a reason.

use std::collections::HashMap;

use super::draft::Draft;
use super::names::only_one;
use super::settings::shown;
use super::stream::Writers;
use crate::diagnostics::{Collector, Problem, Span, Spanned};
use crate::grant;
use crate::policy::document::{ExceptEntry, NamingEntry};
use crate::policy::model::{Access, FoundName, STORE_PREFIX, StreamName};
use solewriter_types::keyspace::{BucketName, Keyspace};
use solewriter_types::subject::Pattern;

/// The most templates of one list: each name is held against each of them.
const MAX_TEMPLATES: usize = 200;

const SERVICE: &str = "{service}";
const NAME: &str = "{name}";

/// A name with placeholders: `{service}` is the service's name, `{name}` one or more characters
/// of one token.
struct Template {
    /// Without the bucket, for a keyspace template.
    tokens: Option<String>,
    /// For keyspaces.
    bucket: Option<String>,
    written: String,
}

/// The templates for one kind of name.
struct Convention {
    key: &'static str,
    span: Span,
    templates: Vec<Template>,
}

/// An exception, with the places of its entries.
struct Except {
    reason: String,
    span: Span,
    used: bool,
}

/// A name that is held against the templates.
struct Name<'n> {
    /// As an exception gives it.
    entry: String,
    held: Held<'n>,
    /// What the service does with it, for people.
    said: String,
}

/// What of a name is held.
#[derive(Clone, Copy)]
enum Held<'n> {
    Keys(&'n Keyspace),
    /// A subject, or a name without dots.
    Text(&'n str),
}

/// Reports every name outside the convention, and every exception.
pub fn check(
    tables: Vec<NamingEntry>,
    drafts: &[Draft],
    writers: &Writers<'_>,
    problems: &Collector,
) {
    only_one("[naming]", tables.iter().map(|table| &table.span), problems);
    let Some(naming) = tables.into_iter().next() else { return };
    let NamingEntry { span, buckets, events, requests, streams, consumers, stores, found, except } =
        naming;
    let convention = |key, list: Option<Vec<Spanned<String>>>| {
        let mut templates = list?;
        if let Some(first) = templates.get(MAX_TEMPLATES) {
            let message = format!("`{key}` has more than {MAX_TEMPLATES} templates");
            problems.push(
                Problem::error("too-many-templates", message)
                    .at(&first.span, "the first too many")
                    .help("use `{name}` and `>` to write one for many"),
            );
            templates.truncate(MAX_TEMPLATES);
        }
        let templates = templates.iter().filter_map(|t| template(key, t, problems)).collect();
        Some(Convention { key, span: span.clone(), templates })
    };
    let buckets = convention("buckets", buckets);
    let events = convention("events", events);
    let requests = convention("requests", requests);
    let streams = convention("streams", streams);
    let consumers = convention("consumers", consumers);
    let stores = convention("stores", stores);
    let found = convention("found", found);
    let mut exceptions = exceptions(except, problems);
    let mut hold = |draft: &Draft, convention: &Option<Convention>, name: Name<'_>, span: &Span| {
        let Some(convention) = convention else { return };
        let service = draft.service.name.as_ref();
        if convention.templates.iter().any(|template| template.fits(name.held, service)) {
            return;
        }
        match exceptions.get_mut(&(service.to_owned(), name.entry)) {
            Some(except) => except.used = true,
            None => problems.push(outside(service, &name.said, span, convention)),
        }
    };

    for draft in drafts {
        for (rule, place) in draft.rules() {
            let (convention, entry, held) = match &rule.access {
                Access::Owns(keyspace) => (&buckets, keyspace.to_string(), Held::Keys(keyspace)),
                // Named after the service already, by another rule.
                Access::Publishes(pattern) if grant::reaches_audit(pattern) => continue,
                Access::Publishes(pattern) => {
                    (&events, pattern.to_string(), Held::Text(pattern.as_str()))
                }
                Access::Answers(pattern) => {
                    (&requests, pattern.to_string(), Held::Text(pattern.as_str()))
                }
                Access::OwnsStore(store) => {
                    (&stores, format!("{STORE_PREFIX}{store}"), Held::Text(store.as_str()))
                }
                Access::Consumes(consumed) => (
                    &consumers,
                    consumed.name.to_string(),
                    Held::Text(consumed.name.consumer().as_str()),
                ),
                Access::FoundAs(name) => (&found, name.to_string(), Held::Text(name.as_str())),
                Access::Writes(_)
                | Access::WritesStore(_)
                | Access::Reads(_)
                | Access::ReadsStore(_)
                | Access::Subscribes(_)
                | Access::Calls(_)
                | Access::Discovers(_)
                | Access::DiscoversAll
                | Access::Replays(_)
                | Access::Audits(_) => continue,
            };
            let name = Name { entry, held, said: rule.access.to_string() };
            hold(draft, convention, name, &place.span);
        }
    }
    for ((service, stream), place) in writers {
        let Some(draft) = drafts.get(*service) else { continue };
        let said = format!("writes into stream {stream}");
        let name = Name { entry: stream.to_string(), held: Held::Text(stream.as_str()), said };
        hold(draft, &streams, name, &place.span);
    }
    report(exceptions, problems);
}

fn outside(service: &str, said: &str, span: &Span, convention: &Convention) -> Problem {
    let names: Vec<String> = convention
        .templates
        .iter()
        .map(|template| format!("`{}`", template.written.replace(SERVICE, service)))
        .collect();
    let label = if names.is_empty() {
        "the convention has no such name".to_owned()
    } else {
        format!("the convention is {}", names.join(" or "))
    };
    Problem::error(
        "outside-convention",
        format!("`{service}` {said}, which is outside the naming convention"),
    )
    .at(span, label)
    .also(&convention.span, format!("by `{}` here", convention.key))
    .help("rename it, or add a `[[naming.except]]` with service, entries and reason")
}

fn exceptions(
    entries: Vec<ExceptEntry>,
    problems: &Collector,
) -> HashMap<(String, String), Except> {
    let mut exceptions = HashMap::new();
    for ExceptEntry { service, entries, reason } in entries {
        if reason.value.trim().is_empty() {
            problems.push(
                Problem::error("no-reason", "`reason` is empty")
                    .at(&reason.span, "")
                    .help("give the reason"),
            );
        }
        for entry in entries {
            // As a keyspace is shown: `orders/>` is `orders`.
            let name = Keyspace::parse(&entry.value).map_or(entry.value, |k| k.to_string());
            let except = Except { reason: reason.value.clone(), span: entry.span, used: false };
            exceptions.insert((service.value.clone(), name), except);
        }
    }
    exceptions
}

fn report(exceptions: HashMap<(String, String), Except>, problems: &Collector) {
    for ((service, name), except) in exceptions {
        problems.push(if except.used {
            Problem::note(
                "naming-exception",
                format!(
                    "`{service}` is excepted from the naming convention for `{}`",
                    shown(&name)
                ),
            )
            .at(&except.span, except.reason)
        } else {
            Problem::warning(
                "unused-exception",
                format!("`{}` of `{}` needs no exception", shown(&name), shown(&service)),
            )
            .at(&except.span, "no such entry is outside the convention")
            .help("remove it")
        });
    }
}

fn template(key: &str, text: &Spanned<String>, problems: &Collector) -> Option<Template> {
    let written = text.value.clone();
    let refuse = |reason: String, help: &str| {
        problems.push(
            Problem::error(
                "bad-template",
                format!("`{}` is not a template: {reason}", shown(&written)),
            )
            .at(&text.span, "")
            .help(help),
        );
    };
    let known = written.replace(SERVICE, "").replace(NAME, "");
    if known.contains(['{', '}']) {
        refuse(
            "it has a placeholder that is not known".to_owned(),
            "the placeholders are `{service}` and `{name}`",
        );
        return None;
    }
    if written.split(['.', '/']).any(|token| token.matches(NAME).count() > 1) {
        refuse(
            "a token has `{name}` twice".to_owned(),
            "`{name}` stands for any characters; write it once",
        );
        return None;
    }
    let example = written.replace(SERVICE, "s").replace(NAME, "n");
    if key == "buckets" {
        if let Err(error) = Keyspace::parse(&example) {
            refuse(error.to_string(), "write \"BUCKET\", or \"BUCKET/KEYS\" for owners of parts");
            return None;
        }
        let (bucket, part) = match written.split_once('/') {
            Some((bucket, part)) => (bucket, Some(part.to_owned())),
            None => (written.as_str(), None),
        };
        return Some(Template { tokens: part, bucket: Some(bucket.to_owned()), written });
    }
    let judged = match key {
        "streams" | "consumers" => StreamName::parse(&example).map(drop).map_err(ToOwned::to_owned),
        "stores" => BucketName::parse(&example).map(drop).map_err(|error| error.to_string()),
        "found" => FoundName::parse(&example).map(drop).map_err(ToOwned::to_owned),
        _ => Pattern::parse(&example).map(drop).map_err(|error| error.to_string()),
    };
    if let Err(error) = judged {
        let help = match key {
            "events" | "requests" => "write a subject such as \"events.{service}.>\"",
            _ => "write a name such as \"{service}\" or \"{service}-{name}\"",
        };
        refuse(error, help);
        return None;
    }
    Some(Template { tokens: Some(written.clone()), bucket: None, written })
}

impl Template {
    fn fits(&self, held: Held<'_>, service: &str) -> bool {
        match held {
            Held::Keys(keyspace) => self.fits_keyspace(keyspace, service),
            Held::Text(text) => {
                self.tokens.as_ref().is_some_and(|tokens| covers(tokens, text, service))
            }
        }
    }

    fn fits_keyspace(&self, keyspace: &Keyspace, service: &str) -> bool {
        let Some(bucket) = &self.bucket else { return false };
        fits_token(bucket, keyspace.bucket().as_str(), service)
            && match (&self.tokens, keyspace.part()) {
                // Of a bucket that fits, every part fits.
                (None, _) => true,
                (Some(tokens), Some(part)) => covers(tokens, part.as_str(), service),
                (Some(tokens), None) => tokens == ">",
            }
    }
}

/// Whether every subject that `pattern` matches fits the template.
fn covers(template: &str, pattern: &str, service: &str) -> bool {
    let mut wanted = template.split('.');
    let mut found = pattern.split('.');
    loop {
        match (wanted.next(), found.next()) {
            (None, None) | (Some(">"), Some(_)) => return true,
            (Some(wanted), Some(token)) if fits_token(wanted, token, service) => {}
            _ => return false,
        }
    }
}

fn fits_token(template: &str, token: &str, service: &str) -> bool {
    match (template, token) {
        (_, ">") => false,
        (NAME | "*", _) => true,
        (_, "*") => false,
        _ => {
            let template = template.replace(SERVICE, service);
            match template.split_once(NAME) {
                None => template == token,
                Some((before, after)) => token
                    .strip_prefix(before)
                    .and_then(|rest| rest.strip_suffix(after))
                    .is_some_and(|name| !name.is_empty()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_covers_whole_patterns_only() {
        for (template, pattern, fits) in [
            ("events.{service}.>", "events.orders.made", true),
            ("events.{service}.>", "events.orders.>", true),
            ("events.{service}.>", "events.orders", false),
            ("events.{service}.>", "events.*.made", false),
            ("events.{service}.{name}", "events.orders.made", true),
            ("events.{service}.{name}", "events.orders.*", true),
            ("events.{service}.{name}", "events.orders.>", false),
            ("events.{service}.{name}", "events.orders.a.b", false),
            ("events.{service}-{name}.x", "events.orders-eu.x", true),
            ("events.{service}-{name}.x", "events.orders-.x", false),
            ("events.{service}-{name}.x", "events.*.x", false),
            ("v{name}.{service}", "v2.orders", true),
            ("v{name}.{service}", "2.orders", false),
        ] {
            assert_eq!(covers(template, pattern, "orders"), fits, "{template} {pattern}");
        }
    }
}
