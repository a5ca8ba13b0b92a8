//! One line of nats-server's log: is it a violation, and what does it say?
//!
//! A line is untrusted: subject, queue group, reply and the client's name are the client's own
//! words. nats-server quotes each of them as Go's `%q` does, so that none can end its quotes or
//! its line; the number of a subscription (`SID`) is not quoted, and stands last. So a line is
//! read from its beginning, by the whole of its grammar: what merely looks like a violation
//! somewhere inside is none. Formats as seen from 2.10.25, 2.11.11, 2.12.8, 2.14.6 and 2.15.1:
//!
//! ```text
//! [1] 2026/11/23 18:12:21.596374 [ERR] 127.0.0.1:46340 - cid:18 - Publish Violation - User "n", Subject "s"
//! [1] 2026/11/23 18:12:21.596374 [ERR] 127.0.0.1:46340 - cid:18 - "v2:py:x" - "APP/user:n" - Publish Violation - Subject "s"
//! ```
//!
//! A line alone is not enough. Some lines have a client's text as it was sent. If that text has a line
//! break, its rest looks like a line of the server: from 2.12 on `[INF] … lid:6 - Leafnode connection
//! closed: Client Closed - Remote: NAME`, and traces of MQTT clients. Such a line is [`Line::Loose`]:
//! the next lines may be anybody's, until whoever reads the log decides that they are the server's
//! again.
//!
//! with `Subscription Violation - …, Queue: "q", SID 1` and `Publish Violation - Reply "r"`. Time,
//! process and level are there or not, as the server's `logtime` and its target (file, syslog)
//! have it; before all that may stand what syslog or a container runtime puts there.

use jiff::civil::DateTime;
use serde::{Deserialize, Serialize};

use crate::dedup::Same;
use crate::kv_operation::Act;
use crate::server_log::rest::Rest;

/// What a line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The server refused a client something.
    Refusal(Box<Refusal>),
    /// The server tells its name, as it does when it starts.
    ServerName(String),
    /// A client's words may stand in it as they were sent: of what follows, nobody knows whose
    /// it is.
    Loose,
    /// It has the words of a violation where they should be, and is not understood: a format
    /// that this version does not know.
    Strange,
    /// None of our business.
    Other,
}

/// How a client is connected, as the log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// TCP.
    Cid,
    /// WebSocket.
    Wid,
    /// MQTT.
    Mid,
    /// A leafnode.
    Lid,
}

impl Kind {
    /// `cid`, `wid`, `mid` or `lid`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cid => "cid",
            Self::Wid => "wid",
            Self::Mid => "mid",
            Self::Lid => "lid",
        }
    }
}

/// A violation as a line tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// When, by the server's clock, in whatever zone it logs; not there with `logtime: false`.
    #[serde(skip)]
    pub at: Option<DateTime>,
    /// The connection's number, unique on its server while that runs.
    pub connection: u64,
    /// What kind of connection.
    pub kind: Kind,
    /// The client's address and port. Behind a proxy that tells, its own address and the proxy's.
    pub address: String,
    /// What the client says of itself (2.12 on, and MQTT): version, language and name.
    pub client: Option<String>,
    /// The account (2.12 on).
    pub account: Option<String>,
    /// The user's name; it is not in the line of an MQTT connection from 2.12 on. Of a user without
    /// one, what the client sent as its key or token, with the word for that before it: `nkey:U…`.
    pub user: Option<String>,
    /// What was refused.
    pub act: Act,
    /// With which subject.
    pub subject: String,
    /// The queue group of a subscription.
    pub queue: Option<String>,
    /// Whether the line may be a client's words, and not the server's.
    #[serde(default)]
    pub unproved: bool,
}

impl Same for Refusal {
    /// Who did what with which subject. Without a user's name, who is the connection.
    fn key(&self) -> String {
        let who = match (&self.account, &self.user) {
            (Some(account), Some(user)) => format!("{account}/{user}"),
            (None, Some(user)) => user.clone(),
            (_, None) => format!("{} {}", self.address, self.connection),
        };
        let queue = self.queue.as_deref().unwrap_or_default();
        // What somebody made up counts for nothing that happened.
        let unproved = if self.unproved { "unproved " } else { "" };
        // Told apart by what no name holds: each is printed with its quotes.
        format!("{unproved}{who:?} {:?} {:?} {queue:?}", self.act, self.subject)
    }
}

/// Reads one line, without its line break.
#[must_use]
pub fn parse(line: &[u8]) -> Line {
    let Some(at) = find(line, b" Violation - ") else {
        return if is_loose(line) { Line::Loose } else { name(line) };
    };
    match refusal(line) {
        Some(refusal) => Line::Refusal(Box::new(refusal)),
        None if is_loose(line) => Line::Loose,
        // In front of the words, a quote means that a client said them.
        None if line.get(..at).is_some_and(|head| !head.contains(&b'"') && looks_logged(head)) => {
            Line::Strange
        }
        None => Line::Other,
    }
}

/// Whether it is about a connection of other servers or of MQTT, of which nats-server does not
/// quote everything. Or empty, as no server writes one, and as one that is too long is given.
fn is_loose(line: &[u8]) -> bool {
    // After a quotation mark comes quoted text, of whatever origin.
    let head = line.split(|byte| *byte == b'"').next().unwrap_or_default();
    let of = |kind: &&[u8]| {
        find(head, b" - ").and_then(|at| head.get(at + 3..)).is_some_and(|label| {
            label
                .strip_prefix(*kind)
                .is_some_and(|rest| rest.starts_with(b":") || rest.starts_with(b"_ws:"))
        })
    };
    line.is_empty() || [&b"lid"[..], b"mid", b"rid", b"gid"].iter().any(of)
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, wanted)
}

/// `… - cid:18 - Publish`: what a server writes before the word.
fn looks_logged(head: &[u8]) -> bool {
    find(head, b" - ").is_some() && (head.ends_with(b"Publish") || head.ends_with(b"Subscription"))
}

/// `[INF]   Name:            nats-1`
fn name(line: &[u8]) -> Line {
    let Some(at) = find(line, b"[INF]   Name: ") else { return Line::Other };
    let head = line.get(..at).unwrap_or_default();
    let name = line.get(at..).and_then(|rest| rest.strip_prefix(b"[INF]   Name: "));
    match name.map(|name| String::from_utf8_lossy(name.trim_ascii())) {
        Some(name) if !head.contains(&b'"') && is_name(&name) => {
            Line::ServerName(name.into_owned())
        }
        _ => Line::Other,
    }
}

fn is_name(name: &str) -> bool {
    (1..=256).contains(&name.len()) && !name.contains(|c: char| c.is_whitespace() || c.is_control())
}

fn refusal(line: &[u8]) -> Option<Refusal> {
    let mut rest = Rest(line.trim_ascii_end());
    let (at, (address, kind, connection)) = head(&mut rest)?;
    let mut labels = Vec::new();
    while rest.0.starts_with(b"\"") {
        labels.push(rest.quoted()?);
        rest.skip(b" - ")?;
    }
    let is_mqtt = kind == Kind::Mid;
    // 2.12 on: the last label is the server's own, `APP/user:name`. Not so for MQTT, where the
    // only one is the client's identifier, which may look like anything.
    let said = if is_mqtt { None } else { labels.pop() };
    let (account, named) = match said.as_deref().map(account_and_user) {
        Some(Some((account, user))) => (Some(account.to_owned()), Some(user.to_owned())),
        Some(None) => return None,
        None => (None, None),
    };
    let publish = match rest.until(b" Violation - ")? {
        b"Publish" => true,
        b"Subscription" => false,
        _ => return None,
    };
    let before = user(&mut rest)?;
    if before.is_some() && named.is_some() {
        return None;
    }
    let act = match rest.until(b" ")? {
        b"Subject" if publish => Act::Publish,
        b"Subject" => Act::Subscribe,
        b"Reply" if publish => Act::Reply,
        _ => return None,
    };
    let subject = rest.quoted()?;
    let queue = if act == Act::Subscribe { subscription(&mut rest)? } else { None };
    // Nothing may follow, or somebody wrote more than the server would.
    rest.0.is_empty().then_some(())?;
    Some(Refusal {
        at,
        connection,
        kind,
        address,
        client: labels.pop(),
        account,
        user: before.or(named),
        act,
        subject,
        queue,
        unproved: false,
    })
}

/// `APP/user:orders/U…/0123`: the account, and the user's name. A key or a token (`APP/nkey:U…`) is
/// what the client sent, and no name that anybody gave it. In operator mode the account's key stands
/// before its name: `A…/APP/user:orders/U…/0123`.
fn account_and_user(label: &str) -> Option<(&str, &str)> {
    let (account, user) = label.split_once('/')?;
    let named =
        user.split_once('/').filter(|(name, _)| is_account_key(account) && !name.contains(':'));
    let (account, user) = named.unwrap_or((account, user));
    let (kind, name) = user.split_once(':')?;
    Some((account, if kind == "user" { name } else { user }))
}

fn is_account_key(text: &str) -> bool {
    let base32 = |byte: u8| matches!(byte, b'A'..=b'Z' | b'2'..=b'7');
    text.len() == 56 && text.starts_with('A') && text.bytes().all(base32)
}

/// Before 2.12: `User "name", `, `Nkey "U…", `, `JWT User "U…", `.
#[allow(clippy::option_option)]
fn user(rest: &mut Rest<'_>) -> Option<Option<String>> {
    for (word, kind) in
        [(&b"User "[..], ""), (b"Nkey ", "nkey:"), (b"JWT User ", "jwt:"), (b"Token ", "token:")]
    {
        if rest.0.starts_with(word) {
            rest.skip(word)?;
            let name = rest.quoted()?;
            rest.skip(b", ")?;
            return Some(Some(format!("{kind}{name}")));
        }
    }
    Some(None)
}

/// `, Queue: "q", SID 1`: the queue group, if any. The number is a client's choice and unquoted;
/// nothing is made of it.
#[allow(clippy::option_option)]
fn subscription(rest: &mut Rest<'_>) -> Option<Option<String>> {
    let mut queue = None;
    if rest.skip(b", Queue: ").is_some() {
        queue = Some(rest.quoted()?);
    }
    // With an empty number, the space behind it is gone with the line's end.
    rest.skip(b", SID")?;
    rest.0 = b"";
    Some(queue)
}

type Label = (String, Kind, u64);

/// Everything up to what the server says: time and connection.
fn head(rest: &mut Rest<'_>) -> Option<(Option<DateTime>, Label)> {
    // The server's own line, or a line with something before it.
    let whole = rest.0;
    if let Some(found) = own_head(rest) {
        return Some(found);
    }
    rest.0 = whole;
    envelope(rest)?;
    own_head(rest)
}

/// What a container runtime (`TIME stderr F `) or syslog (`TIME HOST TAG: `) puts first.
fn envelope(rest: &mut Rest<'_>) -> Option<()> {
    let line = rest.0;
    for stream in [&b" stdout F "[..], b" stderr F "] {
        if let Some(at) = find(line.get(..64).unwrap_or(line), stream) {
            rest.take(at + stream.len())?;
            return Some(());
        }
    }
    let header = rest.until(b": ")?;
    // A server's own line about a client is none of these, whatever the client said in it.
    let of_a_client = header.contains(&b'"') || find(header, b" - ").is_some();
    (header.len() <= 256 && !of_a_client).then_some(())
}

fn own_head(rest: &mut Rest<'_>) -> Option<(Option<DateTime>, Label)> {
    if rest.skip(b"[").is_some() {
        let process = rest.number();
        if process.is_some() {
            rest.skip(b"] ")?;
        } else {
            level(rest)?;
            return Some((None, label(rest)?));
        }
    }
    let at = time(rest);
    if rest.skip(b"[").is_some() {
        level(rest)?;
    }
    Some((at, label(rest)?))
}

/// `ERR] `, plain or coloured. No other level tells of a violation.
fn level(rest: &mut Rest<'_>) -> Option<()> {
    match rest.until(b"] ")? {
        b"ERR" | b"\x1b[31mERR\x1b[0m" => Some(()),
        _ => None,
    }
}

/// `127.0.0.1:46340 - cid:18 - `
fn label(rest: &mut Rest<'_>) -> Option<Label> {
    let address = rest.until(b" - ")?;
    if address.is_empty() || address.len() > 256 || !address.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    let address = std::str::from_utf8(address).ok()?.to_owned();
    let kind = match rest.until(b":")? {
        b"cid" => Kind::Cid,
        b"wid" => Kind::Wid,
        b"mid" | b"mid_ws" => Kind::Mid,
        b"lid" | b"lid_ws" => Kind::Lid,
        _ => return None,
    };
    let connection = rest.number()?;
    rest.skip(b" - ")?;
    Some((address, kind, connection))
}

/// `2026/11/23 18:12:21.596374 `; nothing is taken when it is not there.
fn time(rest: &mut Rest<'_>) -> Option<DateTime> {
    let line = rest.0;
    let parsed = (|| {
        let mut part = |separator: &[u8]| -> Option<u64> {
            let number = rest.number()?;
            rest.skip(separator)?;
            Some(number)
        };
        let (year, month, day) = (part(b"/")?, part(b"/")?, part(b" ")?);
        let (hour, minute) = (part(b":")?, part(b":")?);
        let second = rest.number()?;
        let mut micros = 0;
        if rest.skip(b".").is_some() {
            micros = rest.number()?;
        }
        rest.skip(b" ")?;
        let nanos = i32::try_from(micros.checked_mul(1000)?).ok()?;
        let small = |number: u64| i8::try_from(number).ok();
        DateTime::new(
            i16::try_from(year).ok()?,
            small(month)?,
            small(day)?,
            small(hour)?,
            small(minute)?,
            small(second)?,
            nanos,
        )
        .ok()
    })();
    if parsed.is_none() {
        rest.0 = line;
    }
    parsed
}

#[cfg(test)]
mod tests;
