//! Which published holes in nats-server's authorization a version has.
//!
//! From the NATS project's security notes, <https://advisories.nats.io>, read up to note 2026-28 of
//! 2026-06-29. Notes about crashes and exhausted memory, and about what only the command line or
//! the monitoring port shows, are left out: they are no matter of who may do what.

use semver::Version;

use crate::defects::mended;

/// Until which note the table goes.
pub const UP_TO: &str = "2026-28 of 2026-06-29";

/// One security note.
#[derive(Clone, Copy, Debug)]
pub struct Advisory {
    /// The note's number.
    pub note: &'static str,
    /// Its CVE, or its GitHub advisory where there is none.
    pub alias: &'static str,
    /// What is wrong.
    pub title: &'static str,
    /// The first version that has it, where the note says so.
    pub since: &'static str,
    /// The first version of each line that has it no more. Lines below the lowest have no fix.
    pub fixed: &'static [&'static str],
    /// What it takes.
    pub needs: Needs,
}

/// What a hole takes besides a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: any service can use it.
    Nothing,
    /// A listener for MQTT.
    Mqtt,
    /// A listener for leafnodes.
    Leafnodes,
    /// `no_auth_user`, which lets in who shows no credentials.
    NoAuthUser,
    /// What this deployment has not, unless somebody put it there.
    Unusual(&'static str),
}

const fn note(
    note: &'static str,
    alias: &'static str,
    since: &'static str,
    fixed: &'static [&'static str],
    needs: Needs,
    title: &'static str,
) -> Advisory {
    Advisory { note, alias, title, since, fixed, needs }
}

/// The notes say "any version". Message tracing came with 2.11, and 2.10.25 ignores its headers
/// (`trace-to-key` in docs/attacks.md).
const TRACING: &str = "2.11.0";

/// Every note about authorization, the newest first.
pub const ADVISORIES: [Advisory; 18] = [
    note(
        "2026-26",
        "GHSA-7qmq-8cc4-hxwg",
        "0.0.0",
        &["2.12.12", "2.14.3"],
        Needs::Mqtt,
        "MQTT delivers retained and replayed messages on denied subjects",
    ),
    note(
        "2026-24",
        "GHSA-hmmp-q8cx-v964",
        "0.0.0",
        &["2.12.12", "2.14.3"],
        Needs::NoAuthUser,
        "no_auth_user passes by its user's restrictions",
    ),
    note(
        "2026-22",
        "GHSA-qrcv-3558-gj4f",
        "0.0.0",
        &["2.12.9", "2.14.1"],
        Needs::Mqtt,
        "an MQTT subscription injects NATS commands into routes and leafnodes",
    ),
    note(
        "2026-21",
        "GHSA-4g68-3pwx-5vfj",
        "0.0.0",
        &["2.12.12", "2.14.3"],
        Needs::Mqtt,
        "an MQTT client may subscribe to an internal subject",
    ),
    note(
        "2026-20",
        "GHSA-p3j5-5hrq-p75h",
        TRACING,
        &["2.12.12", "2.14.3"],
        Needs::Leafnodes,
        "a leafnode sends trace events to any subject",
    ),
    note(
        "2026-18",
        "GHSA-jx8g-9g95-6322",
        "0.0.0",
        &["2.11.16", "2.12.7", "2.14.0"],
        Needs::Unusual("permissions that deny queue groups, which solewriter never gives"),
        "a queue subscription passes by a deny",
    ),
    note(
        "2026-17",
        "GHSA-wh7g-5m82-pmhr",
        "0.0.0",
        &["2.11.16", "2.12.7", "2.14.0"],
        Needs::Nothing,
        "a wildcard subscription that overlaps a deny gets denied messages",
    ),
    note(
        "2026-16",
        "GHSA-38x3-76xf-cq45",
        "0.0.0",
        &["2.11.16", "2.12.7", "2.14.0"],
        Needs::NoAuthUser,
        "no_auth_user lets strangers in as routes and leafnodes",
    ),
    note(
        "2026-15",
        "CVE-2026-33249",
        TRACING,
        &["2.11.15", "2.12.6"],
        Needs::Nothing,
        "a header makes the server publish trace events to any subject, keys of buckets too",
    ),
    note(
        "2026-13",
        "CVE-2026-33248",
        "0.0.0",
        &["2.11.15", "2.12.6"],
        Needs::Unusual("`verify_and_map` in the server's TLS configuration"),
        "some certificates pass for others",
    ),
    note(
        "2026-12",
        "CVE-2026-33222",
        "0.0.0",
        &["2.11.15", "2.12.6"],
        Needs::Unusual("a grant to restore streams, which solewriter never gives"),
        "who may restore one stream may restore any",
    ),
    note(
        "2026-09",
        "CVE-2026-33223",
        "0.0.0",
        &["2.11.15", "2.12.6"],
        Needs::Unusual("services that trust the header Nats-Request-Info"),
        "a client forges the header that tells who it is",
    ),
    note(
        "2026-08",
        "CVE-2026-33246",
        "0.0.0",
        &["2.11.15", "2.12.6"],
        Needs::Leafnodes,
        "a leafnode forges the header that tells who a client is",
    ),
    note(
        "2026-07",
        "CVE-2026-33217",
        "0.0.0",
        &["2.11.15", "2.12.6"],
        Needs::Mqtt,
        "permissions do not hold for MQTT's own subjects",
    ),
    note(
        "2026-06",
        "CVE-2026-33215",
        "0.0.0",
        &["2.11.15", "2.12.6"],
        Needs::Mqtt,
        "an MQTT client takes over another's session",
    ),
    note(
        "2025-01",
        "CVE-2025-30215",
        "2.2.0",
        &["2.10.27", "2.11.1"],
        Needs::Unusual("a grant for all of JetStream's API, which solewriter never gives"),
        "one account's JetStream users administer all accounts' streams",
    ),
    note(
        "2023-02",
        "CVE-2023-46129",
        "2.10.0",
        &["2.10.4"],
        Needs::Nothing,
        "authorization requests are sealed with a key that everyone knows",
    ),
    note(
        "2023-01",
        "CVE-2023-47090",
        "2.2.0",
        &["2.9.23", "2.10.2"],
        Needs::Unusual("accounts where only the system account was configured"),
        "a login for the system account alone opens the others to everyone",
    ),
];

impl Advisory {
    /// Whether a version has it: it is in no line that has the fix, and not newer than all of them.
    #[must_use]
    pub fn affects(&self, version: &Version) -> bool {
        let since = Version::parse(self.since).is_ok_and(|since| *version >= since);
        since && !mended(version, self.fixed)
    }

    /// Where the note is.
    #[must_use]
    pub fn link(&self) -> String {
        format!("https://advisories.nats.io/CVE/secnote-{}.txt", self.note)
    }
}

/// The first version of each line that has none of them.
#[must_use]
pub fn clean() -> Vec<Version> {
    let mut all: Vec<Version> = ADVISORIES
        .iter()
        .flat_map(|advisory| advisory.fixed)
        .filter_map(|fix| Version::parse(fix).ok())
        .filter(|version| !ADVISORIES.iter().any(|advisory| advisory.affects(version)))
        .collect();
    all.sort();
    all.dedup_by_key(|version| (version.major, version.minor));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(version: &str) -> Vec<&'static str> {
        let version = Version::parse(version).unwrap();
        ADVISORIES.iter().filter(|a| a.affects(&version)).map(|a| a.note).collect()
    }

    #[test]
    fn versions_that_have_the_fix_are_not_affected() {
        assert_eq!(notes("2.15.1"), [""; 0]);
        assert_eq!(notes("2.14.6"), [""; 0]);
        assert_eq!(notes("2.14.3"), [""; 0]);
        assert_eq!(notes("2.12.12"), [""; 0]);
        assert_eq!(notes("2.14.2"), ["2026-26", "2026-24", "2026-21", "2026-20"]);
        assert_eq!(notes("2.12.8"), ["2026-26", "2026-24", "2026-22", "2026-21", "2026-20"]);
    }

    #[test]
    fn a_line_without_the_fix_keeps_the_hole() {
        // 2.11.17 is newer than 2.11.16; the notes of 2.12.12 have no fix for 2.11.
        assert_eq!(notes("2.11.17"), ["2026-26", "2026-24", "2026-22", "2026-21", "2026-20"]);
        assert!(notes("2.10.99").contains(&"2026-17") && !notes("2.10.99").contains(&"2026-15"));
        assert!(notes("2.11.0").contains(&"2026-15") && !notes("2.11.15").contains(&"2026-15"));
        assert!(notes("2.13.0").contains(&"2026-17"));
        assert!(!notes("2.10.27").contains(&"2025-01") && notes("2.10.26").contains(&"2025-01"));
        assert!(notes("2.11.0").contains(&"2025-01") && !notes("2.11.1").contains(&"2025-01"));
        assert!(notes("2.10.3").contains(&"2023-02") && !notes("2.9.22").contains(&"2023-02"));
    }

    #[test]
    fn a_release_candidate_is_older_than_its_release() {
        assert!(notes("2.14.3-RC.1").contains(&"2026-26"));
        assert!(notes("2.15.0-preview.1").is_empty());
    }

    #[test]
    fn the_versions_to_go_to_have_none() {
        let clean: Vec<String> = clean().iter().map(ToString::to_string).collect();
        assert_eq!(clean, ["2.12.12", "2.14.3"]);
    }
}
