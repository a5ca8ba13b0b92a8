//! How far an adoption is: who has moved, what those can still do who have not, and which keyspaces
//! have one writer already.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::Report;
use super::seen::{Adoption, Blind, Seen, Side};
use crate::adoption::server_config::findings::ways;
use crate::adoption::server_config::permissions::Rights;
use solewriter_core::policy::model::{Access, Policy, STORE_PREFIX};
use solewriter_types::keyspace::Keyspace;
use solewriter_types::kv_operation::{store_stream, writing_store};
use solewriter_types::subject::Pattern;

/// So many names are shown in a line.
const SHOWN: usize = 8;

/// A keyspace that nobody owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AsBefore {
    /// A bucket, a part of one, or `store:NAME`.
    pub keyspace: String,
    /// The observed services that write it.
    pub services: Vec<String>,
}

/// Where a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In the services' account only.
    Moved,
    /// In both accounts.
    Both,
    /// In the old account only.
    Old,
    /// It is not connected.
    Nowhere,
}

/// How far an adoption is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// The old account.
    pub old_account: String,
    /// Whether nobody is left there and nobody may log in there.
    pub done: bool,
    /// The services of the policy.
    pub services: Vec<ServiceAt>,
    /// Who is in the old account, or may log in there, service or not.
    pub left: Vec<Remaining>,
    /// What has to have one writer.
    pub keyspaces: Vec<Writers>,
    /// What nobody owns and observed services write, as before.
    pub as_before: Vec<AsBefore>,
    /// Servers that did not tell everything.
    pub untold: Vec<String>,
}

/// Where a service is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceAt {
    /// Its name.
    pub service: String,
    /// Where it is.
    pub place: Place,
    /// Whether it may still do what it could before (`enforce = "observe"`).
    pub observed: bool,
    /// Its connections in the services' account.
    pub moved_connections: usize,
    /// Queue groups that it has in both accounts.
    pub queues_on_both: Vec<Queue>,
}

/// A queue group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Queue {
    /// The subject.
    pub subject: String,
    /// The group.
    pub queue: String,
}

/// A user of the old account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remaining {
    /// The user.
    pub user: String,
    /// The service that it is.
    pub service: Option<String>,
    /// Its connections there.
    pub connections: usize,
    /// From where, a few.
    pub addresses: Vec<String>,
    /// Whether it may log in there, by nats-server's configuration; not known without that.
    pub may_log_in: Option<bool>,
}

/// Something that has to have one writer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Writers {
    /// A bucket, a part of one, `stream NAME` or `store NAME`.
    pub keyspace: String,
    /// The services that write it by the policy.
    pub owners: Vec<String>,
    /// Whether nobody of the old account can write it; `None` when that is not known.
    pub holds: Option<bool>,
    /// Who can.
    pub in_the_way: Vec<InTheWay>,
}

/// Who can still write something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InTheWay {
    /// The user.
    pub user: String,
    /// How.
    pub ways: Vec<Way>,
}

/// A way to write.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Way {
    /// Which way.
    pub by: By,
    /// The permission.
    pub permission: String,
}

/// A kind of way to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// It publishes there.
    Publishing,
    /// It names it as the reply subject of something that is answered.
    Reply,
    /// It changes, empties or deletes the stream.
    Stream,
    /// Nothing is known of its permissions.
    Unknown,
}

impl Way {
    fn shown(&self) -> String {
        let what = match self.by {
            By::Publishing => "writes it by publishing",
            By::Reply => "may have JetStream write it by a reply subject",
            By::Stream => "may change, empty or delete its stream",
            By::Unknown => return "may write it: nothing is known of its permissions".to_owned(),
        };
        format!("{what} ({})", self.permission)
    }
}

/// What has to have one writer, by the policy.
struct Kept {
    name: String,
    owners: Vec<String>,
    subjects: Vec<Pattern>,
    stream: String,
}

fn kept(policy: &Policy) -> Vec<Kept> {
    let mut all = Vec::new();
    let patterns = |texts: Vec<String>| -> Vec<Pattern> {
        texts.iter().filter_map(|text| Pattern::parse(text).ok()).collect()
    };
    for bucket in policy.buckets() {
        let whole = Keyspace::whole(bucket.name.clone());
        let mut owned: BTreeMap<String, (Keyspace, Vec<String>)> = BTreeMap::new();
        for (service, rule) in policy.owners(&whole) {
            let Access::Owns(keyspace) = &rule.access else { continue };
            let entry = owned.entry(keyspace.to_string());
            let (_, owners) = entry.or_insert_with(|| (keyspace.clone(), Vec::new()));
            owners.push(service.name.to_string());
        }
        if owned.is_empty() {
            owned.insert(whole.to_string(), (whole.clone(), Vec::new()));
        }
        all.extend(owned.into_iter().map(|(name, (keyspace, owners))| Kept {
            name,
            owners,
            subjects: patterns(vec![keyspace.subjects()]),
            stream: keyspace.stream(),
        }));
    }
    let names = |wanted: &dyn Fn(&Access) -> bool| -> Vec<String> {
        let names: BTreeSet<&str> =
            policy.rules(wanted).map(|(service, _)| &*service.name).collect();
        names.into_iter().map(ToOwned::to_owned).collect()
    };
    for stream in policy.streams() {
        let writes = |access: &Access| match access {
            Access::Publishes(p) => stream.subjects.iter().any(|kept| kept.overlaps(p)),
            _ => false,
        };
        all.push(Kept {
            name: format!("stream {}", stream.name),
            owners: names(&writes),
            subjects: stream.subjects.clone(),
            stream: stream.name.to_string(),
        });
    }
    for store in policy.stores() {
        let name = store.name.as_str();
        let subjects = writing_store(name).into_iter().map(|needed| needed.1);
        all.push(Kept {
            name: format!("store {name}"),
            owners: names(&|access| matches!(access, Access::OwnsStore(own) if *own == store.name)),
            subjects: patterns(subjects.filter(|s| s.starts_with("$O.")).collect()),
            stream: store_stream(name),
        });
    }
    all
}

/// What is answered beside JetStream's API: what streams keep, and requests to services.
fn answered(policy: &Policy) -> Vec<Pattern> {
    let kept = policy.streams().iter().flat_map(|stream| stream.subjects.iter().cloned());
    let rules = policy.rules(|access| matches!(access, Access::Answers(_)));
    kept.chain(rules.filter_map(|(_, rule)| match &rule.access {
        Access::Answers(subject) => Some(subject.clone()),
        _ => None,
    }))
    .collect()
}

/// How somebody of the old account writes something.
fn ways(rights: Option<&Rights>, kept: &Kept, answered: &[Pattern]) -> Vec<Way> {
    let Some(rights) = rights else {
        return vec![Way { by: By::Unknown, permission: String::new() }];
    };
    let publishing =
        kept.subjects.iter().find_map(|subject| rights.publishes(subject).next()).map(ways::says);
    let responses = || rights.responses.as_ref().map(|_| "allow_responses".to_owned());
    let reply = ways::by_reply(rights, answered).map(ways::says).or_else(responses);
    let stream = ways::by_change(rights, &kept.stream).map(ways::says);
    [(By::Publishing, publishing), (By::Reply, reply), (By::Stream, stream)]
        .into_iter()
        .filter_map(|(by, permission)| Some(Way { by, permission: permission? }))
        .collect()
}

/// One user of the old account, from both sources.
struct User<'a> {
    service: Option<Arc<str>>,
    side: Option<&'a Side>,
    may_log_in: Option<bool>,
    rights: Option<&'a Rights>,
}

/// What observed services write that nobody owns.
fn as_before(policy: &Policy) -> Vec<AsBefore> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let wanted = |access: &Access| matches!(access, Access::Writes(_) | Access::WritesStore(_));
    for (service, rule) in policy.rules(wanted) {
        let keyspace = match &rule.access {
            Access::WritesStore(store) => format!("{STORE_PREFIX}{store}"),
            Access::Writes(keyspace) => keyspace.to_string(),
            _ => continue,
        };
        let services = all.entry(keyspace).or_default();
        if services.last().is_none_or(|last| **last != *service.name) {
            services.push(service.name.to_string());
        }
    }
    let one = |(keyspace, services)| AsBefore { keyspace, services };
    all.into_iter().map(one).collect()
}

/// How far it is.
#[must_use]
pub fn progress(adoption: &Adoption, policy: &Policy) -> Progress {
    let mut users: BTreeMap<(&str, Option<&str>), User<'_>> = BTreeMap::new();
    for login in adoption.logins.iter().flatten() {
        let user = User {
            service: login.service.clone(),
            side: None,
            may_log_in: Some(true),
            rights: login.rights.as_ref(),
        };
        users.insert((&login.user, login.service.as_deref()), user);
    }
    for left in &adoption.left {
        // A map may make several services of one user.
        let login = adoption.logins.iter().flatten().find(|login| login.user == left.user);
        users.retain(|(user, service), known| {
            *user != left.user || known.side.is_some() || *service == left.service.as_deref()
        });
        users.insert(
            (&left.user, left.service.as_deref()),
            User {
                service: left.service.clone(),
                side: Some(&left.side),
                may_log_in: adoption.logins.as_ref().map(|_| login.is_some()),
                rights: login.and_then(|login| login.rights.as_ref()),
            },
        );
    }
    let told = adoption.untold.is_empty() && adoption.logins.is_some();
    let answered = answered(policy);
    let keyspaces = kept(policy).into_iter().map(|kept| {
        let mut in_the_way: Vec<InTheWay> = Vec::new();
        for ((user, _), known) in &users {
            let ways = ways(known.rights, &kept, &answered);
            if !ways.is_empty() && in_the_way.last().is_none_or(|last| last.user != *user) {
                in_the_way.push(InTheWay { user: (*user).to_owned(), ways });
            }
        }
        let holds = if in_the_way.is_empty() { told.then_some(true) } else { Some(false) };
        Writers { keyspace: kept.name, owners: kept.owners, holds, in_the_way }
    });
    let services = policy.services().iter().map(|service| {
        let new = adoption.moved.get(&service.name);
        let old: Vec<&Side> = users
            .values()
            .filter(|user| user.service.as_ref() == Some(&service.name))
            .filter_map(|user| user.side)
            .collect();
        let place = match (new, old.is_empty()) {
            (Some(_), true) => Place::Moved,
            (Some(_), false) => Place::Both,
            (None, false) => Place::Old,
            (None, true) => Place::Nowhere,
        };
        let both = old.iter().flat_map(|side| &side.queues);
        let both = both.filter(|group| new.is_some_and(|new| new.queues.contains(*group)));
        let both: BTreeSet<&(String, String)> = both.collect();
        let queue = |(subject, queue): &(String, String)| Queue {
            subject: subject.clone(),
            queue: queue.clone(),
        };
        ServiceAt {
            service: service.name.to_string(),
            place,
            observed: service.observed,
            moved_connections: new.map_or(0, |side| side.connections),
            queues_on_both: both.into_iter().map(queue).collect(),
        }
    });
    Progress {
        old_account: adoption.old.clone(),
        done: told && users.is_empty(),
        services: services.collect(),
        keyspaces: keyspaces.collect(),
        as_before: as_before(policy),
        left: users
            .iter()
            .map(|((user, service), known)| Remaining {
                user: (*user).to_owned(),
                service: service.map(ToOwned::to_owned),
                connections: known.side.map_or(0, |side| side.connections),
                addresses: known.side.iter().flat_map(|s| s.addresses.iter().cloned()).collect(),
                may_log_in: known.may_log_in,
            })
            .collect(),
        untold: adoption.untold.clone(),
    }
}

/// Says how far it is, if there is an adoption.
pub fn judge(seen: &Seen, report: &mut Report) {
    let adoption = match &seen.adoption {
        None => return,
        Some(Err(blind)) => {
            report.blind("movers", blind);
            return report.blind("one-writer", blind);
        }
        Some(Ok(adoption)) => adoption,
    };
    // Without a policy, the adoption was not looked at.
    let Ok(policy) = &seen.policy else { return };
    let progress = progress(adoption, policy);
    movers(&progress, report);
    writers(&progress, report);
    report.adoption = Some(progress);
}

fn names<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let all: Vec<&str> = names.into_iter().collect();
    let shown = all.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn connections(count: usize) -> String {
    match count {
        1 => "1 connection".to_owned(),
        more => format!("{more} connections"),
    }
}

/// A user of the old account in words.
fn of_user(user: &Remaining) -> String {
    let addresses = names(user.addresses.iter().map(String::as_str));
    let from = if addresses.is_empty() { addresses } else { format!(", from {addresses}") };
    match (user.connections, user.may_log_in) {
        (0, _) => format!("user {}: not connected, but may log in", user.user),
        (count, Some(false)) => format!(
            "user {}: {}{from}; the configuration that was given does not have this user",
            user.user,
            connections(count)
        ),
        (count, _) => format!("user {}: {}{from}", user.user, connections(count)),
    }
}

/// What a user can still do, a line for each set of ways.
fn still(progress: &Progress, user: &str) -> String {
    let mut same: BTreeMap<&[Way], Vec<&str>> = BTreeMap::new();
    for keyspace in &progress.keyspaces {
        let ways = keyspace.in_the_way.iter().find(|who| who.user == user);
        let ways = ways.map(|who| who.ways.as_slice()).unwrap_or_default();
        if !ways.is_empty() {
            same.entry(ways).or_default().push(&keyspace.keyspace);
        }
    }
    let mut text = String::new();
    for (ways, keyspaces) in same {
        let ways: Vec<String> = ways.iter().map(Way::shown).collect();
        text += &format!("\n  {}: {}", names(keyspaces), ways.join("; "));
    }
    if text.is_empty() {
        text += "\n  it can write nothing that the policy keeps";
    }
    text
}

const MOVERS: &str = "movers";

/// Who is in the old account and no service of the policy.
fn of_no_service(progress: &Progress, report: &mut Report) {
    // Users with the same rights are said once.
    let mut same: BTreeMap<String, Vec<&Remaining>> = BTreeMap::new();
    for user in progress.left.iter().filter(|user| user.service.is_none()) {
        same.entry(still(progress, &user.user)).or_default().push(user);
    }
    for (still, users) in same {
        let mut lines: Vec<String> = users.iter().take(SHOWN).map(|user| of_user(user)).collect();
        if let Some(more) = users.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            lines.push(format!("and {more} more"));
        }
        report.warning(
            MOVERS,
            format!(
                "no service of the policy, in {}\n{}{still}",
                progress.old_account,
                lines.join("\n")
            ),
            "say which service it is in a file for --map; or give it a service of its own; or take \
             it away",
        );
    }
}

fn movers(progress: &Progress, report: &mut Report) {
    const CHECK: &str = MOVERS;
    if !progress.untold.is_empty() {
        let why = format!("not all connections were told\n{}", progress.untold.join("\n"));
        report.blind(CHECK, &Blind::new(why, "look at these servers, and try again"));
    }
    let of = |place: Place| progress.services.iter().filter(move |s| s.place == place);
    let moved: Vec<&str> = of(Place::Moved).map(|service| service.service.as_str()).collect();
    if !moved.is_empty() {
        let (count, all) = (moved.len(), progress.services.len());
        report.ok(CHECK, format!("{count} of {all} services have moved: {}", names(moved)));
    }
    for service in &progress.services {
        let name = service.service.as_str();
        let users: Vec<&Remaining> =
            progress.left.iter().filter(|user| user.service.as_deref() == Some(name)).collect();
        let mut found: Vec<String> = Vec::new();
        for user in &users {
            found.push(of_user(user) + &still(progress, &user.user));
        }
        let found = found.join("\n");
        match service.place {
            Place::Both => {
                let groups: Vec<String> = service
                    .queues_on_both
                    .iter()
                    .map(|group| format!("{} on {}", group.queue, group.subject))
                    .collect();
                let groups = match groups.as_slice() {
                    [] => String::new(),
                    some => format!(
                        "\nqueue groups in both accounts: {}",
                        names(some.iter().map(String::as_str))
                    ),
                };
                report.warning(
                    CHECK,
                    format!(
                        "{name} has moved in part: {} in the services' account, and in {}\n{found}{groups}",
                        connections(service.moved_connections),
                        progress.old_account
                    ),
                    "move the rest of it, or stop it there; a request to a queue group may be \
                     taken once in each account",
                );
            }
            Place::Old => report.warning(
                CHECK,
                format!("{name} has not moved\n{found}"),
                format!(
                    "give its clients its NKEY and the inbox prefix `_INBOX.{name}`, and start \
                     them again"
                ),
            ),
            Place::Moved if !users.is_empty() => report.warning(
                CHECK,
                format!("{name} has moved, and the user that it was is still there\n{found}"),
                format!(
                    "take its user away: `solewriter adopt` with `--moved {name}` and what has moved \
                     before"
                ),
            ),
            Place::Nowhere if !users.is_empty() => report.warning(
                CHECK,
                format!("{name} is not connected, and the user that it was is still there\n{found}"),
                "move it when it connects; or take its user away, with `solewriter adopt`",
            ),
            Place::Moved | Place::Nowhere => {}
        }
    }
    let gone = of(Place::Nowhere).map(|service| service.service.as_str());
    let gone: Vec<&str> = gone
        .filter(|name| !progress.left.iter().any(|user| user.service.as_deref() == Some(name)))
        .collect();
    if !gone.is_empty() {
        report.ok(CHECK, format!("not connected in either account: {}", names(gone)));
    }
    of_no_service(progress, report);
    let observed = progress.services.iter().filter(|service| service.observed);
    let observed: Vec<&str> = observed.map(|service| service.service.as_str()).collect();
    if !observed.is_empty() {
        report.warning(
            CHECK,
            format!("observed, with what they could do before: {}", names(observed)),
            "when `solewriter rehearse` is silent, take `enforce = \"observe\"` out of their tables",
        );
    }
    if progress.done {
        let old = &progress.old_account;
        report.ok(CHECK, format!("nobody is connected in {old}, and nobody may log in there"));
    }
}

fn writers(progress: &Progress, report: &mut Report) {
    const CHECK: &str = "one-writer";
    let old = &progress.old_account;
    let mut same: BTreeMap<Vec<&str>, Vec<&str>> = BTreeMap::new();
    for keyspace in progress.keyspaces.iter().filter(|k| k.holds == Some(false)) {
        let users: Vec<&str> = keyspace.in_the_way.iter().map(|who| who.user.as_str()).collect();
        same.entry(users).or_default().push(&keyspace.keyspace);
    }
    for (users, keyspaces) in same {
        let given = progress.left.iter().any(|user| user.may_log_in.is_some());
        report.warning(
            CHECK,
            format!("not yet: {}; in the way: {}", names(keyspaces), names(users)),
            if given {
                format!("single-writer holds when none of them can log in to {old} any more")
            } else {
                "their permissions are not known; give nats-server's configuration that is in \
                 force with --server-config"
                    .to_owned()
            },
        );
    }
    let unknown = progress.keyspaces.iter().filter(|k| k.holds.is_none());
    let unknown: Vec<&str> = unknown.map(|keyspace| keyspace.keyspace.as_str()).collect();
    if !unknown.is_empty() {
        let blind = if progress.untold.is_empty() {
            Blind::new(
                format!(
                    "nobody is connected in {old}; who may log in there is in nats-server's \
                     configuration"
                ),
                "give the one that is in force with --server-config",
            )
        } else {
            Blind::new("some servers did not tell who is connected", "mend that first")
        };
        report.blind(CHECK, &blind);
    }
    for keyspace in &progress.as_before {
        let services = names(keyspace.services.iter().map(String::as_str));
        report.warning(
            CHECK,
            format!(
                "nobody owns {}, and observed services write it: {services}",
                keyspace.keyspace
            ),
            format!("say in the policy who owns it: owns = [{:?}]", keyspace.keyspace),
        );
    }
    let holds = progress.keyspaces.iter().filter(|k| k.holds == Some(true));
    let holds: Vec<&str> = holds.map(|keyspace| keyspace.keyspace.as_str()).collect();
    if progress.done && progress.as_before.is_empty() {
        let all = format!(
            "nobody is left in {old}, and every keyspace has one writer; `solewriter prove` \
             confirms it"
        );
        report.ok(CHECK, all);
    } else if !holds.is_empty() {
        report.ok(CHECK, format!("nobody of {old} can write {}", names(holds)));
    }
}
