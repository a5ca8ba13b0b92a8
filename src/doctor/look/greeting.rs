//! What a server says before anybody logs in, and what becomes of those who should not get in.

use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::super::seen::{Address, Blind, Entry, Info, Look};
use crate::nats::certificate::Validity;
use crate::nats::connect::{self, BrokerError, account};
use crate::nats::raw_client::{self, TlsError, TlsServer, WireError};
use crate::nats::{Login, Tls};

/// How long a server may take to greet.
const GREETING: Duration = Duration::from_secs(5);
/// How long a refusal may take: more than any sensible `authorization.timeout`.
const REFUSAL: Duration = Duration::from_secs(30);

/// Reads each address's INFO.
pub async fn greetings(servers: &[ServerAddr], tls: &Tls) -> Vec<Address> {
    let each = servers.iter().map(|server| greeting(server, tls));
    futures_util::future::join_all(each).await
}

async fn greeting(server: &ServerAddr, tls: &Tls) -> Address {
    let host = server.host();
    let plain = host.trim_matches(['[', ']']);
    let greeted = match timeout(GREETING, read(server, tls)).await {
        Ok(greeted) => greeted,
        Err(_) => Err(silent(&format!("did not answer within {} s", GREETING.as_secs()))),
    };
    let (info, certificate) = match greeted {
        Ok((info, certificate)) => (Ok(info), certificate),
        Err(blind) => (Err(blind), None),
    };
    Address {
        name: format!("{host}:{}", server.port()),
        loopback: host == "localhost" || plain.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        tls: tls.required || tls.first || server.tls_required(),
        info,
        certificate,
    }
}

fn silent(what: &str) -> Blind {
    Blind::new(what, "start nats-server there, make it reachable, or remove it from [nats] servers")
}

async fn read(server: &ServerAddr, tls: &Tls) -> Look<(Info, Option<Validity>)> {
    let unusable = |error: TlsError| Blind::new(error.to_string(), "see `tls`");
    let server = TlsServer::new(server.clone(), tls).map_err(unusable)?;
    let greeted = raw_client::greet(&server).await.map_err(|error| match error {
        WireError::Connect { source, .. } => silent(&source.to_string()),
        WireError::Tls(error) => unusable(error),
        _ => silent("answers, but not like a nats-server"),
    })?;
    let info = serde_json::from_value(greeted.info);
    let info = info.map_err(|_| silent("answers, but not like a nats-server"))?;
    Ok((info, greeted.certificate))
}

/// What a stranger of this run is called. Nobody else can know the name, so a connection that has it is
/// ours, and not yet closed where it was let in.
pub static STRANGER: LazyLock<String> =
    LazyLock::new(|| format!("solewriter doctor, a stranger ({:016x})", rand::random::<u64>()));

/// Connects with these credentials and says how it ended.
///
/// That async-nats says "connected" proves nothing: a server that still waits for the callout pings
/// the client, which it takes for a welcome. So the client asks something that only who is let in
/// can ask, and whatever comes first counts: an answer, a violation, or the end.
pub async fn enter(server: &ServerAddr, options: ConnectOptions) -> Look<Entry> {
    let (sender, mut events) = mpsc::unbounded_channel();
    let options = options.name(&*STRANGER);
    let options = options.connection_timeout(REFUSAL).event_callback(move |event| {
        let sender = sender.clone();
        async move {
            let _ = sender.send(event);
        }
    });
    let began = Instant::now();
    let client = match options.connect(server).await {
        Ok(client) => client,
        Err(error) => return refusal(&error, began.elapsed()),
    };
    let ended = async {
        while let Some(event) = events.recv().await {
            match event {
                Event::ServerError(ServerError::Other(text)) if text.contains("ermissions") => {
                    return Ok(Entry::Entered(None));
                }
                Event::Disconnected | Event::ServerError(_) | Event::ClientError(_) => {
                    return Ok(Entry::Refused(began.elapsed()));
                }
                _ => {}
            }
        }
        Ok(Entry::Refused(began.elapsed()))
    };
    tokio::select! {
        ended = ended => ended,
        account = told(&client) => Ok(Entry::Entered(account)),
        () = sleep(REFUSAL) => Err(Blind::new(
            format!("neither let in nor refused within {} s", REFUSAL.as_secs()),
            "look at nats-server's log",
        )),
    }
}

fn refusal(error: &async_nats::ConnectError, took: Duration) -> Look<Entry> {
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            Ok(Entry::Refused(took))
        }
        _ => Err(Blind::new(
            format!("the connection failed otherwise: {error}"),
            "look at nats-server's log",
        )),
    }
}

/// The account that a client is in; never, while nobody answers.
async fn told(client: &Client) -> Option<String> {
    loop {
        if let Some(account) = account(client).await {
            return Some(account);
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Somebody with a key that nobody else has.
///
/// # Errors
/// When it cannot be used.
pub fn stranger(login: &Login, tls: &Tls) -> Result<ConnectOptions, BrokerError> {
    connect::options(login, tls, &STRANGER)
}
