//! What would be refused of what clients say, by a policy with one rule of each kind.

use std::fmt::Write as _;

use super::*;
use crate::adoption::trace::Trace;
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::policy::validate::validate;

const POLICY: &str = r#"
[bucket.orders]
[bucket.stock]
[service.orders]
nkeys = ["UCRAFZAHGBQKZ5WVGGAZTW3N7PIO7NNEZC77U2TFP7DSBDSFHKEUCIHK"]
owns = ["orders"]
publishes = ["events.orders.>"]
subscribes = ["news.*"]
[service.billing]
reads = ["orders"]
[service.quotes]
answers = ["quotes.>"]
[service.off]
disabled = "not yet"
[service.inside]
sources = ["10.0.0.0/8"]
[stream.EVENTS]
subjects = ["events.>"]
[stream.EVENTS.consumer.ship]
filter = ["events.orders.>"]
[stream.OTHER]
subjects = ["other.>"]
"#;

fn defaults() -> Defaults {
    Defaults {
        account: "APP".into(),
        lifetime: std::time::Duration::from_secs(60),
        audit: solewriter_core::grant::AuditStreams::default(),
    }
}

/// Findings of what clients say: each a user and a protocol line.
fn found(map: &str, said: &[(&str, &str)]) -> Vec<Finding> {
    let policy = validate(&[SourceFile::new("p.toml", POLICY)]).unwrap().policy;
    let grants = Grants::of(&policy, &defaults()).unwrap();
    let map = read_map(&SourceFile::new("map.toml", map), &policy).unwrap();
    let mut rehearsal = Rehearsal::new(&policy, &grants, map);
    let mut trace = Trace::new();
    let source = trace.source();
    for (second, (user, said)) in said.iter().enumerate() {
        let arrow = if said.contains("MSG ") { "->>" } else { "<<-" };
        let line = format!(
            "[1] 2026/11/29 14:{:02}:{:02}.000001 [TRC] 127.0.0.1:4 - cid:7 - \"n-1\" - \
             \"OLD/{user}\" - {arrow} [{said}]",
            second / 60 % 60,
            second % 60,
        );
        trace.line(source, line.as_bytes(), |deed| drop(rehearsal.take(&deed).cloned()));
    }
    assert_eq!(trace.counts().strange, 0);
    let findings = rehearsal.findings();
    assert_eq!(findings.iter().map(|f| f.count).sum::<u64>(), rehearsal.refused());
    findings
}

fn brief(said: &[(&str, &str)]) -> Vec<String> {
    let show = |finding: &Finding| {
        let mut text = format!("{} {}", finding.count, finding.meaning);
        if let Some(entry) = finding.entry() {
            let _ = write!(text, ": {entry}");
        }
        finding.advice.iter().fold(text, |text, advice| format!("{text}; {advice}"))
    };
    found("", said).iter().map(show).collect()
}

#[test]
fn what_a_policy_grants_is_not_told() {
    let said = [
        ("user:orders", "PUB $KV.orders.k1 _INBOX.orders.a 2"),
        ("nkey:UCRAFZAHGBQKZ5WVGGAZTW3N7PIO7NNEZC77U2TFP7DSBDSFHKEUCIHK", "PUB $KV.orders.k2 2"),
        ("user:orders", "SUB _INBOX.orders.x.* 1"),
        ("user:orders", "SUB news.* 1"),
        ("user:orders", "SUB news.a workers 1"),
        ("user:billing", "PUB $JS.API.DIRECT.GET.KV_orders.$KV.orders.k1 _INBOX.billing.a 0"),
        ("user:billing", "MSG $KV.orders.k1 1 $JS.ACK.KV_orders.x.1.1.1.1.0 2"),
        ("user:quotes", "SUB quotes.> q 1"),
        ("user:quotes", "MSG quotes.x 1 _INBOX.any.body 2"),
        ("user:quotes", "PUB _INBOX.any.body 2"),
    ];
    assert_eq!(brief(&said), [""; 0]);
}

#[test]
fn each_refusal_names_the_rule_that_would_be_needed() {
    for (said, expected) in [
        // All that one rule grants is one finding.
        (
            vec![
                ("user:billing", "PUB $JS.API.STREAM.INFO.KV_stock r 0"),
                ("user:billing", "PUB $JS.API.DIRECT.GET.KV_stock.$KV.stock.k1 r 0"),
                ("user:billing", "PUB $KV.stock.k1 2"),
                ("user:billing", "PUB $KV.stock.k2 2"),
            ],
            vec!["4 write stock/k1: [service.billing] owns = [\"stock\"]"],
        ),
        (
            vec![("user:billing", "PUB $KV.orders.k1 2")],
            vec![
                "1 write orders/k1; orders owns orders (p.toml:6:9): a key has one writer; to allow \
                 it, the ownership has to be transferred",
            ],
        ),
        // Who wants an answer calls, but not where a stream answers.
        (
            vec![("user:billing", "PUB quotes.x _INBOX.billing.1 2")],
            vec!["1 publish: [service.billing] calls = [\"quotes.x\"]"],
        ),
        (
            vec![
                ("user:billing", "PUB other.x _INBOX.billing.1 2"),
                ("user:billing", "PUB other.x 2"),
            ],
            vec!["2 publish: [service.billing] publishes = [\"other.x\"]"],
        ),
        // Who takes requests and answers needs one rule.
        (
            vec![
                ("user:billing", "SUB prices.* 1"),
                ("user:billing", "MSG prices.a 1 _INBOX.x.1 2"),
                ("user:billing", "PUB _INBOX.x.1 2"),
                ("user:billing", "MSG prices.b 1 _INBOX.x.2 2"),
                ("user:billing", "PUB _INBOX.x.2 2"),
            ],
            vec!["3 answer requests to prices.*: [service.billing] answers = [\"prices.*\"]"],
        ),
        // The default inbox is one thing, however many there are.
        (
            vec![
                ("user:billing", "SUB _INBOX.abc.* 1"),
                ("user:billing", "SUB _INBOX.def 2"),
                ("user:billing", "SUB _INBOX.orders.* 2"),
            ],
            vec!["3 use an inbox; set the inbox prefix of this client to `_INBOX.billing`"],
        ),
        (
            vec![("user:billing", "PUB $JS.API.STREAM.DELETE.KV_orders r 0")],
            vec![
                "1 administer orders; no rule can grant it: `$JS.API.STREAM.DELETE.>` is never \
                 granted to any service",
            ],
        ),
        (
            vec![
                ("user:billing", "PUB $JS.API.CONSUMER.MSG.NEXT.EVENTS.ship r 0"),
                ("user:billing", "PUB $JS.ACK.EVENTS.ship.1.1.1.1.0 0"),
                ("user:billing", "PUB $JS.ACK.EVENTS.ship.1.2.2.1.0 0"),
            ],
            vec!["3 consume EVENTS/ship: [service.billing] consumes = [\"EVENTS/ship\"]"],
        ),
        (
            vec![("user:off", "PUB a 1"), ("user:off", "SUB b 1")],
            vec!["2 connect; the service is disabled: not yet"],
        ),
        (
            vec![("user:inside", "PUB a 1")],
            vec!["1 connect; \"127.0.0.1\" is in none of the service's `sources`"],
        ),
        (
            vec![("user:who", "PUB a.b 1"), ("user:who", "PUB a.b 1")],
            vec!["2 publish; no service: no client is let in that is none"],
        ),
        (
            vec![("user:billing", "PUB a..b 1")],
            vec!["1 publish; no rule can grant it: it is not a subject"],
        ),
    ] {
        assert_eq!(brief(&said), expected, "{said:?}");
    }
}

#[test]
fn many_subjects_of_one_form_are_one_finding() {
    let lines: Vec<String> = (0..1000).map(|number| format!("PUB things.a.{number} 1")).collect();
    let said: Vec<(&str, &str)> = lines.iter().map(|line| ("user:billing", &**line)).collect();
    let findings = found("", &said);
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    let rule = Some("[service.billing] publishes = [\"things.a.*\"]".to_owned());
    assert_eq!((finding.entry(), finding.count), (rule, 1000));
    assert_eq!(finding.first.unwrap().to_string(), "2026-11-29T14:00:00.000001");
    assert_eq!(finding.last.unwrap().to_string(), "2026-11-29T14:16:39.000001");
}

#[test]
fn findings_cost_bounded_memory() {
    let lines: Vec<String> =
        (0..2 * MAX_FINDINGS).map(|number| format!("PUB things.{number}.a.{number} 1")).collect();
    let said: Vec<(&str, &str)> = lines.iter().map(|line| ("user:billing", &**line)).collect();
    let policy = validate(&[SourceFile::new("p.toml", POLICY)]).unwrap().policy;
    let grants = Grants::of(&policy, &defaults()).unwrap();
    let mut rehearsal = Rehearsal::new(&policy, &grants, Mapping::default());
    let mut trace = Trace::new();
    let source = trace.source();
    for (user, said) in said {
        let line = format!("[1] [TRC] h:1 - cid:7 - \"n\" - \"OLD/{user}\" - <<- [{said}]");
        trace.line(source, line.as_bytes(), |deed| drop(rehearsal.take(&deed).cloned()));
    }
    assert_eq!(rehearsal.findings().len(), MAX_FINDINGS);
    assert_eq!(rehearsal.beyond(), MAX_FINDINGS as u64);
}

#[test]
fn a_map_says_who_a_client_is() {
    let said = [("user:old", "PUB $KV.orders.k1 2")];
    for (map, expected) in [
        ("user = \"old\"", true),
        ("name = \"n-*\"", true),
        ("address = \"127.0.0.0/8\"", true),
        ("user = \"old\"\nname = \"n-1\"\naddress = \"127.0.0.1\"", true),
        ("user = \"new\"", false),
        ("user = \"old\"\nname = \"m-*\"", false),
        ("address = \"10.0.0.0/8\"", false),
    ] {
        let map = format!("[[client]]\nservice = \"orders\"\n{map}\n");
        assert_eq!(found(&map, &said).is_empty(), expected, "{map}");
    }
}

#[test]
fn what_is_wrong_with_a_map_is_told_with_its_place() {
    let policy = validate(&[SourceFile::new("p.toml", POLICY)]).unwrap().policy;
    let text = "[[client]]\nuser = \"a\"\nservice = \"order\"\n[[client]]\nuser = \"b\"\n\
                service = \"orders\"\n[[client]]\nuser = \"c\"\nservice = \"else\"\n";
    let problems = read_map(&SourceFile::new("map.toml", text), &policy).unwrap_err();
    let shown = problems.render(solewriter_core::diagnostics::render::Style::Plain);
    for wanted in ["map.toml:3:11", "did you mean `orders`?", "map.toml:9:11", "`else`"] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
}
