//! How the service is, for `/readyz`: its connections, its policy, and the servers that ask it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::tenants::{Tenant, Tenants};
use crate::audit::Recorder;
use crate::telemetry::Metrics;
use solewriter_core::callout::request::OtherIssuer;
use solewriter_types::audit_event;

/// Whether the service can do its work, for `/readyz`.
pub struct Health {
    /// How many connections there should be; 0 before they are made.
    pub(super) wanted: AtomicUsize,
    connected: AtomicUsize,
    pub(super) subscribed: AtomicUsize,
    tenants: Arc<Tenants>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) recorder: Recorder,
    /// Whose answers servers take.
    askers: Mutex<Askers>,
    /// Whether the signer answers, where one holds the issuer's key.
    signer: Mutex<Option<Result<(), String>>>,
}

/// The servers that asked, by name (a server that is started anew has another key), each with when
/// it asked last, and with what it said when it takes the answers of another issuer.
#[derive(Debug, Default)]
pub(super) struct Askers(BTreeMap<String, (i64, Option<OtherIssuer>)>);

impl Askers {
    /// More servers than this are not told apart.
    const AT_MOST: usize = 1000;
    /// Whoever has not asked for so many seconds is forgotten: it may be gone.
    const REMEMBERED: i64 = 600;

    /// A server asked.
    pub(super) fn asked(&mut self, server: &str, other: Option<&OtherIssuer>, now: i64) {
        if let Some(known) = self.0.get_mut(server) {
            *known = (now, other.cloned());
            return;
        }
        if self.0.len() >= Self::AT_MOST {
            self.forget(now);
        }
        if self.0.len() < Self::AT_MOST {
            self.0.insert(server.to_owned(), (now, other.cloned()));
        }
    }

    fn forget(&mut self, now: i64) {
        self.0.retain(|_, (at, _)| now.saturating_sub(*at) < Self::REMEMBERED);
    }

    /// What to say about the issuer, and whether anybody may get in by our answers.
    fn report(&mut self, now: i64) -> (bool, String) {
        self.forget(now);
        let mut others = self.0.values().filter_map(|(_, other)| other.as_ref());
        let Some(first) = others.next() else {
            return (true, "every server that asked accepts our answers".to_owned());
        };
        let count = 1 + others.count();
        let said = audit_event::words(&first.to_string());
        let report =
            format!("{count} of {} servers do not accept our answers: {said}", self.0.len());
        (count < self.0.len(), report)
    }
}

impl Health {
    /// Not connected yet.
    #[must_use]
    pub fn new(tenants: Arc<Tenants>, metrics: Arc<Metrics>, recorder: Recorder) -> Arc<Self> {
        Arc::new(Self {
            wanted: AtomicUsize::new(0),
            connected: AtomicUsize::new(0),
            subscribed: AtomicUsize::new(0),
            tenants,
            metrics,
            recorder,
            askers: Mutex::default(),
            signer: Mutex::default(),
        })
    }

    /// One connection more or less.
    pub(super) fn connection(&self, made: bool) {
        self.metrics.connection(made);
        let count = |n: usize| Some(if made { n + 1 } else { n.saturating_sub(1) });
        let _ = self.connected.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
    }

    /// Whether requests are answered, and a report for people: one line an item.
    #[must_use]
    pub fn report(&self, now: i64) -> (bool, String) {
        let wanted = self.wanted.load(Ordering::Relaxed);
        let connected = match self.connected.load(Ordering::Relaxed) {
            0 => "not connected".to_owned(),
            all if all >= wanted => "connected".to_owned(),
            some => format!("connected, {some} of {wanted} connections"),
        };
        // With one connection left, the instance answers; but it begins with all.
        let subscribed = wanted > 0 && self.subscribed.load(Ordering::Relaxed) >= wanted;
        let (taken, issuer) = self.askers().report(now);
        let signer = self.signer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let signs = !matches!(signer, Some(Err(_)));
        let signer = match signer {
            None => String::new(),
            Some(Ok(())) => "signer: holds the key\n".to_owned(),
            Some(Err(why)) => format!("signer: {}\n", audit_event::words(&why)),
        };
        let mut report = format!(
            "nats-server: {connected}\nsubscribed: {}\nissuer: {issuer}\n{signer}",
            if subscribed { "yes" } else { "no" },
        );
        // One tenant's policy says nothing about the others'.
        let mut any = false;
        for tenant in self.tenants.iter() {
            let (decides, policy) = of_tenant(tenant, now);
            any |= decides;
            match &tenant.name {
                None => report += &policy,
                Some(name) => {
                    report += &format!("tenant: {name}\n");
                    policy.lines().for_each(|line| report += &format!("  {line}\n"));
                }
            }
        }
        let connected = self.connected.load(Ordering::Relaxed) > 0;
        (subscribed && connected && any && taken && signs, report)
    }

    /// How the signer was found that holds the issuer's key. Gives whether that is news.
    pub fn signer(&self, found: Result<(), String>) -> bool {
        let mut signer = self.signer.lock().unwrap_or_else(PoisonError::into_inner);
        let news = signer.as_ref() != Some(&found);
        *signer = Some(found);
        news
    }

    pub(super) fn askers(&self) -> MutexGuard<'_, Askers> {
        self.askers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether anybody is let in by a tenant's policy, and how it stands, one line an item.
fn of_tenant(tenant: &Tenant, now: i64) -> (bool, String) {
    let Tenant { store, source_status, metrics, .. } = tenant;
    let too_old = source_status.too_old(now);
    let ago = |at: i64| now.saturating_sub(at).max(0);
    let news = match (too_old, source_status.refused()) {
        (Some(_), _) => "too old to decide by".to_owned(),
        (None, Some(r)) => format!("changes refused for {} s, see the log", ago(r.since)),
        (None, None) => "the newest".to_owned(),
    };
    let policy = match store.current() {
        None => {
            format!("policy: none yet{}", source_status.refused().map_or("", |_| ", see the log"))
        }
        Some(snapshot) => {
            let revision = snapshot.policy.revision();
            let number = snapshot.origin().map(|o| format!(" (number {})", o.number));
            format!(
                "policy: revision {revision}{}, {news}\nin force: for {} s",
                number.unwrap_or_default(),
                ago(snapshot.loaded_at.as_second()),
            )
        }
    };
    let report = format!(
        "{policy}\nsource: {}\nopen connections: {}\n",
        source_status.describe(now),
        metrics.sessions().report(),
    );
    // Before there is a policy, nobody is answered, unless there are other tenants.
    let decides = too_old.is_none() && (tenant.name.is_none() || store.current().is_some());
    (decides, report)
}
