//! What the policy says, and what there is: buckets, audit events, open connections.

use std::fmt::Write as _;

use serde_json::Value;

use super::Report;
use super::look::without;
use super::seen::{Connection, Role, Seen};
use crate::audit::stream;
use crate::buckets::{Action, BucketPlan, Elsewhere, Kind, Plan};
use crate::nats::connect::CONSUMERS_NEED;
use crate::sessions::consumers::verdict::Owner;
use solewriter_core::callout::issue::ConnectionName;
use solewriter_core::diagnostics::toml::show_duration;
use solewriter_types::audit_event::words;

/// How many consumers are named, at most.
const MOST_CONSUMERS: usize = 8;

/// Judges what there is against the policy.
pub fn judge(seen: &Seen, report: &mut Report) {
    match &seen.policy {
        Ok(policy) => report.ok("policy", format!("it is valid, revision {}", policy.revision())),
        Err(blind) if seen.policy_is_wrong => report.problem("policy", &blind.why, &blind.mend),
        Err(blind) => report.blind("policy", blind),
    }
    for weakness in &seen.policy_bucket {
        report.problem(
            "policy",
            format!("the bucket that it is in: {weakness}"),
            "change this setting of its stream; `solewriter policy push` creates it correctly",
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
    let plan = Plan::of(policy, streams).placed_in(seen.settings.cluster.as_deref());
    let plan = plan.in_domain(policy, seen.domain.as_deref());
    let mut wrong: Vec<String> = Vec::new();
    for bucket in plan.declared().filter(|bucket| bucket.action != Action::Keep) {
        let name = match bucket.kind {
            Kind::Bucket => bucket.bucket.clone(),
            kind => format!("{} {}", kind.as_str(), bucket.title()),
        };
        let fields: Vec<&str> =
            bucket.changes.iter().map(|c| c.word.unwrap_or(c.field.as_str())).collect();
        wrong.push(match bucket.action {
            Action::Create => format!("{name} is not there"),
            _ => format!("{name} is not as declared: {}", fields.join(", ")),
        });
    }
    let dangers = plan.others.iter().filter_map(|o| Some((&o.stream, o.danger.as_ref()?)));
    wrong.extend(dangers.map(|(stream, danger)| format!("stream {stream}: {danger}")));
    if !wrong.is_empty() {
        report.problem(
            "buckets",
            wrong.join("\n"),
            "see `solewriter state plan`, then `solewriter state apply`",
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
        let mut found = format!("{} as declared", plan.declared().count());
        if !plan.elsewhere.is_empty() {
            let here = seen.domain.as_deref().unwrap_or("none");
            let elsewhere: Vec<String> = plan.elsewhere.iter().map(Elsewhere::title).collect();
            let elsewhere = elsewhere.join(", ");
            let _ = write!(found, "\nJetStream domain here: {here}; in others: {elsewhere}");
        }
        report.ok("buckets", found);
    }
}

fn audit(seen: &Seen, report: &mut Report) {
    let names = &seen.settings.audit_streams;
    if seen.settings.audit.is_none() {
        return report.warning(
            "audit",
            "no audit stream is set: refusals are only in logs",
            "set [audit] stream and spool; `solewriter buckets apply` creates the streams",
        );
    }
    if names.are_beside_buckets() {
        return beside_buckets(seen, report);
    }
    let streams = match &seen.audit_streams {
        Ok(streams) => streams,
        Err(blind) => return report.blind("audit", blind),
    };
    let replicas = 1;
    let mut good = true;
    for (name, wanted) in [
        (names.events(), stream::config(names.events(), replicas)),
        (names.services(), stream::services(names.services(), replicas)),
    ] {
        let Ok(Value::Object(wanted)) = serde_json::to_value(wanted) else { continue };
        let plan = BucketPlan::of_audit(wanted, streams);
        if plan.action == Action::Keep {
            continue;
        }
        good = false;
        let elsewhere = seen.streams.as_ref().is_ok_and(|all| all.iter().any(|s| s.name() == name));
        let found = match plan.action {
            Action::Create if elsewhere => format!(
                "{name} is in the account of the buckets, not in the account of the audit streams; \
                 solewriter's events wait in the spools of the instances"
            ),
            Action::Create => {
                format!("there is no stream {name}: its events wait in spools, or are only in logs")
            }
            _ => plan
                .changes
                .iter()
                .map(|change| {
                    let why = change.why.as_deref().unwrap_or_default();
                    format!("{name}: {} has a wrong value: {why}", change.field)
                })
                .collect::<Vec<String>>()
                .join("\n"),
        };
        report.problem(
            "audit",
            found,
            "see `solewriter state plan`, then `solewriter state apply`",
        );
    }
    if good {
        let text = format!("{} and {} take events, each its own", names.events(), names.services());
        report.ok("audit", text);
    }
}

/// As older versions had it: one stream for everybody's events, in the account of the buckets.
fn beside_buckets(seen: &Seen, report: &mut Report) {
    let streams = match &seen.streams {
        Ok(streams) => streams,
        Err(blind) => return report.blind("audit", blind),
    };
    let name = seen.settings.audit_streams.events();
    report.warning(
        "audit",
        format!(
            "[audit] api says that {name} is in the account of the buckets: services publish to \
             it too, and \
             one of them pushes out everybody's events within seconds"
        ),
        "move the audit streams to their own account: `solewriter upgrade` says how",
    );
    let Some(stream) = streams.iter().find(|stream| stream.name() == name) else {
        return report.problem(
            "audit",
            format!("there is no stream {name}: events wait in the spools of the instances"),
            "move the audit streams to their own account: `solewriter upgrade` says how",
        );
    };
    let denies = |field: &str| stream.config.get(field).and_then(Value::as_bool) == Some(true);
    let open: Vec<&str> =
        ["deny_delete", "deny_purge"].into_iter().filter(|field| !denies(field)).collect();
    if !open.is_empty() {
        report.problem(
            "audit",
            format!("events can be removed from {name}: it has no {}", open.join(", no ")),
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
                 away until they expire, up to {longest}, and does without what it gives; then \
                 nats-server closes it, and nats.py does not come back from that"
            ),
            without(Role::System).mend + " and where `serve` runs. With a shorter `lifetime`, rights end sooner, but idle nats.py clients are closed sooner too",
        );
        return;
    }
    let (connections, policy) = match (&seen.connections, &seen.policy) {
        (Ok(connections), Ok(policy)) => (connections, policy),
        (Err(blind), _) | (_, Err(blind)) => return report.blind("connections", blind),
    };
    // An older version's name says too little to be taken for the revision in force.
    let current = policy.revision().whole();
    let older = connections.iter().filter(|c| revision(c).is_some_and(|r| r != current)).count();
    let all = connections.len();
    // Of services that there are: somebody with the callout's seed can say anything.
    let waiting = seen.instances.iter().flatten().flat_map(|instance| &instance.waiting);
    for waiting in waiting.filter(|waiting| policy.service(&waiting.service).is_some()) {
        let (service, what) = (&waiting.service, words(&waiting.what));
        report.warning(
            "connections",
            format!(
                "{} of {service} will gain {what} only after reconnecting, within {longest}",
                waiting.connections
            ),
            format!("`solewriter sessions close {service}`, or set [sessions] gained = \"close\""),
        );
    }
    let mut found = format!(
        "{all} open, {older} with permissions of another revision than {}; they last up to {longest}",
        policy.revision()
    );
    for server in seen.servers.iter().flatten() {
        if let Some(at) = server.reloaded {
            let at = at.strftime("%Y-%m-%dT%H:%M:%SZ");
            let _ = write!(
                found,
                "\n{}: reloaded its configuration at {at}, which closed all connections that \
                 solewriter had let in",
                server.name
            );
        }
    }
    report.ok("connections", found);
}

/// The first of them, and how many more there are.
fn shortened(mut lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut shown: Vec<String> = lines.by_ref().take(MOST_CONSUMERS).collect();
    let more = lines.count();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown
}

fn consumers(seen: &Seen, report: &mut Report) {
    let survey = match &seen.consumers {
        Ok(Ok(survey)) => survey,
        Ok(Err(error)) => {
            return report.problem(
                "consumers",
                format!(
                    "they cannot be listed, so a consumer can keep delivering after the right to \
                     it has ended: {error}"
                ),
                format!("make sure that {CONSUMERS_NEED}, and reload nats-server"),
            );
        }
        Err(blind) => return report.blind("consumers", blind),
    };
    let told = |urgent: bool| {
        let of = survey.doomed.iter().filter(|(_, doomed)| doomed.cause.is_urgent() == urgent);
        shortened(of.map(|(stream, doomed)| {
            let name = words(&doomed.consumer.name);
            match &doomed.owner {
                Owner::Service(service) => {
                    format!("{stream}: {name}, of {service}: {}", doomed.cause.explain())
                }
                Owner::Nobody => format!("{stream}: {name}: {}", doomed.cause.explain()),
            }
        }))
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
    let exposed = shortened(survey.exposed.iter().map(|(stream, consumer, replayers)| {
        format!(
            "{stream}: {} is not declared, so services that replay the stream can change, use and \
             delete it: {}",
            words(consumer),
            replayers.join(", ")
        )
    }));
    if !exposed.is_empty() {
        report.warning(
            "consumers",
            exposed.join("\n"),
            "declare each as [stream.NAME.consumer.NAME], or delete it",
        );
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
    if urgent.is_empty() && strangers.is_empty() && exposed.is_empty() && survey.untold.is_empty() {
        report.ok("consumers", format!("{} on {} streams", survey.kept, survey.streams));
    }
}
