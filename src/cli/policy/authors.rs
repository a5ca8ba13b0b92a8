//! `solewriter policy may-push`: whether an author may push a change. `push` asks the same first.

use std::collections::HashMap;
use std::sync::Arc;

use clap::Args;

use super::{Deployment, connect_to_read, head, unread};
use crate::cli::common::{self, DirArgs, NO, Output, YES, line};
use crate::policy_source::bucket::Bucket;
use crate::policy_source::bucket::chain::{Counted, Judge};
use crate::policy_source::bucket::entry::Entry;
use solewriter_core::analysis::authorship::Whole;
use solewriter_core::diagnostics::{Problem, Problems, SourceFile};
use solewriter_core::policy::model::{Policy, short};

/// Say whether an author may push a directory, and push nothing.
///
/// It takes no key: anybody who may read the bucket can ask. The directory is held against the newest
/// revision that counts, by the table in `[policy] authors`.
///
/// Exit code: 0 if the author may; 1 if not; 2 if there is no answer.
#[derive(Args)]
pub(super) struct MayPush {
    #[command(flatten)]
    dir: DirArgs,
    /// The author, as `[policy] authors` calls them.
    #[arg(long = "as", value_name = "AUTHOR")]
    author: String,
    #[command(flatten)]
    deployment: Deployment,
}

impl MayPush {
    pub(super) async fn run(self) -> Result<Output, Output> {
        let tool = self.deployment.tool()?;
        let Some(judge) = tool.judge() else {
            let problem = Problem::error("no-authors", "the settings have no [policy] authors");
            return Err(Output::wrong(problem.help("whoever may push may push everything")));
        };
        let files = common::read(self.dir.path())?.map_err(Output::wrong)?;
        let validated = tool.validated(&files);
        let policy = validated.map_err(|problems| refused(&problems))?.policy;
        let bucket = connect_to_read(&tool).await?;
        let head = head(&bucket).await?;
        let counts = counted(&judge, &bucket, Some(&head)).await?;
        may(&judge, counts.as_ref(), (&files, &policy), &self.author)?;
        let of = counts.map_or_else(String::new, |counts| {
            format!(" of revision {} ({})", counts.entry.number, short(&counts.entry.policy))
        });
        let dir = self.dir.path().display().to_string();
        let text = format!("`{}` may make {}{of}\n", line(&self.author), line(&dir));
        Ok(Output::data(text, YES))
    }
}

/// The newest revision that counts.
pub(super) async fn counted(
    judge: &Arc<Judge>,
    bucket: &Bucket,
    head: Option<&Entry>,
) -> Result<Option<Counted>, Output> {
    let Some(head) = head else { return Ok(None) };
    let verdict = bucket.newest_that_counts(judge, head, None, &HashMap::new()).await;
    let verdict = verdict.map_err(|error| unread(bucket, &error))?;
    if let Some(problems) = verdict.refused {
        let err = format!("warning: the newest revision does not count: {}\n", problems.first());
        let _ = Output { out: String::new(), err, code: YES }.print();
    }
    Ok(verdict.counts)
}

/// Judges whether an author may make that of what counts.
pub(super) fn may(
    judge: &Judge,
    counts: Option<&Counted>,
    (files, policy): (&[SourceFile], &Policy),
    author: &str,
) -> Result<(), Output> {
    let authors = &judge.authors;
    let Some(author) = authors.named(author) else {
        let names: Vec<&str> = authors.list.iter().map(|author| author.name.as_str()).collect();
        let message = format!("there is no author `{}`", line(author));
        let help = format!("[policy] authors has {}", names.join(", "));
        return Err(Output::wrong(Problem::error("no-author", message).help(help)));
    };
    judge.may(counts, Whole { files, policy }, author).map_err(|problems| refused(&problems))
}

fn refused(problems: &Problems) -> Output {
    let mut output = Output::refused(problems);
    output.err += "nothing was pushed\n";
    output.code = NO;
    output
}
