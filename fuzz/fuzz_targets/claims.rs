//! Claims that a server did sign: whatever they say, a grant goes only to a client whose
//! signature verifies, and every answer is signed and addressed to that server.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

#[derive(serde::Deserialize)]
struct Claims {
    nats: Body,
}
#[derive(serde::Deserialize)]
struct Body {
    client_info: Info,
    connect_opts: Options,
}
#[derive(serde::Deserialize)]
struct Info {
    nonce: String,
}
#[derive(serde::Deserialize)]
struct Options {
    sig: String,
}

thread_local! {
    static BENCH: (support::Bench, solewriter_core::policy::model::Policy) = {
        let bench = support::Bench::plain();
        let policy = bench.policy(support::POLICY);
        (bench, policy)
    };
}

fuzz_target!(|bytes: &[u8]| BENCH.with(|(bench, policy)| check(bench, policy, bytes)));

fn check(bench: &support::Bench, policy: &solewriter_core::policy::model::Policy, bytes: &[u8]) {
    let claims = data_encoding::BASE64URL_NOPAD.encode(bytes);
    let signed = format!("eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.{claims}");
    let signature = bench.server.sign(signed.as_bytes());
    let token = format!("{signed}.{}", data_encoding::BASE64URL_NOPAD.encode(&signature));
    if let Ok(done) = bench.authorizer.authorise(
        token.as_bytes(),
        None,
        (&bench.decider, policy),
        &support::Bench::moment(),
    ) {
        let answer = support::decode(&done.answer.expect("an answer"));
        assert_eq!(answer["aud"], bench.server.public().as_str());
        assert_eq!(answer["nats"].get("jwt").is_some(), done.decision.is_ok());
        if done.decision.is_ok() {
            // Read apart from the code under test, and leniently: what else is in the claims is
            // not the question.
            let text = std::str::from_utf8(bytes).expect("UTF-8");
            let claims: Claims = serde_json::from_str(text).expect("claims");
            let nonce = claims.nats.client_info.nonce;
            let signature = claims.nats.connect_opts.sig;
            let signature = data_encoding::BASE64URL_NOPAD
                .decode(signature.as_bytes())
                .or_else(|_| data_encoding::BASE64.decode(signature.as_bytes()))
                .expect("base64");
            bench.client.verify(nonce.as_bytes(), &signature).expect("the client's signature");
        }
    }
}
