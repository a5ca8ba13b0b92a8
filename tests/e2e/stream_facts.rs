//! What nats-server does with streams and consumers, whatever a policy says. The grants of streams
//! rest on it, and `docs/streams.md` tells it. Users are static here, with the permissions that a
//! test is about; accounts are as `init` writes them.

use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Value, json};
use solewriter::nats::raw_client::{Message, RawLogin, TlsServer, Wire};
use solewriter_sandbox::{Server, free_ports};
use tempfile::TempDir;

use super::deployment::{DEADLINE, NODES, binary, eventually};

/// How long something that must not arrive is waited for.
const QUIET: Duration = Duration::from_millis(300);
pub const ORDERS: &str = "events.orders.>";

/// A user, and what it may do beside hearing its own inbox.
pub struct User {
    name: String,
    publish: Vec<String>,
    deny: Vec<String>,
    subscribe: Vec<String>,
}

impl User {
    pub fn new(name: &str, publish: &[&str]) -> Self {
        let publish = publish.iter().map(ToString::to_string).collect();
        Self {
            name: name.to_owned(),
            publish,
            deny: vec![],
            subscribe: vec![format!("_INBOX.{name}.>")],
        }
    }

    pub fn denied(mut self, subjects: &[&str]) -> Self {
        self.deny = subjects.iter().map(ToString::to_string).collect();
        self
    }

    pub fn hears(mut self, subjects: impl IntoIterator<Item = String>) -> Self {
        self.subscribe.extend(subjects);
        self
    }

    fn config(&self) -> Value {
        json!({"user": self.name, "password": self.name, "permissions": {
            "publish": {"allow": self.publish, "deny": self.deny},
            "subscribe": {"allow": self.subscribe}}})
    }
}

/// Where users are: apart from JetStream, or in its account.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Home {
    App,
    State,
}

pub struct Testbed {
    pub server: Server,
    /// The others of a cluster.
    pub peers: Vec<Server>,
    admin: Wire,
    _dir: TempDir,
}

impl Testbed {
    pub async fn start(version: &'static str, home: Home, users: &[User]) -> Self {
        Self::start_with(version, home, users, json!({})).await
    }

    pub async fn start_with(
        version: &'static str,
        home: Home,
        users: &[User],
        settings: Value,
    ) -> Self {
        Self::start_nodes(version, home, users, &[settings]).await
    }

    /// A cluster; streams have as many replicas as it has nodes.
    pub async fn start_cluster(version: &'static str, home: Home, users: &[User]) -> Self {
        // 2.10.25, started on a busy machine, may leave a node out for ever. Started once more, it
        // finds all.
        for _ in 0..4 {
            let ports = free_ports(NODES).unwrap();
            let routes: Vec<String> =
                ports.iter().map(|p| format!("nats://127.0.0.1:{p}")).collect();
            let settings: Vec<Value> = (1..)
                .zip(&ports)
                .map(|(number, port)| {
                    json!({"server_name": format!("node-{number}"), "cluster": {"name": "test",
                        "listen": format!("127.0.0.1:{port}"), "routes": routes}})
                })
                .collect();
            let mut testbed = Self::start_nodes(version, home, users, &settings).await;
            if testbed.elects().await {
                return testbed;
            }
        }
        panic!("no cluster has elected");
    }

    /// Whether a stream can be made on all nodes in time.
    pub async fn elects(&mut self) -> bool {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let mut tried = 0;
        while tokio::time::Instant::now() < deadline {
            // Each time another: on 2.10.25, one whose creation timed out may never get a leader.
            tried += 1;
            let name = format!("probe-{tried}");
            let probe = json!({"name": name, "subjects": [name], "storage": "memory",
                "num_replicas": NODES});
            let request = format!("STREAM.CREATE.{name}");
            // Before there is a leader, nobody answers.
            let made =
                tokio::time::timeout(Duration::from_secs(5), self.admin.api(&request, &probe));
            if let Ok(Ok(made)) = made.await
                && made.get("error").is_none()
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }

    /// One server for each of these settings.
    pub async fn start_nodes(
        version: &'static str,
        home: Home,
        users: &[User],
        settings: &[Value],
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let binary = binary(version).await;
        let nodes: Vec<_> = (1..)
            .zip(settings)
            .map(|(number, settings): (u32, _)| {
                let folder = dir.path().join(format!("node-{number}"));
                std::fs::create_dir(&folder).unwrap();
                let file = folder.join("nats-server.conf");
                let mut config = accounts(home, users);
                let whole = config.as_object_mut().unwrap();
                whole.insert("listen".to_owned(), json!("127.0.0.1:-1"));
                let store = json!({"store_dir": folder.join("jetstream")});
                whole.insert("jetstream".to_owned(), store);
                whole.extend(settings.as_object().unwrap().clone());
                // A nats-server's configuration may be JSON.
                std::fs::write(&file, config.to_string()).unwrap();
                (file, folder)
            })
            .collect();
        // Together: JetStream of a node is not ready before it has heard of the others.
        let started = nodes.iter().map(|(file, folder)| Server::start(&binary, file, folder));
        let mut peers = futures_util::future::try_join_all(started).await.unwrap();
        let server = peers.remove(0);
        let admin = login(&server, "admin").await;
        Self { server, peers, admin, _dir: dir }
    }

    /// In a cluster, on another node than the admin's.
    async fn login(&self, user: &str) -> Wire {
        login(self.peers.last().unwrap_or(&self.server), user).await
    }

    /// As the admin; what it says must be no error.
    pub async fn api(&mut self, request: &str, body: Value) -> Value {
        let answer = self.admin.api(request, &body).await.unwrap();
        assert!(answer.get("error").is_none(), "{request} {body}: {answer}");
        answer
    }

    /// A stream in memory, made anew.
    pub async fn stream(&mut self, name: &str, subject: &str, settings: Value) {
        let _ = self.admin.api(&format!("STREAM.DELETE.{name}"), &Value::Null).await.unwrap();
        let mut config = json!({"name": name, "subjects": [subject], "storage": "memory",
            "num_replicas": self.peers.len() + 1});
        config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        self.api(&format!("STREAM.CREATE.{name}"), config).await;
    }

    pub async fn store(&mut self, subject: &str, payload: &str) {
        let stored = put(&mut self.admin, subject, "", payload).await.unwrap();
        assert!(stored["seq"].is_u64(), "{subject}: {stored}");
    }

    pub async fn durable(&mut self, stream: &str, name: &str, settings: Value) {
        let mut config = json!({"durable_name": name, "name": name, "ack_policy": "explicit",
            "max_deliver": 5});
        config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let body = json!({"stream_name": stream, "config": config});
        let filter = config["filter_subject"].as_str().map(|f| format!(".{f}"));
        let subject = format!("CONSUMER.CREATE.{stream}.{name}{}", filter.unwrap_or_default());
        self.api(&subject, body).await;
    }

    async fn consumer(&mut self, stream: &str, name: &str) -> Value {
        self.api(&format!("CONSUMER.INFO.{stream}.{name}"), Value::Null).await
    }

    /// How many messages of these subjects a stream has.
    async fn count(&mut self, stream: &str, subjects: &str) -> u64 {
        let question = json!({"subjects_filter": subjects});
        let info = self.api(&format!("STREAM.INFO.{stream}"), question).await;
        let subjects = info["state"]["subjects"].as_object();
        subjects.map_or(0, |s| s.values().filter_map(Value::as_u64).sum())
    }

    /// The last message of a subject.
    async fn last(&mut self, stream: &str, subject: &str) -> Option<String> {
        let request = format!("STREAM.MSG.GET.{stream}");
        let found = self.admin.api(&request, &json!({"last_by_subj": subject})).await.unwrap();
        let data = found["message"]["data"].as_str()?;
        Some(String::from_utf8(BASE64.decode(data.as_bytes()).unwrap()).unwrap())
    }
}

/// The accounts and who is in them.
fn accounts(home: Home, users: &[User]) -> Value {
    let services = ["$KV.>", "$O.>", "$JS.API.>", "$JS.FC.>", "$JS.ACK.>", "events.>", "jobs.>"];
    let mut exports = vec![json!({"stream": "_INBOX.>"})];
    let mut imports = vec![json!({"stream": {"account": "STATE", "subject": "_INBOX.>"}})];
    for service in services {
        let many = service == "$JS.API.>";
        exports.push(if many {
            json!({"service": service, "response": "stream"})
        } else {
            json!({"service": service})
        });
        imports.push(json!({"service": {"account": "STATE", "subject": service}}));
    }
    let users: Vec<Value> = users.iter().map(User::config).collect();
    let mut state = vec![json!({"user": "admin", "password": "admin"})];
    let mut app = vec![json!({"user": "nobody", "password": "nobody"})];
    if home == Home::App { &mut app } else { &mut state }.extend(users);
    json!({"accounts": {
        "STATE": {"jetstream": "enabled", "users": state, "exports": exports},
        "APP": {"users": app, "imports": imports},
        "SYS": {"users": [{"user": "system", "password": "system"}]},
    }, "system_account": "SYS"})
}

pub async fn login(server: &Server, user: &str) -> Wire {
    let address = TlsServer::plain(server.client_url().parse().unwrap());
    let login = RawLogin::Password(user.to_owned());
    Wire::login(&address, &login, &format!("_INBOX.{user}")).await.unwrap()
}

/// A publish that waits for the stream's answer; an error is the server's refusal.
pub async fn put(
    wire: &mut Wire,
    subject: &str,
    headers: &str,
    body: &str,
) -> Result<Value, String> {
    let answer = wire.request(subject, headers, body.as_bytes()).await;
    answer.map(|a| a.json()).map_err(|e| e.to_string())
}

/// What JetStream says to the creation of a consumer: `ok`, its error's number, or `refused`.
async fn create(wire: &mut Wire, subject: &str, config: Value) -> String {
    let body = json!({"stream_name": "EVENTS", "config": config});
    match wire.api(&format!("CONSUMER.CREATE.{subject}"), &body).await {
        Ok(answer) => code(&answer),
        Err(error) => {
            assert!(error.to_string().contains("Permissions Violation"), "{error}");
            "refused".to_owned()
        }
    }
}

pub fn code(answer: &Value) -> String {
    answer.get("error").map_or_else(|| "ok".to_owned(), |e| e["err_code"].to_string())
}

fn since(version: &str, major_minor: (u32, u32)) -> bool {
    let mut parts = version.split('.').map(|p| p.parse::<u32>().unwrap());
    (parts.next().unwrap(), parts.next().unwrap()) >= major_minor
}

/// Pulls messages, and gives those that come.
async fn pull(wire: &mut Wire, stream: &str, consumer: &str, batch: usize) -> Vec<Message> {
    let inbox = format!("_INBOX.{consumer}.pulled");
    let _ = wire.subscribe(&inbox, "").await.unwrap();
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
    let body = json!({"batch": batch}).to_string();
    wire.publish(&next, &inbox, "", body.as_bytes()).await.unwrap().unwrap();
    let mut messages = Vec::new();
    while messages.len() < batch {
        let Some(message) = wire.next(Duration::from_secs(5)).await else { break };
        messages.extend(message.reply.is_some().then_some(message));
    }
    messages
}

on_every_server!(who_creates_consumers_under_any_name_changes_every_durable_one);
/// A filter is no fence: the creation is an update, and the update takes the new filter along.
async fn who_creates_consumers_under_any_name_changes_every_durable_one(version: &'static str) {
    durables_are_changed(Testbed::start(version, Home::App, &durables_are_changed_users()).await)
        .await;
}

mod who_creates_consumers_under_any_name_changes_every_durable_one_in_a_cluster {
    on_server!(
        who_creates_consumers_under_any_name_changes_every_durable_one_in_a_cluster,
        some_room,
        v2_10_25,
        "2.10.25"
    );
    on_server!(
        who_creates_consumers_under_any_name_changes_every_durable_one_in_a_cluster,
        some_room,
        v2_15_1,
        "2.15.1"
    );
}
/// The same with three replicas.
async fn who_creates_consumers_under_any_name_changes_every_durable_one_in_a_cluster(
    version: &'static str,
) {
    durables_are_changed(
        Testbed::start_cluster(version, Home::App, &durables_are_changed_users()).await,
    )
    .await;
}

fn durables_are_changed_users() -> Vec<User> {
    let named = format!("$JS.API.CONSUMER.CREATE.EVENTS.*.{ORDERS}");
    vec![User::new("named", &[&named]), User::new("unnamed", &["$JS.API.CONSUMER.CREATE.EVENTS"])]
}

async fn durables_are_changed(mut testbed: Testbed) {
    testbed.stream("EVENTS", "events.>", json!({})).await;
    let mut by_name = testbed.login("named").await;
    let mut by_body = testbed.login("unnamed").await;
    let durables = [
        ("same", json!({"filter_subject": ORDERS})),
        ("apart", json!({"filter_subject": "events.payments.>"})),
        ("whole", json!({})),
        ("several", json!({"filter_subjects": ["events.payments.>", "events.returns.>"]})),
    ];
    for (name, settings) in &durables {
        testbed.durable("EVENTS", name, settings.clone()).await;
        let mine = |deliveries| {
            json!({"name": name, "ack_policy": "explicit",
            "max_deliver": deliveries, "filter_subject": ORDERS})
        };
        let said = create(&mut by_name, &format!("EVENTS.{name}.{ORDERS}"), mine(1)).await;
        assert_eq!(said, "ok", "{name}");
        let changed = testbed.consumer("EVENTS", name).await;
        assert_eq!(changed["config"]["max_deliver"], 1, "{changed}");
        assert_eq!(changed["config"]["filter_subject"], ORDERS, "{changed}");
        // Without a name in the subject, the body's counts: no permission sees it.
        // A cluster of 2.10.25 does it, and does not answer.
        let body = json!({"stream_name": "EVENTS", "config": mine(2)}).to_string();
        let unnamed = "$JS.API.CONSUMER.CREATE.EVENTS";
        let sent = by_body.publish(unnamed, "_INBOX.unnamed.a", "", body.as_bytes()).await;
        sent.unwrap().unwrap();
        eventually("a consumer that is changed", async || {
            let changed = testbed.consumer("EVENTS", name).await;
            (changed["config"]["max_deliver"] == 2).then_some(())
        })
        .await;
    }
    // A push consumer that nobody listens to is led to somebody else.
    testbed.durable("EVENTS", "pushed", json!({"deliver_subject": "_INBOX.victim.d"})).await;
    let mine = json!({"name": "pushed", "ack_policy": "explicit", "filter_subject": ORDERS,
        "deliver_subject": "_INBOX.named.d"});
    assert_eq!(create(&mut by_name, &format!("EVENTS.pushed.{ORDERS}"), mine).await, "ok");
    let led = testbed.consumer("EVENTS", "pushed").await;
    assert_eq!(led["config"]["deliver_subject"], "_INBOX.named.d", "{led}");
}

on_every_server!(a_denied_name_keeps_a_durable_consumer_as_it_is);
/// What makes consumers of any name safe beside durable ones whose names are known.
async fn a_denied_name_keeps_a_durable_consumer_as_it_is(version: &'static str) {
    denied_name_holds(Testbed::start(version, Home::App, &denied_name_holds_users()).await).await;
}

mod a_denied_name_keeps_a_durable_consumer_as_it_is_in_a_cluster {
    on_server!(
        a_denied_name_keeps_a_durable_consumer_as_it_is_in_a_cluster,
        some_room,
        v2_10_25,
        "2.10.25"
    );
    on_server!(
        a_denied_name_keeps_a_durable_consumer_as_it_is_in_a_cluster,
        some_room,
        v2_15_1,
        "2.15.1"
    );
}
/// The same with three replicas.
async fn a_denied_name_keeps_a_durable_consumer_as_it_is_in_a_cluster(version: &'static str) {
    denied_name_holds(Testbed::start_cluster(version, Home::App, &denied_name_holds_users()).await)
        .await;
}

fn denied_name_holds_users() -> Vec<User> {
    let named = format!("$JS.API.CONSUMER.CREATE.EVENTS.*.{ORDERS}");
    vec![User::new("reader", &[&named, "$JS.API.CONSUMER.*.EVENTS.*"]).denied(&[
        "$JS.API.CONSUMER.*.EVENTS.shipping",
        "$JS.API.CONSUMER.CREATE.EVENTS.shipping.>",
        "$JS.API.CONSUMER.*.*.EVENTS.shipping",
    ])]
}

async fn denied_name_holds(mut testbed: Testbed) {
    testbed.stream("EVENTS", "events.>", json!({})).await;
    testbed.durable("EVENTS", "shipping", json!({"filter_subject": ORDERS})).await;
    testbed.durable("EVENTS", "other", json!({"filter_subject": ORDERS})).await;
    let mut reader = testbed.login("reader").await;
    let under = |name: &str| {
        json!({"name": name, "durable_name": name, "ack_policy": "explicit",
            "max_deliver": 1, "filter_subject": ORDERS})
    };
    let before = testbed.consumer("EVENTS", "shipping").await;
    let subject = format!("EVENTS.shipping.{ORDERS}");
    assert_eq!(create(&mut reader, &subject, under("shipping")).await, "refused");
    // The name in the body has to be that in the subject.
    let subject = format!("EVENTS.another.{ORDERS}");
    assert_eq!(create(&mut reader, &subject, under("shipping")).await, "10017");
    for operation in ["DELETE", "INFO", "PAUSE", "UNPIN", "RESET"] {
        let request = format!("CONSUMER.{operation}.EVENTS.shipping");
        let refused = reader.api(&request, &json!({"seq": 1})).await.unwrap_err().to_string();
        assert!(refused.contains("Permissions Violation"), "{operation}: {refused}");
    }
    let after = testbed.consumer("EVENTS", "shipping").await;
    assert_eq!((&before["config"], &before["created"]), (&after["config"], &after["created"]));
    // The controls: what is not denied goes, and a consumer of its own does.
    assert_eq!(create(&mut reader, &format!("EVENTS.other.{ORDERS}"), under("other")).await, "ok");
    assert_eq!(create(&mut reader, &format!("EVENTS.own.{ORDERS}"), under("own")).await, "ok");
    let deleted = reader.api("CONSUMER.DELETE.EVENTS.other", &Value::Null).await.unwrap();
    assert_eq!(deleted["success"], true, "{deleted}");
}

on_every_server!(a_stream_named_by_a_number_can_acknowledge_for_others);
/// The grant for the second form of acknowledgements also fits the first form of another
/// stream's, where stream and consumer are numbers.
async fn a_stream_named_by_a_number_can_acknowledge_for_others(version: &'static str) {
    let users = [
        User::new("number", &["$JS.ACK.*.*.1.5.>"]),
        User::new("word", &["$JS.ACK.*.*.JOBS.worker.>"]),
    ];
    let mut testbed = Testbed::start(version, Home::App, &users).await;
    testbed.stream("EVENTS", "events.>", json!({})).await;
    for _ in 0..5 {
        testbed.store("events.orders.1", "x").await;
    }
    testbed.durable("EVENTS", "shipping", json!({})).await;
    let messages = pull(&mut testbed.admin, "EVENTS", "shipping", 5).await;
    let fifth = messages[4].reply.clone().unwrap();
    assert!(fifth.starts_with("$JS.ACK.EVENTS.shipping.1.5.5."), "{fifth}");
    let mut word = testbed.login("word").await;
    let refused = word.publish(&fifth, "", "", b"+ACK").await.unwrap().unwrap_err();
    assert!(refused.contains("Permissions Violation"), "{refused}");
    assert_eq!(testbed.consumer("EVENTS", "shipping").await["num_ack_pending"], 5);
    let mut number = testbed.login("number").await;
    number.publish(&fifth, "", "", b"+ACK").await.unwrap().unwrap();
    eventually("a message acknowledged by a stranger", async || {
        let consumer = testbed.consumer("EVENTS", "shipping").await;
        (consumer["num_ack_pending"] == 4).then_some(())
    })
    .await;
}

mod the_second_form_of_acks_needs_a_grant_of_its_own {
    on_server!(
        the_second_form_of_acks_needs_a_grant_of_its_own,
        some_room,
        v2_14_6,
        "2.14.6",
        "between the oldest and the newest"
    );
    on_server!(the_second_form_of_acks_needs_a_grant_of_its_own, some_room, v2_15_1, "2.15.1");
}
/// `feature_flags { js_ack_fc_v2: true }`, from 2.14 on.
async fn the_second_form_of_acks_needs_a_grant_of_its_own(version: &'static str) {
    for (flag, first) in [(false, true), (true, false)] {
        let users = [
            User::new("first", &["$JS.ACK.EVENTS.shipping.>"]),
            User::new("second", &["$JS.ACK.*.*.EVENTS.shipping.>"]),
        ];
        let flags = json!({"feature_flags": {"js_ack_fc_v2": flag}});
        let mut testbed = Testbed::start_with(version, Home::App, &users, flags).await;
        testbed.stream("EVENTS", "events.>", json!({})).await;
        testbed.store("events.orders.1", "x").await;
        testbed.durable("EVENTS", "shipping", json!({})).await;
        let messages = pull(&mut testbed.admin, "EVENTS", "shipping", 1).await;
        let reply = messages[0].reply.clone().unwrap();
        let tokens: Vec<&str> = reply.split('.').collect();
        assert_eq!(tokens.len(), if flag { 11 } else { 9 }, "{reply}");
        for (user, goes) in [("first", first), ("second", !first)] {
            let mut wire = testbed.login(user).await;
            let said = wire.publish(&reply, "", "", b"+WPI").await.unwrap();
            assert_eq!(said.is_ok(), goes, "{user}, {reply}: {said:?}");
        }
    }
}

/// Requests of everything that JetStream answers: a subject and a body. `ack` stands for the reply
/// subject of a message that was just pulled.
fn answered() -> Vec<(String, String)> {
    let made = json!({"stream_name": "EVENTS", "config": {"name": "made",
        "ack_policy": "none", "filter_subject": ORDERS}});
    let api = |request: &str, body: &str| (format!("$JS.API.{request}"), body.to_owned());
    let ack = |body: &str| ("ack".to_owned(), body.to_owned());
    vec![
        ("events.mine.1".to_owned(), "x".to_owned()),
        ("$KV.mine.a".to_owned(), "x".to_owned()),
        api("INFO", ""),
        api("STREAM.INFO.EVENTS", ""),
        api("STREAM.INFO.NOTHING", ""),
        api("STREAM.NAMES", ""),
        api("STREAM.MSG.GET.EVENTS", r#"{"last_by_subj":"events.mine.1"}"#),
        api("DIRECT.GET.KV_mine.$KV.mine.payload", ""),
        api(&format!("CONSUMER.CREATE.EVENTS.made.{ORDERS}"), &made.to_string()),
        api("CONSUMER.INFO.EVENTS.shipping", ""),
        api("CONSUMER.MSG.NEXT.EVENTS.shipping", r#"{"batch":1}"#),
        api("CONSUMER.MSG.NEXT.EVENTS.idle", r#"{"batch":1,"no_wait":true}"#),
        api("CONSUMER.MSG.NEXT.EVENTS.shipping", "no JSON"),
        api("CONSUMER.DELETE.EVENTS.made", ""),
        ack("+ACK"),
        ack("-NAK"),
        ack("+NXT"),
        ack(r#"+NXT {"batch":2}"#),
        ack("+TERM"),
    ]
}

on_every_server!(no_answer_of_jetstream_is_stored_behind_the_state_account);
/// Every answer, acknowledgements included, with a reply subject that a stream keeps. In the same
/// account, which is the control, each of them is stored.
async fn no_answer_of_jetstream_is_stored_behind_the_state_account(version: &'static str) {
    for home in [Home::State, Home::App] {
        answers_are_stored(Testbed::start(version, home, &forgers()).await, home).await;
    }
}

mod no_answer_of_jetstream_is_stored_in_a_cluster {
    on_server!(no_answer_of_jetstream_is_stored_in_a_cluster, some_room, v2_10_25, "2.10.25");
    on_server!(no_answer_of_jetstream_is_stored_in_a_cluster, some_room, v2_15_1, "2.15.1");
}
/// The same with three replicas of each stream.
async fn no_answer_of_jetstream_is_stored_in_a_cluster(version: &'static str) {
    for home in [Home::State, Home::App] {
        answers_are_stored(Testbed::start_cluster(version, home, &forgers()).await, home).await;
    }
}

/// A stream, and a subject of it that the attacker may not publish.
const TARGETS: [(&str, &str); 4] = [
    ("EVENTS", "events.orders.forged"),
    ("KV_vault", "$KV.vault.k"),
    ("OBJ_vault", "$O.vault.M.k"),
    ("JOBS", "jobs.forged"),
];

fn forgers() -> [User; 2] {
    [
        User::new("attacker", &["events.mine.>", "$KV.mine.>", "$JS.>"]),
        User::new("witness", &[]).hears(TARGETS.map(|(_, target)| target.to_owned())),
    ]
}

/// Whether answers are stored where the attacker sends them: in JetStream's own account they are.
async fn answers_are_stored(mut testbed: Testbed, home: Home) {
    testbed.stream("EVENTS", "events.>", json!({})).await;
    testbed.stream("KV_vault", "$KV.vault.>", json!({})).await;
    testbed.stream("KV_mine", "$KV.mine.>", json!({"allow_direct": true})).await;
    testbed.stream("OBJ_vault", "$O.vault.>", json!({})).await;
    testbed.stream("JOBS", "jobs.>", json!({"retention": "workqueue"})).await;
    for _ in 0..60 {
        testbed.store("events.mine.1", "chosen").await;
    }
    testbed.store("$KV.mine.payload", "chosen").await;
    testbed.durable("EVENTS", "shipping", json!({})).await;
    testbed.durable("EVENTS", "acked", json!({})).await;
    testbed.durable("EVENTS", "idle", json!({"filter_subject": "events.nothing"})).await;
    let mut attacker = testbed.login("attacker").await;
    let mut witness = testbed.login("witness").await;
    if home == Home::App {
        for (_, target) in TARGETS {
            witness.subscribe(target, "").await.unwrap().unwrap();
        }
    }
    let mut rows = answered();
    if home == Home::State && !testbed.peers.is_empty() {
        // Which answers a cluster stores depends on the node that makes them. These it always does.
        rows.retain(|(subject, body)| {
            subject == "events.mine.1" || body == r#"{"batch":1}"# || body.starts_with("+NXT")
        });
        assert_eq!(rows.len(), 4);
    }
    for (subject, body) in rows {
        for (stream, target) in TARGETS {
            let subject = if subject == "ack" {
                let messages = pull(&mut testbed.admin, "EVENTS", "acked", 1).await;
                messages[0].reply.clone().unwrap()
            } else {
                subject.clone()
            };
            // A stream that is hit has a message more; `EVENTS` may have the put itself.
            let before = total(&mut testbed, stream).await;
            let own = u64::from(subject == "events.mine.1" && stream == "EVENTS");
            attacker.publish(&subject, target, "", body.as_bytes()).await.unwrap().unwrap();
            if home == Home::State {
                eventually(&format!("{subject} {body:?} in {stream}"), async || {
                    (total(&mut testbed, stream).await > before + own).then_some(())
                })
                .await;
                continue;
            }
            // The answer arrived there, in APP.
            let heard = witness.next(Duration::from_secs(10)).await;
            assert!(heard.is_some(), "{subject} {body:?} to {target}");
            testbed.store("events.mine.1", "chosen").await;
            let own = own + u64::from(stream == "EVENTS");
            assert_eq!(total(&mut testbed, stream).await, before + own, "{subject} {body:?}");
        }
    }
}

/// How many messages a stream ever had.
async fn total(testbed: &mut Testbed, stream: &str) -> u64 {
    let info = testbed.api(&format!("STREAM.INFO.{stream}"), Value::Null).await;
    info["state"]["last_seq"].as_u64().unwrap()
}

/// Two services that write different subjects of one stream.
fn two_writers() -> [User; 2] {
    [User::new("mine", &["events.mine.>"]), User::new("orders", &["events.orders.>"])]
}

on_every_server!(writers_of_one_stream_reach_each_others_messages);
/// What one writer does to another's subjects, where the stream's settings let it; and which
/// settings do not.
async fn writers_of_one_stream_reach_each_others_messages(version: &'static str) {
    const WINDOW: u64 = 100_000_000;
    let mut testbed = Testbed::start(version, Home::App, &two_writers()).await;
    let mut mine = testbed.login("mine").await;
    let mut orders = testbed.login("orders").await;

    // A message id is the whole stream's.
    for (window, stored) in [(120_000_000_000, false), (WINDOW, true)] {
        testbed.stream("EVENTS", "events.>", json!({"duplicate_window": window})).await;
        put(&mut mine, "events.mine.1", "Nats-Msg-Id: next", "x").await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let said = put(&mut orders, "events.orders.1", "Nats-Msg-Id: next", "x").await.unwrap();
        assert_eq!(said["duplicate"] == json!(true), !stored, "{said}");
        assert_eq!(testbed.count("EVENTS", ORDERS).await, u64::from(stored));
    }
    let shorter = json!({"name": "SHORT", "subjects": ["short"], "duplicate_window": WINDOW - 1});
    let said = testbed.admin.api("STREAM.CREATE.SHORT", &shorter).await.unwrap();
    assert_eq!(code(&said), "10052", "there is no shorter window: {said}");

    // A rollup erases everything.
    for (allowed, left) in [(true, 0), (false, 2)] {
        testbed.stream("EVENTS", "events.>", json!({"allow_rollup_hdrs": allowed})).await;
        testbed.store("events.orders.1", "x").await;
        testbed.store("events.orders.2", "x").await;
        let said = put(&mut mine, "events.mine.1", "Nats-Rollup: all", "x").await.unwrap();
        assert_eq!(code(&said), if allowed { "ok" } else { "10111" }, "{said}");
        assert_eq!(testbed.count("EVENTS", ORDERS).await, left);
    }

    // A cap is everybody's; one for each subject is not.
    let caps = [
        (json!({"max_msgs": 5, "discard": "old"}), 0, "ok"),
        (json!({"max_msgs": 5, "discard": "new"}), 2, "10077"),
        (json!({"max_msgs_per_subject": 2}), 2, "ok"),
    ];
    for (cap, left, next) in caps {
        testbed.stream("EVENTS", "events.>", cap.clone()).await;
        testbed.store("events.orders.1", "x").await;
        testbed.store("events.orders.2", "x").await;
        for _ in 0..12 {
            put(&mut mine, "events.mine.1", "", "x").await.unwrap();
        }
        assert_eq!(testbed.count("EVENTS", ORDERS).await, left, "{cap}");
        let said = put(&mut orders, "events.orders.3", "", "x").await.unwrap();
        assert_eq!(code(&said), next, "{cap}: {said}");
    }
}

mod schedules_and_batches_cross_subjects {
    on_server!(
        schedules_and_batches_cross_subjects,
        some_room,
        v2_12_8,
        "2.12.8",
        "between the oldest and the newest"
    );
    on_server!(
        schedules_and_batches_cross_subjects,
        some_room,
        v2_14_6,
        "2.14.6",
        "between the oldest and the newest"
    );
    on_server!(schedules_and_batches_cross_subjects, some_room, v2_15_1, "2.15.1");
}
/// What newer servers bring, and why a stream with two writers has none of it.
async fn schedules_and_batches_cross_subjects(version: &'static str) {
    let mut testbed = Testbed::start(version, Home::App, &two_writers()).await;
    let mut mine = testbed.login("mine").await;
    let mut orders = testbed.login("orders").await;

    // Off, everything of it is rejected.
    let past = "Nats-Schedule: @at 2020-01-01T00:00:00Z";
    let forge = format!("{past}\r\nNats-Schedule-Target: events.orders.1");
    testbed.stream("EVENTS", "events.>", json!({})).await;
    let said = put(&mut mine, "events.mine.s", &forge, "forged").await.unwrap();
    assert_eq!(code(&said), "10188", "{said}");
    let batch = |n: u32| format!("Nats-Batch-Id: b\r\nNats-Batch-Sequence: {n}");
    let commit = |n: u32| format!("{}\r\nNats-Batch-Commit: 1", batch(n));
    let said = put(&mut mine, "events.mine.1", &batch(1), "x").await.unwrap();
    assert_eq!(code(&said), "10174", "{said}");

    // A schedule writes to whatever subject of the stream it names; and it brings rollups.
    testbed.stream("EVENTS", "events.>", json!({"allow_msg_schedules": true})).await;
    let info = testbed.api("STREAM.INFO.EVENTS", Value::Null).await;
    assert_eq!(info["config"]["allow_rollup_hdrs"], true, "{info}");
    testbed.store("events.orders.1", "true").await;
    let said = put(&mut mine, "events.mine.s", &forge, "forged").await.unwrap();
    assert_eq!(code(&said), "ok", "{said}");
    eventually("the forged message", async || {
        let last = testbed.last("EVENTS", "events.orders.1").await;
        (last.as_deref() == Some("forged")).then_some(())
    })
    .await;
    let outside = format!("{past}\r\nNats-Schedule-Target: $KV.vault.k");
    let said = put(&mut mine, "events.mine.s", &outside, "forged").await.unwrap();
    assert_eq!(code(&said), "10190", "{said}");
    // And purges what it says that it scheduled; newer servers hold it to schedules.
    testbed.store("events.orders.2", "x").await;
    let purge = "Nats-Scheduler: events.orders.2\r\nNats-Schedule-Next: purge";
    let said = put(&mut mine, "events.mine.p", purge, "").await.unwrap();
    assert_eq!(code(&said), if since(version, (2, 14)) { "10212" } else { "ok" }, "{said}");
    let left = u64::from(since(version, (2, 14)));
    assert_eq!(testbed.count("EVENTS", "events.orders.2").await, left);
    if since(version, (2, 14)) {
        // It reads any subject of the stream, too.
        testbed.store("events.orders.2", "secret").await;
        let copy = "Nats-Schedule: @every 1s\r\nNats-Schedule-Target: events.mine.copy\r\n\
                    Nats-Schedule-Source: events.orders.2";
        let said = put(&mut mine, "events.mine.c", copy, "x").await.unwrap();
        assert_eq!(code(&said), "ok", "{said}");
        eventually("the copied message", async || {
            let last = testbed.last("EVENTS", "events.mine.copy").await;
            (last.as_deref() == Some("secret")).then_some(())
        })
        .await;
    }

    // A batch is the stream's, not that of who began it.
    testbed.stream("EVENTS", "events.>", json!({"allow_atomic": true})).await;
    put(&mut orders, "events.orders.1", &batch(1), "first of three").await.unwrap();
    let said = put(&mut mine, "events.mine.1", &commit(2), "x").await.unwrap();
    assert_eq!(said["count"], 2, "committed by a stranger, unfinished: {said}");
    assert_eq!(testbed.count("EVENTS", ORDERS).await, 1);
    // Its parts are checked one by one.
    put(&mut mine, "events.mine.1", &batch(1), "x").await.unwrap();
    let refused = put(&mut mine, "events.orders.1", &batch(2), "forged").await.unwrap_err();
    assert!(refused.contains("Permissions Violation"), "{refused}");
    // And those that are never finished leave no room for others.
    for n in 0..80 {
        let open = format!("Nats-Batch-Id: open-{n}\r\nNats-Batch-Sequence: 1");
        mine.publish("events.mine.1", "", &open, b"x").await.unwrap().unwrap();
    }
    let whole = "Nats-Batch-Id: whole\r\nNats-Batch-Sequence: 1\r\nNats-Batch-Commit: 1";
    eventually("no room for another batch", async || {
        let said = put(&mut orders, "events.orders.1", whole, "x").await.unwrap();
        (code(&said) != "ok").then_some(())
    })
    .await;
}

mod a_fast_batch_is_joined_by_who_knows_its_id {
    on_server!(
        a_fast_batch_is_joined_by_who_knows_its_id,
        some_room,
        v2_14_6,
        "2.14.6",
        "between the oldest and the newest"
    );
    on_server!(a_fast_batch_is_joined_by_who_knows_its_id, some_room, v2_15_1, "2.15.1");
}
/// A batch's id and what to do are in the reply subject: 0 starts, 1 goes on, 2 commits.
async fn a_fast_batch_is_joined_by_who_knows_its_id(version: &'static str) {
    let mut testbed = Testbed::start(version, Home::App, &two_writers()).await;
    let mut mine = testbed.login("mine").await;
    let mut orders = testbed.login("orders").await;
    let _ = orders.subscribe("_INBOX.orders.>", "").await.unwrap();
    let part = |sequence: u32, operation: u32| {
        format!("_INBOX.orders.id.10.fail.{sequence}.{operation}.$FI")
    };
    for (allowed, stored) in [(true, 1), (false, 0)] {
        testbed.stream("EVENTS", "events.>", json!({"allow_batched": allowed})).await;
        orders.publish("events.orders.1", &part(1, 0), "", b"first").await.unwrap().unwrap();
        let begun = orders.next(Duration::from_secs(10)).await.unwrap().json();
        assert_eq!(begun.get("error").is_none(), allowed, "{begun}");
        mine.publish("events.mine.1", &part(2, 2), "", b"x").await.unwrap().unwrap();
        let ended = orders.next(Duration::from_secs(10)).await.unwrap().json();
        assert_eq!(ended["count"] == json!(2), allowed, "{ended}");
        assert_eq!(testbed.count("EVENTS", ORDERS).await, stored, "{ended}");
    }
    // A part on another's subject is refused as any publish is.
    let refused = mine.publish("events.orders.1", &part(2, 1), "", b"x").await.unwrap();
    assert!(refused.unwrap_err().contains("Permissions Violation"));
}

on_every_server!(a_consumer_of_ones_own_drains_and_blocks_what_is_kept_for_others);
/// Why nobody replays a work queue, nor a stream that keeps messages as long as somebody wants
/// them.
async fn a_consumer_of_ones_own_drains_and_blocks_what_is_kept_for_others(version: &'static str) {
    let user = User::new(
        "replayer",
        &[
            "$JS.API.CONSUMER.CREATE.*.*.jobs.>",
            "$JS.API.CONSUMER.CREATE.*.*.events.>",
            "$JS.API.CONSUMER.MSG.NEXT.JOBS.*",
            "$JS.ACK.JOBS.*.>",
        ],
    )
    .hears(["_INBOX.taken.>".to_owned()]);
    let mut testbed = Testbed::start(version, Home::App, &[user]).await;
    let mut replayer = testbed.login("replayer").await;
    testbed.stream("JOBS", "jobs.>", json!({"retention": "workqueue"})).await;
    testbed.durable("JOBS", "worker", json!({"filter_subject": "jobs.a.>"})).await;
    testbed.store("jobs.a.1", "x").await;
    testbed.store("jobs.b.1", "x").await;
    let consumer = |stream: &str, name: &str, filter: &str| {
        json!({"stream_name": stream, "config": {"name": name, "ack_policy": "explicit",
            "filter_subject": filter, "inactive_threshold": 3_600_000_000_000_u64}})
    };
    let over = consumer("JOBS", "over", "jobs.>");
    let said = replayer.api("CONSUMER.CREATE.JOBS.over.jobs.>", &over).await.unwrap();
    assert_eq!(code(&said), "10100", "what overlaps a worker's is refused: {said}");
    let taken = consumer("JOBS", "taken", "jobs.b.>");
    let said = replayer.api("CONSUMER.CREATE.JOBS.taken.jobs.b.>", &taken).await.unwrap();
    assert_eq!(code(&said), "ok", "{said}");
    let messages = pull(&mut replayer, "JOBS", "taken", 1).await;
    let reply = messages[0].reply.clone().unwrap();
    replayer.publish(&reply, "", "", b"+ACK").await.unwrap().unwrap();
    eventually("the job that is gone", async || {
        (testbed.count("JOBS", "jobs.b.>").await == 0).then_some(())
    })
    .await;
    assert_eq!(testbed.count("JOBS", "jobs.a.>").await, 1);

    let kept = json!({"retention": "interest", "max_msgs": 3, "discard": "new"});
    testbed.stream("EVENTS", "events.>", kept).await;
    testbed.durable("EVENTS", "shipping", json!({})).await;
    let idle = consumer("EVENTS", "idle", "events.>");
    let said = replayer.api("CONSUMER.CREATE.EVENTS.idle.events.>", &idle).await.unwrap();
    assert_eq!(code(&said), "ok", "{said}");
    for n in 1..=3 {
        testbed.store(&format!("events.{n}"), "x").await;
    }
    for message in pull(&mut testbed.admin, "EVENTS", "shipping", 3).await {
        let reply = message.reply.unwrap();
        testbed.admin.request(&reply, "", b"+ACK").await.unwrap();
    }
    assert_eq!(testbed.consumer("EVENTS", "shipping").await["num_ack_pending"], 0);
    let said = put(&mut testbed.admin, "events.4", "", "x").await.unwrap();
    assert_eq!(code(&said), "10077", "the stream is full of what one never takes: {said}");
    testbed.api("CONSUMER.DELETE.EVENTS.idle", Value::Null).await;
    // The control: without that consumer there is room.
    eventually("room", async || {
        let said = put(&mut testbed.admin, "events.4", "", "x").await.unwrap();
        (code(&said) == "ok").then_some(())
    })
    .await;
}

on_every_server!(a_push_consumer_delivers_to_inboxes_that_are_known_and_to_nothing_else);
async fn a_push_consumer_delivers_to_inboxes_that_are_known_and_to_nothing_else(
    version: &'static str,
) {
    let users = [
        User::new("attacker", &[&format!("$JS.API.CONSUMER.CREATE.EVENTS.*.{ORDERS}")]),
        User::new("victim", &["$JS.API.INFO"]).hears(["plain.topic".to_owned()]),
    ];
    let mut testbed = Testbed::start(version, Home::App, &users).await;
    testbed.stream("EVENTS", "events.>", json!({})).await;
    testbed.store("events.orders.1", "x").await;
    let mut attacker = testbed.login("attacker").await;
    let mut victim = testbed.login("victim").await;
    let deliver = async |testbed: &mut Testbed, attacker: &mut Wire, to: &str| {
        let config = json!({"name": "push", "ack_policy": "none", "filter_subject": ORDERS,
            "deliver_subject": to});
        let said = create(attacker, &format!("EVENTS.push.{ORDERS}"), config).await;
        let _ = testbed.admin.api("CONSUMER.DELETE.EVENTS.push", &Value::Null).await;
        said
    };
    let _ = victim.subscribe("_INBOX.victim.>", "").await.unwrap();
    let _ = victim.subscribe("plain.topic", "").await.unwrap();
    for (to, said) in [
        ("_INBOX.victim.known", "ok"),
        ("plain.topic", "ok"),
        ("events.orders.2", "10081"),
        ("_INBOX.victim.*", "10079"),
    ] {
        assert_eq!(deliver(&mut testbed, &mut attacker, to).await, said, "{to}");
        let heard = victim.next(QUIET).await;
        assert!(heard.is_none(), "{to}: {heard:?}");
    }
    // A literal subscription is what it needs, in an inbox: STATE exports nothing else.
    let _ = victim.subscribe("_INBOX.victim.known", "").await.unwrap();
    let config = json!({"name": "push", "ack_policy": "none", "filter_subject": ORDERS,
        "deliver_subject": "_INBOX.victim.known"});
    assert_eq!(create(&mut attacker, &format!("EVENTS.push.{ORDERS}"), config).await, "ok");
    let heard = victim.next(Duration::from_secs(10)).await.unwrap();
    assert_eq!(heard.subject, "events.orders.1", "the subject is true: {heard:?}");
    let reply = heard.reply.unwrap();
    assert!(reply.contains(".EVENTS.push."), "and so is the consumer's name: {reply}");
}

on_every_server!(a_direct_get_is_held_to_its_subject);
async fn a_direct_get_is_held_to_its_subject(version: &'static str) {
    let user = User::new("reader", &["$JS.API.DIRECT.GET.EVENTS.events.orders.>"]);
    let mut testbed = Testbed::start(version, Home::App, &[user]).await;
    testbed.stream("EVENTS", "events.>", json!({"allow_direct": true})).await;
    testbed.store("events.payments.1", "secret").await;
    testbed.store("events.orders.1", "mine").await;
    let mut reader = testbed.login("reader").await;
    let request = "$JS.API.DIRECT.GET.EVENTS.events.orders.1";
    let answer = reader.request(request, "", b"").await.unwrap();
    assert_eq!(answer.text(), "mine");
    for body in [
        json!({"last_by_subj": "events.payments.1"}),
        json!({"seq": 1}),
        json!({"next_by_subj": "events.payments.>", "seq": 1}),
        json!({"multi_last": ["events.payments.>"]}),
        json!({"batch": 10, "seq": 1}),
    ] {
        let answer = reader.request(request, "", body.to_string().as_bytes()).await.unwrap();
        assert!(answer.headers.starts_with("NATS/1.0 408"), "{body}: {answer:?}");
        assert!(answer.payload.is_empty(), "{body}: {answer:?}");
    }
}

on_every_server!(a_name_is_lied_about_to_who_asks_everybody_and_to_nobody_else);
/// The services framework: everyone who can be found answers `$SRV.INFO`, with whatever name.
async fn a_name_is_lied_about_to_who_asks_everybody_and_to_nobody_else(version: &'static str) {
    let found = |name: &'static str| {
        ["PING", "INFO", "STATS"].into_iter().flat_map(move |verb| {
            ["", ".NAME", ".NAME.*"]
                .map(|rest| format!("$SRV.{verb}{}", rest.replace("NAME", name)))
        })
    };
    let asks = ["$SRV.INFO", "$SRV.INFO.quotes", "$SRV.INFO.quotes.*"];
    let users = [
        User::new("quotes", &["_INBOX.>"]).hears(found("quotes")),
        User::new("liar", &["_INBOX.>"]).hears(found("weather")),
        User::new("finder", &asks),
    ];
    let testbed = Testbed::start(version, Home::App, &users).await;
    let mut quotes = testbed.login("quotes").await;
    let mut liar = testbed.login("liar").await;
    let mut finder = testbed.login("finder").await;
    for (wire, name) in [(&mut quotes, "quotes"), (&mut liar, "weather")] {
        for subject in found(name) {
            wire.subscribe(&subject.replace('*', "id"), "").await.unwrap().unwrap();
        }
    }
    for subject in
        ["$SRV.INFO.quotes", "$SRV.INFO.quotes.id", "$SRV.INFO.*", "$SRV.>", "$SRV.*.quotes"]
    {
        for queue in ["", "q"] {
            let refused = liar.subscribe(subject, queue).await.unwrap().unwrap_err();
            assert!(refused.contains("Permissions Violation"), "{subject}: {refused}");
        }
    }
    let _ = finder.subscribe("_INBOX.finder.found", "").await.unwrap();
    for (ask, answers) in [("$SRV.INFO", 2), ("$SRV.INFO.quotes", 1), ("$SRV.INFO.quotes.id", 1)] {
        finder.publish(ask, "_INBOX.finder.found", "", b"").await.unwrap().unwrap();
        for (wire, by) in [(&mut quotes, "quotes"), (&mut liar, "liar")] {
            let Some(asked) = wire.next(QUIET).await else { continue };
            let answer = json!({"name": "quotes", "by": by}).to_string();
            let reply = asked.reply.unwrap();
            wire.publish(&reply, "", "", answer.as_bytes()).await.unwrap().unwrap();
        }
        let mut heard = Vec::new();
        while let Some(message) = finder.next(QUIET).await {
            assert_eq!(message.json()["name"], "quotes");
            heard.push(message.json()["by"].clone());
        }
        assert_eq!(heard.len(), answers, "{ask}: {heard:?}");
        assert!(heard.contains(&json!("quotes")), "{ask}: {heard:?}");
    }
}
