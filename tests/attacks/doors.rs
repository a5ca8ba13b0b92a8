//! Attacks that need more than lines of the client protocol: other ways in, and false answers to
//! the server's authorization requests.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use solewriter::nats::raw_client::RawLogin;
use solewriter::prove::{Attack, Control, Effect, Ending, Expected, Family, Offer, Step, Who};
use solewriter_core::callout::asked::is_open;
use solewriter_core::keys::{Seed, Signer, User};
use solewriter_sandbox::free_ports;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::deployment::{DEADLINE, Deployment, Prepared};
use super::raw::Raw;
use super::suite::Place;
use crate::tls;

pub fn attack(
    id: &'static str,
    title: &'static str,
    how: &'static str,
    why: &'static str,
) -> Attack {
    let mut attack = super::suite::families().remove(0).attacks.remove(0);
    attack.id = id;
    attack.title = title;
    attack.who = Who::Stranger;
    attack.steps = vec![Step::Knock(Offer::Nothing)];
    attack.effect = Effect::Enters;
    attack.expected = Expected::Closed { by: Ending::Refused, why };
    attack.control = Control::Told(how);
    attack.in_prove = false;
    attack
}

/// What is tried, and why it fails.
pub fn family() -> Family {
    Family {
        title: "Other doors, and false answers",
        about: "Success is to be let in, or what the row says.",
        attacks: doors().into_iter().chain(connecting_again()).chain(answers()).collect(),
    }
}

fn doors() -> Vec<Attack> {
    let own = "the service's own key and signature";
    vec![
        told(
            attack(
                "door-websocket",
                "A WebSocket connection of a service that may come by TCP alone",
                "for a service with `connections = [\"WEBSOCKET\"]`",
                "solewriter decides connection types; the server would ignore them in the JWT",
            ),
            own,
        ),
        told(
            attack(
                "door-leafnode",
                "A leafnode connection of a service that may come by TCP alone",
                "for a user of the server's configuration",
                "solewriter decides connection types; the server would ignore them in the JWT",
            ),
            own,
        ),
        told(
            attack(
                "leafnode-publishes",
                "A service that may come as a leafnode publishes, in the leafnodes' own protocol, \
                 what no rule grants it",
                "for a user of the server's configuration without permissions",
                "where the server does not hold leafnodes to permissions, before 2.11.16, 2.12.7 \
                 and 2.14.0, solewriter lets none in",
            ),
            "LMSG leaf.private 1",
        ),
        told(
            attack(
                "door-mqtt",
                "An MQTT connection with a service's name and key as user and password",
                "for a user of the server's configuration",
                "MQTT has no nonce, so nothing can be signed",
            ),
            "the key as user and password",
        ),
        told(
            attack(
                "door-mqtt-jwt",
                "An MQTT connection with a user's JWT as its password, a bearer token of the \
                 services' account",
                "for a user of the server's configuration",
                "nothing that MQTT carries is a proof",
            ),
            "a JWT as password",
        ),
        told(
            attack(
                "door-origin",
                "A page of an origin that the server does not know connects by WebSocket with a \
                 service's seed",
                "for a page of an origin in `allowed_origins`",
                "nats-server looks at the origin before anything else; it holds back browsers \
                 alone, as a program names what origin it likes",
            ),
            "the service's own key and signature, from https://other.example",
        ),
        told(
            attack(
                "door-certificate",
                "A client certificate alone, with the name of a user of the server's \
                 configuration, where the server maps certificates to users",
                "for a user in `auth_users`",
                "solewriter is asked about who is not in `auth_users`, and a certificate is not \
                 its key",
            ),
            "CONNECT {}",
        ),
        told(
            attack(
                "door-certificate-beside",
                "A client certificate that names a user in `auth_users`, with a key that nobody \
                 has",
                "without the key",
                "the server takes a key before a certificate, and asks solewriter about it",
            ),
            "CONNECT {nkey: another, sig: its own}",
        ),
    ]
}

fn connecting_again() -> Vec<Attack> {
    vec![
        told(
            attack(
                "connect-again",
                "A connection sends CONNECT again with its own proof and `user: \"\"`, to renew \
                 what it has and keep what it listens to",
                AGAIN,
                ASKED_AGAIN,
            ),
            "SUB leaf.private, CONNECT {nkey, sig: its own, user: \"\"}",
        ),
        told(
            attack(
                "connect-again-other",
                "The same with the proof of another service, to go on listening as that one",
                AGAIN,
                ASKED_AGAIN,
            ),
            "SUB leaf.private, CONNECT {nkey, sig: another service's, user: \"\"}",
        ),
    ]
}

const AGAIN: &str = "for users of the server's configuration, where the server has the defect; \
                     elsewhere, where it does not ask again";
const ASKED_AGAIN: &str = "solewriter refuses who asks twice, and the server closes it; from \
                           2.11.17 and 2.12.8 on the server ends what it listens to";

fn answers() -> Vec<Attack> {
    vec![
        told(
            attack(
                "answer-other-issuer",
                "A second responder, in the callout's account, lets a stranger in with an \
                     answer that it signed itself",
                "where it has the issuer's seed",
                "the server takes answers of the configured issuer alone",
            ),
            "CONNECT {nkey: another, sig: its own}",
        ),
        told(
            attack(
                "answer-replayed",
                "A second responder lets a stranger in with an answer of solewriter's that it \
                     captured, for a service",
                "where it has the issuer's seed",
                "an answer is for one connection, by a key that the server makes for it",
            ),
            "CONNECT {nkey: another, sig: its own}",
        ),
        told(
            attack(
                "answer-other-user",
                "The same with an answer that the issuer signed for another connection of this \
                     server",
                "for the connection that is asked about",
                "an answer is for one connection, by a key that the server makes for it",
            ),
            "CONNECT {nkey: another, sig: its own}",
        ),
        told(
            attack(
                "answer-other-grant",
                "The same with the grant of another connection, in an answer for this one",
                "for the connection that is asked about",
                "so is the grant in it",
            ),
            "CONNECT {nkey: another, sig: its own}",
        ),
        told(
            attack(
                "answer-other-server",
                "The same with an answer that the issuer signed for another server",
                "for the server that asks",
                "an answer is for one server, by its id",
            ),
            "CONNECT {nkey: another, sig: its own}",
        ),
        told(
            attack(
                "answer-expired",
                "The same with a grant that has expired",
                "while it has not",
                "the server looks at the grant's time",
            ),
            "CONNECT {nkey: another, sig: its own}",
        ),
        told(
            attack(
                "ask-as-server",
                "Someone in the callout's account, with all permissions, plays a server and \
                     asks solewriter for a service's grant",
                "for a subject of its own",
                "nats-server lets no client publish authorization requests; a server, or who \
                     has the callout's seed and lets an answer of JetStream's arrive there, gets \
                     what is good at the server that signed the request alone",
            ),
            "PUB $SYS.REQ.USER.AUTH",
        ),
        told(
            attack(
                "answer-publisher",
                "The user who may push policies takes authorization requests",
                "for the callout user",
                "it is in another account, and its permissions leave that out",
            ),
            "SUB $SYS.REQ.USER.AUTH",
        ),
        residual(
            attack(
                "answer-first",
                "A second responder, in the callout's account, answers first with nonsense: a \
                     service is not let in",
                "",
                "",
            ),
            "the service's own key and signature",
            "the server takes the first answer, and a bad one is a refusal",
            "nobody but solewriter may subscribe to `$SYS.REQ.USER.AUTH` in AUTH: the shipped \
                 configuration has one user there, with permissions; add none",
        ),
        residual(
            attack("door-no-auth-user", "No credential, where `no_auth_user` is set", "", ""),
            "CONNECT {}",
            "the server makes everyone without a credential that user, and asks nobody",
            "never set `no_auth_user`; `prove` finds it",
        ),
    ]
}

/// What a row shows in the place of lines.
pub fn told(mut attack: Attack, line: &'static str) -> Attack {
    attack.steps = vec![Step::Told(line)];
    attack
}

fn residual(
    attack: Attack,
    line: &'static str,
    reason: &'static str,
    mitigation: &'static str,
) -> Attack {
    let mut attack = told(attack, line);
    attack.expected = Expected::Residual { reason, mitigation };
    attack.control = Control::Here;
    attack
}

const POLICY: &str = r#"
[service.plain]
nkeys = ["{plain}"]
calls = ["svc.x"]
subscribes = ["leaf.private"]

[service.by-websocket]
nkeys = ["{by-websocket}"]
connections = ["WEBSOCKET"]

[service.by-leafnode]
nkeys = ["{by-leafnode}"]
connections = ["LEAFNODE"]
publishes = ["leaf.mine"]

[service.by-mqtt]
nkeys = ["{by-mqtt}"]
"#;

pub type Seen = (&'static str, Result<Option<Ending>, String>);

/// How it ended, where being let in is success.
fn ending(entered: &Result<(), String>) -> Ending {
    if entered.is_ok() { Ending::Succeeded } else { Ending::Refused }
}

/// Tries everything. Gives what came of each, or what is not as it should be.
pub async fn run(place: Place) -> Vec<Seen> {
    let mut seen = other_doors(place.version).await;
    seen.extend(false_answers(place.version).await);
    seen.push(("door-no-auth-user", no_auth_user(place.version).await));
    seen.extend(certificates(place.version).await);
    judged(seen, &family(), place)
}

/// What is not as the family says is an error.
pub fn judged(mut seen: Vec<Seen>, family: &Family, place: Place) -> Vec<Seen> {
    for (id, outcome) in &mut seen {
        let attack = family.attacks.iter().find(|attack| attack.id == *id).unwrap();
        if let Ok(Some(ending)) = outcome
            && !attack.expects(*ending, &place.numbers())
        {
            *outcome = Err(format!("{:?}, but it {}", attack.expected, ending.word()));
        }
    }
    seen
}

/// Its control first: without it, the outcome says nothing.
pub fn after(
    control: Result<(), String>,
    entered: &Result<(), String>,
) -> Result<Option<Ending>, String> {
    control.map_err(|error| format!("its control should work, and does not: {error}"))?;
    Ok(Some(ending(entered)))
}

/// A server that listens for leafnodes and MQTT there, and for browsers, with users of its own.
async fn with_other_doors(version: &'static str, leaf: &str, mqtt: &str) -> Deployment {
    let doors = format!(
        "websocket {{ listen: \"127.0.0.1:-1\", no_tls: true, \
         allowed_origins: [\"https://pages.example\"] }}\n\
         leafnodes {{ listen: \"{leaf}\" }}\nmqtt {{ listen: \"{mqtt}\" }}\nsystem_account: SYS"
    );
    Prepared::new()
        .with_server("system_account: SYS", &doors)
        .with_server(
            "users: [ { nkey: $ADMIN_KEY } ]",
            "users: [ { nkey: $ADMIN_KEY }, { user: gadget, password: gadget } ]",
        )
        .with_server(
            "  APP {",
            "  APP {\n    users: [ { user: edge, password: edge }, { user: rim, password: rim } ]",
        )
        .with_server(
            "$AUDIT_ADMIN_KEY, $SYSTEM_KEY",
            "$AUDIT_ADMIN_KEY, $SYSTEM_KEY, gadget, edge, rim",
        )
        .start(version, POLICY)
        .await
}

async fn other_doors(version: &'static str) -> Vec<Seen> {
    let ports = free_ports(2).unwrap();
    let (leaf, mqtt) = (format!("127.0.0.1:{}", ports[0]), format!("127.0.0.1:{}", ports[1]));
    let deployment = with_other_doors(version, &leaf, &mqtt).await;
    let websocket = deployment.server.ports().websocket[0].clone();
    let by_websocket = async |service: &str, origin: &str| {
        let mut raw = Raw::dial_websocket_of(&websocket, origin).await?;
        let proof = raw.proof(&deployment.service(service).seed);
        raw.enter(&proof).await
    };
    let seed = |service: &str| deployment.service(service).seed;
    let (edge, by_leafnode) = (Leaf::Edge, Leaf::Service(seed("by-leafnode")));
    let leafnode_publishes = async |who: &Leaf| {
        let mut hears = Raw::try_login(deployment.url(), &seed("plain")).await.unwrap();
        hears.subscribe("leaf.private").await.unwrap();
        let mut leafnode = Leafnode::connect(&leaf, who).await?;
        leafnode.fence("LMSG leaf.private 1\r\nx\r\n").await?;
        let heard = timeout(Duration::from_secs(1), hears.message()).await;
        heard.map(drop).map_err(|_| "nobody heard it".to_owned())
    };
    let user = |name: &str| json!({"user": name, "pass": name});
    // Whether it hears something after it connected so, and then so.
    let hears = async |first: &Offered, second: Option<&Offered>| {
        let mut listener = Raw::dial(deployment.url()).await;
        let options = first.options(&listener);
        listener.enter(&options).await.unwrap();
        listener.subscribe("leaf.private").await.unwrap();
        if let Some(second) = second {
            let options = second.options(&listener);
            listener.enter(&options).await?;
        }
        let mut speaker = Raw::dial(deployment.url()).await;
        speaker.enter(&user("edge")).await.unwrap();
        speaker.publish("leaf.private", b"x").await.unwrap();
        listener.fence().await?;
        let heard = !listener.delivered.is_empty();
        heard.then_some(()).ok_or_else(|| "it hears nothing any more".to_owned())
    };
    let (edge_user, rim) = (Offered::Options(user("edge")), Offered::Options(user("rim")));
    let (plain, other) = (Offered::Again(seed("plain")), Offered::Again(seed("by-mqtt")));
    let again = is_open(version).then_some(&rim);
    let key = deployment.service("by-mqtt").key();
    // The publisher's and the callout user's seeds are those of `solewriter init`.
    let takes_requests = async |user: &str| {
        let mut raw = Raw::try_login(deployment.url(), &deployment.seed(user)).await?;
        raw.subscribe("$SYS.REQ.USER.AUTH").await.map(drop)
    };
    vec![
        (
            "door-websocket",
            after(by_websocket("by-websocket", "").await, &by_websocket("plain", "").await),
        ),
        (
            "door-origin",
            after(
                by_websocket("by-websocket", "Origin: https://pages.example\r\n").await,
                &by_websocket("by-websocket", "Origin: https://other.example\r\n").await,
            ),
        ),
        (
            "door-leafnode",
            after(
                Leafnode::connect(&leaf, &edge).await.map(drop),
                &Leafnode::connect(&leaf, &Leaf::Service(seed("plain"))).await.map(drop),
            ),
        ),
        (
            "leafnode-publishes",
            after(leafnode_publishes(&edge).await, &leafnode_publishes(&by_leafnode).await),
        ),
        (
            "door-mqtt",
            after(by_mqtt(&mqtt, "gadget", "gadget").await, &by_mqtt(&mqtt, &key, &key).await),
        ),
        (
            "door-mqtt-jwt",
            after(by_mqtt(&mqtt, "gadget", "gadget").await, &by_mqtt(&mqtt, "x", &bearer()).await),
        ),
        (
            "connect-again",
            after(hears(&edge_user, again).await, &hears(&plain, Some(&plain)).await),
        ),
        (
            "connect-again-other",
            after(hears(&edge_user, again).await, &hears(&plain, Some(&other)).await),
        ),
        (
            "answer-publisher",
            after(takes_requests("callout").await, &takes_requests("publisher").await),
        ),
    ]
}

/// What a CONNECT offers.
enum Offered {
    /// These options.
    Options(Value),
    /// A service's proof, and no user: whoever was let in has been given one.
    Again(Seed<User>),
}

impl Offered {
    fn options(&self, connection: &Raw) -> Value {
        match self {
            Self::Options(options) => options.clone(),
            Self::Again(seed) => {
                let mut options = connection.proof(seed);
                options["user"] = json!("");
                options
            }
        }
    }
}

/// Who connects as a leafnode.
enum Leaf {
    /// A user of the server's configuration.
    Edge,
    /// A service, with its own proof.
    Service(Seed<User>),
}

/// A connection that speaks the leafnodes' protocol.
struct Leafnode {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Leafnode {
    async fn connect(address: &str, who: &Leaf) -> Result<Self, String> {
        let (reader, writer) = TcpStream::connect(address).await.unwrap().into_split();
        let mut lines = BufReader::new(reader).lines();
        let first = timeout(DEADLINE, lines.next_line()).await.unwrap().unwrap().unwrap();
        let info: Value = serde_json::from_str(first.strip_prefix("INFO ").unwrap()).unwrap();
        let mut connect =
            json!({"name": "leaf", "version": "2.12.0", "headers": true, "jetstream": false});
        match who {
            Leaf::Edge => {
                connect["user"] = json!("edge");
                connect["pass"] = json!("edge");
            }
            Leaf::Service(seed) => {
                let signer = Signer::new(seed).unwrap();
                let signature = signer.sign(info["nonce"].as_str().unwrap().as_bytes());
                connect["nkey"] = json!(signer.public().as_str());
                connect["sig"] = json!(BASE64URL_NOPAD.encode(&signature));
            }
        }
        let mut leafnode = Self { lines, writer };
        leafnode.fence(&format!("CONNECT {connect}\r\n")).await?;
        Ok(leafnode)
    }

    /// Sends that, and waits until the server has read it.
    async fn fence(&mut self, bytes: &str) -> Result<(), String> {
        self.writer.write_all(format!("{bytes}PING\r\n").as_bytes()).await.unwrap();
        loop {
            match timeout(DEADLINE, self.lines.next_line()).await.unwrap() {
                Ok(Some(line)) if line.starts_with("PONG") => return Ok(()),
                Ok(Some(line)) if line.starts_with("-ERR") => return Err(line),
                Ok(Some(_)) => {}
                _ => return Err("closed".to_owned()),
            }
        }
    }
}

/// A bearer token of some account's.
fn bearer() -> String {
    let account = nkeys::KeyPair::new_account();
    let claims = json!({"iss": account.public_key(), "sub": a_user(), "name": "x", "iat": 1, "jti": "X",
        "nats": {"type": "user", "version": 2, "bearer_token": true, "pub": {}, "sub": {}}});
    String::from_utf8(signed(&claims, &account)).unwrap()
}

/// Certificates that have the names of users.
async fn certificates(version: &'static str) -> Vec<Seen> {
    let prepared = tls::with_named_certificates(Prepared::new(), "verify_and_map: true", "");
    let folder = prepared.files.dir.clone();
    let deployment = prepared.start(version, POLICY).await;
    let enters = async |certificate: &str, login: &RawLogin| {
        tls::knock(&deployment, login, &tls::tls(&folder, Some(certificate), false)).await
    };
    let known = enters("edge", &RawLogin::Nobody).await;
    let stranger = tls::nkey(&deployment.service("stranger"));
    vec![
        ("door-certificate", after(known.clone(), &enters("rim", &RawLogin::Nobody).await)),
        ("door-certificate-beside", after(known, &enters("edge", &stranger).await)),
    ]
}

/// Connects as an MQTT 3.1.1 client.
pub async fn by_mqtt(address: &str, user: &str, password: &str) -> Result<(), String> {
    let field = |text: &str| {
        let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes
    };
    // Level 4; user name, password, clean session; keep alive for 60 s.
    let body = [field("MQTT"), vec![4, 0xC2, 0, 60], field("client"), field(user), field(password)]
        .concat();
    assert!(body.len() < 16384);
    let (low, high) =
        (u8::try_from(body.len() % 128).unwrap(), u8::try_from(body.len() / 128).unwrap());
    let mut packet = if high == 0 { vec![0x10, low] } else { vec![0x10, low | 0x80, high] };
    packet.extend_from_slice(&body);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&packet).await.unwrap();
    let mut answer = [0; 4];
    match timeout(DEADLINE, stream.read_exact(&mut answer)).await.unwrap() {
        Ok(_) if answer == [0x20, 2, 0, 0] => Ok(()),
        answered => Err(format!("{answered:?} {answer:?}")),
    }
}

/// Another user in the callout's account, and requests in the clear so that it can read them.
pub fn with_a_rogue(prepared: Prepared) -> Prepared {
    prepared
        .with_server(
            "  AUTH {\n    users: [",
            "  AUTH {\n    users: [ { user: rogue, password: rogue }",
        )
        .with_server("$AUDIT_ADMIN_KEY, $SYSTEM_KEY", "$AUDIT_ADMIN_KEY, $SYSTEM_KEY, rogue")
        .with_server("timeout: 10", "timeout: 2")
        .with_server("xkey: $CALLOUT_XKEY", "")
        .without_value("CALLOUT_XKEY")
        .with_settings("[xkey]", "#")
        .with_settings("seed = \"keys/callout.xk\"", "")
}

pub async fn rogue(deployment: &Deployment) -> Raw {
    let mut rogue = Raw::dial(deployment.url()).await;
    rogue.enter(&json!({"user": "rogue", "pass": "rogue"})).await.unwrap();
    rogue.subscribe("$SYS.REQ.USER.AUTH").await.unwrap();
    rogue
}

async fn false_answers(version: &'static str) -> Vec<Seen> {
    // Without solewriter, so that nobody else answers.
    let deployment = with_a_rogue(Prepared::new()).start_broker(version, POLICY).await;
    let issuer = std::fs::read_to_string(deployment.files.seed_file("issuer")).unwrap();
    let issuer = nkeys::KeyPair::from_seed(issuer.trim()).unwrap();
    let by_issuer = async |spoil: fn(&mut Value, &mut Value)| {
        let_in_by(&deployment, |request| grant(request, &issuer, spoil)).await
    };
    let control = by_issuer(|_, _| {}).await;
    let other = nkeys::KeyPair::new_account();
    let entered = let_in_by(&deployment, |request| grant(request, &other, |_, _| {})).await;
    let other_user = |_: &mut Value, answer: &mut Value| answer["sub"] = json!(a_user());
    let other_grant = |user: &mut Value, _: &mut Value| user["sub"] = json!(a_user());
    let other_server = |_: &mut Value, answer: &mut Value| {
        answer["aud"] = json!(nkeys::KeyPair::new_server().public_key());
    };
    let expired = |user: &mut Value, _: &mut Value| {
        user["exp"] = json!(user["iat"].as_i64().unwrap() - 60);
    };
    let mut seen = vec![
        ("answer-other-issuer", after(control.clone(), &entered)),
        ("answer-other-user", after(control.clone(), &by_issuer(other_user).await)),
        ("answer-other-grant", after(control.clone(), &by_issuer(other_grant).await)),
        ("answer-other-server", after(control.clone(), &by_issuer(other_server).await)),
        ("answer-expired", after(control.clone(), &by_issuer(expired).await)),
    ];
    seen.extend(captured(version, &control).await);

    let deployment = with_a_rogue(Prepared::new()).start(version, POLICY).await;
    let plain = deployment.service("plain");
    Raw::try_login(deployment.url(), &plain.seed).await.unwrap();
    let mut rogue = rogue(&deployment).await;
    let answering = tokio::spawn(async move {
        loop {
            let request = rogue.message().await;
            let nonsense = b"nonsense";
            rogue.publish(&request.reply.unwrap(), nonsense).await.unwrap();
        }
    });
    let mut kept_out = false;
    // A race: once is enough.
    for _ in 0..1000 {
        if kept_out {
            break;
        }
        kept_out |= Raw::try_login(deployment.url(), &plain.seed).await.is_err();
    }
    answering.abort();
    let first = Ok(Some(if kept_out { Ending::Succeeded } else { Ending::NoEffect }));
    seen.push(("answer-first", first));
    seen
}

/// The public key of some user.
fn a_user() -> String {
    nkeys::KeyPair::new_user().public_key()
}

/// A rogue in the callout's account hears requests and answers, gives an answer again, and asks as
/// a server does. `control` says whether one who has the issuer's seed lets a stranger in.
async fn captured(version: &'static str, control: &Result<(), String>) -> Vec<Seen> {
    let mut deployment = with_a_rogue(Prepared::new()).start(version, POLICY).await;
    let mut rogue = rogue(&deployment).await;
    rogue.subscribe("$SYS._INBOX.>").await.unwrap();
    let plain = deployment.service("plain").seed;
    drop(Raw::try_login(deployment.url(), &plain).await.unwrap());
    // A real request, and the answer that lets `plain` in.
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    while request.is_empty() || answer.is_empty() {
        let message = rogue.message().await;
        *(if message.reply.is_some() { &mut request } else { &mut answer }) = message.payload;
    }
    assert!(claims(&answer)["nats"]["jwt"].is_string());
    let elsewhere = rogue.publish_with("elsewhere", "_INBOX.rogue", "", &request).await;
    let asked = rogue.publish_with("$SYS.REQ.USER.AUTH", "_INBOX.rogue", "", &request).await;
    // Nobody else answers from here on.
    deployment.instances.clear();
    let replayed = let_in_by(&deployment, |_| answer.clone()).await;
    vec![
        ("answer-replayed", after(control.clone(), &replayed)),
        ("ask-as-server", after(elsewhere, &asked)),
    ]
}

/// A stranger connects, and the rogue answers for it with what is made of the request.
async fn let_in_by(
    deployment: &Deployment,
    answer: impl FnOnce(&Value) -> Vec<u8>,
) -> Result<(), String> {
    let mut rogue = rogue(deployment).await;
    let url = deployment.url().to_owned();
    let stranger = deployment.service("stranger").seed;
    let entering = tokio::spawn(async move { Raw::try_login(&url, &stranger).await.map(drop) });
    let request = rogue.message().await;
    let answer = answer(&claims(&request.payload));
    rogue.publish(&request.reply.unwrap(), &answer).await.unwrap();
    timeout(Duration::from_secs(20), entering).await.unwrap().unwrap()
}

pub fn claims(token: &[u8]) -> Value {
    let claims = std::str::from_utf8(token).unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap()).unwrap()
}

/// Everything that the stranger could wish for, once `spoil` had the grant and the answer.
pub fn grant(
    request: &Value,
    issuer: &nkeys::KeyPair,
    spoil: impl Fn(&mut Value, &mut Value),
) -> Vec<u8> {
    let (iat, exp) = (request["iat"].as_i64().unwrap(), request["iat"].as_i64().unwrap() + 3600);
    let (iss, sub) = (issuer.public_key(), &request["nats"]["user_nkey"]);
    let mut user = json!({"aud": "APP", "iss": iss, "sub": sub, "name": "stranger", "iat": iat,
        "exp": exp, "jti": "X", "nats": {"type": "user", "version": 2, "pub": {}, "sub": {},
        "subs": -1, "data": -1, "payload": -1}});
    let mut answer = json!({"aud": request["iss"], "iss": iss, "sub": sub, "iat": iat, "jti": "Y",
        "nats": {"jwt": "", "type": "authorization_response", "version": 2}});
    spoil(&mut user, &mut answer);
    answer["nats"]["jwt"] = json!(String::from_utf8(signed(&user, issuer)).unwrap());
    signed(&answer, issuer)
}

fn signed(claims: &Value, key: &nkeys::KeyPair) -> Vec<u8> {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let head = part(&json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let body = format!("{head}.{}", part(claims));
    let signature = BASE64URL_NOPAD.encode(&key.sign(body.as_bytes()).unwrap());
    format!("{body}.{signature}").into_bytes()
}

/// A user for whoever has no credential.
async fn no_auth_user(version: &'static str) -> Result<Option<Ending>, String> {
    let enters = async |deployment: &Deployment| {
        let mut raw = Raw::dial(deployment.url()).await;
        raw.enter(&json!({})).await
    };
    let sound = Deployment::start(version, POLICY).await;
    if enters(&sound).await.is_ok() {
        return Err("it works without `no_auth_user`, too".to_owned());
    }
    let deployment = Prepared::new()
        .with_server("  APP {", "  APP {\n    users: [ { user: anyone, password: anyone } ]")
        .with_server("$AUDIT_ADMIN_KEY, $SYSTEM_KEY", "$AUDIT_ADMIN_KEY, $SYSTEM_KEY, anyone")
        .with_server("system_account: SYS", "system_account: SYS\nno_auth_user: anyone")
        .start(version, POLICY)
        .await;
    Ok(Some(ending(&enters(&deployment).await)))
}
