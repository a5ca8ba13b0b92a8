//! `solewriter doctor` on a healthy deployment, and on one that is broken for each of its checks.

use jiff::{SignedDuration, Timestamp};
use rustix::process::Signal;
use serde_json::{Value, json};
use solewriter::config::{Overrides, Tool};
use solewriter::doctor::look::{Clock, look as look_at};
use solewriter::doctor::{CHECKS, Outcome, Report};
use solewriter_core::keys::{Account, Curve, CurveSecret, Seed, Signer};
use solewriter_types::advisories::{ADVISORIES, Needs};

use super::deployment::{DEADLINE, Deployment, Prepared, Ran};
use super::raw::Raw;

const POLICY: &str = r#"
[service.orders]
nkeys = ["{orders}"]
owns = ["orders"]
lifetime = "2h"
"#;

/// What `doctor` said.
struct Said {
    ran: Ran,
    findings: Vec<Value>,
}

impl Said {
    fn of(ran: Ran) -> Self {
        let view = ran.json();
        let findings = view["findings"].as_array().unwrap().clone();
        let said = Self { ran, findings };
        assert_eq!(said.ran.code == 0, said.with("problem").is_empty(), "{:?}", said.ran);
        // Whatever is not right comes with what to do about it.
        for finding in &said.findings {
            assert_eq!(finding["mend"].is_null(), finding["outcome"] == "ok", "{finding}");
        }
        said
    }

    /// The checks that came out so.
    fn with(&self, outcome: &str) -> Vec<&str> {
        let mut checks: Vec<&str> = self
            .findings
            .iter()
            .filter(|f| f["outcome"] == outcome)
            .map(|f| f["check"].as_str().unwrap())
            .collect();
        checks.dedup();
        checks
    }

    /// This check has a problem, or a warning, and no other has a problem. Gives what was found.
    fn only(&self, version: &str, outcome: &str, check: &str) -> (&str, &str) {
        let mut problems = self.with("problem");
        if outcome == "problem" {
            assert!(problems.contains(&check), "{}", self.ran.out);
        }
        problems.retain(|problem| *problem != check && !is_of_the_server(problem, version));
        assert_eq!(problems, [""; 0], "{}", self.ran.out);
        let found = self.findings.iter().find(|f| f["check"] == check && f["outcome"] == outcome);
        let found = found.unwrap_or_else(|| panic!("{check} is no {outcome}: {}", self.ran.out));
        (found["found"].as_str().unwrap(), found["mend"].as_str().unwrap())
    }
}

/// Whether it is the server that has this problem, and no fault of the deployment. Which notes count
/// where is tested beside the table of them; the newest server has none.
fn is_of_the_server(check: &str, version: &str) -> bool {
    check == "advisories" && has(version, |_| true)
}

/// Whether the server has a hole of that kind.
fn has(version: &str, kind: fn(&Needs) -> bool) -> bool {
    let version = version.parse().unwrap();
    let noted = ADVISORIES.iter().filter(|advisory| advisory.note.is_some());
    noted.into_iter().any(|advisory| advisory.affects(&version) && kind(&advisory.needs))
}

async fn look(deployment: &Deployment) -> Said {
    Said::of(deployment.tool(&["doctor", "--format", "json"]).await)
}

/// A deployment with its buckets, from files that may be broken already.
async fn start(prepared: Prepared, version: &'static str) -> Deployment {
    let deployment = prepared.start(version, POLICY).await;
    apply(&deployment).await;
    deployment
}

async fn apply(deployment: &Deployment) {
    let ran = deployment.tool(&["buckets", "apply", "--yes"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
}

on_every_server!(a_healthy_deployment_has_no_problem);
async fn a_healthy_deployment_has_no_problem(version: &'static str) {
    let mut deployment = start(Prepared::new(), version).await;
    deployment.add_instance(&[]).await;
    let orders = deployment.service("orders");
    let connected = Raw::try_login(deployment.url(), &orders.seed).await.unwrap();
    let said = look(&deployment).await;
    let found = |check: &str| {
        let mut found = said.findings.iter().filter(|f| f["check"] == check);
        let only = found.next().unwrap();
        assert!(found.next().is_none() && only["outcome"] == "ok", "{check}: {}", said.ran.out);
        only["found"].as_str().unwrap()
    };
    assert_eq!(found("logins"), "nobody else is connected there");
    let connections = found("connections");
    assert!(
        connections.starts_with("1 open, 0 with permissions of another revision"),
        "{connections}"
    );
    let unwell: Vec<&Value> = said.findings.iter().filter(|f| f["outcome"] != "ok").collect();
    let of_the_server = |f: &&Value| is_of_the_server(f["check"].as_str().unwrap(), version);
    // Two instances, and each may have files of its own.
    let fine = |f: &&Value| of_the_server(f) || f["check"] == "handover";
    assert!(unwell.iter().all(fine), "{unwell:?}");
    // A hole that takes nothing special is a problem, and others are not.
    let open = has(version, |needs| *needs == Needs::Nothing);
    assert_eq!(said.with("problem").contains(&"advisories"), open, "{unwell:?}");
    // Every check was made that this kind of deployment has.
    let mut checked: Vec<&str> = Vec::new();
    for finding in &said.findings {
        let check = finding["check"].as_str().unwrap();
        if checked.last() != Some(&check) {
            checked.push(check);
        }
    }
    // Those of an adoption, of operator mode and of TLS are for deployments of that kind.
    let of_all = CHECKS.iter().filter(|c| !["adoption", "operator mode"].contains(&c.family));
    let of_all = of_all.filter(|c| c.id != "certificates");
    let made: Vec<&str> = of_all.map(|check| check.id).collect();
    assert_eq!(checked, made);
    // For people, the same.
    let text = deployment.tool(&["doctor"]).await;
    assert_eq!(text.code, said.ran.code, "{text:?}");
    for check in made {
        assert!(text.out.contains(&format!("  {check} ")), "{check}: {}", text.out);
    }
    drop(connected);
    // Strangers were refused, and nothing was tried that is a violation.
    assert_eq!(deployment.violations(), []);
    for name in ["issuer", "callout", "system", "admin", "publisher"] {
        let seed = std::fs::read_to_string(deployment.files.seed_file(name)).unwrap();
        assert!(!text.out.contains(seed.trim()) && !said.ran.out.contains(seed.trim()));
    }
}

async fn create(deployment: &Deployment, config: &Value) {
    let client = deployment.admin().await.client();
    let subject = format!("$JS.API.STREAM.CREATE.{}", config["name"].as_str().unwrap());
    let answer = client.request(subject, config.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer.get("error").is_none(), "{answer}");
}

on_every_server!(an_address_where_nobody_is);
async fn an_address_where_nobody_is(version: &'static str) {
    let deployment = start(Prepared::new(), version).await;
    // A port where nobody listens.
    let dead = solewriter_sandbox::free_ports(1).unwrap()[0];
    let servers = [deployment.url().to_owned(), format!("nats://127.0.0.1:{dead}")];
    let said = Said::of(deployment.tool_at(&servers, &["doctor", "--format", "json"]).await);
    let (found, mend) = said.only(version, "problem", "address");
    assert!(found.starts_with(&format!("127.0.0.1:{dead}: ")), "{found}");
    assert!(mend.contains("start nats-server there"), "{mend}");
}

on_every_server!(a_mapping_in_the_services_account);
/// What a grant says is not what is published, so it is refused.
async fn a_mapping_in_the_services_account(version: &'static str) {
    let mapped = "  APP {\n    mappings: { \"ev.*\": \"ev.{{wildcard(1)}}.0\" }";
    let prepared = Prepared::new().with_server("  APP {", mapped);
    let deployment = start(prepared, version).await;
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "problem", "mappings");
    assert!(found.starts_with("APP maps `ev.*` to `ev.{{wildcard(1)}}.0`"), "{found}");
    assert!(mend.contains("mappings"), "{mend}");
}

const MAPPED: &str = r#"
[service.source]
nkeys = ["{source}"]
publishes = ["ev.*"]

[service.both]
nkeys = ["{both}"]
publishes = ["ev.*", "ev.*.0", "half.>"]

[service.half]
nkeys = ["{half}"]
publishes = ["half.>"]

[bucket.kept]

[service.keeper]
nkeys = ["{keeper}"]
owns = ["kept"]
publishes = ["gone.>"]
"#;

/// `solewriter explain` of what is served.
async fn explain(deployment: &Deployment, arguments: &[&str]) -> Ran {
    of_served(deployment, "explain", arguments).await
}

/// A question about what is served.
async fn of_served(deployment: &Deployment, question: &str, arguments: &[&str]) -> Ran {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_solewriter"));
    command.arg(question).args(arguments).arg("--config").arg(deployment.files.settings());
    command.current_dir(&deployment.files.dir);
    let output = command.output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

on_every_server!(explain_knows_the_mappings);
/// `explain` of what is served knows the mappings of the services' account, and says what the
/// server does.
async fn explain_knows_the_mappings(version: &'static str) {
    let mapped = "  APP {\n    mappings: {\n      \"ev.*\": \"ev.{{wildcard(1)}}.0\"\n      \"$KV.kept.>\": \"gone.>\"\n      \"half.a\": [ { \
                  destination: half.b, weight: 50% }, { destination: ev.half.0, weight: 50% } ]\n    }";
    let prepared = Prepared::new().with_server("  APP {", mapped);
    let deployment = prepared.start(version, MAPPED).await;
    let settings = deployment.files.settings();
    let text = std::fs::read_to_string(&settings).unwrap();
    let servers = text.lines().find(|line| line.starts_with("servers = ")).unwrap();
    super::deployment::edit(&settings, servers, &format!("servers = [{:?}]", deployment.url()));
    for (service, subject, said, delivered) in [
        ("source", "ev.7", "no: source may not publish to ev.7", false),
        ("both", "ev.7", "yes: both may publish to ev.7", true),
        ("both", "half.a", "yes: both may publish to half.a", true),
        ("half", "half.c", "yes: half may publish to half.c", true),
    ] {
        let asked = explain(&deployment, &[service, "--publish", subject]).await;
        assert!(asked.out.starts_with(said), "{asked:?}");
        assert_eq!((asked.code == 0, asked.err.as_str()), (delivered, ""), "{asked:?}");
        let mut raw = Raw::login(&deployment, &deployment.service(service)).await;
        assert_eq!(raw.publish(subject, b"x").await.is_ok(), delivered, "{service} {subject}");
    }
    // By weight, some of it is refused.
    let asked = explain(&deployment, &["half", "--publish", "half.a"]).await;
    assert!(asked.code == 1 && asked.out.starts_with("in part: half may"), "{asked:?}");
    let to = "`half.b`, `ev.half.0`: nats-server asks for leave to publish there, and only part is";
    assert!(
        asked.out.contains(&format!("  account APP maps `half.a` to {to} granted\n")),
        "{asked:?}"
    );
    let mut raw = Raw::login(&deployment, &deployment.service("half")).await;
    let mut refused = 0;
    for _ in 0..64 {
        refused += usize::from(raw.publish("half.a", b"x").await.is_err());
    }
    assert!((1..64).contains(&refused), "{refused} of 64");

    let source = explain(&deployment, &["source", "--format", "json"]).await.json();
    let expected = json!([{"from": "ev.*", "to": ["ev.{{wildcard(1)}}.0"], "reach": "none"}]);
    assert_eq!(source["mapped"], expected, "{source}");
    // A write that the server takes, and that reaches no bucket, is none.
    let asked = explain(&deployment, &["keeper", "--write", "kept"]).await;
    assert!(asked.code == 1 && asked.out.starts_with("no: keeper may not write kept"), "{asked:?}");
    let led = "account APP maps `$KV.kept.>` to `gone.>`";
    let elsewhere = format!("{led}: it goes there, and not to what is asked about\n");
    assert!(asked.out.contains(&elsewhere), "{asked:?}");
    let mut keeper = Raw::login(&deployment, &deployment.service("keeper")).await;
    keeper.subscribe("_INBOX.keeper.1").await.unwrap();
    assert_eq!(keeper.publish("$KV.kept.a", b"x").await, Ok(()));

    // Who can: what is led elsewhere, and what is led here.
    let asked = of_served(&deployment, "who-can", &["write", "kept"]).await;
    let listed = "\n  keeper, but its account maps that elsewhere\n";
    assert!(asked.code == 1 && asked.out.contains(listed), "{asked:?}");
    assert!(asked.out.contains(&elsewhere), "{asked:?}");
    let asked = of_served(&deployment, "who-can", &["publish", "gone.a"]).await;
    let here = format!("{led}: what these publish there arrives here\n");
    assert!(asked.code == 0 && asked.out.contains(&here), "{asked:?}");
    let asked = of_served(&deployment, "who-can", &["publish", "ev.7", "--format", "json"]).await;
    let services = asked.json()["services"].clone();
    let reach = |at: usize| (&services[at]["service"], &services[at]["reach"]);
    assert_eq!(
        [reach(0), reach(1)],
        [(&json!("both"), &json!("all")), (&json!("source"), &json!("none"))]
    );
    let asked = of_served(&deployment, "who-can", &["publish", "half.b", "--format", "json"]).await;
    let led = json!([{"account": "APP", "from": "half.a", "to": "half.b"}]);
    assert_eq!(asked.json()["leading_here"], led, "{asked:?}");

    // Without the system user, that nobody looked is said.
    let line = text.lines().find(|line| line.contains("keys/system.nk")).unwrap();
    super::deployment::edit(&settings, line, "");
    let blind = explain(&deployment, &["source", "--publish", "ev.7"]).await;
    assert!(
        blind.code == 0 && blind.err.contains("note: `mappings` of account APP were not"),
        "{blind:?}"
    );
    let subscribes = explain(&deployment, &["source", "--subscribe", "ev.7"]).await;
    assert_eq!(subscribes.err, "");
}

on_every_server!(servers_of_different_versions);
async fn servers_of_different_versions(version: &'static str) {
    // The line before or after, as in an upgrade: one of 2.10.25 and 2.15.1 does not always elect.
    let other = match version {
        "2.10.25" => "2.11.11",
        "2.11.11" => "2.12.8",
        "2.12.8" | "2.15.1" => "2.14.6",
        _ => "2.15.1",
    };
    let prepared = Prepared::new();
    let mut deployment = prepared.start_mixed_cluster([version, version, other], POLICY).await;
    deployment.add_instance(&[]).await;
    apply(&deployment).await;
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "warning", "version");
    for part in [format!("{other} on node-3"), format!("{version} on node-1, node-2")] {
        assert!(found.contains(&part), "{found}");
    }
    assert!(mend.contains("finish the upgrade"), "{mend}");
}

on_every_server!(a_clock_that_is_wrong);
/// Here it is the clock of the machine that looks which is wrong; it cannot tell whose is.
async fn a_clock_that_is_wrong(version: &'static str) {
    let deployment = start(Prepared::new(), version).await;
    let settings = deployment.files.settings();
    let text = std::fs::read_to_string(&settings).unwrap();
    let servers = text.lines().find(|line| line.starts_with("servers = ")).unwrap();
    let here = format!("servers = [{:?}]", deployment.url());
    super::deployment::edit(&settings, servers, &here);
    let tool = Tool::load(&settings, &Overrides::default()).unwrap();
    let wrong: Clock = || Timestamp::now() + SignedDuration::from_secs(65);
    let findings = Report::of(&look_at(&tool, None, wrong).await).findings;
    let clock = findings.iter().find(|f| f.check == "clock").unwrap();
    assert_eq!(clock.outcome, Outcome::Problem);
    assert!(clock.found.starts_with("the clock of test is 6"), "{clock:?}");
    assert!(clock.found.contains(" s behind the one here, more than"), "{clock:?}");
    assert!(clock.mend.as_ref().unwrap().contains("synchronise the clocks"));
    let findings = Report::of(&look_at(&tool, None, Timestamp::now).await).findings;
    assert!(findings.iter().all(|f| f.check != "clock" || f.outcome == Outcome::Ok));
}

on_every_server!(a_server_that_gives_no_nonce);
async fn a_server_that_gives_no_nonce(version: &'static str) {
    let mut prepared = Prepared::new();
    for (name, user) in [
        ("CALLOUT", "callout"),
        ("PUBLISHER", "publisher"),
        ("ADMIN", "admin"),
        ("AUDIT_ADMIN", "audit"),
        ("SYSTEM", "sys"),
    ] {
        let login = format!("user: {user}, password: \"a password\"");
        prepared = prepared
            .with_server(&format!("nkey: ${name}_KEY"), &login)
            .without_value(&format!("{name}_KEY"));
    }
    let deployment = prepared
        .with_server(
            "auth_users: [ $CALLOUT_KEY, $PUBLISHER_KEY, $ADMIN_KEY, $AUDIT_ADMIN_KEY, $SYSTEM_KEY ]",
            "auth_users: [ callout, publisher, admin, audit, sys ]",
        )
        .start_broker(version, POLICY)
        .await;
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "problem", "nonce");
    assert!(found.contains("nothing to sign"), "{found}");
    assert!(mend.contains("give the callout's user an nkey"), "{mend}");
}

on_every_server!(a_user_that_the_server_asks_about);
async fn a_user_that_the_server_asks_about(version: &'static str) {
    let prepared = Prepared::new().with_server("$PUBLISHER_KEY, $ADMIN_KEY,", "$ADMIN_KEY,");
    let deployment = start(prepared, version).await;
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "problem", "users");
    assert_eq!(
        found,
        "publisher: the server asks solewriter about it, and solewriter knows only services"
    );
    assert!(mend.contains("auth_callout.auth_users"), "{mend}");
}

on_every_server!(a_seed_that_others_can_read);
async fn a_seed_that_others_can_read(version: &'static str) {
    use std::os::unix::fs::PermissionsExt;
    let deployment = start(Prepared::new(), version).await;
    let file = deployment.files.seed_file("publisher");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "problem", "users");
    assert!(found.contains("is open to others (mode 0644)"), "{found}");
    assert!(mend.contains("only you can read"), "{mend}");
}

on_every_server!(a_callout_in_another_account);
async fn a_callout_in_another_account(version: &'static str) {
    let prepared = Prepared::new().with_server("account: AUTH\n", "account: SYS\n");
    let deployment = start(prepared, version).await;
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "problem", "callout");
    assert!(found.contains("without asking in AUTH"), "{found}");
    assert!(mend.contains("auth_callout { account: AUTH }"), "{mend}");
}

on_every_server!(another_issuer_than_ours);
async fn another_issuer_than_ours(version: &'static str) {
    let prepared = Prepared::new();
    let ours = std::fs::read_to_string(prepared.files.seed_file("issuer")).unwrap();
    let ours = Signer::new(&Seed::<Account>::parse(&ours).unwrap()).unwrap().public().to_string();
    let other = Signer::new(&Seed::<Account>::generate()).unwrap().public().to_string();
    let deployment = start(prepared.with_value("ISSUER_KEY", &other), version).await;
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "problem", "issuer");
    assert!(found.contains(&other) && found.contains(&ours), "{found}");
    assert!(mend.contains(&format!("set auth_callout.issuer: {ours}")), "{mend}");
    assert_eq!(said.with("not_seen"), ["answer"]);
}

on_every_server!(another_xkey_than_ours);
async fn another_xkey_than_ours(version: &'static str) {
    let other = CurveSecret::new(&Seed::<Curve>::generate()).unwrap().public().to_string();
    let prepared = Prepared::new().with_value("CALLOUT_XKEY", &other);
    let deployment = start(prepared, version).await;
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "problem", "xkey");
    assert!(found.contains("for another xkey; ours is"), "{found}");
    assert!(mend.contains("set auth_callout.xkey: X"), "{mend}");
    assert_eq!(said.with("not_seen"), ["issuer", "answer"]);
}

on_every_server!(requests_that_are_not_sealed);
async fn requests_that_are_not_sealed(version: &'static str) {
    let prepared =
        Prepared::new().with_server("    xkey: $CALLOUT_XKEY\n", "").without_value("CALLOUT_XKEY");
    let mut deployment = start(prepared, version).await;
    let (found, mend) = {
        let said = look(&deployment).await;
        let (found, mend) = said.only(version, "problem", "xkey");
        (found.to_owned(), mend.to_owned())
    };
    assert!(found.contains("does not seal its requests"), "{found}");
    assert!(mend.contains("set auth_callout.xkey: X"), "{mend}");
    // Where neither side has a key, it works, and could be better.
    super::deployment::edit(
        &deployment.files.settings(),
        "[xkey]\nseed = \"keys/callout.xk\"\n",
        "",
    );
    deployment.instances.clear();
    deployment.add_instance(&[]).await;
    let said = look(&deployment).await;
    said.only(version, "warning", "xkey");
}

on_every_server!(nobody_takes_requests);
async fn nobody_takes_requests(version: &'static str) {
    let deployment = Prepared::new().start_broker(version, POLICY).await;
    apply(&deployment).await;
    let said = look(&deployment).await;
    let (_, mend) = said.only(version, "problem", "instances");
    assert_eq!(mend, "start `solewriter serve`");
    assert_eq!(said.with("not_seen"), ["revisions", "handover", "answer"]);
}

on_every_server!(somebody_else_takes_requests);
async fn somebody_else_takes_requests(version: &'static str) {
    let deployment = start(Prepared::new(), version).await;
    let seed = deployment.seed("callout").expose().to_owned();
    let rogue = async_nats::ConnectOptions::with_nkey(seed).name("a rogue");
    let rogue = rogue.custom_inbox_prefix("_INBOX.solewriter");
    let rogue = rogue.connect(deployment.url()).await.unwrap();
    for (queue, place) in [(None, "no queue group"), (Some("another"), "another")] {
        let subject = "$SYS.REQ.USER.AUTH";
        let mut taking = match queue {
            None => rogue.subscribe(subject).await.unwrap(),
            Some(queue) => rogue.queue_subscribe(subject, queue.to_owned()).await.unwrap(),
        };
        // Everything is on one connection, so that the server has it once this came back.
        let fence = "_INBOX.solewriter.rogue";
        let mut fenced = rogue.subscribe(fence).await.unwrap();
        rogue.publish(fence, "".into()).await.unwrap();
        futures_util::StreamExt::next(&mut fenced).await.unwrap();
        let said = look(&deployment).await;
        let (found, mend) = said.only(version, "problem", "instances");
        assert!(found.contains(&format!("it is in {place}, not in solewriter")), "{found}");
        assert!(found.contains("\"a rogue\"") && mend.contains("queue_group"), "{found} {mend}");
        taking.unsubscribe().await.unwrap();
    }
}

on_every_server!(an_instance_that_does_not_answer);
async fn an_instance_that_does_not_answer(version: &'static str) {
    let deployment = start(Prepared::new(), version).await;
    deployment.instances[0].pause();
    let said = look(&deployment).await;
    deployment.instances[0].signal(Signal::CONT);
    let (found, mend) = said.only(version, "problem", "answer");
    assert!(found.contains("nobody answered before the server gave up"), "{found}");
    assert!(mend.contains("solewriter_rejected_requests_total"), "{mend}");
}

on_every_server!(instances_that_serve_different_policies);
async fn instances_that_serve_different_policies(version: &'static str) {
    let mut deployment = start(Prepared::new(), version).await;
    let other = deployment.dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("p.toml"), "[service.orders]\nnkeys = []\n").unwrap();
    deployment.add_instance(&["--policy-directory", &other.display().to_string()]).await;
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "warning", "revisions");
    assert!(found.starts_with("instances serve different revisions: "), "{found}");
    assert!(mend.contains("where each instance reads its policy"), "{mend}");
    // A change that an instance refuses: here the policy is a good one.
    std::fs::write(other.join("p.toml"), "nonsense").unwrap();
    deployment.instances[1].says("policy_refused").await;
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "problem", "revisions");
    assert!(found.contains("refuses the newest policy, and serves the one before"), "{found}");
    assert!(mend.contains("see its log"), "{mend}");
}

on_every_server!(a_policy_in_its_bucket);
async fn a_policy_in_its_bucket(version: &'static str) {
    let policy = format!("{POLICY}\n[bucket.orders]\n");
    let prepared = super::bucket::prepared().without_buckets();
    let mut deployment = prepared.start_broker(version, &policy).await;
    let said = look(&deployment).await;
    let problem = said.findings.iter().find(|f| f["check"] == "policy").unwrap();
    assert!(problem["mend"].as_str().unwrap().contains("solewriter policy push"), "{problem}");
    let (code, pushed) = super::bucket::push(&deployment, &policy, &[]).await;
    assert_eq!(code, 0, "{pushed}");
    // Without a directory, `buckets` reads the same.
    apply(&deployment).await;
    deployment.add_instance(&[]).await;
    let said = look(&deployment).await;
    said.only(version, "warning", "instances");
}

on_every_server!(a_timeout_that_is_too_short);
async fn a_timeout_that_is_too_short(version: &'static str) {
    let prepared = Prepared::new().with_server("timeout: 10\n", "timeout: 1.5\n");
    let deployment = start(prepared, version).await;
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "problem", "timeout");
    assert!(
        found.starts_with("servers wait 1.5 s for an answer, but [limits] patience is 10s"),
        "{found}"
    );
    assert!(mend.contains("timeout: 10"), "{mend}");
}

on_every_server!(a_server_that_lets_anybody_in);
async fn a_server_that_lets_anybody_in(version: &'static str) {
    let prepared = Prepared::new()
        .with_server("  APP {\n", "  APP {\n    users: [ { user: guest, password: guest } ]\n")
        .with_server("auth_users: [ $CALLOUT_KEY,", "auth_users: [ guest, $CALLOUT_KEY,")
        .with_server("system_account: SYS\n", "system_account: SYS\nno_auth_user: guest\n");
    let deployment = start(prepared, version).await;
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "problem", "anonymous");
    assert!(found.ends_with("lets in clients without credentials (account APP)"), "{found}");
    assert!(mend.contains("remove `no_auth_user`"), "{mend}");
}

on_every_server!(a_listener_that_lets_anybody_in);
async fn a_listener_that_lets_anybody_in(version: &'static str) {
    let listener = "system_account: SYS\n\
                    websocket { listen: \"127.0.0.1:-1\", no_tls: true, no_auth_user: guest }\n";
    let prepared = Prepared::new()
        .with_server("  APP {\n", "  APP {\n    users: [ { user: guest, password: guest } ]\n")
        .with_server("auth_users: [ $CALLOUT_KEY,", "auth_users: [ guest, $CALLOUT_KEY,")
        .with_server("system_account: SYS\n", listener);
    let deployment = start(prepared, version).await;
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "problem", "anonymous");
    assert_eq!(found, "test: `websocket` lets in clients without credentials, as \"guest\"");
    assert!(mend.contains("remove `no_auth_user` from `websocket`"), "{mend}");
}

on_every_server!(buckets_beside_the_services);
async fn buckets_beside_the_services(version: &'static str) {
    let prepared = Prepared::new().with_settings("account = \"APP\"\n", "account = \"STATE\"\n");
    let deployment = start(prepared, version).await;
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "problem", "isolation");
    assert!(found.starts_with("the buckets are in STATE, where services are placed"), "{found}");
    assert!(found.contains("a direct get of a value of its own"), "{found}");
    assert!(mend.contains("an account in which no service lives"), "{mend}");
}

on_every_server!(jetstream_beside_the_services);
async fn jetstream_beside_the_services(version: &'static str) {
    let prepared = Prepared::new().with_server("  APP {\n", "  APP {\n    jetstream: enabled\n");
    let deployment = start(prepared, version).await;
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "problem", "jetstream");
    assert!(found.starts_with("JetStream is enabled in APP"), "{found}");
    assert_eq!(mend, "remove `jetstream: enabled` from account APP");
}

on_every_server!(an_export_too_many);
async fn an_export_too_many(version: &'static str) {
    let export = "      { service: \"$KV.>\", response: stream, accounts: [ APP ] }\n";
    let more = format!("{export}      {{ service: \"more.>\" }}\n");
    let deployment = start(Prepared::new().with_server(export, &more), version).await;
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "problem", "exports");
    assert_eq!(found, "STATE exports the service `more.>` too, which no client needs");
    assert_eq!(mend, "remove it from the exports of account STATE");
}

on_every_server!(an_import_too_few);
async fn an_import_too_few(version: &'static str) {
    let import = "      { service: { account: STATE, subject: \"$JS.FC.>\" } }\n";
    let deployment = start(Prepared::new().with_server(import, ""), version).await;
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "problem", "imports");
    assert!(found.starts_with("APP does not import the service `$JS.FC.>` of STATE"), "{found}");
    assert!(mend.contains("{ service: { account: STATE, subject: \"$JS.FC.>\" } }"), "{mend}");
}

on_every_server!(an_account_that_reaches_the_buckets);
async fn an_account_that_reaches_the_buckets(version: &'static str) {
    let other = "  OTHER {\n    imports: [ { service: { account: STATE, subject: \"$KV.>\" } } ]\n  }\n  APP {\n";
    let export = "{ service: \"$KV.>\", response: stream, accounts: [ APP ] }";
    let prepared = Prepared::new()
        .with_server("  APP {\n", other)
        .with_server(export, "{ service: \"$KV.>\", response: stream }");
    let deployment = start(prepared, version).await;
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "problem", "imports");
    assert!(found.starts_with("OTHER imports `$KV.>` of STATE as `$KV.>`"), "{found}");
    assert_eq!(mend, "remove it from the imports of account OTHER");
}

on_every_server!(a_user_whom_no_policy_holds);
async fn a_user_whom_no_policy_holds(version: &'static str) {
    let prepared = Prepared::new()
        .with_server("  APP {\n", "  APP {\n    users: [ { user: guest, password: guest } ]\n")
        .with_server("auth_users: [ $CALLOUT_KEY,", "auth_users: [ guest, $CALLOUT_KEY,");
    let deployment = start(prepared, version).await;
    look(&deployment).await.only(version, "warning", "instances");
    let guest = async_nats::ConnectOptions::with_user_and_password("guest".into(), "guest".into());
    let guest = guest.name("a guest").connect(deployment.url()).await.unwrap();
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "problem", "logins");
    assert!(found.contains("in APP: \"guest\" (\"a guest\")"), "{found}");
    assert!(mend.contains("services get in through solewriter"), "{mend}");
    drop(guest);
}

on_every_server!(a_policy_that_does_not_hold);
async fn a_policy_that_does_not_hold(version: &'static str) {
    let deployment = start(Prepared::new(), version).await;
    deployment.write_policy("[service.orders]\nnkeys = []\nowns = [\"nowhere\"]\n");
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "problem", "policy");
    assert!(found.contains("does not hold: 1 error"), "{found}");
    assert!(mend.contains("solewriter check"), "{mend}");
}

on_every_server!(a_bucket_that_is_not_as_declared);
async fn a_bucket_that_is_not_as_declared(version: &'static str) {
    let deployment = start(Prepared::new(), version).await;
    let admin = deployment.admin().await;
    admin.delete_stream("KV_orders").await.unwrap();
    admin.delete_stream("KV_fulfilment").await.unwrap();
    create(
        &deployment,
        &json!({"name": "KV_fulfilment", "subjects": ["$KV.fulfilment.>"],
        "max_msgs_per_subject": 1, "discard": "new", "deny_delete": true, "allow_direct": true,
        "allow_rollup_hdrs": true, "duplicate_window": 100_000_000}),
    )
    .await;
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "problem", "buckets");
    assert_eq!(found, "fulfilment is not as declared: rollup\norders is not there");
    assert!(mend.contains("solewriter state apply"), "{mend}");
    apply(&deployment).await;
    assert!(!look(&deployment).await.with("problem").contains(&"buckets"));
}

on_every_server!(an_audit_stream_that_forgets);
async fn an_audit_stream_that_forgets(version: &'static str) {
    let deployment = start(Prepared::new(), version).await;
    let admin = deployment.audit_admin().await;
    let see = "see `solewriter state plan`, then `solewriter state apply`";
    let stream = |name: &str, subjects: &str, more: Value| {
        let mut config = json!({"name": name, "subjects": [subjects], "deny_delete": true,
            "deny_purge": true, "allow_direct": true, "max_msgs_per_subject": 5,
            "max_msg_size": 1024});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let (events, services) = ("audit.events.solewriter.*", "audit.services.*.*");
    let transform = json!({"src": services, "dest": "audit.services.{{wildcard(1)}}"});
    let kept = json!({"subject_transform": transform});
    for (name, wrong, expected) in [
        ("AUDIT_EVENTS", None, "there is no stream AUDIT_EVENTS"),
        ("AUDIT_SERVICES", None, "there is no stream AUDIT_SERVICES"),
        (
            "AUDIT_EVENTS",
            Some(stream("AUDIT_EVENTS", "audit.events.>", json!({"max_msgs_per_subject": -1}))),
            "AUDIT_EVENTS: subjects has a wrong value",
        ),
        (
            "AUDIT_EVENTS",
            Some(stream(
                "AUDIT_EVENTS",
                events,
                json!({"max_msgs_per_subject": -1,
                "deny_purge": false}),
            )),
            "AUDIT_EVENTS: deny_purge has a wrong value: events can be removed",
        ),
        (
            "AUDIT_SERVICES",
            Some(stream("AUDIT_SERVICES", services, json!({}))),
            "AUDIT_SERVICES: subject_transform has a wrong value: events of one service push \
             out, or keep out, those of others",
        ),
        (
            "AUDIT_SERVICES",
            Some(stream(
                "AUDIT_SERVICES",
                services,
                json!({"subject_transform": transform,
                "max_bytes": 1_000_000}),
            )),
            "AUDIT_SERVICES: max_bytes has a wrong value: events of one service push out, or \
             keep out, those of others",
        ),
    ] {
        admin.delete_stream(name).await.unwrap();
        if let Some(config) = &wrong {
            let subject = format!("$JS.API.STREAM.CREATE.{name}");
            let answer = admin.client().request(subject, config.to_string().into()).await.unwrap();
            let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
            assert!(answer["error"].is_null(), "{answer}");
        }
        let said = look(&deployment).await;
        let (found, mend) = said.only(version, "problem", "audit");
        assert!(found.starts_with(expected), "{found}");
        assert_eq!(mend, see);
        apply(&deployment).await;
        assert!(!look(&deployment).await.with("problem").contains(&"audit"), "{name}");
    }
    // Age, size and how many of each are the operator's.
    admin.delete_stream("AUDIT_SERVICES").await.unwrap();
    let own = stream("AUDIT_SERVICES", services, kept);
    let subject = "$JS.API.STREAM.CREATE.AUDIT_SERVICES";
    admin.client().request(subject, own.to_string().into()).await.unwrap();
    assert!(!look(&deployment).await.with("problem").contains(&"audit"));
    // Where the settings name none, it is a matter of taste.
    super::deployment::edit(
        &deployment.files.settings(),
        "[audit]\nstream = \"AUDIT_EVENTS\"\nspool = \"audit-spool\"\n",
        "",
    );
    look(&deployment).await.only(version, "warning", "audit");
}

on_every_server!(without_a_system_user_it_says_how_long_permissions_stay);
async fn without_a_system_user_it_says_how_long_permissions_stay(version: &'static str) {
    let prepared = Prepared::new().with_settings("[system]\nnkey_seed = \"keys/system.nk\"\n", "");
    let deployment = start(prepared, version).await;
    let said = look(&deployment).await;
    let (found, mend) = said.only(version, "warning", "connections");
    assert!(found.contains("up to 2h"), "{found}");
    assert!(mend.contains("set [system] nkey_seed here"), "{mend}");
    // What can be seen without one was seen all the same.
    for check in ["callout", "issuer", "xkey", "answer", "timeout", "isolation", "buckets"] {
        assert!(!said.with("not_seen").contains(&check), "{check}: {}", said.ran.out);
    }
}

on_every_server!(with_nothing_but_an_address_it_says_what_it_could_not_see);
async fn with_nothing_but_an_address_it_says_what_it_could_not_see(version: &'static str) {
    let deployment = start(Prepared::new(), version).await;
    std::fs::write(
        deployment.files.settings(),
        "[nats]\nservers = [\"nats://127.0.0.1:1\"]\n[policy]\ndirectory = \"policy\"\n",
    )
    .unwrap();
    let said = look(&deployment).await;
    let mut problems = said.with("problem");
    problems.retain(|problem| !is_of_the_server(problem, version));
    assert_eq!(problems, [""; 0], "{}", said.ran.out);
    for check in ["users", "callout", "issuer", "isolation", "buckets", "clock"] {
        assert!(said.with("not_seen").contains(&check), "{check}: {}", said.ran.out);
    }
    let settings: Vec<&str> = said.findings.iter().filter_map(|f| f["mend"].as_str()).collect();
    for setting in ["[nats] nkey_seed", "[system] nkey_seed", "[admin] nkey_seed"] {
        assert!(settings.iter().any(|mend| mend.contains(setting)), "{setting}: {settings:?}");
    }
}

on_every_server!(a_server_that_was_reloaded);
/// A server that reads its configuration again closes whatever a callout let in, also when nothing
/// changed in it. Of a file with another `auth_callout` it takes nothing.
async fn a_server_that_was_reloaded(version: &'static str) {
    let deployment = start(Prepared::new(), version).await;
    let orders = deployment.service("orders");
    let found = async || {
        let said = look(&deployment).await;
        let mut connections = said.findings.iter().filter(|f| f["check"] == "connections");
        let only = connections.next().unwrap();
        assert_eq!(only["outcome"], "ok", "{only}");
        only["found"].as_str().unwrap().to_owned()
    };
    assert!(!found().await.contains("reloaded"));
    let mut raw = Raw::try_login(deployment.url(), &orders.seed).await.unwrap();
    deployment.server.reload().unwrap();
    raw.closed().await;
    let reloaded = found().await;
    let line = "\ntest: reloaded its configuration at 20";
    assert!(reloaded.contains(line), "{reloaded}");
    assert!(reloaded.ends_with("closed all connections that solewriter had let in"), "{reloaded}");

    let mut raw = Raw::try_login(deployment.url(), &orders.seed).await.unwrap();
    let file = deployment.files.server_config();
    super::deployment::edit(&file, "auth_users: [ ", "auth_users: [ more, ");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\nmax_connections: 777\n")).unwrap();
    deployment.server.reload().unwrap();
    let refused =
        "Failed to reload server configuration: config reload not supported for AuthCallout";
    deployment.server.wait_for_log(refused, DEADLINE).await.unwrap();
    raw.fence().await.unwrap();
    let server = deployment.ask_system("SERVER.PING", &json!({})).await;
    let id = server["server"]["id"].as_str().unwrap();
    let server = deployment.ask_system(&format!("SERVER.{id}.VARZ"), &json!({})).await;
    assert_ne!(server["data"]["max_connections"], 777, "{server}");
    assert_eq!(found().await.split_once(line).unwrap().1, reloaded.split_once(line).unwrap().1);
}

/// Who gets in as which user of the server's configuration, past solewriter or not at all.
async fn gets_in(deployment: &Deployment, options: &Value) -> bool {
    Raw::dial(deployment.url()).await.enter(options).await.is_ok()
}

/// A server with users of its own: in the services' account, in the buckets' and in another.
/// `callout` is added to `auth_callout`, `top` to the end.
fn with_users(callout: &str, top: &str) -> Prepared {
    let user = |name: &str| format!("{{ user: {name}, password: {name} }}");
    Prepared::new()
        .with_server(
            "  APP {\n",
            &format!(
                "  OTHER {{ users: [ {} ] }}\n  APP {{\n    users: [ {} ]\n",
                user("other"),
                user("app")
            ),
        )
        .with_server(
            "users: [ { nkey: $ADMIN_KEY } ]",
            &format!("users: [ {{ nkey: $ADMIN_KEY }}, {} ]", user("state")),
        )
        .with_server("    account: AUTH\n", &format!("    account: AUTH\n{callout}\n"))
        .with_server("system_account: SYS\n", &format!("system_account: SYS\n{top}\n"))
}

on_every_server!(logins_beside_the_callout);
/// What the page about operations says of logins that stay beside the callout.
async fn logins_beside_the_callout(version: &'static str) {
    let shows = |name: &str| json!({"user": name, "pass": name});
    let nothing = json!({});
    // [other, app, state, who shows nothing]: who gets in without solewriter.
    let listed = ("auth_users: [ $CALLOUT_KEY,", "auth_users: [ state, $CALLOUT_KEY,");
    let cases = [
        ("", "", false, [false, false, false, false]),
        ("", "no_auth_user: state", false, [false, false, false, false]),
        ("", "", true, [false, false, true, false]),
        ("", "no_auth_user: state", true, [false, false, true, true]),
        ("allowed_accounts: [ APP ]", "", false, [true, false, true, false]),
        ("allowed_accounts: [ APP ]", "no_auth_user: state", false, [true, false, true, true]),
        ("allowed_accounts: [ APP, OTHER, STATE ]", "", false, [false, false, false, false]),
        ("allowed_accounts: [ OTHER ]", "", false, [false, true, true, false]),
    ];
    for (callout, top, in_list, expected) in cases {
        let case = format!("{callout:?} {top:?} {in_list}");
        let mut prepared = with_users(callout, top);
        if in_list {
            prepared = prepared.with_server(listed.0, listed.1);
        }
        if version == "2.10.25" && !callout.is_empty() {
            // It does not start with a word that it does not know.
            continue;
        }
        let deployment = start(prepared, version).await;
        let mut got_in = Vec::new();
        for options in [&shows("other"), &shows("app"), &shows("state"), &nothing] {
            got_in.push(gets_in(&deployment, options).await);
        }
        assert_eq!(got_in, expected, "{case}");
        // A wrong password lets nobody in.
        assert!(!gets_in(&deployment, &json!({"user": "state", "pass": "wrong"})).await, "{case}");
        // Services get in as ever, wherever solewriter places them.
        let orders = deployment.service("orders");
        let service = Raw::try_login(deployment.url(), &orders.seed).await;
        assert!(service.is_ok(), "{case}: {:?}", service.err());

        // doctor sees who is in, and that nothing need be shown.
        let mut state = Raw::dial(deployment.url()).await;
        let is_in = state.enter(&shows("state")).await.is_ok();
        let said = look(&deployment).await;
        assert_eq!(said.with("problem").contains(&"logins"), is_in, "{case}: {}", said.ran.out);
        assert_eq!(said.ran.out.contains("in STATE: "), is_in, "{case}: {}", said.ran.out);
        let anonymous = said.with("problem").contains(&"anonymous");
        assert_eq!(anonymous, expected[3], "{case}: {}", said.ran.out);
    }
}
