//! `solewriter policy log` and `show`: what was pushed, by whom, and why.

use clap::Args;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::{Deployment, connect_to_read, head, named, unread};
use crate::cli::common::{Format, Output, YES, count, json, line, time};
use crate::policy_source::bucket::Bucket;
use crate::policy_source::bucket::chain::Judge;
use crate::policy_source::bucket::entry::Entry;
use solewriter_core::policy::model::short;

/// How many revisions are asked for at a time.
const AT_A_TIME: usize = 16;

/// List the revisions, newest first: number, time, policy revision, who and why; and whose key signed
/// each, where the settings name authors.
#[derive(Args)]
pub(super) struct Log {
    /// How many at most. 0 means all.
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 20)]
    limit: u64,
    /// How to print them.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    deployment: Deployment,
}

/// Print a revision: who pushed it, when and why, and its documents.
#[derive(Args)]
pub(super) struct Show {
    /// The revision: its number, or the beginning of its policy revision.
    #[arg(value_name = "REVISION")]
    revision: String,
    /// How to print it.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    deployment: Deployment,
}

#[derive(Serialize)]
struct LogView {
    number: u64,
    revision: String,
    author: String,
    message: String,
    time: String,
    documents: usize,
    bytes: u64,
    version: String,
    rollback_of: Option<u64>,
    signed_by: Option<SignedView>,
    /// Why its signature counts for nothing, where the settings name authors.
    unsigned: Option<String>,
}

#[derive(Serialize)]
struct SignedView {
    author: String,
    key: String,
}

#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    view: LogView,
    files: Vec<FileView>,
}

#[derive(Serialize)]
struct FileView {
    name: String,
    text: String,
}

impl LogView {
    fn new(entry: &Entry, bucket: &Bucket, judge: Option<&Judge>) -> Self {
        let (signed_by, unsigned) = match judge.map(|judge| judge.signed(bucket, entry)) {
            None => (None, None),
            Some(Ok(signed)) => {
                let (author, key) = (signed.author.name.clone(), signed.key.to_string());
                (Some(SignedView { author, key }), None)
            }
            Some(Err(why)) => (None, Some(why.to_string())),
        };
        Self {
            signed_by,
            unsigned,
            number: entry.number,
            revision: entry.policy.clone(),
            author: entry.author.clone(),
            message: entry.message.clone(),
            time: time(entry.time),
            documents: entry.documents,
            bytes: entry.bytes,
            version: entry.tool.clone(),
            rollback_of: entry.rollback_of,
        }
    }

    fn line(&self) -> String {
        let back = self.rollback_of.map(|n| format!(" (documents of {n})")).unwrap_or_default();
        let Self { number, time, revision, author, message, .. } = self;
        let revision = short(revision);
        let signed = match (&self.signed_by, &self.unsigned) {
            (Some(SignedView { key, .. }), _) => format!(" (signed by {key})"),
            (None, Some(why)) => format!(" (does not count: {why})"),
            (None, None) => String::new(),
        };
        line(&format!("{number:>4}  {time}  {revision}  {author}: {message}{back}{signed}"))
    }
}

impl Log {
    pub(super) async fn run(self) -> Result<Output, Output> {
        let tool = self.deployment.tool()?;
        let bucket = connect_to_read(&tool).await?;
        let head = head(&bucket).await?;
        let most = if self.limit == 0 { u64::MAX } else { self.limit };
        let oldest = head.number.saturating_sub(most).saturating_add(1).max(1);
        let asked: Vec<_> =
            (oldest..head.number).rev().map(|number| bucket.revision(number).boxed()).collect();
        let older: Vec<Option<Entry>> = stream::iter(asked)
            .buffered(AT_A_TIME)
            .try_collect()
            .await
            .map_err(|error| unread(&bucket, &error))?;
        let judge = tool.judge();
        let view = |entry| LogView::new(entry, &bucket, judge.as_deref());
        let views: Vec<LogView> =
            std::iter::once(&head).chain(older.iter().flatten()).map(view).collect();
        if self.format == Format::Json {
            return Ok(Output::data(json(&views), YES));
        }
        let mut out: String = views.iter().map(|view| view.line() + "\n").collect();
        if oldest > 1 {
            let more = usize::try_from(oldest - 1).unwrap_or(usize::MAX);
            out += &format!("and {}\n", count(more, "older revision", "older revisions"));
        }
        Ok(Output::data(out, YES))
    }
}

impl Show {
    pub(super) async fn run(self) -> Result<Output, Output> {
        let tool = self.deployment.tool()?;
        let bucket = connect_to_read(&tool).await?;
        let head = head(&bucket).await?;
        let entry = named(&bucket, head, &self.revision).await?;
        let files = bucket.files(&entry).await.map_err(|error| unread(&bucket, &error))?;
        let view = LogView::new(&entry, &bucket, tool.judge().as_deref());
        if self.format == Format::Json {
            let files = files
                .iter()
                .map(|f| FileView { name: f.name().to_string(), text: f.text().to_owned() })
                .collect();
            return Ok(Output::data(json(&Whole { view, files }), YES));
        }
        // What is printed is TOML still, if there is one document or if nobody minds the order.
        let mut out = format!("# {}\n", view.line().trim_start());
        for file in &files {
            let end = if file.text().ends_with('\n') { "" } else { "\n" };
            out += &format!("\n# {}\n\n{}{end}", file.name(), file.text());
        }
        Ok(Output::data(out, YES))
    }
}
