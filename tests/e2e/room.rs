//! How many tests run at once. Most of them wait rather than compute, so there are more than
//! processors (`RUST_TEST_THREADS` in `.cargo/config.toml`); what measures time has one other beside
//! it at most.

use tokio::sync::{Semaphore, SemaphorePermit};

const PLACES: u32 = 6;
static ROOM: Semaphore = Semaphore::const_new(PLACES as usize);

/// For a test that only waits longer when others run.
pub async fn some_room() -> SemaphorePermit<'static> {
    ROOM.acquire().await.unwrap()
}

/// For a test that fails when many others run.
pub async fn much_room() -> SemaphorePermit<'static> {
    ROOM.acquire_many(PLACES - 1).await.unwrap()
}
