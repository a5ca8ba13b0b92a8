//! Bytes as they come from the broker: nothing but a server's own signed words may be taken for
//! a request, and nothing may bring the service down.
#![no_main]

use data_encoding::BASE64URL_NOPAD;
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

thread_local! {
    static BENCHES: (support::Bench, support::Bench, solewriter_core::policy::model::Policy) = {
        let plain = support::Bench::plain();
        let policy = plain.policy(support::POLICY);
        (plain, support::Bench::sealed(), policy)
    };
}

fuzz_target!(|bytes: &[u8]| {
    BENCHES.with(|(plain, sealed, policy)| {
        let xkey = sealed.server_xkey.public_key();
        let moment = support::Bench::moment();
        if plain.authorizer.authorise(bytes, None, (&plain.decider, policy), &moment).is_ok() {
            must_be_signed(plain, bytes);
        }
        if sealed
            .authorizer
            .authorise(bytes, Some(&xkey), (&sealed.decider, policy), &moment)
            .is_ok()
        {
            let token = sealed.our_xkey.open(bytes, &sealed.server_xkey).expect("sealed");
            must_be_signed(sealed, &token);
        }
        if sealed
            .authorizer
            .authorise(&sealed.seal(bytes), Some(&xkey), (&sealed.decider, policy), &moment)
            .is_ok()
        {
            must_be_signed(sealed, bytes);
        }
    });
});

/// What was taken for a request is the server's, for us, and of this time: read apart from the
/// code under test.
fn must_be_signed(bench: &support::Bench, token: &[u8]) {
    let text = std::str::from_utf8(token).expect("UTF-8");
    let (signed, signature) = text.rsplit_once('.').expect("a signature");
    let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).expect("base64url");
    let server = nkeys::KeyPair::from_public_key(bench.server.public().as_str()).expect("a key");
    server.verify(signed.as_bytes(), &signature).expect("the server's signature");
    let claims = support::decode(token);
    assert_eq!(claims["iss"], bench.server.public().as_str());
    assert_eq!(claims["sub"], bench.issuer.public().as_str());
    assert_eq!(claims["aud"], "nats-authorization-request");
    assert!(claims["exp"].as_i64().is_some_and(|exp| exp >= support::NOW - 1), "{claims}");
}
