//! A deployment in operator mode, as `solewriter init --operator` writes it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::{self, consumer::pull};
use async_nats::{Client, ConnectOptions};
use futures_util::StreamExt;
use serde_json::json;
use solewriter_core::account_jwt::{self, AccountBody, SigningKey, Subjects, UserBody};
use solewriter_core::keys::{Account, AccountKey, Operator, Seed, Signer, User};

use super::deployment::{Deployment, Prepared, edit, eventually, read};
use super::raw::Raw;

pub async fn deployment(version: &'static str) -> Deployment {
    let deployment = Prepared::operator(version).start_as_is(version).await;
    deployment.apply(&[]).await;
    deployment
}

/// How a service of the sample policy connects with its credentials.
fn credentials(deployment: &Deployment, name: &str) -> ConnectOptions {
    deployment.login(name).custom_inbox_prefix(format!("_INBOX.{name}"))
}

async fn connected(deployment: &Deployment, name: &str) -> Client {
    credentials(deployment, name).connect(deployment.url()).await.unwrap()
}

/// The key that a file below `keys` has.
pub fn signer<K: solewriter_core::keys::Role>(deployment: &Deployment, file: &str) -> Signer<K> {
    let text = read(&deployment.files.dir.join("keys").join(file));
    Signer::new(&Seed::parse(&text).unwrap()).unwrap()
}

/// The JWT of credentials.
pub fn token(deployment: &Deployment, name: &str) -> String {
    let text = read(&deployment.files.seed_file(name).with_extension("creds"));
    text.lines().find(|line| line.starts_with("eyJ")).unwrap().to_owned()
}

/// Changes an account's JWT as its operator would, in the file. Gives the old one and the new one.
pub fn change(
    deployment: &Deployment,
    name: &str,
    change: impl FnOnce(&mut AccountBody),
) -> (String, String) {
    let file = deployment.files.dir.join("accounts").join(format!("{name}.jwt"));
    let old = read(&file).trim().to_owned();
    let mut claims = account_jwt::read::<AccountBody>(&old).unwrap();
    change(&mut claims.nats);
    let operator = signer::<Operator>(deployment, "operator/operator.nk");
    let now = jiff::Timestamp::now().as_second();
    let new = account_jwt::sign(&operator, &claims.sub, &claims.name, claims.nats, now).unwrap();
    std::fs::write(&file, &new).unwrap();
    (old, new)
}

/// The same, and a server with a full resolver takes it from a user of the system account.
pub async fn push(deployment: &Deployment, name: &str, body: impl FnOnce(&mut AccountBody)) {
    let (_, new) = change(deployment, name, body);
    push_jwt(deployment.url(), &signer(deployment, "operator/SYS.nk"), new).await;
}

/// A server with a full resolver takes a JWT from a user of the system account.
pub async fn push_jwt(url: &str, system: &Signer<Account>, new: String) {
    let seed = Seed::<User>::generate();
    let key = *Signer::new(&seed).unwrap().public();
    let body = UserBody::new(system.public(), Subjects::default(), Subjects::default());
    let jwt = account_jwt::sign(system, key.as_str(), "operator", body, 1).unwrap();
    let options = ConnectOptions::with_credentials(&account_jwt::credentials(&jwt, &seed));
    let client = options.unwrap().connect(url).await.unwrap();
    let answer = client.request("$SYS.REQ.CLAIMS.UPDATE", new.into()).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer["data"]["code"], 200, "{answer}");
}

/// Waits until the server has an account's keys as the file says.
pub async fn taken_over(deployment: &Deployment, name: &str) {
    let file = deployment.files.dir.join("accounts").join(format!("{name}.jwt"));
    let wanted = read(&file).trim().to_owned();
    let claims = account_jwt::read::<AccountBody>(&wanted).unwrap();
    eventually("the server takes a JWT over", async || {
        let question = json!({"account": claims.sub});
        let answer = deployment.ask_system("SERVER.PING.ACCOUNTZ", &question).await;
        (answer.pointer("/data/account_detail/jwt")? == wanted.as_str()).then_some(())
    })
    .await;
}

on_every_server!(a_whole_deployment);
async fn a_whole_deployment(version: &'static str) {
    let mut deployment = deployment(version).await;
    let ran = deployment.tool(&["doctor"]).await;
    let mut problems = ran.out.lines().filter(|line| line.contains("PROBLEM"));
    // An old server has known holes.
    let problem = problems.find(|line| !line.contains("advisories"));
    assert_eq!(problem, None, "{}\n{}", ran.out, ran.err);
    assert!(!ran.out.contains("not seen "), "{}", ran.out);

    // A KV client.
    let orders = connected(&deployment, "orders").await;
    let bucket = jetstream::new(orders.clone()).get_key_value("orders").await.unwrap();
    let revision = bucket.put("1", "one".into()).await.unwrap();
    bucket.update("1", "two".into(), revision).await.unwrap();
    assert_eq!(bucket.get("1").await.unwrap().unwrap(), "two");
    // Another service reads, and does not write.
    let billing = connected(&deployment, "billing").await;
    let read_only = jetstream::new(billing.clone()).get_key_value("orders").await.unwrap();
    assert_eq!(read_only.get("1").await.unwrap().unwrap(), "two");
    billing.publish("$KV.orders.1", "theirs".into()).await.unwrap();
    billing.flush().await.unwrap();
    eventually("a violation in the log", async || {
        let violations = deployment.violations();
        let act = "publish $KV.orders.1";
        violations.iter().any(|v| v.service == "billing" && v.act == act).then_some(())
    })
    .await;
    assert_eq!(bucket.get("1").await.unwrap().unwrap(), "two");

    // A stream client.
    let context = jetstream::new(orders.clone());
    context.publish("events.orders.new", "1".into()).await.unwrap().await.unwrap();
    let warehouse = jetstream::new(connected(&deployment, "warehouse").await);
    let consumer: jetstream::consumer::Consumer<pull::Config> =
        warehouse.get_consumer_from_stream("warehouse", "EVENTS").await.unwrap();
    let message = consumer.messages().await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(message.payload, "1");
    message.double_ack().await.unwrap();

    // What the key proves, the JWT does not have to: newer servers take the place of it.
    let plain = ConnectOptions::with_nkey(deployment.seed("quotes").expose().to_owned());
    let plain = plain.custom_inbox_prefix("_INBOX.quotes").connect(deployment.url()).await;
    assert_eq!(plain.is_ok(), version != "2.10.25");

    intruders(&deployment).await;

    // Who is connected, told by the account's name.
    let ran = deployment.tool(&["sessions", "--format", "json"]).await;
    let sessions = ran.json();
    for service in ["orders", "billing", "warehouse"] {
        let found = sessions.to_string().contains(&format!("\"service\":\"{service}\""));
        assert!(found, "{service}: {ran:?}");
    }
    // The audit has who was let in.
    let mut audit = deployment.audit_admin().await.get_stream("AUDIT_EVENTS").await.unwrap();
    eventually("events in the audit stream", async || {
        (audit.info().await.unwrap().state.messages > 5).then_some(())
    })
    .await;

    // What the policy takes away ends at once.
    let policy = deployment.files.policy().join("services.toml");
    edit(&policy, "[service.billing]\n", "[service.billing]\ndisabled = \"test\"\n");
    let closed = deployment.instances[0]
        .says_where("session_closed", |line| line["service"] == "billing")
        .await;
    assert_eq!(closed["account"], "APP", "{closed}");
    eventually("the end of a connection", async || {
        (billing.connection_state() != State::Connected).then_some(())
    })
    .await;
    assert_eq!(orders.connection_state(), State::Connected);
}

/// Nobody gets in who does not hold the key of a service.
async fn intruders(deployment: &Deployment) {
    let url = deployment.url();
    let (stranger, orders) = (Seed::<User>::generate(), deployment.seed("orders"));
    let own = {
        let key = Signer::new(&stranger).unwrap();
        let issuer = signer::<Account>(deployment, "issuer.nk");
        let body = account_jwt::read::<UserBody>(&token(deployment, "orders")).unwrap().nats;
        account_jwt::sign(&issuer, key.public().as_str(), "orders", body, 1).unwrap()
    };
    for (what, jwt, nkey, seed) in [
        ("a stranger with its own JWT", Some(own.clone()), false, &stranger),
        ("a stranger behind a service's JWT", Some(token(deployment, "orders")), false, &stranger),
        ("a stranger's key beside it", Some(token(deployment, "orders")), true, &stranger),
        ("a service's key behind a stranger's JWT", Some(own), true, &orders),
        ("nobody", None, true, &stranger),
    ] {
        let mut raw = Raw::dial(url).await;
        let mut options = raw.proof(seed);
        if !nkey {
            options.as_object_mut().unwrap().remove("nkey");
        }
        if let Some(jwt) = jwt {
            options["jwt"] = jwt.into();
        }
        let said = raw.enter(&options).await;
        assert!(said.is_err(), "{what}: {said:?}");
    }
    // A bearer's JWT and the name of a key, without its signature.
    let bearer = read(&deployment.files.dir.join("accounts.conf"));
    if let Some((_, rest)) = bearer.split_once("default_sentinel: ") {
        let jwt = rest.lines().next().unwrap();
        let key = Signer::new(&orders).unwrap().public().to_string();
        for options in [json!({"jwt": jwt}), json!({"jwt": jwt, "nkey": key})] {
            let mut raw = Raw::dial(url).await;
            assert!(raw.enter(&options).await.is_err(), "{options}");
        }
    }
}

/// Connects again and again until told to stop. Gives how often, and what failed.
fn connecting(options: impl Fn() -> ConnectOptions + Send + 'static, url: String) -> Connecting {
    let (stop, times) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (until, count) = (stop.clone(), times.clone());
    let task = tokio::spawn(async move {
        let mut failed = Vec::new();
        while !until.load(Ordering::Relaxed) {
            match options().connect(&url).await {
                Ok(client) => {
                    // Let in is who gets an answer.
                    if let Err(error) = client.flush().await {
                        failed.push(error.to_string());
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => failed.push(error.to_string()),
            }
        }
        failed
    });
    Connecting { stop, times, task }
}

struct Connecting {
    stop: Arc<AtomicBool>,
    times: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Connecting {
    /// Waits until so many more came in.
    async fn some_more(&self) {
        let before = self.times.load(Ordering::Relaxed);
        eventually("more connections", async || {
            (self.times.load(Ordering::Relaxed) >= before + 5).then_some(())
        })
        .await;
    }

    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

on_every_server!(each_key_is_replaced_and_nobody_notices);
async fn each_key_is_replaced_and_nobody_notices(version: &'static str) {
    let prepared = Prepared::operator(version);
    let full = format!(
        "resolver: {{ type: full, dir: \"{}\" }}",
        prepared.files.dir.join("resolver").display()
    );
    edit(&prepared.files.dir.join("accounts.conf"), "resolver: MEMORY", &full);
    // Which connections it closes, and why.
    let config = prepared.files.server_config();
    std::fs::write(&config, format!("debug: true\n{}", read(&config))).unwrap();
    let mut deployment = prepared.start_as_is(version).await;
    deployment.apply(&[]).await;
    let (url, text) = (
        deployment.url().to_owned(),
        read(&deployment.files.seed_file("orders").with_extension("creds")),
    );
    let options = move || {
        let options = ConnectOptions::with_credentials(&text).unwrap();
        options.custom_inbox_prefix("_INBOX.orders").connection_timeout(Duration::from_secs(10))
    };
    let connecting = connecting(options, url);
    connecting.some_more().await;
    let made = |name: &str| -> (PathBuf, AccountKey) {
        let (path, seed) =
            (deployment.files.dir.join("keys").join(name), Seed::<Account>::generate());
        solewriter::scaffold::write_secret(&path, seed.expose()).unwrap();
        (path, *Signer::new(&seed).unwrap().public())
    };
    let ((app, app_key), (issuer, issuer_key)) = (made("app-2.nk"), made("issuer-2.nk"));
    // Both keys count, then the new ones sign, then the old ones count no more.
    for (name, key) in [("APP", app_key), ("AUTH", issuer_key)] {
        push(&deployment, name, |body| body.signing_keys.push(SigningKey::Plain(key.to_string())))
            .await;
        taken_over(&deployment, name).await;
    }
    connecting.some_more().await;
    let new = deployment
        .add_instance(&[
            "--operator-seeds",
            app.to_str().unwrap(),
            "--issuer-seed",
            issuer.to_str().unwrap(),
        ])
        .await;
    deployment.instances[0].signal(rustix::process::Signal::TERM);
    let status = deployment.instances[0].child.wait().await.unwrap();
    assert!(status.success(), "{status}");
    connecting.some_more().await;
    for name in ["APP", "AUTH"] {
        push(&deployment, name, |body| drop(body.signing_keys.remove(0))).await;
        taken_over(&deployment, name).await;
    }
    connecting.some_more().await;
    // Nobody is refused. Who is in the middle of a login while the server takes over other keys of AUTH or
    // APP may be closed: it then holds the key of one account against the other's.
    let failed = connecting.end().await;
    let log = deployment.server.log();
    let mut taking = false;
    let evicted = log.lines().filter(|line| {
        taking =
            (taking || line.contains("Updating account claims")) && !line.contains("jwt updated");
        taking && line.contains("Client connection closed: Authentication Failure")
    });
    assert!(failed.len() <= evicted.count(), "{failed:?}\n{log}");
    let refused: Vec<&String> =
        failed.iter().filter(|said| said.to_lowercase().contains("authorization")).collect();
    assert!(refused.is_empty(), "{failed:?}");
    assert!(!deployment.instances[new].decisions().is_empty());
}

on_every_server!(a_leaked_key_goes_past_the_callout);
async fn a_leaked_key_goes_past_the_callout(version: &'static str) {
    let deployment = deployment(version).await;
    let leaked = signer::<Account>(&deployment, "app.nk");
    let app =
        account_jwt::read::<AccountBody>(&read(&deployment.files.dir.join("accounts/APP.jwt")));
    let app = AccountKey::parse(&app.unwrap().sub).unwrap();
    let before = deployment.instances[0].decisions().len();
    let mut thieves = Vec::new();
    for bearer in [true, false] {
        let seed = Seed::<User>::generate();
        let key = *Signer::new(&seed).unwrap().public();
        let mut body = UserBody::new(&app, Subjects::default(), Subjects::default());
        body.bearer_token = bearer;
        let jwt = account_jwt::sign(&leaked, key.as_str(), "thief", body, 1).unwrap();
        let mut raw = Raw::dial(deployment.url()).await;
        let mut options = if bearer { json!({}) } else { raw.proof(&seed) };
        options["jwt"] = jwt.into();
        // Nobody is asked: whoever signs for an account decides about it. The account takes no bearer.
        let entered = raw.enter(&options).await;
        assert_eq!(entered.is_ok(), !bearer, "{entered:?}");
        if !bearer {
            thieves.push(raw);
        }
    }
    assert_eq!(deployment.instances[0].decisions().len(), before);
    // It shows.
    let ran = deployment.tool(&["doctor"]).await;
    let said = ran.out.lines().filter(|line| line.contains("in APP: ")).count();
    assert!(said >= 1 && ran.out.contains("PROBLEM   logins"), "{}", ran.out);
    // With the key gone, they are out, and stay out.
    let (path, seed) = (deployment.files.dir.join("keys/app-2.nk"), Seed::<Account>::generate());
    solewriter::scaffold::write_secret(&path, seed.expose()).unwrap();
    let new = Signer::new(&seed).unwrap().public().to_string();
    let (old, new) =
        change(&deployment, "APP", |body| body.signing_keys = vec![SigningKey::Plain(new)]);
    // A memory resolver reads them again when the server reloads.
    edit(&deployment.files.dir.join("accounts.conf"), &old, &new);
    deployment.server.reload().unwrap();
    for mut thief in thieves {
        thief.closed().await;
    }
}
