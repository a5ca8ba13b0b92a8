//! How many tests run at once. Most of them wait rather than compute, so there are more than
//! processors. Beside those that fail when many others run, there are fewer: two of them, or one that
//! measures time. `RUST_TEST_THREADS` in `.cargo/config.toml` is higher: a test that waits for room has a
//! thread, too.

use std::io::Write;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore, SemaphorePermit};

const PLACES: u32 = 10;
/// How many may run beside those that need more room. Most of them wait.
const BESIDE: u32 = 5;
/// How many of those run at once.
const TURNS: u32 = 2;
static ROOM: Room = Room::new();

struct Room {
    places: Semaphore,
    /// Those that need more room.
    needy: Mutex<Needy>,
    /// One of them has ended.
    ended: Notify,
    /// Held by the one of them that takes places for all.
    taking: AsyncMutex<()>,
}

struct Needy {
    /// How many turns are taken.
    turns: u32,
    /// Those that wait for one.
    waiting: u32,
    /// Those that wait for all.
    measuring: u32,
    /// Whether all places but `BESIDE` are theirs.
    have_places: bool,
}

/// All places but `BESIDE`. They go to the next that needs as many, if one waits: for each of them, all
/// the others would have to end first.
pub struct MoreRoom<'a> {
    room: &'a Room,
    turns: u32,
}

/// A test's place, which ends with the test.
pub struct Place<P> {
    _place: P,
    test: String,
    began: Instant,
}

/// For a test that only waits longer when others run.
pub async fn some_room() -> Place<SemaphorePermit<'static>> {
    Place::new(ROOM.some().await)
}

/// For a test that fails when many others run.
pub async fn more_room() -> Place<MoreRoom<'static>> {
    Place::new(ROOM.more().await)
}

/// For a test that measures time.
pub async fn much_room() -> Place<MoreRoom<'static>> {
    Place::new(ROOM.much().await)
}

impl<P> Place<P> {
    fn new(place: P) -> Self {
        // Threads of tests have the names of their tests.
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        Self { _place: place, test, began: Instant::now() }
    }
}

/// Adds a line to the file that `E2E_TIMES` names: how long the test took in its place.
impl<P> Drop for Place<P> {
    fn drop(&mut self) {
        let Some(file) = std::env::var_os("E2E_TIMES") else { return };
        let line = format!("{:.1}\t{}\n", self.began.elapsed().as_secs_f64(), self.test);
        let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            println!("E2E_TIMES: {error}");
        }
    }
}

impl Room {
    const fn new() -> Self {
        let needy = Needy { turns: 0, waiting: 0, measuring: 0, have_places: false };
        Self {
            places: Semaphore::const_new(PLACES as usize),
            needy: Mutex::new(needy),
            ended: Notify::const_new(),
            taking: AsyncMutex::const_new(()),
        }
    }

    async fn some(&self) -> SemaphorePermit<'_> {
        self.places.acquire().await.unwrap()
    }

    fn needy(&self) -> MutexGuard<'_, Needy> {
        self.needy.lock().unwrap()
    }

    async fn more(&self) -> MoreRoom<'_> {
        self.needy().waiting += 1;
        self.turn(|needy| {
            let free = needy.turns < TURNS;
            needy.turns += u32::from(free);
            needy.waiting -= u32::from(free);
            free
        })
        .await;
        self.with_places(1).await
    }

    /// Alone among those: when no other waits, because two of them would have to wait for it.
    async fn much(&self) -> MoreRoom<'_> {
        self.needy().measuring += 1;
        self.turn(|needy| {
            let free = needy.turns == 0 && needy.waiting == 0;
            needy.turns += if free { TURNS } else { 0 };
            needy.measuring -= u32::from(free);
            free
        })
        .await;
        self.with_places(TURNS).await
    }

    /// Tries to take turns until that is done.
    async fn turn(&self, take: impl Fn(&mut Needy) -> bool) {
        loop {
            let ended = self.ended.notified();
            if take(&mut self.needy()) {
                return;
            }
            ended.await;
        }
    }

    async fn with_places(&self, turns: u32) -> MoreRoom<'_> {
        let _taking = self.taking.lock().await;
        let have_places = self.needy().have_places;
        if !have_places {
            self.places.acquire_many(PLACES - BESIDE).await.unwrap().forget();
            self.needy().have_places = true;
        }
        MoreRoom { room: self, turns }
    }
}

impl Drop for MoreRoom<'_> {
    fn drop(&mut self) {
        let mut needy = self.room.needy();
        needy.turns -= self.turns;
        if needy.turns + needy.waiting + needy.measuring == 0 {
            needy.have_places = false;
            self.room.places.add_permits((PLACES - BESIDE) as usize);
        }
        drop(needy);
        self.room.ended.notify_waiters();
    }
}

#[tokio::test]
async fn what_needs_more_room_has_few_beside_it() {
    use futures_util::FutureExt;
    let room = Room::new();
    let first = room.much().await;
    let mut beside = Vec::new();
    for _ in 0..BESIDE {
        beside.push(room.some().now_or_never().expect("room beside it"));
    }
    let mut other = Box::pin(room.some());
    assert!((&mut other).now_or_never().is_none(), "one too many beside it");
    let mut fourth = Box::pin(room.much());
    let (mut second, mut third) = (Box::pin(room.more()), Box::pin(room.more()));
    assert!((&mut fourth).now_or_never().is_none(), "two that measure time");
    assert!((&mut second).now_or_never().is_none(), "beside one that measures time");
    assert!((&mut third).now_or_never().is_none(), "beside one that measures time");
    drop(first);
    assert!((&mut other).now_or_never().is_none(), "the places went to somebody else");
    assert!((&mut fourth).now_or_never().is_none(), "others wait, and go first");
    let second = second.now_or_never().expect("its turn");
    let third = third.now_or_never().expect("its turn");
    let mut fifth = Box::pin(room.more());
    assert!((&mut fifth).now_or_never().is_none(), "one too many");
    drop(second);
    assert!((&mut fourth).now_or_never().is_none(), "the third is still there");
    drop(fifth.now_or_never().expect("its turn"));
    drop(third);
    drop(fourth.now_or_never().expect("its turn"));
    let all = room.places.available_permits();
    drop((other.now_or_never().expect("room"), beside));
    let (places, beside) = (PLACES as usize, BESIDE as usize);
    assert_eq!((all, room.places.available_permits()), (places - beside - 1, places));
}
