//! The declared durable consumers of one stream, and whether nats-server takes them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::names::stream_name;
use super::settings::{choice, shown};
use super::times::check_least;
use crate::diagnostics::toml::parse_duration;
use crate::diagnostics::{Collector, MAX_PROBLEMS, Problem, Span, Spanned};
use crate::policy::document::ConsumerEntry;
use crate::policy::model::{
    Ack, Consumer, Deliver, Location, MadeBy, Priority, PriorityPolicy, Push, Replay, Retention,
    Stream, StreamName,
};
use solewriter_types::subject::Pattern;
use solewriter_types::subject::tree::PatternTree;

/// The longest search for subjects that two have, in pairs of places.
pub const MAX_STEPS: usize = 20_000_000;

/// The least `idle_heartbeat` that nats-server takes.
const LEAST_HEARTBEAT: Duration = Duration::from_millis(100);

/// What nats-server takes as `ack_wait` when there is none.
const USUAL_ACK_WAIT: Duration = Duration::from_secs(30);

/// Reads the declared consumers of a stream, in the order written.
pub fn read(stream: &Stream, entries: &[ConsumerEntry], problems: &Collector) -> Vec<Consumer> {
    let mut consumers = Vec::new();
    let mut filters: Vec<(Pattern, usize, &Span)> = Vec::new();
    for entry in entries {
        let Some(name) = stream_name("consumer", &entry.name, problems) else { continue };
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
    let deliver =
        choice("deliver", entry.deliver.as_ref(), Deliver::ALL, Deliver::as_str, problems)
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
        start_sequence: entry.start_sequence.as_ref().and_then(|n| u64::try_from(n.value).ok()),
        start_time: entry.start_time.as_ref().map(|time| time.value),
        push: push(entry, problems),
        priority: priority(entry, problems),
        at: Location::from(&entry.name.span),
    };
    for (key, time) in [
        ("ack_wait", &entry.ack_wait),
        ("inactive", &entry.inactive),
        ("priority_timeout", &entry.priority_timeout),
    ] {
        check_least(key, time.as_ref(), Duration::from_millis(1), "1ms", problems);
    }
    check_least("heartbeat", entry.heartbeat.as_ref(), LEAST_HEARTBEAT, "100ms", problems);
    check_start(&consumer, entry, problems);
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

/// A key that does nothing without another.
fn needs(key: &str, span: &Span, other: &str, help: &str) -> Problem {
    Problem::error("has-no-effect", format!("`{key}` needs `{other}`")).at(span, "").help(help)
}

/// A name that JetStream takes for a group: one token.
fn group(key: &str, name: &Spanned<String>, problems: &Collector) -> Option<String> {
    if StreamName::parse(&name.value).is_ok() {
        return Some(name.value.clone());
    }
    let message = format!("`{}` cannot be a `{key}`", shown(&name.value));
    problems.push(
        Problem::error("bad-name", message)
            .at(&name.span, "")
            .help("use 1 to 64 letters, digits, `_` and `-`"),
    );
    None
}

/// How a consumer sends, if it is told to.
fn push(entry: &ConsumerEntry, problems: &Collector) -> Option<Push> {
    const PUSHED: &str = "only a push consumer has it: add `push = true`, or remove it";
    let Some(on) = entry.push.as_ref().filter(|push| push.value) else {
        for (key, span) in [
            ("group", entry.group.as_ref().map(|v| &v.span)),
            ("heartbeat", entry.heartbeat.as_ref().map(|v| &v.span)),
            ("flow_control", entry.flow_control.as_ref().map(|v| &v.span)),
        ] {
            if let Some(span) = span {
                problems.push(needs(key, span, "push = true", PUSHED));
            }
        }
        return None;
    };
    let push = Push {
        group: entry.group.as_ref().and_then(|name| group("group", name, problems)),
        heartbeat: entry.heartbeat.as_ref().map(|time| time.value),
        flow_control: entry.flow_control.as_ref().is_some_and(|flag| flag.value),
    };
    if let Some(flag) =
        entry.flow_control.as_ref().filter(|flag| flag.value && push.heartbeat.is_none())
    {
        let help = "nats-server refuses it without; write `heartbeat = \"5s\"`";
        problems.push(needs("flow_control", &flag.span, "heartbeat", help));
    }
    if let (Some(group), Some(heartbeat)) = (&entry.group, &entry.heartbeat) {
        problems.push(
            Problem::error("not-for-groups", "`heartbeat` cannot stand beside `group`")
                .at(&heartbeat.span, "one client of the group would get it, and the others wait")
                .also(&group.span, "the group")
                .help("client libraries refuse such a consumer: leave one of the two out"),
        );
    }
    if let Some(priority) = &entry.priority {
        problems.push(
            Problem::error("not-for-push", "a push consumer has no priority groups")
                .at(&priority.span, "nats-server refuses it")
                .also(&on.span, "it sends its messages")
                .help("leave one of the two out"),
        );
    }
    Some(push)
}

fn priority(entry: &ConsumerEntry, problems: &Collector) -> Option<Priority> {
    const POLICY: &str =
        "write `priority = \"overflow\"`, `\"pinned_client\"` or `\"prioritized\"`, or remove it";
    let Some(written) = &entry.priority else {
        for (key, span) in [
            ("priority_group", entry.priority_group.as_ref().map(|v| &v.span)),
            ("priority_timeout", entry.priority_timeout.as_ref().map(|v| &v.span)),
        ] {
            if let Some(span) = span {
                problems.push(needs(key, span, "priority", POLICY));
            }
        }
        return None;
    };
    let policies = PriorityPolicy::ALL;
    let policy = choice("priority", Some(written), policies, PriorityPolicy::as_str, problems)?;
    let Some(name) = &entry.priority_group else {
        let help = "clients name their group when they ask for messages";
        problems.push(needs("priority", &written.span, "priority_group", help));
        return None;
    };
    if let Some(timeout) =
        entry.priority_timeout.as_ref().filter(|_| policy != PriorityPolicy::PinnedClient)
    {
        let pinned = "priority = \"pinned_client\"";
        let help = "no other policy pins a client: remove it";
        problems.push(needs("priority_timeout", &timeout.span, pinned, help));
    }
    // JetStream takes 16 characters.
    if name.value.len() > 16 {
        problems.push(
            Problem::error("out-of-range", "`priority_group` is longer than 16 characters")
                .at(&name.span, "")
                .help("nats-server refuses it: shorten it"),
        );
    }
    Some(Priority {
        policy,
        group: group("priority_group", name, problems)?,
        timeout: entry.priority_timeout.as_ref().map(|time| time.value),
    })
}

/// A place to begin belongs to a way to begin there.
fn check_start(consumer: &Consumer, entry: &ConsumerEntry, problems: &Collector) {
    for (key, span, way) in [
        (
            "start_sequence",
            entry.start_sequence.as_ref().map(|v| &v.span),
            Deliver::ByStartSequence,
        ),
        ("start_time", entry.start_time.as_ref().map(|v| &v.span), Deliver::ByStartTime),
    ] {
        let word = format!("deliver = {:?}", way.as_str());
        match (span, &entry.deliver) {
            (Some(span), _) if consumer.deliver != way => {
                let help = "it says where the consumer begins: add the other, or remove this";
                problems.push(needs(key, span, &word, help));
            }
            (None, Some(deliver)) if consumer.deliver == way => {
                let help = format!("say where it begins: add `{key}`");
                problems.push(needs(&word, &deliver.span, key, &help));
            }
            _ => {}
        }
    }
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
        ("start_sequence", entry.start_sequence.as_ref().map(|v| &v.span)),
        ("start_time", entry.start_time.as_ref().map(|v| &v.span)),
        ("priority", entry.priority.as_ref().map(|v| &v.span)),
    ];
    if let Some(push) = entry.push.as_ref().filter(|push| push.value) {
        refuse(
            &push.span,
            "a consumer that a service makes cannot be a push consumer",
            "where it delivers is in the body of the request, where no permission sees it",
        );
    }
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

/// That subjects cannot be held against each other.
pub fn too_entangled(what: &str) -> Problem {
    Problem::error("too-entangled", format!("{what} take too long to compare"))
        .help("use fewer `*`, or more streams")
}
