//! Two versions side by side, and what an older one left behind.
//!
//! `deploy/upgrade-check OLD NEW` runs the first test with two programs. Without, both are the one that is
//! tested: then it says that instances can be replaced one after the other under load.
//! `tests/formats` has what an older program wrote, byte for byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::deployment::{DEADLINE, Deployment, Prepared, Ran, eventually, eventually_within, read};

/// What an older program wrote.
const FORMATS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/formats");
const BUCKET: &str = "solewriter_policy";
/// How long a push may wait for what moves.
const SETTLED: Duration = Duration::from_secs(120);

/// The services, with the owner of `orders`.
fn policy(owner: &str, more: &str) -> String {
    let mut text = String::new();
    for name in ["first", "second"] {
        let owns = if name == owner { "\"orders\"" } else { "" };
        text += &format!("\n[service.{name}]\nnkeys = [\"{{{name}}}\"]\nowns = [{owns}]\n");
    }
    text + &format!("\n[service.busy]\nnkeys = [\"{{busy}}\"]\nowns = [\"rates\"]\n{more}")
}

/// Somebody who connects again and again, one login after the other.
struct Load {
    stop: Arc<AtomicBool>,
    logins: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(deployment: &Deployment) -> Self {
        let (stop, logins) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let url = deployment.url().to_owned();
        let seed = deployment.service("busy").seed.expose().to_owned();
        let clients = (0..3).map(|_| {
            let (stop, logins, url, seed) =
                (stop.clone(), logins.clone(), url.clone(), seed.clone());
            tokio::spawn(async move {
                let mut failed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let options = async_nats::ConnectOptions::with_nkey(seed.clone());
                    match options.connect(&url).await {
                        Ok(client) => {
                            logins.fetch_add(1, Ordering::Relaxed);
                            // Some hundred a second in all: what is tested is that none fails, and
                            // not how many there can be.
                            tokio::time::sleep(Duration::from_millis(20)).await;
                            let _ = client.drain().await;
                        }
                        Err(error) => failed.push(error.to_string()),
                    }
                }
                failed
            })
        });
        let clients = clients.collect();
        Self { stop, logins, clients }
    }

    /// Waits for some more logins.
    async fn goes_on(&self) {
        let before = self.logins.load(Ordering::Relaxed);
        eventually("more logins", async || {
            (self.logins.load(Ordering::Relaxed) >= before + 10).then_some(())
        })
        .await;
    }

    /// How many logins there were, of which none failed.
    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            assert_eq!(client.await.unwrap(), Vec::<String>::new(), "a login failed");
        }
        self.logins.load(Ordering::Relaxed)
    }
}

/// A program, by its number: 0 is the older one.
struct Versions {
    programs: [PathBuf; 2],
    deployment: Deployment,
    /// How many pushes there were.
    pushed: u64,
}

impl Versions {
    async fn tool(&self, version: usize, arguments: &[&str]) -> Ran {
        let urls = self.deployment.urls();
        self.deployment.tool_of(&self.programs[version], &urls, arguments).await
    }

    /// Starts an instance of that version in a place, and stops the one that has it, as a package
    /// manager or a platform does: the new one is ready before.
    async fn replace(&mut self, place: usize, version: usize) {
        let kept = self.deployment.dir.path().join(format!("place-{place}.kept"));
        // What moves waits for the lease of an instance that ends.
        let kept = ["--policy-keep", kept.to_str().unwrap(), "--policy-lease", "2s"];
        let new = self.deployment.launch_program(&self.programs[version].clone(), &kept);
        self.deployment.instances[new].says("ready").await;
        if self.deployment.instances.len() > 2 {
            self.deployment.instances.swap(place, new);
            let mut old = self.deployment.instances.pop().unwrap();
            old.signal(Signal::TERM);
            let ended = timeout(DEADLINE, old.child.wait()).await.unwrap().unwrap();
            assert!(ended.success(), "{ended}: {}", read(&old.log));
            let log = read(&old.log);
            assert!(!log.contains("\"event\":\"defect\""), "{log}");
            // Its log stays where it is, and the next one has another.
            std::fs::rename(&old.log, old.log.with_extension(format!("{}.old", self.pushed)))
                .unwrap();
            let log = self.deployment.instances[place].log.clone();
            let stays = log.with_file_name(format!("place-{place}-{}.log", self.pushed));
            std::fs::rename(&log, &stays).unwrap();
            self.deployment.instances[place].log = stays;
        }
    }

    /// Pushes with that version. Every instance follows, and both versions say so.
    async fn push(&mut self, version: usize, owner: &str, more: &str) {
        self.deployment.write_policy(&policy(owner, more));
        let folder = self.deployment.files.policy();
        let folder = folder.to_str().unwrap();
        // It may have to wait for the lease of the instance that just ended.
        let push = ["policy", "push", folder, "-m", "a", "--author", "b", "--yes", "--wait", "25s"];
        let pushed = self.tool(version, &push).await;
        let waits = pushed.err.contains("nobody may write what moves yet");
        assert!(pushed.code == 0 || waits, "{pushed:?}");
        self.pushed += 1;
        for reader in [0, 1] {
            let status = eventually_within(SETTLED, "every instance serves it", async || {
                let status = self.tool(reader, &["policy", "status", "--format", "json"]).await;
                let status: Value = serde_json::from_str(&status.out).ok()?;
                let instances = status["instances"].as_array()?.clone();
                // And nothing is between two services any more.
                let serves = |one: &Value| {
                    one["number"] == self.pushed
                        && one["settled"] == true
                        && one["transit"].is_null()
                };
                (instances.len() == 2 && instances.iter().all(serves)).then_some(status)
            });
            status.await;
        }
    }

    /// Both read the audit of both, and miss nothing.
    async fn audit(&self) {
        for reader in [0, 1] {
            let stats = eventually("a complete audit", async || {
                let stats = self.tool(reader, &["audit", "stats", "--format", "json"]).await;
                (stats.code == 0).then_some(stats)
            })
            .await;
            let stats: Value = serde_json::from_str(&stats.out).unwrap();
            assert_eq!(stats["foreign"].as_array().map_or(0, Vec::len), 0, "{stats:#}");
        }
    }
}

on_the_newest_server!(versions_side_by_side, some_room);
/// An upgrade, one instance after the other, and the way back, while clients log in: no login fails,
/// what each pushes the other follows, what moves between services is settled, and the audit has no gap.
async fn versions_side_by_side(server: &'static str) {
    let ours = PathBuf::from(env!("CARGO_BIN_EXE_solewriter"));
    let program = |name: &str| std::env::var_os(name).map_or(ours.clone(), PathBuf::from);
    let programs = ["SOLEWRITER_OLD", "SOLEWRITER_NEW"].map(program);
    let bucket = format!("bucket = \"{BUCKET}\"");
    let prepared = Prepared::new().with_settings("directory = \"policy\"", &bucket);
    std::fs::remove_file(prepared.files.policy().join("services.test.toml")).unwrap();
    let deployment = prepared.start_broker(server, &policy("first", "")).await;
    let mut versions = Versions { programs, deployment, pushed: 1 };

    let folder = versions.deployment.files.policy();
    let push = ["policy", "push", folder.to_str().unwrap(), "-m", "a", "--author", "b", "--yes"];
    let pushed = versions.tool(0, &push).await;
    assert_eq!(pushed.code, 0, "{pushed:?}");
    versions.replace(0, 0).await;
    versions.replace(1, 0).await;
    if let Some(folder) = std::env::var_os("SOLEWRITER_RECORD") {
        record(&versions.deployment, Path::new(&folder)).await;
    }
    versions.deployment.create_audit_streams().await;
    let load = Load::start(&versions.deployment);
    load.goes_on().await;

    // Up and back: in between there is one of each. An owner changes each time.
    let owners = ["second", "first", "second", "first"];
    // With one program in both places, the way back is the way there.
    let steps = if versions.programs[0] == versions.programs[1] { 2 } else { 4 };
    for (step, (place, version)) in
        [(0, 1), (1, 1), (0, 0), (1, 0)].into_iter().enumerate().take(steps)
    {
        versions.replace(place, version).await;
        load.goes_on().await;
        versions.push(step % 2, owners[step], "").await;
        let other = format!("subscribes = [\"step.{step}\"]\n");
        versions.push((step + 1) % 2, owners[step], &other).await;
        load.goes_on().await;
        versions.audit().await;
    }
    let logins = load.end().await;
    assert!(logins > 100, "{logins}");
    println!("{logins} logins, none failed; {} pushes", versions.pushed);
}

/// What an older program wrote, as files: the bucket's messages, a beat, the events that wait on disk,
/// and the kept policy.
async fn record(deployment: &Deployment, folder: &Path) {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder.join("spool")).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    let stream = deployment.admin_of(&format!("KV_{BUCKET}")).await.unwrap();
    let stream = stream.get_stream(format!("KV_{BUCKET}")).await.unwrap();
    let mut bucket = BTreeMap::new();
    for sequence in 1..=stream.get_info().await.unwrap().state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let payload = String::from_utf8(message.payload.to_vec()).unwrap();
        bucket.insert(message.subject.to_string(), payload);
    }
    let config = stream.get_info().await.unwrap().config;
    write("stream.json", serde_json::to_string_pretty(&config).unwrap().as_bytes());
    write("bucket.json", serde_json::to_string_pretty(&bucket).unwrap().as_bytes());
    let publisher = deployment.login("publisher").connect(deployment.url()).await.unwrap();
    let mut beats = publisher.subscribe("solewriter.instance.*").await.unwrap();
    let beat = timeout(DEADLINE, beats.next()).await.unwrap().unwrap();
    write("beat.json", &beat.payload);
    write("policy.kept", read(&deployment.dir.path().join("place-0.kept")).as_bytes());
    let spool = deployment.files.dir.join("audit-spool");
    eventually("events on the disk", async || {
        let runs = std::fs::read_dir(&spool).ok()?.flatten();
        let files = runs.filter_map(|run| std::fs::read_dir(run.path()).ok()).flatten().flatten();
        let lines =
            files.map(|file| file.path()).filter(|f| f.extension().is_some_and(|e| e == "jsonl"));
        let (file, _) = lines
            .map(|file| (file.clone(), std::fs::read_to_string(file).unwrap_or_default()))
            .find(|(_, text)| text.contains("solewriter.policy.accepted"))?;
        // All that is in the folder of the run: the next one takes it over by its lock.
        let from = file.parent().unwrap();
        let run = from.file_name().unwrap().to_str().unwrap();
        std::fs::create_dir_all(folder.join("spool").join(run)).unwrap();
        for file in std::fs::read_dir(from).unwrap().flatten() {
            let name = file.file_name().into_string().unwrap();
            write(&format!("spool/{run}/{name}"), &std::fs::read(file.path()).unwrap());
        }
        Some(())
    })
    .await;
}

/// The recorded files.
fn recorded(name: &str) -> String {
    read(&Path::new(FORMATS).join(name))
}

on_the_newest_server!(what_an_older_version_wrote_is_read, some_room);
/// The bucket, the events on the disk, the kept policy and a beat of an older version; and what a newer
/// one might write is refused, said, and changes nothing.
async fn what_an_older_version_wrote_is_read(server: &'static str) {
    let bucket = format!("bucket = \"{BUCKET}\"");
    let prepared = Prepared::new().with_settings("directory = \"policy\"", &bucket);
    let mut deployment = prepared.start_broker(server, &policy("first", "")).await;
    let log: BTreeMap<String, String> = serde_json::from_str(&recorded("bucket.json")).unwrap();
    let newest: Value = serde_json::from_str(&log["$KV.solewriter_policy.revision.1"]).unwrap();

    // Before its bucket answers, the kept policy is in force. The spool's events are sent.
    let spool = deployment.files.dir.join("audit-spool");
    let runs = std::fs::read_dir(Path::new(FORMATS).join("spool")).unwrap();
    let mut events = Vec::new();
    for run in runs.flatten() {
        let to = spool.join(run.file_name());
        std::fs::create_dir_all(&to).unwrap();
        for file in std::fs::read_dir(run.path()).unwrap().flatten() {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
            let text = read(&file.path());
            // `acked` has a number, and the lock nothing.
            if file.path().extension().is_none() {
                continue;
            }
            events.extend(text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()));
        }
    }
    assert!(events.len() > 1, "{events:?}");
    let kept = deployment.dir.path().join("older.kept");
    std::fs::copy(Path::new(FORMATS).join("policy.kept"), &kept).unwrap();
    // It counts from when its source last answered.
    deployment.launch_instance(&[
        "--policy-keep",
        kept.to_str().unwrap(),
        "--policy-keep-at-most",
        "3650d",
    ]);
    let revision = newest["policy"].as_str().unwrap();
    let from_kept = |line: &Value| line["revision"] == revision;
    deployment.instances[0].says_where("policy_kept", from_kept).await;

    // The bucket as the older one wrote it.
    let context = deployment.admin_of(&format!("KV_{BUCKET}")).await.unwrap();
    let stream: async_nats::jetstream::stream::Config =
        serde_json::from_str(&recorded("stream.json")).unwrap();
    context.create_stream(stream).await.unwrap();
    for (subject, payload) in &log {
        context.publish(subject.clone(), payload.clone().into()).await.unwrap().await.unwrap();
    }
    eventually("the bucket's policy is in force", async || {
        let status = deployment.tool(&["policy", "status", "--format", "json"]).await;
        let status: Value = serde_json::from_str(&status.out).ok()?;
        let one = &status["instances"][0];
        (one["revision"] == revision && one["source_state"] == "answered").then_some(())
    })
    .await;
    let logged = deployment.tool(&["policy", "log"]).await;
    assert!(logged.code == 0 && logged.out.contains(&revision[..12]), "{logged:?}");

    // Its events are in the stream, and are its own.
    deployment.create_audit_streams().await;
    let wanted: Vec<&str> = events.iter().map(|event| event["id"].as_str().unwrap()).collect();
    eventually("the older events in the stream", async || {
        let tail = ["audit", "tail", "--no-follow", "--json", "--since", "all"];
        let told = deployment.tool(&tail).await;
        wanted.iter().all(|id| told.out.contains(&format!("\"id\":\"{id}\""))).then_some(())
    })
    .await;

    // A beat of it: it counts as an instance.
    let callout = deployment.login("callout").custom_inbox_prefix("_INBOX.solewriter");
    let callout = callout.connect(deployment.url()).await.unwrap();
    let beat: Value = serde_json::from_str(&recorded("beat.json")).unwrap();
    let name = beat["instance"].as_str().unwrap();
    let subject = format!("solewriter.instance.{name}");
    let said = beat.to_string();
    eventually("both instances", async || {
        callout.publish(subject.clone(), said.clone().into()).await.unwrap();
        let known = deployment.instances[0].metric("solewriter_instances").await;
        (known == 2.0).then_some(())
    })
    .await;
    assert!(!read(&deployment.instances[0].log).contains("newer_instance"));

    // A newer one may come, and says what this one does not know.
    let mut newer = beat.clone();
    newer["format"] = json!(2);
    callout.publish(subject.clone(), newer.to_string().into()).await.unwrap();
    let told = deployment.instances[0].says("newer_instance").await;
    assert_eq!((&told["format"], &told["instance"]), (&json!(2), &beat["instance"]), "{told}");
    let mut next = newest.clone();
    (next["format"], next["number"]) = (json!(2), json!(2));
    let subject = "$KV.solewriter_policy.revision.2";
    context.publish(subject, next.to_string().into()).await.unwrap().await.unwrap();
    let refused = deployment.instances[0].says("policy_refused").await;
    assert_eq!(refused["revision"], revision, "the one before stays: {refused}");
    let problems = refused["problems"].as_str().unwrap();
    assert!(problems.contains("revision.2 has format 2; this version reads 1"), "{problems}");
    let mut event = events[0].clone();
    event["dataschema"] = json!("urn:solewriter:audit-event:2");
    let source = event["source"].as_str().unwrap().trim_start_matches('/').replace('/', ".");
    let admin = async_nats::jetstream::new(callout.clone());
    admin
        .publish(format!("audit.events.{source}"), event.to_string().into())
        .await
        .unwrap()
        .await
        .unwrap();
    let tail = ["audit", "tail", "--no-follow", "--since", "all"];
    let told = deployment.tool(&tail).await;
    assert!(told.out.contains("it has a form that this version does not read"), "{told:?}");
}
