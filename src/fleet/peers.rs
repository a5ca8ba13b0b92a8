//! What is known of the other living instances, from their beats. No I/O; time is an argument.
//!
//! Who may publish in the callout's account is solewriter itself, or has its seed. So a beat may
//! put off what this instance does, and never prevent it: each looks for itself now and then
//! ([`doubts`]), and what others claim to be newer is believed for a while.

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
/// The most revisions that a beat has, and the longest id.
const MAX_HAD: usize = 64;
const MAX_ID: usize = 64;
/// How many claims of a revision are kept in mind, and for how long.
const MAX_CLAIMS: usize = 4 * MAX_PEERS;
const CLAIMS_FOR: Duration = Duration::from_secs(3600);
/// For how long it is believed that a policy is newer than ours: one that we had before, and any.
const BELIEVED_KNOWN: Duration = Duration::from_secs(8);
const BELIEVED: Duration = Duration::from_secs(600);
/// When an instance sweeps by itself although another one says that it does: that long after it
/// took its policy, and again after each such period, for that long.
const DOUBT_AFTER: Duration = Duration::from_secs(10);
const DOUBT_EVERY: Duration = Duration::from_secs(300);
const DOUBT_FOR: Duration = Duration::from_secs(5);

/// Whether it is time to look for oneself, at that age of one's policy. Not all at once: the
/// instance's id says when.
#[must_use]
pub fn doubts(age: Duration, instance: &str) -> bool {
    if age >= DOUBT_AFTER && age < DOUBT_AFTER + DOUBT_FOR {
        return true;
    }
    let sum = instance.bytes().fold(0_u64, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
    let period = DOUBT_EVERY.as_secs();
    let begin = sum.checked_rem(period - DOUBT_FOR.as_secs()).unwrap_or_default();
    let at = age.as_secs().checked_rem(period).unwrap_or_default();
    age >= DOUBT_EVERY && (begin..begin + DOUBT_FOR.as_secs()).contains(&at)
}

/// What an instance says once a second, and whenever its policy changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Its form. Fields may be added without another one; those that are here mean what they mean in
    /// each.
    #[serde(default = "first_format")]
    pub format: u32,
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
    /// Nothing is left of what policies before this one gave.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub settled: bool,
    /// The how manieth it is: one that was recorded and is sent again says nothing.
    #[serde(default)]
    pub beat: u64,
}

/// What said nothing of its form.
fn first_format() -> u32 {
    Beat::FORMAT
}

impl Beat {
    /// The form that this version speaks.
    pub const FORMAT: u32 = 1;

    /// Whether this version knows all that it may say. What it does not know makes nothing certain.
    #[must_use]
    pub fn is_understood(&self) -> bool {
        self.format == Self::FORMAT
    }

    /// Reads one; `None` when it is none.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        if payload.len() > MAX_BEAT {
            return None;
        }
        let beat: Self = serde_json::from_slice(payload).ok()?;
        (beat.instance.len() <= MAX_ID && beat.had.len() <= MAX_HAD).then_some(beat)
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
    /// What it last said to serve in a beat that its issuer's key signed, and the number of that one.
    vouched: Option<Word>,
}

/// What an instance said, signed.
#[derive(Clone, Debug)]
struct Word {
    /// The how manieth beat it was.
    number: u64,
    /// The policy revision that it serves.
    revision: Option<String>,
    /// Whether this version knows all that it may have said.
    understood: bool,
}

/// The other instances.
#[derive(Debug, Default)]
pub struct Peers {
    known: BTreeMap<String, Peer>,
    /// Since when somebody has claimed to serve a revision.
    claims: BTreeMap<String, Instant>,
    /// What each instance last said to serve, signed, and when: remembered when it is gone, too.
    words: BTreeMap<String, (String, Instant)>,
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
    /// Takes note of a beat that came at `now`. `vouched`: it was signed with the issuer's key.
    pub fn heard(&mut self, beat: Beat, vouched: bool, now: Instant) -> News {
        if beat.leaves {
            return News { changed: self.known.remove(&beat.instance).is_some(), newcomer: false };
        }
        let before = self.known.get(&beat.instance);
        let last = before.and_then(|peer| peer.vouched.clone());
        if vouched && last.as_ref().is_some_and(|word| beat.beat <= word.number) {
            return News::default();
        }
        if before.is_none() && self.known.len() >= MAX_PEERS {
            return News::default();
        }
        if let Some(revision) = &beat.revision
            && (self.claims.len() < MAX_CLAIMS || self.claims.contains_key(revision))
        {
            self.claims.entry(revision.clone()).or_insert(now);
        }
        let what = |b: &Beat| (b.revision.clone(), b.sweeps, b.makes.clone());
        let changed = before.is_none_or(|peer| what(&peer.beat) != what(&beat));
        let news = News { newcomer: before.is_none(), changed };
        let adopted = now.checked_sub(Duration::from_millis(beat.held_ms)).unwrap_or(now);
        if vouched
            && let Some(revision) = &beat.revision
            && (self.words.len() < MAX_PEERS || self.words.contains_key(&beat.instance))
        {
            self.words.insert(beat.instance.clone(), (revision.clone(), now));
        }
        // What it tells people is not needed here.
        let beat = Beat { about: None, ..beat };
        let (number, understood) = (beat.beat, beat.is_understood());
        let word = || Word { number, revision: beat.revision.clone(), understood };
        let vouched = if vouched { Some(word()) } else { last };
        self.known.insert(beat.instance.clone(), Peer { beat, heard: now, adopted, vouched });
        news
    }

    /// Forgets those that were not heard for [`GONE_AFTER`]. Gives whether there were any.
    pub fn forget(&mut self, now: Instant) -> bool {
        let before = self.known.len();
        self.claims.retain(|_, at| now.saturating_duration_since(*at) < CLAIMS_FOR);
        self.words.retain(|_, (_, at)| now.saturating_duration_since(*at) < CLAIMS_FOR);
        self.known.retain(|_, peer| now.saturating_duration_since(peer.heard) < GONE_AFTER);
        self.known.len() != before
    }

    /// The other instances' beats.
    pub fn beats(&self) -> impl Iterator<Item = &Beat> {
        self.known.values().map(|peer| &peer.beat)
    }

    /// The instances of which it is certain that they serve that revision.
    pub fn certain<'a>(&'a self, revision: &'a str) -> impl Iterator<Item = &'a str> {
        let serves = move |peer: &&Peer| {
            let said = peer.beat.revision.as_deref();
            let understood = peer.vouched.as_ref().is_some_and(|word| word.understood);
            said == Some(revision) && peer.vouched() == said && understood
        };
        self.known.values().filter(serves).map(|peer| peer.beat.instance.as_str())
    }

    /// Whether one of them said, signed, that it serves another policy than `me`, or what this
    /// version does not know.
    #[must_use]
    pub fn differ(&self, me: &Beat) -> bool {
        self.known.values().filter_map(|peer| peer.vouched.as_ref()).any(|word| {
            word.revision.is_some() && (word.revision != me.revision || !word.understood)
        })
    }

    /// When one whose last signed word was another policy than that of `me` last said so: within an
    /// hour, whether it is gone or not.
    #[must_use]
    pub fn differed(&self, me: &Beat) -> Option<Instant> {
        let others = self.words.values();
        let others = others.filter(|(said, _)| Some(said.as_str()) != me.revision.as_deref());
        others.map(|(_, at)| *at).max()
    }

    /// Whether each of them that serves a policy serves the one that `me` serves.
    #[must_use]
    pub fn agree(&self, me: &Beat) -> bool {
        self.beats().all(|beat| beat.revision.is_none() || beat.revision == me.revision)
    }

    /// Revisions of those that are ahead of `me`, who took up its own at `adopted`; not those
    /// that have been claimed to be for too long.
    #[must_use]
    pub fn newer(&self, me: &Beat, adopted: Instant, now: Instant) -> Vec<String> {
        let believed = |revision: &String| {
            let most = if me.had.contains(revision) { BELIEVED_KNOWN } else { BELIEVED };
            let since = self.claims.get(revision).map(|claimed| (*claimed).max(adopted));
            since.is_some_and(|since| now.saturating_duration_since(since) < most)
        };
        let ahead = self.known.values().filter(|peer| peer.is_ahead(me, adopted));
        let ahead = ahead.filter_map(|peer| peer.beat.revision.clone());
        let mut revisions: Vec<String> = ahead.filter(believed).collect();
        revisions.sort_unstable();
        revisions.dedup();
        revisions
    }

    /// Whether some of them make other grants of one policy than `me`.
    #[must_use]
    pub fn unlike(&self, me: &Beat) -> bool {
        self.beats().any(|beat| beat.makes != me.makes || !beat.is_understood())
    }

    /// Whether another one that serves the same can close connections, too.
    #[must_use]
    pub fn others_sweep(&self, revision: Option<&str>) -> bool {
        self.beats().any(|beat| beat.sweeps && beat.revision.as_deref() == revision)
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
    /// The revision that it last said to serve, signed.
    fn vouched(&self) -> Option<&str> {
        self.vouched.as_ref().and_then(|word| word.revision.as_deref())
    }

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
            // Of one number there are several where something counts for a while on top of it.
            (Some(theirs), Some(mine)) if self.beat.lineage == me.lineage && theirs != mine => {
                theirs > mine
            }
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
            format: Beat::FORMAT,
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
            settled: false,
            beat: 0,
        }
    }

    #[test]
    fn the_oldest_that_can_sweeps_until_it_is_gone() {
        let now = Instant::now();
        let me = beat("m", 20, "r", 0);
        let mut peers = Peers::default();
        assert!(peers.elect(&me, now), "alone");
        assert!(!peers.elect(&Beat { sweeps: false, ..me.clone() }, now), "without a system user");
        peers.heard(beat("younger", 21, "r", 0), false, now);
        assert!(peers.elect(&me, now));
        assert!(peers.others_sweep(Some("r")) && !peers.others_sweep(Some("other")));
        peers.heard(Beat { sweeps: false, ..beat("blind", 1, "blind", 0) }, false, now);
        assert!(!peers.others_sweep(Some("blind")));
        assert!(peers.elect(&me, now), "who cannot sweep is not waited for");
        let news = peers.heard(beat("older", 10, "r", 0), false, now);
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
        peers.heard(b.clone(), false, now);
        assert!(peers.elect(&a, now));
        let mut peers = Peers::default();
        peers.heard(a, false, now);
        assert!(!peers.elect(&b, now));
    }

    #[test]
    fn who_leaves_says_so() {
        let now = Instant::now();
        let mut peers = Peers::default();
        let other = beat("a", 1, "r", 0);
        assert!(!peers.heard(Beat { leaves: true, ..other.clone() }, false, now).changed);
        peers.heard(other.clone(), false, now);
        assert!(peers.heard(Beat { leaves: true, ..other }, false, now).changed);
        assert_eq!(peers.beats().count(), 0);
    }

    #[test]
    fn a_beat_that_says_the_same_is_no_news() {
        let now = Instant::now();
        let mut peers = Peers::default();
        peers.heard(beat("a", 1, "r", 0), false, now);
        assert_eq!(peers.heard(beat("a", 1, "r", 1000), false, now), News::default());
        let news = peers.heard(beat("a", 1, "s", 0), false, now);
        assert_eq!(news, News { newcomer: false, changed: true });
    }

    #[test]
    fn what_was_taken_up_later_elsewhere_is_newer() {
        let now = Instant::now() + Duration::from_secs(100);
        let adopted = now.checked_sub(Duration::from_secs(50)).unwrap();
        let me = beat("m", 1, "mine", 50_000);
        let mut peers = Peers::default();
        peers.heard(beat("later", 2, "new", 10_000), false, now);
        peers.heard(beat("earlier", 3, "old", 90_000), false, now);
        peers.heard(beat("same", 4, "mine", 10_000), false, now);
        assert_eq!(peers.newer(&me, adopted, now), ["new"]);
        assert!(!peers.agree(&me));
    }

    #[test]
    fn who_starts_with_what_was_served_before_is_late_and_not_ahead() {
        let now = Instant::now() + Duration::from_secs(100);
        let adopted = now.checked_sub(Duration::from_secs(50)).unwrap();
        let mine = Beat { had: vec!["before".to_owned()], ..beat("m", 1, "mine", 50_000) };
        let mut peers = Peers::default();
        peers.heard(beat("late", 2, "before", 0), false, now);
        assert!(peers.newer(&mine, adopted, now).is_empty());
        // It knows it, too.
        let late = beat("late", 2, "before", 0);
        let mut others = Peers::default();
        others.heard(mine.clone(), false, now);
        assert_eq!(others.newer(&late, now, now), ["mine"]);
        assert!(peers.elect(&mine, adopted) && !others.elect(&late, now));
        // What nobody had is new.
        peers.heard(beat("rolled-out", 2, "unheard-of", 0), false, now);
        assert_eq!(peers.newer(&mine, adopted, now), ["unheard-of"]);
        // A policy that was taken back, by an instance that knows both.
        let back = Beat { had: vec!["mine".to_owned()], ..beat("back", 2, "before", 0) };
        peers.heard(back, false, now);
        assert_eq!(peers.newer(&mine, adopted, now), ["before", "unheard-of"]);
    }

    #[test]
    fn the_oldest_does_not_sweep_while_it_is_behind() {
        let now = Instant::now() + Duration::from_secs(100);
        let ago = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap();
        let (old, young) = (beat("old", 1, "before", 90_000), beat("young", 2, "after", 10_000));
        let (mut of_old, mut of_young) = (Peers::default(), Peers::default());
        of_old.heard(young.clone(), false, now);
        of_young.heard(old.clone(), false, now);
        assert!(!of_old.elect(&old, ago(90)));
        assert!(of_young.elect(&young, ago(10)));
        // When it has caught up, it is its turn again.
        let old = beat("old", 1, "after", 0);
        of_young.heard(old.clone(), false, now);
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
        peers.heard(Beat { number: Some(6), ..beat("late", 2, "old", 0) }, false, now);
        assert!(peers.newer(&me, adopted, now).is_empty());
        peers.heard(Beat { number: Some(8), ..beat("ahead", 2, "new", 90_000) }, false, now);
        assert_eq!(peers.newer(&me, adopted, now), ["new"]);
    }

    #[test]
    fn only_what_was_signed_is_certain() {
        let now = Instant::now();
        let me = beat("m", 2, "r", 0);
        let mut peers = Peers::default();
        let certain = |peers: &Peers| peers.certain("r").map(str::to_owned).collect::<Vec<_>>();
        let numbered = |revision: &str, number| Beat { beat: number, ..beat("a", 1, revision, 0) };
        peers.heard(numbered("r", 1), false, now);
        assert!(certain(&peers).is_empty());
        peers.heard(numbered("r", 2), true, now);
        assert_eq!(certain(&peers), ["a"]);
        // What is not signed may put off, and makes nothing certain.
        peers.heard(numbered("s", 3), false, now);
        assert!(certain(&peers).is_empty() && !peers.agree(&me));
        assert!(!peers.differ(&me), "nor does it hold a handover");
        peers.heard(numbered("r", 4), false, now);
        assert_eq!(certain(&peers), ["a"], "it was so, and never goes back");
        peers.heard(numbered("s", 5), true, now);
        assert!(certain(&peers).is_empty() && peers.differ(&me));
        assert_eq!(peers.differed(&me), Some(now));
        // A newer version may say more than this one knows.
        let mut newer = Peers::default();
        newer.heard(Beat { format: 2, ..numbered("r", 1) }, false, now);
        assert!(certain(&newer).is_empty() && !newer.differ(&me), "not signed, it is no word");
        newer.heard(Beat { format: 2, ..numbered("r", 2) }, true, now);
        assert!(certain(&newer).is_empty() && newer.differ(&me) && newer.unlike(&me));
        newer.heard(numbered("r", 3), true, now);
        assert!(!newer.differ(&me), "it went back");
        assert_eq!(certain(&newer), ["a"]);
        // A beat that was recorded is no word of it.
        peers.heard(numbered("r", 6), true, now);
        let later = now + GONE_AFTER;
        assert_eq!(peers.heard(numbered("s", 5), true, later), News::default());
        assert!(!peers.differ(&me) && peers.forget(later), "and does not keep it alive");
        assert_eq!(peers.differed(&me), None);
        peers.heard(Beat { beat: 1, ..beat("b", 1, "s", 0) }, true, now);
        assert!(peers.forget(later));
        assert_eq!(
            (peers.differ(&me), peers.differed(&me)),
            (false, Some(now)),
            "it is remembered"
        );
    }

    #[test]
    fn other_settings_are_noticed() {
        let me = beat("m", 1, "r", 0);
        let mut peers = Peers::default();
        peers.heard(beat("a", 1, "r", 0), false, Instant::now());
        assert!(!peers.unlike(&me));
        peers.heard(Beat { makes: "y".to_owned(), ..beat("b", 1, "r", 0) }, false, Instant::now());
        assert!(peers.unlike(&me));
    }

    #[test]
    fn strangers_cannot_fill_the_memory() {
        let now = Instant::now();
        let mut peers = Peers::default();
        for n in 0..2 * MAX_PEERS {
            peers.heard(beat(&n.to_string(), 1, "r", 0), false, now);
        }
        assert_eq!(peers.beats().count(), MAX_PEERS);
        for n in 0..2 * MAX_CLAIMS {
            peers.heard(beat("1", 1, &n.to_string(), 0), false, now);
        }
        assert_eq!(peers.claims.len(), MAX_CLAIMS);
        peers.forget(now + CLAIMS_FOR);
        assert!(peers.claims.is_empty() && peers.known.is_empty());
        assert_eq!(Beat::read(&vec![b' '; MAX_BEAT + 1]), None);
        assert_eq!(Beat::read(b"{}"), None);
    }

    #[test]
    fn a_beat_beyond_all_measure_is_none() {
        let read = |beat: &Beat| Beat::read(&serde_json::to_vec(beat).unwrap());
        let most =
            Beat { had: vec![String::new(); MAX_HAD], ..beat(&"i".repeat(MAX_ID), 1, "r", 0) };
        assert!(read(&most).is_some());
        let more = Beat { had: vec![String::new(); MAX_HAD + 1], ..most.clone() };
        assert_eq!(read(&more), None);
        assert_eq!(read(&Beat { instance: "i".repeat(MAX_ID + 1), ..most.clone() }), None);
        // Numbers of any size do no harm, and what is for people is not kept.
        let mut peers = Peers::default();
        let (now, me) = (Instant::now(), beat("m", 20, "r", 0));
        for (started, held_ms, number) in [(i64::MIN, u64::MAX, u64::MAX), (i64::MAX, 0, 0)] {
            let wild = Beat { number: Some(number), ..beat("wild", started, "w", held_ms) };
            peers.heard(read(&wild).unwrap(), false, now);
            let _ = (peers.elect(&me, now), peers.agree(&me), peers.newer(&me, now, now));
        }
        assert!(peers.beats().all(|beat| beat.about.is_none()));
    }

    /// Anybody with the callout's seed can claim to be the first instance, with a newer policy.
    #[test]
    fn what_others_claim_puts_off_and_does_not_prevent() {
        let adopted = Instant::now();
        let me = Beat { had: vec!["revoked".to_owned()], ..beat("m", 20, "mine", 0) };
        let mut peers = Peers::default();
        let forged = Beat { number: Some(u64::MAX), ..beat("f", i64::MIN, "revoked", 0) };
        let forged = Beat { had: vec!["mine".to_owned()], ..forged };
        for second in 1..700 {
            let now = adopted + Duration::from_secs(second);
            peers.heard(forged.clone(), false, now);
            peers.heard(beat("g", 1, "unheard-of", 0), false, now);
            assert!(!peers.elect(&me, adopted));
            let newer = peers.newer(&me, adopted, now);
            // Since it was first claimed.
            assert_eq!(newer.contains(&"revoked".to_owned()), second < 9, "{second}");
            assert_eq!(newer.contains(&"unheard-of".to_owned()), second < 601, "{second}");
        }
        // Another policy of ours: what is claimed to be newer than that is heard anew.
        let later = adopted + Duration::from_secs(695);
        assert_eq!(peers.newer(&me, later, later), ["revoked", "unheard-of"]);
    }

    #[test]
    fn each_looks_for_itself_now_and_then() {
        for instance in ["", "a", "aeaqcaibaeaqcaib", "zzzzzzzzzzzzzzzz"] {
            let looks: Vec<u64> =
                (0..1500).filter(|s| doubts(Duration::from_secs(*s), instance)).collect();
            assert_eq!(looks.get(..5), Some(&[10, 11, 12, 13, 14][..]), "{instance}");
            assert_eq!(looks.len(), 5 + 4 * 5, "once in each period: {looks:?}");
        }
        let at = |instance| (300..600).find(|s| doubts(Duration::from_secs(*s), instance));
        assert_ne!(at("a"), at("b"), "not all at once");
    }
}
