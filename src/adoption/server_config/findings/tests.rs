//! Each kind of finding, and that it is not found where there is nothing.

use solewriter_core::diagnostics::SourceFile;

use super::*;
use crate::adoption::server_config::accounts::tests::view;

fn found(text: &str) -> Vec<String> {
    let (config, _) = view(text);
    let whole = SourceFile::new("c.conf", text).span(0..0);
    let show = |finding: Finding| {
        let names: Vec<String> = finding.whom.into_iter().map(|whom| whom.user).collect();
        let bucket = finding.bucket.map(|b| format!(" {b}")).unwrap_or_default();
        format!("{}{bucket}: {}", finding.kind.code(), names.join(" "))
    };
    of(&config, &whole).into_iter().map(show).collect()
}

/// Users with these permissions in an account that has JetStream.
fn users(permissions: &[(&str, &str)]) -> Vec<String> {
    let users: String = permissions
        .iter()
        .map(|(name, may)| format!("{{user: {name}, password: x, permissions: {{{may}}}}}\n"))
        .collect();
    found(&format!("jetstream: enabled\nauthorization {{ users: [\n{users}] }}"))
}

#[test]
fn who_can_write_what() {
    for (permissions, expected) in [
        (
            &[("a", "publish: \"$KV.b.>\""), ("c", "publish: \"x\"")] as &[_],
            vec!["reply-subject: a", "one-writer b: a"],
        ),
        (
            &[("a", "publish: \"$KV.b.>\""), ("c", "publish: [\"$KV.b.k\", y]")],
            vec!["reply-subject: a c", "shared-bucket b: a c"],
        ),
        (&[("a", "publish: \"$KV.>\"")], vec!["any-bucket: a", "reply-subject: a"]),
        (&[("a", "publish: \"$KV.*.k\"")], vec!["any-bucket: a", "reply-subject: a"]),
        (&[("a", "publish: \"$JS.API.>\"")], vec!["any-stream: a", "reply-subject: a"]),
        (&[("a", "publish: \"$JS.API.STREAM.INFO.x\"")], vec!["reply-subject: a"]),
        (&[("a", "publish: \"$JS.hub.API.STREAM.INFO.x\"")], vec!["reply-subject: a"]),
        (&[("a", "publish: \"$JS.ACK.JOBS.w.>\"")], vec!["reply-subject: a"]),
        (&[("a", "publish: x")], vec![]),
        (&[("a", "publish: {deny: [\"$KV.>\", \"$JS.>\"]}")], vec![]),
        (
            &[("a", "publish: {deny: [\"$KV.b.>\", \"$JS.>\"]}")],
            vec!["any-bucket: a", "reply-subject: a", "no-writer b: "],
        ),
        (&[("a", "publish: {allow: x}, allow_responses: true")], vec!["responses: a"]),
        (
            &[("a", "subscribe: x")],
            vec!["publishes-everything: a", "any-bucket: a", "any-stream: a", "reply-subject: a"],
        ),
        (&[("a", "publish: x, subscribe: \"$JS.API.STREAM.INFO.KV_b\"")], vec!["no-writer b: "]),
        (&[("a", "publish: x, subscribe: []")], vec!["empty-list: a"]),
    ] {
        assert_eq!(users(permissions), expected, "{permissions:?}");
    }
}

#[test]
fn who_gets_in() {
    for (text, expected) in [
        ("port: 4222", vec!["open: "]),
        (
            "authorization { token: x }",
            vec![
                "no-permissions: who has the token",
                "any-bucket: who has the token",
                "any-stream: who has the token",
                "reply-subject: who has the token",
            ],
        ),
        (
            "jetstream: {enabled: false}\nauthorization { user: a, password: x, permissions: {publish: b} }",
            vec!["no-permissions: a", "ineffective: a"],
        ),
        (
            "no_auth_user: a\naccounts { A: {users: [{user: a, permissions: {publish: [x, y]}}]} }",
            vec!["anonymous: a a", "name-alone: a"],
        ),
        (
            "no_auth_user: a\naccounts { A: {users: [{user: a, password: b, permissions: {publish: {deny: \">\"}}}]} }",
            vec![],
        ),
        (
            "no_auth_user: z\naccounts { A: {users: [{user: a, password: x}]} }",
            vec!["anonymous: ", "no-permissions: a"],
        ),
        (
            "accounts { SYS: {users: [{user: s, password: x}]} }\nsystem_account: SYS",
            vec!["system-user: s"],
        ),
        ("operator: x.jwt", vec!["operator-mode: "]),
        ("leafnodes {remotes: [{url: \"nats://h:1\"}]}", vec!["open: ", "leaf: a remote"]),
        ("authorization { auth_callout { issuer: A, auth_users: [a] } }", vec!["callout: "]),
    ] {
        assert_eq!(found(text), expected, "{text}");
    }
}

#[test]
fn every_place_is_a_line_of_the_file() {
    let text = "jetstream: enabled\nauthorization { users: [\n{user: a, password: x, permissions: {\npublish: [x,\n\"$KV.b.>\"]}}] }";
    let (config, _) = view(text);
    let findings = of(&config, &SourceFile::new("c.conf", text).span(0..0));
    let one = findings.iter().find(|finding| finding.kind == Kind::OneWriter).unwrap();
    assert_eq!(one.whom[0].span.to_string(), "c.conf:5:1");
    let report = crate::adoption::server_config::report::report(&config, &findings);
    assert!(report.contains("c.conf:5 [one-writer]"), "{report}");
}
