//! What an authorisation allocates, and a line of a trace: counted, so that no other load on the machine changes it. In a
//! test binary of its own, because it counts for the whole process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout)]

#[allow(dead_code)]
mod support;

use solewriter::adoption::trace::Trace;
use solewriter_core::policy::model::Policy;
use support::Bench;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Blocks and bytes of one call, the mean of many: caches that are looked after now and then.
fn allocated(mut turn: impl FnMut()) -> (f64, f64) {
    const TURNS: u32 = 200;
    (0..20).for_each(|_| turn());
    let before = dhat::HeapStats::get();
    (0..TURNS).for_each(|_| turn());
    let after = dhat::HeapStats::get();
    let each = |after: u64, before: u64| {
        f64::from(u32::try_from(after - before).unwrap()) / f64::from(TURNS)
    };
    (each(after.total_blocks, before.total_blocks), each(after.total_bytes, before.total_bytes))
}

fn policy(bench: &Bench) -> Policy {
    bench.policy(
        "[bucket.asks]\n[service.asks]\nnkeys = [\"CLIENT\"]\nowns = [\"asks\"]\nsubscribes = \
         [\"n.a\", \"n.b\", \"n.c\", \"n.d\", \"n.e\", \"n.f\", \"n.g\"]\n",
    )
}

/// More than these is a regression: look for what is allocated or copied anew. Fewer: lower them.
#[test]
fn an_authorisation_allocates_no_more_than_it_did() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let moment = Bench::moment();
    let plain = Bench::plain();
    let rules = policy(&plain);
    let token = plain.signed(&plain.claims());
    let granted = allocated(|| {
        let done =
            plain.authorizer.authorise(&token, None, (&plain.decider, &rules), &moment).unwrap();
        assert!(done.decision.is_ok());
    });
    let stranger = plain.policy("[service.asks]\nnkeys = []\n");
    let refused = allocated(|| {
        let done =
            plain.authorizer.authorise(&token, None, (&plain.decider, &stranger), &moment).unwrap();
        assert!(done.decision.is_err());
    });
    let sealed = Bench::sealed();
    let closed = sealed.seal(&sealed.signed(&sealed.claims()));
    let xkey = sealed.server_xkey.public_key();
    let rules = policy(&sealed);
    let shut = allocated(|| {
        let done = sealed
            .authorizer
            .authorise(&closed, Some(&xkey), (&sealed.decider, &rules), &moment)
            .unwrap();
        assert!(done.decision.is_ok());
    });
    // Most bytes are the answer and its parts: a user JWT within a response JWT. The name in it has
    // two whole digests and two times, and flow control two forms.
    for (name, (blocks, bytes), (most_blocks, most_bytes)) in [
        ("granted", granted, (46.0, 10_700.0)),
        ("granted, sealed", shut, (51.0, 17_400.0)),
        ("refused", refused, (37.0, 3_800.0)),
    ] {
        println!("{name}: {blocks:.1} blocks, {bytes:.0} bytes");
        assert!(blocks <= most_blocks, "{name}: {blocks} blocks, not {most_blocks}");
        assert!(bytes <= most_bytes, "{name}: {bytes} bytes, not {most_bytes}");
    }
    assert!(refused.1 <= granted.1, "a refusal costs no more than a grant");
    a_line_of_a_known_connection_allocates_nothing();
}

/// Not a test of its own: both would count what the other allocates.
fn a_line_of_a_known_connection_allocates_nothing() {
    let mut trace = Trace::new();
    let source = trace.source();
    let head = "[1] 2026/11/29 14:03:34.434562 [TRC] 127.0.0.1:43670 - cid:7 - ";
    let named = format!("{head}\"v2.16.0:python3:a\" - \"OLD/user:old\" - ");
    trace.line(source, format!("{head}<<- [CONNECT {{\"user\": \"old\"}}]").as_bytes(), |_| ());
    for line in [
        format!("{named}<<- [PUB $KV.orders.k1 _INBOX.a.b 12]"),
        format!("{named}<<- MSG_PAYLOAD: [\"P...\"]"),
        format!("{named}<<- [SUB quotes.* workers 4]"),
        format!("{named}->> [HMSG events.new 3 $JS.ACK.EVENTS.ship.1.1.1.1.0 39 47]"),
        format!("{named}<<- [PING]"),
        "[1] 2026/11/29 14:03:34.434562 [INF] Server is ready".to_owned(),
    ] {
        let mut deeds = 0;
        let (blocks, _) = allocated(|| trace.line(source, line.as_bytes(), |_| deeds += 1));
        assert!(blocks.abs() < f64::EPSILON, "{line}: {blocks} blocks");
    }
}
