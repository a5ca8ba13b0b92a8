//! Which open connections a push has not reached yet. The instance that sweeps closes those that it
//! took something from, and those that it made the owner of something; here that is waited for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::sessions::{accounts, connect, onlooker};
use super::{status, unread};
use crate::cli::common::{NO, Output, YES, count, length, line};
use crate::config::Tool;
use crate::fleet::{Instances, Moved, Report};
use crate::policy_source::bucket::Bucket;
use crate::policy_source::bucket::entry::Entry;
use crate::sessions::listing::{Session, survey};
use crate::sessions::onlooker::Onlooker;
use crate::sessions::reach_without_system_user;
use crate::sessions::verdict::{Cause, Closing, Verdict};
use solewriter_core::handover::claims::InTransit;
use solewriter_core::policy::model::Policy;

/// How long to wait between two looks, at first and at most: each asks every server.
const AGAIN: Duration = Duration::from_millis(250);
const AGAIN_AT_MOST: Duration = Duration::from_secs(2);
/// What is not waited for.
const CLOSED: &str = "clients whose connections were closed connect again by themselves; that was not \
                      waited for\n";
/// How many services are named.
const NAMED: usize = 16;

/// How open connections stand to what was pushed.
#[derive(Default)]
struct Standing {
    /// They will be closed, by service and why.
    closing: BTreeMap<(String, String), usize>,
    /// They gain something when they connect anew, by service and what.
    waiting: BTreeMap<(String, String), usize>,
    all: usize,
}

impl Standing {
    fn of(onlooker: &Onlooker, sessions: &[Session], now: i64) -> Self {
        let mut standing = Self { all: sessions.len(), ..Self::default() };
        for session in sessions {
            let (group, why) = match onlooker.judge(session, now) {
                Verdict::Current | Verdict::Newer => continue,
                Verdict::Gained(what) => (&mut standing.waiting, what),
                Verdict::Close(Closing { cause, detail, .. }) => match cause {
                    Cause::Expiring(_) => continue,
                    Cause::GainedDuty | Cause::Gained => {
                        (&mut standing.closing, format!("wait for {detail}"))
                    }
                    Cause::Lost => (&mut standing.closing, format!("still have {detail}")),
                    _ => (&mut standing.closing, format!("are still open: {detail}")),
                },
            };
            *group.entry((session.name.service.clone(), why)).or_default() += 1;
        }
        standing
    }
}

/// What is waited for of what moves.
pub(super) struct Handover {
    /// The instances.
    pub instances: Instances,
    /// What was pushed.
    pub entry: Entry,
    /// What moves by it.
    pub moves: Vec<InTransit>,
}

impl Handover {
    /// What they say now that serve it. One that does not know whether it is settled is not waited
    /// for.
    async fn look(&mut self) -> (bool, Vec<Report>) {
        let reports = self.instances.next(Instant::now()).await;
        let serves = |report: &&Report| report.number.is_some_and(|n| n >= self.entry.number);
        let settled = reports.iter().filter(serves).all(|report| report.settled != Some(false));
        // What was only taken is in transit to nobody; what is forced moved by an earlier push.
        (settled || self.moves.is_empty() && !self.entry.forced, reports)
    }

    /// What moved, for people.
    fn moved(&self, reports: &[Report]) -> String {
        let mut text = String::new();
        let told: Vec<&Moved> = reports.iter().flat_map(|report| &report.handed_over).collect();
        if self.moves.is_empty() && self.entry.forced {
            let told = told.iter().take(NAMED).map(|moved| line(&moved.sentence()) + "\n");
            return told.collect();
        }
        for one in self.moves.iter().take(NAMED) {
            let (what, from) = (one.what(), one.from.as_deref());
            let same = |moved: &&&Moved| {
                what.starts_with(&moved.what)
                    && moved.from.as_deref() == from
                    && *moved.to == *one.to
            };
            let _ = match told.iter().find(same) {
                Some(moved) => writeln!(text, "{}", line(&moved.sentence())),
                None => writeln!(
                    text,
                    "`{}` moved from `{}` to `{}`",
                    line(&what),
                    line(from.unwrap_or("-")),
                    line(&one.to)
                ),
            };
        }
        match self.moves.len().saturating_sub(NAMED) {
            0 => text,
            more => text + &format!("and {more} more\n"),
        }
    }
}

/// Waits until every open connection that the change concerns was closed and what moves has its new
/// owner, and says who is left.
pub(super) async fn wait(
    tool: &Tool,
    bucket: &Bucket,
    policy: Policy,
    mut handover: Handover,
    (at_most, is_change): (Duration, bool),
) -> Result<Output, Output> {
    // Before the first policy nobody was let in.
    let closed = if is_change { CLOSED } else { "" };
    let longest = reach_without_system_user(&policy, &tool.defaults);
    if tool.system().is_err() {
        let text = format!(
            "note: open connections were not looked at, because [system] nkey_seed is not set. \
             If `serve` has none either, they keep their permissions for up to {}\n",
            length(longest)
        );
        return Ok(Output { out: String::new(), err: text, code: YES });
    }
    let system = connect(tool).await?;
    let mut onlooker = onlooker(tool, policy);
    let deadline = Instant::now() + at_most;
    let mut pause = AGAIN;
    loop {
        let found = survey(&system, &accounts(tool), Some).await;
        let found = found.map_err(|error| super::failed(&line(&error.to_string())))?;
        let now = jiff::Timestamp::now().as_second();
        let recalled = onlooker.recall(bucket, &found.found, now).await;
        recalled.map_err(|error| unread(bucket, &error))?;
        let standing = Standing::of(&onlooker, &found.found, now);
        let (settled, reports) = handover.look().await;
        let mut err = lines(&standing.closing);
        let complete = found.complete();
        if !complete {
            err += "warning: not every server listed its connections, so there may be more\n";
        }
        // Who forces it knows of servers that do not answer.
        if standing.closing.is_empty() && settled && (complete || handover.entry.forced) {
            let out = handover.moved(&reports) + &reached(&standing, longest) + closed;
            return Ok(Output { out, err, code: YES });
        }
        if Instant::now() >= deadline {
            err += &status::moving(&reports);
            // A server that is down has none.
            if standing.closing.is_empty() && settled {
                return Ok(Output { out: reached(&standing, longest) + closed, err, code: YES });
            }
            err += if standing.closing.is_empty() {
                "the policy is in force, but nobody may write what moves yet: see `solewriter \
                         policy status`\n"
            } else {
                "the policy is in force, but these open connections do not have it yet: see \
                          `solewriter sessions --stale` and `solewriter doctor`\n"
            };
            return Err(Output { out: String::new(), err, code: NO });
        }
        sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 3 / 2).min(AGAIN_AT_MOST);
    }
}

/// When nobody is waited for any more.
fn reached(standing: &Standing, longest: Duration) -> String {
    let later: usize = standing.waiting.values().sum();
    let having = standing.all - later;
    let mut text = match (standing.all, later) {
        (0, _) => "no connection is open\n".to_owned(),
        (1, 0) => "the one open connection has it\n".to_owned(),
        (all, 0) => format!("all {all} open connections have it\n"),
        (all, _) => {
            format!("{having} of {} have it\n", count(all, "open connection", "open connections"))
        }
    };
    if later > 0 {
        text += &waiting(&standing.waiting, longest);
    }
    text
}

fn waiting(waiting: &BTreeMap<(String, String), usize>, longest: Duration) -> String {
    let mut text = String::new();
    for ((service, what), connections) in waiting.iter().take(NAMED) {
        let _ = writeln!(
            text,
            "{} of {} will gain {} after reconnecting, within {}",
            count(*connections, "connection", "connections"),
            line(service),
            if what.is_empty() { "more".to_owned() } else { line(what) },
            length(longest),
        );
    }
    text + &more(waiting.len()) + "[sessions] gained = \"close\" would not wait for that\n"
}

fn lines(group: &BTreeMap<(String, String), usize>) -> String {
    let mut text = String::new();
    for ((service, why), connections) in group.iter().take(NAMED) {
        let (service, why) = (line(service), line(why));
        let connections = count(*connections, "connection", "connections");
        let _ = writeln!(text, "{connections} of {service}: {why}");
    }
    text + &more(group.len())
}

fn more(all: usize) -> String {
    match all.saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("and {}\n", count(more, "more group", "more groups")),
    }
}
