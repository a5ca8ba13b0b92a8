//! The running service: subscribe, bound, authorise, reply, drain.
//!
//! Everything between a message and its reply is [`solewriter_core::callout::authorizer`], which is pure; what is
//! here is the connections to the broker and the bounds on work in progress. Each connection has a
//! thread of its own, which does everything for the requests that come on it; but what is large is
//! made and signed by one thread beside them (`large`).

mod answer;
mod connection;
mod health;
mod large;
mod queue;
mod shared;
mod tenants;
mod worker;

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

pub use self::answer::{Limits, Service};
pub use self::connection::{CALLOUT_SUBJECT, ServiceError, connect_beside, reconnect_delay};
pub use self::health::Health;
use self::queue::Queue;
use self::shared::Shared;
pub use self::tenants::{Tenant, Tenants};
use crate::nats::Nats;
use crate::service::worker::{End, Worker};

impl Service {
    /// Connects (as often as it takes), answers requests until `shutdown` resolves, then
    /// finishes what it took on. Requests are worked on by threads of their own, one for each
    /// connection.
    ///
    /// # Errors
    /// [`ServiceError`] when it cannot begin.
    pub async fn run(
        self: Arc<Self>,
        nats: Arc<Nats>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServiceError> {
        let connections = nats.connections.max(1);
        self.health.wanted.store(connections, Ordering::Relaxed);
        let shared = Arc::new(Shared {
            service: self,
            connections,
            opened: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            large: Queue::default(),
        });
        let (finished, finish) = oneshot::channel();
        let (worker, worker_nats) = (shared.clone(), nats.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("large".to_owned()).spawn(move || {
            runtime.block_on(large::work(&worker, &worker_nats));
            let _ = finished.send(());
        })?;
        let (stop, stopped) = watch::channel(false);
        let mut reports = Vec::with_capacity(connections);
        for number in 1..=connections {
            let (report, reported) = oneshot::channel();
            let (shared, nats, stopped) = (shared.clone(), nats.clone(), stopped.clone());
            std::thread::Builder::new().name(format!("nats-{number}")).spawn(move || {
                let _ = report.send(Worker::live(&shared, &nats, stopped));
            })?;
            reports.push(reported);
        }
        let stop = Arc::new(stop);
        let told = Arc::new(OnceLock::new());
        let stopping = tokio::spawn({
            let (stop, shared, told) = (stop.clone(), shared.clone(), told.clone());
            async move {
                shutdown.await;
                let _ = told.set(Instant::now());
                let pending = shared.pending.load(Ordering::Relaxed);
                tracing::info!(
                    event = "draining",
                    pending,
                    "stopping; finishing what was taken on"
                );
                let _ = stop.send(true);
            }
        });
        let (mut outcome, mut ends) = (Ok(()), Vec::new());
        for reported in reports {
            match reported.await.unwrap_or(Err(ServiceError::Closed)) {
                Ok(end) => ends.extend(end),
                Err(error) => {
                    // An instance that cannot get a connection back must not go on with fewer.
                    let _ = stop.send(true);
                    outcome = outcome.and(Err(error));
                }
            }
        }
        stopping.abort();
        shared.large.close();
        let since: Option<&Instant> = told.get();
        let passed = since.map_or(Duration::ZERO, Instant::elapsed);
        let left = shared.service.limits.drain.saturating_sub(passed);
        if timeout(left, finish).await.is_err() && shared.pending.load(Ordering::Relaxed) > 0 {
            ends.push(End::Late);
        }
        End::log(&ends, shared.pending.load(Ordering::Relaxed));
        outcome
    }
}
