//! Is the running deployment what it should be? Each check says what is wrong, and how to mend it.
//!
//! [`look::look`] gathers what the settings let it see ([`seen::Seen`]); the families of checks
//! conclude from that alone, so that each conclusion can be tested without a server. What could not
//! be seen is said, and which setting would let it be.

use serde::Serialize;

pub mod accounts;
pub mod callout;
mod instances;
pub mod look;
pub mod movers;
mod operator;
pub mod seen;
pub mod servers;
pub mod state;

use self::seen::{Blind, Seen};

/// One thing that is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Its name, which never changes.
    pub id: &'static str,
    /// The group it is shown in.
    pub family: &'static str,
    /// What must be so.
    pub asks: &'static str,
    /// Why.
    pub why: &'static str,
    /// Which users it takes.
    pub takes: &'static str,
}

const fn check(
    id: &'static str,
    family: &'static str,
    takes: &'static str,
    asks: &'static str,
    why: &'static str,
) -> Check {
    Check { id, family, asks, why, takes }
}

/// Every check, in the order in which they are shown. `docs/doctor.md` is checked against it.
pub const CHECKS: [Check; 40] = [
    check(
        "address",
        "servers",
        "nobody",
        "Each of `[nats] servers` is a nats-server",
        "A dead address is noticed only when the others fail",
    ),
    check(
        "version",
        "servers",
        "nobody; all servers: system user",
        "Every server is 2.10 or newer, and all are of one version",
        "Older servers have no callout; servers of different versions do not enforce the same",
    ),
    check(
        "advisories",
        "servers",
        "nobody; all servers: system user",
        "No server has a published hole in its authorization",
        "Through such a hole, permissions do not hold, whatever the policy says",
    ),
    check(
        "nonce",
        "servers",
        "nobody",
        "Servers give clients a nonce to sign",
        "Without one, no client can prove that it has its key, and all are refused",
    ),
    check(
        "tls",
        "servers",
        "nobody",
        "What leaves this machine is encrypted",
        "Seeds are never sent, but values are, and a connection can be taken over after its login",
    ),
    check(
        "certificates",
        "servers",
        "nobody",
        "Certificates are valid, and not about to expire",
        "When one expires, nobody connects any more: no service, no instance, no tool",
    ),
    check(
        "gateways",
        "servers",
        "system user",
        "Where servers are gateways, the cluster that `[state] cluster` names has all streams",
        "Between clusters that both have streams, any service that reads a bucket can erase others",
    ),
    check(
        "leafnodes",
        "servers",
        "system user",
        "Servers that accept leafnodes enforce their permissions",
        "On older servers a leafnode can write anything; solewriter lets none in there",
    ),
    check(
        "clock",
        "servers",
        "system user",
        "Clocks agree, within `[limits] clock_leeway`",
        "Requests and permissions expire; a request that seems expired is dropped",
    ),
    check(
        "features",
        "servers",
        "system user",
        "Servers use the subjects that clients and grants expect, and accept large grants",
        "A library that does not know a newer subject fails; a grant larger than `max_payload` is refused",
    ),
    check(
        "users",
        "callout",
        "each user's own seed",
        "solewriter's own users get in without a callout, each in its own account, and none of them in the system account",
        "A user that is missing in `auth_users` needs solewriter to get in, and so solewriter needs itself; a user in the wrong account can do too much",
    ),
    check(
        "callout",
        "callout",
        "callout user",
        "For an unknown key the server asks, in the callout user's account",
        "Otherwise the server decides by itself",
    ),
    check(
        "issuer",
        "callout",
        "callout user, issuer",
        "Servers expect answers from our issuer; the signer holds its key, if there is one",
        "Servers ignore an answer of any other issuer",
    ),
    check(
        "xkey",
        "callout",
        "callout user, xkey",
        "Requests are sealed, for our xkey",
        "A request that is sealed for another xkey cannot be opened, and is dropped",
    ),
    check(
        "instances",
        "callout",
        "system user, callout user",
        "More than one instance takes requests, each request goes to one of them, and nobody else takes any",
        "Anybody else could answer instead; a single instance is missing while it restarts",
    ),
    check(
        "revisions",
        "callout",
        "callout user or publisher",
        "Every instance serves the newest policy, and its policy source answers",
        "An instance that is behind uses old rules",
    ),
    check(
        "handover",
        "callout",
        "callout user or publisher",
        "Nothing is in transit for long, and nowhere may two services write what moves",
        "Where it may, the old owner's open connections write beside the new owner",
    ),
    check(
        "emergency",
        "callout",
        "callout user or publisher",
        "No emergency grant counts",
        "A service writes what another one owns. It ends by itself",
    ),
    check(
        "answer",
        "callout",
        "callout user",
        "The request is answered long before the server gives up",
        "Otherwise nobody gets in",
    ),
    check(
        "timeout",
        "callout",
        "system user or callout user",
        "`authorization.timeout` is long enough, and not shorter than `[limits] patience`",
        "An answer to a client that has given up only delays the next answer",
    ),
    check(
        "anonymous",
        "callout",
        "nobody; WebSocket and MQTT: system user",
        "Nobody gets in without credentials",
        "With `no_auth_user`, a client without credentials gets in past solewriter",
    ),
    check(
        "isolation",
        "accounts",
        "admin",
        "No service is placed in the account of the buckets",
        "In the same account, any client can make JetStream write, through the reply subject",
    ),
    check(
        "jetstream",
        "accounts",
        "admin, system user",
        "The account of the buckets has JetStream; the accounts of the services, the callout and the publisher do not",
        "JetStream in a service's account opens the same attacks",
    ),
    check(
        "exports",
        "accounts",
        "admin, system user",
        "The account of the buckets exports what clients need, and nothing else; what passes by a leafnode passes whole; the callout's account exports only the heartbeats of instances",
        "Calls to a missing export time out; an export too many is a way around the policy",
    ),
    check(
        "imports",
        "accounts",
        "admin, system user",
        "The services' accounts import all of that, no subject of it twice, and no other account does; no account imports more of the system account than `doctor` needs",
        "The policy does not decide what users of another account may do",
    ),
    check(
        "mappings",
        "accounts",
        "system user",
        "The services' accounts have no `mappings`",
        "The server checks permissions for the mapped subject, not for the subject that the client used, so the grant means something else",
    ),
    check(
        "logins",
        "accounts",
        "admin, system user",
        "Only solewriter's own users are in their accounts, only clients that solewriter let in are in the services' accounts, and nobody is in the system account",
        "No policy limits anybody else who is there",
    ),
    check(
        "account-jwts",
        "operator mode",
        "system user",
        "Servers have the account JWTs of `[operator] accounts`, and none ends soon",
        "`serve` relies on what the files say; a connection ends with the JWT of its account",
    ),
    check(
        "delegation",
        "operator mode",
        "system user, callout user, xkey",
        "The JWT of the callout's account has the callout user alone in `auth_users`, the accounts of services alone in `allowed_accounts`, and our xkey",
        "Who is in `auth_users` gets in without a question; an answer may place somebody in each of `allowed_accounts`",
    ),
    check(
        "signing-keys",
        "operator mode",
        "system user, issuer, `[operator] seeds`",
        "Our keys sign for the accounts of the callout and of services, without a scope, and no other key does",
        "A scope takes the place of the policy; whoever has a key of an account lets in whom they like",
    ),
    check(
        "activations",
        "operator mode",
        "system user",
        "Exports of our accounts are private, and each import has an activation that holds",
        "Any account of the operator may import a public export",
    ),
    check(
        "bearer",
        "operator mode",
        "system user",
        "No account but the callout's takes bearer tokens",
        "Whoever sees such a JWT gets in with it, past the callout",
    ),
    check(
        "sentinel",
        "operator mode",
        "callout user, xkey",
        "`default_sentinel` is a user of the callout's account who may do nothing, or is not set",
        "Everybody has that user's JWT",
    ),
    check(
        "policy",
        "state",
        "nobody",
        "The policy that the settings name is valid",
        "A policy that is not valid is never served",
    ),
    check(
        "buckets",
        "state",
        "admin",
        "Every bucket is as the policy declares it",
        "The settings of a bucket decide whether its users can harm each other",
    ),
    check(
        "audit",
        "state",
        "audit admin",
        "Two streams take audit events, no event can be deleted, and no producer pushes out another's events",
        "Logs on a machine are lost with the machine",
    ),
    check(
        "connections",
        "state",
        "system user",
        "Open connections can be reached when the policy changes, and before their permissions end",
        "nats-server fixes permissions when a connection is made",
    ),
    check(
        "consumers",
        "state",
        "callout user",
        "Consumers of buckets, object stores and audit streams can be listed, and a grant covers each",
        "A consumer keeps delivering after its creator has lost the right to it",
    ),
    check(
        "movers",
        "adoption",
        "admin, system user; who may still log in: --server-config",
        "While the deployment is adopted: every service has moved, and nobody is left in the old account",
        "Who is left there is limited by no policy, and may write what others own",
    ),
    check(
        "one-writer",
        "adoption",
        "admin, system user, --server-config",
        "While the deployment is adopted: nobody of the old account can write what the policy gives one writer",
        "Single-writer holds for a keyspace when all have moved that could write it, not before",
    ),
];

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is so.
    Ok,
    /// It could not be looked at.
    NotSeen,
    /// It works, and should be better.
    Warning,
    /// It is not so.
    Problem,
}

impl Outcome {
    fn shown(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotSeen => "not seen",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check.
    pub check: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub mend: Option<String>,
}

/// What all checks found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order of [`CHECKS`].
    pub findings: Vec<Finding>,
    /// How far the adoption is, if there is one.
    pub adoption: Option<movers::Progress>,
}

impl Report {
    /// Judges what was seen.
    #[must_use]
    pub fn of(seen: &Seen) -> Self {
        let mut report = Self::default();
        // Where TLS fails, nothing is seen: one finding says so, and not
        // one for each thing.
        if !servers::without_tls(seen, &mut report) {
            servers::judge(seen, &mut report);
            callout::judge(seen, &mut report);
            accounts::judge(seen, &mut report);
            state::judge(seen, &mut report);
            movers::judge(seen, &mut report);
            operator::judge(seen, &mut report);
        }
        let place = |finding: &Finding| CHECKS.iter().position(|c| c.id == finding.check);
        report.findings.sort_by_key(place);
        report.findings.dedup();
        report
    }

    /// How many findings came out so.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.findings.iter().filter(|finding| finding.outcome == outcome).count()
    }

    /// Whether a check found a problem.
    fn has_problem(&self, check: &str) -> bool {
        self.findings.iter().any(|f| f.check == check && f.outcome == Outcome::Problem)
    }

    fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.add(check, Outcome::Ok, found.into(), None);
    }

    fn warning(&mut self, check: &'static str, found: impl Into<String>, mend: impl Into<String>) {
        self.add(check, Outcome::Warning, found.into(), Some(mend.into()));
    }

    fn problem(&mut self, check: &'static str, found: impl Into<String>, mend: impl Into<String>) {
        self.add(check, Outcome::Problem, found.into(), Some(mend.into()));
    }

    fn blind(&mut self, check: &'static str, blind: &Blind) {
        self.add(check, Outcome::NotSeen, blind.why.clone(), Some(blind.mend.clone()));
    }

    fn add(&mut self, check: &'static str, outcome: Outcome, found: String, mend: Option<String>) {
        self.findings.push(Finding { check, outcome, found, mend });
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut family = "";
        let width = CHECKS.iter().map(|check| check.id.len()).max().unwrap_or_default();
        for finding in &self.findings {
            let check = CHECKS.iter().find(|check| check.id == finding.check);
            let Some(check) = check else { continue };
            if check.family != family {
                let gap = if family.is_empty() { "" } else { "\n" };
                writeln!(f, "{gap}{}", check.family)?;
                family = check.family;
            }
            let outcome = finding.outcome.shown();
            let mut lines = finding.found.lines();
            let indent = 2 + 8 + 2 + width + 2;
            writeln!(
                f,
                "  {outcome:8}  {:width$}  {}",
                check.id,
                lines.next().unwrap_or_default()
            )?;
            for line in lines {
                writeln!(f, "{:indent$}{line}", "")?;
            }
            if let Some(mend) = &finding.mend {
                for (number, line) in mend.lines().enumerate() {
                    let arrow = if number == 0 { "-> " } else { "   " };
                    writeln!(f, "{:indent$}{arrow}{line}", "")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
