//! Our reader of nats-server's configuration against nats-server: what it takes, what it refuses,
//! what it reads, and what its users then may do.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};
use serde_json::{Value as Json, json};
use solewriter::adoption::server_config::accounts::Config;
use solewriter::adoption::server_config::permissions::rights;
use solewriter::adoption::server_config::syntax::{self, Disk, Source, Tree, Value};
use solewriter_core::diagnostics::{Collector, Problems};
use solewriter_core::grant::Side;
use solewriter_sandbox::Server;
use solewriter_types::subject::Pattern;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::deployment::binary;

/// Variables of the environment, for the server and for us.
const VARIABLES: [(&str, &str); 3] =
    [("SERVER_NAME_OF_TEST", "templates-1"), ("A_SIZE", "2MB"), ("A_BROKEN", "[x")];

/// A folder in which the server is started.
struct Folder<'f>(&'f Path);

impl Source for Folder<'_> {
    fn file(&self, path: &Path, most: usize) -> io::Result<Vec<u8>> {
        Disk.file(&self.0.join(path), most)
    }

    fn environment(&self, name: &str) -> Option<String> {
        VARIABLES.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
    }
}

fn read(folder: &Path) -> Result<Tree, Problems> {
    syntax::read(Path::new("nats-server.conf"), &Folder(folder))
}

/// What `nats-server -t` says, and whether the file is good.
pub fn checked(server: &Path, folder: &Path) -> (bool, String) {
    let mut command = Command::new(server);
    command.args(["-t", "-c", "nats-server.conf"]).current_dir(folder).envs(VARIABLES);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), said)
}

/// Texts on which both must agree. `foo` is no setting of the server: when it is the only thing
/// that the server objects to, the grammar is right.
const TEXTS: &[&str] = &[
    "port: 4222\n",
    "port = 4222\n",
    "port 4222\n",
    "PORT: 4222",
    "port: 4222; max_payload: 1MB, server_name: x\n",
    "port: 4222\r\nserver_name: x\r\n",
    "{\n\"port\": 4222,\n\"server_name\": \"x\"\n}\n",
    "port: 4222\n}\n",
    "port: 4222\nport: 4223\n",
    "foo: 1\nfoo\n",
    "foo",
    "foo: ",
    ": 1\n",
    "foo: 'a'b: 1\n",
    "foo: a b\n",
    "foo\n{a: 1}\n",
    "foo:\n{a: 1}\n",
    "foo{a: 1}\n",
    "foo {a: 1}\n",
    "foo {a: 1}}\n",
    "foo {a: 1\n",
    "foo {a: 1]}\n",
    "foo {a: \"1\"]}\n",
    "foo {]}\n",
    "foo {a\n1}\n",
    "foo {a:\n1}\n",
    "foo {a: 1, b: 2; c: 3\nd: 4}\n",
    "foo {a: 1, , b: 2}\n",
    "foo {a: 1 b: 2}\n",
    "foo {a:, b: 2}\n",
    "foo {a: {b: {c: []}}}\n",
    "foo {/a: 1}\n",
    "foo {'a b': 1, \"c\": 2}\n",
    "foo: [1, 2]\n",
    "foo: [1, 2 ]\n",
    "foo: [1\n2\n]\n",
    "foo: [\"a\" \"b\"]\n",
    "foo: [\"a\"\n\"b\"]\n",
    "foo: [\"a\"\n,\"b\"]\n",
    "foo: [\"a\",\"b\",]\n",
    "foo: [\"a\",,\"b\"]\n",
    "foo: [,]\n",
    "foo: []\n",
    "foo: [{a: 1}\n{a: 2}, [x]]\n",
    "foo: [{a: 1} {a: 2}]\n",
    "foo: [a # b\nc // d\n]\n",
    "foo: [a\n",
    "foo: [1k]\n",
    "foo: [1.5]\n",
    "# only\nfoo: a#b // c\n",
    "foo: \"a\" / \n",
    "/ foo: 1\n",
    "foo: 'it'\n",
    "foo: 'a\nb'\n",
    "foo: \"a\nb\"\n",
    "foo: \"\\t\\n\\r\\\"\\\\\\x41\"\n",
    "foo: \"\\q\"\n",
    "foo: \"\\x4\"\n",
    "foo: a\\x41\n",
    "foo: \"a\n",
    "foo: 'a\n",
    "foo: (\na {b\n)\n",
    "foo: (\na\n)",
    "foo: (a)\n",
    "foo: (\na\n",
    "foo: 1k\n",
    "foo: 1kb; foo: 1KiB; foo: 1mi; foo: 2g; foo: 1TB; foo: 1p; foo: 1e\n",
    "foo: 3kx\n",
    "foo: 12abc\n",
    "foo: 1h30s\n",
    "foo: 9223372036854775807\n",
    "foo: 9223372036854775808\n",
    "foo: 9223372036854775807k\n",
    "foo: -12\n",
    "foo: -1k\n",
    "foo: -1s\n",
    "foo: -\n",
    "foo: 1.5\n",
    "foo: 1.5s\n",
    "foo: -1.5\n",
    "foo: 1.\n",
    "foo: .5\n",
    "foo: ./a\n",
    "foo: 127.0.0.1:4222\n",
    "foo: 127.0.0.1:a\n",
    "foo: 10-a\n",
    "foo: 2026-01-31T12:00:00Z\n",
    "foo: 2026-13-31T12:00:00Z\n",
    "foo: 2026-01-31\n",
    "foo: yes; foo: Off; foo: TRUE\n",
    "foo: $NOT_SET\n",
    "foo: $A_SIZE\n",
    "foo: $A_BROKEN\n",
    "N: 4222\nport: $N\n",
    "port: $N\nN: 4222\n",
    "a: {N: 1}\nport: $N\n",
    "N: 1\nfoo: {N: 2, b: $N}\n",
    "foo: $2a$11$abc\n",
    "include 'other.conf'\n",
    "include other.conf\n",
    "include \"other.conf\";port: 4222\n",
    "include './other.conf'\nserver_name: $of_other\n",
    "jetstream {include other.jetstream}\n",
    "N: 4222\ninclude needs.conf\n",
    "include 'missing.conf'\n",
    "include {a: 1}\n",
    "include 1.conf\n",
    "include: 1\n",
    "include broken.conf\n",
    "\u{feff}foo: 1\n",
    "foo: é€\u{1F600}\n",
    "",
    "# nothing\n",
];

/// Texts on which we differ, with what the server does, and why.
const DIFFERENCES: &[(&str, bool, &str)] = &[
    ("foo {jetstream }\n", true, "the server takes the key for the name of the map"),
    ("foo: 1kbb\nport: 4222\n", true, "the server drops a setting whose suffix does not exist"),
    ("port: 4222\n\"", true, "the server takes a lone quote at the very end for nothing"),
    ("port: 4222 \u{0}\n", true, "the server takes a zero byte for the end of a line"),
];

on_every_server!(the_reader_takes_what_the_server_takes);
async fn the_reader_takes_what_the_server_takes(version: &'static str) {
    let server = binary(version).await;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("other.conf", "of_other: a\nmax_connections: 10\nserver_tags: [$of_other]\n");
    write("other.jetstream", "max_mem: 1GB\nstore_dir: \"x\"\n");
    write("needs.conf", "port: $N\n");
    write("broken.conf", "port: [\n");
    let mut wrong = Vec::new();
    for (text, theirs) in TEXTS
        .iter()
        .map(|text| (*text, None))
        .chain(DIFFERENCES.iter().map(|(text, good, _)| (*text, Some(*good))))
        .chain([("foo: 2m30s\n", Some(version == "2.15.1"))])
    {
        write("nats-server.conf", text);
        let (good, said) = checked(&server, folder.path());
        // A text without settings is refused, and so is one whose only setting it dropped.
        let good = good || said.contains("unknown field");
        let ours = read(folder.path());
        match theirs {
            Some(expected) if good != expected => wrong.push(format!("{text:?}: {said}")),
            // A suffix behind a suffix is a text from some version on; that is how we read it.
            Some(_) if text.contains("2m30s") && ours.is_err() => wrong.push(format!("{text:?}")),
            None if good != ours.is_ok() => {
                wrong.push(format!("{text:?}: the server says {said}we {ours:?}"));
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{version}: {}", wrong.join("\n"));
    for (text, _, why) in DIFFERENCES {
        write("nats-server.conf", text);
        assert!(read(folder.path()).is_err(), "{text:?} is refused, for {why}");
    }
}

/// Users and accounts on which both must agree; `U` stands for a public NKEY.
const PERMISSIONS: &[&str] = &[
    "authorization {user: a, password: b}",
    "authorization {token: t}",
    "authorization {user: a, password: b, token: t}",
    "authorization {users: [{user: a}]}",
    "authorization {users: [{password: a}]}",
    "authorization {users: [{user: 1, password: b}]}",
    "authorization {users: {user: a, password: b}}",
    "authorization {users: [{nkey: U}]}",
    "authorization {users: [{nkey: U, user: a}]}",
    "authorization {users: [{nkey: nokey}]}",
    "authorization {users: [{user: a, password: b, permissions: {publish: \"a.>\", sub: [b, \"c q\"]}}]}",
    "authorization {users: [{user: a, password: b, permission: {pub: {allow: a, deny: [b]}, subscribe: []}}]}",
    "authorization {users: [{user: a, password: b, authorization: {import: a, export: b}}]}",
    "authorization {users: [{user: a, password: b, permissions: {publish: \"a..b\"}}]}",
    "authorization {users: [{user: a, password: b, permissions: {publish: \"a.>.b\"}}]}",
    "authorization {users: [{user: a, password: b, permissions: {subscribe: \"a b c\"}}]}",
    "authorization {users: [{user: a, password: b, permissions: [a]}]}",
    "authorization {users: [{user: a, password: b, permissions: {publish: 1}}]}",
    "authorization {users: [{user: a, password: b, permissions: {allow_responses: true}}]}",
    "authorization {users: [{user: a, password: b, permissions: {allow_responses: {max: 3, expires: \"1m\"}}}]}",
    "authorization {users: [{user: a, password: b, permissions: {allow_responses: 3}}]}",
    "authorization {default_permissions: {publish: a}, users: [{user: a, password: b}]}",
    "authorization {users: [{user: a, password: b, allowed_connection_types: [STANDARD, \"MQTT\"]}]}",
    "accounts: [A, B]",
    "accounts {A {users: [{user: a, password: b}]}, B {jetstream: enabled}, C {jetstream: {max_mem: 1GB}}}",
    "accounts {A {users: [a]}}",
    "accounts {A {users: [{user: a, password: b}], default_permissions: {subscribe: {deny: \">\"}}}}",
    "accounts {A {exports: [{stream: a}, {service: \"b.*\", accounts: [B]}]}, B {imports: [{stream: {account: A, subject: a}, prefix: p}, {service: {account: A, subject: \"b.c\"}, to: d}]}}",
    "accounts {A {exports: [{nothing: a}]}}",
    "accounts {A {imports: [{stream: {account: B}}]}}",
    "accounts {A {mappings: {a: b, \"c.*\": [{destination: \"d.{{wildcard(1)}}\", weight: 50%}]}}}",
    "mappings {a: b}",
    "jetstream: enabled",
    "jetstream: {enabled: false}",
    "jetstream: maybe",
    "leafnodes {port: 7422, authorization {users: [{user: a, password: b, account: A}]}}\naccounts {A {}}",
    "system_account: SYS\naccounts {SYS {users: [{user: a, password: b}]}}",
];

on_every_server!(the_typed_view_takes_what_the_server_takes);
async fn the_typed_view_takes_what_the_server_takes(version: &'static str) {
    let server = binary(version).await;
    let folder = tempfile::tempdir().unwrap();
    let nkey = nkeys::KeyPair::new_user().public_key();
    let mut wrong = Vec::new();
    for text in PERMISSIONS {
        let text = text.replace("nkey: U", &format!("nkey: {nkey}"));
        std::fs::write(folder.path().join("nats-server.conf"), &text).unwrap();
        let (good, said) = checked(&server, folder.path());
        let problems = Collector::new();
        let _ = Config::of(&read(folder.path()).unwrap(), &problems);
        let problems = problems.finish();
        if good == problems.has_errors() || !(problems.is_empty() || problems.has_errors()) {
            wrong.push(format!("{text}: the server says {said}we {problems}"));
        }
    }
    assert!(wrong.is_empty(), "{version}: {}", wrong.join("\n"));
}

/// Writes an authority, and a server's certificate and key.
pub fn write_certificates(folder: &Path) {
    Authority::new(folder);
}

/// An authority whose certificates a server and its clients have.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new one, with a certificate for the server.
    pub fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "authority of tests");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        let this = Self(issuer);
        // nats.js looks for `localhost` where it was given an address.
        let names = ["127.0.0.1", "localhost"].map(ToOwned::to_owned);
        this.sign(folder, "server", &CertificateParams::new(names).unwrap());
        this
    }

    /// A client's certificate and key, with names such as `CN=cards,OU=services`.
    pub fn client(&self, folder: &Path, file: &str, names: &str) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for name in names.split(',') {
            let (kind, name) = name.split_once('=').unwrap();
            let kind = match kind {
                "CN" => DnType::CommonName,
                "OU" => DnType::OrganizationalUnitName,
                other => panic!("{other}"),
            };
            params.distinguished_name.push(kind, name);
        }
        self.sign(folder, file, &params)
    }

    fn sign(&self, folder: &Path, name: &str, params: &CertificateParams) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let files = [folder.join(format!("{name}.pem")), folder.join(format!("{name}-key.pem"))];
        std::fs::write(&files[0], certificate.pem()).unwrap();
        std::fs::write(&files[1], key.serialize_pem()).unwrap();
        files.into()
    }
}

/// A copy of a folder with its folders.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

on_every_server!(the_server_takes_the_configurations_of_companies);
/// `tests/offline/server_config.rs` has what is read from them.
async fn the_server_takes_the_configurations_of_companies(version: &'static str) {
    let server = binary(version).await;
    let cases = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/adopt/configurations");
    let folder = tempfile::tempdir().unwrap();
    let mut count = 0;
    for case in std::fs::read_dir(cases).unwrap() {
        let case = case.unwrap();
        let copied = folder.path().join(case.file_name());
        copy(&case.path(), &copied);
        write_certificates(&copied);
        let (good, said) = checked(&server, &copied);
        assert!(good, "{version} {}: {said}", copied.display());
        assert!(read(&copied).is_ok());
        count += 1;
    }
    assert!(count >= 10);
}

/// A connection that is open, and the server's INFO.
async fn connect(url: &str, user: &str) -> (BufReader<TcpStream>, Json) {
    let address = url.split_once("://").unwrap().1;
    let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let info = serde_json::from_str(line.strip_prefix("INFO ").unwrap()).unwrap();
    let options = json!({"user": user, "pass": "fake", "verbose": false, "headers": true});
    stream.write_all(format!("CONNECT {options}\r\n").as_bytes()).await.unwrap();
    (stream, info)
}

/// Whether the server takes one line of the protocol.
async fn takes(stream: &mut BufReader<TcpStream>, line: &str) -> bool {
    stream.write_all(format!("{line}\r\nPING\r\n").as_bytes()).await.unwrap();
    let mut refused = false;
    loop {
        let mut said = String::new();
        assert!(stream.read_line(&mut said).await.unwrap() > 0, "closed after {line}");
        refused |= said.starts_with("-ERR");
        if said.starts_with("PONG") {
            return !refused;
        }
    }
}

const RIGHTS: &str = r#"
server_name: "ü\x41"
max_payload: 2MB
A: ["x.*", "$KV.b.>"]
listen: "127.0.0.1:-1"
authorization {
  default_permissions: {publish: "x.a", subscribe: ["x.*", "q.> w.*"]}
  users: [
    {user: u1, password: fake}
    {user: u2, password: fake, permissions: {publish: {allow: $A, deny: ["x.b", "$KV.b.k.>"]}}}
    {user: u3, password: fake, permissions: {publish: [], subscribe: {deny: ["x.>", "q.a w.1"]}}}
    {user: u4, password: fake, permissions: {allow_responses: true, subscribe: "q.a"}}
    {user: u5, password: fake, permissions: {publish: {deny: ">"}, subscribe: []}}
    {user: u6, password: fake, permissions: {sub: {allow: ["x.>", "q.a w.1"], deny: "x.a"}}}
  ]
}
"#;

on_every_server!(rights_are_what_the_server_lets_a_user_do);
/// Each user tries each subject, on the server and by what we read.
async fn rights_are_what_the_server_lets_a_user_do(version: &'static str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nats-server.conf");
    std::fs::write(&file, RIGHTS).unwrap();
    let binary = binary(version).await;
    let server = Server::start(&binary, &file, folder.path()).await.unwrap();
    let tree = read(folder.path()).unwrap();
    let config = Config::of(&tree, &Collector::new());
    let (_, info) = connect(server.client_url(), "u1").await;
    let shown = |name: &str| match &tree.root.get(name).unwrap().value.value {
        Value::String(text) => json!(text),
        Value::Integer(number) => json!(number),
        other => panic!("{other:?}"),
    };
    for name in ["server_name", "max_payload"] {
        assert_eq!(info[name], shown(name), "{version}");
    }

    let mut wrong = BTreeMap::new();
    for user in &config.accounts[0].users {
        let (mut stream, _) = connect(server.client_url(), user.label()).await;
        let rights = rights(user);
        for subject in ["x.a", "x.b", "x.c.d", "$KV.b.k", "$KV.b.k.1", "$KV.c.k", "q.a", "other"] {
            let pattern = Pattern::parse(subject).unwrap();
            let ours = rights.publishes(&pattern).next().is_some();
            let theirs = takes(&mut stream, &format!("PUB {subject} 1\r\nx")).await;
            if ours != theirs {
                wrong.insert(format!("{} publishes {subject}", user.label()), theirs);
            }
            for queue in [None, Some("w.1"), Some("w.2")] {
                let ours = rights.allowed.iter().any(|allowed| {
                    allowed.side == Side::Subscribe && allowed.subscribes(&pattern, queue)
                });
                let line = format!("SUB {subject} {} 1", queue.unwrap_or_default());
                let theirs = takes(&mut stream, &line).await;
                let _ = takes(&mut stream, "UNSUB 1").await;
                if ours != theirs {
                    wrong
                        .insert(format!("{} subscribes {subject} {queue:?}", user.label()), theirs);
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{version}: {wrong:#?}");
}
