//! Looks at the running deployment with whatever the settings give it. Nothing is changed, and no
//! authorization request is ever answered from here.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, ServerAddr};

use super::seen::{
    AccountOn, Blind, Connection, Entry, Look, Mapping, Probe, Role, Seen, SeenLogin, SeenServer,
    Settings, Taker, User,
};
use crate::buckets::{Stream, streams};
use crate::config::Tool;
use crate::fleet;
use crate::nats::certificate::Validity;
use crate::nats::connect::{self, BrokerError, addresses};
use crate::nats::{self, Tls};
use crate::policy_source::bucket::Bucket;
use crate::policy_source::bucket::chain::Judge;
use crate::policy_source::directory::Directory;
use crate::sessions::consumers::listing::Jetstream;
use crate::sessions::consumers::sweep::{self, Accounts, Survey};
use crate::sessions::listing::survey;
use crate::sessions::system_api::{ServerName, Servers, System as Asking, SystemError};
use crate::signer::client;
use solewriter_core::analysis::query::mapped::Mappings;
use solewriter_core::callout::xkey::Sealer;
use solewriter_core::diagnostics::{Problems, SourceFile};
use solewriter_core::keys::{self, CurveSecret, Seed, Signer};
use solewriter_core::policy::model::Policy;
use solewriter_types::audit_event::words;

mod greeting;
mod movers;
mod operator;
mod system;
mod watch;

pub use self::movers::Adopting;
pub use self::operator::{account_jwts, account_on};
pub use self::system::{Clock, MOST_ACCOUNTS};
use self::watch::Watch;

/// Addresses that strangers are sent to; each may take as long as the server waits.
const MOST_PROBES: usize = 8;
/// How long a request is waited for where there should be one: a busy machine may need a second.
const EXPECTED: Duration = Duration::from_secs(3);
/// The same where there should be none, and all of it is waited.
const UNEXPECTED: Duration = Duration::from_millis(500);

/// A user of ours that got in.
struct Connected {
    user: User,
    client: Option<Client>,
}

/// Looks at everything. `adopting` is the adoption that is under way, and `clock` tells the time here.
pub async fn look(tool: &Tool, adopting: Option<&Adopting>, clock: Clock) -> Seen {
    let addresses = greeting::greetings(&tool.servers, &tool.tls).await;
    let settings = settings(tool);
    // Without a nonce nobody can prove to have a key; trying takes until the server gives up.
    let mute = addresses.iter().all(|a| a.info.as_ref().is_ok_and(|i| i.nonce.is_empty()));
    let mut users: Vec<Connected> = vec![connect(tool, Role::Callout, None, mute).await];
    let watch = match users.first().and_then(|callout| callout.client.as_ref()) {
        Some(callout) => Watch::begin(callout, sealer(tool)).await,
        None => None,
    };
    let tenant = tool.tenant.as_ref().map(|_| Role::Control);
    let control = tenant.unwrap_or(Role::Callout);
    for role in Role::ALL.into_iter().skip(1).chain(tenant) {
        users.push(connect(tool, role, watch.as_ref(), mute).await);
    }
    let client = |role: Role| {
        users.iter().find(|u| u.user.role == role).and_then(|user| user.client.as_ref())
    };
    let system = System::of(client(Role::System), &tool.account_ids).await;
    let mut accounts = Vec::new();
    for connected in &users {
        accounts.push(account(connected, &system).await);
    }
    let streams = match client(Role::Admin) {
        Some(admin) => own_streams(admin).await,
        None => Err(without(Role::Admin)),
    };
    let domain = client(Role::Admin).and_then(|admin| admin.server_info().domain);
    let audit_streams = match client(Role::AuditAdmin) {
        Some(admin) => own_streams(admin).await,
        None => Err(without(Role::AuditAdmin)),
    };
    let (probes, anonymous) = strangers(tool, watch.as_ref()).await;
    let account_of = |role: Role| {
        let at = users.iter().position(|user| user.user.role == role).unwrap_or_default();
        accounts.get(at).and_then(|account| account.as_ref().ok()).cloned()
    };
    let watching = client(Role::Callout).map(|client| {
        let info = client.server_info();
        (info.server_id, info.client_id)
    });
    let takers = system.takers(account_of(Role::Callout).as_deref(), watching.as_ref()).await;
    let connections = system.connections_of(&settings.accounts).await;
    let known = system.accounts().await;
    let own = own_accounts(&accounts, &known, &settings);
    let guests = system.connections_of(&own).await;
    let reader = client(Role::Publisher).or(client(control));
    let policy = policy(tool, reader).await;
    let consumers = match (client(control), &policy.policy) {
        (Some(control), Ok(policy)) => Ok(consumers(tool, control, policy).await),
        (None, _) => Err(without(control)),
        (_, Err(blind)) => Err(blind.clone()),
    };
    let instances = match reader {
        Some(reader) => {
            fleet::ask(reader).await.map_err(|error| Blind::new(error, "look at nats-server's log"))
        }
        None => Err(without(Role::Callout)),
    };
    let adoption = match adopting {
        Some(adopting) => {
            let policy = policy.policy.as_ref().map_err(Clone::clone);
            let old = account_of(Role::Admin);
            let system = system.client();
            Some(adopting.look(system, old.as_deref(), &settings.accounts, policy).await)
        }
        None => None,
    };
    let operator = operator::look(tool, watch.as_ref(), &known, policy.policy.as_ref().ok()).await;
    let seen = Seen {
        addresses,
        certificates: certificates(&tool.tls),
        now: clock(),
        servers: system.servers(clock).await,
        active_servers: system.servers.expected,
        untold: system.untold(&settings.accounts).await,
        accounts: known,
        takers,
        probes,
        anonymous,
        connections,
        guests,
        instances,
        policy: policy.policy,
        policy_is_wrong: policy.is_wrong,
        policy_bucket: policy.bucket,
        consumers,
        streams,
        domain,
        audit_streams,
        adoption,
        operator,
        settings,
        users: with_accounts(&users, accounts),
    };
    leave(users).await;
    seen
}

fn with_accounts(users: &[Connected], accounts: Vec<Look<String>>) -> Vec<User> {
    let users = users.iter().zip(accounts);
    users.map(|(connected, account)| User { account, ..connected.user.clone() }).collect()
}

/// The certificates of the settings; files that cannot be read are problems of the settings.
fn certificates(tls: &Tls) -> Vec<(&'static str, Validity)> {
    let cert = tls.identity.as_ref().map(|(cert, _)| cert);
    [("[nats.tls] ca", tls.ca.as_ref()), ("[nats.tls] cert", cert)]
        .into_iter()
        .filter_map(|(setting, file)| Some((setting, Validity::of_file(file?)?)))
        .collect()
}

/// The accounts of our own users, and the system account.
fn own_accounts(
    accounts: &[Look<String>],
    known: &Look<Vec<AccountOn>>,
    settings: &Settings,
) -> Vec<Arc<str>> {
    let mut own: Vec<Arc<str>> =
        accounts.iter().flatten().map(|account| account.as_str().into()).collect();
    own.extend(known.iter().flatten().filter(|a| a.is_system).map(|a| a.name.as_str().into()));
    own.retain(|account| !settings.accounts.contains(account));
    own.sort_unstable();
    own.dedup();
    own
}

/// Ends the connections, with what is still to be sent.
async fn leave(users: Vec<Connected>) {
    for client in users.into_iter().filter_map(|connected| connected.client) {
        let _ = client.drain().await;
    }
}

/// What an account's `mappings` do, on any of the servers.
///
/// # Errors
/// Why that cannot be seen.
pub async fn mappings(tool: &Tool, account: &str) -> Look<Mappings> {
    let connected = connect(tool, Role::System, None, false).await;
    let client = match (&connected.client, connected.user.login) {
        (Some(client), _) => client,
        (None, SeenLogin::Unusable(why) | SeenLogin::Refused(why) | SeenLogin::NoTls(why, _)) => {
            return Err(Blind::new(why, format!("see {}", Role::System.setting())));
        }
        (None, SeenLogin::NotSet | SeenLogin::In) => return Err(without(Role::System)),
    };
    let servers = System::of(Some(client), &tool.account_ids).await.servers.servers;
    let seen = system::account(client, tool.account_ids.of(account), &servers).await;
    let _ = client.drain().await;
    if seen.is_empty() {
        let why = format!("no server knows the account {account}");
        return Err(Blind::new(
            why,
            "check that the system user may ask, with `solewriter doctor`",
        ));
    }
    let mut mappings = Mappings::new();
    for (from, to) in seen.into_iter().flat_map(|account| account.mappings) {
        let all = mappings.entry(from).or_default();
        for Mapping { subject } in to {
            if !all.contains(&subject) {
                all.push(subject);
            }
        }
    }
    Ok(mappings)
}

/// Why something that takes a user cannot be seen.
pub fn without(role: Role) -> Blind {
    let why = format!("it needs the {}, who is not connected", role.name());
    Blind::new(why, format!("set {} here", role.setting()))
}

fn settings(tool: &Tool) -> Settings {
    let blind = |problems: &Problems, key: &str| {
        Blind::new(problems.first(), format!("set {key} to the seed that `serve` uses"))
    };
    let issuer = tool.issuer().map_err(|p| blind(&p, "[issuer] seed"));
    let xkey = tool.xkey().map_err(|p| blind(&p, "[xkey] seed"));
    let held = |signer: Arc<client::Client>| {
        issuer.as_ref().ok().map(|issuer| signer.holds(&[*issuer.public()]))
    };
    let signer = tool.signer().ok().flatten().and_then(held);
    let unusable = |e: solewriter_core::keys::KeyError| Blind::new(e.to_string(), "make a new one");
    let mut accounts = vec![tool.defaults.account.clone()];
    accounts.extend(tool.accounts.iter().cloned());
    Settings {
        signer,
        issuer: issuer
            .map(|issuer| *issuer.public())
            // In operator mode it is a key of the account that asks.
            .map(|key| tool.asking(&key).unwrap_or(key).to_string()),
        xkey: xkey.and_then(|seed| {
            seed.map(|seed| Ok(CurveSecret::new(&seed).map_err(unusable)?.public().to_string()))
                .transpose()
        }),
        accounts,
        lifetime: tool.defaults.lifetime,
        patience: tool.patience,
        clock_leeway: tool.clock_leeway,
        queue_group: tool.queue_group.clone(),
        audit: tool.audit.clone(),
        audit_streams: tool.defaults.audit.clone(),
        cluster: tool.cluster.clone(),
    }
}

/// What opens requests that are sealed for the xkey of the settings.
pub fn sealer(tool: &Tool) -> Option<Sealer> {
    let seed = tool.xkey().ok()??;
    CurveSecret::new(&seed).ok().map(Sealer::new)
}

fn seed(tool: &Tool, role: Role) -> Result<nats::Login, Problems> {
    match role {
        Role::Callout => tool.answering(),
        Role::Control => tool.callout(),
        Role::System => tool.system(),
        Role::Admin => tool.admin(),
        Role::AuditAdmin => tool.audit_admin(),
        Role::Publisher => tool.publisher(),
    }
}

/// Logs a user of ours in.
async fn connect(tool: &Tool, role: Role, watch: Option<&Watch>, mute: bool) -> Connected {
    let user = |key, login, called_out| User {
        role,
        key,
        login,
        account: Err(without(Role::System)),
        called_out,
    };
    let login = match seed(tool, role) {
        Ok(login) => login,
        Err(problems) if problems.iter().all(|p| p.code == "missing-setting") => {
            return Connected { user: user(None, SeenLogin::NotSet, None), client: None };
        }
        Err(problems) => {
            let why = SeenLogin::Unusable(problems.first());
            return Connected { user: user(None, why, None), client: None };
        }
    };
    let key = login.key().map(|key| key.to_string());
    if mute {
        let why = SeenLogin::Refused("the server gives it no nonce to sign".to_owned());
        return Connected { user: user(key, why, None), client: None };
    }
    let awaited = watch.zip(key.as_deref()).map(|(watch, key)| (watch, watch.await_key(key)));
    let connected = match connect::options(&login, &tool.tls, "solewriter doctor") {
        Ok(options) => connect::connect(&tool.servers, options).await,
        Err(error) => Err(error),
    };
    let called_out = match awaited {
        Some((watch, awaited)) => {
            let request = watch.since(&awaited, UNEXPECTED).await;
            // One that does not open may be anybody's.
            Some(request.is_some_and(|request| request.content.is_some()))
        }
        None => None,
    };
    match connected {
        Ok(client) => {
            Connected { user: user(key, SeenLogin::In, called_out), client: Some(client) }
        }
        Err(error) => {
            let why = match &error {
                BrokerError::Connect { error, .. } if connect::is_tls(error) => {
                    SeenLogin::NoTls(connect::chain(error), connect::advice(error))
                }
                _ => SeenLogin::Refused(error.to_string()),
            };
            Connected { user: user(key, why, called_out), client: None }
        }
    }
}

/// The account that a user of ours is in.
async fn account(connected: &Connected, system: &System<'_>) -> Look<String> {
    let Some(client) = &connected.client else { return Err(without(connected.user.role)) };
    let info = client.server_info();
    if let Some(asker) = system.client
        && let Some(found) = system::connection(asker, &info.server_id, info.client_id).await
    {
        return Ok(system.accounts.name(&found.account).to_owned());
    }
    // The others may not ask, and the attempt would be logged as a violation.
    let may_ask = matches!(connected.user.role, Role::Admin | Role::AuditAdmin);
    let told = if may_ask { connect::account(client).await } else { None };
    told.map(|id| system.accounts.name(&id).to_owned()).ok_or_else(|| without(Role::System))
}

async fn consumers(tool: &Tool, callout: &Client, policy: &Policy) -> Result<Survey, String> {
    let accounts = Accounts {
        state: Jetstream::state(callout.clone()),
        audit: Some(Jetstream::audit(callout.clone())),
        audit_streams: tool.defaults.audit.clone(),
    };
    let survey = sweep::survey(&accounts, policy, tool.sessions.consumers).await;
    survey.map_err(|error| error.to_string())
}

async fn own_streams(admin: &Client) -> Look<Vec<Stream>> {
    let streams = streams::all(admin).await;
    streams.map_err(|error| Blind::new(error.to_string(), "mend that first"))
}

/// The policy, whether it was seen and does not hold, and what is wrong with its bucket.
struct PolicySeen {
    policy: Look<Policy>,
    is_wrong: bool,
    bucket: Vec<&'static str>,
}

async fn policy(tool: &Tool, reader: Option<&Client>) -> PolicySeen {
    let bucket = reader.map(|client| Bucket::new(client.clone(), tool.bucket.clone()));
    let (name, how, read) = match (&tool.policy, &bucket) {
        (Some(dir), _) => {
            let name = dir.display().to_string();
            let directory = Directory::new(dir);
            let read = tokio::task::spawn_blocking(move || directory.read());
            let how = format!("see `solewriter check {name}`");
            (name, how, read.await.map_err(|e| Blind::new(e.to_string(), "try again")))
        }
        (None, None) => {
            let blind = Blind::new(
                "the settings name no directory, and nobody is connected who may read its bucket",
                "set [policy] directory, or [publisher] nkey_seed",
            );
            return PolicySeen { policy: Err(blind), is_wrong: false, bucket: Vec::new() };
        }
        (None, Some(bucket)) => {
            let how = "push one that does: `solewriter policy push DIR -m WHY`".to_owned();
            (
                format!("in the bucket {}", tool.bucket),
                how,
                pushed(bucket, tool.judge().as_ref()).await.map(Ok),
            )
        }
    };
    let weak = match (&tool.policy, &bucket) {
        (None, Some(bucket)) => bucket.weaknesses().await.unwrap_or_default(),
        _ => Vec::new(),
    };
    let documents = match (&tool.policy, &bucket) {
        (Some(dir), _) => Directory::new(dir).read_emergencies().unwrap_or_default(),
        (None, Some(bucket)) => bucket.all_emergencies().await.unwrap_or_default(),
        (None, None) => Vec::new(),
    };
    let judge = |files: Vec<SourceFile>| tool.in_force(&files, documents);
    let (policy, is_wrong) = match read {
        Err(blind) => (Err(blind), true),
        Ok(files) => match files.and_then(judge) {
            Ok(policy) => (Ok(policy), false),
            Err(problems) => {
                let why = format!("the policy {name} does not hold: {}", problems.summary());
                (Err(Blind::new(why, how)), true)
            }
        },
    };
    PolicySeen { policy, is_wrong, bucket: weak }
}

/// The files of the newest revision in a policy's bucket that counts.
///
/// # Errors
/// When there is none, or it cannot be read.
pub async fn pushed(bucket: &Bucket, judge: Option<&Arc<Judge>>) -> Look<Vec<SourceFile>> {
    let push = "`solewriter policy push DIR -m WHY` makes the first revision";
    let name = bucket.name();
    match bucket.that_counts(judge).await {
        Ok(Some(head)) => bucket.files(&head).await.map_err(|error| {
            Blind::new(
                format!("the policy bucket {name} cannot be read: {error}"),
                "see its stream",
            )
        }),
        Ok(None) => Err(Blind::new(format!("the policy bucket {name} is empty"), push)),
        Err(error) => Err(Blind::new(format!("the policy bucket {name}: {error}"), push)),
    }
}

/// Sends those who should not get in: a key that nobody has, and nobody at all.
async fn strangers(
    tool: &Tool,
    watch: Option<&Watch>,
) -> (Look<Vec<Probe>>, Vec<(String, Look<Entry>)>) {
    let mut probes = Vec::new();
    let mut anonymous = Vec::new();
    for (server, address) in tool.servers.iter().zip(addresses(&tool.servers)).take(MOST_PROBES) {
        if let Some(watch) = watch {
            probes.push(probe(server, &address, Seed::generate(), tool, watch).await);
        }
        anonymous.push((address, nobody(server, tool).await));
    }
    let probes = if watch.is_some() { Ok(probes) } else { Err(without(Role::Callout)) };
    (probes, anonymous)
}

/// A server, as somebody found it who logged in there.
#[derive(Clone, Debug)]
pub struct Knock {
    /// Where.
    pub address: String,
    /// The account key that it expects answers from; `None` where the request was not seen, or does
    /// not open.
    pub issuer: Option<String>,
    /// Whether the request was sealed.
    pub sealed: bool,
    /// Whether it let the client in.
    pub entered: bool,
    /// Whether it refused the client long before it would have given up: by an answer.
    pub refused_in_time: bool,
}

/// The part of what a server waits in which a refusal must be an answer's.
const IN_TIME: f64 = 0.8;

/// Logs in at each server with the seed of a service, or with one that nobody knows.
///
/// # Errors
/// Why nothing can be seen.
pub async fn knock(
    tool: &Tool,
    sealer: Option<Sealer>,
    service: Option<&Seed<keys::User>>,
) -> Result<Vec<Knock>, String> {
    let callout = callout(tool).await?;
    let watch = Watch::begin(&callout, sealer).await;
    let watch = watch.ok_or("the callout user may not subscribe to requests")?;
    let mut knocks = Vec::new();
    for (server, address) in tool.servers.iter().zip(addresses(&tool.servers)) {
        let seed = service.and_then(|seed| Seed::parse(seed.expose()).ok());
        let probe =
            probe(server, &address, seed.unwrap_or_else(Seed::generate), tool, &watch).await;
        let content = probe.request.as_ref().and_then(|request| request.content.as_ref());
        let waits = content.and_then(|content| u32::try_from(content.waits).ok()).map(f64::from);
        knocks.push(Knock {
            address,
            issuer: content.map(|content| content.issuer.clone()),
            sealed: probe.request.as_ref().is_some_and(|request| request.sealed),
            entered: matches!(probe.entry, Ok(Entry::Entered(_))),
            refused_in_time: matches!(
                (&probe.entry, waits),
                (Ok(Entry::Refused(took)), Some(waits)) if took.as_secs_f64() < waits * IN_TIME
            ),
        });
    }
    let _ = callout.drain().await;
    Ok(knocks)
}

/// A connection of the callout's user.
///
/// # Errors
/// Why there is none.
pub async fn callout(tool: &Tool) -> Result<Client, String> {
    let login = tool.answering().map_err(|problems| problems.first())?;
    let options = connect::options(&login, &tool.tls, "solewriter doctor");
    let options = options.map_err(|error| error.to_string())?;
    connect::connect(&tool.servers, options).await.map_err(|error| error.to_string())
}

async fn probe(
    server: &ServerAddr,
    address: &str,
    seed: Seed<keys::User>,
    tool: &Tool,
    watch: &Watch,
) -> Probe {
    let nkey = Signer::new(&seed).map(|s| s.public().to_string()).unwrap_or_default();
    let awaited = watch.await_key(&nkey);
    let entry = match greeting::stranger(&tool.way_in(seed), &tool.tls) {
        Ok(options) => greeting::enter(server, options).await,
        Err(error) => Err(Blind::new(error.to_string(), "look at [issuer] seed")),
    };
    let request = watch.since(&awaited, EXPECTED).await;
    Probe { address: address.to_owned(), entry, request }
}

async fn nobody(server: &ServerAddr, tool: &Tool) -> Look<Entry> {
    greeting::enter(server, tool.tls.apply(ConnectOptions::new())).await
}

/// How many servers that do not tell of their connections are named.
const UNTOLD: usize = 16;

/// What the system user can be asked.
struct System<'a> {
    client: Option<&'a Client>,
    /// How servers name accounts.
    accounts: &'a nats::AccountIds,
    servers: Servers,
}

impl<'a> System<'a> {
    async fn of(client: Option<&'a Client>, accounts: &'a nats::AccountIds) -> Self {
        let servers = match client {
            Some(client) => Asking::new(client.clone(), accounts.clone())
                .patient()
                .servers()
                .await
                .unwrap_or_default(),
            None => Servers::default(),
        };
        // Nobody answers a user who is in another account.
        Self { client: client.filter(|_| !servers.servers.is_empty()), accounts, servers }
    }

    fn client(&self) -> Look<&'a Client> {
        self.client.ok_or_else(|| without(Role::System))
    }

    async fn servers(&self, clock: Clock) -> Look<Vec<SeenServer>> {
        Ok(system::servers(self.client()?, &self.servers.servers, clock).await)
    }

    async fn accounts(&self) -> Look<Vec<AccountOn>> {
        let mut all = system::accounts(self.client()?, &self.servers.servers).await;
        for account in &mut all {
            account.name = self.accounts.name(&account.name).to_owned();
            for import in &mut account.imports {
                import.account = self.accounts.name(&import.account).to_owned();
                // The server's own imports have the account in their subjects.
                let id = self.accounts.of(&account.name);
                import.subject = import.subject.replace(id, &account.name);
                import.local_subject = import.local_subject.replace(id, &account.name);
            }
        }
        Ok(all)
    }

    async fn takers(
        &self,
        account: Option<&str>,
        watching: Option<&(String, u64)>,
    ) -> Look<Vec<Taker>> {
        let client = self.client()?;
        let account = account.ok_or_else(|| without(Role::Callout))?;
        let account = self.accounts.of(account);
        let mut all = system::takers(client, account, watching, &self.servers.servers).await;
        for taker in &mut all {
            taker.account = self.accounts.name(&taker.account).to_owned();
        }
        Ok(all)
    }

    /// The servers that do not tell of these accounts' connections as a server does, and how: they
    /// are asked as a sweep asks them.
    async fn untold(&self, accounts: &[Arc<str>]) -> Vec<String> {
        let Some(client) = self.client else { return Vec::new() };
        let asking = Asking::new(client.clone(), self.accounts.clone()).patient();
        let Ok(survey) = survey(&asking, accounts, |_| None::<()>).await else { return Vec::new() };
        let said = |(server, error): &(ServerName, SystemError)| {
            format!("{}: {}", words(&server.name), words(&error.to_string()))
        };
        survey.failures.iter().take(UNTOLD).map(said).collect()
    }

    async fn connections_of(&self, accounts: &[Arc<str>]) -> Look<Vec<Connection>> {
        let client = self.client()?;
        let mut all = Vec::new();
        for account in accounts {
            let id = self.accounts.of(account);
            let found = system::connections(client, id, &self.servers.servers).await;
            let named = |connection: Connection| {
                let account = self.accounts.name(&connection.account).to_owned();
                Connection { account, ..connection }
            };
            // A stranger of ours that was let in is told of as that.
            let others = found.into_iter().filter(|found| found.name != *greeting::STRANGER);
            all.extend(others.map(named));
        }
        Ok(all)
    }
}
