//! Sends traces by OTLP over HTTP, in protobuf: a thread of its own, with one request at a time. A
//! receiver that is away is tried again, and meanwhile the queue fills and spans are dropped.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use axum::http::uri::Scheme;
use axum::http::{HeaderValue, Request, StatusCode, Uri};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::{Data, QUEUE, Settings, Tracer, Value, otlp};
use crate::http_client;
use crate::nats::Tls;
use crate::nats::tls_client::client_config;
use crate::telemetry::{Metrics, SpanLoss};
use solewriter_types::audit_event::words;

/// Traces in one request at most, and how long the first of them waits for the others.
const BATCH: usize = 256;
const GATHER: Duration = Duration::from_secs(1);
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often one is tried, and the first pause; each pause is twice the one before.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// The most of an answer that is read.
const MAX_ANSWER: usize = 64 * 1024;
/// How long the last traces may take when the service stops.
const LAST: Duration = Duration::from_secs(1);

/// The thread that sends.
pub struct Exporter {
    stop: watch::Sender<bool>,
    finished: oneshot::Receiver<()>,
}

/// What the thread has.
struct Sending {
    settings: Settings,
    tls: Option<Arc<ClientConfig>>,
    resource: Vec<(&'static str, Value)>,
    metrics: Arc<Metrics>,
    stop: watch::Receiver<bool>,
    /// Whether the last request failed: a failure is told once.
    failing: bool,
}

/// Why a request was not taken.
enum Failure {
    /// It may be taken another time.
    Away(String),
    /// It will never be.
    Refused(String),
}

impl Exporter {
    /// Starts the thread. `subject` is where requests come from.
    ///
    /// # Errors
    /// A message, when certificates cannot be read or there is no thread.
    pub fn start(
        settings: Settings,
        instance: &str,
        host: &str,
        subject: &'static str,
        queue_group: &str,
        metrics: Arc<Metrics>,
    ) -> Result<(Arc<Tracer>, Self), String> {
        let secured = settings.endpoint.scheme() == Some(&Scheme::HTTPS);
        let trust = Tls { ca: settings.ca.clone(), ..Tls::default() };
        let tls = secured.then(|| client_config(&trust, true)).transpose();
        let tls = tls.map_err(|error| format!("[traces] ca: {error}"))?.map(Arc::new);
        let (outbox, inbox) = mpsc::channel(QUEUE);
        let tracer = Arc::new(Tracer {
            one_in: settings.one_in,
            outbox,
            metrics: metrics.clone(),
            subject,
            queue_group: queue_group.to_owned(),
        });
        let resource = vec![
            ("service.name", "solewriter".into()),
            ("service.version", env!("CARGO_PKG_VERSION").into()),
            ("service.instance.id", instance.into()),
            ("host.name", host.into()),
        ];
        let (stop, stopped) = watch::channel(false);
        let (done, finished) = oneshot::channel();
        let sending = Sending { settings, tls, resource, metrics, stop: stopped, failing: false };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let thread = std::thread::Builder::new().name("traces".to_owned());
        let spawned = thread.spawn(move || {
            runtime.block_on(sending.run(inbox));
            let _ = done.send(());
        });
        spawned.map_err(|error| error.to_string())?;
        Ok((tracer, Self { stop, finished }))
    }

    /// Sends what waits, if that does not take long.
    pub async fn finish(self) {
        let _ = self.stop.send(true);
        let _ = timeout(2 * LAST, self.finished).await;
    }
}

impl Sending {
    async fn run(mut self, mut inbox: mpsc::Receiver<Data>) {
        while let Some(batch) = self.gather(&mut inbox).await {
            let (bytes, spans) = otlp::request(&self.resource, batch);
            self.deliver(bytes, spans).await;
        }
    }

    /// The next traces; `None` when there will be no more.
    async fn gather(&mut self, inbox: &mut mpsc::Receiver<Data>) -> Option<Vec<Data>> {
        let mut batch = Vec::new();
        let first = tokio::select! {
            first = inbox.recv() => first?,
            _ = self.stop.wait_for(|stop| *stop) => {
                inbox.close();
                inbox.recv().await?
            }
        };
        batch.push(first);
        let until = Instant::now() + GATHER;
        while batch.len() < BATCH {
            tokio::select! {
                more = timeout_at(until, inbox.recv()) => match more {
                    Ok(Some(more)) => batch.push(more),
                    Ok(None) | Err(_) => break,
                },
                _ = self.stop.wait_for(|stop| *stop), if !inbox.is_closed() => inbox.close(),
            }
        }
        Some(batch)
    }

    /// Sends one request until it is taken, or is given up.
    async fn deliver(&mut self, bytes: Vec<u8>, spans: u64) {
        let bytes = bytes::Bytes::from(bytes);
        let mut pause = PAUSE;
        for left in (0..TRIES).rev() {
            let stopping = *self.stop.borrow();
            let patience = if stopping { LAST } else { PATIENCE };
            let sent = timeout(patience, self.send(bytes.clone())).await;
            let sent = sent.unwrap_or_else(|_| Err(Failure::Away("no answer in time".to_owned())));
            match sent {
                Ok((rejected, why)) => {
                    let rejected = rejected.min(spans);
                    self.metrics.spans_sent(spans - rejected);
                    if rejected > 0 {
                        self.lost(SpanLoss::Refused, rejected, &why);
                    } else {
                        self.failing = false;
                    }
                    return;
                }
                Err(Failure::Refused(why)) => return self.lost(SpanLoss::Refused, spans, &why),
                Err(Failure::Away(why)) if left == 0 || stopping => {
                    return self.lost(SpanLoss::Unreachable, spans, &why);
                }
                Err(Failure::Away(why)) => self.tell(&why),
            }
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.stop.wait_for(|stop| *stop) => {}
            }
            pause *= 2;
        }
    }

    fn lost(&mut self, reason: SpanLoss, spans: u64, why: &str) {
        self.metrics.spans_dropped(reason, spans);
        self.tell(why);
    }

    /// Logs why spans do not get through: the first time.
    fn tell(&mut self, why: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(
                event = "traces_not_sent",
                endpoint = %self.settings.endpoint,
                error = words(why),
                "the receiver of traces does not take them: spans are dropped and counted",
            );
        }
    }

    /// One request. Gives how many spans were not taken, and why.
    async fn send(&self, bytes: bytes::Bytes) -> Result<(u64, String), Failure> {
        let away = |error: &dyn std::fmt::Display| Failure::Away(error.to_string());
        let endpoint = &self.settings.endpoint;
        let host = endpoint.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = endpoint.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await.map_err(|e| away(&e))?;
        let request = self.request(bytes).map_err(|e| Failure::Refused(e.to_string()))?;
        let response = match &self.tls {
            None => http_client::exchange(stream, request).await,
            Some(tls) => {
                let name = ServerName::try_from(host.to_owned()).map_err(|e| away(&e))?;
                let connector = TlsConnector::from(tls.clone());
                let stream = connector.connect(name, stream).await.map_err(|e| away(&e))?;
                http_client::exchange(stream, request).await
            }
        };
        let response = response.map_err(Failure::Away)?;
        let status = response.status();
        let answer = http_client::body(response.into_body(), MAX_ANSWER).await;
        match status {
            StatusCode::OK => Ok(otlp::rejected(&answer.unwrap_or_default())),
            // As the protocol has it, these may be tried again.
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Err(Failure::Away(format!("it answers {status}"))),
            status => Err(Failure::Refused(format!("it answers {status}"))),
        }
    }

    fn request(&self, bytes: bytes::Bytes) -> Result<Request<Body>, axum::http::Error> {
        let Settings { endpoint, headers, .. } = &self.settings;
        let path = endpoint.path_and_query().map_or("/", |path| path.as_str());
        let host = endpoint.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::post(path.parse::<Uri>()?)
            .header(HOST, host)
            .header(USER_AGENT, concat!("solewriter/", env!("CARGO_PKG_VERSION")))
            .body(Body::from(bytes))?;
        request.headers_mut().extend(headers.clone());
        let kind = HeaderValue::from_static("application/x-protobuf");
        request.headers_mut().insert(CONTENT_TYPE, kind);
        Ok(request)
    }
}
