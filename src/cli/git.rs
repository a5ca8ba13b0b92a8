//! A policy directory as it is in a git revision, read with the `git` program.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::policy_source::directory::{Kind, MAX_BYTES, MAX_FILES};
use solewriter_core::diagnostics::{Collector, Problem, Problems, SourceFile};

/// A file of a tree.
struct Entry {
    name: String,
    object: String,
}

/// Reads the policy files of `tree`, written `REVISION:PATH` as git has it, in the repository
/// that `folder` belongs to. Blocks.
///
/// # Errors
/// A revision or path that is none, and whatever git says.
pub(super) fn read(folder: &Path, tree: &str) -> Result<Vec<SourceFile>, Problems> {
    check(tree)?;
    let object = git(folder, &["rev-parse", "--verify", "--quiet", tree]).map_err(|error| {
        // As it was asked for.
        let tree = tree.trim_end_matches(":./");
        let said = if error.is_empty() { String::new() } else { format!(" ({error})") };
        let message = format!("{tree} is neither a directory nor a git revision of one{said}");
        Problem::error("no-revision", message)
            .help("write REVISION, or REVISION:PATH with the path from the top of the repository")
    })?;
    let object = String::from_utf8_lossy(&object).trim().to_owned();
    let list = git(folder, &["ls-tree", "-r", "-z", "-l", "--full-tree", &object])
        .map_err(|error| Problem::error("git", format!("cannot list {tree}: {error}")))?;
    let problems = Collector::new();
    let entries = entries(tree, &list, &problems);
    if entries.is_empty() && !problems.has_errors() {
        problems.push(Problem::error("empty-policy", format!("no policy file in {tree}")));
    }
    if problems.has_errors() {
        return Err(problems.finish());
    }
    let files = contents(folder, entries)
        .map_err(|error| Problem::error("git", format!("cannot read {tree}: {error}")))?;
    Ok(files)
}

/// Who git says that commits here are by: `Lea <lea@example.com>`. Blocks.
pub(super) fn author() -> Option<String> {
    let ident = git(Path::new("."), &["var", "GIT_AUTHOR_IDENT"]).ok()?;
    let ident = String::from_utf8(ident).ok()?;
    let (author, _) = ident.rsplit_once('>')?;
    Some(format!("{author}>"))
}

/// Refuses what git could take for an option, a range, or something else than a revision.
fn check(tree: &str) -> Result<(), Problem> {
    let (revision, _) = tree.split_once(':').unwrap_or((tree, ""));
    let reason = if revision.is_empty() {
        "the revision is empty"
    } else if revision.starts_with(['-', '^']) {
        "it begins with `-` or `^`"
    } else if revision.contains("..") {
        "it is a range; give the two ends as OLD and NEW"
    } else if tree.contains(|c: char| c.is_whitespace() || c.is_control()) {
        "it has whitespace or a control character"
    } else {
        return Ok(());
    };
    Err(Problem::error("bad-revision", format!("{revision:?} is not a git revision: {reason}")))
}

/// The same choice of files as [`crate::policy_source::directory::Directory`] makes.
fn entries(tree: &str, list: &[u8], problems: &Collector) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut bytes: u64 = 0;
    for line in list.split(|byte| *byte == 0).filter(|line| !line.is_empty()) {
        // MODE SP TYPE SP OBJECT SP SIZE TAB NAME
        let line = String::from_utf8_lossy(line);
        let Some((head, name)) = line.split_once('\t') else { continue };
        let head: Vec<&str> = head.split_ascii_whitespace().collect();
        let [mode, "blob", object, size] = *head.as_slice() else { continue };
        if Kind::of(name) != Some(Kind::Policy) || name.split('/').any(|n| n.starts_with('.')) {
            continue;
        }
        if mode == "120000" {
            let message = format!("{name} in {tree} is a symbolic link, which git does not follow");
            problems.push(
                Problem::error("symbolic-link", message)
                    .help("check the revision out (`git worktree add`) and name the folder"),
            );
        }
        bytes = bytes.saturating_add(size.parse().unwrap_or(u64::MAX));
        entries.push(Entry { name: name.to_owned(), object: object.to_owned() });
    }
    if bytes > MAX_BYTES || entries.len() > MAX_FILES {
        let message = format!("{tree} has too many or too large files for a policy");
        problems.push(Problem::error("too-large", message));
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

/// The texts of the files, by one process.
fn contents(folder: &Path, entries: Vec<Entry>) -> io::Result<Vec<SourceFile>> {
    let mut child = Command::new("git")
        .current_dir(folder)
        .args(["cat-file", "--batch"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let (Some(mut input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("git has no standard input or output"));
    };
    let objects: String = entries.iter().map(|entry| format!("{}\n", entry.object)).collect();
    let mut bytes = Vec::new();
    // Both at a time: git answers while it is still being asked.
    let read = std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(objects.as_bytes()));
        output.read_to_end(&mut bytes)
    });
    child.wait()?;
    read?;
    let mut rest = bytes.as_slice();
    let mut files = Vec::with_capacity(entries.len());
    for Entry { name, .. } in entries {
        let content = take(&mut rest)
            .ok_or_else(|| io::Error::other(format!("git did not return all of {name}")))?;
        let text = String::from_utf8(content.to_vec())
            .map_err(|_| io::Error::other(format!("{name} is not UTF-8 text")))?;
        files.push(SourceFile::new(name, text));
    }
    Ok(files)
}

/// One answer of `git cat-file --batch`: OBJECT SP TYPE SP SIZE LF, the content, LF.
fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let head = std::str::from_utf8(rest.get(..end)?).ok()?;
    let size: usize = head.rsplit_once(' ')?.1.parse().ok()?;
    let start = end + 1;
    let content = rest.get(start..start.checked_add(size)?)?;
    *rest = rest.get(start + size + 1..)?;
    Some(content)
}

/// Runs git and gives what it printed, or what it complained of.
fn git(folder: &Path, arguments: &[&str]) -> Result<Vec<u8>, String> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("git cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().next().unwrap_or_default().trim().to_owned())
}
