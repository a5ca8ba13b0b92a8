//! `solewriter audit`: the audit streams, for people.

mod filter;
mod from;
mod once;
mod sentence;
mod show;

use std::cell::RefCell;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;

use self::filter::{Filter, Passed};
use self::from::From;
use self::once::Once;
use super::asked::{moment, to_come};
use super::{fail, note, print, runtime};
use crate::audit::origin;
use crate::audit::reader::{ReadError, Then};
use crate::audit::stats::Counter;
use crate::cli::common;
use solewriter_core::diagnostics::toml::parse_duration;
use solewriter_types::clean;

/// Read the audit streams: what solewriter decided, and what services reported.
///
/// Reads as the admin of the audit streams, with the seed from the settings (`[audit_admin]`). With
/// --nkey-seed it reads as a service that has `audits = ["AUDIT_EVENTS", "AUDIT_SERVICES"]` in the
/// policy. Then it needs no settings.
#[derive(Args)]
pub struct AuditCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Tail(Tail),
    Stats(StatsCommand),
}

/// Show past events, and new ones as they come: when, what (a word that --outcome takes), which
/// service, and the details.
///
/// A change of the policy is one line, however many instances report it; --format json has the event
/// of each instance. A message whose content does not fit its producer is foreign: it is marked,
/// and its content is not shown. With a filter or with JSON, foreign messages are left out and
/// counted.
#[derive(Args)]
struct Tail {
    #[command(flatten)]
    filter: Filter,
    /// Begin that long ago (15m), or at a time (2027-01-31T00:00:00Z), or with the oldest event
    /// (`all`).
    #[arg(long, value_name = "WHEN", default_value = "10m", value_parser = since)]
    since: Since,
    /// End that long ago, or at a time, which may be in the future.
    #[arg(long, value_name = "WHEN", value_parser = until)]
    until: Option<Since>,
    /// Show the events that are there, and end.
    #[arg(long)]
    no_follow: bool,
    /// How to print an event. JSON has each event as it is, one object per line.
    #[arg(long, value_enum, default_value = "text")]
    format: common::Format,
    /// The same as `--format json`.
    #[arg(long, conflicts_with = "format")]
    json: bool,
    #[command(flatten)]
    from: From,
}

/// Count events, and missing ones.
///
/// Each run of a producer numbers its events from 1, so a missing one shows. A message whose content
/// does not fit its producer counts only as foreign.
///
/// Exit code: 0 if no event is missing, 1 if one is, 2 if the streams cannot be read.
#[derive(Args)]
struct StatsCommand {
    /// Begin that long ago (24h), or at a time (2027-01-31T00:00:00Z), or with the oldest event
    /// (`all`).
    #[arg(long, value_name = "WHEN", default_value = "all", value_parser = since)]
    since: Since,
    /// End that long ago, or at a time.
    #[arg(long, value_name = "WHEN", value_parser = until)]
    until: Option<Since>,
    /// How to print it.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: common::Format,
    #[command(flatten)]
    from: From,
}

/// Which time is meant: `until` without `all`.
fn until(text: &str) -> Result<Since, String> {
    match since(text)? {
        Since::All => Err(WHEN.to_owned()),
        time => Ok(time),
    }
}

const WHEN: &str = "write a length of time such as 15m, or a time such as 2027-01-31T00:00:00Z, or \
                    2027-01-31T00:00 for the time here";

#[derive(Clone, Copy)]
enum Since {
    All,
    Ago(Duration),
    At(Timestamp),
}

fn since(text: &str) -> Result<Since, String> {
    let at = || moment(text).ok().map(Since::At);
    match text {
        "all" => Ok(Since::All),
        _ => parse_duration(text)
            .map(Since::Ago)
            .or_else(at)
            .ok_or_else(|| format!("{WHEN}; or all")),
    }
}

impl Since {
    fn time(self) -> Option<Timestamp> {
        match self {
            Self::All => None,
            // Longer ago than there are times is before everything.
            Self::Ago(length) => {
                Some(Timestamp::now().checked_sub(length).unwrap_or(Timestamp::MIN))
            }
            Self::At(time) => Some(time),
        }
    }
}

/// From when to when, by when the streams took the events.
fn span(
    since: Since,
    until: Option<Since>,
) -> Result<(Option<Timestamp>, Option<Timestamp>), String> {
    let (since, until) = (since.time(), until.and_then(Since::time));
    let now = Timestamp::now();
    match (since, until) {
        (Some(from), _) if from > now => Err(format!("--since {from}: {}", to_come(now))),
        (Some(from), Some(to)) if from > to => {
            Err(format!("--until {to} is before --since {from}: swap them"))
        }
        span => Ok(span),
    }
}

impl AuditCommand {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let runtime = match runtime() {
            Ok(runtime) => runtime,
            Err(error) => return fail(&error),
        };
        let outcome = match self.command {
            Command::Tail(tail) => runtime.block_on(tail.run()),
            Command::Stats(stats) => runtime.block_on(stats.run()),
        };
        outcome.unwrap_or_else(common::Output::print)
    }
}

/// What keeps the streams from being read.
fn cannot(error: &dyn std::fmt::Display) -> common::Output {
    common::Output { out: String::new(), err: format!("error: {error}\n"), code: common::WRONG }
}

fn messages(count: u64) -> String {
    common::count(usize::try_from(count).unwrap_or(usize::MAX), "message", "messages")
}

impl Tail {
    async fn run(self) -> Result<ExitCode, common::Output> {
        let (since, until) = span(self.since, self.until).map_err(|error| cannot(&error))?;
        let filter = self.filter.check().map_err(|error| cannot(&error))?;
        let json = self.json || matches!(self.format, common::Format::Json);
        let followers = self.from.followers.clone();
        let reader = self.from.reader()?;
        let (mut foreign, mut once) = (0_u64, Once::default());
        let passed = RefCell::new(Passed::default());
        let show = |subject: &str, event: &serde_json::Value| {
            let judged = origin::judge(subject, event, &followers);
            let takes = filter.takes(event);
            if judged.is_ok() {
                passed.borrow_mut().note(event, takes);
            }
            let line = match judged {
                Ok(_) if !takes => return Then::GoOn,
                Ok(_) if json => clean::json(&event.to_string()).into_owned() + "\n",
                Ok(place) if !once.is_news(place.instance, event) => return Then::GoOn,
                Ok(place) => show::line(place.producer, event),
                Err(why) => {
                    foreign += 1;
                    if json || !filter.is_open() {
                        return Then::GoOn;
                    }
                    show::foreign(subject, why)
                }
            };
            // A reader that has seen enough (`| head`) is no failure.
            match std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes()) {
                Ok(()) => Then::GoOn,
                Err(_) => Then::Stop,
            }
        };
        let tell = || passed.borrow().nothing(&filter).iter().for_each(|text| note(text));
        let reading = reader.read_and_tell((since, until), !self.no_follow, show, tell);
        tokio::select! {
            outcome = reading => outcome.map_err(|error: ReadError| cannot(&error))?,
            _ = tokio::signal::ctrl_c() => {}
        }
        if once.left_out() > 0 {
            let messages = messages(once.left_out());
            note(&format!(
                "{messages} of other instances about the same changes were left out; --format \
                 json shows them"
            ));
        }
        if foreign > 0 {
            let messages = messages(foreign);
            note(&format!("{messages} foreign; `solewriter audit stats` says who published them"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl StatsCommand {
    async fn run(self) -> Result<ExitCode, common::Output> {
        let (since, until) = span(self.since, self.until).map_err(|error| cannot(&error))?;
        let mut stats = Counter::new(self.from.followers.clone());
        let reader = self.from.reader()?;
        let count = |subject: &str, event: &serde_json::Value| {
            stats.add(subject, event);
            Then::GoOn
        };
        let outcome = reader.read(since, until, false, count).await;
        outcome.map_err(|error| cannot(&error))?;
        let stats = stats.finish();
        let text = match self.format {
            common::Format::Text => show::stats(&stats),
            common::Format::Json => common::json(&stats),
        };
        let printed = print(text.as_bytes());
        Ok(if stats.missing() > 0 { ExitCode::from(common::NO) } else { printed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_from_a_time_to_a_later_one() {
        let at = |text: &str| since(text).unwrap();
        let day = "2026-01-31T00:00:00Z";
        assert_eq!(span(at("all"), None), Ok((None, None)));
        let (from, to) = span(at("2h"), Some(at("1h"))).unwrap();
        assert!(from.unwrap() < to.unwrap());
        assert_eq!(span(at(day), Some(at(day))).unwrap().1, Some(day.parse().unwrap()));
        assert!(span(at("1h"), Some(at("2h"))).unwrap_err().contains("is before --since"));
        assert_eq!(span(at("all"), Some(at("999999999h"))), Ok((None, Some(Timestamp::MIN))));
        let ahead = span(at("2999-01-31T00:00:00Z"), None).unwrap_err();
        assert!(ahead.starts_with("--since 2999-01-31T00:00:00Z: this time is to come"), "{ahead}");
        assert!(span(at("0s"), Some(at("2999-01-31T00:00:00Z"))).is_ok());
        // Without a zone, the time here.
        assert!(matches!(until("2027-01-31T00:00"), Ok(Since::At(_))));
        for wrong in ["all", "", "yesterday", "-1h"] {
            assert!(until(wrong).is_err_and(|error| error.contains("15m")), "{wrong}");
        }
    }
}
