//! `solewriter explain`: what one identity gets, and why.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::asked::{Loaded, PolicyArgs, moment};
use crate::cli::common::{
    Format, NO, Output, PlaceView, RuleView, YES, json, length, line, no_grant, said, time,
};
use solewriter_core::analysis::query::advice::{Advice, advise};
use solewriter_core::analysis::query::mapped::{Mapped, Mappings, left, mapped};
use solewriter_core::analysis::query::{self, Answer, Question, Reach, Verb, may};
use solewriter_core::callout::decide::in_time;
use solewriter_core::diagnostics::Problem;
use solewriter_core::grant::{Grant, Permission, Side, inbox_prefix};
use solewriter_core::keys::UserKey;
use solewriter_core::policy::model::{Policy, Service, ServiceKey};

/// Show what a service or key may do, and by which rules.
///
/// Lists every permission, grouped by the rule that grants it. With --write, --read, --publish,
/// --subscribe, --consume, --ack, --replay or --find it answers that one question with yes or no.
///
/// Exit code: 0 for yes, 1 for no, 2 if there is no answer.
#[derive(Args)]
pub struct Explain {
    /// The service's name, or a public user NKEY.
    #[arg(value_name = "SERVICE|NKEY")]
    identity: String,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Show the subjects of each rule, and what they are for.
    #[arg(long)]
    subjects: bool,
    /// May it write all keys of this keyspace, or all objects of this store (store:NAME)?
    #[arg(long, value_name = "KEYSPACE|STORE", group = "question")]
    write: Option<String>,
    /// May it read all keys of this keyspace, or all objects of this store (store:NAME)?
    #[arg(long, value_name = "KEYSPACE|STORE", group = "question")]
    read: Option<String>,
    /// May it publish to this subject?
    #[arg(long, value_name = "SUBJECT", group = "question")]
    publish: Option<String>,
    /// May it subscribe to this subject?
    #[arg(long, value_name = "SUBJECT", group = "question")]
    subscribe: Option<String>,
    /// May it take messages from this consumer, and acknowledge them?
    #[arg(long, value_name = "STREAM/CONSUMER", group = "question")]
    consume: Option<String>,
    /// May it acknowledge messages of this consumer?
    #[arg(long, value_name = "STREAM/CONSUMER", group = "question")]
    ack: Option<String>,
    /// May it read this stream, or these subjects of it, with consumers of its own?
    #[arg(long, value_name = "STREAM/SUBJECTS", group = "question")]
    replay: Option<String>,
    /// May it find services of this name, or of all names (*)?
    #[arg(long, value_name = "NAME", group = "question")]
    find: Option<String>,
    /// The time at which the NKEY must be valid, such as 2027-01-31T00:00:00Z [default: now].
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<jiff::Timestamp>,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Who is asked about, with everything that decides the answer.
struct Subject<'p> {
    policy: &'p Policy,
    service: &'p Service,
    /// The key, when one was named.
    key: Option<&'p ServiceKey>,
    grant: Grant,
    /// Why no connection of this identity is accepted.
    barred: Option<String>,
    /// The mappings of its account that meet what is asked about.
    mapped: Vec<Mapped>,
}

impl Explain {
    /// Runs the command.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        self.output().unwrap_or_else(|wrong| wrong).print()
    }

    fn output(&self) -> Result<Output, Output> {
        let question = self.question().map_err(Output::wrong)?;
        let loaded = self.policy.load()?;
        let policy = &loaded.policy;
        if let Some(question) = &question {
            question.check_names(policy).map_err(|problem| loaded.wrong(problem))?;
        }
        let (service, key) = query::identity(policy, &self.identity)
            .map_err(|problem| loaded.wrong(self.formerly(problem, &loaded)))?;
        let grant = Grant::of(service, &loaded.defaults)
            .map_err(|error| Output::wrong(no_grant(&service.name, &service.at, &error)))?;
        // Mappings change what is published, and nothing that is subscribed to.
        let publishes = question.as_ref().is_none_or(|q| q.verb() != Verb::Subscribe);
        let mappings =
            if publishes { loaded.mappings(grant.account()) } else { Ok(Mappings::new()) };
        let (mappings, unseen) = match mappings {
            Ok(mappings) => (mappings, String::new()),
            Err(note) => (Mappings::new(), note),
        };
        let mapped = mapped(&grant, &mappings, question.as_ref());
        let now = self.at.unwrap_or_else(jiff::Timestamp::now).as_second();
        let barred = match (&service.disabled, key) {
            (Some(why), _) => Some(format!("the service is disabled: {why}")),
            (None, Some(key)) => in_time(key, now).err().map(|denial| denial.to_string()),
            (None, None) => None,
        };
        let name = &service.name;
        let subject = Subject { policy, service, key, grant, barred, mapped };
        let mut output = match question {
            Some(question) => subject.answer(&question, self.format),
            None => subject.overview(self.subjects, self.format),
        };
        let named = self.policy.names_a_revision();
        let transit = if named { String::new() } else { loaded.in_transit(name) };
        output.err.insert_str(0, &(loaded.notes + &unseen + &transit));
        Ok(output)
    }

    /// What is wrong with the identity. Of a key that no service has, also whose it was.
    fn formerly(&self, problem: Problem, loaded: &Loaded) -> Problem {
        let key = UserKey::parse(&self.identity).ok();
        match key.and_then(|key| self.policy.former_holder(&key, loaded)) {
            Some(said) => problem.help(format!("every connection with it is refused; {said}")),
            None => problem,
        }
    }

    fn question(&self) -> Result<Option<Question>, Problem> {
        let asked = [
            (Verb::Write, &self.write),
            (Verb::Read, &self.read),
            (Verb::Publish, &self.publish),
            (Verb::Subscribe, &self.subscribe),
            (Verb::Consume, &self.consume),
            (Verb::Ack, &self.ack),
            (Verb::Replay, &self.replay),
            (Verb::Find, &self.find),
        ];
        let found = asked.into_iter().find_map(|(verb, text)| Some((verb, text.as_deref()?)));
        found.map(|(verb, text)| Question::parse(verb, text)).transpose()
    }
}

#[derive(Serialize)]
struct PermissionView<'a> {
    side: &'static str,
    subject: &'a str,
    purpose: &'static str,
}

impl<'a> PermissionView<'a> {
    fn new(side: Side, permission: &'a Permission) -> Self {
        Self {
            side: side.as_str(),
            subject: permission.subject.as_str(),
            purpose: permission.purpose,
        }
    }
}

#[derive(Serialize)]
struct GrantedView<'a> {
    #[serde(flatten)]
    rule: RuleView,
    permissions: Vec<PermissionView<'a>>,
}

#[derive(Serialize)]
struct KeyView<'a> {
    nkey: &'a str,
    not_before: Option<String>,
    not_after: Option<String>,
}

#[derive(Serialize)]
struct ListsView<'a> {
    allow: &'a [String],
    deny: &'a [String],
}

#[derive(Serialize)]
struct OverviewView<'a> {
    service: &'a str,
    description: Option<&'a str>,
    at: PlaceView,
    revision: &'a str,
    barred: Option<&'a str>,
    keys: Vec<KeyView<'a>>,
    account: &'a str,
    lifetime: String,
    sources: Vec<String>,
    connections: Vec<&'static str>,
    inbox_prefix: String,
    rules: Vec<GrantedView<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    mapped: &'a [Mapped],
    publish: ListsView<'a>,
    subscribe: ListsView<'a>,
}

#[derive(Serialize)]
struct AnswerView<'a> {
    service: &'a str,
    revision: &'a str,
    verb: &'static str,
    target: String,
    allowed: bool,
    reach: Reach,
    accepted: bool,
    barred: Option<&'a str>,
    rules: Vec<GrantedView<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    mapped: &'a [Mapped],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    streams: &'a [&'a str],
    owner: Option<OwnerView>,
    nearest: Option<RuleView>,
    never: Option<String>,
    add: Option<AddView>,
}

#[derive(Serialize)]
struct OwnerView {
    service: String,
    rule: RuleView,
}

#[derive(Serialize)]
struct AddView {
    service: String,
    at: PlaceView,
    list: &'static str,
    entry: String,
}

impl Subject<'_> {
    fn name(&self) -> &str {
        &self.service.name
    }

    fn permissions(&self, rule: usize) -> Vec<PermissionView<'_>> {
        let sides = [Side::Publish, Side::Subscribe].into_iter();
        let all =
            sides.flat_map(|side| self.grant.permissions(side).iter().map(move |p| (side, p)));
        all.filter(|(_, p)| p.rule == rule).map(|(s, p)| PermissionView::new(s, p)).collect()
    }

    fn keys(&self) -> Vec<KeyView<'_>> {
        let named = |key: &&ServiceKey| self.key.is_none_or(|named| named == *key);
        let keys = self.service.keys.iter().filter(named).map(|key| KeyView {
            nkey: key.key.as_str(),
            not_before: key.not_before.map(time),
            not_after: key.not_after.map(time),
        });
        keys.collect()
    }

    fn overview(&self, subjects: bool, format: Format) -> Output {
        let code = if self.barred.is_some() { NO } else { YES };
        let service = self.service;
        if format == Format::Json {
            let rules = self.grant.rules().iter().enumerate();
            let (publish, subscribe) = query::signed(&self.grant);
            let view = OverviewView {
                service: self.name(),
                description: service.description.as_deref(),
                at: PlaceView::new(&service.at),
                revision: self.policy.revision().whole(),
                barred: self.barred.as_deref(),
                keys: self.keys(),
                account: self.grant.account(),
                lifetime: length(self.grant.lifetime()),
                sources: service.sources.iter().map(ToString::to_string).collect(),
                connections: service.connections.iter().map(|kind| kind.as_str()).collect(),
                inbox_prefix: inbox_prefix(self.name()),
                rules: rules
                    .map(|(index, rule)| GrantedView {
                        rule: RuleView::new(rule),
                        permissions: self.permissions(index),
                    })
                    .collect(),
                mapped: &self.mapped,
                publish: ListsView { allow: &publish.allow, deny: &publish.deny },
                subscribe: ListsView { allow: &subscribe.allow, deny: &subscribe.deny },
            };
            return Output::data(json(&view), code);
        }
        let mut text = format!("{} ({})", service.name, service.at);
        if let Some(description) = &service.description {
            let _ = write!(text, ": {}", line(description));
        }
        text.push('\n');
        if let Some(why) = &self.barred {
            let _ = writeln!(text, "  refused: {}", line(why));
        }
        for key in self.keys() {
            let _ = write!(text, "  key {}", key.nkey);
            for (word, at) in [("from", key.not_before), ("until", key.not_after)] {
                if let Some(at) = at {
                    let _ = write!(text, " {word} {at}");
                }
            }
            text.push('\n');
        }
        if service.keys.is_empty() {
            text += "  no key: nobody can connect as it\n";
        }
        let lifetime = length(self.grant.lifetime());
        let _ = writeln!(text, "  account {}, for {lifetime} at a time", self.grant.account());
        let ways: Vec<&str> = service.connections.iter().map(|kind| kind.as_str()).collect();
        let sources: Vec<String> = service.sources.iter().map(ToString::to_string).collect();
        let from = if sources.is_empty() { "anywhere".to_owned() } else { sources.join(", ") };
        let _ = writeln!(text, "  connects by {} from {from}", ways.join(", "));
        let _ = writeln!(text, "  inbox prefix {}\n", inbox_prefix(self.name()));
        for (index, rule) in self.grant.rules().iter().enumerate() {
            let _ = writeln!(text, "  {}", said(rule));
            if subjects {
                list(&mut text, &self.permissions(index));
            }
        }
        if self.grant.rules().is_empty() {
            text += "  nothing is granted\n";
        }
        self.list_mapped(&mut text);
        Output::data(text, code)
    }

    fn answer(&self, question: &Question, format: Format) -> Output {
        let mut answer = may(&self.grant, question);
        let advice = if answer.is_yes() {
            Advice::default()
        } else {
            advise(self.policy, self.service, question)
        };
        answer.reach = left(answer.reach, &self.mapped);
        let allowed = answer.is_yes() && self.barred.is_none();
        let code = if allowed { YES } else { NO };
        if format == Format::Json {
            let kept = question.kept(self.policy);
            let streams: Vec<&str> = kept.iter().map(|(stream, _)| stream.name.as_str()).collect();
            return Output::data(json(&self.view(question, &answer, advice, &streams)), code);
        }
        let mut text = String::new();
        let word = match (allowed, answer.reach) {
            (true, _) => "yes",
            (false, Reach::Part) if self.barred.is_none() => "in part",
            (false, _) => "no",
        };
        let name = self.name();
        let can = if word == "no" { "may not" } else { "may" };
        let of = if word == "in part" { ", but not all of it" } else { "" };
        let _ = writeln!(text, "{word}: {name} {can} {question}{of}");
        if let Some(why) = &self.barred {
            let _ = writeln!(text, "  refused: {}", line(why));
        }
        for rule in answer.rules() {
            let Some(by) = self.grant.rules().get(rule) else { continue };
            let _ = writeln!(text, "  {}", said(by));
            list(&mut text, &grounds(&answer, rule));
        }
        if answer.reach == Reach::Part {
            text += match (question.verb(), answer.accepted) {
                (Verb::Subscribe, true) => {
                    "  nats-server accepts this subscription, and delivers only that part\n"
                }
                (Verb::Subscribe, false) => {
                    "  nats-server refuses this subscription as a whole; ask for that part\n"
                }
                _ => "  the rest is refused\n",
            };
        }
        self.list_mapped(&mut text);
        for sentence in question.kept_in_words(self.policy) {
            let _ = writeln!(text, "  {sentence}");
        }
        for sentence in advice.sentences(answer.reach) {
            let _ = writeln!(text, "  {sentence}");
        }
        Output::data(text, code)
    }

    fn list_mapped(&self, text: &mut String) {
        for mapped in &self.mapped {
            let _ = writeln!(text, "  {}", line(&mapped.sentence(self.grant.account())));
        }
    }

    fn view<'a>(
        &'a self,
        question: &Question,
        answer: &Answer,
        advice: Advice,
        streams: &'a [&'a str],
    ) -> AnswerView<'a> {
        let rules = answer.rules().into_iter().filter_map(|index| {
            let rule = RuleView::new(self.grant.rules().get(index)?);
            // Borrowed from the grant, as the answer's own are copies of these.
            let of = |p: &&Permission| p.rule == index;
            let grounds = answer.grounds.iter().filter(|g| g.permission.rule == index);
            let permissions = grounds
                .filter_map(|ground| {
                    let mut all = self.grant.permissions(ground.side).iter().filter(of);
                    let permission = all.find(|p| **p == ground.permission)?;
                    Some(PermissionView::new(ground.side, permission))
                })
                .collect();
            Some(GrantedView { rule, permissions })
        });
        AnswerView {
            service: self.name(),
            revision: self.policy.revision().whole(),
            verb: question.verb().as_str(),
            target: question.target(),
            allowed: answer.is_yes() && self.barred.is_none(),
            reach: answer.reach,
            accepted: answer.accepted,
            barred: self.barred.as_deref(),
            rules: rules.collect(),
            mapped: &self.mapped,
            streams,
            owner: advice.owner.map(|(service, rule)| OwnerView {
                service: service.to_string(),
                rule: RuleView::new(&rule),
            }),
            nearest: advice.nearest.as_ref().map(RuleView::new),
            never: advice.never,
            add: advice.add.map(|add| AddView {
                service: add.service.to_string(),
                at: PlaceView::new(&add.at),
                list: add.key,
                entry: add.value,
            }),
        }
    }
}

fn grounds(answer: &Answer, rule: usize) -> Vec<PermissionView<'_>> {
    let of_rule = answer.grounds.iter().filter(|ground| ground.permission.rule == rule);
    of_rule.map(|ground| PermissionView::new(ground.side, &ground.permission)).collect()
}

/// Subjects and purposes, in columns.
fn list(text: &mut String, permissions: &[PermissionView<'_>]) {
    let width = permissions.iter().map(|p| p.subject.len()).max().unwrap_or_default();
    for PermissionView { side, subject, purpose } in permissions {
        let _ = writeln!(text, "      {side:<9}  {subject:<width$}  {purpose}");
    }
}
