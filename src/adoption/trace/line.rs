//! One line of nats-server's trace: who, when, and what. Nothing is copied.
//!
//! ```text
//! [1] 2026/11/29 14:03:34.434562 [TRC] 127.0.0.1:43670 - cid:7 - <<- [CONNECT {"user": "old"}]
//! [1] 2026/11/29 14:03:34.434562 [TRC] 127.0.0.1:43670 - cid:7 - <<- [PUB events.new _INBOX.x.1 2]
//! [1] 2026/11/29 14:03:34.434562 [TRC] 127.0.0.1:43670 - cid:7 - "v2:py:n" - "APP/user:u" - ->> [MSG a 1 2]
//! ```
//!
//! The second form is of 2.12 and later. Process, time and level are there or not, as for the
//! server's other lines; before all that may stand what syslog or a container runtime puts there.
//!
//! A line is read from its beginning, by the whole of its grammar, so that a client cannot say
//! another line within its own: a subject has no space and no line break, CONNECT is one line of
//! JSON, and names are quoted. A payload is quoted, too, and is not looked at.

use jiff::civil::DateTime;
use memchr::memmem::find;
use solewriter_types::server_log::line::Kind;
use solewriter_types::server_log::rest::Rest;

use crate::adoption::deed::Act;

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// The server tells what passed between it and a client.
    Traced(Traced<'a>),
    /// A server of this process started: its connections begin anew.
    Started(u64),
    /// A client's words may stand in it as they were sent, line breaks and all.
    Loose,
    /// It has the marks of a trace, and is not understood: cut, or of a client that says what no
    /// subject may hold.
    Strange,
    /// None of our business.
    Other,
}

/// A line about one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traced<'a> {
    /// The server's process, or 0.
    pub process: u64,
    /// When.
    pub at: Option<DateTime>,
    /// Address and port.
    pub address: &'a [u8],
    pub kind: Kind,
    pub connection: u64,
    /// What the server puts into quotes about the client, from the first quote on (2.12 on).
    pub labels: &'a [u8],
    pub said: Said<'a>,
}

/// What passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// The JSON of a CONNECT.
    Connect(&'a [u8]),
    /// Something that the client did.
    Did(Act<'a>),
    /// The connection is not let in, or is closed.
    Closed,
    /// A payload, a ping, the end of a subscription.
    Nothing,
}

/// Reads one line, without its line break.
pub(super) fn parse(line: &[u8]) -> Line<'_> {
    let line = line.trim_ascii_end();
    let mut rest = Rest(line);
    let head = Head::read(&mut rest).or_else(|| {
        // What does not begin as the server's own line may have something before it.
        rest = Rest(line);
        envelope(&mut rest)?;
        Head::read(&mut rest)
    });
    match head {
        Some(head) => judge(head, rest),
        None if has_marks(line) => Line::Strange,
        None => Line::Other,
    }
}

fn judge(head: Head, mut rest: Rest<'_>) -> Line<'_> {
    let is_trace = match head.level {
        Level::Trace | Level::None => true,
        Level::Debug | Level::Other => false,
    };
    if !is_trace && rest.0.starts_with(b"Starting nats-server") {
        return Line::Started(head.process);
    }
    let text = rest.0;
    let Some((address, label, connection)) = label(&mut rest) else {
        // JETSTREAM, ACCOUNT and SYSTEM are the server itself.
        let own = [&b"JETSTREAM - "[..], b"ACCOUNT - ", b"SYSTEM - "];
        return match head.level {
            Level::Trace if !own.iter().any(|own| text.starts_with(own)) => Line::Strange,
            Level::None if has_marks(text) => Line::Strange,
            _ => Line::Other,
        };
    };
    let kind = match label {
        b"cid" => Kind::Cid,
        b"wid" => Kind::Wid,
        // Topics stand there as they were sent.
        b"mid" | b"mid_ws" => return Line::Loose,
        // What servers say to each other is one protocol line, and no client's. Names of theirs
        // stand unquoted in lines that are no trace.
        _ if is_trace => return Line::Other,
        _ => return Line::Loose,
    };
    let traced = |labels, said| {
        let Head { process, at, .. } = head;
        Line::Traced(Traced { process, at, address, kind, connection, labels, said })
    };
    let Some(labels) = labels(&mut rest) else {
        return if is_trace { Line::Strange } else { Line::Other };
    };
    if head.level == Level::Debug && rest.0.starts_with(b"Client connection closed") {
        return traced(labels, Said::Closed);
    }
    if !is_trace {
        return Line::Other;
    }
    match said(rest.0) {
        Some(Some(said)) => traced(labels, said),
        // Without a level: what is no trace has none of its arrows.
        None if head.level == Level::None => Line::Other,
        Some(None) | None => Line::Strange,
    }
}

/// What passed; the outer `None` is no trace, the inner one is not understood.
#[allow(clippy::option_option)]
fn said(rest: &[u8]) -> Option<Option<Said<'_>>> {
    let (from_client, rest) = match rest.split_at_checked(4)? {
        (b"<<- ", rest) => (true, rest),
        (b"->> " | b"<-> ", rest) => (false, rest),
        _ => return None,
    };
    if rest.starts_with(b"MSG_PAYLOAD: ") {
        return Some(Some(Said::Nothing));
    }
    Some(operation(from_client, rest))
}

/// `[PUB events.new _INBOX.x 5]`
fn operation(from_client: bool, rest: &[u8]) -> Option<Said<'_>> {
    let inside = rest.strip_prefix(b"[")?.strip_suffix(b"]")?;
    let end = inside.iter().position(|byte| is_blank(*byte)).unwrap_or(inside.len());
    let (word, arguments) = inside.split_at_checked(end)?;
    match (word, from_client) {
        (b"CONNECT", true) => Some(Said::Connect(arguments.trim_ascii())),
        (b"PUB", true) => publish(arguments, 1),
        (b"HPUB", true) => publish(arguments, 2),
        (b"SUB", true) => {
            let mut words = Words::new(arguments);
            let (subject, second, third) = (words.text()?, words.next()?, words.next());
            let queue = third.and(Some(text(second)?));
            words.next().is_none().then_some(Said::Did(Act::Subscribe { subject, queue }))
        }
        (b"MSG", false) => receive(arguments, 1),
        (b"HMSG", false) => receive(arguments, 2),
        (b"-ERR", false) if find(arguments, b"Authorization Violation").is_some() => {
            Some(Said::Closed)
        }
        (b"PING" | b"PONG" | b"UNSUB" | b"INFO" | b"-ERR", _)
        | (b"+OK" | b"OK" | b"DELSUB", false) => Some(Said::Nothing),
        _ => None,
    }
}

/// `subject reply sizes`, the reply or not.
fn publish(arguments: &[u8], sizes: usize) -> Option<Said<'_>> {
    let mut words = Words::new(arguments);
    let subject = words.text()?;
    let reply = sized(words, sizes)?;
    Some(Said::Did(Act::Publish { subject, reply }))
}

/// `subject sid reply sizes`, the reply or not.
fn receive(arguments: &[u8], sizes: usize) -> Option<Said<'_>> {
    let mut words = Words::new(arguments);
    let subject = words.text()?;
    words.next()?;
    let reply = sized(words, sizes)?;
    Some(Said::Did(Act::Receive { subject, reply }))
}

/// What stands before so many sizes, and nothing after them.
#[allow(clippy::option_option)]
fn sized(mut words: Words<'_>, sizes: usize) -> Option<Option<&str>> {
    let (first, second, third) = (words.next()?, words.next(), words.next());
    if words.next().is_some() {
        return None;
    }
    let is_size = |word: &[u8]| word.iter().all(u8::is_ascii_digit);
    let all = |words: [Option<&[u8]>; 2]| words.into_iter().flatten().all(is_size);
    let (reply, fits) = match (sizes, second, third) {
        (1, None, None) => (None, is_size(first)),
        (1, Some(_), None) => (Some(first), all([second, None])),
        (2, Some(_), None) => (None, is_size(first) && all([second, None])),
        (2, Some(_), Some(_)) => (Some(first), all([second, third])),
        _ => return None,
    };
    match (fits, reply) {
        (false, _) => None,
        (true, None) => Some(None),
        (true, Some(reply)) => Some(Some(text(reply)?)),
    }
}

/// What the server takes for the end of an argument.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// The arguments of a protocol line, cut as the server cuts them.
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    fn new(arguments: &'a [u8]) -> Self {
        Self(arguments)
    }

    fn text(&mut self) -> Option<&'a str> {
        text(self.next()?)
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.0.iter().position(|byte| !is_blank(*byte))?;
        let rest = self.0.get(start..)?;
        // A line has no line break.
        let end = memchr::memchr3(b' ', b'\t', b'\r', rest).unwrap_or(rest.len());
        let (word, rest) = rest.split_at_checked(end)?;
        self.0 = rest;
        Some(word)
    }
}

/// A subject or a queue group. The server takes control characters and bytes that are no text; no
/// rule can hold them.
fn text(word: &[u8]) -> Option<&str> {
    // All of them, without an end in between, is what takes least.
    if word.iter().fold(false, |bad, byte| bad | byte.is_ascii_control()) {
        return None;
    }
    let text = std::str::from_utf8(word).ok()?;
    (word.is_ascii() || !text.chars().any(char::is_control)).then_some(text)
}

/// Whether something in a line says that it is of a trace.
fn has_marks(line: &[u8]) -> bool {
    find(line, b"[TRC] ").is_some()
        || find(line, b" - <<- [").is_some()
        || find(line, b" - ->> [").is_some()
}

/// `127.0.0.1:46340 - cid:18 - …`; the server's own lines without a client are none of these.
fn looks_like_a_label(text: &[u8]) -> bool {
    let address = text.iter().take_while(|byte| byte.is_ascii_graphic()).count();
    text.get(address..).is_some_and(|rest| rest.starts_with(b" - "))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Trace,
    Debug,
    Other,
    /// Syslog keeps it elsewhere.
    None,
}

#[derive(Clone, Copy)]
struct Head {
    process: u64,
    at: Option<DateTime>,
    level: Level,
}

impl Head {
    /// `[1] 2026/11/29 14:03:34.434562 [TRC] `, each part there or not.
    fn read(rest: &mut Rest<'_>) -> Option<Self> {
        let mut head = Self { process: 0, at: None, level: Level::None };
        if rest.0.first() == Some(&b'[') {
            let mut after = Rest(rest.0.get(1..)?);
            if let Some(process) = after.number() {
                after.skip(b"] ")?;
                (head.process, *rest) = (process, after);
            }
        }
        head.at = time(rest);
        // An address may begin with a bracket, too.
        if rest.0.first() == Some(&b'[') && !looks_like_a_label(rest.0) {
            head.level = level(rest)?;
        }
        (head.level != Level::None || looks_like_a_label(rest.0)).then_some(head)
    }
}

/// `[TRC] `, plain or coloured.
fn level(rest: &mut Rest<'_>) -> Option<Level> {
    if rest.skip(b"[TRC] ").is_some() || rest.skip(b"[\x1b[33mTRC\x1b[0m] ").is_some() {
        return Some(Level::Trace);
    }
    if rest.skip(b"[DBG] ").is_some() || rest.skip(b"[\x1b[36mDBG\x1b[0m] ").is_some() {
        return Some(Level::Debug);
    }
    let near = rest.0.get(..20).unwrap_or(rest.0);
    let end = find(near, b"] ")?;
    rest.take(end + 2)?;
    Some(Level::Other)
}

/// What a container runtime (`TIME stderr F `, `NAME | `) or syslog (`TIME HOST TAG: `) puts first.
fn envelope(rest: &mut Rest<'_>) -> Option<()> {
    const LONGEST: usize = 256;
    let line = rest.0;
    let near = line.get(..LONGEST).unwrap_or(line);
    let ends = [&b" stdout F "[..], b" stderr F ", b" | ", b": "];
    for end in ends {
        if let Some(at) = find(near, end) {
            let header = near.get(..at)?;
            // A server's own line about a client is none of these, whatever the client said in it.
            if header.contains(&b'"') || find(header, b" - ").is_some() {
                continue;
            }
            rest.0 = line.get(at + end.len()..)?;
            return Some(());
        }
    }
    None
}

/// `127.0.0.1:46340 - cid:18 - `
fn label<'a>(rest: &mut Rest<'a>) -> Option<(&'a [u8], &'a [u8], u64)> {
    let length = rest.0.iter().position(|byte| !byte.is_ascii_graphic())?;
    let address = rest.take(length)?;
    rest.skip(b" - ")?;
    let colon = rest.0.get(..16).unwrap_or(rest.0).iter().position(|byte| *byte == b':')?;
    let kind = rest.take(colon)?;
    rest.skip(b":")?;
    let connection = rest.number()?;
    rest.skip(b" - ")?;
    let known =
        matches!(kind, b"cid" | b"wid" | b"mid" | b"mid_ws" | b"lid" | b"lid_ws" | b"rid" | b"gid");
    let fits = !address.is_empty() && address.len() <= 256;
    (fits && known).then_some((address, kind, connection))
}

/// `"v2.16.0:python3" - "APP/user:orders" - `, as it stands; empty where there is nothing.
fn labels<'a>(rest: &mut Rest<'a>) -> Option<&'a [u8]> {
    let whole = rest.0;
    while rest.0.first() == Some(&b'"') {
        let inside = rest.0.get(1..)?;
        let mut from = 0;
        loop {
            let at = from + memchr::memchr2(b'"', b'\\', inside.get(from..)?)?;
            if inside.get(at) == Some(&b'"') {
                rest.0 = inside.get(at + 1..)?;
                break;
            }
            from = at + 2;
        }
        rest.skip(b" - ")?;
    }
    whole.get(..whole.len() - rest.0.len())
}

/// `2026/11/23 18:12:21.596374 `; nothing is taken when it is not there.
fn time(rest: &mut Rest<'_>) -> Option<DateTime> {
    let (head, tail) = rest.0.split_first_chunk::<20>()?;
    let [y1, y2, y3, y4, b'/', o1, o2, b'/', d1, d2, b' ', times @ ..] = head else { return None };
    let [h1, h2, b':', m1, m2, b':', s1, s2, b'.'] = times else { return None };
    let mut after = Rest(tail);
    let digits = after.digits();
    let fraction = (0..9).fold(0_i32, |sum, place| {
        sum * 10 + digits.get(place).map_or(0, |digit| i32::from(digit - b'0'))
    });
    after.skip(b" ")?;
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| byte - b'0');
    let two = |tens, ones| i8::try_from(digit(tens)? * 10 + digit(ones)?).ok();
    let year = i16::from(two(y1, y2)?) * 100 + i16::from(two(y3, y4)?);
    let (month, day, hour) = (two(o1, o2)?, two(d1, d2)?, two(h1, h2)?);
    let (minute, second) = (two(m1, m2)?, two(s1, s2)?);
    let at = DateTime::new(year, month, day, hour, minute, second, fraction).ok()?;
    *rest = after;
    Some(at)
}
