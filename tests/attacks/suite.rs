//! Runs the table on one version of the server.

use std::sync::Arc;
use std::time::Duration;

use semver::Version;
use solewriter::nats::raw_client::TlsServer;
use solewriter::prove::Report;
use solewriter::prove::page::Column;
use solewriter::prove::run::{controlled, is_answered, run};
use solewriter::prove::testbed::{StageError, Testbed};
use solewriter::prove::{Attack, Control, Effect, Ending, Family, attacks};
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::policy::validate::validate;
use solewriter_types::advisories::version;

use super::authors;
use super::chains;
use super::control::{self, Controls};
use super::deployment::{Deployment, Prepared};
use super::doors;
use super::grants;
use super::lane::{self, LANES};
use super::seeds;

/// Servers that the suite runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub version: &'static str,
    pub cluster: bool,
    /// Whether who attacks is observed: with all that it could do before, but what others own.
    pub observed: bool,
    /// Whether accounts are JWTs.
    pub operator: bool,
}

impl Place {
    pub const ALL: [Self; 7] = [
        Self { version: "2.10.25", cluster: false, observed: false, operator: false },
        Self { version: "2.11.11", cluster: false, observed: false, operator: false },
        Self { version: "2.12.8", cluster: false, observed: false, operator: false },
        Self { version: "2.14.6", cluster: false, observed: false, operator: false },
        Self { version: "2.15.1", cluster: false, observed: false, operator: false },
        Self { version: "2.10.25", cluster: true, observed: false, operator: false },
        Self { version: "2.15.1", cluster: true, observed: false, operator: false },
    ];

    pub fn name(self) -> String {
        let kind = if self.operator { "-operator" } else { "" };
        format!("{}{}{kind}", self.version, if self.cluster { "-cluster" } else { "" })
    }

    /// What a deployment there is started on.
    pub fn prepared(self) -> Prepared {
        if self.operator {
            Prepared::operator_without_policy(self.version)
        } else {
            Prepared::new()
        }
    }

    pub fn numbers(self) -> Version {
        version(self.version).unwrap()
    }
}

/// The table, and what is tried by code of its own.
pub fn everything() -> Vec<Family> {
    let mut all = families();
    all.insert(1, doors::family());
    all.insert(2, seeds::family());
    all.insert(2, chains::family());
    all.push(grants::family());
    all.push(authors::family());
    all
}

/// The table.
pub fn families() -> Vec<Family> {
    attacks::families()
}

/// How long an attack has to show an effect where it must have none: longer than any takes that
/// has one, which the controls are asserted to.
pub const PATIENCE: Duration = Duration::from_millis(400);

/// What a service that is observed may do, because it could before and nobody owns it: reading,
/// asking, and what every reader of a bucket can do to its consumers. Nothing is written by it.
const AS_BEFORE: [&str; 36] = [
    "account-info",
    "consumer-delete",
    "consumer-update",
    "flow-control-forged",
    "flow-control-forged-v2",
    "found-ask",
    "get-batch",
    "get-direct",
    "get-direct-body",
    "get-direct-body-part",
    "get-direct-part",
    "get-many",
    "get-message",
    "get-message-part",
    "get-next",
    "get-sequence",
    "get-sequence-part",
    "listen-requests",
    "object-read",
    "object-read-message",
    "replay-direct",
    "replay-filter",
    "replay-no-filter",
    "responder-uncalled",
    "srv-ping",
    "stream-info",
    "stream-names",
    "stream-read-direct",
    "stream-read-message",
    "trace-to-itself",
    "watch",
    "watch-filtered",
    "watch-filtered-part",
    "watch-named",
    "watch-part",
    "watch-whole-part",
];

/// Every attack with its lane.
fn cast(place: Place) -> Vec<(usize, Attack)> {
    let words = std::env::var("ATTACKS").unwrap_or_default();
    let words: Vec<&str> = words.split_whitespace().collect();
    families()
        .into_iter()
        .flat_map(|family| family.attacks)
        .filter(|a| words.is_empty() || words.iter().any(|word| a.id.contains(word)))
        .filter(|a| place.cluster || !a.cluster)
        .map(|attack| super::operator::as_there(attack, place))
        .enumerate()
        .map(|(number, attack)| (number % LANES, attack))
        .collect()
}

/// Runs everything at one place. Gives what came of it, and what is not as it should be.
pub async fn run_place(place: Place) -> (Column, Vec<String>) {
    let began = std::time::Instant::now();
    let attacks = cast(place);
    let prepared = place.prepared();
    let mut deployment = if place.cluster {
        prepared.start_cluster(place.version, &lane::policy(place.observed)).await
    } else {
        prepared.start_broker(place.version, &lane::policy(place.observed)).await
    };
    deployment.add_instance(&[]).await;
    let text = deployment.policy_text(&lane::policy(place.observed));
    let policy = validate(&[SourceFile::new("suite.toml", text)]).unwrap().policy;
    let controls = Arc::new(Controls::start(place.version, &attacks, &policy).await);
    let deployment = Arc::new(deployment);
    let mut lanes: Vec<Vec<Attack>> = vec![Vec::new(); LANES];
    for (lane, attack) in attacks {
        lanes[lane].push(attack);
    }
    let mut running = Vec::new();
    for (lane, attacks) in lanes.into_iter().enumerate() {
        let (controls, deployment) = (controls.clone(), deployment.clone());
        running.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            for attack in attacks {
                let outcome = one(&attack, lane, place, &controls, &deployment).await;
                seen.push((attack, outcome));
            }
            seen
        }));
    }
    let (mut column, mut wrong) = (Column::new(), Vec::new());
    for lane in running {
        for (attack, outcome) in lane.await.unwrap() {
            match outcome {
                Ok(ending) => drop(column.insert(attack.id, ending)),
                Err(text) => wrong.push(format!("{}: {text}", attack.id)),
            }
        }
    }
    let words = std::env::var("ATTACKS").unwrap_or_default();
    let mut others = Vec::new();
    if place.observed {
        return (column, wrong);
    }
    let doors = !place.cluster && !place.operator;
    if doors && (words.is_empty() || words.contains("door")) {
        others.extend(doors::run(place).await);
    }
    if place.operator && (words.is_empty() || words.contains("door")) {
        others.extend(super::operator::doors(place).await);
    }
    if words.is_empty() || words.contains("chain") {
        others.extend(doors::judged(chains::run(place).await, &chains::family(), place));
    }
    if !place.cluster && (words.is_empty() || words.contains("author")) {
        others.extend(doors::judged(authors::run(place).await, &authors::family(), place));
    }
    for (id, outcome) in others {
        match outcome {
            Ok(ending) => drop(column.insert(id, ending)),
            Err(text) => wrong.push(format!("{id}: {text}")),
        }
    }
    if std::env::var("ATTACKS").map_or(true, |words| words.contains("seed")) {
        for (id, outcome) in seeds::run(place).await {
            match outcome {
                Ok(ending) => drop(column.insert(id, ending)),
                Err(text) => wrong.push(format!("{id}: {text}")),
            }
        }
    }
    let words = std::env::var("ATTACKS");
    let wanted = |word| words.as_ref().map_or(true, |words| words.contains(word));
    if !place.cluster && (wanted("outlive") || wanted("crowd")) {
        let seen = doors::judged(grants::run(place).await, &grants::family(), place);
        for (id, outcome) in seen {
            match outcome {
                Ok(ending) => drop(column.insert(id, ending)),
                Err(text) => wrong.push(format!("{id}: {text}")),
            }
        }
    }
    println!("{}: {} attacks in {:?}", place.name(), column.len() + wrong.len(), began.elapsed());
    (column, wrong)
}

/// Where an attack takes place in the deployment.
fn stage(attack: &Attack, lane: usize, place: Place, deployment: &Deployment) -> Testbed {
    let login = |service: &str| deployment.service_login(&deployment.service(service));
    let names = lane::names(attack, lane);
    let responder = lane::responder(lane);
    let servers = if place.cluster { deployment.urls() } else { vec![deployment.url().to_owned()] };
    Testbed {
        servers: servers.iter().map(|url| TlsServer::plain(url.parse().unwrap())).collect(),
        attacker: login(&names.me),
        victim: login(&names.them),
        responder: Some((responder.clone(), login(&responder))),
        admin: deployment.wire_login("admin"),
        replicas: if place.cluster { 3 } else { 1 },
        placement: serde_json::Value::Null,
        bucket: lane::bucket(attack),
        patience: PATIENCE,
        control_bucket: serde_json::Value::Null,
        names,
    }
}

/// What is not as the table says.
pub enum Wrong {
    /// An attack gained what it must not gain.
    Gained(String),
    /// It broke down, or came to something else: a busy machine may have been too slow for it.
    Otherwise(String),
}

impl Wrong {
    /// An attack ended so, and must not.
    pub fn ended(ending: Ending, text: String) -> Self {
        if ending == Ending::Succeeded { Self::Gained(text) } else { Self::Otherwise(text) }
    }
}

/// How often something is tried that may only have been too slow.
const TRIES: u32 = 3;

/// What comes of it, unless it is to be tried again. What an attack gained once, it gained.
pub fn settled(
    outcome: Result<Option<Ending>, Wrong>,
    tries: &mut u32,
) -> Option<Result<Option<Ending>, String>> {
    *tries += 1;
    match outcome {
        Ok(ending) => Some(Ok(ending)),
        Err(Wrong::Otherwise(text)) if *tries < TRIES => {
            println!("once more: {text}");
            None
        }
        Err(Wrong::Gained(text) | Wrong::Otherwise(text)) => Some(Err(text)),
    }
}

#[test]
fn what_an_attack_gained_once_is_never_tried_again() {
    let late = || Err(Wrong::ended(Ending::NoEffect, "late".to_owned()));
    let mut tries = 0;
    assert!(settled(late(), &mut tries).is_none() && settled(late(), &mut tries).is_none());
    assert!(matches!(settled(late(), &mut tries), Some(Err(_))));
    let gained = Err(Wrong::ended(Ending::Succeeded, "gained".to_owned()));
    assert!(matches!(settled(gained, &mut 0), Some(Err(_))));
}

/// One attack: first where it must work, then where it must not.
async fn one(
    attack: &Attack,
    lane: usize,
    place: Place,
    controls: &Controls,
    deployment: &Deployment,
) -> Result<Option<Ending>, String> {
    let mut tries = 0;
    loop {
        let outcome = attempt(attack, lane, place, controls, deployment).await;
        if let Some(settled) = settled(outcome, &mut tries) {
            return settled.map_err(|text| format!("{text} ({tries} tries)"));
        }
    }
}

async fn attempt(
    attack: &Attack,
    lane: usize,
    place: Place,
    controls: &Controls,
    deployment: &Deployment,
) -> Result<Option<Ending>, Wrong> {
    let late = Wrong::Otherwise;
    let mut stage = stage(attack, lane, place, deployment);
    let control = if control::is_here(attack) {
        Some(run(&controlled(attack), &controls.stage(attack, lane)).await)
    } else if attack.control == Control::OwnInbox {
        Some(run(&controlled(attack), &stage).await)
    } else if attack.control == Control::Admin {
        let stage = Testbed { attacker: stage.admin.clone(), ..stage.clone() };
        Some(run(attack, &stage).await)
    } else {
        None
    };
    // Who holds the seed gets in.
    if attack.effect == Effect::Enters {
        stage.victim().await.map_err(|error| late(format!("its control: {error}")))?;
    }
    let exists = attack.exists_in(&place.numbers());
    if let Some(control) = control {
        match control {
            Err(error) if exists => return Err(late(format!("its control broke down: {error}"))),
            Ok(Report { ending: Ending::Succeeded, took, .. }) if exists => {
                // Twice what it took where it works is enough where it must not.
                stage.patience = stage.patience.max(took * 2);
            }
            Ok(report) if exists => {
                return Err(late(format!("its control should work, and does not: {report:?}")));
            }
            Ok(report) if report.ending == Ending::Succeeded => {
                return Err(Wrong::Gained(format!(
                    "it exists before the version that the table names: {report:?}"
                )));
            }
            // The server does not have what it needs.
            Ok(_) | Err(_) => {}
        }
    } else if matches!(attack.control, Control::Here | Control::Told(_)) && !exists {
        return Ok(None);
    }
    let broke = |error| late(format!("it broke down: {error}"));
    if attack.rehearsed && !is_answered(attack, &stage).await.map_err(broke)? {
        return Err(late("what it asks is not answered even to itself".to_owned()));
    }
    let mut report = match run(attack, &stage).await {
        // The server does not know the settings of the stream.
        Err(StageError::Api(..)) if !exists => return Ok(None),
        ran => ran.map_err(broke)?,
    };
    // What can work need not work at once: it may take luck, or a server that heard of the key.
    let mut tries = 1;
    while exists
        && attack.expects(Ending::Succeeded, &place.numbers())
        && report.ending != Ending::Succeeded
        && tries < 20
    {
        report = run(attack, &stage).await.map_err(broke)?;
        tries += 1;
    }
    // By whatever it does not end as it does for others: it must not come to anything.
    if place.observed && (report.ending != Ending::Succeeded || AS_BEFORE.contains(&attack.id)) {
        return Ok(exists.then_some(report.ending));
    }
    let expected = if exists {
        attack.expects(report.ending, &place.numbers())
    } else {
        report.ending != Ending::Succeeded
    };
    if !expected {
        let text = format!("{:?}, but: {report:?}", attack.expected);
        return Err(Wrong::ended(report.ending, text));
    }
    Ok(exists.then_some(report.ending))
}
