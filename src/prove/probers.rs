//! The two services that `prove` acts as: their keys, and their place in the policy.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::config::{Tool, seed_file};
use crate::nats::raw_client::RawLogin;
use crate::policy_source::directory::Directory;
use crate::prove::target::MADE_BY;
use crate::prove::testbed::Testbed;
use solewriter_core::diagnostics::render::Style;
use solewriter_core::diagnostics::{Problems, Severity, SourceFile};
use solewriter_core::grant::{Defaults, Grant};
use solewriter_core::keys::{KeyError, Seed, Signer, User};
use solewriter_core::policy::validate::validate_for;

/// Where the probers' policy is.
#[derive(Clone, Debug)]
pub enum Place {
    /// In this folder, as a file that comes and goes.
    Folder(PathBuf),
    /// In force already; the keys are in this folder.
    Prepared(PathBuf),
}

/// The two services.
pub struct Probers {
    name: String,
    attacker: Seed<User>,
    victim: Seed<User>,
}

/// The first line of the probers' policy, by which a file of ours can be told.
const MARK: &str = "# Made by `solewriter prove`, which removes it again.";

impl Probers {
    /// With new keys, or those that were prepared.
    ///
    /// # Errors
    /// In words, when a prepared key cannot be read.
    pub fn new(name: &str, place: &Place) -> Result<Self, String> {
        let (attacker, victim) = match place {
            Place::Folder(_) => (Seed::generate(), Seed::generate()),
            Place::Prepared(dir) => (read_seed(dir, "a.nk")?, read_seed(dir, "b.nk")?),
        };
        Ok(Self { name: name.to_owned(), attacker, victim })
    }

    /// Writes keys and policy for later. Gives what to do with them.
    ///
    /// # Errors
    /// In words, when a file cannot be written.
    pub fn prepare(name: &str, dir: &Path) -> Result<String, String> {
        let probers = Self::new(name, &Place::Folder(dir.to_owned()))?;
        let policy = format!("{name}.toml");
        std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        create(&dir.join("a.nk"), probers.attacker.expose(), true)?;
        create(&dir.join("b.nk"), probers.victim.expose(), true)?;
        create(&dir.join(&policy), &probers.policy(true).map_err(|e| e.to_string())?, false)?;
        Ok(format!(
            "Wrote {}.\nPut {policy} into the policy, and when it is in force:\n\n  solewriter prove \
             --prepared {} --yes\n\nThen take it out of the policy, and delete the folder.\n",
            dir.display(),
            dir.display()
        ))
    }

    /// How the one that attacks logs in, and the one that is attacked: in operator mode with a JWT that
    /// leads to the callout, if the settings have a key that signs one.
    ///
    /// # Errors
    /// In words, when a seed is none.
    pub fn logins(&self, tool: &Tool) -> Result<(RawLogin, RawLogin), String> {
        let login = |seed: &Seed<User>| {
            let seed = Seed::parse(seed.expose()).map_err(|error| error.to_string())?;
            Ok::<_, String>(RawLogin::of(&tool.way_in(seed)))
        };
        Ok((login(&self.attacker)?, login(&self.victim)?))
    }

    /// Names and public keys.
    ///
    /// # Errors
    /// In words, when a seed is none.
    pub fn public(&self) -> Result<Vec<(String, String)>, String> {
        let key = |seed: &Seed<User>| Ok(Signer::new(seed)?.public().to_string());
        let keys: Result<Vec<String>, KeyError> =
            [key(&self.attacker), key(&self.victim)].into_iter().collect();
        let keys = keys.map_err(|error| error.to_string())?;
        let names = ["a", "b"].map(|letter| format!("{}-{letter}", self.name));
        Ok(names.into_iter().zip(keys).collect())
    }

    /// Their part of the policy, with streams or without.
    fn policy(&self, streams: bool) -> Result<String, KeyError> {
        let name = &self.name;
        let attacker = Signer::new(&self.attacker)?.public().to_string();
        let victim = Signer::new(&self.victim)?.public().to_string();
        let with_streams = |text: String| if streams { text } else { String::new() };
        let declared = with_streams(format!(
            r#"
# The streams may be left out, with the object store and what the services have of them. Then no
# attack on them is tried.
[stream.log-{name}-a]
description = "{MADE_BY}"
subjects = ["attack.log.{name}-a.>"]

[stream.log-{name}-a.consumer.durable]

[stream.log-{name}-b]
description = "{MADE_BY}"
subjects = ["attack.log.{name}-b.>"]

[stream.log-{name}-b.consumer.durable]

[stream.work-{name}-b]
description = "{MADE_BY}"
subjects = ["attack.work.{name}-b.>"]
retention = "workqueue"

[stream.work-{name}-b.consumer.durable]

[stream.both-{name}-b]
description = "{MADE_BY}"
subjects = ["attack.both.{name}-b.>"]
duplicate_window = "100ms"

[store.{name}-b]
description = "{MADE_BY}"
"#
        ));
        let attackers = with_streams(format!(
            r#"publishes = ["attack.log.{name}-a.>", "attack.both.{name}-b.mine.>"]
consumes = ["log-{name}-a/durable"]
replays = ["log-{name}-b/attack.log.{name}-b.open.>"]
"#
        ));
        let victims = with_streams(format!(
            r#"publishes = ["attack.log.{name}-b.>", "attack.work.{name}-b.>", "attack.both.{name}-b.theirs.>"]
consumes = ["log-{name}-b/durable", "work-{name}-b/durable"]
found_as = ["{name}-b"]
"#
        ));
        let store = with_streams(format!(", \"store:{name}-b\""));
        Ok(format!(
            r#"{MARK}

[bucket.{name}-a]
description = "{MADE_BY}"

[bucket.{name}-b]
description = "{MADE_BY}"
part_owners = true
rollup = false
duplicate_window = "100ms"
{declared}
[service.{name}-a]
description = "Attacks the other prober"
nkeys = ["{attacker}"]
owns = ["{name}-a", "{name}-b/mine.>"]
reads = ["{name}-b/open.>"]
{attackers}
[service.{name}-b]
description = "Is attacked by the other prober"
nkeys = ["{victim}"]
owns = ["{name}-b/theirs.>"{store}]
{victims}"#
        ))
    }

    /// Puts them into the policy, if that is for this command to do.
    ///
    /// # Errors
    /// In words, when the policy does not hold with them, or cannot be written.
    pub fn write(&self, place: &Place, defaults: &Defaults) -> Result<WrittenPolicy, String> {
        let Place::Folder(folder) = place else {
            return Ok(WrittenPolicy { file: None, lacks: None });
        };
        let file = folder.join(format!("{}.toml", self.name));
        let policy = |streams| self.policy(streams).map_err(|error| error.to_string());
        if let Ok(before) = std::fs::read_to_string(&file) {
            if !before.starts_with(MARK) {
                return Err(format!("{} exists, and is not from this command", file.display()));
            }
            // Of a run that could not remove it.
            std::fs::remove_file(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        let mut text = policy(true)?;
        let mut lacks = None;
        if let Err(unfit) = self.must_hold(folder, &file, &text, defaults) {
            // The organisation's names, perhaps; buckets are under attack all the same.
            text = policy(false)?;
            self.must_hold(folder, &file, &text, defaults).map_err(|unfit| unfit.all)?;
            lacks = Some(format!("the policy would not hold with streams: {}", unfit.first));
        }
        // Written aside and renamed, so that it is never read in part. The name begins with a dot,
        // which is no part of a policy.
        let aside = folder.join(format!(".{}.toml", self.name));
        let _ = std::fs::remove_file(&aside);
        create(&aside, &text, false)?;
        std::fs::rename(&aside, &file).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(WrittenPolicy { file: Some(file), lacks })
    }

    /// A policy that does not hold with the probers in it must not be put in front of the service.
    fn must_hold(
        &self,
        folder: &Path,
        file: &Path,
        text: &str,
        defaults: &Defaults,
    ) -> Result<(), Unfit> {
        let said = |problems: Problems| {
            let first = problems.iter().find(|problem| problem.severity == Severity::Error);
            Unfit {
                first: first.map(|problem| problem.message.clone()).unwrap_or_default(),
                all: format!("the policy would not hold:\n{}", problems.render(Style::Plain)),
            }
        };
        let unfit = |first: String| Unfit { all: first.clone(), first };
        let mut files = Directory::new(folder).read().map_err(said)?;
        files.push(SourceFile::new(file.display().to_string(), text));
        let policy = validate_for(&files, &defaults.audit).map_err(said)?.policy;
        for letter in ["a", "b"] {
            let name = format!("{}-{letter}", self.name);
            let service = policy.services().iter().find(|service| *service.name == *name);
            let service =
                service.ok_or_else(|| unfit(format!("the policy has no service {name}")))?;
            Grant::of(service, defaults).map_err(|error| unfit(error.to_string()))?;
        }
        Ok(())
    }
}

/// Why a policy does not hold.
struct Unfit {
    first: String,
    all: String,
}

/// What was put into the policy.
#[must_use]
pub struct WrittenPolicy {
    file: Option<PathBuf>,
    lacks: Option<String>,
}

impl WrittenPolicy {
    /// Why it has no streams, if that is so.
    #[must_use]
    pub fn lacks(&self) -> Option<&str> {
        self.lacks.as_deref()
    }

    /// Takes it out again.
    ///
    /// # Errors
    /// In words, with what to remove by hand.
    pub fn remove(mut self) -> Result<(), String> {
        let Some(file) = self.file.take() else { return Ok(()) };
        std::fs::remove_file(&file).map_err(|error| {
            format!("{} is still part of the policy: {error}; remove it", file.display())
        })
    }
}

impl Drop for WrittenPolicy {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Only on a way out that has an error of its own to tell.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Streams of these names that somebody else made are not touched.
///
/// # Errors
/// In words, when there is one, or nobody can be asked.
pub async fn refuse_foreign_streams(stage: &Testbed) -> Result<(), String> {
    let mut admin = stage.admin().await.map_err(|error| error.to_string())?;
    for stream in stage.streams() {
        // As people know it.
        let what = match (stream.strip_prefix("KV_"), stream.strip_prefix("OBJ_")) {
            (Some(bucket), _) => format!("bucket {bucket}"),
            (_, Some(store)) => format!("store {store}"),
            _ => format!("stream {stream}"),
        };
        let info = admin.api(&format!("STREAM.INFO.{stream}"), &Value::Null).await;
        let info = info.map_err(|error| format!("the admin cannot ask JetStream: {error}"))?;
        let Some(error) = info.get("error") else {
            if info.pointer("/config/description") != Some(&json!(MADE_BY)) {
                return Err(format!(
                    "there already is a {what} that this command did not make; choose \
                     another --name"
                ));
            }
            continue;
        };
        // 10059: stream not found, as it should be.
        if error.get("err_code") != Some(&json!(10059)) {
            return Err(format!("JetStream's answer about {what}: {error}"));
        }
    }
    Ok(())
}

fn read_seed(dir: &Path, name: &str) -> Result<Seed<User>, String> {
    seed_file("--prepared", &dir.join(name)).map_err(|problems| {
        let said = problems.render(Style::Plain);
        format!("a prober has no key; --prepare writes it\n\n{}", said.trim_end())
    })
}

/// A new file; a secret one is for its owner alone.
fn create(path: &Path, text: &str, secret: bool) -> Result<(), String> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(if secret { 0o600 } else { 0o644 });
    }
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| format!("{}: {error}", path.display()))
}
