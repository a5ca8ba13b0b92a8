//! Tells systemd how the service is: ready, reading the policy again, stopping, alive.
//!
//! Whoever started this process by another way hears nothing (`NOTIFY_SOCKET` is not set).

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sd_notify::NotifyState;
use tokio::signal::unix::Signal;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::service::Health;
use crate::telemetry::{Exposition, Progress};

/// How often it is looked whether there is something new to tell.
const LOOK: Duration = Duration::from_millis(250);
/// How many signs of life there are within the time that systemd waits for one.
const BEATS: u32 = 3;
/// How long a policy may take to be read again. After that, systemd is told that it is over: a
/// source that does not answer must not keep `systemctl reload` waiting.
const RELOADED_WITHIN: Duration = Duration::from_secs(10);
/// The longest status, in bytes.
const STATUS_AT_MOST: usize = 500;

/// Whether anybody hears it.
#[must_use]
pub fn listens() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Tells systemd that the service stops.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    // systemd that does not hear it acts on that itself.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(event = "notify_failed", %error, "systemd was not told");
    }
}

/// Tells systemd how the service is, for ever.
pub async fn follow(health: Arc<Health>, metrics: Arc<Exposition>, mut hangup: Signal) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watchdog = sd_notify::watchdog_enabled().map(|within| within / BEATS);
    let mut beat = Instant::now();
    let mut before = metrics.progress();
    let (mut ready, mut status) = (false, String::new());
    // Since when the policy is read again, and how many had been read before.
    let mut reading: Option<(Instant, u64)> = None;
    let mut loads = metrics.policies_read();
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            Some(()) = hangup.recv() => {
                if let Ok(since) = NotifyState::monotonic_usec_now() {
                    tell(&[NotifyState::Reloading, since]);
                    // The count of the last look: the policy may be read by now.
                    reading = Some((Instant::now(), loads));
                }
                continue;
            }
            () = due(watchdog.map(|_| beat)) => {
                let now = metrics.progress();
                if stuck(before, now) {
                    tracing::error!(
                        event = "stuck", pending = now.pending,
                        "requests wait and none is answered: systemd hears no sign of life",
                    );
                } else {
                    tell(&[NotifyState::Watchdog]);
                }
                before = now;
                beat = Instant::now() + watchdog.unwrap_or_default();
                continue;
            }
        }
        let (is_ready, report) = health.report(Timestamp::now().as_second());
        let says = one_line(is_ready, &report);
        if says != status {
            tell(&[NotifyState::Status(&says)]);
            status = says;
        }
        if is_ready && !ready {
            ready = true;
            tell(&[NotifyState::Ready]);
        }
        loads = metrics.policies_read();
        if let Some((since, earlier)) = reading
            && (loads != earlier || since.elapsed() >= RELOADED_WITHIN)
        {
            reading = None;
            // A start that is not over yet does not end here.
            if ready {
                tell(&[NotifyState::Ready]);
            }
        }
    }
}

/// At that time; never, without one.
async fn due(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Requests wait, and none was finished since the last look. Without a connection nothing can be
/// answered, and a restart would help nobody.
fn stuck(before: Progress, now: Progress) -> bool {
    now.connected && before.pending > 0 && now.pending > 0 && before.finished == now.finished
}

/// The report in one line: a line break in a text of others would be a message of its own to systemd.
fn one_line(ready: bool, report: &str) -> String {
    let mut line = if ready { "ready" } else { "not ready" }.to_owned();
    // Ages grow each second; whoever wants them asks /readyz.
    let ages = |part: &&str| part.starts_with("in force:") || part.contains(": answered ");
    for part in report.lines().filter(|part| !ages(part)) {
        line += "; ";
        line.extend(part.chars().map(|c| if c.is_control() { ' ' } else { c }));
    }
    while line.len() > STATUS_AT_MOST {
        line.pop();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(connected: bool, pending: i64, finished: u64) -> Progress {
        Progress { connected, pending, finished }
    }

    #[test]
    fn who_answers_nothing_while_requests_wait_is_stuck() {
        assert!(stuck(progress(true, 3, 7), progress(true, 5, 7)));
        for (before, now, why) in [
            (progress(true, 3, 7), progress(true, 5, 8), "one was answered"),
            (progress(true, 0, 7), progress(true, 5, 7), "they came just now"),
            (progress(true, 3, 7), progress(true, 0, 7), "none waits"),
            (progress(true, 3, 7), progress(false, 5, 7), "nobody could be answered"),
        ] {
            assert!(!stuck(before, now), "{why}");
        }
    }

    #[test]
    fn a_status_is_one_line_whatever_is_in_it() {
        let report =
            "source: away\rREADY=1\nin force: for 3 s\nsource: answered 3 s ago\nopen: 1\n";
        let line = one_line(false, report);
        assert_eq!(line, "not ready; source: away READY=1; open: 1");
        let long = one_line(true, &"ü".repeat(STATUS_AT_MOST));
        assert!(long.len() <= STATUS_AT_MOST && long.ends_with('ü'), "{long}");
    }
}
