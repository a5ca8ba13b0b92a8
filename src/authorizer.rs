//! The whole way of one request as one synchronous function: bytes in; bytes and a record out.
//!
//! `service` calls it for each message; the fuzz target and the tests call it too.

use crate::decide::{Decider, Denied, Granted};
use crate::issue::{IssueError, Issuer, Stamp};
use crate::keys::{Server, Verifier};
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
        let expected = Expectation {
            issuer: self.issuer.account(),
            sealer: self.issuer.sealer(),
            servers: &self.servers,
            clock_leeway: self.clock_leeway,
        };
        let request = VerifiedRequest::open(payload, server_xkey, &expected, moment.now)?;
        let decision = self.decider.decide(&request, policy, moment.now, moment.chance);
        let stamp = Stamp { id: &moment.id, now: moment.now, nonce: &moment.nonce };
        let answer = self.issuer.answer(&request, &decision, &stamp);
        Ok(Authorisation { request, decision, answer })
    }
}
