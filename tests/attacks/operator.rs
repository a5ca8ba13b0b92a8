//! Attacks of operator mode, where an account is a JWT and whoever has a key of it lets in whom he likes.
//! `docs/operator.md` has the table, which `UPDATE_DOCS=1` writes.
//!
//! Each is first run where it must work.

use std::sync::Arc;

use async_nats::jetstream;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use solewriter::prove::page::Column;
use solewriter::prove::{Attack, Ending, Expected};
use solewriter_core::account_jwt::{self, AccountBody, SigningKey, Subjects, UserBody};
use solewriter_core::callout::jwt::{self, Unverified};
use solewriter_core::callout::xkey::Sealer;
use solewriter_core::keys::{
    Account, AccountKey, CurveKey, CurveSecret, Operator, Seed, Signer, User,
};
use solewriter_sandbox::Server;
use tokio::time::timeout;

use super::deployment::{DEADLINE, Deployment, Prepared, binary, edit, eventually, read};
use super::doors::{self, Seen};
use super::raw::Raw;
use super::suite::{self, Place};
use crate::operator::{change, push, push_jwt, signer, taken_over, token};

/// What is tried.
struct Row {
    id: &'static str,
    attack: &'static str,
    control: &'static str,
    /// What comes of it, and why.
    ends: &'static str,
}

const ROWS: [Row; 12] = [
    Row {
        id: "sentinel-alone",
        attack: "The default sentinel's JWT, which everybody has, and no key",
        control: "with a service's own key beside it (2.11 and later), or its credentials",
        ends: "refused: solewriter is asked, and a bearer token proves nothing",
    },
    Row {
        id: "jwt-of-a-service",
        attack: "A service's JWT with another key's signature",
        control: "with its own",
        ends: "refused: the server holds the signature against the JWT's key",
    },
    Row {
        id: "unlisted-user",
        attack: "A user of AUTH that a leaked `issuer.nk` signed",
        control: "where `auth_users` has it",
        ends: "refused: it is in no `auth_users`, so solewriter is asked",
    },
    Row {
        id: "bearer-app",
        attack: "A bearer token of APP, signed with a leaked key of APP",
        control: "where the JWT of APP takes bearer tokens",
        ends: "refused: `disallow_bearer`",
    },
    Row {
        id: "leaked-app-key",
        attack: "A user of APP with a key, signed with a leaked key of APP",
        control: "it is one",
        ends: "**succeeds**: nobody is asked about it",
    },
    Row {
        id: "leaked-app-key-writes",
        attack: "The same writes another's key of a bucket",
        control: "it is one",
        ends: "**succeeds**",
    },
    Row {
        id: "leaked-app-key-removed",
        attack: "The same when that key was removed from the JWT of APP",
        control: "before",
        ends: "refused; and what was open is closed",
    },
    Row {
        id: "leaked-state-key",
        attack: "A user of STATE, signed with a leaked key of STATE",
        control: "it is one",
        ends: "**succeeds**: it may do all that JetStream does",
    },
    Row {
        id: "leaked-state-key-removed",
        attack: "The same when that key was removed from the JWT of STATE",
        control: "before",
        ends: "refused; and what was open is closed",
    },
    Row {
        id: "place-elsewhere",
        attack: "A second responder, with the seeds of `serve` and a key of STATE, places a stranger in \
                 STATE",
        control: "where `allowed_accounts` has STATE",
        ends: "refused: `allowed_accounts` has APP alone",
    },
    Row {
        id: "claims-of-a-service",
        attack: "A service, or the system user, sends the server another JWT of APP",
        control: "by a user of SYS",
        ends: "refused: neither may publish there",
    },
    Row {
        id: "claims-of-another-operator",
        attack: "A user of SYS sends a JWT of APP that another operator signed",
        control: "that the operator signed",
        ends: "no effect: the server takes JWTs of its own operator alone",
    },
];

/// A user's JWT with all permissions.
fn user(by: &Signer<Account>, of: &AccountKey, seed: &Seed<User>, bearer: bool) -> String {
    let mut body = UserBody::new(of, Subjects::default(), Subjects::default());
    body.bearer_token = bearer;
    let key = *Signer::new(seed).unwrap().public();
    account_jwt::sign(by, key.as_str(), "thief", body, 1).unwrap()
}

/// Connects with a JWT, and the signature of a key if there is one.
async fn enters(url: &str, jwt: &str, seed: Option<&Seed<User>>) -> Result<Raw, String> {
    let mut raw = Raw::dial(url).await;
    let mut options = seed.map_or_else(|| json!({}), |seed| raw.proof(seed));
    options.as_object_mut().unwrap().remove("nkey");
    options["jwt"] = jwt.into();
    raw.enter(&options).await.map(|()| raw)
}

fn key_of(deployment: &Deployment, account: &str) -> AccountKey {
    crate::operator::key_of(&deployment.files, account)
}

async fn changed(deployment: &Deployment, name: &str, body: impl FnOnce(&mut AccountBody)) {
    push(deployment, name, body).await;
    taken_over(deployment, name).await;
}

/// A second responder lets a stranger into an account, if the server lets it. `spoil` has the user's
/// claims before, and the answer's.
async fn placed(
    deployment: &Deployment,
    (by, account): (&Signer<Account>, &str),
    spoil: impl FnOnce(&mut Value, &mut Value),
) -> Result<(), String> {
    let options = deployment.login("callout").custom_inbox_prefix("_INBOX.solewriter");
    let rogue = options.connect(deployment.url()).await.unwrap();
    let mut requests = rogue.subscribe("$SYS.REQ.USER.AUTH").await.unwrap();
    rogue.flush().await.unwrap();
    let (url, stranger) = (deployment.url().to_owned(), Seed::<User>::generate());
    let issuer = signer::<Account>(deployment, "issuer.nk");
    let auth = key_of(deployment, "AUTH");
    let jwt = user(&issuer, &auth, &stranger, false);
    let stranger = Arc::new(stranger);
    let enter = || {
        let (url, jwt, stranger) = (url.clone(), jwt.clone(), stranger.clone());
        tokio::spawn(async move { enters(&url, &jwt, Some(&stranger)).await.map(drop) })
    };
    // While it takes a JWT over, nats-server may close who is logging in, and asks nobody about it.
    let asked = timeout(DEADLINE, async {
        loop {
            let mut entering = enter();
            tokio::select! {
                biased;
                message = requests.next() => break (message.unwrap(), entering),
                _ = &mut entering => {}
            }
        }
    });
    let (message, entering) = asked.await.expect("a request");
    let xkey = Seed::parse(&read(&deployment.files.dir.join("keys/callout.xk"))).unwrap();
    let sealer = Sealer::new(CurveSecret::new(&xkey).unwrap());
    let server = message.headers.as_ref().unwrap().get("Nats-Server-Xkey").unwrap();
    let server = CurveKey::parse(server.as_str()).unwrap();
    let plain = sealer.open(&message.payload, &server).unwrap();
    let request: Value = Unverified::split(&plain).unwrap().claims().unwrap();
    let text = |pointer: &str| request.pointer(pointer).unwrap().as_str().unwrap().to_owned();
    let account = key_of(deployment, account);
    let mut user = json!({"jti": "1", "iat": 1, "name": "thief", "sub": text("/nats/user_nkey"),
        "iss": by.public().as_str(), "exp": 4_000_000_000_i64, "nats": {"type": "user", "version": 2,
        "subs": -1, "data": -1, "payload": -1, "issuer_account": account.as_str()}});
    let mut answer = json!({"jti": "2", "iat": 1, "iss": issuer.public().as_str(),
        "sub": text("/nats/user_nkey"), "aud": text("/nats/server_id/id"), "nats": {"jwt": "",
        "type": "authorization_response", "version": 2, "issuer_account": auth.as_str()}});
    spoil(&mut user, &mut answer);
    answer["nats"]["jwt"] = jwt::sign(&user, 2048, by).unwrap().into();
    let answer = jwt::sign(&answer, 4096, &issuer).unwrap();
    let answer = sealer.seal(answer.as_bytes(), &server, &[7; 24]).unwrap();
    rogue.publish(message.reply.unwrap(), answer.into()).await.unwrap();
    rogue.flush().await.unwrap();
    entering.await.unwrap()
}

/// Sends the server a JWT. Gives whether it says that it took it; no permission is an error.
async fn update(raw: &mut Raw, inbox: &str, jwt: &str) -> Result<bool, String> {
    raw.subscribe(inbox).await?;
    raw.publish_with("$SYS.REQ.CLAIMS.UPDATE", inbox, "", jwt.as_bytes()).await?;
    let answer = raw.message().await;
    Ok(answer.json().pointer("/data/code").and_then(serde_json::Value::as_i64) == Some(200))
}

/// Runs all on one server; what does not end as its row says fails the test.
async fn run(version: &'static str) {
    let prepared = Prepared::operator(version);
    let full = prepared.files.dir.join("resolver");
    let full = format!("resolver: {{ type: full, dir: \"{}\" }}", full.display());
    edit(&prepared.files.dir.join("accounts.conf"), "resolver: MEMORY", &full);
    let mut deployment = prepared.start_as_is(version).await;
    deployment.apply(&[]).await;
    let url = deployment.url().to_owned();
    let decisions = |deployment: &Deployment| deployment.instances[0].decisions().len();

    // sentinel-alone, jwt-of-a-service
    let (orders, stranger) = (deployment.seed("orders"), Seed::<User>::generate());
    enters(&url, &token(&deployment, "orders"), Some(&orders)).await.unwrap();
    let (auth, app) = (key_of(&deployment, "AUTH"), key_of(&deployment, "APP"));
    let state = key_of(&deployment, "STATE");
    let issuer = signer::<Account>(&deployment, "issuer.nk");
    let accounts = read(&deployment.files.dir.join("accounts.conf"));
    let sentinel = match accounts.split_once("default_sentinel: ") {
        Some((_, rest)) => rest.lines().next().unwrap().to_owned(),
        None => user(&issuer, &auth, &stranger, true),
    };
    let before = decisions(&deployment);
    assert!(enters(&url, &sentinel, None).await.is_err(), "sentinel-alone");
    eventually("solewriter was asked", async || (decisions(&deployment) > before).then_some(()))
        .await;
    let jwt = token(&deployment, "orders");
    assert!(enters(&url, &jwt, Some(&stranger)).await.is_err(), "jwt-of-a-service");

    // unlisted-user
    let jwt = user(&issuer, &auth, &stranger, false);
    assert!(enters(&url, &jwt, Some(&stranger)).await.is_err(), "unlisted-user");
    let key = Signer::new(&stranger).unwrap().public().to_string();
    changed(&deployment, "AUTH", |body| body.authorization.auth_users.push(key)).await;
    enters(&url, &jwt, Some(&stranger)).await.unwrap();
    changed(&deployment, "AUTH", |body| drop(body.authorization.auth_users.pop())).await;

    // bearer-app, and what a leaked key does until it is removed.
    let leaked = Signer::<Account>::new(&Seed::generate()).unwrap();
    let plain = SigningKey::Plain(leaked.public().to_string());
    changed(&deployment, "APP", |body| {
        body.signing_keys.push(plain.clone());
        body.limits.disallow_bearer = false;
    })
    .await;
    let bearer = user(&leaked, &app, &stranger, true);
    drop(enters(&url, &bearer, None).await.unwrap());
    changed(&deployment, "APP", |body| body.limits.disallow_bearer = true).await;
    assert!(enters(&url, &bearer, None).await.is_err(), "bearer-app");
    let jwt = user(&leaked, &app, &stranger, false);
    let before = decisions(&deployment);
    let mut thief = enters(&url, &jwt, Some(&stranger)).await.unwrap();
    assert_eq!(decisions(&deployment), before, "leaked-app-key");
    let admin = jetstream::new(deployment.login("admin").connect(&url).await.unwrap());
    let bucket = admin.get_key_value("orders").await.unwrap();
    thief.subscribe("_INBOX.thief").await.unwrap();
    thief.publish_with("$KV.orders.stolen", "_INBOX.thief", "", b"theirs").await.unwrap();
    thief.message().await;
    assert_eq!(bucket.get("stolen").await.unwrap().unwrap(), "theirs", "leaked-app-key-writes");
    changed(&deployment, "APP", |body| body.signing_keys.retain(|key| *key != plain)).await;
    thief.closed().await;
    assert!(enters(&url, &jwt, Some(&stranger)).await.is_err(), "leaked-app-key-removed");

    // The same of STATE. While its key is there, place-elsewhere takes it.
    changed(&deployment, "STATE", |body| body.signing_keys.push(plain.clone())).await;
    let jwt = user(&leaked, &state, &stranger, false);
    let mut thief = enters(&url, &jwt, Some(&stranger)).await.unwrap();
    thief.subscribe("_INBOX.thief").await.unwrap();
    thief.publish_with("$JS.API.STREAM.DELETE.KV_orders", "_INBOX.thief", "", b"").await.unwrap();
    assert_eq!(thief.message().await.json()["success"], true, "leaked-state-key");

    // claims-of-a-service, claims-of-another-operator
    let (old, taken) = change(&deployment, "APP", |body| body.limits.leaf = 0);
    let orders_jwt = token(&deployment, "orders");
    let mut service = enters(&url, &orders_jwt, Some(&orders)).await.unwrap();
    let said = update(&mut service, "_INBOX.orders.x", &taken).await;
    assert!(said.is_err_and(|said| said.contains("ermissions")), "claims-of-a-service");
    let text = read(&deployment.files.dir.join("keys/system.creds"));
    let seed = Seed::parse(text.lines().find(|line| line.starts_with("SU")).unwrap()).unwrap();
    let mut system = enters(&url, &token(&deployment, "system"), Some(&seed)).await.unwrap();
    let said = update(&mut system, "_INBOX.solewriter.x", &taken).await;
    assert!(said.is_err_and(|said| said.contains("ermissions")), "claims-of-a-service");
    let sys = signer::<Account>(&deployment, "operator/SYS.nk");
    let jwt_of_sys = user(&sys, sys.public(), &stranger, false);
    let mut operator = enters(&url, &jwt_of_sys, Some(&stranger)).await.unwrap();
    let another = Signer::<Operator>::new(&Seed::generate()).unwrap();
    let claims = account_jwt::read::<AccountBody>(&old).unwrap();
    let now = jiff::Timestamp::now().as_second();
    let forged = account_jwt::sign(&another, &claims.sub, "APP", claims.nats, now).unwrap();
    // Whatever it answers, the account stays as it is.
    update(&mut operator, "_INBOX.x", &forged).await.unwrap();
    let question = json!({"account": app.as_str()});
    let answer = deployment.ask_system("SERVER.PING.ACCOUNTZ", &question).await;
    let has = answer.pointer("/data/account_detail/jwt").unwrap().as_str().unwrap();
    assert_eq!(has, old, "claims-of-another-operator");
    push_jwt(&url, &sys, taken).await;
    taken_over(&deployment, "APP").await;

    // place-elsewhere
    deployment.instances.clear();
    assert!(placed(&deployment, (&leaked, "STATE"), |_, _| {}).await.is_err(), "place-elsewhere");
    let more = state.to_string();
    changed(&deployment, "AUTH", |body| body.authorization.allowed_accounts.push(more)).await;
    assert_eq!(
        placed(&deployment, (&leaked, "STATE"), |_, _| {}).await,
        Ok(()),
        "place-elsewhere where it may"
    );
    changed(&deployment, "STATE", |body| body.signing_keys.clear()).await;
    thief.closed().await;
    assert!(enters(&url, &jwt, Some(&stranger)).await.is_err(), "leaked-state-key-removed");
}

/// What ends otherwise on 2.10.25 than in configuration mode, and why.
const OTHERWISE: [(&str, Ending, &str); 1] = [(
    "enter-jwt-beside",
    Ending::Refused,
    "without a default sentinel, the server verifies a JWT before it asks anybody, and no key of an account \
     signed this one. With one, as in configuration mode",
)];

/// What is not tried, and why. Each row of the table that was not seen has to be here.
const NOT_TRIED: [(&[&str], &str); 6] = [
    (
        &[
            "door-leafnode",
            "leafnode-publishes",
            "door-mqtt",
            "door-mqtt-jwt",
            "door-certificate",
            "door-certificate-beside",
            "connect-again",
            "connect-again-other",
        ],
        "its control is a user of the server's configuration, and there are none here. What refuses it is \
         the same: solewriter, which is told how somebody connects",
    ),
    (
        &["door-origin"],
        "nats-server looks at the origin before anybody logs in, whatever accounts are",
    ),
    (
        &["answer-replayed", "ask-as-server", "answer-first"],
        "its control takes requests in the clear, and another user in AUTH. Whoever has a key of AUTH for \
         that is in the table above (`unlisted-user`)",
    ),
    (
        &["answer-other-issuer"],
        "there is no one issuer: a sealed answer counts whoever signed it, and the user in it has to be \
         signed by a key of the account (`place-elsewhere`)",
    ),
    (&["door-no-auth-user"], "nats-server does not start with both an operator and `no_auth_user`"),
    (
        &["chain-literal"],
        "it works in configuration mode by a line that is added to APP's imports. `doctor` finds such an \
         import in a JWT, too (`imports`)",
    ),
];

/// A row of the table as it ends at that place.
pub fn as_there(mut attack: Attack, place: Place) -> Attack {
    if !place.operator || place.version != "2.10.25" {
        return attack;
    }
    if let Some((_, by, why)) = OTHERWISE.into_iter().find(|(id, ..)| *id == attack.id) {
        attack.expected = Expected::Closed { by, why };
    }
    attack
}

/// Makes an answer wrong: its user's claims, and its own.
type Spoil = fn(&mut Value, &mut Value);

/// What has code of its own, as far as it can be tried here.
pub async fn doors(place: Place) -> Vec<Seen> {
    let policy = "[service.plain]\nnkeys = [\"{plain}\"]\n[service.by-websocket]\n\
                  nkeys = [\"{by-websocket}\"]\nconnections = [\"WEBSOCKET\"]\n";
    let prepared = place.prepared().with_server(
        "jetstream {",
        "websocket { listen: \"127.0.0.1:-1\", no_tls: true }\njetstream {",
    );
    let mut deployment = prepared.start(place.version, policy).await;
    let websocket = deployment.server.ports().websocket[0].clone();
    let by_websocket = async |service: &str| {
        let mut raw = Raw::dial_websocket(&websocket).await;
        let login = deployment.service_login(&deployment.service(service));
        let offer = raw.offer(&login).unwrap();
        raw.enter(&offer).await
    };
    let takes_requests = async |user: &str| {
        let mut raw = Raw::login_as(&deployment, user).await;
        raw.subscribe("$SYS.REQ.USER.AUTH").await.map(drop)
    };
    let mut seen = vec![
        (
            "door-websocket",
            doors::after(by_websocket("by-websocket").await, &by_websocket("plain").await),
        ),
        (
            "answer-publisher",
            doors::after(takes_requests("callout").await, &takes_requests("publisher").await),
        ),
    ];
    // Nobody else answers from here on.
    deployment.instances.clear();
    let app = signer::<Account>(&deployment, "app.nk");
    let answers = async |spoil: Spoil| placed(&deployment, (&app, "APP"), spoil).await;
    let control = answers(|_, _| {}).await;
    let spoilt: [(&'static str, Spoil); 4] = [
        ("answer-other-user", |_, answer| answer["sub"] = json!(a_user())),
        ("answer-other-grant", |user, _| user["sub"] = json!(a_user())),
        ("answer-other-server", |_, answer| {
            answer["aud"] = json!(nkeys::KeyPair::new_server().public_key());
        }),
        ("answer-expired", |user, _| user["exp"] = json!(1)),
    ];
    for (id, spoil) in spoilt {
        seen.push((id, doors::after(control.clone(), &answers(spoil).await)));
    }
    let mut seen = doors::judged(seen, &doors::family(), place);
    if let Some(wrong) = with_no_auth_user(place).await {
        seen.push(("door-no-auth-user", Err(wrong)));
    }
    seen
}

fn a_user() -> String {
    Signer::new(&Seed::<User>::generate()).unwrap().public().to_string()
}

/// Whether a server starts with `no_auth_user` here, and how: it must not.
async fn with_no_auth_user(place: Place) -> Option<String> {
    let prepared = place.prepared().with_server("jetstream {", "no_auth_user: x\njetstream {");
    let Prepared { files, dir } = prepared;
    let binary = binary(place.version).await;
    match Server::start(&binary, &files.server_config(), dir.path()).await {
        Ok(_) => Some("nats-server starts with `no_auth_user`".to_owned()),
        Err(error) if error.to_string().contains("no_auth_user") => None,
        Err(error) => Some(error.to_string()),
    }
}

on_the_newest_server!(the_table_of_configuration_mode_ends_likewise, some_room);
async fn the_table_of_configuration_mode_ends_likewise(version: &'static str) {
    let place = Place { version, cluster: false, observed: false, operator: true };
    let (column, wrong) = suite::run_place(place).await;
    assert!(wrong.is_empty(), "{} problems:\n{}", wrong.len(), wrong.join("\n"));
    if version == "2.15.1" && std::env::var_os("ATTACKS").is_none() {
        write_page("the table", &whole_table(&column));
    }
}

/// How every row of the table ended, by family; what ended otherwise, and what was not tried.
fn whole_table(column: &Column) -> String {
    let mut text = "| attacks | refused | rejected | no effect | **succeeds** | not tried |\n\
                    | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    let mut lacking = Vec::new();
    for family in suite::everything() {
        let attacks: Vec<_> = family.attacks.iter().filter(|attack| !attack.cluster).collect();
        let count = |ending| {
            let ended = |a: &&&Attack| column.get(a.id).copied().flatten() == Some(ending);
            attacks.iter().filter(ended).count()
        };
        let missing: Vec<&str> =
            attacks.iter().map(|a| a.id).filter(|id| !column.contains_key(id)).collect();
        text += &format!(
            "| {} | {} | {} | {} | {} | {} |\n",
            family.title,
            count(Ending::Refused),
            count(Ending::Rejected),
            count(Ending::NoEffect),
            count(Ending::Succeeded),
            missing.len()
        );
        lacking.extend(missing);
    }
    text += "\nOtherwise than in configuration mode, on 2.10.25:\n\n";
    for (id, ending, why) in OTHERWISE {
        text += &format!("- `{id}`: {}. {}.\n", ending.word(), capital(why));
    }
    text += "\nNot tried:\n\n";
    for (ids, why) in NOT_TRIED {
        let shown: Vec<String> = ids.iter().map(|id| format!("`{id}`")).collect();
        text += &format!("- {}: {why}.\n", shown.join(", "));
    }
    let mut told: Vec<&str> = NOT_TRIED.iter().flat_map(|(ids, _)| *ids).copied().collect();
    told.sort_unstable();
    lacking.sort_unstable();
    assert_eq!(lacking, told, "what was not tried, and what is said of it");
    text
}

fn capital(text: &str) -> String {
    let (first, rest) = text.split_at(1);
    first.to_uppercase() + rest
}

on_every_server!(attacks_of_operator_mode_end_as_the_table_says);
async fn attacks_of_operator_mode_end_as_the_table_says(version: &'static str) {
    run(version).await;
    let mut table =
        "| attack | where it works | what comes of it |\n| --- | --- | --- |\n".to_owned();
    for Row { id, attack, control, ends } in ROWS {
        table += &format!("| {attack} (`{id}`) | {control} | {ends} |\n");
    }
    write_page("attacks", &table);
}

/// A part of `docs/operator.md` is this text, or becomes it.
fn write_page(part: &str, text: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operator.md");
    let page = std::fs::read_to_string(path).unwrap();
    let from = format!("<!-- {part}, written by tests/attacks/operator.rs -->\n");
    let to = format!("<!-- end of {part} -->");
    let (before, rest) = page.split_once(&from).unwrap();
    let (_, after) = rest.split_once(&to).unwrap();
    let whole = format!("{before}{from}{text}{to}{after}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, whole).unwrap();
    } else {
        assert!(whole == page, "docs/operator.md has another table; run with UPDATE_DOCS=1");
    }
}
