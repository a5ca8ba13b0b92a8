//! What `deploy/` has for platforms, as far as it needs no server: alerts and their pages, the metrics
//! that are asked for, the units, the packages' files.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;
use solewriter::sessions::{self, consumers};

use super::repository;

fn read(file: &str) -> String {
    std::fs::read_to_string(repository().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// What stands behind that at the beginning of a line.
fn behind<'a>(text: &'a str, start: &str) -> BTreeSet<&'a str> {
    text.lines().filter_map(|line| line.trim_start().strip_prefix(start)).collect()
}

/// Each alert has its section, its link leads there, and its test fires it; no section is left over.
#[test]
fn each_alert_has_its_section_in_the_runbook() {
    let (rules, runbook) = (read("deploy/prometheus/alerts.yaml"), read("docs/runbook.md"));
    let alerts = behind(&rules, "- alert: ");
    assert!(alerts.len() > 15, "{alerts:?}");
    assert_eq!(behind(&runbook, "## "), alerts);
    let links: BTreeSet<String> =
        alerts.iter().map(|alert| format!("docs/runbook.md#{}", alert.to_lowercase())).collect();
    assert_eq!(behind(&rules, "runbook: "), links.iter().map(String::as_str).collect());
    assert_eq!(behind(&read("deploy/prometheus/alerts.test.yaml"), "alertname: "), alerts);
    for section in runbook.split("\n## ").skip(1) {
        for part in ["**What it means.** ", "**What to do first.** ", "**It is over when** "] {
            assert_eq!(section.matches(part).count(), 1, "{part}: {section}");
        }
        // What fires is said, too.
        let (alert, _) = section.split_once('\n').unwrap();
        let (_, rule) = rules.split_once(&format!("alert: {alert}\n")).unwrap();
        let expression = rule.lines().next().unwrap().trim().trim_start_matches("expr: ");
        assert!(section.contains(&format!("`{}`", expression.trim_matches('\''))), "{expression}");
    }
}

/// What alerts, their page and the dashboard ask for is what the service has, from the start: a name
/// that is misspelt would never fire.
#[test]
fn what_is_asked_for_is_there_from_the_start() {
    let metrics = solewriter::telemetry::Metrics::new();
    // As `serve` does when it starts.
    metrics.consumers().causes(consumers::verdict::Cause::ALL.iter().map(|cause| cause.code()));
    metrics.sessions().causes(sessions::verdict::Cause::CODES);
    let text = metrics.encode();
    let samples: BTreeSet<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split([' ', '{']).next())
        .collect();
    for counter in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let Some(name) = counter.strip_suffix(" counter") else { continue };
        let at_zero = |line: &str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with("_total"))
                && line.ends_with(" 0")
        };
        assert!(text.lines().any(at_zero), "{name} is not there from the start");
    }
    let mut asked = 0;
    for file in
        ["deploy/prometheus/alerts.yaml", "deploy/grafana/dashboard.json", "docs/runbook.md"]
    {
        for part in read(file).split("solewriter_").skip(1) {
            let end = part.find(|c: char| !(c.is_ascii_lowercase() || c == '_')).unwrap();
            let name = format!("solewriter_{}", &part[..end]);
            assert!(samples.contains(name.as_str()), "{file} asks for {name}");
            asked += 1;
        }
    }
    assert!(asked > 80, "{asked}");
    for series in [
        "solewriter_authorisations_total{outcome=\"granted\",reason=\"granted\"} 0",
        "solewriter_authorisations_total{outcome=\"denied\",reason=\"internal\"} 0",
        "solewriter_rejected_requests_total{reason=\"other_issuer\"} 0",
        "solewriter_dropped_requests_total{reason=\"overloaded\"} 0",
        "solewriter_policy_loads_total{outcome=\"refused\"} 0",
        "solewriter_audit_lost_total{reason=\"id_taken\"} 0",
        "solewriter_session_sweeps_total{outcome=\"incomplete\"} 0",
        "solewriter_consumer_sweeps_total{outcome=\"complete\"} 0",
        "solewriter_spans_sent_total 0",
        "solewriter_spans_dropped_total{reason=\"queue_full\"} 0",
    ] {
        assert!(text.lines().any(|line| line == series), "{series} is not in\n{text}");
    }
}

/// The names, by Prometheus' own tool: in the format that it reads, which is what a client gets that
/// takes no OpenMetrics.
#[test]
fn the_metrics_names_follow_prometheus_advice() {
    let text = solewriter::telemetry::Metrics::new().encode_plain();
    assert!(text.contains("# TYPE solewriter_audit_events_total counter\n"), "{text}");
    assert!(text.contains("# TYPE solewriter_build_info gauge\n"), "{text}");
    let spawned = Command::new("promtool")
        .args(["check", "metrics", "--extended"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = spawned else {
        println!("skipped: no name was looked at, because there is no promtool here");
        return;
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
    // It counts the series: there are not so many that they would be a burden.
    let table = String::from_utf8(said.stdout).unwrap();
    assert!(table.contains("solewriter_authorisations_total"), "{table}");
}

/// The units hold what the page promises, by systemd's own tool.
#[test]
fn the_units_are_hardened() {
    let page = read("docs/install.md");
    let scratch = tempfile::tempdir().unwrap();
    for unit in ["solewriter.service", "solewriter-signer.service", "solewriter-violations.service"]
    {
        // Where the program is installed there may be none here.
        let text = read(&format!("deploy/systemd/{unit}"));
        assert!(text.contains("ExecStart=/usr/bin/solewriter "), "{text}");
        let text = text.replace("/usr/bin/solewriter", env!("CARGO_BIN_EXE_solewriter"));
        let file = scratch.path().join(unit);
        std::fs::write(&file, text).unwrap();
        let analyze = |arguments: &[&str]| {
            Command::new("systemd-analyze").args(arguments).arg(&file).output()
        };
        let Ok(verified) = analyze(&["verify", "--man=no", "--recursive-errors=no"]) else {
            println!("skipped: no unit was looked at, because there is no systemd-analyze here");
            return;
        };
        assert!(verified.status.success() && verified.stderr.is_empty(), "{verified:?}");
        let judged =
            analyze(&["security", "--offline=true", "--no-pager", "--threshold=20"]).unwrap();
        let said = String::from_utf8(judged.stdout).unwrap();
        assert!(judged.status.success(), "{said}");
        // The figure that the page has is that of one version of systemd; OK is OK in all.
        assert!(said.contains(" OK ") || said.contains(" SAFE "), "{said}");
        assert!(page.contains(&format!("| `{unit}` | ")), "{unit}");
    }
}

/// Both packages install the same files, and each of them is there.
#[test]
fn both_packages_install_the_same() {
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).unwrap();
    let metadata = &manifest["package"]["metadata"];
    let text = |value: &toml::Value| value.as_str().unwrap().trim_start_matches('/').to_owned();
    let deb: BTreeSet<_> = metadata["deb"]["assets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|asset| (text(&asset[0]), text(&asset[1]), text(&asset[2])))
        .collect();
    let rpm: BTreeSet<_> = metadata["generate-rpm"]["assets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|asset| (text(&asset["source"]), text(&asset["dest"]), text(&asset["mode"])))
        // The .deb has it by a setting of its own.
        .filter(|(source, ..)| source != "LICENSE")
        .collect();
    assert_eq!(deb, rpm);
    for (source, destination, _) in &deb {
        let source = source.split('*').next().unwrap();
        let built = source.starts_with("target/");
        assert!(built || repository().join(source).exists(), "{source}");
        assert!(!destination.contains("keys"), "no package has a seed: {destination}");
    }
    // What the operator changes is kept.
    let settings = "etc/solewriter/solewriter.toml";
    assert_eq!(text(&metadata["deb"]["conf-files"][0]), settings);
    let rpm = metadata["generate-rpm"]["assets"].as_array().unwrap();
    let kept = rpm.iter().find(|asset| text(&asset["dest"]) == settings).unwrap();
    assert_eq!(kept["config"].as_str(), Some("noreplace"));
}

/// The chart has no copy of what stands elsewhere.
#[test]
fn the_charts_files_are_links() {
    for (name, target) in [
        ("nats-server.conf", "nats-server.conf"),
        ("alerts.yaml", "prometheus/alerts.yaml"),
        ("dashboard.json", "grafana/dashboard.json"),
    ] {
        let link = repository().join("deploy/helm/solewriter/files").join(name);
        let leads = std::fs::canonicalize(&link).unwrap();
        assert!(link.is_symlink() && leads.ends_with(format!("deploy/{target}")), "{leads:?}");
    }
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/dashboard.json")).unwrap();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_i64()), "two panels have the id of {panel}");
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{panel}");
    }
}
