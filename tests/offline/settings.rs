//! Settings: what is accepted, what overrides what, and the whole message for each mistake.

use std::path::Path;
use std::process::{Command, Output};

use solewriter::config::{self, Overrides, Tool};
use solewriter::scaffold::{Deployment, Scaffold};
use solewriter_core::diagnostics::render::Style;
use tempfile::TempDir;

fn deployment() -> (TempDir, Deployment) {
    initialised(false)
}

/// What `init` writes, in operator mode or not.
pub fn initialised(operator: bool) -> (TempDir, Deployment) {
    written(|init| Scaffold { operator, ..init })
}

/// What `init` writes, where it listens by itself.
fn written(with: impl FnOnce(Scaffold) -> Scaffold) -> (TempDir, Deployment) {
    let dir = tempfile::tempdir().unwrap();
    let init = Scaffold {
        nats_listen: "127.0.0.1:4222".to_owned(),
        http_listen: ([127, 0, 0, 1], 9980).into(),
        ..Scaffold::on_any_port(dir.path().to_owned(), "n1")
    };
    let deployment = with(init).write().unwrap();
    (dir, deployment)
}

/// Runs `serve`; it must end by itself, because the settings are wrong.
fn serve(
    settings: &Path,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .arg("serve")
        .arg("--config")
        .arg(settings)
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8(stderr).unwrap();
    (status.code(), text.replace(&settings.parent().unwrap().display().to_string(), "DIR"))
}

fn replace(deployment: &Deployment, from: &str, to: &str) {
    let text = std::fs::read_to_string(deployment.settings()).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(deployment.settings(), text.replace(from, to)).unwrap();
}

#[test]
fn what_init_writes_is_accepted() {
    let (_dir, deployment) = deployment();
    let (settings, _) = config::load(&deployment.settings(), &config::Overrides::default())
        .unwrap_or_else(|problems| panic!("{}", problems.summary()));
    assert_eq!(&*settings.tenants[0].defaults.account, "APP");
    assert_eq!(settings.tenants[0].defaults.lifetime.as_secs(), 3600);
    assert!(settings.xkey.is_some() && settings.system.is_some());
    let folder = config::PolicySource::Directory(deployment.policy());
    assert_eq!(settings.tenants[0].policy.source, folder, "relative to the file's own folder");
    // A restart while a file is broken lives on what was good last.
    assert_eq!(
        settings.tenants[0].policy.keep,
        Some(deployment.settings().with_file_name("policy.kept"))
    );
}

#[test]
fn every_mistake_is_reported_with_its_place_and_its_mend() {
    let (_dir, deployment) = deployment();
    replace(&deployment, "lifetime = \"1h\"", "lifetime = \"1y\"\nacount = \"APP\"");
    replace(&deployment, "listen = \"127.0.0.1:9980\"", "listen = \"everywhere\"");
    replace(&deployment, "servers = [\"nats://127.0.0.1:4222\"]", "servers = \"nats://127.0.0.1\"");
    let (code, text) = serve(&deployment.settings(), &[], &[]);
    assert_eq!(code, Some(1));
    assert_eq!(
        text,
        r#"error[wrong-type]: `servers` must be an array of strings
 --> DIR/solewriter.toml:8:11
  |
8 | servers = "nats://127.0.0.1"
  |           ^^^^^^^^^^^^^^^^^^ expected an array of strings, found a string
  |
  = help: put it in brackets: ["..."]

error[bad-duration]: `lifetime` is not a duration: "1y"
  --> DIR/solewriter.toml:33:12
   |
33 | lifetime = "1y"
   |            ^^^^
   |
   = help: write a number and a unit (w, d, h, m, s or ms), such as "90s", "1h30m", "30d"

error[unknown-key]: unknown key `acount` in `[grants]`
  --> DIR/solewriter.toml:34:1
   |
34 | acount = "APP"
   | ^^^^^^
   |
   = help: did you mean `account`?

error[bad-address]: "everywhere" is not an address
  --> DIR/solewriter.toml:46:10
   |
46 | listen = "everywhere"
   |          ^^^^^^^^^^^^ expected IP:PORT, or "off"

4 errors
"#
    );
}

#[test]
fn what_is_missing_is_said_with_an_example() {
    let dir = tempfile::tempdir().unwrap();
    let settings = dir.path().join("s.toml");
    std::fs::write(&settings, "").unwrap();
    let (code, text) = serve(&settings, &[], &[]);
    assert_eq!(code, Some(1));
    for help in [
        "in DIR/s.toml: [nats] servers = [\"nats://127.0.0.1:4222\"]",
        "in DIR/s.toml: [nats] nkey_seed = \"keys/callout.nk\"",
        "in DIR/s.toml: [issuer] seed = \"keys/issuer.nk\"",
        "in DIR/s.toml: [policy] directory = \"policy\"",
        "4 errors",
    ] {
        assert!(text.contains(help), "{help}\nin\n{text}");
    }
}

/// The issuer's key is in one place, and where it is not here, it is named.
#[test]
fn an_issuer_that_a_signer_holds_is_named_and_is_nowhere_else() {
    let (_dir, deployment) = deployment();
    let run = |arguments: &[&str], environment: &[(&str, &str)]| {
        let (code, said) = serve(&deployment.settings(), arguments, environment);
        assert_eq!(code, Some(1), "{said}");
        said
    };
    let other = nkeys::KeyPair::new_account().public_key();
    let said = run(&["--issuer-signer", "s.sock"], &[]);
    assert!(said.contains("`seed` and `signer` in [issuer] exclude each other"), "{said}");
    assert!(said.contains("`key` in [issuer] is not set"), "{said}");
    let said = run(&["--issuer-key", "U"], &[]);
    assert!(said.contains("this is not an account's public key"), "{said}");
    replace(&deployment, "seed = \"keys/issuer.nk\"\n", "");
    let said = run(&["--issuer-signer", "s.sock", "--issuer-key", "SA"], &[]);
    assert!(said.contains("this is not an account's public key"), "{said}");
    // A seed that the platform hands over as well must not be on this host.
    let seed = std::fs::read_to_string(deployment.seed_file("issuer")).unwrap();
    let handed_over = [("SOLEWRITER_ISSUER_SEED_VALUE", seed.trim())];
    let said = run(&["--issuer-signer", "s.sock", "--issuer-key", &other], &handed_over);
    assert!(
        said.contains("the seed of [issuer] is handed over, and there is `signer` as well"),
        "{said}"
    );
    assert!(!said.contains(seed.trim()), "{said}");
    // With a seed, `key` is what it has to belong to.
    let own = nkeys::KeyPair::from_seed(seed.trim()).unwrap().public_key();
    let said = run(&["--issuer-key", &other], &handed_over);
    assert!(
        said.contains(&format!("the seed belongs to {own}, and not to the key named")),
        "{said}"
    );
}

#[test]
fn flags_override_the_environment_and_both_the_file() {
    let (_dir, deployment) = deployment();
    replace(&deployment, "lifetime = \"1h\"", "lifetime = \"none\"");
    let settings = deployment.settings();
    let variable = ("SOLEWRITER_GRANTS_LIFETIME", "nothing");
    // The file's own mistake is reported as long as it is there, overridden or not.
    let (_, text) = serve(&settings, &[], &[variable]);
    assert!(text.contains("DIR/solewriter.toml:33:12"), "{text}");
    assert!(text.contains("--> --grants-lifetime or SOLEWRITER_GRANTS_LIFETIME:2:12"), "{text}");
    assert!(text.contains("lifetime = \"nothing\""), "{text}");
    let (_, text) = serve(&settings, &["--grants-lifetime", "never"], &[variable]);
    assert!(text.contains("lifetime = \"never\"") && !text.contains("\"nothing\""), "{text}");
}

/// What services are granted begins with it: nothing but an API of JetStream's will do.
#[test]
fn the_way_to_the_audit_streams_is_an_api_and_nothing_else() {
    let (_dir, deployment) = deployment();
    let load = |more: &str| {
        let good = "stream = \"AUDIT_EVENTS\"\n";
        let text = std::fs::read_to_string(deployment.settings()).unwrap();
        let file = deployment.dir.join("changed.toml");
        std::fs::write(&file, text.replace(good, &format!("{good}{more}\n"))).unwrap();
        let loaded = config::load(&file, &config::Overrides::default());
        let problems = |problems: solewriter_core::diagnostics::Problems| {
            problems.render(solewriter_core::diagnostics::render::Style::Plain)
        };
        loaded.map(|(settings, _)| settings.tenants[0].defaults.audit.clone()).map_err(problems)
    };
    let audit = load("services = \"MORE\"\napi = \"$JS.LOGS.API\"").unwrap();
    let streams = (audit.events(), audit.services(), audit.api());
    assert_eq!(streams, ("AUDIT_EVENTS", "MORE", "$JS.LOGS.API"));
    assert!(load("api = \"$JS.API\"").unwrap().are_beside_buckets());
    for api in ["$JS.>", "$JS.*.API", "$JS.API.STREAM", "$KV.orders", "$JS.ACK.API", ""] {
        let error = load(&format!("api = \"{api}\"")).unwrap_err();
        let said = format!("{api:?} is no prefix of JetStream's API");
        assert!(
            error.contains(&said) && error.contains("expected \"$JS.<ACCOUNT>.API\""),
            "{error}"
        );
    }
    let error = load("services = \"AUDIT_EVENTS\"").unwrap_err();
    assert!(error.contains("services' events go into a stream of their own"), "{error}");
    let error = load("services = \"KV_orders\"").unwrap_err();
    assert!(error.contains("\"KV_orders\" is not a stream"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_seed_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, deployment) = deployment();
    let issuer = deployment.seed_file("issuer");
    for (mode, refused) in [(0o644, true), (0o604, true), (0o620, true), (0o640, false)] {
        std::fs::set_permissions(&issuer, std::fs::Permissions::from_mode(mode)).unwrap();
        let loaded = config::load(&deployment.settings(), &config::Overrides::default());
        assert_eq!(loaded.is_err(), refused, "{mode:o}");
    }
    std::fs::set_permissions(&issuer, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, text) = serve(&deployment.settings(), &[], &[]);
    assert_eq!(code, Some(1));
    assert!(text.contains("DIR/keys/issuer.nk is open to others (mode 0644)"), "{text}");
    assert!(text.contains("help: chmod 600 DIR/keys/issuer.nk"), "{text}");
}

#[test]
fn a_seed_is_never_printed_wherever_it_was_put() {
    let (_dir, deployment) = deployment();
    let seed = std::fs::read_to_string(deployment.seed_file("callout")).unwrap();
    let seed = seed.trim();
    let good = std::fs::read_to_string(deployment.settings()).unwrap();
    for (from, to) in [
        ("\"keys/callout.nk\"", format!("\"{seed}\"")),
        // A slip in TOML on the same line.
        ("\"keys/callout.nk\"", seed.to_owned()),
        ("\"nats://127.0.0.1:4222\"", format!("\"nats://{seed}@127.0.0.1\"")),
        ("account = \"APP\"", format!("account = \"{seed}!\"")),
        ("account = \"APP\"", format!("{seed} = 1")),
    ] {
        std::fs::write(deployment.settings(), good.replace(from, &to)).unwrap();
        let (code, text) = serve(&deployment.settings(), &[], &[]);
        assert_eq!(code, Some(1), "{text}");
        assert!(!text.contains(&seed[4..20]), "{text}");
    }
    // In a seed file of the wrong kind, and in the environment.
    std::fs::write(deployment.settings(), &good).unwrap();
    std::fs::copy(deployment.seed_file("callout"), deployment.seed_file("issuer")).unwrap();
    let (_, text) = serve(&deployment.settings(), &[], &[]);
    assert!(text.contains("an account key begins with") && !text.contains(&seed[4..20]), "{text}");
    let (_, text) = serve(&deployment.settings(), &[], &[("SOLEWRITER_ISSUER_SEED_VALUE", seed)]);
    assert!(
        text.contains("SOLEWRITER_ISSUER_SEED_VALUE") && !text.contains(&seed[4..20]),
        "{text}"
    );
}

#[test]
fn serve_does_not_start_on_a_policy_that_does_not_load() {
    let (_dir, deployment) = deployment();
    let policy = deployment.policy().join("services.toml");
    let good = std::fs::read_to_string(&policy).unwrap();
    std::fs::write(&policy, good.replace("owns = [\"orders\"]", "ows = [\"orders\"]")).unwrap();
    let (code, text) = serve(&deployment.settings(), &[], &[]);
    assert_eq!(code, Some(1));
    assert!(text.contains("unknown key `ows`"), "{text}");
    assert!(text.contains("services.toml:"), "{text}");
    assert!(text.contains("did you mean `owns`?"), "{text}");
}

/// `--help` leaves them to `solewriter settings`.
#[test]
fn the_manual_page_of_serve_has_every_setting() {
    let dir = tempfile::tempdir().unwrap();
    let man = Command::new(env!("CARGO_BIN_EXE_solewriter")).arg("man").arg(dir.path()).status();
    assert!(man.unwrap().success());
    let page = std::fs::read_to_string(dir.path().join("solewriter-serve.1")).unwrap();
    // As it is read: without what groff needs.
    let page =
        page.replace(r"\*(Aq", "'").replace(r"\fB", "").replace(r"\fR", "").replace(r"\fI", "");
    let page = page.replace('\\', "");
    for setting in config::SETTINGS {
        let line = format!("\n--{} <", setting.flag());
        let (_, rest) = page.split_once(&line).unwrap_or_else(|| panic!("{line}\n{page}"));
        let (entry, _) = rest.split_once("\n.TP").unwrap_or((rest, ""));
        assert!(entry.contains(&setting.meaning()), "{line}\n{entry}");
    }
}

/// What a default is called in the table is what is used.
#[test]
fn what_nobody_sets_is_as_documented() {
    let (_dir, deployment) = deployment();
    let least = deployment.dir.join("least.toml");
    let load = |policy: &str| {
        let text = format!(
            "[nats]\nservers = [\"nats://127.0.0.1:4222\"]\nnkey_seed = \"keys/callout.nk\"\n\
             [issuer]\nseed = \"keys/issuer.nk\"\n[policy]\n{policy}\n"
        );
        std::fs::write(&least, text).unwrap();
        config::load(&least, &config::Overrides::default())
            .unwrap_or_else(|problems| panic!("{problems:?}"))
            .0
    };
    let settings = load("directory = \"policy\"");
    assert_eq!(settings.tenants[0].policy.poll.as_secs(), 10);
    assert_eq!(load("bucket = \"policies\"").tenants[0].policy.poll.as_secs(), 2);
    assert!((settings.tenants[0].jitter - 0.1).abs() < 1e-9);
    assert_eq!(settings.limits.pending, 16_384);
    assert_eq!((settings.limits.per_key, settings.limits.per_host), (None, None));
    assert_eq!(settings.listen, Some(([127, 0, 0, 1], 9980).into()));
    assert_eq!((&*settings.nats.queue_group, &*settings.nats.name), ("solewriter", "solewriter"));
    assert!((2..=8).contains(&settings.nats.connections));
    assert_eq!(settings.tenants[0].sessions.close_per_second, 100);
    assert!(settings.tenants[0].audit.is_none(), "a default in [audit] does not switch it on");
    assert!(settings.tenants[0].accounts.is_empty() && !settings.nats.tls.required);
}

#[test]
fn a_tls_file_that_is_no_use_is_named_with_its_place() {
    let (_dir, deployment) = deployment();
    let good = std::fs::read_to_string(deployment.settings()).unwrap();
    let seed = std::fs::read_to_string(deployment.seed_file("callout")).unwrap();
    std::fs::write(deployment.dir.join("odd.pem"), format!("{seed}\n")).unwrap();
    let tls = "[nats.tls]\nca = \"ca.pem\"\ncert = \"odd.pem\"\nkey = \"odd.pem\"\n";
    std::fs::write(deployment.settings(), format!("{good}{tls}")).unwrap();
    let line = good.lines().count() + 2;
    let (code, text) = serve(&deployment.settings(), &[], &[]);
    assert_eq!(code, Some(1));
    let pad = " ".repeat(line.to_string().len());
    let expected = format!(
        "error[unreadable]: DIR/ca.pem cannot be read: No such file or directory (os error 2)\n\
         {pad}--> DIR/solewriter.toml:{line}:6\n\
         {pad} |\n\
         {line} | ca = \"ca.pem\"\n\
         {pad} |      ^^^^^^^^ expected a PEM file with certificates\n\
         {pad} |\n\
         {pad} = help: correct the path, or let solewriter's user read the file; in the settings \
         file, a path is relative to that file's folder\n\n"
    );
    assert!(text.contains(&expected), "{expected}\n{text}");
    assert!(text.contains("error[bad-pem]: DIR/odd.pem does not hold certificates"), "{text}");
    assert!(text.contains("error[bad-pem]: DIR/odd.pem does not hold a private key"), "{text}");
    assert!(!text.contains(&seed[4..20]) && text.ends_with("3 errors\n"), "{text}");
    // Every tool that reads settings says so, and none asks a server first.
    for command in [
        ["doctor", "--config"].as_slice(),
        &["sessions", "--config"],
        &["buckets", "plan", "--config"],
        &["policy", "status", "--config"],
        &["audit", "stats", "--config"],
        &["prove", "--config"],
        &["explain", "orders", "--config"],
    ] {
        let Output { status, stderr, .. } = Command::new(env!("CARGO_BIN_EXE_solewriter"))
            .args(command)
            .arg(deployment.settings())
            .output()
            .unwrap();
        let text = String::from_utf8(stderr).unwrap();
        assert_ne!(status.code(), Some(0), "{command:?}");
        let said = format!("solewriter.toml:{line}:6");
        assert!(
            text.contains("ca.pem cannot be read") && text.contains(&said),
            "{command:?} {text}"
        );
    }
}

/// Whatever a setting leads to: what is there is not shown, and not read without end.
#[test]
fn a_seed_is_no_device_and_nothing_of_the_kernel_s() {
    let (_dir, deployment) = deployment();
    let before = std::fs::read_to_string(deployment.settings()).unwrap();
    for file in ["/dev/null", "/dev/zero", "/proc/self/environ", "/proc/self/maps", "/", "/proc"] {
        let text = before.replace("keys/callout.nk", file);
        std::fs::write(deployment.settings(), text).unwrap();
        let (code, said) = serve(&deployment.settings(), &[], &[("SOMETHING", "hidden-word")]);
        assert_eq!(code, Some(1), "{file}: {said}");
        assert!(said.contains(file) && said.len() < 2000, "{file}: {said}");
        assert!(!said.contains("hidden-word") && !said.contains("solewriter-"), "{file}: {said}");
    }
}

/// The tools read seeds from wherever somebody points: never without end, and never one that others
/// can read.
#[cfg(unix)]
#[test]
fn the_tools_read_a_seed_file_as_serve_does() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, deployment) = deployment();
    let run = |arguments: &[&str]| {
        let Output { status, stderr, .. } = Command::new(env!("CARGO_BIN_EXE_solewriter"))
            .args(arguments)
            .current_dir(dir.path())
            .output()
            .unwrap();
        (status.code(), String::from_utf8(stderr).unwrap())
    };
    let large = dir.path().join("large.nk");
    std::fs::write(&large, "S".repeat(1024 * 1024 + 1)).unwrap();
    let open = dir.path().join("open.nk");
    std::fs::copy(deployment.seed_file("callout"), &open).unwrap();
    std::fs::set_permissions(&large, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let large_said = "large.nk cannot be read: it is larger than 1048576 bytes";
    let open_said = "open.nk is open to others (mode 0644)";
    for (file, said) in [("large.nk", large_said), ("open.nk", open_said)] {
        let (code, text) = run(&["audit", "stats", "--nkey-seed", file]);
        assert!(code == Some(2) && text.contains(said), "{text}");
        assert!(text.contains(" --> --nkey-seed:1:1\n"), "{text}");
        // A prober's key.
        let prepared = dir.path().join("prepared");
        std::fs::create_dir_all(&prepared).unwrap();
        let key = prepared.join("a.nk");
        let _ = std::fs::remove_file(&key);
        std::fs::copy(dir.path().join(file), &key).unwrap();
        let settings = deployment.settings().display().to_string();
        let arguments = ["prove", "--yes", "-c", &settings, "--prepared", "prepared"];
        let (code, text) = run(&arguments);
        let said = said.replace(file, "prepared/a.nk");
        assert!(code == Some(2) && text.contains(&said), "{text}");
        assert!(text.contains(" --> --prepared:1:1\n"), "{text}");
    }
    let (code, text) = run(&["key", "public", "large.nk"]);
    assert_ne!(code, Some(0));
    assert!(text.contains("it is larger than 1048576 bytes"), "{text}");
    // One option with one default, as every tool that reads settings has it.
    let (code, text) = run(&["prove", "--config", "nowhere.toml"]);
    assert!(code == Some(2) && text.contains("nowhere.toml cannot be read"), "{text}");
}

/// A push into a bucket that these settings do not serve would change nothing, and nobody would
/// know why.
#[test]
fn a_push_beside_settings_that_serve_a_directory_is_warned_of() {
    let (dir, deployment) = deployment();
    // Nobody listens there: the warning comes first of all.
    replace(&deployment, "nats://127.0.0.1:4222", "nats://127.0.0.1:1");
    let run = |arguments: &[&str]| {
        let Output { stderr, .. } = Command::new(env!("CARGO_BIN_EXE_solewriter"))
            .arg("policy")
            .args(arguments)
            .arg("--config")
            .arg(deployment.settings())
            .output()
            .unwrap();
        let text = String::from_utf8(stderr).unwrap();
        text.replace(&dir.path().display().to_string(), "DIR")
    };
    let folder = deployment.policy().display().to_string();
    let warning = "warning: DIR/solewriter.toml serves the directory DIR/policy, not the policy \
                   bucket solewriter_policy: what is pushed is in force only where `[policy] \
                   bucket` stands instead of `directory`\n";
    for arguments in [&["push", &folder, "-m", "why", "--yes"][..], &["rollback", "1", "--yes"]] {
        let text = run(arguments);
        assert!(text.starts_with(warning), "{text}");
    }
    let text =
        run(&["push", &folder, "-m", "why", "--yes", "--policy-bucket", "solewriter_policy"]);
    assert!(!text.contains("warning: DIR/solewriter.toml serves"), "{text}");
    assert!(!run(&["log"]).contains("warning"), "it only reads");
}

/// Each wrong value of `[traces]`, with its place; and nothing of what may be secret.
#[test]
fn a_receiver_of_traces_is_named_without_secrets() {
    let (dir, deployment) = deployment();
    let headers = dir.path().join("headers");
    let text = std::fs::read_to_string(deployment.settings()).unwrap();
    for (table, header, said) in [
        ("one_in = 5", "", "`endpoint` in [traces] is not set"),
        (
            "endpoint = \"http://u:SECRET@h/v1/traces\"",
            "",
            "`endpoint` in [traces] holds a user or a query",
        ),
        ("endpoint = \"http://h/v1/traces?key=SECRET\"", "", "holds a user or a query"),
        ("endpoint = \"ftp://h/v1/traces\"", "", "expected http:// or https://, and a host"),
        ("endpoint = \"h:4318\"", "", "expected http:// or https://, and a host"),
        ("endpoint = \"http://h:4318\"", "", "receivers of OTLP have /v1/traces"),
        ("endpoint = \"http://h/v1/traces\"\none_in = 0", "", "1 to 1000000"),
        (
            "endpoint = \"http://h/v1/traces\"\nheaders = \"headers\"",
            "# one\nAuthorization Bearer SECRET\n",
            "DIR/headers:2: no header",
        ),
        (
            "endpoint = \"http://h/v1/traces\"\nheaders = \"headers\"",
            "authorization: SECRET\u{7}\n",
            "DIR/headers:1: no header",
        ),
        ("endpoint = \"http://h/v1/traces\"\nca = \"headers\"", "x", "does not hold certificates"),
    ] {
        std::fs::write(&headers, header).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&headers, mode).unwrap();
        std::fs::write(deployment.settings(), format!("{text}\n[traces]\n{table}\n")).unwrap();
        let (code, told) = serve(&deployment.settings(), &[], &[]);
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains(said), "{said}:\n{told}");
        assert!(!told.contains("SECRET"), "{told}");
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&headers, mode).unwrap();
    let traced = "[traces]\nendpoint = \"http://h/v1/traces\"\nheaders = \"headers\"\n";
    std::fs::write(deployment.settings(), format!("{text}\n{traced}")).unwrap();
    let (_, told) = serve(&deployment.settings(), &[], &[]);
    assert!(told.contains("DIR/headers is open to others"), "{told}");
}

/// A deployment with two tenants, as `init` writes it.
fn tenants() -> (TempDir, Deployment) {
    let tenants = ["shop", "north-bank"].map(str::to_owned).to_vec();
    written(|init| Scaffold { tenants, ..init })
}

#[test]
fn a_tenant_has_its_own_and_what_holds_for_all() {
    let (_dir, deployment) = tenants();
    let file = deployment.settings();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n[sessions]\nevery = \"7s\"\n")).unwrap();
    let (settings, _) = config::load(&file, &Overrides::default()).unwrap();
    let names: Vec<_> = settings.tenants.iter().map(|tenant| tenant.name.as_deref()).collect();
    assert_eq!(names, [Some("shop"), Some("north-bank")]);
    for tenant in &settings.tenants {
        assert_eq!(tenant.sessions.every.as_secs(), 7, "said for all");
        assert_eq!(tenant.quota.services, Some(1000));
        assert_eq!(tenant.nats.servers, settings.nats.servers);
        assert_ne!(tenant.nats.login.key(), settings.nats.login.key());
    }
    assert_eq!(&*settings.tenants[1].defaults.account, "APP_NORTH_BANK");
    // A tool takes a tenant's file.
    let tool = Tool::load(&deployment.settings_of("north-bank"), &Overrides::default()).unwrap();
    assert_eq!(tool.tenant.as_deref(), Some("north-bank"));
    assert_eq!(tool.answering().unwrap().key(), settings.nats.login.key());
    assert_eq!(tool.callout().unwrap().key(), settings.tenants[1].nats.login.key());
    assert!(tool.admin().is_ok() && tool.system().is_ok() && tool.issuer().is_ok());
}

#[test]
fn what_tenants_must_not_share_is_said() {
    for (file, from, to, code, said) in [
        ("shop", "APP_SHOP", "APP_NORTH_BANK", "one-account", "shop and north-bank"),
        ("shop", "keys/shop-callout", "keys/north-bank-callout", "one-user", "log in as one user"),
        ("shop", "keys/shop-callout", "keys/callout", "one-user", "as the callout's user"),
        ("shop", "policy/shop", "policy/north-bank", "one-place", "[policy] directory"),
        ("shop", "shop.kept", "north-bank.kept", "one-place", "[policy] keep"),
        ("shop", "audit-spool-shop", "audit-spool-north-bank", "one-place", "[audit] spool"),
        ("shop", "[grants]", "[issuer]\nseed = \"x\"\n[grants]", "not-of-a-tenant", "[issuer]"),
        ("shop", "[nats]", "[nats]\nservers = [\"nats://x:1\"]", "not-of-a-tenant", "servers"),
        ("shop", "account = \"APP_SHOP\"", "", "missing-setting", "`account` in [grants]"),
        ("shop", "of = \"../solewriter.toml\"", "", "missing-setting", "`of` in [tenant]"),
        ("", "[tenants]", "[policy]\ndirectory = \"p\"\n[tenants]", "of-a-tenant", "[policy]"),
        (
            "",
            "[tenants]",
            "[grants]\naccount = \"X\"\n[tenants]",
            "of-a-tenant",
            "[grants] account",
        ),
        ("", "\"tenants/shop.toml\", \"tenants/north-bank.toml\"", "", "no-tenants", "is empty"),
        ("", "tenants/shop.toml", "tenants/Shop.toml", "bad-name", "gives a tenant no name"),
        ("", "tenants/shop.toml", "./tenants/north-bank.toml", "two-tenants", "north-bank"),
        ("", "tenants/shop.toml", "tenants/shops.toml", "no-settings", "shops.toml"),
    ] {
        let (_dir, deployment) = tenants();
        let path = match file {
            "" => deployment.settings(),
            tenant => deployment.settings_of(tenant),
        };
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let problems = config::load(&deployment.settings(), &Overrides::default()).unwrap_err();
        let found = problems.iter().find(|problem| problem.code == code);
        let found =
            found.unwrap_or_else(|| panic!("{code} for {to}: {}", problems.render(Style::Plain)));
        assert!(found.message.contains(said), "{to}: {}", found.message);
        assert!(found.help.is_some(), "{code} says what to do");
    }
}

#[test]
fn each_command_is_told_which_settings_it_takes() {
    let (_dir, deployment) = tenants();
    let shop = deployment.settings_of("shop");
    let serve = config::load(&shop, &Overrides::default()).unwrap_err();
    assert!(serve.iter().any(|p| p.code == "a-tenant"), "{}", serve.render(Style::Plain));
    let tool = Tool::load(&deployment.settings(), &Overrides::default()).err().unwrap();
    let said = tool.render(Style::Plain);
    assert!(said.contains("several-tenants") && said.contains("shop.toml"), "{said}");
    // A file that nobody lists is nobody's.
    let stray = shop.with_file_name("stray.toml");
    std::fs::copy(&shop, &stray).unwrap();
    let stray = Tool::load(&stray, &Overrides::default()).err().unwrap();
    assert!(stray.iter().any(|p| p.code == "not-listed"), "{}", stray.render(Style::Plain));
}
