//! What the documentation shows does what it says.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;
use solewriter_core::keys::{Seed, Signer, User};
use solewriter_sandbox::Server;
use solewriter_types::audit_event::Violation;
use solewriter_types::kv_operation::Operation;

use super::clients;
use super::deployment::{Deployment, Prepared, Service, binary, read};
use super::operations;
use super::violations::{create_stream, told};

const CLIENTS: &str = include_str!("../../docs/clients.md");
const BUCKET: &str = include_str!("../../docs/policy-bucket.md");
const AUTHORS: &str = include_str!("../../docs/authors.md");

const GUARD: &str = include_str!("../../docs/guard.md");

/// The lines of a page's one example in a language.
fn example(page: &'static str, language: &str) -> &'static str {
    let (_, rest) = page.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("\n```").unwrap().0
}

/// Runs an example as the sample policy's `orders`, and gives what it printed.
async fn printed(deployment: &Deployment, mut command: Command) -> String {
    command
        .env("NATS_URL", deployment.url())
        .env("SEED_FILE", deployment.files.seed_file("orders"));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

on_every_server!(the_client_examples_work);
/// The examples for Python and JavaScript, with the sample policy that `init` writes.
async fn the_client_examples_work(version: &'static str) {
    let deployment = Deployment::sample(version).await;
    deployment.create_buckets(&["orders"]).await;

    let folder = deployment.dir.path();
    let python = folder.join("example.py");
    std::fs::write(&python, example(CLIENTS, "python")).unwrap();
    let (_, interpreter) = tokio::task::spawn_blocking(clients::python).await.unwrap();
    let mut command = Command::new(interpreter);
    command.arg(&python);
    assert_eq!(printed(&deployment, command).await, "two chairs\nnats: closed\n");

    // JavaScript finds its modules from where the program is.
    let modules = tokio::task::spawn_blocking(clients::javascript).await.unwrap();
    let javascript = folder.join("example.mjs");
    std::fs::write(&javascript, example(CLIENTS, "javascript")).unwrap();
    std::os::unix::fs::symlink(modules.join("node_modules"), folder.join("node_modules")).unwrap();
    let mut command = Command::new("node");
    command.arg(&javascript);
    assert_eq!(printed(&deployment, command).await, "two chairs\n");
    assert_eq!(deployment.violations(), []);
}

on_every_server!(the_guard_lines_of_python_and_javascript_work);
/// The programs of `docs/guard.md`: as the sample policy's `orders`, refused a key of another.
async fn the_guard_lines_of_python_and_javascript_work(version: &'static str) {
    let deployment = Deployment::sample(version).await;
    create_stream(&deployment).await;
    let folder = deployment.dir.path();
    let (_, python) = tokio::task::spawn_blocking(clients::python).await.unwrap();
    let modules = tokio::task::spawn_blocking(clients::javascript).await.unwrap();
    std::os::unix::fs::symlink(modules.join("node_modules"), folder.join("node_modules")).unwrap();
    // nats.py tells every subject in lower case, and this one has no other.
    for (number, language, file, interpreter, subject) in [
        (1, "python", "guard.py", python, "$kv.invoices.1"),
        (2, "javascript", "guard.mjs", PathBuf::from("node"), "$KV.invoices.1"),
    ] {
        let program = folder.join(file);
        std::fs::write(&program, example(GUARD, language)).unwrap();
        let mut command = Command::new(interpreter);
        command.arg(&program);
        assert_eq!(printed(&deployment, command).await, "", "{language}");
        let events = told(&deployment, "orders").await;
        assert_eq!(events.len(), number, "{language}: {events:?}");
        let event = &events[number - 1];
        let data: Violation = serde_json::from_value(event["data"].clone()).unwrap();
        assert_eq!((data.operation, data.count), (Operation::Write, 1));
        assert_eq!((data.subject.as_str(), data.seen_by.as_str()), (subject, "client"));
        assert_eq!(data.about.keyspace.as_deref(), Some("invoices/1"));
        assert_eq!(
            (&event["subject"], &event["sequence"]),
            (&json!("orders"), &json!("000000000001"))
        );
    }
    assert_eq!(deployment.violations().len(), 2);
}

/// Runs a command of ours against the deployment, in the folder that its own is in, and gives what
/// it printed.
async fn ours(deployment: &Deployment, command: &str) -> String {
    let arguments = command.strip_prefix("solewriter ").unwrap();
    let output = tokio::process::Command::new("sh")
        .args(["-c", &format!("{} {arguments}", env!("CARGO_BIN_EXE_solewriter"))])
        .current_dir(deployment.dir.path())
        .env("SOLEWRITER_NATS_SERVERS", deployment.url())
        .output()
        .await
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    // An old server has holes of its own, and `doctor` says so.
    let fine =
        output.status.success() || (command.contains(" doctor ") && out.contains("known holes"));
    assert!(fine, "$ {command}\n{out}{}", String::from_utf8_lossy(&output.stderr));
    out
}

on_every_server!(the_readmes_commands_work_on_a_server);
/// The README's commands and files, in its order, in the folder that it works in; but for those
/// that make the deployment and start it, which is done.
async fn the_readmes_commands_work_on_a_server(version: &'static str) {
    let mut deployment = Deployment::sample(version).await;
    let mut lines = include_str!("../../README.md").lines();
    let (mut ran, mut key) = (0, String::new());
    while let Some(line) = lines.next() {
        let Some(mark) = line.strip_prefix("```").filter(|mark| !mark.is_empty()) else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if let Some(file) = mark.strip_prefix("toml ") {
            let text = block.join("\n").replace("U…", &key);
            std::fs::write(deployment.dir.path().join(file), text).unwrap();
            let fits = |line: &serde_json::Value| line["added"] == "shipping";
            deployment.instances[0].says_where("policy_changed", fits).await;
        }
        for command in block.iter().filter_map(|line| line.strip_prefix("$ ")) {
            let begins = |with: &&str| command.starts_with(&format!("solewriter {with} "));
            if !command.starts_with("solewriter ") || ["init", "serve"].iter().any(begins) {
                continue;
            }
            let said = ours(&deployment, command).await;
            if begins(&"key new") {
                said.trim().clone_into(&mut key);
            }
            ran += 1;
        }
    }
    assert_eq!(ran, 7, "commands");
    let orders = deployment.bucket("orders").await;
    assert_eq!(orders.stream.cached_info().config.max_messages_per_subject, 5);
    // The service that was added writes its bucket, and reads another's; what the sample had works.
    let seed_file = deployment.files.seed_file("shipping");
    let seed = solewriter_core::keys::Seed::parse(&read(&seed_file)).unwrap();
    let shipping = Service { name: "shipping".to_owned(), seed, seed_file };
    let (client, _) = operations::connect(deployment.url(), &shipping).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let shipments = context.get_key_value("shipments").await.unwrap();
    shipments.put("1", "by ship".into()).await.unwrap();
    let orders = context.get_key_value("orders").await.unwrap();
    assert_eq!(orders.get("1").await.unwrap(), None);
    assert!(orders.put("1", "mine".into()).await.is_err());
    ours(&deployment, "solewriter explain billing --policy deployment/policy").await;
}

on_every_server!(what_init_says_to_do_next_works);
/// What `init` says to do next, done.
async fn what_init_says_to_do_next_works(version: &'static str) {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .args(["init", "deployment", "--nats-listen", "127.0.0.1:-1"])
        .args(["--http-listen", "127.0.0.1:0"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let mut commands = said.lines().filter_map(|line| line.strip_prefix("  "));
    let files = solewriter::scaffold::Deployment { dir: dir.path().join("deployment") };
    let config = commands.next().unwrap().strip_prefix("nats-server -c ").unwrap();
    let binary = binary(version).await;
    let server = Server::start(&binary, config.as_ref(), dir.path()).await.unwrap();
    let mut deployment =
        Deployment { server, peers: Vec::new(), files, instances: Vec::new(), dir };
    let settings = commands.next().unwrap().strip_prefix("solewriter serve -c ").unwrap();
    assert_eq!(std::path::Path::new(settings), deployment.files.settings());
    deployment.add_instance(&[]).await;
    let rest: Vec<&str> = commands.collect();
    assert_eq!(rest.len(), 2, "{said}");
    for command in rest {
        ours(&deployment, command).await;
    }
    deployment.bucket("orders").await;
}

/// Whether what was printed is what the page shows: `...` stands for any lines, and at the end of
/// a line for its rest.
fn shown(wanted: &[&str], found: &[&str]) -> bool {
    match (wanted.split_first(), found.split_first()) {
        (None, None) => true,
        (Some((&"...", rest)), _) => (0..=found.len()).any(|skip| shown(rest, &found[skip..])),
        (Some((line, rest)), Some((other, others))) => {
            let start = line.strip_suffix("...");
            let same = start.map_or(line == other, |start| other.starts_with(start));
            same && shown(rest, others)
        }
        _ => false,
    }
}

on_every_server!(the_page_about_the_bucket_is_true);
/// Every command of the page about the policy's bucket, in a deployment that `init` wrote.
async fn the_page_about_the_bucket_is_true(version: &'static str) {
    let prepared =
        Prepared::new().with_settings("directory = \"policy\"", "bucket = \"solewriter_policy\"");
    let mut deployment = prepared.start_broker(version, "").await;
    let policy = deployment.files.policy();
    for file in ["test.toml", "buckets.toml"] {
        std::fs::remove_file(policy.join(file)).unwrap();
    }
    std::fs::copy(deployment.dir.path().join("sample.toml"), policy.join("services.toml")).unwrap();
    for _ in 0..2 {
        let at = deployment.launch_instance(&[]);
        deployment.instances[at].says("policy_source_waiting").await;
    }
    assert_eq!(run_page(&deployment, BUCKET).await, 7, "commands on the page");
}

/// Writes the files of a page and runs its commands, in this order. Gives how many commands.
async fn run_page(deployment: &Deployment, page: &str) -> usize {
    let mut ran = 0;
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(mark) = line.strip_prefix("```").filter(|mark| !mark.is_empty()) else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if let Some(name) = mark.strip_prefix("toml ") {
            let file = deployment.files.dir.join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, block.join("\n") + "\n").unwrap();
        }
        let fails = mark == "console fails";
        if mark != "console" && !fails {
            continue;
        }
        for part in block.chunk_by(|_, next| !next.starts_with("$ ")) {
            let command = part[0].strip_prefix("$ ").unwrap();
            let arguments = command.strip_prefix("solewriter ").unwrap();
            let mut shell = Command::new("sh");
            shell
                .args(["-c", &format!("{} {arguments}", env!("CARGO_BIN_EXE_solewriter"))])
                .env("SOLEWRITER_NATS_SERVERS", deployment.url())
                .current_dir(&deployment.files.dir);
            let output =
                tokio::task::spawn_blocking(move || shell.output().unwrap()).await.unwrap();
            let found = String::from_utf8(output.stdout).unwrap()
                + &String::from_utf8(output.stderr).unwrap();
            let list: Vec<&str> = found.lines().collect();
            assert!(shown(&part[1..], &list), "{command} printed:\n{found}");
            assert_eq!(output.status.success(), !fails, "{command}: {}", output.status);
            ran += 1;
        }
    }
    ran
}

on_the_newest_server!(the_page_about_authors_is_true, some_room);
/// Every command of the page about authors, with keys in place of those on the page.
async fn the_page_about_authors_is_true(version: &'static str) {
    let settings = "authors = \"authors.toml\"\nbucket = \"solewriter_policy\"";
    let prepared = Prepared::new().with_settings("directory = \"policy\"", settings);
    let mut deployment = prepared.start_broker(version, "").await;
    std::fs::remove_dir_all(deployment.files.policy()).unwrap();
    let mut page = AUTHORS.to_owned();
    for (name, shown) in [
        ("ops", "UCRAFZAHGBQKZ5WVGGAZTW3N7PIO7NNEZC77U2TFP7DSBDSFHKEUCIHK"),
        ("lea", "UBLHMB3BAOX2IFXNVZT2VAORPPHSWWLPNJYUYHVWG2V4CBMKE77KZ5RP"),
    ] {
        let seed = Seed::<User>::generate();
        let file = deployment.files.dir.join(format!("{name}.nk"));
        solewriter::scaffold::write_secret(&file, seed.expose()).unwrap();
        assert_eq!(page.matches(shown).count(), 1);
        page = page.replace(shown, &Signer::new(&seed).unwrap().public().to_string());
    }
    // The table is there before an instance starts.
    let (_, table) = page.split_once("```toml authors.toml\n").unwrap();
    let (table, _) = table.split_once("```").unwrap();
    std::fs::write(deployment.files.dir.join("authors.toml"), table).unwrap();
    let at = deployment.launch_instance(&[]);
    deployment.instances[at].says("policy_source_waiting").await;
    assert_eq!(run_page(&deployment, &page).await, 5, "commands on the page");
}
