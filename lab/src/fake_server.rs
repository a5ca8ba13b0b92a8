//! Plays nats-server on the wire towards `solewriter serve`: as much of the client protocol as
//! a callout needs, and no more. It sends requests as queue deliveries on `$SYS.REQ.USER.AUTH`,
//! which no client of a real server can do, and takes the replies.
//!
//! An instrument, not a test double: what must be right is tested with a real server.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use super::Error;
use solewriter::service::CALLOUT_SUBJECT;

/// Replies come here; the number of the request follows. Below what the callout user may publish.
const REPLY: &str = "$SYS._INBOX.load.";
/// A buffer for what is read at once.
const READ: usize = 256 * 1024;
/// The longest message that is taken.
const LONGEST: usize = 1024 * 1024;

/// What is done with the replies of one read, in the thread of their connection.
pub trait Receive: Send + Sync {
    /// Takes replies: each with its request's number.
    fn take(&self, replies: &[(u64, &[u8])]);
}

/// A connection of the service that takes requests.
pub struct Member {
    writer: Mutex<TcpStream>,
    sid: String,
}

impl Member {
    /// Appends a request to `out`, as this connection is sent it.
    pub fn frame(&self, out: &mut Vec<u8>, number: u64, header: Option<&str>, payload: &[u8]) {
        let length = payload.len();
        // Writing to a Vec does not fail.
        let _ = match header {
            None => write!(out, "MSG {CALLOUT_SUBJECT} {} {REPLY}{number} {length}\r\n", self.sid),
            Some(header) => {
                let head = "NATS/1.0\r\n".len() + header.len() + "\r\n\r\n".len();
                write!(
                    out,
                    "HMSG {CALLOUT_SUBJECT} {} {REPLY}{number} {head} {}\r\nNATS/1.0\r\n{header}\r\n\r\n",
                    self.sid,
                    head + length,
                )
            }
        };
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
    }

    /// Sends what was framed.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&self, frames: &[u8]) -> std::io::Result<()> {
        lock(&self.writer).write_all(frames)
    }
}

#[derive(Default)]
struct Shared {
    members: RwLock<Arc<Vec<Arc<Member>>>>,
    receiver: RwLock<Option<Arc<dyn Receive>>>,
}

/// Listens on loopback, for as long as the process lives.
pub struct FakeServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl FakeServer {
    /// Begins to listen on a port that the system picks.
    ///
    /// # Errors
    /// When it cannot.
    pub fn open() -> Result<Self, Error> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let accepting = shared.clone();
        thread::Builder::new().name("broker".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = accepting.clone();
                let serve = move || {
                    // What ends a connection ends it: the service makes a new one.
                    let _ = Session::begin(stream, address, &shared).and_then(Session::serve);
                };
                let _ = thread::Builder::new().name("session".to_owned()).spawn(serve);
            }
        })?;
        Ok(Self { address, shared })
    }

    /// Where the service connects.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// The connections that take requests now.
    #[must_use]
    pub fn members(&self) -> Arc<Vec<Arc<Member>>> {
        self.shared.members.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for at least one connection that takes requests.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn wait(&self, patience: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + patience;
        while self.members().is_empty() {
            if Instant::now() > deadline {
                return Err("the service did not subscribe".into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Says who takes replies from now on.
    pub fn receive(&self, receiver: Option<Arc<dyn Receive>>) {
        *self.shared.receiver.write().unwrap_or_else(PoisonError::into_inner) = receiver;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic could leave behind here is a connection that its owner finds broken.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection of the service.
struct Session<'a> {
    stream: TcpStream,
    shared: &'a Shared,
    /// Subscriptions by subject: where messages to oneself go.
    sids: HashMap<String, String>,
    member: Option<Arc<Member>>,
}

/// A whole message of the client protocol, in the buffer that it was read into.
enum Line<'a> {
    Publish { subject: &'a str, payload: &'a [u8] },
    Other(&'a str),
}

impl<'a> Session<'a> {
    fn begin(
        mut stream: TcpStream,
        address: SocketAddr,
        shared: &'a Shared,
    ) -> std::io::Result<Self> {
        stream.set_nodelay(true)?;
        let info = serde_json::json!({
            "server_id": "load", "server_name": "load", "version": "2.15.1", "proto": 1,
            "host": address.ip().to_string(), "port": address.port(), "headers": true,
            "max_payload": LONGEST, "auth_required": true, "nonce": "abcdefghijklmno",
        });
        stream.write_all(format!("INFO {info}\r\n").as_bytes())?;
        Ok(Self { stream, shared, sids: HashMap::new(), member: None })
    }

    fn serve(mut self) -> std::io::Result<()> {
        let mut buffer = Vec::with_capacity(2 * READ);
        let mut chunk = vec![0; READ];
        let outcome = loop {
            let read = match self.stream.read(&mut chunk) {
                Ok(0) => break Ok(()),
                Ok(read) => read,
                Err(error) => break Err(error),
            };
            buffer.extend_from_slice(chunk.get(..read).unwrap_or_default());
            match self.take(&buffer) {
                Some(used) if buffer.len() - used <= 2 * LONGEST => drop(buffer.drain(..used)),
                _ => break Ok(()),
            }
        };
        self.leave();
        outcome
    }

    /// Deals with every whole message in the buffer. Gives how many bytes that were, or `None`
    /// when they are no protocol.
    fn take(&mut self, buffer: &[u8]) -> Option<usize> {
        let mut replies = Vec::new();
        let mut used = 0;
        while let Some((line, length)) = parse(buffer.get(used..)?)? {
            match line {
                Line::Publish { subject, payload } => {
                    match subject.strip_prefix(REPLY).and_then(|number| number.parse().ok()) {
                        Some(number) => replies.push((number, payload)),
                        None => self.echo(subject, payload)?,
                    }
                }
                Line::Other(line) => self.obey(line)?,
            }
            used += length;
        }
        if !replies.is_empty() {
            let receiver = self.shared.receiver.read().unwrap_or_else(PoisonError::into_inner);
            let receiver = receiver.clone();
            if let Some(receiver) = receiver {
                receiver.take(&replies);
            }
        }
        Some(used)
    }

    /// A message to a subscription of the same connection.
    fn echo(&mut self, subject: &str, payload: &[u8]) -> Option<()> {
        let Some(sid) = self.sids.get(subject) else { return Some(()) };
        let mut message = format!("MSG {subject} {sid} {}\r\n", payload.len()).into_bytes();
        message.extend_from_slice(payload);
        message.extend_from_slice(b"\r\n");
        self.write(&message)
    }

    fn write(&mut self, bytes: &[u8]) -> Option<()> {
        match &self.member {
            // Generators write to the same socket.
            Some(member) => member.send(bytes).ok(),
            None => self.stream.write_all(bytes).ok(),
        }
    }

    fn obey(&mut self, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["PING"] => self.write(b"PONG\r\n")?,
            ["SUB", subject, .., sid] => {
                self.sids.insert((*subject).to_owned(), (*sid).to_owned());
                if *subject == CALLOUT_SUBJECT {
                    let writer = Mutex::new(self.stream.try_clone().ok()?);
                    let member = Arc::new(Member { writer, sid: (*sid).to_owned() });
                    self.member = Some(member.clone());
                    self.change(|members| members.push(member));
                }
            }
            ["UNSUB", sid, ..] if self.member.as_ref().is_some_and(|m| m.sid == *sid) => {
                self.leave();
            }
            _ => {}
        }
        Some(())
    }

    fn leave(&mut self) {
        if let Some(member) = &self.member {
            let gone = member.clone();
            self.change(|members| members.retain(|m| !Arc::ptr_eq(m, &gone)));
        }
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Member>>)) {
        let mut members = self.shared.members.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = members.as_ref().clone();
        change(&mut changed);
        *members = Arc::new(changed);
    }
}

/// The first message in the buffer and its length; `Some(None)` when it is not complete, `None`
/// when it is no protocol.
#[allow(clippy::option_option)]
fn parse(buffer: &[u8]) -> Option<Option<(Line<'_>, usize)>> {
    let Some(end) = buffer.iter().take(4096).position(|b| *b == b'\n') else {
        return if buffer.len() > 4096 { None } else { Some(None) };
    };
    let line = std::str::from_utf8(buffer.get(..end)?).ok()?.trim_end();
    let begin = end + 1;
    let mut words = line.split(' ');
    let (head, subject) = match (words.next(), words.next()) {
        (Some("PUB"), Some(subject)) => (false, subject),
        (Some("HPUB"), Some(subject)) => (true, subject),
        _ => return Some(Some((Line::Other(line), begin))),
    };
    let length: usize = line.rsplit(' ').next()?.parse().ok()?;
    let head = if head { line.rsplit(' ').nth(1)?.parse().ok()? } else { 0 };
    let Some(payload) = buffer.get(begin..begin.checked_add(length)?) else {
        return if length <= LONGEST { Some(None) } else { None };
    };
    let next = begin + length + 2;
    if buffer.len() < next {
        return Some(None);
    }
    Some(Some((Line::Publish { subject, payload: payload.get(head..)? }, next)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_wherever_a_read_cuts_them() {
        let text =
            b"PUB $SYS._INBOX.load.7 5\r\nhello\r\nPING\r\nHPUB a 12 14\r\nNATS/1.0\r\n\r\nhi\r\n";
        for cut in 0..text.len() {
            let mut found = Vec::new();
            let mut used = 0;
            for end in [cut, text.len()] {
                while let Some((line, length)) = parse(&text[used..end]).unwrap() {
                    found.push(match line {
                        Line::Publish { subject, payload } => {
                            format!("{subject}={}", String::from_utf8_lossy(payload))
                        }
                        Line::Other(line) => line.to_owned(),
                    });
                    used += length;
                }
            }
            assert_eq!(found, ["$SYS._INBOX.load.7=hello", "PING", "a=hi"], "cut at {cut}");
        }
        assert!(parse(&[b'x'; 5000]).is_none());
    }
}
