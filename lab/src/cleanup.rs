//! What an interrupted run leaves behind: nothing.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use super::{Error, progress};

static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// As shells tell that a signal ended something.
const INTERRUPTED: i32 = 130;

/// Has a folder removed, should the run be interrupted.
pub(super) fn folder(path: &Path) {
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
}

/// From now on, SIGINT, SIGTERM and SIGHUP kill what this process started, remove its folders, and
/// end it.
///
/// # Errors
/// When signals cannot be waited for.
pub fn when_interrupted() -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(entered);
    std::thread::Builder::new().name("interrupted".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        progress("interrupted");
        for child in children() {
            let _ = kill_process(child, Signal::KILL);
        }
        for folder in FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = std::fs::remove_dir_all(folder);
        }
        std::process::exit(INTERRUPTED);
    })?;
    Ok(())
}

/// The processes that this one started, where the system tells: on Linux.
fn children() -> Vec<Pid> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.map(|thread| std::fs::read_to_string(thread.path().join("children")));
    let pids = lists.flatten().flat_map(|list| {
        let pids = list.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        pids.collect::<Vec<_>>()
    });
    pids.collect()
}
