//! Bytes as they come from the broker: nothing but a server's own signed words may be taken for
//! a request, and nothing may bring the service down.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

thread_local! {
    static BENCHES: (support::Bench, support::Bench, solewriter::policy::model::Policy) = {
        let plain = support::Bench::plain();
        let policy = plain.policy(support::POLICY);
        (plain, support::Bench::sealed(), policy)
    };
}

fuzz_target!(|bytes: &[u8]| {
    BENCHES.with(|(plain, sealed, policy)| {
        let xkey = sealed.server_xkey.public_key();
        let moment = support::Bench::moment();
        let _ = plain.authorizer.authorise(bytes, None, policy, &moment);
        let _ = sealed.authorizer.authorise(bytes, Some(&xkey), policy, &moment);
        let _ = sealed.authorizer.authorise(&sealed.seal(bytes), Some(&xkey), policy, &moment);
    });
});
