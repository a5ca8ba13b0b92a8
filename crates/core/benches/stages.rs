//! What each stage of an authorisation costs: `cargo bench --bench stages`.
//!
//! With `-- --instructions` it counts instructions under valgrind instead, which no other load on the
//! machine changes, and compares with `instructions.json` beside it: 15 of 100 more of our own work
//! fails. What the signatures take is subtracted, because it depends on the processor.
//! `-- --instructions --write` writes that file anew. Without valgrind it says so and passes:
//! `costs`, a test of the package solewriter, counts allocations everywhere.

// What a benchmark is for is to print.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used
)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[path = "../../../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

use solewriter_core::callout::authorizer::{Authorised, Stage, Watch};
use solewriter_core::callout::decide::Decider;
use solewriter_core::callout::identity;
use solewriter_core::callout::issue::{Issuer, Stamp};
use solewriter_core::callout::request::{Expectation, VerifiedRequest};
use solewriter_core::callout::xkey::Sealer;
use solewriter_core::grant::{Defaults, Grant};
use solewriter_core::keys::{CurveSecret, Seed, Signer, UserKey, Verifier};
use solewriter_core::policy::model::Policy;
use support::{Bench, NOW};

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.json");
/// More than the baseline by this part is a regression.
const TOLERANCE: f64 = 0.15;
/// Below this, a difference means nothing.
const LEAST: f64 = 5_000.0;
const ROUNDS: usize = 15;
const TURNS: u32 = 300;

/// A stage, and what of it is signatures that it cannot do without.
struct Turn {
    name: &'static str,
    signatures: &'static [&'static str],
    turn: Box<dyn FnMut()>,
}

/// When each stage ended.
struct Notes(Vec<(Stage, Instant)>);

impl Watch for Notes {
    fn ended(&mut self, stage: Stage) {
        self.0.push((stage, Instant::now()));
    }
}

/// 12 subjects to publish and 8 to subscribe, among 1,000 services.
fn policy(bench: &Bench) -> Policy {
    let mut text = String::from(
        "[bucket.asks]\n[service.asks]\nnkeys = [\"CLIENT\"]\nowns = [\"asks\"]\nsubscribes = \
         [\"n.a\", \"n.b\", \"n.c\", \"n.d\", \"n.e\", \"n.f\", \"n.g\"]\n",
    );
    for i in 0..1_000 {
        text.push_str(&format!("[bucket.b{i}]\n[service.s{i}]\nnkeys = []\nowns = [\"b{i}\"]\n"));
    }
    bench.policy(&text)
}

fn leaked<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn stage(
    name: &'static str,
    signatures: &'static [&'static str],
    turn: impl FnMut() + 'static,
) -> Turn {
    Turn { name, signatures, turn: Box::new(turn) }
}

// One list, in the order in which it is printed.
#[allow(clippy::too_many_lines)]
fn stages() -> Vec<Turn> {
    let (plain, sealed) = (leaked(Bench::plain()), leaked(Bench::sealed()));
    let policy = leaked(policy(plain));
    let token: &'static Vec<u8> = leaked(plain.signed(&plain.claims()));
    let closed: &'static Vec<u8> = leaked(sealed.seal(token));
    let xkey: &'static String = leaked(sealed.server_xkey.public_key());
    let moment = leaked(Bench::moment());
    let mut unknown = plain.claims();
    let stranger = nkeys::KeyPair::new_user();
    let nonce = unknown["nats"]["client_info"]["nonce"].as_str().unwrap().to_owned();
    let signature = stranger.sign(nonce.as_bytes()).unwrap();
    unknown["nats"]["connect_opts"]["nkey"] = stranger.public_key().into();
    unknown["nats"]["connect_opts"]["sig"] =
        data_encoding::BASE64URL_NOPAD.encode(&signature).into();
    let unknown: &'static Vec<u8> = leaked(plain.signed(&unknown));

    let answer = plain
        .authorizer
        .authorise(token, None, (&plain.decider, policy), moment)
        .unwrap()
        .answer
        .unwrap();
    let user = support::decode(&answer)["nats"]["jwt"].as_str().unwrap().to_owned();
    let (answer, user) = (leaked(answer), leaked(user));
    let nonce: &'static String = leaked(nonce);
    let nonce_signature: [u8; 64] =
        plain.client.sign(nonce.as_bytes()).unwrap().try_into().unwrap();
    let client = UserKey::parse(&plain.client.public_key()).unwrap();
    let signed = &token[..token.iter().rposition(|b| *b == b'.').unwrap()];
    let request_signature = plain.server.sign(signed);
    let servers = leaked(Verifier::new(10));
    let clients = leaked(Verifier::new(10));
    clients.keep(&client);
    servers.verify(plain.server.public(), signed, &request_signature).unwrap();

    let defaults = || Defaults {
        account: "APP".into(),
        lifetime: Duration::from_secs(3600),
        audit: solewriter_core::grant::AuditStreams::default(),
    };
    let decider = leaked(Decider::new(defaults(), Vec::new(), 0.1));
    let seed = Seed::parse(
        &nkeys::KeyPair::new_from_raw(nkeys::KeyPairType::Account, [1; 32])
            .unwrap()
            .seed()
            .unwrap(),
    )
    .unwrap();
    let issuer = leaked(Issuer::new(Signer::new(&seed).unwrap(), None));
    let expected = Expectation {
        issuer: issuer.account(),
        operator: false,
        sealer: None,
        servers,
        clock_leeway: 2,
    };
    let expected = leaked(expected);
    let open = move || VerifiedRequest::open(black_box(token), None, expected, NOW).unwrap();
    let request: &'static Arc<VerifiedRequest> = leaked(Arc::new(open()));
    let prove = move || identity::prove(request, clients).unwrap();
    let granted = leaked(decider.decide(&prove(), policy, NOW, 0.5).unwrap());
    let service = leaked(policy.service("asks").unwrap().clone());
    let ours = leaked(Sealer::new(CurveSecret::new(&Seed::generate()).unwrap()));
    let theirs = leaked(Sealer::new(CurveSecret::new(&Seed::generate()).unwrap()));
    let box_to_open = leaked(theirs.seal(token, ours.public(), &[1; 24]).unwrap());

    vec![
        stage("verify_request", &[], move || {
            servers.verify(plain.server.public(), black_box(signed), &request_signature).unwrap();
        }),
        stage("verify_nonce", &[], move || {
            clients.check(&client, black_box(nonce.as_bytes()), &nonce_signature).unwrap();
        }),
        stage("sign_both", &[], move || {
            black_box(plain.issuer.sign(black_box(user.as_bytes())));
            black_box(plain.issuer.sign(black_box(answer)));
        }),
        stage("open", &["verify_request"], move || drop(black_box(open()))),
        stage("unseal", &[], move || {
            black_box(ours.open(black_box(box_to_open), theirs.public()).unwrap());
        }),
        stage("decide", &["verify_nonce"], move || {
            assert!(black_box(decider.decide(&prove(), policy, NOW, 0.5)).is_ok());
        }),
        stage("compile_grant", &[], move || {
            black_box(Grant::of(black_box(service), &defaults()).unwrap().written().unwrap());
        }),
        stage("issue", &["sign_both"], move || {
            let stamp = Stamp { id: "DECISION", now: NOW, nonce: &[3; 24] };
            black_box(issuer.grant(granted, &stamp).unwrap());
        }),
        stage("seal", &[], move || {
            black_box(ours.seal(black_box(answer), theirs.public(), &[2; 24]).unwrap());
        }),
        stage("granted", &["verify_request", "verify_nonce", "sign_both"], move || {
            let done = plain.authorizer.authorise(
                black_box(token),
                None,
                (&plain.decider, policy),
                moment,
            );
            black_box(done.unwrap().answer.unwrap());
        }),
        // What a trace notes: a time for each stage.
        stage("granted_watched", &["verify_request", "verify_nonce", "sign_both"], move || {
            let (authorizer, decider) = (&plain.authorizer, &plain.decider);
            let mut notes = Notes(Vec::with_capacity(7));
            let done = authorizer.authorise_unless_large(
                black_box(token),
                None,
                |_| Ok((decider, policy)),
                moment,
                usize::MAX,
                &mut notes,
            );
            assert!(matches!(black_box(done), Ok(Authorised::Done(_))));
            assert_eq!(black_box(notes).0.len(), Stage::ALL.len());
        }),
        stage("granted_sealed", &["verify_request", "verify_nonce", "sign_both"], move || {
            let done = sealed.authorizer.authorise(
                black_box(closed),
                Some(xkey),
                (&sealed.decider, policy),
                moment,
            );
            black_box(done.unwrap().answer.unwrap());
        }),
        stage("refused_unknown_key", &["verify_request", "verify_nonce"], move || {
            let done = plain.authorizer.authorise(
                black_box(unknown),
                None,
                (&plain.decider, policy),
                moment,
            );
            black_box(done.unwrap().answer.unwrap());
        }),
    ]
}

/// The least time of one turn over several rounds: what the work needs when nobody disturbs.
fn least(turn: &mut dyn FnMut()) -> Duration {
    let round = |turn: &mut dyn FnMut()| {
        let began = Instant::now();
        (0..TURNS).for_each(|_| turn());
        began.elapsed() / TURNS
    };
    (0..ROUNDS).map(|_| round(turn)).min().unwrap_or_default()
}

/// Instructions of one turn: what 60 turns take more than 10, over 50.
fn instructions(name: &str) -> Option<f64> {
    let count = |turns: u32| -> Option<f64> {
        let run = Command::new("valgrind")
            .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
            .arg(std::env::current_exe().ok()?)
            .args(["--turn", name, &turns.to_string()])
            .output()
            .ok()?;
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(run.status.success(), "{said}");
        let line = said.lines().find(|line| line.contains("I   refs:")).expect("a count");
        let digits: String =
            line.rsplit(':').next()?.chars().filter(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    Some((count(60)? - count(10)?) / 50.0)
}

fn count_all(write: bool) -> ExitCode {
    let mut counts = BTreeMap::new();
    for stage in stages() {
        let Some(count) = instructions(stage.name) else {
            println!("NOT CHECKED: there is no valgrind here (apt-get install valgrind)");
            return ExitCode::SUCCESS;
        };
        counts.insert(stage.name, count);
    }
    let own: BTreeMap<String, f64> = stages()
        .iter()
        .map(|stage| {
            let signatures: f64 = stage.signatures.iter().map(|name| counts[name]).sum();
            (stage.name.to_owned(), (counts[stage.name] - signatures).round())
        })
        .collect();
    if write {
        std::fs::write(BASELINE, serde_json::to_string_pretty(&own).unwrap() + "\n").unwrap();
    }
    let text = std::fs::read_to_string(Path::new(BASELINE)).unwrap();
    let baseline: BTreeMap<String, f64> = serde_json::from_str(&text).unwrap();
    let mut worse = 0;
    println!("{:<22}{:>14}{:>14}{:>14}", "instructions", "in all", "our own", "baseline");
    for stage in stages() {
        let (own, before) = (own[stage.name], baseline.get(stage.name).copied().unwrap_or(0.0));
        // The signatures themselves are the processor's and the libraries' affair.
        let ours = !["verify_request", "verify_nonce", "sign_both"].contains(&stage.name);
        let slower = ours && own > before * (1.0 + TOLERANCE) + LEAST;
        worse += usize::from(slower);
        let note = if slower { "  MORE THAN BEFORE" } else { "" };
        println!("{:<22}{:>14.0}{own:>14.0}{before:>14.0}{note}", stage.name, counts[stage.name]);
    }
    if worse > 0 {
        println!(
            "{worse} stages take more than before; if that is meant: \
             cargo bench --bench stages -- --instructions --write"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let given = |flag: &str| arguments.iter().position(|argument| argument == flag);
    if let Some(at) = given("--turn") {
        let turns: u32 = arguments[at + 2].parse().unwrap();
        let mut stages = stages();
        let stage = stages.iter_mut().find(|s| s.name == arguments[at + 1]).unwrap();
        (0..turns).for_each(|_| (stage.turn)());
        return ExitCode::SUCCESS;
    }
    if given("--instructions").is_some() {
        return count_all(given("--write").is_some());
    }
    let mut took: BTreeMap<&str, Duration> = BTreeMap::new();
    for mut stage in stages() {
        let time = least(&mut stage.turn);
        took.insert(stage.name, time);
        let signatures: Duration = stage.signatures.iter().map(|name| took[name]).sum();
        let own = time.saturating_sub(signatures);
        println!("{:<22}{time:>12.2?}, of which not signatures {own:.2?}", stage.name);
    }
    ExitCode::SUCCESS
}
