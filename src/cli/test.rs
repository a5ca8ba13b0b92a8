//! `solewriter test`: do the assertions about the policy hold?

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::cli::common::{
    DirArgs, Format, GrantArgs, NO, Output, PlaceView, YES, count, json, load, style,
};
use crate::policy_source::directory::Directory;
use solewriter_core::analysis::assertions::{self, Judge, Verdict};
use solewriter_core::diagnostics::{Collector, Problem, Problems, SourceFile};
use solewriter_core::grant::Defaults;
use solewriter_core::policy::model::{Location, Policy};

/// Test a policy with the assertions beside it.
///
/// Assertions are in the policy directory, in files that end in `.test.toml`.
///
/// Exit code: 0 if all of them hold, 1 if one does not, 2 if there is no answer: there are no
/// assertions, they have mistakes, or the policy is not valid.
#[derive(Args)]
pub struct Test {
    #[command(flatten)]
    dir: DirArgs,
    /// How to print the result. Text about failures goes to stderr, JSON to stdout.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    grants: GrantArgs,
}

#[derive(Serialize)]
struct TestView<'a> {
    revision: &'a str,
    hold: usize,
    fail: usize,
    expectations: Vec<ExpectationView<'a>>,
}

#[derive(Serialize)]
struct ExpectationView<'a> {
    expectation: String,
    because: Option<&'a str>,
    at: PlaceView,
    holds: bool,
    problem: Option<&'a Problem>,
}

impl Test {
    /// Runs the command.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        self.output().unwrap_or_else(|wrong| wrong).print()
    }

    fn output(&self) -> Result<Output, Output> {
        let (sources, policy) = load(self.dir.path(), self.grants.audit())?;
        let policy = &policy;
        let files = Directory::new(self.dir.path()).read_tests().map_err(Output::wrong)?;
        let problems = Collector::new();
        let expectations: Vec<_> =
            files.iter().flat_map(|file| assertions::read(file, policy, &problems)).collect();
        if problems.has_errors() {
            return Err(Output::wrong(problems.finish()));
        }
        if expectations.is_empty() {
            let message = format!("no expectation in {}", self.dir.path().display());
            return Err(Output::wrong(
                Problem::error("no-expectations", message)
                    .help("put `[[expect]]` tables into a file there that ends in `.test.toml`"),
            ));
        }
        let judge = Judge::new(policy, &sources, &self.grants.defaults());
        let verdicts: Vec<Verdict<'_>> = expectations.iter().map(|e| judge.verdict(e)).collect();
        let fail = verdicts.iter().filter(|v| v.problem.is_some()).count();
        let hold = verdicts.len() - fail;
        let code = if fail == 0 { YES } else { NO };
        let revision = policy.revision().whole();
        if self.format == Format::Json {
            let expectations = verdicts.iter().map(view).collect();
            return Ok(Output::data(json(&TestView { revision, hold, fail, expectations }), code));
        }
        let failures = Collector::new();
        for problem in verdicts.into_iter().filter_map(|verdict| verdict.problem) {
            failures.push(problem);
        }
        let failures: Problems = failures.finish();
        let held = count(hold, "expectation holds", "expectations hold");
        let failed = match fail {
            0 => String::new(),
            _ => format!(", {}", count(fail, "fails", "fail")),
        };
        let out = format!("{held}{failed}, revision {}\n", policy.revision());
        Ok(Output { out, err: failures.render(style()), code })
    }
}

/// Holds a policy against the assertions in a directory: how many there are, when all hold.
pub(super) fn all_hold(
    dir: &Path,
    (policy, files): (&Policy, &[SourceFile]),
    defaults: &Defaults,
) -> Result<usize, Problems> {
    let tests = Directory::new(dir).read_tests()?;
    let problems = Collector::new();
    let expectations: Vec<_> =
        tests.iter().flat_map(|file| assertions::read(file, policy, &problems)).collect();
    let judge = Judge::new(policy, files, defaults);
    for problem in expectations.iter().filter_map(|e| judge.verdict(e).problem) {
        problems.push(problem);
    }
    if problems.has_errors() { Err(problems.finish()) } else { Ok(expectations.len()) }
}

fn view<'a>(verdict: &'a Verdict<'_>) -> ExpectationView<'a> {
    let expectation = verdict.expectation;
    ExpectationView {
        expectation: expectation.text(),
        because: expectation.because.as_deref(),
        at: PlaceView::new(&Location::from(&expectation.verb.span)),
        holds: verdict.problem.is_none(),
        problem: verdict.problem.as_ref(),
    }
}
