//! `solewriter upgrade`: what to change in a deployment that an older `init` wrote.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::init;
use crate::audit::stream;
use crate::cli::common::{NO, Output, WRONG, YES, line};
use crate::config::seed_file;
use crate::passes;
use crate::policy_source::directory::Directory;
use crate::scaffold::{self, SERVER_CONFIG};
use solewriter_core::keys::{Seed, Signer, User};
use solewriter_core::policy::model::Policy;
use solewriter_core::policy::validate::validate;

/// What `init` wrote as nats-server's configuration while there were four accounts.
const FOUR_ACCOUNTS: &str = include_str!("upgrade/nats-server.conf");

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Show what to change in a deployment that an older `solewriter init` wrote.
///
/// Compares the files in the folder with those that this version writes. Shows what differs in each
/// file, and then what to do, in which order. Changes nothing. With --write it makes the missing
/// seeds, and writes each new file beside the old one, as NAME.new. It never overwrites a file.
///
/// Exit code: 0 if there is nothing to change, 1 if there is, 2 if `init` did not write the folder.
#[derive(Args)]
pub struct Upgrade {
    /// The deployment's folder.
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Write the new files beside the old ones.
    #[arg(long)]
    write: bool,
}

/// One file of the deployment that should be another.
struct Change {
    /// Its name in the folder.
    name: &'static str,
    /// What differs, for people.
    why: String,
    /// What it should be.
    text: String,
}

/// What a folder lacks.
struct Plan {
    dir: PathBuf,
    changes: Vec<Change>,
    /// The seed of the audit admin, to be made.
    seed: Option<Seed<User>>,
    /// Notes about files that need no change.
    notes: Vec<String>,
    /// Whether the policy is in a bucket.
    bucket: bool,
    /// The policy, where it is in a directory and valid: the server's configuration has lines for its
    /// streams.
    policy: Option<Policy>,
    /// Whether accounts are new.
    moves: bool,
}

impl Upgrade {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        self.output().unwrap_or_else(|output| output).print()
    }

    fn output(&self) -> Result<Output, Output> {
        let dir = std::path::absolute(&self.dir).map_err(|e| wrong(&self.dir, &e))?;
        let plan = Plan::of(dir)?;
        if plan.changes.is_empty() && plan.seed.is_none() {
            let notes: String = plan.notes.iter().fold(String::new(), |text, n| text + n + "\n");
            return Ok(Output::data(format!("{notes}nothing to change\n"), YES));
        }
        let mut out = plan.said();
        if self.write {
            for path in plan.write()? {
                let _ = writeln!(out, "wrote {}", path.display());
            }
            out.push('\n');
        }
        out += &plan.steps(self.write);
        Ok(Output::data(out, NO))
    }
}

impl Plan {
    fn of(dir: PathBuf) -> Result<Self, Output> {
        let server = read(&dir, "nats-server.conf")?;
        let values = read(&dir, "deployment.conf")?;
        let settings = read(&dir, "solewriter.toml")?;
        let table: toml::Table = settings
            .parse()
            .map_err(|e: toml::de::Error| wrong(&dir.join("solewriter.toml"), &e.message()))?;
        let set = |name: &str, key: &str| table.get(name).is_some_and(|t| t.get(key).is_some());
        if set("operator", "accounts") {
            return Err(Output::cannot(&format!(
                "{} is in operator mode, and this command compares lines of nats-server's \
                 configuration: `solewriter operator plan` prints what to change in the accounts' JWTs",
                dir.display()
            )));
        }
        let directory = table.get("policy").and_then(|t| t.get("directory")?.as_str());
        let policy = directory.and_then(|policy| {
            let files = Directory::new(dir.join(policy)).read().ok()?;
            Some(validate(&files).ok()?.policy)
        });
        let mut plan = Self {
            changes: Vec::new(),
            seed: None,
            notes: Vec::new(),
            bucket: set("policy", "bucket"),
            policy,
            moves: false,
            dir,
        };
        plan.server(&server);
        if !values.lines().any(|line| line.trim_start().starts_with("AUDIT_ADMIN_KEY:")) {
            let key = plan.audit_admin()?;
            plan.changes.push(Change {
                name: "deployment.conf",
                why: "it has no AUDIT_ADMIN_KEY, the public key of the audit streams' admin"
                    .to_owned(),
                text: format!("{}\nAUDIT_ADMIN_KEY: {key}\n", values.trim_end()),
            });
        }
        if !set("audit_admin", "nkey_seed") {
            plan.changes.push(Change {
                name: "solewriter.toml",
                why: "it has no [audit_admin] nkey_seed, with which the tools manage the audit \
                      streams"
                    .to_owned(),
                text: format!(
                    "{}\n\n[audit_admin]\nnkey_seed = \"keys/audit-admin.nk\"\n",
                    settings.trim_end()
                ),
            });
        }
        let [events, services] = stream::documents();
        for (name, text) in [
            ("audit-stream.json", events),
            ("audit-services-stream.json", services),
            ("schema/policy.schema.json", crate::schema::policy()),
            ("schema/settings.schema.json", crate::schema::settings()),
        ] {
            let there = read(&plan.dir, name).ok();
            // What is new goes beside what is there.
            let is_new = there.is_none() && name == "audit-services-stream.json";
            if is_new || there.is_some_and(|there| there != text) {
                let why = "this version writes it differently".to_owned();
                plan.changes.push(Change { name, why, text });
            }
        }
        Ok(plan)
    }

    /// nats-server's configuration, which people change: what they changed is told.
    fn server(&mut self, text: &str) {
        let wanted = passes::in_config(SERVER_CONFIG, self.policy.as_ref());
        if text == wanted {
            return;
        }
        let old = changed(FOUR_ACCOUNTS, text);
        let new = changed(&wanted, text);
        if new.len() < old.len() {
            let with_lines = passes::in_config(text, self.policy.as_ref());
            let missing = changed(text, &with_lines);
            let own = changed(&wanted, &with_lines);
            if !missing.is_empty() {
                let why = format!(
                    "it lacks what streams, consumers and object stores need to pass between STATE \
                     and APP\n{}",
                    shown(&missing)
                );
                self.changes.push(Change { name: "nats-server.conf", why, text: with_lines });
            }
            if !own.is_empty() {
                self.notes.push(format!(
                    "nats-server.conf: as this version writes it, except for your own changes:\n{}",
                    shown(&own)
                ));
            }
            return;
        }
        let mut why = "it has four accounts, and now there are eight:\n\
             - POLICY gets the policy's bucket, and PUBLISH the publisher. Both were in AUTH. In an \
             account\n  with JetStream, anybody with the callout's seed can write that bucket, \
             and anybody with\n  the publisher's seed can delete it, through a reply subject;\n\
             - AUDIT gets the audit streams from STATE, so that reports of services cannot push \
             out\n  decisions of solewriter;\n\
             - MONITOR gets the system user from SYS, because a user of the system account can\n  \
             purge any other account"
            .to_owned();
        if !old.is_empty() {
            let _ = write!(
                why,
                "\nyour file has your own changes, which are not in the new file: copy them to \
                 it\n{}",
                shown(&old)
            );
        }
        self.moves = true;
        self.changes.push(Change { name: "nats-server.conf", why, text: wanted });
    }

    /// The public key of the audit streams' admin, who may have to be made.
    fn audit_admin(&mut self) -> Result<String, Output> {
        let path = self.seed_file();
        let seed = if path.symlink_metadata().is_ok() {
            seed_file("keys/audit-admin.nk", &path).map_err(Output::wrong)?
        } else {
            Seed::<User>::generate()
        };
        let key = Signer::new(&seed).map_err(|e| wrong(&path, &e))?.public().to_string();
        if path.symlink_metadata().is_err() {
            self.seed = Some(seed);
        }
        Ok(key)
    }

    fn seed_file(&self) -> PathBuf {
        self.dir.join("keys/audit-admin.nk")
    }

    /// What differs, file by file.
    fn said(&self) -> String {
        let mut out = String::new();
        for Change { name, why, .. } in &self.changes {
            let _ = writeln!(out, "{name}: {why}\n");
        }
        if self.seed.is_some() {
            let _ = writeln!(out, "keys/audit-admin.nk: it does not exist\n");
        }
        for note in &self.notes {
            let _ = writeln!(out, "{note}\n");
        }
        out
    }

    /// Writes what is new, and nothing over anything.
    fn write(&self) -> Result<Vec<PathBuf>, Output> {
        let mut written = Vec::new();
        for Change { name, text, .. } in &self.changes {
            let path = self.dir.join(format!("{name}.new"));
            if path.symlink_metadata().is_ok() {
                return Err(failed(&path, &"it exists already: move it away"));
            }
            written.push((path, text));
        }
        // First of all the seed: the files name its public key.
        if let Some(seed) = &self.seed {
            let path = self.seed_file();
            let text = zeroize::Zeroizing::new(format!("{}\n", seed.expose()));
            scaffold::write_secret(&path, &text).map_err(|e| failed(&path, &e))?;
        }
        for (path, text) in &written {
            scaffold::write_plain(path, text).map_err(|e| failed(path, &e))?;
        }
        let seed = self.seed.as_ref().map(|_| self.seed_file());
        Ok(seed.into_iter().chain(written.into_iter().map(|(path, _)| path)).collect())
    }

    /// What to do, in order.
    fn steps(&self, written: bool) -> String {
        let quoted = |name: &str| init::quoted(&self.dir.join(name));
        let settings = quoted("solewriter.toml");
        let mut steps = Vec::new();
        if self.bucket {
            steps.push(format!(
                "While the servers still run with the old configuration, fetch the policy from \
                 its bucket:\n\
                 solewriter policy pull {} --own-account -c {settings}",
                quoted("policy-of-the-bucket")
            ));
        }
        if !written {
            steps.push(format!(
                "Write the new files beside the old ones:\nsolewriter upgrade {} --write",
                init::quoted(&self.dir)
            ));
        }
        let mut moves = String::new();
        for Change { name, .. } in &self.changes {
            let (old, new) = (quoted(&format!("{name}.old")), quoted(&format!("{name}.new")));
            let name = quoted(name);
            let _ = write!(moves, "\nmv {name} {old} && mv {new} {name}");
        }
        let reloads = self.changes.iter().any(|change| change.name == "nats-server.conf");
        if !self.changes.is_empty() {
            steps.push(format!("Replace the old files by the new ones:{moves}"));
        }
        if reloads && !self.moves {
            steps.push(
                "Copy nats-server.conf to each machine that runs a nats-server, and reload the \
                 servers, one\nafter the other (nats-server --signal reload). Their clients connect \
                 again by themselves."
                    .to_owned(),
            );
        }
        if self.moves {
            steps.push(
                "Copy nats-server.conf, and AUDIT_ADMIN_KEY in deployment.conf, to each machine \
                 that\nruns a nats-server, and restart every server: a reload does not take a \
                 change of\nauth_callout. Open connections come back by themselves. Until step 6 \
                 is done, instances\nof `serve` go on with the policy that they have."
                    .to_owned(),
            );
            if self.bucket {
                steps.push(format!(
                    "Push the policy to its bucket in the new account:\n\
                     solewriter policy push {} -c {settings} --wait 0s --yes -m 'the bucket moves \
                     to POLICY'",
                    quoted("policy-of-the-bucket")
                ));
            }
            steps.push(format!(
                "Create the audit streams in their new account:\n\
                 solewriter buckets apply -c {settings}"
            ));
        }
        steps.push(format!(
            "Start this version of `solewriter serve` instead of the old one, instance by \
             instance:\n\
             solewriter serve -c {settings}"
        ));
        steps.push(format!("Check the deployment:\nsolewriter doctor -c {settings}"));
        if self.moves {
            steps.push(
                "Left over, until you remove it: the stream AUDIT_EVENTS in STATE, with the \
                 events\nuntil now. Nothing is added to it any more (the admin may delete it)"
                    .to_owned()
                    + if self.bucket {
                        ";\nand the old bucket's files, in the folder AUTH of JETSTREAM_DIR"
                    } else {
                        ""
                    },
            );
        }
        let mut out = String::from("What to do, in this order:\n");
        let serve = steps.iter().position(|step| step.starts_with("Start this version"));
        let serve = serve.map_or(0, |at| at.saturating_add(1));
        for (number, step) in (1..).zip(steps) {
            let step = step.replace("Until step 6", &format!("Until step {serve}"));
            let _ = writeln!(out, "\n{number:2}. {}", step.replace('\n', "\n    "));
        }
        out
    }
}

/// The lines that one text has and the other has not, marked with `+` for the second's.
fn changed(base: &str, text: &str) -> Vec<String> {
    let lines = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.trim().to_owned());
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
    };
    let mut left = lines(base);
    let mut found = Vec::new();
    for own in lines(text) {
        match left.iter().position(|line| *line == own) {
            Some(at) => drop(left.remove(at)),
            None => found.push(format!("+ {own}")),
        }
    }
    found.extend(left.into_iter().map(|line| format!("- {line}")));
    found
}

/// A few of them.
fn shown(changes: &[String]) -> String {
    const MOST: usize = 40;
    let mut lines: Vec<String> =
        changes.iter().take(MOST).map(|change| format!("  {}", line(change))).collect();
    if changes.len() > MOST {
        lines.push(format!("  and {} more", changes.len() - MOST));
    }
    lines.join("\n")
}

fn read(dir: &Path, name: &str) -> Result<String, Output> {
    let path = dir.join(name);
    let read = || -> std::io::Result<String> {
        let file = std::fs::File::open(&path)?;
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::other("it is no file"));
        }
        let mut text = String::new();
        file.take(MAX_FILE.saturating_add(1)).read_to_string(&mut text)?;
        if u64::try_from(text.len()).is_ok_and(|length| length > MAX_FILE) {
            return Err(std::io::Error::other("it is longer than 1 MiB"));
        }
        Ok(text)
    };
    read().map_err(|error| {
        let mut output = wrong(&path, &error);
        output.err += "help: name the folder that `solewriter init` wrote\n";
        output
    })
}

fn wrong(path: &Path, error: &dyn std::fmt::Display) -> Output {
    let err = format!("error: {} cannot be read: {error}\n", path.display());
    Output { out: String::new(), err, code: WRONG }
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> Output {
    let err = format!("error: {} cannot be written: {error}\n", path.display());
    Output { out: String::new(), err, code: WRONG }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_changed_is_told_and_nothing_else() {
        assert_eq!(changed(FOUR_ACCOUNTS, FOUR_ACCOUNTS), [""; 0]);
        let own = FOUR_ACCOUNTS.replace("  timeout: 10\n", "  timeout: 20\n\n  # ours\n");
        assert_eq!(changed(FOUR_ACCOUNTS, &own), ["+ timeout: 20", "- timeout: 10"]);
        // Whichever it was made from is nearer.
        let own = SERVER_CONFIG.replace("  timeout: 10\n", "  timeout: 20\n");
        assert!(changed(SERVER_CONFIG, &own).len() < changed(FOUR_ACCOUNTS, &own).len());
    }

    #[test]
    fn a_long_list_is_cut_and_printed_as_text() {
        let many: Vec<String> = (0..50).map(|n| format!("+ {n}\u{1b}[31m")).collect();
        let text = shown(&many);
        assert!(text.ends_with("\n  and 10 more") && !text.contains('\u{1b}'), "{text:?}");
    }
}
