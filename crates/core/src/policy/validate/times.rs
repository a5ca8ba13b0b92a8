//! Lengths of time that buckets, streams and object stores have in common.

use std::time::Duration;

use crate::diagnostics::{Collector, Problem, Spanned};

/// The least that nats-server takes as `max_age` and `duplicate_window`.
pub const LEAST_WINDOW: Duration = Duration::from_millis(100);

/// What nats-server sets when a stream has no `duplicate_window`.
const USUAL_WINDOW: Duration = Duration::from_secs(120);

/// Reports a time that nats-server refuses as too short.
pub fn check_least(
    key: &str,
    time: Option<&Spanned<Duration>>,
    least: Duration,
    shown: &str,
    problems: &Collector,
) {
    let Some(time) = time.filter(|time| time.value < least) else { return };
    problems.push(
        Problem::error("out-of-range", format!("`{key}` is out of range"))
            .at(&time.span, format!("nats-server takes {shown} or more")),
    );
}

/// For how long a message id is remembered: no longer than what has it is kept.
pub fn window(
    age: Option<&Spanned<Duration>>,
    window: Option<&Spanned<Duration>>,
    kept: &str,
    problems: &Collector,
) -> Duration {
    if let (Some(age), Some(window)) = (age, window)
        && window.value > age.value
    {
        problems.push(
            Problem::error("out-of-range", "`duplicate_window` is out of range")
                .at(&window.span, format!("longer than {kept}"))
                .also(&age.span, format!("{kept} for this long"))
                .help("nats-server refuses this; shorten it, or leave it out"),
        );
    }
    let usual = age.map_or(USUAL_WINDOW, |age| USUAL_WINDOW.min(age.value));
    window.map_or(usual, |window| window.value)
}
