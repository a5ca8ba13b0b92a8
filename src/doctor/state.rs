//! What the policy says, and what there is: buckets, audit events, open connections.

use serde_json::Value;

use super::Report;
use super::look::without;
use super::seen::{Connection, Role, Seen};
use crate::audit::event::words;
use crate::broker::CONSUMERS_NEED;
use crate::buckets::{Action, Plan, Stream};
use crate::issue::ConnectionName;
use crate::sessions::consumers::verdict::Owner;
use crate::source::toml::show_duration;
use crate::subject::Pattern;

/// Where audit events are published.
const EVENTS: &str = "audit.events.>";

/// How many consumers are named, at most.
const MOST_CONSUMERS: usize = 8;

/// Judges what there is against the policy.
pub fn judge(seen: &Seen, report: &mut Report) {
    match &seen.policy {
        Ok(policy) => report.ok("policy", format!("it holds, revision {}", policy.revision())),
        Err(blind) if seen.policy_is_wrong => report.problem("policy", &blind.why, &blind.mend),
        Err(blind) => report.blind("policy", blind),
    }
    for weakness in &seen.policy_bucket {
        report.problem(
            "policy",
            format!("the bucket that it is in: {weakness}"),
            "change that on its stream, as a user who may: `solewriter policy push` made it otherwise",
        );
    }
    buckets(seen, report);
    audit(seen, report);
    connections(seen, report);
    consumers(seen, report);
}

fn buckets(seen: &Seen, report: &mut Report) {
    let (policy, streams) = match (&seen.policy, &seen.streams) {
        (Ok(policy), Ok(streams)) => (policy, streams),
        (_, Err(blind)) | (Err(blind), _) => return report.blind("buckets", blind),
    };
    let plan = Plan::of(policy, streams);
    let mut wrong: Vec<String> = Vec::new();
    for bucket in plan.buckets.iter().filter(|bucket| bucket.action != Action::Keep) {
        let fields: Vec<&str> =
            bucket.changes.iter().map(|c| c.word.unwrap_or(c.field.as_str())).collect();
        wrong.push(match bucket.action {
            Action::Create => format!("{} is not there", bucket.bucket),
            _ => format!("{} is not as declared: {}", bucket.bucket, fields.join(", ")),
        });
    }
    let dangers = plan.others.iter().filter_map(|o| Some((&o.stream, o.danger.as_ref()?)));
    wrong.extend(dangers.map(|(stream, danger)| format!("stream {stream}: {danger}")));
    if !wrong.is_empty() {
        report.problem(
            "buckets",
            wrong.join("\n"),
            "see `solewriter buckets plan`, then `solewriter buckets apply`",
        );
    }
    let undeclared: Vec<&str> = plan.others.iter().filter_map(|o| o.bucket.as_deref()).collect();
    if !undeclared.is_empty() {
        report.warning(
            "buckets",
            format!("not declared, so nobody may use them: {}", undeclared.join(", ")),
            "declare each as [bucket.NAME], or delete it",
        );
    }
    if wrong.is_empty() {
        report.ok("buckets", format!("{} as declared", plan.buckets.len()));
    }
}

fn audit(seen: &Seen, report: &mut Report) {
    let streams = match &seen.streams {
        Ok(streams) => streams,
        Err(blind) => return report.blind("audit", blind),
    };
    let Ok(events) = Pattern::parse(EVENTS) else { return };
    let takes = |stream: &&Stream| {
        stream.subjects().any(|s| Pattern::parse(s).is_ok_and(|s| events.is_subset_of(&s)))
    };
    let apply = "`solewriter buckets apply` creates it";
    let stream = match &seen.settings.audit {
        None => match streams.iter().find(takes) {
            Some(stream) => stream,
            None => {
                return report.warning(
                    "audit",
                    format!("no stream takes `{EVENTS}`: what is refused is in logs alone"),
                    format!("set [audit] stream and spool; {apply}"),
                );
            }
        },
        Some(name) => match streams.iter().find(|stream| stream.name() == name) {
            Some(stream) if takes(&stream) => stream,
            Some(_) => {
                return report.problem(
                    "audit",
                    format!("{name} does not take `{EVENTS}`"),
                    format!("give it that subject, or delete it: {apply}"),
                );
            }
            None => {
                return report.problem(
                    "audit",
                    format!(
                        "there is no stream {name}: events wait in the spools of the instances"
                    ),
                    apply,
                );
            }
        },
    };
    let denies = |field: &str| stream.config.get(field).and_then(Value::as_bool) == Some(true);
    let open: Vec<&str> =
        ["deny_delete", "deny_purge"].into_iter().filter(|field| !denies(field)).collect();
    if open.is_empty() {
        report.ok("audit", format!("{} takes {EVENTS}", stream.name()));
    } else {
        report.problem(
            "audit",
            format!(
                "events can be removed from {}: it has no {}",
                stream.name(),
                open.join(", no ")
            ),
            format!("set {} on the stream", open.join(" and ")),
        );
    }
}

/// The revision of the policy that a connection was let in by; `None` where solewriter did not.
fn revision(connection: &Connection) -> Option<String> {
    ConnectionName::parse(&connection.authorized_user).map(|name| name.revision)
}

fn connections(seen: &Seen, report: &mut Report) {
    let longest = seen.policy.as_ref().map_or(seen.settings.lifetime, |policy| {
        let all = policy.services().iter().map(|s| s.lifetime.unwrap_or(seen.settings.lifetime));
        all.max().unwrap_or(seen.settings.lifetime)
    });
    let longest = show_duration(longest);
    let system = seen.users.iter().any(|u| u.role == Role::System && u.key.is_some());
    if !system {
        report.warning(
            "connections",
            format!(
                "without a system user, an open connection keeps permissions that the policy takes \
                 away until they expire: up to {longest}"
            ),
            without(Role::System).mend + " and where `serve` runs, or shorten `lifetime`",
        );
        return;
    }
    let (connections, policy) = match (&seen.connections, &seen.policy) {
        (Ok(connections), Ok(policy)) => (connections, policy),
        (Err(blind), _) | (_, Err(blind)) => return report.blind("connections", blind),
    };
    let current = policy.revision().as_str();
    let older = connections.iter().filter(|c| revision(c).is_some_and(|r| r != current)).count();
    let all = connections.len();
    report.ok(
        "connections",
        format!("{all} open, {older} with permissions of another revision than {current}; they last up to {longest}"),
    );
}

fn consumers(seen: &Seen, report: &mut Report) {
    let survey = match &seen.consumers {
        Ok(Ok(survey)) => survey,
        Ok(Err(error)) => {
            return report.problem(
                "consumers",
                format!(
                    "they cannot be listed, so what is watched outlives the right to it: {error}"
                ),
                format!("see to it that {CONSUMERS_NEED}, and reload nats-server"),
            );
        }
        Err(blind) => return report.blind("consumers", blind),
    };
    let told = |urgent: bool| {
        let of = survey.doomed.iter().filter(|(_, doomed)| doomed.cause.is_urgent() == urgent);
        let mut lines: Vec<String> = of
            .map(|(stream, doomed)| {
                let name = words(&doomed.consumer.name);
                match &doomed.owner {
                    Owner::Service(service) => {
                        format!("{stream}: {name}, of {service}: {}", doomed.cause.explain())
                    }
                    Owner::Nobody => format!("{stream}: {name}: {}", doomed.cause.explain()),
                }
            })
            .collect();
        let more = lines.len().saturating_sub(MOST_CONSUMERS);
        if more > 0 {
            lines.truncate(MOST_CONSUMERS);
            lines.push(format!("and {more} more"));
        }
        lines
    };
    let mend = "the instance that sweeps deletes them within `[sessions] every`: if they stay, see \
                its log for `consumers_unseen`, `consumers_untold` and `consumer_deleted`";
    let (urgent, strangers) = (told(true), told(false));
    if !urgent.is_empty() {
        report.problem("consumers", urgent.join("\n"), mend);
    }
    if !strangers.is_empty() {
        report.warning("consumers", strangers.join("\n"), mend);
    }
    if !survey.untold.is_empty() {
        let untold: Vec<String> =
            survey.untold.iter().map(|(stream, why)| format!("{stream}: {why}")).collect();
        report.warning(
            "consumers",
            format!("not all were listed: {}", untold.join("; ")),
            "ask again; the server may be busy",
        );
    }
    if urgent.is_empty() && strangers.is_empty() && survey.untold.is_empty() {
        report.ok("consumers", format!("{} on {} streams", survey.kept, survey.streams));
    }
}
