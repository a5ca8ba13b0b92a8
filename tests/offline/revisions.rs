//! `solewriter diff` against git revisions, in a repository made for it.

use std::fs;
use std::path::Path;
use std::process::Command;

fn git(folder: &Path, arguments: &[&str]) {
    let output = Command::new("git")
        .args(["-c", "user.name=test", "-c", "user.email=test@example.com"])
        .args(["-c", "commit.gpgsign=false", "-c", "init.defaultBranch=main"])
        .args(arguments)
        .current_dir(folder)
        // Set where a hook of git runs the tests.
        .env_remove("GIT_DIR")
        .env_remove("GIT_INDEX_FILE")
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

/// What is printed, the exit code last.
fn diff(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .arg("diff")
        .args(arguments)
        .current_dir(folder)
        // Set where a hook of git runs the tests.
        .env_remove("GIT_DIR")
        .env_remove("GIT_INDEX_FILE")
        .output()
        .unwrap();
    format!(
        "{}{}{}",
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
        output.status.code().unwrap()
    )
}

const BEFORE: &str = "[bucket.orders]\n[service.a]\nowns = [\"orders\"]\n[service.b]\n";
const AFTER: &str = "[bucket.orders]\n[service.a]\n[service.b]\nowns = [\"orders\"]\n";

/// The lines that both directions and all spellings have in common.
const TRANSFERRED: &str = "ownership transferred\n  orders: a -> b\n";

/// A repository with two commits to `team/policy`, and a third state in the working tree.
fn repository() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("team/policy");
    fs::create_dir_all(policy.join("more")).unwrap();
    git(dir.path(), &["init", "-q"]);
    fs::write(policy.join("more/a.toml"), BEFORE).unwrap();
    // None of these is a part of the policy.
    fs::write(policy.join("a.test.toml"), "not even TOML").unwrap();
    fs::write(policy.join(".hidden.toml"), "[").unwrap();
    fs::write(policy.join("README.md"), "[").unwrap();
    git(dir.path(), &["add", "-A"]);
    git(dir.path(), &["commit", "-qm", "one"]);
    git(dir.path(), &["tag", "before"]);
    fs::write(policy.join("more/a.toml"), AFTER).unwrap();
    git(dir.path(), &["commit", "-qam", "two"]);
    dir
}

#[test]
fn a_revision_is_of_the_policy_directory() {
    let repository = repository();
    let top = repository.path();
    for arguments in [
        ["before", "HEAD", "--policy", "team/policy"].as_slice(),
        &["HEAD~1", "--policy", "team/policy"],
        &["before:team/policy", "HEAD:team/policy"],
        &["before:team/policy", "team/policy"],
        &["before:team/policy", "--policy", "team/policy"],
    ] {
        let said = diff(top, arguments);
        assert!(said.contains(TRANSFERRED), "{arguments:?}: {said}");
        assert!(said.contains("was: a owns orders (more/a.toml:3:9)"), "{said}");
        assert!(said.ends_with("transfer\n0"), "{said}");
    }
    // From a folder of the repository; `policy` is what --policy names by itself.
    let said = diff(&top.join("team"), &["before"]);
    assert!(said.contains(TRANSFERRED), "{said}");
    let said = diff(&top.join("team"), &["before:./policy"]);
    assert!(said.contains(TRANSFERRED), "{said}");
    let said = diff(&top.join("team"), &["before", "--fail-on", "transfer"]);
    assert!(said.ends_with("refused because of --fail-on: there is a transfer\n1"), "{said}");
    // The same content has the same revision, wherever it was read.
    let said = diff(&top.join("team"), &["HEAD", "policy"]);
    assert!(said.ends_with("no service gains or loses anything\n0"), "{said}");
}

#[test]
fn what_is_no_revision_is_said() {
    let repository = repository();
    let top = repository.path();
    for (arguments, said) in [
        (
            ["nope", "--policy", "team/policy"].as_slice(),
            "nope is neither a directory nor a git revision",
        ),
        (&["HEAD:nope"], "HEAD:nope is neither a directory nor a git revision"),
        (&["HEAD:team/policy/README.md", "team/policy"], "not a tree object"),
        (&["HEAD", "--policy", "nope"], "there is no policy directory nope"),
        (&["HEAD^", "HEAD..main", "--policy", "team/policy"], "it is a range"),
        (&[":team/policy", "team/policy"], "the revision is empty"),
    ] {
        let found = diff(top, arguments);
        assert!(found.contains(said) && found.ends_with('2'), "{arguments:?}: {found}");
    }
}

#[test]
fn a_directory_goes_before_a_revision_of_the_same_name() {
    let repository = repository();
    let top = repository.path();
    let other = top.join("before");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("a.toml"), AFTER).unwrap();
    let said = diff(top, &["before", "team/policy"]);
    assert!(said.ends_with("no service gains or loses anything\n0"), "{said}");
    let said = diff(top, &["before:team/policy", "team/policy"]);
    assert!(said.contains(TRANSFERRED), "{said}");
}

#[cfg(unix)]
#[test]
fn a_symbolic_link_is_not_passed_over() {
    let repository = repository();
    let top = repository.path();
    std::os::unix::fs::symlink("../../b.toml", top.join("team/policy/b.toml")).unwrap();
    git(top, &["add", "-A"]);
    git(top, &["commit", "-qm", "three"]);
    let said = diff(top, &["HEAD:team/policy", "HEAD:team/policy"]);
    assert!(said.contains("error[symbolic-link]: b.toml in HEAD:team/policy"), "{said}");
}
