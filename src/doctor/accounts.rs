//! The accounts: the buckets apart from the services, and nothing between them but what is needed.

use std::collections::BTreeMap;

use super::Report;
use super::look::{MOST_ACCOUNTS, without};
use super::seen::{AccountOn, Blind, Connection, Export, Import, Role, Seen, SeenLogin};
use crate::passes::link::{self, Crossing};
use crate::passes::{self, Pass, within};
use solewriter_core::callout::issue::ConnectionName;
use solewriter_core::grant::Defaults;
use solewriter_core::policy::model::{Domain, Policy};
use solewriter_types::kv_operation::{API, copied_to, domain_api};
use solewriter_types::subject::Pattern;

/// What must pass between the account of the buckets and those of services.
fn needed(seen: &Seen) -> Vec<Pass> {
    let mut needed = passes::of_buckets().to_vec();
    if let Ok(policy) = &seen.policy {
        needed.extend(passes::needed(policy, seen.domain.as_deref()));
    }
    needed
}

/// Whether that may pass between them. Where there is no policy to look at, no subject of a stream is
/// called wrong.
fn may_pass(seen: &Seen, kind: &str, subject: &str) -> bool {
    let always = passes::of_buckets().into_iter().chain(passes::of_consumers_and_stores());
    if always.into_iter().any(|pass| pass.kind == kind && pass.subject == subject) {
        return true;
    }
    // While services move, plain messages pass both ways, and answers to who asked in the old account.
    let moving = seen.adoption.is_some();
    if moving && kind == "service" && subject == "_INBOX.>" {
        return true;
    }
    if (kind != "service" && !moving) || subject.starts_with(['$', '_', '*', '>']) {
        return false;
    }
    let Ok(policy) = &seen.policy else { return true };
    if moving {
        return true;
    }
    passes::declared(policy)
        .iter()
        .any(|pass| within(&pass.subject, subject) || within(subject, &pass.subject))
}

/// What the callout's account exports: what an instance says of itself, for who pushes the policy.
const BEATS: (&str, &str) = ("stream", "solewriter.instance.*");

/// The requests of JetStream's API.
const JETSTREAM: &str = "$JS.API.>";

/// What the callout's account imports of the buckets': whose consumers there are, ending them, and
/// ending what was asked of them.
const SWEEPS: [&str; 4] = [
    "$JS.API.STREAM.NAMES",
    "$JS.API.CONSUMER.LIST.>",
    "$JS.API.CONSUMER.DELETE.>",
    "$JS.API.CONSUMER.LEADER.STEPDOWN.>",
];

/// What the system user's account imports of the servers'.
const ASKS: [&str; 6] = [
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.SERVER.*.CONNZ",
    "$SYS.REQ.SERVER.*.KICK",
    "$SYS.REQ.SERVER.*.VARZ",
    "$SYS.REQ.SERVER.*.SUBSZ",
    "$SYS.REQ.SERVER.*.ACCOUNTZ",
];

/// What may pass besides: audit events, which the policy and solewriter itself send there.
const EVENTS: &str = "audit.events.>";

/// What any client can do where JetStream is in its own account, as docs/attacks.md names it.
pub const OPEN: [(&str, &str); 6] = [
    ("reply-put", "a put to a bucket of its own: the acknowledgement is stored"),
    ("reply-stream-info", "a look at a bucket of its own: the answer is stored"),
    ("reply-msg-get", "a get of a value of its own: the answer is stored"),
    ("reply-direct-get", "a direct get of a value of its own: bytes of its choice are stored"),
    (
        "reply-api-delete",
        "the same, with a request of JetStream's API in the key's place: a bucket is deleted",
    ),
    ("reply-api-purge", "the same: a bucket is emptied"),
];

/// The same as text.
fn open() -> String {
    let list: Vec<String> = OPEN.iter().map(|(id, what)| format!("{id}: {what}")).collect();
    format!(
        "any client there makes JetStream write into any bucket, whatever its permissions, with a \
         key as the reply subject of\n{}",
        list.join("\n")
    )
}

const APART: &str = "put JetStream, the buckets and the admin into an account in which no service \
lives, as deploy/nats-server.conf does";

/// Judges the accounts.
pub fn judge(seen: &Seen, report: &mut Report) {
    let admin = seen.users.iter().find(|user| user.role == Role::Admin);
    let state = match admin.map(|user| &user.account) {
        Some(Ok(state)) => state.as_str(),
        Some(Err(blind)) => return nothing(blind, report),
        None => return nothing(&without(Role::Admin), report),
    };
    let isolated = isolation(seen, state, report);
    let accounts = match &seen.accounts {
        Ok(accounts) => accounts.as_slice(),
        Err(blind) => {
            for check in ["jetstream", "mappings", "exports", "imports", "logins"] {
                report.blind(check, blind);
            }
            return;
        }
    };
    jetstream(seen, state, accounts, report);
    mappings(seen, accounts, report);
    if isolated {
        let linked = may_link(seen);
        exports(seen, state, accounts, &linked, report);
        imports(seen, state, accounts, &linked, report);
    } else {
        let blind = Blind::new("there is nothing to import", "mend `isolation` first");
        report.blind("exports", &blind);
        report.blind("imports", &blind);
    }
    logins(seen, isolated, report);
}

fn nothing(blind: &Blind, report: &mut Report) {
    for check in ["isolation", "jetstream", "mappings", "exports", "imports", "logins"] {
        report.blind(check, blind);
    }
}

fn serves(seen: &Seen, account: &str) -> bool {
    seen.settings.accounts.iter().any(|a| &**a == account)
}

/// The account that reads the policy and publishes audit events.
fn control(seen: &Seen) -> Option<&str> {
    seen.account(Role::Control).or_else(|| seen.account(Role::Callout))
}

fn publisher(seen: &Seen) -> Option<&str> {
    seen.account(Role::Publisher)
}

fn isolation(seen: &Seen, state: &str, report: &mut Report) -> bool {
    if serves(seen, state) {
        report.problem(
            "isolation",
            format!("the buckets are in {state}, where services are placed, and {}", open()),
            APART,
        );
        return false;
    }
    let services: Vec<&str> = seen.settings.accounts.iter().map(|a| &**a).collect();
    report.ok(
        "isolation",
        format!("the buckets are in {state}, services in {}", services.join(", ")),
    );
    true
}

/// Says the same thing of several servers once, with their names if it is not all of them.
struct Once<'a> {
    check: &'static str,
    servers: Vec<&'a str>,
    said: BTreeMap<(String, String), Vec<&'a str>>,
}

impl<'a> Once<'a> {
    fn new(check: &'static str, accounts: &'a [AccountOn]) -> Self {
        let mut servers: Vec<&str> = accounts.iter().map(|a| a.server.as_str()).collect();
        servers.sort_unstable();
        servers.dedup();
        Self { check, servers, said: BTreeMap::new() }
    }

    fn problem(&mut self, server: &'a str, found: impl Into<String>, mend: impl Into<String>) {
        let servers = self.said.entry((found.into(), mend.into())).or_default();
        if !servers.contains(&server) {
            servers.push(server);
        }
    }

    /// Reports it; gives whether there was nothing.
    fn report(self, report: &mut Report) -> bool {
        let none = self.said.is_empty();
        for ((found, mend), servers) in self.said {
            let place = if servers.len() == self.servers.len() {
                String::new()
            } else {
                format!(" (on {})", servers.join(", "))
            };
            report.problem(self.check, format!("{found}{place}"), mend);
        }
        none
    }
}

fn jetstream(seen: &Seen, state: &str, accounts: &[AccountOn], report: &mut Report) {
    let mut once = Once::new("jetstream", accounts);
    let mut elsewhere = Vec::new();
    for account in accounts {
        let AccountOn { server, name, jetstream_enabled, .. } = account;
        if name == state {
            if !jetstream_enabled {
                once.problem(
                    server,
                    format!("JetStream is not enabled in {state}, where the buckets should be"),
                    format!("set `jetstream: enabled` in account {state}"),
                );
            }
        } else if *jetstream_enabled && serves(seen, name) {
            once.problem(
                server,
                format!(
                    "JetStream is enabled in {name}, where services are placed, and {}",
                    open()
                ),
                format!("remove `jetstream: enabled` from account {name}"),
            );
        } else if *jetstream_enabled && control(seen) == Some(name) {
            once.problem(
                server,
                format!(
                    "JetStream is enabled in {name}, where the callout user is: its seed alone \
                     makes JetStream write there, through a reply subject"
                ),
                format!(
                    "remove `jetstream: enabled` from account {name}; a policy's bucket goes into \
                     an account of its own, as deploy/nats-server.conf does (POLICY): `solewriter \
                     upgrade` says how"
                ),
            );
        } else if *jetstream_enabled && publisher(seen) == Some(name) {
            once.problem(
                server,
                format!(
                    "JetStream is enabled in {name}, where the publisher is: its seed alone deletes \
                     the policy's bucket with its log, through a reply subject"
                ),
                "put the publisher into an account of its own that imports the bucket, as \
                 deploy/nats-server.conf does (PUBLISH): `solewriter upgrade` says how",
            );
        } else if *jetstream_enabled && !elsewhere.contains(&name) {
            elsewhere.push(name);
        }
    }
    if once.report(report) {
        let others: Vec<&str> = elsewhere.into_iter().map(String::as_str).collect();
        let more = if others.is_empty() {
            String::new()
        } else {
            format!("; also in {}, where solewriter places nobody", others.join(", "))
        };
        report.ok("jetstream", format!("in {state}, and not where services are{more}"));
    }
}

/// The server's own imports, which every account has.
fn is_of_the_server(import: &Import) -> bool {
    import.subject.starts_with("$SYS.")
        || (import.subject == JETSTREAM && import.local_subject == import.subject)
}

fn exports(
    seen: &Seen,
    state: &str,
    accounts: &[AccountOn],
    linked: &Crossing,
    report: &mut Report,
) {
    let mut once = Once::new("exports", accounts);
    for account in accounts {
        let server = account.server.as_str();
        if Some(account.name.as_str()) == control(seen) && account.name != state {
            let others = account.exports.iter();
            for export in others.filter(|e| (e.kind.as_str(), e.subject.as_str()) != BEATS) {
                once.problem(
                    server,
                    format!(
                        "{} exports `{}`: other accounts can reach the callout",
                        account.name, export.subject
                    ),
                    format!("remove it from account {}", account.name),
                );
            }
        }
        if account.name != state {
            continue;
        }
        let services: Vec<&str> = seen.settings.accounts.iter().map(|a| &**a).collect();
        for pass in needed(seen) {
            let has = |e: &Export| e.kind == pass.kind && within(&pass.subject, &e.subject);
            if !account.exports.iter().any(has) {
                let Pass { kind, subject, what, .. } = &pass;
                // Who sweeps consumers asks JetStream, too.
                let asks = control(seen).filter(|_| subject == JETSTREAM);
                let to: Vec<&str> = services.iter().copied().chain(asks).collect();
                once.problem(
                    server,
                    format!(
                        "{state} does not export the {kind} `{subject}`: {what} fail as timeouts"
                    ),
                    format!(
                        "add {} to the exports of account {state}, and reload the server",
                        pass.export(&to)
                    ),
                );
            }
        }
        for Export { subject, kind } in &account.exports {
            let passes = may_pass(seen, kind, subject) || linked.covers(kind, subject);
            if !passes && !within(subject, EVENTS) {
                once.problem(
                    server,
                    format!("{state} exports the {kind} `{subject}` too, which no client needs"),
                    format!("remove it from the exports of account {state}"),
                );
            }
        }
    }
    let passing = links(seen, state, accounts, &mut once);
    if once.report(report) {
        let linked = match passing.as_slice() {
            [] => String::new(),
            passing => format!("; a leafnode passes {}", passing.join(", ")),
        };
        report
            .ok("exports", format!("{state} exports what clients need, and nothing else{linked}"));
    }
}

fn mappings(seen: &Seen, accounts: &[AccountOn], report: &mut Report) {
    let mut once = Once::new("mappings", accounts);
    for account in accounts.iter().filter(|account| serves(seen, &account.name)) {
        for (from, to) in &account.mappings {
            let to: Vec<&str> =
                to.iter().map(|m| m.subject.as_str()).filter(|to| to != from).collect();
            once.problem(
                &account.server,
                format!(
                    "{} maps `{from}` to `{}`: a client that may publish `{from}` is refused \
                     unless it may \
                     publish that; `explain -c` says of a service whether it may",
                    account.name,
                    to.join("`, `")
                ),
                "remove it from the account's `mappings`, or grant the destination in the policy",
            );
        }
    }
    if once.report(report) {
        report.ok("mappings", "none".to_owned());
    }
}

/// The policy and the domain that is here, where both are known.
fn here(seen: &Seen) -> Option<(&Policy, Domain, Defaults)> {
    let (Ok(policy), Some(domain)) = (&seen.policy, seen.domain.as_deref()) else { return None };
    let settings = &seen.settings;
    let defaults = Defaults {
        account: settings.accounts.first()?.clone(),
        lifetime: settings.lifetime,
        audit: settings.audit_streams.clone(),
    };
    Some((policy, Domain::parse(domain).ok()?, defaults))
}

/// What may pass to an account that a leafnode joins: what services elsewhere read here, and what
/// copies elsewhere are sent.
fn may_link(seen: &Seen) -> Crossing {
    let all = here(seen)
        .and_then(|(policy, domain, defaults)| link::all_from(policy, &domain, &defaults).ok());
    all.unwrap_or_default()
}

/// What a link lacks: half of what a service or a copy elsewhere needs is as good as nothing, and
/// nobody there is told. Gives what passes.
fn links<'a>(
    seen: &Seen,
    state: &str,
    accounts: &'a [AccountOn],
    once: &mut Once<'a>,
) -> Vec<String> {
    let mut passing = Vec::new();
    let Some((policy, domain, defaults)) = here(seen) else { return passing };
    let services = policy.services().iter().filter_map(|service| {
        let crossing = link::read_by(service, &domain, &defaults).ok()?;
        Some((format!("what {} reads from another domain", service.name), crossing))
    });
    let copies = policy.buckets().iter().filter(|copy| copy.copied_from.as_ref() == Some(&domain));
    let copies = copies.map(|copy| {
        let crossing = link::copied_by(copy);
        (format!("the copy {} in another domain", copy.name), crossing)
    });
    let crossings: Vec<(String, Crossing)> = services.chain(copies).collect();
    for exporting in accounts.iter().filter(|account| account.name == state) {
        let others = || accounts.iter().filter(|a| a.server == exporting.server);
        for (what, crossing) in &crossings {
            let is_linked = |kind: &str, subject: &String| {
                exporting.exports.iter().any(|e| e.kind == kind && e.subject == *subject)
            };
            // The inboxes of one alone are exported for nothing else.
            if crossing.sent.is_empty() || !crossing.sent.iter().any(|s| is_linked("stream", s)) {
                continue;
            }
            let lines = crossing.requests.iter().chain(&crossing.answers).map(|s| ("service", s));
            for (kind, subject) in lines.chain(crossing.sent.iter().map(|s| ("stream", s))) {
                let local = subject.strip_prefix(API).map(|rest| format!("{domain}.{rest}"));
                let local = local.as_deref().unwrap_or(subject);
                // What services import is theirs.
                let linked =
                    others().filter(|account| !serves(seen, &account.name)).any(|account| {
                        let from_state = account.imports.iter().filter(|i| i.account == state);
                        from_state.into_iter().any(|i| {
                            i.kind == kind
                                && within(subject, &i.subject)
                                && within(local, &i.local_subject)
                        })
                    });
                if !linked {
                    once.problem(
                        &exporting.server,
                        format!("no account of a leafnode imports the {kind} `{subject}` of {state} as `{local}`: {what} fails as timeouts"),
                        LINES,
                    );
                }
            }
            passing.push(what.clone());
        }
        for copy in policy.buckets().iter().filter(|copy| copy.domain.as_ref() == Some(&domain)) {
            let Some(from) = &copy.copied_from else { continue };
            let api = format!("{}.CONSUMER.CREATE.x", domain_api(from.as_str()));
            let sent = format!("{}.>", copied_to(copy.name.as_str()));
            for (kind, subject) in [("service", &api), ("stream", &sent)] {
                let has = |i: &Import| i.kind == kind && within(subject, &i.local_subject);
                if !exporting.imports.iter().any(|i| has(i) && i.account != state) {
                    once.problem(
                        &exporting.server,
                        format!("{state} imports no {kind} from {from} for the copy {}: it gets no values", copy.name),
                        LINES,
                    );
                }
            }
        }
    }
    passing.sort_unstable();
    passing.dedup();
    passing
}

const LINES: &str = "`solewriter state link HUB LEAF` prints the lines of both servers";

fn imports(
    seen: &Seen,
    state: &str,
    accounts: &[AccountOn],
    linked: &Crossing,
    report: &mut Report,
) {
    let mut once = Once::new("imports", accounts);
    for account in accounts.iter().filter(|account| account.name != state) {
        let AccountOn { server, name, imports, .. } = account;
        let from_state: Vec<&Import> = imports.iter().filter(|i| i.account == state).collect();
        if serves(seen, name) {
            for pass in needed(seen) {
                let has = |i: &&Import| {
                    i.kind == pass.kind
                        && i.local_subject == i.subject
                        && within(&pass.subject, &i.subject)
                };
                if !from_state.iter().any(has) {
                    let Pass { kind, subject, what, .. } = &pass;
                    once.problem(
                        server,
                        format!("{name} does not import the {kind} `{subject}` of {state}: {what} fail as timeouts"),
                        format!("add {} to the imports of account {name}, and reload the server", pass.import(state)),
                    );
                }
            }
            twice(server, name, &from_state, &mut once);
            let others = imports
                .iter()
                .filter(|i| i.account != state && Some(i.account.as_str()) == control(seen));
            for import in others.filter(|i| !is_of_the_server(i)) {
                once.problem(
                    server,
                    format!(
                        "{name} imports `{}` of {}: services can reach the callout",
                        import.subject, import.account
                    ),
                    format!("remove it from the imports of account {name}"),
                );
            }
        }
        for import in from_state {
            let known = serves(seen, name)
                && import.subject == import.local_subject
                && may_pass(seen, &import.kind, &import.subject);
            // solewriter asks the stream of events for the last one of its own.
            let events = within(&import.subject, EVENTS)
                || (import.subject.starts_with("$JS.API.DIRECT.GET.")
                    && import.subject.contains(".audit.events."));
            let sweeps = Some(name.as_str()) == control(seen)
                && SWEEPS.iter().any(|pattern| within(&import.subject, pattern));
            let links = !serves(seen, name)
                && Some(name.as_str()) != control(seen)
                && linked.covers(&import.kind, &import.subject);
            if !known && !events && !sweeps && !links {
                once.problem(
                    server,
                    format!("{name} imports `{}` of {state} as `{}`: its users can reach the buckets, past the policy", import.subject, import.local_subject),
                    format!("remove it from the imports of account {name}"),
                );
            }
        }
    }
    of_the_audit(seen, accounts, &mut once);
    of_the_system(seen, accounts, &mut once);
    renamed(accounts, &mut once);
    of_one_subject(seen, accounts, &mut once);
    if once.report(report) {
        let mut names: Vec<&str> = accounts.iter().map(|a| a.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        if names.len() >= MOST_ACCOUNTS {
            let why = format!("only the first {MOST_ACCOUNTS} accounts were looked at");
            report.blind("imports", &Blind::new(why, "look at the others by hand"));
        }
        report.ok("imports", "services' accounts import what they need from it, and no other account imports anything");
    }
}

/// Imports from the account of the buckets that have a subject in common: the server passes what is
/// published there once for each, and each is stored.
fn twice<'a>(server: &'a str, name: &str, from_state: &[&Import], once: &mut Once<'a>) {
    let services: Vec<(&str, Pattern)> = from_state
        .iter()
        .filter(|import| import.kind == "service")
        .filter_map(|i| Some((i.local_subject.as_str(), Pattern::parse(&i.local_subject).ok()?)))
        .collect();
    for (at, (subject, pattern)) in services.iter().enumerate() {
        let others = services.iter().skip(at.saturating_add(1));
        for (other, _) in others.filter(|(_, other)| pattern.overlaps(other)) {
            once.problem(
                server,
                format!(
                    "{name} imports `{subject}` and `{other}`, which have subjects in common: what \
                     is published there is stored twice"
                ),
                format!("remove one of them from the imports of account {name}"),
            );
        }
    }
}

/// What services import of the audit streams' account: each as what, and under what name there.
fn audit_passes(seen: &Seen) -> [(&'static str, &'static str, String); 4] {
    let streams = &seen.settings.audit_streams;
    [
        ("service", "audit.services.>", "audit.events.>".to_owned()),
        ("service", JETSTREAM, format!("{}.>", streams.api())),
        ("service", "$JS.FC.>", String::new()),
        ("stream", "_INBOX.>", "_INBOX.>".to_owned()),
    ]
}

/// Whether anybody reaches the audit streams otherwise than they must be reached.
fn of_the_audit<'a>(seen: &Seen, accounts: &'a [AccountOn], once: &mut Once<'a>) {
    let account_of = |role| {
        let user = seen.users.iter().find(|user| user.role == role)?;
        user.account.as_deref().ok()
    };
    let (Some(audit), state) = (account_of(Role::AuditAdmin), account_of(Role::Admin)) else {
        return;
    };
    let streams = &seen.settings.audit_streams;
    if seen.settings.audit.is_none() || streams.are_beside_buckets() || Some(audit) == state {
        return;
    }
    let own = "audit.events.solewriter.*";
    let last = format!("$JS.API.DIRECT.GET.{}.{own}", streams.events());
    for AccountOn { server, name, imports, .. } in accounts.iter().filter(|a| a.name != audit) {
        let of_audit: Vec<&Import> = imports.iter().filter(|i| i.account == audit).collect();
        let is_callout = Some(name.as_str()) == control(seen);
        let missing = |kind: &str, subject: &str, local: &str| {
            !of_audit
                .iter()
                .any(|i| i.kind == kind && i.subject == subject && i.local_subject == local)
        };
        if serves(seen, name) {
            for (kind, subject, local) in audit_passes(seen).into_iter().take(2) {
                if missing(kind, subject, &local) {
                    once.problem(
                        server,
                        format!("{name} does not import the {kind} `{subject}` of {audit} as `{local}`: services cannot report violations or read the audit"),
                        format!("add {{ {kind}: {{ account: {audit}, subject: \"{subject}\" }}, to: \"{local}\" }} to the imports of account {name}"),
                    );
                }
            }
        }
        if is_callout && missing("service", own, own) {
            once.problem(
                server,
                format!("{name} does not import `{own}` of {audit}: solewriter's events stay in the spools"),
                format!("add {{ service: {{ account: {audit}, subject: \"{own}\" }} }} to the imports of account {name}"),
            );
        }
        for import in of_audit {
            let passes = serves(seen, name)
                && audit_passes(seen).iter().any(|(kind, subject, local)| {
                    *kind == import.kind
                        && within(&import.subject, subject)
                        && (import.local_subject == *local
                            || local.is_empty() && import.local_subject == import.subject)
                });
            let sink = is_callout
                && (import.subject == own
                    || import.subject == last
                    || SWEEPS.iter().any(|pattern| within(&import.subject, pattern)));
            // In operator mode, where a JWT has no two services under one subject, flow control
            // goes through the account of the buckets, in which services are not.
            let through = state == Some(name)
                && import.local_subject == import.subject
                && import.subject.starts_with("$JS.FC.");
            if !passes && !sink && !through {
                once.problem(
                    server,
                    format!(
                        "{name} imports `{}` of {audit} as `{}`: its users reach the audit past \
                         the policy",
                        import.subject, import.local_subject
                    ),
                    format!("remove it from the imports of account {name}"),
                );
            }
        }
    }
}

/// Whether anybody imports more of the servers' account than the system user asks.
fn of_the_system<'a>(seen: &Seen, accounts: &'a [AccountOn], once: &mut Once<'a>) {
    let user = seen.users.iter().find(|user| user.role == Role::System);
    let asker = user.and_then(|user| user.account.as_deref().ok());
    let is_system =
        |name: &str| accounts.iter().any(|account| account.is_system && account.name == name);
    for AccountOn { server, name, imports, .. } in accounts.iter().filter(|a| !a.is_system) {
        for import in imports.iter().filter(|i| is_system(&i.account)) {
            let by_itself = import.subject == JETSTREAM
                || ["ACCOUNT", "USER"]
                    .iter()
                    .any(|what| import.subject.starts_with(&format!("$SYS.REQ.{what}.{name}.")));
            let asks = asker == Some(name) && ASKS.contains(&import.subject.as_str());
            if !by_itself && !asks {
                once.problem(
                    server,
                    format!(
                        "{name} imports `{}` of {}, the system account: who logs in there can do \
                         what that does, to any account",
                        import.subject, import.account
                    ),
                    format!("remove it from the imports of account {name}"),
                );
            }
        }
    }
}

/// Imports into an account of services that have one name: the server gives it to whatever arrives
/// there, so a reply subject of any service reaches what is imported.
fn of_one_subject<'a>(seen: &Seen, accounts: &'a [AccountOn], once: &mut Once<'a>) {
    for AccountOn { server, name, imports, .. } in accounts.iter().filter(|a| serves(seen, &a.name))
    {
        let literal = |import: &&Import| {
            import.kind == "service"
                && !is_of_the_server(import)
                && !import.local_subject.split('.').any(|token| token == "*" || token == ">")
        };
        for import in imports.iter().filter(literal) {
            once.problem(
                server,
                format!(
                    "{name} imports the service `{}` of {} as `{}`: any service has JetStream \
                     publish there, with that as a reply subject",
                    import.subject, import.account, import.local_subject
                ),
                "import it with a wildcard and under its own name, or let services of another \
                 account call it",
            );
        }
    }
}

/// Imports that crash a server: with `*` in both names, and when a reply subject leads there.
fn renamed<'a>(accounts: &'a [AccountOn], once: &mut Once<'a>) {
    for AccountOn { server, name, imports, .. } in accounts {
        let renamed = |import: &&Import| {
            import.kind == "service"
                && import.subject != import.local_subject
                && import.local_subject.split('.').any(|token| token == "*")
        };
        for import in imports.iter().filter(renamed) {
            once.problem(
                server,
                format!(
                    "{name} imports `{}` of {} as `{}`: any user of {name} crashes a server of \
                     2.10 with that as a reply subject",
                    import.subject, import.account, import.local_subject
                ),
                "let both names end in `>` instead of `*`, or have the same name",
            );
        }
    }
}

/// Whether a connection was let in by solewriter, which gave it its name.
fn is_granted(connection: &Connection) -> bool {
    ConnectionName::parse(&connection.authorized_user).is_some()
}

fn logins(seen: &Seen, isolated: bool, report: &mut Report) {
    let ours: Vec<&str> = seen
        .users
        .iter()
        .filter(|user| user.login == SeenLogin::In)
        .filter_map(|user| user.key.as_deref())
        .collect();
    let (mut strangers, mut leafnodes) = (Vec::new(), Vec::new());
    for (place, connections) in
        [("the services' account", &seen.connections), ("an account of ours", &seen.guests)]
    {
        let connections = match connections {
            Ok(connections) => connections,
            Err(blind) => return report.blind("logins", blind),
        };
        // Who has not moved is told of as that.
        let old = seen.adoption.iter().flatten().map(|adoption| adoption.old.as_str()).next();
        for connection in connections.iter().filter(|c| Some(c.account.as_str()) != old) {
            let known = ours.contains(&connection.authorized_user.as_str())
                || (is_granted(connection) && (serves(seen, &connection.account) || !isolated));
            if !known {
                let who = format!("{:?} ({:?})", connection.authorized_user, connection.name);
                let account =
                    if connection.account.is_empty() { place } else { &connection.account };
                let text = format!("in {account}: {who}");
                let found =
                    if connection.kind == "Leafnode" { &mut leafnodes } else { &mut strangers };
                if !found.contains(&text) {
                    found.push(text);
                }
            }
        }
    }
    if strangers.is_empty() && leafnodes.is_empty() {
        report.ok("logins", "nobody else is connected there");
    }
    if !leafnodes.is_empty() {
        report.problem(
            "logins",
            format!(
                "leafnodes are connected whose clients no policy limits here\n{}",
                leafnodes.join("\n")
            ),
            "bind both ends of a leafnode to an account of its own, which imports and exports only \
             what passes, as docs/shapes.md shows",
        );
    }
    if !strangers.is_empty() {
        report.problem(
            "logins",
            format!("users are connected that no policy limits\n{}", strangers.join("\n")),
            "remove them from the server's configuration: services get in through solewriter, and \
             only solewriter's own users belong in their accounts, and nobody in the system account",
        );
    }
}
