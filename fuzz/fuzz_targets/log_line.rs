//! nats-server's log: any bytes are survived, however they are cut, and nothing that a client
//! calls itself, or a subject, makes a line say anything else than who was refused what. A line that
//! quotes a client without quotes is loose, whatever it quotes: so what stands behind a line break
//! in it is doubted before it is read.
#![no_main]

use std::fmt::Write;

use libfuzzer_sys::fuzz_target;
use solewriter_types::server_log::line::{Line, parse};
use solewriter_types::server_log::lines::Lines;

/// As Go's `%q` prints it: what is printable ASCII stands as it is, the rest is escaped.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if u32::from(c) < 0x80 => drop(write!(out, "\\x{:02x}", u32::from(c))),
            c if u32::from(c) < 0x1_0000 => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => drop(write!(out, "\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

fuzz_target!(|bytes: &[u8]| {
    let Some((way, rest)) = bytes.split_first() else { return };
    if way % 2 == 0 {
        let gather = |cut: usize| {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            let (head, tail) = rest.split_at(cut.min(rest.len()));
            for piece in [head, tail] {
                lines.feed(piece, |line| found.push(line.to_vec()));
            }
            lines.end(|line| found.push(line.to_vec()));
            found
        };
        let whole = gather(0);
        assert_eq!(whole, gather(usize::from(*way)));
        for line in whole {
            let _ = parse(&line);
        }
        return;
    }
    let text = String::from_utf8_lossy(rest);
    if way % 4 == 3 {
        for kind in ["lid", "lid_ws"] {
            let entry = format!(
                "[1] 2026/11/28 15:13:32.788321 [INF] 127.0.0.1:45818 - {kind}:6 - Leafnode \
                 connection closed: Client Closed - Remote: {text}\n"
            );
            let (mut lines, mut first) = (Lines::default(), None);
            lines.feed(entry.as_bytes(), |line| {
                if first.is_none() {
                    first = Some(parse(line));
                }
            });
            assert_eq!(first, Some(Line::Loose), "{entry}");
        }
        return;
    }
    let mut words = text.splitn(4, '\n');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (client, user, subject, queue) = (word(), word(), word(), word());
    let head = "[1] 2026/11/23 18:12:25.452348 [ERR] 127.0.0.1:51792 - cid:18";
    let act = if queue.is_empty() {
        format!("Publish Violation - Subject {}", quoted(&subject))
    } else {
        let (subject, queue) = (quoted(&subject), quoted(&queue));
        format!("Subscription Violation - Subject {subject}, Queue: {queue}, SID 1")
    };
    let line =
        format!("{head} - {} - {} - {act}", quoted(&client), quoted(&format!("APP/user:{user}")));
    let Line::Refusal(refusal) = parse(line.as_bytes()) else { panic!("not seen: {line}") };
    assert_eq!(
        (&refusal.subject, refusal.user.as_deref()),
        (&subject, Some(user.as_str())),
        "{line}"
    );
    assert_eq!(refusal.queue.unwrap_or_default(), queue, "{line}");
});
