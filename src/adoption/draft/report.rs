//! What people are told about a draft.

use std::fmt::Write as _;

use jiff::civil::DateTime;
use serde::Serialize;

use crate::adoption::evidence::tally::{Tally, shown, times};

/// The most lines of one kind that the text shows; the JSON has all.
const MOST_SHOWN: usize = 50;

/// Something that somebody did, how often and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Doing {
    /// The service, or `(unknown)`.
    pub service: String,
    /// What it did, as `writes bucket orders`.
    pub what: String,
    /// Some of the subjects or keys.
    pub subjects: Vec<String>,
    /// How often.
    pub count: u64,
    /// How many of those are no deeds, but what somebody has open now.
    #[serde(skip_serializing_if = "is_zero")]
    pub now: u64,
    /// When first, by the server's clock.
    pub first: Option<DateTime>,
    /// When last.
    pub last: Option<DateTime>,
    /// By which users, some of them.
    pub users: Vec<String>,
}

impl Doing {
    pub(super) fn new(service: &str, what: String, subjects: Vec<String>, tally: &Tally) -> Self {
        Self {
            service: service.to_owned(),
            what,
            subjects,
            count: tally.count,
            now: tally.now,
            first: tally.first,
            last: tally.last,
            users: tally.users.names().iter().map(ToString::to_string).collect(),
        }
    }

    /// For people: `orders: 12 times, 2026-11-27 20:01:15 to 2026-11-28 09:00:00: a.> b.>`.
    pub(super) fn line(&self) -> String {
        let times = times(self.count, self.now);
        let mut line = format!("{}: {times}", self.service);
        match (self.first, self.last) {
            (Some(first), Some(last)) if first != last => {
                line += &format!(", first {}, last {}", shown(first), shown(last));
            }
            (_, Some(last)) => line += &format!(", {}", shown(last)),
            _ => {}
        }
        if !self.subjects.is_empty() {
            line += &format!(" ({})", self.subjects.join(" "));
        }
        line
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde gives a reference
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A library that clients use who are connected now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Library {
    /// Its name and version, as clients tell them.
    pub library: String,
    /// How many connections.
    pub connections: u64,
    /// Of which services, some of them.
    pub services: Vec<String>,
}

/// What a person has to decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Question {
    /// Its number, as in the file.
    pub number: usize,
    /// The question.
    pub question: String,
    /// Who does what.
    pub who: Vec<Doing>,
    /// What to write, by choice.
    pub choices: Vec<String>,
}

impl Question {
    /// As lines of a comment.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("QUESTION {}: {}", self.number, self.question)];
        lines.extend(self.who.iter().map(|doing| format!("  {}", doing.line())));
        lines.extend(self.choices.iter().map(|choice| format!("  - {choice}")));
        lines
    }
}

/// What is not as it should be today.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// What kind: `bucket-writers`, `store-writers`, `stream-writers`, `consumer-users`,
    /// `answerers`, `management`, `hears-everything`, `hears-keys`, `hears-inboxes`, `odd-replies`,
    /// `shared-nkey` or `unknown-clients`.
    pub kind: &'static str,
    /// In one line.
    pub message: String,
    /// Who does it.
    pub who: Vec<Doing>,
}

/// What was seen and the draft does not grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotGranted {
    /// What was seen.
    #[serde(flatten)]
    pub doing: Doing,
    /// Why it is not granted.
    pub why: String,
    /// The question that decides it.
    pub question: Option<usize>,
}

/// A service of the draft.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drafted {
    /// Its name.
    pub service: String,
    /// Its users, some of them.
    pub users: Vec<String>,
    /// How many entries its table has.
    pub entries: usize,
    /// Whether an NKEY of it is known.
    pub has_key: bool,
    /// How often it used inboxes that are not below `_INBOX.<service>`.
    pub other_inboxes: u64,
}

/// What people are told about a draft.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The services of the draft.
    pub services: Vec<Drafted>,
    /// What is connected now, where servers told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub connected: Vec<Library>,
    /// What was not known to be so.
    pub conflicts: Vec<Conflict>,
    /// What has to be decided.
    pub questions: Vec<Question>,
    /// What the draft does not grant.
    pub not_granted: Vec<NotGranted>,
    /// What to do next.
    pub next: Vec<String>,
}

impl Report {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let section = |text: &mut String, title: &str, lines: Vec<String>| {
            if lines.is_empty() {
                return;
            }
            let more = lines.len().saturating_sub(MOST_SHOWN);
            let _ = writeln!(text, "{title}");
            for line in lines.iter().take(MOST_SHOWN) {
                let _ = writeln!(text, "  {}", line.replace('\n', "\n    "));
            }
            if more > 0 {
                let _ = writeln!(text, "  and {more} more: see --json");
            }
            text.push('\n');
        };
        let services = self.services.iter().map(Drafted::line).collect();
        section(&mut text, "Services:", services);
        let connected = self.connected.iter().map(Library::line).collect();
        section(&mut text, "Connected now:", connected);
        let with_who = |message: &str, who: &[Doing]| {
            let who = who.iter().take(MOST_SHOWN).map(|doing| format!("\n{}", doing.line()));
            format!("{message}{}", who.collect::<String>())
        };
        let conflicts = self.conflicts.iter().map(|c| with_who(&c.message, &c.who)).collect();
        section(&mut text, "What may not be known:", conflicts);
        let questions =
            self.questions.iter().map(|q| format!("QUESTION {}: {}", q.number, q.question));
        section(&mut text, "To decide, see services.toml:", questions.collect());
        let not_granted = self.not_granted.iter().map(NotGranted::line).collect();
        section(&mut text, "Seen, and not granted:", not_granted);
        section(&mut text, "Next:", self.next.clone());
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    }
}

impl Drafted {
    fn line(&self) -> String {
        let entries = if self.entries == 1 { "entry" } else { "entries" };
        let key = if self.has_key { "" } else { ", no NKEY yet" };
        let inbox = match self.other_inboxes {
            0 => String::new(),
            _ => format!(", has to set the inbox prefix _INBOX.{}", self.service),
        };
        format!("{}: {} {entries}{key}{inbox}", self.service, self.entries)
    }
}

impl Library {
    fn line(&self) -> String {
        let Self { library, connections, services } = self;
        let connections = match connections {
            1 => "1 connection".to_owned(),
            more => format!("{more} connections"),
        };
        format!("{library}: {connections}, of {}", services.join(", "))
    }
}

impl NotGranted {
    fn line(&self) -> String {
        let question = match self.question {
            Some(number) => format!("QUESTION {number}"),
            None => self.why.clone(),
        };
        let subjects = match self.doing.subjects.as_slice() {
            [] => String::new(),
            all => format!(" {}", all.join(" ")),
        };
        let Doing { service, what, count, now, .. } = &self.doing;
        let often = match count.saturating_sub(*now) {
            0 => "connected now".to_owned(),
            deeds => format!("{deeds}x"),
        };
        format!("{service} {what}{subjects} ({often}): {question}")
    }
}
