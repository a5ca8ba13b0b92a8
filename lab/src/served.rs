//! What a connection that a callout decides costs nats-server, by what the answer says: how many
//! subjects, which, in which order, the name, other claims, sealed or not. Beside it what a user of
//! the server's own configuration costs.
//!
//! Who answers is in this process and verifies nothing, so that answers can change from one turn to
//! the next, and only they do.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use futures_util::StreamExt;
use rand::seq::SliceRandom;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::render::{number, thousands};
use super::results::{self, Machine, Served, ServedBy, ServedCover, ServedForm, ServedGrant};
use super::{Error, progress};
use crate::ceiling::Answerer;
use crate::direct::Pressure;
use crate::fixture_policy::FixturePolicy;
use crate::real_clients::{Against, ServerTestbed};
use crate::testbed::Testbed;
use solewriter::nats::connect::INBOX;
use solewriter::service::CALLOUT_SUBJECT;
use solewriter_core::callout::xkey::Sealer;
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::grant::{AuditStreams, Defaults, Grant, Side};
use solewriter_core::keys::{Account, Curve, CurveSecret, Seed, Signer};
use solewriter_core::policy::validate::validate;
use solewriter_sandbox::NEWEST;
use solewriter_sandbox::fetch::SUPPORTED;

/// The account that connections are placed in.
const ACCOUNT: &str = "APP";
/// Clients at once: the server is never idle, and none waits long.
const CLIENTS: usize = 8;
/// How many subjects it takes to read a bucket.
const OF_BUCKET: usize = 11;
/// The length of a name as `serve` gives it: a service, its key, two digests, two times.
const NAME: usize = 215;
/// Subjects of a short list.
const FEW: usize = 20;
/// How long a turn may become that is too short for any connection.
const LONGEST_TURN: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rounds, in each of which every answer has its turn.
    pub rounds: usize,
    /// How long a turn takes.
    pub turn: Duration,
    /// How many subjects an answer has. The most of them is what long lists have.
    pub subjects: Vec<usize>,
    /// nats-server's versions; the first and the last when there are none.
    pub nats_servers: Vec<String>,
}

/// What is answered.
#[derive(Clone)]
struct Said {
    name: String,
    claims: Value,
}

/// Who answers, and what.
struct Responder {
    answerer: Answerer,
    said: Mutex<Arc<(String, Box<RawValue>)>>,
    /// The size of the last answer.
    bytes: AtomicUsize,
}

/// A server, and who answers for it; nobody where it decides alone.
struct Stage {
    server: ServerTestbed,
    responder: Option<Arc<Responder>>,
}

/// Grants of one kind and size, and the server that gives them to users of its own.
struct Size {
    what: &'static str,
    subjects: usize,
    claims: Value,
    alone: Stage,
}

/// Measures it.
///
/// # Errors
/// When something does not start, or a client is not let in.
pub async fn run(plan: Plan) -> Result<Served, Error> {
    let mut versions = plan.nats_servers.clone();
    if versions.is_empty() {
        versions.extend(SUPPORTED.first().map(ToString::to_string));
        versions.push(NEWEST.to_owned());
    }
    let mut served = Served {
        machine: Machine::here(versions.join(", ")),
        date: results::now(),
        load_before: results::load_average(),
        ..Served::default()
    };
    for version in versions {
        served.servers.push(measure(version, &plan).await?);
    }
    served.load_after = results::load_average();
    Ok(served)
}

async fn measure(version: String, plan: &Plan) -> Result<ServedBy, Error> {
    let company = || FixturePolicy::new(20, 20, 20);
    let clear = Stage::open(company()?, Some(false), &version).await?;
    let sealed = Stage::open(company()?, Some(true), &version).await?;
    let sizes = sizes(&plan.subjects, &version).await?;
    let covers = plan.subjects.iter().map(|many| cover(*many)).collect::<Result<Vec<_>, _>>()?;
    let forms = forms(plan.subjects.iter().copied().max().unwrap_or_default());
    let mut by = ServedBy { nats_server: version, ..ServedBy::default() };
    by.grants.resize_with(sizes.len(), ServedGrant::default);
    by.covers.resize_with(covers.len(), ServedCover::default);
    by.forms.resize_with(forms.len(), ServedForm::default);
    for round in 1..=plan.rounds {
        progress(&format!("nats-server {}: round {round} of {}", by.nats_server, plan.rounds));
        for (size, found) in sizes.iter().zip(&mut by.grants) {
            (found.what, found.subjects) = (size.what.to_owned(), size.subjects);
            let said = Said::named(NAME, size.claims.clone());
            found.alone.push(size.alone.turn(None, plan.turn).await?.0);
            let (us, bytes) = clear.turn(Some(&said), plan.turn).await?;
            found.clear.push(us);
            found.bytes = bytes;
            found.sealed.push(sealed.turn(Some(&said), plan.turn).await?.0);
        }
        for ((all, few), found) in covers.iter().zip(&mut by.covers) {
            (found.subjects, found.sent) = (all.subjects(), few.subjects());
            found.all.push(clear.turn(Some(all), plan.turn).await?.0);
            found.few.push(clear.turn(Some(few), plan.turn).await?.0);
        }
        for (form, found) in forms.iter().zip(&mut by.forms) {
            (found.what, found.against) = (form.what.clone(), form.against.clone());
            found.subjects = form.said.subjects();
            let (us, bytes) = clear.turn(Some(&form.said), plan.turn).await?;
            found.cpu_us.push(us);
            found.bytes = bytes;
        }
    }
    let stages = sizes.into_iter().map(|size| size.alone);
    for stage in stages.chain([clear, sealed]) {
        stage.server.close().await?;
    }
    Ok(by)
}

async fn sizes(subjects: &[usize], version: &str) -> Result<Vec<Size>, Error> {
    let mut sizes = Vec::new();
    for subjects in subjects.iter().copied() {
        let buckets = (subjects + OF_BUCKET / 2) / OF_BUCKET;
        for (what, company) in [
            ("owns a bucket, subscribes", FixturePolicy::new(20, subjects, 20)?),
            ("reads buckets", FixturePolicy::reading(buckets)?),
        ] {
            let client = company.clients.first().ok_or("the policy has no service")?;
            let grant = company.grant(client)?;
            let (subjects, claims) = (grant.subjects(), serde_json::to_value(grant.claims())?);
            let alone = Stage::open(company, None, version).await?;
            sizes.push(Size { what, subjects, claims, alone });
        }
    }
    Ok(sizes)
}

/// Rules with one subject that covers all others: all that they come to, and what is sent.
fn cover(many: usize) -> Result<(Said, Said), Error> {
    let mut subjects = list(many.saturating_sub(1), plain);
    subjects.push("news.s17.>".to_owned());
    let text = format!("[service.s17]\npublishes = {subjects:?}\n");
    let policy = validate(&[SourceFile::new("load.toml", text)]).map_err(|p| p.summary())?;
    let service = policy.policy.service("s17").ok_or("the service is not in its policy")?;
    let defaults = Defaults {
        account: ACCOUNT.into(),
        lifetime: Duration::from_secs(3600),
        audit: AuditStreams::default(),
    };
    let grant = Grant::of(service, &defaults)?;
    let few = Said::named(NAME, serde_json::to_value(grant.claims())?);
    let permissions = grant.permissions(Side::Publish).iter();
    let all: Vec<String> = permissions.map(|p| p.subject.to_string()).collect();
    Ok((few.clone().with("/pub/allow", json!(all)), few))
}

/// An answer that differs from another one in one thing.
struct Form {
    what: String,
    against: String,
    said: Said,
}

fn forms(many: usize) -> Vec<Form> {
    let mut forms = Vec::new();
    let mut form = |what: &str, against: &str, said| {
        forms.push(Form { what: what.to_owned(), against: against.to_owned(), said });
    };
    let publishing = |list: Vec<String>| Said::plain().with("/pub/allow", json!(list));
    let (short, base) = (publishing(list(FEW, plain)), "20 to publish to");
    form(base, base, short.clone());
    form("a name of 7 characters", base, short.clone().renamed(7));
    form("a name of 1,000 characters", base, short.clone().renamed(1_000));
    form("20 tags", base, short.with("/tags", json!(list(FEW, plain))));
    let base = &format!("{} to publish to, sorted", thousands(number(many)));
    form(base, base, publishing(list(many, plain)));
    let mut shuffled = list(many, plain);
    shuffled.shuffle(&mut rand::rng());
    form("the same, shuffled", base, publishing(shuffled));
    let instead = |at| Said::plain().with(at, json!(list(many, plain)));
    form("the same to subscribe to", base, instead("/sub/allow"));
    form("the same denied to publish to", base, instead("/pub/deny"));
    form("the same denied to subscribe to", base, instead("/sub/deny"));
    form("as many tags, and no subjects", base, instead("/tags"));
    let other = |form: fn(usize) -> String| publishing(list(many, form));
    form("nothing in common", base, other(|n| format!("n{n:04}.s17.news")));
    form("one token each", base, other(|n| format!("news-s17-n{n:04}")));
    form("with .x behind", base, other(|n| format!("news.s17.n{n:04}.x")));
    form("with .> behind", base, other(|n| format!("news.s17.n{n:04}.>")));
    form("with * in place of a token", base, other(|n| format!("news.*.n{n:04}")));
    forms
}

fn plain(number: usize) -> String {
    format!("news.s17.n{number:04}")
}

fn list(many: usize, form: impl Fn(usize) -> String) -> Vec<String> {
    (0..many).map(form).collect()
}

impl Said {
    fn named(length: usize, claims: Value) -> Self {
        Self { name: "n".repeat(length), claims }
    }

    /// One subject on either side.
    fn plain() -> Self {
        let one = || json!({"allow": ["app.>"], "deny": []});
        let claims = json!({
            "pub": one(), "sub": one(), "tags": [], "issuer_account": "", "subs": -1, "data": -1,
            "payload": -1, "type": "user", "version": 2,
        });
        Self::named(NAME, claims)
    }

    fn renamed(self, length: usize) -> Self {
        Self::named(length, self.claims)
    }

    /// With another value in place of one that is there.
    fn with(mut self, at: &str, value: Value) -> Self {
        if let Some(place) = self.claims.pointer_mut(at) {
            *place = value;
        }
        self
    }

    fn subjects(&self) -> usize {
        let lists = ["/pub/allow", "/pub/deny", "/sub/allow", "/sub/deny"];
        let list = |at: &str| self.claims.pointer(at).and_then(Value::as_array).map_or(0, Vec::len);
        lists.into_iter().map(list).sum()
    }
}

impl Stage {
    /// Starts a server, and who answers for it: not at all, in the clear, or sealed.
    async fn open(
        company: FixturePolicy,
        callout: Option<bool>,
        version: &str,
    ) -> Result<Self, Error> {
        let stage = Arc::new(Testbed::set(company, callout.unwrap_or_default())?);
        let against = if callout.is_some() { Against::Ceiling } else { Against::StaticUsers };
        let version = Some(version.to_owned());
        // No instance: who answers is here.
        let server = ServerTestbed::open(stage.clone(), against, 0, version, &[]).await?;
        let Some(sealed) = callout else { return Ok(Self { server, responder: None }) };
        let issuer = Signer::<Account>::new(&Seed::parse(&stage.secret("issuer.nk")?)?)?;
        let sealer = if sealed {
            let seed = Seed::<Curve>::parse(&stage.secret("callout.xk")?)?;
            Some(Sealer::new(CurveSecret::new(&seed)?))
        } else {
            None
        };
        let responder = Arc::new(Responder {
            answerer: Answerer { issuer: issuer.into(), sealer },
            said: Mutex::new(Arc::new((String::new(), RawValue::from_string("{}".to_owned())?))),
            bytes: AtomicUsize::new(0),
        });
        let seed = stage.secret("callout.nk")?.to_string();
        let options = async_nats::ConnectOptions::with_nkey(seed).custom_inbox_prefix(INBOX);
        let client = options.connect(server.server.client_url()).await?;
        let requests = client.subscribe(CALLOUT_SUBJECT).await?;
        client.flush().await?;
        tokio::spawn(responder.clone().run(client, requests));
        Ok(Self { server, responder: Some(responder) })
    }

    /// CPU of the server for a connection, in microseconds, and the answer's size.
    async fn turn(&self, said: Option<&Said>, turn: Duration) -> Result<(f64, usize), Error> {
        if let (Some(responder), Some(said)) = (&self.responder, said) {
            let claims = serde_json::value::to_raw_value(&said.claims)?;
            let mut now = responder.said.lock().unwrap_or_else(PoisonError::into_inner);
            *now = Arc::new((said.name.clone(), claims));
        }
        let mut length = turn;
        let run = loop {
            let run = self.server.run(Pressure::Concurrency(CLIENTS), (length / 5, length)).await;
            if run.is_ok() || length > LONGEST_TURN {
                break run?;
            }
            length *= 4;
        };
        if run.failed > 0 {
            return Err(format!("{} connections failed", run.failed).into());
        }
        let bytes = self.responder.as_ref().map_or(0, |r| r.bytes.load(Ordering::Relaxed));
        Ok((run.server_cpu_us.ok_or("no CPU time to be had")?, bytes))
    }
}

impl Responder {
    /// Answers until the connection ends. What it cannot answer shows in clients that fail.
    async fn run(self: Arc<Self>, client: Client, mut requests: async_nats::Subscriber) {
        while let Some(request) = requests.next().await {
            let said = self.said.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let answer = self.answerer.answer(&request, (&said.0, ACCOUNT, &said.1));
            let (Ok(answer), Some(reply)) = (answer, request.reply) else { continue };
            self.bytes.store(answer.len(), Ordering::Relaxed);
            if client.publish(reply, answer.into()).await.is_err() {
                return;
            }
        }
    }
}
