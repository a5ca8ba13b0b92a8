//! The instances: who takes requests, and which policy each of them serves.

use std::collections::BTreeMap;

use super::Report;
use super::seen::{Blind, Role, Seen, Taker};
use crate::fleet::{Report as Instance, emergencies_of};
use solewriter_core::policy::model::short;

/// The subscriptions to requests that are not our own watching.
fn others(takers: &[Taker]) -> Vec<&Taker> {
    takers.iter().filter(|taker| !taker.watches).collect()
}

/// Who takes requests.
pub fn takers(seen: &Seen, report: &mut Report) {
    let takers = match &seen.takers {
        Ok(takers) => others(takers),
        Err(blind) => return report.blind("instances", blind),
    };
    let ours = seen.users.iter().find(|user| user.role == Role::Callout);
    let ours = ours.and_then(|user| user.key.as_deref());
    let group = seen.settings.queue_group.as_str();
    let mut instances = 0;
    for Taker { server, connection, queue, user, name, .. } in &takers {
        let who = format!("connection {connection} of {server}, {name:?}");
        if ours.is_some_and(|ours| ours != user) {
            report.problem(
                "instances",
                format!("{who} takes requests as {user}, which is not the callout user"),
                "find out who it is: it can see who connects",
            );
        } else if queue.as_deref() != Some(group) {
            let queue = queue.as_deref().unwrap_or("no queue group");
            report.problem(
                "instances",
                format!("{who} takes each request a second time: it is in {queue}, not in {group}"),
                "give all instances the same [nats] queue_group, or stop it",
            );
        } else {
            instances += 1;
        }
    }
    match instances {
        0 => report.problem(
            "instances",
            "nobody takes requests: no service gets in",
            "start `solewriter serve`",
        ),
        several if seen.instances.as_ref().map_or(several, Vec::len) > 1 => {
            report.ok("instances", format!("requests are taken on {several} connections, in turn"));
        }
        _ => report.warning(
            "instances",
            "one instance takes requests: while it restarts, nobody gets in",
            "run two or more, with the same settings",
        ),
    }
}

/// What is moving from one service to another, and whether the promise holds that nobody writes
/// beside the new owner.
pub fn handovers(seen: &Seen, report: &mut Report) {
    let instances = match &seen.instances {
        Ok(instances) if !instances.is_empty() => instances,
        Ok(_) => {
            let blind = Blind::new("no instance answers", "mend `revisions` first");
            return report.blind("handover", &blind);
        }
        Err(blind) => return report.blind("handover", blind),
    };
    let in_transit = instances.iter().any(|instance| !instance.transit.is_empty());
    for transit in instances.iter().flat_map(|instance| &instance.transit) {
        let found = transit.sentence();
        // What takes so long waits for somebody.
        if transit.seconds > LONG {
            report.warning(
                "handover",
                found,
                "bring what it waits for back; or push again with --force-handover, if that is gone \
                 for good",
            );
        } else {
            report.ok("handover", found);
        }
    }
    let of_directories =
        instances.iter().filter(|i| i.revision.is_some() && i.number.is_none()).count();
    let blind = instances.iter().filter(|i| i.revision.is_some() && i.settled.is_none()).count();
    if blind > 0 {
        report.warning(
            "handover",
            format!(
                "{blind} of {} instances do not hold back what moves from one service to another: \
                 both may write it until the old owner's permissions expire ([grants] lifetime)",
                instances.len()
            ),
            "set [system] nkey_seed for every instance, and use one version",
        );
    } else if of_directories > 1 {
        report.warning(
            "handover",
            format!(
                "{of_directories} instances read the policy from directories of their own: while \
                 their files differ, one may let the old owner of a keyspace in beside the new one"
            ),
            "put the policy into a bucket ([policy] bucket), or run one instance",
        );
    } else if !in_transit {
        report.ok("handover", "nothing is in transit from one service to another");
    }
}

/// The emergency grants that count now.
pub fn emergencies(seen: &Seen, report: &mut Report) {
    let instances = match &seen.instances {
        Ok(instances) => instances,
        Err(blind) => return report.blind("emergency", blind),
    };
    let now = emergencies_of(instances);
    for emergency in &now {
        report.warning(
            "emergency",
            emergency.sentence(),
            format!(
                "nothing, if that is meant: it ends by itself. `solewriter emergency end {}` ends it \
                 now",
                emergency.id
            ),
        );
    }
    if now.is_empty() {
        report.ok("emergency", "no emergency grant counts");
    }
}

/// After so many seconds something in transit waits for somebody.
const LONG: u64 = 30;

/// What the instances say that they serve.
pub fn revisions(seen: &Seen, report: &mut Report) {
    let instances = match &seen.instances {
        Ok(instances) => instances,
        Err(blind) => return report.blind("revisions", blind),
    };
    // An instance takes requests on several connections, and says on how many.
    let said: usize = instances.iter().map(|instance| instance.connections).sum();
    let known = seen.takers.as_ref().map_or(said, |takers| others(takers).len());
    let cause = ["instances", "answer"].into_iter().find(|check| report.has_problem(check));
    if instances.is_empty() {
        return match cause {
            Some(cause) => {
                let blind = Blind::new("no instance answers", format!("mend `{cause}` first"));
                report.blind("revisions", &blind);
            }
            None => report.problem(
                "revisions",
                "no instance says which policy it serves",
                "check that the callout user may subscribe to solewriter.> and publish to \
                 _INBOX.solewriter.>",
            ),
        };
    }
    if said < known && cause.is_none() {
        report.warning(
            "revisions",
            format!(
                "requests are taken on {known} connections, and the {} instances that say which \
                 policy they serve have {said} of them",
                instances.len()
            ),
            "look at the log of the others",
        );
    }
    for instance in instances {
        unwell(seen, instance, report);
    }
    let mut revisions: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for instance in instances {
        let revision = instance.revision.as_deref().unwrap_or("none");
        revisions.entry(revision).or_default().push(named(instance));
    }
    let newest = seen.policy.as_ref().ok().map(|policy| policy.documents().whole());
    // Of documents, whatever counts for a while on top of them.
    let documents = instances.first().and_then(|i| i.documents.as_ref().or(i.revision.as_ref()));
    let each: Vec<String> = revisions
        .iter()
        .map(|(r, names)| format!("{} on {}", short(r), names.join(", ")))
        .collect();
    if revisions.len() > 1 {
        report.warning(
            "revisions",
            format!("instances serve different revisions: {}", each.join("; ")),
            "look again in a moment; if it does not change, check where each instance reads its \
             policy",
        );
    } else if let (Some(newest), Some(served)) = (newest, documents)
        && newest != served
        && !report.has_problem("revisions")
    {
        report.warning(
            "revisions",
            format!(
                "instances serve revision {}, but the policy here is {}",
                short(served),
                short(newest)
            ),
            "look again in a moment; if it does not change, check where they read their policy",
        );
    } else if !report.has_problem("revisions") {
        report.ok("revisions", each.join("; "));
    }
}

fn named(instance: &Instance) -> String {
    format!("{} ({}, solewriter {})", instance.instance, instance.host, instance.version)
}

/// What an instance says is wrong with it.
fn unwell(seen: &Seen, instance: &Instance, report: &mut Report) {
    let name = named(instance);
    if instance.too_old.is_some() || instance.revision.is_none() {
        report.problem(
            "revisions",
            format!("{name} denies everything: its policy is too old"),
            format!(
                "make {} available again; the instance says that it is {}",
                instance.source, instance.source_state
            ),
        );
    } else if instance.refused_since.is_some() {
        let first = instance.refused_first.as_deref().unwrap_or_default();
        let text = format!("{name} refuses the newest policy, and serves the one before: {first}");
        if seen.policy_is_wrong {
            report.blind("revisions", &Blind::new(text, "mend `policy` first"));
        } else {
            report.problem("revisions", text, "see its log, and `solewriter check`");
        }
    } else if instance.source_state != "answered" {
        report.warning(
            "revisions",
            format!(
                "{name}: {} is {}; it uses the policy that it has",
                instance.source, instance.source_state
            ),
            "bring it back",
        );
    }
}
