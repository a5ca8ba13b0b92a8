//! What the typed view reads, and that it holds no secret.

use std::path::Path;

use solewriter_core::diagnostics::{Collector, Problems};

use super::*;
use crate::adoption::server_config::syntax;
use crate::adoption::server_config::syntax::tests::Memory;

/// A public NKEY; nobody has its seed.
const NKEY: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

pub(crate) fn view(text: &str) -> (Config, Problems) {
    let tree = syntax::read(Path::new("c.conf"), &Memory::one(text)).unwrap();
    let problems = Collector::new();
    let config = Config::of(&tree, &problems);
    (config, problems.finish())
}

fn good(text: &str) -> Config {
    let (config, problems) = view(text);
    assert!(problems.is_empty(), "{problems}");
    config
}

/// A user with these permissions, as text.
fn permitted(permissions: &str) -> String {
    let text = format!(
        "authorization {{ users: [{{user: a, password: b, permissions: {permissions}}}] }}"
    );
    let config = good(&text);
    let permissions = config.accounts[0].users[0].permissions.clone().unwrap();
    let rules = |rules: &[Rule]| {
        let texts = rules.iter().map(|rule| match &rule.queue {
            Some(queue) => format!("{} {queue}", rule.subject.as_str()),
            None => rule.subject.as_str().to_owned(),
        });
        texts.collect::<Vec<_>>().join(",")
    };
    let side = |side: &Option<Rules>| {
        side.as_ref().map_or("all".to_owned(), |side| {
            let allow = side.allow.as_ref().map_or("all".to_owned(), |allow| rules(allow));
            format!("[{allow}]-[{}]", rules(&side.deny))
        })
    };
    let responses = permissions.responses.as_ref().map_or_else(String::new, |responses| {
        format!(" {:?} {}", responses.max, responses.expires.as_deref().unwrap_or_default())
    });
    format!("{} {}{responses}", side(&permissions.publish), side(&permissions.subscribe))
}

#[test]
fn permissions_in_every_shape() {
    for (permissions, expected) in [
        ("{publish: a}", "[a]-[] all"),
        ("{pub: [a, \"b.>\"], sub: \"c\"}", "[a,b.>]-[] [c]-[]"),
        ("{import: a, export: b}", "[a]-[] [b]-[]"),
        ("{publish: {allow: a, deny: [b, c]}}", "[a]-[b,c] all"),
        ("{publish: {deny: \">\"}}", "[all]-[>] all"),
        ("{subscribe: [\"a q\", \"b q.*\"]}", "all [a q,b q.*]-[]"),
        ("{publish: []}", "[all]-[] all"),
        ("{allow_responses: true}", "[]-[] all None "),
        ("{allow_responses: false}", "all all"),
        ("{publish: a, allow_responses: {max: 5, expires: \"1m\"}}", "[a]-[] all Some(5) 1m"),
        ("{publish: {deny: a}, publish_allow_responses: {ttl: \"2s\"}}", "[]-[a] all None 2s"),
    ] {
        assert_eq!(permitted(permissions), expected, "{permissions}");
    }
}

#[test]
fn users_of_each_kind() {
    let text = format!(
        "tls {{ cert_file: c, key_file: k, verify_and_map: true }}\n\
         system_account: SYS\nno_auth_user: anybody\n\
         accounts {{\n  A: {{ jetstream: enabled, default_permissions: {{publish: x}}, users: [\n\
         {{user: bob, password: word, allowed_connection_types: [\"STANDARD\"]}}\n\
         {{nkey: {NKEY}, permissions: {{publish: y}}}}\n\
         {{user: \"CN=carol\"}} ] }}\n  SYS: {{users: [{{username: sys, pass: word}}]}}\n}}\n"
    );
    let config = good(&text);
    let users: Vec<_> = config.accounts.iter().flat_map(|a| &a.users).collect();
    let seen: Vec<_> = users.iter().map(|u| (u.label(), u.login, u.by_default)).collect();
    assert_eq!(
        seen,
        [
            ("bob", Login::Password, true),
            (NKEY, Login::Nkey, false),
            ("CN=carol", Login::Certificate, true),
            ("sys", Login::Password, false),
        ]
    );
    assert_eq!(users[0].connection_types[0].value, "STANDARD");
    assert_eq!(config.system(), "SYS");
    assert!(config.has_jetstream(&config.accounts[0]));
    assert!(!config.has_jetstream(&config.accounts[1]));
    let one = good("authorization { user: a, password: b, permissions: {publish: x} }");
    assert_eq!(one.accounts[0].name.value, GLOBAL);
    assert!(one.accounts[0].users[0].permissions.is_none(), "the server does not apply them");
    assert_eq!(good("authorization { token: t }").accounts[0].users[0].login, Login::Token);
}

#[test]
fn what_passes_between_accounts() {
    let config = good(
        "mappings: {a: b, c: [{destination: d, weight: 50}]}\naccounts {\n\
         A: { exports: [{stream: \"e.>\"}, {service: s, accounts: [B]}] }\n\
         B: { imports: [{stream: {account: A, subject: \"e.>\"}, prefix: team}\n\
         {service: {account: A, subject: s}, to: \"t.s\"}] } }\n\
         leafnodes { port: 7422, authorization { user: l, password: x, account: B }\n\
         remotes: [{url: \"nats://h:1\", account: A}] }\njetstream { domain: hub, store_dir: \"/d\" }",
    );
    assert_eq!(config.accounts[0].mappings.len(), 2);
    let a = config.account("A").unwrap();
    assert_eq!(a.exports[1].accounts[0].value, "B");
    let locals: Vec<String> =
        config.account("B").unwrap().imports.iter().map(Import::local).collect();
    assert_eq!(locals, ["team.e.>", "t.s"]);
    let leafnodes = config.leafnodes.unwrap();
    assert_eq!(leafnodes.logins[0].1.as_ref().unwrap().value, "B");
    assert_eq!(leafnodes.remotes[0].value.as_deref(), Some("A"));
    assert_eq!(config.jetstream.unwrap().domain.unwrap().value, "hub");
}

#[test]
fn what_does_not_fit_is_told() {
    for (text, expected) in [
        ("accounts: 1", "a whole number where a map of accounts should be"),
        ("accounts { A: {users: {user: a}} }", "a map where a list of users should be"),
        ("accounts { A: {users: [a]} }", "a text where a user"),
        ("authorization { users: [{user: 1}] }", "a whole number where a text in quotes should be"),
        ("authorization { users: [{password: x}] }", "a user has no name and no NKEY"),
        ("authorization { users: [{nkey: SUNOTPUBLIC}] }", "this is no public NKEY of a user"),
        ("authorization { user: a, token: b }", "there is a user and a token"),
        (
            "authorization { users: [{user: a, permissions: {publish: \"a b\"}}] }",
            "a subject with spaces",
        ),
        (
            "authorization { users: [{user: a, permissions: {publish: \"a..b\"}}] }",
            "no subject: token 2 is empty",
        ),
        ("accounts { A: {imports: [{stream: {account: B}}]} }", "an import has no `subject`"),
        ("accounts { A: {exports: [{x: y}]} }", "it has neither `stream` nor `service`"),
        ("jetstream: maybe", "a text where `enabled` or `disabled` should be"),
        ("bla: 1\nport: 4222", "a key of the server is not known"),
        ("port: 1\nport: 2", "a key is set twice"),
        ("operator: \"./op.jwt\"", "this is operator mode"),
    ] {
        let (_, problems) = view(text);
        assert!(problems.to_string().contains(expected), "{text}: {problems}");
    }
    assert!(view("x: 4222\nport: $x").1.is_empty(), "a variable has any name");
}

#[test]
fn no_secret_is_kept() {
    let text = "PW: hunterword\nauthorization { user: a, password: hunterword\n x: 1 }\n\
        leafnodes { authorization { user: l, password: $PW\n y: hunterword } }\n\
        accounts { A: { users: [{user: b, password: \"$2a$11$hunterword\", nope: hunterword}\n\
        {nkey: SUAHUNTERWORD}\n{user: c, password: {x: hunterword}}] } }";
    let (config, problems) = view(text);
    let all = format!(
        "{config:?}\n{problems}\n{problems:?}\n{}",
        serde_json::to_string(&problems).unwrap()
    );
    assert!(!all.to_ascii_lowercase().contains("hunterword"), "{all}");
    let (config, _) = view("authorization { token: hunterword }");
    assert!(!format!("{config:?}").contains("hunterword"));
}
