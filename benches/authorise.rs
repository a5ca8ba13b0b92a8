//! What one authorisation costs beside the cryptography that it cannot do without, in one run on
//! one thread: `cargo bench --bench authorise`. Read the ratio; the figures are this machine's.

// What a benchmark is for is to print.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::hint::black_box;
use std::time::{Duration, Instant};

#[path = "../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

use support::Bench;

const ROUNDS: usize = 15;
const TURNS: u32 = 400;

/// The least time of one turn over several rounds: what the work needs when nobody disturbs.
fn least(mut turn: impl FnMut()) -> Duration {
    (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            for _ in 0..TURNS {
                turn();
            }
            began.elapsed() / TURNS
        })
        .min()
        .unwrap_or_default()
}

fn main() {
    // 10,000 services; the one that asks has 12 subjects to publish and 8 to subscribe.
    let plain = Bench::plain();
    let sealed = Bench::sealed();
    let mut text = String::from(
        "[service.asks]\nnkeys = [\"CLIENT\"]\n\
         publishes = [\"e.a\", \"e.b\", \"e.c\", \"e.d\", \"e.e\", \"e.f\", \"e.g\", \"e.h\", \"e.i\", \"e.j\", \"e.k\", \"e.l\"]\n\
         subscribes = [\"s.a\", \"s.b\", \"s.c\", \"s.d\", \"s.e\", \"s.f\", \"s.g\"]\n",
    );
    for i in 0..10_000 {
        text.push_str(&format!("[bucket.b{i}]\n[service.s{i}]\nnkeys = []\nowns = [\"b{i}\"]\n"));
    }
    let policy = plain.policy(&text);
    let token = plain.signed(&plain.claims());
    let xkey = sealed.server_xkey.public_key();
    let closed = sealed.seal(&token);
    let moment = Bench::moment();

    let nonce = b"abcdefghijklmno";
    let nonce_signature: [u8; 64] = plain.client.sign(nonce).unwrap().try_into().unwrap();
    let client = solewriter_core::keys::UserKey::parse(&plain.client.public_key()).unwrap();
    let at = token.iter().rposition(|b| *b == b'.').unwrap();
    let request_signature = plain.server.sign(&token[..at]);
    let answer = plain
        .authorizer
        .authorise(&token, None, (&plain.decider, &policy), &moment)
        .unwrap()
        .answer;
    let answer = answer.unwrap();
    let user = support::decode(&answer)["nats"]["jwt"].as_str().unwrap().to_owned();

    let cryptography = least(|| {
        plain.server.public().verify(black_box(&token[..at]), &request_signature).unwrap();
        client.verify(black_box(nonce), &nonce_signature).unwrap();
        black_box(plain.issuer.sign(black_box(user.as_bytes())));
        black_box(plain.issuer.sign(black_box(&answer)));
    });
    let clear = least(|| {
        let done =
            plain.authorizer.authorise(black_box(&token), None, (&plain.decider, &policy), &moment);
        black_box(done.unwrap().answer.unwrap());
    });
    let shut = least(|| {
        let done = sealed.authorizer.authorise(
            black_box(&closed),
            Some(&xkey),
            (&sealed.decider, &policy),
            &moment,
        );
        black_box(done.unwrap().answer.unwrap());
    });
    let ratio = |time: Duration| time.as_secs_f64() / cryptography.as_secs_f64();
    println!("cryptography alone (2 strict verifications, 2 signatures)  {cryptography:?}");
    println!(
        "authorisation, plain                                       {clear:?}  ratio {:.2}",
        ratio(clear)
    );
    println!(
        "authorisation, sealed                                      {shut:?}  ratio {:.2}",
        ratio(shut)
    );
}
