//! Assertions kept beside the policy, in `*.test.toml`: who can and who cannot.
//!
//! ```toml
//! [[expect]]
//! service = "billing"
//! cannot = "write"
//! keyspace = "orders"
//! because = "invoices are made from orders, never the other way"
//! ```
//!
//! "Can" means all of what is named, and "cannot" none of it: a service that may write one key of
//! `orders` neither can nor cannot write `orders`, and fails both.

mod judge;

use std::borrow::Cow;
use std::net::IpAddr;

pub use judge::{Judge, Verdict};

use crate::analysis::query::{self, Question, Verb};
use crate::diagnostics::toml::{self, Table, Value, nearest};
use crate::diagnostics::{Collector, Problem, SourceFile, Spanned};
use crate::policy::model::{Policy, STORE_PREFIX};
use solewriter_types::connection_type::ConnectionType;

/// One assertion.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// About whom.
    pub who: Who,
    /// Whether it is `can`, and not `cannot`.
    pub can: bool,
    /// The verb, where it is written.
    pub verb: Spanned<String>,
    /// What they can or cannot do.
    pub what: What,
    /// Why that matters.
    pub because: Option<String>,
}

/// About whom an assertion is.
#[derive(Clone, Debug)]
pub enum Who {
    /// One service, by its name or by one of its NKEYs.
    Service(Spanned<String>),
    /// These services, and no other one.
    Only(Vec<Spanned<String>>),
}

/// What an assertion says that somebody can or cannot do.
#[derive(Clone, Debug)]
pub enum What {
    /// Write, read, publish, subscribe, consume, acknowledge or find.
    Use(Question),
    /// Be let in.
    Connect {
        /// From there; `None` for whichever place the service may connect from.
        source: Option<IpAddr>,
        /// In that way.
        connection: ConnectionType,
        /// At that time, in seconds since the Unix epoch; `None` to leave times out of it.
        at: Option<i64>,
    },
}

impl Expectation {
    /// The assertion in words: `billing cannot write orders`.
    #[must_use]
    pub fn text(&self) -> String {
        let who = match &self.who {
            Who::Service(service) => service.value.clone(),
            Who::Only(services) if services.is_empty() => "nobody".to_owned(),
            Who::Only(services) => {
                let names: Vec<&str> = services.iter().map(|s| s.value.as_str()).collect();
                format!("only {}", names.join(", "))
            }
        };
        format!("{who} {} {}", if self.can { "can" } else { "cannot" }, self.what.text())
    }
}

impl What {
    /// What is done, in words: `write orders`, `connect from 10.0.0.1`.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Use(question) => question.to_string(),
            Self::Connect { source, connection, at } => {
                let mut text = "connect".to_owned();
                if *connection != ConnectionType::Standard {
                    text += &format!(" by {connection}");
                }
                if let Some(source) = source {
                    text += &format!(" from {source}");
                }
                if let Some(time) = at.and_then(|at| jiff::Timestamp::from_second(at).ok()) {
                    text += &format!(" at {time}");
                }
                text
            }
        }
    }
}

/// Reads the assertions of one file, and holds names against the policy: a misspelled service
/// "cannot" do anything. What cannot be read is reported and left out.
#[must_use]
pub fn read(file: &SourceFile, policy: &Policy, problems: &Collector) -> Vec<Expectation> {
    let Some(mut root) = toml::read(file, problems) else { return Vec::new() };
    let tables = root.table_array("expect");
    root.finish();
    tables.into_iter().filter_map(|table| expectation(table, policy)).collect()
}

fn expectation(mut table: Table<'_>, policy: &Policy) -> Option<Expectation> {
    let who = who(&mut table, policy);
    let verb = verb(&mut table, matches!(who, Some(Who::Only(_))));
    let what = verb.as_ref().and_then(|(_, verb)| what(&mut table, verb, policy));
    let because = table.string("because").map(|text| text.value);
    if verb.is_some() {
        table.finish();
    }
    let (can, verb) = verb?;
    Some(Expectation { who: who?, can, verb, what: what?, because })
}

fn who(table: &mut Table<'_>, policy: &Policy) -> Option<Who> {
    let problems = table.problems();
    if table.has("service") == table.has("only") {
        problems.push(
            Problem::error("who", "an expectation is about one service, or about only some")
                .at(table.span(), "")
                .help("write either `service = \"NAME\"` or `only = [\"NAME\"]`"),
        );
    }
    let known = |name: &Spanned<String>| {
        query::identity(policy, &name.value)
            .map_err(|p| problems.push(p.at(&name.span, "")))
            .is_ok()
    };
    let service = table.string("service");
    let only = table.strings("only");
    match (service, only) {
        (Some(service), None) => known(&service).then_some(Who::Service(service)),
        (None, Some(only)) => {
            // Every one of them, so that each problem is reported.
            let good = only.iter().filter(|name| known(name)).count();
            (good == only.len()).then_some(Who::Only(only))
        }
        _ => None,
    }
}

/// `can` (true) or `cannot`, with the verb.
fn verb(table: &mut Table<'_>, only: bool) -> Option<(bool, Spanned<String>)> {
    let problems = table.problems();
    if table.has("can") == table.has("cannot") {
        problems.push(
            Problem::error("can-or-cannot", "an expectation says either `can` or `cannot`")
                .at(table.span(), "")
                .help("write `can = \"VERB\"` or `cannot = \"VERB\"`"),
        );
    }
    match (table.string("can"), table.string("cannot")) {
        (Some(verb), None) => Some((true, verb)),
        (None, Some(verb)) if only => {
            problems.push(
                Problem::error("only-cannot", "`only` goes with `can`")
                    .at(&verb.span, "")
                    .help("`only = [\"a\"]` with `can` says that `a` can and nobody else"),
            );
            None
        }
        (None, Some(verb)) => Some((false, verb)),
        _ => None,
    }
}

fn what(table: &mut Table<'_>, verb: &Spanned<String>, policy: &Policy) -> Option<What> {
    const CONNECT: &str = "connect";
    let problems = table.problems();
    if verb.value == CONNECT {
        return connect(table);
    }
    let Some(known) = Verb::asked(&verb.value) else {
        let names = || Verb::ASKED.iter().map(|v| v.as_str()).chain([CONNECT]);
        let help = match nearest(&verb.value, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the verbs are {}", names().collect::<Vec<_>>().join(", ")),
        };
        problems.push(
            Problem::error("unknown-verb", format!("`{}` is not a verb", verb.value))
                .at(&verb.span, "")
                .help(help),
        );
        // What it would take is unknown: no complaints about it.
        for key in [
            "keyspace",
            "store",
            "subject",
            "consumer",
            "stream",
            "name",
            "source",
            "connection",
            "at",
        ] {
            let _ = table.value(key);
        }
        return None;
    };
    let (key, example) = match known {
        Verb::Write | Verb::Read if table.has("store") => ("store", "\"NAME\""),
        Verb::Write | Verb::Read => ("keyspace", "\"BUCKET\""),
        Verb::Consume | Verb::Ack => ("consumer", "\"STREAM/CONSUMER\""),
        Verb::Replay => ("stream", "\"STREAM/SUBJECTS\""),
        Verb::Find => ("name", "\"NAME\""),
        _ => ("subject", "\"SUBJECT\""),
    };
    table.require(key, example);
    let target = table.string(key)?;
    let named = match key {
        "store" => Cow::Owned(format!("{STORE_PREFIX}{}", target.value)),
        _ => Cow::Borrowed(&*target.value),
    };
    let question = Question::parse(known, &named)
        .and_then(|question| question.check_names(policy).map(|()| question));
    match question {
        Ok(question) => Some(What::Use(question)),
        Err(problem) => {
            problems.push(problem.at(&target.span, ""));
            None
        }
    }
}

fn connect(table: &mut Table<'_>) -> Option<What> {
    let problems = table.problems();
    let (source, connection) = (table.string("source"), table.string("connection"));
    let at = table.value("at");
    // All three, so that each mistake is reported.
    let source = source.map(|text| address(&text, problems));
    let connection = connection.map(|text| connection_type(&text, problems));
    let at = at.map(|value| time(value, problems));
    Some(What::Connect {
        source: source.map_or(Some(None), |found| found.map(Some))?,
        connection: connection.unwrap_or(Some(ConnectionType::Standard))?,
        at: at.map_or(Some(None), |found| found.map(Some))?,
    })
}

fn address(text: &Spanned<String>, problems: &Collector) -> Option<IpAddr> {
    let found = text.value.parse().ok();
    if found.is_none() {
        problems.push(
            Problem::error("bad-address", format!("`{}` is not an address", text.value))
                .at(&text.span, "")
                .help("write one IP address, such as 10.1.2.3 or fd00::1"),
        );
    }
    found
}

fn connection_type(text: &Spanned<String>, problems: &Collector) -> Option<ConnectionType> {
    let found = ConnectionType::ALL.into_iter().find(|kind| kind.as_str() == text.value);
    if found.is_none() {
        let names = ConnectionType::ALL.map(ConnectionType::as_str);
        problems.push(
            Problem::error(
                "bad-connection-type",
                format!("`{}` is not a connection type", text.value),
            )
            .at(&text.span, "")
            .help(format!("the connection types are {}", names.join(", "))),
        );
    }
    found
}

fn time(value: Value<'_>, problems: &Collector) -> Option<i64> {
    let (text, span) = match value {
        Value::String(text) => (text.value, text.span),
        Value::Datetime(datetime) => (datetime.value.to_string(), datetime.span),
        Value::Table(table) => (String::new(), table.span().clone()),
        Value::Other(_, span) => (String::new(), span),
    };
    let time = text.parse::<jiff::Timestamp>().ok();
    if time.is_none() {
        problems.push(
            Problem::error("bad-time", "`at` is not a point in time")
                .at(&span, "")
                .help("write date, time and offset from UTC, such as 2027-01-31T00:00:00Z"),
        );
    }
    time.map(jiff::Timestamp::as_second)
}

#[cfg(test)]
mod tests;
