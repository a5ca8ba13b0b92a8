//! Health and metrics over HTTP: `/livez`, `/readyz`, `/metrics`. Read-only, and no secrets, so
//! it asks for no credential; it listens on loopback unless told otherwise.
//!
//! Anybody who reaches it may open connections and leave them, so they are few, and a new one takes
//! the place of the oldest: no crowd uses up the descriptors that the policy and the audit spool
//! need, nor keeps the next probe waiting.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::service::Health;
use crate::telemetry::Exposition;

/// How many connections there are at most, and which part of all descriptors they may be.
const CONNECTIONS: u64 = 64;
const PART_OF_DESCRIPTORS: u64 = 4;

/// How long a connection may take for the head of a request, or be idle.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// How long it lives, whatever happens on it.
const LIFE: Duration = Duration::from_secs(300);
/// How long what was asked for before the end may take.
const FINISH_WITHIN: Duration = Duration::from_secs(2);
/// The pause after a connection could not be accepted, mostly for want of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

#[derive(Clone)]
struct Shared {
    metrics: Arc<Exposition>,
    health: Arc<Health>,
}

/// Lets this process have as many descriptors as it may. Gives how many.
pub fn raise_descriptor_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // Without an upper bound, what there is stays: an absurd number makes some systems slow.
    if let Some(maximum) = maximum
        && current.is_some_and(|current| current < maximum)
        && setrlimit(Resource::Nofile, Rlimit { current: Some(maximum), maximum: Some(maximum) })
            .is_ok()
    {
        return Some(maximum);
    }
    current
}

/// Serves until `shutdown` resolves, with a part of so many descriptors.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Exposition>,
    health: Arc<Health>,
    descriptors: Option<u64>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let router = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(Shared { metrics, health });
    let at_most = descriptors.map_or(CONNECTIONS, |all| CONNECTIONS.min(all / PART_OF_DESCRIPTORS));
    accept(&listener, &router, usize::try_from(at_most.max(1)).unwrap_or(1), shutdown).await;
}

async fn accept(
    listener: &TcpListener,
    router: &Router,
    at_most: usize,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = std::pin::pin!(shutdown);
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    // The oldest first.
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let Ok((stream, _)) = accepted else {
            sleep(ACCEPT_AGAIN).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        open.retain(|connection| !connection.is_finished());
        if open.len() >= at_most
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
            // Its descriptor is free before the next one is taken.
            while !oldest.is_finished() && connections.join_next().await.is_some() {}
        }
        open.push_back(connections.spawn(converse(stream, router.clone(), stopped.clone())));
    }
    let _ = stop.send(true);
    let finished = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(FINISH_WITHIN, finished).await;
}

/// The life of one connection.
async fn converse(stream: TcpStream, router: Router, mut stopped: watch::Receiver<bool>) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let conversation = async {
        let mut connection = std::pin::pin!(connection);
        // What goes wrong on it is the other side's affair.
        tokio::select! {
            _ = &mut connection => return,
            _ = stopped.wait_for(|stop| *stop) => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    };
    let _ = timeout(LIFE, conversation).await;
}

async fn readyz(State(shared): State<Shared>) -> impl IntoResponse {
    let (ready, report) = shared.health.report(jiff::Timestamp::now().as_second());
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, report)
}

/// In OpenMetrics, unless who asks takes the older text format and not this one.
async fn scrape(State(shared): State<Shared>, headers: HeaderMap) -> impl IntoResponse {
    let taken = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let taken: Vec<&str> = taken.flat_map(|value| value.split(',')).collect();
    let takes = |kind: &str| taken.iter().any(|one| one.trim().starts_with(kind));
    if takes("text/plain") && !takes("application/openmetrics-text") {
        let kind = "text/plain; version=0.0.4; charset=utf-8";
        return ([(header::CONTENT_TYPE, kind)], shared.metrics.encode_plain());
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], shared.metrics.encode())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 1024];
        let read = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    }

    /// A crowd that says nothing costs as many descriptors as are allowed, and the next who asks
    /// is answered.
    #[tokio::test]
    async fn a_new_connection_takes_the_place_of_the_oldest() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, mut stopped) = watch::channel(false);
        let router = Router::new().route("/livez", get(|| async { "alive\n" }));
        let server = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            accept(&listener, &router, 3, shutdown).await;
        });
        let mut first = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut first).await.contains("alive"));
        assert!(ask(&mut first).await.contains("alive"), "it is kept while there is room");
        let mut idle = Vec::new();
        for _ in 0..10 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let mut last = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut last).await.contains("alive"));
        // The oldest are closed: three are left, the newest among them.
        for old in std::iter::once(&mut first).chain(&mut idle[..8]) {
            let ended = timeout(Duration::from_secs(10), old.read(&mut [0; 16])).await.unwrap();
            assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        }
        for kept in &mut idle[8..] {
            assert!(ask(kept).await.contains("alive"));
        }
        stop.send(true).unwrap();
        timeout(Duration::from_secs(10), server).await.unwrap().unwrap();
    }
}
