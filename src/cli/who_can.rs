//! `solewriter who-can`: every identity that may do one thing.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::tool::{Format, NO, Output, PolicyArgs, RuleView, YES, json, line, no_grant, said};
use crate::query::{self, Capable, Question, Reach, Verb};

/// List who may write, read, publish or subscribe, and by which rules.
///
/// A service that may do only part of it is listed too, and so is a disabled one. Ends with 0 when
/// somebody may, with 1 when nobody may, and with 2 when the question cannot be answered.
#[derive(Args)]
pub struct WhoCan {
    /// What is to be done.
    #[arg(value_enum)]
    verb: Verb,
    /// A keyspace to write or read, a subject to publish or subscribe to.
    #[arg(value_name = "KEYSPACE|SUBJECT")]
    target: String,
    #[command(flatten)]
    policy: PolicyArgs,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Serialize)]
struct View<'a> {
    revision: &'a str,
    verb: &'static str,
    target: String,
    services: Vec<ServiceView<'a>>,
}

#[derive(Serialize)]
struct ServiceView<'a> {
    service: &'a str,
    disabled: Option<&'a str>,
    nkeys: Vec<&'a str>,
    reach: Reach,
    accepted: bool,
    rules: Vec<RuleView>,
}

impl WhoCan {
    /// Runs the command.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        self.output().unwrap_or_else(|wrong| wrong).print()
    }

    fn output(&self) -> Result<Output, Output> {
        let question = Question::parse(self.verb, &self.target).map_err(Output::wrong)?;
        let loaded = self.policy.load()?;
        let policy = &loaded.policy;
        question.check_bucket(policy).map_err(Output::wrong)?;
        let capable = query::who_can(policy, &self.policy.defaults(), &question).map_err(
            |(service, error)| {
                let at = policy.service(&service).map(|s| s.at.to_string()).unwrap_or_default();
                Output::wrong(no_grant(&service, &at, &error))
            },
        )?;
        let somebody = capable.iter().any(|one| one.service.disabled.is_none());
        let code = if somebody { YES } else { NO };
        if self.format == Format::Json {
            let view = View {
                revision: policy.revision().whole(),
                verb: question.verb().as_str(),
                target: question.target(),
                services: capable.iter().map(view).collect(),
            };
            return Ok(Output::data(json(&view), code));
        }
        if capable.is_empty() {
            return Ok(Output::data(format!("nobody may {question}\n"), code));
        }
        let mut text = format!("may {question}:\n");
        for one in &capable {
            let _ = write!(text, "  {}", one.service.name);
            if one.answer.reach == Reach::Part {
                text += ", in part";
            }
            if let Some(why) = &one.service.disabled {
                let _ = write!(text, ", but is disabled: {}", line(why));
            }
            text.push('\n');
            for rule in one.answer.rules() {
                if let Some(rule) = one.grant.rules().get(rule) {
                    let _ = writeln!(text, "      {}", said(rule));
                }
            }
        }
        Ok(Output::data(text, code))
    }
}

fn view<'a>(one: &'a Capable<'_>) -> ServiceView<'a> {
    let rules = one.answer.rules().into_iter().filter_map(|rule| one.grant.rules().get(rule));
    ServiceView {
        service: &one.service.name,
        disabled: one.service.disabled.as_deref(),
        nkeys: one.service.keys.iter().map(|key| key.key.as_str()).collect(),
        reach: one.answer.reach,
        accepted: one.answer.accepted,
        rules: rules.map(RuleView::new).collect(),
    }
}
