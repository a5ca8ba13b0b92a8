//! How a service connects so that nothing it is refused goes unnoticed.
//!
//! nats-server tells a client of a permission violation once, in an error that belongs to no
//! operation; the operation itself times out. [`connect`] gives a client with the service's NKEY
//! and private inbox, and turns each violation into an ERROR line (`tracing`) and an event on
//! `audit.events.<service>`:
//!
//! ```no_run
//! use solewriter_guard::{Error, Options};
//!
//! # async fn example(seed: String) -> Result<(), Box<dyn std::error::Error>> {
//! let guarded = solewriter_guard::connect("nats://127.0.0.1:4222", Options::new("billing", seed)).await?;
//! let orders = guarded.kv("orders").await?;
//! match orders.put("k1", "mine now".into()).await {
//!     Err(Error::Denied(denied)) => println!("{denied}"), // permission denied on orders/k1
//!     other => println!("{other:?}"),
//! }
//! # guarded.close().await; Ok(())
//! # }
//! ```
//!
//! What it cannot do is in `docs/guard.md`: async-nats hands errors over through a channel of 128
//! that drops what does not fit, so in a storm some violations are seen by the server alone.
//! `solewriter violations`, beside the server, sees all of them.

mod kv;
pub mod publish;
mod reporter;
mod server_error;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, Message, ServerError, Subject, ToServerAddrs};
use bytes::Bytes;
use jiff::SignedDuration;
use tokio::sync::broadcast;

pub use self::kv::Kv;
use crate::reporter::Reporter;
pub use crate::server_error::Refused;
use solewriter_types::audit_event::words;
use solewriter_types::keyspace::BucketName;
use solewriter_types::kv_operation::{Act, Operation, Target, Usage, inbox_prefix, is_inbox};

/// How long [`Guarded::close`] waits for the last events.
const FAREWELL: Duration = Duration::from_secs(5);

type OnEvent = Arc<dyn Fn(&Event) + Send + Sync>;

/// Who connects, and how.
pub struct Options {
    service: String,
    connect: ConnectOptions,
    nkey: Option<String>,
    window: SignedDuration,
    audit: bool,
    on_event: Option<OnEvent>,
}

impl Options {
    /// A service of the policy, and the seed of its NKEY (`SU…`).
    #[must_use]
    pub fn new(service: impl Into<String>, seed: impl Into<String>) -> Self {
        let (service, seed) = (service.into(), seed.into());
        let seed = seed.trim().to_owned();
        // A seed that is none fails when it is connected with, where there is somebody to tell.
        let nkey = nkeys::KeyPair::from_seed(&seed).ok().map(|pair| pair.public_key());
        let connect = ConnectOptions::with_nkey(seed)
            .name(&service)
            .custom_inbox_prefix(inbox_prefix(&service));
        let window = SignedDuration::from_secs(60);
        Self { service, connect, nkey, window, audit: true, on_event: None }
    }

    /// Changes the library's options: TLS, reconnecting, a connection name. NKEY and inbox prefix
    /// are set already; the event callback is the guard's.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(ConnectOptions) -> ConnectOptions) -> Self {
        self.connect = change(self.connect);
        self
    }

    /// Tells of the connection's other events. Must not block.
    #[must_use]
    pub fn on_event(mut self, tell: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Arc::new(tell));
        self
    }

    /// Repeats of one violation within this time are counted together: the first is told at once,
    /// the others as one when the time is over. 60 s unless set.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = SignedDuration::try_from(window).unwrap_or(SignedDuration::MAX);
        self
    }

    /// Logs only. For a deployment without an audit stream, or where `solewriter violations`
    /// beside each server is enough.
    #[must_use]
    pub fn without_audit(mut self) -> Self {
        self.audit = false;
        self
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The library's options hold the seed.
        f.debug_struct("Options").field("service", &self.service).finish_non_exhaustive()
    }
}

/// The server refused an operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("permission denied on {on} ({operation}, subject {subject:?})")]
pub struct Denied {
    /// The keyspace (`orders/k1`), or the subject where there is none.
    pub on: String,
    /// What was tried.
    pub operation: Operation,
    /// The subject that the server refused.
    pub subject: String,
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error<E> {
    /// This service may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Everything else, as the library tells it.
    #[error("{0}")]
    Failed(E),
}

/// Why there is no answer to a message.
#[derive(Debug, thiserror::Error)]
pub enum RespondError {
    /// Nobody asked.
    #[error("the message has no reply subject")]
    NoReply,
    /// Whoever asked wants the answer where answers do not belong, such as in a keyspace of this
    /// service: it would be this service that writes there.
    #[error("the reply subject {0:?} is no inbox; answering could write what is not to be written")]
    NotAnInbox(String),
    /// The library's own trouble.
    #[error(transparent)]
    Publish(#[from] async_nats::PublishError),
}

/// A guarded connection. Clones share it.
#[derive(Clone)]
pub struct Guarded {
    client: Client,
    reporter: Reporter,
}

/// Connects as a service.
///
/// # Errors
/// As async-nats: the server is not there, or does not let the service in.
pub async fn connect(
    servers: impl ToServerAddrs,
    options: Options,
) -> Result<Guarded, async_nats::ConnectError> {
    let Options { service, connect, nkey, window, audit, on_event } = options;
    let (reporter, desk) = Reporter::new(&service, nkey, window, audit);
    let observer = reporter.clone();
    let connect = connect.event_callback(move |event| {
        observe(&observer, &event);
        if let Some(tell) = &on_event {
            tell(&event);
        }
        std::future::ready(())
    });
    let client = connect.connect(servers).await?;
    tokio::spawn(desk.work(client.clone()));
    Ok(Guarded { client, reporter })
}

/// Never blocks: it is called by the task that every other event waits for.
fn observe(reporter: &Reporter, event: &Event) {
    match event {
        Event::Connected => reporter.connected(),
        Event::ServerError(ServerError::Other(text)) => {
            if let Some(refused) = Refused::parse(text) {
                reporter.refused(refused);
            }
        }
        _ => {}
    }
}

impl Guarded {
    /// The library's own client. What it is refused is logged and told all the same.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Every violation from now on.
    #[must_use]
    pub fn violations(&self) -> broadcast::Receiver<Refused> {
        self.reporter.news()
    }

    /// Opens a bucket.
    ///
    /// # Errors
    /// [`Error::Denied`] when this service has no part in it.
    pub async fn kv(
        &self,
        bucket: &str,
    ) -> Result<Kv, Error<async_nats::jetstream::context::KeyValueError>> {
        let stream = async_nats::jetstream::new(self.client.clone());
        let open = stream.get_key_value(bucket);
        // What is no name is refused by the library, in its own words.
        let Ok(name) = BucketName::parse(bucket) else {
            return Ok(Kv::new(self.clone(), None, open.await.map_err(Error::Failed)?));
        };
        let target = Target::keys(name.clone(), None);
        let store = self.run(Operation::Open, &target, open).await?;
        Ok(Kv::new(self.clone(), Some(name), store))
    }

    /// Runs an operation on keys of a bucket, and ends it at once when the server refuses it.
    ///
    /// The server's error does not name an operation, only a subject. Two operations that need
    /// the same subject at the same time are refused together, which is what happened.
    ///
    /// # Errors
    /// [`Error::Denied`], or what the operation fails with.
    pub async fn run<T, E>(
        &self,
        operation: Operation,
        target: &Target,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Error<E>> {
        let on = target.to_string();
        self.race(on, operation, work, |usage, _| concerns(usage, operation, target)).await
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`Error::Denied`] when this service may not publish the subject.
    pub async fn request(
        &self,
        subject: &str,
        payload: Bytes,
    ) -> Result<Message, Error<async_nats::RequestError>> {
        let work = self.client.request(subject.to_owned(), payload);
        let operation = Usage::of(Act::Publish, subject).operation;
        let is_it = |_: &Usage, refused: &Refused| {
            refused.act != Act::Subscribe && refused.subject == subject
        };
        self.race(subject.to_owned(), operation, work, is_it).await
    }

    async fn race<T, E>(
        &self,
        on: String,
        operation: Operation,
        work: impl Future<Output = Result<T, E>>,
        is_it: impl Fn(&Usage, &Refused) -> bool,
    ) -> Result<T, Error<E>> {
        // Listening begins before anything is sent.
        let mut news = self.reporter.news();
        let refused = async {
            loop {
                match news.recv().await {
                    Ok(refused) if is_it(&Usage::of(refused.act, &refused.subject), &refused) => {
                        return refused.subject;
                    }
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    // The operation's own end is all that is left to wait for.
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            biased;
            outcome = work => outcome.map_err(Error::Failed),
            subject = refused => Err(Denied { on, operation, subject }.into()),
        }
    }

    /// Answers a request, if the answer belongs where it is wanted.
    ///
    /// Whoever asks chooses the reply subject, and this service answers with its own rights. A
    /// reply that is no inbox is refused, logged and told to the audit stream.
    ///
    /// # Errors
    /// [`RespondError`].
    pub async fn respond(&self, request: &Message, payload: Bytes) -> Result<(), RespondError> {
        let reply: &Subject = request.reply.as_ref().ok_or(RespondError::NoReply)?;
        if !is_inbox(reply) {
            self.reporter.trouble(
                "reply_not_inbox",
                format!(
                    "a request on {} wants its answer on {}, which is no inbox; it gets none",
                    words(&request.subject),
                    words(reply),
                ),
            );
            return Err(RespondError::NotAnInbox(reply.to_string()));
        }
        Ok(self.client.publish(reply.clone(), payload).await?)
    }

    /// How many violations are not in the log, and how many events are in the log alone, because
    /// there were too many at a time or the stream did not take them.
    #[must_use]
    pub fn dropped(&self) -> (u64, u64) {
        self.reporter.dropped()
    }

    /// Tells what is counted, waits a few seconds at most for the last events, and drains the
    /// connection.
    pub async fn close(&self) {
        self.reporter.close(FAREWELL).await;
        // A connection that is closed already is what is wanted.
        let _ = self.client.drain().await;
    }
}

/// Whether a refusal is that of an operation on that target.
fn concerns(usage: &Usage, operation: Operation, target: &Target) -> bool {
    let same = match (&usage.target, target) {
        (
            Some(Target::Keys { bucket: refused, keys: refused_keys }),
            Target::Keys { bucket, keys },
        ) => {
            // A get without direct get, a watch of async-nats: the keys are not in the subject.
            refused == bucket && (refused_keys.is_none() || keys.is_none() || refused_keys == keys)
        }
        (refused, target) => refused.as_ref() == Some(target),
    };
    same && usage.operation == operation
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        Usage::of(Act::Publish, &format!("$KV.{}", text.replace('/', "."))).target.unwrap()
    }

    #[test]
    fn a_refusal_ends_the_operation_that_it_is_about() {
        let is_it = |subject: &str, operation, on: &str| {
            concerns(&Usage::of(Act::Publish, subject), operation, &target(on))
        };
        assert!(is_it("$KV.orders.k1", Operation::Write, "orders/k1"));
        assert!(!is_it("$KV.orders.k2", Operation::Write, "orders/k1"));
        assert!(!is_it("$KV.orders.k1", Operation::Get, "orders/k1"));
        assert!(!is_it("$KV.other.k1", Operation::Write, "orders/k1"));
        let get = "$JS.API.DIRECT.GET.KV_orders.$KV.orders.k1";
        assert!(is_it(get, Operation::Get, "orders/k1"));
        assert!(!is_it(get, Operation::Get, "orders/k2"));
        assert!(is_it("$JS.API.STREAM.MSG.GET.KV_orders", Operation::Get, "orders/k2"));
        assert!(is_it("$JS.API.CONSUMER.CREATE.KV_orders", Operation::Watch, "orders/k2"));
    }

    #[test]
    fn no_seed_in_debug() {
        let seed = nkeys::KeyPair::new_user().seed().unwrap();
        let shown = format!("{:?}", Options::new("orders", seed.clone()));
        assert!(!shown.contains(&seed), "{shown}");
        let denied = Denied {
            on: "orders/k1".to_owned(),
            operation: Operation::Write,
            subject: "$KV.orders.k1".to_owned(),
        };
        let said = Error::<String>::Denied(denied).to_string();
        assert_eq!(said, "permission denied on orders/k1 (write, subject \"$KV.orders.k1\")");
    }
}

/// The Rust lines of the documentation compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod documentation {}
