//! Configurations in a few lines, and what becomes of their users.

use std::path::Path;

use super::*;
use crate::adoption::server_config::accounts::GLOBAL;

/// One file, and what it includes.
struct Files(&'static [(&'static str, &'static str)]);

impl Source for Files {
    fn file(&self, path: &Path, _most: usize) -> std::io::Result<Vec<u8>> {
        let found = self.0.iter().find(|(name, _)| Path::new(name) == path);
        let found = found.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))?;
        Ok(found.1.as_bytes().to_vec())
    }

    fn environment(&self, _name: &str) -> Option<String> {
        None
    }
}

fn keys() -> Keys {
    let key = |kind: char, name: &str| format!("{kind}{name:A<55}");
    Keys {
        issuer: key('A', "ISSUER"),
        xkey: key('X', "CALLOUT"),
        callout: key('U', "CALLOUT"),
        publisher: key('U', "PUBLISHER"),
        admin: key('U', "ADMIN"),
        audit_admin: key('U', "AUDITADMIN"),
        system: key('U', "SYSTEM"),
        anybody: key('U', "ANYBODY"),
    }
}

/// The files of a stage, or why there are none.
fn planned(
    files: &'static [(&'static str, &'static str)],
    stage: &Stage,
    shared: &[&str],
    account: Option<&str>,
) -> Result<Planned, String> {
    let current = Current::read(Path::new("n.conf"), &Files(files)).map_err(|p| p.to_string())?;
    let keys = keys();
    let shared: Vec<Pattern> = shared.iter().map(|tree| Pattern::parse(tree).unwrap()).collect();
    let request = Request { account, shared: &shared, policy: None, keys: &keys };
    let plan = Plan::of(&current, request).map_err(|problems| problems.to_string())?;
    plan.stage(stage.clone()).map_err(|problems| problems.to_string())
}

fn last() -> Stage {
    Stage::Last { keep: BTreeSet::new() }
}

fn moved(user: &str) -> Stage {
    Stage::Moved(vec![Move { service: "s".to_owned(), user: user.to_owned() }])
}

/// What the server would read.
fn read(planned: &Planned) -> Config {
    let again = Again { texts: &planned.texts, environment: &Environment::new() };
    let tree = syntax::read(Path::new("n.conf"), &again).unwrap();
    Config::of(&tree, &Collector::new())
}

fn users(config: &Config, account: &str) -> Vec<String> {
    let users = config.account(account).map(|a| a.users.as_slice()).unwrap_or_default();
    users.iter().map(|user| user.label().to_owned()).collect()
}

const GLOBAL_USERS: &[(&str, &str)] = &[(
    "n.conf",
    "jetstream: {store_dir: d}\nauthorization {\n  timeout: 3\n  users: [ {user: a, password: p}, \
     {user: b, password: p} ]\n}\nno_auth_user: b\n",
)];

#[test]
fn the_users_of_authorization_become_an_account() {
    let config = read(&planned(GLOBAL_USERS, &Stage::Beside, &[], None).unwrap());
    assert_eq!(users(&config, "STATE"), [&keys().admin, "a", "b"]);
    assert!(config.account(GLOBAL).is_none());
    let callout = config.authorization.unwrap().auth_callout.unwrap();
    let names: Vec<&str> = callout.auth_users.iter().map(|user| user.value.as_str()).collect();
    assert!(names.contains(&"a") && names.contains(&"b"), "{names:?}");

    let planned = planned(GLOBAL_USERS, &last(), &[], None).unwrap();
    let config = read(&planned);
    assert_eq!(users(&config, "STATE"), [keys().admin]);
    assert!(config.no_auth_user.is_none(), "its user is gone");
    assert!(!planned.reload);
}

#[test]
fn a_user_that_is_gone_stays_in_auth_users_until_the_last_stage() {
    let planned = planned(GLOBAL_USERS, &moved("a"), &[], None).unwrap();
    assert!(planned.reload);
    let config = read(&planned);
    assert_eq!(users(&config, "STATE"), [&keys().admin, "b"]);
    let callout = config.authorization.unwrap().auth_callout.unwrap();
    assert!(callout.auth_users.iter().any(|user| user.value == "a"));
}

#[test]
fn who_gives_no_login_is_nobody_when_that_user_is_gone() {
    let planned = planned(GLOBAL_USERS, &moved("b"), &[], None).unwrap();
    assert!(read(&planned).no_auth_user.is_none(), "the server refuses the name of nobody");
    assert!(planned.reload && planned.no_guests, "a reload takes it away, and none brings it back");
}

const IMPORTS: &[(&str, &str)] = &[(
    "n.conf",
    "jetstream: enabled\naccounts {\n  A {\n    jetstream: enabled\n    users: [{user: a, password: \
     p}]\n    imports: [{service: {account: B, subject: \"count.*\"}, to: \"stock.*\"}, {service: \
     {account: B, subject: \"time.now\"}}, {stream: {account: B, subject: \"news.>\"}, prefix: b}]\n  \
     }\n  B {\n    users: [{user: b, password: p}]\n    exports: [{service: \"count.>\", accounts: \
     [\"A\", C]}, {service: \"time.now\"}, {stream: \"news.>\", accounts: [A]}, {service: other, \
     accounts: [C]}]\n  }\n  C {}\n}\nleafnodes {port: 1, authorization {users: [{user: l, password: p, \
     account: C}]}}\n",
)];

#[test]
fn what_the_old_account_imports_is_imported_where_services_move_to() {
    for stage in [Stage::Beside, moved("a"), last()] {
        let config = read(&planned(IMPORTS, &stage, &["e.>"], Some("A")).unwrap());
        let imports = &config.account("APP").unwrap().imports;
        let from_b = imports.iter().filter(|import| import.account.value == "B");
        let local: Vec<String> = from_b.map(accounts::Import::local).collect();
        // With `time.now` as a reply subject, JetStream would send requests there.
        assert_eq!(local, ["stock.*", "b.news.>"]);
        let exports = &config.account("B").unwrap().exports;
        let may: Vec<Vec<&str>> = exports
            .iter()
            .map(|export| export.accounts.iter().map(|name| name.value.as_str()).collect())
            .collect();
        assert_eq!(may, [vec!["APP", "A", "C"], vec![], vec!["APP", "A"], vec!["C"]]);
    }
    // The leaf nodes of another account have nothing to do with it.
    let shared = |account, text: &'static str| {
        let files: &'static [(&str, &str)] = Box::leak(Box::new([("n.conf", text)]));
        let config = read(&planned(files, &last(), &["e.>"], Some(account)).unwrap());
        let imports = &config.account("APP").unwrap().imports;
        imports.iter().any(|import| import.subject.value == "e.>")
    };
    assert!(!shared("A", IMPORTS[0].1));
    let leaf = Box::leak(IMPORTS[0].1.replace("account: C}]", "account: A}]").into_boxed_str());
    assert!(shared("A", leaf), "they stay in the account of state");
}

#[test]
fn settings_have_what_the_server_says_of_tls() {
    let said = |text: &'static str| {
        let files: &'static [(&str, &str)] = Box::leak(Box::new([("n.conf", text)]));
        written::tls(&Current::read(Path::new("n.conf"), &Files(files)).unwrap())
    };
    assert_eq!(said("jetstream: enabled\n"), "");
    let plain = said("tls {cert_file: a, key_file: b}\n");
    assert!(plain.contains("\nrequired = true\n") && plain.contains("\n# ca = "), "{plain}");
    assert!(!plain.contains("cert =") && !plain.contains("first ="), "{plain}");
    let wanted = said(
        "tls {cert_file: a, key_file: b, ca_file: \"Cargo.toml\", verify: true, handshake_first: \
         true}\n",
    );
    for line in ["\nfirst = true\n", "/Cargo.toml\"\n", "\n# cert = ", "\n# key = "] {
        assert!(wanted.contains(line), "{line}: {wanted}");
    }
    assert!(toml::from_str::<toml::Table>(&wanted).is_ok(), "{wanted}");
}

#[test]
fn one_user_without_a_list() {
    let files: &[(&str, &str)] = &[(
        "n.conf",
        "jetstream: enabled\nauthorization {\n  user: a\n  password: p\n  timeout: 1\n}\n",
    )];
    let config = read(&planned(files, &Stage::Beside, &[], None).unwrap());
    assert_eq!(users(&config, "STATE"), [&keys().admin, "a"]);
    let config = read(&planned(files, &last(), &[], None).unwrap());
    assert_eq!(users(&config, "STATE"), [keys().admin]);
}

#[test]
fn who_gives_no_login_is_somebody_where_nobody_logs_in() {
    let files: &[(&str, &str)] = &[("n.conf", "port: 4222\njetstream: enabled\n")];
    let config = read(&planned(files, &Stage::Beside, &[], None).unwrap());
    assert_eq!(users(&config, "STATE"), [keys().admin, keys().anybody]);
    assert_eq!(config.no_auth_user.unwrap().value, keys().anybody);
    let config = read(&planned(files, &last(), &[], None).unwrap());
    assert_eq!(users(&config, "STATE"), [keys().admin]);
    assert!(config.no_auth_user.is_none());
}

#[test]
fn accounts_in_an_included_file() {
    let files: &[(&str, &str)] = &[
        ("n.conf", "jetstream: enabled\ninclude a.conf\n"),
        ("a.conf", "accounts {\n  X { jetstream: enabled, users: [{user: a, password: p}] }\n}\n"),
    ];
    let config = read(&planned(files, &Stage::Beside, &["e.>"], None).unwrap());
    assert_eq!(users(&config, "X"), [&keys().admin, "a"]);
    let imports = &config.account("APP").unwrap().imports;
    let shared = imports.iter().filter(|import| import.subject.value == "e.>");
    assert_eq!(shared.count(), 2, "as a service and as a stream");
    let config = read(&planned(files, &last(), &["e.>"], None).unwrap());
    let imports = &config.account("APP").unwrap().imports;
    assert!(imports.iter().all(|import| import.subject.value != "e.>"));
}

#[test]
fn the_system_account_of_all_in_one_account() {
    let files: &[(&str, &str)] = &[(
        "n.conf",
        "jetstream: enabled\nauthorization {users: [{user: a, password: p}]}\naccounts {$SYS \
         {users: [{user: s, password: p}]}}\n",
    )];
    let config = read(&planned(files, &Stage::Beside, &[], None).unwrap());
    assert_eq!(users(&config, "STATE"), [&keys().admin, "a"]);
    assert_eq!(users(&config, "$SYS"), ["s"]);
    assert_eq!(config.account("$SYS").unwrap().exports.len(), 6);
}

/// A configuration, and what is said about it.
const REFUSED: &[(&str, &[&str])] = &[
    ("operator: x\njetstream: enabled\n", &["adopt-operator", "n.conf:1"]),
    ("jetstream: enabled\nauthorization {token: t}\n", &["adopt-token", "n.conf:2"]),
    (
        "jetstream: enabled\naccounts {A {jetstream: enabled, users: [{user: a, password: p}]}}\n\
         authorization {auth_callout {issuer: x, auth_users: [a]}}\n",
        &["adopt-callout", "n.conf:3"],
    ),
    ("jetstream: enabled\naccounts {AUTH {jetstream: enabled}}\n", &["adopt-name", "n.conf:2"]),
    ("accounts {A {jetstream: enabled}}\n", &["adopt-jetstream"]),
    ("jetstream: enabled\naccounts {A {}, B {}}\n", &["adopt-account", "jetstream: enabled"]),
    (
        "jetstream: enabled\naccounts {A {jetstream: enabled}, B {jetstream: enabled}}\n",
        &["adopt-account", "--account: A, B"],
    ),
    ("jetstream: enabled\ncluster {port: 1}\n", &["adopt-global", "n.conf:2", "backup"]),
    ("jetstream: enabled\nmappings {a: b}\n", &["adopt-global", "n.conf:2"]),
    (
        "jetstream: enabled\naccounts {$SYS {}}\nauthorization {users: [{user: a, password: p}]}\n",
        &["adopt-global", "n.conf:2", "behind"],
    ),
    (
        "jetstream: enabled\naccounts {A {jetstream: enabled, imports: [{service: {account: B, \
         subject: \"e.x\"}}]}, B {exports: [{service: \"e.x\"}]}}\n",
        &["adopt-import", "n.conf:2", "e.>"],
    ),
    (
        "jetstream: enabled\naccounts {A {jetstream: enabled, exports: [{stream: \"e.>\"}]}}\n",
        &["adopt-export", "n.conf:2"],
    ),
    (
        "jetstream: enabled\nU: [{user: a, password: p}]\naccounts {A {jetstream: enabled, users: \
         $U}, B {users: $U}}\n",
        &["adopt-edit", "where it is used"],
    ),
];

#[test]
fn what_is_refused_is_said() {
    for (text, wanted) in REFUSED {
        let files: &'static [(&str, &str)] = Box::leak(Box::new([("n.conf", *text)]));
        let said = planned(files, &Stage::Beside, &["e.>"], None).map(|_| ()).unwrap_err();
        for word in *wanted {
            assert!(said.contains(word), "{text}: {word} is not in {said}");
        }
    }
    for (stage, account, word) in
        [(moved("nobody"), None, "adopt-moved"), (Stage::Beside, Some("OTHER"), "adopt-account")]
    {
        let said = planned(GLOBAL_USERS, &stage, &[], account).map(|_| ()).unwrap_err();
        assert!(said.contains(word), "{said}");
    }
}
