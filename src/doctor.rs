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
pub const CHECKS: [Check; 29] = [
    check(
        "address",
        "servers",
        "nobody",
        "Each of `[nats] servers` is a nats-server",
        "A dead one shows only when the others fail",
    ),
    check(
        "version",
        "servers",
        "nobody; all servers: system user",
        "Every server is 2.10 or newer, and all are of one version",
        "Older ones have no callout; mixed ones do not all enforce the same",
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
        "Seeds never travel, but values do, and a signed connection can be taken over",
    ),
    check(
        "gateways",
        "servers",
        "system user",
        "No server is a gateway to another cluster",
        "Across gateways JetStream delivers into buckets: any service that reads one erases others'",
    ),
    check(
        "leafnodes",
        "servers",
        "system user",
        "Servers that take leafnodes hold them to their permissions",
        "On older ones a leafnode writes whatever it likes; solewriter lets none in there",
    ),
    check(
        "clock",
        "servers",
        "system user",
        "Clocks agree, within `[limits] clock_leeway`",
        "Requests and permissions have times; a request that seems expired is dropped",
    ),
    check(
        "features",
        "servers",
        "system user",
        "Servers send and take what clients and grants are made for",
        "A library that does not know a newer subject fails; a grant above `max_payload` is refused",
    ),
    check(
        "users",
        "callout",
        "each user's own seed",
        "Our users get in, without a callout, each in an account of its own, and none in the system account",
        "A user that is missing in `auth_users` depends on the service that it runs; one in the wrong account can do more than it is meant to",
    ),
    check(
        "callout",
        "callout",
        "callout user",
        "A key that nobody has makes the server ask, in the callout user's account",
        "Otherwise the server decides by itself",
    ),
    check(
        "issuer",
        "callout",
        "callout user, issuer",
        "Servers expect answers from our issuer",
        "An answer of another counts for nothing",
    ),
    check(
        "xkey",
        "callout",
        "callout user, xkey",
        "Requests are sealed, and to our xkey",
        "What is sealed to another cannot be opened, and is dropped",
    ),
    check(
        "instances",
        "callout",
        "system user, callout user",
        "Requests are taken by solewriter's instances, by each request one, and by more than one instance",
        "Another taker answers instead; a single one is missed when it restarts",
    ),
    check(
        "revisions",
        "callout",
        "callout user or publisher",
        "Every instance serves the newest policy, and its source answers",
        "One that is behind lets in by rules that are no more",
    ),
    check(
        "answer",
        "callout",
        "callout user",
        "The request is answered, long before the server gives up",
        "Otherwise nobody gets in",
    ),
    check(
        "timeout",
        "callout",
        "system user or callout user",
        "`authorization.timeout` is long enough, and not shorter than `[limits] patience`",
        "An answer to a client that has given up only delays the next",
    ),
    check(
        "anonymous",
        "callout",
        "nobody; WebSocket and MQTT: system user",
        "Nobody gets in without credentials",
        "`no_auth_user` lets in whoever shows none, past solewriter",
    ),
    check(
        "isolation",
        "accounts",
        "admin",
        "The account of the buckets is none that services are placed in",
        "In one account, JetStream writes for any client, through the reply subject",
    ),
    check(
        "jetstream",
        "accounts",
        "admin, system user",
        "JetStream is in the account of the buckets, and neither in the services', the callout's nor the publisher's",
        "Where it is beside services, the same attacks are open",
    ),
    check(
        "exports",
        "accounts",
        "admin, system user",
        "The account of the buckets exports what clients need, and nothing else; the callout's exports only that its instances live",
        "What is missing fails as a timeout; what is too much is a way around the rule",
    ),
    check(
        "imports",
        "accounts",
        "admin, system user",
        "The services' accounts import all of that, and no other account does; nobody imports more of the system account than `doctor` asks",
        "Another account's users get permissions from elsewhere",
    ),
    check(
        "mappings",
        "accounts",
        "system user",
        "The services' accounts have no `mappings`",
        "A mapped subject is published where it leads, and the server asks for leave to do that: the grant says something else",
    ),
    check(
        "logins",
        "accounts",
        "admin, system user",
        "Only solewriter's own users are in their accounts, only its grants in the services', and nobody is in the system account",
        "Whoever else is there is held by no policy",
    ),
    check(
        "policy",
        "state",
        "nobody",
        "The policy that the settings name holds",
        "A policy that does not hold is never served",
    ),
    check(
        "buckets",
        "state",
        "admin",
        "Every bucket is as the policy declares it",
        "The settings of a bucket decide who can harm whom in it",
    ),
    check(
        "audit",
        "state",
        "audit admin",
        "Two streams take audit events, none can be removed, and no producer pushes out another's",
        "Logs of a machine go with the machine",
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
        "Consumers of buckets and audit streams can be listed, and a grant covers each",
        "A consumer outlives the right of who made it, and goes on delivering",
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
}

impl Report {
    /// Judges what was seen.
    #[must_use]
    pub fn of(seen: &Seen) -> Self {
        let mut report = Self::default();
        // Behind a certificate that is not trusted, nothing is seen: one finding says so, and not
        // one for each thing.
        if !servers::untrusted(seen, &mut report) {
            servers::judge(seen, &mut report);
            callout::judge(seen, &mut report);
            accounts::judge(seen, &mut report);
            state::judge(seen, &mut report);
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
