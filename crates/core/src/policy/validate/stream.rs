//! Declared streams with their consumers, and whether what services do with them is safe.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::draft::Draft;
use super::names::defined_twice;
use super::settings::{Durables, OfStream, Place, choice, shown};
use super::times::{LEAST_WINDOW, check_least, window};
use crate::diagnostics::toml::{nearest, parse_duration};
use crate::diagnostics::{Collector, MAX_PROBLEMS, Problem, Span, Spanned};
use crate::grant::{self, AuditStreams};
use crate::policy::document::{ConsumerEntry, StreamEntry};
use crate::policy::model::{
    Access, Ack, Consumer, Deliver, Discard, Feature, Location, MadeBy, Replay, Retention, Storage,
    Stream, StreamName,
};
use solewriter_types::subject::Pattern;
use solewriter_types::subject::tree::PatternTree;

/// The longest search for subjects that two have, in pairs of places.
const MAX_STEPS: usize = 20_000_000;

/// The largest `max_msg_size` that a stream's configuration can say.
const LARGEST_MESSAGE: u64 = i32::MAX as u64;

/// What nats-server takes as `ack_wait` when there is none.
const USUAL_ACK_WAIT: Duration = Duration::from_secs(30);

/// A declared stream, and where it says what.
pub struct Declaration {
    pub stream: Stream,
    entry: StreamEntry,
    /// The place of each of `stream.subjects`.
    subjects: Vec<Span>,
}

impl Declaration {
    /// The place of its name.
    pub fn place(&self) -> &Span {
        &self.entry.name.span
    }

    /// Its consumers, each with the place of its name.
    pub fn consumers(&self) -> impl Iterator<Item = (&Consumer, &Span)> {
        self.stream.consumers.iter().filter_map(|consumer| {
            let named = |entry: &&ConsumerEntry| entry.name.value == consumer.name.as_str();
            Some((consumer, &self.entry.consumers.iter().find(named)?.name.span))
        })
    }
}

/// Judges every declaration. Consumers come sorted by name.
pub fn check(
    entries: Vec<StreamEntry>,
    audit: &AuditStreams,
    problems: &Collector,
) -> Vec<Declaration> {
    let mut names: HashMap<StreamName, Span> = HashMap::new();
    let mut streams = Vec::new();
    for entry in entries {
        let Some(name) = name("stream", &entry.name, problems) else { continue };
        if [audit.events(), audit.services()].contains(&name.as_str()) {
            problems.push(
                Problem::error("reserved-name", format!("`{name}` is an audit stream"))
                    .at(&entry.name.span, "solewriter makes it")
                    .help("give this stream another name; `audits` is how services read that one"),
            );
            continue;
        }
        if let Some(first) = names.get(&name) {
            problems.push(defined_twice("stream", &entry.name, first));
            continue;
        }
        names.insert(name.clone(), entry.name.span.clone());
        streams.push(stream(name, entry, problems));
    }
    check_apart(&streams, problems);
    streams
}

/// The declaration of the stream of that name.
pub fn find<'s>(streams: &'s [Declaration], name: &StreamName) -> Option<&'s Declaration> {
    streams.iter().find(|declared| declared.stream.name == *name)
}

/// That a stream is not declared, with what to do.
pub fn undeclared(name: &StreamName, help: String) -> Problem {
    Problem::error("undeclared-stream", format!("stream `{name}` is not declared")).help(help)
}

/// The declared stream that may be meant instead, followed by `rest`.
pub fn near(streams: &[Declaration], name: &StreamName, rest: &str) -> Option<String> {
    let known = streams.iter().map(|declared| declared.stream.name.as_str());
    nearest(name.as_str(), known).map(|near| format!("did you mean `{near}{rest}`?"))
}

/// The consumers of each stream, for the rules that use or replay it.
pub fn durables(streams: &[Declaration]) -> Durables {
    let of = |stream: &Stream| OfStream {
        names: stream.consumers.iter().map(|c| c.name.clone()).collect(),
        ways: stream.consumers.iter().map(|c| (c.name.clone(), c.way())).collect(),
    };
    streams.iter().map(|d| (d.stream.name.clone(), of(&d.stream))).collect()
}

/// A name of a stream or consumer that nothing else can be taken for.
fn name(what: &str, name: &Spanned<String>, problems: &Collector) -> Option<StreamName> {
    let text = name.value.as_str();
    let reason = match StreamName::parse(text).and_then(StreamName::acknowledged) {
        Err(error) => error,
        Ok(name) => return Some(name),
    };
    problems.push(
        Problem::error("bad-name", format!("`{}` cannot name a {what}: {reason}", shown(text)))
            .at(&name.span, "")
            .help("use 1 to 64 letters, digits, `_` and `-`, and at least one letter"),
    );
    None
}

fn stream(name: StreamName, entry: StreamEntry, problems: &Collector) -> Declaration {
    if entry.subjects.is_empty() {
        problems.push(
            Problem::error("no-subjects", format!("stream `{name}` keeps no subject"))
                .at(&entry.name.span, "")
                .help("write `subjects = [\"...\"]`"),
        );
    }
    let read = entry.subjects.iter().filter_map(|s| Some((subject(s, problems)?, s.span.clone())));
    let (subjects, places): (Vec<Pattern>, Vec<Span>) = read.unzip();
    for (key, time) in [("max_age", &entry.max_age), ("duplicate_window", &entry.duplicate_window)]
    {
        check_least(key, time.as_ref(), LEAST_WINDOW, "100ms", problems);
    }
    let max_age = entry.max_age.as_ref();
    let duplicate_window =
        window(max_age, entry.duplicate_window.as_ref(), "messages are kept", problems);
    if let Some(size) = entry.max_message_size.as_ref().filter(|s| s.value > LARGEST_MESSAGE) {
        problems.push(
            Problem::error("out-of-range", "`max_message_size` is out of range")
                .at(&size.span, "must be less than 2GiB"),
        );
    }
    let retentions = [Retention::Limits, Retention::Interest, Retention::WorkQueue];
    let retention =
        choice("retention", entry.retention.as_ref(), retentions, Retention::as_str, problems)
            .unwrap_or(Retention::Limits);
    let storages = [Storage::File, Storage::Memory];
    let storage = choice("storage", entry.storage.as_ref(), storages, Storage::as_str, problems)
        .unwrap_or(Storage::File);
    let discards = [Discard::Old, Discard::New];
    let discard = choice("discard", entry.discard.as_ref(), discards, Discard::as_str, problems)
        .unwrap_or(Discard::Old);
    let number = |n: &Option<Spanned<i64>>| n.as_ref().and_then(|n| u64::try_from(n.value).ok());
    let size = |n: &Option<Spanned<u64>>| n.as_ref().map(|n| n.value);
    let flag = |f: &Option<Spanned<bool>>, default| f.as_ref().map_or(default, |f| f.value);
    let text = |t: &Option<Spanned<String>>| t.as_ref().map(|t| t.value.clone());
    let mut stream = Stream {
        name,
        description: text(&entry.description),
        subjects,
        retention,
        max_age: max_age.map(|age| age.value),
        max_bytes: size(&entry.max_bytes),
        max_messages: number(&entry.max_messages),
        max_per_subject: number(&entry.max_per_subject),
        max_message_size: size(&entry.max_message_size),
        discard,
        duplicate_window,
        storage,
        compression: flag(&entry.compression, false),
        replicas: number(&entry.replicas).and_then(|n| u8::try_from(n).ok()).unwrap_or(1),
        direct: flag(&entry.direct, true),
        many_writers: writers(&entry, problems),
        features: entry.features.iter().filter(|(_, on)| on.value).map(|(f, _)| *f).collect(),
        consumers: Vec::new(),
        at: Location::from(&entry.name.span),
    };
    check_counters(&stream, &entry, problems);
    let mut consumers = consumers(&stream, &entry.consumers, problems);
    consumers.sort_by(|a, b| a.name.cmp(&b.name));
    stream.consumers = consumers;
    Declaration { stream, entry, subjects: places }
}

/// What nats-server refuses of a stream that counts.
fn check_counters(stream: &Stream, entry: &StreamEntry, problems: &Collector) {
    let switch = |feature: Feature| entry.features.iter().find(|(f, on)| *f == feature && on.value);
    let Some((_, counters)) = switch(Feature::Counters) else { return };
    let retention = entry.retention.as_ref().filter(|_| stream.retention != Retention::Limits);
    let discard = entry.discard.as_ref().filter(|_| stream.discard == Discard::New);
    let ttl = switch(Feature::MessageTtl).map(|(_, on)| &on.span);
    let others = [retention.map(|r| &r.span), discard.map(|d| &d.span), ttl];
    for other in others.into_iter().flatten() {
        problems.push(
            Problem::error("not-for-counters", "`counters` cannot stand beside this")
                .at(other, "nats-server refuses it in a stream that counts")
                .also(&counters.span, "it counts")
                .help("leave one of the two out"),
        );
    }
}

/// A subject that a stream may keep: a plain one, and none of the audit's.
fn subject(entry: &Spanned<String>, problems: &Collector) -> Option<Pattern> {
    let text = shown(&entry.value);
    let refuse = |code, label: &str, help: &str| {
        problems.push(
            Problem::error(code, format!("a stream may not keep `{text}`"))
                .at(&entry.span, label)
                .help(help),
        );
    };
    let pattern = match Pattern::parse(&entry.value) {
        Ok(pattern) => pattern,
        Err(error) => {
            problems.push(
                Problem::error("bad-subject", format!("`{text}` is not a subject: {error}"))
                    .at(&entry.span, "")
                    .help("a subject is tokens with dots between them, such as \"events.>\""),
            );
            return None;
        }
    };
    if pattern.starts_with_wildcard() {
        refuse(
            "system-subject",
            "it would keep `$KV`, `$JS`, `$SYS` and every inbox",
            "name the first token; write one entry for each",
        );
    } else if pattern.first_token().starts_with(['$', '_']) {
        refuse(
            "system-subject",
            "subjects that begin with `$` or `_` belong to the server and to inboxes",
            "declare a bucket with `[bucket.NAME]`, an object store with `[store.NAME]`",
        );
    } else if grant::reaches_audit(&pattern) {
        refuse("audit-subject", "this belongs to the audit streams", "name another subject");
    } else if !pattern.as_str().contains('.') {
        // An import without a wildcard has interest of its own: `chain-literal` in docs/attacks.md.
        refuse(
            "literal-import",
            "services reach it by an import without a wildcard, and JetStream would store there \
             whatever it answers anybody who names it as the reply subject",
            "give it a second token, such as \"jobs.new\"",
        );
    } else {
        return Some(pattern);
    }
    None
}

/// The reason for many writers, if there may be many.
fn writers(entry: &StreamEntry, problems: &Collector) -> Option<String> {
    let many = choice("writers", entry.writers.as_ref(), ["one", "many"], |w| w, problems)
        .unwrap_or("one");
    let reason = entry.reason.as_ref().filter(|reason| !reason.value.trim().is_empty());
    match (&entry.writers, &entry.reason, reason) {
        (Some(written), _, None) if many == "many" => problems.push(
            Problem::error("no-reason", "`writers = \"many\"` needs a `reason`")
                .at(&written.span, "")
                .help("add `reason = \"why\"`: it is shown in every report"),
        ),
        (Some(written), _, Some(reason)) if many == "many" => problems.push(
            Problem::note(
                "many-writers",
                format!("several services may write one subject of stream `{}`", entry.name.value),
            )
            .at(&written.span, reason.value.clone()),
        ),
        (_, Some(reason), _) => problems.push(
            Problem::error("needless-reason", "`reason` is for `writers = \"many\"`")
                .at(&reason.span, "this stream has one writer for each subject")
                .help("remove it"),
        ),
        _ => {}
    }
    (many == "many").then(|| reason.map(|reason| reason.value.clone()).unwrap_or_default())
}

fn consumers(stream: &Stream, entries: &[ConsumerEntry], problems: &Collector) -> Vec<Consumer> {
    let mut consumers = Vec::new();
    let mut filters: Vec<(Pattern, usize, &Span)> = Vec::new();
    for entry in entries {
        let Some(name) = name("consumer", &entry.name, problems) else { continue };
        let consumer = consumer(stream, name, entry, problems);
        let places = entry.filter.iter().flat_map(|list| &list.value).map(|f| &f.span);
        // A filter with a problem has no place in the list, and then nothing is compared.
        if entry.filter.as_ref().map_or(0, |list| list.value.len()) == consumer.filter.len() {
            let index = consumers.len();
            filters.extend(consumer.filter.iter().cloned().zip(places).map(|(f, s)| (f, index, s)));
            if consumer.filter.is_empty() {
                let all = stream.subjects.iter().cloned();
                filters.extend(all.map(|subject| (subject, index, &entry.name.span)));
            }
        }
        consumers.push(consumer);
    }
    let mut tree = PatternTree::new();
    for (i, (filter, ..)) in filters.iter().enumerate() {
        tree.insert(filter, i, i);
    }
    let mut said: BTreeSet<(usize, usize)> = BTreeSet::new();
    let Ok(conflicts) = tree.conflicts(MAX_PROBLEMS, &mut { MAX_STEPS }) else {
        problems.push(too_entangled(&format!("the filters of stream `{}`", stream.name)));
        return consumers;
    };
    for (a, b) in conflicts {
        let (Some((a, one, at)), Some((b, two, also))) =
            (filters.get(a.max(b)), filters.get(a.min(b)))
        else {
            continue;
        };
        let witness = a.overlap(b).map(|s| s.to_string()).unwrap_or_default();
        let name = |i: &usize| consumers.get(*i).map(|c| c.name.to_string()).unwrap_or_default();
        if one == two {
            problems.push(
                Problem::error(
                    "overlapping-filters",
                    format!("two filters of consumer `{}` have `{witness}`", name(one)),
                )
                .at(at, "again here")
                .also(also, "first here")
                .help("nats-server refuses that; remove one of the two, or narrow it"),
            );
        } else if stream.retention == Retention::WorkQueue && said.insert((*one, *two)) {
            problems.push(
                Problem::error(
                    "shared-work",
                    format!(
                        "consumers `{}` and `{}` would both take `{witness}`",
                        name(two),
                        name(one)
                    ),
                )
                .at(at, format!("`{}` takes it here", name(one)))
                .also(also, format!("`{}` takes it here", name(two)))
                .help(
                    "in a work queue each message is for one consumer: give each its own `filter`, \
                       or let several instances use one consumer",
                ),
            );
        }
    }
    consumers
}

fn consumer(
    stream: &Stream,
    name: StreamName,
    entry: &ConsumerEntry,
    problems: &Collector,
) -> Consumer {
    let filter: Vec<Pattern> = entry
        .filter
        .iter()
        .flat_map(|list| &list.value)
        .filter_map(|filter| self::filter(stream, filter, problems))
        .collect();
    if let Some(list) = entry.filter.as_ref().filter(|list| list.value.is_empty()) {
        problems.push(
            Problem::error("no-subjects", format!("`filter` of consumer `{name}` is empty"))
                .at(&list.span, "")
                .help("leave `filter` out for all of the stream"),
        );
    }
    let acks = [Ack::Explicit, Ack::All, Ack::None];
    let ack =
        choice("ack", entry.ack.as_ref(), acks, Ack::as_str, problems).unwrap_or(Ack::Explicit);
    let begins = [Deliver::All, Deliver::Last, Deliver::New, Deliver::LastPerSubject];
    let deliver = choice("deliver", entry.deliver.as_ref(), begins, Deliver::as_str, problems)
        .unwrap_or(Deliver::All);
    let replays = [Replay::Instant, Replay::Original];
    let replay = choice("replay", entry.replay.as_ref(), replays, Replay::as_str, problems)
        .unwrap_or(Replay::Instant);
    let makers = [MadeBy::Apply, MadeBy::Service];
    let made_by = choice("made_by", entry.made_by.as_ref(), makers, MadeBy::as_str, problems)
        .unwrap_or(MadeBy::Apply);
    let backoff: Vec<Duration> =
        entry.backoff.iter().flat_map(|l| &l.value).filter_map(|t| pause(t, problems)).collect();
    let number = |n: &Option<Spanned<i64>>| n.as_ref().and_then(|n| u32::try_from(n.value).ok());
    let consumer = Consumer {
        name,
        description: entry.description.as_ref().map(|text| text.value.clone()),
        filter,
        ack,
        ack_wait: entry.ack_wait.as_ref().map_or(USUAL_ACK_WAIT, |time| time.value),
        max_deliver: number(&entry.max_deliver),
        backoff,
        max_ack_pending: number(&entry.max_ack_pending),
        deliver,
        replay,
        inactive: entry.inactive.as_ref().map(|time| time.value),
        shared: entry.shared.as_ref().map(|reason| reason.value.clone()),
        made_by,
        at: Location::from(&entry.name.span),
    };
    for (key, time) in [("ack_wait", &entry.ack_wait), ("inactive", &entry.inactive)] {
        check_least(key, time.as_ref(), Duration::from_millis(1), "1ms", problems);
    }
    check_acks(&consumer, entry, problems);
    check_made(&consumer, entry, problems);
    if let Some(shared) = &entry.shared {
        problems.push(if shared.value.trim().is_empty() {
            Problem::error("no-reason", "`shared` needs a reason")
                .at(&shared.span, "")
                .help("say why several services use this consumer; it is shown in every report")
        } else {
            let message = format!(
                "several services may use consumer `{}` of stream `{}`",
                consumer.name, stream.name
            );
            Problem::note("shared-consumer", message).at(&shared.span, shared.value.clone())
        });
    }
    if stream.retention == Retention::WorkQueue {
        check_work(&consumer, entry, problems);
    }
    consumer
}

fn filter(stream: &Stream, entry: &Spanned<String>, problems: &Collector) -> Option<Pattern> {
    let text = shown(&entry.value);
    let problem = match Pattern::parse(&entry.value) {
        Ok(filter) if stream.subjects.iter().any(|s| filter.is_subset_of(s)) => {
            return Some(filter);
        }
        Ok(_) => {
            let kept: Vec<String> =
                stream.subjects.iter().take(5).map(|subject| format!("`{subject}`")).collect();
            let message = format!("filter `{text}` is not within one subject of its stream");
            Problem::error("filter-outside", message)
                .at(&entry.span, format!("stream `{}` keeps {}", stream.name, kept.join(", ")))
                .help("narrow it, write one for each, or leave `filter` out for all of the stream")
        }
        Err(error) => Problem::error("bad-subject", format!("`{text}` is not a subject: {error}"))
            .at(&entry.span, "")
            .help("a subject is tokens with dots between them, such as \"events.orders.>\""),
    };
    problems.push(problem);
    None
}

fn pause(entry: &Spanned<String>, problems: &Collector) -> Option<Duration> {
    let time = parse_duration(&entry.value).filter(|time| *time >= Duration::from_millis(1));
    if time.is_none() {
        problems.push(
            Problem::error(
                "bad-duration",
                format!("`{}` is not a time to wait", shown(&entry.value)),
            )
            .at(&entry.span, "expected a string such as \"90s\" or \"15m\", 1ms or more"),
        );
    }
    time
}

fn check_acks(consumer: &Consumer, entry: &ConsumerEntry, problems: &Collector) {
    if consumer.ack == Ack::None {
        let waits = [
            ("ack_wait", entry.ack_wait.as_ref().map(|v| &v.span)),
            ("backoff", entry.backoff.as_ref().map(|v| &v.span)),
            ("max_ack_pending", entry.max_ack_pending.as_ref().map(|v| &v.span)),
        ];
        for (key, span) in waits {
            let Some(span) = span else { continue };
            problems.push(
                Problem::error("without-acks", format!("`{key}` needs acknowledgements"))
                    .at(span, "`ack = \"none\"`: nothing is waited for")
                    .help("remove it, or write `ack = \"explicit\"`"),
            );
        }
    }
    if let (Some(most), Some(list)) = (consumer.max_deliver, &entry.backoff)
        && consumer.backoff.len() > most as usize
    {
        problems.push(
            Problem::error("out-of-range", "`backoff` has more times than deliveries")
                .at(&list.span, format!("`max_deliver` is {most}"))
                .help("nats-server refuses that; remove times, or raise `max_deliver`"),
        );
    }
    if consumer.deliver == Deliver::LastPerSubject
        && consumer.filter.is_empty()
        && let Some(deliver) = &entry.deliver
    {
        problems.push(
            Problem::error("no-filter", "`deliver = \"last_per_subject\"` needs a `filter`")
                .at(&deliver.span, "")
                .help(
                    "nats-server refuses it without; write `filter`, all of the stream if need be",
                ),
        );
    }
}

/// A consumer that its service makes has the settings that its client gives it. Only the filter is
/// held by a permission, and only if it is one.
fn check_made(consumer: &Consumer, entry: &ConsumerEntry, problems: &Collector) {
    let Some(made_by) = entry.made_by.as_ref().filter(|_| consumer.made_by == MadeBy::Service)
    else {
        return;
    };
    let refuse = |span: &Span, message: &str, label: &str| {
        problems.push(
            Problem::error("not-for-made", message)
                .at(span, label)
                .also(&made_by.span, "the service makes the consumer")
                .help("change this, or let `state apply` make the consumer: remove `made_by`"),
        );
    };
    let keys = [
        ("ack", entry.ack.as_ref().map(|v| &v.span)),
        ("ack_wait", entry.ack_wait.as_ref().map(|v| &v.span)),
        ("max_deliver", entry.max_deliver.as_ref().map(|v| &v.span)),
        ("backoff", entry.backoff.as_ref().map(|v| &v.span)),
        ("max_ack_pending", entry.max_ack_pending.as_ref().map(|v| &v.span)),
        ("deliver", entry.deliver.as_ref().map(|v| &v.span)),
        ("replay", entry.replay.as_ref().map(|v| &v.span)),
        ("inactive", entry.inactive.as_ref().map(|v| &v.span)),
    ];
    for (key, span) in keys {
        let Some(span) = span else { continue };
        let message = format!("`{key}` would have no effect");
        refuse(span, &message, "the client of the service chooses it");
    }
    if let Some(shared) = &entry.shared {
        refuse(
            &shared.span,
            "a consumer that a service makes cannot be `shared`",
            "another service could not make it, and would depend on this one",
        );
    }
    let Some(list) = &entry.filter else { return };
    if list.value.len() > 1 {
        refuse(
            &list.span,
            "a consumer that a service makes has one filter at most",
            "several are in the body of the request, where no permission sees them",
        );
    }
    if let (Some(filter), Some(written)) = (consumer.filter.first(), list.value.first())
        && filter.ends_in_star()
    {
        refuse(
            &written.span,
            "the filter of a consumer that a service makes cannot end in `*`",
            "nats-server lets a client write `>` in its place",
        );
    }
}

/// What nats-server asks of the consumers of a work queue.
fn check_work(consumer: &Consumer, entry: &ConsumerEntry, problems: &Collector) {
    let refuse = |span: &Span, message: &str, help: &str| {
        problems.push(
            Problem::error("not-for-work", message)
                .at(span, "its stream is a work queue")
                .help(help),
        );
    };
    if let Some(ack) = entry.ack.as_ref().filter(|_| consumer.ack != Ack::Explicit) {
        refuse(
            &ack.span,
            "a work queue needs `ack = \"explicit\"`",
            "remove `ack`: a message is done when it is acknowledged",
        );
    }
    if let Some(deliver) = entry.deliver.as_ref().filter(|_| consumer.deliver != Deliver::All) {
        refuse(
            &deliver.span,
            "a work queue needs `deliver = \"all\"`",
            "remove `deliver`: what a consumer left out would stay for ever",
        );
    }
}

/// A message is kept by one stream.
fn check_apart(streams: &[Declaration], problems: &Collector) {
    let mut all: Vec<(&Declaration, &Pattern, &Span)> = Vec::new();
    for stream in streams {
        let subjects = stream.stream.subjects.iter().zip(&stream.subjects);
        all.extend(subjects.map(|(subject, span)| (stream, subject, span)));
    }
    let mut tree = PatternTree::new();
    for (i, (_, subject, _)) in all.iter().enumerate() {
        tree.insert(subject, i, i);
    }
    let Ok(conflicts) = tree.conflicts(MAX_PROBLEMS, &mut { MAX_STEPS }) else {
        problems.push(too_entangled("the subjects of the streams"));
        return;
    };
    for (a, b) in conflicts {
        let (Some((second, b, at)), Some((first, a, also))) =
            (all.get(a.max(b)), all.get(a.min(b)))
        else {
            continue;
        };
        let witness = a.overlap(b).map(|s| s.to_string()).unwrap_or_default();
        let (first, second) = (&first.stream.name, &second.stream.name);
        problems.push(if first == second {
            Problem::error(
                "two-streams",
                format!("two subjects of stream `{first}` have `{witness}`"),
            )
            .at(at, "again here")
            .also(also, "first here")
            .help("nats-server refuses that; remove one of the two, or narrow it")
        } else {
            Problem::error(
                "two-streams",
                format!("streams `{first}` and `{second}` would both keep `{witness}`"),
            )
            .at(at, format!("`{second}` keeps it here"))
            .also(also, format!("`{first}` keeps it here"))
            .help(
                "a message is kept by one stream, and nats-server refuses a second: take the \
                   subject out of one of the two",
            )
        });
    }
}

fn too_entangled(what: &str) -> Problem {
    Problem::error("too-entangled", format!("{what} take too long to compare"))
        .help("use fewer `*`, or more streams")
}

/// What a service may write into a stream.
struct Written<'d> {
    subjects: Pattern,
    service: usize,
    place: &'d Place,
}

/// Who writes into which stream: a service by its index, and the first of its rules that does.
pub type Writers<'p> = BTreeMap<(usize, &'p StreamName), &'p Place>;

/// Holds what services publish, request and answer against the streams that keep it. Gives who
/// writes into each.
pub fn check_use<'p>(
    streams: &'p [Declaration],
    drafts: &'p [Draft],
    problems: &Collector,
) -> Writers<'p> {
    check_use_within(streams, drafts, MAX_STEPS, problems)
}

fn check_use_within<'p>(
    streams: &'p [Declaration],
    drafts: &'p [Draft],
    mut steps: usize,
    problems: &Collector,
) -> Writers<'p> {
    let mut writers = Writers::new();
    // Neither a stream's subject nor a service's begins with a wildcard.
    let mut kept: HashMap<&str, Vec<(usize, &Pattern, &Span)>> = HashMap::new();
    for (index, stream) in streams.iter().enumerate() {
        for (subject, span) in stream.stream.subjects.iter().zip(&stream.subjects) {
            kept.entry(subject.first_token()).or_default().push((index, subject, span));
        }
    }
    let mut written: BTreeMap<usize, Vec<Written<'_>>> = BTreeMap::new();
    for (service, draft) in drafts.iter().enumerate() {
        for (rule, place) in draft.rules() {
            let (pattern, writes) = match &rule.access {
                // A request is a message like any other.
                Access::Publishes(pattern) | Access::Calls(pattern) => (pattern, true),
                Access::Answers(pattern) => (pattern, false),
                _ => continue,
            };
            for (index, subject, span) in kept.get(pattern.first_token()).into_iter().flatten() {
                let Some(left) = steps.checked_sub(1) else {
                    // What cannot be shown to have one writer is refused.
                    problems.push(too_entangled("streams, and what services write into them,"));
                    return writers;
                };
                steps = left;
                let Some(subjects) = pattern.intersection(subject) else { continue };
                let Some(stream) = streams.get(*index) else { continue };
                if writes {
                    let writes = Written { subjects, service, place };
                    written.entry(*index).or_default().push(writes);
                    writers.entry((service, &stream.stream.name)).or_insert(place);
                } else {
                    problems.push(also_answered(draft, &rule.access, place, stream, span));
                }
            }
        }
    }
    for (index, stream) in streams.iter().enumerate() {
        let written = written.get(&index).map_or(&[][..], Vec::as_slice);
        check_writers(stream, written, drafts, &mut steps, problems);
    }
    writers
}

fn also_answered(
    draft: &Draft,
    access: &Access,
    place: &Place,
    stream: &Declaration,
    span: &Span,
) -> Problem {
    let name = &stream.stream.name;
    Problem::warning(
        "stream-answers",
        format!("`{}` {access}, and stream `{name}` answers there, too", draft.service.name),
    )
    .at(&place.span, "a caller takes the first answer, which may be the stream's acknowledgement")
    .also(span, format!("`{name}` keeps it here"))
    .help("take the subject out of the stream, or answer on another one")
}

fn check_writers(
    declared: &Declaration,
    written: &[Written<'_>],
    drafts: &[Draft],
    steps: &mut usize,
    problems: &Collector,
) {
    let stream = &declared.stream;
    let name = |service: usize| {
        drafts.get(service).map(|draft| draft.service.name.as_ref()).unwrap_or_default()
    };
    let services: BTreeSet<usize> = written.iter().map(|w| w.service).collect();
    let mut writers = services.iter().copied();
    match (writers.next(), writers.next()) {
        (None, _) if stream.subjects.is_empty() => {}
        (None, _) => problems.push(
            Problem::note(
                "unwritten-stream",
                format!("nobody writes into stream `{}`", stream.name),
            )
            .at(&declared.entry.name.span, "no service publishes a subject of it"),
        ),
        (Some(first), Some(second)) => {
            check_hardened(declared, [name(first), name(second)], problems);
        }
        _ => {}
    }
    if stream.many_writers.is_some() {
        return;
    }
    let mut tree = PatternTree::new();
    for (i, w) in written.iter().enumerate() {
        tree.insert(&w.subjects, i, w.service);
    }
    let Ok(conflicts) = tree.conflicts(MAX_PROBLEMS, steps) else {
        problems.push(too_entangled(&format!("the writers of stream `{}`", stream.name)));
        return;
    };
    for (a, b) in conflicts {
        let (Some(second), Some(first)) = (written.get(a.max(b)), written.get(a.min(b))) else {
            continue;
        };
        let witness =
            first.subjects.overlap(&second.subjects).map(|s| s.to_string()).unwrap_or_default();
        let (one, two) = (name(first.service), name(second.service));
        problems.push(
            Problem::error(
                "two-writers",
                format!(
                    "`{one}` and `{two}` would both write `{witness}` of stream `{}`",
                    stream.name
                ),
            )
            .at(&second.place.span, format!("`{two}` writes it here"))
            .also(&first.place.span, format!("`{one}` writes it here"))
            .help(
                "a subject of a stream has one writer: take it out of one of the two, or declare \
                   the stream with `writers = \"many\"` and a `reason`",
            ),
        );
    }
}

/// Each of these settings keeps one writer from harming the others, whatever subjects they write.
fn check_hardened(declared: &Declaration, writers: [&str; 2], problems: &Collector) {
    let Declaration { stream, entry, .. } = declared;
    let [first, second] = writers;
    let refuse = |span: Option<&Span>, harm: &str, help: &str| {
        let name = &stream.name;
        problems.push(
            Problem::error(
                "unsafe-shared-stream",
                format!("stream `{name}` is not safe for several writers, such as `{first}` and `{second}`"),
            )
            .at(span.unwrap_or(&entry.name.span), harm)
            .help(help),
        );
    };
    if stream.duplicate_window > LEAST_WINDOW {
        refuse(
            entry.duplicate_window.as_ref().map(|w| &w.span),
            "within this time, one writer can have another's message dropped as a duplicate (default 2m)",
            "add `duplicate_window = \"100ms\"`, the least that nats-server takes",
        );
    }
    let caps = [
        ("max_bytes", stream.max_bytes.is_some(), entry.max_bytes.as_ref().map(|c| &c.span)),
        (
            "max_messages",
            stream.max_messages.is_some(),
            entry.max_messages.as_ref().map(|c| &c.span),
        ),
    ];
    for (key, _, span) in caps.iter().filter(|(_, capped, _)| *capped) {
        if stream.discard == Discard::Old {
            refuse(
                *span,
                "when it is full, one writer's messages drop those of the others",
                &format!(
                    "write `discard = \"new\"`, or leave `{key}` out; `max_per_subject` and `max_age` are safe"
                ),
            );
        } else if let Some(span) = span {
            problems.push(
                Problem::warning(
                    "shared-cap",
                    format!("one writer can fill stream `{}`", stream.name),
                )
                .at(span, "when it is full, nobody's messages are stored")
                .help(format!("leave `{key}` out, or give each writer a stream")),
            );
        }
    }
    for (feature, on) in entry.features.iter().filter(|(_, on)| on.value) {
        if let Some(harm) = Feature::harm(*feature) {
            refuse(
                Some(&on.span),
                harm,
                &format!("leave `{}` out, or give each writer a stream", feature.as_str()),
            );
        }
    }
}
