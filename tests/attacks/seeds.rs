//! What who has the seed of one of solewriter's own users gets at with it: each is tried where it
//! must fail, and first where it must work.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use solewriter::policy_source::bucket::Bucket;
use solewriter::prove::{Attack, Control, Ending, Expected, Family, Step, Who};
use solewriter_types::keyspace::BucketName;
use tokio::time::{sleep, timeout};

use super::deployment::{Deployment, Prepared, eventually, with_room};
use super::raw::Raw;
use super::suite::{Place, Wrong, settled};

/// What `init` wrote while there were four accounts: there, these attacks work.
const FOUR_ACCOUNTS: &str = include_str!("../../src/cli/upgrade/nats-server.conf");

/// How long nothing may happen where something would.
const PATIENCE: Duration = Duration::from_millis(800);

const POLICY: &str = r#"
[service.follower]
nkeys = ["{follower}"]
publishes = ["audit.events.follower.*"]
owns = ["own"]

[bucket.own]
"#;

/// Whose seed it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seed {
    /// A user that `init` makes.
    Own(&'static str),
    /// A service that reports audit events.
    Follower,
}

/// Where it is tried, or its control is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// As `init` writes it.
    Shipped,
    /// As it did while there were four accounts.
    FourAccounts,
    /// As `init` writes it, but the system user is in the system account, with its permissions.
    SystemUserInSys,
}

/// What is done. `{api}` is JetStream's of the policy's bucket, as the callout user names it;
/// `{server}` the id of a server.
enum Act {
    /// Publishes: subject, reply subject, payload.
    Send(&'static str, &'static str, &'static str),
    /// Asks every server for its connections, with that reply subject.
    AskAll(&'static str),
    /// Subscribes.
    Listen(&'static str),
}
use Act::{AskAll, Listen, Send};

/// What shows that it worked.
#[derive(Clone, Copy, Debug)]
enum Effect {
    /// The policy's bucket has that key.
    Policy(&'static str),
    /// The policy's bucket is gone, and its log with it.
    PolicyGone,
    /// A value in the account of the buckets is another.
    Value,
    /// A bucket there is gone.
    Gone,
    /// A consumer there is gone.
    Consumer,
    /// The instances hear of one that there is not.
    Beat,
    /// The server read its configuration again.
    Reload,
    /// It hears what the servers tell each other.
    Hears,
    /// Somebody else's connection is closed.
    Closed,
}

/// One row: who, what, and where it works.
struct Try {
    id: &'static str,
    title: &'static str,
    seed: Seed,
    acts: Vec<Act>,
    effect: Effect,
    expected: Expected,
    control: (Layout, Option<(Seed, Vec<Act>)>),
    how: &'static str,
    cluster: bool,
}

const CALLOUT: Seed = Seed::Own("callout");
const SYSTEM: Seed = Seed::Own("system");
const STORED: Act = Send("audit.events.solewriter.x", "_INBOX.solewriter.a", "bytes of its choice");

fn refused(why: &'static str) -> Expected {
    Expected::Closed { by: Ending::Refused, why }
}

fn nothing(why: &'static str) -> Expected {
    Expected::Closed { by: Ending::NoEffect, why }
}

const FOUR: &str = "where the policy's bucket and the callout were in one account";
const ADMIN: &str = "for the admin, in the account of the buckets";
const APART: &str = "a reply ends in the account that asked, and the callout's has no JetStream";
const LAST: &str = "$JS.API.DIRECT.GET.AUDIT_EVENTS.audit.events.solewriter.x";

/// Where it works: in that deployment, done so by that user if it is another; and in words.
type Works = ((Layout, Option<(Seed, Vec<Act>)>), &'static str);

fn of(
    id: &'static str,
    title: &'static str,
    seed: Seed,
    acts: Vec<Act>,
    effect: Effect,
    expected: Expected,
    (control, how): Works,
) -> Try {
    Try { id, title, seed, acts, effect, expected, control, how, cluster: false }
}

fn by_the_admin(acts: Vec<Act>) -> (Layout, Option<(Seed, Vec<Act>)>) {
    (Layout::Shipped, Some((Seed::Own("admin"), acts)))
}

fn tries() -> Vec<Try> {
    callouts().into_iter().chain(others()).chain(systems()).collect()
}

fn callouts() -> Vec<Try> {
    vec![
        of(
            "seed-callout-policy",
            "The callout's seed: bytes of its choice into the policy's bucket, through an event of \
             its own",
            CALLOUT,
            vec![STORED, Send(LAST, "$KV.solewriter_policy.doc.evil", "")],
            Effect::Policy("doc.evil"),
            nothing(APART),
            ((Layout::FourAccounts, None), FOUR),
        ),
        of(
            "seed-callout-blocks",
            "The callout's seed: the next revision is taken, so that nobody can push",
            CALLOUT,
            vec![Send(
                "{api}.STREAM.INFO.KV_solewriter_policy",
                "$KV.solewriter_policy.revision.2",
                "",
            )],
            Effect::Policy("revision.2"),
            nothing(APART),
            ((Layout::FourAccounts, None), FOUR),
        ),
        of(
            "seed-callout-state",
            "The callout's seed: the same into a bucket of a service",
            CALLOUT,
            vec![STORED, Send(LAST, "$KV.victim.k1", "")],
            Effect::Value,
            nothing(APART),
            (
                by_the_admin(vec![Send(
                    "$JS.API.DIRECT.GET.KV_victim.$KV.victim.k0",
                    "$KV.victim.k1",
                    "",
                )]),
                ADMIN,
            ),
        ),
        of(
            "seed-callout-delete",
            "The callout's seed: a bucket is deleted",
            CALLOUT,
            vec![Send("$JS.STATE.API.STREAM.DELETE.KV_victim", "_INBOX.solewriter.a", "")],
            Effect::Gone,
            refused("of that API it has the list and the end of consumers"),
            (by_the_admin(vec![Send("$JS.API.STREAM.DELETE.KV_victim", "_INBOX.a", "")]), ADMIN),
        ),
        of(
            "seed-callout-delete-by-reply",
            "The callout's seed: the same, as the reply subject",
            CALLOUT,
            vec![
                Send("audit.events.solewriter.x", "_INBOX.solewriter.a", ""),
                Send(LAST, "$JS.STATE.API.STREAM.DELETE.KV_victim", ""),
            ],
            Effect::Gone,
            nothing("its account imports no more than that"),
            (
                by_the_admin(vec![
                    Send("$KV.victim.empty", "_INBOX.a", ""),
                    Send(
                        "$JS.API.DIRECT.GET.KV_victim.$KV.victim.empty",
                        "$JS.API.STREAM.DELETE.KV_victim",
                        "",
                    ),
                ]),
                ADMIN,
            ),
        ),
        of(
            "seed-callout-consumers",
            "The callout's seed: a consumer is deleted",
            CALLOUT,
            vec![Send("$JS.STATE.API.CONSUMER.DELETE.KV_victim.c", "_INBOX.solewriter.a", "")],
            Effect::Consumer,
            Expected::Residual {
                reason: "solewriter ends consumers that no grant covers, and its seed can end any",
                mitigation: "whoever watches makes another; new seeds for the callout user",
            },
            ((Layout::Shipped, None), "here"),
        ),
    ]
}

fn systems() -> Vec<Try> {
    vec![
        of(
            "seed-system-purge",
            "The system user's seed: every stream of the account of the buckets is deleted",
            SYSTEM,
            vec![Send("$JS.API.ACCOUNT.PURGE.STATE", "_INBOX.solewriter.a", "")],
            Effect::Gone,
            refused("it may ask the servers six things"),
            (
                (Layout::FourAccounts, None),
                "where it was in the system account, without permissions",
            ),
        ),
        of(
            "seed-system-reload",
            "The system user's seed: a server reads its configuration again",
            SYSTEM,
            vec![Send("$SYS.REQ.SERVER.{server}.RELOAD", "_INBOX.solewriter.a", "")],
            Effect::Reload,
            refused("it may ask the servers six things"),
            (
                (Layout::FourAccounts, None),
                "where it was in the system account, without permissions",
            ),
        ),
        of(
            "seed-system-listen",
            "The system user's seed: hear what the servers tell each other, who comes and goes",
            SYSTEM,
            vec![Listen("$SYS.>")],
            Effect::Hears,
            refused("it may listen to its own inbox"),
            (
                (Layout::FourAccounts, None),
                "where it was in the system account, without permissions",
            ),
        ),
        of(
            "seed-system-closes",
            "The system user's seed: somebody's connection is closed",
            SYSTEM,
            vec![Send("$SYS.REQ.SERVER.{server}.KICK", "_INBOX.solewriter.a", "{cid}")],
            Effect::Closed,
            Expected::Residual {
                reason: "solewriter closes connections whose grant is gone, and its seed can close \
                         any",
                mitigation: "clients come back by themselves; new seeds for the system user",
            },
            ((Layout::Shipped, None), "here"),
        ),
        Try {
            cluster: true,
            ..of(
                "seed-system-purge-by-reply",
                "The system user's seed: the same as the reply subject of a question that it may ask",
                SYSTEM,
                vec![AskAll("$JS.API.ACCOUNT.PURGE.STATE")],
                Effect::Gone,
                nothing("the answers end in its own account, and not in the system account"),
                (
                    (Layout::SystemUserInSys, None),
                    "where it was in the system account, with these permissions",
                ),
            )
        },
    ]
}

fn others() -> Vec<Try> {
    vec![
        of(
            "seed-publisher-erases",
            "The publisher's seed: the policy's bucket is deleted, with the log of who pushed what",
            Seed::Own("publisher"),
            vec![
                Send("$KV.solewriter_policy.doc.empty", "_INBOX.solewriter.a", ""),
                Send(
                    "{api}.DIRECT.GET.KV_solewriter_policy.$KV.solewriter_policy.doc.empty",
                    "$JS.API.STREAM.DELETE.KV_solewriter_policy",
                    "",
                ),
            ],
            Effect::PolicyGone,
            nothing("a reply ends in its own account, which has no JetStream"),
            ((Layout::FourAccounts, None), "where it was in one account with the bucket"),
        ),
        of(
            "seed-publisher-beat",
            "The publisher's seed: an instance that there is not keeps the others from closing \
             connections",
            Seed::Own("publisher"),
            vec![Send("solewriter.instance.x", "", "a beat")],
            Effect::Beat,
            refused("its account imports what instances say, and says nothing to them"),
            ((Layout::FourAccounts, None), FOUR),
        ),
        of(
            "seed-audit-admin-state",
            "The audit admin's seed: a value in a bucket",
            Seed::Own("audit-admin"),
            vec![Send("$KV.victim.k1", "_INBOX.a", "evil")],
            Effect::Value,
            nothing("its account has the audit streams alone, and imports nothing"),
            (by_the_admin(vec![Send("$KV.victim.k1", "_INBOX.a", "evil")]), ADMIN),
        ),
        of(
            "seed-follower-state",
            "A service's seed: the receipt of an audit event into a bucket, from one account into \
             another",
            Seed::Follower,
            vec![Send("audit.events.follower.run", "$KV.victim.k1", "")],
            Effect::Value,
            nothing("what comes back from one account is not passed on to another"),
            (by_the_admin(vec![Send("$KV.victim.k0", "$KV.victim.k1", "")]), ADMIN),
        ),
    ]
}

/// The rows of the page.
pub fn family() -> Family {
    let attacks = tries().into_iter().map(|t| {
        let mut attack: Attack = super::suite::families().remove(0).attacks.remove(0);
        let residual = matches!(t.expected, Expected::Residual { .. });
        attack.id = t.id;
        attack.title = t.title;
        attack.who = Who::Thief;
        attack.steps = t.acts.iter().map(line).collect();
        attack.expected = t.expected;
        attack.control = if residual { Control::Here } else { Control::Told(t.how) };
        attack.in_prove = false;
        attack.cluster = t.cluster;
        attack
    });
    Family {
        title: "Leaked seeds",
        about: "Who attacks has the seed of one of solewriter's own users, or of a service. What \
                each can do is in [seeds.md](seeds.md).",
        attacks: attacks.collect(),
    }
}

fn line(act: &Act) -> Step {
    let text = match act {
        Send(subject, "", _) => format!("PUB {subject}"),
        Send(subject, reply, _) => format!("PUB {subject} {reply}"),
        AskAll(reply) => format!("PUB $SYS.REQ.SERVER.{{server}}.CONNZ {reply}"),
        Listen(subject) => format!("SUB {subject}"),
    };
    // A table of a test, made a few times.
    Step::Told(Box::leak(text.into_boxed_str()))
}

/// Everything, at one place. Gives what came of each, or what is not as it should be.
pub async fn run(place: Place) -> Vec<(&'static str, Result<Option<Ending>, String>)> {
    let mut seen = Vec::new();
    for one in tries().into_iter().filter(|one| one.cluster == place.cluster) {
        let mut tries = 0;
        let outcome = loop {
            if let Some(settled) = settled(try_it(&one, place).await, &mut tries) {
                break settled;
            }
        };
        seen.push((one.id, outcome));
    }
    seen
}

async fn try_it(one: &Try, place: Place) -> Result<Option<Ending>, Wrong> {
    let residual = matches!(one.expected, Expected::Residual { .. });
    // What works need not work at once.
    let mut patience = if residual { 10 * PATIENCE } else { PATIENCE };
    if !residual {
        let (layout, other) = &one.control;
        let stage = Stage::set(*layout, place).await;
        let (seed, acts) = match other {
            Some((seed, acts)) => (*seed, acts),
            None => (one.seed, &one.acts),
        };
        let began = Instant::now();
        let ending = stage.attempt(seed, acts, one.effect, 10 * PATIENCE).await;
        if ending != Ending::Succeeded {
            let text = format!("its control should work, and {}", ending.word());
            return Err(Wrong::Otherwise(text));
        }
        patience = patience.max(began.elapsed() * 2);
    }
    let stage = Stage::set(Layout::Shipped, place).await;
    let ending = stage.attempt(one.seed, &one.acts, one.effect, patience).await;
    let expected = match one.expected {
        Expected::Closed { by, .. } => ending == by,
        Expected::Residual { .. } | Expected::Known { .. } => ending == Ending::Succeeded,
    };
    if expected {
        Ok(Some(ending))
    } else {
        Err(Wrong::ended(ending, format!("{:?}, but {}", one.expected, ending.word())))
    }
}

/// A deployment with a policy in its bucket, a service's bucket and the audit streams.
struct Stage {
    layout: Layout,
    deployment: Deployment,
}

impl Stage {
    async fn set(layout: Layout, place: Place) -> Self {
        let mut prepared =
            if layout == Layout::Shipped { place.prepared() } else { Prepared::new() };
        match layout {
            Layout::Shipped => {}
            Layout::FourAccounts => {
                std::fs::write(prepared.files.server_config(), with_room(FOUR_ACCOUNTS)).unwrap();
                prepared = prepared.without_value("AUDIT_ADMIN_KEY");
            }
            Layout::SystemUserInSys => {
                let config = std::fs::read_to_string(prepared.files.server_config()).unwrap();
                let (before, rest) = config.split_once("  MONITOR {\n").unwrap();
                let (monitor, after) = rest.split_once("    imports: [").unwrap();
                let (_, after) = after.split_once("  SYS {\n").unwrap();
                let (_, after) = after.split_once("\n  }\n").unwrap();
                let config = format!("{before}  SYS {{\n{monitor}  }}\n{after}");
                std::fs::write(prepared.files.server_config(), config).unwrap();
            }
        }
        let mut deployment = if place.cluster {
            prepared.start_cluster(place.version, POLICY).await
        } else {
            prepared.start_broker(place.version, POLICY).await
        };
        // Who is no user of our own takes solewriter to get in.
        if layout == Layout::Shipped {
            deployment.add_instance(&[]).await;
        }
        let stage = Self { layout, deployment };
        stage.fill().await;
        stage
    }

    async fn fill(&self) {
        let client = self.deployment.client("publisher", self.deployment.url()).await;
        let bucket = BucketName::parse("solewriter_policy").unwrap();
        let bucket = if self.layout == Layout::FourAccounts {
            Bucket::in_own_account(client.clone(), bucket)
        } else {
            Bucket::new(client.clone(), bucket)
        };
        bucket.create(Some(1)).await.unwrap();
        let mut publisher = async_nats::jetstream::new(client);
        publisher.set_timeout(super::deployment::DEADLINE);
        // In a cluster, the server of this connection hears of the stream a moment later.
        eventually("the first revision to be stored", async || {
            let first = publisher.publish("$KV.solewriter_policy.revision.1", "one".into()).await;
            first.unwrap().await.ok()
        })
        .await;
        self.deployment.create_buckets(&["victim", "own"]).await;
        let victim = self.deployment.bucket("victim").await;
        victim.put("k0", "zero".into()).await.unwrap();
        victim.put("k1", "one".into()).await.unwrap();
        let consumer = json!({"stream_name": "KV_victim", "config": {"name": "c", "durable_name":
            "c", "ack_policy": "explicit"}});
        self.ask("admin", "$JS.API.CONSUMER.CREATE.KV_victim.c", &consumer).await;
        let streams: &[(&str, &str, &str)] = if self.layout == Layout::FourAccounts {
            &[("admin", "AUDIT_EVENTS", "audit.events.solewriter.*")]
        } else {
            &[
                ("audit-admin", "AUDIT_EVENTS", "audit.events.solewriter.*"),
                ("audit-admin", "AUDIT_SERVICES", "audit.services.*.*"),
            ]
        };
        for (user, name, subject) in streams {
            let config = json!({"name": name, "subjects": [subject], "allow_direct": true});
            self.ask(user, &format!("$JS.API.STREAM.CREATE.{name}"), &config).await;
        }
    }

    async fn ask(&self, user: &str, subject: &str, question: &Value) -> Value {
        let client = self.deployment.client(user, self.deployment.url()).await;
        let answer = client.request(subject.to_owned(), question.to_string().into()).await;
        let answer: Value = serde_json::from_slice(&answer.unwrap().payload).unwrap();
        assert!(answer.get("error").is_none(), "{subject}: {answer}");
        answer
    }

    async fn attempt(
        &self,
        seed: Seed,
        acts: &[Act],
        effect: Effect,
        patience: Duration,
    ) -> Ending {
        let mut thief = match seed {
            Seed::Own(name) => Raw::login_as(&self.deployment, name).await,
            Seed::Follower => {
                Raw::login(&self.deployment, &self.deployment.service("follower")).await
            }
        };
        let state = format!("PURGE.{}", self.deployment.account("STATE"));
        let callout = self.deployment.client("callout", self.deployment.url()).await;
        let mut beats = callout.subscribe("solewriter.instance.x").await.unwrap();
        callout.flush().await.unwrap();
        let somebody = self.deployment.client("admin", self.deployment.url()).await;
        let api = if self.layout == Layout::FourAccounts { "$JS.API" } else { "$JS.POLICY.API" };
        let info = somebody.server_info();
        let cid = json!({"cid": info.client_id}).to_string();
        for act in acts {
            let done = match act {
                Send(subject, reply, payload) => {
                    let subject = subject
                        .replace("{api}", api)
                        .replace("{server}", &info.server_id)
                        .replace("PURGE.STATE", &state);
                    let payload = payload.replace("{cid}", &cid);
                    thief.publish_with(&subject, reply, "", payload.as_bytes()).await
                }
                AskAll(reply) => {
                    let mut done = Ok(());
                    for node in self.deployment.nodes() {
                        let admin = self.deployment.client("admin", node.client_url()).await;
                        let id = admin.server_info().server_id;
                        let subject = format!("$SYS.REQ.SERVER.{id}.CONNZ");
                        done = done.and(thief.publish_with(&subject, reply, "", b"").await);
                    }
                    done
                }
                Listen(subject) => thief.subscribe(subject).await.map(drop),
            };
            if done.is_err() {
                return Ending::Refused;
            }
        }
        let began = Instant::now();
        loop {
            let happened = match effect {
                Effect::Policy(key) => {
                    let question = json!({"subjects_filter": ">"});
                    let subject = format!("{api}.STREAM.INFO.KV_solewriter_policy");
                    let info = self.ask("publisher", &subject, &question).await;
                    info["state"]["subjects"].get(format!("$KV.solewriter_policy.{key}")).is_some()
                }
                Effect::PolicyGone => {
                    let client = self.deployment.client("publisher", self.deployment.url()).await;
                    let subject = format!("{api}.STREAM.INFO.KV_solewriter_policy");
                    let answer = client.request(subject, "".into()).await.unwrap();
                    String::from_utf8_lossy(&answer.payload).contains("stream not found")
                }
                Effect::Value => {
                    let value = self.deployment.bucket("victim").await.get("k1").await.unwrap();
                    value.as_deref() != Some(b"one")
                }
                Effect::Gone => {
                    self.deployment.admin().await.get_stream("KV_victim").await.is_err()
                }
                Effect::Consumer => {
                    let list =
                        self.ask("admin", "$JS.API.CONSUMER.NAMES.KV_victim", &Value::Null).await;
                    !list["consumers"].as_array().is_some_and(|all| all.contains(&json!("c")))
                }
                Effect::Beat => timeout(Duration::from_millis(100), beats.next()).await.is_ok(),
                Effect::Reload => {
                    self.deployment.server.log().contains("Reloaded server configuration")
                }
                Effect::Hears => {
                    // Somebody comes.
                    self.deployment.client("admin", self.deployment.url()).await;
                    timeout(Duration::from_millis(200), thief.message()).await.is_ok()
                }
                Effect::Closed => self
                    .deployment
                    .connections("STATE")
                    .await
                    .iter()
                    .all(|found| found["cid"].as_u64() != Some(info.client_id)),
            };
            if happened {
                return Ending::Succeeded;
            }
            if began.elapsed() > patience {
                return Ending::NoEffect;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A reply subject that leads into an import crashes a server of 2.10 where the import has `*` in
/// both of its names. None has; and the same with `*` does, where the version has the fault.
#[tokio::test(flavor = "multi_thread")]
async fn no_reply_subject_crashes_a_server() {
    let _room = crate::room::some_room().await;
    for version in ["2.10.25", "2.15.1"] {
        let place = Place { version, cluster: false, observed: false, operator: false };
        let stage = Stage::set(Layout::Shipped, place).await;
        assert!(!crashes(stage).await, "{version}");
    }
    let wild = Prepared::new()
        .with_server("{ service: \"audit.services.>\"", "{ service: \"audit.services.*.*\"")
        .with_server(
            "subject: \"audit.services.>\" }, to: \"audit.events.>\"",
            "subject: \
                      \"audit.services.*.*\" }, to: \"audit.events.*.*\"",
        );
    let deployment = wild.start("2.10.25", POLICY).await;
    let stage = Stage { layout: Layout::Shipped, deployment };
    stage.fill().await;
    assert!(crashes(stage).await, "it shows nothing any more");
}

/// Whether a server of the deployment ends when replies lead into each of the imports.
async fn crashes(mut stage: Stage) -> bool {
    let deployment = &stage.deployment;
    let mut callout = Raw::try_login(deployment.url(), &deployment.seed("callout")).await.unwrap();
    let follower = deployment.service("follower");
    let mut service = Raw::try_login(deployment.url(), &follower.seed).await.unwrap();
    for reply in ["audit.events.a.b", "$JS.AUDIT.API.STREAM.INFO.X", "$JS.API.INFO", "$KV.a.b"] {
        for subject in ["audit.events.follower.run", "$KV.own.k"] {
            let line = format!("PUB {subject} {reply} 0\r\n\r\n");
            service.send(line.as_bytes()).await;
        }
    }
    for reply in ["$JS.STATE.API.CONSUMER.LIST.X", "$JS.AUDIT.API.CONSUMER.DELETE.X.y"] {
        let line = format!("PUB audit.events.solewriter.x {reply} 0\r\n\r\n");
        callout.send(line.as_bytes()).await;
    }
    let began = Instant::now();
    while began.elapsed() < 2 * PATIENCE {
        if !stage.deployment.server.is_running() {
            return true;
        }
        sleep(Duration::from_millis(20)).await;
    }
    // It is there, and answers.
    eventually("an answer", async || {
        Raw::try_login(stage.deployment.url(), &stage.deployment.seed("admin")).await.ok()
    })
    .await;
    false
}

/// Whatever is tried with a leaked seed is on the page about seeds, and what the page names is tried.
#[test]
fn the_page_about_seeds_names_what_is_tried() {
    let root = env!("CARGO_MANIFEST_DIR");
    let page = std::fs::read_to_string(format!("{root}/docs/seeds.md")).unwrap();
    let tests = std::fs::read_to_string(format!("{root}/tests/e2e/seeds.rs")).unwrap();
    let ids: Vec<&str> = family().attacks.iter().map(|attack| attack.id).collect();
    for id in &ids {
        assert!(page.contains(&format!("`{id}`")), "docs/seeds.md does not name {id}");
    }
    let doors: Vec<&str> = super::doors::family().attacks.iter().map(|attack| attack.id).collect();
    let mut named = 0;
    for word in page.split('`').skip(1).step_by(2) {
        if word.starts_with("seed-") || word.starts_with("answer-") {
            assert!(ids.contains(&word) || doors.contains(&word), "nothing tries {word}");
            named += 1;
        } else if word.starts_with("the_") {
            assert!(
                tests.contains(&format!("on_every_server!({word});")),
                "there is no test {word}"
            );
            named += 1;
        }
    }
    assert!(named > ids.len(), "{named}");
    // Each seed that `init` makes has a row.
    for seed in ["issuer.nk", "callout.xk", "callout.nk", "publisher.nk", "admin.nk"] {
        assert!(page.contains(&format!("| `{seed}` |")), "{seed}");
    }
    for seed in ["audit-admin.nk", "system.nk"] {
        assert!(page.contains(&format!("| `{seed}` |")), "{seed}");
    }
}
