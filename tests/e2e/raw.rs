//! A client that speaks the wire protocol itself, for what no library sends.

use std::collections::VecDeque;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value, json};
use solewriter::keys::{Seed, Signer, User};
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream,
    ReadHalf, WriteHalf, duplex, split,
};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::deployment::{DEADLINE, Deployment, Service};

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl Stream for TcpStream {}
impl Stream for DuplexStream {}

/// A message that was delivered.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    pub subject: String,
    pub sid: u64,
    pub reply: Option<String>,
    /// The header lines as sent; empty without headers.
    pub headers: String,
    pub payload: Vec<u8>,
}

pub struct Raw {
    reader: BufReader<ReadHalf<Box<dyn Stream>>>,
    writer: WriteHalf<Box<dyn Stream>>,
    info: Value,
    sids: u64,
    /// Messages that came while something else was waited for.
    pub delivered: VecDeque<Message>,
}

impl Raw {
    /// Connects and reads the server's INFO; sends nothing.
    pub async fn dial(url: &str) -> Self {
        let address = url.split_once("://").unwrap().1;
        Self::over(Box::new(TcpStream::connect(address).await.unwrap())).await
    }

    /// The same through a WebSocket.
    pub async fn dial_websocket(url: &str) -> Self {
        let address = url.split_once("://").unwrap().1;
        Self::over(Box::new(websocket(address).await)).await
    }

    async fn over(stream: Box<dyn Stream>) -> Self {
        let (reader, writer) = split(stream);
        let mut raw = Self {
            reader: BufReader::new(reader),
            writer,
            info: Value::Null,
            sids: 0,
            delivered: VecDeque::new(),
        };
        let line = raw.line().await;
        raw.info = serde_json::from_str(line.strip_prefix("INFO ").unwrap()).unwrap();
        raw
    }

    /// What the server asked to be signed.
    pub fn nonce(&self) -> String {
        self.info["nonce"].as_str().unwrap().to_owned()
    }

    /// The CONNECT options of the holder of a seed.
    pub fn proof(&self, seed: &Seed<User>) -> Value {
        let signer = Signer::new(seed).unwrap();
        let signature = signer.sign(self.nonce().as_bytes());
        json!({"nkey": signer.public().as_str(), "sig": BASE64URL_NOPAD.encode(&signature)})
    }

    /// Sends CONNECT with these options beside the usual ones, and waits until the server let
    /// the client in or said why not.
    pub async fn enter(&mut self, options: &Value) -> Result<(), String> {
        let mut connect = json!({"verbose": false, "pedantic": false, "tls_required": false,
            "lang": "raw", "version": "1", "protocol": 1, "headers": true, "no_responders": true,
            "echo": true});
        let usual = connect.as_object_mut().unwrap();
        usual.extend(options.as_object().unwrap().clone());
        self.send(format!("CONNECT {connect}\r\n").as_bytes()).await;
        self.fence().await
    }

    /// Logs in as a service of the test's policy.
    pub async fn login(deployment: &Deployment, service: &Service) -> Self {
        Self::try_login(deployment.url(), &service.seed).await.unwrap()
    }

    /// Logs in with a seed.
    pub async fn try_login(url: &str, seed: &Seed<User>) -> Result<Self, String> {
        let mut raw = Self::dial(url).await;
        let proof = raw.proof(seed);
        raw.enter(&proof).await.map(|()| raw)
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // What fails here shows in what is read next.
        let _ = self.writer.write_all(bytes).await;
        let _ = self.writer.flush().await;
    }

    /// Waits until the server has dealt with everything sent so far. Gives its first complaint.
    pub async fn fence(&mut self) -> Result<(), String> {
        self.send(b"PING\r\n").await;
        let mut complaint = None;
        loop {
            let line = self.line().await;
            if line == "PONG" {
                return complaint.map_or(Ok(()), Err);
            }
            if let Some(said) = line.strip_prefix("-ERR ") {
                complaint.get_or_insert(said.trim_matches('\'').to_owned());
            } else if line.is_empty() {
                return Err(complaint.unwrap_or_else(|| "closed".to_owned()));
            } else {
                self.take(&line).await;
            }
        }
    }

    /// Publishes, and waits until the server has dealt with it.
    pub async fn publish(&mut self, subject: &str, payload: &[u8]) -> Result<(), String> {
        self.publish_with(subject, "", "", payload).await
    }

    /// The same with a reply subject and header lines, each of which may be empty.
    pub async fn publish_with(
        &mut self,
        subject: &str,
        reply: &str,
        headers: &str,
        payload: &[u8],
    ) -> Result<(), String> {
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
        self.send(&bytes).await;
        self.fence().await
    }

    /// Subscribes, and waits until the server has dealt with it. Gives the subscription's number.
    pub async fn subscribe(&mut self, subject: &str) -> Result<u64, String> {
        self.sids += 1;
        self.send(format!("SUB {subject} {}\r\n", self.sids).as_bytes()).await;
        let sid = self.sids;
        self.fence().await.map(|()| sid)
    }

    /// Waits for a message.
    pub async fn message(&mut self) -> Message {
        loop {
            if let Some(message) = self.delivered.pop_front() {
                return message;
            }
            let line = self.line().await;
            assert!(!line.is_empty(), "the connection closed while a message was waited for");
            self.take(&line).await;
        }
    }

    /// Waits until the server closes the connection. Gives what it said last.
    pub async fn closed(&mut self) -> String {
        let mut last = String::new();
        loop {
            let line = self.line().await;
            if line.is_empty() {
                return last;
            }
            last = line;
        }
    }

    /// Deals with what is not an answer to something.
    async fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (head, all, words) = match words.as_slice() {
            ["MSG", words @ .., all] => (0, all.parse().unwrap(), words),
            ["HMSG", words @ .., head, all] => (head.parse().unwrap(), all.parse().unwrap(), words),
            ["PING"] => return self.send(b"PONG\r\n").await,
            ["INFO", ..] => return,
            _ => panic!("the server said {line:?}"),
        };
        let mut body = vec![0; all + 2];
        self.reader.read_exact(&mut body).await.unwrap();
        body.truncate(all);
        let payload = body.split_off(head);
        self.delivered.push_back(Message {
            subject: words[0].to_owned(),
            sid: words[1].parse().unwrap(),
            reply: words.get(2).map(|r| (*r).to_owned()),
            headers: String::from_utf8(body).unwrap(),
            payload,
        });
    }

    /// A line without its end; empty when the connection is closed.
    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = timeout(DEADLINE, self.reader.read_line(&mut line)).await;
        // A reset is a way to close.
        read.expect("the server said nothing").unwrap_or_default();
        line.trim_end().to_owned()
    }
}

/// The bytes inside the binary frames of a WebSocket, as a stream.
async fn websocket(address: &str) -> DuplexStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let key = BASE64.encode(b"sixteen bytes!!!");
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    let (ours, theirs) = duplex(64 * 1024);
    let (mut from_server, mut to_server) = stream.into_split();
    let (mut from_client, mut to_client) = split(theirs);
    tokio::spawn(async move {
        let mut bytes = vec![0; 32 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut bytes).await {
            // Final, binary; masked, as a client's frames must be, with zeros.
            let mut frame = vec![0x82];
            if length < 126 {
                frame.push(0x80 | u8::try_from(length).unwrap());
            } else {
                frame.push(0xFE); // masked, and the length in the next two bytes
                frame.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            }
            frame.extend_from_slice(&[0; 4]);
            frame.extend_from_slice(&bytes[..length]);
            if to_server.write_all(&frame).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Ok(kind) = from_server.read_u8().await {
            let Ok(short) = from_server.read_u8().await else { break };
            let length = match short {
                126 => u64::from(from_server.read_u16().await.unwrap_or_default()),
                127 => from_server.read_u64().await.unwrap_or_default(),
                short => u64::from(short),
            };
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            if from_server.read_exact(&mut payload).await.is_err() {
                break;
            }
            // A control frame is none of the client's business.
            if kind & 0x08 == 0 && to_client.write_all(&payload).await.is_err() {
                break;
            }
        }
        let _ = to_client.shutdown().await;
    });
    ours
}
