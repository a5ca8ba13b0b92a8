//! What nats-server does in operator mode with a callout and its answers. What solewriter signs there
//! rests on it, and `docs/operator.md` tells it. The callout here answers whatever a row says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use serde_json::{Value, json};
use solewriter_core::account_jwt::{
    self, AccountBody, Authorization, Limits, OperatorBody, SigningKey, Subjects, UserBody,
};
use solewriter_core::callout::claims::VERSION;
use solewriter_core::callout::jwt::{self, Unverified};
use solewriter_core::callout::xkey::Sealer;
use solewriter_core::keys::{Account, Curve, CurveKey, CurveSecret, Operator, Seed, Signer, User};
use solewriter_sandbox::Server;
use tempfile::TempDir;

use super::deployment::{binary, eventually};
use super::raw::Raw;

const NOW: i64 = 1_700_000_000;

/// An account's key; several rows use one.
type Key = Arc<Signer<Account>>;

fn account() -> Key {
    Arc::new(Signer::new(&Seed::generate()).unwrap())
}

/// The keys of everybody.
struct Keys {
    operator: Signer<Operator>,
    system: Key,
    auth: Key,
    /// Signing keys of the account that asks.
    auth_signing: Key,
    app: Key,
    app_signing: [Key; 2],
    app_scoped: Key,
    /// An account of the operator that the callout may not place anybody in.
    other: Key,
    stranger: Key,
    xkey: Seed<Curve>,
    callout: Seed<User>,
    sentinel: Seed<User>,
}

impl Keys {
    fn new() -> Self {
        Self {
            operator: Signer::new(&Seed::generate()).unwrap(),
            system: account(),
            auth: account(),
            auth_signing: account(),
            app: account(),
            app_signing: [account(), account()],
            app_scoped: account(),
            other: account(),
            stranger: account(),
            xkey: Seed::generate(),
            callout: Seed::generate(),
            sentinel: Seed::generate(),
        }
    }
}

/// A user's JWT of that account.
fn user_jwt(by: &Key, of: &Key, seed: &Seed<User>, bearer: bool) -> String {
    let key = *Signer::new(seed).unwrap().public();
    let nothing = if bearer { Subjects::nothing() } else { Subjects::default() };
    let mut body = UserBody::new(of.public(), nothing.clone(), nothing);
    body.bearer_token = bearer;
    account_jwt::sign(&**by, key.as_str(), "user", body, NOW).unwrap()
}

/// How the callout answers.
#[derive(Clone)]
struct Answer {
    by: Key,
    /// `issuer_account` of the response.
    account: Option<String>,
    user_by: Key,
    user_account: Option<String>,
    /// What the user's claims say besides.
    more: Value,
    /// Whether the answer to a sealed request is sealed.
    sealed: bool,
}

struct World {
    keys: Keys,
    server: Server,
    answer: Arc<Mutex<Option<Answer>>>,
    asked: Arc<Mutex<Vec<Value>>>,
    _dir: TempDir,
}

/// The configuration: accounts, and more lines.
fn config(
    keys: &Keys,
    xkey: bool,
    allowed: &[&str],
    app_keys: Vec<SigningKey>,
    more: &str,
) -> String {
    let system = keys.system.public();
    let operator = OperatorBody {
        system_account: system.to_string(),
        kind: "operator".to_owned(),
        version: VERSION,
        ..OperatorBody::default()
    };
    let operator =
        account_jwt::sign(&keys.operator, keys.operator.public().as_str(), "op", operator, NOW);
    let body = |signing_keys, authorization| AccountBody {
        limits: Limits::none(false),
        signing_keys,
        authorization,
        kind: "account".to_owned(),
        version: VERSION,
        ..AccountBody::default()
    };
    let plain = |key: &Key| SigningKey::Plain(key.public().to_string());
    let authorization = Authorization {
        auth_users: vec![Signer::new(&keys.callout).unwrap().public().to_string()],
        allowed_accounts: allowed.iter().map(ToString::to_string).collect(),
        xkey: if xkey {
            CurveSecret::new(&keys.xkey).unwrap().public().to_string()
        } else {
            String::new()
        },
    };
    let mut preload = BTreeMap::new();
    for (key, name, body) in [
        (&keys.system, "SYS", body(vec![], Authorization::default())),
        (&keys.auth, "AUTH", body(vec![plain(&keys.auth_signing)], authorization)),
        (&keys.app, "APP", body(app_keys, Authorization::default())),
        (&keys.other, "OTHER", body(vec![], Authorization::default())),
    ] {
        let token = account_jwt::sign(&keys.operator, key.public().as_str(), name, body, NOW);
        preload.insert(key.public().to_string(), token.unwrap());
    }
    let preload: Vec<String> = preload.iter().map(|(key, jwt)| format!("{key}: {jwt}")).collect();
    format!(
        "server_name: facts\nlisten: \"127.0.0.1:-1\"\noperator: {}\nsystem_account: {system}\n\
         resolver: MEMORY\nresolver_preload: {{\n{}\n}}\nauthorization {{ timeout: 3 }}\n{more}\n",
        operator.unwrap(),
        preload.join("\n")
    )
}

impl World {
    async fn start(version: &'static str, xkey: bool, more: impl Fn(&Keys) -> String) -> Self {
        let keys = Keys::new();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nats-server.conf");
        let app = keys.app.public().to_string();
        let all = all_keys(&keys);
        std::fs::write(&file, config(&keys, xkey, &[&app], all, &more(&keys))).unwrap();
        let server = Server::start(&binary(version).await, &file, dir.path()).await.unwrap();
        let (answer, asked) = (Arc::default(), Arc::default());
        let world = Self { keys, server, answer, asked, _dir: dir };
        world.serve().await;
        world
    }

    /// Answers as the row says, for ever.
    async fn serve(&self) {
        let keys = &self.keys;
        let token = user_jwt(&keys.auth, &keys.auth, &keys.callout, false);
        let credentials = account_jwt::credentials(&token, &keys.callout);
        let options = async_nats::ConnectOptions::with_credentials(&credentials).unwrap();
        let client = options.connect(self.server.client_url()).await.unwrap();
        let mut requests = client.subscribe("$SYS.REQ.USER.AUTH").await.unwrap();
        client.flush().await.unwrap();
        let (answer, asked) = (self.answer.clone(), self.asked.clone());
        let sealer = Sealer::new(CurveSecret::new(&keys.xkey).unwrap());
        tokio::spawn(async move {
            while let Some(message) = requests.next().await {
                let header = message.headers.as_ref().and_then(|h| h.get("Nats-Server-Xkey"));
                let server = header.map(|key| CurveKey::parse(key.as_str()).unwrap());
                let plain = match &server {
                    Some(server) => sealer.open(&message.payload, server).unwrap(),
                    None => message.payload.to_vec(),
                };
                let request: Value = Unverified::split(&plain).unwrap().claims().unwrap();
                asked.lock().unwrap().push(request.clone());
                let Some(answer) = answer.lock().unwrap().clone() else { continue };
                let response = answer.response(&request);
                let bytes = match (&server, answer.sealed) {
                    (Some(server), true) => {
                        sealer.seal(response.as_bytes(), server, &[7; 24]).unwrap()
                    }
                    _ => response.into_bytes(),
                };
                client.publish(message.reply.unwrap(), bytes.into()).await.unwrap();
            }
        });
    }

    /// What a right answer is.
    fn right(&self) -> Answer {
        let keys = &self.keys;
        Answer {
            by: keys.auth.clone(),
            account: None,
            user_by: keys.app.clone(),
            user_account: None,
            more: json!({}),
            sealed: true,
        }
    }

    /// Who connects with the sentinel's JWT and proves a key of its own.
    async fn connect(&self) -> Result<Raw, String> {
        let mut raw = Raw::dial(self.server.client_url()).await;
        let mut options = raw.proof(&Seed::generate());
        let sentinel = &self.keys.sentinel;
        options["jwt"] = user_jwt(&self.keys.auth, &self.keys.auth, sentinel, true).into();
        raw.enter(&options).await.map(|()| raw)
    }

    async fn answered(&self, answer: Answer) -> Result<Raw, String> {
        *self.answer.lock().unwrap() = Some(answer);
        self.connect().await
    }

    fn last_asked(&self) -> Value {
        self.asked.lock().unwrap().last().cloned().unwrap()
    }
}

fn all_keys(keys: &Keys) -> Vec<SigningKey> {
    let plain = |key: &Key| SigningKey::Plain(key.public().to_string());
    let scoped = SigningKey::Scoped {
        kind: "user_scope".to_owned(),
        key: keys.app_scoped.public().to_string(),
        role: "scoped".to_owned(),
        template: json!({"pub": {"allow": ["template"]}, "sub": {"allow": ["template"]},
            "subs": -1, "data": -1, "payload": -1}),
    };
    vec![plain(&keys.app_signing[0]), plain(&keys.app_signing[1]), scoped]
}

impl Answer {
    fn response(&self, request: &Value) -> String {
        let text = |pointer: &str| request.pointer(pointer).unwrap().as_str().unwrap().to_owned();
        let user = text("/nats/user_nkey");
        let mut body = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1,
            "pub": {"allow": ["own.>"]}, "sub": {"allow": ["own.>"]}});
        body["issuer_account"] = self.user_account.clone().unwrap_or_default().into();
        body.as_object_mut().unwrap().extend(self.more.as_object().unwrap().clone());
        let mut claims = json!({"jti": "1", "iat": NOW, "name": "granted", "sub": user,
            "iss": self.user_by.public().as_str(), "exp": 4_000_000_000_i64, "nats": body});
        if let Some(audience) = self.more.get("aud") {
            claims["aud"] = audience.clone();
        }
        let token = jwt::sign(&claims, 2048, &*self.user_by).unwrap();
        let mut body = json!({"type": "authorization_response", "version": 2, "jwt": token});
        if let Some(account) = &self.account {
            body["issuer_account"] = account.clone().into();
        }
        let claims = json!({"jti": "2", "iat": NOW, "iss": self.by.public().as_str(), "sub": user,
            "aud": text("/nats/server_id/id"), "nats": body});
        jwt::sign(&claims, 2048, &*self.by).unwrap()
    }
}

/// What came of a row.
#[derive(Clone, Copy)]
enum Came {
    /// Let in, with the permissions of the answer.
    In,
    /// Let in, with those of the scoped key's template.
    Template,
    /// Refused; the server's log says so.
    Out(&'static str),
}

const UNKNOWN_KEY: Came = Came::Out("Auth callout signing key is unknown");
const NOT_ALLOWED: Came = Came::Out("not permitted as valid account option for auth callout");
const NOT_OF_ACCOUNT: Came = Came::Out("is not known");

/// Each answer, and what comes of it without an xkey and with one.
fn rows(world: &World, version: &str) -> Vec<(&'static str, Answer, Came, Came)> {
    use Came::{In, Out, Template};
    let keys = &world.keys;
    let (auth, app) = (Some(keys.auth.public().to_string()), Some(keys.app.public().to_string()));
    let right = world.right();
    let by = |by: &Key, account: &Option<String>, sealed| Answer {
        by: by.clone(),
        account: account.clone(),
        sealed,
        ..right.clone()
    };
    let user = |by: &Key, account: &Option<String>, more| Answer {
        user_by: by.clone(),
        user_account: account.clone(),
        more,
        ..right.clone()
    };
    let (none, nothing) = (None, json!({}));
    let empty = json!({"pub": {}, "sub": {}, "subs": 0, "data": 0, "payload": 0});
    let limits = json!({"src": ["10.0.0.0/8"], "allowed_connection_types": ["WEBSOCKET"],
        "subs": 1, "payload": 5});
    let [first, second] = &keys.app_signing;
    let scoped = Out("scoped users require no permissions or limits set");
    // Whoever names the account is taken for its signing key.
    let named_stranger = if version == "2.10.25" { In } else { UNKNOWN_KEY };
    vec![
        ("the identity signs", right.clone(), In, In),
        ("and names itself", by(&keys.auth, &auth, true), In, In),
        ("a signing key signs", by(&keys.auth_signing, &none, true), In, In),
        ("and names its account", by(&keys.auth_signing, &auth, true), In, In),
        ("a stranger signs", by(&keys.stranger, &none, true), UNKNOWN_KEY, In),
        ("and names the account", by(&keys.stranger, &auth, true), named_stranger, In),
        ("an answer in the clear", by(&keys.auth, &none, false), In, In),
        ("of a stranger", by(&keys.stranger, &none, false), UNKNOWN_KEY, UNKNOWN_KEY),
        ("user: the identity, named", user(&keys.app, &app, nothing.clone()), In, In),
        ("user: a signing key", user(first, &app, nothing.clone()), In, In),
        ("user: the other one", user(second, &app, nothing.clone()), In, In),
        (
            "user: a signing key alone",
            user(first, &none, nothing.clone()),
            NOT_ALLOWED,
            NOT_ALLOWED,
        ),
        (
            "user: a stranger",
            user(&keys.stranger, &app, nothing.clone()),
            NOT_OF_ACCOUNT,
            NOT_OF_ACCOUNT,
        ),
        (
            "user: another account",
            user(&keys.other, &none, nothing.clone()),
            NOT_ALLOWED,
            NOT_ALLOWED,
        ),
        ("user: who asks", user(&keys.auth, &none, nothing.clone()), In, In),
        ("user: its signing key", user(&keys.auth_signing, &auth, nothing.clone()), In, In),
        ("user: a scoped key", user(&keys.app_scoped, &app, nothing), scoped, scoped),
        ("user: and no permissions", user(&keys.app_scoped, &app, empty), Template, Template),
        ("an audience is not looked at", user(&keys.app, &none, json!({"aud": "?"})), In, In),
        ("limits are not looked at", user(&keys.app, &none, limits), In, In),
    ]
}

on_every_server!(who_may_sign_what);
async fn who_may_sign_what(version: &'static str) {
    for xkey in [false, true] {
        let world = World::start(version, xkey, |_| String::new()).await;
        for (what, answer, plain, sealed) in rows(&world, version) {
            let what = format!("{what}, xkey: {xkey}");
            let came = if xkey { sealed } else { plain };
            let mark = world.server.log().len();
            let entered = world.answered(answer).await;
            match came {
                Came::Out(reason) => {
                    assert_eq!(entered.err().as_deref(), Some("Authorization Violation"), "{what}");
                    eventually(&what, async || {
                        world.server.log()[mark..].contains(reason).then_some(())
                    })
                    .await;
                }
                Came::In | Came::Template => {
                    let mut raw = entered.unwrap_or_else(|said| panic!("{what}: {said}"));
                    let (own, other) = match came {
                        Came::In => ("own.a", "template"),
                        _ => ("template", "own.a"),
                    };
                    assert_eq!(raw.publish(own, b"longer than five").await, Ok(()), "{what}");
                    assert!(raw.publish(other, b"").await.is_err(), "{what}");
                }
            }
        }
    }
}

on_every_server!(who_is_asked_about);
async fn who_is_asked_about(version: &'static str) {
    let world = World::start(version, true, |_| String::new()).await;
    let keys = &world.keys;
    *world.answer.lock().unwrap() = Some(world.right());
    world.connect().await.unwrap();
    let request = world.last_asked();
    assert_eq!(request["sub"], keys.auth.public().as_str(), "whom the answer is expected of");
    let asked = &request["nats"];
    assert_ne!(asked["connect_opts"]["jwt"], Value::Null, "the JWT comes along");
    assert_ne!(asked["client_info"]["nonce"], Value::Null, "and what was signed");
    // A JWT and a key of one's own beside it; then a JWT alone, and the signature with its seed.
    for (what, by, of, sig, bearer, lets_in, times) in [
        ("a user of the account", &keys.auth, &keys.auth, true, false, true, 1),
        ("with another's signature", &keys.auth, &keys.auth, false, false, false, 0),
        ("of a stranger", &keys.stranger, &keys.auth, true, false, false, 0),
        // Nobody asks about those: whoever has an account's key lets in whom he wants.
        ("a user of APP", &keys.app_signing[0], &keys.app, true, false, true, 0),
        ("a bearer of APP", &keys.app_signing[0], &keys.app, false, true, true, 0),
    ] {
        let before = world.asked.lock().unwrap().len();
        let (mut raw, seed) = (Raw::dial(world.server.client_url()).await, Seed::generate());
        let mut options = raw.proof(if sig { &seed } else { &keys.sentinel });
        options.as_object_mut().unwrap().remove("nkey");
        options["jwt"] = user_jwt(by, of, &seed, bearer).into();
        assert_eq!(raw.enter(&options).await.is_ok(), lets_in, "{what}");
        assert_eq!(world.asked.lock().unwrap().len() - before, times, "{what}");
    }
    // Without a JWT nobody is asked.
    let before = world.asked.lock().unwrap().len();
    let mut raw = Raw::dial(world.server.client_url()).await;
    let proof = raw.proof(&Seed::generate());
    raw.enter(&proof).await.unwrap_err();
    assert_eq!(world.asked.lock().unwrap().len(), before);
}

// What newer servers put in the place of a JWT that is not there.
on_every_server!(a_default_sentinel);
async fn a_default_sentinel(version: &'static str) {
    let sentinel = |keys: &Keys| {
        let token = user_jwt(&keys.auth, &keys.auth, &keys.sentinel, true);
        format!("default_sentinel: {token}")
    };
    if version == "2.10.25" {
        let keys = Keys::new();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nats-server.conf");
        std::fs::write(&file, config(&keys, true, &[], vec![], &sentinel(&keys))).unwrap();
        let error = Server::start(&binary(version).await, &file, dir.path()).await.err().unwrap();
        assert!(error.to_string().contains("unknown field \"default_sentinel\""), "{error}");
        return;
    }
    let world = World::start(version, true, sentinel).await;
    *world.answer.lock().unwrap() = Some(world.right());
    let (mut raw, seed) = (Raw::dial(world.server.client_url()).await, Seed::generate());
    let proof = raw.proof(&seed);
    raw.enter(&proof).await.unwrap();
    let asked = &world.last_asked()["nats"]["connect_opts"];
    assert_eq!(asked["nkey"], Signer::new(&seed).unwrap().public().as_str());
    assert_ne!(asked["jwt"], Value::Null);
}
