//! `solewriter policy status`: which revision each running instance serves.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use super::{Deployment, connect_to_read, failed};
use crate::cli::common::{Format, NO, Output, YES, count, json, line};
use crate::fleet::{Instances, Report, ask, emergencies_of};
use crate::policy_source::bucket::ReadError;
use crate::policy_source::bucket::entry::Entry;
use solewriter_core::policy::model::short;

/// Show which revision each running instance serves, and what is moving from one service to another.
///
/// Exit code: 0 if all instances that answer serve the same revision, and the newest one if they
/// follow the bucket; 1 if they do not, or if none answers.
#[derive(Args)]
pub(super) struct Status {
    /// How to print it.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    deployment: Deployment,
}

#[derive(Serialize)]
struct StatusView<'a> {
    agree: bool,
    newest: Option<NewestView<'a>>,
    instances: &'a [Report],
}

#[derive(Serialize)]
struct NewestView<'a> {
    number: u64,
    revision: &'a str,
}

impl Status {
    pub(super) async fn run(self) -> Result<Output, Output> {
        let tool = self.deployment.tool()?;
        let bucket = connect_to_read(&tool).await?;
        let reports = ask(bucket.client()).await.map_err(|error| failed(&error))?;
        let (newest, note) = match bucket.head().await {
            Ok(head) => (head, None),
            // Instances may follow a directory.
            Err(ReadError::Missing) => (None, None),
            Err(error) => (None, Some(error)),
        };
        let agree = agree(&reports, newest.as_ref());
        let code = if agree { YES } else { NO };
        if self.format == Format::Json {
            let newest = newest.as_ref();
            let newest = newest.map(|h| NewestView { number: h.number, revision: &h.policy });
            return Ok(Output::data(
                json(&StatusView { agree, newest, instances: &reports }),
                code,
            ));
        }
        let mut out = String::new();
        if let Some(newest) = &newest {
            let _ = writeln!(
                out,
                "newest: revision {} ({}), pushed by {}: {}\n",
                newest.number,
                line(short(&newest.policy)),
                line(&newest.author),
                line(&newest.message)
            );
        }
        out += &table(&reports, jiff::Timestamp::now().as_second());
        out += &moving(&reports);
        for emergency in emergencies_of(&reports) {
            let _ = writeln!(out, "{}", line(&emergency.sentence()));
        }
        let mut err = String::new();
        if let Some(note) = note {
            err += &format!("warning: the policy bucket {}: {note}\n", bucket.name());
        }
        err += match (reports.is_empty(), agree) {
            (true, _) => "no instance answers\n",
            (false, false) => "not all instances serve the newest policy\n",
            (false, true) => "",
        };
        Ok(Output { out, err, code })
    }
}

/// Whether all serve the same, and the newest if they follow the bucket.
fn agree(reports: &[Report], newest: Option<&Entry>) -> bool {
    let Some(first) = reports.first() else { return false };
    reports.iter().all(|report| {
        let current = match (report.number, newest) {
            (Some(number), Some(newest)) => {
                number == newest.number && report.lineage.as_ref() == Some(&newest.lineage)
            }
            _ => true,
        };
        report.revision.is_some()
            && report.revision == first.revision
            && report.too_old.is_none()
            && current
    })
}

/// One line an instance.
fn table(reports: &[Report], now: i64) -> String {
    let mut rows = vec![
        ["instance", "host", "version", "number", "policy", "for", "source"]
            .map(ToOwned::to_owned)
            .to_vec(),
    ];
    for report in reports {
        let number = report.number.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let age = |at: i64| format!("{} s", now.saturating_sub(at).max(0));
        rows.push(vec![
            line(&report.instance),
            line(&report.host),
            line(&report.version),
            number,
            line(short(report.revision.as_deref().unwrap_or("none"))),
            report.since.map_or_else(|| "-".to_owned(), age),
            format!("{} ({})", line(&report.source), line(&report.source_state)),
        ]);
    }
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..7).map(width).collect();
    let mut out = String::new();
    for (at, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        out += cells.collect::<Vec<_>>().join("  ").trim_end();
        out.push('\n');
        if let Some(report) = at.checked_sub(1).and_then(|at| reports.get(at)) {
            out += &trouble(report, now);
        }
    }
    out
}

/// What is in transit from one service to another, as the instance says that looks after it.
pub(super) fn moving(reports: &[Report]) -> String {
    let mut out = String::new();
    for transit in reports.iter().flat_map(|report| &report.transit) {
        let _ = writeln!(out, "{}", line(&transit.sentence()));
    }
    out
}

/// What keeps an instance from serving the newest.
fn trouble(report: &Report, now: i64) -> String {
    let mut out = String::new();
    if let Some(age) = report.too_old {
        let _ = writeln!(out, "    denies everything: its source has been silent for {age} s");
    }
    if let Some(since) = report.refused_since {
        let _ = writeln!(
            out,
            "    has refused {} for {} s: {} ({})",
            report
                .refused_number
                .map_or_else(|| "a change".to_owned(), |n| format!("revision {n}")),
            now.saturating_sub(since).max(0),
            line(report.refused_first.as_deref().unwrap_or("see its log")),
            count(report.refused_errors, "error", "errors"),
        );
    }
    out
}

/// Waits until every instance that lives serves what was pushed, or something newer. Gives how many
/// those are, and whom to ask next.
///
/// # Errors
/// What to print when some do not.
pub(super) async fn wait(
    mut instances: Instances,
    entry: &Entry,
    at_most: Duration,
) -> Result<(Instances, usize), Output> {
    let deadline = Instant::now() + at_most;
    let mut reports = instances.all().await;
    loop {
        let serves = |report: &&Report| {
            report.lineage.as_ref() == Some(&entry.lineage)
                && report.number.is_some_and(|number| number >= entry.number)
        };
        let serving = reports.iter().filter(serves).count();
        if serving == reports.len() {
            return Ok((instances, serving));
        }
        if Instant::now() >= deadline {
            let behind: Vec<Report> =
                reports.iter().filter(|report| !serves(report)).cloned().collect();
            let err = format!(
                "{}\nrevision {} is pushed, but {} of {} do not serve it\n",
                table(&behind, jiff::Timestamp::now().as_second()),
                entry.number,
                behind.len(),
                count(reports.len(), "instance", "instances"),
            );
            return Err(Output { out: String::new(), err, code: NO });
        }
        reports = instances.next(deadline).await;
    }
}
