//! Listens for questions, from those who may ask.

use std::fs::Permissions;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::UnixListener;

use super::desk::Desk;
use super::{QUESTION_AT_MOST, line};

/// Connections at most, a thread each. An instance of `serve` has 64 threads that ask at most.
const CONNECTIONS: usize = 128;
/// A connection on which nobody asks for so long is closed; who asks makes another.
const IDLE: Duration = Duration::from_secs(60);
/// A question may take so long from its first byte to its last, and so may its answer.
const WITHIN: Duration = Duration::from_secs(2);
/// The socket is for its owner and its group. Who asks is looked at besides.
const MODE: u32 = 0o660;

/// A socket on which nobody is answered yet. The file is removed at the end.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Socket {
    /// Binds the socket. What another signer left there is removed; one that is alive is not.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn bind(path: &Path) -> Result<Self, String> {
        let failed = |error: Error| format!("cannot listen at {}: {error}", path.display());
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(format!("{} is there already, and is no socket", path.display()));
            }
            Ok(_) => match UnixStream::connect(path) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
                Ok(_) => return Err(format!("another signer listens at {}", path.display())),
            },
        }
        // Until the mode is set, the folder keeps others out, and so does the look at each peer.
        let listener = UnixListener::bind(path).map_err(failed)?;
        let socket = Self { listener, path: path.to_owned() };
        std::fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(failed)?;
        Ok(socket)
    }

    /// Answers those users, for ever.
    pub async fn serve(&self, desk: Arc<Desk>, peers: &[u32]) {
        let open = Arc::new(AtomicUsize::new(0));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::error!(event = "accept_failed", %error);
                    // No file descriptors are left: some will be closed soon.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let peer = stream.peer_cred().ok().map(|peer| (peer.uid(), peer.pid()));
            let Some((uid, _)) = peer.filter(|(uid, _)| peers.contains(uid)) else {
                let (uid, pid) = peer.unzip();
                let pid = pid.flatten();
                tracing::warn!(event = "peer_refused", uid, pid, "this user may not ask (--peer)");
                continue;
            };
            if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
                open.fetch_sub(1, Ordering::Relaxed);
                tracing::warn!(event = "too_many_connections", uid, most = CONNECTIONS);
                continue;
            }
            let place = Place(open.clone());
            let desk = desk.clone();
            let started = stream.into_std().and_then(|stream| {
                stream.set_nonblocking(false)?;
                let named = std::thread::Builder::new().name("signer".to_owned());
                named.spawn(move || {
                    let _place = place;
                    converse(&stream, &desk);
                })
            });
            if let Err(error) = started {
                tracing::error!(event = "connection_failed", %error);
            }
        }
    }
}

/// A connection's place among those that there may be.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers one question after the other, until something is not as it should be.
fn converse(stream: &UnixStream, desk: &Desk) {
    loop {
        let question = match line::read(stream, QUESTION_AT_MOST, IDLE, WITHIN) {
            Ok(Some(question)) => question,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(event = "connection_closed", %error);
                return;
            }
        };
        let answer = desk.answer(&question, Timestamp::now().as_second());
        if let Err(error) = line::write(stream, answer, WITHIN) {
            tracing::debug!(event = "connection_closed", %error);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signer::keys::Keys;
    use solewriter_core::callout::signable::Bounds;
    use std::io::{Read, Write};

    const QUESTION: &[u8] = b"{\"v\":1,\"ask\":\"keys\"}\n";

    fn desk() -> Arc<Desk> {
        let bounds = Bounds { accounts: ["APP".to_owned()].into(), longest: 1 };
        Arc::new(Desk::new(Box::new(Keys::default()), Vec::new(), bounds, 1000))
    }

    /// What comes back for a question, from a signer that hears those users.
    async fn answer(peers: Vec<u32>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signer.sock");
        let socket = Socket::bind(&path).unwrap();
        let serving = tokio::spawn(async move { socket.serve(desk(), &peers).await });
        let asking = tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut answer = [0; 64];
            // Who is not heard may be cut off before or after it asked.
            let asked = stream.write_all(QUESTION).and_then(|()| stream.read(&mut answer));
            String::from_utf8_lossy(&answer[..asked.unwrap_or(0)]).into_owned()
        });
        let answer = asking.await.unwrap();
        serving.abort();
        answer
    }

    #[tokio::test]
    async fn another_user_is_not_heard() {
        let own = rustix::process::getuid().as_raw();
        assert_eq!(answer(vec![own]).await, "{\"keys\":[]}\n");
        assert_eq!(answer(vec![own.wrapping_add(1)]).await, "");
    }

    #[tokio::test]
    async fn what_is_no_socket_of_a_dead_signer_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signer.sock");
        std::fs::write(&path, "something").unwrap();
        assert!(Socket::bind(&path).is_err_and(|why| why.contains("is no socket")));
        std::fs::remove_file(&path).unwrap();
        // What a killed one left.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path).unwrap();
        assert!(Socket::bind(&path).is_err_and(|why| why.contains("another signer")));
        drop(socket);
        assert!(!path.exists());
    }
}
