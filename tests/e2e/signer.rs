//! The issuer's key in a process of its own: `solewriter signer`, a token, an adapter in Python; and
//! what somebody at its socket, or in its place, can do.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use solewriter_core::keys::{Account, AccountKey, Seed, Signer};
use tokio::process::Command;

use super::deployment::{Deployment, Instance, Prepared, edit, eventually, read};
use super::raw::Raw;

const POLICY: &str = "[service.known]\nnkeys = [\"{known}\"]\ncalls = [\"svc.x\"]\n";
/// What a key in PKCS#8 begins with, in DER (RFC 8410).
const PKCS8_ED25519: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

fn uid() -> String {
    rustix::process::getuid().as_raw().to_string()
}

/// A deployment whose `serve` asks a signer. The issuer's seed is not where `serve` could find it.
struct Apart {
    prepared: Prepared,
    seed: PathBuf,
    key: AccountKey,
    socket: PathBuf,
}

impl Apart {
    fn new() -> Self {
        let prepared = Prepared::new();
        let from = prepared.files.seed_file("issuer");
        let (seed, socket) =
            (prepared.dir.path().join("held.nk"), prepared.dir.path().join("signer.sock"));
        std::fs::rename(from, &seed).unwrap();
        let key = *Signer::new(&Seed::<Account>::parse(&read(&seed)).unwrap()).unwrap().public();
        let settings = format!("signer = \"{}\"\nkey = \"{key}\"", socket.display());
        edit(&prepared.files.settings(), "seed = \"keys/issuer.nk\"", &settings);
        Self { prepared, seed, key, socket }
    }

    /// What runs the signer with its seed.
    fn with_seed(&self) -> Vec<String> {
        vec!["--seed".to_owned(), self.seed.display().to_string()]
    }

    /// The same key in PKCS#8.
    fn pem(&self) -> PathBuf {
        let (_, raw) = nkeys::decode_seed(read(&self.seed).trim()).unwrap();
        let der = [&PKCS8_ED25519[..], &raw[..]].concat();
        let text = data_encoding::BASE64.encode(&der);
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
        let file = self.prepared.dir.path().join("key.pem");
        std::fs::write(&file, pem).unwrap();
        file
    }
}

/// Starts a signer on that socket, and waits until it listens.
async fn signer(socket: &Path, peer: &str, more: &[String], env: &[(&str, &Path)]) -> Instance {
    let log = socket.with_extension("log");
    let child = Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .args(["signer", "--account", "APP", "--log-format", "json", "--peer", peer, "--listen"])
        .arg(socket)
        .args(more)
        .envs(env.iter().copied())
        .stderr(std::fs::File::create(&log).unwrap())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut signer = Instance { child, log };
    signer.says("listening").await;
    signer
}

async fn ends(signer: &mut Instance, signal: Signal) {
    signer.signal(signal);
    signer.child.wait().await.unwrap();
}

/// One question, and the answer.
fn ask(stream: &UnixStream, question: &Value) -> Option<Value> {
    let mut writer = stream;
    writer.write_all(format!("{question}\n").as_bytes()).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

async fn login(deployment: &Deployment) -> Result<(), String> {
    Raw::try_login(deployment.url(), &deployment.service("known").seed).await.map(drop)
}

on_the_newest_server!(a_signer_holds_the_key, some_room);
async fn a_signer_holds_the_key(version: &'static str) {
    let apart = Apart::new();
    let (socket, key, own) = (apart.socket.clone(), apart.key, apart.with_seed());
    let mut held = signer(&socket, &uid(), &own, &[]).await;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    let mut deployment = apart.prepared.start(version, POLICY).await;
    login(&deployment).await.unwrap();
    // Each signature is a line.
    let user = held.says_where("signed", |line| line["kind"] == "user").await;
    assert_eq!(user["service"], "known", "{user}");
    assert_eq!((user["account"].as_str(), user["key"].as_str()), (Some("APP"), Some(key.as_str())));
    let answer = held.says_where("signed", |line| line["kind"] == "response").await;
    assert_eq!((&answer["subject"], &answer["granted"]), (&user["subject"], &json!(true)));
    assert_eq!(user["digest"].as_str().unwrap().len(), 64);
    let (ready, report) = deployment.instances[0].get("/readyz").await;
    assert!(ready == 200 && report.contains("signer: holds the key"), "{report}");
    let said = deployment.tool(&["doctor"]).await.out;
    assert!(said.contains("ok        issuer        the signer answers"), "{said}");

    // Without it, nobody is let in, and everybody says so.
    ends(&mut held, Signal::KILL).await;
    login(&deployment).await.unwrap_err();
    let unsigned = "solewriter_unsigned_answers_total{reason=\"unreachable\"}";
    assert!(deployment.instances[0].metric(unsigned).await >= 1.0);
    let failed = deployment.instances[0].says("answer_failed").await;
    assert!(failed["error"].as_str().unwrap().contains("the signer does not answer"), "{failed}");
    eventually("not ready", async || {
        let (ready, report) = deployment.instances[0].get("/readyz").await;
        (ready == 503 && report.contains("signer: the signer at")).then_some(())
    })
    .await;
    let said = deployment.tool(&["doctor"]).await.out;
    assert!(said.contains("PROBLEM   issuer        the signer at"), "{said}");

    // It comes back where it was killed, and so do clients.
    let mut held = signer(&socket, &uid(), &own, &[]).await;
    eventually("a login", async || login(&deployment).await.ok()).await;
    eventually("ready", async || {
        (deployment.instances[0].get("/readyz").await.0 == 200).then_some(())
    })
    .await;
    // No second one takes its place, and it leaves nothing behind.
    let second = Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .args(["signer", "--account", "APP", "--peer", "0", "--listen"])
        .arg(&socket)
        .args(&own)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("another signer listens at"), "{said}");
    ends(&mut held, Signal::TERM).await;
    assert!(!socket.exists());

    // Another key than the one named is found at the start.
    let other = socket.with_file_name("other.nk");
    solewriter::scaffold::write_secret(&other, Seed::<Account>::generate().expose()).unwrap();
    let wrong = ["--seed".to_owned(), other.display().to_string()];
    let _wrong = signer(&socket, &uid(), &wrong, &[]).await;
    let index = deployment.launch_instance(&[]);
    assert!(!deployment.instances[index].child.wait().await.unwrap().success());
    let log = read(&deployment.instances[index].log);
    assert!(log.contains(&format!("does not hold {key}")), "{log}");
}

on_the_newest_server!(strangers_at_the_signers_socket, some_room);
/// What somebody can do who reaches the socket: another user, and one who may ask.
async fn strangers_at_the_signers_socket(_: &'static str) {
    let apart = Apart::new();
    let (socket, key, own) = (&apart.socket, apart.key.to_string(), apart.with_seed());
    let keys = json!({"v": 1, "ask": "keys"});

    // Another user than the one named, even root, is not heard.
    let mut deaf = signer(socket, "4242424", &own, &[]).await;
    let refused = tokio::task::block_in_place(|| ask(&UnixStream::connect(socket).unwrap(), &keys));
    assert_eq!(refused, None);
    let said = deaf.says("peer_refused").await;
    assert_eq!(said["uid"].as_u64().unwrap().to_string(), uid(), "{said}");
    ends(&mut deaf, Signal::TERM).await;

    // Who may ask gets no more than what it signs anyway.
    let mut held = signer(socket, &uid(), &own, &[]).await;
    let pid = held.child.id().unwrap();
    let connect = || {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    };
    tokio::task::block_in_place(|| {
        let stream = connect();
        assert_eq!(ask(&stream, &keys).unwrap()["keys"], json!([key]));
        let now = jiff::Timestamp::now().as_second();
        let user = Signer::<solewriter_core::keys::User>::new(&Seed::generate()).unwrap();
        let claims = |nats: Value, exp: i64| {
            json!({"jti": "1", "iat": now, "iss": key, "name": "thief", "aud": "APP",
                "sub": user.public().as_str(), "exp": exp, "nats": nats})
        };
        let all = json!({"allow": ["a"]});
        let body = json!({"type": "user", "version": 2, "pub": all, "sub": all});
        let header = "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ";
        let sign = |claims: &Value| {
            let claims = data_encoding::BASE64URL_NOPAD.encode(claims.to_string().as_bytes());
            let text = format!("{header}.{claims}");
            ask(&stream, &json!({"v": 1, "ask": "sign", "key": key, "text": text})).unwrap()
        };
        assert!(sign(&claims(body.clone(), now + 60))["signature"].is_string());
        let account = json!({"type": "account", "version": 2, "limits": {}});
        for claims in [
            claims(account, now + 60),
            claims(body.clone(), now + 10 * 365 * 86_400),
            claims(body, 0),
        ] {
            let answer = sign(&claims);
            assert_eq!(answer["error"], "refused", "{claims}");
            assert!(answer.get("signature").is_none());
        }
    });
    held.says("sign_refused").await;

    // Half a question, and then nothing: others are answered meanwhile, and it is closed.
    let half = tokio::task::block_in_place(|| {
        let mut half = connect();
        half.write_all(b"{\"v\":1,").unwrap();
        assert!(ask(&connect(), &keys).is_some());
        half.read(&mut [0; 1]).unwrap()
    });
    assert_eq!(half, 0);
    // A question without an end, up to a gigabyte: it is cut off, and the signer does not keep it.
    tokio::task::block_in_place(|| {
        let (mut stream, piece, mut sent) = (connect(), vec![b'x'; 1 << 20], 0_u64);
        while sent < 1 << 30 && stream.write_all(&piece).is_ok() {
            sent += 1 << 20;
        }
        assert!(sent < 64 << 20, "{sent} bytes were taken");
        // Two questions at once are none.
        let mut stream = connect();
        stream.write_all(format!("{keys}\n{keys}\n{keys}").as_bytes()).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
        // More connections than there are places: those that ask are answered again afterwards.
        let many: Vec<UnixStream> = (0..200).map(|_| connect()).collect();
        drop(many);
    });
    let peak = read(Path::new(&format!("/proc/{pid}/status")));
    let peak = peak.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("0 kB").trim();
    let peak: u64 = peak.strip_suffix(" kB").unwrap().trim().parse().unwrap();
    assert!(peak < 128 << 10, "{peak} kB");
    eventually("an answer", async || {
        tokio::task::block_in_place(|| ask(&connect(), &keys)).map(drop)
    })
    .await;
    // No secret is in its log.
    let seed = read(&apart.seed);
    assert!(!read(&held.log).contains(&seed.trim()[..20]));
}

/// How something lies that stands in a signer's place.
#[derive(Clone, Copy, Debug)]
enum Lie {
    AnotherKey,
    Zeroes,
    Garbage,
    HalfAnAnswer,
    Silence,
    Endless,
}

on_the_newest_server!(liars_in_the_signers_place, some_room);
/// `serve` sends nothing that its key did not sign, and does not hang.
async fn liars_in_the_signers_place(version: &'static str) {
    let apart = Apart::new();
    let signer = Signer::<Account>::new(&Seed::parse(&read(&apart.seed)).unwrap()).unwrap();
    let lies =
        [Lie::AnotherKey, Lie::Zeroes, Lie::Garbage, Lie::HalfAnAnswer, Lie::Silence, Lie::Endless];
    let (turn, listener) =
        (Arc::new(AtomicUsize::new(0)), UnixListener::bind(&apart.socket).unwrap());
    let (now, signer) = (turn.clone(), Arc::new(signer));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (now, signer) = (now.clone(), signer.clone());
            std::thread::spawn(move || lie(&stream, &signer, || lies[now.load(Ordering::SeqCst)]));
        }
    });
    let mut deployment = apart.prepared.start(version, POLICY).await;
    let unsigned = async |instance: &mut Instance| {
        let mut sum = 0.0;
        for reason in ["wrong", "unreachable", "refused", "busy"] {
            let name = format!("solewriter_unsigned_answers_total{{reason=\"{reason}\"}}");
            sum += instance.metric(&name).await;
        }
        sum
    };
    for (index, lie) in lies.into_iter().enumerate() {
        turn.store(index, Ordering::SeqCst);
        let before = unsigned(&mut deployment.instances[0]).await;
        let began = Instant::now();
        // The server waits for an answer longer than this test does.
        let (url, service) = (deployment.url().to_owned(), deployment.service("known"));
        let attempt = Raw::try_login(&url, &service.seed);
        let let_in = tokio::select! {
            entered = attempt => entered.is_ok(),
            () = async {
                eventually(&format!("{lie:?} is noticed"), async || {
                    (unsigned(&mut deployment.instances[0]).await > before).then_some(())
                }).await;
            } => false,
        };
        assert!(!let_in, "{lie:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "{lie:?}: {:?}", began.elapsed());
    }
    let wrong = "solewriter_unsigned_answers_total{reason=\"wrong\"}";
    assert!(deployment.instances[0].metric(wrong).await >= 3.0);
}

/// Answers honestly what instances say, and lies about tokens.
fn lie(stream: &UnixStream, signer: &Signer<Account>, how: impl Fn() -> Lie) {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
        let question: Value = serde_json::from_str(&line).unwrap();
        line.clear();
        let signed = |signature: &[u8]| {
            json!({"signature": data_encoding::BASE64URL_NOPAD.encode(signature)}).to_string()
        };
        let text = question["text"].as_str().unwrap_or_default();
        let answer = if question["ask"] == "keys" {
            json!({"keys": [signer.public().as_str()]}).to_string()
        } else if !text.starts_with("eyJ") {
            signed(&signer.sign(text.as_bytes()))
        } else {
            match how() {
                Lie::AnotherKey => {
                    let other = Signer::<Account>::new(&Seed::generate()).unwrap();
                    signed(&other.sign(text.as_bytes()))
                }
                Lie::Zeroes => signed(&[0; 64]),
                Lie::Garbage => "<html>".to_owned(),
                Lie::HalfAnAnswer => {
                    let _ = writer.write_all(b"{\"signature\":");
                    return;
                }
                Lie::Silence => continue,
                Lie::Endless => {
                    while writer.write_all(&[b'x'; 4096]).is_ok() {}
                    return;
                }
            }
        };
        if writer.write_all(format!("{answer}\n").as_bytes()).is_err() {
            return;
        }
    }
}

on_the_newest_server!(a_token_holds_the_key, some_room);
/// One in software: `softhsm2`, from the Debian package of that name.
async fn a_token_holds_the_key(version: &'static str) {
    const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
    if !Path::new(MODULE).exists() {
        println!("skipped: there is no SoftHSM here (apt-get install softhsm2)");
        return;
    }
    let apart = Apart::new();
    let dir = apart.prepared.dir.path().to_owned();
    let (tokens, config, pin) = (dir.join("tokens"), dir.join("softhsm.conf"), dir.join("pin"));
    std::fs::create_dir(&tokens).unwrap();
    std::fs::write(&config, format!("directories.tokendir = {}\n", tokens.display())).unwrap();
    solewriter::scaffold::write_secret(&pin, "8-4-2-1-pin\n").unwrap();
    let softhsm = async |arguments: &[&str]| {
        let mut command = Command::new("softhsm2-util");
        let ran = command.args(arguments).env("SOFTHSM2_CONF", &config).output().await.unwrap();
        assert!(ran.status.success(), "{arguments:?}: {ran:?}");
    };
    let user = ["--pin", "8-4-2-1-pin"];
    let token = ["--label", "solewriter", "--so-pin", "1-2-4-8-pin"];
    softhsm(&[&["--init-token", "--free"], &token[..], &user].concat()).await;
    let pem = apart.pem();
    let key = ["--import", pem.to_str().unwrap(), "--token", "solewriter", "--label", "issuer"];
    softhsm(&[&key[..], &["--id", "01"], &user].concat()).await;
    // Nothing but the token has it.
    for file in [&pem, &apart.seed] {
        std::fs::remove_file(file).unwrap();
    }
    let more = |label: &str| -> Vec<String> {
        let pin = pin.to_str().unwrap();
        let token = ["--pkcs11-module", MODULE, "--pkcs11-token", "solewriter"];
        let key = ["--pkcs11-key", label, "--pkcs11-pin", pin];
        token.iter().chain(&key).map(|&text| text.to_owned()).collect()
    };
    let environment = [("SOFTHSM2_CONF", config.as_path())];
    let mut held = signer(&apart.socket, &uid(), &more("issuer"), &environment).await;
    let (socket, public) = (apart.socket.clone(), apart.key.to_string());
    assert_eq!(held.says("key").await["key"], public.as_str());
    let mut deployment = apart.prepared.start(version, POLICY).await;
    login(&deployment).await.unwrap();
    held.says_where("signed", |line| line["kind"] == "user").await;

    // The token is gone, and comes back.
    let away = dir.join("away");
    std::fs::rename(&tokens, &away).unwrap();
    eventually("it does not sign", async || {
        let attempt = tokio::time::timeout(Duration::from_secs(2), login(&deployment)).await;
        (!matches!(attempt, Ok(Ok(())))).then_some(())
    })
    .await;
    std::fs::rename(&away, &tokens).unwrap();
    eventually("a login", async || {
        tokio::time::timeout(Duration::from_secs(2), login(&deployment)).await.ok()?.ok()
    })
    .await;
    assert!(!read(&held.log).contains("8-4-2-1-pin"), "{}", read(&held.log));
    ends(&mut held, Signal::TERM).await;
    login(&deployment).await.unwrap_err();

    // What is not in it is said.
    for (label, pin, expected) in [
        ("other", "8-4-2-1-pin", "there is no private Ed25519 key with the label \"other\""),
        ("issuer", "0-0-0-0-pin", "incorrect"),
    ] {
        let file = dir.join(format!("pin-{label}"));
        solewriter::scaffold::write_secret(&file, pin).unwrap();
        let mut arguments = more(label);
        *arguments.last_mut().unwrap() = file.display().to_string();
        let ran = Command::new(env!("CARGO_BIN_EXE_solewriter"))
            .args(["signer", "--account", "APP", "--peer", "0", "--listen"])
            .arg(&socket)
            .args(&arguments)
            .env("SOFTHSM2_CONF", &config)
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(!ran.status.success() && said.contains(expected), "{said}");
        assert!(!said.contains(pin), "{said}");
    }
    drop(deployment.instances.remove(0));
}

on_the_newest_server!(an_adapter_signs_behind_the_signer, some_room);
/// The Python of docs/signer.md, as it stands there.
async fn an_adapter_signs_behind_the_signer(version: &'static str) {
    let openssl = Command::new("openssl").arg("version").output().await;
    if !openssl.is_ok_and(|said| said.stdout.starts_with(b"OpenSSL 3")) {
        println!("skipped: there is no OpenSSL 3 here (apt-get install openssl)");
        return;
    }
    let page = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/signer.md"));
    let (_, script) = page.split_once("```python\n").unwrap();
    let (script, _) = script.split_once("```").unwrap();
    let apart = Apart::new();
    let (pem, adapter) = (apart.pem(), apart.prepared.dir.path().join("adapter.sock"));
    std::fs::remove_file(&apart.seed).unwrap();
    let _adapter = Command::new("python3")
        .args(["-c", script, apart.key.as_str()])
        .args([&adapter, &pem])
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually("the adapter", async || UnixStream::connect(&adapter).ok()).await;
    let (adapter, key) = (adapter.display().to_string(), apart.key.to_string());
    let more = ["--adapter", &adapter, "--adapter-key", &key].map(str::to_owned);
    let mut held = signer(&apart.socket, &uid(), &more, &[]).await;
    let deployment = apart.prepared.start(version, POLICY).await;
    login(&deployment).await.unwrap();
    // It is judged and told of where it stands in front.
    let user = held.says_where("signed", |line| line["kind"] == "user").await;
    assert_eq!(user["service"], "known", "{user}");
}

on_the_newest_server!(a_signer_holds_the_keys_of_operator_mode, some_room);
/// One signer for each of two instances, with the same keys. `serve` has none of them.
async fn a_signer_holds_the_keys_of_operator_mode(version: &'static str) {
    let prepared = Prepared::operator_without_policy(version);
    let (dir, home) = (prepared.files.dir.clone(), prepared.dir.path().to_owned());
    let held = |name: &str| {
        let to = home.join(name);
        std::fs::rename(dir.join("keys").join(name), &to).unwrap();
        let key = *Signer::new(&Seed::<Account>::parse(&read(&to)).unwrap()).unwrap().public();
        (to.display().to_string(), key)
    };
    let ((issuer_file, issuer), (app_file, app)) = (held("issuer.nk"), held("app.nk"));
    let sockets = [home.join("one.sock"), home.join("two.sock")];
    let named = format!("signer = \"{}\"\nkey = \"{issuer}\"", sockets[0].display());
    let prepared = prepared
        .with_settings("seed = \"keys/issuer.nk\"", &named)
        .with_settings("seeds = [\"keys/app.nk\"]", &format!("keys = [\"{app}\"]"));
    let account = |name| crate::operator::key_of(&prepared.files, name).to_string();
    let (app_account, auth_account) = (account("APP"), account("AUTH"));
    let more: Vec<String> = [
        ["--seed", issuer_file.as_str()],
        ["--seed", app_file.as_str()],
        ["--account", app_account.as_str()],
        ["--account", auth_account.as_str()],
    ]
    .concat()
    .into_iter()
    .map(ToOwned::to_owned)
    .collect();
    let mut first = signer(&sockets[0], &uid(), &more, &[]).await;
    let mut second = signer(&sockets[1], &uid(), &more, &[]).await;
    let mut deployment = prepared.start(version, POLICY).await;
    let other = sockets[1].to_str().unwrap();
    deployment.add_instance(&["--issuer-signer", other]).await;
    // Instances share requests by chance: both have signed soon.
    let users = |signer: &Instance| {
        let lines = signer.lines();
        lines.into_iter().filter(|line| line["event"] == "signed" && line["kind"] == "user").count()
    };
    eventually("both signers sign", async || {
        login(&deployment).await.unwrap();
        (users(&first) > 0 && users(&second) > 0).then_some(())
    })
    .await;
    let user = first.says_where("signed", |line| line["kind"] == "user").await;
    assert_eq!((&user["service"], &user["key"]), (&json!("known"), &json!(app.as_str())));
    assert_eq!(user["account"], json!(app_account));
    let answer = first.says_where("signed", |line| line["kind"] == "response").await;
    assert_eq!((&answer["key"], &answer["granted"]), (&json!(issuer.as_str()), &json!(true)));
    let said = deployment.tool(&["doctor"]).await.out;
    assert!(said.contains("ok        issuer        the signer answers"), "{said}");
    assert!(said.contains("ok        signing-keys  our keys sign, and have no scope"), "{said}");

    // One of them ends, with its instance: the other pair goes on.
    deployment.instances[0].signal(Signal::TERM);
    deployment.instances[0].child.wait().await.unwrap();
    ends(&mut first, Signal::TERM).await;
    login(&deployment).await.unwrap();
    // Without the last one, nobody is let in.
    ends(&mut second, Signal::KILL).await;
    login(&deployment).await.unwrap_err();

    // A signer that lacks the key of APP is found at the start.
    let lacking = [&more[..2], &more[4..]].concat();
    let _lacking = signer(&sockets[0], &uid(), &lacking, &[]).await;
    let index = deployment.launch_instance(&[]);
    assert!(!deployment.instances[index].child.wait().await.unwrap().success());
    let log = read(&deployment.instances[index].log);
    assert!(log.contains(&format!("does not hold {app}")), "{log}");
}
