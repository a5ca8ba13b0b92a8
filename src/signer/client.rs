//! Asks a signer, by its socket.

use std::borrow::Cow;
use std::io::{Error, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::{ANSWER_AT_MOST, Answer, Ask, BUSY, FAILED, Question, VERSION, line};
use solewriter_core::keys::{AccountKey, KeyHolder, SignError};

/// How long one question may take. The thread that asks answers nobody meanwhile.
const WITHIN: Duration = Duration::from_secs(1);
/// Connections that are kept for the next question.
const KEPT: usize = 80;

/// Why it is not known that a signer holds what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unheld {
    /// This process may not ask.
    #[error("{0}")]
    TurnedAway(String),
    /// It does not answer, or does not hold the key.
    #[error("{0}")]
    Fails(String),
}

/// A signer's socket.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    idle: Mutex<Vec<UnixStream>>,
}

impl Client {
    /// The signer that listens there. Nothing is connected yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), idle: Mutex::default() }
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the signer is there and holds those keys.
    ///
    /// # Errors
    /// [`Unheld`], in words.
    pub fn holds(&self, keys: &[AccountKey]) -> Result<(), Unheld> {
        let path = self.path.display();
        let question = Question { v: VERSION, ask: Ask::Keys, key: None, text: None };
        let answer = self.ask(&question).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => {
                Unheld::TurnedAway(format!("this user may not open the signer's socket {path}"))
            }
            _ if was_closed(&error) => Unheld::TurnedAway(format!(
                "the signer at {path} closed the connection: is this user among its --peer?"
            )),
            ErrorKind::TimedOut => {
                Unheld::Fails(format!("the signer at {path} does not answer within 1 s"))
            }
            _ => Unheld::Fails(format!("the signer at {path} cannot be asked: {error}")),
        })?;
        let Some(held) = answer.keys else {
            let why = answer.detail.unwrap_or_default();
            let what = format!("the signer at {path} does not say which keys it holds: {why}");
            return Err(Unheld::Fails(what));
        };
        match keys.iter().find(|key| !held.iter().any(|held| held == key.as_str())) {
            None => Ok(()),
            // What it says may be anything, and is not repeated.
            Some(key) => Err(Unheld::Fails(format!("the signer at {path} does not hold {key}"))),
        }
    }

    /// One question and its answer. A connection that the signer closed meanwhile is made anew.
    fn ask(&self, question: &Question<'_>) -> Result<Answer, Error> {
        let question = serde_json::to_vec(question)?;
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (stream, answer) = match kept.map(|stream| exchange(stream, question.clone())) {
            Some(Ok(done)) => done,
            Some(Err(error)) if !was_closed(&error) => return Err(error),
            Some(Err(_)) | None => exchange(self.connect()?, question)?,
        };
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push(stream);
        }
        Ok(answer)
    }

    /// Never waits: where so many wait to be taken on that there is no room, it fails.
    fn connect(&self) -> Result<UnixStream, Error> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(&self.path)?)?;
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false)?;
        Ok(stream)
    }
}

fn exchange(stream: UnixStream, question: Vec<u8>) -> Result<(UnixStream, Answer), Error> {
    line::write(&stream, question, WITHIN)?;
    let answer = line::read(&stream, ANSWER_AT_MOST, WITHIN, WITHIN)?;
    let answer = answer.ok_or(ErrorKind::UnexpectedEof)?;
    Ok((stream, serde_json::from_slice(&answer)?))
}

/// Whether the other end ended the connection, as it does with those that nobody uses.
fn was_closed(error: &Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

impl KeyHolder for Client {
    fn sign(&self, key: &AccountKey, text: &[u8]) -> Result<[u8; 64], SignError> {
        let text = std::str::from_utf8(text).map_err(|_| SignError::Refused)?;
        let answer = self.ask(&Question {
            v: VERSION,
            ask: Ask::Sign,
            key: Some(Cow::Borrowed(key.as_str())),
            text: Some(Cow::Borrowed(text)),
        });
        let answer = answer.map_err(|error| match error.kind() {
            ErrorKind::InvalidData | ErrorKind::InvalidInput => SignError::Wrong,
            _ => SignError::Unreachable,
        })?;
        match (answer.signature, answer.error.as_deref()) {
            (Some(signature), None) => BASE64URL_NOPAD
                .decode(signature.as_bytes())
                .ok()
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or(SignError::Wrong),
            (_, Some(BUSY)) => Err(SignError::Busy),
            (_, Some(FAILED)) => Err(SignError::Unreachable),
            _ => Err(SignError::Refused),
        }
    }
}
