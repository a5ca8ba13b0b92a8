//! More than can be served: what cannot be answered in time is dropped, and the service goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use solewriter_core::keys::Seed;
use tokio::task::JoinSet;

use super::deployment::{Deployment, Prepared, eventually};
use super::raw::Raw;

const POLICY: &str = "[service.known]\nnkeys = [\"{known}\"]\n";

on_every_server!(a_request_that_waited_too_long_is_dropped);
/// A request that waited longer than the settings allow is dropped unread, and counted.
async fn a_request_that_waited_too_long_is_dropped(version: &'static str) {
    let mut deployment = Deployment::start(version, POLICY).await;
    let known = deployment.service("known");
    Raw::try_login(deployment.url(), &known.seed).await.unwrap();
    // No patience at all: nothing is ever in time.
    deployment.instances.clear();
    let index = deployment.add_instance(&["--limits-patience", "0s"]).await;
    let url = deployment.url().to_owned();
    let seed = Seed::parse(known.seed.expose()).unwrap();
    let refused = tokio::spawn(async move { Raw::try_login(&url, &seed).await.map(drop) });
    let dropped = "solewriter_dropped_requests_total{reason=\"too_late\"}";
    let instance = &mut deployment.instances[index];
    eventually("the dropped request in the metrics", async || {
        (instance.metric(dropped).await >= 1.0).then_some(())
    })
    .await;
    assert!(instance.decisions().is_empty(), "it was dropped unread");
    // The server refuses by itself when its own patience ends.
    assert!(refused.await.unwrap().is_err());
}

on_every_server!(a_rush_costs_those_who_do_not_fit_and_nobody_after);
/// No more requests wait than the settings allow, and after the rush everything is as before.
async fn a_rush_costs_those_who_do_not_fit_and_nobody_after(version: &'static str) {
    let mut deployment = Deployment::start(version, POLICY).await;
    let known = deployment.service("known");
    deployment.instances.clear();
    let index = deployment.add_instance(&["--limits-pending", "1"]).await;
    let dropped = "solewriter_dropped_requests_total{reason=\"overloaded\"}";
    let (url, text) = (deployment.url().to_owned(), known.seed.expose().to_owned());
    let instance = &mut deployment.instances[index];
    let mut rush = JoinSet::new();
    eventually("a dropped request in the metrics", async || {
        for _ in 0..50 {
            let (url, seed) = (url.clone(), Seed::parse(&text).unwrap());
            rush.spawn(async move { Raw::try_login(&url, &seed).await.map(drop) });
        }
        (instance.metric(dropped).await >= 1.0).then_some(())
    })
    .await;
    let entered = rush.join_all().await;
    assert!(entered.iter().any(Result::is_ok) && entered.iter().any(Result::is_err));
    Raw::try_login(&url, &known.seed).await.unwrap();
}

on_every_server!(a_key_that_asks_too_often_is_refused);
/// Who asks more often than the settings allow is refused with a reason, and nobody else is.
async fn a_key_that_asks_too_often_is_refused(version: &'static str) {
    let policy = "[service.known]\nnkeys = [\"{known}\"]\n[service.other]\nnkeys = [\"{other}\"]\n";
    let mut deployment = Deployment::start(version, policy).await;
    deployment.instances.clear();
    let index = deployment.add_instance(&["--limits-per-key", "3"]).await;
    let (known, other) = (deployment.service("known"), deployment.service("other"));
    // Seven in a row are in two minutes at most, so at least one of them is too many.
    let mut refused = 0;
    for _ in 0..7 {
        refused += usize::from(Raw::try_login(deployment.url(), &known.seed).await.is_err());
    }
    assert!((1..=4).contains(&refused), "{refused} of 7 were refused");
    Raw::try_login(deployment.url(), &other.seed).await.unwrap();
    let limited = |line: &serde_json::Value| line["reason"] == "limited";
    let line = deployment.instances[index].says_where("authorisation", limited).await;
    assert!(line["detail"].as_str().unwrap().contains("per_key"), "{line}");
}

/// What somebody without a key may send as CONNECT options, one of each kind in turn.
async fn garbage(url: &str, victim: &str, number: usize) {
    let mut raw = Raw::dial(url).await;
    let long = "x".repeat(2_000);
    let options = match number % 10 {
        // A key that nobody knows, rightly held; each is another.
        0 | 1 => raw.proof(&Seed::generate()),
        // Somebody's key, and the signature of another.
        2 => {
            let mut options = raw.proof(&Seed::generate());
            options["nkey"] = victim.into();
            options
        }
        3 => json!({"nkey": victim, "sig": "AAAA"}),
        4 => json!({"nkey": format!("U{number:055}"), "sig": long}),
        5 => json!({}),
        6 => json!({"user": long, "pass": number.to_string()}),
        7 => {
            json!({"jwt": format!("eyJhbGciOiJub25lIn0.{number}.{long}"), "name": "\u{0}\r\n\u{202e}"})
        }
        8 => json!({"auth_token": long, "name": format!("{number}-{long}"), "lang": long}),
        // Hangs up while it is thought about.
        _ => {
            let options = raw.proof(&Seed::generate());
            return raw.send(format!("CONNECT {options}\r\n").as_bytes()).await;
        }
    };
    assert!(raw.enter(&options).await.is_err(), "garbage was let in: {options}");
}

/// How long logins of somebody who belongs there take, one after the other, while `beside` so many
/// at a time do something else again and again.
async fn logins<F: Future<Output = ()> + Send + 'static>(
    url: &str,
    seed: &str,
    beside: usize,
    each: impl Fn(usize) -> F + Clone + Send + 'static,
    until: usize,
) -> Vec<Duration> {
    let count = Arc::new(AtomicUsize::new(0));
    let mut crowd = JoinSet::new();
    for _ in 0..beside {
        let (count, each) = (count.clone(), each.clone());
        crowd.spawn(async move {
            loop {
                let number = count.fetch_add(1, Ordering::Relaxed);
                if number >= until {
                    return;
                }
                each(number).await;
            }
        });
    }
    let mut took = Vec::new();
    while count.load(Ordering::Relaxed) < until {
        let seed = Seed::parse(seed).unwrap();
        let began = Instant::now();
        Raw::try_login(url, &seed).await.unwrap();
        took.push(began.elapsed());
        if beside == 0 {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
    crowd.join_all().await;
    took.sort_unstable();
    took
}

/// Whoever connects with garbage is refused, makes the service no larger, and slows nobody down much
/// more than as many honest clients do. `ratio` is how much.
async fn hostile(version: &'static str, times: usize, ratio: f64) {
    const AT_ONCE: usize = 8;
    const ROUNDS: usize = 4;
    const HONEST: usize = 150;
    const WARM_UP: usize = 400;
    let mut deployment = Deployment::start(version, POLICY).await;
    let (url, known) = (deployment.url().to_owned(), deployment.service("known"));
    let (seed, key) = (known.seed.expose().to_owned(), known.key());
    let login = {
        let (url, seed) = (url.clone(), seed.clone());
        move |_| {
            let (url, seed) = (url.clone(), Seed::parse(&seed).unwrap());
            async move { Raw::try_login(&url, &seed).await.map(drop).unwrap() }
        }
    };
    let attack = {
        let url = url.clone();
        move |number| {
            let (url, key) = (url.clone(), key.clone());
            async move { garbage(&url, &key, number).await }
        }
    };
    let pid = deployment.instances[0].child.id().unwrap();
    let rss = || solewriter_sandbox::cpu_usage::of(pid).map(|usage| usage.rss).unwrap_or_default();
    let alone = logins(&url, &seed, 0, login.clone(), 100).await;
    // Once, so that everything that is made once is made.
    let warm_up = logins(&url, &seed, AT_ONCE, attack.clone(), WARM_UP).await.len();
    let before = rss();
    let (mut honest, mut hostile) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        honest.extend(logins(&url, &seed, AT_ONCE, login.clone(), HONEST).await);
        hostile.extend(logins(&url, &seed, AT_ONCE, attack.clone(), times / ROUNDS).await);
    }
    let grown = rss().saturating_sub(before);
    let at = |took: &mut Vec<Duration>, share: usize| {
        took.sort_unstable();
        took[(took.len() - 1) * share / 100].as_secs_f64() * 1e3
    };
    let [mut alone, mut honest, mut hostile] = [alone, honest, hostile];
    let [none, fair, foul] = [&mut alone, &mut honest, &mut hostile].map(|took| at(took, 50));
    let [none99, fair99, foul99] = [&mut alone, &mut honest, &mut hostile].map(|took| at(took, 99));
    println!(
        "{times} times garbage, {AT_ONCE} at a time, on {version}: the service has {before} bytes and \
         {grown} more at the end; a login takes {none:.1} ms alone, {fair:.1} beside honest clients \
         and {foul:.1} beside garbage, {:.2} times that; 99th percentiles {none99:.1}, {fair99:.1}, \
         {foul99:.1}",
        foul / fair,
    );
    // What it keeps of strangers is bounded; the allocator takes its memory in pieces.
    assert!(grown < 8 << 20, "{grown} bytes more after {times} times garbage");
    assert!(foul < fair * ratio, "{foul} ms beside garbage, {fair} beside honest clients");
    let instance = &mut deployment.instances[0];
    assert_eq!(instance.get("/readyz").await.0, 200);
    assert_eq!(instance.metric("solewriter_pending_requests").await, 0.0);
    let granted = instance
        .metric("solewriter_authorisations_total{outcome=\"granted\",reason=\"granted\"}")
        .await;
    let logins = alone.len() + warm_up + ROUNDS * HONEST + honest.len() + hostile.len();
    assert_eq!(
        granted,
        f64::from(u32::try_from(logins).unwrap()),
        "who was let in beside those who belong there?"
    );
}

/// So many subjects, each of some fifty bytes, for one service.
fn subjects(count: usize) -> Vec<String> {
    let name = "a-subject-that-is-as-long-as-a-buckets-are";
    (0..count).map(|n| format!("{name}.{n:06}")).collect()
}

on_every_server!(a_huge_grant_keeps_nobody_waiting, much_room);
/// A crowd of connections of a service whose answers fill a megabyte, again and again: everybody else
/// is let in meanwhile as if they were not there.
async fn a_huge_grant_keeps_nobody_waiting(version: &'static str) {
    const CROWD: usize = 32;
    const LOGINS: usize = 20;
    let policy = format!(
        "{POLICY}[service.huge]\nnkeys = [\"{{huge}}\"]\npublishes = {:?}\n",
        subjects(11_000)
    );
    // Making 32 answers of a megabyte takes longer than 10 s when the machine is busy. Nobody gives
    // up on them, so that only who has to wait for others can be late.
    let patient = Prepared::new().with_server("timeout: 10\n", "timeout: 60\n");
    let mut deployment = patient.start_broker(version, &policy).await;
    deployment.add_instance(&["--limits-patience", "60s"]).await;
    let (known, huge) = (deployment.service("known"), deployment.service("huge"));
    let url = deployment.url().to_owned();
    let entered = Arc::new(AtomicUsize::new(0));
    let mut crowd = JoinSet::new();
    for _ in 0..CROWD {
        let (url, entered) = (url.clone(), entered.clone());
        let seed = Seed::parse(huge.seed.expose()).unwrap();
        crowd.spawn(async move {
            loop {
                let entering = Raw::try_login(&url, &seed).await;
                entered.fetch_add(usize::from(entering.is_ok()), Ordering::Relaxed);
            }
        });
    }
    let mut took = Vec::new();
    // Before the first of the crowd is in, and after.
    while took.len() < LOGINS || entered.load(Ordering::Relaxed) < 2 * CROWD {
        let began = Instant::now();
        Raw::try_login(&url, &known.seed).await.unwrap();
        took.push(began.elapsed());
        assert!(took.len() < 10_000, "the crowd is not let in");
    }
    took.sort_unstable();
    let (half, longest) = (took[took.len() / 2], took[took.len() - 1]);
    println!("beside the crowd on {version}: {half:?} at the middle, {longest:?} at most");
    // Far below the time that a server waits. nats-server itself takes tens of milliseconds for
    // each of the crowd, and other tests run beside this one.
    assert!(half < Duration::from_secs(1), "{took:?}");
    assert!(longest < Duration::from_secs(5), "{took:?}");
    let instance = &mut deployment.instances[0];
    let late = "solewriter_dropped_requests_total{reason=\"too_late\"}";
    assert_eq!(instance.metric(late).await, 0.0);
    // Stopped while the crowd goes on, it answers what it took on.
    instance.signal(rustix::process::Signal::TERM);
    let stopped = instance.says("stopped").await;
    assert_eq!(stopped["message"], "every request that was taken has an answer", "{stopped}");
    crowd.shutdown().await;
}

on_every_server!(a_grant_that_the_server_has_no_room_for_is_refused_at_once, much_room);
/// An answer that the server would not take is no grant, and is not told as one.
async fn a_grant_that_the_server_has_no_room_for_is_refused_at_once(version: &'static str) {
    let policy = |count: usize| {
        format!("{POLICY}[service.big]\nnkeys = [\"{{big}}\"]\npublishes = {:?}\n", subjects(count))
    };
    let prepared = Prepared::new()
        .with_server("listen: $CLIENT_LISTEN", "listen: $CLIENT_LISTEN\nmax_payload: 65536");
    let mut deployment = prepared.start(version, &policy(1_000)).await;
    let (known, big) = (deployment.service("known"), deployment.service("big"));
    let url = deployment.url().to_owned();
    let began = Instant::now();
    assert!(Raw::try_login(&url, &big.seed).await.is_err());
    // `authorization.timeout` is 10 s: the server was told.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let its = |line: &serde_json::Value| line["service"] == "big";
    let line = deployment.instances[0].says_where("authorisation", its).await;
    assert_eq!((&line["outcome"], &line["reason"]), (&json!("denied"), &json!("grant_too_large")));
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.contains("65536") && detail.contains("max_payload"), "{detail}");
    Raw::try_login(&url, &known.seed).await.unwrap();
    // What fits is granted, with the same server; and more than any server takes is said by
    // `check` before, and by the instance to who asks.
    deployment.write_policy(&policy(300));
    eventually("the smaller grant", async || Raw::try_login(&url, &big.seed).await.ok()).await;
    deployment.write_policy(&policy(30_000));
    let folder = deployment.files.policy();
    let mut check = tokio::process::Command::new(env!("CARGO_BIN_EXE_solewriter"));
    let checked = check.arg("check").arg(folder).output().await.unwrap();
    let said = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(checked.status.code(), Some(1), "{said}");
    assert!(said.contains("20000 subjects"), "{said}");
    let its = |line: &serde_json::Value| {
        line["service"] == "big" && line["detail"].as_str().is_some_and(|d| d.contains("20000"))
    };
    eventually("the refusal", async || {
        let _ = Raw::try_login(&url, &big.seed).await;
        deployment.instances[0].decisions().into_iter().find(|line| its(line))
    })
    .await;
}

/// What `docs/policy.md` says of long lists. It grows as the list does: the bound is generous, and
/// what grows as its square is far beyond it.
#[ignore = "measures, and wants the machine for itself"]
#[tokio::test(flavor = "multi_thread")]
async fn how_long_a_login_takes() {
    for version in ["2.10.25", "2.11.11", "2.12.8", "2.14.6", "2.15.1"] {
        how_long_a_login_takes_on(version).await;
    }
}

async fn how_long_a_login_takes_on(version: &'static str) {
    let mut each = Vec::new();
    for buckets in [50, 200, 400, 1_000] {
        let mut policy = "[service.reader]\nnkeys = [\"{reader}\"]\nreads = [\"*\"]\n".to_owned();
        for n in 0..buckets {
            policy += &format!("[bucket.bucket{n:04}]\n");
        }
        let prepared = Prepared::new().without_buckets();
        let deployment = prepared.start(version, &policy).await;
        let reader = deployment.service("reader");
        let mut took = Vec::new();
        for _ in 0..6 {
            let began = Instant::now();
            Raw::try_login(deployment.url(), &reader.seed).await.unwrap();
            took.push(began.elapsed());
        }
        let first = took.remove(0);
        took.sort_unstable();
        println!("{version}: {buckets} buckets, first {first:?}, then {:?}", took[2]);
        each.push((buckets, took[2]));
    }
    let per_bucket = |n: usize| each[n].1.as_secs_f64() / f64::from(each[n].0);
    assert!(per_bucket(3) < 4.0 * per_bucket(1), "{each:?}");
}

on_every_server!(idle_http_connections_stop_nothing, much_room);
/// Connections that say nothing take no descriptor from what an instance needs them for.
async fn idle_http_connections_stop_nothing(version: &'static str) {
    let mut deployment = Prepared::new().start_broker(version, POLICY).await;
    let index = deployment.add_instance_within(256).await;
    let http =
        deployment.instances[index].says("http").await["address"].as_str().unwrap().to_owned();
    let mut idle = Vec::new();
    for _ in 0..400 {
        idle.push(tokio::net::TcpStream::connect(&http).await.unwrap());
    }
    let instance = &mut deployment.instances[index];
    assert_eq!(instance.get("/readyz").await.0, 200);
    // A policy is read from files, and a change in them is noticed.
    let url = deployment.url().to_owned();
    let newcomer = deployment.service("newcomer");
    assert!(Raw::try_login(&url, &newcomer.seed).await.is_err());
    deployment.write_policy(&format!("{POLICY}[service.newcomer]\nnkeys = [\"{{newcomer}}\"]\n"));
    eventually("the changed policy", async || Raw::try_login(&url, &newcomer.seed).await.ok())
        .await;
    let pid = deployment.instances[index].child.id().unwrap();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert!(open < 200, "{open} descriptors are open");
    assert_eq!(deployment.instances[index].get("/readyz").await.0, 200);
    drop(idle);
}

on_every_server!(garbage_costs_no_more_than_honest_clients, much_room);
/// As much as each run of the tests can afford. Other tests run beside it, hence the ratio.
async fn garbage_costs_no_more_than_honest_clients(version: &'static str) {
    hostile(version, 2_000, 3.0).await;
}

/// A hundred thousand times.
#[ignore = "takes minutes"]
#[tokio::test(flavor = "multi_thread")]
async fn much_garbage_costs_no_more_than_honest_clients() {
    let version = "2.15.1";
    hostile(version, 100_000, 1.25).await;
}
