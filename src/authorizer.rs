//! The whole way of one request as one synchronous function: bytes in; bytes and a record out.
//!
//! `service` calls it for each message; the fuzz target and the tests call it too.

use std::sync::Arc;
use std::time::Duration;

use crate::audit::event;
use crate::decide::{Decider, Denial, Denied, Granted, Large};
use crate::issue::{IssueError, Issuer, Stamp};
use crate::keys::{Server, UserKey, Verifier};
use crate::permissions::{GrantError, TooLarge};
use crate::policy::model::Policy;
use crate::protocol::request::{Expectation, Rejection, VerifiedRequest};

/// Servers whose key is kept decoded. A cluster has far fewer.
const KEPT_SERVERS: u64 = 1024;

/// Opens, decides and issues.
pub struct Authorizer {
    issuer: Issuer,
    decider: Decider,
    servers: Verifier<Server>,
    clock_leeway: i64,
}

/// The chance and time of one authorisation, as arguments, so that everything else is pure.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Seconds since the Unix epoch.
    pub now: i64,
    /// Identifies the answer.
    pub id: String,
    /// For the seal.
    pub nonce: [u8; 24],
    /// From 0 to 1: spreads the expiry.
    pub chance: f64,
}

impl Moment {
    /// This moment, with the operating system's randomness.
    #[must_use]
    pub fn now() -> Self {
        let id: [u8; 15] = rand::random();
        Self {
            now: jiff::Timestamp::now().as_second(),
            id: data_encoding::BASE32_NOPAD.encode(&id),
            nonce: rand::random(),
            chance: rand::random(),
        }
    }
}

/// A request that a server sent, and what became of it.
pub struct Authorisation {
    /// The request.
    pub request: VerifiedRequest,
    /// The decision.
    pub decision: Result<Granted, Denied>,
    /// The bytes to reply with.
    pub answer: Result<Vec<u8>, IssueError>,
}

/// A request of somebody who is proved, and whose answer is too large to be made beside others'.
pub struct Proved {
    request: VerifiedRequest,
    key: UserKey,
    service: Arc<str>,
}

impl Proved {
    /// The service that asks.
    #[must_use]
    pub fn service(&self) -> &Arc<str> {
        &self.service
    }
}

/// What an answering thread makes of a request.
pub enum Authorised {
    /// It is decided.
    Done(Box<Authorisation>),
    /// It is left to [`Authorizer::authorise_proved`], on another thread.
    Large(Box<Proved>),
}

/// The longest piece of a client's own words in an event, in characters.
const CLIENT_WORDS: usize = 64;

impl Authorisation {
    /// What is recorded of it: no secret, and what the client says of itself escaped and cut.
    #[must_use]
    pub fn event(&self, decision: &str, took: Duration) -> event::Event {
        let (server, client) = (self.request.server(), self.request.client());
        let mut event = event::Authorisation {
            outcome: event::Outcome::Granted,
            reason: "granted".to_owned(),
            detail: None,
            service: None,
            nkey: None,
            former_service: None,
            former_revision: None,
            host: event::cut(&client.host, CLIENT_WORDS),
            connection: client.connection.map_or("unknown", |c| c.as_str()).to_owned(),
            client: event::cut(&client.name, CLIENT_WORDS),
            library: event::cut(&client.library, CLIENT_WORDS),
            server: event::cut(&server.name, CLIENT_WORDS),
            server_id: server.key.to_string(),
            cid: client.id,
            account: None,
            revision: String::new(),
            grant: None,
            expires: None,
            decision: decision.to_owned(),
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            unanswered: self.answer.as_ref().err().map(ToString::to_string),
        };
        match &self.decision {
            Ok(granted) => {
                event.service = Some(granted.grant.service().to_string());
                event.nkey = Some(granted.key.to_string());
                event.account = Some(granted.grant.account().to_owned());
                granted.revision.whole().clone_into(&mut event.revision);
                event.grant = Some(granted.grant.digest().to_string());
                event.expires = jiff::Timestamp::from_second(granted.expires).ok();
            }
            Err(denied) => {
                event.outcome = event::Outcome::Denied;
                denied.reason.code().clone_into(&mut event.reason);
                event.detail = Some(event::words(&denied.reason.to_string()));
                event.service = denied.service.as_deref().map(ToOwned::to_owned);
                event.nkey = denied.key.map(|key| key.to_string());
                denied.revision.whole().clone_into(&mut event.revision);
            }
        }
        event::Event::Authorisation(Box::new(event))
    }
}

impl Authorizer {
    /// Puts the stages together. `clock_leeway` is in seconds.
    #[must_use]
    pub fn new(issuer: Issuer, decider: Decider, clock_leeway: i64) -> Self {
        Self { issuer, decider, servers: Verifier::new(KEPT_SERVERS), clock_leeway }
    }

    /// The issuer.
    #[must_use]
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// What decides, for connections that are open already.
    #[must_use]
    pub fn decider(&self) -> &Decider {
        &self.decider
    }

    /// Authorises one request under one policy.
    ///
    /// # Errors
    /// [`Rejection`] when the bytes did not come from a server: then no reply is owed.
    pub fn authorise(
        &self,
        payload: &[u8],
        server_xkey: Option<&str>,
        policy: &Policy,
        moment: &Moment,
    ) -> Result<Authorisation, Rejection> {
        let request = self.open(payload, server_xkey, moment)?;
        let decision = self.decider.decide(&request, policy, moment.now, moment.chance);
        Ok(self.answer(request, decision, moment, usize::MAX))
    }

    /// The same on a thread that answers everybody. The server takes an answer of at most `room`
    /// bytes.
    ///
    /// # Errors
    /// As [`Authorizer::authorise`].
    pub fn authorise_unless_large(
        &self,
        payload: &[u8],
        server_xkey: Option<&str>,
        policy: &Policy,
        moment: &Moment,
        room: usize,
    ) -> Result<Authorised, Rejection> {
        let request = self.open(payload, server_xkey, moment)?;
        let (now, chance) = (moment.now, moment.chance);
        Ok(match self.decider.decide_unless_large(&request, policy, now, chance) {
            Ok(decision) => {
                Authorised::Done(Box::new(self.answer(request, decision, moment, room)))
            }
            Err(Large { key, service }) => {
                Authorised::Large(Box::new(Proved { request, key, service }))
            }
        })
    }

    /// Authorises a request that [`Authorizer::authorise_unless_large`] left.
    #[must_use]
    pub fn authorise_proved(
        &self,
        proved: &Proved,
        policy: &Policy,
        moment: &Moment,
        room: usize,
    ) -> Authorisation {
        let Proved { request, key, .. } = proved;
        let (now, chance) = (moment.now, moment.chance);
        let decision = self.decider.decide_proved(request, key, policy, now, chance);
        self.answer(request.clone(), decision, moment, room)
    }

    /// Refuses one request for a reason that lies with us, not with who asks.
    ///
    /// # Errors
    /// As [`Authorizer::authorise`].
    pub fn refuse(
        &self,
        payload: &[u8],
        server_xkey: Option<&str>,
        policy: &Policy,
        moment: &Moment,
        reason: &Denial,
    ) -> Result<Authorisation, Rejection> {
        let request = self.open(payload, server_xkey, moment)?;
        // Who asks is proved first, so that the denial says who was refused.
        let denied = match self.decider.prove(&request, policy, moment.now) {
            Err(denied) if matches!(denied.reason, Denial::Unproved(_)) => denied,
            Err(denied) => Denied { reason: reason.clone(), ..denied },
            Ok(key) => {
                let service = policy.holder(&key).map(|(service, _)| service.name.clone());
                let revision = policy.revision().clone();
                Denied { reason: reason.clone(), key: Some(key), service, revision }
            }
        };
        Ok(self.answer(request, Err(denied), moment, usize::MAX))
    }

    fn open(
        &self,
        payload: &[u8],
        server_xkey: Option<&str>,
        moment: &Moment,
    ) -> Result<VerifiedRequest, Rejection> {
        let expected = Expectation {
            issuer: self.issuer.account(),
            sealer: self.issuer.sealer(),
            servers: &self.servers,
            clock_leeway: self.clock_leeway,
        };
        VerifiedRequest::open(payload, server_xkey, &expected, moment.now)
    }

    /// Signs the decision. What the server would not take is no grant, and is not told as one.
    fn answer(
        &self,
        request: VerifiedRequest,
        mut decision: Result<Granted, Denied>,
        moment: &Moment,
        room: usize,
    ) -> Authorisation {
        let stamp = Stamp { id: &moment.id, now: moment.now, nonce: &moment.nonce };
        let mut answer = self.issuer.answer(&request, &decision, &stamp);
        if let (Ok(Granted { grant, key, revision, .. }), Ok(bytes)) = (&decision, &answer)
            && bytes.len() > room
        {
            let too_large = TooLarge::Answer { bytes: bytes.len(), max_payload: room };
            decision = Err(Denied {
                reason: GrantError::from(too_large).into(),
                key: Some(*key),
                service: Some(Arc::clone(grant.service())),
                revision: revision.clone(),
            });
            // With the same nonce: nobody was sent what it sealed before.
            answer = self.issuer.answer(&request, &decision, &stamp);
        }
        Authorisation { request, decision, answer }
    }
}
