//! A client that speaks the wire protocol itself, for what no library sends: that of `prove`, with
//! what a test wants to be so.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use data_encoding::BASE64;
use serde_json::{Value, json};
pub use solewriter::nats::raw_client::Message;
use solewriter::nats::raw_client::{RawLogin, Said, TlsServer, Wire, WireError};
use solewriter_core::keys::{Seed, User};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::net::TcpStream;

use super::deployment::{DEADLINE, Deployment, Service};

pub struct Raw(Wire);

impl Deref for Raw {
    type Target = Wire;

    fn deref(&self) -> &Wire {
        &self.0
    }
}

impl DerefMut for Raw {
    fn deref_mut(&mut self) -> &mut Wire {
        &mut self.0
    }
}

/// What the server said to something, the end of the connection included.
fn said(outcome: Result<Said, WireError>) -> Said {
    match outcome {
        Ok(said) => said,
        Err(WireError::Refused(said) | WireError::Closed(Some(said))) => Err(said),
        Err(WireError::Closed(None)) => Err("closed".to_owned()),
        Err(error) => panic!("{error}"),
    }
}

impl Raw {
    /// Connects and reads the server's INFO; sends nothing.
    pub async fn dial(url: &str) -> Self {
        Self(Wire::dial(&TlsServer::plain(url.parse().unwrap())).await.unwrap())
    }

    /// The same through a WebSocket.
    pub async fn dial_websocket(url: &str) -> Self {
        Self::dial_websocket_of(url, "").await.unwrap()
    }

    /// The same with more lines in the request, such as the origin that a browser names.
    pub async fn dial_websocket_of(url: &str, headers: &str) -> Result<Self, String> {
        let address = url.split_once("://").unwrap().1;
        let stream = websocket(address, headers).await?;
        Ok(Self(Wire::over(Box::new(stream)).await.unwrap()))
    }

    /// What the server asked to be signed.
    pub fn nonce(&self) -> String {
        self.info()["nonce"].as_str().unwrap().to_owned()
    }

    /// The CONNECT options of the holder of a seed.
    pub fn proof(&self, seed: &Seed<User>) -> Value {
        assert!(!self.nonce().is_empty());
        let seed = Arc::new(Seed::parse(seed.expose()).unwrap());
        self.offer(&RawLogin::Nkey(seed)).unwrap()
    }

    /// Sends CONNECT with these options beside the usual ones, and waits until the server let
    /// the client in or said why not.
    pub async fn enter(&mut self, options: &Value) -> Said {
        let mut connect = json!({"lang": "raw", "version": "1"});
        let ours = connect.as_object_mut().unwrap();
        ours.extend(options.as_object().unwrap().clone());
        said(self.0.enter(&connect).await.map(Ok))
    }

    /// Logs in as a service of the test's policy.
    pub async fn login(deployment: &Deployment, service: &Service) -> Self {
        Self::offering(deployment.url(), &deployment.service_login(service)).await.unwrap()
    }

    /// Logs in as a user that `solewriter init` made.
    pub async fn login_as(deployment: &Deployment, name: &str) -> Self {
        Self::offering(deployment.url(), &deployment.wire_login(name)).await.unwrap()
    }

    async fn offering(url: &str, login: &RawLogin) -> Result<Self, String> {
        let mut raw = Self::dial(url).await;
        let offer = raw.offer(login).unwrap();
        raw.enter(&offer).await.map(|()| raw)
    }

    /// Logs in with a seed.
    pub async fn try_login(url: &str, seed: &Seed<User>) -> Result<Self, String> {
        let mut raw = Self::dial(url).await;
        let proof = raw.proof(seed);
        raw.enter(&proof).await.map(|()| raw)
    }

    /// Waits until the server has dealt with everything sent so far. Gives its first complaint.
    pub async fn fence(&mut self) -> Said {
        said(self.0.fence().await)
    }

    /// Publishes, and waits until the server has dealt with it.
    pub async fn publish(&mut self, subject: &str, payload: &[u8]) -> Said {
        self.publish_with(subject, "", "", payload).await
    }

    /// The same with a reply subject and header lines, each of which may be empty.
    pub async fn publish_with(
        &mut self,
        subject: &str,
        reply: &str,
        headers: &str,
        payload: &[u8],
    ) -> Said {
        said(self.0.publish(subject, reply, headers, payload).await)
    }

    /// Subscribes, and waits until the server has dealt with it. Gives the subscription's number.
    pub async fn subscribe(&mut self, subject: &str) -> Result<u64, String> {
        said(self.0.subscribe(subject, "").await).map(|()| self.last_sid())
    }

    /// The same in a queue group.
    pub async fn subscribe_in(&mut self, subject: &str, queue: &str) -> Said {
        said(self.0.subscribe(subject, queue).await)
    }

    /// Waits for a message.
    pub async fn message(&mut self) -> Message {
        self.next(DEADLINE).await.expect("a message, and no end of the connection")
    }

    /// Waits until the server closes the connection. Gives what it complained of last.
    pub async fn closed(&mut self) -> String {
        self.0.closed(DEADLINE).await.unwrap().unwrap_or_default()
    }
}

/// The bytes inside the binary frames of a WebSocket, as a stream.
async fn websocket(address: &str, headers: &str) -> Result<DuplexStream, String> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let key = BASE64.encode(b"sixteen bytes!!!");
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    if !answer.starts_with(b"HTTP/1.1 101 ") {
        return Err(String::from_utf8_lossy(&answer).into_owned());
    }
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
    Ok(ours)
}
