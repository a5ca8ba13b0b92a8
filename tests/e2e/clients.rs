//! Client libraries as their users have them: nats.py in a virtual environment, nats.js in a
//! folder with `node_modules`, both installed once for each content of their version files.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use super::deployment::{Deployment, Service};
use super::operations;

/// A client library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    AsyncNats,
    NatsPy,
    NatsJs,
}

impl Library {
    pub const ALL: [Self; 3] = [Self::AsyncNats, Self::NatsPy, Self::NatsJs];

    /// A word that tells the library's buckets from the others', so that revisions are its own.
    pub fn word(self) -> &'static str {
        match self {
            Self::AsyncNats => "rust",
            Self::NatsPy => "python",
            Self::NatsJs => "javascript",
        }
    }

    /// Runs operations as a service, through a connection of its own; gives the outcome of each.
    /// A refused connection is one outcome with the operation `connect`.
    pub async fn run(
        self,
        deployment: &Deployment,
        service: &Service,
        operations: &[Value],
    ) -> Vec<Value> {
        self.run_at(deployment.url(), service, operations).await
    }

    /// The same at a server of its own.
    pub async fn run_at(self, url: &str, service: &Service, operations: &[Value]) -> Vec<Value> {
        let url = url.to_owned();
        match self {
            Self::AsyncNats => operations::run(&url, service, operations).await,
            Self::NatsPy => {
                let command = || {
                    let (folder, python) = python();
                    let mut command = Command::new(python);
                    command.arg(folder.join("kv_client.py"));
                    command
                };
                run_program(command, url, service, operations).await
            }
            Self::NatsJs => {
                let command = || {
                    let mut command = Command::new("node");
                    command.arg(javascript().join("kv_client.mjs"));
                    command
                };
                run_program(command, url, service, operations).await
            }
        }
    }
}

async fn run_program(
    command: impl FnOnce() -> Command + Send + 'static,
    url: String,
    service: &Service,
    operations: &[Value],
) -> Vec<Value> {
    let (name, seed_file) = (service.name.clone(), service.seed_file.clone());
    let script = serde_json::to_vec(operations).unwrap();
    tokio::task::spawn_blocking(move || {
        let mut child = command()
            .args(["--server", &url, "--inbox", &format!("_INBOX.{name}"), "--timeout", "5"])
            .arg("--seed-file")
            .arg(seed_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&script).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert!(
            !lines.is_empty(),
            "the client said nothing:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        lines
    })
    .await
    .unwrap()
}

/// The folder of the Python client, and a Python that has its requirements.
pub fn python() -> (PathBuf, PathBuf) {
    static READY: OnceLock<PathBuf> = OnceLock::new();
    let source = source("py");
    let ready = READY.get_or_init(|| python_with(&source)).clone();
    (source, ready)
}

/// A Python that has what `requirements.txt` in that folder says.
pub fn python_with(source: &Path) -> PathBuf {
    let ready = installed(source, &["requirements.txt"], |target| {
        run("python3", &["-m", "venv", "."], target);
        let pip = target.join("bin/python");
        let requirements = source.join("requirements.txt");
        let arguments =
            ["-m", "pip", "install", "--quiet", "--requirement", requirements.to_str().unwrap()];
        run(pip.to_str().unwrap(), &arguments, target);
    });
    ready.join("bin/python")
}

/// A folder with the JavaScript client and its `node_modules`.
pub fn javascript() -> PathBuf {
    static READY: OnceLock<PathBuf> = OnceLock::new();
    READY.get_or_init(|| javascript_with("kv_client.mjs")).clone()
}

/// A folder with a program of that one's and its `node_modules`.
pub fn javascript_with(program: &str) -> PathBuf {
    node_modules(&source("js"), &[program])
}

/// What starts the program of a library that waits for requests on a subject, and says what
/// happens to its connection.
pub fn idle(
    library: Library,
    deployment: &Deployment,
    service: &Service,
    subject: &str,
) -> Command {
    let mut command = match library {
        Library::NatsPy => {
            let (folder, python) = python();
            let mut command = Command::new(python);
            command.arg(folder.join("idle.py"));
            command
        }
        Library::NatsJs => {
            let mut command = Command::new("node");
            command.arg(javascript_with("idle.mjs").join("idle.mjs"));
            command
        }
        Library::AsyncNats => panic!("async-nats needs no program"),
    };
    command.args(["--server", deployment.url(), "--inbox", &format!("_INBOX.{}", service.name)]);
    command.arg("--seed-file").arg(&service.seed_file).arg(subject);
    command
}

/// A folder with these programs and the packages that they need.
pub fn node_modules(source: &Path, programs: &[&str]) -> PathBuf {
    let files = [&["package.json", "package-lock.json"], programs].concat();
    installed(source, &files, |target| {
        for file in &files {
            std::fs::copy(source.join(file), target.join(file)).unwrap();
        }
        run("npm", &["ci", "--silent", "--no-audit", "--no-fund"], target);
    })
}

/// A folder with the client that runs in a browser, what drives it, and their `node_modules`.
pub fn browser_client() -> PathBuf {
    node_modules(&source("browser"), &["drive.mjs", "client.mjs"])
}

fn source(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(language)
}

/// A folder under `target` that `install` filled, once for each content of `files`, however many
/// test processes ask at the same time.
fn installed(source: &Path, files: &[&str], install: impl FnOnce(&Path)) -> PathBuf {
    let mut content = String::new();
    for file in files {
        content.push_str(&std::fs::read_to_string(source.join(file)).unwrap());
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content.as_bytes());
    let digest = data_encoding::HEXLOWER.encode(&digest.as_ref()[..8]);
    let language = source.file_name().unwrap().to_str().unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("client-{language}-{digest}"));
    std::fs::create_dir_all(&folder).unwrap();
    let lock = std::fs::File::create(folder.join(".lock")).unwrap();
    lock.lock().unwrap();
    let done = folder.join(".done");
    if !done.exists() {
        install(&folder);
        std::fs::write(done, "").unwrap();
    }
    folder
}

fn run(program: &str, arguments: &[&str], folder: &Path) {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap_or_else(|error| panic!("the tests need {program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs every operation of the older npm package `nats` as a service; gives what each came to.
/// `check_api` leaves it to the library to ask for the account's usage first, as it does by default.
pub async fn older_javascript(
    deployment: &Deployment,
    service: &Service,
    bucket: &str,
    check_api: bool,
) -> Vec<Value> {
    let (url, inbox) = (deployment.url().to_owned(), format!("_INBOX.{}", service.name));
    let (seed_file, bucket) = (service.seed_file.clone(), bucket.to_owned());
    tokio::task::spawn_blocking(move || {
        let folder = node_modules(&source("js-nats2"), &["all.mjs"]);
        let mut command = Command::new("node");
        command.arg(folder.join("all.mjs")).args(["--server", &url, "--inbox", &inbox]);
        command.arg("--seed-file").arg(seed_file).args(["--bucket", &bucket]);
        if check_api {
            command.arg("--check-api");
        }
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !text.is_empty(), "{text}\n{said}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    })
    .await
    .unwrap()
}
