//! Operator mode: the JWTs that servers have of our accounts.

use super::Report;
use super::seen::{Operator, Seen, Sentinel};
use crate::operator::About;

/// The checks, in their order.
const OWN: [&str; 6] =
    ["account-jwts", "delegation", "signing-keys", "activations", "bearer", "sentinel"];

/// Judges the account JWTs, where there are any.
pub fn judge(seen: &Seen, report: &mut Report) {
    let operator = match &seen.operator {
        None => return,
        Some(Err(blind)) => {
            for check in OWN {
                report.blind(check, blind);
            }
            return;
        }
        Some(Ok(operator)) => operator,
    };
    // What passes between the accounts is said there, as lines of a configuration.
    for finding in &mut report.findings {
        if ["exports", "imports", "jetstream"].contains(&finding.check)
            && let Some(mend) = &mut finding.mend
        {
            *mend += "\nin operator mode that is a change of the account's JWT, which `solewriter \
                      operator plan` prints";
        }
    }
    jwts(operator, report);
    for (check, about, fine) in [
        (
            "delegation",
            About::Delegation,
            "the callout user alone gets in unasked, and answers place nobody but where services are",
        ),
        ("signing-keys", About::SigningKeys, "our keys sign, and have no scope"),
        ("activations", About::Private, "exports are private, and each import has its activation"),
        ("bearer", About::Bearer, "a JWT without a seed gets nobody into our accounts"),
    ] {
        changes(operator, check, about, fine, report);
    }
    foreign_keys(operator, report);
    sentinel(operator, report);
}

fn jwts(operator: &Operator, report: &mut Report) {
    let mut fine = true;
    for missing in &operator.missing {
        fine = false;
        report.problem(
            "account-jwts",
            format!(
                "there is no JWT of {} in [operator] accounts ({})",
                missing.account, missing.by
            ),
            "make the account, and add the file with its JWT there",
        );
    }
    for (server, account) in &operator.others {
        fine = false;
        report.warning(
            "account-jwts",
            format!("{server} has another JWT of {account} than the file in [operator] accounts"),
            "push the one in the file, or write the server's to the file and restart `serve`: it \
             looks at the file when it starts",
        );
    }
    for (account, left) in &operator.ending {
        fine = false;
        report.warning(
            "account-jwts",
            format!(
                "the JWT of {account} ends in {} days, and its connections with it",
                left.max(&0) / 86_400
            ),
            format!("nsc edit account --name {account} --expiry 0, and push it"),
        );
    }
    if fine {
        report.ok("account-jwts", "servers have those of [operator] accounts, and none ends soon");
    }
}

/// One finding for each thing that is so on any server.
fn changes(
    operator: &Operator,
    check: &'static str,
    about: About,
    fine: &str,
    report: &mut Report,
) {
    let mut none = true;
    for (_, change) in operator.changes.iter().filter(|(_, change)| change.about == about) {
        none = false;
        let mut mend = change.nsc.join("\n");
        mend += "\nthen push it; `solewriter operator plan` prints all of these";
        report.problem(check, format!("{}: {}", change.account, change.found), mend);
    }
    if none {
        let unknown = &operator.unknown;
        if unknown.is_empty() || !["delegation", "signing-keys"].contains(&check) {
            report.ok(check, fine);
        } else {
            let blind = super::seen::Blind::new(
                format!("not all of it could be compared: {}", unknown.join("; ")),
                "run it where the seeds of `serve` are",
            );
            report.blind(check, &blind);
        }
    }
}

fn foreign_keys(operator: &Operator, report: &mut Report) {
    for (account, key) in operator.foreign_keys.iter().flatten() {
        report.warning(
            "signing-keys",
            format!(
                "{account}: {key} signs for it, and its seed is not in the settings here: who has it \
                 lets in whom they like"
            ),
            format!(
                "if it is a key that was replaced, nsc edit account --name {account} --rm-sk {key}, \
                 and push it"
            ),
        );
    }
}

fn sentinel(operator: &Operator, report: &mut Report) {
    match &operator.sentinel {
        Err(blind) => report.blind("sentinel", blind),
        Ok(Sentinel::None) => report.ok(
            "sentinel",
            "the server has no `default_sentinel`: clients connect with a JWT of their own",
        ),
        Ok(Sentinel::Set(wrong)) if wrong.is_empty() => {
            report.ok("sentinel", "`default_sentinel` leads to the callout, and permits nothing");
        }
        Ok(Sentinel::Set(wrong)) => report.problem(
            "sentinel",
            format!("`default_sentinel`: {}", wrong.join("\n")),
            "make another: a bearer user of the account that asks, signed by the account itself, \
             which denies `>` on both sides and is in no `auth_users`",
        ),
    }
}
