//! Services at work, in three languages: each numbers what it does, and tells each deed as a line.

use std::future::Future;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::{self, consumer::PullConsumer};
use async_nats::{Client, ConnectOptions, Message};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::clients;
use super::super::deployment::DEADLINE;

const PACE: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_secs(1);

/// What a service is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Rust,
    Python,
    JavaScript,
}

/// One thing that a task did.
#[derive(Clone, Debug, Deserialize)]
pub struct Deed {
    pub task: String,
    /// The task whose number it is.
    pub of: String,
    pub n: u64,
    /// Whether it was tried or delivered before.
    pub again: bool,
}

/// All that was done, in the order in which it was told, and why somebody ended early.
#[derive(Default)]
pub struct Log {
    pub deeds: Mutex<Vec<Deed>>,
    pub failures: Mutex<Vec<String>>,
}

impl Log {
    fn tell(&self, task: &Value, of: &str, n: u64, again: bool) {
        let task = word(task, "id").to_owned();
        self.deeds.lock().unwrap().push(Deed { task, of: of.to_owned(), n, again });
    }

    fn heard(&self, task: &Value, payload: &[u8], again: bool) {
        let text = std::str::from_utf8(payload).unwrap();
        let (of, n) = text.split_once(' ').unwrap();
        self.tell(task, of, n.parse().unwrap(), again);
    }

    fn fails(&self, why: String) {
        self.failures.lock().unwrap().push(why);
    }

    pub fn len(&self) -> usize {
        self.deeds.lock().unwrap().len()
    }
}

pub fn word<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_else(|| panic!("{value} has no {name}"))
}

/// A service that runs.
pub enum Worker {
    Program { child: Child, input: ChildStdin, reader: JoinHandle<()> },
    Tasks { stop: watch::Sender<bool>, tasks: Vec<JoinHandle<()>>, client: Client },
}

impl Worker {
    /// Starts one with what `traffic.py` calls its first line.
    pub async fn start(language: Language, job: Value, log: &Arc<Log>) -> Self {
        match language {
            Language::Rust => in_rust(job, log).await,
            Language::Python => {
                let (folder, python) = blocking(clients::python).await;
                let mut command = Command::new(python);
                command.arg(folder.join("traffic.py"));
                program(command, &job, log).await
            }
            Language::JavaScript => {
                let folder = blocking(|| clients::javascript_with("traffic.mjs")).await;
                let mut command = Command::new("node");
                command.arg(folder.join("traffic.mjs"));
                program(command, &job, log).await
            }
        }
    }

    /// Lets each task finish what it is at, and ends.
    pub async fn stop(self) {
        let ended = async {
            match self {
                Self::Program { mut child, input, reader } => {
                    drop(input);
                    let status = child.wait().await.unwrap();
                    reader.await.unwrap();
                    assert!(status.success(), "{status}");
                }
                Self::Tasks { stop, tasks, client } => {
                    stop.send_replace(true);
                    for task in tasks {
                        task.await.unwrap();
                    }
                    client.drain().await.unwrap();
                }
            }
        };
        tokio::time::timeout(DEADLINE, ended).await.expect("a service does not end");
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn program(mut command: Command, job: &Value, log: &Arc<Log>) -> Worker {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(format!("{job}\n").as_bytes()).await.unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (log, name) = (Arc::clone(log), word(job, "name").to_owned());
    let reader = tokio::spawn(async move {
        while let Some(line) = lines.next_line().await.unwrap() {
            match serde_json::from_str::<Deed>(&line) {
                Ok(deed) => log.deeds.lock().unwrap().push(deed),
                Err(_) => log.fails(format!("{name}: {line}")),
            }
        }
    });
    Worker::Program { child, input, reader }
}

/// How a client logs in, and what its inboxes begin with.
pub fn options(job: &Value) -> ConnectOptions {
    let mut options = match (job["seed_file"].as_str(), job["user"].as_str()) {
        (Some(file), _) => {
            let seed = std::fs::read_to_string(file).unwrap();
            ConnectOptions::with_nkey(seed.trim().to_owned())
        }
        (None, Some(user)) => {
            ConnectOptions::with_user_and_password(user.into(), word(job, "password").into())
        }
        (None, None) => ConnectOptions::new(),
    };
    if let Some(inbox) = job["inbox"].as_str() {
        options = options.custom_inbox_prefix(inbox);
    }
    if job["tls"].is_object() {
        let file = |name: &str| word(&job["tls"], name).to_owned().into();
        options = options
            .add_root_certificates(file("ca"))
            .add_client_certificate(file("cert"), file("key"))
            .require_tls(true);
    }
    options
        .name(word(job, "name"))
        .request_timeout(Some(PATIENCE))
        .reconnect_delay_callback(|_| Duration::from_millis(100))
}

/// Connects as a job says; tried until the server lets it in.
pub async fn connect(job: &Value) -> Client {
    let began = tokio::time::Instant::now();
    loop {
        match options(job).connect(word(job, "server")).await {
            Ok(client) => return client,
            Err(error) => assert!(began.elapsed() < DEADLINE, "{job}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn in_rust(job: Value, log: &Arc<Log>) -> Worker {
    let client = connect(&job).await;
    let (stop, stopped) = watch::channel(false);
    let mut tasks = Vec::new();
    for task in job["tasks"].as_array().unwrap() {
        let mut context = match job["domain"].as_str() {
            Some(domain) => jetstream::with_domain(client.clone(), domain),
            None => jetstream::new(client.clone()),
        };
        context.set_timeout(PATIENCE);
        let worker = Task {
            task: task.clone(),
            client: client.clone(),
            context,
            log: Arc::clone(log),
            stopped: stopped.clone(),
        };
        tasks.push(tokio::spawn(worker.run()));
    }
    Worker::Tasks { stop, tasks, client }
}

/// A task of a service in Rust.
struct Task {
    task: Value,
    client: Client,
    context: jetstream::Context,
    log: Arc<Log>,
    stopped: watch::Receiver<bool>,
}

type Outcome = Result<(), async_nats::Error>;

impl Task {
    fn word(&self, name: &str) -> &str {
        word(&self.task, name)
    }

    fn subject(&self) -> String {
        self.word("subject").to_owned()
    }

    async fn run(self) {
        match self.word("kind") {
            "hear" | "answer" => self.listen().await,
            "watch" => self.watch().await,
            "fetch" => self.fetch().await,
            _ => self.send().await,
        }
    }

    /// One number after the other, each until it is done.
    async fn send(&self) {
        let id = self.word("id");
        let mut n = self.task["from"].as_u64().unwrap();
        while !*self.stopped.borrow() {
            n += 1;
            let data = Bytes::from(format!("{id} {n}"));
            let again = until_done(id, || self.attempt(n, data.clone())).await;
            self.log.tell(&self.task, id, n, again);
            tokio::time::sleep(PACE).await;
        }
    }

    async fn attempt(&self, n: u64, data: Bytes) -> Outcome {
        match self.word("kind") {
            "publish" => {
                let mut headers = async_nats::HeaderMap::new();
                headers.insert("Nats-Msg-Id", format!("{}-{n}", self.word("id")));
                let sent = self.context.publish_with_headers(self.subject(), headers, data);
                sent.await?.await?;
            }
            "put_raw" => {
                self.context.publish(self.subject(), data).await?.await?;
            }
            "put" => {
                let bucket = self.context.get_key_value(self.word("bucket")).await?;
                bucket.put(self.word("key"), data.clone()).await?;
                if self.task["get"] == true {
                    assert_eq!(bucket.get(self.word("key")).await?, Some(data));
                }
            }
            "tell" => {
                self.client.publish(self.subject(), data).await?;
                self.client.flush().await?;
            }
            "ask" => {
                let answer = self.client.request(self.subject(), data.clone()).await?;
                assert_eq!(answer.payload, data);
            }
            "get_raw" => {
                let answer = self.client.request(self.subject(), "".into()).await?;
                if answer.headers.as_ref().is_some_and(|h| h.get("Status").is_some()) {
                    return Err(format!("{:?}", answer.headers).into());
                }
                let text = String::from_utf8(answer.payload.to_vec()).unwrap();
                assert!(text.split_once(' ').unwrap().1.parse::<u64>().unwrap() > 0, "{text}");
            }
            other => panic!("{other} is no kind of task"),
        }
        Ok(())
    }

    async fn listen(mut self) {
        let subject = self.subject();
        let mut messages = match self.task["queue"].as_str() {
            Some(queue) => self.client.queue_subscribe(subject, queue.to_owned()).await,
            None => self.client.subscribe(subject).await,
        }
        .unwrap();
        loop {
            let message: Message = tokio::select! {
                Some(message) = messages.next() => message,
                _ = self.stopped.changed() => break,
            };
            if self.word("kind") == "answer" {
                let reply = message.reply.clone().expect("a request");
                self.client.publish(reply, message.payload.clone()).await.unwrap();
            }
            self.log.heard(&self.task, &message.payload, false);
        }
    }

    async fn watch(mut self) {
        let bucket = self.context.get_key_value(self.word("bucket")).await.unwrap();
        let mut watch = bucket.watch(self.word("key")).await.unwrap();
        loop {
            tokio::select! {
                Some(entry) = watch.next() => match entry {
                    Ok(entry) => self.log.heard(&self.task, &entry.value, false),
                    Err(error) => println!("{}: {error}", self.word("id")),
                },
                _ = self.stopped.changed() => break,
            }
        }
    }

    async fn fetch(self) {
        let (stream, durable) = (self.word("stream"), self.word("durable"));
        while !*self.stopped.borrow() {
            if let Err(error) = self.fetch_some(stream, durable).await {
                println!("{}: {error}", self.word("id"));
                tokio::time::sleep(PACE).await;
            }
        }
    }

    async fn fetch_some(&self, stream: &str, durable: &str) -> Outcome {
        let consumer: PullConsumer = self.context.get_consumer_from_stream(durable, stream).await?;
        let some = consumer.fetch().max_messages(10).expires(Duration::from_millis(300));
        let mut messages = some.messages().await?;
        // Of a server that stops, nothing more comes.
        while let Ok(Some(message)) = tokio::time::timeout(PATIENCE, messages.next()).await {
            let message = message?;
            let again = message.info()?.delivered > 1;
            let acked_again = until_done(self.word("id"), || async {
                let acked = tokio::time::timeout(PATIENCE, message.double_ack());
                acked.await?
            })
            .await;
            self.log.heard(&self.task, &message.payload, again || acked_again);
        }
        Ok(())
    }
}

/// Tries until it works; whether that took more than one attempt.
async fn until_done<F: Future<Output = Outcome>>(id: &str, attempt: impl Fn() -> F) -> bool {
    let mut again = false;
    loop {
        let done = tokio::time::timeout(2 * PATIENCE, attempt()).await;
        match done.unwrap_or_else(|_| Err("no answer".into())) {
            Ok(()) => return again,
            Err(error) => println!("{id}: {error}"),
        }
        again = true;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
