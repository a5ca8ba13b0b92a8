//! Break glass: another service writes for a while, and nobody beside it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use solewriter_core::emergency::{Wish, id};
use solewriter_core::keys::{Seed, Signer, User};
use solewriter_types::keyspace::Keyspace;
use tokio::sync::watch;

use super::bucket;
use super::deployment::{Deployment, Prepared, Ran, eventually, held_route};
use super::handover::{Writer, judged, make_bucket, may_write, owned_by, status_says, writes};

/// A person who may sign.
struct Person {
    seed: Seed<User>,
    file: PathBuf,
}

impl Person {
    fn new(dir: &Path) -> Self {
        let (seed, file) = (Seed::generate(), dir.join("lea.nk"));
        solewriter::scaffold::write_secret(&file, seed.expose()).unwrap();
        Self { seed, file }
    }

    fn signer(&self) -> Signer<User> {
        Signer::new(&self.seed).unwrap()
    }

    /// The settings name that person.
    fn named(&self, prepared: Prepared) -> Prepared {
        let key = self.signer().public().to_string();
        prepared.with_settings(
            "[policy]\n",
            &format!(
                "[emergency]\nkeys = [\"{key}\"]\nfleet = \"east\"\n\n[policy]\nlease = \"3s\"\n"
            ),
        )
    }

    async fn grants(&self, deployment: &Deployment, arguments: &[&str]) -> Ran {
        let file = self.file.display().to_string();
        let reason = ["--reason", "the disk of a is on fire", "--key", &file];
        deployment.tool(&[&["emergency"], arguments, &reason].concat()).await
    }
}

/// The id in what `grant` printed.
fn granted(ran: &Ran) -> String {
    assert_eq!(ran.code, 0, "{ran:?}");
    let id = ran.out.strip_prefix("emergency grant ").and_then(|rest| rest.split(':').next());
    id.unwrap_or_else(|| panic!("{ran:?}")).to_owned()
}

/// One server and two instances that follow the bucket, in which `a` owns `k`.
async fn fleet(version: &'static str) -> (Deployment, Person) {
    let prepared = bucket::prepared();
    let person = Person::new(prepared.dir.path());
    let mut deployment = person.named(prepared).start_broker(version, &owned_by("a")).await;
    let (code, said) = bucket::push(&deployment, &owned_by("a"), &[]).await;
    assert_eq!(code, 0, "{said}");
    deployment.add_instance(&[]).await;
    deployment.add_instance(&[]).await;
    (deployment, person)
}

async fn grants_that_count(deployment: &mut Deployment, count: f64) {
    for instance in &mut deployment.instances {
        let what = format!("{count} grants that count");
        let counted = async || {
            let metric = instance.metric("solewriter_emergency_grants").await;
            ((metric - count).abs() < 0.5).then_some(())
        };
        eventually(&what, counted).await;
    }
}

async fn says(deployment: &mut Deployment, event: &str, fits: impl Fn(&Value) -> bool + Copy) {
    for instance in &mut deployment.instances {
        instance.says_where(event, fits).await;
    }
}

on_the_newest_server!(another_service_writes_for_a_while_and_nobody_beside_it, more_room);
async fn another_service_writes_for_a_while_and_nobody_beside_it(version: &'static str) {
    let (mut deployment, lea) = fleet(version).await;
    let stream = make_bucket(&deployment, 1).await;
    let writer = |name| Writer::start(name, deployment.urls(), &deployment.service(name).seed);
    let writers = [writer("a"), writer("b")];
    writes(&stream, "a").await;
    let none = deployment.tool(&["emergency", "list"]).await;
    assert_eq!((none.code, none.out.as_str()), (0, "no emergency grant\n"), "{none:?}");
    grants_that_count(&mut deployment, 0.0).await;

    // What does not fit is said before anything is signed away.
    for (service, keyspace, lasts, why) in [
        ("nobody", "k", "5m", "there is no service `nobody`"),
        ("a", "k", "5m", "`a` owns it already"),
        ("b", "k/x", "5m", "it is a part of what another owns, or more: `a` owns `k`"),
        ("b", "k", "2h", "it lasts for 7200 s, and [emergency] longest is 3600 s"),
    ] {
        let ran = lea.grants(&deployment, &["grant", service, keyspace, "--for", lasts]).await;
        assert!(ran.code != 0 && ran.err.contains(why), "{ran:?}");
    }

    // Somebody breaks the glass, and mends it.
    let ran = lea.grants(&deployment, &["grant", "b", "k", "--for", "15m"]).await;
    let id = granted(&ran);
    assert!(ran.out.contains("2 instances counted it"), "{ran:?}");
    writes(&stream, "b").await;
    grants_that_count(&mut deployment, 1.0).await;
    says(&mut deployment, "emergency_began", |line| {
        line["service"] == "b"
            && line["owner"] == "a"
            && line["reason"] == "the disk of a is on fire"
    })
    .await;
    status_says(&deployment, &format!("emergency {id}: `b` writes `k` until ")).await;
    let (code, said) = bucket::policy(&deployment, &["status"]).await;
    assert!(code == 0 && said.contains("the disk of a is on fire"), "{said}");
    let doctor = deployment.tool(&["doctor"]).await;
    assert!(doctor.out.contains(&format!("emergency {id}: `b` writes `k` until ")), "{doctor:?}");
    assert!(!doctor.out.contains("but the policy here is"), "{doctor:?}");
    let listed = deployment.tool(&["emergency", "list"]).await;
    assert!(listed.out.contains(&format!("{id}  signed, and not over")), "{listed:?}");
    let ran = lea.grants(&deployment, &["end", &id]).await;
    assert!(ran.code == 0 && ran.out.contains("2 instances ended it"), "{ran:?}");
    writes(&stream, "a").await;
    grants_that_count(&mut deployment, 0.0).await;
    says(&mut deployment, "emergency_ended", |line| line["cause"] == "early").await;
    let listed = deployment.tool(&["emergency", "list", "--format", "json"]).await.json();
    assert_eq!(listed[0]["state"], "ended early", "{listed}");

    // Nobody ends it: it does so by itself.
    let id = granted(&lea.grants(&deployment, &["grant", "b", "k", "--for", "12s"]).await);
    writes(&stream, "b").await;
    writes(&stream, "a").await;
    says(&mut deployment, "emergency_ended", |line| line["cause"] == "time").await;
    let over = lea.grants(&deployment, &["end", &id]).await;
    assert!(over.out.contains("is over already"), "{over:?}");

    // The policy is pushed meanwhile: it counts on top of the new one, until it does not fit.
    granted(&lea.grants(&deployment, &["grant", "b", "k", "--for", "15m"]).await);
    writes(&stream, "b").await;
    let described = owned_by("a").replace("[service.c]", "[service.c]\ndescription = \"new\"");
    let (code, said) = bucket::push(&deployment, &described, &["--wait", "0s"]).await;
    assert_eq!(code, 0, "{said}");
    for instance in &mut deployment.instances {
        bucket::serves(instance, 2).await;
    }
    grants_that_count(&mut deployment, 1.0).await;
    assert!(!may_write(&deployment, "a").await);
    let disabled = owned_by("a").replace("[service.b]", "[service.b]\ndisabled = \"too\"");
    let (code, said) = bucket::push(&deployment, &disabled, &["--wait", "0s"]).await;
    assert_eq!(code, 0, "{said}");
    says(&mut deployment, "emergency_ended", |line| {
        line["cause"] == "policy" && line["detail"].as_str().unwrap().contains("`b` is disabled")
    })
    .await;
    writes(&stream, "a").await;
    for writer in writers {
        writer.finish().await;
    }
    let (turns, _) = judged(&deployment).await;
    let owners: Vec<&str> = turns.iter().map(|turn| turn.writer.as_str()).collect();
    assert_eq!(owners, ["a", "b", "a", "b", "a", "b", "a"], "{turns:?}");
}

on_the_newest_server!(who_is_cut_off_ends_it_too, some_room);
/// Nothing comes through to one of the instances, and so nobody tells it of the end.
async fn who_is_cut_off_ends_it_too(version: &'static str) {
    let (mut deployment, lea) = fleet(version).await;
    make_bucket(&deployment, 1).await;
    let port = deployment.url().rsplit(':').next().unwrap().parse().unwrap();
    let (hold, held) = watch::channel(false);
    let through = format!("nats://127.0.0.1:{}", held_route(port, held));
    let third = deployment.add_instance(&["--nats-servers", &through]).await;
    granted(&lea.grants(&deployment, &["grant", "b", "k", "--for", "12s"]).await);
    hold.send(true).unwrap();
    let cut_off = &mut deployment.instances[third];
    cut_off.says_where("emergency_ended", |line| line["cause"] == "time").await;
    // The others end it by their own clocks.
    grants_that_count(&mut deployment, 0.0).await;
    // While it is cut off, the server goes on asking it, and those logins wait in vain.
    hold.send(false).unwrap();
    eventually("the owner", async || may_write(&deployment, "a").await.then_some(())).await;
    assert!(!may_write(&deployment, "b").await);
}

on_the_newest_server!(who_may_add_to_the_bucket_alone_breaks_no_glass, some_room);
/// An attacker with the publisher's seed and that of a service: what they write is ignored and told.
async fn who_may_add_to_the_bucket_alone_breaks_no_glass(version: &'static str) {
    let (mut deployment, lea) = fleet(version).await;
    make_bucket(&deployment, 1).await;
    eventually("an owner", async || may_write(&deployment, "a").await.then_some(())).await;
    let bucket = bucket::bucket(&deployment).await;
    let (keyspace, now) = (Keyspace::parse("k").unwrap(), jiff::Timestamp::now().as_second());
    let sign = |fleet: &str, at: i64, minutes: u64, signer: &Signer<User>| {
        let id = id(rand::random());
        let wish = Wish { id: &id, fleet, now: at, reason: "mine" };
        wish.grant("b", &keyspace, Duration::from_secs(60 * minutes), signer).unwrap()
    };
    let (named, service) = (lea.signer(), Signer::new(&deployment.service("b").seed).unwrap());
    let good = sign("east", now, 15, &named);
    let [header, claims, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let changed = format!("{header}.{}.{signature}", claims.replacen('a', "b", 1));
    for (document, cause) in [
        (sign("east", now, 15, &service), "key"),
        (sign("west", now, 15, &named), "fleet"),
        (sign("east", now, 61, &named), "too_long"),
        (sign("east", now + 3600, 15, &named), "future"),
        // One that was signed, is over, and is sent again, or for the first time.
        (sign("east", now - 3600, 15, &named), "over"),
        (format!("{}x", "x".repeat(9000)), "form"),
    ] {
        bucket.add_emergency(&document).await.unwrap();
        says(&mut deployment, "emergency_ignored", |line| {
            line["cause"] == cause && line["level"] == "ERROR"
        })
        .await;
    }
    bucket.add_emergency(&changed).await.unwrap();
    says(&mut deployment, "emergency_ignored", |line| {
        line["cause"] == "signature"
            || line["detail"] == "it is no document of an emergency: it cannot be read"
    })
    .await;
    grants_that_count(&mut deployment, 0.0).await;
    // The one that is over may have let somebody in, so that is looked at once.
    eventually("the owner", async || may_write(&deployment, "a").await.then_some(())).await;
    assert!(!may_write(&deployment, "b").await);
    // What was put there keeps nobody from breaking the glass; a tool that may not is told so.
    let other = Person::new(&deployment.dir.path().join("other"));
    let refused = other.grants(&deployment, &["grant", "b", "k", "--for", "5m"]).await;
    assert!(refused.err.contains("is not in [emergency] keys"), "{refused:?}");
    granted(&lea.grants(&deployment, &["grant", "b", "k", "--for", "5m"]).await);
    assert!(may_write(&deployment, "b").await && !may_write(&deployment, "a").await);
}

on_the_newest_server!(a_directory_has_documents_too_and_a_restart_keeps_them, some_room);
async fn a_directory_has_documents_too_and_a_restart_keeps_them(version: &'static str) {
    let prepared = Prepared::new();
    let person = Person::new(prepared.dir.path());
    let mut deployment = person.named(prepared).start(version, &owned_by("a")).await;
    make_bucket(&deployment, 1).await;
    eventually("an owner", async || may_write(&deployment, "a").await.then_some(())).await;
    let id = granted(&person.grants(&deployment, &["grant", "b", "k", "--for", "15m"]).await);
    assert!(may_write(&deployment, "b").await && !may_write(&deployment, "a").await);
    deployment.instances[0].child.kill().await.unwrap();
    let kept = deployment.dir.path().join("policy-0.kept").display().to_string();
    deployment.add_instance(&["--policy-keep", &kept]).await;
    deployment.instances.remove(0);
    eventually("the other", async || may_write(&deployment, "b").await.then_some(())).await;
    assert!(!may_write(&deployment, "a").await);
    // It is ended while nobody serves: who wrote by it has nothing when there is somebody again.
    deployment.instances[0].child.kill().await.unwrap();
    let ran = person.grants(&deployment, &["end", &id, "--wait", "0s"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    deployment.add_instance(&["--policy-keep", &kept]).await;
    deployment.instances.remove(0);
    eventually("the owner", async || may_write(&deployment, "a").await.then_some(())).await;
    assert!(!may_write(&deployment, "b").await);
    grants_that_count(&mut deployment, 0.0).await;
}

/// A policy in which `b` reads `k` until then.
fn until(seconds: i64) -> String {
    let until = jiff::Timestamp::from_second(seconds).unwrap();
    let entry = format!("[{{ entry = \"k\", until = \"{until}\" }}]");
    let table = "[service.b]\nnkeys = [\"{b}\"]\nreads = ";
    owned_by("a").replace(&format!("{table}[\"k\"]"), &format!("{table}{entry}"))
}

on_the_newest_server!(an_entry_ends_and_open_connections_are_closed, some_room);
async fn an_entry_ends_and_open_connections_are_closed(version: &'static str) {
    let now = jiff::Timestamp::now().as_second();
    let mut deployment = Prepared::new().start(version, &until(now + 3600)).await;
    make_bucket(&deployment, 1).await;
    let reads = async |deployment: &Deployment| {
        let seed = &deployment.service("b").seed;
        let mut raw = super::raw::Raw::try_login(deployment.url(), seed).await.ok()?;
        Some(raw.publish("$JS.API.STREAM.INFO.KV_k", b"").await.is_ok())
    };
    assert_eq!(reads(&deployment).await, Some(true));
    let end = jiff::Timestamp::now().as_second() + 5;
    deployment.write_policy(&until(end));
    deployment.instances[0].says("policy_changed").await;
    let mut open = super::raw::Raw::login(&deployment, &deployment.service("b")).await;
    open.publish("$JS.API.STREAM.INFO.KV_k", b"").await.unwrap();
    // The open connection is closed, and a new one has nothing of it.
    open.closed().await;
    let ended = jiff::Timestamp::now().as_second();
    eventually("nothing", async || (reads(&deployment).await == Some(false)).then_some(())).await;
    assert!((end - 1..end + 10).contains(&ended), "{end} {ended}");
    let closed = deployment.instances[0].says("session_closed").await;
    assert_eq!(closed["service"], "b", "{closed}");
}
