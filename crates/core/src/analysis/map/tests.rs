//! Maps of small policies, and of hostile ones.

use super::*;
use crate::diagnostics::SourceFile;
use crate::policy::validate::sketch;

const SMALL: &str = r#"
[bucket.orders]
[bucket.rates]
[service.orders]
owns = ["orders"]
publishes = ["events.orders.>"]
calls = ["svc.quotes.get"]
[service.billing]
owns = ["rates"]
reads = ["orders/open.>"]
subscribes = ["events.*.created"]
[service.quotes]
reads = ["rates"]
answers = ["svc.quotes.>"]
"#;

const STREAMS: &str = r#"
[stream.EVENTS]
description = "What happened"
subjects = ["events.>"]
duplicate_window = "100ms"
[stream.EVENTS.consumer.shipping]
filter = ["events.orders.>"]
[stream.EVENTS.consumer.spare]
[store.bills]
[service.orders]
publishes = ["events.orders.>"]
found_as = ["orders-api"]
[service.billing]
calls = ["events.billing.done"]
owns = ["store:bills"]
[service.shipping]
consumes = ["EVENTS/shipping"]
reads = ["store:bills"]
[service.archive]
replays = ["EVENTS/events.orders.>"]
discovers = ["orders-api"]
[service.console]
replays = ["EVENTS"]
discovers = ["*"]
"#;

/// Texts that would be markup, quotes, or syntax, wherever they came to stand.
const HOSTILE: &str = r#"
[bucket.orders]
description = "</script><script>alert(1)</script><!-- {{script}} \u2028"
[service.orders]
description = "<img src=x onerror=alert(1)> \"q\" 'q' `b` \\"
owns = ["orders"]
publishes = ["a.\"];n0[\"x", "b.<b>x</b>.>", "c.\\N\\\"]"]
[service."<svg onload=alert(1)>\"]; click n0 call x()"]
reads = ["orders"]
subscribes = ["b.>"]
disabled = "</script>"
[service."`end`;\n subgraph"]
calls = ["x&#34;y"]
"#;

fn with<T>(text: &str, look: impl FnOnce(&Map<'_>) -> T) -> T {
    let sketch = sketch(&[SourceFile::new("p.toml", text)]);
    look(&Map::draw(&sketch))
}

#[test]
fn finds_who_is_on_the_other_side() {
    let links = with(SMALL, |map| {
        assert!(map.valid, "{}", map.problems);
        let end = |service: usize, entry| {
            let entry = map.entry(service, entry).unwrap();
            format!("{} {} {}", map.services[service].name, entry.verb, entry.name)
        };
        let list = map.links.iter();
        list.map(|l| format!("{} -> {}", end(l.from, l.from_entry), end(l.to, l.to_entry)))
            .collect::<Vec<_>>()
    });
    assert_eq!(
        links,
        [
            "billing owns rates -> quotes reads rates",
            "orders owns orders -> billing reads orders/open.>",
            "orders publishes events.orders.> -> billing subscribes events.*.created",
            "orders calls svc.quotes.get -> quotes answers svc.quotes.>",
        ]
    );
}

#[test]
fn writes_mermaid() {
    let text = with(SMALL, |map| map.to_mermaid(None));
    assert_eq!(
        text.split("  classDef").next().unwrap(),
        r#"flowchart LR
  n0["billing"]
  n1["orders"]
  n2["quotes"]
  n3[("orders")]
  n4[("rates")]
  n0 == "owns" ==> n4
  n1 -. "events.#42;.created" .-> n0
  n1 -. "request svc.quotes.get" .-> n2
  n1 == "owns" ==> n3
  n3 -- "open.#62;" --> n0
  n4 --> n2
"#
    );
}

#[test]
fn streams_stores_and_names_are_nodes() {
    with(STREAMS, |map| {
        assert!(map.valid, "{}", map.problems);
        let [events] = map.streams.as_slice() else { panic!("{:?}", map.streams) };
        assert_eq!((events.name, events.description), ("EVENTS", Some("What happened")));
        assert_eq!(events.at.as_deref(), Some("p.toml:2:9"));
        assert_eq!(events.writers, ["billing", "orders"]);
        assert_eq!(events.replayers, ["archive", "console"]);
        let consumers: Vec<_> =
            events.consumers.iter().map(|c| (&*c.name, &*c.filter, &*c.users)).collect();
        assert_eq!(
            consumers,
            [
                ("EVENTS/shipping", &["events.orders.>"][..], &["shipping"][..]),
                ("EVENTS/spare", &[], &[])
            ]
        );
        let [bills] = map.stores.as_slice() else { panic!("{:?}", map.stores) };
        assert_eq!(bills.name, "store:bills");
        assert_eq!((&*bills.owners, &*bills.readers), (&["billing"][..], &["shipping"][..]));
        let [found] = map.found.as_slice() else { panic!("{:?}", map.found) };
        assert_eq!(found.name, "orders-api");
        assert_eq!(
            (&*found.services, &*found.finders),
            (&["orders"][..], &["archive", "console"][..])
        );
        let entry = |service: usize, entry| map.entry(service, entry).unwrap();
        assert_eq!(entry(3, 0).streams, ["EVENTS"]);
        assert_eq!(entry(4, 1).consumer.as_deref(), Some("EVENTS/shipping"));
        let mermaid = map.to_mermaid(None);
        assert_eq!(
            mermaid.split("  classDef").next().unwrap(),
            r#"flowchart LR
  n0["archive"]
  n1["billing"]
  n2["console"]
  n3["orders"]
  n4["shipping"]
  n5[("store#58;bills")]
  n6[["EVENTS"]]
  n7("EVENTS#47;shipping")
  n8("EVENTS#47;spare")
  n9>"orders-api"]
  n1 == "owns" ==> n5
  n1 -. "events.billing.done" .-> n6
  n3 -. "events.orders.#62;" .-> n6
  n3 == "found as" ==> n9
  n5 --> n4
  n6 -- "replays events.orders.#62;" --> n0
  n6 -- "replays" --> n2
  n6 -- "events.orders.#62;" --> n7
  n6 --> n8
  n7 --> n4
  n9 --> n0
  n9 --> n2
"#
        );
    });
}

#[test]
fn the_focus_is_on_a_stream_with_its_consumers() {
    let labels = |focus: &str| {
        let text = with(STREAMS, |map| map.to_dot(Some(focus)));
        let name = |line: &str| Some(line.split_once("label=\"")?.1.split_once('"')?.0.to_owned());
        text.lines().filter(|line| !line.contains("->")).filter_map(name).collect::<Vec<_>>()
    };
    let all = [
        "archive",
        "billing",
        "console",
        "orders",
        "shipping",
        "EVENTS",
        "EVENTS/shipping",
        "EVENTS/spare",
    ];
    assert_eq!(labels("EVENTS"), all);
    assert_eq!(labels("EVENTS/shipping"), ["shipping", "EVENTS", "EVENTS/shipping"]);
    assert_eq!(labels("shipping"), ["shipping", "store:bills", "EVENTS", "EVENTS/shipping"]);
    assert_eq!(labels("store:bills"), ["billing", "shipping", "store:bills"]);
    assert_eq!(labels("orders-api"), ["archive", "console", "orders", "orders-api"]);
}

#[test]
fn what_two_services_would_share_is_drawn_in_red() {
    let second = "[service.second]\npublishes = ['events.orders.new']\nowns = ['store:bills']\n\
                  consumes = ['EVENTS/shipping']\nfound_as = ['Orders-API']\n";
    with(&format!("{STREAMS}{second}"), |map| {
        let red = |severity| severity == Some(Severity::Error);
        assert!(red(map.streams[0].severity) && red(map.stores[0].severity));
        let consumers = map.streams[0].consumers.iter().map(|c| red(c.severity));
        assert_eq!(consumers.collect::<Vec<_>>(), [true, false]);
        assert!(map.found.iter().all(|found| red(found.severity)), "{:?}", map.found);
        assert_eq!(map.stores[0].owners, ["billing", "second"]);
    });
}

#[test]
fn draws_only_what_is_around_the_focus() {
    let text = with(SMALL, |map| map.to_dot(Some("quotes")));
    let labels: Vec<&str> = text.lines().filter(|line| line.contains("[label")).collect();
    assert_eq!(
        labels,
        [
            "  n0 [label=\"orders\" color=\"#b36b00\"]",
            "  n1 [label=\"quotes\" color=\"#b36b00\"]",
            "  n2 [label=\"rates\" shape=cylinder style=filled fillcolor=\"#e8f1ff\"]",
            "  n0 -> n1 [label=\"request svc.quotes.get\" style=dotted]",
            "  n2 -> n1 [label=\"\" style=solid]",
        ]
    );
}

#[test]
fn a_policy_with_two_owners_is_drawn_in_red() {
    let text = format!("{SMALL}[service.thief]\nowns = [\"orders\"]\n");
    with(&text, |map| {
        assert!(!map.valid);
        for node in &map.services {
            let bad = matches!(node.name, "orders" | "thief");
            assert_eq!(node.severity == Some(Severity::Error), bad, "{}", node.name);
        }
        assert_eq!(map.buckets[0].owners, ["orders", "thief"]);
        assert_eq!(map.buckets[0].severity, Some(Severity::Error));
        let mermaid = map.to_mermaid(None);
        let red = mermaid.lines().filter(|line| line.starts_with("  class n")).collect::<Vec<_>>();
        assert!(red.contains(&"  class n3 error") && red.contains(&"  class n4 error"), "{red:?}");
    });
}

#[test]
fn a_problem_of_a_role_is_not_the_service_s_before_it() {
    let text = "[service.a]\ndescription = 'x'\n\n[role.r]\nreads = ['or ders']\n[service.b]\n";
    with(text, |map| {
        let bad: Vec<_> =
            map.services.iter().filter(|s| s.severity == Some(Severity::Error)).collect();
        assert!(bad.is_empty(), "{bad:?}");
        assert!(map.problems.has_errors());
    });
}

#[test]
fn hostile_names_cannot_leave_their_label() {
    with(HOSTILE, |map| {
        let mermaid = map.to_mermaid(None);
        for line in mermaid.lines().skip(1).take_while(|line| !line.starts_with("  classDef")) {
            // Outside of quotes, only ids, arrows and brackets; the quotes are ours.
            let outside: String = line.split('"').step_by(2).collect();
            let ours = |c: char| c.is_ascii_digit() || " n[]()=-.>".contains(c);
            assert!(outside.chars().all(ours), "{line}");
            let inside = line.split('"').nth(1).unwrap_or_default();
            let plain = |c: char| c.is_ascii_alphanumeric() || " .,-()#;".contains(c);
            assert!(inside.chars().all(plain), "{line}");
        }
        assert!(!mermaid.contains("click n0 call x()\n") && !mermaid.contains("<svg"));

        let dot = map.to_dot(None);
        for line in dot.lines().filter(|line| line.contains("[label=")) {
            let label = line.split_once("[label=\"").unwrap().1;
            let mut escaped = false;
            let end = label
                .find(|c| {
                    let end = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    end
                })
                .unwrap();
            let rest = &label[end + 1..];
            assert!(rest.ends_with(']') && !rest.contains('\\'), "{line}");
            assert!(!label[..end].replace("\\\\", "").replace("\\\"", "").contains('\\'), "{line}");
        }
    });
}

#[test]
fn nothing_in_a_picture_is_invisible() {
    let name = serde_json::to_string(solewriter_types::clean::HOSTILE).unwrap();
    let policy =
        format!("[service.orders]\ndescription = {name}\npublishes = [{name}]\n[service.{name}]\n");
    let file = SourceFile::new("p.toml", policy.clone());
    assert!(!sketch(&[file]).services.is_empty(), "{policy}");
    with(&policy, |map| {
        for text in [map.to_mermaid(None), map.to_dot(None), map.to_html().unwrap()] {
            let seen = solewriter_types::clean::dirt(&text);
            assert!(seen.is_empty(), "{seen:?}");
        }
    });
}

#[test]
fn the_page_holds_the_policy_as_data_only() {
    with(HOSTILE, |map| {
        let page = map.to_html().unwrap();
        // The page's own two scripts, and no other tag from the policy.
        assert_eq!(page.matches("</script>").count(), 2);
        assert_eq!(page.matches("<script").count(), 2);
        for tag in ["<img", "<svg", "<b>", "<!--"] {
            assert!(!page.contains(tag), "{tag}");
        }
        assert!(!page.contains('\u{2028}'));
        // What is there is what was written, and can be seen.
        let data = page.split_once("id=\"map\">").unwrap().1.split_once("</script>").unwrap().0;
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        let bucket = &data["buckets"][0]["description"];
        assert_eq!(bucket, "</script><script>alert(1)</script><!-- {{script}} \\u{2028}");
        assert_eq!(data["services"][0]["name"], "<svg onload=alert(1)>\"]; click n0 call x()");
    });
}

/// With this, whatever came into the document as markup would not run, and nothing is fetched.
#[test]
fn the_page_allows_its_own_script_and_nothing_else() {
    let page = with(SMALL, |map| map.to_html().unwrap());
    let script = page.rsplit_once("<script>").unwrap().1.split_once("</script>").unwrap().0;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, script.as_bytes());
    let hash = data_encoding::BASE64.encode(digest.as_ref());
    assert!(page.contains(&format!("default-src 'none'; script-src 'sha256-{hash}'")), "{hash}");
    for unsafe_way in
        ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "http:"]
    {
        let allowed = usize::from(unsafe_way == "http:");
        assert_eq!(script.matches(unsafe_way).count(), allowed, "{unsafe_way}");
    }
}

#[test]
fn stays_quick_at_size() {
    use std::fmt::Write as _;
    let mut text = String::new();
    for i in 0..2000 {
        let other = (i * 7919 + 1) % 2000;
        let _ = write!(
            text,
            "[bucket.b{i}]\n[service.s{i}]\nowns = ['b{i}']\nreads = ['b{other}']\n\
             publishes = ['events.s{i}.>']\nsubscribes = ['events.s{other}.>', 'events.*.closed']\n"
        );
    }
    with(&text, |map| {
        assert!(map.links_left_out, "every service hears `closed` of every other");
        assert_eq!(map.links.len(), MAX_LINKS);
        assert!(map.to_html().unwrap().len() < 64 << 20);
    });
}
