//! How many tests run at once. Most of them wait rather than compute, so there are more than
//! processors; what measures time has three others beside it at most. `RUST_TEST_THREADS` in
//! `.cargo/config.toml` is higher: a test that waits for room has a thread, too.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use tokio::sync::{Mutex, MutexGuard, Semaphore, SemaphorePermit};

const PLACES: u32 = 10;
/// How many may run beside one that needs much room. Most of them wait.
const BESIDE: u32 = 6;
static ROOM: Room = Room::new();

struct Room {
    places: Semaphore,
    /// Whose turn it is of those that need much room. Inside is whether all places but `BESIDE` are
    /// theirs.
    turn: Mutex<bool>,
    /// How many of those wait for their turn.
    coming: AtomicU32,
}

/// All places but `BESIDE`. They go to the next that needs as many, if one waits: for each of them, all
/// the others would have to end first.
pub struct MuchRoom<'a> {
    room: &'a Room,
    taken: MutexGuard<'a, bool>,
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
pub async fn much_room() -> Place<MuchRoom<'static>> {
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
        Self {
            places: Semaphore::const_new(PLACES as usize),
            turn: Mutex::const_new(false),
            coming: AtomicU32::new(0),
        }
    }

    async fn some(&self) -> SemaphorePermit<'_> {
        self.places.acquire().await.unwrap()
    }

    async fn much(&self) -> MuchRoom<'_> {
        self.coming.fetch_add(1, Ordering::SeqCst);
        let mut taken = self.turn.lock().await;
        self.coming.fetch_sub(1, Ordering::SeqCst);
        if !*taken {
            self.places.acquire_many(PLACES - BESIDE).await.unwrap().forget();
            *taken = true;
        }
        MuchRoom { room: self, taken }
    }
}

impl Drop for MuchRoom<'_> {
    fn drop(&mut self) {
        if self.room.coming.load(Ordering::SeqCst) == 0 {
            *self.taken = false;
            self.room.places.add_permits((PLACES - BESIDE) as usize);
        }
    }
}

#[tokio::test]
async fn what_needs_much_room_comes_one_after_the_other_with_few_beside_it() {
    use futures_util::FutureExt;
    let room = Room::new();
    let first = room.much().await;
    let mut beside = Vec::new();
    for _ in 0..BESIDE {
        beside.push(room.some().now_or_never().expect("room beside it"));
    }
    let mut third = Box::pin(room.some());
    assert!((&mut third).now_or_never().is_none(), "one too many beside it");
    let mut second = Box::pin(room.much());
    assert!((&mut second).now_or_never().is_none(), "two that need much room");
    drop(first);
    assert!((&mut third).now_or_never().is_none(), "the places went to somebody else");
    let second = second.now_or_never().expect("its turn");
    drop(second);
    let all = room.places.available_permits();
    drop((third.now_or_never().expect("room"), beside));
    let (places, beside) = (PLACES as usize, BESIDE as usize);
    assert_eq!((all, room.places.available_permits()), (places - beside - 1, places));
}
