//! TLS: servers that demand client certificates, certificates that change and expire, handshakes
//! that come first.

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use async_nats::ConnectOptions;
use async_nats::jetstream::{self, consumer::PullConsumer};
use futures_util::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use solewriter::nats::Tls;
use solewriter::nats::raw_client::{RawLogin, TlsServer, Wire};
use tokio::process::Command;

use super::attacks::prove::{prove, text};
use super::bucket;
use super::deployment::{DEADLINE, Deployment, Instance, Prepared, Service, eventually};
use super::gateways::THREE;

/// Until when a certificate is valid that is made here.
#[derive(Clone, Copy, PartialEq)]
enum Until {
    /// For years.
    Later,
    /// Tomorrow or the day after.
    Soon,
    /// It was, once.
    Past,
}

/// Who signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes `NAME.pem` and `NAME.key`, for that subjectAltName.
    fn sign(&self, folder: &Path, name: &str, alternative: &str, until: Until) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![alternative.to_owned()]).unwrap();
        if until != Until::Later {
            params.not_before = date_time_ymd(2020, 1, 1);
            let days = if until == Until::Soon { 2 } else { -400 };
            let day = (Timestamp::now() + SignedDuration::from_hours(24 * days)).to_string();
            let [year, month, day] = [&day[..4], &day[5..7], &day[8..10]];
            params.not_after =
                date_time_ymd(year.parse().unwrap(), month.parse().unwrap(), day.parse().unwrap());
        }
        let certificate = params.signed_by(&key, &self.0).unwrap();
        // Written aside and renamed: a process may be reading them.
        for (extension, text) in [("key", key.serialize_pem()), ("pem", certificate.pem())] {
            let aside = folder.join("aside");
            std::fs::write(&aside, text).unwrap();
            std::fs::rename(&aside, folder.join(format!("{name}.{extension}"))).unwrap();
        }
    }
}

/// Writes `ca.pem`, and certificate and key for a server and a client.
pub fn write_certificates(folder: &Path) -> Authority {
    let authority = Authority::new();
    std::fs::write(folder.join("ca.pem"), authority.0.pem()).unwrap();
    for name in ["server", "client"] {
        authority.sign(folder, name, "127.0.0.1", Until::Later);
    }
    authority
}

/// The configuration of a server that demands client certificates, and more in `tls`.
fn demanding(prepared: Prepared, more: &str) -> Prepared {
    let folder = prepared.files.dir.clone();
    let file = |name: &str| folder.join(name).display().to_string();
    let tls = format!(
        "listen: $CLIENT_LISTEN\ntls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", {more} }}\n",
        file("server.pem"),
        file("server.key"),
        file("ca.pem")
    );
    prepared.with_server("listen: $CLIENT_LISTEN\n", &tls)
}

/// The settings with the certificate of a client, for `serve` and all tools.
fn with_certificate(prepared: Prepared, more: &str) -> Prepared {
    let table = format!(
        "[nats.tls]\nca = \"ca.pem\"\ncert = \"client.pem\"\nkey = \"client.key\"\n{more}\n[http]"
    );
    prepared.with_settings("[http]", &table)
}

/// The TLS of a client with the certificate of that name.
pub fn tls(folder: &Path, certificate: Option<&str>, first: bool) -> Tls {
    let file = |name: &str, extension: &str| folder.join(format!("{name}.{extension}"));
    Tls {
        required: true,
        first,
        ca: Some(file("ca", "pem")),
        identity: certificate.map(|name| (file(name, "pem"), file(name, "key"))),
    }
}

/// A service's client with a certificate.
async fn client(deployment: &Deployment, service: &Service, tls: &Tls) -> async_nats::Client {
    let options = ConnectOptions::with_nkey(service.seed.expose().to_owned())
        .custom_inbox_prefix(format!("_INBOX.{}", service.name));
    tls.apply(options).connect(deployment.url()).await.unwrap()
}

/// Connects with CONNECT alone, and gives what the server says to it.
pub async fn knock(deployment: &Deployment, login: &RawLogin, tls: &Tls) -> Result<(), String> {
    let server = TlsServer::new(deployment.url().parse().unwrap(), tls).unwrap();
    Wire::login(&server, login, "_INBOX.x").await.map(drop).map_err(|error| error.to_string())
}

pub fn nkey(service: &Service) -> RawLogin {
    RawLogin::of(&solewriter::nats::Login::Nkey(
        solewriter_core::keys::Seed::parse(service.seed.expose()).unwrap(),
    ))
}

/// What `doctor` found in that check, by outcome.
async fn found(deployment: &Deployment, check: &str) -> Vec<(String, String, String)> {
    let said = deployment.tool(&["doctor", "--format", "json"]).await.json();
    let findings = said["findings"].as_array().unwrap().iter().filter(|f| f["check"] == check);
    let text =
        |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    findings.map(|f| (text(f, "outcome"), text(f, "found"), text(f, "mend"))).collect()
}

on_every_server!(it_connects_over_tls_with_a_certificate);
/// With the authority and a certificate it gets in; without either it says why not.
async fn it_connects_over_tls_with_a_certificate(version: &'static str) {
    let prepared = Prepared::new();
    let folder = prepared.files.dir.clone();
    write_certificates(&folder);
    let file = |name: &str| folder.join(name).display().to_string();
    let mut deployment = demanding(prepared, "verify: true")
        .start_broker(version, "[service.a]\nnkeys = [\"{a}\"]\n")
        .await;
    let without = deployment.launch_instance(&[]);
    let failed = deployment.instances[without].says("connect_failed").await;
    assert!(failed["error"].as_str().unwrap().contains("UnknownIssuer"), "{failed}");
    assert!(failed["message"].as_str().unwrap().contains("[nats.tls] ca"), "{failed}");
    // The doctor says that, and not what it does not see for it.
    let said = deployment.tool(&["doctor", "--format", "json"]).await;
    let findings = said.json()["findings"].as_array().unwrap().clone();
    let but_ok: Vec<&Value> = findings.iter().filter(|f| f["outcome"] != "ok").collect();
    let [finding] = *but_ok else { panic!("{but_ok:#?}") };
    assert_eq!((&finding["check"], &finding["outcome"]), (&json!("tls"), &json!("problem")));
    assert!(finding["found"].as_str().unwrap().contains("UnknownIssuer"), "{finding}");
    assert!(finding["mend"].as_str().unwrap().contains("[nats.tls] ca"), "{finding}");
    assert_eq!(said.code, 1);

    let ca = file("ca.pem");
    let only_ca = deployment.launch_instance(&["--nats-tls-ca", &ca]);
    let demands = |line: &Value| {
        // 2.10.25 is built with a Go that says it otherwise.
        let message = line["message"].as_str().unwrap();
        message.contains("set [nats.tls] cert and key") || message.contains("client certificate")
    };
    deployment.instances[only_ca].says_where("connect_failed", demands).await;

    let (cert, key) = (file("client.pem"), file("client.key"));
    // The files are read anew each time, so this one has its own.
    let own = file("own-ca.pem");
    std::fs::copy(&ca, &own).unwrap();
    let both = ["--nats-tls-ca", &own, "--nats-tls-cert", &cert, "--nats-tls-key", &key];
    let arguments = [both.as_slice(), &["--nats-tls-required", "true"]].concat();
    let inside = deployment.add_instance(&arguments).await;

    // Every connection of an instance fails for the same reason, which is told once at first.
    let lines = deployment.instances[without].lines();
    let of_trust = |line: &&Value| {
        let error = line["error"].as_str().unwrap_or_default();
        line["event"] == "connect_failed" && error.contains("UnknownIssuer")
    };
    let told = lines.iter().filter(of_trust);
    let attempts: Vec<u64> = told.map(|line| line["attempts"].as_u64().unwrap()).collect();
    assert_eq!(attempts[0], 1, "{attempts:?}");
    assert!(attempts[1..].iter().all(|attempts| *attempts > 1), "{attempts:?}");

    // The server comes back with a certificate of another authority.
    write_certificates(&folder);
    deployment.server.restart().await.unwrap();
    let unknown =
        |line: &Value| line["cause"].as_str().is_some_and(|cause| cause.contains("invalid peer"));
    let line = deployment.instances[inside].says_where("client_error", unknown).await;
    let cause = line["cause"].as_str().unwrap();
    assert!(cause.contains("[nats.tls] ca"), "{line}");
}

/// The services, and `violations`.
fn policy() -> String {
    format!(
        "{THREE}\n[service.violations]\nnkeys = [\"{{violations}}\"]\npublishes = \
         [\"audit.events.violations.>\"]\n"
    )
}

/// `solewriter violations` on the server's log.
fn follow(deployment: &Deployment, tls: &Tls) -> Instance {
    let log = deployment.dir.path().join("violations.log");
    let (cert, key) = tls.identity.as_ref().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .args(["violations", "--nats-servers", deployment.url(), "--log-format", "json", "--log"])
        .arg(deployment.server.log_path())
        .args(tls.first.then_some("--tls-first"))
        .args([Path::new("--ca"), tls.ca.as_ref().unwrap(), Path::new("--cert"), cert])
        .args([Path::new("--key"), key, Path::new("--policy"), &deployment.files.policy()])
        .arg("--nkey-seed")
        .arg(deployment.service("violations").seed_file)
        .args(["--window", "0s"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    Instance { child, log }
}

/// A server that demands certificates. Those of `edge` and `rim` have the names of users of its
/// configuration, one that nobody is asked about and one that `auth_users` does not have.
pub fn with_named_certificates(prepared: Prepared, more: &str, setting: &str) -> Prepared {
    let folder = prepared.files.dir.clone();
    let authority = write_certificates(&folder);
    for name in ["edge", "rim"] {
        authority.sign(&folder, name, &format!("{name}.example"), Until::Later);
    }
    with_certificate(demanding(prepared, more), setting)
        .with_server(
            "  APP {",
            "  APP {\n    users: [ { user: \"edge.example\" }, { user: \"rim.example\" } ]",
        )
        .with_server("$AUDIT_ADMIN_KEY, $SYSTEM_KEY", "$AUDIT_ADMIN_KEY, $SYSTEM_KEY, edge.example")
}

/// `serve`, all tools and clients on a server that demands certificates.
async fn the_rule_holds(version: &'static str, more: &str, first: bool) {
    let setting = if first { "first = true\nrequired = true" } else { "required = true" };
    let prepared = with_named_certificates(Prepared::new().without_buckets(), more, setting);
    let folder = prepared.files.dir.clone();
    let mut deployment = prepared.start(version, &policy()).await;
    let with = |certificate: &str| tls(&folder, Some(certificate), first);
    deployment.apply(&[]).await;

    // A KV client, a stream client.
    let [owner, reader] = ["vault", "reader"].map(|name| deployment.service(name));
    let own = client(&deployment, &owner, &with("client")).await;
    let vault = jetstream::new(own.clone()).get_key_value("vault").await.unwrap();
    vault.put("k", "1".into()).await.unwrap();
    let read = client(&deployment, &reader, &with("client")).await;
    let seen = jetstream::new(read.clone()).get_key_value("vault").await.unwrap();
    assert_eq!(seen.get("k").await.unwrap().unwrap(), "1");
    seen.put("k", "x".into()).await.unwrap_err();
    jetstream::new(own).publish("orders.new", "1".into()).await.unwrap().await.unwrap();
    let worker: PullConsumer =
        jetstream::new(read).get_consumer_from_stream("worker", "orders").await.unwrap();
    let mut messages = worker.fetch().max_messages(1).messages().await.unwrap();
    messages.next().await.unwrap().unwrap().double_ack().await.unwrap();

    // Intruders: no certificate, a certificate alone, a certificate and a key that nobody has.
    let without = knock(&deployment, &nkey(&owner), &tls(&folder, None, first)).await;
    without.unwrap_err();
    let alone = knock(&deployment, &RawLogin::Nobody, &with("client")).await.unwrap_err();
    assert!(alone.contains("Authorization Violation"), "{alone}");
    let stranger = nkey(&deployment.service("stranger"));
    knock(&deployment, &stranger, &with("client")).await.unwrap_err();
    // A certificate is a user of the configuration where the server maps it, and never a service.
    let maps = more.contains("verify_and_map");
    let edge = knock(&deployment, &RawLogin::Nobody, &with("edge")).await;
    assert_eq!(edge.is_ok(), maps, "{edge:?}");
    knock(&deployment, &RawLogin::Nobody, &with("rim")).await.unwrap_err();
    let said = if maps { "a user name" } else { "no credential" };
    let refused = |line: &Value| line["detail"].as_str().is_some_and(|d| d.contains(said));
    deployment.instances[0].says_where("authorisation", refused).await;
    // The key says who it is, whatever the certificate says.
    for certificate in ["edge", "rim"] {
        knock(&deployment, &nkey(&owner), &with(certificate)).await.unwrap();
    }

    // The tools.
    let doctor = deployment.tool(&["doctor", "--format", "json"]).await;
    let problems = doctor.json()["findings"].as_array().unwrap().clone();
    // The oldest server has holes, whatever it is set to.
    let is_ours = |f: &&Value| f["outcome"] == "problem" && f["check"] != "advisories";
    let problems: Vec<&Value> = problems.iter().filter(is_ours).collect();
    assert_eq!(problems, Vec::<&Value>::new());
    let certificates = found(&deployment, "certificates").await;
    assert_eq!(certificates.len(), 3, "the server's, ca and cert: {certificates:?}");
    assert!(certificates.iter().all(|(outcome, ..)| outcome == "ok"), "{certificates:?}");
    let sessions = deployment.tool(&["sessions", "--format", "json"]).await;
    assert!(sessions.code == 0 && sessions.out.contains("reader"), "{sessions:?}");
    let plan = deployment.tool(&["buckets", "plan"]).await;
    assert_eq!(plan.code, 0, "{plan:?}");
    let mut follower = follow(&deployment, &with("client"));
    follower.says("connected").await;
    follower.says("violation").await;
    let tail = ["audit", "tail", "--no-follow", "--outcome", "violation", "--json"];
    eventually("the violation in the stream", async || {
        let told = deployment.tool(&tail).await;
        (told.code == 0 && told.out.contains("$KV.vault.k")).then_some(())
    })
    .await;
    let proved = prove(&deployment, &["--yes"]).await;
    assert!(proved.status.success() && text(&proved.stdout).contains("PROVEN"), "{proved:?}");

    // A right that is taken away.
    let mut open = Wire::login(
        &TlsServer::new(deployment.url().parse().unwrap(), &with("client")).unwrap(),
        &nkey(&reader),
        "_INBOX.reader",
    )
    .await
    .unwrap();
    let began = Instant::now();
    deployment.write_policy(&policy().replace("reads = [\"vault\"]\n", ""));
    open.closed(DEADLINE).await.unwrap();
    println!("{version} {more}: closed after {:?}", began.elapsed());
}

on_every_server!(behind_verify_and_a_handshake_first_the_rule_holds);
async fn behind_verify_and_a_handshake_first_the_rule_holds(version: &'static str) {
    the_rule_holds(version, "verify: true, handshake_first: true", true).await;
}

on_every_server!(behind_verify_and_map_the_rule_holds);
async fn behind_verify_and_map_the_rule_holds(version: &'static str) {
    the_rule_holds(version, "verify_and_map: true", false).await;
}

/// Waits until a service is let in.
async fn enters(deployment: &Deployment, service: &str, tls: &Tls) {
    let login = nkey(&deployment.service(service));
    eventually("the service to be let in", async || knock(deployment, &login, tls).await.ok())
        .await;
}

on_every_server!(certificates_change_while_it_runs);
/// What is in the files counts from the next connection on; what has expired is named.
async fn certificates_change_while_it_runs(version: &'static str) {
    let prepared = bucket::prepared();
    let folder = prepared.files.dir.clone();
    let authority = write_certificates(&folder);
    authority.sign(&folder, "client", "127.0.0.1", Until::Soon);
    let mut deployment = with_certificate(demanding(prepared, "verify: true"), "")
        .start_broker(version, bucket::ONE)
        .await;
    let (code, said) = bucket::push(&deployment, bucket::ONE, &[]).await;
    assert_eq!(code, 0, "{said}");
    let inside = deployment.add_instance(&[]).await;
    let tls = tls(&folder, Some("client"), false);
    enters(&deployment, "orders", &tls).await;
    let warned = found(&deployment, "certificates").await;
    let warned = warned.iter().find(|(outcome, ..)| outcome == "warning").expect("a warning");
    assert!(warned.1.starts_with("the certificate in [nats.tls] cert expires in "), "{warned:?}");

    // All are renewed, by another authority; the server starts with them.
    let authority = write_certificates(&folder);
    deployment.server.restart().await.unwrap();
    enters(&deployment, "orders", &tls).await;
    let certificates = found(&deployment, "certificates").await;
    assert!(certificates.iter().all(|(outcome, ..)| outcome == "ok"), "{certificates:?}");

    // The client's has expired, and nobody noticed before the server restarted.
    authority.sign(&folder, "client", "127.0.0.1", Until::Past);
    deployment.server.restart().await.unwrap();
    let expired = |line: &Value| {
        let cause = line["cause"].as_str().unwrap_or_default();
        cause.contains("[nats.tls] cert")
    };
    let line = deployment.instances[inside].says_where("client_error", expired).await;
    println!("{version}: {}", line["cause"]);
    let problems = found(&deployment, "certificates").await;
    let problem = problems.iter().find(|(outcome, ..)| outcome == "problem").expect("a problem");
    assert!(problem.1.contains("[nats.tls] cert expired "), "{problem:?}");
    let without = found(&deployment, "tls").await;
    assert!(without[0].0 == "problem" && without[0].2.contains("[nats.tls] cert"), "{without:?}");
    authority.sign(&folder, "client", "127.0.0.1", Until::Later);
    enters(&deployment, "orders", &tls).await;

    // The server's, which it read anew; who is connected stays connected.
    authority.sign(&folder, "server", "127.0.0.1", Until::Past);
    deployment.server.reload().unwrap();
    let without = eventually("the server's certificate to be another", async || {
        let found = found(&deployment, "tls").await;
        (found[0].0 == "problem").then_some(found)
    })
    .await;
    let mend = &without[0].2;
    assert!(mend.contains("the server's certificate has expired: renew it"), "{without:?}");
    authority.sign(&folder, "server", "127.0.0.1", Until::Soon);
    deployment.server.reload().unwrap();
    let whose =
        format!("the certificate of {} expires in ", deployment.url().split_once("://").unwrap().1);
    eventually("a warning about the server's certificate", async || {
        let found = found(&deployment, "certificates").await;
        found
            .iter()
            .any(|(outcome, found, _)| outcome == "warning" && found.starts_with(&whose))
            .then_some(())
    })
    .await;
    enters(&deployment, "orders", &tls).await;
    let (code, said) = bucket::push(&deployment, bucket::TWO, &[]).await;
    assert_eq!(code, 0, "{said}");
}

on_the_newest_server!(tls_that_begins_otherwise_is_named, some_room);
/// One begins with TLS and the other does not: both say which setting that is.
async fn tls_that_begins_otherwise_is_named(version: &'static str) {
    for (server, setting, advice) in [
        ("verify: true, handshake_first: true", "", "set [nats.tls] first = true"),
        ("verify: true", "first = true", "[nats.tls] first = true is for servers with"),
    ] {
        let prepared = Prepared::new();
        write_certificates(&prepared.files.dir);
        let mut deployment = with_certificate(demanding(prepared, server), setting)
            .start_broker(version, "[service.a]\nnkeys = [\"{a}\"]\n")
            .await;
        let outside = deployment.launch_instance(&[]);
        let advised = |line: &Value| line["message"].as_str().unwrap().contains(advice);
        deployment.instances[outside].says_where("connect_failed", advised).await;
    }
}
