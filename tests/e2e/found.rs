//! Services that can be found by the services framework, and who looks for them.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use async_nats::service::ServiceExt as _;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::clients::{node_modules, python};
use super::deployment::{DEADLINE, Deployment, Service, Violation};
use super::operations;
use super::raw::Raw;

const SERVICES: &str = r#"
[role.looking]
discovers = ["quotes-rust", "quotes-python", "quotes-javascript"]
calls = ["quotes.*"]

[service.rust]
nkeys = ["{rust}"]
found_as = ["quotes-rust"]
answers = ["quotes.rust"]

[service.python]
nkeys = ["{python}"]
found_as = ["quotes-python"]
answers = ["quotes.python"]

[service.javascript]
nkeys = ["{javascript}"]
found_as = ["quotes-javascript"]
answers = ["quotes.javascript"]

[service.shop]
nkeys = ["{shop}"]
roles = ["looking"]

[service.monitoring]
nkeys = ["{monitoring}"]
discovers = ["*"]

[service.stranger]
nkeys = ["{stranger}"]
answers = ["strange"]
calls = ["quotes.rust"]
"#;

const LANGUAGES: [&str; 3] = ["rust", "python", "javascript"];

/// The program `services` of a client library, as a service of the policy.
fn program(language: &str, deployment: &Deployment, service: &Service) -> Command {
    let mut command = if language == "python" {
        let (folder, python) = python();
        let mut command = Command::new(python);
        command.arg(folder.join("services.py"));
        command
    } else {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/js-streams");
        let mut command = Command::new("node");
        command.arg(node_modules(&source, &["services.mjs"]).join("services.mjs"));
        command
    };
    command.args(["--server", deployment.url(), "--seed-file"]).arg(&service.seed_file);
    command.arg("--inbox").arg(format!("_INBOX.{}", service.name));
    command
}

/// A service of a client library that can be found, and its id.
fn found(language: &str, deployment: &Deployment) -> (Child, String) {
    let mut child = program(language, deployment, &deployment.service(language))
        .args(["found", &format!("quotes-{language}"), &format!("quotes.{language}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut id = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut id).unwrap();
    assert!(!id.trim().is_empty(), "{language} said nothing");
    (child, id.trim().to_owned())
}

async fn ask(client: &async_nats::Client, subject: String) -> Value {
    let asked = tokio::time::timeout(DEADLINE, client.request(subject.clone(), "".into())).await;
    serde_json::from_slice(&asked.expect("an answer in time").expect(&subject).payload).unwrap()
}

/// As `find` of the programs does.
async fn find(deployment: &Deployment) -> Value {
    let (client, mut refused) =
        operations::connect(deployment.url(), &deployment.service("shop")).await.unwrap();
    let mut seen = json!({});
    for name in LANGUAGES.map(|language| format!("quotes-{language}")) {
        let id = ask(&client, format!("$SRV.PING.{name}")).await["id"].clone();
        let info = ask(&client, format!("$SRV.INFO.{name}.{}", id.as_str().unwrap())).await;
        let subject = info["endpoints"][0]["subject"].as_str().unwrap().to_owned();
        let answer = client.request(subject.clone(), "".into()).await.unwrap().payload;
        let stats = ask(&client, format!("$SRV.STATS.{name}")).await;
        assert_eq!(stats["endpoints"][0]["subject"], subject.as_str(), "{stats}");
        let answer = String::from_utf8(answer.to_vec()).unwrap();
        seen[name] = json!({"id": id, "subject": subject, "answer": answer});
    }
    assert!(refused.try_recv().is_err());
    seen
}

on_every_server!(services_are_found_by_name_and_asked);
/// Each library's service by each library's client.
async fn services_are_found_by_name_and_asked(version: &'static str) {
    let deployment = Deployment::start(version, SERVICES).await;
    let (client, mut refused) =
        operations::connect(deployment.url(), &deployment.service("rust")).await.unwrap();
    let service = client.service_builder().start("quotes-rust", "1.0.0").await.unwrap();
    let mut endpoint = service.endpoint_builder().name("get").add("quotes.rust").await.unwrap();
    let rust = service.info().await.id;
    let answers = tokio::spawn(async move {
        while let Some(request) = endpoint.next().await {
            request.respond(Ok("quotes-rust".into())).await.unwrap();
        }
    });
    client.flush().await.unwrap();
    let (mut python, python_id) = found("python", &deployment);
    let (mut javascript, javascript_id) = found("javascript", &deployment);

    let mut expected = json!({});
    for (language, id) in LANGUAGES.into_iter().zip([rust, python_id, javascript_id]) {
        let name = format!("quotes-{language}");
        expected[&name] =
            json!({"id": id, "subject": format!("quotes.{language}"), "answer": name});
    }
    assert_eq!(find(&deployment).await, expected);
    for language in ["python", "javascript"] {
        let mut command = program(language, &deployment, &deployment.service("shop"));
        command.arg("find").args(LANGUAGES.map(|language| format!("quotes-{language}")));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let seen: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
        assert!(output.status.success(), "{said}");
        assert_eq!(seen, expected, "{language}");
    }

    // Who may ask everybody hears of all three.
    let (client, _) =
        operations::connect(deployment.url(), &deployment.service("monitoring")).await.unwrap();
    let mut pongs = client.subscribe("_INBOX.monitoring.pongs").await.unwrap();
    client.publish_with_reply("$SRV.PING", "_INBOX.monitoring.pongs", "".into()).await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < LANGUAGES.len() {
        let pong = tokio::time::timeout(DEADLINE, pongs.next()).await.expect("three pongs");
        let pong: Value = serde_json::from_slice(&pong.unwrap().payload).unwrap();
        heard.push(pong["name"].as_str().unwrap().to_owned());
    }
    heard.sort();
    assert_eq!(heard, ["quotes-javascript", "quotes-python", "quotes-rust"]);

    // They end as they would for their users, without a refusal.
    for child in [&mut python, &mut javascript] {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
    answers.abort();
    assert!(refused.try_recv().is_err());
    assert_eq!(deployment.violations(), []);
}

/// A question of each kind, in these forms.
fn questions(forms: &[&str]) -> Vec<String> {
    let kinds = ["PING", "INFO", "STATS", "SCHEMA"].into_iter();
    kinds.flat_map(|kind| forms.iter().map(move |form| format!("$SRV.{kind}{form}"))).collect()
}

on_every_server!(nobody_poses_as_another);
async fn nobody_poses_as_another(version: &'static str) {
    let deployment = Deployment::start(version, SERVICES).await;
    let own = questions(&["", ".quotes-python", ".quotes-python.id", ".quotes-python.>"]);
    let mut anothers =
        questions(&[".quotes-rust", ".quotes-rust.id", ".quotes-rust.*", ".quotes-rust.>"]);
    anothers.extend(questions(&[".*", ".*.*", ".*.id", ".>"]));
    let wide = ["$SRV.>", "$SRV.*", "$SRV.*.*", "$SRV.*.quotes-rust", "$SRV.*.quotes-python"];
    anothers.extend(wide.map(ToOwned::to_owned));
    for service in ["python", "shop", "monitoring", "stranger"] {
        let mut raw = Raw::login(&deployment, &deployment.service(service)).await;
        let may_not_hear_its_name = own.iter().filter(|_| service != "python");
        for subject in anothers.iter().chain(may_not_hear_its_name) {
            for (queue, group) in [("", ""), ("q", " using queue \"q\"")] {
                let said = raw.subscribe_in(subject, queue).await;
                let refusal =
                    format!("Permissions Violation for Subscription to \"{subject}\"{group}");
                assert_eq!(said, Err(refusal), "{service}");
            }
        }
    }

    // To ask is no right of who is found, and by name is no right to ask everybody.
    let (everybody, by_name) = (questions(&[""]), questions(&[".quotes-rust", ".quotes-rust.id"]));
    let mut refused = Vec::new();
    for (service, asks_everybody, asks_by_name) in [
        ("python", false, false),
        ("stranger", false, false),
        ("shop", false, true),
        ("monitoring", true, true),
    ] {
        let mut raw = Raw::login(&deployment, &deployment.service(service)).await;
        for (subjects, may) in [(&everybody, asks_everybody), (&by_name, asks_by_name)] {
            for subject in subjects {
                let refusal = format!("Permissions Violation for Publish to \"{subject}\"");
                let said = if may { Ok(()) } else { Err(refusal) };
                assert_eq!(raw.publish(subject, b"").await, said, "{service}");
                if !may {
                    let act = format!("publish {subject}");
                    refused.push(Violation { service: service.to_owned(), act });
                }
            }
        }
    }
    let mut published = deployment.violations();
    published.retain(|violation| violation.act.starts_with("publish"));
    assert_eq!(published, refused);

    // What python may hear, it hears in a queue group, too, and that is nothing of rust's.
    let mut rust = Raw::login(&deployment, &deployment.service("rust")).await;
    rust.subscribe("$SRV.INFO.quotes-rust").await.unwrap();
    let mut python = Raw::login(&deployment, &deployment.service("python")).await;
    for subject in &own {
        for queue in ["", "q"] {
            python.subscribe_in(subject, queue).await.unwrap();
        }
    }
    let mut shop = Raw::login(&deployment, &deployment.service("shop")).await;
    shop.publish_with("$SRV.INFO.quotes-rust", "_INBOX.shop.1", "", b"").await.unwrap();
    assert_eq!(rust.message().await.subject, "$SRV.INFO.quotes-rust");
    shop.publish_with("$SRV.INFO.quotes-python", "_INBOX.shop.2", "", b"").await.unwrap();
    assert_eq!(python.message().await.subject, "$SRV.INFO.quotes-python");
}
