//! `solewriter policy pull`: a revision as a directory.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Deployment, connect_to_read, failed, head, named, unread};
use crate::cli::common::{NO, Output, YES, count};
use crate::policy_source::bucket::Bucket;
use crate::policy_source::directory::Directory;
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::policy::model::short;

/// Write the documents of a revision into a directory.
///
/// Writes nothing if a policy file in the directory differs, or is not in the revision. With --force
/// it replaces or removes such files. It leaves all other files alone.
#[derive(Args)]
pub(super) struct Pull {
    /// The directory to write.
    #[arg(value_name = "DIR", default_value = "policy")]
    dir: PathBuf,
    /// The revision: its number, or the beginning of its policy revision [default: the newest].
    #[arg(short, long, value_name = "REVISION")]
    revision: Option<String>,
    /// Replace files that differ, and remove policy files that the revision does not have.
    #[arg(long)]
    force: bool,
    /// The bucket is in the reader's own account. That is so in older deployments, which have no
    /// account POLICY.
    #[arg(long)]
    own_account: bool,
    #[command(flatten)]
    deployment: Deployment,
}

impl Pull {
    pub(super) async fn run(self) -> Result<Output, Output> {
        let tool = self.deployment.tool()?;
        let mut bucket = connect_to_read(&tool).await?;
        if self.own_account {
            bucket = Bucket::in_own_account(bucket.client().clone(), tool.bucket.clone());
        }
        let mut entry = head(&bucket).await?;
        if let Some(name) = &self.revision {
            entry = named(&bucket, entry, name).await?;
        }
        let files = bucket.files(&entry).await.map_err(|error| unread(&bucket, &error))?;
        let differ = differences(&self.dir, &files)?;
        if !differ.is_empty() && !self.force {
            let mut err = format!("error: nothing was written to {}:\n", self.dir.display());
            for (name, how) in &differ {
                err += &format!("  {name} {how}\n");
            }
            err += "--force replaces and removes them\n";
            return Err(Output { out: String::new(), err, code: NO });
        }
        let written = write(&self.dir, &files, &differ);
        written.map_err(|error| failed(&format!("{}: {error}", self.dir.display())))?;
        let found = Directory::new(&self.dir).read().map_err(Output::wrong)?;
        if !solewriter_core::policy::validate::revision(&found).is_written(&entry.policy) {
            return Err(failed(&format!(
                "{} is not revision {}: did somebody else write to it at the same time?",
                self.dir.display(),
                entry.number
            )));
        }
        let documents = count(files.len(), "file", "files");
        let out = format!(
            "{} is revision {} ({}), {documents}\n",
            self.dir.display(),
            entry.number,
            short(&entry.policy)
        );
        Ok(Output::data(out, YES))
    }
}

/// What is in the way: files that differ, and policy files too many.
fn differences(dir: &Path, files: &[SourceFile]) -> Result<Vec<(String, &'static str)>, Output> {
    let there = match fs::metadata(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(&format!("{}: {error}", dir.display()))),
        Ok(_) => match Directory::new(dir).read() {
            Ok(there) => there,
            Err(problems) if problems.iter().all(|p| p.code == "empty-policy") => Vec::new(),
            Err(problems) => return Err(Output::wrong(problems)),
        },
    };
    Ok(there
        .iter()
        .filter_map(|local| match files.iter().find(|file| file.name() == local.name()) {
            Some(file) if file.text() == local.text() => None,
            Some(_) => Some((local.name().to_string(), "differs")),
            None => Some((local.name().to_string(), "is not part of the revision")),
        })
        .collect())
}

fn write(
    dir: &Path,
    files: &[SourceFile],
    differ: &[(String, &'static str)],
) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    for file in files {
        let path = dir.join(&**file.name());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        if fs::read_to_string(&path).is_ok_and(|text| text == file.text()) {
            continue;
        }
        // Written aside and renamed: an instance that follows the directory sees no half file.
        let mut aside = path.clone().into_os_string();
        aside.push(".new");
        fs::write(&aside, file.text())?;
        fs::rename(&aside, &path)?;
    }
    for (name, _) in differ {
        if !files.iter().any(|file| **file.name() == **name) {
            fs::remove_file(dir.join(name))?;
        }
    }
    Ok(())
}
