//! Who is behind each connection, as far as the trace has told. Bounded: see [`MAX_CONNECTIONS`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use solewriter_types::go_quote;
use solewriter_types::server_log::line::Kind;

use super::MAX_CONNECTIONS;
use super::line::Traced;
use crate::adoption::deed::Client;

/// How much of a name that a client gives itself is kept, in bytes.
const MAX_NAME: usize = 256;

/// A connection, across servers: its number is another's after a restart, its port is not.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    source: usize,
    process: u64,
    kind: Kind,
    connection: u64,
    address: u64,
}

/// One connection.
pub(super) struct Known {
    pub client: Client,
    /// Of the server's quotes about it.
    labels: u64,
    /// Whether its CONNECT was seen.
    pub connected: bool,
    /// Whether it did anything that was reported.
    pub acted: bool,
    closed: bool,
    used: u64,
}

/// The connections that are known.
#[derive(Default)]
pub(super) struct Clients {
    known: HashMap<Key, Known>,
    turn: u64,
    pub evicted: u64,
}

impl Clients {
    /// The connection of that line, with what the line itself tells of it.
    pub fn of(&mut self, source: usize, line: &Traced<'_>) -> &mut Known {
        self.turn += 1;
        let key = Key {
            source,
            process: line.process,
            kind: line.kind,
            connection: line.connection,
            address: mixed(line.address),
        };
        if self.known.len() >= MAX_CONNECTIONS && !self.known.contains_key(&key) {
            self.make_room();
        }
        let known = self.known.entry(key).or_insert_with(|| Known::new(line));
        let labels = mixed(line.labels);
        (known.used, known.closed) = (self.turn, false);
        if labels != 0 && known.labels != labels {
            known.labels = labels;
            known.read_labels(line.labels);
        }
        known
    }

    /// A server starts: whoever was connected to one of that process is not any more. Several
    /// servers may have one number, in containers of their own; so nobody is forgotten at once.
    pub fn restarted(&mut self, source: usize, process: u64) {
        let of_it = |key: &Key| key.source == source && key.process == process;
        for (_, known) in self.known.iter_mut().filter(|(key, _)| of_it(key)) {
            known.closed = true;
        }
    }

    /// Forgets those that are closed; without any, the eighth that was silent for longest.
    fn make_room(&mut self) {
        let before = self.known.len();
        self.known.retain(|_, known| !known.closed);
        if self.known.len() == before {
            let mut used: Vec<u64> = self.known.values().map(|known| known.used).collect();
            let (_, least, _) = used.select_nth_unstable(before / 8);
            let least = *least;
            self.known.retain(|_, known| known.used > least);
            self.evicted += (before - self.known.len()) as u64;
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.known.len()
    }
}

impl Known {
    fn new(line: &Traced<'_>) -> Self {
        let client = Client {
            connection: line.connection,
            kind: line.kind,
            address: host(line.address),
            account: None,
            user: None,
            nkey: None,
            name: None,
            lang: None,
        };
        Self { client, labels: 0, connected: false, acted: false, closed: false, used: 0 }
    }

    /// Takes what a CONNECT says. `None` when it is none, or is cut: nothing is believed then.
    pub fn connect(&mut self, json: &[u8]) -> Option<()> {
        let said = serde_json::from_slice::<Connect>(json)
            .or_else(|_| serde_json::from_slice(&readable(json)));
        let client = &mut self.client;
        // What the server said of the one before it is not of this one.
        (self.connected, self.labels) = (true, 0);
        (client.account, client.user, client.nkey) = (None, None, None);
        (client.name, client.lang) = (None, None);
        let Connect { user, nkey, name, lang } = said.ok()?;
        (client.user, client.nkey) = (user, nkey);
        (client.name, client.lang) = (name, lang);
        Some(())
    }

    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether anything tells who it is.
    pub fn is_known(&self) -> bool {
        self.connected || self.labels != 0
    }

    /// `"v2.16.0:python3:name" - "APP/user:orders" - `: the last one is the server's own word.
    fn read_labels(&mut self, labels: &[u8]) {
        let mut rest = labels;
        let (mut own, mut said) = (None, None);
        while let Some((label, behind)) = go_quote::read(rest) {
            said = own.replace(label);
            rest = behind.strip_prefix(b" - ").unwrap_or_default();
        }
        let client = &mut self.client;
        if let Some((account, user)) = own.as_deref().and_then(|own| own.split_once('/')) {
            client.account = keep(account);
            match user.split_once(':') {
                Some(("user", name)) => (client.user, client.nkey) = (keep(name), None),
                Some(("nkey" | "jwt", key)) => (client.user, client.nkey) = (None, keep(key)),
                // A token is never kept.
                _ => client.user = None,
            }
        }
        if let (Some(said), false) = (said, self.connected) {
            (client.lang, client.name) = (None, keep(&said));
            let mut parts = said.splitn(3, ':');
            if let (Some(version), Some(lang)) = (parts.next(), parts.next())
                && version
                    .strip_prefix('v')
                    .is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()))
            {
                (client.lang, client.name) = (keep(lang), parts.next().and_then(keep));
            }
        }
    }
}

/// A number for a text; 0 for none. Texts of one number would have to be made so, and whoever makes
/// them is taken for none but the other client of the same connection number.
fn mixed(text: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |sum: u64, word: u64| (sum ^ word).wrapping_mul(FACTOR).rotate_left(29);
    let (words, rest) = text.as_chunks::<8>();
    let sum = words.iter().fold(text.len() as u64, |sum, word| mix(sum, u64::from_le_bytes(*word)));
    rest.iter().fold(sum, |sum, byte| mix(sum, u64::from(*byte)))
}

/// A name within its bounds, unless it is empty.
fn keep(name: &str) -> Option<String> {
    let mut end = name.len().min(MAX_NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let name = name.get(..end).filter(|name| !name.is_empty())?;
    Some(name.to_owned())
}

/// The address without the port; of a client behind a proxy, the one that the proxy tells.
fn host(address: &[u8]) -> String {
    let text = String::from_utf8_lossy(address);
    let first = text.split('/').next().unwrap_or_default();
    if first.parse::<IpAddr>().is_ok() {
        return first.to_owned();
    }
    let host = first.rsplit_once(':').map_or(first, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

/// The JSON of a CONNECT as it was: 2.15 redacts what is no string, too, and what it leaves is no
/// JSON: `"nkey":[REDACTED],`.
fn readable(json: &[u8]) -> Vec<u8> {
    const REDACTED: &[u8] = b"[REDACTED]";
    let mut text = Vec::with_capacity(json.len());
    let mut rest = json;
    let mut in_string = false;
    while let Some(byte) = rest.first() {
        let (length, shown) = match byte {
            b'\\' if in_string => (2, rest.get(..2).unwrap_or(rest)),
            b'[' if !in_string && rest.starts_with(REDACTED) => (REDACTED.len(), &b"null"[..]),
            _ => (1, std::slice::from_ref(byte)),
        };
        in_string ^= *byte == b'"';
        text.extend_from_slice(shown);
        rest = rest.get(length..).unwrap_or_default();
    }
    text
}

/// What is read of a CONNECT. Nothing else of it is kept, and no secret is looked at.
#[derive(Default)]
struct Connect {
    user: Option<String>,
    nkey: Option<String>,
    name: Option<String>,
    lang: Option<String>,
}

impl<'de> Deserialize<'de> for Connect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Connect;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the options of a client")
    }

    /// As the server reads them: the case of a key is all the same, and the last one counts.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Connect, A::Error> {
        let mut connect = Connect::default();
        while let Some(Text(key)) = map.next_key()? {
            let field = match &*folded(&key) {
                "user" => &mut connect.user,
                "nkey" => &mut connect.nkey,
                "name" => &mut connect.name,
                "lang" => &mut connect.lang,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let value = map.next_value::<Option<Text<'_>>>()?;
            *field = value.and_then(|Text(value)| keep(&value)).filter(|v| v != "[REDACTED]");
        }
        Ok(connect)
    }
}

/// A string, borrowed where it can be.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Any)
    }
}

/// A key as Go compares it: there are two letters beyond ASCII that are one of ASCII to it.
fn folded(key: &str) -> Cow<'_, str> {
    if key.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return Cow::Borrowed(key);
    }
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    Cow::Owned(key.chars().map(fold).collect())
}
