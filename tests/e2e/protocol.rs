//! Requests and answers on the wire: sealed, in the clear, meant for another, forged.

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use solewriter_core::keys::{Curve, CurveSecret, Seed, User};

use super::deployment::{Deployment, Prepared, edit, eventually};
use super::raw::{Message, Raw};

const POLICY: &str = r#"
[service.known]
nkeys = ["{known}"]
calls = ["svc.x"]
"#;

const CALLOUT: &str = "$SYS.REQ.USER.AUTH";

/// What the admin publishes here comes out as [`CALLOUT`], in a server that is open to tests.
const FORGE: &str = "forge";

/// A server whose callout user may do everything, so that a test can listen in, and where a test
/// can forge. The server lets no client publish requests, whatever its permissions and mappings;
/// through an import from another account they get there.
fn open_to_tests() -> Prepared {
    let import = "STATE {\n    imports: [ { service: { account: AUTH, subject: \
                  \"$SYS.REQ.USER.AUTH\" }, to: forge } ]";
    Prepared::new()
        .with_server(
            "{ stream: \"solewriter.instance.*\", accounts: [ PUBLISH ] }\n",
            "{ stream: \"solewriter.instance.*\", accounts: [ PUBLISH ] }\n      { service: \"$SYS.REQ.USER.AUTH\" }\n",
        )
        .with_server("  STATE {", import)
        .with_server(r#""$SYS.REQ.USER.AUTH", "_INBOX.solewriter.>", "solewriter.>""#, "\">\"")
        .with_server(r#""$SYS._INBOX.>", "_INBOX.solewriter.>", "solewriter.>""#, "\">\"")
}

/// Where nobody answers, clients are not kept waiting for long.
fn impatient(prepared: Prepared) -> Prepared {
    prepared.with_server("timeout: 10", "timeout: 1")
}

fn server_without_xkey(prepared: Prepared) -> Prepared {
    prepared.with_server("xkey: $CALLOUT_XKEY", "").without_value("CALLOUT_XKEY")
}

fn solewriter_without_xkey(prepared: Prepared) -> Prepared {
    prepared.with_settings("[xkey]", "#").with_settings("seed = \"keys/callout.xk\"", "")
}

/// The admin, who lives in the account STATE.
async fn forger(deployment: &Deployment) -> Raw {
    let mut forger = Raw::try_login(deployment.url(), &deployment.seed("admin")).await.unwrap();
    forger.subscribe("_INBOX.forger").await.unwrap();
    forger
}

async fn callout_user(deployment: &Deployment) -> Raw {
    Raw::try_login(deployment.url(), &deployment.seed("callout")).await.unwrap()
}

/// Subscribes to requests and to where they are answered.
async fn listen_in(tap: &mut Raw) {
    for subject in [CALLOUT, "$SYS._INBOX.>"] {
        tap.subscribe(subject).await.unwrap();
    }
}

/// Lets a client connect while listening in; gives request and answer.
async fn overheard(deployment: &Deployment) -> (Message, Message) {
    let mut tap = callout_user(deployment).await;
    listen_in(&mut tap).await;
    Raw::login(deployment, &deployment.service("known")).await;
    let request = tap.message().await;
    assert_eq!(request.subject, CALLOUT);
    let answer = tap.message().await;
    assert_eq!(Some(&answer.subject), request.reply.as_ref());
    (request, answer)
}

fn claims(token: &[u8]) -> Value {
    let token = std::str::from_utf8(token).unwrap();
    let claims = BASE64URL_NOPAD.decode(token.split('.').nth(1).unwrap().as_bytes()).unwrap();
    serde_json::from_slice(&claims).unwrap()
}

/// The server's curve key, from the header of a sealed request.
fn server_xkey(request: &Message) -> &str {
    let header = |line: &str| line.strip_prefix("Nats-Server-Xkey: ").map(str::len);
    let line = request.headers.lines().find(|l| header(l).is_some()).unwrap();
    line.split_once(": ").unwrap().1
}

on_every_server!(requests_and_answers_are_sealed_by_default);
async fn requests_and_answers_are_sealed_by_default(version: &'static str) {
    let deployment = open_to_tests().start(version, POLICY).await;
    let (request, answer) = overheard(&deployment).await;
    assert!(request.payload.starts_with(b"xkv1"));
    assert!(answer.payload.starts_with(b"xkv1"));
    assert!(server_xkey(&request).starts_with('X'));
    let seed = std::fs::read_to_string(deployment.files.dir.join("keys/callout.xk")).unwrap();
    let ours = nkeys::XKey::from_seed(seed.trim()).unwrap();
    let server = nkeys::XKey::from_public_key(server_xkey(&request)).unwrap();
    let opened = claims(&ours.open(&request.payload, &server).unwrap());
    assert_eq!(opened["nats"]["connect_opts"]["nkey"], deployment.service("known").key());
    assert_eq!(opened["nats"]["server_id"]["xkey"], server_xkey(&request));
}

on_every_server!(without_an_xkey_on_both_sides_it_works_in_the_clear);
async fn without_an_xkey_on_both_sides_it_works_in_the_clear(version: &'static str) {
    let prepared = solewriter_without_xkey(server_without_xkey(open_to_tests()));
    let deployment = prepared.start(version, POLICY).await;
    let (request, answer) = overheard(&deployment).await;
    let (request, answer) = (claims(&request.payload), claims(&answer.payload));
    assert_eq!(answer["sub"], request["nats"]["user_nkey"]);
    assert_eq!(answer["aud"], request["iss"]);
    assert_eq!(answer["iss"], request["sub"]);
    let user = claims(answer["nats"]["jwt"].as_str().unwrap().as_bytes());
    assert_eq!(user["aud"], "APP");
    assert_eq!(user["nats"]["pub"], json!({"allow": ["svc.x"]}));
    assert_eq!(user["nats"]["sub"], json!({"allow": ["_INBOX.known.>"]}));
    assert_eq!(user["nats"].get("resp"), None);
}

/// Nobody gets in, nothing is answered; log and metrics say what to set right.
async fn nobody_gets_in(prepared: Prepared, version: &'static str, reason: &str, help: &str) {
    let mut deployment = impatient(prepared).start(version, POLICY).await;
    let mut tap = callout_user(&deployment).await;
    listen_in(&mut tap).await;
    let known = deployment.service("known");
    let refused = Raw::try_login(deployment.url(), &known.seed).await.map(drop);
    assert!(refused.is_err(), "{reason}");
    let instance = &mut deployment.instances[0];
    let line = instance.says("request_rejected").await;
    assert_eq!(line["reason"], reason, "{line}");
    assert!(line["detail"].as_str().unwrap().contains(help), "{line}");
    let metric = format!("solewriter_rejected_requests_total{{reason=\"{reason}\"}}");
    assert!((instance.metric(&metric).await - 1.0).abs() < 0.1, "{reason}");
    assert_eq!(instance.decisions(), Vec::<Value>::new());
    assert_eq!(tap.message().await.subject, CALLOUT);
    tap.fence().await.unwrap();
    assert!(tap.delivered.is_empty(), "{:?}", tap.delivered);
}

on_every_server!(a_request_in_the_clear_is_refused_where_an_xkey_is_set);
async fn a_request_in_the_clear_is_refused_where_an_xkey_is_set(version: &'static str) {
    let prepared = server_without_xkey(open_to_tests());
    nobody_gets_in(prepared, version, "not_sealed", "set `xkey` in the server's").await;
}

on_every_server!(a_sealed_request_is_refused_where_no_xkey_is_set);
async fn a_sealed_request_is_refused_where_no_xkey_is_set(version: &'static str) {
    let prepared = solewriter_without_xkey(open_to_tests());
    nobody_gets_in(prepared, version, "sealed", "set [xkey] seed, or remove `xkey`").await;
}

on_every_server!(a_request_sealed_to_another_key_is_refused);
async fn a_request_sealed_to_another_key_is_refused(version: &'static str) {
    let other = CurveSecret::new(&Seed::<Curve>::generate()).unwrap().public().to_string();
    let prepared = open_to_tests().with_value("CALLOUT_XKEY", &other);
    nobody_gets_in(prepared, version, "unopened", "is this service's public curve key").await;
}

on_every_server!(a_server_that_trusts_another_issuer_is_refused);
async fn a_server_that_trusts_another_issuer_is_refused(version: &'static str) {
    let other = nkeys::KeyPair::new_account().public_key();
    let prepared = open_to_tests().with_value("ISSUER_KEY", &other);
    nobody_gets_in(prepared, version, "other_issuer", &other).await;
}

on_every_server!(with_another_issuer_it_is_not_ready);
/// Nobody can get in, so it is not ready, and says whose each key is; until the server is mended.
async fn with_another_issuer_it_is_not_ready(version: &'static str) {
    let prepared = Prepared::new();
    let issuer = std::fs::read_to_string(prepared.files.seed_file("issuer")).unwrap();
    let ours = nkeys::KeyPair::from_seed(issuer.trim()).unwrap().public_key();
    let theirs = nkeys::KeyPair::new_account().public_key();
    let prepared = prepared.with_value("ISSUER_KEY", &theirs);
    let mut deployment = impatient(prepared).start(version, POLICY).await;
    assert_eq!(deployment.instances[0].get("/readyz").await.0, 200, "nobody has asked yet");
    let known = deployment.service("known");
    assert!(Raw::try_login(deployment.url(), &known.seed).await.is_err());
    let whose = format!(
        "server test has `issuer` {theirs} in auth_callout, but [issuer] seed here belongs to {ours}"
    );
    let line = deployment.instances[0].says("request_rejected").await;
    assert_eq!((&line["level"], &line["detail"]), (&json!("ERROR"), &json!(whose)), "{line}");
    let (status, report) = deployment.instances[0].get("/readyz").await;
    assert_eq!(status, 503, "{report}");
    let said = format!("issuer: 1 of 1 servers do not accept our answers: {whose}\n");
    assert!(report.contains(&said), "{report}");

    edit(&deployment.files.dir.join("deployment.conf"), &theirs, &ours);
    deployment.server.restart().await.unwrap();
    let client = eventually("the client to get in", async || {
        Raw::try_login(deployment.url(), &known.seed).await.ok()
    });
    drop(client.await);
    let (status, report) = deployment.instances[0].get("/readyz").await;
    assert_eq!(status, 200, "{report}");
}

on_every_server!(the_callouts_user_can_do_nothing_else);
/// The callout's own user takes requests and answers them; it cannot make any.
async fn the_callouts_user_can_do_nothing_else(version: &'static str) {
    let deployment = Deployment::start(version, POLICY).await;
    let mut callout = callout_user(&deployment).await;
    for subject in [CALLOUT, "$SYS.REQ.SERVER.PING", "$KV.orders.a", "svc.x", "$JS.API.INFO"] {
        assert!(callout.publish(subject, b"").await.is_err(), "{subject}");
    }
    for subject in [">", "$SYS.>", "$SYS.REQ.>", "_INBOX.>", "$SYS._INBOX.>"] {
        assert!(callout.subscribe(subject).await.is_err(), "{subject}");
    }
}

on_every_server!(no_client_can_publish_a_request);
/// Not even with permission for everything: the server keeps this subject to itself.
async fn no_client_can_publish_a_request(version: &'static str) {
    let deployment = open_to_tests().start(version, POLICY).await;
    let mut callout = callout_user(&deployment).await;
    assert_eq!(callout.publish("anything.else", b"").await, Ok(()));
    let refused = callout.publish(CALLOUT, b"").await;
    assert_eq!(refused, Err(format!("Permissions Violation for Publish to \"{CALLOUT}\"")));
}

/// Sends what is no request, each with where to answer. Each is refused for its reason and
/// not answered; and real clients get in as before. That a copy of a genuine request is answered
/// shows that the way there and back is open.
async fn is_refused_each(
    deployment: &mut Deployment,
    genuine: (&str, &[u8]),
    forgeries: Vec<(&'static str, String, Vec<u8>)>,
) {
    let mut forger = forger(deployment).await;
    forger.publish_with(FORGE, "_INBOX.forger", genuine.0, genuine.1).await.unwrap();
    assert_eq!(forger.message().await.subject, "_INBOX.forger");
    for (at, (reason, headers, payload)) in forgeries.iter().enumerate() {
        forger.publish_with(FORGE, "_INBOX.forger", headers, payload).await.unwrap();
        let lines = deployment.instances[0].says_times("request_rejected", at + 1).await;
        assert_eq!(lines.len(), at + 1);
        let shown = String::from_utf8_lossy(&payload[..payload.len().min(300)]);
        assert_eq!(lines[at]["reason"], *reason, "{}\n{shown}", lines[at]);
    }
    // One connection's messages come in order: an answer to a forgery would have come before.
    Raw::login(deployment, &deployment.service("known")).await;
    forger.fence().await.unwrap();
    assert!(forger.delivered.is_empty(), "{:?}", forger.delivered);
    let mut reasons: Vec<&str> = forgeries.iter().map(|(reason, ..)| *reason).collect();
    reasons.sort_unstable();
    for group in reasons.chunk_by(|a, b| a == b) {
        let metric = format!("solewriter_rejected_requests_total{{reason=\"{}\"}}", group[0]);
        let counted = deployment.instances[0].metric(&metric).await;
        assert!((counted - f64::from(u32::try_from(group.len()).unwrap())).abs() < 0.1, "{metric}");
    }
    assert_eq!(deployment.instances[0].get("/readyz").await.0, 200);
}

/// Bytes that mean nothing, the same in every run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        u8::try_from(state >> 24).unwrap()
    };
    (0..length).map(next).collect()
}

on_every_server!(who_says_much_of_itself_is_answered);
/// A server takes longer lines than 4 KB where it is told to, and a client fills them.
async fn who_says_much_of_itself_is_answered(version: &'static str) {
    let prepared = Prepared::new()
        .with_server("listen: $CLIENT_LISTEN", "listen: $CLIENT_LISTEN\nmax_control_line: 262144");
    let mut deployment = prepared.start(version, POLICY).await;
    let service = deployment.service("known");
    let mut raw = Raw::dial(deployment.url()).await;
    let mut options = raw.proof(&service.seed);
    options["name"] = json!("x".repeat(200 * 1024));
    raw.enter(&options).await.unwrap();
    let line = deployment.instances[0].says("authorisation").await;
    assert_eq!(
        (&line["outcome"], &line["service"]),
        (&json!("granted"), &json!("known")),
        "{line}"
    );
    assert!(line["client"].as_str().unwrap().len() < 1000, "{line}");
    // Nor does a stranger wait until its time is up.
    let mut raw = Raw::dial(deployment.url()).await;
    let stranger = Seed::<User>::generate();
    let mut options = raw.proof(&stranger);
    options["name"] = json!("x".repeat(200 * 1024));
    let refused = raw.enter(&options).await.unwrap_err();
    assert!(refused.to_lowercase().contains("authorization violation"), "{refused}");
    let line =
        deployment.instances[0].says_where("authorisation", |l| l["outcome"] == "denied").await;
    assert_eq!(line["reason"], "unknown_key", "{line}");
}

on_every_server!(sealed_garbage_gets_no_answer);
async fn sealed_garbage_gets_no_answer(version: &'static str) {
    let mut deployment = open_to_tests().start(version, POLICY).await;
    let (request, _) = overheard(&deployment).await;
    let header = format!("Nats-Server-Xkey: {}", server_xkey(&request));
    let forger = nkeys::XKey::new();
    let forged = format!("Nats-Server-Xkey: {}", forger.public_key());
    let xkey = deployment.instances[0].says("ready").await["xkey"].as_str().unwrap().to_owned();
    let solewriter = nkeys::XKey::from_public_key(&xkey).unwrap();
    let sealed = |text: &[u8]| forger.seal(text, &solewriter).unwrap();
    let request = request.payload;
    let mut changed = request.clone();
    *changed.last_mut().unwrap() ^= 1;
    let unopened = |payload: &[u8]| ("unopened", header.clone(), payload.to_vec());
    let forgeries = vec![
        ("not_sealed", String::new(), Vec::new()),
        ("not_sealed", String::new(), noise(1000)),
        ("not_sealed", String::new(), request.clone()),
        ("too_large", String::new(), noise(1024 * 1024)),
        ("too_large", header.clone(), noise(800 * 1024)),
        ("server_xkey", "Nats-Server-Xkey: nonsense".to_owned(), request.clone()),
        ("server_xkey", "Nats-Server-Xkey:".to_owned(), request.clone()),
        unopened(b""),
        unopened(b"xkv1"),
        unopened(&noise(1000)),
        unopened(&[b"xkv1".as_slice(), &noise(1000)].concat()),
        unopened(&request[..request.len() / 2]),
        unopened(&request[..request.len() - 1]),
        unopened(&changed),
        ("unopened", forged.clone(), request.clone()),
        ("malformed", forged.clone(), sealed(b"")),
        ("malformed", forged.clone(), sealed(&noise(1000))),
        ("malformed", forged, sealed(b"e30.e30.e30")),
    ];
    is_refused_each(&mut deployment, (&header, &request), forgeries).await;
}

/// A token of these claims, signed by `key`.
fn signed(claims: &Value, key: &nkeys::KeyPair) -> Vec<u8> {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let head = part(&json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let body = format!("{head}.{}", part(claims));
    let signature = BASE64URL_NOPAD.encode(&key.sign(body.as_bytes()).unwrap());
    format!("{body}.{signature}").into_bytes()
}

on_every_server!(forged_requests_get_no_answer);
async fn forged_requests_get_no_answer(version: &'static str) {
    let prepared = solewriter_without_xkey(server_without_xkey(open_to_tests()));
    let mut deployment = prepared.start(version, POLICY).await;
    let (request, _) = overheard(&deployment).await;
    let token = String::from_utf8(request.payload).unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let [head, body, signature] = parts.as_slice() else { panic!("{token}") };
    let genuine = claims(token.as_bytes());

    let server = nkeys::KeyPair::new_server();
    let own = server.public_key();
    // The captured request as another server would send it, but for one change.
    let forged = |change: &dyn Fn(&mut Value)| {
        let mut claims = genuine.clone();
        claims["iss"] = json!(own);
        claims["nats"]["server_id"]["id"] = json!(own);
        change(&mut claims);
        signed(&claims, &server)
    };
    let with_body = |claims: &Value| {
        let body = BASE64URL_NOPAD.encode(claims.to_string().as_bytes());
        format!("{head}.{body}.{signature}").into_bytes()
    };
    let mut another_server = genuine.clone();
    another_server["nats"]["server_id"]["id"] = json!(own);
    let mut as_another_server = another_server.clone();
    as_another_server["iss"] = json!(own);
    let mut another_client = genuine.clone();
    another_client["nats"]["user_nkey"] = json!(nkeys::KeyPair::new_user().public_key());
    let no_algorithm = BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"none"}"#);
    let user = nkeys::KeyPair::new_user();
    let mut by_a_user = genuine.clone();
    by_a_user["iss"] = json!(user.public_key());
    by_a_user["nats"]["server_id"]["id"] = json!(user.public_key());

    let mut forgeries = vec![
        ("malformed", Vec::new()),
        ("malformed", noise(1000)),
        ("malformed", b"..".to_vec()),
        ("malformed", token.as_bytes()[..token.len() / 2].to_vec()),
        ("malformed", token.as_bytes()[..token.len() - 1].to_vec()),
        ("malformed", format!("{head}.{body}").into_bytes()),
        ("malformed", format!("{head}.{body}.").into_bytes()),
        ("malformed", format!("{token}.{signature}").into_bytes()),
        ("malformed", format!("{no_algorithm}.{body}.").into_bytes()),
        ("malformed", format!("{no_algorithm}.{body}.{signature}").into_bytes()),
        ("too_large", vec![b'a'; 1024 * 1024]),
        ("sealed", b"xkv1".to_vec()),
        // The captured request, with another server's id and the genuine signature.
        ("issuer_mismatch", with_body(&another_server)),
        ("signature", with_body(&as_another_server)),
        ("signature", with_body(&another_client)),
        ("issuer", signed(&by_a_user, &user)),
        ("issuer_mismatch", forged(&|c| c["nats"]["server_id"]["id"] = genuine["iss"].clone())),
        (
            "signature",
            forged(&|c| {
                c["iss"] = genuine["iss"].clone();
                c["nats"]["server_id"]["id"] = genuine["iss"].clone();
            }),
        ),
        ("not_a_request", forged(&|c| c["aud"] = json!("something-else"))),
        ("not_a_request", forged(&|c| c["nats"]["type"] = json!("authorization_response"))),
        ("not_a_request", forged(&|c| c["nats"]["version"] = json!(1))),
        ("expired", forged(&|c| c["exp"] = json!(1_000_000_000))),
        (
            "other_issuer",
            forged(&|c| {
                c["sub"] = json!(nkeys::KeyPair::new_account().public_key());
            }),
        ),
        ("not_an_account", forged(&|c| c["sub"] = c["nats"]["user_nkey"].clone())),
        ("user_nkey", forged(&|c| c["nats"]["user_nkey"] = c["sub"].clone())),
        ("malformed", forged(&|c| c["nats"]["connect_opts"]["nkey"] = json!(5))),
        ("malformed", forged(&|c| drop(c.as_object_mut().unwrap().remove("exp")))),
    ];
    let with_headers =
        forgeries.drain(..).map(|(reason, payload)| (reason, String::new(), payload)).collect();
    is_refused_each(&mut deployment, ("", token.as_bytes()), with_headers).await;
}

on_every_server!(a_captured_request_expires);
/// A request is good as long as its server waits for the answer, and no longer.
async fn a_captured_request_expires(version: &'static str) {
    let prepared = solewriter_without_xkey(server_without_xkey(impatient(open_to_tests())));
    let mut deployment = prepared.start(version, POLICY).await;
    let (request, _) = overheard(&deployment).await;
    let mut forger = forger(&deployment).await;
    let expired = super::deployment::eventually("the request to expire", async || {
        // Without a place for the answer: a copy is dropped as long as it is good.
        forger.publish(FORGE, &request.payload).await.unwrap();
        forger.publish_with(FORGE, "_INBOX.nowhere", "", &request.payload).await.unwrap();
        let lines = deployment.instances[0].lines();
        lines.into_iter().find(|l| l["event"] == "request_rejected")
    })
    .await;
    assert_eq!(expired["reason"], "expired", "{expired}");
    let dropped = "solewriter_dropped_requests_total{reason=\"no_reply_subject\"}";
    assert!(deployment.instances[0].metric(dropped).await >= 1.0);
}
