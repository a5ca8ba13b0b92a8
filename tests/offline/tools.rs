//! The commands that draw and that help at the keyboard, as a shell sees them.

use std::process::Command;

/// Exit code, stdout, stderr.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_solewriter")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn fixture(name: &str) -> String {
    let root = super::repository().join("tests/fixtures");
    root.join(name).join("policy").display().to_string()
}

/// The subcommands that the help lists.
fn subcommands() -> Vec<String> {
    let (_, help, _) = run(&["--help"]);
    let list = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let name = |line: &str| line.strip_prefix("  ")?.split(' ').next().map(ToOwned::to_owned);
    list.lines().filter_map(name).filter(|name| !name.is_empty() && name != "help").collect()
}

#[test]
fn check_says_where_two_may_write_what_moves() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy");
    std::fs::create_dir(&policy).unwrap();
    std::fs::write(policy.join("p.toml"), "[service.a]\npublishes = [\"x\"]\n").unwrap();
    let settings = |more: &str| {
        let text = format!("[nats]\nservers = [\"nats://127.0.0.1:4222\"]\n{more}");
        std::fs::write(dir.path().join("solewriter.toml"), text).unwrap();
        let (code, _, err) = run(&["check", &policy.display().to_string()]);
        assert_eq!(code, 0, "{err}");
        err
    };
    let bucket = "[policy]\nbucket = \"p\"\n";
    let said = settings(bucket);
    assert!(said.contains("without [system] nkey_seed, both may write what moves"), "{said}");
    let system = "[system]\nnkey_seed = \"system.nk\"\n";
    assert!(!settings(&format!("{bucket}{system}")).contains("what moves"));
    let directory = "[policy]\ndirectory = \"policy\"\n";
    let said = settings(&format!("{directory}{system}"));
    assert!(said.contains("without [policy] keep, a restart of `serve`"), "{said}");
    let kept = format!("{directory}keep = \"kept\"\n{system}");
    assert!(!settings(&kept).contains("moves"));
}

#[test]
fn a_map_of_a_policy_that_holds() {
    for (format, start) in [
        ("mermaid", "flowchart LR\n"),
        ("dot", "digraph ownership {\n"),
        ("html", "<!doctype html>\n"),
        ("json", "{\n  \"format\": 1,\n"),
    ] {
        let (code, out, err) = run(&["map", &fixture("a-whole-policy"), "--format", format]);
        assert!(out.starts_with(start), "{format}: {out}");
        assert_eq!((code, err.as_str()), (0, ""), "{format}");
    }
}

#[test]
fn a_map_of_a_policy_that_does_not_hold() {
    let (code, out, err) = run(&["map", &fixture("two-owners-of-a-bucket")]);
    assert_eq!(code, 1);
    assert!(out.contains(" error\n"), "{out}");
    assert!(err.starts_with("error[two-owners]: "), "{err}");
    // Not even TOML: there is nothing to draw, and it says why.
    let (code, out, err) = run(&["map", &fixture("not-toml")]);
    assert_eq!(code, 1);
    assert!(out.starts_with("flowchart LR\n") && err.contains("error[toml-syntax]"), "{out}{err}");
}

#[test]
fn a_wrong_question_about_the_map() {
    let policy = fixture("a-whole-policy");
    for (arguments, said) in [
        (&["map", "/nowhere"][..], "error: there is no policy directory /nowhere\n"),
        (&["map", &policy, "--focus", "x"], "error: nothing in the policy is called \"x\"\n"),
        (
            &["map", &policy, "--focus", "ordrs"],
            "error: nothing in the policy is called \"ordrs\"; did you mean `orders`?\n",
        ),
        (&["map", &policy, "--format", "svg"], "error: invalid value 'svg'"),
        (&["map", &policy, "--format", "html", "--focus", "orders"], "error: --focus is for"),
    ] {
        let (code, out, err) = run(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        assert!(err.starts_with(said), "{err}");
    }
}

/// Whoever may write a file of a policy chooses its name and its words, for others to look at.
#[cfg(unix)]
#[test]
fn what_others_wrote_is_shown_and_does_nothing() {
    let hostile = r"e\u001b[31mvil\n\u0085\u202e\u2066\u2028\u200b\ufeff\U000e0041.";
    let raw = "e\u{1b}[31mvil\u{85}\u{202e}\u{2066}\u{2028}\u{200b}\u{feff}\u{e0041}.";
    let folder = tempfile::tempdir().unwrap();
    let (good, bad, worse) =
        (folder.path().join("good"), folder.path().join("bad"), folder.path().join("worse"));
    for folder in [&good, &bad, &worse] {
        std::fs::create_dir(folder).unwrap();
    }
    let text = format!(
        "# {}\n[service.orders]\ndescription = \"{hostile}\"\ndisabled = \"{hostile}\"\n\
         owns = [\"orders\"]\n[bucket.orders]\ndescription = \"{hostile}\"\n",
        raw.replace('\u{1b}', "").replace('\u{85}', "\u{2029}"),
    );
    std::fs::write(good.join("a.toml"), &text).unwrap();
    let text = format!(
        "{text}[service.\"{hostile}\"]\n\"{hostile}\" = 1\npublishes = [\"{hostile}\"]\n\
         sources = [\"{hostile}\"]\nlifetime = \"{hostile}\"\n"
    );
    std::fs::write(bad.join("a.toml"), text).unwrap();
    std::fs::write(worse.join(format!("{raw}\n.toml")), "[service.a]\n").unwrap();
    let dirt = |text: &str| -> Vec<char> {
        let bad = |c: &char| {
            *c != '\n'
                && (c.is_control()
                    || "\u{202e}\u{2066}\u{2028}\u{2029}\u{200b}\u{feff}\u{e0041}".contains(*c))
        };
        text.chars().filter(bad).collect()
    };
    let [good, bad, worse] = [&good, &bad, &worse].map(|folder| folder.to_str().unwrap());
    for (arguments, shows) in [
        (&["check", bad][..], true),
        (&["check", "--format", "json", bad], true),
        (&["check", worse], true),
        (&["explain", "orders", "--policy", good], true),
        (&["explain", "orders", "--policy", good, "--format", "json"], false),
        (&["who-can", "write", "orders", "--policy", good], true),
        (&["diff", "--policy", good, bad], true),
        (&["map", good], false),
        (&["map", bad, "--format", "html"], true),
        (&["map", bad, "--format", "dot"], false),
        (&["map", bad, "--format", "json"], true),
        (&["policy", "status", "-c", raw], false),
        (&["explain", raw, "--policy", good], false),
    ] {
        let (_, out, err) = run(arguments);
        for text in [&out, &err] {
            assert!(dirt(text).is_empty(), "{arguments:?}: {:?} in {text}", dirt(text));
        }
        let seen = format!("{out}{err}");
        assert!(!shows || seen.contains("vil"), "{arguments:?}: {seen}");
        assert!(!seen.is_empty(), "{arguments:?}");
    }
}

#[test]
fn completions_know_every_command() {
    let subcommands = subcommands();
    assert!(subcommands.iter().any(|name| name == "map"), "{subcommands:?}");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, out, _) = run(&["completions", shell]);
        assert_eq!(code, 0);
        for name in &subcommands {
            assert!(out.contains(name.as_str()), "{shell} does not know {name}");
        }
    }
    assert_eq!(run(&["completions", "tcsh"]).0, 2);
}

/// The help of a command and of each of its subcommands.
fn helps(command: &[&str], found: &mut Vec<(String, String)>) {
    let (code, help, _) = run(&[command, &["--help"]].concat());
    assert_eq!(code, 0, "{command:?}");
    if let Some((_, rest)) = help.split_once("Commands:\n") {
        let list = rest.split_once("\n\n").unwrap().0;
        for name in list.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()) {
            if !name.is_empty() && name != "help" {
                helps(&[command, &[name]].concat(), found);
            }
        }
    }
    found.push((command.join(" "), help));
}

/// Nobody scrolls through 45 settings to see what a command does.
#[test]
fn help_is_short_and_settings_have_a_list_of_their_own() {
    let mut found = Vec::new();
    helps(&[], &mut found);
    assert!(found.iter().any(|(command, _)| command == "policy push"), "{found:?}");
    let (code, list, _) = run(&["settings"]);
    assert_eq!(code, 0);
    for setting in solewriter::config::SETTINGS {
        let flag = format!("--{} ", setting.flag());
        let line = list.lines().find(|line| line.trim_start().starts_with(&flag));
        assert!(line.is_some_and(|line| line.ends_with(&setting.meaning())), "{flag}: {list}");
    }
    for (command, help) in found {
        assert!(help.lines().count() <= 100, "{command}:\n{help}");
        assert!(!help.contains("--issuer-seed"), "{command}:\n{help}");
        if help.contains("--config <FILE>")
            && !["explain", "who-can", "diff", "map"].contains(&&*command)
        {
            assert!(help.replace("\n          ", " ").contains("`solewriter settings`"), "{help}");
        }
    }
}

/// Flags that one command has and a person tries on another.
#[test]
fn flags_have_the_same_names_everywhere() {
    let policy = fixture("a-whole-policy");
    for command in ["check", "map"] {
        let by_argument = run(&[command, &policy]);
        assert_eq!(by_argument.0, 0, "{command}: {}", by_argument.2);
        assert_eq!(run(&[command, "-p", &policy]), by_argument, "{command}");
        assert_eq!(run(&[command, "-p", &policy, &policy]).0, 2, "{command}");
    }
    for arguments in [
        &["violations", "--log", "/nowhere/a", "--service-name", "a b"][..],
        &["violations", "--log", "/nowhere/a", "--service", "a b"],
        &["violations", "--log", "/nowhere/a", "--nats-tls-ca", "/nowhere/b", "--service", "a b"],
        &["audit", "tail", "--format", "json", "-c", "/nowhere/c"],
        &["audit", "tail", "--json", "-c", "/nowhere/c"],
        &["prove", "-y", "--wait", "2m", "-c", "/nowhere/c"],
        &["prove", "--yes", "--wait", "60", "-c", "/nowhere/c"],
        &["sessions", "close", "-y", "orders", "-c", "/nowhere/c"],
    ] {
        let (code, _, err) = run(arguments);
        assert!(code != 0 && !err.contains("Usage:"), "{arguments:?}: {err}");
    }
    let (_, _, err) = run(&["prove", "--wait", "18446744073709551615"]);
    assert!(err.contains("write at most 24h"), "{err}");
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("man1");
    let (code, out, err) = run(&["man", &target.display().to_string()]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""));
    for name in subcommands() {
        let page = target.join(format!("solewriter-{name}.1"));
        let text = std::fs::read_to_string(&page).unwrap();
        assert!(text.contains(&format!(".TH solewriter-{name} 1")), "{name}");
        let escaped = name.replace('-', "\\-");
        assert!(text.contains(&format!("\\fBsolewriter {escaped}\\fR")), "{name}: {text}");
    }
    let (_, own, _) = run(&["man"]);
    assert_eq!(own, std::fs::read_to_string(target.join("solewriter.1")).unwrap());
}

#[test]
fn a_new_key_is_its_owners_alone_and_is_never_overwritten() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("orders.nk");
    let path = file.display().to_string();
    let (code, public, err) = run(&["key", "new", &path]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(public.starts_with('U') && public.trim().len() == 56, "{public}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(run(&["key", "public", &path]), (0, public, String::new()));
    let seed = std::fs::read_to_string(&file).unwrap();
    let (code, out, err) = run(&["key", "new", &path]);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), seed);
    assert_eq!(run(&["key", "public", "nowhere.nk"]).0, 1);
    let issuer = dir.path().join("issuer.nk").display().to_string();
    let (code, public, err) = run(&["key", "new", "--kind", "issuer", &issuer]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(public.starts_with('A') && public.trim().len() == 56, "{public}");
    assert_eq!(run(&["key", "public", &issuer]), (0, public, String::new()));
}
