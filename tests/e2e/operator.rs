//! A deployment in operator mode, as `solewriter init --operator` writes it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::{self, consumer::pull};
use async_nats::{Client, ConnectOptions};
use futures_util::StreamExt;
use serde_json::{Value, json};
use solewriter::scaffold;
use solewriter_core::account_jwt::{
    self, AccountBody, Claims, PassKind, SigningKey, Subjects, UserBody,
};
use solewriter_core::keys::{Account, AccountKey, Operator, Seed, Signer, User};

use super::deployment::{
    Deployment, Instance, Prepared, Service, edit, eventually, policy_text, read,
};
use super::raw::Raw;
use super::rotation::Rotating;

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

/// Whether the accounts of these files are JWTs.
pub fn is_here(files: &scaffold::Deployment) -> bool {
    files.dir.join("accounts.conf").exists()
}

fn seed_of<K: solewriter_core::keys::Role>(files: &scaffold::Deployment, name: &str) -> Signer<K> {
    let text = read(&files.dir.join(format!("keys/operator/{name}.nk")));
    Signer::new(&Seed::parse(&text).unwrap()).unwrap()
}

/// The public key of an account.
pub fn key_of(files: &scaffold::Deployment, account: &str) -> AccountKey {
    let jwt = read(&files.dir.join(format!("accounts/{account}.jwt")));
    AccountKey::parse(&account_jwt::read::<AccountBody>(&jwt).unwrap().sub).unwrap()
}

/// The JWT that leads a service to the callout, where the server has none for everybody.
pub fn way_in(files: &scaffold::Deployment, service: &Service) -> Option<String> {
    let sentinel = read(&files.dir.join("accounts.conf")).contains("default_sentinel: ");
    (is_here(files) && !sentinel).then(|| {
        let auth = seed_of::<Account>(files, "AUTH");
        let body = UserBody::new(auth.public(), Subjects::nothing(), Subjects::nothing());
        account_jwt::sign(&auth, &service.key(), &service.name, body, 1).unwrap()
    })
}

/// An account's claims as `operator plan --format json` has them, with the activations that its imports take.
pub fn planned<'a>(account: &Value, by_key: impl Fn(&str) -> &'a Signer<Account>) -> Value {
    let mut claims = account["claims"].clone();
    for activation in account["activations"].as_array().unwrap() {
        let text = |name: &str| activation[name].as_str().unwrap().to_owned();
        let importer = AccountKey::parse(&text("importer")).unwrap();
        let kind: PassKind = serde_json::from_value(activation["type"].clone()).unwrap();
        let exporter = by_key(&text("exporter"));
        let token =
            account_jwt::activation(exporter, &importer, &text("subject"), kind, 1).unwrap();
        let import = claims["imports"].as_array_mut().unwrap().iter_mut().find(|import| {
            import["account"] == activation["exporter"]
                && import["subject"] == activation["subject"]
                && import["type"] == activation["type"]
                && import.get("local_subject").and_then(Value::as_str).unwrap_or("")
                    == text("local_subject")
        });
        import.unwrap()["token"] = token.into();
    }
    claims
}

/// The accounts' JWTs get what the policy needs, by what `operator plan` says, before anything runs.
pub fn write_passes(files: &scaffold::Deployment, policy: &str) {
    let written = files.policy().join("test.toml");
    std::fs::write(written, policy_text(files, policy)).unwrap();
    let ran = std::process::Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .args(["operator", "plan", "--format", "json", "--config"])
        .arg(files.settings())
        .args(["--nats-servers", "nats://127.0.0.1:4222"])
        .output()
        .unwrap();
    let plan: Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"));
    let signers: Vec<Signer<Account>> = std::fs::read_dir(files.dir.join("accounts"))
        .unwrap()
        .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .map(|name| seed_of(files, &name))
        .collect();
    let by_key = |key: &str| signers.iter().find(|s| s.public().as_str() == key).unwrap();
    let (operator, conf) =
        (seed_of::<Operator>(files, "operator"), files.dir.join("accounts.conf"));
    for account in plan["accounts"].as_array().unwrap() {
        let file = files.dir.join(format!("accounts/{}.jwt", account["account"].as_str().unwrap()));
        let old = read(&file).trim().to_owned();
        let Claims { sub, name, .. } = account_jwt::read::<AccountBody>(&old).unwrap();
        let new = account_jwt::sign(&operator, &sub, &name, planned(account, by_key), 1).unwrap();
        edit(&conf, &old, &new);
        std::fs::write(&file, &new).unwrap();
    }
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

on_every_server!(each_key_is_rotated_and_nobody_notices);
/// `solewriter key rotate` from its first word to its last, for each key, while a client connects all the
/// time. What it says is done by the test.
async fn each_key_is_rotated_and_nobody_notices(version: &'static str) {
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
    let keys = deployment.files.dir.join("keys");
    let orders = deployment.files.seed_file("orders");
    let login = ["--login", orders.to_str().unwrap()];

    for (what, account, file) in [("signing-key", "APP", "app.nk"), ("issuer", "AUTH", "issuer.nk")]
    {
        let (old_file, new_file) = (keys.join(file), keys.join(format!("new-{file}")));
        // Nobody does what it says: it ends, and the next run goes on with the same key.
        let within = [&login[..], &["--within", "0s"]].concat();
        let mut first = Rotating::start(&deployment, what, &new_file, &within);
        assert_eq!(first.child.wait().await.unwrap().code(), Some(1));
        let said = first.says("waiting: 0 of 1 servers have it; the file does not have it").await;
        assert!(said.contains("2. Add it to the signing keys"), "{said}");
        let public = |file: &Path| {
            let seed = Seed::<Account>::parse(&read(file)).unwrap();
            Signer::new(&seed).unwrap().public().to_string()
        };
        let (old, new) = (public(&old_file), public(&new_file));

        let mut rotating = Rotating::start(&deployment, what, &new_file, &login);
        let said = rotating.says("2. Add it to the signing keys").await;
        assert!(said.contains(&format!("1. The new key is {new} (found: ")), "{said}");
        assert!(
            said.contains(&format!("nsc edit account --name {account} --sk {new}\n")),
            "{said}"
        );
        // In the file alone it is not done.
        let (_, jwt) = change(&deployment, account, |body| {
            body.signing_keys.push(SigningKey::Plain(new.clone()));
        });
        rotating.says("0 of 1 servers have it; the file has it\n").await;
        let system = signer::<Account>(&deployment, "operator/SYS.nk");
        push_jwt(deployment.url(), &system, jwt).await;
        rotating.says("3. In ").await;
        edit(&deployment.files.settings(), &format!("keys/{file}"), &format!("keys/new-{file}"));
        rotating.says("waiting: 0 have the new key, 1 another").await;
        connecting.some_more().await;
        let next = deployment.add_instance(&[]).await;
        rotating.says("waiting: 1 have the new key, 1 another").await;
        deployment.instances[next - 1].signal(rustix::process::Signal::TERM);
        let status = deployment.instances[next - 1].child.wait().await.unwrap();
        assert!(status.success(), "{status}");
        let said = rotating.says("4. Remove ").await;
        assert!(said.contains(&format!("--rm-sk {old}\n")), "{said}");
        assert!(said.contains("done: 1 of 1 took an answer: 127.0.0.1:"), "{said}");
        connecting.some_more().await;
        push(&deployment, account, |body| body.signing_keys.retain(|key| key.key() != old)).await;
        let status = rotating.child.wait().await.unwrap();
        let said = rotating.says("destroy it").await;
        assert!(status.success(), "{said}");
        for file in [&old_file, &new_file] {
            assert!(!said.contains(read(file).trim()));
        }
        connecting.some_more().await;
        // A last run finds nothing to do.
        let within = [&login[..], &["--within", "0s"]].concat();
        let mut last = Rotating::start(&deployment, what, &new_file, &within);
        assert!(last.child.wait().await.unwrap().success(), "{}", last.said.lock().unwrap());
    }

    xkey_is_rotated(&mut deployment, &connecting, &login).await;
    nobody_was_refused(&deployment, &connecting.end().await);
}

/// One xkey at a time, so the new instances have a queue group of their own.
async fn xkey_is_rotated(deployment: &mut Deployment, connecting: &Connecting, login: &[&str]) {
    let keys = deployment.files.dir.join("keys");
    let new_file = keys.join("new-callout.xk");
    let mut rotating = Rotating::start(deployment, "xkey", &new_file, login);
    let said = rotating.says("--nats-queue-group").await;
    let new = nkeys::XKey::from_seed(read(&new_file).trim()).unwrap().public_key();
    assert!(
        said.contains(&format!("nsc edit authcallout --account AUTH --curve {new}\n")),
        "{said}"
    );
    let (_, group) = said.split_once("--nats-queue-group ").unwrap();
    let group = group.split_whitespace().next().unwrap().to_owned();
    let (_, jwt) = change(deployment, "AUTH", |body| body.authorization.xkey.clone_from(&new));
    let flags = ["--xkey-seed", new_file.to_str().unwrap(), "--nats-queue-group", &group];
    let next = deployment.add_instance(&flags).await;
    rotating.says("3. Push it").await;
    connecting.some_more().await;
    push_jwt(deployment.url(), &signer(deployment, "operator/SYS.nk"), jwt).await;
    rotating.says("4. Stop the instances with the old key").await;
    connecting.some_more().await;
    deployment.instances[next - 1].signal(rustix::process::Signal::TERM);
    rotating.says("5. In ").await;
    edit(&deployment.files.settings(), "keys/callout.xk", "keys/new-callout.xk");
    let status = rotating.child.wait().await.unwrap();
    assert!(status.success(), "{}", rotating.said.lock().unwrap());
    connecting.some_more().await;
    assert!(!deployment.instances[next].decisions().is_empty());
}

fn nobody_was_refused(deployment: &Deployment, failed: &[String]) {
    // Nobody is refused. Who is in the middle of a login while the server takes over other keys of AUTH or
    // APP may be closed: it then holds the key of one account against the other's.
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

on_the_newest_server!(every_tool_is_at_home_here, some_room);
/// What a user does with the tools in a day.
async fn every_tool_is_at_home_here(version: &'static str) {
    let log = |prepared: Prepared| {
        let file = prepared.dir.path().join("nats-server.log");
        let line = format!("log_file: \"{}\"\njetstream {{", file.display());
        (prepared.with_server("jetstream {", &line), file)
    };
    let (prepared, log) = log(Prepared::operator(version));
    let deployment = prepared.start_as_is(version).await;

    // Buckets.
    let planned = deployment.tool(&["buckets", "plan"]).await;
    assert_eq!(planned.code, 1, "{planned:?}");
    assert!(planned.out.contains("orders"), "{planned:?}");
    let applied = deployment.tool(&["buckets", "apply", "--yes"]).await;
    assert_eq!(applied.code, 0, "{applied:?}");
    assert_eq!(deployment.tool(&["buckets", "plan"]).await.code, 0);
    deployment.apply(&[]).await;
    assert_eq!(deployment.tool(&["state", "plan"]).await.code, 0);

    // Sessions: who is connected, and closing them.
    let billing = connected(&deployment, "billing").await;
    let ran = deployment.tool(&["sessions", "--format", "json"]).await;
    let listed = ran.json();
    assert!(listed.to_string().contains("\"service\":\"billing\""), "{listed}");
    assert!(listed.to_string().contains("\"account\":\"APP\""), "{listed}");

    // A violation, explained from the server's log, and told in the audit stream.
    let quotes = deployment.files.seed_file("violations").with_extension("creds");
    let own_log = deployment.dir.path().join("violations.log");
    let child = tokio::process::Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .args(["violations", "--nats-servers", deployment.url(), "--log-format", "json", "--log"])
        .arg(&log)
        .arg("--policy")
        .arg(deployment.files.policy())
        .arg("--credentials")
        .arg(quotes)
        .args(["--window", "0s"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(&own_log).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut follower = Instance { child, log: own_log };
    billing.publish("$KV.orders.1", "theirs".into()).await.unwrap();
    billing.flush().await.unwrap();
    let said = follower.says_where("violation", |line| line["service"] == "billing").await;
    assert_eq!((&said["owner"], &said["subject"]), (&json!("orders"), &json!("$KV.orders.1")));

    // The audit has that, and who was let in.
    let told = eventually("the violation in the audit", async || {
        let tail = ["audit", "tail", "--no-follow", "--json", "--since", "all"];
        let ran = deployment.tool(&tail).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.out.contains("solewriter.violation").then_some(ran.out)
    })
    .await;
    let events: Vec<Value> =
        told.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let granted = events.iter().find(|event| {
        event["data"]["service"] == "billing" && event["data"]["outcome"] == "granted"
    });
    assert!(granted.is_some(), "{told}");
    let stats = deployment.tool(&["audit", "stats", "--format", "json"]).await;
    assert_eq!(stats.code, 0, "{stats:?}");
    // As a service, without the settings.
    let auditor = deployment.files.seed_file("auditor");
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .args(["audit", "tail", "--no-follow", "--since", "all", "--nats-servers"])
        .arg(deployment.url())
        .args(["--service-name", "auditor", "--nkey-seed"])
        .arg(auditor)
        .current_dir(deployment.dir.path())
        .output()
        .await
        .unwrap();
    let read = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && read.contains("billing"), "{output:?}");

    // Questions about the policy and the instances.
    let ran = deployment.tool(&["policy", "status"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = deployment.tool(&["doctor"]).await;
    assert!(!ran.out.contains("PROBLEM"), "{}", ran.out);
    // A key with a scope is told by doctor before anybody has it sign.
    let scope = Signer::<Account>::new(&Seed::generate()).unwrap().public().to_string();
    let (old, new) = change(&deployment, "APP", |body| {
        let own = body.signing_keys[0].key().to_owned();
        body.signing_keys = vec![
            SigningKey::Scoped {
                kind: "user_scope".to_owned(),
                key: own,
                role: "narrow".to_owned(),
                template: json!({}),
            },
            SigningKey::Plain(scope),
        ];
    });
    edit(&deployment.files.dir.join("accounts.conf"), &old, &new);
    deployment.server.reload().unwrap();
    taken_over(&deployment, "APP").await;
    let ran = deployment.tool(&["doctor"]).await;
    assert!(ran.out.contains("PROBLEM   signing-keys"), "{}", ran.out);
    assert!(ran.out.contains("has a scope (\"narrow\")"), "{}", ran.out);
}

on_the_newest_server!(signing_keys_are_handed_over, some_room);
/// Keys that sign users come from the environment, or from a systemd credential.
async fn signing_keys_are_handed_over(version: &'static str) {
    let prepared =
        Prepared::operator_without_policy(version).with_settings("seeds = [\"keys/app.nk\"]", "");
    let file = prepared.files.dir.join("keys/app.nk");
    let seed = read(&file).trim().to_owned();
    std::fs::remove_file(file).unwrap();
    let another = Seed::<Account>::generate();
    let mut deployment =
        prepared.start_broker(version, "[service.known]\nnkeys = [\"{known}\"]\n").await;
    let service = deployment.service("known");
    let credentials = deployment.dir.path().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    let credential = credentials.join("app.nk");
    solewriter::scaffold::write_secret(&credential, &format!("{seed}\n")).unwrap();

    // Without any of them nothing starts.
    let index = deployment.launch_instance(&[]);
    assert!(!deployment.instances[index].child.wait().await.unwrap().success());
    let log = read(&deployment.instances[index].log);
    assert!(log.contains("there is no seed of it"), "{log}");

    let name = "SOLEWRITER_OPERATOR_SEEDS_VALUE";
    let in_environment: [(&str, &std::ffi::OsStr); 1] = [(name, seed.as_ref())];
    let by_systemd: [(&str, &std::ffi::OsStr); 1] =
        [("CREDENTIALS_DIRECTORY", credentials.as_os_str())];
    for environment in [in_environment, by_systemd] {
        let index = deployment.launch_instance_with(&environment);
        deployment.instances[index].says("ready").await;
        drop(Raw::login(&deployment, &service).await);
        deployment.instances[index].says("authorisation").await;
        deployment.instances[index].signal(rustix::process::Signal::TERM);
        deployment.instances[index].child.wait().await.unwrap();
    }
    // A second seed in the credential that signs for nobody is told, and is not in what is told.
    let more = format!("{seed}\n{}\n", another.expose());
    std::fs::remove_file(&credential).unwrap();
    solewriter::scaffold::write_secret(&credential, &more).unwrap();
    let index = deployment.launch_instance_with(&by_systemd);
    assert!(!deployment.instances[index].child.wait().await.unwrap().success());
    let log = read(&deployment.instances[index].log);
    assert!(log.contains("signs for no account") && log.contains("app.nk"), "{log}");
    assert!(!log.contains(&another.expose()[..20]), "{log}");
}
