//! What is protected at each stage of an adoption, and what `doctor` says meanwhile: one company
//! goes from today to the end, and at each stage somebody tries what the page says of it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use async_nats::jetstream::{self, kv};
use async_nats::{Client, ConnectOptions};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use solewriter_core::keys::{Seed, Signer, User};

use super::adopt::{Company, adopt, answer, fill};
use super::deployment::{DEADLINE, eventually};

const OLD: &str = r#"
listen: "127.0.0.1:-1"
jetstream { store_dir: "data" }
accounts {
  CO {
    jetstream: enabled
    users: [
      { user: orders, password: fake-orders }
      { user: cron, password: fake-cron }
      { user: billing, password: fake-billing, permissions: {
        publish: ["$KV.billing.>", "$JS.API.STREAM.INFO.KV_billing", "$JS.API.DIRECT.GET.KV_billing.>", "_INBOX.>"]
        subscribe: ["_INBOX.>"]
      } }
      { user: viewer, password: fake-viewer, permissions: {
        publish: ["plain.>"], subscribe: ["plain.>", "_INBOX.viewer.>"]
      } }
    ]
  }
}
"#;

const POLICY: &str = r#"
[bucket.orders]
[bucket.billing]

[stream.EVENTS]
subjects = ["events.>"]

[service.rates]
nkeys = ["{rates}"]
answers = ["ask.rates"]

[service.orders]
nkeys = ["{orders}"]
owns = ["orders"]
publishes = ["events.>"]

[service.billing]
nkeys = ["{billing}"]
owns = ["billing"]
calls = ["ask.rates"]

[service.viewer]
nkeys = ["{viewer}"]
subscribes = ["plain.>"]
"#;

/// Who is which service where names do not tell.
const MAP: &str = "[[client]]\nuser = \"cron\"\nservice = \"rates\"\n";

/// How a client comes to know that the server has seen all that it sent: an answer to something that
/// it may do. The library's own flush does not wait for one.
#[derive(Clone, Copy)]
enum Trip {
    /// It hears itself.
    Heard(&'static str),
    /// It is answered.
    Answered(&'static str),
}

impl Trip {
    async fn make(self, client: &Client) {
        let within = match self {
            Self::Heard(subject) => {
                let mut heard = client.subscribe(subject).await.unwrap();
                client.publish(subject, "".into()).await.unwrap();
                tokio::time::timeout(DEADLINE, heard.next()).await.map(|_| ())
            }
            Self::Answered(subject) => {
                tokio::time::timeout(DEADLINE, client.request(subject, "".into())).await.map(|a| {
                    a.unwrap();
                })
            }
        };
        within.expect("a round trip");
    }
}

/// A company with an adoption under way.
struct Adopted {
    company: Company,
    seeds: [Seed<User>; 4],
    /// Who sees what came of an attack, and may do everything.
    admin: Client,
    /// Every attack has names of its own.
    tried: u32,
}

/// A service, by its place in `seeds`.
const SERVICES: [&str; 4] = ["orders", "billing", "viewer", "rates"];

impl Adopted {
    fn url(&self) -> String {
        self.company.server.client_url().to_owned()
    }

    async fn moved(&self, service: usize) -> Client {
        let url = self.url();
        let seed = self.seeds[service].expose().to_owned();
        let name = SERVICES[service];
        eventually("a service that moves", async || {
            let options = ConnectOptions::with_nkey(seed.clone()).name(name);
            let options = options.custom_inbox_prefix(format!("_INBOX.{name}"));
            options.request_timeout(Some(Duration::from_secs(2))).connect(&url).await.ok()
        })
        .await
    }

    async fn as_admin(&mut self) {
        let seed = std::fs::read_to_string(self.company.plan().join("keys/admin.nk")).unwrap();
        let options = ConnectOptions::with_nkey(seed.trim().to_owned());
        self.admin = options.connect(self.company.server.client_url()).await.unwrap();
    }

    async fn stage(&mut self, stage: &str) {
        self.company.restart(&self.company.plan().join(stage), None).await;
    }

    /// Keys, a policy, and the plan.
    fn plan(&self) {
        let policy = self.company.folder.path().join("policy");
        std::fs::create_dir(&policy).unwrap();
        let mut text = POLICY.to_owned();
        for (name, seed) in SERVICES.iter().zip(&self.seeds) {
            let key = Signer::new(seed).unwrap().public().to_string();
            text = text.replace(&format!("{{{name}}}"), &key);
        }
        std::fs::write(policy.join("p.toml"), text).unwrap();
        let old = self.company.folder.path().join("old");
        let plan = self.company.plan();
        let (code, said) = adopt(&old, &plan, &["--policy", policy.to_str().unwrap()]);
        assert_eq!(code, Some(0), "{said}");
    }

    /// Has `billing` observed, with all that it could do before, or no more.
    async fn observe(&self, observed: bool) -> Client {
        const OBSERVED: &str =
            "enforce = \"observe\"\nbefore.publish = [\">\"]\nbefore.subscribe = [\">\"]\n";
        let file = self.company.folder.path().join("policy/p.toml");
        let text = std::fs::read_to_string(&file).unwrap().replace(OBSERVED, "");
        let table = "[service.billing]\n";
        let with = format!("{table}{OBSERVED}");
        let text = if observed { text.replace(table, &with) } else { text };
        std::fs::write(&file, text).unwrap();
        eventually("the new rights", async || {
            let client = self.moved(1).await;
            let reads = jetstream::new(client.clone()).get_key_value("orders").await.is_ok();
            (reads == observed).then_some(client)
        })
        .await
    }

    /// Who is gone can do nothing: nobody lets it in.
    async fn refused(&self, users: &[&str]) -> [bool; 6] {
        for user in users {
            let password = format!("fake-{user}");
            assert!(!self.company.lets_in_password(user, &password).await, "{user}");
        }
        [false; 6]
    }

    async fn move_on(&mut self, moved: &str) -> String {
        let old = self.company.folder.path().join("old");
        let (code, said) = adopt(&old, &self.company.plan(), &["--moved", moved]);
        assert_eq!(code, Some(0), "{said}");
        let stage = format!("2-moved-{}", moved.split(',').count());
        let mark = self.company.server.log_mark();
        self.company.put(&self.company.plan().join(&stage));
        self.company.server.reload().unwrap();
        eventually("a reload", async || {
            let log = self.company.server.log();
            let new = log.get(usize::try_from(mark).unwrap()..).unwrap_or_default();
            new.contains("Reloaded server configuration").then_some(())
        })
        .await;
        stage
    }

    /// What an attacker can do to the keyspace `orders` and its owner. `victim` is that owner,
    /// with inboxes under `inbox`.
    async fn attacked_by(
        &mut self,
        (attacker, trip): (&Client, Trip),
        (victim, inbox): (&Client, &str),
    ) -> [bool; 6] {
        self.tried += 1;
        let n = self.tried;
        let orders = |name: &str| format!("$KV.orders.{name}{n}");
        let context = jetstream::new(self.admin.clone());
        let bucket = context.get_key_value("orders").await.unwrap();

        // A client of its own for what is refused without an answer.
        attacker.publish(orders("published"), "forged".into()).await.unwrap();
        for (way, request) in [
            "$JS.API.DIRECT.GET.KV_billing.$KV.billing.k",
            "$JS.API.STREAM.INFO.KV_billing",
            "$KV.billing.mine",
            "ask.rates",
        ]
        .into_iter()
        .enumerate()
        {
            let reply = orders(&format!("reply{way}-"));
            attacker.publish_with_reply(request, reply, "".into()).await.unwrap();
        }
        let spare = format!("SPARE{n}");
        let stream = jetstream::stream::Config {
            name: spare.clone(),
            subjects: vec![format!("spare.{n}")],
            ..jetstream::stream::Config::default()
        };
        context.create_stream(stream).await.unwrap();
        attacker.publish(format!("$JS.API.STREAM.DELETE.{spare}"), "".into()).await.unwrap();

        // Each of those by whom it is answered, so that all came to their end.
        trip.make(attacker).await;
        self.fence(&bucket).await;
        // Not by listing keys: what was stored may be an answer whose status a library takes for
        // its own, and on 2.10.25 a listing then never ends.
        let stream = context.get_stream("KV_orders").await.unwrap();
        let stored =
            async |name: &str| stream.get_last_raw_message_by_subject(&orders(name)).await.is_ok();
        let published = stored("published").await;
        let mut replied = false;
        for way in 0..4 {
            replied |= stored(&format!("reply{way}-")).await;
        }
        let deleted = context.get_stream(&spare).await.is_err();

        // Reading: the value, in any of three ways.
        bucket.put("secret", "a value of orders".into()).await.unwrap();
        let mut read = false;
        for (request, body) in [
            ("$JS.API.DIRECT.GET.KV_orders.$KV.orders.secret", ""),
            ("$JS.API.STREAM.MSG.GET.KV_orders", r#"{"last_by_subj":"$KV.orders.secret"}"#),
        ] {
            let inbox = attacker.new_inbox();
            let mut answers = attacker.subscribe(inbox.clone()).await.unwrap();
            attacker.publish_with_reply(request, inbox, body.into()).await.unwrap();
            let answered = tokio::time::timeout(Duration::from_millis(700), answers.next()).await;
            read |= answered.is_ok_and(|answer| {
                answer.is_some_and(|a| a.status.is_none() && !a.payload.is_empty())
            });
        }

        // A reply that the owner waits for.
        let waited = format!("{inbox}.waited{n}");
        let mut waiting = victim.subscribe(waited.clone()).await.unwrap();
        let theirs = jetstream::new(victim.clone());
        theirs.get_key_value("orders").await.unwrap();
        attacker.publish(waited.clone(), "forged".into()).await.unwrap();
        trip.make(attacker).await;
        self.admin.publish(waited, "end".into()).await.unwrap();
        let first = tokio::time::timeout(DEADLINE, waiting.next()).await.unwrap().unwrap();
        let forged = first.payload == "forged";

        // Listening, while the owner watches its bucket and writes it.
        let mut heard = Vec::new();
        for subject in ["$KV.orders.>", "_INBOX.>", ">"] {
            heard.push(attacker.subscribe(subject).await.unwrap());
        }
        trip.make(attacker).await;
        let mine = theirs.get_key_value("orders").await.unwrap();
        let mut watch = mine.watch("secret").await.unwrap();
        mine.put("secret", "a value of orders".into()).await.unwrap();
        tokio::time::timeout(DEADLINE, watch.next()).await.unwrap().unwrap().unwrap();
        trip.make(attacker).await;
        let mut listened = false;
        for heard in &mut heard {
            // What the server sent before the answer is here, maybe not yet sorted by the library.
            let next = tokio::time::timeout(Duration::from_millis(100), async {
                while let Some(message) = heard.next().await {
                    if message.payload == "a value of orders" {
                        return true;
                    }
                }
                false
            });
            listened |= next.await.unwrap_or_default();
        }
        [published, replied, deleted, read, forged, listened]
    }

    /// Whatever was asked before this is answered, and stored if it is stored.
    async fn fence(&self, bucket: &kv::Store) {
        let admin = &self.admin;
        for request in [
            "$JS.API.DIRECT.GET.KV_billing.$KV.billing.k",
            "$JS.API.STREAM.INFO.KV_billing",
            "$JS.API.STREAM.INFO.KV_orders",
            "ask.rates",
        ] {
            admin.request(request, "".into()).await.unwrap();
        }
        bucket.put("fence", "".into()).await.unwrap();
    }

    async fn doctor(&self, config: Option<&Path>, json: bool) -> (Option<i32>, String) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_solewriter"));
        command.args(["doctor", "-c"]).arg(self.company.plan().join("solewriter.toml"));
        command.args(["--nats-servers", self.company.server.client_url()]);
        let map = self.company.folder.path().join("clients.toml");
        std::fs::write(&map, MAP).unwrap();
        command.arg("--map").arg(map);
        if let Some(config) = config {
            command.arg("--server-config").arg(config);
        }
        if json {
            command.args(["--format", "json"]);
        }
        let ran = command.stdin(Stdio::null()).output().await.unwrap();
        let err = String::from_utf8_lossy(&ran.stderr);
        assert!(err.is_empty(), "{err}");
        (ran.status.code(), String::from_utf8(ran.stdout).unwrap())
    }

    /// What `doctor` says of the adoption, without the spaces before each line.
    async fn progress(&self, config: Option<&Path>) -> String {
        let (_, said) = self.doctor(config, false).await;
        assert!(!said.contains("PROBLEM   exports"), "{said}");
        assert!(!said.contains("PROBLEM   imports"), "{said}");
        assert!(!said.contains("PROBLEM   logins"), "{said}");
        let (_, part) = said.split_once("\nadoption\n").expect(&said);
        let part = part.split("\n\n").next().unwrap();
        part.lines().map(str::trim_start).fold(String::new(), |text, line| text + line + "\n")
    }
}

/// What the page shows of `doctor`, without the spaces before each line.
fn shown() -> Vec<&'static str> {
    let page = include_str!("../../docs/adopt.md");
    let (_, block) = page.split_once("\n...\nadoption\n").unwrap();
    let (block, _) = block.split_once("...\n```").unwrap();
    block.lines().map(str::trim_start).collect()
}

/// The page's table: for each row, what can be done.
fn page() -> Vec<[bool; 6]> {
    let page = include_str!("../../docs/adopt.md");
    let (_, table) = page.split_once("<!-- tried by tests/e2e/movers.rs -->").unwrap();
    let (table, _) = table.split_once("<!-- end -->").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(2);
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let said: [&str; 6] = cells[cells.len() - 6..].try_into().unwrap();
        said.map(|cell| match cell {
            "**yes**" => true,
            "no" => false,
            _ => panic!("{row}"),
        })
    })
    .collect()
}

on_every_server!(each_stage_protects_what_the_page_says);
#[allow(clippy::too_many_lines, reason = "one company's way, stage by stage")]
async fn each_stage_protects_what_the_page_says(version: &'static str) {
    let company = Company::start(version, OLD).await;
    let admin = company.connect("cron").await;
    let seeds = [(); 4].map(|()| Seed::<User>::generate());
    let mut adopted = Adopted { company, seeds, admin, tried: 0 };
    let mut rows: Vec<[bool; 6]> = Vec::new();
    const HEARD: Trip = Trip::Heard("_INBOX.trip");

    // Today.
    fill(&adopted.admin).await;
    let config = kv::Config { bucket: "billing".into(), ..kv::Config::default() };
    let context = jetstream::new(adopted.admin.clone());
    context.create_key_value(config).await.unwrap().put("k", "b".into()).await.unwrap();
    drop(context);
    let (orders, billing) =
        (adopted.company.connect("orders").await, adopted.company.connect("billing").await);
    let cron = adopted.company.connect("cron").await;
    answer(&cron, "ask.rates").await;
    rows.push(adopted.attacked_by((&cron, HEARD), (&orders, "_INBOX")).await);

    // Beside: nobody has moved.
    adopted.plan();
    adopted.stage("1-beside").await;
    let mut serving = adopted.company.serve().await;
    adopted.as_admin().await;
    let beside = adopted.company.plan().join("1-beside/nats-server.conf");
    for client in [&orders, &cron] {
        eventually("old clients again", async || {
            jetstream::new(client.clone()).get_key_value("orders").await.ok()
        })
        .await;
    }
    rows.push(adopted.attacked_by((&cron, HEARD), (&orders, "_INBOX")).await);
    assert_eq!(
        adopted.progress(Some(&beside)).await,
        "\
warning   movers        billing has not moved
user billing: 1 connection, from 127.0.0.1
billing: writes it by publishing ($KV.billing.>); may have JetStream write it by a reply subject ($JS.API.STREAM.INFO.KV_billing)
orders, stream EVENTS: may have JetStream write it by a reply subject ($JS.API.STREAM.INFO.KV_billing)
-> give its clients its NKEY and the inbox prefix `_INBOX.billing`, and start them again
warning   movers        orders has not moved
user orders: 1 connection, from 127.0.0.1
billing, orders, stream EVENTS: writes it by publishing (no list of subjects); may have JetStream write it by a reply subject (no list of subjects); may change, empty or delete its stream (no list of subjects)
-> give its clients its NKEY and the inbox prefix `_INBOX.orders`, and start them again
warning   movers        rates has not moved
user cron: 1 connection, from 127.0.0.1
billing, orders, stream EVENTS: writes it by publishing (no list of subjects); may have JetStream write it by a reply subject (no list of subjects); may change, empty or delete its stream (no list of subjects)
-> give its clients its NKEY and the inbox prefix `_INBOX.rates`, and start them again
warning   movers        viewer is not connected, and the user that it was is still there
user viewer: not connected, but may log in
it can write nothing that the policy keeps
-> move it when it connects; or take its user away, with `solewriter adopt`
warning   one-writer    not yet: billing, orders, stream EVENTS; in the way: billing, cron, orders
-> single-writer holds when none of them can log in to CO any more
"
    );

    // Two have moved, each of them in part; both have members of one queue group.
    let (new_orders, new_billing) = (adopted.moved(0).await, adopted.moved(1).await);
    rows.push(adopted.attacked_by((&cron, HEARD), (&new_orders, "_INBOX.orders")).await);
    let asks = Trip::Answered("ask.rates");
    rows.push(adopted.attacked_by((&new_billing, asks), (&new_orders, "_INBOX.orders")).await);
    let observed = adopted.observe(true).await;
    rows.push(adopted.attacked_by((&observed, asks), (&new_orders, "_INBOX.orders")).await);
    let said = adopted.progress(Some(&beside)).await;
    assert!(said.contains("observed, with what they could do before: billing"), "{said}");
    drop((observed, adopted.observe(false).await));
    let new_rates = adopted.moved(3).await;
    let mut members = Vec::new();
    for client in [&cron, &new_rates] {
        members.push(client.queue_subscribe("ask.rates", "workers".into()).await.unwrap());
        // What it asks is answered when it is subscribed.
        jetstream::new(client.clone()).get_key_value("orders").await.ok();
    }
    // A request of who has moved is taken once in each account.
    let mut inbox = new_billing.subscribe("_INBOX.billing.taken").await.unwrap();
    new_billing
        .publish_with_reply("ask.rates", "_INBOX.billing.taken", "twice".into())
        .await
        .unwrap();
    for member in &mut members {
        let taken = tokio::time::timeout(DEADLINE, member.next()).await.unwrap().unwrap();
        assert_eq!(taken.payload, "twice");
    }
    tokio::time::timeout(DEADLINE, inbox.next()).await.unwrap().unwrap();
    let said = adopted.progress(None).await;
    for part in [
        "billing has moved in part: 1 connection in the services' account, and in CO\nuser billing: 1 \
         connection, from 127.0.0.1\nbilling, orders, stream EVENTS: may write it: nothing is known of \
         its permissions\n",
        "queue groups in both accounts: workers on ask.rates\n",
        "ok        movers        not connected in either account: viewer\n",
        "warning   one-writer    not yet: billing, orders, stream EVENTS; in the way: billing, cron, \
         orders\n-> their permissions are not known; give nats-server's configuration that is in \
         force with --server-config\n",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }

    // Old users go. Who is left may use its own bucket, which is enough.
    answer(&new_rates, "ask.rates").await;
    let stage = adopted.move_on("orders,rates=cron").await;
    rows.push(adopted.attacked_by((&billing, HEARD), (&new_orders, "_INBOX.orders")).await);
    rows.push(adopted.attacked_by((&new_billing, asks), (&new_orders, "_INBOX.orders")).await);
    rows.push(adopted.refused(&["orders", "cron"]).await);
    let config = adopted.company.plan().join(&stage).join("nats-server.conf");
    let said = adopted.progress(Some(&config)).await;
    for part in shown() {
        assert!(said.contains(part), "{part}\n{said}");
    }
    for part in [
        "ok        movers        2 of 4 services have moved: orders, rates\n",
        "warning   one-writer    not yet: billing, orders, stream EVENTS; in the way: billing\n-> \
         single-writer holds when none of them can log in to CO any more\n",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }

    // All have moved who could write.
    let stage = adopted.move_on("orders,rates=cron,billing").await;
    let viewer = adopted.company.connect("viewer").await;
    let hears = Trip::Heard("plain.trip");
    rows.push(adopted.attacked_by((&viewer, hears), (&new_orders, "_INBOX.orders")).await);
    let config = adopted.company.plan().join(&stage).join("nats-server.conf");
    let (_, said) = adopted.doctor(Some(&config), true).await;
    let said: Value = serde_json::from_str(&said).unwrap();
    let adoption = &said["adoption"];
    assert_eq!(adoption["done"], false, "{adoption}");
    let left = json!([{"user": "viewer", "service": "viewer", "connections": 1,
        "addresses": ["127.0.0.1"], "may_log_in": true}]);
    assert_eq!(adoption["left"], left, "{adoption}");
    for (place, keyspace) in ["billing", "orders", "stream EVENTS"].into_iter().enumerate() {
        let writers = &adoption["keyspaces"][place];
        assert_eq!(writers["keyspace"], keyspace);
        assert_eq!((&writers["holds"], &writers["in_the_way"]), (&json!(true), &json!([])));
    }

    // Nobody is left.
    serving.kill().await.unwrap();
    adopted.stage("3-last").await;
    let _serving = adopted.company.serve().await;
    let _viewer = adopted.moved(2).await;
    rows.push(adopted.refused(&["orders", "cron", "billing", "viewer"]).await);
    let config = adopted.company.plan().join("3-last/nats-server.conf");
    let said = adopted.progress(Some(&config)).await;
    for part in [
        "ok        movers        nobody is connected in CO, and nobody may log in there\n",
        "ok        one-writer    nobody is left in CO, and every keyspace has one writer; `solewriter \
         prove` confirms it\n",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    assert!(!said.contains("warning"), "{said}");
    assert_eq!(rows, page(), "{version}");
}
