//! How anything here connects to nats-server: who it is, TLS, and its inbox.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, Request, RequestErrorKind, ServerAddr,
};
use tokio::time::{sleep, timeout};

use crate::nats::{Login, Tls, tls_client};

/// The inboxes of solewriter's own users in the callout's account; they are permitted these
/// (`deploy/nats-server.conf`).
pub const INBOX: &str = "_INBOX.solewriter";

/// A subject of our own users that nobody listens to.
pub const NOBODY: &str = "solewriter.nobody";

/// What lets the callout's user list and delete consumers, and end what was asked of them.
pub const CONSUMERS_NEED: &str = "the account AUTH imports $JS.API.STREAM.NAMES, CONSUMER.LIST.*, \
    CONSUMER.DELETE.*.* and CONSUMER.LEADER.STEPDOWN.*.* from STATE as $JS.STATE.API.…, those of \
    consumers from AUDIT as $JS.AUDIT.API.…, and the callout's user may publish to them (deploy/nats-server.conf)";

/// How long the server may take to say that nobody listens: longer than it waits for an answer
/// about a client.
const PROOF: Duration = Duration::from_secs(12);

/// The longest pause between two attempts to connect.
const RETRY_AT_MOST: Duration = Duration::from_secs(2);

/// A connection that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The login is no good.
    #[error("credentials: {0}")]
    Credentials(std::io::Error),
    /// nats-server does not say no, and does not let the user do anything either.
    #[error(
        "{servers}: the server does not let this user in: is it in auth_callout.auth_users, and \
         may it publish to {NOBODY} and subscribe to {INBOX}.>?"
    )]
    NotIn {
        /// Where.
        servers: String,
    },
    /// Something takes connections there and does not speak as a nats-server does.
    #[error(
        "{servers}: no answer within {seconds} s: is nats-server listening there, and is it \
         running (not stopped, not out of memory)?"
    )]
    Silent {
        /// Where.
        servers: String,
        /// How long was waited.
        seconds: u64,
    },
    /// nats-server cannot be reached, or refuses.
    #[error("cannot connect to {servers}: {}: {}", chain(.error), advice(.error))]
    Connect {
        /// Where.
        servers: String,
        /// Why not.
        error: ConnectError,
    },
}

/// The account that a client is in, if it may ask.
pub async fn account(client: &Client) -> Option<String> {
    let asked = client.request("$SYS.REQ.USER.INFO", "".into());
    let answer = timeout(Duration::from_secs(2), asked).await.ok()?.ok()?;
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).ok()?;
    Some(answer.pointer("/data/account")?.as_str()?.to_owned())
}

/// Options for a connection of that login, with an inbox of our own users.
///
/// # Errors
/// When the credentials cannot be parsed.
pub fn options(login: &Login, tls: &Tls, name: &str) -> Result<ConnectOptions, BrokerError> {
    let options = match login {
        Login::Nkey(seed) => ConnectOptions::with_nkey(seed.expose().to_owned()),
        Login::Credentials(text) => {
            ConnectOptions::with_credentials(text.expose()).map_err(BrokerError::Credentials)?
        }
    };
    Ok(tls.apply(options).name(name).custom_inbox_prefix(INBOX))
}

/// Connects once, as a user who may send requests to [`NOBODY`]; what is wrong is the error.
///
/// # Errors
/// [`BrokerError`].
pub async fn connect(
    servers: &[ServerAddr],
    options: ConnectOptions,
) -> Result<Client, BrokerError> {
    connect_within(PROOF, servers, options).await
}

/// The same with so much time for each of the two steps: the connection, and the proof.
async fn connect_within(
    patience: Duration,
    servers: &[ServerAddr],
    options: ConnectOptions,
) -> Result<Client, BrokerError> {
    let names = || addresses(servers).join(", ");
    let Ok(connected) = timeout(patience, options.connect(servers)).await else {
        return Err(BrokerError::Silent { servers: names(), seconds: patience.as_secs() });
    };
    let client = connected.map_err(|error| BrokerError::Connect { servers: names(), error })?;
    let proved = tokio::select! {
        proved = is_in(&client, patience) => proved,
        () = is_out(&client) => false,
    };
    if proved { Ok(client) } else { Err(BrokerError::NotIn { servers: names() }) }
}

/// Whether the server does something for us: nobody listens to that subject, and the server says
/// so. That a connection is reported as made proves less: nats-server pings a client whose
/// authorization it still waits for, and async-nats 0.51 takes that for a welcome.
async fn is_in(client: &Client, patience: Duration) -> bool {
    // The request's own time begins when it is on its way, which it may never be.
    let request = Request::new().timeout(Some(patience));
    let Ok(answer) = timeout(patience, client.send_request(NOBODY, request)).await else {
        return false;
    };
    match answer {
        Ok(_) => true,
        Err(error) => error.kind() == RequestErrorKind::NoResponders,
    }
}

/// Ends when the connection does.
async fn is_out(client: &Client) {
    while client.connection_state() == State::Connected {
        sleep(Duration::from_millis(20)).await;
    }
}

/// How long attempts that fail for one reason are only counted, before it is told again.
const TELL_AGAIN: Duration = Duration::from_secs(30);
/// How many reasons are told apart at a time.
const MAX_REASONS: usize = 16;

/// Why attempts to connect failed, of the whole process: an instance makes several connections,
/// and one certificate that is not trusted keeps all of them out.
static REASONS: Mutex<Reasons> = Mutex::new(Reasons(BTreeMap::new()));

/// When each reason was told last, and how many attempts failed for it since.
struct Reasons(BTreeMap<String, (Instant, u64)>);

impl Reasons {
    /// Counts a failure. Gives how many there were since the reason was told last, this one
    /// included, if it is to be told now.
    fn tell(&mut self, reason: &str, now: Instant) -> Option<u64> {
        if let Some((told, since)) = self.0.get_mut(reason) {
            *since += 1;
            if now.duration_since(*told) < TELL_AGAIN {
                return None;
            }
            *told = now;
            return Some(std::mem::take(since));
        }
        if self.0.len() >= MAX_REASONS {
            self.0.clear();
        }
        self.0.insert(reason.to_owned(), (now, 0));
        Some(1)
    }
}

/// Says why an attempt failed, unless that was said just now.
fn tell_failure(name: &str, servers: &[ServerAddr], error: &ConnectError, pause: Duration) {
    let reason = chain(error);
    // Each connection has its own user.
    let of_user = is_of_user(error).then(|| format!("{name}: {reason}"));
    let mut reasons = REASONS.lock().unwrap_or_else(PoisonError::into_inner);
    let attempts = reasons.tell(of_user.as_ref().unwrap_or(&reason), Instant::now());
    drop(reasons);
    let Some(attempts) = attempts else { return };
    tracing::error!(
        event = "connect_failed", connection = name, servers = ?addresses(servers),
        error = reason,
        attempts,
        retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
        "cannot connect to nats-server: {}", advice(error),
    );
}

/// Connects, trying until it works: a broker that is not up yet, or restarts, is no reason to
/// give up. What is wrong is logged, the same reason now and then.
///
/// # Errors
/// When `options` cannot be made.
pub async fn connect_patiently(
    servers: &[ServerAddr],
    name: &str,
    options: impl Fn() -> Result<ConnectOptions, BrokerError>,
) -> Result<Client, BrokerError> {
    let mut pause = Duration::from_millis(100);
    loop {
        let options = options()?.reconnect_delay_callback(|attempts| {
            let doublings = u32::try_from(attempts.min(10)).unwrap_or(10);
            (Duration::from_millis(10) * 2u32.saturating_pow(doublings)).min(RETRY_AT_MOST)
        });
        match options.connect(servers).await {
            Ok(client) => return Ok(client),
            Err(error) => tell_failure(name, servers, &error, pause),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_AT_MOST);
    }
}

/// `HOST:PORT` of each, for messages.
pub fn addresses(servers: &[ServerAddr]) -> Vec<String> {
    servers.iter().map(|s| format!("{}:{}", s.host(), s.port())).collect()
}

/// An error with all its causes, except those that add nothing.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let link = cause.to_string();
        if !text.contains(&link) {
            text.push_str(": ");
            text.push_str(&link);
        }
        source = cause.source();
    }
    text
}

/// What keeps a connection from being made, to its last link; `None` when nothing does. Of its
/// attempts to come back, async-nats 0.51 tells the kind alone: "IO error" for a certificate that
/// is not trusted.
pub async fn why(servers: &[ServerAddr], options: ConnectOptions) -> Option<String> {
    match timeout(PROOF, options.connect(servers)).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(format!("{}: {}", chain(&error), advice(&error))),
        Err(_) => Some(format!("no answer within {} s", PROOF.as_secs())),
    }
}

/// Whether TLS is the reason: then nothing else can be said of the server.
#[must_use]
pub fn is_tls(error: &ConnectError) -> bool {
    error.kind() == ConnectErrorKind::Tls || tls_client::cause(error).is_some()
}

/// Whether the server refuses who connects, and not everybody.
fn is_of_user(error: &ConnectError) -> bool {
    use ConnectErrorKind::{Authentication, AuthorizationViolation};
    matches!(error.kind(), Authentication | AuthorizationViolation)
}

/// What to look at first.
pub fn advice(error: &ConnectError) -> &'static str {
    if let Some(cause) = tls_client::cause(error) {
        return tls_client::advice(cause);
    }
    if is_of_user(error) {
        return "it refuses this user: is the key in the server's configuration, and in \
                auth_callout.auth_users?";
    }
    match error.kind() {
        ConnectErrorKind::Tls => "TLS failed: check [nats.tls], and the server's certificate",
        // A server that waits for TLS hangs up when none comes.
        ConnectErrorKind::Io if chain(error).contains("got nothing") => {
            "it hung up without its INFO: where the server has `handshake_first`, set [nats.tls] \
             first = true"
        }
        _ => "is it running, and is its address in [nats] servers?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A listener that takes every connection, says `greeting`, answers the first PING if told to,
    /// and nothing after that.
    async fn mute(greeting: &'static str, pongs: bool) -> ServerAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    stream.write_all(greeting.as_bytes()).await.unwrap();
                    let (mut heard, mut chunk) = (Vec::new(), [0; 1024]);
                    let mut answered = !pongs;
                    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
                        heard.extend_from_slice(&chunk[..length]);
                        if !answered && heard.ends_with(b"PING\r\n") {
                            stream.write_all(b"PONG\r\n").await.unwrap();
                            answered = true;
                        }
                    }
                });
            }
        });
        format!("nats://127.0.0.1:{port}").parse().unwrap()
    }

    const INFO: &str = "INFO {\"server_id\":\"x\",\"server_name\":\"x\",\"version\":\"2.15.1\",\"proto\":1,\
                        \"host\":\"x\",\"port\":1,\"headers\":true,\"max_payload\":1048576}\r\n";

    #[test]
    fn one_reason_is_told_once_and_then_with_its_count() {
        let mut reasons = Reasons(BTreeMap::new());
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        // Four connections, and one of them for another reason.
        let told = ["tls", "tls", "refused", "tls"].map(|reason| reasons.tell(reason, at(0)));
        assert_eq!(told, [Some(1), None, Some(1), None]);
        assert_eq!([reasons.tell("tls", at(29)), reasons.tell("tls", at(30))], [None, Some(4)]);
        assert_eq!([reasons.tell("tls", at(31)), reasons.tell("tls", at(60))], [None, Some(2)]);
        for reason in 0..1000 {
            assert_eq!(reasons.tell(&reason.to_string(), at(60)), Some(1));
            assert!(reasons.0.len() <= MAX_REASONS);
        }
    }

    #[tokio::test]
    async fn whoever_says_nothing_is_not_waited_for() {
        let ended = async |patience, greeting, pongs| {
            let servers = [mute(greeting, pongs).await];
            let began = tokio::time::Instant::now();
            let connecting = connect_within(patience, &servers, ConnectOptions::new());
            let outcome = timeout(Duration::from_secs(60), connecting).await.expect("an end");
            assert!(began.elapsed() >= patience);
            outcome.expect_err("no connection").to_string()
        };
        for greeting in ["", INFO] {
            let error = ended(Duration::from_millis(200), greeting, false).await;
            let said = "no answer within 0 s: is nats-server listening there";
            assert!(error.contains(said), "{greeting:?}: {error}");
        }
        // On a machine that is busy the answer takes its time.
        let mut patience = Duration::from_millis(200);
        loop {
            let error = ended(patience, INFO, true).await;
            if error.contains("the server does not let this user in") {
                break;
            }
            patience *= 2;
            assert!(patience < Duration::from_secs(30), "{error}");
        }
    }
}
