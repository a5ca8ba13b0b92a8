//! The whole way of one request as one synchronous function: bytes in; bytes and a record out.
//!
//! `service` calls it for each message; the fuzz target and the tests call it too.

use std::sync::Arc;

use crate::callout::decide::{CacheSizes, Decider, Denial, Denied, Granted, Large};
use crate::callout::identity::{self, Identity};
use crate::callout::issue::{IssueError, Issuer, Stamp};
use crate::callout::rate_limit::RateLimits;
use crate::callout::request::{Expectation, Rejection, VerifiedRequest};
use crate::callout::xkey::Sealer;
use crate::grant::{GrantError, TooLarge};
use crate::keys::{Server, User, Verifier};
use crate::policy::model::Policy;

/// Servers whose key is kept decoded. A cluster has far fewer.
const KEPT_SERVERS: u64 = 1024;
/// Clients whose key is kept decoded, at most; each takes some 400 bytes.
const KEPT_CLIENTS: u64 = 50_000;

/// Opens, limits, proves, decides and issues.
pub struct Authorizer {
    issuer: Arc<Issuer>,
    decider: Arc<Decider>,
    limits: RateLimits,
    servers: Verifier<Server>,
    /// Of those that were let in.
    clients: Verifier<User>,
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
    pub request: Arc<VerifiedRequest>,
    /// The decision.
    pub decision: Result<Granted, Denied>,
    /// The bytes to reply with.
    pub answer: Result<Vec<u8>, IssueError>,
}

/// A request of somebody who is proved, and whose answer is too large to be made beside others'.
pub struct Proved {
    identity: Identity,
    service: Arc<str>,
}

impl Proved {
    /// The service that asks.
    #[must_use]
    pub fn service(&self) -> &Arc<str> {
        &self.service
    }
}

/// A part of an authorisation. They follow each other in this order; one that ends it early is
/// followed by [`Stage::Issue`], which signs the refusal, or by nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The seal is opened, the server's signature verified.
    Open,
    /// The address is held against its limit.
    Limit,
    /// The client proves its key.
    Prove,
    /// The key is held against its limit, the policy is asked, and the grant compiled or found.
    Decide,
    /// The answer is signed and sealed.
    Issue,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [Self::Open, Self::Limit, Self::Prove, Self::Decide, Self::Issue];

    /// As in a trace.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Limit => "limit",
            Self::Prove => "prove",
            Self::Decide => "decide",
            Self::Issue => "issue",
        }
    }
}

/// Who is told of each stage as it ends. The time is the watcher's own: nothing here has a clock.
pub trait Watch {
    /// That stage has ended.
    fn ended(&mut self, stage: Stage);
}

/// Nobody watches, and that costs nothing: the calls are compiled away.
impl Watch for () {
    #[inline(always)]
    fn ended(&mut self, _: Stage) {}
}

/// What an answering thread makes of a request.
pub enum Authorised {
    /// It is decided.
    Done(Box<Authorisation>),
    /// It is left to [`Authorizer::authorise_proved`], on another thread.
    Large(Box<Proved>),
}

impl Authorizer {
    /// Puts the stages together. `clock_leeway` is in seconds.
    #[must_use]
    pub fn new(issuer: Issuer, decider: Decider, clock_leeway: i64) -> Self {
        let (servers, clients) = (Verifier::new(KEPT_SERVERS), Verifier::new(KEPT_CLIENTS));
        let (decider, limits) = (Arc::new(decider), RateLimits::default());
        let issuer = Arc::new(issuer);
        Self { issuer, decider, limits, servers, clients, clock_leeway }
    }

    /// With limits for each proved key and each address.
    #[must_use]
    pub fn with_limits(self, limits: RateLimits) -> Self {
        Self { limits, ..self }
    }

    /// The issuer.
    #[must_use]
    pub fn issuer(&self) -> &Arc<Issuer> {
        &self.issuer
    }

    /// What decides, for connections that are open already.
    #[must_use]
    pub fn decider(&self) -> &Arc<Decider> {
        &self.decider
    }

    /// How much is kept here and in the decider.
    #[must_use]
    pub fn cache_sizes(&self) -> CacheSizes {
        let (limited_keys, limited_hosts) = self.limits.remembered();
        CacheSizes {
            client_keys: self.clients.kept(),
            server_keys: self.servers.kept(),
            limited_keys,
            limited_hosts,
            server_xkeys: self.issuer.sealer().map_or(0, Sealer::kept),
            ..self.decider.cache_sizes()
        }
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
        let watch = &mut ();
        let request = self.open(payload, server_xkey, moment, watch)?;
        let decision = self.identify(&request, policy, moment.now, watch).and_then(|identity| {
            self.decided(self.decider.decide(&identity, policy, moment.now, moment.chance))
        });
        Ok(self.answer(request, decision, moment, usize::MAX, watch))
    }

    /// The same on a thread that answers everybody. The server takes an answer of at most `room`
    /// bytes. `watch` is told of each stage; `&mut ()` is nobody.
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
        watch: &mut impl Watch,
    ) -> Result<Authorised, Rejection> {
        let request = self.open(payload, server_xkey, moment, watch)?;
        let (now, chance) = (moment.now, moment.chance);
        let decision = match self.identify(&request, policy, now, watch) {
            Ok(identity) => {
                match self.decider.decide_unless_large(&identity, policy, now, chance) {
                    Ok(decision) => {
                        watch.ended(Stage::Decide);
                        self.decided(decision)
                    }
                    Err(Large(service)) => {
                        return Ok(Authorised::Large(Box::new(Proved { identity, service })));
                    }
                }
            }
            Err(denied) => Err(denied),
        };
        Ok(Authorised::Done(Box::new(self.answer(request, decision, moment, room, watch))))
    }

    /// Authorises a request that [`Authorizer::authorise_unless_large`] left.
    #[must_use]
    pub fn authorise_proved(
        &self,
        proved: &Proved,
        policy: &Policy,
        moment: &Moment,
        room: usize,
        watch: &mut impl Watch,
    ) -> Authorisation {
        let identity = &proved.identity;
        let decision = self.decider.decide(identity, policy, moment.now, moment.chance);
        watch.ended(Stage::Decide);
        self.answer(identity.request().clone(), self.decided(decision), moment, room, watch)
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
        watch: &mut impl Watch,
    ) -> Result<Authorisation, Rejection> {
        let request = self.open(payload, server_xkey, moment, watch)?;
        // Who asks is proved first, so that the denial says who was refused. Nothing is decided,
        // and nothing is counted for the key.
        let denied = match self.prove(&request, policy, moment.now, watch) {
            Err(denied) if matches!(denied.reason, Denial::Unproved(_)) => denied,
            Err(denied) => Denied { reason: reason.clone(), ..denied },
            Ok(identity) => {
                let key = identity.key();
                let service = policy.holder(key).map(|(service, _)| service.name.clone());
                let revision = policy.revision().clone();
                Denied { reason: reason.clone(), key: Some(*key), service, revision }
            }
        };
        Ok(self.answer(request, Err(denied), moment, usize::MAX, watch))
    }

    fn open(
        &self,
        payload: &[u8],
        server_xkey: Option<&str>,
        moment: &Moment,
        watch: &mut impl Watch,
    ) -> Result<Arc<VerifiedRequest>, Rejection> {
        let expected = Expectation {
            issuer: self.issuer.account(),
            operator: self.issuer.operator().is_some(),
            sealer: self.issuer.sealer(),
            servers: &self.servers,
            clock_leeway: self.clock_leeway,
        };
        let opened = VerifiedRequest::open(payload, server_xkey, &expected, moment.now);
        watch.ended(Stage::Open);
        opened.map(Arc::new)
    }

    /// Who asks, proved. A flood from one address is turned away before the proof, which is what it
    /// would cost. Nothing is looked up before: an unknown key costs what a known one does.
    fn prove(
        &self,
        request: &Arc<VerifiedRequest>,
        policy: &Policy,
        now: i64,
        watch: &mut impl Watch,
    ) -> Result<Identity, Denied> {
        let revision = || policy.revision().clone();
        let admitted = self.limits.admits_host(request.client().address, now);
        watch.ended(Stage::Limit);
        if !admitted {
            let reason = Denial::Limited("host");
            return Err(Denied { reason, key: None, service: None, revision: revision() });
        }
        let proved = identity::prove(request, &self.clients);
        watch.ended(Stage::Prove);
        proved.map_err(|unproved| {
            let key = unproved.claimed().copied();
            Denied { key, reason: unproved.into(), service: None, revision: revision() }
        })
    }

    /// The same, within the limit of its key.
    fn identify(
        &self,
        request: &Arc<VerifiedRequest>,
        policy: &Policy,
        now: i64,
        watch: &mut impl Watch,
    ) -> Result<Identity, Denied> {
        let identity = self.prove(request, policy, now, watch)?;
        let key = *identity.key();
        if self.limits.admits_key(key, now) {
            return Ok(identity);
        }
        let (reason, revision) = (Denial::Limited("key"), policy.revision().clone());
        Err(Denied { reason, key: Some(key), service: None, revision })
    }

    /// Keeps the key of who is let in decoded. Not before: strangers would fill the memory for it.
    fn decided(&self, decision: Result<Granted, Denied>) -> Result<Granted, Denied> {
        decision.inspect(|granted| self.clients.keep(granted.identity().key()))
    }

    /// Signs the decision. What the server would not take is no grant, and is not told as one.
    fn answer(
        &self,
        request: Arc<VerifiedRequest>,
        mut decision: Result<Granted, Denied>,
        moment: &Moment,
        room: usize,
        watch: &mut impl Watch,
    ) -> Authorisation {
        let stamp = Stamp { id: &moment.id, now: moment.now, nonce: &moment.nonce };
        let mut answer = match &decision {
            Ok(granted) => self.issuer.grant(granted, &stamp),
            Err(_) => self.issuer.refuse(&request, &stamp),
        };
        if let (Ok(granted), Ok(bytes)) = (&decision, &answer)
            && bytes.len() > room
        {
            let too_large = TooLarge::Answer { bytes: bytes.len(), max_payload: room };
            decision = Err(Denied {
                reason: GrantError::from(too_large).into(),
                key: Some(*granted.identity().key()),
                service: Some(granted.grant().service().clone()),
                revision: granted.revision().clone(),
            });
            // With the same nonce: nobody was sent what it sealed before.
            answer = self.issuer.refuse(&request, &stamp);
        }
        watch.ended(Stage::Issue);
        Authorisation { request, decision, answer }
    }
}
