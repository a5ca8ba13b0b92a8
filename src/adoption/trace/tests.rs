//! What real servers wrote, what clients may not say, and what was damaged.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::adoption::deed::{Act, Client};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/adopt/traces").join(name)
}

fn recorded(version: &str) -> String {
    std::fs::read_to_string(fixture(&format!("{version}.log"))).unwrap()
}

/// What a trace tells, one deed a line, and the counts.
fn told(text: &[u8]) -> (Vec<String>, Counts) {
    let mut trace = Trace::new();
    let source = trace.source();
    let mut deeds = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        trace.line(source, line, |deed| deeds.push(shown(&deed)));
    }
    (deeds, trace.counts())
}

fn shown(deed: &Deed<'_>) -> String {
    let Client { connection, kind, address, account, user, nkey, name, lang } = deed.by;
    let mut who = format!("{address} {}:{connection}", kind.as_str());
    for (what, value) in
        [("account", account), ("user", user), ("nkey", nkey), ("name", name), ("lang", lang)]
    {
        if let Some(value) = value {
            let _ = write!(who, " {what}={value:?}");
        }
    }
    let (verb, subject, other) = match deed.act {
        Act::Publish { subject, reply } => ("publish", subject, reply),
        Act::Subscribe { subject, queue } => ("subscribe", subject, queue),
        Act::Receive { subject, reply } => ("receive", subject, reply),
    };
    let other = other.map(|other| format!(" ({other})")).unwrap_or_default();
    format!("{who}: {verb} {subject}{other}")
}

#[test]
fn what_real_servers_wrote_is_understood() {
    for version in ["2.10.25", "2.15.1"] {
        let (deeds, counts) = told(recorded(version).as_bytes());
        let text = deeds.join("\n") + "\n";
        let path = fixture(&format!("{version}.deeds"));
        if std::env::var_os("UPDATE_TRACES").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{version}");
        // The CONNECT with a quote in its password, which the server redacts only in part; the one
        // with a line break; and a subscription with four words.
        assert_eq!(counts.strange, 3, "{version}: {counts:?}");
        assert_eq!((counts.unknown, counts.without_connect), (0, 0), "{version}");
        for secret in ["PAYLOAD", "HEADERSECRET", "TOKTOK", "hidden", "SIGSIG", "JWTJWT", "lies"] {
            let kept = deeds.iter().any(|deed| deed.contains(secret) && !deed.contains("evil"));
            assert!(!kept, "{version}: {secret}");
        }
    }
}

/// One publish of a line, with what surrounds it in different targets of the log.
#[test]
fn what_stands_before_a_line_does_not_matter() {
    let line = "127.0.0.1:43670 - cid:7 - <<- [PUB events.new _INBOX.a.1 12]";
    let time = "2026/11/29 14:03:34.434562";
    for (before, at) in [
        (format!("[1] {time} [TRC] "), true),
        (format!("[1] {time} [\x1b[33mTRC\x1b[0m] "), true),
        ("[1] [TRC] ".to_owned(), false),
        ("[TRC] ".to_owned(), false),
        (String::new(), false),
        (format!("2026-11-29T14:03:34.1Z stderr F [1] {time} [TRC] "), true),
        (format!("nats-1  | [1] {time} [TRC] "), true),
        ("Nov 29 14:03:34 host nats-server[7]: ".to_owned(), false),
        (format!("Nov 29 14:03:34 host nats-server[7]: [7] {time} [TRC] "), true),
    ] {
        let mut trace = Trace::new();
        let source = trace.source();
        let mut seen = None;
        trace.line(source, format!("{before}{line}\r").as_bytes(), |deed| {
            seen = Some((shown(&deed), deed.at.is_some()));
        });
        let wanted = "127.0.0.1 cid:7: publish events.new (_INBOX.a.1)".to_owned();
        assert_eq!(seen, Some((wanted, at)), "{before}");
        assert_eq!(trace.counts().unknown, 1);
    }
}

#[test]
fn a_connection_is_who_the_server_says() {
    let label = |user: &str| format!(r#"[1] [TRC] h:1 - cid:7 - "v2:py:n" - "APP/{user}" - "#);
    let connect = "[1] [TRC] h:1 - cid:7 - <<- [CONNECT {\"USER\": \"b\", \"name\": \"n\"}]\n";
    for (text, expected) in [
        (
            format!("{connect}[1] [TRC] h:1 - cid:7 - <<- [PUB a 1]"),
            "h cid:7 user=\"b\" name=\"n\"",
        ),
        (
            format!("{}<<- [PUB a 1]", label("user:orders")),
            "h cid:7 account=\"APP\" user=\"orders\" name=\"n\" lang=\"py\"",
        ),
        // What the server says of it counts for more than what it said itself.
        (
            format!("{connect}{}<<- [PUB a 1]", label("user:orders")),
            "h cid:7 account=\"APP\" user=\"orders\" name=\"n\"",
        ),
        (
            format!("{}<<- [PUB a 1]", label("nkey:UABC")),
            "h cid:7 account=\"APP\" nkey=\"UABC\" name=\"n\" lang=\"py\"",
        ),
        (
            format!("{}<<- [PUB a 1]", label("token:secret")),
            "h cid:7 account=\"APP\" name=\"n\" lang=\"py\"",
        ),
        // Go takes the last one, and a long s for an s.
        (
            "[1] [TRC] h:1 - cid:7 - <<- [CONNECT {\"user\": \"a\", \"u\u{17f}er\": \"c\"}]\n[1] \
             [TRC] h:1 - cid:7 - <<- [PUB a 1]"
                .to_owned(),
            "h cid:7 user=\"c\"",
        ),
        // As 2.15.1 redacts what async-nats sends.
        (
            r#"[1] [TRC] h:1 - cid:7 - <<- [CONNECT {"verbose":false,"jwt":null,"nkey":[REDACTED],"sig":[REDACTED],"name":"a[REDACTED]\"","lang":"rust","user":"old","pass":"[REDACTED]","auth_token":[REDACTED],"headers":true}]
[1] [TRC] h:1 - cid:7 - <<- [PUB a 1]"#
                .to_owned(),
            "h cid:7 user=\"old\" name=\"a[REDACTED]\\\"\" lang=\"rust\"",
        ),
        // Another connection of the same number, after a restart.
        (format!("{connect}[1] [TRC] h:2 - cid:7 - <<- [PUB a 1]"), "h cid:7"),
        // A CONNECT that is cut says nothing, and what was said before it is over.
        (
            format!(
                "{connect}[1] [TRC] h:1 - cid:7 - <<- [CONNECT {{\"user\": \"x]\n[1] [TRC] h:1 - \
                 cid:7 - <<- [PUB a 1]"
            ),
            "h cid:7",
        ),
    ] {
        let (deeds, _) = told(text.as_bytes());
        assert_eq!(deeds, [format!("{expected}: publish a")], "{text}");
    }
}

#[test]
fn nobody_says_a_line_of_another() {
    let line = |said: &str| format!("[1] [TRC] h:1 - cid:7 - {said}");
    for (text, strange) in [
        // A payload that is quoted, and one that is not as any server writes it.
        (line(r#"<<- MSG_PAYLOAD: ["\n[1] [TRC] h:1 - cid:8 - <<- [PUB lies 1]"]"#), 0),
        (line("<<- [PUB a] - <<- [PUB lies 1]"), 1),
        (line("<<- [PUB a\u{7} 1]"), 1),
        (line("<<- [PUB a 1"), 1),
        (line("<<- [PUB a x]"), 1),
        (line("<<- [NEW a 1]"), 1),
        (line("->> [PUB a 1]"), 1),
        (line(r#""n - <<- [PUB lies 1]"#), 1),
        ("[1] [ERR] h:1 - cid:7 - processSub Parse Error: \"a] - <<- [PUB lies 1\"".to_owned(), 0),
        ("{\"log\":\"[1] [TRC] h:1 - cid:7 - <<- [PUB lies 1]\\n\"}".to_owned(), 1),
        ("[1] [TRC] JETSTREAM - <<- [SUB $JSC.CI.OLD.KV_orders.x  59]".to_owned(), 0),
        ("[1] [TRC] h:1 - rid:7 - <<- [RMSG APP lies 1]".to_owned(), 0),
    ] {
        let (deeds, counts) = told(text.as_bytes());
        assert!(deeds.is_empty(), "{text}: {deeds:?}");
        assert_eq!(counts.strange, strange, "{text}");
    }
}

#[test]
fn what_follows_the_words_of_an_mqtt_client_is_not_believed() {
    let publish = "[1] [TRC] h:1 - cid:7 - <<- [PUB a 1]\n";
    let mqtt = "[1] [TRC] h:1 - mid:9 - <<- [PUBLISH a\n";
    let (deeds, counts) = told(format!("{publish}{mqtt}{publish}").as_bytes());
    assert_eq!((deeds.len(), counts.doubted), (1, 1));
    let other = "x".repeat(1000) + "\n";
    let far = other.repeat(usize::try_from(DOUBTED).unwrap() / 1000 + 1);
    let (deeds, _) = told(format!("{mqtt}{far}{publish}").as_bytes());
    assert_eq!(deeds.len(), 1);
}

#[test]
fn connections_cost_bounded_memory() {
    let mut trace = Trace::new();
    let source = trace.source();
    for number in 0..MAX_CONNECTIONS + 1000 {
        let line = format!("[1] [TRC] h:{number} - cid:{number} - <<- [PUB a 1]");
        trace.line(source, line.as_bytes(), |_| ());
    }
    assert!(trace.clients.len() <= MAX_CONNECTIONS);
    let forgotten = trace.counts().forgotten;
    assert!(forgotten >= MAX_CONNECTIONS as u64 / 8, "{forgotten}");
    // After a start, nobody who is there is missed.
    trace.line(source, b"[1] 2026/11/29 14:03:33.692236 [INF] Starting nats-server", |_| ());
    for number in 0..MAX_CONNECTIONS {
        let line = format!("[1] [TRC] i:{number} - cid:{number} - <<- [PUB a 1]");
        trace.line(source, line.as_bytes(), |_| ());
    }
    assert_eq!(trace.counts().forgotten, forgotten);
}

proptest! {
    /// Whatever bytes are read, nothing breaks.
    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = told(&bytes);
        let mut line = b"[1] 2026/11/29 14:03:34.434562 [TRC] 127.0.0.1:43670 - cid:7 - ".to_vec();
        line.extend(&bytes);
        let _ = told(&line);
    }

    /// A real trace that is cut and changed in places breaks nothing; and what stood in a payload is
    /// never a subject.
    #[test]
    fn a_damaged_trace_gives_nothing_of_a_payload(
        newer in any::<bool>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8, any::<u8>()), 0..40),
    ) {
        let text = recorded(if newer { "2.15.1" } else { "2.10.25" });
        // As with `max_traced_msg_len` unset: a payload as a whole, which says what it likes.
        let payload = r#"MSG_PAYLOAD: ["SECRET [PUB SECRET 1]\n[1] [TRC] h:1 - cid:7 - <<- [PUB SECRET 1]"#;
        let mut text = text.replace("MSG_PAYLOAD: [\"", payload).into_bytes();
        let payloads = |text: &[u8]| {
            let lines = text.split(|byte| *byte == b'\n');
            lines.filter(|line| memchr::memmem::find(line, b"SECRET").is_some()).count()
        };
        let before = payloads(&text);
        prop_assert!(before > 10);
        for (at, how, byte) in damage {
            let at = at.index(text.len());
            match how {
                0 => text[at] = byte,
                1 => drop(text.remove(at)),
                2 => text.insert(at, byte),
                _ => {
                    // The end of one file, and the beginning of another.
                    let end = (at + usize::from(byte)).min(text.len());
                    drop(text.drain(at..end));
                }
            }
        }
        let (deeds, _) = told(&text);
        for deed in deeds {
            prop_assert!(!deed.contains("SECRET"), "{deed}");
        }
    }
}
