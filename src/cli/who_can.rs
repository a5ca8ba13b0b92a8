//! `solewriter who-can`: every identity that may do one thing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::Serialize;

use super::asked::{Loaded, PolicyArgs, past_moment, pushed};
use crate::cli::common::{Format, NO, Output, RuleView, YES, json, line, no_grant, said, time};
use crate::policy_source::bucket::entry::Entry;
use solewriter_core::analysis::query::mapped::{Mapped, Mappings, leading_to, left, mapped};
use solewriter_core::analysis::query::{self, Capable, Question, Reach, Verb};
use solewriter_core::callout::decide::in_time;
use solewriter_types::keyspace::BucketName;

/// Who is not limited by a policy: a reminder beside each answer.
const OUTSIDE: &str = "\
outside the policy: whoever logs in to the account of the buckets itself, as the admin does, and \
whoever holds its seed. `solewriter doctor` says who is there
";

/// List which services may write, read, publish, subscribe, consume, acknowledge or find, and by
/// which rules.
///
/// Also lists services that may do only a part of it, disabled ones, and those that may read a copy of
/// the bucket (`copy_of`). With --config, it looks at
/// the present mappings of the services' accounts: what they lead elsewhere, and what they lead here.
///
/// Exit code: 0 if a service may, 1 if none may, 2 if there is no answer.
#[derive(Args)]
pub struct WhoCan {
    /// The operation.
    #[arg(value_parser = verbs())]
    verb: Verb,
    /// The keyspace or object store (store:NAME) to write or read, the subject to publish or subscribe
    /// to, the consumer (STREAM/CONSUMER) to consume from, or the name of services to find.
    #[arg(value_name = "KEYSPACE|STORE|SUBJECT|CONSUMER|NAME")]
    target: String,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Ask about a past time, with the log of the policy bucket (--config): 2026-11-20T10:00:00Z,
    /// or without a zone for local time.
    #[arg(long, value_name = "TIME", value_parser = past_moment, conflicts_with = "revision")]
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    streams: Vec<&'a str>,
    services: Vec<ServiceView<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    leading_here: &'a [LeadingHere],
}

/// A mapping of an account that leads to what is asked about.
#[derive(Serialize)]
struct LeadingHere {
    account: String,
    from: String,
    to: String,
}

/// A service that is granted it, and what the mappings of its account make of that.
struct Listed<'p> {
    /// The copy of the bucket that it may read.
    through: Option<&'p BucketName>,
    one: Capable<'p>,
    mapped: Vec<Mapped>,
    reach: Reach,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    through: Option<&'a str>,
    disabled: Option<&'a str>,
    nkeys: Vec<&'a str>,
    reach: Reach,
    accepted: bool,
    rules: Vec<RuleView>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    mapped: &'a [Mapped],
}

/// What one may ask for.
fn verbs() -> impl TypedValueParser<Value = Verb> {
    let value = |verb: Verb| PossibleValue::new(verb.as_str()).help(verb.meaning());
    PossibleValuesParser::new(Verb::ASKED.map(value))
        .try_map(|text| Verb::asked(&text).ok_or("not a verb that can be asked about"))
}

impl WhoCan {
    /// Runs the command.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        self.output().unwrap_or_else(|wrong| wrong).print()
    }

    fn output(&self) -> Result<Output, Output> {
        let question = Question::parse(self.verb, &self.target).map_err(Output::wrong)?;
        let at = self.at.map(jiff::Timestamp::as_second);
        let loaded = match at {
            Some(at) => self.policy.load_at(at)?,
            None => self.policy.load()?,
        };
        let policy = &loaded.policy;
        question.check_names(policy).map_err(|problem| loaded.wrong(problem))?;
        let mut asked = vec![(None, question.clone())];
        let of_copies = query::of_copies(policy, &question).into_iter();
        asked.extend(of_copies.map(|(copy, question)| (Some(copy), question)));
        let mut answers = Vec::new();
        for (through, question) in &asked {
            let capable = query::who_can(policy, &loaded.defaults, question).map_err(
                |(service, error)| {
                    let at = policy.service(&service).map(|s| s.at.to_string()).unwrap_or_default();
                    Output::wrong(no_grant(&service, &at, &error))
                },
            )?;
            answers.extend(capable.into_iter().map(|one| (*through, question, one)));
        }
        let (capable, leading_here, unseen) = with_mappings(answers, &question, &loaded);
        let now = at.unwrap_or_else(|| jiff::Timestamp::now().as_second());
        // Without a key that counts, nobody connects as it.
        let keyless =
            |one: &Capable<'_>| one.service.keys.iter().all(|key| in_time(key, now).is_err());
        let somebody = capable.iter().any(|Listed { one, reach, .. }| {
            one.service.disabled.is_none() && !keyless(one) && *reach != Reach::None
        });
        let err = loaded.notes + &unseen;
        let code = if somebody { YES } else { NO };
        if self.format == Format::Json {
            let view = WhoCanView {
                revision: policy.revision().whole(),
                pushed: loaded.pushed.as_ref().map(PushView::new),
                verb: question.verb().as_str(),
                target: question.target(),
                streams: question.kept(policy).iter().map(|(s, _)| s.name.as_str()).collect(),
                services: capable.iter().map(view).collect(),
                leading_here: &leading_here,
            };
            return Ok(Output { out: json(&view), err, code });
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
        for Listed { through, one, mapped, reach } in &capable {
            let _ = write!(text, "  {}", one.service.name);
            if let Some(copy) = through {
                let _ = write!(text, ", through the copy {copy}");
            }
            match reach {
                Reach::All => {}
                Reach::Part => text += ", in part",
                Reach::None => text += ", but its account maps that elsewhere",
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
            for mapped in mapped {
                let _ = writeln!(text, "      {}", line(&mapped.sentence(one.grant.account())));
            }
        }
        for LeadingHere { account, from, to } in &leading_here {
            let told = format!(
                "account {account} maps `{from}` to `{to}`: what these publish there arrives here"
            );
            let _ = writeln!(text, "{}", line(&told));
        }
        for sentence in question.kept_in_words(policy) {
            let _ = writeln!(text, "{sentence}");
        }
        if !matches!(self.verb, Verb::Publish | Verb::Subscribe | Verb::Find) {
            text += OUTSIDE;
        }
        Ok(Output { out: text, err, code })
    }
}

/// What the mappings of their accounts make of what services are granted, and which mappings lead
/// to what is asked about; with a note of the accounts whose mappings were not seen.
fn with_mappings<'p>(
    capable: Vec<(Option<&'p BucketName>, &Question, Capable<'p>)>,
    question: &Question,
    loaded: &Loaded,
) -> (Vec<Listed<'p>>, Vec<LeadingHere>, String) {
    let mut unseen = String::new();
    let mut seen: BTreeMap<String, Mappings> = BTreeMap::new();
    // Mappings change what is published, and nothing that is subscribed to.
    let publishes = question.verb() != Verb::Subscribe;
    for (.., one) in capable.iter().filter(|_| publishes) {
        let account = one.grant.account();
        if !seen.contains_key(account) {
            let mappings = loaded.mappings(account).unwrap_or_else(|note| {
                unseen += &note;
                Mappings::new()
            });
            seen.insert(account.to_owned(), mappings);
        }
    }
    let listed = capable.into_iter().map(|(through, asked, one)| {
        let mappings = seen.get(one.grant.account());
        let mapped = mappings.map(|all| mapped(&one.grant, all, Some(asked)));
        let mapped = mapped.unwrap_or_default();
        Listed { through, reach: left(one.answer.reach, &mapped), mapped, one }
    });
    let listed = listed.collect();
    let leading = seen.iter().flat_map(|(account, mappings)| {
        leading_to(mappings, question).into_iter().map(|(from, to)| LeadingHere {
            account: account.clone(),
            from: from.to_owned(),
            to: to.to_owned(),
        })
    });
    (listed, leading.collect(), unseen)
}

fn view<'a>(listed: &'a Listed<'_>) -> ServiceView<'a> {
    let Listed { through, one, mapped, reach } = listed;
    let rules = one.answer.rules().into_iter().filter_map(|rule| one.grant.rules().get(rule));
    ServiceView {
        service: &one.service.name,
        through: through.map(BucketName::as_str),
        disabled: one.service.disabled.as_deref(),
        nkeys: one.service.keys.iter().map(|key| key.key.as_str()).collect(),
        reach: *reach,
        accepted: one.answer.accepted && *reach != Reach::None,
        rules: rules.map(RuleView::new).collect(),
        mapped,
    }
}
