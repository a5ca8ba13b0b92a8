//! What is known of the other living instances, from their beats. No I/O; time is an argument.
//!
//! Who may publish in the callout's account is believed: that is solewriter itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Report;

/// How often an instance says that it lives.
pub const BEAT: Duration = Duration::from_secs(1);
/// How long after its last beat an instance counts as gone: three missed, and some.
pub const GONE_AFTER: Duration = Duration::from_millis(3500);
/// How many instances are kept in mind, at most.
const MAX_PEERS: usize = 1024;
/// The longest beat that is read, in bytes.
const MAX_BEAT: usize = 16 * 1024;

/// What an instance says once a second, and whenever its policy changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// The instance.
    pub instance: String,
    /// When it started (Unix time).
    pub started: i64,
    /// The policy revision that it serves.
    pub revision: Option<String>,
    /// For how long it has served it, in milliseconds. An age, so that no clocks are compared.
    pub held_ms: u64,
    /// Its number in the policy's bucket, if it is from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// Which bucket of that name that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<String>,
    /// Revisions that it served before, the newest first; empty until it served another one than
    /// that which it started with. What a starting instance finds may be old.
    #[serde(default)]
    pub had: Vec<String>,
    /// Whether it can close connections: it has a system user, and is connected.
    pub sweeps: bool,
    /// Names how it makes grants of a policy: two instances with another one here may give one
    /// service different grants.
    pub makes: String,
    /// What else it says of itself, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<Report>,
    /// It is about to end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaves: bool,
}

impl Beat {
    /// Reads one; `None` when it is none.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        if payload.len() > MAX_BEAT {
            return None;
        }
        serde_json::from_slice(payload).ok()
    }

    /// Sorts instances by age, the oldest first.
    fn rank(&self) -> (i64, &str) {
        (self.started, &self.instance)
    }
}

#[derive(Debug)]
struct Peer {
    beat: Beat,
    heard: Instant,
    /// When it took its policy up, on our clock.
    adopted: Instant,
}

/// The other instances.
#[derive(Debug, Default)]
pub struct Peers {
    known: BTreeMap<String, Peer>,
}

/// What a beat told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// This instance was not known.
    pub newcomer: bool,
    /// Something other than its age is new: who lives, who can sweep, what is served.
    pub changed: bool,
}

impl Peers {
    /// Takes note of a beat that came at `now`.
    pub fn heard(&mut self, beat: Beat, now: Instant) -> News {
        if beat.leaves {
            return News { changed: self.known.remove(&beat.instance).is_some(), newcomer: false };
        }
        let before = self.known.get(&beat.instance);
        if before.is_none() && self.known.len() >= MAX_PEERS {
            return News::default();
        }
        let what = |b: &Beat| (b.revision.clone(), b.sweeps, b.makes.clone());
        let changed = before.is_none_or(|peer| what(&peer.beat) != what(&beat));
        let news = News { newcomer: before.is_none(), changed };
        let adopted = now.checked_sub(Duration::from_millis(beat.held_ms)).unwrap_or(now);
        self.known.insert(beat.instance.clone(), Peer { beat, heard: now, adopted });
        news
    }

    /// Forgets those that were not heard for [`GONE_AFTER`]. Gives whether there were any.
    pub fn forget(&mut self, now: Instant) -> bool {
        let before = self.known.len();
        self.known.retain(|_, peer| now.saturating_duration_since(peer.heard) < GONE_AFTER);
        self.known.len() != before
    }

    /// The other instances' beats.
    pub fn beats(&self) -> impl Iterator<Item = &Beat> {
        self.known.values().map(|peer| &peer.beat)
    }

    /// Whether each of them that serves a policy serves the one that `me` serves.
    #[must_use]
    pub fn agree(&self, me: &Beat) -> bool {
        self.beats().all(|beat| beat.revision.is_none() || beat.revision == me.revision)
    }

    /// Revisions of those that are ahead of `me`, who took up its own at `adopted`.
    #[must_use]
    pub fn newer(&self, me: &Beat, adopted: Instant) -> Vec<String> {
        let ahead = self.known.values().filter(|peer| peer.is_ahead(me, adopted));
        let mut revisions: Vec<String> =
            ahead.filter_map(|peer| peer.beat.revision.clone()).collect();
        revisions.sort_unstable();
        revisions.dedup();
        revisions
    }

    /// Whether some of them make other grants of one policy than `me`.
    #[must_use]
    pub fn unlike(&self, me: &Beat) -> bool {
        self.beats().any(|beat| beat.makes != me.makes)
    }

    /// Whether it is for `me` to close connections: of the living instances that can, and that
    /// serve the newest policy, it is the oldest. All come to the same answer from the same beats.
    #[must_use]
    pub fn elect(&self, me: &Beat, adopted: Instant) -> bool {
        let mut rivals = self.known.values().filter(|peer| peer.beat.sweeps);
        me.sweeps
            && rivals.all(|peer| {
                let behind = peer.beat.revision != me.revision;
                !peer.is_ahead(me, adopted) && (behind || peer.beat.rank() > me.rank())
            })
    }
}

impl Peer {
    /// Whether it serves something newer than `me`. In one bucket, the greater number is newer.
    /// Else, who starts with what the other served before is late; and then, what was taken up
    /// later is newer.
    fn is_ahead(&self, me: &Beat, adopted: Instant) -> bool {
        let (Some(theirs), Some(mine)) = (&self.beat.revision, &me.revision) else {
            return self.beat.revision.is_some() && me.revision.is_none();
        };
        if theirs == mine {
            return false;
        }
        match (self.beat.number, me.number) {
            (Some(theirs), Some(mine)) if self.beat.lineage == me.lineage => theirs > mine,
            _ if me.had.is_empty() && self.beat.had.contains(mine) => true,
            _ if self.beat.had.is_empty() && me.had.contains(theirs) => false,
            _ => self.adopted > adopted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(instance: &str, started: i64, revision: &str, held_ms: u64) -> Beat {
        Beat {
            instance: instance.to_owned(),
            started,
            revision: Some(revision.to_owned()),
            held_ms,
            number: None,
            lineage: None,
            had: Vec::new(),
            sweeps: true,
            makes: "x".to_owned(),
            about: None,
            leaves: false,
        }
    }

    #[test]
    fn the_oldest_that_can_sweeps_until_it_is_gone() {
        let now = Instant::now();
        let me = beat("m", 20, "r", 0);
        let mut peers = Peers::default();
        assert!(peers.elect(&me, now), "alone");
        assert!(!peers.elect(&Beat { sweeps: false, ..me.clone() }, now), "without a system user");
        peers.heard(beat("younger", 21, "r", 0), now);
        assert!(peers.elect(&me, now));
        peers.heard(Beat { sweeps: false, ..beat("blind", 1, "r", 0) }, now);
        assert!(peers.elect(&me, now), "who cannot sweep is not waited for");
        let news = peers.heard(beat("older", 10, "r", 0), now);
        assert_eq!(news, News { newcomer: true, changed: true });
        assert!(!peers.elect(&me, now));
        assert!(!peers.forget(now + BEAT * 3), "three beats late is not gone");
        assert!(peers.forget(now + GONE_AFTER));
        assert!(peers.elect(&me, now));
        assert_eq!(peers.beats().count(), 0);
    }

    #[test]
    fn the_id_decides_between_two_of_the_same_second() {
        let now = Instant::now();
        let mut peers = Peers::default();
        let (a, b) = (beat("a", 20, "r", 0), beat("b", 20, "r", 0));
        peers.heard(b.clone(), now);
        assert!(peers.elect(&a, now));
        let mut peers = Peers::default();
        peers.heard(a, now);
        assert!(!peers.elect(&b, now));
    }

    #[test]
    fn who_leaves_says_so() {
        let now = Instant::now();
        let mut peers = Peers::default();
        let other = beat("a", 1, "r", 0);
        assert!(!peers.heard(Beat { leaves: true, ..other.clone() }, now).changed);
        peers.heard(other.clone(), now);
        assert!(peers.heard(Beat { leaves: true, ..other }, now).changed);
        assert_eq!(peers.beats().count(), 0);
    }

    #[test]
    fn a_beat_that_says_the_same_is_no_news() {
        let now = Instant::now();
        let mut peers = Peers::default();
        peers.heard(beat("a", 1, "r", 0), now);
        assert_eq!(peers.heard(beat("a", 1, "r", 1000), now), News::default());
        let news = peers.heard(beat("a", 1, "s", 0), now);
        assert_eq!(news, News { newcomer: false, changed: true });
    }

    #[test]
    fn what_was_taken_up_later_elsewhere_is_newer() {
        let now = Instant::now() + Duration::from_secs(100);
        let adopted = now.checked_sub(Duration::from_secs(50)).unwrap();
        let me = beat("m", 1, "mine", 50_000);
        let mut peers = Peers::default();
        peers.heard(beat("later", 2, "new", 10_000), now);
        peers.heard(beat("earlier", 3, "old", 90_000), now);
        peers.heard(beat("same", 4, "mine", 10_000), now);
        assert_eq!(peers.newer(&me, adopted), ["new"]);
        assert!(!peers.agree(&me));
    }

    #[test]
    fn who_starts_with_what_was_served_before_is_late_and_not_ahead() {
        let now = Instant::now() + Duration::from_secs(100);
        let adopted = now.checked_sub(Duration::from_secs(50)).unwrap();
        let mine = Beat { had: vec!["before".to_owned()], ..beat("m", 1, "mine", 50_000) };
        let mut peers = Peers::default();
        peers.heard(beat("late", 2, "before", 0), now);
        assert!(peers.newer(&mine, adopted).is_empty());
        // It knows it, too.
        let late = beat("late", 2, "before", 0);
        let mut others = Peers::default();
        others.heard(mine.clone(), now);
        assert_eq!(others.newer(&late, now), ["mine"]);
        assert!(peers.elect(&mine, adopted) && !others.elect(&late, now));
        // What nobody had is new.
        peers.heard(beat("rolled-out", 2, "unheard-of", 0), now);
        assert_eq!(peers.newer(&mine, adopted), ["unheard-of"]);
        // A policy that was taken back, by an instance that knows both.
        let back = Beat { had: vec!["mine".to_owned()], ..beat("back", 2, "before", 0) };
        peers.heard(back, now);
        assert_eq!(peers.newer(&mine, adopted), ["before", "unheard-of"]);
    }

    #[test]
    fn the_oldest_does_not_sweep_while_it_is_behind() {
        let now = Instant::now() + Duration::from_secs(100);
        let ago = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap();
        let (old, young) = (beat("old", 1, "before", 90_000), beat("young", 2, "after", 10_000));
        let (mut of_old, mut of_young) = (Peers::default(), Peers::default());
        of_old.heard(young.clone(), now);
        of_young.heard(old.clone(), now);
        assert!(!of_old.elect(&old, ago(90)));
        assert!(of_young.elect(&young, ago(10)));
        // When it has caught up, it is its turn again.
        let old = beat("old", 1, "after", 0);
        of_young.heard(old.clone(), now);
        assert!(of_old.elect(&old, now));
        assert!(!of_young.elect(&young, ago(10)));
    }

    #[test]
    fn numbers_of_a_bucket_tell_better_than_times() {
        let now = Instant::now() + Duration::from_secs(100);
        let adopted = now.checked_sub(Duration::from_secs(50)).unwrap();
        let me = Beat { number: Some(7), ..beat("m", 1, "mine", 50_000) };
        let mut peers = Peers::default();
        // Started just now from what it had kept.
        peers.heard(Beat { number: Some(6), ..beat("late", 2, "old", 0) }, now);
        assert!(peers.newer(&me, adopted).is_empty());
        peers.heard(Beat { number: Some(8), ..beat("ahead", 2, "new", 90_000) }, now);
        assert_eq!(peers.newer(&me, adopted), ["new"]);
    }

    #[test]
    fn other_settings_are_noticed() {
        let me = beat("m", 1, "r", 0);
        let mut peers = Peers::default();
        peers.heard(beat("a", 1, "r", 0), Instant::now());
        assert!(!peers.unlike(&me));
        peers.heard(Beat { makes: "y".to_owned(), ..beat("b", 1, "r", 0) }, Instant::now());
        assert!(peers.unlike(&me));
    }

    #[test]
    fn strangers_cannot_fill_the_memory() {
        let now = Instant::now();
        let mut peers = Peers::default();
        for n in 0..2 * MAX_PEERS {
            peers.heard(beat(&n.to_string(), 1, "r", 0), now);
        }
        assert_eq!(peers.beats().count(), MAX_PEERS);
        assert_eq!(Beat::read(&vec![b' '; MAX_BEAT + 1]), None);
        assert_eq!(Beat::read(b"{}"), None);
    }
}
