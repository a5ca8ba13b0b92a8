//! What is left of permissions after denies.

use super::*;
use crate::adoption::server_config::accounts::tests::view;

fn may(permissions: &str) -> Vec<String> {
    let text = format!("authorization {{ users: [{{user: a, password: b{permissions}}}] }}");
    let (config, problems) = view(&text);
    assert!(problems.is_empty(), "{problems}");
    rights(&config.accounts[0].users[0])
        .allowed
        .iter()
        .map(|allowed| {
            let except: Vec<&str> = allowed.except.iter().map(|r| r.subject.as_str()).collect();
            let queue = allowed.queue.as_deref().unwrap_or_default();
            let side = if allowed.side == Side::Publish { "pub" } else { "sub" };
            format!("{side} {} {queue}-{}", allowed.subject.as_str(), except.join(","))
        })
        .collect()
}

#[test]
fn denies_take_away_and_cut_into() {
    for (permissions, expected) in [
        ("", vec!["pub > -", "sub > -"]),
        (", permissions: {publish: [a, b], subscribe: {deny: \">\"}}", vec!["pub a -", "pub b -"]),
        (
            ", permissions: {publish: {allow: [\"a.>\", \"b.x\"], deny: [\"b.*\", \"a.x\"]}, subscribe: []}",
            vec!["pub a.> -a.x", "sub > -"],
        ),
        (
            ", permissions: {publish: {deny: [\"$KV.>\", \"x\"]}, subscribe: {allow: \"a q\", deny: \"a r\"}}",
            vec!["pub > -$KV.>,x", "sub a q-a"],
        ),
        (
            ", permissions: {subscribe: {allow: [\"a q\"], deny: \"a q\"}, allow_responses: true}",
            vec![],
        ),
    ] {
        assert_eq!(may(permissions), expected, "{permissions}");
    }
}

#[test]
fn what_is_denied_is_not_reached() {
    let (config, _) = view(
        "authorization { users: [{user: a, password: b, permissions: {publish: {deny: \"$KV.a.>\"}}}] }",
    );
    let rights = rights(&config.accounts[0].users[0]);
    let reaches = |text: &str| rights.publishes(&Pattern::parse(text).unwrap()).count() == 1;
    assert!(!reaches("$KV.a.>") && !reaches("$KV.a.x.y"));
    assert!(reaches("$KV.b.>") && reaches("$KV.*.>"));
    assert!(!rights.publishes_everything());
}
