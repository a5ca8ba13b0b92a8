//! Which holes a version of nats-server has: one table, for `serve`, `doctor`, `prove` and the pages.
//!
//! From the NATS project's security notes, <https://advisories.nats.io>, read up to note 2026-28 of
//! 2026-06-29, and from what was seen on real servers. Notes about crashes and exhausted memory, and
//! about what only the command line or the monitoring port shows, are left out: they are no matter
//! of who may do what. `docs/attacks.md` has the attacks that show some; `prove` finds them by trying.

use semver::Version;

/// Until which note the table goes.
pub const UP_TO: &str = "2026-28 of 2026-06-29";

/// A release of nats-server: major, minor, patch.
pub type Release = (u64, u64, u64);

/// The first release of each line that holds leafnodes to the permissions of a callout. Before,
/// none was asked for. Seen on 2.10.25 and 2.11.11 (not held), 2.12.8, 2.14.6 and 2.15.1 (held);
/// the releases are from the server's source.
pub const LEAFNODES_HELD: [Release; 3] = [(2, 11, 16), (2, 12, 7), (2, 14, 0)];

/// One hole, and the versions that have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advisory {
    /// Its CVE, its GitHub advisory where there is none, or our own name for it.
    pub name: &'static str,
    /// The number of its security note, where there is one.
    pub note: Option<&'static str>,
    /// What is wrong.
    pub title: &'static str,
    /// The first release that has it, as far as that is known.
    pub since: Release,
    /// The first release of each line that has it no more. Lines below the lowest have no fix.
    pub fixed: &'static [Release],
    /// What it takes.
    pub needs: Needs,
    /// What it lets through in a deployment of ours: `serve` tells of each server that has it.
    pub opens: Option<Opens>,
}

/// What a hole opens that permissions close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opens {
    /// What it lets through.
    pub reason: &'static str,
    /// What to do about it.
    pub mitigation: &'static str,
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
    name: &'static str,
    since: Release,
    fixed: &'static [Release],
    needs: Needs,
    title: &'static str,
) -> Advisory {
    Advisory { name, note: Some(note), title, since, fixed, needs, opens: None }
}

/// The notes say "any version". Message tracing came with 2.11, and 2.10.25 ignores its headers
/// (`trace-to-key` in docs/attacks.md).
const TRACING_CAME: Release = (2, 11, 0);

/// Message tracing publishes wherever its header says, without asking for permission. Seen on
/// 2.11.11, and not on 2.12.8, 2.14.6 and 2.15.1.
pub const TRACING: Advisory = Advisory {
    opens: Some(Opens {
        reason: "the server publishes the trace without asking for permission, and it crosses from \
                 APP to STATE and AUDIT: any service that may publish anything can overwrite any \
                 key of any bucket with the text of a trace, and purge any stream, the audit's \
                 included",
        mitigation: "run 2.11.15, 2.12.6 or later: no permission and no deployment closes it. \
                     `serve` warns of each such server (`server_defect`), and `prove` finds it",
    }),
    ..note(
        "2026-15",
        "CVE-2026-33249",
        TRACING_CAME,
        &[(2, 11, 15), (2, 12, 6)],
        Needs::Nothing,
        "a header makes the server publish trace events to any subject, even to keys of buckets",
    )
};

/// An open connection may send CONNECT again, and keeps its subscriptions. Seen on 2.10.25 and
/// 2.11.11; 2.12.8, 2.14.6 and 2.15.1 ask again too, and end them. The releases are from the
/// server's source.
pub const SECOND_CONNECT: Advisory = Advisory {
    name: "second-connect",
    note: None,
    title: "a connection that sends CONNECT again keeps its subscriptions",
    since: (0, 0, 0),
    fixed: &[(2, 11, 17), (2, 12, 8)],
    needs: Needs::Nothing,
    opens: Some(Opens {
        reason: "a connection that sends CONNECT again renews its permissions and keeps its \
                 subscriptions, those too that it may have no more",
        mitigation: "run 2.11.17, 2.12.8 or later. Until then, an instance refuses who asks twice \
                     (`asked_again`), and with a system user the sweep closes who asked two \
                     instances",
    }),
};

/// A negative offset in a request for information about a stream stops the server. Seen on 2.10.25,
/// 2.10.26, 2.11.11 and 2.12.0 to 2.12.5, and not from 2.12.6 on; of the versions of the line 2.11
/// after 2.11.11 none could be had, and 2.11.15 was released beside 2.12.6.
pub const NEGATIVE_OFFSET: Advisory = Advisory {
    name: "negative-offset",
    note: None,
    title: "a request for information about a stream stops the server",
    since: (0, 0, 0),
    fixed: &[(2, 11, 15), (2, 12, 6)],
    needs: Needs::Nothing,
    opens: Some(Opens {
        reason: "a request for information about a stream stops the server when it has a negative \
                 offset: any service that reads or owns a bucket can, and every server that it \
                 comes back to",
        mitigation: "run 2.11.15, 2.12.6 or later: every client needs that request to open a \
                     bucket, so no permission closes it",
    }),
};

/// Every one that is known: the newest first, and at the end those that no note tells of.
pub const ADVISORIES: [Advisory; 20] = [
    note(
        "2026-26",
        "GHSA-7qmq-8cc4-hxwg",
        (0, 0, 0),
        &[(2, 12, 12), (2, 14, 3)],
        Needs::Mqtt,
        "MQTT delivers retained and replayed messages on denied subjects",
    ),
    note(
        "2026-24",
        "GHSA-hmmp-q8cx-v964",
        (0, 0, 0),
        &[(2, 12, 12), (2, 14, 3)],
        Needs::NoAuthUser,
        "no_auth_user bypasses the restrictions of its user",
    ),
    note(
        "2026-22",
        "GHSA-qrcv-3558-gj4f",
        (0, 0, 0),
        &[(2, 12, 9), (2, 14, 1)],
        Needs::Mqtt,
        "an MQTT subscription injects NATS commands into routes and leafnodes",
    ),
    note(
        "2026-21",
        "GHSA-4g68-3pwx-5vfj",
        (0, 0, 0),
        &[(2, 12, 12), (2, 14, 3)],
        Needs::Mqtt,
        "an MQTT client may subscribe to an internal subject",
    ),
    note(
        "2026-20",
        "GHSA-p3j5-5hrq-p75h",
        TRACING_CAME,
        &[(2, 12, 12), (2, 14, 3)],
        Needs::Leafnodes,
        "a leafnode sends trace events to any subject",
    ),
    note(
        "2026-18",
        "GHSA-jx8g-9g95-6322",
        (0, 0, 0),
        &[(2, 11, 16), (2, 12, 7), (2, 14, 0)],
        Needs::Unusual("permissions that deny queue groups, which solewriter never gives"),
        "a queue subscription bypasses a deny",
    ),
    note(
        "2026-17",
        "GHSA-wh7g-5m82-pmhr",
        (0, 0, 0),
        &[(2, 11, 16), (2, 12, 7), (2, 14, 0)],
        Needs::Nothing,
        "a wildcard subscription that overlaps a deny gets denied messages",
    ),
    note(
        "2026-16",
        "GHSA-38x3-76xf-cq45",
        (0, 0, 0),
        &[(2, 11, 16), (2, 12, 7), (2, 14, 0)],
        Needs::NoAuthUser,
        "no_auth_user lets strangers in as routes and leafnodes",
    ),
    TRACING,
    note(
        "2026-13",
        "CVE-2026-33248",
        (0, 0, 0),
        &[(2, 11, 15), (2, 12, 6)],
        Needs::Unusual("`verify_and_map` in the server's TLS configuration"),
        "some certificates are taken for others",
    ),
    note(
        "2026-12",
        "CVE-2026-33222",
        (0, 0, 0),
        &[(2, 11, 15), (2, 12, 6)],
        Needs::Unusual("a grant to restore streams, which solewriter never gives"),
        "a client that may restore one stream may restore any",
    ),
    note(
        "2026-09",
        "CVE-2026-33223",
        (0, 0, 0),
        &[(2, 11, 15), (2, 12, 6)],
        Needs::Unusual("services that trust the header Nats-Request-Info"),
        "a client forges the header that says who it is",
    ),
    note(
        "2026-08",
        "CVE-2026-33246",
        (0, 0, 0),
        &[(2, 11, 15), (2, 12, 6)],
        Needs::Leafnodes,
        "a leafnode forges the header that says who a client is",
    ),
    note(
        "2026-07",
        "CVE-2026-33217",
        (0, 0, 0),
        &[(2, 11, 15), (2, 12, 6)],
        Needs::Mqtt,
        "permissions are not enforced for MQTT's own subjects",
    ),
    note(
        "2026-06",
        "CVE-2026-33215",
        (0, 0, 0),
        &[(2, 11, 15), (2, 12, 6)],
        Needs::Mqtt,
        "an MQTT client takes over another's session",
    ),
    note(
        "2025-01",
        "CVE-2025-30215",
        (2, 2, 0),
        &[(2, 10, 27), (2, 11, 1)],
        Needs::Unusual("a grant for all of JetStream's API, which solewriter never gives"),
        "one account's JetStream users administer all accounts' streams",
    ),
    note(
        "2023-02",
        "CVE-2023-46129",
        (2, 10, 0),
        &[(2, 10, 4)],
        Needs::Nothing,
        "authorization requests are sealed with a key that everyone knows",
    ),
    note(
        "2023-01",
        "CVE-2023-47090",
        (2, 2, 0),
        &[(2, 9, 23), (2, 10, 2)],
        Needs::Unusual("accounts where only the system account was configured"),
        "a login for the system account alone opens the others to everyone",
    ),
    SECOND_CONNECT,
    NEGATIVE_OFFSET,
];

impl Advisory {
    /// Whether a version has it. A release candidate has what its release brings, and not yet what
    /// its release mends.
    #[must_use]
    pub fn affects(&self, version: &Version) -> bool {
        release(version) >= self.since && !mended(version, self.fixed)
    }

    /// The first release that has it and the first that does not, one pair for each line.
    pub fn ranges(&self) -> impl Iterator<Item = (Version, Version)> {
        let after = self.fixed.iter().map(|(major, minor, _)| (*major, minor + 1, 0));
        let from = std::iter::once(self.since).chain(after);
        from.zip(self.fixed).map(|(from, fix)| (plain(from), plain(*fix)))
    }

    /// Where its note is, if it has one.
    #[must_use]
    pub fn link(&self) -> Option<String> {
        self.note.map(|note| format!("https://advisories.nats.io/CVE/secnote-{note}.txt"))
    }
}

/// Reads what a server says that it is: `2.11.15`, `v2.12.0-RC.1`.
#[must_use]
pub fn version(text: &str) -> Option<Version> {
    Version::parse(text.strip_prefix('v').unwrap_or(text)).ok()
}

/// A release as a version.
#[must_use]
pub const fn plain((major, minor, patch): Release) -> Version {
    Version::new(major, minor, patch)
}

/// The release that a version is, or is a candidate for.
#[must_use]
pub fn release(version: &Version) -> Release {
    (version.major, version.minor, version.patch)
}

/// Those holes of a version that open what permissions close.
pub fn opened_in(text: &str) -> impl Iterator<Item = (&'static Advisory, Opens)> {
    let version = version(text);
    ADVISORIES
        .iter()
        .filter(move |advisory| version.as_ref().is_some_and(|v| advisory.affects(v)))
        .filter_map(|advisory| Some((advisory, advisory.opens?)))
}

/// Whether a server of that version holds leafnodes to what they are given. One whose version
/// cannot be read does not.
#[must_use]
pub fn holds_leafnodes(text: &str) -> bool {
    version(text).is_some_and(|version| mended(&version, &LEAFNODES_HELD))
}

/// Whether a version has what was first in those: one of its own line, or it is newer than all.
fn mended(version: &Version, first: &[Release]) -> bool {
    let line = (version.major, version.minor);
    first.iter().any(|fix| (fix.0, fix.1) == line && *version >= plain(*fix))
        || first.iter().all(|fix| line > (fix.0, fix.1))
}

/// The first version of each line that has none of them.
#[must_use]
pub fn clean() -> Vec<Version> {
    let mut all: Vec<Version> = ADVISORIES
        .iter()
        .flat_map(|advisory| advisory.fixed)
        .map(|fix| plain(*fix))
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
        ADVISORIES.iter().filter(|a| a.affects(&version)).filter_map(|a| a.note).collect()
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
    #[test]
    fn a_range_ends_where_its_line_is_mended() {
        let text = |advisory: Advisory| {
            let ranges = advisory.ranges().map(|(from, fixed)| format!("{from}..{fixed}"));
            ranges.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text(TRACING), "2.11.0..2.11.15 2.12.0..2.12.6");
        assert_eq!(text(SECOND_CONNECT), "0.0.0..2.11.17 2.12.0..2.12.8");
        for advisory in ADVISORIES {
            for (from, fixed) in advisory.ranges() {
                assert!(advisory.affects(&from) && !advisory.affects(&fixed), "{advisory:?}");
            }
        }
    }

    #[test]
    fn the_versions_of_a_line_are_told_from_those_after_it() {
        for (version, defects) in [
            ("2.10.29", vec![SECOND_CONNECT, NEGATIVE_OFFSET]),
            ("2.11.0-preview.1", vec![TRACING, SECOND_CONNECT, NEGATIVE_OFFSET]),
            ("2.11.0", vec![TRACING, SECOND_CONNECT, NEGATIVE_OFFSET]),
            ("2.11.14", vec![TRACING, SECOND_CONNECT, NEGATIVE_OFFSET]),
            // A candidate is older than its release.
            ("2.11.15-RC.1", vec![TRACING, SECOND_CONNECT, NEGATIVE_OFFSET]),
            ("2.11.15", vec![SECOND_CONNECT]),
            ("v2.11.16", vec![SECOND_CONNECT]),
            ("2.11.17", vec![]),
            ("2.12.0-preview.1", vec![TRACING, SECOND_CONNECT, NEGATIVE_OFFSET]),
            ("2.12.5", vec![TRACING, SECOND_CONNECT, NEGATIVE_OFFSET]),
            ("2.12.6", vec![SECOND_CONNECT]),
            ("2.12.8", vec![]),
            ("2.14.0", vec![]),
            ("nonsense", vec![]),
            ("2.11", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(
                opened_in(version).map(|(advisory, _)| *advisory).collect::<Vec<_>>(),
                defects,
                "{version}"
            );
        }
    }

    #[test]
    fn leafnodes_are_held_where_it_is_known_that_they_are() {
        for (version, held) in [
            ("2.10.25", false),
            ("2.10.99", false),
            ("2.11.15", false),
            ("2.11.16-RC.1", false),
            ("2.11.16", true),
            ("2.12.0", false),
            ("2.12.6", false),
            ("2.12.7", true),
            ("2.13.9", false),
            ("2.14.0-preview.1", false),
            ("2.14.0", true),
            ("2.15.1", true),
            ("3.0.0-dev", true),
            ("", false),
            ("2.15", false),
            ("newest", false),
        ] {
            assert_eq!(holds_leafnodes(version), held, "{version}");
        }
    }
}
