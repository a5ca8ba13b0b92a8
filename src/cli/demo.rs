//! `solewriter demo`: the rule at work, on a real nats-server, in a temporary folder.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use async_nats::jetstream::{self, consumer::PullConsumer};
use async_nats::{ConnectOptions, Event, ServerError};
use clap::Args;
use futures_util::StreamExt as _;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{fail, runtime};
use crate::audit::origin;
use crate::audit::reader::{Reader, Then};
use crate::buckets::{self, Plan, streams};
use crate::config;
use crate::nats::Tls;
use crate::policy_source::directory::Directory;
use crate::scaffold::{Deployment, Scaffold};
use solewriter_core::grant::{AuditStreams, inbox_prefix};
use solewriter_core::keys::{Seed, Signer, User};
use solewriter_core::policy::validate::validate;
use solewriter_sandbox::{Server, fetch};
use solewriter_types::audit_event;

/// How long any one thing may take before the demo says that it failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the broker gets to refuse.
const REFUSAL: Duration = Duration::from_secs(5);

/// Show on a real nats-server what services may and may not do.
///
/// Downloads nats-server if there is none. Starts it and solewriter in a temporary folder, on ports
/// that the system picks. Then services try what they may and may not do. At the end everything is
/// stopped and removed.
#[derive(Args)]
pub struct Demo {
    /// Keep everything running, and print how to connect. Ctrl-C ends it.
    #[arg(long)]
    keep: bool,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Demo {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let outcome = runtime().map_err(Error::from).and_then(|rt| rt.block_on(self.show()));
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        }
    }

    async fn show(&self) -> Result<(), Error> {
        say("solewriter demo: one keyspace, one writer, on a real nats-server\n");
        let binary = tokio::task::spawn_blocking(fetch::any).await??;
        let folder = Folder::new()?;
        let mut stage = DemoTestbed::set(&binary, &folder.0).await?;
        say(&format!("nats-server   {}", stage.server.client_url()));
        say(&format!(
            "solewriter    answers its authorization requests (log: {})",
            stage.log.display()
        ));
        say(&format!("policy        {}\n", stage.deployment.policy().display()));
        let played = tokio::select! {
            played = stage.play() => played,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        };
        if let Err(error) = played {
            let log = std::fs::read_to_string(&stage.log).unwrap_or_default();
            stage.strike().await;
            return Err(format!("{error}\n\nsolewriter's log:\n{log}").into());
        }
        if self.keep {
            stage.print_how_to_connect();
            tokio::signal::ctrl_c().await?;
        }
        stage.strike().await;
        say("\nEverything that was started is stopped, and the folder is gone.");
        Ok(())
    }
}

/// A folder of our own that goes when we do.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        let name = data_encoding::HEXLOWER.encode(&rand::random::<[u8; 8]>());
        let path = std::env::temp_dir().join(format!("solewriter-demo-{name}"));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The running deployment.
struct DemoTestbed {
    deployment: Deployment,
    server: Server,
    solewriter: Child,
    log: PathBuf,
}

impl DemoTestbed {
    async fn set(binary: &Path, dir: &Path) -> Result<Self, Error> {
        let deployment = Scaffold::on_any_port(dir.to_owned(), "demo").write()?;
        let server = Server::start(binary, &deployment.server_config(), dir).await?;
        let log = dir.join("solewriter.log");
        let solewriter = Command::new(std::env::current_exe()?)
            .arg("serve")
            .arg("--config")
            .arg(deployment.settings())
            .args(["--nats-servers", server.client_url(), "--log-format", "text"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .kill_on_drop(true)
            .spawn()?;
        let mut stage = Self { deployment, server, solewriter, log };
        stage.ready().await?;
        stage.create_buckets().await?;
        Ok(stage)
    }

    /// Waits until solewriter says that it answers.
    async fn ready(&mut self) -> Result<(), Error> {
        self.log_says("answering authorization requests").await
    }

    async fn log_says(&mut self, words: &str) -> Result<(), Error> {
        self.log_says_times(words, 1).await
    }

    async fn log_says_times(&mut self, words: &str, times: usize) -> Result<(), Error> {
        let seen = async {
            loop {
                let log = tokio::fs::read_to_string(&self.log).await.unwrap_or_default();
                if log.matches(words).count() >= times {
                    return Ok(());
                }
                if let Some(status) = self.solewriter.try_wait()? {
                    return Err(format!("solewriter ended ({status}):\n{log}").into());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, seen).await.map_err(|_| format!("solewriter did not say: {words}"))?
    }

    fn seed(&self, name: &str) -> Result<Seed<User>, Error> {
        let text = config::read_text(&self.deployment.seed_file(name))?;
        Ok(Seed::parse(&text)?)
    }

    /// What `solewriter state apply` does, as the admin: what the policy declares, in
    /// the account STATE, where no service lives.
    async fn create_buckets(&self) -> Result<(), Error> {
        let files = Directory::new(self.deployment.policy()).read();
        let policy = files.and_then(|files| validate(&files)).map_err(|p| p.summary())?.policy;
        let admin = self.admin("admin").await?;
        let found = streams::all(&admin).await?;
        let consumers = streams::consumers(&admin, &policy, &found).await?;
        let plan = Plan::of(&policy, &found).and_consumers(&policy, &consumers);
        // The audit streams are in an account of their own, with an admin of its own.
        let audit_admin = self.admin("audit-admin").await?;
        let wanted = buckets::audit_streams(&AuditStreams::default(), &policy);
        let plan = plan.and_audit(wanted, &streams::all(&audit_admin).await?);
        let mut done = streams::apply(&admin, plan.declared()).await;
        done.extend(streams::apply(&audit_admin, &plan.streams).await);
        for done in done {
            done.outcome?;
        }
        Ok(())
    }

    async fn admin(&self, name: &str) -> Result<async_nats::Client, Error> {
        let options = ConnectOptions::with_nkey(self.seed(name)?.expose().to_owned());
        Ok(options.connect(self.server.client_url()).await?)
    }

    async fn connect(&self, service: &str) -> Result<Guest, Error> {
        Guest::connect(self.server.client_url(), service, &self.seed(service)?).await
    }

    async fn play(&mut self) -> Result<(), Error> {
        say("1. The owner writes and reads.");
        let orders = self.connect("orders").await?;
        orders.put("orders", "1001", "two chairs").await?;
        said("orders", "put orders/1001 = \"two chairs\"", "done");
        let value = orders.get("orders", "1001").await?;
        said("orders", "get orders/1001", &format!("{value:?}"));

        say("\n2. Another service reads what it was granted.   [service.billing] reads = \
             [\"orders\"]");
        let mut billing = self.connect("billing").await?;
        let value = billing.get("orders", "1001").await?;
        said("billing", "get orders/1001", &format!("{value:?}"));

        say("\n3. Another service's write is refused, by the broker.");
        let refusal = billing.refused_put("orders", "1001", "free of charge").await?;
        said("billing", "put orders/1001 = \"free of charge\"", &format!("refused: {refusal}"));
        let value = orders.get("orders", "1001").await?;
        said("orders", "get orders/1001", &format!("{value:?} still"));

        say("\n4. A stream keeps what its one writer publishes.   [service.orders] publishes = \
             [\"events.orders.>\"]");
        let kept = orders.publish("events.orders.new", "1001").await?;
        said("orders", "publish events.orders.new = \"1001\"", &format!("kept: {kept}"));
        let warehouse = self.connect("warehouse").await?;
        let message = warehouse.next("EVENTS", "warehouse").await?;
        let order = String::from_utf8_lossy(&message.payload).into_owned();
        said("warehouse", "next of EVENTS/warehouse", &format!("{order:?}"));

        say(
            "\n5. Ownership moves, and at no moment do two services write.   [service.archive] owns = \
             [\"invoices\"]",
        );
        self.hand_over().await?;

        say("\n6. Only who consumes acknowledges.   [service.warehouse] consumes = \
             [\"EVENTS/warehouse\"]");
        let refusal = billing.refused_ack(&message).await?;
        said("billing", "ack of EVENTS/warehouse", &format!("refused: {refusal}"));
        message.double_ack().await?;
        said("warehouse", "ack of EVENTS/warehouse", "done");

        say("\n7. An unknown key is refused.");
        let stranger = Seed::<User>::generate();
        let key = Signer::new(&stranger)?.public().to_string();
        match Guest::connect(self.server.client_url(), "stranger", &stranger).await {
            Ok(_) => return Err("a key that no service has was let in".into()),
            Err(error) => said("stranger", "connect", &format!("refused: {error}")),
        }
        self.log_says("reason=\"unknown_key\"").await?;
        say(&format!(
            "   The client learns no more; solewriter's log names the reason, unknown_key, and {key}."
        ));

        say("\n8. A policy edit takes effect on the next connection. Nothing is restarted.");
        let mut quotes = self.connect("quotes").await?;
        let refusal = quotes.refused_open("orders").await?;
        said("quotes", "open orders", &format!("refused: {refusal}"));
        self.edit_policy(&[("reads = [\"rates\"]\n", "reads = [\"rates\", \"orders\"]\n")]).await?;
        say("   policy/services.toml: [service.quotes] reads = [\"rates\", \"orders\"]");
        let quotes = self.connect("quotes").await?;
        let value = quotes.get("orders", "1001").await?;
        said("quotes", "get orders/1001", &format!("{value:?}"));

        say("\n9. All of it is in the audit streams.  [service.auditor] audits = \
             [\"AUDIT_EVENTS\", ...]");
        self.audit().await
    }

    /// Two services write all the time, while what they write is taken from the one and given to the
    /// other. The bucket's stream says who wrote what, in order.
    async fn hand_over(&mut self) -> Result<(), Error> {
        let (old, new) = (self.connect("billing").await?, self.connect("archive").await?);
        let writers = [Writer::start("billing", &old), Writer::start("archive", &new)];
        tokio::time::sleep(BEFORE).await;
        self.edit_policy(&[
            ("owns = [\"invoices\", \"rates\"", "owns = [\"rates\""),
            (
                "[service.archive]\ndescription",
                "[service.archive]\nowns = [\"invoices\"]\ndescription",
            ),
        ])
        .await?;
        say("   policy/services.toml: [service.billing] owns = [\"rates\", ...], \
             [service.archive] owns = [\"invoices\"]");
        self.log_says("handed_over").await?;
        let admin = jetstream::new(self.admin("admin").await?);
        let stream = admin.get_stream("KV_invoices").await?;
        let first = async {
            loop {
                if let Ok(first) = first_of(&stream, "archive").await {
                    return first;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let (first, began) = timeout(PATIENCE, first).await?;
        for writer in writers {
            writer.stop();
        }
        let last = stream.get_last_raw_message_by_subject("$KV.invoices.billing.*").await?;
        if last.sequence >= first {
            return Err(format!("{} of billing is behind {first} of archive", last.sequence).into());
        }
        let gap = (began - last.time.unix_timestamp_nanos()) / 1_000_000;
        said("billing", "its last write", &format!("revision {}", last.sequence));
        said("archive", "its first write", &format!("revision {first}, {gap} ms later"));
        Ok(())
    }

    /// What an auditor reads: the refusal of the stranger, and the edit of the policy.
    async fn audit(&self) -> Result<(), Error> {
        let reader = Reader {
            servers: vec![self.server.client_url().parse()?],
            login: crate::nats::Login::Nkey(self.seed("auditor")?),
            service: "auditor".to_owned(),
            tls: Tls::default(),
            streams: vec![
                audit_event::DEFAULT_STREAM.to_owned(),
                audit_event::DEFAULT_SERVICES_STREAM.to_owned(),
            ],
            api: audit_event::DEFAULT_API.to_owned(),
        };
        let (mut denied, mut edited) = (None, None);
        let reading = reader.read(None, None, true, |subject, event| {
            if origin::judge(subject, event, &[origin::FOLLOWER]).is_err() {
                return Then::GoOn;
            }
            let at = |path: &str| event.pointer(path).map(ToString::to_string);
            match event.get("type").and_then(serde_json::Value::as_str) {
                Some("solewriter.authorisation.denied") => denied = at("/data/reason"),
                Some("solewriter.policy.accepted") => {
                    edited = at("/data/changes/changed/names").or(edited.take());
                }
                _ => {}
            }
            if denied.is_some() && edited.is_some() { Then::Stop } else { Then::GoOn }
        });
        timeout(PATIENCE, reading).await??;
        let shown = |found: Option<String>| found.unwrap_or_default();
        said("auditor", "solewriter.authorisation.denied", &shown(denied));
        said("auditor", "solewriter.policy.accepted", &format!("changed {}", shown(edited)));
        Ok(())
    }

    async fn edit_policy(&mut self, changes: &[(&str, &str)]) -> Result<(), Error> {
        let path = self.deployment.policy().join("services.toml");
        let mut text = std::fs::read_to_string(&path)?;
        for (before, after) in changes {
            if !text.contains(before) {
                return Err(format!("the sample policy has no {before:?}").into());
            }
            text = text.replace(before, after);
        }
        let log = std::fs::read_to_string(&self.log)?;
        let changed = log.matches("policy_changed").count();
        std::fs::write(&path, text)?;
        self.log_says_times("policy_changed", changed + 1).await
    }

    fn print_how_to_connect(&self) {
        let keys = self.deployment.dir.join("keys");
        say("\nStill running. Connect as a service, with its seed and its own inbox prefix:\n");
        say(&format!("   server  {}", self.server.client_url()));
        for service in
            ["orders", "billing", "quotes", "warehouse", "printing", "archive", "auditor"]
        {
            say(&format!(
                "   {service:<10}seed file {}, inbox prefix {}",
                self.deployment.seed_file(service).display(),
                inbox_prefix(service),
            ));
        }
        say(&format!("\nEdit {} and connect again.", self.deployment.policy().display()));
        say(&format!("The admin (account STATE) is {}/admin.nk.", keys.display()));
        say(&format!(
            "To check it: solewriter doctor -c {} --nats-servers {}",
            self.deployment.settings().display(),
            self.server.client_url(),
        ));
        say("Ctrl-C stops everything and removes the folder.");
    }

    /// Stops what was started, by the ids that were kept.
    async fn strike(&mut self) {
        let _ = self.solewriter.kill().await;
        let _ = self.server.stop().await;
    }
}

/// How long the old owner writes before what it writes is taken from it.
const BEFORE: Duration = Duration::from_millis(300);

/// The revision of the first invoice of a service, and when it was stored, in nanoseconds. It tried
/// before that one, too.
async fn first_of(stream: &jetstream::stream::Stream, service: &str) -> Result<(u64, i128), Error> {
    let subject = format!("$KV.invoices.{service}.*");
    let first = stream.raw_message_builder().sequence(1).next_by_subject(subject);
    let message = first.send().await?;
    Ok((message.sequence, message.time.unix_timestamp_nanos()))
}

/// A service that writes invoices all the time, whatever becomes of them.
struct Writer(tokio::task::JoinHandle<()>);

impl Writer {
    fn start(service: &'static str, guest: &Guest) -> Self {
        let client = guest.context.client();
        Self(tokio::spawn(async move {
            for number in 1.. {
                let subject = format!("$KV.invoices.{service}.{number}");
                let _ = client.publish(subject, "an invoice".into()).await;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }))
    }

    fn stop(self) {
        self.0.abort();
    }
}

/// A service's client, as its developer would write it.
struct Guest {
    context: jetstream::Context,
    violations: mpsc::UnboundedReceiver<String>,
}

impl Guest {
    async fn connect(url: &str, service: &str, seed: &Seed<User>) -> Result<Self, Error> {
        let (sender, violations) = mpsc::unbounded_channel();
        let client = ConnectOptions::with_nkey(seed.expose().to_owned())
            .name(service)
            .custom_inbox_prefix(inbox_prefix(service))
            .event_callback(move |event| {
                let sender = sender.clone();
                async move {
                    if let Event::ServerError(ServerError::Other(text)) = event {
                        let _ = sender.send(text);
                    }
                }
            })
            .connect(url)
            .await?;
        let mut context = jetstream::new(client);
        context.set_timeout(REFUSAL);
        Ok(Self { context, violations })
    }

    async fn put(&self, bucket: &str, key: &str, value: &str) -> Result<(), Error> {
        self.context.get_key_value(bucket).await?.put(key, value.to_owned().into()).await?;
        Ok(())
    }

    async fn get(&self, bucket: &str, key: &str) -> Result<String, Error> {
        let value = self.context.get_key_value(bucket).await?.get(key).await?;
        let value = value.ok_or_else(|| format!("{bucket}/{key} is not there"))?;
        Ok(String::from_utf8_lossy(&value).into_owned())
    }

    /// What the broker says to a put that must fail.
    async fn refused_put(&mut self, bucket: &str, key: &str, value: &str) -> Result<String, Error> {
        let store = self.context.get_key_value(bucket).await?;
        let put = async { store.put(key, value.to_owned().into()).await.is_ok() };
        refused(put, &mut self.violations).await
    }

    /// Publishes to a subject that a stream keeps. Gives where it is kept.
    async fn publish(&self, subject: &'static str, text: &'static str) -> Result<String, Error> {
        let kept = self.context.publish(subject, text.into()).await?.await?;
        Ok(format!("message {} of {}", kept.sequence, kept.stream))
    }

    /// The next message of a consumer.
    async fn next(&self, stream: &str, consumer: &str) -> Result<jetstream::Message, Error> {
        let consumer: PullConsumer =
            self.context.get_consumer_from_stream(consumer, stream).await?;
        let mut messages = consumer.fetch().max_messages(1).expires(PATIENCE).messages().await?;
        messages.next().await.ok_or("the consumer has no message")?
    }

    /// What the broker says to an acknowledgement that must fail.
    async fn refused_ack(&mut self, message: &jetstream::Message) -> Result<String, Error> {
        let ack = message.reply.clone().ok_or("a message without a reply subject")?;
        let client = self.context.client();
        let ack = async { client.request(ack, "+ACK".into()).await.is_ok() };
        refused(ack, &mut self.violations).await
    }

    /// What the broker says to opening a bucket that must fail.
    async fn refused_open(&mut self, bucket: &str) -> Result<String, Error> {
        let open = async { self.context.get_key_value(bucket).await.is_ok() };
        refused(open, &mut self.violations).await
    }
}

/// The violation that the broker reports instead of carrying out `attempt`. To the caller of a
/// KV operation alone, it would look like a timeout.
async fn refused(
    attempt: impl Future<Output = bool>,
    violations: &mut mpsc::UnboundedReceiver<String>,
) -> Result<String, Error> {
    tokio::select! {
        done = attempt => Err(if done {
            "it was let through".into()
        } else {
            "it failed without the broker's refusal".into()
        }),
        refusal = timeout(REFUSAL, violations.recv()) => {
            Ok(refusal?.ok_or("the connection closed")?)
        }
    }
}

#[allow(clippy::print_stdout)]
fn say(line: &str) {
    println!("{line}");
}

fn said(service: &str, action: &str, outcome: &str) {
    say(&format!("   {service:<10}{action:<42}{outcome}"));
}
