//! What an authorisation allocates, a line of a trace, a policy and a change of it: counted, so that no other load on the machine changes it. In a
//! test binary of its own, because it counts for the whole process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout)]

#[allow(dead_code)]
mod support;

use jiff::Timestamp;
use solewriter::adoption::trace::Trace;
use solewriter::policy_source::snapshot_store::Store;
use solewriter_core::analysis::diff::diff;
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::grant::{AuditStreams, Defaults};
use solewriter_core::keys::{Seed, Signer, User};
use solewriter_core::policy::model::Policy;
use solewriter_core::policy::validate::{Validated, Validator, validate};
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
    a_policy_takes_no_more_than_it_did();
    a_start_costs_the_same_for_each_service();
    a_change_costs_what_changed();
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

/// A policy as the load tests have it: each service owns a bucket, and subscribes to some subjects.
struct Company {
    keys: Vec<String>,
}

impl Company {
    fn new(services: usize) -> Self {
        let key = |_| Signer::new(&Seed::<User>::generate()).unwrap().public().to_string();
        Self { keys: (0..services).map(key).collect() }
    }

    /// With another subject of the first service for each number.
    fn validated(&self, subject: usize) -> Validated {
        validate(&[SourceFile::new("p.toml", self.text(0..self.keys.len(), subject))]).unwrap()
    }

    /// The same in files of 20 services.
    fn files(&self, subject: usize) -> Vec<SourceFile> {
        let files = (0..self.keys.len()).step_by(20);
        let text = |first: usize| self.text(first..first + 20, subject);
        files.map(|first| SourceFile::new(format!("p{first:04}.toml"), text(first))).collect()
    }

    fn text(&self, services: std::ops::Range<usize>, subject: usize) -> String {
        let mut text = String::new();
        for i in services {
            let key = &self.keys[i];
            text += &format!(
                "[bucket.s{i}]\n[service.s{i}]\nnkeys = [\"{key}\"]\nowns = [\"s{i}\"]\n\
                 subscribes = ["
            );
            for n in 0..7 {
                let n = if (i, n) == (0, 0) { subject + 7 } else { n };
                text += &format!("\"news.s{i}.n{n}\", ");
            }
            text += "]\n\n";
        }
        text
    }
}

fn live() -> f64 {
    f64::from(u32::try_from(dhat::HeapStats::get().curr_bytes).unwrap())
}

/// What a service takes of a policy in force; and a hundred changes of one service take, with all
/// that is remembered of earlier policies.
fn a_policy_takes_no_more_than_it_did() {
    const SERVICES: u32 = 800;
    /// See [`an_authorisation_allocates_no_more_than_it_did`].
    const MOST_BYTES: f64 = 1_480.0;
    let load = |store: &Store, company: &Company, subject| {
        // Its warnings are logged, and gone.
        drop(store.replace(company.validated(subject), None, Timestamp::UNIX_EPOCH));
    };
    // What a policy has once, whatever its size, counts as nothing.
    let ready = [SERVICES / 8, SERVICES].map(|services| {
        let company = Company::new(usize::try_from(services).unwrap());
        let store = Store::new();
        let before = live();
        load(&store, &company, 0);
        live() - before
    });
    let each = (ready[1] - ready[0]) / f64::from(SERVICES - SERVICES / 8);
    println!("a service of a policy: {each:.0} bytes");
    assert!(each <= MOST_BYTES, "{each} bytes a service, not {MOST_BYTES}");

    let company = Company::new(100);
    let store = Store::new();
    let before = live();
    load(&store, &company, 0);
    let ready = live() - before;
    (1..=100).for_each(|subject| load(&store, &company, subject));
    let changed = (live() - before) / ready;
    println!("after 100 changes: {changed:.2} times that");
    assert!(changed <= 1.2, "{changed} times the memory after 100 changes");
}

/// A start judges every service, and each of them costs the same, however many there are.
fn a_start_costs_the_same_for_each_service() {
    /// See [`an_authorisation_allocates_no_more_than_it_did`].
    const MOST_BLOCKS: f64 = 138.0;
    let [few, many] = [400_u32, 1600].map(|services| {
        let files = Company::new(usize::try_from(services).unwrap()).files(0);
        let blocks = dhat::HeapStats::get().total_blocks;
        drop(validate(&files).unwrap());
        let blocks = u32::try_from(dhat::HeapStats::get().total_blocks - blocks).unwrap();
        f64::from(blocks) / f64::from(services)
    });
    println!("a service is judged with {few:.1} blocks of 400, with {many:.1} of 1600");
    assert!(many <= few * 1.05, "more services cost more each: {few} and {many} blocks");
    assert!(few <= MOST_BLOCKS, "{few} blocks a service, not {MOST_BLOCKS}");
}

/// To judge a change, and to compare a policy with the one before, allocates as much for a small one as
/// for a large one.
fn a_change_costs_what_changed() {
    let defaults = Defaults {
        account: "APP".into(),
        lifetime: std::time::Duration::from_secs(3600),
        audit: AuditStreams::default(),
    };
    let compared = [100, 400].map(|services| {
        let company = Company::new(services);
        let store = Store::new();
        let [before, after] = [0, 1].map(|subject| {
            store.replace(company.validated(subject), None, Timestamp::UNIX_EPOCH).after
        });
        let blocks = dhat::HeapStats::get().total_blocks;
        let found = diff(&before.policy, &after.policy, &defaults).unwrap();
        let blocks = dhat::HeapStats::get().total_blocks - blocks;
        assert_eq!(found.services.len(), 1);
        blocks
    });
    println!("a change of one service compares with {compared:?} blocks");
    assert_eq!(compared[0], compared[1], "what did not change is compared");

    let judged = [400, 1600].map(|services| {
        let company = Company::new(services);
        let validator = Validator::new(AuditStreams::default());
        validator.validate(&company.files(0)).unwrap();
        let files = company.files(1);
        let blocks = dhat::HeapStats::get().total_blocks;
        let validated = validator.validate(&files).unwrap();
        let blocks = dhat::HeapStats::get().total_blocks - blocks;
        assert!(validated.policy.service("s0").is_some());
        blocks
    });
    println!("a change of one service is judged with {judged:?} blocks");
    // A few more for lists that grow as they are made.
    assert!(judged[1] <= judged[0] + 30, "what did not change is judged");
}
