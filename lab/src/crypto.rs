//! The cryptography that no authorisation can do without, and nothing else: two strict
//! verifications and two signatures, over the very bytes of one authorisation. What sealing costs
//! is told apart.

use std::hint::black_box;
use std::thread;
use std::time::Duration;

use super::Error;
use super::request::{Minter, Request};
use crate::fixture_policy::Client;
use solewriter_core::callout::xkey::Sealer;
use solewriter_core::keys::{
    Account, Curve, CurveSecret, Seed, Server, ServerKey, Signer, UserKey,
};
use solewriter_sandbox::cpu_usage::thread_cpu;

/// How long one round runs.
const ROUND: Duration = Duration::from_millis(300);
const BETWEEN_LOOKS: u32 = 16;

/// One authorisation's messages and keys.
pub struct Crypto {
    server: ServerKey,
    request: Vec<u8>,
    request_signature: [u8; 64],
    client: UserKey,
    nonce: Vec<u8>,
    nonce_signature: [u8; 64],
    issuer: Signer<Account>,
    user: Vec<u8>,
    response: Vec<u8>,
}

impl Crypto {
    /// Of a request and the answer that it got.
    ///
    /// # Errors
    /// When a key cannot be used or the answer is none.
    pub fn of(
        minter: &Minter,
        issuer: &Seed<Account>,
        client: &Client,
        request: &Request,
        answer: &[u8],
    ) -> Result<Self, Error> {
        let (response, user) = minter.parts(answer)?;
        let unsigned = |token: &[u8]| -> Vec<u8> {
            let end = token.iter().rposition(|b| *b == b'.').unwrap_or(token.len());
            token.get(..end).unwrap_or_default().to_vec()
        };
        let signed = unsigned(request.token.as_bytes());
        let server: &Signer<Server> = minter.server();
        let nonce = b"abcdefghijklmno".to_vec();
        Ok(Self {
            request_signature: server.sign(&signed),
            request: signed,
            server: *server.public(),
            client: *client.signer.public(),
            nonce_signature: client.signer.sign(&nonce),
            nonce,
            issuer: Signer::new(issuer)?,
            user: unsigned(user.as_bytes()),
            response: unsigned(&response),
        })
    }

    /// The four operations.
    fn once(&self) -> bool {
        let request = self.server.verify(black_box(&self.request), &self.request_signature);
        let client = self.client.verify(black_box(&self.nonce), &self.nonce_signature);
        black_box(self.issuer.sign(black_box(&self.user)));
        black_box(self.issuer.sign(black_box(&self.response)));
        request.is_ok() && client.is_ok()
    }

    /// CPU time of the four operations, with every processor at it, as it is under load.
    ///
    /// # Errors
    /// When a signature does not verify, which would make the figure mean something else.
    pub fn cost(&self) -> Result<Duration, Error> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        every(processors, || self.once())
    }

    /// CPU time of sealing the response and opening the request, with the shared key at hand.
    ///
    /// # Errors
    /// When it does not open.
    pub fn sealing_cost(&self) -> Result<Duration, Error> {
        let ours = Sealer::new(CurveSecret::new(&Seed::<Curve>::generate())?);
        let theirs = Sealer::new(CurveSecret::new(&Seed::<Curve>::generate())?);
        let sealed = theirs.seal(&self.request, ours.public(), &[1; 24])?;
        let processors = thread::available_parallelism().map_or(1, usize::from);
        every(processors, || {
            let opened = ours.open(black_box(&sealed), theirs.public());
            let sealed = ours.seal(black_box(&self.response), theirs.public(), &[2; 24]);
            opened.is_ok() && sealed.is_ok()
        })
    }
}

/// The mean CPU time of one turn, over so many threads that all turn for a while.
fn every(threads: usize, turn: impl Fn() -> bool + Sync) -> Result<Duration, Error> {
    let one = || -> Option<(Duration, u32)> {
        let began = thread_cpu();
        let mut turns = 0;
        loop {
            for _ in 0..BETWEEN_LOOKS {
                if !turn() {
                    return None;
                }
            }
            turns += BETWEEN_LOOKS;
            let took = thread_cpu().saturating_sub(began);
            if took >= ROUND {
                return Some((took, turns));
            }
        }
    };
    let rounds: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().ok().flatten()).collect()
    });
    let (mut took, mut turns) = (Duration::ZERO, 0);
    for round in rounds {
        let (time, count) = round.ok_or("cryptography that must work did not")?;
        took += time;
        turns += count;
    }
    Ok(took / turns.max(1))
}
