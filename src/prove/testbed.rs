//! Where an attack takes place: two services, a bucket each, and someone who sees everything.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::target::{DURABLE, MADE_BY, Made, PULL, Target, WATCH};
use super::{Attack, Step};
use crate::nats::raw_client::{DEADLINE, RawLogin, TlsServer, Wire, WireError};

/// What the placeholders in an attack stand for.
#[derive(Clone, Debug)]
pub struct Names {
    /// The attacker's service.
    pub me: String,
    /// The victim's service.
    pub them: String,
    /// The attacker's bucket.
    pub mine: String,
    /// The bucket under attack.
    pub victim: String,
    /// A subject answered by a service that owns nothing.
    pub plain: String,
    /// A subject answered by the victim.
    pub deputy: String,
    /// A value that the victim wrote.
    pub secret: String,
}

impl Names {
    /// Puts names in the place of placeholders.
    #[must_use]
    pub fn fill(&self, text: &str) -> String {
        text.replace("{me}", &self.me)
            .replace("{them}", &self.them)
            .replace("{mine}", &self.mine)
            .replace("{victim}", &self.victim)
            .replace("{plain}", &self.plain)
            .replace("{deputy}", &self.deputy)
            .replace("{secret}", &self.secret)
    }

    /// Where the victim hears that one server knows of it what another does: no attack's subject.
    pub(super) fn fence(&self) -> String {
        format!("_INBOX.{}.fence", self.them)
    }
}

/// Where an attack takes place.
#[derive(Clone, Debug)]
pub struct Testbed {
    /// Servers, at least one. The attacker is at the first, everyone else at the last.
    pub servers: Vec<TlsServer>,
    /// What everything is called.
    pub names: Names,
    /// Who attacks.
    pub attacker: RawLogin,
    /// Who is attacked.
    pub victim: RawLogin,
    /// Who answers at `{plain}`, if anyone.
    pub responder: Option<(String, RawLogin)>,
    /// Who holds the buckets.
    pub admin: RawLogin,
    /// How many servers hold each bucket.
    pub replicas: u8,
    /// Where streams are placed (`placement` of a stream's configuration); null is anywhere.
    pub placement: Value,
    /// What the bucket's stream is like beside what every bucket is.
    pub bucket: Value,
    /// How long an effect may take to show.
    pub patience: Duration,
    /// Settings of the bucket that the control adds.
    pub control_bucket: Value,
}

/// Where the admin's answers come: below what no service may be named, because inboxes pass into
/// the account of the services.
const ADMIN_INBOX: &str = "_INBOX.solewriter.prove";

/// Everybody's connections during one attack.
pub(super) struct Cast {
    /// What is looked at.
    pub target: Target,
    pub attacker: Wire,
    pub victim: Wire,
    pub admin: Wire,
    /// Answering until it is dropped.
    pub responders: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Cast {
    fn drop(&mut self) {
        for responder in &self.responders {
            responder.abort();
        }
    }
}

/// What the victim has, as the admin sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Belongings {
    /// Subject, sequence and payload of every message, but for those below `mine`.
    pub keys: Vec<(String, u64, String)>,
    /// Consumers with their configuration; pausing and pinning show there too.
    pub consumers: Vec<Value>,
    /// The stream's configuration.
    pub stream: Value,
    /// How many messages, and which.
    pub state: Value,
}

/// What is wrong with the stage: nothing can be said about an attack then.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A connection failed.
    #[error("{0}: {1}")]
    Wire(String, WireError),
    /// JetStream did not do what it must.
    #[error("{0}: {1}")]
    Api(String, Value),
}

fn on(what: &str) -> impl FnOnce(WireError) -> StageError {
    let what = what.to_owned();
    move |error| StageError::Wire(what, error)
}

impl Testbed {
    pub(super) fn near(&self) -> Result<&TlsServer, StageError> {
        self.servers.first().ok_or_else(|| StageError::Api("no server".to_owned(), Value::Null))
    }

    fn far(&self) -> Result<&TlsServer, StageError> {
        self.servers.last().ok_or_else(|| StageError::Api("no server".to_owned(), Value::Null))
    }

    /// Connects as the admin.
    ///
    /// # Errors
    /// When it is not let in.
    pub async fn admin(&self) -> Result<Wire, StageError> {
        Wire::login(self.far()?, &self.admin, ADMIN_INBOX).await.map_err(on("admin"))
    }

    /// Connects as the attacker.
    ///
    /// # Errors
    /// When it is not let in.
    pub async fn attacker(&self) -> Result<Wire, StageError> {
        let inbox = format!("_INBOX.{}", self.names.me);
        Wire::login(self.near()?, &self.attacker, &inbox).await.map_err(on("the attacker"))
    }

    /// Connects as the victim.
    ///
    /// # Errors
    /// When it is not let in.
    pub async fn victim(&self) -> Result<Wire, StageError> {
        let inbox = format!("_INBOX.{}", self.names.them);
        Wire::login(self.far()?, &self.victim, &inbox).await.map_err(on("the victim"))
    }

    /// Makes both buckets anew, and puts something into them.
    pub(super) async fn set(&self, attack: &Attack) -> Result<Cast, StageError> {
        let mut admin = self.admin().await?;
        let (mine, victim) = (&self.names.mine, &self.names.victim);
        self.make_bucket(&mut admin, mine, &[]).await?;
        let settings = [&self.bucket, &attack.bucket, &self.control_bucket];
        let of_bucket = if attack.target == Target::Bucket { &settings[..] } else { &[] };
        self.make_bucket(&mut admin, victim, of_bucket).await?;
        for (subject, value) in [
            (format!("$KV.{victim}.theirs.k1"), self.names.secret.as_str()),
            (format!("$KV.{victim}.theirs.k2"), "two"),
            (format!("$KV.{victim}.open.k"), "open to its readers"),
            (format!("$KV.{mine}.payload"), "chosen by the attacker"),
            (format!("$KV.{mine}.template"), "{}"),
            (format!("$KV.{mine}.empty"), ""),
        ] {
            store(&mut admin, &subject, value).await?;
        }
        self.make_consumers(&mut admin).await?;
        self.make_streams(&mut admin, attack, &settings[1..]).await?;
        let mut responders = Vec::new();
        if attack.responders {
            let deputy = self.victim().await?;
            responders.push(answer(deputy, &self.names.deputy).await?);
            if let Some((name, login)) = &self.responder {
                let inbox = format!("_INBOX.{name}");
                let plain = Wire::login(self.far()?, login, &inbox).await;
                let plain = plain.map_err(on("the responder"))?;
                responders.push(answer(plain, &self.names.plain).await?);
            }
        }
        let mut own = self.victim().await?;
        let deputy = &self.names.deputy;
        let them = &self.names.them;
        for subject in [
            format!("events.{them}.>"),
            // JetStream delivers where someone subscribes literally.
            format!("_INBOX.{them}.known"),
            format!("events.{them}.forged"),
            deputy.clone(),
            format!("{deputy}.>"),
            // The last: what comes through it shows that the others are known too.
            format!("_INBOX.{them}.>"),
        ] {
            // Without the grant it hears nothing there, which is what the grant is for.
            let _ = own.subscribe(&subject, "").await.map_err(on("the victim"))?;
        }
        self.until_known(&mut own).await?;
        Ok(Cast {
            target: attack.target,
            attacker: self.attacker().await?,
            victim: own,
            admin,
            responders,
        })
    }

    /// In a cluster: waits until the attacker's server knows what the victim subscribes to.
    async fn until_known(&self, victim: &mut Wire) -> Result<(), StageError> {
        if self.servers.len() < 2 {
            return Ok(());
        }
        // Inboxes are what the admin can reach from the account of the buckets, whatever else the
        // victim may hear.
        let near = Wire::login(self.near()?, &self.admin, ADMIN_INBOX).await;
        let mut near = near.map_err(on("the admin"))?;
        let fence = self.names.fence();
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            // A connection's subscriptions are told in their order.
            let _ = near.publish(&fence, "", "", b"").await.map_err(on("the admin"))?;
            if victim.next(Duration::from_millis(50)).await.is_some() {
                // The next connection to the first server comes after what is still on its way.
                while victim.next(Duration::from_millis(100)).await.is_some() {}
                return Ok(());
            }
        }
        Err(StageError::Api("the servers do not hear each other".to_owned(), Value::Null))
    }

    async fn make_bucket(
        &self,
        admin: &mut Wire,
        bucket: &str,
        settings: &[&Value],
    ) -> Result<(), StageError> {
        for name in of_bucket(bucket) {
            delete(admin, &name).await?;
        }
        let mut config = json!({
            "name": format!("KV_{bucket}"), "subjects": [format!("$KV.{bucket}.>")],
            "description": MADE_BY, "max_msgs_per_subject": 5, "storage": "memory", "discard": "new", "retention": "limits",
            "allow_rollup_hdrs": true, "deny_delete": true, "allow_direct": true,
            "num_replicas": self.replicas, "placement": self.placement, "max_msgs": -1, "max_bytes": -1,
        });
        self.extend(&mut config, settings);
        create(admin, &format!("KV_{bucket}"), &config).await
    }

    fn extend(&self, config: &mut Value, settings: &[&Value]) {
        let Some(config) = config.as_object_mut() else { return };
        for settings in settings.iter().filter(|s| s.is_object()) {
            let filled = serde_json::from_str(&self.names.fill(&settings.to_string()));
            config.extend::<Map<String, Value>>(filled.unwrap_or_default());
        }
    }

    /// Makes what is under attack beside buckets, each with its durable consumer.
    async fn make_streams(
        &self,
        admin: &mut Wire,
        attack: &Attack,
        settings: &[&Value],
    ) -> Result<(), StageError> {
        for (number, made) in attack.target.streams().into_iter().enumerate() {
            let Made { name, settings: own, stored } = made;
            let name = self.names.fill(name);
            delete(admin, &name).await?;
            let mut made = json!({"name": name, "description": MADE_BY, "storage": "memory",
                "allow_direct": true, "num_replicas": self.replicas,
                "placement": self.placement});
            self.extend(&mut made, &[&own]);
            if number == 0 {
                self.extend(&mut made, settings);
            }
            create(admin, &name, &made).await?;
            for (subject, value) in stored {
                store(admin, &self.names.fill(subject), &self.names.fill(value)).await?;
            }
            if attack.target.consumers().is_empty() {
                continue;
            }
            let config = json!({"name": DURABLE, "durable_name": DURABLE,
                "deliver_policy": "all", "ack_policy": "explicit", "mem_storage": true});
            create_consumer(admin, &name, &config).await?;
            // The first message is under way at the victim's.
            if number == 0 {
                let next = format!("$JS.API.CONSUMER.MSG.NEXT.{name}.{DURABLE}");
                take_one(admin, &next).await?;
            }
        }
        Ok(())
    }

    async fn make_consumers(&self, admin: &mut Wire) -> Result<(), StageError> {
        let (victim, them) = (&self.names.victim, &self.names.them);
        let minutes = 300_000_000_000_u64;
        for config in [
            json!({"name": WATCH, "deliver_policy": "new", "ack_policy": "none",
                "deliver_subject": format!("_INBOX.{them}.{WATCH}"), "inactive_threshold": minutes,
                "filter_subject": format!("$KV.{victim}.theirs.>"), "mem_storage": true}),
            json!({"name": PULL, "deliver_policy": "all", "ack_policy": "explicit",
                "inactive_threshold": minutes, "filter_subject": format!("$KV.{victim}.theirs.>"),
                "mem_storage": true}),
            json!({"name": DURABLE, "durable_name": DURABLE, "deliver_policy": "all",
                "ack_policy": "explicit", "filter_subject": format!("$KV.{victim}.theirs.>"),
                "mem_storage": true}),
        ] {
            create_consumer(admin, &format!("KV_{victim}"), &config).await?;
        }
        Ok(())
    }

    /// The streams that there may be: what is under attack, what attackers have of their own, and
    /// what an attack makes that succeeds.
    #[must_use]
    pub fn streams(&self) -> Vec<String> {
        let Names { mine, victim, .. } = &self.names;
        let mut streams = [of_bucket(mine), of_bucket(victim)].concat();
        for made in Target::ALL.into_iter().flat_map(Target::streams) {
            let name = self.names.fill(made.name);
            if !streams.contains(&name) {
                streams.push(name);
            }
        }
        streams
    }

    /// Removes what `set` made.
    ///
    /// # Errors
    /// When the admin cannot; what is left behind is named.
    pub async fn strike(&self) -> Result<(), StageError> {
        let mut admin = self.admin().await?;
        for name in self.streams() {
            delete(&mut admin, &name).await?;
        }
        Ok(())
    }
}

/// A bucket's stream, and what an attack makes of it.
fn of_bucket(bucket: &str) -> [String; 2] {
    [format!("KV_{bucket}"), format!("attack-{bucket}")]
}

/// Deletes a stream, if it is there.
async fn delete(admin: &mut Wire, name: &str) -> Result<(), StageError> {
    let gone = call(admin, &format!("STREAM.DELETE.{name}"), &Value::Null).await?;
    let error = &gone["error"];
    if !error.is_null() && error["err_code"] != json!(10059) {
        return Err(StageError::Api(format!("delete {name}"), gone));
    }
    Ok(())
}

/// The deleted stream of that name is still there, or its folder is.
const NOT_GONE_YET: [u64; 2] = [10_058, 10_049];

/// Creates a stream, when the deleted one of that name is gone.
async fn create(admin: &mut Wire, name: &str, config: &Value) -> Result<(), StageError> {
    let until = Instant::now() + DEADLINE;
    loop {
        let made = call(admin, &format!("STREAM.CREATE.{name}"), config).await?;
        let error = &made["error"];
        if error.is_null() {
            return Ok(());
        }
        let again = error["err_code"].as_u64().is_some_and(|code| NOT_GONE_YET.contains(&code));
        if !again || Instant::now() > until {
            return Err(StageError::Api(name.to_owned(), made));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Creates a consumer, with the filter that its configuration has, if any.
async fn create_consumer(admin: &mut Wire, stream: &str, config: &Value) -> Result<(), StageError> {
    let text = |field: &str| config[field].as_str();
    let filter = text("filter_subject").map(|filter| format!(".{filter}")).unwrap_or_default();
    let name = text("name").unwrap_or_default();
    let subject = format!("CONSUMER.CREATE.{stream}.{name}{filter}");
    let made = call(admin, &subject, &json!({"stream_name": stream, "config": config})).await?;
    if made["error"].is_null() { Ok(()) } else { Err(StageError::Api(subject, made)) }
}

/// Stores a value as the admin. A new stream in a cluster has no leader for a moment.
async fn store(admin: &mut Wire, subject: &str, value: &str) -> Result<(), StageError> {
    let until = Instant::now() + DEADLINE;
    loop {
        match admin.request(subject, "", value.as_bytes()).await {
            Ok(ack) if ack.json()["error"].is_null() => return Ok(()),
            Ok(ack) if Instant::now() > until => {
                return Err(StageError::Api(subject.to_owned(), ack.json()));
            }
            Err(error) if Instant::now() > until => return Err(on(subject)(error)),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Takes a consumer's next message as the admin. In a cluster a new consumer may not answer at all:
/// it is asked again then.
async fn take_one(admin: &mut Wire, next: &str) -> Result<(), StageError> {
    let until = Instant::now() + DEADLINE;
    loop {
        let asked = admin.request(next, "", b"{\"batch\":1,\"no_wait\":true}");
        match tokio::time::timeout(Duration::from_secs(1), asked).await {
            Ok(Ok(message)) if message.headers.is_empty() => return Ok(()),
            Ok(Ok(message)) if Instant::now() > until => {
                return Err(StageError::Api(next.to_owned(), json!(message.headers)));
            }
            Ok(Err(error)) if Instant::now() > until => return Err(on(next)(error)),
            Err(_) if Instant::now() > until => {
                return Err(on(next)(WireError::Unanswered(next.to_owned())));
            }
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// A request of JetStream's API as the admin. What is not ready yet is asked again.
pub(super) async fn call(admin: &mut Wire, what: &str, body: &Value) -> Result<Value, StageError> {
    let until = Instant::now() + DEADLINE;
    loop {
        let answer = admin.api(what, body).await.map_err(on(what))?;
        // JetStream is busy, or has no leader; 400, 404 and 500 are answers.
        let code = answer["error"]["code"].as_u64().unwrap_or_default();
        let busy = code == 503 || code == 408 || answer.is_null();
        if !busy || Instant::now() > until {
            return Ok(answer);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Answers requests with what they hold, wherever their reply is to go.
async fn answer(mut wire: Wire, subject: &str) -> Result<tokio::task::JoinHandle<()>, StageError> {
    wire.subscribe(subject, "")
        .await
        .and_then(|said| said.map_err(WireError::Refused))
        .map_err(on(subject))?;
    Ok(tokio::spawn(async move {
        while let Some(request) = wire.next(Duration::from_secs(3600)).await {
            if let Some(reply) = request.reply
                && wire.publish(&reply, "", "", &request.payload).await.is_err()
            {
                return;
            }
        }
    }))
}

impl Cast {
    /// What the victim has now.
    pub async fn belongings(&mut self, names: &Names) -> Result<Belongings, StageError> {
        let state = self.state(names).await?;
        let keys = self.keys(names, &state).await?;
        let consumers = self.consumers(names).await?;
        Ok(Belongings { keys, consumers, stream: stream_of(&state), state: numbers(&state) })
    }

    /// The victim's stream, as STREAM.INFO tells it.
    pub async fn state(&mut self, names: &Names) -> Result<Value, StageError> {
        let stream = names.fill(self.target.stream());
        call(&mut self.admin, &format!("STREAM.INFO.{stream}"), &Value::Null).await
    }

    /// Everything in it, but for what is the attacker's to write.
    pub async fn keys(
        &mut self,
        names: &Names,
        info: &Value,
    ) -> Result<Vec<(String, u64, String)>, StageError> {
        let mut keys = Vec::new();
        let number = |field: &str| info["state"][field].as_u64().unwrap_or_default();
        let attackers = self.target.attackers().map(|below| names.fill(below));
        let others = |subject: &str| attackers.as_ref().is_none_or(|a| !subject.starts_with(a));
        let request = format!("STREAM.MSG.GET.{}", names.fill(self.target.stream()));
        if number("messages") == 0 {
            return Ok(keys);
        }
        for sequence in number("first_seq")..=number("last_seq") {
            let found = call(&mut self.admin, &request, &json!({"seq": sequence})).await?;
            let text = |field: &str| found["message"][field].as_str().unwrap_or_default();
            if !text("subject").is_empty() && others(text("subject")) {
                keys.push((text("subject").to_owned(), sequence, text("data").to_owned()));
            }
        }
        Ok(keys)
    }

    /// The victim's consumers: configuration, and how far they are.
    pub async fn consumers(&mut self, names: &Names) -> Result<Vec<Value>, StageError> {
        let mut consumers = Vec::new();
        let stream = names.fill(self.target.stream());
        for name in self.target.consumers() {
            let subject = format!("CONSUMER.INFO.{stream}.{name}");
            // In a cluster nobody answers for a consumer that is just being made or removed.
            let info = match call(&mut self.admin, &subject, &Value::Null).await {
                Err(StageError::Wire(_, WireError::Unanswered(_))) => {
                    call(&mut self.admin, &subject, &Value::Null).await?
                }
                looked => looked?,
            };
            let code = &info["error"]["err_code"];
            consumers.push(json!([
                info["config"],
                code,
                info["paused"],
                info["delivered"]["consumer_seq"],
                info["ack_floor"]["consumer_seq"],
                info["num_ack_pending"],
            ]));
        }
        Ok(consumers)
    }
}

/// What a stream is like.
pub(super) fn stream_of(info: &Value) -> Value {
    json!([info["config"], info["error"]["err_code"]])
}

/// Numbers that change when anything is written or erased.
pub(super) fn numbers(info: &Value) -> Value {
    let state = &info["state"];
    json!([state["messages"], state["first_seq"], state["last_seq"], state["num_deleted"]])
}

/// The subjects that an attack's lines name, for the page: without the names of one run.
#[must_use]
pub fn line(step: &Step) -> String {
    let quoted = |text: &str| if text.is_empty() { String::new() } else { format!(" {text}") };
    match step {
        Step::Send { to, reply, headers, body, times } => {
            let kind = if headers.is_empty() { "PUB" } else { "HPUB" };
            let shown = headers.replace("\r\n", ", ");
            let shown = if shown.is_empty() { shown } else { format!(" [{shown}]") };
            let again = if *times > 1 { format!(" ×{times}") } else { String::new() };
            format!("{kind} {to}{}{shown}{}{again}", quoted(reply), quoted(body))
        }
        Step::Listen { to, queue } => format!("SUB {to}{}", quoted(queue)),
        Step::VictimWrites { headers, reply } => {
            let shown = headers.replace("\r\n", ", ");
            let shown = if shown.is_empty() { shown } else { format!(" [{shown}]") };
            format!("the victim writes{}{shown}", quoted(reply))
        }
        Step::Pass(time) => format!("after {time} ms"),
        Step::AdminListens(to) => format!("admin: SUB {to}"),
        Step::AdminAsks(what, _) => format!("admin: {what}"),
        Step::Knock(offer) => offer.words().to_owned(),
        Step::Told(text) => (*text).to_owned(),
    }
}
