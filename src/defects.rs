//! Defects of nats-server that open what permissions close, so that whoever runs one is told.
//!
//! `docs/attacks.md` has the attack that shows each; `prove` finds them by trying.

use semver::Version as Release;

/// A server's version: major, minor, patch.
pub type Version = (u64, u64, u64);

/// Parses `2.11.15`; what follows a `-` is left out.
#[must_use]
pub fn version(text: &str) -> Option<Version> {
    let mut parts = text.split('-').next()?.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

/// As it is written: `2.11.15`.
#[must_use]
pub fn dotted((major, minor, patch): Version) -> String {
    format!("{major}.{minor}.{patch}")
}

/// A defect of some versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defect {
    /// Its name.
    pub name: &'static str,
    /// The first version that has it and the first that does not, one pair for each line.
    pub versions: &'static [(Version, Version)],
    /// What it lets through.
    pub reason: &'static str,
    /// What to do about it.
    pub mitigation: &'static str,
}

impl Defect {
    /// Whether that version has it.
    #[must_use]
    pub fn is_in(&self, version: Version) -> bool {
        self.versions.iter().any(|(from, fixed)| (*from..*fixed).contains(&version))
    }
}

/// Message tracing publishes wherever its header says, without asking for permission. Seen on
/// 2.11.11, and not on 2.12.8, 2.14.6 and 2.15.1; the versions are those of the advisory,
/// <https://advisories.nats.io/CVE/secnote-2026-15.txt>.
pub const TRACING: Defect = Defect {
    name: "CVE-2026-33249",
    versions: &[((2, 11, 0), (2, 11, 15)), ((2, 12, 0), (2, 12, 6))],
    reason: "the server publishes the trace without asking for permission, and it crosses from APP \
             to STATE and AUDIT: any service that may publish anything can overwrite any key of any \
             bucket with the text of a trace, and purge any stream, the audit's included",
    mitigation: "run 2.11.15, 2.12.6 or later: no permission and no deployment closes it. `serve` \
                 warns of each such server (`server_defect`), and `prove` finds it",
};

/// An open connection may send CONNECT again, and keeps its subscriptions. Seen on 2.10.25 and
/// 2.11.11; 2.12.8, 2.14.6 and 2.15.1 ask again too, and end them. The versions are from the
/// server's source.
pub const SECOND_CONNECT: Defect = Defect {
    name: "second-connect",
    versions: &[((0, 0, 0), (2, 11, 17)), ((2, 12, 0), (2, 12, 8))],
    reason: "a connection that sends CONNECT again renews its permissions and keeps its \
             subscriptions, those too that it may have no more",
    mitigation: "run 2.11.17, 2.12.8 or later. Until then, an instance refuses who asks twice \
                 (`asked_again`), and with a system user the sweep closes who asked two instances",
};

/// A negative offset in a request for information about a stream stops the server. Seen on 2.10.25,
/// 2.10.26, 2.11.11 and 2.12.0 to 2.12.5, and not from 2.12.6 on; of the versions of the line 2.11
/// after 2.11.11 none could be had, and 2.11.15 was released beside 2.12.6.
pub const NEGATIVE_OFFSET: Defect = Defect {
    name: "negative-offset",
    versions: &[((0, 0, 0), (2, 11, 15)), ((2, 12, 0), (2, 12, 6))],
    reason: "a request for information about a stream stops the server when it has a negative \
             offset: any service that reads or owns a bucket can, and every server that it comes \
             back to",
    mitigation: "run 2.11.15, 2.12.6 or later: every client needs that request to open a bucket, so \
                 no permission closes it",
};

/// All that are known.
pub const KNOWN: [&Defect; 3] = [&TRACING, &SECOND_CONNECT, &NEGATIVE_OFFSET];

/// The defects of that version.
pub fn of(text: &str) -> impl Iterator<Item = &'static Defect> {
    let version = version(text);
    KNOWN.into_iter().filter(move |defect| version.is_some_and(|version| defect.is_in(version)))
}

/// The first version of each line that holds leafnodes to the permissions of a callout. Before,
/// none was asked for. Seen on 2.10.25 and 2.11.11 (not held), 2.12.8, 2.14.6 and 2.15.1 (held);
/// the versions are from the server's source.
pub const LEAFNODES_HELD: [&str; 3] = ["2.11.16", "2.12.7", "2.14.0"];

/// Whether a server of that version holds leafnodes to what they are given. One whose version
/// cannot be read does not.
#[must_use]
pub fn holds_leafnodes(text: &str) -> bool {
    Release::parse(text).is_ok_and(|version| mended(&version, &LEAFNODES_HELD))
}

/// Whether a version has what was first in those: one of its own line, or it is newer than all.
#[must_use]
pub fn mended(version: &Release, first: &[&str]) -> bool {
    let first: Vec<Release> = first.iter().filter_map(|text| Release::parse(text).ok()).collect();
    let line = |v: &Release| (v.major, v.minor);
    first.iter().any(|fix| line(fix) == line(version) && version >= fix)
        || first.iter().all(|fix| line(version) > line(fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_of_a_line_are_told_from_those_after_it() {
        for (version, defects) in [
            ("2.10.29", vec![SECOND_CONNECT, NEGATIVE_OFFSET]),
            ("2.11.0", vec![TRACING, SECOND_CONNECT, NEGATIVE_OFFSET]),
            ("2.11.14", vec![TRACING, SECOND_CONNECT, NEGATIVE_OFFSET]),
            ("2.11.15", vec![SECOND_CONNECT]),
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
            assert_eq!(of(version).copied().collect::<Vec<_>>(), defects, "{version}");
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
