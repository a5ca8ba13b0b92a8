//! `solewriter prove`: the harmless attacks, against a live deployment.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::{fail, print, runtime};
use crate::buckets::{elsewhere, streams};
use crate::cli::common::{Format, Output, SettingsArgs, WRONG, connect, duration, line};
use crate::config::Tool;
use crate::nats::AccountIds;
use crate::nats::raw_client::{RawLogin, TlsServer, Wire};
use crate::prove::needs::Needs;
use crate::prove::outlive;
use crate::prove::probers::{Place, Probers};
use crate::prove::run::{is_answered, run};
use crate::prove::testbed::{Names, Testbed};
use crate::prove::verdict::{Outcome, Proof, Seen, Tried, Verdict, judge};
use crate::prove::{Attack, attacks};

/// Try harmless attacks on a live deployment, and print a verdict to file.
///
/// Without --yes it only shows what it will do. With --yes it makes two services, two buckets, four
/// streams and an object store. One service attacks the other. Then all of it is removed. Nothing
/// else is touched.
///
/// Exit code: 0 if no attack succeeded, 1 if one did, 2 if there is no verdict.
#[derive(Args)]
#[command(mut_arg("config", |config| config.help(
    "The settings file, with the servers, the admin's seed and the policy's folder. `solewriter \
     settings` lists flags that override it"
)))]
pub struct Prove {
    /// Do it. Without this, only show what would be done.
    #[arg(short, long)]
    yes: bool,
    /// The name of the two services, their buckets, streams and object store, to which -a and -b are
    /// added.
    #[arg(long, value_name = "NAME", default_value = "solewriter-prove")]
    name: String,
    /// Only write keys and a policy file for the two services into DIR. Use this if the command
    /// cannot write to the policy's folder. Add the file to the policy, then run with --prepared DIR.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["prepared", "yes"])]
    prepare: Option<PathBuf>,
    /// Use the keys in DIR. --prepare wrote them, and the policy file is in force. Remove that file
    /// from the policy afterwards.
    #[arg(long, value_name = "DIR")]
    prepared: Option<PathBuf>,
    /// Replicas of the buckets, the streams and the object store.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    replicas: u8,
    /// How long the running service may take to serve the changed policy, and then to delete a
    /// consumer that no grant covers. A plain number is seconds.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = seconds)]
    wait: Duration,
    /// How to print the verdict.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// A longer `--wait` is a mistake.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// A length of time, or a number of seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let wait = text.parse().map_or_else(|_| duration(text), |n| Ok(Duration::from_secs(n)))?;
    if wait > LONGEST_WAIT { Err("write at most 24h".to_owned()) } else { Ok(wait) }
}

impl Prove {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        if let Some(dir) = &self.prepare {
            return match Probers::prepare(&self.name, dir) {
                Ok(text) => print(text.as_bytes()),
                Err(error) => wrong(&error),
            };
        }
        let tool = match self.settings.load() {
            Ok(tool) => tool,
            Err(output) => return output.print(),
        };
        let place = match (&self.prepared, &tool.policy) {
            (Some(dir), _) => Place::Prepared(dir.clone()),
            (None, Some(policy)) => Place::Folder(policy.clone()),
            (None, None) => {
                return wrong(
                    &"the settings name no [policy] directory; write the probers' policy with \
                      --prepare DIR, put it in force, and run with --prepared DIR",
                );
            }
        };
        if !self.yes {
            say(&self.plan(&place, &tool));
            return wrong(&"nothing was done; add --yes to do it");
        }
        let admin = match tool.admin() {
            Ok(login) => RawLogin::of(&login),
            Err(problems) => return Output::wrong(problems).print(),
        };
        say(&self.plan(&place, &tool));
        let proof = runtime()
            .map_err(|error| error.to_string())
            .and_then(|rt| rt.block_on(self.prove(&tool, admin, &place)));
        match proof {
            Ok(proof) => {
                let text = match self.format {
                    Format::Text => proof.text(),
                    Format::Json => proof.json(),
                };
                let printed = print(text.as_bytes());
                match proof.verdict {
                    Verdict::Proven => printed,
                    Verdict::Broken => ExitCode::from(super::FAILED),
                    Verdict::Unknown => ExitCode::from(WRONG),
                }
            }
            Err(error) => wrong(&error),
        }
    }

    /// What will be done, before any of it is.
    fn plan(&self, place: &Place, tool: &Tool) -> String {
        let (name, wait) = (&self.name, self.wait.as_secs_f64());
        let servers = crate::nats::connect::addresses(&tool.servers).join(", ");
        let policy = match place {
            Place::Folder(folder) => format!(
                "write {}, and remove it in the end: two services, two buckets, four streams, an \
                 object store",
                folder.join(format!("{name}.toml")).display()
            ),
            Place::Prepared(dir) => {
                format!("do not change the policy; the probers' keys are in {}", dir.display())
            }
        };
        let count = attacks().count() + 1;
        format!(
            "solewriter prove, on {servers}:\n\
             1. {policy}.\n\
             2. As the admin: make the buckets {name}-a and {name}-b, the streams log-{name}-a, \
             log-{name}-b, work-{name}-b and both-{name}-b, and the object store {name}-b, anew for \
             each attack, and delete them in the end; also the streams attack-{name}-a and \
             attack-{name}-b, which an attack makes if it succeeds.\n\
             3. As the service {name}-a: try {count} attacks on {name}-b and what it has. Attacks \
             on streams need the subjects `attack.>`: where APP does not import them, they are \
             skipped. No other bucket, stream, consumer or subject is written to.\n\
             4. Wait until the running service deletes a consumer of {name}-a that no grant \
             covers, up to {wait} s.\n\
             5. Print a verdict.\n\n"
        )
    }

    async fn prove(&self, tool: &Tool, admin: RawLogin, place: &Place) -> Result<Proof, String> {
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
        let when = Timestamp::now().to_string();
        let probers = Probers::new(&self.name, place)?;
        let stage = self.stage(tool, admin, &probers)?;
        crate::prove::probers::refuse_foreign_streams(&stage).await?;
        let written = probers.write(place, &tool.defaults)?;
        let outcome = tokio::select! {
            outcome = self.attack(&stage, tool, &probers, written.lacks(), when) => outcome,
            _ = terminate.recv() => Err("stopped early: there is no verdict".to_owned()),
            _ = interrupt.recv() => Err("stopped early: there is no verdict".to_owned()),
        };
        let mut left = Vec::new();
        if let Err(error) = stage.strike().await {
            let streams = stage.streams().join(", ");
            left.push(format!("some of these streams may still exist: {streams}: {error}"));
        }
        if let Err(error) = written.remove() {
            left.push(error);
        }
        if left.is_empty() { outcome } else { Err(also(outcome, &left)) }
    }

    async fn attack(
        &self,
        stage: &Testbed,
        tool: &Tool,
        probers: &Probers,
        lacks: Option<&str>,
        when: String,
    ) -> Result<Proof, String> {
        let until = Instant::now() + self.wait;
        self.until_let_in(stage, until).await?;
        let stage = &patient(&by_key_alone(stage).await).await?;
        let (mut tried, mut needs) = (Vec::new(), Needs::default());
        for attack in attacks() {
            let lacking = match lacks.filter(|_| !attack.needs.is_empty()) {
                Some(why) => Ok(Some(why.to_owned())),
                None => needs.lacking(&attack, stage).await,
            };
            tried.push(match lacking {
                Ok(None) => attempt(&attack, stage).await,
                Ok(Some(why)) => Tried::skipped(&attack, &why),
                Err(error) => Tried::unknown(&attack, &error.to_string()),
            });
        }
        tried.push(outlive::attempt(stage, self.wait).await);
        tried.extend(gateway(stage, tool).await);
        Ok(Proof {
            verdict: judge(&tried),
            when,
            solewriter: env!("CARGO_PKG_VERSION"),
            servers: seen(stage).await,
            services_in: tool.defaults.account.to_string(),
            buckets_in: buckets_in(stage, &tool.account_ids).await,
            probers: probers.public()?,
            attacks: tried,
        })
    }

    /// Waits until the running service has read the policy.
    async fn until_let_in(&self, stage: &Testbed, until: Instant) -> Result<(), String> {
        loop {
            let error = match (stage.attacker().await, stage.victim().await) {
                (Ok(_), Ok(_)) => return Ok(()),
                (Err(error), _) | (_, Err(error)) => error,
            };
            if Instant::now() > until {
                return Err(format!(
                    "the probers were not let in within {} s, the last time: {error}. Does the \
                     running service serve this policy? See its log",
                    self.wait.as_secs_f64()
                ));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn stage(&self, tool: &Tool, admin: RawLogin, probers: &Probers) -> Result<Testbed, String> {
        let servers: Result<Vec<TlsServer>, _> =
            tool.servers.iter().map(|s| TlsServer::new(s.clone(), &tool.tls)).collect();
        let (a, b) = (format!("{}-a", self.name), format!("{}-b", self.name));
        let (attacker, victim) = probers.logins(tool)?;
        Ok(Testbed {
            servers: servers.map_err(|error| error.to_string())?,
            names: Names {
                mine: a.clone(),
                victim: b.clone(),
                plain: format!("{b}.plain"),
                deputy: format!("{b}.deputy"),
                me: a,
                them: b,
                secret: format!("secret {:016x}", rand::random::<u64>()),
            },
            attacker,
            victim,
            responder: None,
            admin,
            replicas: self.replicas,
            placement: tool.cluster.as_ref().map(|c| serde_json::json!({"cluster": c})).into(),
            bucket: serde_json::json!({"allow_rollup_hdrs": false, "duplicate_window": 100_000_000}),
            patience: Duration::from_millis(500),
            control_bucket: serde_json::Value::Null,
        })
    }
}

/// The same without JWTs, where servers have one for everybody: there a stranger comes so, too. A JWT that
/// does not fit is refused when the server has waited for an answer that nobody gives.
async fn by_key_alone(stage: &Testbed) -> Testbed {
    let plain = |login: &RawLogin| match login {
        RawLogin::Jwt(_, seed) => RawLogin::Nkey(seed.clone()),
        login => login.clone(),
    };
    let (attacker, victim) = (plain(&stage.attacker), plain(&stage.victim));
    let plain = Testbed { attacker, victim, ..stage.clone() };
    if plain.attacker().await.is_ok() && plain.victim().await.is_ok() {
        return plain;
    }
    stage.clone()
}

/// The stage, with time for an effect to show that fits the way to the servers: twenty times what
/// the admin's question took, and at least 200 ms.
async fn patient(stage: &Testbed) -> Result<Testbed, String> {
    let mut admin = stage.admin().await.map_err(|error| error.to_string())?;
    let began = Instant::now();
    for _ in 0..3 {
        admin.fence().await.map_err(|error| error.to_string())??;
    }
    let patience = (began.elapsed() / 3 * 20).max(Duration::from_millis(200));
    Ok(Testbed { patience, ..stage.clone() })
}

/// Every attack that is harmless to others, with the rights that the probers have.
fn attacks() -> impl Iterator<Item = Attack> {
    attacks::families()
        .into_iter()
        .flat_map(|family| family.attacks)
        .filter(|attack| attack.in_prove)
}

async fn attempt(attack: &Attack, stage: &Testbed) -> Tried {
    if attack.rehearsed {
        match is_answered(attack, stage).await {
            Ok(true) => {}
            Ok(false) => return Tried::unknown(attack, "its request is not answered at all"),
            Err(error) => return Tried::unknown(attack, &error.to_string()),
        }
    }
    match run(attack, stage).await {
        Ok(report) => Tried::of(attack, &report),
        Err(error) => Tried::unknown(attack, &error.to_string()),
    }
}

/// What a gateway opens: with streams in two clusters, JetStream delivers from one into the other,
/// whatever permissions say. With all in one cluster, the other attacks are the proof. Only the
/// system user is told of gateways.
async fn gateway(stage: &Testbed, tool: &Tool) -> Option<Tried> {
    let joined = joined(stage, tool).await?;
    let tried = |outcome, evidence: &str| Tried {
        id: "gateways",
        title: "A consumer that delivers into a bucket of another cluster",
        outcome,
        ending: None,
        evidence: line(evidence),
    };
    let succeeds =
        |why: &str| tried(Outcome::Succeeded, &format!("not tried, but known to succeed: {why}"));
    let Some(cluster) = &tool.cluster else {
        return Some(succeeds(&format!("{joined}, and [state] cluster is not set")));
    };
    let found = async {
        let admin = tool.admin().map_err(|problems| problems.to_string())?;
        let client = connect(tool, &admin, "solewriter prove").await.map_err(|e| e.to_string())?;
        streams::all(&client).await.map_err(|error| error.to_string())
    };
    match found.await {
        Ok(streams) => elsewhere(&streams, cluster).first().map(|stream| succeeds(stream)),
        Err(error) => Some(tried(Outcome::Unknown, &error)),
    }
}

/// A server that is a gateway, and which.
async fn joined(stage: &Testbed, tool: &Tool) -> Option<String> {
    let system = RawLogin::of(&tool.system().ok()?);
    for server in &stage.servers {
        let Ok(mut wire) = Wire::login(server, &system, "_INBOX.solewriter").await else {
            continue;
        };
        let id = wire.info().get("server_id")?.as_str()?.to_owned();
        let subject = format!("$SYS.REQ.SERVER.{id}.VARZ");
        let Ok(answer) = wire.request(&subject, "", b"").await else { continue };
        let answer = answer.json();
        let name = answer.pointer("/data/gateway/name").and_then(serde_json::Value::as_str);
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            return Some(format!("{} is the gateway {name}", server.name()));
        }
    }
    None
}

/// The servers that the settings name, as they say themselves.
async fn seen(stage: &Testbed) -> Vec<Seen> {
    let mut seen = Vec::new();
    for server in &stage.servers {
        let info = Wire::dial(server).await.map(|wire| wire.info().clone()).unwrap_or_default();
        let text = |field: &str| {
            let said = info.get(field).and_then(serde_json::Value::as_str);
            super::common::line(said.unwrap_or("unknown"))
        };
        seen.push(Seen {
            address: server.name(),
            name: text("server_name"),
            version: text("version"),
            id: text("server_id"),
        });
    }
    seen
}

/// The account of the admin's user, which has the buckets.
async fn buckets_in(stage: &Testbed, ids: &AccountIds) -> String {
    let asked = async {
        let mut admin = stage.admin().await.ok()?;
        let answer = admin.request("$SYS.REQ.USER.INFO", "", b"").await.ok()?.json();
        Some(super::common::line(ids.name(answer.pointer("/data/account")?.as_str()?)))
    };
    asked.await.unwrap_or_else(|| "unknown".to_owned())
}

/// What came of it, and what is left behind.
fn also(outcome: Result<Proof, String>, left: &[String]) -> String {
    let mut text = match outcome {
        Ok(proof) => format!("{}\n", proof.text()),
        Err(error) => format!("{error}\n"),
    };
    text += "not everything could be removed:";
    for what in left {
        text += &format!("\n  {what}");
    }
    text
}

fn wrong(error: &dyn std::fmt::Display) -> ExitCode {
    let _ = fail(error);
    ExitCode::from(WRONG)
}

/// What is no verdict goes to stderr.
#[allow(clippy::print_stderr)]
fn say(text: &str) {
    eprint!("{text}");
}
