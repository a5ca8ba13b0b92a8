//! Which streams are declared, and who uses and replays them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::case::{Case, Deeds, names, services};
use super::existing::{Config, listed, quoted};
use super::page::{Item, Table};
use crate::adoption::evidence::fact::Fact;
use crate::adoption::evidence::generalise::{Level, Seen};
use crate::buckets::Consumer;
use solewriter_core::grant::AuditStreams;
use solewriter_core::policy::model::StreamName;
use solewriter_types::kv_operation::STORE_STREAM;
use solewriter_types::subject::Pattern;

/// A stream that the draft declares.
pub struct Kept<'e> {
    /// Its name.
    pub name: StreamName,
    /// What it keeps.
    pub subjects: Vec<Pattern>,
    /// Why several services cannot write it safely, as it is set today.
    pub harm: Option<String>,
    /// Whether a message is gone when it was taken.
    work: bool,
    /// Its table.
    table: usize,
    /// Its configuration, where it is known.
    config: Option<Config<'e>>,
}

impl Kept<'_> {
    /// Says something above its table.
    pub fn note(&self, case: &mut Case<'_>, note: String) {
        if let Some(table) = case.tables.get_mut(self.table) {
            table.notes.push(note);
        }
    }

    /// The least time for message ids: by them, one writer could have another's message dropped.
    pub fn shorten_window(&self, case: &mut Case<'_>) {
        const KEY: &str = "duplicate_window";
        let now = self.config.and_then(|c| c.stream().into_iter().find(|(key, _)| *key == KEY));
        let note = match now {
            Some((_, now)) => {
                format!("is {now} today; several services write other subjects of it")
            }
            None => "several services write other subjects of it".to_owned(),
        };
        if let Some(table) = case.tables.get_mut(self.table) {
            table.items.retain(|item| item.key != KEY);
            table.items.push(Item::setting(KEY, quoted("100ms"), note));
        }
    }
}

/// Declares the streams of today, or those that were seen.
pub fn declare<'e>(case: &mut Case<'e>) -> Vec<Kept<'e>> {
    let existing = case.existing;
    let plain = |name: &str| !name.starts_with("KV_") && !name.starts_with(STORE_STREAM);
    let there = existing.streams.iter().flatten().map(crate::buckets::Stream::name);
    let seen = case.evidence.streams().keys().map(|name| &**name);
    let all: BTreeSet<&str> = there.chain(seen).filter(|name| plain(name)).collect();
    let mut kept: Vec<Kept<'e>> = Vec::new();
    for name in all {
        match one(case, name, &kept) {
            Ok((stream, table)) => {
                kept.push(stream);
                case.tables.push(table);
            }
            Err(why) => {
                for deeds in case.deeds(|fact| fact.stream() == Some(name)) {
                    case.refuse(&deeds, format!("stream {name} is not declared: {why}"));
                }
            }
        }
    }
    kept
}

fn one<'e>(case: &Case<'e>, name: &str, others: &[Kept<'e>]) -> Result<(Kept<'e>, Table), String> {
    let checked = StreamName::parse(name).and_then(StreamName::acknowledged)?;
    let audit = AuditStreams::default();
    if [audit.events(), audit.services()].contains(&name) {
        return Err("it is an audit stream".to_owned());
    }
    let found = case.existing.stream(name);
    let config = found.map(|found| Config(&found.config));
    if case.existing.streams.is_some() && found.is_none() {
        return Err("there is no such stream".to_owned());
    }
    let mut table = Table { header: format!("stream.{name}"), ..Table::default() };
    let texts: Vec<String> = if let Some(found) = found {
        found.subjects().map(ToOwned::to_owned).collect()
    } else {
        table.notes.push("What it keeps is only what was seen of it. Look it up.".to_owned());
        let seen = case.evidence.streams().get(name);
        let seen = seen.map(|kept| kept.patterns(case.level)).unwrap_or_default();
        seen.into_iter().map(|seen| seen.pattern).collect()
    };
    let mut subjects: Vec<Pattern> = Vec::new();
    for text in texts {
        let pattern =
            Pattern::parse(&text).map_err(|error| format!("its subject {text}: {error}"))?;
        let first = pattern.first_token();
        if pattern.starts_with_wildcard() || first.starts_with(['$', '_']) {
            return Err(format!("it keeps {text}, which begins with a wildcard, `$` or `_`"));
        }
        if !text.contains('.') {
            return Err(format!("it keeps {text}, and a stream's subject has two tokens or more"));
        }
        let taken = others.iter().find(|o| o.subjects.iter().any(|kept| kept.overlaps(&pattern)));
        if let Some(other) = taken {
            return Err(format!("stream {} keeps subjects of {text}, too", other.name));
        }
        if !subjects.iter().any(|kept| kept.overlaps(&pattern)) {
            subjects.push(pattern);
        }
    }
    if subjects.is_empty() {
        return Err("nothing tells what it keeps".to_owned());
    }
    let value = listed(subjects.iter().map(Pattern::as_str));
    table.items.push(Item::setting("subjects", value, ""));
    let settings = config.map(Config::stream).unwrap_or_default();
    table.items.extend(settings.into_iter().map(|(key, value)| Item::setting(key, value, "")));
    let stream = Kept {
        name: checked,
        subjects,
        harm: config.and_then(Config::harm),
        work: config.and_then(|c| c.text("retention")) == Some("workqueue"),
        table: case.tables.len(),
        config,
    };
    Ok((stream, table))
}

/// Declares the consumers of declared streams, and gives them to who uses them.
pub fn consumers(case: &mut Case<'_>, streams: &[Kept<'_>]) {
    for stream in streams {
        let name = stream.name.as_str().to_owned();
        let mut there: BTreeMap<String, Option<&Consumer>> = BTreeMap::new();
        for consumer in case.existing.consumers(&name) {
            there.insert(consumer.name.clone(), Some(consumer));
        }
        let using = case.deeds(|fact| fact.consumer().is_some_and(|(of, _)| of == name));
        for deeds in &using {
            if let Some((_, consumer)) = deeds.fact.consumer() {
                there.entry(consumer.to_owned()).or_default();
            }
        }
        for (consumer, found) in there {
            let of = |deeds: &&Deeds<'_>| deeds.fact.consumer().is_some_and(|(_, c)| c == consumer);
            let using: Vec<&Deeds<'_>> = using.iter().filter(of).collect();
            if let Err(why) = StreamName::parse(&consumer).and_then(StreamName::acknowledged) {
                for deeds in &using {
                    case.refuse(deeds, why);
                }
                continue;
            }
            one_consumer(case, &name, &consumer, found, &using);
        }
    }
}

fn one_consumer(
    case: &mut Case<'_>,
    stream: &str,
    consumer: &str,
    found: Option<&Consumer>,
    using: &[&Deeds<'_>],
) {
    let config = found.map(|found| Config(&found.config));
    let mut table =
        Table { header: format!("stream.{stream}.consumer.{consumer}"), ..Table::default() };
    if found.is_none() {
        table.notes.push("Its settings are not known. Look them up.".to_owned());
    }
    let users = services(using);
    let made = using.iter().find(|deeds| matches!(deeds.fact, Fact::Makes(..)));
    let seen: Vec<String> = made
        .map(|deeds| deeds.record.subjects.patterns(Level::None))
        .unwrap_or_default()
        .into_iter()
        .map(|seen| seen.pattern)
        .filter(|filter| filter != ">")
        .collect();
    let filters = config.map_or(seen, Config::filters);
    let is_pushed = config.is_some_and(|config| config.text("deliver_subject").is_some());
    let fits = filters.len() <= 1 && !filters.iter().any(|f| f.ends_with('*')) && !is_pushed;
    let by_service = made.filter(|_| users == 1 && fits);
    if !filters.is_empty() {
        table.items.push(Item::setting("filter", listed(&filters), ""));
    }
    if let Some(made) = by_service {
        let note = format!("its client makes it, {}", made.record.tally);
        table.items.push(Item::setting("made_by", quoted("service"), note));
    } else {
        let settings = config.map(Config::consumer).unwrap_or_default();
        table.items.extend(settings.into_iter().map(|(key, value)| Item::setting(key, value, "")));
    }
    if let Some(made) = made.filter(|_| by_service.is_none()) {
        let why = "`state apply` makes the consumer: its client has to use the one that is there";
        case.refuse(made, why);
    }
    let entry = format!("{stream}/{consumer}");
    match using {
        [] => table.notes.push("Nobody was seen to use it.".to_owned()),
        [first, ..] if users == 1 => {
            let mut tally = crate::adoption::evidence::tally::Tally::default();
            for deeds in using {
                tally.merge(&deeds.record.tally);
            }
            let facts = using.iter().map(|deeds| deeds.fact.clone()).collect();
            let item = Item::element("consumes", &entry, tally.to_string(), facts);
            case.grant(first.service, item);
        }
        _ => {
            let who = names(using);
            let message = format!("consumer {entry} is used by {who}");
            case.conflict("consumer-users", message, using);
            let mut known: Vec<&Arc<str>> =
                using.iter().filter(|d| d.is_known()).map(|d| d.service).collect();
            known.dedup();
            let mut choices: Vec<String> = known
                .into_iter()
                .map(|service| format!("in [service.{service}]: consumes = [\"{entry}\"]"))
                .collect();
            choices.push(format!(
                "all of these lines, if they share its messages; in [{}]: shared = \"WHY\"",
                table.header
            ));
            let question = format!(
                "who uses consumer {entry}? It is used by {who}, and each message goes to one of them"
            );
            let number = case.ask(question, using, choices);
            table.notes.push(format!("Several services use it: see QUESTION {number}."));
        }
    }
    case.tables.push(table);
}

/// Who reads a stream with consumers of its own.
pub fn replays(case: &mut Case<'_>, streams: &[Kept<'_>]) {
    let replaying = case.deeds(|fact| matches!(fact, Fact::Replays(_)));
    for deeds in &replaying {
        let Some(name) = deeds.fact.stream() else { continue };
        let Some(stream) = streams.iter().find(|stream| stream.name.as_str() == name) else {
            continue;
        };
        if stream.work {
            case.refuse(deeds, format!("stream {name} is a work queue, which nobody can replay"));
            continue;
        }
        let patterns = case.patterns(deeds);
        let also = [Fact::Unnamed(name.to_owned()), Fact::OpensStream(name.to_owned())];
        let facts: Vec<Fact> = [deeds.fact.clone()].into_iter().chain(also).collect();
        if patterns.is_empty() {
            let question = format!(
                "what of stream {name} does {} replay? It made its consumers before the trace began",
                deeds.service
            );
            let line = |entry| format!("in [service.{}]: replays = [\"{entry}\"]", deeds.service);
            let part = stream.subjects.first().map(|subject| line(format!("{name}/{subject}")));
            let choices = [line(name.to_owned())].into_iter().chain(part).collect();
            case.ask(question, &[deeds], choices);
        } else if patterns.iter().any(|seen| seen.pattern == ">") {
            let note = deeds.record.tally.to_string();
            case.grant(deeds.service, Item::element("replays", name, note, facts));
        } else {
            for Seen { pattern, tally } in patterns {
                let open = match pattern.strip_suffix(".*") {
                    Some(above) => format!("{above}.>"),
                    None => pattern,
                };
                let entry = format!("{name}/{open}");
                let item = Item::element("replays", &entry, tally.to_string(), facts.clone());
                case.grant(deeds.service, item);
            }
        }
    }
}
