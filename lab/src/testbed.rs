//! What load is put on: a deployment in a folder of its own, and `solewriter serve` processes.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Error;
use crate::cleanup;
use crate::fixture_policy::FixturePolicy;
use solewriter::scaffold::{Deployment, Scaffold};
use solewriter_core::keys::{Account, Seed, Signer};
use solewriter_sandbox::cpu_usage::{self, Usage};

/// How long anything may take before the run fails. A policy of 100,000 services takes its time.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A folder of our own that goes when we do.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        let name = data_encoding::HEXLOWER.encode(&rand::random::<[u8; 8]>());
        let path = std::env::temp_dir().join(format!("solewriter-load-{name}"));
        std::fs::create_dir(&path)?;
        cleanup::folder(&path);
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The files of a deployment.
pub struct Testbed {
    /// What `solewriter init` writes.
    pub deployment: Deployment,
    /// Who connects.
    pub company: FixturePolicy,
    /// Whether requests are sealed.
    pub sealed: bool,
    folder: Folder,
}

impl Testbed {
    /// Writes everything. nats-server will listen on a port that the system picks.
    ///
    /// # Errors
    /// When files or keys cannot be made.
    pub fn set(company: FixturePolicy, sealed: bool) -> Result<Self, Error> {
        let folder = Folder::new()?;
        let deployment = Scaffold::on_any_port(folder.path().join("deployment"), "load").write()?;
        for entry in std::fs::read_dir(deployment.policy())? {
            std::fs::remove_file(entry?.path())?;
        }
        company.write(&deployment.policy())?;
        if !sealed {
            replace(&deployment.settings(), "[xkey]\nseed = \"keys/callout.xk\"\n", "")?;
            replace(&deployment.server_config(), "    xkey: $CALLOUT_XKEY\n", "")?;
            let values = deployment.dir.join("deployment.conf");
            let text = std::fs::read_to_string(&values)?;
            let kept = text.lines().filter(|line| !line.starts_with("CALLOUT_XKEY:"));
            std::fs::write(&values, kept.collect::<Vec<_>>().join("\n") + "\n")?;
        }
        Ok(Self { deployment, company, sealed, folder })
    }

    /// The folder that everything is in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A service loses one subject.
    ///
    /// # Errors
    /// When it has none, or the file system says no.
    pub fn take_from(&self, service: &str) -> Result<(), Error> {
        self.company.take_from(service, &self.deployment.policy())
    }

    /// A seed or key that `solewriter init` wrote.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn secret(&self, file: &str) -> Result<zeroize::Zeroizing<String>, Error> {
        let path = self.deployment.dir.join("keys").join(file);
        let text = zeroize::Zeroizing::new(std::fs::read_to_string(path)?);
        Ok(zeroize::Zeroizing::new(text.trim().to_owned()))
    }

    /// Starts `solewriter serve` and waits until it says that it answers.
    ///
    /// # Errors
    /// When it does not, with its log.
    pub fn serve(&self, url: &str, number: usize, arguments: &[String]) -> Result<Serve, Error> {
        let mut serve = self.launch(url, number, arguments)?;
        serve.ready()?;
        Ok(serve)
    }

    /// Starts `solewriter serve`.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn launch(&self, url: &str, number: usize, arguments: &[String]) -> Result<Serve, Error> {
        let log = self.folder().join(format!("serve-{number}.log"));
        let more = ["--log-format", "json"].map(str::to_owned);
        let file = fresh(&log)?;
        self.spawn(&["serve"], url, log, file.into(), &[&more, arguments].concat())
    }

    /// Starts `solewriter serve` with a log that goes into a pipe which nobody empties.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn serve_unread(&self, url: &str) -> Result<Serve, Error> {
        let log = self.folder().join("nothing.log");
        self.spawn(&["serve"], url, log, Stdio::piped(), &[])
    }

    /// Has the issuer's key held by a signer of its own, and starts that.
    ///
    /// # Errors
    /// When the settings have no seed, or it does not begin.
    pub fn signer(&self) -> Result<Serve, Error> {
        let (socket, seed) =
            (self.folder().join("signer.sock"), self.deployment.seed_file("issuer"));
        let key = Signer::<Account>::new(&Seed::parse(&self.secret("issuer.nk")?)?)?;
        let settings = format!("signer = \"{}\"\nkey = \"{}\"", socket.display(), key.public());
        replace(&self.deployment.settings(), "seed = \"keys/issuer.nk\"", &settings)?;
        let log = self.folder().join("signer.log");
        let began = Instant::now();
        let child = Command::new(std::env::current_exe()?)
            .args(["signer", "--log-format", "json", "--account", "APP", "--listen"])
            .arg(&socket)
            .arg("--seed")
            .arg(seed)
            .args(["--peer", &rustix::process::getuid().as_raw().to_string()])
            .args(["--per-second", "1000000"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fresh(&log)?)
            .spawn()?;
        let mut signer = Serve { child, log, began, ceiling: false, started_in: Duration::ZERO };
        signer.says("\"event\":\"listening\"")?;
        Ok(signer)
    }

    /// Starts a callout that signs a fixed grant and does nothing else.
    ///
    /// # Errors
    /// When it does not begin to answer.
    pub fn ceiling(&self, url: &str, number: usize) -> Result<Serve, Error> {
        let log = self.folder().join(format!("ceiling-{number}.log"));
        let file = fresh(&log)?;
        let mut ceiling = self.spawn(&["ceiling"], url, log, file.into(), &[])?;
        ceiling.ceiling = true;
        ceiling.ready()?;
        Ok(ceiling)
    }

    fn spawn(
        &self,
        command: &[&str],
        url: &str,
        log: PathBuf,
        stderr: Stdio,
        arguments: &[String],
    ) -> Result<Serve, Error> {
        let began = Instant::now();
        let child = Command::new(std::env::current_exe()?)
            .args(command)
            .arg("--config")
            .arg(self.deployment.settings())
            .args(["--nats-servers", url])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()?;
        Ok(Serve { child, log, began, ceiling: false, started_in: Duration::ZERO })
    }
}

/// A new file, written to at its end even after it was cut.
fn fresh(path: &Path) -> std::io::Result<File> {
    File::create(path)?;
    OpenOptions::new().append(true).open(path)
}

/// Replaces a part of a file, which must be there.
pub(super) fn replace(file: &Path, from: &str, to: &str) -> Result<(), Error> {
    let text = std::fs::read_to_string(file)?;
    if !text.contains(from) {
        return Err(format!("{} has no {from:?}", file.display()).into());
    }
    std::fs::write(file, text.replace(from, to))?;
    Ok(())
}

/// A running `solewriter serve`, killed when dropped.
pub struct Serve {
    child: Child,
    log: PathBuf,
    began: Instant,
    /// The ceiling has nothing to finish, and ends when it is told to.
    ceiling: bool,
    /// From its start to being ready.
    pub started_in: Duration,
}

impl Serve {
    /// Waits until it says that it answers.
    ///
    /// # Errors
    /// When it does not in time, or ended, with its log.
    pub fn ready(&mut self) -> Result<(), Error> {
        self.says("\"event\":\"ready\"")?;
        self.started_in = self.began.elapsed();
        Ok(())
    }

    /// Waits until its log has some text.
    ///
    /// # Errors
    /// When it has not in time, or the process ended.
    pub fn says(&mut self, text: &str) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            if log.contains(text) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("solewriter serve ended ({status}):\n{log}").into());
            }
            if Instant::now() > deadline {
                return Err(format!("solewriter serve did not say {text}:\n{log}").into());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where its metrics are, as its log says.
    #[must_use]
    pub fn http(&self) -> Option<String> {
        let log = self.log();
        let line = log.lines().find(|line| line.contains("\"event\":\"http\""))?;
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        line.get("address")?.as_str().map(str::to_owned)
    }

    /// How many changes of the policy its log tells of. What was looked at is cut off, so that a log
    /// of hours does not fill the disk.
    #[must_use]
    pub fn policy_changes(&self) -> u64 {
        let log = self.log();
        let changes = log.lines().filter(|line| line.contains("\"event\":\"policy_changed\""));
        let changes = u64::try_from(changes.count()).unwrap_or_default();
        if let Ok(file) = OpenOptions::new().write(true).open(&self.log) {
            let _ = file.set_len(0);
        }
        changes
    }

    /// What it used so far.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        cpu_usage::of(self.child.id())
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        // A child not yet waited for keeps its id, so this cannot reach another process.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.ok_or("no process id")?, signal)?;
        Ok(())
    }

    /// Asks it to stop, and waits.
    ///
    /// # Errors
    /// When it does not end well in time.
    pub fn stop(mut self) -> Result<(), Error> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return if status.success() || self.ceiling {
                    Ok(())
                } else {
                    Err(format!("solewriter serve ended with {status}:\n{}", self.log()).into())
                };
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Err("solewriter serve did not stop".into())
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
