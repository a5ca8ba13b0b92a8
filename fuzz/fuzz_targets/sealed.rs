//! Sealed payloads: whatever is done to one on its way, and whatever header comes with it, only the
//! bytes that a server sealed with the key that it signed for are taken for its request.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

thread_local! {
    static BENCH: (support::Bench, solewriter_core::policy::model::Policy, Vec<u8>) = {
        let bench = support::Bench::sealed();
        let policy = bench.policy(support::POLICY);
        let good = bench.signed(&bench.claims());
        (bench, policy, good)
    };
}

fuzz_target!(|bytes: &[u8]| {
    BENCH.with(|(bench, policy, good)| {
        let Some((way, rest)) = bytes.split_first() else { return };
        let xkey = bench.server_xkey.public_key();
        let ask = |payload: &[u8], header: Option<&str>| {
            bench.authorizer.authorise(
                payload,
                header,
                (&bench.decider, policy),
                &support::Bench::moment(),
            )
        };
        let mut sealed = bench.seal(good);
        match way % 4 {
            // Bytes of anybody's, with and without the prefix.
            0 => assert!(ask(rest, Some(&xkey)).is_err()),
            1 => assert!(ask(&[b"xkv1", rest].concat(), Some(&xkey)).is_err()),
            // A good one, changed: pairs of a place and what is laid over it.
            2 => {
                let before = sealed.clone();
                for change in rest.chunks_exact(3) {
                    let place = usize::from(u16::from_be_bytes([change[0], change[1]]));
                    let length = sealed.len();
                    if let Some(byte) = sealed.get_mut(place % length.max(1)) {
                        *byte ^= change[2];
                    }
                }
                assert_eq!(ask(&sealed, Some(&xkey)).is_ok(), sealed == before);
            }
            // A good one under another header.
            _ => {
                let header = String::from_utf8_lossy(rest);
                assert_eq!(ask(&sealed, Some(&header)).is_ok(), *header == *xkey);
            }
        }
    });
});
