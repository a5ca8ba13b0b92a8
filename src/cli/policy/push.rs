//! `solewriter policy push` and `rollback`: a new revision.

use std::io::{BufRead, IsTerminal, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::super::{check, diff, git, test};
use super::authors::{counted, may};
use super::{Deployment, connect, failed, head, named, reach, say, status, unread};
use crate::cli::common;
use crate::cli::common::{DirArgs, NO, Output, YES, count, duration, line, style};
use crate::config::Tool;
use crate::fleet::Instances;
use crate::policy_source::bucket::entry::{Entry, MAX_AUTHOR, MAX_MESSAGE, Words};
use crate::policy_source::bucket::write::Signing;
use crate::policy_source::bucket::{Bucket, ReadError};
use solewriter_core::diagnostics::{Problem, Problems, SourceFile};
use solewriter_core::handover::claims::Claims;
use solewriter_core::keys::{Signer, User};
use solewriter_core::policy::model::{Policy, short};
use solewriter_core::policy::validate::Validated;

/// Push a directory as the newest revision.
///
/// Validates the policy as `check` does, and tests the assertions beside it (`*.test.toml`). Shows
/// what changes for whom, and asks. Then it pushes the whole policy, or nothing. Assertions and
/// other files are not pushed. A warning says when the settings serve a directory: then this bucket
/// is not in force there.
#[derive(Args)]
pub(super) struct Push {
    #[command(flatten)]
    dir: DirArgs,
    /// The reason for the change, for the log.
    #[arg(short, long, value_name = "WHY")]
    message: String,
    /// Push only if this is still the newest revision. 0 means that there must be none yet.
    #[arg(long, value_name = "NUMBER")]
    expect: Option<u64>,
    /// Replicas of the bucket, if this push creates it [default: 3 in a cluster, 1 otherwise].
    #[arg(long, value_name = "NUMBER")]
    replicas: Option<usize>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    deployment: Deployment,
}

/// Push the documents of an older revision again, as the newest revision.
///
/// Nothing is removed from the log. As `push`, it warns when the settings serve a directory.
#[derive(Args)]
pub(super) struct Rollback {
    /// The revision to go back to: its number, or the beginning of its policy revision.
    #[arg(value_name = "REVISION")]
    revision: String,
    /// The reason for the change, for the log.
    #[arg(short, long, value_name = "WHY")]
    message: Option<String>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    deployment: Deployment,
}

#[derive(Args)]
struct How {
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// The file with your seed, where `[policy] authors` says who may change what: it signs the push.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Who pushes, for the log [default: the author whose key it is, the name in git, or else user and
    /// machine].
    #[arg(long, value_name = "NAME")]
    author: Option<String>,
    /// How long to wait until every instance serves the revision, and then as long again until the
    /// open connections that it affects are closed. 0s means not to wait. It does not wait until
    /// closed clients are back.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    wait: Duration,
    /// Give what moves to its new owner without waiting for servers that do not answer. Only for a
    /// server that is gone for good: if it is cut off and comes back, its connections of the old
    /// owner write beside the new one until they are closed.
    #[arg(long)]
    force_handover: bool,
}

/// What is about to be pushed.
struct Proposal {
    files: Vec<SourceFile>,
    policy: Policy,
    /// What to call it.
    name: String,
}

impl Push {
    pub(super) async fn run(self) -> Result<Output, Output> {
        let tool = self.deployment.tool_to_push()?;
        let signer = self.how.signer(&tool)?;
        let proposal = self.read(&tool)?;
        let login = tool.publisher().map_err(Output::wrong)?;
        let bucket = connect(&tool, &login).await?;
        let head = match bucket.head().await {
            Ok(head) => head,
            Err(ReadError::Missing) => None,
            Err(error) => return Err(unread(&bucket, &error)),
        };
        let newest = head.as_ref().map_or(0, |head| head.number);
        if let Some(expected) = self.expect.filter(|expected| *expected != newest) {
            return Err(failed(&format!(
                "the newest revision is {newest}, not {expected}: look at it, then push again"
            )));
        }
        let words = self.how.words(self.message.clone(), None, signer.as_ref())?;
        let base = Base::of(&tool, &bucket, head.as_ref(), &proposal, signer).await?;
        let replicas = self.replicas;
        push(&tool, &bucket, (head, base), proposal, words, (&self.how, replicas)).await
    }

    /// Reads the directory and judges it whole.
    fn read(&self, tool: &Tool) -> Result<Proposal, Output> {
        let refuse = |problems: Problems| Output {
            out: String::new(),
            err: format!(
                "{}nothing was pushed: {}\n",
                problems.render(style()),
                problems.summary()
            ),
            code: NO,
        };
        let files = common::read(self.dir.path())?.map_err(refuse)?;
        let validated = tool.validated(&files).and_then(|v| check::grant_all(v, &tool.defaults));
        let Validated { policy, warnings } = validated.map_err(refuse)?;
        let held =
            test::all_hold(self.dir.path(), (&policy, &files), &tool.defaults).map_err(refuse)?;
        let _ = Output { out: String::new(), err: warnings.render(style()), code: YES }.print();
        if held > 0 {
            say(&format!("{}\n", count(held, "expectation holds", "expectations hold")));
        }
        Ok(Proposal { files, policy, name: self.dir.path().display().to_string() })
    }
}

impl Rollback {
    pub(super) async fn run(self) -> Result<Output, Output> {
        let tool = self.deployment.tool_to_push()?;
        let signer = self.how.signer(&tool)?;
        let login = tool.publisher().map_err(Output::wrong)?;
        let bucket = connect(&tool, &login).await?;
        let head = head(&bucket).await?;
        let target = named(&bucket, head.clone(), &self.revision).await?;
        let files = bucket.files(&target).await.map_err(|error| unread(&bucket, &error))?;
        let validated = tool.validated(&files).and_then(|v| check::grant_all(v, &tool.defaults));
        let policy = match validated {
            Ok(validated) => validated.policy,
            Err(problems) => {
                let number = target.number;
                let mut output = Output::wrong(problems);
                output.err += &format!("revision {number} is not valid any more\n");
                output.code = NO;
                return Err(output);
            }
        };
        let message = self.message.unwrap_or_else(|| format!("roll back to {}", target.number));
        let words = self.how.words(message, Some(target.number), signer.as_ref())?;
        let name = format!("revision {}", target.number);
        let proposal = Proposal { files, policy, name };
        let base = Base::of(&tool, &bucket, Some(&head), &proposal, signer).await?;
        push(&tool, &bucket, (Some(head), base), proposal, words, (&self.how, None)).await
    }
}

impl How {
    /// Who signs; says what would be refused anyway.
    fn signer(&self, tool: &Tool) -> Result<Option<AuthorKey>, Output> {
        let Some(path) = &self.key else {
            if tool.authors.is_none() {
                return Ok(None);
            }
            let problem = Problem::error("not-signed", "[policy] authors asks for signed pushes")
                .help("sign it with an author's key: --key FILE");
            return Err(Output::wrong(problem));
        };
        let signer = common::signer(path)?;
        let Some(authors) = &tool.authors else {
            let problem = Problem::error("no-authors", "the settings have no [policy] authors")
                .help("push without --key, or name the file with the authors");
            return Err(Output::wrong(problem));
        };
        let key = signer.public();
        let Some(author) = authors.of_key(key) else {
            let message = format!("{key} is no key of an author");
            let help = "`[policy] authors` has the keys, on every instance";
            return Err(Output::wrong(Problem::error("not-an-author", message).help(help)));
        };
        if let Some(called) = self.author.as_ref().filter(|called| **called != author.name) {
            let message = format!("--author is {:?}, and the key is of `{}`", called, author.name);
            let problem = Problem::error("another-author", message).help("leave out --author");
            return Err(Output::wrong(problem));
        }
        Ok(Some(AuthorKey { signer, name: author.name.clone() }))
    }

    fn words(
        &self,
        message: String,
        rollback_of: Option<u64>,
        signer: Option<&AuthorKey>,
    ) -> Result<Words, Output> {
        let signed = signer.map(|signer| signer.name.clone());
        let author =
            signed.or_else(|| self.author.clone()).or_else(git::author).unwrap_or_else(somebody);
        for (what, text, most) in
            [("--author", &author, MAX_AUTHOR), ("--message", &message, MAX_MESSAGE)]
        {
            if text.trim().is_empty() || text.chars().count() > most {
                let problem = Problem::error("bad-words", format!("{what} is empty or too long"));
                return Err(Output::wrong(problem.help(format!("1 to {most} characters"))));
            }
        }
        let time = jiff::Timestamp::now().as_second();
        let forced = self.force_handover;
        Ok(Words { author, message, time, rollback_of, forced })
    }

    /// Asks, unless told not to.
    fn agreed(&self, question: &str) -> Result<bool, Output> {
        if self.yes {
            return Ok(true);
        }
        if !std::io::stdin().is_terminal() {
            let problem =
                Problem::error("not-asked", "there is no terminal to ask on: nothing was pushed");
            return Err(Output::wrong(problem.help("add --yes to push without a question")));
        }
        say(&format!("{question} [y/N] "));
        let _ = std::io::stdout().flush();
        let mut answer = String::new();
        let _ = std::io::stdin().lock().read_line(&mut answer);
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}

/// Who pushes, where git knows nobody.
fn somebody() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "somebody".to_owned());
    format!("{user}@{}", rustix::system::uname().nodename().to_string_lossy())
}

/// An author who signs.
struct AuthorKey {
    signer: Signer<User>,
    name: String,
}

/// What a push is held against.
struct Base {
    /// The revision that counts: the newest one, or the newest that authors signed.
    entry: Option<Entry>,
    /// Who signs.
    signer: Option<AuthorKey>,
    /// Whether the same policy is pushed again: so that it counts, or as one by an author of
    /// everything, with which an instance can begin.
    again: bool,
}

impl Base {
    /// Finds it, and judges whether the author may make the change. Nothing is written before.
    async fn of(
        tool: &Tool,
        bucket: &Bucket,
        head: Option<&Entry>,
        proposal: &Proposal,
        signer: Option<AuthorKey>,
    ) -> Result<Self, Output> {
        let (Some(judge), Some(key)) = (tool.judge(), signer) else {
            return Ok(Self { entry: head.cloned(), signer: None, again: false });
        };
        let counts = counted(&judge, bucket, head).await?;
        may(&judge, counts.as_ref(), (&proposal.files, &proposal.policy), &key.name)?;
        let of_all = |name: &str| judge.authors.named(name).is_some_and(|one| one.part.is_none());
        let again = match (&counts, head) {
            (Some(counts), Some(head)) => {
                counts.entry.push != head.push || (of_all(&key.name) && !of_all(&counts.by.author))
            }
            _ => true,
        };
        Ok(Self { entry: counts.map(|counts| counts.entry), signer: Some(key), again })
    }
}

/// Shows, asks, pushes and waits.
async fn push(
    tool: &Tool,
    bucket: &Bucket,
    (head, base): (Option<Entry>, Base),
    proposal: Proposal,
    words: Words,
    (how, replicas): (&How, Option<usize>),
) -> Result<Output, Output> {
    // Who lives is known by the time that it is pushed.
    let instances = Instances::listen(bucket.client()).await.map_err(|error| failed(&error))?;
    let Proposal { files, policy, name } = proposal;
    let same = |head: &&Entry| head.policy == policy.revision().whole();
    // What is in transit may be pushed again, to force it.
    let again = how.force_handover || base.again;
    if let Some(head) = head.as_ref().filter(same).filter(|_| !again) {
        let text = format!(
            "nothing to push: revision {} already is this policy ({})\n",
            head.number,
            short(&head.policy)
        );
        return Ok(Output::data(text, YES));
    }
    let (text, before) = shown(tool, bucket, base.entry.as_ref(), (&name, &policy)).await?;
    say(&text);
    let moves = before.map(|before| Claims::default().next(&before, &policy).in_transit(&policy));
    if how.force_handover {
        let _ = Output { out: String::new(), err: FORCED.to_owned(), code: YES }.print();
    }
    let number = head.as_ref().map_or(1, |head| head.number.saturating_add(1));
    if !how.agreed(&format!("push {name} as revision {number}?"))? {
        return Err(Output {
            out: String::new(),
            err: "nothing was pushed\n".to_owned(),
            code: NO,
        });
    }
    if head.is_none() && bucket.head().await == Err(ReadError::Missing) {
        let on = bucket.create(replicas).await.map_err(|error| failed(&error))?;
        let servers = count(on, "server", "servers");
        say(&format!("created the policy bucket {} on {servers}\n", bucket.name()));
    }
    for weakness in bucket.weaknesses().await.unwrap_or_default() {
        let text = format!("warning: the policy bucket {}: {weakness}\n", bucket.name());
        let _ = Output { out: String::new(), err: text, code: YES }.print();
    }
    let signing = base.signer.as_ref().zip(tool.authors.as_ref()).map(|(key, authors)| Signing {
        signer: &key.signer,
        fleet: &authors.fleet,
        follows: base.entry.as_ref().map(Entry::to_follow),
    });
    let words = (words, rand::random());
    let pushed = bucket.push_signed(head.as_ref(), &files, words, signing).await;
    let entry = pushed.map_err(|error| failed(&line(&error.to_string())))?;
    say(&format!("pushed revision {} ({})\n", entry.number, short(&entry.policy)));
    if how.wait.is_zero() {
        return Ok(Output::data(String::new(), YES));
    }
    let (instances, serving) = status::wait(instances, &entry, how.wait).await?;
    say(&match serving {
        0 => "no instance answers, so none serves it yet\n".to_owned(),
        1 => "1 instance serves it\n".to_owned(),
        all => format!("all {all} instances serve it\n"),
    });
    if serving == 0 {
        return Ok(Output::data(String::new(), YES));
    }
    // Connections are judged by what instances have, with what counts for a while.
    let documents = bucket.all_emergencies().await.map_err(|error| unread(bucket, &error))?;
    let policy = tool.on_top(policy, &files, documents);
    let handover = reach::Handover { instances, entry, moves: moves.unwrap_or_default() };
    reach::wait(tool, bucket, policy, handover, (how.wait, head.is_some())).await
}

/// What could go wrong.
const FORCED: &str = "warning: what moves is not held back for servers that do not answer: if one of \
                      them is cut off and not gone, connections of the old owner there may write \
                      beside the new one when it is back, until they are closed; the audit says that \
                      it was forced\n";

/// What the push changes of the revision that counts, for people.
async fn shown(
    tool: &Tool,
    bucket: &Bucket,
    head: Option<&Entry>,
    (name, policy): (&str, &Policy),
) -> Result<(String, Option<Policy>), Output> {
    let Some(head) = head else {
        let services = count(policy.services().len(), "service", "services");
        let text = format!("{name} ({}): the first revision, {services}\n", policy.revision());
        return Ok((text, None));
    };
    let files = bucket.files(head).await.map_err(|error| unread(bucket, &error))?;
    match tool.validated(&files) {
        Ok(before) => {
            let old = format!("revision {}", head.number);
            let text = diff::described((&old, &before.policy), (name, policy), &tool.defaults)?;
            Ok((text, Some(before.policy)))
        }
        Err(problems) => {
            let text = format!(
                "revision {} is not valid for this version ({}), so there is nothing to compare \
                 with\n",
                head.number,
                problems.summary()
            );
            Ok((text, None))
        }
    }
}
