//! `solewriter rehearse`: what a policy would have refused, by nats-server's trace.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use jiff::civil::DateTime;
use serde::Serialize;

use super::traces::{Reading, TraceArgs, file};
use crate::adoption::mapping::Mapping;
use crate::adoption::rehearsal::{Finding, Grants, Needed, Rehearsal, What, read_map};
use crate::adoption::trace::{Counts, Trace};
use crate::cli::common::{DirArgs, GrantArgs, NO, Output, YES, line, load, no_grant};
use solewriter_types::clean;

/// How many findings of one service are shown, and of how many services. The rest is counted.
const MOST: usize = 20;
const MOST_SERVICES: usize = 100;

/// Show what a policy would have refused, by a trace of nats-server.
///
/// Reads the log of a nats-server with `trace: true`, whose clients need not know of solewriter yet.
/// A client is the service that has its NKEY, else the one with the name of its user, else the one
/// that --map says. Whatever `serve` would not have let it do is shown, with the rule that would
/// be needed. Payloads are not read.
///
/// Exit code: 0 if nothing would have been refused, 1 if something would, 2 if there is no answer.
#[derive(Args)]
pub struct Rehearse {
    #[command(flatten)]
    dir: DirArgs,
    #[command(flatten)]
    trace: TraceArgs,
    /// The file that says which clients are which services.
    #[arg(long, value_name = "FILE")]
    map: Option<PathBuf>,
    /// Print each finding as a JSON object in a line of its own. The fields do not change.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    grants: GrantArgs,
}

/// A finding as JSON.
#[derive(Serialize)]
struct FindingView<'a> {
    service: Option<&'a str>,
    client: &'a str,
    what: What,
    subject: &'a str,
    queue: Option<&'a str>,
    meaning: &'a str,
    rule: Option<&'a Needed>,
    advice: &'a [String],
    count: u64,
    first: Option<DateTime>,
    last: Option<DateTime>,
}

impl Rehearse {
    /// Runs the command.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        self.output().unwrap_or_else(|wrong| wrong).print()
    }

    fn output(&self) -> Result<Output, Output> {
        let (_, policy) = load(self.dir.path(), self.grants.audit())?;
        // What would be refused once services are observed no more.
        let policy = policy.enforced();
        let grants = Grants::of(&policy, &self.grants.defaults()).map_err(|(service, error)| {
            Output::wrong(no_grant(&service.name, &service.at, &error))
        })?;
        let map = match &self.map {
            Some(path) => read_map(&file(path)?, &policy).map_err(Output::wrong)?,
            None => Mapping::default(),
        };
        let mut rehearsal = Rehearsal::new(&policy, &grants, map);
        let mut trace = Trace::new();
        let follows = self.trace.follows();
        let reading = self.trace.read(&mut trace, |deed| {
            if let Some(found) = rehearsal.take(&deed)
                && follows
            {
                let shown = if self.json { json(found) } else { first_seen(found) };
                // Who reads no further has seen enough.
                let _ = std::io::stdout().write_all(clean::lines(&shown).as_bytes());
                let _ = std::io::stdout().flush();
            }
        })?;
        let findings = rehearsal.findings();
        let code = if findings.is_empty() && rehearsal.refused() == 0 { YES } else { NO };
        let summary = summary(&trace.counts(), reading, &rehearsal, findings.len());
        let shown: String = match (follows, self.json) {
            (true, _) => String::new(),
            (false, true) => findings.iter().map(json).collect(),
            (false, false) => report(&findings),
        };
        Ok(if self.json {
            Output { out: shown, err: summary, code }
        } else {
            Output::data(shown + &summary, code)
        })
    }
}

fn json(finding: &Finding) -> String {
    let Finding { service, client, what, subject, queue, meaning, rule, advice, .. } = finding;
    let view = FindingView {
        service: service.as_deref(),
        client,
        what: *what,
        subject,
        queue: queue.as_deref(),
        meaning,
        rule: rule.as_ref(),
        advice,
        count: finding.count,
        first: finding.first,
        last: finding.last,
    };
    // Strings, numbers and lists of them always have a JSON form.
    let text = serde_json::to_string(&view).unwrap_or_default();
    clean::json(&text).into_owned() + "\n"
}

/// What was done: `publish $KV.orders.k1 (write orders/k1)`.
fn done(finding: &Finding) -> String {
    let Finding { what, subject, queue, meaning, .. } = finding;
    let verb = match what {
        What::Connect => return "connect".to_owned(),
        What::Publish => "publish",
        What::Subscribe | What::Inbox => "subscribe",
    };
    let queue = queue.as_ref().map(|queue| format!(", queue group {}", line(queue)));
    let meaning = match meaning.as_str() {
        "publish" | "subscribe" => String::new(),
        meaning => format!(" ({})", line(meaning)),
    };
    format!("{verb} {}{}{meaning}", line(subject), queue.unwrap_or_default())
}

/// What would have to be different, one sentence each.
fn needed(finding: &Finding) -> Vec<String> {
    let entry = finding.entry().map(|entry| format!("needs {}", line(&entry)));
    entry.into_iter().chain(finding.advice.iter().map(|advice| line(advice))).collect()
}

fn who(finding: &Finding) -> String {
    match &finding.service {
        Some(service) => service.to_string(),
        None => format!("no service: {}", line(&finding.client)),
    }
}

/// A finding at the first time, for people.
fn first_seen(finding: &Finding) -> String {
    let at = finding.first.map(|at| format!("{at:.0} ")).unwrap_or_default();
    let needed = needed(finding).join("; ");
    format!("{at}{}: {}: {needed}\n", who(finding), done(finding))
}

/// All findings, for people.
fn report(findings: &[Finding]) -> String {
    let mut text = String::new();
    let groups: Vec<&[Finding]> = findings.chunk_by(|a, b| a.service == b.service).collect();
    for group in groups.iter().take(MOST_SERVICES) {
        let Some(first) = group.first() else { continue };
        let title = match &first.service {
            Some(service) => service.to_string(),
            None => "no service".to_owned(),
        };
        let _ = writeln!(text, "{title}");
        for finding in group.iter().take(MOST) {
            let client = match &finding.service {
                Some(_) => String::new(),
                None => format!("{}: ", line(&finding.client)),
            };
            let _ = writeln!(text, "  {}{client}{}", times(finding), done(finding));
            // That no service is let in that is none, the title says.
            if finding.service.is_some() {
                for sentence in needed(finding) {
                    let _ = writeln!(text, "    {sentence}");
                }
            }
        }
        if let Some(rest @ 1..) = group.len().checked_sub(MOST) {
            let times: u64 = group.iter().skip(MOST).map(|finding| finding.count).sum();
            let _ = writeln!(text, "  and {rest} more, {times} times");
        }
    }
    if let Some(rest @ 1..) = groups.len().checked_sub(MOST_SERVICES) {
        let _ = writeln!(text, "and {rest} more services");
    }
    text
}

/// How often and when: `12 times, 2026-11-29T14:03:34 to 2026-11-29T14:05:01: `.
fn times(finding: &Finding) -> String {
    let often = match finding.count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    };
    match (finding.first, finding.last) {
        (Some(first), Some(last)) if first != last => {
            format!("{often}, {first:.0} to {last:.0}: ")
        }
        (Some(at), _) | (_, Some(at)) => format!("{often}, {at:.0}: "),
        (None, None) => format!("{often}: "),
    }
}

fn summary(
    counts: &Counts,
    reading: Reading,
    rehearsal: &Rehearsal<'_>,
    findings: usize,
) -> String {
    let Counts { lines, deeds, strange, doubted, connections, .. } = counts;
    let without = counts.without_connect + counts.unknown;
    let mut text = match rehearsal.refused() {
        0 => "nothing would have been refused".to_owned(),
        refused => format!("{refused} of {deeds} would have been refused, by {findings} reasons"),
    };
    let _ = write!(
        text,
        "; {lines} lines read, {} not understood; {connections} clients, {without} without a CONNECT",
        strange + reading.too_long
    );
    for (number, what) in [
        (counts.unknown, "known by address only"),
        (*doubted, "lines not believed, because an MQTT client may have written them"),
        (counts.forgotten, "connections forgotten for want of room"),
        (rehearsal.beyond(), "refusals beyond what is told apart"),
    ] {
        if number > 0 {
            let _ = write!(text, ", {number} {what}");
        }
    }
    if *deeds == 0 {
        text += "; is `trace: true` in the server's configuration?";
    }
    text + "\n"
}
