//! What a process has used, from the system's own accounting.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// What one process has used since it began.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Usage {
    /// User and system time of all its threads.
    #[serde(skip)]
    pub cpu: Duration,
    /// Resident memory, in bytes.
    pub rss: u64,
    /// The most resident memory that it ever had, in bytes.
    pub peak_rss: u64,
}

/// Reads `/proc`. `None` where there is none, or no such process.
#[must_use]
pub fn of(pid: u32) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything; the fields after it are numbered from 3.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let cpu = Duration::from_secs(user + system) / u32::try_from(ticks).ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kilobytes = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some(Usage {
        cpu,
        rss: kilobytes("VmRSS:")? * 1024,
        peak_rss: kilobytes("VmHWM:").unwrap_or_default() * 1024,
    })
}

/// Keeps every thread of a process, and those that they start, on some of the processors. False where
/// the system has no such thing, or refuses.
#[must_use]
pub fn keep_on(pid: u32, processors: std::ops::Range<usize>) -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::Pid;
        use rustix::thread::{CpuSet, sched_setaffinity};
        let mut set = CpuSet::new();
        for processor in processors {
            if processor >= CpuSet::MAX_CPU {
                return false;
            }
            set.set(processor);
        }
        let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
        let keep = |thread: std::fs::DirEntry| {
            let thread = thread.file_name().into_string().ok()?.parse().ok()?;
            match sched_setaffinity(Some(Pid::from_raw(thread)?), &set) {
                // Threads come and go.
                Ok(()) | Err(rustix::io::Errno::SRCH) => Some(()),
                Err(_) => None,
            }
        };
        threads.flatten().map(keep).collect::<Option<Vec<()>>>().is_some()
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (pid, processors);
        false
    }
}

/// The CPU time of the calling thread.
#[must_use]
pub fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn work_shows_in_the_accounts() {
        let before = of(std::process::id()).unwrap();
        let mine = thread_cpu();
        while thread_cpu().saturating_sub(mine) < Duration::from_millis(60) {
            std::hint::spin_loop();
        }
        let after = of(std::process::id()).unwrap();
        assert!(after.cpu > before.cpu, "{before:?} {after:?}");
        assert!(after.rss > 0 && after.peak_rss >= after.rss / 2);
        assert!(of(u32::MAX).is_none());
    }
}
