//! `solewriter key rotate`, from its first word to its last, while clients connect.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::deployment::{Deployment, Prepared, edit, eventually, read};
use super::raw::Raw;

const POLICY: &str = "[service.known]\nnkeys = [\"{known}\"]\ncalls = [\"svc.x\"]\n";

/// The command as it runs, and what it has said.
pub struct Rotating {
    pub child: Child,
    pub said: Arc<Mutex<String>>,
}

impl Rotating {
    pub fn start(deployment: &Deployment, what: &str, new: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_solewriter"))
            .args(["key", "rotate", what, "--new"])
            .arg(new)
            .arg("--config")
            .arg(deployment.files.settings())
            .args(["--nats-servers", &deployment.urls().join(",")])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (mut lines, hears) =
            (BufReader::new(child.stdout.take().unwrap()).lines(), said.clone());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                *hears.lock().unwrap() += &format!("{line}\n");
            }
        });
        Self { child, said }
    }

    /// Waits for those words.
    pub async fn says(&self, words: &str) -> String {
        eventually(&format!("{words:?}"), async || {
            let said = self.said.lock().unwrap().clone();
            said.contains(words).then_some(said)
        })
        .await
    }
}

on_every_server!(an_issuer_is_rotated_without_a_failed_login, more_room);
async fn an_issuer_is_rotated_without_a_failed_login(version: &'static str) {
    rotated(version, "issuer").await;
}

on_the_newest_server!(an_xkey_is_rotated_without_a_failed_login, more_room);
async fn an_xkey_is_rotated_without_a_failed_login(version: &'static str) {
    rotated(version, "xkey").await;
}

/// As docs/rotation.md has it: instances with the new key in a queue group of their own, then one
/// server after the other.
async fn rotated(version: &'static str, what: &str) {
    let mut deployment = Prepared::new().start_cluster(version, POLICY).await;
    deployment.add_instance(&[]).await;
    let (file, flag) = match what {
        "issuer" => ("issuer.nk", "--issuer-seed"),
        _ => ("callout.xk", "--xkey-seed"),
    };
    let keys = deployment.files.dir.join("keys");
    let (old, new) = (keys.join(file), keys.join(format!("new-{file}")));
    let public = |seed: &Path| match what {
        "issuer" => nkeys::KeyPair::from_seed(read(seed).trim()).unwrap().public_key(),
        _ => nkeys::XKey::from_seed(read(seed).trim()).unwrap().public_key(),
    };
    let service = deployment.service("known");
    let login = ["--login", service.seed_file.to_str().unwrap()];

    // Nobody does what it says: it ends, and the next run goes on with the same key.
    let mut first = Rotating::start(&deployment, what, &new, &["--within", "1s"]);
    let status = first.child.wait().await.unwrap();
    assert_eq!(status.code(), Some(1));
    let said = first.says("2. Beside the instances").await;
    assert!(said.contains("waiting: 0 have the new key, 1 another"), "{said}");
    let (before, after) = (public(&old), public(&new));

    let mut rotating = Rotating::start(&deployment, what, &new, &login);
    let said = rotating.says("--nats-queue-group").await;
    assert!(said.contains(&format!("1. The new key is {after} (found: ")), "{said}");
    let (_, group) = said.split_once("--nats-queue-group ").unwrap();
    let group = group.split_whitespace().next().unwrap().to_owned();
    let second = [flag, new.to_str().unwrap(), "--nats-queue-group", &group];
    deployment.add_instance(&second).await;
    rotating.says("3. On one nats-server after the other").await;

    let (mut failed, mut entered) = (Vec::new(), 0);
    for node in 0..3 {
        let home = deployment.dir.path().join(format!("node-{}", node + 1));
        edit(&home.join("deployment.conf"), &before, &after);
        let others: Vec<String> =
            (0..3).filter(|n| *n != node).map(|n| deployment.urls()[n].clone()).collect();
        let restarting = match node {
            0 => &mut deployment.server,
            peer => &mut deployment.peers[peer - 1],
        };
        let restarted = AtomicBool::new(false);
        let restart = async {
            restarting.restart().await.unwrap();
            restarted.store(true, Ordering::Relaxed);
        };
        // Meanwhile, at the servers that stay.
        let logins = async {
            let mut tried = Vec::new();
            while !restarted.load(Ordering::Relaxed) || tried.len() < 8 {
                for url in &others {
                    // What is under way through the server that stops is lost, as with any stop;
                    // clients try again.
                    let login = async || Raw::try_login(url, &service.seed).await.map(drop);
                    tried.push(match login().await {
                        Err(_) => login().await,
                        entered => entered,
                    });
                }
            }
            tried
        };
        let ((), tried) = tokio::join!(restart, logins);
        entered += tried.iter().filter(|login| login.is_ok()).count();
        failed.extend(tried.into_iter().filter_map(Result::err));
        // And at the one that is back, as soon as it has found the others: a real login of the
        // command, by an answer with the new key.
        rotating.says(&format!("{} of 3 took an answer by the new key", node + 1)).await;
        let url = deployment.urls()[node].clone();
        Raw::try_login(&url, &service.seed).await.unwrap();
    }
    assert_eq!(failed, Vec::<String>::new(), "beside {entered}");
    rotating.says("4. Stop the instances with the old key").await;
    if what == "issuer" {
        // The old one answers nobody any more, and says so. It knows that from being asked, and a
        // server that is just back may not have asked it yet.
        eventually("the old issuer is nobody's", async || {
            for url in deployment.urls() {
                Raw::try_login(&url, &service.seed).await.ok()?;
            }
            let (status, report) = deployment.instances[0].get("/readyz").await;
            let said = report.contains("3 of 3 servers do not accept our answers");
            (status == 503 && said).then_some(())
        })
        .await;
    }
    deployment.instances[0].signal(Signal::TERM);
    rotating.says("5. In ").await;
    edit(&deployment.files.settings(), &format!("keys/{file}"), &format!("keys/new-{file}"));
    let status = rotating.child.wait().await.unwrap();
    let said = rotating.says("destroy it").await;
    assert!(status.success(), "{said}");
    for url in deployment.urls() {
        Raw::try_login(&url, &service.seed).await.unwrap();
    }
    let (status, report) = deployment.instances[1].get("/readyz").await;
    assert_eq!(status, 200, "{report}");
    for seed in [&old, &new] {
        assert!(!said.contains(read(seed).trim()));
    }
    // A last run finds nothing to do.
    let mut last = Rotating::start(&deployment, what, &new, &["--within", "0s"]);
    assert!(last.child.wait().await.unwrap().success(), "{}", last.said.lock().unwrap());
}
