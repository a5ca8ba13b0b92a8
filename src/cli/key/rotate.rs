//! `solewriter key rotate`: the issuer's key or the xkey is replaced, one step after the other. Each
//! step ends when what it is about was seen to be so. Nothing is remembered: a second run sees what
//! is done already.

mod operator;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::time::{Instant, sleep};

use crate::cli::common::{Output, SettingsArgs, YES, duration};
use crate::cli::{finish, print};
use crate::config::{self, Tool};
use crate::doctor::look::{self, Knock};
use crate::fleet::{self, PublicKeys, Report};
use crate::operator::{Account as Jwt, word};
use solewriter_core::callout::xkey::Sealer;
use solewriter_core::keys::{Account, AccountKey, Curve, CurveSecret, Seed, Signer, User};

/// How often it is looked again.
const AGAIN: Duration = Duration::from_secs(1);
/// How many characters of the new key are in the name of its queue group.
const GROUP: usize = 6;

/// Replace a key that signs, or the xkey, while clients connect.
///
/// Says what to do, one step after the other, and waits for each until it is seen to be done: that
/// instances have the new key, that each server expects it and takes an answer by it, that no
/// instance has the old one. In operator mode, that each server has the account's JWT with the new key, and
/// in the end without the old one. It changes nothing but the new seed's file. When it was stopped, or
/// --within is over, the same command goes on where it was.
#[derive(Args)]
pub struct Rotate {
    /// What is replaced.
    #[arg(value_enum)]
    what: What,
    /// The file with the new seed. It is made if it is not there.
    #[arg(long, value_name = "FILE", required_unless_present = "new_key")]
    new: Option<PathBuf>,
    /// The new key's public part, instead of its seed, where `solewriter signer` holds it.
    #[arg(long, value_name = "KEY", conflicts_with = "new")]
    new_key: Option<String>,
    /// In operator mode, the account whose users the key signs [default: that of `[grants] account`].
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// In operator mode, the public key that goes, where the settings have the new one already and the
    /// account has others.
    #[arg(long, value_name = "KEY")]
    old: Option<String>,
    /// A file with the seed of a service: it logs in at each server, as a proof. Without it, somebody
    /// with an unknown key is refused at each.
    #[arg(long, value_name = "FILE")]
    login: Option<PathBuf>,
    /// How long to wait for each step.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    within: Duration,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// What is replaced.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// The key that signs answers.
    Issuer,
    /// The key that requests are sealed to.
    Xkey,
    /// In operator mode, the key that signs the users of an account.
    SigningKey,
}

impl What {
    /// The table of the settings, and the field of `auth_callout`.
    fn name(self) -> &'static str {
        match self {
            Self::Issuer => "issuer",
            Self::Xkey => "xkey",
            Self::SigningKey => "operator",
        }
    }

    /// Whether an instance has that key.
    fn is_of(self, keys: &PublicKeys, key: &str) -> bool {
        match self {
            Self::Issuer => keys.issuer == key,
            Self::Xkey => keys.xkey.as_deref() == Some(key),
            Self::SigningKey => keys.users.iter().any(|user| user == key),
        }
    }
}

/// The new key.
struct New {
    public: String,
    file: Option<PathBuf>,
    /// Opens what is sealed to the new xkey.
    opens: Option<Seed<Curve>>,
    made: bool,
}

impl New {
    fn say(&self) {
        let made = if self.made { "made" } else { "found" };
        let held = self.file.as_deref().map_or_else(
            || "the signer holds it".to_owned(),
            |file| format!("{made}: {}", file.display()),
        );
        say(&format!("1. The new key is {} ({held}).\n", self.public));
    }
}

impl Rotate {
    /// Runs the command.
    #[must_use]
    pub fn run(&self) -> std::process::ExitCode {
        finish(self.rotate())
    }

    async fn rotate(&self) -> Result<Output, Output> {
        let tool = self.settings.load()?;
        if self.account.is_some() && self.what != What::SigningKey {
            return Err(Output::cannot(&"--account is for `key rotate signing-key`"));
        }
        if self.old.is_some() && (!tool.is_operator() || self.what == What::Xkey) {
            return Err(Output::cannot(&"--old is for keys that sign, in operator mode"));
        }
        match (self.what, tool.is_operator()) {
            (What::Issuer | What::SigningKey, true) => self.signing_key(&tool).await,
            (What::SigningKey, false) => Err(Output::cannot(
                &"only operator mode has keys that sign users of an account: here the issuer's key does (`key rotate issuer`)",
            )),
            (What::Issuer | What::Xkey, _) => self.in_groups(&tool).await,
        }
    }

    /// Where there is one key at a time: the instances with the new one have a queue group of their own.
    async fn in_groups(&self, tool: &Tool) -> Result<Output, Output> {
        let old = self.in_settings(tool)?;
        let new = self.new_key()?;
        let (what, config) = (self.what.name(), self.settings.config.display());
        new.say();

        let group = group(tool, &new.public);
        let flag = match &new.file {
            Some(file) => format!("--{what}-seed {}", file.display()),
            None => format!("--issuer-key {}", new.public),
        };
        let jwt = jwt_of_the_xkey(tool, &new)?;
        let mut first = String::new();
        if let Some(name) = &jwt {
            first = format!(
                "Change the xkey of {name}, and write its JWT to the file in [operator] accounts; do not push it yet:\n\
                 \x20    nsc edit authcallout --account {name} --curve {}\n\
                 \x20    nsc describe account --name {name} --raw --output-file accounts/{name}.jwt\n\x20  ",
                new.public
            );
        }
        say(&format!(
            "2. {first}Beside the instances that run, start as many with the new key, in a queue group of their own:\n\
             \x20    solewriter serve --config {config} {flag} --nats-queue-group {group}\n"
        ));
        let (mut count, mut most) = ((0, 0), 0);
        self.until("instances with the new key", async || {
            count = self.instances(tool, &new.public).await?;
            most = most.max(count.1);
            let (with, without) = count;
            if with >= most.max(1) {
                return Ok(Ok(format!("{with} have the new key, {without} another")));
            }
            Ok(Err(format!("{with} have the new key, {without} another")))
        })
        .await?;

        let from = if old == new.public { String::new() } else { format!(" {old} by") };
        say(&match &jwt {
            Some(name) => format!("3. Push it:\n\x20    nsc push --account {name}\n"),
            None => format!(
                "3. On one nats-server after the other, replace{from} {} as {what} of auth_callout, and restart it\n\
                 \x20  (a reload does not take it). Go on to the next one when this one is named below.\n",
                new.public
            ),
        });
        let servers = tool.servers.len();
        self.until("servers", async || {
            let knocks = self.knock(tool, &new).await?;
            let (done, rest): (Vec<&Knock>, Vec<&Knock>) =
                knocks.iter().partition(|knock| self.proves(knock, &new.public));
            let done: Vec<&str> = done.iter().map(|knock| &*knock.address).collect();
            let listed = done.join(", ");
            if rest.is_empty() && !done.is_empty() {
                return Ok(Ok(format!(
                    "{servers} of {servers} took an answer by the new key: {listed}"
                )));
            }
            let colon = if done.is_empty() { "" } else { ": " };
            Ok(Err(format!(
                "{} of {servers} took an answer by the new key{colon}{listed}",
                done.len()
            )))
        })
        .await?;

        say("4. Stop the instances with the old key.\n");
        self.until("the old instances", async || {
            let (with, without) = self.instances(tool, &new.public).await?;
            let state = format!("{with} have the new key, {without} another");
            Ok(if without == 0 && with > 0 { Ok(state) } else { Err(state) })
        })
        .await?;

        let line = self.line(&new);
        say(&format!(
            "5. In {config}, write {line} and [nats] queue_group = \"{group}\", so that the next start has both.\n"
        ));
        self.until("the settings", async || {
            let now = self.settings.load().and_then(|tool| self.in_settings(&tool));
            Ok(match now {
                Ok(now) if now == new.public => Ok("they have the new key".to_owned()),
                Ok(_) => Err("they have the old key".to_owned()),
                Err(_) => Err("they cannot be read".to_owned()),
            })
        })
        .await?;
        let end = format!(
            "The {what} is {}. Nothing needs the old seed any more: destroy it.\n",
            new.public
        );
        Ok(Output::data(end, YES))
    }

    /// What the settings have to say.
    fn line(&self, new: &New) -> String {
        match (&new.file, self.what) {
            (Some(file), What::SigningKey) => {
                format!("\"{}\" in place of the old one in [operator] seeds", file.display())
            }
            (Some(file), what) => format!("[{}] seed = \"{}\"", what.name(), file.display()),
            (None, What::SigningKey) => {
                format!("\"{}\" in place of the old one in [operator] keys", new.public)
            }
            (None, _) => format!("[issuer] key = \"{}\"", new.public),
        }
    }

    /// The public key that the settings have now.
    fn in_settings(&self, tool: &Tool) -> Result<String, Output> {
        match self.what {
            What::Issuer | What::SigningKey => {
                Ok(tool.issuer().map_err(Output::wrong)?.public().to_string())
            }
            What::Xkey => {
                let seed = tool.xkey().map_err(Output::wrong)?.ok_or_else(|| {
                    Output::cannot(&"the settings have no [xkey] seed, so there is none to replace")
                })?;
                Ok(CurveSecret::new(&seed).map_err(|e| Output::cannot(&e))?.public().to_string())
            }
        }
    }

    /// The new key: read, or made.
    fn new_key(&self) -> Result<New, Output> {
        let Some(file) = &self.new else {
            let given = self.new_key.as_deref().unwrap_or_default();
            if self.what == What::Xkey {
                return Err(Output::cannot(
                    &"--new-key is for what signs: `serve` itself has the xkey",
                ));
            }
            let key = AccountKey::parse(given);
            let key = key.map_err(|error| Output::cannot(&format!("--new-key: {error}")))?;
            return Ok(New { public: key.to_string(), file: None, opens: None, made: false });
        };
        let made = !file.try_exists().map_err(|error| cannot_read(file, &error))?;
        let of_file = Some(file.clone());
        match self.what {
            What::Issuer | What::SigningKey => {
                if made {
                    super::new::<Account>(file).map_err(|error| Output::failed(&error))?;
                }
                let seed = config::seed_file::<Account>("--new", file).map_err(Output::wrong)?;
                let signer = Signer::new(&seed).map_err(|error| Output::cannot(&error))?;
                Ok(New { public: signer.public().to_string(), file: of_file, opens: None, made })
            }
            What::Xkey => {
                if made {
                    super::new_xkey(file).map_err(|error| Output::failed(&error))?;
                }
                let seed = config::seed_file::<Curve>("--new", file).map_err(Output::wrong)?;
                let secret = CurveSecret::new(&seed).map_err(|error| Output::cannot(&error))?;
                let public = secret.public().to_string();
                Ok(New { public, file: of_file, opens: Some(seed), made })
            }
        }
    }

    /// How many instances have the new key, and how many do not.
    async fn instances(&self, tool: &Tool, new: &str) -> Result<(usize, usize), String> {
        let client = look::callout(tool).await?;
        let heard = fleet::ask(&client).await;
        let _ = client.drain().await;
        let has =
            |report: &Report| report.keys.as_ref().is_some_and(|keys| self.what.is_of(keys, new));
        let heard = heard?;
        let with = heard.iter().filter(|report| has(report)).count();
        Ok((with, heard.len() - with))
    }

    async fn knock(&self, tool: &Tool, new: &New) -> Result<Vec<Knock>, String> {
        let sealer = match &new.opens {
            Some(seed) => Some(Sealer::new(CurveSecret::new(seed).map_err(|e| e.to_string())?)),
            None => look::sealer(tool),
        };
        let login = match &self.login {
            Some(file) => {
                let seed = config::seed_file::<User>("--login", file);
                Some(seed.map_err(|problems| problems.summary())?)
            }
            None => None,
        };
        look::knock(tool, sealer, login.as_ref()).await
    }

    /// Whether a server expects the new key, and took an answer by it.
    fn proves(&self, knock: &Knock, new: &str) -> bool {
        let expects = match self.what {
            What::Issuer | What::SigningKey => knock.issuer.as_deref() == Some(new),
            // It opened with the new key alone.
            What::Xkey => knock.sealed && knock.issuer.is_some(),
        };
        let answered = if self.login.is_some() { knock.entered } else { knock.refused_in_time };
        expects && answered
    }

    /// Waits until a step is done, and says what is seen whenever that changes. The outer error is
    /// what keeps it from being looked at.
    async fn until(
        &self,
        step: &str,
        mut look: impl AsyncFnMut() -> Result<Result<String, String>, String>,
    ) -> Result<(), Output> {
        let deadline = Instant::now() + self.within;
        let mut said = None;
        loop {
            let seen = match look().await {
                Ok(Ok(done)) => {
                    say(&format!("   done: {done}\n"));
                    return Ok(());
                }
                Ok(Err(seen)) | Err(seen) => seen,
            };
            if said.as_ref() != Some(&seen) {
                say(&format!("   waiting: {seen}\n"));
                said = Some(seen);
            }
            if Instant::now() >= deadline {
                let over = format!(
                    "this step was not done in time ({step}: {}). Run the same command again: it goes on here",
                    said.unwrap_or_default()
                );
                return Err(Output::failed(&over));
            }
            sleep(AGAIN).await;
        }
    }
}

/// In operator mode, the name of the account whose JWT has the xkey.
fn jwt_of_the_xkey(tool: &Tool, new: &New) -> Result<Option<String>, Output> {
    if !tool.is_operator() || new.opens.is_none() {
        return Ok(None);
    }
    let issuer = *tool.issuer().map_err(Output::wrong)?.public();
    let asking = tool.asking(&issuer);
    let jwts = tool.account_jwts().unwrap_or_default();
    let account = jwts.into_iter().filter_map(Jwt::read).find(|a| Some(a.key) == asking);
    account.map(|account| Some(word(&account.name))).ok_or_else(|| {
        Output::cannot(&format!("no JWT in [operator] accounts has the key of [issuer], {issuer}"))
    })
}

/// The queue group of the instances with a new key: the same in each run.
fn group(tool: &Tool, public: &str) -> String {
    let of_key: String = public.chars().skip(1).take(GROUP).collect();
    let ours = format!("-{}", of_key.to_lowercase());
    if tool.queue_group.ends_with(&ours) {
        return tool.queue_group.clone();
    }
    format!("{}{ours}", tool.queue_group)
}

/// At once: the next word may take an hour.
fn say(text: &str) {
    let _ = print(text.as_bytes());
    let _ = std::io::Write::flush(&mut std::io::stdout());
}

fn cannot_read(file: &Path, error: &std::io::Error) -> Output {
    Output::cannot(&format!("{}: {error}", file.display()))
}
