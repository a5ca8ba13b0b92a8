//! What a change of one service costs in a large policy, against reading all of it: a real `serve`
//! follows a directory, in which one file is another one then.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::results::{self, Change, ChangeRound, Changes, Machine};
use super::testbed::{Serve, Testbed};
use super::{Error, progress, replace_file};
use crate::fake_server::FakeServer;
use crate::fixture_policy::{CLIENTS, FixturePolicy};
use solewriter_core::keys::{Seed, Signer, User};
use solewriter_sandbox::cpu_usage::Usage;

/// How long a process does nothing when a change is over.
const QUIET: Duration = Duration::from_millis(500);
/// What it may use in that time: it looks at the directory, and at the clock.
const HARDLY: Duration = Duration::from_millis(20);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// By when it has given back what it freed.
const GIVEN_BACK: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(120);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Services in the policy.
    pub services: usize,
    /// How often each is done.
    pub rounds: usize,
}

/// Measures it.
///
/// # Errors
/// When something does not start, or a change does not come into force.
pub fn run(plan: &Plan) -> Result<Changes, Error> {
    let mut changes = Changes {
        machine: Machine::here(String::new()),
        date: results::now(),
        load_before: results::load_average(),
        services: plan.services,
        rounds: Vec::new(),
        rss_ready: 0,
        rss_peak: 0,
        rss_after: 0,
    };
    let broker = FakeServer::open()?;
    // What a start takes without a policy to speak of.
    let small = Testbed::set(FixturePolicy::new(1, 20, 1)?, true)?;
    let stage = Testbed::set(FixturePolicy::new(plan.services, 20, CLIENTS)?, true)?;
    let file = stage.deployment.policy().join("load-000.toml");
    let mut last = None;
    for round in 1..=plan.rounds.max(1) {
        progress(&format!("round {round} of {}", plan.rounds.max(1)));
        let empty = started(&small.serve(&broker.url(), 1, &[])?)?;
        let serve = stage.serve(&broker.url(), 0, &[])?;
        let whole = started(&serve)?;
        let usage = at_rest(&serve)?;
        (changes.rss_ready, changes.rss_peak) = (usage.rss, usage.peak_rss);
        let whole = Change {
            seconds: whole.seconds,
            in_force: (whole.in_force - empty.in_force).max(0.0),
            cpu: (whole.cpu - empty.cpu).max(0.0),
        };
        let one = changed(&serve, &file, |text| lifetime(text, round))?;
        let new = changed(&serve, &file, |text| Ok(format!("{}{text}", new_service(round)?)))?;
        changes.rounds.push(ChangeRound { whole, one, new });
        last = Some(serve);
    }
    // What an hour of changes leaves behind.
    if let Some(serve) = last {
        progress("100 changes");
        for number in 0..100 {
            changed(&serve, &file, |text| lifetime(text, 1000 + number))?;
        }
        changes.rss_after = at_rest(&serve)?.rss;
        serve.stop()?;
    }
    Ok(changes)
}

/// One service's permissions last otherwise, in a line that may be new.
fn lifetime(text: &str, round: usize) -> Result<String, Error> {
    let header = "[service.s7]\n";
    let (before, after) = text.split_once(header).ok_or("the policy has no service s7")?;
    let after = match after.split_once('\n') {
        Some((line, rest)) if line.starts_with("lifetime") => rest,
        _ => after,
    };
    Ok(format!("{before}{header}lifetime = \"{}s\"\n{after}", 60 + round))
}

/// A service that nobody knew, with a bucket.
fn new_service(round: usize) -> Result<String, Error> {
    let signer = Signer::<User>::new(&Seed::generate())?;
    let key = signer.public();
    Ok(format!(
        "[bucket.new{round}]\n[service.new{round}]\nnkeys = [\"{key}\"]\nowns = [\"new{round}\"]\n\n"
    ))
}

/// What a process used when it is done with its start.
fn started(serve: &Serve) -> Result<Change, Error> {
    let in_force = serve.usage().ok_or("no CPU time to be had")?.cpu.as_secs_f64();
    let seconds = serve.started_in.as_secs_f64();
    Ok(Change { seconds, in_force, cpu: quiet(serve)?.as_secs_f64() })
}

/// Changes a file, and waits until that is in force and done with.
fn changed(
    serve: &Serve,
    file: &PathBuf,
    edit: impl FnOnce(&str) -> Result<String, Error>,
) -> Result<Change, Error> {
    let text = edit(&std::fs::read_to_string(file)?)?;
    let before = quiet(serve)?;
    let _ = serve.policy_changes();
    let began = Instant::now();
    replace_file(file, &text)?;
    while serve.policy_changes() == 0 {
        if began.elapsed() > PATIENCE {
            return Err(format!("no change came into force:\n{}", serve.log()).into());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    let seconds = began.elapsed().as_secs_f64();
    let in_force = serve.usage().ok_or("no CPU time to be had")?.cpu;
    let since = |cpu: Duration| cpu.saturating_sub(before).as_secs_f64();
    Ok(Change { seconds, in_force: since(in_force), cpu: since(quiet(serve)?) })
}

/// What a process uses when it has given back what it freed: the allocator waits for a second.
fn at_rest(serve: &Serve) -> Result<Usage, Error> {
    std::thread::sleep(GIVEN_BACK);
    Ok(serve.usage().ok_or("no CPU time to be had")?)
}

/// What a process used, when it does nothing any more.
fn quiet(serve: &Serve) -> Result<Duration, Error> {
    let cpu = || serve.usage().map(|usage| usage.cpu).ok_or("no CPU time to be had");
    let deadline = Instant::now() + PATIENCE;
    let mut before = cpu()?;
    loop {
        std::thread::sleep(QUIET);
        let now = cpu()?;
        if now.saturating_sub(before) <= HARDLY {
            return Ok(now);
        }
        if Instant::now() > deadline {
            return Err("solewriter serve is never done".into());
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_is_a_change_that_holds() {
        let company = FixturePolicy::new(20, 20, 2).unwrap();
        let stage = Testbed::set(company, true).unwrap();
        let file = stage.deployment.policy().join("load-000.toml");
        let text = std::fs::read_to_string(file).unwrap();
        let once = lifetime(&text, 1).unwrap();
        let twice = lifetime(&once, 2).unwrap();
        assert!(once.len() > text.len() && once.len() == twice.len() && once != twice);
        let text = format!("{}{twice}", new_service(1).unwrap());
        let file = solewriter_core::diagnostics::SourceFile::new("load-000.toml", text);
        solewriter_core::policy::validate::validate(&[file]).unwrap();
    }
}
