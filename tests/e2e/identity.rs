//! Who gets in, who does not, and what operators and clients learn of it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value, json};
use solewriter_core::keys::{Seed, Signer, User};

use super::clients::Library;
use super::deployment::{Deployment, Prepared, eventually};
use super::operations;
use super::raw::Raw;

/// The server's own patience with a callout is 10 s (`authorization.timeout`).
const AT_ONCE: Duration = Duration::from_millis(2500);

const POLICY: &str = r#"
[service.known]
nkeys = ["{known}", "{known-spare}"]
calls = ["svc.x"]

[service.off]
nkeys = ["{off}"]
disabled = "retired"

[service.early]
nkeys = [{ key = "{early}", not_before = 2999-01-01T00:00:00Z }]

[service.late]
nkeys = [{ key = "{late}", not_after = 2001-01-01T00:00:00Z }]

[service.elsewhere]
nkeys = ["{elsewhere}"]
sources = ["192.0.2.0/24", "2001:db8::/32"]

[service.here]
nkeys = ["{here}"]
sources = ["127.0.0.0/8"]

[service.by-websocket]
nkeys = ["{by-websocket}"]
connections = ["WEBSOCKET"]

[service.by-tcp]
nkeys = ["{by-tcp}"]
connections = ["STANDARD"]

[service.by-both]
nkeys = ["{by-both}"]
connections = ["STANDARD", "WEBSOCKET"]
"#;

async fn deployment(version: &'static str) -> Deployment {
    let websocket = "websocket { listen: \"127.0.0.1:-1\", no_tls: true }\nsystem_account: SYS";
    Prepared::new().with_server("system_account: SYS", websocket).start(version, POLICY).await
}

/// One attempt to get in: how it reaches the server and what it offers.
struct Attempt<'a> {
    deployment: &'a mut Deployment,
    raw: Raw,
}

impl<'a> Attempt<'a> {
    async fn by_tcp(deployment: &'a mut Deployment) -> Self {
        let raw = Raw::dial(deployment.url()).await;
        Self { deployment, raw }
    }

    async fn by_websocket(deployment: &'a mut Deployment) -> Self {
        let raw = Raw::dial_websocket(&deployment.server.ports().websocket[0]).await;
        Self { deployment, raw }
    }

    fn proof(&self, service: &str) -> Value {
        self.raw.proof(&self.deployment.service(service).seed)
    }

    /// It is refused at once and told nothing; the log has the reason, the service as far as it
    /// was proved, and the key as far as one was claimed.
    async fn refused(mut self, offer: &Value, reason: &str, service: &str, key: Option<&str>) {
        let instance = &mut self.deployment.instances[0];
        let before = instance.decisions().len();
        let began = Instant::now();
        let said = self.raw.enter(offer).await;
        assert_eq!(said, Err("Authorization Violation".to_owned()), "{reason}");
        assert!(began.elapsed() < AT_ONCE, "{reason}: it took {:?}", began.elapsed());
        let lines = instance.says_times("authorisation", before + 1).await.split_off(before);
        let [line] = lines.as_slice() else { panic!("{reason}: {lines:?}") };
        assert_eq!(line["outcome"], "denied", "{line}");
        assert_eq!(line["reason"], reason, "{offer} {line}");
        assert_eq!(line["service"], service, "{line}");
        assert_eq!(line["nkey"], key.unwrap_or("-"), "{line}");
        assert_eq!(line["host"], "127.0.0.1", "{line}");
        assert_eq!(line["level"], "WARN", "{line}");
        for field in ["detail", "server", "server_id", "revision", "decision"] {
            assert!(line[field].as_str().is_some_and(|t| !t.is_empty()), "{field}: {line}");
        }
        let metric = format!("authorisations_total{{outcome=\"denied\",reason=\"{reason}\"}}");
        assert!(instance.metric(&format!("solewriter_{metric}")).await >= 1.0, "{metric}");
    }
}

on_every_server!(each_refusal_comes_at_once_and_has_its_reason);
async fn each_refusal_comes_at_once_and_has_its_reason(version: &'static str) {
    let mut deployment = deployment(version).await;
    let deployment = &mut deployment;
    let key = |deployment: &Deployment, name: &str| deployment.service(name).key();
    for (service, reason) in [
        ("off", "disabled"),
        ("early", "not_yet_valid"),
        ("late", "no_longer_valid"),
        ("elsewhere", "source"),
        ("by-websocket", "connection"),
    ] {
        let key = key(deployment, service);
        let attempt = Attempt::by_tcp(deployment).await;
        let offer = attempt.proof(service);
        attempt.refused(&offer, reason, service, Some(&key)).await;
    }
    // TCP alone is also what a service has that says nothing of connections.
    for service in ["by-tcp", "known"] {
        let key = key(deployment, service);
        let attempt = Attempt::by_websocket(deployment).await;
        let offer = attempt.proof(service);
        attempt.refused(&offer, "connection", service, Some(&key)).await;
    }

    let nobody = key(deployment, "nobody");
    let attempt = Attempt::by_tcp(deployment).await;
    let offer = attempt.proof("nobody");
    attempt.refused(&offer, "unknown_key", "-", Some(&nobody)).await;

    let issuer = std::fs::read_to_string(deployment.files.dir.join("deployment.conf")).unwrap();
    let account = issuer.lines().find_map(|l| l.strip_prefix("ISSUER_KEY: ")).unwrap().to_owned();
    for (offer, reason) in [
        (json!({}), "no_credential"),
        (json!({"user": "known", "pass": "x"}), "other_credential"),
        (json!({"pass": "x"}), "other_credential"),
        (json!({"auth_token": "x"}), "other_credential"),
        // Outside operator mode the server drops a client's JWT before it asks.
        (json!({"jwt": "e30.e30.e30", "sig": "x"}), "other_credential"),
        (json!({"nkey": account, "sig": "x"}), "bad_key"),
        (json!({"nkey": "UNKNOWN", "sig": "x"}), "bad_key"),
    ] {
        let attempt = Attempt::by_tcp(deployment).await;
        attempt.refused(&offer, reason, "-", None).await;
    }
}

on_every_server!(a_key_counts_only_with_its_own_signature);
/// Whoever knows only a public key gets nowhere with it.
async fn a_key_counts_only_with_its_own_signature(version: &'static str) {
    let mut deployment = deployment(version).await;
    let deployment = &mut deployment;
    let known = deployment.service("known").key();
    let known = known.as_str();
    let other = Signer::new(&Seed::<User>::generate()).unwrap();
    let signer = Signer::new(&deployment.service("known").seed).unwrap();
    type Sign<'a> = Box<dyn Fn(&str) -> Value + 'a>;
    let signatures: [(&str, Sign<'_>); 10] = [
        ("no_signature", Box::new(|_| json!(null))),
        ("no_signature", Box::new(|_| json!(""))),
        ("bad_signature", Box::new(|nonce| sig(&other.sign(nonce.as_bytes())))),
        ("bad_signature", Box::new(|_| sig(&signer.sign(b"")))),
        ("bad_signature", Box::new(|_| sig(&signer.sign(b"another nonce!!")))),
        ("bad_signature", Box::new(|_| sig(&[0; 64]))),
        ("signature_form", Box::new(|nonce| sig(&signer.sign(nonce.as_bytes())[..63]))),
        ("signature_form", Box::new(|_| json!("not base64 at all"))),
        ("signature_form", Box::new(|_| json!("x".repeat(3000)))),
        (
            "signature_form",
            Box::new(|nonce| {
                json!(format!("{}=", BASE64URL_NOPAD.encode(&signer.sign(nonce.as_bytes()))))
            }),
        ),
    ];
    for (reason, signature) in signatures {
        let attempt = Attempt::by_tcp(deployment).await;
        let offer = json!({"nkey": known, "sig": signature(&attempt.raw.nonce())});
        attempt.refused(&offer, reason, "-", Some(known)).await;
    }
    // A good signature is none beside another credential.
    let attempt = Attempt::by_tcp(deployment).await;
    let mut offer = attempt.proof("known");
    offer["user"] = json!("known");
    attempt.refused(&offer, "other_credential", "-", None).await;

    // Both forms of base64 are in use.
    for encoding in [&BASE64URL_NOPAD, &BASE64] {
        let mut raw = Raw::dial(deployment.url()).await;
        let signature = encoding.encode(&signer.sign(raw.nonce().as_bytes()));
        assert_eq!(raw.enter(&json!({"nkey": known, "sig": signature})).await, Ok(()));
    }
}

fn sig(signature: &[u8]) -> Value {
    json!(BASE64URL_NOPAD.encode(signature))
}

on_every_server!(who_may_come_in_does);
async fn who_may_come_in_does(version: &'static str) {
    let mut deployment = deployment(version).await;
    let websocket = deployment.server.ports().websocket[0].clone();
    for (service, seed, connection) in [
        ("known", "known", "STANDARD"),
        ("known", "known-spare", "STANDARD"),
        ("by-both", "by-both", "STANDARD"),
        ("by-both", "by-both", "WEBSOCKET"),
        ("here", "here", "STANDARD"),
        ("by-tcp", "by-tcp", "STANDARD"),
        ("by-websocket", "by-websocket", "WEBSOCKET"),
    ] {
        let mut raw = match connection {
            "WEBSOCKET" => Raw::dial_websocket(&websocket).await,
            _ => Raw::dial(deployment.url()).await,
        };
        let holder = deployment.service(seed);
        let proof = raw.proof(&holder.seed);
        assert_eq!(raw.enter(&proof).await, Ok(()), "{seed} by {connection}");
        let line = deployment.instances[0]
            .says_where("authorisation", |l| {
                l["nkey"] == holder.key() && l["connection"] == connection
            })
            .await;
        assert_eq!(line["outcome"], "granted", "{line}");
        assert_eq!(line["reason"], "granted", "{line}");
        assert_eq!(line["service"], service, "{line}");
        assert_eq!(line["account"], "APP", "{line}");
    }
}

on_every_server!(a_library_is_told_that_it_was_refused_and_not_why);
/// Each library tells its user at once that it was refused, and not why.
async fn a_library_is_told_that_it_was_refused_and_not_why(version: &'static str) {
    let mut deployment = deployment(version).await;
    for library in Library::ALL {
        for (name, reason) in [("nobody", "unknown_key"), ("off", "disabled")] {
            let service = deployment.service(name);
            let lines = library.run(&deployment, &service, &[]).await;
            let [line] = lines.as_slice() else { panic!("{library:?}: {lines:?}") };
            assert_eq!(line["op"], "connect", "{library:?}: {line}");
            assert_eq!(line["error"], "authorization", "{library:?}: {line}");
            let detail = line["detail"].as_str().unwrap().to_lowercase();
            for word in ["disabled", "unknown", "retired", "policy", "solewriter", &*service.key()]
            {
                assert!(!detail.contains(&word.to_lowercase()), "{library:?}: {line}");
            }
            let key = service.key();
            let line = deployment.instances[0]
                .says_where("authorisation", |l| l["nkey"] == key && l["reason"] == reason)
                .await;
            assert_eq!(line["outcome"], "denied");
        }
    }
}

on_every_server!(a_connections_name_leads_back_to_service_key_and_policy);
/// The server forgets the client's key, so the name has to lead back to it.
async fn a_connections_name_leads_back_to_service_key_and_policy(version: &'static str) {
    let mut deployment = deployment(version).await;
    let known = deployment.service("known");
    let mut raw = Raw::login(&deployment, &known).await;
    let granted = deployment.instances[0].says("authorisation").await;
    let revision = granted["revision"].as_str().unwrap();
    assert_eq!(revision.len(), 64, "{granted}");
    let grant = granted["grant"].as_str().unwrap();
    assert_eq!(grant.len(), 64, "{granted}");
    let name = format!("known/{}/{revision}/{grant}", known.key());
    let connections = deployment.connections("APP").await;
    let user = connections[0]["authorized_user"].as_str().unwrap();
    // The last parts are when it was let in, and when that ends.
    let (asked, ends) = user.strip_prefix(&format!("{name}/")).unwrap().split_once('/').unwrap();
    assert_eq!(granted["expires"], ends.parse::<i64>().unwrap());
    let asked: i64 = asked.parse().unwrap();
    let now = jiff::Timestamp::now().as_second();
    assert!(connections.len() == 1 && (0..60).contains(&(now - asked)), "{user}");
    assert_eq!(connections[0]["cid"], granted["cid"]);
    // The server's log has it where it tells of a violation.
    assert!(raw.publish("not.mine", b"").await.is_err());
    let log = deployment.server.log();
    let line = log.lines().find(|l| l.contains("not.mine")).unwrap();
    assert!(line.contains(&name), "{line}");
}

on_every_server!(a_connection_ends_with_its_permissions_and_comes_back);
/// When the permissions end, the server closes the connection, and the client comes back. They are
/// too short here for the sweep to close it before.
async fn a_connection_ends_with_its_permissions_and_comes_back(version: &'static str) {
    let policy = POLICY.replace("[service.known]", "[service.known]\nlifetime = \"8s\"");
    let deployment = Deployment::start(version, &policy).await;
    let known = deployment.service("known");
    let (client, _violations) = operations::connect(deployment.url(), &known).await.unwrap();
    let mut raw = Raw::login(&deployment, &known).await;
    let began = Instant::now();
    let said = raw.closed().await;
    assert!(said.contains("Authentication Expired"), "{said}");
    let lasted = began.elapsed();
    assert!(
        lasted > Duration::from_secs(5) && lasted < Duration::from_secs(10),
        "a lifetime of 8 s lasted {lasted:?}"
    );
    eventually("the client to come back", async || {
        (client.statistics().connects.load(Ordering::Relaxed) >= 2).then_some(())
    })
    .await;
    client.flush().await.unwrap();
    let granted = deployment.instances[0].says_times("authorisation", 3).await;
    let outcomes: Vec<&Value> = granted.iter().map(|l| &l["outcome"]).collect();
    assert_eq!(outcomes, ["granted", "granted", "granted"]);
    assert_eq!(deployment.violations(), []);
}
