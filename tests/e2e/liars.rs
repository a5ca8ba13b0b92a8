//! Somebody in the system account who answers as a server does, and lies: everybody else is swept
//! as fast as without. And who tells the truth of very many is asked few times.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions, Message};
use futures_util::StreamExt;
use serde_json::{Value, json};
use solewriter_core::keys::{Seed, Server, Signer, User};

use super::deployment::{DEADLINE, Deployment, Prepared, eventually_within};
use super::raw::Raw;

/// How it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// There are very many connections, and it gives none.
    Total,
    /// The same, and it gives the same page for ever.
    SamePage,
    /// The same, and each page has new ones.
    NewPages,
    /// It does not answer.
    Silent,
    /// It takes its time.
    Slow,
    /// A page of twenty megabytes.
    Huge,
    /// More connections than were asked for.
    TooMany,
    /// No JSON.
    Broken,
    /// JSON a million levels deep.
    Deep,
    /// It answers as another server.
    Another,
    /// None. It has [`CROWD`], and too much to say where more than so many are asked for.
    Honest(u64),
}

/// How many connections it has that does not lie.
const CROWD: u64 = 30_000;
/// Which of them is of a service that is no more.
const GONE: u64 = 4_321;

const LIES: [Lie; 10] = [
    Lie::Total,
    Lie::SamePage,
    Lie::NewPages,
    Lie::Silent,
    Lie::Slow,
    Lie::Huge,
    Lie::TooMany,
    Lie::Broken,
    Lie::Deep,
    Lie::Another,
];

const MANY: u64 = 1 << 62;
const KEY: &str = "UCRAFZAHGBQKZ5WVGGAZTW3N7PIO7NNEZC77U2TFP7DSBDSFHKEUCIHK";
/// From a change to the connection being closed, for a machine that is busy.
const BUSY: Duration = Duration::from_secs(10);

/// From then to the line that names the liar.
const TOLD_WITHIN: Duration = Duration::from_secs(90);

/// One that lies, until it is dropped.
struct Liar {
    id: String,
    asked: Arc<AtomicUsize>,
    /// How many connections were asked for in each question, and which were to be closed.
    limits: Arc<Mutex<Vec<u64>>>,
    closed: Arc<Mutex<BTreeSet<u64>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Liar {
    async fn begin(url: &str, seed: &Seed<User>, lie: Lie) -> Self {
        let options = ConnectOptions::with_nkey(seed.expose().to_owned());
        let client = options.connect(url).await.unwrap();
        let id = Signer::new(&Seed::<Server>::generate()).unwrap().public().to_string();
        let asked = Arc::new(AtomicUsize::new(0));
        let mut pings = client.subscribe("$SYS.REQ.SERVER.PING").await.unwrap();
        let mut questions = client.subscribe(format!("$SYS.REQ.SERVER.{id}.CONNZ")).await.unwrap();
        let mut kicks = client.subscribe(format!("$SYS.REQ.SERVER.{id}.KICK")).await.unwrap();
        client.flush().await.unwrap();
        let (me, count) = (id.clone(), asked.clone());
        let servers = if matches!(lie, Lie::Honest(_)) { 2 } else { MANY };
        let (limits, closed) = <(Arc<Mutex<Vec<u64>>>, Arc<Mutex<BTreeSet<u64>>>)>::default();
        let (all_limits, all_closed) = (limits.clone(), closed.clone());
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some(ping) = pings.next() => {
                        let answer = json!({
                            "server": {"id": me, "name": "liar\nevent=x", "ver": "2.15.1"},
                            "statsz": {"active_servers": servers},
                        });
                        tell(&client, &ping, answer.to_string()).await;
                    }
                    Some(question) = questions.next() => {
                        let number = count.fetch_add(1, Ordering::SeqCst);
                        let asked: Value = serde_json::from_slice(&question.payload).unwrap();
                        limits.lock().unwrap().extend(asked["limit"].as_u64());
                        if let Some(answer) = answer(&me, lie, number as u64, &asked) {
                            if lie == Lie::Slow {
                                tokio::time::sleep(Duration::from_millis(2500)).await;
                            }
                            tell(&client, &question, answer).await;
                        }
                    }
                    Some(kick) = kicks.next() => {
                        let asked: Value = serde_json::from_slice(&kick.payload).unwrap();
                        closed.lock().unwrap().insert(asked["cid"].as_u64().unwrap());
                        let answer = json!({"server": {"id": me}, "data": {}});
                        tell(&client, &kick, answer.to_string()).await;
                    }
                }
            }
        });
        Self { id, asked, limits: all_limits, closed: all_closed, task }
    }
}

async fn tell(client: &Client, question: &Message, answer: String) {
    client.publish(question.reply.clone().unwrap(), answer.into()).await.unwrap();
}

fn answer(id: &str, lie: Lie, number: u64, asked: &Value) -> Option<String> {
    let of = |total: u64, from: u64, count: u64, name: &str| {
        let gone = format!("gone/{KEY}/{0}/{0}/1700000000/1700003600", "0".repeat(64));
        let all: Vec<Value> = (from..from + count)
            .map(|cid| {
                let user = if cid == GONE { &gone } else { "" };
                json!({
                    "cid": cid, "kind": "Client", "type": "nats", "name": name,
                    "authorized_user": user, "account": "APP",
                })
            })
            .collect();
        json!({"server": {"id": id}, "data": {"total": total, "connections": all}}).to_string()
    };
    let page = |from, count, name: &str| of(MANY, from, count, name);
    Some(match lie {
        Lie::Total => page(0, 0, ""),
        Lie::SamePage => page(0, 256, ""),
        Lie::NewPages | Lie::Slow => page(number * 256, 256, ""),
        Lie::Silent => return None,
        Lie::Huge => page(0, 250, &"x".repeat(80_000)),
        Lie::TooMany => page(0, 5000, ""),
        Lie::Broken => "{\"server\": {".to_owned(),
        Lie::Deep => "[".repeat(1_000_000),
        Lie::Another => page(0, 1, "").replace(id, &id.replace('N', "M")),
        Lie::Honest(most) => {
            let [limit, offset] = ["limit", "offset"].map(|key| asked[key].as_u64().unwrap());
            if limit > most {
                return Some(of(CROWD, offset, 1, &"x".repeat(17_000_000)));
            }
            of(CROWD, offset, limit.min(CROWD - offset), "")
        }
    })
}

fn policy(n: usize) -> String {
    format!(
        "[service.loser]\nnkeys = [\"{{loser}}\"]\npublishes = [\"x.{n}\"]\n\
         [service.same]\nnkeys = [\"{{same}}\"]\npublishes = [\"y\"]\n"
    )
}

/// From a change that takes something to its connection being closed.
async fn take(deployment: &Deployment, n: usize) -> Duration {
    let loser = deployment.service("loser");
    let mut open = Raw::login(deployment, &loser).await;
    let began = Instant::now();
    deployment.write_policy(&policy(n));
    open.closed().await;
    began.elapsed()
}

/// The line that names it, after so many; one that takes its time has half a minute for it.
async fn told_of(deployment: &Deployment, liar: &Liar, mark: usize) -> Value {
    eventually_within(TOLD_WITHIN, "a line that names it", async || {
        let mut new = deployment.instances[0].lines().into_iter().skip(mark);
        new.find(|l| l["event"] == "survey_incomplete" && l["server_id"] == *liar.id)
    })
    .await
}

/// A deployment that knows a user of the system account, with its seed.
async fn start(version: &'static str) -> (Deployment, Seed<User>) {
    let seed = Seed::<User>::generate();
    let key = Signer::new(&seed).unwrap().public().to_string();
    let mut deployment = Prepared::new()
        .with_server("  SYS {\n", &format!("  SYS {{\n    users: [ {{ nkey: {key} }} ]\n"))
        .with_server("auth_users: [", &format!("auth_users: [ {key},"))
        // A server that is slow to say that it is there is missed once, and found by the next look.
        .with_settings("[system]", "[sessions]\nevery = \"1s\"\n\n[system]")
        .with_server("jetstream {", "max_payload: 32MB\nmax_pending: 128MB\njetstream {")
        .start(version, &policy(0))
        .await;
    deployment.instances[0].says("system_connected").await;
    (deployment, seed)
}

on_the_newest_server!(who_lies_about_its_connections_keeps_nobody_elses_open, more_room);
async fn who_lies_about_its_connections_keeps_nobody_elses_open(version: &'static str) {
    let (mut deployment, seed) = start(version).await;
    let mut same = Raw::login(&deployment, &deployment.service("same")).await;
    let alone = take(&deployment, 1).await;
    let mut told = vec![format!("alone {alone:.0?}")];
    for (n, lie) in (2..).zip(LIES) {
        let liar = Liar::begin(deployment.url(), &seed, lie).await;
        let mark = deployment.instances[0].lines().len();
        let took = take(&deployment, n).await;
        assert!(took < BUSY, "{lie:?}: {took:?}");
        let line = told_of(&deployment, &liar, mark).await;
        assert!(!line["server"].as_str().unwrap().contains('\n'), "{line}");
        eventually_within(4 * DEADLINE, "the metric", async || {
            let failing =
                deployment.instances[0].metric("solewriter_session_servers_failing").await;
            (failing == 1.0).then_some(())
        })
        .await;
        if lie == Lie::Total {
            let said = eventually_within(4 * DEADLINE, "doctor to tell of it", async || {
                let ran = deployment.tool(&["doctor", "--format", "json"]).await;
                Some(ran.out).filter(|out| out.contains("do not list open connections correctly"))
            })
            .await;
            assert!(said.contains("cannot be true"), "{said}");
        }
        let sweeps = deployment.instances[0]
            .metric("solewriter_session_sweeps_total{outcome=\"incomplete\"}")
            .await;
        let asked = liar.asked.load(Ordering::SeqCst);
        told.push(format!("{lie:?} {took:.0?}, asked {asked} times in {sweeps} sweeps in all"));
    }
    println!("{version}: {}", told.join("; "));
    assert_eq!(same.fence().await, Ok(()), "another one was closed");
}

on_the_newest_server!(a_server_with_very_many_is_asked_few_times, some_room);
/// For each page a real one sorts all that it has: many pages of many connections cost it dear.
async fn a_server_with_very_many_is_asked_few_times(version: &'static str) {
    let (deployment, seed) = start(version).await;
    for most in [12_288, 256] {
        let server = Liar::begin(deployment.url(), &seed, Lie::Honest(most)).await;
        eventually_within(4 * DEADLINE, "one to be closed", async || {
            (!server.closed.lock().unwrap().is_empty()).then_some(())
        })
        .await;
        assert_eq!(*server.closed.lock().unwrap(), BTreeSet::from([GONE]));
        let limits = server.limits.lock().unwrap().clone();
        assert!(limits.iter().all(|limit| [256, 12_288].contains(limit)), "{limits:?}");
        let large = limits.iter().filter(|limit| **limit == 12_288).count();
        let small = limits.len() - large;
        if most == 12_288 {
            assert!(large >= 1 && large <= 3 * small, "{limits:?}");
        } else {
            // One that cannot be answered, and then the small ones.
            assert!(large >= 1 && small > large, "{limits:?}");
        }
        let incomplete = deployment.instances[0].lines();
        let incomplete = incomplete.iter().find(|line| line["event"] == "survey_incomplete");
        assert_eq!(incomplete, None, "with {most}");
    }
}
