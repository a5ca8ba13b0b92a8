//! The servers: reachable, new enough, and with their clocks right.

use std::collections::BTreeMap;

use semver::Version;

use super::Report;
use super::seen::{Address, Blind, Entry, Info, Seen, SeenLogin, SeenServer};
use crate::buckets::elsewhere;
use crate::nats::certificate::Validity;
use solewriter_core::diagnostics::toml::show_duration;
use solewriter_types::advisories::{
    self, ADVISORIES, Advisory, LEAFNODES_HELD, Needs, UP_TO, clean, holds_leafnodes, plain,
};

/// The first version with auth callout.
const OLDEST: (u64, u64) = (2, 10);
/// The newest line that the tests run on.
const NEWEST: (u64, u64) = (2, 15);
/// What nats-server takes in one message when nobody says otherwise.
const DEFAULT_MAX_PAYLOAD: u64 = 1024 * 1024;
/// Certificates that are valid for less are warned about, in seconds; of those that are made for a
/// short time, a quarter of it.
const SOON: i64 = 30 * 24 * 3600;
/// Clocks that differ less agree, in seconds.
const AGREE: f64 = 0.5;

/// Judges the servers.
pub fn judge(seen: &Seen, report: &mut Report) {
    addresses(seen, report);
    versions(seen, report);
    nonce(seen, report);
    tls(seen, report);
    certificates(seen, report);
    gateways(seen, report);
    leafnodes(seen, report);
    clocks(seen, report);
    features(seen, report);
}

/// Says whether TLS keeps us from seeing anything.
pub fn without_tls(seen: &Seen, report: &mut Report) -> bool {
    let why = seen.users.iter().find_map(|user| match &user.login {
        SeenLogin::NoTls(why, mend) => Some((why, mend)),
        _ => None,
    });
    let Some((why, mend)) = why else { return false };
    addresses(seen, report);
    certificates(seen, report);
    report.problem(
        "tls",
        format!("no connection to nats-server: {why}"),
        format!("{mend}; then the rest can be checked"),
    );
    true
}

fn greeted(seen: &Seen) -> impl Iterator<Item = (&Address, &Info)> {
    seen.addresses.iter().filter_map(|address| Some((address, address.info.as_ref().ok()?)))
}

fn addresses(seen: &Seen, report: &mut Report) {
    for Address { name, info, .. } in &seen.addresses {
        match info {
            Ok(info) => report.ok(
                "address",
                format!("{name} is {} (nats-server {})", info.server_name, info.version),
            ),
            Err(Blind { why, mend }) if mend.starts_with("nothing") => {
                report.ok("address", format!("{name}: {why}"));
            }
            Err(Blind { why, mend }) => report.problem("address", format!("{name}: {why}"), mend),
        }
    }
    if let Ok(servers) = &seen.servers
        && servers.len() < seen.active_servers
    {
        report.problem(
            "address",
            format!(
                "{} of {} servers did not answer the system user",
                seen.active_servers - servers.len(),
                seen.active_servers
            ),
            "look at their logs and at the load; the following is about the other servers",
        );
    }
    if !seen.untold.is_empty() {
        report.problem(
            "address",
            format!(
                "these servers do not list open connections correctly, so a change does not \
                 reach connections on them:\n{}",
                seen.untold.join("\n")
            ),
            "look at their logs and at the load; an answer that cannot be true comes from a server \
             that is not what you started, or from a user of the system account who plays one",
        );
    }
}

/// Each server's name and version, as widely as can be seen.
fn known(seen: &Seen) -> Vec<(String, String, Option<&SeenServer>)> {
    match &seen.servers {
        Ok(servers) => {
            servers.iter().map(|s| (s.name.clone(), s.version.clone(), Some(s))).collect()
        }
        Err(_) => greeted(seen)
            .map(|(_, info)| (info.server_name.clone(), info.version.clone(), None))
            .collect(),
    }
}

fn versions(seen: &Seen, report: &mut Report) {
    let servers = known(seen);
    let mut by_version: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, version, _) in &servers {
        by_version.entry(version).or_default().push(name);
    }
    let anybody = seen.anonymous.iter().any(|(_, entry)| matches!(entry, Ok(Entry::Entered(_))))
        || servers.iter().any(|(_, _, server)| server.is_some_and(|s| !s.guests.is_empty()));
    if by_version.is_empty() {
        let blind = Blind::new("no server could be asked", "see `address`");
        report.blind("version", &blind);
        report.blind("advisories", &blind);
        return;
    }
    if by_version.len() > 1 {
        let each: Vec<String> =
            by_version.iter().map(|(v, names)| format!("{v} on {}", names.join(", "))).collect();
        report.warning(
            "version",
            format!("the servers are of different versions: {}", each.join("; ")),
            "finish the upgrade: a cluster is as strict as its oldest server",
        );
    }
    for (version, names) in &by_version {
        let on = names.join(", ");
        match advisories::version(version) {
            None => report.warning(
                "version",
                format!("{on}: {version:?} is not a version number that solewriter knows"),
                "run a release of nats-server",
            ),
            Some(parsed) if (parsed.major, parsed.minor) < OLDEST => report.problem(
                "version",
                format!("{on}: nats-server {version} has no authorization callout"),
                "upgrade to 2.10 or newer",
            ),
            Some(parsed) => {
                if (parsed.major, parsed.minor) > NEWEST {
                    report.warning(
                        "version",
                        format!("{on}: nats-server {version} is newer than the versions that solewriter was tested with"),
                        "look for a newer solewriter, or run its tests with this server",
                    );
                } else if by_version.len() == 1 {
                    report.ok("version", format!("nats-server {version} on {on}"));
                }
                holes(&parsed, &on, &servers, anybody, report);
            }
        }
    }
}

/// What is known of one version, on these servers.
fn holes(
    version: &Version,
    on: &str,
    servers: &[(String, String, Option<&SeenServer>)],
    anybody: bool,
    report: &mut Report,
) {
    let all = ADVISORIES.iter().filter(|advisory| advisory.affects(version));
    let (found, ours): (Vec<&Advisory>, Vec<&Advisory>) = all.partition(|a| a.note.is_some());
    for (Advisory { name, .. }, opens) in ours.into_iter().filter_map(|a| Some((a, a.opens?))) {
        let text = format!("{version} on {on} ({name}): {}", opens.reason);
        report.warning("advisories", text, opens.mitigation);
    }
    if found.is_empty() {
        report.ok("advisories", format!("none in {version} (notes up to {UP_TO})"));
        return;
    }
    let fixed: Vec<String> = clean().iter().map(ToString::to_string).collect();
    let mend = format!("upgrade to nats-server {} or newer", fixed.join(", "));
    let listens = |takes: fn(&SeenServer) -> bool| {
        servers.iter().any(|(_, _, server)| server.is_none_or(takes))
    };
    let (open, closed): (Vec<&Advisory>, Vec<&Advisory>) =
        found.into_iter().partition(|advisory| match advisory.needs {
            Needs::Nothing => true,
            Needs::Mqtt => listens(|server| server.mqtt),
            Needs::Leafnodes => listens(|server| server.leafnodes),
            Needs::NoAuthUser => anybody,
            Needs::Unusual(_) => false,
        });
    if !open.is_empty() {
        let list: Vec<String> = open
            .iter()
            .filter_map(|a| Some((a, a.note?, a.link()?)))
            .map(|(a, note, link)| format!("{note} ({}): {}\n  {link}", a.name, a.title))
            .collect();
        let text = format!("{version} on {on} has known holes:\n{}", list.join("\n"));
        report.problem("advisories", text, mend.clone());
    }
    if !closed.is_empty() {
        let list: Vec<String> = closed
            .iter()
            .filter_map(|a| Some(format!("{} needs {}", a.note?, needs(a.needs))))
            .collect();
        let text = format!(
            "{version} on {on} has holes that do not matter here unless something is added:\n{}",
            list.join("\n")
        );
        report.warning("advisories", text, mend);
    }
}

fn needs(needs: Needs) -> &'static str {
    match needs {
        Needs::Nothing => "nothing",
        Needs::Mqtt => "an MQTT listener",
        Needs::Leafnodes => "a leafnode listener",
        Needs::NoAuthUser => "`no_auth_user` in the server's configuration",
        Needs::Unusual(what) => what,
    }
}

fn nonce(seen: &Seen, report: &mut Report) {
    let mut any = false;
    for (address, info) in greeted(seen) {
        any = true;
        if info.nonce.is_empty() {
            report.problem(
                "nonce",
                format!("{} gives clients nothing to sign: no user of its configuration has an nkey", address.name),
                "give the callout's user an nkey, not a password: `users: [ { nkey: U... } ]`, and list it in auth_users",
            );
        } else {
            report.ok("nonce", format!("{} gives one", address.name));
        }
    }
    if !any {
        report.blind("nonce", &Blind::new("no server was heard", "see `address`"));
    }
}

fn tls(seen: &Seen, report: &mut Report) {
    for address in &seen.addresses {
        let name = &address.name;
        let demanded = address.info.as_ref().is_ok_and(|info| info.tls_required);
        if address.tls || demanded {
            report.ok("tls", format!("{name}: encrypted"));
        } else if address.loopback {
            report.ok("tls", format!("{name} is this machine"));
        } else if address.info.is_ok() {
            report.warning(
                "tls",
                format!("{name} is another machine, and the connection is not encrypted"),
                "set up `tls { }` in nats-server, and [nats.tls] required = true",
            );
        }
    }
}

/// The certificates that are seen: the servers', and those of the settings.
fn certificates(seen: &Seen, report: &mut Report) {
    let now = seen.now.as_second();
    let of_servers = seen.addresses.iter().filter_map(|address| {
        let mend = "renew it, and have nats-server read it (`nats-server --signal reload`)";
        Some((format!("of {}", address.name), address.certificate?, mend))
    });
    let own = seen.certificates.iter().map(|(setting, validity)| {
        let mend = "renew it in that file, which is read again for each connection";
        (format!("in {setting}"), *validity, mend)
    });
    for (whose, Validity { from, until }, mend) in of_servers.chain(own) {
        let left = until.saturating_sub(now);
        let soon = (until.saturating_sub(from) / 4).min(SOON);
        if left < 0 {
            let found = format!("the certificate {whose} expired {} ago", roughly(-left));
            report.problem("certificates", found, mend);
        } else if from > now {
            let found = format!("the certificate {whose} is valid in {}", roughly(from - now));
            report.problem("certificates", found, "compare the clocks, or wait");
        } else if left < soon {
            let found = format!("the certificate {whose} expires in {}", roughly(left));
            report.warning("certificates", found, mend);
        } else {
            let found = format!("the certificate {whose} is valid for {} more", roughly(left));
            report.ok("certificates", found);
        }
    }
}

/// A time in words, rounded down.
fn roughly(seconds: i64) -> String {
    let (count, unit) = match seconds {
        ..7200 => (seconds / 60, "minutes"),
        7200..172_800 => (seconds / 3600, "hours"),
        _ => (seconds / 86400, "days"),
    };
    format!("{count} {unit}")
}

/// What a server is set to that changes what clients are sent or may be granted.
fn features(seen: &Seen, report: &mut Report) {
    let servers = match &seen.servers {
        Ok(servers) => servers,
        Err(blind) => return report.blind("features", blind),
    };
    let on = |which: fn(&&SeenServer) -> bool| -> Vec<&str> {
        servers.iter().filter(which).map(|server| server.name.as_str()).collect()
    };
    let newer = on(|server| server.newer_flow_control);
    if !newer.is_empty() {
        report.warning(
            "features",
            format!(
                "js_ack_fc_v2 is on at {}: nats.py 2.16 fails there at each watch",
                newer.join(", ")
            ),
            "leave it off while a service uses that library; both forms are granted",
        );
    }
    let narrow = on(|server| (1..DEFAULT_MAX_PAYLOAD).contains(&server.max_payload));
    if !narrow.is_empty() {
        report.warning(
            "features",
            format!(
                "max_payload at {} is below the default, so fewer subjects fit into a grant \
                 than `solewriter check` says",
                narrow.join(", ")
            ),
            "raise max_payload to 1MB, or watch for the reason `grant_too_large`",
        );
    }
    if newer.is_empty() && narrow.is_empty() {
        report.ok("features", "nothing is switched on that clients cannot handle".to_owned());
    }
}

fn gateways(seen: &Seen, report: &mut Report) {
    let servers = match &seen.servers {
        Ok(servers) => servers,
        Err(blind) => return report.blind("gateways", blind),
    };
    let joined: Vec<String> = servers
        .iter()
        .filter(|server| !server.gateway.is_empty())
        .map(|server| format!("{} (of {})", server.name, server.gateway))
        .collect();
    if joined.is_empty() {
        return report.ok("gateways", "none".to_owned());
    }
    let joined = joined.join(", ");
    let Some(cluster) = &seen.settings.cluster else {
        return report.problem(
            "gateways",
            format!(
                "{joined} joined by gateways: where two clusters have streams, a service that reads a \
                 bucket can have JetStream overwrite and erase any bucket of the other one"
            ),
            "name the cluster that is to have all streams in [state] cluster, then `solewriter state \
             apply`; or take `gateway { }` out of the servers' configuration. No permission closes \
             this hole",
        );
    };
    let mut wrong = Vec::new();
    for streams in [&seen.streams, &seen.audit_streams] {
        match streams {
            Ok(streams) => wrong.extend(elsewhere(streams, cluster)),
            Err(blind) => return report.blind("gateways", blind),
        }
    }
    if wrong.is_empty() {
        let found = format!("{joined} joined by gateways; all streams are in cluster {cluster}");
        return report.ok("gateways", found);
    }
    report.problem(
        "gateways",
        format!(
            "{joined} joined by gateways, and not all streams are in cluster {cluster}: {}. A service \
             that reads a bucket can have JetStream overwrite and erase those of another cluster",
            wrong.join(", ")
        ),
        "see `solewriter state plan`, then `solewriter state apply`; move streams that no policy \
         declares by hand",
    );
}

fn leafnodes(seen: &Seen, report: &mut Report) {
    let servers = match &seen.servers {
        Ok(servers) => servers,
        Err(blind) => return report.blind("leafnodes", blind),
    };
    let loose: Vec<String> = servers
        .iter()
        .filter(|server| server.leafnodes && !holds_leafnodes(&server.version))
        .map(|server| format!("{} ({})", server.name, server.version))
        .collect();
    if loose.is_empty() {
        return report.ok(
            "leafnodes",
            "every server that accepts leafnodes enforces their permissions".to_owned(),
        );
    }
    report.warning(
        "leafnodes",
        format!(
            "{}: leafnode permissions are not enforced there; solewriter lets no service in as \
             one, and whoever gets in without it is not held",
            loose.join(", ")
        ),
        format!(
            "run nats-server {} or later, or close `leafnodes {{ }}`",
            LEAFNODES_HELD.map(|release| plain(release).to_string()).join(", ")
        ),
    );
}

fn clocks(seen: &Seen, report: &mut Report) {
    let servers = match &seen.servers {
        Ok(servers) => servers,
        Err(blind) => return report.blind("clock", blind),
    };
    let leeway = seen.settings.clock_leeway;
    let mut worst = 0.0_f64;
    for SeenServer { name, ahead, .. } in servers {
        worst = worst.max(ahead.abs());
        if ahead.abs() <= AGREE {
            continue;
        }
        let direction = if *ahead > 0.0 { "ahead of" } else { "behind" };
        let text = format!("the clock of {name} is {:.1} s {direction} the one here", ahead.abs());
        let mend = "synchronise the clocks (chrony, ntpd, systemd-timesyncd), here and there";
        if ahead.abs() > leeway.as_secs_f64() {
            let leeway = show_duration(leeway);
            report.problem(
                "clock",
                format!("{text}, more than [limits] clock_leeway, {leeway}"),
                mend,
            );
        } else {
            report.warning("clock", text, mend);
        }
    }
    if worst <= AGREE {
        report.ok("clock", format!("within {AGREE} s of the one here"));
    }
}
