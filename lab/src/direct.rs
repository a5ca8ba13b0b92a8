//! Requests straight to the service: this process plays nats-server.
//!
//! Closed loop: so many in flight; a reply sends the next. Open loop: so many a second, whatever
//! comes back, each latency from the time at which the request should have been sent: a service
//! that stalls is charged for everything that it kept waiting.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Error;
use super::crypto::Crypto;
use super::latency::{Latencies, Summary};
use super::request::{Kind, Minter, Request};
use crate::fake_server::{FakeServer, Member, Receive};
use crate::testbed::{Serve, Testbed};
use solewriter_core::keys::{Account, Seed};
use solewriter_sandbox::cpu_usage;

/// Send times that are kept: more than can be on their way.
const KEPT: usize = 1 << 20;
/// One reply in so many is opened and verified.
const LOOKED_AT: u64 = 101;
/// How long nats-server waits for an answer (`deploy/nats-server.conf`). What comes later is lost.
pub const SERVER_PATIENCE: Duration = Duration::from_secs(10);

/// How much at once.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pressure {
    /// So many in flight.
    Concurrency(usize),
    /// So many a second.
    Rate(f64),
}

/// What a run found.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Outcome {
    /// Length of the measured part, in seconds.
    pub seconds: f64,
    /// Requests sent in it.
    pub sent: u64,
    /// Answers that came in it, in time.
    pub answered: u64,
    /// Answers that came after nats-server would have given up.
    pub late: u64,
    /// Answers in time, per second.
    pub per_second: f64,
    /// From the time at which a request was to be sent to its answer.
    pub latency: Summary,
    /// CPU of the service per answer, in microseconds.
    pub service_cpu_us: Option<f64>,
    /// CPU of this process per answer, in microseconds.
    pub generator_cpu_us: Option<f64>,
    /// CPU of the service, in processors.
    pub service_processors: Option<f64>,
    /// Resident memory of the service at the end, in bytes.
    pub service_rss: Option<u64>,
}

/// One run's state, shared by those who send and those who take replies.
struct Flight {
    broker: Arc<FakeServer>,
    requests: Arc<Vec<Request>>,
    minter: Arc<Minter>,
    header: Option<String>,
    kind: Kind,
    closed: bool,
    began: Instant,
    /// In nanoseconds since `began`: from when on it counts.
    from: AtomicU64,
    running: AtomicBool,
    next: AtomicU64,
    /// By number: nanoseconds since `began` at which it was to be sent.
    due: Vec<AtomicU64>,
    answered: AtomicU64,
    late: AtomicU64,
    sent: AtomicU64,
    latencies: Mutex<Latencies>,
    /// The first thing that was not as it must be.
    fault: Mutex<Option<String>>,
    first: Mutex<Option<(u64, Vec<u8>)>>,
}

/// A cheap, good enough source of numbers: which member of the queue group is asked.
fn scatter(number: u64) -> usize {
    let mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    usize::try_from((mixed ^ (mixed >> 31)) >> 8 & 0xFFFF_FFFF).unwrap_or_default()
}

impl Flight {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Sends requests that were due at these times, each to a member of the queue group.
    fn send(&self, due: impl Iterator<Item = u64>, frames: &mut Vec<Vec<u8>>) {
        let members = self.broker.members();
        if members.is_empty() {
            return;
        }
        frames.resize_with(members.len(), Vec::new);
        let mut count = 0;
        for due in due {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let index = usize::try_from(number).unwrap_or_default();
            if let Some(kept) = self.due.get(index % KEPT) {
                kept.store(due.max(1), Ordering::Relaxed);
            }
            let member = scatter(number) % members.len();
            if let (Some(request), Some(member), Some(frames)) = (
                self.requests.get(index % self.requests.len().max(1)),
                members.get(member),
                frames.get_mut(member),
            ) {
                member.frame(frames, number, self.header.as_deref(), &request.payload);
                count += u64::from(due >= self.from.load(Ordering::Relaxed));
            }
        }
        self.sent.fetch_add(count, Ordering::Relaxed);
        for (member, frames) in members.iter().zip(frames) {
            self.flush(member, frames);
        }
    }

    fn flush(&self, member: &Member, frames: &mut Vec<u8>) {
        if !frames.is_empty() && member.send(frames).is_err() {
            self.found("the service closed its connection".to_owned());
        }
        frames.clear();
    }

    fn found(&self, fault: String) {
        let mut first = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if self.running.load(Ordering::Relaxed) {
            first.get_or_insert(fault);
        }
    }

    fn look(&self, number: u64, answer: &[u8]) {
        let index = usize::try_from(number).unwrap_or_default() % self.requests.len().max(1);
        let Some(request) = self.requests.get(index) else { return };
        let expected = self.kind == Kind::Good;
        match self.minter.granted(request, answer) {
            Ok(granted) if granted == expected => {}
            Ok(granted) => self.found(format!("granted: {granted}, and {expected} was expected")),
            Err(error) => self.found(format!("an answer is wrong: {error}")),
        }
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| (number, answer.to_vec()));
    }
}

impl Receive for Flight {
    fn take(&self, replies: &[(u64, &[u8])]) {
        let (now, from) = (self.now(), self.from.load(Ordering::Relaxed));
        let running = self.running.load(Ordering::Relaxed);
        let (mut answered, mut late) = (0, 0);
        let patience = u64::try_from(SERVER_PATIENCE.as_nanos()).unwrap_or(u64::MAX);
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, answer) in replies {
            let index = usize::try_from(*number).unwrap_or_default() % KEPT;
            let due = self.due.get(index).map_or(0, |due| due.swap(0, Ordering::Relaxed));
            if due == 0 {
                self.found("a second answer to one request".to_owned());
                continue;
            }
            let took = now.saturating_sub(due);
            let in_time = took <= patience;
            if running && now >= from {
                answered += u64::from(in_time);
                late += u64::from(!in_time);
            }
            if due >= from {
                latencies.record(Duration::from_nanos(took));
            }
            if number % LOOKED_AT == 0 {
                self.look(*number, answer);
            }
        }
        drop(latencies);
        self.answered.fetch_add(answered, Ordering::Relaxed);
        self.late.fetch_add(late, Ordering::Relaxed);
        if self.closed && running {
            let mut frames = Vec::new();
            self.send(replies.iter().map(|_| now), &mut frames);
        }
    }
}

/// A service to put load on, and what plays its server.
pub struct Direct {
    /// What the service is connected to.
    pub broker: Arc<FakeServer>,
    /// Makes requests.
    pub minter: Arc<Minter>,
}

impl Direct {
    /// Runs for `warm_up`, which does not count, and then for `length`.
    ///
    /// # Errors
    /// When an answer is not what it must be, or none comes.
    pub fn run(
        &self,
        serves: &[&Serve],
        requests: &Arc<Vec<Request>>,
        kind: Kind,
        pressure: Pressure,
        (warm_up, length): (Duration, Duration),
    ) -> Result<Outcome, Error> {
        self.broker.wait(Duration::from_secs(10))?;
        let flight = Arc::new(Flight {
            broker: self.broker.clone(),
            requests: requests.clone(),
            minter: self.minter.clone(),
            header: self.minter.header(),
            kind,
            closed: matches!(pressure, Pressure::Concurrency(_)),
            began: Instant::now(),
            from: AtomicU64::new(u64::MAX),
            running: AtomicBool::new(true),
            next: AtomicU64::new(0),
            due: (0..KEPT).map(|_| AtomicU64::new(0)).collect(),
            answered: AtomicU64::new(0),
            late: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            latencies: Mutex::default(),
            fault: Mutex::default(),
            first: Mutex::default(),
        });
        self.broker.receive(Some(flight.clone()));
        let sender = match pressure {
            Pressure::Concurrency(count) => {
                let now = flight.now();
                flight.send((0..count).map(|_| now), &mut Vec::new());
                None
            }
            Pressure::Rate(rate) => {
                let flight = flight.clone();
                Some(thread::spawn(move || keep_rate(&flight, rate)))
            }
        };
        thread::sleep(warm_up);
        let services =
            || -> Option<Vec<cpu_usage::Usage>> { serves.iter().map(|s| s.usage()).collect() };
        let (before, mine) = (services(), cpu_usage::of(std::process::id()));
        let began = Instant::now();
        flight.from.store(flight.now(), Ordering::Relaxed);
        thread::sleep(length);
        let seconds = began.elapsed().as_secs_f64();
        let (after, mine_after) = (services(), cpu_usage::of(std::process::id()));
        let answered = flight.answered.load(Ordering::Relaxed);
        let late = flight.late.load(Ordering::Relaxed);
        let sent = flight.sent.load(Ordering::Relaxed);
        flight.running.store(false, Ordering::Relaxed);
        if let Some(sender) = sender {
            let _ = sender.join();
        }
        settle(&flight);
        self.broker.receive(None);
        if let Some(fault) = flight.fault.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(fault.into());
        }
        let total = |usages: &[cpu_usage::Usage]| usages.iter().map(|u| u.cpu).sum::<Duration>();
        let cpu = before.zip(after.as_ref()).map(|(b, a)| total(a).saturating_sub(total(&b)));
        let own = mine.zip(mine_after).map(|(b, a)| a.cpu.saturating_sub(b.cpu));
        let each = |cpu: Duration| per(cpu, answered);
        let latency = flight.latencies.lock().unwrap_or_else(PoisonError::into_inner).summary();
        Ok(Outcome {
            seconds,
            sent,
            answered,
            late,
            per_second: count(answered) / seconds,
            latency,
            service_cpu_us: cpu.and_then(each),
            generator_cpu_us: own.and_then(each),
            service_processors: cpu.map(|cpu| cpu.as_secs_f64() / seconds),
            service_rss: after.map(|after| after.iter().map(|u| u.rss).sum()),
        })
    }

    /// The answer to one request.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn ask(&self, request: &Request) -> Result<Vec<u8>, Error> {
        struct One(Mutex<std::sync::mpsc::Sender<Vec<u8>>>);
        impl Receive for One {
            fn take(&self, replies: &[(u64, &[u8])]) {
                for (_, answer) in replies {
                    let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                    let _ = sender.send(answer.to_vec());
                }
            }
        }
        self.broker.wait(Duration::from_secs(10))?;
        let (sender, receiver) = std::sync::mpsc::channel();
        self.broker.receive(Some(Arc::new(One(Mutex::new(sender)))));
        let members = self.broker.members();
        let member = members.first().ok_or("the service does not take requests")?;
        let mut frame = Vec::new();
        member.frame(&mut frame, 0, self.minter.header().as_deref(), &request.payload);
        member.send(&frame)?;
        let answer = receiver.recv_timeout(Duration::from_secs(10));
        self.broker.receive(None);
        answer.map_err(|_| "the service did not answer".into())
    }
}

/// Microseconds for each of so many.
pub(super) fn per(cpu: Duration, many: u64) -> Option<f64> {
    (many > 0).then(|| cpu.as_secs_f64() * 1e6 / count(many))
}

/// As a number to reckon with.
#[allow(clippy::cast_precision_loss)]
pub(super) fn count(many: u64) -> f64 {
    many as f64
}

/// Sends at a constant rate until the run ends. What is late is sent at once.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn keep_rate(flight: &Flight, rate: f64) {
    let apart = 1e9 / rate.max(0.001);
    let mut frames = Vec::new();
    let mut number = 0_u64;
    while flight.running.load(Ordering::Relaxed) {
        let now = flight.now();
        let due = (now as f64 / apart) as u64;
        if due > number {
            // In pieces, so that none waits for the writing of very many.
            let end = due.min(number + 256);
            flight.send((number..end).map(|n| (n as f64 * apart) as u64), &mut frames);
            number = end;
        } else {
            let next = ((number + 1) as f64 * apart) as u64;
            thread::sleep(Duration::from_nanos(next.saturating_sub(flight.now())));
        }
    }
}

/// Waits until nothing more comes, so that the next run begins with nothing on its way.
fn settle(flight: &Flight) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let outstanding = || flight.due.iter().filter(|due| due.load(Ordering::Relaxed) != 0).count();
    let mut last = outstanding();
    while last > 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
        let now = outstanding();
        if now == last {
            return;
        }
        last = now;
    }
}

/// How long minted requests count: longer than any run.
const VALID: Duration = Duration::from_secs(6 * 3600);

impl Direct {
    /// Makes requests, of as many clients as there are.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn mint(&self, stage: &Testbed, kind: Kind, many: usize) -> Result<Vec<Request>, Error> {
        let clients = match kind {
            Kind::UnknownKey => &stage.company.strangers,
            _ => &stage.company.clients,
        };
        (0..many)
            .map(|number| {
                let client = clients.get(number % clients.len().max(1)).ok_or("no client")?;
                self.minter.mint(kind, client, VALID)
            })
            .collect()
    }

    /// The cryptography of one authorisation that the service made, and the answer's length.
    ///
    /// # Errors
    /// When it does not answer with a grant.
    pub fn crypto(&self, stage: &Testbed) -> Result<(Crypto, usize), Error> {
        let client = stage.company.clients.first().ok_or("no client")?;
        let request = self.minter.mint(Kind::Good, client, VALID)?;
        let answer = self.ask(&request)?;
        if !self.minter.granted(&request, &answer)? {
            return Err("the service refused a client of its policy".into());
        }
        let issuer = Seed::<Account>::parse(&stage.secret("issuer.nk")?)?;
        Ok((Crypto::of(&self.minter, &issuer, client, &request, &answer)?, answer.len()))
    }
}
