//! Lines as real servers wrote them, and lines that clients would like to have written.

use super::*;

fn refusal(line: &str) -> Refusal {
    match parse(line.as_bytes()) {
        Line::Refusal(refusal) => *refusal,
        other => panic!("{line}: {other:?}"),
    }
}

/// Act, user, subject, queue group.
fn told(line: &str) -> (Act, Option<String>, String, Option<String>) {
    let Refusal { act, user, subject, queue, .. } = refusal(line);
    (act, user, subject, queue)
}

#[allow(clippy::unnecessary_wraps)]
fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

const EVIL: &str = "evil/UCRA/0123";

#[test]
fn reads_the_lines_of_old_servers() {
    let head = "[7] 2026/11/23 23:31:41.688007 [ERR] 127.0.0.1:37510 - cid:6 - ";
    for (tail, act, subject, queue) in [
        (
            r#"Publish Violation - User "evil/UCRA/0123", Subject "$KV.orders.a""#,
            Act::Publish,
            "$KV.orders.a",
            None,
        ),
        (
            r#"Publish Violation - User "evil/UCRA/0123", Reply "$JS.ACK.\"q""#,
            Act::Reply,
            "$JS.ACK.\"q",
            None,
        ),
        (
            r#"Subscription Violation - User "evil/UCRA/0123", Subject "foo", SID 1"#,
            Act::Subscribe,
            "foo",
            None,
        ),
        (
            r#"Subscription Violation - User "evil/UCRA/0123", Subject "foo\"bar", Queue: "q\"q", SID 2"#,
            Act::Subscribe,
            "foo\"bar",
            some("q\"q"),
        ),
        (
            r#"Subscription Violation - User "evil/UCRA/0123", Subject "", SID "#,
            Act::Subscribe,
            "",
            None,
        ),
        (
            r#"Subscription Violation - User "evil/UCRA/0123", Subject "a", SID si"d"#,
            Act::Subscribe,
            "a",
            None,
        ),
    ] {
        let line = format!("{head}{tail}");
        assert_eq!(told(&line), (act, some(EVIL), subject.to_owned(), queue), "{line}");
    }
    let whole = refusal(&format!("{head}Publish Violation - User \"u\", Subject \"s\""));
    assert_eq!(whole.at.unwrap().to_string(), "2026-11-23T23:31:41.688007");
    assert_eq!((whole.connection, whole.kind), (6, Kind::Cid));
    assert_eq!(whole.address, "127.0.0.1:37510");
    assert_eq!((whole.client, whole.account), (None, None));
}

#[test]
fn reads_the_lines_of_new_servers() {
    let head = "[7] 2026/11/23 23:31:43.321014 [ERR] 127.0.0.1:58610 - cid:6 - ";
    for (tail, client) in [
        (r#""APP/user:evil/UCRA/0123" - Publish Violation - Subject "s""#, None),
        (
            r#""v2:python3:x" - "APP/user:evil/UCRA/0123" - Publish Violation - Subject "s""#,
            some("v2:python3:x"),
        ),
        // In operator mode, with the account's key before its name.
        (
            r#""ACPOWZEQGKXQHN6QTYENVFFIUBEKRTC6V3WZMS62PTXM5QT7THPX2UBO/APP/user:evil/UCRA/0123" - Publish Violation - Subject "s""#,
            None,
        ),
    ] {
        let whole = refusal(&format!("{head}{tail}"));
        assert_eq!((&whole.user, &whole.client), (&some(EVIL), &client));
        assert_eq!((whole.account, whole.subject), (some("APP"), "s".to_owned()));
    }
}

#[test]
fn reads_other_connections_and_log_settings() {
    for (line, kind, address) in [
        (
            r#"[1] [ERR] 10.1.2.3/127.0.0.1:5 - wid:26 - Publish Violation - User "u", Subject "n""#,
            "wid",
            "10.1.2.3/127.0.0.1:5",
        ),
        (
            r#"127.0.0.1:5 - cid:26 - Publish Violation - User "u", Subject "n""#,
            "cid",
            "127.0.0.1:5",
        ),
        (r#"[ERR] ::1:5 - lid_ws:2 - Publish Violation - User "u", Subject "n""#, "lid", "::1:5"),
        (
            r#"[1] 2026/11/23 23:31:43 [ERR] 1.1.1.1:5 - cid:2 - Publish Violation - User "u", Subject "n""#,
            "cid",
            "1.1.1.1:5",
        ),
        (
            "[1] 2026/11/23 23:31:43.000001 [\u{1b}[31mERR\u{1b}[0m] h:5 - cid:2 - \"A/user:u\" - Publish Violation - Subject \"n\"",
            "cid",
            "h:5",
        ),
        (
            r#"2026-11-23T18:12:21.123456789Z stderr F [1] 2026/11/23 18:12:21.1 [ERR] h:5 - cid:2 - "A/user:u" - Publish Violation - Subject "n""#,
            "cid",
            "h:5",
        ),
        (
            r#"Nov 23 18:12:21 host nats-server[9]: h:5 - cid:2 - "A/user:u" - Publish Violation - Subject "n""#,
            "cid",
            "h:5",
        ),
        (
            r#"Nov 23 18:12:21 host nats-server[9]: [9] 2026/11/23 18:12:21.1 [ERR] h:5 - cid:2 - "A/user:u" - Publish Violation - Subject "n""#,
            "cid",
            "h:5",
        ),
    ] {
        let whole = refusal(line);
        assert_eq!((whole.kind.as_str(), whole.address.as_str()), (kind, address), "{line}");
        assert_eq!((whole.user, whole.subject), (some("u"), "n".to_owned()), "{line}");
        let with_return = refusal(&format!("{line}\r"));
        assert_eq!(with_return.subject, "n");
    }
}

#[test]
fn an_account_without_a_name_is_its_key() {
    let key = "ACPOWZEQGKXQHN6QTYENVFFIUBEKRTC6V3WZMS62PTXM5QT7THPX2UBO";
    let head = "[7] 2026/11/23 23:31:43.321014 [ERR] 127.0.0.1:58610 - cid:6 - ";
    let whole =
        refusal(&format!(r#"{head}"{key}/user:evil/UCRA/0123" - Publish Violation - Subject "s""#));
    assert_eq!((whole.account, whole.user), (some(key), some(EVIL)));
}

/// A client names itself, its subjects and its queues. It gets no further than its own line.
#[test]
fn a_client_cannot_put_words_into_the_servers_mouth() {
    let victim = r#"\" - \"APP/user:victim/UX/9\" - Publish Violation - Subject \"$KV.o.a\""#;
    let head = "[1] 2026/11/23 23:31:43.322702 [ERR] 127.0.0.1:58642 - cid:9 - ";
    let tail = r#""APP/user:evil/UCRA/0123" - Publish Violation - Subject "s""#;
    let line = format!("{head}\"v1{victim}\" - {tail}");
    assert_eq!(told(&line), (Act::Publish, some(EVIL), "s".to_owned(), None));
    assert!(refusal(&line).client.unwrap().contains("victim"));

    // An unquoted number of a subscription, with everything that it may hold.
    let line = format!(
        r#"{head}"APP/user:{EVIL}" - Subscription Violation - Subject "a", SID "-"APP/user:victim"-PublishViolation-Subject"x""#
    );
    assert_eq!(told(&line), (Act::Subscribe, some(EVIL), "a".to_owned(), None));

    // An MQTT client chooses its identifier; from 2.12 on it is all that the line says.
    let line = format!(
        r#"{}"APP/user:victim/UX/9" - Publish Violation - Subject "s""#,
        head.replace("cid", "mid")
    );
    let whole = refusal(&line);
    assert_eq!((whole.user, whole.account), (None, None));
    assert_eq!(whole.client, some("APP/user:victim/UX/9"));

    for line in [
        // Other levels repeat what clients send.
        r#"[1] 2026/11/23 23:31:43.3 [TRC] h:1 - cid:9 - "APP/user:victim/UX/9" - Publish Violation - Subject "s""#,
        r#"[1] 2026/11/23 23:31:43.3 [TRC] h:1 - cid:9 - <<- [PUB [ERR] h:1 - cid:9 - Publish Violation - User "v", Subject "x"]"#,
        r#"[1] 2026/11/23 23:31:43.3 [TRC] h:1 - cid:9 - <<- [SUB a: h:1 - cid:9 - Publish Violation - User "v", Subject "x""#,
        // Words inside another message.
        r#"[1] 2026/11/23 23:31:43.3 [ERR] h:1 - cid:9 - authentication error - User "a\" - Publish Violation - Subject \"x""#,
        r#"[1] 2026/11/23 23:31:43.3 [ERR] h:1 - cid:9 - invalid topic "x: h:1 - cid:9 - Publish Violation - User \"v\", Subject \"x\"""#,
        // More than the server would write.
        r#"h:1 - cid:9 - "a" - "b" - Publish Violation - Subject "x" trailing"#,
        r#"h:1 - cid:9 - "A/user:a" - Publish Violation - User "b", Subject "x""#,
    ] {
        assert!(!matches!(parse(line.as_bytes()), Line::Refusal(_)), "{line}");
    }
}

#[test]
fn what_is_no_violation_is_passed_over_and_a_new_format_is_not() {
    for line in [
        "[1] 2026/11/23 23:31:41.672735 [INF] Server is ready",
        r#"[1] [ERR] 127.0.0.1:56166 - cid:27 - authentication error - Nkey """#,
        "\u{0}\u{0}\u{0}",
        " Violation - ",
    ] {
        assert_eq!(parse(line.as_bytes()), Line::Other, "{line}");
    }
    let strange = "[1] [ERR] h:1 - cid:9 - Publish Violation - Something else";
    assert_eq!(parse(strange.as_bytes()), Line::Strange);
    let named = "[23823] 2026/11/23 23:31:41.672735 [INF]   Name:            nats-1";
    assert_eq!(parse(named.as_bytes()), Line::ServerName("nats-1".to_owned()));
    let forged = r#"[1] [ERR] h:1 - cid:9 - "[INF]   Name: victim""#;
    assert_eq!(parse(forged.as_bytes()), Line::Other);
}

/// Lines in which a client's words stand unquoted, as real servers wrote them, and one of each
/// kind of connection that may write such.
#[test]
fn what_may_hold_words_as_they_were_sent_is_loose() {
    for line in [
        "",
        "[7] 2026/11/28 15:13:32.788321 [INF] 127.0.0.1:45818 - lid:6 - Leafnode connection closed: Client Closed - Remote: name",
        "127.0.0.1:45818 - lid_ws:6 - Leafnode connection closed: Client Closed - Remote: name",
        "Nov 28 15:13:32 host nats-server[9]: h:5 - lid:6 - Leafnode connection closed: Read Error - Remote: a - Publish Violation - b",
        "[7] 2026/11/28 16:12:53.625410 [TRC] 127.0.0.1:35760 - mid:6 - \"a\\nb\" - <<- [CONNECT clientID=a",
        // Of a stranger, who is refused a moment later.
        "[7] 2026/11/28 16:12:51.865632 [TRC] 127.0.0.1:38652 - mid:7 - \"plain\" - <<- [CONNECT clientID=plain keepAlive=1m30s clean username=bad",
        "[7] 2026/11/28 15:13:32.788321 [INF] 127.0.0.1:4 - rid:6 - Router connection closed: x",
    ] {
        assert_eq!(parse(line.as_bytes()), Line::Loose, "{line}");
    }
    for line in [
        // A stranger cannot have the log doubted: its words are behind a quote.
        "[7] 2026/11/28 15:13:39.411200 [ERR] 127.0.0.1:5 - cid:26 - authentication error - User \"h - lid:3 - x\"",
        "[7] 2026/11/28 15:13:39.411200 [INF] 127.0.0.1:5 - cid:26 - Client connection closed - lid:3",
    ] {
        assert_eq!(parse(line.as_bytes()), Line::Other, "{line}");
    }
    let quoted = r#"[1] [ERR] h:1 - mid:9 - "lid:3" - Publish Violation - Subject "s""#;
    assert_eq!(refusal(quoted).kind, Kind::Mid);
}

/// A client may send whatever it likes as its key where nobody looks at it (a user with a password,
/// on a server without nkey users): it is no name that solewriter gave.
#[test]
fn a_key_that_was_sent_is_no_name() {
    let sent = "victim/UX/0123456789ab";
    for line in [
        format!(r#"[1] [ERR] h:1 - cid:9 - "APP/nkey:{sent}" - Publish Violation - Subject "s""#),
        format!(r#"[1] [ERR] h:1 - cid:9 - Publish Violation - Nkey "{sent}", Subject "s""#),
    ] {
        assert_eq!(refusal(&line).user, Some(format!("nkey:{sent}")), "{line}");
    }
}

proptest::proptest! {
    #[test]
    fn nothing_is_too_strange(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = parse(&bytes);
    }

    /// Cut or changed anywhere, a line is read without harm, and never names another user.
    #[test]
    fn a_damaged_line_does_no_harm(cut in 0usize..160, byte in proptest::num::u8::ANY) {
        let line = r#"[7] 2026/11/23 23:31:43.321014 [ERR] 127.0.0.1:5 - cid:6 - "v2:py:x" - "APP/user:evil/UCRA/0123" - Subscription Violation - Subject "s", Queue: "q", SID 1"#;
        let mut bytes = line.as_bytes().to_vec();
        let _ = parse(&bytes[..cut.min(bytes.len())]);
        let at = cut % bytes.len();
        bytes[at] = byte;
        let _ = parse(&bytes);
    }
}
