//! Permissions that are about to end. Pure.
//!
//! When they end, nats-server says so and closes the connection, and some clients do not come back
//! from that: nats.py 2.16 closes for good. Every client comes back when it is closed without a
//! word. So the sweep closes a connection shortly before the server would.
//!
//! Both ends of its life stand in the connection's name. How much of it is left is told by its
//! server's clock, which is the one that ends it.

use std::time::Duration;

use crate::sessions::listing::Session;
use solewriter_core::callout::decide::Decider;
use solewriter_core::callout::issue::ConnectionName;
use solewriter_core::policy::model::Policy;

/// The shortest life that is looked after, in seconds: looking takes a while.
pub const SHORTEST: i64 = 10;
/// A connection is closed when this part of its life is left: one in so many.
const SHARE: i64 = 5;
/// And so many seconds at most: enough for another instance to take over, and for many closings.
const LONGEST: i64 = 300;

/// For how many seconds the permissions of that connection last in all; `None` where its name does
/// not say, or where that is too short to look after.
#[must_use]
pub fn life(name: &ConnectionName) -> Option<i64> {
    let (asked, expires) = name.asked.zip(name.expires)?;
    Some(expires.saturating_sub(asked)).filter(|life| *life >= SHORTEST)
}

/// How many seconds before its end a connection of that life is closed.
#[must_use]
pub fn margin(life: i64) -> i64 {
    life.checked_div(SHARE).unwrap_or(life).min(LONGEST)
}

/// How many seconds are left, when they are so few that the connection is to be closed now; `now`
/// is in seconds since the Unix epoch, by our clock.
#[must_use]
pub fn ends(session: &Session, now: i64) -> Option<i64> {
    let life = life(&session.name)?;
    let there = now.saturating_add(session.server.ahead);
    let left = session.name.expires?.saturating_sub(there);
    (left <= margin(life)).then_some(left)
}

/// How long to wait at most between two looks, so that each connection is found in time: those
/// that were seen, of which the shortest lives for `seen` seconds, while half of its margin is left;
/// and those that come, by the time that half of their life is over.
#[must_use]
pub fn look_within(seen: Option<i64>, decider: &Decider, policy: &Policy) -> Duration {
    let default = decider.defaults().lifetime;
    let all = policy.services().iter().map(|service| service.lifetime.unwrap_or(default));
    let to_come = all.min().map(|lifetime| decider.shortest(lifetime));
    let to_come = to_come.unwrap_or(Duration::MAX).max(seconds(SHORTEST)) / 2;
    to_come.min(seen.map_or(Duration::MAX, |life| seconds(margin(life)) / 2))
}

/// How many may be closed in a second, so that `count` of them are closed while half of the `left`
/// seconds remain that the first of them has: the server would close them all at once.
#[must_use]
pub fn pace(count: usize, left: i64) -> u32 {
    let half = u64::try_from(left).unwrap_or(0).max(2) / 2;
    u32::try_from((count as u64).div_ceil(half)).unwrap_or(u32::MAX)
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::system_api::{Connection, ServerName};
    use solewriter_core::diagnostics::SourceFile;
    use solewriter_core::grant::{AuditStreams, Defaults};
    use solewriter_core::policy::validate::validate;

    const NOW: i64 = 1_800_000_000;

    fn session(asked: Option<i64>, expires: Option<i64>) -> Session {
        let key =
            solewriter_core::keys::Signer::new(&solewriter_core::keys::Seed::generate()).unwrap();
        let connection: Connection = serde_json::from_str("{\"cid\": 1}").unwrap();
        Session {
            server: ServerName::default(),
            account: "APP".into(),
            name: ConnectionName {
                service: "s".to_owned(),
                key: *key.public(),
                revision: String::new(),
                digest: None,
                asked,
                expires,
            },
            connection,
        }
    }

    #[test]
    fn it_ends_a_little_before_its_time() {
        for (life, closed_with) in [(3600, 300), (60, 12), (54, 10), (10, 2), (86_400, 300)] {
            let session = session(Some(NOW), Some(NOW + life));
            let at = |left: i64| ends(&session, NOW + life - left);
            assert_eq!(at(closed_with + 1), None, "{life}");
            assert_eq!(at(closed_with), Some(closed_with), "{life}");
            assert_eq!(at(-5), Some(-5), "{life}: late is better than not");
            assert_eq!(ends(&session, NOW), None, "{life}: not when it has just begun");
        }
    }

    #[test]
    fn what_is_short_or_not_known_is_left() {
        for (asked, expires) in [
            (Some(NOW), Some(NOW + SHORTEST - 1)),
            (Some(NOW), Some(NOW)),
            (Some(NOW), Some(0)),
            (Some(NOW), None),
            (None, None),
        ] {
            assert_eq!(ends(&session(asked, expires), NOW + 3600), None, "{asked:?} {expires:?}");
        }
    }

    #[test]
    fn the_clock_of_its_server_counts() {
        let mut session = session(Some(NOW + 1000), Some(NOW + 1060));
        session.server.ahead = 1000;
        assert_eq!(ends(&session, NOW + 47), None);
        assert_eq!(ends(&session, NOW + 48), Some(12));
    }

    #[test]
    fn looks_are_as_close_as_the_shortest_life_wants() {
        let of = |text: &str, lifetime: u64, seen: Option<i64>| {
            let lifetime = Duration::from_secs(lifetime);
            let defaults =
                Defaults { account: "APP".into(), lifetime, audit: AuditStreams::default() };
            let decider = Decider::new(defaults, Vec::new(), 0.1);
            let policy = validate(&[SourceFile::new("p.toml", text)]).unwrap().policy;
            look_within(seen, &decider, &policy).as_secs()
        };
        let short = "[service.a]\n[service.b]\nlifetime = \"60s\"\n";
        assert_eq!(of("[service.a]\n", 3600, None), 1620);
        assert_eq!(of("[service.a]\n", 3600, Some(3300)), 150);
        assert_eq!(of(short, 3600, None), 27);
        assert_eq!(of(short, 3600, Some(54)), 5, "until it has its new connection in time");
        assert_eq!(of("[service.a]\n", 1, None), 5, "what is too short asks for nothing");
    }

    #[test]
    fn as_many_are_closed_as_the_time_wants() {
        assert_eq!(pace(1000, 10), 200);
        assert_eq!(pace(1, 300), 1);
        assert_eq!(pace(7, 0), 7);
        assert_eq!(pace(7, -9), 7);
    }
}
