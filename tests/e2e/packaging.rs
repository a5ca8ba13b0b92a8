//! What `deploy/` has for platforms: what systemd hears and hands over, how probes ask, the chart, and
//! what is asked of the metrics.

use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};
use solewriter_sandbox::{Server, free_ports};
use tokio::net::{TcpStream, UnixDatagram};
use tokio::time::timeout;

use super::clients::{Library, python_with};
use super::deployment::{
    DEADLINE, Deployment, Prepared, Ran, binary, edit, eventually, http_get, policy_text, read,
};
use super::operations;

const POLICY: &str = "[service.orders]\nnkeys = [\"{orders}\"]\nowns = [\"orders\"]\n";

/// What systemd would hear.
struct Supervisor(UnixDatagram);

impl Supervisor {
    /// Each assignment of the next message.
    async fn hears(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let length = timeout(DEADLINE, self.0.recv(&mut message)).await.expect("nothing is heard");
        let text = std::str::from_utf8(&message[..length.unwrap()]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// All that is heard until that.
    async fn hears_until(&self, wanted: &str) -> Vec<String> {
        let mut heard = Vec::new();
        while !heard.iter().any(|line| line == wanted) {
            heard.extend(self.hears().await);
        }
        heard
    }
}

on_the_newest_server!(systemd_hears_how_the_service_is, some_room);
/// It hears that the service is ready when it is and not before, a sign of life again and again,
/// each reload, and the end.
async fn systemd_hears_how_the_service_is(version: &'static str) {
    let bucket = "bucket = \"solewriter_policy\"";
    let prepared = Prepared::new().with_settings("directory = \"policy\"", bucket);
    std::fs::remove_file(prepared.files.policy().join("services.test.toml")).unwrap();
    let mut deployment = prepared.start_broker(version, POLICY).await;
    let socket = deployment.dir.path().join("notify");
    let supervisor = Supervisor(UnixDatagram::bind(&socket).unwrap());
    let environment = [("NOTIFY_SOCKET", socket.as_os_str()), ("WATCHDOG_USEC", "900000".as_ref())];
    deployment.launch_instance_with(&environment);

    // There is no policy yet: it lives, and is not ready.
    let mut heard = supervisor.hears_until("WATCHDOG=1").await;
    while !heard.iter().any(|line| line.starts_with("STATUS=not ready; nats-server: connected")) {
        heard.extend(supervisor.hears().await);
    }
    heard.extend(supervisor.hears_until("WATCHDOG=1").await);
    assert!(!heard.contains(&"READY=1".to_owned()), "{heard:?}");
    assert_eq!(deployment.instances[0].get("/readyz").await.0, 503);

    let policy = deployment.files.policy();
    let push = ["policy", "push", policy.to_str().unwrap(), "-m", "a", "--author", "b", "--yes"];
    let pushed = deployment.tool(&push).await;
    assert_eq!(pushed.code, 0, "{pushed:?}");
    supervisor.hears_until("READY=1").await;
    assert_eq!(deployment.instances[0].get("/readyz").await.0, 200);
    supervisor.hears_until("WATCHDOG=1").await;

    deployment.instances[0].signal(Signal::HUP);
    let reloading = loop {
        let message = supervisor.hears().await;
        if message.contains(&"RELOADING=1".to_owned()) {
            break message;
        }
        assert!(
            !message.contains(&"READY=1".to_owned()),
            "nothing was to be reported: {message:?}"
        );
    };
    let since = reloading.iter().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(since.parse::<u64>().unwrap() > 0, "{reloading:?}");
    supervisor.hears_until("READY=1").await;

    deployment.instances[0].signal(Signal::TERM);
    supervisor.hears_until("STOPPING=1").await;
    let ended = timeout(DEADLINE, deployment.instances[0].child.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}");
}

/// Moves a seed to where systemd puts credentials, as it does: readable by its reader alone.
fn hand_over(keys: &Path, credentials: &Path, name: &str) {
    let to = credentials.join(name);
    std::fs::rename(keys.join(name), &to).unwrap();
    std::fs::set_permissions(&to, PermissionsExt::from_mode(0o440)).unwrap();
}

on_the_newest_server!(seeds_come_from_systemd, some_room);
/// The settings that the packages install name no seed: the unit's credentials have them.
async fn seeds_come_from_systemd(version: &'static str) {
    let mut deployment = Prepared::new().start_broker(version, POLICY).await;
    let dir = deployment.dir.path().to_owned();
    let (keys, credentials) = (deployment.files.dir.join("keys"), dir.join("credentials"));
    std::fs::create_dir(&credentials).unwrap();
    let settings = deployment.files.settings();
    std::fs::copy("deploy/systemd/solewriter.toml", &settings).unwrap();
    edit(&settings, "/etc/solewriter/policy", deployment.files.policy().to_str().unwrap());
    edit(&settings, "/var/lib/solewriter", dir.to_str().unwrap());
    edit(&settings, "127.0.0.1:9980", "127.0.0.1:0");
    for name in ["callout.nk", "issuer.nk", "callout.xk", "system.nk"] {
        hand_over(&keys, &credentials, name);
        // The unit hands over what the service reads.
        let unit = read(Path::new("deploy/systemd/solewriter.service"));
        assert!(unit.contains(&format!("LoadCredential={name}:/etc/solewriter/keys/{name}\n")));
    }
    let environment = [("CREDENTIALS_DIRECTORY", credentials.as_os_str())];
    deployment.launch_instance_with(&environment);
    let ready = deployment.instances[0].says("ready").await;
    assert!(ready["xkey"].is_string(), "requests are sealed: {ready}");
    deployment.instances[0].says("system_connected").await;

    // Without systemd nothing starts, and neither does it with a seed that others could change.
    deployment.launch_instance_with(&[]);
    let issuer = credentials.join("issuer.nk");
    std::fs::set_permissions(&issuer, PermissionsExt::from_mode(0o460)).unwrap();
    deployment.launch_instance_with(&environment);
    for (instance, said) in [
        (1, "`seed` in [issuer] is not set".to_owned()),
        (2, format!("{} is open to others (mode 0460)", issuer.display())),
    ] {
        let instance = &mut deployment.instances[instance];
        let ended = timeout(DEADLINE, instance.child.wait()).await.unwrap().unwrap();
        assert_eq!(ended.code(), Some(1));
        let log = read(&instance.log);
        assert!(log.contains(&said), "{log}");
    }
}

/// Runs the program where there are no settings.
async fn solewriter(arguments: &[&str]) -> Ran {
    let nowhere = tempfile::tempdir().unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_solewriter"));
    let output = command.args(arguments).current_dir(&nowhere).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

on_the_newest_server!(a_probe_hears_whether_the_service_is_ready, some_room);
/// `solewriter health` says what /readyz says.
async fn a_probe_hears_whether_the_service_is_ready(version: &'static str) {
    let mut deployment = Deployment::start(version, POLICY).await;
    let address = deployment.instances[0].says("http").await["address"].clone();
    let address = address.as_str().unwrap();
    let here = ["health", "--http-listen", address];
    let well = deployment.tool(&here).await;
    assert_eq!(well.code, 0, "{well:?}");
    assert!(well.out.starts_with("nats-server: connected\nsubscribed: yes\n"), "{well:?}");

    // By a name, and without any settings.
    let by_name = address.replace("127.0.0.1", "localhost");
    let asked = solewriter(&["health", "--at", &by_name]).await;
    assert!(asked.out.contains("subscribed: yes"), "{asked:?}");

    deployment.server.stop().await.unwrap();
    let away = eventually("it is not ready", async || {
        let asked = deployment.tool(&here).await;
        (asked.code != 0).then_some(asked)
    })
    .await;
    assert_eq!(away.code, 1, "{away:?}");
    assert!(away.out.starts_with("nats-server: not connected\n"), "{away:?}");
    let live = deployment.tool(&[&here[..], &["--live"]].concat()).await;
    assert_eq!((live.code, live.out.as_str()), (0, "alive\n"), "{live:?}");

    // One that does not answer, and one that nobody can ask.
    deployment.instances[0].pause();
    let silent = deployment.tool(&[&here[..], &["--wait", "300ms"]].concat()).await;
    assert_eq!(silent.code, 1, "{silent:?}");
    assert!(silent.err.contains("does not answer in time"), "{silent:?}");
    drop(deployment.instances.pop());
    let gone = eventually("it is gone", async || {
        let asked = deployment.tool(&here).await;
        asked.err.contains("refused").then_some(asked)
    })
    .await;
    assert_eq!(gone.code, 1, "{gone:?}");
    for (listen, said) in [("off", "\"off\""), ("127.0.0.1:0", "port 0"), ("there", "IP:PORT")] {
        let asked = deployment.tool(&["health", "--http-listen", listen]).await;
        assert_eq!(asked.code, 2, "{asked:?}");
        assert!(asked.err.contains(said), "{asked:?}");
    }
}

/// Renders the chart with Helm's own code, holds the objects against the published schemas of
/// Kubernetes, and gives them; or why not.
async fn chart(values: Value) -> Result<Vec<Value>, String> {
    let said = tokio::task::spawn_blocking(move || {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/helm");
        let mut python = std::process::Command::new(python_with(&folder))
            .arg(folder.join("render.py"))
            .arg("deploy/helm/solewriter")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        python.stdin.take().unwrap().write_all(values.to_string().as_bytes()).unwrap();
        python.wait_with_output().unwrap()
    })
    .await
    .unwrap();
    if !said.status.success() {
        return Err(String::from_utf8(said.stderr).unwrap());
    }
    Ok(serde_json::from_slice(&said.stdout).unwrap())
}

/// The only object of that kind and name.
fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let fits = |o: &&Value| o["kind"] == kind && o["metadata"]["name"] == name;
    let found: Vec<&Value> = objects.iter().filter(fits).collect();
    assert_eq!(found.len(), 1, "{kind} {name} in {objects:#?}");
    found[0]
}

/// Every pod fits the Pod Security Standard "restricted", writes nothing but its volumes, and has no
/// token of the cluster. No Secret is made: seeds are brought.
fn is_restricted(objects: &[Value]) {
    let mut pods = 0;
    for object in objects {
        assert_ne!(object["kind"], "Secret");
        let pod = match object["kind"].as_str() {
            Some("Deployment") => &object["spec"]["template"]["spec"],
            Some("Pod") => &object["spec"],
            _ => continue,
        };
        pods += 1;
        assert_eq!(pod["automountServiceAccountToken"], false, "{pod}");
        assert_eq!(pod["enableServiceLinks"], false, "{pod}");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{pod}");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{pod}");
        for container in pod["containers"].as_array().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{container}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{container}");
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{container}");
        }
    }
    assert_eq!(pods, 2, "the instances, and the one of `helm test`");
}

/// All that the chart can make is there.
fn is_complete(objects: &[Value]) {
    is_restricted(objects);
    for kind in
        ["Service", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor"]
    {
        object(objects, kind, "solewriter");
    }
    let rules = &object(objects, "PrometheusRule", "solewriter")["spec"]["groups"];
    let rules = rules.as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap());
    let alerts = read(Path::new("deploy/prometheus/alerts.yaml"));
    assert_eq!(rules.count(), alerts.matches("- alert: ").count());
    object(objects, "ConfigMap", "solewriter-dashboard");
    let notes = object(objects, "Notes", "notes")["text"].as_str().unwrap();
    assert!(notes.contains("helm --namespace nats test solewriter\n"), "{notes}");
}

/// Writes a config map's files as the kubelet mounts them: links into a folder that is swapped.
fn mount(map: &Value, at: &Path) {
    std::fs::create_dir_all(at.join("..2027_01_01")).unwrap();
    symlink("..2027_01_01", at.join("..data")).unwrap();
    for (name, text) in map["data"].as_object().unwrap() {
        std::fs::write(at.join("..2027_01_01").join(name), text.as_str().unwrap()).unwrap();
        symlink(format!("..data/{name}"), at.join(name)).unwrap();
    }
}

on_the_newest_server!(the_charts_files_start_both_servers, some_room);
/// The chart's configuration runs: nats-server includes its part as the official chart of nats does,
/// `serve` finds its settings, seeds and policy where they are mounted, and a service works.
async fn the_charts_files_start_both_servers(version: &'static str) {
    let Prepared { files, dir } = Prepared::new();
    let policy = "[bucket.orders]\n\n[stream.EVENTS]\nsubjects = [\"events.>\"]\n\n[service.orders]\n\
                  nkeys = [\"{orders}\"]\nowns = [\"orders\"]\npublishes = [\"events.orders.>\"]\n";
    let policy = policy_text(&files, policy);
    let public = read(&files.dir.join("deployment.conf"));
    let key = |name: &str| {
        let line = public.lines().find_map(|l| l.strip_prefix(&format!("{name}: "))).unwrap();
        line.trim_matches('"').to_owned()
    };
    let values = json!({
        "image": {"repository": "registry.example.com/solewriter"},
        "seeds": {"secret": "solewriter-seeds"},
        "policy": {"files": {"policy.toml": policy}},
        "settings": {"sessions": {"every": "10s", "consumers_per_service": 100}},
        "natsConfig": {"enabled": true, "streamSubjects": ["events.>"], "keys": {
            "issuer": key("ISSUER_KEY"), "callout": key("CALLOUT_KEY"), "xkey": key("CALLOUT_XKEY"),
            "publisher": key("PUBLISHER_KEY"), "admin": key("ADMIN_KEY"),
            "auditAdmin": key("AUDIT_ADMIN_KEY"), "system": key("SYSTEM_KEY"),
        }},
        "serviceMonitor": {"enabled": true}, "prometheusRule": {"enabled": true},
        "dashboard": {"enabled": true},
    });
    let objects = chart(values).await.unwrap();
    is_complete(&objects);

    let nats = dir.path().join("etc/nats-config");
    std::fs::create_dir_all(&nats).unwrap();
    mount(object(&objects, "ConfigMap", "solewriter-nats"), &dir.path().join("etc/solewriter"));
    // As the official chart writes it from `config.merge` in deploy/helm/nats-values.yaml.
    let included = "../solewriter/solewriter.conf";
    assert!(
        read(Path::new("deploy/helm/nats-values.yaml"))
            .contains(&format!("$include: {included}\n"))
    );
    let config = nats.join("nats.conf");
    let store = dir.path().join("jetstream");
    let text = format!(
        "{{\n  include {included};\n  \"host\": \"127.0.0.1\",\n  \"jetstream\": {{\n    \
         \"max_file_store\": 64GB,\n    \"store_dir\": \"{}\"\n  }},\n  \"port\": -1,\n  \
         \"server_name\": \"nats-0\"\n}}\n",
        store.display(),
    );
    std::fs::write(&config, text).unwrap();
    let server = Server::start(&binary(version).await, &config, dir.path()).await.unwrap();

    std::fs::remove_dir_all(files.policy()).unwrap();
    mount(object(&objects, "ConfigMap", "solewriter-policy"), &files.policy());
    let settings = &object(&objects, "ConfigMap", "solewriter")["data"]["solewriter.toml"];
    std::fs::write(files.settings(), settings.as_str().unwrap()).unwrap();
    edit(&files.settings(), "/etc/solewriter/policy", files.policy().to_str().unwrap());
    edit(&files.settings(), "/etc/solewriter/seeds", files.dir.join("keys").to_str().unwrap());
    edit(&files.settings(), "/var/lib/solewriter", dir.path().to_str().unwrap());
    edit(&files.settings(), "0.0.0.0:9980", "127.0.0.1:0");
    let mut deployment =
        Deployment { server, peers: Vec::new(), files, instances: Vec::new(), dir };
    deployment.add_instance(&[]).await;
    deployment.instances[0].says("system_connected").await;
    let seed = |name: &str| deployment.files.seed_file(name).display().to_string();
    let (admin, audit_admin) = (seed("admin"), seed("audit-admin"));
    let seeds = ["--admin-nkey-seed", &admin, "--audit-admin-nkey-seed", &audit_admin];
    deployment.apply(&seeds).await;

    // A bucket, and a stream whose subjects the chart's lines let through.
    let orders = deployment.service("orders");
    let script = [
        json!({"op": "open", "bucket": "orders"}),
        json!({"op": "put", "bucket": "orders", "key": "1", "value": "two chairs"}),
        json!({"op": "get", "bucket": "orders", "key": "1"}),
    ];
    let lines = Library::AsyncNats.run(&deployment, &orders, &script).await;
    assert!(lines.iter().all(|line| line["ok"] == true), "{lines:?}");
    let (client, _) = operations::connect(deployment.url(), &orders).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let kept = context.publish("events.orders.new", "1".into()).await.unwrap().await.unwrap();
    assert_eq!(kept.stream, "EVENTS");
}

on_the_newest_server!(the_chart_takes_little_and_refuses_what_is_wrong, some_room);
/// With as little as there can be, and on nodes of their own. What is wrong is refused before anything is
/// installed, and said.
async fn the_chart_takes_little_and_refuses_what_is_wrong(_: &'static str) {
    let off = json!({"enabled": false});
    let little = chart(json!({
        "image": {"repository": "a", "digest": format!("sha256:{}", "0".repeat(64))},
        "seeds": {"secret": "a", "keys": {"xkey": "", "system": ""}},
        "antiAffinity": "hard", "audit": off, "podDisruptionBudget": off, "networkPolicy": off,
        "serviceAccount": {"create": false},
    }));
    let little = little.await.unwrap();
    is_restricted(&little);
    let settings = object(&little, "ConfigMap", "solewriter")["data"]["solewriter.toml"].as_str();
    let settings: toml::Table = toml::from_str(settings.unwrap()).unwrap();
    let tables: Vec<&str> = settings.keys().map(String::as_str).collect();
    assert_eq!(tables, ["grants", "http", "issuer", "nats", "policy"]);
    assert_eq!(settings["policy"]["bucket"].as_str(), Some("solewriter_policy"));

    let image = json!({"repository": "a"});
    let seeds = json!({"secret": "a"});
    // The rest would be a line of its own in nats-server's configuration.
    let forged = json!({"issuer": "A\"\nno_auth_user: x"});
    for (values, said) in [
        (json!({}), "image.repository is required"),
        (json!({"image": image}), "seeds.secret is required"),
        (json!({"image": image, "seeds": seeds, "polcy": {}}), "polcy"),
        (json!({"image": image, "seeds": seeds, "replicas": 0}), "/replicas"),
        (
            json!({"image": image, "seeds": seeds, "natsConfig": {"enabled": true}}),
            "natsConfig.keys.",
        ),
        (
            json!({"image": image, "seeds": seeds, "natsConfig": {"keys": forged}}),
            "/natsConfig/keys/issuer",
        ),
    ] {
        let error = chart(values).await.unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

/// What a URL takes as a value.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// A query with every filter made one that only says 0 or 1: its result is empty only if something
/// that it asks for is not there.
fn unfiltered(query: &str) -> String {
    let mut query = query.replace("$__rate_interval", "1m").replace("$instance", ".*");
    for sign in [" == ", " != ", " > ", " < "] {
        query = query.replace(sign, &format!("{sign}bool ")).replace("bool bool", "bool");
    }
    // Of what is there, nothing is absent.
    query.replace("absent(", "count(")
}

/// Every query of the dashboard: panels, and what fills the list of instances.
fn dashboard_queries() -> Vec<String> {
    let dashboard: Value =
        serde_json::from_str(&read(Path::new("deploy/grafana/dashboard.json"))).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// A real Prometheus that reads one instance.
pub struct Prometheus {
    process: tokio::process::Child,
    address: String,
}

impl Prometheus {
    /// Starts it in that folder; `None` where there is none, which is said.
    pub fn start(dir: &Path, scraped: &Value, rules: &[&Path]) -> Option<Self> {
        let config = dir.join("prometheus.yaml");
        let text = json!({
            "global": {
                "scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms",
            },
            "rule_files": rules,
            "scrape_configs": [{"job_name": "a", "static_configs": [{"targets": [scraped]}]}],
        });
        std::fs::write(&config, text.to_string()).unwrap();
        let address = format!("127.0.0.1:{}", free_ports(1).unwrap()[0]);
        let started = tokio::process::Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--enable-feature=exemplar-storage")
            .stderr(std::fs::File::create(dir.join("prometheus.log")).unwrap())
            .kill_on_drop(true)
            .spawn();
        let Ok(process) = started else {
            println!(
                "skipped: no query was run, because there is no Prometheus here (apt-get install \
                 prometheus)"
            );
            return None;
        };
        Some(Self { process, address })
    }

    /// What it answers, once it does.
    pub async fn ask(&self, path: &str) -> Option<Value> {
        TcpStream::connect(&self.address).await.ok()?;
        let (status, body) = http_get(&self.address, path, "1.0").await;
        (status == 200).then(|| serde_json::from_str::<Value>(&body).unwrap()["data"].take())
    }
}

on_the_newest_server!(every_query_finds_what_it_asks_for, some_room);
/// Each alert and each panel asks a real Prometheus that reads a real `serve`, of which nothing has
/// been asked yet: everything is there, at zero.
async fn every_query_finds_what_it_asks_for(version: &'static str) {
    let Ok(linted) = tokio::process::Command::new("promtool")
        .args(["check", "rules", "deploy/prometheus/alerts.yaml"])
        .output()
        .await
    else {
        println!(
            "skipped: no query was run, because there is no Prometheus here (apt-get install prometheus)"
        );
        return;
    };
    assert!(linted.status.success(), "{linted:?}");
    let tested = tokio::process::Command::new("promtool")
        .args(["test", "rules", "deploy/prometheus/alerts.test.yaml"])
        .output();
    let tested = tested.await.unwrap();
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stdout));

    let mut deployment = Deployment::start(version, POLICY).await;
    deployment.create_audit_streams().await;
    let scraped = deployment.instances[0].says("http").await["address"].clone();
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/alerts.yaml");
    let Some(mut prometheus) = Prometheus::start(deployment.dir.path(), &scraped, &[&rules]) else {
        return;
    };
    let ask = async |path: &str| prometheus.ask(path).await;
    let rules = eventually("Prometheus has the rules", async || {
        let groups = ask("/api/v1/rules").await?["groups"].take();
        let groups = groups.as_array()?.iter();
        let rules: Vec<Value> =
            groups.flat_map(|g| g["rules"].as_array().unwrap().clone()).collect();
        (!rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok")).then_some(rules)
    })
    .await;
    let alerts = rules.iter().map(|rule| rule["query"].as_str().unwrap().to_owned());
    let queries: Vec<String> = alerts.chain(dashboard_queries()).collect();
    assert!(queries.len() > 40, "{queries:#?}");
    for query in queries {
        let path = format!("/api/v1/query?query={}", encoded(&unfiltered(&query)));
        eventually(&format!("an answer to {}", unfiltered(&query)), async || {
            let result = ask(&path).await.unwrap_or_else(|| panic!("refused: {query}"));
            (!result["result"].as_array()?.is_empty()).then_some(())
        })
        .await;
    }
    // A deployment in which all is well alerts nobody.
    eventually("no alert is on its way", async || {
        let groups = ask("/api/v1/rules").await?["groups"].take();
        let mut rules = groups.as_array()?.iter().flat_map(|g| g["rules"].as_array().unwrap());
        rules.all(|rule| rule["state"] == "inactive").then_some(())
    })
    .await;
    prometheus.process.kill().await.unwrap();
}
