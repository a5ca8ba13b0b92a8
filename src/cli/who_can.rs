//! `solewriter who-can`: every identity that may do one thing.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::asked::{PolicyArgs, moment, pushed};
use crate::cli::common::{Format, NO, Output, RuleView, YES, json, line, no_grant, said, time};
use crate::policy_source::bucket::entry::Entry;
use solewriter_core::analysis::query::{self, Capable, Question, Reach, Verb};
use solewriter_core::callout::decide::in_time;

/// Who is not limited by a policy: a reminder beside each answer.
const OUTSIDE: &str = "\
outside the policy: whoever logs in to the account of the buckets itself, as the admin does, and \
whoever holds its seed. `solewriter doctor` says who is there
";

/// List which services may write, read, publish or subscribe, and by which rules.
///
/// Also lists services that may do only a part of it, and disabled ones. It does not look at the
/// mappings of accounts; `explain -c` does.
///
/// Exit code: 0 if a service may, 1 if none may, 2 if there is no answer.
#[derive(Args)]
pub struct WhoCan {
    /// The operation.
    #[arg(value_enum)]
    verb: AskedVerb,
    /// The keyspace to write or read, or the subject to publish or subscribe to.
    #[arg(value_name = "KEYSPACE|SUBJECT")]
    target: String,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Ask about a past time, with the log of the policy bucket (--config): 2026-11-20T10:00:00Z,
    /// or without a zone for local time.
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "revision")]
    at: Option<jiff::Timestamp>,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Serialize)]
struct WhoCanView<'a> {
    revision: &'a str,
    pushed: Option<PushView<'a>>,
    verb: &'static str,
    target: String,
    services: Vec<ServiceView<'a>>,
}

#[derive(Serialize)]
struct PushView<'a> {
    number: u64,
    time: String,
    author: &'a str,
    message: &'a str,
}

impl<'a> PushView<'a> {
    fn new(entry: &'a Entry) -> Self {
        let Entry { number, author, message, .. } = entry;
        Self { number: *number, time: time(entry.time), author, message }
    }
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

/// What one may ask for.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum AskedVerb {
    /// Put, delete or purge keys of a keyspace
    Write,
    /// Get and watch keys of a keyspace
    Read,
    /// Publish to a subject
    Publish,
    /// Subscribe to a subject
    Subscribe,
}

impl From<AskedVerb> for Verb {
    fn from(verb: AskedVerb) -> Self {
        match verb {
            AskedVerb::Write => Self::Write,
            AskedVerb::Read => Self::Read,
            AskedVerb::Publish => Self::Publish,
            AskedVerb::Subscribe => Self::Subscribe,
        }
    }
}

impl WhoCan {
    /// Runs the command.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        self.output().unwrap_or_else(|wrong| wrong).print()
    }

    fn output(&self) -> Result<Output, Output> {
        let question =
            Question::parse(Verb::from(self.verb), &self.target).map_err(Output::wrong)?;
        let at = self.at.map(jiff::Timestamp::as_second);
        let loaded = match at {
            Some(at) => self.policy.load_at(at)?,
            None => self.policy.load()?,
        };
        let policy = &loaded.policy;
        question.check_bucket(policy).map_err(|problem| loaded.wrong(problem))?;
        let capable =
            query::who_can(policy, &loaded.defaults, &question).map_err(|(service, error)| {
                let at = policy.service(&service).map(|s| s.at.to_string()).unwrap_or_default();
                Output::wrong(no_grant(&service, &at, &error))
            })?;
        let now = at.unwrap_or_else(|| jiff::Timestamp::now().as_second());
        // Without a key that counts, nobody connects as it.
        let keyless =
            |one: &Capable<'_>| one.service.keys.iter().all(|key| in_time(key, now).is_err());
        let somebody = capable.iter().any(|one| one.service.disabled.is_none() && !keyless(one));
        let code = if somebody { YES } else { NO };
        if self.format == Format::Json {
            let view = WhoCanView {
                revision: policy.revision().whole(),
                pushed: loaded.pushed.as_ref().map(PushView::new),
                verb: question.verb().as_str(),
                target: question.target(),
                services: capable.iter().map(view).collect(),
            };
            return Ok(Output { out: json(&view), err: loaded.notes, code });
        }
        let mut text = String::new();
        if let Some(entry) = &loaded.pushed {
            let when = match at {
                Some(at) => format!("at {}: ", time(at)),
                None if self.policy.names_a_revision() => String::new(),
                None => "now: ".to_owned(),
            };
            let _ = writeln!(text, "{when}{}", pushed(entry));
        }
        let _ = match capable.as_slice() {
            [] => writeln!(text, "nobody may {question}"),
            _ => writeln!(text, "may {question}:"),
        };
        for one in &capable {
            let _ = write!(text, "  {}", one.service.name);
            if one.answer.reach == Reach::Part {
                text += ", in part";
            }
            if let Some(why) = &one.service.disabled {
                let _ = write!(text, ", but is disabled: {}", line(why));
            } else if keyless(one) {
                text += ", but has no key that counts then";
            }
            text.push('\n');
            for rule in one.answer.rules() {
                if let Some(rule) = one.grant.rules().get(rule) {
                    let _ = writeln!(text, "      {}", said(rule));
                }
            }
        }
        if matches!(Verb::from(self.verb), Verb::Write | Verb::Read) {
            text += OUTSIDE;
        }
        Ok(Output { out: text, err: loaded.notes, code })
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
