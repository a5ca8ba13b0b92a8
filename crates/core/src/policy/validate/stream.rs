//! Declared streams with their consumers, and whether what services do with them is safe.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::draft::Draft;
use super::durable::{self, MAX_STEPS, too_entangled};
use super::names::{defined_twice, stream_name};
use super::settings::{Durables, OfStream, Place, choice, domain, shown};
use super::times::{LEAST_WINDOW, check_least, window};
use crate::diagnostics::toml::nearest;
use crate::diagnostics::{Collector, MAX_PROBLEMS, Problem, Span, Spanned};
use crate::grant::{self, AuditStreams};
use crate::policy::document::{ConsumerEntry, StreamEntry};
use crate::policy::model::{
    Access, Consumer, Discard, Feature, Location, Retention, Storage, Stream, StreamName,
};
use solewriter_types::subject::Pattern;
use solewriter_types::subject::tree::PatternTree;

/// The largest `max_msg_size` that a stream's configuration can say.
const LARGEST_MESSAGE: u64 = i32::MAX as u64;

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
        let Some(name) = stream_name("stream", &entry.name, problems) else { continue };
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
        streams.push(stream(name, entry, audit, problems));
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

fn stream(
    name: StreamName,
    entry: StreamEntry,
    audit: &AuditStreams,
    problems: &Collector,
) -> Declaration {
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
        domain: domain(entry.domain.as_ref(), audit, problems),
        features: entry.features.iter().filter(|(_, on)| on.value).map(|(f, _)| *f).collect(),
        consumers: Vec::new(),
        at: Location::from(&entry.name.span),
    };
    check_counters(&stream, &entry, problems);
    let mut consumers = durable::read(&stream, &entry.consumers, problems);
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

/// What a service may write into a stream.
struct Written<'d> {
    subjects: Pattern,
    service: usize,
    place: &'d Place,
}

/// Who writes into which stream: a service by its index, and the first of its rules that does.
pub type Writers<'p> = BTreeMap<(usize, &'p StreamName), &'p Place>;

/// Holds what services publish, request and answer against the streams that keep it. Gives who
/// writes into each. The search takes its steps from `steps`.
pub fn check_use<'p>(
    streams: &'p [Declaration],
    drafts: &'p [Draft],
    steps: &mut usize,
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
            let kept = kept.get(pattern.first_token()).map_or(&[][..], Vec::as_slice);
            for (index, subject, span) in kept {
                let Some(left) = steps.checked_sub(1) else {
                    // What cannot be shown to have one writer is refused.
                    problems.push(too_entangled("streams, and what services write into them,"));
                    return writers;
                };
                *steps = left;
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
            if let Some(problem) = partly_kept(draft, &rule.access, place, streams, kept) {
                problems.push(problem);
            }
        }
    }
    for (index, stream) in streams.iter().enumerate() {
        let written = written.get(&index).map_or(&[][..], Vec::as_slice);
        check_writers(stream, written, drafts, steps, problems);
    }
    writers
}

/// A part of what a service publishes that no stream keeps, although one keeps the rest.
fn partly_kept(
    draft: &Draft,
    access: &Access,
    place: &Place,
    streams: &[Declaration],
    kept: &[(usize, &Pattern, &Span)],
) -> Option<Problem> {
    let Access::Publishes(pattern) = access else { return None };
    let (index, _, span) = kept.iter().find(|(_, kept, _)| kept.overlaps(pattern))?;
    // With these for its wildcards, it is a subject.
    let filled = |rest: &str| {
        let tokens = pattern.as_str().split('.').map(|token| match token {
            "*" => "any",
            ">" => rest,
            literal => literal,
        });
        Pattern::parse(&tokens.collect::<Vec<_>>().join(".")).ok()
    };
    let mut subjects = [filled("any"), filled("any.any")].into_iter().flatten();
    let lost = subjects.find(|s| !kept.iter().any(|(_, kept, _)| s.is_subset_of(kept)))?;
    let name = &streams.get(*index)?.stream.name;
    Some(
        Problem::warning(
            "partly-kept",
            format!("`{}` {access}, and no stream keeps `{lost}`", draft.service.name),
        )
        .at(&place.span, "who waits for an acknowledgement there gets none")
        .also(span, format!("`{name}` keeps a part of it"))
        .help("let the stream keep all of it, or name what the service publishes more narrowly"),
    )
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

/// Whether several services may write different subjects of a stream, and none harms another.
pub fn is_hardened(declared: &Declaration) -> bool {
    let problems = Collector::new();
    check_hardened(declared, ["", ""], &problems);
    !problems.has_errors()
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
