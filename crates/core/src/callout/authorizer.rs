//! The whole way of one request as one synchronous function: bytes in; bytes and a record out.
//!
//! `service` calls it for each message; the fuzz target and the tests call it too.

use std::ops::Deref;
use std::sync::Arc;

use crate::callout::decide::{CacheSizes, Decider, Denial, Denied, Granted, Large};
use crate::callout::identity::{self, Identity};
use crate::callout::issue::{IssueError, Issuer, Stamp};
use crate::callout::rate_limit::RateLimits;
use crate::callout::request::{Expectation, Rejection, VerifiedRequest};
use crate::callout::xkey::Sealer;
use crate::grant::{GrantError, TooLarge};
use crate::keys::{Server, User, UserKey, Verifier};
use crate::policy::model::Policy;

/// Servers whose key is kept decoded. A cluster has far fewer.
const KEPT_SERVERS: u64 = 1024;
/// Clients whose key is kept decoded, at most; each takes some 400 bytes.
const KEPT_CLIENTS: u64 = 50_000;

/// Opens, limits, proves, has somebody decide, and issues.
pub struct Authorizer {
    issuer: Arc<Issuer>,
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
    pub fn new(issuer: Issuer, clock_leeway: i64) -> Self {
        let (servers, clients) = (Verifier::new(KEPT_SERVERS), Verifier::new(KEPT_CLIENTS));
        let (issuer, limits) = (Arc::new(issuer), RateLimits::default());
        Self { issuer, limits, servers, clients, clock_leeway }
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

    /// How much is kept here.
    #[must_use]
    pub fn cache_sizes(&self) -> CacheSizes {
        let (limited_keys, limited_hosts) = self.limits.remembered();
        CacheSizes {
            client_keys: self.clients.kept(),
            server_keys: self.servers.kept(),
            limited_keys,
            limited_hosts,
            server_xkeys: self.issuer.sealer().map_or(0, Sealer::kept),
            ..CacheSizes::default()
        }
    }

    /// Authorises one request by one decider, under one policy.
    ///
    /// # Errors
    /// [`Rejection`] when the bytes did not come from a server: then no reply is owed.
    pub fn authorise(
        &self,
        payload: &[u8],
        server_xkey: Option<&str>,
        (decider, policy): (&Decider, &Policy),
        moment: &Moment,
    ) -> Result<Authorisation, Rejection> {
        let watch = &mut ();
        let request = self.open(payload, server_xkey, moment, watch)?;
        let mut decision = self
            .identify(&request, |_| Ok((decider, policy)), moment.now, watch)
            .and_then(|(identity, _)| {
                self.decided(decider.decide(&identity, policy, moment.now, moment.chance))
            });
        if let Err(denied) = &mut decision {
            denied.revision.get_or_insert_with(|| policy.revision().clone());
        }
        Ok(self.answer(request, decision, moment, usize::MAX, watch))
    }

    /// The same on a thread that answers everybody. `find` is asked, once the client is proved, who
    /// decides about that key, and under which policy; what it denies instead is refused. The server
    /// takes an answer of at most `room` bytes. `watch` is told of each stage; `&mut ()` is nobody.
    ///
    /// # Errors
    /// As [`Authorizer::authorise`].
    pub fn authorise_unless_large<D: Deref<Target = Decider>, P: Deref<Target = Policy>>(
        &self,
        payload: &[u8],
        server_xkey: Option<&str>,
        find: impl FnOnce(&UserKey) -> Result<(D, P), Denied>,
        moment: &Moment,
        room: usize,
        watch: &mut impl Watch,
    ) -> Result<Authorised, Rejection> {
        let request = self.open(payload, server_xkey, moment, watch)?;
        let (now, chance) = (moment.now, moment.chance);
        let decision = match self.identify(&request, find, now, watch) {
            Ok((identity, (decider, policy))) => {
                match decider.decide_unless_large(&identity, &policy, now, chance) {
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
    pub fn authorise_proved<D: Deref<Target = Decider>, P: Deref<Target = Policy>>(
        &self,
        proved: &Proved,
        find: impl FnOnce(&UserKey) -> Result<(D, P), Denied>,
        moment: &Moment,
        room: usize,
        watch: &mut impl Watch,
    ) -> Authorisation {
        let identity = &proved.identity;
        let decision = find(identity.key()).and_then(|(decider, policy)| {
            decider.decide(identity, &policy, moment.now, moment.chance)
        });
        watch.ended(Stage::Decide);
        self.answer(identity.request().clone(), self.decided(decision), moment, room, watch)
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
        now: i64,
        watch: &mut impl Watch,
    ) -> Result<Identity, Denied> {
        let admitted = self.limits.admits_host(request.client().address, now);
        watch.ended(Stage::Limit);
        if !admitted {
            let reason = Denial::Limited("host");
            return Err(Denied { reason, key: None, service: None, revision: None });
        }
        let proved = identity::prove(request, &self.clients);
        watch.ended(Stage::Prove);
        proved.map_err(|unproved| {
            let key = unproved.claimed().copied();
            Denied { key, reason: unproved.into(), service: None, revision: None }
        })
    }

    /// The same, within the limit of its key, and what `find` finds for it.
    fn identify<F>(
        &self,
        request: &Arc<VerifiedRequest>,
        find: impl FnOnce(&UserKey) -> Result<F, Denied>,
        now: i64,
        watch: &mut impl Watch,
    ) -> Result<(Identity, F), Denied> {
        let identity = self.prove(request, now, watch)?;
        let key = *identity.key();
        // First: what it denies is not the client's doing, and is not counted for the key.
        let found = find(&key)?;
        if self.limits.admits_key(key, now) {
            return Ok((identity, found));
        }
        let reason = Denial::Limited("key");
        Err(Denied { reason, key: Some(key), service: None, revision: None })
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
                revision: Some(granted.revision().clone()),
            });
            // With the same nonce: nobody was sent what it sealed before.
            answer = self.issuer.refuse(&request, &stamp);
        }
        watch.ended(Stage::Issue);
        Authorisation { request, decision, answer }
    }
}
