//! A client that speaks NATS's wire protocol itself, for what client libraries do not send.
//!
//! It checks nothing of what it is told to send: that is the server's to refuse. Source: the NATS
//! client protocol, <https://docs.nats.io/reference/reference-protocols/nats-protocol>.

#![allow(
    clippy::indexing_slicing,
    reason = "a JSON value that is not there is null; nothing but JSON is indexed here"
)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use tokio::io::{
    AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, ReadHalf, WriteHalf, split,
};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::client::TlsStream;

use crate::nats::Login;
use crate::nats::certificate::Validity;
pub use crate::nats::tls_client::{Stream, TlsError, TlsServer};
use solewriter_core::keys::{Seed, Signer, User};

/// How long the server may take for anything that it always answers.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// The longest line that is taken from a server, in bytes; an INFO has a few thousand.
const LONGEST_LINE: u64 = 1024 * 1024;
/// The longest INFO, in bytes.
const LONGEST_GREETING: usize = 64 * 1024;
/// The largest message that is taken from a server, in bytes: as much as nats-server can be set to.
const LARGEST_MESSAGE: usize = 64 * 1024 * 1024;

/// Why a conversation with a server could not go on.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// There is no connection.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where to.
        address: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// TLS failed, or cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It did not let us in.
    #[error("nats-server refused the connection: {0}")]
    Refused(String),
    /// It closed the connection, with its last complaint.
    #[error("nats-server closed the connection{}", .0.as_ref().map(|c| format!(": {c}")).unwrap_or_default())]
    Closed(Option<String>),
    /// It said nothing for too long.
    #[error("nats-server said nothing for {} s", DEADLINE.as_secs())]
    Silent,
    /// A request that nobody answered.
    #[error("no answer to {0}")]
    Unanswered(String),
    /// It does not speak the protocol.
    #[error("this is not a nats-server: it sent {0:?}")]
    NotNats(String),
    /// The seed cannot sign.
    #[error("the seed cannot be used: {0}")]
    Seed(#[from] solewriter_core::keys::KeyError),
}

/// Who connects.
#[derive(Clone, Debug)]
pub enum RawLogin {
    /// The holder of an NKEY.
    Nkey(Arc<Seed<User>>),
    /// The holder of an NKEY, with a JWT: the user's own, or one that everybody may have.
    Jwt(Arc<str>, Arc<Seed<User>>),
    /// A user with a password; only the suite's controls have those.
    Password(String),
    /// Nobody in particular.
    Nobody,
}

impl RawLogin {
    /// The same user, for this client.
    #[must_use]
    pub fn of(login: &Login) -> Self {
        let Some(seed) = login.seed().map(Arc::new) else { return Self::Nobody };
        match login.jwt() {
            Some(jwt) => Self::Jwt(jwt.into(), seed),
            None => Self::Nkey(seed),
        }
    }
}

/// A message that was delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub subject: String,
    /// Which subscription it came through.
    pub sid: u64,
    /// Where an answer is expected.
    pub reply: Option<String>,
    /// The header lines as sent; empty without headers.
    pub headers: String,
    /// What it holds.
    pub payload: Vec<u8>,
}

impl Message {
    /// The payload as text, for searching in it.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    /// The payload as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap_or_default()
    }
}

enum Event {
    Message(Message),
    Pong,
    Complaint(String),
}

/// What a server shows to everybody.
#[derive(Debug)]
pub struct Greeting {
    /// Its INFO.
    pub info: Value,
    /// For how long its certificate is valid, where it speaks TLS and is trusted.
    pub certificate: Option<Validity>,
}

/// Reads a server's INFO, and looks at its certificate.
///
/// # Errors
/// When there is no nats-server at the address, or TLS has to come first and fails.
pub async fn greet(server: &TlsServer) -> Result<Greeting, WireError> {
    let mut stream = reach(server).await?;
    if server.tls_first {
        let mut secured = server.secured(stream).await?;
        let certificate = shown(&secured);
        return Ok(Greeting { info: greeting(&mut secured).await?, certificate });
    }
    let info = greeting(&mut stream).await?;
    let mut certificate = None;
    if server.tls_required || info["tls_required"] == Value::Bool(true) {
        // Why it is not trusted, the next connection tells.
        certificate = server.secured(stream).await.ok().and_then(|secured| shown(&secured));
    }
    Ok(Greeting { info, certificate })
}

fn shown(secured: &TlsStream<Box<dyn Stream>>) -> Option<Validity> {
    Validity::of(secured.get_ref().1.peer_certificates()?.first()?)
}

async fn reach(server: &TlsServer) -> Result<Box<dyn Stream>, WireError> {
    let failed = |source| WireError::Connect { address: server.name(), source };
    let address = (server.address.host(), server.address.port());
    let tcp = TcpStream::connect(address).await.map_err(failed)?;
    // Small packets, each waited for: gathering them costs 40 ms a time.
    tcp.set_nodelay(true).map_err(failed)?;
    Ok(Box::new(tcp))
}

/// One connection to a nats-server.
pub struct Wire {
    writer: Arc<Mutex<WriteHalf<Box<dyn Stream>>>>,
    events: mpsc::UnboundedReceiver<Event>,
    reading: JoinHandle<()>,
    info: Value,
    sids: u64,
    inbox: String,
    last_complaint: Option<String>,
    /// What was delivered while something else was waited for.
    pub delivered: VecDeque<Message>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// What the server said to something sent: nothing, or its complaints.
pub type Said = Result<(), String>;

impl Wire {
    /// Connects and reads the server's INFO; sends nothing.
    ///
    /// # Errors
    /// When there is no nats-server at the address.
    pub async fn dial(server: &TlsServer) -> Result<Self, WireError> {
        timeout(DEADLINE, Self::open(server)).await.map_err(|_| WireError::Silent)?
    }

    async fn open(server: &TlsServer) -> Result<Self, WireError> {
        let mut stream = reach(server).await?;
        if server.tls_first {
            stream = Box::new(server.secured(stream).await?);
        }
        let info = greeting(&mut stream).await?;
        if !server.tls_first && (server.tls_required || info["tls_required"] == Value::Bool(true)) {
            stream = Box::new(server.secured(stream).await?);
        }
        Ok(Self::speak(stream, info))
    }

    /// The same over a stream that is there already.
    ///
    /// # Errors
    /// When what is at its other end is no nats-server.
    pub async fn over(mut stream: Box<dyn Stream>) -> Result<Self, WireError> {
        let info = timeout(DEADLINE, greeting(&mut stream)).await;
        Ok(Self::speak(stream, info.map_err(|_| WireError::Silent)??))
    }

    fn speak(stream: Box<dyn Stream>, info: Value) -> Self {
        let (reader, writer) = split(stream);
        let writer = Arc::new(Mutex::new(writer));
        let (sender, events) = mpsc::unbounded_channel();
        let reading = tokio::spawn(read(BufReader::new(reader), writer.clone(), sender));
        Self {
            writer,
            events,
            reading,
            info,
            sids: 0,
            inbox: "_INBOX".to_owned(),
            last_complaint: None,
            delivered: VecDeque::new(),
        }
    }

    /// Connects and logs in; `inbox` is the prefix of the subjects to which requests are answered.
    ///
    /// # Errors
    /// When there is no nats-server, or it does not let us in.
    pub async fn login(
        address: &TlsServer,
        login: &RawLogin,
        inbox: &str,
    ) -> Result<Self, WireError> {
        let mut wire = Self::dial(address).await?;
        inbox.clone_into(&mut wire.inbox);
        let offer = wire.offer(login)?;
        wire.enter(&offer).await.map(|()| wire)
    }

    /// What the server said of itself.
    #[must_use]
    pub fn info(&self) -> &Value {
        &self.info
    }

    /// What the server asked to be signed; empty when it asked nothing.
    #[must_use]
    pub fn nonce(&self) -> &str {
        self.info["nonce"].as_str().unwrap_or_default()
    }

    /// The CONNECT options with which somebody logs in here.
    ///
    /// # Errors
    /// When the seed cannot sign.
    pub fn offer(&self, login: &RawLogin) -> Result<Value, WireError> {
        Ok(match login {
            RawLogin::Nobody => json!({}),
            RawLogin::Password(user) => json!({"user": user, "pass": user}),
            RawLogin::Jwt(jwt, seed) => {
                let mut offer = self.offer(&RawLogin::Nkey(seed.clone()))?;
                if let Some(offer) = offer.as_object_mut() {
                    offer.insert("jwt".to_owned(), (&**jwt).into());
                }
                offer
            }
            RawLogin::Nkey(seed) => {
                let signer = Signer::new(seed)?;
                let signature = signer.sign(self.nonce().as_bytes());
                json!({"nkey": signer.public().as_str(), "sig": BASE64URL_NOPAD.encode(&signature)})
            }
        })
    }

    /// Sends CONNECT with these options beside the usual ones, and waits until the server let us
    /// in or said why not.
    ///
    /// # Errors
    /// [`WireError::Refused`] when it did not let us in.
    pub async fn enter(&mut self, options: &Value) -> Result<(), WireError> {
        let mut connect = json!({"verbose": false, "pedantic": false, "tls_required": false,
            "lang": "solewriter", "version": env!("CARGO_PKG_VERSION"), "protocol": 1,
            "headers": true, "no_responders": true, "echo": true});
        if let (Some(usual), Some(given)) = (connect.as_object_mut(), options.as_object()) {
            usual.extend(given.clone());
        }
        self.send(format!("CONNECT {connect}\r\n").as_bytes()).await;
        match self.fence().await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(said)) | Err(WireError::Closed(Some(said))) => Err(WireError::Refused(said)),
            Err(WireError::Closed(None)) => Err(WireError::Refused("without a word".to_owned())),
            Err(error) => Err(error),
        }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        let mut writer = self.writer.lock().await;
        // What fails here shows in what is read next.
        let _ = writer.write_all(bytes).await;
        let _ = writer.flush().await;
    }

    /// Waits until the server has read everything sent so far. Gives its first complaint.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn fence(&mut self) -> Result<Said, WireError> {
        self.send(b"PING\r\n").await;
        let mut said = Ok(());
        let until = Instant::now() + DEADLINE;
        loop {
            match timeout_at(until, self.events.recv()).await {
                Err(_) => return Err(WireError::Silent),
                Ok(None) => return Err(WireError::Closed(self.last_complaint.take())),
                Ok(Some(Event::Pong)) => return Ok(said),
                Ok(Some(Event::Message(message))) => self.delivered.push_back(message),
                Ok(Some(Event::Complaint(text))) => {
                    self.last_complaint = Some(text.clone());
                    said = said.and(Err(text));
                }
            }
        }
    }

    /// Publishes, and waits until the server has read it. `reply` and `headers` (lines without
    /// the first, `NATS/1.0`) may be empty.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn publish(
        &mut self,
        subject: &str,
        reply: &str,
        headers: &str,
        payload: &[u8],
    ) -> Result<Said, WireError> {
        self.send(&publication(subject, reply, headers, payload)).await;
        self.fence().await
    }

    /// Subscribes, and waits until the server has read it. `queue` may be empty.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn subscribe(&mut self, subject: &str, queue: &str) -> Result<Said, WireError> {
        self.sids += 1;
        self.send(format!("SUB {subject} {queue} {}\r\n", self.sids).as_bytes()).await;
        self.fence().await
    }

    /// The number of the last subscription.
    #[must_use]
    pub fn last_sid(&self) -> u64 {
        self.sids
    }

    /// Waits until the server closes the connection. Gives its last complaint.
    ///
    /// # Errors
    /// [`WireError::Silent`] when it does not in that time.
    pub async fn closed(&mut self, within: Duration) -> Result<Option<String>, WireError> {
        let until = Instant::now() + within;
        loop {
            match timeout_at(until, self.events.recv()).await {
                Err(_) => return Err(WireError::Silent),
                Ok(None) => return Ok(self.last_complaint.take()),
                Ok(Some(Event::Message(message))) => self.delivered.push_back(message),
                Ok(Some(Event::Complaint(text))) => self.last_complaint = Some(text),
                Ok(Some(Event::Pong)) => {}
            }
        }
    }

    /// The next message, if one comes in time.
    pub async fn next(&mut self, within: Duration) -> Option<Message> {
        if let Some(message) = self.delivered.pop_front() {
            return Some(message);
        }
        let until = Instant::now() + within;
        loop {
            match timeout_at(until, self.events.recv()).await.ok()?? {
                Event::Message(message) => return Some(message),
                Event::Complaint(text) => self.last_complaint = Some(text),
                Event::Pong => {}
            }
        }
    }

    /// Sends a request and waits for its answer. The first one subscribes to our inbox.
    ///
    /// # Errors
    /// When it is refused, or nobody answers.
    pub async fn request(
        &mut self,
        subject: &str,
        headers: &str,
        payload: &[u8],
    ) -> Result<Message, WireError> {
        self.sids += 1;
        let (sid, reply) = (self.sids, format!("{}.{:016x}", self.inbox, rand::random::<u64>()));
        let mut bytes = format!("SUB {reply} {sid}\r\n").into_bytes();
        bytes.extend(publication(subject, &reply, headers, payload));
        self.send(&bytes).await;
        self.fence().await?.map_err(WireError::Refused)?;
        let until = Instant::now() + DEADLINE;
        let answer = loop {
            // That nobody hears it is told to one subscription alone, perhaps a wider one.
            let answers = |m: &Message| m.sid == sid || m.subject == reply;
            if let Some(at) = self.delivered.iter().position(answers) {
                break self.delivered.remove(at);
            }
            let Ok(Some(event)) = timeout_at(until, self.events.recv()).await else { break None };
            if let Event::Message(message) = event {
                self.delivered.push_back(message);
            }
        };
        self.send(format!("UNSUB {sid}\r\n").as_bytes()).await;
        answer
            .filter(|a| !a.headers.starts_with("NATS/1.0 503"))
            .ok_or_else(|| WireError::Unanswered(subject.to_owned()))
    }

    /// A request of JetStream's API; the answer is JSON.
    ///
    /// # Errors
    /// When it is refused, or nobody answers.
    pub async fn api(&mut self, request: &str, body: &Value) -> Result<Value, WireError> {
        let payload = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.request(&format!("$JS.API.{request}"), "", payload.as_bytes()).await?;
        Ok(answer.json())
    }
}

/// The bytes of a PUB or HPUB.
fn publication(subject: &str, reply: &str, headers: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = if headers.is_empty() {
        format!("PUB {subject} {reply} {}\r\n", payload.len())
    } else {
        let headers = format!("NATS/1.0\r\n{headers}\r\n\r\n");
        let (head, all) = (headers.len(), headers.len() + payload.len());
        format!("HPUB {subject} {reply} {head} {all}\r\n{headers}")
    }
    .into_bytes();
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// The server's INFO, read byte by byte: what follows may be the handshake of TLS.
async fn greeting(stream: &mut (impl AsyncReadExt + Unpin)) -> Result<Value, WireError> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() < LONGEST_GREETING {
        match stream.read_u8().await {
            Ok(byte) => line.push(byte),
            Err(_) => break,
        }
    }
    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
    line.strip_prefix("INFO ")
        .and_then(|info| serde_json::from_str(info).ok())
        .ok_or(WireError::NotNats(line))
}

type Reader = BufReader<ReadHalf<Box<dyn Stream>>>;

/// A line without its end; empty when the connection is closed.
async fn line(reader: &mut Reader) -> String {
    let mut line = Vec::new();
    // A reset is a way to close.
    let _ = reader.take(LONGEST_LINE).read_until(b'\n', &mut line).await;
    String::from_utf8_lossy(&line).trim_end().to_owned()
}

/// Reads until the connection ends or speaks something else.
async fn read(
    mut reader: Reader,
    writer: Arc<Mutex<WriteHalf<Box<dyn Stream>>>>,
    events: mpsc::UnboundedSender<Event>,
) {
    loop {
        let line = line(&mut reader).await;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let event = match words.as_slice() {
            ["MSG", words @ .., all] => message(&mut reader, words, "0", all).await,
            ["HMSG", words @ .., head, all] => message(&mut reader, words, head, all).await,
            ["PONG"] => Some(Event::Pong),
            ["-ERR", ..] => {
                let said = line.strip_prefix("-ERR").unwrap_or_default().trim();
                Some(Event::Complaint(said.trim_matches('\'').to_owned()))
            }
            ["PING"] => {
                let _ = writer.lock().await.write_all(b"PONG\r\n").await;
                continue;
            }
            ["INFO", ..] | ["+OK"] => continue,
            _ => None,
        };
        let Some(event) = event else { return };
        if events.send(event).is_err() {
            return;
        }
    }
}

async fn message(reader: &mut Reader, words: &[&str], head: &str, all: &str) -> Option<Event> {
    let (subject, sid, reply) = match *words {
        [subject, sid] => (subject, sid, None),
        [subject, sid, reply] => (subject, sid, Some(reply.to_owned())),
        _ => return None,
    };
    let (head, all): (usize, usize) = (head.parse().ok()?, all.parse().ok()?);
    if all > LARGEST_MESSAGE || head > all {
        return None;
    }
    let mut body = vec![0; all + 2];
    reader.read_exact(&mut body).await.ok()?;
    body.truncate(all);
    let payload = body.split_off(head);
    Some(Event::Message(Message {
        subject: subject.to_owned(),
        sid: sid.parse().ok()?,
        reply,
        headers: String::from_utf8_lossy(&body).into_owned(),
        payload,
    }))
}
