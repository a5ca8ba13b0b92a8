//! Connections that asked already, so that one which asks twice is found.
//!
//! nats-server takes a second CONNECT on an open connection: it asks again, and gives the connection
//! what it is answered. Up to 2.11.16 and 2.12.7 it leaves it the subscriptions that it has
//! ([`solewriter_types::advisories::SECOND_CONNECT`]); later versions end them. So a connection could outlive what
//! took its rights away, or go on listening under another service's proof. Nothing in the second
//! request tells it from a first one but the connection's number, which a server gives once.
//!
//! An instance refuses the second request for a number. Another instance may get it instead, so
//! they tell each other of those that they let in, and what two of them let in is closed by the
//! sweep (`sessions`). This is kept for some minutes; a later request is known by its time,
//! which is in the connection's name: the server says when the connection was made, by the same
//! clock.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use crate::callout::request::VerifiedRequest;
use crate::keys::{ServerKey, UserKey};
use solewriter_types::advisories::{self, SECOND_CONNECT};

/// How long after a connection was made its server may ask about it, in seconds. A server gives
/// its clients `authorization.timeout` to log in: seconds, so that this is never reached by
/// who asks once.
pub const LATEST: i64 = 60;
/// How long a connection is remembered, in seconds: longer than that, whatever the clocks say.
const REMEMBERED: i64 = 3 * LATEST;
/// How far a server's clock and ours may differ, in seconds.
const CLOCKS: i64 = 5;
/// Connections that are remembered, at most. Only who was let in is; the oldest go first.
const MAX_CONNECTIONS: usize = 300_000;
/// Connections that asked twice and are to be closed, at most, and for how long, in seconds.
const MAX_TWICE: usize = 10_000;
const TWICE_FOR: i64 = 3600;
/// What waits to be told to the other instances, at most.
const MAX_NOTES: usize = 65_536;

/// The most notes in a message, and its longest form, in bytes.
const NOTES_AT_ONCE: usize = 400;
const MAX_MESSAGE: usize = 64 * 1024;

/// A connection of a server.
type Place = (ServerKey, u64);

/// That a connection was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    server: ServerKey,
    connection: u64,
    /// Made by the server for each time that it asks: tells a request that came twice from two.
    request: UserKey,
}

impl Note {
    fn write(&self, text: &mut String) {
        let Self { server, connection, request } = self;
        text.push_str(&format!("{server} {connection} {request}\n"));
    }

    fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (server, connection, request) = (words.next()?, words.next()?, words.next()?);
        Some(Self {
            server: ServerKey::parse(server).ok()?,
            connection: connection.parse().ok()?,
            request: UserKey::parse(request).ok()?,
        })
        .filter(|_| words.next().is_none())
    }
}

/// What is remembered.
#[derive(Default)]
struct Memory {
    first: HashMap<Place, UserKey>,
    /// The same by age.
    ages: VecDeque<(i64, Place)>,
    twice: HashMap<Place, i64>,
    /// Since when nothing that any instance let in was missed.
    since: Option<i64>,
}

impl Memory {
    fn forget(&mut self, now: i64) {
        while let Some((at, place)) = self.ages.front().copied()
            && (now.saturating_sub(at) > REMEMBERED || self.ages.len() > MAX_CONNECTIONS)
        {
            self.ages.pop_front();
            self.first.remove(&place);
        }
    }

    /// Takes note; false when the connection was let in by another request before.
    fn note(&mut self, note: &Note, now: i64) -> bool {
        self.forget(now);
        let place = (note.server, note.connection);
        match self.first.get(&place) {
            Some(request) if *request == note.request => true,
            Some(_) => {
                if self.twice.len() >= MAX_TWICE {
                    self.twice.retain(|_, at| now.saturating_sub(*at) <= TWICE_FOR);
                }
                if self.twice.len() < MAX_TWICE {
                    self.twice.insert(place, now);
                }
                false
            }
            None => {
                self.first.insert(place, note.request);
                self.ages.push_back((now, place));
                true
            }
        }
    }
}

/// The connections that were let in of late, on servers that let one ask twice.
#[derive(Default)]
pub struct Asked {
    memory: Mutex<Memory>,
    waiting: Mutex<Waiting>,
}

/// What waits to be told to the other instances, and who waits for it.
#[derive(Default)]
struct Waiting {
    notes: VecDeque<Note>,
    teller: Option<Waker>,
}

/// Whether a server of that version lets a connection ask twice. One that does not say is not
/// believed to be mended.
#[must_use]
pub fn is_open(version: &str) -> bool {
    advisories::version(version).is_none_or(|version| SECOND_CONNECT.affects(&version))
}

impl Asked {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many connections are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.memory().first.len()
    }

    /// Takes note of a request that is about to be granted; false when its connection was let in
    /// already. The same request twice is one.
    #[must_use]
    pub fn first(&self, request: &VerifiedRequest, now: i64) -> bool {
        let server = request.server();
        if !is_open(&server.version) {
            return true;
        }
        let (connection, request) = (request.client().id, *request.user_nkey());
        let note = Note { server: server.key, connection, request };
        let first = self.memory().note(&note, now);
        if first && !self.leave(note) {
            // Nobody takes them: the others have missed something, and will know by the time.
            tracing::debug!(event = "notes_lost", "the other instances are not told of everybody");
        }
        first
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a note for the other instances; false when too many wait.
    fn leave(&self, note: Note) -> bool {
        let teller = {
            let mut waiting = self.waiting();
            if waiting.notes.len() >= MAX_NOTES {
                return false;
            }
            waiting.notes.push_back(note);
            waiting.teller.take()
        };
        if let Some(teller) = teller {
            teller.wake();
        }
        true
    }

    /// Waits until there is something to tell the other instances. Of several who wait, one is woken.
    pub async fn to_tell(&self) -> String {
        std::future::poll_fn(|cx| {
            let mut waiting = self.waiting();
            if waiting.notes.is_empty() {
                waiting.teller = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let some = waiting.notes.len().min(NOTES_AT_ONCE);
            let mut text = String::new();
            waiting.notes.drain(..some).for_each(|note| note.write(&mut text));
            Poll::Ready(text)
        })
        .await
    }

    /// Hears what another instance tells; gives whether some connection turns out to have asked
    /// twice.
    pub fn hear(&self, payload: &[u8], now: i64) -> bool {
        if payload.len() > MAX_MESSAGE {
            return false;
        }
        let Ok(text) = std::str::from_utf8(payload) else { return false };
        let mut memory = self.memory();
        let mut twice = false;
        for note in text.lines().take(NOTES_AT_ONCE).filter_map(Note::read) {
            twice |= !memory.note(&note, now);
        }
        twice
    }

    /// Whether what the others tell is heard now: if so, nothing is missed from now on.
    pub fn hears(&self, hears: bool, now: i64) {
        let mut memory = self.memory();
        memory.since = hears.then(|| memory.since.unwrap_or(now));
    }

    /// Why the connection of that number must have asked twice, as far as anybody can know:
    /// `start` is when it was made and `asked` when its server asked, both by the server's clock.
    #[must_use]
    pub fn twice(
        &self,
        (server, connection): (&str, u64),
        start: Option<i64>,
        asked: Option<i64>,
    ) -> Option<&'static str> {
        let memory = self.memory();
        if let Ok(server) = ServerKey::parse(server)
            && memory.twice.contains_key(&(server, connection))
        {
            return Some("it was let in twice");
        }
        let (start, asked) = (start?, asked?);
        let after = asked.saturating_sub(start);
        if after > LATEST {
            return Some("it was let in long after it was made");
        }
        // Who was let in before nobody here remembers. Most log in at once; whoever did not is
        // closed, and comes back.
        let forgotten = memory.since.is_some_and(|since| {
            start < since.saturating_add(CLOCKS) && asked >= since.saturating_sub(CLOCKS)
        });
        (forgotten && after > 1).then_some("it may have been let in before this instance began")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;

    use super::*;
    use crate::keys::{Seed, Server, Signer, User};

    const NOW: i64 = 1_800_000_000;

    fn note(server: ServerKey, connection: u64) -> Note {
        let request = *Signer::new(&Seed::<User>::generate()).unwrap().public();
        Note { server, connection, request }
    }

    fn server() -> ServerKey {
        *Signer::new(&Seed::<Server>::generate()).unwrap().public()
    }

    fn told(notes: &[Note]) -> String {
        let mut text = String::new();
        for note in notes {
            note.write(&mut text);
        }
        text
    }

    #[test]
    fn what_two_instances_let_in_is_known_to_all() {
        let (server, other) = (server(), server());
        let (one, again) = (note(server, 7), note(server, 7));
        let asked = Asked::default();
        assert!(asked.memory().note(&one, NOW));
        assert!(asked.memory().note(&one, NOW), "a request that came twice");
        assert!(!asked.hear(told(&[one, note(server, 8), note(other, 7)]).as_bytes(), NOW));
        let twice = |server: &ServerKey| asked.twice((server.as_str(), 7), None, None).is_some();
        assert!(!twice(&server));
        assert!(asked.hear(told(&[again]).as_bytes(), NOW + LATEST));
        assert!(twice(&server) && !twice(&other));
        // Whatever order they are heard in.
        let third = Asked::default();
        assert!(third.hear(told(&[again, one]).as_bytes(), NOW));
        assert!(third.twice((server.as_str(), 7), None, None).is_some());
    }

    #[test]
    fn nobody_fills_the_memory() {
        let (asked, server) = (Asked::default(), server());
        let one = note(server, 0);
        for connection in 0..MAX_CONNECTIONS as u64 + 10 {
            assert!(asked.memory().note(&Note { connection, ..one }, NOW));
        }
        let kept = |memory: MutexGuard<'_, Memory>| (memory.first.len(), memory.ages.len());
        let (first, ages) = kept(asked.memory());
        assert!(first <= MAX_CONNECTIONS + 1 && first == ages, "{first} {ages}");
        asked.memory().note(&note(server, u64::MAX), NOW + REMEMBERED + 1);
        assert_eq!(asked.memory().first.len(), 1);
        let twice = told(&[note(server, 1), note(server, 1)]);
        for garbage in [&b"\xff"[..], b"", b"a b c", b"\n\n", &vec![b'x'; MAX_MESSAGE + 1]] {
            assert!(!asked.hear(garbage, NOW));
        }
        assert!(asked.hear(twice.as_bytes(), NOW));
    }

    #[test]
    fn a_request_that_comes_late_is_the_second() {
        let asked = Asked::default();
        let twice = |start, at| asked.twice(("N", 1), Some(start), Some(at)).is_some();
        assert!(!twice(NOW, NOW) && !twice(NOW, NOW + LATEST) && twice(NOW, NOW + LATEST + 1));
        assert!(asked.twice(("N", 1), Some(NOW), None).is_none(), "an older version's name");
        // What was before this instance listened, it does not know.
        asked.hears(true, NOW);
        assert!(twice(NOW - 9, NOW) && twice(NOW - 2, NOW + 5));
        assert!(twice(NOW + 2, NOW + 4), "the server's clock may be ahead");
        assert!(!twice(NOW - 1, NOW), "it came as the instance did");
        assert!(!twice(NOW - 19, NOW - 9), "let in before by others");
        assert!(!twice(NOW + 9, NOW + 18));
        asked.hears(true, NOW + 100);
        assert!(!twice(NOW + 90, NOW + 110), "it has listened all the time");
        asked.hears(false, NOW + 110);
        asked.hears(true, NOW + 120);
        assert!(twice(NOW + 115, NOW + 121));
    }

    #[test]
    fn the_others_are_told_in_few_messages() {
        let (asked, server) = (Asked::default(), server());
        for connection in 0..=(NOTES_AT_ONCE as u64) {
            assert!(asked.leave(note(server, connection)));
        }
        let told = || asked.to_tell().now_or_never();
        let (first, second) = (told().unwrap(), told().unwrap());
        assert_eq!((first.lines().count(), second.lines().count()), (NOTES_AT_ONCE, 1));
        assert!(first.len() <= MAX_MESSAGE);
        assert!(first.lines().all(|line| Note::read(line).is_some()));
        assert!(told().is_none(), "there is nothing more to tell");
    }

    #[tokio::test]
    async fn who_waits_for_something_to_tell_is_woken() {
        let (asked, server) = (Arc::new(Asked::default()), server());
        let waiting = tokio::spawn({
            let asked = asked.clone();
            async move { asked.to_tell().await }
        });
        // Until it waits.
        while asked.waiting().teller.is_none() {
            tokio::task::yield_now().await;
        }
        assert!(asked.leave(note(server, 7)));
        let told = tokio::time::timeout(std::time::Duration::from_secs(60), waiting).await;
        assert_eq!(told.unwrap().unwrap().lines().count(), 1);
    }

    #[test]
    fn what_nobody_tells_does_not_fill_the_memory() {
        let (asked, server) = (Asked::default(), server());
        let note = note(server, 7);
        assert!((0..MAX_NOTES).all(|_| asked.leave(note)));
        assert!(!asked.leave(note));
    }
}
