//! Whoever reaches the HTTP listener, and whoever can put text into metrics.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::deployment::Deployment;
use super::raw::Raw;

const POLICY: &str = r#"
[service."plain"]
nkeys = ["{plain}"]
publishes = ["events.plain"]
"#;

/// What no client sends.
fn malformed() -> Vec<Vec<u8>> {
    let get = |path: &str, headers: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}Connection: close\r\n\r\n").into_bytes()
    };
    let long = "a".repeat(1 << 20);
    let many: String = (0..5000).map(|n| format!("X-{n}: y\r\n")).collect();
    vec![
        b"\r\n\r\n\r\n".to_vec(),
        vec![0; 4096],
        (0..=255).cycle().take(65536).collect(),
        b"GET /metrics\r\n\r\n".to_vec(),
        b"GET /metrics HTTP/9.9\r\n\r\n".to_vec(),
        b"GET  /metrics HTTP/1.1\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00".to_vec(),
        get(&format!("/{long}"), ""),
        get("/metrics", &format!("X: {long}\r\n")),
        get("/metrics", &many),
        get("/metrics", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        get("/metrics", "Content-Length: -1\r\n"),
        get("/metrics", "Content-Length: 99999999999999999999\r\n"),
        get("/metrics", "X : y\r\n"),
        get("/metrics", "X: \0\r\n"),
        get("/%2e%2e/%2e%2e/etc/passwd", ""),
        get("/../../etc/passwd", ""),
        get("http://other/metrics", ""),
        get("*", ""),
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nConnection: close\r\n\r\nabcd"
            .to_vec(),
        b"DELETE /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(),
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"
            .to_vec(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_client_sends_is_refused_and_harms_nobody() {
    let _room = crate::room::some_room().await;
    let mut deployment = Deployment::start("2.15.1", POLICY).await;
    let address = deployment.instances[0].says("http").await["address"].clone();
    let address = address.as_str().unwrap().to_owned();
    for bytes in malformed() {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let mut stream = TcpStream::connect(&address).await.unwrap();
        // It may be closed before all of it is sent.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let read = timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "neither answered nor closed: {shown:?}");
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).unwrap_or("closed");
        assert!(!status.starts_with('5'), "{shown:?}: {answer}");
        assert!(answer.len() < 200_000 && !answer.contains("root:"), "{shown:?}");
    }
    assert_eq!(deployment.instances[0].get("/livez").await, (200, "alive\n".to_owned()));
    Raw::login(&deployment, &deployment.service("plain")).await;
}

/// Label values are words of ours: whatever a client says of itself is in none of them.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_writes_into_metrics() {
    let _room = crate::room::some_room().await;
    let mut deployment = Deployment::start("2.15.1", POLICY).await;
    let hostile = "x\"} 1\nforged_total{a=\"b\"} 7\n# EOF\u{1b}[31m";
    for options in [
        json!({"user": hostile, "pass": hostile, "name": hostile}),
        json!({"auth_token": hostile, "lang": hostile, "version": hostile}),
        json!({"nkey": hostile, "sig": hostile}),
        json!({"jwt": hostile, "sig": hostile, "name": hostile}),
    ] {
        let mut raw = Raw::dial(deployment.url()).await;
        raw.enter(&options).await.unwrap_err();
    }
    let service = deployment.service("plain");
    let mut raw = Raw::dial(deployment.url()).await;
    let mut proof = raw.proof(&service.seed);
    proof["name"] = json!(hostile);
    raw.enter(&proof).await.unwrap();
    deployment.instances[0].says_times("authorisation", 5).await;
    let (status, text) = deployment.instances[0].get("/metrics").await;
    assert_eq!(status, 200);
    assert!(text.contains("reason=\"other_credential\"") && text.ends_with("# EOF\n"), "{text}");
    assert!(!text.contains("forged") && !text.contains('\u{1b}'), "{text}");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for line in &lines {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let plain = |c: char| c.is_ascii_alphanumeric() || "_{}=\",.+-".contains(c);
        assert!(name.len() < 200 && name.chars().all(plain), "{line}");
    }
    assert!(lines.len() < 1000, "{}", lines.len());
}
