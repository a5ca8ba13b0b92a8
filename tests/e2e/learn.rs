//! `solewriter learn` asks the monitoring port of a server that runs today.

use std::path::Path;
use std::process::Stdio;

use async_nats::ConnectOptions;
use async_nats::jetstream::{self, kv};
use solewriter_sandbox::Server;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::deployment::{binary, eventually};

/// Exit code, answer, and what was said besides.
async fn learn(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_solewriter"));
    let ran = command.arg("learn").args(arguments).stdin(Stdio::null()).output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&ran.stdout), text(&ran.stderr));
    assert!(!out.contains("fake") && !err.contains("fake"), "{out}{err}");
    (ran.status.code(), out, err)
}

async fn server(version: &'static str, folder: &Path, users: &str) -> Server {
    let file = folder.join("nats-server.conf");
    let text = format!(
        "listen: \"127.0.0.1:-1\"\nhttp: \"127.0.0.1:-1\"\njetstream {{ store_dir: \"data\" }}\n{users}\n"
    );
    std::fs::write(&file, text).unwrap();
    Server::start(&binary(version).await, &file, folder).await.unwrap()
}

on_every_server!(a_server_tells_who_is_connected);
async fn a_server_tells_who_is_connected(version: &'static str) {
    let folder = tempfile::tempdir().unwrap();
    let users = "authorization { users: [ { user: orders, password: fake-a }, { user: billing, \
                 password: fake-b } ] }";
    let server = server(version, folder.path(), users).await;
    let connect = async |user: &str, password: &str| {
        let options = ConnectOptions::with_user_and_password(user.into(), password.into());
        options.name(format!("{user}-1")).connect(server.client_url()).await.unwrap()
    };
    let (orders, billing) = (connect("orders", "fake-a").await, connect("billing", "fake-b").await);
    let config = kv::Config { bucket: "orders".into(), ..kv::Config::default() };
    jetstream::new(orders.clone()).create_key_value(config).await.unwrap();
    let _jobs = billing.queue_subscribe("jobs.>", "workers".into()).await.unwrap();
    // More than a page of connections, each of which is listened to by its own.
    let mut many = Vec::new();
    for number in 0..300 {
        let client = connect("billing", "fake-b").await;
        many.push((client.subscribe(format!("many.{number}")).await.unwrap(), client));
    }
    let monitor = server.ports().monitoring.first().unwrap().clone();
    let out = folder.path().join("policy");
    let report = eventually("all that is connected", async || {
        let (code, report, err) =
            learn(&["--monitor", &monitor, "--out", out.to_str().unwrap(), "--replace"]).await;
        assert_eq!(code, Some(0), "{report}{err}");
        let draft = std::fs::read_to_string(out.join("services.toml")).unwrap();
        let whole = err.contains("302 connections now") && draft.contains("many.*");
        whole.then_some(report)
    })
    .await;
    assert!(report.contains("Connected now:\n  rust "), "{report}");
    assert!(report.contains(": 302 connections, of billing, orders\n"), "{report}");
    let draft = std::fs::read_to_string(out.join("services.toml")).unwrap();
    assert!(
        draft.contains("jobs.>") && draft.contains("connected now, by billing, queue workers"),
        "{draft}"
    );
    let buckets = std::fs::read_to_string(out.join("buckets.toml")).unwrap();
    assert!(buckets.contains("[bucket.orders]"), "{buckets}");
}

on_every_server!(a_token_is_not_told);
async fn a_token_is_not_told(version: &'static str) {
    let folder = tempfile::tempdir().unwrap();
    let server = server(version, folder.path(), "authorization { token: \"fake-token\" }").await;
    let options = ConnectOptions::with_token("fake-token".into()).name("till-7");
    let client = options.connect(server.client_url()).await.unwrap();
    let _till = client.subscribe("till.7").await.unwrap();
    let map = folder.path().join("clients.toml");
    std::fs::write(&map, "[[client]]\nname = \"till-*\"\nservice = \"till\"\n").unwrap();
    let monitor = server.ports().monitoring.first().unwrap().clone();
    eventually("what is connected", async || {
        let (code, report, err) =
            learn(&["--monitor", &monitor, "--map", map.to_str().unwrap(), "--json"]).await;
        assert_eq!(code, Some(0), "{report}{err}");
        (report.contains("till") && err.contains("1 connection now")).then_some(())
    })
    .await;
}

/// Answers every question with this.
async fn liar(answer: Vec<u8>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut question = [0; 4096];
                let _ = stream.read(&mut question).await;
                let _ = stream.write_all(&answer).await;
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lies_or_is_silent_is_named() {
    let said = |body: &str| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        (head + body).into_bytes()
    };
    let many: Vec<_> = (0..300).map(|n| format!("{{\"cid\":{n}}}")).collect();
    let many = format!(
        "{{\"server_id\":\"N\",\"account_details\":[],\"connections\":[{}]}}",
        many.join(",")
    );
    let endless: Vec<_> = (0..256).map(|n| format!("{{\"cid\":{n}}}")).collect();
    let endless = format!(
        "{{\"server_id\":\"N\",\"account_details\":[],\"connections\":[{}]}}",
        endless.join(",")
    );
    for (answer, wanted) in [
        (said("<html>"), "it is not what a server tells at /jsz"),
        (said("{\"account_details\":[]}"), "it is not what a server tells at /connz"),
        (said(&many), "it gives more than were asked for"),
        (said(&endless), "it has no end"),
        (b"HTTP/1.1 401 no\r\nContent-Length: 0\r\n\r\n".to_vec(), "it answers 401"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{".to_vec(), ""),
        (b"SSH-2.0\r\n".to_vec(), ""),
    ] {
        let url = liar(answer).await;
        let (code, out, err) = learn(&["--monitor", &url]).await;
        assert_eq!(code, Some(2), "{wanted}: {out}{err}");
        assert!(err.contains(&url) && err.contains(wanted), "{wanted}: {err}");
    }
    let (code, _, err) = learn(&["--monitor", "http://127.0.0.1:1"]).await;
    assert!(code == Some(2) && err.contains("http://127.0.0.1:1: "), "{err}");
}
