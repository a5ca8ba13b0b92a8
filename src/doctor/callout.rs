//! The callout: asked, sealed, signed for the right issuer, answered, and in time.

use std::time::Duration;

use super::seen::{Blind, Content, Entry, Look, Probe, Role, Seen, SeenLogin, User};
use super::{Report, instances};
use crate::signer::client::Unheld;
use solewriter_core::diagnostics::toml::show_duration;

/// A shorter `authorization.timeout` does not outlast an instance that dies.
const SHORTEST: f64 = 2.0;
/// One that is shorter still refuses clients on a busy day.
const FAR_TOO_SHORT: f64 = 1.0;
/// An answer is in time that takes less than this part of what the server waits.
const IN_TIME: f64 = 0.8;

const APART: &str = "put it into an account of its own, as deploy/nats-server.conf does";

/// Judges the callout.
pub fn judge(seen: &Seen, report: &mut Report) {
    users(seen, report);
    places(seen, report);
    signer(seen, report);
    match &seen.probes {
        Ok(probes) => {
            let asked: Vec<&Probe> = probes.iter().filter(|p| asked(seen, p, report)).collect();
            issuer(seen, &asked, report);
            xkey(seen, &asked, report);
            instances::takers(seen, report);
            answer(seen, &asked, report);
        }
        Err(blind) => {
            for check in ["callout", "issuer", "xkey", "answer"] {
                report.blind(check, blind);
            }
            instances::takers(seen, report);
        }
    }
    instances::revisions(seen, report);
    instances::handovers(seen, report);
    instances::emergencies(seen, report);
    timeout(seen, report);
    anonymous(seen, report);
}

fn users(seen: &Seen, report: &mut Report) {
    for User { role, login, called_out, account, .. } in &seen.users {
        let name = role.name();
        let place =
            account.as_ref().map_or_else(|_| String::new(), |a| format!(", in account {a}"));
        let list = "add its public key to auth_callout.auth_users and restart nats-server";
        match (login, called_out) {
            (SeenLogin::NotSet, _) => report.blind(
                "users",
                &Blind::new(format!("{name}: no seed"), format!("set {} to look at it", role.setting())),
            ),
            (SeenLogin::Unusable(why), _) => report.problem(
                "users",
                format!("{name}: {why}"),
                format!("give {} a seed file that only you can read", role.setting()),
            ),
            (SeenLogin::NoTls(why, _), _) => report.problem("users", format!("{name}: {why}"), "see `tls`"),
            (SeenLogin::Refused(_), Some(true)) => report.problem(
                "users",
                format!("{name}: the server asks solewriter about it, and solewriter knows only services"),
                list,
            ),
            (SeenLogin::Refused(_), _) if report.has_problem("nonce") => report.blind(
                "users",
                &Blind::new(format!("{name}: nobody can prove that they have a key"), "mend `nonce` first"),
            ),
            (SeenLogin::Refused(why), _) => report.problem(
                "users",
                format!("{name}: {why}"),
                "compare its public key with the server's configuration, and check that it is in \
                 auth_users",
            ),
            (SeenLogin::In, Some(true)) => report.problem(
                "users",
                format!("{name}: it got in only through solewriter{place}"),
                list,
            ),
            (SeenLogin::In, _) => report.ok("users", format!("{name}: in{place}")),
        }
    }
}

/// Whether our users are in accounts where they do no harm.
fn places(seen: &Seen, report: &mut Report) {
    let serves = |account: &str| seen.settings.accounts.iter().any(|a| &**a == account);
    let apart = APART;
    // The admin's account is the matter of `isolation`.
    for role in [Role::Callout, Role::Control, Role::System, Role::AuditAdmin, Role::Publisher] {
        if let Some(account) = seen.account(role).filter(|account| serves(account)) {
            report.problem(
                "users",
                format!("{}: it is in {account}, where services are placed", role.name()),
                apart,
            );
        }
    }
    for role in [Role::Callout, Role::Control] {
        if let (Some(own), Some(admin)) = (seen.account(role), seen.account(Role::Admin))
            && own == admin
            && !serves(admin)
        {
            report.problem(
                "users",
                format!("{}: it is in {admin}, beside the buckets", role.name()),
                apart,
            );
        }
    }
    let control = seen.users.iter().find(|user| user.role == Role::Control);
    let control = control.map_or(Role::Callout, |user| user.role);
    if let (Some(own), Some(publisher)) = (seen.account(control), seen.account(Role::Publisher))
        && own == publisher
        && !serves(publisher)
    {
        report.problem(
            "users",
            format!(
                "publisher: it is in {publisher}, beside the {}: where the policy's \
                 bucket is there too, the {}'s seed alone writes the policy, through a reply \
                 subject",
                control.name(),
                if control == Role::Callout { "callout" } else { "tenant" },
            ),
            format!("{apart} (PUBLISH), and the bucket into another (POLICY): `solewriter upgrade` says how"),
        );
    }
    let is_system = |name: &str| {
        seen.accounts.iter().flatten().any(|account| account.is_system && account.name == name)
    };
    for role in Role::ALL.into_iter().chain([Role::Control]) {
        let Some(account) = seen.account(role).filter(|account| is_system(account)) else {
            continue;
        };
        report.problem(
            "users",
            format!(
                "{}: it logs in to {account}, the system account. In a cluster its seed alone \
                 purges any account, whatever its permissions, through a reply subject",
                role.name()
            ),
            "put it into an account of its own that imports what it asks, as \
             deploy/nats-server.conf does (MONITOR): `solewriter upgrade` says how",
        );
    }
}

/// Whether the server made a request for the probe; says so.
fn asked(seen: &Seen, probe: &Probe, report: &mut Report) -> bool {
    let Probe { address, entry, request } = probe;
    let here = seen.account(Role::Callout).unwrap_or("the callout user's account");
    match (entry, request) {
        (Ok(Entry::Entered(account)), _) => {
            let place =
                account.as_ref().map_or_else(String::new, |a| format!(", into account {a}"));
            report.problem(
                "callout",
                format!("{address} let in an unknown key{place}"),
                "configure authorization { auth_callout } as deploy/nats-server.conf does; if it \
                 is, somebody else answers requests: see `instances`",
            );
        }
        (Err(blind), None) => report
            .blind("callout", &Blind::new(format!("{address}: {}", blind.why), blind.mend.clone())),
        (Ok(Entry::Refused(_)), None) => report.problem(
            "callout",
            format!("{address} refuses an unknown key without asking in {here}"),
            format!(
                "set authorization {{ auth_callout {{ account: {here} }} }} in nats-server's \
                 configuration, and restart it"
            ),
        ),
        (_, Some(request)) => {
            if request.content.as_ref().is_some_and(|content| !content.verified) {
                report.problem(
                    "callout",
                    format!("{address}: there is a request in {here} that no server signed"),
                    "check who can publish in that account; only nats-server may send requests",
                );
            } else {
                report.ok("callout", format!("{address} asks in {here}"));
            }
            return true;
        }
    }
    false
}

/// What the request for a probe says.
fn content(probe: &Probe) -> Option<(&str, &Content)> {
    Some((&probe.address, probe.request.as_ref()?.content.as_ref()?))
}

fn not_asked() -> Blind {
    Blind::new("no request was made", "see `callout`")
}

fn signer(seen: &Seen, report: &mut Report) {
    match &seen.settings.signer {
        None => {}
        Some(Ok(())) => report.ok("issuer", "the signer answers, and holds the key"),
        Some(Err(Unheld::TurnedAway(why))) => report.blind(
            "issuer",
            &Blind::new(why, "run this as the user of `serve` to have the signer looked at"),
        ),
        Some(Err(Unheld::Fails(why))) => report.problem(
            "issuer",
            why,
            "nobody is let in without it: start `solewriter signer` with that key, or set [issuer] key to one that it holds",
        ),
    }
}

fn issuer(seen: &Seen, asked: &[&Probe], report: &mut Report) {
    let ours = match &seen.settings.issuer {
        Ok(ours) => ours,
        Err(blind) => return report.blind("issuer", blind),
    };
    let opened: Vec<(&str, &Content)> = asked.iter().filter_map(|probe| content(probe)).collect();
    if opened.is_empty() {
        let unopened = Blind::new("no request could be opened", "see `xkey`");
        return report.blind("issuer", &if asked.is_empty() { not_asked() } else { unopened });
    }
    for (address, content) in opened {
        if content.issuer == *ours {
            report.ok("issuer", format!("{address} expects {ours}"));
        } else {
            report.problem(
                "issuer",
                format!("{address} expects answers from {}, but [issuer] signs with {ours}", content.issuer),
                format!("set auth_callout.issuer: {ours} and restart nats-server, or use the other key here"),
            );
        }
    }
}

fn xkey(seen: &Seen, asked: &[&Probe], report: &mut Report) {
    let ours: &Option<String> = match &seen.settings.xkey {
        Ok(ours) => ours,
        Err(blind) => return report.blind("xkey", blind),
    };
    if asked.is_empty() {
        return report.blind("xkey", &not_asked());
    }
    for probe in asked {
        let Probe { address, request: Some(request), .. } = probe else { continue };
        match (ours, request.sealed, &request.content) {
            (Some(_), true, Some(_)) => {
                report.ok("xkey", format!("{address} seals its requests for our xkey"));
            }
            (Some(ours), true, None) => report.problem(
                "xkey",
                format!("{address} seals its requests for another xkey; ours is {ours}"),
                format!("set auth_callout.xkey: {ours} and restart nats-server, or use the seed of the other key"),
            ),
            (Some(ours), false, _) => report.problem(
                "xkey",
                format!("{address} does not seal its requests, and `serve` refuses unsealed ones"),
                format!("set auth_callout.xkey: {ours} and restart nats-server"),
            ),
            (None, true, _) => report.problem(
                "xkey",
                format!("{address} seals its requests, but [xkey] seed is not set"),
                "set [xkey] seed to the seed of the server's auth_callout.xkey",
            ),
            (None, false, _) => report.warning(
                "xkey",
                format!("{address} does not seal its requests: everybody in that account can read the clients' credentials"),
                "make a curve key (`solewriter init` does), and set auth_callout.xkey and [xkey] \
                 seed",
            ),
        }
    }
}

/// How long servers wait for an answer, in seconds: as they say, or as a request tells.
fn waits(seen: &Seen) -> Option<f64> {
    if let Ok(servers) = &seen.servers
        && let Some(least) = servers.iter().map(|server| server.auth_timeout).reduce(f64::min)
    {
        return Some(least);
    }
    let probes = seen.probes.as_ref().ok()?;
    let waits = probes.iter().filter_map(|probe| Some(content(probe)?.1.waits)).min()?;
    u32::try_from(waits).ok().map(f64::from)
}

fn answer(seen: &Seen, asked: &[&Probe], report: &mut Report) {
    let limit = waits(seen).unwrap_or(SHORTEST) * IN_TIME;
    if asked.is_empty() {
        return report.blind("answer", &not_asked());
    }
    for probe in asked {
        let Probe { address, entry, .. } = probe;
        let took = match entry {
            Ok(Entry::Refused(took)) => *took,
            Ok(Entry::Entered(_)) => continue,
            Err(blind) => {
                report.blind("answer", blind);
                continue;
            }
        };
        if took.as_secs_f64() < limit {
            let took = Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or_default());
            report.ok(
                "answer",
                format!("{address}: a stranger was refused after {}", show_duration(took)),
            );
            continue;
        }
        // Then what is wrong is said there.
        if let Some(cause) =
            ["issuer", "xkey", "instances"].into_iter().find(|c| report.has_problem(c))
        {
            let why = format!("{address}: nobody answered in time");
            report.blind("answer", &Blind::new(why, format!("mend `{cause}` first")));
        } else {
            report.problem(
                "answer",
                format!("{address}: nobody answered before the server gave up"),
                "check that `solewriter serve` runs, and what its log and the metric \
                 solewriter_rejected_requests_total say",
            );
        }
    }
}

fn timeout(seen: &Seen, report: &mut Report) {
    let Some(waits) = waits(seen) else {
        return report.blind(
            "timeout",
            &Blind::new("it is unknown how long servers wait", "set [system] nkey_seed here"),
        );
    };
    let patience = seen.settings.patience;
    let mend = "set authorization { timeout: 10 } in nats-server's configuration";
    let text = format!("servers wait {waits} s for an answer");
    if waits < FAR_TOO_SHORT {
        report.problem("timeout", format!("{text}: too short for a busy moment"), mend);
    } else if patience.as_secs_f64() > waits {
        let patience = show_duration(patience);
        report.problem(
            "timeout",
            format!("{text}, but [limits] patience is {patience}: the last answers come too late"),
            format!("{mend}, or shorten [limits] patience"),
        );
    } else if waits < SHORTEST {
        report.warning(
            "timeout",
            format!("{text}: not enough for another instance to take over"),
            mend,
        );
    } else {
        report.ok("timeout", text);
    }
}

fn anonymous(seen: &Seen, report: &mut Report) {
    for server in seen.servers.iter().flatten() {
        for (listener, user) in &server.guests {
            report.problem(
                "anonymous",
                format!(
                    "{}: `{listener}` lets in clients without credentials, as {user:?}",
                    server.name
                ),
                format!("remove `no_auth_user` from `{listener}` in nats-server's configuration"),
            );
        }
    }
    for (address, entry) in &seen.anonymous {
        match entry {
            Look::Ok(Entry::Entered(account)) => {
                let place =
                    account.as_ref().map_or_else(String::new, |a| format!(" (account {a})"));
                report.problem(
                    "anonymous",
                    format!("{address} lets in clients without credentials{place}"),
                    "remove `no_auth_user` from nats-server's configuration, and check that it \
                     has `authorization`",
                );
            }
            Look::Ok(Entry::Refused(_)) => {
                report.ok("anonymous", format!("{address} refuses clients without credentials"));
            }
            Look::Err(blind) => report.blind(
                "anonymous",
                &Blind::new(format!("{address}: {}", blind.why), blind.mend.clone()),
            ),
        }
    }
}
