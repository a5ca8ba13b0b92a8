//! `solewriter sessions consumers`: what was made under a grant that is no more, and still delivers.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use super::super::asked::named_by;
use super::cannot;
use crate::cli::common::{Format, NO, Output, SettingsArgs, YES, count, json, line};
use crate::config::Tool;
use crate::nats::connect;
use crate::sessions::consumers::listing::Jetstream;
use crate::sessions::consumers::sweep::{Accounts, Survey, survey};
use crate::sessions::consumers::verdict::Owner;

/// List consumers of buckets, object stores and audit streams that no grant covers, or that are above the limit.
///
/// Compares them with the policy that the settings name. Deletes nothing; a running instance does.
/// Uses the callout's seed. With only the admin's seed it sees consumers of buckets alone.
///
/// Exit code: 0 if there are none, 1 if there are some or not all could be listed, 2 if nobody could
/// be asked.
#[derive(Args)]
pub(super) struct Consumers {
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Serialize)]
struct Row<'a> {
    stream: &'a str,
    consumer: String,
    service: Option<&'a str>,
    cause: &'static str,
    delivers_to: Option<String>,
    created: Option<i64>,
}

#[derive(Serialize)]
struct ConsumersView<'a> {
    revision: &'a str,
    streams: usize,
    covered: usize,
    consumers: Vec<Row<'a>>,
    untold: Vec<String>,
}

impl Consumers {
    pub(super) async fn output(&self) -> Result<Output, Output> {
        let tool = self.settings.load()?;
        let accounts = accounts(&tool).await?;
        let policy = named_by(&tool).await?.policy;
        let found = survey(&accounts, &policy, tool.sessions.consumers)
            .await
            .map_err(|error| cannot(&format!("{error}; check that {}", connect::CONSUMERS_NEED)))?;
        let view = ConsumersView::of(&found, policy.revision().whole());
        let out = match self.format {
            Format::Json => json(&view),
            Format::Text => text(&view),
        };
        let mut err = String::new();
        for untold in &view.untold {
            let _ = writeln!(err, "warning: {untold}");
        }
        let code = if view.consumers.is_empty() && view.untold.is_empty() { YES } else { NO };
        Ok(Output { out, err, code })
    }
}

/// Whoever may list consumers.
async fn accounts(tool: &Tool) -> Result<Accounts, Output> {
    let callout = tool.has_callout();
    let login = match (callout, tool.admin()) {
        (true, _) => tool.callout().map_err(Output::wrong)?,
        (false, admin) => admin.map_err(Output::wrong)?,
    };
    let options = connect::options(&login, &tool.tls, "solewriter-sessions");
    let options = options.map_err(|error| cannot(&error))?;
    let client = connect::connect(&tool.servers, options).await.map_err(|error| cannot(&error))?;
    let audit_streams = tool.defaults.audit.clone();
    Ok(if callout {
        let audit = Some(Jetstream::audit(client.clone()));
        Accounts { state: Jetstream::state(client), audit, audit_streams }
    } else {
        Accounts { state: Jetstream::own(client), audit: None, audit_streams }
    })
}

impl<'a> ConsumersView<'a> {
    fn of(found: &'a Survey, revision: &'a str) -> Self {
        let consumers = found.doomed.iter().map(|(stream, doomed)| Row {
            stream,
            consumer: line(&doomed.consumer.name),
            service: match &doomed.owner {
                Owner::Service(service) => Some(service),
                Owner::Nobody => None,
            },
            cause: doomed.cause.code(),
            delivers_to: doomed.consumer.deliver.as_deref().map(line),
            created: doomed.consumer.created,
        });
        Self {
            revision,
            streams: found.streams,
            covered: found.kept,
            consumers: consumers.collect(),
            untold: found.untold.iter().map(|(s, why)| format!("{s}: {}", line(why))).collect(),
        }
    }
}

/// For people.
fn text(view: &ConsumersView<'_>) -> String {
    let mut text = String::new();
    for row in &view.consumers {
        let Row { stream, consumer, service, cause, delivers_to, .. } = row;
        let whose = service.map_or("of no service".to_owned(), |service| format!("of {service}"));
        let to = delivers_to.as_ref().map_or("pulled from".to_owned(), |to| format!("to {to}"));
        let _ = writeln!(text, "{cause}  {stream}  {consumer}  {whose}  {to}");
    }
    let _ = writeln!(
        text,
        "{} that no grant covers or that are above the limit; {} in order, on {}, by revision {}",
        count(view.consumers.len(), "consumer", "consumers"),
        view.covered,
        count(view.streams, "stream", "streams"),
        view.revision,
    );
    text
}
